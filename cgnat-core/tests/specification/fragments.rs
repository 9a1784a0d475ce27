//! Datagrams in fragments, in any order, some with an overlap among them.

use cgnat_core::testing::io::MemoryPacket;
use cgnat_core::verdict::DropReason::{self, *};

use super::drive::Driver;
use super::events::{EXTERNAL, Event, Events, INTERNAL};
use super::nat::{Nat, Outcome, Ticks};
use super::pptp::is_tunnelled;
use super::wire::{Body, Packet, UDP, checksum, link_len, put};

/// A datagram and how it arrives.
#[derive(Debug, Clone)]
pub struct Datagram {
    pub port: usize,
    pub packet: Packet,
    /// Where its fragments end, bytes of the packet.
    pub cuts: Vec<usize>,
    /// In which order they arrive, and at which workers.
    pub order: Vec<(usize, usize)>,
    /// After so many of them comes one that overlaps the first to arrive.
    pub overlap_after: Option<usize>,
}

impl Events {
    /// A packet of any kind in two to five fragments.
    pub fn fragments(&mut self, nat: &Nat) -> Event {
        let port = if self.one_in(2) { INTERNAL } else { EXTERNAL };
        let mut packet = match port {
            EXTERNAL => self.inbound(nat),
            _ if self.one_in(3) => self.hairpin(nat),
            _ => self.again(nat),
        };
        if let Body::Echo { request, .. } | Body::Timestamp { request, .. } = &mut packet.body {
            // From outside it is known to be one only where its context is kept.
            *request = port == INTERNAL;
        }
        packet.df = false;
        packet.identification = self.next_identification();
        let length = 60 + self.below(300);
        packet.payload = (0..length).map(|n| (n * 37) as u8).collect();
        let options = match &packet.body {
            Body::Tcp { options, .. } => options.len(),
            _ => 0,
        };
        let header = 20 + packet.options.len();
        // Of a timestamp query the first fragment holds 20 bytes, as of TCP.
        let least = if packet.protocol() == UDP { 16 } else { 24 + options.next_multiple_of(8) };
        let mut cuts = vec![header + least + 8 * self.below(2) as usize];
        for _ in 0..self.below(4) {
            let next = cuts[cuts.len() - 1] + 16 + 8 * self.below(3) as usize;
            if next < packet.len() {
                cuts.push(next);
            }
        }
        cuts.push(packet.len());
        let mut order: Vec<(usize, usize)> = Vec::new();
        for n in 0..cuts.len() {
            let place = self.below(n as u32 + 1) as usize;
            order.insert(place, (n, self.worker()));
        }
        let overlaps = self.one_in(6);
        let after = 1 + self.below(cuts.len() as u32 - 1) as usize;
        let overlap_after = overlaps.then_some(after);
        Event::Fragments(Datagram { port, packet, cuts, order, overlap_after })
    }
}

/// A fragment with the start of this one and another end.
fn overlapping(piece: &[u8]) -> Vec<u8> {
    let header = usize::from(piece[0] & 15) * 4;
    let mut bytes = piece.to_vec();
    bytes.resize(header + 8, 0);
    put(&mut bytes, 2, header as u16 + 8);
    bytes[6] |= 0x20;
    put(&mut bytes, 10, 0);
    let sum = checksum(&bytes[..header]);
    put(&mut bytes, 10, sum);
    bytes
}

/// Refused before anybody looks for the datagram.
const AT_ONCE: [DropReason; 3] = [SourceMartian, DestinationInside, SourceSpoofed];

