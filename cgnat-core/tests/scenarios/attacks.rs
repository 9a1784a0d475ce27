//! Attacks that are not about one protocol's state (those are in `tcp_attacks`, `fragments`,
//! `icmp_errors` and `errors_of_the_box`): spoofed addresses, scans, floods of one mapping, late
//! packets to endpoints that were lent again, payloads made to look like commands.

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Body, ip};

const HOST: (&str, u16) = ("100.64.3.9", 4000);

#[test]
fn packets_to_pool_addresses_that_nobody_uses_are_swallowed_and_never_sent_back() {
    let mut desk = Desk::new(&plain());
    for last in 0..16u32 {
        for port in [1024, 2000, 65_535, 80] {
            let to = (ip("203.0.113.0") + last, port);
            for packet in [udp((SERVER, 53), to), tcp((SERVER, 80), to, ACK)] {
                let sent = desk.offer(EXTERNAL, &packet);
                assert_eq!(sent, [], "a loop with the router outside begins like this");
            }
        }
    }
    let drops = desk.drops();
    assert_eq!(drops[&NoMapping] + drops[&PortNotLent], 128);
}

#[test]
fn addresses_that_cannot_come_from_there_are_dropped_on_either_side() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp(HOST, server(53)));
    // From outside: a subscriber's address, shared space, the pool's, the box's own.
    for source in ["100.64.3.9", "100.127.0.1", "203.0.113.5", "192.0.2.2", "10.255.0.2"] {
        desk.refused(EXTERNAL, &udp((source, 53), outside), SourceSpoofed);
    }
    // From inside: the Internet's, the pool's, the box's own, the gateway's.
    for source in ["198.51.100.9", "203.0.113.5", "192.0.2.2", "192.0.2.1", "10.255.0.1"] {
        let sent = desk.offer(INTERNAL, &udp((source, 99), server(53)));
        assert_eq!(sent, [], "{source}");
    }
    assert_eq!(desk.drops()[&SourceNotSubscriber], 5);
    // Nobody talks to itself (LAND), and nothing from nowhere.
    desk.refused(EXTERNAL, &udp((SERVER, 53), server(53)), SourceMartian);
    desk.refused(INTERNAL, &udp(HOST, (ip(HOST.0), 4000)), SourceMartian);
    desk.refused(EXTERNAL, &udp(("127.0.0.1", 53), outside), SourceMartian);
    assert_eq!(desk.mappings(), 1);
}

#[test]
fn an_internal_destination_from_outside_is_dropped_even_if_a_session_would_match() {
    let mut desk = Desk::new(&plain());
    desk.goes_out(&udp(HOST, server(53)));
    let to = (ip(HOST.0), HOST.1);
    desk.refused(EXTERNAL, &udp((SERVER, 53), to), DestinationUnknown);
    desk.refused(EXTERNAL, &tcp((SERVER, 53), to, SYN), DestinationUnknown);
}

#[test]
fn payloads_that_look_like_commands_pass_as_they_are_and_open_nothing() {
    let lines: [&[u8]; 5] = [
        b"PORT 100,64,3,9,15,160\r\n",
        b"227 Entering Passive Mode (100,64,3,9,15,160)\r\n",
        b"REGISTER sip:a SIP/2.0\r\nContact: <sip:x@100.64.3.9:4000>\r\n\r\n",
        b"PRIVMSG x :\x01DCC CHAT chat 1681916681 4000\x01\r\n",
        b"SETUP rtsp://a RTSP/1.0\r\nTransport: RTP/AVP;client_port=4000-4001\r\n\r\n",
    ];
    let mut desk = Desk::new(&plain());
    for (n, line) in lines.iter().enumerate() {
        for destination in [21, 5060, 1720, 6667, 554, 1723] {
            let host = (HOST.0, 5000 + n as u16);
            let mut packet = udp(host, server(destination));
            packet.payload = line.to_vec();
            // The desk compares every byte of what comes out.
            desk.goes_out(&packet);
            let mut packet = tcp(host, server(destination), SYN);
            packet.payload = line.to_vec();
            desk.goes_out(&packet);
        }
    }
    assert_eq!(desk.mappings(), 10, "one for each host port and protocol, and no pinhole");
}

#[test]
fn a_mapping_hit_by_very_many_senders_has_bounded_sessions_and_serves_its_subscriber() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&tcp(HOST, server(80), SYN));
    let shown = desk.goes_out(&udp(HOST, server(53)));
    for n in 0..10_000u32 {
        let source = std::net::Ipv4Addr::from(ip("9.0.0.1") + n).to_string();
        let frame = desk.arriving(EXTERNAL, &tcp((&source, 999), outside, SYN));
        desk.lab.arrive(0, EXTERNAL, &frame);
        let frame = desk.arriving(EXTERNAL, &udp((&source, 999), shown));
        assert_eq!(desk.lab.arrive(0, EXTERNAL, &frame).len(), 1);
    }
    let sessions = desk.lab.sum(|c| c.sessions.value());
    assert_eq!(sessions, 256, "its own and 255 of strangers; none for UDP");
    assert_eq!(desk.drops(), [(LimitMappingInboundSessions, 10_000 - 255)].into());
    assert_eq!(desk.lab.sum(|c| c.originated.value()), 0, "strangers are told nothing");
    for port in 1..200 {
        assert_eq!(desk.goes_out(&tcp(HOST, server(port), SYN)), outside);
    }
}

