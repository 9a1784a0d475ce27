//! Worlds with several pools for a group, in order and by destination.

use super::model::create::Selection;
use super::model::drive::Fault;
use super::model::nat::Pool;
use super::model::realms::{Destination, Ways};
use super::model::sessions::Filtering;
use super::model::wire::{ICMP, TCP, UDP, ip};
use super::model::world::World;
use super::model::worlds::{
    addresses, carrying, deterministic, greedy, limited, rested, short_timers, transferring, world,
};
use super::{Wrong, agree, difference};

/// The big pool, then the small one; a third in reserve; two rules that choose others, one of
/// them a pool that is another's spare. The second group has a rule of its own.
fn spilling(mut world: World) -> World {
    let to = |to: &[(&str, u32)]| to.iter().map(|(net, length)| (ip(net), *length)).collect();
    let rule = |nets: &[(&str, u32)], protocol, ports: &[(u16, u16)], pools: &[usize]| {
        Destination { to: to(nets), protocol, ports: ports.to_vec(), pools: pools.to_vec() }
    };
    let rules = &mut world.rules;
    rules.pools[0].addresses = addresses("203.0.113.0", "203.0.113.0");
    rules.pools.push(Pool {
        addresses: addresses("203.0.113.96", "203.0.113.97"),
        ports: (3000, 3000 + 64 * 9 - 1),
        block_size: 64,
        max_blocks: 4,
        hold_s: 20,
        filtering: [Filtering::Anybody, Filtering::Address, Filtering::Anybody],
        ..rested()
    });
    rules.ways = vec![
        Ways {
            spare: vec![1, 2],
            destinations: vec![
                rule(&[("0.0.0.0", 0)], Some(UDP), &[(53, 53), (100, 200)], &[2]),
                rule(&[("198.51.100.8", 32)], None, &[], &[1, 0]),
                rule(&[("203.0.113.0", 24)], Some(TCP), &[], &[2]),
                rule(&[("198.51.100.0", 24)], Some(ICMP), &[], &[0, 1, 2]),
                rule(&[("198.51.100.7", 32), ("198.51.100.9", 32)], None, &[(443, 443)], &[0]),
            ],
        },
        Ways {
            spare: vec![0],
            destinations: vec![rule(&[("198.51.100.8", 31)], None, &[], &[2, 1])],
        },
        Ways { spare: vec![2], destinations: vec![] },
    ];
    world
}

#[test]
fn one_worker_that_spills_and_chooses_pools_by_destination_agrees() {
    agree("realms", &spilling(short_timers(world(1), 3)), 15);
}

#[test]
fn four_workers_that_spill_and_choose_pools_by_destination_agree() {
    let mut world = spilling(world(4));
    world.rules.pools[0].max_subscribers = 3;
    world.rules.pools[2].selection = Selection::RoundRobin;
    world.rules.pools[1].selection = Selection::Bits(0);
    agree("realms of four workers", &world, 16);
}

#[test]
fn two_workers_with_limits_over_realms_agree() {
    let mut world = spilling(short_timers(limited(2), 1));
    world.rules.limits[2].blocks = Some(3);
    world.rules.limits[0].blocks = Some(5);
    world.rules.limits[0].per_destination = Some(9);
    world.habits.step_ms = 150;
    world.rules.ways[2].destinations = world.rules.ways[0].destinations[..2].to_vec();
    agree("limits over realms", &world, 17);
}

#[test]
fn three_workers_with_ranges_in_realms_agree() {
    // Ranges in the first pool for everybody of the first and the last group, by destination.
    let mut world = deterministic(spilling(greedy(3)), 20);
    world.rules.pools[0].addresses = addresses("203.0.113.0", "203.0.113.3");
    for ways in &mut world.rules.ways {
        ways.spare.clear();
        ways.destinations.retain(|rule| rule.pools.len() == 1);
    }
    world.rules.ways[1].destinations = vec![Destination {
        to: vec![(ip("198.51.100.8"), 31)],
        protocol: None,
        ports: vec![],
        pools: vec![0],
    }];
    agree("ranges in realms", &world, 18);
}

#[test]
fn each_wrong_rule_about_realms_is_found() {
    let wrongs: [(&str, Wrong); 9] = [
        ("order of pools", |rules| rules.ways[0].spare.swap(0, 1)),
        ("no spare", |rules| rules.ways[2].spare.clear()),
        ("ports of a rule", |rules| rules.ways[0].destinations[0].ports[0] = (54, 99)),
        ("protocol of a rule", |rules| rules.ways[0].destinations[0].protocol = None),
        ("prefix of a rule", |rules| rules.ways[1].destinations[0].to[0].1 = 32),
        ("order of rules", |rules| rules.ways[0].destinations.swap(0, 1)),
        ("pool of a rule", |rules| rules.ways[0].destinations[2].pools = vec![1]),
        ("missing rule", |rules| _ = rules.ways[0].destinations.pop()),
        ("rule of another group", |rules| rules.ways.swap(0, 1)),
    ];
    for (name, wrong) in wrongs {
        let world = spilling(short_timers(world(1), 3));
        let found = difference(&world, wrong, Fault::None);
        assert!(!found.is_empty(), "a wrong {name} was not noticed");
    }
}

#[test]
fn two_workers_that_carry_other_protocols_and_follow_ftp_in_realms_agree() {
    let mut world = transferring(carrying(spilling(short_timers(limited(2), 1))));
    world.rules.other_s = 20;
    world.rules.limits[0].sessions = Some(12);
    world.rules.limits[2].blocks = Some(2);
    agree("other protocols in realms", &world, 19);
}
