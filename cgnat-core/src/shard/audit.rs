//! What must always be true across the tables of a shard, and what tests ask of it. Everything
//! here reads whole tables: it is not for the packet path.

use super::Shard;
use crate::endpoint::RemoteEndpoint;
use crate::policy::alg::ftp::CONTROL_PORT;
use crate::space::AddressUse;
use crate::table::association::Role;
use crate::table::free_blocks::FreeBlocks;
use crate::table::mapping::Mapping;
use crate::table::port_block::{BlockLease, PortUse};
use crate::table::subscriber::Subscriber;
use crate::time::Tick;

impl Shard {
    /// Use of an address by subscribers of this shard. Reads everything; for tests.
    pub fn address_use(&self, pool: u16, address: u32) -> AddressUse {
        let paired = |s: &Subscriber| s.pool == pool && s.paired == address;
        let held = |lease: &&BlockLease| {
            lease.pool() == pool && lease.address_index() == address && lease.subscriber().is_some()
        };
        AddressUse {
            subscribers: self.subscribers.iter().filter(|(_, s)| paired(s)).count() as u32,
            blocks: self.leases.iter().flatten().filter(held).count() as u32,
        }
    }

    /// Every claim as (protocol, internal, external, remote address); for tests.
    pub fn claim_list(&self) -> impl Iterator<Item = (u8, u32, u32, u32)> {
        self.associations.iter().filter_map(|(_, record)| {
            let key = record.key();
            let of = (key.protocol, record.other, key.near, key.remote);
            (key.role == Role::Claim).then_some(of)
        })
    }

    fn audit_associations(&self) -> Result<(), String> {
        let mut claims = 0;
        for (slot, record) in self.associations.iter() {
            let key = record.key();
            let name = format!("association {slot} ({key:?})");
            if record.shard != self.id {
                return Err(format!("{name} belongs to shard {}", record.shard));
            }
            if !self.due.associations.is_armed(slot as usize) {
                return Err(format!("{name} would never expire"));
            }
            claims += u64::from(key.role == Role::Claim);
        }
        if claims != self.gauges.associations {
            return Err(format!("{claims} claims, {} counted", self.gauges.associations));
        }
        for (slot, subscriber) in self.subscribers.iter() {
            let holds = self.holds_of(slot);
            if holds != subscriber.associations {
                let counted = subscriber.associations;
                return Err(format!("subscriber {slot}: {holds} holds of {counted}"));
            }
        }
        Ok(())
    }

