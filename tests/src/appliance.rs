//! The appliance, `cgnat run`, inside the laboratory's box namespace.
//!
//! The program is `$CGNAT_BIN`, or `cgnat` of the release build of this workspace. Each run has a
//! name of its own, so its DPDK files never meet those of another instance.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::cleanup;
use crate::lab::{
    BOX_EXTERNAL, BOX_INTERNAL, EXTERNAL, INTERNAL, Lab, MACS, ROUTER, SUBSCRIBER_PREFIX, TAPS,
    WORLD,
};
use crate::process::{Process, read_log, wait_until};
use crate::stats::{PortCensus, Stats};
use crate::traffic;

/// Name of the appliance's port towards the subscribers.
pub const INTERNAL_PORT: &str = "internal0";
/// Name of the appliance's port towards the servers.
pub const EXTERNAL_PORT: &str = "external0";

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What a run of the appliance is configured with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Workers; each gets a queue pair of both packet sockets.
    pub workers: u16,
    /// Seed of the port choice; the same seed and traffic give the same ports.
    pub seed: Option<u64>,
    /// Prefixes, ranges or single addresses of the pool.
    pub pool: Vec<String>,
    /// Addresses of the pool that are drained.
    pub drain: Vec<String>,
    /// Ports of each address that are lent, as the configuration writes them; the default if
    /// `None`.
    pub ports: Option<String>,
    /// Ports per block.
    pub block_size: u16,
    /// Blocks per subscriber.
    pub max_blocks: u8,
    /// Hold-down of a freed port, as the configuration writes it.
    pub hold: String,
    /// Idle time of a UDP mapping, as the configuration writes it; the default if `None`.
    pub udp_timeout: Option<String>,
    /// Idle times of UDP mappings by destination port, as the configuration writes them.
    pub udp_port_timeouts: Vec<(u16, String)>,
    /// Idle time of an ICMP mapping, as the configuration writes it; the default if `None`.
    pub icmp_timeout: Option<String>,
    /// All idle times of a TCP session, as the configuration writes them; the defaults if `None`.
    pub tcp_timeout: Option<String>,
    /// Allow timers under the minimums of the RFCs.
    pub short_timers: bool,
    /// Mappings of all workers together.
    pub max_mappings: u32,
    /// Who may send to a mapping from outside, as the configuration writes it; the default if
    /// `None`.
    pub filtering: Option<String>,
    /// Destination ports towards which external ports are shared, as in `udp/53`; none is none.
    pub port_overloading: Vec<String>,
    /// What is carried besides TCP, UDP and ICMP, as the configuration writes it; nothing if
    /// `None`.
    pub other_protocols: Option<String>,
    /// Application level gateways, as the configuration writes them; none if `None`.
    pub alg: Option<String>,
    /// What one subscriber may take, as the configuration writes it; no limits if `None`.
    pub limits: Option<String>,
    /// Static mappings, as the configuration writes them.
    pub static_mappings: Vec<String>,
    /// Further lines of the section `nat44`.
    pub nat44: Vec<String>,
    /// Largest IPv4 packet of the internal port; the default if `None`.
    pub internal_mtu: Option<u16>,
    /// Largest IPv4 packet of the external port; the default if `None`.
    pub external_mtu: Option<u16>,
    /// Further arguments of both packet sockets, as in `framecnt=4096`; none is none.
    pub ring: String,
    /// Tap interfaces instead of packet sockets: for them the kernel does not reassemble, so that
    /// the appliance sees fragments as they were sent. One worker only.
    pub taps: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            workers: 1,
            seed: None,
            pool: vec!["203.0.113.0/28".to_owned()],
            drain: Vec::new(),
            ports: None,
            block_size: 512,
            max_blocks: 4,
            hold: "2m".to_owned(),
            udp_timeout: None,
            udp_port_timeouts: Vec::new(),
            icmp_timeout: None,
            tcp_timeout: None,
            short_timers: false,
            max_mappings: 200_000,
            filtering: None,
            port_overloading: Vec::new(),
            other_protocols: None,
            alg: None,
            limits: None,
            static_mappings: Vec::new(),
            nat44: Vec::new(),
            internal_mtu: None,
            external_mtu: None,
            ring: String::new(),
            taps: false,
        }
    }
}

/// The two devices of the appliance, as the configuration names them.
#[derive(Debug, Clone)]
pub struct Devices {
    /// Towards the subscribers.
    pub internal: String,
    /// Towards the servers.
    pub external: String,
    /// Nobody answers ARP: the next hops' MACs are configured.
    pub silent: bool,
}

