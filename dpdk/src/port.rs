//! Ethernet ports: found by name, configured and started in one step, stopped on drop.

mod answers;
mod bond;
mod config;
mod error;
mod rss;

use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use dpdk_sys::rte_eth_rx_mq_mode;

use self::answers::Given;
use self::bond::Bond;

pub use self::answers::Answers;
pub use self::bond::{BondMode, MOST_MEMBERS, MemberState};
pub use self::config::{PortConfig, PortStats, Rss, RssFields};
pub use self::error::PortError;
pub use self::rss::{RssAbilities, soft_rss};
use crate::eal::{Eal, Instance};
use crate::errno::{ENOTSUP, Errno};
use crate::{Mbuf, Mempool, RxQueue, Socket, TxQueue, log};

/// A port that was found and is ours; not started yet, or kept running by queue handles.
#[derive(Debug)]
pub struct Port {
    id: u16,
    name: String,
    driver: String,
    max_rx_queues: u16,
    max_tx_queues: u16,
    given: Given,
    /// From the first configuring call on: DPDK may hold pointers into `pools`.
    touched: bool,
    /// The members, if it is a bond. They are closed after it, and before the pools go.
    bond: Option<Bond>,
    pools: Vec<Mempool>,
    instance: Arc<Instance>,
}

/// A started port, to watch it. Clones stand for the same port; it stops when they and all
/// its queues are dropped.
#[derive(Clone, Debug)]
pub struct RunningPort(Arc<Port>);

/// What starting a port yields. Move the queues to the threads that use them.
#[derive(Debug)]
pub struct StartedPort {
    /// To read counters and link state.
    pub port: RunningPort,
    /// The receive queues in order.
    pub rx: Vec<RxQueue>,
    /// The transmit queues in order.
    pub tx: Vec<TxQueue>,
    /// Why the port runs without the RSS key that was asked for.
    pub key_refused: Option<String>,
}

impl Deref for RunningPort {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.0
    }
}

impl Port {
    /// Finds a port: by the name of its virtual device (`net_pcap0`) or its PCI address
    /// (`0000:3b:00.0`). One handle at a time.
    pub fn by_name(eal: &Eal, name: &str) -> Result<Self, PortError> {
        let instance = Arc::clone(eal.instance());
        let Some(id) = port_id(name) else {
            let said = match instance.start_log.as_str() {
                "" => "nothing".to_owned(),
                said => said.to_owned(),
            };
            return Err(PortError::NotFound { name: name.to_owned(), present: present(), said });
        };
        let info =
            device_info(id).map_err(|errno| PortError::Info { name: name.to_owned(), errno })?;
        if !instance.control().claimed_ports.insert(id) {
            return Err(PortError::Claimed { name: name.to_owned() });
        }
        let driver = if info.driver_name.is_null() {
            String::new()
        } else {
            // SAFETY: the driver's static NUL-terminated name.
            unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
        };
        Ok(Self {
            id,
            name: name.to_owned(),
            driver,
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            given: Given::default(),
            touched: false,
            bond: None,
            pools: Vec::new(),
            instance,
        })
    }

    /// Configures the port and starts it. Receive queue `i` takes its buffers from
    /// `pools[i % pools.len()]`.
    ///
    /// If DPDK refuses a step, the port is closed for good and will not be found again; if
    /// `config` does not suit the port, nothing has happened to it.
    pub fn start(
        mut self,
        config: &PortConfig,
        pools: &[Mempool],
    ) -> Result<StartedPort, PortError> {
        let PortConfig { rx_queues, tx_queues, .. } = *config;
        let info = device_info(self.id)
            .map_err(|errno| PortError::Info { name: self.name.clone(), errno })?;
        self.check(config, pools, &info)?;
        // From here on DPDK learns of the pools; they stay until the port is closed.
        self.pools = pools.to_vec();
        self.touched = true;

        let instance = Arc::clone(&self.instance);
        let control = instance.control();
        let outcome = self.configure(config, &info);
        drop(control);
        let (key_refused, given) = outcome?;
        self.given = given;

        let port = Arc::new(self);
        let rx = (0..rx_queues).map(|queue| RxQueue::new(Arc::clone(&port), queue));
        let tx = (0..tx_queues).map(|queue| TxQueue::new(Arc::clone(&port), queue));
        let (rx, tx) = (rx.collect(), tx.collect());
        Ok(StartedPort { port: RunningPort(port), rx, tx, key_refused })
    }

