//! `announce`: whose external addresses neighbours are told of, and when not any more.

use ipnet::Ipv4Net;

use super::{Config, StaticMapping};

/// `announce`: routes in the kernel for external addresses, while the box is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announce {
    pub(crate) port: usize,
    pub(crate) delay_s: u32,
    pub(crate) withdraw_delay_s: u32,
}

impl Announce {
    /// Index of the external port on whose kernel interface the routes lie.
    pub fn port(self) -> usize {
        self.port
    }

    /// Seconds that the box is ready without a break before anything is announced.
    pub fn delay_s(self) -> u32 {
        self.delay_s
    }

    /// Seconds that packets go on between a withdrawal and the stop.
    pub fn withdraw_delay_s(self) -> u32 {
        self.withdraw_delay_s
    }
}

impl Config {
    /// What is announced, if anything is.
    pub fn announce(&self) -> Option<Announce> {
        self.announce
    }

    /// As few prefixes as hold every external address of pools and static mappings and nothing
    /// else, sorted.
    pub fn external_prefixes(&self) -> Vec<Ipv4Net> {
        let pools = self.pools.iter().flat_map(|pool| &pool.addresses);
        let statics = self.statics.iter().map(|mapping| match mapping {
            StaticMapping::OneToOne { external, .. } => external.trunc(),
            StaticMapping::Forward { external: (address, _), .. } => Ipv4Net::from(*address),
        });
        Ipv4Net::aggregate(&pools.map(|address| Ipv4Net::from(*address)).chain(statics).collect())
    }
}
