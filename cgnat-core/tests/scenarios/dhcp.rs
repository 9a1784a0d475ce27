//! The load test that an iptables NAT fails at about 500 clients: very many DHCP relays, all
//! from UDP port 67, to one server address and port, with leases of 60 s that are renewed at half
//! of their time. A NAT that keeps low ports low runs out of them; this one does not.

use cgnat_core::verdict::DropReason::{self, *};

use crate::desk::*;
use crate::wire::{Packet, ip};

const CLIENTS: u32 = 20_000;
/// Half of a lease, ms.
const RENEWAL_MS: u64 = 30_000;
const ROUNDS: u32 = 4;

fn client(n: u32) -> String {
    std::net::Ipv4Addr::from(ip("100.64.0.1") + n).to_string()
}

/// Blocks of 64 ports: 1008 subscribers on an address.
fn relays(addresses: &str, timers: &str) -> String {
    let pool =
        format!("{{ addresses: [{addresses}], allocation: {{ block-size: 64, max-blocks: 1 }} }}");
    config(&pool, &format!("system: {{ max-mappings: 60_000 }}\n{timers}"))
}

const SHORT: &str = "timeouts: { udp: { \"67\": 1s, \"68\": 1s } }\n";

/// One client asks and is answered. Returns its external endpoint.
fn ask(desk: &mut Desk, n: u32) -> (u32, u16) {
    let name = client(n);
    let outside = desk.goes_out(&udp((&name, 67), server(67)));
    desk.comes_in(&udp((SERVER, 67), outside), (&name, 67));
    outside
}

#[test]
fn twenty_thousand_relays_from_port_67_are_all_served_for_several_rounds() {
    for (workers, timers) in [(1, SHORT), (4, "")] {
        let mut desk = Desk::with(&relays("203.0.113.0-203.0.113.19", timers), workers, 7);
        for round in 0..ROUNDS {
            let mut seen = std::collections::HashSet::new();
            for n in 0..CLIENTS {
                desk.at = (n % u32::from(workers)) as usize;
                assert!(seen.insert(ask(&mut desk, n)), "round {round}: one endpoint for two");
            }
            desk.lab.advance(RENEWAL_MS);
        }
        assert_eq!(desk.lab.all_drops(), 0, "{:?}", desk.drops());
        let created = desk.lab.sum(|c| c.mappings_created.value());
        // With a timer of one second each renewal is a new mapping; with 5 minutes none is.
        let expected = if timers.is_empty() { CLIENTS } else { CLIENTS * ROUNDS };
        assert_eq!(created, u64::from(expected));
    }
}

#[test]
fn with_too_few_addresses_every_refusal_is_counted_and_told_and_who_is_served_stays_served() {
    const SERVED: u32 = 64_512 / 64;
    let mut desk = Desk::new(&relays("203.0.113.0", ""));
    let mut outside = Vec::new();
    for n in 0..SERVED {
        outside.push(ask(&mut desk, n));
    }
    let mut told = 0;
    for n in SERVED..CLIENTS {
        let name = client(n);
        let frame = desk.arriving(INTERNAL, &udp((&name, 67), server(67)));
        let answer = desk.lab.arrive(0, INTERNAL, &frame);
        // Nothing leaves outside; the sender is told host unreachable, at a bounded rate.
        assert!(answer.iter().all(|(port, frame)| *port == INTERNAL && frame[34..36] == [3, 1]));
        told += answer.len() as u64;
        if n % 1000 == 0 {
            desk.lab.advance(1_000);
        }
    }
    let refused = u64::from(CLIENTS - SERVED);
    assert_eq!(desk.drops(), [(PoolExhausted, refused)].into());
    assert_eq!(told + desk.lab.sum(|c| c.errors_withheld.value()), refused);
    assert!(told > refused / 2, "only {told} of {refused} were told");
    for (n, outside) in (0..SERVED).zip(outside) {
        assert_eq!(ask(&mut desk, n), outside);
    }
}

#[test]
fn a_timer_of_one_second_for_dhcp_leaves_the_other_ports_alone_4787_req_5a() {
    let mut desk = Desk::new(&relays("203.0.113.0", SHORT));
    let host = ("100.64.0.1", 1000);
    let other = ("100.64.0.1", 2000);
    let dhcp = desk.goes_out(&udp(host, server(67)));
    let dns = desk.goes_out(&udp(other, server(53)));
    desk.lab.advance(1_200);
    refused_quietly(&mut desk, &udp((SERVER, 67), dhcp), NoMapping);
    desk.lab.advance(298_000);
    desk.comes_in(&udp((SERVER, 53), dns), other);
}

fn refused_quietly(desk: &mut Desk, packet: &Packet, reason: DropReason) {
    desk.refused(EXTERNAL, packet, reason);
}
