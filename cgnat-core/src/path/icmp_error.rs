//! ICMP errors about flows of this shard (RFC 5508 sections 4.2 and 4.3).
//!
//! The quoted packet and the error are translated together; type and code stay. An error
//! never creates, refreshes or ends anything (RFC 4787 REQ-12, RFC 5382 REQ-10, RFC 5508
//! REQ-6): what it says is for the host to judge.

use crate::endpoint::{
    ExternalEndpoint, InternalEndpoint, Protocol, RemoteAddress, RemoteEndpoint,
};
use crate::packet::icmp_error::{self, Quote};
use crate::packet::ipv4::{Header, protocol};
use crate::packet::options;
use crate::packet::rewrite::{self, End, NewEndpoint};
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
        let new = match (protocol_of(quote), quote.call) {
            (Some(protocol), _) => self.outward_by_mapping(quote, protocol, now),
            (None, Some(id)) if self.algs.pptp => self.outward_by_call(quote, id, now),
            (None, _) => self.outward_by_hold(quote, now),
        };
        let new = match new {
            Ok(new) => new,
            Err(reason) => return Verdict::Drop(reason),
        };
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

    fn outward_by_mapping(
        &self,
        quote: &Quote,
        protocol: Protocol,
        now: Tick,
    ) -> Result<NewEndpoint, DropReason> {
        let internal = InternalEndpoint::new(quote.destination.0, quote.destination.1);
        let remote = RemoteEndpoint::new(quote.source.0, quote.source.1);
        let key = self.flow_key(internal, protocol, remote);
        let slot = self.find_internal(key, remote, now).ok_or(DropReason::IcmpNoMapping)?;
        if self.mappings[slot].shard != self.id {
            return Err(DropReason::OwnershipViolation);
        }
        Ok(self.mappings[slot].outbound_rewrite())
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
        let new = match (protocol_of(quote), quote.call) {
            (Some(protocol), _) => self.inward_by_mapping(packet, header, quote, protocol, now),
            (None, Some(id)) if self.algs.pptp => self.inward_by_call(quote, id, now),
            (None, _) => self.inward_by_claim(quote, now),
        };
        let new = match new {
            Ok(new) => new,
            Err(reason) => return Verdict::Drop(reason),
        };
        icmp_error::translate(packet, header, quote, End::Source, new);
        if !hairpinned {
            rewrite::decrement_ttl(packet);
        }
        Verdict::ForwardInternal
    }

    /// For the control connection of FTP the quoted sequence number is put back too.
    fn inward_by_mapping(
        &self,
        packet: &mut [u8],
        header: &Header,
        quote: &Quote,
        protocol: Protocol,
        now: Tick,
    ) -> Result<NewEndpoint, DropReason> {
        let external = ExternalEndpoint::new(quote.source.0, quote.source.1);
        let about = RemoteAddress(quote.destination.0);
        let slot = match self.find_external(external, protocol, about) {
            Ok(slot) if !self.mappings[slot].is_expired(now) => slot,
            // An overloaded port, and a flow with somebody else.
            Ok(_) | Err(DropReason::NoMapping | DropReason::Filtered) => {
                return Err(DropReason::IcmpNoMapping);
            }
            Err(reason) => return Err(reason),
        };
        if self.algs.ftp && protocol == Protocol::Tcp && quote.destination.1 == ftp::CONTROL_PORT {
            let sequence = icmp_error::quoted_sequence(packet, header, quote);
            let inner = self.ftp_quoted(slot, quote.destination.0, sequence);
            icmp_error::put_quoted_sequence(packet, header, quote, inner);
        }
        Ok(self.mappings[slot].inbound_rewrite())
    }
}

/// `None` if the quoted packet has no ports.
pub(super) fn protocol_of(quote: &Quote) -> Option<Protocol> {
    match quote.protocol {
        protocol::TCP => Some(Protocol::Tcp),
        protocol::UDP => Some(Protocol::Udp),
        protocol::ICMP => Some(Protocol::Icmp),
        _ => None,
    }
}
