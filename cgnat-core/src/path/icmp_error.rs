//! ICMP errors about flows of this shard (RFC 5508 sections 4.2 and 4.3).
//!
//! The quoted packet and the error are translated together; type and code stay. An error
//! never creates, refreshes or ends anything (RFC 4787 REQ-12, RFC 5382 REQ-10, RFC 5508
//! REQ-6): what it says is for the host to judge.

use crate::endpoint::{
    ExternalEndpoint, FlowKey, InternalEndpoint, Protocol, RemoteAddress, RemoteEndpoint,
};
use crate::packet::icmp_error::{self, Quote};
use crate::packet::ipv4::{Header, protocol};
use crate::packet::options;
use crate::packet::rewrite::{self, End};
use crate::policy::alg::ftp;
use crate::shard::Shard;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};

impl Shard {
    /// An error from the internal side about a packet that went to a subscriber of this
    /// shard. Whoever sent it, the outside sees the flow's external address (REQ-5c).
    pub(super) fn outbound_error(
        &mut self,
        packet: &mut [u8],
        header: &Header,
        quote: &Quote,
        now: Tick,
    ) -> Verdict {
        let internal = InternalEndpoint::new(quote.destination.0, quote.destination.1);
        let key = FlowKey { internal, protocol: protocol_of(quote) };
        let remote = RemoteEndpoint::new(quote.source.0, quote.source.1);
        let Some(slot) = self.find_internal(key, remote, now) else {
            return Verdict::Drop(DropReason::IcmpNoMapping);
        };
        if self.mappings[slot].shard != self.id {
            return Verdict::Drop(DropReason::OwnershipViolation);
        }
        let new = self.mappings[slot].outbound_rewrite();
        icmp_error::translate(packet, header, quote, End::Destination, new);
        self.show_sender(packet, header);
        rewrite::decrement_ttl(packet);
        if !header.is_atomic() {
            self.renumber(packet, header, now);
        }
        if header.has_options() {
            options::hide(&mut packet[..header.header_len], new.address);
        }
        if self.space.contains(header.destination) {
            Verdict::Hairpin
        } else {
            Verdict::ForwardExternal
        }
    }

    /// An error comes from the external address of whoever sent it, if it has one to itself,
    /// else from that of the flow (RFC 5508 REQ-5c).
    pub(super) fn show_sender(&self, packet: &mut [u8], header: &Header) {
        if let Some(own) = self.space.statics().own_address_of(header.source) {
            rewrite::source_address(packet, own);
        }
    }

    /// An error to an external endpoint of this shard about a packet that left from there.
    pub(super) fn inbound_error(
        &mut self,
        packet: &mut [u8],
        header: &Header,
        quote: &Quote,
        hairpinned: bool,
        now: Tick,
    ) -> Verdict {
        let external = ExternalEndpoint::new(quote.source.0, quote.source.1);
        let about = RemoteAddress(quote.destination.0);
        let slot = match self.find_external(external, protocol_of(quote), about) {
            Ok(slot) if !self.mappings[slot].is_expired(now) => slot,
            // An overloaded port, and a flow with somebody else.
            Ok(_) | Err(DropReason::NoMapping | DropReason::Filtered) => {
                return Verdict::Drop(DropReason::IcmpNoMapping);
            }
            Err(reason) => return Verdict::Drop(reason),
        };
        if self.algs.ftp
            && quote.protocol == protocol::TCP
            && quote.destination.1 == ftp::CONTROL_PORT
        {
            let sequence = icmp_error::quoted_sequence(packet, header, quote);
            let inner = self.ftp_quoted(slot, quote.destination.0, sequence);
            icmp_error::put_quoted_sequence(packet, header, quote, inner);
        }
        let new = self.mappings[slot].inbound_rewrite();
        icmp_error::translate(packet, header, quote, End::Source, new);
        if !hairpinned {
            rewrite::decrement_ttl(packet);
        }
        Verdict::ForwardInternal
    }
}

pub(super) fn protocol_of(quote: &Quote) -> Protocol {
    match quote.protocol {
        protocol::TCP => Protocol::Tcp,
        protocol::UDP => Protocol::Udp,
        // The parser lets nothing else pass.
        _ => Protocol::Icmp,
    }
}
