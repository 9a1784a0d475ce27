//! Deadlines that housekeeping can read: one 64-bit word per record, written by the owner.
//!
//! A word is `generation << 32 | deadline tick`, or 0 when nothing is armed. It is a hint:
//! the owner moves a record's own deadline without touching the word, and arms it anew when
//! housekeeping proposes the record and it turns out not to be due. So a packet never
//! writes here, and a sweep reads eight bytes per record instead of a cache line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// A shared array of deadlines; single writer per entry, any reader.
#[derive(Clone)]
pub struct DueArray {
    words: Arc<[AtomicU64]>,
}

impl DueArray {
    /// An array with nothing armed.
    pub fn new(entries: usize) -> Self {
        Self { words: (0..entries).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Arms the entry of a record. Only the owner of the record calls this.
    ///
    /// `generation` is never 0 for a record in use, so an armed word is never 0.
    pub fn arm(&self, slot: u32, generation: u32, deadline: Tick) {
        let word = u64::from(generation) << 32 | u64::from(deadline.0);
        self.words[slot as usize].store(word, Ordering::Relaxed);
    }

    /// Disarms the entry.
    pub fn disarm(&self, slot: u32) {
        self.words[slot as usize].store(0, Ordering::Relaxed);
    }

    /// The generation to propose if the entry is due at `now`.
    pub fn due(&self, slot: usize, now: Tick) -> Option<u32> {
        let word = self.words[slot].load(Ordering::Relaxed);
        (word != 0 && now.reached(Tick(word as u32))).then_some((word >> 32) as u32)
    }

    /// Whether the entry is armed.
    pub fn is_armed(&self, slot: usize) -> bool {
        self.words[slot].load(Ordering::Relaxed) != 0
    }
}
