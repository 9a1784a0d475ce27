//! `cgnat connect-test` through the appliance, as operators use it. Needs root.
//!
//! The error budget must hold through every number of workers, and a set-up that is broken on
//! purpose must exceed it: a test of a NAT that cannot fail would be worth nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use cgnat_tests::appliance::{Settings, with_appliance};
use cgnat_tests::connect_test::{self, Tested};
use cgnat_tests::lab::Lab;

const SUBSCRIBERS: u32 = 200;
const LIMIT: Duration = Duration::from_secs(60);

fn settings(workers: u16) -> Settings {
    Settings { workers, ..Settings::default() }
}

fn budget_holds(workers: u16) -> Result<()> {
    const CONNECTIONS: u64 = 6_000;
    let lab = Lab::new(SUBSCRIBERS)?;
    let count = CONNECTIONS.to_string();
    let options = ["--connections", &count, "--max-errors", "0", "--interval", "1"];
    let (tested, outcome) =
        with_appliance(&lab, &settings(workers), |_| connect_test::run(&lab, &options, LIMIT))?;
    println!("{workers} workers: {tested:?}");
    let Tested { client, server, code, .. } = tested;
    ensure!((code, client.good, client.errors) == (Some(0), true, 0), "{client:?}");
    ensure!(client.completed == CONNECTIONS, "{client:?}\n{}", outcome.printed);
    ensure!((server.completed, server.duplicates, server.mixed) == (CONNECTIONS, 0, 0));
    let times = client.latency_us;
    ensure!(0 < times.median && times.median <= times.p95 && times.p95 <= times.p99, "{times:?}");
    ensure!(times.p99 <= times.max && client.requests_per_second > 0.0, "{times:?}");
    Ok(())
}

#[test]
fn root_netns_connect_test_keeps_its_budget_through_1_worker() -> Result<()> {
    budget_holds(1)
}

#[test]
fn root_netns_connect_test_keeps_its_budget_through_2_workers() -> Result<()> {
    budget_holds(2)
}

#[test]
fn root_netns_connect_test_keeps_its_budget_through_4_workers() -> Result<()> {
    budget_holds(4)
}

/// Every subscriber may have 8 ports, and makes 20 connections that rest after they end.
#[test]
fn root_netns_connect_test_exceeds_its_budget_where_ports_run_out() -> Result<()> {
    let lab = Lab::new(SUBSCRIBERS)?;
    let settings = Settings { limits: Some("{ ports: 8 }".to_owned()), ..settings(2) };
    let arguments = ["--connections", "4000", "--max-errors", "100", "--timeout", "2"];
    let options = [&arguments[..], &["--interval", "1"]].concat();
    let (tested, outcome) =
        with_appliance(&lab, &settings, |_| connect_test::run(&lab, &options, LIMIT))?;
    let Tested { client, code, summaries, .. } = tested;
    ensure!((code, client.good) == (Some(1), false), "{client:?}\n{}", outcome.printed);
    ensure!(client.errors > 100 && client.completed > 0, "{client:?}");
    ensure!(client.errors + client.completed == client.connections, "{client:?}");
    // Refused connections take two seconds until they time out.
    ensure!(summaries > 1, "no summary before the last one");
    Ok(())
}
