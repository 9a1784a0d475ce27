//! The libalias fault: subscribers of different workers hairpin to each other at full speed
//! on real threads, with the shortest timers, while housekeeping expires mappings and moves
//! blocks between workers. NAT time runs faster than the clock, so that expiry is intense.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cgnat_core::assembly::{Assembly, Memory, assemble};
use cgnat_core::config::Config;
use cgnat_core::control::counters::WorkerCounters;
use cgnat_core::housekeeping::Housekeeping;
use cgnat_core::layout::Layout;
use cgnat_core::packet::ethernet::Tags;
use cgnat_core::shard::Shard;
use cgnat_core::testing::io::{MemoryIo, MemoryPacket};
use cgnat_core::testing::lab::port_mac;
use cgnat_core::testing::memory::zeroed;
use cgnat_core::testing::packets::{frame, ip, tcp, udp};
use cgnat_core::time::Instant;
use cgnat_core::verdict::DropReason;
use cgnat_core::worker::io::PacketBuf;
use cgnat_core::worker::steering::Steering;
use cgnat_core::worker::{TimeSource, Worker};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const WORKERS: usize = 4;
const SUBSCRIBERS: u32 = 48;
/// One address with fewer blocks than subscribers.
const BLOCKS: u64 = 24;
const BLOCK_SIZE: u64 = 64;
const SERVER: (u32, u16) = (0xc633_6407, 443);

