//! How much each external address is used, over all workers.
//!
//! Blocks move between workers, so that none of them alone can tell which address has the
//! fewest subscribers, or room at all. Owners count here when a subscriber comes or goes and
//! when it gets or gives back a block: never for a packet of an existing mapping.
//!
//! A count may be a moment old when it is acted upon; only [`Occupancy::join`] is exact, so a
//! bound on subscribers is never passed.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Use of one address, as of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddressUse {
    /// Subscribers that are paired with it.
    pub subscribers: u32,
    /// Its blocks that subscribers hold.
    pub blocks: u32,
}

const SUBSCRIBER: u64 = 1;
const BLOCK: u64 = 1 << 32;

struct PoolUse {
    /// By address: subscribers in the low half, blocks in the high half.
    addresses: Vec<AtomicU64>,
    /// The address whose turn it is.
    turn: AtomicU32,
    /// See [`Occupancy::spilled`].
    spilled: AtomicU64,
}

/// Use of all addresses of all pools. Any worker writes.
pub struct Occupancy {
    pools: Vec<PoolUse>,
}

impl Occupancy {
    /// Nothing is used; `addresses` says how many places for addresses each pool has.
    pub(super) fn new(addresses: impl Iterator<Item = usize>) -> Self {
        let pool = |count: usize| PoolUse {
            addresses: (0..count).map(|_| AtomicU64::new(0)).collect(),
            turn: AtomicU32::new(0),
            spilled: AtomicU64::new(0),
        };
        Self { pools: addresses.map(pool).collect() }
    }

    fn word(&self, pool: u16, address: u32) -> &AtomicU64 {
        &self.pools[usize::from(pool)].addresses[address as usize]
    }

    /// Use of an address.
    pub fn of(&self, pool: u16, address: u32) -> AddressUse {
        let word = self.word(pool, address).load(Ordering::Relaxed);
        AddressUse { subscribers: word as u32, blocks: (word >> 32) as u32 }
    }

    /// A subscriber is paired with an address, unless it has `most` already.
    pub fn join(&self, pool: u16, address: u32, most: u32) -> bool {
        let word = self.word(pool, address);
        // Whoever comes too much goes again; so each of two that race for the last place sees
        // the other or does not, and never both get it.
        let before = word.fetch_add(SUBSCRIBER, Ordering::Relaxed) as u32;
        if before >= most {
            word.fetch_sub(SUBSCRIBER, Ordering::Relaxed);
        }
        before < most
    }

    /// A subscriber has left its paired address.
    pub fn leave(&self, pool: u16, address: u32) {
        self.word(pool, address).fetch_sub(SUBSCRIBER, Ordering::Relaxed);
    }

    /// A subscriber has got a block of an address.
    pub fn take_block(&self, pool: u16, address: u32) {
        self.word(pool, address).fetch_add(BLOCK, Ordering::Relaxed);
    }

    /// A subscriber has given back a block of an address.
    pub fn return_block(&self, pool: u16, address: u32) {
        self.word(pool, address).fetch_sub(BLOCK, Ordering::Relaxed);
    }

    /// A new subscriber that this pool could not take has been taken by a later one.
    pub fn spill(&self, pool: u16) {
        self.pools[usize::from(pool)].spilled.fetch_add(1, Ordering::Relaxed);
    }

    /// New subscribers that this pool could not take and a later one has taken, since start.
    pub fn spilled(&self, pool: u16) -> u64 {
        self.pools[usize::from(pool)].spilled.load(Ordering::Relaxed)
    }

    /// The address whose turn it is.
    pub fn turn(&self, pool: u16) -> u32 {
        self.pools[usize::from(pool)].turn.load(Ordering::Relaxed)
    }

    /// `address` had its turn.
    pub fn had_turn(&self, pool: u16, address: u32) {
        let pool = &self.pools[usize::from(pool)];
        let next = (address + 1) % pool.addresses.len() as u32;
        pool.turn.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_on_subscribers_is_never_passed_by_workers_that_race() {
        let occupancy = Occupancy::new([3, 2].into_iter());
        let joined: u32 = std::thread::scope(|scope| {
            let race = || (0..2_000).map(|_| u32::from(occupancy.join(1, 1, 700))).sum::<u32>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(race)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(joined, 700);
        occupancy.take_block(1, 1);
        assert_eq!(occupancy.of(1, 1), AddressUse { subscribers: 700, blocks: 1 });
        occupancy.leave(1, 1);
        occupancy.return_block(1, 1);
        assert_eq!(occupancy.of(1, 1), AddressUse { subscribers: 699, blocks: 0 });
        assert_eq!(occupancy.of(0, 1), AddressUse::default());
    }

    #[test]
    fn turns_go_round() {
        let occupancy = Occupancy::new([3].into_iter());
        assert_eq!(occupancy.turn(0), 0);
        occupancy.had_turn(0, 2);
        assert_eq!(occupancy.turn(0), 0);
        occupancy.had_turn(0, 0);
        assert_eq!(occupancy.turn(0), 1);
    }
}
