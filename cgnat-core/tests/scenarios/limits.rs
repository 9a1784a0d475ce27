//! Limits of one subscriber (RFC 6888 REQ-4, REQ-5, REQ-11): the next one is refused under its
//! own reason and told so, what exists goes on, others notice nothing.

use cgnat_core::endpoint::IpProtocol;
use cgnat_core::verdict::DropReason::{self, *};

use crate::desk::*;
use crate::wire::{Body, Link, Packet, ip};

const HOST: &str = "100.64.3.9";
const OTHER: &str = "100.64.7.7";

/// A configuration with limits for everybody.
pub fn limited(yaml: &str, limits: &str) -> String {
    let with = yaml.replace("pool: main }", &format!("pool: main, limits: {limits} }}"));
    assert_ne!(with, yaml);
    with
}

/// Refused under `reason`, and the sender is told 3/1, byte for byte (RFC 6888 REQ-11b).
pub fn refused_and_told(desk: &mut Desk, packet: &Packet, reason: DropReason) {
    let before = desk.lab.drops(reason);
    let kept = 548 - 20 - packet.options.len();
    let mut error = udp(("10.255.0.2", 1), (packet.source, 1));
    error.identification = 0;
    error.body = Body::Error { kind: 3, code: 1, rest: 0, about: Box::new(packet.clone()), kept };
    error.payload = Vec::new();
    let from = cgnat_core::testing::lab::port_mac(INTERNAL);
    let link = Link { to: HOPS[INTERNAL], from, vlan: None };
    let told = (INTERNAL, link.frame(0x0800, &error.bytes()));
    assert_eq!(desk.offer(INTERNAL, packet), [told], "{:?}", desk.drops());
    assert_eq!(desk.lab.drops(reason), before + 1, "{:?}", desk.drops());
}

#[test]
fn one_more_mapping_than_the_ports_limit_is_refused_and_nobody_else_notices_6888_req_4() {
    let mut desk = Desk::new(&limited(&plain(), "{ ports: 100 }"));
    let ends: Vec<_> =
        (1..=100).map(|port| desk.goes_out(&udp((HOST, port), server(80)))).collect();
    refused_and_told(&mut desk, &udp((HOST, 101), server(80)), LimitPorts);
    refused_and_told(&mut desk, &tcp((HOST, 101), server(80), SYN), LimitPorts);
    refused_and_told(&mut desk, &echo(true, HOST, ip(SERVER), 9), LimitPorts);
    // Nothing existing is taken (RFC 6888 REQ-11d), not even used less.
    for (n, outside) in ends.iter().enumerate() {
        let inside = (HOST, n as u16 + 1);
        assert_eq!(desk.goes_out(&udp(inside, server(81))), *outside);
        desk.comes_in(&udp((SERVER, 80), *outside), inside);
    }
    for port in 1..=100 {
        desk.goes_out(&udp((OTHER, port), server(80)));
    }
    assert_eq!(desk.drops(), [(LimitPorts, 3)].into());
    // A mapping that has ended makes room, at once and although its port still rests.
    desk.lab.advance(301_000);
    desk.goes_out(&udp((HOST, 101), server(80)));
}

#[test]
fn udp_50_and_tcp_100_act_separately_6888_req_4b() {
    let mut desk = Desk::new(&limited(&plain(), "{ ports: { udp: 50, tcp: 100 } }"));
    for port in 1..=100 {
        desk.goes_out(&tcp((HOST, port), server(80), SYN));
        desk.goes_out(&echo(true, HOST, ip(SERVER), port));
    }
    for port in 1..=50 {
        desk.goes_out(&udp((HOST, port), server(80)));
    }
    refused_and_told(&mut desk, &udp((HOST, 51), server(80)), LimitPorts);
    refused_and_told(&mut desk, &tcp((HOST, 101), server(80), SYN), LimitPorts);
    desk.goes_out(&echo(true, HOST, ip(SERVER), 101));
}

