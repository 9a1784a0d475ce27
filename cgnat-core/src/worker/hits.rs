//! A burst of packets, received or handed over, most of which belong to mappings that exist.
//!
//! Memory is what a hit waits for, so the burst goes through the steps of a hit together: each
//! step asks the CPU for what the next one reads, and by the time the last packet has taken it,
//! that is there for the first.
//!
//! ```text
//! from inside:   read, hash    -> bucket -> candidate      -> record -> verify, translate, send
//! from outside:  read, locate  -> word of the port        -> record -> verify, translate, send
//! ```
//!
//! The steps before the last change nothing and promise nothing: the last one takes packet by
//! packet in the order of arrival, looks at the record itself, and gives what is no plain hit to
//! [`Worker::ingress`], or to [`Worker::handed`] if another worker handed it over.

use std::sync::atomic::AtomicU32;

use arrayvec::ArrayVec;

use super::forwarding::PortInfo;
use super::handoff::{Kind, Note};
use super::io::{BURST, Burst, PacketBuf, PacketIo};
use super::{TimeSource, Worker};
use crate::config::Side;
use crate::control::neighbours::Neighbour;
use crate::endpoint::Protocol;
use crate::packet::ethernet;
use crate::packet::ipv4::is_martian;
use crate::packet::plain::{self, Plain};
use crate::packet::u32_at;
use crate::path::protocol_of;

/// Offset of the IPv4 header of a frame without a tag.
const OFFSET: usize = 14;

/// Bytes of the headers of the shortest frame with a plain packet.
const HEADERS_LEN: usize = OFFSET + plain::IP_UDP;

/// What is known of a packet before its turn.
#[derive(Clone, Copy)]
struct Ahead {
    plain: Plain,
    /// Hash of an outbound flow.
    place: u64,
    /// Slot of the mapping that it may belong to.
    slot: Option<u32>,
}

type Aheads = ArrayVec<Option<Ahead>, BURST>;

/// A link header that was used lately: by side, or by next hop where routes are learned.
#[derive(Clone, Copy, Default)]
pub(super) struct Lately {
    /// Version of the neighbour table that says so; 0 is none.
    version: u64,
    next_hop: u32,
    port: u8,
    /// It is the one of the side's default route.
    is_default: bool,
    header: [u8; 12],
}

impl Lately {
    fn leads_to(&self, port: u8, next_hop: u32) -> bool {
        self.port == port && self.next_hop == next_hop
    }
}

/// Link headers that are remembered where routes are learned.
const HEADERS: usize = 128;

/// They, by next hop.
pub(super) type Headers = Box<[Lately; HEADERS]>;

/// Where the header towards a next hop is remembered.
#[inline]
fn place_of(port: u8, next_hop: u32) -> usize {
    let mixed = (next_hop ^ u32::from(port) << 24).wrapping_mul(0x9e37_79b1);
    (mixed >> 25) as usize % HEADERS
}

impl<I: PacketIo> Worker<I> {
    /// Takes received frames to their end here, or hands them to their owners.
    #[inline(never)]
    pub(super) fn take_burst(&mut self, port: usize, burst: &mut Burst<I::Packet>) {
        let counters = &self.counters.ports[port];
        counters.rx_packets.add(burst.len() as u64);
        let mut bytes = 0;
        for packet in burst.iter() {
            packet.prefetch();
            bytes += packet.frame_len() as u64;
        }
        counters.rx_bytes.add(bytes);
        let info = &self.forwarding.ports()[port];
        let side = info.side;
        if info.completes_checksums {
            self.complete_checksums(port, burst);
        }
        if side == Side::External && self.may_shed() {
            self.shed_flood(port, burst);
        }
        if !self.takes_hits {
            for packet in burst.drain(..) {
                self.ingress(port, packet);
            }
            return;
        }
        let mut ahead = Aheads::new();
        match side {
            Side::Internal => {
                if self.look_outbound(port, burst, &mut ahead) && !self.shard.flow_guard.is_spent()
                {
                    self.look_at_first_packets(&ahead);
                }
            }
            Side::External => self.look_inbound(port, burst, &mut ahead),
        }
        let mut hits = 0;
        for (packet, ahead) in burst.drain(..).zip(&ahead) {
            let missed = match (ahead, side) {
                (Some(Ahead { plain, slot: Some(slot), .. }), Side::Internal) => {
                    self.outbound_hit(packet, plain, *slot)
                }
                (Some(Ahead { plain, slot: Some(slot), .. }), Side::External) => {
                    self.inbound_hit(packet, plain, *slot)
                }
                (Some(ahead), Side::Internal) => {
                    self.first_packet(port, packet, ahead);
                    continue;
                }
                (Some(Ahead { plain, slot: None, .. }), Side::External) => {
                    self.unasked(port, packet, plain);
                    continue;
                }
                (None, Side::Internal) => {
                    self.another_ones(port, packet);
                    continue;
                }
                _ => Some(packet),
            };
            match missed {
                None => hits += 1,
                Some(packet) => self.ingress(port, packet),
            }
        }
        self.counters.hits.add(hits);
    }

