//! ICMP (RFC 5508).

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};

use super::packet::{Body, Packet, SYN, error, query, tcp, udp};
use super::read::Quote;
use super::settings::Settings;
use super::talk::{Side, Talk};
use super::{at, register, remote, same, subscriber};

register! {
    echo_goes_out_and_its_answer_comes_back_5508_req_1:
        "5508-REQ-1" "5508-REQ-10a3" "6888-REQ-1c";
    one_identifier_whatever_the_target_5508_req_1a: "5508-REQ-1a";
    a_query_is_waited_for_sixty_seconds_5508_req_2: "5508-REQ-2";
    the_query_timer_is_configurable_5508_req_2a: "5508-REQ-2a";
    an_error_with_a_wrong_checksum_is_dropped_5508_req_3: "5508-REQ-3";
    a_quote_with_a_wrong_header_checksum_is_dropped_5508_req_3a: "5508-REQ-3a";
    options_of_the_quoted_packet_are_skipped_5508_req_3b: "5508-REQ-3b";
    the_quoted_transport_checksum_is_not_checked_5508_req_3c: "5508-REQ-3c";
    extensions_behind_the_quote_stay_5508_req_3d: "5508-REQ-3d";
    an_error_about_nothing_is_dropped_5508_req_4: "5508-REQ-4";
    a_host_finds_its_own_packet_in_the_quote_5508_req_4a: "5508-REQ-4a" "5508-REQ-4c";
    type_and_code_stay_5508_req_4b: "5508-REQ-4b" "5508-REQ-10a1" "5508-REQ-10b5";
    an_outbound_error_about_nothing_is_dropped_5508_req_5: "5508-REQ-5";
    a_peer_finds_its_own_packet_in_the_quote_5508_req_5a:
        "5508-REQ-5a" "5508-REQ-5b" "5508-REQ-5c";
    an_error_of_an_internal_router_leaks_nothing_5508_req_5c: "5508-REQ-5c" "6598-S4b";
    an_error_neither_keeps_nor_ends_a_query_5508_req_6: "5508-REQ-6";
    a_hairpinned_error_reaches_the_sender_5508_req_7:
        "5508-REQ-7" "5508-REQ-7a" "7857-S12b";
    messages_that_are_neither_query_nor_error_go_nowhere_5508_req_10b1:
        "5508-REQ-10b1" "5508-REQ-10b4" "5508-REQ-10b6" "5508-REQ-10c1" "5508-REQ-10c2"
        "5508-REQ-11";
    timestamps_go_out_and_come_back_5508_req_10b2: "5508-REQ-10b2" "5508-REQ-1" "5508-REQ-1a";
    what_administration_forbids_is_told_so_5508_req_8: "5508-REQ-8";
    errors_can_be_switched_off_by_side_5508_req_9: "5508-REQ-9";
    source_routes_do_not_cross_5508_s7_3: "5508-S7.3" "5508-REQ-10b3";
    recorded_routes_show_nothing_of_the_inside_5508_s7_3: "5508-S7.3" "6598-S4b";
    a_packet_whose_time_runs_out_is_reported_5508_s7_2a:
        "5508-S7.2a" "5508-S7.2b" "5508-REQ-10a2" "1812-S4.3.2.4";
    a_made_error_has_the_class_of_its_packet_5508_s7_7: "5508-S7.7" "5508-REQ-10d";
}

fn echo_goes_out_and_its_answer_comes_back_5508_req_1() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 77);
    let ping = query(*host.ip(), remote(1), 8, 77);
    let out = talk.outbound(0.0, &ping)?;
    ensure!(Settings::default().is_pool(out.source), "{out:?}");
    same(&out, &ping.clone().hop().from(out.sender()))?;
    same(&talk.inbound(0.1, &out.answer(0))?, &ping.answer(0).hop())
}

fn one_identifier_whatever_the_target_5508_req_1a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    for target in 1..5 {
        talk.inside(0.0, &query(subscriber(1), remote(target), 8, 77));
    }
    talk.inside(1.0, &query(subscriber(2), remote(1), 8, 77));
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 5, "{seen:#?}");
    let (own, other) = seen.outside.split_at(4);
    ensure!(own.iter().all(|packet| packet.sender() == own[0].sender()), "{own:#?}");
    ensure!(other[0].sender() != own[0].sender(), "two hosts share {}", own[0].sender());
    Ok(())
}

