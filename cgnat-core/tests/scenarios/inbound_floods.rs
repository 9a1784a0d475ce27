//! Floods from outside: at one endpoint, at one address, at ports that nobody has. What others get
//! goes on (decision 29).

use cgnat_core::policy::flood_guard::{Aim, Flood, LEAST};
use cgnat_core::testing::io::MemoryPacket;
use cgnat_core::testing::lab::port_mac;
use cgnat_core::verdict::DropReason::*;
use cgnat_core::worker::io::BURST;

use crate::desk::*;
use crate::six;
use crate::wire::{Packet, ip};

/// Packets of one tick.
const PER_TICK: u32 = 50_000;

fn host(n: u32) -> String {
    std::net::Ipv4Addr::from(ip("100.64.0.0") + 1 + n).to_string()
}

/// A box with many addresses, and the external endpoint of one flow each of a hundred subscribers.
fn opened(more: &str) -> (Desk, Vec<(u32, u16)>) {
    let pool = "{ addresses: [203.0.113.0/26], allocation: { block-size: 512 } }";
    let mut desk = Desk::new(&config(pool, more));
    let ends = (0..100).map(|n| desk.goes_out(&udp((&host(n), 4000), server(53)))).collect();
    (desk, ends)
}

/// A tick's packets arrive before the worker polls, which finds full bursts until the end; those of
/// the flood between those for others. How many of each were sent inward.
fn tick(desk: &mut Desk, flood: &[(u32, u16)], others: &[(u32, u16)]) -> (usize, usize) {
    let from = ("198.51.100.99", 53);
    let mut arrive = |packet: &Packet| {
        let frame = desk.arriving(EXTERNAL, packet);
        desk.lab.workers[0].io_mut().arrive(EXTERNAL, MemoryPacket::new(&frame));
    };
    for n in 0..PER_TICK {
        if let Some(to) = flood.get(n as usize % flood.len().max(1)) {
            arrive(&udp(from, *to));
        }
        if n % 20 == 0
            && let Some(to) = others.get(n as usize / 20 % others.len().max(1))
        {
            arrive(&udp((SERVER, 53), *to));
        }
    }
    desk.lab.run_workers();
    let sent = desk.lab.take_sent();
    let of_others = sent.iter().filter(|(_, frame)| frame[26..30] == ip(SERVER).to_be_bytes());
    let of_others = of_others.count();
    desk.lab.advance(100);
    (sent.len() - of_others, of_others)
}

fn flood(desk: &Desk) -> Option<Flood> {
    desk.lab.counters[0].flood()
}

#[test]
fn a_flood_at_one_endpoint_takes_nothing_from_others() {
    let (mut desk, ends) = opened("");
    let target = ends[7];
    // One of the same subscriber is another.
    let neighbour = desk.goes_out(&udp((&host(7), 4001), server(53)));
    let others: Vec<_> =
        ends.iter().copied().filter(|end| *end != target).chain([neighbour]).collect();
    for n in 0..12 {
        let (of_flood, of_others) = tick(&mut desk, &[target], &others);
        assert_eq!(of_others, PER_TICK as usize / 20, "tick {n}");
        if n == 0 {
            assert_eq!(of_flood, PER_TICK as usize, "nobody knew");
        } else if n > 6 {
            let off = of_flood.abs_diff(LEAST as usize);
            assert!(off < LEAST as usize / 100, "{of_flood} in tick {n}");
        }
    }
    let aim = Aim { address: target.0, protocol: 17, port: target.1 };
    assert_eq!(
        flood(&desk),
        Some(Flood { aim, address6: None, is_address: false, arrived: PER_TICK })
    );
    assert_eq!(desk.drops().keys().collect::<Vec<_>>(), [&Flood]);
    // It is over.
    for _ in 0..40 {
        tick(&mut desk, &[], &others);
    }
    assert_eq!(flood(&desk), None);
    let (shed, _) = (desk.drops()[&Flood], tick(&mut desk, &[target], &[]));
    assert_eq!(desk.drops()[&Flood], shed, "all pass again until the guard has counted them");
}

