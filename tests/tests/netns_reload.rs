//! SIGHUP while real programs talk through the appliance: what exists goes on, new connections
//! get the new address, a drained one falls idle. Needs root.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Appliance, Settings};
use cgnat_tests::lab::{Lab, SERVERS};
use cgnat_tests::process::wait_until;
use cgnat_tests::traffic::{self, Server, Stream};

/// The address of the start, and the one that is added.
const FIRST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 0);
const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Seconds that the flows of the start last; everything below happens meanwhile.
const SECONDS: u32 = 20;

/// Reloads in a row, each of which adds an address or takes it away.
const RELOADS: u32 = 200;

/// Two blocks: room for the two subscribers of the start.
fn settings(workers: u16, pool: &[Ipv4Addr], drain: &[Ipv4Addr]) -> Settings {
    let text = |list: &[Ipv4Addr]| list.iter().map(Ipv4Addr::to_string).collect();
    Settings {
        workers,
        pool: text(pool),
        drain: text(drain),
        ports: Some("1024-1151".to_owned()),
        block_size: 64,
        max_blocks: 1,
        hold: "2s".to_owned(),
        udp_timeout: Some("3s".to_owned()),
        icmp_timeout: Some("3s".to_owned()),
        tcp_timeout: Some("25s".to_owned()),
        short_timers: true,
        ..Settings::default()
    }
}

fn said(line: &str, expected: &str) -> Result<()> {
    ensure!(line.contains(expected), "it said {line:?}, not {expected:?}");
    Ok(())
}

/// Everything that SIGHUP can do, while `lab`'s first two subscribers talk.
fn change_addresses(lab: &Lab, appliance: &Appliance, workers: u16) -> Result<()> {
    let same = |text: String| text;
    let subscribers = lab.addresses();
    let seen = |n: usize| -> Result<Ipv4Addr> {
        Ok(*traffic::whoami(&lab.subscribers, subscribers[n], SERVERS[0])?.1.ip())
    };
    let refused = traffic::ping(&lab.subscribers, subscribers[2], SERVERS[0], 1, 56)?;
    ensure!(refused == 0, "there is room for a third subscriber");

    let line = appliance.reload(&settings(workers, &[FIRST, SECOND], &[]), same)?;
    said(&line, "1 address added")?;
    ensure!(seen(2)? == SECOND, "subscriber 2 has not got the added address");

    let line = appliance.reload(&settings(workers, &[FIRST, SECOND], &[FIRST]), same)?;
    said(&line, "1 address to be drained")?;
    ensure!(seen(3)? == SECOND, "subscriber 3 has not got the address that is open");

    // What is wrong, or needs a restart, changes nothing.
    let drained = settings(workers, &[FIRST, SECOND], &[FIRST]);
    let line =
        appliance.reload(&drained, |text| text.replace("block-size: 64", "block-size: 65"))?;
    said(&line, "reload failed, nothing was changed")?;
    said(&line, "cgnat.yaml:")?;
    said(&line, "65 is not a power of two")?;
    let line = appliance.reload(&drained, |_| "not: [yaml".to_owned())?;
    said(&line, "cgnat.yaml:1:")?;
    let line = appliance.reload(&drained, |text| text.replace("hold: 2s", "hold: 3s"))?;
    said(&line, "needs a restart: pools.laboratory.allocation.hold 2s -> 3s")?;
    ensure!(seen(3)? == SECOND, "subscriber 3 lost its address by a broken file");

    // Another address comes and goes.
    let third = Ipv4Addr::new(203, 0, 113, 2);
    let mut before = 0;
    for round in 0..RELOADS {
        let (with, without) = ([FIRST, SECOND, third], [FIRST, SECOND]);
        let pool = if round % 2 == 0 { &with[..] } else { &without[..] };
        let line = appliance.reload(&settings(workers, pool, &[FIRST]), same)?;
        said(&line, "reloaded")?;
        if round == RELOADS / 10 {
            before = appliance.resident()?;
        }
    }
    let after = appliance.resident()?;
    println!("{RELOADS} reloads: {before} bytes in memory, then {after}");
    ensure!(after < before + (1 << 20), "memory grew from {before} to {after} bytes");
    Ok(())
}

fn reload_under_load(workers: u16) -> Result<()> {
    let lab = Lab::new(4)?;
    let _http = Server::http(&lab.server, SERVERS[0])?;
    let _iperf = Server::iperf3(&lab.server, SERVERS[2])?;
    let appliance = Appliance::start(&lab, &settings(workers, &[FIRST], &[]))?;
    let (inside, addresses, pings) = (&lab.subscribers, lab.addresses(), SECONDS * 5);
    // These two have the only blocks, before anybody else asks for one.
    for address in &addresses[..2] {
        traffic::whoami(inside, *address, SERVERS[0])?;
    }
    let (measured, replies, changed) = thread::scope(|scope| {
        let bits_per_second = Some(10_000_000);
        let stream =
            Stream { udp: false, bits_per_second, reverse: true, seconds: SECONDS, parallel: 1 };
        let iperf = scope.spawn(move || traffic::iperf3(inside, addresses[0], SERVERS[2], stream));
        let ping = scope.spawn(move || traffic::ping(inside, addresses[1], SERVERS[0], pings, 56));
        let changed = change_addresses(&lab, &appliance, workers);
        (iperf.join(), ping.join(), changed)
    });
    let context = || format!("the appliance said:\n{}{}", appliance.printed(), appliance.errors());
    changed.with_context(context)?;
    let (Ok(measured), Ok(replies)) = (measured, replies) else {
        anyhow::bail!("a thread panicked")
    };
    let (measured, replies) = (measured.with_context(context)?, replies.with_context(context)?);
    println!("{measured:?}, {replies} of {pings} replies");
    ensure!(replies == pings, "{replies} of {pings} replies: the drain lost some");
    ensure!(measured.bytes > u64::from(SECONDS) * 500_000, "{measured:?}");

    // The flows have ended; so does the drain.
    let drained = format!("drained: {FIRST} of pool laboratory");
    wait_until("the end of the drain", Duration::from_secs(60), || {
        Ok(appliance.printed().contains(&drained))
    })
    .with_context(context)?;
    let outcome = appliance.stop()?;
    let document = outcome.stats.document();
    println!("{} {}", document["reloads"], document["draining"]);
    ensure!(outcome.stats.ownership_violations()? == 0, "ownership violations");
    ensure!(document["reloads"]["applied"] == RELOADS + 2, "{}", document["reloads"]);
    ensure!(document["reloads"]["failed"] == 3, "{}", document["reloads"]);
    let draining = document["draining"].as_array().context("no list")?;
    let first = draining.iter().find(|entry| entry["address"] == FIRST.to_string());
    let first = first.context("the drained address is not in the list")?;
    ensure!(first["blocks"] == 0 && first["subscribers"] == 0, "{first}");
    let drops = outcome.stats.drops()?;
    ensure!(!drops.contains_key("leak-prevented"), "{drops:?}");
    let leaks = lab.leaks()?;
    ensure!(leaks == 0, "{leaks} frames showed the servers an address of the inside");
    Ok(())
}

#[test]
fn root_netns_addresses_come_and_go_under_load_1_worker() -> Result<()> {
    reload_under_load(1)
}

#[test]
fn root_netns_addresses_come_and_go_under_load_4_workers() -> Result<()> {
    reload_under_load(4)
}
