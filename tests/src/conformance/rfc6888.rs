//! What a carrier-grade NAT owes beyond a home one (RFC 6888).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::connection::Connection;
use super::packet::{Body, Packet, SYN, error, query, tcp, udp};
use super::settings::Settings;
use super::talk::{Side, Talk};
use super::{at, register, remote, same, subscriber};

register! {
    protocols_without_their_document_are_dropped_6888_req_1:
        "6888-REQ-1" "6888-REQ-1d" "5597-S3";
    one_address_for_all_protocols_6888_req_2: "6888-REQ-2";
    a_new_subscriber_goes_to_the_next_pool_and_stays_there_6888_req_2:
        "6888-REQ-2" "6888-REQ-3";
    a_destination_with_a_pool_of_its_own_parts_nothing_else_6888_req_2:
        "6888-REQ-2" "4787-REQ-1";
    ports_are_limited_over_all_pools_of_a_subscriber_6888_req_4: "6888-REQ-4";
    a_pool_of_pieces_is_used_whole_6888_req_3: "6888-REQ-3";
    ports_of_one_subscriber_are_limited_6888_req_4: "6888-REQ-4" "6888-REQ-4a";
    each_protocol_has_a_limit_of_its_own_6888_req_4b: "6888-REQ-4b" "6888-REQ-4";
    nobody_opens_flows_faster_than_allowed_6888_req_4c: "6888-REQ-4c" "6888-REQ-5b";
    sessions_are_limited_either_way_6888_req_5a: "6888-REQ-5a" "6888-REQ-5";
    strangers_cannot_fill_the_session_table_6888_req_5: "6888-REQ-5";
    sessions_of_one_mapping_are_limited_6888_req_5a: "6888-REQ-5a" "6888-REQ-5";
    sessions_with_one_destination_are_limited_6888_req_5a: "6888-REQ-5a" "6888-REQ-5";
    some_destinations_are_left_untranslated_6888_req_6: "6888-REQ-6" "6598-S4b";
    a_freed_port_rests_for_two_minutes_6888_req_8: "6888-REQ-8";
    closed_tcp_ports_need_not_rest_6888_req_8a: "6888-REQ-8a";
    the_number_of_resting_ports_has_a_limit_6888_req_8d: "6888-REQ-8d";
    a_refused_flow_is_dropped_and_its_sender_told_6888_req_11b:
        "6888-REQ-11b" "6888-REQ-11a" "5508-REQ-8";
    nothing_is_evicted_to_make_room_6888_req_11d: "6888-REQ-11d" "5508-S6";
}

fn protocols_without_their_document_are_dropped_6888_req_1() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let other = |from: Ipv4Addr, to: Ipv4Addr, protocol| {
        Packet::new(from, to, Body::Other { protocol, bytes: vec![0x11; 40] })
    };
    let pool = Ipv4Addr::new(203, 0, 113, 1);
    // DCCP, SCTP, GRE, ESP, AH, UDP-Lite, IP in IP.
    for protocol in [33, 132, 47, 50, 51, 136, 4] {
        let out = other(subscriber(1), remote(1), protocol);
        talk.dropped(Side::Internal, 0.0, &out, "protocol-unsupported")?;
        let inward = other(remote(1), pool, protocol);
        talk.dropped(Side::External, 1.0, &inward, "protocol-unsupported")?;
    }
    Ok(())
}

fn one_address_for_all_protocols_6888_req_2() -> Result<()> {
    let mut talk = Talk::new(Settings::default().pool(&["203.0.113.0/26"]));
    for number in 1..=20 {
        let host = subscriber(number);
        talk.inside(0.0, &tcp(at(host, 4000), at(remote(1), 80), SYN));
        talk.inside(0.0, &udp(at(host, 4000), at(remote(2), 53)));
        talk.inside(0.0, &query(host, remote(3), 8, 4000));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 60, "{} packets", seen.outside.len());
    let mut all = BTreeSet::new();
    for (number, packets) in seen.outside.chunks(3).enumerate() {
        let addresses: BTreeSet<_> = packets.iter().map(|packet| packet.source).collect();
        ensure!(addresses.len() == 1, "subscriber {number} leaves from {addresses:?}");
        all.extend(addresses);
    }
    ensure!(all.len() > 5, "all leave from {all:?}");
    Ok(())
}

