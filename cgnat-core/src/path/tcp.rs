//! What a TCP packet does to the session it belongs to.
//!
//! A packet that belongs to no session and opens none is translated and changes nothing
//! (RFC 6146 section 3.5.2.2, CLOSED), if the mapping is open to anybody.

use super::session::Place;
use crate::endpoint::RemoteEndpoint;
use crate::packet::tcp::Segment;
use crate::policy::tcp_state::{self, Connection, State, Step};
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::table::session::Peer;
use crate::time::Tick;
use crate::verdict::DropReason;

impl Shard {
    /// Moves the session of (`mapping`, `remote`) by a segment, opening it if the segment does
    /// that.
    ///
    /// # Errors
    /// [`DropReason::SessionTableFull`] if a new session finds no room, or the limit of the
    /// subscriber that was met,
    /// [`DropReason::Filtered`] if the remote end may not send here.
    pub(super) fn note_tcp(
        &mut self,
        mapping: u32,
        remote: RemoteEndpoint,
        segment: &Segment,
        from: Sender,
        now: Tick,
    ) -> Result<(), DropReason> {
        if let Some(place) = self.find_session(mapping, remote, now) {
            self.move_session(mapping, place, segment, from, now);
            return Ok(());
        }
        if from == Sender::External && !self.is_permitted(mapping, remote, now) {
            return Err(DropReason::Filtered);
        }
        if !tcp_state::opens(segment.flags) {
            return Ok(());
        }
        let session = Peer::connected(remote, &Connection::open(segment, from));
        let timeout_s = self.timeouts.tcp_s(State::Opening);
        self.open_session(mapping, session, from, timeout_s, now)
    }

    pub(super) fn move_session(
        &mut self,
        mapping: u32,
        place: Place,
        segment: &Segment,
        from: Sender,
        now: Tick,
    ) {
        let (peer, numbers) = match place {
            Place::Inside => {
                let record = &mut self.mappings[mapping];
                (&mut record.first, &mut record.first_numbers)
            }
            Place::Table(slot) => {
                let session = &mut self.sessions[slot];
                (&mut session.peer, &mut session.numbers)
            }
        };
        let mut connection = peer.connection(numbers);
        let (held, opener) = (connection.holds, connection.initiator);
        let step = connection.step(segment, from);
        if step == Step::OutOfWindow {
            self.gauges.tcp_out_of_window += 1;
            return;
        }
        *numbers = peer.store(&connection);
        if connection.initiator != opener {
            let subscriber = self.mappings[mapping].subscriber;
            self.opener_changes(subscriber, connection.initiator);
            self.recount(mapping, place, connection.initiator);
        }
        if connection.holds && !held {
            let record = &mut self.mappings[mapping];
            record.strangers -= 1;
            record.holders += 1;
        }
        if step == Step::Restart {
            let timeout_s = self.timeouts.tcp_s(connection.state);
            self.set_deadline(mapping, place, now.plus_seconds(timeout_s), now);
        }
    }
}
