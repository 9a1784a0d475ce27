//! What must go through any appliance, with real programs on both sides of the laboratory.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::judges;
use crate::lab::{BOX_INTERNAL, Lab, SERVERS};
use crate::traffic::{self, NAME_ADDRESS, Server, Stream};

/// Bytes of IPv4 and ICMP header.
const PING_HEADERS: u16 = 28;

/// Pings a server with packets of `total` bytes each, not to be fragmented, one of each size; all
/// must be answered. What comes back is checked by ping, byte by byte.
///
/// # Errors
/// One was not, or came back changed.
pub fn packets_of_sizes_come_back(lab: &Lab, totals: impl Iterator<Item = u16>) -> Result<()> {
    let client = lab.addresses()[0];
    let (begun, mut count) = (Instant::now(), 0);
    for total in totals {
        let size = (total - PING_HEADERS).to_string();
        // Another pattern for each: what an earlier one left in a buffer shows.
        let pattern = format!("{:02x}", total % 251);
        let options = ["-M", "do", "-s", &size, "-p", &pattern, "-c", "1"];
        let said = judges::ping(&lab.subscribers, client, SERVERS[0], &options)?;
        let is_whole = said.contains("1 received") && !said.contains("wrong data byte");
        ensure!(is_whole, "{total} bytes:\n{said}");
        count += 1;
    }
    println!("packets of {count} sizes came back within {:.1?}", begun.elapsed());
    Ok(())
}

/// curl with a file of `download` bytes, dig, ping and iperf3 in both directions; each must get
/// what it asked for.
///
/// # Errors
/// One did not, or the servers have seen an address of the inside.
pub fn everything_goes_through(lab: &Lab, download: u64) -> Result<()> {
    let [web, name_server, streams] = SERVERS;
    let directory = tempfile::tempdir()?;
    let namespace = &lab.subscribers;
    let clients = lab.addresses();

    let http = Server::http(&lab.server, web)?;
    let (original, copy) = (http.root().join("file"), directory.path().join("copy"));
    traffic::random_file(&original, download)?;
    let limit = Duration::from_secs(300);
    traffic::download(namespace, clients[0], web, "file", &copy, limit)?;
    ensure!(
        traffic::sha256(&original)? == traffic::sha256(&copy)?,
        "SHA-256 of {download} bytes differs"
    );

    let _dns = Server::dns(&lab.server, name_server, 53)?;
    for (index, client) in clients.iter().enumerate() {
        for options in [&[][..], &["+tcp"]] {
            let answer = traffic::dig(namespace, (*client, 0), (name_server, 53), options)?;
            ensure!(answer == NAME_ADDRESS, "dig got {answer}");
        }
        let bytes = if index % 2 == 0 { 56 } else { 1472 };
        let received = traffic::ping(namespace, *client, web, 3, bytes)?;
        ensure!(received == 3, "{received} of 3 replies of {bytes} bytes to {client}");
    }

    // Its first answer is the box's own ICMP error (RFC 5508 section 7.2), its last one the
    // server's about a UDP packet (REQ-4).
    let route = traffic::traceroute(namespace, clients[0], web, 3)?;
    for hop in [format!("1  {BOX_INTERNAL}"), format!("2  {web}")] {
        ensure!(route.lines().any(|line| line.trim().starts_with(&hop)), "no {hop} in {route}");
    }

    let _iperf = Server::iperf3(&lab.server, streams)?;
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    for (client, (udp, reverse)) in clients.iter().zip(kinds) {
        let bits_per_second = udp.then_some(5_000_000);
        let stream = Stream { udp, bits_per_second, reverse, seconds: 3, parallel: 1 };
        let measured = traffic::iperf3(namespace, *client, streams, stream)?;
        println!("{stream:?}: {measured:?}");
        ensure!(measured.bytes > 100_000, "iperf3 moved {} bytes: {stream:?}", measured.bytes);
        let lost = measured.lost_percent.unwrap_or(0.0);
        ensure!(lost < 20.0, "iperf3 lost {lost} %: {stream:?}");
    }

    let leaked = lab.leaks()?;
    ensure!(leaked == 0, "{leaked} packets with a subscriber's address reached the servers");
    Ok(())
}
