//! Updates to the NAT documents (RFC 7857).

use std::collections::BTreeSet;

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::connection::Connection;
use super::packet::{ACK, PSH, Packet, RST, SYN, error, query, tcp, udp};
use super::settings::Settings;
use super::talk::{Side, Talk};
use super::{at, register, remote, same, subscriber};

register! {
    a_reset_is_passed_on_7857_s2_2a: "7857-S2.2a";
    a_reset_session_ends_after_four_minutes_of_silence_7857_s2_2b: "7857-S2.2b" "7857-S2";
    ports_may_be_shared_towards_other_addresses_7857_s3: "7857-S3" "7857-S13";
    a_subscriber_whose_address_is_full_stays_there_7857_s4a: "7857-S4a" "7857-S4c";
    a_mapping_is_of_one_protocol_7857_s5a: "7857-S5a" "7857-S5b";
    filtering_is_of_one_protocol_7857_s6a: "7857-S6a" "7857-S6b";
    refused_inbound_packets_keep_nothing_7857_s7a: "7857-S7a";
    refused_inbound_syns_keep_nothing_7857_s7b: "7857-S7b";
    errors_and_resets_of_a_host_keep_nothing_7857_s7_1a: "7857-S7.1a";
    ping_to_an_address_mapped_one_to_one_arrives_7857_s12a: "7857-S12a" "5508-REQ-7";
    a_query_mapping_ends_and_its_identifier_rests_7857_s11: "7857-S11";
}

fn a_reset_is_passed_on_7857_s2_2a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    for (number, side) in [Side::Internal, Side::External].into_iter().enumerate() {
        let host = at(subscriber(1), 40_000 + number as u16);
        let time = number as f64;
        let mut open = Connection::open(&mut talk, time, host, at(remote(1), 80))?;
        open.pass(&mut talk, time + 0.5, side, RST | ACK)?;
    }
    Ok(())
}

fn a_reset_session_ends_after_four_minutes_of_silence_7857_s2_2b() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let peer = at(remote(1), 80);
    // Silence.
    let mut silent = Connection::open(&mut talk, 0.0, at(subscriber(1), 40_000), peer)?;
    silent.pass(&mut talk, 10.0, Side::External, RST | ACK)?;
    let late = silent.packet(Side::External, ACK, b"");
    talk.dropped(Side::External, 250.5, &late, "no-mapping")?;
    // Traffic brings it back.
    let mut alive = Connection::open(&mut talk, 300.0, at(subscriber(1), 40_001), peer)?;
    alive.pass(&mut talk, 310.0, Side::External, RST | ACK)?;
    alive.pass_data(&mut talk, 510.0, Side::Internal, PSH | ACK, b"still here")?;
    alive.pass(&mut talk, 7900.0, Side::External, ACK)
}

fn ports_may_be_shared_towards_other_addresses_7857_s3() -> Result<()> {
    let named = "nat44: { port-overloading: [tcp/443, udp/443] }";
    for (section, shares) in [(named, true), ("", false)] {
        for workers in [1, 2] {
            let system = format!("workers: {workers}");
            let mut talk = Talk::new(Settings::default().section(section).system(&system));
            let host = |n: u8| at(subscriber(1), 40_000 + u16::from(n));
            for n in 1..=20 {
                talk.inside(0.0, &udp(host(n), at(remote(n), 443)));
            }
            let shown = talk.look()?.outside;
            let mut ends: BTreeSet<_> = shown.iter().map(Packet::sender).collect();
            ensure!(shown.len() == 20, "{} packets", shown.len());
            ensure!(ends.len() == if shares { 1 } else { 20 }, "{shares}: {ends:?}");
            // No cross-talk: each answer reaches the endpoint that asked.
            for packet in &shown {
                talk.outside(1.0, &udp(packet.receiver(), packet.sender()));
            }
            let arrived = talk.look()?.inside;
            let pairs: BTreeSet<_> = arrived.iter().map(|p| (p.sender(), p.receiver())).collect();
            let asked: BTreeSet<_> = (1..=20).map(|n| (at(remote(n), 443), host(n))).collect();
            ensure!(pairs == asked, "{pairs:?}");
            if !shares {
                continue;
            }
            talk.dropped(
                Side::External,
                2.0,
                &udp(at(remote(3), 444), shown[0].sender()),
                "filtered",
            )?;
            // The same address: no port is shared.
            for n in 21..=30 {
                talk.inside(3.0, &udp(host(n), at(remote(7), 443)));
            }
            for packet in talk.look()?.outside {
                ensure!(ends.insert(packet.sender()), "{packet:?} shares a port");
            }
            // TCP by itself.
            for n in 1..=5 {
                talk.inside(4.0, &tcp(host(n), at(remote(n), 443), SYN));
            }
            let opened = talk.look()?.outside;
            let ends: BTreeSet<_> = opened.iter().map(Packet::sender).collect();
            ensure!((opened.len(), ends.len()) == (5, 1), "{opened:?}");
        }
    }
    Ok(())
}