    /// Takes what other workers have handed here, in their order. The note only says where a packet
    /// arrived; whose it is, the packet says.
    pub(super) fn take_handed_burst(&mut self, burst: &mut Burst<I::Packet>) {
        // They lie in the cache of the worker that gave them.
        burst.iter().for_each(PacketBuf::prefetch_note);
        burst.iter().for_each(PacketBuf::prefetch);
        if self.flood_guard.is_active() {
            self.count_handed_flood(burst);
        }
        if !self.takes_hits || self.time == TimeSource::Packets {
            return burst.drain(..).for_each(|packet| self.handed(packet));
        }
        let (mut outward, mut inward) = (Aheads::new(), Aheads::new());
        let mut words = ArrayVec::<Option<&AtomicU32>, BURST>::new();
        for packet in burst.iter_mut() {
            let (outbound, (inbound, word)) = match self.place_handed(packet) {
                Some(info) if info.side == Side::Internal => {
                    (self.foresee_outbound(info, packet), (None, None))
                }
                Some(info) => (None, self.foresee_inbound(info, packet)),
                None => (None, (None, None)),
            };
            outward.push(outbound);
            inward.push(inbound);
            words.push(word);
        }
        self.find_named(&mut inward, words);
        if self.look_up(&mut outward, |place| self.shard.first_candidate(place)) {
            self.look_further(&mut outward);
        }
        let mut hits = 0;
        for (packet, (outbound, inbound)) in burst.drain(..).zip(outward.iter().zip(&inward)) {
            let missed = match (outbound, inbound) {
                (Some(Ahead { plain, slot: Some(slot), .. }), _) => {
                    self.outbound_hit(packet, plain, *slot)
                }
                (None, Some(Ahead { plain, slot: Some(slot), .. })) => {
                    self.inbound_hit(packet, plain, *slot)
                }
                _ => Some(packet),
            };
            match missed {
                None => hits += 1,
                Some(packet) => self.handed(packet),
            }
        }
        self.counters.hits.add(hits);
    }

    /// The port where a packet arrived that is as it was then.
    fn place_handed(&self, packet: &mut I::Packet) -> Option<&PortInfo> {
        let note = Note::read(packet.note())?;
        let info = self.forwarding.ports().get(usize::from(note.port))?;
        let side = info.side;
        let is_as_it_arrived = match note.kind {
            Kind::Outbound => side == Side::Internal,
            Kind::Inbound => side == Side::External,
            Kind::Hairpin | Kind::Keep | Kind::Claim | Kind::ClaimRefused => false,
        };
        let is_read_here = note.to == self.id && usize::from(note.offset) == OFFSET;
        (is_as_it_arrived && is_read_here).then_some(info)
    }

    /// [`Worker::hit`], where the compiler knows the side.
    #[inline(never)]
    fn outbound_hit(&mut self, packet: I::Packet, plain: &Plain, slot: u32) -> Option<I::Packet> {
        self.hit(Side::Internal, packet, plain, slot)
    }

