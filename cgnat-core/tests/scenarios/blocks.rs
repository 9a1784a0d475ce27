//! Port blocks: on demand, up to a maximum, released, chosen at random, independent of the
//! number of workers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::ip;

const HOST: &str = "100.64.3.9";

fn host(n: u32) -> String {
    Ipv4Addr::from(ip("100.64.10.0") + n).to_string()
}

#[test]
fn a_subscriber_gets_blocks_up_to_the_maximum_and_is_then_refused() {
    let mut desk = Desk::new(&one_address(8, 2));
    let mut ports = BTreeSet::new();
    for port in 1..=128 {
        let outside = desk.goes_out(&udp((HOST, port), server(80)));
        assert!(ports.insert(outside.1));
        let blocks = if port <= 64 { 1 } else { 2 };
        assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), blocks);
    }
    let blocks: BTreeSet<u16> = ports.iter().map(|port| (port - 1024) / 64).collect();
    assert_eq!((ports.len(), blocks.len()), (128, 2));
    for port in 129..=140 {
        desk.refused(INTERNAL, &udp((HOST, port), server(80)), SubscriberPorts);
    }
    // Existing flows go on, other protocols and other subscribers too.
    desk.goes_out(&udp((HOST, 77), server(81)));
    for port in 1..=128 {
        let outside = desk.goes_out(&tcp((HOST, port), server(80), SYN));
        assert!(blocks.contains(&((outside.1 - 1024) / 64)));
    }
    desk.refused(INTERNAL, &tcp((HOST, 129), server(80), SYN), SubscriberPorts);
    desk.goes_out(&udp((&host(0), 1), server(80)));
    assert_eq!(desk.lab.sum(|c| c.blocks_allocated.value()), 3);
    assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 2);
}

#[test]
fn an_idle_block_is_released_after_its_ports_have_rested_and_another_subscriber_gets_it() {
    let mut desk = Desk::new(&one_address(1, 1));
    let outside = desk.goes_out(&udp((HOST, 1), server(80)));
    desk.refused(INTERNAL, &udp((&host(0), 1), server(80)), PoolExhausted);
    desk.lab.advance(300_100);
    assert_eq!(desk.mappings(), 0);
    desk.lab.advance(120_000);
    desk.refused(INTERNAL, &udp((&host(0), 1), server(80)), PoolExhausted);
    desk.lab.advance(600);
    assert_eq!(desk.lab.sum(|c| c.blocks_released.value()), 1);
    assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 0);
    let now = desk.goes_out(&udp((&host(0), 1), server(80)));
    assert_eq!(now.0, outside.0);
    desk.refused(INTERNAL, &udp((HOST, 1), server(80)), PoolExhausted);
}

#[test]
fn only_the_idle_one_of_two_blocks_is_released_and_the_address_stays() {
    let mut desk = Desk::new(&one_address(8, 2));
    for port in 1..=65 {
        desk.goes_out(&udp((HOST, port), server(80)));
    }
    for _ in 0..3 {
        desk.lab.advance(200_000);
        // The last one, in the second block, lives on.
        desk.goes_out(&udp((HOST, 65), server(80)));
    }
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 1);
    assert_eq!(desk.lab.sum(|c| c.blocks_released.value()), 1);
    assert_eq!(desk.mappings(), 1);
}

#[test]
fn ports_and_addresses_are_chosen_differently_with_other_entropy_and_not_in_order() {
    let run = |seed| {
        let mut desk = Desk::with(&plain(), 1, seed);
        let ends: Vec<_> =
            (1..=40).map(|port| desk.goes_out(&udp((HOST, port), server(80)))).collect();
        ends
    };
    let (one, two) = (run(1), run(2));
    assert_eq!(one, run(1), "the same entropy gives the same run");
    assert_ne!(one, two);
    let steps = one.windows(2).filter(|pair| pair[1].1 == pair[0].1 + 1).count();
    assert!(steps < 4, "{one:?}");
    let addresses: BTreeSet<u32> = (1..20).map(|seed| run(seed)[0].0).collect();
    assert!(addresses.len() > 5);
}

#[test]
fn the_number_of_subscribers_does_not_depend_on_the_number_of_workers() {
    for workers in [1, 4, 7] {
        for seed in 0..5 {
            let mut desk = Desk::with(&one_address(16, 2), workers, seed);
            let mut blocks = BTreeMap::new();
            for n in 0..16 {
                desk.at = n as usize % usize::from(workers);
                let outside = desk.goes_out(&udp((&host(n), 1), server(80)));
                assert_eq!(blocks.insert((outside.1 - 1024) / 64, n), None);
            }
            // To the last block; then everybody is refused, and told the right reason.
            assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 16);
            for n in 16..32 {
                desk.refused(INTERNAL, &udp((&host(n), 1), server(80)), PoolExhausted);
            }
            assert_eq!(desk.lab.port_census().total(), 16 * 64 * 3);
        }
    }
}

#[test]
fn the_ports_of_a_subscriber_do_not_depend_on_the_number_of_workers() {
    for workers in [1, 4, 7] {
        let mut desk = Desk::with(&one_address(16, 8), workers, 3);
        // Two subscribers, of one worker where there are several, take every block.
        let hosts = [subscriber_of(0, workers, 0), subscriber_of(0, workers, 1)];
        let mut ends = BTreeSet::new();
        for host in &hosts {
            for port in 1..=512 {
                assert!(ends.insert(desk.goes_out(&udp((host, port), server(80)))));
            }
            desk.refused(INTERNAL, &udp((host, 600), server(80)), SubscriberPorts);
        }
        assert_eq!(ends.len(), 1024);
        assert_eq!(desk.lab.sum(|c| c.blocks_free.value()), 0);
        assert_eq!(desk.drops(), [(SubscriberPorts, 2)].into());
    }
}

#[test]
fn a_subscriber_whose_address_has_no_block_left_is_told_so_and_keeps_what_it_has() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&one_address(4, 4), workers, 9);
        let first = desk.goes_out(&udp((HOST, 1), server(80)));
        for n in 0..3 {
            desk.goes_out(&udp((&host(n), 1), server(80)));
        }
        for port in 2..=64 {
            desk.goes_out(&udp((HOST, port), server(80)));
        }
        desk.refused(INTERNAL, &udp((HOST, 65), server(80)), AddressExhausted);
        assert_eq!(desk.goes_out(&udp((HOST, 1), server(81))), first);
        desk.comes_in(&udp((SERVER, 80), first), (HOST, 1));
    }
}

#[test]
fn blocks_that_come_back_at_one_worker_serve_subscribers_of_another() {
    let mut desk = Desk::with(&one_address(8, 1), 4, 4);
    for n in 0..8 {
        let host = subscriber_of(1, 4, n);
        desk.goes_out(&udp((&host, 1), server(80)));
    }
    desk.lab.advance(300_200);
    desk.lab.advance(121_000);
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 0);
    for n in 0..8 {
        let host = subscriber_of(2, 4, n);
        desk.goes_out(&udp((&host, 1), server(80)));
    }
    assert_eq!(desk.drops(), [].into());
    assert_eq!(desk.lab.counters[2].blocks_in_use.value(), 8);
}
