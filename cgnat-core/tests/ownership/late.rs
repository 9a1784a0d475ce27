//! Versions of external space that come late, twice, or from somewhere else; a sweep with a late
//! worker.

use cgnat_core::config::Config;
use cgnat_core::endpoint::ExternalEndpoint;
use cgnat_core::housekeeping::{Notice, ReloadError};
use cgnat_core::packet::ethernet::Tags;
use cgnat_core::shard::BlockWish;
use cgnat_core::space::Location;
use cgnat_core::testing::io::MemoryPacket;
use cgnat_core::testing::lab::{Lab, port_mac};
use cgnat_core::testing::packets::{frame, ip, udp};
use cgnat_core::verdict::DropReason::*;
use cgnat_core::worker::steering::Steering;

const WORKERS: u16 = 4;

const SERVER: (u32, u16) = (0xc633_6407, 80);

fn yaml(addresses: &str) -> String {
    format!(
        "version: 1
system: {{ max-mappings: 1000 }}
ports:
  i:
    side: internal
    device: net_null0
    addresses: [10.255.0.2/30]
    next-hop: 10.255.0.1
    neighbours: [{{ address: 10.255.0.1, mac: \"02:00:00:00:09:01\" }}]
  e:
    side: external
    device: net_null1
    addresses: [192.0.2.2/30]
    next-hop: 192.0.2.1
    neighbours: [{{ address: 192.0.2.1, mac: \"02:00:00:00:09:02\" }}]
pools:
  main: {{ addresses: [{addresses}], ports: 1024-1535, allocation: {{ block-size: 64 }} }}
subscribers: [{{ name: all, match: [100.64.0.0/10], pool: main }}]
"
    )
}

fn config(addresses: &str) -> Config {
    Config::from_yaml("late.yaml", &yaml(addresses)).unwrap()
}

/// Everybody works but one worker.
fn without(lab: &mut Lab, late: usize, ms: u64) {
    lab.now = lab.now.plus_millis(ms);
    for _ in 0..200 {
        lab.housekeeping.run(lab.now, lab.now);
        for (number, worker) in lab.workers.iter_mut().enumerate() {
            if number != late {
                worker.poll(lab.now);
            }
        }
    }
}

/// Who holds the blocks of an address.
fn holders(lab: &Lab, address: &str) -> Vec<Option<u16>> {
    let ports = (1024..1536).step_by(64);
    let places = ports.map(|port| lab.space().locate(ExternalEndpoint::new(ip(address), port)));
    let owner = |place| match place {
        Location::Block(block) => lab.owners.owner(block).map(|owner| owner.worker),
        _ => panic!("{address} is not ours"),
    };
    places.map(owner).collect()
}

/// A packet of a subscriber of a worker; the external endpoint, if it went out.
fn goes_out(lab: &mut Lab, worker: u16, port: u16) -> Option<(u32, u16)> {
    let steering = Steering::new(WORKERS);
    let host = (ip("100.64.0.1")..).find(|host| steering.owner_of(*host) == worker).unwrap();
    let packet = frame(port_mac(0), [2; 6], Tags::None, &udp((host, port), SERVER, b"a"));
    let sent = lab.arrive(usize::from(worker), 0, &packet);
    let bytes = &sent.iter().find(|(port, _)| *port == 1)?.1;
    let address = u32::from_be_bytes([bytes[26], bytes[27], bytes[28], bytes[29]]);
    Some((address, u16::from_be_bytes([bytes[34], bytes[35]])))
}

#[test]
fn nothing_is_lent_withdrawn_or_forgotten_while_one_worker_is_late() {
    for late in 0..usize::from(WORKERS) {
        let mut lab = Lab::new(&yaml("203.0.113.0-203.0.113.1"), WORKERS, 3);
        let before = holders(&lab, "203.0.113.0");
        assert!(before.contains(&Some(late as u16)));
        lab.housekeeping.reload(&config("203.0.113.1-203.0.113.2")).unwrap();
        for _ in 0..30 {
            without(&mut lab, late, 2_000);
        }
        // A minute later: the new address has been lent to nobody, the old one is where it was.
        assert!(lab.housekeeping.is_reloading());
        assert_eq!(holders(&lab, "203.0.113.2"), [None; 8]);
        assert_eq!(holders(&lab, "203.0.113.0"), before);
        assert_eq!(lab.housekeeping.take_notices(), []);
        let again = lab.housekeeping.reload(&config("203.0.113.1"));
        assert_eq!(again, Err(ReloadError::UnderWay { worker: late as u16 }));
        // What arrives for the new address finds no mapping, whoever knows it already.
        let other = (late + 1) % usize::from(WORKERS);
        let packet =
            frame(port_mac(1), [2; 6], Tags::None, &udp(SERVER, (ip("203.0.113.2"), 1100), b""));
        lab.workers[other].io_mut().arrive(1, MemoryPacket::new(&packet));
        without(&mut lab, late, 0);
        assert_eq!((lab.all_drops(), lab.drops(NoMapping)), (1, 1));

        lab.settle();
        assert!(!lab.housekeeping.is_reloading());
        assert!(holders(&lab, "203.0.113.2").iter().all(Option::is_some));
        for _ in 0..4 {
            lab.advance(600);
        }
        assert_eq!(holders(&lab, "203.0.113.0"), [None; 8]);
        let address = "203.0.113.0".parse().unwrap();
        assert_eq!(lab.housekeeping.take_notices(), [Notice::Drained(0, address)]);
        lab.advance(13_000);
        assert_eq!(lab.housekeeping.take_notices(), [Notice::Forgotten(0, address)]);
        lab.audit();
    }
}

#[test]
fn a_version_that_is_not_the_next_of_this_box_is_refused_counted_and_changes_nothing() {
    let mut lab = Lab::new(&yaml("203.0.113.0-203.0.113.1"), WORKERS, 3);
    let other = Lab::new(&yaml("203.0.113.0-203.0.113.1"), WORKERS, 3);
    let flow = goes_out(&mut lab, 2, 9).unwrap();
    let next = |space: &cgnat_core::space::ExternalSpace, addresses: &str| {
        std::sync::Arc::new(space.revised(&config(addresses)).unwrap().unwrap())
    };
    let first = next(lab.space(), "203.0.113.1");
    let forged = [
        lab.space().clone(),
        next(&first, "203.0.113.0-203.0.113.1"),
        next(&next(&first, "203.0.113.9"), "203.0.113.1"),
        next(other.space(), "203.0.113.1"),
        other.space().clone(),
    ];
    for (count, space) in (1..).zip(forged) {
        let shard = lab.workers[2].shard_mut();
        let back = shard.adopt_space(space.clone()).err().unwrap();
        assert!(std::sync::Arc::ptr_eq(&back, &space));
        assert_eq!(shard.gauges().stale_requests, count);
        assert_eq!(goes_out(&mut lab, 2, 9), Some(flow));
        lab.audit();
    }
    // The right one is taken once.
    lab.reload(&yaml("203.0.113.1")).unwrap();
    let space = lab.space().clone();
    assert!(lab.workers[2].shard_mut().adopt_space(space).is_err());
    assert_eq!(goes_out(&mut lab, 2, 9), Some(flow));
}

#[test]
fn a_block_that_comes_late_for_a_drained_address_serves_nobody_and_goes_back() {
    let mut lab = Lab::new(&yaml("203.0.113.0-203.0.113.1"), WORKERS, 3);
    let wish = BlockWish {
        pool: 0,
        address: Some(0),
        fit: cgnat_core::policy::port_choice::BlockFit::Any,
    };
    let leases = lab.workers[1].shard_mut().give_back(wish, 8);
    assert_eq!(leases.len(), 1);
    lab.reload(&yaml("203.0.113.0-203.0.113.1], drain: [203.0.113.0")).unwrap();
    for lease in leases {
        lab.workers[1].shard_mut().adopt(lease);
    }
    for port in 1..=600 {
        let end = goes_out(&mut lab, 1, port);
        assert!(end.is_none_or(|end| end.0 == ip("203.0.113.1")), "{end:?}");
    }
    for _ in 0..4 {
        lab.advance(600);
    }
    assert_eq!(holders(&lab, "203.0.113.0"), [None; 8]);
    lab.audit();
}

#[test]
fn housekeeping_waits_for_a_worker_that_is_late_with_its_packets_or_with_a_sweep() {
    let mut lab = Lab::new(&yaml("203.0.113.0/30"), WORKERS, 1);
    for host in ip("100.64.0.0")..ip("100.64.0.0") + 64 {
        let packet = frame(port_mac(0), [2; 6], Tags::None, &udp((host, 1000), SERVER, b"a"));
        lab.workers[0].io_mut().arrive(0, MemoryPacket::new(&packet));
    }
    lab.settle();
    let late = 2;
    let has_mappings = |lab: &Lab| lab.workers[late].shard().mapping_list().next().is_some();
    // It may be at a packet still, although no command waits for it.
    lab.housekeeping.await_workers();
    assert!(lab.housekeeping.is_busy());
    without(&mut lab, late, 0);
    assert!(lab.housekeeping.is_busy());
    lab.settle();
    assert!(!lab.housekeeping.is_busy() && has_mappings(&lab));
    lab.now = lab.now.plus_millis(400_000);
    lab.housekeeping.sweep_now(lab.now);
    without(&mut lab, late, 0);
    assert!(lab.housekeeping.is_busy() && has_mappings(&lab));
    lab.settle();
    assert!(!lab.housekeeping.is_busy() && !has_mappings(&lab));
}
