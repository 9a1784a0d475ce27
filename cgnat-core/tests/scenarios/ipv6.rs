//! IPv6 that passes beside the NAT (decision 35): what does, what does not, and who is told.

use cgnat_core::packet::ethernet::BROADCAST;
use cgnat_core::testing::lab::port_mac;
use cgnat_core::verdict::DropReason::*;
use cgnat_core::worker::io::PacketBuf as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use crate::desk::{Desk, EXTERNAL, HOPS, INTERNAL, plain};
use crate::six::*;

#[test]
fn packets_pass_both_ways_at_any_worker_and_keep_nothing() {
    for workers in [1, 3] {
        let mut desk = desk(&config(), workers);
        for at in 0..usize::from(workers) {
            desk.at = at;
            for len in [0, 1, 100, 1452] {
                passes(&mut desk, INTERNAL, &udp(HOST, SERVER, len));
                passes(&mut desk, EXTERNAL, &udp(SERVER, HOST, len));
            }
            // Whatever is in it: fragments, other protocols, errors, nothing.
            let later = [[ICMP, 0, 0, 8, 0, 0, 0, 1], [9; 8]].concat();
            passes(&mut desk, INTERNAL, &packet(HOST, SERVER, 64, 44, &later));
            passes(&mut desk, EXTERNAL, &packet(SERVER, HOST, 64, 132, &[1; 40]));
            passes(&mut desk, EXTERNAL, &icmp(SERVER, HOST, 64, (1, 4), &[0; 60]));
            passes(&mut desk, INTERNAL, &packet(HOST, SERVER, 2, 59, &[]));
        }
        let all = u64::from(workers) * 6;
        assert_eq!(desk.lab.sum(|c| c.ipv6_outbound.value()), all);
        assert_eq!(desk.lab.sum(|c| c.ipv6_inbound.value()), all);
        assert_eq!(desk.lab.sum(|c| c.handed_off.value()), 0);
        assert_eq!(desk.mappings(), 0);
        assert_eq!(desk.lab.all_drops(), 0);
    }
}

#[test]
fn frames_lose_their_padding_and_tags_are_put_on_and_taken_off() {
    let mut desk =
        desk(&config().replace("device: net_null1", "device: net_null1\n    vlan: 200"), 1);
    let packet = udp(HOST, SERVER, 3);
    let mut padded = packet.clone();
    padded.extend([0; 9]);
    let sent = offer(&mut desk, INTERNAL, &padded);
    let mut expected = packet.clone();
    expected[7] -= 1;
    let tagged = |to: [u8; 6], from: [u8; 6], packet: &[u8]| {
        [&to[..], &from[..], &[0x81, 0, 0, 200, 0x86, 0xdd], packet].concat()
    };
    assert_eq!(sent, [(EXTERNAL, tagged(HOPS[1], port_mac(1), &expected))]);
    let back = udp(SERVER, HOST, 9);
    let mut expected = back.clone();
    expected[7] -= 1;
    let sent = desk.lab.arrive(0, EXTERNAL, &tagged(port_mac(1), HOPS[1], &back));
    assert_eq!(sent, [(INTERNAL, frame(HOPS[0], port_mac(0), &expected))]);
}

#[test]
fn without_ipv6_at_a_port_every_packet_is_dropped() {
    let mut desk = Desk::new(&plain());
    for packet in [udp(HOST, SERVER, 9), ping(NEAR[0], "ff02::1"), vec![0x60; 3]] {
        assert_eq!(refused(&mut desk, INTERNAL, &packet, Ipv6), []);
        assert_eq!(refused(&mut desk, EXTERNAL, &packet, Ipv6), []);
    }
}

