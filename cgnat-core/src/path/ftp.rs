//! FTP control connections of subscribers: followed from the SYN-ACK on, their commands
//! rewritten, their numbers kept in step (RFC 5382 section 9).
//!
//! The session judges by the subscriber's own numbers: outbound segments are changed behind
//! that, inbound ones before. All of it happens at the subscriber's owner, where the mapping
//! of the data connection is too.

use super::limits::CONTROL_SHARE;
use crate::endpoint::{
    ExternalEndpoint, FlowKey, InternalEndpoint, Protocol, RemoteAddress, RemoteEndpoint,
};
use crate::packet::ipv4::Header;
use crate::packet::sequence;
use crate::packet::tcp::Segment;
use crate::packet::tcp::flags::{ACK, FIN, SYN};
use crate::policy::alg::ftp::{CONTROL_PORT, Dialog};
use crate::policy::tcp_state::State;
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::table::session::hash_words;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};

/// Data connections come from this port of the server, usually (RFC 959 section 5.2); what is
/// kept for it as a lifeline counts.
const DATA_PORT: u16 = 20;

/// Before the argument of a command.
const BLANK: u8 = b' ';

impl Shard {
    /// Treats a segment from the subscriber to port 21, which the session has seen; before it
    /// is translated. `packet` may have room behind its end.
    ///
    /// # Errors
    /// If it must come again, or wait for a port block; then it is as it came.
    #[cold]
    pub(super) fn ftp_outbound(
        &mut self,
        mapping: u32,
        packet: &mut [u8],
        header: &Header,
        segment: &Segment,
        now: Tick,
        server: RemoteAddress,
    ) -> Result<(), Verdict> {
        let Some(slot) = self.find_control(mapping, server) else { return Ok(()) };
        if segment.has(SYN) {
            return Ok(());
        }
        let mut dialog = self.controls[slot].dialog;
        let was_over = dialog.is_over();
        let length = segment.length as usize;
        let has_news = length > 0 || segment.has(FIN);
        let ahead = segment.sequence.wrapping_sub(dialog.stream.next()) as i32;
        if header.is_fragment() {
            // What is in the others cannot be followed.
            if dialog.stream.is_open() {
                return Err(Verdict::Drop(DropReason::FragmentRefused));
            }
            dialog.end();
        }
        if !dialog.is_over() && ahead > 0 && has_news {
            return Err(Verdict::Drop(DropReason::AlgFtpOrder));
        }
        let payload = sequence::payload_at(packet, header);
        let is_whole = !header.is_fragment() && sequence::is_sound(packet, header);
        if dialog.is_over() {
            dialog.stream.pass_to(segment.sequence.wrapping_add(segment.length));
        } else if is_whole && length > 0 {
            let known = ahead.unsigned_abs() as usize;
            let end = payload + length;
            let news = packet.get((payload + known).min(end)..end).unwrap_or_default();
            dialog.take(news, |address, port| {
                self.stand_in(header.source, (address, port), server, now)
            })?;
        }
        self.controls[slot].dialog = dialog;
        self.gauges.ftp_ended += u64::from(dialog.is_over() && !was_over);
        let leaving = dialog.stream.leaving(segment.sequence, length);
        sequence::sequence(packet, header, leaving.sequence);
        let is_same = !leaving.has_text && leaving.head == length;
        if is_same || length == 0 || !is_whole {
            return Ok(());
        }
        // The tail moves first: the text may lie over its old place.
        let room = packet.len() - payload;
        let text = dialog.stream.text();
        let text =
            if leaving.has_text { &text[..text.len().min(room - leaving.head)] } else { &[] };
        let behind = leaving.head + text.len();
        let tail = (leaving.tail.1 - leaving.tail.0).min(room - behind);
        let from = payload + leaving.tail.0;
        packet.copy_within(from..from + tail, payload + behind);
        packet[payload + leaving.head..payload + behind].copy_from_slice(text);
        let mut left = behind + tail;
        let is_cut = leaving.tail.0 + tail < length || left == 0;
        if left == 0 {
            // All of it waits: the blank again, which the server acknowledges anew, and with it
            // what is kept here.
            let next = dialog.stream.outer(dialog.stream.next());
            sequence::sequence(packet, header, next.wrapping_sub(1));
            packet[payload] = BLANK;
            left = 1;
        }
        sequence::payload_changed(packet, header, left, is_cut);
        Ok(())
    }

