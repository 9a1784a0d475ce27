//! How packets come to their owners: each port's method, chosen at the start and watched while
//! it runs (decision 22).
//!
//! Always true:
//! 1. a method is only claimed when the driver has given key and table back unchanged;
//! 2. whatever a card does, the worker that receives computes the owner; this is about speed.

use std::fmt::Write as _;
use std::sync::Arc;

use cgnat_core::config::{Config, Port, Side};
use cgnat_core::control::counters::WorkerCounters;
use cgnat_core::worker::steering::Steering;
use dpdk::{PortError, Rss, RssAbilities, RssFields, RunningPort};
use serde_json::{Map, Value, json};

use super::driver;
use super::watchdog::Standstills;

/// How a port steers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// There is one worker; nothing is to be steered.
    OneWorker,
    /// The card hashes with a key that lets one address decide.
    WindowedKey,
    /// The worker that receives hands over.
    Software,
}

impl Method {
    /// The word in reports.
    pub fn word(self) -> &'static str {
        match self {
            Method::OneWorker => "one-worker",
            Method::WindowedKey => "windowed-key",
            Method::Software => "software",
        }
    }
}

/// What was found out about a port at the start.
#[derive(Debug, Clone)]
pub struct PortSteering {
    /// Name in the configuration.
    pub name: String,
    /// What it does.
    pub method: Method,
    /// Why not better; empty if it is the best.
    pub reason: String,
    /// Receive queues.
    pub queues: u16,
    /// Entries of the card's table that were set.
    pub entries: u16,
    /// Parts in a thousand of its packets that are expected at another worker than theirs.
    pub expected_permille: u32,
    /// What its driver says, as [`driver::json`] has it.
    pub driver: Value,
}

/// What a port is to be asked for.
pub enum Wish {
    /// Nothing can be had.
    None(Method, String),
    /// Hashing with a key, and then a table.
    Card {
        /// The key.
        key: Vec<u8>,
        /// The queue of each entry.
        table: Vec<u16>,
    },
}

impl Wish {
    /// The best that the driver of a port can do, going by what it says.
    pub fn of(steering: Steering, side: Side, queues: u16, abilities: RssAbilities) -> Self {
        let software = |why: String| Wish::None(Method::Software, why);
        if steering.workers() == 1 {
            return Wish::None(Method::OneWorker, String::new());
        }
        if queues == 1 {
            return software("the device has one receive queue".to_owned());
        }
        if !abilities.hashes_addresses {
            return software("its driver cannot hash addresses".to_owned());
        }
        let Some(table) = steering.queues(abilities.table_entries, queues) else {
            return software(format!(
                "its driver offers a table of {} entries; {} workers need a power of two, at least {}",
                abilities.table_entries,
                steering.workers(),
                steering.buckets()
            ));
        };
        let Some(key) = steering.key(side, abilities.key_bytes) else {
            return software(format!("its driver takes keys of {} bytes", abilities.key_bytes));
        };
        Wish::Card { key, table }
    }

    /// What the port is to be started with. `is_card`: without, a card with several queues
    /// uses the first.
    pub fn rss(&self, is_card: bool, queues: u16, abilities: RssAbilities) -> Option<Rss> {
        match self {
            Wish::Card { key, .. } => {
                Some(Rss { fields: RssFields::Anything, key: Some(key.clone()) })
            }
            Wish::None(..) => (is_card && queues > 1 && abilities.hashes_addresses)
                .then_some(Rss { fields: RssFields::Addresses, key: None }),
        }
    }

    /// Asks the started port, and looks whether it has obeyed.
    ///
    /// # Errors
    /// Its driver does not say what it is.
    pub fn fulfil(
        self,
        steering: Steering,
        name: &str,
        queues: u16,
        port: &RunningPort,
        key_refused: Option<String>,
    ) -> Result<PortSteering, PortError> {
        let (method, reason, entries) = match self {
            Wish::None(method, reason) => (method, reason, 0),
            Wish::Card { key, table } => match key_refused.map_or_else(
                || obey(port, &key, &table),
                |said| Err(format!("its driver refuses the key: {said}")),
            ) {
                Ok(()) => (Method::WindowedKey, String::new(), table.len() as u16),
                Err(why) => (Method::Software, why, 0),
            },
        };
        let expected_permille = expected_permille(steering, method, queues);
        let (name, driver) = (name.to_owned(), driver::json(&port.answers()?));
        Ok(PortSteering { name, method, reason, queues, entries, expected_permille, driver })
    }
}

