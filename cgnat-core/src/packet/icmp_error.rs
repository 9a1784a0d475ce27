//! ICMP errors and the packet they quote (RFC 792, RFC 4884, RFC 5508 section 4).
//!
//! A quote is the IPv4 header of the packet that caused the error, options included, and at
//! least eight bytes of what followed. Its transport checksum is not verified, because most
//! quotes are cut (RFC 5508 REQ-3c); extensions behind it stay as they are (REQ-3d).

use super::ipv4::{self, Header, protocol};
use super::rewrite::{self, End, NewEndpoint};
use super::{checksum, gre, options, put_u16, put_u32, u16_at, u32_at};
use crate::endpoint::IpProtocol;
use crate::verdict::DropReason;

/// Bytes of an IPv4 header without options.
const IP_HEADER: usize = 20;

/// Bytes of an ICMP header; the quote begins behind it.
const ICMP_HEADER: usize = 8;

/// Bytes of the transport header that a quote holds at least (RFC 792).
const QUOTED: usize = 8;

/// The packet that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Its IP protocol number: TCP, UDP, ICMP for a query, or one without ports.
    pub protocol: u8,
    /// Its source address and port.
    pub source: (u32, u16),
    /// Its destination address and port; for a query both ports are the identifier, without ports 0.
    pub destination: (u32, u16),
    /// Its identification.
    pub identification: u16,
    /// Of GRE of PPTP, the identifier of its receiver's call.
    pub call: Option<u16>,
    /// Length of its IPv4 header, bytes.
    header_len: usize,
    /// Bytes of it that are quoted at most; what comes behind is an extension.
    quoted_len: usize,
    /// It may be filled up with zeros (RFC 4884 section 3).
    padded: bool,
}

/// Bytes of the datagram that carries an error of ours at most (RFC 1812 section 4.3.2.3).
const LARGEST: usize = 576;

/// Type and code of an error that the box itself sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    icmp_type: u8,
    code: u8,
    next_hop_mtu: u16,
}

/// Time to live exceeded in transit (RFC 5508 section 7.2).
pub const TIME_EXCEEDED: Kind = Kind { icmp_type: 11, code: 0, next_hop_mtu: 0 };

/// Host unreachable: a new flow was refused (RFC 6888 REQ-11b).
pub const HOST_UNREACHABLE: Kind = Kind { icmp_type: 3, code: 1, next_hop_mtu: 0 };

/// Fragmentation needed and DF set, with the MTU of the next hop (RFC 1191 section 4, RFC 5508
/// section 7.1).
pub const fn fragmentation_needed(next_hop_mtu: u16) -> Kind {
    Kind { icmp_type: 3, code: 4, next_hop_mtu }
}

/// Port unreachable: a SYN from outside that nobody asked for (RFC 5382 REQ-4).
pub const PORT_UNREACHABLE: Kind = Kind { icmp_type: 3, code: 3, next_hop_mtu: 0 };

/// Communication administratively prohibited (RFC 5508 REQ-8).
pub const ADMIN_PROHIBITED: Kind = Kind { icmp_type: 3, code: 13, next_hop_mtu: 0 };

/// Bytes of the datagram that tells of `packet`, of which this much is at hand.
pub fn length_about(packet: &[u8]) -> usize {
    (IP_HEADER + ICMP_HEADER + packet.len()).min(LARGEST)
}

/// Writes an error from our address `from` about `packet`, which is as it was received, into
/// `into` of [`length_about`] bytes. It has the packet's class of service (RFC 5508 section
/// 7.7) and goes to its source.
pub fn write(into: &mut [u8], kind: Kind, from: u32, packet: &[u8]) {
    let length = into.len();
    into.fill(0);
    into[0] = 0x45;
    into[1] = packet[1] & 0xfc;
    put_u16(into, 2, length as u16);
    // Never fragmented, so its identification is free (RFC 6864 section 4.1).
    put_u16(into, 6, 0x4000);
    into[8] = 64;
    into[9] = protocol::ICMP;
    put_u32(into, 12, from);
    put_u32(into, 16, u32_at(packet, 12));
    let ip_checksum = checksum::full(&into[..IP_HEADER]);
    put_u16(into, 10, ip_checksum);
    let segment = &mut into[IP_HEADER..];
    segment[0] = kind.icmp_type;
    segment[1] = kind.code;
    put_u16(segment, 6, kind.next_hop_mtu);
    let quoted = segment.len() - ICMP_HEADER;
    segment[ICMP_HEADER..].copy_from_slice(&packet[..quoted]);
    let icmp_checksum = checksum::full(segment);
    put_u16(segment, 2, icmp_checksum);
}

/// Whether errors of this type are translated: destination unreachable, time exceeded,
/// parameter problem. Source quench and redirect are not (RFC 5508 REQ-10b1, 10c1).
pub fn is_translated(icmp_type: u8) -> bool {
    matches!(icmp_type, 3 | 11 | 12)
}

