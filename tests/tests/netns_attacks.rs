//! Attacks at a rate, beside flows of others that must not notice. Needs root.
//!
//! What the others lose is compared with what they lose in calm; no test asserts a time.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use cgnat_tests::appliance::{EXTERNAL_PORT, INTERNAL_PORT, Outcome, Settings, with_appliance};
use cgnat_tests::flood::FloodReport;
use cgnat_tests::lab::{Lab, SERVERS, WORLD};
use cgnat_tests::ordeal::{Endured, Innocents, VOID, endure};
use cgnat_tests::reports;
use cgnat_tests::traffic::{self, Server};

const PROGRAM: &str = env!("CARGO_BIN_EXE_load");
/// Packets per second.
const RATE: u64 = 50_000;
/// Flows that exist, of subscribers who have no part in it.
const OTHERS: Innocents = Innocents { first: 100, count: 40, bytes: 100 };
/// ICMP errors per second to one receiver; it may begin with as many.
const TO_ONE: u64 = 20;
/// Bytes of an IP packet that an ICMP error is at most.
const LONGEST_ERROR: u64 = 576;

/// How long an attack lasts: a minute with `CGNAT_SOAK` set.
fn seconds() -> u64 {
    if std::env::var_os("CGNAT_SOAK").is_some() { 60 } else { 3 }
}

fn settings() -> Settings {
    // An attack is a burst, and this machine is busy.
    Settings { workers: 2, ring: "framecnt=16384".to_owned(), ..Settings::default() }
}

fn crowded() -> Result<Lab> {
    let lab = Lab::new(0)?;
    lab.house_everybody()?;
    Ok(lab)
}

/// From inside, beside [`OTHERS`].
fn attacked(lab: &Lab, settings: &Settings, flood: &str) -> Result<(Endured, Outcome)> {
    with_appliance(lab, settings, |_| {
        endure(lab, PROGRAM, &[OTHERS], (&lab.subscribers, flood), seconds())
    })
}

/// The ICMP errors that came to the attacker: all that were sent, no more than may be.
fn errors_are_limited(endured: &Endured, outcome: &Outcome, kind: &str) -> Result<()> {
    let sent = outcome.number("/icmp_errors/sent")?;
    let told = [(kind.to_owned(), sent)].into();
    ensure!(endured.to_subscribers.icmp == told, "{sent} sent, {:?}", endured.to_subscribers);
    let most = TO_ONE * (seconds() + 3);
    ensure!(sent > 0 && sent <= most, "{sent} errors, at most {most}");
    let longest = endured.to_subscribers.longest_icmp;
    ensure!(longest <= LONGEST_ERROR, "an error of {longest} bytes");
    Ok(())
}

/// One subscriber opens as many flows as it can: its limit refuses them, which it is told at a
/// bounded rate, and nobody else notices.
#[test]
fn root_netns_attack_a1_one_subscriber_opens_flows_without_end() -> Result<()> {
    const LIMIT: u64 = 300;
    let lab = crowded()?;
    let settings = Settings { limits: Some(format!("{{ ports: {LIMIT} }}")), ..settings() };
    let flood = format!("flows {VOID} --count 1 --flows 60000 --rate {RATE}");
    let (endured, outcome) = attacked(&lab, &settings, &flood)?;
    let drops = endured.judge(&outcome, INTERNAL_PORT, 0.001)?;
    let refused = drops.get("limit-ports").copied().unwrap_or_default();
    ensure!(drops.len() == 1 && refused > endured.flood.sent / 2, "drops {drops:?}");
    let active = outcome.stats.active_mappings()?;
    ensure!(active == LIMIT + u64::from(OTHERS.count), "{active} mappings");
    let withheld = outcome.number("/icmp_errors/withheld")?;
    let sent = outcome.number("/icmp_errors/sent")?;
    ensure!(sent + withheld == refused, "{sent} told, {withheld} withheld of {refused}");
    errors_are_limited(&endured, &outcome, "3/1")
}