#[test]
fn each_group_has_its_own_limits_6888_req_4a() {
    let two = "subscribers:
  - { name: small, match: [100.64.3.0/24], pool: main, limits: { ports: 2 } }
  - { name: large, match: [100.64.4.0/24], pool: main, limits: { sessions: 3 } }";
    let mut desk = Desk::new(&plain().replace("subscribers:", two));
    for port in 1..=9 {
        desk.goes_out(&udp((OTHER, port), server(80)));
        let expected = [("100.64.3.1", 2, LimitPorts), ("100.64.4.1", 3, LimitSessions)];
        for (host, most, reason) in expected {
            let packet = udp((host, port), server(80));
            if port <= most {
                desk.goes_out(&packet);
            } else {
                desk.refused(INTERNAL, &packet, reason);
            }
        }
    }
    assert_eq!(desk.drops(), [(LimitPorts, 7), (LimitSessions, 6)].into());
}

#[test]
fn sessions_are_tcp_sessions_and_udp_and_icmp_mappings_6888_req_5() {
    let mut desk = Desk::new(&limited(&plain(), "{ sessions: 6 }"));
    let outside = desk.goes_out(&tcp((HOST, 1), server(1), SYN));
    for port in 2..=4 {
        assert_eq!(desk.goes_out(&tcp((HOST, 1), server(port), SYN)), outside);
    }
    desk.goes_out(&udp((HOST, 1), server(1)));
    // Another destination of a UDP mapping is no session of its own.
    desk.goes_out(&udp((HOST, 1), server(2)));
    desk.goes_out(&echo(true, HOST, ip(SERVER), 1));
    refused_and_told(&mut desk, &tcp((HOST, 1), server(5), SYN), LimitSessions);
    refused_and_told(&mut desk, &tcp((HOST, 2), server(1), SYN), LimitSessions);
    refused_and_told(&mut desk, &udp((HOST, 2), server(1)), LimitSessions);
    // The refused SYN left no mapping behind, and the sessions work.
    assert_eq!(desk.mappings(), 3);
    desk.comes_in(&tcp((SERVER, 4), outside, SYN | ACK), (HOST, 1));
    desk.goes_out(&tcp((HOST, 1), server(4), ACK));
    // The ping ends after 60 s and makes room for one.
    desk.lab.advance(61_000);
    desk.goes_out(&tcp((HOST, 1), server(5), SYN));
    refused_and_told(&mut desk, &tcp((HOST, 1), server(6), SYN), LimitSessions);
}

#[test]
fn strangers_have_their_own_limit_and_use_up_nothing_of_the_subscriber_6888_req_5a() {
    let mut desk = Desk::new(&limited(&plain(), "{ sessions: 10, inbound-sessions: 5 }"));
    let outside = desk.goes_out(&tcp((HOST, 1), server(1), SYN));
    let stranger = |n: u32| std::net::Ipv4Addr::from(ip("9.0.0.1") + n).to_string();
    for n in 0..5 {
        desk.comes_in(&tcp((&stranger(n), 1), outside, SYN), (HOST, 1));
    }
    for n in 5..2000 {
        desk.refused(EXTERNAL, &tcp((&stranger(n), 1), outside, SYN), LimitInboundSessions);
    }
    for port in 2..=10 {
        desk.goes_out(&tcp((HOST, 1), server(port), SYN));
    }
    refused_and_told(&mut desk, &tcp((HOST, 1), server(11), SYN), LimitSessions);
    // Another mapping of the same subscriber does not open the door again.
    desk.lab.advance(241_000);
    let second = desk.goes_out(&tcp((HOST, 2), server(1), SYN));
    let outside = desk.goes_out(&tcp((HOST, 1), server(1), SYN));
    for n in 0..5 {
        let to = if n < 3 { (outside, 1) } else { (second, 2) };
        desk.comes_in(&tcp((&stranger(n), 1), to.0, SYN), (HOST, to.1));
    }
    desk.refused(EXTERNAL, &tcp((&stranger(7), 1), second, SYN), LimitInboundSessions);
}

