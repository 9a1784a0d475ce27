//! What a worker does while it has nothing to do (decision 6).
//!
//! Always true:
//! 1. a rest never takes longer than [`LONGEST`], so nothing needs to wake a worker: packets,
//!    commands of housekeeping, what other workers hand over and the end of the run are found by
//!    the next poll;
//! 2. a rest is at most an eighth of the pause before it: what comes after a short pause waits a
//!    short time;
//! 3. with `system.idle: busy` there is none, and no system call either.

use std::num::NonZeroU64;
use std::time::Duration;

use cgnat_core::config::Idle;
use cgnat_core::time::Instant;

/// Polls without work before a worker lets others have its CPU.
const SPINS: u32 = 64;

/// Polls without work before it sleeps; in those between it lets others go first.
const YIELDS: u32 = 512;

/// A sleep is this part of the pause before it.
const PART: u64 = 8;

/// The shortest sleep; what is shorter costs the kernel more than it gains.
const SHORTEST: Duration = Duration::from_micros(10);

/// The longest sleep.
pub const LONGEST: Duration = Duration::from_micros(200);

/// What is to be done until the next poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Spin,
    Yield,
    Sleep(Duration),
}

/// The rests of one worker.
pub struct Resting {
    mode: Idle,
    /// Polls without work since the last one with.
    polls: u32,
    /// When the first of them was.
    since: Instant,
}

impl Resting {
    /// For the calling thread, whose sleeps become as exact as the kernel can make them: ordinary
    /// ones last 50 us longer. What keeps it from that is returned.
    pub fn new(mode: Idle) -> (Self, Option<std::io::Error>) {
        let refused = match mode {
            Idle::Adaptive => rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).err(),
            Idle::Busy => None,
        };
        (Self { mode, polls: 0, since: Instant::default() }, refused.map(Into::into))
    }

    /// There was work.
    #[inline]
    pub fn end(&mut self) {
        self.polls = 0;
    }

    /// There was none in the poll at `now`.
    pub fn rest(&mut self, now: Instant) {
        match self.next(now) {
            Rest::Spin => std::hint::spin_loop(),
            Rest::Yield => std::thread::yield_now(),
            Rest::Sleep(time) => std::thread::sleep(time),
        }
    }

    fn next(&mut self, now: Instant) -> Rest {
        if self.polls == 0 {
            self.since = now;
        }
        self.polls = self.polls.saturating_add(1);
        match self.mode {
            Idle::Busy => Rest::Spin,
            Idle::Adaptive if self.polls <= SPINS => Rest::Spin,
            Idle::Adaptive if self.polls <= YIELDS => Rest::Yield,
            Idle::Adaptive => {
                let pause = now.nanos().saturating_sub(self.since.nanos());
                Rest::Sleep(Duration::from_nanos(pause / PART).clamp(SHORTEST, LONGEST))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resting(mode: Idle) -> Resting {
        Resting { mode, polls: 0, since: Instant::default() }
    }

    /// The rests of polls that are each a microsecond long, until so many microseconds are over.
    fn pause(resting: &mut Resting, from: u64, microseconds: u64) -> Vec<Rest> {
        let (mut at, mut rests) = (from * 1000, Vec::new());
        while at < (from + microseconds) * 1000 {
            let rest = resting.next(Instant::from_nanos(at));
            at += 1000 + if let Rest::Sleep(time) = rest { time.as_nanos() as u64 } else { 0 };
            rests.push(rest);
        }
        rests
    }

    #[test]
    fn rests_grow_with_the_pause_and_begin_anew_after_work() {
        let mut resting = resting(Idle::Adaptive);
        for from in [5, 1_000_000] {
            let rests = pause(&mut resting, from, 100_000);
            let count = |of: Rest| rests.iter().filter(|rest| **rest == of).count();
            assert_eq!(count(Rest::Spin), SPINS as usize);
            assert_eq!(count(Rest::Yield), (YIELDS - SPINS) as usize);
            let sleeps = rests.iter().filter_map(|rest| match rest {
                Rest::Sleep(time) => Some(*time),
                _ => None,
            });
            let sleeps: Vec<Duration> = sleeps.collect();
            assert!(sleeps.is_sorted() && sleeps[0] < LONGEST / 2, "{sleeps:?}");
            assert_eq!(sleeps.last(), Some(&LONGEST));
            // Most of a long pause is slept through.
            let slept: Duration = sleeps.iter().sum();
            assert!(slept > Duration::from_millis(98), "{slept:?}");
            resting.end();
        }
    }

    #[test]
    fn no_rest_is_longer_than_an_eighth_of_the_pause_or_than_the_longest() {
        let mut resting = resting(Idle::Adaptive);
        let mut at = 0;
        while at < 10_000_000 {
            if let Rest::Sleep(time) = resting.next(Instant::from_nanos(at)) {
                let time = time.as_nanos() as u64;
                assert!(time <= (at / PART).max(10_000) && time <= 200_000, "{time} at {at}");
            }
            at += 700;
        }
    }

    #[test]
    fn a_busy_worker_never_rests() {
        let rests = pause(&mut resting(Idle::Busy), 0, 10_000);
        assert_eq!(rests, [Rest::Spin; 10_000]);
    }
}
