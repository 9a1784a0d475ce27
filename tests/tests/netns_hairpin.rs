//! The libalias fault: subscribers of different workers reach each other by their external
//! endpoints at full speed while mappings, ports and blocks expire and move between workers.
//!
//! Nothing may be owned twice, nothing may be lost, and no datagram may reach somebody else.
//! Needs root. Lasts `CGNAT_HAIRPIN_SECONDS` (10).

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Outcome, Settings, with_appliance};
use cgnat_tests::hairpin_storm::{Reflected, StormReport};
use cgnat_tests::lab::{Lab, SERVERS};
use cgnat_tests::reports::{self, Serving};
use cgnat_tests::stats::PortCensus;

const WORKERS: u16 = 4;
/// They need about as many blocks as there are: so one worker is short while another has some.
const SUBSCRIBERS: u32 = 200;
/// One subscriber in so many has so many more sockets that one port block is not enough.
const CROWDED_ONE_IN: usize = 67;
const SOCKETS_OF_CROWDED: usize = 100;
const BLOCK_SIZE: u16 = 64;
const PROTOCOLS: u64 = 3;
/// Idle time, hold-down, and the two sweeps that find both over, and time to spare.
const SILENCE: Duration = Duration::from_secs(6);

/// The external side: few blocks, so that workers must borrow from each other.
struct Pool {
    addresses: &'static str,
    count: u64,
    ports: (u64, u64),
}

impl Pool {
    fn all_ports(&self) -> u64 {
        self.count * (self.ports.1 - self.ports.0 + 1)
    }

    fn blocks(&self) -> u64 {
        self.all_ports() / u64::from(BLOCK_SIZE)
    }
}

fn seconds() -> Result<u64> {
    match std::env::var("CGNAT_HAIRPIN_SECONDS") {
        Ok(text) => text.parse().context("CGNAT_HAIRPIN_SECONDS is not a number"),
        Err(_) => Ok(10),
    }
}

/// Runs the storm through whatever is in the middle of `lab`.
fn storm(lab: &Lab, seconds: u64) -> Result<(StormReport, Reflected)> {
    const PROGRAM: &str = env!("CARGO_BIN_EXE_hairpin-storm");
    let address = SocketAddrV4::new(SERVERS[0], 3478);
    let to = address.to_string();
    let reflecting = Serving::start(&lab.server, PROGRAM, &["reflector", &to])?;

    let all = lab.addresses().iter().copied();
    let crowded = all.clone().step_by(CROWDED_ONE_IN);
    let more = crowded.flat_map(|address| std::iter::repeat_n(address, SOCKETS_OF_CROWDED));
    let files = [reports::file_of(all.clone().chain(more))?, reports::file_of(all)?];
    let [sources, tcp] = files.each_ref().map(|file| file.path().to_string_lossy());
    let lasting = seconds.to_string();
    let arguments = ["storm", &to, "--seconds", &lasting, "--sources-file", &sources];
    let arguments = [&arguments[..], &["--tcp-sources-file", &tcp]].concat();
    let limit = Duration::from_secs(seconds + 60);
    let report = reports::report_of(&lab.subscribers, PROGRAM, &arguments, limit)?;
    Ok((report, reflecting.report()?))
}

/// What the appliance says about itself, beyond what every test asks.
#[derive(Debug)]
struct Figures {
    hairpinned: u64,
    mappings_created: u64,
    mappings_active: u64,
    blocks_allocated: u64,
    blocks_released: u64,
    blocks_in_use: u64,
    blocks_total: u64,
    stale_requests: u64,
    handed_off: Vec<u64>,
    drops: BTreeMap<String, u64>,
}

impl Figures {
    fn of(outcome: &Outcome) -> Result<Figures> {
        let number = |path: &str| outcome.number(path);
        let handed_off =
            (0..WORKERS).map(|worker| number(&format!("/workers/{worker}/handed_off")));
        Ok(Figures {
            hairpinned: number("/hairpinned")?,
            mappings_created: number("/mappings/created")?,
            mappings_active: outcome.stats.active_mappings()?,
            blocks_allocated: number("/blocks/allocated")?,
            blocks_released: number("/blocks/released")?,
            blocks_in_use: outcome.stats.blocks_in_use()?,
            blocks_total: number("/blocks/total")?,
            stale_requests: number("/ownership/stale_requests")?,
            handed_off: handed_off.collect::<Result<_>>()?,
            drops: outcome.stats.drops()?,
        })
    }
}

