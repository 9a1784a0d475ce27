//! Addresses of pools that come, drain and go while the box runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use cgnat_core::config::{Config, Source};
use cgnat_core::housekeeping::{Notice, ReloadError, Reloaded};
use cgnat_core::packet::arp::{Arp, Operation};
use cgnat_core::space::AddressState;
use cgnat_core::space::revision::RevisionError;
use cgnat_core::verdict::DropReason::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::desk::*;
use crate::wire::ip;

/// Longer than what was translated may wait.
const GRACE_MS: u64 = 13_000;

/// Addresses with eight blocks of 64 ports each.
fn pool(addresses: &str) -> String {
    let pool = format!(
        "{{ addresses: [{addresses}], ports: 1024-1535, allocation: {{ block-size: 64, max-blocks: \
         2 }} }}"
    );
    config(&pool, "")
}

fn host(n: u32) -> String {
    Ipv4Addr::from(ip("100.64.10.0") + n).to_string()
}

/// A packet of subscriber `n`, which arrives at any worker.
fn goes_out(desk: &mut Desk, n: u32, port: u16) -> (u32, u16) {
    desk.at = n as usize % desk.lab.workers.len();
    desk.goes_out(&udp((&host(n), port), server(80)))
}

/// Lets time pass until housekeeping has looked again at what drains, and once more at what it
/// got back.
fn wait(desk: &mut Desk, ms: u64) {
    for ms in [ms, 600, 600, 600] {
        desk.lab.advance(ms);
    }
}

fn address(n: u32) -> u32 {
    ip("203.0.113.0") + n
}

#[test]
fn an_added_address_serves_new_subscribers_and_moves_nobody() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&pool("203.0.113.2-203.0.113.3"), workers, 1);
        let ends: Vec<_> = (0..16).map(|n| goes_out(&mut desk, n, 5000)).collect();
        desk.refused(INTERNAL, &udp((&host(16), 5000), server(80)), PoolExhausted);
        desk.lab.advance(1_100);
        let done = desk.lab.reload(&pool("203.0.113.1-203.0.113.3")).expect("it can");
        assert_eq!(done, Reloaded { added: 1, ..Reloaded::default() });
        for n in 16..24 {
            assert_eq!(goes_out(&mut desk, n, 5000).0, address(1), "{workers} workers");
        }
        desk.refused(INTERNAL, &udp((&host(24), 5000), server(80)), PoolExhausted);
        for (n, end) in (0..).zip(&ends) {
            assert_eq!(goes_out(&mut desk, n, 5000), *end);
            desk.comes_in(&udp((SERVER, 80), *end), (&host(n), 5000));
        }
        assert_eq!(desk.lab.port_census().total(), 3 * 8 * 64 * 3);
        assert_eq!(desk.lab.sum(|c| c.mappings_created.value()), 24);
    }
}

#[test]
fn a_draining_address_keeps_what_it_has_and_gets_nobody_new() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&pool("203.0.113.2-203.0.113.3"), workers, 2);
        let ends: Vec<_> = (0..12).map(|n| goes_out(&mut desk, n, 5000)).collect();
        let drained = pool("203.0.113.2-203.0.113.3], drain: [203.0.113.2");
        let done = desk.lab.reload(&drained).expect("it can");
        assert_eq!(done, Reloaded { draining: 1, ..Reloaded::default() });
        // Whatever room the address had, newcomers get the other one.
        let on_it: Vec<u32> = (0..12).filter(|n| ends[*n as usize].0 == address(2)).collect();
        let room = 8 - (12 - on_it.len() as u32);
        for n in 100..100 + room {
            assert_eq!(goes_out(&mut desk, n, 5000).0, address(3));
        }
        desk.refused(INTERNAL, &udp((&host(99), 5000), server(80)), PoolExhausted);
        // Its subscribers open flows in the blocks that they hold, and get no further one.
        let one = on_it[0];
        for port in 5001..5064 {
            assert_eq!(goes_out(&mut desk, one, port).0, address(2));
        }
        desk.refused(INTERNAL, &udp((&host(one), 5064), server(80)), AddressDraining);
        for n in &on_it {
            assert_eq!(goes_out(&mut desk, *n, 5000), ends[*n as usize]);
            desk.comes_in(&udp((SERVER, 80), ends[*n as usize]), (&host(*n), 5000));
        }
        let draining = desk.lab.housekeeping.draining();
        assert_eq!(draining.len(), 1);
        assert_eq!(
            (draining[0].subscribers, draining[0].blocks),
            (on_it.len() as u32, on_it.len() as u32)
        );
        // With the last mapping and the rest of its ports it is drained, and still ours.
        desk.lab.advance(301_000);
        assert_eq!(desk.lab.housekeeping.take_notices(), []);
        wait(&mut desk, 121_000);
        assert_eq!(
            desk.lab.housekeeping.take_notices(),
            [Notice::Drained(0, address(2).into())],
            "{workers} workers"
        );
        wait(&mut desk, GRACE_MS);
        assert_eq!(desk.lab.housekeeping.take_notices(), []);
        assert_eq!(desk.lab.port_census().free, 2 * 8 * 64 * 3);
        // Its old subscribers get the other one; when it opens again, it is used again.
        assert_eq!(goes_out(&mut desk, one, 5000).0, address(3));
        let done = desk.lab.reload(&pool("203.0.113.2-203.0.113.3")).expect("it can");
        assert_eq!(done, Reloaded { reopened: 1, ..Reloaded::default() });
        let ends: BTreeSet<_> = (200..215).map(|n| goes_out(&mut desk, n, 1).0).collect();
        assert_eq!(ends, [address(2), address(3)].into());
    }
}

