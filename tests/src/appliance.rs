//! The appliance, `cgnat run`, inside the laboratory's box namespace.
//!
//! The program is `$CGNAT_BIN`, or `cgnat` of the release build of this workspace. Each run has a
//! name of its own, so its DPDK files never meet those of another instance.

mod settings;

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::cleanup;
use crate::lab::{BOX_EXTERNAL, BOX_INTERNAL, Lab, Namespace, ROUTER, WORLD};
use crate::process::{Process, read_log, wait_until};
use crate::stats::{PortCensus, Stats};
use crate::traffic;

pub use settings::{Devices, KERNEL_INTERFACES, Settings};

/// Name of the appliance's port towards the subscribers.
pub const INTERNAL_PORT: &str = "internal0";
/// Name of the appliance's port towards the servers.
pub const EXTERNAL_PORT: &str = "external0";

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The path of the program under test.
///
/// # Errors
/// It is not there; the sentence says how to build it.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CGNAT_BIN").map(PathBuf::from) {
        ensure!(path.is_file(), "CGNAT_BIN names {}, which is not a file", path.display());
        return std::path::absolute(&path).context("CGNAT_BIN has no absolute form");
    }
    let path = target_directory()?.join("release/cgnat");
    ensure!(
        path.is_file(),
        "no program {}: build it with `cargo build --release -p cgnat-app`, or set CGNAT_BIN",
        path.display()
    );
    Ok(path)
}

/// Where cargo builds.
///
/// # Errors
/// The working directory is gone.
pub fn target_directory() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    std::path::absolute(&target).context("the build directory has no absolute path")
}

/// A running appliance; killed when dropped.
#[derive(Debug)]
pub struct Appliance {
    process: Process,
    directory: TempDir,
    name: String,
    /// What it printed so far.
    printed: Arc<Mutex<String>>,
    output: JoinHandle<()>,
}

/// What a run left behind.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What it printed, with the statistics at the end.
    pub printed: String,
    /// The same statistics, from its statistics file.
    pub stats: Stats,
}

impl Outcome {
    /// A number of the statistics, by its JSON pointer.
    ///
    /// # Errors
    /// It is not there.
    pub fn number(&self, path: &str) -> Result<u64> {
        let value = self.stats.document().pointer(path).and_then(serde_json::Value::as_u64);
        value.with_context(|| format!("statistics have no number {path}"))
    }

    /// What must hold after every run: every packet is accounted for, nobody met what is not its
    /// own, and nothing nearly left untranslated.
    ///
    /// # Errors
    /// Something is amiss.
    pub fn nothing_is_amiss(&self) -> Result<()> {
        let (came, ended) = (self.number("/balance/came")?, self.number("/balance/ended")?);
        ensure!(came == ended, "{came} came, {ended} ended");
        let violations = self.stats.ownership_violations()?;
        ensure!(violations == 0, "{violations} ownership violations");
        let drops = self.stats.drops()?;
        for never in ["ownership-violation", "leak-prevented"] {
            ensure!(!drops.contains_key(never), "drops: {drops:?}");
        }
        let PortCensus { free, used, resting, total } = self.stats.port_census()?;
        ensure!(
            free + used + resting == total,
            "{free} + {used} + {resting} ports are not {total}"
        );
        Ok(())
    }
}

/// Does `ask` with an appliance in the middle of `lab`, then stops it; adds what the appliance
/// said if something fails.
///
/// # Errors
/// Those of `ask`, of the start and of the stop, what [`Outcome::nothing_is_amiss`] finds, and a
/// frame that showed the servers anything of the inside.
pub fn with_appliance<T>(
    lab: &Lab,
    settings: &Settings,
    ask: impl FnOnce(&Appliance) -> Result<T>,
) -> Result<(T, Outcome)> {
    let before = lab.leaks()?;
    let appliance = Appliance::start(lab, settings)?;
    let answer = ask(&appliance);
    let errors = appliance.errors();
    let outcome = appliance.stop()?;
    let said = || format!("the appliance said:\n{errors}{}", outcome.printed);
    let answer = answer.with_context(said)?;
    outcome.nothing_is_amiss().with_context(said)?;
    let leaks = lab.leaks()? - before;
    ensure!(leaks == 0, "{leaks} frames showed the servers an address of the inside");
    Ok((answer, outcome))
}

impl Appliance {
    /// Starts `cgnat run` on the laboratory's veths and waits until packets flow.
    ///
    /// # Errors
    /// The program is missing, refused its configuration or said no `ready` within a minute; with
    /// what it wrote to standard error.
    pub fn start(lab: &Lab, settings: &Settings) -> Result<Appliance> {
        let devices = match settings.taps {
            true => Devices::taps(),
            false => Devices::packet_sockets(settings),
        };
        let yaml = |name: &str| settings.yaml(name, &devices);
        let appliance = Self::launch(&lab.middle, yaml, settings.seed)?;
        if settings.taps {
            lab.bridge_taps()?;
            // It has asked for its neighbours before anybody could hear it.
            for (namespace, own, of_box) in
                [(&lab.subscribers, ROUTER, BOX_INTERNAL), (&lab.server, WORLD, BOX_EXTERNAL)]
            {
                wait_until("the appliance on its taps", START_LIMIT, || {
                    Ok(traffic::ping(namespace, own, of_box, 1, 56)? == 1)
                })?;
            }
        }
        Ok(appliance)
    }

