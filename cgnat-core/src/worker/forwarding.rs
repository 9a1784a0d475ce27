//! Ports, own addresses and routes as the packet path uses them. Built once, shared.

mod ipv6;

use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::Ipv4Net;

use crate::config::{Config, Side};
use crate::packet::ethernet::{Mac, Tags};
use crate::policy::bypass::Bypass;
use crate::space::parts::Parts;
use crate::space::{ExternalSpace, inside};

pub use ipv6::{Ipv6Forwarding, Ipv6Port, Own, State};

/// One port.
#[derive(Debug, Clone)]
pub struct PortInfo {
    /// Name in the configuration.
    pub name: String,
    /// Side of the NAT.
    pub side: Side,
    /// MAC of the device.
    pub mac: Mac,
    /// VLAN tags of all frames.
    pub tags: Tags,
    /// Largest packet, bytes.
    pub mtu: u16,
    /// What is for the box itself goes to the kernel.
    pub punts: bool,
    /// Packets may come without the checksums that their senders left to a card.
    pub completes_checksums: bool,
    /// IPv6 packets are taken.
    pub takes_ipv6: bool,
    /// Own addresses: (address, network mask).
    addresses: Vec<(u32, u32)>,
    /// See [`begins_frames`].
    beginning: u64,
}

/// The beginning of frames to a port that have no tag, so that it can be compared in one go: the
/// MAC above 16 bits of 0, or what no frame has if its frames have tags.
fn begins_frames(mac: Mac, tags: Tags) -> u64 {
    let [a, b, c, d, e, f] = mac;
    if tags.is_empty() { u64::from_le_bytes([0, 0, a, b, c, d, e, f]) } else { u64::MAX }
}

impl PortInfo {
    /// Whether a frame that begins like this is for the port, and frames of the port have no tag.
    #[inline]
    pub fn is_to_us_untagged(&self, frame: &[u8; 8]) -> bool {
        u64::from_le_bytes(*frame) << 16 == self.beginning
    }

    /// Whether ARP for `address` is answered here: own, or a pool's or a static mapping's and
    /// on-link at an external port.
    pub fn answers_for(&self, address: u32, space: &ExternalSpace) -> bool {
        let is_external = self.side == Side::External;
        self.is_own(address) || is_external && self.is_on_link(address) && space.contains(address)
    }

    /// Whether `address` is of a prefix of this port.
    pub fn is_on_link(&self, address: u32) -> bool {
        self.addresses.iter().any(|(own, mask)| own & mask == address & mask)
    }

    /// Whether `address` is an own address of this port.
    pub fn is_own(&self, address: u32) -> bool {
        self.addresses.iter().any(|(own, _)| *own == address)
    }

    /// Own addresses of this port.
    pub fn own_addresses(&self) -> impl Iterator<Item = u32> {
        self.addresses.iter().map(|(own, _)| *own)
    }

    /// The own address to ask with for an on-link `target`.
    pub fn address_towards(&self, target: u32) -> Option<u32> {
        let on_link = self.addresses.iter().find(|(own, mask)| own & mask == target & mask);
        on_link.or(self.addresses.first()).map(|(own, _)| *own)
    }
}

/// A route: destination network -> port and next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Route {
    network: u32,
    mask: u32,
    port: u8,
    /// `None`: the destination itself is on-link.
    via: Option<u32>,
}

/// The routes of a side.
struct Ways {
    /// Longest prefix first; a handful.
    routes: Vec<Route>,
    /// Where only the default route leads, if there is one.
    far: Parts,
}

impl Ways {
    fn new(mut routes: Vec<Route>) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.mask));
        let has_default = routes.last().is_some_and(|route| route.mask == 0);
        let mut far = if has_default { Parts::all() } else { Parts::none() };
        for Route { network, mask, .. } in routes.iter().filter(|route| route.mask != 0) {
            far.take_out((*network, *network | !*mask));
        }
        Self { routes, far }
    }
}

