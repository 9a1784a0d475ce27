//! The owner's side of expiry: housekeeping proposes, the owner looks and frees.
//!
//! A proposal names a record by kind and slot. The owner checks that the record is in use, that it
//! is its own, and the time; so a proposal that is late, doubled or forged changes nothing, not
//! even if the slot has another user by now. A record that is not due is armed anew with its true
//! deadline.

use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::table::due::Kind;
use crate::table::port_block::BlockLease;
use crate::table::subscriber::Subscriber;
use crate::time::Tick;

/// What became of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposal {
    /// The record was due and has ended.
    Ended,
    /// It was not due; its deadline word is armed anew.
    NotDue,
    /// It named no record in use, or one of another shard; refused, counted, nothing changed.
    Stale,
}

impl Shard {
    /// Ends the record if it is due.
    pub fn propose(&mut self, kind: Kind, slot: u32, now: Tick) -> Proposal {
        let outcome = match kind {
            Kind::Mapping => self.propose_mapping(slot, now),
            Kind::Session => self.propose_session(slot, now),
            Kind::Association => self.propose_association(slot, now),
            Kind::Block => self.propose_block(slot, now),
        };
        if outcome == Proposal::Stale {
            self.gauges.stale_requests += 1;
        }
        outcome
    }

    fn propose_mapping(&mut self, slot: u32, now: Tick) -> Proposal {
        match self.mappings.used(slot) {
            Some(mapping) if mapping.shard == self.id => {}
            _ => return Proposal::Stale,
        }
        if self.mappings[slot].is_expired(now) {
            self.end_mapping(slot, now);
            return Proposal::Ended;
        }
        let mapping = &self.mappings[slot];
        let deadline = Tick(mapping.deadline);
        if now.reached(deadline) {
            // The session inside has ended, further ones keep the mapping.
            if !mapping.first.is_none() {
                self.end_first(slot);
            }
            self.due.mappings.disarm(slot);
            return Proposal::Ended;
        }
        self.due.mappings.arm(slot, deadline, now);
        Proposal::NotDue
    }

    fn propose_session(&mut self, slot: u32, now: Tick) -> Proposal {
        let (mapping, mapping_generation, deadline) = match self.sessions.used(slot) {
            Some(s) if s.shard == self.id => (s.mapping, s.mapping_generation, Tick(s.deadline)),
            _ => return Proposal::Stale,
        };
        if self.sessions[slot].permitted_by != 0 {
            return Proposal::Stale;
        }
        if !now.reached(deadline) {
            self.due.sessions.arm(slot, deadline, now);
            return Proposal::NotDue;
        }
        self.end_session(slot);
        let left = self.mappings.live(mapping, mapping_generation);
        if left.is_some_and(|mapping| mapping.is_expired(now)) {
            self.end_mapping(mapping, now);
        }
        Proposal::Ended
    }

    fn propose_association(&mut self, slot: u32, now: Tick) -> Proposal {
        let deadline = match self.associations.used(slot) {
            Some(record) if record.shard == self.id => Tick(record.deadline),
            _ => return Proposal::Stale,
        };
        if !now.reached(deadline) {
            self.due.associations.arm(slot, deadline, now);
            return Proposal::NotDue;
        }
        self.end_association(slot, now);
        Proposal::Ended
    }

    fn propose_block(&mut self, block: u32, now: Tick) -> Proposal {
        let lease = self.leases.get(block as usize).and_then(Option::as_ref);
        let Some(lease) = lease.filter(|lease| lease.shard() == self.id) else {
            return Proposal::Stale;
        };
        let Some(subscriber) = lease.subscriber() else {
            return Proposal::Stale;
        };
        if !lease.is_idle(now) {
            if lease.in_use() {
                self.block_due.disarm(block);
            } else {
                self.block_due.arm(block, lease.last_due(), now);
            }
            return Proposal::NotDue;
        }
        let holder = &self.subscribers[subscriber];
        if holder.associations > 0 && holder.blocks().len() == 1 {
            // It keeps the pairing; the last association to end arms it again.
            self.block_due.disarm(block);
            return Proposal::NotDue;
        }
        self.release_block(subscriber, block);
        Proposal::Ended
    }

    /// Takes an idle block back from its subscriber; the last one ends the subscriber.
    pub(super) fn release_block(&mut self, subscriber: u32, block: u32) {
        let lease = self.lease_mut(block);
        lease.release();
        let (pool, address) = (lease.pool(), lease.address_index());
        self.block_due.disarm(block);
        self.make_available(pool, address, block);
        self.space.occupancy().return_block(pool, address);
        self.gauges.blocks_in_use -= 1;
        self.gauges.blocks_released += 1;
        let record = &mut self.subscribers[subscriber];
        let held = record.remove_block(block);
        debug_assert!(held, "block {block} was not held by subscriber {subscriber}");
        if record.blocks().is_empty() {
            let hash = self.key.hash(Subscriber::packed(record.identity()));
            let removed = self.subscriber_index.remove(hash, subscriber);
            debug_assert!(removed, "subscriber {subscriber} was not in the index");
            let (pool, paired) = (record.pool, record.paired);
            self.subscribers.free(subscriber);
            self.space.occupancy().leave(pool, paired);
            self.gauges.subscribers -= 1;
        }
    }

    /// Ends a mapping that no session holds: its port rests (RFC 6888 REQ-8).
    pub(super) fn end_mapping(&mut self, slot: u32, now: Tick) {
        debug_assert_eq!(self.mappings[slot].holders, 0);
        if !self.mappings[slot].first.is_none() {
            self.end_first(slot);
        }
        let mapping = &self.mappings[slot];
        let (key, block, all_closed) = (mapping.key(), mapping.block, mapping.all_closed());
        let (port, subscriber) = (mapping.external_port, mapping.subscriber);
        let (strangers, has_sessions) = (u32::from(mapping.strangers), mapping.has_sessions());
        let first = mapping.first;
        // What becomes of the port; an overloaded one may have other flows.
        let port_ends = if mapping.is_overloaded() {
            self.leave_flow(slot);
            self.end_flow(slot)
        } else {
            let removed = self.mapping_index.remove(self.key.hash(key.packed()), slot);
            debug_assert!(removed, "mapping {slot} was not in the index");
            Some(all_closed)
        };
        self.due.mappings.disarm(slot);
        self.mappings.free(slot);
        self.gauges.mappings[key.protocol as usize] -= 1;
        let record = &mut self.subscribers[subscriber];
        record.by_protocol[key.protocol as usize] -= u32::from(port_ends.is_some());
        // Strangers' SYNs that outlast the mapping are nobody's.
        record.inbound_sessions -= strangers;
        if !has_sessions {
            self.session_ends(subscriber, Sender::Internal);
            self.uncount_peer(subscriber, first);
        }

        if let Some(all_closed) = port_ends {
            self.rest_port(subscriber, block, (key.protocol, port), all_closed, now);
        }
    }

    /// Arms a block that no mapping uses, so that housekeeping proposes its release.
    pub(super) fn mind_idle_block(&mut self, block: u32, now: Tick) {
        let lease = self.lease_mut(block);
        if lease.in_use() {
            return;
        }
        let due = if lease.is_idle(now) { now } else { lease.last_due() };
        self.block_due.arm(block, due, now);
    }

    /// The lease of a block that a record of this shard refers to.
    pub(super) fn lease_mut(&mut self, block: u32) -> &mut BlockLease {
        match &mut self.leases[block as usize] {
            Some(lease) => lease,
            None => unreachable!("block {block} has mappings or a subscriber, so it is lent here"),
        }
    }
}
