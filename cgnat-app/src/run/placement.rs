//! Where the workers' memory lies: on the NUMA node of each one's CPU (decision 26).
//!
//! Arithmetic on what the plan needs and what the machine has; nothing is asked of DPDK here.
//! Always true:
//! 1. every worker is in exactly one share;
//! 2. a share is on a node only if the node has the memory for it.

use crate::machine::{Machine, written};

/// What the workers of one node share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Whose memory is used; `None` for wherever there is some.
    pub node: Option<u32>,
    /// Its workers, ascending.
    pub workers: Vec<u16>,
    /// Packet buffers of their pool.
    pub buffers: u32,
    /// Bytes of tables and buffers, and what DPDK adds.
    pub bytes: u64,
}

/// A node without enough memory for its workers, who have it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The node.
    pub node: u32,
    /// Its workers.
    pub workers: Vec<u16>,
    /// Bytes that they need.
    pub needed: u64,
    /// Bytes of huge pages that are free there.
    pub free: u64,
}

/// The shares of all workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// In order of their first workers; at least one.
    pub shares: Vec<Share>,
    /// The one with the most workers: port blocks, which wander, are there.
    pub home: usize,
    /// Nodes that were passed over.
    pub lacks: Vec<Lack>,
}

impl Placement {
    /// Places workers by the nodes of their CPUs, where these are known. `cost` is what so many
    /// workers of one node need: buffers and bytes; `blocks` the bytes of all port blocks, `free`
    /// the bytes that a node has.
    pub fn new(
        nodes: &[Option<u32>],
        cost: impl Fn(usize) -> (u32, u64),
        blocks: u64,
        free: impl Fn(u32) -> u64,
    ) -> Self {
        let mut shares: Vec<Share> = Vec::new();
        for (worker, node) in nodes.iter().enumerate() {
            let worker = worker as u16;
            match shares.iter_mut().find(|share| share.node == *node) {
                Some(share) => share.workers.push(worker),
                None => {
                    shares.push(Share { node: *node, workers: vec![worker], buffers: 0, bytes: 0 })
                }
            }
        }
        let most = shares.iter().map(|share| share.workers.len()).max().unwrap_or(0);
        let home = shares.iter().position(|share| share.workers.len() == most).unwrap_or(0);
        let mut lacks = Vec::new();
        for (n, share) in shares.iter_mut().enumerate() {
            (share.buffers, share.bytes) = cost(share.workers.len());
            if n == home {
                share.bytes += blocks;
            }
            if let Some(node) = share.node
                && free(node) < share.bytes
            {
                share.node = None;
                let (workers, needed) = (share.workers.clone(), share.bytes);
                lacks.push(Lack { node, workers, needed, free: free(node) });
            }
        }
        Self { shares, home, lacks }
    }

    /// The share of a worker, by its number.
    pub fn share_of(&self, worker: u16) -> usize {
        let place = self.shares.iter().position(|share| share.workers.contains(&worker));
        place.unwrap_or_else(|| unreachable!("every worker has a share"))
    }

    /// The node of a worker's memory.
    pub fn node_of(&self, worker: u16) -> Option<u32> {
        self.shares[self.share_of(worker)].node
    }

    /// Packet buffers of all.
    pub fn buffers(&self) -> u32 {
        self.shares.iter().map(|share| share.buffers).sum()
    }

    /// Bytes of all.
    pub fn bytes(&self) -> u64 {
        self.shares.iter().map(|share| share.bytes).sum()
    }

    /// MiB to be taken at the start by node, as far as the last that has any. None at all if
    /// something has no node: then DPDK looks where there is memory.
    pub fn node_mib(&self) -> Vec<u32> {
        let mut all = Vec::new();
        for share in &self.shares {
            let Some(node) = share.node else { return Vec::new() };
            let node = node as usize;
            all.resize(all.len().max(node + 1), 0);
            all[node] = share.bytes.div_ceil(1 << 20) as u32;
        }
        all
    }

    /// Who has memory where, for the start; nothing where nothing was asked of DPDK.
    pub fn sentences(&self, cpus: &[u16]) -> Vec<String> {
        let placed = self.shares.iter().filter_map(|share| Some((share.node?, share)));
        let sentence = |(node, share): (u32, &Share)| {
            format!(
                "NUMA node {node}: {}, {} MiB of tables and packet buffers",
                workers_on(&share.workers, cpus),
                share.bytes.div_ceil(1 << 20)
            )
        };
        placed.map(sentence).collect()
    }
}

/// `workers 0-1 (CPUs 2-3)`.
fn workers_on(workers: &[u16], cpus: &[u16]) -> String {
    let s = if workers.len() == 1 { "" } else { "s" };
    let cpus: Vec<u16> = workers.iter().map(|worker| cpus[usize::from(*worker)]).collect();
    format!("worker{s} {} (CPU{s} {})", written(workers), written(&cpus))
}

