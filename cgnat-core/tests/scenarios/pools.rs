//! Which external address a subscriber gets, over all workers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::ip;

fn host(n: u32) -> String {
    Ipv4Addr::from(ip("100.64.0.0") + n).to_string()
}

/// Eight addresses with eight blocks of 64 ports.
fn pool(rules: &str) -> String {
    let pool = format!(
        "{{ addresses: [203.0.113.8/29], ports: 1024-1535, {rules}, allocation: {{ block-size: 64, \
         max-blocks: 1 }} }}"
    );
    config(&pool, "")
}

/// Number of the external address of the `n`-th subscriber.
fn address_of(desk: &mut Desk, n: u32) -> u32 {
    let workers = desk.lab.workers.len() as u32;
    desk.at = (n % workers) as usize;
    desk.goes_out(&udp((&host(n), 5000), server(80))).0 - ip("203.0.113.8")
}

fn told(desk: &mut Desk, n: u32, reason: cgnat_core::verdict::DropReason) {
    desk.refused(INTERNAL, &udp((&host(n), 5000), server(80)), reason);
}

#[test]
fn round_robin_takes_each_address_in_turn_whatever_the_number_of_workers() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&pool("address-selection: round-robin"), workers, 1);
        for n in 0..64 {
            assert_eq!(address_of(&mut desk, n), n % 8, "{workers} workers");
        }
        told(&mut desk, 64, PoolExhausted);
    }
}

#[test]
fn least_used_evens_out_what_subscribers_leave_behind() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&pool("address-selection: least-used"), workers, 2);
        let mut subscribers: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for n in 0..40 {
            let address = address_of(&mut desk, n);
            subscribers.entry(address).or_default().push(n);
            let counts: Vec<usize> = subscribers.values().map(Vec::len).collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1 || counts.len() < 8, "{counts:?}");
        }
        // Only the subscribers of address 3 stay; all others leave.
        let stay = subscribers[&3].clone();
        for _ in 0..3 {
            desk.lab.advance(200_000);
            for n in &stay {
                assert_eq!(address_of(&mut desk, *n), 3);
            }
        }
        assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 5);
        for n in 100..135 {
            assert_ne!(address_of(&mut desk, n), 3);
        }
        let next: BTreeSet<u32> = (135..143).map(|n| address_of(&mut desk, n)).collect();
        assert_eq!(next.len(), 8, "now all are even");
    }
}

#[test]
fn fill_takes_the_first_address_with_room() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&pool("address-selection: fill"), workers, 3);
        for n in 0..64 {
            assert_eq!(address_of(&mut desk, n), n / 8, "{workers} workers");
        }
        told(&mut desk, 64, PoolExhausted);
        let capped = "address-selection: fill, max-subscribers-per-address: 3";
        let mut desk = Desk::with(&pool(capped), workers, 3);
        for n in 0..24 {
            assert_eq!(address_of(&mut desk, n), n / 3);
        }
        told(&mut desk, 24, PoolSubscribers);
    }
}

#[test]
fn a_random_choice_spreads_and_keeps_the_bound_on_subscribers() {
    for workers in [1, 2, 4] {
        for seed in 0..5 {
            let mut desk = Desk::with(&pool("max-subscribers-per-address: 5"), workers, seed);
            let mut counts = [0; 8];
            for n in 0..40 {
                counts[address_of(&mut desk, n) as usize] += 1;
            }
            assert_eq!(counts, [5; 8]);
            told(&mut desk, 40, PoolSubscribers);
            assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 40);
            // Who is paired goes on; who leaves makes room for another.
            address_of(&mut desk, 7);
            desk.lab.advance(301_000);
            desk.lab.advance(121_000);
            assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 0);
            address_of(&mut desk, 40);
        }
    }
}