    /// Likewise.
    #[inline(never)]
    fn inbound_hit(&mut self, packet: I::Packet, plain: &Plain, slot: u32) -> Option<I::Packet> {
        self.hit(Side::External, packet, plain, slot)
    }

    /// Translates and sends a packet, or gives it back unchanged.
    #[inline(always)]
    fn hit(
        &mut self,
        side: Side,
        mut packet: I::Packet,
        plain: &Plain,
        slot: u32,
    ) -> Option<I::Packet> {
        self.note_capture_time(&packet);
        let now = self.now.tick();
        let bytes = &mut packet.bytes_mut()[OFFSET..];
        let (is_hit, towards) = match side {
            Side::Internal => (self.shard.outbound_hit(slot, plain, bytes, now), Side::External),
            Side::External => (self.shard.inbound_hit(slot, plain, bytes, now), Side::Internal),
        };
        if !is_hit {
            return Some(packet);
        }
        // Ethernet padding ends here.
        let len = OFFSET + plain.total_len();
        if packet.frame_len() != len {
            packet.truncate(len);
        }
        self.send_translated(towards, packet, plain);
        None
    }

    /// Asks for what the packets of no mapping that exists will need: their subscriber and its
    /// port blocks.
    #[inline(never)]
    fn look_at_first_packets(&self, ahead: &Aheads) {
        let mut places = ArrayVec::<(u64, Protocol), BURST>::new();
        for ahead in ahead.iter().flatten().filter(|ahead| ahead.slot.is_none()) {
            let hash = self.shard.hash_subscriber(ahead.plain.source);
            I::will_read(self.shard.subscriber_bucket_of(hash));
            places.push((hash, protocol_of(&ahead.plain)));
        }
        let mut subscribers = ArrayVec::<(u32, Protocol), BURST>::new();
        for (hash, protocol) in places {
            if let Some(slot) = self.shard.subscriber_candidate(hash) {
                I::will_write(self.shard.subscriber(slot));
                subscribers.push((slot, protocol));
            }
        }
        for (slot, _) in &subscribers {
            for block in self.shard.subscriber(*slot).blocks() {
                I::will_read(self.shard.lease_of(*block));
            }
        }
        for (slot, protocol) in &subscribers {
            for block in self.shard.subscriber(*slot).blocks() {
                if let Some(lease) = self.shard.lease_of(*block) {
                    let (record, taken) = lease.of_use(*protocol);
                    I::will_write(record);
                    I::will_write(taken);
                }
            }
        }
        for (nth, (slot, protocol)) in subscribers.into_iter().enumerate() {
            if let Some(word) = self.shard.foresee_port(slot, protocol, nth) {
                I::will_write(word);
            }
        }
    }

    /// A plain packet from a subscriber of which no mapping was found.
    #[inline(never)]
    fn first_packet(&mut self, port: usize, mut packet: I::Packet, ahead: &Ahead) {
        let Ahead { plain, place: hash, .. } = ahead;
        self.note_capture_time(&packet);
        let now = self.now.tick();
        if self.shard.flow_guard.is_pressed()
            && let Some(reason) = self.shard.shed(*hash, plain)
        {
            return self.refuse(port, packet, reason);
        }
        // Before a SYN is let out, those that came from outside and are held must be asked.
        let may_begin = !(plain.is_syn() && self.holds_syns());
        if !(may_begin && self.shard.begin(*hash, plain, &mut packet.bytes_mut()[OFFSET..], now)) {
            return self.ingress(port, packet);
        }
        self.counters.begun.add(1);
        packet.truncate(OFFSET + plain.total_len());
        self.send_translated(Side::External, packet, plain);
    }

    /// A packet from inside that is another worker's, or not plain.
    #[inline(never)]
    fn another_ones(&mut self, port: usize, mut packet: I::Packet) {
        if self.steering.workers() > 1
            && let Some(plain) = self.read(&self.forwarding.ports()[port], &packet)
            && !(is_martian(plain.source) || plain.source == plain.destination)
            && self.is_remote(plain.destination)
        {
            let owner = self.steering.owner_of(plain.source);
            if owner != self.id {
                self.note_capture_time(&packet);
                packet.truncate(OFFSET + plain.total_len());
                let note = self.note(Kind::Outbound, port, OFFSET, owner, 0);
                return self.hand_over(packet, note);
            }
        }
        self.ingress(port, packet);
    }

