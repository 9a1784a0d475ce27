//! A box with so many mappings, on one lcore, and what it costs to translate their packets.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use cgnat_core::assembly::{Assembly, Memory, assemble};
use cgnat_core::config::Config;
use cgnat_core::control::counters::WorkerCounters;
use cgnat_core::housekeeping::Housekeeping;
use cgnat_core::layout::Layout;
use cgnat_core::time::Instant;
use cgnat_core::verdict::DropReason;
use cgnat_core::worker::{TimeSource, Worker};
use dpdk::{
    Clock, Eal, EalOptions, Lcore, Mbuf, Mempool, MempoolConfig, Port, PortConfig, Zone, tsc,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use crate::figures::Sample;
use crate::traffic::{EXTERNAL, Flow, IMIX, INTERNAL, Source, Traffic};

/// Flows of one subscriber: a port block of 64 has as many ports, and one is kept.
const FLOWS_PER_HOST: u32 = 63;

/// Blocks of 64 ports above 1,023 of one address.
const BLOCKS_PER_ADDRESS: u32 = 1008;

/// Packets of one slice.
const SLICE: u64 = 1 << 20;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Mappings.
    #[arg(long)]
    pub mappings: u32,
    /// Slices of each figure.
    #[arg(long, default_value_t = 11)]
    pub slices: u32,
    /// Frames of the simple IMIX instead of 64 bytes.
    #[arg(long)]
    pub imix: bool,
    /// Ordinary pages instead of huge ones.
    #[arg(long)]
    pub small_pages: bool,
    /// Packets received at most at once.
    #[arg(long, default_value_t = 32)]
    pub burst: usize,
    /// The CPU.
    #[arg(long, default_value_t = 1)]
    pub cpu: u16,
    /// Only the rate in mixed directions.
    #[arg(long)]
    pub only_mixed: bool,
    /// No hints to the CPU's caches.
    #[arg(long)]
    pub no_hints: bool,
}

fn configuration(mappings: u32) -> String {
    let hosts = mappings.div_ceil(FLOWS_PER_HOST);
    let addresses = hosts.div_ceil(BLOCKS_PER_ADDRESS);
    let last = 0xc612_0000 + addresses - 1;
    let last = std::net::Ipv4Addr::from(last);
    // The table is as full as an operator's at its limit; blocks likewise.
    format!(
        "version: 1
system: {{ workers: 1, max-mappings: {}, memory: 16GiB, new-flows-under-load: off, flood-guard: false }}
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
    allocation: {{ block-size: 64, max-blocks: 1 }}
subscribers:
  - {{ name: everyone, match: [100.64.0.0/10], pool: main }}
",
        mappings.max(1000)
    )
}

/// A box on this thread.
pub struct Bench<const HINTS: bool> {
    worker: Worker<Traffic<HINTS>>,
    housekeeping: Housekeeping,
    counters: Arc<WorkerCounters>,
    clock: Clock,
}

