//! Links that go down and come back, and addresses that two hosts use (RFC 5227).

use cgnat_core::housekeeping::Conflict;
use cgnat_core::packet::arp::{Arp, Operation};
use cgnat_core::testing::io::MemoryPacket;
use cgnat_core::testing::lab::port_mac;
use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Link, ip};

const HOST: &str = "100.64.3.9";
const HOP: &str = "192.0.2.1";
const OWN: &str = "192.0.2.2";
const OTHER: [u8; 6] = [2, 6, 6, 6, 6, 6];

/// No static neighbour outside.
fn dynamic() -> String {
    let line = "    neighbours: [{ address: 192.0.2.1, mac: \"02:00:00:00:09:02\" }]\n";
    let yaml = plain();
    assert!(yaml.contains(line));
    yaml.replace(line, "")
}

/// An ARP frame at the external port in which `mac` has `address` and talks to us.
fn shows(mac: [u8; 6], address: &str) -> Vec<u8> {
    let (operation, target) = (Operation::Reply, ip(OWN));
    let sender = ip(address);
    let arp = Arp { operation, sender_mac: mac, sender, target_mac: port_mac(1), target };
    arp_frame(1, None, &arp)
}

/// A frame arrives outside, and everybody hears of it.
fn tell(desk: &mut Desk, frame: &[u8]) -> Frames {
    let mut sent = desk.lab.arrive(0, EXTERNAL, frame);
    desk.lab.settle();
    sent.extend(desk.lab.take_sent());
    sent
}

/// With a next hop that has answered, and a first packet sent.
fn begun() -> Desk {
    let mut desk = Desk::new(&dynamic());
    desk.lab.advance(20);
    tell(&mut desk, &shows(HOPS[1], HOP));
    desk.goes_out(&udp((HOST, 1), server(80)));
    desk.lab.take_sent();
    desk
}

/// A broadcast request of the box at the external port.
fn request(sender: &str, target: &str) -> (usize, Vec<u8>) {
    let link = Link { to: [0xff; 6], from: port_mac(1), vlan: None };
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(port_mac(1));
    arp.extend(ip(sender).to_be_bytes());
    arp.extend([0; 6]);
    arp.extend(ip(target).to_be_bytes());
    (1, link.frame(0x0806, &arp))
}

/// Time goes on in steps of ten milliseconds; what is sent.
fn pass(desk: &mut Desk, ms: u64) -> Frames {
    let mut sent = Frames::new();
    for _ in 0..ms / 10 {
        desk.lab.advance(10);
        sent.extend(desk.lab.take_sent());
    }
    sent
}

#[test]
fn what_would_leave_by_a_link_that_is_down_is_dropped_and_nobody_there_is_asked() {
    let mut desk = begun();
    desk.lab.links.set_down(EXTERNAL);
    for port in 1..=5 {
        assert_eq!(desk.offer(INTERNAL, &udp((HOST, port), server(80))), []);
    }
    assert_eq!(desk.drops(), [(LinkDown, 5)].into());
    // The other side goes on, and nothing is forgotten however long it takes.
    let outside = (ip("203.0.113.3"), 2_000);
    desk.offer(EXTERNAL, &udp((SERVER, 80), outside));
    assert_eq!(pass(&mut desk, 60_000), []);
    assert_eq!(desk.lab.counters[0].parked.value(), 0);
    desk.lab.links.set_up(EXTERNAL);
    desk.goes_out(&udp((HOST, 1), server(80)));
}

#[test]
fn packets_that_wait_for_a_neighbour_do_not_wait_for_a_link() {
    let mut desk = Desk::new(&dynamic());
    for port in 1..=3 {
        assert_eq!(desk.offer(INTERNAL, &udp((HOST, port), server(80))), []);
    }
    assert_eq!(desk.lab.counters[0].parked.value(), 3);
    desk.lab.links.set_down(EXTERNAL);
    pass(&mut desk, 60);
    assert_eq!(desk.lab.counters[0].parked.value(), 0);
    let drops = desk.drops();
    assert_eq!(drops.get(&LinkDown).copied().unwrap_or_default(), 3, "{drops:?}");
    assert_eq!(desk.offer(INTERNAL, &udp((HOST, 9), server(80))), []);
    assert_eq!(desk.lab.counters[0].parked.value(), 0);
}

#[test]
fn a_link_that_comes_back_is_used_at_once_while_next_hops_are_asked_and_addresses_announced() {
    let mut desk = begun();
    desk.lab.links.set_down(EXTERNAL);
    pass(&mut desk, 1_000);
    desk.lab.links.set_up(EXTERNAL);
    // Before anybody has answered.
    desk.goes_out(&udp((HOST, 1), server(80)));
    desk.lab.take_sent();
    let sent = pass(&mut desk, 200);
    assert_eq!(sent.iter().filter(|frame| **frame == request(OWN, HOP)).count(), 1, "{sent:?}");
    assert_eq!(sent.iter().filter(|frame| **frame == request(OWN, OWN)).count(), 1, "{sent:?}");
    tell(&mut desk, &shows(HOPS[1], HOP));
    let sent = pass(&mut desk, 20_000);
    assert_eq!(sent, [request(OWN, OWN)], "announced a second time, and nothing else");
    assert_eq!(desk.lab.housekeeping.take_conflicts(), []);
}

