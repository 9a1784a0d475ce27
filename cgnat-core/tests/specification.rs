//! The core against an executable specification: random events, byte for byte.
//!
//! `CGNAT_SEED` repeats a run, `CGNAT_EVENTS` sets the events of each world. A failure prints
//! the seed and the last events.

#![allow(clippy::unwrap_used)]

#[path = "specification/mod.rs"]
mod model;

#[path = "specification/carried.rs"]
mod carried;
#[path = "specification/spilling.rs"]
mod spilling;

use cgnat_core::time::Instant;

use model::create::Selection;
use model::drive::{Driver, Fault};
use model::events::Habits;
use model::nat::Rules;
use model::sessions::Filtering;
use model::wire::{ICMP, TCP, UDP, Vlan};
use model::world::World;
use model::worlds::{
    addresses, capped, choosy, deterministic, everything, exceptional, greedy, limited, overloaded,
    reloading, selecting, short_timers, transferring, tunnelling, world,
};

const EVENTS: u64 = 170_000;

/// 2^32 ticks of 100 ms.
const TICK_WRAP_MS: u64 = (1 << 32) * 100;

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn agree(name: &str, world: &World, seed: u64) {
    let seed = variable("CGNAT_SEED", seed);
    let events = variable("CGNAT_EVENTS", EVENTS);
    let started = std::time::Instant::now();
    let mut driver = Driver::new(world, seed, Fault::None);
    if let Err(difference) = driver.run(events) {
        panic!("{name}: CGNAT_SEED={seed}: {difference}");
    }
    let spent = started.elapsed();
    println!("{name}: seed {seed}, {events} events in {spent:?}, {} frames", driver.sent);
    println!("  drops: {:?}", driver.reasons);
    println!("  FTP: {:?}; TFTP: {}", driver.nat.ftp, driver.nat.requests);
    assert!(driver.sent > events / 5, "too few packets got through to prove anything");
    assert!(driver.datagrams > events / 500, "{} datagrams in fragments", driver.datagrams);
    let is_capped = world.rules.limits.iter().any(|limits| limits.per_mapping.is_some());
    let bite = |reason: &str| driver.reasons.get(reason).is_some_and(|n| *n > events / 2_000);
    assert!(!is_capped || CAPS.into_iter().all(bite), "the caps did not bite");
    let shares = world.rules.pools.iter().any(|pool| !pool.overloading.is_empty());
    assert_eq!(driver.nat.shared > events / 300, shares, "{} shared", driver.nat.shared);
    let ftp = driver.nat.ftp;
    let followed = [ftp.replaced, ftp.passed, ftp.ended].map(|count| count > events / 4_000);
    assert_eq!(followed, [world.rules.ftp; 3], "{ftp:?}");
    let nat = &driver.nat;
    println!("  PPTP: {:?}, {} calls, {} of GRE", nat.pptp, nat.calls, nat.tunnelled);
    let tunnels = [nat.calls > events / 2_000, nat.tunnelled > events / 100];
    assert_eq!(tunnels, [world.rules.pptp; 2], "{} calls, {} of GRE", nat.calls, nat.tunnelled);
    let requests = driver.nat.requests;
    assert_eq!(requests > events / 1_000, world.rules.tftp, "{requests} requests of TFTP");
}

#[test]
fn one_worker_with_rfc_timers_agrees() {
    agree("one worker", &world(1), 1);
}

#[test]
fn two_workers_with_short_timers_and_vlans_agree() {
    let mut world = short_timers(world(2), 1);
    world.vlans = [Some(Vlan::dot1q(100)), Some(Vlan::qinq(300, 200))];
    (world.rules.mtu_internal, world.rules.mtu_external) = (576, 1500);
    agree("two workers", &world, 2);
}

#[test]
fn four_workers_that_fight_for_few_blocks_without_hold_down_agree() {
    let mut world = short_timers(world(4), 0);
    world.rules.pools[0].addresses = addresses("203.0.113.0", "203.0.113.0");
    world.vlans = [None, Some(Vlan::dot1q(200))];
    world.settles = false;
    agree("four workers", &world, 3);
}

#[test]
fn four_workers_across_the_wrap_of_the_tick_clock_agree() {
    let mut world = world(4);
    world.start = Instant::from_millis(TICK_WRAP_MS - 3_600_000);
    world.vlans = [Some(Vlan { outer: Some((0x8100, 7)), id: 7 }), None];
    agree("across the wrap", &world, 4);
}

