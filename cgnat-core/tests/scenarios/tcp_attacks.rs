//! Packets that do not belong to a connection, forged by somebody who does not see it: none
//! of them moves it (RFC 5382 section 9, RFC 7857 section 2.2, RFC 5961).

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{FIRST, ip};

const HOST: (&str, u16) = ("100.64.3.9", 4000);
const WEB: (&str, u16) = (SERVER, 80);
/// Bytes that each side has sent behind its SYN: those of one packet of the desk.
const SENT: u32 = 23;

/// An established connection; both sides have sent and acknowledged some bytes.
fn talking(desk: &mut Desk) -> (u32, u16) {
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    desk.comes_in(&tcp(WEB, outside, SYN | ACK), HOST);
    let numbers = (FIRST.wrapping_add(1 + SENT), FIRST.wrapping_add(1 + SENT));
    desk.goes_out(&tcp_at(HOST, server(80), ACK, (FIRST.wrapping_add(1), numbers.1)));
    desk.comes_in(&tcp_at(WEB, outside, ACK, numbers), HOST);
    // All acknowledged: the next number of either side is the only right one for a RST.
    desk.goes_out(&tcp_at(HOST, server(80), ACK, (numbers.0, FIRST.wrapping_add(1 + 2 * SENT))));
    desk.comes_in(
        &tcp_at(
            WEB,
            outside,
            ACK,
            (FIRST.wrapping_add(1 + 2 * SENT), FIRST.wrapping_add(1 + 2 * SENT)),
        ),
        HOST,
    );
    desk.goes_out(&tcp_at(
        HOST,
        server(80),
        ACK,
        (FIRST.wrapping_add(1 + 2 * SENT), FIRST.wrapping_add(1 + 3 * SENT)),
    ));
    outside
}

/// The external side's next number after [`talking`].
fn expected() -> u32 {
    FIRST.wrapping_add(1 + 3 * SENT)
}

fn out_of_window(desk: &Desk) -> u64 {
    desk.lab.sum(|c| c.tcp_out_of_window.value())
}

/// It still has the timer of an open connection, and its mapping.
fn lives_on(desk: &mut Desk, outside: (u32, u16)) {
    desk.lab.advance(7_000_000);
    assert_eq!(desk.mappings(), 1);
    desk.comes_in(&tcp_at(WEB, outside, ACK, (expected(), FIRST.wrapping_add(1 + 3 * SENT))), HOST);
}

#[test]
fn a_forged_reset_passes_and_changes_nothing_7857_s2_2c_5382_s9b() {
    let mut desk = Desk::new(&plain());
    let outside = talking(&mut desk);
    let mut forged = 0;
    for off in [1u32, 2, 1000, 65_535, 1 << 20, 1 << 31, u32::MAX, u32::MAX - 23] {
        let reset = tcp_at(WEB, outside, RST, (expected().wrapping_add(off), 0));
        // The host judges for itself (RFC 5961); the RST is translated (RFC 7857 S2.2a).
        desk.comes_in(&reset, HOST);
        forged += 1;
        assert_eq!(out_of_window(&desk), forged, "{off}");
    }
    lives_on(&mut desk, outside);
}

#[test]
fn the_right_reset_starts_its_240_seconds_7857_s2_2b() {
    let mut desk = Desk::new(&plain());
    let outside = talking(&mut desk);
    desk.comes_in(&tcp_at(WEB, outside, RST, (expected(), 0)), HOST);
    assert_eq!(out_of_window(&desk), 0);
    desk.lab.advance(239_000);
    assert_eq!(desk.mappings(), 1);
    desk.lab.advance(1_600);
    assert_eq!(desk.mappings(), 0);
}

#[test]
fn a_forged_fin_does_not_close_5382_s9b() {
    let mut desk = Desk::new(&plain());
    let outside = talking(&mut desk);
    desk.goes_out(&tcp_at(
        HOST,
        server(80),
        FIN | ACK,
        (FIRST.wrapping_add(1 + 3 * SENT), expected()),
    ));
    // Half closed: one more FIN would start the closing timer. Wrong number, wrong
    // acknowledgement.
    let far = expected().wrapping_add(1 << 20);
    desk.comes_in(&tcp_at(WEB, outside, FIN | ACK, (far, FIRST.wrapping_add(1 + 3 * SENT))), HOST);
    desk.comes_in(&tcp_at(WEB, outside, FIN | ACK, (expected(), far)), HOST);
    assert_eq!(out_of_window(&desk), 2);
    lives_on(&mut desk, outside);
}

