//! What needs no dynamic state: static mappings, and what passes untranslated.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// One entry of `static`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StaticMapping {
    /// Address by address, of prefixes of one length: all ports and identifiers.
    OneToOne {
        /// Internal addresses.
        internal: Ipv4Net,
        /// External addresses.
        external: Ipv4Net,
    },
    /// Port by port.
    Forward {
        /// Internal address and first port.
        internal: (Ipv4Addr, u16),
        /// External address and first port.
        external: (Ipv4Addr, u16),
        /// How many ports.
        count: u16,
        /// Whether it is of TCP.
        tcp: bool,
        /// Whether it is of UDP.
        udp: bool,
    },
}

/// One entry of `nat44.bypass`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BypassRule {
    pub(crate) to: Ipv4Net,
    pub(crate) from: Option<Ipv4Net>,
    pub(crate) protocol: Option<u8>,
    pub(crate) ports: Vec<(u16, u16)>,
}

impl BypassRule {
    /// Remote addresses.
    pub fn to(&self) -> Ipv4Net {
        self.to
    }

    /// Internal addresses; `None` is all subscribers.
    pub fn from(&self) -> Option<Ipv4Net> {
        self.from
    }

    /// IP protocol number; `None` is any.
    pub fn protocol(&self) -> Option<u8> {
        self.protocol
    }

    /// Remote ports, first and last of each range; empty is any.
    pub fn ports(&self) -> &[(u16, u16)] {
        &self.ports
    }
}
