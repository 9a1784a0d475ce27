//! Fragments that are made to harm (RFC 4787 REQ-14a, RFC 1858, RFC 3128).

use cgnat_core::endpoint::IpProtocol;
use cgnat_core::verdict::DropReason::{self, *};

use crate::desk::*;
use crate::limits::{limited, remembered};
use crate::wire::{Packet, checksum, ip, put};

const HOST: (&str, u16) = ("100.64.3.9", 4000);

/// A fragment of `packet` with other flags, offset (in eight bytes) and payload.
fn fragment(packet: &Packet, more: bool, offset: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = packet.bytes()[..20].to_vec();
    put(&mut bytes, 2, 20 + payload.len() as u16);
    put(&mut bytes, 6, u16::from(more) << 13 | offset);
    put(&mut bytes, 10, 0);
    let sum = checksum(&bytes);
    put(&mut bytes, 10, sum);
    bytes.extend(payload);
    bytes
}

/// A datagram of `identification`: its header for [`fragment`], and 64 bytes of its payload.
fn datagram(packet: Packet, identification: u16) -> (Packet, Vec<u8>) {
    let packet = Packet { identification, df: false, payload: vec![9; 100], ..packet };
    let start = packet.bytes()[20..84].to_vec();
    (packet, start)
}

fn small(max_pending: u32, max_datagrams: u32) -> String {
    let more = format!(
        "nat44: {{ fragments: {{ max-pending: {max_pending}, max-datagrams: {max_datagrams} }} }}"
    );
    config("{ addresses: [203.0.113.0/28] }", &more)
}

#[test]
fn fragments_that_are_wrong_by_themselves_are_never_sent_on() {
    let mut desk = Desk::with(&plain(), 2, 1);
    let outside = desk.goes_out(&udp(HOST, server(53)));
    let mut expected = desk.drops();
    let mut id = 0;
    for (port, packet) in [
        (INTERNAL, udp(HOST, server(53))),
        (EXTERNAL, udp((SERVER, 53), outside)),
        (INTERNAL, tcp(HOST, server(80), SYN)),
        (INTERNAL, echo(true, HOST.0, ip(SERVER), 7)),
    ] {
        let is_tcp = packet.protocol() == crate::wire::TCP;
        let mut cases: Vec<(bool, u16, usize, DropReason)> = vec![
            (true, 0, 0, FragmentLength),
            (false, 5, 0, FragmentLength),
            (true, 0, 63, FragmentLength),
            (true, 9, 9, FragmentLength),
            // The ping of death and its neighbour.
            (false, 8189, 4, FragmentBeyond),
            (true, 8191, 8, FragmentBeyond),
        ];
        if is_tcp {
            // The header is 24 bytes long; 1 and 2 begin inside its fixed part.
            cases.extend([(true, 0, 8, FragmentTiny), (true, 0, 16, FragmentTiny)]);
            cases.extend([(false, 1, 30, FragmentTiny), (true, 2, 32, FragmentTiny)]);
        }
        for (more, offset, len, reason) in cases {
            id += 1;
            let (packet, start) = datagram(packet.clone(), id);
            let bytes = fragment(&packet, more, offset, &start[..len]);
            assert_eq!(desk.offer_bytes(port, &bytes), []);
            *expected.entry(reason).or_default() += 1;
            assert_eq!(desk.drops(), expected, "{more} {offset} {len}");
        }
    }
    // The largest datagram there is passes.
    let (packet, _) = datagram(udp(HOST, server(53)), 999);
    let last = fragment(&packet, false, 8189, &[1, 2, 3]);
    assert_eq!(desk.offer_bytes(INTERNAL, &last), []);
    assert_eq!(desk.lab.sum(|c| c.fragments_waiting.value()), 1);
}

#[test]
fn a_tcp_header_whose_options_are_cut_off_is_tiny_too() {
    let mut desk = Desk::new(&plain());
    let mut packet = tcp(HOST, server(80), SYN);
    if let crate::wire::Body::Tcp { options, .. } = &mut packet.body {
        *options = vec![1; 20];
    }
    let (packet, start) = datagram(packet, 1);
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, 0, &start[..32])), []);
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, false, 4, &start[32..])), []);
    assert_eq!(desk.drops(), [(FragmentTiny, 1), (FragmentRefused, 1)].into());
    assert_eq!(desk.mappings(), 0);
}

