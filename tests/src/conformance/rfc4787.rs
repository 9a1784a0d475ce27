//! UDP and what holds for every protocol (RFC 4787).

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};

use super::packet::{Body, Packet, SYN, error, query, tcp, udp};
use super::read::Quote;
use super::settings::Settings;
use super::talk::{Side, Talk};
use super::{at, register, remote, same, subscriber};

register! {
    one_external_endpoint_whatever_the_destination_4787_req_1: "4787-REQ-1" "6888-REQ-1a";
    two_hundred_ports_use_one_address_of_sixty_four_4787_req_2: "4787-REQ-2" "6888-REQ-2";
    equal_ports_of_two_hosts_become_two_external_ports_4787_req_3: "4787-REQ-3";
    a_port_below_1024_leaves_from_above_4787_req_3a: "4787-REQ-3a" "5382-S7.1";
    a_pool_may_keep_the_range_4787_req_3a: "4787-REQ-3a";
    parity_is_not_kept_4787_req_4: "4787-REQ-4" "7857-S8a";
    an_unanswered_mapping_lives_for_two_minutes_at_the_least_4787_req_5:
        "4787-REQ-5" "4787-REQ-5c";
    a_timer_below_two_minutes_is_only_for_well_known_ports_4787_req_5a: "4787-REQ-5a";
    the_timer_is_configurable_4787_req_5b: "4787-REQ-5b";
    outbound_packets_keep_a_mapping_4787_req_6: "4787-REQ-6";
    inbound_packets_do_not_keep_a_mapping_4787_req_6a: "4787-REQ-6a";
    translation_goes_by_side_when_addresses_collide_4787_req_7: "4787-REQ-7";
    a_stranger_reaches_a_mapped_port_4787_req_8: "4787-REQ-8" "6888-REQ-7";
    filtering_is_configurable_4787_req_8a: "4787-REQ-8a" "4787-REQ-8" "5382-REQ-3a";
    subscribers_reach_each_other_by_external_endpoints_4787_req_9:
        "4787-REQ-9" "4787-REQ-9a";
    hairpinning_crosses_workers_and_external_addresses_4787_req_9: "4787-REQ-9" "4787-REQ-9a";
    no_alg_touches_a_payload_4787_req_10: "4787-REQ-10";
    behaviour_is_the_same_when_ports_run_out_4787_req_11: "4787-REQ-11" "6888-REQ-11d";
    no_icmp_message_ends_a_mapping_4787_req_12: "4787-REQ-12" "5382-REQ-10";
    errors_of_any_router_reach_the_host_4787_req_12a: "4787-REQ-12a" "5508-REQ-4c";
    every_code_of_unreachable_is_translated_both_ways_4787_req_12b:
        "4787-REQ-12b" "5508-REQ-10a1";
    an_error_is_translated_until_the_mapping_ends_4787_s9: "4787-S9";
    port_zero_is_dropped_4787_s4_2_1: "4787-S4.2.1";
}

fn one_external_endpoint_whatever_the_destination_4787_req_1() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let peers = [at(remote(1), 53), at(remote(1), 5000), at(remote(2), 53), at(remote(3), 9)];
    for peer in peers {
        talk.inside(0.0, &udp(host, peer));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 4 && seen.inside.is_empty(), "{seen:#?}");
    let external = seen.outside[0].sender();
    for (packet, peer) in seen.outside.iter().zip(peers) {
        same(packet, &udp(host, peer).hop().from(external))?;
    }
    // The answer of each finds its way back.
    for (packet, peer) in seen.outside.iter().zip(peers) {
        talk.outside(1.0, &packet.answer(0));
        let answer = talk.look()?.one_inside()?;
        same(&answer, &udp(peer, host).hop())?;
    }
    Ok(())
}

