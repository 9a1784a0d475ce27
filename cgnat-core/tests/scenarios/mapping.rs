//! Mapping, filtering, pooling, TTL and checksums.

use std::collections::BTreeSet;

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Body, Packet, checksum, ip};

const HOST: &str = "100.64.3.9";

#[test]
fn one_internal_endpoint_has_one_external_endpoint_for_all_destinations_4787_req_1() {
    let mut desk = Desk::new(&plain());
    let destinations = [server(80), server(81), (ip("192.88.99.1"), 80), (ip("9.9.9.9"), 53)];
    let udp_ends: BTreeSet<_> =
        destinations.iter().map(|to| desk.goes_out(&udp((HOST, 4000), *to))).collect();
    let tcp_ends: BTreeSet<_> =
        destinations.iter().map(|to| desk.goes_out(&tcp((HOST, 4000), *to, SYN))).collect();
    let echo_ends: BTreeSet<_> =
        destinations.iter().map(|to| desk.goes_out(&echo(true, HOST, to.0, 4000))).collect();
    assert_eq!((udp_ends.len(), tcp_ends.len(), echo_ends.len()), (1, 1, 1));
    assert_eq!(desk.mappings(), 3);
    assert_eq!(desk.lab.sum(|c| c.sessions.value()), 4);
    assert_eq!(desk.lab.all_drops(), 0);
}

#[test]
fn anybody_reaches_a_mapped_endpoint_and_nobody_an_unmapped_one_4787_req_8() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 4000), server(80)));
    desk.comes_in(&udp((SERVER, 80), outside), (HOST, 4000));
    desk.comes_in(&udp((SERVER, 81), outside), (HOST, 4000));
    desk.comes_in(&udp(("9.8.7.6", 1), outside), (HOST, 4000));
    desk.refused(EXTERNAL, &udp((SERVER, 80), (outside.0, outside.1 ^ 1)), NoMapping);
    desk.refused(EXTERNAL, &udp((SERVER, 80), (outside.0 ^ 1, outside.1)), NoMapping);
    desk.refused(EXTERNAL, &tcp((SERVER, 80), outside, SYN), NoMapping);
    desk.refused(EXTERNAL, &udp((SERVER, 80), (outside.0, 1023)), PortNotLent);
    desk.refused(EXTERNAL, &udp((SERVER, 80), (ip("203.0.113.16"), 5000)), DestinationUnknown);
    desk.refused(EXTERNAL, &udp((HOST, 80), outside), SourceSpoofed);
    desk.refused(EXTERNAL, &udp(("203.0.113.3", 80), outside), SourceSpoofed);
    assert_eq!(desk.mappings(), 1);
}

#[test]
fn a_ping_goes_out_and_its_answer_comes_back_and_no_request_comes_in() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&echo(true, HOST, ip(SERVER), 4000));
    desk.comes_in(&echo(false, SERVER, outside.0, outside.1), (HOST, 4000));
    desk.refused(EXTERNAL, &echo(true, SERVER, outside.0, outside.1), IcmpNoQuery);
    desk.refused(INTERNAL, &echo(false, HOST, ip(SERVER), 4001), IcmpNoQuery);
}

#[test]
fn a_subscriber_has_one_external_address_over_all_protocols_6888_req_2() {
    let mut desk = Desk::new(&plain());
    let mut addresses = BTreeSet::new();
    let mut endpoints = BTreeSet::new();
    for port in 1..=600 {
        let one = desk.goes_out(&udp((HOST, port), server(80)));
        let two = desk.goes_out(&tcp((HOST, port), server(80), SYN));
        let three = desk.goes_out(&echo(true, HOST, ip(SERVER), port));
        addresses.extend([one.0, two.0, three.0]);
        assert!(endpoints.insert((17, one)) && endpoints.insert((6, two)));
        assert!(endpoints.insert((1, three)));
    }
    assert_eq!(addresses.len(), 1);
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 2);
}

#[test]
fn two_subscribers_with_one_port_get_two_endpoints_and_both_their_answers_4787_req_3() {
    let mut desk = Desk::new(&one_address(4, 1));
    let one = desk.goes_out(&udp((HOST, 4000), server(80)));
    let two = desk.goes_out(&udp(("100.64.3.10", 4000), server(80)));
    assert_ne!(one, two);
    desk.comes_in(&udp((SERVER, 80), one), (HOST, 4000));
    desk.comes_in(&udp((SERVER, 80), two), ("100.64.3.10", 4000));
}

#[test]
fn a_packet_whose_time_to_live_runs_out_here_changes_nothing() {
    let mut desk = Desk::new(&plain());
    for ttl in [0, 1] {
        desk.refused(INTERNAL, &Packet { ttl, ..udp((HOST, 4000), server(80)) }, TtlExpired);
    }
    assert_eq!(desk.mappings(), 0);
    let outside = desk.goes_out(&Packet { ttl: 2, ..udp((HOST, 4000), server(80)) });
    for ttl in [0, 1] {
        let packet = Packet { ttl, ..udp((SERVER, 80), outside) };
        desk.refused(EXTERNAL, &packet, TtlExpired);
    }
    desk.comes_in(&Packet { ttl: 2, ..udp((SERVER, 80), outside) }, (HOST, 4000));
}

