//! Whose packet is it? One function of one address, which network cards can compute
//! (decision 22).
//!
//! The low bits of a Toeplitz hash choose a *bucket*, and buckets belong to workers in even
//! ranges. A card hashes source, destination and perhaps ports; [`Steering::key`] is zero where
//! the others would matter, so that its low bits are those of [`Steering::bucket_of`].
//!
//! Always true:
//! 1. an address has exactly one owner, the same on both sides;
//! 2. an aligned run of as many addresses as there are buckets meets each bucket once;
//! 3. what a card does is checked by the worker that receives: this is never a matter of trust.

use crate::config::Side;

/// The non-zero bits of every key, last one lowest; fewer are used with more buckets. Of many
/// that were tried it has the most windows of consecutive address bits with full rank.
const PATTERN: u32 = 0x6e9_2939;

/// Bits of a bucket: up to 8 workers, up to 16, and more.
const BITS: [u32; 3] = [6, 7, 9];

/// Buckets by the four bytes of an address, most significant first, for each of [`BITS`].
static TABLES: [[[u16; 256]; 4]; 3] = [table(BITS[0]), table(BITS[1]), table(BITS[2])];

/// Longest key that a driver may want, bytes: its length is a byte.
pub const LONGEST_KEY: usize = 255;

/// Bit `t` of the pattern for buckets of `bits` bits; bit `32 - bits` is the last and is one.
const fn pattern(bits: u32, t: u32) -> bool {
    t <= 32 - bits && PATTERN >> (32 - bits - t) & 1 == 1
}

/// Bit `j` of the bucket takes address bit `i`, counted from the most significant one, if the
/// pattern has its bit `i - j`.
const fn table(bits: u32) -> [[u16; 256]; 4] {
    let mut table = [[0u16; 256]; 4];
    let mut byte = 0;
    while byte < 4 {
        let mut value = 0;
        while value < 256 {
            let mut bit = 0;
            while bit < 8 {
                let i = 8 * byte as u32 + bit;
                let mut j = 0;
                while j < bits {
                    if value >> (7 - bit) & 1 == 1 && i >= j && pattern(bits, i - j) {
                        table[byte][value] ^= 1 << j;
                    }
                    j += 1;
                }
                bit += 1;
            }
            value += 1;
        }
        byte += 1;
    }
    table
}

/// Owner of an address.
///
/// Not keyed: a network card must be able to compute the same, and a subscriber cannot
/// choose its address.
#[derive(Debug, Clone, Copy)]
pub struct Steering {
    workers: u16,
    bits: u32,
    table: &'static [[u16; 256]; 4],
}

impl Steering {
    /// For `workers` workers.
    ///
    /// # Panics
    /// With none.
    pub fn new(workers: u16) -> Self {
        assert!(workers > 0, "steering needs a worker");
        let size = usize::from(workers > 8) + usize::from(workers > 16);
        Self { workers, bits: BITS[size], table: &TABLES[size] }
    }

    /// Workers.
    pub fn workers(self) -> u16 {
        self.workers
    }

    /// Buckets: the least entries that the table of a card must have.
    pub fn buckets(self) -> u16 {
        1 << self.bits
    }

    /// The worker that owns the subscriber with this address, or the external address.
    #[inline]
    pub fn owner_of(self, address: u32) -> u16 {
        if self.workers == 1 {
            return 0;
        }
        self.owner_of_bucket(self.bucket_of(address))
    }

    /// The bucket of an address.
    #[inline]
    pub fn bucket_of(self, address: u32) -> u16 {
        let [a, b, c, d] = address.to_be_bytes().map(usize::from);
        self.table[0][a] ^ self.table[1][b] ^ self.table[2][c] ^ self.table[3][d]
    }

    /// The worker that has a bucket.
    #[inline]
    pub fn owner_of_bucket(self, bucket: u16) -> u16 {
        ((u32::from(bucket) * u32::from(self.workers)) >> self.bits) as u16
    }

    /// The key for a port: one whose hash of a packet ends in the bucket of the source address on
    /// an internal port, of the destination address on an external one. `None` if a key of
    /// `length` bytes has no room for it: nor has it for two IPv4 addresses.
    pub fn key(self, side: Side, length: usize) -> Option<Vec<u8>> {
        let first = match side {
            Side::Internal => 31,
            Side::External => 63,
        };
        let mut key = vec![0u8; length];
        for t in (0..=32 - self.bits).filter(|t| pattern(self.bits, *t)) {
            let at = first + t as usize;
            *key.get_mut(at / 8)? |= 0x80 >> (at % 8);
        }
        // The windows of both addresses must lie inside; what follows is zero.
        (8 * length >= 96).then_some(key)
    }

    /// The table for a card with `entries` entries and `queues` queues: the queue of each
    /// entry. `None` if there are not enough entries, or not as many as a power of two.
    ///
    /// # Panics
    /// Without queues.
    pub fn queues(self, entries: u16, queues: u16) -> Option<Vec<u16>> {
        assert!(queues > 0, "a port has a queue");
        let buckets = self.buckets();
        if entries < buckets || !entries.is_power_of_two() {
            return None;
        }
        Some((0..entries).map(|e| self.owner_of_bucket(e % buckets) % queues).collect())
    }

