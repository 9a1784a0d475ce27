//! Packets without ports: translated by their addresses alone, for one subscriber per external
//! address, remote address and protocol (decision 15).
//!
//! A packet from a subscriber comes by its owner, which keeps a *hold*, and goes on to the
//! keeper of the tuple, which keeps the *claim* and translates. What comes back finds the
//! claim. Nothing from outside makes or prolongs either.

use arrayvec::ArrayVec;

use crate::endpoint::{
    ExternalAddress, FlowKey, InternalEndpoint, IpProtocol, Protocol, Realm, RemoteAddress,
    RemoteEndpoint,
};
use crate::packet::icmp_error::Quote;
use crate::packet::ipv4::Header;
use crate::packet::options;
use crate::packet::rewrite::{self, End, NewEndpoint};
use crate::path::session::any_port;
use crate::policy::filtering::Filtering;
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::table::association::{Association, AssociationKey, Role};
use crate::table::hash::HashKey;
use crate::table::subscriber::MAX_BLOCKS;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};

/// Where IKE sends from and to (RFC 7296 section 2).
const IKE: u16 = 500;

impl Shard {
    /// Whether an IP protocol without ports is translated.
    pub(crate) fn carries(&self, protocol: u8) -> bool {
        self.other_protocols.carries(protocol)
    }

    /// A packet from a subscriber of this shard: which external address it claims its tuple
    /// under. The packet stays as it is.
    #[cold]
    pub(super) fn outbound_portless(&mut self, header: &Header, now: Tick) -> Verdict {
        match self.hold(header, now) {
            Ok(external) => Verdict::Associate(external),
            Err(Verdict::Drop(reason)) => Verdict::Drop(self.refused_portless(reason, header, now)),
            Err(verdict) => verdict,
        }
    }

    /// The external address of the hold for a packet; makes it if there is none.
    fn hold(&mut self, header: &Header, now: Tick) -> Result<u32, Verdict> {
        if !self.carries(header.protocol) {
            return Err(Verdict::Drop(DropReason::ProtocolUnsupported));
        }
        let key = hold_key(header.source, header.destination, header.protocol);
        if IpProtocol(header.protocol) == IpProtocol::ESP
            && let Err(reason) = self.prolong_ike(header, now)
        {
            self.release_hold(header, now);
            return Err(Verdict::Drop(reason));
        }
        match self.live_association(key, now).map_err(Verdict::Drop)? {
            Some(slot) => {
                self.prolong_association(slot, now);
                Ok(self.associations[slot].other)
            }
            None => self.new_hold(key, now),
        }
    }

    fn new_hold(&mut self, key: AssociationKey, now: Tick) -> Result<u32, Verdict> {
        let Some(group) = self.group_of(key.near) else {
            return Err(Verdict::Drop(DropReason::SourceNotSubscriber));
        };
        let (first, second) = key.words();
        if !self.lets_in(self.key.hash_pair(first, second), key.near) {
            return Err(Verdict::Drop(DropReason::Overload));
        }
        let realm = self.portless_realm(key.near, key.protocol, key.remote);
        if self.associations.is_full() {
            return Err(Verdict::Drop(DropReason::AssociationTableFull));
        }
        let remote = RemoteAddress(key.remote);
        let subscriber = match self.find_subscriber((key.near, realm)) {
            Some(slot) if self.subscribers[slot].shard != self.id => {
                return Err(Verdict::Drop(DropReason::OwnershipViolation));
            }
            Some(slot) => {
                self.admit_session(slot, remote, Sender::Internal, now).map_err(Verdict::Drop)?;
                slot
            }
            None => {
                // As for the first mapping in a further realm.
                if let Some(slot) = self.in_any_realm(key.near, group) {
                    self.admit_session(slot, remote, Sender::Internal, now)
                        .map_err(Verdict::Drop)?;
                    self.admit_block(slot).map_err(Verdict::Drop)?;
                }
                self.new_subscriber(without_port(key.near, realm), group, now)?
            }
        };
        let held = &self.subscribers[subscriber];
        let external = self.space.address(held.pool, held.paired).0;
        // A block that was just taken for it is given back if this fails.
        let counted = self.count_with(subscriber, remote).map_err(Verdict::Drop)?;
        if let Err(reason) = self.new_association(key, external, subscriber, now) {
            if counted {
                self.uncount(subscriber, remote);
            }
            return Err(Verdict::Drop(reason));
        }
        self.subscribers[subscriber].associations += 1;
        self.session_begins(subscriber, Sender::Internal, now);
        Ok(external)
    }

