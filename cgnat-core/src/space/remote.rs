//! Which parts of the address space only hosts outside can have.
//!
//! One bit for each /16, 8 KiB in all, so that it stays in the CPU's nearest cache: it is asked
//! for each packet, and answers for nearly all of them. What is in a /16 with something of ours
//! is looked at closely elsewhere.

use ipnet::Ipv4Net;

use crate::config::{Config, Side};
use crate::packet::ipv4::is_martian;

/// 100.64.0.0/10: never crosses a provider's boundary (RFC 6598 section 4).
pub const SHARED: (u32, u32) = (0x6440_0000, 0x647f_ffff);

/// 169.254.0.0/16: never forwarded (RFC 3927 section 2.7).
pub const LINK_LOCAL: (u32, u32) = (0xa9fe_0000, 0xa9fe_ffff);

const WORDS: usize = (1 << 16) / 64;

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
    beside_ours: Box<[u64; WORDS]>,
    bits: Box<[u64; WORDS]>,
}

impl RemoteSpace {
    /// What is no port's, inside or martian.
    pub fn new(config: &Config) -> Self {
        let mut bits = Box::new([u64::MAX; WORDS]);
        for part in (0..1 << 16).filter(|part| is_martian(part << 16)) {
            clear(&mut bits, (part << 16, part << 16));
        }
        inside(config).into_iter().for_each(|range| clear(&mut bits, range));
        for own in config.ports().iter().flat_map(|port| port.addresses()) {
            clear(&mut bits, (u32::from(own.addr()), u32::from(own.addr())));
        }
        Self { beside_ours: bits.clone(), bits }
    }

    /// Sets the ranges of our external addresses: first and last.
    pub fn set_ours(&mut self, ranges: impl Iterator<Item = (u32, u32)>) {
        self.bits = self.beside_ours.clone();
        ranges.for_each(|range| clear(&mut self.bits, range));
    }

    /// Whether `address` is surely remote.
    #[inline]
    pub fn has(&self, address: u32) -> bool {
        let part = address >> 16;
        self.bits[(part / 64) as usize] >> (part % 64) & 1 == 1
    }
}

fn clear(bits: &mut [u64; WORDS], (first, last): (u32, u32)) {
    for part in first >> 16..=last >> 16 {
        bits[(part / 64) as usize] &= !(1 << (part % 64));
    }
}
