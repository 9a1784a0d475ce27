//! Subscribers that reach each other by their external endpoints while everything expires.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cgnat_tests::command_line::{addresses, exit_code, stop_on_signal};
use cgnat_tests::hairpin_storm::{StormOptions, Timers, run_reflector, run_storm};
use clap::{Args, Parser, Subcommand};

/// Sends between subscribers by way of their external endpoints and checks who receives what.
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 all right, 1 something is wrong, 2 usage.")]
struct Arguments {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, Subcommand)]
enum Side {
    /// Answers everybody with the endpoint it sees until SIGTERM or SIGINT, then prints JSON.
    Reflector(ReflectorArguments),
    /// The subscribers; prints what they saw as JSON.
    Storm(StormArguments),
}

#[derive(Debug, Args)]
struct ReflectorArguments {
    /// Endpoint for UDP and TCP; "ready" is printed when it answers.
    address: SocketAddrV4,
}

#[derive(Debug, Args)]
struct StormArguments {
    /// Endpoint of the reflector.
    reflector: SocketAddrV4,
    /// File with a source address per line, a UDP socket for each.
    #[arg(long, value_name = "FILE")]
    sources_file: PathBuf,
    /// File with source addresses of TCP connections; without it there are none.
    #[arg(long, value_name = "FILE")]
    tcp_sources_file: Option<PathBuf>,
    /// Threads that send datagrams.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Threads that make TCP connections.
    #[arg(long, default_value_t = 4)]
    tcp_threads: usize,
    /// How long.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    seconds: u64,
    /// Idle time of the NAT's mappings, UDP and TCP.
    #[arg(long, default_value_t = 1000, value_name = "MILLISECONDS")]
    idle: u64,
    /// Hold-down of the NAT's ports.
    #[arg(long, default_value_t = 1000, value_name = "MILLISECONDS")]
    hold: u64,
    /// How late the NAT's clock may be on a busy machine.
    #[arg(long, default_value_t = 400, value_name = "MILLISECONDS")]
    margin: u64,
    /// Seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().side {
        Side::Reflector(arguments) => reflector(&arguments).map(|()| true),
        Side::Storm(arguments) => storm(&arguments),
    };
    exit_code("hairpin-storm", done)
}

fn reflector(arguments: &ReflectorArguments) -> Result<()> {
    let stop = stop_on_signal()?;
    let address = arguments.address;
    let reflected = run_reflector(address, &stop, || println!("ready {address}"))
        .with_context(|| format!("cannot answer on {address}"))?;
    println!("{}", serde_json::to_string(&reflected)?);
    Ok(())
}

fn storm(arguments: &StormArguments) -> Result<bool> {
    let milliseconds = Duration::from_millis;
    let tcp_sources = arguments.tcp_sources_file.as_deref().map(addresses).transpose()?;
    let report = run_storm(&StormOptions {
        reflector: arguments.reflector,
        sources: addresses(&arguments.sources_file)?,
        tcp_threads: if tcp_sources.is_some() { arguments.tcp_threads } else { 0 },
        tcp_sources: tcp_sources.unwrap_or_default(),
        threads: arguments.threads,
        duration: Duration::from_secs(arguments.seconds),
        timers: Timers {
            idle: milliseconds(arguments.idle),
            hold: milliseconds(arguments.hold),
            margin: milliseconds(arguments.margin),
        },
        seed: arguments.seed,
    })
    .context("the storm cannot run")?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(report.wrong() == 0)
}
