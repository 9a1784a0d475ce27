//! Neighbour Discovery: whom the box answers, whom it asks, and what it believes (decision 35).

use cgnat_core::housekeeping::Conflict;
use cgnat_core::testing::lab::port_mac;
use cgnat_core::verdict::DropReason::*;

use crate::desk::{Desk, EXTERNAL, Frames, HOPS, INTERNAL};
use crate::six::*;

const LINK_LOCAL: [&str; 2] = ["fe80::ff:fe00:100", "fe80::ff:fe00:101"];
const THIEF: [u8; 6] = [2, 6, 6, 6, 6, 6];
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// What the box says when it asks everybody for an address.
fn question(port: usize, target: &str) -> (usize, Vec<u8>) {
    let (group, station) = group(target);
    let mac = Some(port_mac(port));
    let asked = plainly(discovery(LINK_LOCAL[port], &group, 135, 0, target, mac));
    (port, frame(station, port_mac(port), &asked))
}

/// What the box says when it asks whether somebody has its address.
fn probe(port: usize, own: &str) -> (usize, Vec<u8>) {
    let (group, station) = group(own);
    let asked = plainly(discovery("::", &group, 135, 0, own, None));
    (port, frame(station, port_mac(port), &asked))
}

/// What the box says when it tells everybody where its address is.
fn announcement(port: usize, own: &str) -> (usize, Vec<u8>) {
    let told = plainly(discovery(own, "ff02::1", 136, 0xa0, own, Some(port_mac(port))));
    (port, frame(ALL_NODES, port_mac(port), &told))
}

/// Somebody answers the box's question.
fn answer(desk: &mut Desk, port: usize, address: &str, mac: [u8; 6]) -> Frames {
    let told = discovery(address, LINK_LOCAL[port], 136, 0x60, address, Some(mac));
    let sent = desk.lab.arrive(desk.at, port, &frame(port_mac(port), mac, &told));
    desk.lab.settle();
    [sent, desk.lab.take_sent()].concat()
}

#[test]
fn own_addresses_are_answered_for_and_no_others() {
    let mut desk = desk(&config(), 2);
    for (port, own) in [(0, OWN[0]), (1, OWN[1]), (0, LINK_LOCAL[0]), (1, LINK_LOCAL[1])] {
        let (group, station) = group(own);
        for (to, station) in
            [(group.as_str(), station), (own, port_mac(port)), ("ff02::1", ALL_NODES)]
        {
            let asked = discovery(NEAR[port], to, 135, 0, own, Some(HOPS[port]));
            let told = plainly(discovery(own, NEAR[port], 136, 0xe0, own, Some(port_mac(port))));
            let expected = (port, frame(HOPS[port], port_mac(port), &told));
            let sent = desk.lab.arrive(port, port, &frame(station, HOPS[port], &asked));
            assert_eq!(sent, [expected]);
        }
        // The address of the other port, of a neighbour, of nobody.
        for other in [OWN[1 - port], LINK_LOCAL[1 - port], NEAR[port], "2001:db8:a::99"] {
            let (group, station) = crate::six::group(other);
            let asked = discovery(NEAR[port], &group, 135, 0, other, Some(HOPS[port]));
            let sent = desk.lab.arrive(0, port, &frame(station, HOPS[port], &asked));
            assert_eq!(sent, [], "{other}");
        }
    }
    assert_eq!(desk.lab.sum(|c| c.nd_received.value()), 28);
}

#[test]
fn what_no_neighbour_can_have_sent_is_refused() {
    let mut desk = desk(&config(), 1);
    let good = discovery(NEAR[0], OWN[0], 135, 0, OWN[0], Some(HOPS[0]));
    let mut routed = good.clone();
    routed[7] = 254;
    let mut wrong = good.clone();
    wrong[42] ^= 1;
    for bad in [routed, wrong, icmp(NEAR[0], OWN[0], 255, (136, 0), &[0; 9])] {
        assert_eq!(refused(&mut desk, INTERNAL, &bad, NdMalformed), []);
    }
    assert_eq!(desk.lab.sum(|c| c.nd_received.value()), 0);
}

