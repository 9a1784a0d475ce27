//! Fragments other than the first: what the first said of ports goes for them too.
//!
//! They make, refresh and end nothing: the flags and the timer of a datagram are its first
//! fragment's. Inbound ones take the way of all inbound packets as [`Transport::Later`].

use crate::endpoint::{InternalEndpoint, IpProtocol, Protocol, RemoteEndpoint};
use crate::packet::ipv4::{Header, protocol};
use crate::packet::options;
use crate::packet::rewrite::{self, End};
use crate::path::pptp::call_of;
use crate::path::session::any_port;
use crate::policy::filtering::Filtering;
use crate::shard::Shard;
use crate::time::Tick;
use crate::verdict::DropReason;

impl Shard {
    /// Translates a later fragment from a subscriber of this shard, whose datagram has these
    /// source and destination ports and leaves with `identification`; returns what stands for the
    /// external port.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn outbound_fragment(
        &mut self,
        packet: &mut [u8],
        header: &Header,
        ((port, destination), identification): ((u16, u16), u16),
        now: Tick,
    ) -> Result<u16, DropReason> {
        if header.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        if let (protocol::GRE, Some(id)) = (header.protocol, call_of((port, destination))) {
            self.outbound_call(packet, header, id, Some(identification), now)?;
            return Ok(port);
        }
        let protocol = protocol_of(header)?;
        let internal = InternalEndpoint::new(header.source, port);
        let remote = RemoteEndpoint::new(header.destination, destination);
        let key = self.flow_key(internal, protocol, remote);
        // The first fragment had a mapping; it may have ended meanwhile.
        let slot = self.find_internal(key, remote, now);
        let mapping = &self.mappings[slot.ok_or(DropReason::FragmentRefused)?];
        if mapping.shard != self.id {
            return Err(DropReason::OwnershipViolation);
        }
        let new = mapping.outbound_rewrite();
        rewrite::endpoint(packet, header, End::Source, new);
        rewrite::decrement_ttl(packet);
        rewrite::identification(packet, identification);
        if header.has_options() {
            options::hide(&mut packet[..header.header_len], new.address);
        }
        Ok(new.port)
    }

    /// Filtering of a later inbound fragment: as of its first, and it refreshes nothing.
    ///
    /// # Errors
    /// [`DropReason::Filtered`].
    pub(super) fn admit_fragment(
        &mut self,
        mapping: u32,
        remote: RemoteEndpoint,
        now: Tick,
    ) -> Result<(), DropReason> {
        let record = &self.mappings[mapping];
        let filtering = record.filtering();
        let (is_tcp, is_udp) = (record.is_of(Protocol::Tcp), record.is_of(Protocol::Udp));
        let admitted = match filtering {
            Filtering::EndpointIndependent => true,
            _ if is_tcp => {
                self.find_session(mapping, remote, now).is_some()
                    || self.is_permitted(mapping, remote, now)
            }
            Filtering::AddressAndPortDependent if is_udp => {
                self.find_session(mapping, remote, now).is_some()
            }
            _ => self.find_session(mapping, any_port(remote), now).is_some(),
        };
        if admitted { Ok(()) } else { Err(DropReason::Filtered) }
    }

    /// Datagrams in fragments that a subscriber may have under way, if its group says so.
    pub fn fragment_limit(&self, source: u32) -> Option<u32> {
        if !self.groups.limits_fragments() {
            return None;
        }
        self.groups[self.group_of(source)?].limits.fragments()
    }

    /// Remembers that a fragment of a subscriber was refused because it has so many.
    pub fn fragment_refused(&mut self, header: &Header, destination_port: u16, now: Tick) {
        let limit = self.fragment_limit(header.source).unwrap_or(0);
        let flow = (IpProtocol(header.protocol), destination_port);
        self.remember_refusal(DropReason::LimitFragments, header.source, flow, limit, now);
    }

    /// Hash of what the fragments of a datagram have in common.
    pub fn fragment_hash(&self, header: &Header) -> u64 {
        let addresses = u64::from(header.source) << 32 | u64::from(header.destination);
        let rest = u64::from(header.identification) << 8 | u64::from(header.protocol);
        self.key.hash_pair(addresses, rest)
    }

    /// Hash of an address that answers for fragments.
    pub fn party_hash(&self, address: u32) -> u64 {
        self.key.hash(u64::from(address))
    }
}

/// The protocol of a fragment; its datagram's first fragment was of one that is translated.
pub(super) fn protocol_of(header: &Header) -> Result<Protocol, DropReason> {
    match header.protocol {
        protocol::TCP => Ok(Protocol::Tcp),
        protocol::UDP => Ok(Protocol::Udp),
        protocol::ICMP => Ok(Protocol::Icmp),
        _ => Err(DropReason::ProtocolUnsupported),
    }
}