#[test]
fn one_worker_with_full_tables_agrees() {
    let mut world = world(1);
    world.rules.pools[0].ports = (1024, 1024 + 64 * 32 - 1);
    world.rules.pools[0].max_blocks = 8;
    world.habits = Habits {
        hosts: 18,
        remotes: 40,
        first_port: 0,
        source_ports: 300,
        steps: 20,
        housekeeping: 5,
        step_ms: 500,
        ..world.habits
    };
    agree("full tables", &world, 5);
}

#[test]
fn two_workers_with_few_greedy_hosts_agree() {
    agree("greedy hosts", &greedy(2), 8);
}

#[test]
fn two_workers_with_jumbo_frames_inside_and_ordinary_ones_outside_agree() {
    let mut world = short_timers(world(2), 1);
    (world.rules.mtu_internal, world.rules.mtu_external) = (9000, 1500);
    world.habits.payload = 9_300;
    agree("jumbo", &world, 14);
}

#[test]
fn one_worker_with_limits_agrees() {
    agree("limits", &limited(1), 12);
}

#[test]
fn three_workers_with_limits_and_short_timers_agree() {
    let mut world = short_timers(limited(3), 1);
    world.habits.step_ms = 150;
    agree("limits, short", &world, 13);
}

const CAPS: [&str; 4] = [
    "limit-destination",
    "limit-mapping-sessions",
    "limit-mapping-inbound-sessions",
    "limit-fragments",
];

#[test]
fn one_worker_with_few_sessions_per_destination_and_mapping_agrees() {
    agree("caps", &capped(1, [7, 6, 3]), 22);
}

#[test]
fn three_workers_with_such_caps_and_everything_at_once_agree() {
    let mut world = transferring(everything(short_timers(capped(3, [3, 3, 2]), 1)));
    world.settles = false;
    world.habits.hosts = 3;
    world.habits.step_ms = 150;
    agree("caps, everything", &world, 23);
}

#[test]
fn one_worker_with_a_full_session_table_agrees() {
    let mut world = world(1);
    world.habits = Habits {
        hosts: 12,
        remotes: 500,
        first_port: 0,
        source_ports: 3,
        steps: 20,
        housekeeping: 5,
        step_ms: 2_000,
        ..world.habits
    };
    agree("full session table", &world, 9);
}

#[test]
fn two_workers_across_the_wrap_with_short_timers_agree() {
    let mut world = short_timers(world(2), 2);
    world.settles = false;
    world.start = Instant::from_millis(TICK_WRAP_MS - 600_000);
    agree("across the wrap, short", &world, 6);
}

#[test]
fn one_worker_without_hairpinning_and_few_hosts_agrees() {
    let mut world = short_timers(world(1), 3);
    world.rules.hairpinning = false;
    world.habits.hosts = 3;
    world.habits.source_ports = 400;
    agree("no hairpinning", &world, 7);
}

#[test]
fn two_workers_that_filter_and_refresh_agree() {
    use Filtering::{Address, AddressAndPort, Anybody};
    let mut world = short_timers(world(2), 1);
    world.rules.pools[0].filtering = [Address, AddressAndPort, Anybody];
    world.rules.pools[1].filtering = [AddressAndPort, Address, AddressAndPort];
    world.rules.inbound_refresh = true;
    agree("filtering", &world, 12);
}

#[test]
fn two_workers_with_static_mappings_and_bypass_agree() {
    agree("static and bypass", &exceptional(world(2)), 13);
}

#[test]
fn one_worker_that_is_full_with_static_mappings_and_bypass_agrees() {
    let mut world = short_timers(exceptional(greedy(1)), 1);
    world.rules.hairpinning = false;
    agree("static and bypass, full", &world, 14);
}

#[test]
fn two_workers_with_ranges_and_overflow_agree() {
    agree("ranges", &deterministic(greedy(2), 20), 10);
}

#[test]
fn four_workers_with_ranges_that_rest_agree() {
    let mut world = deterministic(greedy(4), 70);
    world.rules.pools[0].own.iter_mut().for_each(|own| own.hold_s = 30);
    world.settles = false;
    agree("ranges that rest", &world, 11);
}

#[test]
fn one_worker_with_ranges_and_no_overflow_agrees() {
    let mut world = deterministic(greedy(1), 33);
    let pool = &mut world.rules.pools[0];
    (pool.max_blocks, pool.ports.1) = (0, 1024 + 16 * 33 + 6);
    pool.own.iter_mut().for_each(|own| own.kept = 0);
    pool.filtering = [Filtering::AddressAndPort, Filtering::Address, Filtering::Anybody];
    agree("ranges alone", &world, 12);
}

#[test]
fn one_worker_with_choosy_pools_agrees() {
    let world = choosy(short_timers(world(1), 20));
    agree("choosy pools", &world, 12);
}

