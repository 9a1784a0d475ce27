//! Where the blocks of a pool are lent to at first: pure arithmetic (decision 22).
//!
//! The range of a subscriber goes to the subscriber's worker, for good: it is never free for
//! another. Any other block goes to the worker that its address hashes to, where the card puts
//! what comes from outside; but
//!
//! - with fewer addresses than workers, and for overflow, which serves all subscribers of its
//!   address, each address is spread over all workers evenly;
//! - no worker begins with less than half of the even share: what it lacks are slices from the
//!   richest.

use crate::space::{AddressState, PoolGeometry};
use crate::worker::steering::Steering;

/// Whose the blocks of one address are at first.
#[derive(Debug, Clone)]
enum Home {
    /// Everybody's, in even parts.
    Spread,
    /// Slices in order: how many blocks, whose.
    Slices(Vec<(u32, u16)>),
}

/// Whose the blocks of one pool are at first.
pub(super) struct Homes<'a> {
    pool: &'a PoolGeometry,
    steering: Steering,
    /// By index of the address.
    homes: Vec<Home>,
}

impl<'a> Homes<'a> {
    pub(super) fn new(pool: &'a PoolGeometry, steering: Steering) -> Self {
        let is_spread =
            pool.is_deterministic() || pool.open_addresses() < u32::from(steering.workers());
        let homes = if is_spread {
            vec![Home::Spread; pool.places().len()]
        } else {
            by_address(pool, steering)
        };
        Self { pool, steering, homes }
    }

    /// The worker that gets a block at first.
    pub(super) fn of(&self, block: u32) -> u16 {
        if let Some(subscriber) = self.pool.subscriber_of(block) {
            return self.steering.owner_of(subscriber);
        }
        // A range that is nobody's has no lease, so the block is one of these.
        let nth = self.pool.dynamic_nth(block).unwrap_or(0);
        match &self.homes[self.pool.address_of(block) as usize] {
            Home::Spread => {
                let workers = u32::from(self.steering.workers());
                (nth * workers / self.pool.dynamic_per_address().max(1)) as u16
            }
            Home::Slices(slices) => {
                let mut end = 0;
                let slice = slices.iter().find(|(count, _)| {
                    end += count;
                    nth < end
                });
                slice.map_or(0, |(_, worker)| *worker)
            }
        }
    }
}

/// Each address at its owner, with slices for workers that would have too little.
fn by_address(pool: &PoolGeometry, steering: Steering) -> Vec<Home> {
    let per_address = pool.dynamic_per_address();
    let mut slices: Vec<Vec<(u32, u16)>> = Vec::new();
    let mut open: Vec<bool> = Vec::new();
    let mut shares = vec![0u32; usize::from(steering.workers())];
    for place in pool.places() {
        let owner = steering.owner_of(place.address.0);
        let is_open = place.state == AddressState::Open;
        if is_open {
            shares[usize::from(owner)] += per_address;
        }
        open.push(is_open);
        slices.push(vec![(per_address, owner)]);
    }
    let even = shares.iter().sum::<u32>() / shares.len() as u32;
    for poor in 0..shares.len() {
        // From the last address on, each at most once: bounded by the addresses.
        for address in (0..slices.len()).rev() {
            let lacking = (even / 2).saturating_sub(shares[poor]);
            if lacking == 0 {
                break;
            }
            let (count, owner) = slices[address][0];
            let spare = shares[usize::from(owner)].saturating_sub(even);
            let taken = lacking.min(spare).min(count);
            if !open[address] || taken == 0 {
                continue;
            }
            slices[address][0].0 -= taken;
            slices[address].push((taken, poor as u16));
            shares[usize::from(owner)] -= taken;
            shares[poor] += taken;
        }
    }
    slices.into_iter().map(Home::Slices).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::space::ExternalSpace;

    fn shares(addresses: &str, workers: u16) -> (Vec<u32>, u32) {
        let yaml = format!(
            "version: 1
ports:
  i: {{ side: internal, device: net_null0, addresses: [10.255.0.2/30], next-hop: 10.255.0.1 }}
  e: {{ side: external, device: net_null1, addresses: [192.0.2.2/30], next-hop: 192.0.2.1 }}
pools: {{ main: {{ addresses: [{addresses}], allocation: {{ block-size: 512 }} }} }}
subscribers: [{{ name: all, match: [100.64.0.0/10], pool: main }}]
"
        );
        let config = Config::from_yaml("homes.yaml", &yaml).expect("a good configuration");
        let space = ExternalSpace::new(&config);
        let (pool, steering) = (&space.pools()[0], Steering::new(workers));
        let homes = Homes::new(pool, steering);
        let (mut shares, mut away) = (vec![0; usize::from(workers)], 0);
        for block in pool.numbers().filter(|block| pool.is_lendable(*block)) {
            let worker = homes.of(block);
            shares[usize::from(worker)] += 1;
            let address = pool.places()[pool.address_of(block) as usize].address.0;
            away += u32::from(worker != steering.owner_of(address));
        }
        (shares, away)
    }

    #[test]
    fn a_large_pool_lies_where_its_addresses_hash_to() {
        for workers in 1..=8 {
            assert_eq!(shares("203.0.113.0/24", workers).1, 0, "{workers} workers");
        }
        // Aligned runs of a power of two are even by themselves.
        assert_eq!(shares("203.0.113.8/29", 8).1, 0);
        assert_eq!(shares("203.0.113.4/30", 4).1, 0);
    }

    #[test]
    fn nobody_begins_with_less_than_half_of_the_even_share() {
        let mut has_helped = false;
        for workers in 2..=8u32 {
            for last in 0..40 {
                let (shares, away) =
                    shares(&format!("203.0.113.0-203.0.113.{last}"), workers as u16);
                let even = shares.iter().sum::<u32>() / workers;
                // Parts of one address differ by a block.
                let least = if last + 1 < workers { even - last - 1 } else { even / 2 };
                assert!(shares.iter().all(|share| *share >= least), "{workers} {last}: {shares:?}");
                has_helped |= last + 1 >= workers && away > 0;
            }
        }
        assert!(has_helped, "some of these pools leave a worker poor");
    }
}
