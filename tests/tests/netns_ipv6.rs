//! IPv6 between real hosts through the appliance, beside IPv4 through the same ports. Needs root.

use std::net::Ipv6Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Appliance, KERNEL_INTERFACES, Settings, with_appliance};
use cgnat_tests::ipv6::{
    self, BOX6_EXTERNAL, BOX6_INTERNAL, ROUTER6, SERVER6, WORLD6, join, ping, subscriber6,
    wait_for_box,
};
use cgnat_tests::lab::{EXTERNAL, Lab, SERVERS};
use cgnat_tests::process::wait_until;
use cgnat_tests::traffic::{self, Server};

const LIMIT: Duration = Duration::from_secs(20);
/// Bytes of the files that are fetched.
const DOWNLOAD: u64 = 20_000_000;

/// Fetches a file by each family at the same time; both must arrive whole.
fn both_families_fetch(lab: &Lab, servers: [&Server; 2]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let copies = ["four", "six"].map(|name| directory.path().join(name));
    for server in servers {
        traffic::random_file(&server.root().join("file"), DOWNLOAD)?;
    }
    let inside = &lab.subscribers;
    thread::scope(|scope| {
        let four = scope.spawn(|| {
            let limit = Duration::from_secs(120);
            traffic::download(inside, lab.addresses()[0], SERVERS[0], "file", &copies[0], limit)
        });
        let six = ipv6::download(inside, subscriber6(0), SERVER6, "file", &copies[1]);
        four.join().ok().context("a thread panicked")?.and(six)
    })?;
    for (server, copy) in servers.into_iter().zip(&copies) {
        let original = traffic::sha256(&server.root().join("file"))?;
        ensure!(traffic::sha256(copy)? == original, "another file came");
    }
    Ok(())
}

fn pings(lab: &Lab, subscriber: u16, to: &str, options: &[&str]) -> Result<String> {
    ping(&lab.subscribers, Some(subscriber6(subscriber)), to, options)
}

fn talk(lab: &Lab) -> Result<()> {
    let address: Ipv6Addr = SERVER6.parse()?;
    let servers = [Server::http(&lab.server, SERVERS[0])?, Server::http(&lab.server, address)?];
    let _iperf = Server::iperf3(&lab.server, address)?;
    wait_for_box(lab)?;
    // The router of neither side knows the other's MAC: only the box's.
    for subscriber in 0..4 {
        let said = pings(lab, subscriber, SERVER6, &["-c", "5"])?;
        ensure!(said.contains("5 received") && said.contains("ttl=63"), "{said}");
    }
    let inward = ping(&lab.server, Some(address), &subscriber6(2).to_string(), &["-c", "5"])?;
    ensure!(inward.contains("5 received"), "{inward}");
    let near = pings(lab, 0, WORLD6, &["-c", "2"])?;
    ensure!(near.contains("2 received"), "an on-link host outside: {near}");

    // The first hop of traceroute; and a host that is not there.
    let expired = pings(lab, 0, SERVER6, &["-c", "2", "-t", "1", "-W", "2"])?;
    let from = format!("From {BOX6_INTERNAL}");
    ensure!(expired.contains(&from) && expired.contains("Time exceeded"), "{expired}");
    let silent = pings(lab, 0, "2001:db8:b::77", &["-c", "1", "-W", "6"])?;
    ensure!(silent.contains(&from) && silent.contains("Address unreachable"), "{silent}");

    both_families_fetch(lab, [&servers[0], &servers[1]])?;
    for options in [
        &["--time", "2"][..],
        &["--time", "2", "--reverse"],
        &["--time", "2", "--udp", "--length", "1400", "--bitrate", "5M"],
        &["--time", "2", "--udp", "--length", "1400", "--bitrate", "5M", "--reverse"],
    ] {
        let (bytes, lost) = ipv6::iperf3(&lab.subscribers, subscriber6(1), options)?;
        println!("iperf3 {}: {bytes} bytes, {lost} % lost", options.join(" "));
        ensure!(bytes > 500_000 && lost < 20.0, "{options:?}: {bytes} bytes, {lost} % lost");
    }

    // Nobody inside sends in the name of others.
    let foreign: Ipv6Addr = "2001:db8:dead::1".parse()?;
    let (added, back) = (format!("{foreign}/128"), format!("{foreign}/128"));
    lab.subscribers.run("ip", &["-6", "address", "add", &added, "dev", "lo", "nodad"])?;
    lab.server.run("ip", &["-6", "route", "add", &back, "via", "fe80::2", "dev", "world"])?;
    let spoofed = ping(&lab.subscribers, Some(foreign), SERVER6, &["-c", "3", "-W", "1"])?;
    ensure!(spoofed.contains(" 0 received"), "{spoofed}");
    Ok(())
}

