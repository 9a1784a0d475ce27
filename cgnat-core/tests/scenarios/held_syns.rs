//! SYNs from outside that nobody asked for (RFC 5382 REQ-4).

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Body, Packet, ip};

const HOST: &str = "100.64.3.9";
const ANSWERS: &str = "nat44: { unsolicited-syn: port-unreachable }\n";

/// One subscriber's block of 64 ports.
fn one_block(more: &str) -> String {
    let pool = "{ addresses: [203.0.113.0], ports: 1024-1087, allocation: { block-size: 64, \
                max-blocks: 1 } }";
    config(pool, more)
}

fn syn_from(remote: u16, port: u16) -> Packet {
    tcp((SERVER, remote), (ip("203.0.113.0"), port), SYN)
}

/// Port unreachable from our external port.
fn unreachable(desk: &Desk, about: &Packet) -> (usize, Vec<u8>) {
    let about = Box::new(about.clone());
    let mut error = udp(("192.0.2.2", 1), (about.source, 1));
    error.body = Body::Error { kind: 3, code: 3, rest: 0, about, kept: 528 };
    (error.identification, error.payload) = (0, Vec::new());
    desk.leaving(EXTERNAL, &error)
}

/// What is sent in the next `ms`.
fn later(desk: &mut Desk, ms: u64) -> Frames {
    desk.lab.advance(ms);
    desk.lab.take_sent()
}

#[test]
fn nothing_is_answered_unless_configured_5382_req_4a() {
    for more in ["", "nat44: { unsolicited-syn: silent }\n"] {
        let mut desk = Desk::new(&one_block(more));
        desk.refused(EXTERNAL, &syn_from(80, 1030), NoMapping);
        assert_eq!(later(&mut desk, 60_000), []);
        let counters = |c: &cgnat_core::control::counters::WorkerCounters| {
            c.syns_held.value() + c.errors_sent.value() + c.errors_withheld.value()
        };
        assert_eq!(desk.lab.sum(counters), 0);
    }
}

#[test]
fn six_seconds_of_silence_and_then_one_port_unreachable_5382_req_4() {
    for workers in [1, 2] {
        let mut desk = Desk::with(&one_block(ANSWERS), workers, 1);
        let syn = syn_from(80, 1030);
        desk.refused(EXTERNAL, &syn, NoMapping);
        assert_eq!(later(&mut desk, 3_000), []);
        // The sender tries again: that makes no second answer.
        desk.refused(EXTERNAL, &syn, NoMapping);
        assert_eq!(later(&mut desk, 2_999), []);
        assert_eq!(later(&mut desk, 201), [unreachable(&desk, &syn)]);
        assert_eq!(later(&mut desk, 60_000), []);
        assert_eq!(desk.lab.sum(|c| c.syns_held.value()), 1);
        assert_eq!(desk.lab.sum(|c| c.syns_answered.value()), 1);
        assert_eq!(desk.mappings(), 0);
    }
}

#[test]
fn a_syn_from_inside_meanwhile_drops_the_waiting_one_silently_5382_req_4() {
    let mut desk = Desk::new(&one_block(ANSWERS));
    let mut free: Vec<u16> = (1024..1088).collect();
    for port in 1..64 {
        let (_, taken) = desk.goes_out(&tcp((HOST, port), server(443), SYN));
        free.retain(|port| *port != taken);
    }
    let syn = syn_from(80, free[0]);
    desk.refused(EXTERNAL, &syn, NoMapping);
    // Of another connection: it is answered all the same.
    let other = syn_from(81, free[0]);
    desk.refused(EXTERNAL, &other, NoMapping);
    desk.lab.advance(3_000);
    let outside = desk.goes_out(&tcp((HOST, 64), server(80), SYN));
    assert_eq!(outside.1, free[0]);
    assert_eq!(later(&mut desk, 3_200), [unreachable(&desk, &other)]);
    assert_eq!(later(&mut desk, 20_000), []);
    desk.comes_in(&syn, (HOST, 64));
}

