//! What arrived: link header, ARP, packets for the box itself, and whose packet it is.

use super::Worker;
use super::errors::{told_inside, told_outside};
use super::fragments::identification_of;
use super::handoff::{Kind, Note};
use super::io::{Burst, PacketBuf, PacketIo};
use super::parking::AwaitsBlock;
use super::punt::Class;
use crate::config::Side;
use crate::endpoint::ExternalEndpoint;
use crate::packet::ethernet::Frame;
use crate::packet::icmp_error::fragmentation_needed;
use crate::packet::ipv4::{self, Header, Query, Transport};
use crate::packet::{ethernet, partial, rewrite, u32_at};
use crate::policy::alg;
use crate::space::Location;
use crate::time::Instant;
use crate::verdict::{DropReason, Verdict};

impl<I: PacketIo> Worker<I> {
    /// Takes one received frame to its end here, or hands it to its owner.
    pub(super) fn ingress(&mut self, port: usize, mut packet: I::Packet) {
        self.note_capture_time(&packet);
        if !packet.is_whole() && !self.join(port, &mut packet) {
            return self.refuse(port, packet, DropReason::FrameLong);
        }
        let info = &self.forwarding.ports()[port];
        let frame = match ethernet::parse(packet.bytes(), info.mac, info.tags) {
            Ok(frame) => frame,
            Err(reason) => return self.refuse(port, packet, reason),
        };
        match frame.ether_type {
            ethernet::IPV4 => self.ipv4(port, packet, frame.payload),
            ethernet::ARP => self.arp(port, packet, frame.payload),
            ethernet::IPV6 => self.ipv6(port, packet, frame.payload),
            _ => self.refuse(port, packet, DropReason::EtherTypeOther),
        }
    }

    /// Joins what a driver delivered in several buffers: one that splits longer frames, or
    /// headers from payload, whatever the size of a buffer.
    #[cold]
    fn join(&self, port: usize, packet: &mut I::Packet) -> bool {
        let is_joined = packet.join();
        self.counters.ports[port].rx_joined.add(u64::from(is_joined));
        is_joined
    }

    /// Computes the checksums that senders left to a card.
    #[cold]
    pub(super) fn complete_checksums(&self, port: usize, burst: &mut Burst<I::Packet>) {
        let info = &self.forwarding.ports()[port];
        for packet in burst {
            let frame = ethernet::parse(packet.bytes(), info.mac, info.tags);
            let Ok(Frame { ether_type, payload }) = frame else { continue };
            let bytes = &mut packet.bytes_mut()[payload..];
            let is_completed = match ether_type {
                ethernet::IPV4 => partial::complete(bytes),
                ethernet::IPV6 if info.takes_ipv6 => partial::complete6(bytes),
                _ => false,
            };
            self.counters.ports[port].rx_completed.add(u64::from(is_completed));
        }
    }

    /// Whether a frame is longer than a packet may be here, and not all of it: a driver cut it.
    #[cold]
    pub(super) fn is_cut(&self, port: usize, packet: &[u8], total_len: usize) -> bool {
        let is_cut = packet.len() > usize::from(self.forwarding.ports()[port].mtu)
            && total_len > packet.len();
        self.counters.ports[port].rx_cut.add(u64::from(is_cut));
        is_cut
    }

    fn ipv4(&mut self, port: usize, mut packet: I::Packet, offset: usize) {
        if self.is_for_groups(port, &packet.bytes()[offset..]) {
            return self.punt(port, packet, Class::Groups);
        }
        let header = match ipv4::header(&packet.bytes()[offset..]) {
            Ok(header) => header,
            Err(reason @ DropReason::IpTotalLength) => {
                let bytes = &packet.bytes()[offset..];
                let is_cut = self.is_cut(port, bytes, ipv4::total_len(bytes));
                let reason = if is_cut { DropReason::FrameCut } else { reason };
                return self.refuse(port, packet, reason);
            }
            Err(reason) => return self.refuse(port, packet, reason),
        };
        if packet.bytes()[0] & 1 != 0 {
            // A unicast address in a link-layer broadcast: never forwarded (RFC 1122 3.3.6).
            return self.refuse(port, packet, DropReason::FrameNotForUs);
        }
        // Ethernet padding ends here.
        packet.truncate(offset + header.total_len);
        if self.has_exceptions {
            match self.without_state(port, packet, offset, &header) {
                Some(returned) => packet = returned,
                None => return,
            }
        }
        let side = self.forwarding.ports()[port].side;
        if side == Side::External && self.is_spoofed(header.source) {
            return self.refuse(port, packet, DropReason::SourceSpoofed);
        }
        if header.is_fragment()
            && !self.goes_by_addresses(&header)
            && !(side == Side::External && self.is_for_whole_address(&header))
        {
            if self.forwarding.is_own(header.destination) {
                return self.for_us(port, packet, offset);
            }
            if side == Side::Internal && self.forwarding.is_inside(header.destination) {
                return self.refuse(port, packet, DropReason::DestinationInside);
            }
            return self.steer_fragment(port, packet, offset, &header);
        }
        let parsed = self.transport(side == Side::External, &packet.bytes()[offset..], &header);
        if self.forwarding.is_own(header.destination) {
            return self.answer_own(port, packet, offset, &header, parsed);
        }
        let transport = match parsed {
            Ok(transport @ Transport::Portless)
                if self.is_unsupported(side, &header, transport) =>
            {
                return self.refuse(port, packet, DropReason::ProtocolUnsupported);
            }
            Ok(transport) => transport,
            Err(reason) => return self.refuse(port, packet, reason),
        };
        match side {
            Side::Internal => {
                if self.forwarding.is_inside(header.destination) {
                    let reason = DropReason::DestinationInside;
                    if let Some(kind) = told_inside(reason) {
                        self.tell(kind, port, &packet, offset, (&header, transport));
                    }
                    return self.refuse(port, packet, reason);
                }
                let owner = self.steering.owner_of(transport.subscriber(&header));
                if owner != self.id {
                    let note = self.note(Kind::Outbound, port, offset, owner, 0);
                    return self.hand_over(packet, note);
                }
                self.outbound(self.clock, port, packet, offset, &header, transport);
            }
            Side::External => {
                self.steer_inward(Kind::Inbound, port, packet, offset, &header, transport);
            }
        }
    }