/// Two pools of one address each with two blocks of 64 ports, a block for each subscriber.
fn two_pools() -> Settings {
    let keys = "allocation: { block-size: 64, max-blocks: 1 }";
    Settings::default()
        .pool(&["203.0.113.8"])
        .pool_keys(&format!("ports: 2048-2175\n{keys}"))
        .further_pool("spare", &["203.0.113.24"], &format!("ports: 2048-2175, {keys}"))
}

fn a_new_subscriber_goes_to_the_next_pool_and_stays_there_6888_req_2() -> Result<()> {
    let mut talk = Talk::new(two_pools().uses("[main, spare]"));
    let flow = |number, port| udp(at(subscriber(number), port), at(remote(1), 5000));
    for number in 1..=5 {
        talk.inside(0.0, &flow(number, 4000));
    }
    let seen = talk.look()?;
    let used: Vec<u8> = seen.outside.iter().map(|packet| packet.source.octets()[3]).collect();
    ensure!(used == [8, 8, 24, 24], "used {used:?}");
    ensure!(seen.drops["pool-exhausted"] == 1 && seen.inside.len() == 1, "{seen:#?}");
    // The first two leave; the third keeps its address for old and new flows, the fifth gets
    // in where it was refused.
    for time in [250.0, 500.0, 750.0] {
        talk.inside(time, &flow(3, 4000));
    }
    talk.inside(760.0, &flow(3, 4001));
    talk.inside(761.0, &tcp(at(subscriber(3), 4001), at(remote(2), 80), SYN));
    talk.inside(762.0, &flow(5, 4000));
    let seen = talk.look()?;
    let used: Vec<u8> = seen.outside.iter().map(|packet| packet.source.octets()[3]).collect();
    ensure!(used == [24, 24, 24, 24, 24, 8], "used {used:?}");
    Ok(())
}

fn a_destination_with_a_pool_of_its_own_parts_nothing_else_6888_req_2() -> Result<()> {
    let rule = "destinations: [{ to: [0.0.0.0/0], protocol: udp, ports: [53], pool: spare }]";
    let mut talk = Talk::new(two_pools().group_keys(rule));
    let host = at(subscriber(1), 40_000);
    let (dns, other) = (at(remote(1), 53), at(remote(1), 5000));
    let named = talk.outbound(0.0, &udp(host, dns))?.sender();
    let plain = talk.outbound(0.1, &udp(host, other))?.sender();
    ensure!((named.ip().octets()[3], plain.ip().octets()[3]) == (24, 8), "{named} {plain}");
    // One endpoint for all servers of a kind, and for all other destinations.
    for number in 2..10 {
        let again = talk.outbound(0.2, &udp(host, at(remote(number), 53)))?.sender();
        ensure!(again == named, "{again} and {named}");
        let again = talk.outbound(0.3, &udp(host, at(remote(number), 6000)))?.sender();
        ensure!(again == plain, "{again} and {plain}");
    }
    let tcp_too = talk.outbound(0.4, &tcp(host, at(remote(1), 53), SYN))?.sender();
    let echo = talk.outbound(0.5, &query(subscriber(1), remote(1), 8, 53))?.sender();
    ensure!([tcp_too.ip(), echo.ip()] == [plain.ip(); 2], "{tcp_too} {echo}");
    talk.inbound(1.0, &udp(dns, named))?;
    talk.inbound(1.1, &udp(other, plain))?;
    // Whoever would be answered from elsewhere does not get in.
    talk.dropped(Side::External, 1.2, &udp(other, named), "filtered")?;
    talk.dropped(Side::External, 1.3, &udp(dns, plain), "filtered")
}

