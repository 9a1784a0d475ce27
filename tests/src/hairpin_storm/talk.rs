//! The speakers of one thread.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::judge::{Confirmed, Doubt, Evidence, Stray};
use super::wire::{self, BYTES, Message, Speaker, Talk};
use super::{Random, StormOptions};

/// Source ports of one thread; a port is used again only after all others.
const PORTS_PER_THREAD: u16 = 12_000;
const FIRST_PORT: u16 = 10_000;
/// Threads that have source ports of their own.
const MOST_THREADS: usize = 3;
/// Datagrams that a speaker sends before the next one's turn.
const BURST: u32 = 8;
/// Datagrams that a speaker takes before the next one's turn.
const TAKEN: u32 = 64;
/// Endpoints of the silent that are remembered: for some seconds, until others have them.
const OLD: usize = 256;
/// One speaker in so many sends to old endpoints.
const STALE_ONE_IN: u64 = 8;

/// How fast speakers live.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between questions to the reflector.
    pub ask: Duration,
    /// An endpoint that was not confirmed for so long is not used.
    pub trust: Duration,
    /// A speaker without an answer for so long ends its life.
    pub give_up: Duration,
    /// Least and most time of talk.
    pub talk: (Duration, Duration),
    /// Least and most time of silence.
    pub silence: (Duration, Duration),
}

impl Default for Pace {
    fn default() -> Pace {
        let ms = Duration::from_millis;
        Pace {
            ask: ms(150),
            trust: ms(600),
            give_up: ms(1500),
            talk: (ms(300), ms(1500)),
            silence: (ms(1000), ms(5500)),
        }
    }
}

/// What the speakers did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Talked {
    /// Lives begun, each with a new source port.
    pub lives: u64,
    /// Lives that never got an answer from the reflector.
    pub unanswered: u64,
    /// Questions to the reflector.
    pub asked: u64,
    /// Datagrams sent to external endpoints of partners.
    pub sent: u64,
    /// Of them, sent to endpoints whose owners had gone silent.
    pub sent_to_old: u64,
    /// Received as expected: by whom they were for, with the expected source.
    pub right: u64,
    /// Received otherwise; see the findings.
    pub doubtful: u64,
    /// Wrong at once: not of this storm, or an answer that is not from the reflector.
    pub foreign: u64,
    /// Sendings that the kernel refused.
    pub refused: u64,
}

impl AddAssign for Talked {
    fn add_assign(&mut self, other: Talked) {
        self.lives += other.lives;
        self.unanswered += other.unanswered;
        self.asked += other.asked;
        self.sent += other.sent;
        self.sent_to_old += other.sent_to_old;
        self.right += other.right;
        self.doubtful += other.doubtful;
        self.foreign += other.foreign;
        self.refused += other.refused;
    }
}

/// An external endpoint and whose it is.
#[derive(Debug, Clone, Copy)]
struct Known {
    who: Speaker,
    endpoint: SocketAddrV4,
}

#[derive(Debug, Clone, Copy)]
enum Doing {
    /// Until the first answer.
    Learning {
        since: Instant,
    },
    Talking {
        until: Instant,
        /// Place of the partner among the members and the life in which it was chosen.
        partner: Option<(usize, u32)>,
        stale: bool,
    },
    Silent {
        until: Instant,
    },
}

struct Member {
    address: Ipv4Addr,
    who: Speaker,
    socket: Option<UdpSocket>,
    doing: Doing,
    next_ask: Instant,
    /// What the answer to the latest question said, and when that question was sent.
    confirmed: Option<(SocketAddrV4, Instant)>,
    sequence: u32,
}

/// The speakers of one thread.
pub(super) struct Crowd {
    members: Vec<Member>,
    reflector: SocketAddrV4,
    pace: Pace,
    begun: Instant,
    ports: std::ops::Range<u16>,
    next_port: u16,
    old: VecDeque<Known>,
    random: Random,
    talked: Talked,
    evidence: Evidence,
}

impl Crowd {
    /// Speakers for every so-manyth source; `begun` is the origin of all times.
    pub(super) fn new(options: &StormOptions, thread: usize, begun: Instant) -> Result<Crowd> {
        ensure!(thread < MOST_THREADS, "at most {MOST_THREADS} threads have source ports");
        let mut random = Random(options.seed ^ ((thread as u64) << 32));
        let pace = Pace::default();
        let sources = options.sources.iter().copied().enumerate().skip(thread);
        let members: Vec<Member> = sources
            .step_by(options.threads)
            .map(|(number, address)| Member {
                address,
                who: Speaker { socket: number as u32, life: 0 },
                socket: None,
                doing: Doing::Silent {
                    until: begun + random.between(Duration::ZERO, pace.silence.1),
                },
                next_ask: begun,
                confirmed: None,
                sequence: 0,
            })
            .collect();
        ensure!(members.len() > 1, "a thread needs two sources or more");
        let first = FIRST_PORT + thread as u16 * PORTS_PER_THREAD;
        Ok(Crowd {
            members,
            reflector: options.reflector,
            pace,
            begun,
            ports: first..first + PORTS_PER_THREAD,
            next_port: first,
            old: VecDeque::new(),
            random,
            talked: Talked::default(),
            evidence: Evidence::default(),
        })
    }

