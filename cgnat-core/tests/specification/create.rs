//! New mappings: what the core chose must be legal, what it refused must be unavailable.

use std::collections::{BTreeMap, BTreeSet};

use cgnat_core::verdict::DropReason::{self, *};

use super::limits::Bucket;
use super::mapping::Mapping;
use super::nat::{Block, Endpoint, Key, Nat, Pool, Seen, Subscriber, Ticks};
use super::sessions::Filtering;
use super::wire::{Body, ICMP, Packet, Protocol, TCP, UDP};

/// Which address a new subscriber gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    Random,
    RoundRobin,
    LeastUsed,
    Fill,
    /// The lowest bits of the subscriber's address.
    Bits(u32),
}

/// What a pool asks of ports: to keep them, their parity, their side of 1024.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice {
    pub port: bool,
    pub parity: bool,
    pub range: bool,
}

impl Choice {
    /// Whether `external` is as good as any, apart from keeping the port.
    fn is_met(self, protocol: Protocol, internal: u16, external: u16) -> bool {
        let parity = !self.parity || internal % 2 == external % 2;
        let range = !self.range || (internal < 1024) == (external < 1024);
        protocol == ICMP || parity && range
    }
}

impl Pool {
    /// The one address that a subscriber may have.
    pub fn address_by_bits(&self, subscriber: u32) -> Option<u32> {
        let Selection::Bits(mask) = self.selection else { return None };
        self.addresses.iter().nth((subscriber & mask) as usize).copied()
    }
}

