//! Protocols that are carried by their addresses alone (`nat44.other-protocols`).

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::packet::{Body, Packet, error, udp};
use super::settings::Settings;
use super::talk::{Side, Talk};
use super::{at, register, remote, same, subscriber};

register! {
    carried_protocols_share_the_one_address_of_a_subscriber_6888_req_2: "6888-REQ-2" "6888-REQ-1";
    a_second_subscriber_of_a_tuple_is_refused_and_told_6888_req_11b:
        "6888-REQ-11b" "6888-REQ-11d";
    errors_about_carried_protocols_are_translated_5508_req_4: "5508-REQ-4" "5508-REQ-5";
    flows_without_ports_are_sessions_of_a_subscriber_6888_req_5a: "6888-REQ-5a";
    fragments_of_carried_protocols_pass_in_any_order_4787_req_14: "4787-REQ-14";
}

const GRE: u8 = 47;
const ESP: u8 = 50;
const SCTP: u8 = 132;

fn carrying() -> Settings {
    Settings::default().section("nat44: { other-protocols: { default: carry } }")
}

fn bare(from: Ipv4Addr, to: Ipv4Addr, protocol: u8) -> Packet {
    let bytes = (0..40).map(|n: u8| n.wrapping_mul(7)).collect();
    Packet::new(from, to, Body::Other { protocol, bytes })
}

/// The same packet with other addresses, one router on.
fn moved(packet: &Packet, from: Ipv4Addr, to: Ipv4Addr) -> Packet {
    Packet { source: from, destination: to, ..packet.clone() }.hop()
}

fn carried_protocols_share_the_one_address_of_a_subscriber_6888_req_2() -> Result<()> {
    let mut talk = Talk::new(carrying().system("workers: 3"));
    let ike = talk.outbound(0.0, &udp(at(subscriber(1), 500), at(remote(1), 500)))?;
    let external = ike.source;
    for (n, protocol) in [GRE, ESP, SCTP, 4, 41, 89, 255].into_iter().enumerate() {
        let out = bare(subscriber(1), remote(1), protocol);
        let seen = talk.outbound(1.0 + n as f64, &out)?;
        same(&seen, &moved(&out, external, remote(1)))?;
        let back = bare(remote(1), external, protocol);
        let got = talk.inbound(1.5 + n as f64, &back)?;
        same(&got, &moved(&back, remote(1), subscriber(1)))?;
        // Nobody else gets in.
        let stranger = bare(remote(2), external, protocol);
        talk.dropped(Side::External, 1.6 + n as f64, &stranger, "no-association")?;
    }
    // AH authenticates the addresses.
    talk.dropped(Side::Internal, 20.0, &bare(subscriber(1), remote(1), 51), "protocol-unsupported")
}

fn a_second_subscriber_of_a_tuple_is_refused_and_told_6888_req_11b() -> Result<()> {
    let mut talk = Talk::new(carrying().pool(&["203.0.113.9"]).system("workers: 3"));
    let external = Ipv4Addr::new(203, 0, 113, 9);
    talk.outbound(0.0, &bare(subscriber(1), remote(1), GRE))?;
    let second = bare(subscriber(2), remote(1), GRE);
    talk.refused(1.0, &second, "association-conflict", (3, 1))?;
    // What exists goes on.
    let back = bare(remote(1), external, GRE);
    same(&talk.inbound(2.0, &back)?, &moved(&back, remote(1), subscriber(1)))?;
    // ESP is refused without IKE, and beside another client of the same gateway.
    let esp = |number| bare(subscriber(number), remote(1), ESP);
    talk.refused(3.0, &esp(1), "esp-without-ike", (3, 1))?;
    // One after the other: two workers do not keep the order of what arrives together.
    for (number, when) in [(1, 4.0), (2, 4.5)] {
        talk.outbound(when, &udp(at(subscriber(number), 500), at(remote(1), 500)))?;
    }
    talk.outbound(5.0, &esp(1))?;
    talk.refused(6.0, &esp(2), "esp-conflict", (3, 1))?;
    // Ten minutes after the last packet the tuple is free.
    let late = 601.5;
    same(&talk.outbound(late, &second)?, &moved(&second, external, remote(1)))?;
    same(&talk.inbound(late + 1.0, &back)?, &moved(&back, remote(1), subscriber(2)))
}

fn errors_about_carried_protocols_are_translated_5508_req_4() -> Result<()> {
    let mut talk = Talk::new(carrying().system("workers: 3"));
    let out = bare(subscriber(1), remote(1), GRE);
    let seen = talk.outbound(0.0, &out)?;
    let told = error(remote(9), 3, 2, &seen, 20);
    let got = talk.inbound(1.0, &told)?;
    let want = error(remote(9), 3, 2, &out.clone().hop(), 20).hop();
    same(&got, &want)?;
    let back = talk.inbound(2.0, &bare(remote(1), seen.source, GRE))?;
    let refusal = error(subscriber(1), 3, 2, &back, 20);
    let shown = talk.outbound(3.0, &refusal)?;
    let about = Packet { destination: seen.source, ..back };
    same(&shown, &error(seen.source, 3, 2, &about, 20).hop())
}

fn flows_without_ports_are_sessions_of_a_subscriber_6888_req_5a() -> Result<()> {
    let mut talk = Talk::new(carrying().group_keys("limits: { sessions: 3 }"));
    for number in 1..=3 {
        talk.outbound(0.0, &bare(subscriber(1), remote(number), GRE))?;
    }
    talk.refused(1.0, &bare(subscriber(1), remote(4), GRE), "limit-sessions", (3, 1))?;
    let query = udp(at(subscriber(1), 4000), at(remote(4), 53));
    talk.refused(2.0, &query, "limit-sessions", (3, 1))?;
    talk.outbound(3.0, &bare(subscriber(1), remote(2), GRE))?;
    Ok(())
}

fn fragments_of_carried_protocols_pass_in_any_order_4787_req_14() -> Result<()> {
    let mut talk = Talk::new(carrying().system("workers: 3"));
    let out = bare(subscriber(1), remote(1), GRE).df(false);
    let external = talk.outbound(0.0, &out)?.source;
    let pieces = out.fragments(16);
    for order in [[0, 1, 2], [2, 1, 0]] {
        order.iter().for_each(|n| talk.inside(1.0, &pieces[*n]));
        let seen = talk.look()?;
        ensure!(seen.outside.len() == 3, "{seen:?}");
        for (piece, n) in seen.outside.iter().zip(order) {
            same(piece, &moved(&pieces[n], external, remote(1)))?;
        }
    }
    Ok(())
}
