//! MTU and fragments (RFC 4787 section 10 and 11, RFC 5508 section 7.1).

use anyhow::{Context as _, Result, ensure};

use super::packet::{Body, Packet, SYN, query, tcp, udp};
use super::settings::Settings;
use super::talk::{Side, Talk};
use super::{at, register, remote, same, subscriber};
use crate::lab::{BOX_EXTERNAL, BOX_INTERNAL};

register! {
    too_big_with_df_is_told_to_the_subscriber_4787_req_13: "4787-REQ-13" "5508-S7.1.1b";
    too_big_with_df_is_told_to_the_external_sender_5508_s7_1_1b: "5508-S7.1.1b";
    too_big_without_df_leaves_in_fragments_in_order_4787_req_13a:
        "4787-REQ-13a" "5508-S7.1.1c";
    a_packet_with_df_is_never_fragmented_5508_s7_1_1a: "5508-S7.1.1a" "6864-S4.3b";
    fragments_in_every_order_pass_both_ways_4787_req_14: "4787-REQ-14";
    a_flood_of_later_fragments_harms_nobody_4787_req_14a: "4787-REQ-14a";
    a_subscriber_has_so_many_datagrams_in_fragments_4787_req_14a: "4787-REQ-14a";
}

/// A UDP datagram of `total` bytes.
fn sized(packet: Packet, df: bool, total: usize) -> Packet {
    let data: Vec<u8> = (0..total - 28).map(|n| (n * 31) as u8).collect();
    packet.df(df).carrying(&data)
}

/// That `got` is a 3/4 of the appliance with this MTU about `about`, which it quotes as it was.
fn told(got: &Packet, own: std::net::Ipv4Addr, mtu: u16, about: &Packet) -> Result<()> {
    let Body::Icmp { kind: 3, code: 4, rest, payload } = &got.body else {
        anyhow::bail!("not fragmentation needed: {got:?}")
    };
    ensure!(rest[2..] == mtu.to_be_bytes(), "MTU in {got:?}");
    ensure!(got.source == own && got.destination == about.source, "{got:?}");
    ensure!(payload.len() >= 28 && about.bytes().starts_with(payload), "the quote in {got:?}");
    Ok(())
}

fn too_big_with_df_is_told_to_the_subscriber_4787_req_13() -> Result<()> {
    let mut talk = Talk::new(Settings::default().mtu(1500, 1400));
    let (host, peer) = (at(subscriber(1), 40_000), at(remote(1), 53));
    let big = sized(udp(host, peer), true, 1500);
    let got = talk.answered(Side::Internal, 0.0, &big)?;
    told(&got, BOX_INTERNAL, 1400, &big)?;
    let fits = sized(udp(host, peer), true, 1400);
    let sent = talk.outbound(1.0, &fits)?;
    same(&sent, &fits.clone().hop().from(sent.sender()))
}

fn too_big_with_df_is_told_to_the_external_sender_5508_s7_1_1b() -> Result<()> {
    let mut talk = Talk::new(Settings::default().mtu(1300, 1500));
    let (host, peer) = (at(subscriber(1), 40_000), at(remote(1), 53));
    let sent = talk.outbound(0.0, &udp(host, peer))?;
    let big = sized(sent.answer(0), true, 1301);
    talk.outside(1.0, &big);
    told(&talk.look()?.one_outside()?, BOX_EXTERNAL, 1300, &big)
}

fn too_big_without_df_leaves_in_fragments_in_order_4787_req_13a() -> Result<()> {
    let mut talk = Talk::new(Settings::default().mtu(1000, 1400));
    let (host, peer) = (at(subscriber(1), 40_000), at(remote(1), 53));
    let big = sized(udp(host, peer), false, 1500);
    talk.inside(0.0, &big);
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 2 && seen.outside[0].offset == 0, "{seen:#?}");
    ensure!(seen.outside.iter().all(|piece| piece.bytes().len() <= 1400), "{seen:#?}");
    let whole = Packet::reassemble(&seen.outside)?;
    let expected = big.clone().hop().from(whole.sender());
    same(&whole, &Packet { id: whole.id, ..expected })?;

    let answer = sized(whole.answer(0), false, 1500);
    talk.outside(1.0, &answer);
    let seen = talk.look()?;
    ensure!(seen.inside.len() == 2 && seen.inside[0].offset == 0, "{seen:#?}");
    same(&Packet::reassemble(&seen.inside)?, &answer.hop().to(host))
}

