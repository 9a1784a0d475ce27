//! PPTP of subscribers: control connections are followed from the SYN-ACK on, their call
//! identifiers replaced, and GRE goes by these (decision 20).
//!
//! The server gets the external port of the control connection as the client's identifier. So
//! the owner of (external address, identifier) is found as for a port, and all of it happens at
//! the subscriber's owner. GRE makes and prolongs nothing; it passes while there is a call.

use super::limits::CONTROL_SHARE;
use crate::endpoint::{ExternalEndpoint, Protocol, RemoteAddress, RemoteEndpoint};
use crate::packet::icmp_error::Quote;
use crate::packet::ipv4::{self, Header};
use crate::packet::rewrite::{self, End, NewEndpoint};
use crate::packet::tcp::Segment;
use crate::packet::tcp::flags::{ACK, FIN, SYN};
use crate::packet::{gre, options, sequence};
use crate::policy::alg::pptp::{CONTROL_PORT, Dialog};
use crate::policy::tcp_state::State;
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::table::hash::HashKey;
use crate::table::pptp_connection::{By, ConnectionKey, PptpConnection};
use crate::table::slab::Slab;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};

impl Shard {
    /// Treats a segment from the subscriber to port 1723, which the session has seen; before it
    /// is translated.
    ///
    /// # Errors
    /// If it must come again; then it is as it came.
    #[cold]
    pub(super) fn pptp_outbound(
        &mut self,
        mapping: u32,
        packet: &mut [u8],
        header: &Header,
        segment: &Segment,
        server: RemoteAddress,
    ) -> Result<(), DropReason> {
        if segment.has(SYN) {
            return Ok(());
        }
        match self.find_connection(segment_key(mapping, server)) {
            Some(slot) => self.pptp_segment(slot, Sender::Internal, packet, header, segment),
            None => Ok(()),
        }
    }

    /// Treats a segment from port 1723 to a mapping, and moves the session.
    ///
    /// # Errors
    /// As [`Shard::note_tcp`], or if it must come again.
    #[cold]
    pub(super) fn pptp_inbound(
        &mut self,
        mapping: u32,
        packet: &mut [u8],
        header: &Header,
        segment: Segment,
        server: RemoteAddress,
        now: Tick,
    ) -> Result<(), DropReason> {
        let remote = RemoteEndpoint { address: server, port: CONTROL_PORT };
        // Ended ones are ended before anything is asked of them.
        let was_opening = self.state_with(mapping, remote, now) == Some(State::Opening);
        self.note_tcp(mapping, remote, &segment, Sender::External, now)?;
        if segment.has(SYN | ACK) && was_opening {
            if self.state_with(mapping, remote, now) == Some(State::Established) {
                let next = (segment.acknowledgement, segment.sequence.wrapping_add(1));
                self.follow_pptp(mapping, server, next);
            }
            return Ok(());
        }
        match self.find_connection(segment_key(mapping, server)) {
            Some(slot) if !segment.has(SYN) => {
                self.pptp_segment(slot, Sender::External, packet, header, &segment)
            }
            _ => Ok(()),
        }
    }

    /// A segment of a connection that is followed: what is new in it is taken, and identifiers
    /// in it are replaced, new or not.
    fn pptp_segment(
        &mut self,
        slot: u32,
        from: Sender,
        packet: &mut [u8],
        header: &Header,
        segment: &Segment,
    ) -> Result<(), DropReason> {
        let mut dialog = self.pptp[slot].dialog;
        if segment.has(ACK) {
            dialog.acknowledge(from, segment.acknowledgement);
        }
        let length = segment.length as usize;
        let ahead = dialog.ahead(from, segment.sequence);
        let has_news = length > 0 || segment.has(FIN);
        if header.is_fragment() {
            // What is in the others can be neither followed nor replaced.
            if !dialog.is_settled(from) {
                return Err(DropReason::FragmentRefused);
            }
            dialog.end();
        }
        if !dialog.is_over() && ahead > 0 && has_news {
            return Err(DropReason::AlgPptpOrder);
        }
        let payload = sequence::payload_at(packet, header);
        if !dialog.is_over() && length > 0 && sequence::is_sound(packet, header) {
            let known = ahead.unsigned_abs() as usize;
            let news = packet.get(payload + known.min(length)..payload + length);
            self.gauges.pptp_passed += dialog.take(from, news.unwrap_or_default());
        }
        self.note_dialog(slot, dialog);
        if !header.is_fragment() {
            for (at, byte) in dialog.replaced(from, segment.sequence, length) {
                sequence::payload_byte(packet, header, payload + at, byte);
            }
        }
        Ok(())
    }