fn yaml(hold_s: u32) -> String {
    let last = 1023 + BLOCKS * BLOCK_SIZE;
    format!(
        "version: 1
lab: {{ allow-short-timers: true }}
system: {{ max-mappings: 20_000 }}
ports:
  i:
    side: internal
    device: net_null0
    addresses: [10.255.0.2/30]
    next-hop: 10.255.0.1
    neighbours: [{{ address: 10.255.0.1, mac: \"02:00:00:00:09:01\" }}]
  e:
    side: external
    device: net_null1
    addresses: [192.0.2.2/30]
    next-hop: 192.0.2.1
    neighbours: [{{ address: 192.0.2.1, mac: \"02:00:00:00:09:02\" }}]
pools:
  main:
    addresses: [203.0.113.0]
    ports: 1024-{last}
    allocation: {{ block-size: {BLOCK_SIZE}, max-blocks: 2, hold: {hold_s}s }}
subscribers: [{{ name: all, match: [100.64.0.0/10], pool: main }}]
timeouts:
  tcp: {{ established: 1s, opening: 1s, closing: 1s, reset: 1s }}
  udp: {{ default: 1s }}
  icmp: 1s
"
    )
}

/// What the threads share.
struct Stage {
    started: std::time::Instant,
    /// NAT seconds in one second.
    speed: u64,
    /// Last external endpoint seen of each subscriber: address << 16 | port.
    seen: Vec<AtomicU64>,
    traffic: AtomicBool,
    stop: AtomicBool,
}

impl Stage {
    fn now(&self) -> Instant {
        let real = self.started.elapsed().as_nanos() as u64;
        Instant::from_nanos(1_000_000_000 + real * self.speed)
    }
}

/// Drives one worker; returns its shard, its last moment and how many packets it delivered.
fn work(stage: &Stage, mut worker: Worker<MemoryIo>, seed: u64) -> (Shard, Instant, u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut delivered = 0;
    while !stage.stop.load(Ordering::Acquire) {
        if stage.traffic.load(Ordering::Acquire) {
            for _ in 0..8 {
                let packet = packet(stage, &mut random);
                worker.io_mut().arrive(0, packet);
            }
        }
        worker.poll(stage.now());
        delivered += look(stage, &mut worker);
        // There may be fewer processors than threads.
        std::thread::yield_now();
    }
    // What others handed over before they stopped.
    while worker.poll(stage.now()) > 0 {}
    look(stage, &mut worker);
    let now = worker.now();
    (worker.stop(), now, delivered)
}

/// A random subscriber whose worker is awake. For some seconds that is one half of the
/// workers, then the other: so blocks fall idle at one worker and are needed at another.
fn awake(stage: &Stage, random: &mut ChaCha8Rng) -> u32 {
    let phase = stage.now().nanos() / 4_000_000_000;
    let steering = Steering::new(WORKERS as u16);
    for _ in 0..16 {
        let number = random.next_u32() % SUBSCRIBERS;
        if u64::from(steering.owner_of(ip("100.64.0.1") + number)) / 2 == phase % 2 {
            return number;
        }
    }
    0
}

/// From a subscriber to the external endpoint of another, or to the server.
fn packet(stage: &Stage, random: &mut ChaCha8Rng) -> MemoryPacket {
    let number = awake(stage, random);
    let from = (ip("100.64.0.1") + number, 1 + (random.next_u32() % 90) as u16);
    let is_tcp = random.next_u32().is_multiple_of(4);
    // A SYN from anybody keeps a TCP mapping, so those who sleep are left alone with it.
    let peer = match random.next_u32() % 4 {
        0 if !is_tcp => random.next_u32() % SUBSCRIBERS,
        _ => awake(stage, random),
    };
    let seen = stage.seen[peer as usize].load(Ordering::Relaxed);
    let to = match random.next_u32() % 4 {
        0 => SERVER,
        _ if seen == 0 => SERVER,
        _ => ((seen >> 16) as u32, seen as u16),
    };
    let payload = number.to_be_bytes();
    let ip = if is_tcp {
        let flags = [2, 2, 0x12, 0x10, 0x11, 0x04][random.next_u32() as usize % 6];
        tcp(from, to, flags, &payload)
    } else {
        udp(from, to, &payload)
    };
    MemoryPacket::new(&frame(port_mac(0), [2; 6], Tags::None, &ip))
}

/// Checks every frame sent and learns external endpoints from it.
fn look(stage: &Stage, worker: &mut Worker<MemoryIo>) -> u64 {
    let mut delivered = 0;
    for port in 0..2 {
        while let Some(packet) = worker.io_mut().take_sent(port) {
            let bytes = packet.bytes();
            let word = |at: usize| {
                u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            };
            let (source, destination) = (word(26), word(30));
            // The box tells senders of refused flows; all other traffic here is TCP and UDP.
            if bytes[23] == 1 {
                assert_eq!((port, source), (0, ip("10.255.0.2")), "an error of the box");
                continue;
            }
            assert_eq!(source, ip("203.0.113.0"), "always the external address");
            if port == 0 {
                let inside = ip("100.64.0.1")..ip("100.64.0.1") + SUBSCRIBERS;
                assert!(inside.contains(&destination));
                delivered += 1;
            } else {
                assert_eq!(destination, SERVER.0);
            }
            let number = word(bytes.len() - 4);
            let endpoint = u64::from(source) << 16 | u64::from(word(34) >> 16);
            stage.seen[number as usize].store(endpoint, Ordering::Relaxed);
        }
    }
    delivered
}

fn keep_house(stage: &Stage, mut housekeeping: Housekeeping) -> Housekeeping {
    while !stage.stop.load(Ordering::Acquire) {
        let now = stage.now();
        if !housekeeping.run(now, now) {
            std::thread::yield_now();
        }
    }
    housekeeping
}

fn hairpin(seconds: f64, hold_s: u32, speed: u64) {
    let config = Config::from_yaml("threads.yaml", &yaml(hold_s)).unwrap_or_else(|e| panic!("{e}"));
    let layout = Layout::new(&config, WORKERS as u16);
    let memory = Memory {
        shards: (0..WORKERS).map(|_| zeroed(layout.shard_bytes)).collect(),
        blocks: zeroed(layout.block_bytes),
    };
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let macs = [port_mac(0), port_mac(1)];
    let entropy = |bytes: &mut [u8]| random.fill_bytes(bytes);
    let assembly = assemble(&config, &layout, memory, &macs, TimeSource::Clock, entropy).unwrap();
    let Assembly { seats, housekeeping, counters, owners, .. } = assembly;
    let stage = Stage {
        started: std::time::Instant::now(),
        speed,
        seen: (0..SUBSCRIBERS).map(|_| AtomicU64::new(0)).collect(),
        traffic: AtomicBool::new(true),
        stop: AtomicBool::new(false),
    };
    let sum = |value: &dyn Fn(&WorkerCounters) -> u64| -> u64 {
        counters.iter().map(|c: &Arc<WorkerCounters>| value(c)).sum()
    };

    let (mut housekeeping, shards) = std::thread::scope(|scope| {
        let views = MemoryIo::connected(WORKERS, 2);
        let stage = &stage;
        let workers: Vec<_> = seats
            .into_iter()
            .zip(views)
            .enumerate()
            .map(|(n, (seat, io))| scope.spawn(move || work(stage, seat.worker(io), n as u64)))
            .collect();
        let keeper = scope.spawn(move || keep_house(stage, housekeeping));
        std::thread::sleep(Duration::from_secs_f64(seconds));
        stage.traffic.store(false, Ordering::Release);
        // Everything expires and every block comes back; nobody waits for anything then.
        let patience = std::time::Instant::now();
        let busy = |c: &WorkerCounters| {
            c.mappings.iter().map(|m| m.value()).sum::<u64>()
                + c.sessions.value()
                + c.blocks_in_use.value()
                + c.parked.value()
                + c.fragments_waiting.value()
        };
        while sum(&busy) > 0 && patience.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(200));
        stage.stop.store(true, Ordering::Release);
        let shards: Vec<_> = workers.into_iter().map(|w| w.join().unwrap()).collect();
        (keeper.join().unwrap(), shards)
    });
    housekeeping.take_back();

    let drops = |reason| sum(&|c| c.drops_of(reason));
    let received = sum(&|c| c.ports[0].rx_packets.value());
    let sent = sum(&|c| c.ports.iter().map(|p| p.tx_packets.value()).sum());
    let delivered: u64 = shards.iter().map(|(_, _, delivered)| delivered).sum();
    let moved: u64 = (0..BLOCKS as u32)
        .map(|block| owners.owner(block).map_or(0, |owner| u64::from(owner.generation)))
        .sum();
    let ended = sum(&|c| c.ended.value());
    let hairpinned = sum(&|c| c.hairpinned.value());
    println!(
        "hold {hold_s} s: {received} packets, {hairpinned} hairpinned, {delivered} delivered, \
         {} handed over, {ended} records ended, blocks moved {moved} times, drops:",
        sum(&|c| c.handed_off.value())
    );
    for reason in DropReason::ALL.iter().filter(|reason| drops(**reason) > 0) {
        println!("  {} {}", reason.name(), drops(*reason));
    }

    // Nothing of another's was touched, nothing was lost, nothing is left.
    assert_eq!(drops(DropReason::OwnershipViolation), 0);
    assert_eq!(drops(DropReason::LeakPrevented), 0);
    let all_drops: u64 = DropReason::ALL.iter().map(|reason| drops(*reason)).sum();
    let made = sum(&|c| c.originated.value());
    assert_eq!(received + made, sent + all_drops, "every packet is accounted for");
    let now = shards.iter().map(|(_, now, _)| *now).max().unwrap();
    let mut census = housekeeping.port_census(now.tick());
    let mut free_blocks = housekeeping.blocks_held() as u64;
    for (shard, _, _) in &shards {
        assert_eq!(shard.audit(now.tick()), Ok(()));
        let gauges = shard.gauges();
        assert_eq!((gauges.mappings, gauges.sessions, gauges.subscribers), ([0; 3], 0, 0));
        assert_eq!(gauges.blocks_allocated, gauges.blocks_released);
        free_blocks += gauges.blocks_free;
        census += shard.port_census(now.tick());
    }
    assert_eq!(free_blocks, BLOCKS, "no block is lost and none is there twice");
    assert_eq!(census.total(), BLOCKS * BLOCK_SIZE * 3, "free + used + resting = all");
    assert_eq!(census.used, 0);
    // The run was what it claims to be.
    assert!(delivered > 1_000 && ended > 100 && moved > 24 + 10, "too quiet to prove anything");
}

fn seconds() -> f64 {
    std::env::var("CGNAT_HAIRPIN_SECONDS").map_or(5.0, |text| text.parse().unwrap())
}

#[test]
fn hairpinning_between_workers_while_housekeeping_expires_violates_no_ownership() {
    hairpin(seconds() * 0.5, 0, 20);
    hairpin(seconds() * 0.5, 1, 10);
}