#[test]
fn an_overlap_takes_the_whole_datagram_with_it_whatever_comes_first() {
    // Teardrop: a last fragment inside the first; then partial overlaps and a moved end.
    let wrong: [(bool, u16, usize); 6] =
        [(false, 3, 4), (true, 4, 64), (true, 7, 8), (false, 7, 20), (true, 0, 64), (false, 1, 8)];
    for workers in [1, 4] {
        let mut desk = Desk::with(&plain(), workers, 1);
        let outside = desk.goes_out(&udp(HOST, server(53)));
        let mut id = 0;
        for (port, packet) in
            [(INTERNAL, udp(HOST, server(53))), (EXTERNAL, udp((SERVER, 53), outside))]
        {
            for (more, offset, len) in wrong {
                id += 1;
                let before = desk.drops();
                let since = |desk: &Desk, reason: DropReason| {
                    let of = |drops: &std::collections::BTreeMap<_, u64>| {
                        drops.get(&reason).copied().unwrap_or(0)
                    };
                    of(&desk.drops()) - of(&before)
                };
                let (packet, start) = datagram(packet.clone(), id);
                let first = fragment(&packet, true, 0, &start);
                let bad = fragment(&packet, more, offset, &[0xbb; 64][..len]);
                let rest = fragment(&packet, false, 8, &[1; 20]);
                // The first goes out before anything is wrong; nothing else does.
                assert_eq!(desk.offer_bytes(port, &first).len(), 1);
                assert_eq!(desk.offer_bytes(port, &bad), []);
                let duplicate = (more, offset, len) == (true, 0, 64);
                assert_eq!(desk.offer_bytes(port, &rest).len(), usize::from(duplicate));
                if duplicate {
                    // Only a repetition is no attack.
                    assert_eq!(since(&desk, FragmentDuplicate), 1);
                    continue;
                }
                assert_eq!(since(&desk, FragmentOverlap), 1, "{more} {offset} {len}");
                assert_eq!(since(&desk, FragmentRefused), 1);
                // The other way round nothing goes out at all.
                id += 1;
                let (packet, start) = datagram(packet.clone(), id);
                let first = fragment(&packet, true, 0, &start);
                let bad = fragment(&packet, more, offset, &[0xbb; 64][..len]);
                if offset > 0 {
                    assert_eq!(desk.offer_bytes(port, &bad), []);
                    assert_eq!(desk.offer_bytes(port, &first), []);
                    assert_eq!(since(&desk, FragmentOverlap), 2);
                    assert_eq!(since(&desk, FragmentRefused), 2);
                }
            }
        }
        desk.lab.advance(2_000);
        assert_eq!(desk.lab.sum(|c| c.fragmented_datagrams.value()), 0);
    }
}

#[test]
fn a_duplicate_is_dropped_and_its_datagram_goes_on() {
    let mut desk = Desk::new(&plain());
    let (packet, start) = datagram(udp(HOST, server(53)), 1);
    let first = fragment(&packet, true, 0, &start);
    let middle = fragment(&packet, true, 8, &[1; 8]);
    assert_eq!(desk.offer_bytes(INTERNAL, &middle), []);
    assert_eq!(desk.offer_bytes(INTERNAL, &middle), []);
    assert_eq!(desk.offer_bytes(INTERNAL, &first).len(), 2);
    assert_eq!(desk.offer_bytes(INTERNAL, &first), []);
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, false, 9, &[1; 4])).len(), 1);
    assert_eq!(desk.drops(), [(FragmentDuplicate, 2)].into());
    assert_eq!(desk.lab.sum(|c| c.fragmented_datagrams.value()), 0);
}

#[test]
fn a_datagram_of_more_fragments_than_are_told_apart_ends() {
    let mut desk = Desk::new(&plain());
    let (packet, start) = datagram(udp(HOST, server(53)), 1);
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, 0, &start[..8])).len(), 1);
    for n in 1..53 {
        assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, n, &[1; 8])).len(), 1);
    }
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, 53, &[1; 8])), []);
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, 54, &[1; 8])), []);
    assert_eq!(desk.drops(), [(FragmentTooMany, 1), (FragmentRefused, 1)].into());
}

