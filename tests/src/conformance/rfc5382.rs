//! TCP (RFC 5382).

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::connection::Connection;
use super::packet::{ACK, Body, FIN, PSH, Packet, RST, SYN, error, tcp, udp};
use super::read::Quote;
use super::settings::Settings;
use super::talk::{Side, Talk};
use super::{at, register, remote, same, subscriber};

register! {
    connections_to_three_servers_leave_from_one_port_5382_req_1: "5382-REQ-1";
    random_walks_over_the_state_machine_lose_nothing_5382_req_2: "5382-REQ-2" "6888-REQ-1b";
    a_stranger_may_open_a_connection_to_a_mapped_port_5382_req_2: "5382-REQ-2" "5382-REQ-3";
    tcp_may_be_filtered_otherwise_than_udp_5382_req_3b: "5382-REQ-3b" "5382-REQ-3";
    forged_packets_move_no_session_5382_s9b: "5382-S9b" "7857-S2.2c";
    simultaneous_open_works_5382_req_2a: "5382-REQ-2a";
    a_refused_syn_is_answered_after_six_seconds_5382_req_4_i:
        "5382-REQ-4(i)" "5382-REQ-4(iii)";
    a_connection_opened_meanwhile_makes_it_silent_5382_req_4_ii: "5382-REQ-4(ii)";
    a_refused_syn_is_not_answered_by_default_5382_req_4a: "5382-REQ-4a" "5382-REQ-4(i)";
    an_idle_session_is_abandoned_5382_req_5_i: "5382-REQ-5(i)" "5382-S5d";
    an_established_session_idles_for_124_minutes_5382_req_5_ii: "5382-REQ-5(ii)";
    a_half_open_session_idles_for_four_minutes_5382_req_5_iii:
        "5382-REQ-5(iii)" "7857-S2.1c";
    a_closing_session_lasts_four_minutes_5382_req_5_iii: "5382-REQ-5(iii)" "5382-S5b";
    each_timer_moves_its_own_state_only_5382_req_5a: "5382-REQ-5a" "7857-S2.1a" "7857-S2.1b";
    one_fin_leaves_a_session_established_5382_s5a: "5382-S5a";
    a_segment_without_a_mapping_is_dropped_5382_s5c: "5382-S5c";
    equal_ports_of_two_hosts_become_two_5382_req_7: "5382-REQ-7";
    a_connection_between_subscribers_5382_req_8: "5382-REQ-8" "5382-REQ-8a";
    path_mtu_discovery_reaches_the_host_5382_req_9: "5382-REQ-9" "5508-S7.1.2";
    errors_end_no_connection_5382_req_10: "5382-REQ-10";
    no_alg_is_on_5382_req_6: "5382-REQ-6";
    a_resized_command_keeps_numbers_and_blocks_in_step_5382_s9a: "5382-S9a" "4787-REQ-10a";
}

fn connections_to_three_servers_leave_from_one_port_5382_req_1() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let peers = [at(remote(1), 80), at(remote(1), 443), at(remote(2), 80)];
    for peer in peers {
        talk.inside(0.0, &tcp(host, peer, SYN));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 3 && seen.inside.is_empty(), "{seen:#?}");
    let external = seen.outside[0].sender();
    for (packet, peer) in seen.outside.iter().zip(peers) {
        same(packet, &tcp(host, peer, SYN).hop().from(external))?;
        talk.outside(1.0, &packet.answer(SYN | ACK));
    }
    let back = talk.look()?;
    for (packet, peer) in back.inside.iter().zip(peers) {
        same(packet, &tcp(host, peer, SYN).answer(SYN | ACK).hop())?;
    }
    ensure!(back.inside.len() == 3, "{back:#?}");
    Ok(())
}

/// A small generator for walks that are the same in every run (xorshift).
struct Walk(u64);

