//! Resolving next hops: what waits, for how long, and refresh.

use cgnat_core::packet::arp::{Arp, Operation};
use cgnat_core::testing::lab::{Lab, port_mac};
use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Link, ip};

const HOST: &str = "100.64.3.9";
const HOP: &str = "192.0.2.1";

/// No static neighbour outside.
fn dynamic() -> String {
    let line = "    neighbours: [{ address: 192.0.2.1, mac: \"02:00:00:00:09:02\" }]\n";
    let yaml = plain();
    assert!(yaml.contains(line));
    yaml.replace(line, "")
}

fn reply(desk: &mut Desk) -> Frames {
    let arp = Arp {
        operation: Operation::Reply,
        sender_mac: HOPS[1],
        sender: ip(HOP),
        target_mac: port_mac(1),
        target: ip("192.0.2.2"),
    };
    tell(desk, &arp_frame(1, None, &arp))
}

/// A frame arrives outside, and everybody hears of it.
fn tell(desk: &mut Desk, frame: &[u8]) -> Frames {
    let mut sent = desk.lab.arrive(0, EXTERNAL, frame);
    desk.lab.settle();
    sent.extend(desk.lab.take_sent());
    sent
}

fn question(to: [u8; 6]) -> (usize, Vec<u8>) {
    let link = Link { to, from: port_mac(1), vlan: None };
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(port_mac(1));
    arp.extend(ip("192.0.2.2").to_be_bytes());
    arp.extend([0; 6]);
    arp.extend(ip(HOP).to_be_bytes());
    (1, link.frame(0x0806, &arp))
}

/// Offers `count` packets of as many flows without letting time go on.
fn offer(desk: &mut Desk, count: u16) {
    for port in 1..=count {
        let frame = desk.arriving(INTERNAL, &udp((HOST, port), server(80)));
        let packet = cgnat_core::testing::io::MemoryPacket::new(&frame);
        desk.lab.workers[0].io_mut().arrive(INTERNAL, packet);
    }
    let now = desk.lab.now;
    while desk.lab.workers[0].poll(now) > 0 {}
}

#[test]
fn the_next_hop_is_asked_for_from_the_start_and_every_quarter_second() {
    let mut desk = Desk::new(&dynamic());
    // At the start itself the channel to the worker was full of port blocks.
    desk.lab.advance(10);
    assert_eq!(desk.lab.take_sent(), [question([0xff; 6])]);
    for _ in 0..5 {
        desk.lab.advance(240);
        assert_eq!(desk.lab.take_sent(), []);
        desk.lab.advance(20);
        assert_eq!(desk.lab.take_sent(), [question([0xff; 6])]);
    }
}

#[test]
fn packets_wait_for_the_next_hop_in_order_and_in_a_bounded_number() {
    let mut desk = Desk::new(&dynamic());
    offer(&mut desk, 300);
    assert_eq!(desk.lab.take_sent(), []);
    assert_eq!(desk.lab.counters[0].parked.value(), 64);
    assert_eq!(desk.drops(), [(ParkingFull, 236)].into());
    let sent = reply(&mut desk);
    assert_eq!(sent.len(), 64);
    assert!(sent.iter().all(|(port, frame)| *port == EXTERNAL && frame[..6] == HOPS[1]));
    let identifications: Vec<&[u8]> = sent.iter().map(|(_, frame)| &frame[34..36]).collect();
    let list: Vec<_> = desk.lab.workers[0].shard().mapping_list().collect();
    for (n, external) in identifications.iter().enumerate() {
        let mapping = list.iter().find(|mapping| mapping.internal.port == n as u16 + 1);
        assert_eq!(mapping.unwrap().external.port.to_be_bytes(), **external, "out of order");
    }
    assert_eq!(desk.lab.counters[0].parked.value(), 0);
}

