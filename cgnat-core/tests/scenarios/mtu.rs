//! What is larger than the port it leaves by (RFC 4787 REQ-13, RFC 5508 section 7.1).

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Body, Link, Packet, ip};

const HOST: &str = "100.64.3.9";
const OTHER: &str = "100.64.3.10";

/// Sixteen addresses; MTU of the internal and of the external port.
pub fn with_mtu(internal: u16, external: u16) -> String {
    let mut yaml = plain();
    for (device, mtu) in [("net_null0", internal), ("net_null1", external)] {
        let line = format!("    device: {device}\n");
        yaml = yaml.replace(&line, &format!("{line}    mtu: {mtu}\n"));
    }
    yaml
}

/// The same packet with this total length and DF as given.
pub fn sized(mut packet: Packet, df: bool, total: usize) -> Packet {
    packet.payload.clear();
    let header = packet.len();
    packet.payload = (0..total - header).map(|n| (n * 11) as u8).collect();
    packet.df = df;
    packet
}

/// The error from the own address of a port, to the station that `about` came from.
pub fn told(port: usize, mtu: u32, about: &Packet) -> (usize, Vec<u8>) {
    let kept = 548 - 20 - about.options.len();
    let mut error = udp((["10.255.0.2", "192.0.2.2"][port], 1), (about.source, 1));
    error.identification = 0;
    error.body = Body::Error { kind: 3, code: 4, rest: mtu, about: Box::new(about.clone()), kept };
    error.payload = Vec::new();
    let us = cgnat_core::testing::lab::port_mac(port);
    let link = Link { to: HOPS[port], from: us, vlan: None };
    (port, link.frame(0x0800, &error.bytes()))
}

#[test]
fn a_subscriber_is_told_the_mtu_that_its_packet_is_too_big_for_4787_req_13_5508_s7_1_1b() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&with_mtu(1500, 1400), workers, 1);
        for packet in [
            udp((HOST, 1), server(80)),
            tcp((HOST, 1), server(80), SYN),
            echo(true, HOST, ip(SERVER), 1),
        ] {
            let big = sized(packet.clone(), true, 1401);
            assert_eq!(desk.offer(INTERNAL, &big), [told(INTERNAL, 1400, &big)]);
            assert_eq!(desk.mappings(), 0, "what is not forwarded makes no mapping");
        }
        assert_eq!(desk.drops(), [(TooBig, 3)].into());
        desk.goes_out(&sized(udp((HOST, 1), server(80)), true, 1400));
    }
}

#[test]
fn an_external_sender_is_told_the_internal_mtu_about_its_own_packet_5508_s7_1_1b() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&with_mtu(1300, 1500), workers, 1);
        let flow = udp((HOST, 1), server(80));
        let outside = desk.goes_out(&flow);
        let big = sized(udp((SERVER, 80), outside), true, 1301);
        assert_eq!(desk.offer(EXTERNAL, &big), [told(EXTERNAL, 1300, &big)]);
        desk.comes_in(&sized(udp((SERVER, 80), outside), true, 1300), (HOST, 1));
        assert_eq!(desk.drops(), [(TooBig, 1)].into());
        // Nothing is told of a mapping that is not there.
        let nobody = udp((SERVER, 80), (outside.0, outside.1 ^ 1));
        desk.refused(EXTERNAL, &sized(nobody, true, 1400), NoMapping);
    }
}

#[test]
fn the_sender_of_a_hairpinned_packet_is_told_about_the_packet_that_it_sent_5508_req_7() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&with_mtu(1200, 1500), workers, 1);
        let shown = desk.goes_out(&udp((OTHER, 5000), server(80)));
        desk.goes_out(&udp((HOST, 4000), server(80)));
        let big = sized(udp((HOST, 4000), shown), true, 1201);
        assert_eq!(desk.offer(INTERNAL, &big), [told(INTERNAL, 1200, &big)]);
        assert_eq!(desk.drops(), [(TooBig, 1)].into());
        assert_eq!(desk.offer(INTERNAL, &sized(big, true, 1200)).len(), 1);
    }
}