#[test]
fn a_packet_waits_for_its_next_hop_and_goes_when_that_answers() {
    for workers in [1, 3] {
        let mut desk = Desk::with(&asking(), workers, 1);
        up(&mut desk);
        desk.lab.advance(1_010);
        // Next hops are asked for as soon as the box may use its addresses.
        desk.lab.advance(260);
        let sent = desk.lab.take_sent();
        for port in [INTERNAL, EXTERNAL] {
            assert!(sent.contains(&question(port, NEAR[port])), "{sent:?}");
        }
        let packet = udp(HOST, SERVER, 9);
        for n in 0..20 {
            desk.at = n % usize::from(workers);
            offer(&mut desk, INTERNAL, &packet);
        }
        assert!(desk.lab.sum(|c| c.parked.value()) > 0);
        desk.at = 0;
        let sent = answer(&mut desk, EXTERNAL, NEAR[1], HOPS[1]);
        let mut expected = packet.clone();
        expected[7] -= 1;
        let waited = 20 - desk.lab.drops(ParkingFull);
        assert_eq!(sent, vec![(EXTERNAL, frame(HOPS[1], port_mac(1), &expected)); waited as usize]);
        passes(&mut desk, INTERNAL, &packet);
        // A known one is asked again, itself, before it is doubted.
        for _ in 0..301 {
            desk.lab.advance(100);
        }
        let asked = plainly(discovery(LINK_LOCAL[1], NEAR[1], 135, 0, NEAR[1], Some(port_mac(1))));
        let again = (EXTERNAL, frame(HOPS[1], port_mac(1), &asked));
        assert!(desk.lab.take_sent().contains(&again));
        passes(&mut desk, INTERNAL, &packet);
    }
}

#[test]
fn those_who_do_not_answer_are_bounded_and_senders_are_told() {
    let mut desk = desk(&config(), 1);
    // A scan of the prefix of a link.
    let mut scanned = 0;
    for n in 1..=5_000u32 {
        let packet = udp(HOST, &format!("2001:db8:b:0:5::{n:x}"), 9);
        offer(&mut desk, INTERNAL, &packet);
        scanned += 1;
        if n % 100 == 0 {
            desk.lab.advance(10);
        }
    }
    assert!(desk.lab.sum(|c| c.parked.value()) <= 64);
    desk.lab.take_sent();
    // Nobody else notices: next hops are known, and the NAT has places of its own.
    passes(&mut desk, INTERNAL, &udp(HOST, SERVER, 9));
    desk.goes_out(&crate::desk::udp(("100.64.3.9", 1), crate::desk::server(80)));
    desk.lab.take_sent();
    desk.lab.advance(2_100);
    let dropped = desk.lab.drops(ParkingFull) + desk.lab.drops(NeighbourUnresolved);
    assert_eq!(dropped, scanned);
    let told = desk.lab.take_sent();
    let unreachable = |frame: &[u8]| frame[20] == ICMP && frame[54..56] == [1, 3];
    let told = told.iter().filter(|(port, frame)| *port == INTERNAL && unreachable(frame)).count();
    assert!((1..=64).contains(&told), "{told}");
}

#[test]
fn the_error_about_a_silent_neighbour_quotes_the_packet_as_it_came() {
    let mut desk = desk(&config(), 1);
    let packet = udp(HOST, "2001:db8:b::77", 9);
    let sent = offer(&mut desk, INTERNAL, &packet);
    assert_eq!(sent, [question(EXTERNAL, "2001:db8:b::77")]);
    for _ in 0..22 {
        desk.lab.advance(100);
    }
    let sent = desk.lab.take_sent();
    assert!(sent.contains(&question(EXTERNAL, "2001:db8:b::77")));
    assert!(sent.contains(&error(INTERNAL, (1, 3), 0, &packet)), "{sent:?}");
    assert_eq!(desk.lab.drops(NeighbourUnresolved), 1);
}

