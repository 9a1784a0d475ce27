//! Who may use a mapping from outside, and whether that keeps it alive (RFC 4787 REQ-6, REQ-8,
//! RFC 5382 REQ-3, RFC 7857 sections 6 and 7).

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::ip;

const HOST: (&str, u16) = ("100.64.3.9", 4000);
const ADF: &str = "address-dependent";
const APDF: &str = "address-and-port-dependent";

fn filtering(words: &str, more: &str) -> String {
    config("{ addresses: [203.0.113.0/28] }", &format!("nat44: {{ filtering: {words}{more} }}\n"))
}

#[test]
fn by_default_anybody_gets_through_6888_req_7() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp(HOST, server(53)));
    desk.comes_in(&udp(("9.9.9.9", 9), outside), HOST);
}

#[test]
fn address_dependent_filtering_asks_for_the_address_4787_req_8() {
    let mut desk = Desk::new(&filtering(ADF, ""));
    let outside = desk.goes_out(&udp(HOST, server(53)));
    desk.comes_in(&udp((SERVER, 53), outside), HOST);
    desk.comes_in(&udp((SERVER, 99), outside), HOST);
    desk.refused(EXTERNAL, &udp(("9.9.9.9", 53), outside), Filtered);
    // Mapping stays endpoint independent.
    assert_eq!(desk.goes_out(&udp(HOST, (ip("9.9.9.9"), 1))), outside);
    desk.comes_in(&udp(("9.9.9.9", 53), outside), HOST);
    assert_eq!(desk.lab.sum(|c| c.sessions.value()), 2);
}

#[test]
fn address_and_port_dependent_filtering_asks_for_both_4787_req_8a() {
    let mut desk = Desk::new(&filtering(APDF, ""));
    let outside = desk.goes_out(&udp(HOST, server(53)));
    desk.comes_in(&udp((SERVER, 53), outside), HOST);
    desk.refused(EXTERNAL, &udp((SERVER, 99), outside), Filtered);
    assert_eq!(desk.goes_out(&udp(HOST, server(99))), outside);
    desk.comes_in(&udp((SERVER, 99), outside), HOST);
}

#[test]
fn queries_are_filtered_by_address() {
    for word in [ADF, APDF] {
        let mut desk = Desk::new(&filtering(word, ""));
        let outside = desk.goes_out(&echo(true, HOST.0, ip(SERVER), 7));
        desk.comes_in(&echo(false, SERVER, outside.0, outside.1), (HOST.0, 7));
        desk.refused(EXTERNAL, &echo(false, "9.9.9.9", outside.0, outside.1), Filtered);
    }
}

#[test]
fn tcp_and_udp_may_filter_differently_and_a_pool_may_differ_5382_req_3b() {
    let pool = format!("{{ addresses: [203.0.113.0/28], filtering: {{ tcp: {ADF} }} }}");
    let mut desk = Desk::new(&config(&pool, &format!("nat44: {{ filtering: {{ icmp: {ADF} }} }}")));
    let outside = desk.goes_out(&udp(HOST, server(53)));
    desk.comes_in(&udp(("9.9.9.9", 9), outside), HOST);
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    desk.refused(EXTERNAL, &tcp(("9.9.9.9", 9), outside, SYN), Filtered);
    let outside = desk.goes_out(&echo(true, HOST.0, ip(SERVER), 7));
    desk.refused(EXTERNAL, &echo(false, "9.9.9.9", outside.0, outside.1), Filtered);
}

#[test]
fn an_inbound_connection_needs_an_outbound_one_to_its_address_5382_req_3() {
    let mut desk = Desk::new(&filtering(ADF, ""));
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    desk.refused(EXTERNAL, &tcp(("9.9.9.9", 1), outside, SYN), Filtered);
    desk.refused(EXTERNAL, &tcp(("9.9.9.9", 1), outside, ACK), Filtered);
    desk.comes_in(&tcp((SERVER, 20), outside, SYN), HOST);
    desk.goes_out(&tcp(HOST, server(20), SYN | ACK));
    desk.comes_in(&tcp((SERVER, 20), outside, ACK), HOST);
    // The one that permitted it ends; what it permitted goes on, and nothing new comes in.
    desk.lab.advance(241_000);
    assert_eq!(desk.lab.sum(|c| c.sessions.value()), 1);
    desk.comes_in(&tcp((SERVER, 20), outside, ACK), HOST);
    desk.refused(EXTERNAL, &tcp((SERVER, 21), outside, SYN), Filtered);
}

