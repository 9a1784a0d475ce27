//! IPv6 beside the NAT: what arrived, where it goes, and what its sender is told (decision 35).
//!
//! No state and no owner: the worker that receives a packet sends it on. Nothing of a packet is
//! changed but its hop limit.

use std::net::Ipv6Addr;

use super::Worker;
use super::io::{PacketBuf, PacketIo};
use super::parking::{AwaitsNeighbour6, Waiting};
use super::punt::Class;
use crate::config::{Side, SourceCheck};
use crate::control::Event;
use crate::control::neighbours::Neighbour;
use crate::packet::ethernet::{self, Mac};
use crate::packet::icmp6::{self, Kind};
use crate::packet::ipv6::{self, Header, next};
use crate::packet::nd;
use crate::time::TICKS_PER_SECOND;
use crate::verdict::DropReason;

/// Where a packet goes: side, port and next hop.
type Onward = (Side, (u8, u128));

impl<I: PacketIo> Worker<I> {
    /// Takes a received IPv6 packet to its end.
    #[inline(never)]
    pub(super) fn ipv6(&mut self, port: usize, mut packet: I::Packet, offset: usize) {
        if !self.forwarding.ports()[port].takes_ipv6 {
            return self.refuse(port, packet, DropReason::Ipv6);
        }
        let bytes = &packet.bytes()[offset..];
        let header = match ipv6::header(bytes) {
            Ok(header) => header,
            Err(reason) => {
                let is_cut = self.is_cut(port, bytes, ipv6::total_len(bytes));
                let reason = if is_cut { DropReason::FrameCut } else { reason };
                return self.refuse(port, packet, reason);
            }
        };
        // Ethernet padding ends here.
        packet.truncate(offset + header.total_len);
        if self.is_discovery(port, &packet.bytes()[offset..], &header) {
            return self.discover(port, packet, offset, &header);
        }
        // A packet to one station in a frame to many: not ours to take, as with IPv4.
        if packet.bytes()[0] & 1 != 0 && !ipv6::is_multicast(header.destination) {
            return self.refuse(port, packet, DropReason::FrameNotForUs);
        }
        let way = match self.judge_ipv6(port, &packet.bytes()[offset..], &header) {
            Ok(Some(way)) => way,
            Ok(None) => return self.ipv6_for_us(port, packet, offset, &header),
            Err(DropReason::Ipv6Group) if self.is_for_groups_ipv6(port, &header) => {
                return self.punt(port, packet, Class::Groups);
            }
            Err(reason) => {
                if let Some(kind) = told(reason, &header) {
                    self.tell_ipv6(kind, port, &packet, offset);
                }
                return self.refuse(port, packet, reason);
            }
        };
        self.pass_ipv6(port, packet, offset, &header, way);
    }

    /// Whether a packet is a neighbour's solicitation or advertisement, for us or a group.
    fn is_discovery(&self, port: usize, packet: &[u8], header: &Header) -> bool {
        header.next_header == next::ICMP
            && matches!(packet.get(ipv6::HEADER), Some(&(nd::SOLICITATION | nd::ADVERTISEMENT)))
            && (ipv6::is_multicast(header.destination)
                || self.forwarding.ipv6().is_own(port, header.destination))
    }

    /// Port and next hop of a packet; none if it is for us.
    fn judge_ipv6(
        &self,
        port: usize,
        packet: &[u8],
        header: &Header,
    ) -> Result<Option<Onward>, DropReason> {
        let (source, destination) = (header.source, header.destination);
        let forwarding = self.forwarding.ipv6();
        if ipv6::is_multicast(destination) {
            return Err(DropReason::Ipv6Group);
        }
        if ipv6::is_multicast(source) || ipv6::is_martian(source) || forwarding.is_own(port, source)
        {
            return Err(DropReason::Ipv6SourceMartian);
        }
        if ipv6::is_martian(destination) {
            return Err(DropReason::Ipv6DestinationMartian);
        }
        let side = self.forwarding.ports()[port].side;
        let is_link_local = ipv6::is_link_local(source);
        if !is_link_local && self.is_spoofed_ipv6(port, side, source) {
            return Err(DropReason::Ipv6SourceSpoofed);
        }
        if forwarding.is_own(port, destination) {
            return Ok(None);
        }
        if is_link_local || ipv6::is_link_local(destination) {
            return Err(DropReason::Ipv6LinkLocal);
        }
        let inside = forwarding.way(Side::Internal, destination);
        let way = match side {
            Side::External => inside.map(|way| (Side::Internal, way)),
            Side::Internal if inside.is_some() => return Err(DropReason::Ipv6DestinationInside),
            Side::Internal => {
                forwarding.way(Side::External, destination).map(|way| (Side::External, way))
            }
        };
        let way = way.ok_or(DropReason::Ipv6NoRoute)?;
        // RFC 8200 section 3.
        if packet[7] <= 1 {
            return Err(DropReason::TtlExpired);
        }
        Ok(Some(way))
    }

    /// Whether a global source does not belong where a packet comes from (RFC 3704 section 2).
    fn is_spoofed_ipv6(&self, port: usize, side: Side, source: u128) -> bool {
        let forwarding = self.forwarding.ipv6();
        let back = forwarding.way(Side::Internal, source);
        let Some(info) = forwarding.port(port).filter(|_| side == Side::Internal) else {
            return back.is_some();
        };
        match info.source_check {
            SourceCheck::Strict => back.is_none_or(|(by, _)| usize::from(by) != port),
            SourceCheck::Loose => back.is_none(),
            SourceCheck::Off => false,
        }
    }

