//! Zeroed, cache-line aligned memory from the heap, for tests. It is
//! leaked: tables live as long as the process, here too.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// `bytes` zeroed bytes, aligned to 64.
pub fn zeroed(bytes: usize) -> &'static mut [u8] {
    let lines = Vec::leak(vec![Line([0; 64]); bytes.div_ceil(64)]);
    &mut lines.as_mut_bytes()[..bytes]
}

/// `count` zeroed records.
///
/// # Panics
/// If the record needs more than 64-byte alignment.
pub fn records<R: FromBytes + IntoBytes + KnownLayout>(count: usize) -> &'static mut [R] {
    <[R]>::mut_from_bytes(zeroed(count * size_of::<R>())).expect("aligned to 64 and whole")
}