#[test]
fn a_packet_waits_two_seconds_for_its_next_hop_and_not_longer() {
    let mut desk = Desk::new(&dynamic());
    offer(&mut desk, 2);
    desk.lab.advance(1_990);
    assert_eq!(desk.lab.counters[0].parked.value(), 2);
    // It is looked at every 50 ms.
    desk.lab.advance(60);
    assert_eq!(desk.drops(), [(NeighbourUnresolved, 2)].into());
    assert_eq!(desk.lab.counters[0].parked.value(), 0);
}

#[test]
fn a_known_next_hop_is_asked_again_by_unicast_and_lost_after_four_silent_tries() {
    let mut desk = Desk::new(&dynamic());
    reply(&mut desk);
    desk.goes_out(&udp((HOST, 1), server(80)));
    desk.lab.advance(29_900);
    assert_eq!(desk.lab.take_sent(), []);
    desk.lab.advance(200);
    assert_eq!(desk.lab.take_sent(), [question(HOPS[1])]);
    reply(&mut desk);
    desk.lab.advance(29_900);
    assert_eq!(desk.lab.take_sent(), []);
    for _ in 0..4 {
        desk.lab.advance(260);
        assert_eq!(desk.lab.take_sent(), [question(HOPS[1])]);
        desk.goes_out(&udp((HOST, 1), server(80)));
    }
    // Given up: asked by broadcast, and packets wait again.
    desk.lab.advance(260);
    assert_eq!(desk.lab.take_sent(), [question([0xff; 6])]);
    offer(&mut desk, 1);
    assert_eq!(desk.lab.take_sent(), []);
    assert_eq!(reply(&mut desk).len(), 1);
    desk.goes_out(&udp((HOST, 1), server(80)));
}

#[test]
fn what_waits_for_a_neighbour_at_shutdown_is_counted() {
    let mut desk = Desk::new(&dynamic());
    offer(&mut desk, 7);
    desk.lab.workers.remove(0).stop();
    assert_eq!(desk.drops(), [(Shutdown, 7)].into());
}

#[test]
fn an_on_link_destination_is_resolved_when_a_packet_needs_it() {
    let yaml = plain().replace("10.255.0.2/30", "100.127.255.254/10");
    let yaml = yaml.replace("10.255.0.1", "100.127.255.253");
    let mut desk = Desk::new(&yaml);
    let outside = desk.goes_out(&udp((HOST, 1), server(80)));
    let inbound = udp((SERVER, 80), outside);
    let sent = desk.offer(EXTERNAL, &inbound);
    // The question goes out, the packet waits.
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].0, &sent[0].1[12..14]), (INTERNAL, &[8u8, 6][..]));
    let mac = [2, 7, 7, 7, 7, 7];
    let arp = Arp {
        operation: Operation::Reply,
        sender_mac: mac,
        sender: ip(HOST),
        target_mac: port_mac(0),
        target: ip("100.127.255.254"),
    };
    desk.lab.arrive(0, INTERNAL, &arp_frame(0, None, &arp));
    desk.lab.settle();
    let sent = desk.lab.take_sent();
    let mut expected = inbound.clone();
    expected.set_destination((ip(HOST), 1));
    expected.ttl -= 1;
    let link = Link { to: mac, from: port_mac(0), vlan: None };
    let expected = (INTERNAL, link.frame(0x0800, &expected.bytes()));
    assert!(sent.contains(&expected) || desk.offer(EXTERNAL, &inbound) == [expected]);
}

#[test]
fn a_dead_neighbour_does_not_take_the_places_of_others_and_all_are_bounded() {
    let yaml = plain().replace("10.255.0.2/30", "100.127.255.254/10");
    let mut desk = Desk::new(&yaml.replace("10.255.0.1", "100.127.255.253"));
    let mut inbound = Vec::new();
    for n in 1..=6 {
        let host = format!("100.64.3.{n}");
        inbound.push(udp((SERVER, 80), desk.goes_out(&udp((&host, 1), server(80)))));
    }
    let mut parked = 0;
    for packet in &inbound {
        for _ in 0..70 {
            let frame = desk.arriving(EXTERNAL, packet);
            let packet = cgnat_core::testing::io::MemoryPacket::new(&frame);
            desk.lab.workers[0].io_mut().arrive(EXTERNAL, packet);
        }
        let now = desk.lab.now;
        while desk.lab.workers[0].poll(now) > 0 {}
        parked = (parked + 64).min(256);
        assert_eq!(desk.lab.counters[0].parked.value(), parked);
    }
    assert_eq!(desk.drops(), [(ParkingFull, 6 * 70 - 256)].into());
}

