//! The sweep over deadline words: who may be due?
//!
//! A sweep begins every half second of NAT time and visits a bounded number of words per
//! round. Proposals go out in batches; a worker whose channel is full is left where the
//! sweep stopped and goes on in the next round.

use arrayvec::ArrayVec;

use super::Link;
use crate::control::{Command, Due, PROPOSALS};
use crate::space::OwnerMap;
use crate::table::due::{DueArray, Kind};
use crate::time::{TICKS_PER_SECOND, Tick};

/// Words per worker and round.
const WORDS_PER_ROUND: usize = 1 << 18;

/// Ticks between the starts of two sweeps.
const INTERVAL: u32 = TICKS_PER_SECOND / 2;

/// Where the sweep over one worker's words stands.
#[derive(Clone, Copy)]
struct Cursor {
    kind: Kind,
    slot: usize,
    done: bool,
    /// When this sweep began; `None` before the first.
    started: Option<Tick>,
}

impl Cursor {
    fn start(now: Tick) -> Self {
        Self { kind: Kind::Mapping, slot: 0, done: false, started: Some(now) }
    }
}

pub(super) struct Sweep {
    /// By worker: one that is stalled holds up nobody else.
    cursors: Vec<Cursor>,
    block_due: DueArray,
    owners: OwnerMap,
}

impl Sweep {
    pub(super) fn new(workers: usize, block_due: DueArray, owners: OwnerMap) -> Self {
        let never = Cursor { kind: Kind::Mapping, slot: 0, done: true, started: None };
        Self { cursors: vec![never; workers], block_due, owners }
    }

    pub(super) fn is_running(&self) -> bool {
        self.cursors.iter().any(|cursor| !cursor.done)
    }

    pub(super) fn restart(&mut self, now: Tick) {
        self.cursors.fill(Cursor::start(now));
    }

    /// Goes on with each worker's sweep, or begins its next one if it is time.
    pub(super) fn run(&mut self, links: &mut [Link], now: Tick) -> bool {
        let mut proposed = false;
        for (worker, link) in links.iter_mut().enumerate() {
            let cursor = &mut self.cursors[worker];
            if cursor.done {
                // Counted forward: a leap of any size (a replay begins) is time to sweep.
                if cursor.started.is_some_and(|at| now.0.wrapping_sub(at.0) < INTERVAL) {
                    continue;
                }
                *cursor = Cursor::start(now);
            }
            proposed |= self.sweep_worker(worker, link, now);
        }
        proposed
    }

    fn sweep_worker(&mut self, worker: usize, link: &mut Link, now: Tick) -> bool {
        let mut cursor = self.cursors[worker];
        let mut budget = WORDS_PER_ROUND;
        let mut proposed = false;
        while !cursor.done && budget > 0 && link.has_room() {
            let words = match cursor.kind {
                Kind::Mapping => &link.due.mappings,
                Kind::Session => &link.due.sessions,
                Kind::Association => &link.due.associations,
                Kind::Block => &self.block_due,
            };
            let mut batch: ArrayVec<Due, PROPOSALS> = ArrayVec::new();
            while cursor.slot < words.len() && budget > 0 && !batch.is_full() {
                budget -= 1;
                if let Some(generation) = words.due(cursor.slot, now)
                    && self.is_of(worker, cursor.kind, cursor.slot)
                {
                    batch.push((cursor.kind, cursor.slot as u32, generation));
                }
                cursor.slot += 1;
            }
            if cursor.slot == words.len() {
                cursor = match cursor.kind {
                    Kind::Mapping => Cursor { kind: Kind::Session, slot: 0, ..cursor },
                    Kind::Session => Cursor { kind: Kind::Association, slot: 0, ..cursor },
                    Kind::Association => Cursor { kind: Kind::Block, slot: 0, ..cursor },
                    Kind::Block => Cursor { done: true, ..cursor },
                };
            }
            if !batch.is_empty() {
                proposed = true;
                link.send(Command::Due(batch));
            }
        }
        self.cursors[worker] = cursor;
        proposed
    }

    /// Block words are shared by all workers; each is asked about its own.
    fn is_of(&self, worker: usize, kind: Kind, slot: usize) -> bool {
        kind != Kind::Block
            || self.owners.owner(slot as u32).is_some_and(|o| usize::from(o.worker) == worker)
    }
}
