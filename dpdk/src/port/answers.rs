//! What a port's driver says that it can do, and what it was given: for people who want to know
//! what a card is worth.

use std::ffi::{CStr, c_char};

use super::{Port, PortError, RssAbilities, device_info, most_mtu};
use crate::Socket;

/// A driver's own answers about one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The driver's name, e.g. `net_ice`.
    pub driver: String,
    /// The memory node that the device is attached to, if it is to one.
    pub node: Socket,
    /// Receive queues: set up, and the most there can be.
    pub rx_queues: (u16, u16),
    /// Transmit queues: set up, and the most there can be.
    pub tx_queues: (u16, u16),
    /// Packets that each receive and each transmit queue holds.
    pub descriptors: (u16, u16),
    /// Smallest and largest MTU, bytes.
    pub mtu: (u16, u16),
    /// Receive-side scaling.
    pub rss: RssAbilities,
    /// Receive offloads: in use, and further ones that it has. DPDK's names.
    pub rx_offloads: (Vec<String>, Vec<String>),
    /// Transmit offloads, likewise.
    pub tx_offloads: (Vec<String>, Vec<String>),
}

/// What a port was configured with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    pub(super) rx_descriptors: u16,
    pub(super) tx_descriptors: u16,
    pub(super) rx_offloads: u64,
    pub(super) tx_offloads: u64,
}

type Name = unsafe extern "C" fn(u64) -> *const c_char;

impl Port {
    /// Asks the driver. What a port was given is zero until it is started.
    pub fn answers(&self) -> Result<Answers, PortError> {
        let info = device_info(self.id)
            .map_err(|errno| PortError::Info { name: self.name.clone(), errno })?;
        let offloads =
            |used: u64, offered: u64, name: Name| (names(used, name), names(offered & !used, name));
        let Given { rx_descriptors, tx_descriptors, rx_offloads, tx_offloads } = self.given;
        let (rx, tx): (Name, Name) =
            (dpdk_sys::rte_eth_dev_rx_offload_name, dpdk_sys::rte_eth_dev_tx_offload_name);
        Ok(Answers {
            driver: self.driver.clone(),
            node: self.socket(),
            rx_queues: (info.nb_rx_queues, info.max_rx_queues),
            tx_queues: (info.nb_tx_queues, info.max_tx_queues),
            descriptors: (rx_descriptors, tx_descriptors),
            mtu: (info.min_mtu, most_mtu(&info)),
            rss: self.rss_abilities()?,
            rx_offloads: offloads(rx_offloads, info.rx_offload_capa, rx),
            tx_offloads: offloads(tx_offloads, info.tx_offload_capa, tx),
        })
    }
}

/// The names of the bits that are set.
fn names(bits: u64, name: Name) -> Vec<String> {
    let set = (0..u64::BITS).map(|n| 1 << n).filter(|bit| bits & bit != 0);
    set.map(|bit| {
        // SAFETY: `name` is one of DPDK's two functions that look a bit up in a table of static
        // NUL-terminated names; of bits that they do not know they return the name "UNKNOWN".
        unsafe { CStr::from_ptr(name(bit)) }.to_string_lossy().into_owned()
    })
    .collect()
}
