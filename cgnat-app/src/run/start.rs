//! Starting and stopping: EAL, memory, ports, workers, housekeeping, and back.

mod watching;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cgnat_core::assembly::{Assembly, Memory, Seat, assemble};
use cgnat_core::config::{self, Config, Device, Idle, Side};
use cgnat_core::control::counters::WorkerCounters;
use cgnat_core::control::links::LinkStates;
use cgnat_core::control::neighbours::NeighbourTable;
use cgnat_core::control::neighbours6::NeighbourTable6;
use cgnat_core::housekeeping::Housekeeping;
use cgnat_core::shard::Shard;
use cgnat_core::worker::TimeSource;
use cgnat_core::worker::forwarding::Forwarding;
use cgnat_core::worker::io::BURST;
use cgnat_core::worker::steering::Steering;
use dpdk::{
    BondMode, Clock, Eal, LcoreHandle, MbufRing, Mempool, Port, PortConfig, PortError, RunningPort,
    Zone,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use super::Complete;
use super::floods::Floods;
use super::house::{House, keep_house, now, phase};
use super::idle::Resting;
use super::io::{DpdkIo, Relay, Transmit};
use super::kernel::{self, Interface, KernelCounters, KernelReport};
use super::links::{self, Links};
use super::placement::Placement;
use super::plan::{DESCRIPTORS, KERNEL_RING, Plan, RING};
use super::replay::{Pace, Replay, Track};
use super::report::{Report, Space};
use super::requests::{self, Front};
use super::routes::{self, Board};
use super::say::complain;
use super::steering::{self, PortSteering, Watch, Wish};
use super::trunk::Trunk;
use super::watchdog::{Outlet, Watchdog};
use crate::preflight::Preflight;

/// How long the start may take until every block is lent and every shard is ready.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long packets under way may take to come to their end at the stop.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Polls of every worker that empty a full hand-off or relay ring, twice over.
const DRAIN_POLLS: u64 = 2 * RING as u64 / BURST as u64;

/// A running box.
pub struct Running {
    stop: Arc<AtomicBool>,
    gate: Arc<AtomicBool>,
    phase: Arc<AtomicU8>,
    workers: Vec<LcoreHandle<Shard>>,
    housekeeping: JoinHandle<Housekeeping>,
    /// Of the interfaces in the kernel, if there are any.
    kernel: Option<JoinHandle<()>>,
    /// What went to and from them, by port.
    kernel_counters: Vec<(usize, Arc<KernelCounters>)>,
    /// The thread that reads the kernel's routes, if they are followed.
    follower: Option<JoinHandle<()>>,
    /// What came of them.
    board: Option<Arc<Board>>,
    counters: Vec<Arc<WorkerCounters>>,
    /// Set when all captures are used up.
    replayed: Arc<AtomicBool>,
    replaying: bool,
    front: Front,
    steering: RefCell<(Watch, std::time::Instant)>,
    watchdog: RefCell<Watchdog>,
    forwarding: Arc<Forwarding>,
    neighbours: Arc<NeighbourTable>,
    neighbours6: Arc<NeighbourTable6>,
    floods: RefCell<Floods>,
    links: RefCell<Links>,
    pools: Vec<Mempool>,
    started: std::time::Instant,
    ports: Vec<RunningPort>,
    // Last: everything above lives in its memory.
    _eal: Eal,
}

/// Starts everything; packets flow when this returns.
pub fn start(
    config: &Config,
    plan: &Plan,
    here: &Preflight,
    replaying: bool,
    seed: Option<u64>,
) -> Result<Running> {
    if !plan.huge_pages {
        complain("warning: no huge pages are used; expect up to a third less throughput");
    }
    let eal = Eal::init(&plan.eal(config))?;
    let clock = Clock::start(&eal);
    let shares = plan.placement.shares.iter().enumerate();
    let pools = shares
        .map(|(n, share)| Mempool::create(&eal, &format!("packets{n}"), &plan.mempool(share)))
        .collect::<Result<Vec<Mempool>, _>>()?;
    let opened = open_ports(&eal, config, plan, &pools)?;
    let memory = memory(&eal, plan)?;
    let mut random = match seed {
        Some(seed) => ChaCha20Rng::seed_from_u64(seed),
        None => {
            let mut entropy = [0; 32];
            getrandom::fill(&mut entropy).context("the system gives no entropy")?;
            ChaCha20Rng::from_seed(entropy)
        }
    };
    let time = if replaying { TimeSource::Packets } else { TimeSource::Clock };
    let Assembly {
        seats, housekeeping, counters, forwarding, neighbours, neighbours6, links, ..
    } = assemble(config, &plan.layout, memory, &opened.macs, time, |bytes| {
        random.fill_bytes(bytes);
    })?;

    // Nothing can leave by a bond until its partner has agreed.
    let bonds = config.ports().iter().enumerate().filter(|(_, port)| port.device().is_bond());
    bonds.for_each(|(port, _)| links.set_down(port));

    let stop = Arc::new(AtomicBool::new(false));
    let gate = Arc::new(AtomicBool::new(false));
    let phase = Arc::new(AtomicU8::new(phase::RUN));
    let replayed = Arc::new(AtomicBool::new(false));
    let pace = Arc::new(Pace::default());
    let replay = if replaying {
        Some(replay(&opened.ports, here, pace.clone(), replayed.clone())?)
    } else {
        None
    };
    let (views, ways) = views(&eal, config, plan, opened.queues, &pools, replay, &gate)?;
    let interfaces = interfaces(config, &opened.macs, ways, &links, &forwarding)?;
    let kernel_links = links::kernel(config)?;
    let kernel_counters: Vec<_> =
        interfaces.iter().map(|(port, interface)| (*port, interface.counters())).collect();

    let follower = routes::begin(config, &forwarding, &kernel_counters)?;
    let board = follower.as_ref().map(|follower| follower.board());

    let (front, back) = requests::ends();
    let house = {
        let (phase, cpus) = (phase.clone(), plan.control_cpus.clone());
        let (counters, routes) = (counters.clone(), board.clone());
        let house = House { housekeeping, back, counters, pace, routes };
        std::thread::Builder::new()
            .name("housekeeping".to_owned())
            .spawn(move || keep_house(house, &phase, clock, &cpus))
            .context("cannot start the housekeeping thread")?
    };
    let idle = config.system().idle();
    let kernel = (!interfaces.is_empty()).then(|| {
        let (stop, pool, cpus) =
            (stop.clone(), pools[plan.placement.share_of(0)].clone(), plan.control_cpus.clone());
        let interfaces = interfaces.into_iter().map(|(_, interface)| interface).collect();
        std::thread::Builder::new()
            .name("kernel".to_owned())
            .spawn(move || kernel::serve(interfaces, &pool, &cpus, &stop))
            .context("cannot start the thread of kernel interfaces")
    });
    let kernel = kernel.transpose()?;
    let follower = follower.map(|follower| {
        let (stop, cpus) = (stop.clone(), plan.control_cpus.clone());
        std::thread::Builder::new()
            .name("routes".to_owned())
            .spawn(move || follower.follow(&cpus, &stop))
            .context("cannot start the thread of the kernel's routes")
    });
    let follower = follower.transpose()?;
    let mut workers = Vec::new();
    for (worker, (seat, io)) in seats.into_iter().zip(views).enumerate() {
        let stop = stop.clone();
        let work = move || run_worker(seat, io, &stop, clock, idle);
        workers.push(eal.launch(Plan::lcore(worker as u16), work)?);
    }
    let running = Running {
        stop,
        gate: gate.clone(),
        phase,
        workers,
        housekeeping: house,
        kernel,
        kernel_counters,
        follower,
        board,
        counters,
        replayed,
        replaying,
        front,
        steering: RefCell::new((Watch::new(opened.steering), std::time::Instant::now())),
        floods: RefCell::new(Floods::new(plan.worker_cpus.len())),
        links: RefCell::new(Links::new(config, links, kernel_links)),
        pools,
        watchdog: RefCell::new(Watchdog::new(&plan.worker_cpus, opened.outlets)),
        forwarding,
        neighbours,
        neighbours6,
        started: std::time::Instant::now(),
        ports: opened.ports,
        _eal: eal,
    };
    running.wait_until_lent(plan.layout.lent_blocks)?;
    running.watch_links().iter().for_each(|sentence| complain(sentence));
    gate.store(true, Ordering::Release);
    Ok(running)
}

/// Queues of the device that a port opens; a port beside another has none.
type Queues = (Vec<dpdk::RxQueue>, Vec<dpdk::TxQueue>);

#[derive(Default)]
struct Opened {
    ports: Vec<RunningPort>,
    macs: Vec<[u8; 6]>,
    queues: Vec<Queues>,
    steering: Vec<PortSteering>,
    outlets: Vec<Outlet>,
}

fn open_ports(eal: &Eal, config: &Config, plan: &Plan, pools: &[Mempool]) -> Result<Opened> {
    let mut opened = Opened::default();
    let steering = Steering::new(plan.workers());
    let workers = 0..plan.workers();
    // Of each worker's queues.
    let nodes: Vec<_> = workers.clone().map(|worker| plan.placement.node_of(worker)).collect();
    let pools: Vec<_> =
        workers.map(|worker| pools[plan.placement.share_of(worker)].clone()).collect();
    for (number, port) in config.ports().iter().enumerate() {
        let first = config.first_on_device(number);
        let steered = steering::steered_side(config, number);
        if first != number {
            opened.beside(first, steering, steered, port);
            continue;
        }
        let context = || format!("port {}", port.name());
        let device = find(eal, port.device()).with_context(context)?;
        let workers = plan.workers();
        let rx_queues = match port.device() {
            // Each rx_pcap is a queue; the configuration gives one.
            Device::Virtual { driver, .. } if driver == "net_pcap" => 1,
            _ => workers.min(device.max_rx_queues()).max(1),
        };
        let tx_queues = match port.device() {
            Device::Virtual { driver, .. } if driver == "net_pcap" => 1,
            _ => workers.min(device.max_tx_queues()).max(1),
        };
        let is_card = port.device().is_card();
        let abilities = device.rss_abilities().with_context(context)?;
        let wish = Wish::of(steering, steered, rx_queues, abilities);
        // A card that cannot hash uses its first queue only; of others who spreads is not known.
        let rx_queues = if is_card && !abilities.hashes_addresses { 1 } else { rx_queues };
        // At its most a driver reckons with tags.
        let most = device.answers().with_context(context)?.mtu.1;
        let mtu = config.on_device(number).map(|(_, port)| port.mtu()).max().unwrap_or(0);
        let mtu = config.device_mtu(number).min(most).max(mtu);
        let settings = PortConfig {
            rx_queues,
            tx_queues,
            rx_descriptors: DESCRIPTORS,
            tx_descriptors: DESCRIPTORS,
            // DPDK states one for packet sockets that is not theirs: their ring decides.
            mtu: (device.driver_name() != "net_af_packet").then_some(mtu),
            rss: wish.rss(is_card, rx_queues, abilities),
            nodes: nodes.clone(),
            // Routing protocols talk to groups, and so does Neighbour Discovery. Without, a bond drops
            // broadcasts too.
            all_multicast: hears_groups(config, number) || port.device().is_bond(),
            ..PortConfig::default()
        };
        opened.macs.push(device.mac().with_context(context)?);
        let started = device.start(&settings, &pools).with_context(context)?;
        let refused = started.key_refused;
        let steers = wish.fulfil(steering, port.name(), rx_queues, &started.port, refused);
        let steers = steers.with_context(context)?;
        opened.steering.push(steers.of(steering, port, steered));
        opened.outlets.push(Outlet { name: port.name().to_owned(), queues: tx_queues });
        opened.ports.push(started.port);
        opened.queues.push((started.rx, started.tx));
    }
    Ok(opened)
}

/// The device of a port; bonds are made.
fn find(eal: &Eal, device: &Device) -> Result<Port, PortError> {
    let Device::Bond { name, members } = device else {
        return Port::by_name(eal, device.name());
    };
    let members: Vec<&str> = members.iter().map(Device::name).collect();
    Port::bond(eal, name, BondMode::Lacp, &members)
}

impl Opened {
    /// A port whose device was opened with the port `first`.
    fn beside(&mut self, first: usize, steering: Steering, steered: Side, port: &config::Port) {
        self.macs.push(self.macs[first]);
        self.queues.push((Vec::new(), Vec::new()));
        self.steering.push(self.steering[first].of(steering, port, steered));
        let queues = self.outlets[first].queues;
        self.outlets.push(Outlet { name: port.name().to_owned(), queues });
        self.ports.push(self.ports[first].clone());
    }
}

/// Whether any port on the device of this one has an interface in the kernel.
fn has_interface(config: &Config, port: usize) -> bool {
    config.on_device(port).any(|(_, port)| port.kernel_interface().is_some())
}

/// Whether any port on the device of this one takes IPv6, or has an interface in the kernel.
fn hears_groups(config: &Config, port: usize) -> bool {
    has_interface(config, port) || config.on_device(port).any(|(_, port)| port.ipv6().is_some())
}

fn memory(eal: &Eal, plan: &Plan) -> Result<Memory> {
    let reserve = |name: &str, bytes: usize, node| -> Result<&'static mut [u8]> {
        Ok(Zone::reserve(eal, name, bytes, node)?.into_static())
    };
    let Placement { shares, home, .. } = &plan.placement;
    let shards = (0..plan.workers())
        .map(|worker| {
            let node = plan.placement.node_of(worker);
            reserve(&format!("shard{worker}"), plan.layout.shard_bytes, node)
        })
        .collect::<Result<_>>()?;
    Ok(Memory { shards, blocks: reserve("blocks", plan.layout.block_bytes, shares[*home].node)? })
}

