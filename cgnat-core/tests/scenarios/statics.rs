//! Static mappings: one to one and port by port, beside dynamic use and without any state.

use cgnat_core::packet::arp::{Arp, Operation};
use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Body, Link, Packet, ip};

/// Mapped one to one to [`ALONE`], which is in no pool.
const WHOLE: &str = "100.64.9.9";
const ALONE: &str = "203.0.113.100";
/// Mapped one to one to [`TAKEN`], which the pool would have.
const SECOND: &str = "100.64.9.17";
const TAKEN: &str = "203.0.113.5";
/// Has forwards.
const FARM: &str = "100.64.9.10";
/// The address that its forwards are of.
const SHOWN: &str = "203.0.113.0";
const STRANGER: &str = "198.51.100.99";
const HOST: &str = "100.64.3.9";

const STATICS: &str = "static:
  - { internal: 100.64.9.9, external: 203.0.113.100 }
  - { internal: 100.64.9.16/30, external: 203.0.113.4/30 }
  - { internal: \"100.64.9.10:8443\", external: \"203.0.113.0:443\", protocol: tcp }
  - { internal: \"100.64.9.10:67\", external: \"203.0.113.0:67\", protocol: udp }
  - { internal: \"100.64.9.10:8000-8010\", external: \"203.0.113.0:9000-9010\", protocol: both }
";

fn with_statics() -> String {
    config("{ addresses: [203.0.113.0/29] }", STATICS)
}

/// Without a static host there is no dynamic state in these tests.
fn is_stateless(desk: &Desk) {
    assert_eq!(desk.mappings(), 0);
    assert_eq!(desk.lab.sum(|c| c.blocks_allocated.value() + c.handed_off.value()), 0);
}

fn statics(desk: &Desk) -> (u64, u64) {
    (desk.lab.sum(|c| c.static_outbound.value()), desk.lab.sum(|c| c.static_inbound.value()))
}

/// What comes out of a packet from inside to an external endpoint of ours.
fn turned(desk: &Desk, packet: &Packet, from: (&str, u16), to: (&str, u16)) -> Frames {
    let mut expected = packet.clone();
    expected.set_source((ip(from.0), from.1));
    expected.set_destination((ip(to.0), to.1));
    expected.ttl -= 1;
    vec![desk.leaving(INTERNAL, &expected)]
}

/// An error from `from` about a packet.
fn error(from: &str, about: &Packet) -> Packet {
    let body = Body::Error { kind: 3, code: 3, rest: 0, about: Box::new(about.clone()), kept: 8 };
    let mut error = udp((from, 1), (about.source, 1));
    error.body = body;
    error.payload = Vec::new();
    error
}

#[test]
fn an_address_mapped_one_to_one_keeps_every_port_and_identifier_whoever_gets_the_packet() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&with_statics(), workers, 1);
        let mut count = 0;
        for at in 0..usize::from(workers) {
            desk.at = at;
            for (host, shown) in [(WHOLE, ALONE), (SECOND, TAKEN)] {
                for port in [1, 67, 443, 1023, 1024, 40_000, 65_535] {
                    assert_eq!(desk.goes_out(&udp((host, port), server(53))), (ip(shown), port));
                    // No SYN is needed: there is no session to open.
                    assert_eq!(
                        desk.goes_out(&tcp((host, port), server(80), ACK)),
                        (ip(shown), port)
                    );
                    desk.goes_out(&echo(true, host, ip(SERVER), port));
                    desk.goes_out(&echo(false, host, ip(SERVER), port));
                    let outside = (ip(shown), port);
                    desk.comes_in(&udp((STRANGER, 5000), outside), (host, port));
                    desk.comes_in(&tcp((STRANGER, 5000), outside, SYN), (host, port));
                    desk.comes_in(&echo(false, STRANGER, ip(shown), port), (host, port));
                    count += 1;
                }
            }
        }
        is_stateless(&desk);
        assert_eq!(statics(&desk), (4 * count, 3 * count));
    }
}

#[test]
fn ping_to_an_address_mapped_one_to_one_arrives_from_outside_7857_s12a() {
    let mut desk = Desk::with(&with_statics(), 2, 1);
    for at in 0..2 {
        desk.at = at;
        desk.comes_in(&echo(true, STRANGER, ip(ALONE), 0), (WHOLE, 0));
        desk.comes_in(&echo(true, STRANGER, ip(TAKEN), 77), (SECOND, 77));
        assert_eq!(desk.goes_out(&echo(false, WHOLE, ip(STRANGER), 0)), (ip(ALONE), 0));
    }
    is_stateless(&desk);
}

