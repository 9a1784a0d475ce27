//! The free port blocks of one pool that a shard (or housekeeping) has at hand.
//!
//! Blocks are kept per external address, because a subscriber's blocks all come from its
//! paired address. Taking is random: which address and block a new subscriber gets cannot
//! be guessed from the ones before.
//!
//! The blocks of a closed address are at hand too, but nobody gets them: they only wait to be
//! given back.

use rand_chacha::rand_core::RngCore;

/// Free blocks by address index of the pool.
pub struct FreeBlocks {
    by_address: Vec<Vec<u32>>,
    /// Address indexes with at least one free block, in no order.
    available: Vec<u32>,
    /// Address indexes that are closed and have a block that waits, in no order.
    waiting: Vec<u32>,
    /// Place of each address in `available`, or in `waiting` if it is closed; `ABSENT` if it has
    /// none.
    place: Vec<u32>,
    is_open: Vec<bool>,
    /// Free blocks of open addresses.
    count: usize,
    /// Blocks of closed addresses.
    closed: usize,
}

const ABSENT: u32 = u32::MAX;

impl FreeBlocks {
    /// None free yet, every address closed. Room for all blocks is made here; nothing allocates
    /// later.
    pub fn new(addresses: usize, blocks_per_address: usize) -> Self {
        Self {
            by_address: (0..addresses).map(|_| Vec::with_capacity(blocks_per_address)).collect(),
            available: Vec::with_capacity(addresses),
            waiting: Vec::with_capacity(addresses),
            place: vec![ABSENT; addresses],
            is_open: vec![false; addresses],
            count: 0,
            closed: 0,
        }
    }

    /// Free blocks that can be had.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Blocks of closed addresses.
    pub fn count_closed(&self) -> usize {
        self.closed
    }

    /// Opens or closes an address, with the blocks that it has here.
    pub fn set_open(&mut self, address: u32, is_open: bool) {
        let index = address as usize;
        if self.is_open[index] == is_open {
            return;
        }
        let here = self.by_address[index].len();
        if here > 0 {
            self.unlist(address);
        }
        self.is_open[index] = is_open;
        if here > 0 {
            self.list(address);
        }
        match is_open {
            true => (self.count, self.closed) = (self.count + here, self.closed - here),
            false => (self.count, self.closed) = (self.count - here, self.closed + here),
        }
    }

    /// Whether a subscriber may get a block of an address.
    pub fn is_open(&self, address: u32) -> bool {
        self.is_open[address as usize]
    }

    /// Notes that an address has blocks here.
    fn list(&mut self, address: u32) {
        let open = self.is_open[address as usize];
        let list = if open { &mut self.available } else { &mut self.waiting };
        self.place[address as usize] = list.len() as u32;
        list.push(address);
    }

    /// Notes that an address has no block here, or is about to be listed otherwise.
    fn unlist(&mut self, address: u32) {
        let open = self.is_open[address as usize];
        let list = if open { &mut self.available } else { &mut self.waiting };
        let place = self.place[address as usize] as usize;
        list.swap_remove(place);
        self.place[address as usize] = ABSENT;
        if let Some(moved) = list.get(place) {
            self.place[*moved as usize] = place as u32;
        }
    }

    /// Free blocks of one address; none of a closed one.
    pub fn count_at(&self, address: u32) -> usize {
        if self.is_open(address) { self.by_address[address as usize].len() } else { 0 }
    }

    /// Adds a free block of `address`.
    pub fn add(&mut self, address: u32, block: u32) {
        let blocks = &mut self.by_address[address as usize];
        debug_assert!(!blocks.contains(&block));
        blocks.push(block);
        let is_first = blocks.len() == 1;
        *if self.is_open(address) { &mut self.count } else { &mut self.closed } += 1;
        if is_first {
            self.list(address);
        }
    }

    /// Free blocks of one address that will do; none of a closed one.
    pub fn count_where(&self, address: u32, fits: impl Fn(u32) -> bool) -> usize {
        let blocks = &self.by_address[address as usize];
        if self.is_open(address) { blocks.iter().filter(|b| fits(**b)).count() } else { 0 }
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

    /// Takes a block of a closed address, to give it back.
    pub fn take_closed(&mut self) -> Option<u32> {
        let address = *self.waiting.last()?;
        self.take_nth(address, 0)
    }

    fn take_nth(&mut self, address: u32, place: usize) -> Option<u32> {
        let blocks = &mut self.by_address[address as usize];
        let block = blocks.swap_remove(place);
        let is_empty = blocks.is_empty();
        *if self.is_open(address) { &mut self.count } else { &mut self.closed } -= 1;
        if is_empty {
            self.unlist(address);
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

    fn all_open(addresses: usize, blocks_per_address: usize) -> FreeBlocks {
        let mut free = FreeBlocks::new(addresses, blocks_per_address);
        (0..addresses as u32).for_each(|address| free.set_open(address, true));
        free
    }

    #[test]
    fn every_block_is_given_once() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut free = all_open(5, 7);
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
        let mut free = all_open(1, 9);
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

    #[test]
    fn blocks_of_a_closed_address_are_given_to_nobody_and_come_back_when_it_opens() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut free = all_open(4, 6);
        for block in 0..24 {
            free.add(block / 6, block);
        }
        free.set_open(1, false);
        free.set_open(3, false);
        assert_eq!((free.count(), free.count_closed()), (12, 12));
        assert_eq!((free.count_at(1), free.count_where(1, |_| true)), (0, 0));
        assert_eq!(free.take_at(1, &mut random), None);
        assert_eq!(free.take_where(3, &mut random, |_| true), None);
        for _ in 0..200 {
            assert!(matches!(free.any_address(&mut random), Some(0 | 2)));
        }
        let mut taken: BTreeSet<u32> = (0..8).filter_map(|_| free.take_closed()).collect();
        assert_eq!((taken.len(), free.count_closed()), (8, 4));
        // One that falls free meanwhile waits with the others.
        let back = *taken.iter().next().expect("eight");
        free.add(back / 6, back);
        taken.remove(&back);
        free.set_open(3, true);
        free.set_open(1, true);
        assert_eq!((free.count(), free.count_closed()), (17, 0));
        while let Some((_, block)) = free.take_any(&mut random) {
            assert!(taken.insert(block));
        }
        assert_eq!(taken.len(), 24);
        assert_eq!(free.take_closed(), None);
    }
}
