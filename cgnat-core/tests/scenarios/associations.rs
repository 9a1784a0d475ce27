//! Protocols without ports: carried by their addresses alone, for one subscriber per external
//! address, remote address and protocol (decision 15; RFC 6888 REQ-2, REQ-7, REQ-11).

use cgnat_core::endpoint::IpProtocol;
use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Body, DCCP, ESP, GRE, Packet, Protocol, SCTP, UDP_LITE, ip};

const HOST: &str = "100.64.3.9";
const OTHER: &str = "198.51.100.8";
const ROUTER: &str = "198.51.100.99";

/// `nat44` that carries everything, and more sections.
fn carrying(pool: &str, more: &str) -> String {
    config(pool, &format!("nat44: {{ other-protocols: {{ default: carry }} }}\n{more}"))
}

fn everything() -> String {
    carrying("{ addresses: [203.0.113.0/28] }", "")
}

/// All subscribers share one address.
fn shared() -> String {
    carrying("{ addresses: [203.0.113.0], allocation: { block-size: 64 } }", "")
}

fn bare(protocol: Protocol, from: &str, to: &str) -> Packet {
    let mut packet = udp((from, 1), (ip(to), 1));
    packet.body = Body::Bare { protocol };
    packet
}

/// The same packet the other way, to an external address.
fn answer(packet: &Packet, external: u32) -> Packet {
    let mut answer = packet.clone();
    (answer.source, answer.destination) = (packet.destination, external);
    answer
}

/// What the world sees of a packet.
fn seen(packet: &Packet, external: u32) -> Packet {
    let mut packet = packet.clone();
    packet.source = external;
    packet.ttl -= 1;
    packet
}

impl Desk {
    /// Goes out under some external address, which is returned.
    fn carried(&mut self, packet: &Packet) -> u32 {
        let sent = self.offer(INTERNAL, packet);
        assert_eq!(sent.len(), 1, "{packet:?}: drops {:?}", self.drops());
        let bytes = &sent[0].1;
        let external = u32::from_be_bytes([bytes[26], bytes[27], bytes[28], bytes[29]]);
        assert_eq!(sent, [self.leaving(EXTERNAL, &seen(packet, external))]);
        external
    }

    fn associations(&self) -> u64 {
        self.lab.sum(|c| c.associations.value())
    }

    /// After all timers: nothing is left.
    fn forgets_everything(&mut self) {
        for _ in 0..3 {
            self.lab.advance(3_600_000);
        }
        let left = |c: &cgnat_core::control::counters::WorkerCounters| {
            c.associations.value() + c.subscribers.value() + c.blocks_in_use.value()
        };
        assert_eq!(self.lab.sum(left), 0);
        self.lab.audit();
    }
}

#[test]
fn what_is_not_carried_is_dropped_under_its_reason_either_way_and_makes_nothing() {
    let not_gre = "nat44: { other-protocols: { default: carry, gre: drop } }\n";
    for more in ["", not_gre] {
        let mut desk = Desk::new(&config("{ addresses: [203.0.113.0/28] }", more));
        desk.goes_out(&udp((HOST, 4000), server(53)));
        let out = bare(GRE, HOST, SERVER);
        desk.refused(INTERNAL, &out, ProtocolUnsupported);
        desk.refused(EXTERNAL, &answer(&out, ip("203.0.113.3")), ProtocolUnsupported);
        // AH cannot pass a NAT.
        desk.refused(INTERNAL, &bare(51, HOST, SERVER), ProtocolUnsupported);
        for piece in out.fragments(&[36, out.len()]) {
            assert_eq!(desk.offer_bytes(INTERNAL, &piece), []);
        }
        assert_eq!(desk.associations(), 0);
    }
}

