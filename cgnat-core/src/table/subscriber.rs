//! Subscribers: one internal address, its paired external address and its port blocks.
//!
//! A subscriber has a record for each realm in which it has state (`path/realm.rs`); what it
//! may take is counted over all of them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::endpoint::{Protocol, Realm};
use crate::table::slab::impl_record;
use crate::time::Tick;

/// Blocks that one subscriber can hold; the configuration allows no more.
pub const MAX_BLOCKS: usize = 8;

/// One subscriber, 128 bytes. What a first packet reads and writes is in the first line, with the
/// numbers of four blocks.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Subscriber {
    pub(crate) generation: u32,
    /// Internal address.
    pub(crate) address: u32,
    /// Index of the paired external address in the pool (RFC 6888 REQ-2).
    pub(crate) paired: u32,
    pub(crate) pool: u16,
    /// Shard that owns the record.
    pub(crate) shard: u16,
    block_count: u8,
    /// [`Realm`] as a number.
    realm: u8,
    /// Number of its group.
    pub(crate) group: u16,
    /// Mappings by protocol.
    pub(crate) by_protocol: [u32; Protocol::COUNT],
    /// TCP sessions that it opened, UDP and ICMP mappings, and associations.
    pub(crate) sessions: u32,
    /// TCP sessions that the other side opened.
    pub(crate) inbound_sessions: u32,
    /// Units in its bucket of new sessions, and when they were counted; the same in each realm.
    pub(crate) bucket: u32,
    pub(crate) bucket_at: u32,
    /// Port blocks, its own range first, then oldest first; `block_count` of them are valid.
    blocks: [u32; MAX_BLOCKS],
    next: u32,
    /// Control connections of FTP that are followed.
    pub(crate) controls: u16,
    /// Control connections of PPTP that are followed.
    pub(crate) pptp: u16,
    /// Flows without ports: holds.
    pub(crate) associations: u32,
    unused: [u8; 36],
}

const _: () = assert!(size_of::<Subscriber>() == 128);

impl_record!(Subscriber, next);

impl Subscriber {
    /// Fills a record that was just allocated: no blocks, no mappings, no sessions.
    pub fn establish(
        &mut self,
        shard: u16,
        (address, realm): (u32, Realm),
        group: u16,
        (pool, paired): (u16, u32),
    ) {
        self.shard = shard;
        self.address = address;
        self.realm = realm.0;
        self.group = group;
        self.pool = pool;
        self.paired = paired;
        self.block_count = 0;
        self.by_protocol = [0; Protocol::COUNT];
        self.sessions = 0;
        self.inbound_sessions = 0;
        self.controls = 0;
        self.pptp = 0;
        self.associations = 0;
    }

    /// Sets its bucket to so many units, counted at a moment.
    pub fn set_bucket(&mut self, (units, at): (u32, Tick)) {
        self.bucket = units;
        self.bucket_at = at.0;
    }

    /// Its internal address and realm.
    pub fn identity(&self) -> (u32, Realm) {
        (self.address, Realm(self.realm))
    }

    /// Whether it is the record of this address in this realm.
    pub fn is_of(&self, (address, realm): (u32, Realm)) -> bool {
        self.address == address && self.realm == realm.0
    }

    /// An address and a realm as one number, for hashing.
    pub fn packed((address, realm): (u32, Realm)) -> u64 {
        u64::from(realm.0) << 32 | u64::from(address)
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
