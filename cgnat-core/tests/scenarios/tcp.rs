//! TCP states and their timers (RFC 7857 section 2, RFC 5382 section 5).

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::ip;

const HOST: (&str, u16) = ("100.64.3.9", 4000);
const WEB: (&str, u16) = (SERVER, 80);

fn opened(desk: &mut Desk) -> (u32, u16) {
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    desk.comes_in(&tcp(WEB, outside, SYN | ACK), HOST);
    assert_eq!(desk.goes_out(&tcp(HOST, server(80), ACK)), outside);
    outside
}

/// The mapping lives `seconds` more and not a tick longer.
fn ends_in(desk: &mut Desk, outside: (u32, u16), seconds: u64) {
    desk.lab.advance(seconds * 1000);
    assert_eq!(desk.mappings(), 1, "too short");
    desk.lab.advance(600);
    assert_eq!(desk.mappings(), 0, "too long");
    desk.refused(EXTERNAL, &tcp(WEB, outside, ACK), NoMapping);
    desk.refused(INTERNAL, &tcp(HOST, server(80), ACK), TcpNotSyn);
    assert_eq!(desk.lab.sum(|c| c.sessions.value()), 0);
}

#[test]
fn an_unanswered_syn_is_forgotten_after_240_seconds_7857_s2_1() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    desk.lab.advance(100_000);
    // Repeated, it starts anew; anything else does not count.
    desk.goes_out(&tcp(HOST, server(80), SYN));
    desk.lab.advance(100_000);
    desk.goes_out(&tcp(HOST, server(80), ACK));
    desk.comes_in(&tcp(WEB, outside, RST | ACK), HOST);
    ends_in(&mut desk, outside, 140);
}

#[test]
fn an_open_connection_may_be_silent_for_7440_seconds_5382_req_5() {
    let mut desk = Desk::new(&plain());
    let outside = opened(&mut desk);
    desk.lab.advance(7_000_000);
    desk.comes_in(&tcp(WEB, outside, ACK), HOST);
    ends_in(&mut desk, outside, 7440);
}

#[test]
fn after_one_fin_the_connection_is_still_open_5382_s5a() {
    let mut desk = Desk::new(&plain());
    let outside = opened(&mut desk);
    desk.goes_out(&tcp(HOST, server(80), FIN | ACK));
    desk.goes_out(&tcp(HOST, server(80), FIN | ACK));
    ends_in(&mut desk, outside, 7440);
}

#[test]
fn after_both_fins_the_mapping_ends_in_240_seconds_whatever_still_comes() {
    let mut desk = Desk::new(&plain());
    let outside = opened(&mut desk);
    desk.comes_in(&tcp(WEB, outside, FIN | ACK), HOST);
    desk.goes_out(&tcp(HOST, server(80), FIN | ACK));
    desk.lab.advance(200_000);
    desk.comes_in(&tcp(WEB, outside, ACK), HOST);
    ends_in(&mut desk, outside, 40);
}

#[test]
fn a_closing_connection_opens_anew_by_a_syn_with_the_same_ports() {
    let mut desk = Desk::new(&plain());
    let outside = opened(&mut desk);
    desk.comes_in(&tcp(WEB, outside, FIN | ACK), HOST);
    desk.goes_out(&tcp(HOST, server(80), FIN | ACK));
    desk.lab.advance(200_000);
    assert_eq!(opened(&mut desk), outside);
    ends_in(&mut desk, outside, 7440);
}

#[test]
fn after_a_reset_the_mapping_ends_in_240_seconds_7857_s2_2() {
    let mut desk = Desk::new(&plain());
    let outside = opened(&mut desk);
    desk.comes_in(&tcp(WEB, outside, RST), HOST);
    desk.lab.advance(100_000);
    desk.comes_in(&tcp(WEB, outside, RST), HOST);
    ends_in(&mut desk, outside, 140);
}

#[test]
fn traffic_brings_a_reset_connection_back() {
    let mut desk = Desk::new(&plain());
    let outside = opened(&mut desk);
    desk.comes_in(&tcp(WEB, outside, RST), HOST);
    desk.lab.advance(200_000);
    desk.goes_out(&tcp(HOST, server(80), ACK));
    ends_in(&mut desk, outside, 7440);
}

#[test]
fn both_sides_may_open_at_once_and_the_outside_may_open_5382_req_2() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    desk.comes_in(&tcp(WEB, outside, SYN), HOST);
    desk.goes_out(&tcp(HOST, server(80), SYN | ACK));
    desk.comes_in(&tcp(WEB, outside, SYN | ACK), HOST);
    desk.lab.advance(7_000_000);
    // Another remote end opens a second session on the mapping.
    desk.comes_in(&tcp(("9.9.9.9", 99), outside, SYN), HOST);
    desk.goes_out(&tcp(HOST, (ip("9.9.9.9"), 99), SYN | ACK));
    desk.comes_in(&tcp(("9.9.9.9", 99), outside, ACK), HOST);
    assert_eq!(desk.lab.sum(|c| c.sessions.value()), 2);
    ends_in(&mut desk, outside, 7440);
}

#[test]
fn a_reset_of_one_session_does_not_end_the_other_on_the_same_mapping() {
    for reset_first in [true, false] {
        let mut desk = Desk::new(&plain());
        let outside = opened(&mut desk);
        assert_eq!(desk.goes_out(&tcp(HOST, server(81), SYN)), outside);
        desk.comes_in(&tcp((SERVER, 81), outside, SYN | ACK), HOST);
        let (reset, other) = if reset_first { (80, 81) } else { (81, 80) };
        desk.comes_in(&tcp((SERVER, reset), outside, RST), HOST);
        desk.lab.advance(241_000);
        assert_eq!(desk.lab.sum(|c| c.sessions.value()), 1);
        desk.comes_in(&tcp((SERVER, other), outside, ACK), HOST);
        ends_in(&mut desk, outside, 7440);
    }
}

/// Regression: a packet that found its session expired ended it, and the mapping behind it
/// was never proposed again.
#[test]
fn a_late_packet_of_the_last_session_does_not_keep_the_mapping_for_ever() {
    let mut desk = Desk::new(&plain());
    let outside = opened(&mut desk);
    desk.comes_in(&tcp(WEB, outside, RST), HOST);
    assert_eq!(desk.goes_out(&tcp(HOST, server(81), SYN)), outside);
    desk.lab.advance(100_000);
    desk.goes_out(&tcp(HOST, server(81), SYN));
    // The first session ends, the second keeps the mapping.
    desk.lab.advance(141_000);
    assert_eq!(desk.lab.sum(|c| c.sessions.value()), 1);
    // It ends too, and before housekeeping looks, a late packet of it comes.
    desk.lab.advance_silently(100_000);
    desk.offer(EXTERNAL, &tcp((SERVER, 81), outside, ACK));
    desk.lab.audit();
    desk.lab.advance(1_000);
    assert_eq!(desk.mappings(), 0);
    assert_eq!(desk.lab.sum(|c| c.sessions.value()), 0);
}

#[test]
fn a_packet_that_opens_nothing_passes_a_mapping_and_starts_no_session() {
    let mut desk = Desk::new(&plain());
    let outside = opened(&mut desk);
    desk.comes_in(&tcp(("9.9.9.9", 9), outside, ACK), HOST);
    desk.goes_out(&tcp(HOST, (ip("9.9.9.9"), 9), RST));
    assert_eq!(desk.lab.sum(|c| c.sessions.value()), 1);
}
