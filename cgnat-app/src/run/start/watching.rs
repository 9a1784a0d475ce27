//! What the main thread looks at while a box runs, and what it says of it.

use std::sync::Arc;
use std::time::Duration;

use cgnat_core::config::Config;
use cgnat_core::control::counters::WorkerCounters;
use cgnat_core::control::neighbours::Neighbour;
use dpdk::{Mempool, RunningPort};

use super::Running;
use crate::run::conflicts;
use crate::run::kernel::{KernelCounters, KernelReport};
use crate::run::links::{BondCounts, Buffers};
use crate::run::readiness::{Facts, Readiness};
use crate::run::report::Report;
use crate::run::steering::{Counted, PortSteering, SteeringReport};

/// How long a look at how the cards steer takes.
const STEERING_LOOK: Duration = Duration::from_secs(10);

/// Packet buffers by pool.
pub(super) fn buffers(pools: &[Mempool]) -> Vec<Buffers> {
    let one = |pool: &Mempool| Buffers {
        pool: pool.name().to_owned(),
        in_use: pool.in_use(),
        count: pool.in_use() + pool.available(),
    };
    pools.iter().map(one).collect()
}

/// What the members of a port's bond have counted, and what workers got of it.
pub(super) fn bond_counts(
    config: &Config,
    port: usize,
    ports: &[RunningPort],
    counters: &[Arc<WorkerCounters>],
) -> BondCounts {
    let members = ports[port].member_stats().unwrap_or_default();
    let of = |(port, _): (usize, _)| counters.iter().map(move |c| c.ports[port].rx_packets.value());
    BondCounts {
        members: members.iter().map(|member| (member.ipackets, member.opackets)).collect(),
        delivered: config.on_device(port).flat_map(of).sum(),
    }
}

impl Running {
    /// What has happened so far.
    pub fn report(&self, config: &Config) -> Report {
        Report::of(config, &self.counters)
            .with_steering(self.steering_report())
            .with_kernel(KernelReport::of(config, &self.kernel_counters))
            .with_links(self.links.borrow().report(self.started.elapsed(), |port| {
                bond_counts(config, port, &self.ports, &self.counters)
            }))
            .with_routes(self.route_figures())
            .with_buffers(buffers(&self.pools))
            .with_ipv6(config, &self.forwarding, &self.neighbours6)
    }

    /// How each port steers.
    pub fn steering(&self) -> Vec<PortSteering> {
        self.steering.borrow().0.ports().to_vec()
    }

    /// Method, hand-off and load so far.
    pub fn steering_report(&self) -> SteeringReport {
        self.steering.borrow().0.report(&self.counters, self.watchdog.borrow().found())
    }

    /// Looks whether a worker or a transmit queue stands still; what the operator should know.
    pub fn watch_standstills(&self) -> Vec<String> {
        let link = |port: usize| self.ports[port].link_up().ok();
        self.watchdog.borrow_mut().look(self.started.elapsed(), &self.counters, link)
    }

    /// Of a port's interface in the kernel.
    pub fn kernel_interface(&self, port: usize) -> Option<Arc<KernelCounters>> {
        let found = self.kernel_counters.iter().find(|(of, _)| *of == port);
        found.map(|(_, counters)| counters.clone())
    }

    /// Whether the box carries traffic, by the rule of decision 33.
    pub fn readiness(&self, config: &Config) -> Readiness {
        let name = |port: usize| config.ports()[port].name().to_owned();
        let standstills = self.watchdog.borrow().found();
        let kernel = self.kernel.iter().map(|thread| ("kernel", thread.is_finished()));
        let routes = self.follower.iter().map(|thread| ("routes", thread.is_finished()));
        let interface = |(port, counters): &(usize, Arc<KernelCounters>)| {
            let interface = config.ports()[*port].kernel_interface().unwrap_or_default();
            (interface.to_owned(), counters.state())
        };
        let links = self.links.borrow();
        let links = config.ports().iter().zip(links.states());
        let next_hop = |(port, address): &(u8, u32)| {
            let is_known = matches!(self.neighbours.find(*port, *address), Neighbour::At(_));
            (name(usize::from(*port)), (*address).into(), is_known)
        };
        // Where routes are learned they are a fallback.
        let must_answer =
            self.forwarding.next_hops().iter().filter(|(port, _)| {
                !config.follows_kernel(config.ports()[usize::from(*port)].side())
            });
        Readiness::of(&Facts {
            standstills: standstills.workers.iter().map(|worker| worker.is_now).collect(),
            threads: [("housekeeping", self.housekeeping.is_finished())]
                .into_iter()
                .chain(kernel)
                .chain(routes)
                .collect(),
            interfaces: self.kernel_counters.iter().map(interface).collect(),
            links: links.map(|(port, is_up)| (port.name().to_owned(), is_up)).collect(),
            next_hops: must_answer.map(next_hop).collect(),
            ways: self.board.iter().flat_map(|b| b.ways(config, &self.neighbours)).collect(),
        })
    }

    /// Of the kernel's routes, if they are followed.
    pub fn route_figures(&self) -> Option<serde_json::Value> {
        self.board.as_ref().map(|board| board.figures(&self.neighbours))
    }

    /// For `cgnat show routes`.
    ///
    /// # Errors
    /// No port follows the kernel.
    pub fn routes(&self, config: &Config) -> Result<serde_json::Value, String> {
        let board = self.board.as_ref().ok_or_else(|| {
            "no port has `routes-from-kernel: true`, so routes are those of the configuration"
                .to_owned()
        })?;
        Ok(board.json(config, &self.neighbours))
    }

    /// Looks whether workers shed floods; what the operator should know.
    pub fn watch_floods(&self) -> Vec<String> {
        self.floods.borrow_mut().look(self.started.elapsed(), &self.counters)
    }

    /// Of the workers.
    pub fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.counters
    }

    /// Looks every ten seconds whether cards do what they said; what the operator should know.
    pub fn watch_steering(&self) -> Vec<String> {
        let (watch, next) = &mut *self.steering.borrow_mut();
        if std::time::Instant::now() < *next {
            return Vec::new();
        }
        *next = std::time::Instant::now() + STEERING_LOOK;
        watch.look(Counted::all(&self.counters))
    }

    /// Looks which links are up and tells workers; what the operator should know. Captures have none.
    pub fn watch_links(&self) -> Vec<String> {
        if self.replaying {
            return Vec::new();
        }
        let driver = |port: usize| self.ports[port].link_up().ok();
        let members = |port: usize| self.ports[port].members().unwrap_or_default();
        self.links.borrow_mut().look(self.started.elapsed(), driver, members)
    }

    /// What neighbours did that the operator should know.
    pub fn watch_neighbours(&self, config: &Config) -> Vec<String> {
        self.front.conflicts().map(|conflict| conflicts::sentence(config, conflict)).collect()
    }
}