#[test]
fn a_flood_at_all_ports_of_an_address_takes_nothing_from_other_addresses() {
    let (mut desk, ends) = opened("");
    let address = ends[7].0;
    let others: Vec<_> = ends.iter().copied().filter(|end| end.0 != address).collect();
    // Mapped ports too, and mostly ports that nobody has.
    let ports: Vec<_> = (1024..51_024).map(|port| (address, port)).collect();
    for _ in 0..12 {
        let (_, of_others) = tick(&mut desk, &ports, &others);
        assert_eq!(of_others, PER_TICK as usize / 20);
    }
    let seen = flood(&desk).unwrap();
    assert_eq!((seen.aim.address, seen.is_address), (address, true));
    let drops = desk.drops();
    let rest = drops[&NoMapping] + drops.get(&PortNotLent).copied().unwrap_or(0);
    assert!(drops[&Flood] > 4 * u64::from(PER_TICK) && rest > u64::from(PER_TICK), "{drops:?}");
}

#[test]
fn without_the_guard_and_without_a_culprit_nothing_is_shed() {
    let (mut desk, ends) = opened("system: { max-mappings: 20_000, flood-guard: false }\n");
    for _ in 0..5 {
        assert_eq!(tick(&mut desk, &[ends[7]], &[]).0, PER_TICK as usize);
    }
    assert_eq!((flood(&desk), desk.drops().len()), (None, 0));
    let (mut desk, ends) = opened("");
    for _ in 0..5 {
        assert_eq!(tick(&mut desk, &ends, &[]).0, PER_TICK as usize);
    }
    assert_eq!((flood(&desk), desk.drops().len()), (None, 0));
}

#[test]
fn what_nobody_has_asked_for_ends_as_no_mapping_whichever_way_it_takes() {
    let (mut desk, ends) = opened("");
    let end = ends[0];
    let stranger = ("198.51.100.99", 53);
    // The short way: another protocol, a port in a lent block.
    desk.refused(EXTERNAL, &tcp(stranger, end, ACK), NoMapping);
    // The long way: a SYN, and a packet with options.
    desk.refused(EXTERNAL, &tcp(stranger, end, SYN), NoMapping);
    let mut with_options = tcp(stranger, end, ACK);
    with_options.options = vec![1; 4];
    desk.refused(EXTERNAL, &with_options, NoMapping);
    // What is wrong with a packet comes first.
    let mut late = tcp(stranger, end, ACK);
    late.ttl = 1;
    desk.lab.arrive(0, EXTERNAL, &desk.arriving(EXTERNAL, &late));
    desk.refused(EXTERNAL, &tcp(("100.64.0.9", 53), end, ACK), SourceSpoofed);
    desk.refused(EXTERNAL, &tcp(stranger, (end.0, 80), ACK), PortNotLent);
}

/// A worker that has just found out what to shed, and its endpoints.
fn shedding() -> (Desk, Vec<(u32, u16)>) {
    let (mut desk, ends) = opened("");
    for _ in 0..8 {
        tick(&mut desk, &ends[..1], &ends[1..]);
    }
    (desk, ends)
}

/// Packets for an endpoint arrive; how many of them one poll takes.
fn one_poll(desk: &mut Desk, to: (u32, u16)) -> usize {
    let frame = desk.arriving(EXTERNAL, &udp(("198.51.100.99", 53), to));
    for _ in 0..PER_TICK {
        desk.lab.workers[0].io_mut().arrive(EXTERNAL, MemoryPacket::new(&frame));
    }
    let now = desk.lab.now;
    let before = desk.lab.counters[0].ports[EXTERNAL].rx_packets.value();
    desk.lab.workers[0].poll(now);
    (desk.lab.counters[0].ports[EXTERNAL].rx_packets.value() - before) as usize
}

#[test]
fn of_a_flood_a_poll_takes_eight_bursts_but_one_if_others_wait() {
    let (mut desk, ends) = shedding();
    let takes = one_poll(&mut desk, ends[0]);
    assert_eq!(takes, 8 * BURST);
    desk.lab.run_workers();
    // Others in the same queue are translated, one burst at a time.
    let takes = one_poll(&mut desk, ends[1]);
    assert_eq!(takes, BURST);
    desk.lab.run_workers();
    // And so do those who wait at another port.
    let frame = desk.arriving(INTERNAL, &udp((&host(3), 4000), server(53)));
    for _ in 0..BURST {
        desk.lab.workers[0].io_mut().arrive(INTERNAL, MemoryPacket::new(&frame));
    }
    let takes = one_poll(&mut desk, ends[0]);
    assert_eq!(takes, BURST);
    desk.lab.run_workers();
    desk.lab.take_sent();
}