#[test]
fn ping_from_inside_to_an_address_mapped_one_to_one_arrives_5508_req_7() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&with_statics(), workers, 1);
        let shown = desk.goes_out(&echo(true, HOST, ip(SERVER), 7));
        let ping = echo(true, HOST, ip(ALONE), 7);
        let sent = desk.offer(INTERNAL, &ping);
        let mut expected = ping.clone();
        expected.set_source(shown);
        // The identifier is the sender's new one, at both ends.
        expected.destination = ip(WHOLE);
        expected.ttl -= 1;
        assert_eq!(sent, [desk.leaving(INTERNAL, &expected)], "{:?}", desk.drops());
        let pong = echo(false, WHOLE, shown.0, shown.1);
        let mut expected = pong.clone();
        expected.set_destination((ip(HOST), 7));
        expected.source = ip(ALONE);
        expected.ttl -= 1;
        let sent = desk.offer(INTERNAL, &pong);
        assert_eq!(sent, [desk.leaving(INTERNAL, &expected)], "{:?}", desk.drops());
        // From one to the other, and to itself.
        for (from, shown) in [(SECOND, TAKEN), (WHOLE, ALONE)] {
            let ping = echo(true, from, ip(ALONE), 9);
            let sent = desk.offer(INTERNAL, &ping);
            assert_eq!(sent, turned(&desk, &ping, (shown, 9), (WHOLE, 9)));
        }
        // A mapping made by traffic still answers no ping.
        desk.refused(INTERNAL, &echo(true, HOST, shown.0, shown.1), IcmpNoQuery);
        desk.refused(EXTERNAL, &echo(true, STRANGER, shown.0, shown.1), IcmpNoQuery);
    }
}

#[test]
fn a_forward_is_open_both_ways_and_the_rest_of_its_host_is_dynamic() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&with_statics(), workers, 1);
        let shown = ip(SHOWN);
        for at in 0..usize::from(workers) {
            desk.at = at;
            desk.comes_in(&tcp((STRANGER, 1), (shown, 443), SYN), (FARM, 8443));
            let answer = tcp((FARM, 8443), (ip(STRANGER), 1), SYN | ACK);
            assert_eq!(desk.goes_out(&answer), (shown, 443));
            for n in 0..=10 {
                desk.comes_in(&udp((STRANGER, 1), (shown, 9000 + n)), (FARM, 8000 + n));
                desk.comes_in(&tcp((STRANGER, 1), (shown, 9000 + n), RST), (FARM, 8000 + n));
                assert_eq!(desk.goes_out(&udp((FARM, 8000 + n), server(1))), (shown, 9000 + n));
            }
        }
        is_stateless(&desk);
        // Of the other protocol, beside the range, of another address: no mapping.
        desk.refused(EXTERNAL, &udp((STRANGER, 1), (shown, 443)), PortNotLent);
        for port in [8999, 9011] {
            desk.refused(EXTERNAL, &udp((STRANGER, 1), (shown, port)), NoMapping);
        }
        desk.refused(EXTERNAL, &tcp((STRANGER, 1), (ip("203.0.113.1"), 443), SYN), PortNotLent);
        desk.refused(
            EXTERNAL,
            &tcp((STRANGER, 1), (ip("203.0.113.99"), 443), SYN),
            DestinationUnknown,
        );
        // Ports that no forward covers get a mapping as ever, and one that serves.
        let outside = desk.goes_out(&udp((FARM, 8443), server(53)));
        assert!(outside.1 >= 1024);
        desk.comes_in(&udp((SERVER, 53), outside), (FARM, 8443));
        desk.goes_out(&udp((FARM, 7999), server(53)));
        desk.goes_out(&echo(true, FARM, ip(SERVER), 8443));
        assert_eq!(desk.mappings(), 3);
    }
}

