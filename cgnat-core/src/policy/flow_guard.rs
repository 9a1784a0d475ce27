//! Which first packets a worker takes while it has more packets than it can.
//!
//! A worker is *pressed* from the poll on that is the 16th in a row with a full burst, until the end
//! of the next tick. In a pressed tick it begins a fixed number of flows, of which one subscriber gets
//! no more than it leaves to all others (decision 28). A worker that is not pressed begins all.
//!
//! Always true:
//! 1. the flows of one tick that begin while pressed are at most a tenth of the rate;
//! 2. a subscriber alone in its place that has begun fewer than are left gets one more;
//! 3. the answer depends on the calls alone: it has neither clock nor chance.

use crate::time::{TICKS_PER_SECOND, Tick};

/// Subscribers that are told apart.
const PLACES: usize = 4096;

/// Polls in a row with a full burst that make a worker pressed: with bursts of 32, half of a
/// receive queue.
pub const FULL_POLLS: u32 = 16;

/// What first packets of one worker are let in.
pub struct FlowGuard {
    /// Flows per tick; `None`: it is off.
    per_tick: Option<u32>,
    /// Polls in a row with a full burst.
    full_polls: u32,
    /// The last pressed tick.
    until: Tick,
    is_pressed: bool,
    /// The tick that is counted.
    tick: Tick,
    /// Flows that may still begin in it.
    left: u32,
    /// Flows that have begun in it, by place.
    begun: Box<[u32; PLACES]>,
    /// Hash of the flow that was let in last.
    let_in: Option<u64>,
}

impl FlowGuard {
    /// One that lets a pressed worker begin `per_second` flows per second; `None` all.
    pub fn new(per_second: Option<u32>) -> Self {
        let per_tick = per_second.map(|rate| (rate / TICKS_PER_SECOND).max(1));
        Self {
            per_tick,
            full_polls: 0,
            until: Tick::default(),
            is_pressed: false,
            tick: Tick::default(),
            left: per_tick.unwrap_or(0),
            begun: Box::new([0; PLACES]),
            let_in: None,
        }
    }

    /// A poll begins; in the one before a burst was full, or none was. Says whether a pressed tick
    /// begins with it.
    pub fn note_poll(&mut self, was_full: bool, now: Tick) -> bool {
        if self.per_tick.is_none() {
            return false;
        }
        self.full_polls = if was_full { self.full_polls.saturating_add(1) } else { 0 };
        if self.full_polls >= FULL_POLLS {
            self.until = Tick(now.0.wrapping_add(1));
            self.is_pressed = true;
        } else if self.is_pressed {
            self.is_pressed = self.until.reached(now);
        }
        self.is_pressed && self.begin_tick(now)
    }

    /// Whether first packets are counted now.
    #[inline]
    pub fn is_pressed(&self) -> bool {
        self.is_pressed
    }

    /// Whether nobody begins a flow any more in this tick.
    #[inline]
    pub fn is_spent(&self) -> bool {
        self.is_pressed && self.left == 0
    }

    /// Whether the first packet of the flow with `hash` is let in, from a subscriber that hashes to
    /// `subscriber`. It is counted, once if it is asked for again at once.
    #[inline]
    pub fn lets_in(&mut self, hash: u64, subscriber: u64) -> bool {
        !self.is_pressed || self.lets_in_pressed(hash, subscriber)
    }

    #[cold]
    fn lets_in_pressed(&mut self, hash: u64, subscriber: u64) -> bool {
        if self.let_in.take() == Some(hash) {
            return true;
        }
        let begun = &mut self.begun[(subscriber >> 32) as usize % PLACES];
        if *begun >= self.left {
            return false;
        }
        *begun += 1;
        self.left -= 1;
        self.let_in = Some(hash);
        true
    }

    /// Begins to count `now` anew if it is another tick than the last.
    fn begin_tick(&mut self, now: Tick) -> bool {
        let is_new = self.tick != now;
        if is_new {
            self.tick = now;
            self.left = self.per_tick.unwrap_or(0);
            self.begun.fill(0);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick(700);

    fn pressed(per_second: u32) -> FlowGuard {
        let mut guard = FlowGuard::new(Some(per_second));
        (0..FULL_POLLS).for_each(|_| _ = guard.note_poll(true, NOW));
        assert!(guard.is_pressed());
        guard
    }

    /// How many of `flows` the subscriber of a place gets.
    fn ask(guard: &mut FlowGuard, place: u64, flows: u64) -> u64 {
        let hash = |flow| place << 32 | (1 << 63) | flow;
        (0..flows).filter(|flow| guard.lets_in(hash(*flow), place << 32)).count() as u64
    }

    #[test]
    fn a_worker_with_time_to_spare_begins_all() {
        let mut guard = FlowGuard::new(Some(1000));
        for _ in 0..10 {
            (1..FULL_POLLS).for_each(|_| assert!(!guard.note_poll(true, NOW)));
            guard.note_poll(false, NOW);
            assert_eq!(ask(&mut guard, 1, 5000), 5000);
        }
        let mut off = FlowGuard::new(None);
        (0..100).for_each(|_| assert!(!off.note_poll(true, NOW)));
        assert_eq!(ask(&mut off, 1, 5000), 5000);
    }

    #[test]
    fn one_gets_half_two_a_third_and_somebody_new_always_finds_something() {
        let mut guard = pressed(6000);
        assert_eq!(ask(&mut guard, 1, 5000), 300);
        let mut guard = pressed(6000);
        let mut got = [0; 2];
        for n in 0..10_000 {
            got[n % 2] += ask(&mut guard, n as u64 % 2, 1);
        }
        assert_eq!(got, [200, 200]);
        let mut guard = pressed(6000);
        for n in 0..100_000 {
            ask(&mut guard, n % 99, 1);
        }
        assert_eq!(ask(&mut guard, 4000, 1), 1, "six of 600 are left");
        assert!(!guard.is_spent());
    }

    #[test]
    fn a_tick_has_its_number_and_the_next_one_has_it_anew() {
        let mut guard = pressed(1000);
        let all = |guard: &mut FlowGuard| (0..PLACES as u64).map(|p| ask(guard, p, 3)).sum::<u64>();
        assert_eq!(all(&mut guard), 100);
        assert!(guard.is_spent());
        assert!(guard.note_poll(true, Tick(701)));
        assert!(!guard.note_poll(true, Tick(701)), "each tick is told once");
        assert_eq!(all(&mut guard), 100);
    }

    #[test]
    fn it_holds_until_the_end_of_the_next_tick() {
        let mut guard = pressed(1000);
        guard.note_poll(false, Tick(700));
        assert!(guard.is_pressed());
        assert!(guard.note_poll(false, Tick(701)));
        assert!(guard.is_pressed());
        guard.note_poll(false, Tick(702));
        assert!(!guard.is_pressed());
        assert_eq!(ask(&mut guard, 1, 5000), 5000);
    }

    #[test]
    fn a_flow_that_is_asked_for_twice_in_a_row_counts_once() {
        let mut guard = pressed(1000);
        for flow in 0..50 {
            assert!(guard.lets_in(flow, 9 << 32) && guard.lets_in(flow, 9 << 32));
        }
        assert!(!guard.lets_in(99, 9 << 32));
        assert_eq!(ask(&mut guard, 10, 50), 25);
    }
}