    fn check(
        &self,
        config: &PortConfig,
        pools: &[Mempool],
        info: &dpdk_sys::rte_eth_dev_info,
    ) -> Result<(), PortError> {
        let name = || self.name.clone();
        for (kind, asked, most) in [
            ("receive", config.rx_queues, self.max_rx_queues),
            ("transmit", config.tx_queues, self.max_tx_queues),
        ] {
            if asked == 0 || asked > most {
                return Err(PortError::Queues { name: name(), kind, asked, most });
            }
        }
        if pools.is_empty() {
            return Err(PortError::NoMempool { name: name() });
        }
        let (least, most) = (info.min_mtu, most_mtu(info));
        if let Some(mtu) = config.mtu
            && !(least..=most).contains(&mtu)
        {
            return Err(PortError::Mtu { name: name(), mtu, least, most });
        }
        if let Some(rss) = &config.rss {
            if hash_functions(rss.fields, info.flow_type_rss_offloads).is_none() {
                let driver = self.driver.clone();
                return Err(PortError::RssUnsupported { name: name(), driver, fields: rss.fields });
            }
            // A driver that does not say takes the length that has always been.
            let needed = if info.hash_key_size == 0 { 40 } else { usize::from(info.hash_key_size) };
            if let Some(key) = &rss.key
                && key.len() != needed
            {
                return Err(PortError::RssKey { name: name(), given: key.len(), needed });
            }
        }
        Ok(())
    }

    /// Takes the port from closed to running; `config` was checked. Returns why a key was left
    /// out, if it was, and what the port was given.
    fn configure(
        &self,
        config: &PortConfig,
        info: &dpdk_sys::rte_eth_dev_info,
    ) -> Result<(Option<String>, Given), PortError> {
        let mark = log::mark();
        let done = |step, code: i32| {
            if code == 0 {
                return Ok(());
            }
            let said = match log::since(mark) {
                said if said.is_empty() => "nothing".to_owned(),
                said => said,
            };
            let errno = Errno::from_return(code);
            Err(PortError::Start { step, name: self.name.clone(), errno, said })
        };

        // The driver may read the key until configuring is over, through a mutable pointer.
        let mut key = config.rss.as_ref().and_then(|rss| rss.key.clone()).unwrap_or_default();
        let mut conf = self.device_conf(config, info, &mut key);
        let (rx_queues, tx_queues) = (config.rx_queues, config.tx_queues);
        let apply = |conf: &dpdk_sys::rte_eth_conf| {
            // SAFETY: a valid port that is ours and stopped; `conf` and the key it points to
            // outlive the call.
            done("rte_eth_dev_configure", unsafe {
                dpdk_sys::rte_eth_dev_configure(self.id, rx_queues, tx_queues, conf)
            })
        };
        let mut key_refused = None;
        match (apply(&conf), &config.rss) {
            (Err(error), Some(Rss { fields: _, key: Some(_) })) => {
                let rss = Some(Rss { fields: RssFields::Addresses, key: None });
                let plain = PortConfig { rss, ..config.clone() };
                conf = self.device_conf(&plain, info, &mut []);
                apply(&conf)?;
                key_refused = Some(error.to_string());
            }
            (outcome, _) => outcome?,
        }
        let (mut rx_slots, mut tx_slots) = (config.rx_descriptors, config.tx_descriptors);
        // SAFETY: both numbers are valid places to read and write.
        done("rte_eth_dev_adjust_nb_rx_tx_desc", unsafe {
            dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(
                self.id,
                &raw mut rx_slots,
                &raw mut tx_slots,
            )
        })?;
        let node = |queue: u16| {
            let wanted = config.nodes.get(usize::from(queue)).copied().flatten();
            // DPDK's "any" is -1.
            wanted.or(self.socket()).unwrap_or(u32::MAX)
        };
        for (queue, pool) in (0..rx_queues).zip(self.pools.iter().cycle()) {
            // SAFETY: the port is configured with this queue and stopped; the pool lives in
            // `self.pools` until after the port is closed. Null asks for the defaults.
            done("rte_eth_rx_queue_setup", unsafe {
                dpdk_sys::rte_eth_rx_queue_setup(
                    self.id,
                    queue,
                    rx_slots,
                    node(queue),
                    null(),
                    pool.raw(),
                )
            })?;
        }
        for queue in 0..tx_queues {
            // SAFETY: the port is configured with this queue and stopped. Null asks for the
            // defaults.
            done("rte_eth_tx_queue_setup", unsafe {
                dpdk_sys::rte_eth_tx_queue_setup(self.id, queue, tx_slots, node(queue), null())
            })?;
        }
        // SAFETY: configured, all queues set up.
        done("rte_eth_dev_start", unsafe { dpdk_sys::rte_eth_dev_start(self.id) })?;
        if config.promiscuous {
            // SAFETY: a valid port.
            done("rte_eth_promiscuous_enable", unsafe {
                dpdk_sys::rte_eth_promiscuous_enable(self.id)
            })?;
        }
        if config.all_multicast {
            // SAFETY: a valid port.
            let code = unsafe { dpdk_sys::rte_eth_allmulticast_enable(self.id) };
            // A driver without that switch has no filter that it would open.
            if Errno::from_return(code).number() != ENOTSUP {
                done("rte_eth_allmulticast_enable", code)?;
            }
        }
        let given = Given {
            rx_descriptors: rx_slots,
            tx_descriptors: tx_slots,
            rx_offloads: conf.rxmode.offloads,
            tx_offloads: conf.txmode.offloads,
        };
        Ok((key_refused, given))
    }