fn two_hundred_ports_use_one_address_of_sixty_four_4787_req_2() -> Result<()> {
    let settings = Settings::default().pool(&["203.0.113.0/26"]);
    let mut talk = Talk::new(settings);
    for port in 0..200 {
        talk.inside(f64::from(port), &udp(at(subscriber(1), 10_000 + port), at(remote(1), 53)));
    }
    // For all protocols together (RFC 6888 REQ-2).
    talk.inside(200.0, &tcp(at(subscriber(1), 4000), at(remote(2), 80), SYN));
    talk.inside(201.0, &query(subscriber(1), remote(2), 8, 77));
    // Another subscriber is not bound to that address, nor to one of ten others.
    for number in 2..22 {
        talk.inside(202.0, &udp(at(subscriber(number), 4000), at(remote(1), 53)));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 222, "{} packets", seen.outside.len());
    let addresses = |packets: &[Packet]| -> BTreeSet<Ipv4Addr> {
        packets.iter().map(|packet| packet.source).collect()
    };
    let paired = addresses(&seen.outside[..202]);
    ensure!(paired.len() == 1, "one subscriber leaves from {paired:?}");
    let others = addresses(&seen.outside[202..]);
    ensure!(others.len() > 5, "twenty subscribers leave from {others:?}");
    Ok(())
}

fn equal_ports_of_two_hosts_become_two_external_ports_4787_req_3() -> Result<()> {
    let mut talk = Talk::new(Settings::default().pool(&["203.0.113.9"]));
    let peer = at(remote(1), 53);
    let hosts = [at(subscriber(1), 5000), at(subscriber(2), 5000)];
    for host in hosts {
        talk.inside(0.0, &udp(host, peer));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 2, "{seen:#?}");
    let [first, second] = [seen.outside[0].sender(), seen.outside[1].sender()];
    ensure!(first.ip() == second.ip() && first.port() != second.port(), "{first} and {second}");
    for (packet, host) in seen.outside.iter().zip(hosts) {
        talk.outside(1.0, &packet.answer(0));
        same(&talk.look()?.one_inside()?, &udp(peer, host).hop())?;
    }
    Ok(())
}

fn a_port_below_1024_leaves_from_above_4787_req_3a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let peer = at(remote(1), 123);
    talk.inside(0.0, &udp(at(subscriber(1), 123), peer));
    talk.inside(0.0, &udp(at(subscriber(1), 40_000), peer));
    talk.inside(0.0, &tcp(at(subscriber(1), 1023), at(remote(1), 80), SYN));
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 3, "{seen:#?}");
    let ports = seen.outside.iter().map(|packet| packet.sender().port());
    // The deviation that docs/rfc-compliance.md states: the pool has no ports below 1024.
    ensure!(ports.clone().all(|port| port >= 1024), "{:?}", ports.collect::<Vec<_>>());
    Ok(())
}

fn a_pool_may_keep_the_range_4787_req_3a() -> Result<()> {
    let keys = "ports: 512-65535\nallocation: { keep-range: true }";
    let mut talk = Talk::new(Settings::default().pool_keys(keys));
    let ports = [1, 123, 1023, 1024, 40_000, 65_535];
    for port in ports {
        talk.inside(0.0, &udp(at(subscriber(1), port), at(remote(1), 5000)));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == ports.len(), "{seen:#?}");
    for (port, packet) in ports.into_iter().zip(&seen.outside) {
        let external = packet.sender().port();
        ensure!((port < 1024) == (external < 1024), "{port} left as {external}");
    }
    Ok(())
}

fn parity_is_not_kept_4787_req_4() -> Result<()> {
    let mut talk = Talk::with_defaults();
    for port in 0..100 {
        talk.inside(0.0, &udp(at(subscriber(1), 10_000 + 2 * port), at(remote(1), 53)));
    }
    let seen = talk.look()?;
    let odd = seen.outside.iter().filter(|packet| packet.sender().port() % 2 == 1).count();
    // By chance alone: fewer than 25 or more than 75 of 100 come once in millions of seeds.
    ensure!(seen.outside.len() == 100 && (25..=75).contains(&odd), "{odd} odd of 100 even ports");
    Ok(())
}