/// The merged captures of all ports.
fn replay(
    ports: &[RunningPort],
    here: &Preflight,
    pace: Arc<Pace>,
    replayed: Arc<AtomicBool>,
) -> Result<Replay> {
    let mut tracks = Vec::new();
    for (port, capture) in &here.captures {
        let device = &ports[*port];
        let Some(stamps) = device.timestamp_field()? else {
            bail!("{} gives no time stamps, so its capture cannot be replayed", device.name());
        };
        tracks.push(Track { stamps, left: capture.packets, empty: 0 });
    }
    let with_packets = here.captures.iter().filter(|(_, capture)| capture.packets > 0);
    let first_ns = with_packets.map(|(_, capture)| capture.first_ns).min().unwrap_or(0);
    Ok(Replay::new(tracks, first_ns, pace, replayed))
}

/// The interfaces in the kernel, by port.
fn interfaces(
    config: &Config,
    macs: &[[u8; 6]],
    mut ways: Vec<Option<KernelWay>>,
    links: &Arc<LinkStates>,
    forwarding: &Arc<Forwarding>,
) -> Result<Vec<(usize, Interface)>> {
    let mut made = Vec::new();
    for (index, port, name) in kernel::wanted(config) {
        let Some(way) = ways[index].take() else { continue };
        let link = (links.clone(), index);
        let forwarding = forwarding.clone();
        made.push((index, Interface::make(port, name, macs[index], forwarding, link, way)?));
    }
    if !made.is_empty() {
        std::thread::sleep(kernel::ADDRESS_DELAY);
    }
    for (_, interface) in &made {
        interface.give_addresses()?;
    }
    Ok(made)
}

