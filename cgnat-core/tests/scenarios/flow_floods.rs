//! Floods of new flows: at one bucket of the index, from one subscriber, from all subscribers of a
//! worker. What exists goes on; what is shed is counted (decision 28).

use cgnat_core::packet::plain;
use cgnat_core::table::index::buckets_for;
use cgnat_core::testing::io::MemoryPacket;
use cgnat_core::verdict::DropReason::*;
use cgnat_core::worker::io::BURST;

use crate::desk::*;
use crate::wire::{Body, Packet, ip};

/// Flows of one tick.
const PER_TICK: usize = 1000;

/// One that begins [`PER_TICK`] flows per tick when it is pressed, with blocks large enough.
fn guarded(more: &str) -> String {
    config(
        "{ addresses: [203.0.113.0/28], allocation: { block-size: 1024 } }",
        &format!("system: {{ max-mappings: 60_000, new-flows-under-load: 10_000 }}\n{more}"),
    )
}

fn host(n: u32) -> String {
    std::net::Ipv4Addr::from(ip("100.64.0.0") + 1 + n).to_string()
}

/// All of them are there before the worker polls, which then finds full bursts until the end.
fn arrive(desk: &mut Desk, port: usize, packets: &[Packet]) -> Frames {
    for packet in packets {
        let frame = desk.arriving(port, packet);
        desk.lab.workers[0].io_mut().arrive(port, MemoryPacket::new(&frame));
    }
    desk.lab.run_workers();
    desk.lab.take_sent()
}

/// Packets that get nobody a flow, as many as make the worker pressed.
fn press(desk: &mut Desk) {
    let arp = vec![vec![0xff; 60]; 17 * BURST];
    for frame in &arp {
        desk.lab.workers[0].io_mut().arrive(INTERNAL, MemoryPacket::new(frame));
    }
    desk.lab.run_workers();
}

fn pressed_ticks(desk: &Desk) -> u64 {
    desk.lab.sum(|c| c.pressed.value())
}

fn created(desk: &Desk) -> usize {
    desk.lab.sum(|c| c.mappings_created.value()) as usize
}

#[test]
fn a_flood_of_all_subscribers_takes_nothing_from_flows_that_exist() {
    let mut desk = Desk::new(&guarded(""));
    let old: Vec<Packet> = (0..60)
        .map(|n| udp((&host(n), 4000), server(53)))
        .chain([tcp((&host(7), 9), server(80), SYN)])
        .collect();
    let ends: Vec<_> = old.iter().map(|packet| desk.goes_out(packet)).collect();
    desk.lab.advance(1_000);
    // Nine of ten packets are first ones, of sixty subscribers in turn.
    let mut flood = Vec::new();
    let mut from_old = 0;
    for n in 0..40_000u32 {
        if n % 10 == 0 {
            // One without DF, one whose checksum is none: not only plain packets are old.
            let mut packet = old[from_old % 60].clone();
            packet.df = from_old % 3 > 0;
            if let Body::Udp { checksummed, .. } = &mut packet.body {
                *checksummed = from_old % 5 > 0;
            }
            from_old += 1;
            flood.push(packet);
        }
        let flags = if n % 3 == 0 { SYN } else { 0 };
        let from = (&host(n % 60)[..], 5000 + (n / 60) as u16);
        flood.push(match flags {
            0 => udp(from, server(443)),
            _ => tcp(from, server(443), flags),
        });
    }
    let sent = arrive(&mut desk, INTERNAL, &flood);
    // What was taken before the worker had noticed, and the number of a tick.
    let begun = created(&desk) - old.len();
    assert!((PER_TICK..=PER_TICK + 17 * BURST).contains(&begun), "{begun} flows");
    assert_eq!(sent.len(), from_old + begun, "every packet of a flow that exists");
    assert_eq!(desk.drops(), [(Overload, 40_000 - begun as u64)].into());
    assert_eq!(pressed_ticks(&desk), 1);
    assert_eq!(desk.lab.sum(|c| c.originated.value()), 0, "nobody is told");
    // Both ways, in the midst of it.
    for (packet, end) in old.iter().zip(&ends) {
        let (Body::Udp { source, .. } | Body::Tcp { source, .. }) = packet.body else { panic!() };
        let inside = std::net::Ipv4Addr::from(packet.source).to_string();
        let back = match packet.body {
            Body::Udp { .. } => udp((SERVER, 53), *end),
            _ => tcp((SERVER, 80), *end, SYN | ACK),
        };
        desk.comes_in(&back, (&inside, source));
    }
    // A tick later there is room again.
    desk.lab.advance(100);
    let more: Vec<_> =
        (0..500).map(|n| udp((&host(n % 60), 30_000 + n as u16), server(1))).collect();
    assert_eq!(arrive(&mut desk, INTERNAL, &more).len(), 500);
}

