//! ICMP errors (RFC 5508 sections 4.2, 4.3; RFC 4787 REQ-12; RFC 5382 REQ-9, REQ-10).

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Body, Packet, ip};

const HOST: &str = "100.64.3.9";
const ROUTER: &str = "198.51.100.99";

/// An error from `from` about a packet; it quotes `kept` bytes behind the IPv4 header.
fn error(from: &str, (kind, code): (u8, u8), about: &Packet, kept: usize) -> Packet {
    let body = Body::Error { kind, code, rest: 1400, about: Box::new(about.clone()), kept };
    let mut error = udp((from, 1), (about.source, 1));
    error.body = body;
    error.payload = Vec::new();
    error
}

/// The packet as the world sees it after it left from `outside`.
fn seen_outside(packet: &Packet, outside: (u32, u16)) -> Packet {
    let mut packet = packet.clone();
    packet.set_source(outside);
    packet.ttl -= 1;
    packet
}

#[test]
fn errors_of_every_code_reach_the_host_with_its_own_packet_inside_5508_req_4() {
    let mut desk = Desk::new(&plain());
    for packet in [
        udp((HOST, 4000), server(33434)),
        tcp((HOST, 4000), server(80), SYN),
        echo(true, HOST, ip(SERVER), 4000),
    ] {
        let outside = desk.goes_out(&packet);
        let about = seen_outside(&packet, outside);
        for kind in [3, 11, 12] {
            for code in 0..16 {
                for kept in [8, 16, 18, 28, 200] {
                    let error = error(ROUTER, (kind, code), &about, kept);
                    desk.comes_in(&error, (HOST, 4000));
                }
            }
        }
    }
    assert_eq!(desk.mappings(), 3);
}

#[test]
fn a_quote_with_ip_options_is_found_5508_req_3b() {
    let mut desk = Desk::new(&plain());
    let mut packet = udp((HOST, 4000), server(53));
    let outside = desk.goes_out(&packet);
    for words in 0..=10 {
        packet.options = vec![1; 4 * words];
        desk.comes_in(&error(ROUTER, (3, 3), &seen_outside(&packet, outside), 8), (HOST, 4000));
    }
}

#[test]
fn an_extension_behind_the_quote_stays_as_it_is_5508_req_3d() {
    let mut desk = Desk::new(&plain());
    let packet = tcp((HOST, 4000), server(80), SYN);
    let outside = desk.goes_out(&packet);
    for kept in [8, 28] {
        let mut error = error(ROUTER, (11, 0), &seen_outside(&packet, outside), kept);
        error.payload = vec![0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 0xff, 0xff, 0xff, 0xff];
        desk.comes_in(&error, (HOST, 4000));
    }
}

#[test]
fn a_host_tells_the_world_by_its_external_address_that_a_port_is_closed_5508_req_5() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 4000), server(53)));
    let answer = udp((SERVER, 53), outside);
    desk.comes_in(&answer, (HOST, 4000));
    let mut inside = answer.clone();
    inside.set_destination((ip(HOST), 4000));
    inside.ttl -= 1;
    // From the host itself, and from a router on the internal side (REQ-5c).
    for from in [HOST, "10.255.0.1", "172.16.0.1"] {
        let mut expected = error(from, (3, 3), &inside, 8);
        let sent = desk.offer(INTERNAL, &expected);
        expected.set_source(outside);
        expected.ttl -= 1;
        assert_eq!(sent, [desk.leaving(EXTERNAL, &expected)], "from {from}: {:?}", desk.drops());
    }
}

#[test]
fn an_error_crosses_a_hairpin_with_external_addresses_only_5508_req_7a() {
    for workers in [1, 2] {
        let mut desk = Desk::with(&plain(), workers, 1);
        let (one, two) = ("100.64.0.1", HOST);
        let here = desk.goes_out(&udp((one, 4000), server(53)));
        let there = desk.goes_out(&udp((two, 5000), server(53)));
        assert_eq!(desk.offer(INTERNAL, &udp((one, 4000), there)).len(), 1);
        // What the second one got, and its answer that the port is closed.
        let mut got = udp((one, 4000), (ip(two), 5000));
        got.set_source(here);
        let sent = desk.offer(INTERNAL, &error(two, (3, 3), &got, 8));
        // To the first one, about the packet that it sent itself, from the other's outside.
        let mut about = udp((one, 4000), there);
        about.ttl = got.ttl;
        let mut expected = error(two, (3, 3), &about, 8);
        expected.source = there.0;
        expected.ttl -= 1;
        assert_eq!(sent, [desk.leaving(INTERNAL, &expected)], "{:?}", desk.drops());
    }
}

#[test]
fn errors_never_create_refresh_or_end_anything_4787_req_12_5508_req_6() {
    let mut desk = Desk::new(&plain());
    let packet = udp((HOST, 4000), server(5000));
    let outside = desk.goes_out(&packet);
    let session = tcp((HOST, 4000), server(80), SYN);
    let session_outside = desk.goes_out(&session);
    for _ in 0..29 {
        desk.lab.advance(10_000);
        desk.comes_in(&error(ROUTER, (3, 1), &seen_outside(&packet, outside), 8), (HOST, 4000));
        if desk.mappings() == 2 {
            let about = seen_outside(&session, session_outside);
            desk.comes_in(&error(ROUTER, (3, 3), &about, 8), (HOST, 4000));
        }
    }
    // 290 s have passed: the TCP session ended in its own time, the UDP mapping ends at 300.
    assert_eq!(desk.mappings(), 1);
    desk.lab.advance(10_200);
    assert_eq!(desk.mappings(), 0);
    desk.refused(
        EXTERNAL,
        &error(ROUTER, (3, 1), &seen_outside(&packet, outside), 8),
        IcmpNoMapping,
    );
    assert_eq!(desk.mappings(), 0);
}

#[test]
fn errors_about_nothing_of_ours_are_dropped_silently_5508_req_4_req_5() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 4000), server(53)));
    let other = udp(("203.0.113.1", outside.1 ^ 1), server(53));
    desk.refused(EXTERNAL, &error(ROUTER, (3, 3), &other, 8), IcmpNoMapping);
    let inside = udp((SERVER, 53), (ip(HOST), 4001));
    desk.refused(INTERNAL, &error(HOST, (3, 3), &inside, 8), IcmpNoMapping);
}

#[test]
fn an_error_that_goes_elsewhere_than_to_the_source_of_its_quote_is_refused() {
    let mut desk = Desk::new(&plain());
    let packet = udp((HOST, 4000), server(53));
    let outside = desk.goes_out(&packet);
    let mut forged = error(ROUTER, (3, 4), &seen_outside(&packet, outside), 8);
    forged.destination = ip("203.0.113.0") + u32::from(outside.0 == ip("203.0.113.0"));
    desk.refused(EXTERNAL, &forged, IcmpQuote);
}

#[test]
fn a_damaged_error_is_refused_5508_req_3() {
    let mut desk = Desk::new(&plain());
    let packet = udp((HOST, 4000), server(53));
    let outside = desk.goes_out(&packet);
    let good = error(ROUTER, (3, 3), &seen_outside(&packet, outside), 8);
    let mut frame = desk.arriving(EXTERNAL, &good);
    let last = frame.len() - 1;
    frame[last] ^= 1;
    desk.frame_refused(EXTERNAL, &frame, IcmpChecksum);
}