#[test]
fn every_protocol_passes_both_ways_by_the_paired_address_and_changes_nothing_else_6888_req_2() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&everything(), workers, 3);
        // ESP needs IKE.
        let (paired, _) = ike(&mut desk, HOST, SERVER);
        for protocol in 0..=255 {
            if matches!(protocol, 1 | 6 | 17 | 51) {
                continue;
            }
            for at in 0..usize::from(workers) {
                desk.at = at;
                let out = bare(protocol, HOST, SERVER);
                assert_eq!(desk.carried(&out), paired);
                desk.comes_in(&answer(&out, paired), (HOST, 0));
            }
        }
        assert_eq!(desk.associations(), 252);
        desk.forgets_everything();
    }
}

#[test]
fn checksums_that_cover_addresses_are_kept_right_whatever_they_were() {
    let mut desk = Desk::new(&everything());
    for protocol in [UDP_LITE, DCCP] {
        for n in 0..70_000u32 {
            let mut out = bare(protocol, HOST, SERVER);
            out.payload = n.to_be_bytes().to_vec();
            let external = desk.carried(&out);
            desk.comes_in(&answer(&out, external), (HOST, 0));
        }
        let mut short = bare(protocol, HOST, SERVER).bytes();
        short.truncate(27);
        short[3] = 27;
        short[10..12].fill(0);
        let sum = crate::wire::checksum(&short[..20]);
        short[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(desk.offer_bytes(INTERNAL, &short), []);
    }
    assert_eq!(desk.lab.drops(TransportTruncated), 2);
}

#[test]
fn only_whom_the_subscriber_has_sent_to_reaches_it_and_inbound_creates_nothing() {
    let mut desk = Desk::with(&everything(), 4, 3);
    let out = bare(GRE, HOST, SERVER);
    desk.refused(EXTERNAL, &answer(&out, ip("203.0.113.3")), NoAssociation);
    let external = desk.carried(&out);
    desk.refused(EXTERNAL, &answer(&bare(GRE, HOST, OTHER), external), NoAssociation);
    desk.refused(EXTERNAL, &answer(&bare(SCTP, HOST, SERVER), external), NoAssociation);
    let elsewhere = answer(&out, ip("203.0.113.77"));
    desk.refused(EXTERNAL, &elsewhere, DestinationUnknown);
    assert_eq!(desk.associations(), 1);
}

#[test]
fn outbound_packets_prolong_an_association_and_inbound_ones_do_not() {
    let more = "timeouts: { other: 5m }\nlab: { allow-short-timers: true }\n";
    for refresh in [false, true] {
        let nat44 = format!(
            "nat44: {{ inbound-refresh: {refresh}, other-protocols: {{ gre: carry }} }}\n{more}"
        );
        let mut desk = Desk::with(&config("{ addresses: [203.0.113.0/28] }", &nat44), 4, 3);
        let out = bare(GRE, HOST, SERVER);
        let external = desk.carried(&out);
        for _ in 0..3 {
            desk.lab.advance(290_000);
            assert_eq!(desk.carried(&out), external);
        }
        desk.lab.advance(299_000);
        desk.comes_in(&answer(&out, external), (HOST, 0));
        // Whether housekeeping has been there or not.
        desk.lab.advance_silently(2_000);
        desk.refused(EXTERNAL, &answer(&out, external), NoAssociation);
        desk.lab.advance(1_000);
        assert_eq!(desk.associations(), 0);
        // Then the block of its pairing.
        desk.lab.advance(1_000);
        assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 0);
    }
}

#[test]
fn an_association_keeps_the_pairing_and_the_last_block_6888_req_2() {
    let mut desk = Desk::with(&everything(), 4, 3);
    let (paired, _) = desk.goes_out(&udp((HOST, 4000), server(53)));
    let out = bare(GRE, HOST, SERVER);
    for _ in 0..20 {
        // The UDP mapping and the rest of its port are long over.
        assert_eq!(desk.carried(&out), paired);
        desk.lab.advance(500_000);
    }
    assert_eq!(desk.mappings(), 0);
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 1);
    let (again, _) = desk.goes_out(&udp((HOST, 4001), server(53)));
    assert_eq!(again, paired);
    desk.forgets_everything();
}