/// Everything the worker needs to send a packet on.
pub struct Forwarding {
    ports: Vec<PortInfo>,
    own: HashMap<u32, u8>,
    /// By side.
    ways: [Ways; 2],
    /// Ranges that exist only on the internal side: first and last address.
    inside: Vec<(u32, u32)>,
    static_neighbours: Vec<(u8, u32, Mac)>,
    next_hops: Vec<(u8, u32)>,
    smallest_mtu: usize,
    bypass: Bypass,
    ipv6: Ipv6Forwarding,
}

impl Forwarding {
    /// From the configuration and the MACs of its ports, in order.
    ///
    /// # Panics
    /// If there are not as many MACs as ports.
    pub fn new(config: &Config, macs: &[Mac]) -> Arc<Self> {
        assert_eq!(config.ports().len(), macs.len());
        let mut own = HashMap::new();
        let mut ports = Vec::new();
        let mut routes = (Vec::new(), Vec::new());
        let mut next_hops = Vec::new();
        let mut static_neighbours = Vec::new();
        for (index, (port, mac)) in config.ports().iter().zip(macs).enumerate() {
            let index = index as u8;
            let table = match port.side() {
                Side::Internal => &mut routes.0,
                Side::External => &mut routes.1,
            };
            let mut addresses = Vec::new();
            for net in port.addresses() {
                let (address, mask) = (u32::from(net.addr()), u32::from(net.netmask()));
                own.insert(address, index);
                addresses.push((address, mask));
                table.push(Route { network: address & mask, mask, port: index, via: None });
            }
            if let Some(next_hop) = port.next_hop() {
                let via = Some(u32::from(next_hop));
                table.push(Route { network: 0, mask: 0, port: index, via });
                next_hops.push((index, u32::from(next_hop)));
            }
            for (address, mac) in port.neighbours() {
                static_neighbours.push((index, u32::from(*address), *mac));
            }
            ports.push(PortInfo {
                name: port.name().to_owned(),
                side: port.side(),
                mac: *mac,
                tags: port.tags(),
                mtu: port.mtu(),
                punts: port.kernel_interface().is_some(),
                completes_checksums: port.is_packet_socket(),
                takes_ipv6: port.ipv6().is_some(),
                addresses,
                beginning: begins_frames(*mac, port.tags()),
            });
        }
        for route in config.routes() {
            let side = config.ports()[route.port()].side();
            let table = if side == Side::Internal { &mut routes.0 } else { &mut routes.1 };
            let via = u32::from(route.via());
            table.push(Route {
                network: u32::from(route.to().network()),
                mask: u32::from(route.to().netmask()),
                port: route.port() as u8,
                via: Some(via),
            });
            if !next_hops.contains(&(route.port() as u8, via)) {
                next_hops.push((route.port() as u8, via));
            }
        }
        let internal_ports = || config.ports().iter().filter(|port| port.side() == Side::Internal);
        let prefixes = || internal_ports().flat_map(|port| port.addresses());
        let ranges = || config.groups().iter().flat_map(|group| group.ranges());
        Arc::new(Self {
            inside: inside(config),
            smallest_mtu: ports.iter().map(|port| usize::from(port.mtu)).min().unwrap_or(0),
            ports,
            own,
            ways: [Ways::new(routes.0), Ways::new(routes.1)],
            static_neighbours,
            next_hops,
            ipv6: Ipv6Forwarding::new(config, macs),
            bypass: Bypass::new(config.bypass(), ranges().copied(), prefixes().map(Ipv4Net::trunc)),
        })
    }

    /// What there is of IPv6.
    #[inline]
    pub fn ipv6(&self) -> &Ipv6Forwarding {
        &self.ipv6
    }

    /// Ports in the order of the configuration.
    pub fn ports(&self) -> &[PortInfo] {
        &self.ports
    }

    /// The smallest MTU of all ports: what is not larger fits everywhere.
    #[inline]
    pub fn smallest_mtu(&self) -> usize {
        self.smallest_mtu
    }

    /// Whether `address` is one of our own.
    #[inline]
    pub fn is_own(&self, address: u32) -> bool {
        self.own.contains_key(&address)
    }