/// A whole datagram in two fragments, in order, gets through; so does a packet in one piece.
fn normal_traffic_flows(desk: &mut Desk, host: (&str, u16), n: u16) {
    let outside = desk.goes_out(&udp(host, server(53)));
    desk.comes_in(&udp((SERVER, 53), outside), host);
    for (port, packet) in
        [(INTERNAL, udp(host, server(53))), (EXTERNAL, udp((SERVER, 53), outside))]
    {
        let (packet, start) = datagram(packet, n);
        let sent = desk.offer_bytes(port, &fragment(&packet, true, 0, &start));
        assert_eq!(sent.len(), 1, "{port} {n} {:?}", desk.drops());
        assert_eq!(desk.offer_bytes(port, &fragment(&packet, false, 8, &[1; 44])).len(), 1);
    }
}

#[test]
fn a_flood_of_later_fragments_stays_within_its_bounds_and_harms_nobody_4787_req_14a() {
    for (workers, port) in [(1, INTERNAL), (1, EXTERNAL), (4, INTERNAL), (4, EXTERNAL)] {
        let mut desk = Desk::with(&small(256, 512), workers, 1);
        desk.goes_out(&udp(HOST, server(53)));
        for n in 0..20_000u32 {
            // Every source and identification is used once.
            let source = std::net::Ipv4Addr::from(ip("198.18.0.0") + n).to_string();
            let inside = std::net::Ipv4Addr::from(ip("100.65.0.0") + n).to_string();
            let to = (ip("203.0.113.0") + n % 16, 5000);
            let packet = [udp((&inside, 1), server(53)), udp((&source, 53), to)][port].clone();
            let (packet, _) = datagram(packet, n as u16);
            assert_eq!(desk.offer_bytes(port, &fragment(&packet, true, 8, &[7; 8])), []);
            if n % 500 == 0 {
                normal_traffic_flows(&mut desk, ("100.64.3.10", 4000), n as u16);
                desk.lab.advance(100);
            }
            let waiting = desk.lab.sum(|c| c.fragments_waiting.value());
            assert!(waiting <= 256, "{waiting} wait");
        }
        let drops = desk.drops();
        let refused: u64 = [FragmentTableFull, FragmentPendingFull, FragmentShare, FragmentTimeout]
            .iter()
            .filter_map(|reason| drops.get(reason))
            .sum();
        assert_eq!(refused + desk.lab.sum(|c| c.fragments_waiting.value()), 20_000);
        assert_eq!(desk.lab.all_drops(), refused);
        desk.lab.advance(2_000);
        assert_eq!(desk.lab.sum(|c| c.fragmented_datagrams.value()), 0);
    }
}

#[test]
fn one_subscriber_gets_its_share_and_the_others_go_on_4787_req_14a() {
    let mut desk = Desk::new(&small(1600, 1600));
    for n in 0..1000 {
        let (packet, _) = datagram(udp(HOST, server(53)), n);
        assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, 8, &[7; 8])), []);
    }
    assert_eq!(desk.lab.sum(|c| c.fragments_waiting.value()), 100);
    assert_eq!(desk.drops(), [(FragmentShare, 900)].into());
    // Another one, out of order.
    let (packet, start) = datagram(udp(("100.64.3.11", 1), server(53)), 1);
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, false, 8, &[1; 44])), []);
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, 0, &start)).len(), 2);
    // What lives is not closed for a stranger: the first of those still gets its datagram.
    let (packet, start) = datagram(udp(HOST, server(53)), 0);
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, 0, &start)).len(), 2);
}

#[test]
fn a_subscriber_has_as_many_datagrams_in_fragments_as_its_group_allows_4787_req_14a() {
    let mut desk = Desk::new(&limited(&small(1600, 1600), "{ fragments: 3 }"));
    for n in 0..3 {
        let (packet, _) = datagram(udp(HOST, server(53)), n);
        assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, false, 8, &[7; 44])), []);
    }
    // One more is refused, fragment by fragment; of the first the sender is told (3/1).
    let (packet, start) = datagram(udp(HOST, server(5000)), 3);
    let first = fragment(&packet, true, 0, &start);
    let sent = desk.offer_bytes(INTERNAL, &first);
    assert_eq!(sent.len(), 1);
    let (port, told) = &sent[0];
    assert_eq!((*port, &told[34..36]), (INTERNAL, &[3, 1][..]));
    assert_eq!(told[42..], first, "it quotes the fragment as it came");
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, false, 8, &[7; 44])), []);
    assert_eq!(desk.drops(), [(LimitFragments, 2)].into());
    assert_eq!(desk.mappings(), 0, "a datagram that is refused makes nothing");
    let was = |port| (LimitFragments, IpProtocol::UDP, port, 3, 1);
    assert_eq!(remembered(&mut desk, HOST.0), [was(5000), was(0)]);
    // Whole packets are no fragments, and what comes from outside is not the subscriber's doing.
    let outside = desk.goes_out(&udp(HOST, server(53)));
    for n in 0..9 {
        let (packet, start) = datagram(udp((SERVER, 53), outside), n);
        assert_eq!(desk.offer_bytes(EXTERNAL, &fragment(&packet, true, 0, &start)).len(), 1);
    }
    normal_traffic_flows(&mut desk, ("100.64.3.11", 1), 1);
    // What is under way goes on, and one that is complete makes room for one.
    let (packet, start) = datagram(udp(HOST, server(53)), 1);
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, 0, &start)).len(), 2);
    let (packet, start) = datagram(udp(HOST, server(53)), 4);
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, 0, &start)).len(), 1);
    let (packet, _) = datagram(udp(HOST, server(53)), 5);
    desk.offer_bytes(INTERNAL, &fragment(&packet, true, 8, &[7; 8]));
    assert_eq!(desk.drops(), [(LimitFragments, 3)].into());
}

