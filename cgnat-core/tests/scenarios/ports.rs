//! Which port a flow gets, which ports are never given, and how freed ones rest.

use std::collections::{BTreeMap, BTreeSet};

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Packet, ip};

const HOST: &str = "100.64.3.9";

/// One address with two blocks of 64 ports, which one subscriber may both have.
fn pool(allocation: &str, more: &str) -> String {
    let pool = format!(
        "{{ addresses: [203.0.113.0], ports: 1024-1151, {more} allocation: {{ block-size: 64, \
         max-blocks: 2, {allocation} }} }}"
    );
    config(&pool, "")
}

fn missed(desk: &Desk) -> u64 {
    desk.lab.sum(|c| c.choices_missed.value())
}

fn each(port: u16) -> [Packet; 3] {
    [
        udp((HOST, port), server(80)),
        tcp((HOST, port), server(80), SYN),
        echo(true, HOST, server(0).0, port),
    ]
}

#[test]
fn a_free_port_is_preserved_and_a_taken_one_becomes_a_random_one_7857_s9b() {
    let mut desk = Desk::new(&pool("port-choice: preserve", ""));
    let mut given = BTreeSet::new();
    for packet in each(1100) {
        // The block is the one that holds the port, for each protocol.
        assert_eq!(desk.goes_out(&packet), (ip("203.0.113.0"), 1100));
    }
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 1);
    for port in [1088, 1120, 1151] {
        assert_eq!(desk.goes_out(&udp((HOST, port), server(80))).1, port);
        given.insert(port);
    }
    // Not a port of the subscriber's block: random, but of its block as long as that has any.
    for port in 5000..5020 {
        let outside = desk.goes_out(&udp((HOST, port), server(80))).1;
        assert!((1088..=1151).contains(&outside) && given.insert(outside));
    }
    let steps: BTreeSet<u16> = given.iter().skip(1).zip(&given).map(|(b, a)| b - a).collect();
    assert!(steps.len() > 3, "{given:?}");
}

#[test]
fn a_port_that_another_subscriber_holds_is_not_preserved_4787_req_3() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&pool("port-choice: preserve", ""), workers, 5);
        let (one, two) = (subscriber_of(0, workers, 0), subscriber_of(0, workers, 1));
        let first = desk.goes_out(&udp((&one, 1100), server(80)));
        let second = desk.goes_out(&udp((&two, 1100), server(80)));
        assert_ne!(first, second, "never overloaded");
        desk.comes_in(&udp((SERVER, 80), first), (&one, 1100));
        desk.comes_in(&udp((SERVER, 80), second), (&two, 1100));
    }
}

#[test]
fn a_resting_port_is_not_preserved_until_its_rest_is_over() {
    let mut desk = Desk::new(&pool("port-choice: preserve", ""));
    assert_eq!(desk.goes_out(&udp((HOST, 1100), server(80))).1, 1100);
    // Another flow keeps the block.
    desk.goes_out(&udp((HOST, 1101), server(80)));
    for _ in 0..2 {
        desk.lab.advance(200_000);
        desk.goes_out(&udp((HOST, 1101), server(80)));
    }
    // It ended 100 s ago.
    assert_ne!(desk.goes_out(&udp((HOST, 1100), server(80))).1, 1100);
    desk.lab.advance(250_000);
    desk.goes_out(&udp((HOST, 1101), server(80)));
    desk.lab.advance(250_000);
    assert_eq!(desk.goes_out(&udp((HOST, 1100), server(80))).1, 1100);
}

#[test]
fn parity_is_kept_in_every_mapping_4787_req_4_7857_s9c() {
    for workers in [1, 2, 4] {
        let yaml = config(
            "{ addresses: [203.0.113.0], allocation: { keep-parity: true, max-blocks: 4 } }",
            "",
        );
        let mut desk = Desk::with(&yaml, workers, 6);
        let mut ports: BTreeMap<u16, u16> = BTreeMap::new();
        for n in 0..1000u16 {
            let port = 1 + n.wrapping_mul(40_503) % 60_000;
            let outside = desk.goes_out(&udp((HOST, port), server(80))).1;
            assert_eq!(outside % 2, port % 2);
            assert_eq!(ports.insert(outside, port), None);
        }
        assert_eq!(missed(&desk), 0);
        // Obfuscated: neither the port nor steady steps.
        let kept = ports.iter().filter(|(outside, port)| outside == port).count();
        assert!(kept < 10, "{kept}");
    }
}