#[test]
fn a_session_that_the_other_side_opens_anew_changes_hands_and_is_counted_once() {
    let mut desk = Desk::new(&limited(&plain(), "{ sessions: 1, inbound-sessions: 1 }"));
    let outside = desk.goes_out(&tcp((HOST, 1), server(1), SYN));
    desk.comes_in(&tcp((SERVER, 1), outside, SYN | ACK), (HOST, 1));
    desk.goes_out(&tcp((HOST, 1), server(1), FIN | ACK));
    desk.comes_in(&tcp((SERVER, 1), outside, FIN | ACK), (HOST, 1));
    // Closing on both sides; the server opens it anew: now it is an inbound one.
    desk.comes_in(&tcp((SERVER, 1), outside, SYN), (HOST, 1));
    desk.lab.audit();
    desk.refused(EXTERNAL, &tcp((SERVER, 2), outside, SYN), LimitInboundSessions);
    desk.goes_out(&tcp((HOST, 1), server(3), SYN));
    desk.refused(INTERNAL, &tcp((HOST, 1), server(4), SYN), LimitSessions);
}

#[test]
fn sessions_are_opened_at_the_rate_and_after_a_pause_in_a_burst_6888_req_4c() {
    let limits = "{ new-sessions-per-second: { rate: 7, burst: 20 } }";
    let mut desk = Desk::new(&limited(&plain(), limits));
    let mut port = 0;
    let mut opened_in = |desk: &mut Desk, ms: u64| {
        let mut opened = 0;
        for _ in 0..ms / 100 {
            desk.lab.now = desk.lab.now.plus_millis(100);
            for _ in 0..5 {
                port += 1;
                let packet = udp((HOST, port), server(80));
                opened += u64::from(desk.offer(INTERNAL, &packet).iter().any(|s| s.0 == EXTERNAL));
            }
        }
        opened
    };
    assert_eq!(opened_in(&mut desk, 100), 5);
    assert_eq!(opened_in(&mut desk, 1_000), 20 - 5 + 7);
    assert_eq!(opened_in(&mut desk, 20_000), 140);
    let drops = desk.lab.drops(LimitSessionRate);
    assert_eq!(drops, 5 * 211 - 5 - 22 - 140);
    // An old flow is not a new one, and others have buckets of their own.
    desk.goes_out(&udp((HOST, 1), server(81)));
    desk.goes_out(&udp((OTHER, 1), server(81)));
    desk.lab.advance(10_000);
    assert_eq!(opened_in(&mut desk, 500), 20 + 3);
    assert_eq!(desk.drops(), [(LimitSessionRate, drops + 2)].into());
}

#[test]
fn a_refused_flow_costs_no_token_and_each_tcp_session_costs_one_6888_req_5b() {
    let limits = "{ ports: 2, new-sessions-per-second: { rate: 1, burst: 4 } }";
    let mut desk = Desk::new(&limited(&plain(), limits));
    desk.goes_out(&tcp((HOST, 1), server(1), SYN));
    desk.goes_out(&tcp((HOST, 2), server(1), SYN));
    for port in 3..13 {
        desk.refused(INTERNAL, &tcp((HOST, port), server(1), SYN), LimitPorts);
    }
    // Repeated SYNs open nothing.
    for _ in 0..10 {
        desk.goes_out(&tcp((HOST, 1), server(1), SYN));
    }
    desk.goes_out(&tcp((HOST, 1), server(2), SYN));
    desk.goes_out(&tcp((HOST, 1), server(3), SYN));
    refused_and_told(&mut desk, &tcp((HOST, 1), server(4), SYN), LimitSessionRate);
    desk.lab.advance(900);
    desk.refused(INTERNAL, &tcp((HOST, 1), server(4), SYN), LimitSessionRate);
    desk.lab.advance(100);
    desk.goes_out(&tcp((HOST, 1), server(4), SYN));
}

#[test]
fn a_group_may_have_fewer_blocks_than_its_pool_allows() {
    let mut desk = Desk::new(&limited(&one_address(8, 4), "{ blocks: 2 }"));
    for port in 1..=128 {
        desk.goes_out(&udp((HOST, port), server(80)));
    }
    refused_and_told(&mut desk, &udp((HOST, 129), server(80)), LimitBlocks);
    desk.goes_out(&tcp((HOST, 129), server(80), SYN));
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 2);
}

const LIFELINES: &str = "reserved: { ports: 8, for: [udp/53, tcp/53, tcp/443] }";

