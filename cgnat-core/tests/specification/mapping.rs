//! A mapping and its sessions, naively.
//!
//! One thing of the core's making is repeated here on purpose: a TCP mapping carries its
//! first session inside, and the others are records of their own that keep the mapping until
//! their owner has ended them.

use std::collections::{BTreeMap, BTreeSet};

use cgnat_core::verdict::DropReason::{self, *};

use super::nat::{Endpoint, Key, Nat, Ticks, after};
use super::sessions::{Filtering, Session, State};
use super::wire::{ICMP, Packet, TCP, UDP};

#[derive(Debug, Clone)]
pub struct Mapping {
    pub external: Endpoint,
    /// Whom its first packet went to.
    pub to: u32,
    pub worker: u16,
    pub filtering: Filtering,
    pub deadline: Ticks,
    pub first: Option<((u32, u16), Session)>,
    pub further: BTreeMap<(u32, u16), Session>,
    /// A session of it has ended other than by FIN from both sides.
    pub unclosed: bool,
}

impl Mapping {
    pub fn is_expired(&self, now: Ticks) -> bool {
        if !self.has_sessions() {
            return now >= self.deadline;
        }
        !self.further.values().any(|session| session.holds)
            && self.first.is_none_or(|(_, session)| now >= session.deadline)
    }

    pub fn has_sessions(&self) -> bool {
        self.external.0 == TCP || self.filtering != Filtering::Anybody
    }

    /// Records outside the mapping: further sessions, and a permission for each address.
    pub fn records(&self) -> usize {
        let sessions = self.first.iter().map(|(remote, session)| (remote, session));
        let permitted: BTreeSet<u32> = sessions
            .chain(&self.further)
            .filter(|(_, session)| session.permits)
            .map(|(remote, _)| remote.0)
            .collect();
        self.further.len() + permitted.len()
    }

    pub fn sessions(&self) -> usize {
        self.first.iter().count() + self.further.len()
    }

    pub fn is_permitted(&self, remote: (u32, u16)) -> bool {
        let sessions = self.first.iter().map(|(remote, session)| (remote, session));
        match self.filtering {
            Filtering::Anybody => true,
            Filtering::Address => {
                sessions.chain(&self.further).any(|(with, s)| s.permits && with.0 == remote.0)
            }
            Filtering::AddressAndPort => false,
        }
    }

    /// Whether an ALG lets a server open sessions.
    fn expects(&self, server: u32, now: Ticks) -> bool {
        self.further.get(&(server, 0)).is_some_and(|session| now < session.deadline)
    }

    /// Forgets the sessions for which `ended` says so, the one inside or the others.
    pub fn forget(&mut self, first: bool, ended: impl Fn(&(u32, u16), &Session) -> bool) {
        let mut closed = true;
        let mut keeps = |remote: &(u32, u16), session: &Session| {
            let ended = ended(remote, session);
            closed &= !ended || !session.holds || session.state == State::Closing;
            !ended
        };
        if first {
            self.first = self.first.filter(|(remote, session)| keeps(remote, session));
        } else {
            self.further.retain(|remote, session| keeps(remote, session));
        }
        self.unclosed |= !closed;
    }

    /// Remote endpoints of its sessions.
    pub fn remotes(&self) -> impl Iterator<Item = (u32, u16)> {
        self.first.iter().map(|(remote, _)| *remote).chain(self.further.keys().copied())
    }
}