/// Two subscribers of one external address, of different workers if there are several.
fn two(workers: u16) -> (Desk, [String; 2]) {
    let hosts = [subscriber_of(0, workers, 0), subscriber_of(workers - 1, workers, 1)];
    (Desk::with(&shared(), workers, 3), hosts)
}

#[test]
fn a_second_subscriber_of_a_tuple_is_refused_told_and_remembered_and_costs_nothing_6888_req_11() {
    for workers in [1, 4] {
        let (mut desk, [first, second]) = two(workers);
        let external = desk.carried(&bare(GRE, &first, SERVER));
        let conflict = bare(GRE, &second, SERVER);
        let told = desk.offer(INTERNAL, &conflict);
        assert_eq!(told.len(), 1, "{:?}", desk.drops());
        // Host unreachable, with the packet as it was sent (RFC 792).
        let (port, error) = &told[0];
        assert_eq!((*port, error[34], error[35]), (INTERNAL, 3, 1));
        assert_eq!(error[42..], conflict.bytes());
        assert_eq!(desk.lab.drops(AssociationConflict), 1);
        let remembered = &desk.lab.refusals().subscribers[&second.parse().unwrap()];
        let told = remembered.iter().map(|r| (r.reason, r.protocol, r.count));
        assert_eq!(told.collect::<Vec<_>>(), [(AssociationConflict, IpProtocol::GRE, 1)]);
        // What exists goes on, and other tuples are free.
        desk.comes_in(&answer(&conflict, external), (&first, 0));
        assert_eq!(desk.carried(&bare(GRE, &second, OTHER)), external);
        assert_eq!(desk.carried(&bare(SCTP, &second, SERVER)), external);
        assert_eq!(desk.associations(), 3);
        // When the first has ended the second may have it.
        desk.lab.advance(601_000);
        assert_eq!(desk.carried(&conflict), external);
        desk.comes_in(&answer(&conflict, external), (&second, 0));
        desk.refused(INTERNAL, &bare(GRE, &first, SERVER), AssociationConflict);
        desk.forgets_everything();
    }
}

#[test]
fn a_subscriber_that_is_refused_everything_holds_no_block() {
    let (mut desk, [first, second]) = two(4);
    desk.carried(&bare(GRE, &first, SERVER));
    for _ in 0..10 {
        desk.refused(INTERNAL, &bare(GRE, &second, SERVER), AssociationConflict);
        desk.lab.advance(1_000);
    }
    assert_eq!(desk.lab.sum(|c| c.blocks_in_use.value()), 1);
    assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 1);
}

#[test]
fn after_a_new_pairing_nobody_gets_what_was_for_another() {
    let pool = "{ addresses: [203.0.113.0, 203.0.113.1], allocation: { block-size: 64 } }";
    for seed in 0..20 {
        let mut desk = Desk::with(&carrying(pool, ""), 4, seed);
        let out = bare(GRE, HOST, SERVER);
        let before = desk.carried(&out);
        desk.lab.advance(601_000);
        desk.lab.advance(1_000);
        let after = desk.carried(&out);
        desk.comes_in(&answer(&out, after), (HOST, 0));
        if after != before {
            desk.refused(EXTERNAL, &answer(&out, before), NoAssociation);
        }
        assert_eq!(desk.associations(), 1);
        desk.forgets_everything();
    }
}