#[test]
fn a_flood_of_one_subscriber_leaves_the_others_their_new_flows() {
    let mut desk = Desk::new(&guarded(""));
    for n in 0..60 {
        desk.goes_out(&udp((&host(n), 4000), server(53)));
    }
    desk.lab.advance(1_000);
    press(&mut desk);
    let before = created(&desk);
    // For each new flow of one of 59 there are a hundred of the sixtieth.
    let mut flood = Vec::new();
    for n in 0..59 {
        flood.extend((0..60).map(|k| udp((&host(59), 5000 + n * 60 + k), server(443))));
        flood.push(udp((&host(u32::from(n)), 7000), server(443)));
        flood.push(tcp((&host(u32::from(n)), 7001), server(443), SYN));
        flood.push(echo(true, &host(u32::from(n)), ip(SERVER), 7002));
    }
    let drops = desk.drops().get(&Overload).copied().unwrap_or(0);
    let sent = arrive(&mut desk, INTERNAL, &flood);
    let of_others = sent.len() - (created(&desk) - before - 59 * 3);
    assert_eq!(of_others, 59 * 3, "each of the others got its three");
    let shed = desk.drops()[&Overload] - drops;
    let of_one = 59 * 60 - shed as usize;
    assert!((400..=500).contains(&of_one), "less than half of a tick's: {of_one}");
    assert_eq!(sent.len(), of_one + 59 * 3);
    // And those who are new.
    let new: Vec<_> = (60..100).map(|n| udp((&host(n), 1), server(53))).collect();
    assert_eq!(arrive(&mut desk, INTERNAL, &new).len(), 40);
    // Not the one.
    desk.refused(INTERNAL, &udp((&host(59), 60_000), server(53)), Overload);
    desk.refused(INTERNAL, &tcp((&host(59), 60_000), server(53), SYN), Overload);
    desk.refused(INTERNAL, &echo(true, &host(59), ip(SERVER), 60_000), Overload);
}

#[test]
fn a_worker_that_keeps_up_sheds_nothing_however_many_flows_begin() {
    let mut desk = Desk::new(&guarded(""));
    // Fifteen full bursts, and a rest.
    for n in 0..20u32 {
        let flows = (0..15 * BURST as u32).map(|k| {
            let n = n * 480 + k;
            udp((&host(n % 60), 2000 + (n / 60) as u16), server(53))
        });
        let flows: Vec<_> = flows.collect();
        assert_eq!(arrive(&mut desk, INTERNAL, &flows).len(), flows.len());
    }
    assert_eq!((created(&desk), pressed_ticks(&desk)), (9600, 0));
    // Without a bound, always.
    let mut desk = Desk::new(&guarded("").replace("10_000", "off"));
    let flows: Vec<_> =
        (0..9600u32).map(|n| udp((&host(n % 60), 2000 + (n / 60) as u16), server(53))).collect();
    assert_eq!(arrive(&mut desk, INTERNAL, &flows).len(), 9600);
    assert_eq!((created(&desk), pressed_ticks(&desk)), (9600, 1));
}