#[test]
fn what_is_shed_is_recognised_with_options_too_and_nothing_else_is() {
    let (mut desk, ends) = shedding();
    let (target, from) = (ends[0], ("198.51.100.99", 53));
    let mut with_options = udp(from, target);
    with_options.options = vec![1; 4];
    let shed = |desk: &Desk| desk.drops()[&Flood];
    let wave = |desk: &mut Desk, frame: &[u8]| {
        let before = shed(desk);
        for _ in 0..PER_TICK {
            desk.lab.workers[0].io_mut().arrive(EXTERNAL, MemoryPacket::new(frame));
        }
        desk.lab.run_workers();
        desk.lab.take_sent();
        desk.lab.advance(100);
        shed(desk) - before
    };
    let plain = desk.arriving(EXTERNAL, &udp(from, target));
    let most = u64::from(PER_TICK / 2);
    assert!(wave(&mut desk, &plain) > most);
    let frame = desk.arriving(EXTERNAL, &with_options);
    assert!(wave(&mut desk, &frame) > most);
    // For another station it is dropped for that.
    let mut foreign = plain.clone();
    foreign[5] ^= 1;
    assert_eq!(wave(&mut desk, &foreign), 0);
    assert!(desk.drops()[&FrameNotForUs] >= u64::from(PER_TICK));
    // What is for another address has nothing to do with it, whichever way it is read.
    wave(&mut desk, &plain);
    let other = *ends.iter().find(|end| end.0 != target.0).unwrap();
    let frame = desk.arriving(EXTERNAL, &tcp(from, other, ACK));
    assert_eq!(wave(&mut desk, &frame), 0);
}

/// Rounds of a tick, in each of which every worker polls once.
const ROUNDS: u32 = 1000;

/// A tick in which three workers each receive twenty packets a round for the fourth, which takes
/// thirty-two: nine in ten for the target, the others in turn. What came through of each kind.
fn handed_tick(desk: &mut Desk, target: (u32, u16), others: &[(u32, u16)]) -> (usize, usize) {
    let flood = desk.arriving(EXTERNAL, &udp(("198.51.100.99", 53), target));
    let others: Vec<_> =
        others.iter().map(|to| desk.arriving(EXTERNAL, &udp((SERVER, 53), *to))).collect();
    let mut sent = [0, 0];
    for round in 0..ROUNDS {
        let now = desk.lab.now;
        for at in 1..4 {
            for n in 0..20 {
                let nth = (round * 6 + at * 2 + n / 10) as usize;
                let frame = if n % 10 == 7 { &others[nth % others.len()] } else { &flood };
                desk.lab.workers[at as usize].io_mut().arrive(EXTERNAL, MemoryPacket::new(frame));
            }
            desk.lab.workers[at as usize].poll(now);
        }
        desk.lab.workers[0].poll(now);
        for (_, frame) in desk.lab.take_sent() {
            sent[usize::from(frame[26..30] == ip(SERVER).to_be_bytes())] += 1;
        }
    }
    desk.lab.advance_silently(100);
    (sent[0], sent[1])
}