    /// The external endpoint for a command that names `(address, port)`; `None` if the command
    /// stays as it is.
    ///
    /// # Errors
    /// [`Verdict::AwaitBlock`].
    fn stand_in(
        &mut self,
        subscriber: u32,
        (address, port): (u32, u16),
        server: RemoteAddress,
        now: Tick,
    ) -> Result<Option<(u32, u16)>, Verdict> {
        // Somebody else's address is a bounce, a low port not the client's (RFC 2577).
        if address != subscriber || port < 1024 {
            self.gauges.ftp_passed += 1;
            return Ok(None);
        }
        let internal = InternalEndpoint::new(address, port);
        // The server will connect from its data port.
        let remote = RemoteEndpoint { address: server, port: DATA_PORT };
        let key = self.flow_key(internal, Protocol::Tcp, remote);
        match self.expose(key, server, now) {
            Ok(external) => {
                self.gauges.ftp_replaced += 1;
                Ok(Some((external.address.0, external.port)))
            }
            Err(Verdict::Drop(reason)) => {
                self.refused(reason, key, DATA_PORT, now);
                self.gauges.ftp_passed += 1;
                Ok(None)
            }
            Err(verdict) => Err(verdict),
        }
    }

    /// Finds or makes the mapping of an internal endpoint and lets `server` connect to it.
    ///
    /// # Errors
    /// As for the first packet of a flow.
    fn expose(
        &mut self,
        key: FlowKey,
        server: RemoteAddress,
        now: Tick,
    ) -> Result<ExternalEndpoint, Verdict> {
        let hash = self.key.hash(key.packed());
        let found = self.mapping_index.find(hash, |slot| self.mappings[slot].is_for(key));
        let (slot, is_new) = match found {
            Some(slot) if self.mappings[slot].shard != self.id => {
                return Err(Verdict::Drop(DropReason::OwnershipViolation));
            }
            Some(slot) if !self.mappings[slot].is_expired(now) => (slot, false),
            expired => {
                if let Some(slot) = expired {
                    self.end_mapping(slot, now);
                }
                // Before it takes a port, which would have to rest.
                if self.sessions.is_full() {
                    return Err(Verdict::Drop(DropReason::SessionTableFull));
                }
                (
                    self.new_mapping(
                        key,
                        hash,
                        RemoteEndpoint { address: server, port: DATA_PORT },
                        now,
                    )?,
                    true,
                )
            }
        };
        let opening_s = self.timeouts.tcp_s(State::Opening);
        if let Err(reason) = self.expect(slot, server, opening_s, now) {
            if is_new {
                self.end_mapping(slot, now);
            }
            return Err(Verdict::Drop(reason));
        }
        Ok(self.mappings[slot].external())
    }

    /// Treats a segment from port 21 to a mapping: its acknowledgements are put into the
    /// subscriber's numbers, the session is moved, and what the server says is noted.
    ///
    /// # Errors
    /// As [`Shard::note_tcp`].
    #[cold]
    pub(super) fn ftp_inbound(
        &mut self,
        mapping: u32,
        packet: &mut [u8],
        header: &Header,
        mut segment: Segment,
        server: RemoteAddress,
        now: Tick,
    ) -> Result<(), DropReason> {
        let remote = RemoteEndpoint { address: server, port: CONTROL_PORT };
        // Ended ones are ended before anything is asked of them.
        let was_opening = self.state_with(mapping, remote, now) == Some(State::Opening);
        let control = self.find_control(mapping, server);
        if let Some(slot) = control
            && segment.has(ACK)
            && !segment.has(SYN)
        {
            let stream = &mut self.controls[slot].dialog.stream;
            stream.acknowledge(segment.acknowledgement);
            segment.acknowledgement = stream.inner(segment.acknowledgement);
            sequence::acknowledgement(packet, header, segment.acknowledgement);
            sequence::blocks(packet, header, |left, right| stream.inner_block(left, right));
        }
        self.note_tcp(mapping, remote, &segment, Sender::External, now)?;
        if segment.has(SYN | ACK) && was_opening {
            if self.state_with(mapping, remote, now) == Some(State::Established) {
                let server_next = segment.sequence.wrapping_add(1);
                self.follow(mapping, server, Dialog::new(segment.acknowledgement, server_next));
            }
        } else if let Some(slot) = control
            && !segment.has(SYN)
            && !header.is_fragment()
        {
            let payload = sequence::payload_at(packet, header);
            let dialog = &mut self.controls[slot].dialog;
            let was_over = dialog.is_over();
            dialog.answer(segment.sequence, &packet[payload..header.total_len]);
            self.gauges.ftp_ended += u64::from(dialog.is_over() && !was_over);
        }
        Ok(())
    }

