//! A whole box in one thread: workers and housekeeping driven in turn, time by hand.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::io::{MemoryIo, MemoryPacket};
use super::memory;
use crate::assembly::{Assembly, Memory, assemble};
use crate::config::Config;
use crate::control::counters::WorkerCounters;
use crate::control::links::LinkStates;
use crate::housekeeping::{Housekeeping, ReloadError, Reloaded};
use crate::layout::Layout;
use crate::packet::ethernet::Mac;
use crate::refusals::Remembered;
use crate::space::{AddressUse, ExternalSpace, OwnerMap};
use crate::table::port_block::PortCensus;
use crate::time::Instant;
use crate::verdict::DropReason;
use crate::worker::forwarding::Forwarding;
use crate::worker::io::PacketBuf;
use crate::worker::routes::{Learned, Routes};
use crate::worker::{TimeSource, Worker};

/// Rounds after which a box that still works is considered stuck.
const ROUNDS: usize = 10_000;

/// A whole box.
pub struct Lab {
    /// Workers, in order.
    pub workers: Vec<Worker<MemoryIo>>,
    /// Housekeeping.
    pub housekeeping: Housekeeping,
    /// Counters of the workers.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Owners of blocks.
    pub owners: OwnerMap,
    /// Links of the ports; all are up until a test says else.
    pub links: Arc<LinkStates>,
    /// Ports and routes of the configuration.
    pub forwarding: Arc<Forwarding>,
    /// Time, moved by [`Lab::advance`].
    pub now: Instant,
    /// Looks at every frame that is sent, as (port, frame).
    pub watch: Option<fn(usize, &[u8])>,
    ports: usize,
}

/// MAC that the lab gives to a port.
pub fn port_mac(port: usize) -> Mac {
    [2, 0, 0, 0, 1, port as u8]
}

impl Lab {
    /// The box of `yaml` with `workers` workers; chance comes from `seed`.
    ///
    /// # Panics
    /// If the configuration is not good; the message lists its problems.
    pub fn new(yaml: &str, workers: u16, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self::with_chance(yaml, workers, |bytes| random.fill_bytes(bytes))
    }

    /// The box of `yaml` with `workers` workers; `chance` fills bytes at random.
    ///
    /// # Panics
    /// If the configuration is not good; the message lists its problems.
    pub fn with_chance(yaml: &str, workers: u16, chance: impl FnMut(&mut [u8])) -> Self {
        let config = match Config::from_yaml("lab.yaml", yaml) {
            Ok(config) => config,
            Err(problems) => panic!("{problems}"),
        };
        let layout = Layout::new(&config, workers);
        let memory = Memory {
            shards: (0..workers).map(|_| memory::zeroed(layout.shard_bytes)).collect(),
            blocks: memory::zeroed(layout.block_bytes),
        };
        let macs: Vec<Mac> = (0..config.ports().len()).map(port_mac).collect();
        let assembly = assemble(&config, &layout, memory, &macs, TimeSource::Clock, chance);
        let Assembly { seats, housekeeping, counters, owners, links, forwarding, .. } =
            match assembly {
                Ok(assembly) => assembly,
                Err(error) => panic!("{error}"),
            };
        let ports = config.ports().len();
        let views = MemoryIo::connected(usize::from(workers), ports);
        let workers = seats.into_iter().zip(views).map(|(seat, io)| seat.worker(io)).collect();
        let now = Instant::from_millis(1_000);
        let watch = None;
        let mut lab =
            Self { workers, housekeeping, counters, owners, links, forwarding, now, watch, ports };
        lab.settle();
        // Requests for the next hops.
        lab.take_sent();
        lab
    }

    /// External space, its last version.
    pub fn space(&self) -> &Arc<ExternalSpace> {
        self.housekeeping.space()
    }

    /// Gives the box the addresses of another configuration, and lets everybody take them.
    ///
    /// # Errors
    /// If that cannot be.
    ///
    /// # Panics
    /// If the configuration is not good.
    pub fn reload(&mut self, yaml: &str) -> Result<Reloaded, ReloadError> {
        let config = match Config::from_yaml("lab.yaml", yaml) {
            Ok(config) => config,
            Err(problems) => panic!("{problems}"),
        };
        let reloaded = self.housekeeping.reload(&config)?;
        self.settle();
        Ok(reloaded)
    }