impl<const HINTS: bool> Bench<HINTS> {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.clock.now_ns() + 1_000_000_000)
    }

    /// Lets worker and housekeeping finish what they have to tell each other.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let kept = self.housekeeping.run(self.now(), self.now());
            let worked = self.worker.poll(self.now()) > 0;
            quiet = if kept || worked { 0 } else { quiet + 1 };
        }
    }

    /// Receives `packets` in all; ticks that went by.
    fn run(&mut self, out: u64, inward: u64) -> Result<u64> {
        let sent = self.worker.io_mut().sent;
        let io = self.worker.io_mut();
        io.sources[INTERNAL].left = out;
        io.sources[EXTERNAL].left = inward;
        let start = tsc();
        while self.worker.poll(self.now()) > 0 {}
        let ticks = tsc() - start;
        let sent = self.worker.io_mut().sent - sent;
        if sent != out + inward {
            let drops =
                DropReason::ALL.iter().filter(|reason| self.counters.drops_of(**reason) > 0);
            let named: Vec<_> = drops.map(|r| (r.name(), self.counters.drops_of(*r))).collect();
            bail!("{sent} of {} packets came through; drops: {named:?}", out + inward);
        }
        Ok(ticks)
    }

    /// Ticks per packet of a slice, without those of the generator; and of these, those that are
    /// not the driver's, if they are told apart.
    fn slice(&mut self, out: u64, inward: u64, reading: f64) -> Result<(f64, f64)> {
        self.worker.io_mut().ticks = Default::default();
        let total = self.run(out, inward)?;
        let ticks = self.worker.io_mut().ticks;
        let packets = (out + inward) as f64;
        let own = total as f64 - ticks.stamp as f64 - ticks.readings as f64 * reading / 2.0;
        Ok((own / packets, (own - ticks.driver as f64) / packets))
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

/// Measures in a process of its own: the EAL starts once.
pub fn measure(options: &Options) -> Result<Vec<Sample>> {
    match options.no_hints {
        true => measure_with::<false>(options),
        false => measure_with::<true>(options),
    }
}

fn measure_with<const HINTS: bool>(options: &Options) -> Result<Vec<Sample>> {
    let config = Config::from_yaml("bench.yaml", &configuration(options.mappings))
        .map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let layout = Layout::new(&config, 1);
    let room = 1536 + Mbuf::HEADROOM;
    let pool_config =
        MempoolConfig { count: 8191, cache: 256, private_bytes: 64, data_room: room, socket: None };
    let frame = if options.imix { 1514 } else { 60 };
    let eal = Eal::init(&EalOptions {
        program: "bench".to_owned(),
        file_prefix: format!("bench{}", std::process::id()),
        lcores: vec![Lcore { id: 0, cpu: 0 }, Lcore { id: 1, cpu: options.cpu }],
        memory_mib: (layout.provided_bytes() >> 20) as u32 + 128,
        huge_pages: !options.small_pages,
        vdevs: (0..2).map(|n| format!("net_null{n},size={frame}")).collect(),
        ..EalOptions::default()
    })?;
    let clock = Clock::start(&eal);
    let pool = Mempool::create(&eal, "packets", &pool_config)?;
    let (mut rx, mut tx, mut ports, mut macs) = (Vec::new(), Vec::new(), Vec::new(), [[0; 6]; 2]);
    for (n, mac) in macs.iter_mut().enumerate() {
        let port = Port::by_name(&eal, &format!("net_null{n}"))?;
        *mac = port.mac()?;
        let settings = PortConfig { mtu: None, ..PortConfig::default() };
        let started = port.start(&settings, std::slice::from_ref(&pool))?;
        rx.extend(started.rx);
        tx.extend(started.tx);
        ports.push(started.port);
    }
    let reserve = |name: &str, bytes| -> Result<_> {
        Ok(Zone::reserve(&eal, name, bytes, None)?.into_static())
    };
    let memory = Memory {
        shards: vec![reserve("shard", layout.shard_bytes)?],
        blocks: reserve("blocks", layout.block_bytes)?,
    };
    let provided = layout.provided_bytes();
    let before = resident()?;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let Assembly { seats, housekeeping, counters, .. } =
        assemble(&config, &layout, memory, &macs, TimeSource::Clock, |bytes| {
            random.fill_bytes(bytes);
        })?;
    let seat = seats.into_iter().next().context("a box has a worker")?;
    let counters = counters[0].clone();
    let options = options.clone();
    let work = move || {
        let worker = seat.worker(Traffic::<HINTS>::new(rx, tx, pool, macs));
        let mut bench = Bench { worker, housekeeping, counters, clock };
        bench.samples(&options, &mut random, (provided, before))
    };
    let samples = eal.launch(1, work)?.join()?;
    drop(ports);
    samples
}

impl<const HINTS: bool> Bench<HINTS> {
    /// `provided` bytes were given to the tables, and so many were resident `before`.
    fn samples(
        &mut self,
        options: &Options,
        random: &mut ChaCha8Rng,
        (provided, before): (usize, u64),
    ) -> Result<Vec<Sample>> {
        let mappings = options.mappings;
        let reading = reading();
        self.settle();
        let flows: Vec<Flow> = (0..mappings)
            .map(|n| Flow {
                source: 0x6440_0001 + n / FLOWS_PER_HOST,
                source_port: 10_000 + (n % FLOWS_PER_HOST) as u16,
                destination: 0x0800_0000 | n.wrapping_mul(0x9e37_79b9) >> 8,
                destination_port: 443,
                number: n,
            })
            .collect();

        // Flows begin in an order of their own.
        let mut order = flows.clone();
        shuffle(&mut order, random);
        let io = self.worker.io_mut();
        io.learned = vec![(0, 0); mappings as usize];
        io.sources[INTERNAL] = Source::of(order);
        let mut creation = Vec::new();
        let mut created = 0;
        while created < u64::from(mappings) {
            let some = (u64::from(mappings) - created).min(1 << 18);
            let ticks = self.slice(some, 0, reading)?.0;
            created += some;
            if some >= 1 << 16 {
                creation.push(ticks);
            }
        }
        self.settle();
        // Flows, twice, and what was learned are the generator's.
        let own = u64::from(mappings) * (2 * size_of::<Flow>() + size_of::<(u32, u16)>()) as u64;
        let heap = resident()?.saturating_sub(before + own);
        let io = self.worker.io_mut();
        let learned = std::mem::take(&mut io.learned);
        ensure!(learned.iter().all(|(address, _)| *address != 0), "not every flow was translated");
        let mut inward: Vec<Flow> = flows
            .iter()
            .zip(&learned)
            .map(|(flow, (address, port))| Flow {
                source: flow.destination,
                source_port: flow.destination_port,
                destination: *address,
                destination_port: *port,
                number: flow.number,
            })
            .collect();
        let mut outward = flows;
        shuffle(&mut outward, random);
        shuffle(&mut inward, random);
        io.sources = [Source::of(outward), Source::of(inward)];
        io.burst = options.burst;
        io.sizes = if options.imix { &IMIX } else { &[] };

        let mut columns: [Vec<f64>; 8] = Default::default();
        let ways = [(SLICE, 0), (0, SLICE), (SLICE / 2, SLICE / 2)];
        // The first round warms up.
        for round in 0..=options.slices {
            let mut row = Vec::new();
            let (packets, ticks) = self.worker.io_mut().macswap(SLICE / 64);
            row.push(ticks as f64 / packets as f64);
            for (way, (out, inward)) in ways.into_iter().enumerate() {
                if options.only_mixed && way < 2 {
                    continue;
                }
                self.worker.io_mut().tells_driver = false;
                row.push(self.slice(out, inward, reading)?.0);
                self.worker.io_mut().tells_driver = true;
                row.push(self.slice(out, inward, reading)?.1);
            }
            self.worker.io_mut().tells_driver = false;
            self.settle();
            if round > 0 {
                for (column, value) in columns.iter_mut().zip(row) {
                    column.push(value);
                }
            }
        }
        let names: &[&str] = if options.only_mixed {
            &["macswap", "mixed/all", "mixed/worker"]
        } else {
            &[
                "macswap",
                "outbound/all",
                "outbound/worker",
                "inbound/all",
                "inbound/worker",
                "mixed/all",
                "mixed/worker",
            ]
        };
        let mut samples: Vec<Sample> = names
            .iter()
            .zip(columns)
            .map(|(name, values)| Sample::new(name, "clk", values))
            .collect();
        if !creation.is_empty() {
            samples.push(Sample::new("creation", "clk", creation));
            let bytes = |bytes: f64| vec![bytes / f64::from(mappings)];
            samples.push(Sample::new("memory/tables", "B", bytes(provided as f64)));
            samples.push(Sample::new("memory/heap", "B", bytes(heap as f64)));
        }
        Ok(samples)
    }
}

/// Bytes of ordinary memory that this process has touched.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.context("/proc/self/status has no VmRSS")? * 1024)
}

fn shuffle(flows: &mut [Flow], random: &mut ChaCha8Rng) {
    for at in (1..flows.len()).rev() {
        let other = (u64::from(random.next_u32()) * (at as u64 + 1)) >> 32;
        flows.swap(at, other as usize);
    }
}
