//! Rewriting in place: addresses, ports, TTL and their checksums, by RFC 1624.
//!
//! The caller has parsed the packet; offsets come from the checked [`Header`].

use super::checksum::Delta;
use super::ipv4::{Header, protocol};
use super::{put_u16, put_u32, u16_at, u32_at};

/// Which end of the packet changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The source: outbound.
    Source,
    /// The destination: inbound.
    Destination,
}

/// A new address and port for one end, with the deltas that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewEndpoint {
    /// New address.
    pub address: u32,
    /// New port, or query identifier.
    pub port: u16,
    /// Change of the address words.
    pub address_delta: Delta,
    /// Change of the port word.
    pub port_delta: Delta,
}

impl NewEndpoint {
    /// From old to new endpoint.
    pub fn between(old: (u32, u16), new: (u32, u16)) -> Self {
        Self {
            address: new.0,
            port: new.1,
            address_delta: Delta::NONE.address(old.0, new.0),
            port_delta: Delta::NONE.word(old.1, new.1),
        }
    }
}

/// Rewrites `end` of `packet` to `new`, with the IPv4 and the transport checksum.
///
/// A UDP checksum of 0 means "none" and stays 0; one that becomes 0 is written as 0xffff
/// (RFC 768). ICMP has no pseudo-header, so only the identifier changes its checksum.
pub fn endpoint(packet: &mut [u8], header: &Header, end: End, new: NewEndpoint) {
    let (address_at, port_at) = match end {
        End::Source => (12, 0),
        End::Destination => (16, 2),
    };
    put_u32(packet, address_at, new.address);
    let ip_checksum = new.address_delta.apply(u16_at(packet, 10));
    put_u16(packet, 10, ip_checksum);

    if header.offset > 0 {
        // The checksum of a datagram is in its first fragment, and covers the addresses once.
        return;
    }
    let segment = &mut packet[header.header_len..];
    match header.protocol {
        protocol::TCP => {
            put_u16(segment, port_at, new.port);
            let delta = new.address_delta.plus(new.port_delta);
            let updated = delta.apply(u16_at(segment, 16));
            put_u16(segment, 16, updated);
        }
        protocol::UDP => {
            put_u16(segment, port_at, new.port);
            let old = u16_at(segment, 6);
            if old != 0 {
                let delta = new.address_delta.plus(new.port_delta);
                let updated = delta.apply(old);
                put_u16(segment, 6, if updated == 0 { 0xffff } else { updated });
            }
        }
        protocol::ICMP => {
            put_u16(segment, 4, new.port);
            icmp_checksum(segment, new.port_delta);
        }
        _ => portless_checksum(segment, header.protocol, new.address_delta),
    }
}

/// Updates the checksum of a protocol that is translated by its addresses alone, if it covers
/// them: UDP-Lite always has one (RFC 3828 section 3.1), and so has DCCP (RFC 4340 section 9).
/// What is cut before its end stays as it is.
#[cold]
pub(super) fn portless_checksum(segment: &mut [u8], protocol: u8, delta: Delta) {
    if !matches!(protocol, protocol::UDP_LITE | protocol::DCCP) || segment.len() < 8 {
        return;
    }
    let updated = delta.apply(u16_at(segment, 6));
    let is_none = updated == 0 && protocol == protocol::UDP_LITE;
    put_u16(segment, 6, if is_none { 0xffff } else { updated });
}

/// Gives a packet without a pseudo-header, which is ICMP, another source address.
pub fn source_address(packet: &mut [u8], new: u32) {
    let checksum = Delta::NONE.address(u32_at(packet, 12), new).apply(u16_at(packet, 10));
    put_u32(packet, 12, new);
    put_u16(packet, 10, checksum);
}

/// Gives a packet another identification.
pub fn identification(packet: &mut [u8], new: u16) {
    let checksum = Delta::NONE.word(u16_at(packet, 4), new).apply(u16_at(packet, 10));
    put_u16(packet, 4, new);
    put_u16(packet, 10, checksum);
}

/// Undoes [`decrement_ttl`].
pub fn restore_ttl(packet: &mut [u8]) {
    let old = u16_at(packet, 8);
    let new = old.saturating_add(0x0100);
    put_u16(packet, 8, new);
    let checksum = Delta::NONE.word(old, new).apply(u16_at(packet, 10));
    put_u16(packet, 10, checksum);
}

/// Takes one off the time to live. The caller has checked that it is above 1.
pub fn decrement_ttl(packet: &mut [u8]) {
    let old = u16_at(packet, 8);
    let new = old - 0x0100;
    put_u16(packet, 8, new);
    let checksum = Delta::NONE.word(old, new).apply(u16_at(packet, 10));
    put_u16(packet, 10, checksum);
}

/// Turns an ICMP echo request for us into its reply: addresses swapped, type 0, TTL 64.
pub fn echo_reply(packet: &mut [u8], header: &Header) {
    let (source, destination) = (u32_at(packet, 12), u32_at(packet, 16));
    put_u32(packet, 12, destination);
    put_u32(packet, 16, source);
    let old = u16_at(packet, 8);
    let new = 64 << 8 | old & 0xff;
    put_u16(packet, 8, new);
    let checksum = Delta::NONE.word(old, new).apply(u16_at(packet, 10));
    put_u16(packet, 10, checksum);
    let segment = &mut packet[header.header_len..];
    segment[0] = 0;
    icmp_checksum(segment, Delta::NONE.word(0x0800, 0));
}

/// Updates an ICMP checksum. Without a pseudo-header a message may be all zero (an echo
/// reply with identifier 0); its checksum is 0xffff, where RFC 1624 cannot tell it from 0.
pub(super) fn icmp_checksum(segment: &mut [u8], delta: Delta) {
    let updated = delta.apply(u16_at(segment, 2));
    put_u16(segment, 2, updated);
    if updated == 0 && segment.iter().all(|byte| *byte == 0) {
        put_u16(segment, 2, 0xffff);
    }
}