/// A mapping made by one unanswered packet is alive at `alive` and gone at `gone` seconds.
fn lives(settings: Settings, port: u16, alive: f64, gone: f64) -> Result<()> {
    let host = at(subscriber(1), 40_000);
    let mut talk = Talk::new(settings);
    let out = talk.outbound(0.0, &udp(host, at(remote(1), port)))?;
    let back = talk.inbound(alive, &out.answer(0))?;
    same(&back, &out.answer(0).hop().to(host))?;
    talk.dropped(Side::External, gone, &out.answer(0), "no-mapping")
}

fn an_unanswered_mapping_lives_for_two_minutes_at_the_least_4787_req_5() -> Result<()> {
    lives(Settings::default(), 5000, 119.9, 301.0)?;
    lives(Settings::default(), 5000, 299.9, 300.3)?;
    // An ordinary file cannot go lower, whatever the port.
    Settings::default().section("timeouts: { udp: { default: 119s } }").refused(&["udp"])
}

fn a_timer_below_two_minutes_is_only_for_well_known_ports_4787_req_5a() -> Result<()> {
    let with = |keys: &str| Settings::default().section(&format!("timeouts:\n  udp: {{ {keys} }}"));
    with("53: 10s").accepted()?;
    with("3478: 10s").refused(&["3478", "2m"])?;
    lives(with("53: 10s"), 53, 9.9, 10.3)?;
    // Another destination of the same mapping keeps what it was promised.
    let host = at(subscriber(1), 40_000);
    let mut talk = Talk::new(with("53: 10s"));
    let out = talk.outbound(0.0, &udp(host, at(remote(1), 5000)))?;
    let dns = talk.outbound(1.0, &udp(host, at(remote(2), 53)))?;
    ensure!(dns.sender() == out.sender(), "{} and {}", dns.sender(), out.sender());
    talk.inbound(299.0, &out.answer(0))?;
    Ok(())
}

fn the_timer_is_configurable_4787_req_5b() -> Result<()> {
    lives(Settings::default().section("timeouts: { udp: { default: 180s } }"), 5000, 179.9, 180.3)
}

fn outbound_packets_keep_a_mapping_4787_req_6() -> Result<()> {
    let settings = Settings::default().section("timeouts: { udp: { default: 2m } }");
    let mut talk = Talk::new(settings);
    let packet = udp(at(subscriber(1), 40_000), at(remote(1), 5000));
    for number in 0..13 {
        talk.inside(f64::from(number) * 100.0, &packet);
    }
    let seen = talk.look()?;
    let ends: BTreeSet<_> = seen.outside.iter().map(Packet::sender).collect();
    ensure!(seen.outside.len() == 13 && ends.len() == 1, "left from {ends:?}");
    talk.inbound(1319.0, &seen.outside[0].answer(0))?;
    Ok(())
}

fn inbound_packets_do_not_keep_a_mapping_4787_req_6a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let out = talk.outbound(0.0, &udp(at(subscriber(1), 40_000), at(remote(1), 5000)))?;
    for time in [100.0, 200.0, 299.0] {
        talk.outside(time, &out.answer(0));
    }
    let seen = talk.look()?;
    ensure!(seen.inside.len() == 3, "{seen:#?}");
    talk.dropped(Side::External, 300.3, &out.answer(0), "no-mapping")?;
    // Unless the configuration says so.
    let mut talk = Talk::new(Settings::default().section("nat44: { inbound-refresh: true }"));
    let out = talk.outbound(0.0, &udp(at(subscriber(1), 40_000), at(remote(1), 5000)))?;
    for time in [299.0, 598.0, 897.0] {
        talk.inbound(time, &out.answer(0))?;
    }
    Ok(())
}

