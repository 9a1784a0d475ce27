//! Real programs through the appliance between two kernels. Needs root.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Settings, with_appliance};
use cgnat_tests::decode::{Captures, Report, Rules, Violation, verify_translated};
use cgnat_tests::lab::{
    BOX_EXTERNAL, BOX_INTERNAL, EXTERNAL, INTERNAL, Lab, POOL_PREFIX, SERVERS, SUBSCRIBER_PREFIX,
};
use cgnat_tests::live::everything_goes_through;
use cgnat_tests::stats::PortCensus;
use cgnat_tests::traffic::{self, Capture, Direction, Server, Stream};

/// Bytes of the file that is fetched.
const DOWNLOAD: u64 = 100_000_000;

fn through_the_appliance(workers: u16) -> Result<()> {
    let lab = Lab::new(8)?;
    let settings = Settings { workers, ..Settings::default() };
    let (reached, _) = with_appliance(&lab, &settings, |_| {
        everything_goes_through(&lab, DOWNLOAD)?;
        traffic::ping(&lab.subscribers, lab.addresses()[0], BOX_INTERNAL, 1, 56)
    })?;
    ensure!(reached == 1, "the appliance does not answer a ping to its own address");
    Ok(())
}

#[test]
fn root_netns_everything_goes_through_1_worker() -> Result<()> {
    through_the_appliance(1)
}

#[test]
fn root_netns_everything_goes_through_4_workers() -> Result<()> {
    through_the_appliance(4)
}

/// The laboratory itself: the same clients and servers with the kernel's NAT in the middle.
#[test]
fn root_netns_everything_goes_through_the_kernels_nat() -> Result<()> {
    let lab = Lab::new(8)?;
    lab.use_kernel_nat("203.0.113.0-203.0.113.7", "1024-65535")?;
    everything_goes_through(&lab, DOWNLOAD)
}

/// Captures what arrives at the box and, at the far ends, what it sends, while small amounts of
/// every kind of traffic go through; decodes all four.
fn decode_small_traffic(lab: &Lab, hairpin: bool) -> Result<Report> {
    const PORT: u16 = 5353;
    let directory = tempfile::tempdir()?;
    let path = |name| directory.path().join(name);
    let capture = |namespace, interface, name| {
        Capture::start(namespace, interface, Direction::Arriving, "", &path(name))
    };
    let captures = [
        capture(&lab.subscribers, "router", "internal-out")?,
        capture(&lab.server, "world", "external-out")?,
        capture(&lab.middle, INTERNAL, "internal-in")?,
        capture(&lab.middle, EXTERNAL, "external-in")?,
    ];

    let [web, name_server, streams] = SERVERS;
    let namespace = &lab.subscribers;
    let http = Server::http(&lab.server, web)?;
    traffic::random_file(&http.root().join("100k"), 100_000)?;
    let _dns = Server::dns(&lab.server, name_server, 53)?;
    let _iperf = Server::iperf3(&lab.server, streams)?;
    for client in lab.addresses() {
        let into = tempfile::NamedTempFile::new()?;
        let limit = Duration::from_secs(30);
        traffic::download(namespace, *client, web, "100k", into.path(), limit)?;
        // One internal endpoint, two servers.
        traffic::dig(namespace, (*client, 20_053), (name_server, 53), &[])?;
        traffic::open_mapping(lab, (*client, 20_053), web)?;
        ensure!(traffic::ping(namespace, *client, web, 2, 56)? == 2, "ping from {client}");
        for (udp, reverse) in [(false, true), (true, false)] {
            let stream =
                Stream { udp, bits_per_second: Some(1_000_000), reverse, seconds: 1, parallel: 1 };
            traffic::iperf3(namespace, *client, streams, stream)?;
        }
    }
    let (host, others) = lab.addresses().split_first().context("a laboratory with subscribers")?;
    if hairpin {
        let external = traffic::open_mapping(lab, (*host, PORT), web)?;
        let _server = Server::dns(namespace, *host, PORT)?;
        for client in others {
            let server = (*external.ip(), external.port());
            traffic::dig(namespace, (*client, 0), server, &[])?;
        }
    }

    for capture in captures {
        capture.stop()?;
    }
    let settings = Settings::default();
    let rules = Rules {
        subscribers: vec![SUBSCRIBER_PREFIX.parse()?],
        pool: vec![POOL_PREFIX.parse()?],
        own: vec![BOX_INTERNAL, BOX_EXTERNAL],
        ports: (1024, 65535),
        block_size: settings.block_size,
        max_blocks: usize::from(settings.max_blocks),
    };
    let captures = Captures {
        internal_in: &path("internal-in"),
        external_in: &path("external-in"),
        internal_out: &path("internal-out"),
        external_out: &path("external-out"),
    };
    let report = verify_translated(captures, &rules, None)?;
    println!("{report}");
    ensure!(report.subscribers == lab.addresses().len() as u64, "{report}");
    ensure!(report.outbound > 500 && report.inbound > 500, "{report}");
    ensure!((report.hairpinned > 0) == hairpin, "{report}");
    Ok(report)
}