fn hosts_talk(workers: u16) -> Result<()> {
    let lab = Lab::new(2)?;
    join(&lab, 4)?;
    let settings = Settings { workers, ipv6: true, ..Settings::default() };
    let ((), outcome) = with_appliance(&lab, &settings, |_| talk(&lab))?;
    let drops = outcome.stats.drops()?;
    println!("drops: {drops:?}");
    ensure!(drops.get("ipv6-source-spoofed") == Some(&3), "{drops:?}");
    let known = [
        "ipv6-source-spoofed",
        "ipv6-group",
        "ttl-expired",
        "neighbour-unresolved",
        "to-us",
        "parking-full",
        "transmit-full",
        "ethertype-other",
    ];
    ensure!(drops.keys().all(|reason| known.contains(&reason.as_str())), "{drops:?}");
    for (way, least) in [("outbound", 3_000), ("inbound", 10_000)] {
        let passed = outcome.number(&format!("/ipv6/{way}"))?;
        ensure!(passed > least, "only {passed} {way}");
    }
    for (what, key) in [("addresses", "state"), ("next_hops", "known")] {
        let all = outcome.stats.document()["ipv6"][what].as_array().cloned().unwrap_or_default();
        let is_good = |one: &serde_json::Value| one[key] == "in use" || one[key] == true;
        ensure!(!all.is_empty() && all.iter().all(is_good), "{what}: {all:?}");
    }
    Ok(())
}

#[test]
fn root_netns_hosts_talk_by_ipv6_beside_ipv4_1_worker() -> Result<()> {
    hosts_talk(1)
}

#[test]
fn root_netns_hosts_talk_by_ipv6_beside_ipv4_3_workers() -> Result<()> {
    hosts_talk(3)
}

/// Both links of the box are narrower than those of the hosts know.
#[test]
fn root_netns_ipv6_hosts_find_the_path_mtu() -> Result<()> {
    let lab = Lab::new(1)?;
    join(&lab, 2)?;
    let settings = Settings {
        ipv6: true,
        internal_mtu: Some(1300),
        external_mtu: Some(1400),
        ..Settings::default()
    };
    let ((), outcome) = with_appliance(&lab, &settings, |_| {
        let address: Ipv6Addr = SERVER6.parse()?;
        let http = Server::http(&lab.server, address)?;
        wait_for_box(&lab)?;
        let told = pings(&lab, 0, SERVER6, &["-M", "do", "-s", "1452", "-c", "2", "-W", "1"])?;
        ensure!(told.contains("1400"), "{told}");
        // What fits there passes, and what fits the other way too.
        let fits = pings(&lab, 1, SERVER6, &["-M", "do", "-s", "1252", "-c", "2"])?;
        ensure!(fits.contains("2 received"), "{fits}");
        let file = http.root().join("file");
        traffic::random_file(&file, 5_000_000)?;
        let directory = tempfile::tempdir()?;
        let copy = directory.path().join("copy");
        ipv6::download(&lab.subscribers, subscriber6(0), SERVER6, "file", &copy)?;
        ensure!(traffic::sha256(&copy)? == traffic::sha256(&file)?, "another file came");
        Ok(())
    })?;
    let drops = outcome.stats.drops()?;
    println!("drops: {drops:?}");
    ensure!(drops.get("too-big").is_some_and(|count| (2..200).contains(count)), "{drops:?}");
    Ok(())
}

#[test]
fn root_netns_ipv6_goes_on_after_a_restart_and_a_link_that_was_down() -> Result<()> {
    let lab = Lab::new(1)?;
    join(&lab, 1)?;
    let settings = Settings { workers: 2, ipv6: true, ..Settings::default() };
    for _ in 0..2 {
        let ((), _) = with_appliance(&lab, &settings, |_| {
            wait_for_box(&lab)?;
            let said = pings(&lab, 0, SERVER6, &["-c", "3"])?;
            ensure!(said.contains("3 received"), "{said}");
            let ip = |words: &str| lab.middle.run("ip", &words.split(' ').collect::<Vec<_>>());
            ip(&format!("link set {EXTERNAL} down"))?;
            let said = pings(&lab, 0, SERVER6, &["-c", "2", "-W", "1"])?;
            ensure!(said.contains(" 0 received"), "{said}");
            ip(&format!("link set {EXTERNAL} up"))?;
            // The other end's kernel has lost what lay on its link.
            wait_until("an answer after the link was down", LIMIT, || {
                restore(&lab)?;
                Ok(pings(&lab, 0, SERVER6, &["-c", "1", "-W", "1"])?.contains("1 received"))
            })
        })?;
    }
    Ok(())
}

