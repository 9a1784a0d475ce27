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

/// What an outbound packet is looked up by: endpoint-independent mapping knows nothing of
/// the destination (RFC 4787 REQ-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Internal endpoint.
    pub internal: InternalEndpoint,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl FlowKey {
    /// The key in 56 bits, for hashing.
    pub fn packed(self) -> u64 {
        u64::from(self.internal.address.0) << 24
            | u64::from(self.internal.port) << 8
            | self.protocol as u64
    }
}
