//! GRE of PPTP whose packets cross workers: fragments, errors, hairpins, other mappings
//! (RFC 2637 section 4.1, RFC 4787 REQ-14, RFC 5508 REQ-4, REQ-5).

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::pptp::*;
use crate::pptp_messages::*;
use crate::wire::{Body, GRE, ICMP, Packet, ip};

const ROUTER: &str = "198.51.100.99";
const ORDERS: [[usize; 3]; 4] = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]];

/// A datagram that has to be cut.
fn long(mut packet: Packet, identification: u16) -> Packet {
    packet.payload = (0..100).map(|n| (n * 13) as u8).collect();
    (packet.df, packet.identification) = (false, identification);
    packet
}

fn cuts(packet: &Packet) -> [usize; 3] {
    [36, 76, packet.len()]
}

/// In which order fragments that arrive so are sent on: none before the first.
fn sent_order(order: [usize; 3]) -> Vec<usize> {
    let first = order.iter().position(|n| *n == 0).unwrap();
    [&[0], &order[..first], &order[first + 1..]].concat()
}

/// Each piece arrives at another worker.
fn offer_pieces(desk: &mut Desk, port: usize, packet: &Packet, order: [usize; 3]) -> Frames {
    let pieces = packet.fragments(&cuts(packet));
    let mut sent = Frames::new();
    for n in order {
        desk.at = (desk.at + 1) % desk.lab.workers.len();
        sent.extend(desk.offer_bytes(port, &pieces[n]));
    }
    sent
}

/// `packet` in the order that its pieces leave in.
fn leaves(desk: &Desk, port: usize, packet: &Packet, order: [usize; 3]) -> Frames {
    let pieces = packet.fragments(&cuts(packet));
    sent_order(order).into_iter().map(|n| desk.leaving_bytes(port, &pieces[n])).collect()
}

#[test]
fn fragments_pass_in_any_order_both_ways_4787_req_14() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&shared(ALG), workers, 3);
        let hosts = [subscriber_of(0, workers, 0), subscriber_of(workers - 1, workers, 1)];
        let mut identification = 0;
        for (host, server) in hosts.iter().zip([0, 0x81]) {
            let talk = Talk::called(&mut desk, (host, 4000), SERVER, (0, server));
            for order in ORDERS {
                identification += 1;
                let out = long(gre(host, ip(SERVER), server), identification);
                let sent = offer_pieces(&mut desk, INTERNAL, &out, order);
                let mut expected = out;
                expected.set_source((talk.outside.0, 0));
                expected.ttl -= 1;
                let left_with = u16::from_be_bytes([sent[0].1[18], sent[0].1[19]]);
                expected.identification = left_with;
                assert_eq!(sent, leaves(&desk, EXTERNAL, &expected, order), "{:?}", desk.drops());

                let inward = gre(SERVER, talk.outside.0, talk.outside.1);
                let inward = long(inward, identification);
                let sent = offer_pieces(&mut desk, EXTERNAL, &inward, order);
                let mut expected = inward;
                expected.set_destination((ip(host), 0));
                expected.ttl -= 1;
                assert_eq!(sent, leaves(&desk, INTERNAL, &expected, order), "{:?}", desk.drops());
            }
        }
        assert_eq!(desk.drops(), [].into());
        assert_eq!(desk.lab.sum(|c| c.fragmented_datagrams.value()), 0);
    }
}

#[test]
fn fragments_without_a_call_are_refused_with_their_first() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&shared(ALG), workers, 3);
        let talk = Talk::called(&mut desk, (HOST, 4000), SERVER, (7, 0x80));
        let (address, id) = talk.outside;
        let mut identification = 100;
        for order in ORDERS {
            for (port, packet) in [
                (INTERNAL, gre(HOST, ip(SERVER), 0x81)),
                (EXTERNAL, gre("198.51.100.8", address, id)),
                (EXTERNAL, gre(SERVER, address, id ^ 1)),
            ] {
                identification += 1;
                let sent = offer_pieces(&mut desk, port, &long(packet, identification), order);
                assert_eq!(sent, []);
            }
        }
        assert_eq!(desk.lab.drops(PptpNoCall), 12);
        assert_eq!(desk.lab.drops(FragmentRefused), 24);
        // And those of a call that ends between the first and the last.
        let out = long(gre(HOST, ip(SERVER), 0x80), 200);
        let pieces = out.fragments(&cuts(&out));
        assert_eq!(desk.offer_bytes(INTERNAL, &pieces[0]).len(), 1);
        let mut talk = talk;
        talk.says(&mut desk, 0, &message(CLEAR, 7, 0));
        assert_eq!(desk.offer_bytes(INTERNAL, &pieces[1]), []);
        assert_eq!(desk.lab.drops(PptpNoCall), 13);
    }
}

