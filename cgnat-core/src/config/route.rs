//! `routes[]`: static routes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

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