fn translation_goes_by_side_when_addresses_collide_4787_req_7() -> Result<()> {
    // A subscriber range that the Internet has too: a router out there has its addresses.
    let settings = Settings::default().subscribers(&["198.18.0.0/15"]);
    let mut talk = Talk::new(settings);
    let host = at("198.18.0.5".parse()?, 4000);
    let out = talk.outbound(0.0, &udp(host, at(remote(1), 53)))?;
    same(&talk.inbound(0.1, &out.answer(0))?, &out.answer(0).hop().to(host))?;
    // That router's packets are never taken for the subscriber's.
    let stranger = udp(at("198.18.0.5".parse()?, 4000), out.sender());
    talk.dropped(Side::External, 0.2, &stranger, "source-spoofed")?;
    let other = udp(host, at("198.18.9.9".parse()?, 53));
    talk.refused(0.3, &other, "destination-inside", (3, 13))
}

fn a_stranger_reaches_a_mapped_port_4787_req_8() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let out = talk.outbound(0.0, &udp(host, at(remote(1), 5000)))?;
    for (time, peer) in [(1.0, at(remote(1), 6000)), (2.0, at(remote(77), 1234))] {
        let stranger = udp(peer, out.sender());
        same(&talk.inbound(time, &stranger)?, &stranger.clone().hop().to(host))?;
    }
    Ok(())
}

/// X1 talks to X2's external endpoint and gets an answer.
fn hairpinned(settings: Settings, x1: Ipv4Addr, x2: Ipv4Addr) -> Result<[Ipv4Addr; 2]> {
    let mut talk = Talk::new(settings);
    let (x1, x2) = (at(x1, 5001), at(x2, 5002));
    let server = at(remote(1), 3478);
    let first = talk.outbound(0.0, &udp(x1, server))?.sender();
    let second = talk.outbound(1.0, &udp(x2, server))?.sender();
    talk.inside(2.0, &udp(x1, second));
    let got = talk.look()?.one_inside()?;
    // The external endpoint as its source, never the internal one (REQ-9a).
    same(&got, &udp(first, x2).hop())?;
    talk.inside(3.0, &got.answer(0));
    same(&talk.look()?.one_inside()?, &udp(second, x1).hop())?;
    Ok([*first.ip(), *second.ip()])
}

fn subscribers_reach_each_other_by_external_endpoints_4787_req_9() -> Result<()> {
    let one = Settings::default().pool(&["203.0.113.9"]);
    hairpinned(one, subscriber(1), subscriber(2))?;
    // A host reaches itself by its external endpoint too.
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 5001);
    let own = talk.outbound(0.0, &udp(host, at(remote(1), 3478)))?.sender();
    talk.inside(1.0, &udp(host, own));
    same(&talk.look()?.one_inside()?, &udp(own, host).hop())
}

fn hairpinning_crosses_workers_and_external_addresses_4787_req_9() -> Result<()> {
    let mut addresses = 0;
    for number in 1..6 {
        let settings = Settings::default().system("workers: 2").seed(u64::from(number));
        let pair = hairpinned(settings, subscriber(number), subscriber(number + 100))?;
        addresses += usize::from(pair[0] != pair[1]);
    }
    ensure!(addresses > 0, "no two of ten subscribers have different external addresses");
    Ok(())
}

fn no_alg_touches_a_payload_4787_req_10() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 5060);
    let text = format!("INVITE sip:a@{} SIP/2.0\r\nContact: <sip:b@{host}>\r\n\r\n", host.ip());
    let sip = udp(host, at(remote(1), 5060)).carrying(text.as_bytes());
    let out = talk.outbound(0.0, &sip)?;
    same(&out, &sip.clone().hop().from(out.sender()))?;
    let ftp = tcp(at(subscriber(1), 4021), at(remote(1), 21), SYN);
    let out = talk.outbound(1.0, &ftp)?;
    let command = ftp.carrying(b"PORT 100,64,7,1,20,0\r\n");
    let got = talk.outbound(2.0, &command)?;
    same(&got, &command.clone().hop().from(out.sender()))
}

