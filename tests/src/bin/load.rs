//! Load for the laboratory: leases that are renewed, steady flows, floods, calls.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cgnat_tests::command_line::{exit_code, stop_on_signal};
use cgnat_tests::flood::{Addresses, FloodOptions, Shape, run_flood};
use cgnat_tests::lab::subscriber;
use cgnat_tests::leases::{self, LeaseOptions};
use cgnat_tests::pptp::{CallOptions, run_calls};
use cgnat_tests::steady::{SteadyOptions, run_echo, run_steady};
use cgnat_tests::told::run_listener;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;

/// Loads a NAT, or answers that load. Each part prints what it saw as a line of JSON at its end.
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 done, 1 it could not be done, 2 usage.")]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Acknowledges leases until SIGTERM or SIGINT; "ready" is printed when it does.
    LeaseServer(Endpoint),
    /// Counts the ICMP, TCP and UDP that arrives until SIGTERM or SIGINT; "ready" is printed.
    Listen,
    /// Renews leases.
    Leases(LeaseArguments),
    /// Sends UDP datagrams back until SIGTERM or SIGINT; "ready" is printed when it does.
    Echo(Endpoint),
    /// Flows to an echo at an even rate.
    Steady(SteadyArguments),
    /// Flows of subscribers, as many as they may be.
    Flows(FlowArguments),
    /// SYNs and datagrams to any port of some addresses.
    Scan(ScanArguments),
    /// Fragments of which no datagram can be made.
    Fragments(FragmentArguments),
    /// PPTP calls with equal identifiers to one server, which sends back what it gets.
    Calls(CallArguments),
}

#[derive(Debug, Args)]
struct Endpoint {
    /// Endpoint to listen on.
    address: SocketAddrV4,
}

/// Subscribers of the laboratory.
#[derive(Debug, Args)]
struct Subscribers {
    /// Number of the first subscriber.
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// Subscribers.
    #[arg(long)]
    count: u32,
}

impl Subscribers {
    fn addresses(&self) -> Vec<Ipv4Addr> {
        (self.first..self.first + self.count).map(subscriber).collect()
    }
}

#[derive(Debug, Args)]
struct LeaseArguments {
    /// Endpoint of the server.
    server: SocketAddrV4,
    #[command(flatten)]
    subscribers: Subscribers,
    /// Source port of all.
    #[arg(long, default_value_t = 67)]
    source_port: u16,
    /// How often each renews.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Seconds from one round to the next, at least.
    #[arg(long, default_value_t = 30)]
    period: u64,
    /// Requests per second.
    #[arg(long, default_value_t = 5000)]
    rate: u64,
}

#[derive(Debug, Args)]
struct SteadyArguments {
    /// Endpoint of the echo.
    echo: SocketAddrV4,
    #[command(flatten)]
    subscribers: Subscribers,
    /// Source port of all.
    #[arg(long, default_value_t = 20_000)]
    source_port: u16,
    /// Between two datagrams of a flow.
    #[arg(long, default_value_t = 50, value_name = "MILLISECONDS")]
    interval: u64,
    /// How long.
    #[arg(long, value_name = "SECONDS")]
    seconds: u64,
    /// Of a datagram.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
}

/// How much.
#[derive(Debug, Args)]
struct Much {
    /// Packets per second; 0 is as many as can be sent.
    #[arg(long)]
    rate: u64,
    /// How long.
    #[arg(long)]
    seconds: u64,
}

#[derive(Debug, Args)]
struct FlowArguments {
    /// Where they go.
    to: Ipv4Addr,
    #[command(flatten)]
    subscribers: Subscribers,
    #[command(flatten)]
    much: Much,
    /// Flows of each subscriber, a third of each protocol.
    #[arg(long)]
    flows: u32,
    /// Time to live.
    #[arg(long, default_value_t = 64)]
    ttl: u8,
}

