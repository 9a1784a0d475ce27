//! Bytes only: parsing, views, checksums and rewriting. Knows nothing of NAT.
//!
//! Offsets are checked once, by the parser; what it returns says where things are. All
//! multi-byte fields on the wire are big-endian.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod fragment;
pub mod gre;
pub mod icmp6;
pub mod icmp_error;
pub mod ipv4;
pub mod ipv6;
pub mod mss;
pub mod nd;
pub mod options;
pub mod partial;
pub mod plain;
pub mod rewrite;
pub mod sequence;
pub mod tcp;

/// Two bytes at `at`, big-endian.
///
/// # Panics
/// If `bytes` is shorter than `at + 2`; callers have checked the length.
#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Four bytes at `at`, big-endian.
///
/// # Panics
/// If `bytes` is shorter than `at + 4`.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes two bytes at `at`, big-endian.
#[inline]
pub(crate) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Writes four bytes at `at`, big-endian.
#[inline]
pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
