//! What needs no dynamic state: static mappings, and what a bypass rule lets pass.
//!
//! Whichever worker a packet arrives at does the whole of it: no owner, no hand-over, no port
//! block, no timer. So it goes on when tables are full, pools are exhausted or housekeeping
//! stalls. A bypass rule comes before a static mapping, and both before everything dynamic.
//!
//! Always true: untranslated, a packet passes only by a rule that allows it, and the last
//! check before an external port asks that rule again.

use super::Worker;
use super::errors::{told_inside, told_outside};
use super::fragments::identification_of;
use super::handoff::Kind;
use super::io::{PacketBuf, PacketIo};
use crate::config::Side;
use crate::endpoint::IpProtocol;
use crate::packet::icmp_error::fragmentation_needed;
use crate::packet::ipv4::{self, Header, Transport};
use crate::packet::rewrite;
use crate::policy::bypass::Ends;
use crate::space::Static;
use crate::verdict::DropReason;

/// A packet whose header was checked, and where it is.
type Parsed = Result<Transport, DropReason>;

impl<I: PacketIo> Worker<I> {
    /// Takes a packet that has just arrived to its end, if it needs no dynamic state; else it
    /// is returned. Called only if something of the kind is configured.
    pub(super) fn without_state(
        &mut self,
        port: usize,
        packet: I::Packet,
        offset: usize,
        header: &Header,
    ) -> Option<I::Packet> {
        if self.forwarding.is_own(header.destination) {
            return Some(packet);
        }
        let side = self.forwarding.ports()[port].side;
        let bytes = &packet.bytes()[offset..];
        let parsed = match self.needs_call(header) {
            // As of a protocol with ports: the first fragment must show the call.
            true => Err(DropReason::FragmentRefused),
            false => parse(bytes, header),
        };
        if self.is_bypassed(side, header, parsed) {
            self.pass(side, port, packet, offset, header, parsed);
            return None;
        }
        let (Side::Internal, Ok(transport)) = (side, parsed) else {
            return Some(packet);
        };
        if self.forwarding.is_inside(header.destination) {
            return Some(packet);
        }
        let Some(mapping) = self.shard.static_external(header, transport) else {
            return Some(packet);
        };
        self.static_outward(port, packet, offset, (header, transport), (mapping, None));
        None
    }

    /// Sends a packet out by its static mapping. A later fragment takes the `identification`
    /// that its first one left with; that of this packet is returned, unless it was refused.
    fn static_outward(
        &mut self,
        port: usize,
        mut packet: I::Packet,
        offset: usize,
        (header, transport): (&Header, Transport),
        (mapping, identification): (Static, Option<u16>),
    ) -> Option<u16> {
        let hairpin = self.shard.space.contains(header.destination);
        let too_big = match hairpin {
            true => None,
            false => self.too_big_for(
                Side::External,
                header,
                header.destination,
                transport.subscriber(header),
            ),
        };
        let (reason, kind) = match (header.ttl, too_big) {
            (..=1, _) => (Some(DropReason::TtlExpired), told_inside(DropReason::TtlExpired)),
            _ if hairpin && !self.shard.hairpinning => {
                (Some(DropReason::HairpinDisabled), told_inside(DropReason::HairpinDisabled))
            }
            (_, Some(mtu)) => (Some(DropReason::TooBig), Some(fragmentation_needed(mtu))),
            _ => (None, None),
        };
        if let Some(reason) = reason {
            if let Some(kind) = kind {
                self.tell(kind, port, &packet, offset, (header, transport));
            }
            self.refuse(port, packet, reason);
            return None;
        }
        let now = self.now.tick();
        let bytes = &mut packet.bytes_mut()[offset..];
        self.shard.static_outbound(bytes, header, transport, mapping, now);
        if let Some(identification) = identification {
            rewrite::identification(bytes, identification);
        }
        let left_with = identification_of(bytes);
        self.counters.static_outbound.add(1);
        if hairpin {
            let ports = (mapping.to.1, transport.destination_port());
            self.counters.hairpinned.add(1);
            self.hairpin(port, packet, offset, ports);
        } else {
            self.egress(Side::External, packet, offset, transport.subscriber(header));
        }
        Some(left_with)
    }

    /// The first fragment of an outbound datagram, or a later one with the identification that
    /// the first one left with: sent out if it is of a static mapping, else returned.
    ///
    /// # Errors
    /// The packet, if it needs dynamic state.
    pub(super) fn static_part(
        &mut self,
        port: usize,
        packet: I::Packet,
        offset: usize,
        (header, transport): (&Header, Transport),
        identification: Option<u16>,
    ) -> Result<Option<u16>, I::Packet> {
        if self.is_bypassed(Side::Internal, header, Ok(transport)) {
            // By a rule with ports, which only the first one shows: never translated instead.
            self.refuse(port, packet, DropReason::FragmentRefused);
            return Ok(None);
        }
        match self.shard.static_external(header, transport) {
            None => Err(packet),
            Some(mapping) => {
                let about = (header, transport);
                let by = (mapping, identification);
                Ok(self.static_outward(port, packet, offset, about, by))
            }
        }
    }