impl Nat {
    /// A new mapping, as the core chose it; or the core's refusal, if it is justified.
    pub fn create(
        &mut self,
        key: Key,
        packet: &Packet,
        now: Ticks,
        seen: &Seen,
    ) -> Result<Result<(), DropReason>, String> {
        let Some((group, limits)) = self.group_of(key.1) else {
            return Ok(Err(SourceNotSubscriber));
        };
        let port = packet.to().1;
        match packet.body {
            Body::Tcp { .. } if !packet.segment().is_some_and(|segment| segment.opens()) => {
                return Ok(Err(TcpNotSyn));
            }
            _ if packet.is_query(false) => return Ok(Err(IcmpNoQuery)),
            _ => {}
        }
        let held = self.subscribers.get(&(key.1, key.4));
        let elsewhere = self.blocks_elsewhere((key.1, key.4));
        let address = held.map(|held| held.address).or(seen.choice.map(|choice| choice.0));
        let pool_number = self.pool_for(group, key.4, address);
        let pool = &self.rules.pools[pool_number];
        let first = held.map_or(self.realms_of(group)[key.4][0], |_| pool_number);
        let first = &self.rules.pools[first];
        // A permission takes a record of its own.
        let permits = (key.0, key.3) == (TCP, None) && first.filtering[0] == Filtering::Address;
        if permits && self.in_use(seen.worker) >= self.rules.further_sessions {
            return Ok(Err(SessionTableFull));
        }
        let of_worker = || self.mappings.values().filter(|m| m.worker == seen.worker).count();
        if self.mappings.len() >= self.rules.mappings && of_worker() >= self.rules.mappings {
            return Ok(Err(MappingTableFull));
        }
        let blocks = held.map(|held| held.blocks.clone()).unwrap_or_default();
        let shared = self.shared(key, &blocks);
        let chosen = seen.choice.map(|(address, port)| (key.0, address, port));
        let shares = chosen.is_some_and(|chosen| shared.good.contains(&chosen));
        if shared.must || shares {
            if let Err(reason) = self.admit_session(key.1, packet.destination, true, now) {
                return Ok(Err(reason));
            }
            let external = chosen.ok_or("a mapping was due and none was made")?;
            if !shares {
                return Err(format!("{key:?} -> {external:?}: not shared, of {:?}", shared.good));
            }
            self.shared += 1;
            self.establish(key, external, packet.destination, seen.worker);
            return Ok(Ok(()));
        }
        if held.is_some() || elsewhere > 0 {
            let ports = self.ports_of(key.1);
            let port = limits.admit_port(&ports, key.0, port);
            if let Err(reason) =
                port.and_then(|()| self.admit_session(key.1, packet.destination, true, now))
            {
                return Ok(Err(reason));
            }
        }
        let is_full = limits.blocks.is_some_and(|most| elsewhere >= most);
        if held.is_none() && elsewhere > 0 && is_full {
            return Ok(Err(LimitBlocks));
        }
        let scarce = if held.is_some() { seen.scarce } else { seen.scarce_pools[pool_number] };
        let free = |block: &Block, wanted: &dyn Fn(u16) -> bool| {
            let size = pool.piece(block.1).map_or(0, |(_, size)| size);
            let ports = (0..size).map(|n| block.1 + n);
            ports.filter(|p| wanted(*p) && self.is_free((key.0, block.0, *p), now)).count()
        };
        // Its own range comes first, held or not; it is a block in `limits.blocks`.
        let own = pool.own.is_some().then(|| self.own[&(key.1, pool_number)]);
        let mut all = blocks.clone();
        all.extend(own);
        let all_free: usize = all.iter().map(|block| free(block, &|_| true)).sum();
        let lent = blocks.iter().filter(|block| Some(**block) != own).count();
        // The last free ports are for lifelines.
        let kept = all_free > 0 && all_free <= limits.reserve(key.0, port).1;
        // There is nothing to keep where ports are shared.
        let choice = if key.3.is_some() { Choice::default() } else { pool.choice };
        let will_do = |port: u16| choice.is_met(key.0, key.2, port);
        let is_same = |port: u16| choice.port && port == key.2;
        let has = |wanted: &dyn Fn(u16) -> bool| !kept && all.iter().any(|b| free(b, wanted) > 0);
        let (good_room, same) = (has(&will_do), has(&is_same));
        let others = elsewhere + usize::from(own.is_some());
        let allowed = limits.blocks.map(|most| most.saturating_sub(others));
        let most_blocks = allowed.map_or(pool.max_blocks, |most| most.min(pool.max_blocks));
        let limited = lent < pool.max_blocks;
        // Refusals.
        let refusal = match seen.reason {
            Some(SubscriberPorts) => Some(all_free == 0 && !limited),
            Some(LimitBlocks) => Some(all_free == 0 && lent >= most_blocks && limited),
            Some(ReservedPorts) => Some(kept && (lent >= most_blocks || scarce)),
            Some(AddressExhausted) => {
                let drains = held.is_some_and(|held| !pool.is_open(held.address));
                let room = lent < most_blocks && !drains;
                Some(held.is_some() && all_free == 0 && room && scarce)
            }
            Some(AddressDraining) => {
                let drains = held.is_some_and(|held| !pool.is_open(held.address));
                Some(drains && all_free == 0 && lent < most_blocks)
            }
            Some(PoolExhausted | PoolSubscribers) => Some(false),
            _ => None,
        };
        let refusal = match held {
            None => self.refuses_pairing(pool_number, key.1, seen).or(refusal),
            Some(_) => refusal,
        };
        if let Some(justified) = refusal {
            let reason = seen.reason.ok_or("checked")?;
            let earlier = self.passed_over(group, (key.1, key.4), None, seen);
            return if justified && (held.is_some() || earlier.is_ok()) {
                Ok(Err(reason))
            } else {
                Err(format!("{reason:?} is not justified"))
            };
        }
        // The choice.
        let (address, port) = seen.choice.ok_or("a mapping was due and none was made")?;
        let external = (key.0, address, port);
        let illegal = |why: &str| Err(format!("{key:?} -> {external:?}: {why}"));
        let Some(block) = self.block_of(address, port) else {
            return illegal("not in a pool");
        };
        if !pool.addresses.contains(&address) {
            return illegal("of another pool");
        }
        if held.is_some_and(|held| held.address != address) {
            return illegal("not the paired address");
        }
        if held.is_none()
            && let Err(why) = self.passed_over(group, (key.1, key.4), Some(pool_number), seen)
        {
            return illegal(why);
        }
        if held.is_none()
            && own.is_none()
            && let Err(why) = self.may_pair(pool_number, key.1, address)
        {
            return illegal(why);
        }
        if !self.is_free(external, now) {
            return illegal("used or resting");
        }
        if pool.is_range(port) && Some(block) != own {
            return illegal("in the range of another subscriber");
        }
        if own.is_some_and(|own| own.0 != address) {
            return illegal("not the address of its range");
        }
        if same && port != key.2 {
            return illegal("not the internal port, which is free");
        }
        if !same && !kept && own.is_some_and(|own| block != own && free(&own, &will_do) > 0) {
            return illegal("overflow, and its own range has free ports");
        }
        if !blocks.contains(&block) && Some(block) != own {
            if self.blocks.contains_key(&block) {
                return illegal("in a block of another subscriber");
            }
            if !pool.is_open(address) {
                return illegal("a block of an address that drains");
            }
            if good_room || lent >= most_blocks {
                return illegal("a further block was not called for");
            }
            if port != key.2 && free(&block, &is_same) > 0 {
                return illegal("not the internal port, which the new block has");
            }
            if !will_do(port) && free(&block, &will_do) > 0 {
                return illegal("not the best of the new block");
            }
        } else if kept {
            return illegal("a port that is kept for lifelines");
        } else if !will_do(port) && good_room {
            return illegal("of the wrong parity or range");
        }
        if !will_do(port) && lent < most_blocks {
            // Better than none, and only if there is no better block.
            let all = pool.blocks().into_iter();
            let range_only = Choice { port: false, parity: false, ..choice };
            let mut better = all.filter(|first| {
                let is_first_wrong = !range_only.is_met(key.0, key.2, *first);
                !self.blocks.contains_key(&(address, *first)) && !is_first_wrong
            });
            let better = better.next().is_some();
            let wrong_block = !range_only.is_met(key.0, key.2, port) || blocks.contains(&block);
            if better && wrong_block && seen.sole {
                return illegal("there is a better block");
            }
            if blocks.contains(&block) && !scarce && !choice.range {
                return illegal("of the wrong parity");
            }
        }
        if held.is_none() {
            self.turns.insert(pool_number, address);
        }
        self.buckets.entry(key.1).or_insert_with(|| Bucket::full(&limits, now));
        let fresh = Subscriber { address, blocks: BTreeSet::new() };
        self.subscribers.entry((key.1, key.4)).or_insert(fresh).blocks.insert(block);
        self.blocks.insert(block, key.1);
        self.resting.remove(&external);
        self.establish(key, external, packet.destination, seen.worker);
        Ok(Ok(()))
    }