    /// Stores what a dialog has become, and finds its call by the right keys.
    fn note_dialog(&mut self, slot: u32, dialog: Dialog) {
        let before = self.pptp[slot].dialog;
        self.gauges.pptp_ended += u64::from(dialog.is_over() && !before.is_over());
        if dialog.call() == before.call() {
            self.pptp[slot].dialog = dialog;
            return;
        }
        self.leave_call(slot);
        self.pptp[slot].dialog = dialog;
        if self.enter_call(slot).is_none() {
            self.pptp[slot].dialog.end();
            self.gauges.pptp_ended += 1;
        }
    }

    /// Enters the keys of a live call into the index; `None` if there is no room for all.
    ///
    /// An identifier that a subscriber or a server gives again with the same peer is the new
    /// call's: the old one is gone there. One that a server gives to two subscribers, though it
    /// must not (RFC 2637 section 2.8), stays the first one's for errors.
    fn enter_call(&mut self, slot: u32) -> Option<()> {
        for by in [By::Outbound, By::Inner] {
            let key = self.pptp[slot].key(by);
            if let Some(old) = key.and_then(|key| self.find_connection(key)) {
                self.leave_call(old);
                self.pptp[old].dialog.end();
                self.gauges.pptp_ended += 1;
            }
        }
        self.pptp[slot].is_outer = 1;
        let Some(outer) = self.pptp[slot].key(By::Outer) else { return Some(()) };
        self.pptp[slot].is_outer = u8::from(self.find_connection(outer).is_none());
        for (count, by) in By::OF_CALLS.into_iter().enumerate() {
            if self.enter(slot, by).is_none() {
                By::OF_CALLS.into_iter().take(count).for_each(|by| self.leave(slot, by));
                return None;
            }
        }
        self.gauges.pptp_calls += 1;
        Some(())
    }

    /// Takes the keys of a call, if there is one, out of the index.
    fn leave_call(&mut self, slot: u32) {
        if self.pptp[slot].dialog.call().is_some() {
            By::OF_CALLS.into_iter().for_each(|by| self.leave(slot, by));
            self.gauges.pptp_calls -= 1;
        }
    }

    /// Enters the key of one kind, if the connection has it; `None` if there is no room.
    fn enter(&mut self, slot: u32, by: By) -> Option<()> {
        if self.pptp[slot].key(by).is_none() {
            return Some(());
        }
        let (connections, secret) = (&self.pptp, self.key);
        let hash_of = |entry: u32| hash_of_entry(connections, secret, entry);
        let entry = entry(slot, by);
        self.pptp_index.insert(hash_of(entry), entry, hash_of).ok()
    }

    fn leave(&mut self, slot: u32, by: By) {
        if self.pptp[slot].key(by).is_none() {
            return;
        }
        let entry = entry(slot, by);
        let hash = hash_of_entry(&self.pptp, self.key, entry);
        let removed = self.pptp_index.remove(hash, entry);
        debug_assert!(removed, "control connection {slot} was not in the index by {by:?}");
    }

    fn find_connection(&self, key: ConnectionKey) -> Option<u32> {
        let (first, second) = key.words();
        let found = self.pptp_index.find(self.key.hash_pair(first, second), |entry| {
            By::of_entry(entry) == key.by && self.pptp[entry >> 2].key(key.by) == Some(key)
        });
        found.map(|entry| entry >> 2)
    }