fn ports_are_limited_over_all_pools_of_a_subscriber_6888_req_4() -> Result<()> {
    let keys = "destinations: [{ to: [0.0.0.0/0], protocol: udp, ports: [53], pool: spare }]\n\
                limits: { ports: 20 }";
    let mut talk = Talk::new(two_pools().group_keys(keys));
    for port in 0..15 {
        talk.inside(0.0, &udp(at(subscriber(1), 10_000 + port), at(remote(1), 53)));
        talk.inside(0.0, &udp(at(subscriber(1), 10_000 + port), at(remote(1), 5000)));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 20, "{} of 30 flows", seen.outside.len());
    ensure!(seen.drops["limit-ports"] == 10, "drops {:?}", seen.drops);
    Ok(())
}

fn a_pool_of_pieces_is_used_whole_6888_req_3() -> Result<()> {
    let items = ["203.0.113.0/29", "203.0.113.100-203.0.113.103", "192.0.2.77", "198.18.0.1"];
    let keys = "exclude: [203.0.113.0, 203.0.113.101]\nports: 1024-5119\n\
                allocation: { block-size: 4096, max-blocks: 1 }";
    let mut talk = Talk::new(Settings::default().pool(&items).pool_keys(keys));
    // One block per address: as many subscribers as addresses take them all.
    for number in 0..12 {
        talk.inside(0.0, &udp(at(subscriber(number), 4000), at(remote(1), 53)));
    }
    let seen = talk.look()?;
    let used: BTreeSet<_> = seen.outside.iter().map(|packet| packet.source).collect();
    let mut want: BTreeSet<Ipv4Addr> =
        (1..8).chain([100, 102, 103]).map(|last| Ipv4Addr::new(203, 0, 113, last)).collect();
    want.extend([Ipv4Addr::new(192, 0, 2, 77), Ipv4Addr::new(198, 18, 0, 1)]);
    ensure!(used == want, "used {used:?}");
    // The next one finds none, and is told so.
    talk.inside(1.0, &udp(at(subscriber(99), 4000), at(remote(1), 53)));
    let refused = talk.look()?;
    ensure!(refused.drops["pool-exhausted"] == 1 && refused.inside.len() == 1, "{refused:#?}");
    Ok(())
}

/// One address, two blocks of 64 ports; a subscriber may have one.
fn tight() -> Settings {
    let keys = "ports: 2048-2175\nallocation: { block-size: 64, max-blocks: 1 }";
    Settings::default().pool(&["203.0.113.9"]).pool_keys(keys)
}

fn ports_of_one_subscriber_are_limited_6888_req_4() -> Result<()> {
    let mut talk = Talk::new(tight());
    for port in 0..100 {
        talk.inside(0.0, &udp(at(subscriber(1), 10_000 + port), at(remote(1), 53)));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 64, "{} of 100 flows", seen.outside.len());
    ensure!(seen.drops["subscriber-ports"] == 36, "drops {:?}", seen.drops);
    // Identifiers of ICMP queries are counted by themselves; another subscriber is unharmed.
    talk.inside(1.0, &query(subscriber(1), remote(1), 8, 7));
    for port in 0..64 {
        talk.inside(1.0, &udp(at(subscriber(2), 10_000 + port), at(remote(1), 53)));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 65 && seen.drops.is_empty(), "{:?}", seen.drops);
    // The limit is a matter of configuration (REQ-4a).
    let keys = "ports: 2048-2175\nallocation: { block-size: 64, max-blocks: 2 }";
    let settings = Settings::default().pool(&["203.0.113.9"]).pool_keys(keys);
    let mut talk = Talk::new(settings);
    for port in 0..130 {
        talk.inside(0.0, &udp(at(subscriber(1), 10_000 + port), at(remote(1), 53)));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 128, "{} of 130 flows", seen.outside.len());
    Ok(())
}