    /// Sends a translated packet that is not larger than any MTU; `plain` says what it was.
    #[inline(always)]
    fn send_translated(&mut self, side: Side, mut packet: I::Packet, plain: &Plain) {
        let lately = &self.lately[side as usize];
        if let Some(headers) = packet.bytes_mut().first_chunk_mut::<HEADERS_LEN>() {
            let source = u32_at(headers, OFFSET + 12);
            let destination = u32_at(headers, OFFSET + 16);
            let leads_there = || {
                let hop = Some((lately.port, lately.next_hop));
                self.forwarding.next_hop(side, destination) == hop
            };
            if (side == Side::Internal || self.shard.space.contains(source))
                && lately.version == self.neighbours.version()
                && (lately.is_default && self.forwarding.is_surely_far(side, destination)
                    || leads_there())
            {
                headers[..12].copy_from_slice(&lately.header);
                return self.queue(usize::from(lately.port), packet);
            }
        }
        self.send_anew(side, packet, plain);
    }

    /// The same to another next hop than lately. Where routes are learned there are many next
    /// hops, and all packets come here.
    #[inline(never)]
    fn send_anew(&mut self, side: Side, mut packet: I::Packet, plain: &Plain) {
        let bytes = &packet.bytes()[OFFSET..];
        let (source, destination) = (u32_at(bytes, 12), u32_at(bytes, 16));
        let subscriber = if side == Side::External { plain.source } else { destination };
        let leaks = side == Side::External && !self.shard.space.contains(source);
        if !leaks && let Ok((port, next_hop)) = self.way(side, destination, subscriber) {
            let place = place_of(port, next_hop);
            if let Some(headers) = &self.headers
                && headers[place].leads_to(port, next_hop)
                && headers[place].version == self.neighbours.version()
            {
                packet.bytes_mut()[..12].copy_from_slice(&headers[place].header);
                return self.queue(usize::from(port), packet);
            }
            if let Some(header) = self.header(port, next_hop) {
                match &mut self.headers {
                    Some(headers) => headers[place] = header,
                    None => self.lately[side as usize] = header,
                }
            }
        }
        self.egress(side, packet, OFFSET, subscriber);
    }

    /// Remembers headers by next hop from now on; the last of a side is no longer enough.
    #[cold]
    pub(super) fn remember_by_next_hop(&mut self) {
        self.lately = Default::default();
        self.headers.get_or_insert_with(|| Box::new([Lately::default(); HEADERS]));
    }

    /// The link header towards a neighbour, if it is known and the port has no tag.
    fn header(&self, port: u8, next_hop: u32) -> Option<Lately> {
        let version = self.neighbours.version();
        let info = &self.forwarding.ports()[usize::from(port)];
        let Neighbour::At(mac) = self.neighbours.find(port, next_hop) else { return None };
        if !info.tags.is_empty() {
            return None;
        }
        let is_default = self.forwarding.default_hop(info.side) == Some((port, next_hop));
        let mut header = [0; 12];
        header[..6].copy_from_slice(&mac);
        header[6..].copy_from_slice(&info.mac);
        Some(Lately { version, next_hop, port, is_default, header })
    }

    /// Says whether there are packets of which no mapping was found.
    #[inline(never)]
    fn look_outbound(&self, port: usize, burst: &Burst<I::Packet>, ahead: &mut Aheads) -> bool {
        let info = &self.forwarding.ports()[port];
        ahead.extend(burst.iter().map(|packet| self.foresee_outbound(info, packet)));
        self.look_up(ahead, |place| self.shard.first_candidate(place)) && self.look_further(ahead)
    }

