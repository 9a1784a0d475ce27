//! Ports in VLANs, with one tag and with two: real hosts behind a switch that puts the tags on.
//! Needs root.

use anyhow::{Result, ensure};
use cgnat_tests::appliance::{Appliance, Outcome, Settings, with_appliance};
use cgnat_tests::judges;
use cgnat_tests::lab::{Lab, SERVERS};
use cgnat_tests::live::{everything_goes_through, packets_of_sizes_come_back};
use cgnat_tests::switch::{Access, DOT1Q, SERVICE, Switch, Tag, Trunk};

const MTU: u16 = 1500;
const DOWNLOAD: u64 = 3_000_000;

/// A service tag, and one inside it.
const STACKED: &[Tag] = &[Tag { tpid: SERVICE, id: 300 }, Tag { tpid: DOT1Q, id: 100 }];
/// Two of 802.1Q.
const DOUBLED: &[Tag] = &[Tag { tpid: DOT1Q, id: 4094 }, Tag { tpid: DOT1Q, id: 1 }];
const ONE: &[Tag] = &[Tag { tpid: DOT1Q, id: 300 }];
const OTHER: &[Tag] = &[Tag { tpid: DOT1Q, id: 4094 }];

/// What one MTU carries beside packets: an 802.1Q tag, if that is the first (docs/configuration.md).
fn interface_mtu(tags: &[Tag]) -> u16 {
    match tags {
        [Tag { tpid: DOT1Q, .. }, _] => MTU + 4,
        [_, _] => MTU + 8,
        _ => MTU,
    }
}

/// Packets about the shortest frame, a buffer, and the MTU.
fn sizes() -> impl Iterator<Item = u16> {
    (28..=50).chain(1400..=1404).chain(1476..=MTU)
}

