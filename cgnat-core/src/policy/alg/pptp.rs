//! What is said on a control connection of PPTP, and which call identifiers it hands out
//! (RFC 2637 sections 2 and 3).
//!
//! The server gets the external port of the connection instead of the client's call identifier,
//! and the client gets its own back. Both are two bytes, so nothing in the stream moves.
//! Always true:
//! 1. a message counts only at its place: each begins where the one before ended, from the first
//!    byte of the connection on, and is whole in its segment. What is not ends all for good;
//! 2. no call before both sides have agreed to talk, and none but by the server's own answer;
//! 3. what was replaced is replaced again whenever it is sent again, however it is cut.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::policy::tcp_window::Sender;

/// Port of PPTP servers.
pub const CONTROL_PORT: u16 = 1723;

const MAGIC: [u8; 4] = [0x1a, 0x2b, 0x3c, 0x4d];

/// Length, message type, cookie, control message type, reserved.
const HEADER: usize = 12;

/// Bytes of each control message, from type 1 on.
const LENGTHS: [u16; 15] = [156, 156, 16, 16, 16, 20, 168, 32, 220, 24, 28, 16, 148, 40, 24];

/// The control messages that change something here; the rest passes.
mod kind {
    pub const START_REQUEST: u16 = 1;
    pub const START_REPLY: u16 = 2;
    pub const STOP_REQUEST: u16 = 3;
    pub const STOP_REPLY: u16 = 4;
    pub const OUTGOING_CALL_REQUEST: u16 = 7;
    pub const OUTGOING_CALL_REPLY: u16 = 8;
    pub const INCOMING_CALL_REQUEST: u16 = 9;
    pub const INCOMING_CALL_REPLY: u16 = 10;
    pub const CALL_CLEAR_REQUEST: u16 = 12;
    pub const CALL_DISCONNECT_NOTIFY: u16 = 13;
    pub const WAN_ERROR_NOTIFY: u16 = 14;
    pub const SET_LINK_INFO: u16 = 15;
}

/// Where a call identifier, and that of the peer behind it, are in a message.
const ID: usize = HEADER;
const PEER_ID: usize = HEADER + 2;

/// Where the result of a start reply, and of a call reply, is; 1 is success.
const START_RESULT: usize = HEADER + 2;
const CALL_RESULT: usize = HEADER + 4;

/// Identifiers of one side that may be under way at a time.
const PLACES: usize = 4;

/// How far the two are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Nothing was said.
    Silent = 0,
    /// The client wants to talk.
    Asked,
    /// They talk, and have no call.
    Talking,
    /// The client wants a call.
    Requested,
    /// There is a call.
    Connected,
    /// Nothing is looked at any more.
    Over,
}

const PHASES: [Phase; 6] =
    [Phase::Silent, Phase::Asked, Phase::Talking, Phase::Requested, Phase::Connected, Phase::Over];

/// One direction of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Direction {
    /// Sequence number behind the last message that was taken.
    next: u32,
    /// Highest number that the other side has acknowledged.
    acknowledged: u32,
    /// Numbers of the first bytes of replaced identifiers, the last ones.
    places: [u32; PLACES],
    /// How many were replaced, at most [`PLACES`], and which comes next.
    used: u8,
    turn: u8,
    reserved: u16,
}

impl Direction {
    fn new(next: u32) -> Self {
        let places = [0; PLACES];
        Self { next, acknowledged: next, places, used: 0, turn: 0, reserved: 0 }
    }

    fn replaced(&self) -> &[u32] {
        &self.places[..usize::from(self.used).min(PLACES)]
    }

    /// Whether the other side has all that was replaced.
    fn is_settled(&self) -> bool {
        self.replaced().iter().all(|place| self.has(*place))
    }

    fn has(&self, place: u32) -> bool {
        distance(self.acknowledged, place) >= 2
    }

    /// False if there is no room, because too much is under way.
    fn replace(&mut self, place: u32) -> bool {
        let turn = usize::from(self.turn) % PLACES;
        if usize::from(self.used) >= PLACES && !self.has(self.places[turn]) {
            return false;
        }
        self.places[turn] = place;
        self.used = (self.used + 1).min(PLACES as u8);
        self.turn = (turn as u8 + 1) % PLACES as u8;
        true
    }
}

