//! The first packet of a flow: subscriber, port block, port, mapping.
//!
//! Whatever is missing, the packet is refused under its own reason and nothing existing is
//! touched (RFC 6888 REQ-11). What was allocated before the refusal is given back. A flow to a
//! port named in `port-overloading` shares a port that its subscriber has, if one will do.

use rand_chacha::rand_core::RngCore;

use crate::endpoint::{ExternalEndpoint, FlowKey, Protocol, Realm, RemoteEndpoint};
use crate::packet::ipv4::Transport;
use crate::policy::filtering::Filtering;
use crate::policy::tcp_state;
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::table::mapping::Behaviour;
use crate::table::subscriber::Subscriber;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};

impl Shard {
    /// Creates the mapping for `key` and returns its slot.
    ///
    /// # Errors
    /// The verdict for a packet that may not or cannot have a mapping.
    #[cold]
    pub(super) fn first_packet(
        &mut self,
        key: FlowKey,
        hash: u64,
        transport: Transport,
        remote: RemoteEndpoint,
        now: Tick,
    ) -> Result<u32, Verdict> {
        let Some(group) = self.group_of(key.internal.address.0) else {
            return Err(Verdict::Drop(DropReason::SourceNotSubscriber));
        };
        match transport {
            Transport::Tcp { segment, .. } if !tcp_state::opens(segment.flags) => {
                return Err(Verdict::Drop(DropReason::TcpNotSyn));
            }
            Transport::Query { request: false, .. } => {
                return Err(Verdict::Drop(DropReason::IcmpNoQuery));
            }
            _ => {}
        }
        if !self.lets_in(hash, key.internal.address.0) {
            return Err(Verdict::Drop(DropReason::Overload));
        }
        // Without a record for the permission no port is taken, which would have to rest.
        if self.sessions.is_full() && self.permits(key, group, remote.port) {
            return Err(Verdict::Drop(DropReason::SessionTableFull));
        }
        let slot = self.new_mapping(key, hash, remote, now)?;
        if let Transport::Tcp { segment, .. } = transport {
            let noted = self.note_tcp(slot, remote, &segment, Sender::Internal, now);
            return self.keep_or_end(slot, noted, now);
        }
        let timeout_s = self.idle_timeout_s(transport, remote);
        if self.mappings[slot].has_sessions() {
            let noted = self.note_flow(slot, remote, Sender::Internal, timeout_s, now);
            return self.keep_or_end(slot, noted, now);
        }
        let subscriber = self.mappings[slot].subscriber;
        self.session_begins(subscriber, Sender::Internal, now);
        let counted = match self.count_with(subscriber, remote.address) {
            Ok(counted) => counted,
            Err(reason) => return self.keep_or_end(slot, Err(reason), now),
        };
        let deadline = now.plus_seconds(timeout_s);
        let mapping = &mut self.mappings[slot];
        mapping.first.set_counted(counted);
        mapping.deadline = deadline.0;
        self.due.mappings.arm(slot, deadline, now);
        Ok(slot)
    }

