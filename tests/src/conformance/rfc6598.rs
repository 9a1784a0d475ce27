//! Shared address space (RFC 6598).

use std::net::Ipv4Addr;

use anyhow::Result;

use super::packet::{Body, Packet, RST, SYN, query, tcp, udp};
use super::settings::Settings;
use super::talk::{Side, Talk};
use super::{at, register, remote, subscriber};

register! {
    nothing_of_shared_space_leaves_6598_s4b: "6598-S4b" "6888-REQ-11a";
    shared_space_from_the_internet_is_filtered_6598_s4c: "6598-S4c";
    somebody_elses_space_for_subscribers_is_warned_of_6598_s3: "6598-S3";
}

/// Every frame to the Internet is judged for internal addresses anyway; here is everything that
/// cannot be translated, and nothing of it may come out.
fn nothing_of_shared_space_leaves_6598_s4b() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (host, peer) = (at(subscriber(1), 40_000), at(remote(1), 5000));
    // A miss that may not make a mapping.
    talk.dropped(Side::Internal, 0.0, &tcp(host, peer, RST), "tcp-not-syn")?;
    // From shared space that is no subscriber, and to it.
    let neighbour = at(Ipv4Addr::new(100, 127, 255, 254), 1);
    talk.refused(1.0, &udp(host, neighbour), "destination-inside", (3, 13))?;
    let narrow = Settings::default().subscribers(&["100.64.0.0/24"]);
    let mut other = Talk::new(narrow.clone());
    other.dropped(Side::Internal, 1.0, &udp(neighbour, peer), "source-not-subscriber")?;
    let first = at(Ipv4Addr::new(100, 64, 0, 1), 1);
    other.refused(2.0, &udp(first, neighbour), "destination-inside", (3, 13))?;
    // Protocols and messages that are not translated.
    let odd = |protocol| {
        Packet::new(*host.ip(), *peer.ip(), Body::Other { protocol, bytes: vec![0; 40] })
    };
    for protocol in [2, 4, 41, 89, 103, 255] {
        talk.dropped(Side::Internal, 3.0, &odd(protocol), "protocol-unsupported")?;
    }
    // Ports that ran out.
    let keys = "ports: 2048-2111\nallocation: { block-size: 64, max-blocks: 1 }";
    let tight = narrow.pool(&["203.0.113.9"]).pool_keys(keys);
    let mut full = Talk::new(tight);
    for port in 0..70 {
        full.inside(0.0, &udp(at(Ipv4Addr::new(100, 64, 0, 1), 10_000 + port), peer));
        full.inside(0.0, &tcp(at(Ipv4Addr::new(100, 64, 0, 1), 10_000 + port), peer, SYN));
        full.inside(0.0, &query(Ipv4Addr::new(100, 64, 0, 1), *peer.ip(), 8, 10_000 + port));
    }
    let seen = full.look()?;
    anyhow::ensure!(seen.outside.len() == 3 * 64, "{} packets left", seen.outside.len());
    anyhow::ensure!(seen.drops["subscriber-ports"] == 18, "drops {:?}", seen.drops);
    Ok(())
}

fn shared_space_from_the_internet_is_filtered_6598_s4c() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let out = talk.outbound(0.0, &udp(at(subscriber(1), 40_000), at(remote(1), 5000)))?;
    let shared = at(Ipv4Addr::new(100, 100, 1, 1), 5000);
    talk.dropped(Side::External, 1.0, &udp(shared, out.sender()), "source-spoofed")?;
    let inward = udp(at(remote(1), 5000), at(subscriber(1), 40_000));
    talk.dropped(Side::External, 2.0, &inward, "destination-unknown")
}

fn somebody_elses_space_for_subscribers_is_warned_of_6598_s3() -> Result<()> {
    let warned = |range: &str| -> Result<bool> {
        let said = Settings::default().subscribers(&[range]).accepted()?;
        Ok(said.contains("RFC 6598 section 3"))
    };
    for range in ["100.64.0.0/10", "10.7.0.0/16", "172.16.0.0/12", "192.168.1.0/24"] {
        anyhow::ensure!(!warned(range)?, "a warning about {range}");
    }
    for range in ["11.0.0.0/8", "100.63.0.0/16", "172.32.0.0/16"] {
        anyhow::ensure!(warned(range)?, "no warning about {range}");
    }
    Ok(())
}
