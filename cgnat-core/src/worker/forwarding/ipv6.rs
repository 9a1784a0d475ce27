//! IPv6 as the packet path and Neighbour Discovery use it: own addresses, and where prefixes lead.
//! Built once, shared; only the states of own addresses change.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::config::{Config, Side, SourceCheck};
use crate::packet::ethernet::Mac;
use crate::packet::ipv6;

/// What may be done with an own address (RFC 4862 section 5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Nobody was asked yet, or may still object: it is not used.
    Tentative,
    /// It is ours.
    InUse,
    /// Somebody else has it: it is not used.
    Duplicate,
}

/// An own address.
#[derive(Debug)]
pub struct Own {
    address: u128,
    mask: u128,
    state: AtomicU8,
}

impl Own {
    fn new(address: u128, length: u8) -> Self {
        let tentative = AtomicU8::new(State::Tentative as u8);
        Self { address, mask: mask_of(length), state: tentative }
    }

    /// The address.
    pub fn address(&self) -> u128 {
        self.address
    }

    /// Length of its prefix.
    pub fn prefix_len(&self) -> u8 {
        self.mask.leading_ones() as u8
    }

    /// What may be done with it.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Tentative,
            1 => State::InUse,
            _ => State::Duplicate,
        }
    }

    /// Only housekeeping calls this.
    pub fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn is_near(&self, address: u128) -> bool {
        self.address & self.mask == address & self.mask
    }
}

/// A port that takes IPv6.
#[derive(Debug)]
pub struct Ipv6Port {
    /// The link-local one first.
    own: Vec<Own>,
    /// How sources are checked that come in here; of an internal port.
    pub source_check: SourceCheck,
}

impl Ipv6Port {
    /// Own addresses, the link-local one first.
    pub fn own_addresses(&self) -> &[Own] {
        &self.own
    }

    /// An own address of this port.
    pub fn own(&self, address: u128) -> Option<&Own> {
        self.own.iter().find(|own| own.address == address)
    }

    /// Whether `address` is an own address of this port that is used.
    pub fn is_in_use(&self, address: u128) -> bool {
        self.own(address).is_some_and(|own| own.state() == State::InUse)
    }

    /// Whether `address` is of the link.
    pub fn is_on_link(&self, address: u128) -> bool {
        self.own.iter().any(|own| own.is_near(address))
    }

    /// The own address to ask neighbours with.
    pub fn asks_with(&self) -> Option<u128> {
        self.own.iter().find(|own| own.state() == State::InUse).map(Own::address)
    }

    /// The own address to talk to `receiver` with, if this port has one of its scope.
    fn talks_with(&self, receiver: u128) -> Option<u128> {
        let usable = || self.own.iter().filter(|own| own.state() == State::InUse);
        let is_link_local = ipv6::is_link_local(receiver);
        let fits = |own: &&Own| ipv6::is_link_local(own.address) == is_link_local;
        let near = usable().filter(fits).find(|own| own.is_near(receiver));
        near.or(usable().find(fits)).map(Own::address)
    }
}

/// What a prefix leads to: a port, and a next hop unless the destination is on the link.
type Way = (u8, Option<u128>);

/// Ports, addresses and prefixes.
#[derive(Debug)]
pub struct Ipv6Forwarding {
    /// By port.
    ports: Vec<Option<Ipv6Port>>,
    /// By side.
    prefixes: [Prefixes; 2],
    next_hops: Vec<(u8, u128)>,
    static_neighbours: Vec<(u8, u128, Mac)>,
}

impl Ipv6Forwarding {
    /// From the configuration and the MACs of its ports, in order.
    pub(super) fn new(config: &Config, macs: &[Mac]) -> Self {
        let mut lists: [Vec<(u128, u8, Way)>; 2] = [Vec::new(), Vec::new()];
        let (mut ports, mut next_hops, mut static_neighbours) = (vec![], vec![], vec![]);
        for (index, (port, mac)) in config.ports().iter().zip(macs).enumerate() {
            let Some(ipv6) = port.ipv6() else {
                ports.push(None);
                continue;
            };
            let index = index as u8;
            let link_local = ipv6.link_local().map_or(ipv6::link_local_of(*mac), u128::from);
            let mut own = vec![Own::new(link_local, 64)];
            let list = &mut lists[port.side() as usize];
            for net in ipv6.addresses() {
                own.push(Own::new(net.addr().into(), net.prefix_len()));
                list.push((net.network().into(), net.prefix_len(), (index, None)));
            }
            if let Some(via) = ipv6.next_hop() {
                list.push((0, 0, (index, Some(via.into()))));
                next_hops.push((index, via.into()));
            }
            for (address, mac) in ipv6.neighbours() {
                static_neighbours.push((index, u128::from(*address), *mac));
            }
            ports.push(Some(Ipv6Port { own, source_check: ipv6.source_check() }));
        }
        for route in config.ipv6_routes() {
            let (port, via) = (route.port() as u8, u128::from(route.via()));
            let list = &mut lists[config.ports()[route.port()].side() as usize];
            list.push((route.to().network().into(), route.to().prefix_len(), (port, Some(via))));
            if !next_hops.contains(&(port, via)) {
                next_hops.push((port, via));
            }
        }
        Self { ports, prefixes: lists.map(Prefixes::new), next_hops, static_neighbours }
    }

    /// A port, if it takes IPv6.
    #[inline]
    pub fn port(&self, port: usize) -> Option<&Ipv6Port> {
        self.ports[port].as_ref()
    }

