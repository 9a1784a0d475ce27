//! What may happen between two sweeps of several workers, so that nothing depends on which of
//! them is faster.
//!
//! 1. A subscriber that is reached by way of a second worker (a hairpin, fragments from outside)
//!    is met once.
//! 2. A flow without ports goes from its owner to its keeper, and back if it is refused: its
//!    subscriber is met once, its remote address by one such flow, and one of them is a hairpin.

use std::collections::BTreeSet;

use super::model::events::{EXTERNAL, Event, INTERNAL};
use super::model::nat::Nat;
use super::model::wire::{Body, Packet};

/// Whom events have met since the last sweep.
#[derive(Default)]
pub struct Met {
    any: BTreeSet<u32>,
    by_second_worker: BTreeSet<u32>,
    /// Remote addresses of flows without ports; all hairpins are one.
    remotes: BTreeSet<Option<u32>>,
}

impl Met {
    /// Notes whom an event meets; false if it may not happen now.
    pub fn admits(&mut self, nat: &Nat, event: &Event) -> bool {
        let (port, packet, in_pieces) = match event {
            Event::Arrive { port, packet, .. } => (*port, packet, false),
            Event::Fragments(datagram) => (datagram.port, &datagram.packet, true),
            Event::Pieces { port, packet, .. } => return self.admits_bare(nat, *port, packet),
            _ => return true,
        };
        if is_bare(packet) {
            return self.admits_bare(nat, port, packet);
        }
        let target = target(nat, packet);
        let first = match &packet.body {
            _ if port == EXTERNAL => target.filter(|_| !in_pieces),
            Body::Error { about, .. } => Some(about.destination),
            _ => Some(packet.source),
        };
        let second = target.filter(|_| port == INTERNAL || in_pieces);
        if first.is_some_and(|who| self.by_second_worker.contains(&who))
            || second.is_some_and(|who| !self.is_free(who) || first == Some(who))
        {
            return false;
        }
        self.any.extend(first);
        self.by_second_worker.extend(second);
        true
    }

    fn is_free(&self, who: u32) -> bool {
        !self.any.contains(&who) && !self.by_second_worker.contains(&who)
    }

    fn admits_bare(&mut self, nat: &Nat, port: usize, packet: &Packet) -> bool {
        let (inside, remote) = match (&packet.body, port) {
            (Body::Error { about, .. }, INTERNAL) => (Some(about.destination), about.source),
            (Body::Error { about, .. }, _) => (None, about.destination),
            (_, INTERNAL) => (Some(packet.source), packet.destination),
            (_, _) => (None, packet.source),
        };
        let remote = Some(remote).filter(|remote| !nat.is_external(*remote));
        if inside.is_some_and(|who| !self.is_free(who)) || !self.remotes.insert(remote) {
            return false;
        }
        self.by_second_worker.extend(inside);
        true
    }
}

/// Of a flow without ports, or an error about one.
pub fn is_bare(packet: &Packet) -> bool {
    match &packet.body {
        Body::Error { about, .. } => matches!(about.body, Body::Bare { .. }),
        body => matches!(body, Body::Bare { .. }),
    }
}

/// The subscriber whose external endpoint, or block, a packet is for.
fn target(nat: &Nat, packet: &Packet) -> Option<u32> {
    let (address, port) = match &packet.body {
        Body::Error { about, .. } => about.from(),
        _ => packet.to(),
    };
    nat.blocks.get(&nat.block_of(address, port)?).copied()
}