#[test]
fn one_permission_lasts_until_the_last_of_its_connections() {
    let mut desk = Desk::new(&filtering(ADF, ""));
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    desk.lab.advance(120_000);
    assert_eq!(desk.goes_out(&tcp(HOST, server(81), SYN)), outside);
    desk.lab.advance(121_000);
    desk.comes_in(&tcp((SERVER, 22), outside, SYN), HOST);
    desk.lab.advance(120_000);
    desk.refused(EXTERNAL, &tcp((SERVER, 23), outside, SYN), NoMapping);
}

#[test]
fn under_port_dependent_filtering_both_may_open_at_once_5382_req_2a() {
    let mut desk = Desk::new(&filtering(APDF, ""));
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    desk.refused(EXTERNAL, &tcp((SERVER, 81), outside, SYN), Filtered);
    desk.comes_in(&tcp((SERVER, 80), outside, SYN), HOST);
    desk.goes_out(&tcp(HOST, server(80), SYN | ACK));
    desk.comes_in(&tcp((SERVER, 80), outside, SYN | ACK), HOST);
    desk.lab.advance(7_000_000);
    desk.comes_in(&tcp((SERVER, 80), outside, ACK), HOST);
}

#[test]
fn each_destination_has_its_own_timer_where_filtering_asks_for_it() {
    let mut desk = Desk::new(&filtering(ADF, ""));
    let outside = desk.goes_out(&udp(HOST, server(5000)));
    desk.lab.advance(200_000);
    assert_eq!(desk.goes_out(&udp(HOST, (ip("9.9.9.9"), 5000))), outside);
    desk.lab.advance(101_000);
    desk.refused(EXTERNAL, &udp((SERVER, 5000), outside), Filtered);
    desk.comes_in(&udp(("9.9.9.9", 5000), outside), HOST);
    desk.lab.advance(200_000);
    assert_eq!(desk.mappings(), 0);
}

#[test]
fn inbound_packets_refresh_only_where_that_is_configured_4787_req_6a() {
    for (more, left) in [("", 0), (", inbound-refresh: true", 1)] {
        for word in ["endpoint-independent", ADF, APDF] {
            let mut desk = Desk::new(&filtering(word, more));
            let outside = desk.goes_out(&udp(HOST, server(5000)));
            desk.lab.advance(200_000);
            desk.comes_in(&udp((SERVER, 5000), outside), HOST);
            desk.lab.advance(200_000);
            assert_eq!(desk.mappings(), left, "{word}{more}");
        }
    }
}

#[test]
fn what_is_filtered_refreshes_nothing_7857_s7a() {
    let mut desk = Desk::new(&filtering(ADF, ", inbound-refresh: true"));
    let outside = desk.goes_out(&udp(HOST, server(5000)));
    desk.lab.advance(200_000);
    desk.refused(EXTERNAL, &udp(("9.9.9.9", 5000), outside), Filtered);
    desk.lab.advance(101_000);
    assert_eq!(desk.mappings(), 0);
}

#[test]
fn two_subscribers_behind_filtering_meet_once_both_have_sent() {
    let mut desk = Desk::new(&filtering(APDF, ""));
    let other = ("100.64.0.1", 1000);
    let shown = desk.goes_out(&udp(HOST, server(5000)));
    let shown_other = desk.goes_out(&udp(other, server(5000)));
    desk.refused(INTERNAL, &udp(other, shown), Filtered);
    // The refused packet went out as far as the other's own mapping is concerned.
    for (from, to) in [(HOST, shown_other), (other, shown)] {
        assert_eq!(desk.offer(INTERNAL, &udp(from, to)).len(), 1, "{:?}", desk.drops());
    }
}

#[test]
fn errors_are_not_filtered_by_their_source_4787_req_12a() {
    use crate::wire::{Body, Packet};
    let mut desk = Desk::new(&filtering(APDF, ""));
    let sent = udp(HOST, server(5000));
    let outside = desk.goes_out(&sent);
    let mut about = sent.clone();
    about.set_source(outside);
    let body = Body::Error { kind: 3, code: 3, rest: 0, about: Box::new(about), kept: 8 };
    let (source, destination) = (ip("9.9.9.9"), outside.0);
    let error = Packet { source, destination, body, payload: vec![], ..sent };
    desk.comes_in(&error, HOST);
}
