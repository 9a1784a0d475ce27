//! Processes of this laboratory that report: a line of JSON is the last that they print.
//!
//! Half of them serve: they print `ready` when they do, and report when they are asked to end.

use std::ffi::OsStr;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use crate::lab::Namespace;
use crate::process::{Process, output_within, read_log, wait_until};

const LIMIT: Duration = Duration::from_secs(10);

/// A serving process; killed when dropped.
#[derive(Debug)]
pub struct Serving {
    process: Process,
    log: NamedTempFile,
}

impl Serving {
    /// Starts `program` in `namespace` and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be started, or is not ready within 10 s.
    pub fn start(
        namespace: &Namespace,
        program: &str,
        arguments: &[impl AsRef<OsStr>],
    ) -> Result<Serving> {
        let log = NamedTempFile::new().context("cannot make a log file")?;
        let mut command = namespace.command(program);
        command.args(arguments).stdout(log.reopen()?).stderr(Stdio::inherit());
        let process = Process::start(program, command)?;
        wait_until(program, LIMIT, || Ok(read_log(log.path()).contains("ready")))?;
        Ok(Serving { process, log })
    }

    /// Ends it; what it reports.
    ///
    /// # Errors
    /// It had to be killed, or its last line is no such report.
    pub fn report<T: DeserializeOwned>(mut self) -> Result<T> {
        self.process.terminate(LIMIT)?;
        last_line(&read_log(self.log.path()))
    }
}

/// Runs `program` in `namespace` to its end, at most `limit`, whatever its exit code; its report.
///
/// # Errors
/// It does not end in time, or its last line is no such report; with what it complained of.
pub fn report_of<T: DeserializeOwned>(
    namespace: &Namespace,
    program: &str,
    arguments: &[impl AsRef<OsStr>],
    limit: Duration,
) -> Result<T> {
    let mut command = namespace.command(program);
    command.args(arguments);
    let output = output_within(command, limit)?;
    last_line(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("{program}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The report that is the last line of what was printed.
///
/// # Errors
/// It is none, or nothing was printed.
pub fn last_line<T: DeserializeOwned>(printed: &str) -> Result<T> {
    let line = printed.lines().last().context("it printed nothing")?;
    serde_json::from_str(line).with_context(|| format!("not a report: {line}"))
}

/// A file with an address per line.
///
/// # Errors
/// It cannot be written.
pub fn file_of(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Result<NamedTempFile> {
    let mut file = NamedTempFile::new().context("cannot make a temporary file")?;
    for address in addresses {
        writeln!(file, "{address}").context("cannot write addresses")?;
    }
    Ok(file)
}