    /// A packet for an own address: ping is answered to the station it came from.
    fn ipv6_for_us(&mut self, port: usize, mut packet: I::Packet, offset: usize, header: &Header) {
        let bytes = &packet.bytes()[offset..];
        let forwarding = self.forwarding.clone();
        let (info, ipv6) = (&forwarding.ports()[port], forwarding.ipv6());
        let is_here = ipv6.port(port).is_some_and(|port| port.is_in_use(header.destination));
        if !is_here || !icmp6::is_ping(bytes, header, ipv6::upper(bytes, header)) {
            return self.for_us_ipv6(port, packet, offset, header);
        }
        let bytes = packet.bytes_mut();
        bytes.copy_within(6..12, 0);
        bytes[6..12].copy_from_slice(&info.mac);
        icmp6::answer(&mut bytes[offset..], header);
        self.counters.echo_answered.add(1);
        self.originate(port, packet);
    }

    /// Sends a packet on, if it fits the way out.
    fn pass_ipv6(
        &mut self,
        port: usize,
        mut packet: I::Packet,
        offset: usize,
        header: &Header,
        (side, next_hop): Onward,
    ) {
        let mtu = self.forwarding.ports()[usize::from(next_hop.0)].mtu;
        if header.total_len > usize::from(mtu) {
            self.tell_ipv6(icmp6::packet_too_big(mtu), port, &packet, offset);
            return self.refuse(port, packet, DropReason::TooBig);
        }
        packet.bytes_mut()[offset + 7] = header.hop_limit - 1;
        match side {
            Side::External => self.counters.ipv6_outbound.add(1),
            Side::Internal => self.counters.ipv6_inbound.add(1),
        }
        let since = self.clock;
        let waiting = AwaitsNeighbour6 { packet, arrived: port, offset, since, next_hop };
        if let Some((port, next_hop)) = self.egress_waiting_ipv6(waiting) {
            let address = Ipv6Addr::from(next_hop).into();
            self.note_event(Event::Resolve { port, address });
        }
    }

    /// Sends a packet if its next hop is known; else it waits, and the next hop that is to be
    /// resolved is returned.
    pub(super) fn egress_waiting_ipv6(
        &mut self,
        waiting: AwaitsNeighbour6<I::Packet>,
    ) -> Option<(u8, u128)> {
        let (port, next_hop) = waiting.next_hop;
        let neighbour = self.neighbours6.find(port, next_hop);
        if let Neighbour::At(mac) = neighbour {
            let AwaitsNeighbour6 { packet, offset, .. } = waiting;
            self.send_as(ethernet::IPV6, usize::from(port), packet, offset, mac);
            return None;
        }
        if self.links.is_down(usize::from(port)) {
            // Nobody can answer.
            self.drop_packet(waiting.packet, DropReason::LinkDown);
            return None;
        }
        if let Err(packet) = self.parking.await_neighbour(Waiting::Ipv6(waiting)) {
            self.drop_packet(packet, DropReason::ParkingFull);
            return None;
        }
        (neighbour == Neighbour::Unknown).then_some((port, next_hop))
    }

    /// The next hop of a packet has not answered: its sender is told (RFC 4861 section 7.2.2).
    pub(super) fn give_up_ipv6(&mut self, waiting: AwaitsNeighbour6<I::Packet>) {
        let AwaitsNeighbour6 { mut packet, arrived, offset, .. } = waiting;
        // It is quoted as it was received.
        packet.bytes_mut()[offset + 7] += 1;
        self.tell_ipv6(icmp6::ADDRESS_UNREACHABLE, arrived, &packet, offset);
        self.drop_packet(packet, DropReason::NeighbourUnresolved);
    }

    /// Tells the sender of a packet, which is as it was received, why it is dropped.
    fn tell_ipv6(&mut self, kind: Kind, port: usize, packet: &I::Packet, offset: usize) {
        let bytes = &packet.bytes()[offset..];
        // What is dropped here was read.
        let Ok(header) = ipv6::header(bytes) else { return };
        if icmp6::is_silent_about(bytes, &header) {
            return;
        }
        let forwarding = self.forwarding.clone();
        let info = &forwarding.ports()[port];
        let second = self.now.tick().0 / TICKS_PER_SECOND;
        let link = ethernet::header_len(info.tags);
        let length = link + icmp6::length_about(bytes);
        let from = forwarding.ipv6().talks_with(port, header.source);
        let made = match from {
            Some(from) if self.telling.allows_ipv6(info.side, header.source, second) => {
                let made = self.io.allocate().and_then(|mut e| e.fill(length).then_some(e));
                made.map(|error| (error, from))
            }
            _ => None,
        };
        let Some((mut error, from)) = made else {
            return self.counters.errors_withheld.add(1);
        };
        let mut station: Mac = [0; 6];
        station.copy_from_slice(&packet.bytes()[6..12]);
        let into = error.bytes_mut();
        ethernet::write(into, station, info.mac, info.tags, ethernet::IPV6);
        icmp6::write(&mut into[link..], kind, from, bytes);
        self.counters.errors_sent.add(1);
        self.originate(port, error);
    }
}

/// What the sender of a dropped packet is told.
fn told(reason: DropReason, header: &Header) -> Option<Kind> {
    let is_global = !ipv6::is_link_local(header.destination);
    match reason {
        DropReason::TtlExpired => Some(icmp6::TIME_EXCEEDED),
        DropReason::Ipv6NoRoute => Some(icmp6::NO_ROUTE),
        DropReason::Ipv6DestinationInside => Some(icmp6::PROHIBITED),
        // RFC 4443 section 3.1.
        DropReason::Ipv6LinkLocal if is_global => Some(icmp6::BEYOND_SCOPE),
        _ => None,
    }
}
