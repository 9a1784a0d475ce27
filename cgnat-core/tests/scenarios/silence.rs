//! When the box says nothing (RFC 1812 section 4.3.2.7, RFC 5508 REQ-9), and how it speaks of
//! refusals as configured (RFC 5508 REQ-8, RFC 6888 REQ-11).

use crate::desk::*;
use crate::wire::{Body, Packet, checksum, ip, put};

const HOST: &str = "100.64.3.9";
const OWN: [&str; 2] = ["10.255.0.2", "192.0.2.2"];

/// Two blocks of 64 ports in all, one per subscriber, and a section of `nat44`.
fn scarce(nat44: &str) -> String {
    let pool = "{ addresses: [203.0.113.0], ports: 1024-1151, allocation: { block-size: 64, \
                max-blocks: 1 } }";
    config(pool, &format!("nat44: {{ {nat44} }}\n"))
}

/// The error from the own address of a port about a packet that arrived there.
fn told(desk: &Desk, port: usize, (kind, code): (u8, u8), about: &Packet) -> (usize, Vec<u8>) {
    let body = Body::Error { kind, code, rest: 0, about: Box::new(about.clone()), kept: 528 };
    let mut error = udp((OWN[port], 1), (about.source, 1));
    (error.identification, error.body, error.payload) = (0, body, Vec::new());
    desk.leaving(port, &error)
}

/// A box of which the host has taken all ports it may have, and others the rest.
fn exhausted(nat44: &str) -> Desk {
    let mut desk = Desk::new(&scarce(nat44));
    for port in 1..=64 {
        desk.goes_out(&udp((HOST, port), server(53)));
        desk.goes_out(&udp(("100.64.0.1", port), server(53)));
    }
    desk
}

fn said(desk: &Desk) -> u64 {
    desk.lab.sum(|c| c.errors_sent.value() + c.errors_withheld.value())
}

/// A packet that would cause an error either way: its time is over, or there is no port.
fn provoking(ttl: u8) -> Packet {
    let mut packet = udp((HOST, 65), server(53));
    packet.ttl = ttl;
    packet
}

/// Sends what must not be answered, on a box that has ports and on one that has none.
fn nobody_answers(frames: impl Fn(&Desk, u8) -> Vec<(usize, Vec<u8>)>) {
    for mut desk in [Desk::new(&plain()), exhausted("hairpinning: true")] {
        for ttl in [1, 64] {
            for (port, frame) in frames(&desk, ttl) {
                let sent = desk.lab.arrive(0, port, &frame);
                assert!(sent.iter().all(|(by, _)| *by != port), "{sent:02x?}");
            }
        }
        assert_eq!(said(&desk), 0, "{:?}", desk.drops());
    }
}

#[test]
fn provoking_packets_do_provoke() {
    let mut desk = exhausted("hairpinning: true");
    let (old, new) = (provoking(1), provoking(64));
    assert_eq!(desk.offer(INTERNAL, &old), [told(&desk, INTERNAL, (11, 0), &old)]);
    assert_eq!(desk.offer(INTERNAL, &new), [told(&desk, INTERNAL, (3, 1), &new)]);
}

#[test]
fn a_broadcast_or_multicast_destination_causes_no_error_1812_s4_3_2_7() {
    nobody_answers(|desk, ttl| {
        let to = ["255.255.255.255", "224.0.0.5", "10.255.0.3", "10.255.0.0", "192.0.2.3"];
        let mut packet = provoking(ttl);
        let mut arriving = |to: &&str| {
            packet.destination = ip(to);
            (INTERNAL, desk.arriving(INTERNAL, &packet))
        };
        to[..4].iter().map(&mut arriving).collect()
    });
}

#[test]
fn a_link_layer_broadcast_or_multicast_causes_no_error_1812_s4_3_2_7() {
    nobody_answers(|desk, ttl| {
        let to = [[0xff; 6], [1, 0, 0x5e, 0, 0, 5]];
        let frame = |to: [u8; 6]| {
            let mut frame = desk.arriving(INTERNAL, &provoking(ttl));
            frame[..6].copy_from_slice(&to);
            (INTERNAL, frame)
        };
        to.map(frame).to_vec()
    });
}

