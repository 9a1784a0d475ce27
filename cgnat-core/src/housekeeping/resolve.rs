//! Neighbour resolution: ARP requests, refresh, failure (RFC 826, RFC 1122 section 2.3.2).
//!
//! Next hops of routes, configured and learned, are asked for from the start and never given up. Other on-link
//! neighbours are asked for when a packet waits for them, and forgotten when they do not
//! answer. Static neighbours of the configuration are published once and never changed.
//!
//! Who is known keeps its place as long as it answers: a MAC that somebody else shows for its
//! address makes the box ask, and is not believed before the known one is silent. When the link comes
//! back all are asked at once, by broadcast: packets go where they went, until who answers first is
//! somebody else.
//!
//! While a link is down nobody there is asked or forgotten.

use std::sync::Arc;

use hashbrown::HashMap;

use super::Link;
use super::conflicts::Conflicts;
use crate::control::Command;
use crate::control::links::LinkStates;
use crate::control::neighbours::NeighbourTable;
use crate::packet::ethernet::{BROADCAST, Mac};
use crate::time::Instant;
use crate::worker::forwarding::Forwarding;

/// Time between two requests while nobody answers.
const RETRY_MS: u64 = 250;

/// A known neighbour is asked again after this time, by unicast.
const REFRESH_MS: u64 = 30_000;

/// Requests without an answer before a neighbour counts as gone.
const TRIES: u32 = 4;

/// A neighbour that is no configured next hop is forgotten after this time; if it is still
/// needed, the next packet waits for a moment until it is known again.
const LIFE_MS: u64 = 600_000;

/// Neighbours that are looked after.
const NEIGHBOURS: usize = 2_048;

struct Entry {
    mac: Option<Mac>,
    /// The one before, if it fell silent.
    was: Option<Mac>,
    /// The link was down since it answered.
    is_doubtful: bool,
    /// Next hops of routes are never given up.
    keep: bool,
    /// It is of the configuration.
    is_configured: bool,
    static_: bool,
    tries: u32,
    /// When the last request was sent, and when the next one is due.
    asked: Instant,
    next: Instant,
    born: Instant,
    /// Worker that sends the requests.
    worker: u16,
}

impl Entry {
    /// Of a neighbour that becomes known now, and is to be asked now.
    fn unasked(now: Instant) -> Self {
        Self {
            mac: None,
            was: None,
            is_doubtful: false,
            keep: false,
            is_configured: false,
            static_: false,
            tries: 0,
            asked: now,
            next: now,
            born: now,
            worker: 0,
        }
    }
}

pub(super) struct Resolver {
    entries: HashMap<(u8, u32), Entry>,
    table: Arc<NeighbourTable>,
    states: Arc<LinkStates>,
    next_look: Instant,
}

impl Resolver {
    pub(super) fn new(
        forwarding: &Forwarding,
        table: Arc<NeighbourTable>,
        states: Arc<LinkStates>,
    ) -> Self {
        let mut entries = HashMap::new();
        let at_once = Instant::default();
        for (port, address, mac) in forwarding.static_neighbours() {
            table.publish(*port, *address, Some(*mac));
            let entry = Entry {
                mac: Some(*mac),
                keep: true,
                is_configured: true,
                static_: true,
                ..Entry::unasked(at_once)
            };
            entries.insert((*port, *address), entry);
        }
        for (port, address) in forwarding.next_hops() {
            entries.entry((*port, *address)).or_insert_with(|| {
                table.publish(*port, *address, None);
                Entry { keep: true, is_configured: true, ..Entry::unasked(at_once) }
            });
        }
        Self { entries, table, states, next_look: at_once }
    }

    /// Next hops of learned routes, in order. Those that are none any more are forgotten when their
    /// time comes, like other neighbours.
    pub(super) fn set_learned(&mut self, hops: &[(u8, u32)], clock: Instant) {
        for (of, entry) in &mut self.entries {
            let keep = entry.is_configured || hops.binary_search(of).is_ok();
            if entry.keep && !keep {
                entry.born = clock;
            }
            entry.keep = keep;
        }
        for (port, address) in hops {
            if self.entries.contains_key(&(*port, *address))
                || self.entries.len() >= NEIGHBOURS
                || !self.table.publish(*port, *address, None)
            {
                continue;
            }
            let entry = Entry { keep: true, ..Entry::unasked(clock) };
            self.entries.insert((*port, *address), entry);
        }
    }

