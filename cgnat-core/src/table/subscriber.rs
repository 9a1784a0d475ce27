//! Subscribers: one internal address, its paired external address and its port blocks.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::table::slab::impl_record;

/// Blocks that one subscriber can hold; the configuration allows no more.
pub const MAX_BLOCKS: usize = 8;

/// One subscriber, 64 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Subscriber {
    pub(crate) generation: u32,
    /// Internal address.
    pub(crate) address: u32,
    /// Index of the paired external address in the pool (RFC 6888 REQ-2).
    pub(crate) paired: u32,
    /// Mappings of all protocols.
    pub(crate) mappings: u32,
    /// Port blocks, its own range first, then oldest first; `block_count` of them are valid.
    blocks: [u32; MAX_BLOCKS],
    pub(crate) pool: u16,
    /// Shard that owns the record.
    pub(crate) shard: u16,
    block_count: u8,
    reserved: [u8; 7],
    next: u32,
}

const _: () = assert!(size_of::<Subscriber>() == 64);

impl_record!(Subscriber, next);

impl Subscriber {
    /// Fills a record that was just allocated: no blocks, no mappings.
    pub fn establish(&mut self, shard: u16, address: u32, pool: u16, paired: u32) {
        self.shard = shard;
        self.address = address;
        self.pool = pool;
        self.paired = paired;
        self.mappings = 0;
        self.block_count = 0;
    }

    /// Its port blocks: the range of a deterministic pool first, then oldest first.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks[..usize::from(self.block_count)]
    }

    /// Adds a block.
    ///
    /// # Panics
    /// Beyond [`MAX_BLOCKS`]; the caller compares with the pool's `max-blocks` first.
    pub fn add_block(&mut self, block: u32) {
        self.blocks[usize::from(self.block_count)] = block;
        self.block_count += 1;
    }

    /// Adds its own range of a deterministic pool, before all blocks (RFC 7422 section 2).
    ///
    /// # Panics
    /// As [`Subscriber::add_block`].
    pub fn add_range(&mut self, block: u32) {
        self.blocks.copy_within(0..usize::from(self.block_count), 1);
        self.blocks[0] = block;
        self.block_count += 1;
    }

    /// Removes a block; says whether it was one of this subscriber's.
    pub fn remove_block(&mut self, block: u32) -> bool {
        let Some(place) = self.blocks().iter().position(|held| *held == block) else {
            return false;
        };
        self.blocks.copy_within(place + 1..usize::from(self.block_count), place);
        self.block_count -= 1;
        true
    }
}