/// The side that the card of a port can steer. Its key is one, whatever the tags of a frame: of a device
/// that ports of both sides share it is the external one's, from which mostly more packets come.
pub fn steered_side(config: &Config, port: usize) -> Side {
    let mut sides = config.on_device(port).map(|(_, port)| port.side());
    if sides.any(|side| side == Side::External) { Side::External } else { Side::Internal }
}

impl PortSteering {
    /// What a device that was asked to steer `steered` does for one of its ports.
    pub fn of(&self, steering: Steering, port: &Port, steered: Side) -> Self {
        let of = Self { name: port.name().to_owned(), ..self.clone() };
        if port.side() == steered || self.method != Method::WindowedKey {
            return of;
        }
        let method = Method::Software;
        let expected_permille = expected_permille(steering, method, self.queues);
        let reason = "the card has one key, and steers the external ports of the device with it";
        Self { method, reason: reason.to_owned(), entries: 0, expected_permille, ..of }
    }
}

/// Sets key and table and reads both back.
fn obey(port: &RunningPort, key: &[u8], table: &[u16]) -> Result<(), String> {
    let said = |error: PortError| error.to_string();
    if port.rss_key().map_err(said)? != key {
        port.set_rss_key(RssFields::Anything, key).map_err(said)?;
        compare("key", "byte", key, &port.rss_key().map_err(said)?)?;
    }
    port.set_rss_table(table).map_err(said)?;
    compare("table", "entry", table, &port.rss_table().map_err(said)?)
}

/// A driver that accepts and does something else.
fn compare<T: PartialEq + std::fmt::Display>(
    what: &str,
    unit: &str,
    set: &[T],
    back: &[T],
) -> Result<(), String> {
    if set.len() != back.len() {
        return Err(format!(
            "its driver has accepted a {what} of {} and gives one of {} back",
            set.len(),
            back.len()
        ));
    }
    match set.iter().zip(back).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(n) => Err(format!(
            "its driver has accepted a {what} and gives another one back: {unit} {n} is {}, \
             expected {}",
            back[n], set[n]
        )),
    }
}

fn expected_permille(steering: Steering, method: Method, queues: u16) -> u32 {
    match method {
        Method::OneWorker => 0,
        Method::WindowedKey => steering.queueless_permille(queues),
        Method::Software if queues == 1 => steering.queueless_permille(1),
        // Whatever spreads them knows nothing of owners.
        Method::Software => 1000 - 1000 / u32::from(steering.workers()),
    }
}

/// What one port has counted, by worker where it says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets received.
    pub received: Vec<u64>,
    /// Packets handed off.
    pub handed_off: u64,
    /// Of these, at another worker than the one that their address hashes to.
    pub missteered: u64,
}

impl Counted {
    /// Of all ports.
    pub fn all(counters: &[Arc<WorkerCounters>]) -> Vec<Self> {
        let ports = counters.first().map_or(0, |counters| counters.ports.len());
        let of = |port: usize| Self {
            received: counters.iter().map(|c| c.ports[port].rx_packets.value()).collect(),
            handed_off: counters.iter().map(|c| c.ports[port].handed_off.value()).sum(),
            missteered: counters.iter().map(|c| c.ports[port].missteered.value()).sum(),
        };
        (0..ports).map(of).collect()
    }

    fn since(&self, before: &Self) -> Self {
        let received = self.received.iter().zip(&before.received).map(|(a, b)| a - b);
        Self {
            received: received.collect(),
            handed_off: self.handed_off - before.handed_off,
            missteered: self.missteered - before.missteered,
        }
    }
}

/// Packets of a period that a judgement about a port needs.
const ENOUGH: u64 = 10_000;

/// Parts in a thousand beyond the expectation that are said: errors of routers between the
/// subscribers and us, for one, hash to nobody's address.
const TOLERATED_PERMILLE: u64 = 10;

/// Looks at periods: a card that does not do what it said, a queue that goes silent.
pub struct Watch {
    ports: Vec<PortSteering>,
    last: Vec<Counted>,
    /// What each port did in the period before.
    period: Vec<Counted>,
    is_said: Vec<bool>,
    /// By port and queue: went silent, and nothing has come since.
    silent: Vec<Vec<bool>>,
    /// By port: times that a queue went silent.
    silences: Vec<u64>,
}

impl Watch {
    /// Nothing seen yet.
    pub fn new(ports: Vec<PortSteering>) -> Self {
        let count = ports.len();
        Self {
            silent: ports.iter().map(|port| vec![false; usize::from(port.queues)]).collect(),
            ports,
            last: Vec::new(),
            period: Vec::new(),
            is_said: vec![false; count],
            silences: vec![0; count],
        }
    }

    /// What the ports do.
    pub fn ports(&self) -> &[PortSteering] {
        &self.ports
    }

