//! Links that go down and come back under flows, and neighbours that claim an address of the box.
//! Needs root.
//!
//! How soon packets go again is printed; no test asserts a time.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddrV4;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Appliance, Settings, with_appliance};
use cgnat_tests::lab::{
    BOX_EXTERNAL, EXTERNAL, INTERNAL, Lab, MACS, POOL_PREFIX, SERVERS, subscriber,
};
use cgnat_tests::process::{Process, wait_until};
use cgnat_tests::reports::{Serving, report_of};
use cgnat_tests::steady::SteadyReport;
use cgnat_tests::traffic;

const PROGRAM: &str = env!("CARGO_BIN_EXE_load");
/// Flaps, half of each link.
const FLAPS: usize = 100;
/// Flows beside the one that is watched.
const FLOWS: u64 = 40;
/// For how long they go on at least.
const SECONDS: u64 = 15;
/// What comes later than this is a standstill.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a link stays down.
const DOWN: Duration = Duration::from_millis(60);

/// Pings of one subscriber, a hundred per second, without end.
struct Pulse {
    _ping: Process,
    beats: Receiver<Instant>,
}

impl Pulse {
    fn start(lab: &Lab) -> Result<Pulse> {
        let mut command = lab.subscribers.command("ping");
        let source = subscriber(0).to_string();
        command.args(["-n", "-i", "0.01", "-I", &source, &SERVERS[0].to_string()]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut ping = Process::start("ping", command)?;
        let stdout = ping.take_stdout().context("ping has no standard output")?;
        let (beat, beats) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.contains("bytes from") && beat.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        Ok(Pulse { _ping: ping, beats })
    }

    /// Waits for an answer that comes after `since`; how long after.
    fn after(&self, since: Instant) -> Result<Duration> {
        loop {
            let beat =
                self.beats.recv_timeout(LIMIT).context("no ping comes back: a standstill")?;
            if let Some(passed) = beat.checked_duration_since(since) {
                return Ok(passed);
            }
        }
    }
}

fn set(lab: &Lab, interface: &str, state: &str) -> Result<()> {
    lab.middle.run("ip", &["link", "set", interface, state]).map(drop)
}

/// Sets both links down and up in turn; milliseconds until a ping came back, of each.
fn flap(lab: &Lab, pulse: &Pulse) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for n in 0..FLAPS {
        let interface = if n % 2 == 0 { EXTERNAL } else { INTERNAL };
        set(lab, interface, "down")?;
        thread::sleep(DOWN);
        set(lab, interface, "up")?;
        let took = pulse.after(Instant::now()).with_context(|| format!("flap {n}"))?;
        times.push(took.as_secs_f64() * 1e3);
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times)
}

/// Packet buffers in use, of all pools, when nothing is under way any more.
fn buffers(appliance: &Appliance) -> Result<u64> {
    let stats = appliance.statistics()?;
    let pools = stats.document()["buffers"].as_array().context("no buffers")?;
    Ok(pools.iter().filter_map(|pool| pool["in_use"].as_u64()).sum())
}

