//! Deterministic ports (RFC 7422).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::packet::{SYN, query, tcp, udp};
use super::settings::Settings;
use super::talk::Talk;
use super::{at, register, remote};

register! {
    ranges_are_those_of_the_example_7422_s2_step2:
        "7422-S2-step2" "7422-S2a" "7422-S2c" "7422-S2-step1" "7422-S2e";
    the_own_range_is_used_up_first_7422_s2_step3a: "7422-S2-step3a" "7422-S2-step4b";
    ports_are_random_inside_the_range_7422_s2_step3b: "7422-S2-step3b";
    both_functions_can_be_tested_from_the_file_alone_7422_s2b: "7422-S2b" "7422-S2a";
    a_port_of_a_range_is_free_at_once_6888_req_8b: "6888-REQ-8b";
}

/// The example of section 2.3: fourteen hosts at one address, D = 2.
fn example() -> Settings {
    let hosts = ["100.64.9.1/32", "100.64.9.2/31", "100.64.9.4/30", "100.64.9.8/30"];
    let hosts = [&hosts[..], &["100.64.9.12/31", "100.64.9.14/32"]].concat();
    let keys = "allocation:\n  mode: deterministic\n  ports-per-subscriber: 4032\n  \
                overflow: { ports: 8064 }";
    Settings::default().pool(&["192.0.2.129"]).subscribers(&hosts).pool_keys(keys)
}

fn host(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 9, number)
}

fn ranges_are_those_of_the_example_7422_s2_step2() -> Result<()> {
    let mut talk = Talk::new(example());
    for number in 1..=14 {
        for port in 0..20 {
            talk.inside(0.0, &udp(at(host(number), 10_000 + port), at(remote(1), 53)));
        }
        talk.inside(0.0, &tcp(at(host(number), 10_000), at(remote(1), 80), SYN));
        talk.inside(0.0, &query(host(number), remote(1), 8, 77));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 14 * 22, "{} packets", seen.outside.len());
    for (index, packets) in (0..).zip(seen.outside.chunks(22)) {
        let first = 1024 + 4032 * index;
        for packet in packets {
            let end = packet.sender();
            let inside = (first..first + 4032).contains(&u32::from(end.port()));
            ensure!(inside && *end.ip() == Ipv4Addr::new(192, 0, 2, 129), "host {index}: {end}");
        }
    }
    Ok(())
}

/// Two hosts with 64 ports each and one overflow block of 64.
fn small() -> Settings {
    let keys = "ports: 2048-2239\nallocation:\n  mode: deterministic\n  \
                ports-per-subscriber: 64\n  \
                overflow: { ports: 64, block-size: 64, max-blocks: 1 }";
    Settings::default().pool(&["203.0.113.9"]).subscribers(&["100.64.9.2/31"]).pool_keys(keys)
}

fn the_own_range_is_used_up_first_7422_s2_step3a() -> Result<()> {
    let mut talk = Talk::new(small());
    for port in 0..140 {
        talk.inside(f64::from(port), &udp(at(host(2), 10_000 + port), at(remote(1), 5000)));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 128, "{} of 140 flows", seen.outside.len());
    let (own, overflow) = seen.outside.split_at(64);
    let within = |first: u16| {
        move |packet: &super::packet::Packet| (first..first + 64).contains(&packet.sender().port())
    };
    ensure!(own.iter().all(within(2048)), "not all of the first 64 are in the own range");
    ensure!(overflow.iter().all(within(2176)), "not all others are in the overflow block");
    // More there is not (M): refused, and told so. The other host is unharmed.
    ensure!(seen.drops["subscriber-ports"] == 12, "drops {:?}", seen.drops);
    ensure!(seen.inside.iter().all(|told| told.icmp() == Some((3, 1))), "{:?}", seen.inside);
    let other = talk.outbound(200.0, &udp(at(host(3), 10_000), at(remote(1), 5000)))?;
    ensure!(within(2112)(&other), "{other:?}");
    Ok(())
}

fn ports_are_random_inside_the_range_7422_s2_step3b() -> Result<()> {
    let mut talk = Talk::new(example());
    for port in 0..200 {
        talk.inside(0.0, &udp(at(host(7), 10_000 + port), at(remote(1), 53)));
    }
    let seen = talk.look()?;
    let ports: Vec<u16> = seen.outside.iter().map(|packet| packet.sender().port()).collect();
    let steps = ports.windows(2).filter(|pair| pair[1] == pair[0].wrapping_add(1)).count();
    let rising = ports.windows(2).filter(|pair| pair[1] > pair[0]).count();
    ensure!(steps < 5 && (65..135).contains(&rising), "{steps} steps of one, {rising} rising");
    let (lowest, highest) = (ports.iter().min(), ports.iter().max());
    let spread = highest.zip(lowest).map_or(0, |(highest, lowest)| highest - lowest);
    ensure!(ports.len() == 200 && spread > 3500, "{spread} of 4032 ports are used");
    Ok(())
}

fn both_functions_can_be_tested_from_the_file_alone_7422_s2b() -> Result<()> {
    let settings = example();
    let mut talk = Talk::new(settings.clone());
    let hosts = [1, 7, 14];
    for number in hosts {
        talk.inside(0.0, &udp(at(host(number), 10_000), at(remote(1), 53)));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == hosts.len(), "{} packets", seen.outside.len());
    for (number, packet) in hosts.into_iter().zip(&seen.outside) {
        let (internal, external) = (host(number), packet.sender());
        let whose = settings.looked_up("--external", &external.to_string())?;
        ensure!(whose.starts_with(&format!("{external} is {internal}: ")), "{whose}");
        let has = settings.looked_up("--internal", &internal.to_string())?;
        let first = 1024 + 4032 * u32::from(number - 1);
        let range = format!("{internal} has {} ports {first}-{}: ", external.ip(), first + 4031);
        ensure!(has.starts_with(&range), "{has}");
    }
    Ok(())
}

fn a_port_of_a_range_is_free_at_once_6888_req_8b() -> Result<()> {
    let mut talk = Talk::new(small());
    for round in 0..3u16 {
        // Every port of the range, each time; five minutes without packets end the mappings.
        for port in 0..64 {
            let from = at(host(2), 10_000 + 100 * round + port);
            talk.inside(f64::from(round) * 310.0, &udp(from, at(remote(1), 5000)));
        }
    }
    let seen = talk.look()?;
    ensure!(seen.drops.is_empty(), "drops {:?}", seen.drops);
    ensure!(seen.outside.len() == 192, "{} of 192 flows", seen.outside.len());
    for (round, packets) in seen.outside.chunks(64).enumerate() {
        let ports: BTreeSet<u16> = packets.iter().map(|packet| packet.sender().port()).collect();
        ensure!(ports == (2048..2112).collect(), "round {round}: {ports:?}");
    }
    Ok(())
}