    /// ESP is part of an IKE session: the subscriber's mapping for IKE, which it keeps alive.
    /// Where filtering depends on the remote end, that must be the gateway.
    fn prolong_ike(&mut self, header: &Header, now: Tick) -> Result<(), DropReason> {
        let internal = InternalEndpoint::new(header.source, IKE);
        let remote = RemoteEndpoint::new(header.destination, IKE);
        let key = self.flow_key(internal, Protocol::Udp, remote);
        let slot = self.find_internal(key, remote, now).ok_or(DropReason::EspWithoutIke)?;
        if self.mappings[slot].shard != self.id {
            return Err(DropReason::OwnershipViolation);
        }
        let timeout_s = self.other_protocols.timeout_s();
        if !self.mappings[slot].has_sessions() {
            self.mappings[slot].prolong(now.plus_seconds(timeout_s));
            return Ok(());
        }
        let known = match self.mappings[slot].filtering() {
            Filtering::AddressDependent => any_port(remote),
            _ => remote,
        };
        if self.find_session(slot, known, now).is_none() {
            return Err(DropReason::EspWithoutIke);
        }
        self.note_flow(slot, remote, Sender::Internal, timeout_s, now)
    }

    /// The keeper refused a packet of a subscriber of this shard: its hold ends, and is no
    /// session any more. Returns the reason, which is remembered.
    #[cold]
    pub(crate) fn claim_refused(
        &mut self,
        reason: DropReason,
        header: &Header,
        now: Tick,
    ) -> DropReason {
        self.release_hold(header, now);
        self.refused_portless(reason, header, now)
    }

    fn release_hold(&mut self, header: &Header, now: Tick) {
        let key = hold_key(header.source, header.destination, header.protocol);
        if let Some(slot) = self.find_association(key)
            && self.associations[slot].shard == self.id
        {
            self.end_association(slot, now);
        }
    }

    fn refused_portless(&mut self, reason: DropReason, header: &Header, now: Tick) -> DropReason {
        if reason.is_refusal() {
            let (source, remote) = (header.source, header.destination);
            let realm = self.portless_realm(source, header.protocol, remote);
            let limit = self.limit_behind(reason, without_port(source, realm));
            let flow = (IpProtocol(header.protocol), 0);
            self.remember_refusal(reason, header.source, flow, limit, now);
        }
        reason
    }

    /// Whether the source of a packet may claim its tuple under this external address, as far as
    /// anybody but its owner can tell.
    pub(crate) fn may_claim(&self, header: &Header, external: u32) -> bool {
        let pool = self.space.pool_of(ExternalAddress(external));
        let group = self.group_of(header.source).map(|group| &self.groups[group]);
        let (Some(pool), Some(group)) = (pool, group) else { return false };
        let realm = self.portless_realm(header.source, header.protocol, header.destination);
        group.pools[usize::from(realm.0)].contains(&pool)
    }

    /// A packet at the keeper of its tuple: claims it for the packet's source, and translates
    /// the packet in place.
    ///
    /// # Errors
    /// Why it is refused; then the packet is as it was.
    #[cold]
    pub(crate) fn claim(
        &mut self,
        packet: &mut [u8],
        header: &Header,
        external: u32,
        now: Tick,
    ) -> Result<(), DropReason> {
        let key = claim_key(external, header.destination, header.protocol);
        match self.live_association(key, now)? {
            Some(slot) if self.associations[slot].other == header.source => {
                self.prolong_association(slot, now);
            }
            Some(_) if IpProtocol(header.protocol) == IpProtocol::ESP => {
                return Err(DropReason::EspConflict);
            }
            Some(_) => return Err(DropReason::AssociationConflict),
            None => self.new_association(key, header.source, u32::MAX, now)?,
        }
        let new = NewEndpoint::between((header.source, 0), (external, 0));
        rewrite::endpoint(packet, header, End::Source, new);
        rewrite::decrement_ttl(packet);
        if header.has_options() {
            options::hide(&mut packet[..header.header_len], external);
        }
        Ok(())
    }

    /// A packet to an external address whose tuple is kept here, translated in place.
    #[cold]
    pub(super) fn inbound_portless(
        &mut self,
        packet: &mut [u8],
        header: &Header,
        hairpinned: bool,
        now: Tick,
    ) -> Verdict {
        let Some(internal) = self.claimant(header, now) else {
            return Verdict::Drop(DropReason::NoAssociation);
        };
        let new = NewEndpoint::between((header.destination, 0), (internal, 0));
        rewrite::endpoint(packet, header, End::Destination, new);
        if !hairpinned {
            rewrite::decrement_ttl(packet);
        }
        Verdict::ForwardInternal
    }

    /// Whose the tuple of an inbound packet is.
    pub(super) fn claimant(&self, header: &Header, now: Tick) -> Option<u32> {
        let key = claim_key(header.destination, header.source, header.protocol);
        let slot = self.find_association(key)?;
        let record = &self.associations[slot];
        (record.shard == self.id && !record.is_expired(now)).then_some(record.other)
    }

    /// What an error from inside, about a packet that came in, becomes of.
    #[cold]
    pub(super) fn outward_by_hold(
        &self,
        quote: &Quote,
        now: Tick,
    ) -> Result<NewEndpoint, DropReason> {
        let (internal, remote) = (quote.destination.0, quote.source.0);
        self.by_association(hold_key(internal, remote, quote.protocol), now)
    }

