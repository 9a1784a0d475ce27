//! Deterministic pools (RFC 7422): the range that arithmetic says, overflow behind it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use cgnat_core::config::Config;
use cgnat_core::policy::port_choice::BlockFit;
use cgnat_core::shard::BlockWish;
use cgnat_core::space::ExternalSpace;
use cgnat_core::space::lookup::Reverse;
use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::ip;

/// One pool with `allocation` for subscribers of `ranges`.
fn pool(addresses: &str, ports: &str, allocation: &str, ranges: &str) -> String {
    let pool = format!(
        "{{ addresses: [{addresses}], ports: {ports}, allocation: {{ mode: deterministic, \
         {allocation} }} }}"
    );
    config(&pool, "").replace("100.64.0.0/10", ranges)
}

/// Two subscribers with 20 ports each, and four overflow blocks of 64 ports on the address.
fn with_overflow(more: &str) -> String {
    let allocation = format!(
        "ports-per-subscriber: 20, overflow: {{ ports: 256, block-size: 64, max-blocks: 2{more} }}"
    );
    pool("203.0.113.9", "1024-1319", &allocation, "100.64.0.0/31")
}

const ONE: &str = "100.64.0.0";
const TWO: &str = "100.64.0.1";
const ADDRESS: u32 = 0xcb00_7109;

fn host(n: u32) -> String {
    Ipv4Addr::from(ip("100.64.0.0") + n).to_string()
}

#[test]
fn the_example_of_the_rfc_comes_out_as_printed_7422_s2_step2() {
    // 14 hosts, D = 2, C + D = 16, ports below 1024 reserved, M = 5040.
    let hosts = "100.64.0.1/32, 100.64.0.2/31, 100.64.0.4/30, 100.64.0.8/30, 100.64.0.12/31, \
                 100.64.0.14/32";
    let allocation =
        "ports-per-subscriber: 4032, overflow: { ports: 8064, block-size: 64, max-blocks: 7 }";
    let mut desk = Desk::new(&pool("203.0.113.1", "1024-65535", allocation, hosts));
    for (n, range) in [(1, 1024..=5055), (2, 5056..=9087), (14, 53_440..=57_471)] {
        let mut ports = BTreeSet::new();
        for port in 1..=4032 {
            ports.insert(desk.goes_out(&udp((&host(n), port), server(80))).1);
        }
        assert_eq!(ports, range.collect(), "host {n}");
        // The next one is of the dynamic pool.
        let beyond = desk.goes_out(&udp((&host(n), 4033), server(80)));
        assert_eq!(beyond.0, ip("203.0.113.1"));
        assert!((57_472..=65_535).contains(&beyond.1), "{beyond:?}");
    }
}