    /// Gives the workers what was learned on the internal and the external side, as version
    /// `version`, and lets everybody take it.
    ///
    /// # Panics
    /// If a worker has not taken the version before.
    pub fn route(&mut self, version: u64, learned: &[Learned; 2]) {
        let routes = Arc::new(Routes::new(version, &self.forwarding, learned));
        assert!(self.housekeeping.route(routes, self.now).is_ok(), "routes are under way");
        self.settle();
    }

    /// What subscribers were refused, asked as an operator asks.
    ///
    /// # Panics
    /// If a worker does not answer.
    pub fn refusals(&mut self) -> Remembered {
        self.housekeeping.ask_refusals();
        for _ in 0..ROUNDS {
            self.settle();
            if let Some(remembered) = self.housekeeping.take_refusals() {
                return remembered;
            }
        }
        panic!("not every worker has told what was refused");
    }

    /// Moves time and lets housekeeping and workers catch up with it.
    pub fn advance(&mut self, ms: u64) {
        self.now = self.now.plus_millis(ms);
        self.settle();
    }

    /// Moves time without letting anybody notice yet.
    pub fn advance_silently(&mut self, ms: u64) {
        self.now = self.now.plus_millis(ms);
    }

    /// A frame arrives at `port` of `worker`; what the box sends because of it is returned
    /// as (port, frame).
    pub fn arrive(&mut self, worker: usize, port: usize, frame: &[u8]) -> Vec<(usize, Vec<u8>)> {
        self.workers[worker].io_mut().arrive(port, MemoryPacket::new(frame));
        self.run_workers();
        self.take_sent()
    }

    /// Lets the workers poll until none has anything to do; housekeeping only if a packet
    /// waits for it.
    pub fn run_workers(&mut self) {
        for _ in 0..ROUNDS {
            let mut work = 0;
            for worker in &mut self.workers {
                work += worker.poll(self.now);
            }
            if work == 0 {
                let parked: u64 = self.counters.iter().map(|c| c.parked.value()).sum();
                if parked == 0 || !self.housekeeping_once() {
                    return;
                }
            }
        }
        panic!("the workers do not come to rest");
    }

    /// Lets everybody work until nobody has anything to do.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS {
            let kept = self.housekeeping_once() || self.housekeeping.is_busy();
            let mut work = 0;
            for worker in &mut self.workers {
                work += worker.poll(self.now);
            }
            if !kept && work == 0 {
                return;
            }
        }
        panic!("the box does not come to rest");
    }

    fn housekeeping_once(&mut self) -> bool {
        self.housekeeping.run(self.now, self.now)
    }

    /// Frames that were sent, as (port, frame).
    pub fn take_sent(&mut self) -> Vec<(usize, Vec<u8>)> {
        let mut frames = Vec::new();
        for worker in &mut self.workers {
            for port in 0..self.ports {
                while let Some(packet) = worker.io_mut().take_sent(port) {
                    if let Some(watch) = self.watch {
                        watch(port, packet.bytes());
                    }
                    frames.push((port, packet.bytes().to_vec()));
                }
            }
        }
        frames
    }

    /// Drops under `reason`, over all workers.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.counters.iter().map(|counters| counters.drops_of(reason)).sum()
    }

    /// All drops.
    pub fn all_drops(&self) -> u64 {
        DropReason::ALL.iter().map(|reason| self.drops(*reason)).sum()
    }

    /// A sum over the workers' counters.
    pub fn sum(&self, value: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.counters.iter().map(|counters| value(counters)).sum()
    }

    /// Every port of every pool, wherever its block is.
    pub fn port_census(&self) -> PortCensus {
        let tick = self.now.tick();
        let mut census = self.housekeeping.port_census(tick);
        for worker in &self.workers {
            census += worker.shard().port_census(tick);
        }
        census
    }

    /// Checks every shard, see [`crate::shard::Shard::audit`], and that what all of them
    /// count together is what each has.
    ///
    /// # Panics
    /// With the first violation.
    pub fn audit(&self) {
        for worker in &self.workers {
            if let Err(violation) = worker.shard().audit(self.now.tick()) {
                panic!("shard {}: {violation}", worker.shard().id());
            }
        }
        let all = self.workers.len() == self.counters.len();
        let space = self.space();
        for (number, pool) in (0u16..).zip(space.pools()).filter(|_| all) {
            for address in 0..pool.places().len() as u32 {
                let mut found = AddressUse::default();
                for worker in &self.workers {
                    let here = worker.shard().address_use(number, address);
                    found.subscribers += here.subscribers;
                    found.blocks += here.blocks;
                }
                let counted = space.occupancy().of(number, address);
                assert_eq!(counted, found, "pool {number}, address {address}");
            }
        }
    }
}
