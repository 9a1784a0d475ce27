//! How much memory the tables need, and cutting it up.
//!
//! Sizes follow from the configuration and the number of workers alone, so they are known
//! and printed before anything is allocated.

use std::sync::Arc;
use std::sync::atomic::AtomicU16;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::config::{Config, Overloading, Pool};
use crate::refusals::Refusals;
use crate::space::{AddressState, ExternalSpace, PoolGeometry};
use crate::table::association::Association;
use crate::table::control_connection::ControlConnection;
use crate::table::destination::Destination;
use crate::table::due::DueArray;
use crate::table::identification::Identifications;
use crate::table::index::{Bucket, buckets_for};
use crate::table::mapping::Mapping;
use crate::table::port_block::{
    BlockLease, BlockRecord, PoolWords, PortWords, slots_for, words_for,
};
use crate::table::pptp_connection::PptpConnection;
use crate::table::session::Session;
use crate::table::subscriber::Subscriber;
use crate::worker::fragments::FragmentLimits;

/// With several workers each shard has this much more room than its even share, percent:
/// subscribers spread by a hash, not evenly.
const UNEVEN_PERCENT: u64 = 25;

/// Mappings per further session for which there is room, if the configuration does not say: mostly
/// a TCP connection has a mapping of its own. Where filtering looks at remote ends, each one that a
/// UDP socket talks to is a session.
const MAPPINGS_PER_SESSION: u32 = 16;
const MAPPINGS_PER_FILTERED_SESSION: u32 = 4;

/// Further sessions of one shard for which there is room at least.
const MIN_SESSIONS: u32 = 64;

/// Mappings per control connection for which there is room, of FTP and of PPTP, if its ALG is on;
/// of these at least some.
const MAPPINGS_PER_CONTROL: u32 = 64;
const MIN_CONTROLS: u32 = 64;
/// Mappings per record of a flow without ports, of which each flow has two.
const MAPPINGS_PER_ASSOCIATION: u32 = 8;

/// Sizes of all tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Workers, and so shards.
    pub workers: u16,
    /// Mappings of one shard.
    pub mappings_per_shard: u32,
    /// Buckets of the index of flows with overloaded ports; as good as none without them.
    pub flow_buckets: usize,
    /// Further TCP sessions of one shard.
    pub sessions_per_shard: u32,
    /// Control connections of FTP that one shard can follow.
    pub controls_per_shard: u32,
    /// Control connections of PPTP that one shard can follow, each in the index under four keys.
    pub pptp_per_shard: u32,
    /// Records of flows without ports of one shard: two for each such flow. None if no protocol
    /// of the kind is carried.
    pub associations_per_shard: u32,
    /// Remote addresses with sessions of one shard that are counted: one for each session; none
    /// where no group has `limits.sessions-per-destination`.
    pub destinations_per_shard: u32,
    /// Subscribers of one shard.
    pub subscribers_per_shard: u32,
    /// Port blocks of all addresses that are ours at the start, ranges of deterministic pools
    /// among them.
    pub blocks: u32,
    /// Those of them that are lent at the start.
    pub lent_blocks: u32,
    /// Bounds on fragments of one worker.
    pub fragments: FragmentLimits,
    /// Ports of all blocks that have memory, counted once per protocol space.
    pub port_slots: u64,
    /// Bytes that one shard needs in provided memory.
    pub shard_bytes: usize,
    /// Bytes that all port blocks need in provided memory.
    pub block_bytes: usize,
    /// Those of them that are for addresses which may be added later.
    pub spare_bytes: usize,
    /// Addresses that may be added later.
    pub spare_addresses: u32,
    /// Bytes from the heap: each worker's places for leases, its counters of identifications, what
    /// it remembers of refusals and its fragments.
    pub heap_bytes: usize,
}

