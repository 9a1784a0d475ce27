//! Who has which external ports: what the configuration alone can tell (RFC 7422 section 2).
//!
//! Both directions ask the arithmetic of [`PoolGeometry`](super::PoolGeometry) that the packet
//! path uses. An answer holds for the time in which the configuration was in use.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::{ExternalSpace, Location};
use crate::config::Config;
use crate::endpoint::{ExternalAddress, ExternalEndpoint, InternalEndpoint, Protocol};

/// First and last port.
pub type Ports = (u16, u16);

/// The range of one subscriber of a deterministic pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnRange {
    /// Index of the pool.
    pub pool: usize,
    /// Number among the pool's subscribers, from 0.
    pub number: u32,
    /// The subscriber.
    pub internal: Ipv4Addr,
    /// Its external address.
    pub external: Ipv4Addr,
    /// Its ports.
    pub ports: Ports,
    /// Ports of the same address from which it may have further blocks.
    pub overflow: Option<Ports>,
}

/// What is known of an internal address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forward {
    /// It has this external address to itself.
    OneToOne(Ipv4Addr),
    /// No subscriber.
    NotSubscriber,
    /// It uses pools, which by its flows' destinations.
    Pools {
        /// Its ranges of deterministic pools.
        ranges: Vec<OwnRange>,
        /// Indices of the pools of which it gets blocks on demand: only a log can tell which.
        on_demand: Vec<usize>,
    },
}

impl Forward {
    /// The range, of who has one and uses no other pool.
    pub fn only_range(&self) -> Option<OwnRange> {
        match self {
            Forward::Pools { ranges, on_demand } if on_demand.is_empty() && ranges.len() == 1 => {
                ranges.first().copied()
            }
            _ => None,
        }
    }
}

/// What is known of an external endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reverse {
    /// Mapped statically: the internal endpoint, of each protocol that is.
    Static(ArrayVec<(Protocol, InternalEndpoint), { Protocol::COUNT }>),
    /// The address is in no pool.
    Elsewhere,
    /// The pool does not lend this port.
    NotLent {
        /// Index of the pool.
        pool: usize,
    },
    /// In a range that is nobody's.
    Nobody {
        /// Index of the pool.
        pool: usize,
        /// The range.
        ports: Ports,
    },
    /// In a block that is lent on demand: only a log can tell to whom.
    Dynamic {
        /// Index of the pool.
        pool: usize,
        /// The block.
        ports: Ports,
        /// Of the overflow of a deterministic pool.
        overflow: bool,
    },
    /// In the range of a subscriber.
    Range(OwnRange),
}

impl ExternalSpace {
    /// Ports of an internal address. `config` is what this space was made from.
    pub fn forward(&self, config: &Config, internal: Ipv4Addr) -> Forward {
        if let Some(external) = self.statics.own_address_of(internal.into()) {
            return Forward::OneToOne(external.into());
        }
        let Some(group) = config.group_of(internal) else {
            return Forward::NotSubscriber;
        };
        let (mut ranges, mut on_demand) = (Vec::new(), Vec::new());
        for pool in group.realms().iter().flatten().copied() {
            match self.pools[pool].range_of(internal.into()) {
                Some(block) => ranges.push(self.own_range(pool, block, internal)),
                None if on_demand.contains(&pool) => {}
                None => on_demand.push(pool),
            }
        }
        Forward::Pools { ranges, on_demand }
    }

    /// Subscriber that has an external endpoint.
    pub fn reverse(&self, external: Ipv4Addr, port: u16) -> Reverse {
        let address = ExternalAddress::from(external);
        let mapped = Protocol::ALL.into_iter().filter_map(|protocol| {
            let found = self.statics.internal_of(ExternalEndpoint { address, port }, protocol)?;
            Some((protocol, InternalEndpoint::new(found.to.0, found.to.1)))
        });
        let mapped: ArrayVec<_, { Protocol::COUNT }> = mapped.collect();
        if !mapped.is_empty() {
            return Reverse::Static(mapped);
        }
        let Some(pool) = self.pool_of(address).map(usize::from) else {
            return Reverse::Elsewhere;
        };
        let Location::Block(block) = self.locate(ExternalEndpoint { address, port }) else {
            return Reverse::NotLent { pool };
        };
        let geometry = &self.pools[pool];
        let ports = geometry.ports_of(block);
        match geometry.subscriber_of(block) {
            Some(internal) => Reverse::Range(self.own_range(pool, block, internal.into())),
            None if geometry.is_range(block) => Reverse::Nobody { pool, ports },
            None => Reverse::Dynamic { pool, ports, overflow: geometry.is_deterministic() },
        }
    }

    fn own_range(&self, pool: usize, block: u32, internal: Ipv4Addr) -> OwnRange {
        let geometry = &self.pools[pool];
        OwnRange {
            pool,
            number: geometry.subscriber_number(block),
            internal,
            external: geometry.places[geometry.address_of(block) as usize].address.into(),
            ports: geometry.ports_of(block),
            overflow: geometry.overflow_ports(),
        }
    }
}
