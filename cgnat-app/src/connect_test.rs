//! `cgnat connect-test`: very many TCP connections from many sources to one server endpoint, each
//! checked for mix-ups. It works through any NAT: a NAT under which two connections are given one
//! external port, or which loses a SYN for it, is found by its errors and its latency.
//!
//! One connection: the client sends `run id source\n`, where `run` is a number of its own; the
//! server answers `run id source peer\n`, where `peer` is the endpoint it sees; the client
//! compares, ends its side, reads the server's end and closes. Both end by FIN, never by RST.
//!
//! An error is
//!
//! 1. a failure: refused, reset, timed out, or another error of the operating system;
//! 2. a wrong echo: an answer that belongs to another connection;
//! 3. a duplicate: two connections, alive at one time, with one external endpoint.
//!
//! The server counts duplicates and mixed-up lines by itself. A time is from the SYN to the whole
//! answer. SYN segments sent again are counted besides: their connections succeed, but late.

mod client;
mod latency;
mod report;
mod server;
mod sources;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::check::EXIT_ENVIRONMENT;
use client::{ClientOptions, run_client};
use server::run_server;
use sources::Range;

/// More errors than the budget allows.
const EXIT_ERRORS: u8 = 1;

/// Longest line of the protocol, bytes: `x16 u64 a.b.c.d:p a.b.c.d:p\n`.
const LINE_BYTES: usize = 96;

/// Arguments of `cgnat connect-test`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, Clone, Subcommand)]
enum Side {
    /// Answer connections until SIGTERM or SIGINT, then tell what was seen
    #[command(after_help = "Exit codes: 0 good, 1 duplicates, mixed-up lines, or it cannot \
                            serve, 2 wrong usage.")]
    Server(ServerArguments),
    /// Make connections through a NAT; every few seconds a summary, and one of everything
    #[command(after_help = "Exit codes: 0 as good as --max-errors asks, 1 more errors, no \
                            connection at all, or it cannot start, 2 wrong usage.")]
    Client(ClientArguments),
}

#[derive(Debug, Clone, Args)]
struct ServerArguments {
    /// Endpoint to listen on; `ready` is printed when it does
    #[arg(value_name = "ADDRESS:PORT")]
    address: SocketAddrV4,
    /// End after so many seconds
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=MOST_S))]
    seconds: Option<u64>,
    /// Tell what was seen as a JSON object
    #[arg(long)]
    json: bool,
}

/// A month: what is longer was not meant.
const MOST_S: u64 = 31 * 24 * 3600;

#[derive(Debug, Clone, Args)]
struct ClientArguments {
    /// Endpoint of `cgnat connect-test server`
    #[arg(value_name = "ADDRESS:PORT")]
    server: SocketAddrV4,
    /// Source address, range FIRST-LAST or prefix, of this host; may be given many times. They
    /// are used in turn
    #[arg(long = "source", value_name = "SOURCE")]
    sources: Vec<Range>,
    /// File with a source address, range or prefix per line
    #[arg(long, value_name = "FILE")]
    sources_file: Option<PathBuf>,
    /// End after so many connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    connections: Option<u64>,
    /// Begin no connection after so many seconds
    #[arg(long, default_value_t = 60, value_name = "S",
        value_parser = clap::value_parser!(u64).range(1..=MOST_S))]
    seconds: u64,
    /// Connections open at one time
    #[arg(long, default_value_t = 500, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    concurrency: u64,
    /// Threads, each with its share of the open connections
    #[arg(long, default_value_t = 2, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: u64,
    /// A connection without an answer and an end by then has timed out
    #[arg(long, default_value_t = 30, value_name = "S",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Errors that are still good
    #[arg(long, default_value_t = 0, value_name = "N")]
    max_errors: u64,
    /// Seconds between summaries
    #[arg(long, default_value_t = 5, value_name = "S",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Each summary as a JSON object, the last one of everything
    #[arg(long)]
    json: bool,
}

/// `cgnat connect-test` with the process's own stdout and stderr.
pub fn run(options: &Options) -> ExitCode {
    let done = match &options.side {
        Side::Server(arguments) => server(arguments),
        Side::Client(arguments) => client(arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_ERRORS),
        Err(error) => {
            // Whoever read our errors has gone.
            let _ = writeln!(io::stderr(), "connect-test: {error:#}");
            ExitCode::from(EXIT_ENVIRONMENT)
        }
    }
}

/// Becomes true on SIGTERM and SIGINT.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot watch signals")?;
    }
    Ok(stop)
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

fn server(arguments: &ServerArguments) -> Result<bool> {
    let (stop, address) = (stop_on_signal()?, arguments.address);
    let limit = arguments.seconds.map(Duration::from_secs);
    let report = run_server(address, limit, &stop, || say(&format!("ready {address}")))
        .with_context(|| {
            format!("cannot serve on {address} (this host must have the address, its port free)")
        })?;
    say(&if arguments.json { report.json().to_string() } else { report.summary() })?;
    Ok(report.is_good())
}

fn client(arguments: &ClientArguments) -> Result<bool> {
    let mut sources = sources::addresses(&arguments.sources, arguments.sources_file.as_deref())?;
    sources::check(&sources)?;
    if sources.is_empty() {
        sources.push(Ipv4Addr::UNSPECIFIED);
    }
    ensure!(
        arguments.concurrency >= arguments.threads,
        "--concurrency {} is less than one connection for each of --threads {}",
        arguments.concurrency,
        arguments.threads
    );
    let stop = stop_on_signal()?;
    let options = ClientOptions {
        server: arguments.server,
        sources,
        connections: arguments.connections.unwrap_or(u64::MAX),
        concurrency: usize::try_from(arguments.concurrency)?,
        threads: usize::try_from(arguments.threads)?,
        timeout: Duration::from_secs(arguments.timeout),
        limit: Duration::from_secs(arguments.seconds),
        interval: Duration::from_secs(arguments.interval),
    };
    let report = run_client(&options, &stop, |summary| {
        say(&if arguments.json { summary.json().to_string() } else { summary.line() })
    })
    .context("the test cannot run")?;
    let good = report.completed > 0 && report.errors() <= arguments.max_errors;
    if arguments.json {
        let mut object = report.json();
        object["max_errors"] = Value::from(arguments.max_errors);
        object["good"] = Value::from(good);
        say(&object.to_string())?;
    } else {
        let allowed = arguments.max_errors;
        let verdict = match (good, report.completed) {
            (true, _) => format!("good: {} errors, {allowed} allowed", report.errors()),
            (false, 0) => "not good: no connection was answered".to_owned(),
            (false, _) => format!("not good: {} errors, {allowed} allowed", report.errors()),
        };
        say(&format!("{}\n{verdict}", report.summary()))?;
    }
    Ok(good)
}

/// Raises the number of open files towards `wanted`, as far as is permitted; what it is then.
fn allow_open_files(wanted: u64) -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if current.is_none_or(|current| current >= wanted) {
        return Ok(current.unwrap_or(u64::MAX));
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?;
    Ok(wanted)
}

/// Both ends say this when connections need more.
fn more_files(permitted: u64) -> io::Error {
    io::Error::other(format!(
        "{permitted} open files are permitted, which is too few for so many connections at one \
         time: raise the limit (`ulimit -n`) or lower the client's --concurrency"
    ))
}

/// Reads from a non-blocking stream until it has no more; `true` at its end.
fn read_available(stream: &mut impl io::Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => into.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
