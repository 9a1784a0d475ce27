//! ARP announcements (RFC 5227 section 2.3): when a link is found up, and when somebody else uses an
//! address of ours (section 2.4), neighbours hear which MAC has it.
//!
//! Own addresses are announced twice, as the RFC has it; external addresses that are on-link once,
//! and no more than [`MOST`] of a port: who needs one of the others asks.

use std::collections::VecDeque;

use super::Link;
use crate::control::Command;
use crate::space::ExternalSpace;
use crate::time::Instant;
use crate::worker::forwarding::Forwarding;

/// Time between the two announcements of an own address (RFC 5227: ANNOUNCE_INTERVAL).
const INTERVAL_MS: u64 = 2_000;

/// External addresses of a port that are announced.
const MOST: usize = 1_024;

/// Announcements in one round of ten milliseconds.
const PER_ROUND: usize = 8;

struct Announcement {
    port: u8,
    address: u32,
    due: Instant,
}

#[derive(Default)]
pub(super) struct Announcing {
    /// By time.
    waiting: VecDeque<Announcement>,
}

impl Announcing {
    /// The link of a port is up. What was still to be announced there is forgotten.
    pub(super) fn begin(
        &mut self,
        port: u8,
        forwarding: &Forwarding,
        space: &ExternalSpace,
        clock: Instant,
    ) {
        self.waiting.retain(|announcement| announcement.port != port);
        let info = &forwarding.ports()[usize::from(port)];
        let own = || info.own_addresses();
        let external = space
            .addresses()
            .filter(|address| !info.is_own(*address) && info.answers_for(*address, space));
        let first = own().chain(external.take(MOST)).map(|address| (address, clock));
        let again = own().map(|address| (address, clock.plus_millis(INTERVAL_MS)));
        for (address, due) in first.chain(again) {
            let place = self.waiting.partition_point(|other| other.due <= due);
            self.waiting.insert(place, Announcement { port, address, due });
        }
    }

    /// Announces one address now.
    pub(super) fn defend(&mut self, port: u8, address: u32, clock: Instant) {
        self.waiting.push_front(Announcement { port, address, due: clock });
    }

    /// Sends what is due, some of it.
    pub(super) fn run(&mut self, links: &mut [Link], clock: Instant) {
        for _ in 0..PER_ROUND {
            let is_due = self.waiting.front().is_some_and(|first| first.due <= clock);
            if !is_due || !links[0].has_room() {
                return;
            }
            if let Some(Announcement { port, address, .. }) = self.waiting.pop_front() {
                links[0].send(Command::AnnounceArp { port, address });
            }
        }
    }
}
