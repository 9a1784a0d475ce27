//! SYNs from outside that meet no mapping, or its filter, and are to be answered (RFC 5382
//! REQ-4): held for six seconds, and then port unreachable.
//!
//! What is held is no packet: the endpoints, the time, and as much of the SYN as an error
//! quotes. There is a fixed number of places, and each connection has one place that it may
//! be held in; if that is taken it is dropped silently, as all are without
//! `unsolicited-syn: port-unreachable`. Nothing held makes room for another.

use std::collections::VecDeque;

use super::Worker;
use super::io::{PacketBuf, PacketIo};
use crate::endpoint::{ExternalEndpoint, RemoteEndpoint};
use crate::packet::ethernet::Mac;
use crate::packet::icmp_error::PORT_UNREACHABLE;
use crate::packet::ipv4::{Header, Transport};
use crate::packet::{u16_at, u32_at};
use crate::policy::tcp_state;
use crate::space::{Location, Owner};
use crate::table::hash::HashKey;
use crate::time::Tick;
use crate::verdict::DropReason;

/// Connections that are held at most, per worker.
const PLACES: usize = 4096;

/// Bytes of a SYN that are kept: any TCP header behind an IPv4 header without options.
const QUOTED: usize = 80;

/// How long nothing is answered (RFC 5382 REQ-4).
const SILENCE_S: u32 = 6;

/// Answers that one poll sends at most.
const ANSWERS_PER_POLL: usize = 32;

/// The two ends of a connection as the outside sees it.
type Connection = (ExternalEndpoint, RemoteEndpoint);

/// A SYN.
#[derive(Clone, Copy)]
struct Held {
    connection: Connection,
    due: Tick,
    /// Where it came from.
    port: u8,
    station: Mac,
    /// Its beginning.
    length: u8,
    quoted: [u8; QUOTED],
}

/// The SYNs that one worker holds.
pub(super) struct HeldSyns {
    key: HashKey,
    /// By the hash of the connection; empty if nothing is to be answered.
    places: Vec<Option<Held>>,
    /// Places in the order in which they are due; some are free again.
    order: VecDeque<(u16, Tick)>,
}

impl HeldSyns {
    /// Room for SYNs, if they are to be answered.
    pub(super) fn new(answers: bool, key: HashKey) -> Self {
        let places = if answers { PLACES } else { 0 };
        Self { key, places: vec![None; places], order: VecDeque::with_capacity(places) }
    }

    fn place_of(&self, (external, remote): Connection) -> usize {
        let word = |address: u32, port: u16| u64::from(address) << 16 | u64::from(port);
        let (here, there) =
            (word(external.address.0, external.port), word(remote.address.0, remote.port));
        self.key.hash_pair(here, there) as usize % PLACES
    }

    /// Whether it is held now that was not before.
    fn hold(&mut self, held: Held) -> bool {
        if self.places.is_empty() || self.order.len() == PLACES {
            return false;
        }
        let place = self.place_of(held.connection);
        if self.places[place].is_some() {
            return false;
        }
        self.places[place] = Some(held);
        self.order.push_back((place as u16, held.due));
        true
    }

    fn forget(&mut self, connection: Connection) {
        let place = self.place_of(connection);
        if self.places[place].is_some_and(|held| held.connection == connection) {
            self.places[place] = None;
        }
    }

    /// The next SYN that was held long enough; `Some(None)` if it was forgotten meanwhile.
    fn next_due(&mut self, now: Tick) -> Option<Option<Held>> {
        let (place, due) = self.order.front().copied().filter(|(_, due)| now.reached(*due))?;
        self.order.pop_front();
        let place = &mut self.places[usize::from(place)];
        Some(if place.is_some_and(|held| held.due == due) { place.take() } else { None })
    }
}

impl<I: PacketIo> Worker<I> {
    /// Holds a packet from outside that is dropped under `reason`, if it is a SYN that is to
    /// be answered. It is as it was received.
    pub(super) fn hold_syn(
        &mut self,
        reason: DropReason,
        port: usize,
        packet: &I::Packet,
        offset: usize,
        (header, transport): (&Header, Transport),
    ) {
        if self.held_syns.places.is_empty()
            || !matches!(reason, DropReason::NoMapping | DropReason::Filtered)
        {
            return;
        }
        let Some(connection) = inbound_syn(header, transport) else {
            return;
        };
        if self.is_silent_about(header, transport) {
            return;
        }
        let mut station = [0; 6];
        station.copy_from_slice(&packet.bytes()[6..12]);
        let syn = &packet.bytes()[offset..];
        let length = syn.len().min(QUOTED);
        let mut quoted = [0; QUOTED];
        quoted[..length].copy_from_slice(&syn[..length]);
        let due = self.now.tick().plus_seconds(SILENCE_S);
        let held =
            Held { connection, due, port: port as u8, station, length: length as u8, quoted };
        if self.held_syns.hold(held) {
            self.counters.syns_held.add(1);
        }
    }