#[test]
fn ports_of_forwards_are_never_lent_whoever_asks_4787_req_3() {
    // Two blocks of 64 ports, of which 1024-1026 and 1100 are forwards; one whole block is.
    let pool = "{ addresses: [203.0.113.0], ports: 1024-1215, allocation: { block-size: 64, \
                max-blocks: 2, hold: 0s } }";
    let forwards = "static:
  - { internal: \"100.64.9.10:2000-2002\", external: \"203.0.113.0:1024-1026\", protocol: tcp }
  - { internal: \"100.64.9.11:3000\", external: \"203.0.113.0:1026\", protocol: udp }
  - { internal: \"100.64.9.11:1100\", external: \"203.0.113.0:1100\", protocol: udp }
  - { internal: \"100.64.9.12:1-64\", external: \"203.0.113.0:1152-1215\", protocol: tcp }
";
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&config(pool, forwards), workers, 3);
        assert_eq!(desk.lab.port_census().total(), 3 * (128 - 4));
        for _ in 0..3 {
            let mut given = std::collections::BTreeSet::new();
            for n in 0..124 {
                given.insert(desk.goes_out(&udp((HOST, 10_000 + n), server(53))).1);
                desk.goes_out(&tcp((HOST, 10_000 + n), server(53), SYN));
                desk.goes_out(&echo(true, HOST, ip(SERVER), 10_000 + n));
            }
            let free = (1024..1152).filter(|port| ![1024, 1025, 1026, 1100].contains(port));
            assert_eq!(given, free.collect());
            desk.refused(INTERNAL, &udp((HOST, 9), server(53)), SubscriberPorts);
            let census = desk.lab.port_census();
            assert_eq!((census.free, census.used, census.resting), (0, 3 * 124, 0));
            desk.refused(INTERNAL, &udp(("100.64.3.10", 9), server(53)), PoolExhausted);
            desk.comes_in(&tcp((STRANGER, 1), (ip(SHOWN), 1025), SYN), ("100.64.9.10", 2001));
            desk.comes_in(&udp((STRANGER, 1), (ip(SHOWN), 1026)), ("100.64.9.11", 3000));
            desk.comes_in(&tcp((STRANGER, 1), (ip(SHOWN), 1215), SYN), ("100.64.9.12", 64));
            desk.lab.advance(8_000_000);
            desk.lab.advance(1_000);
            assert_eq!(desk.mappings(), 0);
            assert_eq!(desk.lab.port_census().free, 3 * 124);
        }
    }
}

#[test]
fn an_address_mapped_one_to_one_is_taken_out_of_its_pool() {
    let pool = "{ addresses: [203.0.113.0-203.0.113.1] }";
    let whole = "static: [{ internal: 100.64.9.9, external: 203.0.113.0 }]";
    let mut desk = Desk::with(&config(pool, whole), 2, 1);
    for n in 0..50 {
        let host = std::net::Ipv4Addr::from(ip("100.64.0.1") + n).to_string();
        assert_eq!(desk.goes_out(&udp((&host, 1), server(53))).0, ip("203.0.113.1"));
    }
    assert_eq!(desk.goes_out(&udp(("100.64.9.9", 1), server(53))), (ip("203.0.113.0"), 1));
    assert_eq!(desk.lab.port_census().total(), 3 * 64_512);
}

#[test]
fn subscribers_and_static_hosts_meet_by_external_endpoints_4787_req_9() {
    for workers in [1, 2, 4] {
        for at in 0..usize::from(workers) {
            let mut desk = Desk::with(&with_statics(), workers, 1);
            desk.at = at;
            let host = (HOST, 4000);
            let shown = desk.goes_out(&udp(host, server(80)));
            // A subscriber to a forward, and the answer.
            let there = udp(host, (ip(SHOWN), 9003));
            let mut expected = there.clone();
            expected.set_source(shown);
            expected.set_destination((ip(FARM), 8003));
            expected.ttl -= 1;
            assert_eq!(desk.offer(INTERNAL, &there), [desk.leaving(INTERNAL, &expected)]);
            let back = udp((FARM, 8003), shown);
            assert_eq!(desk.offer(INTERNAL, &back), turned(&desk, &back, (SHOWN, 9003), host));
            // Static to static, and a host to itself.
            let packet = tcp((WHOLE, 5), (ip(SHOWN), 443), SYN);
            let sent = desk.offer(INTERNAL, &packet);
            assert_eq!(sent, turned(&desk, &packet, (ALONE, 5), (FARM, 8443)));
            let packet = udp((FARM, 67), (ip(SHOWN), 67));
            let sent = desk.offer(INTERNAL, &packet);
            assert_eq!(sent, turned(&desk, &packet, (SHOWN, 67), (FARM, 67)));
            assert_eq!(desk.lab.sum(|c| c.hairpinned.value()), 4);
            assert_eq!(statics(&desk), (3, 3));
            // To nobody.
            desk.refused(INTERNAL, &udp((WHOLE, 1), (shown.0, shown.1 ^ 1)), NoMapping);
            assert_eq!(desk.mappings(), 1);
        }
    }
}

#[test]
fn without_hairpinning_static_hosts_are_not_reached_from_inside() {
    let more = format!("{STATICS}nat44: {{ hairpinning: false }}\n");
    let mut desk = Desk::new(&config("{ addresses: [203.0.113.0/29] }", &more));
    desk.refused(INTERNAL, &udp((HOST, 1), (ip(ALONE), 1)), HairpinDisabled);
    desk.refused(INTERNAL, &udp((WHOLE, 1), (ip(SHOWN), 67)), HairpinDisabled);
    desk.comes_in(&udp((STRANGER, 1), (ip(SHOWN), 67)), (FARM, 67));
}

#[test]
fn errors_about_static_flows_are_translated_with_their_quotes_5508_req_4_req_5() {
    for workers in [1, 2] {
        let mut desk = Desk::with(&with_statics(), workers, 1);
        // From outside, about what a static host sent.
        for (host, port) in [(WHOLE, 7), (FARM, 8443), (FARM, 8001)] {
            for packet in [tcp((host, port), server(80), SYN), udp((host, port), server(80))] {
                if host == FARM && port == 8443 && packet.protocol() == crate::wire::UDP {
                    continue;
                }
                let mut about = packet.clone();
                about.set_source(desk.goes_out(&packet));
                about.ttl -= 1;
                desk.comes_in(&error(STRANGER, &about), (host, port));
            }
        }
        // From inside, about what came to one.
        for (shown, inside) in [((ALONE, 9), (WHOLE, 9)), ((SHOWN, 9010), (FARM, 8010))] {
            let packet = udp((STRANGER, 53), (ip(shown.0), shown.1));
            desk.comes_in(&packet, inside);
            let mut got = packet.clone();
            got.set_destination((ip(inside.0), inside.1));
            got.ttl -= 1;
            let mut expected = error(inside.0, &got);
            let sent = desk.offer(INTERNAL, &expected);
            expected.set_source((ip(shown.0), shown.1));
            expected.ttl -= 1;
            assert_eq!(sent, [desk.leaving(EXTERNAL, &expected)], "{:?}", desk.drops());
        }
        is_stateless(&desk);
        // About an endpoint that is not mapped.
        let other = udp((SHOWN, 9011), server(1));
        desk.refused(EXTERNAL, &error(STRANGER, &other), IcmpNoMapping);
        let forged = { Packet { destination: ip(ALONE), ..error(STRANGER, &other) } };
        desk.refused(EXTERNAL, &forged, IcmpQuote);
    }
}

#[test]
fn an_error_of_a_router_inside_has_its_own_external_address_if_it_has_one_5508_req_5c() {
    let mut desk = Desk::with(&with_statics(), 2, 1);
    let outside = desk.goes_out(&udp((HOST, 4000), server(53)));
    for (shown, inside) in [((ip(SHOWN), 9000), (FARM, 8000)), (outside, (HOST, 4000))] {
        let mut got = udp((SERVER, 53), (ip(inside.0), inside.1));
        got.ttl -= 1;
        for (router, seen) in [(WHOLE, ip(ALONE)), ("100.64.0.250", shown.0), (FARM, shown.0)] {
            let mut expected = error(router, &got);
            let sent = desk.offer(INTERNAL, &expected);
            expected.set_source(shown);
            expected.source = seen;
            expected.ttl -= 1;
            assert_eq!(sent, [desk.leaving(EXTERNAL, &expected)], "{router}: {:?}", desk.drops());
        }
    }
}

#[test]
fn an_error_crosses_a_hairpin_of_a_static_host_5508_req_7a() {
    for workers in [1, 2] {
        let mut desk = Desk::with(&with_statics(), workers, 1);
        let shown = desk.goes_out(&udp((HOST, 4000), server(53)));
        // Each of the two is told about the packet that it sent itself.
        for (from, from_shown, to, to_shown) in [
            ((HOST, 4000), shown, (FARM, 8004), (ip(SHOWN), 9004)),
            ((FARM, 8004), (ip(SHOWN), 9004), (HOST, 4000), shown),
            ((WHOLE, 5), (ip(ALONE), 5), (FARM, 8004), (ip(SHOWN), 9004)),
        ] {
            let packet = udp(from, to_shown);
            assert_eq!(desk.offer(INTERNAL, &packet).len(), 1);
            let mut got = packet.clone();
            got.set_source(from_shown);
            got.set_destination((ip(to.0), to.1));
            got.ttl -= 1;
            let sent = desk.offer(INTERNAL, &error(to.0, &got));
            let mut about = packet.clone();
            about.ttl -= 1;
            let mut expected = error(to.0, &about);
            expected.source = to_shown.0;
            expected.ttl -= 1;
            assert_eq!(sent, [desk.leaving(INTERNAL, &expected)], "{:?}", desk.drops());
        }
    }
}

#[test]
fn static_mappings_go_on_when_there_is_no_dynamic_state_left_6888_req_11() {
    let pool = "{ addresses: [203.0.113.0], ports: 1024-1087, allocation: { block-size: 64, \
                max-blocks: 1 } }";
    let more = format!("{STATICS}system: {{ max-mappings: 1000 }}\n");
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&config(pool, &more), workers, 1);
        for port in 1..=64 {
            desk.goes_out(&udp((HOST, port), server(53)));
        }
        desk.refused(INTERNAL, &udp((HOST, 65), server(53)), SubscriberPorts);
        desk.refused(INTERNAL, &udp((FARM, 65), server(53)), PoolExhausted);
        // Housekeeping does nothing meanwhile, and an hour goes by.
        let before = statics(&desk);
        for n in 0..3000 {
            desk.lab.advance_silently(1_200);
            desk.at = n % usize::from(workers);
            desk.goes_out(&udp((FARM, 8000), server(1 + n as u16)));
            desk.comes_in(&tcp((STRANGER, 1 + n as u16), (ip(SHOWN), 443), SYN), (FARM, 8443));
        }
        assert_eq!(statics(&desk), (before.0 + 3000, before.1 + 3000));
        assert_eq!(desk.drops(), [(SubscriberPorts, 1), (PoolExhausted, 1)].into());
    }
}

