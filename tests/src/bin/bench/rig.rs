//! A box over null devices, built as the program builds one: packet buffers, queues and tables of
//! DPDK, workers on lcores, housekeeping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use cgnat_app::run::plan;
use cgnat_core::assembly::{Assembly, Memory, Seat, assemble};
use cgnat_core::config::Config;
use cgnat_core::control::counters::WorkerCounters;
use cgnat_core::housekeeping::Housekeeping;
use cgnat_core::layout::Layout;
use cgnat_core::time::Instant;
use cgnat_core::verdict::DropReason;
use cgnat_core::worker::{TimeSource, Worker};
use dpdk::{
    Clock, Eal, EalOptions, Lcore, Mbuf, MbufRing, Mempool, MempoolConfig, Port, PortConfig,
    RunningPort, Zone, tsc,
};
use parking_lot::Mutex;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use crate::traffic::{EXTERNAL, Flow, INTERNAL, Rings, Source, Traffic};

/// Flows of one subscriber: a port block of 64 has as many ports, and one is kept.
pub const FLOWS_PER_HOST: u32 = 63;

/// Blocks of 64 ports above 1,023 of one address.
const BLOCKS_PER_ADDRESS: u32 = 1008;

/// The first subscriber.
pub const FIRST_HOST: u32 = 0x6440_0001;

/// What a box is to hold.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Workers, the n-th on CPU `first_cpu + n`.
    pub workers: u16,
    /// See `workers`.
    pub first_cpu: u16,
    /// Mappings.
    pub mappings: u32,
    /// Subscribers, each with a port block.
    pub hosts: u32,
    /// Bytes of a frame without check sequence, at most.
    pub frame: u16,
    /// Huge pages, or ordinary ones.
    pub huge_pages: bool,
    /// Whether floods are shed.
    pub flood_guard: bool,
}

impl Size {
    fn configuration(&self) -> String {
        // A hash spreads subscribers over workers, not evenly; addresses as evenly as they can be.
        let spare = if self.workers > 1 { self.hosts / 4 } else { 0 };
        let addresses = (self.hosts + spare)
            .div_ceil(BLOCKS_PER_ADDRESS)
            .next_multiple_of(u32::from(self.workers));
        let last = std::net::Ipv4Addr::from(0xc612_0000 + addresses - 1);
        // The table is as full as an operator's at its limit; blocks likewise.
        format!(
            "version: 1
system:
  workers: {}
  max-mappings: {}
  memory: 16GiB
  new-flows-under-load: off
  flood-guard: {}
ports:
  internal0:
    side: internal
    device: net_null0
    addresses: [10.255.0.2/30]
    next-hop: 10.255.0.1
    neighbours: [{{ address: 10.255.0.1, mac: '02:00:00:00:09:09' }}]
  external0:
    side: external
    device: net_null1
    addresses: [192.0.2.2/30]
    next-hop: 192.0.2.1
    neighbours: [{{ address: 192.0.2.1, mac: '02:00:00:00:09:09' }}]
pools:
  main:
    addresses: [198.18.0.0-{last}]
    allocation: {{ block-size: 64, max-blocks: 1, hold: 0s }}
subscribers:
  - {{ name: everyone, match: [100.64.0.0/10], pool: main }}
timeouts:
  udp: {{ default: 1h, {SHORT_LIVED}: {SHORT_SECONDS}s }}
",
            self.workers,
            self.mappings.max(1000),
            self.flood_guard,
        )
    }
}

/// Flows to this port end soon.
pub const SHORT_LIVED: u16 = 123;
/// So many seconds after their last packet.
pub const SHORT_SECONDS: u32 = 1;

/// Housekeeping, for whoever has time for it.
pub struct Home {
    housekeeping: Mutex<Housekeeping>,
    /// Ticks that it has worked.
    pub busy: AtomicU64,
    clock: Clock,
}

