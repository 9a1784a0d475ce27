//! How many sessions a subscriber has with each remote address, where that is limited.
//!
//! One record per (subscriber, remote address) that has any. There is room for every session
//! that the shard can have, so it is never this table that is full first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::table::slab::impl_record;

/// A remote address of a subscriber, 16 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(16))]
pub struct Destination {
    pub(crate) generation: u32,
    /// Internal address of the subscriber.
    pub(crate) internal: u32,
    /// Remote address.
    pub(crate) remote: u32,
    /// Sessions; never 0 while the record is in use.
    pub(crate) sessions: u32,
}

const _: () = assert!(size_of::<Destination>() == 16);

// A free record counts nothing.
impl_record!(Destination, sessions);

impl Destination {
    /// An internal and a remote address as one number, for hashing.
    pub fn packed(internal: u32, remote: u32) -> u64 {
        u64::from(internal) << 32 | u64::from(remote)
    }

    /// Whether it is of these.
    pub fn is_of(&self, internal: u32, remote: u32) -> bool {
        (self.internal, self.remote) == (internal, remote)
    }
}