#[test]
fn root_netns_a_hundred_link_flaps_under_load_leave_nothing_behind() -> Result<()> {
    let lab = Lab::new(0)?;
    lab.house_everybody()?;
    let settings = Settings { workers: 2, ..Settings::default() };
    let echo = SocketAddrV4::new(SERVERS[0], 4_000).to_string();
    let serving = Serving::start(&lab.server, PROGRAM, &["echo", &echo])?;
    let ((report, times, before, after), outcome) = with_appliance(&lab, &settings, |appliance| {
        let pulse = Pulse::start(&lab)?;
        pulse.after(Instant::now())?;
        let before = buffers(appliance)?;
        let text = format!("steady {echo} --first 100 --count {FLOWS} --seconds {SECONDS}");
        let arguments: Vec<&str> = text.split(' ').collect();
        let limit = Duration::from_secs(SECONDS + 60);
        let (report, times) = thread::scope(|scope| {
            let steady = scope
                .spawn(|| report_of::<SteadyReport>(&lab.subscribers, PROGRAM, &arguments, limit));
            // All flows have begun.
            thread::sleep(Duration::from_millis(300));
            let times = flap(&lab, &pulse);
            (steady.join(), times)
        });
        let (report, times) = (report.ok().context("a thread panicked")??, times?);
        pulse.after(Instant::now())?;
        drop(pulse);
        let mut after = 0;
        wait_until("packet buffers that come back", LIMIT, || {
            after = buffers(appliance)?;
            Ok(after <= before)
        })
        .with_context(|| format!("{before} in use before, {after} after"))?;
        let errors = appliance.errors();
        for never in ["has stopped", "takes nothing", "does not answer"] {
            ensure!(!errors.contains(never), "{errors}");
        }
        for port in ["internal0", "external0"] {
            let said = errors.matches(&format!("port {port}: link down")).count();
            ensure!((1..=8).contains(&said), "said {said} times:\n{errors}");
        }
        Ok((report, times, before, after))
    })?;
    serving.report::<u64>()?;
    let drops = outcome.stats.drops()?;
    let sent: u64 = report.slices.iter().map(|slice| slice.sent).sum();
    let echoed: usize = report.slices.iter().map(|slice| slice.echoed.len()).sum();
    println!(
        "{} flaps: a ping is back after {:.1} ms (median), {:.1} ms (at most); {sent} datagrams, \
         {echoed} came back; {before} buffers in use before, {after} after; drops {drops:?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1],
    );
    ensure!(report.wrong == 0, "{} echoes came to the wrong flow", report.wrong);
    // The same sessions went on: nobody was given another mapping.
    let created = outcome.number("/mappings/created")?;
    ensure!(created == FLOWS + 1, "{created} mappings for {FLOWS} flows and a ping");
    for port in 0..2 {
        let flaps = outcome.number(&format!("/links/{port}/flaps"))?;
        ensure!(flaps == FLAPS as u64 / 2, "port {port}: {flaps} flaps");
    }
    let known = ["link-down", "handoff-full"];
    ensure!(drops.keys().all(|reason| known.contains(&reason.as_str())), "drops {drops:?}");
    ensure!(drops.contains_key("link-down"), "drops {drops:?}");
    Ok(())
}

/// The other end of a link goes, not ours; and somebody uses an address of the box.
#[test]
fn root_netns_the_box_says_who_is_gone_and_who_uses_its_address() -> Result<()> {
    let lab = Lab::new(1)?;
    let server = &lab.server;
    let ip = |words: &str| server.run("ip", &words.split(' ').collect::<Vec<_>>());
    let pings = || traffic::ping(&lab.subscribers, lab.addresses()[0], SERVERS[0], 2, 56);
    let ((), outcome) = with_appliance(&lab, &Settings::default(), |appliance| {
        ensure!(pings()? == 2, "pings before anything happened");
        let says = |what: &str, words: &str| {
            wait_until(what, LIMIT, || Ok(appliance.errors().contains(words)))
                .with_context(|| format!("expected {words:?} in\n{}", appliance.errors()))
        };
        ip("link set world down")?;
        says("a lost carrier", "port external0: link down: the kernel has cg-ext down or without")?;
        ensure!(pings()? == 0, "answers without a link");
        ip("link set world up")?;
        ip(&format!("route add {POOL_PREFIX} via {BOX_EXTERNAL}"))?;
        says("its return", "port external0: link up again, after ")?;
        ensure!(pings()? == 2, "pings after the link was down");

        // The server believes somebody else, until the box has defended its address.
        let thief = "02:66:66:66:66:66";
        ip(&format!("neighbour replace {BOX_EXTERNAL} lladdr {thief} dev world nud reachable"))?;
        ensure!(pings()? == 0, "the server believes nobody");
        let own = BOX_EXTERNAL.to_string();
        server.run("sysctl", &["-q", "-w", "net.ipv4.ip_nonlocal_bind=1"])?;
        let claim = ["arping", "-U", "-c", "1", "-w", "1", "-s", &own, "-I", "world", &own];
        for _ in 0..3 {
            server.run("busybox", &claim)?;
        }
        let words = format!("port external0: {} uses {own} too", MACS[3]);
        says("who uses its address", &words)?;
        ensure!(appliance.errors().matches(&words).count() == 1, "said more than once");
        wait_until("the server to believe the box again", LIMIT, || {
            Ok(ip("neighbour show dev world")?.contains(MACS[2]))
        })?;
        ensure!(pings()? == 2, "pings after the address was defended");
        Ok(())
    })?;
    ensure!(outcome.number("/links/1/flaps")? == 1, "{:?}", outcome.stats.document()["links"]);
    ensure!(outcome.number("/arp_conflicts")? >= 3, "conflicts are not counted");
    Ok(())
}