    pub(super) fn into_parts(self) -> (Talked, Evidence) {
        (self.talked, self.evidence)
    }

    /// Speaks until `until`.
    pub(super) fn run(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            let mut worked = false;
            for place in 0..self.members.len() {
                worked |= self.step(place, Instant::now())?;
                worked |= self.take(place)?;
            }
            if !worked {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        // What is under way still arrives.
        let rest = Instant::now() + Duration::from_millis(300);
        while Instant::now() < rest {
            for place in 0..self.members.len() {
                self.take(place)?;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// One turn of a speaker: says whether it sent anything.
    fn step(&mut self, place: usize, now: Instant) -> Result<bool> {
        let member = &self.members[place];
        match member.doing {
            Doing::Silent { until } if now < until => Ok(false),
            Doing::Silent { .. } => self.begin_life(place, now).map(|()| true),
            Doing::Learning { since } => {
                if let Some((_, asked)) = member.confirmed {
                    let until = asked + self.random.between(self.pace.talk.0, self.pace.talk.1);
                    let stale = self.random.below(STALE_ONE_IN) == 0;
                    let talking = Doing::Talking { until, partner: None, stale };
                    self.members[place].doing = talking;
                } else if now > since + self.pace.give_up {
                    self.talked.unanswered += 1;
                    self.fall_silent(place, now);
                }
                self.ask_in_time(place, now)
            }
            Doing::Talking { until, partner, stale } => {
                let confirmed = member.confirmed.map(|(_, asked)| asked);
                if now >= until || confirmed.is_none_or(|at| now > at + self.pace.give_up) {
                    self.fall_silent(place, now);
                    return Ok(false);
                }
                let asked = self.ask_in_time(place, now)?;
                // Without fresh confirmation it only asks.
                let Some(own) = self.trusted(place, now) else { return Ok(asked) };
                let to = if stale {
                    self.old_endpoint()
                } else {
                    self.partner(place, partner, (until, stale), now)
                };
                match to {
                    Some(to) => self.send_burst(place, own, to, stale).map(|()| true),
                    None => Ok(asked),
                }
            }
        }
    }

    /// The endpoint of a member, if it was confirmed lately.
    fn trusted(&self, place: usize, now: Instant) -> Option<SocketAddrV4> {
        let (endpoint, asked) = self.members[place].confirmed?;
        let talks = matches!(self.members[place].doing, Doing::Talking { .. });
        (talks && now < asked + self.pace.trust).then_some(endpoint)
    }

    /// The endpoint of the partner, who is chosen anew when it is not to be trusted any more.
    fn partner(
        &mut self,
        place: usize,
        partner: Option<(usize, u32)>,
        (until, stale): (Instant, bool),
        now: Instant,
    ) -> Option<Known> {
        if let Some((other, life)) = partner
            && self.members[other].who.life == life
            && let Some(endpoint) = self.trusted(other, now)
        {
            return Some(Known { who: self.members[other].who, endpoint });
        }
        let mut found = None;
        for _ in 0..8 {
            let other = self.random.below(self.members.len() as u64) as usize;
            if self.members[other].address != self.members[place].address
                && let Some(endpoint) = self.trusted(other, now)
            {
                found = Some((other, Known { who: self.members[other].who, endpoint }));
                break;
            }
        }
        let partner = found.map(|(other, known)| (other, known.who.life));
        self.members[place].doing = Doing::Talking { until, partner, stale };
        found.map(|(_, known)| known)
    }

    fn old_endpoint(&mut self) -> Option<Known> {
        let count = self.old.len() as u64;
        (count > 0).then(|| self.old[self.random.below(count) as usize])
    }

    fn begin_life(&mut self, place: usize, now: Instant) -> Result<()> {
        // The old socket goes only now: it has received what was under way to it.
        self.members[place].socket = None;
        let socket = self.new_socket(self.members[place].address)?;
        let member = &mut self.members[place];
        member.socket = Some(socket);
        member.who.life += 1;
        member.confirmed = None;
        member.doing = Doing::Learning { since: now };
        member.next_ask = now;
        self.talked.lives += 1;
        self.ask_in_time(place, now).map(drop)
    }

    fn fall_silent(&mut self, place: usize, now: Instant) {
        let until = now + self.random.between(self.pace.silence.0, self.pace.silence.1);
        let member = &mut self.members[place];
        member.doing = Doing::Silent { until };
        if let Some((endpoint, _)) = member.confirmed {
            let known = Known { who: member.who, endpoint };
            if self.old.len() == OLD {
                self.old.pop_front();
            }
            self.old.push_back(known);
        }
    }

    fn new_socket(&mut self, address: Ipv4Addr) -> Result<UdpSocket> {
        for _ in 0..PORTS_PER_THREAD {
            let port = self.next_port;
            self.next_port += 1;
            if self.next_port == self.ports.end {
                self.next_port = self.ports.start;
            }
            match UdpSocket::bind(SocketAddrV4::new(address, port)) {
                Ok(socket) => {
                    socket.set_nonblocking(true).context("no non-blocking socket")?;
                    return Ok(socket);
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot bind {address}:{port}"));
                }
            }
        }
        bail!("no free source port at {address}")
    }

    fn ask_in_time(&mut self, place: usize, now: Instant) -> Result<bool> {
        let member = &mut self.members[place];
        if now < member.next_ask || matches!(member.doing, Doing::Silent { .. }) {
            return Ok(false);
        }
        member.next_ask = now + self.pace.ask;
        let message = Message::Ask { who: member.who, asked: since(self.begun, now) };
        let mut buffer = [0; BYTES];
        let count = wire::write(&message, &mut buffer);
        let sent = send(member.socket.as_ref(), &buffer[..count], self.reflector)?;
        self.talked.asked += u64::from(sent);
        self.talked.refused += u64::from(!sent);
        Ok(sent)
    }

    fn send_burst(
        &mut self,
        place: usize,
        expected: SocketAddrV4,
        to: Known,
        stale: bool,
    ) -> Result<()> {
        let member = &mut self.members[place];
        let mut buffer = [0; BYTES];
        for _ in 0..BURST {
            member.sequence = member.sequence.wrapping_add(1);
            let message = Message::Talk(Talk {
                from: member.who,
                expected,
                meant: to.who,
                to: to.endpoint,
                sent: since(self.begun, Instant::now()),
                sequence: member.sequence,
            });
            let count = wire::write(&message, &mut buffer);
            if !send(member.socket.as_ref(), &buffer[..count], to.endpoint)? {
                self.talked.refused += 1;
                break;
            }
            self.talked.sent += 1;
            self.talked.sent_to_old += u64::from(stale);
        }
        Ok(())
    }

    /// Takes what arrived for a speaker.
    fn take(&mut self, place: usize) -> Result<bool> {
        let mut buffer = [0; 2 * BYTES];
        for taken in 0..TAKEN {
            let Some(socket) = &self.members[place].socket else { return Ok(false) };
            match socket.recv_from(&mut buffer) {
                Ok((count, SocketAddr::V4(from))) => self.received(place, &buffer[..count], from),
                Ok(_) => self.talked.foreign += 1,
                Err(error) if is_for_now(&error) => return Ok(taken > 0),
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
        Ok(true)
    }

    fn received(&mut self, place: usize, bytes: &[u8], source: SocketAddrV4) {
        let now = Instant::now();
        let received = since(self.begun, now);
        let member = &mut self.members[place];
        let receiver = member.who;
        match wire::read(bytes) {
            Some(Message::Answer { who, asked, seen }) if source == self.reflector => {
                let answer = Confirmed { who, endpoint: seen, asked, answered: received };
                if who != receiver {
                    return self.evidence.stray(Stray { answer, receiver });
                }
                self.evidence.confirmed.push(answer);
                let asked = self.begun + Duration::from_nanos(asked);
                if member.confirmed.is_none_or(|(_, before)| before < asked) {
                    member.confirmed = Some((seen, asked));
                }
            }
            Some(Message::Talk(talk)) => {
                if talk.meant == receiver && talk.expected == source {
                    self.talked.right += 1;
                } else {
                    self.talked.doubtful += 1;
                    self.evidence.doubt(Doubt { talk, source, receiver, received });
                }
            }
            _ => self.talked.foreign += 1,
        }
    }
}

fn since(begun: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(begun).as_nanos() as u64
}

/// Sends; `false` if the kernel has no room or forwards an old refusal.
fn send(socket: Option<&UdpSocket>, bytes: &[u8], to: SocketAddrV4) -> Result<bool> {
    let Some(socket) = socket else { return Ok(false) };
    match socket.send_to(bytes, to) {
        Ok(_) => Ok(true),
        Err(error) if is_for_now(&error) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot send to {to}")),
    }
}

fn is_for_now(error: &io::Error) -> bool {
    // ENOBUFS has no kind of its own.
    const NO_BUFFERS: i32 = 105;
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionRefused
    ) || error.raw_os_error() == Some(NO_BUFFERS)
}
