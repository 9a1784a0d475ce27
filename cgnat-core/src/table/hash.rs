//! A keyed 64-bit hash of small keys.
//!
//! Two rounds of folded multiplication with a per-start secret of 128 bits: whoever does
//! not know the secret cannot choose flows that fall into one bucket (hash flooding).

/// The secret.
#[derive(Clone, Copy)]
pub struct HashKey {
    first: u64,
    second: u64,
}

impl HashKey {
    /// A key from 16 bytes of entropy.
    pub fn new(entropy: [u8; 16]) -> Self {
        let value = u128::from_le_bytes(entropy);
        Self { first: value as u64, second: (value >> 64) as u64 }
    }

    /// Hash of one 64-bit key.
    #[inline]
    pub fn hash(self, key: u64) -> u64 {
        let once = folded_multiply(key ^ self.first, 0x9e37_79b9_7f4a_7c15 ^ self.second);
        folded_multiply(once ^ self.second, 0xd6e8_feb8_6659_fd93)
    }

    /// Hash of two 64-bit keys.
    #[inline]
    pub fn hash_pair(self, first: u64, second: u64) -> u64 {
        self.hash(first ^ self.hash(second).rotate_left(23))
    }
}

#[inline]
fn folded_multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}
