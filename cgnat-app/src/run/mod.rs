//! `cgnat run`: from a configuration to a running box and its report.
//!
//! Threads: the main thread starts everything, watches signals and prints; one housekeeping
//! thread; one for the interfaces in the kernel and one for its routes, if there are any; one lcore per worker. The order of starting makes the box fail closed: packets
//! are received only when every worker has its port blocks, and on the way down the workers
//! stop before anything they use.

mod announce;
mod conflicts;
mod control;
mod driver;
mod floods;
mod house;
mod idle;
pub mod instance;
pub mod io;
mod kernel;
mod links;
mod offloads;
pub mod placement;
pub mod plan;
pub mod readiness;
mod refused;
mod reload;
pub mod replay;
pub mod report;
mod requests;
pub mod routes;
mod say;
mod start;
mod statistics;
pub mod steering;
mod trunk;
mod watchdog;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use cgnat_core::config::{Config, Device, Source};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::check;
use crate::machine::Machine;
use crate::netlink::Kernel;
use crate::preflight::{Preflight, preflight};
use announce::Announcing;
use control::{Ask, Control, unknown};
use instance::Instance;
use offloads::Offloads;
use plan::Plan;
use reload::Reloads;
use report::Report;
use say::{complain, say};
use start::Running;
use statistics::Statistics;

/// Options of `cgnat run`.
#[derive(Args)]
pub struct Options {
    /// The configuration file.
    pub file: PathBuf,
    /// Choose ports from this number instead of from entropy: predictable, for replays only.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Write the statistics as JSON to this file, at the end and on SIGUSR1.
    #[arg(long, value_name = "FILE")]
    pub stats_file: Option<PathBuf>,
}

/// How often the main thread looks around.
const LOOK: Duration = Duration::from_millis(5);

/// How often progress is printed on a terminal, and otherwise.
const PROGRESS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Runs until a signal, or until the captures are used up. The exit code says what was wrong.
pub fn run(options: &Options) -> ExitCode {
    let source = match check::load_source(&options.file) {
        Ok(source) => source,
        Err(refusal) => {
            complain(&refusal.to_string());
            return ExitCode::from(refusal.code);
        }
    };
    let config = &source.config;
    for warning in config.warnings() {
        complain(&warning.to_string());
    }
    let here = preflight(config, Path::new("/"));
    complain(&check::render_preflight(&here));
    if let Some(code) = here.exit_code() {
        return ExitCode::from(code);
    }
    let plan = match Plan::new(config, &Machine::read(Path::new("/"))) {
        Ok(plan) => plan,
        Err(message) => {
            complain(&format!("{}: error: system.memory: {message}", options.file.display()));
            return ExitCode::from(check::EXIT_CONFIG);
        }
    };
    match run_planned(options, &source, &here, &plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::from(check::EXIT_ENVIRONMENT)
        }
    }
}

fn run_planned(options: &Options, source: &Source, here: &Preflight, plan: &Plan) -> Result<()> {
    let config = &source.config;
    let _instance = Instance::claim(config.system().name())?;
    // Before any thread starts, so that no signal is missed.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("cannot watch signals")?;
    }
    let mut reloads = Reloads::watch(&options.file, source.clone())?;
    let mut statistics = Statistics::watch(config, options.stats_file.as_deref())?;
    let control = config.system().control_socket();
    let mut control = control.map(|path| Control::open(Path::new(path))).transpose()?;
    let replaying = here.captures.len() == config.ports().len();
    let kernel = config.announce().map(|_| Kernel::open()).transpose();
    let kernel = kernel.context("announce: no netlink socket for the kernel's routes")?;
    let running = start::start(config, plan, here, replaying, options.seed)?;
    say(&format!(
        "ready: {} with {} {}, {} port blocks, {}",
        config.system().name(),
        plan.workers(),
        if plan.workers() == 1 { "worker" } else { "workers" },
        plan.layout.blocks,
        if plan.huge_pages { "huge pages" } else { "4 KiB pages" },
    ));
    for sentence in plan.placement.sentences(&plan.worker_cpus) {
        say(&sentence);
    }
    for sentence in steering::sentences(config, &running.steering()) {
        say(&sentence);
    }
    let mut announcing = Announcing::begin(&running, config, kernel);
    let desk = Desk { reloads: &mut reloads, statistics: &mut statistics, control: &mut control };
    let dead = watch(&running, &stop, config, &mut announcing, desk);
    if replaying && !stop.load(Ordering::Relaxed) {
        running.settle(&stop);
    }
    let (report, shards_report) = running.stop(config)?;
    let report = shards_report(report).with_outputs(outputs(config)).with_reloads(reloads.tally());
    say(report.text().trim_end());
    statistics.write(&report)?;
    if let Some(worker) = dead {
        bail!("worker {worker} ended by itself, so the run was stopped");
    }
    Ok(())
}