impl Driver {
    pub fn fragments(&mut self, datagram: Datagram) -> Result<(), String> {
        let Datagram { port, packet, cuts, order, overlap_after } = datagram;
        let pieces = packet.fragments(&cuts);
        let limited = port == INTERNAL && self.has_all_datagrams(packet.source);
        let now = self.ticks();
        let (mut sent, mut dropped) = (Vec::new(), Vec::new());
        let mut arrive = |driver: &mut Driver, worker: usize, piece: &[u8]| {
            let frame = driver.link(port, false).frame(0x0800, piece);
            let output = driver.offer(worker, port, MemoryPacket::new(&frame));
            sent.extend(output.0);
            dropped.extend(output.1);
        };
        for (count, (n, worker)) in order.iter().enumerate() {
            if overlap_after == Some(count) {
                arrive(self, *worker, &overlapping(&pieces[order[0].0]));
            }
            arrive(self, *worker, &pieces[*n]);
        }
        self.sent += sent.len() as u64;
        for reason in &dropped {
            *self.reasons.entry(reason.name()).or_default() += 1;
        }
        if limited && !dropped.iter().all(|reason| AT_ONCE.contains(reason)) {
            // Each is refused by itself; so is another first one.
            self.take_out_error(port, &pieces[0], &mut sent);
            self.take_out_error(port, &overlapping(&pieces[order[0].0]), &mut sent);
            let count = pieces.len() + usize::from(overlap_after.is_some());
            let right = sent.is_empty() && dropped == vec![LimitFragments; count];
            return if right { Ok(()) } else { Err(format!("no room: {sent:02x?} {dropped:?}")) };
        }
        let order: Vec<usize> = order.iter().map(|(n, _)| *n).collect();
        let (order, late) = order.split_at(overlap_after.unwrap_or(order.len()));
        let Some(first) = order.iter().position(|n| *n == 0) else {
            // Overlapped before there was a first fragment: nobody ever saw a port.
            if port == INTERNAL {
                self.keep_datagram(&packet, &dropped, None);
            }
            let allowed = [&AT_ONCE[..], &[FragmentOverlap, FragmentRefused]].concat();
            let right = sent.is_empty()
                && dropped.len() == pieces.len() + 1
                && dropped.iter().all(|reason| allowed.contains(reason));
            return if right { Ok(()) } else { Err(format!("{sent:02x?} {dropped:?}")) };
        };

        // State sees what the first fragment holds.
        let whole = packet.payload.clone();
        let mut short = packet.clone();
        short.payload.truncate(whole.len() - (packet.len() - cuts[0]));
        let mut outcome = if port == EXTERNAL {
            self.nat.inbound(&short, now)
        } else {
            let key = self.nat.key_of(&short, now);
            let own = |reason: &&DropReason| !reason.name().starts_with("fragment");
            let reason: Vec<DropReason> = dropped.iter().find(own).copied().into_iter().collect();
            let seen = self.seen(key, &reason, now);
            self.nat.outbound(&short, now, &seen)?
        };
        self.take_out_error(port, &pieces[0], &mut sent);
        if port == INTERNAL {
            let ended = overlap_after.is_none().then_some(&outcome);
            self.keep_datagram(&packet, &dropped, ended);
        }
        let expected = match &mut outcome {
            Outcome::External(packet) | Outcome::Internal(packet) => {
                packet.payload = whole;
                if port == INTERNAL {
                    self.adopt_identification(&sent, &mut outcome)?;
                }
                let order = [&[0], &order[..first], &order[first + 1..]].concat();
                self.frames_of(&outcome, &cuts, &order)
            }
            _ => Vec::new(),
        };
        let wrong = |what: &str| {
            Err(format!("{what}: {outcome:?}\nsent {sent:02x?}\nnot {expected:02x?}\n{dropped:?}"))
        };
        let late = late.len() + usize::from(overlap_after.is_some());
        if self.has_expired(&packet, now) {
            // The first fragment met the last session of its mapping and found it ended.
            return Ok(());
        }
        let reasons = match outcome {
            Outcome::External(_) | Outcome::Internal(_) => {
                if sent != expected || dropped.len() != late {
                    return wrong("sent on");
                }
                self.datagrams += 1;
                vec![FragmentOverlap, FragmentRefused]
            }
            Outcome::Drop(reason) => vec![reason, FragmentOverlap, FragmentRefused],
            Outcome::DropEither(one, two) => vec![one, two, FragmentOverlap, FragmentRefused],
        };
        if sent.len() + dropped.len() != pieces.len() + usize::from(overlap_after.is_some()) {
            return wrong("not all are accounted for");
        }
        if sent.len() != expected.len() || !dropped.iter().all(|reason| reasons.contains(reason)) {
            return wrong("dropped");
        }
        Ok(())
    }

    /// Whether a subscriber has as many datagrams in fragments under way as its group allows. Those
    /// are under way that were refused, until their time is over.
    fn has_all_datagrams(&mut self, source: u32) -> bool {
        let limits = self.nat.group_of(source).map(|(_, limits)| limits).unwrap_or_default();
        let Some(most) = limits.fragments else { return false };
        // The workers notice what is over a few at a time.
        self.lab.run_workers();
        self.refused.retain(|(_, due)| self.lab.now < *due);
        self.refused.iter().filter(|(of, _)| *of == source).count() >= most
    }

