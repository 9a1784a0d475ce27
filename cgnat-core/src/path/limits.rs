//! What one subscriber may take (RFC 6888 REQ-4, REQ-5): asked before anything is allocated,
//! counted when something begins and when it ends.
//!
//! A subscriber has a record in each realm that it uses; limits hold over all of them together.
//!
//! Nothing here takes anything away: a limit that is met refuses the new and leaves the
//! existing alone (RFC 6888 REQ-11). A session counts from its opening until its owner ends
//! it. What the other side opens is counted apart, so that strangers cannot use up what a
//! subscriber may open itself.

use arrayvec::ArrayVec;

use crate::endpoint::{FlowKey, Protocol, Realm, RemoteAddress, RemoteEndpoint};
use crate::policy::admission::{Limits, Rate, Refusal};
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::table::association::Role;
use crate::table::subscriber::Subscriber;
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::verdict::DropReason;

const _: () = assert!(Rate::TOKEN == TICKS_PER_SECOND, "a token is the units of a second");

/// One subscriber may have this part of all control connections of an ALG that are followed.
pub(super) const CONTROL_SHARE: u32 = 16;

impl Shard {
    /// Whether a subscriber may have a mapping for `key`, whose first packet goes to `remote`.
    ///
    /// # Errors
    /// The limit that was met.
    pub(super) fn admit_mapping(
        &self,
        subscriber: u32,
        key: FlowKey,
        remote: RemoteEndpoint,
        now: Tick,
    ) -> Result<(), DropReason> {
        let limits = self.limits_of(subscriber);
        let protocol = key.protocol as usize;
        let reserve = limits.reserve(protocol, remote.port);
        let mut mappings = [0; Protocol::COUNT];
        for record in self.records_of(subscriber) {
            mappings.iter_mut().zip(record.by_protocol).for_each(|(sum, count)| *sum += count);
        }
        limits.admit_port(mappings, protocol, reserve).map_err(reason)?;
        self.admit_session(subscriber, remote.address, Sender::Internal, now)
    }

    /// Whether one more session of a subscriber with `remote` may be opened from this side.
    ///
    /// # Errors
    /// The limit that was met.
    pub(super) fn admit_session(
        &self,
        subscriber: u32,
        remote: RemoteAddress,
        from: Sender,
        now: Tick,
    ) -> Result<(), DropReason> {
        let limits = self.limits_of(subscriber);
        match from {
            Sender::External => {
                let opened = self.records_of(subscriber).map(|record| record.inbound_sessions);
                limits.admit_inbound_session(opened.sum()).map_err(reason)
            }
            Sender::Internal => {
                let opened = self.records_of(subscriber).map(|record| record.sessions);
                limits.admit_session(opened.sum()).map_err(reason)?;
                if limits.per_destination().is_some() {
                    let sessions = self.sessions_with(subscriber, remote);
                    limits.admit_destination(sessions).map_err(reason)?;
                }
                let level = limits.rate().map(|rate| self.bucket(rate, subscriber, now));
                level.map_or(Ok(()), Rate::admit).map_err(reason)
            }
        }
    }

    /// Whether a mapping may have one more session, opened from this side (RFC 6888 REQ-5).
    ///
    /// # Errors
    /// The limit that was met.
    pub(super) fn admit_to_mapping(&self, mapping: u32, from: Sender) -> Result<(), DropReason> {
        let record = &self.mappings[mapping];
        let further = u32::from(record.holders) + u32::from(record.strangers);
        let sessions = further + u32::from(!record.first.is_none());
        let limits = self.limits_of(record.subscriber);
        limits.admit_to_mapping(sessions, from == Sender::External).map_err(reason)
    }

    /// Counts a session that begins; [`Shard::admit_session`] has said yes.
    pub(super) fn session_begins(&mut self, subscriber: u32, from: Sender, now: Tick) {
        let rate = self.limits_of(subscriber).rate();
        let level = rate.map(|rate| self.bucket(rate, subscriber, now));
        let record = &mut self.subscribers[subscriber];
        match from {
            Sender::External => record.inbound_sessions += 1,
            Sender::Internal => {
                record.sessions += 1;
                if let Some(level) = level {
                    self.set_bucket(subscriber, (level.saturating_sub(Rate::TOKEN), now));
                }
            }
        }
    }

    /// Whether a subscriber may have one more block, in whatever realm.
    ///
    /// # Errors
    /// [`DropReason::LimitBlocks`].
    pub(super) fn admit_block(&self, subscriber: u32) -> Result<(), DropReason> {
        let held: usize = self.records_of(subscriber).map(|record| record.blocks().len()).sum();
        let most = usize::from(self.limits_of(subscriber).blocks());
        if held >= most { Err(DropReason::LimitBlocks) } else { Ok(()) }
    }

    /// Control connections of a subscriber that are followed, in all realms.
    pub(super) fn controls_of(&self, subscriber: u32) -> u32 {
        self.records_of(subscriber).map(|record| u32::from(record.controls)).sum()
    }

    /// Control connections of PPTP of a subscriber that are followed.
    pub(super) fn pptp_of(&self, subscriber: u32) -> u32 {
        self.records_of(subscriber).map(|record| u32::from(record.pptp)).sum()
    }