impl Walk {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

fn random_walks_over_the_state_machine_lose_nothing_5382_req_2() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let mut walk = Walk(0x9e37_79b9);
    let mut connections = Vec::new();
    for number in 0..20u8 {
        let host = at(subscriber(1 + number), 30_000);
        connections.push(Connection::open(&mut talk, f64::from(number), host, at(remote(1), 80))?);
    }
    // Data, repeated segments, pure ACKs; then FIN from either side, with more data of the
    // other in between; then repeated FINs and their ACKs, each in an order of its own.
    let mut expected: [Vec<Packet>; 2] = [Vec::new(), Vec::new()];
    let mut time = 100.0;
    for connection in &mut connections {
        let mut open = [true; 2];
        let mut sent: Vec<(Side, Packet)> = Vec::new();
        for _ in 0..30 {
            let side = if walk.below(2) == 0 { Side::Internal } else { Side::External };
            let index = usize::from(side == Side::External);
            let packet = match walk.below(10) {
                0 if !sent.is_empty() => {
                    let (side, packet) = sent[walk.below(sent.len() as u64) as usize].clone();
                    sent.push((side, packet));
                    continue;
                }
                1 if open[index] => {
                    open[index] = false;
                    connection.packet(side, FIN | ACK, b"")
                }
                2..6 if open[index] => connection.packet(side, PSH | ACK, &[7; 100]),
                _ => connection.packet(side, ACK, b""),
            };
            sent.push((side, packet));
        }
        for (side, packet) in sent {
            time += 1.0;
            talk.send(side, time, &packet);
            let translated = match side {
                Side::Internal => packet.hop().from(connection.external),
                Side::External => packet.hop().to(connection.host),
            };
            expected[usize::from(side == Side::Internal)].push(translated);
        }
    }
    let seen = talk.look()?;
    ensure!(seen.drops.is_empty(), "drops {:?}", seen.drops);
    ensure!(seen.inside == expected[0], "to subscribers other packets than were sent");
    ensure!(seen.outside == expected[1], "to the Internet other packets than were sent");
    Ok(())
}

fn a_stranger_may_open_a_connection_to_a_mapped_port_5382_req_2() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let known = Connection::open(&mut talk, 0.0, host, at(remote(1), 80))?;
    let mut other = Connection::to_be_opened(host, at(remote(99), 1234), known.external);
    other.pass(&mut talk, 1.0, Side::External, SYN)?;
    other.pass(&mut talk, 1.1, Side::Internal, SYN | ACK)?;
    other.pass(&mut talk, 1.2, Side::External, ACK)?;
    other.pass_data(&mut talk, 2.0, Side::Internal, PSH | ACK, b"welcome")?;
    // It is a session of its own, established.
    other.pass(&mut talk, 7000.0, Side::External, ACK)
}

fn tcp_may_be_filtered_otherwise_than_udp_5382_req_3b() -> Result<()> {
    let section = "nat44: { filtering: { udp: endpoint-independent, tcp: address-dependent } }";
    let mut talk = Talk::new(Settings::default().section(section));
    let host = at(subscriber(1), 40_000);
    let open = Connection::open(&mut talk, 0.0, host, at(remote(1), 80))?;
    let datagrams = talk.outbound(0.1, &udp(host, at(remote(1), 80)))?.sender();
    talk.dropped(Side::External, 1.0, &tcp(at(remote(2), 9), open.external, SYN), "filtered")?;
    talk.inbound(1.1, &tcp(at(remote(1), 9), open.external, SYN))?;
    talk.inbound(1.2, &udp(at(remote(2), 9), datagrams))?;
    Ok(())
}