    /// Checks what must always be true across the tables; for tests, reads everything.
    ///
    /// # Errors
    /// A sentence that names the first violation.
    pub fn audit(&self, now: Tick) -> Result<(), String> {
        let (mut used, mut ports) = (0, 0);
        for (slot, mapping) in self.mappings.iter() {
            let name = format!("mapping {slot} ({})", mapping.external());
            if mapping.shard != self.id {
                return Err(format!("{name} belongs to shard {}", mapping.shard));
            }
            let Some(lease) = &self.leases[mapping.block as usize] else {
                return Err(format!("{name}: block {} is not lent here", mapping.block));
            };
            let key = mapping.key();
            let found = lease.port_use(key.protocol, mapping.external_port);
            let due = match mapping.is_overloaded() {
                true => PortUse::Overloaded(self.flows_beside(slot).len() as u32),
                false => PortUse::Mapping(slot),
            };
            if found != due {
                return Err(format!("{name}: its port slot says {found:?}, not {due:?}"));
            }
            if lease.subscriber() != Some(mapping.subscriber) {
                return Err(format!("{name}: its block is held by {:?}", lease.subscriber()));
            }
            let hash = self.key.hash(key.packed());
            let known = match mapping.is_overloaded() {
                true => self.knows_flow(slot),
                false => self.mapping_index.find(hash, |found| found == slot) == Some(slot),
            };
            if !known {
                return Err(format!("{name} is not in the index"));
            }
            if !self.due.mappings.is_armed(slot as usize) && mapping.holders == 0 {
                return Err(format!("{name} would never expire"));
            }
            used += 1;
            ports += u64::from(self.has_first_use(slot));
        }
        let counted: u64 = self.gauges.mappings.iter().sum();
        let census = self.port_census(now);
        if used != counted || ports != census.used {
            let census = census.used;
            return Err(format!(
                "{used} mappings, {counted} counted, {ports}, {census} ports used"
            ));
        }
        let mut hanging = 0;
        for (slot, session) in self.sessions.iter() {
            let mapping = self.mappings.live(session.mapping, session.mapping_generation);
            let holds = session.peer.holds() || session.permitted_by > 0;
            if mapping.is_none() && holds {
                return Err(format!("session {slot} holds no mapping"));
            }
            let permission = session.permitted_by > 0;
            if self.due.sessions.is_armed(slot as usize) == permission {
                return Err(format!("session {slot} would never expire"));
            }
            hanging += u64::from(mapping.is_some() && !permission);
        }
        let count = |(_, m): (u32, &Mapping)| u64::from(m.holders) + u64::from(m.strangers);
        let counted: u64 = self.mappings.iter().map(count).sum();
        if hanging != counted {
            return Err(format!("{hanging} sessions hang from mappings that count {counted}"));
        }
        for (slot, control) in self.controls.iter() {
            let remote = RemoteEndpoint::new(control.server, CONTROL_PORT);
            let sessions = self.sessions.iter().filter(|(_, s)| s.mapping == control.mapping);
            let mut peers = sessions.map(|(_, s)| s.peer);
            let first = self.mappings[control.mapping].first;
            if !first.is_with(remote) && !peers.any(|peer| peer.is_with(remote)) {
                return Err(format!("control connection {slot} has no session"));
            }
        }
        if u64::from(self.controls.in_use()) != self.gauges.ftp_followed {
            return Err(format!("{} control connections", self.controls.in_use()));
        }
        self.audit_pptp()?;
        self.audit_associations()?;
        self.audit_destinations()?;
        let mut blocks = 0;
        for (slot, subscriber) in self.subscribers.iter() {
            let (by_protocol, sessions) = self.usage_of(slot);
            let counted = [subscriber.sessions, subscriber.inbound_sessions];
            if (by_protocol, sessions) != (subscriber.by_protocol, counted) {
                return Err(format!(
                    "subscriber {slot}: mappings {by_protocol:?} of {:?}, sessions {sessions:?} \
                     of {counted:?}",
                    subscriber.by_protocol
                ));
            }
            let controls = self.controls.iter().filter(|(_, c)| c.subscriber == slot).count();
            if controls != usize::from(subscriber.controls) {
                return Err(format!("subscriber {slot}: {controls} control connections"));
            }
            let pptp = self.pptp.iter().filter(|(_, c)| c.subscriber == slot).count();
            if pptp != usize::from(subscriber.pptp) {
                return Err(format!("subscriber {slot}: {pptp} PPTP connections"));
            }
            let identity = subscriber.identity();
            if self.find_subscriber(identity) != Some(slot) {
                return Err(format!("subscriber {slot} is not in the index"));
            }
            for (other, record) in self.subscribers.iter() {
                let bucket = |s: &Subscriber| (s.bucket, s.bucket_at);
                if record.identity().0 == identity.0 && bucket(record) != bucket(subscriber) {
                    return Err(format!("subscribers {slot} and {other} differ in their bucket"));
                }
            }
            for block in subscriber.blocks() {
                let holder = self.leases[*block as usize].as_ref().map(BlockLease::subscriber);
                if holder != Some(Some(slot)) {
                    return Err(format!("subscriber {slot}: block {block} is held by {holder:?}"));
                }
                let lease = self.leases[*block as usize].as_ref();
                let kept = subscriber.associations > 0;
                let is_armed = self.block_due.is_armed(*block as usize);
                if lease.is_some_and(|lease| !lease.in_use() && !is_armed && !kept) {
                    return Err(format!("block {block} is idle and would never be released"));
                }
                blocks += 1;
            }
        }
        let ranges = self.leases.iter().flatten().filter(|lease| {
            let pool = &self.space.pools()[usize::from(lease.pool())];
            lease.subscriber().is_none() && pool.is_range(lease.id())
        });
        let free = |of: &FreeBlocks| of.count() + of.count_closed();
        let free = self.free.iter().map(free).sum::<usize>() + ranges.count();
        let held = self.leases.iter().flatten().count();
        if blocks + free != held || free as u64 != self.gauges.blocks_free {
            return Err(format!("{blocks} blocks in use and {free} free, {held} lent"));
        }
        Ok(())
    }
}