/// The memory of one shard's tables, cut up.
pub struct ShardMemory {
    pub(crate) mappings: &'static mut [Mapping],
    pub(crate) mapping_due: &'static [AtomicU16],
    pub(crate) mapping_index: &'static mut [Bucket],
    pub(crate) flow_index: &'static mut [Bucket],
    pub(crate) sessions: &'static mut [Session],
    pub(crate) session_due: &'static [AtomicU16],
    pub(crate) session_index: &'static mut [Bucket],
    pub(crate) controls: &'static mut [ControlConnection],
    pub(crate) control_index: &'static mut [Bucket],
    pub(crate) pptp: &'static mut [PptpConnection],
    pub(crate) pptp_index: &'static mut [Bucket],
    pub(crate) associations: &'static mut [Association],
    pub(crate) association_due: &'static [AtomicU16],
    pub(crate) association_index: &'static mut [Bucket],
    pub(crate) subscribers: &'static mut [Subscriber],
    pub(crate) subscriber_index: &'static mut [Bucket],
    pub(crate) destinations: &'static mut [Destination],
    pub(crate) destination_index: &'static mut [Bucket],
}

/// All port blocks, and what several may read of them.
pub struct Blocks {
    /// The blocks, in order of their numbers.
    pub leases: Vec<BlockLease>,
    /// The words of their ports.
    pub words: PortWords,
    /// Their deadline words, by number.
    pub due: DueArray,
}

/// Memory that does not fit the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tables need {needed} bytes aligned to 64, {given} were given")]
pub struct MemoryError {
    /// Bytes that the layout says.
    pub needed: usize,
    /// Bytes that were given.
    pub given: usize,
}

impl Layout {
    /// The sizes for `config` with `workers` workers.
    ///
    /// # Panics
    /// With no workers.
    pub fn new(config: &Config, workers: u16) -> Self {
        assert!(workers > 0, "a NAT needs a worker");
        let share = u64::from(config.system().max_mappings()).div_ceil(u64::from(workers));
        let uneven = if workers > 1 { UNEVEN_PERCENT } else { 0 };
        let of_shard = |share: u64| (share + share * uneven / 100) as u32;
        let mappings = of_shard(share);
        let open = |pool: &Pool| pool.filtering().iter().all(|filtering| filtering.is_open());
        let sessions = match config.system().max_sessions() {
            Some(all) => of_shard(u64::from(all).div_ceil(u64::from(workers))),
            None if config.pools().iter().all(open) => mappings / MAPPINGS_PER_SESSION,
            None => mappings / MAPPINGS_PER_FILTERED_SESSION,
        };
        let sessions = sessions.max(MIN_SESSIONS);
        let controls = |is_on| match is_on {
            true => (mappings / MAPPINGS_PER_CONTROL).max(MIN_CONTROLS),
            false => 0,
        };
        let (controls, pptp) = (controls(config.algs().ftp), controls(config.algs().pptp));
        let associations = match config.other_protocols().any() {
            true => (mappings / MAPPINGS_PER_ASSOCIATION).max(64),
            false => 0,
        };
        let space = ExternalSpace::new(config);
        // Each subscriber with state holds a block, so there are never more of them.
        let subscribers =
            space.pools().iter().map(|pool| pool.blocks().count() as u32).sum::<u32>();
        // Each flow is in the index under three keys.
        let flows = if Overloading::of_all(config).is_some() { mappings } else { 0 };
        let flow_buckets = buckets_for(flows.saturating_mul(3));
        let groups = config.groups();
        let destinations =
            match groups.iter().any(|g| g.limits().sessions_per_destination().is_some()) {
                true => mappings + sessions + associations,
                false => 0,
            };
        let due_words = [mappings, sessions, associations];
        let shard_bytes =
            due_words.map(|count| bytes_of::<u16>(count as usize)).iter().sum::<usize>()
                + bytes_of::<Mapping>(mappings as usize)
                + bytes_of::<Bucket>(buckets_for(mappings))
                + bytes_of::<Bucket>(flow_buckets)
                + bytes_of::<Session>(sessions as usize)
                + bytes_of::<Bucket>(buckets_for(sessions))
                + bytes_of::<ControlConnection>(controls as usize)
                + bytes_of::<Bucket>(buckets_for(controls))
                + bytes_of::<PptpConnection>(pptp as usize)
                + bytes_of::<Bucket>(buckets_for(pptp * 4))
                + bytes_of::<Association>(associations as usize)
                + bytes_of::<Bucket>(buckets_for(associations))
                + bytes_of::<Subscriber>(subscribers as usize)
                + bytes_of::<Bucket>(buckets_for(subscribers))
                + bytes_of::<Destination>(destinations as usize)
                + bytes_of::<Bucket>(buckets_for(destinations));
        let (mut block_bytes, mut spare_bytes) = (bytes_of::<u16>(space.blocks() as usize), 0);
        let mut port_slots = 0;
        for pool in space.pools() {
            for block in pool.blocks() {
                let size = pool.size_of(block);
                let bytes = block_bytes_of(size, !pool.overloading.is_empty());
                block_bytes += bytes;
                if pool.state(pool.address_of(block)) == AddressState::Vacant {
                    spare_bytes += bytes + slots_for(size) * size_of::<u32>();
                }
            }
            let words = words_of_pool(pool);
            block_bytes += bytes_of::<u32>(words);
            port_slots += words as u64;
        }
        let bounds = config.fragments();
        let fragments = FragmentLimits {
            datagrams: bounds.max_datagrams.div_ceil(u32::from(workers)),
            pending: bounds.max_pending.div_ceil(u32::from(workers)),
            timeout_ms: u64::from(bounds.timeout_s) * 1000,
        };
        let numbers = space.blocks() as usize;
        Self {
            workers,
            mappings_per_shard: mappings,
            flow_buckets,
            sessions_per_shard: sessions,
            controls_per_shard: controls,
            pptp_per_shard: pptp,
            associations_per_shard: associations,
            destinations_per_shard: destinations,
            subscribers_per_shard: subscribers,
            blocks: space.our_blocks(),
            lent_blocks: space.lendable_blocks(),
            port_slots,
            shard_bytes,
            block_bytes,
            spare_bytes,
            spare_addresses: config.pools().iter().map(Pool::spare_addresses).sum(),
            heap_bytes: usize::from(workers) * numbers * size_of::<Option<BlockLease>>()
                + usize::from(workers)
                    * (Identifications::bytes() + Refusals::BYTES + fragments.bytes()),
            fragments,
        }
    }