fn forged_packets_move_no_session_5382_s9b() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let mut open = Connection::open(&mut talk, 0.0, at(subscriber(1), 40_000), at(remote(1), 80))?;
    open.pass_data(&mut talk, 0.1, Side::Internal, PSH | ACK, &[1; 500])?;
    open.pass_data(&mut talk, 0.2, Side::External, PSH | ACK, &[2; 500])?;
    open.pass(&mut talk, 0.3, Side::Internal, ACK)?;
    // Somebody who knows addresses and ports, but not the numbers. The host judges what it gets.
    let forged = |flags, sequence| {
        tcp(at(remote(1), 80), open.external, flags).numbered(sequence, 0x7777_7777)
    };
    for (number, flags) in [RST, RST | ACK, FIN | ACK].into_iter().enumerate() {
        let packet = forged(flags, 0xdead_0000 + number as u32);
        open.pass_packet(&mut talk, 1.0, Side::External, &packet)?;
    }
    // Neither the four minutes after a RST nor those after two FINs have begun.
    open.pass(&mut talk, 10.0, Side::Internal, FIN | ACK)?;
    let seen = talk.look()?;
    let counted = seen.stats.document()["sessions"]["tcp_out_of_window"].as_u64();
    ensure!(counted == Some(3), "{counted:?} packets out of window");
    open.pass_data(&mut talk, 7000.0, Side::External, PSH | ACK, b"still here")?;
    // The right number counts.
    open.pass(&mut talk, 7001.0, Side::External, RST | ACK)?;
    let late = open.packet(Side::External, ACK, b"");
    talk.dropped(Side::External, 7241.5, &late, "no-mapping")
}

fn simultaneous_open_works_5382_req_2a() -> Result<()> {
    simultaneous_open(Settings::default())?;
    let strict = "nat44: { filtering: address-and-port-dependent }";
    simultaneous_open(Settings::default().section(strict))
}

fn simultaneous_open(settings: Settings) -> Result<()> {
    let mut talk = Talk::new(settings);
    let host = at(subscriber(1), 40_000);
    let mut both = Connection::begin(&mut talk, 0.0, host, at(remote(1), 80))?;
    let theirs = both.packet(Side::External, SYN, b"");
    both.pass_packet(&mut talk, 0.1, Side::External, &theirs)?;
    let our_answer = tcp(host, both.peer, SYN | ACK).numbered(1000, 5001);
    both.pass_packet(&mut talk, 0.2, Side::Internal, &our_answer)?;
    let their_answer = tcp(both.peer, both.external, SYN | ACK).numbered(5000, 1001);
    both.pass_packet(&mut talk, 0.2, Side::External, &their_answer)?;
    both.pass_data(&mut talk, 1.0, Side::Internal, PSH | ACK, b"data")?;
    both.pass_data(&mut talk, 1.0, Side::External, PSH | ACK, b"data")?;
    // It is established: far beyond the opening timer it is still there.
    both.pass(&mut talk, 7000.0, Side::External, ACK)
}

/// Filtering that refuses strangers, and an answer to their SYNs.
fn answering() -> Settings {
    let section =
        "nat44: { filtering: address-and-port-dependent, unsolicited-syn: port-unreachable }";
    Settings::default().section(section)
}

/// Lets time go on to `time`: a packet to nobody.
fn idle(talk: &mut Talk, time: f64) {
    talk.outside(time, &udp(at(remote(250), 9), at([203, 0, 113, 15].into(), 65_535)));
}

fn a_refused_syn_is_answered_after_six_seconds_5382_req_4_i() -> Result<()> {
    let mut talk = Talk::new(answering());
    let open = Connection::open(&mut talk, 0.0, at(subscriber(1), 40_000), at(remote(1), 80))?;
    let stranger = tcp(at(remote(2), 4000), open.external, SYN);
    talk.outside(10.0, &stranger);
    for time in [12.0, 14.0, 15.9] {
        idle(&mut talk, time);
    }
    talk.look()?.nothing()?;
    for time in [16.5, 20.0, 60.0] {
        idle(&mut talk, time);
    }
    // Exactly one answer, about the packet as it came.
    let told = talk.look()?.one_outside()?;
    ensure!(told.icmp() == Some((3, 3)) && told.destination == remote(2), "{told:?}");
    ensure!(stranger.bytes().starts_with(told.payload()), "{told:?}");
    Ok(())
}

