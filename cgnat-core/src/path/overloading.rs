//! Overloaded ports: flows to named destination ports share the external ports of their
//! subscriber (RFC 7857 section 3), where the configuration says so.
//!
//! Such a flow has a mapping of its own with its one session inside. It is in the flow index
//! only, under three keys. Always true of the flows of one shard:
//! 1. no two have the same internal and remote endpoint;
//! 2. no two have the same external endpoint and remote *address*: a port is shared towards
//!    different addresses only, so an inbound packet has at most one owner;
//! 3. no two have the same internal and external endpoint: the mapping is address and port
//!    dependent, whatever else the host sends (RFC 4787 section 4.1).
//!
//! An internal endpoint that has an endpoint-independent mapping keeps using that: peers know
//! it by it.

use crate::endpoint::{ExternalEndpoint, FlowKey, Protocol, RemoteAddress, RemoteEndpoint};
use crate::shard::Shard;
use crate::table::index::Full;
use crate::table::mapping::Mapping;
use crate::table::slab::Slab;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};

/// Overloaded ports of one block that are looked at for a new flow.
pub const TRIES: usize = 16;

/// What a flow is found by; an entry of the index is four times the slot plus this.
#[derive(Clone, Copy)]
enum By {
    /// Internal and remote endpoint.
    Outbound,
    /// External endpoint and remote address.
    Inbound,
    /// Internal and external endpoint.
    Pair,
}

const ALL: [By; 3] = [By::Outbound, By::Inbound, By::Pair];

fn entry(slot: u32, by: By) -> u32 {
    slot << 2 | by as u32
}

fn place(address: u32, port: u16) -> u64 {
    u64::from(address) << 16 | u64::from(port)
}

fn outbound_words(key: FlowKey, remote: RemoteEndpoint) -> (u64, u64) {
    (key.packed(), place(remote.address.0, remote.port) << 2 | By::Outbound as u64)
}

fn inbound_words(
    external: ExternalEndpoint,
    protocol: Protocol,
    remote: RemoteAddress,
) -> (u64, u64) {
    let external = place(external.address.0, external.port) << 8 | protocol as u64;
    (external, u64::from(remote.0) << 2 | By::Inbound as u64)
}

fn pair_words(key: FlowKey, external: ExternalEndpoint) -> (u64, u64) {
    (key.packed(), place(external.address.0, external.port) << 2 | By::Pair as u64)
}

/// The words that an entry is hashed by.
fn words_of(mappings: &Slab<Mapping>, entry: u32) -> (u64, u64) {
    let flow = &mappings[entry >> 2];
    let (key, external, remote) = (flow.key(), flow.external(), flow.first.remote());
    match entry & 3 {
        0 => outbound_words(key, remote),
        1 => inbound_words(external, key.protocol, remote.address),
        _ => pair_words(key, external),
    }
}

impl Shard {
    /// Whether flows to a destination port may have overloaded ports, in some pool.
    #[inline]
    pub(super) fn overloads(&self, protocol: Protocol, destination_port: u16) -> bool {
        self.overloading
            .as_ref()
            .is_some_and(|ports| ports.has(protocol as usize, destination_port))
    }

    /// Whether flows of a subscriber to a destination port have overloaded ports, in its pool.
    pub(super) fn is_overloaded_for(
        &self,
        subscriber: u32,
        protocol: Protocol,
        destination_port: u16,
    ) -> bool {
        let pool = usize::from(self.subscribers[subscriber].pool);
        self.space.pools()[pool].overloading.has(protocol as usize, destination_port)
    }

    /// The flow of an internal endpoint with a remote one.
    pub(super) fn find_flow(&self, key: FlowKey, remote: RemoteEndpoint) -> Option<u32> {
        let (first, second) = outbound_words(key, remote);
        let found = self.flow_index.find(self.key.hash_pair(first, second), |found| {
            found & 3 == By::Outbound as u32 && self.mappings[found >> 2].is_flow(key, remote)
        });
        found.map(|found| found >> 2)
    }

    /// The flow of an external endpoint with a remote address.
    pub(super) fn find_flow_from(
        &self,
        external: ExternalEndpoint,
        protocol: Protocol,
        remote: RemoteAddress,
    ) -> Option<u32> {
        let (first, second) = inbound_words(external, protocol, remote);
        let found = self.flow_index.find(self.key.hash_pair(first, second), |found| {
            let flow = &self.mappings[found >> 2];
            found & 3 == By::Inbound as u32
                && flow.external() == external
                && flow.is_of(protocol)
                && flow.first.remote().address == remote
        });
        found.map(|found| found >> 2)
    }

    fn has_pair(&self, key: FlowKey, external: ExternalEndpoint) -> bool {
        let (first, second) = pair_words(key, external);
        let found = self.flow_index.find(self.key.hash_pair(first, second), |found| {
            let flow = &self.mappings[found >> 2];
            found & 3 == By::Pair as u32 && flow.is_for(key) && flow.external() == external
        });
        found.is_some()
    }