    /// A datagram from inside whose first fragment has this outcome, and none if it was refused for
    /// an overlap. One that left is complete and forgotten, also if it is refused behind a hairpin.
    fn keep_datagram(&mut self, packet: &Packet, dropped: &[DropReason], ended: Option<&Outcome>) {
        let behind =
            [NoMapping, PortNotLent, Filtered, LimitInboundSessions, LimitMappingInboundSessions];
        let has_left = match ended {
            None => false,
            Some(Outcome::Drop(reason)) => behind.contains(reason),
            Some(Outcome::DropEither(one, _)) => behind.contains(one),
            Some(_) => true,
        };
        if !has_left && !dropped.iter().all(|reason| AT_ONCE.contains(reason)) {
            self.refused.push((
                packet.source,
                self.lab.now.plus_millis(self.nat.rules.fragments_s * 1_000),
            ));
        }
    }

    /// Whether a mapping that a packet used is past its end, though its owner has not noticed.
    fn has_expired(&self, packet: &Packet, now: Ticks) -> bool {
        let to = packet.to();
        let realm = self.nat.realm(packet.source, packet.protocol(), to);
        let inside = (packet.protocol(), packet.source, packet.from().1);
        let inside = [Some(to), None].map(|with| (inside.0, inside.1, inside.2, with, realm));
        let outside = self.nat.external.get(&(packet.protocol(), to.0, to.1));
        let keys = inside.iter().chain(outside.into_iter().flatten());
        let mut mappings = keys.filter_map(|key| self.nat.mappings.get(key));
        mappings.any(|mapping| mapping.is_expired(now))
    }

    /// A packet that may be fragmented leaves with an identification of the core's choice: it
    /// must not have been used between these addresses for 120 s (RFC 6864 section 4.3).
    pub(super) fn adopt_identification(
        &mut self,
        sent: &[(usize, Vec<u8>)],
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let (Outcome::External(packet) | Outcome::Internal(packet)) = outcome else {
            return Ok(());
        };
        let Some((port, frame)) = sent.first().filter(|_| !packet.df || is_tunnelled(packet))
        else {
            return Ok(());
        };
        let at = link_len(self.world.vlans[*port]) + 4;
        let Some(id) = frame.get(at..at + 2) else { return Ok(()) };
        packet.identification = u16::from_be_bytes([id[0], id[1]]);
        let now = self.ticks();
        let place = (packet.source, packet.destination, packet.protocol(), packet.identification);
        match self.identifications.insert(place, now) {
            Some(then) if now - then < 1200 => Err(format!("{place:?} is used again")),
            _ => Ok(()),
        }
    }

    /// The fragments of a translated datagram as they leave.
    fn frames_of(
        &self,
        outcome: &Outcome,
        cuts: &[usize],
        order: &[usize],
    ) -> Vec<(usize, Vec<u8>)> {
        let (port, packet) = match outcome {
            Outcome::External(packet) => (EXTERNAL, packet),
            Outcome::Internal(packet) => (INTERNAL, packet),
            _ => return Vec::new(),
        };
        let (pieces, link) = (packet.fragments(cuts), self.link(port, true));
        order.iter().map(|n| (port, link.frame(0x0800, &pieces[*n]))).collect()
    }

    /// The error about a first fragment that may have been sent: at most one, and it quotes the
    /// fragment as it came.
    pub(super) fn take_out_error(
        &self,
        port: usize,
        first: &[u8],
        sent: &mut Vec<(usize, Vec<u8>)>,
    ) {
        let link = self.link(port, false).frame(0x0800, &[]).len();
        let own = self.nat.rules.own[port].to_be_bytes();
        // A hairpinned one has its new identification already, and shows no recorded route.
        let known = |packet: &[u8]| {
            let header_len = (usize::from(packet[0] & 15) * 4).min(packet.len());
            [&packet[..4], &packet[6..10], &packet[12..20], &packet[header_len..]].concat()
        };
        let about = |frame: &[u8]| {
            let packet = &frame[link..];
            packet.len() >= 48
                && packet[12..16] == own
                && matches!((packet[9], packet[20]), (1, 3 | 11))
                && known(first).starts_with(&known(&packet[28..]))
        };
        if let Some(place) = sent.iter().position(|(by, frame)| *by == port && about(frame)) {
            sent.remove(place);
        }
    }
}
