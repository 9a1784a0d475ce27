//! Full tables, queues and rings: the new is refused and counted, the existing goes on
//! (RFC 6888 REQ-11).

use std::net::Ipv4Addr;

use cgnat_core::testing::io::MemoryPacket;
use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::ip;

const HOST: &str = "100.64.3.9";

fn small_tables() -> String {
    let pool = "{ addresses: [203.0.113.0/28], allocation: { max-blocks: 8 } }";
    config(pool, "system: { max-mappings: 1000, max-sessions: 250 }")
}

#[test]
fn a_full_mapping_table_refuses_new_flows_and_serves_old_ones() {
    let mut desk = Desk::new(&small_tables());
    let ends: Vec<_> =
        (1..=1000).map(|port| desk.goes_out(&udp((HOST, port), server(80)))).collect();
    for port in 1001..=1100 {
        desk.refused(INTERNAL, &udp((HOST, port), server(80)), MappingTableFull);
    }
    let stranger = udp(("100.64.9.9", 1), server(80));
    desk.refused(INTERNAL, &stranger, MappingTableFull);
    assert_eq!(desk.lab.sum(|c| c.subscribers.value()), 1, "nothing is left of the refused");
    for (n, outside) in ends.iter().enumerate() {
        let inside = (HOST, n as u16 + 1);
        desk.comes_in(&udp((SERVER, 80), *outside), inside);
        assert_eq!(desk.goes_out(&udp(inside, server(81))), *outside);
    }
    desk.lab.advance(301_000);
    desk.goes_out(&stranger);
}

#[test]
fn a_full_session_table_refuses_new_sessions_and_serves_old_ones() {
    let mut desk = Desk::new(&small_tables());
    let outside = desk.goes_out(&tcp((HOST, 1), server(1), SYN));
    // One session lives in the mapping, 250 in the table.
    for port in 2..=251 {
        assert_eq!(desk.goes_out(&tcp((HOST, 1), server(port), SYN)), outside);
    }
    desk.refused(INTERNAL, &tcp((HOST, 1), server(252), SYN), SessionTableFull);
    desk.refused(EXTERNAL, &tcp(("9.9.9.9", 1), outside, SYN), SessionTableFull);
    desk.comes_in(&tcp((SERVER, 251), outside, SYN | ACK), (HOST, 1));
    // A mapping of its own carries its first session.
    desk.goes_out(&tcp((HOST, 2), server(252), SYN));
    desk.lab.advance(241_000);
    assert_eq!(desk.lab.sum(|c| c.sessions.value()), 1);
    desk.goes_out(&tcp((HOST, 1), server(252), SYN));
}

#[test]
fn one_mapping_cannot_take_the_whole_session_table_and_strangers_take_less_of_it() {
    let pool = "{ addresses: [203.0.113.0/28] }";
    let mut desk =
        Desk::new(&config(pool, "system: { max-mappings: 20_000, max-sessions: 5_000 }"));
    let stranger = |n: u32| Ipv4Addr::from(ip("9.0.0.1") + n).to_string();
    let outside = desk.goes_out(&tcp((HOST, 1), server(80), SYN));
    for n in 1..256 {
        desk.comes_in(&tcp((&stranger(n), 1), outside, SYN), (HOST, 1));
    }
    let more = tcp((&stranger(256), 1), outside, SYN);
    desk.refused(EXTERNAL, &more, LimitMappingInboundSessions);
    for n in 256..2048 {
        desk.goes_out(&tcp((HOST, 1), (ip(&stranger(n)), 1), SYN));
    }
    desk.refused(INTERNAL, &tcp((HOST, 1), server(81), SYN), LimitMappingSessions);
    desk.goes_out(&tcp((HOST, 2), server(80), SYN));
}

#[test]
fn strangers_leave_the_last_quarter_of_the_session_table_to_subscribers() {
    let mut desk = Desk::new(&small_tables());
    let outside = desk.goes_out(&tcp((HOST, 1), server(1), SYN));
    // 250 in the table, 62 of them for subscribers alone.
    for port in 2..=189 {
        desk.comes_in(&tcp((SERVER, port), outside, SYN), (HOST, 1));
    }
    desk.refused(EXTERNAL, &tcp((SERVER, 190), outside, SYN), SessionTableFull);
    for port in 190..=251 {
        desk.goes_out(&tcp((HOST, 1), server(port), SYN));
    }
    desk.refused(INTERNAL, &tcp((HOST, 1), server(252), SYN), SessionTableFull);
}