#[test]
fn parity_is_off_by_default_7857_s8a() {
    let mut desk = Desk::new(&plain());
    let parities: BTreeSet<u16> =
        (0..40).map(|n| desk.goes_out(&udp((HOST, 2 + 2 * n), server(80))).1 % 2).collect();
    assert_eq!(parities.len(), 2);
    assert_eq!(missed(&desk), 0);
}

#[test]
fn a_flow_gets_a_port_of_wrong_parity_rather_than_none_and_it_is_counted() {
    let mut desk = Desk::new(&pool("keep-parity: true", ""));
    let even = |n: u16| udp((HOST, 2 + 2 * n), server(80));
    for n in 0..64 {
        assert_eq!(desk.goes_out(&even(n)).1 % 2, 0);
        // A further block only when the even ports of the first are used up.
        assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 1 + u64::from(n >= 32));
    }
    assert_eq!(missed(&desk), 0);
    for n in 64..128 {
        assert_eq!(desk.goes_out(&even(n)).1 % 2, 1);
        assert_eq!(missed(&desk), u64::from(n - 63));
    }
    desk.refused(INTERNAL, &even(128), SubscriberPorts);
    // Identifiers of queries have no parity to keep.
    let parities: BTreeSet<u16> =
        (0..20).map(|n| desk.goes_out(&echo(true, HOST, server(0).0, 2 * n)).1 % 2).collect();
    assert_eq!((parities.len(), missed(&desk)), (2, 64));
}

#[test]
fn the_range_below_1024_is_kept_on_both_sides_4787_req_3a() {
    for workers in [1, 2, 4] {
        let pool = "{ addresses: [203.0.113.0-203.0.113.3], ports: 512-65535, allocation: { \
                    keep-range: true, block-size: 64, max-blocks: 3 } }";
        for seed in 0..20 {
            let mut desk = Desk::with(&config(pool, ""), workers, seed);
            let address = desk.goes_out(&udp((HOST, 123), server(123))).0;
            for n in 0..100 {
                for (port, is_low) in [(1 + n % 20, true), (1024 + 97 * n, false)] {
                    let outside = desk.goes_out(&udp((HOST, port), server(80)));
                    assert_eq!(outside.0, address);
                    assert_eq!(outside.1 < 1024, is_low, "{port} -> {outside:?}");
                }
            }
            // One block of low ports, and two for a hundred high ones.
            assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 3);
            for n in 0..28 {
                assert!(desk.goes_out(&udp((HOST, 20_000 + n), server(80))).1 >= 1024);
            }
            assert_eq!(missed(&desk), 0);
            // A low port is better than none for a high one.
            for n in 0..20 {
                assert!(desk.goes_out(&udp((HOST, 30_000 + n), server(80))).1 < 1024);
                assert_eq!(missed(&desk), u64::from(n) + 1);
            }
        }
    }
}

#[test]
fn without_low_ports_in_the_pool_3a_is_departed_from_as_documented() {
    let mut desk = Desk::new(&plain());
    for port in [1, 123, 500, 1023] {
        assert!(desk.goes_out(&udp((HOST, port), server(80))).1 >= 1024);
    }
}

#[test]
fn excluded_ports_are_never_given_nor_do_they_let_anything_in_6056_s3_2b() {
    let exclude = "exclude-ports: [1030, 1040-1059, 1100-1151],";
    let mut desk = Desk::new(&pool("hold: 0s", exclude));
    let excluded =
        |port: u16| port == 1030 || (1040..=1059).contains(&port) || (1100..=1151).contains(&port);
    let left = 128 - 21 - 52;
    assert_eq!(desk.lab.port_census().total(), 3 * left);
    for round in 0..3 {
        let mut given = BTreeSet::new();
        for port in 1..=left as u16 {
            for packet in each(port) {
                let outside = desk.goes_out(&packet).1;
                assert!(!excluded(outside), "{outside}");
                given.insert(outside);
            }
        }
        assert_eq!(given.len(), left as usize, "round {round}");
        let refused = desk.lab.drops(SubscriberPorts);
        for packet in each(2000) {
            desk.refused(INTERNAL, &packet, SubscriberPorts);
        }
        assert_eq!(desk.lab.drops(SubscriberPorts), refused + 3);
        desk.refused(EXTERNAL, &udp((SERVER, 80), (ip("203.0.113.0"), 1030)), NoMapping);
        let census = desk.lab.port_census();
        assert_eq!((census.free, census.used, census.resting), (0, 3 * left, 0));
        // The blocks come back whole, without the excluded ports.
        desk.lab.advance(8_000_000);
        desk.lab.advance(1_000);
        let census = desk.lab.port_census();
        assert_eq!((census.free, census.used, census.resting), (3 * left, 0, 0));
        assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 0);
    }
}

