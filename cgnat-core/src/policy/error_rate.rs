//! How many ICMP errors the box sends: bounded per receiver and in all (RFC 1812 section
//! 4.3.2.8), so that nobody can use it to flood somebody.

/// Errors to one receiver per second. Traceroute asks for a dozen at once.
pub const PER_RECEIVER: u32 = 20;

/// Errors in all per second and worker.
pub const IN_ALL: u32 = 1_000;

/// Receivers that are told apart; two that share a place share its rate.
const PLACES: usize = 256;

/// One second of one place.
#[derive(Clone, Copy, Default)]
struct Spent {
    second: u32,
    count: u32,
}

impl Spent {
    fn take(&mut self, second: u32, most: u32) -> bool {
        if self.second != second {
            *self = Spent { second, count: 0 };
        }
        let allowed = self.count < most;
        self.count += u32::from(allowed);
        allowed
    }
}

/// The rate of one worker.
pub struct ErrorRate {
    in_all: Spent,
    receivers: [Spent; PLACES],
}

impl Default for ErrorRate {
    fn default() -> Self {
        Self { in_all: Spent::default(), receivers: [Spent::default(); PLACES] }
    }
}

impl ErrorRate {
    /// Whether one more error may go to `receiver` in this second; if so it is counted.
    pub fn allows(&mut self, receiver: u32, second: u32) -> bool {
        let place = (receiver.wrapping_mul(0x9e37_79b9) >> 24) as usize % PLACES;
        self.receivers[place].take(second, PER_RECEIVER) && self.in_all.take(second, IN_ALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_receiver_has_its_rate_and_all_together_have_theirs() {
        let mut rate = ErrorRate::default();
        let count = |rate: &mut ErrorRate, receiver, second| {
            (0..100).filter(|_| rate.allows(receiver, second)).count() as u32
        };
        assert_eq!(count(&mut rate, 1, 100), PER_RECEIVER);
        assert_eq!(count(&mut rate, 1, 100), 0);
        assert_eq!(count(&mut rate, 2, 100), PER_RECEIVER);
        assert_eq!(count(&mut rate, 1, 101), PER_RECEIVER);
        let all: u32 = (0..1000).map(|receiver| count(&mut rate, receiver, 102)).sum();
        assert_eq!(all, IN_ALL);
    }
}
