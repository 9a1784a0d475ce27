//! The kept recording through the appliance, its output decoded by tshark. Needs no root.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{self, Devices, EXTERNAL_PORT, INTERNAL_PORT, Settings};
use cgnat_tests::decode::{Captures, Report, Rules, verify_translated};
use cgnat_tests::lab::{BOX_EXTERNAL, BOX_INTERNAL, SUBSCRIBER_PREFIX};
use cgnat_tests::process::run;
use cgnat_tests::stats::Stats;

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/captures");

/// Replays the recording and checks every rule of [`cgnat_tests::decode`].
fn replay(directory: &Path) -> Result<(Report, Stats)> {
    let from = Path::new(RECORDING);
    let settings = Settings::recording();
    let configuration = directory.join("cgnat.yaml");
    let name = format!("replay-{}", std::process::id());
    std::fs::write(&configuration, settings.yaml(&name, &Devices::captures(from, directory)))?;
    let stats = directory.join("stats.json");
    let mut command = Command::new(appliance::program()?);
    command.arg("run").arg(&configuration).arg("--stats-file").arg(&stats);
    command.args(settings.seed.map(|seed| format!("--seed={seed}")));
    run(command, Duration::from_secs(120))?;

    let stats = Stats::read(&stats)?;
    let pool = settings.pool.iter().map(|net| net.parse().context("the pool has prefixes only"));
    let rules = Rules {
        subscribers: vec![SUBSCRIBER_PREFIX.parse()?],
        pool: pool.collect::<Result<_>>()?,
        own: vec![BOX_INTERNAL, BOX_EXTERNAL],
        ports: (1024, 65535),
        block_size: settings.block_size,
        max_blocks: usize::from(settings.max_blocks),
    };
    let captures = Captures {
        internal_in: &from.join("internal.pcap"),
        external_in: &from.join("external.pcap"),
        internal_out: &directory.join("internal.pcap"),
        external_out: &directory.join("external.pcap"),
    };
    Ok((verify_translated(captures, &rules, Some(stats.accounted()?))?, stats))
}

#[test]
fn the_recording_is_translated_as_the_rules_say() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (report, stats) = replay(directory.path())?;
    println!("{report}drops: {:?}", stats.drops()?);
    ensure!(report.violations.is_empty(), "{report}drops: {:?}", stats.drops()?);
    // The recording is answers to the very ports that are lent again: nearly all comes through.
    let translated = report.outbound + report.inbound + report.hairpinned;
    ensure!(report.subscribers == 300, "{report}");
    ensure!(report.outbound > 2_000 && report.inbound > 2_000 && report.hairpinned > 0, "{report}");
    ensure!(translated * 100 > report.arrived * 95, "{report}drops: {:?}", stats.drops()?);
    let received = stats.received(INTERNAL_PORT)? + stats.received(EXTERNAL_PORT)?;
    ensure!(received == report.arrived, "{received} received, {report}");
    let sent = stats.sent(INTERNAL_PORT)? + stats.sent(EXTERNAL_PORT)?;
    ensure!(sent == report.sent, "{sent} sent, {report}");
    Ok(())
}
