//! How ports are chosen (RFC 6056).

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::packet::{SYN, tcp, udp};
use super::settings::Settings;
use super::talk::Talk;
use super::{at, register, remote, subscriber};

register! {
    chosen_ports_are_spread_and_unordered_6056_s3_3:
        "6056-S3.3" "6056-S4a" "7857-S9a" "6888-REQ-15";
    the_whole_range_is_used_6056_s3_2a: "6056-S3.2a";
    ports_that_are_kept_out_are_never_given_6056_s3_2b: "6056-S3.2b";
    with_preservation_only_taken_ports_change_6056_s4b: "6056-S4b" "7857-S9b";
    with_parity_the_rest_is_random_6056_s4c: "6056-S4c" "7857-S9c" "4787-REQ-4";
    no_free_port_is_likelier_than_another_6056_s5: "6056-S5";
    every_start_chooses_other_ports_6056_s3_3_1: "6056-S3.3.1";
}

fn chosen_ports_are_spread_and_unordered_6056_s3_3() -> Result<()> {
    let mut talk = Talk::new(Settings::default().pool(&["203.0.113.9"]));
    for port in 0..256 {
        talk.inside(0.0, &udp(at(subscriber(1), 10_000 + port), at(remote(1), 53)));
    }
    let seen = talk.look()?;
    let ports: Vec<u16> = seen.outside.iter().map(|packet| packet.sender().port()).collect();
    ensure!(ports.len() == 256, "{} flows", ports.len());
    let distinct: BTreeSet<_> = ports.iter().collect();
    ensure!(distinct.len() == 256, "{} distinct ports", distinct.len());
    // Half of a block of 512: a port follows its predecessor about once in 512 draws, and it is
    // larger about as often as smaller.
    let steps = ports.windows(2).filter(|pair| pair[1] == pair[0].wrapping_add(1)).count();
    let rising = ports.windows(2).filter(|pair| pair[1] > pair[0]).count();
    ensure!(steps < 12 && (96..160).contains(&rising), "{steps} steps of one, {rising} rising");
    // Nor does it tell the internal port.
    let kept = ports.iter().zip(10_000..).filter(|(external, internal)| *external == internal);
    ensure!(kept.count() < 4, "internal ports are kept");
    Ok(())
}

fn the_whole_range_is_used_6056_s3_2a() -> Result<()> {
    // As many subscribers as blocks of one address: 126 of 512 ports from 1024 on.
    let mut talk = Talk::new(Settings::default().pool(&["203.0.113.9"]));
    for number in 0..126 {
        for port in 0..20 {
            talk.inside(0.0, &udp(at(subscriber(number), 10_000 + port), at(remote(1), 53)));
        }
    }
    let seen = talk.look()?;
    let ports: BTreeSet<u16> = seen.outside.iter().map(|packet| packet.sender().port()).collect();
    ensure!(ports.len() == 126 * 20, "{} different ports", ports.len());
    // Of each 512 ports of the range twenty are in use.
    for first in (1024..=65_535u32).step_by(512) {
        let own = ports.iter().filter(|port| (first..first + 512).contains(&u32::from(**port)));
        ensure!(own.count() == 20, "of {first} to {}", first + 511);
    }
    Ok(())
}

fn with_choice(keys: &str) -> Settings {
    Settings::default().pool(&["203.0.113.9"]).pool_keys(keys)
}

fn ports_that_are_kept_out_are_never_given_6056_s3_2b() -> Result<()> {
    let keys = "ports: 5312-5375\nexclude-ports: [5320, 5350-5351]\n\
                allocation: { block-size: 64, max-blocks: 1 }";
    let mut talk = Talk::new(with_choice(keys));
    for port in 0..64 {
        talk.inside(0.0, &udp(at(subscriber(1), 10_000 + port), at(remote(1), 53)));
        talk.inside(0.0, &tcp(at(subscriber(1), 10_000 + port), at(remote(1), 80), SYN));
    }
    let seen = talk.look()?;
    for protocol in [6, 17] {
        let own = seen.outside.iter().filter(|packet| packet.protocol() == protocol);
        let ports: BTreeSet<u16> = own.map(|packet| packet.sender().port()).collect();
        let kept_out = [5320, 5350, 5351];
        ensure!(ports.len() == 61, "{} of 64 ports", ports.len());
        ensure!(kept_out.iter().all(|port| !ports.contains(port)), "{ports:?}");
    }
    Ok(())
}