#[test]
fn every_subscriber_has_its_range_with_any_number_of_workers_7422_s2a() {
    // Five addresses of three ranges of 333 ports; 14 subscribers in two groups of ranges.
    let ranges = "100.64.0.8/29, 100.64.0.0/30, 100.64.0.6/31";
    let order: Vec<u32> = (8..16).chain(0..4).chain(6..8).collect();
    let yaml = pool("203.0.113.0-203.0.113.4", "1025-2024", "ports-per-subscriber: 333", ranges);
    let config = Config::from_yaml("box.yaml", &yaml).unwrap();
    let space = ExternalSpace::new(&config);
    for workers in [1u16, 2, 4] {
        let mut desk = Desk::with(&yaml, workers, u64::from(workers));
        for (number, n) in order.iter().enumerate() {
            let number = number as u32;
            let address = ip("203.0.113.0") + number / 3;
            let first = 1025 + (number % 3) as u16 * 333;
            let host = host(*n);
            // Looking it up offline says the same.
            let internal = Ipv4Addr::from(ip(&host));
            let range = space.forward(&config, internal).only_range().expect("a range");
            assert_eq!((u32::from(range.external), range.ports), (address, (first, first + 332)));
            assert_eq!(space.reverse(range.external, first + 100), Reverse::Range(range));
            for at in 0..usize::from(workers) {
                desk.at = at;
                let flows = [
                    udp((&host, 7000 + at as u16), server(80)),
                    tcp((&host, 7000 + at as u16), server(80), SYN),
                    echo(true, &host, server(0).0, 7000 + at as u16),
                ];
                for flow in flows {
                    let outside = desk.goes_out(&flow);
                    assert_eq!(outside.0, address, "{host}");
                    assert!((first..first + 333).contains(&outside.1), "{host} {outside:?}");
                    if flow.protocol() == crate::wire::UDP {
                        let answer = udp((SERVER, 80), outside);
                        desk.comes_in(&answer, (&host, 7000 + at as u16));
                    }
                }
            }
        }
        // Fourteen of fifteen ranges exist, one each; nobody else's packet came in between.
        assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 14);
        assert_eq!(desk.lab.sum(|c| c.blocks_free.value()), 0);
        assert_eq!(desk.lab.port_census().total(), 14 * 333 * 3);
        assert_eq!(desk.drops(), [].into());
        // The range that is nobody's, and the port that the ranges leave over.
        let outside = |port| (ip("203.0.113.4"), port);
        desk.refused(EXTERNAL, &udp((SERVER, 80), outside(1025 + 2 * 333)), NoMapping);
        desk.refused(EXTERNAL, &udp((SERVER, 80), outside(2024)), PortNotLent);
    }
}

#[test]
fn the_range_survives_the_loss_of_all_state_and_needs_no_rest_6888_req_8b() {
    let yaml = pool("203.0.113.9", "1024-1063", "ports-per-subscriber: 20", "100.64.0.0/31");
    for (workers, seed) in [(1, 1), (2, 7), (4, 9)] {
        let mut desk = Desk::with(&yaml, workers, seed);
        for round in 0..3 {
            let mut ports = BTreeSet::new();
            for port in 1..=20 {
                ports.insert(desk.goes_out(&udp((TWO, port + 100 * round), server(80))).1);
            }
            assert_eq!(ports, (1044..=1063).collect());
            desk.refused(INTERNAL, &udp((TWO, 999), server(80)), SubscriberPorts);
            // Everything expires; every port is free again at once.
            desk.lab.advance(301_000);
            assert_eq!(desk.mappings(), 0);
        }
        desk.lab.advance(600);
        assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 0);
    }
}

#[test]
fn ports_of_a_range_rest_if_the_configuration_says_so_6888_req_8() {
    let allocation = "ports-per-subscriber: 20, hold: 60s";
    let mut desk = Desk::new(&pool("203.0.113.9", "1024-1063", allocation, "100.64.0.0/31"));
    for port in 1..=20 {
        desk.goes_out(&udp((ONE, port), server(80)));
    }
    desk.lab.advance(301_000);
    desk.refused(INTERNAL, &udp((ONE, 30), server(80)), SubscriberPorts);
    desk.lab.advance(60_200);
    desk.goes_out(&udp((ONE, 30), server(80)));
}

#[test]
fn ports_of_a_range_are_not_in_order_and_cannot_be_guessed_7422_s2_step3b() {
    let yaml = pool("203.0.113.9", "1024-65535", "ports-per-subscriber: 2016", "100.64.0.0/27");
    let run = |seed| {
        let mut desk = Desk::with(&yaml, 1, seed);
        (1..=100).map(|port| desk.goes_out(&udp((ONE, port), server(80))).1).collect::<Vec<_>>()
    };
    let (one, two) = (run(1), run(2));
    assert_ne!(one, two);
    assert!(one.windows(2).filter(|pair| pair[1] == pair[0] + 1).count() < 4, "{one:?}");
    let upper = one.iter().filter(|port| **port >= 1024 + 1008).count();
    assert!((30..70).contains(&upper), "{upper} of 100 in the upper half");
}

