//! From a configuration to numbers: how many workers on which CPUs, how many queues,
//! buffers and bytes. Decided before anything is started, so that `check` can say it.

use std::path::Path;

use cgnat_core::config::{Config, Device, HugePages, Workers};
use cgnat_core::layout::Layout;
use dpdk::{EalOptions, Lcore, Mbuf};

use super::kernel;
use super::placement::{Placement, Share};
use crate::check::grouped;
use crate::machine::Machine;

/// Descriptors of each receive and transmit queue.
pub const DESCRIPTORS: u16 = 1024;

/// Packets that each hand-off and relay ring holds.
pub const RING: u32 = 4096;
/// Packets for the kernel that each port's ring holds.
pub const KERNEL_RING: u32 = 1024;

/// Bytes beside a packet, for the hand-over note and the time of its capture. With this many the
/// headroom, and so the frame, begins at a cache line.
pub const PRIVATE: u16 = 64;

/// What DPDK needs for itself and for the overhead of pools and rings, bytes.
const OVERHEAD: u64 = 48 << 20;

/// Bytes of a packet buffer that DPDK takes for itself: its descriptor, and pool overhead.
const DESCRIPTOR: u64 = 128 + 128;

/// Bytes of a buffer of net_bonding's for one LACP frame, generously.
const LACP_FRAME: u64 = 1024;

/// A page where no huge ones are used, bytes.
const PAGE: u64 = 4096;

/// The numbers of a run.
pub struct Plan {
    /// Sizes of the tables.
    pub layout: Layout,
    /// CPU of each worker.
    pub worker_cpus: Vec<u16>,
    /// CPU of the main thread.
    pub main_cpu: u16,
    /// CPUs of housekeeping and control.
    pub control_cpus: Vec<u16>,
    /// Whose memory is where, packet buffers among it.
    pub placement: Placement,
    /// Bytes of headroom and frame in each.
    pub data_room: u16,
    /// Whether huge pages will be used.
    pub huge_pages: bool,
    /// Memory for the EAL, MiB.
    pub memory_mib: u32,
}

impl Plan {
    /// The plan for `config` on `machine`, with huge pages as it wants and the machine has them.
    ///
    /// # Errors
    /// A sentence if `system.memory` is less than the tables and buffers need.
    pub fn new(config: &Config, machine: &Machine) -> Result<Plan, String> {
        let with = |huge_pages| Self::with(config, machine, huge_pages);
        match config.system().huge_pages() {
            HugePages::Off => with(false),
            HugePages::Required => with(true),
            HugePages::Auto => match with(true) {
                Ok(plan) if u64::from(plan.memory_mib) << 20 <= machine.free_huge_bytes => Ok(plan),
                _ => with(false),
            },
        }
    }

    fn with(config: &Config, machine: &Machine, huge_pages: bool) -> Result<Plan, String> {
        let usable = &machine.usable_cpus;
        let control = config.system().control_cpus();
        let worker_cpus = worker_cpus(config, usable);
        let control_cpus = if control.is_empty() { usable.clone() } else { control.to_vec() };
        let layout = Layout::new(config, worker_cpus.len() as u16);
        let data_room = Mbuf::HEADROOM + config.frame_room();
        let buffer = buffer_bytes(data_room, huge_pages);
        let waiting = layout.fragments.pending as usize * worker_cpus.len();
        let cost = |workers: usize| {
            let devices = || config.devices().map(|(_, port)| port.device());
            let parts = devices().map(|device| device.parts().len()).sum();
            let kinds = (config.ports().len(), devices().count(), parts);
            let to_kernel = kernel::wanted(config).count() as u32 * (KERNEL_RING + RING);
            let count = buffers(kinds, workers, worker_cpus.len()) + to_kernel + waiting as u32;
            let tables = layout.shard_bytes as u64 * workers as u64;
            let beside = OVERHEAD + lacp_bytes(config, worker_cpus.len());
            (count, tables + u64::from(count) * buffer + beside)
        };
        // Ordinary pages are where the kernel puts them.
        let node = |cpu: &u16| machine.node_of_cpu(*cpu).filter(|_| huge_pages);
        let nodes: Vec<Option<u32>> = worker_cpus.iter().map(node).collect();
        let free = |node| machine.free_huge_bytes_of(node);
        let placement = Placement::new(&nodes, cost, layout.block_bytes as u64, free);
        let needed = placement.bytes();
        let allowed = config.system().memory_bytes();
        if needed > allowed {
            return Err(format!(
                "{} are too little: the tables need {}, {} packet buffers of {} bytes and DPDK {}; \
                 raise it to {} or lower `max-mappings` or `mtu`",
                mib(allowed),
                mib(layout.provided_bytes() as u64),
                grouped(u64::from(placement.buffers())),
                grouped(buffer),
                mib(needed - layout.provided_bytes() as u64),
                mib(needed),
            ));
        }
        Ok(Plan {
            main_cpu: control_cpus[0],
            control_cpus,
            worker_cpus,
            placement,
            data_room,
            huge_pages,
            memory_mib: needed.div_ceil(1 << 20) as u32,
            layout,
        })
    }

    /// Workers.
    pub fn workers(&self) -> u16 {
        self.layout.workers
    }

    /// Lcore of a worker; the main thread is lcore 0.
    pub fn lcore(worker: u16) -> u16 {
        worker + 1
    }

    /// Shape of a share's pool of packet buffers.
    pub fn mempool(&self, share: &Share) -> dpdk::MempoolConfig {
        dpdk::MempoolConfig {
            count: share.buffers,
            cache: 256,
            private_bytes: PRIVATE,
            data_room: self.data_room,
            socket: share.node,
        }
    }

