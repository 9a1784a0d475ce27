//! Routes that a routing engine learned (decision 31): who gets what, and what happens meanwhile.

use cgnat_core::packet::arp::{Arp, Operation};
use cgnat_core::testing::lab::port_mac;
use cgnat_core::verdict::DropReason::*;
use cgnat_core::worker::routes::{Action, Hop, Learned};

use crate::desk::*;
use crate::wire::ip;

const HOSTS: [&str; 3] = ["100.64.3.9", "100.64.3.10", "100.64.77.1"];
const NEAR: [&str; 2] = ["192.0.2.1", "192.0.2.3"];

/// Of the neighbour .n of a link.
fn mac(port: usize, n: u8) -> [u8; 6] {
    [2, 0, 0, 9, port as u8, n]
}

/// A link with room for several neighbours outside, nothing static but the next hops.
fn desk(workers: u16) -> Desk {
    let yaml =
        plain().replace("192.0.2.2/30", "192.0.2.2/28").replace("10.255.0.2/30", "10.255.0.2/28");
    Desk::with(&yaml, workers, 1)
}

fn via(port: usize, addresses: &[&str]) -> Action {
    let hop = |address: &&str| Hop { port: port as u8, via: Some(ip(address)), weight: 1 };
    Action::Forward(addresses.iter().map(hop).collect())
}

fn routes(of: &[(&str, u8, Action)]) -> Learned {
    of.iter().map(|(network, length, action)| ((ip(network), *length), action.clone())).collect()
}

/// The neighbour tells its MAC.
fn answers(desk: &mut Desk, port: usize, address: &str) -> Frames {
    let arp = Arp {
        operation: Operation::Reply,
        sender_mac: mac(port, ip(address) as u8),
        sender: ip(address),
        target_mac: port_mac(port),
        target: ip(if port == EXTERNAL { "192.0.2.2" } else { "10.255.0.2" }),
    };
    let mut sent = desk.lab.arrive(0, port, &arp_frame(port, None, &arp));
    desk.lab.settle();
    sent.extend(desk.lab.take_sent());
    sent
}

/// Sends from inside; the MAC that the one frame goes to.
fn towards(desk: &mut Desk, host: &str, port: u16, to: &str) -> [u8; 6] {
    let sent = desk.offer(INTERNAL, &udp((host, port), (ip(to), 80)));
    assert_eq!(sent.len(), 1, "drops {:?}", desk.drops());
    assert_eq!(sent[0].0, EXTERNAL);
    sent[0].1[..6].try_into().unwrap()
}

#[test]
fn packets_follow_what_was_learned_and_what_changes() {
    for workers in [1, 3] {
        let mut desk = desk(workers);
        assert_eq!(towards(&mut desk, HOSTS[0], 1, SERVER), HOPS[1]);
        desk.lab.route(
            1,
            &[
                Learned::new(),
                routes(&[
                    ("198.51.100.0", 24, via(EXTERNAL, &[NEAR[1]])),
                    ("198.51.100.128", 25, Action::Refuse),
                ]),
            ],
        );
        desk.lab.take_sent();
        answers(&mut desk, EXTERNAL, NEAR[1]);
        // A mapping that exists, and a new one.
        assert_eq!(towards(&mut desk, HOSTS[0], 1, SERVER), mac(EXTERNAL, 3));
        assert_eq!(towards(&mut desk, HOSTS[1], 1, SERVER), mac(EXTERNAL, 3));
        // What was not learned is as configured; what is to be dropped is.
        assert_eq!(towards(&mut desk, HOSTS[0], 1, "9.9.9.9"), HOPS[1]);
        desk.refused(INTERNAL, &udp((HOSTS[0], 1), (ip("198.51.100.129"), 80)), RouteRefused);
        // The other way nothing has changed.
        let outside = desk.goes_out(&udp((HOSTS[2], 5), (ip("9.9.9.9"), 80)));
        desk.comes_in(&udp(("9.9.9.9", 80), outside), (HOSTS[2], 5));
        desk.lab.route(
            2,
            &[
                routes(&[("100.64.77.0", 24, via(INTERNAL, &["10.255.0.5"]))]),
                routes(&[("0.0.0.0", 0, via(EXTERNAL, &[NEAR[1]]))]),
            ],
        );
        desk.lab.take_sent();
        answers(&mut desk, INTERNAL, "10.255.0.5");
        assert_eq!(towards(&mut desk, HOSTS[0], 1, "9.9.9.9"), mac(EXTERNAL, 3));
        assert_eq!(towards(&mut desk, HOSTS[0], 1, "198.51.100.129"), mac(EXTERNAL, 3));
        let sent = desk.offer(EXTERNAL, &udp(("9.9.9.9", 80), outside));
        assert_eq!((sent[0].0, &sent[0].1[..6]), (INTERNAL, &mac(INTERNAL, 5)[..]));
        // All is withdrawn.
        desk.lab.route(3, &[Learned::new(), Learned::new()]);
        assert_eq!(towards(&mut desk, HOSTS[0], 1, SERVER), HOPS[1]);
        desk.comes_in(&udp(("9.9.9.9", 80), outside), (HOSTS[2], 5));
    }
}

