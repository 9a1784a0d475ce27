//! Several pools for one group: in order for new subscribers, and by destination.

use std::collections::BTreeSet;

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Body, GRE, Packet, ip};

/// Pools `main` (two blocks of 64), `spare` (three), `dns` and `far`; `ways` are keys of the
/// group.
fn pools(ways: &str, more: &str) -> String {
    let blocks = "allocation: { block-size: 64, max-blocks: 2 }";
    let main = format!(
        "{{ addresses: [203.0.113.0], ports: 1024-1151, {blocks} }}
  spare: {{ addresses: [203.0.113.16], ports: 2048-2239, {blocks} }}
  dns: {{ addresses: [203.0.113.32/31], {blocks} }}
  far: {{ addresses: [203.0.113.48], {blocks}, filtering: address-and-port-dependent }}"
    );
    let group = format!("match: [100.64.0.0/10], {ways} }}\n");
    config(&main, more).replace("match: [100.64.0.0/10], pool: main }\n", &group)
}

const BY_DESTINATION: &str = "pool: main, destinations: [
      { to: [0.0.0.0/0], protocol: udp, ports: [53, 5353], pool: dns },
      { to: [198.51.100.99/32], pool: [main] },
      { to: [198.51.100.64/26, 198.18.0.0/15], pool: far } ]";

const ONE: &str = "100.64.0.1";
const TWO: &str = "100.64.0.2";

fn host(n: u32) -> String {
    std::net::Ipv4Addr::from(ip("100.64.0.0") + n).to_string()
}

/// Which pool an external endpoint is of.
fn pool_of(outside: (u32, u16)) -> &'static str {
    ["main", "spare", "dns", "far"][((outside.0 - ip("203.0.113.0")) / 16) as usize]
}

fn to(address: &str, port: u16) -> (u32, u16) {
    (ip(address), port)
}

#[test]
fn a_new_subscriber_that_a_pool_cannot_take_goes_to_the_next_and_the_last_refusal_is_told() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&pools("pool: [main, spare]", ""), workers, 1);
        for n in 0..5 {
            desk.at = n as usize % usize::from(workers);
            let outside = desk.goes_out(&udp((&host(n), 5000), server(80)));
            assert_eq!(pool_of(outside), if n < 2 { "main" } else { "spare" }, "{workers}");
        }
        desk.refused(INTERNAL, &udp((&host(5), 5000), server(80)), PoolExhausted);
        assert_eq!(desk.drops(), [(PoolExhausted, 1)].into(), "nobody else was refused");
        let spilled = |pool| desk.lab.space().occupancy().spilled(pool);
        assert_eq!((spilled(0), spilled(1)), (3, 0));
    }
}

#[test]
fn who_has_a_pool_stays_there_and_who_is_new_again_begins_with_the_first_6888_req_2() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&pools("pool: [main, spare]", ""), workers, 2);
        let ends: Vec<_> =
            (0..3).map(|n| desk.goes_out(&udp((&host(n), 5000), server(80)))).collect();
        let in_pools: Vec<_> = ends.iter().map(|end| pool_of(*end)).collect();
        assert_eq!(in_pools, ["main", "main", "spare"]);
        // The third keeps its pool while the first two leave.
        for _ in 0..3 {
            desk.lab.advance(250_000);
            let outside = desk.goes_out(&udp((&host(2), 5000), server(80)));
            assert_eq!(outside, ends[2]);
        }
        assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 1);
        let further = desk.goes_out(&tcp((&host(2), 7), server(443), SYN));
        assert_eq!(further.0, ends[2].0, "a further flow does not spill");
        // In the end it leaves too, and starts from the first pool.
        desk.lab.advance(8 * 3_600_000);
        desk.lab.advance(130_000);
        assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 0);
        assert_eq!(pool_of(desk.goes_out(&udp((&host(2), 5000), server(80)))), "main");
    }
}

#[test]
fn a_subscriber_whose_pool_is_full_does_not_spill_7857_s4a() {
    let mut desk = Desk::new(&pools("pool: [main, spare]", ""));
    for port in 1..=128 {
        assert_eq!(pool_of(desk.goes_out(&udp((ONE, port), server(80)))), "main");
    }
    desk.refused(INTERNAL, &udp((ONE, 129), server(80)), SubscriberPorts);
    assert_eq!(pool_of(desk.goes_out(&udp((TWO, 1), server(80)))), "spare");
}