/// The answer to an echo request is delivered at `alive` and dropped at `gone` seconds.
fn waits(settings: Settings, alive: f64, gone: f64) -> Result<()> {
    let mut talk = Talk::new(settings);
    let ping = query(subscriber(1), remote(1), 8, 77);
    let out = talk.outbound(0.0, &ping)?;
    same(&talk.inbound(alive, &out.answer(0))?, &ping.answer(0).hop())?;
    talk.dropped(Side::External, gone, &out.answer(0), "no-mapping")
}

fn a_query_is_waited_for_sixty_seconds_5508_req_2() -> Result<()> {
    waits(Settings::default(), 59.9, 60.3)?;
    Settings::default().section("timeouts: { icmp: 59s }").refused(&["icmp", "1m"])
}

fn the_query_timer_is_configurable_5508_req_2a() -> Result<()> {
    waits(Settings::default().section("timeouts: { icmp: 90s }"), 89.9, 90.3)
}

/// A mapping of UDP, the packet that made it as it left, and its internal end.
fn one_flow(talk: &mut Talk) -> Result<(Packet, Packet)> {
    let sent = udp(at(subscriber(1), 40_000), at(remote(1), 5000));
    let out = talk.outbound(0.0, &sent)?;
    Ok((sent, out))
}

fn an_error_with_a_wrong_checksum_is_dropped_5508_req_3() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (_, out) = one_flow(&mut talk)?;
    let mut bytes = error(remote(9), 3, 1, &out, 8).bytes();
    bytes[22] ^= 1;
    talk.send_bytes(Side::External, 1.0, &bytes);
    talk.look()?.only_drops("icmp-checksum", 1)
}

/// An error whose quote is changed by `change` before the ICMP checksum is computed.
fn quoting(from: Ipv4Addr, about: &Packet, bytes: usize, change: impl Fn(&mut Vec<u8>)) -> Packet {
    let mut packet = error(from, 3, 1, about, bytes);
    if let Body::Icmp { payload, .. } = &mut packet.body {
        change(payload);
    }
    packet
}

fn a_quote_with_a_wrong_header_checksum_is_dropped_5508_req_3a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (_, out) = one_flow(&mut talk)?;
    let broken = quoting(remote(9), &out, 8, |quote| quote[10] ^= 0x10);
    talk.dropped(Side::External, 1.0, &broken, "icmp-quote")
}

fn options_of_the_quoted_packet_are_skipped_5508_req_3b() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (sent, out) = one_flow(&mut talk)?;
    for words in 0..=10 {
        // No-operation options: header lengths 5 to 15.
        let about = Packet { options: vec![1; words * 4], ..out.clone() };
        let got = talk.inbound(1.0, &error(remote(9), 3, 1, &about, 8))?;
        let quote = Quote::of(&got)?;
        ensure!(quote.sender == sent.sender() && quote.is_sound, "{words} words: {quote:?}");
        ensure!(quote.options.len() == words * 4, "{words} words: {quote:?}");
    }
    Ok(())
}

fn the_quoted_transport_checksum_is_not_checked_5508_req_3c() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (sent, out) = one_flow(&mut talk)?;
    let broken = quoting(remote(9), &out, 1000, |quote| quote[26] ^= 0x55);
    let got = talk.inbound(1.0, &broken)?;
    ensure!(Quote::of(&got)?.sender == sent.sender(), "{got:?}");
    Ok(())
}

fn extensions_behind_the_quote_stay_5508_req_3d() -> Result<()> {
    // RFC 4884: the quote is padded to 128 bytes, then an extension: an MPLS label stack.
    let extension = [0x20, 0, 0xdf, 0xff, 0, 8, 1, 1, 0x00, 0x01, 0x41, 0x40];
    let mut talk = Talk::with_defaults();
    let sent = tcp(at(subscriber(1), 40_000), at(remote(1), 80), SYN);
    let out = talk.outbound(0.0, &sent)?;
    for (kind, code) in [(3, 4), (11, 0)] {
        let mut packet = error(remote(9), kind, code, &out, 8);
        if let Body::Icmp { payload, rest, .. } = &mut packet.body {
            payload.resize(128, 0);
            payload.extend(extension);
            rest[1] = 128 / 4;
        }
        let got = talk.inbound(1.0, &packet)?;
        let payload = got.payload();
        ensure!(payload[128..] == extension, "the extension is {:02x?}", &payload[128..]);
        ensure!(payload[28..128].iter().all(|byte| *byte == 0), "padding {:02x?}", &payload[28..]);
        ensure!(Quote::of(&got)?.sender == sent.sender(), "{got:?}");
    }
    Ok(())
}

