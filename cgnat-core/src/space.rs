//! Where things are in external space: address and port -> pool and port block.
//!
//! Built once from the configuration and shared read-only. Blocks of all pools are numbered
//! through: pool by pool, address by address, block by block. The owner map says which
//! worker holds each block; housekeeping alone writes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hashbrown::HashMap;

use crate::config::Config;
use crate::endpoint::{ExternalAddress, ExternalEndpoint};

/// How one pool's ports are cut into blocks.
#[derive(Debug, Clone)]
pub struct PoolGeometry {
    /// External addresses, sorted.
    pub addresses: Vec<ExternalAddress>,
    /// First port that is lent.
    pub first_port: u16,
    /// Last port that is lent.
    pub last_port: u16,
    /// Ports per block, a power of two.
    pub block_size: u16,
    /// Blocks per address.
    pub blocks_per_address: u32,
    /// Number of the pool's first block.
    pub first_block: u32,
    /// Blocks per subscriber.
    pub max_blocks: u8,
    /// Seconds that a freed port rests.
    pub hold_s: u32,
}

impl PoolGeometry {
    /// Blocks of the pool.
    pub fn blocks(&self) -> u32 {
        self.blocks_per_address * self.addresses.len() as u32
    }

    /// First port of a block of this pool.
    pub fn first_port_of(&self, block: u32) -> u16 {
        let nth = (block - self.first_block) % self.blocks_per_address;
        self.first_port + (nth * u32::from(self.block_size)) as u16
    }

    /// Index of the address of a block of this pool.
    pub fn address_of(&self, block: u32) -> u32 {
        (block - self.first_block) / self.blocks_per_address
    }
}

/// Place of an external endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// The address is not in a pool.
    Elsewhere,
    /// The address is, but the port is outside the ports that the pool lends.
    NotLent,
    /// In this block.
    Block(u32),
}

/// All pools.
pub struct ExternalSpace {
    pools: Vec<PoolGeometry>,
    /// Address -> (pool, index of the address in the pool).
    by_address: HashMap<u32, (u16, u32)>,
    blocks: u32,
}

impl ExternalSpace {
    /// From a validated configuration.
    pub fn new(config: &Config) -> Self {
        let mut space = Self { pools: Vec::new(), by_address: HashMap::new(), blocks: 0 };
        for (number, pool) in config.pools().iter().enumerate() {
            for (index, address) in pool.addresses().iter().enumerate() {
                let place = (number as u16, index as u32);
                space.by_address.insert(u32::from(*address), place);
            }
            let geometry = PoolGeometry {
                addresses: pool.addresses().iter().map(|a| ExternalAddress::from(*a)).collect(),
                first_port: pool.first_port(),
                last_port: pool.last_port(),
                block_size: pool.block_size(),
                blocks_per_address: pool.blocks_per_address(),
                first_block: space.blocks,
                max_blocks: pool.max_blocks(),
                hold_s: pool.hold_s(),
            };
            space.blocks += geometry.blocks();
            space.pools.push(geometry);
        }
        space
    }

    /// Pools in the order of the configuration.
    pub fn pools(&self) -> &[PoolGeometry] {
        &self.pools
    }

    /// Blocks of all pools.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Whether a pool holds `address`.
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
        let pool = &self.pools[usize::from(*pool)];
        if endpoint.port < pool.first_port || endpoint.port > pool.last_port {
            return Location::NotLent;
        }
        let nth = u32::from(endpoint.port - pool.first_port) >> pool.block_size.trailing_zeros();
        Location::Block(pool.first_block + address * pool.blocks_per_address + nth)
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
