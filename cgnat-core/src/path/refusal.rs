//! A new flow of a subscriber was refused: remembered with the number that stood in the way.

use crate::endpoint::{FlowKey, IpProtocol};
use crate::shard::Shard;
use crate::time::Tick;
use crate::verdict::DropReason;

impl Shard {
    /// Remembers why a subscriber's packet is dropped, if it is a refusal, and returns the
    /// reason. What strangers are refused is not a matter of the subscriber.
    #[cold]
    pub(super) fn refused(
        &mut self,
        reason: DropReason,
        key: FlowKey,
        destination_port: u16,
        now: Tick,
    ) -> DropReason {
        if reason.is_refusal() {
            let address = key.internal.address.0;
            let limit = self.limit_behind(reason, key);
            let flow = (key.protocol.into(), destination_port);
            self.remember_refusal(reason, address, flow, limit, now);
        }
        reason
    }

    /// Remembers a refusal of a packet of a protocol to a destination port, which is 0 where
    /// there is none, and the number that stood in the way.
    pub(super) fn remember_refusal(
        &mut self,
        reason: DropReason,
        address: u32,
        (protocol, destination_port): (IpProtocol, u16),
        limit: u32,
        now: Tick,
    ) {
        let hash = self.key.hash(u64::from(address));
        self.refusals.note(address, hash, (reason, protocol, destination_port), limit, now);
    }

    /// A limit of the group where that was met, else the size of what is full.
    pub(super) fn limit_behind(&self, reason: DropReason, key: FlowKey) -> u32 {
        let Some(group) = self.group_of(key.internal.address.0) else {
            return 0;
        };
        let group = &self.groups[group];
        let limits = &group.limits;
        // Its own pool, or of those that could not take it the last.
        let held = self.find_subscriber((key.internal.address.0, key.realm));
        let held = held.map(|slot| self.subscribers[slot].pool);
        let pools = &group.pools[usize::from(key.realm.0)];
        let Some(pool) = held.or(pools.last().copied()) else {
            return 0;
        };
        let pool = &self.space.pools()[usize::from(pool)];
        match reason {
            DropReason::LimitPorts => limits.ports(key.protocol as usize),
            DropReason::LimitSessions => limits.sessions(),
            DropReason::LimitDestination => limits.per_destination().unwrap_or(0),
            DropReason::LimitMappingSessions => limits.per_mapping(),
            DropReason::LimitSessionRate => limits.rate().map_or(0, |rate| rate.per_second()),
            DropReason::LimitBlocks => u32::from(limits.blocks()),
            DropReason::ReservedPorts => limits.reserved(),
            DropReason::SubscriberPorts => u32::from(pool.max_blocks),
            DropReason::AddressExhausted => pool.dynamic_per_address(),
            DropReason::PoolExhausted => pool.dynamic_per_address() * pool.open_addresses(),
            DropReason::MappingTableFull => self.mappings.capacity(),
            DropReason::SessionTableFull => self.sessions.capacity(),
            DropReason::SubscriberTableFull => self.subscribers.capacity(),
            DropReason::AssociationTableFull => self.associations.capacity(),
            _ => 0,
        }
    }
}