#[test]
fn a_hop_limit_that_runs_out_is_told_to_its_sender() {
    let mut desk = desk(&config(), 1);
    for hop_limit in [0, 1] {
        let mut packet = udp(HOST, SERVER, 30);
        packet[7] = hop_limit;
        let sent = refused(&mut desk, INTERNAL, &packet, TtlExpired);
        assert_eq!(sent, [error(INTERNAL, (3, 0), 0, &packet)]);
        let mut back = udp(SERVER, HOST, 30);
        back[7] = hop_limit;
        let sent = refused(&mut desk, EXTERNAL, &back, TtlExpired);
        assert_eq!(sent, [error(EXTERNAL, (3, 0), 0, &back)]);
    }
}

#[test]
fn what_is_larger_than_the_way_out_is_told_the_mtu_and_never_fragmented() {
    let yaml = config().replace("device: net_null1", "device: net_null1\n    mtu: 1400");
    let mut desk = desk(&yaml, 1);
    passes(&mut desk, INTERNAL, &udp(HOST, SERVER, 1400 - 48));
    for len in [1401, 1500] {
        let packet = udp(HOST, SERVER, len - 48);
        let sent = refused(&mut desk, INTERNAL, &packet, TooBig);
        assert_eq!(sent, [error(INTERNAL, (2, 0), 1400, &packet)]);
    }
    // The other way is wide enough.
    passes(&mut desk, EXTERNAL, &udp(SERVER, HOST, 1400 - 48));
}

#[test]
fn nothing_passes_that_has_no_way_or_would_stay_on_its_side() {
    let mut desk = desk(&config(), 1);
    let stray = udp(SERVER, "2001:db8:200::1", 9);
    let sent = refused(&mut desk, EXTERNAL, &stray, Ipv6NoRoute);
    assert_eq!(sent, [error(EXTERNAL, (1, 0), 0, &stray)]);
    // It came from outside and would go out again.
    refused(&mut desk, EXTERNAL, &udp(SERVER, "2001:db8:eeee::1", 9), Ipv6NoRoute);
    for near in ["2001:db8:100:9::1", "2001:db8:a::77"] {
        let packet = udp(HOST, near, 9);
        let sent = refused(&mut desk, INTERNAL, &packet, Ipv6DestinationInside);
        assert_eq!(sent, [error(INTERNAL, (1, 1), 0, &packet)]);
    }
}

