//! Ports that flows of one subscriber share, towards named destination ports (RFC 7857 section
//! 3): towards different addresses only, with everything else as it is for any flow.

use std::collections::BTreeSet;

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Body, Packet, ip};

const HOST: &str = "100.64.3.9";

/// One address with so many blocks of 64 ports; these destination ports are named.
fn overloading(blocks: u32, max_blocks: u32, more: &str) -> String {
    let named = "addresses: [203.0.113.0], port-overloading: [tcp/443, udp/443, udp/53]";
    one_address(blocks, max_blocks).replace("addresses: [203.0.113.0]", named) + more
}

/// The `n`-th web server.
fn web(n: u32) -> (u32, u16) {
    (ip("198.18.0.0") + n, 443)
}

fn name(address: u32) -> String {
    std::net::Ipv4Addr::from(address).to_string()
}

#[test]
fn a_thousand_servers_need_one_port_of_each_protocol_and_nobody_hears_the_other_7857_s3() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&overloading(4, 1, ""), workers, 1);
        let mut ends = Vec::new();
        for n in 0..1000 {
            let inside = (HOST, 1000 + n as u16);
            desk.at = n as usize % usize::from(workers);
            let by_tcp = desk.goes_out(&tcp(inside, web(n), SYN));
            let by_udp = desk.goes_out(&udp(inside, web(n)));
            ends.push((by_tcp, by_udp));
        }
        let used: BTreeSet<_> = ends.iter().collect();
        assert_eq!((used.len(), desk.lab.port_census().used), (1, 2), "{workers} workers");
        for (n, (by_tcp, by_udp)) in (0..).zip(&ends) {
            let (inside, from) = ((HOST, 1000 + n as u16), name(web(n).0));
            desk.at = n as usize % usize::from(workers);
            desk.comes_in(&tcp((&from, 443), *by_tcp, SYN | ACK), inside);
            desk.comes_in(&udp((&from, 443), *by_udp), inside);
        }
        // Filtering is by address and port: another port of a server, and a stranger.
        let (by_tcp, by_udp) = ends[0];
        desk.refused(EXTERNAL, &udp((&name(web(5).0), 444), by_udp), Filtered);
        desk.refused(EXTERNAL, &udp(("9.9.9.9", 443), by_udp), Filtered);
        desk.refused(EXTERNAL, &tcp(("9.9.9.9", 443), by_tcp, SYN), Filtered);
        desk.refused(EXTERNAL, &tcp((&name(web(5).0), 444), by_tcp, ACK), Filtered);
        assert_eq!(desk.drops(), [(Filtered, 4)].into());
    }
}

#[test]
fn towards_one_address_no_port_is_shared_whatever_its_port_7857_s13() {
    let mut desk = Desk::new(&overloading(4, 1, ""));
    let ends: BTreeSet<_> = (0..40)
        .map(|n| desk.goes_out(&udp((HOST, 1000 + n), server([443, 53][usize::from(n % 2)]))))
        .collect();
    assert_eq!(ends.len(), 40);
    // To another one any of them will do.
    for n in 0..16 {
        assert!(ends.contains(&desk.goes_out(&udp((HOST, 2000 + n), web(0)))));
    }
    assert_eq!(desk.lab.port_census().used, 40);
}

#[test]
fn one_internal_endpoint_has_another_external_one_for_each_destination_4787_s4_1() {
    let mut desk = Desk::new(&overloading(4, 1, ""));
    let inside = (HOST, 1000);
    let ends: Vec<_> = (0..20).map(|n| desk.goes_out(&udp(inside, web(n)))).collect();
    assert_eq!(ends.iter().collect::<BTreeSet<_>>().len(), 20);
    for (n, end) in (0..).zip(&ends) {
        assert_eq!(desk.goes_out(&udp(inside, web(n))), *end);
        desk.comes_in(&udp((&name(web(n).0), 443), *end), inside);
    }
}

#[test]
fn what_is_not_named_is_mapped_endpoint_independently_and_keeps_its_mapping_4787_req_1() {
    let mut desk = Desk::new(&overloading(4, 1, ""));
    let inside = (HOST, 1000);
    let flow = desk.goes_out(&udp(inside, web(0)));
    let own = desk.goes_out(&udp(inside, server(5000)));
    assert_ne!(flow, own);
    assert_eq!(desk.goes_out(&udp(inside, server(5001))), own);
    // A peer that calls from a named port is answered from where it called; a flow goes on.
    desk.comes_in(&udp(("9.9.9.9", 443), own), inside);
    assert_eq!(desk.goes_out(&udp(inside, (ip("9.9.9.9"), 443))), own);
    assert_eq!(desk.goes_out(&udp(inside, web(0))), flow);
    // TCP, answered by the host.
    let own = desk.goes_out(&tcp(inside, server(5000), SYN));
    desk.comes_in(&tcp(("9.9.9.9", 443), own, SYN), inside);
    assert_eq!(desk.goes_out(&tcp(inside, (ip("9.9.9.9"), 443), SYN | ACK)), own);
    assert_eq!(desk.mappings(), 3);
    // ICMP has no ports that could be named.
    let identifiers: BTreeSet<_> =
        (0..3).map(|n| desk.goes_out(&echo(true, HOST, web(n).0, 443 + n as u16))).collect();
    assert_eq!(identifiers.len(), 3);
}