    /// Whether a packet without ports is of a protocol that is not carried, nor mapped one to one.
    #[cold]
    fn is_unsupported(&self, side: Side, header: &Header, transport: Transport) -> bool {
        !self.shard.carries(header.protocol)
            && (side == Side::Internal || self.shard.static_internal(header, transport).is_none())
    }

    /// Whether nobody outside has this address.
    fn is_spoofed(&self, source: u32) -> bool {
        self.shard.space.contains(source)
            || self.forwarding.is_own(source)
            || self.forwarding.is_inside(source)
    }

    /// Outbound at its owner. `since` is when the packet came here first.
    pub(super) fn outbound(
        &mut self,
        since: Instant,
        port: usize,
        mut packet: I::Packet,
        offset: usize,
        header: &Header,
        transport: Transport,
    ) {
        if let Some(mtu) = self.too_big_outbound(header, transport) {
            let kind = fragmentation_needed(mtu);
            self.tell(kind, port, &packet, offset, (header, transport));
            self.refuse(port, packet, DropReason::TooBig);
            if header.is_fragment() {
                self.first_ended(header, transport, Verdict::Drop(DropReason::TooBig), 0);
            }
            return;
        }
        let now = self.now.tick();
        let may_grow = self.shard.may_lengthen(transport);
        if may_grow {
            self.make_room(&mut packet, header);
        }
        let bytes = &mut packet.bytes_mut()[offset..];
        let verdict = self.shard.outbound(bytes, header, transport, now);
        let identification = identification_of(bytes);
        if may_grow {
            let total_len = ipv4::total_len(bytes);
            packet.truncate(offset + total_len);
        }
        match verdict {
            Verdict::ForwardExternal => {
                self.let_out(&packet, offset, header, transport);
                self.egress(Side::External, packet, offset, transport.subscriber(header));
            }
            Verdict::Hairpin => {
                self.counters.hairpinned.add(1);
                self.hairpin(port, packet, offset, (0, 0));
            }
            Verdict::Associate(external) => {
                self.associate((port, packet, offset), header, external);
            }
            Verdict::AwaitBlock => {
                let waiting = AwaitsBlock { packet, port, offset, since };
                if let Err(waiting) = self.parking.await_block(waiting) {
                    self.refuse(port, waiting.packet, DropReason::ParkingFull);
                }
            }
            Verdict::Drop(reason) => {
                if let Some(kind) = told_inside(reason) {
                    self.tell(kind, port, &packet, offset, (header, transport));
                }
                self.refuse(port, packet, reason);
            }
            Verdict::ForwardInternal => unreachable!("an outbound packet never goes inward"),
        }
        if header.is_fragment() && header.offset == 0 {
            self.first_ended(header, transport, verdict, identification);
        }
    }

    /// Room behind a packet that an ALG may make longer, within the MTU of every port.
    #[cold]
    fn make_room(&self, packet: &mut I::Packet, header: &Header) {
        let fits = self.forwarding.smallest_mtu().saturating_sub(header.total_len);
        // Without room the end is cut off, and comes again.
        packet.grow_back(fits.min(alg::stream::ROOM));
    }