/// A box that starts sends nothing of subscribers before it knows where to.
#[test]
fn a_box_that_starts_sends_arp_requests_only() {
    let mut lab = Lab::new(&dynamic(), 4, 1);
    lab.advance(10_000);
    let sent = lab.take_sent();
    assert!(!sent.is_empty() && sent.iter().all(|frame| *frame == question([0xff; 6])));
}

/// An ARP frame at the external port in which `mac` claims `address`.
fn claim(operation: Operation, mac: [u8; 6], address: u32) -> Vec<u8> {
    let target = ip("192.0.2.2");
    let arp = Arp { operation, sender_mac: mac, sender: address, target_mac: port_mac(1), target };
    arp_frame(1, None, &arp)
}

const THIEF: [u8; 6] = [2, 6, 6, 6, 6, 6];

/// The first packet that leaves goes to `mac`; whether somebody was asked does not matter.
fn goes_to(desk: &mut Desk, mac: [u8; 6], port: u16) {
    let mut sent = desk.offer(INTERNAL, &udp((HOST, port), server(80)));
    sent.retain(|(_, frame)| frame[12..14] == [8, 0]);
    assert_eq!(sent.len(), 1, "drops {:?}", desk.drops());
    assert_eq!(sent[0].1[..6], mac);
}

#[test]
fn a_next_hop_that_answers_keeps_its_packets_whoever_claims_its_address() {
    let mut desk = Desk::new(&dynamic());
    reply(&mut desk);
    let mut asked = 0;
    for n in 0..1_000 {
        for operation in [Operation::Reply, Operation::Request] {
            desk.lab.arrive(0, EXTERNAL, &claim(operation, THIEF, ip(HOP)));
        }
        desk.lab.advance(10);
        let questions = desk.lab.take_sent();
        assert!(questions.iter().all(|frame| *frame == question(HOPS[1])));
        if !questions.is_empty() {
            asked += 1;
            reply(&mut desk);
        }
        goes_to(&mut desk, HOPS[1], 1 + n % 9);
    }
    assert!((38..=40).contains(&asked), "asked {asked} times in 10 s, not once in 250 ms");
    assert_eq!(desk.lab.sum(|c| c.arp_conflicts.value()), 2_000);
    assert_eq!(desk.lab.all_drops(), 0);
}

/// Who is there first need not be the next hop.
#[test]
fn an_announcement_that_nobody_asked_for_makes_no_neighbour_and_keeps_none() {
    let announce = |operation, mac| {
        let hop = ip(HOP);
        let arp = Arp { operation, sender_mac: mac, sender: hop, target_mac: [0; 6], target: hop };
        arp_frame(1, None, &arp)
    };
    let mut desk = Desk::new(&dynamic());
    for operation in [Operation::Reply, Operation::Request] {
        tell(&mut desk, &announce(operation, THIEF));
    }
    offer(&mut desk, 1);
    assert_eq!(desk.lab.take_sent(), []);
    let sent = reply(&mut desk);
    assert_eq!((sent.len(), &sent[0].1[..6]), (1, &HOPS[1][..]));
    // It announces itself and does not answer: it is asked as if it were silent.
    desk.lab.advance(29_000);
    desk.lab.take_sent();
    tell(&mut desk, &announce(Operation::Reply, HOPS[1]));
    desk.lab.advance(1_010);
    assert_eq!(desk.lab.take_sent()[0], question(HOPS[1]));
}