#[test]
fn associations_are_sessions_of_their_subscriber_6888_req_5() {
    let limited = everything().replace("pool: main }", "pool: main, limits: { sessions: 3 } }");
    let mut desk = Desk::with(&limited, 4, 3);
    desk.goes_out(&udp((HOST, 4000), server(53)));
    desk.carried(&bare(GRE, HOST, SERVER));
    desk.carried(&bare(GRE, HOST, OTHER));
    desk.refused(INTERNAL, &bare(SCTP, HOST, OTHER), LimitSessions);
    desk.refused(INTERNAL, &udp((HOST, 4001), server(53)), LimitSessions);
    desk.carried(&bare(GRE, HOST, SERVER));
    // What the keeper refuses is no session.
    let one = shared().replace("pool: main }", "pool: main, limits: { sessions: 1 } }");
    let mut desk = Desk::with(&one, 4, 3);
    desk.carried(&bare(GRE, HOST, SERVER));
    let second = subscriber_of(2, 4, 3);
    for _ in 0..3 {
        desk.refused(INTERNAL, &bare(GRE, &second, SERVER), AssociationConflict);
    }
    desk.carried(&bare(GRE, &second, OTHER));
    desk.refused(INTERNAL, &bare(GRE, &second, ROUTER), LimitSessions);
}

#[test]
fn a_full_table_refuses_and_takes_nothing_6888_req_11() {
    let small = carrying("{ addresses: [203.0.113.0/28] }", "system: { max-mappings: 1000 }\n");
    for workers in [1, 2] {
        let mut desk = Desk::with(&small, workers, 3);
        let remote = |n: u32| std::net::Ipv4Addr::from(ip("198.51.100.0") + n).to_string();
        let mut made = 0;
        let mut refused = 0;
        for n in 0..400 {
            let before = desk.lab.drops(AssociationTableFull);
            let sent = desk.offer(INTERNAL, &bare(GRE, HOST, &remote(n)));
            match desk.lab.drops(AssociationTableFull) - before {
                0 => made += u64::from(sent.len() == 1),
                _ => refused += 1,
            }
            desk.lab.advance(100);
        }
        // Both records of each are of one table: that of the worker of subscriber and address.
        assert!(made >= 50 / u64::from(workers) && refused > 100, "{made} made, {refused} refused");
        assert_eq!(desk.associations(), made);
        assert_eq!(
            desk.carried(&bare(GRE, HOST, &remote(0))),
            desk.carried(&bare(GRE, HOST, &remote(1)))
        );
        desk.forgets_everything();
        desk.carried(&bare(GRE, HOST, &remote(399)));
    }
}

#[test]
fn fragments_pass_in_any_order_both_ways_and_keep_their_identification_4787_req_14() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&everything(), workers, 3);
        for (n, protocol) in [GRE, UDP_LITE, DCCP, SCTP].into_iter().enumerate() {
            let mut out = bare(protocol, HOST, SERVER);
            out.df = false;
            out.identification = 500 + n as u16;
            out.payload = vec![7; 100];
            let cuts = [36, 60, out.len()];
            let external = desk.carried(&out);
            let pairs = [
                (INTERNAL, EXTERNAL, out.clone(), seen(&out, external)),
                (EXTERNAL, INTERNAL, answer(&out, external), {
                    let mut inside = answer(&out, external);
                    inside.destination = ip(HOST);
                    inside.ttl -= 1;
                    inside
                }),
            ];
            for (from, to, arrives, leaves) in pairs {
                let (arriving, leaving) = (arrives.fragments(&cuts), leaves.fragments(&cuts));
                for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
                    for (step, n) in order.into_iter().enumerate() {
                        desk.at = step % usize::from(workers);
                        let sent = desk.offer_bytes(from, &arriving[n]);
                        assert_eq!(
                            sent,
                            [desk.leaving_bytes(to, &leaving[n])],
                            "{:?}",
                            desk.drops()
                        );
                    }
                }
            }
        }
        // Impossible ones are dropped as of any protocol.
        let mut out = bare(GRE, HOST, SERVER);
        out.df = false;
        out.payload = vec![7; 100];
        let odd = out.fragments(&[39, out.len()]);
        assert_eq!(desk.offer_bytes(INTERNAL, &odd[0]), []);
        assert_eq!(desk.lab.drops(FragmentLength), 1);
        assert_eq!(desk.lab.sum(|c| c.fragmented_datagrams.value()), 0);
    }
}

