//! Floods: packets of any source at a bounded rate, for attacks and for want of ports.
//!
//! They are sent over a raw socket, so that a source need not be an address of the sender, and
//! nobody answers for it.

mod packets;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

pub use packets::Shape;

use crate::steady::unix_ms;

/// Packets sent before the clock is asked again.
const BURST: u64 = 64;

/// What is to be sent.
#[derive(Debug, Clone)]
pub struct FloodOptions {
    /// What each packet is.
    pub shape: Shape,
    /// Packets per second; as many as can be sent if it is 0.
    pub rate: u64,
    /// How long.
    pub duration: Duration,
}

/// What was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloodReport {
    /// Packets sent.
    pub sent: u64,
    /// Packets that this kernel refused to send.
    pub unsent: u64,
    /// Unix time of the first packet, milliseconds.
    pub begun_ms: u64,
    /// Unix time of the last packet, milliseconds.
    pub ended_ms: u64,
}

impl FloodReport {
    /// Packets per second.
    pub fn rate(&self) -> u64 {
        self.sent * 1000 / (self.ended_ms - self.begun_ms).max(1)
    }
}

/// Sends it all.
///
/// # Errors
/// Raw sockets are not permitted, or sending fails.
pub fn run_flood(options: &FloodOptions) -> io::Result<FloodReport> {
    // Of this protocol the packets have their IP header with them.
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
    let mut report = FloodReport { begun_ms: unix_ms(), ..FloodReport::default() };
    let begun = Instant::now();
    let mut number = 0;
    while begun.elapsed() < options.duration {
        let due = match options.rate {
            0 => number + BURST,
            rate => (begun.elapsed().as_secs_f64() * rate as f64) as u64,
        };
        if due <= number {
            std::thread::sleep(Duration::from_micros(300));
        }
        for _ in 0..due.saturating_sub(number).min(BURST) {
            let (packet, to) = options.shape.packet(number);
            number += 1;
            let sent = socket.send_to(&packet, &SocketAddrV4::new(to, 0).into());
            *if sent.is_ok() { &mut report.sent } else { &mut report.unsent } += 1;
        }
    }
    report.ended_ms = unix_ms();
    Ok(report)
}

/// Addresses that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The first.
    pub first: Ipv4Addr,
    /// How many.
    pub count: u32,
}

impl Addresses {
    fn at(self, number: u64) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first) + (number % u64::from(self.count)) as u32)
    }
}
