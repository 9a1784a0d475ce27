//! `cgnat connect-test` inside the laboratory, on both sides of whatever is in the middle.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::appliance;
use crate::lab::{Lab, SERVERS};
use crate::process::output_within;
use crate::reports::{self, Serving};

/// Port of the server, at the first of [`SERVERS`].
const PORT: u16 = 8080;

/// What the clients saw; see `cgnat connect-test client --json`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct ClientReport {
    pub connections: u64,
    pub completed: u64,
    pub failed: u64,
    pub duplicates: u64,
    pub reused: u64,
    pub endpoints: u64,
    pub slow: u64,
    pub syn_sent_again: u64,
    pub errors: u64,
    pub requests_per_second: f64,
    pub latency_us: Latency,
    pub good: bool,
    pub first_error: Option<String>,
}

/// From SYN to answer.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub max: u64,
    pub p99: u64,
    pub p95: u64,
    pub median: u64,
}

/// What the server saw; see `cgnat connect-test server --json`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct ServerReport {
    pub accepted: u64,
    pub completed: u64,
    pub duplicates: u64,
    pub mixed: u64,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Tested {
    /// The clients' report.
    pub client: ClientReport,
    /// The server's.
    pub server: ServerReport,
    /// The clients' exit code.
    pub code: Option<i32>,
    /// Every summary that the clients printed, the last one included.
    pub summaries: usize,
}

/// Makes connections from all subscribers of `lab`, with further `options` of the client, within
/// `limit`.
///
/// # Errors
/// A side cannot start, does not end in time, or its last line is no report.
pub fn run(lab: &Lab, options: &[&str], limit: Duration) -> Result<Tested> {
    let program = appliance::program()?;
    let program = program.to_str().context("the path of cgnat is not UTF-8")?;
    let server = SocketAddrV4::new(SERVERS[0], PORT).to_string();
    let serve = ["connect-test", "server", &server, "--json"];
    let serving = Serving::start(&lab.server, program, &serve)?;
    let sources = reports::file_of(lab.addresses().iter().copied())?;
    let mut command = lab.subscribers.command(program);
    command.args(["connect-test", "client", &server, "--json", "--sources-file"]);
    command.arg(sources.path()).args(options);
    let output = output_within(command, limit)?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let client = reports::last_line(&printed).with_context(|| {
        format!("cgnat connect-test client: {}", String::from_utf8_lossy(&output.stderr))
    })?;
    // The last FIN may still be on its way.
    std::thread::sleep(Duration::from_millis(500));
    let (code, summaries) = (output.status.code(), printed.lines().count());
    Ok(Tested { client, server: serving.report()?, code, summaries })
}
