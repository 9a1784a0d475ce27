//! ICMP errors that the box sends (RFC 5508 section 7.2, RFC 6888 REQ-11b, RFC 1812 section
//! 4.3.2).

use crate::desk::*;
use crate::wire::{Body, Link, Packet, ip};

const HOST: &str = "100.64.3.9";
/// Errors to one receiver per second, by default.
const PER_RECEIVER: u32 = 20;
const OWN: [&str; 2] = ["10.255.0.2", "192.0.2.2"];

/// The error from the own address of a port about a packet that arrived there.
fn told(desk: &Desk, port: usize, (kind, code): (u8, u8), about: &Packet) -> (usize, Vec<u8>) {
    let kept = 548 - 20 - about.options.len();
    let mut error = udp((OWN[port], 1), (about.source, 1));
    error.identification = 0;
    error.body = Body::Error { kind, code, rest: 0, about: Box::new(about.clone()), kept };
    error.payload = Vec::new();
    let link = Link { to: HOPS[port], from: desk_mac(port), vlan: desk.vlans[port] };
    (port, link.frame(0x0800, &error.bytes()))
}

fn desk_mac(port: usize) -> [u8; 6] {
    cgnat_core::testing::lab::port_mac(port)
}

#[test]
fn the_sender_is_told_when_the_time_to_live_ran_out_on_either_side_5508_s7_2() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 4000), server(53)));
    let mut out = udp((HOST, 4000), server(33434));
    out.ttl = 1;
    assert_eq!(desk.offer(INTERNAL, &out), [told(&desk, INTERNAL, (11, 0), &out)]);
    let mut back = udp((SERVER, 53), outside);
    back.ttl = 1;
    assert_eq!(desk.offer(EXTERNAL, &back), [told(&desk, EXTERNAL, (11, 0), &back)]);
    assert_eq!(desk.lab.sum(|c| c.errors_sent.value()), 2);
}

#[test]
fn an_error_quotes_what_fits_into_576_bytes_1812_s4_3_2_3() {
    let mut desk = Desk::new(&plain());
    let mut long = udp((HOST, 4000), server(33434));
    long.ttl = 1;
    long.payload = vec![0x5a; 1400];
    let sent = desk.offer(INTERNAL, &long);
    assert_eq!(sent, [told(&desk, INTERNAL, (11, 0), &long)]);
    assert_eq!(sent[0].1.len(), 14 + 576);
}

#[test]
fn a_refused_flow_is_told_host_unreachable_and_the_others_go_on_6888_req_11() {
    let mut desk = Desk::new(&one_address(1, 1));
    let kept = desk.goes_out(&udp((HOST, 1), server(53)));
    for n in 2..=64 {
        desk.goes_out(&udp((HOST, n), server(53)));
    }
    let refused = udp((HOST, 65), server(53));
    assert_eq!(desk.offer(INTERNAL, &refused), [told(&desk, INTERNAL, (3, 1), &refused)]);
    let other = tcp(("100.64.0.1", 1), server(80), SYN);
    assert_eq!(desk.offer(INTERNAL, &other), [told(&desk, INTERNAL, (3, 1), &other)]);
    assert_eq!(desk.goes_out(&udp((HOST, 1), server(53))), kept);
}

#[test]
fn errors_are_limited_per_receiver_and_nobody_else_notices_1812_s4_3_2_8() {
    let mut desk = Desk::new(&plain());
    let mut storm = udp((HOST, 4000), server(33434));
    storm.ttl = 1;
    let sent: usize = (0..100).map(|_| desk.offer(INTERNAL, &storm).len()).sum();
    assert_eq!(sent as u32, PER_RECEIVER);
    assert_eq!(desk.lab.sum(|c| c.errors_withheld.value()), u64::from(100 - PER_RECEIVER));
    let mut other = udp(("100.64.7.7", 4000), server(33434));
    other.ttl = 1;
    assert_eq!(desk.offer(INTERNAL, &other).len(), 1);
    desk.lab.advance(1_000);
    assert_eq!(desk.offer(INTERNAL, &storm).len(), 1);
}

#[test]
fn no_error_is_sent_about_an_error_1812_s4_3_2_7() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 4000), server(53)));
    let mut about = udp(("203.0.113.0", outside.1), server(53));
    about.source = outside.0;
    let body = Body::Error { kind: 3, code: 1, rest: 0, about: Box::new(about), kept: 8 };
    let mut error = udp((SERVER, 1), (outside.0, 1));
    (error.body, error.payload, error.ttl) = (body, Vec::new(), 1);
    assert_eq!(desk.offer(EXTERNAL, &error), []);
    let answer = udp((SERVER, 53), (ip(HOST), 4000));
    let body = Body::Error { kind: 3, code: 3, rest: 0, about: Box::new(answer), kept: 8 };
    let mut error = udp((HOST, 1), server(1));
    (error.body, error.payload, error.ttl) = (body, Vec::new(), 1);
    assert_eq!(desk.offer(INTERNAL, &error), []);
    assert_eq!(desk.lab.sum(|c| c.errors_sent.value()), 0);
}
