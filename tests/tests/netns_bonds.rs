//! Ports on a bond of two devices, with Open vSwitch at the other end. Needs root.
//!
//! How soon members carry packets is printed; no test asserts a time.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Appliance, Devices, EXTERNAL_PORT, INTERNAL_PORT, Outcome, Settings};
use cgnat_tests::lab::{BOX_EXTERNAL, Lab, SERVERS};
use cgnat_tests::live::{everything_goes_through, packets_of_sizes_come_back};
use cgnat_tests::partner::{Lacp, MEMBERS, Partner};
use cgnat_tests::pings::Pings;
use cgnat_tests::process::wait_until;
use cgnat_tests::switch::{DOT1Q, Tag};
use cgnat_tests::traffic::{self, Server};

const LIMIT: Duration = Duration::from_secs(30);
const DOWNLOAD: u64 = 3_000_000;
/// The external address of the first subscriber.
const STATIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);
const INSIDE: &[Tag] = &[Tag { tpid: DOT1Q, id: 100 }];
const OUTSIDE: &[Tag] = &[Tag { tpid: DOT1Q, id: 200 }];

/// The internal port, or both as VLANs, on a bond of taps.
fn devices(settings: &Settings) -> Devices {
    let bond = format!("{{ mode: lacp, members: [{}] }}", Partner::members());
    let external = match settings.one_armed {
        true => bond.clone(),
        false => Devices::packet_sockets(settings).external,
    };
    Devices { internal: bond, external, silent: false }
}

/// With a static mapping, so that the servers can begin.
fn reachable(lab: &Lab) -> Settings {
    let mapping = format!("{{ internal: {}, external: {STATIC} }}", lab.addresses()[0]);
    Settings { static_mappings: vec![mapping], ..Settings::default() }
}

fn launch(lab: &Lab, settings: &Settings) -> Result<Appliance> {
    let devices = devices(settings);
    Appliance::launch(&lab.middle, |name| settings.yaml(name, &devices), None)
}

fn says(appliance: &Appliance, words: &str) -> Result<()> {
    wait_until(words, LIMIT, || Ok(appliance.errors().contains(words)))
        .with_context(|| format!("expected {words:?} in\n{}", appliance.errors()))
}

fn of_member(member: usize, words: &str) -> String {
    format!("port {INTERNAL_PORT}: member net_tap{member} of its bond {words}")
}

/// Bonds the taps of a running appliance, and waits until it carries packets by both.
fn agree(appliance: &Appliance, partner: &Partner<'_>) -> Result<()> {
    let begun = Instant::now();
    partner.bond(Lacp::Active)?;
    for member in 0..MEMBERS.len() {
        says(appliance, &of_member(member, "carries packets"))
            .with_context(|| partner.lacp().unwrap_or_default())?;
    }
    println!("both members carry packets after {:?}", begun.elapsed());
    Ok(())
}

fn stop(lab: &Lab, appliance: Appliance) -> Result<(Outcome, String)> {
    let errors = appliance.errors();
    let outcome = appliance.stop()?;
    outcome.nothing_is_amiss().with_context(|| format!("{errors}\n{}", outcome.printed))?;
    let leaks = lab.leaks()?;
    ensure!(leaks == 0, "{leaks} frames showed the servers an address of the inside");
    for never in ["has stopped", "takes nothing"] {
        ensure!(!errors.contains(never), "{errors}");
    }
    Ok((outcome, errors))
}

fn member_number(outcome: &Outcome, member: usize, key: &str) -> Result<u64> {
    outcome.number(&format!("/links/0/members/{member}/{key}"))
}

#[test]
fn root_netns_everything_goes_through_a_bond_with_lacp() -> Result<()> {
    let lab = Lab::new(4)?;
    let partner = Partner::start(&lab, &[(0, None)])?;
    let appliance = launch(&lab, &Settings::default())?;
    agree(&appliance, &partner)?;
    everything_goes_through(&lab, DOWNLOAD).with_context(|| appliance.errors())?;
    packets_of_sizes_come_back(&lab, (28..=50).chain(1490..=1500))?;
    println!("{}", partner.lacp()?);
    let (outcome, errors) = stop(&lab, appliance)?;
    println!("{errors}{}\ndrops {:?}", outcome.stats.document()["links"], outcome.stats.drops()?);
    for member in 0..2 {
        // By which of them packets come is up to the partner.
        ensure!(member_number(&outcome, member, "received")? > 0, "member {member}");
        ensure!(member_number(&outcome, member, "sent")? > 10, "member {member}");
        ensure!(member_number(&outcome, member, "flaps")? == 0, "member {member}");
    }
    Ok(())
}

/// Each member is pulled and put back, one after the other, while a subscriber fetches a file.
fn cables_are_pulled(lab: &Lab, appliance: &Appliance, partner: &Partner<'_>) -> Result<()> {
    const RATE: u64 = 1_000_000;
    let directory = tempfile::tempdir()?;
    let http = Server::http(&lab.server, SERVERS[0])?;
    let (original, copy) = (http.root().join("file"), directory.path().join("copy"));
    traffic::random_file(&original, 16 * RATE)?;
    let client = lab.addresses()[0];
    let answered = std::thread::scope(|scope| {
        let download = scope.spawn(|| {
            let (from, limit) = ((SERVERS[0], "file"), Duration::from_secs(90));
            traffic::download_slowly(&lab.subscribers, client, from, &copy, RATE, limit)
        });
        let pings = Pings::start(&lab.subscribers, client, SERVERS[0])?;
        for member in [0, 1] {
            std::thread::sleep(Duration::from_millis(500));
            let is_back = of_member(member, "carries packets");
            let before = appliance.errors().matches(&is_back).count();
            partner.cable(member, false)?;
            says(appliance, &of_member(member, "has no link"))?;
            std::thread::sleep(Duration::from_secs(1));
            partner.cable(member, true)?;
            wait_until("the member to be back", LIMIT, || {
                Ok(appliance.errors().matches(&is_back).count() > before)
            })
            .with_context(|| {
                format!("{}\n{}", appliance.errors(), partner.lacp().unwrap_or_default())
            })?;
        }
        let answered = pings.stop();
        download.join().ok().context("a thread panicked")??;
        answered
    })?;
    println!("{answered:?}");
    ensure!(traffic::sha256(&copy)? == traffic::sha256(&original)?, "SHA-256 differs");
    // Nothing stands still until a timeout of LACP: what is lost is what was under way.
    ensure!(answered.lost() * 20 <= answered.sent, "{answered:?}");
    Ok(())
}