    /// A SYN that was let in answers for the one that is held of its connection.
    #[inline]
    pub(super) fn let_in(&mut self, header: &Header, transport: Transport) {
        if self.holds_syns()
            && let Some(connection) = inbound_syn(header, transport)
        {
            self.held_syns.forget(connection);
        }
    }

    /// Whether SYNs from outside wait for their answer.
    #[inline]
    pub(super) fn holds_syns(&self) -> bool {
        !self.held_syns.order.is_empty()
    }

    /// A SYN that goes out drops silently the one that is held of its connection (RFC 5382
    /// REQ-4). `packet` is translated; `header` and `transport` are as it was received.
    #[inline]
    pub(super) fn let_out(
        &mut self,
        packet: &I::Packet,
        offset: usize,
        header: &Header,
        transport: Transport,
    ) {
        if self.holds_syns()
            && let Transport::Tcp { destination, segment, .. } = transport
            && tcp_state::opens(segment.flags)
        {
            let bytes = &packet.bytes()[offset..];
            let port = u16_at(bytes, header.header_len);
            let external = ExternalEndpoint::new(u32_at(bytes, 12), port);
            let remote = RemoteEndpoint::new(header.destination, destination);
            self.held_syns.forget((external, remote));
        }
    }

    /// Answers SYNs that were held long enough; how many it looked at.
    pub(super) fn answer_held_syns(&mut self) -> usize {
        let mut count = 0;
        while count < ANSWERS_PER_POLL
            && let Some(due) = self.held_syns.next_due(self.now.tick())
        {
            count += 1;
            if let Some(held) = due {
                self.answer_held(&held);
            }
        }
        if count > 0 {
            self.flush();
        }
        count
    }

    fn answer_held(&mut self, held: &Held) {
        let (external, remote) = held.connection;
        let Location::Block(block) = self.shard.space.locate(external) else {
            return;
        };
        // Another worker that holds the block now may know the connection.
        if !matches!(self.owners.owner(block), Some(Owner { worker, .. }) if worker == self.id) {
            return;
        }
        let quoted = &held.quoted[..usize::from(held.length)];
        let port = usize::from(held.port);
        let about = remote.address.0;
        if let Some((error, _)) = self.error(PORT_UNREACHABLE, port, held.station, quoted, about) {
            self.counters.errors_sent.add(1);
            self.counters.syns_answered.add(1);
            self.originate(port, error);
        }
    }
}

/// The connection that a packet from outside opens, if it does.
fn inbound_syn(header: &Header, transport: Transport) -> Option<Connection> {
    match transport {
        Transport::Tcp { source, destination, segment, .. } if tcp_state::opens(segment.flags) => {
            Some((
                ExternalEndpoint::new(header.destination, destination),
                RemoteEndpoint::new(header.source, source),
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(n: u32, due: u32) -> Held {
        let connection = (ExternalEndpoint::new(0xcb00_7100, 80), RemoteEndpoint::new(n, 1));
        let (length, quoted) = (0, [0; QUOTED]);
        Held { connection, due: Tick(due), port: 0, station: [0; 6], length, quoted }
    }

    #[test]
    fn no_more_are_held_than_there_are_places_and_none_is_evicted() {
        let mut syns = HeldSyns::new(true, HashKey::new([7; 16]));
        let first = syns.hold(held(0, 60));
        let count = (0..1_000_000).filter(|n| syns.hold(held(*n, 60))).count();
        assert!(first && count < PLACES && syns.order.len() <= PLACES, "{count}");
        assert!(syns.next_due(Tick(59)).is_none());
        let due = syns.next_due(Tick(60)).flatten().expect("the first");
        assert_eq!(due.connection, held(0, 60).connection);
        let rest = std::iter::from_fn(|| syns.next_due(Tick(60))).flatten().count();
        assert_eq!(rest, count);
    }

    #[test]
    fn what_is_forgotten_is_not_due_and_its_place_is_free() {
        let mut syns = HeldSyns::new(true, HashKey::new([7; 16]));
        assert!(syns.hold(held(1, 60)) && !syns.hold(held(1, 65)));
        syns.forget(held(1, 60).connection);
        assert!(syns.hold(held(1, 70)));
        assert!(syns.next_due(Tick(65)).is_some_and(|held| held.is_none()));
        assert!(syns.next_due(Tick(69)).is_none());
        assert!(syns.next_due(Tick(70)).flatten().is_some());
    }

    #[test]
    fn holding_and_forgetting_in_turn_stays_within_its_bound() {
        let mut syns = HeldSyns::new(true, HashKey::new([7; 16]));
        for _ in 0..10 * PLACES {
            syns.hold(held(1, 60));
            syns.forget(held(1, 60).connection);
        }
        assert!(syns.order.len() <= PLACES);
    }

    #[test]
    fn without_the_option_nothing_is_held_and_no_memory_taken() {
        let mut syns = HeldSyns::new(false, HashKey::new([7; 16]));
        assert!(!syns.hold(held(1, 60)));
        assert_eq!((syns.places.capacity(), syns.order.capacity()), (0, 0));
    }
}
