//! `subscribers`: groups and their rules by destination.

use ipnet::Ipv4Net;

use super::Limits;
use crate::endpoint::{Protocol, Realm};

/// A group of subscribers; the first whose ranges hold the address wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberGroup {
    pub(crate) name: String,
    pub(crate) ranges: Vec<Ipv4Net>,
    /// The first is the group's own; no two are equal.
    pub(crate) realms: Vec<Vec<usize>>,
    pub(crate) destinations: Vec<DestinationRule>,
    pub(crate) limits: Limits,
}

/// One of `subscribers[].destinations`: flows that use other pools than the group's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationRule {
    pub(crate) to: Vec<Ipv4Net>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) ports: Vec<(u16, u16)>,
    pub(crate) realm: u8,
}

impl SubscriberGroup {
    /// Name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Internal ranges.
    pub fn ranges(&self) -> &[Ipv4Net] {
        &self.ranges
    }

    /// Distinct lists of pools, each in the order in which they are tried, as indices into
    /// [`super::Config::pools`]. The first list is the group's own; there are at most
    /// [`Realm::COUNT`].
    pub fn realms(&self) -> &[Vec<usize>] {
        &self.realms
    }

    /// Which flows use another list than the group's own; the first rule that matches wins.
    pub fn destinations(&self) -> &[DestinationRule] {
        &self.destinations
    }

    /// Whether some of its flows may use the pool with this index.
    pub fn uses(&self, pool: usize) -> bool {
        self.realms.iter().any(|pools| pools.contains(&pool))
    }

    /// What each of its subscribers may take.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl DestinationRule {
    /// Remote addresses.
    pub fn to(&self) -> &[Ipv4Net] {
        &self.to
    }

    /// Protocol; `None` is any.
    pub fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    /// Remote ports, first and last; empty is any, and flows without ports.
    pub fn ports(&self) -> &[(u16, u16)] {
        &self.ports
    }

    /// Index into [`SubscriberGroup::realms`].
    pub fn realm(&self) -> Realm {
        Realm(self.realm)
    }
}
