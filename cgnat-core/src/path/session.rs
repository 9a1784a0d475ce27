//! Sessions of a mapping: finding, opening and ending them.
//!
//! The first session of a mapping lives in its record, further ones in the session table.
//! Sessions that hold their mapping end before it does. Those that do not, the unanswered
//! SYNs of strangers, may outlast it; then they belong to nothing, are found by nobody and
//! end at their own deadline.

use crate::endpoint::{Protocol, RemoteAddress, RemoteEndpoint};
use crate::packet::ipv4::Transport;
use crate::policy::alg::{ftp, pptp};
use crate::policy::filtering::Filtering;
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::table::session::{Numbers, Peer, hash_words};
use crate::time::Tick;
use crate::verdict::DropReason;

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the record of its mapping.
    Inside,
    /// In this slot of the session table.
    Table(u32),
}

impl Shard {
    /// The live session of a mapping with `remote`. What it meets and finds ended, it ends.
    pub(super) fn find_session(
        &mut self,
        mapping: u32,
        remote: RemoteEndpoint,
        now: Tick,
    ) -> Option<Place> {
        let record = &self.mappings[mapping];
        if !record.first.is_none() && record.is_past_deadline(now) {
            self.end_first(mapping);
        }
        let record = &self.mappings[mapping];
        if record.first.is_with(remote) {
            return Some(Place::Inside);
        }
        if record.holders == 0 && record.strangers == 0 {
            return None;
        }
        let slot = self.session_with(mapping, remote)?;
        if !now.reached(Tick(self.sessions[slot].deadline)) {
            return Some(Place::Table(slot));
        }
        self.end_session(slot);
        let record = &self.mappings[mapping];
        if record.is_expired(now) {
            // Nothing is left of it and its word may be disarmed: it must be proposed.
            self.due.mappings.arm(mapping, now, now);
        }
        None
    }

    /// Whether a mapping has a live session with `remote`. Changes nothing.
    pub(super) fn is_live_with(&self, mapping: u32, remote: RemoteEndpoint, now: Tick) -> bool {
        let record = &self.mappings[mapping];
        if record.first.is_with(remote) {
            return !record.is_past_deadline(now);
        }
        let slot = self.session_with(mapping, remote);
        slot.is_some_and(|slot| !now.reached(Tick(self.sessions[slot].deadline)))
    }

    fn session_with(&self, mapping: u32, remote: RemoteEndpoint) -> Option<u32> {
        let generation = self.mappings[mapping].generation;
        let (first, second) = hash_words(mapping, remote);
        self.session_index.find(self.key.hash_pair(first, second), |slot| {
            let session = &self.sessions[slot];
            session.mapping == mapping
                && session.mapping_generation == generation
                && session.peer.is_with(remote)
        })
    }

    /// Opens a session of a mapping, which has none with this remote end.
    ///
    /// # Errors
    /// [`DropReason::SessionTableFull`] if there is no room for it, or the limit of the
    /// subscriber or of the mapping that was met.
    pub(super) fn open_session(
        &mut self,
        mapping: u32,
        (mut peer, numbers): (Peer, Numbers),
        from: Sender,
        timeout_s: u32,
        now: Tick,
    ) -> Result<(), DropReason> {
        let subscriber = self.mappings[mapping].subscriber;
        let remote = peer.remote().address;
        self.admit_session(subscriber, remote, from, now)?;
        self.admit_to_mapping(mapping, from)?;
        if from == Sender::Internal {
            peer.set_counted(self.count_with(subscriber, remote)?);
        }
        let entered = self.enter_session(mapping, (peer, numbers), from, timeout_s, now);
        match entered {
            Ok(()) => {
                self.gauges.sessions += 1;
                self.session_begins(subscriber, from, now);
            }
            Err(_) => self.uncount_peer(subscriber, peer),
        }
        entered
    }