#[test]
fn each_kind_of_refusal_of_a_pool_spills() {
    let selection = "address-selection: subscriber-bits, subscriber-bits: 0.0.0.0, ports: 1024";
    let by_bits = pools("pool: [main, spare]", "").replace("ports: 1024", selection);
    let capped = "max-subscribers-per-address: 1, ports: 1024";
    let capped = pools("pool: [main, spare]", "").replace("ports: 1024", capped);
    for (yaml, room) in [(by_bits, 2), (capped, 1)] {
        for workers in [1, 2] {
            let mut desk = Desk::with(&yaml, workers, 3);
            for n in 0..room + 3 {
                let outside = desk.goes_out(&udp((&host(n), 5000), server(80)));
                assert_eq!(pool_of(outside), if n < room { "main" } else { "spare" });
            }
            desk.refused(INTERNAL, &udp((&host(9), 5000), server(80)), PoolExhausted);
        }
    }
}

#[test]
fn the_first_rule_that_matches_chooses_the_pool_and_else_the_own_pool_serves() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&pools(BY_DESTINATION, ""), workers, 4);
        let flows = [
            (udp((ONE, 5000), to("198.51.100.7", 80)), "main"),
            (udp((ONE, 5000), to("198.51.100.7", 53)), "dns"),
            (udp((ONE, 5000), to("198.51.100.99", 5353)), "dns"),
            (tcp((ONE, 5000), to("198.51.100.7", 53), SYN), "main"),
            (tcp((ONE, 5000), to("198.51.100.64", 53), SYN), "far"),
            (udp((ONE, 5000), to("198.51.100.127", 80)), "far"),
            (udp((ONE, 5000), to("198.51.100.99", 80)), "main"),
            (udp((ONE, 5000), to("198.19.255.255", 80)), "far"),
            (echo(true, ONE, ip("198.51.100.70"), 53), "far"),
            (echo(true, ONE, ip("198.51.100.7"), 53), "main"),
        ];
        let mut ends = BTreeSet::new();
        for (packet, pool) in &flows {
            let outside = desk.goes_out(packet);
            assert_eq!(pool_of(outside), *pool, "{packet:?}");
            ends.insert((packet.protocol(), outside));
        }
        // One mapping per protocol and realm, whatever the destination (4787-REQ-1).
        assert_eq!((desk.mappings(), ends.len()), (7, 7));
        for (packet, _) in flows.iter().rev() {
            assert!(ends.contains(&(packet.protocol(), desk.goes_out(packet))), "it is the same");
        }
        assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 3, "one record per realm");
        assert_eq!(desk.drops(), [].into());
    }
}

#[test]
fn answers_come_in_by_the_mapping_of_their_realm_and_others_do_not_pass() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&pools(BY_DESTINATION, ""), workers, 5);
        let main = desk.goes_out(&udp((ONE, 5000), to("198.51.100.7", 80)));
        let dns = desk.goes_out(&udp((ONE, 5000), to("198.51.100.7", 53)));
        for at in 0..usize::from(workers) {
            desk.at = at;
            desk.comes_in(&udp(("198.51.100.7", 80), main), (ONE, 5000));
            desk.comes_in(&udp(("198.51.100.7", 53), dns), (ONE, 5000));
            // Endpoint independent within a realm (6888-REQ-7).
            desk.comes_in(&udp(("192.0.2.77", 81), main), (ONE, 5000));
            desk.comes_in(&udp(("192.0.2.77", 53), dns), (ONE, 5000));
            // The answer would have another source.
            desk.refused(EXTERNAL, &udp(("192.0.2.77", 81), dns), Filtered);
            desk.refused(EXTERNAL, &udp(("192.0.2.77", 53), main), Filtered);
            desk.refused(EXTERNAL, &udp(("198.51.100.70", 81), main), Filtered);
        }
    }
}

#[test]
fn each_realm_has_the_filtering_and_the_timers_of_its_own_pool() {
    let yaml = pools(BY_DESTINATION, "timeouts: { udp: { default: 5m, \"53\": 30s } }");
    let mut desk =
        Desk::new(&yaml.replace("timeouts:", "lab: { allow-short-timers: true }\ntimeouts:"));
    let far = desk.goes_out(&udp((ONE, 5000), to("198.51.100.70", 80)));
    desk.comes_in(&udp(("198.51.100.70", 80), far), (ONE, 5000));
    desk.refused(EXTERNAL, &udp(("198.51.100.70", 81), far), Filtered);
    let dns = desk.goes_out(&udp((ONE, 5000), to("198.51.100.7", 53)));
    desk.lab.advance(31_000);
    desk.refused(EXTERNAL, &udp(("198.51.100.7", 53), dns), NoMapping);
    desk.comes_in(&udp(("198.51.100.70", 80), far), (ONE, 5000));
}