/// What is to be said of a node without memory.
pub fn lack_message(lack: &Lack, cpus: &[u16]) -> String {
    let Lack { node, workers, needed, free } = lack;
    let missing = (needed - free).div_ceil(2 << 20);
    format!(
        "NUMA node {node}: {} need{} {} MiB there, {} MiB of huge pages are free: their tables and \
         packet buffers go to another node, a longer way for every packet; raise \
         /sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages by {missing}, \
         or name CPUs of a node with memory in system.workers",
        workers_on(workers, cpus),
        if workers.len() == 1 { "s" } else { "" },
        needed.div_ceil(1 << 20),
        free >> 20,
    )
}

/// What is to be said of a card that is not on the node of all workers; `None` if it is, or if
/// nothing is known of it.
pub fn distance_message(machine: &Machine, address: &str, cpus: &[u16]) -> Option<String> {
    let node = machine.node_of_device(address)?;
    let elsewhere = |cpu: &u16| machine.node_of_cpu(*cpu).filter(|other| *other != node);
    let far = cpus.iter().enumerate().filter(|(_, cpu)| elsewhere(cpu).is_some());
    let far: Vec<u16> = far.map(|(worker, _)| worker as u16).collect();
    let first = elsewhere(&cpus[usize::from(*far.first()?)])?;
    let mut others: Vec<u32> = cpus.iter().filter_map(elsewhere).collect();
    others.sort_unstable();
    others.dedup();
    let others: Vec<String> = others.iter().map(u32::to_string).collect();
    let near = machine.cpus_of_node(node);
    let near = if near.is_empty() { "which has none".to_owned() } else { written(near) };
    Some(format!(
        "PCI device {address} is on NUMA node {node}, {} on node {}: their packets cross between \
         the nodes; name CPUs of node {node} ({near}) in system.workers, or put the card into a \
         slot of node {first}",
        workers_on(&far, cpus),
        others.join(" and "),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Ten MiB and a thousand buffers for each worker.
    fn cost(workers: usize) -> (u32, u64) {
        (1000 * workers as u32, 10 * MIB * workers as u64)
    }

    fn place(nodes: &[Option<u32>], free: [u64; 2]) -> Placement {
        Placement::new(nodes, cost, 5 * MIB, |node| free[node as usize] * MIB)
    }

    #[test]
    fn workers_of_a_node_share_its_memory_and_blocks_are_with_most_of_them() {
        let placement = place(&[Some(1), Some(0), Some(0)], [1000, 1000]);
        let share = |node, workers: &[u16], buffers, mib| Share {
            node: Some(node),
            workers: workers.to_vec(),
            buffers,
            bytes: mib * MIB,
        };
        assert_eq!(placement.shares, [share(1, &[0], 1000, 10), share(0, &[1, 2], 2000, 25)]);
        assert_eq!((placement.home, placement.lacks.len()), (1, 0));
        assert_eq!([0, 1, 2].map(|worker| placement.share_of(worker)), [0, 1, 1]);
        assert_eq!([0, 1, 2].map(|worker| placement.node_of(worker)), [Some(1), Some(0), Some(0)]);
        assert_eq!((placement.buffers(), placement.bytes()), (3000, 35 * MIB));
        assert_eq!(placement.node_mib(), [25, 10]);
        assert_eq!(
            placement.sentences(&[9, 2, 3]),
            [
                "NUMA node 1: worker 0 (CPU 9), 10 MiB of tables and packet buffers",
                "NUMA node 0: workers 1-2 (CPUs 2-3), 25 MiB of tables and packet buffers",
            ]
        );
    }

    #[test]
    fn a_node_without_enough_memory_is_passed_over_and_named() {
        let placement = place(&[Some(0), Some(1), Some(1)], [1000, 24]);
        assert_eq!([0, 1, 2].map(|worker| placement.node_of(worker)), [Some(0), None, None]);
        assert_eq!(placement.node_mib(), [0; 0], "DPDK looks for itself");
        assert_eq!(placement.sentences(&[0, 8, 9]).len(), 1);
        let [lack] = placement.lacks.as_slice() else { panic!("{placement:?}") };
        assert_eq!(
            lack_message(lack, &[0, 8, 9]),
            "NUMA node 1: workers 1-2 (CPUs 8-9) need 25 MiB there, 24 MiB of huge pages are free: \
             their tables and packet buffers go to another node, a longer way for every packet; \
             raise /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages by 1, \
             or name CPUs of a node with memory in system.workers"
        );
        // As much as is needed is enough.
        assert_eq!(place(&[Some(0), Some(1), Some(1)], [10, 25]).lacks, []);
    }

    #[test]
    fn where_nothing_is_known_of_nodes_nothing_is_asked_of_them() {
        let placement = place(&[None, None], [0, 0]);
        assert_eq!((placement.shares.len(), placement.node_of(1)), (1, None));
        assert_eq!((placement.lacks, placement.home), (vec![], 0));
    }
}