fn an_error_about_nothing_is_dropped_5508_req_4() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (_, out) = one_flow(&mut talk)?;
    let other = out.clone().from(at(out.source, out.sender().port() ^ 1));
    talk.dropped(Side::External, 1.0, &error(remote(9), 3, 1, &other, 8), "icmp-no-mapping")
}

fn a_host_finds_its_own_packet_in_the_quote_5508_req_4a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = subscriber(1);
    for sent in [
        udp(at(host, 40_000), at(remote(1), 5000)),
        tcp(at(host, 40_000), at(remote(1), 80), SYN),
        query(host, remote(1), 8, 77),
    ] {
        let out = talk.outbound(0.0, &sent)?;
        // A whole quote: its inner checksums must be right too, so it is read as a packet.
        let got = talk.inbound(1.0, &error(remote(9), 11, 0, &out, 1000))?;
        ensure!(got.source == remote(9) && got.destination == host, "{got:?}");
        let (quoted, faults) = super::read::read(got.payload()).context("the quote")?;
        ensure!(faults.is_empty(), "in the quote {faults:?} are wrong: {quoted:?}");
        same(&quoted, &sent.hop())?;
    }
    Ok(())
}

fn type_and_code_stay_5508_req_4b() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (_, out) = one_flow(&mut talk)?;
    let kinds = [(3, 0..16), (11, 0..2), (12, 0..3)];
    let all = kinds.into_iter().flat_map(|(kind, codes)| codes.map(move |code| (kind, code)));
    let all: Vec<(u8, u8)> = all.collect();
    for (kind, code) in &all {
        talk.outside(1.0, &error(remote(9), *kind, *code, &out, 8));
    }
    let seen = talk.look()?;
    let got: Vec<_> = seen.inside.iter().filter_map(Packet::icmp).collect();
    ensure!(got == all, "came out {got:?}");
    Ok(())
}

fn an_outbound_error_about_nothing_is_dropped_5508_req_5() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (sent, _) = one_flow(&mut talk)?;
    let other = sent.answer(0).to(at(subscriber(1), 39_999));
    talk.dropped(Side::Internal, 1.0, &error(subscriber(1), 3, 3, &other, 8), "icmp-no-mapping")
}

fn a_peer_finds_its_own_packet_in_the_quote_5508_req_5a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (_, out) = one_flow(&mut talk)?;
    let stranger = udp(at(remote(50), 999), out.sender());
    let came = talk.inbound(1.0, &stranger)?;
    for (kind, code) in [(3, 3), (3, 13), (11, 1), (12, 0)] {
        let got = talk.outbound(2.0, &error(subscriber(1), kind, code, &came, 1000))?;
        ensure!(got.icmp() == Some((kind, code)), "{got:?}");
        ensure!(got.source == out.source && got.destination == remote(50), "{got:?}");
        let (quoted, faults) = super::read::read(got.payload()).context("the quote")?;
        ensure!(faults.is_empty(), "in the quote {faults:?} are wrong: {quoted:?}");
        same(&quoted, &stranger.clone().hop())?;
    }
    Ok(())
}

fn an_error_of_an_internal_router_leaks_nothing_5508_req_5c() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (_, out) = one_flow(&mut talk)?;
    let came = talk.inbound(1.0, &out.answer(0))?;
    // From a router between us and the subscriber, and from the next hop itself.
    for router in [Ipv4Addr::new(100, 64, 255, 1), Ipv4Addr::new(10, 255, 0, 1)] {
        let got = talk.outbound(2.0, &error(router, 3, 1, &came, 8))?;
        ensure!(Settings::default().is_pool(got.source), "{got:?}");
        ensure!(got.destination == remote(1), "{got:?}");
    }
    Ok(())
}

fn an_error_neither_keeps_nor_ends_a_query_5508_req_6() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let ping = query(subscriber(1), remote(1), 8, 77);
    let out = talk.outbound(0.0, &ping)?;
    let about = error(remote(9), 11, 0, &out, 8);
    talk.inbound(10.0, &about)?;
    talk.inbound(59.0, &about)?;
    same(&talk.inbound(59.8, &out.answer(0))?, &ping.answer(0).hop())?;
    talk.dropped(Side::External, 60.3, &out.answer(0), "no-mapping")
}

