//! 2,000 subscribers with random mixes of everything through the real program, against the
//! executable specification: 0 differences, 0 leaks.
//!
//! A twin of the program, the same core in memory with the same seed, meets random events, and
//! the specification judges each to the byte. What arrived is written into captures and replayed
//! by `cgnat run`: every frame that it sends must be one that the specification has approved, and
//! every counter of drops and the census of ports must agree. `CGNAT_SPECIFICATION_SECONDS` (60)
//! are seconds of NAT time, `CGNAT_SEED` repeats a run.
//!
//! Several workers run at the same time, so there
//! 1. no worker runs short of port blocks: nothing depends on who is first;
//! 2. whom a second worker has a part in is met once between two sweeps (`met`);
//! 3. what arrives between two sweeps is of one tick: a packet that a second worker hands on may
//!    come after later ones, but not when its mapping has ended;
//! 4. frames are compared without their order and identifications, which are a worker's own.

#![allow(clippy::unwrap_used)]

#[path = "replay_specification/met.rs"]
mod met;
#[path = "replay_specification/mix.rs"]
mod mix;
#[path = "../../cgnat-core/tests/specification/mod.rs"]
mod model;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cgnat_core::testing::lab::{Lab, port_mac};
use cgnat_core::time::Instant;
use cgnat_core::verdict::DropReason;
use cgnat_tests::conformance::capture;
use cgnat_tests::conformance::talk::replay;
use cgnat_tests::stats::Stats;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use met::Met;
use mix::Mix;
use model::create::Choice;
use model::drive::{Arrival, Driver, Fault};
use model::events::{EXTERNAL, Event, Habits, INTERNAL};
use model::ftp::Counts;
use model::leaks::nothing_of_the_inside;
use model::limits::Limits;
use model::nat::{Pool, Rules};
use model::sessions::Filtering;
use model::wire::{TCP, UDP, Vlan, checksum, ip, link_len};
use model::world::World;
use model::worlds::{self, addresses, everything, rested};

/// NAT time of the first frame of a replay.
const START_MS: u64 = 1_000;
/// Between two sweeps of a replay.
const SWEEP_MS: u64 = 500;
/// Of all workers, more than there ever are.
const MAPPINGS: u32 = 100_000;
/// Events between two sweeps.
const EVENTS: u32 = 500;
/// Between two events, besides a microsecond for each frame, with one worker: the half second.
const GAP_NS: u64 = 900_000;
/// With several workers: one tick of 100 ms.
const GAP_IN_TICK_NS: u64 = 150_000;
/// What the program writes, by port.
const OUTPUTS: [&str; 2] = ["internal-out.pcap", "external-out.pcap"];
/// MACs that DPDK's net_pcap gives to its first and second device.
const MACS: [[u8; 6]; 2] = [[0x02, 0x70, 0x63, 0x61, 0x70, 0], [0x02, 0x70, 0x63, 0x61, 0x70, 1]];

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Two groups of 1,000 subscribers: one with the default rules, one with most limits and wishes.
/// Both share ports towards some services; there are static mappings, bypass, other protocols, and
/// the ALGs are on.
/// Ports always rest, and to the end: then no block ends in the sweep that ends its last mapping,
/// and which of two blocks ended first does not depend on threads.
fn world(workers: u16) -> World {
    let plain = Pool {
        addresses: addresses("203.0.113.0", "203.0.113.15"),
        ports: (1024, 1024 + 64 * 512 - 1),
        block_size: 64,
        max_blocks: 3,
        hold_s: 20,
        ..rested()
    };
    let choosy = Pool {
        addresses: addresses("203.0.113.64", "203.0.113.79"),
        hold_s: 5,
        choice: Choice { port: true, parity: true, range: false },
        exclude_ports: [1031, 1040, 1041].into(),
        filtering: [Filtering::Address, Filtering::AddressAndPort, Filtering::Anybody],
        ..plain.clone()
    };
    let limits = Limits {
        by_protocol: [(TCP, 8), (UDP, 7)].into(),
        sessions: Some(14),
        inbound_sessions: Some(2),
        rate: Some((1, 4)),
        reserved: 2,
        lifelines: [(TCP, 443), (UDP, 53)].into(),
        ..Limits::default()
    };
    let ordinary = worlds::world(workers);
    let mut world = World {
        rules: Rules {
            pools: vec![plain, choosy],
            groups: vec![
                (ip("100.64.0.0"), ip("100.64.3.255"), 0),
                (ip("100.65.0.0"), ip("100.65.3.255"), 1),
            ],
            limits: vec![Limits::default(), limits],
            opening_s: 20,
            established_s: 60,
            closing_s: 5,
            reset_s: 6,
            udp_s: 30,
            udp_by_port_s: [(53, 5), (123, 12)].into(),
            icmp_s: 10,
            other_s: 15,
            ..ordinary.rules
        },
        vlans: [None, Some(Vlan::qinq(300, 200))],
        start: Instant::from_millis(START_MS),
        settles: false,
        habits: Habits {
            hosts: 1_000,
            busy: 8,
            first_port: 1024,
            source_ports: 24,
            steps: 0,
            housekeeping: 0,
            step_ms: 0,
            ..ordinary.habits
        },
        ..ordinary
    };
    world = everything(world);
    (world.rules.ftp, world.rules.tftp) = (true, true);
    world.max_mappings = MAPPINGS;
    world.habits.remotes = 200;
    world
}