impl Home {
    /// NAT time.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.clock.now_ns() + 1_000_000_000)
    }

    /// Whether something is under way between it and a worker, or a block is lent to none.
    pub fn is_busy(&self) -> bool {
        let housekeeping = self.housekeeping.lock();
        housekeeping.is_busy() || housekeeping.blocks_held() > 0
    }

    /// One round; whether there was work.
    pub fn run(&self) -> bool {
        let mut housekeeping = self.housekeeping.lock();
        let start = tsc();
        let worked = housekeeping.run(self.now(), self.now());
        self.busy.fetch_add(tsc() - start, Ordering::Relaxed);
        worked
    }
}

/// A box whose workers have no thread yet.
pub struct Rig<const HINTS: bool> {
    /// Lcores 1 and following are for the workers, in order.
    pub eal: Eal,
    /// Housekeeping.
    pub home: Arc<Home>,
    /// What becomes the workers, in order.
    pub places: Vec<Place<HINTS>>,
    /// Bytes that were given to tables and port blocks.
    pub provided: usize,
    /// Bytes of ordinary memory that were resident before the box was built.
    pub resident: u64,
    /// Closed when dropped.
    _ports: Vec<RunningPort>,
}

/// What a worker is made of.
pub struct Place<const HINTS: bool> {
    seat: Seat,
    traffic: Traffic<HINTS>,
    counters: Arc<WorkerCounters>,
    home: Arc<Home>,
}

impl<const HINTS: bool> Place<HINTS> {
    /// The worker, on its own thread.
    pub fn bench(self) -> Bench<HINTS> {
        let Self { seat, traffic, counters, home } = self;
        let worker = seat.worker(traffic);
        Bench { worker, counters, home, reading: reading() }
    }
}

impl<const HINTS: bool> Rig<HINTS> {
    /// Builds it: once in a process, because the EAL starts once.
    pub fn build(size: &Size) -> Result<Self> {
        let config = Config::from_yaml("bench.yaml", &size.configuration())
            .map_err(|problems| anyhow::anyhow!("{problems}"))?;
        let layout = Layout::new(&config, size.workers);
        let lcore = |n: u16| Lcore { id: n + 1, cpu: size.first_cpu + n };
        let eal = Eal::init(&EalOptions {
            program: "bench".to_owned(),
            file_prefix: format!("bench{}", std::process::id()),
            lcores: std::iter::once(Lcore { id: 0, cpu: 0 })
                .chain((0..size.workers).map(lcore))
                .collect(),
            memory_mib: (layout.provided_bytes() >> 20) as u32 + 160,
            huge_pages: size.huge_pages,
            vdevs: (0..2).map(|n| format!("net_null{n},size={}", size.frame)).collect(),
            ..EalOptions::default()
        })?;
        let room = 1536 + Mbuf::HEADROOM;
        let pool_config = MempoolConfig {
            count: 16383,
            cache: 256,
            private_bytes: 64,
            data_room: room,
            socket: None,
        };
        let pool = Mempool::create(&eal, "packets", &pool_config)?;
        let (mut rx, mut tx) = (Vec::new(), Vec::new());
        let (mut ports, mut macs) = (Vec::new(), [[0; 6]; 2]);
        for (n, mac) in macs.iter_mut().enumerate() {
            let port = Port::by_name(&eal, &format!("net_null{n}"))?;
            *mac = port.mac()?;
            let queues = size.workers;
            let settings =
                PortConfig { rx_queues: queues, tx_queues: queues, ..PortConfig::default() };
            let started = port.start(&settings, std::slice::from_ref(&pool))?;
            rx.push(started.rx.into_iter());
            tx.push(started.tx.into_iter());
            ports.push(started.port);
        }
        let (mut producers, mut consumers) = (Vec::new(), Vec::new());
        for worker in 0..size.workers {
            let (producer, consumer) =
                MbufRing::create(&eal, &format!("ring{worker}"), plan::RING, None)?;
            producers.push(producer);
            consumers.push(consumer);
        }
        let reserve = |name: &str, bytes| -> Result<_> {
            Ok(Zone::reserve(&eal, name, bytes, None)?.into_static())
        };
        let shards: Result<_> =
            (0..size.workers).map(|n| reserve(&format!("shard{n}"), layout.shard_bytes)).collect();
        let memory = Memory { shards: shards?, blocks: reserve("blocks", layout.block_bytes)? };
        let resident = resident()?;
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let chance = |bytes: &mut [u8]| random.fill_bytes(bytes);
        let Assembly { seats, housekeeping, counters, .. } =
            assemble(&config, &layout, memory, &macs, TimeSource::Clock, chance)?;
        let home = Arc::new(Home {
            housekeeping: Mutex::new(housekeeping),
            busy: AtomicU64::new(0),
            clock: Clock::start(&eal),
        });
        let mut places = Vec::new();
        for ((seat, counters), consumer) in seats.into_iter().zip(counters).zip(consumers) {
            let receive = rx.iter_mut().map(Iterator::next).collect::<Option<Vec<_>>>();
            let transmit = tx.iter_mut().map(Iterator::next).collect::<Option<Vec<_>>>();
            let (rx, tx) = receive.zip(transmit).context("each worker has its queues")?;
            let rings = Rings { producers: producers.clone(), own: places.len(), consumer };
            let traffic = Traffic::new(rx, tx, pool.clone(), macs, rings);
            places.push(Place { seat, traffic, counters, home: home.clone() });
        }
        let provided = layout.provided_bytes();
        Ok(Self { eal, home, places, provided, resident, _ports: ports })
    }
}

