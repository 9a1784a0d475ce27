//! Which external address a new subscriber is paired with (RFC 6888 REQ-2).
//!
//! The rule of the pool decides over all of its addresses, wherever their free blocks are: how
//! much each is used is counted over all workers. Where the chosen address has no free block
//! here but one elsewhere, the packet waits for it.

use std::cell::Cell;

use crate::endpoint::FlowKey;
use crate::policy::address_choice::{self, AddressSelection, Candidate, PoolRules};
use crate::policy::port_choice::BlockFit;
use crate::shard::{BlockWish, Shard};
use crate::table::free_blocks::below;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};

/// Addresses that are tried when other workers take the last places in between.
const TRIES: usize = 4;

impl Shard {
    /// Pairs a new subscriber with an address of a pool and takes a block of it.
    pub(super) fn pair(
        &mut self,
        key: FlowKey,
        pool: u16,
        now: Tick,
    ) -> Result<(u32, u32), Verdict> {
        let space = self.space.clone();
        let rules = &space.pools()[usize::from(pool)].rules;
        let most = rules.max_subscribers_per_address().unwrap_or(u32::MAX);
        for _ in 0..TRIES {
            let address = match rules.address_selection() {
                AddressSelection::Random => self.random_address(rules, pool, now)?,
                AddressSelection::SubscriberBits(mask) => {
                    let address = address_choice::bits_of(key.internal.address.0, mask);
                    let blocks = space.pools()[usize::from(pool)].dynamic_per_address();
                    if space.occupancy().of(pool, address).blocks >= blocks {
                        return Err(Verdict::Drop(DropReason::AddressExhausted));
                    }
                    address
                }
                selection => self.selected_address(selection, rules, pool, now)?,
            };
            if self.free[usize::from(pool)].count_at(address) == 0 {
                let wish = BlockWish { pool, address: Some(address), fit: BlockFit::Any };
                return Err(self.wait_or_refuse(wish, DropReason::AddressExhausted, now));
            }
            if !space.occupancy().join(pool, address, most) {
                // Another worker was faster; where there is no other address, that is all.
                if matches!(rules.address_selection(), AddressSelection::SubscriberBits(_)) {
                    break;
                }
                continue;
            }
            let Some(block) = self.first_block(key, pool, address) else {
                unreachable!("address {address} has a free block here, as was just seen");
            };
            if rules.address_selection() == AddressSelection::RoundRobin {
                space.occupancy().had_turn(pool, address);
            }
            return Ok((address, block));
        }
        Err(Verdict::Drop(DropReason::PoolSubscribers))
    }

    /// The better of two random addresses with a free block here; where a bound on subscribers
    /// forbids it, any that may have one more.
    fn random_address(&mut self, rules: &PoolRules, pool: u16, now: Tick) -> Result<u32, Verdict> {
        let found = self.free[usize::from(pool)].any_address(&mut self.random);
        match (found, rules.max_subscribers_per_address()) {
            (Some(address), None) => Ok(address),
            (Some(address), Some(most))
                if self.space.occupancy().of(pool, address).subscribers < most =>
            {
                Ok(address)
            }
            (None, None) => {
                let wish = BlockWish { pool, address: None, fit: BlockFit::Any };
                Err(self.wait_or_refuse(wish, DropReason::PoolExhausted, now))
            }
            (_, Some(_)) => self.selected_address(AddressSelection::Random, rules, pool, now),
        }
    }

    /// The address that a rule says, of those that have a free block somewhere and may have
    /// one more subscriber.
    fn selected_address(
        &mut self,
        selection: AddressSelection,
        rules: &PoolRules,
        pool: u16,
        now: Tick,
    ) -> Result<u32, Verdict> {
        let space = self.space.clone();
        let (geometry, occupancy) = (&space.pools()[usize::from(pool)], space.occupancy());
        let count = geometry.places().len() as u32;
        let start = match selection {
            AddressSelection::RoundRobin => occupancy.turn(pool),
            _ => below(&mut self.random, count as usize) as u32,
        };
        let most = rules.max_subscribers_per_address().unwrap_or(u32::MAX);
        let crowded = Cell::new(false);
        let candidate = |address: u32| {
            if !self.free[usize::from(pool)].is_open(address) {
                return None;
            }
            let used = occupancy.of(pool, address);
            if used.blocks >= geometry.dynamic_per_address() {
                return None;
            }
            if used.subscribers >= most {
                crowded.set(true);
                return None;
            }
            let here = self.free[usize::from(pool)].count_at(address) > 0;
            let wish = BlockWish { pool, address: Some(address), fit: BlockFit::Any };
            let may_come = here || self.may_ask(wish, now);
            may_come.then_some(Candidate { subscribers: used.subscribers, here })
        };
        address_choice::choose(selection, count, start, candidate).ok_or_else(|| {
            Verdict::Drop(match crowded.get() {
                true => DropReason::PoolSubscribers,
                false => DropReason::PoolExhausted,
            })
        })
    }
}
