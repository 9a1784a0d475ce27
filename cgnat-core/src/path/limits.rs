//! What one subscriber may take (RFC 6888 REQ-4, REQ-5): asked before anything is allocated,
//! counted when something begins and when it ends.
//!
//! Nothing here takes anything away: a limit that is met refuses the new and leaves the
//! existing alone (RFC 6888 REQ-11). A session counts from its opening until its owner ends
//! it. What the other side opens is counted apart, so that strangers cannot use up what a
//! subscriber may open itself.

use crate::endpoint::{FlowKey, Protocol};
use crate::policy::admission::{Rate, Refusal};
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::table::association::Role;
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::verdict::DropReason;

const _: () = assert!(Rate::TOKEN == TICKS_PER_SECOND, "a token is the units of a second");

impl Shard {
    /// Whether a subscriber may have a mapping for `key`, whose first packet goes to
    /// `destination_port`.
    ///
    /// # Errors
    /// The limit that was met.
    pub(super) fn admit_mapping(
        &self,
        subscriber: u32,
        key: FlowKey,
        destination_port: u16,
        now: Tick,
    ) -> Result<(), DropReason> {
        let record = &self.subscribers[subscriber];
        let limits = &self.limits[usize::from(record.limits)];
        let protocol = key.protocol as usize;
        let reserve = limits.reserve(protocol, destination_port);
        limits.admit_port(record.by_protocol, protocol, reserve).map_err(reason)?;
        self.admit_session(subscriber, Sender::Internal, now)
    }

    /// Whether one more session of a subscriber may be opened from this side.
    ///
    /// # Errors
    /// The limit that was met.
    pub(super) fn admit_session(
        &self,
        subscriber: u32,
        from: Sender,
        now: Tick,
    ) -> Result<(), DropReason> {
        let record = &self.subscribers[subscriber];
        let limits = &self.limits[usize::from(record.limits)];
        match from {
            Sender::External => {
                limits.admit_inbound_session(record.inbound_sessions).map_err(reason)
            }
            Sender::Internal => {
                limits.admit_session(record.sessions).map_err(reason)?;
                let level = limits.rate().map(|rate| self.bucket(rate, subscriber, now));
                level.map_or(Ok(()), Rate::admit).map_err(reason)
            }
        }
    }

    /// Counts a session that begins; [`Shard::admit_session`] has said yes.
    pub(super) fn session_begins(&mut self, subscriber: u32, from: Sender, now: Tick) {
        let limits = usize::from(self.subscribers[subscriber].limits);
        let rate = self.limits[limits].rate();
        let level = rate.map(|rate| self.bucket(rate, subscriber, now));
        let record = &mut self.subscribers[subscriber];
        match from {
            Sender::External => record.inbound_sessions += 1,
            Sender::Internal => {
                record.sessions += 1;
                if let Some(level) = level {
                    record.bucket = level.saturating_sub(Rate::TOKEN);
                    record.bucket_at = now.0;
                }
            }
        }
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
            mappings[usize::from(mapping.protocol)] += u32::from(self.has_first_use(slot));
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
        Refusal::Rate => DropReason::LimitSessionRate,
    }
}
