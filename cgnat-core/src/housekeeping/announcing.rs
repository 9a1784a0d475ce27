//! Announcements (RFC 5227 section 2.3, RFC 4861 section 7.2.6): when a link is found up, and when
//! somebody else uses an address of ours (section 2.4), neighbours hear which MAC has it.
//!
//! Own addresses are announced twice, as the RFC has it; external addresses that are on-link once,
//! and no more than [`MOST`] of a port: who needs one of the others asks.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

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
    address: IpAddr,
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
        self.waiting.retain(|waiting| waiting.port != port || waiting.address.is_ipv6());
        let info = &forwarding.ports()[usize::from(port)];
        let own = || info.own_addresses();
        let external = space
            .addresses()
            .filter(|address| !info.is_own(*address) && info.answers_for(*address, space));
        let first = own().chain(external.take(MOST)).map(|address| (address, clock));
        let again = own().map(|address| (address, clock.plus_millis(INTERVAL_MS)));
        for (address, due) in first.chain(again) {
            self.add(Announcement { port, address: Ipv4Addr::from(address).into(), due });
        }
    }

    /// An own IPv6 address is to be announced, twice.
    pub(super) fn begin_with(&mut self, port: u8, address: IpAddr, clock: Instant) {
        self.waiting.retain(|waiting| (waiting.port, waiting.address) != (port, address));
        for due in [clock, clock.plus_millis(INTERVAL_MS)] {
            self.add(Announcement { port, address, due });
        }
    }

    fn add(&mut self, announcement: Announcement) {
        let place = self.waiting.partition_point(|other| other.due <= announcement.due);
        self.waiting.insert(place, announcement);
    }

    /// Announces one address now.
    pub(super) fn defend(&mut self, port: u8, address: IpAddr, clock: Instant) {
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
                links[0].send(Command::Announce { port, address });
            }
        }
    }
}