#[test]
fn an_address_that_is_removed_is_ours_until_nothing_is_left_of_it() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&pool("203.0.113.2-203.0.113.3"), workers, 3);
        let ends: Vec<_> = (0..16).map(|n| goes_out(&mut desk, n, 5000)).collect();
        let done = desk.lab.reload(&pool("203.0.113.3")).expect("it can");
        assert_eq!(done, Reloaded { leaving: 1, ..Reloaded::default() });
        for (n, end) in (0..).zip(&ends) {
            assert_eq!(goes_out(&mut desk, n, 5000), *end);
            desk.comes_in(&udp((SERVER, 80), *end), (&host(n), 5000));
        }
        desk.lab.advance(301_000);
        wait(&mut desk, 121_000);
        assert_eq!(desk.lab.housekeeping.take_notices(), [Notice::Drained(0, address(2).into())]);
        desk.refused(EXTERNAL, &udp((SERVER, 80), (address(2), 1100)), NoMapping);
        wait(&mut desk, GRACE_MS);
        assert_eq!(desk.lab.housekeeping.take_notices(), [Notice::Forgotten(0, address(2).into())]);
        desk.refused(EXTERNAL, &udp((SERVER, 80), (address(2), 1100)), DestinationUnknown);
        assert_eq!(desk.lab.port_census().total(), 8 * 64 * 3);
        assert_eq!(desk.lab.housekeeping.draining(), []);
        // The place serves another address, under the rules of the pool.
        let done = desk.lab.reload(&pool("203.0.113.3, 203.0.113.77")).expect("it can");
        assert_eq!(done, Reloaded { added: 1, ..Reloaded::default() });
        let used: BTreeSet<u32> = (0..16).map(|n| goes_out(&mut desk, n, 1).0).collect();
        assert_eq!(used, [address(3), address(77)].into());
    }
}

#[test]
fn arp_knows_an_address_from_its_coming_to_its_going() {
    let yaml = |addresses: &str| {
        let yaml = pool(addresses).replace("192.0.2.2/30", "203.0.113.129/25");
        yaml.replace("192.0.2.1", "203.0.113.130")
    };
    let mut desk = Desk::new(&yaml("203.0.113.192"));
    let answers = |desk: &mut Desk| {
        let ask = Arp {
            operation: Operation::Request,
            sender_mac: HOPS[EXTERNAL],
            sender: ip("203.0.113.130"),
            target_mac: [0; 6],
            target: ip("203.0.113.200"),
        };
        desk.lab.arrive(0, EXTERNAL, &arp_frame(EXTERNAL, None, &ask)).len()
    };
    assert_eq!(answers(&mut desk), 0);
    desk.lab.reload(&yaml("203.0.113.192, 203.0.113.200")).expect("it can");
    assert_eq!(answers(&mut desk), 1);
    desk.lab.reload(&yaml("203.0.113.192")).expect("it can");
    assert_eq!(answers(&mut desk), 1);
    wait(&mut desk, 0);
    wait(&mut desk, GRACE_MS);
    assert_eq!(answers(&mut desk), 0);
}

