//! What the machine itself has: permissions of this process, CPUs, huge pages, NUMA nodes.

use std::path::Path;

use cgnat_core::config::{Config, Device, HugePages, Idle, Port, Workers};

use super::{ARGUMENTS_WITH_INTERFACE, Preflight, subject};
use crate::machine::{Machine, status_line};
use crate::run::placement;
use crate::run::plan::Plan;

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

pub(super) fn capabilities(here: &mut Preflight, config: &Config, root: &Path) {
    let status = status_line(root, "CapEff:");
    let Some(held) = status.and_then(|hex| u64::from_str_radix(&hex, 16).ok()) else { return };
    for (_, port) in config.devices() {
        let Some(Device::Virtual { driver, arguments, .. }) = port.device().parts().first() else {
            continue;
        };
        let uses_interface =
            arguments.iter().any(|(key, _)| ARGUMENTS_WITH_INTERFACE.contains(&key.as_str()));
        // A packet socket's MAC and flags are set too, so it needs both.
        let needed: &[(u32, &str)] = match driver.as_str() {
            "net_tap" => &[(CAP_NET_ADMIN, "CAP_NET_ADMIN")],
            "net_af_packet" => &[(CAP_NET_RAW, "CAP_NET_RAW"), (CAP_NET_ADMIN, "CAP_NET_ADMIN")],
            _ if uses_interface => &[(CAP_NET_RAW, "CAP_NET_RAW")],
            _ => continue,
        };
        let missing = needed.iter().filter(|(capability, _)| held >> capability & 1 == 0);
        let names: Vec<&str> = missing.map(|(_, name)| *name).collect();
        if !names.is_empty() {
            let message = format!(
                "{driver} needs {}; run as root, or: setcap cap_net_raw,cap_net_admin+ep \
                 \"$(command -v cgnat)\"",
                names.join(" and ")
            );
            here.denied(&subject(port), message);
        }
    }
}

pub(super) fn cpus(here: &mut Preflight, config: &Config, machine: &Machine) {
    let system = config.system();
    let (online, allowed) = (&machine.online_cpus, &machine.usable_cpus);
    if online.is_empty() {
        return;
    }
    let mut listed = |cpus: &[u16], subject: &str| {
        let mut seen = Vec::new();
        for cpu in cpus.iter().filter(|cpu| !allowed.contains(cpu) || !online.contains(cpu)) {
            if seen.contains(cpu) {
                continue;
            }
            seen.push(*cpu);
            let message = match online.contains(cpu) {
                false => format!("there is no CPU {cpu}; lscpu -e lists them"),
                true => format!("CPU {cpu} is closed to this process; see taskset -pc $$"),
            };
            here.error(subject, message);
        }
    };
    listed(system.control_cpus(), "system.control-cpus");
    let is_busy = system.idle() == Idle::Busy;
    if let Workers::Cpus(cpus) = system.workers() {
        listed(cpus, "system.workers");
        if is_busy {
            busy_neighbours(here, cpus);
        }
        return;
    }
    let free = allowed.iter().filter(|cpu| !system.control_cpus().contains(cpu)).count();
    if free == 0 {
        let message = "no CPU is left for workers; expected fewer control-cpus".to_owned();
        here.error("system.workers", message);
    } else if let Workers::Count(workers) = system.workers()
        && usize::from(*workers) > free
    {
        let long = if is_busy { ", with `idle: busy` for whole time slices" } else { "" };
        let message = format!(
            "{workers} workers for {free} free CPUs: some share a CPU and wait for each other{long}"
        );
        here.warning("system.workers", message);
    }
}

/// Workers that never rest and share a CPU.
fn busy_neighbours(here: &mut Preflight, cpus: &[u16]) {
    let mut told = Vec::new();
    for cpu in cpus {
        let workers = cpus.iter().filter(|other| *other == cpu).count();
        if workers > 1 && !told.contains(cpu) {
            told.push(*cpu);
            let message = format!(
                "CPU {cpu} carries {workers} workers, and none gives it away before its time slice \
                 is over, packets or not; expected a CPU for each in system.workers, or `adaptive`"
            );
            here.warning("system.idle", message);
        }
    }
}

pub(super) fn huge_pages(here: &mut Preflight, config: &Config, machine: &Machine, root: &Path) {
    let wanted = config.system().huge_pages();
    let needed = config.system().memory_bytes();
    if wanted == HugePages::Off {
        return;
    }
    let free = machine.free_huge_bytes;
    // Without the list nothing can be said.
    let mounts = std::fs::read_to_string(root.join("proc/self/mounts")).unwrap_or_default();
    let is_mounted = mounts.lines().any(|line| line.split(' ').nth(2) == Some("hugetlbfs"));
    if !mounts.is_empty() && !is_mounted && (free > 0 || wanted == HugePages::Required) {
        let message = "no hugetlbfs is mounted, so DPDK cannot use huge pages; mkdir -p \
                       /dev/hugepages && mount -t hugetlbfs none /dev/hugepages";
        here.error("system.huge-pages", message.to_owned());
    }
    if free >= needed {
        return;
    }
    let pages = needed.div_ceil(2 << 20);
    let message = format!(
        "{} MiB of huge pages are free, {} MiB are needed; dpdk-hugepages.py -p 2M -r {}M, \
         or: sysctl vm.nr_hugepages={pages}",
        free >> 20,
        needed >> 20,
        pages * 2,
    );
    match wanted {
        HugePages::Required => here.error("system.huge-pages", message),
        HugePages::Auto | HugePages::Off => here.warning("system.huge-pages", message),
    }
}

/// Memory and cards that are not on the node of a worker's CPU.
pub(super) fn nodes(here: &mut Preflight, config: &Config, machine: &Machine) {
    // Without a plan there is no run either, and it says so.
    let Ok(plan) = Plan::new(config, machine) else { return };
    for lack in &plan.placement.lacks {
        here.warning("system.workers", placement::lack_message(lack, &plan.worker_cpus));
    }
    let parts = |(_, port)| Port::device(port).parts().iter().map(move |part| (port, part));
    for (port, part) in config.devices().flat_map(parts) {
        if let Device::Pci(address) = part
            && let Some(message) = placement::distance_message(machine, address, &plan.worker_cpus)
        {
            here.warning(&subject(port), message);
        }
    }
}