#[test]
fn twenty_thousand_relays_reach_one_server_from_port_67_and_get_their_answers() {
    let mut desk = Desk::with(&with_statics(), 2, 1);
    let server = (ip(SHOWN), 67);
    for n in 0..20_000u32 {
        desk.at = n as usize % 2;
        let relay = std::net::Ipv4Addr::from(ip("198.18.0.0") + n).to_string();
        desk.comes_in(&udp((&relay, 67), server), (FARM, 67));
        assert_eq!(desk.goes_out(&udp((FARM, 67), (ip(&relay), 67))), server);
    }
    is_stateless(&desk);
    assert_eq!(statics(&desk), (20_000, 20_000));
    assert_eq!(desk.drops(), [].into());
}

#[test]
fn an_external_address_of_a_static_host_is_ours_alone() {
    let mut desk = Desk::new(&with_statics());
    // Nobody outside has it; no port but the mapped ones answers.
    desk.refused(EXTERNAL, &udp((ALONE, 1), (ip(SHOWN), 67)), SourceSpoofed);
    desk.refused(EXTERNAL, &udp((TAKEN, 1), (ip(SHOWN), 67)), SourceSpoofed);
    desk.refused(INTERNAL, &udp((WHOLE, 1), (ip("100.64.0.1"), 67)), DestinationInside);
    let told = desk.lab.sum(|c| c.errors_sent.value());
    for port in [INTERNAL, EXTERNAL] {
        let expired = match port {
            INTERNAL => udp((WHOLE, 1), server(1)),
            _ => udp((STRANGER, 1), (ip(ALONE), 1)),
        };
        desk.refused(port, &Packet { ttl: 1, ..expired }, TtlExpired);
    }
    let now = desk.lab.sum(|c| c.errors_sent.value());
    assert_eq!(now, told + 2, "time exceeded, both ways");
}

