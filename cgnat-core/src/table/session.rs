//! Sessions: one remote endpoint that a mapping talks to, with state and deadline.
//!
//! A mapping has sessions if it is one of TCP, or if its filtering depends on who was sent
//! to; a UDP or ICMP mapping with endpoint-independent filtering has none. The first session
//! of a mapping is a [`Peer`] and a window inside the mapping's record; the others are
//! [`Session`] records of their own, found by (mapping, remote endpoint).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::endpoint::{RemoteAddress, RemoteEndpoint};
use crate::policy::tcp_state::{Connection, State};
use crate::policy::tcp_window::{MAX_SCALE, Sender, Window};
use crate::table::slab::impl_record;

const STATE: u8 = 0b0111;
const EXTERNAL_OPENED: u8 = 1 << 3;
const HOLDS: u8 = 1 << 4;
const PERMITS: u8 = 1 << 5;
const EXPECTED: u8 = 1 << 6;
const COUNTED: u8 = 1 << 7;

/// Remote endpoint and state, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Peer {
    address: u32,
    port: u16,
    /// State in three bits, then what the constants above say.
    bits: u8,
    /// Window scales, internal in the low half.
    scales: u8,
}

/// Sequence numbers of a session, 16 bytes: the rest of a TCP [`Connection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Numbers {
    end: [u32; 2],
    acked: [u32; 2],
}

impl Numbers {
    /// Of what has none.
    pub const NONE: Numbers = Numbers { end: [0; 2], acked: [0; 2] };

    /// Those of a window.
    #[inline]
    pub fn of(window: &Window) -> Self {
        Self { end: window.end, acked: window.acked }
    }
}

impl Peer {
    /// No session.
    pub const NONE: Peer = Peer { address: 0, port: 0, bits: State::None as u8, scales: 0 };

    /// No session, and the remote endpoint of the mapping's first packet.
    pub fn none_with(remote: RemoteEndpoint) -> Self {
        Self { address: remote.address.0, port: remote.port, ..Self::NONE }
    }

    /// A flow without connection that a subscriber sends to `remote`: UDP or ICMP.
    pub fn flow(remote: RemoteEndpoint) -> Self {
        let bits = State::Established as u8 | HOLDS;
        Self { address: remote.address.0, port: remote.port, bits, scales: 0 }
    }

    /// The permission for an address to send from any port, which an ALG has given for a
    /// while: a session with nobody yet, which keeps its mapping alive.
    pub fn expected(address: RemoteAddress) -> Self {
        Self { address: address.0, port: 0, bits: State::None as u8 | HOLDS | EXPECTED, scales: 0 }
    }

    /// Whether it is the permission of [`Peer::expected`].
    pub fn expects(&self, address: RemoteAddress) -> bool {
        self.bits & EXPECTED != 0 && self.address == address.0
    }

    /// The record form of a TCP session with `remote`.
    pub fn connected(remote: RemoteEndpoint, connection: &Connection) -> (Self, Numbers) {
        let mut peer = Self { address: remote.address.0, port: remote.port, bits: 0, scales: 0 };
        let numbers = peer.store(connection);
        (peer, numbers)
    }

    /// Sequence numbers of the TCP session.
    #[inline]
    pub fn window(&self, numbers: &Numbers) -> Window {
        let scale = [(self.scales & 15).min(MAX_SCALE), (self.scales >> 4).min(MAX_SCALE)];
        Window { end: numbers.end, acked: numbers.acked, scale }
    }

    /// The TCP session.
    pub fn connection(&self, numbers: &Numbers) -> Connection {
        Connection {
            state: State::from_record(self.bits & STATE),
            initiator: self.opener(),
            holds: self.holds(),
            window: self.window(numbers),
        }
    }

    /// Writes what a TCP session has become; returns its numbers.
    #[must_use]
    pub fn store(&mut self, connection: &Connection) -> Numbers {
        let Connection { state, initiator, holds, window } = connection;
        self.bits = self.bits & (PERMITS | COUNTED) | *state as u8;
        if *initiator == Sender::External {
            self.bits |= EXTERNAL_OPENED;
        }
        if *holds {
            self.bits |= HOLDS;
        }
        self.scales = window.scale[0] | window.scale[1] << 4;
        Numbers::of(window)
    }

    /// Whether there is no session here.
    pub fn is_none(&self) -> bool {
        self.bits & STATE == State::None as u8
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

    /// Which side opened it.
    pub fn opener(&self) -> Sender {
        if self.bits & EXTERNAL_OPENED != 0 { Sender::External } else { Sender::Internal }
    }

    /// Whether it is counted at its remote address.
    pub fn is_counted(&self) -> bool {
        self.bits & COUNTED != 0
    }

    /// Notes whether it is.
    pub fn set_counted(&mut self, counted: bool) {
        self.bits = self.bits & !COUNTED | if counted { COUNTED } else { 0 };
    }

    /// TCP state; of a flow without connection it means nothing.
    #[inline]
    pub fn state(&self) -> State {
        State::from_record(self.bits & STATE)
    }

    /// Whether it keeps its mapping alive.
    pub fn holds(&self) -> bool {
        self.bits & HOLDS != 0
    }

    /// Whether it is counted in a permission for its remote address.
    pub fn permits(&self) -> bool {
        self.bits & PERMITS != 0
    }

    /// Notes that it is counted in a permission.
    pub fn set_permits(&mut self) {
        self.bits |= PERMITS;
    }
}

/// A session outside its mapping, or the permission for one address: 64 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Session {
    pub(crate) generation: u32,
    /// Slot and generation of the mapping it hangs from.
    pub(crate) mapping: u32,
    pub(crate) mapping_generation: u32,
    pub(crate) peer: Peer,
    pub(crate) deadline: u32,
    pub(crate) numbers: Numbers,
    /// Not 0: this is no session but the permission for the remote address to open some (ADF),
    /// held by so many sessions of the subscriber's own. It has no deadline.
    pub(crate) permitted_by: u32,
    /// Shard that owns the record.
    pub(crate) shard: u16,
    reserved: [u8; 14],
    next: u32,
}

const _: () = assert!(size_of::<Session>() == 64);

impl_record!(Session, next);

/// Hash input for (mapping slot, remote endpoint).
pub fn hash_words(mapping: u32, remote: RemoteEndpoint) -> (u64, u64) {
    (u64::from(mapping) << 16 | u64::from(remote.port), u64::from(remote.address.0))
}