#[test]
fn later_fragments_take_the_way_of_their_first() {
    let mut desk = Desk::new(&pools(BY_DESTINATION, ""));
    let mut whole = udp((ONE, 5000), to("198.51.100.7", 53));
    (whole.df, whole.payload) = (false, vec![7; 400]);
    desk.goes_out(&udp((ONE, 5000), to("198.51.100.7", 80)));
    let pieces = whole.fragments(&[20 + 208, whole.bytes().len()]);
    let mut sources = BTreeSet::new();
    for piece in [&pieces[1], &pieces[0]] {
        for (_, frame) in desk.offer_bytes(INTERNAL, piece) {
            sources.insert(pool_of((u32::from_be_bytes(frame[26..30].try_into().unwrap()), 0)));
        }
    }
    assert_eq!(sources, ["dns"].into());
    assert_eq!(desk.drops(), [].into());
}

#[test]
fn an_error_leaves_by_the_realm_of_the_packet_that_it_is_about() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&pools(BY_DESTINATION, ""), workers, 6);
        let main = desk.goes_out(&udp((ONE, 5000), to("198.51.100.7", 80)));
        let dns = desk.goes_out(&udp((ONE, 5000), to("198.51.100.7", 53)));
        for (remote, end) in [(80, main), (53, dns)] {
            let mut about = udp((SERVER, remote), (ip(ONE), 5000));
            about.ttl = 60;
            let error = crate::wire::Packet {
                source: ip(ONE),
                destination: ip(SERVER),
                body: crate::wire::Body::Error {
                    kind: 3,
                    code: 3,
                    rest: 0,
                    kept: about.bytes().len(),
                    about: Box::new(about.clone()),
                },
                payload: vec![],
                ..about.clone()
            };
            let sent = desk.offer(INTERNAL, &error);
            assert_eq!(sent.len(), 1, "{:?}", desk.drops());
            let frame = &sent[0].1;
            assert_eq!(frame[26..30], end.0.to_be_bytes(), "from the address of the flow");
            assert_eq!(frame[58..62], end.0.to_be_bytes(), "which the quote shows too");
            assert_eq!(frame[64..66], end.1.to_be_bytes());
        }
    }
}

#[test]
fn a_hairpinned_packet_leaves_by_the_rule_for_the_endpoint_it_is_sent_to() {
    let ways = "pool: main, destinations: [{ to: [203.0.113.16/28], pool: dns }, { to: \
                [203.0.113.32/28], pool: spare }]";
    for workers in [1, 4] {
        let mut desk = Desk::with(&pools(ways, ""), workers, 7);
        // TWO has an endpoint of the spare pool, for remote ends in the pool `dns`.
        desk.refused(INTERNAL, &udp((TWO, 600), to("203.0.113.33", 2000)), NoMapping);
        let lists = desk.lab.workers.iter().flat_map(|worker| worker.shard().mapping_list());
        let ends: Vec<_> = lists.map(|m| (m.external.address.0, m.external.port)).collect();
        let two = ends[0];
        assert_eq!((pool_of(two), ends.len()), ("spare", 1));
        let sent = desk.offer(INTERNAL, &udp((ONE, 500), two));
        assert_eq!(sent.len(), 1, "{:?}", desk.drops());
        let (port, frame) = &sent[0];
        assert_eq!((*port, &frame[30..34]), (INTERNAL, &ip(TWO).to_be_bytes()[..]));
        let source = u32::from_be_bytes(frame[26..30].try_into().unwrap());
        assert_eq!(pool_of((source, 0)), "dns");
        // Its answer finds the way back.
        let port = u16::from_be_bytes(frame[34..36].try_into().unwrap());
        let sent = desk.offer(INTERNAL, &udp((TWO, 600), (source, port)));
        assert_eq!(sent.len(), 1, "{:?}", desk.drops());
        assert_eq!(sent[0].1[30..34], ip(ONE).to_be_bytes());
        assert_eq!(sent[0].1[26..30], two.0.to_be_bytes());
    }
}