#[test]
fn fragments_of_static_hosts_pass_in_any_order_4787_req_14() {
    for workers in [1, 2] {
        let mut desk = Desk::with(&with_statics(), workers, 1);
        let flows = [
            (INTERNAL, udp((WHOLE, 1), server(2)), Some((ALONE, 1)), None),
            (INTERNAL, tcp((SECOND, 1), server(2), SYN), Some((TAKEN, 1)), None),
            (INTERNAL, echo(true, WHOLE, ip(SERVER), 5), Some((ALONE, 5)), None),
            (INTERNAL, udp((FARM, 8000), server(2)), Some((SHOWN, 9000)), None),
            (EXTERNAL, udp((STRANGER, 1), (ip(SHOWN), 67)), None, Some((FARM, 67))),
            (EXTERNAL, tcp((STRANGER, 1), (ip(TAKEN), 2), ACK), None, Some((SECOND, 2))),
            (EXTERNAL, echo(true, STRANGER, ip(ALONE), 6), None, Some((WHOLE, 6))),
            (INTERNAL, udp((WHOLE, 1), (ip(SHOWN), 67)), Some((ALONE, 1)), Some((FARM, 67))),
        ];
        for (number, (port, packet, source, destination)) in flows.into_iter().enumerate() {
            let identification = 100 + number as u16;
            let packet = Packet { df: false, payload: vec![0x5a; 100], identification, ..packet };
            let mut expected = packet.clone();
            if let Some((address, port)) = source {
                expected.set_source((ip(address), port));
            }
            if let Some((address, port)) = destination {
                expected.set_destination((ip(address), port));
            }
            expected.ttl -= 1;
            let cuts = [68, 84, packet.len()];
            let to = if destination.is_some() { INTERNAL } else { EXTERNAL };
            let mut sent = Vec::new();
            for (at, piece) in packet.fragments(&cuts).into_iter().rev().enumerate() {
                let frame = [&desk.arriving(port, &packet)[..14], &piece].concat();
                sent.extend(desk.lab.arrive(at % usize::from(workers), port, &frame));
            }
            // The port of a forward is shared, so the box says the identification.
            if port == INTERNAL && packet.source == ip(FARM) {
                expected.identification = u16::from_be_bytes([sent[0].1[18], sent[0].1[19]]);
            }
            let (_, head) = desk.leaving(to, &expected);
            let mut pieces: Frames = expected
                .fragments(&cuts)
                .into_iter()
                .map(|piece| (to, [&head[..14], &piece].concat()))
                .collect();
            sent.sort();
            pieces.sort();
            assert_eq!(sent, pieces, "{packet:?}: {:?}", desk.drops());
        }
        assert_eq!((desk.mappings(), statics(&desk)), (0, (15, 12)));
        assert_eq!(desk.drops(), [].into());
    }
}

