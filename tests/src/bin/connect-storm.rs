//! Many TCP connections to one server endpoint, each checked for mix-ups.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cgnat_tests::command_line::{addresses, exit_code, stop_on_signal};
use cgnat_tests::connect_storm::{ClientOptions, run_client, run_server};
use clap::{Args, Parser, Subcommand};

/// Makes very many TCP connections to one server endpoint and checks each for mix-ups.
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 all right, 1 failures or duplicates, 2 usage.")]
struct Arguments {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, Subcommand)]
enum Side {
    /// Answers connections until SIGTERM or SIGINT, then prints what it saw as JSON.
    Server(ServerArguments),
    /// Makes the connections, prints a summary line and the same as JSON.
    Client(ClientArguments),
}

#[derive(Debug, Args)]
struct ServerArguments {
    /// Endpoint to listen on; "ready" is printed when it does.
    address: SocketAddrV4,
}

#[derive(Debug, Args)]
struct ClientArguments {
    /// Endpoint of the server.
    server: SocketAddrV4,
    /// Source address; may be given many times. Sources are used in turn.
    #[arg(long = "source", value_name = "ADDRESS")]
    sources: Vec<Ipv4Addr>,
    /// File with a source address per line.
    #[arg(long, value_name = "FILE")]
    sources_file: Option<PathBuf>,
    /// Connections in all.
    #[arg(long, default_value_t = 1000)]
    connections: u64,
    /// Open at one time.
    #[arg(long, default_value_t = 500)]
    concurrency: usize,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Seconds after which a connection has timed out.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    deadline: u64,
    /// Seconds after which the whole run ends.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    limit: u64,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().side {
        Side::Server(arguments) => server(&arguments),
        Side::Client(arguments) => client(arguments),
    };
    exit_code("connect-storm", done)
}

fn server(arguments: &ServerArguments) -> Result<bool> {
    let stop = stop_on_signal()?;
    let address = arguments.address;
    let report = run_server(address, &stop, || println!("ready {address}"))
        .with_context(|| format!("cannot serve on {address}"))?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(report.duplicates == 0 && report.mixed == 0)
}

fn client(arguments: ClientArguments) -> Result<bool> {
    let mut sources = arguments.sources;
    if let Some(path) = arguments.sources_file {
        sources.extend(addresses(&path)?);
    }
    if sources.is_empty() {
        sources.push(Ipv4Addr::UNSPECIFIED);
    }
    let report = run_client(&ClientOptions {
        server: arguments.server,
        sources,
        connections: arguments.connections,
        concurrency: arguments.concurrency,
        threads: arguments.threads,
        deadline: Duration::from_secs(arguments.deadline),
        limit: Duration::from_secs(arguments.limit),
    })
    .context("the storm cannot run")?;
    println!("{}", report.summary());
    println!("{}", serde_json::to_string(&report)?);
    Ok(report.failed == 0 && report.duplicates == 0)
}
