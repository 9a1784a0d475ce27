//! Through a static mapping, either way.
//!
//! Nothing is looked up but the configuration, and nothing is kept: any worker may do it for
//! any host. So there is nothing to expire, and no table that could be full.

use crate::endpoint::{ExternalEndpoint, InternalEndpoint, Protocol};
use crate::packet::icmp_error;
use crate::packet::ipv4::{Header, Transport, protocol};
use crate::packet::options;
use crate::packet::rewrite::{self, End, NewEndpoint};
use crate::path::icmp_error::protocol_of;
use crate::shard::Shard;
use crate::space::Static;
use crate::time::Tick;

impl Shard {
    /// The static mapping that an outbound packet leaves by; for an ICMP error that of the
    /// packet it is about.
    #[inline]
    pub(crate) fn static_external(&self, header: &Header, transport: Transport) -> Option<Static> {
        let (address, port) = internal_end(header, transport);
        let internal = InternalEndpoint::new(address, port);
        self.space.statics().external_of(internal, protocol_in(header, transport))
    }

    /// The static mapping that a packet to an external endpoint comes in by.
    #[inline]
    pub(crate) fn static_internal(&self, header: &Header, transport: Transport) -> Option<Static> {
        let (address, port) = external_end(header, transport);
        let external = ExternalEndpoint::new(address, port);
        self.space.statics().internal_of(external, protocol_in(header, transport))
    }

    /// Translates the source of a packet that leaves by `mapping`, in place.
    pub(crate) fn static_outbound(
        &mut self,
        packet: &mut [u8],
        header: &Header,
        transport: Transport,
        mapping: Static,
        now: Tick,
    ) {
        let new = NewEndpoint::between(internal_end(header, transport), mapping.to);
        if let Transport::Error(quote) = transport {
            icmp_error::translate(packet, header, &quote, End::Destination, new);
            self.show_sender(packet, header);
        } else {
            rewrite::endpoint(packet, header, End::Source, new);
        }
        rewrite::decrement_ttl(packet);
        if header.has_options() {
            options::hide(&mut packet[..header.header_len], new.address);
        }
        self.clamp_mss_at(new.address, packet, header, transport);
        // Where one host has the address alone, its identifications are unique as they are.
        let from_itself = mapping.is_whole && !matches!(transport, Transport::Error(_));
        // A later fragment has the identification that its first one left with.
        let is_later = matches!(transport, Transport::Later { .. });
        if !header.is_atomic() && !from_itself && !is_later {
            self.renumber(packet, header, now);
        }
    }

    /// Translates the destination of a packet that comes in by `mapping`, in place.
    pub(crate) fn static_inbound(
        &self,
        packet: &mut [u8],
        header: &Header,
        transport: Transport,
        mapping: Static,
        hairpinned: bool,
    ) {
        let new = NewEndpoint::between(external_end(header, transport), mapping.to);
        if let Transport::Error(quote) = transport {
            icmp_error::translate(packet, header, &quote, End::Source, new);
        } else {
            rewrite::endpoint(packet, header, End::Destination, new);
        }
        if !hairpinned {
            rewrite::decrement_ttl(packet);
        }
        self.clamp_mss_at(header.destination, packet, header, transport);
    }
}

/// `None` for a protocol without ports, which has a mapping of whole addresses at most.
fn protocol_in(header: &Header, transport: Transport) -> Option<Protocol> {
    Some(match transport {
        Transport::Later { .. } => match header.protocol {
            protocol::TCP => Protocol::Tcp,
            protocol::UDP => Protocol::Udp,
            _ => Protocol::Icmp,
        },
        Transport::Tcp { .. } => Protocol::Tcp,
        Transport::Udp { .. } => Protocol::Udp,
        Transport::Query { .. } => Protocol::Icmp,
        Transport::Error(quote) => return protocol_of(&quote),
        Transport::Portless | Transport::Call { .. } => return None,
    })
}

/// The internal endpoint that an outbound packet is of.
fn internal_end(header: &Header, transport: Transport) -> (u32, u16) {
    match transport {
        Transport::Tcp { source, .. }
        | Transport::Udp { source, .. }
        | Transport::Later { source, .. } => (header.source, source),
        Transport::Query { identifier, .. } => (header.source, identifier),
        Transport::Call { id } => (header.source, id),
        Transport::Portless => (header.source, 0),
        Transport::Error(quote) => quote.destination,
    }
}

/// The external endpoint that an inbound packet is of.
fn external_end(header: &Header, transport: Transport) -> (u32, u16) {
    match transport {
        Transport::Error(quote) => quote.source,
        _ => (header.destination, transport.destination_port()),
    }
}
