//! Flows that exist and go on at an even rate: what becomes of them while something else happens.
//!
//! Each is a UDP socket of a subscriber that sends a numbered datagram at even intervals; the
//! echo, outside, sends it back. The report is in slices of time, so that what happened before,
//! during and after can be told apart.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::told::widen;

/// Milliseconds of a slice.
pub const SLICE_MS: u64 = 100;
/// How long the last echoes are waited for.
const REST: Duration = Duration::from_secs(1);

/// What the flows are to do.
#[derive(Debug, Clone)]
pub struct SteadyOptions {
    /// The echo's endpoint.
    pub echo: SocketAddrV4,
    /// A flow of each.
    pub sources: Vec<Ipv4Addr>,
    /// Source port of all of them.
    pub source_port: u16,
    /// Between two datagrams of one flow.
    pub interval: Duration,
    /// How long.
    pub duration: Duration,
    /// Bytes of a datagram, at least 12.
    pub bytes: usize,
}

/// Datagrams that were sent within one slice of time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Sent.
    pub sent: u64,
    /// Microseconds until the echo, of each that came back.
    pub echoed: Vec<u32>,
}

/// What became of the flows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteadyReport {
    /// Unix time of the first slice, milliseconds.
    pub begun_ms: u64,
    /// One after the other.
    pub slices: Vec<Slice>,
    /// Echoes that were not of the flow that they came to, or came twice.
    pub wrong: u64,
    /// Sendings and receivings that the kernel refused.
    pub refused: u64,
}

/// Datagrams over some time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Share {
    /// Sent.
    pub sent: u64,
    /// Came back.
    pub echoed: u64,
    /// The time within which half of the echoes came, microseconds.
    pub median_us: u32,
    /// The time within which 99 % of them came.
    pub p99_us: u32,
}

impl Share {
    /// Of those sent, what did not come back, 0 to 1.
    pub fn lost(&self) -> f64 {
        1.0 - self.echoed as f64 / self.sent.max(1) as f64
    }
}

impl SteadyReport {
    /// What was sent inside of `[from, to)`, Unix time in milliseconds, and what was outside.
    pub fn split(&self, from: u64, to: u64) -> (Share, Share) {
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for (number, slice) in self.slices.iter().enumerate() {
            let begun = self.begun_ms + number as u64 * SLICE_MS;
            let within = begun >= from && begun + SLICE_MS <= to;
            if within { &mut inside } else { &mut outside }.push(slice);
        }
        (share(&inside), share(&outside))
    }
}

fn share(slices: &[&Slice]) -> Share {
    let mut times: Vec<u32> = slices.iter().flat_map(|slice| &slice.echoed).copied().collect();
    times.sort_unstable();
    let at = |percent: usize| {
        let place = times.len().saturating_sub(1) * percent / 100;
        times.get(place).copied().unwrap_or_default()
    };
    Share {
        sent: slices.iter().map(|slice| slice.sent).sum(),
        echoed: times.len() as u64,
        median_us: at(50),
        p99_us: at(99),
    }
}

struct Flow {
    socket: UdpSocket,
    next: Instant,
    sequence: u32,
}

/// Unix time, milliseconds.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// Runs the flows to their end.
///
/// # Errors
/// A socket cannot be had.
pub fn run_steady(options: &SteadyOptions) -> io::Result<SteadyReport> {
    let begun = Instant::now();
    let mut report = SteadyReport { begun_ms: unix_ms(), ..SteadyReport::default() };
    let mut flows = Vec::with_capacity(options.sources.len());
    for (number, address) in options.sources.iter().enumerate() {
        let socket = UdpSocket::bind(SocketAddrV4::new(*address, options.source_port))?;
        socket.connect(options.echo)?;
        socket.set_nonblocking(true)?;
        // Not all at once.
        let first = options.interval * number as u32 / options.sources.len() as u32;
        flows.push(Flow { socket, next: begun + first, sequence: 0 });
    }
    let until = begun + options.duration;
    // By number of the datagram over all flows: when it was sent, unless its echo has come.
    let mut sent: Vec<Option<Duration>> = Vec::new();
    let mut buffer = vec![0; options.bytes.max(12)];
    loop {
        let now = Instant::now();
        if now >= until + REST {
            return Ok(report);
        }
        for (number, flow) in flows.iter_mut().enumerate() {
            if now >= flow.next && now < until {
                flow.next += options.interval;
                let since = begun.elapsed();
                buffer[..4].copy_from_slice(&(number as u32).to_be_bytes());
                buffer[4..8].copy_from_slice(&flow.sequence.to_be_bytes());
                buffer[8..12].copy_from_slice(&(sent.len() as u32).to_be_bytes());
                flow.sequence += 1;
                slice(&mut report.slices, since).sent += 1;
                sent.push(Some(since));
                report.refused += u64::from(flow.socket.send(&buffer).is_err());
            }
            receive(number, flow, &mut sent, begun, &mut report);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn slice(slices: &mut Vec<Slice>, since: Duration) -> &mut Slice {
    let number = (since.as_millis() as u64 / SLICE_MS) as usize;
    if slices.len() <= number {
        slices.resize(number + 1, Slice::default());
    }
    &mut slices[number]
}

fn receive(
    number: usize,
    flow: &Flow,
    sent: &mut [Option<Duration>],
    begun: Instant,
    report: &mut SteadyReport,
) {
    let mut buffer = [0; 12];
    loop {
        match flow.socket.recv(&mut buffer) {
            Ok(_) => {
                let word = |at: usize| {
                    u32::from_be_bytes([0, 1, 2, 3].map(|byte| buffer[at + byte])) as usize
                };
                let known = sent.get_mut(word(8)).and_then(Option::take);
                match known.filter(|_| word(0) == number) {
                    Some(since) => {
                        let took = begun.elapsed().saturating_sub(since).as_micros() as u32;
                        slice(&mut report.slices, since).echoed.push(took);
                    }
                    None => report.wrong += 1,
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => report.refused += 1,
        }
    }
}

/// Sends every datagram back until `stop`; how many.
///
/// # Errors
/// It cannot listen.
pub fn run_echo(address: SocketAddrV4, stop: &AtomicBool, ready: impl FnOnce()) -> io::Result<u64> {
    let socket = UdpSocket::bind(address)?;
    widen(&socket)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    ready();
    let mut echoed = 0;
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        // Nothing for a while, or an error about an earlier echo.
        let Ok((count, from)) = socket.recv_from(&mut buffer) else { continue };
        echoed += u64::from(socket.send_to(&buffer[..count], from).is_ok());
    }
    Ok(echoed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_told_apart_by_their_time() {
        let slice = |sent, echoed: &[u32]| Slice { sent, echoed: echoed.to_vec() };
        let slices = vec![slice(2, &[10, 20]), slice(4, &[30]), slice(2, &[40, 50])];
        let report = SteadyReport { begun_ms: 1000, slices, wrong: 0, refused: 0 };
        let (inside, outside) = report.split(1100, 1200);
        assert_eq!((inside.sent, inside.echoed, inside.p99_us), (4, 1, 30));
        assert_eq!((outside.sent, outside.echoed, outside.median_us), (4, 4, 20));
        assert!((inside.lost() - 0.75).abs() < 1e-9 && outside.lost().abs() < 1e-9);
        // A slice that is partly outside is outside.
        assert_eq!(report.split(1101, 1300).0.sent, 2);
    }
}