fn a_packet_with_df_is_never_fragmented_5508_s7_1_1a() -> Result<()> {
    let mut talk = Talk::new(Settings::default().mtu(1300, 1400));
    let (host, peer) = (at(subscriber(1), 40_000), at(remote(1), 53));
    let sent = talk.outbound(0.0, &sized(udp(host, peer), true, 1300))?;
    ensure!(sent.df && !sent.more && sent.offset == 0, "{sent:?}");
    for (side, packet) in [
        (Side::Internal, sized(udp(host, peer), true, 1500)),
        (Side::External, sized(sent.answer(0), true, 1500)),
    ] {
        talk.send(side, 1.0, &packet);
        let seen = talk.look()?;
        let out: Vec<_> = seen.inside.iter().chain(&seen.outside).collect();
        ensure!(out.len() == 1 && out[0].icmp() == Some((3, 4)), "{seen:#?}");
        ensure!(seen.drops.get("too-big") == Some(&1), "{:?}", seen.drops);
    }
    Ok(())
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

fn fragments_in_every_order_pass_both_ways_4787_req_14() -> Result<()> {
    let mut talk = Talk::new(Settings::default().system("workers: 2\n"));
    let host = at(subscriber(1), 40_000);
    let data: Vec<u8> = (0..300).map(|n| (n * 31) as u8).collect();
    let mut when = 0.0;
    for packet in [
        udp(host, at(remote(1), 53)),
        tcp(host, at(remote(1), 80), SYN),
        query(*host.ip(), remote(1), 8, host.port()),
    ] {
        for (number, order) in (0u16..).zip(ORDERS) {
            when += 1.0;
            let whole = Packet { id: 7 + number, ..packet.clone().df(false).carrying(&data) };
            let pieces = whole.fragments(120);
            order.iter().for_each(|n| talk.inside(when, &pieces[*n]));
            let seen = talk.look()?;
            ensure!(seen.drops.is_empty(), "{order:?}: {:?}", seen.drops);
            let out = Packet::reassemble(&seen.outside).with_context(|| format!("{order:?}"))?;
            let expected = whole.hop().from(out.sender());
            same(&out, &Packet { id: out.id, ..expected })?;

            let answer = Packet { id: 99 + number, ..out.answer(SYN | super::packet::ACK) };
            let answer = answer.carrying(&data);
            let pieces = answer.fragments(120);
            order.iter().for_each(|n| talk.outside(when, &pieces[*n]));
            let seen = talk.look()?;
            ensure!(seen.drops.is_empty(), "{order:?}: {:?}", seen.drops);
            let back = Packet::reassemble(&seen.inside).with_context(|| format!("{order:?}"))?;
            same(&back, &answer.hop().to(host))?;
        }
    }
    Ok(())
}

fn a_flood_of_later_fragments_harms_nobody_4787_req_14a() -> Result<()> {
    let bounds = "nat44: { fragments: { max-pending: 64, max-datagrams: 128 } }";
    let mut talk = Talk::new(Settings::default().section(bounds));
    let (host, peer) = (at(subscriber(1), 40_000), at(remote(1), 53));
    let whole = udp(host, peer).df(false).carrying(&[5; 200]);
    let mut sent = 0;
    for n in 0..2_000u16 {
        let [high, low] = n.to_be_bytes();
        let source = std::net::Ipv4Addr::new(198, 18, high, low);
        let stranger = udp(at(source, 53), at(super::ip("203.0.113.5"), 5000)).carrying(&[7; 200]);
        let later = Packet { id: n, ..stranger.fragments(104)[1].clone() };
        talk.outside(f64::from(n) * 0.001, &later);
        if n % 100 == 0 {
            for piece in (Packet { id: n, ..whole.clone() }).fragments(104) {
                talk.inside(f64::from(n) * 0.001, &piece);
                sent += 1;
            }
            talk.inside(f64::from(n) * 0.001, &udp(host, peer));
            sent += 1;
        }
    }
    let seen = talk.look()?;
    ensure!(seen.inside.is_empty() && seen.outside.len() == sent, "{} left", seen.outside.len());
    // What still waits at the end of a replay is dropped as `shutdown`.
    let waiting = seen.drops.get("shutdown").copied().unwrap_or(0);
    let dropped: u64 = seen.drops.values().sum();
    ensure!(waiting <= 64 && dropped == 2_000, "{waiting} wait, {:?}", seen.drops);
    let others = seen.drops.keys().filter(|reason| *reason != "shutdown");
    ensure!(others.clone().all(|reason| reason.starts_with("fragment-")), "{:?}", seen.drops);
    Ok(())
}

fn a_subscriber_has_so_many_datagrams_in_fragments_4787_req_14a() -> Result<()> {
    let mut talk = Talk::new(Settings::default().group_keys("limits: { fragments: 4 }"));
    let peer = at(remote(1), 53);
    let pieces = |host, id: u16| {
        let whole = udp(at(subscriber(host), 40_000), peer).df(false).carrying(&[5; 200]);
        Packet { id, ..whole }.fragments(104)
    };
    // Ten datagrams of which the first fragment is missing.
    for id in 0..10 {
        talk.inside(0.0, &pieces(1, id)[1]);
    }
    // Whole packets and another subscriber are as ever, and so is the first when time is over.
    talk.inside(0.5, &udp(at(subscriber(1), 40_000), peer));
    for (time, host) in [(0.5, 2), (3.0, 1)] {
        pieces(host, 50).iter().for_each(|piece| talk.inside(time, piece));
    }
    let seen = talk.look()?;
    let left = 1 + pieces(1, 0).len() + pieces(2, 0).len();
    ensure!(seen.outside.len() == left, "{} of {left} left", seen.outside.len());
    let want = [("limit-fragments".to_owned(), 6), ("fragment-timeout".to_owned(), 4)];
    ensure!(seen.drops == want.into(), "drops {:?}", seen.drops);
    // About later fragments nobody is told (RFC 1812 section 4.3.2.7).
    ensure!(seen.inside.is_empty(), "{:?}", seen.inside);
    Ok(())
}
