//! Pings at an even rate, while something happens of which they must not notice.

use std::io::Read as _;
use std::net::Ipv4Addr;
use std::process::{ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::lab::Namespace;
use crate::process::Process;

/// Those that may be under way when they end.
const UNDER_WAY: u64 = 2;

const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Fifty pings per second; ended when dropped.
#[derive(Debug)]
pub struct Pings {
    ping: Process,
    stdout: ChildStdout,
}

/// What became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Sent.
    pub sent: u64,
    /// Answered.
    pub received: u64,
}

impl Answered {
    /// Those without an answer.
    pub fn lost(self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Whether each was answered.
    ///
    /// # Errors
    /// Some were not, or there were none.
    pub fn are_all(self) -> Result<Answered> {
        ensure!(self.received > 0 && self.lost() <= UNDER_WAY, "pings were lost: {self:?}");
        Ok(self)
    }
}

impl Pings {
    /// Begins.
    ///
    /// # Errors
    /// ping cannot be started.
    pub fn start(namespace: &Namespace, from: Ipv4Addr, to: Ipv4Addr) -> Result<Pings> {
        let mut command = namespace.command("ping");
        command.args(["-n", "-q", "-i", "0.02", "-W", "2", "-I"]);
        command.args([from.to_string(), to.to_string()]).stdout(Stdio::piped());
        let mut ping = Process::start("ping", command)?;
        let stdout = ping.take_stdout().context("ping has no standard output")?;
        Ok(Pings { ping, stdout })
    }

    /// Ends them.
    ///
    /// # Errors
    /// ping does not end, or says something else.
    pub fn stop(mut self) -> Result<Answered> {
        self.ping.interrupt(STOP_LIMIT)?;
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).context("cannot read what ping said")?;
        answered(&text).with_context(|| format!("ping said {text}"))
    }
}

/// From "7 packets transmitted, 6 received, 14.28% packet loss, time 6128ms".
fn answered(text: &str) -> Option<Answered> {
    let line = text.lines().find(|line| line.contains(" packets transmitted, "))?;
    let mut parts = line.split(", ");
    let sent = parts.next()?.strip_suffix(" packets transmitted")?.parse().ok()?;
    let received = parts.find_map(|part| part.strip_suffix(" received"))?.parse().ok()?;
    Some(Answered { sent, received })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ping_says_at_its_end_is_read() {
        let text = "PING 198.51.100.10 (198.51.100.10) from 100.64.0.1 : 56(84) bytes of data.\n\n\
                    --- 198.51.100.10 ping statistics ---\n\
                    7 packets transmitted, 4 received, +1 errors, 42.8571% packet loss, time 120ms\n";
        let seen = answered(text).expect("numbers");
        assert_eq!((seen.sent, seen.received, seen.lost()), (7, 4, 3));
        assert!(seen.are_all().is_err());
        assert!(answered("PING").is_none());
        assert!(Answered { sent: 50, received: 48 }.are_all().is_ok());
        assert!(Answered { sent: 1, received: 0 }.are_all().is_err());
    }
}
