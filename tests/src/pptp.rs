//! PPTP: pptpd as the server, pptp as a client, and calls of our own whose identifiers we choose.
//!
//! No PPP is spoken, so that nothing of it is needed in the kernel: in the place of pppd pptpd
//! starts a program that sends back every frame. Frames are those of asynchronous HDLC
//! (RFC 1662), which both programs take from a terminal and put into GRE.

mod calls;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

pub use calls::{CallOptions, CallReport, run_calls};

use crate::lab::Namespace;
use crate::process::Process;
use crate::traffic::Server;

const FLAG: u8 = 0x7e;
const ESCAPE: u8 = 0x7d;

/// What every frame begins with: address, control, and a protocol that pptpd does not look at.
const PPP: [u8; 4] = [0xff, 0x03, 0xc0, 0x21];

/// A PPTP server on `address`:1723 that sends back what comes through each tunnel.
///
/// # Errors
/// It does not start within 10 s.
pub fn server(namespace: &Namespace, address: Ipv4Addr) -> Result<Server> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let at = |name: &str| directory.path().join(name);
    // pptpd listens to GRE once its pppd has sent something.
    let hello: String = frame(b"hello").iter().map(|byte| format!("\\{byte:03o}")).collect();
    let script = format!("#!/bin/sh\nstty raw -echo\nprintf '{hello}'\nexec cat\n");
    std::fs::write(at("echo"), script).context("cannot write the program for pptpd")?;
    std::fs::set_permissions(at("echo"), std::fs::Permissions::from_mode(0o755))
        .context("cannot make the program for pptpd executable")?;
    std::fs::write(at("options"), "").context("cannot write the options for pptpd")?;
    let settings = format!(
        "ppp {}\noption {}\nnoipparam\ndelegate\n",
        at("echo").display(),
        at("options").display()
    );
    std::fs::write(at("pptpd.conf"), settings).context("cannot write pptpd.conf")?;
    let mut command = namespace.command("pptpd");
    command.args(["--fg", "--listen", &address.to_string()]);
    command.arg("--conf").arg(at("pptpd.conf")).arg("--pidfile").arg(at("pid"));
    Server::start("pptpd", namespace, 1723, directory, command)
}

/// pptp with a tunnel to a server.
#[derive(Debug)]
pub struct Client {
    _process: Process,
    terminal: UnixStream,
    heard: Vec<u8>,
}

impl Client {
    /// Starts it with this internal address; the tunnel is there once something comes back.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(namespace: &Namespace, source: Ipv4Addr, server: Ipv4Addr) -> Result<Client> {
        let (terminal, its) = UnixStream::pair().context("cannot make a pair of sockets")?;
        // Its files are in /run, which is one for all namespaces.
        let alone = "mount -t tmpfs none /run && mkdir /run/pptp && exec pptp \"$@\"";
        let mut command = namespace.command("sh");
        command.args(["-c", alone, "sh", &server.to_string(), "--nolaunchpppd", "--nohostroute"]);
        command.args(["--localbind", &source.to_string()]);
        command.stdin(OwnedFd::from(its));
        let process = Process::start("pptp", command)?;
        let limit = Some(Duration::from_millis(100));
        terminal.set_read_timeout(limit).context("cannot set a time-out")?;
        Ok(Client { _process: process, terminal, heard: Vec::new() })
    }

    /// Waits until the tunnel is there: what the server sends first has come.
    ///
    /// # Errors
    /// It has not come within `limit`, or the client has ended.
    pub fn wait_for_tunnel(&mut self, limit: Duration) -> Result<()> {
        let came = self.hears(&frame(b"hello"), limit)?;
        ensure!(came, "no tunnel within {limit:?}");
        Ok(())
    }

    /// Whether a frame with this text comes back through the tunnel within `limit`. It is sent once.
    ///
    /// # Errors
    /// The client has ended.
    pub fn echoes(&mut self, text: &[u8], limit: Duration) -> Result<bool> {
        let sent = frame(text);
        self.terminal.write_all(&sent).context("pptp has ended")?;
        self.hears(&sent, limit)
    }

    fn hears(&mut self, frame: &[u8], limit: Duration) -> Result<bool> {
        let until = Instant::now() + limit;
        while !self.heard.windows(frame.len()).any(|window| window == frame) {
            let mut buffer = [0; 4096];
            match self.terminal.read(&mut buffer) {
                Ok(0) => bail!("pptp has ended"),
                Ok(count) => self.heard.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot read from pptp"),
            }
            if Instant::now() >= until {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A text as a frame on a terminal: with its check sequence, all control characters escaped.
fn frame(text: &[u8]) -> Vec<u8> {
    let content = [&PPP[..], text].concat();
    let check = check_sequence(&content).to_le_bytes();
    let mut frame = vec![FLAG];
    for byte in content.into_iter().chain(check) {
        if byte < 0x20 || matches!(byte, FLAG | ESCAPE) {
            frame.extend([ESCAPE, byte ^ 0x20]);
        } else {
            frame.push(byte);
        }
    }
    frame.push(FLAG);
    frame
}

/// RFC 1662 appendix C.2.
fn check_sequence(bytes: &[u8]) -> u16 {
    let mut sum = 0xffff_u16;
    for byte in bytes {
        sum ^= u16::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x8408 } else { sum >> 1 };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_rfc_1662() {
        // The check sequence over text and check sequence together is 0xf0b8 (appendix C.2).
        let content = [&PPP[..], b"any text"].concat();
        let check = check_sequence(&content).to_le_bytes();
        assert_eq!(!check_sequence(&[&content[..], &check].concat()), 0xf0b8);
        let escaped = frame(&[FLAG, b'x', 1]);
        assert_eq!(escaped[..8], [FLAG, 0xff, ESCAPE, 0x23, 0xc0, b'!', ESCAPE, 0x5e]);
        assert_eq!(escaped[8..11], [b'x', ESCAPE, 0x21]);
        assert_eq!(escaped.last(), Some(&FLAG));
    }
}
