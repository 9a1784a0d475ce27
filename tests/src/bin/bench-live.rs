//! `make bench-live`: the kernel's NAT and `cgnat` in turn between the same two hosts, over veths.
//!
//! A round is one sample of each figure through the kernel and one through `cgnat`, each in a
//! laboratory of its own. What both have in common: the hosts, the clients, the servers, the pool,
//! and veths without offloads, so that every segment is a packet of its own as on a wire.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Settings, with_appliance};
use cgnat_tests::command_line::exit_code;
use cgnat_tests::connect_test;
use cgnat_tests::figures::{self, CpuTime, Figure, MOST_STOLEN};
use cgnat_tests::lab::{Lab, SERVERS};
use cgnat_tests::traffic::{self, Server, Stream};
use clap::Parser;

/// Measures throughput, connections per second and latency through the kernel's NAT and through
/// cgnat, in turn (as root).
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "A sample during which more than 2 % of the machine's time was stolen is thrown \
                  away and taken again while there is time. Exit codes: 0 measured, 1 it could \
                  not be, 2 usage."
)]
struct Arguments {
    /// Rounds: samples of each figure.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each sample.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// No sample is begun after so many seconds.
    #[arg(long, default_value_t = 225, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Workers of cgnat.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// File for the figures.
    #[arg(long, default_value = "target/bench/live.json", value_name = "FILE")]
    output: PathBuf,
}

const SUBSCRIBERS: u32 = 200;
const POOL: &str = "203.0.113.0/29";
const POOL_RANGE: &str = "203.0.113.0-203.0.113.7";
const PORTS: &str = "1024-65535";
/// A sample is tried so often in one place.
const TRIES: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Kernel,
    Cgnat,
}

/// What is sampled, with the open connections or streams of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    Streams(u32),
    /// As many connections as there can be.
    Rate(u32),
    /// Few at a time, so that none waits for another.
    Latency(u32),
}

const PROBES: [Probe; 4] =
    [Probe::Streams(1), Probe::Streams(8), Probe::Rate(200), Probe::Latency(4)];

/// Name, unit, whether more is better.
const QUANTITIES: [(&str, &str, bool); 5] = [
    ("tcp_1_stream", "Mbit/s", true),
    ("tcp_8_streams", "Mbit/s", true),
    ("connections", "1/s", true),
    ("connect_p50", "us", false),
    ("connect_p99", "us", false),
];

struct Bench {
    arguments: Arguments,
    until: Instant,
    /// By quantity, of kernel and cgnat: a sample for each round, if there is one.
    samples: [[Vec<Option<f64>>; 2]; QUANTITIES.len()],
    /// Percent of the workers' time that they were in the kernel, while streams went.
    in_kernel: Vec<f64>,
    thrown_away: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    exit_code("bench-live", measure(arguments).map(|()| true))
}

fn measure(arguments: Arguments) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(arguments.limit);
    let rounds = arguments.rounds;
    let (samples, in_kernel) = (Default::default(), Vec::new());
    let mut bench = Bench { arguments, until, samples, in_kernel, thrown_away: 0 };
    let mut done = 0;
    for round in 0..rounds {
        if Instant::now() >= until {
            println!("time is over after {round} of {rounds} rounds");
            break;
        }
        for side in [Side::Kernel, Side::Cgnat] {
            bench.through(side)?;
        }
        done = round + 1;
    }
    ensure!(done > 0, "no round was measured");
    let figures = bench.figures(done);
    for figure in &figures {
        println!("{}", figure.line());
    }
    let thrown_away = bench.thrown_away;
    println!("thrown away for more than {MOST_STOLEN} % of stolen time: {thrown_away} samples");
    figures::write(&bench.arguments.output, &figures)
}

impl Bench {
    fn through(&mut self, side: Side) -> Result<()> {
        let lab = Lab::new(SUBSCRIBERS)?;
        match side {
            Side::Kernel => {
                lab.use_kernel_nat(POOL_RANGE, PORTS)?;
                self.sample_all(&lab, side, None)
            }
            Side::Cgnat => {
                let settings = Settings {
                    workers: self.arguments.workers,
                    pool: vec![POOL.to_owned()],
                    // As many slots as the kernel's own queues have, and more.
                    ring: "framecnt=4096".to_owned(),
                    max_mappings: 400_000,
                    ..Settings::default()
                };
                let measured = with_appliance(&lab, &settings, |appliance| {
                    self.sample_all(&lab, side, Some(appliance.id()))
                });
                measured.map(drop)
            }
        }
    }

    /// `cgnat` is its process id.
    fn sample_all(&mut self, lab: &Lab, side: Side, cgnat: Option<u32>) -> Result<()> {
        let _iperf = Server::iperf3(&lab.server, SERVERS[0])?;
        for (number, probe) in PROBES.into_iter().enumerate() {
            let before = cgnat.map(worker_ticks).transpose()?;
            let values = self.sample(lab, side, probe)?;
            let after = cgnat.map(worker_ticks).transpose()?;
            if let (Probe::Streams(_), Some(before), Some(after)) = (probe, before, after) {
                let [own, kernel] = [0, 1].map(|n| after[n].saturating_sub(before[n]) as f64);
                self.in_kernel.push(kernel * 100.0 / (own + kernel).max(1.0));
            }
            for (index, quantity) in of_probe(number).enumerate() {
                let value = values.as_ref().map(|values| values[index]);
                self.samples[quantity][side as usize].push(value);
            }
        }
        Ok(())
    }

