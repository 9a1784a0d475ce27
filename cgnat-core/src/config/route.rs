//! `routes[]`: static routes; and which ports follow others.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Config, Port, Side};

/// A static route; more specific wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub(crate) to: Ipv4Net,
    pub(crate) via: Ipv4Addr,
    pub(crate) port: usize,
}

impl Route {
    /// Destination prefix.
    pub fn to(&self) -> Ipv4Net {
        self.to
    }

    /// Next hop; on-link on `port`.
    pub fn via(&self) -> Ipv4Addr {
        self.via
    }

    /// Index into [`Config::ports`].
    pub fn port(&self) -> usize {
        self.port
    }
}

impl Port {
    /// Whether the kernel's routes by its interface are followed.
    pub fn follows_kernel(&self) -> bool {
        self.routes_from_kernel
    }
}

impl Config {
    /// Whether some port of a side follows the kernel's routes.
    pub fn follows_kernel(&self, side: Side) -> bool {
        self.ports.iter().any(|port| port.side == side && port.routes_from_kernel)
    }
}