#[test]
fn subscriber_bits_choose_as_an_ipfw_farm_does() {
    // `100.64.0.i:255.192.0.31` to one of 32 addresses, ports preserved.
    let pool = "{ addresses: [203.0.113.32/27], address-selection: subscriber-bits, \
                subscriber-bits: 0.0.0.31, allocation: { port-choice: preserve } }";
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&config(pool, ""), workers, 4);
        for n in 0..200u32 {
            let internal = Ipv4Addr::from(ip("100.64.0.0") + n * 7919).to_string();
            desk.at = n as usize % usize::from(workers);
            let port = 2000 + 300 * n as u16;
            let outside = desk.goes_out(&udp((&internal, port), server(80)));
            assert_eq!(outside.0, ip("203.0.113.32") + (n * 7919) % 32);
            if workers == 1 {
                assert_eq!(outside.1, port);
            }
        }
    }
}

#[test]
fn subscriber_bits_never_choose_another_address() {
    for workers in [1, 2, 4] {
        let rules = "address-selection: subscriber-bits, subscriber-bits: 0.0.0.7";
        let mut desk = Desk::with(&pool(rules), workers, 5);
        for n in 0..8 {
            assert_eq!(address_of(&mut desk, 8 * n + 3), 3);
        }
        told(&mut desk, 67, AddressExhausted);
        assert_eq!(address_of(&mut desk, 4), 4);
        let capped = format!("{rules}, max-subscribers-per-address: 1");
        let mut desk = Desk::with(&pool(&capped), workers, 5);
        assert_eq!(address_of(&mut desk, 3), 3);
        told(&mut desk, 11, PoolSubscribers);
        assert_eq!(address_of(&mut desk, 4), 4);
    }
}

#[test]
fn one_address_for_200_ports_and_all_protocols_of_a_subscriber_4787_req_2_6888_req_2() {
    for workers in [1, 2, 4] {
        let yaml = config("{ addresses: [203.0.113.0/26] }", "");
        let mut desk = Desk::with(&yaml, workers, 6);
        let mut addresses = BTreeSet::new();
        for port in 1..=200 {
            addresses.insert(desk.goes_out(&udp(("100.64.9.9", port), server(80))).0);
            addresses.insert(desk.goes_out(&tcp(("100.64.9.9", port), server(80), SYN)).0);
            addresses.insert(desk.goes_out(&echo(true, "100.64.9.9", server(0).0, port)).0);
        }
        assert_eq!(addresses.len(), 1);
    }
}

#[test]
fn a_pool_of_any_shape_is_used_whole_and_its_exclusions_never_6888_req_3() {
    let pool = "{ addresses: [203.0.113.64/26, 203.0.113.10-203.0.113.12, 203.0.113.20, \
                203.0.113.30, 203.0.113.1], exclude: [203.0.113.64, 203.0.113.100-203.0.113.103], \
                ports: 1024-1151, allocation: { block-size: 64 } }";
    let mut expected: BTreeSet<u32> = (65..128).filter(|n| !(100..104).contains(n)).collect();
    expected.extend([1, 10, 11, 12, 20, 30]);
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&config(pool, ""), workers, 7);
        let mut seen = BTreeSet::new();
        for n in 0..2 * expected.len() as u32 {
            let outside = desk.goes_out(&udp((&host(n), 1), server(80)));
            seen.insert(outside.0 - ip("203.0.113.0"));
        }
        assert_eq!(seen, expected);
        told(&mut desk, 500, PoolExhausted);
    }
}

/// At saturation nothing of what is lent is idle, and the log has one record for each block.
#[test]
fn every_port_of_every_block_can_be_used_6888_req_13_req_14() {
    let mut desk = Desk::with(&one_address(4, 4), 2, 8);
    for port in 1..=256 {
        desk.goes_out(&udp(("100.64.9.9", port), server(80)));
    }
    assert_eq!(desk.lab.sum(|c| c.blocks_allocated.value()), 4);
    let census = desk.lab.port_census();
    assert_eq!((census.used, census.total()), (256, 3 * 256));
}
