//! Segment sizes of SYNs are clamped as configured, either way, and never raised.

use crate::desk::*;
use crate::wire::{Body, Packet, ip};

const HOST: &str = "100.64.3.9";

fn clamped(nat44: &str, pool: &str) -> String {
    config(
        &format!("{{ addresses: [203.0.113.0/28]{pool} }}"),
        &format!("nat44: {{ hairpinning: true{nat44} }}\n"),
    )
}

/// A TCP packet that offers `size` behind `shift` bytes of padding.
fn offer(from: (&str, u16), to: (u32, u16), flags: u8, (shift, size): (usize, u16)) -> Packet {
    let mut packet = tcp(from, to, flags);
    if let Body::Tcp { options, .. } = &mut packet.body {
        *options = vec![1; shift];
        options.extend([2, 4]);
        options.extend(size.to_be_bytes());
        options.resize(8, 1);
    }
    packet
}

fn options_of(packet: &mut Packet, from: &Packet) {
    if let (Body::Tcp { options, .. }, Body::Tcp { options: new, .. }) =
        (&mut packet.body, &from.body)
    {
        options.clone_from(new);
    }
}

/// Opens a connection; both offers must arrive as `seen` says.
fn open(desk: &mut Desk, (shift, size): (usize, u16), seen: u16) {
    let to = server(80 + shift as u16);
    let syn = offer((HOST, 4000), to, SYN, (shift, size));
    let plain = offer((HOST, 4000), to, SYN, (shift, seen));
    let sent = desk.offer(INTERNAL, &syn);
    let half = |at: usize| u16::from_be_bytes([sent[0].1[at], sent[0].1[at + 1]]);
    let outside = (u32::from(half(26)) << 16 | u32::from(half(28)), half(34));
    let mut expected = syn.clone();
    options_of(&mut expected, &plain);
    expected.set_source(outside);
    expected.ttl -= 1;
    assert_eq!(sent, [desk.leaving(EXTERNAL, &expected)]);

    let answer = offer((SERVER, to.1), outside, SYN | ACK, (shift, size));
    let mut expected = answer.clone();
    options_of(&mut expected, &plain);
    expected.set_destination((ip(HOST), 4000));
    expected.ttl -= 1;
    assert_eq!(desk.offer(EXTERNAL, &answer), [desk.leaving(INTERNAL, &expected)]);
}

#[test]
fn offers_above_the_clamp_are_lowered_either_way_and_others_stay() {
    let mut desk = Desk::new(&clamped(", tcp-mss-clamp: 1452", ""));
    for shift in 0..4 {
        open(&mut desk, (shift, 1460), 1452);
        open(&mut desk, (shift, 65_535), 1452);
        open(&mut desk, (shift, 1453), 1452);
        open(&mut desk, (shift, 1452), 1452);
        open(&mut desk, (shift, 536), 536);
        open(&mut desk, (shift, 0), 0);
    }
}

#[test]
fn a_pool_has_its_own_clamp_or_none() {
    open(&mut Desk::new(&clamped("", ", tcp-mss-clamp: 1400")), (1, 1460), 1400);
    let both = clamped(", tcp-mss-clamp: 1452", ", tcp-mss-clamp: 1400");
    open(&mut Desk::new(&both), (1, 1460), 1400);
    let lifted = clamped(", tcp-mss-clamp: 1452", ", tcp-mss-clamp: off");
    open(&mut Desk::new(&lifted), (1, 1460), 1460);
    open(&mut Desk::new(&plain()), (1, 1460), 1460);
}

#[test]
fn a_syn_without_an_offer_and_packets_that_are_no_syn_stay_as_they_are() {
    let mut desk = Desk::new(&clamped(", tcp-mss-clamp: 1452", ""));
    let mut syn = tcp((HOST, 4000), server(80), SYN);
    if let Body::Tcp { options, .. } = &mut syn.body {
        *options = vec![1, 1, 4, 2];
    }
    desk.goes_out(&syn);
    desk.goes_out(&offer((HOST, 4000), server(80), ACK, (0, 1460)));
}

#[test]
fn a_hairpin_meets_the_clamp_too() {
    for workers in [1, 2] {
        let mut desk = Desk::with(&clamped(", tcp-mss-clamp: 1452", ""), workers, 1);
        let (one, two) = ("100.64.0.1", HOST);
        let here = desk.goes_out(&offer((one, 4000), server(80), SYN, (0, 1000)));
        let there = desk.goes_out(&offer((two, 5000), server(80), SYN, (0, 1000)));
        let syn = offer((one, 4000), there, SYN, (1, 1460));
        let mut expected = offer((two, 5000), there, SYN, (1, 1452));
        expected.set_source(here);
        expected.set_destination((ip(two), 5000));
        expected.ttl -= 1;
        assert_eq!(desk.offer(INTERNAL, &syn), [desk.leaving(INTERNAL, &expected)]);
    }
}