#[test]
fn a_static_packet_is_clamped_and_shows_no_recorded_route_5508_req_5c() {
    let more = format!("{STATICS}nat44: {{ tcp-mss-clamp: 1400 }}\n");
    let pool = "{ addresses: [203.0.113.0/29], tcp-mss-clamp: 1300 }";
    let mut desk = Desk::new(&config(pool, &more));
    let offered = |packet: &Packet, mss: u16| {
        let [high, low] = mss.to_be_bytes();
        let mut packet = packet.clone();
        if let Body::Tcp { options, .. } = &mut packet.body {
            *options = vec![2, 4, high, low];
        }
        packet
    };
    // The forward's address is in the pool; the other one has what holds for the box.
    for (host, shown, most) in [((FARM, 8443), (SHOWN, 443), 1300), ((WHOLE, 1), (ALONE, 1), 1400)]
    {
        for mss in [most - 1, most, most + 1, 1460] {
            let packet = offered(&tcp(host, server(80), SYN), mss);
            let mut expected = offered(&packet, mss.min(most));
            expected.set_source((ip(shown.0), shown.1));
            expected.ttl -= 1;
            assert_eq!(desk.offer(INTERNAL, &packet), [desk.leaving(EXTERNAL, &expected)]);
            let packet = offered(&tcp((STRANGER, 1), (ip(shown.0), shown.1), SYN), mss);
            let mut expected = offered(&packet, mss.min(most));
            expected.set_destination((ip(host.0), host.1));
            expected.ttl -= 1;
            assert_eq!(desk.offer(EXTERNAL, &packet), [desk.leaving(INTERNAL, &expected)]);
        }
    }
    let recorded = [vec![7, 11, 8], ip("100.64.77.7").to_be_bytes().to_vec(), vec![0; 5]].concat();
    let packet = Packet { options: recorded, ..udp((WHOLE, 1), server(1)) };
    let sent = desk.offer(INTERNAL, &packet);
    assert_eq!(sent[0].1[14 + 23..14 + 27], ip(ALONE).to_be_bytes());
}

