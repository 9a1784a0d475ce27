//! Identifications of packets that may be fragmented (RFC 6864, by way of RFC 7857 section 10).

use std::collections::BTreeMap;

use crate::desk::*;
use crate::wire::{Packet, ip};

/// Identification of the one packet that was sent.
fn identification(sent: &Frames) -> u16 {
    assert_eq!(sent.len(), 1);
    u16::from_be_bytes([sent[0].1[18], sent[0].1[19]])
}

fn loose(packet: Packet) -> Packet {
    Packet { df: false, ..packet }
}

#[test]
fn two_subscribers_with_one_identification_leave_with_two_6864_s5_3_1_7857_s10() {
    let mut desk = Desk::with(&one_address(16, 2), 4, 1);
    let mut seen = std::collections::BTreeSet::new();
    for worker in 0..4 {
        for n in 0..4 {
            let host = subscriber_of(worker, 4, n);
            let packet = loose(udp((&host, 9), server(53)));
            let sent = desk.offer(INTERNAL, &packet);
            assert!(seen.insert(identification(&sent)));
            let mut expected = packet.clone();
            expected.identification = identification(&sent);
            let half = |at: usize| u16::from_be_bytes([sent[0].1[at], sent[0].1[at + 1]]);
            expected.set_source((u32::from(half(26)) << 16 | u32::from(half(28)), half(34)));
            expected.ttl -= 1;
            assert_eq!(sent, [desk.leaving(EXTERNAL, &expected)]);
        }
    }
}

#[test]
fn atomic_packets_keep_theirs_and_equal_ones_all_pass_6864_s4_1a() {
    let mut desk = Desk::new(&plain());
    for _ in 0..5 {
        desk.goes_out(&udp(("100.64.0.1", 9), server(53)));
    }
    let outside = desk.goes_out(&udp(("100.64.0.1", 9), server(53)));
    for _ in 0..5 {
        desk.comes_in(&udp((SERVER, 53), outside), ("100.64.0.1", 9));
    }
}

#[test]
fn inbound_packets_keep_the_identification_of_their_one_source_6864_s4_3a() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp(("100.64.0.1", 9), server(53)));
    for n in 0..5 {
        let packet = Packet { identification: n, ..loose(udp((SERVER, 53), outside)) };
        desk.comes_in(&packet, ("100.64.0.1", 9));
    }
}

/// Many subscribers of four workers on few addresses, hairpins among them, for ten minutes.
#[test]
fn none_is_used_twice_within_120_s_between_two_addresses_6864_s4_3a() {
    let mut desk = Desk::with(&one_address(64, 4), 4, 3);
    let mut used: BTreeMap<(Vec<u8>, u8, u16), u64> = BTreeMap::new();
    let there = desk.goes_out(&udp(("100.64.0.200", 5000), server(53)));
    for n in 0u32..20_000 {
        let host = std::net::Ipv4Addr::from(ip("100.64.0.0") + 1 + n * 7 % 40).to_string();
        let to = [server(53), (ip("198.51.100.8"), 53), there][n as usize % 3];
        if n % 1000 == 0 {
            desk.goes_out(&udp(("100.64.0.200", 5000), server(53)));
        }
        let packet = match n % 5 {
            0 if to != there => tcp((&host, 77), to, SYN),
            1 if to != there => echo(true, &host, to.0, 77),
            _ => udp((&host, 77), to),
        };
        let sent = desk.offer(INTERNAL, &loose(packet));
        let frame = &sent[0].1;
        let now = desk.lab.now.nanos() / 1_000_000;
        let place = (frame[26..34].to_vec(), frame[23], identification(&sent));
        if let Some(then) = used.insert(place, now) {
            assert!(now - then >= 120_000, "again after {} ms", now - then);
        }
        desk.lab.advance_silently(30);
    }
    assert_eq!(desk.lab.sum(|c| c.identification_repeats.value()), 0);
    assert!(desk.lab.sum(|c| c.hairpinned.value()) > 1000);
}

#[test]
fn a_sender_beyond_the_numbers_there_are_goes_on_and_is_counted_6864_s5_2() {
    let mut desk = Desk::new(&plain());
    let packet = loose(udp(("100.64.0.1", 9), server(53)));
    let mut seen = vec![0u32; 65_536];
    for n in 0..70_000 {
        let sent = desk.offer(INTERNAL, &packet);
        seen[usize::from(identification(&sent))] += 1;
        if n % 100 == 0 {
            desk.lab.advance_silently(85);
        }
    }
    assert!(seen.iter().all(|count| matches!(count, 1 | 2)));
    let repeats = seen.iter().filter(|count| **count == 2).count() as u64;
    assert_eq!(repeats, 70_000 - 65_536);
    let counted = desk.lab.sum(|c| c.identification_repeats.value());
    assert_eq!(counted, repeats);
    assert_eq!(desk.drops(), [].into());
}
