//! Hosts whose kernels leave checksums and the cutting of segments to cards that veths do not have.
//! Needs root.

use std::time::Duration;

use anyhow::{Result, ensure};
use cgnat_tests::appliance::{Appliance, Settings, with_appliance};
use cgnat_tests::judges::{self, add_page_of_sums};
use cgnat_tests::lab::{EXTERNAL, INTERNAL, Lab, SERVERS};
use cgnat_tests::process::wait_until;
use cgnat_tests::traffic::{self, Server};

/// A file that is posted and fetched arrives as it was sent; and so do names.
fn everything_arrives(lab: &Lab, bytes: u64) -> Result<()> {
    let (namespace, client) = (&lab.subscribers, lab.addresses()[0]);
    let http = Server::http(&lab.server, SERVERS[0])?;
    add_page_of_sums(&http)?;
    let file = http.root().join("file");
    traffic::random_file(&file, bytes)?;
    let sum = traffic::sha256(&file)?;
    ensure!(judges::upload(namespace, client, SERVERS[0], &file)? == sum, "posted");
    let into = tempfile::NamedTempFile::new()?;
    let limit = Duration::from_secs(30);
    traffic::download(namespace, client, SERVERS[0], "file", into.path(), limit)?;
    ensure!(traffic::sha256(into.path())? == sum, "fetched");
    let _dns = Server::dns(&lab.server, SERVERS[1], 53)?;
    traffic::dig(namespace, (client, 20_053), (SERVERS[1], 53), &[])?;
    Ok(())
}

/// What the appliance has said, once that holds all of these.
fn saying(appliance: &Appliance, expected: &[&str]) -> Result<String> {
    let holds = || expected.iter().all(|words| appliance.errors().contains(words));
    wait_until("the appliance's sentences", Duration::from_secs(5), || Ok(holds()))?;
    Ok(appliance.errors())
}

/// The appliance says a sentence of this kind once of this port.
fn says_once(said: &str, sentence: &str) -> Result<()> {
    ensure!(said.matches(sentence).count() == 1, "not once {sentence:?} in\n{said}");
    Ok(())
}

#[test]
fn root_netns_checksums_that_hosts_leave_to_cards_are_computed() -> Result<()> {
    let lab = Lab::new(1)?;
    for (namespace, interface) in [(&lab.subscribers, "router"), (&lab.server, "world")] {
        namespace.switch_on(interface, &["tx"])?;
    }
    let (said, outcome) = with_appliance(&lab, &Settings::default(), |appliance| {
        everything_arrives(&lab, 3_000_000)?;
        saying(appliance, &["port internal0: packets arrive", "port external0: packets arrive"])
    })?;
    for port in ["internal0", "external0"] {
        let completed = outcome.number(&format!("/ports/{port}/rx_completed"))?;
        println!("{port}: {completed} checksums");
        ensure!(completed > 100, "{port}: {completed} checksums");
        let without = "packets arrive without TCP or UDP checksums";
        says_once(&said, &format!("warning: port {port}: {without}"))?;
    }
    ensure!(!said.contains("frame-cut") && !said.contains("joins frames"), "{said}");
    let drops = outcome.stats.drops()?;
    ensure!(drops.is_empty(), "drops: {drops:?}");
    Ok(())
}

/// Longer than any slot: TCP arrives in the single segments that it sends again, and the box says
/// why so slowly.
#[test]
fn root_netns_segments_that_hosts_leave_to_cards_are_dropped_and_said() -> Result<()> {
    let lab = Lab::new(1)?;
    for (namespace, interface) in [(&lab.subscribers, "router"), (&lab.server, "world")] {
        namespace.switch_on(interface, &["tx", "sg", "tso", "gso"])?;
    }
    lab.middle.switch_on(INTERNAL, &["gro"])?;
    let (said, outcome) = with_appliance(&lab, &Settings::default(), |appliance| {
        everything_arrives(&lab, 50_000)?;
        saying(
            appliance,
            &[
                "port internal0: packets",
                "port external0: packets",
                "cg-int's ring",
                "cg-ext's ring",
            ],
        )
    })?;
    println!("drops: {:?}", outcome.stats.drops()?);
    let mut cut = 0;
    for (port, interface) in [("internal0", INTERNAL), ("external0", EXTERNAL)] {
        cut += outcome.number(&format!("/ports/{port}/rx_cut"))?;
        let command = format!("`ethtool -K {interface} gro off lro off`");
        let sentence = said.lines().find(|line| {
            line.contains(&format!("port {port}: ")) && line.contains("frames were longer")
        });
        ensure!(sentence.is_some_and(|said| said.contains(&command)), "{port}: {said}");
    }
    ensure!(outcome.stats.drops()?.get("frame-cut") == Some(&cut), "{cut} frames were cut");
    let joins =
        format!("port internal0: interface {INTERNAL} joins frames before they are received");
    says_once(&said, &joins)?;
    ensure!(said.contains(&format!("ethtool -K {INTERNAL} gro off\n")), "{said}");
    Ok(())
}
