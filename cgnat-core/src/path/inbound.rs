//! Inbound: a packet to an external endpoint, from the Internet or hairpinned.
//!
//! By default filtering is endpoint independent (RFC 6888 REQ-7): whoever sends to a mapped
//! external endpoint reaches the subscriber; and inbound packets do not refresh UDP and ICMP
//! mappings (RFC 4787 REQ-6a leaves that open; an outsider must not keep a mapping alive).

use crate::endpoint::{ExternalEndpoint, Protocol, RemoteAddress, RemoteEndpoint};
use crate::packet::ipv4::{Header, Transport, protocol};
use crate::packet::rewrite::{self, End};
use crate::packet::tcp::Segment;
use crate::path::fragments::protocol_of;
use crate::path::pptp::call_of;
use crate::policy::alg::{ftp, pptp};
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::space::Location;
use crate::table::port_block::PortUse;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};

impl Shard {
    /// Translates a packet to an external endpoint of this shard in place.
    ///
    /// A `hairpinned` packet comes from a subscriber; its source is translated already and
    /// its time to live was counted on the way out.
    pub fn inbound(
        &mut self,
        packet: &mut [u8],
        header: &Header,
        transport: Transport,
        hairpinned: bool,
        now: Tick,
    ) -> Verdict {
        if header.ttl <= 1 && !hairpinned {
            return Verdict::Drop(DropReason::TtlExpired);
        }
        if let Transport::Error(quote) = transport {
            return self.inbound_error(packet, header, &quote, hairpinned, now);
        }
        let (protocol, source, destination) = match transport {
            Transport::Tcp { source, destination, .. } => (Protocol::Tcp, source, destination),
            Transport::Udp { source, destination } => (Protocol::Udp, source, destination),
            Transport::Query { request: true, .. } => {
                return Verdict::Drop(DropReason::IcmpNoQuery);
            }
            Transport::Query { identifier, .. } => (Protocol::Icmp, identifier, identifier),
            Transport::Call { id } => {
                return self.inbound_call(packet, header, id, hairpinned, now);
            }
            Transport::Later { source, destination } if header.protocol == protocol::GRE => {
                return match call_of((source, destination)) {
                    Some(id) => self.inbound_call(packet, header, id, hairpinned, now),
                    None => Verdict::Drop(DropReason::ProtocolUnsupported),
                };
            }
            Transport::Later { source, destination } => match protocol_of(header) {
                Ok(protocol) => (protocol, source, destination),
                Err(reason) => return Verdict::Drop(reason),
            },
            Transport::Portless => return self.inbound_portless(packet, header, hairpinned, now),
            Transport::Error(_) => unreachable!("errors have their own way"),
        };
        let external = ExternalEndpoint::new(header.destination, destination);
        let remote = RemoteEndpoint::new(header.source, source);
        let slot = match self.find_external(external, protocol, remote.address) {
            Ok(slot) => slot,
            Err(reason) => return Verdict::Drop(reason),
        };
        if self.mappings[slot].is_expired(now) {
            return Verdict::Drop(DropReason::NoMapping);
        }
        if self.is_of_other_realm(slot, protocol, remote) {
            return Verdict::Drop(DropReason::Filtered);
        }
        let noted = match transport {
            Transport::Tcp { segment, .. } if self.algs.any() => {
                self.alg_inbound(slot, packet, header, segment, remote, now)
            }
            _ => self.note_inbound(slot, transport, remote, now),
        };
        if let Err(reason) = noted {
            return Verdict::Drop(reason);
        }
        rewrite::endpoint(packet, header, End::Destination, self.mappings[slot].inbound_rewrite());
        if !hairpinned {
            rewrite::decrement_ttl(packet);
        }
        self.clamp_mss(slot, packet, header, transport);
        Verdict::ForwardInternal
    }