fn strangers_cannot_fill_the_session_table_6888_req_5() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let out = talk.outbound(0.0, &tcp(host, at(remote(1), 80), SYN))?;
    for number in 0..1000u16 {
        let [high, low] = number.to_be_bytes();
        let stranger = at(Ipv4Addr::new(198, 19, high, low), 4000);
        talk.outside(1.0, &tcp(stranger, out.sender(), SYN));
    }
    let seen = talk.look()?;
    // With its own there are 256 then.
    ensure!(seen.inside.len() == 255, "{} of 1000 strangers", seen.inside.len());
    let want = [("limit-mapping-inbound-sessions".to_owned(), 745)].into();
    ensure!(seen.drops == want, "drops {:?}", seen.drops);
    // The subscriber still opens connections from that port.
    for port in 0..50 {
        talk.inside(2.0, &tcp(host, at(remote(2), 1000 + port), SYN));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 50 && seen.drops.is_empty(), "{:?}", seen.drops);
    Ok(())
}

fn some_destinations_are_left_untranslated_6888_req_6() -> Result<()> {
    let rules = "nat44:\n  bypass:\n    - { to: 10.0.0.0/8 }\n    \
                 - { to: 198.51.100.0/24, protocol: udp, ports: [67, 5000-5010] }\n    \
                 - { to: 192.88.99.0/24, from: 100.64.8.0/24 }";
    let settings =
        Settings::default().section(rules).untranslated(&["100.64.0.0/10", "10.0.0.0/8"]);
    let mut talk = Talk::new(settings.clone());
    let host = at(subscriber(1), 67);
    let farm = Ipv4Addr::new(10, 1, 2, 3);
    let fine = Ipv4Addr::new(100, 64, 8, 1);
    let anycast = Ipv4Addr::new(192, 88, 99, 1);
    // By prefix, by port, by both, by source: as it was but for the time to live, both ways.
    for (number, packet) in [
        tcp(host, at(farm, 80), SYN),
        query(*host.ip(), farm, 8, 7),
        udp(host, at(remote(1), 67)),
        udp(host, at(remote(2), 5010)),
        tcp(at(fine, 9), at(anycast, 443), SYN),
    ]
    .into_iter()
    .enumerate()
    {
        let time = number as f64;
        same(&talk.outbound(time, &packet)?, &packet.clone().hop())?;
        same(&talk.inbound(time, &packet.answer(0))?, &packet.answer(0).hop())?;
        let told = error(remote(9), 3, 1, &packet, 8);
        same(&talk.inbound(time, &told)?, &told.clone().hop())?;
    }
    // What no rule names is translated, and its way back is not open.
    for packet in [
        udp(host, at(remote(1), 66)),
        tcp(host, at(remote(1), 67), SYN),
        tcp(host, at(anycast, 443), SYN),
    ] {
        let out = talk.outbound(10.0, &packet)?;
        ensure!(settings.is_pool(out.source), "{out:?}");
        talk.dropped(Side::External, 11.0, &packet.answer(0), "destination-unknown")?;
    }
    // A rule that covers what lies inside does not let it out.
    let link = at(Ipv4Addr::new(10, 255, 0, 1), 80);
    talk.inside(12.0, &tcp(host, link, SYN));
    let seen = talk.look()?;
    ensure!(seen.outside.is_empty(), "left: {:?}", seen.outside);
    ensure!(seen.drops == [("destination-inside".to_owned(), 1)].into(), "{:?}", seen.drops);
    let stranger = at(Ipv4Addr::new(172, 16, 0, 1), 80);
    talk.dropped(Side::Internal, 13.0, &udp(stranger, at(farm, 80)), "source-not-subscriber")
}