    /// Parts in a thousand of all buckets whose owner has none of `queues` queues: what a card
    /// that steers as asked still puts elsewhere.
    pub fn queueless_permille(self, queues: u16) -> u32 {
        let without = (0..self.buckets()).filter(|b| self.owner_of_bucket(*b) >= queues).count();
        without as u32 * 1000 / u32::from(self.buckets())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash as its definition has it, bit by bit, of a packet's addresses and ports.
    fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
        let bit = |bytes: &[u8], at: usize| bytes.get(at / 8).map_or(0, |b| b >> (7 - at % 8) & 1);
        let window = |i: usize| (0..32).fold(0, |w, k| w << 1 | u32::from(bit(key, i + k)));
        (0..8 * input.len()).filter(|i| bit(input, *i) == 1).fold(0, |hash, i| hash ^ window(i))
    }

    /// Addresses and ports without a pattern of their own.
    fn noise(n: u32) -> u32 {
        let n = (n ^ n >> 16).wrapping_mul(0x7feb_352d);
        let n = (n ^ n >> 15).wrapping_mul(0x846c_a68b);
        n ^ n >> 16
    }

    #[test]
    fn a_card_with_the_key_and_the_table_finds_the_owner_whatever_the_rest_of_the_packet_is() {
        for workers in (1..=8).chain([12, 16, 17, 64]) {
            let steering = Steering::new(workers);
            for entries in [64, 128, 512] {
                let Some(queues) = steering.queues(entries, workers) else {
                    assert!(entries < steering.buckets());
                    continue;
                };
                for side in [Side::Internal, Side::External] {
                    for length in [40, 52] {
                        let key = steering.key(side, length).expect("long enough");
                        for n in 0..200 {
                            let (mine, other) = (noise(3 * n), noise(3 * n + 1));
                            let (source, destination) = match side {
                                Side::Internal => (mine, other),
                                Side::External => (other, mine),
                            };
                            let mut input = source.to_be_bytes().to_vec();
                            input.extend(destination.to_be_bytes());
                            // Without ports, as for a fragment, and with them.
                            let bare = toeplitz(&key, &input);
                            input.extend(noise(3 * n + 2).to_be_bytes());
                            for hash in [bare, toeplitz(&key, &input)] {
                                let queue = queues[(hash % u32::from(entries)) as usize];
                                assert_eq!(queue, steering.owner_of(mine), "{workers} {entries}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_key_that_is_too_short_and_a_table_that_is_too_small_are_refused() {
        let steering = Steering::new(8);
        assert_eq!(steering.key(Side::External, 8), None);
        assert_eq!(steering.key(Side::Internal, 11), None);
        assert!(steering.key(Side::External, 12).is_some());
        assert_eq!(steering.queues(32, 8), None);
        assert_eq!(steering.queues(96, 8), None);
        assert_eq!(Steering::new(9).queues(64, 9), None);
    }

    #[test]
    fn workers_without_a_queue_are_served_by_the_others_and_expected_to_be() {
        let steering = Steering::new(4);
        let queues = steering.queues(64, 3).expect("64 entries are enough");
        for (bucket, queue) in queues.iter().enumerate() {
            let owner = steering.owner_of_bucket(bucket as u16);
            assert_eq!(*queue, if owner < 3 { owner } else { 0 });
        }
        assert_eq!(steering.queueless_permille(3), 250);
        assert_eq!(steering.queueless_permille(4), 0);
        assert_eq!(Steering::new(1).queueless_permille(1), 0);
    }

    #[test]
    fn an_aligned_run_of_addresses_meets_each_bucket_once() {
        for workers in [8, 16, 64] {
            let steering = Steering::new(workers);
            let buckets = u32::from(steering.buckets());
            for n in 0..50 {
                let first = noise(n) / buckets * buckets;
                let mut met: Vec<u16> =
                    (0..buckets).map(|k| steering.bucket_of(first + k)).collect();
                met.sort_unstable();
                assert!(met.into_iter().eq(0..steering.buckets()));
            }
        }
    }

    #[test]
    fn neighbouring_pool_addresses_go_to_different_workers() {
        for workers in [2u16, 4, 8] {
            let steering = Steering::new(workers);
            for n in 0..50 {
                let first = noise(n) / u32::from(workers) * u32::from(workers);
                let mut owners: Vec<u16> =
                    (0..u32::from(workers)).map(|k| steering.owner_of(first + k)).collect();
                owners.sort_unstable();
                assert!(owners.into_iter().eq(0..workers));
            }
        }
    }

    #[test]
    fn consecutive_subscribers_spread_evenly() {
        for workers in [1u16, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 64] {
            let steering = Steering::new(workers);
            let mut counts = vec![0u32; usize::from(workers)];
            for n in 0..65_536 {
                counts[usize::from(steering.owner_of(0x6440_0000 + n))] += 1;
            }
            let even = 65_536 / u32::from(workers);
            assert!(
                counts.iter().all(|c| (even * 85 / 100..=even * 115 / 100 + 1).contains(c)),
                "{workers}: {counts:?}"
            );
        }
    }

    #[test]
    fn subscribers_at_regular_distances_spread_too() {
        for workers in [2u16, 4, 8] {
            let steering = Steering::new(workers);
            for distance in 0..16 {
                let mut counts = vec![0u32; usize::from(workers)];
                for n in 0..4_096u32 {
                    counts[usize::from(steering.owner_of(0x0a00_0000 + (n << distance)))] += 1;
                }
                let even = 4_096 / u32::from(workers);
                assert!(
                    counts.iter().all(|c| (even / 2..=even * 3 / 2).contains(c)),
                    "{workers} workers, every {}th: {counts:?}",
                    1 << distance
                );
            }
        }
    }
}
