//! Subscribers that reach each other by their external endpoints while everything expires.
//!
//! The reflector, outside, answers each question with the endpoint that it came from. A speaker
//! is one UDP socket of a subscriber for the length of one life:
//!
//! 1. learn: from a new source port it asks the reflector, until an answer tells its external
//!    endpoint;
//! 2. talk, a short random while: as fast as possible it sends to the external endpoint of a
//!    partner at another address, and asks the reflector again every [`Pace::ask`];
//! 3. silence, long enough that mapping, port and block may expire, each or all of them.
//!
//! Some speakers send to endpoints whose owners have gone silent, so that packets meet
//! mappings, ports and blocks that are just being given to somebody else.
//!
//! Beside that TCP connections are made from subscriber to subscriber ([`tcp`]).
//!
//! What is right is decided by evidence, not by what a speaker believes ([`judge`]): with the
//! shortest timers an endpoint may rightly belong to somebody else two seconds later, and when
//! the machine is busy a packet may be lost or late.

mod judge;
mod reflector;
mod talk;
mod tcp;
mod wire;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

pub use judge::{Findings, Timers};
pub use reflector::{Reflected, run_reflector};
pub use talk::{Pace, Talked};
pub use tcp::Connected;

use judge::Evidence;
use talk::Crowd;

/// What the storm is to be.
#[derive(Debug, Clone)]
pub struct StormOptions {
    /// The reflector, for UDP and TCP.
    pub reflector: SocketAddrV4,
    /// One UDP socket each; an address may be there many times.
    pub sources: Vec<Ipv4Addr>,
    /// Source addresses of TCP connections.
    pub tcp_sources: Vec<Ipv4Addr>,
    /// Threads of speakers.
    pub threads: usize,
    /// Threads that make TCP connections, one after the other.
    pub tcp_threads: usize,
    /// How long it lasts.
    pub duration: Duration,
    /// Timers of the NAT.
    pub timers: Timers,
    /// Seed of everything random here.
    pub seed: u64,
}

/// What the storm saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StormReport {
    /// Seconds that it took.
    pub seconds: f64,
    /// Of the speakers.
    pub talked: Talked,
    /// Of the TCP connections.
    pub tcp: Connected,
    /// What the evidence says.
    pub findings: Findings,
}

/// Runs the storm to its end.
///
/// # Errors
/// There are not enough addresses, or a socket cannot be had.
pub fn run_storm(options: &StormOptions) -> Result<StormReport> {
    ensure!(options.threads > 0, "a storm needs a thread");
    let begun = Instant::now();
    let until = begun + options.duration;
    let mut report = StormReport::default();
    let mut evidence = Evidence::default();
    std::thread::scope(|scope| -> Result<()> {
        let mut crowds = Vec::new();
        for thread in 0..options.threads {
            let mut crowd = Crowd::new(options, thread, begun)?;
            crowds.push(scope.spawn(move || crowd.run(until).map(|()| crowd.into_parts())));
        }
        let connecting: Vec<_> = (0..options.tcp_threads)
            .map(|thread| scope.spawn(move || tcp::run(options, thread, until)))
            .collect();
        for crowd in crowds {
            let (talked, seen) = crowd.join().ok().context("a thread of speakers panicked")??;
            report.talked += talked;
            evidence.add(seen);
        }
        for thread in connecting {
            report.tcp += thread.join().ok().context("a thread of connections panicked")??;
        }
        Ok(())
    })?;
    report.seconds = begun.elapsed().as_secs_f64();
    report.findings = evidence.judge(options.timers);
    Ok(report)
}

impl StormReport {
    /// Everything that must not be, summed up.
    pub fn wrong(&self) -> u64 {
        self.findings.wrong() + self.tcp.wrong
    }
}

/// Small and repeatable; nothing here needs good random numbers.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = (most - least).as_micros() as u64;
        least + Duration::from_micros(self.below(span + 1))
    }
}

#[cfg(test)]
mod tests;