    /// How to start the EAL.
    pub fn eal(&self, config: &Config) -> EalOptions {
        let mut lcores = vec![Lcore { id: 0, cpu: self.main_cpu }];
        for (worker, cpu) in self.worker_cpus.iter().enumerate() {
            lcores.push(Lcore { id: Plan::lcore(worker as u16), cpu: *cpu });
        }
        let mut options = EalOptions {
            program: "cgnat".to_owned(),
            file_prefix: config.system().name().to_owned(),
            lcores,
            memory_mib: self.memory_mib,
            node_memory_mib: self.placement.node_mib(),
            huge_pages: self.huge_pages,
            ..EalOptions::default()
        };
        for (number, port) in config.devices() {
            for part in port.device().parts() {
                match part {
                    Device::Pci(address) => options.allow_pci.push(address.clone()),
                    _ => options.vdevs.push(device_string(config, number, part, self.workers())),
                }
            }
        }
        options
    }
}

/// The device as DPDK's `--vdev` wants it. A packet socket gets a queue pair for each worker and
/// slots for its MTU unless the configuration says otherwise.
fn device_string(config: &Config, port: usize, device: &Device, workers: u16) -> String {
    let Device::Virtual { name, driver, arguments } = device else {
        return device.name().to_owned();
    };
    let mut text = name.clone();
    for (key, value) in arguments {
        text.push_str(&format!(",{key}={value}"));
    }
    if driver == "net_af_packet" && workers > 1 && !arguments.iter().any(|(k, _)| k == "qpairs") {
        text.push_str(&format!(",qpairs={workers}"));
    }
    if let Some((slot, block)) = config.ring(port) {
        text.push_str(&format!(",framesz={slot},blocksz={block}"));
    }
    text
}

/// Bytes that one packet buffer takes. Where DPDK has ordinary pages it reckons with whole ones
/// for each buffer that could not share its page with another.
fn buffer_bytes(data_room: u16, huge_pages: bool) -> u64 {
    let bytes = u64::from(data_room) + u64::from(PRIVATE) + DESCRIPTOR;
    if huge_pages { bytes } else { bytes.next_multiple_of(PAGE) }
}

/// What the pools take that net_bonding makes for the LACP frames of each member, when its link comes up:
/// it ends the process if it does not get them.
fn lacp_bytes(config: &Config, workers: usize) -> u64 {
    let members = config.devices().map(|(_, port)| match port.device() {
        Device::Bond { members, .. } => members.len(),
        _ => 0,
    });
    members.sum::<usize>() as u64 * (workers as u64 * u64::from(DESCRIPTORS) + 16) * LACP_FRAME
}

/// Enough for the pool of `mine` of `workers` workers that no queue, ring, parking place or cache
/// can starve another. Packets that they receive may wait to be sent anywhere.
fn buffers((ports, devices, parts): (usize, usize, usize), mine: usize, workers: usize) -> u32 {
    let queues = parts * (mine + workers) * usize::from(DESCRIPTORS);
    let rings = if workers > 1 { workers * RING as usize + devices * RING as usize } else { 0 };
    let waiting = workers * (1024 + 256 + 32 * (2 * ports + workers));
    let cached = (workers + 1) * 512;
    (queues + rings + waiting + cached + 1024) as u32
}

/// The CPU of each worker.
fn worker_cpus(config: &Config, usable: &[u16]) -> Vec<u16> {
    let control = config.system().control_cpus();
    let free: Vec<u16> = usable.iter().copied().filter(|cpu| !control.contains(cpu)).collect();
    let free = if free.is_empty() { usable.to_vec() } else { free };
    let round_robin = |count: u16| (0..usize::from(count)).map(|n| free[n % free.len()]).collect();
    match config.system().workers() {
        Workers::Cpus(cpus) => cpus.clone(),
        Workers::Count(count) => round_robin(*count),
        // A virtual device has one receive queue; a card has one for each CPU.
        Workers::Auto if config.ports().iter().all(|p| !p.device().is_card()) => round_robin(1),
        Workers::Auto => free,
    }
}

/// What the configuration takes, as lines of `cgnat check`.
///
/// # Errors
/// A sentence if `system.memory` is too little.
pub fn capacity(config: &Config) -> Result<Vec<String>, String> {
    let plan = Plan::with(config, &Machine::read(Path::new("/")), false)?;
    let layout = &plan.layout;
    let workers = u64::from(plan.workers());
    Ok(vec![
        format!(
            "capacity: {} subscribers at once, {} port blocks, {} mappings, {} further TCP sessions, {} flows without ports",
            grouped(u64::from(layout.blocks)),
            grouped(u64::from(layout.blocks)),
            grouped(u64::from(layout.mappings_per_shard) * workers),
            grouped(u64::from(layout.sessions_per_shard) * workers),
            // Each has two records.
            grouped(u64::from(layout.associations_per_shard) * workers / 2),
        ),
        format!(
            "memory: {} bytes of tables for {} ({} bytes per worker, {} bytes for port blocks, \
             {} bytes of deadlines and leases), {} packet buffers of {} bytes; {} of \
             `system.memory` {}",
            grouped(layout.total_bytes() as u64),
            if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") },
            grouped(layout.shard_bytes as u64),
            grouped(layout.block_bytes as u64),
            grouped(layout.heap_bytes as u64),
            grouped(u64::from(plan.placement.buffers())),
            grouped(buffer_bytes(plan.data_room, plan.huge_pages)),
            mib(u64::from(plan.memory_mib) << 20),
            mib(config.system().memory_bytes()),
        ),
        format!(
            "spare: room for {} more pool addresses while it runs, {} of the bytes for port blocks",
            grouped(u64::from(layout.spare_addresses)),
            grouped(layout.spare_bytes as u64),
        ),
    ])
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", grouped(bytes.div_ceil(1 << 20)))
}