    fn device_conf(
        &self,
        config: &PortConfig,
        info: &dpdk_sys::rte_eth_dev_info,
        key: &mut [u8],
    ) -> dpdk_sys::rte_eth_conf {
        let mut conf = dpdk_sys::rte_eth_conf::default();
        conf.rxmode.mtu = u32::from(config.mtu.unwrap_or(0));
        let mtu = u32::from(config.mtu.unwrap_or(1500));
        let room = self.pools.iter().map(|pool| pool.config().data_room - Mbuf::HEADROOM).min();
        if mtu + dpdk_sys::DPDK_ETH_FRAME_OVERHEAD > room.map_or(0, u32::from) {
            conf.rxmode.offloads |= dpdk_sys::DPDK_RX_OFFLOAD_SCATTER & info.rx_offload_capa;
        }
        conf.txmode.offloads = dpdk_sys::DPDK_TX_OFFLOAD_MULTI_SEGS & info.tx_offload_capa;
        if let Some(rss) = &config.rss {
            conf.rxmode.mq_mode = rte_eth_rx_mq_mode::RTE_ETH_MQ_RX_RSS;
            conf.rxmode.offloads |= dpdk_sys::DPDK_RX_OFFLOAD_RSS_HASH & info.rx_offload_capa;
            let conf = &mut conf.rx_adv_conf.rss_conf;
            conf.rss_hf = hash_functions(rss.fields, info.flow_type_rss_offloads).unwrap_or(0);
            conf.rss_key_len = key.len() as u8;
            conf.rss_key = if key.is_empty() { null_mut() } else { key.as_mut_ptr() };
        }
        conf
    }

    #[inline]
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// The name it was found by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its driver, e.g. `net_pcap` or `net_ice`.
    pub fn driver_name(&self) -> &str {
        &self.driver
    }

    /// Most receive queues it can have.
    pub fn max_rx_queues(&self) -> u16 {
        self.max_rx_queues
    }

    /// Most transmit queues it can have.
    pub fn max_tx_queues(&self) -> u16 {
        self.max_tx_queues
    }

    /// The node the device is attached to, if it is to one.
    pub fn socket(&self) -> Socket {
        // SAFETY: reads a table; negative for "none".
        u32::try_from(unsafe { dpdk_sys::rte_eth_dev_socket_id(self.id) }).ok()
    }

    /// The station address.
    pub fn mac(&self) -> Result<[u8; 6], PortError> {
        let mut address = dpdk_sys::rte_ether_addr::default();
        // SAFETY: a valid place to write to.
        match unsafe { dpdk_sys::rte_eth_macaddr_get(self.id, &raw mut address) } {
            0 => Ok(address.addr_bytes),
            code => {
                Err(PortError::Mac { name: self.name.clone(), errno: Errno::from_return(code) })
            }
        }
    }

    /// Whether the link is up, as far as the driver knows now; of a bond, whether a member carries packets.
    pub fn link_up(&self) -> Result<bool, PortError> {
        if let Some(bond) = &self.bond {
            return self.carries(bond);
        }
        let mut link = dpdk_sys::rte_eth_link::default();
        let _serialised = self.instance.control();
        // SAFETY: a valid place to write to.
        match unsafe { dpdk_sys::rte_eth_link_get_nowait(self.id, &raw mut link) } {
            0 => Ok(link.link_status() != 0),
            code => {
                Err(PortError::Link { name: self.name.clone(), errno: Errno::from_return(code) })
            }
        }
    }