/// A worker of a box, on this thread.
pub struct Bench<const HINTS: bool> {
    worker: Worker<Traffic<HINTS>>,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
    /// The housekeeping of its box.
    pub home: Arc<Home>,
    /// Ticks of a reading of the time-stamp counter.
    reading: f64,
}

impl<const HINTS: bool> Bench<HINTS> {
    /// Its packets.
    pub fn io(&mut self) -> &mut Traffic<HINTS> {
        self.worker.io_mut()
    }

    /// Its worker.
    pub fn worker(&mut self) -> &mut Worker<Traffic<HINTS>> {
        &mut self.worker
    }

    /// Ticks of a reading of the time-stamp counter.
    pub fn reading(&self) -> f64 {
        self.reading
    }

    /// One poll; how many packets and commands.
    pub fn poll(&mut self) -> usize {
        self.worker.poll(self.home.now())
    }

    /// Lets workers and housekeeping finish what they have to tell each other.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let kept = self.home.run();
            let worked = self.poll() > 0;
            quiet = if kept || worked || self.home.is_busy() { 0 } else { quiet + 1 };
        }
    }

    /// Receives so many packets from inside and outside: ticks of each, without those of the
    /// generator; and of these, those that are not the driver's, if they are told apart.
    pub fn slice(&mut self, out: u64, inward: u64) -> Result<(f64, f64)> {
        let sent = self.io().sent;
        let io = self.io();
        io.ticks = Default::default();
        io.sources[INTERNAL].left = out;
        io.sources[EXTERNAL].left = inward;
        let start = tsc();
        while self.poll() > 0 {}
        let total = tsc() - start;
        let sent = self.io().sent - sent;
        if sent != out + inward {
            bail!("{sent} of {} packets came through; drops: {:?}", out + inward, self.drops());
        }
        Ok(self.own(total, sent))
    }

    /// Works for so many ticks at least on what arrives at these ports: ticks of each packet that
    /// was sent, without those of the generator, and how many these were.
    pub fn work_for(&mut self, ticks: u64, ports: &[usize]) -> (f64, u64) {
        let sent = self.io().sent;
        let io = self.io();
        io.ticks = Default::default();
        ports.iter().for_each(|port| io.sources[*port].left = u64::MAX);
        let start = tsc();
        while tsc() - start < ticks {
            for _ in 0..32 {
                self.poll();
            }
        }
        let total = tsc() - start;
        let sent = self.io().sent - sent;
        self.io().sources.iter_mut().for_each(|source| source.left = 0);
        (self.own(total, sent).0, sent)
    }

    /// Of `total` ticks for so many packets those of the worker, with and without the driver.
    pub fn own(&mut self, total: u64, packets: u64) -> (f64, f64) {
        let ticks = self.worker.io_mut().ticks;
        let own = total as f64 - ticks.stamp as f64 - ticks.readings as f64 * self.reading / 2.0;
        (own / packets as f64, (own - ticks.driver as f64) / packets as f64)
    }

    /// Why it dropped how many packets.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let of = |reason: &DropReason| (reason.name(), self.counters.drops_of(*reason));
        DropReason::ALL.iter().map(of).filter(|(_, count)| *count > 0).collect()
    }

    /// Begins `flows`, in an order of chance.
    pub fn begin(&mut self, flows: &[Flow], random: &mut ChaCha8Rng) -> Result<Begun> {
        let mut order = flows.to_vec();
        shuffle(&mut order, random);
        let io = self.io();
        io.learned = vec![(0, 0); flows.len()];
        io.sources[INTERNAL] = Source::of(order);
        let mut ticks = Vec::new();
        for from in (0..flows.len()).step_by(RUN) {
            let some = RUN.min(flows.len() - from);
            let each = self.slice(some as u64, 0)?.0;
            if some >= RUN / 4 {
                ticks.push(each);
            }
            self.settle();
        }
        // Flows, twice, and what was learned are the generator's.
        let own = flows.len() * (2 * size_of::<Flow>() + size_of::<(u32, u16)>());
        let resident = resident()?.saturating_sub(own as u64);
        let learned = std::mem::take(&mut self.io().learned);
        let answers = flows.iter().zip(learned).map(|(flow, (address, port))| Flow {
            source: flow.destination,
            source_port: flow.destination_port,
            destination: address,
            destination_port: port,
            number: flow.number,
        });
        let answers: Vec<Flow> = answers.collect();
        if answers.iter().any(|flow| flow.destination == 0) {
            bail!("not every flow was translated; drops: {:?}", self.drops());
        }
        Ok(Begun { ticks, answers, resident })
    }
}

