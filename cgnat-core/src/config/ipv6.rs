//! `ports.<name>.ipv6` and the IPv6 entries of `routes`: what passes beside the NAT.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use super::{Config, Port};

/// How sources of packets from inside are checked (RFC 3704).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceCheck {
    /// The way back leads out of the port that they came in by.
    Strict,
    /// There is a way back, by any internal port.
    Loose,
    /// Not at all.
    Off,
}

/// IPv6 of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv6 {
    pub(crate) addresses: Vec<Ipv6Net>,
    pub(crate) link_local: Option<Ipv6Addr>,
    pub(crate) next_hop: Option<Ipv6Addr>,
    pub(crate) source_check: SourceCheck,
    pub(crate) neighbours: Vec<(Ipv6Addr, [u8; 6])>,
}

/// A static route; more specific wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv6Route {
    pub(crate) to: Ipv6Net,
    pub(crate) via: Ipv6Addr,
    pub(crate) port: usize,
}

impl Ipv6 {
    /// Own global addresses with their prefix lengths.
    pub fn addresses(&self) -> &[Ipv6Net] {
        &self.addresses
    }

    /// The link-local address, if it is not the one of the MAC.
    pub fn link_local(&self) -> Option<Ipv6Addr> {
        self.link_local
    }

    /// Default next hop; of an external port.
    pub fn next_hop(&self) -> Option<Ipv6Addr> {
        self.next_hop
    }

    /// How sources are checked that come in here; of an internal port.
    pub fn source_check(&self) -> SourceCheck {
        self.source_check
    }

    /// Static neighbours: address and MAC.
    pub fn neighbours(&self) -> &[(Ipv6Addr, [u8; 6])] {
        &self.neighbours
    }
}

impl Ipv6Route {
    /// Destination prefix.
    pub fn to(&self) -> Ipv6Net {
        self.to
    }

    /// Next hop, on the link of `port`.
    pub fn via(&self) -> Ipv6Addr {
        self.via
    }

    /// Index into [`Config::ports`].
    pub fn port(&self) -> usize {
        self.port
    }
}

impl Port {
    /// What it takes of IPv6, if it takes any.
    pub fn ipv6(&self) -> Option<&Ipv6> {
        self.ipv6.as_ref()
    }
}

impl Config {
    /// Static IPv6 routes in the order of the file.
    pub fn ipv6_routes(&self) -> &[Ipv6Route] {
        &self.ipv6_routes
    }
}