#[test]
fn what_cannot_be_is_refused_whole() {
    let two = |first: &str, second: &str| {
        let yaml = pool(first);
        yaml.replace("subscribers:", &format!("  other: {{ addresses: [{second}] }}\nsubscribers:"))
    };
    let mut desk = Desk::new(&two("203.0.113.2-203.0.113.3", "198.51.100.0/30"));
    let before = goes_out(&mut desk, 0, 1);
    let refused = |desk: &mut Desk, yaml: &str, error: RevisionError| {
        let version = desk.lab.space().version();
        assert_eq!(desk.lab.reload(yaml), Err(ReloadError::Revision(error)));
        assert_eq!(desk.lab.space().version(), version);
        assert_eq!(goes_out(desk, 0, 1), before);
    };
    // Four are spare unless the file says otherwise; the second pool changes nothing either.
    let yaml = two("203.0.113.2-203.0.113.8", "198.51.100.0/29");
    let error = RevisionError::NoPlace { pool: "main".to_owned(), needed: 1, vacant: 4 };
    refused(&mut desk, &yaml, error);
    let yaml = two("203.0.113.2", "198.51.100.0/30, 203.0.113.3");
    let address = "203.0.113.3".parse().expect("an address");
    refused(&mut desk, &yaml, RevisionError::Elsewhere { pool: "other".to_owned(), address });
    desk.lab.reload(&two("203.0.113.2-203.0.113.7", "198.51.100.0/30")).expect("four are spare");

    for rest in [
        "ports: 1024-1535, allocation: { mode: deterministic, ports-per-subscriber: 16 }",
        "address-selection: subscriber-bits, subscriber-bits: 0.0.0.1",
    ] {
        let narrow = |addresses: &str| {
            let yaml = config(&format!("{{ addresses: [{addresses}], {rest} }}"), "");
            yaml.replace("100.64.0.0/10", "100.64.0.0/26")
        };
        let mut desk = Desk::new(&narrow("203.0.113.2-203.0.113.3"));
        let error = desk.lab.reload(&narrow("203.0.113.3-203.0.113.4"));
        let fixed = RevisionError::Fixed { pool: "main".to_owned() };
        assert_eq!(error, Err(ReloadError::Revision(fixed)));
    }
}

#[test]
fn ports_that_are_mapped_statically_or_excluded_are_not_lent_of_an_added_address() {
    let forward = "{ internal: \"100.64.9.9:1100-1535\", external: \"203.0.113.9:1100-1535\", \
                   protocol: both }";
    let yaml = |addresses: &str| {
        let yaml = pool(addresses);
        let yaml = yaml.replace(" ports: 1024", " exclude-ports: [1024-1080], ports: 1024");
        format!("{yaml}static: [{forward}]\n")
    };
    let mut desk = Desk::new(&yaml("203.0.113.2"));
    desk.lab.reload(&yaml("203.0.113.9")).expect("it can");
    // 1081-1087 of the first block, 1088-1099 of the second; the others are mapped whole.
    let ends: BTreeSet<_> = (1..20).map(|port| goes_out(&mut desk, 0, port)).collect();
    assert_eq!(ends, (1081..1100).map(|port| (address(9), port)).collect());
    desk.refused(INTERNAL, &udp((&host(0), 20), server(80)), SubscriberPorts);
}

/// Nothing that was open is lost or moved by very many reloads, and no version stays behind.
#[test]
fn a_thousand_reloads_with_blocks_in_use_lose_and_move_nothing() {
    for workers in [1, 4] {
        let mut random = ChaCha8Rng::seed_from_u64(u64::from(workers));
        let mut desk = Desk::with(&pool("203.0.113.0-203.0.113.5"), workers, 4);
        let mut flows: BTreeMap<(u32, u16), (u32, u16)> = BTreeMap::new();
        let mut versions = Vec::new();
        for round in 0..1_000 {
            let mut list: Vec<String> = (0..9)
                .filter(|_| random.next_u32() % 3 > 0)
                .map(|n| Ipv4Addr::from(address(n)).to_string())
                .collect();
            list.push("203.0.113.9".to_owned());
            let drain = list.iter().filter(|_| random.next_u32().is_multiple_of(4));
            let drain: Vec<_> = drain.cloned().collect();
            let drain = if drain.is_empty() {
                String::new()
            } else {
                format!("], drain: [{}", drain.join(", "))
            };
            versions.push(Arc::downgrade(desk.lab.space()));
            match desk.lab.reload(&pool(&format!("{}{drain}", list.join(", ")))) {
                Ok(_) | Err(ReloadError::Revision(RevisionError::NoPlace { .. })) => {}
                Err(error) => panic!("{error}"),
            }
            // A new flow now and then, and all that are there go on.
            let flow = (round % 40, 5_000 + (round / 40) as u16);
            desk.at = round as usize % usize::from(workers);
            let packet = udp((&host(flow.0), flow.1), server(80));
            if desk.offer(INTERNAL, &packet).len() == 1 && desk.mappings() > flows.len() as u64 {
                flows.insert(flow, goes_out(&mut desk, flow.0, flow.1));
            }
            if round % 10 == 0 {
                for ((n, port), end) in &flows {
                    assert_eq!(goes_out(&mut desk, *n, *port), *end);
                    desk.comes_in(&udp((SERVER, 80), *end), (&host(*n), *port));
                }
            }
            desk.lab.advance(random.next_u32() as u64 % 3_000);
        }
        assert!(flows.len() > 300, "{} flows", flows.len());
        assert_eq!(desk.mappings(), flows.len() as u64);
        assert_eq!(desk.lab.sum(|c| c.mappings_created.value()), flows.len() as u64);
        let current = Arc::as_ptr(desk.lab.space());
        versions.retain(|version| version.strong_count() > 0 && version.as_ptr() != current);
        assert!(versions.is_empty(), "{} old versions are still there", versions.len());
        // When all is over, only the addresses of the last file are there, whole.
        desk.lab.reload(&pool("203.0.113.9")).expect("it can");
        for _ in 0..40 {
            desk.lab.advance(20_000);
        }
        assert_eq!(desk.mappings(), 0);
        assert_eq!(desk.lab.housekeeping.draining(), []);
        assert_eq!(desk.lab.port_census().free, 8 * 64 * 3);
    }
}