/// A kernel forgets IPv6 addresses and routes of a link without carrier, or not: they are there again.
fn restore(lab: &Lab) -> Result<()> {
    for words in [
        "-6 address replace fe80::1/64 dev world nodad".to_owned(),
        format!("-6 address replace {WORLD6}/64 dev world nodad"),
        "-6 route replace 2001:db8:100::/40 via fe80::2 dev world".to_owned(),
        "-6 route replace 2001:db8:a::/64 via fe80::2 dev world".to_owned(),
    ] {
        lab.server.run("ip", &words.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

#[test]
fn root_netns_an_ipv6_address_that_somebody_has_is_said_and_not_used() -> Result<()> {
    let lab = Lab::new(1)?;
    join(&lab, 1)?;
    let own = format!("{BOX6_EXTERNAL}/64");
    let ip = |words: &[&str]| lab.server.run("ip", words);
    ip(&["-6", "address", "add", &own, "dev", "world", "nodad"])?;
    let settings = Settings { ipv6: true, ..Settings::default() };
    let ((), outcome) = with_appliance(&lab, &settings, |appliance: &Appliance| {
        let says = |words: &str| {
            wait_until(words, LIMIT, || Ok(appliance.errors().contains(words)))
                .with_context(|| appliance.errors())
        };
        says(&format!("has {BOX6_EXTERNAL}, so the box does not use it"))?;
        let said = pings(&lab, 0, SERVER6, &["-c", "3"])?;
        ensure!(said.contains("3 received"), "packets pass all the same: {said}");
        ip(&["-6", "address", "delete", &own, "dev", "world"])?;
        // It is asked for again when the link comes back, or a minute later.
        lab.middle.run("ip", &["link", "set", EXTERNAL, "down"])?;
        thread::sleep(Duration::from_millis(200));
        lab.middle.run("ip", &["link", "set", EXTERNAL, "up"])?;
        says(&format!("{BOX6_EXTERNAL} is nobody else's any more"))?;
        restore(&lab)?;
        wait_until("an answer from that address", LIMIT, || {
            Ok(ping(&lab.server, None, BOX6_EXTERNAL, &["-c", "1", "-W", "1"])?
                .contains("1 received"))
        })
    })?;
    ensure!(outcome.number("/arp_conflicts")? >= 1, "not counted");
    Ok(())
}

#[test]
fn root_netns_programs_on_the_box_talk_by_ipv6_through_the_kernels_interfaces() -> Result<()> {
    let lab = Lab::new(1)?;
    join(&lab, 1)?;
    lab.middle.run("sysctl", &["-qw", "net.ipv6.conf.lo.disable_ipv6=0"])?;
    let settings =
        Settings { workers: 2, ipv6: true, kernel_interfaces: true, ..Settings::default() };
    let ((), outcome) = with_appliance(&lab, &settings, |_| {
        wait_for_box(&lab)?;
        for (interface, own) in KERNEL_INTERFACES.into_iter().zip([BOX6_INTERNAL, BOX6_EXTERNAL]) {
            let shown = lab.middle.run("ip", &["-6", "-o", "address", "show", "dev", interface])?;
            ensure!(shown.contains(own) && shown.contains("fe80::2/64"), "{shown}");
            // None that the kernel has made up.
            ensure!(shown.lines().count() == 2 && !shown.contains("tentative"), "{shown}");
        }
        let directory = tempfile::tempdir()?;
        let (copy, world) = (directory.path().join("copy"), WORLD6.parse()?);
        for (namespace, near, own) in
            [(&lab.subscribers, subscriber6(0), BOX6_INTERNAL), (&lab.server, world, BOX6_EXTERNAL)]
        {
            let http = Server::http(&lab.middle, own.parse::<Ipv6Addr>()?)?;
            let file = http.root().join("file");
            traffic::random_file(&file, 1_000_000)?;
            // The box's kernel knows the way back by what it was told of its links only.
            let back = format!("{near}/128");
            let via = ["-6", "route", "replace", &back, "via", "fe80::1", "dev"];
            let interface = KERNEL_INTERFACES[usize::from(own == BOX6_EXTERNAL)];
            if near != world {
                lab.middle.run("ip", &[&via[..], &[interface]].concat())?;
            }
            ipv6::download(namespace, near, own, "file", &copy)?;
            ensure!(traffic::sha256(&copy)? == traffic::sha256(&file)?, "another file from {own}");
        }
        // The box as a client, after the kernel has asked for its neighbours itself.
        for (interface, near) in [("k-int", ROUTER6), ("k-ext", WORLD6), ("k-ext", "fe80::1")] {
            let said = ping(&lab.middle, None, near, &["-c", "5", "-I", interface])?;
            ensure!(said.contains("5 received"), "{said}");
        }
        // What the host sends in the name of others does not leave.
        let foreign: Ipv6Addr = "2001:db8:9::9".parse()?;
        let add = ["-6", "address", "add", "2001:db8:9::9/128", "dev", "lo", "nodad"];
        lab.middle.run("ip", &add)?;
        let said = ping(&lab.middle, Some(foreign), WORLD6, &["-c", "2", "-W", "1"])?;
        ensure!(said.contains(" 0 received"), "{said}");
        let said = pings(&lab, 0, SERVER6, &["-c", "3"])?;
        ensure!(said.contains("3 received"), "{said}");
        Ok(())
    })?;
    ensure!(outcome.number("/consumed/kernel")? > 200, "the kernel got next to nothing");
    ensure!(outcome.number("/kernel/1/sent")? > 100, "the kernel sent next to nothing");
    ensure!(outcome.number("/kernel/1/refused")? >= 2, "spoofed packets were not refused");
    println!("drops: {:?}", outcome.stats.drops()?);
    Ok(())
}
