//! What passes untranslated by a rule (RFC 6888 REQ-6), and that nothing else does.

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Body, Packet, ip, put};

const HOST: &str = "100.64.3.9";
/// In 10.0.0.0/8, on the external side.
const FARM: &str = "10.1.2.3";
const ROUTER: &str = "10.200.0.1";

const RULES: &str = "nat44:
  bypass:
    - { to: 10.0.0.0/8 }
    - { to: 198.51.100.0/24, protocol: udp, ports: [67, 5000-5010] }
    - { to: 192.88.99.0/24, from: 100.64.5.0/24, protocol: tcp }
    - { to: 0.0.0.0/0, protocol: tcp, ports: [25] }
    - { to: 100.100.0.0/16 }
";

/// Subscribers in a part of shared space, so that another part may lie outside.
fn with_rules(more: &str) -> String {
    let yaml = config("{ addresses: [203.0.113.0/28] }", &format!("{RULES}{more}"));
    yaml.replace("match: [100.64.0.0/10]", "match: [100.64.0.0/16]")
}

/// A packet arrives at every worker in turn and leaves the other side as it was, but for its
/// time to live.
fn passes(desk: &mut Desk, port: usize, packet: &Packet) {
    let mut expected = packet.clone();
    expected.ttl -= 1;
    for at in 0..desk.lab.workers.len() {
        let before = counts(desk);
        let frame = desk.arriving(port, packet);
        let sent = arrives(desk, at, port, &frame);
        let other = INTERNAL + EXTERNAL - port;
        assert_eq!(sent, [desk.leaving(other, &expected)], "{packet:?}: {:?}", desk.drops());
        let mut after = before;
        after[port] += 1;
        assert_eq!(counts(desk), after);
    }
}

/// A frame arrives whose way out shows internal addresses outside, as a rule allows: here, and
/// nowhere else, that is right.
fn arrives(desk: &mut Desk, at: usize, port: usize, frame: &[u8]) -> Frames {
    let watch = desk.lab.watch.take();
    let sent = desk.lab.arrive(at, port, frame);
    desk.lab.watch = watch;
    sent
}

/// Outbound and inbound.
fn counts(desk: &Desk) -> [u64; 2] {
    let of = |value: fn(&cgnat_core::control::counters::WorkerCounters) -> u64| desk.lab.sum(value);
    [of(|c| c.bypassed_outbound.value()), of(|c| c.bypassed_inbound.value())]
}

fn is_stateless(desk: &Desk) {
    assert_eq!(desk.mappings(), 0);
    assert_eq!(desk.lab.sum(|c| c.blocks_allocated.value() + c.handed_off.value()), 0);
}

fn error(from: &str, about: &Packet) -> Packet {
    let body = Body::Error { kind: 11, code: 0, rest: 0, about: Box::new(about.clone()), kept: 8 };
    let mut error = udp((from, 1), (about.source, 1));
    error.body = body;
    error.payload = Vec::new();
    error
}

#[test]
fn what_a_rule_names_passes_both_ways_byte_for_byte_6888_req_6() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&with_rules(""), workers, 1);
        let (host, farm) = (ip(HOST), ip(FARM));
        // By prefix: everything.
        for port in [1, 67, 1023, 40_000] {
            passes(&mut desk, INTERNAL, &udp((HOST, port), (farm, 53)));
            passes(&mut desk, INTERNAL, &tcp((HOST, port), (farm, 80), ACK));
            passes(&mut desk, INTERNAL, &echo(true, HOST, farm, port));
            passes(&mut desk, EXTERNAL, &udp((FARM, 53), (host, port)));
            passes(&mut desk, EXTERNAL, &tcp((FARM, 80), (host, port), SYN));
            passes(&mut desk, EXTERNAL, &echo(true, FARM, host, port));
            passes(&mut desk, EXTERNAL, &echo(false, FARM, host, port));
        }
        // By prefix, protocol and port.
        for port in [67, 5000, 5005, 5010] {
            passes(&mut desk, INTERNAL, &udp((HOST, 67), server(port)));
            passes(&mut desk, EXTERNAL, &udp((SERVER, port), (host, 67)));
        }
        // By source.
        let there = (ip("192.88.99.9"), 443);
        passes(&mut desk, INTERNAL, &tcp(("100.64.5.77", 9), there, SYN));
        passes(&mut desk, EXTERNAL, &tcp(("192.88.99.9", 443), (ip("100.64.5.77"), 9), SYN | ACK));
        // By port alone.
        passes(&mut desk, INTERNAL, &tcp((HOST, 9), (ip("8.8.8.8"), 25), SYN));
        passes(&mut desk, EXTERNAL, &tcp(("8.8.8.8", 25), (host, 9), SYN | ACK));
        is_stateless(&desk);
        assert_eq!(desk.drops(), [].into());
    }
}

