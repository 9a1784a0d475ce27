//! Subscribers that meet by their external endpoints (RFC 4787 REQ-9).

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Packet, ip};

/// From X1:x1 to X2':x2' arrives at X2:x2 as coming from X1':x1'.
fn hairpinned(desk: &Desk, packet: &Packet, shown: (u32, u16), at: (&str, u16)) -> Frames {
    assert_ne!(packet.to().0, ip(at.0), "addressed to the external side");
    assert_ne!(packet.from(), shown);
    let mut expected = packet.clone();
    expected.set_source(shown);
    expected.set_destination((ip(at.0), at.1));
    expected.ttl -= 1;
    vec![desk.leaving(INTERNAL, &expected)]
}

fn talk(desk: &mut Desk, one: &str, two: &str) {
    let (one, two) = ((one, 4000), (two, 5000));
    let shown_two = desk.goes_out(&udp(two, server(80)));
    let shown_one = desk.goes_out(&udp(one, server(80)));
    let there = udp(one, shown_two);
    let back = udp(two, shown_one);
    let sent = desk.offer(INTERNAL, &there);
    assert_eq!(sent, hairpinned(desk, &there, shown_one, two));
    let sent = desk.offer(INTERNAL, &back);
    assert_eq!(sent, hairpinned(desk, &back, shown_two, one));

    // TCP, opened by hairpinning alone, is established on both mappings.
    let listening = desk.goes_out(&tcp(two, server(80), SYN));
    let there = tcp(one, listening, SYN);
    let sent = desk.offer(INTERNAL, &there);
    let frame = &sent[0].1;
    let shown = (ip_at(frame, 26), u16::from_be_bytes([frame[34], frame[35]]));
    assert_eq!(shown.0, shown_one.0, "paired");
    assert_eq!(sent, hairpinned(desk, &there, shown, two));
    let back = tcp(two, shown, SYN | ACK);
    let sent = desk.offer(INTERNAL, &back);
    assert_eq!(sent, hairpinned(desk, &back, listening, one));
    let sent = desk.offer(INTERNAL, &tcp(one, listening, ACK));
    assert_eq!(sent, hairpinned(desk, &tcp(one, listening, ACK), shown, two));
    assert_eq!(desk.lab.sum(|c| c.hairpinned.value()), 5);
    desk.lab.advance(7_000_000);
    assert_eq!(desk.lab.sum(|c| c.sessions.value()), 2);
    desk.lab.advance(500_000);
    assert_eq!(desk.mappings(), 0);
}

fn ip_at(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

#[test]
fn two_subscribers_of_one_worker_meet_by_external_endpoints_4787_req_9() {
    talk(&mut Desk::new(&plain()), "100.64.0.1", "100.64.0.2");
}

#[test]
fn two_subscribers_of_different_workers_meet_wherever_their_packets_arrive_4787_req_9a() {
    for at in 0..4 {
        let mut desk = Desk::with(&plain(), 4, 5);
        desk.at = at;
        let (one, two) = (subscriber_of(1, 4, 0), subscriber_of(3, 4, 0));
        talk(&mut desk, &one, &two);
        assert!(desk.lab.sum(|c| c.handed_off.value()) > 0);
        let handed_in = desk.lab.sum(|c| c.handed_in.value());
        assert_eq!(desk.lab.sum(|c| c.handed_off.value()), handed_in);
        assert_eq!(desk.drops(), [].into());
    }
}

#[test]
fn two_subscribers_on_one_external_address_of_different_workers_meet() {
    let mut desk = Desk::with(&one_address(16, 2), 4, 6);
    let (one, two) = (subscriber_of(0, 4, 0), subscriber_of(2, 4, 0));
    talk(&mut desk, &one, &two);
}

#[test]
fn a_subscriber_reaches_itself_by_its_own_external_endpoint() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&plain(), workers, 7);
        let host = ("100.64.0.77", 4000);
        let shown = desk.goes_out(&udp(host, server(80)));
        let packet = udp(host, shown);
        let sent = desk.offer(INTERNAL, &packet);
        assert_eq!(sent, hairpinned(&desk, &packet, shown, host));
    }
}

#[test]
fn a_hairpinned_packet_with_little_time_to_live_is_counted_down_once() {
    let mut desk = Desk::new(&plain());
    let shown = desk.goes_out(&udp(("100.64.0.1", 1), server(80)));
    let from = ("100.64.0.2", 2);
    let shown_from = desk.goes_out(&udp(from, server(80)));
    let packet = Packet { ttl: 2, ..udp(from, shown) };
    let sent = desk.offer(INTERNAL, &packet);
    assert_eq!(sent, hairpinned(&desk, &packet, shown_from, ("100.64.0.1", 1)));
    desk.refused(INTERNAL, &Packet { ttl: 1, ..udp(from, shown) }, TtlExpired);
}

#[test]
fn a_hairpin_to_nobody_is_dropped_and_counted() {
    let mut desk = Desk::with(&plain(), 2, 8);
    let shown = desk.goes_out(&udp(("100.64.0.1", 1), server(80)));
    desk.refused(INTERNAL, &udp(("100.64.0.2", 2), (shown.0, shown.1 ^ 1)), NoMapping);
    desk.refused(INTERNAL, &udp(("100.64.0.2", 2), (shown.0, 80)), PortNotLent);
    desk.refused(INTERNAL, &echo(true, "100.64.0.2", shown.0, shown.1), IcmpNoQuery);
    assert_eq!(desk.mappings(), 2, "the sender of the first two has a mapping all the same");
}

#[test]
fn without_hairpinning_nothing_is_translated_between_subscribers() {
    let pool = "{ addresses: [203.0.113.0/28] }";
    let mut desk = Desk::new(&config(pool, "nat44: { hairpinning: false }"));
    let shown = desk.goes_out(&udp(("100.64.0.1", 1), server(80)));
    desk.refused(INTERNAL, &udp(("100.64.0.2", 2), shown), HairpinDisabled);
    assert_eq!(desk.mappings(), 1);
}