    fn establish(&mut self, key: Key, external: Endpoint, to: u32, worker: u16) {
        self.external.entry(external).or_default().insert(key);
        let Some(pool) = self.pool_with(external.1) else { unreachable!("it was checked") };
        let number = [TCP, UDP, ICMP].iter().position(|protocol| *protocol == key.0);
        let mapping = Mapping {
            external,
            to,
            worker,
            filtering: match (key.3, number) {
                (Some(_), _) => Filtering::AddressAndPort,
                (None, number) => pool.filtering[number.unwrap_or(2)],
            },
            deadline: 0,
            first: None,
            further: BTreeMap::new(),
            unclosed: false,
        };
        self.mappings.insert(key, mapping);
    }

    /// Whether the core's refusal of a new subscriber is justified, if it is one of that kind.
    pub fn refuses_pairing(&self, number: usize, subscriber: u32, seen: &Seen) -> Option<bool> {
        let pool = &self.rules.pools[number];
        match seen.reason {
            Some(AddressExhausted) => {
                let full = |address: u32| self.free_blocks(pool, address) == 0;
                Some(pool.address_by_bits(subscriber).is_some_and(full))
            }
            Some(PoolExhausted) => Some(pool.own.is_none() && seen.scarce_pools[number]),
            Some(PoolSubscribers) => Some(self.is_crowded(pool, subscriber)),
            _ => None,
        }
    }

