//! ICMP errors that the box itself sends: time exceeded (RFC 5508 section 7.2), and
//! destination unreachable when a new flow is refused, for want of something (RFC 6888
//! REQ-11b) or by administration (RFC 5508 REQ-8).
//!
//! They go back to the station that the packet came from, from the address of the port it
//! arrived at, and quote the packet as it was received. One about a hairpinned packet goes
//! back as an error from the Internet would: through the mapping of its sender. What must not
//! cause an error (RFC 1812 section 4.3.2.7) was dropped before, or is kept back here; that
//! goes before every rule that asks for one.

use super::Worker;
use super::handoff::Kind as Way;
use super::io::{PacketBuf, PacketIo};
use crate::config::{OnRefusal, OwnErrors, Side};
use crate::packet::ethernet::{self, Mac};
use crate::packet::icmp_error::{self, ADMIN_PROHIBITED, HOST_UNREACHABLE, Kind, TIME_EXCEEDED};
use crate::packet::ipv4::{self, Header, Transport};
use crate::packet::rewrite;
use crate::policy::error_rate::ErrorRate;
use crate::time::TICKS_PER_SECOND;
use crate::verdict::DropReason;

/// What may be told, and how often.
pub(super) struct Telling {
    rules: OwnErrors,
    to_internal: ErrorRate,
    to_external: ErrorRate,
    /// Of ICMPv6, by side.
    six: [ErrorRate; 2],
}

impl Telling {
    pub(super) fn new(rules: OwnErrors) -> Self {
        let rate = || ErrorRate::new(rules.per_receiver(), rules.in_all());
        Self { rules, to_internal: rate(), to_external: rate(), six: [rate(), rate()] }
    }

    /// The kind to send where a refusal asks for `kind`.
    fn as_configured(&self, kind: Kind) -> Option<Kind> {
        let refusal = kind == HOST_UNREACHABLE || kind == ADMIN_PROHIBITED;
        match self.rules.on_refusal() {
            _ if !refusal => Some(kind),
            OnRefusal::HostUnreachable => Some(kind),
            OnRefusal::AdminProhibited => Some(ADMIN_PROHIBITED),
            OnRefusal::Silent => None,
        }
    }

    /// Whether one more error may go out of a port of `side` to `receiver`.
    fn allows(&mut self, side: Side, receiver: u32, second: u32) -> bool {
        let rate = match side {
            Side::Internal => &mut self.to_internal,
            Side::External => &mut self.to_external,
        };
        // RFC 5508 REQ-9.
        self.rules.allowed_to(side) && rate.allows(receiver, second)
    }

    /// Whether one more ICMPv6 error may go out of a port of `side` to `receiver`. One host has all of
    /// a /64, so receivers there share their rate.
    pub(super) fn allows_ipv6(&mut self, side: Side, receiver: u128, second: u32) -> bool {
        let network = (receiver >> 96) as u32 ^ ((receiver >> 64) as u32).rotate_left(16);
        self.rules.allowed_to(side) && self.six[side as usize].allows(network, second)
    }
}

/// What the sender of an outbound packet, hairpinned or not, is told.
pub(super) fn told_inside(reason: DropReason) -> Option<Kind> {
    match reason {
        reason if reason.is_refusal() => Some(HOST_UNREACHABLE),
        // Behind a hairpin; strangers who meet these are told nothing.
        DropReason::LimitInboundSessions | DropReason::LimitMappingInboundSessions => {
            Some(HOST_UNREACHABLE)
        }
        DropReason::HairpinDisabled | DropReason::DestinationInside => Some(ADMIN_PROHIBITED),
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
        // Nobody sends from such an address; who pretends to is not answered.
        if self.shard.space.contains(header.source) || self.is_silent_about(header, transport) {
            return;
        }
        let mut station = [0; 6];
        station.copy_from_slice(&packet.bytes()[6..12]);
        let quoted = &packet.bytes()[offset..];
        if let Some((error, _)) = self.error(kind, port, station, quoted, header.source) {
            self.counters.errors_sent.add(1);
            self.originate(port, error);
        }
    }

    /// Tells the sender of a packet to an external endpoint, which came by `way`, why it is
    /// dropped.
    pub(super) fn tell_back(
        &mut self,
        way: Way,
        kind: Kind,
        port: usize,
        packet: &mut I::Packet,
        offset: usize,
        about: (&Header, Transport),
    ) {
        if way == Way::Hairpin {
            self.tell_hairpinned(kind, port, packet, offset, about);
        } else {
            self.tell(kind, port, packet, offset, about);
        }
    }

    /// Tells the sender of a hairpinned packet, whose source is translated and which arrived
    /// at `port`, why it is dropped. The error finds its way back, and the sender's own
    /// packet in it, through the sender's mapping (RFC 5508 REQ-7).
    fn tell_hairpinned(
        &mut self,
        kind: Kind,
        port: usize,
        packet: &mut I::Packet,
        offset: usize,
        (header, transport): (&Header, Transport),
    ) {
        if self.is_silent_about(header, transport) {
            return;
        }
        rewrite::restore_ttl(&mut packet.bytes_mut()[offset..]);
        let quoted = &packet.bytes()[offset..];
        let Some((error, at)) = self.error(kind, port, [0; 6], quoted, header.source) else {
            return;
        };
        self.counters.errors_sent.add(1);
        self.counters.originated.add(1);
        match ipv4::reread(&error.bytes()[at..], (0, 0)) {
            // It is an error: should it be dropped too, nobody is told of that.
            Ok((header, transport)) => {
                self.steer_inward(Way::Hairpin, port, error, at, &header, transport);
            }
            Err(reason) => self.drop_packet(error, reason),
        }
    }

    /// Whether a packet must not cause an error (RFC 1812 section 4.3.2.7).
    pub(super) fn is_silent_about(&self, header: &Header, transport: Transport) -> bool {
        // Nor about any fragment but the first.
        matches!(transport, Transport::Error(_) | Transport::Later { .. })
            || header.offset > 0
            || self.forwarding.is_own(header.source)
            || self.forwarding.is_broadcast(header.source)
            || self.forwarding.is_broadcast(header.destination)
    }

    /// An error about the packet that begins with `quoted`, for its source `receiver` and the
    /// station `to` at `port`, and where its IPv4 header is. `None` if it may not be sent.
    pub(super) fn error(
        &mut self,
        kind: Kind,
        port: usize,
        to: Mac,
        quoted: &[u8],
        receiver: u32,
    ) -> Option<(I::Packet, usize)> {
        let kind = self.telling.as_configured(kind)?;
        let info = &self.forwarding.ports()[port];
        let from = info.address_towards(receiver)?;
        let second = self.now.tick().0 / TICKS_PER_SECOND;
        let link = ethernet::header_len(info.tags);
        let length = link + icmp_error::length_about(quoted);
        let made = match self.telling.allows(info.side, receiver, second) {
            true => self.io.allocate().and_then(|mut error| error.fill(length).then_some(error)),
            false => None,
        };
        let Some(mut error) = made else {
            self.counters.errors_withheld.add(1);
            return None;
        };
        let bytes = error.bytes_mut();
        ethernet::write(bytes, to, info.mac, info.tags, ethernet::IPV4);
        icmp_error::write(&mut bytes[link..], kind, from, quoted);
        Some((error, link))
    }
}