    /// A packet whose source was translated goes to the owner of its destination. It does
    /// this once: what comes out of [`Worker::inbound`] is never hairpinned again. `ports` are
    /// those of a later fragment's datagram.
    pub(super) fn hairpin(
        &mut self,
        port: usize,
        packet: I::Packet,
        offset: usize,
        ports: (u16, u16),
    ) {
        match self.reread(true, &packet.bytes()[offset..], ports) {
            Ok((header, transport)) => {
                self.steer_inward(Kind::Hairpin, port, packet, offset, &header, transport);
            }
            Err(reason) => self.refuse(port, packet, reason),
        }
    }

    /// Inbound or hairpinned: here if the destination's block is lent to this worker.
    pub(super) fn steer_inward(
        &mut self,
        kind: Kind,
        port: usize,
        mut packet: I::Packet,
        offset: usize,
        header: &Header,
        transport: Transport,
    ) {
        if self.has_exceptions {
            match self.static_inward(kind, port, packet, offset, header, transport) {
                Some(returned) => packet = returned,
                None => return,
            }
        }
        let endpoint = ExternalEndpoint::new(header.destination, transport.destination_port());
        let block = match self.shard.space.locate(endpoint) {
            Location::Block(block) => block,
            Location::NotLent => {
                let arrived = (port, packet, offset);
                return self.steer_to_keeper(kind, arrived, header, transport);
            }
            Location::Elsewhere => {
                return self.refuse(port, packet, DropReason::DestinationUnknown);
            }
        };
        match self.owners.owner(block) {
            Some(owner) if owner.worker == self.id => {
                self.inbound(kind, port, packet, offset, header, transport);
            }
            Some(owner) => {
                let ports = transport.ports();
                let note = self.note(kind, port, offset, owner.worker, owner.generation);
                let note = Note { ports, ..note };
                self.hand_over(packet, note);
            }
            None => self.refuse(port, packet, DropReason::NoMapping),
        }
    }

    /// Inbound or hairpinned at its owner.
    pub(super) fn inbound(
        &mut self,
        kind: Kind,
        port: usize,
        mut packet: I::Packet,
        offset: usize,
        header: &Header,
        transport: Transport,
    ) {
        if matches!(transport, Transport::Later { .. }) && self.is_refused(header) {
            return self.refuse(port, packet, DropReason::FragmentRefused);
        }
        if let Some(mtu) = self.too_big_inbound(kind, header, transport) {
            let error = fragmentation_needed(mtu);
            self.tell_back(kind, error, port, &mut packet, offset, (header, transport));
            self.note_refused(header);
            return self.refuse(port, packet, DropReason::TooBig);
        }
        let now = self.now.tick();
        let hairpinned = kind == Kind::Hairpin;
        let bytes = &mut packet.bytes_mut()[offset..];
        match self.shard.inbound(bytes, header, transport, hairpinned, now) {
            Verdict::ForwardInternal => {
                self.let_in(header, transport);
                let subscriber = u32_at(packet.bytes(), offset + 16);
                self.egress(Side::Internal, packet, offset, subscriber);
            }
            Verdict::Drop(reason) => {
                let about = (header, transport);
                let error = if hairpinned { told_inside(reason) } else { told_outside(reason) };
                if let Some(error) = error {
                    self.tell_back(kind, error, port, &mut packet, offset, about);
                }
                if !hairpinned {
                    self.hold_syn(reason, port, &packet, offset, about);
                }
                self.refuse(port, packet, reason);
                self.note_refused(header);
            }
            other => unreachable!("an inbound packet ends as {other:?}"),
        }
    }

    /// A packet for an own address: ping is answered to the station it came from.
    fn answer_own(
        &mut self,
        port: usize,
        mut packet: I::Packet,
        offset: usize,
        header: &Header,
        parsed: Result<Transport, DropReason>,
    ) {
        match parsed {
            Ok(Transport::Query { query: Query::Echo, request: true, .. }) => {}
            Err(reason @ (DropReason::TransportTruncated | DropReason::PortZero)) => {
                return self.refuse(port, packet, reason);
            }
            _ => return self.for_us(port, packet, offset),
        }
        let info = &self.forwarding.ports()[port];
        if !info.is_own(header.destination) {
            return self.for_us(port, packet, offset);
        }
        let mac = info.mac;
        let bytes = packet.bytes_mut();
        bytes.copy_within(6..12, 0);
        bytes[6..12].copy_from_slice(&mac);
        rewrite::echo_reply(&mut bytes[offset..], header);
        self.counters.echo_answered.add(1);
        self.originate(port, packet);
    }

    pub(super) fn note(
        &self,
        kind: Kind,
        port: usize,
        offset: usize,
        to: u16,
        generation: u16,
    ) -> Note {
        let (port, offset) = (port as u8, offset as u16);
        Note { kind, port, offset, to, generation, ports: (0, 0), at: self.now }
    }

    /// Drops a packet that arrived at `port`.
    pub(super) fn refuse(&mut self, port: usize, packet: I::Packet, reason: DropReason) {
        self.counters.ports[port].dropped.add(1);
        self.drop_packet(packet, reason);
    }
}
