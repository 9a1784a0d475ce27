//! Who had which external endpoint when, and whether a datagram went right.
//!
//! The evidence is confirmations: a question of speaker S, sent at `asked`, whose answer came
//! back at `answered` and said endpoint E. Somewhere between the two the NAT translated S to E.
//! With the NAT's idle time and hold-down, each less by a margin, three things follow:
//!
//! 1. from `answered` until `asked` + idle, S is mapped to E, and only to E;
//! 2. from `answered` until `asked` + idle + hold, nobody else is mapped to E;
//! 3. if somebody else has a confirmation of E, the two are at least idle + hold apart.
//!
//! A datagram was translated between its sending and its arrival. What contradicts 1 to 3 over
//! that whole time is wrong; what agrees is right; what the evidence does not reach is undecided.
//! The margin is for the NAT's clock, which it reads once for a whole burst: a worker that is
//! put aside by the kernel between reading the clock and receiving has a clock that is late.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::wire::{Speaker, Talk};

/// Datagrams of doubt that are kept; more are counted only, as [`Findings::not_kept`].
const KEPT: usize = 1_000_000;
/// Descriptions in the report.
const DESCRIBED: usize = 8;

/// Timers of the NAT.
#[derive(Debug, Clone, Copy)]
pub struct Timers {
    /// Of a UDP mapping.
    pub idle: Duration,
    /// Of a freed port.
    pub hold: Duration,
    /// How late the NAT's clock may be.
    pub margin: Duration,
}

impl Timers {
    fn mapped(self) -> u64 {
        (self.idle.saturating_sub(self.margin)).as_nanos() as u64
    }

    fn reserved(self) -> u64 {
        (self.idle + self.hold).saturating_sub(self.margin).as_nanos() as u64
    }
}

/// `who` had `endpoint` at some moment between `asked` and `answered`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Confirmed {
    pub(super) who: Speaker,
    pub(super) endpoint: SocketAddrV4,
    pub(super) asked: u64,
    pub(super) answered: u64,
}

/// A datagram that is not as its sender expected, or was sent to an old endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubt {
    pub(super) talk: Talk,
    pub(super) source: SocketAddrV4,
    pub(super) receiver: Speaker,
    pub(super) received: u64,
}

/// An answer for one speaker that reached another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stray {
    pub(super) answer: Confirmed,
    pub(super) receiver: Speaker,
}

/// What speakers have seen.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    pub(super) confirmed: Vec<Confirmed>,
    doubts: Vec<Doubt>,
    strays: Vec<Stray>,
    not_kept: u64,
}

/// What the evidence says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Answers of the reflector.
    pub confirmations: u64,
    /// Distinct external endpoints.
    pub endpoints: u64,
    /// Times that an endpoint passed from one speaker to another.
    pub passed_on: u64,
    /// Wrong: the source of a hairpinned datagram is not the sender's external endpoint
    /// (RFC 4787 REQ-9a).
    pub wrong_source: u64,
    /// Wrong: a datagram reached a speaker that did not have the endpoint it was sent to.
    pub misdelivered: u64,
    /// Wrong: two speakers had an endpoint at one time, or within hold-down (RFC 6888 REQ-8).
    pub shared: u64,
    /// Wrong: a mapping in use changed its endpoint (RFC 4787 REQ-1).
    pub changed: u64,
    /// Datagrams in doubt that the evidence shows to be right: sent to an old endpoint, and
    /// received by its new owner.
    pub right_after_all: u64,
    /// Datagrams in doubt that the evidence does not reach.
    pub undecided: u64,
    /// Datagrams in doubt that were too many to keep.
    pub not_kept: u64,
    /// The first that are wrong.
    pub described: Vec<String>,
    /// The first that are undecided.
    pub open_questions: Vec<String>,
}

impl Findings {
    /// Everything that must not be.
    pub fn wrong(&self) -> u64 {
        self.wrong_source + self.misdelivered + self.shared + self.changed
    }

    fn describe(&mut self, text: impl FnOnce() -> String) {
        if self.described.len() < DESCRIBED {
            self.described.push(text());
        }
    }

    fn leave_open(&mut self, text: impl FnOnce() -> String) {
        self.undecided += 1;
        if self.open_questions.len() < DESCRIBED {
            self.open_questions.push(text());
        }
    }
}

impl Evidence {
    pub(super) fn doubt(&mut self, doubt: Doubt) {
        if self.doubts.len() < KEPT {
            self.doubts.push(doubt);
        } else {
            self.not_kept += 1;
        }
    }

    pub(super) fn stray(&mut self, stray: Stray) {
        self.strays.push(stray);
        // That it was answered is evidence, wherever the answer went.
        self.confirmed.push(stray.answer);
    }

    pub(super) fn add(&mut self, other: Evidence) {
        self.confirmed.extend(other.confirmed);
        self.doubts.extend(other.doubts);
        self.strays.extend(other.strays);
        self.not_kept += other.not_kept;
    }