impl Devices {
    /// Packet sockets on the laboratory's veths, a queue pair per worker.
    pub fn packet_sockets(settings: &Settings) -> Devices {
        let Settings { workers, ring, .. } = settings;
        let device = |number, interface| {
            let mut text = format!("net_af_packet{number},iface={interface}");
            if *workers > 1 {
                text.push_str(&format!(",qpairs={workers}"));
            }
            if !ring.is_empty() {
                text.push_str(&format!(",{ring}"));
            }
            text
        };
        let (internal, external) = (device(0, INTERNAL), device(1, EXTERNAL));
        Devices { internal, external, silent: false }
    }

    /// Tap interfaces that [`Lab::bridge_taps`] joins to the laboratory's veths.
    pub fn taps() -> Devices {
        let device =
            |number, interface, mac| format!("net_tap{number},iface={interface},mac={mac}");
        let (internal, external) = (device(0, TAPS[0], MACS[1]), device(1, TAPS[1], MACS[2]));
        Devices { internal, external, silent: false }
    }

    /// Captures to replay, of `from`, and captures to write, in `to`: `internal.pcap` and
    /// `external.pcap`.
    pub fn captures(from: &Path, to: &Path) -> Devices {
        let device = |number, name| {
            let (from, to) = (from.join(name), to.join(name));
            format!("net_pcap{number},rx_pcap={},tx_pcap={}", from.display(), to.display())
        };
        let (internal, external) = (device(0, "internal.pcap"), device(1, "external.pcap"));
        Devices { internal, external, silent: true }
    }
}

impl Settings {
    /// What the kept recording is made with; a replay needs the same pool, blocks and seed.
    pub fn recording() -> Settings {
        Settings { seed: Some(1), ..Settings::default() }
    }

    /// The configuration file.
    pub fn yaml(&self, name: &str, devices: &Devices) -> String {
        let Settings {
            workers,
            seed: _,
            pool,
            drain,
            ports,
            block_size,
            max_blocks,
            hold,
            udp_timeout,
            udp_port_timeouts,
            icmp_timeout,
            tcp_timeout,
            short_timers,
            max_mappings,
            filtering,
            port_overloading,
            other_protocols,
            alg,
            limits,
            static_mappings,
            nat44,
            internal_mtu,
            external_mtu,
            ring: _,
            taps: _,
        } = self;
        let Devices { internal, external, silent } = devices;
        let pool = pool.join(", ");
        let drain = match drain.is_empty() {
            true => String::new(),
            false => format!("    drain: [{}]\n", drain.join(", ")),
        };
        let lent = ports.as_ref().map(|ports| format!("    ports: {ports}\n")).unwrap_or_default();
        let mtu = |mtu: &Option<u16>| mtu.map(|mtu| format!("    mtu: {mtu}\n"));
        let [inner, outer] = [internal_mtu, external_mtu].map(|of| mtu(of).unwrap_or_default());
        let neighbour = |address, mac: &str| match silent {
            true => format!("    neighbours: [{{ address: {address}, mac: \"{mac}\" }}]\n"),
            false => String::new(),
        };
        let (router, world) = (neighbour(ROUTER, MACS[0]), neighbour(WORLD, MACS[3]));
        let mut text = format!(
            "version: 1\n\
             system:\n  name: {name}\n  workers: {workers}\n  max-mappings: {max_mappings}\n\
             \x20 memory: 512MiB\n  huge-pages: off\n\
             ports:\n\
             \x20 {INTERNAL_PORT}:\n    side: internal\n    device: \"{internal}\"\n\
             \x20   addresses: [{BOX_INTERNAL}/30]\n    next-hop: {ROUTER}\n{router}{inner}\
             \x20 {EXTERNAL_PORT}:\n    side: external\n    device: \"{external}\"\n\
             \x20   addresses: [{BOX_EXTERNAL}/30]\n    next-hop: {WORLD}\n{world}{outer}\
             pools:\n  laboratory:\n    addresses: [{pool}]\n{drain}{lent}    allocation:\n\
             \x20     block-size: {block_size}\n      max-blocks: {max_blocks}\n\
             \x20     hold: {hold}\n\
             subscribers:\n  - name: laboratory\n    match: [{SUBSCRIBER_PREFIX}]\n\
             \x20   pool: laboratory\n"
        );
        if let Some(limits) = limits {
            text.push_str(&format!("    limits: {limits}\n"));
        }
        let default = udp_timeout.iter().map(|timeout| format!("default: {timeout}"));
        let by_port = udp_port_timeouts.iter().map(|(port, time)| format!("\"{port}\": {time}"));
        let udp = default.chain(by_port).collect::<Vec<_>>().join(", ");
        let mut timeouts = Vec::new();
        if !udp.is_empty() {
            timeouts.push(format!("udp: {{ {udp} }}"));
        }
        timeouts.extend(icmp_timeout.iter().map(|timeout| format!("icmp: {timeout}")));
        timeouts.extend(tcp_timeout.iter().map(|t| {
            format!("tcp: {{ established: {t}, opening: {t}, closing: {t}, reset: {t} }}")
        }));
        let mut rules = nat44.clone();
        rules.extend(filtering.iter().map(|filtering| format!("filtering: {filtering}")));
        if !port_overloading.is_empty() {
            rules.push(format!("port-overloading: [{}]", port_overloading.join(", ")));
        }
        rules.extend(other_protocols.iter().map(|carried| format!("other-protocols: {carried}")));
        rules.extend(alg.iter().map(|alg| format!("alg: {alg}")));
        let statics = static_mappings.iter().map(|mapping| format!("- {mapping}")).collect();
        for (section, lines) in [("timeouts", timeouts), ("nat44", rules), ("static", statics)] {
            if !lines.is_empty() {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{section}:\n  {}", lines.join("\n  "));
            }
        }
        if *short_timers {
            text.push_str("lab:\n  allow-short-timers: true\n");
        }
        text
    }
}