    /// Starts `cgnat run` in a namespace, with the configuration that `yaml` makes for its name, and
    /// waits until packets flow.
    ///
    /// # Errors
    /// As of [`Appliance::start`].
    pub fn launch(
        namespace: &Namespace,
        yaml: impl FnOnce(&str) -> String,
        seed: Option<u64>,
    ) -> Result<Appliance> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let program = program()?;
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("lab-{}-{serial}", std::process::id());
        let configuration = directory.path().join("cgnat.yaml");
        std::fs::write(&configuration, yaml(&name)).context("cannot write the configuration")?;

        let errors =
            File::create(directory.path().join("stderr")).context("cannot make a log file")?;
        let mut command = namespace.command(program);
        command.env("RUNTIME_DIRECTORY", directory.path());
        command.arg("run").arg(&configuration);
        command.arg("--stats-file").arg(directory.path().join("stats.json"));
        if let Some(seed) = seed {
            command.arg("--seed").arg(seed.to_string());
        }
        command.stdout(Stdio::piped()).stderr(errors);
        let mut process = Process::start("cgnat run", command)?;
        let stdout = process.take_stdout().context("cgnat run has no standard output")?;

        let (ready, is_ready) = mpsc::channel();
        let printed = Arc::new(Mutex::new(String::new()));
        let text = printed.clone();
        let output = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("ready") {
                    // Nobody waits any more after the first.
                    let _ = ready.send(());
                }
                // Whoever panicked with the lock left whole lines.
                let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        });
        let mut appliance = Appliance { process, directory, name, printed, output };
        appliance.wait_ready(&is_ready)?;
        Ok(appliance)
    }

    fn wait_ready(&mut self, is_ready: &mpsc::Receiver<()>) -> Result<()> {
        let until = Instant::now() + START_LIMIT;
        loop {
            match is_ready.recv_timeout(Duration::from_millis(100)) {
                Ok(()) => return Ok(()),
                // It closed its standard output: it is ending.
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.process.wait_within(STOP_LIMIT)?;
                    bail!("cgnat run ended with {status} before it was ready:\n{}", self.errors());
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("cgnat run was not ready within {START_LIMIT:?}:\n{}", self.errors())
                }
            }
        }
    }

    /// What it wrote to standard error so far.
    pub fn errors(&self) -> String {
        read_log(&self.directory.path().join("stderr"))
    }

    /// What it printed to standard output so far.
    pub fn printed(&self) -> String {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes another configuration, `settings` with the text of `change` made of it, and sends
    /// SIGHUP; the line that says what became of it.
    ///
    /// # Errors
    /// It says nothing within a minute.
    pub fn reload(
        &self,
        settings: &Settings,
        change: impl FnOnce(String) -> String,
    ) -> Result<String> {
        let said = || {
            let (printed, errors) = (self.printed(), self.errors());
            let lines = printed.lines().chain(errors.lines()).map(str::to_owned);
            let about =
                |line: &String| line.starts_with("reloaded ") || line.starts_with("reload failed");
            lines.filter(about).collect::<Vec<String>>()
        };
        let mut before = said();
        let text = change(settings.yaml(&self.name, &Devices::packet_sockets(settings)));
        std::fs::write(self.directory.path().join("cgnat.yaml"), text)
            .context("cannot write the configuration")?;
        cleanup::signal_group(self.id(), Signal::HUP);
        wait_until("an answer to SIGHUP", START_LIMIT, || Ok(said().len() > before.len()))?;
        // The one line that was not there.
        let mut after = said();
        while let Some(line) = before.pop() {
            if let Some(place) = after.iter().position(|other| *other == line) {
                after.remove(place);
            }
        }
        after.pop().context("no line is new")
    }

    /// SIGUSR1; its statistics so far.
    ///
    /// # Errors
    /// It says nothing within a minute.
    pub fn statistics(&self) -> Result<Stats> {
        let written = || self.printed().matches("\nstatistics written to ").count();
        let before = written();
        cleanup::signal_group(self.id(), Signal::USR1);
        wait_until("an answer to SIGUSR1", START_LIMIT, || Ok(written() > before))?;
        Stats::read(&self.directory.path().join("stats.json"))
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Bytes that it has in memory.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.context("no VmRSS")?.trim().parse::<u64>()? * 1024)
    }

    /// Stops it with SIGTERM and reads its statistics.
    ///
    /// # Errors
    /// It did not end in time, ended with another code than 0, or left no statistics.
    pub fn stop(mut self) -> Result<Outcome> {
        let status = self.process.terminate(STOP_LIMIT)?;
        self.left_behind(status)
    }

    /// Sends SIGTERM and does not wait.
    pub fn ask_to_stop(&self) {
        cleanup::signal_group(self.id(), Signal::TERM);
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// The operating system does not know it.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_some())
    }

    /// Waits until it ends by itself and reads its statistics.
    ///
    /// # Errors
    /// As of [`Appliance::stop`].
    pub fn await_stop(mut self) -> Result<Outcome> {
        let status = self.process.wait_within(STOP_LIMIT)?;
        self.left_behind(status)
    }

    fn left_behind(self, status: ExitStatus) -> Result<Outcome> {
        let errors = self.errors();
        ensure!(status.success(), "cgnat run ended with {status}:\n{errors}");
        let Appliance { process, directory, printed, output, name: _ } = self;
        drop(process);
        // A reader that panicked has left what it read.
        let _ = output.join();
        let printed = printed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stats = Stats::read(&directory.path().join("stats.json"))?;
        Ok(Outcome { printed, stats })
    }
}
