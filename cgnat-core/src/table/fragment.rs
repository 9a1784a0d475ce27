//! Fragment contexts: what is known of each datagram whose fragments come one by one.
//!
//! The first fragment has the ports; a context lets the others share them. It remembers the
//! range of every fragment, so that one that overlaps or repeats another is seen. Nothing is
//! reassembled. One worker owns the table. Always true:
//! 1. a context lives until its datagram is complete, at most for the time that its opener
//!    said; the oldest is always the next to be due, because all get the same time;
//! 2. nothing that lives is closed to make room: a full table refuses, and so does a full
//!    share of one party (a subscriber; of the Internet, a source or an external address), and
//!    what the group of a subscriber allows instead of a share;
//! 3. those whose first fragment has not been sent on take half of the table at most unless
//!    they begin with it, those from the Internet three quarters: in-order and outbound
//!    datagrams find room in any flood of later fragments;
//! 4. work per fragment is bounded by [`RANGES`] and the hash chain.

mod parties;

pub use parties::Claim;
use parties::{Claimed, Parties, Shares};

use crate::time::Instant;

/// Fragments of one datagram that are told apart: 65,535 bytes over a link of MTU 1280.
pub const RANGES: usize = 53;

/// One party may have this part of the table.
const PARTS_PER_TABLE: u32 = 16;

/// No context.
pub const NONE: u32 = u32::MAX;

/// What the fragments of one datagram have in common (RFC 791).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FragmentKey {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Identification.
    pub identification: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// What is known of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Its first fragment has not been translated yet.
    #[default]
    Unknown,
    /// Source and destination port, or twice the query identifier; the identification that
    /// its fragments leave with.
    Open {
        /// Ports as the fragments arrived with them.
        ports: (u16, u16),
        /// New identification.
        identification: u16,
    },
    /// None of its fragments is sent on any more.
    Refused,
}

impl State {
    fn is_open(self) -> bool {
        matches!(self, State::Open { .. })
    }
}

/// What is wrong with a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// The same range as an earlier one.
    Duplicate,
    /// It overlaps an earlier one, or contradicts the end of the datagram.
    Overlap,
    /// One more than can be told apart.
    TooMany,
}

/// Why there is no context for a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The table has none left for its kind.
    Table,
    /// Its party has taken its share.
    Share,
}

#[derive(Clone)]
struct Context {
    key: FragmentKey,
    state: State,
    inbound: bool,
    claimed: Claimed,
    due: Instant,
    hash: u64,
    /// Next in the hash chain, or in the list of free ones.
    next: u32,
    older: u32,
    newer: u32,
    /// Bytes of the datagram's payload; 0 until the last fragment has come.
    end: u32,
    received: u32,
    count: u8,
    ranges: [(u16, u16); RANGES],
}

/// The contexts of one worker.
pub struct FragmentTable {
    contexts: Vec<Context>,
    heads: Vec<u32>,
    free: u32,
    oldest: u32,
    newest: u32,
    in_use: u32,
    not_open: u32,
    inbound: u32,
    parties: Parties,
    /// Datagrams, and fragments that wait, that the parties of one may have.
    shares: Shares,
    waiting_shares: Shares,
}

impl FragmentTable {
    /// Room for `capacity` contexts; `pending` fragments can wait. There is one such table for each
    /// of `workers` workers.
    pub fn new(capacity: u32, pending: u32, workers: u16) -> Self {
        // All fragments for an external address come to one table, so that it may have of this
        // what a share of all tables is.
        let shares = |all: u32| {
            let share = (all / PARTS_PER_TABLE).max(1);
            [share, (share * u32::from(workers)).min(all / 2).max(share)]
        };
        let context = |slot: u32| Context {
            key: FragmentKey::default(),
            state: State::Unknown,
            inbound: false,
            claimed: [NONE; 2],
            due: Instant::default(),
            hash: 0,
            next: if slot + 1 < capacity { slot + 1 } else { NONE },
            older: NONE,
            newer: NONE,
            end: 0,
            received: 0,
            count: 0,
            ranges: [(0, 0); RANGES],
        };
        Self {
            contexts: (0..capacity).map(context).collect(),
            heads: vec![NONE; (capacity as usize * 2).next_power_of_two()],
            free: if capacity > 0 { 0 } else { NONE },
            oldest: NONE,
            newest: NONE,
            in_use: 0,
            not_open: 0,
            inbound: 0,
            parties: Parties::new(capacity),
            shares: shares(capacity),
            waiting_shares: shares(pending),
        }
    }

