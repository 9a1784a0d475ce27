//! What can go wrong with a port, each with the step that failed.

use super::RssFields;
use crate::Errno;

/// Why a port cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// No device of that name came up.
    #[error(
        "no DPDK port {name:?}; present are {present:?}. A virtual device may have failed to \
         open (capture file missing, no CAP_NET_RAW), a PCI device may not be bound to \
         vfio-pci. At its start DPDK said: {said}"
    )]
    NotFound {
        /// The name asked for.
        name: String,
        /// The names there are.
        present: Vec<String>,
        /// What the EAL said while it started.
        said: String,
    },
    /// A handle for it exists.
    #[error("port {name:?} is in use: it was already looked up")]
    Claimed {
        /// The port's name.
        name: String,
    },
    /// `rte_eth_dev_info_get` failed.
    #[error("rte_eth_dev_info_get of port {name:?}: {errno}")]
    Info {
        /// The port's name.
        name: String,
        /// What DPDK returned.
        errno: Errno,
    },
    /// There are no or too many queues.
    #[error("port {name:?}: {asked} {kind} queues asked for, its driver has 1 to {most}")]
    Queues {
        /// The port's name.
        name: String,
        /// "receive" or "transmit".
        kind: &'static str,
        /// The number asked for.
        asked: u16,
        /// The number there are.
        most: u16,
    },
    /// Received packets would have no place.
    #[error("port {name:?}: no mempool was given for received packets")]
    NoMempool {
        /// The port's name.
        name: String,
    },
    /// The MTU is out of the driver's range.
    #[error("port {name:?}: MTU {mtu} asked for, its driver takes {least} to {most}")]
    Mtu {
        /// The port's name.
        name: String,
        /// The MTU asked for.
        mtu: u16,
        /// The smallest.
        least: u16,
        /// The largest.
        most: u16,
    },
    /// The device cannot spread packets as asked.
    #[error("port {name:?}: its driver {driver} cannot hash {fields:?}; leave `rss` out")]
    RssUnsupported {
        /// The port's name.
        name: String,
        /// Its driver.
        driver: String,
        /// The fields asked for.
        fields: RssFields,
    },
    /// The RSS key has the wrong length.
    #[error("port {name:?}: the RSS key has {given} bytes, its driver takes {needed}")]
    RssKey {
        /// The port's name.
        name: String,
        /// Bytes given.
        given: usize,
        /// Bytes the driver takes.
        needed: usize,
    },
    /// Key or table of receive-side scaling can be neither set nor read.
    #[error("{step} of port {name:?}: {errno}")]
    Rss {
        /// The DPDK call.
        step: &'static str,
        /// The port's name.
        name: String,
        /// What DPDK returned.
        errno: Errno,
    },
    /// A step of starting the port failed.
    #[error("{step} of port {name:?}: {errno}; DPDK said: {said}")]
    Start {
        /// The DPDK call.
        step: &'static str,
        /// The port's name.
        name: String,
        /// What DPDK returned.
        errno: Errno,
        /// What the driver wrote meanwhile.
        said: String,
    },
    /// `rte_eth_macaddr_get` failed.
    #[error("rte_eth_macaddr_get of port {name:?}: {errno}")]
    Mac {
        /// The port's name.
        name: String,
        /// What DPDK returned.
        errno: Errno,
    },
    /// A bond takes no such name or number of members.
    #[error(
        "{name:?} cannot be a bond: its name begins with net_bonding, and it has 1 to 8 members"
    )]
    Bond {
        /// Its name.
        name: String,
    },
    /// `rte_eth_dev_default_mac_addr_set` failed.
    #[error(
        "rte_eth_dev_default_mac_addr_set of port {name:?}: {errno}; all members of a bond with LACP have \
         the first one's MAC, and its driver takes no other"
    )]
    SetMac {
        /// The member's name.
        name: String,
        /// What DPDK returned.
        errno: Errno,
    },
    /// `rte_eth_link_get_nowait` failed.
    #[error("rte_eth_link_get_nowait of port {name:?}: {errno}")]
    Link {
        /// The port's name.
        name: String,
        /// What DPDK returned.
        errno: Errno,
    },
    /// `rte_eth_stats_get` failed.
    #[error("rte_eth_stats_get of port {name:?}: {errno}")]
    Stats {
        /// The port's name.
        name: String,
        /// What DPDK returned.
        errno: Errno,
    },
    /// `rte_mbuf_dyn_rx_timestamp_register` failed.
    #[error("rte_mbuf_dyn_rx_timestamp_register for port {name:?}: {errno}")]
    Timestamp {
        /// The port's name.
        name: String,
        /// What `rte_errno` was.
        errno: Errno,
    },
}