fn a_connection_opened_meanwhile_makes_it_silent_5382_req_4_ii() -> Result<()> {
    let mut talk = Talk::new(answering());
    let host = at(subscriber(1), 40_000);
    let open = Connection::open(&mut talk, 0.0, host, at(remote(1), 80))?;
    let syn = tcp(at(remote(2), 4000), open.external, SYN).numbered(5000, 0);
    talk.outside(10.0, &syn);
    talk.look()?.nothing()?;
    let ours = talk.outbound(13.0, &tcp(host, at(remote(2), 4000), SYN))?;
    ensure!(ours.sender() == open.external, "{ours:?}");
    for time in [15.9, 16.5, 30.0] {
        idle(&mut talk, time);
    }
    talk.look()?.nothing()?;
    // Its retransmission comes in.
    same(&talk.inbound(31.0, &syn)?, &syn.clone().hop().to(host))
}

fn a_refused_syn_is_not_answered_by_default_5382_req_4a() -> Result<()> {
    let strict = "nat44: { filtering: address-and-port-dependent }";
    let mut talk = Talk::new(Settings::default().section(strict));
    let open = Connection::open(&mut talk, 0.0, at(subscriber(1), 40_000), at(remote(1), 80))?;
    talk.outside(10.0, &tcp(at(remote(2), 4000), open.external, SYN));
    idle(&mut talk, 16.5);
    idle(&mut talk, 60.0);
    talk.look()?.nothing()
}

fn an_idle_session_is_abandoned_5382_req_5_i() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let mut idle = Connection::open(&mut talk, 0.0, host, at(remote(1), 80))?;
    let late = idle.packet(Side::External, ACK, b"");
    // Silently: neither end is told (RFC 5382 section 5 leaves that open).
    talk.dropped(Side::External, 7440.5, &late, "no-mapping")?;
    let census = talk.look()?.stats.port_census()?;
    ensure!(census.used == 0 && census.resting == 1, "{census:?}");
    Ok(())
}

fn an_established_session_idles_for_124_minutes_5382_req_5_ii() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let mut idle = Connection::open(&mut talk, 0.0, host, at(remote(1), 80))?;
    idle.pass(&mut talk, 7439.9, Side::External, ACK)?;
    idle.pass(&mut talk, 14_879.5, Side::Internal, ACK)?;
    Settings::default()
        .section("timeouts: { tcp: { established: 2h3m59s } }")
        .refused(&["established", "2h4m"])
}

fn a_half_open_session_idles_for_four_minutes_5382_req_5_iii() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let mut half = Connection::begin(&mut talk, 0.0, host, at(remote(1), 80))?;
    half.pass(&mut talk, 239.9, Side::External, SYN | ACK)?;
    let other = at(subscriber(1), 40_001);
    let mut lost = Connection::begin(&mut talk, 240.0, other, at(remote(1), 80))?;
    let late = lost.packet(Side::External, SYN | ACK, b"");
    talk.dropped(Side::External, 480.5, &late, "no-mapping")
}

fn a_closing_session_lasts_four_minutes_5382_req_5_iii() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let mut closed = Connection::open(&mut talk, 0.0, host, at(remote(1), 80))?;
    closed.close(&mut talk, 10.0)?;
    // The last ACK was lost: FIN and ACK come again (TIME_WAIT).
    let again = tcp(closed.peer, closed.external, FIN | ACK).numbered(5001, 1002);
    closed.pass_packet(&mut talk, 100.0, Side::External, &again)?;
    closed.pass(&mut talk, 100.1, Side::Internal, ACK)?;
    closed.pass_packet(&mut talk, 249.8, Side::External, &again)?;
    talk.dropped(Side::External, 250.5, &again, "no-mapping")?;
    Settings::default().section("timeouts: { tcp: { closing: 3m59s } }").refused(&["closing", "4m"])
}