#[test]
fn a_forged_syn_neither_opens_anew_nor_prolongs() {
    let mut desk = Desk::new(&plain());
    let outside = talking(&mut desk);
    desk.lab.advance(7_000_000);
    desk.comes_in(&tcp_at(WEB, outside, SYN, (77, 0)), HOST);
    desk.comes_in(&tcp_at(WEB, outside, SYN | ACK, (77, 99)), HOST);
    desk.comes_in(&tcp_at(WEB, outside, ACK, (77, 99)), HOST);
    assert_eq!(out_of_window(&desk), 2);
    desk.lab.advance(440_600);
    assert_eq!(desk.mappings(), 0);
}

#[test]
fn a_forged_answer_does_not_establish_a_connection() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    for guess in [100u32, FIRST - 1, FIRST, FIRST.wrapping_add(25), 1 << 31] {
        desk.comes_in(&tcp_at(WEB, outside, SYN | ACK, (5, guess)), HOST);
    }
    desk.comes_in(&tcp_at(WEB, outside, SYN, (5, 0)), HOST);
    // Its own timer runs since the forged SYN without ACK, and not that of 2 h.
    desk.lab.advance(239_000);
    assert_eq!(desk.mappings(), 1);
    desk.lab.advance(1_600);
    assert_eq!(desk.mappings(), 0);
    assert_eq!(out_of_window(&desk), 5);
}

#[test]
fn strangers_syns_do_not_keep_a_mapping_7857_s7b_s7_1a() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    // Every minute somebody else knocks; the host's stack says RST.
    for minute in 0..3 {
        desk.lab.advance(60_000);
        let knock = ("9.9.9.9", 1000 + minute);
        desk.comes_in(&tcp(knock, outside, SYN), HOST);
        desk.goes_out(&tcp(HOST, (ip("9.9.9.9"), 1000 + minute), RST | ACK));
    }
    desk.lab.advance(59_000);
    assert_eq!(desk.mappings(), 1);
    desk.lab.advance(1_600);
    assert_eq!(desk.mappings(), 0, "240 s after the host's own SYN it is over");
    desk.refused(EXTERNAL, &tcp(("9.9.9.9", 2000), outside, SYN), NoMapping);
    desk.lab.advance(240_000);
    assert_eq!(desk.lab.sum(|c| c.sessions.value()), 0);
}

#[test]
fn an_answered_syn_of_a_stranger_keeps_the_mapping_only_after_its_ack() {
    for (acknowledges, left) in [(false, 0), (true, 1)] {
        let mut desk = Desk::new(&plain());
        let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
        let stranger = ("9.9.9.9", 1000);
        desk.comes_in(&tcp(stranger, outside, SYN), HOST);
        desk.goes_out(&tcp(HOST, (ip("9.9.9.9"), 1000), SYN | ACK));
        if acknowledges {
            desk.comes_in(&tcp(stranger, outside, ACK), HOST);
        }
        desk.lab.advance(241_000);
        assert_eq!(desk.mappings(), left);
    }
}

#[test]
fn a_million_guesses_at_a_reset_do_not_end_an_idle_connection() {
    let mut desk = Desk::new(&plain());
    let outside = talking(&mut desk);
    // Far apart, as an attacker would go through the space; the right number is not among them.
    for n in 0..20_000u32 {
        let guess = expected().wrapping_add(1 + n * 214_748);
        let frame = desk.arriving(EXTERNAL, &tcp_at(WEB, outside, RST, (guess, 0)));
        assert_eq!(desk.lab.arrive(0, EXTERNAL, &frame).len(), 1);
    }
    assert_eq!(out_of_window(&desk), 20_000);
    lives_on(&mut desk, outside);
}

#[test]
fn after_a_gap_the_subscriber_is_believed() {
    let mut desk = Desk::new(&plain());
    let outside = talking(&mut desk);
    // Numbers that the NAT has never seen, as after a renumbering middlebox.
    desk.goes_out(&tcp_at(HOST, server(80), ACK, (5_000, 900_000)));
    desk.comes_in(&tcp_at(WEB, outside, RST, (900_000, 0)), HOST);
    desk.lab.advance(241_000);
    assert_eq!(desk.mappings(), 0, "a RST in the new sequence counts");
    assert_eq!(out_of_window(&desk), 0);
}
