//! Where things are in external space: address and port -> pool and port block.
//!
//! Made from the configuration and shared; all but the counts of use is read-only. A reload makes
//! another one (`revision`), which workers take instead. Blocks of all pools are numbered
//! through: pool by pool, place by place, block by block. The owner map says which
//! worker holds each block; housekeeping alone writes it.

mod geometry;
pub mod lookup;
mod numbering;
mod occupancy;
pub mod parts;
mod remote;
pub mod revision;
mod statics;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::{Config, Mode, Pool};
use crate::endpoint::{ExternalAddress, ExternalEndpoint};
use crate::table::port_block::{BlockLease, Spot};

pub use geometry::{AddressState, Place, PoolGeometry};
pub use occupancy::{AddressUse, Occupancy};
use remote::RemoteSpace;
pub use remote::inside;
pub use statics::{Static, Statics};

/// Pool number of addresses that only static mappings have.
const NO_POOL: u16 = u16::MAX;

/// Place of an external endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// The address is not in a pool.
    Elsewhere,
    /// The address is ours, but the port is in none of a pool's blocks.
    NotLent,
    /// In this block.
    Block(u32),
}

/// Addresses of ours, one behind the other: in one pool in the same order, or each in none.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u32,
    last: u32,
    pool: u16,
    /// Index of the first in the pool.
    index: u32,
}

impl Run {
    fn goes_on_with(&self, address: u32, pool: u16, index: u32) -> bool {
        let behind = address - self.first;
        // Those in no pool have no index.
        self.last + 1 == address && self.pool == pool && self.index + behind == index
    }
}

/// All pools, and what is mapped statically: as of one version.
pub struct ExternalSpace {
    /// One more for each that was made from another one.
    version: u64,
    /// Pool and index of the addresses whose state is another than in the version before.
    changes: Vec<(u16, u32)>,
    pools: Vec<PoolGeometry>,
    /// Our addresses, ascending, in as few runs as it takes.
    runs: Vec<Run>,
    /// Which addresses only somebody outside can have.
    remote: RemoteSpace,
    blocks: u32,
    /// The same of all versions.
    occupancy: Arc<Occupancy>,
    /// The same of all versions.
    statics: Arc<Statics>,
}

impl ExternalSpace {
    /// From a validated configuration.
    pub fn new(config: &Config) -> Self {
        let places = |pool: &Pool| pool.addresses().len() + pool.spare_addresses() as usize;
        let mut space = Self {
            version: 0,
            changes: Vec::new(),
            pools: Vec::new(),
            runs: Vec::new(),
            remote: RemoteSpace::new(config),
            blocks: 0,
            occupancy: Arc::new(Occupancy::new(config.pools().iter().map(places))),
            statics: Arc::new(Statics::new(config.statics())),
        };
        for (number, pool) in config.pools().iter().enumerate() {
            let subscribers = match pool.mode() {
                Mode::Deterministic => config.subscriber_ranges(number),
                Mode::PortBlock => Vec::new(),
            };
            let geometry = PoolGeometry::new(pool, space.blocks, &subscribers);
            space.blocks = geometry.numbers().end;
            space.pools.push(geometry);
        }
        space.index();
        space
    }

    /// Brings what follows from the places up to date.
    fn index(&mut self) {
        let mut ours: Vec<(u32, u16, u32)> = Vec::new();
        for (number, pool) in (0u16..).zip(&self.pools) {
            let places = (0u32..).zip(pool.places());
            let taken = places.filter(|(_, place)| place.state != AddressState::Vacant);
            ours.extend(taken.map(|(index, place)| (place.address.0, number, index)));
        }
        ours.extend(self.statics.external_addresses().map(|address| (address, NO_POOL, 0)));
        // Of a pool's address that is mapped statically too, the pool comes first and stays.
        ours.sort_unstable();
        ours.dedup_by_key(|(address, ..)| *address);
        self.runs.clear();
        for (address, pool, index) in ours {
            match self.runs.last_mut() {
                Some(run) if run.goes_on_with(address, pool, index) => run.last = address,
                _ => self.runs.push(Run { first: address, last: address, pool, index }),
            }
        }
        self.remote.set_ours(self.runs.iter().map(|run| (run.first, run.last)));
        // A block whose every port is mapped statically has nothing to lend.
        let reserved = self.reserved_ports();
        for pool in &mut self.pools {
            pool.leave_out_full(&reserved);
        }
    }

    /// Which version this is; 0 at the start.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Pool and index of each address whose state is another than in the version before.
    pub fn changes(&self) -> &[(u16, u32)] {
        &self.changes
    }

    /// Whether `self` is the version after `earlier`, of the same box.
    pub fn follows(&self, earlier: &Self) -> bool {
        Arc::ptr_eq(&self.occupancy, &earlier.occupancy) && self.version == earlier.version + 1
    }

    /// Blocks of our addresses that have something to lend, of draining ones too.
    pub fn our_blocks(&self) -> u32 {
        let count = |pool: &PoolGeometry| pool.blocks().filter(|b| pool.is_ours(*b)).count();
        self.pools.iter().map(|pool| count(pool) as u32).sum()
    }

    /// Blocks that may be lent.
    pub fn lendable_blocks(&self) -> u32 {
        let count = |pool: &PoolGeometry| pool.blocks().filter(|b| pool.is_lendable(*b)).count();
        self.pools.iter().map(|pool| count(pool) as u32).sum()
    }

