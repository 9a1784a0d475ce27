//! The netfilter race: very many connections to one server endpoint, from sources of all workers.
//!
//! In Linux two CPUs can pick one external port for two connections; the second insert fails and
//! the SYN is lost. Here it must not happen: 0 failed, 0 duplicates. Needs root.

use std::time::Duration;

use anyhow::{Result, ensure};
use cgnat_tests::appliance::{Settings, with_appliance};
use cgnat_tests::connect_test::{self, Tested};
use cgnat_tests::lab::Lab;

const SUBSCRIBERS: u32 = 2_000;
const CONNECTIONS: u64 = 100_000;
/// Four addresses: 258,048 ports of each protocol for appliance and kernel alike.
const POOL: &str = "203.0.113.0/30";
const POOL_RANGE: &str = "203.0.113.0-203.0.113.3";
const PORTS: &str = "1024-65535";
const LIMIT_S: u64 = 300;

/// Makes the connections through whatever is in the middle of `lab`.
fn storm(lab: &Lab, connections: u64) -> Result<Tested> {
    // All subscribers use the same few source ports, so that a NAT which likes to keep the port
    // has to look for another one nearly every time: this is when two CPUs meet.
    lab.subscribers.run("sysctl", &["-q", "-w", "net.ipv4.ip_local_port_range=40000 40127"])?;
    let (count, limit) = (connections.to_string(), LIMIT_S.to_string());
    let options = ["--connections", &count, "--seconds", &limit];
    connect_test::run(lab, &options, Duration::from_secs(LIMIT_S + 60))
}

fn through_the_kernel() -> Result<Tested> {
    let lab = Lab::new(SUBSCRIBERS)?;
    lab.use_kernel_nat(POOL_RANGE, PORTS)?;
    storm(&lab, CONNECTIONS)
}

#[test]
fn root_netns_100000_connections_to_one_endpoint_without_failure_or_duplicate() -> Result<()> {
    let lab = Lab::new(SUBSCRIBERS)?;
    // One block of 64 holds the 50 connections of a subscriber; 4,032 blocks for 2,000.
    let settings =
        Settings { workers: 4, pool: vec![POOL.to_owned()], block_size: 64, ..Settings::default() };
    let (tested, outcome) = with_appliance(&lab, &settings, |_| storm(&lab, CONNECTIONS))?;
    drop(lab);
    println!("appliance: {tested:?}");
    println!("kernel:    {:?}", through_the_kernel()?);

    let Tested { client, server, code, .. } = tested;
    ensure!(client.failed == 0 && code == Some(0), "{client:?}\n{}", outcome.printed);
    ensure!(client.duplicates + server.duplicates + server.mixed == 0, "{client:?} {server:?}");
    ensure!(client.reused == 0, "{} endpoints used again within hold-down", client.reused);
    ensure!(client.completed == CONNECTIONS, "{} completed", client.completed);
    ensure!(server.completed == CONNECTIONS, "the server completed {}", server.completed);
    Ok(())
}

/// The storm itself: without a NAT that can be blamed, everything must complete.
#[test]
fn root_netns_the_storm_completes_through_the_kernels_nat() -> Result<()> {
    let tested = through_the_kernel()?;
    println!("kernel: {tested:?}");
    let kernel = tested.client;
    ensure!(kernel.completed + kernel.failed == CONNECTIONS, "{kernel:?}");
    ensure!(kernel.endpoints > CONNECTIONS / 2, "{kernel:?}");
    Ok(())
}

/// A lost SYN is repeated by the kernel and the connection completes late: it must be seen.
#[test]
fn root_netns_lost_syn_segments_are_counted() -> Result<()> {
    let lab = Lab::new(100)?;
    lab.use_kernel_nat(POOL_RANGE, PORTS)?;
    let rule = "add chain ip laboratory lossy { type filter hook forward priority 0; }; \
                add rule ip laboratory lossy tcp flags & (syn | ack) == syn \
                numgen random mod 20 == 0 drop";
    lab.middle.run("nft", &[rule])?;
    let client = storm(&lab, 2_000)?.client;
    ensure!(client.failed == 0, "{client:?}");
    ensure!(client.slow > 20 && client.syn_sent_again > 20, "{client:?}");
    ensure!(client.latency_us.max >= 900_000, "{client:?}");
    ensure!(client.latency_us.median < client.latency_us.p99, "{client:?}");
    Ok(())
}