#[test]
fn what_no_rule_names_is_translated_or_dropped_6598_s4b() {
    let mut desk = Desk::with(&with_rules(""), 2, 1);
    let host = ip(HOST);
    for packet in [
        udp((HOST, 1), server(66)),
        udp((HOST, 2), server(4999)),
        udp((HOST, 3), server(5011)),
        tcp((HOST, 4), server(67), SYN),
        tcp((HOST, 5), (ip("192.88.99.9"), 443), SYN),
        udp(("100.64.5.77", 6), (ip("192.88.99.9"), 443)),
        udp((HOST, 7), (ip("8.8.8.8"), 25)),
        echo(true, HOST, ip(SERVER), 67),
    ] {
        desk.goes_out(&packet);
    }
    assert_eq!(counts(&desk), [0, 0]);
    for packet in [
        udp((SERVER, 66), (host, 1)),
        tcp((SERVER, 67), (host, 1), SYN),
        tcp(("192.88.99.9", 443), (host, 1), ACK),
        echo(false, SERVER, host, 1),
        udp((FARM, 67), (ip("100.65.0.1"), 67)),
        udp((FARM, 67), (ip("172.16.0.1"), 67)),
    ] {
        desk.refused(EXTERNAL, &packet, DestinationUnknown);
    }
    // Only subscribers may use a rule without `from`; nobody may pretend to be us or outside.
    desk.refused(INTERNAL, &udp(("172.16.0.1", 1), (ip(FARM), 53)), SourceNotSubscriber);
    desk.refused(INTERNAL, &udp(("10.3.3.3", 1), (ip(FARM), 53)), SourceNotSubscriber);
    desk.refused(INTERNAL, &udp(("100.65.0.1", 1), (ip(FARM), 53)), SourceNotSubscriber);
    desk.refused(INTERNAL, &udp(("203.0.113.1", 1), (ip(FARM), 53)), SourceNotSubscriber);
    desk.refused(EXTERNAL, &tcp(("203.0.113.1", 25), (host, 9), ACK), SourceSpoofed);
    desk.refused(EXTERNAL, &tcp(("192.0.2.2", 25), (host, 9), ACK), SourceSpoofed);
    desk.refused(EXTERNAL, &tcp(("100.64.7.7", 25), (host, 9), ACK), SourceSpoofed);
    desk.refused(EXTERNAL, &tcp(("100.101.7.7", 25), (host, 9), ACK), SourceSpoofed);
}

#[test]
fn inside_stays_inside_whatever_a_rule_covers_6598_s4b() {
    let mut desk = Desk::new(&with_rules(""));
    // The internal port's prefix, and subscribers, lie in what rules name.
    desk.refused(INTERNAL, &udp((HOST, 1), (ip("10.255.0.1"), 1)), DestinationInside);
    desk.refused(INTERNAL, &tcp((HOST, 1), (ip("100.64.9.9"), 25), SYN), DestinationInside);
    // Shared space that nobody names.
    desk.refused(INTERNAL, &tcp((HOST, 1), (ip("100.101.0.1"), 25), SYN), DestinationInside);
    desk.refused(INTERNAL, &tcp((HOST, 1), (ip("169.254.1.1"), 25), SYN), DestinationInside);
    // And such as is named.
    passes(&mut desk, INTERNAL, &udp((HOST, 1), (ip("100.100.0.1"), 1)));
    passes(&mut desk, EXTERNAL, &udp(("100.100.0.1", 1), (ip(HOST), 1)));
    // An external endpoint of ours is never outside.
    let mail = (ip("203.0.113.1"), 25);
    desk.refused(INTERNAL, &tcp((HOST, 1), mail, SYN), PortNotLent);
    // The box itself answers.
    desk.refused(INTERNAL, &tcp((HOST, 1), (ip("10.255.0.2"), 25), SYN), ToUs);
}