#[test]
fn a_stranger_becomes_no_neighbour_and_takes_nobodys_place() {
    let mut desk = Desk::with(&asking(), 1, 1);
    up(&mut desk);
    desk.lab.advance(1_010);
    answer(&mut desk, EXTERNAL, NEAR[1], HOPS[1]);
    desk.lab.take_sent();
    passes(&mut desk, INTERNAL, &udp(HOST, SERVER, 9));
    // Another MAC for it, as an answer, unasked, and as a question of its own.
    for told in [
        discovery(NEAR[1], LINK_LOCAL[1], 136, 0x60, NEAR[1], Some(THIEF)),
        discovery(NEAR[1], "ff02::1", 136, 0x20, NEAR[1], Some(THIEF)),
        discovery(NEAR[1], OWN[1], 135, 0, OWN[1], Some(THIEF)),
    ] {
        desk.lab.arrive(0, EXTERNAL, &frame(port_mac(1), THIEF, &told));
        desk.lab.settle();
        desk.lab.take_sent();
        passes(&mut desk, INTERNAL, &udp(HOST, SERVER, 9));
    }
    assert_eq!(desk.lab.sum(|c| c.arp_conflicts.value()), 3);
    let conflicts = desk.lab.housekeeping.take_conflicts();
    let address = NEAR[1].parse().unwrap();
    assert_eq!(conflicts, [Conflict::Disputed { port: 1, address, used: HOPS[1], mac: THIEF }]);
    // The known one is asked; when it has been silent for a second, the other is believed.
    for _ in 0..20 {
        desk.lab.advance(100);
    }
    desk.lab.take_sent();
    answer(&mut desk, EXTERNAL, NEAR[1], THIEF);
    let sent = offer(&mut desk, INTERNAL, &udp(HOST, SERVER, 9));
    assert_eq!(sent[0].1[..6], THIEF);
}

#[test]
fn addresses_are_probed_for_a_second_then_used_and_announced_4862() {
    let mut desk = Desk::with(&config(), 1, 1);
    assert_eq!(refused(&mut desk, INTERNAL, &ping(HOST, OWN[0]), ToUs), []);
    up(&mut desk);
    let sent = desk.lab.take_sent();
    for port in [INTERNAL, EXTERNAL] {
        for own in [OWN[port], LINK_LOCAL[port]] {
            assert_eq!(sent.iter().filter(|sent| **sent == probe(port, own)).count(), 1);
        }
    }
    // Until then it neither answers nor talks with them, and packets pass all the same.
    let asked = discovery(NEAR[0], OWN[0], 135, 0, OWN[0], Some(HOPS[0]));
    assert_eq!(offer(&mut desk, INTERNAL, &asked), []);
    passes(&mut desk, INTERNAL, &udp(HOST, SERVER, 9));
    desk.lab.advance(1_010);
    desk.lab.advance(10);
    let sent = desk.lab.take_sent();
    for port in [INTERNAL, EXTERNAL] {
        for own in [OWN[port], LINK_LOCAL[port]] {
            assert!(sent.contains(&announcement(port, own)), "{own}: {sent:x?}");
        }
    }
    assert_eq!(offer(&mut desk, INTERNAL, &asked).len(), 1);
    assert_eq!(offer(&mut desk, INTERNAL, &ping(HOST, OWN[0])).len(), 1);
    // A link that comes back: they stay in use, and neighbours hear of them.
    desk.lab.links.set_down(INTERNAL);
    desk.lab.links.set_up(INTERNAL);
    desk.lab.advance(3_000);
    let sent = desk.lab.take_sent();
    assert!(sent.contains(&announcement(INTERNAL, OWN[0])));
    assert!(!sent.contains(&probe(INTERNAL, OWN[0])));
    assert_eq!(offer(&mut desk, INTERNAL, &ping(HOST, OWN[0])).len(), 1);
    assert_eq!(desk.lab.housekeeping.take_conflicts(), []);
}