    /// The number that the subscriber gave to what a quoted packet of its own begins with.
    #[cold]
    pub(super) fn ftp_quoted(&self, mapping: u32, server: u32, sequence: u32) -> u32 {
        let control = self.find_control(mapping, RemoteAddress(server));
        control.map_or(sequence, |slot| self.controls[slot].dialog.stream.inner(sequence))
    }

    /// State of the session that the subscriber has opened with `remote`.
    pub(super) fn state_with(
        &mut self,
        mapping: u32,
        remote: RemoteEndpoint,
        now: Tick,
    ) -> Option<State> {
        let place = self.find_session(mapping, remote, now)?;
        let peer = self.peer_at(mapping, place);
        (peer.opener() == Sender::Internal).then(|| peer.state())
    }

    fn control_hash(&self, mapping: u32, server: RemoteAddress) -> u64 {
        let (first, second) =
            hash_words(mapping, RemoteEndpoint { address: server, port: CONTROL_PORT });
        self.key.hash_pair(first, second)
    }

    fn find_control(&self, mapping: u32, server: RemoteAddress) -> Option<u32> {
        self.control_index.find(self.control_hash(mapping, server), |slot| {
            let control = &self.controls[slot];
            control.mapping == mapping && control.server == server.0
        })
    }

    /// Follows a control connection from its beginning, if there is room.
    fn follow(&mut self, mapping: u32, server: RemoteAddress, dialog: Dialog) {
        if let Some(slot) = self.find_control(mapping, server) {
            // The ports were used again before the old session ended.
            self.controls[slot].dialog = dialog;
            return;
        }
        let subscriber = self.mappings[mapping].subscriber;
        let share = self.controls_of(subscriber) < self.controls.capacity() / CONTROL_SHARE;
        let Some(slot) = share.then(|| self.controls.allocate()).flatten() else {
            self.gauges.ftp_unfollowed += 1;
            return;
        };
        let record = &mut self.controls[slot];
        (record.mapping, record.server) = (mapping, server.0);
        (record.subscriber, record.dialog) = (subscriber, dialog);
        let hash = self.control_hash(mapping, server);
        let (controls, secret) = (&self.controls, self.key);
        let hash_of = |slot: u32| {
            let (address, port) = (RemoteAddress(controls[slot].server), CONTROL_PORT);
            let (first, second) =
                hash_words(controls[slot].mapping, RemoteEndpoint { address, port });
            secret.hash_pair(first, second)
        };
        if self.control_index.insert(hash, slot, hash_of).is_err() {
            self.controls.free(slot);
            self.gauges.ftp_unfollowed += 1;
            return;
        }
        self.subscribers[subscriber].controls += 1;
        self.gauges.ftp_followed += 1;
    }

    /// Forgets a control connection whose session has ended.
    #[cold]
    pub(super) fn forget_control(&mut self, mapping: u32, server: RemoteAddress) {
        let Some(slot) = self.find_control(mapping, server) else { return };
        let removed = self.control_index.remove(self.control_hash(mapping, server), slot);
        debug_assert!(removed, "control connection {slot} was not in the index");
        let subscriber = self.controls[slot].subscriber;
        self.controls.free(slot);
        self.subscribers[subscriber].controls -= 1;
        self.gauges.ftp_followed -= 1;
    }
}
