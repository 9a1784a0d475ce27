//! Sessions of one subscriber with one remote address: counted where they are limited.
//!
//! What counts is what `limits.sessions` counts, at its remote address, in whatever realm: a TCP
//! session that the subscriber opened; a UDP or ICMP session where filtering asks who was sent
//! to, else the mapping, at the address that its first packet went to; a flow without ports. A
//! session that is counted has a bit that says so, and what has the bit is taken off when it
//! ends: nothing is forgotten or taken off twice, in whatever order sessions and mappings end.
//!
//! The cost is two look-ups per session that begins and one per session that ends, of groups that
//! have the limit; packets of a session that exists pay nothing.

use std::collections::BTreeMap;

use super::session::Place;
use crate::endpoint::RemoteAddress;
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::table::association::Role;
use crate::table::destination::Destination;
use crate::table::session::Peer;
use crate::verdict::DropReason;

impl Shard {
    fn destination(&self, internal: u32, remote: RemoteAddress) -> Option<u32> {
        let hash = self.key.hash(Destination::packed(internal, remote.0));
        self.destination_index.find(hash, |slot| self.destinations[slot].is_of(internal, remote.0))
    }

    /// Counted sessions of a subscriber with a remote address.
    pub(super) fn sessions_with(&self, subscriber: u32, remote: RemoteAddress) -> u32 {
        let internal = self.subscribers[subscriber].address;
        let found = self.destination(internal, remote);
        found.map_or(0, |slot| self.destinations[slot].sessions)
    }

    /// Counts a session that a subscriber begins, if its group limits them; says whether it did.
    ///
    /// # Errors
    /// [`DropReason::SessionTableFull`] if the index finds no place, which does not happen at
    /// the load that it is sized for; the session is refused then, or the limit would not hold.
    pub(super) fn count_with(
        &mut self,
        subscriber: u32,
        remote: RemoteAddress,
    ) -> Result<bool, DropReason> {
        if self.limits_of(subscriber).per_destination().is_none() {
            return Ok(false);
        }
        let internal = self.subscribers[subscriber].address;
        if let Some(slot) = self.destination(internal, remote) {
            self.destinations[slot].sessions += 1;
            return Ok(true);
        }
        let slot = self.destinations.allocate().ok_or(DropReason::SessionTableFull)?;
        let (destinations, secret) = (&self.destinations, self.key);
        let hash_of = |slot: u32| {
            let record = &destinations[slot];
            secret.hash(Destination::packed(record.internal, record.remote))
        };
        let hash = secret.hash(Destination::packed(internal, remote.0));
        if self.destination_index.insert(hash, slot, hash_of).is_err() {
            self.destinations.free(slot);
            return Err(DropReason::SessionTableFull);
        }
        let record = &mut self.destinations[slot];
        (record.internal, record.remote, record.sessions) = (internal, remote.0, 1);
        Ok(true)
    }

    /// Takes off a session that was counted and has ended.
    pub(super) fn uncount(&mut self, subscriber: u32, remote: RemoteAddress) {
        let internal = self.subscribers[subscriber].address;
        let Some(slot) = self.destination(internal, remote) else {
            unreachable!("a session with {} was counted", remote.0);
        };
        self.destinations[slot].sessions -= 1;
        if self.destinations[slot].sessions == 0 {
            let hash = self.key.hash(Destination::packed(internal, remote.0));
            let removed = self.destination_index.remove(hash, slot);
            debug_assert!(removed, "destination {slot} was not in the index");
            self.destinations.free(slot);
        }
    }

    /// The same, if it was counted.
    pub(super) fn uncount_peer(&mut self, subscriber: u32, peer: Peer) {
        if peer.is_counted() {
            self.uncount(subscriber, peer.remote().address);
        }
    }

    /// A session that was opened by one side is opened anew by the other. It goes on even if it
    /// cannot be counted.
    #[cold]
    pub(super) fn recount(&mut self, mapping: u32, place: Place, opener: Sender) {
        let subscriber = self.mappings[mapping].subscriber;
        let peer = *self.peer_at(mapping, place);
        self.uncount_peer(subscriber, peer);
        let counted = opener == Sender::Internal
            && self.count_with(subscriber, peer.remote().address).unwrap_or(false);
        self.peer_mut(mapping, place).set_counted(counted);
    }

    /// Compares every count with the sessions that there are; for tests, reads everything.
    ///
    /// # Errors
    /// A sentence that names the first difference.
    pub(crate) fn audit_destinations(&self) -> Result<(), String> {
        let mut due: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        let inside = self.mappings.iter().map(|(_, mapping)| {
            let counts = !mapping.has_sessions() || !mapping.first.is_none();
            (mapping.subscriber, mapping.first, counts)
        });
        let further = self.sessions.iter().filter(|(_, session)| session.permitted_by == 0);
        let further = further.filter_map(|(_, session)| {
            let mapping = self.mappings.live(session.mapping, session.mapping_generation)?;
            Some((mapping.subscriber, session.peer, true))
        });
        for (subscriber, peer, is_one) in inside.chain(further) {
            let is_limited = self.limits_of(subscriber).per_destination().is_some();
            let counts = is_one && is_limited && peer.opener() == Sender::Internal;
            if counts != peer.is_counted() {
                return Err(format!("session with {} counted: {}", peer.remote(), !counts));
            }
            if counts {
                let internal = self.subscribers[subscriber].address;
                *due.entry((internal, peer.remote().address.0)).or_default() += 1;
            }
        }
        for (_, record) in self.associations.iter() {
            let key = record.key();
            if key.role == Role::Hold
                && self.limits_of(record.subscriber).per_destination().is_some()
            {
                *due.entry((key.near, key.remote)).or_default() += 1;
            }
        }
        let counted = self.destinations.iter();
        let counted: BTreeMap<_, _> = counted
            .map(|(_, record)| ((record.internal, record.remote), record.sessions))
            .collect();
        if counted == due { Ok(()) } else { Err(format!("counted {counted:?}, not {due:?}")) }
    }
}
