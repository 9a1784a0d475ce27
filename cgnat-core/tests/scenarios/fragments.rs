//! Datagrams that arrive in fragments (RFC 4787 REQ-14, RFC 6146 section 4).

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::{Body, Packet, checksum, ip, put};

const HOST: (&str, u16) = ("100.64.3.9", 4000);
const OTHER: (&str, u16) = ("100.64.3.10", 5000);

/// The same datagram without DF, with this identification and 80 more bytes than `parts` need.
fn datagram(packet: Packet, identification: u16, parts: usize) -> Packet {
    let payload = (0..parts * 48 + 3).map(|n| (n * 13) as u8).collect();
    Packet { identification, df: false, payload, ..packet }
}

/// A datagram in `parts` fragments.
fn cut(packet: &Packet, parts: usize) -> Vec<Vec<u8>> {
    let (header, total) = (20 + packet.options.len(), packet.len());
    let mut cuts: Vec<usize> = (1..parts).map(|n| header + 48 * n).collect();
    cuts.push(total);
    packet.fragments(&cuts)
}

/// All orders of the numbers below `n`.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let shorter = orders(n - 1);
    let with = |order: &Vec<usize>, at: usize| {
        let mut order = order.clone();
        order.insert(at, n - 1);
        order
    };
    shorter.iter().flat_map(|order| (0..n).map(|at| with(order, at))).collect()
}

/// In which order fragments that arrive so are sent on: none before the first.
fn sent_order(order: &[usize]) -> Vec<usize> {
    let first = order.iter().position(|n| *n == 0).unwrap();
    [&[0], &order[..first], &order[first + 1..]].concat()
}

/// Identification of a frame without 802.1Q.
fn identification((_, frame): &(usize, Vec<u8>)) -> u16 {
    u16::from_be_bytes([frame[18], frame[19]])
}

/// Fragments arrive in this order, each at another worker.
fn offer_all(desk: &mut Desk, port: usize, pieces: &[Vec<u8>], order: &[usize]) -> Frames {
    let mut sent = Frames::new();
    for n in order {
        desk.at = (desk.at + 1) % desk.lab.workers.len();
        sent.extend(desk.offer_bytes(port, &pieces[*n]));
    }
    sent
}

fn nothing_is_kept(desk: &Desk) {
    assert_eq!(desk.drops(), [].into());
    assert_eq!(desk.lab.sum(|c| c.fragmented_datagrams.value()), 0);
    assert_eq!(desk.lab.sum(|c| c.fragments_waiting.value()), 0);
}

#[test]
fn fragments_leave_whatever_their_order_with_one_new_identification_4787_req_14_6864_s5_3_1() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&plain(), workers, 1);
        let mut id = 0;
        for packet in [
            udp(HOST, server(53)),
            tcp(HOST, server(80), SYN),
            echo(true, HOST.0, ip(SERVER), HOST.1),
        ] {
            let outside = desk.goes_out(&packet);
            for parts in [3, 4] {
                for order in orders(parts) {
                    id += 1;
                    let whole = datagram(packet.clone(), id, parts);
                    let sent = offer_all(&mut desk, INTERNAL, &cut(&whole, parts), &order);
                    let mut expected = whole.clone();
                    expected.set_source(outside);
                    expected.ttl -= 1;
                    expected.identification = identification(&sent[0]);
                    let pieces = cut(&expected, parts);
                    let frames = sent_order(&order);
                    let frames = frames.iter().map(|n| desk.leaving_bytes(EXTERNAL, &pieces[*n]));
                    assert_eq!(sent, frames.collect::<Frames>(), "{order:?} {:?}", desk.drops());
                }
            }
        }
        nothing_is_kept(&desk);
    }
}

#[test]
fn fragments_come_in_whatever_their_order_and_keep_their_identification_4787_req_14() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&plain(), workers, 1);
        let mut id = 0;
        for (packet, answer) in [
            (udp(HOST, server(53)), udp((SERVER, 53), (0, 0))),
            (tcp(HOST, server(80), SYN), tcp((SERVER, 80), (0, 0), SYN | ACK)),
            (echo(true, HOST.0, ip(SERVER), HOST.1), echo(false, SERVER, 0, 0)),
        ] {
            let outside = desk.goes_out(&packet);
            for parts in [3, 4] {
                for order in orders(parts) {
                    id += 1;
                    let mut whole = datagram(answer.clone(), id, parts);
                    whole.set_destination(outside);
                    let sent = offer_all(&mut desk, EXTERNAL, &cut(&whole, parts), &order);
                    let mut expected = whole.clone();
                    expected.set_destination((ip(HOST.0), HOST.1));
                    expected.ttl -= 1;
                    let pieces = cut(&expected, parts);
                    let frames = sent_order(&order);
                    let frames = frames.iter().map(|n| desk.leaving_bytes(INTERNAL, &pieces[*n]));
                    assert_eq!(sent, frames.collect::<Frames>(), "{order:?} {:?}", desk.drops());
                }
            }
        }
        nothing_is_kept(&desk);
        assert!(workers == 1 || desk.lab.sum(|c| c.handed_off.value()) > 0);
    }
}