#[test]
fn a_flood_that_others_receive_is_shed_by_them_and_fills_no_ring() {
    let pool = "{ addresses: [203.0.113.0/26], allocation: { block-size: 512 } }";
    let mut desk = Desk::with(&config(pool, ""), 4, 1);
    let mut open = |n| desk.goes_out(&udp((&subscriber_of(0, 4, n), 4000), server(53)));
    let ends: Vec<_> = (0..40).map(&mut open).collect();
    let others_sent = 6 * ROUNDS as usize;
    let before = handed_tick(&mut desk, ends[0], &ends[1..]);
    assert!(before.1 < others_sent * 3 / 4, "the ring does not hold it: {before:?}");
    for _ in 0..4 {
        handed_tick(&mut desk, ends[0], &ends[1..]);
    }
    let (mut of_flood, mut of_others) = (0, 0);
    for _ in 0..12 {
        let (flood, others) = handed_tick(&mut desk, ends[0], &ends[1..]);
        (of_flood, of_others) = (of_flood + flood, of_others + others);
    }
    assert!(of_others * 100 >= others_sent * 12 * 95, "{of_others} of {}", others_sent * 12);
    assert!(of_flood >= 12 * LEAST as usize * 9 / 10, "{of_flood} of the flood passed");
    // All of it is known, though most was shed elsewhere.
    let seen = flood(&desk).unwrap();
    let aim = Aim { address: ends[0].0, protocol: 17, port: ends[0].1 };
    assert_eq!((seen.aim, seen.is_address), (aim, false));
    assert!(seen.arrived > 50 * ROUNDS, "{seen:?}");
    let shed = |worker: usize| desk.lab.counters[worker].drops_of(Flood);
    assert!((1..4).all(|worker| shed(worker) > 20 * shed(0)), "{:?}", [0, 1, 2, 3].map(shed));
    // It is over: nobody sheds any more.
    desk.lab.run_workers();
    desk.lab.take_sent();
    for _ in 0..60 {
        desk.lab.advance(100);
    }
    assert_eq!(flood(&desk), None);
    let total = desk.lab.drops(Flood);
    let frame = desk.arriving(EXTERNAL, &udp(("198.51.100.99", 53), ends[0]));
    (0..100).for_each(|_| assert_eq!(desk.lab.arrive(1, EXTERNAL, &frame).len(), 1));
    assert_eq!(desk.lab.drops(Flood), total);
}

#[test]
fn a_flood_by_ipv6_takes_nothing_from_others_of_either_family_or_from_the_link() {
    let mut desk = six::desk(&six::config(), 1);
    let end = desk.goes_out(&udp(("100.64.0.9", 4000), server(53)));
    let around = |packet: &[u8]| six::frame(port_mac(EXTERNAL), HOPS[EXTERNAL], packet);
    let near = "2001:db8:100:8::5";
    let others =
        [around(&six::udp(six::SERVER, near, 9)), desk.arriving(EXTERNAL, &udp((SERVER, 53), end))];
    let mut tick = |to: &str| {
        let flood = around(&six::udp(six::SERVER, to, 9));
        for n in 0..PER_TICK as usize {
            desk.lab.workers[0].io_mut().arrive(EXTERNAL, MemoryPacket::new(&flood));
            if n % 20 == 0 {
                let other = &others[n / 20 % 2];
                desk.lab.workers[0].io_mut().arrive(EXTERNAL, MemoryPacket::new(other));
            }
        }
        desk.lab.run_workers();
        // What a neighbour asks is answered, whatever comes for the same address.
        let asks = six::discovery(six::NEAR[1], six::OWN[1], 135, 0, six::OWN[1], Some(HOPS[1]));
        let sent = desk.lab.take_sent();
        assert_eq!(desk.lab.arrive(0, EXTERNAL, &around(&asks)).len(), 1);
        desk.lab.advance(100);
        desk.lab.take_sent();
        let inward = sent.iter().filter(|(port, _)| *port == INTERNAL);
        let (flood, others): (Vec<_>, _) =
            inward.partition(|(_, frame)| frame[12] == 0x86 && frame[38..54] == six::ip(to));
        ((flood.len(), others.len()), desk.lab.counters[0].flood())
    };
    for n in 0..12 {
        let ((of_flood, of_others), seen) = tick(six::HOST);
        assert_eq!(of_others, PER_TICK as usize / 20, "tick {n}");
        if n > 7 {
            assert!(of_flood.abs_diff(LEAST as usize) < 300, "{of_flood} in tick {n}");
            let seen = seen.unwrap();
            let host = u128::from_be_bytes(six::ip(six::HOST));
            assert_eq!((seen.address6, seen.aim.protocol, seen.aim.port), (Some(host), 17, 53));
        }
    }
    for _ in 0..12 {
        let ((_, of_others), _) = tick(six::OWN[1]);
        assert_eq!(of_others, PER_TICK as usize / 20);
    }
    assert!(desk.drops()[&Flood] > 10 * u64::from(LEAST), "{:?}", desk.drops());
}
