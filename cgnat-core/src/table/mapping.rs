//! Mappings: internal endpoint <-> external endpoint, the truth for translation.
//!
//! One cache line each, with the first session inside, so a hit reads one line. A mapping
//! that has sessions (see [`super::session`]) lives as long as one of them holds it; the
//! others carry an idle deadline of their own.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::endpoint::{
    ExternalAddress, ExternalEndpoint, FlowKey, InternalAddress, InternalEndpoint, Protocol, Realm,
    RemoteEndpoint,
};
use crate::packet::checksum::Delta;
use crate::packet::rewrite::NewEndpoint;
use crate::policy::filtering::{self, Filtering};
use crate::policy::tcp_state::State;
use crate::table::session::Numbers;
use crate::table::session::Peer;
use crate::table::slab::impl_record;
use crate::time::Tick;

/// A session that held the mapping has ended other than by FIN from both sides.
const UNCLOSED: u8 = 1 << 7;

/// The mapping is that of one flow; others may have its external port.
const OVERLOADED: u8 = 1 << 6;

/// How an internal endpoint is mapped (RFC 4787 section 4.1) and who may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// The same for every destination.
    EndpointIndependent(Filtering),
    /// Address and port dependent, mapping and filtering: an overloaded port.
    EndpointDependent,
}

/// One mapping, 64 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Mapping {
    pub(crate) generation: u32,
    pub(crate) internal_address: u32,
    pub(crate) external_address: u32,
    pub(crate) internal_port: u16,
    pub(crate) external_port: u16,
    /// Shard that owns the record.
    pub(crate) shard: u16,
    /// Realm and protocol, see [`FlowKey::kind`].
    kind: u8,
    /// [`Filtering`] as a number, [`OVERLOADED`] and [`UNCLOSED`].
    filtering: u8,
    /// Sequence numbers of the session inside.
    pub(crate) first_numbers: Numbers,
    /// Port block that the external port is from.
    pub(crate) block: u32,
    /// Slot of the subscriber.
    pub(crate) subscriber: u32,
    /// Checksum deltas of the outbound direction; inbound is their inverse.
    address_delta: u16,
    port_delta: u16,
    /// Idle deadline of the session inside, or of the mapping if it has no sessions.
    pub(crate) deadline: u32,
    /// The session inside, which always holds the mapping; or none. Until there was one, and
    /// always if the port is overloaded, its remote end is that of the first packet.
    pub(crate) first: Peer,
    /// Sessions in the session table that hold the mapping, and those that do not.
    pub(crate) holders: u16,
    pub(crate) strangers: u16,
}

const _: () = assert!(size_of::<Mapping>() == 64);

// A free record has no subscriber.
impl_record!(Mapping, subscriber);

impl Mapping {
    /// Fills a record that was just allocated.
    pub fn establish(
        &mut self,
        shard: u16,
        key: FlowKey,
        external: ExternalEndpoint,
        (block, subscriber): (u32, u32),
        (behaviour, remote): (Behaviour, RemoteEndpoint),
    ) {
        let change = NewEndpoint::between(
            (key.internal.address.0, key.internal.port),
            (external.address.0, external.port),
        );
        self.internal_address = key.internal.address.0;
        self.internal_port = key.internal.port;
        self.external_address = external.address.0;
        self.external_port = external.port;
        self.shard = shard;
        self.kind = key.kind();
        self.block = block;
        self.subscriber = subscriber;
        self.address_delta = change.address_delta.stored();
        self.port_delta = change.port_delta.stored();
        self.deadline = 0;
        self.filtering = match behaviour {
            Behaviour::EndpointIndependent(filtering) => filtering::stored(filtering),
            Behaviour::EndpointDependent => {
                filtering::stored(Filtering::AddressAndPortDependent) | OVERLOADED
            }
        };
        self.first = Peer::none_with(remote);
        self.first_numbers = Numbers::NONE;
        self.holders = 0;
        self.strangers = 0;
    }