fn error(from: &str, about: &Packet, kept: usize) -> Packet {
    let body = Body::Error { kind: 3, code: 2, rest: 0, about: Box::new(about.clone()), kept };
    let mut error = udp((from, 1), (about.source, 1));
    (error.body, error.payload) = (body, Vec::new());
    error
}

#[test]
fn errors_about_them_are_translated_both_ways_with_the_packet_inside_5508_req_4_req_5() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&everything(), workers, 3);
        for protocol in [GRE, UDP_LITE, DCCP, SCTP] {
            let out = bare(protocol, HOST, SERVER);
            let external = desk.carried(&out);
            for kept in [8, 18, 200] {
                desk.comes_in(&error(ROUTER, &seen(&out, external), kept), (HOST, 0));
                let mut inside = answer(&out, external);
                inside.destination = ip(HOST);
                inside.ttl -= 1;
                let mut expected = error(HOST, &inside, kept);
                let sent = desk.offer(INTERNAL, &expected);
                expected.set_source((external, 0));
                expected.ttl -= 1;
                assert_eq!(sent, [desk.leaving(EXTERNAL, &expected)], "{:?}", desk.drops());
            }
            // Without an association nobody is told.
            let other = bare(protocol, HOST, OTHER);
            desk.refused(EXTERNAL, &error(ROUTER, &seen(&other, external), 8), IcmpNoMapping);
            desk.refused(INTERNAL, &error(HOST, &answer(&other, ip(HOST)), 8), IcmpNoMapping);
        }
        // They keep nothing alive.
        let out = bare(GRE, HOST, SERVER);
        let external = desk.carried(&out);
        desk.lab.advance(599_000);
        desk.comes_in(&error(ROUTER, &seen(&out, external), 8), (HOST, 0));
        desk.lab.advance(2_000);
        desk.refused(EXTERNAL, &error(ROUTER, &seen(&out, external), 8), IcmpNoMapping);
        assert_eq!(desk.associations(), 0);
    }
}

#[test]
fn two_subscribers_reach_each_other_once_both_have_sent_4787_req_9() {
    let pool = "{ addresses: [203.0.113.0, 203.0.113.1], address-selection: round-robin }";
    for workers in [1, 4] {
        let mut desk = Desk::with(&carrying(pool, ""), workers, 3);
        let hosts = [subscriber_of(0, workers, 0), subscriber_of(workers - 1, workers, 1)];
        let outside = hosts.clone().map(|host| desk.carried(&bare(GRE, &host, SERVER)));
        assert_ne!(outside[0], outside[1]);
        let to = outside.map(|a| std::net::Ipv4Addr::from(a).to_string());
        // The other one has not sent yet.
        desk.refused(INTERNAL, &bare(GRE, &hosts[0], &to[1]), NoAssociation);
        for (from, other) in [(1, 0), (0, 1), (1, 0)] {
            let out = bare(GRE, &hosts[from], &to[other]);
            let mut expected = seen(&out, outside[from]);
            expected.destination = ip(&hosts[other]);
            let sent = desk.offer(INTERNAL, &out);
            assert_eq!(sent, [desk.leaving(INTERNAL, &expected)], "{:?}", desk.drops());
            // The receiver tells that it does not want it: the sender sees its own packet.
            let mut told = error(&hosts[other], &expected, 20);
            let sent = desk.offer(INTERNAL, &told);
            told.set_source((outside[other], 0));
            told.set_destination((ip(&hosts[from]), 0));
            told.ttl -= 1;
            assert_eq!(sent, [desk.leaving(INTERNAL, &told)], "{:?}", desk.drops());
        }
        desk.forgets_everything();
    }
}