fn bare(from: &str, to: u32) -> Packet {
    let mut packet = udp((from, 1), (to, 1));
    (packet.body, packet.payload) = (Body::Bare { protocol: GRE }, vec![0; 100]);
    packet
}

#[test]
fn other_gre_goes_by_its_addresses_beside_calls_also_in_fragments() {
    let more = "nat44: { alg: { pptp: true }, other-protocols: { gre: carry } }\n";
    for workers in [1, 4] {
        let mut desk = Desk::with(&shared(more), workers, 3);
        let talk = Talk::called(&mut desk, (HOST, 4000), SERVER, (7, 0x80));
        let mut identification = 0;
        for order in ORDERS {
            identification += 1;
            let mut out = bare(HOST, ip(SERVER));
            (out.df, out.identification) = (false, identification);
            let sent = offer_pieces(&mut desk, INTERNAL, &out, order);
            let mut expected = out.clone();
            expected.source = talk.outside.0;
            expected.ttl -= 1;
            assert_eq!(sent, leaves(&desk, EXTERNAL, &expected, order), "{:?}", desk.drops());
            let mut inward = out.clone();
            (inward.source, inward.destination) = (out.destination, talk.outside.0);
            let sent = offer_pieces(&mut desk, EXTERNAL, &inward, order);
            let mut expected = inward;
            (expected.destination, expected.ttl) = (ip(HOST), 63);
            assert_eq!(sent, leaves(&desk, INTERNAL, &expected, order), "{:?}", desk.drops());
        }
        // Of version 1 only calls pass, and only as RFC 2637 has them.
        desk.refused(INTERNAL, &gre(HOST, ip(SERVER), 0x81), PptpNoCall);
        let mut odd = bare(HOST, ip(SERVER));
        odd.payload[1] = 1;
        desk.refused(INTERNAL, &odd, PptpMalformed);
        odd.df = false;
        let sent = offer_pieces(&mut desk, INTERNAL, &odd, [1, 0, 2]);
        assert_eq!((sent, desk.lab.drops(FragmentRefused)), (vec![], 2));
        desk.tunnels_out(&gre(HOST, ip(SERVER), 0x80), talk.outside.0);
    }
    // Nobody carries it.
    let mut desk = Desk::with(&shared(ALG), 4, 3);
    desk.goes_out(&udp((HOST, 4000), server(53)));
    desk.refused(INTERNAL, &bare(HOST, ip(SERVER)), ProtocolUnsupported);
    let mut out = bare(HOST, ip(SERVER));
    out.df = false;
    assert_eq!(offer_pieces(&mut desk, INTERNAL, &out, [2, 0, 1]), []);
    assert_eq!(desk.lab.drops(ProtocolUnsupported), 2);
}

fn error(from: &str, about: &Packet, kept: usize) -> Packet {
    let body = Body::Error { kind: 3, code: 4, rest: 1400, about: Box::new(about.clone()), kept };
    let mut error = udp((from, 1), (about.source, 1));
    (error.body, error.payload) = (body, Vec::new());
    error
}

#[test]
fn errors_about_a_tunnel_reach_its_own_end_both_ways_5508_req_4_req_5() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&shared(ALG), workers, 3);
        let hosts = [subscriber_of(0, workers, 0), subscriber_of(workers - 1, workers, 1)];
        for (host, server) in hosts.iter().zip([0x80, 0x81]) {
            let talk = Talk::called(&mut desk, (host, 4000), SERVER, (7, server));
            // With DF and without: it leaves with an identification of its owner's.
            for df in [true, false] {
                let mut out = gre(host, ip(SERVER), server);
                out.df = df;
                let mut seen = desk.tunnels_out(&out, talk.outside.0);
                for (at, kept) in (0..usize::from(workers)).flat_map(|at| [(at, 8), (at, 200)]) {
                    desk.at = at;
                    desk.comes_in(&error(ROUTER, &seen, kept), (host, 0));
                    // An error from inside about what came in.
                    let mut inside = gre(SERVER, ip(host), 7);
                    inside.ttl -= 1;
                    let mut expected = error(host, &inside, kept);
                    let sent = desk.offer(INTERNAL, &expected);
                    expected.set_source(talk.outside);
                    expected.ttl -= 1;
                    assert_eq!(sent, [desk.leaving(EXTERNAL, &expected)], "{:?}", desk.drops());
                }
                // About no call of ours, or said to be of another worker.
                seen.body = Body::Call { id: server ^ 7 };
                desk.refused(EXTERNAL, &error(ROUTER, &seen, 8), IcmpNoMapping);
                seen.body = Body::Call { id: server };
                if workers > 1 {
                    seen.identification ^= 1;
                    desk.refused(EXTERNAL, &error(ROUTER, &seen, 8), IcmpNoMapping);
                }
                let strange = error(host, &gre(SERVER, ip(host), 8), 8);
                desk.refused(INTERNAL, &strange, IcmpNoMapping);
            }
        }
    }
}

