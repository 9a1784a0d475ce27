//! Identifications of packets that are, or may become, fragmented (RFC 6864).
//!
//! An array of counters; a keyed hash of (source, destination, protocol) says which one.
//! Two such triples that share a counter never meet in one number either, they only use it
//! up faster. The 65536 numbers are divided among the shards by their remainder, because
//! several shards send from one address. Always true:
//! 1. two numbers that one counter gave are different unless the counter came round between;
//! 2. coming round in less than the lifetime of a datagram is told, and never refused: the
//!    sender decides on its rate (RFC 6864 section 4.3), and a shard's numbers are few;
//! 3. where a counter starts cannot be foreseen.

use crate::time::{TICKS_PER_SECOND, Tick};

/// Counters of one shard, a power of two.
pub const COUNTERS: usize = 4096;

/// Parts of a round of which the time is known.
const PARTS: usize = 8;

/// How long a number must not be used again, ticks: 120 s, the usual reading of the maximum
/// datagram lifetime, and one for the tick that the first use lies in.
const LIFETIME: u32 = 120 * TICKS_PER_SECOND + 1;

/// A number for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// The number.
    pub identification: u16,
    /// It may have been given to a packet that can still be under way. Told of a whole part
    /// of the round if that is so for its last number: never too seldom.
    pub may_repeat: bool,
}

#[derive(Clone, Copy)]
struct Counter {
    /// Numbers given in this round.
    given: u16,
    /// What is added to them, modulo the round.
    start: u16,
    /// Parts of the round whose time is known.
    seen: u8,
    /// When the last number of each part was given.
    ended: [Tick; PARTS],
}

/// The counters of one shard.
pub struct Identifications {
    counters: Vec<Counter>,
    shard: u16,
    shards: u16,
    /// How many numbers the shard has.
    round: u32,
}

impl Identifications {
    /// For `shard` of `shards`; `start` gives unpredictable numbers for 0, 1, 2, ...
    ///
    /// # Panics
    /// Without shards.
    pub fn new(shard: u16, shards: u16, start: impl Fn(u64) -> u32) -> Self {
        let round = 65_536 / u32::from(shards);
        let counter = |place: usize| Counter {
            given: 0,
            start: (start(place as u64) % round) as u16,
            seen: 0,
            ended: [Tick::default(); PARTS],
        };
        Self { counters: (0..COUNTERS).map(counter).collect(), shard, shards, round }
    }

    /// The shard that a number is of.
    pub fn shard_of(&self, identification: u16) -> u16 {
        identification % self.shards
    }

    /// Bytes that [`Identifications::new`] takes from the heap.
    pub const fn bytes() -> usize {
        COUNTERS * size_of::<Counter>()
    }

    /// The next number for a triple with this hash.
    pub fn next(&mut self, hash: u64, now: Tick) -> Given {
        let counter = &mut self.counters[hash as usize % COUNTERS];
        let place = u32::from(counter.given);
        let following = if place + 1 == self.round { 0 } else { place + 1 };
        let part_of = |place: u32| place as usize * PARTS / self.round as usize;
        let part = part_of(place);
        let known = counter.seen & 1 << part != 0;
        let may_repeat = known && now.0.wrapping_sub(counter.ended[part].0) < LIFETIME;
        if part_of(following) != part {
            counter.seen |= 1 << part;
            counter.ended[part] = now;
        }
        counter.given = following as u16;
        let number = (place + u32::from(counter.start)) % self.round;
        Given { identification: (number * u32::from(self.shards)) as u16 + self.shard, may_repeat }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn shards_never_give_the_same_number_and_each_gives_all_of_its_own() {
        for shards in [1u16, 2, 3, 4, 7, 64] {
            let mut all = BTreeSet::new();
            for shard in 0..shards {
                let mut table = Identifications::new(shard, shards, |n| n as u32 * 77);
                for _ in 0..65_536 / u32::from(shards) {
                    let given = table.next(5, Tick(9));
                    assert!(all.insert(given.identification), "{shards} shards");
                    assert!(!given.may_repeat);
                }
            }
            assert!(all.len() > 65_536 - usize::from(shards));
        }
    }

    #[test]
    fn a_number_that_comes_again_within_120_s_is_told_and_never_missed() {
        let (steps, seconds) = (65_536 / 8, [8, 15, 18, 26, 19, 8, 19, 17, 21, 19, 36, 2]);
        let mut table = Identifications::new(0, 1, |_| 40_000);
        let (mut last, mut now) = (vec![None; 65_536], Tick(u32::MAX - 1500));
        let (mut repeats, mut told, mut quiet) = (0, 0, 0);
        for round in 0..60 {
            for step in 0..steps {
                if step % 512 == 0 {
                    now = Tick(now.0.wrapping_add(seconds[round % 12] * 10 / 16));
                }
                let given = table.next(0, now);
                let before: &mut Option<Tick> = &mut last[usize::from(given.identification)];
                if before.is_some_and(|then| now.0.wrapping_sub(then.0) < 1200) {
                    repeats += 1;
                    assert!(given.may_repeat);
                }
                told += u32::from(given.may_repeat);
                quiet += u32::from(!given.may_repeat);
                *before = Some(now);
            }
        }
        assert!(repeats > 10_000 && quiet > 10_000, "{repeats} {quiet}");
        assert!(told < repeats * 3, "{told} told, {repeats} true");
    }
}
