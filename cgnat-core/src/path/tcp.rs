//! What a TCP packet does to the session it belongs to.
//!
//! A mapping's first session lives in its record, further ones in the session table. A
//! packet that belongs to no session and opens none is translated and changes nothing
//! (RFC 6146 section 3.5.2.2, CLOSED).

use crate::endpoint::RemoteEndpoint;
use crate::policy::tcp_state::{self, Initiator, State};
use crate::shard::Shard;
use crate::table::session::{Peer, hash_words};
use crate::time::Tick;
use crate::verdict::DropReason;

/// Sessions that one mapping may have besides the one inside it: a bound against inbound
/// SYN floods to one endpoint (RFC 6888 REQ-5).
pub const MAX_FURTHER_SESSIONS: u32 = 2048;

/// Those that the remote side may open: it is anybody.
pub const MAX_INBOUND_SESSIONS: u32 = 256;

/// Which side of the NAT a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// A subscriber.
    Internal,
    /// The remote end.
    External,
}

impl From {
    fn is(self, initiator: Initiator) -> bool {
        (self == From::Internal) == (initiator == Initiator::Internal)
    }
}

impl Shard {
    /// Moves the session of (`slot`, `remote`) by a packet with `flags`, opening it if the
    /// packet does that.
    ///
    /// # Errors
    /// [`DropReason::SessionTableFull`] if a new session finds no room.
    pub(super) fn note_tcp(
        &mut self,
        slot: u32,
        remote: RemoteEndpoint,
        flags: u8,
        from: From,
        now: Tick,
    ) -> Result<(), DropReason> {
        let mapping = &mut self.mappings[slot];
        if !mapping.first.is_none() && mapping.first_expired(now) {
            mapping.first = Peer::NONE;
            self.gauges.sessions -= 1;
        }
        if mapping.first.is_with(remote) {
            let step =
                tcp_state::step(mapping.first.state(), flags, from.is(mapping.first.initiator()));
            reopen(&mut mapping.first, step.state, from);
            if step.restart_timer {
                let deadline = now.plus_seconds(self.timeouts.tcp_s(step.state));
                let shorter = deadline.before(Tick(mapping.deadline));
                mapping.deadline = deadline.0;
                if shorter {
                    self.due.mappings.arm(slot, mapping.generation, deadline);
                }
            }
            return Ok(());
        }
        if mapping.further_sessions > 0
            && let Some(session) = self.find_session(slot, remote)
        {
            if !now.reached(Tick(self.sessions[session].deadline)) {
                self.move_session(session, flags, from, now);
                return Ok(());
            }
            self.end_session(session);
            let mapping = &self.mappings[slot];
            if mapping.is_expired(now) {
                // Nothing is left of it and its word may be disarmed: it must be proposed.
                self.due.mappings.arm(slot, mapping.generation, now);
            }
        }
        if !tcp_state::opens(flags) {
            return Ok(());
        }
        self.open_session(slot, remote, from, now)
    }

    fn find_session(&self, mapping: u32, remote: RemoteEndpoint) -> Option<u32> {
        let (first, second) = hash_words(mapping, remote);
        self.session_index.find(self.key.hash_pair(first, second), |slot| {
            let session = &self.sessions[slot];
            session.mapping == mapping && session.peer.is_with(remote)
        })
    }

    fn move_session(&mut self, slot: u32, flags: u8, from: From, now: Tick) {
        let session = &mut self.sessions[slot];
        let step = tcp_state::step(session.peer.state(), flags, from.is(session.peer.initiator()));
        reopen(&mut session.peer, step.state, from);
        if step.restart_timer {
            let deadline = now.plus_seconds(self.timeouts.tcp_s(step.state));
            let shorter = deadline.before(Tick(session.deadline));
            session.deadline = deadline.0;
            if shorter {
                self.due.sessions.arm(slot, session.generation, deadline);
            }
        }
    }

    fn open_session(
        &mut self,
        mapping: u32,
        remote: RemoteEndpoint,
        from: From,
        now: Tick,
    ) -> Result<(), DropReason> {
        let initiator = initiator_of(from);
        let peer = Peer::new(remote, State::Opening, initiator);
        let deadline = now.plus_seconds(self.timeouts.tcp_s(State::Opening));
        let record = &mut self.mappings[mapping];
        if record.first.is_none() {
            record.first = peer;
            record.deadline = deadline.0;
            self.due.mappings.arm(mapping, record.generation, deadline);
            self.gauges.sessions += 1;
            return Ok(());
        }
        // What strangers open never takes the last quarter of the table from subscribers.
        let (most, room) = match from {
            From::Internal => (MAX_FURTHER_SESSIONS, true),
            From::External => {
                let capacity = self.sessions.capacity();
                (MAX_INBOUND_SESSIONS, self.sessions.in_use() < capacity - capacity / 4)
            }
        };
        if record.further_sessions >= most || !room {
            return Err(DropReason::SessionTableFull);
        }
        let Some(slot) = self.sessions.allocate() else {
            return Err(DropReason::SessionTableFull);
        };
        let (first, second) = hash_words(mapping, remote);
        let hash = self.key.hash_pair(first, second);
        let (sessions, secret) = (&self.sessions, self.key);
        let hash_of = |slot: u32| {
            let session = &sessions[slot];
            let (first, second) = hash_words(session.mapping, session.peer.remote());
            secret.hash_pair(first, second)
        };
        if self.session_index.insert(hash, slot, hash_of).is_err() {
            self.sessions.free(slot);
            return Err(DropReason::SessionTableFull);
        }
        record.further_sessions += 1;
        let session = &mut self.sessions[slot];
        session.mapping = mapping;
        session.mapping_generation = record.generation;
        session.peer = peer;
        session.deadline = deadline.0;
        session.shard = self.id;
        self.due.sessions.arm(slot, session.generation, deadline);
        self.gauges.sessions += 1;
        Ok(())
    }

    /// Frees a further session. Its mapping stays; the caller looks whether it has ended.
    pub(super) fn end_session(&mut self, slot: u32) {
        let session = &self.sessions[slot];
        let (mapping, remote) = (session.mapping, session.peer.remote());
        let (first, second) = hash_words(mapping, remote);
        let removed = self.session_index.remove(self.key.hash_pair(first, second), slot);
        debug_assert!(removed, "session {slot} was not in the index");
        self.due.sessions.disarm(slot);
        self.sessions.free(slot);
        self.mappings[mapping].further_sessions -= 1;
        self.gauges.sessions -= 1;
    }
}

/// Writes the new state; a session that opens anew has the sender of that SYN as initiator.
fn reopen(peer: &mut Peer, state: State, from: From) {
    if state == State::Opening && peer.state() == State::Closing {
        peer.set_initiator(initiator_of(from));
    }
    peer.set_state(state);
}

fn initiator_of(from: From) -> Initiator {
    match from {
        From::Internal => Initiator::Internal,
        From::External => Initiator::External,
    }
}
