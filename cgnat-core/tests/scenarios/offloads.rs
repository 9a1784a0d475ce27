//! What offloads of Linux interfaces make of packets before a packet socket sees them.

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::mtu::{sized, with_mtu};
use crate::wire::{Body, Packet, TCP, ip, put};

const HOST: (&str, u16) = ("100.64.3.9", 4000);

/// Bytes of a frame that a slot of 2,048 holds.
const SLOT: usize = 1982;

fn packet_sockets() -> Desk {
    let yaml = with_mtu(1500, 1500)
        .replace("net_null0", "\"net_af_packet0,iface=eth1\"")
        .replace("net_null1", "\"net_af_packet1,iface=eth2\"");
    Desk::new(&yaml)
}

/// The frame of a packet whose sender left the checksum to a card: in its place is the sum over
/// the pseudo-header.
fn left(frame: &mut [u8], packet: &Packet) {
    let header = 14 + 20 + packet.options.len();
    let length = (frame.len() - header) as u32;
    let address = |address: u32| (address >> 16) + (address & 0xffff);
    let protocol = u32::from(packet.protocol());
    let sum = address(packet.source) + address(packet.destination) + protocol + length;
    let at = header + if packet.protocol() == TCP { 16 } else { 6 };
    put(frame, at, ((sum & 0xffff) + (sum >> 16)) as u16);
}

fn unsummed(mut packet: Packet) -> Packet {
    let Body::Udp { checksummed, .. } = &mut packet.body else { unreachable!() };
    *checksummed = false;
    packet
}

#[test]
fn checksums_that_were_left_to_a_card_are_right_when_a_packet_leaves() {
    let mut desk = packet_sockets();
    let mut completed = 0;
    for packet in [udp(HOST, server(80)), tcp(HOST, server(80), SYN)] {
        for options in [0, 8] {
            let mut packet = packet.clone();
            packet.options = vec![1; options];
            let outside = match options {
                0 => desk.goes_out(&packet),
                _ => desk.goes_out(&Packet { options: vec![], ..packet.clone() }),
            };
            let mut frame = desk.arriving(INTERNAL, &packet);
            left(&mut frame, &packet);
            let mut expected = packet.clone();
            expected.set_source(outside);
            expected.ttl -= 1;
            let sent = desk.lab.arrive(0, INTERNAL, &frame);
            assert_eq!(sent, [desk.leaving(EXTERNAL, &expected)]);

            let mut answer = match packet.protocol() {
                TCP => tcp((SERVER, 80), outside, SYN | ACK),
                _ => udp((SERVER, 80), outside),
            };
            answer.options = vec![1; options];
            let mut frame = desk.arriving(EXTERNAL, &answer);
            left(&mut frame, &answer);
            answer.set_destination((ip(HOST.0), HOST.1));
            answer.ttl -= 1;
            assert_eq!(desk.lab.arrive(0, EXTERNAL, &frame), [desk.leaving(INTERNAL, &answer)]);
            completed += 1;
        }
    }
    // None at all is not one that was left.
    desk.goes_out(&unsummed(udp(HOST, server(80))));
    for port in [INTERNAL, EXTERNAL] {
        assert_eq!(desk.lab.counters[0].ports[port].rx_completed.value(), completed);
    }
    assert_eq!(desk.drops(), [].into());
}

/// Cards compute them themselves, so what looks like it is damage, and stays for the receiver.
#[test]
fn nothing_is_completed_where_cards_receive() {
    let mut desk = Desk::new(&plain());
    let packet = udp(HOST, server(80));
    let outside = desk.goes_out(&packet);
    let mut frame = desk.arriving(INTERNAL, &packet);
    left(&mut frame, &packet);
    let sent = desk.lab.arrive(0, INTERNAL, &frame);
    let mut expected = packet.clone();
    expected.set_source(outside);
    expected.ttl -= 1;
    assert_eq!(sent.len(), 1);
    assert_ne!(sent, [desk.leaving(EXTERNAL, &expected)]);
    assert_eq!(desk.lab.counters[0].ports[INTERNAL].rx_completed.value(), 0);
}

#[test]
fn a_frame_that_a_slot_did_not_hold_is_dropped_as_cut() {
    let mut desk = packet_sockets();
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    for total in [SLOT - 13, 2000, 9000, 65_535] {
        for (port, packet) in [
            (INTERNAL, tcp(HOST, server(80), ACK)),
            (EXTERNAL, tcp((SERVER, 80), outside, SYN | ACK)),
        ] {
            let mut frame = desk.arriving(port, &sized(packet, true, total));
            frame.truncate(SLOT);
            desk.frame_refused(port, &frame, FrameCut);
        }
    }
    let ports = &desk.lab.counters[0].ports;
    assert_eq!([0, 1].map(|port: usize| ports[port].rx_cut.value()), [4, 4]);
    // What is shorter than any packet may be was not cut here.
    let mut frame = desk.arriving(INTERNAL, &sized(udp(HOST, server(80)), true, 1501));
    frame.truncate(14 + 1500);
    desk.frame_refused(INTERNAL, &frame, IpTotalLength);
    assert_eq!(desk.lab.counters[0].ports[INTERNAL].rx_cut.value(), 4);
}

/// Whole, but larger than the other link: told and not sent.
#[test]
fn a_joined_frame_that_a_slot_holds_is_too_big() {
    let mut desk = packet_sockets();
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    for total in [1501, SLOT - 14] {
        desk.refused(INTERNAL, &sized(tcp(HOST, server(80), ACK), true, total), TooBig);
        desk.refused(EXTERNAL, &sized(tcp((SERVER, 80), outside, ACK), true, total), TooBig);
    }
}