/// What workers have for the kernel, and the way back to the worker that sends.
type KernelWay = (dpdk::RingConsumer, dpdk::RingProducer);

/// Gives each worker its queues and rings; and those between workers and the kernel, for ports
/// that have an interface there.
fn views(
    eal: &Eal,
    config: &Config,
    plan: &Plan,
    queues: Vec<Queues>,
    pools: &[Mempool],
    mut replay: Option<Replay>,
    gate: &Arc<AtomicBool>,
) -> Result<(Vec<DpdkIo>, Vec<Option<KernelWay>>)> {
    let workers = usize::from(plan.workers());
    let mut rings = Vec::new();
    let mut consumers = Vec::new();
    // A ring is where its consumer is.
    let node_of = |worker: usize| plan.placement.node_of(worker as u16);
    for worker in 0..workers {
        let name = format!("handoff{worker}");
        let (producer, consumer) = MbufRing::create(eal, &name, RING, node_of(worker))?;
        rings.push(producer);
        consumers.push(consumer);
    }
    let mut views: Vec<DpdkIo> = consumers
        .into_iter()
        .enumerate()
        .map(|(worker, ring)| DpdkIo {
            receive: Vec::new(),
            trunks: Vec::new(),
            transmit: Vec::new(),
            rings: rings.clone(),
            to_kernel: Vec::new(),
            ring,
            pool: pools[plan.placement.share_of(worker as u16)].clone(),
            replay: replay.take(),
            gate: gate.clone(),
        })
        .collect();
    let mut ways = Vec::new();
    // Of each port that opens a device, the rings of those who send through others.
    let mut relays_of = Vec::<Vec<dpdk::RingProducer>>::new();
    for (port, (rx, tx)) in queues.into_iter().enumerate() {
        let first = config.first_on_device(port);
        let mut relays = Vec::new();
        if first == port {
            let is_shared = config.on_device(port).count() > 1;
            let mut rx = rx.into_iter();
            for view in &mut views {
                match rx.next() {
                    Some(queue) if is_shared => {
                        let ports = config.on_device(port).map(|(n, port)| (n, port.tags()));
                        view.trunks.push(Trunk::new(queue, ports));
                        view.receive.push(None);
                    }
                    queue => view.receive.push(queue),
                }
            }
            let direct = tx.len();
            let mut tx: Vec<_> = tx.into_iter().map(Some).collect();
            // Workers beyond the queues relay to worker (n modulo queues), the kernel to the first.
            let punts = has_interface(config, port);
            let relaying = if workers > direct { direct } else { usize::from(punts) };
            let mut taken: Vec<Option<dpdk::RingConsumer>> = (0..direct).map(|_| None).collect();
            for (queue, place) in taken.iter_mut().enumerate().take(relaying) {
                let name = format!("relay{port}.{queue}");
                let (producer, consumer) = MbufRing::create(eal, &name, RING, node_of(queue))?;
                relays.push(producer);
                *place = Some(consumer);
            }
            for (worker, view) in views.iter_mut().enumerate() {
                let own = tx.get_mut(worker).and_then(Option::take);
                view.transmit.push(match own {
                    Some(queue) => Transmit::Queue(queue, taken[worker].take().map(Relay::new)),
                    None => Transmit::Relayed(relays[worker % direct].clone()),
                });
            }
        } else {
            for view in &mut views {
                view.receive.push(None);
                view.transmit.push(Transmit::Beside(first));
            }
        }
        relays_of.push(relays);
        let (mut producer, mut way) = (None, None);
        if config.ports()[port].kernel_interface().is_some() {
            let (to, from) = MbufRing::create(eal, &format!("kernel{port}"), KERNEL_RING, None)?;
            producer = Some(to);
            way = Some((from, relays_of[first][0].clone()));
        }
        ways.push(way);
        for view in &mut views {
            view.to_kernel.push(producer.clone());
        }
    }
    Ok((views, ways))
}

