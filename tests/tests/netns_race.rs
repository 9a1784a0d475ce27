//! The netfilter race: very many connections to one server endpoint, from sources of all workers.
//!
//! In Linux two CPUs can pick one external port for two connections; the second insert fails and
//! the SYN is lost. Here it must not happen: 0 failed, 0 duplicates. Needs root.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Result, ensure};
use cgnat_tests::appliance::{Settings, with_appliance};
use cgnat_tests::connect_storm::{ClientReport, ServerReport};
use cgnat_tests::lab::{Lab, SERVERS};
use cgnat_tests::reports::{self, Serving};

const SUBSCRIBERS: u32 = 2_000;
const CONNECTIONS: u64 = 100_000;
/// Four addresses: 258,048 ports of each protocol for appliance and kernel alike.
const POOL: &str = "203.0.113.0/30";
const POOL_RANGE: &str = "203.0.113.0-203.0.113.3";
const PORTS: &str = "1024-65535";
const LIMIT_S: u64 = 300;

/// Makes the connections through whatever is in the middle of `lab`.
fn storm(lab: &Lab, connections: u64) -> Result<(ClientReport, ServerReport)> {
    const PROGRAM: &str = env!("CARGO_BIN_EXE_connect-storm");
    // All subscribers use the same few source ports, so that a NAT which likes to keep the port
    // has to look for another one nearly every time: this is when two CPUs meet.
    lab.subscribers.run("sysctl", &["-q", "-w", "net.ipv4.ip_local_port_range=40000 40127"])?;
    let server = SocketAddrV4::new(SERVERS[0], 8080);
    let serving = Serving::start(&lab.server, PROGRAM, &["server", &server.to_string()])?;
    let sources = reports::file_of(lab.addresses().iter().copied())?;
    let sources = sources.path().to_string_lossy();
    let (to, count, limit) = (server.to_string(), connections.to_string(), LIMIT_S.to_string());
    let arguments = ["client", &to, "--sources-file", &sources, "--connections", &count];
    let arguments = [&arguments[..], &["--limit", &limit]].concat();
    let limit = Duration::from_secs(LIMIT_S + 60);
    let client = reports::report_of(&lab.subscribers, PROGRAM, &arguments, limit)?;

    // The last FIN may still be on its way.
    std::thread::sleep(Duration::from_secs(1));
    Ok((client, serving.report()?))
}

fn through_the_kernel() -> Result<(ClientReport, ServerReport)> {
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
    let ((client, server), outcome) =
        with_appliance(&lab, &settings, |_| storm(&lab, CONNECTIONS))?;
    drop(lab);
    println!("appliance: {}\n           {server:?}", client.summary());

    let (kernel, kernel_server) = through_the_kernel()?;
    println!("kernel:    {}\n           {kernel_server:?}", kernel.summary());

    ensure!(client.failed == 0, "{}\n{}", client.summary(), outcome.printed);
    ensure!(client.duplicates + server.duplicates + server.mixed == 0, "{client:?} {server:?}");
    ensure!(client.reused == 0, "{} endpoints used again within hold-down", client.reused);
    ensure!(client.completed == CONNECTIONS, "{} completed", client.completed);
    ensure!(server.completed == CONNECTIONS, "the server completed {}", server.completed);
    Ok(())
}

/// The storm itself: without a NAT that can be blamed, everything must complete.
#[test]
fn root_netns_the_storm_completes_through_the_kernels_nat() -> Result<()> {
    let (kernel, server) = through_the_kernel()?;
    println!("kernel: {}\n        {server:?}", kernel.summary());
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
    let (client, _) = storm(&lab, 2_000)?;
    println!("{}", client.summary());
    ensure!(client.failed == 0, "{}", client.summary());
    ensure!(client.slow > 20 && client.syn_sent_again > 20, "{}", client.summary());
    Ok(())
}
