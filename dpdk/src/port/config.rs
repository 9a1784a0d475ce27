//! What a port is started with and what it counts: plain data.

use crate::Socket;

/// How to start a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Receive queues, at least 1.
    pub rx_queues: u16,
    /// Transmit queues, at least 1.
    pub tx_queues: u16,
    /// Packets a receive queue holds; the driver may round.
    pub rx_descriptors: u16,
    /// Packets a transmit queue holds; the driver may round.
    pub tx_descriptors: u16,
    /// Largest payload of a frame, in bytes; `None` for the driver's default.
    pub mtu: Option<u16>,
    /// How the NIC spreads packets over receive queues; `None` leaves it off.
    pub rss: Option<Rss>,
    /// The node whose memory holds the descriptors of each receive and transmit queue; where there
    /// are fewer, or it is `None`, the one that the device is attached to.
    pub nodes: Vec<Socket>,
    /// Whether frames for other stations are received too.
    pub promiscuous: bool,
    /// Whether frames to all groups are received too. A driver that has no such switch receives
    /// what it receives.
    pub all_multicast: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            rss: None,
            nodes: Vec::new(),
            promiscuous: false,
            all_multicast: false,
        }
    }
}

/// Receive-side scaling: the NIC hashes a packet to choose its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    /// What is hashed.
    pub fields: RssFields,
    /// The Toeplitz key; `None` for the driver's. Its length is the driver's, mostly 40.
    pub key: Option<Vec<u8>>,
}

/// Which addresses of an IPv4 or IPv6 packet are hashed. Ports are not, unless asked for: fragments
/// must take the way of their packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RssFields {
    /// Source and destination.
    Addresses,
    /// The source only.
    SourceAddress,
    /// The destination only.
    DestinationAddress,
    /// Source and destination, then ports where the packet has them: for a key that makes what
    /// shall not matter vanish.
    Anything,
}

/// What a port counted since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub ipackets: u64,
    /// Packets transmitted.
    pub opackets: u64,
    /// Bytes received.
    pub ibytes: u64,
    /// Bytes transmitted.
    pub obytes: u64,
    /// Packets the NIC dropped because queues were full.
    pub imissed: u64,
    /// Packets received broken.
    pub ierrors: u64,
    /// Packets that failed to be transmitted.
    pub oerrors: u64,
    /// Times the mempool was empty when a packet came.
    pub rx_nombuf: u64,
}
