//! Control connections of PPTP that are followed, each with the one call that it may have: one
//! record of 128 bytes. It ends with the session that it belongs to.
//!
//! One index serves four questions; only a live call is in it under the last three:
//!
//! ```text
//!   Segment    (mapping, server)                      a segment of the connection
//!   Outbound   (internal, server, server's id)        GRE of the subscriber
//!   Inner      (internal, server, client's id)        an error from inside, about GRE of the server
//!   Outer      (external, server, server's id)        an error from outside, about GRE that left
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::policy::alg::pptp::{Call, Dialog};
use crate::table::slab::impl_record;

/// What a connection is found by; an entry of the index is four times the slot plus this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Mapping and server.
    Segment = 0,
    /// Internal address, server and its identifier.
    Outbound,
    /// Internal address, server and the client's identifier.
    Inner,
    /// External address, server and its identifier.
    Outer,
}

impl By {
    /// The questions about a call.
    pub const OF_CALLS: [By; 3] = [By::Outbound, By::Inner, By::Outer];

    /// What an entry of the index was made with.
    pub fn of_entry(entry: u32) -> By {
        [By::Segment, By::Outbound, By::Inner, By::Outer][entry as usize & 3]
    }
}

/// A question: of a near end, an address or a mapping's slot, to a server, with an identifier
/// unless it is about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionKey {
    /// What is asked.
    pub by: By,
    /// The near end.
    pub near: u32,
    /// Address of the server.
    pub server: u32,
    /// Call identifier, or 0.
    pub id: u16,
}

impl ConnectionKey {
    /// The key in two words, for hashing.
    pub fn words(self) -> (u64, u64) {
        let ends = u64::from(self.near) << 32 | u64::from(self.server);
        (ends, u64::from(self.id) << 2 | self.by as u64)
    }
}

/// One control connection.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct PptpConnection {
    pub(crate) generation: u32,
    /// Slot of the mapping, and its two addresses.
    pub(crate) mapping: u32,
    pub(crate) internal: u32,
    pub(crate) external: u32,
    /// Address of the server.
    pub(crate) server: u32,
    /// Slot of the subscriber.
    pub(crate) subscriber: u32,
    /// What is said.
    pub(crate) dialog: Dialog,
    next: u32,
    /// Whether errors from outside find it: no other subscriber's call has the server's id.
    pub(crate) is_outer: u8,
    reserved: [u8; 35],
}

const _: () = assert!(size_of::<PptpConnection>() == 128);

impl_record!(PptpConnection, next);

impl PptpConnection {
    /// What it is found by, if it is for such a question.
    pub fn key(&self, by: By) -> Option<ConnectionKey> {
        let call = self.dialog.call();
        let (near, id) = match (by, call) {
            (By::Segment, _) => (self.mapping, 0),
            (By::Outbound, Some(Call { server, .. })) => (self.internal, server),
            (By::Inner, Some(Call { client, .. })) => (self.internal, client),
            (By::Outer, Some(Call { server, .. })) if self.is_outer != 0 => (self.external, server),
            _ => return None,
        };
        Some(ConnectionKey { by, near, server: self.server, id })
    }
}