/// The poll loop of a worker; returns its shard when told to stop.
fn run_worker(seat: Seat, io: DpdkIo, stop: &AtomicBool, clock: Clock, idle: Idle) -> Shard {
    let mut worker = seat.worker(io);
    let (mut resting, refused) = Resting::new(idle);
    if let Some(error) = refused {
        complain(&format!("warning: idle workers sleep 50 us longer than they should: {error}"));
    }
    while !stop.load(Ordering::Relaxed) {
        let at = now(clock);
        if worker.poll(at) > 0 {
            resting.end();
        } else {
            resting.rest(at);
        }
    }
    worker.stop()
}

impl Running {
    fn sum(&self, value: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.counters.iter().map(|counters| value(counters)).sum()
    }

    /// Waits until every block has reached its worker.
    fn wait_until_lent(&self, blocks: u32) -> Result<()> {
        let until = std::time::Instant::now() + START_LIMIT;
        while self.sum(|c| c.blocks_free.value()) < u64::from(blocks) {
            if std::time::Instant::now() > until {
                bail!(
                    "only {} of {} port blocks reached the workers within {} s; are there \
                     enough CPUs?",
                    self.sum(|c| c.blocks_free.value()),
                    blocks,
                    START_LIMIT.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// A worker that has ended although nobody told it to.
    pub fn dead_worker(&self) -> Option<u16> {
        let dead = self.workers.iter().position(LcoreHandle::is_finished);
        dead.map(|worker| worker as u16)
    }

    /// Whether the captures are used up and every packet of them has come to its end. Never
    /// without captures.
    pub fn has_replayed(&self) -> bool {
        if !self.replayed.load(Ordering::Acquire) {
            return false;
        }
        let handed_off = self.sum(|c| c.handed_off.value());
        let handed_in = self.sum(|c| c.handed_in.value());
        handed_in == handed_off && self.sum(|c| c.parked.value()) == 0
    }

    /// Ends what is due at the time of the last packet of a replay.
    pub fn settle(&self, stop: &AtomicBool) {
        let until = std::time::Instant::now() + START_LIMIT;
        self.let_drain(until);
        self.phase.store(phase::SETTLE, Ordering::Release);
        while self.phase.load(Ordering::Acquire) != phase::SETTLED
            && std::time::Instant::now() < until
            && !stop.load(Ordering::Relaxed)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.let_drain(until);
    }

    /// Waits for some rounds of every worker: what is in rings and channels comes out.
    fn let_drain(&self, until: std::time::Instant) {
        let target: Vec<u64> =
            self.counters.iter().map(|c| c.polls.value() + DRAIN_POLLS).collect();
        while self.counters.iter().zip(&target).any(|(c, t)| c.polls.value() < *t)
            && std::time::Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The way to housekeeping.
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// Stops receiving, lets packets under way come to their end, stops workers, then
    /// housekeeping; ports close when the last queue is gone.
    pub fn stop(self, config: &Config) -> Result<(Report, Complete)> {
        // The kernel's own go with its interfaces.
        let routes = self.route_figures();
        self.gate.store(false, Ordering::Release);
        self.let_drain(std::time::Instant::now() + STOP_LIMIT);
        self.stop.store(true, Ordering::Relaxed);
        let mut shards = Vec::new();
        for (worker, handle) in self.workers.into_iter().enumerate() {
            shards.push(handle.join().with_context(|| format!("worker {worker}"))?);
        }
        if let Some(kernel) = self.kernel
            && kernel.join().is_err()
        {
            bail!("the thread of kernel interfaces has panicked; its message is above");
        }
        if let Some(follower) = self.follower
            && follower.join().is_err()
        {
            bail!("the thread of the kernel's routes has panicked; its message is above");
        }
        self.phase.store(phase::STOP, Ordering::Release);
        let Ok(mut housekeeping) = self.housekeeping.join() else {
            bail!("the housekeeping thread has panicked; its message is above");
        };
        housekeeping.take_back();
        let standstills = self.watchdog.into_inner().found();
        let steering = self.steering.into_inner().0.report(&self.counters, standstills);
        let kernel = KernelReport::of(config, &self.kernel_counters);
        let links = self.links.into_inner().report(self.started.elapsed(), |port| {
            watching::bond_counts(config, port, &self.ports, &self.counters)
        });
        let report = Report::of(config, &self.counters).with_steering(steering).with_kernel(kernel);
        let report = report.with_links(links).with_buffers(watching::buffers(&self.pools));
        let report = report.with_routes(routes);
        let report = report.with_ipv6(config, &self.forwarding, &self.neighbours6);
        let now = self.counters.iter().map(|c| c.now()).max().unwrap_or_default().tick();
        let config = config.clone();
        let complete: Complete = Box::new(move |report: Report| {
            let report = report.with_space(&config, Space::of(&housekeeping));
            report.with_shards(&shards, housekeeping.port_census(now), now)
        });
        Ok((report, complete))
    }
}