#[test]
fn without_hairpinning_it_is_refused_by_administration() {
    let nat44 = "nat44: { hairpinning: false, other-protocols: { gre: carry } }\n";
    let mut desk = Desk::new(&config("{ addresses: [203.0.113.0/28] }", nat44));
    desk.refused(INTERNAL, &bare(GRE, HOST, "203.0.113.1"), HairpinDisabled);
}

#[test]
fn time_to_live_and_mtu_count_as_for_any_packet() {
    let yaml = everything().replace("side: external\n", "side: external\n    mtu: 600\n");
    let yaml = yaml.replace("side: internal\n", "side: internal\n    mtu: 700\n");
    let mut desk = Desk::with(&yaml, 4, 3);
    let mut out = bare(GRE, HOST, SERVER);
    out.ttl = 1;
    desk.refused(INTERNAL, &out, TtlExpired);
    assert_eq!(desk.associations(), 0);
    out.ttl = 64;
    let external = desk.carried(&out);
    let mut back = answer(&out, external);
    back.ttl = 1;
    desk.refused(EXTERNAL, &back, TtlExpired);
    out.payload = vec![1; 650];
    desk.refused(INTERNAL, &out, TooBig);
    back = answer(&out, external);
    back.payload = vec![1; 750];
    desk.refused(EXTERNAL, &back, TooBig);
    // Without DF they are cut.
    out.df = false;
    let sent = desk.offer(INTERNAL, &out);
    let pieces = seen(&out, external).pieces(600);
    let expected: Frames = pieces.iter().map(|piece| desk.leaving_bytes(EXTERNAL, piece)).collect();
    assert_eq!(sent, expected);
}

/// Sends IKE from port 500; returns the external endpoint.
fn ike(desk: &mut Desk, host: &str, gateway: &str) -> (u32, u16) {
    desk.goes_out(&udp((host, 500), (ip(gateway), 500)))
}

#[test]
fn esp_needs_ike_keeps_it_alive_and_ends_with_it() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&everything(), workers, 3);
        let esp = bare(ESP, HOST, SERVER);
        desk.refused(INTERNAL, &esp, EspWithoutIke);
        assert_eq!(desk.associations(), 0);
        let (paired, port) = ike(&mut desk, HOST, SERVER);
        // Ten minutes are more than UDP has.
        for _ in 0..4 {
            assert_eq!(desk.carried(&esp), paired);
            desk.comes_in(&answer(&esp, paired), (HOST, 0));
            desk.lab.advance(590_000);
        }
        // The gateway begins to rekey.
        desk.comes_in(&udp((SERVER, 500), (paired, port)), (HOST, 500));
        desk.lab.advance(20_000);
        desk.refused(EXTERNAL, &udp((SERVER, 500), (paired, port)), NoMapping);
        desk.refused(EXTERNAL, &answer(&esp, paired), NoAssociation);
        desk.refused(INTERNAL, &esp, EspWithoutIke);
        desk.forgets_everything();
    }
}

#[test]
fn where_filtering_knows_the_gateway_ike_with_another_is_not_enough() {
    for kind in ["address-dependent", "address-and-port-dependent"] {
        let nat44 = format!("nat44: {{ filtering: {kind}, other-protocols: {{ esp: carry }} }}\n");
        let mut desk = Desk::with(&config("{ addresses: [203.0.113.0/28] }", &nat44), 4, 3);
        ike(&mut desk, HOST, OTHER);
        desk.refused(INTERNAL, &bare(ESP, HOST, SERVER), EspWithoutIke);
        let (paired, port) = ike(&mut desk, HOST, SERVER);
        for _ in 0..3 {
            assert_eq!(desk.carried(&bare(ESP, HOST, SERVER)), paired);
            desk.lab.advance(590_000);
        }
        desk.comes_in(&udp((SERVER, 500), (paired, port)), (HOST, 500));
        // That with the other gateway was not kept alive by this.
        desk.refused(INTERNAL, &bare(ESP, HOST, OTHER), EspWithoutIke);
    }
}

