//! The subscribers: a socket each, asked in turn at an even rate.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};

use super::message::{self, BYTES, Renewal};
use crate::command_line::allow_open_files;

/// Requests sent before answers are looked for.
const BURST: u64 = 32;
/// How long the last answers of all are waited for.
const REST: Duration = Duration::from_secs(2);
/// Of at most so many subscribers the report has the endpoints.
const FEW: usize = 16;

/// What the subscribers are to do.
#[derive(Debug, Clone)]
pub struct LeaseOptions {
    /// The server's endpoint.
    pub server: SocketAddrV4,
    /// The subscribers.
    pub sources: Vec<Ipv4Addr>,
    /// Source port of all of them.
    pub source_port: u16,
    /// Rounds, in each of which everybody asks once.
    pub rounds: u32,
    /// From the beginning of one round to that of the next, at least.
    pub period: Duration,
    /// Requests per second.
    pub rate: u64,
}

/// What the subscribers saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseReport {
    /// Requests sent.
    pub requests: u64,
    /// Right answers, one for a request at most.
    pub answered: u64,
    /// Right answers by round.
    pub by_round: Vec<u64>,
    /// Answers that are not to the last request of who received them, or not whole.
    pub wrong: u64,
    /// Requests that this kernel refused to send.
    pub unsent: u64,
    /// Endpoints that the server saw, by subscriber, if these are few.
    pub endpoints: BTreeMap<Ipv4Addr, BTreeSet<SocketAddrV4>>,
    /// Seconds that it took.
    pub seconds: f64,
}

struct Subscriber {
    address: Ipv4Addr,
    socket: UdpSocket,
    /// The request that is not answered yet.
    asked: Option<Renewal>,
}

struct Clients {
    subscribers: Vec<Subscriber>,
    poll: Poll,
    report: LeaseReport,
}

/// Renews all leases for all rounds.
///
/// # Errors
/// A socket cannot be had, or polling fails.
pub fn run_clients(options: &LeaseOptions) -> io::Result<LeaseReport> {
    allow_open_files(options.sources.len() as u64 + 64)?;
    let poll = Poll::new()?;
    let mut subscribers = Vec::with_capacity(options.sources.len());
    for (number, address) in options.sources.iter().copied().enumerate() {
        let mut socket = UdpSocket::bind(SocketAddrV4::new(address, options.source_port).into())?;
        socket.connect(options.server.into())?;
        poll.registry().register(&mut socket, Token(number), Interest::READABLE)?;
        subscribers.push(Subscriber { address, socket, asked: None });
    }
    let mut clients = Clients { subscribers, poll, report: LeaseReport::default() };
    let mut events = Events::with_capacity(4096);
    let begun = Instant::now();
    for round in 0..options.rounds {
        let due = begun + options.period * round;
        while Instant::now() < due {
            clients.listen(&mut events, due - Instant::now())?;
        }
        clients.round(options, round, &mut events)?;
    }
    let until = Instant::now() + REST;
    while Instant::now() < until {
        clients.listen(&mut events, until - Instant::now())?;
    }
    let mut report = clients.report;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

impl AddAssign for LeaseReport {
    /// What others saw in the same rounds.
    fn add_assign(&mut self, other: LeaseReport) {
        self.requests += other.requests;
        self.answered += other.answered;
        self.by_round.resize(self.by_round.len().max(other.by_round.len()), 0);
        for (own, of_other) in self.by_round.iter_mut().zip(other.by_round) {
            *own += of_other;
        }
        self.wrong += other.wrong;
        self.unsent += other.unsent;
        self.endpoints.extend(other.endpoints);
        self.seconds = self.seconds.max(other.seconds);
    }
}

impl Clients {
    /// Everybody asks once.
    fn round(&mut self, options: &LeaseOptions, round: u32, events: &mut Events) -> io::Result<()> {
        let (begun, count) = (Instant::now(), self.subscribers.len() as u64);
        self.report.by_round.push(0);
        let mut asked = 0;
        while asked < count {
            let due = (begun.elapsed().as_secs_f64() * options.rate as f64) as u64 + 1;
            for _ in 0..due.min(count).saturating_sub(asked).min(BURST) {
                self.ask(asked as usize, round * count as u32 + asked as u32);
                asked += 1;
            }
            self.listen(events, Duration::from_millis(1))?;
        }
        Ok(())
    }

    fn ask(&mut self, number: usize, exchange: u32) {
        let subscriber = &mut self.subscribers[number];
        let renewal = Renewal { exchange, client: subscriber.address };
        subscriber.asked = Some(renewal);
        self.report.requests += 1;
        let request = renewal.request();
        // An error may be about the request before: it is then told here, once.
        let sent = subscriber.socket.send(&request).or_else(|_| subscriber.socket.send(&request));
        self.report.unsent += u64::from(sent.is_err());
    }

    /// Takes what has arrived, or arrives within `most`.
    fn listen(&mut self, events: &mut Events, most: Duration) -> io::Result<()> {
        match self.poll.poll(events, Some(most.min(Duration::from_millis(100)))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let mut buffer = [0; 2 * BYTES];
        for event in &*events {
            loop {
                let number = event.token().0;
                match self.subscribers[number].socket.recv(&mut buffer) {
                    Ok(count) => self.received(number, &buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // An ICMP error about the request.
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }

    fn received(&mut self, number: usize, bytes: &[u8]) {
        let few = self.subscribers.len() <= FEW;
        let subscriber = &mut self.subscribers[number];
        let read = message::read_acknowledgement(bytes);
        let Some((_, seen)) = read.filter(|(renewal, _)| subscriber.asked == Some(*renewal)) else {
            self.report.wrong += 1;
            return;
        };
        subscriber.asked = None;
        self.report.answered += 1;
        if let Some(round) = self.report.by_round.last_mut() {
            *round += 1;
        }
        if few {
            self.report.endpoints.entry(subscriber.address).or_default().insert(seen);
        }
    }
}