    /// A mapping for `key`, which has none, without session and deadline: the caller gives it
    /// one or ends it. `remote` is what its first packet goes to: that says whether it is a lifeline,
    /// and whether its port is overloaded.
    ///
    /// # Errors
    /// The verdict where there is none to be had.
    pub(super) fn new_mapping(
        &mut self,
        key: FlowKey,
        hash: u64,
        remote: RemoteEndpoint,
        now: Tick,
    ) -> Result<u32, Verdict> {
        let identity = (key.internal.address.0, key.realm);
        let Some(group) = self.group_of(identity.0) else {
            return Err(Verdict::Drop(DropReason::SourceNotSubscriber));
        };
        if self.mappings.is_full() {
            return Err(Verdict::Drop(DropReason::MappingTableFull));
        }
        let mut shared = None;
        let subscriber = match self.find_subscriber(identity) {
            Some(slot) if self.subscribers[slot].shard != self.id => {
                return Err(Verdict::Drop(DropReason::OwnershipViolation));
            }
            Some(slot) => {
                if self.is_overloaded_for(slot, key.protocol, remote.port) {
                    let random = self.random.next_u32();
                    shared = self.shared_port(slot, key, remote, random)?;
                }
                let admitted = match shared {
                    Some(_) => self.admit_session(slot, remote.address, Sender::Internal, now),
                    None => self.admit_mapping(slot, key, remote, now),
                };
                admitted.map_err(Verdict::Drop)?;
                if shared.is_none() {
                    self.regain_range(slot, now)?;
                }
                slot
            }
            None => {
                // The first flow of a subscriber is within any limit; not so its first in a
                // further realm.
                if let Some(slot) = self.in_any_realm(identity.0, group) {
                    self.admit_mapping(slot, key, remote, now).map_err(Verdict::Drop)?;
                    self.admit_block(slot).map_err(Verdict::Drop)?;
                }
                self.new_subscriber(key, group, now)?
            }
        };
        let overloaded = self.is_overloaded_for(subscriber, key.protocol, remote.port);
        let Some(slot) = self.mappings.allocate() else {
            return Err(Verdict::Drop(DropReason::MappingTableFull));
        };
        let taken = match shared {
            Some(shared) => Ok(shared),
            None => self.take_port(subscriber, key, (remote.port, overloaded), slot, now),
        };
        let (block, port) = match taken {
            Ok(taken) => taken,
            Err(verdict) => {
                self.mappings.free(slot);
                return Err(verdict);
            }
        };
        let held = &self.subscribers[subscriber];
        let external =
            ExternalEndpoint { address: self.space.address(held.pool, held.paired), port };
        let behaviour = match overloaded {
            true => Behaviour::EndpointDependent,
            false => Behaviour::EndpointIndependent(
                self.space.pools()[usize::from(held.pool)].filtering[key.protocol as usize],
            ),
        };
        let owners = (block, subscriber);
        self.mappings[slot].establish(self.id, key, external, owners, (behaviour, remote));
        let entered = match overloaded {
            true => self.enter_flow(slot).is_ok(),
            false => self.enter_mapping(slot, hash),
        };
        if !entered {
            if shared.is_none() {
                self.give_back_port(block, key.protocol, port, now);
            }
            self.mappings.free(slot);
            return Err(Verdict::Drop(DropReason::MappingTableFull));
        }
        match shared {
            Some(_) => self.lease_mut(block).share(key.protocol, port),
            None if overloaded => self.lease_mut(block).overload(key.protocol, port),
            None => {}
        }
        self.count_mapping(subscriber, key.protocol, shared.is_none());
        self.block_due.disarm(block);
        Ok(slot)
    }

    /// Puts an established mapping into the index; says whether there was room.
    #[inline]
    pub(super) fn enter_mapping(&mut self, slot: u32, hash: u64) -> bool {
        let (mappings, secret) = (&self.mappings, self.key);
        let hash_of = |slot: u32| secret.hash(mappings[slot].key().packed());
        self.mapping_index.insert(hash, slot, hash_of).is_ok()
    }

    /// A port that was taken and never given to a packet need not rest.
    #[cold]
    pub(super) fn give_back_port(&mut self, block: u32, protocol: Protocol, port: u16, now: Tick) {
        self.lease_mut(block).end_port(protocol, port, None);
        self.mind_idle_block(block, now);
    }

    /// Counts a mapping; one that shares its port takes none.
    #[inline]
    pub(super) fn count_mapping(&mut self, subscriber: u32, protocol: Protocol, takes_port: bool) {
        self.subscribers[subscriber].by_protocol[protocol as usize] += u32::from(takes_port);
        self.gauges.mappings[protocol as usize] += 1;
        self.gauges.mappings_created += 1;
    }

    /// Whether the mapping of a first packet comes with a permission (ADF), which takes a record;
    /// of a new subscriber, if it gets the first pool of its list.
    fn permits(&self, key: FlowKey, group: u16, port: u16) -> bool {
        let protocol = key.protocol as usize;
        let held = self.find_subscriber((key.internal.address.0, key.realm));
        let held = held.map(|slot| self.subscribers[slot].pool);
        let Some(pool) = held.or(self.pool_in_order(group, key.realm, 0)) else { return false };
        let pool = &self.space.pools()[usize::from(pool)];
        key.protocol == Protocol::Tcp
            && pool.filtering[protocol] == Filtering::AddressDependent
            && !pool.overloading.has(protocol, port)
    }

    /// The place for a session inside the new record is free, the limits were asked and there is
    /// a record for a permission (ADF), so only an index can have found no room, or a pool further
    /// down the list asks for a permission; then the mapping ends again.
    fn keep_or_end(
        &mut self,
        slot: u32,
        noted: Result<(), DropReason>,
        now: Tick,
    ) -> Result<u32, Verdict> {
        match noted {
            Ok(()) => Ok(slot),
            Err(reason) => {
                self.end_mapping(slot, now);
                Err(Verdict::Drop(reason))
            }
        }
    }

    /// Slot of the record of an internal address in a realm.
    pub(crate) fn find_subscriber(&self, identity: (u32, Realm)) -> Option<u32> {
        let hash = self.key.hash(Subscriber::packed(identity));
        self.subscriber_index.find(hash, |slot| self.subscribers[slot].is_of(identity))
    }