/// What operators ask by.
struct Desk<'a, 'b> {
    reloads: &'a mut Reloads,
    statistics: &'a mut Statistics<'b>,
    control: &'a mut Option<Control>,
}

/// Prints progress until a signal comes and neighbours had time to hear of it, or a replay has
/// ended, or until a worker ends that nobody told to; that one is returned.
fn watch(
    running: &Running,
    stop: &AtomicBool,
    config: &Config,
    announcing: &mut Announcing,
    desk: Desk<'_, '_>,
) -> Option<u16> {
    let Desk { reloads, statistics, control } = desk;
    let interval = if std::io::stdout().is_terminal() { PROGRESS.0 } else { PROGRESS.1 };
    let mut next = Instant::now() + interval.min(Duration::from_secs(1));
    let mut offloads = Offloads::new(config);
    let mut leaving: Option<Instant> = None;
    loop {
        // Another signal ends the wait of the first.
        if stop.swap(false, Ordering::Relaxed) {
            let wait = if leaving.is_some() { Duration::ZERO } else { announcing.stop() };
            leaving = Some(Instant::now() + wait);
            if !wait.is_zero() {
                say(&format!(
                    "stopping: packets go on for {:.0} s while neighbours turn away; another signal \
                     ends that",
                    wait.as_secs_f64()
                ));
            }
        }
        if leaving.is_some_and(|until| Instant::now() >= until) {
            stop.store(true, Ordering::Relaxed);
            break;
        }
        std::thread::sleep(LOOK);
        if let Some(prefixes) = reloads.mind(running.front()) {
            announcing.set_prefixes(&prefixes);
        }
        statistics.mind(running, reloads.tally());
        if running.has_replayed() {
            break;
        }
        let dead = running.dead_worker();
        if dead.is_some() {
            announcing.stop();
            return dead;
        }
        let seen = running.watch_links().into_iter().chain(running.watch_standstills());
        let seen = seen.chain(running.watch_steering());
        let seen = seen.chain(running.watch_floods()).chain(running.watch_neighbours(config));
        for sentence in seen.chain(offloads.mind(running.counters())) {
            complain(&sentence);
        }
        announcing.mind(running, config);
        if let Some(control) = control {
            control.mind(|asked| match asked {
                Ask::Show("readiness") => Ok(announcing.json()),
                Ask::Show("routes") => running.routes(config),
                Ask::Show("steering") => Ok(running.steering_report().json()),
                Ask::Show(what) => Err(unknown(what)),
                Ask::Drain(is_wanted) => announcing.drain(is_wanted, running, config),
            });
        }
        if Instant::now() >= next {
            next = Instant::now() + interval;
            say(&running.report(config).progress());
        }
    }
    say(&running.report(config).progress());
    None
}

/// Where the translated captures lie.
fn outputs(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for port in config.ports() {
        if let Device::Virtual { arguments, .. } = port.device() {
            for (_, file) in arguments.iter().filter(|(key, _)| key == "tx_pcap") {
                lines.push(format!("Sent by port {}: {file}", port.name()));
            }
        }
    }
    lines
}

/// Adds what only the stopped shards know to a report.
type Complete = Box<dyn FnOnce(Report) -> Report>;