    /// Whether `address` belongs to the internal side alone: a subscriber range, a prefix of
    /// an internal port, shared (RFC 6598) or link-local (RFC 3927) space.
    #[inline]
    pub fn is_inside(&self, address: u32) -> bool {
        self.inside.iter().any(|(first, last)| (*first..=*last).contains(&address))
    }

    /// Whether no single host has `address`: it is the first or the last of a port's prefix.
    pub fn is_broadcast(&self, address: u32) -> bool {
        let mut prefixes = self.ports.iter().flat_map(|port| &port.addresses);
        prefixes.any(|(own, mask)| {
            let host = address & !mask;
            *mask < 0xffff_fffe && address & mask == own & mask && (host == 0 || host == !mask)
        })
    }

    /// What passes untranslated.
    #[inline]
    pub fn bypass(&self) -> &Bypass {
        &self.bypass
    }

    /// Port and next hop towards `destination` on a side.
    #[inline]
    pub fn next_hop(&self, side: Side, destination: u32) -> Option<(u8, u32)> {
        let mut routes = self.ways[side as usize].routes.iter();
        let route = routes.find(|route| destination & route.mask == route.network)?;
        Some((route.port, route.via.unwrap_or(destination)))
    }

    /// Whether only the default route of a side leads to `destination`. A no means nothing: it is
    /// by parts of the address space, for packets that shall be quick.
    #[inline]
    pub fn is_surely_far(&self, side: Side, destination: u32) -> bool {
        self.ways[side as usize].far.has(destination)
    }

    /// Port and next hop of the default route of a side: of several the one that
    /// [`Forwarding::next_hop`] takes.
    pub fn default_hop(&self, side: Side) -> Option<(u8, u32)> {
        let default = self.ways[side as usize].routes.iter().find(|route| route.mask == 0)?;
        Some((default.port, default.via?))
    }

    /// Routes of a side as configured, prefixes of ports among them: network, mask, port, next hop.
    pub(super) fn configured(
        &self,
        side: Side,
    ) -> impl Iterator<Item = (u32, u32, u8, Option<u32>)> + '_ {
        let routes = &self.ways[side as usize].routes;
        routes.iter().map(|Route { network, mask, port, via }| (*network, *mask, *port, *via))
    }

    /// Neighbours from the configuration.
    pub fn static_neighbours(&self) -> &[(u8, u32, Mac)] {
        &self.static_neighbours
    }

    /// Next hops that are used for certain and so are resolved before a packet needs them.
    pub fn next_hops(&self) -> &[(u8, u32)] {
        &self.next_hops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "version: 1
ports:
  internal0:
    side: internal
    device: net_null0
    addresses: [10.255.0.2/30]
    next-hop: 10.255.0.1
  external0:
    side: external
    device: net_null1
    addresses: [192.0.2.2/30]
    next-hop: 192.0.2.1
  external1:
    side: external
    device: net_null2
    addresses: [192.0.2.6/30]
routes:
  - { to: 198.51.0.0/16, via: 192.0.2.5, port: external1 }
  - { to: 0.0.0.0/0, via: 192.0.2.5, port: external1 }
pools:
  main: { addresses: [203.0.113.0/28] }
subscribers:
  - { name: everyone, match: [100.64.0.0/10], pool: main }
";

    #[test]
    fn what_is_far_goes_by_the_default_route_that_a_look_up_finds() {
        let config = Config::from_yaml("t.yaml", YAML).unwrap_or_else(|e| panic!("{e}"));
        let forwarding = Forwarding::new(&config, &[[2, 0, 0, 0, 0, 1]; 3]);
        let (far, near) = (0x0808_0808, 0xc633_6401);
        let (first, second) = ((1, 0xc000_0201), (2, 0xc000_0205));
        assert!(forwarding.is_surely_far(Side::External, far));
        assert_eq!(forwarding.next_hop(Side::External, far), Some(first));
        assert_eq!(forwarding.default_hop(Side::External), Some(first));
        assert!(!forwarding.is_surely_far(Side::External, near));
        assert_eq!(forwarding.next_hop(Side::External, near), Some(second));
    }
}