fn a_hairpinned_error_reaches_the_sender_5508_req_7() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (x1, x2) = (at(subscriber(1), 5001), at(subscriber(2), 5002));
    let server = at(remote(1), 3478);
    let first = talk.outbound(0.0, &udp(x1, server))?.sender();
    let second = talk.outbound(1.0, &udp(x2, server))?.sender();
    let sent = udp(x1, second);
    talk.inside(2.0, &sent);
    let got = talk.look()?.one_inside()?;
    same(&got, &udp(first, x2).hop())?;
    // X2's port is closed.
    talk.inside(3.0, &error(*x2.ip(), 3, 3, &got, 1000));
    let back = talk.look()?.one_inside()?;
    ensure!(back.source == *second.ip() && back.destination == *x1.ip(), "{back:?}");
    let (quoted, faults) = super::read::read(back.payload()).context("the quote")?;
    ensure!(faults.is_empty(), "in the quote {faults:?} are wrong: {quoted:?}");
    same(&quoted, &sent.hop())
}

fn messages_that_are_neither_query_nor_error_go_nowhere_5508_req_10b1() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (sent, out) = one_flow(&mut talk)?;
    for (kind, reason) in [
        (4, "icmp-source-quench"),
        (5, "icmp-redirect"),
        (9, "icmp-router-discovery"),
        (10, "icmp-router-discovery"),
        (15, "icmp-information"),
        (16, "icmp-information"),
        (17, "icmp-address-mask"),
        (18, "icmp-address-mask"),
        (40, "icmp-unsupported"),
        (200, "icmp-unsupported"),
    ] {
        talk.dropped(Side::External, 1.0, &error(remote(9), kind, 0, &out, 8), reason)?;
        let outward = error(subscriber(1), kind, 0, &sent.answer(0), 8);
        talk.dropped(Side::Internal, 1.0, &outward, reason)?;
    }
    Ok(())
}

fn timestamps_go_out_and_come_back_5508_req_10b2() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = subscriber(1);
    let first = query(host, remote(1), 13, 77);
    let out = talk.outbound(0.0, &first)?;
    same(&out, &first.clone().hop().from(out.sender()))?;
    let other = talk.outbound(0.1, &query(host, remote(2), 13, 77))?;
    ensure!(other.sender() == out.sender(), "{} and {}", other.sender(), out.sender());
    same(&talk.inbound(59.0, &out.answer(0))?, &first.answer(0).hop())
}

fn what_administration_forbids_is_told_so_5508_req_8() -> Result<()> {
    let mut talk = Talk::new(Settings::default().section("nat44: { hairpinning: false }"));
    let x2 = talk.outbound(0.0, &udp(at(subscriber(2), 5002), at(remote(1), 3478)))?.sender();
    let sent = udp(at(subscriber(1), 5001), x2);
    let got = made_about(&mut talk, Side::Internal, 1.0, &sent)?;
    ensure!(got.icmp() == Some((3, 13)), "{got:?}");
    // A want is told by code 1 (RFC 6888 REQ-11b), or by 13 if so configured.
    let keys = "ports: 2048-2111\nallocation: { block-size: 64, max-blocks: 1 }";
    let section = "nat44: { icmp-errors: { refusal: admin-prohibited } }";
    let tight = Settings::default().pool(&["203.0.113.9"]).pool_keys(keys).section(section);
    let mut talk = Talk::new(tight);
    for port in 0..64 {
        talk.inside(0.0, &udp(at(subscriber(1), 10_000 + port), at(remote(1), 5000)));
    }
    talk.look()?;
    let refused = udp(at(subscriber(1), 20_000), at(remote(1), 5000));
    let got = made_about(&mut talk, Side::Internal, 1.0, &refused)?;
    ensure!(got.icmp() == Some((3, 13)), "{got:?}");
    Ok(())
}

fn errors_can_be_switched_off_by_side_5508_req_9() -> Result<()> {
    for (key, silent) in [("to-internal", Side::Internal), ("to-external", Side::External)] {
        let section = format!("nat44: {{ icmp-errors: {{ {key}: false }} }}");
        let mut talk = Talk::new(Settings::default().section(&section));
        let (sent, out) = one_flow(&mut talk)?;
        for (side, dying) in [(Side::Internal, sent.ttl(1)), (Side::External, out.answer(0).ttl(1))]
        {
            if side == silent {
                talk.dropped(side, 1.0, &dying, "ttl-expired")?;
            } else {
                made_about(&mut talk, side, 1.0, &dying)?;
            }
        }
    }
    Ok(())
}

