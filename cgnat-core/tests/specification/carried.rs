//! Worlds in which protocols without ports are carried.

use super::model::drive::Fault;
use super::model::sessions::Filtering;
use super::model::wire::GRE;
use super::model::worlds::{carrying, deterministic, exceptional, limited, short_timers, world};
use super::{Wrong, agree, difference};

#[test]
fn one_worker_that_carries_other_protocols_agrees() {
    agree("other protocols", &carrying(world(1)), 30);
}

#[test]
fn four_workers_that_carry_other_protocols_with_short_timers_agree() {
    let mut world = carrying(short_timers(world(4), 1));
    world.rules.other_s = 9;
    world.rules.pools[0].filtering[1] = Filtering::Address;
    world.rules.pools[1].filtering[1] = Filtering::AddressAndPort;
    world.rules.inbound_refresh = true;
    agree("other protocols, short", &world, 31);
}

#[test]
fn two_workers_that_carry_other_protocols_within_limits_and_ranges_agree() {
    let mut world = carrying(deterministic(limited(2), 20));
    world.rules.other_s = 60;
    world.rules.limits[0].sessions = Some(12);
    agree("other protocols, limits", &world, 32);
}

#[test]
fn two_workers_that_carry_other_protocols_beside_static_mappings_agree() {
    let mut world = carrying(short_timers(exceptional(world(2)), 2));
    world.rules.other_s = 5;
    agree("other protocols, static", &world, 33);
}

#[test]
fn each_wrong_rule_about_other_protocols_is_found() {
    let wrongs: [(&str, Wrong); 4] = [
        ("timeout", |rules| rules.other_s += 1),
        ("carried protocol", |rules| _ = rules.carried.remove(&GRE)),
        ("dropped protocol", |rules| _ = rules.carried.insert(132)),
        ("filtering of IKE", |rules| rules.pools[0].filtering[1] = Filtering::Address),
    ];
    for (name, wrong) in wrongs {
        let world = carrying(short_timers(world(1), 1));
        let found = difference(&world, wrong, Fault::None);
        assert!(!found.is_empty(), "a wrong {name} was not noticed");
    }
}