#[derive(Debug, Args)]
struct ScanArguments {
    /// The first address.
    to: Ipv4Addr,
    /// How many.
    #[arg(long, default_value_t = 1)]
    targets: u32,
    /// The only port, if there is one.
    #[arg(long)]
    port: Option<u16>,
    /// Sources, from 198.18.0.0 on.
    #[arg(long, default_value_t = 65_536)]
    sources: u32,
    #[command(flatten)]
    much: Much,
}

#[derive(Debug, Args)]
struct FragmentArguments {
    /// Where they go.
    to: Ipv4Addr,
    #[command(flatten)]
    subscribers: Subscribers,
    #[command(flatten)]
    much: Much,
}

#[derive(Debug, Args)]
struct CallArguments {
    /// The server.
    server: Ipv4Addr,
    #[command(flatten)]
    subscribers: Subscribers,
    /// Call identifier of all.
    #[arg(long, default_value_t = 7)]
    id: u16,
    /// Packets through each tunnel.
    #[arg(long, default_value_t = 10)]
    packets: u32,
    /// Of a packet's payload.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
}

fn main() -> ExitCode {
    exit_code("load", run(Arguments::parse().part).map(|()| true))
}

fn run(part: Part) -> Result<()> {
    match part {
        Part::LeaseServer(Endpoint { address }) => {
            let stop = stop_on_signal()?;
            let report = leases::run_server(address, &stop, || println!("ready {address}"));
            print(&report.with_context(|| format!("cannot serve on {address}"))?)
        }
        Part::Listen => {
            let stop = stop_on_signal()?;
            let told = run_listener(&stop, || println!("ready"));
            print(&told.context("cannot listen")?)
        }
        Part::Leases(of) => {
            let LeaseArguments { server, subscribers, source_port, rounds, period, rate } = of;
            let (sources, period) = (subscribers.addresses(), Duration::from_secs(period));
            let options = LeaseOptions { server, sources, source_port, rounds, period, rate };
            print(&leases::run_clients(&options).context("cannot renew leases")?)
        }
        Part::Echo(Endpoint { address }) => {
            let stop = stop_on_signal()?;
            let echoed = run_echo(address, &stop, || println!("ready {address}"));
            print(&echoed.with_context(|| format!("cannot echo on {address}"))?)
        }
        Part::Steady(of) => {
            let SteadyArguments { echo, subscribers, source_port, interval, seconds, bytes } = of;
            let (sources, interval) = (subscribers.addresses(), Duration::from_millis(interval));
            let duration = Duration::from_secs(seconds);
            let options = SteadyOptions { echo, sources, source_port, interval, duration, bytes };
            print(&run_steady(&options).context("cannot run flows")?)
        }
        Part::Flows(FlowArguments { to, subscribers, much, flows, ttl }) => {
            let Subscribers { first, count: subscribers } = subscribers;
            flood(Shape::Flows { first, subscribers, flows, to, ttl }, &much)
        }
        Part::Scan(ScanArguments { to, targets, port, sources, much }) => {
            let from = Addresses { first: Ipv4Addr::new(198, 18, 0, 0), count: sources };
            flood(Shape::Scan { from, to: Addresses { first: to, count: targets }, port }, &much)
        }
        Part::Calls(CallArguments { server, subscribers, id, packets, bytes }) => {
            let sources = subscribers.addresses();
            let options = CallOptions { server, sources, id, packets, bytes };
            print(&run_calls(&options).context("cannot call")?)
        }
        Part::Fragments(FragmentArguments { to, subscribers, much }) => {
            let Subscribers { first, count: subscribers } = subscribers;
            flood(Shape::Fragments { first, subscribers, to }, &much)
        }
    }
}

fn flood(shape: Shape, much: &Much) -> Result<()> {
    let options =
        FloodOptions { shape, rate: much.rate, duration: Duration::from_secs(much.seconds) };
    print(&run_flood(&options).context("cannot flood")?)
}

fn print(report: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
