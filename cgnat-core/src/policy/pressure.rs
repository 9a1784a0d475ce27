//! Whether a worker has more packets than it can take.
//!
//! It is *pressed* from the poll on that is the 16th in a row with a full burst, until the end of the
//! next tick (decision 28). The answer depends on the calls alone: it has neither clock nor chance.

use crate::time::Tick;

/// Polls in a row with a full burst that make a worker pressed: with bursts of 32, half of a
/// receive queue.
pub const FULL_POLLS: u32 = 16;

/// The pressure on one worker.
#[derive(Debug, Default)]
pub struct Pressure {
    /// Polls in a row with a full burst.
    full_polls: u32,
    /// The last pressed tick.
    until: Tick,
    is_pressed: bool,
    /// The pressed tick that was told last.
    told: Option<Tick>,
}

impl Pressure {
    /// A poll begins; in the one before a burst was full, or none was. Says whether a pressed tick
    /// begins with it.
    pub fn note_poll(&mut self, was_full: bool, now: Tick) -> bool {
        self.full_polls = if was_full { self.full_polls.saturating_add(1) } else { 0 };
        if self.is_full() {
            self.until = Tick(now.0.wrapping_add(1));
            self.is_pressed = true;
        } else if self.is_pressed {
            self.is_pressed = self.until.reached(now);
        }
        let begins = self.is_pressed && self.told != Some(now);
        if begins {
            self.told = Some(now);
        }
        begins
    }

    /// Whether it is in a pressed tick.
    #[inline]
    pub fn is_pressed(&self) -> bool {
        self.is_pressed
    }

    /// Whether the receive queues have stayed full until now.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.full_polls >= FULL_POLLS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_full_polls_in_a_row_press_and_fifteen_do_not() {
        let mut pressure = Pressure::default();
        for _ in 0..10 {
            (1..FULL_POLLS).for_each(|_| assert!(!pressure.note_poll(true, Tick(0))));
            assert!(!pressure.note_poll(false, Tick(0)) && !pressure.is_pressed());
        }
        (1..FULL_POLLS).for_each(|_| assert!(!pressure.note_poll(true, Tick(0))));
        assert!(pressure.note_poll(true, Tick(0)), "the first tick as any other");
        assert!(pressure.is_full() && pressure.is_pressed());
    }

    #[test]
    fn it_holds_until_the_end_of_the_next_tick_and_tells_each_once() {
        let mut pressure = Pressure::default();
        (0..FULL_POLLS).for_each(|_| _ = pressure.note_poll(true, Tick(700)));
        assert!(!pressure.note_poll(false, Tick(700)) && pressure.is_pressed());
        assert!(!pressure.is_full());
        assert!(pressure.note_poll(false, Tick(701)) && pressure.is_pressed());
        assert!(!pressure.note_poll(false, Tick(701)));
        assert!(!pressure.note_poll(false, Tick(702)) && !pressure.is_pressed());
    }
}
