//! Static mappings: internal endpoint <-> external endpoint, from the configuration alone.
//!
//! Built once, shared read-only by all workers: whichever gets the packet translates it. No
//! record, timer or port block stands behind one, so nothing that runs short ends it.
//!
//! ```text
//!   one to one      address <-> address     all ports and identifiers, all protocols
//!   port forwards   address:port <-> address:port    of TCP, UDP or both
//! ```
//!
//! Always true: an endpoint of either side is in at most one mapping. What is in none costs one
//! look at a bitmap.

use hashbrown::HashMap;

use crate::config::StaticMapping;
use crate::endpoint::{ExternalEndpoint, InternalEndpoint, Protocol};

/// Bits of the map that tells most addresses without a static mapping.
const NEAR_BITS: usize = 1 << 16;

/// Neighbouring addresses that are mapped one to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Addresses {
    first: u32,
    last: u32,
    to: u32,
}

/// Neighbouring ports of one address and protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    first: u16,
    last: u16,
    to: (u32, u16),
}

/// What an endpoint is mapped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Static {
    /// The endpoint of the other side.
    pub to: (u32, u16),
    /// One to one: nobody else has this external address.
    pub is_whole: bool,
}

/// The mappings as seen from one side.
#[derive(Debug, Clone, Default)]
struct Side {
    /// A bit for the hash of each address; without any mapping, nothing at all.
    near: Vec<u64>,
    /// Sorted.
    whole: Vec<Addresses>,
    /// By address and protocol; sorted.
    ports: HashMap<(u32, Protocol), Vec<Ports>>,
}

impl Side {
    fn note(&mut self, address: u32) {
        self.near.resize(NEAR_BITS / 64, 0);
        let bit = bit_of(address);
        self.near[bit / 64] |= 1 << (bit % 64);
    }

    fn add_whole(&mut self, (first, last): (u32, u32), to: u32) {
        (first..=last).for_each(|address| self.note(address));
        self.whole.push(Addresses { first, last, to });
        self.whole.sort_unstable_by_key(|addresses| addresses.first);
    }

    fn add_ports(&mut self, (address, protocol): (u32, Protocol), ports: Ports) {
        self.note(address);
        let list = self.ports.entry((address, protocol)).or_default();
        list.push(ports);
        list.sort_unstable_by_key(|ports| ports.first);
    }

    #[inline]
    fn find(&self, address: u32, protocol: Option<Protocol>, port: u16) -> Option<Static> {
        let bit = bit_of(address);
        if self.near.get(bit / 64)? >> (bit % 64) & 1 == 0 {
            return None;
        }
        if let Some(to) = self.find_whole(address) {
            return Some(Static { to: (to, port), is_whole: true });
        }
        let list = self.ports.get(&(address, protocol?))?;
        let after = list.partition_point(|ports| ports.first <= port);
        let ports = list[..after].last().filter(|ports| port <= ports.last)?;
        let to = (ports.to.0, ports.to.1 + (port - ports.first));
        Some(Static { to, is_whole: false })
    }

    fn find_whole(&self, address: u32) -> Option<u32> {
        let after = self.whole.partition_point(|addresses| addresses.first <= address);
        let found = self.whole[..after].last().filter(|addresses| address <= addresses.last)?;
        Some(found.to + (address - found.first))
    }
}

fn bit_of(address: u32) -> usize {
    (address.wrapping_mul(0x9e37_79b1) >> 16) as usize
}

/// All static mappings, both ways.
#[derive(Debug, Clone, Default)]
pub struct Statics {
    internal: Side,
    external: Side,
}

impl Statics {
    /// From validated mappings, no two of which share an endpoint.
    pub(super) fn new(mappings: &[StaticMapping]) -> Self {
        let mut statics = Self::default();
        for mapping in mappings {
            match mapping {
                StaticMapping::OneToOne { internal, external } => {
                    let span = |net: &ipnet::Ipv4Net| {
                        (u32::from(net.network()), u32::from(net.broadcast()))
                    };
                    let (inside, outside) = (span(internal), span(external));
                    statics.internal.add_whole(inside, outside.0);
                    statics.external.add_whole(outside, inside.0);
                }
                StaticMapping::Forward { internal, external, count, tcp, udp } => {
                    let internal = (u32::from(internal.0), internal.1);
                    let external = (u32::from(external.0), external.1);
                    let tcp = tcp.then_some(Protocol::Tcp);
                    for protocol in tcp.into_iter().chain(udp.then_some(Protocol::Udp)) {
                        let ports =
                            |from: u16, to| Ports { first: from, last: from + (count - 1), to };
                        let (inside, outside) =
                            (ports(internal.1, external), ports(external.1, internal));
                        statics.internal.add_ports((internal.0, protocol), inside);
                        statics.external.add_ports((external.0, protocol), outside);
                    }
                }
            }
        }
        statics
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.internal.near.is_empty()
    }

