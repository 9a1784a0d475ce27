//! How many ICMP errors the box sends: bounded per receiver and in all (RFC 1812 section
//! 4.3.2.8), so that nobody can use it to flood somebody.

use super::per_second::Spent;

/// Receivers that are told apart; two that share a place share its rate.
const PLACES: usize = 256;

/// The rate of one worker towards one side: a storm from outside does not take what
/// subscribers are told.
pub struct ErrorRate {
    most_to_one: u32,
    most_in_all: u32,
    in_all: Spent,
    receivers: [Spent; PLACES],
}

impl ErrorRate {
    /// At most so many errors per second to one receiver, and in all.
    pub fn new(to_one: u32, in_all: u32) -> Self {
        Self {
            most_to_one: to_one,
            most_in_all: in_all,
            in_all: Spent::default(),
            receivers: [Spent::default(); PLACES],
        }
    }

    /// Whether one more error may go to `receiver` in this second; if so it is counted.
    pub fn allows(&mut self, receiver: u32, second: u32) -> bool {
        let place = (receiver.wrapping_mul(0x9e37_79b9) >> 24) as usize % PLACES;
        self.receivers[place].take(second, self.most_to_one)
            && self.in_all.take(second, self.most_in_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_receiver_has_its_rate_and_all_together_have_theirs() {
        let mut rate = ErrorRate::new(20, 1_000);
        let count = |rate: &mut ErrorRate, receiver, second| {
            (0..100).filter(|_| rate.allows(receiver, second)).count() as u32
        };
        assert_eq!(count(&mut rate, 1, 100), 20);
        assert_eq!(count(&mut rate, 1, 100), 0);
        assert_eq!(count(&mut rate, 2, 100), 20);
        assert_eq!(count(&mut rate, 1, 101), 20);
        let all: u32 = (0..1000).map(|receiver| count(&mut rate, receiver, 102)).sum();
        assert_eq!(all, 1_000);
    }
}