fn each_timer_moves_its_own_state_only_5382_req_5a() -> Result<()> {
    let with = |keys: &str| Settings::default().section(&format!("timeouts:\n  tcp: {{ {keys} }}"));
    let host = at(subscriber(1), 40_000);
    // Opening may be short (RFC 7857 section 2.1); the rest stays.
    let mut talk = Talk::new(with("opening: 30s"));
    let mut half = Connection::begin(&mut talk, 0.0, host, at(remote(1), 80))?;
    let late = half.packet(Side::External, SYN | ACK, b"");
    talk.dropped(Side::External, 30.5, &late, "no-mapping")?;
    let mut open = Connection::open(&mut talk, 100.0, at(subscriber(1), 5), at(remote(1), 80))?;
    open.close(&mut talk, 7000.0)?;
    open.pass(&mut talk, 7239.0, Side::External, ACK)?;
    // Closing long: opening stays.
    let mut talk = Talk::new(with("closing: 10m, established: 3h"));
    let mut half = Connection::begin(&mut talk, 0.0, host, at(remote(1), 80))?;
    let late = half.packet(Side::External, SYN | ACK, b"");
    talk.dropped(Side::External, 240.5, &late, "no-mapping")?;
    let mut open = Connection::open(&mut talk, 300.0, at(subscriber(1), 5), at(remote(1), 80))?;
    open.pass(&mut talk, 11_000.0, Side::External, ACK)?;
    open.close(&mut talk, 11_001.0)?;
    open.pass(&mut talk, 11_600.0, Side::External, ACK)
}

fn one_fin_leaves_a_session_established_5382_s5a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let sides = [(Side::Internal, Side::External), (Side::External, Side::Internal)];
    for (number, (first, other)) in sides.into_iter().enumerate() {
        let host = at(subscriber(1), 40_000 + number as u16);
        let time = 8000.0 * number as f64;
        let mut half = Connection::open(&mut talk, time, host, at(remote(1), 80))?;
        half.pass(&mut talk, time + 1.0, first, FIN | ACK)?;
        half.pass_data(&mut talk, time + 7400.0, other, PSH | ACK, b"still here")?;
    }
    Ok(())
}

fn a_segment_without_a_mapping_is_dropped_5382_s5c() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (host, peer) = (at(subscriber(1), 40_000), at(remote(1), 80));
    for (number, flags) in [ACK, PSH | ACK, FIN | ACK, RST, SYN | ACK].into_iter().enumerate() {
        talk.dropped(Side::Internal, number as f64, &tcp(host, peer, flags), "tcp-not-syn")?;
    }
    let mappings = talk.look()?.stats.active_mappings()?;
    ensure!(mappings == 0, "{mappings} mappings");
    Ok(())
}

fn equal_ports_of_two_hosts_become_two_5382_req_7() -> Result<()> {
    let mut talk = Talk::new(Settings::default().pool(&["203.0.113.9"]));
    let peer = at(remote(1), 80);
    let mut first = Connection::open(&mut talk, 0.0, at(subscriber(1), 5000), peer)?;
    let mut second = Connection::open(&mut talk, 1.0, at(subscriber(2), 5000), peer)?;
    ensure!(first.external.ip() == second.external.ip(), "one address");
    ensure!(first.external.port() != second.external.port(), "{first:?} {second:?}");
    first.pass_data(&mut talk, 2.0, Side::External, PSH | ACK, b"one")?;
    second.pass_data(&mut talk, 2.0, Side::External, PSH | ACK, b"two")
}