    /// Notes in which state a session that held the mapping has ended.
    pub fn note_end(&mut self, state: State) {
        if state != State::Closing {
            self.filtering |= UNCLOSED;
        }
    }

    /// Whether it had TCP sessions and both ends closed each (RFC 6888 REQ-8a).
    pub fn all_closed(&self) -> bool {
        self.is_of(Protocol::Tcp) && self.filtering & UNCLOSED == 0
    }

    /// Internal endpoint, protocol and realm.
    ///
    /// # Panics
    /// If the record was never established; slots come from the index, which holds only
    /// established ones.
    pub fn key(&self) -> FlowKey {
        let address = InternalAddress(self.internal_address);
        let internal = InternalEndpoint { address, port: self.internal_port };
        FlowKey::from_kind(internal, self.kind).expect("written by establish")
    }

    /// Whether it is of this protocol.
    #[inline]
    pub fn is_of(&self, protocol: Protocol) -> bool {
        self.kind & 0xf == protocol as u8
    }

    /// Realm of the remote ends that it is for.
    #[inline]
    pub fn realm(&self) -> Realm {
        Realm(self.kind >> 4)
    }

    /// Whether this is the mapping of `key`.
    #[inline]
    pub fn is_for(&self, key: FlowKey) -> bool {
        self.internal_address == key.internal.address.0
            && self.internal_port == key.internal.port
            && self.kind == key.kind()
    }

    /// Whether it is the mapping of one flow, whose external port others may have.
    #[inline]
    pub fn is_overloaded(&self) -> bool {
        self.filtering & OVERLOADED != 0
    }

    /// Whether this is the flow of `key` with `remote`.
    pub fn is_flow(&self, key: FlowKey, remote: RemoteEndpoint) -> bool {
        self.is_for(key) && self.first.remote() == remote
    }

    /// External endpoint.
    pub fn external(&self) -> ExternalEndpoint {
        ExternalEndpoint {
            address: ExternalAddress(self.external_address),
            port: self.external_port,
        }
    }

    /// How to rewrite the source of an outbound packet.
    #[inline]
    pub fn outbound_rewrite(&self) -> NewEndpoint {
        NewEndpoint {
            address: self.external_address,
            port: self.external_port,
            address_delta: Delta::from_stored(self.address_delta),
            port_delta: Delta::from_stored(self.port_delta),
        }
    }

    /// How to rewrite the destination of an inbound packet.
    #[inline]
    pub fn inbound_rewrite(&self) -> NewEndpoint {
        NewEndpoint {
            address: self.internal_address,
            port: self.internal_port,
            address_delta: Delta::from_stored(self.address_delta).inverse(),
            port_delta: Delta::from_stored(self.port_delta).inverse(),
        }
    }

    /// Moves the idle deadline of a mapping without sessions, never back: it lives as long as
    /// its longest flow, and a short timer of one destination port does not shorten what
    /// another was promised.
    #[inline]
    pub fn prolong(&mut self, deadline: Tick) {
        if Tick(self.deadline).before(deadline) {
            self.deadline = deadline.0;
        }
    }

    /// Who may use it from outside.
    #[inline]
    pub fn filtering(&self) -> Filtering {
        filtering::from_stored(self.filtering & !(UNCLOSED | OVERLOADED))
    }

    /// Whether its life is that of its sessions.
    #[inline]
    pub fn has_sessions(&self) -> bool {
        self.is_of(Protocol::Tcp) || !self.filtering().is_open()
    }

    /// Whether the mapping has ended by `now`, whatever housekeeping has seen of it.
    #[inline]
    pub fn is_expired(&self, now: Tick) -> bool {
        if self.has_sessions() {
            self.holders == 0 && (self.first.is_none() || self.is_past_deadline(now))
        } else {
            self.is_past_deadline(now)
        }
    }

    /// Whether the session inside, if any, or a mapping without sessions has ended by `now`.
    #[inline]
    pub fn is_past_deadline(&self, now: Tick) -> bool {
        now.reached(Tick(self.deadline))
    }
}