#[test]
fn four_workers_with_choosy_pools_and_ranges_agree() {
    let mut world = choosy(world(4));
    for pool in &mut world.rules.pools {
        pool.choice.port = !pool.choice.port;
    }
    world.rules.pools[0].choice.range = true;
    world.rules.pools[1].hold_s = 200;
    agree("choosy pools of four workers", &world, 13);
}

#[test]
fn one_worker_that_follows_ftp_and_tftp_agrees() {
    agree("FTP", &transferring(world(1)), 19);
}

#[test]
fn three_workers_that_follow_ftp_and_tftp_within_limits_and_with_short_timers_agree() {
    let mut world = transferring(short_timers(limited(3), 1));
    world.settles = false;
    agree("FTP, limits", &world, 20);
}

#[test]
fn one_worker_that_follows_pptp_agrees() {
    agree("PPTP", &tunnelling(world(1)), 21);
}

#[test]
fn four_workers_that_follow_pptp_over_shared_ports_and_with_short_timers_agree() {
    let mut world = tunnelling(short_timers(world(4), 1));
    for pool in &mut world.rules.pools {
        pool.overloading = [(TCP, 1723), (TCP, 443)].into();
    }
    world.settles = false;
    agree("PPTP, shared ports", &world, 22);
}

#[test]
fn one_worker_that_overloads_ports_agrees() {
    agree("overloading", &overloaded(world(1)), 15);
}

#[test]
fn four_workers_that_overload_ports_of_full_blocks_agree() {
    let mut world = overloaded(greedy(4));
    world.rules.pools[0].hold_closed_tcp = false;
    world.rules.hairpinning = true;
    agree("overloading, full", &world, 16);
}

#[test]
fn two_workers_that_overload_ports_within_limits_across_the_wrap_agree() {
    let mut world = short_timers(overloaded(limited(2)), 1);
    world.start = Instant::from_millis(TICK_WRAP_MS - 600_000);
    world.settles = false;
    agree("overloading, limits", &world, 17);
}

#[test]
fn one_worker_with_everything_at_once_agrees() {
    agree("everything", &everything(short_timers(world(1), 3)), 19);
}

#[test]
fn four_workers_with_everything_at_once_agree() {
    let mut world = everything(choosy(limited(4)));
    world.vlans = [Some(Vlan::qinq(1, 100)), None];
    world.rules.pools[1].filtering =
        [Filtering::Address, Filtering::AddressAndPort, Filtering::Anybody];
    world.rules.other_s = 20;
    world.settles = false;
    agree("everything, limits", &world, 20);
}

#[test]
fn two_workers_with_everything_at_once_and_ranges_agree() {
    let mut world = everything(deterministic(short_timers(limited(2), 2), 20));
    // Ports of ranges cannot be mapped.
    world.rules.statics[2].external.1 = 700;
    world.rules.other_s = 9;
    agree("everything, ranges", &world, 21);
}

#[test]
fn two_workers_that_overload_ports_of_ranges_and_choosy_pools_agree() {
    let mut world = overloaded(deterministic(choosy(short_timers(greedy(2), 3)), 20));
    world.rules.pools[0].exclude_ports.clear();
    world.habits.hosts = 5;
    world.habits.source_ports = 300;
    agree("overloading, ranges", &world, 18);
}

#[test]
fn addresses_chosen_by_each_rule_agree_with_1_2_and_4_workers() {
    use Selection::{Bits, Fill, LeastUsed, Random, RoundRobin};
    let events = variable("CGNAT_EVENTS", EVENTS) / 5;
    for (n, selection) in [Random, RoundRobin, LeastUsed, Fill, Bits(3)].into_iter().enumerate() {
        for (workers, most) in [(1, 3), (2, 65_535), (4, 4)] {
            let seed = 20 + n as u64;
            let mut driver = Driver::new(&selecting(workers, selection, most), seed, Fault::None);
            if let Err(difference) = driver.run(events) {
                panic!("{selection:?}, {workers} workers, seed {seed}: {difference}");
            }
        }
    }
}

#[test]
fn one_worker_whose_addresses_come_and_go_agrees() {
    agree("reloads", &reloading(short_timers(world(1), 1)), 15);
}

#[test]
fn four_workers_whose_addresses_come_and_go_agree() {
    agree("reloads of four workers", &reloading(short_timers(greedy(4), 5)), 16);
    let mut world = reloading(world(4));
    world.settles = false;
    world.start = Instant::from_millis(TICK_WRAP_MS - 3_600_000);
    agree("reloads across the wrap", &world, 17);
}

