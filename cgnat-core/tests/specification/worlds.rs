//! Worlds that the core and the specification are compared in, and what changes them.

use std::collections::BTreeSet;

use cgnat_core::time::Instant;

use super::create::{Choice, Selection};
use super::events::Habits;
use super::exceptions::{Bypass, Static};
use super::limits::Limits;
use super::nat::{Pool, Rules};
use super::ranges::Own;
use super::sessions::Filtering;
use super::wire::{ESP, GRE, ICMP, TCP, UDP, UDP_LITE, ip};
use super::world::{EXTERNAL_OWN, INTERNAL_OWN, World};

/// Addresses `first` to `last`.
pub fn addresses(first: &str, last: &str) -> BTreeSet<u32> {
    (ip(first)..=ip(last)).collect()
}

/// What a pool is unless it says otherwise.
pub fn rested() -> Pool {
    Pool {
        addresses: BTreeSet::new(),
        draining: BTreeSet::new(),
        leaving: BTreeSet::new(),
        ports: (1024, 65535),
        block_size: 512,
        max_blocks: 4,
        hold_s: 120,
        choice: Choice::default(),
        exclude_ports: BTreeSet::new(),
        max_held: 65_535,
        hold_closed_tcp: true,
        selection: Selection::Random,
        max_subscribers: 65_535,
        filtering: [Filtering::Anybody; 3],
        overloading: BTreeSet::new(),
        own: None,
    }
}

/// Two pools, three groups of which the first two overlap, RFC timers.
pub fn world(workers: u16) -> World {
    let big = Pool {
        addresses: addresses("203.0.113.0", "203.0.113.1"),
        ports: (1024, 1535),
        block_size: 64,
        max_blocks: 3,
        hold_s: 120,
        ..rested()
    };
    let small = Pool {
        addresses: addresses("203.0.113.64", "203.0.113.64"),
        ports: (2000, 2000 + 64 * 6 - 1),
        block_size: 64,
        max_blocks: 2,
        hold_s: 5,
        ..rested()
    };
    let group = |first: &str, count: u32, pool| (ip(first), ip(first) + count - 1, pool);
    World {
        rules: Rules {
            pools: vec![big, small],
            groups: vec![
                group("100.64.0.0", 16, 0),
                group("100.64.0.0", 32, 1),
                group("100.65.0.0", 32, 0),
            ],
            limits: Vec::new(),
            ways: Vec::new(),
            own: [ip(INTERNAL_OWN), ip(EXTERNAL_OWN)],
            hairpinning: true,
            statics: vec![],
            bypass: vec![],
            inbound_refresh: false,
            mtu_internal: 1500,
            mtu_external: 576,
            opening_s: 240,
            established_s: 7440,
            closing_s: 240,
            reset_s: 240,
            udp_s: 300,
            udp_by_port_s: [(53, 10), (123, 30)].into(),
            icmp_s: 60,
            carried: BTreeSet::new(),
            other_s: 600,
            fragments_s: 2,
            ftp: false,
            pptp: false,
            tftp: false,
            mappings: 0,
            further_sessions: 0,
            associations: 0,
            controls: 0,
            tunnels: 0,
            workers: 1,
        },
        workers,
        vlans: [None, None],
        max_mappings: 1000,
        start: Instant::from_millis(1_000_000),
        settles: true,
        habits: Habits {
            hosts: 18,
            busy: 0,
            remotes: 3,
            first_port: 0,
            source_ports: 40,
            steps: 60,
            housekeeping: 15,
            reloads: 0,
            step_ms: 3_000,
            payload: 700,
        },
    }
}

pub fn short_timers(mut world: World, hold_s: u64) -> World {
    let rules = &mut world.rules;
    (rules.opening_s, rules.established_s, rules.closing_s, rules.reset_s) = (2, 20, 3, 4);
    (rules.udp_s, rules.icmp_s) = (5, 1);
    for pool in &mut rules.pools {
        pool.hold_s = hold_s;
    }
    world.habits.step_ms = 400;
    world
}

/// Few hosts that want more ports than they may have.
pub fn greedy(workers: u16) -> World {
    let mut world = world(workers);
    world.habits.hosts = 4;
    world.habits.source_ports = 600;
    world.habits.step_ms = 700;
    (world.rules.mtu_internal, world.rules.mtu_external) = (600, 577);
    world
}

/// The first pool has a range of `each` ports for each of its 48 subscribers on three
/// addresses, some ports too few for a further range, and five overflow blocks on each address.
pub fn deterministic(mut world: World, each: u16) -> World {
    let pool = &mut world.rules.pools[0];
    pool.addresses = addresses("203.0.113.0", "203.0.113.2");
    pool.ports = (1024, 1024 + 16 * each + 7 + 5 * 64 - 1);
    pool.max_blocks = 2;
    pool.own = Some(Own { each, kept: 5 * 64, hold_s: 0 });
    world
}

/// Every limit there is; the first group and the last have different ones.
pub fn limited(workers: u16) -> World {
    let mut world = greedy(workers);
    world.habits.hosts = 3;
    world.habits.source_ports = 300;
    world.rules.limits = vec![
        Limits {
            by_protocol: [(TCP, 35), (UDP, 45), (ICMP, 10)].into(),
            sessions: Some(80),
            inbound_sessions: Some(4),
            reserved: 6,
            lifelines: [(TCP, 443), (UDP, 53), (UDP, 123)].into(),
            ..Limits::default()
        },
        Limits::default(),
        Limits {
            ports: Some(110),
            rate: Some((1, 12)),
            blocks: Some(1),
            reserved: 12,
            lifelines: [(TCP, 443), (ICMP, 0)].into(),
            ..Limits::default()
        },
    ];
    world
}

