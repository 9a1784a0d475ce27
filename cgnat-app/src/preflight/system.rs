//! What the machine itself has: permissions of this process, CPUs, huge pages.

use std::fs;
use std::path::Path;

use cgnat_core::config::{Config, Device, HugePages, Idle, Workers};

use super::{ARGUMENTS_WITH_INTERFACE, Preflight, subject};

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

pub(super) fn capabilities(here: &mut Preflight, config: &Config, root: &Path) {
    let status = status_line(root, "CapEff:");
    let Some(held) = status.and_then(|hex| u64::from_str_radix(&hex, 16).ok()) else { return };
    for port in config.ports() {
        let Device::Virtual { driver, arguments, .. } = port.device() else { continue };
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

/// What follows `key` in the status of this process.
fn status_line(root: &Path, key: &str) -> Option<String> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(key)).map(|rest| rest.trim().to_owned())
}

pub(super) fn cpus(here: &mut Preflight, config: &Config, root: &Path) {
    let system = config.system();
    let online = fs::read_to_string(root.join("sys/devices/system/cpu/online")).ok();
    let Some(online) = online.as_deref().map(str::trim).and_then(cpu_list) else { return };
    let allowed = status_line(root, "Cpus_allowed_list:").as_deref().and_then(cpu_list);
    let allowed = allowed.unwrap_or_else(|| online.clone());
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

/// A CPU list as the kernel writes it.
fn cpu_list(text: &str) -> Option<Vec<u16>> {
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        list.extend(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?);
    }
    Some(list)
}

pub(super) fn huge_pages(here: &mut Preflight, config: &Config, root: &Path) {
    let wanted = config.system().huge_pages();
    let needed = config.system().memory_bytes();
    if wanted == HugePages::Off {
        return;
    }
    let free = free_huge_bytes(&root.join("sys/kernel/mm/hugepages"));
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

/// Bytes of all free huge pages; each size has a directory `hugepages-2048kB`.
fn free_huge_bytes(directory: &Path) -> u64 {
    let Ok(sizes) = fs::read_dir(directory) else { return 0 };
    let bytes = |entry: fs::DirEntry| -> Option<u64> {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let free = fs::read_to_string(entry.path().join("free_hugepages")).ok()?;
        Some(kib * 1024 * free.trim().parse::<u64>().ok()?)
    };
    sizes.flatten().filter_map(bytes).sum()
}
