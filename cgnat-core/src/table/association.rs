//! Associations: flows of protocols without ports, known by addresses and protocol alone.
//!
//! Each flow has two records of this kind, decision 15 says why:
//!
//! ```text
//!   hold   at the subscriber's owner   (internal, remote, protocol) -> external
//!   claim  at the tuple's keeper       (external, remote, protocol) -> internal
//! ```
//!
//! One index serves both; the role is part of the key.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::table::slab::impl_record;
use crate::time::Tick;

/// Which of the two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Keeps the subscriber's pairing and counts as a session.
    Hold = 1,
    /// Says whose the tuple is.
    Claim = 2,
}

/// What an association is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssociationKey {
    /// Which record.
    pub role: Role,
    /// Internal address of a hold, external address of a claim.
    pub near: u32,
    /// The other end of the flow.
    pub remote: u32,
    /// IP protocol number.
    pub protocol: u8,
}

impl AssociationKey {
    /// The key in two words, for hashing.
    pub fn words(self) -> (u64, u64) {
        let ends = u64::from(self.near) << 32 | u64::from(self.remote);
        (ends, u64::from(self.protocol) << 8 | self.role as u64)
    }
}

/// One record, 32 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Association {
    pub(crate) generation: u32,
    near: u32,
    remote: u32,
    /// External address of a hold, internal address of a claim.
    pub(crate) other: u32,
    /// When it ends unless a packet prolongs it.
    pub(crate) deadline: u32,
    /// Slot of the subscriber; of a hold only.
    pub(crate) subscriber: u32,
    next: u32,
    /// Shard that owns the record.
    pub(crate) shard: u16,
    protocol: u8,
    role: u8,
}

const _: () = assert!(size_of::<Association>() == 32);

impl_record!(Association, next);

impl Association {
    /// Fills a record that was just allocated.
    pub fn establish(&mut self, shard: u16, key: AssociationKey, other: u32, subscriber: u32) {
        let AssociationKey { role, near, remote, protocol } = key;
        (self.near, self.remote, self.protocol, self.role) = (near, remote, protocol, role as u8);
        (self.shard, self.other, self.subscriber) = (shard, other, subscriber);
    }

    /// What it is found by.
    pub fn key(&self) -> AssociationKey {
        let role = if self.role == Role::Hold as u8 { Role::Hold } else { Role::Claim };
        AssociationKey { role, near: self.near, remote: self.remote, protocol: self.protocol }
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now: Tick) -> bool {
        now.reached(Tick(self.deadline))
    }
}