#[test]
fn a_drain_or_a_departure_that_is_not_carried_out_is_found() {
    for fault in [Fault::NoDrain, Fault::NoDeparture] {
        let world = reloading(short_timers(greedy(2), 1));
        let found = difference(&world, |_| {}, fault);
        assert!(!found.is_empty(), "{fault:?} was not noticed");
    }
}

/// Changes the specification's rules, and not the core's.
type Wrong = fn(&mut Rules);

/// Runs a world that is wrong on purpose.
fn difference(world: &World, wrong: impl Fn(&mut Rules), fault: Fault) -> String {
    let mut driver = Driver::new(world, 11, fault);
    driver.mislead(wrong);
    driver.run(60_000).err().unwrap_or_default()
}

#[test]
fn a_flipped_bit_in_any_place_is_found() {
    for at in 100..130 {
        let found = difference(&world(1), |_| {}, Fault::FlippedBit(at));
        assert!(found.contains("the core: sent"), "{found}");
    }
}

#[test]
fn a_hidden_drop_is_found() {
    let found = difference(&world(2), |_| {}, Fault::HiddenDrop(500));
    assert!(found.contains("dropped []"), "{found}");
}

#[test]
fn each_wrong_rule_of_the_specification_is_found() {
    let wrongs: [(&str, Wrong); 26] = [
        ("udp timeout", |rules| rules.udp_s += 1),
        ("udp timeout of port 53", |rules| _ = rules.udp_by_port_s.insert(53, 9)),
        ("icmp timeout", |rules| rules.icmp_s -= 1),
        ("opening timeout", |rules| rules.opening_s += 1),
        ("closing timeout", |rules| rules.closing_s += 1),
        ("reset timeout", |rules| rules.reset_s -= 1),
        ("established timeout", |rules| rules.established_s += 100),
        ("hold-down", |rules| rules.pools[0].hold_s += 1),
        ("max-blocks", |rules| rules.pools[0].max_blocks -= 1),
        ("pool", |rules| rules.pools[1].addresses = addresses("203.0.113.65", "203.0.113.65")),
        ("group order", |rules| rules.groups.swap(0, 1)),
        ("hairpinning", |rules| rules.hairpinning = false),
        ("refresh", |rules| rules.inbound_refresh = true),
        ("tcp filtering", |rules| rules.pools[0].filtering[0] = Filtering::AddressAndPort),
        ("udp filtering", |rules| rules.pools[0].filtering[1] = Filtering::Address),
        ("preservation", |rules| rules.pools[0].choice.port = true),
        ("parity", |rules| rules.pools[0].choice.parity = true),
        ("range", |rules| rules.pools[0].choice.range = true),
        ("excluded port", |rules| _ = rules.pools[0].exclude_ports.insert(1040)),
        ("round-robin", |rules| rules.pools[0].selection = Selection::RoundRobin),
        ("least-used", |rules| rules.pools[0].selection = Selection::LeastUsed),
        ("fill", |rules| rules.pools[0].selection = Selection::Fill),
        ("subscriber bits", |rules| rules.pools[0].selection = Selection::Bits(1)),
        ("subscribers per address", |rules| rules.pools[0].max_subscribers = 2),
        ("max-held", |rules| rules.pools[0].max_held = 8),
        ("hold-closed-tcp", |rules| rules.pools[0].hold_closed_tcp ^= true),
    ];
    let limits: [(&str, Wrong); 10] = [
        ("ports limit", |rules| rules.limits[2].ports = Some(111)),
        ("tcp ports limit", |rules| _ = rules.limits[0].by_protocol.insert(TCP, 34)),
        ("icmp ports limit", |rules| _ = rules.limits[0].by_protocol.insert(ICMP, 11)),
        ("sessions limit", |rules| rules.limits[0].sessions = Some(81)),
        ("inbound sessions limit", |rules| rules.limits[0].inbound_sessions = Some(3)),
        ("rate", |rules| rules.limits[2].rate = Some((2, 12))),
        ("burst", |rules| rules.limits[2].rate = Some((1, 11))),
        ("blocks limit", |rules| rules.limits[2].blocks = Some(2)),
        ("reserve", |rules| rules.limits[0].reserved = 5),
        ("lifeline", |rules| _ = rules.limits[2].lifelines.remove(&(TCP, 443))),
    ];
    let caps: [(&str, Wrong); 5] = [
        ("limit of fragments", |rules| rules.limits[0].fragments = Some(3)),
        ("cap of a destination", |rules| rules.limits[0].per_destination = Some(8)),
        ("cap of a group's destinations", |rules| rules.limits[2].per_destination = Some(13)),
        ("cap of a mapping", |rules| rules.limits[0].per_mapping = Some(5)),
        ("inbound cap of a mapping", |rules| rules.limits[0].inbound_per_mapping = Some(4)),
    ];
    for (name, wrong) in caps {
        let found = difference(&capped(1, [7, 6, 3]), wrong, Fault::None);
        assert!(!found.is_empty(), "a wrong {name} was not noticed");
    }
    for (name, wrong) in wrongs.into_iter().chain(limits) {
        let mut worlds = vec![limited(1)];
        if limits.iter().all(|(other, _)| *other != name) {
            let choosy = choosy(short_timers(world(1), 20));
            let mut random = choosy.clone();
            random.rules.pools[0].choice.port = false;
            worlds = vec![world(1), short_timers(world(1), 1), greedy(1), choosy, random];
        }
        let noticed = worlds.iter().any(|world| !difference(world, wrong, Fault::None).is_empty());
        assert!(noticed, "a wrong {name} was not noticed");
    }
}