#[test]
fn fragments_are_hairpinned_whatever_their_order_4787_req_9_req_14() {
    for workers in [1, 2, 4] {
        let mut desk = Desk::with(&plain(), workers, 1);
        let shown = desk.goes_out(&udp(HOST, server(53)));
        let there = desk.goes_out(&udp(OTHER, server(53)));
        for (id, order) in orders(3).into_iter().enumerate() {
            let whole = datagram(udp(HOST, there), id as u16, 3);
            let sent = offer_all(&mut desk, INTERNAL, &cut(&whole, 3), &order);
            let mut expected = whole.clone();
            expected.set_source(shown);
            expected.set_destination((ip(OTHER.0), OTHER.1));
            expected.ttl -= 1;
            expected.identification = identification(&sent[0]);
            let pieces = cut(&expected, 3);
            let frames = sent_order(&order);
            let frames = frames.iter().map(|n| desk.leaving_bytes(INTERNAL, &pieces[*n]));
            assert_eq!(sent, frames.collect::<Frames>(), "{order:?} {:?}", desk.drops());
        }
        nothing_is_kept(&desk);
    }
}

#[test]
fn a_first_fragment_makes_the_mapping_and_the_session_of_its_datagram() {
    let mut desk = Desk::new(&plain());
    let pieces = cut(&datagram(tcp(HOST, server(80), SYN), 1, 3), 3);
    assert_eq!(offer_all(&mut desk, INTERNAL, &pieces, &[2, 1]), []);
    assert_eq!(desk.mappings(), 0);
    assert_eq!(desk.offer_bytes(INTERNAL, &pieces[0]).len(), 3);
    assert_eq!((desk.mappings(), desk.lab.sum(|c| c.sessions.value())), (1, 1));
    nothing_is_kept(&desk);
}

#[test]
fn what_waits_for_a_first_fragment_waits_two_seconds_6146_s4() {
    for (port, workers) in [(INTERNAL, 1), (EXTERNAL, 4)] {
        let mut desk = Desk::with(&plain(), workers, 1);
        let outside = desk.goes_out(&udp(HOST, server(53)));
        let packet = [udp(HOST, server(53)), udp((SERVER, 53), outside)][port].clone();
        let pieces = cut(&datagram(packet.clone(), 9, 3), 3);
        assert_eq!(offer_all(&mut desk, port, &pieces, &[1]), []);
        desk.lab.advance(1_999);
        assert_eq!(desk.lab.sum(|c| c.fragments_waiting.value()), 1);
        assert_eq!(offer_all(&mut desk, port, &pieces, &[2, 0]).len(), 3);
        nothing_is_kept(&desk);
        let pieces = cut(&datagram(packet, 10, 3), 3);
        assert_eq!(offer_all(&mut desk, port, &pieces, &[1, 2]), []);
        desk.lab.advance(2_000);
        assert_eq!(desk.drops(), [(FragmentTimeout, 2)].into());
        assert_eq!(desk.lab.sum(|c| c.fragmented_datagrams.value()), 0);
        // The first alone: its others are not waited for.
        assert_eq!(desk.offer_bytes(port, &pieces[0]).len(), 1);
    }
}

#[test]
fn a_context_of_another_time_is_not_used_though_nobody_has_ended_it() {
    let mut desk = Desk::new(&plain());
    let pieces = cut(&datagram(udp(HOST, server(53)), 9, 3), 3);
    assert_eq!(offer_all(&mut desk, INTERNAL, &pieces, &[0, 1]).len(), 2);
    desk.lab.advance_silently(2_000);
    assert_eq!(offer_all(&mut desk, INTERNAL, &pieces, &[2]), []);
    assert_eq!(desk.lab.sum(|c| c.fragments_waiting.value()), 1);
}