#[test]
fn a_subscriber_stays_with_one_of_several_next_hops_in_both_directions() {
    let mut desk = desk(2);
    let inner = ["10.255.0.3", "10.255.0.4"];
    desk.lab.route(
        1,
        &[
            routes(&[("100.64.0.0", 10, via(INTERNAL, &inner))]),
            routes(&[("0.0.0.0", 0, via(EXTERNAL, &NEAR))]),
        ],
    );
    desk.lab.take_sent();
    answers(&mut desk, EXTERNAL, NEAR[1]);
    inner.iter().for_each(|address| _ = answers(&mut desk, INTERNAL, address));
    let mut used = std::collections::BTreeSet::new();
    for n in 0..40u8 {
        let host = format!("100.64.9.{n}");
        let chosen = towards(&mut desk, &host, 1, SERVER);
        let mut back = None;
        for flow in 2..6 {
            // Long way and short way, another destination, and a packet that comes back.
            assert_eq!(towards(&mut desk, &host, flow, &format!("9.9.{flow}.9")), chosen);
            let packet = udp((&host, flow), (ip(SERVER), 80));
            let sent = desk.offer(INTERNAL, &packet);
            assert_eq!(sent[0].1[..6], chosen);
            let source = [&sent[0].1[26..30], &sent[0].1[34..36]].concat();
            let address = u32::from_be_bytes(source[..4].try_into().unwrap());
            let port = u16::from_be_bytes(source[4..].try_into().unwrap());
            let sent = desk.offer(EXTERNAL, &udp((SERVER, 80), (address, port)));
            assert_eq!(sent[0].0, INTERNAL);
            assert_eq!(*back.get_or_insert(sent[0].1[..6].to_vec()), sent[0].1[..6]);
        }
        used.insert((chosen, back));
    }
    // Each side chooses among its own, and all are used.
    assert_eq!(used.len(), 4, "{used:?}");
}

#[test]
fn packets_wait_for_a_learned_next_hop_in_bounded_number_and_follow_a_change_meanwhile() {
    let mut desk = desk(1);
    desk.lab.route(1, &[Learned::new(), routes(&[("0.0.0.0", 0, via(EXTERNAL, &["192.0.2.5"]))])]);
    // It is asked for before any packet needs it.
    desk.lab.advance(20);
    let asked = desk.lab.take_sent();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1[38..42], ip("192.0.2.5").to_be_bytes());
    for flow in 1..=100 {
        assert_eq!(desk.offer(INTERNAL, &udp((HOSTS[0], flow), server(80))), []);
    }
    assert_eq!(desk.lab.sum(|c| c.parked.value()), 64);
    assert_eq!(desk.drops(), [(ParkingFull, 36)].into());
    // The route changes to somebody who is known: those that wait go there.
    desk.lab.route(2, &[Learned::new(), routes(&[("0.0.0.0", 0, via(EXTERNAL, &[NEAR[0]]))])]);
    desk.lab.advance(60);
    let sent = desk.lab.take_sent();
    let ours: Vec<_> = sent.iter().filter(|(_, frame)| frame[12..14] == [8, 0]).collect();
    assert_eq!(ours.len(), 64);
    assert!(ours.iter().all(|(_, frame)| frame[..6] == HOPS[1]));
    // One that nobody names any more is not asked for without end.
    for _ in 0..8 {
        desk.lab.advance(260);
    }
    desk.lab.take_sent();
    desk.lab.advance(1_000);
    let still = desk.lab.take_sent();
    assert!(
        still.iter().all(|(_, frame)| frame[38..42] != ip("192.0.2.5").to_be_bytes()),
        "{still:?}"
    );
}

#[test]
fn a_version_waits_until_every_worker_has_the_one_before() {
    let mut desk = desk(3);
    let make = |desk: &Desk, version| {
        std::sync::Arc::new(cgnat_core::worker::routes::Routes::new(
            version,
            &desk.lab.forwarding,
            &[Learned::new(), Learned::new()],
        ))
    };
    let (first, second) = (make(&desk, 1), make(&desk, 2));
    let now = desk.lab.now;
    assert!(desk.lab.housekeeping.route(first, now).is_ok());
    assert!(desk.lab.housekeeping.routes().is_none());
    let Err(second) = desk.lab.housekeeping.route(second, now) else { panic!("two at a time") };
    desk.lab.settle();
    assert_eq!(desk.lab.housekeeping.routes().map(|routes| routes.version()), Some(1));
    assert!(desk.lab.housekeeping.route(second, now).is_ok());
    desk.lab.settle();
    // The first is freed: nobody has it.
    assert_eq!(desk.lab.housekeeping.routes().map(std::sync::Arc::strong_count), Some(5));
}