    /// Puts a session into the record of its mapping or into the table.
    fn enter_session(
        &mut self,
        mapping: u32,
        (mut peer, numbers): (Peer, Numbers),
        from: Sender,
        timeout_s: u32,
        now: Tick,
    ) -> Result<(), DropReason> {
        let deadline = now.plus_seconds(timeout_s);
        let record = &self.mappings[mapping];
        let inside = record.first.is_none() && peer.holds();
        // What strangers open never takes the last quarter of the table from subscribers.
        let kept = if from == Sender::External { self.sessions.capacity() / 4 } else { 0 };
        if !inside && self.sessions.in_use() + kept >= self.sessions.capacity() {
            return Err(DropReason::SessionTableFull);
        }
        let permits = from == Sender::Internal
            && record.is_of(Protocol::Tcp)
            && record.filtering() == Filtering::AddressDependent;
        if permits {
            self.permit(mapping, peer.remote())?;
            peer.set_permits();
        }
        if inside {
            let record = &mut self.mappings[mapping];
            record.first = peer;
            record.first_numbers = numbers;
            record.deadline = deadline.0;
            self.due.mappings.arm(mapping, deadline, now);
        } else {
            let Some(slot) = self.new_session(mapping, peer) else {
                if permits {
                    self.withdraw(mapping, peer.remote());
                }
                return Err(DropReason::SessionTableFull);
            };
            let session = &mut self.sessions[slot];
            session.numbers = numbers;
            session.deadline = deadline.0;
            self.due.sessions.arm(slot, deadline, now);
            let record = &mut self.mappings[mapping];
            if peer.holds() {
                record.holders += 1;
            } else {
                record.strangers += 1;
            }
        }
        Ok(())
    }

    /// A record of the session table, in the index, without numbers and deadline.
    fn new_session(&mut self, mapping: u32, peer: Peer) -> Option<u32> {
        let slot = self.sessions.allocate()?;
        let (first, second) = hash_words(mapping, peer.remote());
        let (sessions, secret) = (&self.sessions, self.key);
        let hash_of = |slot: u32| {
            let session = &sessions[slot];
            let (first, second) = hash_words(session.mapping, session.peer.remote());
            secret.hash_pair(first, second)
        };
        if self.session_index.insert(secret.hash_pair(first, second), slot, hash_of).is_err() {
            self.sessions.free(slot);
            return None;
        }
        let generation = self.mappings[mapping].generation;
        let session = &mut self.sessions[slot];
        session.mapping = mapping;
        session.mapping_generation = generation;
        session.peer = peer;
        session.numbers = Numbers::NONE;
        session.permitted_by = 0;
        session.shard = self.id;
        Some(slot)
    }

    fn remove_session(&mut self, slot: u32) {
        let session = &self.sessions[slot];
        let (first, second) = hash_words(session.mapping, session.peer.remote());
        let removed = self.session_index.remove(self.key.hash_pair(first, second), slot);
        debug_assert!(removed, "session {slot} was not in the index");
        self.due.sessions.disarm(slot);
        self.sessions.free(slot);
    }

    /// Ends the session inside a mapping. The mapping stays; the caller looks whether it has
    /// ended.
    pub(super) fn end_first(&mut self, mapping: u32) {
        let record = &mut self.mappings[mapping];
        let (peer, subscriber) = (record.first, record.subscriber);
        record.first = Peer::none_with(peer.remote());
        record.note_end(peer.state());
        self.gauges.sessions -= 1;
        self.session_ends(subscriber, peer.opener());
        self.uncount_peer(subscriber, peer);
        self.mind_control(mapping, peer);
        if peer.permits() {
            self.withdraw(mapping, peer.remote());
        }
    }

    /// With its session a control connection of FTP or PPTP ends.
    fn mind_control(&mut self, mapping: u32, peer: Peer) {
        if self.algs.ftp && peer.remote().port == ftp::CONTROL_PORT {
            self.forget_control(mapping, peer.remote().address);
        }
        if self.algs.pptp && peer.remote().port == pptp::CONTROL_PORT {
            self.forget_pptp(mapping, peer.remote().address);
        }
    }

    /// Ends a session of the table. Its mapping stays; the caller looks whether it has ended.
    pub(super) fn end_session(&mut self, slot: u32) {
        let session = &self.sessions[slot];
        let (mapping, generation, peer) =
            (session.mapping, session.mapping_generation, session.peer);
        self.remove_session(slot);
        self.gauges.sessions -= 1;
        if self.mappings.live(mapping, generation).is_none() {
            return;
        }
        let record = &mut self.mappings[mapping];
        if peer.holds() {
            record.note_end(peer.state());
            record.holders -= 1;
        } else {
            record.strangers -= 1;
        }
        let subscriber = record.subscriber;
        self.session_ends(subscriber, peer.opener());
        self.uncount_peer(subscriber, peer);
        self.mind_control(mapping, peer);
        if peer.permits() {
            self.withdraw(mapping, peer.remote());
        }
    }