    /// Whether any port takes IPv6.
    pub fn is_on(&self) -> bool {
        self.ports.iter().any(Option::is_some)
    }

    /// An own address as seen from a port: of any port, but for a link-local one, which means
    /// something else on each link.
    #[inline]
    fn own(&self, port: usize, address: u128) -> Option<&Own> {
        match ipv6::is_link_local(address) {
            true => self.port(port)?.own(address),
            false => self.ports.iter().flatten().find_map(|port| port.own(address)),
        }
    }

    /// Whether `address` is an own one, as seen from a port.
    #[inline]
    pub fn is_own(&self, port: usize, address: u128) -> bool {
        self.own(port, address).is_some()
    }

    /// Whether `address` is an own one that is used, as seen from a port.
    pub fn is_in_use(&self, port: usize, address: u128) -> bool {
        self.own(port, address).is_some_and(|own| own.state() == State::InUse)
    }

    /// Port and next hop towards `destination` on a side.
    #[inline]
    pub fn way(&self, side: Side, destination: u128) -> Option<(u8, u128)> {
        let (port, via) = self.prefixes[side as usize].find(destination)?;
        Some((port, via.unwrap_or(destination)))
    }

    /// The own address to talk to `receiver` with, who is reached by `port`; if that has none of its
    /// scope, one of another port.
    pub fn talks_with(&self, port: usize, receiver: u128) -> Option<u128> {
        let here = self.port(port)?.talks_with(receiver);
        let is_global = !ipv6::is_link_local(receiver);
        let mut others = self.ports.iter().flatten().filter(|_| is_global);
        here.or_else(|| others.find_map(|port| port.talks_with(receiver)))
    }

    /// Next hops that are resolved before a packet needs them.
    pub fn next_hops(&self) -> &[(u8, u128)] {
        &self.next_hops
    }

    /// Neighbours of the configuration.
    pub fn static_neighbours(&self) -> &[(u8, u128, Mac)] {
        &self.static_neighbours
    }
}

fn mask_of(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

/// Prefixes, the longest of which decides: a list of the addresses at which another one begins to.
#[derive(Debug)]
struct Prefixes {
    begins: Vec<u128>,
    ways: Vec<Option<Way>>,
}

impl Prefixes {
    /// Of (network, length, way); of equal prefixes the first counts.
    fn new(mut list: Vec<(u128, u8, Way)>) -> Self {
        // Stable: wider ones first, and of equal ones the order of the list.
        list.sort_by_key(|(network, length, _)| (*network, *length));
        list.dedup_by_key(|(network, length, _)| (*network, *length));
        let mut made = Self { begins: Vec::new(), ways: Vec::new() };
        // Prefixes that the place is inside of: last address, way.
        let mut around: Vec<(u128, Way)> = Vec::new();
        for (network, length, way) in list {
            made.leave(&mut around, Some(network));
            made.begin(network, Some(way));
            around.push((network | !mask_of(length), way));
        }
        made.leave(&mut around, None);
        made
    }

    /// Ends those prefixes that lie before `place`.
    fn leave(&mut self, around: &mut Vec<(u128, Way)>, place: Option<u128>) {
        while let Some((last, _)) = around.last().copied()
            && place.is_none_or(|place| last < place)
        {
            around.pop();
            if let Some(next) = last.checked_add(1) {
                self.begin(next, around.last().map(|(_, way)| *way));
            }
        }
    }

    fn begin(&mut self, at: u128, way: Option<Way>) {
        if self.begins.last() == Some(&at) {
            self.begins.pop();
            self.ways.pop();
        }
        self.begins.push(at);
        self.ways.push(way);
    }

    #[inline]
    fn find(&self, address: u128) -> Option<Way> {
        let place = self.begins.partition_point(|begin| *begin <= address);
        self.ways[place.checked_sub(1)?]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

    #[test]
    fn the_longest_prefix_is_found_as_by_looking_at_all() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for round in 0..200 {
            let mut list = Vec::new();
            for n in 0..1 + round % 60 {
                // Few bits that differ, so that prefixes lie within each other.
                let length =
                    [0, 1, 32, 48, 56, 63, 64, 65, 126, 127, 128][random.next_u32() as usize % 11];
                let bits = u128::from(random.next_u32() & 7) << 125
                    | u128::from(random.next_u32() & 7) << 64
                    | u128::from(random.next_u32() & 3);
                let network = bits & mask_of(length);
                if !list.iter().any(|(other, len, _)| (*other, *len) == (network, length)) {
                    list.push((network, length, (n as u8, None)));
                }
            }
            let prefixes = Prefixes::new(list.clone());
            let mut places: Vec<u128> = list
                .iter()
                .flat_map(|(network, length, _)| {
                    let last = network | !mask_of(*length);
                    [*network, network.wrapping_sub(1), last, last.wrapping_add(1)]
                })
                .collect();
            places.extend([0, u128::MAX, 5 << 125]);
            for place in places {
                let all = list.iter().filter(|(n, len, _)| place & mask_of(*len) == *n);
                let longest = all.max_by_key(|(_, len, _)| *len).map(|(_, _, way)| *way);
                assert_eq!(prefixes.find(place), longest, "{place:x} in {list:x?}");
            }
        }
    }

    #[test]
    fn of_equal_prefixes_the_first_counts() {
        let one = (1 << 64, 64, (1, None));
        let prefixes = Prefixes::new(vec![one, (1 << 64, 64, (2, Some(7)))]);
        assert_eq!(prefixes.find(1 << 64 | 9), Some((1, None)));
    }
}