#[test]
fn a_group_may_have_more_datagrams_in_fragments_than_a_share_and_nobody_counts_for_another() {
    let two = "subscribers:
  - { name: many, match: [100.64.3.0/24], pool: main, limits: { fragments: 300 } }
  - { name: one, match: [100.65.0.0/16], pool: main, limits: { fragments: 1 } }";
    let yaml = small(64, 8192).replace("subscribers:", two).replace("/28", "/26");
    let mut desk = Desk::new(&yaml);
    let first = |desk: &mut Desk, host: &str, n: u16| {
        let (packet, start) = datagram(udp((host, 4000), server(53)), n);
        desk.offer_bytes(INTERNAL, &fragment(&packet, true, 0, &start)).len()
    };
    // Very many at once with one each: not one of them is refused for another.
    for n in 0..3000u32 {
        let host = std::net::Ipv4Addr::from(ip("100.65.0.0") + n).to_string();
        assert_eq!(first(&mut desk, &host, 1), 1, "{n}: {:?}", desk.drops());
    }
    assert_eq!(first(&mut desk, "100.65.0.7", 2), 1, "it is told");
    assert_eq!(desk.drops(), [(LimitFragments, 1)].into());
    for n in 0..300 {
        assert_eq!(first(&mut desk, HOST.0, n), 1);
    }
    first(&mut desk, HOST.0, 300);
    assert_eq!(desk.drops(), [(LimitFragments, 2)].into());
    // Without a limit of its group it is a sixteenth.
    for n in 0..512 {
        assert_eq!(first(&mut desk, "100.64.9.9", n), 1);
    }
    assert_eq!(first(&mut desk, "100.64.9.9", 512), 0);
    assert_eq!(desk.drops(), [(LimitFragments, 2), (FragmentShare, 1)].into());
}

#[test]
fn fragments_of_one_datagram_that_wait_are_bounded_too() {
    let mut desk = Desk::new(&small(160, 1600));
    let (packet, start) = datagram(udp(HOST, server(53)), 1);
    for n in 0..10 {
        assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, 8 + n, &[1; 8])), []);
    }
    assert_eq!(desk.drops(), [].into());
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, 18, &[1; 8])), []);
    // It can never be whole, so what waited gives way.
    assert_eq!(desk.drops(), [(FragmentPendingFull, 1), (FragmentRefused, 10)].into());
    assert_eq!(desk.offer_bytes(INTERNAL, &fragment(&packet, true, 0, &start)), []);
}

#[test]
fn first_fragments_to_one_external_address_leave_room_for_the_others() {
    let mut desk = Desk::new(&small(1600, 1600));
    let outside = desk.goes_out(&udp(HOST, server(53)));
    for n in 0..1000u32 {
        let source = std::net::Ipv4Addr::from(ip("198.18.0.0") + n).to_string();
        let (packet, start) = datagram(udp((&source, 53), outside), 1);
        desk.offer_bytes(EXTERNAL, &fragment(&packet, true, 0, &start));
    }
    assert_eq!(desk.lab.sum(|c| c.fragmented_datagrams.value()), 100);
    assert_eq!(desk.drops(), [(FragmentShare, 900)].into());
    let other = (1..40)
        .map(|n| (format!("100.64.9.{n}"), 4000))
        .find(|(host, port)| desk.goes_out(&udp((host, *port), server(53))).0 != outside.0);
    let (host, port) = other.unwrap();
    normal_traffic_flows(&mut desk, (&host, port), 7);
}