    /// Follows a control connection from its beginning, if there is room.
    fn follow_pptp(&mut self, mapping: u32, server: RemoteAddress, next: (u32, u32)) {
        let record = &self.mappings[mapping];
        let subscriber = record.subscriber;
        let (internal, external) = (record.internal_address, record.external_address);
        let dialog = Dialog::new(next, record.external_port);
        if let Some(slot) = self.find_connection(segment_key(mapping, server)) {
            // The ports were used again before the old session ended.
            self.leave_call(slot);
            self.pptp[slot].dialog = dialog;
            return;
        }
        let share = self.pptp_of(subscriber) < self.pptp.capacity() / CONTROL_SHARE;
        let Some(slot) = share.then(|| self.pptp.allocate()).flatten() else {
            self.gauges.pptp_unfollowed += 1;
            return;
        };
        let connection = &mut self.pptp[slot];
        (connection.mapping, connection.server) = (mapping, server.0);
        (connection.internal, connection.external) = (internal, external);
        (connection.subscriber, connection.dialog) = (subscriber, dialog);
        if self.enter(slot, By::Segment).is_none() {
            self.pptp.free(slot);
            self.gauges.pptp_unfollowed += 1;
            return;
        }
        self.subscribers[subscriber].pptp += 1;
        self.gauges.pptp_followed += 1;
    }

    /// Forgets a control connection whose session has ended, and its call with it.
    #[cold]
    pub(super) fn forget_pptp(&mut self, mapping: u32, server: RemoteAddress) {
        let Some(slot) = self.find_connection(segment_key(mapping, server)) else { return };
        self.leave_call(slot);
        self.leave(slot, By::Segment);
        let subscriber = self.pptp[slot].subscriber;
        self.pptp.free(slot);
        self.subscribers[subscriber].pptp -= 1;
        self.gauges.pptp_followed -= 1;
    }

    /// The connection of a live call.
    fn live_call(&self, key: ConnectionKey, now: Tick) -> Result<&PptpConnection, DropReason> {
        let slot = self.find_connection(key).ok_or(DropReason::PptpNoCall)?;
        let connection = &self.pptp[slot];
        if self.mappings[connection.mapping].shard != self.id {
            return Err(DropReason::OwnershipViolation);
        }
        let remote = RemoteEndpoint::new(connection.server, CONTROL_PORT);
        let lives = connection.dialog.call().is_some()
            && self.is_live_with(connection.mapping, remote, now);
        if lives { Ok(connection) } else { Err(DropReason::PptpNoCall) }
    }

    /// Translates GRE of a subscriber of this shard in place: to the call `id` of a server. It
    /// always leaves with an identification of this shard's, which tells whose an error about it
    /// is; `identification` is that of its datagram, of a fragment behind the first.
    ///
    /// # Errors
    /// Without such a call; then it is as it was.
    #[cold]
    pub(super) fn outbound_call(
        &mut self,
        packet: &mut [u8],
        header: &Header,
        id: u16,
        identification: Option<u16>,
        now: Tick,
    ) -> Result<(), DropReason> {
        let key =
            ConnectionKey { by: By::Outbound, near: header.source, server: header.destination, id };
        let external = self.live_call(key, now)?.external;
        let new = NewEndpoint::between((header.source, 0), (external, 0));
        rewrite::endpoint(packet, header, End::Source, new);
        rewrite::decrement_ttl(packet);
        match identification {
            Some(identification) => rewrite::identification(packet, identification),
            None => self.renumber(packet, header, now),
        }
        if header.has_options() {
            options::hide(&mut packet[..header.header_len], external);
        }
        Ok(())
    }

    /// Translates GRE of a server to the call that an external endpoint of this shard stands for.
    #[cold]
    pub(super) fn inbound_call(
        &mut self,
        packet: &mut [u8],
        header: &Header,
        id: u16,
        hairpinned: bool,
        now: Tick,
    ) -> Verdict {
        let (internal, client) = match self.callee(header, id, now) {
            Ok(callee) => callee,
            Err(reason) => return Verdict::Drop(reason),
        };
        let new = NewEndpoint::between((header.destination, 0), (internal, 0));
        rewrite::endpoint(packet, header, End::Destination, new);
        if header.offset == 0 {
            gre::set_call(&mut packet[header.header_len..], client);
        }
        if !hairpinned {
            rewrite::decrement_ttl(packet);
        }
        Verdict::ForwardInternal
    }

    /// Internal address and identifier of the client that GRE of a server is for.
    pub(super) fn callee(
        &self,
        header: &Header,
        id: u16,
        now: Tick,
    ) -> Result<(u32, u16), DropReason> {
        let external = ExternalEndpoint::new(header.destination, id);
        let server = RemoteAddress(header.source);
        let mapping = self.find_external(external, Protocol::Tcp, server).map_err(without_call)?;
        let connection = self.live_call(segment_key(mapping, server), now)?;
        let call = connection.dialog.call().ok_or(DropReason::PptpNoCall)?;
        Ok((connection.internal, call.client))
    }