    /// Marks the ports of a block that are never given; nobody has held it since it was made
    /// or wiped. `reserved` is [`ExternalSpace::reserved_ports`].
    pub fn exclude_ports(&self, lease: &mut BlockLease, reserved: &[(u32, u16)]) {
        for (first, last) in self.pools[usize::from(lease.pool())].rules.exclude_ports() {
            (*first..=*last).for_each(|port| lease.exclude(port));
        }
        let block = lease.id();
        let after = reserved.partition_point(|(other, _)| *other < block);
        let own = reserved[after..].iter().take_while(|(other, _)| *other == block);
        own.for_each(|(_, port)| lease.exclude(*port));
    }

    /// Ports of blocks that are never lent because they are mapped statically, each once.
    pub fn reserved_ports(&self) -> Vec<(u32, u16)> {
        let forwards = self.statics.external_ports();
        let ports = forwards.flat_map(|(address, first, last)| {
            (first..=last).map(move |port| ExternalEndpoint::new(address, port))
        });
        let mut reserved: Vec<(u32, u16)> = ports
            .filter_map(|endpoint| match self.locate(endpoint) {
                Location::Block(block) => Some((block, endpoint.port)),
                _ => None,
            })
            .collect();
        reserved.sort_unstable();
        reserved.dedup();
        reserved
    }

    /// Static mappings.
    #[inline]
    pub fn statics(&self) -> &Statics {
        &self.statics
    }

    /// Pools in the order of the configuration.
    pub fn pools(&self) -> &[PoolGeometry] {
        &self.pools
    }

    /// Numbers of blocks of all pools; not each of them exists.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// How much each address is used.
    pub fn occupancy(&self) -> &Occupancy {
        &self.occupancy
    }

    /// Whether `address` is a pool's or a static mapping's.
    #[inline]
    pub fn contains(&self, address: u32) -> bool {
        self.run_of(address).is_some()
    }

    /// Every address of pools and static mappings.
    pub fn addresses(&self) -> impl Iterator<Item = u32> {
        self.runs.iter().flat_map(|run| run.first..=run.last)
    }

    /// Whether `address` can only be somebody's outside. A no means nothing: it is by parts of
    /// the address space, for packets that shall be quick.
    #[inline]
    pub fn is_surely_remote(&self, address: u32) -> bool {
        self.remote.has(address)
    }

    #[inline]
    fn run_of(&self, address: u32) -> Option<&Run> {
        let run = match &self.runs[..] {
            // Mostly.
            [only] => only,
            runs => runs[..runs.partition_point(|run| run.first <= address)].last()?,
        };
        (run.first..=run.last).contains(&address).then_some(run)
    }

    /// Pool and index in it of one of our addresses.
    #[inline]
    fn place_of(&self, address: u32) -> Option<(u16, u32)> {
        let run = self.run_of(address)?;
        Some((run.pool, run.index + (address - run.first)))
    }

    /// Place of an endpoint.
    #[inline]
    pub fn locate(&self, endpoint: ExternalEndpoint) -> Location {
        let Some((pool, address)) = self.place_of(endpoint.address.0) else {
            return Location::Elsewhere;
        };
        let pool = self.pools.get(usize::from(pool));
        match pool.and_then(|pool| pool.block_at(address, endpoint.port)) {
            Some(block) => Location::Block(block),
            None => Location::NotLent,
        }
    }

    /// Where the port of an endpoint lies, if it is in a block.
    #[inline]
    pub fn spot(&self, endpoint: ExternalEndpoint) -> Option<Spot> {
        let (pool, address) = self.place_of(endpoint.address.0)?;
        let geometry = self.pools.get(usize::from(pool))?;
        let (block, size, nth) = geometry.spot_at(address, endpoint.port)?;
        Some(Spot { pool, block, size, nth })
    }

    /// Index of the pool that holds an external address.
    pub fn pool_of(&self, address: ExternalAddress) -> Option<u16> {
        let (pool, _) = self.place_of(address.0)?;
        (pool != NO_POOL).then_some(pool)
    }

    /// External address with this index in a pool.
    pub fn address(&self, pool: u16, index: u32) -> ExternalAddress {
        self.pools[usize::from(pool)].places()[index as usize].address
    }
}

/// Who holds each block. Single writer (housekeeping), any reader.
#[derive(Clone)]
pub struct OwnerMap {
    /// `generation << 16 | worker + 1`; the low half is 0 while housekeeping holds it.
    words: Arc<[AtomicU32]>,
}

/// Owner of a block with the generation of that ownership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The worker.
    pub worker: u16,
    /// Grows at each change of owner, modulo 2^16.
    pub generation: u16,
}

impl OwnerMap {
    /// A map in which housekeeping holds everything.
    pub fn new(blocks: u32) -> Self {
        Self { words: (0..blocks).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Who holds `block`; `None` while housekeeping does.
    #[inline]
    pub fn owner(&self, block: u32) -> Option<Owner> {
        let word = self.words[block as usize].load(Ordering::Acquire);
        let worker = (word as u16).checked_sub(1)?;
        Some(Owner { worker, generation: (word >> 16) as u16 })
    }

    /// Notes a new owner. Only housekeeping calls this.
    pub fn set(&self, block: u32, worker: Option<u16>) {
        let word = &self.words[block as usize];
        let generation = (word.load(Ordering::Relaxed) >> 16).wrapping_add(1) & 0xffff;
        let low = worker.map_or(0, |worker| u32::from(worker) + 1);
        word.store(generation << 16 | low, Ordering::Release);
    }
}
