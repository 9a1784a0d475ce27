//! Fragments in any order (RFC 4787 REQ-14).
//!
//! All fragments of a datagram meet at one worker: outbound at the owner of the subscriber;
//! inbound, where only the first has a port, at a keeper: the worker of the external address.
//! There the datagram has a context (`table/fragment.rs`). The first fragment is translated
//! like any packet; the others follow it with its ports, from the keeper to the owner of
//! the port block as all inbound packets. Those that come before the first wait for it.
//!
//! Always true:
//! 1. contexts and waiting packets are bounded in number, time and per party, and nothing
//!    that lives gives way to a stranger (RFC 4787 REQ-14a);
//! 2. a fragment that overlaps another ends its whole datagram (RFC 1858, RFC 5722);
//! 3. no fragment is sent on before the first of its datagram was, nor after that one was
//!    refused: the worker that refused an inbound first fragment remembers it too.

use super::Worker;
use super::errors::told_inside;
use super::handoff::Kind;
use super::io::{PacketBuf, PacketIo};
use crate::config::Side;
use crate::endpoint::IpProtocol;
use crate::packet::ipv4::{self, Header, Transport};
use crate::packet::u16_at;
use crate::table::fragment::{Claim, FragmentKey, FragmentTable, NONE, NoRoom, State, Wrong};
use crate::verdict::{DropReason, Verdict};

/// Contexts that one poll ends at most because their time is over.
const EXPIRIES_PER_POLL: usize = 16;

/// Bounds of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentLimits {
    /// Datagrams of which fragments are under way.
    pub datagrams: u32,
    /// Fragments that wait for the first of their datagram.
    pub pending: u32,
    /// How long a datagram has from its first to its last fragment.
    pub timeout_ms: u64,
}

impl FragmentLimits {
    /// Bytes from the heap, but for the packets themselves.
    pub const fn bytes(&self) -> usize {
        // A place for a waiting packet, taken as a generous size of its handle.
        FragmentTable::bytes(self.datagrams as usize) + self.pending as usize * 64
    }
}

/// A fragment that waits for the first of its datagram.
struct Pending<P> {
    packet: P,
    port: usize,
    offset: usize,
}

/// Places of waiting fragments; each is in the queue of one context or free.
pub(super) struct Fragments<P> {
    limits: FragmentLimits,
    table: FragmentTable,
    pending: Vec<(Option<Pending<P>>, u32)>,
    /// First and last place of each context's queue.
    queues: Vec<(u32, u32)>,
    free: u32,
    waiting: u32,
    waiting_inbound: u32,
}

impl<P> Fragments<P> {
    pub(super) fn new(limits: FragmentLimits, workers: u16) -> Self {
        let next = |n: u32| if n + 1 < limits.pending { n + 1 } else { NONE };
        Self {
            limits,
            table: FragmentTable::new(limits.datagrams, limits.pending, workers),
            pending: (0..limits.pending).map(|n| (None, next(n))).collect(),
            queues: vec![(NONE, NONE); limits.datagrams as usize],
            free: if limits.pending > 0 { 0 } else { NONE },
            waiting: 0,
            waiting_inbound: 0,
        }
    }

    /// Datagrams of which fragments are under way.
    pub(super) fn datagrams(&self) -> u64 {
        u64::from(self.table.in_use())
    }

    /// Fragments that wait.
    pub(super) fn waiting(&self) -> u64 {
        u64::from(self.waiting)
    }

    fn await_first(&mut self, slot: u32, fragment: Pending<P>) -> Result<(), Pending<P>> {
        let inbound = self.table.is_inbound(slot);
        let most = self.limits.pending - self.limits.pending / 4;
        if self.free == NONE || (inbound && self.waiting_inbound >= most) || !self.table.wait(slot)
        {
            return Err(fragment);
        }
        let place = self.free;
        let (held, next) = &mut self.pending[place as usize];
        self.free = *next;
        (*held, *next) = (Some(fragment), NONE);
        let (first, last) = &mut self.queues[slot as usize];
        match *last {
            NONE => *first = place,
            last => self.pending[last as usize].1 = place,
        }
        *last = place;
        self.waiting += 1;
        self.waiting_inbound += u32::from(inbound);
        Ok(())
    }