#[test]
fn a_next_hop_that_has_moved_is_believed_once_the_known_one_is_silent() {
    let mut desk = Desk::new(&dynamic());
    reply(&mut desk);
    desk.lab.advance(5_000);
    let moved = [2, 7, 7, 7, 7, 7];
    desk.lab.arrive(0, EXTERNAL, &claim(Operation::Request, moved, ip(HOP)));
    for _ in 0..4 {
        desk.lab.advance(10);
        assert_eq!(desk.lab.take_sent(), [question(HOPS[1])]);
        goes_to(&mut desk, HOPS[1], 1);
        desk.lab.advance(240);
    }
    desk.lab.advance(20);
    assert_eq!(desk.lab.take_sent(), [question([0xff; 6])]);
    offer(&mut desk, 1);
    let sent = tell(&mut desk, &claim(Operation::Reply, moved, ip(HOP)));
    assert_eq!((sent.len(), &sent[0].1[..6]), (1, &moved[..]));
    goes_to(&mut desk, moved, 1);
}

/// RFC 826 would have every sender learned that is known; here only who was asked is.
#[test]
fn a_million_invented_neighbours_fill_nothing_and_divert_nothing() {
    let link = |yaml: &str| yaml.replace("192.0.2.2/30", "192.0.2.2/12");
    let mut desk = Desk::new(&link(&dynamic()));
    reply(&mut desk);
    for n in 0..1_000_000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let address = if n % 10 == 0 { ip(HOP) } else { ip("192.0.0.0") + n };
        let frame = claim(Operation::Reply, [2, 6, 6, a, b, c], address);
        let packet = cgnat_core::testing::io::MemoryPacket::new(&frame);
        desk.lab.workers[0].io_mut().arrive(EXTERNAL, packet);
        if n % 512 == 511 || n == 999_999 {
            desk.lab.run_workers();
            assert_eq!(desk.lab.take_sent(), [], "{n}");
        }
    }
    desk.lab.advance(10);
    // One of them is the box itself: it announces who has that address.
    let (port, mut announcement) = question([0xff; 6]);
    announcement[38..42].copy_from_slice(&ip("192.0.2.2").to_be_bytes());
    assert_eq!(desk.lab.take_sent(), [(port, announcement), question(HOPS[1])]);
    reply(&mut desk);
    goes_to(&mut desk, HOPS[1], 1);
    // Of those that nobody asked for nothing is known.
    let far = (ip("192.0.0.0") + 77_777, 80);
    let sent = desk.offer(INTERNAL, &udp((HOST, 1), far));
    assert_eq!((sent.len(), &sent[0].1[..6]), (1, &[0xff; 6][..]));
    assert_eq!(tell(&mut desk, &claim(Operation::Reply, THIEF, far.0))[0].1[..6], THIEF);
}

/// The box is made to ask for neighbours that are not there.
#[test]
fn a_scan_of_the_link_outside_is_bounded_and_the_next_hop_stays() {
    let mut desk = Desk::new(&dynamic().replace("192.0.2.2/30", "192.0.2.2/12"));
    reply(&mut desk);
    for n in 0..20_000 {
        desk.offer(INTERNAL, &udp((HOST, 1), (ip("192.8.0.0") + n, 80)));
        if n % 100 == 0 {
            goes_to(&mut desk, HOPS[1], 1);
        }
    }
    assert_eq!(desk.lab.counters[0].parked.value(), 256);
    // Those that did not answer are forgotten; who is there is found.
    desk.lab.advance(3_000);
    desk.lab.take_sent();
    assert_eq!(desk.drops().keys().collect::<Vec<_>>(), [&ParkingFull, &NeighbourUnresolved]);
    let near = (ip("192.9.9.9"), 80);
    desk.offer(INTERNAL, &udp((HOST, 1), near));
    assert_eq!(tell(&mut desk, &claim(Operation::Reply, THIEF, near.0))[0].1[..6], THIEF);
    goes_to(&mut desk, HOPS[1], 1);
}
