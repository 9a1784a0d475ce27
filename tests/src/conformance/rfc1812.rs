//! What a router's ICMP errors must be (RFC 1812 section 4.3.2, through RFC 5508 REQ-10e, 10f).

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::packet::{Packet, error, udp};
use super::settings::Settings;
use super::talk::{Side, Talk};
use super::{at, register, remote, subscriber};
use crate::lab::{BOX_INTERNAL, MACS};

register! {
    no_error_answers_what_must_not_be_answered_1812_s4_3_2_7: "1812-S4.3.2.7" "5508-REQ-10e";
    errors_are_limited_in_rate_1812_s4_3_2_8: "1812-S4.3.2.8" "5508-REQ-10f";
    an_error_quotes_as_much_as_576_bytes_hold_1812_s4_3_2_3: "1812-S4.3.2.3";
    an_error_comes_from_the_port_it_leaves_by_1812_s4_3_2_4: "1812-S4.3.2.4";
}

/// A configuration in which a third flow of a subscriber is refused.
fn tight() -> Settings {
    let keys = "ports: 2048-2111\nallocation: { block-size: 64, max-blocks: 1 }";
    Settings::default().pool(&["203.0.113.9"]).pool_keys(keys)
}

fn no_error_answers_what_must_not_be_answered_1812_s4_3_2_7() -> Result<()> {
    let host = at(subscriber(1), 40_000);
    let dying = udp(host, at(remote(1), 5000)).ttl(1);
    let mut talk = Talk::with_defaults();
    // With a good packet first, so that the silence of the others says something.
    talk.inside(0.0, &dying);
    let seen = talk.look()?;
    ensure!(seen.one_inside()?.icmp() == Some((11, 0)), "TTL 1 is reported");

    // About an ICMP error.
    let about = udp(at(remote(1), 5000), host);
    talk.inside(1.0, &error(*host.ip(), 3, 3, &about, 8).ttl(1));
    // A header that fails validation.
    let mut broken = dying.bytes();
    broken[10] ^= 1;
    talk.send_bytes(Side::Internal, 2.0, &broken);
    // To broadcast and multicast addresses.
    for destination in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 251)] {
        talk.inside(3.0, &udp(host, at(destination, 5000)).ttl(1));
    }
    // In a link-layer broadcast or multicast.
    let from = super::talk::bytes_of(MACS[0]);
    for to in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let frame = [&to[..], &from, &[8, 0], &dying.bytes()].concat();
        talk.send_frame(Side::Internal, 4.0, &frame);
    }
    // From sources that define no single host.
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
        talk.inside(5.0, &udp(at(source.into(), 40_000), at(remote(1), 5000)).ttl(1));
    }
    // About a fragment that is not the first.
    let pieces = udp(host, at(remote(1), 5000)).df(false).carrying(&[1; 100]).ttl(1).fragments(64);
    talk.inside(6.0, &pieces[1]);
    let seen = talk.look()?;
    seen.nothing()?;
    ensure!(seen.stats.document()["icmp_errors"]["sent"] == 1, "{:?}", seen.stats);
    Ok(())
}

fn errors_are_limited_in_rate_1812_s4_3_2_8() -> Result<()> {
    let mut talk = Talk::with_defaults();
    let dying = |host: u8, port| udp(at(subscriber(host), port), at(remote(1), 5000)).ttl(1);
    for port in 0..200 {
        talk.inside(0.1, &dying(1, 10_000 + port));
    }
    // One that floods takes nothing away from another.
    talk.inside(0.2, &dying(2, 10_000));
    let seen = talk.look()?;
    let to =
        |number: u8| seen.inside.iter().filter(|p| p.destination == subscriber(number)).count();
    ensure!((1..=50).contains(&to(1)) && to(2) == 1, "{} and {} errors", to(1), to(2));
    let withheld = seen.stats.document()["icmp_errors"]["withheld"].as_u64();
    ensure!(withheld == Some(200 - to(1) as u64), "{withheld:?} withheld, {} sent", to(1));
    // The rate is a matter of configuration.
    let section = "nat44: { icmp-errors: { per-receiver: 5 } }";
    let mut slow = Talk::new(Settings::default().section(section));
    for port in 0..200 {
        slow.inside(0.1, &dying(1, 10_000 + port));
    }
    let few = slow.look()?.inside.len();
    ensure!(few == 5, "{few} errors, 5 are configured");
    // Later there are more.
    talk.inside(5.0, &dying(1, 10_000));
    ensure!(talk.look()?.one_inside()?.icmp() == Some((11, 0)), "no error later");
    Ok(())
}

fn an_error_quotes_as_much_as_576_bytes_hold_1812_s4_3_2_3() -> Result<()> {
    let mut talk = Talk::with_defaults();
    for (time, length) in [(0.0, 20), (1.0, 519), (2.0, 520), (3.0, 521), (4.0, 1400)] {
        let packet = udp(at(subscriber(1), 40_000), at(remote(1), 5000)).ttl(1);
        let packet = packet.carrying(&vec![0x5a; length]);
        talk.inside(time, &packet);
        let got = talk.look()?.one_inside()?;
        let (whole, most) = (packet.bytes(), 576 - 28);
        let want = &whole[..whole.len().min(most)];
        ensure!(got.payload() == want, "{length} bytes: {} quoted", got.payload().len());
        ensure!(got.bytes().len() <= 576, "{} bytes", got.bytes().len());
    }
    Ok(())
}

fn an_error_comes_from_the_port_it_leaves_by_1812_s4_3_2_4() -> Result<()> {
    let mut talk = Talk::new(tight());
    for port in 0..64 {
        talk.inside(0.0, &udp(at(subscriber(1), 10_000 + port), at(remote(1), 5000)));
    }
    ensure!(talk.look()?.outside.len() == 64, "64 ports");
    talk.inside(1.0, &udp(at(subscriber(1), 20_000), at(remote(1), 5000)));
    let refused: Packet = talk.look()?.one_inside()?;
    ensure!(refused.icmp() == Some((3, 1)) && refused.source == BOX_INTERNAL, "{refused:?}");
    Ok(())
}