fn a_connection_between_subscribers_5382_req_8() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let (client, server) = (at(subscriber(1), 40_000), at(subscriber(2), 80));
    let outer = Connection::open(&mut talk, 0.0, server, at(remote(1), 3478))?;
    let service = outer.external;
    let syn = tcp(client, service, SYN);
    talk.inside(1.0, &syn);
    let got = talk.look()?.one_inside()?;
    let from = got.sender();
    // The external endpoint as its source, never the internal one (REQ-8a).
    same(&got, &syn.clone().hop().from(from).to(server))?;
    ensure!(Settings::default().is_pool(*from.ip()), "source {from}");
    let answer = got.answer(SYN | ACK);
    talk.inside(1.1, &answer);
    let back = talk.look()?.one_inside()?;
    same(&back, &answer.clone().hop().from(service).to(client))?;
    let data = tcp(client, service, PSH | ACK).numbered(1001, 5001).carrying(b"hello");
    talk.inside(1.2, &data);
    same(&talk.look()?.one_inside()?, &data.clone().hop().from(from).to(server))?;
    let fin = tcp(server, from, FIN | ACK).numbered(5001, 1006);
    talk.inside(1.3, &fin);
    same(&talk.look()?.one_inside()?, &fin.clone().hop().from(service).to(client))
}

fn path_mtu_discovery_reaches_the_host_5382_req_9() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let mut open = Connection::open(&mut talk, 0.0, host, at(remote(1), 80))?;
    let large = open.packet(Side::Internal, ACK, &[0x55; 1400]);
    let sent = talk.outbound(1.0, &large)?;
    let mut too_big = error(remote(77), 3, 4, &sent, 8);
    if let super::packet::Body::Icmp { rest, .. } = &mut too_big.body {
        *rest = [0, 0, 0x05, 0x14];
    }
    let got = talk.inbound(1.1, &too_big)?;
    let super::packet::Body::Icmp { rest, .. } = &got.body else {
        anyhow::bail!("not ICMP: {got:?}")
    };
    ensure!(got.icmp() == Some((3, 4)) && rest[2..] == [0x05, 0x14], "{got:?}");
    ensure!(got.source == remote(77) && got.destination == *host.ip(), "{got:?}");
    let quote = Quote::of(&got)?;
    ensure!(quote.sender == host && quote.receiver == open.peer && quote.is_sound, "{quote:?}");
    ensure!(quote.segment[4..8] == 1001u32.to_be_bytes(), "sequence number of {quote:?}");
    Ok(())
}

fn errors_end_no_connection_5382_req_10() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let host = at(subscriber(1), 40_000);
    let mut open = Connection::open(&mut talk, 0.0, host, at(remote(1), 80))?;
    let sent = open.packet(Side::Internal, ACK, b"x");
    let out = talk.outbound(1.0, &sent)?;
    for (kind, code) in
        [(3, 0), (3, 1), (3, 2), (3, 3), (3, 10), (3, 13), (11, 0), (11, 1), (12, 0)]
    {
        talk.outside(2.0, &error(remote(9), kind, code, &out, 8));
    }
    let seen = talk.look()?;
    ensure!(seen.inside.len() == 9, "{seen:#?}");
    // The session kept its state and its timer.
    open.pass(&mut talk, 7000.0, Side::External, ACK)
}

fn no_alg_is_on_5382_req_6() -> Result<()> {
    // Active mode of FTP, RTSP, SIP over TCP, a call of PPTP: not one byte changes.
    let header = |length: u8, kind: u8| [0, length, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, kind, 0, 0];
    let mut start = header(156, 1).to_vec();
    start.resize(156, 1);
    let mut call = header(168, 7).to_vec();
    call.resize(168, 1);
    let pptp = [start, call].concat();
    let mut talk = Talk::with_defaults();
    let mut ends = BTreeSet::new();
    for (number, (port, text)) in [
        (21, &b"PORT 100,64,7,1,20,0\r\n"[..]),
        (554, b"SETUP rtsp://a/b RTSP/1.0\r\nTransport: RTP/AVP;client_port=5000-5001\r\n\r\n"),
        (5060, b"INVITE sip:a@100.64.7.1 SIP/2.0\r\nVia: SIP/2.0/TCP 100.64.7.1:5060\r\n\r\n"),
        (1723, &pptp),
    ]
    .into_iter()
    .enumerate()
    {
        let host = at(subscriber(1), 40_000 + number as u16);
        let mut open = Connection::open(&mut talk, number as f64, host, at(remote(1), port))?;
        open.pass_data(&mut talk, number as f64, Side::Internal, PSH | ACK, text)?;
        ends.insert(open.external);
    }
    ensure!(ends.len() == 4, "{ends:?}");
    Ok(())
}