    /// Bytes from the heap for `capacity` contexts.
    pub const fn bytes(capacity: usize) -> usize {
        capacity * (size_of::<Context>() + 4 * size_of::<u32>() + Parties::BYTES)
    }

    /// Contexts in use.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    /// The context of a datagram; `hash` is that of its key, with a secret.
    pub fn find(&self, hash: u64, key: FragmentKey) -> Option<u32> {
        let mut slot = self.heads[self.place(hash)];
        // Bounded: a chain holds each context once.
        while slot != NONE {
            let context = &self.contexts[slot as usize];
            if context.key == key {
                return Some(slot);
            }
            slot = context.next;
        }
        None
    }

    /// A context for a datagram that has none, until `due`; `is_first` if its first fragment
    /// is here.
    ///
    /// # Errors
    /// If there is no room.
    pub fn open(
        &mut self,
        (hash, key): (u64, FragmentKey),
        (inbound, is_first): (bool, bool),
        claim: Claim,
        due: Instant,
    ) -> Result<u32, NoRoom> {
        let capacity = self.contexts.len() as u32;
        if self.free == NONE
            || (!is_first && self.not_open >= capacity.div_ceil(2))
            || (inbound && self.inbound >= capacity - capacity / 4)
        {
            return Err(NoRoom::Table);
        }
        let claimed = self.parties.claim(claim, self.shares).ok_or(NoRoom::Share)?;
        let slot = self.free;
        let place = self.place(hash);
        let context = &mut self.contexts[slot as usize];
        self.free = context.next;
        (context.key, context.hash, context.claimed) = (key, hash, claimed);
        (context.state, context.inbound, context.due) = (State::Unknown, inbound, due);
        (context.end, context.received, context.count) = (0, 0, 0);
        context.next = self.heads[place];
        (context.older, context.newer) = (self.newest, NONE);
        self.heads[place] = slot;
        match self.newest {
            NONE => self.oldest = slot,
            newest => self.contexts[newest as usize].newer = slot,
        }
        self.newest = slot;
        self.in_use += 1;
        self.not_open += 1;
        self.inbound += u32::from(inbound);
        Ok(slot)
    }