#[test]
fn an_external_address_on_link_is_answered_for() {
    let yaml = with_statics().replace("192.0.2.2/30", "192.0.2.2/24");
    let yaml = yaml.replace("203.0.113.100", "192.0.2.77");
    let mut desk = Desk::new(&yaml);
    let asked = |target: &str| Arp {
        operation: Operation::Request,
        sender_mac: HOPS[EXTERNAL],
        sender: ip("192.0.2.1"),
        target_mac: [0; 6],
        target: ip(target),
    };
    let frame = arp_frame(EXTERNAL, None, &asked("192.0.2.77"));
    assert_eq!(desk.lab.arrive(0, EXTERNAL, &frame).len(), 1);
    let frame = arp_frame(EXTERNAL, None, &asked("192.0.2.78"));
    assert_eq!(desk.lab.arrive(0, EXTERNAL, &frame), []);
}

#[test]
fn a_static_packet_that_is_too_big_is_told_of_or_cut_4787_req_13() {
    let mut yaml = with_statics();
    for (device, mtu) in [("net_null0", 1000), ("net_null1", 900)] {
        let line = format!("    device: {device}\n");
        yaml = yaml.replace(&line, &format!("{line}    mtu: {mtu}\n"));
    }
    let sized = |packet: Packet, df: bool, total: usize| {
        let header = packet.len() - packet.payload.len();
        Packet { df, payload: (0..total - header).map(|n| n as u8).collect(), ..packet }
    };
    let mut desk = Desk::new(&yaml);
    for (port, packet) in [
        (INTERNAL, udp((WHOLE, 1), server(1))),
        (EXTERNAL, udp((STRANGER, 1), (ip(SHOWN), 67))),
        (INTERNAL, udp((WHOLE, 1), (ip(SHOWN), 67))),
        (INTERNAL, udp((HOST, 1), (ip(SHOWN), 67))),
    ] {
        let big = sized(packet, true, 1001);
        let sent = desk.offer(port, &big);
        let (from, to) = (["10.255.0.2", "192.0.2.2"][port], (big.source, 1));
        let mtu = if port == INTERNAL && big.destination == ip(SERVER) { 900 } else { 1000 };
        let mut told = udp((from, 1), to);
        let about = Box::new(big.clone());
        told.body = Body::Error { kind: 3, code: 4, rest: mtu, about, kept: 528 };
        (told.identification, told.payload) = (0, vec![]);
        let us = cgnat_core::testing::lab::port_mac(port);
        let link = Link { to: HOPS[port], from: us, vlan: None };
        // Of a hairpin the error comes back through the sender's own mapping.
        if sent.len() == 1 && big.destination != ip(SHOWN) || port == EXTERNAL {
            assert_eq!(sent, [(port, link.frame(0x0800, &told.bytes()))]);
        } else {
            assert_eq!(sent.len(), 1, "{:?}", desk.drops());
            assert_eq!(sent[0].1[14 + 20..14 + 22], [3, 4]);
            assert_eq!(sent[0].1[14 + 16..14 + 20], big.source.to_be_bytes());
            assert_eq!(sent[0].1[14 + 28..14 + 48], big.bytes()[..20], "as it was sent");
        }
    }
    assert_eq!(desk.drops(), [(TooBig, 4)].into());
    // Without DF it leaves in pieces; one host's identification stays on its own address.
    let big = sized(udp((WHOLE, 1), server(1)), false, 1500);
    let sent = desk.offer(INTERNAL, &big);
    let mut expected = big.clone();
    expected.set_source((ip(ALONE), 1));
    expected.ttl -= 1;
    let link =
        Link { to: HOPS[EXTERNAL], from: cgnat_core::testing::lab::port_mac(EXTERNAL), vlan: None };
    let pieces: Frames =
        expected.pieces(900).iter().map(|piece| (EXTERNAL, link.frame(0x0800, piece))).collect();
    assert_eq!(sent, pieces);
    // Of a forward it may meet those of other hosts, so it is the box's (RFC 6864).
    let big = sized(udp((FARM, 8000), server(1)), false, 1500);
    let sent = desk.offer(INTERNAL, &big);
    assert_eq!(sent.len(), 2);
    assert_ne!(sent[0].1[18..20], big.identification.to_be_bytes());
}