/// A control connection that is followed, 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Dialog {
    /// By [`Sender`].
    directions: [Direction; 2],
    /// The identifier that the server gets.
    external: u16,
    /// Identifiers that client and server have chosen.
    client: u16,
    server: u16,
    phase: u8,
    has_client: u8,
}

const _: () = assert!(size_of::<Dialog>() == 64);

/// The identifiers of a call: what each side has chosen to be addressed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The client's own.
    pub client: u16,
    /// The server's.
    pub server: u16,
}

/// `a - b` in sequence space.
fn distance(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

impl Dialog {
    /// A connection whose client and server send these numbers next, and whose server gets
    /// `external` for an identifier.
    pub fn new((client_next, server_next): (u32, u32), external: u16) -> Self {
        Self {
            directions: [Direction::new(client_next), Direction::new(server_next)],
            external,
            client: 0,
            server: 0,
            phase: Phase::Silent as u8,
            has_client: 0,
        }
    }

    fn phase(&self) -> Phase {
        PHASES.get(usize::from(self.phase)).copied().unwrap_or(Phase::Over)
    }

    fn go(&mut self, phase: Phase) {
        self.phase = phase as u8;
    }

    /// Whether nothing is looked at any more.
    pub fn is_over(&self) -> bool {
        self.phase() == Phase::Over
    }

    /// Nothing is looked at any more, and there is no call. What was replaced stays so.
    pub fn end(&mut self) {
        self.go(Phase::Over);
    }

    /// The call, while there is one.
    pub fn call(&self) -> Option<Call> {
        let call = Call { client: self.client, server: self.server };
        (self.phase() == Phase::Connected).then_some(call)
    }

    /// How far a segment begins behind what was taken of a side.
    pub fn ahead(&self, from: Sender, sequence: u32) -> i32 {
        distance(sequence, self.directions[from as usize].next)
    }

    /// Whether the other side has acknowledged all that was replaced for it.
    pub fn is_settled(&self, from: Sender) -> bool {
        self.directions[from as usize].is_settled()
    }

    /// Notes what `to` has acknowledged of the other side; more than was sent counts for nothing.
    pub fn acknowledge(&mut self, to: Sender, acknowledgement: u32) {
        let of = &mut self.directions[1 - to as usize];
        if distance(acknowledgement, of.acknowledged) > 0 && distance(of.next, acknowledgement) >= 0
        {
            of.acknowledged = acknowledgement;
        }
    }

    /// Takes what follows of a side; says how many messages about further calls it left alone.
    pub fn take(&mut self, from: Sender, news: &[u8]) -> u64 {
        let (mut at, mut left_alone) = (0, 0);
        // Each message has at least sixteen bytes.
        while at < news.len() && !self.is_over() {
            let Some((kind, message)) = message(&news[at..]) else {
                self.end();
                break;
            };
            let place = self.directions[from as usize].next;
            if self.is_out_of_place(from, kind, message) {
                self.end();
                break;
            }
            left_alone += u64::from(!self.heed(from, kind, message, place));
            at += message.len();
            self.directions[from as usize].next = place.wrapping_add(message.len() as u32);
        }
        left_alone
    }

    /// Before they talk, the client asks and the server agrees, and nothing else is said.
    fn is_out_of_place(&self, from: Sender, kind: u16, message: &[u8]) -> bool {
        match (self.phase(), from) {
            (Phase::Silent, Sender::Internal) => kind != kind::START_REQUEST,
            (Phase::Asked, Sender::External) => {
                kind != kind::START_REPLY || message[START_RESULT] != 1
            }
            (Phase::Silent | Phase::Asked, _) => true,
            _ => false,
        }
    }

    /// A message at its place; false if it is about a call that is not translated.
    fn heed(&mut self, from: Sender, kind: u16, message: &[u8], place: u32) -> bool {
        let id = u16::from_be_bytes([message[ID], message[ID + 1]]);
        match (from, kind) {
            (_, kind::START_REQUEST) if self.phase() == Phase::Silent => self.go(Phase::Asked),
            (_, kind::START_REPLY) if self.phase() == Phase::Asked => self.go(Phase::Talking),
            (_, kind::STOP_REQUEST | kind::STOP_REPLY) => self.end(),
            (Sender::Internal, kind::OUTGOING_CALL_REQUEST) => return self.request(id, place),
            (Sender::External, kind::OUTGOING_CALL_REPLY) => {
                return self.reply(id, message, place);
            }
            (Sender::Internal, kind::CALL_CLEAR_REQUEST) if self.is_client(id) => {
                self.replace(from, place.wrapping_add(ID as u32));
                self.hang_up();
            }
            // The identifier is the server's; some send the client's.
            (Sender::External, kind::CALL_DISCONNECT_NOTIFY) => {
                let is_server = self.call().is_some_and(|call| call.server == id);
                if is_server {
                    self.hang_up();
                } else if self.is_external(id) {
                    self.replace(from, place.wrapping_add(ID as u32));
                    self.hang_up();
                }
            }
            // By RFC 2637 the client alone sets the link; servers do too, of its identifier.
            (Sender::External, kind::SET_LINK_INFO | kind::WAN_ERROR_NOTIFY)
                if self.is_external(id) =>
            {
                self.replace(from, place.wrapping_add(ID as u32));
            }
            // Calls that the server opens, or a client that answers lines.
            (Sender::Internal, kind::INCOMING_CALL_REQUEST | kind::INCOMING_CALL_REPLY) => {
                return false;
            }
            _ => {}
        }
        true
    }

    fn is_client(&self, id: u16) -> bool {
        self.has_client != 0 && self.client == id
    }

    fn is_external(&self, id: u16) -> bool {
        self.has_client != 0 && self.external == id
    }

    /// The client wants a call. One at a time: another one is not translated.
    fn request(&mut self, id: u16, place: u32) -> bool {
        let is_it = match self.phase() {
            // What the server is told of the last one must have arrived.
            Phase::Talking => self.is_client(id) || self.is_settled(Sender::External),
            Phase::Requested => self.is_client(id),
            _ => false,
        };
        if is_it {
            (self.client, self.has_client) = (id, 1);
            self.go(Phase::Requested);
            self.replace(Sender::Internal, place.wrapping_add(ID as u32));
        }
        is_it
    }

    fn reply(&mut self, id: u16, message: &[u8], place: u32) -> bool {
        let peer = u16::from_be_bytes([message[PEER_ID], message[PEER_ID + 1]]);
        if !self.is_external(peer) {
            return false;
        }
        self.replace(Sender::External, place.wrapping_add(PEER_ID as u32));
        if self.phase() == Phase::Requested {
            self.server = id;
            self.go(if message[CALL_RESULT] == 1 { Phase::Connected } else { Phase::Talking });
        }
        true
    }

    fn hang_up(&mut self) {
        if matches!(self.phase(), Phase::Requested | Phase::Connected) {
            self.go(Phase::Talking);
        }
    }

    /// The identifier at this number is replaced from now on.
    fn replace(&mut self, from: Sender, place: u32) {
        if !self.directions[from as usize].replace(place) {
            self.end();
        }
    }

    /// Bytes of a segment's payload that leave as others: where, and as what.
    pub fn replaced(
        &self,
        from: Sender,
        sequence: u32,
        length: usize,
    ) -> impl Iterator<Item = (usize, u8)> + use<> {
        let id = if from == Sender::Internal { self.external } else { self.client };
        let Direction { places, used, .. } = self.directions[from as usize];
        let places = places.into_iter().take(usize::from(used));
        places.zip([id; PLACES]).flat_map(move |(place, id)| {
            id.to_be_bytes().into_iter().zip(0..2u32).filter_map(move |(byte, n)| {
                let at = distance(place.wrapping_add(n), sequence);
                usize::try_from(at).ok().filter(|at| *at < length).map(|at| (at, byte))
            })
        })
    }
}

/// The message that `bytes` begin with, and its type, if it is whole.
fn message(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let [l0, l1, 0, 1, m0, m1, m2, m3, k0, k1, _, _, ..] = bytes else { return None };
    let (length, kind) = (u16::from_be_bytes([*l0, *l1]), u16::from_be_bytes([*k0, *k1]));
    let expected = LENGTHS.get(usize::from(kind.wrapping_sub(1)))?;
    if [*m0, *m1, *m2, *m3] != MAGIC || length != *expected {
        return None;
    }
    Some((kind, bytes.get(..usize::from(length))?))
}

#[cfg(test)]
mod tests;
