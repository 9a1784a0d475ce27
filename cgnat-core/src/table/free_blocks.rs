//! The free port blocks of one pool that a shard (or housekeeping) has at hand.
//!
//! Blocks are kept per external address, because a subscriber's blocks all come from its
//! paired address. Taking is random: which address and block a new subscriber gets cannot
//! be guessed from the ones before.

use rand_chacha::rand_core::RngCore;

/// Free blocks by address index of the pool.
pub struct FreeBlocks {
    by_address: Vec<Vec<u32>>,
    /// Address indexes with at least one free block, in no order.
    available: Vec<u32>,
    /// Place of each address in `available`; `ABSENT` if it has none.
    place: Vec<u32>,
    count: usize,
}

const ABSENT: u32 = u32::MAX;

impl FreeBlocks {
    /// None free yet. Room for all blocks is made here; nothing allocates later.
    pub fn new(addresses: usize, blocks_per_address: usize) -> Self {
        Self {
            by_address: (0..addresses).map(|_| Vec::with_capacity(blocks_per_address)).collect(),
            available: Vec::with_capacity(addresses),
            place: vec![ABSENT; addresses],
            count: 0,
        }
    }

    /// Free blocks in all.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Free blocks of one address.
    pub fn count_at(&self, address: u32) -> usize {
        self.by_address[address as usize].len()
    }

    /// Adds a free block of `address`.
    pub fn add(&mut self, address: u32, block: u32) {
        let blocks = &mut self.by_address[address as usize];
        debug_assert!(!blocks.contains(&block));
        blocks.push(block);
        self.count += 1;
        if blocks.len() == 1 {
            self.place[address as usize] = self.available.len() as u32;
            self.available.push(address);
        }
    }

    /// Free blocks of one address that will do.
    pub fn count_where(&self, address: u32, fits: impl Fn(u32) -> bool) -> usize {
        self.by_address[address as usize].iter().filter(|block| fits(**block)).count()
    }

    /// Takes a random free block of `address`.
    pub fn take_at(&mut self, address: u32, random: &mut impl RngCore) -> Option<u32> {
        let count = self.count_at(address);
        if count == 0 { None } else { self.take_nth(address, below(random, count)) }
    }

    /// Takes a random one of the free blocks of `address` that will do.
    pub fn take_where(
        &mut self,
        address: u32,
        random: &mut impl RngCore,
        fits: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let count = self.count_where(address, &fits);
        if count == 0 {
            return None;
        }
        let blocks = self.by_address[address as usize].iter().enumerate();
        let (place, _) = blocks.filter(|(_, b)| fits(**b)).nth(below(random, count))?;
        self.take_nth(address, place)
    }

    fn take_nth(&mut self, address: u32, place: usize) -> Option<u32> {
        let blocks = &mut self.by_address[address as usize];
        let block = blocks.swap_remove(place);
        self.count -= 1;
        if blocks.is_empty() {
            let place = self.place[address as usize] as usize;
            self.available.swap_remove(place);
            self.place[address as usize] = ABSENT;
            if let Some(moved) = self.available.get(place) {
                self.place[*moved as usize] = place as u32;
            }
        }
        Some(block)
    }

    /// The better of two random addresses with free blocks, so that addresses fill evenly
    /// and a new subscriber finds room for its further blocks.
    pub fn any_address(&self, random: &mut impl RngCore) -> Option<u32> {
        if self.available.is_empty() {
            return None;
        }
        let one = self.available[below(random, self.available.len())];
        let two = self.available[below(random, self.available.len())];
        Some(if self.count_at(two) > self.count_at(one) { two } else { one })
    }

    /// Takes a random free block of [`FreeBlocks::any_address`].
    pub fn take_any(&mut self, random: &mut impl RngCore) -> Option<(u32, u32)> {
        let address = self.any_address(random)?;
        self.take_at(address, random).map(|block| (address, block))
    }
}

/// A uniform number below `bound`, by multiplication (bias under 2^-32 * bound).
pub fn below(random: &mut impl RngCore, bound: usize) -> usize {
    ((u64::from(random.next_u32()) * bound as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use std::collections::BTreeSet;

    #[test]
    fn every_block_is_given_once() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut free = FreeBlocks::new(5, 7);
        for block in 0..35 {
            free.add(block / 7, block);
        }
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let block = free.take_at(2, &mut random).expect("seven there");
            assert!((14..21).contains(&block) && seen.insert(block));
        }
        while let Some((address, block)) = free.take_any(&mut random) {
            assert_eq!(address, block / 7);
            assert!(seen.insert(block));
        }
        assert_eq!(seen.len(), 35);
        assert_eq!(free.count(), 0);
        assert_eq!(free.take_at(0, &mut random), None);
    }

    #[test]
    fn only_a_block_that_will_do_is_taken() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let mut free = FreeBlocks::new(1, 9);
        for block in 0..9 {
            free.add(0, block);
        }
        let mut seen = BTreeSet::new();
        while let Some(block) = free.take_where(0, &mut random, |block| block % 3 == 1) {
            assert!(seen.insert(block));
        }
        assert_eq!(seen, [1, 4, 7].into());
        assert_eq!((free.count(), free.count_where(0, |block| block > 4)), (6, 3));
    }
}