#[test]
fn an_invalid_source_causes_no_error_1812_s4_3_2_7() {
    nobody_answers(|desk, ttl| {
        let from = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.5",
            "240.0.0.1",
            "255.255.255.255",
            // No single host, ourselves, and an address of the pool.
            "10.255.0.3",
            "10.255.0.0",
            "10.255.0.2",
            "192.0.2.2",
            "203.0.113.0",
        ];
        let mut packet = provoking(ttl);
        let mut arriving = |from: &&str| {
            packet.source = ip(from);
            (INTERNAL, desk.arriving(INTERNAL, &packet))
        };
        from.iter().map(&mut arriving).collect()
    });
}

#[test]
fn a_later_fragment_causes_no_error_1812_s4_3_2_7() {
    nobody_answers(|desk, ttl| {
        let mut frame = desk.arriving(INTERNAL, &provoking(ttl));
        // The last fragment of a packet whose first one never comes.
        put(&mut frame, 14 + 6, 100);
        put(&mut frame, 14 + 10, 0);
        let sum = checksum(&frame[14..34]);
        put(&mut frame, 14 + 10, sum);
        vec![(INTERNAL, frame)]
    });
}

#[test]
fn an_error_causes_no_error_1812_s4_3_2_7() {
    nobody_answers(|desk, ttl| {
        let about = |from, to| {
            let body = Body::Error { kind: 3, code: 3, rest: 0, about: Box::new(from), kept: 8 };
            let mut error: Packet = to;
            (error.body, error.payload, error.ttl) = (body, Vec::new(), ttl);
            error
        };
        let answer = udp((SERVER, 53), (ip(HOST), 65));
        let out = about(answer, udp((HOST, 1), server(1)));
        let sent = udp(("203.0.113.0", 9), server(53));
        let inward = about(sent, udp((SERVER, 1), (ip("203.0.113.0"), 1)));
        // And an obsolete one that is not translated: source quench.
        let mut quench = desk.arriving(INTERNAL, &out);
        quench[34] = 4;
        vec![
            (INTERNAL, desk.arriving(INTERNAL, &out)),
            (EXTERNAL, desk.arriving(EXTERNAL, &inward)),
            (INTERNAL, quench),
        ]
    });
}

#[test]
fn a_packet_that_fails_header_validation_causes_no_error_1812_s4_3_2_7() {
    nobody_answers(|desk, ttl| {
        let mut damaged = desk.arriving(INTERNAL, &provoking(ttl));
        damaged[24] ^= 1;
        let mut options = provoking(ttl);
        options.options = vec![7, 9, 4, 0];
        vec![(INTERNAL, damaged), (INTERNAL, desk.arriving(INTERNAL, &options))]
    });
}

#[test]
fn a_refusal_is_told_as_configured_6888_req_11b() {
    for (nat44, told_as) in [
        ("on-refusal: icmp", Some((3, 1))),
        ("icmp-errors: { refusal: host-unreachable }", Some((3, 1))),
        ("icmp-errors: { refusal: admin-prohibited }", Some((3, 13))),
        ("on-refusal: silent", None),
        ("on-refusal: silent, icmp-errors: { refusal: admin-prohibited }", None),
    ] {
        let mut desk = exhausted(nat44);
        for refused in [
            provoking(64),
            tcp(("100.64.7.7", 1), server(80), SYN),
            echo(true, "100.64.7.8", ip(SERVER), 3),
        ] {
            let expected: Frames =
                told_as.iter().map(|kind| told(&desk, INTERNAL, *kind, &refused)).collect();
            assert_eq!(desk.offer(INTERNAL, &refused), expected, "{nat44}");
        }
        // Silence about refusals is not silence about time.
        let old = provoking(1);
        assert_eq!(desk.offer(INTERNAL, &old), [told(&desk, INTERNAL, (11, 0), &old)]);
        // 6888-REQ-11a and REQ-11d: nothing was forwarded, and nothing was taken.
        assert_eq!(desk.mappings(), 128);
    }
}

#[test]
fn what_administration_forbids_is_told_as_prohibited_5508_req_8() {
    for (nat44, is_told) in [("", true), (", on-refusal: silent", false)] {
        let mut desk = Desk::new(&scarce(&format!("hairpinning: false{nat44}")));
        for to in ["203.0.113.0", "100.64.0.1", "169.254.7.7"] {
            let refused = udp((HOST, 1), (ip(to), 1024));
            let expected: Frames =
                is_told.then(|| told(&desk, INTERNAL, (3, 13), &refused)).into_iter().collect();
            assert_eq!(desk.offer(INTERNAL, &refused), expected);
        }
        assert_eq!(desk.mappings(), 0);
    }
}