#[test]
fn overflow_begins_after_the_last_own_port_and_ends_at_the_maximum_7422_s2_step4b() {
    let mut desk = Desk::new(&with_overflow(""));
    let mut own = BTreeSet::new();
    for port in 1..=20 {
        own.insert(desk.goes_out(&udp((ONE, port), server(80))));
        assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 1);
    }
    assert_eq!(own, (1024..1044).map(|port| (ADDRESS, port)).collect());
    let mut more = BTreeSet::new();
    for port in 21..=148 {
        let outside = desk.goes_out(&udp((ONE, port), server(80)));
        // Of the same address: pairing (RFC 6888 REQ-2).
        assert!(outside.0 == ADDRESS && (1064..1320).contains(&outside.1), "{outside:?}");
        assert!(more.insert(outside));
    }
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 3);
    desk.refused(INTERNAL, &udp((ONE, 149), server(80)), SubscriberPorts);
    // Another protocol has its own ports; another subscriber its own range.
    assert!(own.contains(&desk.goes_out(&tcp((ONE, 1), server(80), SYN))));
    assert_eq!(desk.goes_out(&udp((TWO, 1), server(80))).1 / 20, 1044 / 20);
    // What is there keeps its port (RFC 6888 REQ-11).
    assert!(own.contains(&desk.goes_out(&udp((ONE, 7), server(443)))));
    assert_eq!(desk.drops(), [(SubscriberPorts, 1)].into());
}

#[test]
fn an_address_without_free_overflow_says_so_and_ranges_are_untouched_6888_req_11d() {
    let mut desk = Desk::new(
        &with_overflow("").replace("/31", "/32").replace("max-blocks: 2", "max-blocks: 7"),
    );
    for port in 1..=276 {
        desk.goes_out(&udp((ONE, port), server(80)));
    }
    // 20 own ports; what the only range leaves over is overflow too: 276 ports, four blocks.
    desk.refused(INTERNAL, &udp((ONE, 5000), server(80)), AddressExhausted);
    assert_eq!(desk.mappings(), 276);
    desk.goes_out(&udp((ONE, 1), server(80)));
}

#[test]
fn a_range_that_fell_idle_is_used_again_before_the_overflow_that_is_left_7422_s2_step3a() {
    let mut desk = Desk::new(&with_overflow(""));
    for port in 1..=21 {
        desk.goes_out(&udp((ONE, port), server(80)));
    }
    let last = desk.goes_out(&udp((ONE, 21), server(80)));
    for _ in 0..2 {
        desk.lab.advance(200_000);
        assert_eq!(desk.goes_out(&udp((ONE, 21), server(80))), last);
    }
    desk.lab.advance(600);
    // The range has been given back, the overflow block has not.
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 1);
    for port in 101..=120 {
        let outside = desk.goes_out(&udp((ONE, port), server(80)));
        assert!((1024..1044).contains(&outside.1), "{outside:?}");
    }
    let beyond = desk.goes_out(&udp((ONE, 121), server(80)));
    assert_eq!((beyond.1 - 1064) / 64, (last.1 - 1064) / 64);
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 2);
    assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 1);
}

#[test]
fn overflow_blocks_rest_and_then_serve_another_subscriber_6888_req_8() {
    let mut desk = Desk::new(&with_overflow(""));
    let take = |desk: &mut Desk, host: &str, count: u16| {
        for port in 1..=count {
            desk.goes_out(&udp((host, port), server(80)));
        }
    };
    take(&mut desk, ONE, 148);
    take(&mut desk, TWO, 148);
    desk.lab.advance(301_000);
    assert_eq!(desk.mappings(), 0);
    // Ranges are free at once, overflow rests 120 s.
    take(&mut desk, TWO, 20);
    desk.refused(INTERNAL, &udp((TWO, 200), server(80)), SubscriberPorts);
    assert_eq!(desk.lab.port_census().resting, 256);
    desk.lab.advance(121_000);
    take(&mut desk, TWO, 148);
}