    pub(super) fn judge(mut self, timers: Timers) -> Findings {
        self.confirmed.sort_by_key(|confirmed| confirmed.asked);
        let records = Records::new(&self.confirmed, timers);
        let endpoints: HashSet<_> = self.confirmed.iter().map(|c| c.endpoint).collect();
        let mut findings = Findings {
            confirmations: self.confirmed.len() as u64,
            endpoints: endpoints.len() as u64,
            not_kept: self.not_kept,
            ..Findings::default()
        };
        records.look_for_shared(&mut findings);
        records.look_for_changed(&mut findings);
        for doubt in &self.doubts {
            records.judge(doubt, &mut findings);
        }
        for Stray { answer, receiver } in &self.strays {
            if answer.answered < answer.asked + timers.reserved() {
                findings.misdelivered += 1;
                findings.describe(|| format!("answer {answer:?} reached {receiver:?}"));
            } else {
                findings.leave_open(|| format!("answer {answer:?} reached {receiver:?}"));
            }
        }
        findings
    }
}

/// Confirmations by speaker and by endpoint, each in order of their questions.
struct Records {
    by_speaker: HashMap<Speaker, Vec<Confirmed>>,
    by_endpoint: HashMap<SocketAddrV4, Vec<Confirmed>>,
    /// External addresses.
    addresses: HashSet<Ipv4Addr>,
    timers: Timers,
}

impl Records {
    fn new(confirmed: &[Confirmed], timers: Timers) -> Records {
        let mut by_speaker: HashMap<_, Vec<_>> = HashMap::new();
        let mut by_endpoint: HashMap<_, Vec<_>> = HashMap::new();
        for confirmed in confirmed {
            by_speaker.entry(confirmed.who).or_default().push(*confirmed);
            by_endpoint.entry(confirmed.endpoint).or_default().push(*confirmed);
        }
        let addresses = confirmed.iter().map(|confirmed| *confirmed.endpoint.ip()).collect();
        Records { by_speaker, by_endpoint, addresses, timers }
    }

    /// The endpoint that `who` was mapped to all the time from `from` to `to`, if known.
    fn mapped(&self, who: Speaker, from: u64, to: u64) -> Option<SocketAddrV4> {
        let mapped = self.timers.mapped();
        let of = self.by_speaker.get(&who)?;
        of.iter().find(|c| c.answered <= from && to < c.asked + mapped).map(|c| c.endpoint)
    }

    /// The only speaker that may have had `endpoint` from `from` to `to`, if known.
    fn reserved(&self, endpoint: SocketAddrV4, from: u64, to: u64) -> Option<Speaker> {
        let reserved = self.timers.reserved();
        let of = self.by_endpoint.get(&endpoint)?;
        of.iter().find(|c| c.answered <= from && to < c.asked + reserved).map(|c| c.who)
    }

    /// Whether `who` has a confirmation of `endpoint` at all.
    fn ever(&self, who: Speaker, endpoint: SocketAddrV4) -> bool {
        self.by_speaker.get(&who).is_some_and(|of| of.iter().any(|c| c.endpoint == endpoint))
    }

    fn look_for_shared(&self, findings: &mut Findings) {
        for of in self.by_endpoint.values() {
            let next = of.iter().zip(&of[1..]);
            findings.passed_on +=
                next.filter(|(first, second)| first.who != second.who).count() as u64;
            for (first, second) in pairs_within(of, self.timers.reserved()) {
                if first.who != second.who {
                    findings.shared += 1;
                    findings.describe(|| format!("shared endpoint: {first:?}, then {second:?}"));
                }
            }
        }
    }

    fn look_for_changed(&self, findings: &mut Findings) {
        for of in self.by_speaker.values() {
            for (first, second) in pairs_within(of, self.timers.mapped()) {
                if first.endpoint != second.endpoint {
                    findings.changed += 1;
                    findings.describe(|| format!("changed mapping: {first:?}, then {second:?}"));
                }
            }
        }
    }

    fn judge(&self, doubt: &Doubt, findings: &mut Findings) {
        let Doubt { talk, source, receiver, received } = *doubt;
        let source_known = match self.mapped(talk.from, talk.sent, received) {
            _ if !self.addresses.contains(source.ip()) => Some(false),
            Some(mapped) => Some(mapped == source),
            None => match self.reserved(source, talk.sent, received) {
                Some(owner) if owner != talk.from => Some(false),
                _ => self.ever(talk.from, source).then_some(true),
            },
        };
        let delivery_known = match self.reserved(talk.to, talk.sent, received) {
            Some(owner) => Some(owner == receiver),
            None => match self.mapped(receiver, talk.sent, received) {
                Some(mapped) => Some(mapped == talk.to),
                None => self.ever(receiver, talk.to).then_some(true),
            },
        };
        if source_known == Some(false) {
            findings.wrong_source += 1;
            findings.describe(|| format!("wrong source: {doubt:?}"));
        } else if delivery_known == Some(false) {
            findings.misdelivered += 1;
            findings.describe(|| format!("misdelivered: {doubt:?}"));
        } else if source_known == Some(true) && delivery_known == Some(true) {
            findings.right_after_all += 1;
        } else {
            findings.leave_open(|| {
                format!("source {source_known:?}, delivery {delivery_known:?}: {doubt:?}")
            });
        }
    }
}

/// Pairs that are certainly less than `span` apart. A question that was asked first may be the
/// last to be translated: packets of one flow overtake each other when a queue is full.
fn pairs_within(of: &[Confirmed], span: u64) -> impl Iterator<Item = (&Confirmed, &Confirmed)> {
    of.iter().enumerate().flat_map(move |(place, first)| {
        let later = of[place + 1..].iter().take_while(move |c| c.asked < first.asked + span);
        let within = move |second: &&Confirmed| {
            second.answered < first.asked + span && first.answered < second.asked + span
        };
        later.filter(within).map(move |second| (first, second))
    })
}