    fn next_pending(&mut self, slot: u32) -> Option<Pending<P>> {
        let (first, last) = &mut self.queues[slot as usize];
        let place = *first;
        let (held, next) = self.pending.get_mut(place as usize)?;
        let fragment = held.take();
        *first = *next;
        if *first == NONE {
            *last = NONE;
        }
        *next = self.free;
        self.free = place;
        self.waiting -= 1;
        self.waiting_inbound -= u32::from(self.table.is_inbound(slot));
        self.table.stop_waiting(slot);
        fragment
    }
}

fn key_of(header: &Header) -> FragmentKey {
    FragmentKey {
        source: header.source,
        destination: header.destination,
        identification: header.identification,
        protocol: header.protocol,
    }
}

impl<I: PacketIo> Worker<I> {
    /// A fragment at the worker that keeps its datagram's context.
    pub(super) fn fragment(
        &mut self,
        inbound: bool,
        port: usize,
        packet: I::Packet,
        offset: usize,
        header: &Header,
    ) {
        let slot = match self.context(inbound, header) {
            Ok(slot) => slot,
            Err(DropReason::LimitFragments) => {
                return self.refuse_by_limit(port, packet, offset, header);
            }
            Err(reason) => return self.refuse(port, packet, reason),
        };
        let table = &mut self.fragments.table;
        if table.state(slot) == State::Refused {
            return self.refuse(port, packet, DropReason::FragmentRefused);
        }
        let len = header.total_len - header.header_len;
        if let Err(wrong) = table.add(slot, header.offset, len, header.more_fragments) {
            let reason = match wrong {
                Wrong::Duplicate => DropReason::FragmentDuplicate,
                Wrong::Overlap => DropReason::FragmentOverlap,
                Wrong::TooMany => DropReason::FragmentTooMany,
            };
            if wrong != Wrong::Duplicate {
                self.refuse_datagram(slot);
            }
            return self.refuse(port, packet, reason);
        }
        match table.state(slot) {
            _ if header.offset == 0 => self.first(inbound, slot, port, packet, offset, header),
            State::Open { ports, identification } => {
                self.later(inbound, port, packet, offset, header, (ports, identification));
                self.close_if_complete(slot);
            }
            _ => {
                let fragment = Pending { packet, port, offset };
                if let Err(fragment) = self.fragments.await_first(slot, fragment) {
                    // Without it the datagram will never be whole.
                    self.refuse_datagram(slot);
                    self.refuse(port, fragment.packet, DropReason::FragmentPendingFull);
                }
            }
        }
    }

    /// The context of a fragment's datagram; a new one if there is none.
    fn context(&mut self, inbound: bool, header: &Header) -> Result<u32, DropReason> {
        let (hash, key) = (self.shard.fragment_hash(header), key_of(header));
        if let Some(slot) = self.fragments.table.find(hash, key) {
            if !self.fragments.table.is_due(slot, self.now) {
                return Ok(slot);
            }
            self.expire(slot);
        }
        let limit = if inbound { None } else { self.shard.fragment_limit(header.source) };
        let source = self.shard.party_hash(header.source);
        let claim = match inbound {
            false => Claim::of_subscriber(source, limit),
            true => Claim::of_stranger(source, self.shard.party_hash(header.destination)),
        };
        let due = self.now.plus_millis(self.fragments.limits.timeout_ms);
        let kind = (inbound, header.offset == 0);
        self.fragments.table.open((hash, key), kind, claim, due).map_err(|none| match none {
            NoRoom::Table => DropReason::FragmentTableFull,
            NoRoom::Share if limit.is_some() => DropReason::LimitFragments,
            NoRoom::Share => DropReason::FragmentShare,
        })
    }

