//! Which parts of the address space only hosts outside can have.

use ipnet::Ipv4Net;

use super::parts::Parts;
use crate::config::{Config, Side};
use crate::packet::ipv4::is_martian;

/// 100.64.0.0/10: never crosses a provider's boundary (RFC 6598 section 4).
pub const SHARED: (u32, u32) = (0x6440_0000, 0x647f_ffff);

/// 169.254.0.0/16: never forwarded (RFC 3927 section 2.7).
pub const LINK_LOCAL: (u32, u32) = (0xa9fe_0000, 0xa9fe_ffff);

/// Ranges that exist only on the internal side: first and last address.
pub fn inside(config: &Config) -> Vec<(u32, u32)> {
    let internal = config.ports().iter().filter(|port| port.side() == Side::Internal);
    let prefixes = internal.flat_map(|port| port.addresses());
    let ranges = config.groups().iter().flat_map(|group| group.ranges());
    let ends = |net: &Ipv4Net| (u32::from(net.network()), u32::from(net.broadcast()));
    ranges.chain(prefixes).map(ends).chain([SHARED, LINK_LOCAL]).collect()
}

/// The /16s.
#[derive(Clone)]
pub struct RemoteSpace {
    /// Without regard to pools and static mappings.
    beside_ours: Parts,
    parts: Parts,
}

impl RemoteSpace {
    /// What is no port's, inside or martian.
    pub fn new(config: &Config) -> Self {
        let mut parts = Parts::all();
        for part in (0..1 << 16).filter(|part| is_martian(part << 16)) {
            parts.take_out((part << 16, part << 16));
        }
        inside(config).into_iter().for_each(|range| parts.take_out(range));
        for own in config.ports().iter().flat_map(|port| port.addresses()) {
            parts.take_out((u32::from(own.addr()), u32::from(own.addr())));
        }
        Self { beside_ours: parts.clone(), parts }
    }

    /// Sets the ranges of our external addresses: first and last.
    pub fn set_ours(&mut self, ranges: impl Iterator<Item = (u32, u32)>) {
        self.parts = self.beside_ours.clone();
        ranges.for_each(|range| self.parts.take_out(range));
    }

    /// Whether `address` is surely remote.
    #[inline]
    pub fn has(&self, address: u32) -> bool {
        self.parts.has(address)
    }
}
