//! The random numbers of a shard: unpredictable for others, while the shard itself may look at the
//! next ones, to have the CPU fetch what they will lead to.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng, impls};

/// Numbers that are made at once.
const READY: usize = 256;

/// A source of random numbers.
pub struct Dice {
    source: ChaCha12Rng,
    ready: [u32; READY],
    next: usize,
}

impl Dice {
    /// From 32 bytes of entropy.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { source: ChaCha12Rng::from_seed(seed), ready: [0; READY], next: READY }
    }

    /// What [`RngCore::next_u32`] will give after `nth` others, if it is made already.
    #[inline]
    pub fn coming(&self, nth: usize) -> Option<u32> {
        self.ready.get(self.next + nth).copied()
    }
}

impl RngCore for Dice {
    #[inline]
    fn next_u32(&mut self) -> u32 {
        if self.next == READY {
            self.ready.fill_with(|| self.source.next_u32());
            self.next = 0;
        }
        self.next += 1;
        self.ready[self.next - 1]
    }

    fn next_u64(&mut self) -> u64 {
        impls::next_u64_via_u32(self)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        impls::fill_bytes_via_next(self, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_coming_comes_and_the_numbers_are_those_of_the_source() {
        let (mut dice, mut source) = (Dice::new([3; 32]), ChaCha12Rng::from_seed([3; 32]));
        let mut foreseen = 0;
        for _ in 0..1000 {
            let coming = dice.coming(2);
            let next: Vec<u32> = (0..3).map(|_| dice.next_u32()).collect();
            assert!(next.iter().all(|number| *number == source.next_u32()));
            foreseen += usize::from(coming.is_some());
            assert!(coming.is_none_or(|coming| coming == next[2]));
        }
        assert!(foreseen > 950, "{foreseen}");
    }
}