#[test]
fn a_pool_may_differ_and_by_default_nothing_is_shared() {
    let flows = |desk: &mut Desk| -> usize {
        let ends: BTreeSet<_> =
            (0..9).map(|n| desk.goes_out(&udp((HOST, 1000 + n as u16), web(n)))).collect();
        ends.len()
    };
    let all = "nat44: { port-overloading: [udp/443] }";
    let pool = |more: &str| format!("{{ addresses: [203.0.113.0/28]{more} }}");
    for (yaml, ports) in [
        (plain(), 9),
        (config(&pool(""), all), 1),
        (config(&pool(", port-overloading: []"), all), 9),
        (config(&pool(", port-overloading: [tcp/443]"), all), 9),
        (config(&pool(", port-overloading: [udp/443]"), ""), 1),
    ] {
        assert_eq!(flows(&mut Desk::new(&yaml)), ports, "{yaml}");
    }
}

#[test]
fn a_shared_port_rests_after_its_last_flow_and_not_before_6888_req_8() {
    let mut desk = Desk::new(&overloading(4, 1, ""));
    let end = desk.goes_out(&udp((HOST, 1000), web(0)));
    desk.lab.advance(200_000);
    assert_eq!(desk.goes_out(&udp((HOST, 1001), web(1))), end);
    // The first ends, the port goes on; a third flow finds it.
    desk.lab.advance(101_000);
    desk.refused(EXTERNAL, &udp((&name(web(0).0), 443), end), Filtered);
    desk.comes_in(&udp((&name(web(1).0), 443), end), (HOST, 1001));
    assert_eq!(desk.goes_out(&udp((HOST, 1000), web(0))), end);
    desk.lab.advance(301_000);
    let census = desk.lab.port_census();
    assert_eq!((desk.mappings(), census.used, census.resting), (0, 0, 1));
    desk.refused(EXTERNAL, &udp((&name(web(1).0), 443), end), NoMapping);
    assert_ne!(desk.goes_out(&udp((HOST, 1000), web(0))), end);
    desk.lab.advance(301_000);
    desk.lab.advance(121_000);
    let left = desk.lab.sum(|c| c.blocks_in_use.value() + c.subscribers.value());
    assert_eq!((desk.lab.port_census().resting, left), (0, 0));
}

#[test]
fn a_clean_close_of_all_flows_spares_the_rest_and_of_some_does_not_6888_req_8a() {
    let yaml =
        overloading(4, 1, "").replace("max-blocks: 1", "max-blocks: 1, hold-closed-tcp: false");
    for (closed, resting) in [(2, 0), (1, 1), (0, 1)] {
        let mut desk = Desk::new(&yaml);
        let mut end = (0, 0);
        for n in 0..2 {
            let (inside, from) = ((HOST, 1000 + n as u16), name(web(n).0));
            end = desk.goes_out(&tcp(inside, web(n), SYN));
            desk.comes_in(&tcp((&from, 443), end, SYN | ACK), inside);
            desk.goes_out(&tcp(inside, web(n), ACK));
            if n < closed {
                desk.goes_out(&tcp(inside, web(n), FIN | ACK));
                desk.comes_in(&tcp((&from, 443), end, FIN | ACK), inside);
            }
        }
        desk.lab.advance(7_441_000);
        assert_eq!(desk.mappings(), 0);
        let census = desk.lab.port_census();
        assert_eq!((census.used, census.resting), (0, resting), "{closed} of {end:?} closed");
    }
}