fn through(tags: [&'static [Tag]; 2], workers: u16) -> Result<Outcome> {
    let lab = Lab::new(4)?;
    let hosts = [0, 1].map(|side| [Access { side, tags: tags[side] }]);
    let trunks = [0, 1].map(|n| Trunk { mtu: interface_mtu(tags[n]), hosts: &hosts[n] });
    let switch = Switch::install(&lab, MTU, &trunks)?;
    let settings = Settings { workers, tags, ..Settings::default() };
    let (said, outcome) = with_appliance(&lab, &settings, |appliance| {
        everything_goes_through(&lab, DOWNLOAD)?;
        packets_of_sizes_come_back(&lab, sizes())?;
        Ok(appliance.errors())
    })?;
    ensure!(!said.contains("has MTU") && !said.contains("frame-cut"), "{said}");
    switch.has_no_strays()?;
    println!("drops: {:?}", outcome.stats.drops()?);
    Ok(outcome)
}

#[test]
fn root_netns_everything_goes_through_two_tags() -> Result<()> {
    through([STACKED, DOUBLED], 1).map(drop)
}

#[test]
fn root_netns_everything_goes_through_two_tags_2_workers() -> Result<()> {
    let outcome = through([ONE, STACKED], 2)?;
    ensure!(outcome.number("/workers/0/handed_off")? > 100, "next to nothing was handed over");
    Ok(())
}

/// Both sides on one line, and so on one device.
fn through_one_arm(
    tags: [&'static [Tag]; 2],
    workers: u16,
    ask: impl FnOnce(&Lab, &Appliance) -> Result<()>,
) -> Result<Outcome> {
    let lab = Lab::new(4)?;
    let hosts = [0, 1].map(|side| Access { side, tags: tags[side] });
    let mtu = tags.into_iter().map(interface_mtu).max().unwrap_or(MTU);
    let switch = Switch::install(&lab, MTU, &[Trunk { mtu, hosts: &hosts }])?;
    let settings = Settings { workers, tags, one_armed: true, ..Settings::default() };
    let (said, outcome) = with_appliance(&lab, &settings, |appliance| {
        everything_goes_through(&lab, DOWNLOAD)?;
        packets_of_sizes_come_back(&lab, sizes())?;
        ask(&lab, appliance)?;
        Ok(appliance.errors())
    })?;
    ensure!(!said.contains("has MTU") && !said.contains("frame-cut"), "{said}");
    switch.has_no_strays()?;
    println!("drops: {:?}", outcome.stats.drops()?);
    for port in ["internal0", "external0"] {
        let received = outcome.number(&format!("/ports/{port}/rx_packets"))?;
        println!("{port}: {received} packets");
        ensure!(received > 1_000, "{port} received {received} packets");
    }
    Ok(outcome)
}

#[test]
fn root_netns_everything_goes_through_one_arm() -> Result<()> {
    through_one_arm([ONE, STACKED], 1, |_, _| Ok(())).map(drop)
}

#[test]
fn root_netns_everything_goes_through_one_arm_2_workers() -> Result<()> {
    let outcome = through_one_arm([DOUBLED, OTHER], 2, |_, _| Ok(()))?;
    ensure!(outcome.number("/workers/0/handed_off")? > 100, "next to nothing was handed over");
    Ok(())
}

#[test]
fn root_netns_everything_goes_through_one_tag() -> Result<()> {
    through([ONE, &[]], 1).map(drop)
}

/// What docs/configuration.md says of packet sockets: a service tag arrives as one of 802.1Q. So the
/// port takes the frame, and its answer, which has another tag, reaches nobody.
#[test]
fn root_netns_a_packet_socket_does_not_show_which_tag_is_outermost() -> Result<()> {
    let lab = Lab::new(1)?;
    let outside = [Access { side: 1, tags: &[] }];
    let inside = [Access { side: 0, tags: &STACKED[..1] }];
    let trunks = [&inside, &outside].map(|hosts| Trunk { mtu: MTU, hosts });
    let switch = Switch::install(&lab, MTU, &trunks)?;
    let settings = Settings { tags: [ONE, &[]], ..Settings::default() };
    let (text, outcome) = with_appliance(&lab, &settings, |_| {
        judges::ping(&lab.subscribers, lab.addresses()[0], SERVERS[0], &["-c", "2"])
    })?;
    ensure!(text.contains(" 0 received"), "{text}");
    ensure!(switch.has_no_strays().is_err(), "nothing left with a tag of 802.1Q");
    let drops = outcome.stats.drops()?;
    ensure!(!drops.contains_key("vlan-mismatch"), "drops: {drops:?}");
    let received = outcome.number("/ports/internal0/rx_packets")?;
    ensure!(received > 0, "nothing arrived");
    Ok(())
}

/// One byte less than the two tags need, and the largest packet is lost, as was said.
#[test]
fn root_netns_an_interface_too_small_for_tags_is_said() -> Result<()> {
    for tags in [STACKED, DOUBLED] {
        let lab = Lab::new(1)?;
        let hosts = [0, 1].map(|side| [Access { side, tags: [tags, &[]][side] }]);
        let mtus = [interface_mtu(tags) - 1, MTU];
        let trunks = [0, 1].map(|n| Trunk { mtu: mtus[n], hosts: &hosts[n] });
        let _switch = Switch::install(&lab, MTU, &trunks)?;
        let settings = Settings { tags: [tags, &[]], ..Settings::default() };
        let (said, _) = with_appliance(&lab, &settings, |appliance| {
            for (size, answers) in [(1471, 1), (1472, 0)] {
                let options = ["-M", "do", "-s", &size.to_string(), "-c", "1", "-W", "2"];
                let text =
                    judges::ping(&lab.subscribers, lab.addresses()[0], SERVERS[0], &options)?;
                ensure!(text.contains(&format!("{answers} received")), "{size}: {text}");
            }
            Ok(appliance.errors())
        })?;
        let (is, wanted) = (mtus[0], interface_mtu(tags));
        let sentence = format!(
            "port internal0: interface cg-int has MTU {is}, the port 1500 and {} bytes of tags: longer \
             packets are lost; ip link set cg-int mtu {wanted}",
            wanted - MTU
        );
        ensure!(said.contains(&sentence), "no {sentence:?} in\n{said}");
    }
    Ok(())
}