/// The configuration of the program, with captures as devices.
fn configuration(world: &World, directory: &Path) -> String {
    let name = format!("specification-{}-{}", std::process::id(), world.workers);
    let system = format!(
        "system: {{ name: {name}, workers: {}, memory: 512MiB, huge-pages: off,",
        world.workers
    );
    let mut yaml = world.yaml().replacen("system: {", &system, 1);
    for (port, name) in ["internal", "external"].into_iter().enumerate() {
        let file = |kind: &str| directory.join(format!("{name}-{kind}.pcap")).display().to_string();
        let (from, to) = (file("in"), file("out"));
        let device = format!("device: \"net_pcap{port},rx_pcap={from},tx_pcap={to}\"");
        let null = format!("device: net_null{port}");
        assert!(yaml.contains(&null), "{yaml}");
        yaml = yaml.replacen(&null, &device, 1);
    }
    yaml
}

/// What a capture cannot hold. A frame that came in pieces is in one here, unless it is longer
/// than every buffer.
fn is_impossible(event: &Event) -> bool {
    matches!(event, Event::Broken { frame, .. } if frame.is_empty())
}

/// The twin: random events for so many seconds, then nothing until all state has ended.
fn play(world: &World, seed: u64, seconds: u64, yaml: &str) -> (Driver, Mix) {
    let mut random = ChaCha20Rng::seed_from_u64(seed);
    let lab = Lab::with_chance(yaml, world.workers, |bytes| random.fill_bytes(bytes));
    let mut driver = Driver::with_lab(world, seed, Fault::None, lab);
    driver.tape = Some(Vec::new());
    let (mut number, mut mix) = (0, Mix::default());
    for sweep in 0..seconds * 1_000 / SWEEP_MS {
        if sweep > 0 {
            driver.lab.now = Instant::from_millis(START_MS + sweep * SWEEP_MS);
            driver.housekeeping();
        }
        let mut met = Met::default();
        for event in 0..EVENTS {
            let event = match event {
                // A sweep needs a frame at its time.
                0 => nudge(),
                _ => loop {
                    let event = driver.events.next(&driver.nat);
                    let admitted = world.workers == 1 || met.admits(&driver.nat, &event);
                    if admitted && !is_impossible(&event) {
                        break event;
                    }
                },
            };
            let (text, kinds) = (format!("{event:?}"), Mix::kinds(&driver.nat, &event));
            let sent = driver.sent;
            if let Err(difference) = driver.step(number, event) {
                panic!("seed {seed}, event {number}: {difference}\n{text}");
            }
            if driver.sent > sent {
                mix.note(&kinds);
            }
            number += 1;
            let gap_ns = if world.workers == 1 { GAP_NS } else { GAP_IN_TICK_NS };
            driver.lab.now = Instant::from_nanos(driver.lab.now.nanos() + gap_ns);
        }
        if sweep % 60 == 59 {
            driver.audit().unwrap();
        }
    }
    for hours in 1..=3 {
        let sweep = seconds * 1_000 / SWEEP_MS + hours * 3_600_000 / SWEEP_MS;
        driver.lab.now = Instant::from_millis(START_MS + sweep * SWEEP_MS);
        driver.housekeeping();
        driver.step(number, nudge()).unwrap();
    }
    driver.housekeeping();
    (driver, mix)
}

/// A frame that nobody cares for.
fn nudge() -> Event {
    let frame = [&[0xff; 12][..], &[0x88, 0xcc], &[0; 46]].concat();
    let reason = DropReason::EtherTypeOther;
    Event::Broken { worker: 0, port: INTERNAL, frame, whole: true, reason }
}

