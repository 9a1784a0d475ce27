//! What the machine has: CPUs, NUMA nodes, huge pages.
//!
//! Read once below a root directory (`/` in the program), so that tests can build machines of
//! files. What the kernel does not tell is absent: a machine without nodes is one where nothing
//! is known of them, and nothing is asked of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A machine at the moment it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that this process may run on, ascending; never empty.
    pub usable_cpus: Vec<u16>,
    /// CPUs that are there; none if the kernel does not tell.
    pub online_cpus: Vec<u16>,
    /// Bytes of free huge pages of all sizes and nodes.
    pub free_huge_bytes: u64,
    /// By its number.
    nodes: BTreeMap<u32, Node>,
    root: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    cpus: Vec<u16>,
    free_huge_bytes: u64,
}

impl Machine {
    /// The machine below `root`.
    pub fn read(root: &Path) -> Self {
        let online = fs::read_to_string(root.join("sys/devices/system/cpu/online")).ok();
        let online_cpus = online.as_deref().and_then(cpu_list).unwrap_or_default();
        let allowed = status_line(root, "Cpus_allowed_list:").as_deref().and_then(cpu_list);
        let mut usable_cpus = allowed.unwrap_or_else(|| online_cpus.clone());
        if usable_cpus.is_empty() {
            usable_cpus.push(0);
        }
        let mut nodes = BTreeMap::new();
        for entry in fs::read_dir(root.join("sys/devices/system/node")).into_iter().flatten() {
            let Ok(path) = entry.map(|entry| entry.path()) else { continue };
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(number) = name.strip_prefix("node").and_then(|n| n.parse().ok()) else {
                continue;
            };
            let cpus = fs::read_to_string(path.join("cpulist")).ok();
            let cpus = cpus.as_deref().and_then(cpu_list).unwrap_or_default();
            let free_huge_bytes = free_huge_bytes(&path.join("hugepages"));
            nodes.insert(number, Node { cpus, free_huge_bytes });
        }
        let free_huge_bytes = free_huge_bytes(&root.join("sys/kernel/mm/hugepages"));
        Self { usable_cpus, online_cpus, free_huge_bytes, nodes, root: root.to_owned() }
    }

    /// The node of a CPU.
    pub fn node_of_cpu(&self, cpu: u16) -> Option<u32> {
        self.nodes.iter().find(|(_, node)| node.cpus.contains(&cpu)).map(|(number, _)| *number)
    }

    /// The node that a PCI device hangs on.
    pub fn node_of_device(&self, address: &str) -> Option<u32> {
        let file = self.root.join("sys/bus/pci/devices").join(address).join("numa_node");
        // -1 where it is on none.
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    /// CPUs of a node, ascending.
    pub fn cpus_of_node(&self, node: u32) -> &[u16] {
        self.nodes.get(&node).map_or(&[], |node| &node.cpus)
    }

    /// Bytes of free huge pages of a node, of all sizes.
    pub fn free_huge_bytes_of(&self, node: u32) -> u64 {
        self.nodes.get(&node).map_or(0, |node| node.free_huge_bytes)
    }
}

/// What follows `key` in the status of this process.
pub fn status_line(root: &Path, key: &str) -> Option<String> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(key)).map(|rest| rest.trim().to_owned())
}

/// A CPU list as the kernel writes it; that of a node without CPUs is empty.
fn cpu_list(text: &str) -> Option<Vec<u16>> {
    let mut list = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        list.extend(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?);
    }
    Some(list)
}

/// Numbers as people write them: `0-3, 8`.
pub fn written(numbers: &[u16]) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let run = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them_and_written_for_people() {
        assert_eq!(cpu_list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(cpu_list("\n"), Some(vec![]));
        assert_eq!(cpu_list("a"), None);
        assert_eq!(written(&[0, 1, 2, 3, 8]), "0-3, 8");
        assert_eq!(written(&[4, 4, 65535]), "4, 4, 65535");
        assert_eq!(written(&[]), "");
    }

    #[test]
    fn this_machine_tells_its_cpus() {
        let here = Machine::read(Path::new("/"));
        assert!(!here.usable_cpus.is_empty() && here.usable_cpus.is_sorted());
        for cpu in &here.usable_cpus {
            assert!(here.online_cpus.contains(cpu), "{cpu} of {here:?}");
            if let Some(node) = here.node_of_cpu(*cpu) {
                assert!(here.cpus_of_node(node).contains(cpu));
            }
        }
    }
}
