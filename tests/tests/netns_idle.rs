//! What an idle appliance costs, and that it is awake at once: `system.idle` in both its modes.
//! Needs root.
//!
//! What a thread does is taken from the kernel's account of it, so others on this machine do not
//! matter: waiting for a CPU that others have counts as wanting it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Settings, with_appliance};
use cgnat_tests::cpu::{self, Share};
use cgnat_tests::lab::{Lab, SERVERS};
use cgnat_tests::process::run;

/// Echo requests, each after a pause that is long enough for the longest rest.
const PINGS: u32 = 100;

/// One line of ping's: how many were lost, and another with the times.
fn ping(lab: &Lab) -> Result<[String; 2]> {
    let mut command = lab.subscribers.command("ping");
    command.args(["-n", "-q", "-i", "0.01", "-W", "2", "-c", &PINGS.to_string()]);
    command.args(["-I", &lab.addresses()[0].to_string(), &SERVERS[0].to_string()]);
    let text = run(command, Duration::from_secs(30))?;
    let line = |with: &str| {
        let line = text.lines().find(|line| line.contains(with)).map(str::to_owned);
        line.with_context(|| format!("ping said {text}"))
    };
    Ok([line("packet loss")?, line("rtt ")?])
}

/// An appliance that was left alone; what its workers did, and the rest of it.
fn idle(workers: u16, mode: Option<&str>) -> Result<(Vec<Share>, f64)> {
    let lab = Lab::new(1)?;
    let settings = Settings { workers, idle: mode.map(str::to_owned), ..Settings::default() };
    let (shares, outcome) = with_appliance(&lab, &settings, |appliance| {
        let shares = cpu::shares(appliance.id(), Duration::from_secs(2))?;
        // It reads its file, and every worker takes the new address.
        let pool = ["203.0.113.0/28", "203.0.113.16"].map(str::to_owned).to_vec();
        let more = Settings { pool, ..settings.clone() };
        let line = appliance.reload(&more, |text| text)?;
        ensure!(line.contains("1 address added"), "{line}");
        // Other rests need a restart.
        let other = Settings { idle: Some("lazy".to_owned()), ..more.clone() };
        let line = appliance.reload(&other, |text| text.replace("lazy", "busy"))?;
        let expected = match mode {
            Some("busy") => "nothing to change",
            _ => "needs a restart: system.idle (not given) -> busy",
        };
        ensure!(line.contains(expected), "{line}");
        let [lost, times] = ping(&lab)?;
        ensure!(lost.contains(&format!(" {PINGS} received")), "{lost}");
        println!("{workers} workers, {}: {times}", mode.unwrap_or("adaptive"));
        appliance.statistics()?;
        Ok(shares)
    })?;
    ensure!(outcome.number("/reloads/applied")? >= 1, "{}", outcome.printed);
    let (of_workers, others) =
        shares.into_iter().partition::<Vec<_>, _>(|share| share.thread.starts_with("rte-worker"));
    ensure!(of_workers.len() == usize::from(workers), "{of_workers:?}");
    println!("{of_workers:?}; others {others:?}");
    Ok((of_workers, others.iter().map(|share| share.running).sum()))
}

#[test]
fn root_netns_an_idle_box_leaves_its_cpus_to_others() -> Result<()> {
    let (workers, others) = idle(2, None)?;
    for share in &workers {
        // About 0.04 on a machine of its own.
        ensure!(share.running < 0.2, "{share:?}");
    }
    ensure!(others < 0.15, "housekeeping and the main thread take {others}");
    Ok(())
}

#[test]
fn root_netns_a_busy_box_never_gives_a_cpu_away() -> Result<()> {
    let (workers, others) = idle(1, Some("busy"))?;
    for share in &workers {
        ensure!(share.running + share.waiting > 0.9, "{share:?}");
    }
    ensure!(others < 0.15, "housekeeping and the main thread take {others}");
    Ok(())
}