/// Frames as they arrive at the program, whose MACs are others than the twin's.
fn write(directory: &Path, tape: &[Arrival]) {
    for (port, name) in ["internal-in.pcap", "external-in.pcap"].into_iter().enumerate() {
        let frames = tape.iter().filter(|arrival| arrival.port == port).map(|arrival| {
            let mut frame = arrival.frame.clone();
            if frame.starts_with(&port_mac(port)) {
                frame[..6].copy_from_slice(&MACS[port]);
            }
            (Duration::from_nanos(arrival.at.nanos()), frame)
        });
        capture::write_as_they_are(&directory.join(name), frames).unwrap();
    }
}

/// A frame without what is a worker's own: MACs, and the identification that it chose.
fn comparable(port: usize, frame: &[u8], world: &World) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..12].fill(0);
    let at = link_len(world.vlans[port]);
    if world.workers > 1 && frame[at + 6] & 0x40 == 0 {
        frame[at + 4..at + 6].fill(0);
        frame[at + 10..at + 12].fill(0);
    }
    frame
}

/// Whether a frame goes where addresses are shown.
fn is_bypassed(port: usize, frame: &[u8], world: &World) -> bool {
    let at = link_len(world.vlans[port]) + 16;
    let Some([a, b, c, d]) = frame.get(at..at + 4) else { return false };
    let to = u32::from_be_bytes([*a, *b, *c, *d]);
    let mut nets = world.rules.bypass.iter().map(|rule| rule.to);
    port == EXTERNAL && nets.any(|(net, length)| (net ^ to) >> (32 - length) == 0)
}

/// What the program sent on a port; none of it shows anything of the inside.
fn sent_on(directory: &Path, port: usize, world: &World) -> Vec<Vec<u8>> {
    let frames = capture::read(&directory.join(OUTPUTS[port])).unwrap();
    let hop = [[2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 2]][port];
    for frame in &frames {
        if !is_bypassed(port, frame, world) {
            nothing_of_the_inside(port, frame);
        }
        assert_eq!((&frame[..6], &frame[6..12]), (&hop[..], &MACS[port][..]), "MACs");
        let at = link_len(world.vlans[port]);
        let header = &frame[at..at + usize::from(frame[at] & 15) * 4];
        assert_eq!(checksum(header), 0, "header checksum of {frame:02x?}");
    }
    frames
}

/// How the frames that were sent on a port are not those that the specification has approved.
fn difference(port: usize, got: &[Vec<u8>], tape: &[Arrival], world: &World) -> Option<String> {
    let sent = tape.iter().flat_map(|arrival| {
        let frames = arrival.sent.iter().filter(|(to, _)| *to == port);
        frames.map(move |(_, frame)| (comparable(port, frame, world), arrival))
    });
    let mut want: Vec<_> = sent.collect();
    let mut got: Vec<_> = got.iter().map(|frame| comparable(port, frame, world)).collect();
    if world.workers > 1 {
        want.sort_by(|a, b| a.0.cmp(&b.0));
        got.sort();
    }
    let other = want.iter().zip(&got).find(|((want, _), got)| want != *got);
    if let Some(((want, because), got)) = other {
        return Some(format!("{got:02x?}, not {want:02x?} because of {because:02x?}"));
    }
    let (sent, approved) = (got.len(), want.len());
    (sent != approved).then(|| format!("{sent} frames, {approved} approved"))
}

/// The program's counters are the twin's, and nothing is left in the end.
fn same_counters(stats: &Stats, driver: &Driver) {
    let count = |reason: &DropReason| (reason.name().to_owned(), driver.lab.drops(*reason));
    let want: BTreeMap<String, u64> =
        DropReason::ALL.iter().map(count).filter(|(_, count)| *count > 0).collect();
    let drops = stats.drops().unwrap();
    println!("  drops {drops:?}");
    assert_eq!(drops, want);
    let census = stats.port_census().unwrap();
    println!("  {census:?}");
    assert_eq!((census.used, census.resting, census.free), (0, 0, census.total));
    assert_eq!(census.free, driver.lab.port_census().free);
    assert_eq!((stats.active_mappings().unwrap(), stats.blocks_in_use().unwrap()), (0, 0));
    assert_eq!(stats.ownership_violations().unwrap(), 0);
    let created = stats.document()["mappings"]["created"].as_u64();
    assert_eq!(created, Some(driver.lab.sum(|counters| counters.mappings_created.value())));
    let alg = &stats.document()["alg"];
    let Counts { unfollowed, ended, replaced, passed } = driver.nat.ftp;
    for (name, count) in
        [("unfollowed", unfollowed), ("ended", ended), ("replaced", replaced), ("passed", passed)]
    {
        assert_eq!(alg["ftp"][name].as_u64(), Some(count), "FTP: {name}");
    }
    assert_eq!(alg["tftp"]["requests"].as_u64(), Some(driver.nat.requests));
    let balance = |key: &str| stats.document()["balance"][key].as_u64();
    assert!(balance("came").is_some() && balance("came") == balance("ended"));
}