    /// Takes a packet to an external endpoint to its end, if that is mapped statically; else it
    /// is returned.
    pub(super) fn static_inward(
        &mut self,
        kind: Kind,
        port: usize,
        mut packet: I::Packet,
        offset: usize,
        header: &Header,
        transport: Transport,
    ) -> Option<I::Packet> {
        let mapping = match self.shard.static_internal(header, transport) {
            Some(mapping) => mapping,
            None => return Some(packet),
        };
        let hairpinned = kind == Kind::Hairpin;
        if header.ttl <= 1 && !hairpinned {
            self.tell_expired(port, &packet, offset, (header, transport));
            self.refuse(port, packet, DropReason::TtlExpired);
            return None;
        }
        if let Some(mtu) = self.too_big_for(Side::Internal, header, mapping.to.0, mapping.to.0) {
            let error = fragmentation_needed(mtu);
            self.tell_back(kind, error, port, &mut packet, offset, (header, transport));
            self.refuse(port, packet, DropReason::TooBig);
            return None;
        }
        let bytes = &mut packet.bytes_mut()[offset..];
        self.shard.static_inbound(bytes, header, transport, mapping, hairpinned);
        self.counters.static_inbound.add(1);
        self.egress(Side::Internal, packet, offset, mapping.to.0);
        None
    }

    /// Whether a packet that arrived on `side` passes untranslated. What is addressed to us,
    /// and what claims to come from us, never does.
    fn is_bypassed(&self, side: Side, header: &Header, parsed: Parsed) -> bool {
        let bypass = self.forwarding.bypass();
        if bypass.is_empty() {
            return false;
        }
        let ours = |address| self.shard.space.contains(address) || self.forwarding.is_own(address);
        if ours(header.destination) || ours(header.source) {
            return false;
        }
        // Of an ICMP error the ends alone say nothing about its sender.
        if side == Side::External
            && self.forwarding.is_inside(header.source)
            && !bypass.is_outside(header.source)
        {
            return false;
        }
        ends_of(side, header, parsed).is_some_and(|ends| bypass.allows(&ends))
    }

    /// Sends a packet on as it is, but for its time to live.
    fn pass(
        &mut self,
        from: Side,
        port: usize,
        mut packet: I::Packet,
        offset: usize,
        header: &Header,
        parsed: Parsed,
    ) {
        let (to, host) = match from {
            Side::Internal => (Side::External, header.source),
            Side::External => (Side::Internal, header.destination),
        };
        // About a fragment that is not the first nobody is told (RFC 1812 section 4.3.2.7).
        let told = parsed.ok();
        if header.ttl <= 1 {
            if let Some(transport) = told {
                self.tell_expired(port, &packet, offset, (header, transport));
            }
            return self.refuse(port, packet, DropReason::TtlExpired);
        }
        if let Some(mtu) = self.too_big_for(to, header, header.destination, host) {
            if let Some(transport) = told {
                let kind = fragmentation_needed(mtu);
                self.tell(kind, port, &packet, offset, (header, transport));
            }
            return self.refuse(port, packet, DropReason::TooBig);
        }
        rewrite::decrement_ttl(&mut packet.bytes_mut()[offset..]);
        match from {
            Side::Internal => self.counters.bypassed_outbound.add(1),
            Side::External => self.counters.bypassed_inbound.add(1),
        }
        self.egress(to, packet, offset, host);
    }

    /// The last check's question: whether an untranslated packet may leave an external port.
    #[cold]
    pub(super) fn may_leave_untranslated(&self, packet: &[u8]) -> bool {
        let Ok(header) = ipv4::fields(packet) else {
            return false;
        };
        let parsed = parse(packet, &header);
        ends_of(Side::Internal, &header, parsed)
            .is_some_and(|ends| self.forwarding.bypass().allows(&ends))
    }

    fn tell_expired(
        &mut self,
        port: usize,
        packet: &I::Packet,
        offset: usize,
        about: (&Header, Transport),
    ) {
        if let Some(kind) = told_outside(DropReason::TtlExpired) {
            self.tell(kind, port, packet, offset, about);
        }
    }
}

/// What a packet shows of its transport. Of a fragment nothing is believed, because the others of
/// its datagram do not show it, unless its protocol has no ports anyway.
fn parse(packet: &[u8], header: &Header) -> Parsed {
    match header.is_fragment() && IpProtocol(header.protocol).has_mappings() {
        false => ipv4::transport(packet, header),
        true => Err(DropReason::FragmentRefused),
    }
}

/// The ends of a packet that arrived on `side`, or of the packet that an ICMP error is about:
/// that one went the other way. `None` if the packet must not pass in any case.
fn ends_of(side: Side, header: &Header, parsed: Parsed) -> Option<Ends> {
    let (protocol, source, destination) = match parsed {
        Ok(Transport::Tcp { source, destination, .. } | Transport::Udp { source, destination }) => {
            (
                header.protocol,
                (header.source, Some(source)),
                (header.destination, Some(destination)),
            )
        }
        Ok(Transport::Error(quote)) => {
            let port = |port| IpProtocol(quote.protocol).has_ports().then_some(port);
            // As if it came back: from where the other packet went.
            (
                quote.protocol,
                (quote.destination.0, port(quote.destination.1)),
                (quote.source.0, port(quote.source.1)),
            )
        }
        Ok(
            Transport::Query { .. }
            | Transport::Later { .. }
            | Transport::Portless
            | Transport::Call { .. },
        )
        | Err(DropReason::FragmentRefused | DropReason::ProtocolUnsupported) => {
            (header.protocol, (header.source, None), (header.destination, None))
        }
        Err(_) => return None,
    };
    let (internal, remote) = match side {
        Side::Internal => (source, destination),
        Side::External => (destination, source),
    };
    let protocol = IpProtocol(protocol);
    Some(Ends { internal: internal.0, remote: remote.0, protocol, remote_port: remote.1 })
}