#[test]
fn a_late_packet_to_an_endpoint_never_reaches_its_next_owner_within_120_seconds_6888_req_8() {
    let mut desk = Desk::new(&one_address(1, 1));
    let outside = desk.goes_out(&udp(HOST, server(5000)));
    desk.lab.advance(301_000);
    // The port rests: whatever the same host opens next is elsewhere.
    for n in 0..63 {
        let other = desk.goes_out(&udp((HOST.0, 5000 + n), server(5000)));
        assert_ne!(other, outside);
    }
    desk.refused(INTERNAL, &udp((HOST.0, 6000), server(5000)), SubscriberPorts);
    desk.refused(EXTERNAL, &udp((SERVER, 5000), outside), NoMapping);
    desk.lab.advance(121_000);
    assert_eq!(desk.goes_out(&udp((HOST.0, 6000), server(5000))), outside);
}

#[test]
fn a_scan_of_every_port_makes_no_state_and_gets_no_answer() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp(HOST, server(53)));
    let before = desk.lab.sum(|c| c.originated.value());
    for port in 1..=u16::MAX {
        let packet = udp(("9.9.9.9", 31_337), (outside.0, port));
        let frame = desk.arriving(EXTERNAL, &packet);
        let sent = desk.lab.arrive(0, EXTERNAL, &frame);
        assert_eq!(sent.len(), usize::from(port == outside.1));
    }
    assert_eq!(desk.lab.sum(|c| c.originated.value()), before);
    assert_eq!(desk.mappings(), 1);
    assert_eq!(desk.lab.all_drops(), 65_534);
}

#[test]
fn flows_chosen_to_collide_without_the_key_do_not() {
    // An attacker who knows the program but not the key picks 4,000 flows that differ in few
    // bits; all are served, from tables that hold hardly more.
    let mut desk = Desk::new(&config(
        "{ addresses: [203.0.113.0], ports: 1024-5119, allocation: { block-size: 4096 } }",
        "system: { max-mappings: 4_096 }\n",
    ));
    for n in 0..4_000u32 {
        let host = std::net::Ipv4Addr::from(ip("100.64.0.0") | 1);
        let port = (n << 4 | n >> 8) as u16;
        if port == 0 {
            continue;
        }
        desk.goes_out(&udp((&host.to_string(), port), server(53)));
    }
    assert_eq!(desk.lab.all_drops(), 0);
}

#[test]
fn an_error_about_an_error_and_one_whose_outside_and_inside_differ_are_dropped() {
    let mut desk = Desk::new(&plain());
    let sent = udp(HOST, server(5000));
    let outside = desk.goes_out(&sent);
    let mut about = sent.clone();
    about.set_source(outside);
    let error = |about: &crate::wire::Packet, to: u32| {
        let about = Box::new(about.clone());
        let body = Body::Error { kind: 3, code: 3, rest: 0, about, kept: 8 };
        let (source, payload) = (ip("9.9.9.9"), vec![]);
        crate::wire::Packet { source, destination: to, body, payload, ..sent.clone() }
    };
    let good = error(&about, outside.0);
    // As if the host had sent an error, and somebody complains about that.
    let mut sent_error = error(&about, ip(SERVER));
    sent_error.source = outside.0;
    desk.refused(EXTERNAL, &error(&sent_error, outside.0), IcmpQuote);
    desk.refused(EXTERNAL, &error(&about, outside.0 ^ 1), IcmpQuote);
    desk.comes_in(&good, HOST);
}

#[test]
fn what_is_in_a_tunnel_to_the_box_or_its_pool_stays_in_it() {
    // IP in IP, GRE, and ESP to the box's own addresses and to one of the pool; inside, a packet that
    // would pass by itself.
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp(HOST, server(53)));
    let within = [udp((SERVER, 53), outside), udp(HOST, server(53))];
    for protocol in [4, 47, 50] {
        for inner in &within {
            let mut tunnel = udp((SERVER, 0), (0, 0));
            tunnel.body = Body::Bare { protocol };
            tunnel.payload = match protocol {
                47 => [&[0, 0, 8, 0][..], &inner.bytes()].concat(),
                _ => inner.bytes(),
            };
            tunnel.destination = ip("192.0.2.2");
            desk.refused(EXTERNAL, &tunnel, ToUs);
            tunnel.destination = outside.0;
            desk.refused(EXTERNAL, &tunnel, ProtocolUnsupported);
            tunnel.source = ip(HOST.0);
            desk.refused(INTERNAL, &tunnel, ProtocolUnsupported);
            tunnel.destination = ip("10.255.0.2");
            desk.refused(INTERNAL, &tunnel, ToUs);
        }
    }
    assert_eq!(desk.mappings(), 1);
}