/// The path of the program under test.
///
/// # Errors
/// It is not there; the sentence says how to build it.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CGNAT_BIN").map(PathBuf::from) {
        ensure!(path.is_file(), "CGNAT_BIN names {}, which is not a file", path.display());
        return std::path::absolute(&path).context("CGNAT_BIN has no absolute form");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let path = target.join("release/cgnat");
    ensure!(
        path.is_file(),
        "no program {}: build it with `cargo build --release -p cgnat-app`, or set CGNAT_BIN",
        path.display()
    );
    std::path::absolute(&path).context("the program has no absolute path")
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
/// Those of `ask`, of the start and of the stop, and what [`Outcome::nothing_is_amiss`] finds.
pub fn with_appliance<T>(
    lab: &Lab,
    settings: &Settings,
    ask: impl FnOnce(&Appliance) -> Result<T>,
) -> Result<(T, Outcome)> {
    let appliance = Appliance::start(lab, settings)?;
    let answer = ask(&appliance);
    let errors = appliance.errors();
    let outcome = appliance.stop()?;
    let said = || format!("the appliance said:\n{errors}{}", outcome.printed);
    let answer = answer.with_context(said)?;
    outcome.nothing_is_amiss().with_context(said)?;
    Ok((answer, outcome))
}

impl Appliance {
    /// Starts `cgnat run` on the laboratory's veths and waits until packets flow.
    ///
    /// # Errors
    /// The program is missing, refused its configuration or said no `ready` within a minute; with
    /// what it wrote to standard error.
    pub fn start(lab: &Lab, settings: &Settings) -> Result<Appliance> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let program = program()?;
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("lab-{}-{serial}", std::process::id());
        let configuration = directory.path().join("cgnat.yaml");
        let devices = match settings.taps {
            true => Devices::taps(),
            false => Devices::packet_sockets(settings),
        };
        std::fs::write(&configuration, settings.yaml(&name, &devices))
            .context("cannot write the configuration")?;

        let errors =
            File::create(directory.path().join("stderr")).context("cannot make a log file")?;
        let mut command = lab.middle.command(program);
        command.env("RUNTIME_DIRECTORY", directory.path());
        command.arg("run").arg(&configuration);
        command.arg("--stats-file").arg(directory.path().join("stats.json"));
        if let Some(seed) = settings.seed {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_written_with_its_structure() {
        let settings = Settings {
            workers: 4,
            udp_timeout: Some("2s".into()),
            short_timers: true,
            filtering: Some("address-dependent".into()),
            external_mtu: Some(1400),
            ..Settings::default()
        };
        let text = settings.yaml("lab-1-0", &Devices::packet_sockets(&settings));
        for line in [
            "  workers: 4",
            "  internal0:",
            "    device: \"net_af_packet0,iface=cg-int,qpairs=4\"",
            "    addresses: [192.0.2.2/30]",
            "    mtu: 1400",
            "      hold: 2m",
            "  filtering: address-dependent",
            "  udp: { default: 2s }",
            "  allow-short-timers: true",
        ] {
            assert!(text.lines().any(|has| has == line), "no line {line:?} in\n{text}");
        }
    }
}