    /// What an error from outside, about a packet that went out, becomes of.
    #[cold]
    pub(super) fn inward_by_claim(
        &self,
        quote: &Quote,
        now: Tick,
    ) -> Result<NewEndpoint, DropReason> {
        let (external, remote) = (quote.source.0, quote.destination.0);
        self.by_association(claim_key(external, remote, quote.protocol), now)
    }

    fn by_association(&self, key: AssociationKey, now: Tick) -> Result<NewEndpoint, DropReason> {
        let found = self.find_association(key);
        let record = found.map(|slot| &self.associations[slot]);
        match record.filter(|record| !record.is_expired(now)) {
            None => Err(DropReason::IcmpNoMapping),
            Some(record) if record.shard != self.id => Err(DropReason::OwnershipViolation),
            Some(record) => Ok(NewEndpoint::between((key.near, 0), (record.other, 0))),
        }
    }

    fn find_association(&self, key: AssociationKey) -> Option<u32> {
        let (first, second) = key.words();
        let hash = self.key.hash_pair(first, second);
        self.association_index.find(hash, |slot| self.associations[slot].key() == key)
    }

    /// The slot of a live record; one that is over is ended.
    fn live_association(
        &mut self,
        key: AssociationKey,
        now: Tick,
    ) -> Result<Option<u32>, DropReason> {
        match self.find_association(key) {
            Some(slot) if self.associations[slot].shard != self.id => {
                Err(DropReason::OwnershipViolation)
            }
            Some(slot) if self.associations[slot].is_expired(now) => {
                self.end_association(slot, now);
                Ok(None)
            }
            found => Ok(found),
        }
    }

    fn prolong_association(&mut self, slot: u32, now: Tick) {
        // The word of housekeeping may be early; it is armed anew when it is proposed.
        let deadline = now.plus_seconds(self.other_protocols.timeout_s());
        self.associations[slot].deadline = deadline.0;
    }

    fn new_association(
        &mut self,
        key: AssociationKey,
        other: u32,
        subscriber: u32,
        now: Tick,
    ) -> Result<(), DropReason> {
        let slot = self.associations.allocate().ok_or(DropReason::AssociationTableFull)?;
        let (records, secret) = (&self.associations, self.key);
        let hash_of = |slot: u32| hash(secret, &records[slot]);
        let (first, second) = key.words();
        let hashed = secret.hash_pair(first, second);
        if self.association_index.insert(hashed, slot, hash_of).is_err() {
            self.associations.free(slot);
            return Err(DropReason::AssociationTableFull);
        }
        let deadline = now.plus_seconds(self.other_protocols.timeout_s());
        let record = &mut self.associations[slot];
        record.establish(self.id, key, other, subscriber);
        record.deadline = deadline.0;
        self.due.associations.arm(slot, deadline, now);
        self.gauges.associations += u64::from(key.role == Role::Claim);
        Ok(())
    }

    /// Ends a record. With the last hold of a subscriber its idle blocks may go.
    pub(super) fn end_association(&mut self, slot: u32, now: Tick) {
        let record = &self.associations[slot];
        let (key, subscriber) = (record.key(), record.subscriber);
        let removed = self.association_index.remove(hash(self.key, record), slot);
        debug_assert!(removed, "association {slot} was not in the index");
        self.due.associations.disarm(slot);
        self.associations.free(slot);
        if key.role == Role::Claim {
            self.gauges.associations -= 1;
            return;
        }
        self.subscribers[subscriber].associations -= 1;
        self.session_ends(subscriber, Sender::Internal);
        if self.limits_of(subscriber).per_destination().is_some() {
            self.uncount(subscriber, RemoteAddress(key.remote));
        }
        if self.subscribers[subscriber].associations == 0 {
            let blocks: ArrayVec<u32, MAX_BLOCKS> =
                self.subscribers[subscriber].blocks().iter().copied().collect();
            blocks.into_iter().for_each(|block| self.mind_idle_block(block, now));
        }
    }
}

fn hash(secret: HashKey, record: &Association) -> u64 {
    let (first, second) = record.key().words();
    secret.hash_pair(first, second)
}

/// A flow that takes no port, so that any block will do, as for ICMP.
fn without_port(internal: u32, realm: Realm) -> FlowKey {
    FlowKey { internal: InternalEndpoint::new(internal, 0), protocol: Protocol::Icmp, realm }
}

fn hold_key(internal: u32, remote: u32, protocol: u8) -> AssociationKey {
    AssociationKey { role: Role::Hold, near: internal, remote, protocol }
}

fn claim_key(external: u32, remote: u32, protocol: u8) -> AssociationKey {
    AssociationKey { role: Role::Claim, near: external, remote, protocol }
}
