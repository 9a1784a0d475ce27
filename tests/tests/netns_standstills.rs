//! A transmit queue that takes nothing and a worker that stands still: each is named, counted and
//! seen to go on again. Needs root.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Appliance, Settings, with_appliance};
use cgnat_tests::cpu::thread;
use cgnat_tests::lab::{EXTERNAL, Lab, SERVERS};
use cgnat_tests::process::{Process, run, wait_until};
use cgnat_tests::stats::Stats;
use cgnat_tests::traffic;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

/// Longer than a worker may stand still before it is said, microseconds.
const STALL_US: u32 = 1_500_000;

fn settings() -> Settings {
    Settings { workers: 2, ..Settings::default() }
}

fn at(stats: &Stats, path: &str) -> Result<Value> {
    let value = stats.document().pointer(path);
    value.cloned().with_context(|| format!("no {path} in {}", stats.document()))
}

/// Waits for a sentence of standard error or standard output that has all `parts`.
fn said(appliance: &Appliance, parts: &[&str]) -> Result<String> {
    let mut found = None;
    wait_until("a sentence", LIMIT, || {
        let text = appliance.errors() + &appliance.printed();
        let line = text.lines().find(|line| parts.iter().all(|part| line.contains(part)));
        found = line.map(str::to_owned);
        Ok(found.is_some())
    })
    .with_context(|| format!("expected {parts:?}"))?;
    found.context("it was there")
}

/// A thousand packets a second until dropped; nobody need answer.
fn flood(lab: &Lab) -> Result<Process> {
    let mut command = lab.subscribers.command("ping");
    command.args(["-n", "-q", "-i", "0.001", "-w", "60"]);
    command.args(["-I", &lab.addresses()[0].to_string(), &SERVERS[0].to_string()]);
    command.stdout(std::process::Stdio::null());
    Process::start("ping", command)
}

fn set_link(lab: &Lab, state: &str) -> Result<()> {
    lab.middle.run("ip", &["link", "set", EXTERNAL, state]).map(drop)
}

#[test]
fn root_netns_a_transmit_queue_that_takes_nothing_is_named_and_goes_on_with_the_link() -> Result<()>
{
    let lab = Lab::new(1)?;
    let (queue, outcome) = with_appliance(&lab, &settings(), |appliance| {
        let pinged = || traffic::ping(&lab.subscribers, lab.addresses()[0], SERVERS[0], 2, 56);
        ensure!(pinged()? == 2, "nothing passes");
        let mut flood = flood(&lab)?;
        set_link(&lab, "down")?;
        let line = said(appliance, &["warning: port external0: transmit queue ", "takes nothing"])?;
        let queue: usize = line
            .split("transmit queue ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next()?.parse().ok())
            .with_context(|| line.clone())?;
        ensure!(line.contains(&format!("(worker {queue})")), "{line}");
        ensure!(line.contains("dropped under `transmit-full`"), "{line}");
        let stats = appliance.statistics()?;
        ensure!(
            at(&stats, "/steering/ports/external0/stopped_queues")? == Value::from(vec![queue])
        );
        ensure!(at(&stats, "/steering/ports/internal0/stopped_queues")? == Value::from(vec![0; 0]));
        ensure!(at(&stats, "/ports/external0/tx_refused")?.as_u64() > Some(0));

        set_link(&lab, "up")?;
        let works = format!("port external0: transmit queue {queue} works again");
        said(appliance, &[&works])?;
        flood.terminate(LIMIT)?;
        let stats = appliance.statistics()?;
        ensure!(at(&stats, "/steering/ports/external0/stopped_queues")? == Value::from(vec![0; 0]));
        wait_until("the way", LIMIT, || Ok(pinged()? == 2))?;
        Ok(queue)
    })?;
    let stops = outcome.number("/steering/ports/external0/stops")?;
    ensure!(stops >= 1 && outcome.number("/steering/ports/internal0/stops")? == 0, "{stops}");
    let (refused, drops) = (outcome.number("/ports/external0/tx_refused")?, outcome.stats.drops()?);
    ensure!(drops.get("transmit-full") == Some(&refused), "{refused} refused, drops {drops:?}");
    println!("queue {queue}: {refused} refused, {stops} stops");
    Ok(())
}

#[test]
fn root_netns_a_worker_that_stands_still_is_named_within_a_second() -> Result<()> {
    let lab = Lab::new(1)?;
    let ((), outcome) = with_appliance(&lab, &settings(), |appliance| {
        // strace keeps the second worker from returning from its next sleep.
        let mut command = std::process::Command::new("timeout");
        command.args(["--signal=INT", "4", "strace", "-o", "/dev/null", "-e", "trace=/nanosleep"]);
        command.args(["-e", &format!("inject=/nanosleep:delay_enter={STALL_US}:when=1")]);
        command.args(["-p", &thread(appliance.id(), "rte-worker-2")?]);
        // It ends by a signal, so its code says nothing; the sentences below do.
        let _ = run(command, LIMIT);
        let line = said(appliance, &["warning: worker 1 on CPU ", " has stopped: no poll for 5"])?;
        ensure!(line.contains("Queue 1 of every port"), "{line}");
        let line = said(appliance, &["worker 1 on CPU ", " polls again, after "])?;
        let ms = line.split(" after ").nth(1).and_then(|rest| rest.split(' ').next());
        let ms: u32 = ms.and_then(|ms| ms.parse().ok()).with_context(|| line.clone())?;
        ensure!((500..=STALL_US / 1000 + 500).contains(&ms), "{line}");
        let stats = appliance.statistics()?;
        ensure!(at(&stats, "/steering/workers/1/stalled")? == Value::from(false));
        Ok(())
    })?;
    let stalls = |worker: u32| outcome.number(&format!("/steering/workers/{worker}/stalls"));
    ensure!((stalls(0)?, stalls(1)?) == (0, 1), "{}", outcome.stats.document());
    Ok(())
}