    /// The external endpoint of an internal one; without a protocol only of a whole address.
    #[inline]
    pub fn external_of(
        &self,
        internal: InternalEndpoint,
        protocol: impl Into<Option<Protocol>>,
    ) -> Option<Static> {
        self.internal.find(internal.address.0, protocol.into(), internal.port)
    }

    /// The internal endpoint of an external one; without a protocol only of a whole address.
    #[inline]
    pub fn internal_of(
        &self,
        external: ExternalEndpoint,
        protocol: impl Into<Option<Protocol>>,
    ) -> Option<Static> {
        self.external.find(external.address.0, protocol.into(), external.port)
    }

    /// The external address that an internal one has to itself.
    pub fn own_address_of(&self, internal: u32) -> Option<u32> {
        self.internal.find_whole(internal)
    }

    /// External addresses; one that has several forwards may come several times.
    pub fn external_addresses(&self) -> impl Iterator<Item = u32> {
        let whole = self.external.whole.iter().flat_map(|a| a.first..=a.last);
        whole.chain(self.external.ports.keys().map(|(address, _)| *address))
    }

    /// External ports of forwards: address, first and last port.
    pub fn external_ports(&self) -> impl Iterator<Item = (u32, u16, u16)> {
        let all = self.external.ports.iter();
        all.flat_map(|((address, _), list)| list.iter().map(|p| (*address, p.first, p.last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> u32 {
        u32::from(text.parse::<std::net::Ipv4Addr>().expect("an address"))
    }

    fn statics() -> Statics {
        let forward =
            |internal: (&str, u16), external: (&str, u16), count, protocols: &[Protocol]| {
                StaticMapping::Forward {
                    internal: (internal.0.parse().expect("an address"), internal.1),
                    external: (external.0.parse().expect("an address"), external.1),
                    count,
                    tcp: protocols.contains(&Protocol::Tcp),
                    udp: protocols.contains(&Protocol::Udp),
                }
            };
        let net = |text: &str| text.parse().expect("a prefix");
        Statics::new(&[
            StaticMapping::OneToOne {
                internal: net("100.64.9.0/30"),
                external: net("203.0.113.4/30"),
            },
            forward(("100.64.1.1", 8000), ("203.0.113.0", 65_530), 6, &[Protocol::Tcp]),
            forward(("100.64.1.1", 67), ("203.0.113.0", 67), 1, &[Protocol::Udp, Protocol::Tcp]),
            forward(("100.64.1.2", 8000), ("203.0.113.0", 8000), 11, &[Protocol::Udp]),
        ])
    }

    #[test]
    fn every_endpoint_leads_there_and_back_and_no_other_one_does() {
        let statics = statics();
        let inside = (address("100.64.8.250")..address("100.64.9.10"))
            .chain(address("100.64.1.0")..address("100.64.1.5"));
        let mut found = 0;
        for internal in inside {
            for port in (0..100).chain(7990..8020).chain(65_500..=65_535) {
                for protocol in Protocol::ALL {
                    let from = InternalEndpoint::new(internal, port);
                    let Some(there) = statics.external_of(from, protocol) else { continue };
                    let to = ExternalEndpoint::new(there.to.0, there.to.1);
                    let back = statics.internal_of(to, protocol).expect("a way back");
                    assert_eq!(back, Static { to: (internal, port), is_whole: there.is_whole });
                    found += 1;
                }
            }
        }
        // Four whole addresses; 6 and 1 of TCP, 1 and 11 of UDP.
        assert_eq!(found, 4 * 3 * (100 + 30 + 36) + 6 + 1 + 1 + 11);
    }

    #[test]
    fn a_forward_is_of_its_ports_and_protocols_alone() {
        let statics = statics();
        let of = |port, protocol| {
            let from = ExternalEndpoint::new(address("203.0.113.0"), port);
            statics.internal_of(from, protocol).map(|found| found.to)
        };
        assert_eq!(of(65_535, Protocol::Tcp), Some((address("100.64.1.1"), 8005)));
        for (port, protocol) in [
            (65_529, Protocol::Tcp),
            (65_535, Protocol::Udp),
            (67, Protocol::Icmp),
            (8011, Protocol::Udp),
            (7999, Protocol::Udp),
        ] {
            assert_eq!(of(port, protocol), None, "{port} {protocol}");
        }
        assert_eq!(statics.own_address_of(address("100.64.9.3")), Some(address("203.0.113.7")));
        assert_eq!(statics.own_address_of(address("100.64.1.1")), None);
        assert_eq!(statics.own_address_of(address("100.64.9.4")), None);
    }

    #[test]
    fn without_a_mapping_nothing_is_found_and_nothing_kept() {
        let none = Statics::new(&[]);
        assert!(none.is_empty() && !statics().is_empty());
        assert_eq!(none.external_of(InternalEndpoint::new(1, 1), Protocol::Tcp), None);
    }
}
