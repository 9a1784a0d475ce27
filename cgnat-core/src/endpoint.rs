//! Addresses and endpoints that cannot be mixed up: internal, external, remote.
//!
//! Words of RFC 4787: an internal endpoint is X:x, the external endpoint it is mapped to is
//! X1':x1', the remote endpoint is Y:y. Addresses are held in host byte order. For ICMP
//! queries the identifier stands where TCP and UDP have a port (RFC 5508 section 3.1).

use std::fmt;
use std::net::Ipv4Addr;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub u32);

        impl From<Ipv4Addr> for $name {
            fn from(address: Ipv4Addr) -> Self {
                Self(u32::from(address))
            }
        }

        impl From<$name> for Ipv4Addr {
            fn from(address: $name) -> Self {
                Ipv4Addr::from(address.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Ipv4Addr::from(self.0).fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Ipv4Addr::from(self.0).fmt(f)
            }
        }
    };
}

address!(
    /// Address of a subscriber.
    InternalAddress
);
address!(
    /// Address of a pool.
    ExternalAddress
);
address!(
    /// Address of a peer on the Internet, or of another subscriber's external side.
    RemoteAddress
);

macro_rules! endpoint {
    ($(#[$doc:meta])* $name:ident, $address:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name {
            /// Address.
            pub address: $address,
            /// Port, or ICMP query identifier.
            pub port: u16,
        }

        impl $name {
            /// The endpoint `address`:`port`.
            pub fn new(address: impl Into<$address>, port: u16) -> Self {
                Self { address: address.into(), port }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}:{}", self.address, self.port)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

endpoint!(
    /// X:x, a subscriber's address and port.
    InternalEndpoint,
    InternalAddress
);
endpoint!(
    /// X1':x1', the pool address and port that the world sees.
    ExternalEndpoint,
    ExternalAddress
);
endpoint!(
    /// Y:y, the other end of a session.
    RemoteEndpoint,
    RemoteAddress
);

impl From<u32> for RemoteAddress {
    fn from(address: u32) -> Self {
        Self(address)
    }
}

impl From<u32> for InternalAddress {
    fn from(address: u32) -> Self {
        Self(address)
    }
}

impl From<u32> for ExternalAddress {
    fn from(address: u32) -> Self {
        Self(address)
    }
}

/// Transport protocols that are translated. Each has its own mappings (RFC 7857 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// Protocol 6.
    Tcp = 0,
    /// Protocol 17.
    Udp = 1,
    /// Queries of protocol 1: echo and timestamp.
    Icmp = 2,
}

impl Protocol {
    /// How many there are: a port block has one port space for each.
    pub const COUNT: usize = 3;

    /// All of them, in the order of their numbers here.
    pub const ALL: [Protocol; Self::COUNT] = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp];

    /// The protocol stored in a record as `value`.
    pub fn from_record(value: u8) -> Option<Protocol> {
        Self::ALL.get(usize::from(value)).copied()
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        })
    }
}

/// An IP protocol by its number (IANA).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// DCCP (RFC 4340).
    pub const DCCP: Self = Self(33);
    /// GRE (RFC 2784).
    pub const GRE: Self = Self(47);
    /// ESP (RFC 4303).
    pub const ESP: Self = Self(50);
    /// AH (RFC 4302).
    pub const AH: Self = Self(51);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);
    /// UDP-Lite (RFC 3828).
    pub const UDP_LITE: Self = Self(136);

    const NAMES: [(Self, &'static str); 9] = [
        (Self::ICMP, "icmp"),
        (Self::TCP, "tcp"),
        (Self::UDP, "udp"),
        (Self::DCCP, "dccp"),
        (Self::GRE, "gre"),
        (Self::ESP, "esp"),
        (Self::AH, "ah"),
        (Self::SCTP, "sctp"),
        (Self::UDP_LITE, "udp-lite"),
    ];

    /// The protocol with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(protocol, _)| *protocol)
    }

    /// Whether it is translated by ports or query identifiers: one of [`Protocol`].
    #[inline]
    pub const fn has_mappings(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::ICMP)
    }

    /// Whether a rule about flows can name ports of it.
    #[inline]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP)
    }

    /// Whether it can be translated by its addresses alone. AH cannot, because it authenticates
    /// them (RFC 3715 section 2.1).
    #[inline]
    pub const fn is_portless(self) -> bool {
        !self.has_mappings() && !matches!(self, Self::AH)
    }
}

impl From<Protocol> for IpProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::TCP,
            Protocol::Udp => Self::UDP,
            Protocol::Icmp => Self::ICMP,
        }
    }
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(protocol, _)| protocol == self) {
            Some((_, name)) => f.pad(name),
            None => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl fmt::Debug for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which of a subscriber group's lists of pools a flow uses, by its destination; 0 is the
/// group's own, and the only one unless `destinations` are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Realm(pub u8);

impl Realm {
    /// How many one group may have: realm and protocol share a byte.
    pub const COUNT: usize = 16;

    /// The group's own list of pools.
    pub const OWN: Realm = Realm(0);
}

/// What an outbound packet is looked up by: within a realm, endpoint-independent mapping knows
/// nothing of the destination (RFC 4787 REQ-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Internal endpoint.
    pub internal: InternalEndpoint,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Realm of the destination.
    pub realm: Realm,
}

const _: () = assert!(Protocol::COUNT <= 16 && Realm::COUNT <= 16, "they share a byte");

impl FlowKey {
    /// Realm and protocol in one byte.
    #[inline]
    pub fn kind(self) -> u8 {
        self.realm.0 << 4 | self.protocol as u8
    }

    /// Protocol and realm of a byte that [`FlowKey::kind`] made.
    pub fn from_kind(internal: InternalEndpoint, kind: u8) -> Option<FlowKey> {
        let protocol = Protocol::from_record(kind & 0xf)?;
        Some(FlowKey { internal, protocol, realm: Realm(kind >> 4) })
    }

    /// The key in 56 bits, for hashing.
    pub fn packed(self) -> u64 {
        u64::from(self.internal.address.0) << 24
            | u64::from(self.internal.port) << 8
            | u64::from(self.kind())
    }
}
