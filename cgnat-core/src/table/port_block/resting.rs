//! Ports that rest after their use (RFC 6888 REQ-8): finding those whose rest is over, and ending a
//! rest early.

use super::{BlockLease, RESTING, words_of_one};
use crate::endpoint::Protocol;
use crate::time::Tick;

impl BlockLease {
    /// Ports of `protocol` that rest, those whose rest is over by now included.
    pub fn resting(&self, protocol: Protocol) -> u16 {
        self.record.resting[protocol as usize]
    }

    /// The port of `protocol` that has rested longest, the lowest of several, and the ticks
    /// that its rest still lasts. `within` is a bound on what the caller wants to know: a
    /// block in which every port rests longer than that is not read.
    pub fn oldest_resting(
        &mut self,
        protocol: Protocol,
        within: u32,
        now: Tick,
    ) -> Option<(u32, u16)> {
        let p = protocol as usize;
        // The bound may lie in the past; then everything is read.
        let soonest = self.record.next_due[p].wrapping_sub(now.0);
        if self.record.resting[p] == 0 || soonest < RESTING && soonest > within {
            return None;
        }
        let first_port = self.record.first_port;
        let resting = self.words_of(protocol).zip(0u16..);
        let resting = resting.filter(|(word, _)| *word & RESTING != 0);
        let left = |word: u32| match rest_is_over(word, now) {
            true => 0,
            false => (word & !RESTING).wrapping_sub(now.0) & !RESTING,
        };
        let (left, port) = resting.map(|(word, n)| (left(word), first_port + n)).min()?;
        self.record.next_due[p] = now.0.wrapping_add(left);
        Some((left, port))
    }

    /// Ends the rest of `port` before its time.
    ///
    /// # Panics
    /// If it does not rest.
    pub fn cut_rest(&mut self, protocol: Protocol, port: u16) {
        let slot = self.slot_of(protocol, port);
        let word = self.read(slot);
        assert!(word & RESTING != 0, "port {port} does not rest");
        self.write(slot, 0);
        self.clear_taken(protocol, port);
        self.record.resting[protocol as usize] -= 1;
        let last = self.record.last_due;
        if word & !RESTING == last & !RESTING {
            // It may have been the only one due so late.
            let resting = self.words().filter(|word| *word & RESTING != 0);
            let early = resting.map(|word| last.wrapping_sub(word) & !RESTING).min();
            self.record.last_due = last.wrapping_sub(early.unwrap_or(0));
        }
    }

    /// Frees the ports of `protocol` whose rest is over. One pass over the slots.
    pub(super) fn reclaim(&mut self, protocol: Protocol, now: Tick) {
        let p = protocol as usize;
        let size = usize::from(self.record.size);
        let words = words_of_one(self.record.size);
        let mut next: Option<u32> = None;
        for offset in 0..size {
            let word = self.read(p * size + offset);
            if word & RESTING == 0 {
                continue;
            }
            if rest_is_over(word, now) {
                self.write(p * size + offset, 0);
                self.taken[p * words + offset / 64] &= !(1 << (offset % 64));
                self.record.resting[p] -= 1;
            } else {
                let left = (word & !RESTING).wrapping_sub(now.0) & !RESTING;
                let due = now.0.wrapping_add(left);
                next = Some(next.map_or(due, |n| if Tick(due).before(Tick(n)) { due } else { n }));
            }
        }
        self.record.next_due[p] = next.unwrap_or(now.0);
    }
}

/// Whether the tick in a resting word has come.
pub(super) fn rest_is_over(word: u32, now: Tick) -> bool {
    now.0.wrapping_sub(word) & !RESTING < 1 << 30
}