fn with_preservation_only_taken_ports_change_6056_s4b() -> Result<()> {
    let mut talk = Talk::new(with_choice("allocation: { port-choice: preserve }"));
    let peer = at(remote(1), 53);
    for port in 0..50 {
        talk.inside(0.0, &udp(at(subscriber(1), 40_000 + port), peer));
    }
    let seen = talk.look()?;
    // 40000 to 40049 lie in one block of 512 from 1024 on.
    for (port, packet) in (40_000..).zip(&seen.outside) {
        ensure!(packet.sender().port() == port, "{port} left as {}", packet.sender());
    }
    ensure!(seen.outside.len() == 50, "{} flows", seen.outside.len());
    // A second host finds them taken: other ports, and in no order.
    for port in 0..50 {
        talk.inside(1.0, &udp(at(subscriber(2), 40_000 + port), peer));
    }
    let seen = talk.look()?;
    let ports: Vec<u16> = seen.outside.iter().map(|packet| packet.sender().port()).collect();
    let steps = ports.windows(2).filter(|pair| pair[1] == pair[0].wrapping_add(1)).count();
    ensure!(ports.len() == 50 && steps < 5, "{ports:?}");
    ensure!(ports.iter().all(|port| !(40_000..40_050).contains(port)), "{ports:?}");
    Ok(())
}

fn with_parity_the_rest_is_random_6056_s4c() -> Result<()> {
    let mut talk = Talk::new(with_choice("allocation: { keep-parity: true }"));
    for port in 0..200 {
        talk.inside(0.0, &udp(at(subscriber(1), 10_000 + port), at(remote(1), 53)));
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 200, "{} flows", seen.outside.len());
    for (port, packet) in (10_000..).zip(&seen.outside) {
        ensure!(packet.sender().port() % 2 == port % 2, "{port} left as {}", packet.sender());
    }
    let even: Vec<u16> = seen.outside.iter().step_by(2).map(|p| p.sender().port()).collect();
    let steps = even.windows(2).filter(|pair| pair[1] == pair[0].wrapping_add(2)).count();
    let rising = even.windows(2).filter(|pair| pair[1] > pair[0]).count();
    ensure!(steps < 6 && (30..70).contains(&rising), "{steps} steps, {rising} of 99 rising");
    Ok(())
}

/// A search from a random start to the next free port would prefer free ports behind used ones.
fn no_free_port_is_likelier_than_another_6056_s5() -> Result<()> {
    let keys = "allocation: { block-size: 64, max-blocks: 1 }";
    let mut talk = Talk::new(Settings::default().pool(&["203.0.113.9"]).pool_keys(keys));
    for host in 0..200 {
        for port in 0..56 {
            talk.inside(0.0, &udp(at(subscriber(host), 10_000 + port), at(remote(1), 53)));
        }
    }
    let seen = talk.look()?;
    ensure!(seen.outside.len() == 200 * 56, "{} packets", seen.outside.len());
    let (mut behind, mut expected, mut variance) = (0.0, 0.0, 0.0);
    for flows in seen.outside.chunks(56) {
        let mut used = [false; 64];
        for (number, packet) in flows.iter().enumerate() {
            let place = usize::from(packet.sender().port() % 64);
            let is_behind = |place: usize| used[(place + 63) % 64];
            if number >= 32 {
                let free: Vec<usize> = (0..64).filter(|place| !used[*place]).collect();
                let share = free.iter().filter(|place| is_behind(**place)).count() as f64
                    / free.len() as f64;
                behind += f64::from(u8::from(is_behind(place)));
                expected += share;
                variance += share * (1.0 - share);
            }
            used[place] = true;
        }
    }
    let off = (behind - expected).abs() / f64::sqrt(variance);
    ensure!(off < 5.0, "{behind} chosen ports follow a used one, {expected} would by chance");
    Ok(())
}

fn every_start_chooses_other_ports_6056_s3_3_1() -> Result<()> {
    let chosen = || -> Result<Vec<u16>> {
        let mut talk = Talk::new(Settings::default().pool(&["203.0.113.9"]).unseeded());
        for port in 0..256 {
            talk.inside(0.0, &udp(at(subscriber(1), 10_000 + port), at(remote(1), 53)));
        }
        let seen = talk.look()?;
        ensure!(seen.outside.len() == 256, "{} flows", seen.outside.len());
        Ok(seen.outside.iter().map(|packet| packet.sender().port()).collect())
    };
    let (first, second) = (chosen()?, chosen()?);
    let equal = first.iter().zip(&second).filter(|(one, other)| one == other).count();
    ensure!(equal < 16, "{equal} of 256 ports are the same after another start");
    Ok(())
}
