//! The port slots of all blocks, as anybody may read them: whoever holds the lease of a block writes
//! them. What is read here without a lease is a hint; the record of the mapping says what is true.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{PortUse, slots_for, use_of};
use crate::endpoint::Protocol;

/// Where an external port lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// Index of the pool.
    pub pool: u16,
    /// Number of the block among all blocks.
    pub block: u32,
    /// Ports of the block.
    pub size: u16,
    /// Ports of the block before this one.
    pub nth: u16,
}

/// The port slots of one pool, block by block.
pub struct PoolWords {
    words: &'static [AtomicU32],
    first_block: u32,
    /// Where each block's begin; none if all blocks are of one size and have memory.
    starts: Option<Vec<Option<u32>>>,
}

/// The port slots of all pools.
#[derive(Default)]
pub struct PortWords {
    pools: Vec<PoolWords>,
}

impl PoolWords {
    /// Of blocks of one size, the first of which has this number.
    pub fn even(words: &'static [AtomicU32], first_block: u32) -> Self {
        Self { words, first_block, starts: None }
    }

    /// Of blocks that begin at these places, if they have any.
    pub fn uneven(words: &'static [AtomicU32], first_block: u32, starts: Vec<Option<u32>>) -> Self {
        Self { words, first_block, starts: Some(starts) }
    }
}

impl PortWords {
    /// Adds those of the next pool.
    pub fn push(&mut self, pool: PoolWords) {
        self.pools.push(pool);
    }

    /// The slot of a port.
    #[inline]
    pub fn at(&self, spot: Spot, protocol: Protocol) -> Option<&AtomicU32> {
        let pool = self.pools.get(usize::from(spot.pool))?;
        let nth = (spot.block - pool.first_block) as usize;
        let start = match &pool.starts {
            None => nth * slots_for(spot.size),
            Some(starts) => (*starts.get(nth)?)? as usize,
        };
        let within = protocol as usize * usize::from(spot.size) + usize::from(spot.nth);
        pool.words.get(start + within)
    }
}

/// Whether a slot names nothing that a packet could be for.
#[inline]
pub fn is_unused(word: &AtomicU32) -> bool {
    matches!(use_of(word.load(Ordering::Relaxed)), PortUse::Free | PortUse::Resting)
}

/// The mapping that a slot names.
#[inline]
pub fn mapping_in(word: &AtomicU32) -> Option<u32> {
    match use_of(word.load(Ordering::Relaxed)) {
        PortUse::Mapping(slot) => Some(slot),
        _ => None,
    }
}