impl Nat {
    /// What a packet does to its mapping and to the session that it belongs to.
    pub fn note(
        &mut self,
        key: Key,
        remote: (u32, u16),
        packet: &Packet,
        inside: bool,
        now: Ticks,
    ) -> Result<(), DropReason> {
        let rules = &self.rules;
        let mapping = &self.mappings[&key];
        let segment = packet.segment();
        let timeout_s = match key.0 {
            UDP => rules.udp_by_port_s.get(&remote.1).copied().unwrap_or(rules.udp_s),
            _ => rules.icmp_s,
        };
        let refreshes = inside || rules.inbound_refresh;
        if !mapping.has_sessions() {
            if refreshes && let Some(mapping) = self.mappings.get_mut(&key) {
                mapping.deadline = mapping.deadline.max(after(now, timeout_s));
            }
            return Ok(());
        }
        let by_address = mapping.filtering == Filtering::Address || key.0 == ICMP;
        let remote = if by_address && segment.is_none() { (remote.0, 0) } else { remote };
        self.meet(key, remote, now);
        let worker = self.mappings[&key].worker;
        // Counts everything: only for those that are new.
        let expected = self.mappings[&key].expects(remote.0, now);
        let is_known = self.mappings[&key].remotes().any(|with| with == remote);
        // The session that it opens counts as the subscriber's, who has asked for it.
        let answers = !inside && !is_known && segment.is_none() && expected;
        let inside = inside || answers;
        let full = if is_known { (false, false) } else { self.refuses_session(worker, inside) };
        let sessions = self.mappings[&key].sessions();
        let admitted = self
            .admit_session(key.1, remote.0, inside, now)
            .and_then(|()| self.admit_to_mapping(key.1, sessions, inside));
        let Some(mapping) = self.mappings.get_mut(&key) else {
            unreachable!("the caller found it")
        };
        let permitted = mapping.is_permitted(remote);
        let may = permitted || expected;
        let session = match &mut mapping.first {
            Some((with, session)) if *with == remote => Some(session),
            _ => mapping.further.get_mut(&remote),
        };
        if let Some(session) = session {
            match segment {
                None if refreshes => {
                    session.deadline = session.deadline.max(after(now, timeout_s));
                }
                None => {}
                Some(segment) => {
                    let belongs = session.note(&segment, inside, now, &self.rules);
                    self.out_of_window += u64::from(!belongs);
                }
            }
            return Ok(());
        }
        if !inside && (segment.is_none() || !may) {
            return Err(Filtered);
        }
        let mut session = match segment {
            None => Session::flow(after(now, timeout_s)),
            Some(segment) if !segment.opens() => return Ok(()),
            Some(segment) => Session::opened(&segment, inside, after(now, self.rules.opening_s)),
        };
        admitted?;
        // A permission takes a record of its own.
        session.permits = inside && key.0 == TCP && mapping.filtering == Filtering::Address;
        if mapping.first.is_none() && inside {
            mapping.first = Some((remote, session));
            if session.permits && !permitted && full.1 {
                mapping.first = None;
                return Err(SessionTableFull);
            }
        } else {
            if full.0 {
                return Err(SessionTableFull);
            }
            mapping.further.insert(remote, session);
            if session.permits && self.in_use(worker) > self.rules.further_sessions {
                let mapping = self.mappings.get_mut(&key);
                mapping.map(|mapping| mapping.further.remove(&remote));
                return Err(SessionTableFull);
            }
        }
        if answers && let Some(mapping) = self.mappings.get_mut(&key) {
            // One answer; the next is not expected.
            mapping.forget(false, |with, _| *with == (remote.0, 0));
        }
        if inside {
            self.spend(key.1, now);
        }
        Ok(())
    }

    /// The owner ends what it meets and finds over: the first session, and that with `remote`.
    pub fn meet(&mut self, key: Key, remote: (u32, u16), now: Ticks) {
        let Some(mapping) = self.mappings.get_mut(&key) else { return };
        mapping.forget(true, |_, session| now >= session.deadline);
        mapping.forget(false, |with, session| *with == remote && now >= session.deadline);
        self.mind_controls();
        self.mind_tunnels();
    }

    /// Records of a worker's session table in use.
    pub fn in_use(&self, worker: u16) -> usize {
        let own = self.mappings.values().filter(|mapping| mapping.worker == worker);
        own.map(Mapping::records).sum::<usize>()
            + self.orphans.iter().filter(|(owner, _)| *owner == worker).count()
    }

    /// Whether one more session outside the mapping's record is refused, and whether there is
    /// no record at all.
    fn refuses_session(&self, worker: u16, inside: bool) -> (bool, bool) {
        let records = self.rules.further_sessions;
        let in_use = self.in_use(worker);
        // Strangers open none in the last quarter of the records.
        let room = if inside { records } else { records - records / 4 };
        (in_use >= room, in_use >= records)
    }

    /// Whether a mapping of a subscriber that has so many sessions may have one more.
    pub fn admit_to_mapping(
        &self,
        address: u32,
        sessions: usize,
        inside: bool,
    ) -> Result<(), DropReason> {
        let limits = self.group_of(address).map(|(_, limits)| limits).unwrap_or_default();
        limits.admit_to_mapping(sessions, inside)
    }
}