#[test]
fn a_full_block_still_serves_named_ports_and_refuses_what_cannot_be_shared_6888_req_11() {
    let mut desk = Desk::new(&overloading(1, 1, ""));
    let shared = desk.goes_out(&tcp((HOST, 1), web(0), SYN));
    for port in 2..=64 {
        desk.goes_out(&tcp((HOST, port), server(80), SYN));
    }
    desk.refused(INTERNAL, &tcp((HOST, 65), server(80), SYN), SubscriberPorts);
    // Ten times more flows than ports.
    for n in 1..640 {
        assert_eq!(desk.goes_out(&tcp((HOST, 1000 + n as u16), web(n), SYN)), shared);
    }
    // The same server again needs a port of its own, and there is none; nothing is taken for it.
    desk.refused(INTERNAL, &tcp((HOST, 2000), web(9), SYN), SubscriberPorts);
    desk.comes_in(&tcp((&name(web(9).0), 443), shared, SYN | ACK), (HOST, 1009));
    assert_eq!(desk.drops(), [(SubscriberPorts, 2)].into());
    // The one that was answered is the last.
    desk.lab.advance(241_000);
    assert_eq!((desk.mappings(), desk.lab.port_census().used), (1, 1));
    desk.lab.advance(7_441_000);
    desk.lab.advance(121_000);
    assert_eq!(desk.lab.port_census().free, 3 * 64);
}

#[test]
fn a_full_mapping_table_refuses_flows_and_leaves_no_trace() {
    let mut desk = Desk::new(&overloading(16, 8, "").replace("20_000", "1_000"));
    for n in 0..1000 {
        desk.goes_out(&udp((HOST, 1 + n as u16), web(n)));
    }
    desk.refused(INTERNAL, &udp((HOST, 2000), web(2000)), MappingTableFull);
    assert_eq!(desk.lab.port_census().used, 1);
    desk.lab.advance(301_000);
    desk.goes_out(&udp((HOST, 2000), web(2000)));
}

#[test]
fn limits_count_a_shared_port_once_and_each_flow_as_a_session_6888_req_4() {
    let limits = "pool: main, limits: { ports: 2, sessions: 50 } }";
    let mut desk = Desk::new(&overloading(4, 1, "").replace("pool: main }", limits));
    for n in 0..20 {
        desk.goes_out(&udp((HOST, 1000 + n as u16), web(n)));
        desk.goes_out(&tcp((HOST, 1000 + n as u16), web(n), SYN));
    }
    desk.refused(INTERNAL, &udp((HOST, 2000), server(80)), LimitPorts);
    desk.refused(INTERNAL, &udp((HOST, 2000), web(0)), LimitPorts);
    for n in 20..30 {
        desk.goes_out(&udp((HOST, 1000 + n as u16), web(n)));
    }
    desk.refused(INTERNAL, &udp((HOST, 2000), web(99)), LimitSessions);
}

#[test]
fn lifelines_keep_their_ports_and_a_shared_one_takes_none_of_them() {
    let limits = "pool: main, limits: { reserved: { ports: 4, for: [udp/53] } } }";
    let mut desk = Desk::new(&overloading(1, 1, "").replace("pool: main }", limits));
    let shared = desk.goes_out(&udp((HOST, 1), web(0)));
    for port in 2..=60 {
        desk.goes_out(&udp((HOST, port), server(80)));
    }
    desk.refused(INTERNAL, &udp((HOST, 61), server(80)), ReservedPorts);
    desk.refused(INTERNAL, &udp((HOST, 61), web(0)), ReservedPorts);
    assert_eq!(desk.goes_out(&udp((HOST, 61), web(1))), shared);
    // DNS to the same server: the last four ports are for it.
    assert_eq!(desk.goes_out(&udp((HOST, 70), server(53))), shared);
    let lifelines: BTreeSet<_> =
        (71..75).map(|port| desk.goes_out(&udp((HOST, port), server(53)))).collect();
    assert_eq!(lifelines.len(), 4);
}

#[test]
fn errors_about_a_shared_port_reach_the_flow_that_they_quote_5508_req_4() {
    let mut desk = Desk::new(&overloading(4, 1, ""));
    let sent: Vec<Packet> = (0..3).map(|n| udp((HOST, 1000 + n as u16), web(n))).collect();
    let ends: Vec<_> = sent.iter().map(|packet| desk.goes_out(packet)).collect();
    assert!(ends.iter().all(|end| *end == ends[0]));
    let error = |from: u32, to: u32, about: Packet| {
        let body = Body::Error { kind: 3, code: 3, rest: 0, about: Box::new(about), kept: 8 };
        Packet { source: from, destination: to, body, payload: vec![], ..sent[0].clone() }
    };
    for packet in &sent {
        let mut about = packet.clone();
        about.set_source(ends[0]);
        let arrived = error(ip("9.9.9.9"), ends[0].0, about);
        let inside = desk.offer(EXTERNAL, &arrived);
        let mut told = error(ip("9.9.9.9"), packet.source, packet.clone());
        told.ttl -= 1;
        assert_eq!(inside, [desk.leaving(INTERNAL, &told)], "{:?}", desk.drops());
    }
    // About a flow with somebody else there is nothing to tell.
    let mut about = udp((HOST, 1000), web(77));
    about.set_source(ends[0]);
    desk.refused(EXTERNAL, &error(ip("9.9.9.9"), ends[0].0, about), IcmpNoMapping);
    // Outward: the host refuses what a server sent it.
    let answer = udp((&name(web(1).0), 443), (ip(HOST), 1001));
    let mut shown = answer.clone();
    shown.set_destination(ends[0]);
    let outside = desk.offer(INTERNAL, &error(ip(HOST), web(1).0, answer));
    let mut told = error(ends[0].0, web(1).0, shown);
    told.ttl -= 1;
    assert_eq!(outside, [desk.leaving(EXTERNAL, &told)], "{:?}", desk.drops());
}