#[test]
fn limits_hold_over_all_realms_together_6888_req_4() {
    let dns = |n: u16| udp((ONE, n), to("198.51.100.7", 53));
    let web = |n: u16| udp((ONE, n), to("198.51.100.7", 80));
    for (limits, reason) in [
        ("ports: 10", LimitPorts),
        ("ports: { udp: 10 }", LimitPorts),
        ("sessions: 10", LimitSessions),
        ("new-sessions-per-second: { rate: 1, burst: 10 }", LimitSessionRate),
    ] {
        let ways = format!("{BY_DESTINATION}, limits: {{ {limits} }}");
        let mut desk = Desk::new(&pools(&ways, ""));
        for n in 1..=5 {
            desk.goes_out(&dns(n));
            desk.goes_out(&web(n));
        }
        desk.refused(INTERNAL, &dns(6), reason);
        desk.refused(INTERNAL, &web(6), reason);
        // A realm that is new to it is no way around its limits.
        desk.refused(INTERNAL, &udp((ONE, 6), to("198.51.100.70", 80)), reason);
        desk.goes_out(&dns(5));
        desk.goes_out(&udp((TWO, 6), server(53)));
    }
}

#[test]
fn blocks_are_limited_over_all_realms_and_inbound_sessions_too() {
    let ways = format!("{BY_DESTINATION}, limits: {{ blocks: 3 }}");
    let mut desk = Desk::new(&pools(&ways, ""));
    for n in 1..=65 {
        desk.goes_out(&udp((ONE, n), server(53)));
    }
    desk.goes_out(&udp((ONE, 1), server(80)));
    // Two blocks for one realm, one for the other, none for the third or for a further flow.
    desk.refused(INTERNAL, &udp((ONE, 1), to("198.51.100.70", 80)), LimitBlocks);
    for n in 2..=64 {
        desk.goes_out(&udp((ONE, n), server(80)));
    }
    desk.refused(INTERNAL, &udp((ONE, 65), server(80)), LimitBlocks);
    let ways = format!("{BY_DESTINATION}, limits: {{ inbound-sessions: 2 }}");
    let mut desk = Desk::new(&pools(&ways, ""));
    let main = desk.goes_out(&tcp((ONE, 1), server(80), SYN));
    desk.comes_in(&tcp(("198.51.100.8", 1), main, SYN), (ONE, 1));
    desk.comes_in(&tcp(("198.51.100.8", 2), main, SYN), (ONE, 1));
    desk.refused(EXTERNAL, &tcp(("198.51.100.8", 3), main, SYN), LimitInboundSessions);
}

#[test]
fn the_bucket_of_new_sessions_outlives_the_realm_that_it_was_spent_in() {
    let limits = "new-sessions-per-second: { rate: 1, burst: 100 }";
    let ways = format!("{BY_DESTINATION}, limits: {{ {limits} }}");
    let more = "lab: { allow-short-timers: true }\ntimeouts: { udp: { default: 5m, \"53\": 1s } }";
    let yaml = pools(&ways, more).replace("max-blocks: 2", "max-blocks: 2, hold: 0s");
    let mut desk = Desk::new(&yaml);
    desk.goes_out(&udp((ONE, 1), server(80)));
    for n in 1..=99 {
        desk.goes_out(&udp((ONE, n), server(53)));
    }
    desk.refused(INTERNAL, &udp((ONE, 2), server(80)), LimitSessionRate);
    desk.lab.advance(2_000);
    desk.lab.advance(1_000);
    assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 1, "the realm of port 53 is empty");
    for n in 2..=4 {
        desk.goes_out(&udp((ONE, n), server(53)));
    }
    desk.refused(INTERNAL, &udp((ONE, 5), server(53)), LimitSessionRate);
}

#[test]
fn ports_kept_for_lifelines_are_kept_in_the_blocks_of_each_realm() {
    let limits = "reserved: { ports: 4, for: [udp/53] }";
    let ways = format!("{BY_DESTINATION}, limits: {{ {limits} }}")
        .replace("ports: [53, 5353]", "ports: [53, 54]");
    let mut desk = Desk::new(&pools(&ways, ""));
    for n in 1..=124 {
        desk.goes_out(&udp((ONE, n), server(54)));
    }
    desk.refused(INTERNAL, &udp((ONE, 125), server(54)), ReservedPorts);
    for n in 125..=128 {
        desk.goes_out(&udp((ONE, n), server(53)));
    }
    desk.refused(INTERNAL, &udp((ONE, 129), server(53)), SubscriberPorts);
}

