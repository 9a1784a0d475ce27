//! Ten times more flows than ports, of each protocol, while flows that exist go on. Needs root.
//!
//! Lasts a minute with `CGNAT_SOAK` set, else some seconds.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{INTERNAL_PORT, Settings, with_appliance};
use cgnat_tests::lab::{Lab, SERVERS};
use cgnat_tests::ordeal::{Innocents, VOID, endure};
use cgnat_tests::stats::PortCensus;
use cgnat_tests::traffic::{self, Server};

const PROGRAM: &str = env!("CARGO_BIN_EXE_load");
/// Of two addresses, of each protocol.
const PORTS: u64 = 2 * 2048;
const PROTOCOLS: u64 = 3;
const FLOODING: u32 = 100;
/// Flows of one who floods.
const FLOWS: u64 = 10 * PORTS * PROTOCOLS / FLOODING as u64 / PROTOCOLS * PROTOCOLS;
/// Once round all flows takes less than the timers, so who has a port keeps it.
const RATE: u64 = 40_000;
const WORKERS: u16 = 2;
/// The timers, the rest of a port, and the two sweeps that find both over, with time to spare.
const SILENCE: Duration = Duration::from_secs(11);
/// Bytes per second of a download that goes on.
const DOWNLOAD: u64 = 500_000;

#[test]
fn root_netns_ten_times_more_flows_than_ports_take_nothing_from_those_that_exist() -> Result<()> {
    let seconds = if std::env::var_os("CGNAT_SOAK").is_some() { 60 } else { 10 };
    let lab = Lab::new(0)?;
    lab.house_everybody()?;
    let settings = Settings {
        workers: WORKERS,
        pool: vec!["203.0.113.0/31".to_owned()],
        ports: Some("1024-3071".to_owned()),
        block_size: 64,
        max_blocks: 2,
        hold: "1s".to_owned(),
        udp_timeout: Some("5s".to_owned()),
        icmp_timeout: Some("5s".to_owned()),
        tcp_timeout: Some("5s".to_owned()),
        short_timers: true,
        ring: "framecnt=16384".to_owned(),
        ..Settings::default()
    };
    // Half of those whose flows exist are among those who flood.
    let innocents = Innocents { first: FLOODING - 10, count: 20, bytes: 100 };
    let client = cgnat_tests::lab::subscriber(FLOODING + 10);
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("copy");
    let flood = format!("flows {VOID} --count {FLOODING} --flows {FLOWS} --rate {RATE}");
    let ((endured, begun, loaded, asked), outcome) =
        with_appliance(&lab, &settings, |appliance| {
            // Or the whole file would be in the client's kernel after a moment, and the flow idle.
            lab.subscribers.run("sysctl", &["-q", "-w", "net.ipv4.tcp_rmem=4096 65536 65536"])?;
            let http = Server::http(&lab.server, SERVERS[1])?;
            let file = http.root().join("file");
            traffic::random_file(&file, DOWNLOAD * (seconds + 2))?;
            let (endured, loaded) = thread::scope(|scope| {
                let (lab, copy) = (&lab, &copy);
                let download = scope.spawn(move || {
                    let (from, limit) =
                        ((SERVERS[1], "file"), Duration::from_secs(3 * seconds + 30));
                    let namespace = &lab.subscribers;
                    traffic::download_slowly(namespace, client, from, copy, DOWNLOAD, limit)
                });
                let endured =
                    endure(lab, PROGRAM, &[innocents], (&lab.subscribers, &flood), seconds);
                (endured, download.join())
            });
            loaded.ok().context("a thread panicked")??;
            thread::sleep(SILENCE);
            let asked = appliance.statistics()?.remembered_refusals()?;
            Ok((endured?, traffic::sha256(&file)?, traffic::sha256(&copy)?, asked))
        })?;

    println!("{} flows for {} ports", FLOWS * u64::from(FLOODING), PORTS * PROTOCOLS);
    let mut drops = endured.judge(&outcome, INTERNAL_PORT, 0.001)?;
    ensure!(begun == loaded, "the download differs from the file");

    // Every refusal is counted, remembered and told, or why it was not told. On a slow machine the
    // places where a first packet waits for the answer of housekeeping may be full for a moment.
    let unasked = drops.remove("parking-full").unwrap_or_default();
    ensure!(unasked * 100 <= endured.flood.sent, "{unasked} found no place to wait");
    let refused: u64 = drops.values().sum();
    let reasons: Vec<_> = drops.keys().map(String::as_str).collect();
    let known = ["address-exhausted", "pool-exhausted", "subscriber-ports"];
    ensure!(reasons.iter().all(|reason| known.contains(reason)), "drops {drops:?}");
    ensure!(refused > endured.flood.sent / 2, "only {refused} were refused");
    let remembered = outcome.stats.remembered_refusals()?;
    let (listed, forgotten) = (remembered.listed, remembered.forgotten);
    ensure!(listed + forgotten == refused, "{listed} listed, {forgotten} forgotten of {refused}");
    // The running box said the same.
    ensure!(asked == remembered, "{asked:?}, at the end {remembered:?}");
    ensure!(remembered.reasons.iter().eq(drops.keys()), "{remembered:?}");
    let (sent, withheld) =
        (outcome.number("/icmp_errors/sent")?, outcome.number("/icmp_errors/withheld")?);
    ensure!(sent + withheld == refused, "{sent} told, {withheld} withheld of {refused}");
    // Pings to somebody who is not there are not answered: these are all that came.
    let told = [("3/1".to_owned(), sent)].into();
    ensure!(endured.to_subscribers.icmp == told, "{:?}, {sent} sent", endured.to_subscribers);
    // A thousand a second and worker, which may begin with as many.
    let most = 1_000 * u64::from(WORKERS) * (seconds + 3);
    ensure!(sent > 0 && sent <= most, "{sent} errors, at most {most}");

    // Every port was used, but for those in the blocks of the eleven who do not flood.
    let created = outcome.number("/mappings/created")?;
    println!("{sent} told, {withheld} not; {created} mappings created; {remembered:?}");
    ensure!(created >= (PORTS - 11 * 64) * PROTOCOLS, "only {created} mappings were created");
    // All are free again.
    let census = outcome.stats.port_census()?;
    let total = PORTS * PROTOCOLS;
    let all_free = PortCensus { free: total, used: 0, resting: 0, total };
    ensure!(census == all_free, "{census:?}");
    let active = outcome.stats.active_mappings()?;
    ensure!(active == 0 && outcome.stats.blocks_in_use()? == 0, "{active} mappings are left");
    let (allocated, released) =
        (outcome.number("/blocks/allocated")?, outcome.number("/blocks/released")?);
    ensure!(allocated == released, "{allocated} blocks allocated, {released} released");
    Ok(())
}