    /// A subscriber has as many datagrams in fragments under way as its group allows.
    #[cold]
    fn refuse_by_limit(&mut self, port: usize, packet: I::Packet, offset: usize, header: &Header) {
        let reason = DropReason::LimitFragments;
        let first = (header.offset == 0).then(|| &packet.bytes()[offset..]);
        let transport = first.and_then(|bytes| ipv4::transport(bytes, header).ok());
        let destination_port = transport.map_or(0, |transport| transport.destination_port());
        self.shard.fragment_refused(header, destination_port, self.now.tick());
        if let (Some(transport), Some(kind)) = (transport, told_inside(reason)) {
            self.tell(kind, port, &packet, offset, (header, transport));
        }
        self.refuse(port, packet, reason);
    }

    /// The first fragment: a packet like others, whose fate the rest of the datagram shares.
    fn first(
        &mut self,
        inbound: bool,
        slot: u32,
        port: usize,
        packet: I::Packet,
        offset: usize,
        header: &Header,
    ) {
        let transport = match self.transport(inbound, &packet.bytes()[offset..], header) {
            // Never translated from outside; said here, because only here it is seen to be one.
            Ok(Transport::Query { request: true, identifier, .. })
                if inbound && !self.shard.answers_queries(header.destination, identifier) =>
            {
                Err(DropReason::IcmpNoQuery)
            }
            parsed => parsed,
        };
        match transport {
            Err(reason) => {
                self.refuse_datagram(slot);
                self.refuse(port, packet, reason);
            }
            Ok(transport) if inbound => {
                let identification = header.identification;
                let state = State::Open { ports: transport.ports(), identification };
                self.fragments.table.learn(slot, state);
                self.steer_inward(Kind::Inbound, port, packet, offset, header, transport);
                self.release(slot);
            }
            // It may have to wait for a port block; `outbound` says what became of it.
            Ok(transport) => {
                let mut packet = packet;
                if self.has_exceptions {
                    match self.static_part(port, packet, offset, (header, transport), None) {
                        Ok(Some(identification)) => {
                            let state = State::Open { ports: transport.ports(), identification };
                            self.fragments.table.learn(slot, state);
                            return self.release(slot);
                        }
                        Ok(None) => return self.refuse_datagram(slot),
                        Err(returned) => packet = returned,
                    }
                }
                self.outbound(self.clock, port, packet, offset, header, transport);
            }
        }
    }

    /// What became of the first fragment of an outbound datagram: `header` as it arrived, and
    /// the identification that it left with.
    pub(super) fn first_ended(
        &mut self,
        header: &Header,
        transport: Transport,
        verdict: Verdict,
        identification: u16,
    ) {
        let hash = self.shard.fragment_hash(header);
        let Some(slot) = self.fragments.table.find(hash, key_of(header)) else {
            return;
        };
        match verdict {
            Verdict::AwaitBlock => {}
            Verdict::Drop(_) => self.refuse_datagram(slot),
            _ => {
                let state = State::Open { ports: transport.ports(), identification };
                self.fragments.table.learn(slot, state);
                self.release(slot);
            }
        }
    }

    /// Whether the first fragment of this inbound datagram was refused here.
    pub(super) fn is_refused(&self, header: &Header) -> bool {
        let table = &self.fragments.table;
        let slot = table.find(self.shard.fragment_hash(header), key_of(header));
        slot.is_some_and(|slot| {
            table.state(slot) == State::Refused && !table.is_due(slot, self.now)
        })
    }

    /// Remembers the refusal of an inbound first fragment, for the others, that the keeper
    /// hands here; if there is no room, each is judged by itself.
    pub(super) fn note_refused(&mut self, header: &Header) {
        if header.is_fragment()
            && header.offset == 0
            && let Ok(slot) = self.context(true, header)
        {
            self.refuse_datagram(slot);
        }
    }

    /// Sends on what waited for the first fragment, in the order of arrival.
    fn release(&mut self, slot: u32) {
        let inbound = self.fragments.table.is_inbound(slot);
        let State::Open { ports, identification } = self.fragments.table.state(slot) else {
            return;
        };
        while let Some(Pending { packet, port, offset }) = self.fragments.next_pending(slot) {
            match ipv4::fields(&packet.bytes()[offset..]) {
                Ok(header) => {
                    self.later(inbound, port, packet, offset, &header, (ports, identification));
                }
                Err(reason) => self.refuse(port, packet, reason),
            }
        }
        self.close_if_complete(slot);
    }

