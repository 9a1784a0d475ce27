//! Whose packet is it? A subscriber belongs to the worker its internal address hashes to;
//! an external endpoint to the worker that its port block is lent to.

/// Owner of an internal address, by a hash that spreads consecutive addresses.
///
/// Not keyed: a network card must be able to compute the same, and a subscriber cannot
/// choose its address.
#[derive(Debug, Clone, Copy)]
pub struct Steering {
    workers: u16,
}

impl Steering {
    /// For `workers` workers.
    ///
    /// # Panics
    /// With none.
    pub fn new(workers: u16) -> Self {
        assert!(workers > 0, "steering needs a worker");
        Self { workers }
    }

    /// Workers.
    pub fn workers(self) -> u16 {
        self.workers
    }

    /// The worker that owns the subscriber with this address.
    #[inline]
    pub fn owner_of(self, internal: u32) -> u16 {
        let mixed = u64::from(internal).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        ((mixed * u64::from(self.workers)) >> 32) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_subscribers_spread_evenly() {
        for workers in [1u16, 2, 3, 4, 8, 64] {
            let steering = Steering::new(workers);
            let mut counts = vec![0u32; usize::from(workers)];
            for n in 0..64_000 {
                counts[usize::from(steering.owner_of(0x6440_0000 + n))] += 1;
            }
            let even = 64_000 / u32::from(workers);
            assert!(counts.iter().all(|c| (even * 9 / 10..=even * 11 / 10 + 1).contains(c)));
        }
    }
}