    /// Whether a subscriber's own TCP session lets this remote end open one (RFC 5382 REQ-3).
    pub(super) fn is_permitted(&self, mapping: u32, remote: RemoteEndpoint, now: Tick) -> bool {
        let permitted = match self.mappings[mapping].filtering() {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => self.session_with(mapping, any_port(remote)).is_some(),
            Filtering::AddressAndPortDependent => false,
        };
        permitted || self.expectation(mapping, remote.address, now).is_some()
    }

    /// Lets an address open sessions of a mapping from any port for so many seconds. Until
    /// then it is a session that the subscriber has opened, and keeps the mapping alive.
    ///
    /// # Errors
    /// The limit of the subscriber or of the mapping that was met, or
    /// [`DropReason::SessionTableFull`].
    pub(super) fn expect(
        &mut self,
        mapping: u32,
        address: RemoteAddress,
        seconds: u32,
        now: Tick,
    ) -> Result<(), DropReason> {
        let deadline = now.plus_seconds(seconds);
        match self.expectation(mapping, address, now) {
            Some(slot) => self.set_deadline(mapping, Place::Table(slot), deadline, now),
            None => {
                if let Some(slot) = self.expecting(mapping, address) {
                    self.end_session(slot);
                }
                let subscriber = self.mappings[mapping].subscriber;
                self.admit_session(subscriber, address, Sender::Internal, now)?;
                self.admit_to_mapping(mapping, Sender::Internal)?;
                let mut peer = Peer::expected(address);
                peer.set_counted(self.count_with(subscriber, address)?);
                let Some(slot) = self.new_session(mapping, peer) else {
                    self.uncount_peer(subscriber, peer);
                    return Err(DropReason::SessionTableFull);
                };
                let session = &mut self.sessions[slot];
                session.deadline = deadline.0;
                self.due.sessions.arm(slot, deadline, now);
                self.mappings[mapping].holders += 1;
                self.gauges.sessions += 1;
                self.session_begins(subscriber, Sender::Internal, now);
            }
        }
        Ok(())
    }

    /// Slot of what [`Shard::expect`] has made for an address, in time or over.
    fn expecting(&self, mapping: u32, address: RemoteAddress) -> Option<u32> {
        if !self.algs.any() {
            return None;
        }
        let generation = self.mappings[mapping].generation;
        let (first, second) = hash_words(mapping, RemoteEndpoint { address, port: 0 });
        self.session_index.find(self.key.hash_pair(first, second), |slot| {
            let session = &self.sessions[slot];
            session.mapping == mapping
                && session.mapping_generation == generation
                && session.peer.expects(address)
        })
    }

    /// The same, in time.
    fn expectation(&self, mapping: u32, address: RemoteAddress, now: Tick) -> Option<u32> {
        let slot = self.expecting(mapping, address)?;
        (!now.reached(Tick(self.sessions[slot].deadline))).then_some(slot)
    }

    /// A packet to a mapping from an address that is expected: it opens the session that the
    /// subscriber has asked for, and the next one is not expected.
    ///
    /// # Errors
    /// [`DropReason::Filtered`] if it is not, or what [`Shard::open_session`] says.
    #[cold]
    fn meet_expected(
        &mut self,
        mapping: u32,
        remote: RemoteEndpoint,
        timeout_s: u32,
        now: Tick,
    ) -> Result<(), DropReason> {
        let expected = self.expectation(mapping, remote.address, now);
        let slot = expected.ok_or(DropReason::Filtered)?;
        let session = (Peer::flow(remote), Numbers::NONE);
        self.open_session(mapping, session, Sender::Internal, timeout_s, now)?;
        self.end_session(slot);
        Ok(())
    }