/// Uses up what `HOST` may have of UDP and TCP for flows that are no lifelines.
fn use_up(desk: &mut Desk, ports: std::ops::RangeInclusive<u16>, reason: DropReason) {
    for port in ports {
        desk.goes_out(&udp((HOST, port), server(5000)));
        desk.goes_out(&tcp((HOST, port), server(80), SYN));
    }
    desk.refused(INTERNAL, &udp((HOST, 5000), server(5000)), reason);
    desk.refused(INTERNAL, &tcp((HOST, 5000), server(80), SYN), reason);
}

/// Eight of each protocol, and not one more, under `reason`.
fn lifelines_work(desk: &mut Desk, reason: DropReason) {
    for port in 5001..=5008 {
        desk.goes_out(&udp((HOST, port), server(53)));
        let to = if port % 2 == 0 { 53 } else { 443 };
        desk.goes_out(&tcp((HOST, port), server(to), SYN));
    }
    desk.refused(INTERNAL, &udp((HOST, 5009), server(53)), reason);
    desk.refused(INTERNAL, &tcp((HOST, 5009), server(443), SYN), reason);
}

#[test]
fn dns_and_https_still_work_when_the_blocks_are_used_up() {
    let mut desk = Desk::new(&limited(&one_address(4, 2), &format!("{{ {LIFELINES} }}")));
    use_up(&mut desk, 1..=120, ReservedPorts);
    lifelines_work(&mut desk, SubscriberPorts);
    // ICMP has no lifeline, so all its identifiers are for everybody.
    for id in 1..=128 {
        desk.goes_out(&echo(true, HOST, ip(SERVER), id));
    }
    desk.refused(INTERNAL, &echo(true, HOST, ip(SERVER), 129), SubscriberPorts);
    assert_eq!(desk.drops(), [(SubscriberPorts, 3), (ReservedPorts, 2)].into());
}

#[test]
fn dns_and_https_still_work_when_the_pool_is_exhausted() {
    for workers in [1, 2] {
        let yaml = limited(&one_address(2, 4), &format!("{{ {LIFELINES} }}"));
        let mut desk = Desk::with(&yaml, workers, 1);
        desk.goes_out(&udp((HOST, 1), server(5000)));
        desk.goes_out(&udp((OTHER, 1), server(5000)));
        desk.goes_out(&tcp((HOST, 1), server(80), SYN));
        use_up(&mut desk, 2..=56, ReservedPorts);
        lifelines_work(&mut desk, AddressExhausted);
        // A subscriber without a block has nothing that could be kept for it.
        desk.refused(INTERNAL, &udp(("100.64.9.9", 1), server(53)), PoolExhausted);
    }
}

#[test]
fn the_ports_limit_keeps_a_part_for_lifelines_too() {
    let limits = format!("{{ ports: {{ tcp: 40, udp: 40 }}, {LIFELINES} }}");
    let mut desk = Desk::new(&limited(&plain(), &limits));
    use_up(&mut desk, 1..=32, ReservedPorts);
    lifelines_work(&mut desk, LimitPorts);
}

#[test]
fn a_further_block_is_taken_before_the_reserve() {
    let mut desk = Desk::new(&limited(&one_address(4, 2), &format!("{{ {LIFELINES} }}")));
    for port in 1..=56 {
        desk.goes_out(&udp((HOST, port), server(5000)));
    }
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 1);
    desk.goes_out(&udp((HOST, 57), server(53)));
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 1);
    desk.goes_out(&udp((HOST, 58), server(5000)));
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 2);
}

#[test]
fn ports_that_have_rested_are_free_again_for_everybody() {
    let mut desk = Desk::new(&limited(&one_address(1, 1), &format!("{{ {LIFELINES} }}")));
    for port in 1..=56 {
        desk.goes_out(&udp((HOST, port), server(5000)));
    }
    desk.refused(INTERNAL, &udp((HOST, 57), server(5000)), ReservedPorts);
    // At 301 s they end and rest; at 422 s they are free.
    desk.lab.advance(301_000);
    desk.refused(INTERNAL, &udp((HOST, 57), server(5000)), ReservedPorts);
    desk.goes_out(&udp((HOST, 57), server(53)));
    desk.lab.advance(121_000);
    for port in 100..=154 {
        desk.goes_out(&udp((HOST, port), server(5000)));
    }
    desk.refused(INTERNAL, &udp((HOST, 155), server(5000)), ReservedPorts);
}