/// Flows of which the ticks are told together.
const RUN: usize = 1 << 18;

/// What came of the beginning of flows.
pub struct Begun {
    /// Ticks of a first packet, of each run of them.
    pub ticks: Vec<f64>,
    /// The flows as their answers arrive, in order.
    pub answers: Vec<Flow>,
    /// Bytes of ordinary memory that are resident, without those of the generator.
    pub resident: u64,
}

/// Flows of as many hosts as they need, from `first` on.
pub fn flows(first: u32, count: u32) -> Vec<Flow> {
    let flow = |n: u32| Flow {
        source: first + n / FLOWS_PER_HOST,
        source_port: 10_000 + (n % FLOWS_PER_HOST) as u16,
        destination: 0x0800_0000 | n.wrapping_mul(0x9e37_79b9) >> 8,
        destination_port: 443,
        number: n,
    };
    (0..count).map(flow).collect()
}

/// Puts flows into an order of chance.
pub fn shuffle(flows: &mut [Flow], random: &mut ChaCha8Rng) {
    for at in (1..flows.len()).rev() {
        let other = (u64::from(random.next_u32()) * (at as u64 + 1)) >> 32;
        flows.swap(at, other as usize);
    }
}

/// Ticks of a reading of the counter.
fn reading() -> f64 {
    let start = tsc();
    for _ in 0..10_000 {
        std::hint::black_box(tsc());
    }
    (tsc() - start) as f64 / 10_000.0
}

/// Bytes of ordinary memory that this process has touched.
pub fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.context("/proc/self/status has no VmRSS")? * 1024)
}
