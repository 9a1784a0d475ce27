//! Giving a port to a new mapping: which block, which port, and a further block where needed.
//!
//! A block is in use by one subscriber, so nobody else can want its ports. What the pool asks
//! of ports (RFC 4787 REQ-3a and REQ-4) is met from the subscriber's blocks, else from a
//! further one; where neither can, any free port is better than none, and is counted.

use arrayvec::ArrayVec;
use rand_chacha::rand_core::RngCore;

use crate::endpoint::{FlowKey, Protocol};
use crate::policy::port_choice::{BlockFit, PortChoice, PortWish};
use crate::shard::{BlockWish, Shard};
use crate::table::subscriber::MAX_BLOCKS;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};

/// What a port is taken for.
#[derive(Clone, Copy)]
struct Taking {
    subscriber: u32,
    key: FlowKey,
    /// Slot of the new mapping.
    mapping: u32,
    /// What the pool asks of the port.
    choice: PortChoice,
    /// The free ports that it has are kept for its lifelines, and this is none.
    kept: bool,
    random: u32,
    now: Tick,
}

impl Shard {
    /// A random free port of the subscriber's blocks that will do, its own range first (RFC
    /// 7422 section 2, step 3), then the oldest so that later ones run empty and can be
    /// released; else of a further block of its paired address. The last free ports of all
    /// blocks that it may have are for its lifelines alone.
    pub(super) fn take_port(
        &mut self,
        subscriber: u32,
        key: FlowKey,
        (destination_port, overloaded): (u16, bool),
        mapping: u32,
        now: Tick,
    ) -> Result<(u32, u16), Verdict> {
        let random = self.random.next_u32();
        let reserve =
            self.limits_of(subscriber).reserve(key.protocol as usize, destination_port).of_protocol;
        let mut kept = false;
        if reserve > 0 {
            let free = self.free_ports(subscriber, key.protocol, now)?;
            kept = (1..=reserve).contains(&free);
        }
        // A port for several flows is nobody's own: there is nothing to keep.
        let choice = match overloaded {
            true => PortChoice::default(),
            false => self.choice(self.subscribers[subscriber].pool, key),
        };
        let taking = Taking { subscriber, key, mapping, choice, kept, random, now };
        let internal = key.internal.port;
        if choice.preserves()
            && let Some(taken) =
                self.take_held(taking, BlockFit::Any, PortWish::Exactly(internal))?
        {
            return Ok(taken);
        }
        let (fit, wish) = (choice.fit(internal), choice.wish(internal));
        if let Some(taken) = self.take_held(taking, fit, wish)? {
            return Ok(taken);
        }
        let refusal = match self.further_block(taking, fit) {
            Ok(block) => {
                let port = self.take_first(taking, block);
                if fit != BlockFit::Any {
                    self.release_unused(subscriber, now);
                }
                return Ok((block, port));
            }
            Err(verdict) => verdict,
        };
        if choice.is_plain() || refusal == Verdict::AwaitBlock {
            return Err(refusal);
        }
        if let Some(taken) = self.take_held(taking, BlockFit::Any, PortWish::Any)? {
            self.gauges.choices_missed += 1;
            return Ok(taken);
        }
        if fit == BlockFit::Any {
            return Err(refusal);
        }
        let block = self.further_block(taking, BlockFit::Any)?;
        Ok((block, self.take_first(taking, block)))
    }

    /// A free block of an address for a new subscriber, one that will do if there is any.
    pub(super) fn first_block(&mut self, key: FlowKey, pool: u16, address: u32) -> Option<u32> {
        let fit = self.choice(pool, key).fit(key.internal.port);
        let block = self.free_block((pool, address), self.choice(pool, key), key, fit);
        block.or_else(|| self.free[usize::from(pool)].take_at(address, &mut self.random))
    }

    /// Gives back what turned out not to fit: the first block of a new subscriber is taken
    /// before it is known whether a better one can be had.
    fn release_unused(&mut self, subscriber: u32, now: Tick) {
        let held = self.subscribers[subscriber].blocks().iter().copied();
        let blocks: ArrayVec<u32, MAX_BLOCKS> = held.collect();
        for block in blocks {
            if self.lease_mut(block).is_idle(now) {
                self.release_block(subscriber, block);
            }
        }
    }