#[test]
fn an_address_that_somebody_has_is_not_used_and_said_until_it_is_free_4862() {
    let objections: [fn() -> Vec<u8>; 2] = [
        // Who has it says so; or somebody probes for it at the same time.
        || discovery(OWN[1], "ff02::1", 136, 0x20, OWN[1], Some(THIEF)),
        || discovery("::", &group(OWN[1]).0, 135, 0, OWN[1], None),
    ];
    for objection in objections {
        let mut desk = Desk::with(&config(), 1, 1);
        up(&mut desk);
        desk.lab.advance(500);
        desk.lab.take_sent();
        let bytes = frame(group(OWN[1]).1, THIEF, &objection());
        assert_eq!(desk.lab.arrive(0, EXTERNAL, &bytes), []);
        desk.lab.advance(2_000);
        let address = OWN[1].parse().unwrap();
        let said = desk.lab.housekeeping.take_conflicts();
        assert_eq!(said, [Conflict::Duplicate { port: 1, address, mac: THIEF }]);
        assert!(!desk.lab.take_sent().contains(&announcement(EXTERNAL, OWN[1])));
        refused(&mut desk, EXTERNAL, &ping(SERVER, OWN[1]), ToUs);
        // Its other addresses are used, and packets pass.
        assert_eq!(offer(&mut desk, EXTERNAL, &ping(NEAR[1], LINK_LOCAL[1])).len(), 1);
        passes(&mut desk, INTERNAL, &udp(HOST, SERVER, 9));
        // A minute later it is probed again, and nobody objects.
        for _ in 0..63 {
            desk.lab.advance(1_000);
        }
        let sent = desk.lab.take_sent();
        assert!(sent.contains(&probe(EXTERNAL, OWN[1])));
        assert!(sent.contains(&announcement(EXTERNAL, OWN[1])));
        let said = desk.lab.housekeeping.take_conflicts();
        assert_eq!(said, [Conflict::Settled { port: 1, address }]);
        assert_eq!(offer(&mut desk, EXTERNAL, &ping(SERVER, OWN[1])).len(), 1);
    }
}

#[test]
fn an_address_in_use_is_defended() {
    let mut desk = desk(&config(), 1);
    desk.lab.advance(3_000);
    desk.lab.take_sent();
    // Who wants it is told that it is taken.
    let wanted = discovery("::", &group(OWN[1]).0, 135, 0, OWN[1], None);
    let sent = desk.lab.arrive(0, EXTERNAL, &frame(group(OWN[1]).1, THIEF, &wanted));
    assert_eq!(sent, [announcement(EXTERNAL, OWN[1])]);
    assert_eq!(desk.lab.housekeeping.take_conflicts(), []);
    // Who has it is not believed, and it is announced, every ten seconds at most.
    let claim = discovery(OWN[1], "ff02::1", 136, 0x20, OWN[1], Some(THIEF));
    let mut sent = Vec::new();
    for _ in 0..15 {
        for _ in 0..100 {
            sent.extend(desk.lab.arrive(0, EXTERNAL, &frame(ALL_NODES, THIEF, &claim)));
        }
        desk.lab.advance(1_000);
        sent.extend(desk.lab.take_sent());
    }
    assert_eq!(sent, vec![announcement(EXTERNAL, OWN[1]); 2]);
    let address = OWN[1].parse().unwrap();
    let said = desk.lab.housekeeping.take_conflicts();
    assert_eq!(said, [Conflict::Taken { port: 1, address, mac: THIEF }]);
    assert_eq!(desk.lab.sum(|c| c.arp_conflicts.value()), 1_500);
    assert_eq!(offer(&mut desk, EXTERNAL, &ping(SERVER, OWN[1])).len(), 1);
}

#[test]
fn what_the_box_says_itself_and_hears_again_is_no_conflict() {
    let mut desk = Desk::with(&config(), 1, 1);
    up(&mut desk);
    for (port, frame) in desk.lab.take_sent() {
        desk.lab.arrive(0, port, &frame);
    }
    desk.lab.advance(1_010);
    for (port, frame) in desk.lab.take_sent() {
        desk.lab.arrive(0, port, &frame);
    }
    desk.lab.settle();
    assert_eq!(desk.lab.housekeeping.take_conflicts(), []);
    assert_eq!(offer(&mut desk, INTERNAL, &ping(HOST, OWN[0])).len(), 1);
}
