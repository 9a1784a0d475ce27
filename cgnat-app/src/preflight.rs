//! What a valid configuration still needs from this machine: captures, interfaces, PCI
//! devices, CPUs, huge pages, NUMA nodes, permissions.
//!
//! `check` and `run` both ask here before anything is started. Everything is read below a
//! given root directory, so that tests can build a machine of files; only capture files are
//! opened as they are named. A directory for output is tried by making and removing a file.

mod capture;
mod cards;
mod interfaces;
mod system;

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cgnat_core::config::{Config, Device, Port, Severity};

use crate::check::{EXIT_ENVIRONMENT, EXIT_PERMISSION};
use crate::machine::Machine;
use crate::netlink;
use capture::CaptureProblem;
pub use capture::CaptureSummary;
use interfaces::Interfaces;

const ARGUMENTS_WITH_INTERFACE: [&str; 4] = ["iface", "rx_iface", "rx_iface_in", "tx_iface"];

/// What is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something that is not there or not as needed.
    Environment,
    /// Something that this user may not do.
    Permission,
}

/// One finding: of what, what is wrong, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// An error keeps the program from starting.
    pub severity: Severity,
    /// Decides the exit code.
    pub kind: Kind,
    /// `port internal0`, `system.workers`.
    pub subject: String,
    /// What is wrong, and the command that helps.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{kind}: {}: {}", self.subject, self.message)
    }
}

/// All findings, and what the captures hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Preflight {
    /// In order of the configuration: ports first, then the system.
    pub findings: Vec<Finding>,
    /// Index of the port and its capture, for each port that replays one that is sound.
    pub captures: Vec<(usize, CaptureSummary)>,
}

impl Preflight {
    /// How many findings are errors.
    pub fn errors(&self) -> usize {
        self.findings.iter().filter(|f| f.severity == Severity::Error).count()
    }

    /// The exit code that the errors ask for; `None` without errors.
    pub fn exit_code(&self) -> Option<u8> {
        let errors = || self.findings.iter().filter(|f| f.severity == Severity::Error);
        let only_permission = errors().all(|f| f.kind == Kind::Permission);
        errors().next().map(|_| if only_permission { EXIT_PERMISSION } else { EXIT_ENVIRONMENT })
    }

    fn add(&mut self, severity: Severity, kind: Kind, subject: &str, message: String) {
        self.findings.push(Finding { severity, kind, subject: subject.to_owned(), message });
    }

    fn error(&mut self, subject: &str, message: String) {
        self.add(Severity::Error, Kind::Environment, subject, message);
    }

    fn denied(&mut self, subject: &str, message: String) {
        self.add(Severity::Error, Kind::Permission, subject, message);
    }

    fn warning(&mut self, subject: &str, message: String) {
        self.add(Severity::Warning, Kind::Environment, subject, message);
    }
}

/// Compares the configuration with the machine below `root` (`/` in the program).
pub fn preflight(config: &Config, root: &Path) -> Preflight {
    let is_real = root == Path::new("/");
    let features = |interface: &str| match is_real {
        // What the kernel does not tell is not warned of.
        true => netlink::features(interface).unwrap_or_default(),
        false => Vec::new(),
    };
    preflight_with(config, root, &features)
}

/// Likewise; `features` tells which features of an interface are on, by the names of `ethtool -k`.
pub fn preflight_with(
    config: &Config,
    root: &Path,
    features: &dyn Fn(&str) -> Vec<String>,
) -> Preflight {
    let mut here = Preflight::default();
    let mut interfaces = Interfaces::new(root, features);
    let mut files = Files::default();
    for (i, port) in config.ports().iter().enumerate() {
        for part in port.device().parts() {
            match part {
                // Looked at with the first port on it.
                Device::Pci(_) if config.first_on_device(i) != i => {}
                Device::Pci(address) => cards::pci(&mut here, port, address, root),
                Device::Virtual { driver, arguments, .. } => {
                    for (key, value) in arguments {
                        let is_interface = ARGUMENTS_WITH_INTERFACE.contains(&key.as_str());
                        // A tap device makes its interface itself.
                        if is_interface && driver != "net_tap" {
                            interfaces.look(&mut here, port, value);
                        }
                        match key.as_str() {
                            "rx_pcap" => files.receive(&mut here, i, port, Path::new(value)),
                            "tx_pcap" => files.transmit(port, Path::new(value)),
                            _ => {}
                        }
                    }
                }
                Device::Bond { .. } => unreachable!("no bond is a part of another"),
            }
        }
    }
    files.check_outputs(&mut here);
    system::capabilities(&mut here, config, root);
    let machine = Machine::read(root);
    system::cpus(&mut here, config, &machine);
    system::huge_pages(&mut here, config, &machine, root);
    system::nodes(&mut here, config, &machine);
    here
}