#[test]
fn errors_can_be_switched_off_towards_a_side_and_are_still_counted_5508_req_9() {
    for (off, spoken, silent) in
        [("to-internal: false", EXTERNAL, INTERNAL), ("to-external: false", INTERNAL, EXTERNAL)]
    {
        let mut desk = Desk::new(&scarce(&format!("icmp-errors: {{ {off} }}")));
        let outside = desk.goes_out(&udp((HOST, 1), server(53)));
        let mut both = [udp((HOST, 1), server(53)), udp((SERVER, 53), outside)];
        both[0].ttl = 1;
        both[1].ttl = 1;
        let expected = told(&desk, spoken, (11, 0), &both[spoken]);
        assert_eq!(desk.offer(spoken, &both[spoken]), [expected]);
        assert_eq!(desk.offer(silent, &both[silent]), []);
        let counted = |desk: &Desk| {
            (
                desk.lab.sum(|c| c.errors_sent.value()),
                desk.lab.sum(|c| c.errors_withheld.value()),
                desk.lab.drops(cgnat_core::verdict::DropReason::TtlExpired),
            )
        };
        assert_eq!(counted(&desk), (1, 1, 2));
    }
}

#[test]
fn the_rates_are_those_of_the_configuration_1812_s4_3_2_8() {
    let rates = "icmp-errors: { per-receiver: 3, in-all: 10 }";
    let mut desk = Desk::new(&scarce(rates));
    let mut storm = |port: usize, from: &str| {
        let mut packet = match port {
            INTERNAL => udp((from, 1), server(53)),
            _ => udp((from, 1), (ip("203.0.113.0"), 1024)),
        };
        packet.ttl = 1;
        (0..50).map(|_| desk.offer(port, &packet).len()).sum::<usize>()
    };
    assert_eq!(storm(EXTERNAL, "198.51.100.1"), 3);
    let from_many: usize = (2..99).map(|n| storm(EXTERNAL, &format!("198.51.100.{n}"))).sum();
    assert_eq!(from_many, 7);
    // A storm from outside takes nothing from those inside.
    assert_eq!(storm(INTERNAL, HOST), 3);
}

#[test]
fn an_error_has_the_class_of_service_of_its_cause_5508_s7_7() {
    let mut desk = Desk::new(&plain());
    for dscp in [0, 46, 63] {
        for ecn in 0..4 {
            let mut frame = desk.arriving(INTERNAL, &provoking(1));
            frame[15] = dscp << 2 | ecn;
            put(&mut frame, 24, 0);
            let sum = checksum(&frame[14..34]);
            put(&mut frame, 24, sum);
            let sent = desk.lab.arrive(0, INTERNAL, &frame);
            assert_eq!((sent[0].1[15], sent[0].1[34]), (dscp << 2, 11));
            assert_eq!(sent[0].1[42..], frame[14..]);
        }
    }
}

#[test]
fn a_hairpinned_flow_that_is_refused_behind_is_told_through_its_own_mapping_5508_req_7() {
    for workers in [1, 2] {
        let mut desk = Desk::with(&plain(), workers, 1);
        let owner = |n| subscriber_of(n % workers, workers, 0);
        let (one, two) = (owner(0), if workers == 1 { HOST.to_owned() } else { owner(1) });
        let there = desk.goes_out(&tcp((&two, 5000), server(80), SYN));
        // Strangers take all the sessions that they may open on that mapping.
        let mut strangers = 1000..5000;
        while !desk
            .offer(EXTERNAL, &tcp((SERVER, strangers.next().unwrap()), there, SYN))
            .is_empty()
        {}
        assert_eq!(desk.lab.sum(|c| c.errors_sent.value()), 0, "they are told nothing");
        let syn = tcp((&one, 4000), there, SYN);
        let sent = desk.offer(INTERNAL, &syn);
        assert_eq!(sent, [told(&desk, INTERNAL, (3, 1), &syn)], "{:?}", desk.drops());
        assert_eq!(desk.lab.sum(|c| c.errors_sent.value()), 1);
    }
}
