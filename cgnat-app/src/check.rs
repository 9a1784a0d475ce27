//! `cgnat check`: is this configuration good, and would it start here?
//!
//! Problems go to stderr, the summary to stdout. Exit codes follow sysexits where it has one:
//! 0 good, 1 this machine lacks something, 77 permission, 78 the configuration is wrong.
//! Nothing is started, allocated or changed.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use cgnat_core::config::{Config, Mode, Pool, Problems, Side, Source};

use crate::preflight::{self, Preflight};

/// Something on this machine is missing.
pub const EXIT_ENVIRONMENT: u8 = 1;
/// A permission is missing.
pub const EXIT_PERMISSION: u8 = 77;
/// The configuration is wrong.
pub const EXIT_CONFIG: u8 = 78;

/// Bytes of a file that are read; the reader of the configuration refuses what is longer.
const MAX_READ: u64 = (1 << 20) + 1;

/// What the tables of a configuration cost: lines for the summary, or why they do not fit.
pub type Capacity<'a> = dyn Fn(&Config) -> Result<Vec<String>, String> + 'a;

/// Why a file gives no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// What the operator reads; no line end.
    pub text: String,
    /// [`EXIT_CONFIG`] or [`EXIT_PERMISSION`].
    pub code: u8,
}

/// `cgnat check FILE` with the process's own stdout, stderr and root directory.
pub fn run(file: &Path, capacity: &Capacity<'_>) -> ExitCode {
    let (out, err) = (&mut io::stdout().lock(), &mut io::stderr().lock());
    match check(file, Path::new("/"), capacity, out, err) {
        Ok(code) => ExitCode::from(code),
        // Whoever read our output has gone.
        Err(_) => ExitCode::from(EXIT_ENVIRONMENT),
    }
}

/// [`run`] with everything it touches as an argument; answers with the exit code.
///
/// # Errors
/// Only those of `out` and `err`.
pub fn check(
    file: &Path,
    root: &Path,
    capacity: &Capacity<'_>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let config = match load(file) {
        Ok(config) => config,
        Err(refusal) => {
            writeln!(err, "{refusal}")?;
            return Ok(refusal.code);
        }
    };
    for warning in config.warnings() {
        writeln!(err, "{warning}")?;
    }
    let cost = match capacity(&config) {
        Ok(lines) => lines,
        Err(message) => {
            writeln!(err, "{}: error: system.memory: {message}\n1 error", file.display())?;
            return Ok(EXIT_CONFIG);
        }
    };
    let here = preflight::preflight(&config, root);
    write!(out, "{}", summary(&config))?;
    for line in cost {
        writeln!(out, "{line}")?;
    }
    for (port, capture) in &here.captures {
        let name = config.ports()[*port].name();
        writeln!(out, "{name}: capture of {} packets", grouped(capture.packets))?;
    }
    out.flush()?;
    write!(err, "{}", render_preflight(&here))?;
    Ok(here.exit_code().unwrap_or(0))
}

/// Reads and validates a file, for `check` and for `run`.
///
/// # Errors
/// The file cannot be read, or its configuration is wrong.
pub fn load(file: &Path) -> Result<Config, Refusal> {
    load_source(file).map(|source| source.config)
}

/// [`load`], with the text.
///
/// # Errors
/// As [`load`].
pub fn load_source(file: &Path) -> Result<Source, Refusal> {
    let name = file.display().to_string();
    let text = read(file).map_err(|error| {
        let (code, advice) = match error.kind() {
            ErrorKind::PermissionDenied => {
                (EXIT_PERMISSION, "permission denied; run as a user who may read it")
            }
            ErrorKind::NotFound => (EXIT_CONFIG, "there is no such file"),
            ErrorKind::IsADirectory => (EXIT_CONFIG, "this is a directory; expected a file"),
            ErrorKind::InvalidData => (EXIT_CONFIG, "this is not text; expected UTF-8"),
            _ => (EXIT_CONFIG, "it cannot be read"),
        };
        Refusal { text: format!("{name}: error: {advice}"), code }
    })?;
    match Config::from_yaml(&name, &text) {
        Ok(config) => Ok(Source { config, text }),
        Err(problems) => Err(Refusal { text: render(&problems), code: EXIT_CONFIG }),
    }
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(MAX_READ).read_to_string(&mut text)?;
    Ok(text)
}

