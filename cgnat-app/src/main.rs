//! `cgnat`: the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use cgnat_app::{check, connect_test, lookup, run, show};
use clap::{Parser, Subcommand};

/// A carrier-grade NAT on DPDK.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a configuration: every problem with its place, else what it will take.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
    /// Test a NAT, this one or any other, with very many TCP connections to one address and port.
    ConnectTest(connect_test::Options),
    /// Have a running box withdraw its external addresses from routing and go on with packets, so
    /// that it can be stopped when nobody uses it any more.
    Drain(show::Asked),
    /// Tell from a configuration alone which external ports a subscriber of a deterministic
    /// pool has, or whose an external endpoint is.
    Lookup(lookup::Options),
    /// Run the NAT in the foreground until SIGTERM or SIGINT, or, if every port replays a
    /// capture, until the captures are used up.
    Run(run::Options),
    /// Ask a running box by its control socket.
    Show(show::Options),
    /// Have a box that drains announce its external addresses again.
    Undrain(show::Asked),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check { file } => check::run(&file, &run::plan::capacity),
        Command::ConnectTest(options) => connect_test::run(&options),
        Command::Drain(asked) => show::drain(&asked, true),
        Command::Lookup(options) => lookup::run(&options),
        Command::Run(options) => run::run(&options),
        Command::Show(options) => show::run(&options),
        Command::Undrain(asked) => show::drain(&asked, false),
    }
}