#[test]
fn df_is_honoured_and_kept_and_a_packet_without_it_is_fragmented_6864_s4_3b_5508_s7_1_1a() {
    let mut desk = Desk::new(&with_mtu(1500, 1500));
    for df in [true, false] {
        let packet = sized(udp((HOST, 1), server(80)), df, 1500);
        let sent = desk.offer(INTERNAL, &packet);
        assert_eq!((sent.len(), sent[0].1[20] & 0x40 != 0), (1, df));
    }
}

fn leaving(port: usize, packet: &[u8]) -> (usize, Vec<u8>) {
    let from = cgnat_core::testing::lab::port_mac(port);
    (port, Link { to: HOPS[port], from, vlan: None }.frame(0x0800, packet))
}

/// Frames that left a port, put together again by offset; each must be within the MTU.
pub fn reassembled(sent: &Frames, port: usize, mtu: usize) -> Vec<u8> {
    reassembled_behind(14, sent, port, mtu)
}

/// Likewise, behind a link header of so many bytes.
pub fn reassembled_behind(link: usize, sent: &Frames, port: usize, mtu: usize) -> Vec<u8> {
    let mut whole: Vec<u8> = Vec::new();
    for (n, (by, frame)) in sent.iter().enumerate() {
        let packet = &frame[link..];
        let half = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        assert_eq!(*by, port);
        assert!(packet.len() <= mtu && usize::from(half(2)) == packet.len());
        let header = usize::from(packet[0] & 15) * 4;
        assert_eq!(crate::wire::checksum(&packet[..header]), 0);
        if n == 0 {
            whole.extend(&packet[..header]);
        } else {
            assert_eq!(packet[4..6], whole[4..6], "one identification");
        }
        let at = usize::from(half(6) & 0x1fff) * 8;
        assert_eq!(at, whole.len() - usize::from(whole[0] & 15) * 4, "in the order of offsets");
        assert_eq!(half(6) & 0xe000, if n + 1 == sent.len() { 0 } else { 0x2000 });
        whole.extend(&packet[header..]);
    }
    let total = whole.len() as u16;
    crate::wire::put(&mut whole, 2, total);
    crate::wire::put(&mut whole, 6, 0);
    crate::wire::put(&mut whole, 10, 0);
    let sum = crate::wire::checksum(&whole[..usize::from(whole[0] & 15) * 4]);
    crate::wire::put(&mut whole, 10, sum);
    whole
}

#[test]
fn without_df_a_packet_leaves_in_fragments_that_make_it_up_again_4787_req_13a_5508_s7_1_1c() {
    for (total, options) in [(577, 0), (1000, 1), (1500, 4), (1500, 40), (1129, 0)] {
        let mut desk = Desk::new(&with_mtu(600, 576));
        let mut packet = udp((HOST, 1), server(80));
        packet.options = vec![1; options / 4 * 4];
        let packet = sized(packet, false, total);
        let sent = desk.offer(INTERNAL, &packet);
        let whole = reassembled(&sent, EXTERNAL, 576);
        let outside = (
            u32::from_be_bytes([whole[12], whole[13], whole[14], whole[15]]),
            u16::from_be_bytes([
                whole[20 + packet.options.len()],
                whole[21 + packet.options.len()],
            ]),
        );
        let mut expected = packet.clone();
        expected.set_source(outside);
        expected.ttl -= 1;
        expected.identification = u16::from_be_bytes([whole[4], whole[5]]);
        assert_eq!(whole, expected.bytes());
        let pieces: Vec<_> = expected.pieces(576).iter().map(|p| leaving(EXTERNAL, p)).collect();
        assert_eq!(sent, pieces);
        assert_eq!(desk.lab.sum(|c| c.fragmented.value()), 1);

        // And back.
        let answer = sized(udp((SERVER, 80), outside), false, total.max(601));
        let mut expected = answer.clone();
        expected.set_destination((ip(HOST), 1));
        expected.ttl -= 1;
        let sent = desk.offer(EXTERNAL, &answer);
        assert_eq!(reassembled(&sent, INTERNAL, 600), expected.bytes());
        assert_eq!(desk.drops(), [].into());
    }
}