    #[inline(always)]
    fn foresee_outbound(&self, info: &PortInfo, packet: &I::Packet) -> Option<Ahead> {
        let plain = self.read(info, packet)?;
        let is_mine = self.steering.owner_of(plain.source) == self.id;
        if !is_mine || !plain.is_atomic() || !self.is_remote(plain.destination) {
            return None;
        }
        let hash = self.shard.hash_outbound(&plain);
        I::will_read(self.shard.bucket_of(hash));
        Some(Ahead { plain, place: hash, slot: None })
    }

    /// Looks for the rest in their second buckets; says whether any is left without a mapping.
    #[inline(never)]
    fn look_further(&self, ahead: &mut Aheads) -> bool {
        for ahead in ahead.iter().flatten().filter(|ahead| ahead.slot.is_none()) {
            self.shard.second_bucket_of(ahead.place).inspect(|bucket| I::will_read(*bucket));
        }
        self.look_up(ahead, |place| self.shard.candidate(place))
    }

    /// Finds mappings for those that have none yet; says whether any is left without.
    #[inline(always)]
    fn look_up(&self, ahead: &mut Aheads, find: impl Fn(u64) -> Option<u32>) -> bool {
        let mut missing = false;
        for ahead in ahead.iter_mut().flatten().filter(|ahead| ahead.slot.is_none()) {
            ahead.slot = find(ahead.place);
            match ahead.slot {
                Some(slot) => I::will_write(self.shard.record(slot)),
                None => missing = true,
            }
        }
        missing
    }

    #[inline(never)]
    fn look_inbound(&self, port: usize, burst: &Burst<I::Packet>, ahead: &mut Aheads) {
        let info = &self.forwarding.ports()[port];
        let mut words = ArrayVec::<Option<&AtomicU32>, BURST>::new();
        ahead.extend(burst.iter().map(|packet| {
            let (ahead, word) = self.foresee_inbound(info, packet);
            words.push(word);
            ahead
        }));
        self.find_named(ahead, words);
    }

    #[inline(always)]
    fn foresee_inbound(
        &self,
        info: &PortInfo,
        packet: &I::Packet,
    ) -> (Option<Ahead>, Option<&AtomicU32>) {
        let plain = self.read(info, packet).filter(|plain| !plain.is_syn());
        let plain = plain.filter(|plain| self.is_remote(plain.source));
        let word = plain.as_ref().and_then(|plain| self.shard.port_word(plain));
        word.inspect(|word| I::will_read(*word));
        (plain.map(|plain| Ahead { plain, place: 0, slot: None }), word)
    }

    /// Finds the mappings that words of ports name.
    #[inline(always)]
    fn find_named(&self, ahead: &mut Aheads, words: ArrayVec<Option<&AtomicU32>, BURST>) {
        for (ahead, word) in ahead.iter_mut().zip(words) {
            if let (Some(ahead), Some(word)) = (ahead, word)
                && let Some((slot, record)) = self.shard.mapping_at(word)
            {
                I::will_write(record);
                ahead.slot = Some(slot);
            }
        }
    }

    /// A plain packet in a frame for this port, not larger than any MTU.
    #[inline(always)]
    fn read(&self, info: &PortInfo, packet: &I::Packet) -> Option<Plain> {
        let frame = packet.bytes();
        let headers = frame.first_chunk::<HEADERS_LEN>()?;
        let is_for_us = info.is_to_us_untagged(headers.first_chunk()?)
            && headers[12..OFFSET] == ethernet::IPV4.to_be_bytes();
        if !is_for_us || !packet.is_whole() {
            return None;
        }
        let plain = plain::read(&frame[OFFSET..])?;
        (plain.total_len() <= self.forwarding.smallest_mtu()).then_some(plain)
    }

    /// Whether only somebody outside can have an address.
    #[inline]
    fn is_remote(&self, address: u32) -> bool {
        self.shard.space.is_surely_remote(address) || self.is_remote_after_all(address)
    }

    #[cold]
    fn is_remote_after_all(&self, address: u32) -> bool {
        !(is_martian(address)
            || self.forwarding.is_own(address)
            || self.forwarding.is_inside(address)
            || self.shard.space.contains(address))
    }
}
