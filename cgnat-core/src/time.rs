//! Time as the core sees it: always an argument, never read from a clock.
//!
//! Two units. [`Instant`] is nanoseconds from an origin that the caller chose. [`Tick`] is
//! what records hold: tenths of a second in 32 bits, compared with wrap-around, so a record
//! stays right across the wrap (13.6 years) as long as no two compared ticks are more than
//! 6.8 years apart.

use std::fmt;

/// Nanoseconds of one tick: 100 ms.
const TICK_NS: u64 = 100_000_000;

/// Ticks of one second.
pub const TICKS_PER_SECOND: u32 = 10;

/// A moment, nanoseconds since the caller's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The moment `ns` nanoseconds after the origin.
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// The moment `ms` milliseconds after the origin.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    /// Nanoseconds since the origin.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The tick that this moment lies in.
    pub const fn tick(self) -> Tick {
        Tick((self.0 / TICK_NS) as u32)
    }

    /// This moment plus milliseconds.
    pub const fn plus_millis(self, ms: u64) -> Self {
        Self(self.0 + ms * 1_000_000)
    }
}

/// A moment in tenths of a second, with wrap-around.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tick(pub u32);

impl Tick {
    /// The first tick at which something that was idle since `self` for `seconds` is due.
    ///
    /// One tick is added because `self` may have begun up to a tick before the packet; a
    /// timer may therefore run up to 100 ms long, never short (RFC minimums are "not less").
    #[must_use]
    pub const fn plus_seconds(self, seconds: u32) -> Tick {
        Tick(self.0.wrapping_add(seconds * TICKS_PER_SECOND + 1))
    }

    /// Whether `deadline` has come.
    #[must_use]
    pub const fn reached(self, deadline: Tick) -> bool {
        self.0.wrapping_sub(deadline.0) < 1 << 31
    }

    /// Whether this tick lies strictly before `other`.
    #[must_use]
    pub const fn before(self, other: Tick) -> bool {
        !self.reached(other)
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}s", self.0 / TICKS_PER_SECOND, self.0 % TICKS_PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_never_runs_short_and_at_most_one_tick_long() {
        for start_ms in [0, 1, 99, 100, 12_345] {
            let deadline = Instant::from_millis(start_ms).tick().plus_seconds(120);
            assert!(!Instant::from_millis(start_ms + 120_000 - 1).tick().reached(deadline));
            assert!(Instant::from_millis(start_ms + 120_000 + 100).tick().reached(deadline));
        }
    }

    #[test]
    fn ticks_compare_across_the_wrap() {
        let start = Tick(u32::MAX - 5);
        let deadline = start.plus_seconds(60);
        assert!(!start.reached(deadline));
        assert!(!Tick(100).reached(deadline));
        assert!(Tick(595).reached(deadline));
        assert!(start.before(deadline));
    }
}