    /// Ends a period; what the operator should know.
    pub fn look(&mut self, now: Vec<Counted>) -> Vec<String> {
        let mut sentences = Vec::new();
        if !self.last.is_empty() {
            let period: Vec<_> = now.iter().zip(&self.last).map(|(a, b)| a.since(b)).collect();
            for (n, seen) in period.iter().enumerate() {
                self.judge_share(n, seen, &mut sentences);
                self.judge_queues(n, seen, &mut sentences);
            }
            self.period = period;
        }
        self.last = now;
        sentences
    }

    fn judge_share(&mut self, n: usize, seen: &Counted, sentences: &mut Vec<String>) {
        let port = &self.ports[n];
        let received: u64 = seen.received.iter().sum();
        if port.method != Method::WindowedKey || received < ENOUGH {
            return;
        }
        let permille = seen.missteered * 1000 / received;
        let is_worse = permille > u64::from(port.expected_permille) + TOLERATED_PERMILLE;
        if is_worse && !self.is_said[n] {
            sentences.push(format!(
                "warning: port {}: {} of its packets came to another worker than their address \
                 hashes to, {} expected with {}: the card does not do what its driver has \
                 accepted; they are handed over, which costs throughput. Look at `cgnat show \
                 steering`, and tell the driver's version to its maker",
                port.name,
                percent(permille),
                percent(u64::from(port.expected_permille)),
                port.method.word(),
            ));
        }
        self.is_said[n] = is_worse;
    }

    /// A queue that had a good part of the packets and has none while the others go on.
    fn judge_queues(&mut self, n: usize, seen: &Counted, sentences: &mut Vec<String>) {
        let queues = self.silent[n].len();
        for queue in 0..queues {
            let here = seen.received[queue];
            if here > 0 && self.silent[n][queue] {
                self.silent[n][queue] = false;
                sentences.push(format!(
                    "port {}: receive queue {queue} works again: {here} packets",
                    self.ports[n].name
                ));
            }
            let Some(before) = self.period.get(n) else { continue };
            let others =
                |of: &Counted| of.received[..queues].iter().sum::<u64>() - of.received[queue];
            let (had, all) =
                (before.received[queue], before.received[..queues].iter().sum::<u64>());
            let had_its_part = had >= 1000 && had >= all / (4 * queues as u64);
            let others_go_on = others(seen) >= 1000 && others(seen) >= others(before) / 2;
            if here == 0 && had_its_part && others_go_on && !self.silent[n][queue] {
                self.silent[n][queue] = true;
                self.silences[n] += 1;
                sentences.push(format!(
                    "warning: port {}: receive queue {queue} has gone silent: no packet, {had} in \
                     the same time before, while its other queues had {}. Worker {queue} or the \
                     queue of the card has stopped; look at the link's partner and the counters \
                     of the card, or restart",
                    self.ports[n].name,
                    others(seen),
                ));
            }
        }
    }

    /// What `cgnat show steering` and the statistics tell.
    pub fn report(
        &self,
        counters: &[Arc<WorkerCounters>],
        standstills: Standstills,
    ) -> SteeringReport {
        let counted = Counted::all(counters);
        let ports = self.ports.iter().zip(counted).enumerate().map(|(n, (port, counted))| {
            let silent = self.silent[n].iter().enumerate().filter(|(_, is)| **is);
            let queues = silent.map(|(queue, _)| queue).collect();
            (port.clone(), counted, queues, self.silences[n])
        });
        SteeringReport {
            ports: ports.collect(),
            handed: counters.iter().map(|c| (c.handed_off.value(), c.handed_in.value())).collect(),
            standstills,
        }
    }
}

/// Method, hand-off and load.
pub struct SteeringReport {
    /// With the queues that are silent now, and how often one went silent.
    ports: Vec<(PortSteering, Counted, Vec<usize>, u64)>,
    /// Packets that each worker handed to others, and took from them.
    handed: Vec<(u64, u64)>,
    standstills: Standstills,
}