/// The one frame that came out, from its IPv4 header on.
#[track_caller]
fn only(sent: &Frames, port: usize) -> Vec<u8> {
    assert_eq!(sent.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [port]);
    assert_ne!(sent[0].1[14 + 9], ICMP);
    sent[0].1[14..].to_vec()
}

fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn addresses(packet: &[u8]) -> (u32, u32) {
    let at = |at: usize| u32::from(word(packet, at)) << 16 | u32::from(word(packet, at + 2));
    (at(12), at(16))
}

/// The server is another subscriber, whose whole address is mapped one to one (RFC 4787 REQ-9).
#[test]
fn a_tunnel_hairpins_to_a_server_with_an_address_of_its_own() {
    let statics = "static: [{ internal: 100.64.9.9, external: 203.0.113.210 }]\n";
    let yaml = config("{ addresses: [203.0.113.200] }", &format!("{statics}{ALG}"));
    for (workers, at) in [(1, 0), (4, 0), (4, 3)] {
        let mut desk = Desk::with(&yaml, workers, 4);
        desk.at = at;
        let host = subscriber_of(workers - 1, workers, 0);
        let (site, seen) = ("100.64.9.9", ip("203.0.113.210"));
        let mut syn = tcp((&host, 4000), (seen, PPTP), SYN);
        syn.payload.clear();
        let there = only(&desk.offer(INTERNAL, &syn), INTERNAL);
        let outside = (addresses(&there).0, word(&there, 20));
        let mut talk = Talk {
            client: (host.clone(), 4000),
            server: (site.to_owned(), PPTP),
            dialled: (seen, PPTP),
            outside,
            said: [0; 2],
            behind: INTERNAL,
        };
        let mut answer = talk.segment(1, 0, b"");
        let Body::Tcp { flags, sequence, .. } = &mut answer.body else { unreachable!() };
        (*flags, *sequence) = (SYN | ACK, crate::wire::FIRST);
        only(&desk.offer(INTERNAL, &answer), INTERNAL);
        talk.starts(&mut desk);
        talk.calls(&mut desk, 7, 0x80);

        let there = only(&desk.offer(INTERNAL, &gre(&host, seen, 0x80)), INTERNAL);
        assert_eq!((addresses(&there), word(&there, 26)), ((outside.0, ip(site)), 0x80));
        let back = only(&desk.offer(INTERNAL, &gre(site, outside.0, outside.1)), INTERNAL);
        assert_eq!((addresses(&back), word(&back, 26)), ((seen, ip(&host)), 7));
        // In pieces, both ways.
        for (from, to, id, there) in [
            (&host[..], seen, 0x80, (outside.0, ip(site))),
            (site, outside.0, outside.1, (seen, ip(&host))),
        ] {
            let sent = offer_pieces(&mut desk, INTERNAL, &long(gre(from, to, id), 77), ORDERS[1]);
            let ends: Vec<(u32, u32)> = sent.iter().map(|s| addresses(&s.1[14..])).collect();
            assert_eq!(ends, [there; 3], "{:?}", desk.drops());
        }
        // An error about what hairpinned goes back to the client.
        let there = {
            let mut packet = gre(&host, ip(site), 0x80);
            packet.source = outside.0;
            packet.identification = word(&there, 4);
            packet
        };
        let told = desk.offer(INTERNAL, &error(site, &there, 8));
        assert_eq!(
            (told.len(), told[0].0, addresses(&told[0].1[14..]).1),
            (1, INTERNAL, ip(&host))
        );
        // A stranger inside has no call.
        desk.refused(INTERNAL, &gre("100.64.77.7", seen, 0x80), PptpNoCall);
        assert_eq!(count(&desk, "calls"), 1);
    }
}

