//! IPv4 options: source routes do not pass (RFC 5508 section 7.3), recorded routes tell
//! nothing of the inside, and the box records itself (RFC 1812 section 5.3.13).

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Body, Packet, ip};

const HOST: &str = "100.64.3.9";
const OWN: [&str; 2] = ["10.255.0.2", "192.0.2.2"];
const ROUTER: &str = "198.51.100.99";

/// A record route option of nine places, as ping -R sends it, with these addresses in it.
fn route(recorded: &[&str]) -> Vec<u8> {
    let mut option = vec![1, 7, 39, 4 + 4 * recorded.len() as u8];
    for address in recorded {
        option.extend(ip(address).to_be_bytes());
    }
    option.resize(40, 0);
    option
}

fn dotted(address: u32) -> String {
    std::net::Ipv4Addr::from(address).to_string()
}

fn with(mut packet: Packet, options: Vec<u8>) -> Packet {
    packet.options = options;
    packet
}

#[test]
fn ping_with_a_recorded_route_goes_round_and_shows_nothing_of_the_inside_5508_req_5c() {
    for workers in [1, 2] {
        let mut desk = Desk::with(&plain(), workers, 1);
        // The host and a router of the inside have recorded themselves.
        let ping = with(echo(true, HOST, ip(SERVER), 9), route(&[HOST, "172.16.0.1"]));
        let sent = desk.offer(INTERNAL, &ping);
        let bytes = &sent[0].1[14..];
        let outside = u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        let identifier = u16::from_be_bytes([bytes[64], bytes[65]]);
        let seen = dotted(outside);
        let mut expected = with(ping.clone(), route(&[&seen, &seen, OWN[1]]));
        expected.set_source((outside, identifier));
        expected.ttl -= 1;
        assert_eq!(sent, [desk.leaving(EXTERNAL, &expected)]);

        let way = [seen.as_str(), &seen, OWN[1], SERVER, ROUTER];
        let reply = with(echo(false, SERVER, outside, identifier), route(&way));
        let mut expected = with(reply.clone(), route(&[&way[..], &[OWN[0]]].concat()));
        expected.set_destination((ip(HOST), 9));
        expected.ttl -= 1;
        assert_eq!(desk.offer(EXTERNAL, &reply), [desk.leaving(INTERNAL, &expected)]);
    }
}

#[test]
fn a_full_route_stays_full_and_unused_room_is_wiped_5508_req_5c() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 4000), server(53)));
    let seen = dotted(outside.0);
    let mut expected = udp((&seen, outside.1), server(53));
    expected.ttl -= 1;
    let full = with(udp((HOST, 4000), server(53)), route(&[HOST; 9]));
    expected.options = route(&[seen.as_str(); 9]);
    assert_eq!(desk.offer(INTERNAL, &full), [desk.leaving(EXTERNAL, &expected)]);
    let mut dirty = with(udp((HOST, 4000), server(53)), route(&[HOST; 9]));
    dirty.options[3] = 4;
    expected.options = route(&[OWN[1]]);
    assert_eq!(desk.offer(INTERNAL, &dirty), [desk.leaving(EXTERNAL, &expected)]);
}

#[test]
fn timestamps_that_routers_add_show_no_address_of_the_inside_5508_req_5c() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 4000), server(53)));
    let (inside, seen) = (ip(HOST).to_be_bytes(), outside.0.to_be_bytes());
    let option = |pointer, flag, address: [u8; 4], rest: [u8; 4]| {
        [[68, 20, pointer, flag], address, [1, 2, 3, 4], rest, [0; 4]].concat()
    };
    for (before, after) in [
        (option(13, 1, inside, inside), option(13, 1, seen, [0; 4])),
        (option(21, 0x31, inside, inside), option(21, 0x31, seen, seen)),
        (option(5, 3, inside, inside), option(5, 3, seen, seen)),
    ] {
        let packet = with(udp((HOST, 4000), server(53)), before);
        let mut expected = with(udp((&dotted(outside.0), outside.1), server(53)), after);
        expected.ttl -= 1;
        assert_eq!(desk.offer(INTERNAL, &packet), [desk.leaving(EXTERNAL, &expected)]);
    }
}

