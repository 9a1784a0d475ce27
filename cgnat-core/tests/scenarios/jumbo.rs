//! Frames of more than 1,500 bytes, and frames that a driver delivers in pieces.

use cgnat_core::testing::io::MemoryPacket;
use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::mtu::{reassembled, sized, told, with_mtu};
use crate::wire::{Packet, ip};

const HOST: &str = "100.64.3.9";

/// Sends a frame whose first piece has `first` bytes.
fn offer_in_pieces(desk: &mut Desk, port: usize, packet: &Packet, first: usize) -> Frames {
    let frame = MemoryPacket::new(&desk.arriving(port, packet)).in_pieces(first);
    desk.lab.workers[desk.at].io_mut().arrive(port, frame);
    desk.lab.run_workers();
    desk.lab.take_sent()
}

#[test]
fn wherever_a_driver_cuts_a_frame_it_is_translated_as_a_whole() {
    let mut desk = Desk::new(&with_mtu(9000, 9000));
    let (mut joined, mut bytes) = (0, 0);
    // The shortest frame, and a jumbo one.
    for total in [50, 9000] {
        for packet in [
            udp((HOST, 1), server(80)),
            tcp((HOST, 1), server(80), SYN),
            echo(true, HOST, ip(SERVER), 1),
        ] {
            let packet = sized(packet, true, total);
            let outside = desk.goes_out(&packet);
            bytes += 14 + total as u64;
            let mut expected = packet.clone();
            expected.set_source(outside);
            expected.ttl -= 1;
            let expected = [desk.leaving(EXTERNAL, &expected)];
            // In the link header, the IPv4 header, the transport header and behind them.
            for first in 0..=60 {
                assert_eq!(offer_in_pieces(&mut desk, INTERNAL, &packet, first), expected);
                joined += 1;
                bytes += 14 + total as u64;
            }
        }
    }
    let port = &desk.lab.counters[0].ports[INTERNAL];
    assert_eq!((port.rx_joined.value(), port.rx_bytes.value()), (joined, bytes));
    assert_eq!(desk.drops(), [].into());
}

#[test]
fn a_frame_that_no_buffer_holds_is_dropped_and_its_bytes_are_counted() {
    let mut desk = Desk::new(&plain());
    let frame = desk.arriving(INTERNAL, &sized(udp((HOST, 1), server(80)), true, 9000));
    desk.lab.workers[0].io_mut().arrive(INTERNAL, MemoryPacket::new(&frame).too_long());
    desk.lab.run_workers();
    assert_eq!(desk.lab.take_sent(), []);
    assert_eq!(desk.drops(), [(FrameLong, 1)].into());
    let port = &desk.lab.counters[0].ports[INTERNAL];
    let counted = (port.rx_packets.value(), port.rx_joined.value(), port.rx_bytes.value());
    assert_eq!((counted, port.dropped.value()), ((1, 0, 9014), 1));
    assert_eq!(desk.mappings(), 0);
}

#[test]
fn jumbo_packets_pass_jumbo_ports_both_ways_up_to_the_last_byte() {
    for mtu in [2001, 9000, 9702] {
        let mut desk = Desk::new(&with_mtu(mtu, mtu));
        for df in [true, false] {
            let outside = desk.goes_out(&sized(tcp((HOST, 1), server(80), SYN), true, mtu.into()));
            let answer = sized(tcp((SERVER, 80), outside, SYN | ACK), df, mtu.into());
            desk.comes_in(&answer, (HOST, 1));
        }
        let big = sized(udp((HOST, 1), server(80)), true, usize::from(mtu) + 1);
        assert_eq!(desk.offer(INTERNAL, &big), [told(INTERNAL, mtu.into(), &big)]);
    }
}

#[test]
fn jumbo_packets_are_cut_to_ordinary_and_to_the_smallest_mtu_4787_req_13a() {
    for (external, total, parts) in [(1500, 9000, 7), (576, 9000, 17), (576, 9702, 18)] {
        let mut desk = Desk::new(&with_mtu(9702, external));
        let packet = sized(udp((HOST, 1), server(80)), false, total);
        let sent = desk.offer(INTERNAL, &packet);
        assert_eq!(sent.len(), parts);
        let whole = reassembled(&sent, EXTERNAL, external.into());
        assert_eq!((whole.len(), &whole[28..]), (total, &packet.payload[..]));
        let big = sized(udp((HOST, 1), server(80)), true, total);
        assert_eq!(desk.offer(INTERNAL, &big), [told(INTERNAL, external.into(), &big)]);
        assert_eq!(desk.drops(), [(TooBig, 1)].into());
    }
}

#[test]
fn the_largest_datagram_passes_in_jumbo_fragments_and_is_cut_further_4787_req_14() {
    for (external, parts) in [(9000, 8), (1500, 51)] {
        let mut desk = Desk::new(&with_mtu(9000, external));
        let whole = sized(udp((HOST, 1), server(80)), false, 65_535);
        let sent: Frames =
            whole.pieces(9000).iter().flat_map(|part| desk.offer_bytes(INTERNAL, part)).collect();
        assert_eq!(sent.len(), parts, "drops {:?}", desk.drops());
        let got = reassembled(&sent, EXTERNAL, external.into());
        assert_eq!((got.len(), &got[28..]), (65_535, &whole.payload[..]));
        assert_eq!(desk.drops(), [].into());
    }
}