    /// Notes a fragment of `len` bytes, at least one, at `offset`; nothing is noted if it is
    /// wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub fn add(&mut self, slot: u32, offset: usize, len: usize, more: bool) -> Result<(), Wrong> {
        let context = &mut self.contexts[slot as usize];
        let (first, end) = (offset as u32, (offset + len) as u32);
        let known = &context.ranges[..usize::from(context.count)];
        let overlaps = |(a, b): &(u16, u16)| first < u32::from(*b) && u32::from(*a) < end;
        if let Some((a, b)) = known.iter().find(|range| overlaps(range)) {
            let same_end = more == (context.end != u32::from(*b));
            let same = (u32::from(*a), u32::from(*b)) == (first, end) && same_end;
            return Err(if same { Wrong::Duplicate } else { Wrong::Overlap });
        }
        let furthest = known.iter().map(|(_, b)| u32::from(*b)).max().unwrap_or(0);
        let contradicts = match context.end {
            0 => !more && furthest > end,
            last => !more || end > last,
        };
        if contradicts {
            return Err(Wrong::Overlap);
        }
        if known.len() == RANGES {
            return Err(Wrong::TooMany);
        }
        context.ranges[usize::from(context.count)] = (first as u16, end as u16);
        context.count += 1;
        context.received += end - first;
        if !more {
            context.end = end;
        }
        Ok(())
    }

    /// Whether every fragment has come.
    pub fn is_complete(&self, slot: u32) -> bool {
        let context = &self.contexts[slot as usize];
        context.end > 0 && context.received == context.end
    }

    /// What is known of the datagram.
    pub fn state(&self, slot: u32) -> State {
        self.contexts[slot as usize].state
    }

    /// One more fragment of a datagram waits for the first; false if one of its parties has as
    /// many as it may.
    pub fn wait(&mut self, slot: u32) -> bool {
        self.parties.wait(self.contexts[slot as usize].claimed, self.waiting_shares)
    }

    /// One less waits.
    pub fn stop_waiting(&mut self, slot: u32) {
        self.parties.stop_waiting(self.contexts[slot as usize].claimed);
    }

    /// Whether it comes from the Internet.
    pub fn is_inbound(&self, slot: u32) -> bool {
        self.contexts[slot as usize].inbound
    }

    /// The first fragment has been translated or refused.
    pub fn learn(&mut self, slot: u32, state: State) {
        let context = &mut self.contexts[slot as usize];
        let before = context.state.is_open();
        context.state = state;
        self.not_open = self.not_open + u32::from(before) - u32::from(state.is_open());
    }

    /// The oldest context, if its time is over.
    pub fn due(&self, now: Instant) -> Option<u32> {
        (self.oldest != NONE && self.is_due(self.oldest, now)).then_some(self.oldest)
    }

    /// Any context, the oldest first.
    pub fn any(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Whether the time of a context is over.
    pub fn is_due(&self, slot: u32, now: Instant) -> bool {
        now >= self.contexts[slot as usize].due
    }

    /// Frees a context that is in use.
    pub fn close(&mut self, slot: u32) {
        let Context { hash, next, older, newer, inbound, claimed, state, .. } =
            self.contexts[slot as usize].clone();
        let place = self.place(hash);
        if self.heads[place] == slot {
            self.heads[place] = next;
        } else {
            let mut before = self.heads[place];
            while before != NONE && self.contexts[before as usize].next != slot {
                before = self.contexts[before as usize].next;
            }
            debug_assert_ne!(before, NONE, "context {slot} was not in its chain");
            if before != NONE {
                self.contexts[before as usize].next = next;
            }
        }
        match older {
            NONE => self.oldest = newer,
            older => self.contexts[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.contexts[newer as usize].older = older,
        }
        self.contexts[slot as usize].next = self.free;
        self.free = slot;
        self.in_use -= 1;
        self.not_open -= u32::from(!state.is_open());
        self.inbound -= u32::from(inbound);
        self.parties.release(claimed);
    }

    fn place(&self, hash: u64) -> usize {
        hash as usize & (self.heads.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: State = State::Open { ports: (1, 2), identification: 3 };

    fn key(n: u32) -> FragmentKey {
        FragmentKey { source: n, destination: 9, identification: 7, protocol: 17 }
    }

    fn open(table: &mut FragmentTable, n: u32, kind: (bool, bool)) -> Result<u32, NoRoom> {
        let due = Instant::from_millis(u64::from(n));
        let claim = Claim::of_subscriber(u64::from(n), None);
        table.open((u64::from(n % 5), key(n)), kind, claim, due)
    }

    #[test]
    fn ranges_that_overlap_repeat_or_contradict_the_end_are_seen() {
        let mut table = FragmentTable::new(64, 64, 1);
        let slot = open(&mut table, 1, (false, true)).expect("room");
        assert_eq!(table.add(slot, 16, 16, true), Ok(()));
        for (offset, len, more, wrong) in [
            (16, 16, true, Wrong::Duplicate),
            (16, 16, false, Wrong::Overlap),
            (16, 8, true, Wrong::Overlap),
            (24, 16, true, Wrong::Overlap),
            (8, 9, false, Wrong::Overlap),
            (0, 65_000, true, Wrong::Overlap),
            (0, 16, false, Wrong::Overlap),
        ] {
            assert_eq!(table.add(slot, offset, len, more), Err(wrong), "{offset} {len} {more}");
        }
        assert_eq!(table.add(slot, 32, 5, false), Ok(()));
        assert_eq!(table.add(slot, 32, 5, false), Err(Wrong::Duplicate));
        assert_eq!(table.add(slot, 40, 8, true), Err(Wrong::Overlap));
        assert!(!table.is_complete(slot));
        assert_eq!(table.add(slot, 0, 16, true), Ok(()));
        assert!(table.is_complete(slot));
    }

    #[test]
    fn as_many_fragments_are_told_apart_as_a_whole_datagram_has_over_1280_bytes() {
        let mut table = FragmentTable::new(64, 64, 1);
        let slot = open(&mut table, 1, (false, true)).expect("room");
        let mut offset = 0;
        while offset < 65_515 {
            let len = 1256.min(65_515 - offset);
            assert_eq!(table.add(slot, offset, len, offset + len < 65_515), Ok(()));
            offset += len;
        }
        assert!(table.is_complete(slot));
        let slot = open(&mut table, 2, (false, true)).expect("room");
        for n in 0..RANGES {
            assert_eq!(table.add(slot, n * 16, 8, true), Ok(()));
        }
        assert_eq!(table.add(slot, RANGES * 16, 8, true), Err(Wrong::TooMany));
    }

    #[test]
    fn contexts_are_found_until_closed_in_any_order_and_nothing_leaks() {
        let mut table = FragmentTable::new(64, 64, 1);
        for round in 0..50u32 {
            let slots: Vec<u32> =
                (0..32).map(|n| open(&mut table, n, (false, true)).expect("room")).collect();
            for n in 0..32 {
                assert_eq!(table.find(u64::from(n % 5), key(n)), Some(slots[n as usize]));
            }
            for n in 0..32 {
                let n = (n * 7 + round) % 32;
                table.close(slots[n as usize]);
                assert_eq!(table.find(u64::from(n % 5), key(n)), None);
            }
            assert_eq!((table.in_use(), table.any(), table.not_open), (0, None, 0));
        }
    }

    #[test]
    fn the_oldest_is_due_first_and_room_is_kept_for_in_order_and_outbound_datagrams() {
        let mut table = FragmentTable::new(64, 64, 1);
        let waiting = (0..64).map_while(|n| open(&mut table, n, (true, false)).ok()).count();
        assert_eq!(waiting, 32, "half may wait");
        let inbound = (100..164).map_while(|n| open(&mut table, n, (true, true)).ok());
        let slots: Vec<u32> = inbound.collect();
        assert_eq!(slots.len(), 16, "three quarters may be inbound");
        for slot in slots {
            table.learn(slot, OPEN);
        }
        let outbound = (200..264).map_while(|n| open(&mut table, n, (false, true)).ok()).count();
        assert_eq!(outbound, 16);
        for n in 0..32 {
            assert_eq!(table.due(Instant::from_millis(n).plus_millis(0)), Some(n as u32));
            assert_eq!(table.due(Instant::from_millis(n.saturating_sub(1))).is_some(), n == 0);
            table.close(n as u32);
        }
    }

    #[test]
    fn one_party_gets_a_sixteenth_and_the_others_find_room() {
        let mut table = FragmentTable::new(64, 64, 1);
        let due = Instant::from_millis(1);
        let mut take = |n: u32, source, destination| {
            let claim = Claim::of_stranger(source, destination);
            table.open((0, key(n)), (true, true), claim, due)
        };
        let count = (0..64).filter(|n| take(*n, 5, u64::from(*n) + 10).is_ok());
        assert_eq!(count.count(), 4);
        assert_eq!(take(99, 500, 5), Err(NoRoom::Share), "of either address");
        assert!(take(100, 6, 7).is_ok());
    }
}
