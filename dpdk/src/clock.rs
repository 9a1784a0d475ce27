//! Time from the CPU's time-stamp counter.

use crate::Eal;

/// The counter now. Needs no EAL.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: reads a CPU register.
    unsafe { dpdk_sys::rte_get_tsc_cycles() }
}

/// Nanoseconds since the clock was made: monotonic, a multiplication per reading, no system
/// call. Copies agree with each other on all CPUs of a machine with an invariant counter.
///
/// The EAL measures the counter's frequency at start; it may be off by parts in a thousand
/// in a virtual machine. Good for timeouts and rates, not for the time of day.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: u64,
    /// Nanoseconds per tick as a 32.32 fixed-point number.
    ns_per_tick: u64,
}

impl Clock {
    /// A clock that reads 0 now.
    pub fn start(eal: &Eal) -> Self {
        Self { start: tsc(), ns_per_tick: ns_per_tick(eal.tsc_hz()) }
    }

    /// Nanoseconds since [`Clock::start`]; wraps after 584 years.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        // A reading on another CPU may be a few ticks behind the start.
        scale(tsc().saturating_sub(self.start), self.ns_per_tick)
    }
}

fn ns_per_tick(hz: u64) -> u64 {
    ((1_000_000_000_u128 << 32) / u128::from(hz.max(1))).try_into().unwrap_or(u64::MAX)
}

#[inline]
fn scale(ticks: u64, ns_per_tick: u64) -> u64 {
    ((u128::from(ticks) * u128::from(ns_per_tick)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_of_ticks_is_a_year_within_a_second() {
        const YEAR_S: u64 = 365 * 86_400;
        for hz in [1_000_000_000_u64, 2_100_000_000, 2_599_998_000, 5_000_000_000] {
            let ns = scale(hz * YEAR_S, ns_per_tick(hz));
            assert!((YEAR_S * 1_000_000_000).abs_diff(ns) < 1_000_000_000, "{hz} Hz: {ns}");
        }
    }

    #[test]
    fn an_unknown_frequency_does_not_divide_by_zero() {
        assert!(ns_per_tick(0) > 0);
    }

    #[test]
    fn the_counter_runs() {
        let first = tsc();
        assert!((0..1000).any(|_| tsc() > first));
    }
}