#[test]
fn a_syn_that_is_let_in_meanwhile_drops_the_waiting_one_too() {
    let mut desk = Desk::new(&one_block(ANSWERS));
    let mut free: Vec<u16> = (1024..1088).collect();
    for port in 1..64 {
        let (_, taken) = desk.goes_out(&tcp((HOST, port), server(443), SYN));
        free.retain(|port| *port != taken);
    }
    let syn = syn_from(80, free[0]);
    desk.refused(EXTERNAL, &syn, NoMapping);
    desk.lab.advance(3_000);
    desk.goes_out(&tcp((HOST, 64), server(443), SYN));
    desk.comes_in(&syn, (HOST, 64));
    assert_eq!(later(&mut desk, 20_000), []);
}

#[test]
fn a_syn_that_is_filtered_is_held_like_one_without_a_mapping_5382_req_4() {
    let more = "nat44: { filtering: address-dependent, unsolicited-syn: port-unreachable }\n";
    let mut desk = Desk::new(&one_block(more));
    let outside = desk.goes_out(&tcp((HOST, 1), server(443), SYN));
    let syn = tcp(("198.51.100.99", 80), outside, SYN);
    desk.refused(EXTERNAL, &syn, Filtered);
    assert_eq!(later(&mut desk, 5_999), []);
    assert_eq!(later(&mut desk, 201), [unreachable(&desk, &syn)]);
}

#[test]
fn only_syns_are_held() {
    let mut desk = Desk::new(&one_block(ANSWERS));
    let to = (ip("203.0.113.0"), 1030);
    for flags in [ACK, SYN | ACK, RST, FIN | ACK] {
        desk.refused(EXTERNAL, &tcp((SERVER, 80), to, flags), NoMapping);
    }
    desk.refused(EXTERNAL, &udp((SERVER, 80), to), NoMapping);
    desk.refused(EXTERNAL, &tcp((SERVER, 80), (to.0, 80), SYN), PortNotLent);
    assert_eq!(later(&mut desk, 20_000), []);
    assert_eq!(desk.lab.sum(|c| c.syns_held.value()), 0);
}

#[test]
fn no_answer_leaves_a_side_that_is_switched_off_5508_req_9() {
    let more =
        "nat44: { unsolicited-syn: port-unreachable, icmp-errors: { to-external: false } }\n";
    let mut desk = Desk::new(&one_block(more));
    desk.refused(EXTERNAL, &syn_from(80, 1030), NoMapping);
    assert_eq!(later(&mut desk, 20_000), []);
    assert_eq!(desk.lab.sum(|c| c.errors_withheld.value()), 1);
}

#[test]
fn a_scan_makes_no_state_beyond_the_bound_and_no_answer_beyond_the_rate() {
    let mut desk = Desk::new(&one_block(ANSWERS));
    let kept = desk.goes_out(&udp((HOST, 1), server(53)));
    let frame = desk.arriving(EXTERNAL, &syn_from(80, 1030));
    let mut answers = 0;
    // A million from a million senders in ten seconds.
    for n in 0..1_000_000u32 {
        let mut packet = syn_from(80, 1024 + (n % 64) as u16);
        packet.source = ip("198.18.0.0") + (n >> 6);
        packet.payload.clear();
        if let Body::Tcp { source, .. } = &mut packet.body {
            *source = 1 + (n % 60_000) as u16;
        }
        let bytes = [&frame[..14], &packet.bytes()].concat();
        answers += desk.lab.arrive(0, EXTERNAL, &bytes).len();
        if n % 1_000 == 999 {
            desk.lab.advance_silently(10);
        }
    }
    let held = desk.lab.sum(|c| c.syns_held.value());
    assert!((1_000..=2 * 4096).contains(&held), "{held} held in ten seconds");
    assert_eq!(desk.lab.sum(|c| c.syns_answered.value()), answers as u64);
    assert!((100..=5 * 1_000).contains(&answers), "{answers} answers in four seconds");
    assert_eq!(desk.mappings(), 1);
    assert_eq!(desk.goes_out(&udp((HOST, 1), server(53))), kept);
}
