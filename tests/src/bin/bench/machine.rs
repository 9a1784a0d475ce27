//! The machine that is measured on: its pages, its clock, and what its host takes away.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use cgnat_tests::figures::{CpuTime, Figure, MOST_STOLEN};

/// How often a run is tried.
const TRIES: u32 = 3;

/// Runs something again while too much time was stolen meanwhile, and says so. After the last try
/// its figures have no samples.
pub fn undisturbed(
    what: &str,
    mut run: impl FnMut() -> Result<Vec<Figure>>,
) -> Result<Vec<Figure>> {
    let mut tries = 0;
    loop {
        tries += 1;
        let before = CpuTime::now()?;
        let figures = run()?;
        let share = before.stolen_until(CpuTime::now()?);
        if share <= MOST_STOLEN {
            return Ok(figures);
        }
        println!("{what}: {share:.1} % of the time was stolen by the host: thrown away");
        if tries == TRIES {
            let note = format!("thrown away {TRIES} times: {share:.1} % of the time was stolen");
            let none = |figure: Figure| Figure::new(&figure.name, &figure.unit, Vec::new(), &note);
            return Ok(figures.into_iter().map(none).collect());
        }
    }
}

/// A child that ends with its handle.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Seconds of testpmd: warming up, and measured.
const TESTPMD: (usize, usize) = (1, 4);

/// What DPDK's own testpmd forwards in its mode macswap between two null devices with one core:
/// ticks per packet, a value per second.
pub fn testpmd(ticks_per_second: f64) -> Result<Vec<f64>> {
    let prefix = format!("testpmd{}", std::process::id());
    let mut command = Command::new("dpdk-testpmd");
    command
        .args(["-l", "0,1", "--no-pci", "--in-memory", "-m", "256", "--file-prefix", &prefix])
        .args(["--vdev", "net_null0,size=60", "--vdev", "net_null1,size=60", "--no-telemetry"])
        .args(["--", "--forward-mode=macswap", "--stats-period=1", "--total-num-mbufs=8191"])
        .args(["--burst=32", "--nb-cores=1", "--no-lsc-interrupt", "--no-mlockall"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().context("dpdk-testpmd: Debian's package dpdk-dev has it")?;
    let output = child.stdout.take().context("testpmd has no output")?;
    let _child = Ending(child);
    let until = Instant::now() + Duration::from_secs(30);
    let mut rates: Vec<f64> = Vec::new();
    let mut both = None;
    for line in BufReader::new(output).lines() {
        let line = line?;
        let Some(rate) = line.trim().strip_prefix("Rx-pps:") else { continue };
        let rate: f64 = rate.split_whitespace().next().unwrap_or("").parse()?;
        match both.take() {
            None => both = Some(rate),
            Some(first) => rates.push(first + rate),
        }
        if rates.len() > TESTPMD.0 + TESTPMD.1 {
            let values = rates.split_off(TESTPMD.0 + 1);
            return Ok(values.iter().map(|rate| ticks_per_second / rate).collect());
        }
        if Instant::now() > until {
            break;
        }
    }
    bail!("dpdk-testpmd ended, or gave no rates for 30 s; run it by hand: {command:?}")
}

/// What the figures were measured on.
pub fn description() -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cpus = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let virtual_one = if Path::new("/sys/hypervisor").exists() || cpu.contains(" hypervisor") {
        ", a virtual machine"
    } else {
        ""
    };
    Ok(format!(
        "{cpus} CPUs, {}{virtual_one}; Linux {}; {}",
        model.unwrap_or("unknown"),
        kernel.trim(),
        dpdk::dpdk_version()
    ))
}