#[test]
fn an_excluded_port_is_not_preserved() {
    let mut desk = Desk::new(&pool("port-choice: preserve", "exclude-ports: [1100],"));
    assert_ne!(desk.goes_out(&udp((HOST, 1100), server(80))).1, 1100);
    assert_eq!(desk.goes_out(&udp((HOST, 1099), server(80))).1, 1099);
}

#[test]
fn at_most_max_held_ports_rest_and_the_oldest_is_free_first_6888_req_8d() {
    let allocation = "max-held: 10, port-choice: preserve";
    let mut desk = Desk::new(&pool(allocation, ""));
    // 30 flows end one second after another.
    let ports: Vec<u16> = (0..30).map(|n| 1030 + n).collect();
    desk.goes_out(&udp((HOST, 1024), server(80)));
    for port in &ports {
        let keeper = udp((HOST, 1024), server(80));
        desk.goes_out(&keeper);
        desk.goes_out(&udp((HOST, *port), server(80)));
        desk.lab.advance(1_000);
    }
    let start = desk.lab.now;
    let mut ended = 0;
    while ended < 30 {
        desk.lab.advance(100);
        desk.goes_out(&udp((HOST, 1024), server(80)));
        ended = 31 - desk.mappings();
        let census = desk.lab.port_census();
        assert_eq!(census.resting, ended.min(10));
        assert_eq!(desk.lab.sum(|c| c.holds_cut.value()), ended.saturating_sub(10));
    }
    assert!(desk.lab.now.nanos() - start.nanos() < 320_000_000_000);
    // The last ten rest, those before are free and preserved again.
    for (n, port) in ports.iter().enumerate() {
        let outside = desk.goes_out(&udp((HOST, *port), server(80))).1;
        assert_eq!(outside == *port, n < 20, "{n}");
    }
    // Other protocols rest by themselves.
    assert_eq!(desk.lab.sum(|c| c.holds_cut.value()), 20);
}

#[test]
fn a_block_whose_last_resting_port_is_cut_short_is_released_in_time() {
    let mut desk = Desk::new(&pool("max-held: 1, port-choice: preserve", ""));
    // One flow in each block; the second ends later and frees the first one's port.
    desk.goes_out(&udp((HOST, 1024), server(80)));
    for port in 1025..1088 {
        desk.goes_out(&udp((HOST, port), server(80)));
    }
    desk.lab.advance(20_000);
    let far = desk.goes_out(&udp((HOST, 60_000), server(80))).1;
    assert!(far >= 1088);
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 2);
    desk.lab.advance(281_000);
    // The first block ran empty, one of its ports rests.
    assert_eq!((desk.mappings(), desk.lab.port_census().resting), (1, 1));
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 2);
    desk.lab.advance(20_000);
    desk.lab.advance(1_000);
    assert_eq!((desk.mappings(), desk.lab.port_census().resting), (0, 1));
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 1, "nothing rests in the first");
    assert_eq!(desk.lab.sum(|c| c.holds_cut.value()), 64);
}

#[test]
fn without_max_held_every_port_rests() {
    let mut desk = Desk::new(&pool("hold: 2m", ""));
    for port in 1..=128 {
        desk.goes_out(&udp((HOST, port), server(80)));
    }
    desk.lab.advance(301_000);
    assert_eq!(desk.lab.port_census().resting, 128);
    assert_eq!(desk.lab.sum(|c| c.holds_cut.value()), 0);
}

/// A TCP connection that both ends close, or the client resets.
fn connection(desk: &mut Desk, port: u16, ends: &[u8]) -> (u32, u16) {
    let outside = desk.goes_out(&tcp((HOST, port), server(80), SYN));
    desk.comes_in(&tcp((SERVER, 80), outside, SYN | ACK), (HOST, port));
    desk.goes_out(&tcp((HOST, port), server(80), ACK));
    for flags in ends {
        desk.goes_out(&tcp((HOST, port), server(80), *flags));
        if flags & RST == 0 {
            desk.comes_in(&tcp((SERVER, 80), outside, *flags), (HOST, port));
        }
    }
    outside
}

