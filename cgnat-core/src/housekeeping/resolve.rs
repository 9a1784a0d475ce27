//! Neighbour resolution: requests, refresh, failure, by ARP (RFC 826, RFC 1122 section 2.3.2) and by
//! Neighbour Discovery (RFC 4861 section 7.2), each with a table and bounds of its own.
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

use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashMap;

use super::Link;
use super::conflicts::Conflicts;
use crate::control::Command;
use crate::control::links::LinkStates;
use crate::control::neighbours::NeighbourTable;
use crate::control::neighbours6::NeighbourTable6;
use crate::packet::ethernet::Mac;
use crate::time::Instant;

/// Time between two requests while nobody answers.
const RETRY_MS: u64 = 250;

/// A known neighbour is asked again after this time, by unicast.
const REFRESH_MS: u64 = 30_000;

/// Requests without an answer before a neighbour counts as gone.
const TRIES: u32 = 4;

/// A neighbour that is no configured next hop is forgotten after this time; if it is still
/// needed, the next packet waits for a moment until it is known again.
const LIFE_MS: u64 = 600_000;

/// An address of a neighbour, and the table where workers find its MAC.
pub(super) trait Address: Copy + Eq + Hash + Ord {
    /// Neighbours that are looked after.
    const MOST: usize;

    type Table;

    fn publish(self, table: &Self::Table, port: u8, mac: Option<Mac>) -> bool;
    fn remove(self, table: &Self::Table, port: u8);
    fn ip(self) -> IpAddr;
}

impl Address for u32 {
    const MOST: usize = 2_048;

    type Table = NeighbourTable;

    fn publish(self, table: &NeighbourTable, port: u8, mac: Option<Mac>) -> bool {
        table.publish(port, self, mac)
    }

    fn remove(self, table: &NeighbourTable, port: u8) {
        table.remove(port, self);
    }

    fn ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
}

impl Address for u128 {
    const MOST: usize = 1_024;

    type Table = NeighbourTable6;

    fn publish(self, table: &NeighbourTable6, port: u8, mac: Option<Mac>) -> bool {
        table.publish(port, self, mac)
    }

    fn remove(self, table: &NeighbourTable6, port: u8) {
        table.remove(port, self);
    }

    fn ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }
}

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

pub(super) struct Resolver<A: Address> {
    entries: HashMap<(u8, A), Entry>,
    table: Arc<A::Table>,
    states: Arc<LinkStates>,
    next_look: Instant,
}

impl<A: Address> Resolver<A> {
    /// With the static neighbours and the next hops of the configuration.
    pub(super) fn new(
        statics: &[(u8, A, Mac)],
        next_hops: &[(u8, A)],
        table: Arc<A::Table>,
        states: Arc<LinkStates>,
    ) -> Self {
        let mut entries = HashMap::new();
        let at_once = Instant::default();
        for (port, address, mac) in statics {
            address.publish(&table, *port, Some(*mac));
            let entry = Entry {
                mac: Some(*mac),
                keep: true,
                is_configured: true,
                static_: true,
                ..Entry::unasked(at_once)
            };
            entries.insert((*port, *address), entry);
        }
        for (port, address) in next_hops {
            entries.entry((*port, *address)).or_insert_with(|| {
                address.publish(&table, *port, None);
                Entry { keep: true, is_configured: true, ..Entry::unasked(at_once) }
            });
        }
        Self { entries, table, states, next_look: at_once }
    }

    /// Next hops of learned routes, in order. Those that are none any more are forgotten when their
    /// time comes, like other neighbours.
    pub(super) fn set_learned(&mut self, hops: &[(u8, A)], clock: Instant) {
        for (of, entry) in &mut self.entries {
            let keep = entry.is_configured || hops.binary_search(of).is_ok();
            if entry.keep && !keep {
                entry.born = clock;
            }
            entry.keep = keep;
        }
        for (port, address) in hops {
            if self.entries.contains_key(&(*port, *address))
                || self.entries.len() >= A::MOST
                || !address.publish(&self.table, *port, None)
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
        address: A,
        clock: Instant,
    ) {
        if self.entries.contains_key(&(port, address)) || self.entries.len() >= A::MOST {
            return;
        }
        if !address.publish(&self.table, port, None) {
            return;
        }
        let asked = ask(links, worker, port, address.ip(), None);
        let next = if asked { clock.plus_millis(RETRY_MS) } else { clock };
        let tries = u32::from(asked);
        let entry = Entry { tries, next, worker, ..Entry::unasked(clock) };
        self.entries.insert((port, address), entry);
    }

    /// A neighbour showed its MAC; `to_us` if it did more than announce it.
    pub(super) fn seen(
        &mut self,
        (port, address): (u8, A),
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
            conflicts.disputed(port, address.ip(), used, mac, clock);
            let soonest = entry.asked.plus_millis(RETRY_MS).max(clock);
            entry.next = entry.next.min(soonest);
            return;
        }
        if let Some(from) = used.or(entry.was.take().filter(|was| *was != mac)) {
            conflicts.moved(port, address.ip(), from, mac);
        }
        // Workers look again at all that they know when the table changes.
        if entry.mac.replace(mac) != Some(mac) {
            address.publish(&self.table, port, Some(mac));
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
                    address.remove(table, *port);
                    return false;
                }
                if let Some(silent) = entry.mac.take() {
                    entry.was = Some(silent);
                    address.publish(table, *port, None);
                }
                entry.is_doubtful = false;
                entry.tries = 0;
            }
            if !entry.keep && clock >= entry.born.plus_millis(LIFE_MS) {
                address.remove(table, *port);
                return false;
            }
            let to = entry.mac.filter(|_| !entry.is_doubtful);
            if ask(links, entry.worker, *port, address.ip(), to) {
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
fn ask(links: &mut [Link], worker: u16, port: u8, target: IpAddr, to: Option<Mac>) -> bool {
    let link = &mut links[usize::from(worker)];
    let room = link.has_room();
    if room {
        link.send(Command::AskNeighbour { port, target, to });
    }
    room
}
