//! Deadlines that housekeeping can read: one 16-bit word per record, written by the owner.
//!
//! A word is the low half of the deadline's tick, or 0 when nothing is armed. It is a hint, early
//! if need be and never late: the owner moves a record's own deadline without touching the word,
//! and arms it anew when housekeeping proposes the record and it turns out not to be due. So a
//! packet never writes here, a sweep reads two bytes per record instead of a cache line, and a
//! deadline that half a tick cannot hold is one that is looked at on the way.

use std::sync::atomic::{AtomicU16, Ordering};

use crate::time::Tick;

/// What an entry of a [`DueArray`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A mapping, or the TCP session inside it.
    Mapping,
    /// A further TCP session.
    Session,
    /// A record of a flow without ports.
    Association,
    /// A port block without mappings.
    Block,
}

/// Ticks that a word is armed ahead at most, 27 minutes: half of those that are told from the past.
const HORIZON: u32 = 1 << 14;

/// Ticks during which a word that has become due shows it, 54 minutes.
const SHOWN: u16 = 1 << 15;

/// A sweep that follows the one before it by so many ticks or more takes every armed word for due:
/// words that became due between the two need not show it any more.
pub const MAX_GAP: u32 = HORIZON;

/// A shared array of deadlines; single writer per entry, any reader.
#[derive(Clone, Copy)]
pub struct DueArray {
    words: &'static [AtomicU16],
}

impl DueArray {
    /// An array in zeroed memory: nothing is armed.
    pub fn new(words: &'static [AtomicU16]) -> Self {
        Self { words }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Arms the entry of a record at `now`. Only the owner of the record calls this.
    #[inline]
    pub fn arm(&self, slot: u32, deadline: Tick, now: Tick) {
        let ahead = match now.reached(deadline) {
            true => 0,
            false => deadline.0.wrapping_sub(now.0).min(HORIZON),
        };
        // A word that would be 0 is a tick early.
        let tick = now.0.wrapping_add(ahead) as u16;
        let word = if tick == 0 { u16::MAX } else { tick };
        self.words[slot as usize].store(word, Ordering::Relaxed);
    }

    /// The entry itself, for a hint.
    #[inline]
    pub fn entry(&self, slot: u32) -> Option<&AtomicU16> {
        self.words.get(slot as usize)
    }

    /// Disarms the entry.
    pub fn disarm(&self, slot: u32) {
        self.words[slot as usize].store(0, Ordering::Relaxed);
    }

    /// The first entry of `from..to` that may be due at `now`; every armed one is if `all`.
    #[inline]
    pub fn first_due(&self, from: usize, to: usize, now: Tick, all: bool) -> Option<usize> {
        let shown = if all { u16::MAX } else { SHOWN - 1 };
        let now = now.0 as u16;
        let is_due = |word: &AtomicU16| {
            let word = word.load(Ordering::Relaxed);
            word != 0 && now.wrapping_sub(word) <= shown
        };
        self.words[from..to].iter().position(is_due).map(|place| from + place)
    }

    /// Whether the entry is armed.
    pub fn is_armed(&self, slot: usize) -> bool {
        self.words[slot].load(Ordering::Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory::records;

    fn array() -> DueArray {
        DueArray::new(&*records::<AtomicU16>(1))
    }

    fn is_due(due: DueArray, now: u32) -> bool {
        due.first_due(0, 1, Tick(now), false).is_some()
    }

    #[test]
    fn a_word_is_due_from_its_tick_on_and_never_later_wherever_the_count_stands() {
        let due = array();
        for now in [0, 1, 65_000, 65_535, 65_536, 1 << 31, u32::MAX - 7] {
            for ahead in [0u32, 1, 9, 534, 535, 536, 537, 3_000, HORIZON] {
                let deadline = now.wrapping_add(ahead);
                due.arm(0, Tick(deadline), Tick(now));
                assert!(due.is_armed(0));
                let is_early = deadline as u16 == 0;
                for at in 0..ahead {
                    let early = is_early && at + 1 == ahead;
                    assert_eq!(is_due(due, now.wrapping_add(at)), early, "{now} {ahead} {at}");
                }
                for late in [0, 1, 5, MAX_GAP] {
                    assert!(is_due(due, deadline.wrapping_add(late)), "{now} {ahead} {late}");
                }
            }
        }
    }

    #[test]
    fn a_deadline_beyond_the_horizon_is_looked_at_on_the_way() {
        let due = array();
        for ahead in [HORIZON + 1, 74_400, 1 << 20, (1 << 31) - 1] {
            due.arm(0, Tick(5 + ahead), Tick(5));
            assert!(!is_due(due, 5 + HORIZON - 1), "{ahead}");
            assert!(is_due(due, 5 + HORIZON), "{ahead}");
        }
    }

    #[test]
    fn what_is_past_is_due_at_once_and_a_sweep_after_a_leap_finds_all() {
        let due = array();
        due.arm(0, Tick(100), Tick(1_000_000));
        assert!(is_due(due, 1_000_000));
        due.arm(0, Tick(2_000), Tick(1_000));
        for now in [1_001, 2_000, 2_000 + u32::from(SHOWN), 3_000_000] {
            assert_eq!(due.first_due(0, 1, Tick(now), true), Some(0), "{now}");
        }
        due.disarm(0);
        assert_eq!(due.first_due(0, 1, Tick(3_000_000), true), None);
        assert!(!due.is_armed(0));
    }
}
