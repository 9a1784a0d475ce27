//! ICMP errors that the box itself sends: time exceeded (RFC 5508 section 7.2) and host
//! unreachable when a new flow is refused (RFC 6888 REQ-11b).
//!
//! They go back to the station that the packet came from, from the address of the port it
//! arrived at, and quote the packet as it was received. None is sent about an ICMP error;
//! what else must not cause one (RFC 1812 section 4.3.2.7) was dropped before.

use super::Worker;
use super::io::{PacketBuf, PacketIo};
use crate::packet::ethernet;
use crate::packet::icmp_error::{self, HOST_UNREACHABLE, Kind, TIME_EXCEEDED};
use crate::packet::ipv4::{Header, Transport};
use crate::time::TICKS_PER_SECOND;
use crate::verdict::DropReason;

/// What the sender of an outbound packet is told.
pub(super) fn told_inside(reason: DropReason) -> Option<Kind> {
    match reason {
        reason if reason.is_refusal() => Some(HOST_UNREACHABLE),
        _ => told_outside(reason),
    }
}

/// What the sender of an inbound packet is told.
pub(super) fn told_outside(reason: DropReason) -> Option<Kind> {
    (reason == DropReason::TtlExpired).then_some(TIME_EXCEEDED)
}

impl<I: PacketIo> Worker<I> {
    /// Tells the sender of a packet, which is as it was received, why it is dropped.
    pub(super) fn tell(
        &mut self,
        kind: Kind,
        port: usize,
        packet: &I::Packet,
        offset: usize,
        (header, transport): (&Header, Transport),
    ) {
        if matches!(transport, Transport::Error(_)) {
            return;
        }
        let forwarding = self.forwarding.clone();
        let info = &forwarding.ports()[port];
        let Some(from) = info.address_towards(header.source) else {
            return;
        };
        let second = self.now.tick().0 / TICKS_PER_SECOND;
        if !self.error_rate.allows(header.source, second) {
            self.counters.errors_withheld.add(1);
            return;
        }
        let link = ethernet::header_len(info.vlan);
        let length = link + icmp_error::length_about(header);
        let made = self.io.allocate().and_then(|mut error| error.fill(length).then_some(error));
        let Some(mut error) = made else {
            self.counters.errors_withheld.add(1);
            return;
        };
        let mut station = [0; 6];
        station.copy_from_slice(&packet.bytes()[6..12]);
        let bytes = error.bytes_mut();
        ethernet::write(bytes, station, info.mac, info.vlan, ethernet::IPV4);
        icmp_error::write(&mut bytes[link..], kind, from, &packet.bytes()[offset..], header);
        self.counters.errors_sent.add(1);
        self.originate(port, error);
    }
}