    /// A packet waits for this neighbour.
    pub(super) fn resolve(
        &mut self,
        links: &mut [Link],
        worker: u16,
        port: u8,
        address: u32,
        clock: Instant,
    ) {
        if self.entries.contains_key(&(port, address)) || self.entries.len() >= NEIGHBOURS {
            return;
        }
        if !self.table.publish(port, address, None) {
            return;
        }
        let asked = ask(links, worker, port, address, BROADCAST);
        let next = if asked { clock.plus_millis(RETRY_MS) } else { clock };
        let tries = u32::from(asked);
        let entry = Entry { tries, next, worker, ..Entry::unasked(clock) };
        self.entries.insert((port, address), entry);
    }

    /// A neighbour showed its MAC; `to_us` if it did more than announce it.
    pub(super) fn seen(
        &mut self,
        (port, address): (u8, u32),
        mac: Mac,
        to_us: bool,
        conflicts: &mut Conflicts,
        clock: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(&(port, address)) else {
            return;
        };
        if entry.static_ {
            return;
        }
        let used = entry.mac.filter(|known| *known != mac);
        if let Some(used) = used.filter(|_| !(entry.is_doubtful && to_us)) {
            // It has moved, or somebody wants its packets. However often this comes, it is asked
            // no more often than when it does not answer.
            conflicts.disputed(port, address, used, mac, clock);
            let soonest = entry.asked.plus_millis(RETRY_MS).max(clock);
            entry.next = entry.next.min(soonest);
            return;
        }
        if let Some(from) = used.or(entry.was.take().filter(|was| *was != mac)) {
            conflicts.moved(port, address, from, mac);
        }
        // Workers look again at all that they know when the table changes.
        if entry.mac.replace(mac) != Some(mac) {
            self.table.publish(port, address, Some(mac));
        }
        entry.is_doubtful = false;
        entry.tries = 0;
        entry.next = clock.plus_millis(REFRESH_MS);
    }

    /// The link of a port has come up: neighbours there are asked at once.
    pub(super) fn ask_all(&mut self, port: u8, clock: Instant) {
        for ((_, _), entry) in self.entries.iter_mut().filter(|((at, _), _)| *at == port) {
            entry.is_doubtful = entry.mac.is_some();
            entry.tries = 0;
            entry.next = clock;
        }
    }

    /// Sends the requests that are due.
    pub(super) fn run(&mut self, links: &mut [Link], clock: Instant) {
        if clock < self.next_look {
            return;
        }
        self.next_look = clock.plus_millis(10);
        let (table, states) = (&self.table, &self.states);
        self.entries.retain(|(port, address), entry| {
            if entry.static_ || clock < entry.next || states.is_down(usize::from(*port)) {
                return true;
            }
            if entry.tries >= TRIES {
                if !entry.keep {
                    table.remove(*port, *address);
                    return false;
                }
                if let Some(silent) = entry.mac.take() {
                    entry.was = Some(silent);
                    table.publish(*port, *address, None);
                }
                entry.is_doubtful = false;
                entry.tries = 0;
            }
            if !entry.keep && clock >= entry.born.plus_millis(LIFE_MS) {
                table.remove(*port, *address);
                return false;
            }
            let to = entry.mac.filter(|_| !entry.is_doubtful).unwrap_or(BROADCAST);
            if ask(links, entry.worker, *port, *address, to) {
                entry.tries += 1;
                entry.asked = clock;
                entry.next = clock.plus_millis(RETRY_MS);
            }
            true
        });
    }
}

/// Has a worker send a request. A worker with a full channel is busy enough, for one with the
/// port blocks of the start: then nothing is sent, and false says that it is still due.
fn ask(links: &mut [Link], worker: u16, port: u8, target: u32, to: Mac) -> bool {
    let link = &mut links[usize::from(worker)];
    let room = link.has_room();
    if room {
        link.send(Command::SendArp { port, target, to });
    }
    room
}