    /// The port's counters. Asks the device: not for the packet path.
    pub fn stats(&self) -> Result<PortStats, PortError> {
        let mut stats = MaybeUninit::<dpdk_sys::rte_eth_stats>::zeroed();
        let code = {
            let _serialised = self.instance.control();
            // SAFETY: a valid place to write to.
            unsafe { dpdk_sys::rte_eth_stats_get(self.id, stats.as_mut_ptr()) }
        };
        if code != 0 {
            let errno = Errno::from_return(code);
            return Err(PortError::Stats { name: self.name.clone(), errno });
        }
        // SAFETY: plain integers, zeroed and then written.
        let stats = unsafe { stats.assume_init() };
        Ok(PortStats {
            ipackets: stats.ipackets,
            opackets: stats.opackets,
            ibytes: stats.ibytes,
            obytes: stats.obytes,
            imissed: stats.imissed,
            ierrors: stats.ierrors,
            oerrors: stats.oerrors,
            rx_nombuf: stats.rx_nombuf,
        })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut control = self.instance.control();
        if self.touched {
            // SAFETY: ours; no queue handle is left, so no thread is in the driver's data
            // path. Stopping a port that is not running does nothing.
            unsafe { dpdk_sys::rte_eth_dev_stop(self.id) };
            // SAFETY: as above, and stopped. The pools are dropped after this.
            unsafe { dpdk_sys::rte_eth_dev_close(self.id) };
        }
        control.claimed_ports.remove(&self.id);
    }
}

fn hash_functions(fields: RssFields, offered: u64) -> Option<u64> {
    let ip = dpdk_sys::DPDK_RSS_IP & offered;
    let only = match fields {
        RssFields::Addresses => 0,
        RssFields::SourceAddress => dpdk_sys::DPDK_RSS_L3_SRC_ONLY,
        RssFields::DestinationAddress => dpdk_sys::DPDK_RSS_L3_DST_ONLY,
        RssFields::Anything => dpdk_sys::DPDK_RSS_TRANSPORTS & offered,
    };
    (ip != 0 && offered & only == only).then_some(ip | only)
}

/// The largest MTU that `rte_eth_dev_configure` lets pass. A driver that states none is bound by
/// the longest frame it receives, with link header and CRC.
fn most_mtu(info: &dpdk_sys::rte_eth_dev_info) -> u16 {
    if info.max_mtu < u16::MAX {
        return info.max_mtu;
    }
    let most = info.max_rx_pktlen.saturating_sub(dpdk_sys::DPDK_ETH_UNTAGGED_OVERHEAD);
    u16::try_from(most).unwrap_or(u16::MAX)
}

fn port_id(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut id = 0;
    // SAFETY: a NUL-terminated name and a valid place to write to.
    let code = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
    (code == 0).then_some(id)
}

fn device_info(id: u16) -> Result<dpdk_sys::rte_eth_dev_info, Errno> {
    let mut info = MaybeUninit::<dpdk_sys::rte_eth_dev_info>::zeroed();
    // SAFETY: a valid place to write to.
    match unsafe { dpdk_sys::rte_eth_dev_info_get(id, info.as_mut_ptr()) } {
        // SAFETY: integers and pointers, zeroed and then written.
        0 => Ok(unsafe { info.assume_init() }),
        code => Err(Errno::from_return(code)),
    }
}

/// The names of all ports that came up.
fn present() -> Vec<String> {
    let mut names = Vec::new();
    let mut next = 0;
    loop {
        // SAFETY: walks DPDK's table; yields its size when there are no more.
        next = unsafe { dpdk_sys::rte_eth_find_next(next) };
        if u32::from(next) >= dpdk_sys::DPDK_MAX_ETHPORTS {
            return names;
        }
        let mut name: [c_char; dpdk_sys::DPDK_ETH_NAME_SIZE as usize] =
            [0; dpdk_sys::DPDK_ETH_NAME_SIZE as usize];
        // SAFETY: the buffer has the size DPDK asks for.
        let code = unsafe { dpdk_sys::rte_eth_dev_get_name_by_port(next, name.as_mut_ptr()) };
        if code == 0 {
            // SAFETY: DPDK wrote a NUL-terminated name into the buffer.
            let name = unsafe { CStr::from_ptr(name.as_ptr()) };
            names.push(name.to_string_lossy().into_owned());
        }
        next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashing_one_address_needs_a_driver_that_offers_it() {
        let (ip, source) = (dpdk_sys::DPDK_RSS_IP, dpdk_sys::DPDK_RSS_L3_SRC_ONLY);
        assert_eq!(hash_functions(RssFields::Addresses, ip), Some(ip));
        assert_eq!(hash_functions(RssFields::SourceAddress, ip), None);
        assert_eq!(hash_functions(RssFields::SourceAddress, ip | source), Some(ip | source));
        assert_eq!(hash_functions(RssFields::DestinationAddress, ip | source), None);
        assert_eq!(hash_functions(RssFields::Addresses, source), None);
        let udp = dpdk_sys::DPDK_RSS_TRANSPORTS;
        assert_eq!(hash_functions(RssFields::Anything, ip | source), Some(ip));
        assert_eq!(hash_functions(RssFields::Anything, ip | udp), Some(ip | udp));
    }
}