fn a_freed_port_rests_for_two_minutes_6888_req_8() -> Result<()> {
    let mut talk = Talk::new(tight().section("timeouts: { udp: { default: 2m } }"));
    let flow = |port: u16| udp(at(subscriber(1), 10_000 + port), at(remote(1), 5000));
    let freed = talk.outbound(0.0, &flow(0))?.sender();
    // It ends at 120 s. All others of the block are taken, then asked for once more.
    for port in 1..64 {
        talk.inside(100.0, &flow(port));
    }
    talk.look()?;
    for time in [121.0, 180.0, 239.0] {
        for port in 1..64 {
            talk.inside(time, &flow(port));
        }
        talk.inside(time, &flow(1000));
        let seen = talk.look()?;
        ensure!(seen.outside.len() == 63, "at {time} s {} flows", seen.outside.len());
        ensure!(seen.drops["subscriber-ports"] == 1, "at {time} s drops {:?}", seen.drops);
        ensure!(seen.outside.iter().all(|packet| packet.sender() != freed), "{freed} at {time} s");
    }
    // Rested: not even its last owner had it in between, now it is free.
    for time in [300.0, 350.0] {
        for port in 1..64 {
            talk.inside(time, &flow(port));
        }
    }
    talk.look()?;
    let again = talk.outbound(400.0, &flow(1001))?.sender();
    ensure!(again == freed, "{again}, the only one that is free is {freed}");
    Settings::default().pool_keys("allocation: { hold: 60s }").accepted()?;
    Ok(())
}

/// How many ports rest after `flows` connections were opened and closed by both ends, and the
/// same number of datagrams sent, and all of that has ended.
fn resting(allocation: &str, flows: u16) -> Result<u64> {
    let keys = format!("allocation: {{ {allocation} }}");
    let mut talk = Talk::new(Settings::default().pool_keys(&keys));
    for number in 0..flows {
        let host = at(subscriber(1), 10_000 + number);
        let mut open = Connection::open(&mut talk, f64::from(number), host, at(remote(1), 80))?;
        open.close(&mut talk, f64::from(number) + 0.5)?;
        talk.outbound(f64::from(number) + 0.6, &udp(host, at(remote(1), 5000)))?;
    }
    // TCP ends after four minutes, UDP after five.
    talk.outside(310.0, &udp(at(remote(1), 5000), at(Ipv4Addr::new(203, 0, 113, 1), 5)));
    Ok(talk.look()?.stats.port_census()?.resting)
}

fn closed_tcp_ports_need_not_rest_6888_req_8a() -> Result<()> {
    let both = resting("hold-closed-tcp: true", 5)?;
    ensure!(both == 10, "{both} ports rest, TCP too by default");
    let udp_alone = resting("hold-closed-tcp: false", 5)?;
    ensure!(udp_alone == 5, "{udp_alone} ports rest, UDP alone");
    Ok(())
}

fn the_number_of_resting_ports_has_a_limit_6888_req_8d() -> Result<()> {
    let of_each = resting("max-held: 3", 5)?;
    ensure!(of_each == 6, "{of_each} ports rest, three of each protocol");
    let none = resting("hold: 0s", 5)?;
    ensure!(none == 0, "{none} ports rest");
    Ok(())
}

fn a_refused_flow_is_dropped_and_its_sender_told_6888_req_11b() -> Result<()> {
    let mut talk = Talk::new(tight());
    let kinds: [fn(u16) -> Packet; 3] = [
        |port| udp(at(subscriber(1), port), at(remote(1), 5000)),
        |port| tcp(at(subscriber(1), port), at(remote(1), 80), SYN),
        |port| query(subscriber(1), remote(1), 8, port),
    ];
    for (number, make) in kinds.into_iter().enumerate() {
        let time = 10.0 * number as f64;
        for port in 0..64 {
            talk.inside(time, &make(10_000 + port));
        }
        let seen = talk.look()?;
        ensure!(seen.outside.len() == 64, "{} flows", seen.outside.len());
        let refused = make(20_000);
        talk.inside(time + 1.0, &refused);
        let seen = talk.look()?;
        ensure!(seen.drops["subscriber-ports"] == 1, "drops {:?}", seen.drops);
        let told = seen.one_inside()?;
        ensure!(told.icmp() == Some((3, 1)) && told.destination == subscriber(1), "{told:?}");
        ensure!(told.payload() == refused.bytes(), "{told:?}");
    }
    Ok(())
}