#[test]
fn fragments_wait_for_a_neighbour_in_order() {
    let yaml = with_mtu(1500, 576)
        .replace("    neighbours: [{ address: 192.0.2.1, mac: \"02:00:00:00:09:02\" }]\n", "");
    let mut desk = Desk::new(&yaml);
    let packet = sized(udp((HOST, 1), server(80)), false, 1500);
    let sent = desk.offer(INTERNAL, &packet);
    assert!(sent.iter().all(|(_, frame)| frame[12..14] == [8, 6]), "questions only");
    let reply = cgnat_core::packet::arp::Arp {
        operation: cgnat_core::packet::arp::Operation::Reply,
        sender_mac: HOPS[EXTERNAL],
        sender: ip("192.0.2.1"),
        target_mac: cgnat_core::testing::lab::port_mac(EXTERNAL),
        target: ip("192.0.2.2"),
    };
    let frame = arp_frame(EXTERNAL, None, &reply);
    let mut sent = desk.lab.arrive(0, EXTERNAL, &frame);
    desk.lab.advance(60);
    sent.extend(desk.lab.take_sent());
    sent.retain(|(_, frame)| frame[12..14] == [8, 0]);
    assert_eq!(reassembled(&sent, EXTERNAL, 576).len(), 1500);
}

#[test]
fn without_buffers_for_all_fragments_the_packet_ends_as_a_drop() {
    let mut desk = Desk::new(&with_mtu(1500, 576));
    for (buffers, sent) in [(0, 0), (1, 1), (2, 2), (3, 3)] {
        desk.lab.workers[0].io_mut().buffers = buffers;
        let packet = sized(udp((HOST, 1), server(80)), false, 1500);
        assert_eq!(desk.offer(INTERNAL, &packet).len(), sent);
    }
    assert_eq!(desk.drops(), [(NoBuffer, 3)].into());
}

#[test]
fn too_big_errors_are_limited_and_other_subscribers_go_on() {
    let mut desk = Desk::new(&with_mtu(1500, 1400));
    let big = sized(udp((HOST, 1), server(80)), true, 1500);
    let sent: usize = (0..100).map(|_| desk.offer(INTERNAL, &big).len()).sum();
    assert_eq!(sent as u32, 20);
    assert_eq!(desk.drops(), [(TooBig, 100)].into());
    let big = sized(udp((OTHER, 1), server(80)), true, 1500);
    assert_eq!(desk.offer(INTERNAL, &big), [told(INTERNAL, 1400, &big)]);
}

#[test]
fn what_would_be_refused_anyway_is_not_told_an_mtu() {
    let mut desk = Desk::new(&with_mtu(1500, 1400));
    let stranger = sized(udp(("10.9.9.9", 1), server(80)), true, 1500);
    let sent = desk.offer(INTERNAL, &stranger);
    assert_eq!((sent, desk.drops()), (vec![], [(SourceNotSubscriber, 1)].into()));
    let mut old = sized(udp((HOST, 1), server(80)), true, 1500);
    old.ttl = 1;
    desk.refused(INTERNAL, &old, TtlExpired);
}

#[test]
fn a_3_4_from_the_world_reaches_the_host_with_its_mtu_5508_s7_1_2() {
    let mut desk = Desk::new(&plain());
    let packet = tcp((HOST, 4000), server(80), SYN);
    let outside = desk.goes_out(&packet);
    let mut about = packet.clone();
    about.set_source(outside);
    about.ttl -= 1;
    for mtu in [68, 576, 1280, 1399, 65_535] {
        let mut error = udp(("198.51.100.99", 1), (outside.0, 1));
        let about = Box::new(about.clone());
        error.body = Body::Error { kind: 3, code: 4, rest: mtu, about, kept: 8 };
        error.payload = Vec::new();
        desk.comes_in(&error, (HOST, 4000));
    }
}