#[test]
fn a_host_with_an_address_of_its_own_is_left_alone_also_in_fragments() {
    let statics = "static: [{ internal: 100.64.9.9, external: 203.0.113.210 }]\n";
    let yaml = config("{ addresses: [203.0.113.200] }", &format!("{statics}{ALG}"));
    let mut desk = Desk::with(&yaml, 4, 4);
    let (site, seen) = ("100.64.9.9", ip("203.0.113.210"));
    let out = gre(site, ip(SERVER), 0x80);
    let sent = desk.offer(INTERNAL, &out);
    let mut expected = out.clone();
    (expected.source, expected.ttl) = (seen, 63);
    assert_eq!(sent, [desk.leaving(EXTERNAL, &expected)]);
    let inward = gre(SERVER, seen, 3);
    desk.comes_in(&inward, (site, 3));
    for (order, id) in ORDERS.into_iter().zip(1..) {
        // Statelessly: each piece by itself, in the order of arrival.
        let inward = long(inward.clone(), id);
        let sent = offer_pieces(&mut desk, EXTERNAL, &inward, order);
        let mut expected = inward;
        (expected.destination, expected.ttl) = (ip(site), 63);
        let pieces = expected.fragments(&cuts(&expected));
        assert_eq!(sent, order.map(|n| desk.leaving_bytes(INTERNAL, &pieces[n])));
    }
    assert_eq!((count(&desk, "followed"), desk.drops()), (0, [].into()));
}

#[test]
fn a_tunnel_leaves_by_the_address_of_its_control_connection_whatever_rules_say_of_gre() {
    let yaml = config("{ addresses: [203.0.113.200] }", ALG)
        .replace("subscribers:", "  other: { addresses: [203.0.113.220] }\nsubscribers:")
        .replace(
            "pool: main }",
            "pool: main, destinations: [{ to: [198.51.100.0/24], protocol: tcp, pool: other }] }",
        );
    let mut desk = Desk::with(&yaml, 4, 3);
    let (usual, _) = desk.goes_out(&udp((HOST, 4000), server(53)));
    let talk = Talk::called(&mut desk, (HOST, 4000), SERVER, (7, 0x80));
    assert_eq!((usual, talk.outside.0), (ip("203.0.113.200"), ip("203.0.113.220")));
    desk.tunnels_out(&gre(HOST, ip(SERVER), 0x80), talk.outside.0);
    desk.tunnels_in(&gre(SERVER, talk.outside.0, talk.outside.1), (HOST, 7));
    desk.refused(EXTERNAL, &gre(SERVER, usual, talk.outside.1), PptpNoCall);
}

#[test]
fn tunnels_whose_control_connections_share_a_port_go_by_their_servers() {
    let more = "nat44: { alg: { pptp: true }, port-overloading: [tcp/1723] }\n";
    let mut desk = Desk::with(&shared(more), 4, 3);
    let servers = ["198.51.100.7", "198.51.100.8", "198.51.100.9"];
    let talks: Vec<Talk> = servers
        .iter()
        .zip(1..)
        .map(|(server, n)| Talk::called(&mut desk, (HOST, 4000 + n), server, (n, 0x80)))
        .collect();
    assert!(talks.iter().all(|talk| talk.outside == talks[0].outside), "the port is shared");
    for (talk, n) in talks.iter().zip(1..) {
        let server = &talk.server.0[..];
        desk.tunnels_in(&gre(server, talk.outside.0, talk.outside.1), (HOST, n));
        let seen = desk.tunnels_out(&gre(HOST, ip(server), 0x80), talk.outside.0);
        desk.comes_in(&error(ROUTER, &seen, 8), (HOST, 0));
    }
}

#[test]
fn what_is_too_big_for_a_tunnels_way_is_told_with_the_senders_own_packet_5508_s7_1() {
    let yaml = shared(ALG).replace("device: net_null0", "device: net_null0\n    mtu: 1300");
    for workers in [1, 4] {
        let mut desk = Desk::with(&yaml, workers, 3);
        let talk = Talk::called(&mut desk, (HOST, 4000), SERVER, (7, 0x80));
        let mut inward = gre(SERVER, talk.outside.0, talk.outside.1);
        inward.payload = vec![1; 1300];
        let sent = desk.offer(EXTERNAL, &inward);
        assert_eq!((sent.len(), sent[0].0, desk.lab.drops(TooBig)), (1, EXTERNAL, 1));
        assert_eq!(sent[0].1[34..36], [3, 4]);
        assert_eq!(sent[0].1[42..70], inward.bytes()[..28]);
        // Without DF it is cut here.
        inward.df = false;
        assert_eq!(desk.offer(EXTERNAL, &inward).len(), 2);
    }
}
