//! Requests of TFTP where filtering depends on the port (RFC 1350, RFC 2347).

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Packet, ip};

const HOST: (&str, u16) = ("100.64.3.5", 4000);
const REQUEST: &[u8] = b"\0\x01pxelinux.0\0octet\0tsize\x000\0";
const APDF: &str = "filtering: { udp: address-and-port-dependent }";

fn box_with(nat44: &str) -> String {
    config("{ addresses: [203.0.113.0/28] }", &format!("nat44: {{ {nat44} }}\n"))
}

fn request(payload: &[u8]) -> Packet {
    let mut packet = udp(HOST, server(69));
    packet.payload = payload.to_vec();
    packet
}

fn opened(desk: &Desk) -> u64 {
    desk.lab.sum(|c| c.tftp_requests.value())
}

#[test]
fn the_answer_of_that_server_comes_from_a_port_of_its_choice_once() {
    let mut desk = Desk::new(&box_with(&format!("{APDF}, alg: {{ tftp: true }}")));
    let outside = desk.goes_out(&request(REQUEST));
    desk.refused(EXTERNAL, &udp(("9.9.9.9", 3000), outside), Filtered);
    desk.comes_in(&udp((SERVER, 3000), outside), HOST);
    // A session like any other from now on; the next port is not expected.
    desk.refused(EXTERNAL, &udp((SERVER, 3001), outside), Filtered);
    desk.lab.advance(250_000);
    desk.goes_out(&udp(HOST, server(3000)));
    desk.lab.advance(250_000);
    desk.comes_in(&udp((SERVER, 3000), outside), HOST);
    assert_eq!(opened(&desk), 1);
}

#[test]
fn a_request_is_good_for_thirty_seconds_and_a_repeated_one_for_thirty_more() {
    let mut desk = Desk::new(&box_with(&format!("{APDF}, alg: {{ tftp: true }}")));
    let outside = desk.goes_out(&request(REQUEST));
    desk.lab.advance(20_000);
    desk.goes_out(&request(REQUEST));
    desk.lab.advance(29_000);
    desk.comes_in(&udp((SERVER, 3000), outside), HOST);
    desk.goes_out(&request(REQUEST));
    desk.lab.advance(30_200);
    desk.refused(EXTERNAL, &udp((SERVER, 3001), outside), Filtered);
    assert_eq!(desk.lab.sum(|c| c.sessions.value()), 2, "with ports 69 and 3000");
}

#[test]
fn what_is_no_request_opens_nothing() {
    let mut desk = Desk::new(&box_with(&format!("{APDF}, alg: {{ tftp: true }}")));
    let mut outside = desk.goes_out(&request(b"\0\x03\0\x01data"));
    for payload in [&REQUEST[..REQUEST.len() - 1], b"", b"\0\x01a\0\0", b"\0\x01a\0octet\0x\0"] {
        outside = desk.goes_out(&request(payload));
    }
    let mut elsewhere = request(REQUEST);
    elsewhere.set_destination((ip(SERVER), 70));
    desk.goes_out(&elsewhere);
    desk.refused(EXTERNAL, &udp((SERVER, 3000), outside), Filtered);
    assert_eq!(opened(&desk), 0);
}

#[test]
fn each_alg_is_on_by_itself_4787_req_10a() {
    for (algs, admitted) in
        [("{}", false), ("{ ftp: true }", false), ("{ ftp: false, tftp: true }", true)]
    {
        let mut desk = Desk::new(&box_with(&format!("{APDF}, alg: {algs}")));
        let outside = desk.goes_out(&request(REQUEST));
        let answer = udp((SERVER, 3000), outside);
        match admitted {
            true => desk.comes_in(&answer, HOST),
            false => desk.refused(EXTERNAL, &answer, Filtered),
        }
    }
}

#[test]
fn filtering_that_knows_no_ports_needs_nothing() {
    for word in ["endpoint-independent", "address-dependent"] {
        let nat44 = format!("filtering: {{ udp: {word} }}, alg: {{ tftp: true }}");
        let mut desk = Desk::new(&box_with(&nat44));
        let outside = desk.goes_out(&request(REQUEST));
        desk.comes_in(&udp((SERVER, 3000), outside), HOST);
        assert_eq!(opened(&desk), 0);
    }
}

#[test]
fn a_limit_that_is_met_lets_the_request_go_and_opens_nothing() {
    let yaml = box_with(&format!("{APDF}, alg: {{ tftp: true }}"))
        .replace("pool: main }", "pool: main, limits: { sessions: 1 } }");
    let mut desk = Desk::new(&yaml);
    let outside = desk.goes_out(&request(REQUEST));
    desk.refused(EXTERNAL, &udp((SERVER, 3000), outside), Filtered);
}