#[test]
fn subscribers_reach_each_other_from_shared_ports_4787_req_9() {
    // The other's external port is 443 by its own choice.
    let yaml = overloading(4, 1, "")
        .replace("ports: 1024-1279", "ports: 256-511")
        .replace("max-blocks: 1", "max-blocks: 1, port-choice: preserve")
        .replace("203.0.113.0]", "203.0.113.0/31]");
    for workers in [1, 4] {
        let mut desk = Desk::with(&yaml, workers, 1);
        // Of the worker that the third quarter of each address is lent to, 443 in it.
        let other = subscriber_of(workers / 2, workers, 0);
        let other = (other.as_str(), 443);
        let shown = desk.goes_out(&udp(other, server(5000)));
        assert_eq!(shown.1, 443);
        let first = desk.goes_out(&udp((HOST, 1000), web(0)));
        let packet = udp((HOST, 1001), shown);
        let mut hairpinned = packet.clone();
        hairpinned.set_source(first);
        hairpinned.set_destination((ip(other.0), other.1));
        hairpinned.ttl -= 1;
        let sent = desk.offer(INTERNAL, &packet);
        assert_eq!(sent, [desk.leaving(INTERNAL, &hairpinned)], "{:?}", desk.drops());
        // And back, to the flow of this pair.
        let answer = udp(other, first);
        let mut back = answer.clone();
        back.set_source(shown);
        back.set_destination((ip(HOST), 1001));
        back.ttl -= 1;
        let sent = desk.offer(INTERNAL, &answer);
        assert_eq!(sent, [desk.leaving(INTERNAL, &back)], "{:?}", desk.drops());
    }
}

#[test]
fn both_may_open_a_connection_of_a_shared_port_and_other_syns_are_held_5382_req_4() {
    let mut desk =
        Desk::new(&overloading(4, 1, "\nnat44: { unsolicited-syn: port-unreachable }\n"));
    let end = desk.goes_out(&tcp((HOST, 1000), web(0), SYN));
    assert_eq!(desk.goes_out(&tcp((HOST, 1001), web(1), SYN)), end);
    desk.comes_in(&tcp((&name(web(1).0), 443), end, SYN), (HOST, 1001));
    desk.refused(EXTERNAL, &tcp((&name(web(2).0), 443), end, SYN), Filtered);
    // The host opens that connection too: nothing is answered.
    assert_eq!(desk.goes_out(&tcp((HOST, 1002), web(2), SYN)), end);
    desk.lab.advance(7_000);
    assert_eq!(desk.lab.take_sent(), []);
    desk.refused(EXTERNAL, &tcp((&name(web(3).0), 443), end, SYN), Filtered);
    desk.lab.advance(7_000);
    assert_eq!(desk.lab.take_sent().len(), 1);
}

#[test]
fn shared_ports_of_ranges_and_their_overflow_belong_to_the_subscriber_7422() {
    let yaml = config(
        "{ addresses: [203.0.113.0], ports: 1024-1279, port-overloading: [udp/443], allocation: { \
         mode: deterministic, ports-per-subscriber: 16, overflow: { ports: 64 } } }",
        "",
    )
    .replace("100.64.0.0/10", "100.64.0.0/30");
    let mut desk = Desk::new(&yaml);
    let host = "100.64.0.2";
    let ends: BTreeSet<_> =
        (0..20).map(|n| desk.goes_out(&udp((host, 1000 + n as u16), server(443)))).collect();
    assert_eq!(ends.iter().filter(|end| (1056..1072).contains(&end.1)).count(), 16);
    assert_eq!(ends.iter().filter(|end| end.1 >= 1216).count(), 4);
    for n in 0..200 {
        assert!(ends.contains(&desk.goes_out(&udp((host, 2000 + n as u16), web(n)))));
    }
}