#[test]
fn errors_about_bypassed_flows_pass_with_their_quotes_as_they_are_6888_req_6() {
    for workers in [1, 2] {
        let mut desk = Desk::with(&with_rules(""), workers, 1);
        let (host, farm) = (ip(HOST), ip(FARM));
        for packet in [udp((HOST, 1), (farm, 53)), echo(true, HOST, farm, 7)] {
            passes(&mut desk, EXTERNAL, &error(ROUTER, &packet));
            passes(&mut desk, EXTERNAL, &error("9.9.9.9", &packet));
        }
        passes(&mut desk, EXTERNAL, &error("9.9.9.9", &udp((HOST, 1), server(5001))));
        let back = udp((FARM, 53), (host, 1));
        passes(&mut desk, INTERNAL, &error(HOST, &back));
        passes(&mut desk, INTERNAL, &error("10.255.0.1", &back));
        is_stateless(&desk);
        // About flows that are translated, and from where nobody outside is.
        desk.refused(EXTERNAL, &error("9.9.9.9", &udp((HOST, 1), server(53))), DestinationUnknown);
        desk.refused(INTERNAL, &error(HOST, &udp((SERVER, 53), (host, 1))), IcmpNoMapping);
        desk.refused(EXTERNAL, &error("100.64.0.1", &udp((HOST, 1), (farm, 53))), SourceSpoofed);
        desk.refused(EXTERNAL, &error("203.0.113.1", &udp((HOST, 1), (farm, 53))), SourceSpoofed);
    }
}

#[test]
fn fragments_and_other_protocols_pass_by_rules_that_ask_for_no_ports() {
    let mut desk = Desk::with(&with_rules(""), 2, 1);
    for (port, from, to) in [(INTERNAL, HOST, FARM), (EXTERNAL, FARM, HOST)] {
        let whole = Packet { df: false, ..udp((from, 1), (ip(to), 5000)) };
        let mut pieces = whole.fragments(&[44, whole.len()]);
        let mut gre = whole.bytes();
        gre[9] = 47;
        mend(&mut gre);
        pieces.push(gre);
        for mut bytes in pieces {
            let link = [&desk.arriving(port, &whole)[..14], &bytes].concat();
            let sent = arrives(&mut desk, 0, port, &link);
            bytes[8] -= 1;
            mend(&mut bytes);
            let other = INTERNAL + EXTERNAL - port;
            let expected = [&desk.leaving(other, &whole).1[..14], &bytes].concat();
            assert_eq!(sent, [(other, expected)], "{:?}", desk.drops());
        }
    }
    is_stateless(&desk);
    assert_eq!(counts(&desk), [3, 3]);
    // A rule with ports is not asked of fragments, and they are not translated instead.
    let whole = Packet { df: false, ..udp((HOST, 1), server(5000)) };
    for piece in whole.fragments(&[44, whole.len()]) {
        let frame = [&desk.arriving(INTERNAL, &whole)[..14], &piece].concat();
        desk.frame_refused(INTERNAL, &frame, FragmentRefused);
    }
    assert_eq!(desk.mappings(), 0);
}

fn mend(packet: &mut [u8]) {
    put(packet, 10, 0);
    let sum = crate::wire::checksum(&packet[..20]);
    put(packet, 10, sum);
}