#[test]
fn a_hairpin_shows_nothing_of_the_sender_and_records_the_box_once() {
    for workers in [1, 2] {
        let mut desk = Desk::with(&plain(), workers, 1);
        let (one, two) = ("100.64.0.1", HOST);
        let here = desk.goes_out(&udp((one, 4000), server(53)));
        let there = desk.goes_out(&udp((two, 5000), server(53)));
        let packet = with(udp((one, 4000), there), route(&[one]));
        let seen = dotted(here.0);
        let mut expected = with(udp((&seen, here.1), (ip(two), 5000)), route(&[&seen, OWN[0]]));
        expected.ttl -= 1;
        assert_eq!(desk.offer(INTERNAL, &packet), [desk.leaving(INTERNAL, &expected)]);
    }
}

fn error(from: &str, about: &Packet) -> Packet {
    let body = Body::Error { kind: 3, code: 3, rest: 0, about: Box::new(about.clone()), kept: 8 };
    let mut error = udp((from, 1), (about.source, 1));
    (error.body, error.payload) = (body, Vec::new());
    error
}

#[test]
fn what_was_recorded_in_a_quoted_packet_stays_inside_too_5508_req_3b_req_5c() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 4000), server(53)));
    let seen = dotted(outside.0);
    // The host got this packet with our internal port and a router of the inside recorded.
    let got = with(udp((SERVER, 53), (ip(HOST), 4000)), route(&[ROUTER, OWN[0], "172.16.0.1"]));
    let told = with(error(HOST, &got), route(&[HOST]));
    let mut expected = told.clone();
    expected.set_source(outside);
    expected.ttl -= 1;
    expected.options = route(&[&seen, OWN[1]]);
    if let Body::Error { about, .. } = &mut expected.body {
        about.options = route(&[seen.as_str(); 3]);
    }
    assert_eq!(desk.offer(INTERNAL, &told), [desk.leaving(EXTERNAL, &expected)]);
}

#[test]
fn source_routes_are_dropped_in_headers_and_in_quotes_either_way_5508_s7_3() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 4000), server(53)));
    for kind in [131, 137] {
        for pad in 0..2 {
            let mut option = vec![1; pad];
            option.extend([kind, 7, 4, 198, 51, 100, 99]);
            option.resize(8, 0);
            let from_host = with(udp((HOST, 4000), server(53)), option.clone());
            desk.refused(INTERNAL, &from_host, SourceRoute);
            desk.refused(EXTERNAL, &with(udp((SERVER, 53), outside), option.clone()), SourceRoute);
            let to_us = with(echo(true, SERVER, ip(OWN[1]), 1), option.clone());
            desk.refused(EXTERNAL, &to_us, SourceRoute);
            let got = with(udp((SERVER, 53), (ip(HOST), 4000)), option.clone());
            desk.refused(INTERNAL, &error(HOST, &got), SourceRoute);
            let went = with(udp((&dotted(outside.0), outside.1), server(53)), option.clone());
            desk.refused(EXTERNAL, &error(ROUTER, &went), SourceRoute);
        }
    }
    assert_eq!(desk.lab.sum(|c| c.errors_sent.value()), 0);
}

#[test]
fn impossible_options_are_dropped_and_unknown_ones_pass() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 4000), server(53)));
    for option in [vec![7, 8, 4, 0, 0, 0, 0, 0], vec![148, 1, 0, 0], vec![7, 39, 4, 0]] {
        let packet = with(udp((HOST, 4000), server(53)), option.clone());
        desk.refused(INTERNAL, &packet, IpOptions);
        let went = with(udp((&dotted(outside.0), outside.1), server(53)), option);
        desk.refused(EXTERNAL, &error(ROUTER, &went), IcmpQuote);
    }
    // Router alert.
    let alert = with(udp((HOST, 4000), server(53)), vec![148, 4, 0, 0]);
    let mut expected = alert.clone();
    expected.set_source(outside);
    expected.ttl -= 1;
    assert_eq!(desk.offer(INTERNAL, &alert), [desk.leaving(EXTERNAL, &expected)]);
}

#[test]
fn a_ping_to_the_box_from_an_address_of_the_inside_is_no_ping_from_outside() {
    let mut desk = Desk::new(&plain());
    for from in [HOST, "203.0.113.1", OWN[0]] {
        desk.refused(EXTERNAL, &echo(true, from, ip(OWN[1]), 1), SourceSpoofed);
    }
}