fn nothing_is_evicted_to_make_room_6888_req_11d() -> Result<()> {
    // All ports of the pool are taken by two subscribers; a third one finds none, in vain.
    let mut talk = Talk::new(tight());
    let mut owners = Vec::new();
    for number in [1, 2] {
        for port in 0..64 {
            talk.inside(0.0, &udp(at(subscriber(number), 10_000 + port), at(remote(1), 5000)));
            owners.push(at(subscriber(number), 10_000 + port));
        }
    }
    let before = talk.look()?.outside;
    ensure!(before.len() == 128, "{} flows", before.len());
    for number in 0..50 {
        talk.inside(1.0, &udp(at(subscriber(3), 10_000 + number), at(remote(1), 5000)));
        talk.inside(1.0, &udp(at(subscriber(1), 30_000 + number), at(remote(1), 5000)));
    }
    let refused = talk.look()?;
    ensure!(refused.outside.is_empty(), "{:#?}", refused.outside);
    for packet in &before {
        talk.outside(2.0, &packet.answer(0));
    }
    let after = talk.look()?.inside;
    let reached: Vec<_> = after.iter().map(Packet::receiver).collect();
    ensure!(reached == owners, "reached {reached:?}");
    Ok(())
}

fn limited(limits: &str) -> Talk {
    Talk::new(Settings::default().group_keys(&format!("limits: {limits}")))
}

fn each_protocol_has_a_limit_of_its_own_6888_req_4b() -> Result<()> {
    let mut talk = limited("{ ports: { udp: 50, tcp: 100 } }");
    for port in 0..110 {
        for number in [1, 2] {
            let host = at(subscriber(number), 10_000 + port);
            talk.inside(f64::from(port), &udp(host, at(remote(1), 5000)));
            talk.inside(f64::from(port), &tcp(host, at(remote(1), 80), SYN));
        }
    }
    let seen = talk.look()?;
    for (protocol, most) in [(17, 50), (6, 100)] {
        let all = seen.outside.iter().filter(|packet| packet.protocol() == protocol).count();
        ensure!(all == 2 * most, "protocol {protocol}: {all} flows of two subscribers");
    }
    ensure!(seen.drops == [("limit-ports".to_owned(), 140)].into(), "drops {:?}", seen.drops);
    // What is refused is told; what exists goes on.
    ensure!(seen.inside.iter().all(|told| told.icmp() == Some((3, 1))), "{:?}", seen.inside);
    ensure!(!seen.inside.is_empty(), "nobody was told");
    let old = udp(at(subscriber(1), 10_000), at(remote(1), 5000));
    ensure!(talk.outbound(120.0, &old)?.sender() == seen.outside[0].sender(), "the first flow");
    Ok(())
}

fn nobody_opens_flows_faster_than_allowed_6888_req_4c() -> Result<()> {
    let mut talk = limited("{ new-sessions-per-second: { rate: 50, burst: 50 } }");
    let hosts: [Ipv4Addr; 2] = [subscriber(1), subscriber(2)];
    // One host opens 1,000 flows in two seconds, another one 40.
    for number in 0..1000u16 {
        let time = 1.0 + f64::from(number) / 500.0;
        let flow = at(hosts[0], 10_000 + number);
        talk.inside(time, &tcp(flow, at(remote(1), 80), SYN));
        if number % 25 == 0 {
            talk.inside(time, &udp(at(hosts[1], 10_000 + number), at(remote(1), 5000)));
        }
    }
    let seen = talk.look()?;
    let of = |protocol| seen.outside.iter().filter(|p| p.protocol() == protocol).count();
    // A burst of 50, then 50 per second: 150, and the clock's tenths of a second more or less.
    ensure!((140..=160).contains(&of(6)), "{} of 1000 flows in two seconds", of(6));
    ensure!(of(17) == 40, "{} of 40 flows of the other subscriber", of(17));
    let refused = 1000 - of(6) as u64;
    let want = [("limit-session-rate".to_owned(), refused)].into();
    ensure!(seen.drops == want, "drops {:?}", seen.drops);
    Ok(())
}