#[test]
fn a_deterministic_pool_may_be_chosen_by_destination_and_numbers_all_who_may_use_it() {
    let ranges = "203.0.113.64/29], ports: 1024-2023, allocation: { mode: deterministic, \
                  ports-per-subscriber: 100 } }\n  rest: { addresses: [203.0.113.80";
    let two = "pool: main, destinations: [{ to: [198.18.0.0/15], pool: fixed }] }
  - { name: others, match: [100.65.0.0/28], pool: fixed, destinations: [{ to: [198.51.100.0/24], \
               pool: rest }]";
    let yaml = pools(two, "")
        .replace("  far: {", &format!("  fixed: {{ addresses: [{ranges}] }}\n  far: {{"));
    let yaml = yaml.replace("match: [100.64.0.0/10]", "match: [100.64.0.0/27]");
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&yaml, workers, 8);
        for n in 0..48 {
            let host = host(if n < 32 { n } else { 65_536 + n - 32 });
            let (address, first) = (ip("203.0.113.64") + n / 10, 1024 + (n % 10) as u16 * 100);
            let outside = desk.goes_out(&udp((&host, 9), to("198.18.0.1", 80)));
            assert_eq!(outside.0, address, "{host}");
            assert!((first..first + 100).contains(&outside.1), "{host} {outside:?}");
        }
        // `main` has two blocks.
        assert_eq!(pool_of(desk.goes_out(&udp((&host(3), 9), server(80)))), "main");
        let rest = desk.goes_out(&udp((&host(65_536), 9), server(80)));
        assert_eq!(rest.0, ip("203.0.113.80"));
    }
}

fn gre(from: &str, to: &str) -> Packet {
    let mut packet = udp((from, 1), (ip(to), 1));
    packet.body = Body::Bare { protocol: GRE };
    packet
}

fn external_of(sent: &[(usize, Vec<u8>)]) -> (u32, u16) {
    let bytes = &sent[0].1;
    (u32::from_be_bytes([bytes[26], bytes[27], bytes[28], bytes[29]]), 0)
}

#[test]
fn a_protocol_without_ports_follows_rules_that_name_no_ports() {
    let carry = "nat44: { other-protocols: { gre: carry } }";
    for workers in [1, 4] {
        let mut desk = Desk::with(&pools(BY_DESTINATION, carry), workers, 9);
        // The rule for UDP ports is not for GRE, though its prefix holds everything.
        for (to, pool) in
            [("198.51.100.7", "main"), ("198.18.0.1", "far"), ("198.51.100.99", "main")]
        {
            let sent = desk.offer(INTERNAL, &gre(ONE, to));
            assert_eq!(sent.len(), 1, "{to}: {:?}", desk.drops());
            let external = external_of(&sent);
            assert_eq!(pool_of(external), pool, "{to}");
            // The answer comes back; from anybody else nothing does.
            let mut answer = gre(to, ONE);
            answer.destination = external.0;
            assert_eq!(desk.offer(EXTERNAL, &answer).len(), 1, "{to}: {:?}", desk.drops());
            answer.source = ip("198.51.100.8");
            assert!(desk.offer(EXTERNAL, &answer).is_empty());
        }
        assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 2, "a record for each realm");
        // The pairing of a realm is one for all protocols.
        let outside = desk.goes_out(&udp((ONE, 5000), to("198.18.0.1", 80)));
        assert_eq!(pool_of(outside), "far");
    }
}

#[test]
fn flows_without_ports_count_in_all_realms_together() {
    let ways = format!("{BY_DESTINATION}, limits: {{ sessions: 66, blocks: 3 }}");
    let mut desk = Desk::new(&pools(&ways, "nat44: { other-protocols: { gre: carry } }"));
    // Two blocks of the first pool, and one of the second for a pairing alone.
    for port in 1..=65 {
        desk.goes_out(&udp((ONE, port), server(80)));
    }
    assert_eq!(desk.offer(INTERNAL, &gre(ONE, "198.18.0.1")).len(), 1);
    for packet in [gre(ONE, "198.18.0.2"), udp((ONE, 66), server(80))] {
        desk.refused(INTERNAL, &packet, LimitSessions);
    }
    let timeouts_of_udp = 300_000;
    desk.lab.advance(timeouts_of_udp / 2);
    assert_eq!(desk.offer(INTERNAL, &gre(ONE, "198.18.0.1")).len(), 1, "it is prolonged");
    for port in 1..=64 {
        desk.goes_out(&udp((ONE, port), server(80)));
    }
    desk.lab.advance(timeouts_of_udp / 2 + 1_000);
    desk.refused(INTERNAL, &udp((ONE, 1), server(53)), LimitBlocks);
}