#[test]
fn each_wrong_rule_about_exceptions_is_found() {
    let wrongs: [(&str, Wrong); 9] = [
        ("one-to-one address", |rules| rules.statics[0].external.0 += 2),
        ("port of a forward", |rules| rules.statics[3].internal.1 += 1),
        ("number of ports", |rules| rules.statics[2].ports = Some(29)),
        ("protocol of a forward", |rules| rules.statics[3].protocols.push(UDP)),
        ("destination of a rule", |rules| rules.bypass[0].to.1 = 32),
        ("source of a rule", |rules| rules.bypass[1].from = None),
        ("protocol of a rule", |rules| rules.bypass[2].protocol = None),
        ("ports of a rule", |rules| rules.bypass[1].ports[0].1 = 54),
        ("a rule around ours", |rules| rules.bypass[3].to.1 = 32),
    ];
    for (name, wrong) in wrongs {
        let found = difference(&exceptional(world(1)), wrong, Fault::None);
        assert!(!found.is_empty(), "a wrong {name} was not noticed");
    }
}

#[test]
fn each_wrong_rule_about_overloading_is_found() {
    let wrongs: [(&str, Wrong); 3] = [
        ("port too many", |rules| _ = rules.pools[0].overloading.insert((TCP, 123))),
        ("port too few", |rules| _ = rules.pools[0].overloading.remove(&(UDP, 53))),
        ("pool", |rules| _ = rules.pools[1].overloading.insert((UDP, 443))),
    ];
    for (name, wrong) in wrongs {
        let found = difference(&overloaded(world(1)), wrong, Fault::None);
        assert!(!found.is_empty(), "a wrong {name} was not noticed");
    }
}

#[test]
fn each_wrong_rule_about_ftp_and_tftp_is_found() {
    let wrongs: [(&str, Wrong); 3] = [
        ("switch of TFTP", |rules| rules.tftp = false),
        ("room for control connections", |rules| rules.controls -= 16),
        ("time to connect", |rules| rules.opening_s += 1),
    ];
    for (name, wrong) in wrongs {
        let found = difference(&transferring(world(1)), wrong, Fault::None);
        assert!(!found.is_empty(), "a wrong {name} was not noticed");
    }
}

#[test]
fn each_wrong_rule_about_pptp_is_found() {
    let wrongs: [(&str, Wrong); 2] = [
        ("room for control connections", |rules| rules.tunnels -= 16),
        ("worker behind an identification", |rules| rules.workers = 3),
    ];
    for (name, wrong) in wrongs {
        let found = difference(&tunnelling(world(2)), wrong, Fault::None);
        assert!(!found.is_empty(), "a wrong {name} was not noticed");
    }
}

#[test]
fn each_wrong_rule_about_ranges_is_found() {
    let wrongs: [(&str, Wrong); 6] = [
        ("ports per subscriber", |rules| rules.pools[0].own.iter_mut().for_each(|o| o.each -= 1)),
        ("overflow", |rules| rules.pools[0].own.iter_mut().for_each(|o| o.kept += 64)),
        ("hold-down of ranges", |rules| rules.pools[0].own.iter_mut().for_each(|o| o.hold_s = 1)),
        ("hold-down of overflow", |rules| rules.pools[0].hold_s -= 1),
        ("max-blocks of overflow", |rules| rules.pools[0].max_blocks += 1),
        ("order of the groups", |rules| rules.groups.swap(0, 2)),
    ];
    for (name, wrong) in wrongs {
        let world = deterministic(greedy(1), 20);
        let found = difference(&world, wrong, Fault::None);
        assert!(!found.is_empty(), "a wrong {name} was not noticed");
    }
}