    /// Bytes of provided memory for all shards and blocks.
    pub fn provided_bytes(&self) -> usize {
        self.shard_bytes * usize::from(self.workers) + self.block_bytes
    }

    /// All bytes of the tables.
    pub fn total_bytes(&self) -> usize {
        self.provided_bytes() + self.heap_bytes
    }

    /// Cuts up the zeroed memory of one shard.
    ///
    /// # Errors
    /// If it is not [`Layout::shard_bytes`] long or not aligned to 64.
    pub fn shard_memory(&self, memory: &'static mut [u8]) -> Result<ShardMemory, MemoryError> {
        let mut cut = Cut::new(memory, self.shard_bytes)?;
        Ok(ShardMemory {
            mappings: cut.take(self.mappings_per_shard as usize)?,
            mapping_due: cut.take_shared(self.mappings_per_shard as usize)?,
            mapping_index: cut.take(buckets_for(self.mappings_per_shard))?,
            flow_index: cut.take(self.flow_buckets)?,
            sessions: cut.take(self.sessions_per_shard as usize)?,
            session_due: cut.take_shared(self.sessions_per_shard as usize)?,
            session_index: cut.take(buckets_for(self.sessions_per_shard))?,
            controls: cut.take(self.controls_per_shard as usize)?,
            control_index: cut.take(buckets_for(self.controls_per_shard))?,
            pptp: cut.take(self.pptp_per_shard as usize)?,
            pptp_index: cut.take(buckets_for(self.pptp_per_shard * 4))?,
            associations: cut.take(self.associations_per_shard as usize)?,
            association_due: cut.take_shared(self.associations_per_shard as usize)?,
            association_index: cut.take(buckets_for(self.associations_per_shard))?,
            subscribers: cut.take(self.subscribers_per_shard as usize)?,
            subscriber_index: cut.take(buckets_for(self.subscribers_per_shard))?,
            destinations: cut.take(self.destinations_per_shard as usize)?,
            destination_index: cut.take(buckets_for(self.destinations_per_shard))?,
        })
    }