    /// The mapping that a packet of an internal endpoint uses: its flow with `remote`, if that
    /// has an overloaded port, else that of the endpoint, which may have ended. A flow that has
    /// ended is met and ended.
    #[inline]
    pub(super) fn meet_internal(
        &mut self,
        key: FlowKey,
        hash: u64,
        remote: RemoteEndpoint,
        now: Tick,
    ) -> Option<u32> {
        if self.overloads(key.protocol, remote.port)
            && let Some(flow) = self.find_flow(key, remote)
        {
            let mapping = &self.mappings[flow];
            if mapping.shard != self.id || !mapping.is_expired(now) {
                return Some(flow);
            }
            self.end_mapping(flow, now);
        }
        self.mapping_index.find(hash, |slot| self.mappings[slot].is_for(key))
    }

    /// As [`Shard::meet_internal`], but only what has not ended, and without changing anything.
    pub(super) fn find_internal(
        &self,
        key: FlowKey,
        remote: RemoteEndpoint,
        now: Tick,
    ) -> Option<u32> {
        let live = |slot: &u32| !self.mappings[*slot].is_expired(now);
        if self.overloads(key.protocol, remote.port)
            && let Some(flow) = self.find_flow(key, remote).filter(live)
        {
            return Some(flow);
        }
        let hash = self.key.hash(key.packed());
        self.mapping_index.find(hash, |slot| self.mappings[slot].is_for(key)).filter(live)
    }

    /// An overloaded port of the subscriber that a new flow may share: nobody of the
    /// subscriber's has a flow from it to the same address, and the internal endpoint none at
    /// all. The work is bounded by [`TRIES`] per block.
    pub(super) fn shared_port(
        &self,
        subscriber: u32,
        key: FlowKey,
        remote: RemoteEndpoint,
        random: u32,
    ) -> Result<Option<(u32, u16)>, Verdict> {
        let record = &self.subscribers[subscriber];
        let address = self.space.address(record.pool, record.paired);
        for block in record.blocks() {
            let lease = self.leases[*block as usize].as_ref();
            // A subscriber's blocks are lent to its shard for as long as it holds them.
            let Some(lease) = lease.filter(|lease| lease.shard() == self.id) else {
                return Err(Verdict::Drop(DropReason::OwnershipViolation));
            };
            for port in lease.overloaded(key.protocol, random).take(TRIES) {
                let external = ExternalEndpoint { address, port };
                let flow = self.find_flow_from(external, key.protocol, remote.address);
                if flow.is_none() && !self.has_pair(key, external) {
                    return Ok(Some((*block, port)));
                }
            }
        }
        Ok(None)
    }

    /// Enters a new flow into the index.
    ///
    /// # Errors
    /// [`Full`]; nothing is changed.
    pub(super) fn enter_flow(&mut self, slot: u32) -> Result<(), Full> {
        let (mappings, secret) = (&self.mappings, self.key);
        let hash_of = |entry: u32| {
            let (first, second) = words_of(mappings, entry);
            secret.hash_pair(first, second)
        };
        for (count, by) in ALL.into_iter().enumerate() {
            let entry_of = |by| (hash_of(entry(slot, by)), entry(slot, by));
            let (hash, new) = entry_of(by);
            if let Err(full) = self.flow_index.insert(hash, new, hash_of) {
                for by in ALL.into_iter().take(count) {
                    let (hash, old) = entry_of(by);
                    self.flow_index.remove(hash, old);
                }
                return Err(full);
            }
        }
        Ok(())
    }

    /// Takes a flow out of the index; its record must still be what it was entered with.
    pub(super) fn leave_flow(&mut self, slot: u32) {
        for by in ALL {
            let (first, second) = words_of(&self.mappings, entry(slot, by));
            let hash = self.key.hash_pair(first, second);
            let removed = self.flow_index.remove(hash, entry(slot, by));
            debug_assert!(removed, "flow {slot} was not in the index");
        }
    }

    /// A flow has ended: says how its port ends, if it was the last there.
    pub(super) fn end_flow(&mut self, slot: u32) -> Option<bool> {
        let flow = &self.mappings[slot];
        let (block, port, closed) = (flow.block, flow.external_port, flow.all_closed());
        let protocol = flow.key().protocol;
        self.lease_mut(block).end_flow(protocol, port, closed)
    }

    /// Whether the index has a flow under each of its keys, and no other under them; for the
    /// audit.
    pub(crate) fn knows_flow(&self, slot: u32) -> bool {
        let flow = &self.mappings[slot];
        let (key, external, remote) = (flow.key(), flow.external(), flow.first.remote());
        let pairs = || {
            let (first, second) = pair_words(key, external);
            let hash = self.key.hash_pair(first, second);
            self.flow_index.find(hash, |found| found == entry(slot, By::Pair))
        };
        self.find_flow(key, remote) == Some(slot)
            && self.find_flow_from(external, key.protocol, remote.address) == Some(slot)
            && pairs().is_some()
    }

    /// Slots of the flows that have the external endpoint of this one, ascending, this one among
    /// them; for the audit.
    pub(crate) fn flows_beside(&self, slot: u32) -> Vec<u32> {
        let flow = &self.mappings[slot];
        let beside = self.mappings.iter().filter(|(_, other)| {
            other.is_overloaded()
                && other.external() == flow.external()
                && other.key().protocol == flow.key().protocol
        });
        beside.map(|(slot, _)| slot).collect()
    }

    /// Whether a mapping is the first that uses its port, so that each port counts once; for the
    /// audit.
    pub(crate) fn has_first_use(&self, slot: u32) -> bool {
        !self.mappings[slot].is_overloaded() || self.flows_beside(slot).first() == Some(&slot)
    }
}