    /// A fragment whose datagram's first one has been sent on.
    fn later(
        &mut self,
        inbound: bool,
        port: usize,
        mut packet: I::Packet,
        offset: usize,
        header: &Header,
        ((source, destination), identification): ((u16, u16), u16),
    ) {
        let transport = match IpProtocol(header.protocol).has_mappings() || source == ipv4::CALL {
            true => Transport::Later { source, destination },
            // GRE whose first fragment was of no call.
            false => Transport::Portless,
        };
        if inbound {
            return self.steer_inward(Kind::Inbound, port, packet, offset, header, transport);
        }
        if transport == Transport::Portless {
            return self.outbound(self.clock, port, packet, offset, header, transport);
        }
        if self.has_exceptions {
            let left_with = Some(identification);
            match self.static_part(port, packet, offset, (header, transport), left_with) {
                Ok(_) => return,
                Err(returned) => packet = returned,
            }
        }
        if self.too_big_outbound(header, transport).is_some() {
            return self.refuse(port, packet, DropReason::TooBig);
        }
        let bytes = &mut packet.bytes_mut()[offset..];
        let now = self.now.tick();
        match self.shard.outbound_fragment(
            bytes,
            header,
            ((source, destination), identification),
            now,
        ) {
            Err(reason) => self.refuse(port, packet, reason),
            Ok(external) if self.shard.space.contains(header.destination) => {
                self.counters.hairpinned.add(1);
                self.hairpin(port, packet, offset, (external, destination));
            }
            Ok(_) => self.egress(Side::External, packet, offset, header.source),
        }
    }

    /// Nothing of this datagram is sent on any more.
    fn refuse_datagram(&mut self, slot: u32) {
        self.fragments.table.learn(slot, State::Refused);
        self.drop_pending(slot, DropReason::FragmentRefused);
    }

    fn drop_pending(&mut self, slot: u32, reason: DropReason) {
        while let Some(fragment) = self.fragments.next_pending(slot) {
            self.refuse(fragment.port, fragment.packet, reason);
        }
    }

    /// A datagram of which everything was sent on needs no context any more.
    fn close_if_complete(&mut self, slot: u32) {
        if self.fragments.table.is_complete(slot) {
            self.fragments.table.close(slot);
        }
    }

    fn expire(&mut self, slot: u32) {
        self.drop_pending(slot, DropReason::FragmentTimeout);
        self.fragments.table.close(slot);
    }

    /// Ends what has waited too long; returns how many datagrams.
    pub(super) fn mind_fragments(&mut self) -> usize {
        let mut count = 0;
        while count < EXPIRIES_PER_POLL
            && let Some(slot) = self.fragments.table.due(self.now)
        {
            self.expire(slot);
            count += 1;
        }
        count
    }

    /// The end: what waits is dropped.
    pub(super) fn abandon_fragments(&mut self) {
        while let Some(slot) = self.fragments.table.any() {
            self.drop_pending(slot, DropReason::Shutdown);
            self.fragments.table.close(slot);
        }
    }

    /// A fragment that has just arrived goes to the worker that keeps its datagram.
    pub(super) fn steer_fragment(
        &mut self,
        port: usize,
        packet: I::Packet,
        offset: usize,
        header: &Header,
    ) {
        let inbound = self.forwarding.ports()[port].side == Side::External;
        if let Err(reason) = ipv4::check_fragment(header) {
            return self.refuse(port, packet, reason);
        }
        let keeper = self.keeper_of(inbound, header);
        if keeper == self.id {
            return self.fragment(inbound, port, packet, offset, header);
        }
        let kind = if inbound { Kind::Keep } else { Kind::Outbound };
        let note = self.note(kind, port, offset, keeper, 0);
        self.hand_over(packet, note);
    }

    /// The worker that keeps the context of a fragment's datagram: the one that a card steers
    /// its packets to.
    pub(super) fn keeper_of(&self, inbound: bool, header: &Header) -> u16 {
        self.steering.owner_of(if inbound { header.destination } else { header.source })
    }
}

/// The identification in an IPv4 header.
pub(super) fn identification_of(packet: &[u8]) -> u16 {
    u16_at(packet, 4)
}