#[test]
fn bypassed_packets_expire_and_are_too_big_like_others() {
    let yaml = with_rules("");
    let yaml = yaml.replace("    device: net_null1\n", "    device: net_null1\n    mtu: 700\n");
    let mut desk = Desk::new(&yaml);
    // The farm is told of its own packets, between addresses that it may see.
    desk.lab.watch = None;
    let packet = udp((HOST, 1), (ip(FARM), 53));
    desk.refused(INTERNAL, &Packet { ttl: 1, ..packet.clone() }, TtlExpired);
    let back = udp((FARM, 1), (ip(HOST), 53));
    desk.refused(EXTERNAL, &Packet { ttl: 1, ..back }, TtlExpired);
    let big = Packet { payload: vec![7; 800], ..packet };
    desk.refused(INTERNAL, &big, TooBig);
    assert_eq!(desk.lab.sum(|c| c.errors_sent.value()), 3);
    // Without DF in pieces, the ports only in the first; also by a rule that asks for ports.
    for to in [(ip(FARM), 53), server(5000)] {
        let big = Packet { df: false, payload: vec![7; 800], ..udp((HOST, 1), to) };
        let frame = desk.arriving(INTERNAL, &big);
        let sent = arrives(&mut desk, 0, INTERNAL, &frame);
        let link = desk.leaving(EXTERNAL, &big).1[..14].to_vec();
        let expected = Packet { ttl: big.ttl - 1, ..big }.pieces(700);
        let expected: Frames =
            expected.iter().map(|piece| (EXTERNAL, [&link[..], piece].concat())).collect();
        assert_eq!(sent, expected, "{:?}", desk.drops());
    }
}

#[test]
fn bypass_goes_on_when_there_is_no_dynamic_state_left_6888_req_11() {
    let pool = "{ addresses: [203.0.113.0], ports: 1024-1087, allocation: { block-size: 64, \
                max-blocks: 1 } }";
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&config(pool, RULES).replace("/10]", "/16]"), workers, 1);
        for port in 1..=64 {
            desk.goes_out(&udp((HOST, port), server(53)));
        }
        desk.refused(INTERNAL, &udp((HOST, 65), server(53)), SubscriberPorts);
        desk.refused(INTERNAL, &udp(("100.64.3.10", 65), server(53)), PoolExhausted);
        for n in 1..=1000 {
            desk.lab.advance_silently(3_600);
            passes(&mut desk, INTERNAL, &tcp((HOST, n), (ip(FARM), 80), ACK));
            passes(&mut desk, EXTERNAL, &tcp((FARM, 80), (ip(HOST), n), ACK));
        }
        let all = 1000 * u64::from(workers);
        assert_eq!(counts(&desk), [all, all]);
        assert_eq!(desk.drops(), [(SubscriberPorts, 1), (PoolExhausted, 1)].into());
    }
}

#[test]
fn twenty_thousand_relays_inside_reach_one_server_from_port_67_6888_req_6() {
    let mut desk = Desk::new(&with_rules(""));
    for n in 0..20_000u32 {
        let relay = std::net::Ipv4Addr::from(ip("100.64.128.0") + n).to_string();
        passes(&mut desk, INTERNAL, &udp((&relay, 67), server(67)));
        passes(&mut desk, EXTERNAL, &udp((SERVER, 67), (ip(&relay), 67)));
    }
    is_stateless(&desk);
}

#[test]
fn a_rule_comes_before_a_static_mapping() {
    let statics = "static: [{ internal: 100.64.9.9, external: 203.0.113.100 }]\n";
    let mut desk = Desk::new(&with_rules(statics));
    let host = "100.64.9.9";
    passes(&mut desk, INTERNAL, &udp((host, 1), (ip(FARM), 1)));
    passes(&mut desk, EXTERNAL, &udp((FARM, 1), (ip(host), 1)));
    assert_eq!(desk.goes_out(&udp((host, 1), server(1))), (ip("203.0.113.100"), 1));
    // The farm may use the external address too.
    desk.comes_in(&udp((FARM, 1), (ip("203.0.113.100"), 1)), (host, 1));
}