#[test]
fn overflow_does_not_depend_on_the_number_of_workers() {
    let ranges = "100.64.0.0/28";
    let allocation =
        "ports-per-subscriber: 17, overflow: { ports: 384, block-size: 64, max-blocks: 6 }";
    let yaml = pool("203.0.113.9", "1024-1679", allocation, ranges);
    for workers in [1u16, 2, 4, 7] {
        let mut desk = Desk::with(&yaml, workers, 5);
        let mut ends = BTreeSet::new();
        for port in 1..=17 + 384 {
            desk.at = usize::from(port % workers);
            assert!(ends.insert(desk.goes_out(&udp((&host(3), port), server(80)))));
        }
        desk.refused(INTERNAL, &udp((&host(3), 999), server(80)), SubscriberPorts);
        // Another one has its range still, and finds no overflow left.
        for port in 1..=17 {
            assert!(ends.insert(desk.goes_out(&udp((&host(4), port), server(80)))));
        }
        desk.refused(INTERNAL, &udp((&host(4), 999), server(80)), AddressExhausted);
        assert_eq!(desk.drops(), [(SubscriberPorts, 1), (AddressExhausted, 1)].into());
    }
}

#[test]
fn subscribers_of_two_deterministic_pools_and_one_of_blocks_live_side_by_side() {
    let yaml =
        pool("203.0.113.9", "1024-1063", "ports-per-subscriber: 20", "100.64.0.0/31").replace(
            "subscribers:",
            "  wide:
    addresses: [203.0.113.16/30]
    ports: 1024-65535
    allocation: { mode: deterministic, ports-per-subscriber: 16128 }
  blocks: { addresses: [203.0.113.32] }
subscribers:",
        ) + "  - { name: wide, match: [100.64.0.0/28], pool: wide }
  - { name: rest, match: [100.64.0.0/10], pool: blocks }
";
    for workers in [1, 3] {
        let mut desk = Desk::with(&yaml, workers, 2);
        // The first two of the wide range are in the first pool, so it begins with the third.
        for n in 2..16 {
            let outside = desk.goes_out(&udp((&host(n), 9), server(80)));
            let number = n - 2;
            let place = ((outside.0 - ip("203.0.113.16")), (u32::from(outside.1) - 1024) / 16_128);
            assert_eq!(place, (number / 4, number % 4), "host {n}");
        }
        assert_eq!(desk.goes_out(&udp((ONE, 9), server(80))).0, ADDRESS);
        assert_eq!(desk.goes_out(&udp((&host(16), 9), server(80))).0, ip("203.0.113.32"));
        // From one to the other by its external endpoint.
        let there = desk.goes_out(&udp((&host(5), 7), server(80)));
        let here = desk.goes_out(&udp((TWO, 8), server(80)));
        let sent = desk.offer(INTERNAL, &udp((TWO, 8), there));
        let mut expected = udp((TWO, 8), there);
        expected.set_source(here);
        expected.set_destination((ip(&host(5)), 7));
        expected.ttl -= 1;
        assert_eq!(sent, [desk.leaving(INTERNAL, &expected)]);
    }
}

#[test]
fn identifiers_of_queries_are_of_the_range_too_7422_s2e() {
    let yaml = pool("203.0.113.9", "1024-1063", "ports-per-subscriber: 20", "100.64.0.0/31");
    let mut desk = Desk::new(&yaml);
    let identifiers: BTreeSet<u16> =
        (1..=20).map(|n| desk.goes_out(&echo(true, TWO, server(0).0, n)).1).collect();
    assert_eq!(identifiers, (1044..1064).collect());
    desk.refused(INTERNAL, &echo(true, TWO, server(0).0, 21), SubscriberPorts);
    desk.comes_in(&echo(false, SERVER, ADDRESS, 1050), (TWO, internal_of(&desk, 1050)));
}