#[test]
fn the_timeout_is_configured() {
    let yaml = config("{ addresses: [203.0.113.0/28] }", "nat44: { fragments: { timeout: 5s } }");
    let mut desk = Desk::new(&yaml);
    let pieces = cut(&datagram(udp(HOST, server(53)), 9, 3), 3);
    offer_all(&mut desk, INTERNAL, &pieces, &[1]);
    desk.lab.advance(4_900);
    assert_eq!(offer_all(&mut desk, INTERNAL, &pieces, &[0, 2]).len(), 3);
}

#[test]
fn a_refused_first_fragment_takes_its_datagram_with_it() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&plain(), workers, 1);
        // No subscriber; before and after the first.
        let pieces = cut(&datagram(udp(("10.9.9.9", 1), server(53)), 1, 4), 4);
        assert_eq!(offer_all(&mut desk, INTERNAL, &pieces, &[3, 0, 1]), []);
        assert_eq!(desk.drops(), [(SourceNotSubscriber, 1), (FragmentRefused, 2)].into());
        // Inbound, to nothing.
        let outside = desk.goes_out(&udp(HOST, server(53)));
        let nobody = (outside.0, outside.1 ^ 1);
        let pieces = cut(&datagram(udp((SERVER, 53), nobody), 2, 3), 3);
        assert_eq!(offer_all(&mut desk, EXTERNAL, &pieces, &[1, 0, 2]), []);
        assert_eq!((desk.drops()[&NoMapping], desk.drops()[&FragmentRefused]), (1, 4));
        // An echo request from outside.
        let query = echo(true, SERVER, outside.0, outside.1);
        let pieces = cut(&datagram(query, 3, 3), 3);
        assert_eq!(offer_all(&mut desk, EXTERNAL, &pieces, &[1, 0, 2]), []);
        assert_eq!((desk.drops()[&IcmpNoQuery], desk.drops()[&FragmentRefused]), (1, 6));
    }
}

#[test]
fn filtering_holds_for_every_fragment_5382_req_3() {
    for word in ["address-dependent", "address-and-port-dependent"] {
        let more = format!("nat44: {{ filtering: {word} }}");
        let mut desk = Desk::with(&config("{ addresses: [203.0.113.0/28] }", &more), 4, 1);
        for (out, back) in [
            (udp(HOST, server(53)), udp((SERVER, 53), (0, 0))),
            (tcp(HOST, server(80), SYN), tcp((SERVER, 80), (0, 0), SYN | ACK)),
            (echo(true, HOST.0, ip(SERVER), 4000), echo(false, SERVER, 0, 0)),
        ] {
            let outside = desk.goes_out(&out);
            let mut answer = datagram(back, 5, 3);
            answer.set_destination(outside);
            let sent = offer_all(&mut desk, EXTERNAL, &cut(&answer, 3), &[2, 0, 1]);
            assert_eq!(sent.len(), 3, "{:?}", desk.drops());
            let before = desk.drops().get(&Filtered).copied().unwrap_or(0);
            answer.source = ip("9.9.9.9");
            let sent = offer_all(&mut desk, EXTERNAL, &cut(&answer, 3), &[2, 0, 1]);
            assert_eq!((sent, desk.drops()[&Filtered]), (vec![], before + 1));
            assert_eq!(desk.lab.all_drops(), 3 * (before + 1));
        }
    }
}

#[test]
fn fragments_larger_than_the_mtu_are_cut_again_and_with_df_refused_5508_s7_1_1() {
    let yaml = plain().replace("    device: net_null1\n", "    device: net_null1\n    mtu: 576\n");
    let mut desk = Desk::new(&yaml);
    let mut whole = datagram(udp(HOST, server(53)), 9, 1);
    whole.payload = vec![7; 1800];
    let pieces = whole.fragments(&[20 + 1200, whole.len()]);
    let mut sent = offer_all(&mut desk, INTERNAL, &pieces, &[1, 0]);
    assert_eq!(sent.len(), 5);
    assert!(sent.iter().all(|(_, frame)| frame.len() <= 14 + 576));
    let ids: std::collections::BTreeSet<u16> = sent.iter().map(identification).collect();
    assert_eq!(ids.len(), 1);
    sent.sort_by_key(|(_, frame)| u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff);
    let mut end = 0;
    for (n, (_, frame)) in sent.iter().enumerate() {
        let word = u16::from_be_bytes([frame[20], frame[21]]);
        assert_eq!((usize::from(word & 0x1fff) * 8, word & 0x2000 != 0), (end, n < 4));
        end += frame.len() - 34;
    }
    assert_eq!(end, 1808);
    nothing_is_kept(&desk);
    // With DF the first is told, the other is not (RFC 1812 section 4.3.2.7).
    whole.df = true;
    whole.identification = 10;
    let pieces = whole.fragments(&[20 + 1200, whole.len()]);
    assert_eq!(desk.offer_bytes(INTERNAL, &pieces[0]).len(), 1);
    assert_eq!(desk.offer_bytes(INTERNAL, &pieces[1]), []);
    assert_eq!(desk.drops(), [(TooBig, 1), (FragmentRefused, 1)].into());
    assert_eq!(desk.lab.sum(|c| c.errors_sent.value()), 1);
    // A later one that is too big by itself.
    whole.identification = 11;
    let pieces = whole.fragments(&[20 + 400, whole.len()]);
    assert_eq!(offer_all(&mut desk, INTERNAL, &pieces, &[0, 1]).len(), 1);
    assert_eq!(desk.drops(), [(TooBig, 2), (FragmentRefused, 1)].into());
}