fn behaviour_is_the_same_when_ports_run_out_4787_req_11() -> Result<()> {
    // A subscriber with one block of 64 ports, and another one with an equal share.
    let keys = "ports: 2048-2175\nallocation: { block-size: 64, max-blocks: 1 }";
    let settings = Settings::default().pool(&["203.0.113.9"]).pool_keys(keys);
    let mut talk = Talk::new(settings);
    let peers = [at(remote(1), 53), at(remote(2), 5000)];
    let probe = |talk: &mut Talk, time: f64, port: u16| -> Result<()> {
        let host = at(subscriber(1), port);
        for peer in peers {
            talk.inside(time, &udp(host, peer));
        }
        let seen = talk.look()?;
        let ends: BTreeSet<_> = seen.outside.iter().map(Packet::sender).collect();
        ensure!(seen.outside.len() == 2 && ends.len() == 1, "at {time} s: {seen:#?}");
        let stranger = udp(at(remote(200), 9), seen.outside[0].sender());
        same(&talk.inbound(time, &stranger)?, &stranger.clone().hop().to(host))
    };
    probe(&mut talk, 0.0, 10_000)?;
    for port in 1..61 {
        talk.inside(1.0, &udp(at(subscriber(1), 10_000 + port), peers[0]));
    }
    ensure!(talk.look()?.outside.len() == 60, "60 more ports of 64");
    probe(&mut talk, 2.0, 10_000)?;
    for port in 61..64 {
        talk.inside(3.0, &udp(at(subscriber(1), 10_000 + port), peers[0]));
    }
    ensure!(talk.look()?.outside.len() == 3, "the last 3 ports of 64");
    talk.inside(4.0, &udp(at(subscriber(1), 20_000), peers[0]));
    let refused = talk.look()?;
    ensure!(refused.outside.is_empty() && refused.drops["subscriber-ports"] == 1, "{refused:#?}");
    // The first and the last mapping behave as before.
    probe(&mut talk, 5.0, 10_000)?;
    probe(&mut talk, 6.0, 10_063)
}

fn no_icmp_message_ends_a_mapping_4787_req_12() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (host, peer) = (at(subscriber(1), 40_000), at(remote(1), 5000));
    let connection = at(subscriber(1), 41_000);
    let out = talk.outbound(0.0, &udp(host, peer))?;
    let syn = talk.outbound(0.1, &tcp(connection, at(remote(1), 80), SYN))?;
    talk.inbound(0.2, &syn.answer(super::packet::SYN | super::packet::ACK))?;
    for about in [&out, &syn] {
        for kind in [3, 4, 5, 9, 10, 11, 12, 13, 15, 17, 40] {
            for code in 0..16 {
                talk.outside(1.0, &error(remote(9), kind, code, about, 8));
            }
        }
    }
    let before = talk.look()?;
    ensure!(before.inside.len() >= 2 * 2 * 16, "only {} errors came in", before.inside.len());
    let (mappings, sessions) =
        (before.stats.active_mappings()?, &before.stats.document()["sessions"]["active"]);
    ensure!(mappings == 2 && sessions == 1, "{mappings} mappings, {sessions} sessions");
    let back = talk.inbound(2.0, &out.answer(0))?;
    same(&back, &out.answer(0).hop().to(host))?;
    let again = talk.outbound(3.0, &tcp(connection, at(remote(1), 80), super::packet::ACK))?;
    ensure!(again.sender() == syn.sender(), "{} and {}", again.sender(), syn.sender());
    Ok(())
}

fn errors_of_any_router_reach_the_host_4787_req_12a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let sent = udp(host, at(remote(1), 5000));
    let out = talk.outbound(0.0, &sent)?;
    let routers = [Ipv4Addr::new(8, 8, 4, 4), Ipv4Addr::new(10, 77, 1, 1), remote(200)];
    for (router, (kind, code)) in routers.into_iter().zip([(3, 4), (11, 0), (3, 1)]) {
        let got = talk.inbound(1.0, &error(router, kind, code, &out, 8))?;
        ensure!(got.source == router && got.destination == *host.ip(), "{got:?}");
        ensure!(got.icmp() == Some((kind, code)), "{got:?}");
        ensure!(Quote::of(&got)?.sender == host, "{got:?}");
    }
    Ok(())
}