/// The internal identifier behind an external one.
fn internal_of(desk: &Desk, external: u16) -> u16 {
    let shards = desk.lab.workers.iter().flat_map(|worker| worker.shard().mapping_list());
    let mut found = shards.filter(|mapping| mapping.external.port == external);
    found.next().unwrap().internal.port
}

#[test]
fn overflow_keeps_the_subscriber_on_one_external_address_6888_req_2() {
    let allocation = "ports-per-subscriber: 20, overflow: { ports: 256, max-blocks: 4 }";
    let ranges = "100.64.0.0/29";
    let yaml = pool("203.0.113.0-203.0.113.3", "1024-1319", allocation, ranges);
    let mut desk = Desk::with(&yaml, 2, 3);
    for n in 0..8 {
        let ends: BTreeSet<u32> =
            (1..=148).map(|port| desk.goes_out(&udp((&host(n), port), server(80))).0).collect();
        assert_eq!(ends, [ip("203.0.113.0") + n / 2].into());
    }
}

#[test]
fn two_boxes_of_one_file_agree_on_every_range_7422_s3_1() {
    let ranges = "100.64.0.0/26, 100.64.1.0/27";
    let yaml = pool("203.0.113.0/29", "1024-65535", "ports-per-subscriber: 5000", ranges);
    let run = |workers, seed| {
        let mut desk = Desk::with(&yaml, workers, seed);
        for n in (0..64).chain(256..288) {
            desk.goes_out(&udp((&host(n), 9), server(80)));
        }
        let mut list: Vec<_> =
            desk.lab.workers.iter().flat_map(|worker| worker.shard().block_list()).collect();
        list.sort_unstable();
        list
    };
    let one = run(1, 1);
    assert_eq!(one.len(), 96);
    assert_eq!(one, run(3, 2));
}

#[test]
fn every_mapping_of_a_range_is_answered_without_a_log_6888_req_14() {
    let ranges = "100.64.0.0/26, 100.64.1.0/27";
    let yaml = pool("203.0.113.0/29", "1024-65535", "ports-per-subscriber: 5000", ranges);
    let config = Config::from_yaml("box.yaml", &yaml).unwrap();
    let space = ExternalSpace::new(&config);
    let mut desk = Desk::with(&yaml, 4, 1);
    for n in (0..64).chain(256..288) {
        for port in 1..=5 {
            desk.goes_out(&tcp((&host(n), port), server(80), SYN));
        }
    }
    let mut count = 0;
    for mapping in desk.lab.workers.iter().flat_map(|w| w.shard().mapping_list()) {
        let (internal, external) = (mapping.internal, mapping.external);
        let found = space.reverse(external.address.into(), external.port);
        let Reverse::Range(range) = found else { panic!("{external}: {found:?}") };
        assert_eq!(range.internal, Ipv4Addr::from(internal.address));
        count += 1;
    }
    assert_eq!(count, 96 * 5);
}

#[test]
fn a_range_is_never_recalled_from_its_worker() {
    let mut desk = Desk::with(&with_overflow(""), 2, 1);
    let free = desk.lab.sum(|c| c.blocks_free.value());
    assert_eq!(free, 2 + 4);
    for worker in 0..2 {
        for address in [Some(0), None] {
            let shard = desk.lab.workers[worker].shard_mut();
            let mut taken = Vec::new();
            loop {
                let leases = shard.give_back(BlockWish { pool: 0, address, fit: BlockFit::Any }, 8);
                if leases.is_empty() {
                    break;
                }
                taken.extend(leases);
            }
            for lease in taken {
                assert!(lease.id() >= 2, "the range {} was given back", lease.id());
                shard.adopt(lease);
            }
        }
    }
    for host in [ONE, TWO] {
        desk.goes_out(&udp((host, 1), server(80)));
    }
}