#[test]
fn root_netns_what_4_workers_send_keeps_every_rule() -> Result<()> {
    let lab = Lab::new(12)?;
    let settings = Settings { workers: 4, ..Settings::default() };
    let (report, outcome) = with_appliance(&lab, &settings, |_| decode_small_traffic(&lab, true))?;
    ensure!(report.violations.is_empty(), "{report}{}", outcome.printed);
    Ok(())
}

/// The decoder itself, over real traffic: the kernel translates rightly, but knows no port blocks
/// and no endpoint-independent mapping.
#[test]
fn root_netns_the_decoder_explains_all_that_the_kernels_nat_sends() -> Result<()> {
    let lab = Lab::new(4)?;
    lab.use_kernel_nat("203.0.113.0-203.0.113.7", "1024-65535")?;
    let report = decode_small_traffic(&lab, false)?;
    let unexpected = report.violations.iter().find(|violation| {
        !matches!(
            violation,
            Violation::SharedBlock(..)
                | Violation::TooManyBlocks(..)
                | Violation::SeveralMappings(..)
                | Violation::SeveralOwners(..)
                | Violation::PortNotLent(_)
        )
    });
    ensure!(unexpected.is_none(), "{report}");
    Ok(())
}

#[test]
fn root_netns_a_leak_is_noticed() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.use_kernel_forwarding()?;
    // No reply: the servers have no route to subscribers.
    let received = traffic::ping(&lab.subscribers, lab.addresses()[0], SERVERS[0], 2, 56)?;
    ensure!(received == 0, "{received} replies without translation");
    let leaked = lab.leaks()?;
    ensure!(leaked == 2, "2 packets leaked, {leaked} were noticed");
    Ok(())
}

#[test]
fn root_netns_a_laboratory_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new(1)?;
    let names =
        [&lab.subscribers, &lab.middle, &lab.server].map(|namespace| namespace.name().to_owned());
    lab.use_kernel_nat("203.0.113.0-203.0.113.7", "1024-65535")?;
    let server = Server::http(&lab.server, SERVERS[0])?;
    let (_, external) = traffic::whoami(&lab.subscribers, lab.addresses()[0], SERVERS[0])?;
    ensure!(external.ip().octets()[..3] == [203, 0, 113], "the server saw {external}");
    ensure!(traffic::ping(&lab.server, SERVERS[0], BOX_EXTERNAL, 1, 56)? == 1, "no box");
    drop((lab, server));
    for name in names {
        let path = std::path::Path::new("/run/netns").join(&name);
        ensure!(!path.exists(), "{name} is still there");
    }
    Ok(())
}

/// Opens one UDP mapping, waits `seconds`, stops the appliance: its ports and mappings then.
fn ports_after(hold: &str, seconds: u64) -> Result<(PortCensus, u64)> {
    const PORT: u16 = 5300;
    let lab = Lab::new(1)?;
    let settings = Settings {
        hold: hold.to_owned(),
        udp_timeout: Some("2s".to_owned()),
        short_timers: true,
        ..Settings::default()
    };
    let (_, outcome) = with_appliance(&lab, &settings, |_| {
        let _dns = Server::dns(&lab.server, SERVERS[0], PORT)?;
        traffic::dig(&lab.subscribers, (lab.addresses()[0], 0), (SERVERS[0], PORT), &[])?;
        std::thread::sleep(Duration::from_secs(seconds));
        Ok(())
    })?;
    let stats = outcome.stats;
    Ok((stats.port_census()?, stats.active_mappings()?))
}

#[test]
fn root_netns_an_idle_mapping_returns_its_port_after_hold_down() -> Result<()> {
    let (fresh, active) = ports_after("3s", 0)?;
    ensure!((fresh.used, fresh.resting, active) == (1, 0, 1), "at once: {fresh:?}, {active}");

    let (idle, active) = ports_after("60s", 7)?;
    ensure!((idle.used, idle.resting, active) == (0, 1, 0), "idle for 7 s: {idle:?}, {active}");

    let (rested, active) = ports_after("3s", 12)?;
    let expected = PortCensus { free: rested.total, used: 0, resting: 0, total: fresh.total };
    ensure!((rested, active) == (expected, 0), "rested: {rested:?}, {active}");
    Ok(())
}