fn a_subscriber_whose_address_is_full_stays_there_7857_s4a() -> Result<()> {
    // Four blocks at each of two addresses; a subscriber may have all four of its address.
    let keys = "ports: 2048-2303\nallocation: { block-size: 64, max-blocks: 8 }";
    let settings = Settings::default().pool(&["203.0.113.8/31"]).pool_keys(keys);
    let makes: [fn(u16) -> Packet; 2] = [
        |port| udp(at(subscriber(1), port), at(remote(1), 5000)),
        |port| tcp(at(subscriber(1), port), at(remote(1), 80), SYN),
    ];
    for make in makes {
        let mut talk = Talk::new(settings.clone());
        for port in 0..300 {
            talk.inside(f64::from(port) / 100.0, &make(10_000 + port));
        }
        let seen = talk.look()?;
        let used: BTreeSet<_> = seen.outside.iter().map(|packet| packet.source).collect();
        ensure!(used.len() == 1 && seen.outside.len() == 256, "{used:?} {}", seen.outside.len());
        ensure!(seen.drops["address-exhausted"] == 44, "drops {:?}", seen.drops);
        ensure!(seen.inside.iter().all(|told| told.icmp() == Some((3, 1))), "{:?}", seen.inside);
        ensure!(!seen.inside.is_empty(), "nobody was told");
        // The other address is free for others.
        talk.inside(10.0, &udp(at(subscriber(2), 10_000), at(remote(1), 5000)));
        let other = talk.look()?.one_outside()?;
        ensure!(!used.contains(&other.source), "{other:?}");
    }
    Ok(())
}

fn a_mapping_is_of_one_protocol_7857_s5a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let mut different = 0;
    for port in 0..8 {
        let host = at(subscriber(1), 40_000 + port);
        talk.inside(0.0, &tcp(host, at(remote(1), 80), SYN));
        talk.inside(0.0, &udp(host, at(remote(1), 80)));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 16, "{seen:#?}");
    for pair in seen.outside.chunks(2) {
        different += usize::from(pair[0].sender().port() != pair[1].sender().port());
    }
    // Chosen by themselves: that all eight agree by chance does not happen.
    ensure!(different > 0, "TCP and UDP have the same external ports");
    let mappings = seen.stats.active_mappings()?;
    ensure!(mappings == 16, "{mappings} mappings");
    Ok(())
}

fn filtering_is_of_one_protocol_7857_s6a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let only_tcp = talk.outbound(0.0, &tcp(host, at(remote(1), 80), SYN))?.sender();
    let stranger = at(remote(2), 4000);
    talk.dropped(Side::External, 1.0, &udp(stranger, only_tcp), "no-mapping")?;
    talk.inbound(2.0, &tcp(stranger, only_tcp, SYN))?;
    Ok(())
}

fn refused_inbound_packets_keep_nothing_7857_s7a() -> Result<()> {
    // Refused by the filter, although inbound packets are configured to keep mappings.
    let section = "nat44: { filtering: address-dependent, inbound-refresh: true }";
    let mut talk = Talk::new(Settings::default().section(section));
    let out = talk.outbound(0.0, &udp(at(subscriber(1), 40_000), at(remote(1), 5000)))?;
    for time in [60.0, 120.0, 180.0, 240.0, 299.0] {
        talk.outside(time, &udp(at(remote(2), 5000), out.sender()));
    }
    let seen = talk.look()?;
    ensure!(seen.inside.is_empty() && seen.drops["filtered"] == 5, "{seen:#?}");
    talk.dropped(Side::External, 300.5, &out.answer(0), "no-mapping")?;
    // Time to live runs out on the way in: refused, and no reason to keep the mapping.
    let mut talk = Talk::with_defaults();
    let out = talk.outbound(0.0, &udp(at(subscriber(1), 40_000), at(remote(1), 5000)))?;
    for time in [60.0, 120.0, 180.0, 240.0, 299.0] {
        talk.outside(time, &out.answer(0).ttl(1));
    }
    let seen = talk.look()?;
    ensure!(seen.inside.is_empty() && seen.drops["ttl-expired"] == 5, "{seen:#?}");
    talk.dropped(Side::External, 300.3, &out.answer(0), "no-mapping")
}

