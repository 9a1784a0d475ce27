//! Caps of one subscriber's sessions with one destination and of one mapping's sessions (RFC 6888
//! REQ-5): the next one is refused, what exists goes on, nobody else notices.

use cgnat_core::endpoint::IpProtocol;
use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::limits::{limited, refused_and_told, remembered};
use crate::wire::{Body, GRE, ip};

const HOST: &str = "100.64.3.9";
const OTHER: &str = "100.64.7.7";
const ELSEWHERE: &str = "198.51.100.8";

fn stranger(n: u32) -> String {
    std::net::Ipv4Addr::from(ip("9.0.0.1") + n).to_string()
}

#[test]
fn one_destination_gets_so_many_sessions_of_a_subscriber_and_no_more_6888_req_5() {
    let mut desk = Desk::new(&limited(&plain(), "{ sessions-per-destination: 4 }"));
    let outside = desk.goes_out(&tcp((HOST, 1), server(443), SYN));
    desk.goes_out(&tcp((HOST, 1), server(80), SYN));
    desk.goes_out(&udp((HOST, 1), server(443)));
    desk.goes_out(&echo(true, HOST, ip(SERVER), 1));
    // Whatever the protocol and port, and whether it would take a port or not.
    refused_and_told(&mut desk, &tcp((HOST, 1), server(8080), SYN), LimitDestination);
    refused_and_told(&mut desk, &tcp((HOST, 2), server(443), SYN), LimitDestination);
    refused_and_told(&mut desk, &udp((HOST, 2), server(53)), LimitDestination);
    refused_and_told(&mut desk, &echo(true, HOST, ip(SERVER), 2), LimitDestination);
    assert_eq!(desk.mappings(), 3, "what was refused left nothing behind");
    assert_eq!(desk.lab.port_census().used, 3);
    let was = |protocol, port, count| (LimitDestination, protocol, port, 4, count);
    let list = [
        was(IpProtocol::TCP, 8080, 1),
        was(IpProtocol::TCP, 443, 1),
        was(IpProtocol::UDP, 53, 1),
        was(IpProtocol::ICMP, 2, 1),
    ];
    assert_eq!(remembered(&mut desk, HOST), list);
    // What exists goes on; another destination and another subscriber are as ever.
    desk.comes_in(&tcp((SERVER, 80), outside, SYN | ACK), (HOST, 1));
    desk.goes_out(&tcp((HOST, 1), server(80), ACK));
    for port in 1..=4 {
        desk.goes_out(&tcp((HOST, 2), (ip(ELSEWHERE), port), SYN));
        desk.goes_out(&tcp((OTHER, port), server(443), SYN));
    }
    refused_and_told(&mut desk, &udp((HOST, 9), (ip(ELSEWHERE), 9)), LimitDestination);
    // A UDP mapping is one session, with whom its first packet went to.
    desk.goes_out(&udp((HOST, 1), (ip(ELSEWHERE), 9)));
    // The ping ends after 60 s and makes room for one.
    desk.lab.advance(61_000);
    desk.goes_out(&udp((HOST, 2), server(53)));
    refused_and_told(&mut desk, &udp((HOST, 3), server(53)), LimitDestination);
}

#[test]
fn one_browser_cannot_burn_the_block() {
    let yaml = limited(&one_address(4, 1), "{ sessions-per-destination: 40 }");
    let mut desk = Desk::new(&yaml);
    for port in 1..=1000 {
        let packet = tcp((HOST, port), server(443), SYN);
        match port {
            ..=40 => _ = desk.goes_out(&packet),
            _ => desk.refused(INTERNAL, &packet, LimitDestination),
        }
    }
    // The other ports of its block are for the rest of the world.
    for n in 0..24 {
        desk.goes_out(&tcp((HOST, 2000), (ip(&stranger(n)), 443), SYN));
    }
    for port in 3000..3023 {
        desk.goes_out(&tcp((HOST, port), (ip(ELSEWHERE), 443), SYN));
    }
    assert_eq!(desk.lab.port_census().used, 64);
    assert_eq!(desk.drops(), [(LimitDestination, 960)].into());
}