#[test]
fn mapping_and_filtering_are_the_same_at_0_95_and_100_percent_4787_req_11() {
    let yaml = limited(&one_address(2, 1), "{ sessions: 300, new-sessions-per-second: 1000 }");
    let mut desk = Desk::new(&yaml);
    let probe = |desk: &mut Desk, port: u16| {
        // Endpoint independent, both: one external endpoint, and a stranger gets in.
        let outside = desk.goes_out(&udp((HOST, port), server(80)));
        assert_eq!(desk.goes_out(&udp((HOST, port), (ip("198.51.100.77"), 9))), outside);
        desk.comes_in(&udp(("192.88.99.1", 4), outside), (HOST, port));
        outside
    };
    let first = probe(&mut desk, 1);
    for port in 2..=60 {
        desk.goes_out(&udp((HOST, port), server(80)));
    }
    probe(&mut desk, 61);
    for port in 62..=64 {
        probe(&mut desk, port);
    }
    desk.refused(INTERNAL, &udp((HOST, 65), server(80)), SubscriberPorts);
    assert_eq!(probe(&mut desk, 1), first);
    assert_eq!(desk.drops(), [(SubscriberPorts, 1)].into());
}

#[test]
fn ten_times_more_flows_than_ports_and_afterwards_every_port_is_back_6888_req_11a() {
    for (workers, limits) in [
        (1, "{ ports: 70 }".to_owned()),
        (1, format!("{{ sessions: 150, inbound-sessions: 3, {LIFELINES} }}")),
        (2, format!("{{ blocks: 1, {LIFELINES} }}")),
        (3, "{ new-sessions-per-second: { rate: 40, burst: 40 } }".to_owned()),
    ] {
        let mut desk = Desk::with(&limited(&one_address(16, 4), &limits), workers, 5);
        let all = 16 * 64 * 3;
        let hosts: Vec<String> = (0..12)
            .map(|n| subscriber_of(n % workers, workers, usize::from(n / workers)))
            .collect();
        let (mut offered, mut out) = (0u64, 0u64);
        for port in 1..=860u16 {
            for host in &hosts {
                desk.at = usize::from(port) % usize::from(workers);
                let packets = [
                    udp((host, port), server([53, 5000][usize::from(port) % 2])),
                    tcp((host, port), server([80, 443][usize::from(port) % 2]), SYN),
                    echo(true, host, ip(SERVER), port),
                ];
                for packet in packets {
                    offered += 1;
                    let sent = desk.offer(INTERNAL, &packet);
                    out += sent.iter().filter(|(port, _)| *port == EXTERNAL).count() as u64;
                }
            }
            if port % 20 == 0 {
                desk.lab.advance(1_000);
            }
        }
        // Each was translated or dropped under a reason, and told no more often than is due.
        assert!(offered > 10 * all, "{offered} flows");
        let drops = desk.drops();
        let refused: u64 = drops.values().sum();
        assert_eq!(out + refused, offered, "{drops:?}");
        assert!(drops.keys().all(|reason| reason.is_refusal()), "{drops:?}");
        let told = desk.lab.sum(|c| c.errors_sent.value() + c.errors_withheld.value());
        assert_eq!(told, refused, "{drops:?}");
        assert_eq!(desk.mappings(), desk.lab.sum(|c| c.mappings_created.value()));
        for seconds in [300, 300, 130, 130] {
            desk.lab.advance(seconds * 1_000);
        }
        let census = desk.lab.port_census();
        assert_eq!((census.free, census.total()), (all, all), "{limits}");
        let left = |c: &cgnat_core::control::counters::WorkerCounters| {
            c.sessions.value() + c.subscribers.value() + c.blocks_in_use.value()
        };
        assert_eq!((desk.lab.sum(left), desk.mappings()), (0, 0));
        desk.goes_out(&udp((&hosts[0], 1), server(80)));
    }
}