/// A loose (131) or strict (137) source route by way of `hops`, padded.
fn source_route(kind: u8, hops: &[Ipv4Addr]) -> Vec<u8> {
    let mut option = vec![kind, 3 + 4 * hops.len() as u8, 4];
    option.extend(hops.iter().flat_map(|hop| hop.octets()));
    option.push(0);
    option
}

fn source_routes_do_not_cross_5508_s7_3() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (sent, out) = one_flow(&mut talk)?;
    for kind in [131, 137] {
        let options = source_route(kind, &[subscriber(1), remote(7)]);
        let routed = |packet: &Packet| Packet { options: options.clone(), ..packet.clone() };
        talk.dropped(Side::Internal, 1.0, &routed(&sent), "source-route")?;
        let ping = routed(&query(subscriber(1), remote(1), 8, 77));
        talk.dropped(Side::Internal, 1.0, &ping, "source-route")?;
        // In the header of an error, and in the packet that it quotes.
        let came = sent.answer(0);
        let outer = routed(&error(subscriber(1), 3, 3, &came, 8));
        talk.dropped(Side::Internal, 1.0, &outer, "source-route")?;
        let inner = error(subscriber(1), 3, 3, &routed(&came), 8);
        talk.dropped(Side::Internal, 1.0, &inner, "source-route")?;
        talk.dropped(Side::External, 1.0, &routed(&out.answer(0)), "source-route")?;
    }
    Ok(())
}

fn recorded_routes_show_nothing_of_the_inside_5508_s7_3() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (sent, _) = one_flow(&mut talk)?;
    // Record route: two hops inside were noted, room for two more.
    let inside = [subscriber(1), Ipv4Addr::new(10, 255, 0, 1)];
    let mut option = vec![7, 19, 12];
    option.extend(inside.iter().flat_map(|hop| hop.octets()));
    option.resize(20, 0);
    let got = talk.outbound(1.0, &Packet { options: option, ..sent })?;
    ensure!(got.options[0] == 7 && got.options.len() == 20, "{got:?}");
    for hop in inside {
        let shown = got.options.windows(4).any(|window| window == hop.octets());
        ensure!(!shown, "{hop} is shown: {got:?}");
    }
    Ok(())
}

/// The error that the appliance makes about `packet` from a side; the quote is compared.
fn made_about(talk: &mut Talk, side: Side, time: f64, packet: &Packet) -> Result<Packet> {
    talk.send(side, time, packet);
    let seen = talk.look()?;
    let got = match side {
        Side::Internal => seen.one_inside()?,
        Side::External => seen.one_outside()?,
    };
    let whole = packet.bytes();
    ensure!(whole.starts_with(got.payload()), "quoted {:02x?}", got.payload());
    ensure!(got.destination == packet.source, "{got:?}");
    Ok(got)
}

fn a_packet_whose_time_runs_out_is_reported_5508_s7_2a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (_, out) = one_flow(&mut talk)?;
    let outbound = udp(at(subscriber(1), 40_000), at(remote(1), 33_434)).ttl(1);
    let got = made_about(&mut talk, Side::Internal, 1.0, &outbound)?;
    ensure!(got.icmp() == Some((11, 0)), "{got:?}");
    ensure!(got.source == crate::lab::BOX_INTERNAL, "{got:?}");
    let inbound = out.answer(0).ttl(1);
    let got = made_about(&mut talk, Side::External, 2.0, &inbound)?;
    ensure!(got.icmp() == Some((11, 0)), "{got:?}");
    ensure!(got.source == crate::lab::BOX_EXTERNAL, "{got:?}");
    Ok(())
}

fn a_made_error_has_the_class_of_its_packet_5508_s7_7() -> Result<()> {
    let mut talk = Talk::with_defaults();
    for tos in [0, 46 << 2, 10 << 2 | 1] {
        let packet = udp(at(subscriber(1), 40_000), at(remote(1), 33_434)).ttl(1);
        let packet = Packet { tos, ..packet };
        let got = made_about(&mut talk, Side::Internal, f64::from(tos), &packet)?;
        ensure!(got.tos >> 2 == tos >> 2, "class {} for {}", got.tos >> 2, tos >> 2);
    }
    Ok(())
}