#[test]
fn peers_are_sessions_where_filtering_asks_who_was_sent_to() {
    let pool = "{ addresses: [203.0.113.0], filtering: address-and-port-dependent }";
    let mut desk = Desk::new(&limited(&config(pool, ""), "{ sessions-per-destination: 3 }"));
    for port in 1..=3 {
        desk.goes_out(&udp((HOST, 1), server(port)));
    }
    refused_and_told(&mut desk, &udp((HOST, 1), server(4)), LimitDestination);
    desk.goes_out(&udp((HOST, 1), (ip(ELSEWHERE), 4)));
    // Those who are known are prolonged as ever; the rest end, and make room.
    desk.lab.advance(200_000);
    desk.goes_out(&udp((HOST, 1), server(1)));
    desk.lab.advance(110_000);
    for port in [5, 6] {
        desk.goes_out(&udp((HOST, 1), server(port)));
    }
    refused_and_told(&mut desk, &udp((HOST, 1), server(2)), LimitDestination);
}

#[test]
fn sessions_with_a_destination_count_over_all_pools_of_a_subscriber() {
    let two = "{ addresses: [203.0.113.0] }
  dns: { addresses: [203.0.113.32] }";
    let group = "pool: main, limits: { sessions-per-destination: 3 }, destinations: [{ to: \
                 [0.0.0.0/0], protocol: udp, ports: [53], pool: dns }] }";
    let mut desk = Desk::new(&config(two, "").replace("pool: main }", group));
    desk.goes_out(&udp((HOST, 1), server(53)));
    desk.goes_out(&udp((HOST, 1), server(54)));
    desk.goes_out(&udp((HOST, 2), server(53)));
    refused_and_told(&mut desk, &udp((HOST, 2), server(54)), LimitDestination);
    refused_and_told(&mut desk, &udp((HOST, 3), server(53)), LimitDestination);
}

#[test]
fn flows_without_ports_are_sessions_with_their_destination() {
    let yaml =
        config("{ addresses: [203.0.113.0/28] }", "nat44: { other-protocols: { gre: carry } }\n");
    let mut desk = Desk::new(&limited(&yaml, "{ sessions-per-destination: 2 }"));
    let mut tunnel = udp((HOST, 1), server(1));
    tunnel.body = Body::Bare { protocol: GRE };
    assert_eq!(desk.offer(INTERNAL, &tunnel).len(), 1);
    desk.goes_out(&udp((HOST, 1), server(1)));
    refused_and_told(&mut desk, &udp((HOST, 2), server(1)), LimitDestination);
    tunnel.destination = ip(ELSEWHERE);
    for port in 2..=3 {
        desk.goes_out(&udp((HOST, port), (tunnel.destination, 1)));
    }
    desk.refused(INTERNAL, &tunnel, LimitDestination);
    // The tunnel is silent for its ten minutes and the mapping is not.
    for _ in 0..5 {
        desk.lab.advance(150_000);
        desk.goes_out(&udp((HOST, 1), server(1)));
    }
    desk.goes_out(&udp((HOST, 2), server(1)));
}

#[test]
fn who_opens_a_session_anew_is_whose_it_counts_for() {
    let yaml = limited(&plain(), "{ sessions-per-destination: 1 }");
    let mut desk = Desk::new(&yaml);
    let outside = desk.goes_out(&tcp((HOST, 1), server(1), SYN));
    let close = |desk: &mut Desk| {
        desk.goes_out(&tcp((HOST, 1), server(1), FIN | ACK));
        desk.comes_in(&tcp((SERVER, 1), outside, FIN | ACK), (HOST, 1));
    };
    desk.comes_in(&tcp((SERVER, 1), outside, SYN | ACK), (HOST, 1));
    close(&mut desk);
    desk.refused(INTERNAL, &tcp((HOST, 2), server(1), SYN), LimitDestination);
    // The server opens it anew: it is the subscriber's no more.
    desk.comes_in(&tcp((SERVER, 1), outside, SYN), (HOST, 1));
    desk.lab.audit();
    desk.goes_out(&tcp((HOST, 2), server(1), SYN));
    desk.refused(INTERNAL, &tcp((HOST, 3), server(1), SYN), LimitDestination);
    // And back: what exists goes on, also beyond the limit.
    desk.goes_out(&tcp((HOST, 1), server(1), SYN | ACK));
    desk.comes_in(&tcp((SERVER, 1), outside, ACK), (HOST, 1));
    close(&mut desk);
    desk.goes_out(&tcp((HOST, 1), server(1), SYN));
    desk.lab.audit();
    desk.refused(INTERNAL, &tcp((HOST, 3), server(1), SYN), LimitDestination);
}