impl SteeringReport {
    /// Stable keys.
    pub fn json(&self) -> Value {
        let ports: Map<String, Value> = self
            .ports
            .iter()
            .zip(&self.standstills.queues)
            .map(|((port, counted, silent, silences), queues)| {
                let stopped = queues.iter().enumerate().filter(|(_, queue)| queue.is_now);
                let stopped: Vec<usize> = stopped.map(|(queue, _)| queue).collect();
                let stops: u64 = queues.iter().map(|queue| queue.times).sum();
                let received: u64 = counted.received.iter().sum();
                let value = json!({
                    "method": port.method.word(),
                    "reason": port.reason,
                    "queues": port.queues,
                    "table_entries": port.entries,
                    "received": received,
                    "handed_off": counted.handed_off,
                    "handed_off_share": share(counted.handed_off, received),
                    "missteered": counted.missteered,
                    "missteered_share": share(counted.missteered, received),
                    "missteered_expected": f64::from(port.expected_permille) / 1000.0,
                    "driver": port.driver,
                    "silent_queues": silent,
                    "silences": silences,
                    "stopped_queues": stopped,
                    "stops": stops,
                });
                (port.name.clone(), value)
            })
            .collect();
        // A worker handles what it receives and what it takes, but not what it hands off.
        let received = |worker: usize| -> u64 {
            self.ports.iter().map(|(_, counted, ..)| counted.received[worker]).sum()
        };
        let handles = |worker: usize| {
            let (off, taken) = self.handed[worker];
            // Read one after the other while they grow.
            (received(worker) + taken).saturating_sub(off)
        };
        let all: u64 = (0..self.handed.len()).map(handles).sum();
        let workers: Vec<Value> = self
            .handed
            .iter()
            .enumerate()
            .zip(&self.standstills.workers)
            .map(|((n, (off, taken)), worker)| {
                json!({
                    "received": received(n),
                    "handed_off": off,
                    "taken": taken,
                    "load_share": share(handles(n), all),
                    "stalled": worker.is_now,
                    "stalls": worker.times,
                })
            })
            .collect();
        json!({ "ports": ports, "workers": workers })
    }
}

/// The answer to `show steering` for a person.
pub fn text(answer: &Value) -> String {
    let mut out = String::new();
    let number = |of: &Value, key: &str| of[key].as_u64().unwrap_or(0);
    let part = |of: &Value, key: &str| format!("{:.2} %", of[key].as_f64().unwrap_or(0.0) * 100.0);
    // Writing to a String cannot fail.
    for (name, port) in answer["ports"].as_object().into_iter().flatten() {
        let method = port["method"].as_str().unwrap_or("?");
        let _ = writeln!(
            out,
            "port {name}: {method}, {} queues, {} packets received",
            number(port, "queues"),
            number(port, "received")
        );
        if let Some(reason) = port["reason"].as_str().filter(|reason| !reason.is_empty()) {
            let _ = writeln!(out, "  because {reason}");
        }
        let _ = writeln!(
            out,
            "  handed off {}; missteered {}, expected {}",
            part(port, "handed_off_share"),
            part(port, "missteered_share"),
            part(port, "missteered_expected")
        );
        if port["driver"].is_object() {
            let _ = writeln!(out, "  {}", driver::sentence(&port["driver"]));
        }
        for queue in port["silent_queues"].as_array().into_iter().flatten() {
            let _ = writeln!(out, "  receive queue {queue} is SILENT");
        }
        for queue in port["stopped_queues"].as_array().into_iter().flatten() {
            let _ = writeln!(out, "  transmit queue {queue} takes NOTHING");
        }
    }
    for (n, worker) in answer["workers"].as_array().into_iter().flatten().enumerate() {
        let _ = writeln!(
            out,
            "worker {n}: {} received, {} handed off, {} taken from others, {} of the load",
            number(worker, "received"),
            number(worker, "handed_off"),
            number(worker, "taken"),
            part(worker, "load_share")
        );
        if worker["stalled"] == true {
            let _ = writeln!(out, "  it has STOPPED polling");
        }
    }
    out
}

/// A part of all, 0 of nothing; four digits behind the point.
fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { (part as f64 / all as f64 * 10_000.0).round() / 10_000.0 }
}

fn percent(permille: u64) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

/// What each port does, and for cards what their drivers say, for the start.
pub fn sentences(config: &Config, ports: &[PortSteering]) -> Vec<String> {
    let side = |n: usize| match config.ports()[n].side() {
        Side::Internal => "internal",
        Side::External => "external",
    };
    let cards = ports.iter().zip(config.ports());
    let cards = cards.filter(|(_, of)| of.device().is_card());
    let cards =
        cards.map(|(port, _)| format!("port {}: {}", port.name, driver::sentence(&port.driver)));
    let told = ports.iter().enumerate().filter(|(_, port)| port.method != Method::OneWorker);
    let methods = told.map(|(n, port)| match port.method {
        Method::WindowedKey => format!(
            "port {} ({}): the card steers to the owner, {} queues, {} entries",
            port.name,
            side(n),
            port.queues,
            port.entries
        ),
        _ => format!(
            "port {} ({}): software hand-off, about {} of its packets: {}",
            port.name,
            side(n),
            percent(u64::from(port.expected_permille)),
            port.reason
        ),
    });
    cards.chain(methods).collect()
}

#[cfg(test)]
mod tests;
