//! ICMP queries (RFC 5508 sections 3 and 4.1) and messages that are neither query nor error.

use cgnat_core::verdict::DropReason::{self, *};

use crate::desk::*;
use crate::wire::{Body, Packet, checksum, ip, put};

const HOST: &str = "100.64.3.9";

/// A timestamp query or reply with its three times.
fn stamp(request: bool, from: &str, to: u32, identifier: u16) -> Packet {
    let mut packet = timestamp(request, from, to, identifier);
    packet.payload = vec![0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0];
    packet
}

#[test]
fn timestamp_queries_go_round_with_their_identifier_translated_5508_req_1() {
    for workers in [1, 2] {
        let mut desk = Desk::with(&plain(), workers, 1);
        let outside = desk.goes_out(&stamp(true, HOST, ip(SERVER), 77));
        desk.comes_in(&stamp(false, SERVER, outside.0, outside.1), (HOST, 77));
    }
}

#[test]
fn an_identifier_is_mapped_whatever_the_target_and_the_query_5508_req_1a() {
    let mut desk = Desk::new(&plain());
    let first = desk.goes_out(&stamp(true, HOST, ip(SERVER), 77));
    assert_eq!(desk.goes_out(&stamp(true, HOST, ip("198.51.100.8"), 77)), first);
    assert_eq!(desk.goes_out(&echo(true, HOST, ip("198.51.100.9"), 77)), first);
    assert_ne!(desk.goes_out(&stamp(true, HOST, ip(SERVER), 78)).1, first.1);
    assert_eq!(desk.mappings(), 2);
}

#[test]
fn an_answer_59_9_seconds_after_the_query_is_delivered_5508_req_2() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&stamp(true, HOST, ip(SERVER), 77));
    desk.lab.advance(59_900);
    desk.comes_in(&stamp(false, SERVER, outside.0, outside.1), (HOST, 77));
    desk.lab.advance(300);
    desk.refused(EXTERNAL, &stamp(false, SERVER, outside.0, outside.1), NoMapping);
}

#[test]
fn a_reply_that_nobody_asked_for_and_a_query_from_outside_are_refused() {
    let mut desk = Desk::new(&plain());
    desk.refused(INTERNAL, &stamp(false, HOST, ip(SERVER), 77), IcmpNoQuery);
    let outside = desk.goes_out(&stamp(true, HOST, ip(SERVER), 77));
    desk.refused(EXTERNAL, &stamp(true, SERVER, outside.0, outside.1), IcmpNoQuery);
    assert_eq!(desk.mappings(), 1);
}

#[test]
fn an_error_about_a_timestamp_query_reaches_its_host_5508_req_4a() {
    let mut desk = Desk::new(&plain());
    let query = stamp(true, HOST, ip(SERVER), 77);
    let mut about = query.clone();
    about.set_source(desk.goes_out(&query));
    about.ttl -= 1;
    for kept in [8, 20] {
        let body = Body::Error { kind: 11, code: 0, rest: 0, about: Box::new(about.clone()), kept };
        let mut error = udp(("198.51.100.99", 1), (about.source, 1));
        (error.body, error.payload) = (body, Vec::new());
        desk.comes_in(&error, (HOST, 77));
    }
}

#[test]
fn a_timestamp_query_without_its_times_is_refused() {
    let mut desk = Desk::new(&plain());
    for length in 0..12 {
        let mut short = stamp(true, HOST, ip(SERVER), 77);
        short.payload.truncate(length);
        desk.refused(INTERNAL, &short, TransportTruncated);
    }
}

/// An ICMP message of any type and code.
fn message(from: &str, to: u32, (kind, code): (u8, u8)) -> Vec<u8> {
    let mut bytes = stamp(true, from, to, 77).bytes();
    (bytes[20], bytes[21]) = (kind, code);
    put(&mut bytes, 22, 0);
    let sum = checksum(&bytes[20..]);
    put(&mut bytes, 22, sum);
    bytes
}

/// What becomes of a message of this type and code that quotes nothing.
fn verdict(kind: u8, code: u8) -> Option<DropReason> {
    match (kind, code) {
        (0 | 8 | 13 | 14, 0) => None,
        (3 | 11 | 12, _) => Some(IcmpQuote),
        (4, _) => Some(IcmpSourceQuench),
        (5, _) => Some(IcmpRedirect),
        (9 | 10, _) => Some(IcmpRouterDiscovery),
        (15 | 16, _) => Some(IcmpInformation),
        (17 | 18, _) => Some(IcmpAddressMask),
        _ => Some(IcmpUnsupported),
    }
}

#[test]
fn every_other_type_and_code_has_one_counted_verdict_and_no_answer_5508_req_10b_10c_11() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&stamp(true, HOST, ip(SERVER), 77));
    for kind in 0..=255 {
        for code in [0, 1, 5, 255] {
            let Some(reason) = verdict(kind, code) else { continue };
            for (port, from, to) in [(INTERNAL, HOST, ip(SERVER)), (EXTERNAL, SERVER, outside.0)] {
                let plain = desk.arriving(port, &stamp(true, from, to, 77));
                let frame = [&plain[..14], &message(from, to, (kind, code))].concat();
                desk.frame_refused(port, &frame, reason);
            }
        }
    }
    assert_eq!(desk.lab.sum(|c| c.errors_sent.value() + c.errors_withheld.value()), 0);
    assert_eq!(desk.mappings(), 1);
}

#[test]
fn only_echo_is_answered_for_the_box_itself_5508_req_10b2() {
    let mut desk = Desk::new(&plain());
    desk.refused(INTERNAL, &stamp(true, HOST, ip("10.255.0.2"), 77), ToUs);
    desk.refused(EXTERNAL, &stamp(true, SERVER, ip("192.0.2.2"), 77), ToUs);
}