/// Few sessions with one remote address, of one mapping, and of those from outside, where hosts
/// want many.
pub fn capped(workers: u16, [destination, mapping, inbound]: [usize; 3]) -> World {
    let mut world = greedy(workers);
    world.habits.hosts = 3;
    world.habits.source_ports = 12;
    world.habits.remotes = 5;
    world.rules.fragments_s = 20;
    world.rules.limits = vec![
        Limits {
            per_destination: Some(destination),
            per_mapping: Some(mapping),
            inbound_per_mapping: Some(inbound),
            fragments: Some(2),
            ..Limits::default()
        },
        Limits::default(),
        Limits {
            sessions: Some(60),
            per_destination: Some(destination * 2),
            per_mapping: Some(mapping),
            rate: Some((2, 30)),
            ..Limits::default()
        },
    ];
    world
}

/// Pools that ask for particular ports, exclude some and let few rest.
pub fn choosy(mut world: World) -> World {
    let [big, small] = &mut world.rules.pools[..] else { unreachable!("two pools") };
    big.ports = (960, 960 + 64 * 8 - 1);
    big.choice = Choice { port: true, parity: true, range: false };
    big.exclude_ports = [961, 999, 1030, 1031, 1400].into();
    (big.max_held, big.hold_closed_tcp) = (7, false);
    small.choice = Choice { port: false, parity: true, range: false };
    small.max_held = 3;
    world.habits.hosts = 6;
    world.habits.first_port = 940;
    world.habits.source_ports = 200;
    world
}

/// Static mappings, some on ports that the pools lend, and rules that cover more than they may.
pub fn exceptional(mut world: World) -> World {
    let both = [TCP, UDP];
    let all = [TCP, UDP, ICMP];
    let one = |internal: (&str, u16), external: (&str, u16), ports, protocols: &[u8]| Static {
        internal: (ip(internal.0), internal.1),
        external: (ip(external.0), external.1),
        ports,
        protocols: protocols.to_vec(),
    };
    world.rules.statics = vec![
        one(("100.64.0.3", 0), ("203.0.113.90", 0), None, &all),
        one(("100.65.0.5", 0), ("203.0.113.91", 0), None, &all),
        one(("100.64.0.4", 1), ("203.0.113.0", 1030), Some(30), &both),
        one(("100.65.0.6", 5), ("203.0.113.1", 80), Some(8), &[TCP]),
        one(("100.64.0.4", 33), ("203.0.113.95", 7000), Some(3), &[UDP]),
    ];
    let rule =
        |to: (&str, u32), from: Option<(&str, u32)>, protocol, ports: &[(u16, u16)]| Bypass {
            to: (ip(to.0), to.1),
            from: from.map(|from| (ip(from.0), from.1)),
            protocol,
            ports: ports.to_vec(),
        };
    world.rules.bypass = vec![
        rule(("198.18.0.0", 16), None, None, &[]),
        rule(("198.19.0.0", 24), Some(("100.65.0.0", 28)), Some(UDP), &[(53, 53), (5000, 5010)]),
        rule(("100.100.0.0", 24), None, Some(TCP), &[]),
        rule(("203.0.112.0", 22), None, None, &[(443, 443)]),
        // A part of a subscriber range that lies outside.
        rule(("100.65.0.16", 30), None, Some(ICMP), &[]),
        rule(("10.0.0.0", 8), None, None, &[]),
    ];
    world
}

/// Ports are shared towards these; the second pool names fewer.
pub fn overloaded(mut world: World) -> World {
    world.rules.pools[0].overloading = [(TCP, 443), (TCP, 53), (UDP, 443), (UDP, 53)].into();
    world.rules.pools[1].overloading = [(TCP, 443)].into();
    world.habits.remotes = 12;
    world
}

/// Four addresses in the big pool, chosen by a rule.
pub fn selecting(workers: u16, selection: Selection, max_subscribers: usize) -> World {
    let mut world = short_timers(world(workers), 5);
    let pool = &mut world.rules.pools[0];
    pool.addresses = addresses("203.0.113.0", "203.0.113.3");
    (pool.selection, pool.max_subscribers) = (selection, max_subscribers);
    world.habits.source_ports = 120;
    world
}

/// Addresses of the big pool come, drain and go, some of them while hosts are silent for long.
pub fn reloading(mut world: World) -> World {
    world.habits.reloads = 5;
    world.rules.pools[0].ports = (1024, 1024 + 64 * 4 - 1);
    world
}

/// Protocols without ports are carried.
pub fn carrying(mut world: World) -> World {
    world.rules.carried = [GRE, ESP, UDP_LITE].into();
    world.max_mappings = 4_000;
    world
}

/// FTP is followed, and TFTP. Few hosts, so that they dial the same servers from the same ports
/// again, and data connections to endpoints that other traffic uses as well.
pub fn transferring(mut world: World) -> World {
    use Filtering::{Address, AddressAndPort, Anybody};
    (world.rules.ftp, world.rules.tftp) = (true, true);
    world.rules.pools[0].filtering = [AddressAndPort, AddressAndPort, Anybody];
    world.rules.pools[1].filtering = [Address, AddressAndPort, Anybody];
    world.habits.hosts = 20;
    world.habits.first_port = 1010;
    world
}

/// PPTP is followed. Few hosts and one address, so that they call the same servers from it.
pub fn tunnelling(mut world: World) -> World {
    (world.rules.pptp, world.rules.established_s) = (true, world.rules.established_s.min(600));
    world.rules.pools[0].addresses = addresses("203.0.113.0", "203.0.113.0");
    world.habits.hosts = 12;
    world
}

/// Shared ports, protocols without ports, static mappings and bypass beside each other.
pub fn everything(world: World) -> World {
    carrying(overloaded(exceptional(world)))
}