/// A run of the program, and of its twin.
struct Run {
    directory: tempfile::TempDir,
    world: World,
    driver: Driver,
    tape: Vec<Arrival>,
    mix: Mix,
    stats: Stats,
}

fn run(workers: u16, seed: u64, seconds: u64) -> Run {
    let directory = tempfile::tempdir().unwrap();
    let world = world(workers);
    let yaml = configuration(&world, directory.path());
    let started = std::time::Instant::now();
    let (mut driver, mix) = play(&world, seed, seconds, &yaml);
    let tape = driver.tape.take().unwrap();
    println!(
        "{workers} workers, CGNAT_SEED={seed}: {seconds} s, {} frames, {} datagrams in fragments, \
         in {:?}",
        tape.len(),
        driver.datagrams,
        started.elapsed()
    );
    write(directory.path(), &tape);
    let file = directory.path().join("cgnat.yaml");
    std::fs::write(&file, &yaml).unwrap();
    let stats = replay(&file, Some(seed), directory.path()).unwrap();
    Run { directory, world, driver, tape, mix, stats }
}

fn agree(workers: u16, seed: u64) {
    let seed = number("CGNAT_SEED", seed);
    let seconds = number("CGNAT_SPECIFICATION_SECONDS", 60);
    let Run { directory, world, mut driver, tape, mix, stats } = run(workers, seed, seconds);
    let differences = [INTERNAL, EXTERNAL].map(|port| {
        let got = sent_on(directory.path(), port, &world);
        println!("  {}: {} frames", OUTPUTS[port], got.len());
        difference(port, &got, &tape, &world)
    });
    let what = format!("{workers} workers, CGNAT_SEED={seed}");
    assert!(differences.iter().all(Option::is_none), "{what}: {differences:#?}");
    same_counters(&stats, &driver);
    // That it was a storm of everything.
    println!("  {} flows shared a port; {:?}; {mix:?}", driver.nat.shared, driver.nat.ftp);
    assert_eq!(mix.lacks(seconds / 2), None, "too few of a kind: {mix:?}");
    assert!(driver.nat.ftp.replaced > seconds, "few commands: {:?}", driver.nat.ftp);
    assert!(driver.nat.shared > seconds, "only {} flows shared a port", driver.nat.shared);
    let created = driver.lab.sum(|counters| counters.mappings_created.value());
    assert!(created > seconds * 50, "only {created} mappings");
    assert!(driver.sent > seconds * 400, "only {} frames", driver.sent);
    assert!(driver.datagrams > seconds * 2, "only {} datagrams", driver.datagrams);
    driver.finish().unwrap();
}

#[test]
fn two_thousand_subscribers_through_one_worker_without_a_difference() {
    agree(1, 1);
}

#[test]
fn two_thousand_subscribers_through_four_workers_without_a_difference() {
    agree(4, 2);
}

#[test]
fn a_frame_that_is_changed_missing_or_too_many_is_found() {
    for workers in [1, 2] {
        let Run { directory, world, tape, .. } = run(workers, 3, 2);
        for port in [INTERNAL, EXTERNAL] {
            let good = sent_on(directory.path(), port, &world);
            let is_found = |frames: &[Vec<u8>]| difference(port, frames, &tape, &world).is_some();
            assert!(!is_found(&good) && good.len() > 100);
            for place in (0..good.len()).step_by(10) {
                // The last byte of all headers, or of the payload.
                let mut frames = good.clone();
                *frames[place].last_mut().unwrap() ^= 1;
                assert!(is_found(&frames), "a changed frame");
                frames.remove(place);
                assert!(is_found(&frames), "a frame less");
                let mut frames = good.clone();
                frames.insert(place, good[place].clone());
                assert!(is_found(&frames), "a frame too many");
            }
        }
    }
}
