//! The way out: next hop, MTU, neighbour, link header, the last check, transmission.

use std::net::Ipv4Addr;

use super::Worker;
use super::io::{PacketBuf, PacketIo};
use super::parking::{AwaitsNeighbour, Waiting};
use crate::config::Side;
use crate::control::Event;
use crate::control::neighbours::Neighbour;
use crate::packet::ethernet::{self, Mac};
use crate::packet::{options, u32_at};
use crate::verdict::DropReason;

impl<I: PacketIo> Worker<I> {
    /// Sends a translated packet out of a side. `subscriber` is the internal address that it is
    /// from or to.
    pub(super) fn egress(
        &mut self,
        side: Side,
        mut packet: I::Packet,
        offset: usize,
        subscriber: u32,
    ) {
        // A header of another length than 20 bytes has options.
        if packet.bytes()[offset] != 0x45 {
            self.record_route(side, &mut packet, offset, subscriber);
        }
        let (since, next_hop) = (self.clock, (0, 0));
        let waiting =
            AwaitsNeighbour { packet, side, offset, since, next_hop, subscriber, is_part: false };
        if let Some((port, next_hop)) = self.egress_waiting(waiting) {
            // Asked once per packet that starts to wait; housekeeping paces the requests.
            self.note_event(Event::Resolve { port, address: Ipv4Addr::from(next_hop).into() });
        }
    }

    /// Sends a packet if its next hop is known; else it waits, and the next hop that is to
    /// be resolved is returned.
    pub(super) fn egress_waiting(
        &mut self,
        mut waiting: AwaitsNeighbour<I::Packet>,
    ) -> Option<(u8, u32)> {
        let (side, offset) = (waiting.side, waiting.offset);
        let bytes = &waiting.packet.bytes()[offset..];
        let (source, destination) = (u32_at(bytes, 12), u32_at(bytes, 16));
        if side == Side::External
            && !waiting.is_part
            && !self.shard.space.contains(source)
            && !self.may_leave_untranslated(bytes)
        {
            self.drop_packet(waiting.packet, DropReason::LeakPrevented);
            return None;
        }
        let (port, next_hop) = match self.way(side, destination, waiting.subscriber) {
            Ok(way) => way,
            Err(reason) => {
                self.drop_packet(waiting.packet, reason);
                return None;
            }
        };
        let mtu = usize::from(self.forwarding.ports()[usize::from(port)].mtu);
        if bytes.len() > mtu {
            return self.egress_in_fragments(waiting, mtu);
        }
        let neighbour = self.neighbours.find(port, next_hop);
        if let Neighbour::At(mac) = neighbour {
            self.send(usize::from(port), waiting.packet, offset, mac);
            return None;
        }
        if self.links.is_down(usize::from(port)) {
            // Nobody can answer.
            self.drop_packet(waiting.packet, DropReason::LinkDown);
            return None;
        }
        waiting.next_hop = (port, next_hop);
        if let Err(packet) = self.parking.await_neighbour(Waiting::Translated(waiting)) {
            self.drop_packet(packet, DropReason::ParkingFull);
            return None;
        }
        (neighbour == Neighbour::Unknown).then_some((port, next_hop))
    }

    /// Port and next hop towards `destination` on a side, for a subscriber.
    #[inline]
    pub(super) fn way(
        &self,
        side: Side,
        destination: u32,
        subscriber: u32,
    ) -> Result<(u8, u32), DropReason> {
        match &self.routes {
            None => self.forwarding.next_hop(side, destination).ok_or(DropReason::NoRoute),
            Some(routes) => routes.find(side, destination, subscriber),
        }
    }

    /// A packet that asks for its route gets the address of the port that it leaves by.
    #[cold]
    fn record_route(&self, side: Side, packet: &mut I::Packet, offset: usize, subscriber: u32) {
        let destination = u32_at(packet.bytes(), offset + 16);
        let Ok((port, next_hop)) = self.way(side, destination, subscriber) else {
            return;
        };
        let own = self.forwarding.ports()[usize::from(port)].address_towards(next_hop);
        let header_len = usize::from(packet.bytes()[offset] & 0x0f) * 4;
        if let (Some(own), Some(header)) =
            (own, packet.bytes_mut().get_mut(offset..offset + header_len))
        {
            options::record(header, own);
        }
    }

    /// Puts the link header of `port` before the IPv4 header and queues the frame.
    fn send(&mut self, port: usize, packet: I::Packet, offset: usize, to: Mac) {
        self.send_as(ethernet::IPV4, port, packet, offset, to);
    }

    /// Puts a link header before the packet and queues the frame.
    #[inline(always)]
    pub(super) fn send_as(
        &mut self,
        ether_type: u16,
        port: usize,
        mut packet: I::Packet,
        offset: usize,
        to: Mac,
    ) {
        let info = &self.forwarding.ports()[port];
        let (mac, tags) = (info.mac, info.tags);
        let header = ethernet::header_len(tags);
        let fits = if header <= offset {
            packet.cut_front(offset - header);
            true
        } else {
            packet.grow_front(header - offset)
        };
        if !fits {
            return self.drop_packet(packet, DropReason::NoHeadroom);
        }
        ethernet::write(packet.bytes_mut(), to, mac, tags, ether_type);
        self.queue(port, packet);
    }

    /// Queues a frame that the box made itself or turned round.
    pub(super) fn originate(&mut self, port: usize, packet: I::Packet) {
        self.counters.originated.add(1);
        self.queue(port, packet);
    }

    #[inline]
    pub(super) fn queue(&mut self, port: usize, packet: I::Packet) {
        let Err(full) = self.transmit[port].try_push(packet) else { return };
        self.flush_port(port);
        self.transmit[port].push(full.element());
    }

    /// Sends everything that is queued for ports and other workers.
    pub(super) fn flush(&mut self) {
        for port in 0..self.transmit.len() {
            if !self.transmit[port].is_empty() {
                self.flush_port(port);
            }
        }
        for worker in 0..self.hand_off.len() {
            if !self.hand_off[worker].is_empty() {
                self.flush_hand_off(worker);
            }
        }
    }

    fn flush_port(&mut self, port: usize) {
        if self.links.is_down(port) {
            // Else a driver may keep them, and send them when nobody wants them any more.
            return self.drop_queued(port, DropReason::LinkDown);
        }
        let bytes = |burst: &[I::Packet]| burst.iter().map(|p| p.bytes().len() as u64).sum::<u64>();
        let burst = &mut self.transmit[port];
        let (count, total) = (burst.len(), bytes(burst));
        self.io.transmit(port, burst);
        if !burst.is_empty() {
            // The queue may have drained a little meanwhile.
            self.io.transmit(port, burst);
        }
        let counters = &self.counters.ports[port];
        counters.tx_packets.add((count - burst.len()) as u64);
        counters.tx_bytes.add(total - bytes(burst));
        if !burst.is_empty() {
            counters.tx_refused.add(burst.len() as u64);
        }
        self.drop_queued(port, DropReason::TransmitFull);
    }

    fn drop_queued(&mut self, port: usize, reason: DropReason) {
        while let Some(packet) = self.transmit[port].pop() {
            self.drop_packet(packet, reason);
        }
    }
}