#[test]
fn a_second_ipsec_client_of_a_gateway_is_refused_under_a_reason_that_names_ike() {
    let (mut desk, hosts) = two(4);
    for host in &hosts {
        ike(&mut desk, host, SERVER);
    }
    let external = desk.carried(&bare(ESP, &hosts[0], SERVER));
    let second = bare(ESP, &hosts[1], SERVER);
    desk.refused(INTERNAL, &second, EspConflict);
    assert!(EspConflict.sentence().contains("IKE"));
    desk.comes_in(&answer(&second, external), (&hosts[0], 0));
    // ESP in UDP does not mind.
    desk.goes_out(&udp((&hosts[1], 4500), (ip(SERVER), 4500)));
}

#[test]
fn one_to_one_mappings_carry_every_protocol_whatever_the_policy_3022_2_1() {
    let statics = "static: [{ internal: 100.64.9.9, external: 203.0.113.100 }]\n";
    let mut desk = Desk::with(&config("{ addresses: [203.0.113.0/28] }", statics), 4, 3);
    let outside = ip("203.0.113.100");
    for protocol in [0, 2, 4, 41, GRE, ESP, 89, SCTP, UDP_LITE, DCCP, 255] {
        for at in 0..4 {
            desk.at = at;
            let out = bare(protocol, "100.64.9.9", SERVER);
            assert_eq!(desk.carried(&out), outside);
            desk.comes_in(&answer(&out, outside), ("100.64.9.9", 0));
            desk.comes_in(&error(ROUTER, &seen(&out, outside), 20), ("100.64.9.9", 0));
        }
        let mut out = bare(protocol, "100.64.9.9", SERVER);
        out.df = false;
        let (arriving, leaving) = (out.fragments(&[28, out.len()]), seen(&out, outside));
        let leaving = leaving.fragments(&[28, out.len()]);
        for n in [1, 0] {
            let sent = desk.offer_bytes(INTERNAL, &arriving[n]);
            assert_eq!(sent, [desk.leaving_bytes(EXTERNAL, &leaving[n])]);
        }
    }
    desk.refused(INTERNAL, &bare(51, "100.64.9.9", SERVER), ProtocolUnsupported);
    desk.refused(EXTERNAL, &answer(&bare(51, HOST, SERVER), outside), ProtocolUnsupported);
    assert_eq!((desk.associations(), desk.mappings()), (0, 0));
}

#[test]
fn a_subscriber_and_a_static_host_reach_each_other() {
    let statics = "static: [{ internal: 100.64.9.9, external: 203.0.113.100 }]\n";
    let yaml = carrying("{ addresses: [203.0.113.0/28] }", statics);
    for workers in [1, 4] {
        let mut desk = Desk::with(&yaml, workers, 3);
        let paired = desk.carried(&bare(GRE, HOST, SERVER));
        let out = bare(GRE, HOST, "203.0.113.100");
        let mut expected = seen(&out, paired);
        expected.destination = ip("100.64.9.9");
        assert_eq!(desk.offer(INTERNAL, &out), [desk.leaving(INTERNAL, &expected)]);
        let back = answer(&bare(GRE, HOST, "100.64.9.9"), paired);
        let mut expected = seen(&back, ip("203.0.113.100"));
        expected.destination = ip(HOST);
        assert_eq!(desk.offer(INTERNAL, &back), [desk.leaving(INTERNAL, &expected)]);
    }
}

#[test]
fn a_stranger_is_no_subscriber() {
    let mut desk = Desk::with(&everything(), 4, 3);
    desk.refused(INTERNAL, &bare(GRE, "172.16.0.1", SERVER), SourceNotSubscriber);
    assert_eq!(desk.associations(), 0);
}
