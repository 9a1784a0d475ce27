//! Choosing a port: uniformly among the free ones that will do, so that a nearly full block
//! does not make some ports likelier than others (RFC 6056 section 5 forbids that of
//! algorithm 1).
//!
//! A pool may ask for more: to keep the internal port, its parity, its range. These are
//! wishes: a flow is never refused while its subscriber has a free port, whatever its number.

use crate::config;

/// First port above the well-known ones (RFC 4787 REQ-3a).
const FIRST_HIGH: u16 = 1024;

/// What a pool asks of each port that it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortChoice {
    /// The internal port itself, where it can be had.
    preserve: bool,
    /// RFC 4787 REQ-4.
    parity: bool,
    /// RFC 4787 REQ-3a.
    range: bool,
}

/// Which free port of a block will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortWish {
    /// Each.
    Any,
    /// Those even or odd as this one.
    AsOddAs(u16),
    /// This one alone.
    Exactly(u16),
}

/// Which port blocks will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BlockFit {
    /// Each.
    #[default]
    Any,
    /// Those of well-known ports, 1 to 1023.
    Low,
    /// Those of the ports above.
    High,
}

impl BlockFit {
    /// How many kinds there are.
    pub const COUNT: usize = 3;

    /// Whether a block that begins at this port will do. The configuration lets no block lie
    /// on both sides of 1024 where it matters.
    pub fn fits(self, first_port: u16) -> bool {
        match self {
            BlockFit::Any => true,
            BlockFit::Low => first_port < FIRST_HIGH,
            BlockFit::High => first_port >= FIRST_HIGH,
        }
    }
}

impl PortChoice {
    /// What the configuration asks of ports. Ranges and parity mean nothing for identifiers
    /// of ICMP queries: `is_query` leaves them out.
    pub fn new(rules: &config::PoolRules, is_query: bool) -> Self {
        Self {
            preserve: rules.keeps_port(),
            parity: rules.keeps_parity() && !is_query,
            range: rules.keeps_range() && !is_query,
        }
    }

    /// Whether the internal port itself is to be tried first (RFC 7857 section 9: only what
    /// is taken must change, and then to a random one).
    pub fn preserves(self) -> bool {
        self.preserve
    }

    /// Whether any free port is as good as another.
    pub fn is_plain(self) -> bool {
        !self.parity && !self.range
    }

    /// The blocks that will do for an internal port.
    pub fn fit(self, internal: u16) -> BlockFit {
        match self.range {
            false => BlockFit::Any,
            true if internal < FIRST_HIGH => BlockFit::Low,
            true => BlockFit::High,
        }
    }

    /// The ports of such a block that will do. Parity is kept by forcing the lowest bit, and
    /// the rest is random (RFC 7857 section 9).
    pub fn wish(self, internal: u16) -> PortWish {
        if self.parity { PortWish::AsOddAs(internal) } else { PortWish::Any }
    }

    /// Whether `external` is what was asked for, apart from preservation.
    pub fn is_met(self, internal: u16, external: u16) -> bool {
        (!self.parity || (internal ^ external) & 1 == 0) && self.fit(internal).fits(external)
    }
}

/// Mask of the even bits; bits of odd places are its complement.
const EVEN: u64 = 0x5555_5555_5555_5555;

const LOWEST_OF_BYTES: u64 = 0x0101_0101_0101_0101;
const HIGHEST_OF_BYTES: u64 = 0x8080_8080_8080_8080;

/// Mask of the places in a block from `first_port` on whose ports are even or odd as `port`.
pub fn parity_mask(first_port: u16, port: u16) -> u64 {
    if (first_port ^ port) & 1 == 0 { EVEN } else { !EVEN }
}

/// Zero bits of `words` under `mask`.
pub fn count_zeros(words: &[u64], mask: u64) -> u32 {
    words.iter().map(|word| (!word & mask).count_ones()).sum()
}

/// Position of the `n`-th (from 0) zero bit of `words` under `mask`, which is the same for
/// each word; lowest bit of the first word first.
pub fn nth_zero(words: &[u64], mask: u64, n: u32) -> Option<usize> {
    let mut left = n;
    for (place, word) in words.iter().enumerate() {
        let free = !word & mask;
        let sums = sums_of_bytes(free);
        let zeros = (sums >> 56) as u32;
        if left < zeros {
            return Some(place * 64 + nth_one(free, sums, left));
        }
        left -= zeros;
    }
    None
}

/// In each byte, how many ones of `word` are in it and the bytes below.
#[inline]
fn sums_of_bytes(word: u64) -> u64 {
    let pairs = word - (word >> 1 & EVEN);
    let fours = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    let bytes = (fours + (fours >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    bytes.wrapping_mul(LOWEST_OF_BYTES)
}

/// Position of the `n`-th one of `word`, which has more; `sums` are those of its bytes.
#[inline]
fn nth_one(word: u64, sums: u64, n: u32) -> usize {
    // The highest bit stays in each byte whose sum is above n: sums are at most 64.
    let rests = (sums | HIGHEST_OF_BYTES) - u64::from(n + 1) * LOWEST_OF_BYTES;
    let above = rests & HIGHEST_OF_BYTES;
    let byte = above.trailing_zeros() & !7;
    let before = (sums << 8 >> byte) as u8;
    let mut rest = word >> byte;
    for _ in 0..n - u32::from(before) {
        rest &= rest - 1;
    }
    (byte + rest.trailing_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_each_zero_in_turn_and_none_beyond() {
        let words = [u64::MAX, 0b1011, u64::MAX ^ (1 << 63), !0];
        for mask in [u64::MAX, EVEN, !EVEN] {
            let is_free =
                |b: &usize| words[b / 64] >> (b % 64) & 1 == 0 && mask >> (b % 64) & 1 == 1;
            let zeros: Vec<usize> = (0..256).filter(is_free).collect();
            for (n, zero) in zeros.iter().enumerate() {
                assert_eq!(nth_zero(&words, mask, n as u32), Some(*zero));
            }
            assert_eq!(nth_zero(&words, mask, zeros.len() as u32), None);
            assert_eq!(count_zeros(&words, mask), zeros.len() as u32);
        }
    }

    #[test]
    fn the_parity_mask_follows_the_first_port_of_the_block() {
        for (first, port) in [(1024, 7), (1024, 8), (1025, 7), (1025, 8)] {
            let mask = parity_mask(first, port);
            for place in 0..64 {
                let same = (first + place) % 2 == port % 2;
                assert_eq!(mask >> place & 1 == 1, same, "{first} {port} {place}");
            }
        }
    }

    #[test]
    fn a_range_is_kept_on_both_sides_of_1024_and_only_if_asked_for() {
        let plain = PortChoice::default();
        assert!(plain.is_plain() && plain.fit(7) == BlockFit::Any && plain.is_met(7, 4000));
        let kept = PortChoice { range: true, ..plain };
        for (internal, fit) in [(1, BlockFit::Low), (1023, BlockFit::Low), (1024, BlockFit::High)] {
            assert_eq!(kept.fit(internal), fit);
            assert_eq!(kept.is_met(internal, 512), fit == BlockFit::Low);
            assert_eq!(kept.is_met(internal, 65_535), fit == BlockFit::High);
        }
        let even = PortChoice { parity: true, ..plain };
        assert!(even.is_met(8, 2000) && !even.is_met(8, 2001) && even.is_met(9, 2001));
    }
}