fn every_code_of_unreachable_is_translated_both_ways_4787_req_12b() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (host, peer) = (at(subscriber(1), 40_000), at(remote(1), 5000));
    let out = talk.outbound(0.0, &udp(host, peer))?;
    let came = talk.inbound(0.1, &out.answer(0))?;
    for code in 0..16 {
        talk.outside(1.0, &error(remote(9), 3, code, &out, 8));
        talk.inside(1.0, &error(*host.ip(), 3, code, &came, 8));
    }
    let seen = talk.look()?;
    ensure!(seen.inside.len() == 16 && seen.outside.len() == 16, "{seen:#?}");
    for (code, (inward, outward)) in seen.inside.iter().zip(&seen.outside).enumerate() {
        let code = Some((3, code as u8));
        let (quote, back) = (Quote::of(inward)?, Quote::of(outward)?);
        ensure!(
            inward.icmp() == code && quote.sender == host && quote.receiver == peer,
            "{seen:?}"
        );
        let external = out.sender();
        ensure!(outward.icmp() == code && back.receiver == external, "{seen:?}");
        ensure!(back.sender == peer && outward.source == *external.ip(), "{seen:?}");
    }
    Ok(())
}

fn an_error_is_translated_until_the_mapping_ends_4787_s9() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let out = talk.outbound(0.0, &udp(host, at(remote(1), 5000)))?;
    let late = error(remote(9), 3, 3, &out, 8);
    let got = talk.inbound(299.0, &late)?;
    ensure!(got.destination == *host.ip() && Quote::of(&got)?.sender == host, "{got:?}");
    talk.dropped(Side::External, 300.3, &late, "icmp-no-mapping")
}

fn port_zero_is_dropped_4787_s4_2_1() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let bare = |source, destination| {
        let body = Body::Udp { source, destination, bare: false, payload: vec![1] };
        Packet::new(subscriber(1), remote(1), body)
    };
    talk.dropped(Side::Internal, 0.0, &bare(0, 53), "port-zero")?;
    talk.dropped(Side::Internal, 1.0, &bare(4000, 0), "port-zero")?;
    talk.dropped(
        Side::Internal,
        2.0,
        &tcp(at(subscriber(1), 0), at(remote(1), 80), SYN),
        "port-zero",
    )
}

/// Which of three strangers get through: the peer, its address with another port, another address.
fn let_in(filtering: &str, make: fn(SocketAddrV4, SocketAddrV4) -> Packet) -> Result<[bool; 3]> {
    let section = format!("nat44: {{ filtering: {filtering} }}");
    let mut talk = Talk::new(Settings::default().section(&section));
    let peer = at(remote(1), 5000);
    let external = talk.outbound(0.0, &make(at(subscriber(1), 40_000), peer))?.sender();
    let mut passed = [false; 3];
    let strangers = [peer, at(remote(1), 5001), at(remote(2), 5000)];
    for (passed, stranger) in passed.iter_mut().zip(strangers) {
        talk.outside(1.0, &make(stranger, external));
        let seen = talk.look()?;
        *passed = seen.inside.len() == 1;
        let filtered = seen.drops.get("filtered").copied().unwrap_or_default();
        ensure!(filtered == u64::from(!*passed), "from {stranger}: {seen:#?}");
        // Silently: nobody outside is told.
        ensure!(seen.outside.is_empty(), "from {stranger}: {seen:#?}");
    }
    Ok(passed)
}

fn filtering_is_configurable_4787_req_8a() -> Result<()> {
    let makes: [fn(SocketAddrV4, SocketAddrV4) -> Packet; 2] = [udp, |from, to| tcp(from, to, SYN)];
    for make in makes {
        for (filtering, want) in [
            ("endpoint-independent", [true, true, true]),
            ("address-dependent", [true, true, false]),
            ("address-and-port-dependent", [true, false, false]),
        ] {
            let got = let_in(filtering, make)?;
            ensure!(got == want, "{filtering}: let in {got:?}");
        }
    }
    Ok(())
}