/// Reads the quote of an error whose IPv4 `header` was checked. The error must go to the
/// source of the packet it is about: anything else is forged.
///
/// # Errors
/// A wrong ICMP checksum (RFC 5508 REQ-3), a short or impossible quote or one with a wrong
/// header checksum (REQ-3a), a quote of something that is not translated.
pub fn parse(packet: &[u8], header: &Header) -> Result<Quote, DropReason> {
    let segment = &packet[header.header_len..header.total_len];
    if checksum::full(segment) != 0 {
        return Err(DropReason::IcmpChecksum);
    }
    let quoted = segment.get(ICMP_HEADER..).ok_or(DropReason::IcmpQuote)?;
    // With extensions this byte says how many words are quoted (RFC 4884 section 4).
    let words = usize::from(segment[5]);
    let quoted = if words > 0 { &quoted[..quoted.len().min(words * 4)] } else { quoted };
    let header_len = ipv4::quoted_header_len(quoted).ok_or(DropReason::IcmpQuote)?;
    if quoted.len() < header_len + QUOTED || checksum::full(&quoted[..header_len]) != 0 {
        return Err(DropReason::IcmpQuote);
    }
    if header_len > IP_HEADER {
        options::check(&quoted[..header_len]).map_err(|reason| match reason {
            // Nothing that passed here can have had one (RFC 5508 section 7.3).
            DropReason::SourceRoute => DropReason::SourceRoute,
            _ => DropReason::IcmpQuote,
        })?;
    }
    // Without the first fragment there are no ports.
    if u16_at(quoted, 6) & 0x1fff != 0 {
        return Err(DropReason::IcmpQuote);
    }
    let transport = &quoted[header_len..];
    let (source_port, destination_port) = match quoted[9] {
        protocol::TCP | protocol::UDP => (u16_at(transport, 0), u16_at(transport, 2)),
        // Errors about queries, never about errors.
        protocol::ICMP if ipv4::query(transport).is_some() => {
            (u16_at(transport, 4), u16_at(transport, 4))
        }
        other if IpProtocol(other).is_portless() => (0, 0),
        _ => return Err(DropReason::IcmpQuote),
    };
    let (source, destination) = (u32_at(quoted, 12), u32_at(quoted, 16));
    if source != header.destination {
        return Err(DropReason::IcmpQuote);
    }
    let call = match quoted[9] {
        protocol::GRE => gre::call(transport).ok().flatten(),
        _ => None,
    };
    Ok(Quote {
        protocol: quoted[9],
        identification: u16_at(quoted, 4),
        call,
        source: (source, source_port),
        destination: (destination, destination_port),
        header_len,
        quoted_len: quoted.len(),
        padded: words > 0,
    })
}

/// Sequence number of the TCP packet that is quoted: it is in the eight bytes that are always
/// there.
pub fn quoted_sequence(packet: &[u8], header: &Header, quote: &Quote) -> u32 {
    u32_at(packet, header.header_len + ICMP_HEADER + quote.header_len + 4)
}

/// Gives the TCP packet that is quoted another sequence number. The checksum of the error is
/// for [`translate`] to put right, which follows.
pub fn put_quoted_sequence(packet: &mut [u8], header: &Header, quote: &Quote, new: u32) {
    let first = header.header_len + ICMP_HEADER + quote.header_len;
    let end = header.header_len + ICMP_HEADER + quote.quoted_len;
    let transport = &mut packet[first..end];
    let delta = checksum::Delta::NONE.address(u32_at(transport, 4), new);
    put_u32(transport, 4, new);
    if transport.len() >= 18 && !(quote.padded && u16_at(transport, 16) == 0) {
        let updated = delta.apply(u16_at(transport, 16));
        put_u16(transport, 16, updated);
    }
}

/// Rewrites `end` of the quoted packet to `new`, whose port is 0 or a call's identifier if it is
/// GRE, and the other end of the error itself to the same address: an error goes to the source of
/// what it is about, and comes, as the outside sees it, from its destination (RFC 5508 REQ-4,
/// REQ-5).
pub fn translate(packet: &mut [u8], header: &Header, quote: &Quote, end: End, new: NewEndpoint) {
    let (address_at, port_at, outer_at) = match end {
        End::Source => (12, 0, 16),
        End::Destination => (16, 2, 12),
    };
    let outer_delta = checksum::Delta::NONE.address(u32_at(packet, outer_at), new.address);
    put_u32(packet, outer_at, new.address);
    let ip_checksum = outer_delta.apply(u16_at(packet, 10));
    put_u16(packet, 10, ip_checksum);

    let segment = &mut packet[header.header_len..header.total_len];
    let quoted = &mut segment[ICMP_HEADER..ICMP_HEADER + quote.quoted_len];
    put_u32(quoted, address_at, new.address);
    let quoted_checksum = new.address_delta.apply(u16_at(quoted, 10));
    put_u16(quoted, 10, quoted_checksum);
    if end == End::Destination && quote.header_len > IP_HEADER {
        // What was recorded on its way inside stays inside (RFC 5508 REQ-5c).
        options::hide(&mut quoted[..quote.header_len], new.address);
    }
    let transport = &mut quoted[quote.header_len..];
    let both = new.address_delta.plus(new.port_delta);
    match quote.protocol {
        protocol::TCP => {
            put_u16(transport, port_at, new.port);
            // A checksum of 0 behind a cut is padding and stays (RFC 5508 REQ-3d).
            if transport.len() >= 18 && !(quote.padded && u16_at(transport, 16) == 0) {
                let updated = both.apply(u16_at(transport, 16));
                put_u16(transport, 16, updated);
            }
        }
        protocol::UDP => {
            put_u16(transport, port_at, new.port);
            let old = u16_at(transport, 6);
            if old != 0 {
                let updated = both.apply(old);
                put_u16(transport, 6, if updated == 0 { 0xffff } else { updated });
            }
        }
        protocol::ICMP => {
            put_u16(transport, 4, new.port);
            rewrite::icmp_checksum(transport, new.port_delta);
        }
        protocol::GRE => {
            if new.port != 0 {
                gre::set_call(transport, new.port);
            }
        }
        other => rewrite::portless_checksum(transport, other, new.address_delta),
    }
    put_u16(segment, 2, 0);
    let icmp_checksum = checksum::full(segment);
    put_u16(segment, 2, icmp_checksum);
}
