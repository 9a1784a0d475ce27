//! Steady flows of subscribers while somebody floods: what they lose, compared with before.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::appliance::Outcome;
use crate::flood::FloodReport;
use crate::lab::{Lab, Namespace, SERVERS};
use crate::reports::{Serving, report_of};
use crate::steady::{Share, SteadyReport};
use crate::told::Told;

/// An address at the servers that is nobody's: what is sent there is never answered.
pub const VOID: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 200);

/// Port of the echo.
const ECHO_PORT: u16 = 7;
/// Before the flood, and after it.
const CALM: Duration = Duration::from_secs(1);

/// Flows that exist before the flood begins, one of each subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Innocents {
    /// Number of the first subscriber.
    pub first: u32,
    /// Subscribers.
    pub count: u32,
    /// Bytes of a datagram.
    pub bytes: u32,
}

/// What the flows lost, and what else was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Endured {
    /// The flood.
    pub flood: FloodReport,
    /// What the flows sent during the flood, by group of innocents.
    pub during: Vec<Share>,
    /// What they sent before and after it.
    pub calm: Vec<Share>,
    /// Datagrams that all flows sent.
    pub sent: u64,
    /// What came to the subscribers.
    pub to_subscribers: Told,
    /// What came to the servers.
    pub to_servers: Told,
}

impl Endured {
    /// What the appliance dropped of a flood that came in by `port`, by reason, if no group lost more
    /// than `most` (of 1) beyond what it lost in calm. Where workers share too few CPUs, packets
    /// find the socket or the worker busy, whosever they are: that share is allowed, and is no
    /// longer in the answer.
    ///
    /// # Errors
    /// A group lost more, or the machine was too busy to say anything.
    pub fn judge(&self, outcome: &Outcome, port: &str, most: f64) -> Result<BTreeMap<String, u64>> {
        let mut drops = outcome.stats.drops()?;
        let handed = drops.remove("handoff-full").unwrap_or_default();
        let missed = (self.flood.sent + self.sent).saturating_sub(outcome.stats.received(port)?);
        let busy = (handed + missed) as f64 / self.flood.sent.max(1) as f64;
        println!(
            "{} packets at {}/s, {missed} not received, {handed} not handed over; drops {drops:?}",
            self.flood.sent,
            self.flood.rate()
        );
        ensure!(
            busy < 0.05,
            "the machine was busy: {missed} not received, {handed} not handed over"
        );
        for (during, calm) in self.during.iter().zip(&self.calm) {
            let lost = (during.lost(), calm.lost());
            println!("  others lost {} of {during:?}, in calm {} of {calm:?}", lost.0, lost.1);
            ensure!(during.sent > 0 && calm.sent > 0, "nothing was sent");
            ensure!(lost.0 - lost.1 <= most + busy, "more than {most} beyond {busy} is lost");
        }
        println!("  to subscribers {:?}\n  to servers {:?}", self.to_subscribers, self.to_servers);
        Ok(drops)
    }
}

/// Runs the flows through what is in the middle of `lab`; between, `program` with the arguments
/// `flood`, blank by blank, in `from` for `seconds`.
///
/// # Errors
/// A program could not do its work, or an echo came to the wrong flow.
pub fn endure(
    lab: &Lab,
    program: &str,
    innocents: &[Innocents],
    (from, flood): (&Namespace, &str),
    seconds: u64,
) -> Result<Endured> {
    let to = SocketAddrV4::new(SERVERS[0], ECHO_PORT).to_string();
    let echo = Serving::start(&lab.server, program, &["echo", &to])?;
    let listening = |namespace| Serving::start(namespace, program, &["listen"]);
    let listeners = [listening(&lab.subscribers)?, listening(&lab.server)?];
    let whole = seconds + 2 * CALM.as_secs();
    let limit = Duration::from_secs(whole + 60);
    let steady = |group: &Innocents| {
        let Innocents { first, count, bytes } = group;
        let text = format!(
            "steady {to} --first {first} --count {count} --bytes {bytes} --seconds {whole}"
        );
        let arguments: Vec<&str> = text.split(' ').collect();
        report_of::<SteadyReport>(&lab.subscribers, program, &arguments, limit)
    };
    let (flood, steady) = thread::scope(|scope| {
        let steady: Vec<_> =
            innocents.iter().map(|group| scope.spawn(move || steady(group))).collect();
        thread::sleep(CALM);
        let text = format!("{flood} --seconds {seconds}");
        let arguments: Vec<&str> = text.split(' ').collect();
        let flood = report_of::<FloodReport>(from, program, &arguments, limit);
        let steady: Vec<_> = steady.into_iter().map(thread::ScopedJoinHandle::join).collect();
        (flood, steady)
    });
    let flood = flood?;
    ensure!(flood.unsent == 0, "the kernel refused to send: {flood:?}");
    let (mut during, mut calm, mut sent) = (Vec::new(), Vec::new(), 0);
    for report in steady {
        let report = report.ok().context("a thread panicked")??;
        ensure!(report.wrong == 0, "{} echoes came to the wrong flow", report.wrong);
        let (inside, outside) = report.split(flood.begun_ms, flood.ended_ms);
        sent += inside.sent + outside.sent;
        during.push(inside);
        calm.push(outside);
    }
    let [to_subscribers, to_servers] = listeners;
    let (to_subscribers, to_servers) = (to_subscribers.report()?, to_servers.report()?);
    echo.report::<u64>()?;
    Ok(Endured { flood, during, calm, sent, to_subscribers, to_servers })
}