    /// The values of one sample; `None` if each try was thrown away.
    fn sample(&mut self, lab: &Lab, side: Side, probe: Probe) -> Result<Option<Vec<f64>>> {
        for _ in 0..TRIES {
            let before = CpuTime::now()?;
            let values = ask(lab, probe, self.arguments.seconds)?;
            let stolen = before.stolen_until(CpuTime::now()?);
            if stolen <= MOST_STOLEN {
                return Ok(Some(values));
            }
            self.thrown_away += 1;
            println!("thrown away: {side:?}, {probe:?}: {stolen:.1} % of the time was stolen");
            if Instant::now() >= self.until {
                break;
            }
        }
        Ok(None)
    }

    fn figures(&self, rounds: u32) -> Vec<Figure> {
        let seconds = self.arguments.seconds;
        let workers = self.arguments.workers;
        let mut figures = Vec::new();
        for ((name, unit, more_is_better), [kernel, cgnat]) in QUANTITIES.iter().zip(&self.samples)
        {
            let all = |samples: &[Option<f64>]| samples.iter().flatten().copied().collect();
            let note = |what: String| format!("{what}, {seconds} s each, veths without offloads");
            let kernels = note(format!("nftables snat to {POOL_RANGE}"));
            let ours = note(format!("workers: {workers}, on packet sockets, pool {POOL}"));
            figures.push(Figure::new(&format!("live.kernel.{name}"), unit, all(kernel), &kernels));
            figures.push(Figure::new(&format!("live.cgnat.{name}"), unit, all(cgnat), &ours));
            // Within a round the machine was the same.
            let pairs = kernel.iter().zip(cgnat).filter_map(|(kernel, cgnat)| {
                kernel.zip(*cgnat).map(|(kernel, cgnat)| cgnat / kernel)
            });
            let better = if *more_is_better { "more" } else { "less" };
            let note = format!("cgnat / kernel within each of {rounds} rounds; {better} is better");
            let (name, ratios) = (format!("live.ratio.{name}"), pairs.collect());
            figures.push(Figure::new(&name, "x", ratios, &note));
        }
        let note =
            "of the worker's time while streams went: packet sockets, and what veths do at once";
        figures.push(Figure::new("live.cgnat.in_kernel", "%", self.in_kernel.clone(), note));
        figures
    }
}

/// Ticks that the workers of a process have run so far, in the program and in the kernel. One that
/// rested since it began may have none.
fn worker_ticks(process: u32) -> Result<[u64; 2]> {
    let (mut ticks, mut workers) = ([0, 0], 0);
    for entry in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let stat = std::fs::read_to_string(entry?.path().join("stat"))?;
        let (name, rest) = stat.rsplit_once(')').context("a thread has a name")?;
        if name.contains("(rte-worker") {
            workers += 1;
            let mut fields = rest.split_whitespace().skip(11);
            for count in &mut ticks {
                *count += fields.next().context("a thread has run")?.parse::<u64>()?;
            }
        }
    }
    ensure!(workers > 0, "process {process} has no worker");
    Ok(ticks)
}

/// Places in [`QUANTITIES`] that a probe fills.
fn of_probe(number: usize) -> std::ops::Range<usize> {
    match PROBES[number] {
        Probe::Latency(_) => number..number + 2,
        Probe::Streams(_) | Probe::Rate(_) => number..number + 1,
    }
}

fn ask(lab: &Lab, probe: Probe, seconds: u32) -> Result<Vec<f64>> {
    let open = match probe {
        Probe::Streams(parallel) => {
            let stream =
                Stream { udp: false, bits_per_second: None, reverse: false, seconds, parallel };
            let client = lab.addresses()[0];
            let measured = traffic::iperf3(&lab.subscribers, client, SERVERS[0], stream)?;
            return Ok(vec![measured.bits_per_second / 1e6]);
        }
        Probe::Rate(open) | Probe::Latency(open) => open.to_string(),
    };
    let limit = seconds.to_string();
    let options = ["--seconds", &limit, "--concurrency", &open, "--timeout", "5"];
    let seen = connect_test::run(lab, &options, Duration::from_secs(60 + u64::from(seconds)))?;
    ensure!(
        seen.client.errors == 0,
        "{probe:?}: {} errors of {} connections: {seen:?}",
        seen.client.errors,
        seen.client.connections
    );
    Ok(match probe {
        Probe::Rate(_) => vec![seen.client.requests_per_second],
        _ => vec![seen.client.latency_us.median as f64, seen.client.latency_us.p99 as f64],
    })
}