#[test]
fn root_netns_members_of_a_bond_are_pulled_and_put_back() -> Result<()> {
    let lab = Lab::new(1)?;
    let partner = Partner::start(&lab, &[(0, None)])?;
    let appliance = launch(&lab, &reachable(&lab))?;
    agree(&appliance, &partner)?;
    cables_are_pulled(&lab, &appliance, &partner)?;
    // All of them: now the port's link is down too.
    partner.cable(0, false)?;
    partner.cable(1, false)?;
    says(&appliance, &format!("port {INTERNAL_PORT}: link down: no member of its bond carries"))?;
    let client = lab.addresses()[0];
    ensure!(
        traffic::ping(&lab.subscribers, client, SERVERS[0], 2, 56)? == 0,
        "answers without a link"
    );
    ensure!(
        traffic::ping(&lab.server, SERVERS[0], BOX_EXTERNAL, 2, 56)? == 2,
        "the other port stopped"
    );
    ensure!(traffic::ping(&lab.server, SERVERS[0], STATIC, 2, 56)? == 0, "a way without a link");
    partner.cable(0, true)?;
    partner.cable(1, true)?;
    says(&appliance, &format!("port {INTERNAL_PORT}: link up again"))?;
    ensure!(
        traffic::ping(&lab.subscribers, client, SERVERS[0], 2, 56)? == 2,
        "no answers afterwards"
    );
    let (outcome, errors) = stop(&lab, appliance)?;
    println!("{errors}{}\ndrops {:?}", outcome.stats.document()["links"], outcome.stats.drops()?);
    for member in 0..2 {
        ensure!(member_number(&outcome, member, "flaps")? == 2, "member {member}");
    }
    ensure!(outcome.number("/links/0/flaps")? == 1, "{}", outcome.stats.document()["links"]);
    ensure!(outcome.stats.drops()?.contains_key("link-down"), "{:?}", outcome.stats.drops()?);
    Ok(())
}

/// A partner that bonds without LACP gets nothing and the operator is told; once it speaks, all is well.
#[test]
fn root_netns_a_partner_without_lacp_is_said_and_nothing_leaves_until_it_agrees() -> Result<()> {
    let lab = Lab::new(1)?;
    let partner = Partner::start(&lab, &[(0, None)])?;
    let appliance = launch(&lab, &reachable(&lab))?;
    partner.bond(Lacp::Off)?;
    let client = lab.addresses()[0];
    let pings = |count| traffic::ping(&lab.subscribers, client, SERVERS[0], count, 56);
    for member in 0..2 {
        says(
            &appliance,
            &of_member(member, "has a link and carries nothing: its partner does not agree"),
        )?;
    }
    ensure!(pings(2)? == 0, "answers without LACP");
    ensure!(traffic::ping(&lab.server, SERVERS[0], STATIC, 2, 56)? == 0, "a way without LACP");
    ensure!(!appliance.errors().contains("link up"), "{}", appliance.errors());
    partner.unbond()?;
    agree(&appliance, &partner)?;
    ensure!(pings(2)? == 2, "no answers with LACP");
    let (outcome, errors) = stop(&lab, appliance)?;
    println!("{errors}{}\ndrops {:?}", outcome.stats.document()["links"], outcome.stats.drops()?);
    ensure!(outcome.number("/links/0/kept")? > 0, "what the bond keeps is not counted");
    ensure!(outcome.stats.drops()?.contains_key("link-down"), "{:?}", outcome.stats.drops()?);
    Ok(())
}

/// Both sides are VLANs of one bond, by two workers.
#[test]
fn root_netns_everything_goes_through_vlans_of_a_bond_with_lacp_2_workers() -> Result<()> {
    let lab = Lab::new(4)?;
    let partner = Partner::start(&lab, &[(0, Some(INSIDE[0].id)), (1, Some(OUTSIDE[0].id))])?;
    let settings =
        Settings { workers: 2, tags: [INSIDE, OUTSIDE], one_armed: true, ..Settings::default() };
    let appliance = launch(&lab, &settings)?;
    agree(&appliance, &partner)?;
    everything_goes_through(&lab, DOWNLOAD).with_context(|| appliance.errors())?;
    cables_are_pulled(&lab, &appliance, &partner)?;
    let (outcome, errors) = stop(&lab, appliance)?;
    println!("{errors}{}\ndrops {:?}", outcome.stats.document()["links"], outcome.stats.drops()?);
    for port in [INTERNAL_PORT, EXTERNAL_PORT] {
        let received = outcome.number(&format!("/ports/{port}/rx_packets"))?;
        ensure!(received > 1_000, "{port} received {received} packets");
    }
    ensure!(outcome.number("/workers/0/handed_off")? > 100, "next to nothing was handed over");
    Ok(())
}