fn refused_inbound_syns_keep_nothing_7857_s7b() -> Result<()> {
    // Strangers take all sessions that they may have; what comes then is refused.
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let out = talk.outbound(0.0, &tcp(host, at(remote(1), 80), SYN))?;
    let stranger = |number: u16| {
        let [high, low] = number.to_be_bytes();
        tcp(at([198, 19, high, low].into(), 4000), out.sender(), SYN)
    };
    for number in 0..255 {
        talk.outside(1.0, &stranger(number));
    }
    ensure!(talk.look()?.inside.len() == 255, "255 strangers");
    for time in [60.0, 120.0, 180.0, 239.0] {
        talk.outside(time, &stranger(1000));
    }
    let seen = talk.look()?;
    let want = [("limit-mapping-inbound-sessions".to_owned(), 4)].into();
    ensure!(seen.inside.is_empty() && seen.drops == want, "{seen:#?}");
    talk.dropped(Side::External, 241.5, &stranger(2000), "no-mapping")
}

fn errors_and_resets_of_a_host_keep_nothing_7857_s7_1a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let out = talk.outbound(0.0, &udp(host, at(remote(1), 5000)))?;
    let stranger = udp(at(remote(66), 666), out.sender());
    let mut came = None;
    for time in [60.0, 120.0, 180.0, 240.0, 299.0] {
        let packet = match came.take() {
            Some(packet) => {
                talk.outside(time, &stranger);
                packet
            }
            None => talk.inbound(time, &stranger)?,
        };
        talk.inside(time, &error(*host.ip(), 3, 3, &packet, 8));
        came = Some(packet);
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 5, "{seen:#?}");
    talk.dropped(Side::External, 300.3, &stranger, "no-mapping")?;
    // TCP: a stranger's SYN, answered by RST, does not keep the subscriber's own session.
    let mut own = Connection::begin(&mut talk, 1000.0, host, at(remote(1), 80))?;
    let mut strange = Connection::to_be_opened(host, at(remote(66), 666), own.external);
    strange.pass(&mut talk, 1100.0, Side::External, SYN)?;
    strange.pass(&mut talk, 1100.1, Side::Internal, RST | ACK)?;
    let late = own.packet(Side::External, ACK, b"");
    // The stranger's own session ends four minutes after its SYN, and the mapping with it.
    talk.dropped(Side::External, 1340.5, &late, "no-mapping")
}

fn ping_to_an_address_mapped_one_to_one_arrives_7857_s12a() -> Result<()> {
    let external = Ipv4Addr::new(203, 0, 113, 5);
    let mapped = format!("static: [{{ internal: {}, external: {external} }}]", subscriber(9));
    let mut talk = Talk::new(Settings::default().section(&mapped));
    // Before the host has sent anything, and long after.
    for time in [0.0, 10_000.0] {
        let ping = query(remote(1), external, 8, 77);
        let got = talk.inbound(time, &ping)?;
        same(&got, &query(remote(1), subscriber(9), 8, 77).hop())?;
        same(&talk.outbound(time, &got.answer(0))?, &ping.answer(0).hop())?;
    }
    // From another subscriber, by its mapping (RFC 5508 REQ-7).
    talk.inside(10_001.0, &query(subscriber(1), external, 8, 7));
    let got = talk.look()?.one_inside()?;
    ensure!(Settings::default().is_pool(got.source), "{got:?}");
    same(&got, &query(got.source, subscriber(9), 8, got.sender().port()).hop())?;
    talk.inside(10_001.5, &got.answer(0));
    let back = talk.look()?.one_inside()?;
    same(&back, &query(external, subscriber(1), 0, 7).hop())
}

fn a_query_mapping_ends_and_its_identifier_rests_7857_s11() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let ping = super::packet::query(subscriber(1), remote(1), 8, 77);
    let out = talk.outbound(0.0, &ping)?;
    talk.dropped(Side::External, 61.0, &out.answer(0), "no-mapping")?;
    let census = talk.look()?.stats.port_census()?;
    ensure!(census.used == 0 && census.resting == 1, "{census:?}");
    Ok(())
}