    /// Cuts up the zeroed memory of all port blocks into leases, in order of their numbers; those
    /// of spare addresses among them. All may read the words of their ports.
    ///
    /// # Errors
    /// If it is not [`Layout::block_bytes`] long or not aligned to 64.
    pub fn blocks(
        &self,
        space: &Arc<ExternalSpace>,
        memory: &'static mut [u8],
    ) -> Result<Blocks, MemoryError> {
        let mut cut = Cut::new(memory, self.block_bytes)?;
        let mut leases = Vec::with_capacity(self.subscribers_per_shard as usize);
        let mut all_words = PortWords::default();
        let reserved = space.reserved_ports();
        for (pool_number, pool) in space.pools().iter().enumerate() {
            let words = cut.take_shared(words_of_pool(pool))?;
            let mut starts = vec![None; pool.numbers().len()];
            let mut start = 0;
            for block in pool.blocks() {
                let size = pool.size_of(block);
                let record: &'static mut [BlockRecord] = cut.take(1)?;
                let taken = cut.take(words_for(size))?;
                let overloads = !pool.overloading.is_empty();
                let overloaded = cut.take(if overloads { words_for(size) } else { 0 })?;
                starts[(block - pool.first_block) as usize] = Some(start as u32);
                let slots = &words[start..start + slots_for(size)];
                start += slots.len();
                let mut lease = BlockLease::new(
                    &mut record[0],
                    (taken, overloaded),
                    slots,
                    (block, pool_number as u16, pool.address_of(block)),
                    (pool.first_port_of(block), size),
                );
                space.exclude_ports(&mut lease, &reserved);
                leases.push(lease);
            }
            all_words.push(match pool.is_deterministic() {
                false => PoolWords::even(words, pool.first_block),
                true => PoolWords::uneven(words, pool.first_block, starts),
            });
        }
        let due = DueArray::new(cut.take_shared(space.blocks() as usize)?);
        Ok(Blocks { leases, words: all_words, due })
    }
}

/// Port words of all blocks of a pool.
fn words_of_pool(pool: &PoolGeometry) -> usize {
    pool.blocks().map(|block| slots_for(pool.size_of(block))).sum()
}

/// Bytes of `count` records, rounded up to whole cache lines.
fn bytes_of<R>(count: usize) -> usize {
    (count * size_of::<R>()).next_multiple_of(64)
}

/// Bytes of a block but for the words of its ports.
fn block_bytes_of(size: u16, overloads: bool) -> usize {
    let bitmaps = if overloads { 2 } else { 1 };
    bytes_of::<BlockRecord>(1) + bytes_of::<u64>(words_for(size)) * bitmaps
}

/// Cuts pieces off the front of memory.
struct Cut {
    rest: &'static mut [u8],
    error: MemoryError,
}

impl Cut {
    fn new(memory: &'static mut [u8], needed: usize) -> Result<Self, MemoryError> {
        let error = MemoryError { needed, given: memory.len() };
        if memory.len() < needed { Err(error) } else { Ok(Self { rest: memory, error }) }
    }

    /// Words that several may read.
    fn take_shared<W>(&mut self, count: usize) -> Result<&'static [W], MemoryError>
    where
        W: FromBytes + IntoBytes + KnownLayout + Sync,
    {
        let piece = self.take_bytes(count * size_of::<W>())?;
        let words = <[W]>::mut_from_bytes(piece).map_err(|_| self.error)?;
        Ok(words)
    }

    fn take<R>(&mut self, count: usize) -> Result<&'static mut [R], MemoryError>
    where
        R: FromBytes + IntoBytes + KnownLayout + Immutable,
    {
        let piece = self.take_bytes(count * size_of::<R>())?;
        <[R]>::mut_from_bytes(piece).map_err(|_| self.error)
    }

    /// So many bytes; what is left begins with a cache line.
    fn take_bytes(&mut self, count: usize) -> Result<&'static mut [u8], MemoryError> {
        let lines = count.next_multiple_of(64);
        if self.rest.len() < lines {
            return Err(self.error);
        }
        let (piece, rest) = std::mem::take(&mut self.rest).split_at_mut(lines);
        self.rest = rest;
        Ok(&mut piece[..count])
    }
}