    /// What an error from inside, about GRE of a server to call `id`, becomes of.
    #[cold]
    pub(super) fn outward_by_call(
        &self,
        quote: &Quote,
        id: u16,
        now: Tick,
    ) -> Result<NewEndpoint, DropReason> {
        let (internal, server) = (quote.destination.0, quote.source.0);
        let key = ConnectionKey { by: By::Inner, near: internal, server, id };
        let connection = self.live_call(key, now).map_err(without_flow)?;
        let external = self.mappings[connection.mapping].external();
        Ok(NewEndpoint::between((internal, id), (external.address.0, external.port)))
    }

    /// What an error from outside, about GRE that left for call `id` of a server, becomes of.
    #[cold]
    pub(super) fn inward_by_call(
        &self,
        quote: &Quote,
        id: u16,
        now: Tick,
    ) -> Result<NewEndpoint, DropReason> {
        let (external, server) = (quote.source.0, quote.destination.0);
        let key = ConnectionKey { by: By::Outer, near: external, server, id };
        let connection = self.live_call(key, now).map_err(without_flow)?;
        Ok(NewEndpoint::between((external, 0), (connection.internal, 0)))
    }

    /// Whether each control connection that is followed has a session and can be found; for the
    /// audit.
    pub(crate) fn audit_pptp(&self) -> Result<(), String> {
        let mut calls = 0;
        for (slot, connection) in self.pptp.iter() {
            let name = format!("PPTP connection {slot}");
            let remote = RemoteEndpoint::new(connection.server, CONTROL_PORT);
            let sessions = self.sessions.iter().filter(|(_, s)| s.mapping == connection.mapping);
            let mut peers = sessions.map(|(_, s)| s.peer);
            let mapping = &self.mappings[connection.mapping];
            if !mapping.first.is_with(remote) && !peers.any(|peer| peer.is_with(remote)) {
                return Err(format!("{name} has no session"));
            }
            let ends = (connection.internal, connection.external);
            if ends != (mapping.internal_address, mapping.external_address) {
                return Err(format!("{name} has other addresses than its mapping"));
            }
            for by in [By::Segment].into_iter().chain(By::OF_CALLS) {
                let Some(key) = connection.key(by) else { continue };
                if self.find_connection(key) != Some(slot) {
                    return Err(format!("{name} is not in the index by {by:?}"));
                }
            }
            calls += u64::from(connection.dialog.call().is_some());
        }
        let counted = (self.gauges.pptp_followed, self.gauges.pptp_calls);
        if (u64::from(self.pptp.in_use()), calls) != counted {
            return Err(format!("{} PPTP connections, {calls} calls", self.pptp.in_use()));
        }
        Ok(())
    }
}

fn entry(slot: u32, by: By) -> u32 {
    slot << 2 | by as u32
}

fn hash_of_entry(connections: &Slab<PptpConnection>, secret: HashKey, entry: u32) -> u64 {
    let key = connections[entry >> 2].key(By::of_entry(entry));
    let Some(key) = key else {
        unreachable!("only a live call is in the index by its identifiers")
    };
    let (first, second) = key.words();
    secret.hash_pair(first, second)
}

fn segment_key(mapping: u32, server: RemoteAddress) -> ConnectionKey {
    ConnectionKey { by: By::Segment, near: mapping, server: server.0, id: 0 }
}

/// Why GRE has no call, where its identifier is no mapped port.
fn without_call(reason: DropReason) -> DropReason {
    match reason {
        DropReason::OwnershipViolation => reason,
        _ => DropReason::PptpNoCall,
    }
}

/// Why an error about GRE goes nowhere.
fn without_flow(reason: DropReason) -> DropReason {
    match reason {
        DropReason::OwnershipViolation => reason,
        _ => DropReason::IcmpNoMapping,
    }
}

/// The call that a fragment behind the first belongs to, by what the first said; `None` if its
/// datagram goes by addresses alone.
pub(super) fn call_of((source, id): (u16, u16)) -> Option<u16> {
    (source == ipv4::CALL).then_some(id)
}
