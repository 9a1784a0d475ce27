//! The Internet checksum: full (RFC 1071) and incremental (RFC 1624, equation 3).
//!
//! A [`Delta`] is the one's-complement sum of `~old + new` over all 16-bit words that
//! change. It depends on what changes, not on the packet, so a mapping computes it once.

/// Change of a checksum, RFC 1624 equation 3: `HC' = ~(~HC + ~m + m')`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const NONE: Delta = Delta(0);

    /// The delta as stored in a record.
    pub const fn stored(self) -> u16 {
        self.0
    }

    /// The delta that [`Delta::stored`] gave.
    pub const fn from_stored(value: u16) -> Self {
        Self(value)
    }

    /// Adds the change of one 16-bit word.
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(fold(self.0 as u32 + !old as u32 + new as u32))
    }

    /// Adds the change of an address.
    #[must_use]
    pub const fn address(self, old: u32, new: u32) -> Self {
        self.word((old >> 16) as u16, (new >> 16) as u16).word(old as u16, new as u16)
    }

    /// The delta that undoes this one: what translates out, back.
    #[must_use]
    pub const fn inverse(self) -> Self {
        // In one's complement -x is ~x; Delta::NONE stays neutral because 0xffff adds as -0.
        Self(!self.0)
    }

    /// The two changes together.
    #[must_use]
    pub const fn plus(self, other: Delta) -> Self {
        Self(fold(self.0 as u32 + other.0 as u32))
    }

    /// The checksum field after both changes; as [`Delta::plus`] and [`Delta::apply`], in one go.
    /// The three numbers cannot sum to +0 unless all of them are.
    #[must_use]
    pub const fn apply_with(self, other: Delta, checksum: u16) -> u16 {
        !fold(!checksum as u32 + self.0 as u32 + other.0 as u32)
    }

    /// The checksum field after the change.
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(!checksum as u32 + self.0 as u32)
    }
}

/// Folds a sum of 16-bit words into 16 bits with end-around carry.
const fn fold(mut sum: u32) -> u16 {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// One's-complement sum over `bytes`, an odd last byte padded with zero (RFC 1071).
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut total = u64::from(start);
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(*last) << 8;
    }
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The checksum of `bytes`; over a header that holds a right checksum it is 0.
pub fn full(bytes: &[u8]) -> u16 {
    !sum(bytes, 0)
}

/// The checksum of `bytes` behind something whose sum is `start`.
pub fn with_start(bytes: &[u8], start: u16) -> u16 {
    !sum(bytes, start.into())
}

/// The checksum of a transport segment with the IPv4 pseudo-header.
pub fn transport(source: u32, destination: u32, protocol: u8, segment: &[u8]) -> u16 {
    with_start(segment, pseudo_header(source, destination, protocol, segment.len()))
}

/// Sum over the IPv4 pseudo-header of a segment of `len` bytes.
pub const fn pseudo_header(source: u32, destination: u32, protocol: u8, len: usize) -> u16 {
    let addresses =
        (source >> 16) + (source & 0xffff) + (destination >> 16) + (destination & 0xffff);
    fold(addresses + protocol as u32 + len as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A one's-complement sum has two zeros; a header never sums to +0 because it has
    /// non-zero words, so the incremental result must equal the full one exactly.
    #[test]
    fn incremental_equals_full_for_every_old_value() {
        for old in 0..=u16::MAX {
            for new in [0u16, 1, 0x7fff, 0x8000, 0xfffe, 0xffff] {
                let mut header = [0x45, 0, 0, 20, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 0, 0];
                header[12..14].copy_from_slice(&old.to_be_bytes());
                let before = full(&header);
                header[12..14].copy_from_slice(&new.to_be_bytes());
                assert_eq!(Delta::NONE.word(old, new).apply(before), full(&header));
            }
        }
    }

    #[test]
    fn two_changes_at_once_are_one_after_the_other() {
        let values = [0u16, 1, 0x1234, 0x7fff, 0x8000, 0xfeff, 0xfffe, 0xffff];
        for (first, second) in values.iter().flat_map(|a| values.map(|b| (Delta(*a), Delta(b)))) {
            for checksum in 0..=u16::MAX {
                let expected = first.plus(second).apply(checksum);
                assert_eq!(first.apply_with(second, checksum), expected);
            }
        }
    }

    #[test]
    fn the_inverse_restores_the_checksum() {
        for old in (0..=u16::MAX).step_by(7) {
            let delta = Delta::NONE.address(u32::from(old) << 9, 0xcb00_7105).word(old, 40_000);
            for checksum in [1u16, 0x1234, 0x8000, 0xfffe] {
                let there = delta.apply(checksum);
                let back = delta.inverse().apply(there);
                // 0x0000 and 0xffff are the same number in one's complement.
                assert!(back == checksum || (back ^ checksum) == 0xffff && checksum % 0xffff == 0);
            }
        }
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(full(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(full(&[0x01]), !0x0100);
    }
}
