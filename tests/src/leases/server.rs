//! The server: one socket, an answer to each request.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::message::{self, BYTES};
use crate::told::widen;

/// A port that was given to somebody else before this time is a fault (RFC 6888 REQ-8).
const HOLD: Duration = Duration::from_secs(120);

/// What the server saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseServerReport {
    /// Whole requests, each of which was answered.
    pub requests: u64,
    /// Anything else that arrived.
    pub malformed: u64,
    /// Requests from an endpoint that was another subscriber's less than 120 s before.
    pub shared: u64,
    /// Subscribers.
    pub subscribers: u64,
    /// External addresses.
    pub addresses: u64,
    /// External endpoints.
    pub endpoints: u64,
}

/// Answers on `address` until `stop`; calls `ready` when it does.
///
/// # Errors
/// It cannot listen, receive or answer.
pub fn run_server(
    address: SocketAddrV4,
    stop: &AtomicBool,
    ready: impl FnOnce(),
) -> io::Result<LeaseServerReport> {
    let socket = UdpSocket::bind(address)?;
    widen(&socket)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut report = LeaseServerReport::default();
    let mut owners: HashMap<SocketAddrV4, (Ipv4Addr, Instant)> = HashMap::new();
    let mut subscribers = HashSet::new();
    ready();
    let mut buffer = [0; 2 * BYTES];
    while !stop.load(Ordering::Relaxed) {
        let (count, from) = match socket.recv_from(&mut buffer) {
            Ok((count, SocketAddr::V4(from))) => (count, from),
            Ok(_) => continue,
            Err(error) if is_for_now(&error) => continue,
            Err(error) => return Err(error),
        };
        let Some(renewal) = message::read_request(&buffer[..count]) else {
            report.malformed += 1;
            continue;
        };
        report.requests += 1;
        subscribers.insert(renewal.client);
        let now = Instant::now();
        if let Some((owner, last)) = owners.insert(from, (renewal.client, now)) {
            let shared = owner != renewal.client && now < last + HOLD;
            report.shared += u64::from(shared);
        }
        socket.send_to(&renewal.acknowledgement(from), from)?;
    }
    report.subscribers = subscribers.len() as u64;
    report.endpoints = owners.len() as u64;
    report.addresses = owners.keys().map(|from| from.ip()).collect::<HashSet<_>>().len() as u64;
    Ok(report)
}

/// Nothing to receive, or an error about a packet sent before.
fn is_for_now(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
    )
}
