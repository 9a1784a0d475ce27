//! Where things are in external space: address and port -> pool and port block.
//!
//! Built once from the configuration and shared; all but the counts of use is read-only. Blocks of all pools are numbered
//! through: pool by pool, address by address, block by block. The owner map says which
//! worker holds each block; housekeeping alone writes it.

mod geometry;
pub mod lookup;
mod numbering;
mod occupancy;
mod statics;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hashbrown::HashMap;

use crate::config::{Config, Mode};
use crate::endpoint::{ExternalAddress, ExternalEndpoint};

pub use geometry::PoolGeometry;
pub use occupancy::{AddressUse, Occupancy};
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

/// All pools, and what is mapped statically.
pub struct ExternalSpace {
    pools: Vec<PoolGeometry>,
    /// Address -> (pool, index of the address in the pool).
    by_address: HashMap<u32, (u16, u32)>,
    blocks: u32,
    occupancy: Occupancy,
    statics: Statics,
}

impl ExternalSpace {
    /// From a validated configuration.
    pub fn new(config: &Config) -> Self {
        let addresses = config.pools().iter().map(|pool| pool.addresses().len());
        let mut space = Self {
            pools: Vec::new(),
            by_address: HashMap::new(),
            blocks: 0,
            occupancy: Occupancy::new(addresses),
            statics: Statics::new(config.statics()),
        };
        for address in space.statics.external_addresses() {
            space.by_address.insert(address, (NO_POOL, 0));
        }
        for (number, pool) in config.pools().iter().enumerate() {
            for (index, address) in pool.addresses().iter().enumerate() {
                let place = (number as u16, index as u32);
                space.by_address.insert(u32::from(*address), place);
            }
            let subscribers = match pool.mode() {
                Mode::Deterministic => config.subscriber_ranges(number),
                Mode::PortBlock => Vec::new(),
            };
            let geometry = PoolGeometry::new(pool, space.blocks, &subscribers);
            space.blocks = geometry.numbers().end;
            space.pools.push(geometry);
        }
        space.leave_out_full_blocks();
        space
    }

    /// A block whose every port is mapped statically has nothing to lend, so it does not exist.
    fn leave_out_full_blocks(&mut self) {
        let reserved = self.reserved_ports();
        for pool in &mut self.pools {
            pool.leave_out_full(&reserved);
        }
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

    /// External addresses, those of static mappings among them.
    pub fn addresses(&self) -> impl Iterator<Item = u32> {
        self.by_address.keys().copied()
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
        self.by_address.contains_key(&address)
    }

    /// Place of an endpoint.
    #[inline]
    pub fn locate(&self, endpoint: ExternalEndpoint) -> Location {
        let Some((pool, address)) = self.by_address.get(&endpoint.address.0) else {
            return Location::Elsewhere;
        };
        let pool = self.pools.get(usize::from(*pool));
        match pool.and_then(|pool| pool.block_at(*address, endpoint.port)) {
            Some(block) => Location::Block(block),
            None => Location::NotLent,
        }
    }

    /// Index of the pool that holds an external address.
    pub fn pool_of(&self, address: ExternalAddress) -> Option<u16> {
        let (pool, _) = self.by_address.get(&address.0)?;
        (*pool != NO_POOL).then_some(*pool)
    }

    /// External address with this index in a pool.
    pub fn address(&self, pool: u16, index: u32) -> ExternalAddress {
        self.pools[usize::from(pool)].addresses[index as usize]
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