fn sessions_are_limited_either_way_6888_req_5a() -> Result<()> {
    let mut talk = limited("{ sessions: 20, inbound-sessions: 10 }");
    let host = at(subscriber(1), 40_000);
    for port in 0..30 {
        talk.inside(0.0, &tcp(host, at(remote(1), 1000 + port), SYN));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 20, "{} of 30 sessions", seen.outside.len());
    ensure!(seen.drops == [("limit-sessions".to_owned(), 10)].into(), "drops {:?}", seen.drops);
    let external = seen.outside[0].sender();
    for number in 0..15 {
        talk.outside(1.0, &tcp(at(remote(100 + number), 4000), external, SYN));
    }
    let seen = talk.look()?;
    ensure!(seen.inside.len() == 10, "{} of 15 strangers", seen.inside.len());
    let want = [("limit-inbound-sessions".to_owned(), 5)].into();
    ensure!(seen.drops == want, "drops {:?}", seen.drops);
    Ok(())
}

fn sessions_of_one_mapping_are_limited_6888_req_5a() -> Result<()> {
    let mut talk = limited("{ sessions-per-mapping: 20, inbound-sessions-per-mapping: 8 }");
    let host = at(subscriber(1), 40_000);
    let out = talk.outbound(0.0, &tcp(host, at(remote(1), 80), SYN))?;
    for number in 0..15 {
        talk.outside(1.0, &tcp(at(remote(100 + number), 4000), out.sender(), SYN));
    }
    let seen = talk.look()?;
    ensure!(seen.inside.len() == 7, "{} of 15 strangers", seen.inside.len());
    ensure!(seen.outside.is_empty(), "strangers were told {:?}", seen.outside);
    let want = [("limit-mapping-inbound-sessions".to_owned(), 8)].into();
    ensure!(seen.drops == want, "drops {:?}", seen.drops);
    for port in 0..15 {
        talk.inside(2.0, &tcp(host, at(remote(2), 1000 + port), SYN));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 12, "{} of 15 sessions of its own", seen.outside.len());
    let want = [("limit-mapping-sessions".to_owned(), 3)].into();
    ensure!(seen.drops == want, "drops {:?}", seen.drops);
    ensure!(seen.inside.iter().all(|told| told.icmp() == Some((3, 1))), "{:?}", seen.inside);
    // Another port of the host is another mapping.
    talk.outbound(3.0, &tcp(at(subscriber(1), 40_001), at(remote(2), 80), SYN))?;
    Ok(())
}

fn sessions_with_one_destination_are_limited_6888_req_5a() -> Result<()> {
    let mut talk = limited("{ sessions-per-destination: 20 }");
    for port in 0..30 {
        for number in [1, 2] {
            let host = at(subscriber(number), 10_000 + port);
            talk.inside(f64::from(port) / 10.0, &tcp(host, at(remote(1), 443), SYN));
        }
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 40, "{} flows of two subscribers", seen.outside.len());
    let want = [("limit-destination".to_owned(), 20)].into();
    ensure!(seen.drops == want, "drops {:?}", seen.drops);
    ensure!(seen.inside.iter().all(|told| told.icmp() == Some((3, 1))), "{:?}", seen.inside);
    // Whatever the protocol; other destinations are as ever, and what exists goes on.
    talk.inside(4.0, &udp(at(subscriber(1), 20_000), at(remote(1), 53)));
    let seen_then = talk.look()?;
    ensure!(seen_then.outside.is_empty(), "{:?}", seen_then.outside);
    talk.outbound(5.0, &udp(at(subscriber(1), 20_000), at(remote(2), 53)))?;
    let old = tcp(at(subscriber(1), 10_000), at(remote(1), 443), SYN);
    ensure!(talk.outbound(6.0, &old)?.sender() == seen.outside[0].sender(), "the first flow");
    Ok(())
}