    /// What the pool asks of a port for `key`.
    fn choice(&self, pool: u16, key: FlowKey) -> PortChoice {
        let rules = &self.space.pools()[usize::from(pool)].rules;
        PortChoice::new(rules, key.protocol == Protocol::Icmp)
    }

    /// A port of a block that the subscriber holds.
    fn take_held(
        &mut self,
        taking: Taking,
        fit: BlockFit,
        wish: PortWish,
    ) -> Result<Option<(u32, u16)>, Verdict> {
        let Taking { subscriber, key, mapping, kept, random, now, .. } = taking;
        for block in self.subscribers[subscriber].blocks() {
            let lease = self.leases[*block as usize].as_mut();
            // A subscriber's blocks are lent to its shard for as long as it holds them.
            let Some(lease) = lease.filter(|lease| lease.shard() == self.id) else {
                return Err(Verdict::Drop(DropReason::OwnershipViolation));
            };
            if kept || !fit.fits(lease.first_port()) {
                continue;
            }
            if let Some(port) = lease.take_port(key.protocol, mapping, wish, random, now) {
                return Ok(Some((*block, port)));
            }
        }
        Ok(None)
    }

    /// A port of a block that the subscriber has just got.
    fn take_first(&mut self, taking: Taking, block: u32) -> u16 {
        let Taking { key, mapping, choice, random, now, .. } = taking;
        let internal = key.internal.port;
        let exactly = choice.preserves().then_some(PortWish::Exactly(internal));
        let wishes = exactly.into_iter().chain([choice.wish(internal), PortWish::Any]);
        for wish in wishes {
            let port = self.lease_mut(block).take_port(key.protocol, mapping, wish, random, now);
            if let Some(port) = port {
                self.gauges.choices_missed += u64::from(!choice.is_met(internal, port));
                return port;
            }
        }
        unreachable!("a block that was just taken from the free ones has free ports")
    }

    /// One more block of the paired address, if the subscriber may have it.
    fn further_block(&mut self, taking: Taking, fit: BlockFit) -> Result<u32, Verdict> {
        let Taking { subscriber, key, choice, kept, now, .. } = taking;
        let held = &self.subscribers[subscriber];
        let (pool, paired) = (held.pool, held.paired);
        let max_blocks = self.space.pools()[usize::from(pool)].max_blocks;
        let out_of_ports = |reason| if kept { DropReason::ReservedPorts } else { reason };
        let full = match held.blocks().len() >= usize::from(max_blocks) {
            true => Err(DropReason::SubscriberPorts),
            false => self.admit_block(subscriber),
        };
        full.map_err(|reason| Verdict::Drop(out_of_ports(reason)))?;
        if !self.free[usize::from(pool)].is_open(paired) {
            return Err(Verdict::Drop(out_of_ports(DropReason::AddressDraining)));
        }
        let Some(block) = self.free_block((pool, paired), choice, key, fit) else {
            let wish = BlockWish { pool, address: Some(paired), fit };
            let reason = out_of_ports(DropReason::AddressExhausted);
            return Err(self.wait_or_refuse(wish, reason, now));
        };
        self.hold_block(subscriber, block, now);
        Ok(block)
    }

    /// Free ports of `protocol` in all blocks of a subscriber.
    fn free_ports(
        &mut self,
        subscriber: u32,
        protocol: Protocol,
        now: Tick,
    ) -> Result<u32, Verdict> {
        let mut free = 0;
        for block in self.subscribers[subscriber].blocks() {
            let lease = self.leases[*block as usize].as_mut();
            let Some(lease) = lease.filter(|lease| lease.shard() == self.id) else {
                return Err(Verdict::Drop(DropReason::OwnershipViolation));
            };
            free += u32::from(lease.free_ports(protocol, now));
        }
        Ok(free)
    }