#[test]
fn a_udp_checksum_of_zero_stays_zero_in_both_directions() {
    let mut desk = Desk::new(&plain());
    let bare = |mut packet: Packet| {
        if let Body::Udp { checksummed, .. } = &mut packet.body {
            *checksummed = false;
        }
        packet
    };
    let outside = desk.goes_out(&bare(udp((HOST, 4000), server(80))));
    desk.comes_in(&bare(udp((SERVER, 80), outside)), (HOST, 4000));
}

/// A payload word that makes the translated packet's checksum come out as zero.
fn zeroing(mut packet: Packet, translated: impl Fn(&mut Packet)) -> Packet {
    packet.payload = vec![0, 0];
    let mut after = packet.clone();
    translated(&mut after);
    let bytes = after.bytes();
    let sum = u16::from_be_bytes([bytes[26], bytes[27]]);
    packet.payload = sum.to_be_bytes().to_vec();
    packet
}

#[test]
fn a_udp_checksum_never_becomes_zero_rfc_768() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 4000), server(80)));
    let packet = zeroing(udp((HOST, 4000), server(80)), |packet| packet.set_source(outside));
    desk.goes_out(&packet);
    let sent = desk.offer(INTERNAL, &packet);
    assert_eq!(sent[0].1[14 + 26..14 + 28], [0xff, 0xff]);
    let inside = (ip(HOST), 4000);
    let packet = zeroing(udp((SERVER, 80), outside), |packet| packet.set_destination(inside));
    let sent = desk.offer(EXTERNAL, &packet);
    assert_eq!(sent[0].1[14 + 26..14 + 28], [0xff, 0xff]);
}

/// Regression: RFC 1624 gives 0 here, and a receiver finds that sum wrong.
#[test]
fn an_echo_reply_that_becomes_all_zero_has_checksum_ffff() {
    let mut desk = Desk::new(&plain());
    let mut request = echo(true, HOST, ip(SERVER), 0);
    request.body = Body::Echo { request: true, identifier: 0, sequence: 0 };
    request.payload = vec![0; 32];
    let outside = desk.goes_out(&request);
    let mut reply = echo(false, SERVER, outside.0, outside.1);
    reply.body = Body::Echo { request: false, identifier: outside.1, sequence: 0 };
    reply.payload = vec![0; 32];
    desk.comes_in(&reply, (HOST, 0));
    let sent = desk.offer(EXTERNAL, &reply);
    assert_eq!(checksum(&sent[0].1[14 + 20..]), 0);
}

#[test]
fn what_is_outside_the_subscriber_ranges_is_refused() {
    let mut desk = Desk::new(&plain());
    desk.refused(INTERNAL, &udp(("100.128.0.1", 4000), server(80)), SourceNotSubscriber);
    desk.refused(INTERNAL, &udp(("10.255.0.1", 4000), server(80)), SourceNotSubscriber);
    desk.refused(INTERNAL, &udp(("203.0.113.1", 4000), server(80)), SourceNotSubscriber);
    desk.refused(INTERNAL, &tcp((HOST, 4000), server(80), ACK), TcpNotSyn);
    assert_eq!(desk.mappings(), 0);
}

#[test]
fn nothing_goes_from_inside_to_inside_by_internal_addresses_6598_s4() {
    let mut desk = Desk::new(&plain());
    for inside in ["100.64.0.1", "100.127.255.255", "169.254.3.3", "10.255.0.3"] {
        desk.refused(INTERNAL, &udp((HOST, 4000), (ip(inside), 80)), DestinationInside);
        let outside = (ip("203.0.113.1"), 5000);
        desk.refused(EXTERNAL, &udp((inside, 80), outside), SourceSpoofed);
    }
    desk.refused(EXTERNAL, &udp(("192.0.2.2", 80), (ip("203.0.113.1"), 5000)), SourceSpoofed);
    assert_eq!(desk.mappings(), 0);
}

#[test]
fn ethernet_padding_ends_at_the_box() {
    let mut desk = Desk::new(&plain());
    let mut packet = udp((HOST, 4000), server(80));
    packet.payload = vec![1, 2, 3];
    let outside = desk.goes_out(&packet);
    let mut frame = desk.arriving(INTERNAL, &packet);
    frame.resize(60, 0xaa);
    packet.set_source(outside);
    packet.ttl -= 1;
    let sent = desk.lab.arrive(0, INTERNAL, &frame);
    assert_eq!(sent, [desk.leaving(EXTERNAL, &packet)]);
}