    /// Lets an address open sessions for as long as one more session of the subscriber's own
    /// with it lasts.
    fn permit(&mut self, mapping: u32, remote: RemoteEndpoint) -> Result<(), DropReason> {
        let remote = any_port(remote);
        let slot = match self.session_with(mapping, remote) {
            Some(slot) => slot,
            None => {
                self.new_session(mapping, Peer::flow(remote)).ok_or(DropReason::SessionTableFull)?
            }
        };
        self.sessions[slot].permitted_by += 1;
        Ok(())
    }

    fn withdraw(&mut self, mapping: u32, remote: RemoteEndpoint) {
        let Some(slot) = self.session_with(mapping, any_port(remote)) else {
            unreachable!("a session of mapping {mapping} was counted in a permission");
        };
        let session = &mut self.sessions[slot];
        session.permitted_by -= 1;
        if session.permitted_by == 0 {
            self.remove_session(slot);
        }
    }

    /// Idle timeout of a flow without connection, by the remote end's port (RFC 4787 REQ-5a).
    pub(super) fn idle_timeout_s(&self, transport: Transport, remote: RemoteEndpoint) -> u32 {
        match transport {
            Transport::Udp { .. } => self.timeouts.udp_s(remote.port),
            _ => self.timeouts.icmp_s(),
        }
    }

    /// A packet without connection, UDP or an ICMP query, of a mapping whose filtering asks
    /// who was sent to: outbound it opens or prolongs the session, inbound it needs one.
    ///
    /// # Errors
    /// [`DropReason::Filtered`], or [`DropReason::SessionTableFull`] for a new one.
    pub(super) fn note_flow(
        &mut self,
        mapping: u32,
        remote: RemoteEndpoint,
        from: Sender,
        timeout_s: u32,
        now: Tick,
    ) -> Result<(), DropReason> {
        let record = &self.mappings[mapping];
        let by_address =
            record.filtering() == Filtering::AddressDependent || record.is_of(Protocol::Icmp);
        let remote = if by_address { any_port(remote) } else { remote };
        let Some(place) = self.find_session(mapping, remote, now) else {
            if from == Sender::External {
                return self.meet_expected(mapping, remote, timeout_s, now);
            }
            let session = (Peer::flow(remote), Numbers::NONE);
            return self.open_session(mapping, session, from, timeout_s, now);
        };
        if from == Sender::Internal || self.inbound_refresh {
            let deadline = now.plus_seconds(timeout_s);
            // A short timer of one destination port never shortens what another was promised.
            if self.deadline_of(mapping, place).before(deadline) {
                self.set_deadline(mapping, place, deadline, now);
            }
        }
        Ok(())
    }

    /// The session at a place.
    pub(super) fn peer_at(&self, mapping: u32, place: Place) -> &Peer {
        match place {
            Place::Inside => &self.mappings[mapping].first,
            Place::Table(slot) => &self.sessions[slot].peer,
        }
    }

    pub(super) fn peer_mut(&mut self, mapping: u32, place: Place) -> &mut Peer {
        match place {
            Place::Inside => &mut self.mappings[mapping].first,
            Place::Table(slot) => &mut self.sessions[slot].peer,
        }
    }

    #[inline]
    fn deadline_of(&self, mapping: u32, place: Place) -> Tick {
        Tick(match place {
            Place::Inside => self.mappings[mapping].deadline,
            Place::Table(slot) => self.sessions[slot].deadline,
        })
    }

    /// Moves the deadline of a session; housekeeping must hear only of a shorter one.
    #[inline]
    pub(super) fn set_deadline(&mut self, mapping: u32, place: Place, deadline: Tick, now: Tick) {
        let shorter = deadline.before(self.deadline_of(mapping, place));
        match place {
            Place::Inside => {
                let record = &mut self.mappings[mapping];
                record.deadline = deadline.0;
                if shorter {
                    self.due.mappings.arm(mapping, deadline, now);
                }
            }
            Place::Table(slot) => {
                let session = &mut self.sessions[slot];
                session.deadline = deadline.0;
                if shorter {
                    self.due.sessions.arm(slot, deadline, now);
                }
            }
        }
    }
}

pub(super) fn any_port(remote: RemoteEndpoint) -> RemoteEndpoint {
    RemoteEndpoint { port: 0, ..remote }
}