/// Files with random damage: each is taken whole or not at all.
#[test]
fn ten_thousand_mutated_files_change_everything_they_say_or_nothing() {
    let yaml = pool(
        "203.0.113.0/29, 203.0.113.64-203.0.113.70], exclude: [203.0.113.3], drain: [203.0.113.5",
    );
    let yaml = yaml.replace("allocation:", "spare-addresses: 40, allocation:");
    let good = |text: &str| {
        let config = Config::from_yaml("m.yaml", text).ok()?;
        Some(Source { config, text: text.to_owned() })
    };
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let mut desk = Desk::with(&yaml, 2, 5);
    let mut running = good(&yaml).expect("good");
    let words: Vec<&[u8]> = vec![
        b"203.0.113.9",
        b"203.0.113.64",
        b"-",
        b"/30",
        b", ",
        b"]",
        b"[",
        b": ",
        b"\n",
        b"  ",
        b"1",
        b"drain",
        b"exclude",
        b"mtu: 1400\n",
        b"{",
        b"}",
        b"9",
        b"\"",
        b"#",
    ];
    let (mut broken, mut restarts, mut refused, mut taken) = (0, 0, 0, 0);
    let flow = goes_out(&mut desk, 0, 1);
    for _ in 0..10_000 {
        let mut bytes = yaml.clone().into_bytes();
        // Most damage falls where addresses stand, else nearly every file is broken.
        let pools = yaml.find("pools:").expect("a section");
        let end = yaml.find("ports: 1024").expect("the pool's");
        for _ in 0..1 + random.next_u32() % 2 {
            let (from, to) = if random.next_u32().is_multiple_of(8) {
                (0, bytes.len())
            } else {
                (pools, end.min(bytes.len()))
            };
            let at = from + random.next_u32() as usize % (to - from);
            match random.next_u32() % 16 {
                0 => _ = bytes.remove(at),
                1 => bytes[at] = random.next_u32() as u8 & 0x7f,
                // One digit of an address for another.
                2..14 => {
                    let digits = (from..to).filter(|at| bytes[*at].is_ascii_digit());
                    let digits: Vec<usize> = digits.collect();
                    let at = digits[random.next_u32() as usize % digits.len()];
                    bytes[at] = b'0' + (random.next_u32() % 10) as u8;
                }
                _ => {
                    let word = words[random.next_u32() as usize % words.len()];
                    bytes.splice(at..at, word.iter().copied());
                }
            }
        }
        let text = String::from_utf8(bytes).expect("ASCII");
        let before = states(&desk);
        let Some(source) = good(&text) else {
            broken += 1;
            continue;
        };
        if !running.needs_restart(&source).is_empty() {
            restarts += 1;
            continue;
        }
        match desk.lab.housekeeping.reload(&source.config) {
            Err(_) => {
                refused += 1;
                assert_eq!(states(&desk), before);
            }
            Ok(_) => {
                taken += 1;
                desk.lab.settle();
                desk.lab.take_sent();
                let pool = &source.config.pools()[0];
                for address in pool.addresses() {
                    let drained = pool.drain().contains(address);
                    let expected =
                        if drained { AddressState::Draining } else { AddressState::Open };
                    assert_eq!(states(&desk).get(&u32::from(*address)), Some(&expected));
                }
                let usable = states(&desk).into_values().filter(|s| *s != AddressState::Leaving);
                assert_eq!(usable.count(), pool.addresses().len());
                running = source;
            }
        }
        desk.lab.advance(2_000);
        assert_eq!(goes_out(&mut desk, 0, 1), flow, "{text}");
    }
    println!("{broken} broken, {restarts} need a restart, {refused} refused, {taken} taken");
    assert!(broken > 1_000 && restarts > 50 && taken > 500);
}

fn states(desk: &Desk) -> BTreeMap<u32, AddressState> {
    let places = desk.lab.space().pools()[0].places().iter();
    let ours = places.filter(|place| place.state != AddressState::Vacant);
    ours.map(|place| (u32::from(Ipv4Addr::from(place.address)), place.state)).collect()
}