#[test]
fn after_a_link_was_down_who_answers_first_is_the_next_hop() {
    let mut desk = begun();
    desk.lab.links.set_down(EXTERNAL);
    desk.lab.links.set_up(EXTERNAL);
    pass(&mut desk, 20);
    // An announcement is no answer.
    let (operation, sender) = (Operation::Reply, ip(HOP));
    let arp = Arp { operation, sender_mac: OTHER, sender, target_mac: [0; 6], target: sender };
    tell(&mut desk, &arp_frame(1, None, &arp));
    desk.goes_out(&udp((HOST, 1), server(80)));
    tell(&mut desk, &shows(OTHER, HOP));
    let sent = desk.offer(INTERNAL, &udp((HOST, 1), server(80)));
    assert_eq!((sent.len(), &sent[0].1[..6]), (1, &OTHER[..]));
    // The former one is not believed any more.
    tell(&mut desk, &shows(HOPS[1], HOP));
    let sent = desk.offer(INTERNAL, &udp((HOST, 1), server(80)));
    assert_eq!(sent[0].1[..6], OTHER);
    let address = HOP.parse().unwrap();
    let (from, to) = (HOPS[1], OTHER);
    let disputed = |used, mac| Conflict::Disputed { port: 1, address, used, mac };
    let moved = Conflict::Moved { port: 1, address, from, to };
    // The two take turns within a minute: the second dispute is not told.
    assert_eq!(desk.lab.housekeeping.take_conflicts(), [disputed(from, to), moved]);
    assert_eq!(desk.lab.sum(|c| c.arp_conflicts.value()), 3);
}

#[test]
fn pool_addresses_on_the_link_are_announced_once_and_no_more_than_1024() {
    let yaml = plain().replace("192.0.2.2/30", "203.0.0.2/16").replace("192.0.2.1", "203.0.0.1");
    let pool = |prefix: &str| yaml.replace("203.0.113.0/28", prefix);
    for (prefix, announced) in [("203.0.113.0/28", 16), ("203.0.112.0/21", 1_024)] {
        let mut desk = Desk::new(&pool(prefix));
        desk.lab.links.set_up(EXTERNAL);
        let sent = pass(&mut desk, 5_000);
        let of = |address: &str| sent.iter().filter(|f| **f == request(address, address)).count();
        assert_eq!(of("203.0.0.2"), 2);
        assert_eq!(of("203.0.113.3"), 1);
        assert_eq!(sent.len(), announced + 2);
        desk.lab.links.set_up(INTERNAL);
        let sent = pass(&mut desk, 5_000);
        assert_eq!(sent.len(), 2, "nothing of the outside is announced inside: {sent:?}");
    }
}

#[test]
fn who_uses_an_address_of_ours_is_told_once_and_answered_every_ten_seconds() {
    let mut desk = begun();
    let taken = |mac| Conflict::Taken { port: 1, address: OWN.parse().unwrap(), mac };
    let mut announced = 0;
    for _ in 0..3_000 {
        let sent = tell(&mut desk, &shows(OTHER, OWN));
        let sent = sent.into_iter().chain(pass(&mut desk, 10));
        announced += sent.filter(|frame| *frame == request(OWN, OWN)).count();
    }
    assert_eq!(announced, 3, "in 30 s");
    assert_eq!(desk.lab.housekeeping.take_conflicts(), [taken(OTHER)]);
    assert_eq!(desk.lab.sum(|c| c.arp_conflicts.value()), 3_000);
}

/// However many claim whatever they like, packets of others go on.
#[test]
fn a_storm_of_claims_tells_housekeeping_little_and_stops_nobody() {
    let mut desk = begun();
    for n in 0..20_000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let mac = [2, 7, 7, a, b, c];
        for address in [OWN, HOP] {
            desk.lab.workers[0].io_mut().arrive(EXTERNAL, MemoryPacket::new(&shows(mac, address)));
        }
        if n % 200 == 0 {
            desk.lab.settle();
            desk.lab.take_sent();
            desk.goes_out(&udp((HOST, 1 + (n / 200) as u16), server(80)));
        }
    }
    desk.lab.settle();
    assert_eq!(desk.lab.sum(|c| c.arp_conflicts.value()), 40_000);
    assert_eq!(desk.drops(), [].into());
    assert_eq!(desk.lab.housekeeping.take_conflicts().len(), 2);
}