fn a_resized_command_keeps_numbers_and_blocks_in_step_5382_s9a() -> Result<()> {
    let settings = Settings::default().section("nat44: { alg: { ftp: true } }");
    let mut talk = Talk::new(settings);
    let (host, peer) = (at(subscriber(1), 4021), at(remote(1), 21));
    let control = Connection::open(&mut talk, 0.0, host, peer)?;
    let external = control.external;
    let greeting = tcp(peer, external, PSH | ACK).numbered(5001, 1001).carrying(b"220 a\r\n");
    same(&talk.inbound(1.0, &greeting)?, &greeting.clone().hop().to(host))?;
    let short = b"PORT 100,64,7,1,20,0\r\n";
    let command = tcp(host, peer, PSH | ACK).numbered(1001, 5008).carrying(short);
    let got = talk.outbound(2.0, &command)?;
    let text = String::from_utf8_lossy(got.payload()).into_owned();
    let numbers: Vec<u16> = text
        .strip_prefix("PORT ")
        .and_then(|rest| rest.strip_suffix("\r\n"))
        .map(|rest| rest.split(',').filter_map(|number| number.parse().ok()).collect())
        .unwrap_or_default();
    ensure!(numbers.len() == 6, "the server gets {text:?}");
    let octets = [0, 1, 2, 3].map(|n| numbers[n] as u8);
    ensure!(octets == external.ip().octets(), "another address than {external}: {text:?}");
    let named = at(octets.into(), numbers[4] << 8 | numbers[5]);
    let want = command.clone().hop().from(external).carrying(text.as_bytes());
    same(&got, &want)?;
    // The command is lost; what follows has come, says the server's block.
    let (inner, outer) = (1001 + short.len() as u32, 1001 + text.len() as u32);
    let list = tcp(host, peer, PSH | ACK).numbered(inner, 5008).carrying(b"LIST\r\n");
    same(&talk.outbound(3.0, &list)?, &list.clone().hop().from(external).numbered(outer, 5008))?;
    let block = |from: u32| -> Vec<u8> {
        let edges = [from.to_be_bytes(), (from + 6).to_be_bytes()].concat();
        [&[1, 1, 5, 10][..], &edges].concat()
    };
    let told = |ack: u32, block: Vec<u8>| {
        let mut packet = tcp(peer, external, ACK).numbered(5008, ack);
        if let Body::Tcp(tcp) = &mut packet.body {
            tcp.options = block;
        }
        packet
    };
    let (lost, heard) = (told(1001, block(outer)), told(1001, block(inner)));
    same(&talk.inbound(4.0, &lost)?, &heard.hop().to(host))?;
    // Sent again it is as before, and then everything is acknowledged.
    same(&talk.outbound(5.0, &command)?, &want)?;
    let all = told(outer + 6, Vec::new());
    same(&talk.inbound(6.0, &all)?, &told(inner + 6, Vec::new()).hop().to(host))?;
    // The server connects to what was named, and reaches what was meant.
    let syn = tcp(at(remote(1), 20), named, SYN);
    same(&talk.inbound(7.0, &syn)?, &syn.clone().hop().to(at(subscriber(1), 20 << 8)))?;
    // The other ALG has not been switched on with it.
    ensure!(talk.look()?.stats.document()["alg"]["tftp"]["requests"] == 0, "TFTP is on");
    Ok(())
}