#[test]
fn what_is_no_subscribers_or_no_beginning_takes_no_part_of_the_new_flows() {
    let mut desk = Desk::new(&guarded(""));
    let stranger = |n: u16| udp(("198.51.100.200", n), server(53));
    let segment = |n: u16| tcp((&host(1), n), server(80), ACK);
    let flood: Vec<_> = (1..3000).flat_map(|n| [stranger(n), segment(n)]).collect();
    assert_eq!(arrive(&mut desk, INTERNAL, &flood), []);
    assert_eq!(desk.drops(), [(SourceNotSubscriber, 2999), (TcpNotSyn, 2999)].into());
    assert_eq!(pressed_ticks(&desk), 1);
    let flows: Vec<_> =
        (0..900u32).map(|n| udp((&host(n % 100), 9 + n as u16), server(53))).collect();
    assert_eq!(arrive(&mut desk, INTERNAL, &flows).len(), 900, "of {PER_TICK}");
}

#[test]
fn flows_that_take_the_long_way_are_bounded_and_count_once() {
    // A rate is asked for on the long way only; a protocol without ports has its own.
    let limited = guarded("nat44: { other-protocols: { gre: carry } }\n")
        .replace("pool: main }\n", "pool: main, limits: { new-sessions-per-second: 100_000 } }\n");
    let mut desk = Desk::new(&limited);
    for n in 0..60 {
        desk.goes_out(&udp((&host(n), 4000), server(53)));
    }
    desk.lab.advance(1_000);
    press(&mut desk);
    let flows = |port: u16| -> Vec<_> {
        (0..200u32).map(|n| udp((&host(n % 50), port + (n / 50) as u16), server(53))).collect()
    };
    assert_eq!(arrive(&mut desk, INTERNAL, &flows(5000)).len(), 200);
    let tunnel = |n: u32| {
        let mut packet = udp((&host(50), 0), (ip("8.0.0.0") + n, 0));
        packet.body = Body::Bare { protocol: 47 };
        packet
    };
    let tunnels: Vec<_> = (0..2000).map(tunnel).collect();
    assert_eq!(arrive(&mut desk, INTERNAL, &tunnels).len(), 400, "half of the 800 that are left");
    // Those that exist pass.
    assert_eq!(arrive(&mut desk, INTERNAL, &tunnels[..400]).len(), 400);
    assert_eq!(desk.drops()[&Overload], 1600);
}

#[test]
fn flows_that_all_fall_into_one_bucket_are_refused_and_counted_and_others_go_on() {
    // Somebody who knew the key, and so both buckets of each flow.
    let mut desk =
        Desk::new(&config("{ addresses: [203.0.113.0/28] }", "system: { max-mappings: 1000 }\n"));
    let count = buckets_for(1000) as u64;
    let pair = |hash: u64| {
        let mixed = (hash >> 16).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (((hash >> 32) * count) >> 32, (mixed * count) >> 32)
    };
    let flow = |n: u32| udp((&host(n >> 14), 1024 + (n & 0x3fff) as u16), server(53));
    let hash = |desk: &Desk, packet: &Packet| {
        let plain = plain::read(&packet.bytes()).unwrap();
        desk.lab.workers[0].shard().hash_outbound(&plain)
    };
    let mut chosen = Vec::new();
    let aim = pair(hash(&desk, &flow(0)));
    for n in 0.. {
        let packet = flow(n);
        if pair(hash(&desk, &packet)) == aim {
            chosen.push(packet);
        }
        if chosen.len() == 30 {
            break;
        }
    }
    let old = udp(("100.64.200.1", 1), server(53));
    let end = desk.goes_out(&old);
    let ends: Vec<_> = chosen[..20].iter().map(|packet| desk.goes_out(packet)).collect();
    for packet in &chosen[20..] {
        desk.refused(INTERNAL, packet, MappingTableFull);
    }
    assert_eq!(desk.drops(), [(MappingTableFull, 10)].into());
    for (packet, end) in chosen.iter().zip(&ends) {
        assert_eq!(desk.goes_out(packet), *end);
    }
    assert_eq!(desk.goes_out(&old), end);
    for port in 100..400 {
        desk.goes_out(&udp(("100.64.200.1", port), server(53)));
    }
}
