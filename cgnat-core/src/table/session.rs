//! TCP sessions: one remote endpoint that a mapping talks to, with state and deadline.
//!
//! The first session of a mapping is a [`Peer`] inside the mapping's record; the others are
//! [`Session`] records of their own, found by (mapping, remote endpoint).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::endpoint::RemoteEndpoint;
use crate::policy::tcp_state::{Initiator, State};
use crate::table::slab::impl_record;

/// Remote endpoint and TCP state, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Peer {
    address: u32,
    port: u16,
    state: u8,
    initiator: u8,
}

impl Peer {
    /// No session.
    pub const NONE: Peer = Peer { address: 0, port: 0, state: State::None as u8, initiator: 0 };

    /// A session with `remote`.
    pub fn new(remote: RemoteEndpoint, state: State, initiator: Initiator) -> Self {
        Self {
            address: remote.address.0,
            port: remote.port,
            state: state as u8,
            initiator: initiator as u8,
        }
    }

    /// Whether there is no session here.
    pub fn is_none(&self) -> bool {
        self.state == State::None as u8
    }

    /// Whether it is the session with `remote`.
    #[inline]
    pub fn is_with(&self, remote: RemoteEndpoint) -> bool {
        !self.is_none() && self.address == remote.address.0 && self.port == remote.port
    }

    /// The other end.
    pub fn remote(&self) -> RemoteEndpoint {
        RemoteEndpoint::new(self.address, self.port)
    }

    /// TCP state.
    pub fn state(&self) -> State {
        State::from_record(self.state)
    }

    /// Sets the TCP state.
    pub fn set_state(&mut self, state: State) {
        self.state = state as u8;
    }

    /// Which side sent the first SYN.
    pub fn initiator(&self) -> Initiator {
        Initiator::from_record(self.initiator)
    }

    /// Sets which side sent the first SYN.
    pub fn set_initiator(&mut self, initiator: Initiator) {
        self.initiator = initiator as u8;
    }
}

/// A further session, 32 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(32))]
pub struct Session {
    pub(crate) generation: u32,
    /// Slot and generation of the mapping it hangs from.
    pub(crate) mapping: u32,
    pub(crate) mapping_generation: u32,
    pub(crate) peer: Peer,
    pub(crate) deadline: u32,
    /// Shard that owns the record.
    pub(crate) shard: u16,
    reserved: u16,
    next: u32,
}

const _: () = assert!(size_of::<Session>() == 32);

impl_record!(Session, next);

/// Hash input for (mapping slot, remote endpoint).
pub fn hash_words(mapping: u32, remote: RemoteEndpoint) -> (u64, u64) {
    (u64::from(mapping) << 16 | u64::from(remote.port), u64::from(remote.address.0))
}
