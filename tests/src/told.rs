//! What arrives in a namespace though nobody there asked for it: ICMP, TCP and UDP, counted.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// Room for what arrives while a process has to wait for a CPU.
const BUFFER_BYTES: usize = 16 << 20;

/// What has arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// ICMP messages by type and code, as in `3/1`.
    pub icmp: BTreeMap<String, u64>,
    /// The largest of them, bytes with its IP header.
    pub longest_icmp: u64,
    /// TCP segments.
    pub tcp: u64,
    /// UDP datagrams.
    pub udp: u64,
}

/// Counts what arrives until `stop`; calls `ready` when it does.
///
/// # Errors
/// Raw sockets are not permitted.
pub fn run_listener(stop: &AtomicBool, ready: impl FnOnce()) -> io::Result<Told> {
    let icmp = listen(Protocol::ICMPV4)?;
    let [tcp, udp] = [listen(Protocol::TCP)?, listen(Protocol::UDP)?];
    ready();
    let mut told = Told::default();
    loop {
        let last = stop.load(Ordering::Relaxed);
        heard(&icmp, |packet| {
            let header = usize::from(packet[0] & 15) * 4;
            if let [kind, code, ..] = packet[header..] {
                *told.icmp.entry(format!("{kind}/{code}")).or_default() += 1;
            }
            told.longest_icmp = told.longest_icmp.max(packet.len() as u64);
        })?;
        heard(&tcp, |_| told.tcp += 1)?;
        heard(&udp, |_| told.udp += 1)?;
        if last {
            return Ok(told);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn listen(protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    widen(&socket)?;
    Ok(socket)
}

/// Calls `hear` for each packet that has come to a socket.
fn heard(mut socket: &Socket, mut hear: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        match socket.read(&mut buffer) {
            Ok(count) if count >= 20 => hear(&buffer[..count]),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Gives a socket a buffer beyond what the system allows ordinary users.
///
/// # Errors
/// Not permitted.
pub fn widen(socket: &impl AsFd) -> io::Result<()> {
    Ok(set_socket_recv_buffer_size_force(socket, BUFFER_BYTES)?)
}