    /// A new subscriber, or one that is new in this realm, with a block of the first pool of
    /// its list that can take it. What is elsewhere is waited for before the next is asked.
    pub(super) fn new_subscriber(
        &mut self,
        key: FlowKey,
        group: u16,
        now: Tick,
    ) -> Result<u32, Verdict> {
        let mut refusal = DropReason::PoolExhausted;
        let mut place = 0;
        while let Some(pool) = self.pool_in_order(group, key.realm, place) {
            match self.subscriber_of_pool(key, group, pool, now) {
                Err(Verdict::Drop(reason)) if spills(reason) => refusal = reason,
                Ok(slot) => {
                    for earlier in 0..place {
                        let full = self.pool_in_order(group, key.realm, earlier);
                        full.iter().for_each(|pool| self.space.occupancy().spill(*pool));
                    }
                    return Ok(slot);
                }
                other => return other,
            }
            place += 1;
        }
        Err(Verdict::Drop(refusal))
    }

    fn pool_in_order(&self, group: u16, realm: Realm, place: usize) -> Option<u16> {
        let pools = &self.groups[group].pools;
        pools.get(usize::from(realm.0))?.get(place).copied()
    }

    /// A new record with its own range, or else with any block; the block's address becomes its
    /// pair.
    fn subscriber_of_pool(
        &mut self,
        key: FlowKey,
        group: u16,
        pool: u16,
        now: Tick,
    ) -> Result<u32, Verdict> {
        let identity = (key.internal.address.0, key.realm);
        let bucket = self.bucket_of_new(identity.0, group, now);
        let deterministic = self.space.pools()[usize::from(pool)].is_deterministic();
        let (paired, block) = match deterministic {
            true => {
                let (paired, block) = self.own_range(pool, identity.0)?;
                self.space.occupancy().join(pool, paired, u32::MAX);
                (paired, block)
            }
            false => self.pair(key, pool, now)?,
        };
        let hash = self.key.hash(Subscriber::packed(identity));
        let slot = self.subscribers.allocate().filter(|slot| {
            let (subscribers, secret) = (&self.subscribers, self.key);
            let hash_of = |slot: u32| secret.hash(Subscriber::packed(subscribers[slot].identity()));
            let inserted = self.subscriber_index.insert(hash, *slot, hash_of).is_ok();
            if !inserted {
                self.subscribers.free(*slot);
            }
            inserted
        });
        let Some(slot) = slot else {
            if !deterministic {
                self.free[usize::from(pool)].add(paired, block);
            }
            self.space.occupancy().leave(pool, paired);
            return Err(Verdict::Drop(DropReason::SubscriberTableFull));
        };
        let record = &mut self.subscribers[slot];
        record.establish(self.id, identity, group, (pool, paired));
        record.set_bucket(bucket);
        self.gauges.subscribers += 1;
        self.hold_block(slot, block, now);
        if !deterministic {
            self.mind_low_water(pool, now);
        }
        Ok(slot)
    }

    /// Index of the external address and number of the range that belongs to a subscriber of
    /// a deterministic pool. Housekeeping lends it to the subscriber's worker at the start and
    /// never recalls it, so that it is missing or held can only be a bug.
    fn own_range(&self, pool: u16, address: u32) -> Result<(u32, u32), Verdict> {
        let geometry = &self.space.pools()[usize::from(pool)];
        let found = geometry.range_of(address).filter(|block| {
            let lease = self.leases[*block as usize].as_ref();
            lease.is_some_and(|lease| lease.shard() == self.id && lease.subscriber().is_none())
        });
        let violation = Verdict::Drop(DropReason::OwnershipViolation);
        found.map(|block| (geometry.address_of(block), block)).ok_or(violation)
    }

    /// A range that fell idle is given back while overflow blocks may live on; it comes first
    /// again before any of them is used (RFC 7422 section 2, step 3).
    fn regain_range(&mut self, subscriber: u32, now: Tick) -> Result<(), Verdict> {
        let held = &self.subscribers[subscriber];
        let (pool, address) = (held.pool, held.address);
        let geometry = &self.space.pools()[usize::from(pool)];
        let has_range = held.blocks().first().is_some_and(|block| geometry.is_range(*block));
        if geometry.is_deterministic() && !has_range {
            let (_, block) = self.own_range(pool, address)?;
            self.hold_block(subscriber, block, now);
        }
        Ok(())
    }
}

/// Whether the next pool may have what this one has not.
fn spills(reason: DropReason) -> bool {
    use DropReason::{AddressExhausted, PoolExhausted, PoolSubscribers};
    matches!(reason, PoolExhausted | AddressExhausted | PoolSubscribers)
}