/// All problems of a file and how many of them are errors.
pub fn render(problems: &Problems) -> String {
    format!("{problems}\n{}", count(problems.errors(), "error"))
}

/// One line per finding; with errors, how many.
pub fn render_preflight(here: &Preflight) -> String {
    let mut text = String::new();
    for finding in &here.findings {
        text += &format!("{finding}\n");
    }
    match here.errors() {
        0 => text,
        n => text + &count(n, "error") + "\n",
    }
}

/// What the configuration holds, for the operator.
pub fn summary(config: &Config) -> String {
    let addresses: usize = config.pools().iter().map(|pool| pool.addresses().len()).sum();
    let mut text = format!(
        "configuration ok: {}, {}, {}\n",
        count(config.pools().len(), "pool"),
        grouped(addresses as u64) + if addresses == 1 { " address" } else { " addresses" },
        count(config.groups().len(), "subscriber group"),
    );
    let width = config.pools().iter().map(|pool| pool.name().len()).max().unwrap_or(0);
    for (i, pool) in config.pools().iter().enumerate() {
        let blocks = pool.addresses().len() as u64 * u64::from(pool.blocks_per_address());
        let subscribers = config.possible_subscribers(i);
        let addresses = grouped(pool.addresses().len() as u64);
        text += &format!("{:width$}  {addresses} addresses  ", pool.name());
        text += &match pool.mode() {
            Mode::PortBlock => blocks_of(pool, blocks, subscribers),
            Mode::Deterministic => ranges_of(pool, blocks, subscribers),
        };
        text += "\n";
    }
    text + &beside(config)
}

/// What passes beside the NAT, if anything does.
fn beside(config: &Config) -> String {
    let of = |side| config.ports().iter().filter(move |port| port.side() == side);
    let names = |side| {
        let names = of(side).filter(|port| port.ipv6().is_some()).map(|port| port.name());
        names.collect::<Vec<_>>().join(", ")
    };
    let (inside, outside) = (names(Side::Internal), names(Side::External));
    if inside.is_empty() {
        return String::new();
    }
    let is_inside = |port: usize| config.ports()[port].side() == Side::Internal;
    let routes = config.ipv6_routes().iter().filter(|route| is_inside(route.port()));
    let connected =
        of(Side::Internal).filter_map(|port| port.ipv6()).flat_map(|ipv6| ipv6.addresses());
    let prefixes = connected.map(|net| net.trunc()).chain(routes.map(|route| route.to()));
    let prefixes: Vec<String> = prefixes.map(|prefix| prefix.to_string()).collect();
    format!("IPv6 passes between {inside} and {outside}; inside: {}\n", prefixes.join(", "))
}

fn blocks_of(pool: &Pool, blocks: u64, subscribers: u64) -> String {
    let mut text = format!(
        "{} blocks of {} ports  {} possible subscribers",
        grouped(blocks),
        pool.block_size(),
        grouped(subscribers),
    );
    if subscribers > blocks {
        let share = subscribers.div_ceil(blocks);
        text += &format!(" (1 in {} may be active at once)", grouped(share));
    }
    text
}

fn ranges_of(pool: &Pool, ranges: u64, subscribers: u64) -> String {
    let mut text = format!(
        "{} ranges of {} ports for {} subscribers",
        grouped(ranges),
        pool.block_size(),
        grouped(subscribers),
    );
    if let Some(overflow) = pool.overflow() {
        let count = grouped(u64::from(pool.overflow_blocks_per_address()));
        let size = overflow.block_size();
        text += &format!("; overflow on each address: {count} blocks of {size} ports");
    }
    text
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