#[test]
fn a_full_transmit_queue_drops_and_counts_and_keeps_the_mapping() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 1), server(80)));
    desk.lab.workers[0].io_mut().transmit_room = 3;
    for _ in 0..10 {
        let frame = desk.arriving(INTERNAL, &udp((HOST, 1), server(80)));
        desk.lab.workers[0].io_mut().arrive(INTERNAL, MemoryPacket::new(&frame));
    }
    desk.lab.run_workers();
    assert_eq!(desk.lab.take_sent().len(), 3);
    assert_eq!(desk.drops(), [(TransmitFull, 7)].into());
    assert_eq!(desk.lab.counters[0].ports[EXTERNAL].tx_packets.value(), 4);
    assert_eq!(desk.lab.counters[0].ports[EXTERNAL].tx_refused.value(), 7);
    desk.lab.workers[0].io_mut().transmit_room = usize::MAX;
    assert_eq!(desk.goes_out(&udp((HOST, 1), server(80))), outside);
}

#[test]
fn a_full_hand_off_ring_drops_and_counts() {
    let mut desk = Desk::with(&plain(), 2, 1);
    let host = subscriber_of(1, 2, 0);
    for _ in 0..1100 {
        let frame = desk.arriving(INTERNAL, &udp((&host, 1), server(80)));
        desk.lab.workers[0].io_mut().arrive(INTERNAL, MemoryPacket::new(&frame));
    }
    // The owner does not poll meanwhile.
    let now = desk.lab.now;
    while desk.lab.workers[0].poll(now) > 0 {}
    assert_eq!(desk.drops(), [(HandoffFull, 1100 - 1024)].into());
    assert_eq!(desk.lab.counters[0].ports[INTERNAL].dropped.value(), 1100 - 1024);
    desk.lab.run_workers();
    let sent = desk.lab.take_sent();
    assert_eq!(sent.len(), 1024);
    assert_eq!(desk.lab.counters[0].handed_off.value(), 1024);
    assert_eq!(desk.lab.counters[1].handed_in.value(), 1024);
}

/// The subscriber's worker has no block, and nobody keeps house.
fn waiting_for_a_block() -> (Desk, String) {
    let mut desk = Desk::with(&one_address(4, 1), 2, 1);
    let hosts = [subscriber_of(0, 2, 0), subscriber_of(0, 2, 1)];
    for host in &hosts {
        desk.goes_out(&udp((host, 1), server(80)));
    }
    desk.lab.take_sent();
    (desk, subscriber_of(0, 2, 2))
}

#[test]
fn a_packet_waits_for_a_block_and_leaves_translated_when_it_comes() {
    let (mut desk, host) = waiting_for_a_block();
    let frame = desk.arriving(INTERNAL, &udp((&host, 9), server(80)));
    desk.lab.workers[0].io_mut().arrive(INTERNAL, MemoryPacket::new(&frame));
    let now = desk.lab.now;
    while desk.lab.workers[0].poll(now) > 0 {}
    assert_eq!(desk.lab.counters[0].parked.value(), 1);
    assert_eq!(desk.lab.take_sent(), []);
    desk.lab.settle();
    let sent = desk.lab.take_sent();
    assert_eq!((sent.len(), desk.lab.counters[0].parked.value()), (1, 0));
}

#[test]
fn a_packet_that_waits_for_a_block_in_vain_is_dropped_after_half_a_second() {
    let (mut desk, host) = waiting_for_a_block();
    for _ in 0..1030 {
        let frame = desk.arriving(INTERNAL, &udp((&host, 9), server(80)));
        desk.lab.workers[0].io_mut().arrive(INTERNAL, MemoryPacket::new(&frame));
    }
    let start = desk.lab.now;
    while desk.lab.workers[0].poll(start) > 0 {}
    // The queue is bounded.
    assert_eq!(desk.drops(), [(ParkingFull, 6)].into());
    desk.lab.workers[0].poll(start.plus_millis(499));
    assert_eq!(desk.lab.counters[0].parked.value(), 1024);
    desk.lab.workers[0].poll(start.plus_millis(500));
    assert_eq!(desk.drops(), [(ParkingFull, 6), (BlockWait, 1024)].into());
    desk.lab.now = start.plus_millis(500);
    desk.lab.settle();
    assert_eq!(desk.lab.take_sent(), []);
}

#[test]
fn what_waits_at_shutdown_is_counted_and_nothing_leaves() {
    let (mut desk, host) = waiting_for_a_block();
    for _ in 0..5 {
        let frame = desk.arriving(INTERNAL, &udp((&host, 9), server(80)));
        desk.lab.workers[0].io_mut().arrive(INTERNAL, MemoryPacket::new(&frame));
    }
    let now = desk.lab.now;
    while desk.lab.workers[0].poll(now) > 0 {}
    assert_eq!(desk.lab.counters[0].parked.value(), 5);
    let worker = desk.lab.workers.remove(0);
    let shard = worker.stop();
    assert_eq!(desk.drops(), [(Shutdown, 5)].into());
    assert_eq!(desk.lab.counters[0].parked.value(), 0);
    assert_eq!(shard.audit(now.tick()), Ok(()));
    assert_eq!(desk.lab.take_sent(), []);
}