/// SYNs and datagrams from everywhere to every address and port of the pool: no state comes of
/// it, nothing is answered, nothing is sent back where it came from (A8).
#[test]
fn root_netns_attack_a3_a_scan_of_the_whole_pool_leaves_no_trace() -> Result<()> {
    let lab = crowded()?;
    let settings = Settings {
        // Else the scan may be let in where a port is open, and the host answers.
        filtering: Some("address-and-port-dependent".to_owned()),
        ..settings()
    };
    let flood = format!("scan 203.0.113.0 --targets 16 --rate {RATE}");
    let (endured, outcome) = with_appliance(&lab, &settings, |_| {
        endure(&lab, PROGRAM, &[OTHERS], (&lab.server, &flood), seconds())
    })?;
    let drops = endured.judge(&outcome, EXTERNAL_PORT, 0.001)?;
    let known = ["filtered", "no-mapping", "port-not-lent", "tcp-not-syn"];
    ensure!(drops.keys().all(|reason| known.contains(&reason.as_str())), "drops {drops:?}");
    // All that came in by the external port is an echo, ARP, or dropped.
    let dropped: u64 = drops.values().sum();
    let scanned = outcome.number("/ports/external0/dropped")?;
    let handed = outcome.stats.drops()?.get("handoff-full").copied().unwrap_or_default();
    ensure!(dropped + handed == scanned, "{scanned} dropped at the port, {handed} busy: {drops:?}");
    ensure!(dropped * 10 >= endured.flood.sent * 9, "drops {drops:?}");
    let created = outcome.number("/mappings/created")?;
    ensure!(created == u64::from(OTHERS.count), "{created} mappings were created");
    ensure!(endured.to_servers.icmp.is_empty(), "answered: {:?}", endured.to_servers);
    ensure!(endured.to_servers.tcp == 0, "answered: {:?}", endured.to_servers);
    ensure!(endured.to_servers.udp <= endured.sent, "answered: {:?}", endured.to_servers);
    let used = outcome.stats.port_census()?.used;
    ensure!(used == created, "{used} ports are used");
    Ok(())
}

/// Very many strangers open connections to one port that a subscriber has open: as many are let
/// in as may be, and what the subscriber itself opens is not counted with them.
#[test]
fn root_netns_attack_a4_strangers_do_not_use_up_what_a_subscriber_may_open() -> Result<()> {
    const LIMIT: u64 = 100;
    let lab = Lab::new(2)?;
    let (client, other) = (lab.addresses()[0], lab.addresses()[1]);
    let settings = Settings {
        limits: Some(format!("{{ sessions: 20, inbound-sessions: {LIMIT} }}")),
        ..settings()
    };
    let ((flood, begun), outcome) = with_appliance(&lab, &settings, |_| {
        let _http = Server::http(&lab.server, SERVERS[0])?;
        let opened = |from: Ipv4Addr| traffic::whoami(&lab.subscribers, from, SERVERS[0]);
        let (_, external) = opened(client)?;
        let text = format!("scan {} --port {} --rate {RATE}", external.ip(), external.port());
        let text = format!("{text} --seconds {}", seconds());
        let arguments: Vec<&str> = text.split(' ').collect();
        let limit = std::time::Duration::from_secs(seconds() + 30);
        let flood: FloodReport = reports::report_of(&lab.server, PROGRAM, &arguments, limit)?;
        // Both still open what they like.
        let mut begun = 1;
        for from in [client, other].repeat(5) {
            opened(from)?;
            begun += 1;
        }
        Ok((flood, begun))
    })?;
    let mut drops = outcome.stats.drops()?;
    println!("strangers: {} packets at {}/s, drops {drops:?}", flood.sent, flood.rate());
    let refused = drops.get("limit-inbound-sessions").copied().unwrap_or_default();
    ensure!(refused > flood.sent / 4, "drops {drops:?}");
    // Of UDP there is no mapping at that port. A busy machine may lose some before that is known.
    drops.remove("handoff-full");
    ensure!(drops.keys().eq(["limit-inbound-sessions", "no-mapping"]), "drops {drops:?}");
    let sessions = outcome.number("/sessions/active")?;
    ensure!(sessions == LIMIT + begun, "{sessions} sessions, {begun} from inside");
    Ok(())
}