#[test]
fn each_fragment_has_its_own_time_to_live_and_only_the_first_is_told_1812_s4_3_2_7() {
    let mut desk = Desk::new(&plain());
    let mut pieces = cut(&datagram(udp(HOST, server(53)), 9, 3), 3);
    pieces[1][8] = 1;
    put(&mut pieces[1], 10, 0);
    let sum = checksum(&pieces[1][..20]);
    put(&mut pieces[1], 10, sum);
    assert_eq!(offer_all(&mut desk, INTERNAL, &pieces, &[0, 1, 2]).len(), 2);
    assert_eq!(desk.drops(), [(TtlExpired, 1)].into());
    assert_eq!(desk.lab.sum(|c| c.errors_sent.value()), 0);
}

#[test]
fn an_icmp_error_in_fragments_is_dropped() {
    let mut desk = Desk::new(&plain());
    let packet = udp(HOST, server(53));
    let outside = desk.goes_out(&packet);
    let mut about = packet;
    about.set_source(outside);
    let mut error = datagram(udp((SERVER, 1), (outside.0, 1)), 5, 1);
    error.body = Body::Error { kind: 3, code: 3, rest: 0, about: Box::new(about), kept: 40 };
    error.payload = Vec::new();
    let pieces = error.fragments(&[20 + 40, error.len()]);
    assert_eq!(offer_all(&mut desk, EXTERNAL, &pieces, &[0, 1]), []);
    assert_eq!(desk.drops(), [(FragmentError, 1), (FragmentRefused, 1)].into());
}

#[test]
fn fragments_for_the_box_itself_and_spoofed_ones_are_dropped() {
    let mut desk = Desk::new(&plain());
    let own = datagram(udp((SERVER, 1), (ip("192.0.2.2"), 1)), 5, 3);
    offer_all(&mut desk, EXTERNAL, &cut(&own, 3), &[1, 0, 2]);
    let spoofed = datagram(udp(("100.64.0.1", 1), (ip("203.0.113.1"), 1)), 5, 3);
    offer_all(&mut desk, EXTERNAL, &cut(&spoofed, 3), &[1, 0, 2]);
    let inside = datagram(udp(HOST, (ip("100.64.0.1"), 1)), 5, 3);
    offer_all(&mut desk, INTERNAL, &cut(&inside, 3), &[1, 0, 2]);
    assert_eq!(desk.drops(), [(ToUs, 3), (SourceSpoofed, 3), (DestinationInside, 3)].into());
}

#[test]
fn fragments_wait_while_the_first_waits_for_a_port_block() {
    let mut desk = Desk::with(&one_address(16, 8), 4, 1);
    // A host that has all ports of its worker's blocks needs one of another worker's.
    let host = subscriber_of(0, 4, 0);
    for n in 1..=8 * 64 {
        let pieces = cut(&datagram(udp((&host, n), server(53)), n, 3), 3);
        let sent = offer_all(&mut desk, INTERNAL, &pieces, &[2, 0, 1]);
        assert_eq!(sent.len(), 3, "{n}: {:?}", desk.drops());
    }
    nothing_is_kept(&desk);
}

#[test]
fn what_waits_at_the_end_is_counted() {
    let mut desk = Desk::new(&plain());
    let pieces = cut(&datagram(udp(HOST, server(53)), 9, 3), 3);
    offer_all(&mut desk, INTERNAL, &pieces, &[1, 2]);
    desk.lab.workers.remove(0).stop();
    assert_eq!(desk.drops(), [(Shutdown, 2)].into());
    assert_eq!(desk.lab.sum(|c| c.fragments_waiting.value()), 0);
}