fn subject(port: &Port) -> String {
    format!("port {}", port.name())
}

/// Capture files of all ports; what is read must not be written over.
#[derive(Debug, Default)]
struct Files {
    inputs: Vec<(PathBuf, String)>,
    outputs: Vec<(PathBuf, String)>,
}

impl Files {
    fn receive(&mut self, here: &mut Preflight, index: usize, port: &Port, path: &Path) {
        let subject = subject(port);
        let shown = path.display();
        self.inputs.push((canonical(path), port.name().to_owned()));
        let summary = match capture::scan(path) {
            Ok(summary) => summary,
            Err(CaptureProblem::Damaged(words)) => {
                return here.error(&subject, format!("rx_pcap {shown} {words}"));
            }
            Err(CaptureProblem::Unreadable(words)) => {
                return here.denied(&subject, format!("rx_pcap {shown} {words}"));
            }
        };
        if summary.packets == 0 {
            here.warning(&subject, format!("rx_pcap {shown} holds no packets"));
        }
        if summary.cut > 0 {
            let message = format!(
                "rx_pcap {shown} holds only the beginning of {} of its {} packets; capture \
                 whole packets with tcpdump -s 0",
                summary.cut, summary.packets
            );
            here.warning(&subject, message);
        }
        here.captures.push((index, summary));
    }

    fn transmit(&mut self, port: &Port, path: &Path) {
        self.outputs.push((path.to_owned(), port.name().to_owned()));
    }

    fn check_outputs(&self, here: &mut Preflight) {
        for (i, (path, port)) in self.outputs.iter().enumerate() {
            let subject = format!("port {port}");
            let shown = path.display();
            let same = |other: &Path| other == canonical(path);
            if let Some((_, other)) = self.inputs.iter().find(|(input, _)| same(input)) {
                let message =
                    format!("tx_pcap {shown} is the rx_pcap of port {other}; it would be lost");
                here.error(&subject, message);
                continue;
            }
            let earlier = &self.outputs[..i];
            if let Some((_, other)) = earlier.iter().find(|(output, _)| same(&canonical(output))) {
                let message = format!("tx_pcap {shown} is the tx_pcap of port {other} too");
                here.error(&subject, message);
                continue;
            }
            try_output(here, &subject, path);
        }
    }
}

fn try_output(here: &mut Preflight, subject: &str, path: &Path) {
    let shown = path.display();
    let directory = directory_of(path);
    if !directory.is_dir() {
        let directory = directory.display();
        let message = format!("there is no directory for tx_pcap {shown}; mkdir -p {directory}");
        return here.error(subject, message);
    }
    let tried = if path.exists() {
        fs::OpenOptions::new().append(true).open(path).map(|_| ())
    } else {
        let probe = directory.join(format!(".cgnat-check-{}", std::process::id()));
        let made = fs::OpenOptions::new().write(true).create_new(true).open(&probe);
        made.and_then(|_| fs::remove_file(&probe))
    };
    match tried {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            here.denied(subject, format!("tx_pcap {shown} may not be written by this user"));
        }
        Err(error) => here.error(subject, format!("tx_pcap {shown} cannot be written: {error}")),
    }
}

fn directory_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

/// The path without links and dots, as far as it exists.
fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| {
        let directory = directory_of(path);
        let directory = fs::canonicalize(&directory).unwrap_or(directory);
        directory.join(path.file_name().unwrap_or_default())
    })
}