/// Fragments that never become datagrams, from two subscribers, over taps: for a packet socket the
/// kernel would keep them. Whole packets of others are not lost, nor are their own fragments.
#[test]
fn root_netns_attack_a6_fragments_without_end() -> Result<()> {
    let lab = crowded()?;
    let settings = Settings { taps: true, workers: 1, ..Settings::default() };
    let fragmented = Innocents { first: 200, count: 20, bytes: 3_000 };
    let flood = format!("fragments {VOID} --count 2 --rate 20000");
    let (((endured, before), after), outcome) = with_appliance(&lab, &settings, |appliance| {
        let before = appliance.resident()?;
        let from = (&lab.subscribers, flood.as_str());
        let endured = endure(&lab, PROGRAM, &[OTHERS, fragmented], from, seconds())?;
        Ok(((endured, before), appliance.resident()?))
    })?;
    // Fragments of others may be lost, whole packets not.
    let drops = endured.judge(&outcome, INTERNAL_PORT, 0.05)?;
    let whole = Endured { during: endured.during[..1].to_vec(), ..endured };
    whole.judge(&outcome, INTERNAL_PORT, 0.001)?;
    println!("  {before} bytes in memory before it, {after} after it");
    let of_fragments = drops.keys().all(|reason| reason.starts_with("fragment-"));
    ensure!(of_fragments, "drops {drops:?}");
    for reason in ["fragment-overlap", "fragment-tiny", "fragment-share"] {
        ensure!(drops.contains_key(reason), "no {reason}: drops {drops:?}");
    }
    ensure!(after < before + (4 << 20), "memory grew from {before} to {after} bytes");
    Ok(())
}

/// Packets that end here: time exceeded is told at a bounded rate, in less bytes than came.
#[test]
fn root_netns_attack_a7_packets_that_ask_for_errors() -> Result<()> {
    let lab = crowded()?;
    let flood = format!("flows {VOID} --count 1 --flows 300 --ttl 1 --rate {RATE}");
    let (endured, outcome) = attacked(&lab, &settings(), &flood)?;
    let drops = endured.judge(&outcome, INTERNAL_PORT, 0.001)?;
    let expired = drops.get("ttl-expired").copied().unwrap_or_default();
    ensure!(drops.len() == 1 && expired > endured.flood.sent / 2, "drops {drops:?}");
    let created = outcome.number("/mappings/created")?;
    ensure!(
        created == u64::from(OTHERS.count),
        "{created} mappings: one for a packet that expired"
    );
    errors_are_limited(&endured, &outcome, "11/0")
}

/// Somebody on the link outside claims the next hop's address, over and over, with a MAC of its
/// own: the box asks the next hop, which answers, and nothing goes astray.
#[test]
fn root_netns_attack_a10_a_thief_of_the_next_hops_address_gets_nothing() -> Result<()> {
    const ROUNDS: u32 = 4;
    let lab = Lab::new(1)?;
    let server = &lab.server;
    // The kernel answers for an address at its own interface only.
    server.run("sysctl", &["-q", "-w", "net.ipv4.conf.all.arp_ignore=1"])?;
    let thief = ["add", "thief", "link", "world", "type", "macvlan", "mode", "bridge"];
    server.run("ip", &[&["link"][..], &thief].concat())?;
    server.run("ip", &["link", "set", "thief", "up"])?;
    // Of what goes astray the table keeps who sent what to whom.
    let stolen = "table netdev stolen { set s { typeof ether saddr . ether daddr . ip saddr . ip \
                  daddr . ip protocol; flags dynamic; size 64; }; \
                  chain c { type filter hook ingress device \"thief\" priority 0; ip version 4 \
                  update @s { ether saddr . ether daddr . ip saddr . ip daddr . ip protocol } \
                  counter; }; }";
    server.run("nft", &[stolen])?;
    let hop = WORLD.to_string();
    let (answered, outcome) = with_appliance(&lab, &settings(), |_| {
        // Before the next hop is known there is nothing to differ from.
        let mut answered = traffic::ping(&lab.subscribers, lab.addresses()[0], SERVERS[0], 3, 56)?;
        for _ in 0..ROUNDS {
            for kind in ["-U", "-A"] {
                let claim = ["arping", kind, "-c", "1", "-w", "1", "-s", &hop, "-I", "thief", &hop];
                server.run("busybox", &claim)?;
            }
            answered += traffic::ping(&lab.subscribers, lab.addresses()[0], SERVERS[0], 3, 56)?;
        }
        Ok(answered)
    })?;
    let pings = 3 * (ROUNDS + 1);
    ensure!(answered == pings, "{answered} of {pings} pings came back");
    let table = server.run("nft", &["list", "table", "netdev", "stolen"])?;
    ensure!(table.contains("packets 0 "), "went astray: {table}");
    let noticed = format!("Conflicts of ARP and Neighbour Discovery: {}; ", 2 * ROUNDS);
    ensure!(outcome.printed.contains(&noticed), "not {noticed:?}: {}", outcome.printed);
    Ok(())
}
