//! Identifications of packets that are, or may be, fragmented (RFC 6864).

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::packet::{Packet, udp};
use super::settings::Settings;
use super::talk::{Side, Talk};
use super::{at, register, remote, same, subscriber};

register! {
    equal_ones_of_two_subscribers_leave_different_6864_s5_3_1: "6864-S5.3.1" "7857-S10";
    none_is_repeated_between_two_addresses_6864_s4_3a: "6864-S4.3a";
    packets_with_df_pass_whatever_theirs_is_6864_s4_1a: "6864-S4.1a" "6864-S4.1b";
    df_survives_every_path_6864_s4_3b: "6864-S4.3b" "5508-S7.1.1a";
    more_than_there_are_in_two_minutes_are_counted_6864_s5_2: "6864-S5.2";
}

fn equal_ones_of_two_subscribers_leave_different_6864_s5_3_1() -> Result<()> {
    let mut talk = Talk::new(Settings::default().pool(&["203.0.113.9"]).system("workers: 3\n"));
    for number in 1..=20 {
        talk.inside(0.0, &udp(at(subscriber(number), 5000), at(remote(1), 53)).df(false));
    }
    let seen = talk.look()?;
    let ids: BTreeSet<u16> = seen.outside.iter().map(|packet| packet.id).collect();
    ensure!(ids.len() == 20, "{} of {} packets", ids.len(), seen.outside.len());
    Ok(())
}

fn none_is_repeated_between_two_addresses_6864_s4_3a() -> Result<()> {
    let mut talk = Talk::new(Settings::default().pool(&["203.0.113.9"]).system("workers: 2\n"));
    for n in 0..3_000u16 {
        let host = at(subscriber(1 + (n % 40) as u8), 5000);
        let packet = udp(host, at(remote(1), 53)).df(false);
        talk.inside(f64::from(n) * 0.03, &Packet { id: n % 7, ..packet });
    }
    let seen = talk.look()?;
    let ids: BTreeSet<u16> = seen.outside.iter().map(|packet| packet.id).collect();
    ensure!(ids.len() == 3_000, "{} of {} packets", ids.len(), seen.outside.len());
    Ok(())
}

fn packets_with_df_pass_whatever_theirs_is_6864_s4_1a() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let packet = udp(at(subscriber(1), 5000), at(remote(1), 53));
    (0..5).for_each(|_| talk.inside(0.0, &packet));
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 5, "{seen:#?}");
    for out in &seen.outside {
        same(out, &packet.clone().hop().from(out.sender()))?;
        talk.outside(1.0, &out.answer(0));
    }
    ensure!(talk.look()?.inside.len() == 5, "the answers");
    Ok(())
}

fn more_than_there_are_in_two_minutes_are_counted_6864_s5_2() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let packet = udp(at(subscriber(1), 5000), at(remote(1), 53)).df(false);
    for n in 0..70_000u32 {
        talk.inside(f64::from(n) * 0.000_85, &packet);
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 70_000, "{} left, {:?}", seen.outside.len(), seen.drops);
    let ids: BTreeSet<u16> = seen.outside.iter().map(|packet| packet.id).collect();
    let counted = seen.stats.document()["fragments"]["identification_repeats"].as_u64();
    ensure!(ids.len() == 65_536 && counted == Some(4_464), "{} used, {counted:?}", ids.len());
    Ok(())
}

fn df_survives_every_path_6864_s4_3b() -> Result<()> {
    let mut talk = Talk::new(Settings::default().mtu(1400, 1400));
    let (x1, x2) = (at(subscriber(1), 4001), at(subscriber(2), 4002));
    let full = udp(x1, at(remote(1), 5000)).carrying(&[0x33; 1372]);
    let out = talk.outbound(0.0, &full)?;
    same(&out, &full.clone().hop().from(out.sender()))?;
    let answer = out.answer(0);
    same(&talk.inbound(0.1, &answer)?, &answer.clone().hop().to(x1))?;
    let second = talk.outbound(0.2, &udp(x2, at(remote(1), 5000)))?.sender();
    let across = full.to(second);
    talk.inside(0.3, &across);
    same(&talk.look()?.one_inside()?, &across.clone().hop().from(out.sender()).to(x2))?;
    // One byte more: never in pieces, in no direction.
    let large = |packet: Packet| packet.carrying(&[0x33; 1373]);
    for (side, packet) in [
        (Side::Internal, udp(x1, at(remote(1), 5000))),
        (Side::External, answer),
        (Side::Internal, across),
    ] {
        talk.send(side, 1.0, &large(packet));
        let seen = talk.look()?;
        let all = || seen.inside.iter().chain(&seen.outside);
        ensure!(all().all(|made| made.icmp() == Some((3, 4))), "{seen:#?}");
        ensure!(seen.drops == [("too-big".to_owned(), 1)].into(), "drops {:?}", seen.drops);
    }
    Ok(())
}