#[test]
fn tcp_ports_whose_sessions_closed_are_free_at_once_only_if_asked_for_6888_req_8a() {
    for (allocation, free_at_once) in [("hold: 2m", false), ("hold-closed-tcp: false", true)] {
        let mut desk = Desk::new(&pool(allocation, ""));
        connection(&mut desk, 1, &[FIN | ACK]);
        connection(&mut desk, 2, &[RST]);
        desk.goes_out(&tcp((HOST, 3), server(80), SYN));
        desk.goes_out(&udp((HOST, 4), server(80)));
        // A port with two connections, of which one never opened.
        let outside = connection(&mut desk, 5, &[FIN | ACK]);
        desk.goes_out(&tcp((HOST, 5), server(81), SYN));
        desk.comes_in(&tcp((SERVER, 80), outside, FIN | ACK), (HOST, 5));
        desk.lab.advance(305_000);
        assert_eq!(desk.mappings(), 0);
        let resting = desk.lab.port_census().resting;
        assert_eq!(resting, if free_at_once { 4 } else { 5 }, "{allocation}");
    }
}

#[test]
fn a_mapped_port_does_not_come_back_for_two_minutes_even_to_the_same_subscriber_6888_req_8() {
    let mut desk = Desk::new(&pool("hold: 2m", ""));
    let mut used = BTreeSet::new();
    for port in 1..=64 {
        used.insert(desk.goes_out(&udp((HOST, port), server(80))).1);
    }
    desk.lab.advance(301_000);
    for port in 1..=64 {
        assert!(used.insert(desk.goes_out(&udp((HOST, port), server(80))).1));
    }
    desk.refused(INTERNAL, &udp((HOST, 65), server(80)), SubscriberPorts);
    desk.lab.advance(118_000);
    desk.refused(INTERNAL, &udp((HOST, 66), server(80)), SubscriberPorts);
    desk.lab.advance(3_000);
    desk.goes_out(&udp((HOST, 67), server(80)));
}

/// After 32 observed ports, the best guess of the next is no better than chance (reliability
/// S9): steps, repetition, order and low bits tell nothing.
#[test]
fn the_next_port_cannot_be_guessed_from_32_observed_ones_6888_req_15_6056_s3_3() {
    type Guess = fn(&[u16]) -> u16;
    let guesses: [(&str, Guess); 6] = [
        ("the next one", |seen| seen[31] + 1),
        ("the one before", |seen| seen[31] - 1),
        ("the same step again", |seen| seen[31].wrapping_mul(2).wrapping_sub(seen[30])),
        ("the mean", |seen| (seen.iter().map(|p| u32::from(*p)).sum::<u32>() / 32) as u16),
        ("the middle of the last two", |seen| seen[30].midpoint(seen[31])),
        ("the lowest not seen", |seen| {
            let first = seen.iter().min().unwrap() & !511;
            (first..).find(|port| !seen.contains(port)).unwrap()
        }),
    ];
    let mut right = [0u32; 6];
    let trials = 4000u32;
    for seed in 0..trials {
        let yaml = config(
            "{ addresses: [203.0.113.0], ports: 1024-2047 }",
            "system: { max-mappings: 1000 }\n",
        );
        let mut desk = Desk::with(&yaml, 1, u64::from(seed));
        let mut next = |n: u16| desk.goes_out(&udp((HOST, 4000 + n), server(80))).1;
        let seen: Vec<u16> = (0..32).map(&mut next).collect();
        let after = next(32);
        for ((_, guess), right) in guesses.iter().zip(&mut right) {
            *right += u32::from(guess(&seen) == after);
        }
    }
    // 480 ports are free: 2 in 480 of 4000 are 16.7; chance alone makes 8.3 and stays below.
    for ((name, _), right) in guesses.iter().zip(right) {
        assert!(right * 480 <= 2 * trials, "{name}: right {right} times of {trials}");
    }
}

#[test]
fn the_ports_of_a_subscriber_cover_its_block_evenly_6056_s3_2a() {
    let yaml = config(
        "{ addresses: [203.0.113.0], ports: 1024-1535 }",
        "system: { max-mappings: 1000 }\n",
    );
    let mut counts = [0u32; 16];
    for seed in 0..300 {
        let mut desk = Desk::with(&yaml, 1, seed);
        for port in 1..=16 {
            let outside = desk.goes_out(&udp((HOST, port), server(80))).1;
            counts[usize::from(outside - 1024) / 32] += 1;
        }
    }
    // 300 of 4800 in each sixteenth; six standard deviations are 101.
    assert!(counts.iter().all(|count| (200..=400).contains(count)), "{counts:?}");
}
