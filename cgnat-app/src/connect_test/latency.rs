//! Times counted in classes of 1/64 of their size, so that a run of days needs no more memory
//! than one of seconds. Units: microseconds.

use std::time::Duration;

/// Classes per doubling; what is told is at most this part too long.
const CLASSES: u64 = 64;

/// How often each time was met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latencies {
    counts: Vec<u64>,
    total: u64,
    max_us: u64,
}

impl Latencies {
    /// Counts one.
    pub fn add(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let class = class(us);
        if self.counts.len() <= class {
            self.counts.resize(class + 1, 0);
        }
        self.counts[class] += 1;
        self.total += 1;
        self.max_us = self.max_us.max(us);
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: &Latencies) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
        self.total += other.total;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The longest, microseconds; exact.
    pub fn max_us(&self) -> u64 {
        self.max_us
    }

    /// The time that `per_mille` of a thousand do not exceed, microseconds; 0 of none.
    pub fn quantile_us(&self, per_mille: u64) -> u64 {
        let rank = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (class, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return longest(class as u64).min(self.max_us);
            }
        }
        self.max_us
    }
}

/// Up to 127 us each has its own class.
fn class(us: u64) -> usize {
    let shift = (64 - us.leading_zeros()).saturating_sub(CLASSES.trailing_zeros() + 1);
    (u64::from(shift) * CLASSES + (us >> shift)) as usize
}

fn longest(class: u64) -> u64 {
    let shift = (class / CLASSES).saturating_sub(1);
    let mantissa = u128::from(class - shift * CLASSES);
    u64::try_from(((mantissa + 1) << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_what_it_says_and_classes_follow_each_other() {
        for us in (0..70_000).chain([u64::from(u32::MAX), u64::MAX / 3, u64::MAX]) {
            let longest = longest(class(us) as u64);
            assert!(longest >= us && longest - us <= us / CLASSES, "{us} us as {longest} us");
        }
        for us in 0..70_000 {
            let step = class(us + 1) - class(us);
            assert!(step <= 1, "{step} classes between {us} and the next");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let mut some = Latencies::default();
        let mut others = Latencies::default();
        for us in 1..=1000 {
            let into = if us % 2 == 0 { &mut some } else { &mut others };
            into.add(Duration::from_micros(us * 100));
        }
        some.merge(&others);
        assert_eq!((some.count(), some.max_us()), (1000, 100_000));
        for (per_mille, exact) in [(500, 50_000), (950, 95_000), (990, 99_000), (1000, 100_000)] {
            let told = some.quantile_us(per_mille);
            assert!(told >= exact && told - exact <= exact / CLASSES, "{told} for {exact}");
        }
        assert_eq!(Latencies::default().quantile_us(500), 0);
    }
}
