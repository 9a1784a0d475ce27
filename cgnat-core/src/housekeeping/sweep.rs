//! The sweep over deadline words: who may be due?
//!
//! Live, a sweep begins every half second of NAT time and visits a bounded number of words per
//! round. Proposals go out in batches; a worker whose channel is full is left where the sweep
//! stopped and goes on in the next round. A replay is told when to sweep.

use arrayvec::ArrayVec;

use super::Link;
use crate::control::{Command, Due, PROPOSALS};
use crate::space::OwnerMap;
use crate::table::due::{DueArray, Kind, MAX_GAP};
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::worker::TimeSource;

/// Words per worker and round.
const WORDS_PER_ROUND: usize = 1 << 18;

/// Ticks between the starts of two sweeps.
const INTERVAL: u32 = TICKS_PER_SECOND / 2;

/// Proposals of one message.
type Batch = ArrayVec<Due, PROPOSALS>;

/// Where the sweep over one worker's words stands.
#[derive(Clone, Copy)]
struct Cursor {
    kind: Kind,
    slot: usize,
    done: bool,
    /// When this sweep began; `None` before the first.
    started: Option<Tick>,
    /// Whether words need not show any more what has become due since the sweep before.
    all: bool,
}

impl Cursor {
    /// The sweep after this one.
    fn next(self, now: Tick) -> Self {
        let all = self.started.is_none_or(|at| now.0.wrapping_sub(at.0) >= MAX_GAP);
        Self { kind: Kind::Mapping, slot: 0, done: false, started: Some(now), all }
    }
}

pub(super) struct Sweep {
    /// By worker: one that is stalled holds up nobody else.
    cursors: Vec<Cursor>,
    block_due: DueArray,
    owners: OwnerMap,
    time: TimeSource,
}

impl Sweep {
    pub(super) fn new(
        workers: usize,
        block_due: DueArray,
        owners: OwnerMap,
        time: TimeSource,
    ) -> Self {
        let never = Cursor { kind: Kind::Mapping, slot: 0, done: true, started: None, all: true };
        Self { cursors: vec![never; workers], block_due, owners, time }
    }

    pub(super) fn is_running(&self, worker: usize) -> bool {
        !self.cursors[worker].done
    }

    /// A whole sweep at once, however long it is and whatever room there is. The workers, which
    /// rest, hear of nothing before its end: what is proposed does not depend on how fast they act.
    pub(super) fn all(&mut self, links: &mut [Link], now: Tick) {
        for (worker, link) in links.iter_mut().enumerate() {
            self.cursors[worker] = self.cursors[worker].next(now);
            while !self.cursors[worker].done {
                let (_, batch) = self.visit(worker, link, now, usize::MAX);
                if !batch.is_empty() {
                    link.backlog.push_back(Command::Due(batch));
                }
            }
        }
        links.iter_mut().for_each(Link::flush);
    }

    /// Goes on with each worker's sweep, or begins its next one if it is time. Of a replay it is
    /// not: where its packets are when a sweep happens to run depends on threads.
    pub(super) fn run(&mut self, links: &mut [Link], now: Tick) -> bool {
        let mut proposed = false;
        for (worker, link) in links.iter_mut().enumerate() {
            let cursor = &mut self.cursors[worker];
            if cursor.done {
                // Counted forward: a leap of any size is time to sweep.
                let is_early = cursor.started.is_some_and(|at| now.0.wrapping_sub(at.0) < INTERVAL);
                if is_early || self.time == TimeSource::Packets {
                    continue;
                }
                *cursor = cursor.next(now);
            }
            let mut budget = WORDS_PER_ROUND;
            while !self.cursors[worker].done && budget > 0 && link.has_room() {
                let (visited, batch) = self.visit(worker, link, now, budget);
                budget -= visited;
                if !batch.is_empty() {
                    proposed = true;
                    link.send(Command::Due(batch));
                }
            }
        }
        proposed
    }

    /// Visits words of one kind, at most `most` and until a batch is full: how many, and what may
    /// be due.
    fn visit(&mut self, worker: usize, link: &Link, now: Tick, most: usize) -> (usize, Batch) {
        let mut cursor = self.cursors[worker];
        let words = match cursor.kind {
            Kind::Mapping => &link.due.mappings,
            Kind::Session => &link.due.sessions,
            Kind::Association => &link.due.associations,
            Kind::Block => &self.block_due,
        };
        let mut batch = Batch::new();
        let first = cursor.slot;
        let end = words.len().min(first.saturating_add(most));
        while cursor.slot < end && !batch.is_full() {
            let Some(due) = words.first_due(cursor.slot, end, now, cursor.all) else {
                cursor.slot = end;
                break;
            };
            if self.is_of(worker, cursor.kind, due) {
                batch.push((cursor.kind, due as u32));
            }
            cursor.slot = due + 1;
        }
        let visited = cursor.slot - first;
        if cursor.slot == words.len() {
            cursor = match cursor.kind {
                Kind::Mapping => Cursor { kind: Kind::Session, slot: 0, ..cursor },
                Kind::Session => Cursor { kind: Kind::Association, slot: 0, ..cursor },
                Kind::Association => Cursor { kind: Kind::Block, slot: 0, ..cursor },
                Kind::Block => Cursor { done: true, ..cursor },
            };
        }
        self.cursors[worker] = cursor;
        (visited, batch)
    }

    /// Block words are shared by all workers; each is asked about its own.
    fn is_of(&self, worker: usize, kind: Kind, slot: usize) -> bool {
        kind != Kind::Block
            || self.owners.owner(slot as u32).is_some_and(|o| usize::from(o.worker) == worker)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use crossbeam_channel::{bounded, unbounded};

    use super::*;
    use crate::shard::ShardDue;
    use crate::testing::memory::records;

    fn link() -> Link {
        let (commands, untaken) = bounded(8);
        let words = || DueArray::new(&*records(4));
        let due = ShardDue { mappings: words(), sessions: words(), associations: words() };
        let events = unbounded().1;
        let backlog = VecDeque::new();
        Link { commands, untaken, events, due, backlog, owes_barrier: false, barriers: 0 }
    }

    fn sweep(time: TimeSource) -> Sweep {
        Sweep::new(1, DueArray::new(&[]), OwnerMap::new(0), time)
    }

    #[test]
    fn a_sweep_begins_by_itself_live_and_only_when_told_to_in_a_replay() {
        for (time, by_itself) in [(TimeSource::Clock, true), (TimeSource::Packets, false)] {
            let (mut sweep, mut links) = (sweep(time), [link()]);
            links[0].due.mappings.arm(3, Tick(20), Tick(5));
            assert_eq!(sweep.run(&mut links, Tick(25)), by_itself, "{time:?}");
            assert_eq!(!links[0].commands.is_empty(), by_itself, "{time:?}");
            sweep.all(&mut links, Tick(26));
            let proposed = links[0].untaken.try_iter().last();
            let Some(Command::Due(batch)) = proposed else { panic!("{time:?}: nothing") };
            assert_eq!(batch[..], [(Kind::Mapping, 3)]);
            assert!(!sweep.is_running(0));
        }
    }
}