#[test]
fn a_mapping_has_so_many_sessions_and_the_last_are_its_subscribers_6888_req_5() {
    let limits = "{ sessions-per-mapping: 10, inbound-sessions-per-mapping: 4 }";
    let mut desk = Desk::new(&limited(&plain(), limits));
    let outside = desk.goes_out(&tcp((HOST, 1), server(1), SYN));
    for n in 0..3 {
        desk.comes_in(&tcp((&stranger(n), 1), outside, SYN), (HOST, 1));
    }
    let told = desk.lab.sum(|c| c.originated.value());
    for n in 3..200 {
        let packet = tcp((&stranger(n), 1), outside, SYN);
        desk.refused(EXTERNAL, &packet, LimitMappingInboundSessions);
    }
    assert_eq!(desk.lab.sum(|c| c.originated.value()), told, "strangers are told nothing");
    for port in 2..=7 {
        assert_eq!(desk.goes_out(&tcp((HOST, 1), server(port), SYN)), outside);
    }
    refused_and_told(&mut desk, &tcp((HOST, 1), server(8), SYN), LimitMappingSessions);
    let expected = [(LimitMappingSessions, IpProtocol::TCP, 8, 10, 1)];
    assert_eq!(remembered(&mut desk, HOST), expected);
    // Sessions that exist work, and so do other mappings of the same subscriber.
    desk.comes_in(&tcp((SERVER, 7), outside, SYN | ACK), (HOST, 1));
    let second = desk.goes_out(&tcp((HOST, 2), server(8), SYN));
    desk.comes_in(&tcp((&stranger(9), 1), second, SYN), (HOST, 2));
    // UDP has no session per peer here, so nothing is counted.
    let open = desk.goes_out(&udp((HOST, 1), server(1)));
    for n in 0..20 {
        desk.comes_in(&udp((&stranger(n), 1), open), (HOST, 1));
        desk.goes_out(&udp((HOST, 1), (ip(&stranger(n)), 2)));
    }
    // The unanswered end after four minutes, and others may come.
    desk.lab.advance(241_000);
    desk.comes_in(&tcp((&stranger(7), 1), outside, SYN), (HOST, 1));
}

#[test]
fn each_group_has_caps_of_its_own_and_without_any_there_are_2048_and_256_sessions() {
    let two = "subscribers:
  - { name: small, match: [100.64.3.0/24], pool: main, limits: { sessions-per-mapping: 2 } }
  - { name: one, match: [100.64.4.0/24], pool: main, limits: { sessions-per-destination: 1 } }";
    let mut desk = Desk::new(&plain().replace("subscribers:", two));
    let mut refused = 0;
    for port in 1..=2048 {
        for host in [HOST, "100.64.4.1", OTHER] {
            let packet = tcp((host, 1), server(port), SYN);
            let most = if host == HOST { 2 } else { 1 };
            if host == OTHER || port <= most {
                desk.goes_out(&packet);
            } else {
                desk.offer(INTERNAL, &packet);
                refused += 1;
            }
        }
    }
    let drops = [(LimitDestination, 2047), (LimitMappingSessions, 2046)].into();
    assert_eq!((desk.drops(), refused), (drops, 2047 + 2046));
    desk.refused(INTERNAL, &tcp((OTHER, 1), server(2049), SYN), LimitMappingSessions);
}