    /// A new subscriber is paired by a block and no port: any block of an address that may be.
    pub fn adopt_pairing(
        &mut self,
        pool: usize,
        subscriber: u32,
        block: Block,
    ) -> Result<(), String> {
        let illegal = |why: &str| Err(format!("{subscriber:08x} -> {block:?}: {why}"));
        match self.rules.pools[pool].own.is_some().then(|| self.own[&(subscriber, pool)]) {
            Some(own) if own != block => return illegal("not its range"),
            Some(_) => {}
            None => {
                if let Err(why) = self.may_pair(pool, subscriber, block.0) {
                    return illegal(why);
                }
                if self.blocks.contains_key(&block) {
                    return illegal("a block of another subscriber");
                }
            }
        }
        self.turns.insert(pool, block.0);
        Ok(())
    }

    /// Blocks of an address that nobody holds.
    pub fn free_blocks(&self, pool: &Pool, address: u32) -> usize {
        let all = pool.blocks().into_iter();
        all.filter(|first| !self.blocks.contains_key(&(address, *first))).count()
    }

    /// Whether no address of a pool may have this subscriber, for the bound on subscribers.
    pub fn is_crowded(&self, pool: &Pool, subscriber: u32) -> bool {
        let room = |address: &&u32| self.free_blocks(pool, **address) > 0;
        let full = |address: &u32| self.paired_with(*address) >= pool.max_subscribers;
        match pool.address_by_bits(subscriber) {
            Some(address) => full(&address),
            None => pool.addresses.iter().filter(|a| pool.is_open(**a)).filter(room).all(full),
        }
    }

    fn paired_with(&self, address: u32) -> usize {
        self.subscribers.values().filter(|other| other.address == address).count()
    }

    /// Whether a new subscriber may be paired with this address.
    fn may_pair(
        &self,
        pool_number: usize,
        subscriber: u32,
        address: u32,
    ) -> Result<(), &'static str> {
        let pool = &self.rules.pools[pool_number];
        let usable = |address: &u32| {
            self.free_blocks(pool, *address) > 0
                && self.paired_with(*address) < pool.max_subscribers
        };
        let all = || pool.addresses.iter().copied().filter(|address| pool.is_open(*address));
        let last = self.turns.get(&pool_number).copied();
        let after = |other: &u32| last.is_some_and(|last| *other > last);
        let mut in_turn = all().filter(after).chain(all());
        let right = match pool.selection {
            Selection::Random => usable(&address),
            Selection::RoundRobin => in_turn.find(usable) == Some(address),
            Selection::Fill => all().find(usable) == Some(address),
            Selection::LeastUsed => {
                let fewest = all().filter(usable).map(|other| self.paired_with(other)).min();
                usable(&address) && fewest == Some(self.paired_with(address))
            }
            Selection::Bits(mask) => all().nth((subscriber & mask) as usize) == Some(address),
        };
        if right { Ok(()) } else { Err("not the address that the rule says") }
    }

    pub fn is_free(&self, external: Endpoint, now: Ticks) -> bool {
        let excluded =
            self.pool_with(external.1).is_some_and(|pool| pool.exclude_ports.contains(&external.2));
        !excluded
            && !self.is_reserved(external.1, external.2)
            && !self.external.contains_key(&external)
            && self.resting.get(&external).is_none_or(|due| now >= *due)
    }
}

/// The keys of a pool that say which address a subscriber gets.
pub fn selection(pool: &Pool) -> String {
    let word = match pool.selection {
        Selection::Random => "random".to_owned(),
        Selection::RoundRobin => "round-robin".to_owned(),
        Selection::LeastUsed => "least-used".to_owned(),
        Selection::Fill => "fill".to_owned(),
        Selection::Bits(mask) => {
            let mask = std::net::Ipv4Addr::from(mask);
            format!("subscriber-bits\n    subscriber-bits: {mask}")
        }
    };
    let most = pool.max_subscribers;
    format!("address-selection: {word}\n    max-subscribers-per-address: {most}\n")
}