#[test]
fn a_deterministic_range_has_limits_and_lifelines_too() {
    let allocation = "mode: deterministic, ports-per-subscriber: 20, overflow: { ports: 256, \
                      block-size: 64, max-blocks: 2 }";
    let pool =
        format!("{{ addresses: [203.0.113.9], ports: 1024-1319, allocation: {{ {allocation} }} }}");
    let yaml = config(&pool, "").replace("100.64.0.0/10", "100.64.3.8/31");
    // Its range alone, without overflow.
    let mut desk = Desk::new(&limited(&yaml, &format!("{{ blocks: 1, {LIFELINES} }}")));
    use_up(&mut desk, 1..=12, ReservedPorts);
    lifelines_work(&mut desk, LimitBlocks);
    // With overflow: the range and two blocks of 64 ports, less the reserve.
    let mut desk = Desk::new(&limited(&yaml, &format!("{{ {LIFELINES} }}")));
    use_up(&mut desk, 1..=140, ReservedPorts);
    lifelines_work(&mut desk, SubscriberPorts);
}

/// What is remembered of a subscriber: reason, protocol, destination port, limit, how often.
pub fn remembered(desk: &mut Desk, host: &str) -> Vec<(DropReason, IpProtocol, u16, u32, u32)> {
    let list = desk.lab.refusals().subscribers.remove(&host.parse().unwrap());
    list.unwrap_or_default()
        .iter()
        .map(|r| (r.reason, r.protocol, r.destination_port, r.limit, r.count))
        .collect()
}

#[test]
fn the_last_refusals_of_each_subscriber_are_remembered_with_their_limits() {
    let yaml = limited(&plain(), "{ ports: { udp: 2 }, sessions: 5 }");
    let mut desk = Desk::with(&yaml, 2, 1);
    for port in 1..=2 {
        desk.goes_out(&udp((HOST, port), server(80)));
    }
    for port in 3..=12 {
        desk.refused(INTERNAL, &udp((HOST, port), server(53)), LimitPorts);
    }
    desk.goes_out(&tcp((HOST, 1), server(80), SYN));
    desk.goes_out(&tcp((HOST, 1), server(81), SYN));
    desk.goes_out(&tcp((HOST, 1), server(82), SYN));
    desk.refused(INTERNAL, &tcp((HOST, 1), server(83), SYN), LimitSessions);
    desk.refused(INTERNAL, &tcp((HOST, 2), server(443), SYN), LimitSessions);
    let mut expected = vec![
        (LimitPorts, IpProtocol::UDP, 53, 2, 10),
        (LimitSessions, IpProtocol::TCP, 83, 5, 1),
        (LimitSessions, IpProtocol::TCP, 443, 5, 1),
    ];
    assert_eq!(remembered(&mut desk, HOST), expected);
    // More than a second later it is another one, and after 32 the oldest is gone.
    desk.lab.advance(1_200);
    for n in 0..31 {
        desk.refused(INTERNAL, &udp((HOST, 3), server(1000 + n)), LimitPorts);
        expected.push((LimitPorts, IpProtocol::UDP, 1000 + n, 2, 1));
    }
    assert_eq!(remembered(&mut desk, HOST), expected[2..]);
    // What is no refusal of a limit or for want of room is not remembered, nor what strangers do.
    desk.refused(INTERNAL, &tcp((OTHER, 1), server(80), ACK), TcpNotSyn);
    assert!(remembered(&mut desk, OTHER).is_empty());
}

#[test]
fn who_never_got_a_port_is_remembered_too() {
    let mut desk = Desk::new(&one_address(1, 1));
    desk.goes_out(&udp((OTHER, 1), server(80)));
    for _ in 0..3 {
        desk.refused(INTERNAL, &udp((HOST, 1), server(53)), PoolExhausted);
    }
    desk.refused(INTERNAL, &echo(true, HOST, ip(SERVER), 77), PoolExhausted);
    let expected =
        [(PoolExhausted, IpProtocol::UDP, 53, 1, 3), (PoolExhausted, IpProtocol::ICMP, 77, 1, 1)];
    assert_eq!(remembered(&mut desk, HOST), expected);
}
