//! Which first packets a worker takes while it has more packets than it can.
//!
//! In a pressed tick (`pressure`) it begins a fixed number of flows, of which one subscriber gets
//! no more than it leaves to all others (decision 28). A worker that is not pressed begins all.
//!
//! Always true:
//! 1. the flows of one tick that begin while pressed are at most a tenth of the rate;
//! 2. a subscriber alone in its place that has begun fewer than are left gets one more;
//! 3. the answer depends on the calls alone: it has neither clock nor chance.

use crate::time::TICKS_PER_SECOND;

/// Subscribers that are told apart.
const PLACES: usize = 4096;

/// What first packets of one worker are let in.
pub struct FlowGuard {
    /// Flows per tick; `None`: it is off.
    per_tick: Option<u32>,
    is_pressed: bool,
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
            is_pressed: false,
            left: per_tick.unwrap_or(0),
            begun: Box::new([0; PLACES]),
            let_in: None,
        }
    }

    /// A poll begins while the worker is pressed or is not, maybe the first of a pressed tick.
    #[inline]
    pub fn note_poll(&mut self, is_pressed: bool, tick_begins: bool) {
        self.is_pressed = is_pressed && self.per_tick.is_some();
        if tick_begins {
            self.left = self.per_tick.unwrap_or(0);
            self.begun.fill(0);
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(per_second: u32) -> FlowGuard {
        let mut guard = FlowGuard::new(Some(per_second));
        guard.note_poll(true, true);
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
        guard.note_poll(false, false);
        assert_eq!(ask(&mut guard, 1, 5000), 5000);
        let mut off = FlowGuard::new(None);
        off.note_poll(true, true);
        assert!(!off.is_pressed() && !off.is_spent());
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
        guard.note_poll(true, false);
        assert_eq!(all(&mut guard), 0);
        guard.note_poll(true, true);
        assert_eq!(all(&mut guard), 100);
        guard.note_poll(false, false);
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