#[test]
fn sources_are_believed_only_where_they_belong() {
    // A second internal port, with a prefix of its own.
    let second = "  internal1:
    side: internal
    device: net_null2
    addresses: [10.255.1.2/30]
    ipv6: { addresses: [\"2001:db8:c::2/64\"] }
pools:";
    let two = config().replace("pools:", second);
    let elsewhere = "2001:db8:c::9";
    for (word, own, near, foreign) in [
        ("", true, false, false),
        (", source-check: strict", true, false, false),
        (", source-check: loose", true, true, false),
        (", source-check: off", true, true, true),
    ] {
        let key = format!("2001:db8:a::2/64\"]{word}");
        let mut desk = desk(&two.replace("2001:db8:a::2/64\"]", &key), 1);
        for (from, passes) in [(HOST, own), (elsewhere, near), (SERVER, foreign)] {
            let before = desk.lab.drops(Ipv6SourceSpoofed);
            let sent = offer(&mut desk, INTERNAL, &udp(from, "2001:db8:ffff::8", 9));
            assert_eq!(sent.len() == 1 && sent[0].0 == EXTERNAL, passes, "{word} {from}");
            assert_eq!(desk.lab.drops(Ipv6SourceSpoofed) - before, u64::from(!passes));
        }
    }
    let mut desk = desk(&config(), 1);
    for inside in [HOST, "2001:db8:a::9"] {
        let packet = udp(inside, "2001:db8:100::1", 9);
        assert_eq!(refused(&mut desk, EXTERNAL, &packet, Ipv6SourceSpoofed), []);
    }
}

#[test]
fn what_is_of_one_link_or_of_nobody_is_not_forwarded() {
    let mut desk = desk(&config(), 1);
    let from_link = udp("fe80::77", SERVER, 9);
    let sent = refused(&mut desk, INTERNAL, &from_link, Ipv6LinkLocal);
    assert_eq!(sent, [error(INTERNAL, (1, 2), 0, &from_link)]);
    for (from, to) in [(HOST, "fe80::77"), ("fe80::78", "fe80::77")] {
        assert_eq!(refused(&mut desk, INTERNAL, &udp(from, to, 9), Ipv6LinkLocal), []);
    }
    for from in ["::", "::1", "::ffff:10.0.0.1", "ff02::1", OWN[0], OWN[1]] {
        let sent = refused(&mut desk, INTERNAL, &udp(from, SERVER, 9), Ipv6SourceMartian);
        assert_eq!(sent, [], "{from}");
    }
    for to in ["::", "::1", "::7f00:1", "::ffff:10.0.0.1"] {
        assert_eq!(refused(&mut desk, INTERNAL, &udp(HOST, to, 9), Ipv6DestinationMartian), []);
    }
    for to in ["ff02::1", "ff02::fb", "ff05::2", "ff0e::1"] {
        assert_eq!(refused(&mut desk, EXTERNAL, &udp(SERVER, to, 9), Ipv6Group), []);
    }
    // Many stations get such a frame; one of them may be the destination.
    for to in [BROADCAST, [0x33, 0x33, 0, 0, 0, 1]] {
        let frame = frame(to, HOPS[0], &udp(HOST, SERVER, 9));
        assert_eq!(frame_refused(&mut desk, INTERNAL, &frame, FrameNotForUs), []);
        let frame = crate::six::frame(to, HOPS[0], &ping(HOST, OWN[0]));
        assert_eq!(frame_refused(&mut desk, INTERNAL, &frame, FrameNotForUs), []);
    }
    // Another station's.
    let frame = frame([2, 9, 9, 9, 9, 9], HOPS[0], &udp(HOST, SERVER, 9));
    frame_refused(&mut desk, INTERNAL, &frame, FrameNotForUs);
}

#[test]
fn packets_that_are_not_whole_are_dropped() {
    let mut desk = desk(&config(), 1);
    let good = udp(HOST, SERVER, 30);
    for len in 0..good.len() {
        assert_eq!(refused(&mut desk, INTERNAL, &good[..len], Ipv6Header), [], "{len}");
    }
    for (at, value) in [(0, 0x45), (0, 0x70), (4, 1)] {
        let mut other = good.clone();
        other[at] = value;
        refused(&mut desk, INTERNAL, &other, Ipv6Header);
    }
    // A jumbogram says so behind a length of zero.
    refused(&mut desk, INTERNAL, &packet(HOST, SERVER, 64, 0, &[]), Ipv6Header);
    // A driver has cut this one off.
    let mut long = udp(HOST, SERVER, 3_000);
    long.truncate(1_600);
    refused(&mut desk, INTERNAL, &long, FrameCut);
}

#[test]
fn own_addresses_answer_pings_and_nothing_else() {
    let mut desk = desk(&config(), 1);
    for (port, link_local) in [(INTERNAL, "fe80::ff:fe00:100"), (EXTERNAL, "fe80::ff:fe00:101")] {
        let far = [HOST, SERVER][port];
        for (from, to) in [(far, OWN[port]), (NEAR[port], link_local), (NEAR[port], OWN[port])] {
            let answer = icmp(to, from, 64, (129, 0), &[0, 7, 0, 1, 1, 2, 3]);
            let answer = frame(HOPS[port], port_mac(port), &answer);
            assert_eq!(offer(&mut desk, port, &ping(from, to)), [(port, answer)]);
        }
        for other in [
            udp(far, OWN[port], 9),
            icmp(far, OWN[port], 64, (129, 0), &[0; 4]),
            icmp(far, OWN[port], 64, (133, 0), &[0; 4]),
            packet(far, OWN[port], 64, 44, &[ICMP, 0, 0, 1, 0, 0, 0, 1, 128, 0, 0, 0, 0, 0, 0, 0]),
            ping(far, OWN[1 - port]),
        ] {
            assert_eq!(refused(&mut desk, port, &other, ToUs), []);
        }
    }
    assert_eq!(desk.lab.sum(|c| c.echo_answered.value()), 6);
}

#[test]
fn what_is_for_the_box_goes_to_the_kernel_where_it_has_an_interface() {
    let yaml =
        config().replace("device: net_null1", "device: net_null1\n    kernel-interface: k-ext");
    let mut desk = desk(&yaml, 1);
    let taken = |desk: &mut Desk, port: usize| -> Vec<Vec<u8>> {
        let taken = std::mem::take(&mut desk.lab.workers[0].io_mut().to_kernel[port]);
        taken.iter().map(|packet| packet.bytes().to_vec()).collect()
    };
    taken(&mut desk, EXTERNAL);
    let later = [[UDP, 0, 0, 8, 0, 0, 0, 1], [9; 8]].concat();
    let hello = packet(NEAR[1], "ff02::5", 1, 89, &[3; 36]);
    for packet in [
        udp(SERVER, OWN[1], 9),
        udp(SERVER, OWN[0], 9),
        udp(NEAR[1], "fe80::ff:fe00:101", 9),
        packet(SERVER, OWN[1], 64, 44, &later),
        icmp(SERVER, OWN[1], 64, (129, 0), &[0; 4]),
        hello,
    ] {
        let frame = frame(port_mac(EXTERNAL), HOPS[EXTERNAL], &packet);
        assert_eq!(desk.lab.arrive(0, EXTERNAL, &frame), []);
        assert_eq!(taken(&mut desk, EXTERNAL), [frame]);
    }
    // Pings and solicitations are answered here; what would set up the kernel, or is of others, is not
    // for it; a port without interface has nobody.
    assert_eq!(offer(&mut desk, EXTERNAL, &ping(SERVER, OWN[1])).len(), 1);
    let asked = discovery(NEAR[1], OWN[1], 135, 0, OWN[1], Some(HOPS[1]));
    assert_eq!(offer(&mut desk, EXTERNAL, &asked).len(), 1);
    for group in [
        icmp(NEAR[1], "ff02::1", 255, (134, 0), &[0; 12]),
        packet(NEAR[1], "ff02::16", 1, 0, &[ICMP, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0]),
        udp(SERVER, "ff05::2", 9),
    ] {
        refused(&mut desk, EXTERNAL, &group, Ipv6Group);
    }
    refused(&mut desk, INTERNAL, &packet(NEAR[0], "ff02::5", 1, 89, &[3; 36]), Ipv6Group);
    refused(&mut desk, INTERNAL, &udp(HOST, OWN[0], 9), ToUs);
    assert_eq!(taken(&mut desk, EXTERNAL), [[0; 0]; 0]);
    // A copy of an answer to us, and of nothing else.
    let answer = discovery(NEAR[1], OWN[1], 136, 0x60, NEAR[1], Some(HOPS[1]));
    assert_eq!(offer(&mut desk, EXTERNAL, &answer), []);
    assert_eq!(taken(&mut desk, EXTERNAL), [frame(port_mac(1), HOPS[1], &answer)]);
    let unasked = discovery(NEAR[1], "ff02::1", 136, 0x20, NEAR[1], Some(HOPS[1]));
    offer(&mut desk, EXTERNAL, &unasked);
    assert_eq!(taken(&mut desk, EXTERNAL), [[0; 0]; 0]);
    // A flood from afar takes nothing of what neighbours say.
    for n in 0..2_100 {
        offer(&mut desk, EXTERNAL, &udp(SERVER, OWN[1], n % 9));
    }
    assert!(desk.lab.drops(PuntLimited) > 90);
    taken(&mut desk, EXTERNAL);
    let mut session = packet(NEAR[1], "fe80::ff:fe00:101", 64, 6, &[7; 20]);
    session[42..44].copy_from_slice(&179u16.to_be_bytes());
    let mut bfd = udp(SERVER, OWN[1], 24);
    bfd[42..44].copy_from_slice(&3784u16.to_be_bytes());
    bfd[7] = 255;
    for packet in [&session, &bfd] {
        assert_eq!(offer(&mut desk, EXTERNAL, packet), []);
        assert_eq!(taken(&mut desk, EXTERNAL).len(), 1);
    }
}

#[test]
fn about_errors_groups_and_parts_of_errors_nobody_is_told() {
    let mut desk = desk(&config(), 1);
    let expired = |mut packet: Vec<u8>| {
        packet[7] = 1;
        packet
    };
    for packet in [
        icmp(HOST, SERVER, 1, (1, 4), &[0; 60]),
        icmp(HOST, SERVER, 1, (137, 0), &[0; 60]),
        expired(packet(HOST, SERVER, 1, 44, &[ICMP, 0, 0, 8, 0, 0, 0, 1, 128, 0, 0, 0])),
        expired(packet(HOST, SERVER, 1, 60, &[ICMP, 0, 1, 4, 0, 0, 0, 0])),
    ] {
        assert_eq!(refused(&mut desk, INTERNAL, &packet, TtlExpired), []);
    }
    // Of others they are told: pings, later fragments of UDP.
    for packet in [
        icmp(HOST, SERVER, 1, (128, 0), &[0; 4]),
        packet(HOST, SERVER, 1, 44, &[UDP, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4]),
    ] {
        assert_eq!(refused(&mut desk, INTERNAL, &packet, TtlExpired).len(), 1);
    }
}

#[test]
fn errors_have_a_rate_per_network_and_side_beside_those_of_the_nat() {
    let rates = "nat44: { icmp-errors: { per-receiver: 10, in-all: 50 } }\n";
    let mut desk = desk(&(config() + rates), 1);
    let mut told = |from: &str, port| {
        let mut packet = if port == INTERNAL { udp(from, SERVER, 9) } else { udp(from, HOST, 9) };
        packet[7] = 1;
        refused(&mut desk, port, &packet, TtlExpired).len()
    };
    let network = |n: usize, told: &mut dyn FnMut(&str, usize) -> usize| -> usize {
        (0..30).map(|host| told(&format!("2001:db8:100:{n:x}::{host:x}"), INTERNAL)).sum()
    };
    assert_eq!(network(1, &mut told), 10);
    assert_eq!(network(2, &mut told), 10);
    let others: usize = (3..60).map(|n| network(n, &mut told)).sum();
    assert_eq!(others, 30);
    assert_eq!(told(SERVER, EXTERNAL), 1);
    // The NAT's are its own.
    let mut packet = crate::desk::udp(("100.64.3.9", 1), crate::desk::server(80));
    packet.ttl = 1;
    assert_eq!(desk.offer(INTERNAL, &packet).len(), 1);
    assert_eq!(desk.lab.sum(|c| c.errors_withheld.value()), 59 * 30 - 50);
    let silent = "nat44: { icmp-errors: { to-internal: false } }\n";
    let mut desk = crate::six::desk(&(config() + silent), 1);
    let mut packet = udp(HOST, SERVER, 9);
    packet[7] = 1;
    assert_eq!(refused(&mut desk, INTERNAL, &packet, TtlExpired), []);
}

#[test]
fn what_would_leave_by_a_link_that_is_down_is_dropped() {
    let mut desk = desk(&config(), 1);
    desk.lab.links.set_down(EXTERNAL);
    refused(&mut desk, INTERNAL, &udp(HOST, SERVER, 9), LinkDown);
    passes(&mut desk, EXTERNAL, &udp(SERVER, HOST, 9));
    desk.lab.links.set_up(EXTERNAL);
    passes(&mut desk, INTERNAL, &udp(HOST, SERVER, 9));
}

#[test]
fn checksums_that_a_kernel_left_to_a_card_are_computed_on_packet_sockets() {
    let yaml = config().replace("net_null0", "\"net_af_packet0,iface=cg-int\"");
    let mut desk = desk(&yaml, 1);
    for len in [0, 1, 77, 1400] {
        let right = udp(HOST, SERVER, len);
        let mut left = right.clone();
        let sum = !sum(ip(HOST), ip(SERVER), UDP, &[]);
        // Over the pseudo-header alone, with its real length.
        let sum = u32::from(sum) + right.len() as u32 - 40;
        let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
        left[46..48].copy_from_slice(&sum.to_be_bytes());
        let mut expected = right.clone();
        expected[7] -= 1;
        let sent = offer(&mut desk, INTERNAL, &left);
        assert_eq!(sent, [(EXTERNAL, frame(HOPS[1], port_mac(1), &expected))], "{len}");
    }
    assert_eq!(desk.lab.sum(|c| c.ports[INTERNAL].rx_completed.value()), 4);
}

/// Whatever comes, nothing panics and each frame is accounted for (the desk looks at its end).
#[test]
fn random_frames_are_all_accounted_for() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut desk = desk(&asking(), 2);
    let addresses = [
        HOST,
        SERVER,
        OWN[0],
        OWN[1],
        NEAR[0],
        NEAR[1],
        "fe80::ff:fe00:100",
        "ff02::1",
        "::",
        "::1",
        "ff02::1:ff00:2",
        "2001:db8:a::77",
        "2001:db8:b::77",
        "2001:db8:200::1",
    ];
    let mut below = |bound: usize| random.next_u32() as usize % bound;
    for n in 0..40_000 {
        let (from, to) = (addresses[below(addresses.len())], addresses[below(addresses.len())]);
        let target = addresses[below(addresses.len())];
        let mut bytes = match below(8) {
            0 => udp(from, to, below(1500)),
            1 => ping(from, to),
            2 => discovery(from, to, 135, 0, target, [None, Some(HOPS[0])][below(2)]),
            3 => discovery(from, to, 136, [0, 0x40, 0x60][below(3)], target, Some(HOPS[below(2)])),
            4 => icmp(from, to, 255, (below(256) as u8, 0), &vec![below(256) as u8; below(100)]),
            5 => packet(
                from,
                to,
                64,
                [0, 43, 44, 60, 59, 6][below(6)],
                &vec![below(9) as u8; below(80)],
            ),
            6 => (0..below(120)).map(|_| below(256) as u8).collect(),
            _ => packet(from, to, below(3) as u8, below(256) as u8, &[7; 9]),
        };
        for _ in 0..below(3) {
            if !bytes.is_empty() {
                let at = below(bytes.len());
                match below(3) {
                    0 => bytes[at] ^= 1 << below(8),
                    1 => bytes.truncate(at),
                    _ => bytes.insert(at, below(256) as u8),
                }
            }
        }
        let (port, worker) = (below(2), below(2));
        let station = [port_mac(port), port_mac(port), group(target).1, BROADCAST][below(4)];
        let mac = [HOPS[port], HOPS[port], port_mac(port), [2, 0, 0, 0, 7, 7]][below(4)];
        desk.lab.arrive(worker, port, &frame(station, mac, &bytes));
        if n % 250 == 0 {
            desk.lab.advance(below(400) as u64);
            desk.lab.take_sent();
        }
    }
    assert!(desk.lab.sum(|c| c.nd_received.value()) > 500);
    assert!(desk.lab.sum(|c| c.ipv6_outbound.value()) > 100);
    let kinds = desk.drops();
    for reason in [Ipv6Header, NdMalformed, Ipv6NoRoute, Ipv6Group, ToUs, NeighbourUnresolved] {
        assert!(kinds.contains_key(&reason), "no {}: {kinds:?}", reason.name());
    }
}
