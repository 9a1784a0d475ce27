//! UDP and ICMP timers. A timer never runs short and at most one tick (100 ms) long.

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::wire::ip;

const HOST: &str = "100.64.3.9";

/// Alive when `seconds` are over, gone a tick later; with housekeeping and without.
fn lives(seconds: u64, yaml: &str, port: u16) {
    for kept in [false, true] {
        let mut desk = Desk::new(yaml);
        desk.lab.advance(73);
        let outside = desk.goes_out(&udp((HOST, 4000), server(port)));
        let wait = |desk: &mut Desk, ms| match kept {
            true => desk.lab.advance(ms),
            false => desk.lab.advance_silently(ms),
        };
        wait(&mut desk, seconds * 1000);
        desk.comes_in(&udp((SERVER, port), outside), (HOST, 4000));
        wait(&mut desk, 100);
        desk.refused(EXTERNAL, &udp((SERVER, port), outside), NoMapping);
    }
}

#[test]
fn a_udp_mapping_lives_for_300_seconds_and_not_longer_4787_req_5c() {
    lives(300, &plain(), 5000);
}

#[test]
fn a_udp_mapping_to_port_53_lives_for_its_own_time_4787_req_5a() {
    let pool = "{ addresses: [203.0.113.0/28] }";
    let yaml = config(pool, "timeouts: { udp: { default: 2m, \"53\": 10s } }");
    lives(10, &yaml, 53);
    lives(120, &yaml, 54);
}

#[test]
fn a_short_timer_of_one_destination_does_not_shorten_the_others() {
    let pool = "{ addresses: [203.0.113.0/28] }";
    let mut desk = Desk::new(&config(pool, "timeouts: { udp: { \"53\": 10s } }"));
    let outside = desk.goes_out(&udp((HOST, 4000), server(5000)));
    desk.lab.advance(1_000);
    assert_eq!(desk.goes_out(&udp((HOST, 4000), server(53))), outside);
    desk.lab.advance(298_900);
    desk.comes_in(&udp((SERVER, 53), outside), (HOST, 4000));
    // Now only the short one is left of it.
    desk.goes_out(&udp((HOST, 4000), server(53)));
    desk.lab.advance(10_000);
    desk.comes_in(&udp((SERVER, 53), outside), (HOST, 4000));
    desk.lab.advance(200);
    desk.refused(EXTERNAL, &udp((SERVER, 53), outside), NoMapping);
}

#[test]
fn an_outbound_packet_restarts_the_timer_and_an_inbound_one_does_not_4787_req_6() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&udp((HOST, 4000), server(80)));
    for _ in 0..10 {
        desk.lab.advance(290_000);
        assert_eq!(desk.goes_out(&udp((HOST, 4000), server(80))), outside);
    }
    desk.lab.advance(290_000);
    desk.comes_in(&udp((SERVER, 80), outside), (HOST, 4000));
    desk.lab.advance(10_200);
    desk.refused(EXTERNAL, &udp((SERVER, 80), outside), NoMapping);
    assert_eq!(desk.mappings(), 0);
    assert_eq!(desk.lab.sum(|c| c.ended.value()), 1);
}

#[test]
fn an_icmp_mapping_lives_for_60_seconds_5508_req_2() {
    let mut desk = Desk::new(&plain());
    let outside = desk.goes_out(&echo(true, HOST, ip(SERVER), 4000));
    desk.lab.advance(60_000);
    desk.comes_in(&echo(false, SERVER, outside.0, outside.1), (HOST, 4000));
    desk.lab.advance(100);
    desk.refused(EXTERNAL, &echo(false, SERVER, outside.0, outside.1), NoMapping);
}

#[test]
fn an_expired_mapping_is_replaced_at_once_by_the_next_outbound_packet() {
    let mut desk = Desk::new(&plain());
    let before = desk.goes_out(&udp((HOST, 4000), server(80)));
    desk.lab.advance_silently(300_100);
    let after = desk.goes_out(&udp((HOST, 4000), server(80)));
    assert_eq!(before.0, after.0);
    assert_ne!(before, after, "the old port rests");
    desk.refused(EXTERNAL, &udp((SERVER, 80), before), NoMapping);
    assert_eq!(desk.lab.port_census().resting, 1);
    assert_eq!(desk.mappings(), 1);
}

#[test]
fn a_freed_port_rests_for_120_seconds_to_the_tick_6888_req_8() {
    let mut desk = Desk::new(&one_address(1, 1));
    for port in 1..=64 {
        desk.goes_out(&udp((HOST, port), server(80)));
    }
    desk.refused(INTERNAL, &udp((HOST, 65), server(80)), SubscriberPorts);
    desk.lab.advance(300_100);
    assert_eq!(desk.lab.port_census().resting, 64);
    desk.refused(INTERNAL, &udp((HOST, 65), server(80)), SubscriberPorts);
    // Other protocols have their own ports; nobody else gets the block meanwhile.
    desk.goes_out(&echo(true, HOST, ip(SERVER), 9));
    desk.refused(INTERNAL, &udp(("100.64.3.10", 1), server(80)), PoolExhausted);
    desk.lab.advance(120_000);
    desk.refused(INTERNAL, &udp((HOST, 65), server(80)), SubscriberPorts);
    desk.lab.advance(100);
    desk.goes_out(&udp((HOST, 65), server(80)));
    assert_eq!(desk.lab.port_census().used, 1);
}

#[test]
fn timers_are_right_across_the_wrap_of_the_tick_clock() {
    let mut desk = Desk::new(&one_address(1, 1));
    // 2^32 ticks, less 200 s.
    desk.lab.advance_silently((1 << 32) * 100 - 201_000);
    let outside = desk.goes_out(&udp((HOST, 4000), server(80)));
    desk.lab.advance(300_000);
    desk.comes_in(&udp((SERVER, 80), outside), (HOST, 4000));
    desk.lab.advance(600);
    desk.refused(EXTERNAL, &udp((SERVER, 80), outside), NoMapping);
    assert_eq!(desk.mappings(), 0, "housekeeping has seen it");
}

/// A replay begins at the time of its first packet: housekeeping, which began at 0, must
/// follow a leap of any size.
#[test]
fn housekeeping_follows_a_leap_of_time_of_any_size() {
    for leap in [1u64 << 30, (1 << 31) - 5, (1 << 31) + 5, 3 << 30, (1 << 32) - 20, 1 << 34] {
        let mut desk = Desk::new(&one_address(1, 1));
        desk.lab.advance_silently(leap * 100);
        desk.goes_out(&udp((HOST, 4000), server(80)));
        desk.lab.advance(300_000);
        assert_eq!(desk.mappings(), 1);
        desk.lab.advance(600);
        assert_eq!(desk.mappings(), 0, "after a leap of {leap} ticks");
    }
}