fn weather(pool: &Pool) -> Result<()> {
    let seconds = seconds()?;
    let lab = Lab::new(SUBSCRIBERS)?;
    let settings = Settings {
        workers: WORKERS,
        pool: vec![pool.addresses.to_owned()],
        ports: Some(format!("{}-{}", pool.ports.0, pool.ports.1)),
        block_size: BLOCK_SIZE,
        max_blocks: 4,
        hold: "1s".to_owned(),
        udp_timeout: Some("1s".to_owned()),
        tcp_timeout: Some("1s".to_owned()),
        short_timers: true,
        max_mappings: 20_000,
        ..Settings::default()
    };
    let ((report, reflected), outcome) = with_appliance(&lab, &settings, |_| {
        let stormed = storm(&lab, seconds);
        std::thread::sleep(SILENCE);
        stormed
    })?;
    drop(lab);
    let figures = Figures::of(&outcome)?;
    let per_second = figures.hairpinned as f64 / report.seconds;
    println!(
        "{} blocks at {} addresses, {:.1} s: {per_second:.0} packets/s hairpinned, {} mappings \
         created, {} blocks allocated, {} stale requests; drops {:?}",
        figures.blocks_total,
        pool.count,
        report.seconds,
        figures.mappings_created,
        figures.blocks_allocated,
        figures.stale_requests,
        figures.drops
    );
    println!("{figures:?}\n{report:#?}\n{reflected:?}");

    let PortCensus { used, resting, total, .. } = outcome.stats.port_census()?;
    let all = pool.all_ports() * PROTOCOLS;
    ensure!(total == all, "{total} ports of {all} are left: a block is lost");
    ensure!(used == 0 && figures.mappings_active == 0, "{used} ports are used after the silence");
    ensure!(resting == 0, "{resting} ports rest after the silence");
    ensure!(figures.blocks_total == pool.blocks(), "{} blocks", figures.blocks_total);
    ensure!(figures.blocks_in_use == 0, "{} blocks in use after all", figures.blocks_in_use);
    let (allocated, released) = (figures.blocks_allocated, figures.blocks_released);
    ensure!(allocated == released, "{allocated} blocks allocated, {released} released");

    let first = &report.findings.described;
    ensure!(report.findings.wrong() == 0, "the first of what is wrong:\n{}", first.join("\n"));
    ensure!(report.tcp.wrong == 0, "TCP: {:?}", report.tcp.described);
    ensure!(report.talked.foreign == 0, "{} foreign datagrams", report.talked.foreign);
    ensure!(report.findings.not_kept == 0, "{} in doubt not kept", report.findings.not_kept);

    let undecided = report.findings.undecided;
    ensure!(undecided * 1000 < report.talked.right, "{undecided} datagrams are undecided");

    // That it was a storm: at 60 s more blocks were lent than there are, by several workers.
    // A block goes round in four seconds at best (talk, idle time, hold-down, two sweeps); a
    // subscriber that wakes before that keeps it.
    ensure!(allocated > pool.blocks() * seconds / 40, "only {allocated} blocks allocated");
    ensure!(figures.hairpinned > 1_000 * seconds, "only {} hairpinned", figures.hairpinned);
    ensure!(report.talked.right > 500 * seconds, "only {} received", report.talked.right);
    ensure!(report.findings.passed_on > 10 * seconds, "few endpoints got a new owner");
    ensure!(report.tcp.completed > seconds, "only {} TCP connections", report.tcp.completed);
    let busy = figures.handed_off.iter().filter(|count| **count > 0).count();
    ensure!(busy > 1, "handed off: {:?}", figures.handed_off);
    Ok(())
}

#[test]
fn root_netns_hairpin_storm() -> Result<()> {
    weather(&Pool { addresses: "203.0.113.0/30", count: 4, ports: (16_384, 19_455) })
}

/// Fewer addresses than workers.
#[test]
fn root_netns_hairpin_storm_2_addresses_4_workers() -> Result<()> {
    weather(&Pool { addresses: "203.0.113.0/31", count: 2, ports: (16_384, 22_527) })
}