    /// The limits of a subscriber's group.
    pub(super) fn limits_of(&self, subscriber: u32) -> &Limits {
        &self.groups[self.subscribers[subscriber].group].limits
    }

    /// A record of an internal address of a group, in whatever realm it has one.
    pub(super) fn in_any_realm(&self, address: u32, group: u16) -> Option<u32> {
        let mut realms = self.groups[group].realms();
        realms.find_map(|realm| self.find_subscriber((address, realm)))
    }

    /// Slots of the records of a subscriber, one for each realm in which it has state.
    fn slots_of(&self, subscriber: u32) -> impl Iterator<Item = u32> {
        let record = &self.subscribers[subscriber];
        let (own, address) = (record.identity().1, record.identity().0);
        let realms = self.groups[record.group].realms();
        let others = realms.filter(move |realm| *realm != own);
        let others = others.filter_map(move |realm| self.find_subscriber((address, realm)));
        std::iter::once(subscriber).chain(others)
    }

    fn records_of(&self, subscriber: u32) -> impl Iterator<Item = &Subscriber> {
        self.slots_of(subscriber).map(|slot| &self.subscribers[slot])
    }

    /// The bucket of a subscriber that gets a record: full, or as in its other realms.
    pub(super) fn bucket_of_new(&self, address: u32, group: u16, now: Tick) -> (u32, Tick) {
        match self.in_any_realm(address, group) {
            Some(slot) => {
                let record = &self.subscribers[slot];
                (record.bucket, Tick(record.bucket_at))
            }
            None => {
                let rate = self.groups[group].limits.rate();
                (rate.map_or(0, Rate::full), now)
            }
        }
    }

    fn set_bucket(&mut self, subscriber: u32, bucket: (u32, Tick)) {
        let slots: ArrayVec<u32, { Realm::COUNT }> = self.slots_of(subscriber).collect();
        slots.into_iter().for_each(|slot| self.subscribers[slot].set_bucket(bucket));
    }

    /// Counts a session that has ended.
    pub(super) fn session_ends(&mut self, subscriber: u32, opener: Sender) {
        let record = &mut self.subscribers[subscriber];
        match opener {
            Sender::Internal => record.sessions -= 1,
            Sender::External => record.inbound_sessions -= 1,
        }
    }

    /// A session that was opened by one side is opened anew by the other.
    pub(super) fn opener_changes(&mut self, subscriber: u32, to: Sender) {
        let record = &mut self.subscribers[subscriber];
        let (more, less) = match to {
            Sender::Internal => (&mut record.sessions, &mut record.inbound_sessions),
            Sender::External => (&mut record.inbound_sessions, &mut record.sessions),
        };
        *more += 1;
        *less -= 1;
    }

    fn bucket(&self, rate: Rate, subscriber: u32, now: Tick) -> u32 {
        let record = &self.subscribers[subscriber];
        rate.refilled(record.bucket, now.0.wrapping_sub(record.bucket_at))
    }

    /// Mappings by protocol and sessions by opener of a subscriber, counted one by one; for the
    /// audit.
    pub(crate) fn usage_of(&self, subscriber: u32) -> ([u32; Protocol::COUNT], [u32; 2]) {
        let (mut mappings, mut sessions) = ([0; Protocol::COUNT], [0; 2]);
        for (slot, mapping) in self.mappings.iter().filter(|(_, m)| m.subscriber == subscriber) {
            let protocol = mapping.key().protocol as usize;
            mappings[protocol] += u32::from(self.has_first_use(slot));
            if !mapping.has_sessions() {
                sessions[Sender::Internal as usize] += 1;
            } else if !mapping.first.is_none() {
                sessions[mapping.first.opener() as usize] += 1;
            }
        }
        for (_, session) in self.sessions.iter().filter(|(_, s)| s.permitted_by == 0) {
            let mapping = self.mappings.live(session.mapping, session.mapping_generation);
            if mapping.is_some_and(|mapping| mapping.subscriber == subscriber) {
                sessions[session.peer.opener() as usize] += 1;
            }
        }
        sessions[Sender::Internal as usize] += self.holds_of(subscriber);
        (mappings, sessions)
    }

    /// Holds of a subscriber, counted one by one.
    pub(crate) fn holds_of(&self, subscriber: u32) -> u32 {
        let holds = self.associations.iter().filter(|(_, record)| {
            record.key().role == Role::Hold && record.subscriber == subscriber
        });
        holds.count() as u32
    }
}

/// The drop reason for a limit.
fn reason(refusal: Refusal) -> DropReason {
    match refusal {
        Refusal::Ports => DropReason::LimitPorts,
        Refusal::Reserved => DropReason::ReservedPorts,
        Refusal::Sessions => DropReason::LimitSessions,
        Refusal::InboundSessions => DropReason::LimitInboundSessions,
        Refusal::Destination => DropReason::LimitDestination,
        Refusal::Mapping => DropReason::LimitMappingSessions,
        Refusal::InboundMapping => DropReason::LimitMappingInboundSessions,
        Refusal::Rate => DropReason::LimitSessionRate,
    }
}
