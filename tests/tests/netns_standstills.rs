//! A transmit queue that takes nothing and a worker that stands still: each is named, counted and
//! seen to go on again. Needs root.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Appliance, Settings, with_appliance};
use cgnat_tests::cpu::thread;
use cgnat_tests::lab::{Lab, SERVERS};
use cgnat_tests::process::{Process, wait_until};
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
    command.stdout(Stdio::null());
    Process::start("ping", command)
}

/// strace on a thread, which injects what `fault` says into one system call.
fn inject(call: &str, fault: &str, thread: &str) -> Command {
    let mut command = Command::new("strace");
    command.args(["-o", "/dev/null", "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:{fault}"), "-p", thread]);
    command
}

#[test]
fn root_netns_a_transmit_queue_that_takes_nothing_is_named_and_goes_on() -> Result<()> {
    let lab = Lab::new(1)?;
    let (queue, outcome) = with_appliance(&lab, &settings(), |appliance| {
        let pinged = || traffic::ping(&lab.subscribers, lab.addresses()[0], SERVERS[0], 2, 56);
        ensure!(pinged()? == 2, "nothing passes");
        let mut flood = flood(&lab)?;
        // Packet sockets send nothing any more, so their rings fill.
        let mut stops = Vec::new();
        for worker in ["rte-worker-1", "rte-worker-2"] {
            let command = inject("sendto", "error=ENOBUFS", &thread(appliance.id(), worker)?);
            stops.push(Process::start("strace", command)?);
        }
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

        for stop in &mut stops {
            stop.terminate(LIMIT)?;
        }
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
        // It does not return from its next sleep for a while.
        let fault = format!("delay_enter={STALL_US}:when=1");
        let command = inject("/nanosleep", &fault, &thread(appliance.id(), "rte-worker-2")?);
        let mut stall = Process::start("strace", command)?;
        let line = said(appliance, &["warning: worker 1 on CPU ", " has stopped: no poll for 5"])?;
        ensure!(line.contains("Queue 1 of every port"), "{line}");
        let line = said(appliance, &["worker 1 on CPU ", " polls again, after "])?;
        let ms = line.split(" after ").nth(1).and_then(|rest| rest.split(' ').next());
        let ms: u32 = ms.and_then(|ms| ms.parse().ok()).with_context(|| line.clone())?;
        ensure!((500..=STALL_US / 1000 + 500).contains(&ms), "{line}");
        stall.terminate(LIMIT)?;
        let stats = appliance.statistics()?;
        ensure!(at(&stats, "/steering/workers/1/stalled")? == Value::from(false));
        Ok(())
    })?;
    let stalls = |worker: u32| outcome.number(&format!("/steering/workers/{worker}/stalls"));
    ensure!((stalls(0)?, stalls(1)?) == (0, 1), "{}", outcome.stats.document());
    Ok(())
}