    /// What the ALG of a segment's source port does with it, and with its session.
    fn alg_inbound(
        &mut self,
        slot: u32,
        packet: &mut [u8],
        header: &Header,
        segment: Segment,
        remote: RemoteEndpoint,
        now: Tick,
    ) -> Result<(), DropReason> {
        match remote.port {
            ftp::CONTROL_PORT if self.algs.ftp => {
                self.ftp_inbound(slot, packet, header, segment, remote.address, now)
            }
            pptp::CONTROL_PORT if self.algs.pptp => {
                self.pptp_inbound(slot, packet, header, segment, remote.address, now)
            }
            _ => self.note_tcp(slot, remote, &segment, Sender::External, now),
        }
    }

    /// The internal address that an inbound packet will get, if it has a mapping. Changes
    /// nothing.
    pub fn internal_address(
        &self,
        header: &Header,
        transport: Transport,
        now: Tick,
    ) -> Option<u32> {
        let protocol = match transport {
            Transport::Tcp { .. } => Protocol::Tcp,
            Transport::Udp { .. } => Protocol::Udp,
            Transport::Query { request: false, .. } => Protocol::Icmp,
            Transport::Call { id: destination } | Transport::Later { destination, .. }
                if header.protocol == protocol::GRE =>
            {
                return self.callee(header, destination, now).ok().map(|(internal, _)| internal);
            }
            Transport::Later { .. } => protocol_of(header).ok()?,
            Transport::Portless => return self.claimant(header, now),
            Transport::Query { .. } | Transport::Error(_) | Transport::Call { .. } => return None,
        };
        let external = ExternalEndpoint::new(header.destination, transport.destination_port());
        let mapping = &self.mappings
            [self.find_external(external, protocol, RemoteAddress(header.source)).ok()?];
        (!mapping.is_expired(now)).then(|| mapping.key().internal.address.0)
    }

    /// An inbound packet of a mapping that exists: filtering, TCP state, and timers if they are
    /// configured to hear of it. A packet that is refused refreshes nothing (RFC 7857
    /// section 7).
    fn note_inbound(
        &mut self,
        slot: u32,
        transport: Transport,
        remote: RemoteEndpoint,
        now: Tick,
    ) -> Result<(), DropReason> {
        if let Transport::Tcp { segment, .. } = transport {
            return self.note_tcp(slot, remote, &segment, Sender::External, now);
        }
        if let Transport::Later { .. } = transport {
            return self.admit_fragment(slot, remote, now);
        }
        if !self.mappings[slot].has_sessions() && !self.inbound_refresh {
            return Ok(());
        }
        let timeout_s = self.idle_timeout_s(transport, remote);
        if self.mappings[slot].has_sessions() {
            return self.note_flow(slot, remote, Sender::External, timeout_s, now);
        }
        self.mappings[slot].prolong(now.plus_seconds(timeout_s));
        Ok(())
    }

    /// Slot of the mapping of an external endpoint: by arithmetic, without hashing; of an
    /// overloaded one, that of the flow with the remote address.
    pub(super) fn find_external(
        &self,
        external: ExternalEndpoint,
        protocol: Protocol,
        remote: RemoteAddress,
    ) -> Result<u32, DropReason> {
        let block = match self.space.locate(external) {
            Location::Block(block) => block,
            Location::NotLent => return Err(DropReason::PortNotLent),
            Location::Elsewhere => return Err(DropReason::DestinationUnknown),
        };
        let Some(lease) = &self.leases[block as usize] else {
            return Err(DropReason::NoMapping);
        };
        if lease.shard() != self.id {
            return Err(DropReason::OwnershipViolation);
        }
        let slot = match lease.port_use(protocol, external.port) {
            PortUse::Mapping(slot) => slot,
            PortUse::Overloaded(_) => {
                let flow = self.find_flow_from(external, protocol, remote);
                flow.ok_or(DropReason::Filtered)?
            }
            _ => return Err(DropReason::NoMapping),
        };
        let mapping = &self.mappings[slot];
        let is_it = mapping.external() == external
            && mapping.is_of(protocol)
            && mapping.generation & 1 == 1
            && mapping.shard == self.id;
        if is_it { Ok(slot) } else { Err(DropReason::OwnershipViolation) }
    }
}