    /// A free block of an address: the one that holds the internal port where ports are
    /// preserved and it is here, else a random one that will do.
    fn free_block(
        &mut self,
        (pool, address): (u16, u32),
        choice: PortChoice,
        key: FlowKey,
        fit: BlockFit,
    ) -> Option<u32> {
        let geometry = &self.space.pools()[usize::from(pool)];
        let free = &mut self.free[usize::from(pool)];
        if choice.preserves()
            && let Some(with) = geometry.block_at(address, key.internal.port)
            && let Some(block) = free.take_where(address, &mut self.random, |b| b == with)
        {
            return Some(block);
        }
        let fits = |block: u32| fit.fits(geometry.first_port_of(block));
        free.take_where(address, &mut self.random, fits)
    }

    pub(super) fn hold_block(&mut self, subscriber: u32, block: u32, now: Tick) {
        self.lease_mut(block).hold(subscriber);
        let pool = self.subscribers[subscriber].pool;
        match self.space.pools()[usize::from(pool)].is_range(block) {
            true => self.subscribers[subscriber].add_range(block),
            false => self.subscribers[subscriber].add_block(block),
        }
        let address = self.lease_mut(block).address_index();
        self.space.occupancy().take_block(pool, address);
        self.gauges.blocks_free -= 1;
        self.gauges.blocks_in_use += 1;
        self.gauges.blocks_allocated += 1;
        // Should the mapping it is for be refused after all, the block is idle at once.
        self.block_due.arm(block, now, now);
    }

    pub(super) fn wait_or_refuse(
        &mut self,
        wish: BlockWish,
        reason: DropReason,
        now: Tick,
    ) -> Verdict {
        if self.ask_for_blocks(wish, now) { Verdict::AwaitBlock } else { Verdict::Drop(reason) }
    }

    /// Ends the use of a port: it rests (RFC 6888 REQ-8), unless the pool says otherwise.
    pub(super) fn rest_port(
        &mut self,
        subscriber: u32,
        block: u32,
        (protocol, port): (Protocol, u16),
        all_closed: bool,
        now: Tick,
    ) {
        let pool = usize::from(self.lease_mut(block).pool());
        let geometry = &self.space.pools()[pool];
        // RFC 6888 REQ-8a: TCP sessions that were followed to their end need no rest.
        let hold_s = geometry.hold_s_of(block);
        let rests = hold_s > 0 && (geometry.rules.holds_closed_tcp() || !all_closed);
        let due = now.plus_seconds(hold_s);
        let rests = rests
            && geometry.rules.max_held().is_none_or(|most| {
                let this = (due.0.wrapping_sub(now.0), block, port);
                self.make_room_to_rest(subscriber, protocol, usize::from(most), this, now)
            });
        let due = rests.then_some(due);
        self.lease_mut(block).end_port(protocol, port, due);
        self.mind_idle_block(block, now);
    }

    /// Where as many ports rest as may, the one that is due first is free early (RFC 6888
    /// REQ-8d): of several, that of the lowest block, the lowest port. Says whether `this` may
    /// rest, or is itself that one; it is (ticks that it would rest, block, port).
    fn make_room_to_rest(
        &mut self,
        subscriber: u32,
        protocol: Protocol,
        most: usize,
        this: (u32, u32, u16),
        now: Tick,
    ) -> bool {
        let mut resting = 0;
        for block in self.subscribers[subscriber].blocks() {
            let lease = self.leases[*block as usize].as_ref();
            resting += lease.map_or(0, |lease| usize::from(lease.resting(protocol)));
        }
        if resting < most {
            return true;
        }
        let mut first = this;
        for block in self.subscribers[subscriber].blocks() {
            let Some(lease) = self.leases[*block as usize].as_mut() else { continue };
            if let Some((left, port)) = lease.oldest_resting(protocol, first.0, now) {
                first = first.min((left, *block, port));
            }
        }
        let (left, block, port) = first;
        self.gauges.holds_cut += u64::from(left > 0);
        if first == this {
            return false;
        }
        self.lease_mut(block).cut_rest(protocol, port);
        self.mind_idle_block(block, now);
        true
    }
}
