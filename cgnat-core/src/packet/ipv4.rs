//! IPv4 header checks on receive and the transport fields a NAT needs, in one pass.
//!
//! RFC 1812 section 5.2.2 lists the header checks; section 5.3.7 the addresses that are
//! never forwarded. The transport checksum is not verified: a NAT that updates it
//! incrementally passes an error on for the receiver to find (RFC 1624).

use super::icmp_error::{self, Quote};
use super::tcp::{self, Segment};
use super::{checksum, options, u16_at, u32_at};
use crate::endpoint::IpProtocol;
use crate::verdict::DropReason;

/// IP protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// GRE.
    pub const GRE: u8 = 47;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// A checked IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Header length, bytes, 20 to 60.
    pub header_len: usize,
    /// Total length, bytes; the frame holds at least as many.
    pub total_len: usize,
    /// Time to live.
    pub ttl: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Identification; means nothing in an atomic packet (RFC 6864 section 4.1).
    pub identification: u16,
    /// DF: must not be fragmented.
    pub dont_fragment: bool,
    /// MF: more fragments follow.
    pub more_fragments: bool,
    /// Where the payload lies in its datagram, bytes.
    pub offset: usize,
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
}

impl Header {
    /// Whether this is a part of a datagram.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.offset > 0
    }

    /// Neither fragmented nor to be fragmented (RFC 6864 section 4): the identification is free.
    pub fn is_atomic(&self) -> bool {
        self.dont_fragment && !self.is_fragment()
    }

    /// Whether there is more than the fixed part; nearly no packet has it.
    #[inline]
    pub fn has_options(&self) -> bool {
        self.header_len > 20
    }
}

/// ICMP queries that are translated. They share one space of identifiers (RFC 5508 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// Types 8 and 0.
    Echo,
    /// Types 13 and 14.
    Timestamp,
}

/// What the transport header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Flags and sequence numbers.
        segment: Segment,
    },
    /// UDP.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP query or the reply to one.
    Query {
        /// What is asked.
        query: Query,
        /// Not the reply.
        request: bool,
        /// Query identifier.
        identifier: u16,
    },
    /// ICMP error, with the packet that it is about.
    Error(Quote),
    /// A fragment behind the first, with what the first said; for ICMP both are the query
    /// identifier.
    Later {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// A packet, or any fragment, of a protocol that is translated by its addresses alone.
    Portless,
    /// GRE of PPTP, where that is followed.
    Call {
        /// The receiver's identifier of its call.
        id: u16,
    },
}

/// Stands for the source port in what is kept for the fragments of [`Transport::Call`].
pub const CALL: u16 = 1723;

impl Transport {
    /// The tuple (external address, remote address, protocol) that an inbound packet, or the
    /// packet that an inbound error is about, belongs to, if it has no ports.
    pub fn tuple(self, header: &Header) -> Option<(u32, u32, u8)> {
        match self {
            Transport::Portless => Some((header.destination, header.source, header.protocol)),
            Transport::Error(quote) if IpProtocol(quote.protocol).is_portless() => {
                Some((quote.source.0, quote.destination.0, quote.protocol))
            }
            _ => None,
        }
    }

    /// Port of the external endpoint that an inbound packet is for: its destination port or
    /// query identifier, or the source port of the packet that an error is about.
    pub fn destination_port(self) -> u16 {
        match self {
            Transport::Tcp { destination, .. }
            | Transport::Udp { destination, .. }
            | Transport::Later { destination, .. } => destination,
            Transport::Query { identifier, .. } => identifier,
            Transport::Call { id } => id,
            Transport::Error(quote) => quote.source.1,
            // No block holds port 0.
            Transport::Portless => 0,
        }
    }

    /// Source and destination port; twice the query identifier. An error has none.
    pub fn ports(self) -> (u16, u16) {
        match self {
            Transport::Tcp { source, destination, .. }
            | Transport::Udp { source, destination }
            | Transport::Later { source, destination } => (source, destination),
            Transport::Query { identifier, .. } => (identifier, identifier),
            Transport::Call { id } => (CALL, id),
            Transport::Error(_) | Transport::Portless => (0, 0),
        }
    }

    /// The internal address that a packet from the internal side belongs to: its source, or
    /// the subscriber that an error is about.
    pub fn subscriber(self, header: &Header) -> u32 {
        match self {
            Transport::Error(quote) => quote.destination.0,
            _ => header.source,
        }
    }
}

/// Checks the header at the start of `packet`, its checksum and its addresses.
///
/// # Errors
/// The first check that failed.
pub fn header(packet: &[u8]) -> Result<Header, DropReason> {
    let header = fields(packet)?;
    if checksum::full(&packet[..header.header_len]) != 0 {
        return Err(DropReason::IpChecksum);
    }
    if header.has_options() {
        options::check(&packet[..header.header_len])?;
    }
    if is_martian(header.source) || header.source == header.destination {
        return Err(DropReason::SourceMartian);
    }
    if is_martian(header.destination) {
        return Err(DropReason::DestinationMartian);
    }
    Ok(header)
}

/// Reads header and transport of a packet that passed [`header`] and [`transport`] earlier,
/// here or at another worker; its addresses may have been translated since. `ports` are those
/// of the datagram, if this is a fragment behind its first.
///
/// # Errors
/// If lengths are impossible all the same.
pub fn reread(
    packet: &[u8],
    (source, destination): (u16, u16),
) -> Result<(Header, Transport), DropReason> {
    let header = fields(packet)?;
    let is_call = header.protocol == protocol::GRE && source == CALL;
    if header.offset > 0 && (IpProtocol(header.protocol).has_mappings() || is_call) {
        return Ok((header, Transport::Later { source, destination }));
    }
    let transport = transport(packet, &header)?;
    Ok((header, transport))
}

/// Source and destination of a packet, as they stand there.
pub fn addresses(packet: &[u8]) -> Option<(u32, u32)> {
    (packet.len() >= 20).then(|| (u32_at(packet, 12), u32_at(packet, 16)))
}

/// Length of a packet whose header was checked.
pub fn total_len(packet: &[u8]) -> usize {
    usize::from(u16_at(packet, 2))
}

/// The fields of a header whose version and lengths are possible.
///
/// # Errors
/// The first of them that is not.
pub fn fields(packet: &[u8]) -> Result<Header, DropReason> {
    if packet.len() < 20 {
        return Err(DropReason::IpShort);
    }
    if packet[0] >> 4 != 4 {
        return Err(DropReason::IpVersion);
    }
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    if header_len < 20 || header_len > packet.len() {
        return Err(DropReason::IpHeaderLength);
    }
    let total_len = usize::from(u16_at(packet, 2));
    if total_len < header_len || total_len > packet.len() {
        return Err(DropReason::IpTotalLength);
    }
    let word = u16_at(packet, 6);
    Ok(Header {
        header_len,
        total_len,
        ttl: packet[8],
        protocol: packet[9],
        identification: u16_at(packet, 4),
        // The reserved bit does not matter.
        dont_fragment: word & 0x4000 != 0,
        more_fragments: word & 0x2000 != 0,
        offset: usize::from(word & 0x1fff) * 8,
        source: u32_at(packet, 12),
        destination: u32_at(packet, 16),
    })
}

/// Length of the IPv4 header that an ICMP error quotes, if there is one.
pub(super) fn quoted_header_len(quoted: &[u8]) -> Option<usize> {
    let first = *quoted.first()?;
    let header_len = usize::from(first & 0x0f) * 4;
    (first >> 4 == 4 && header_len >= 20 && header_len <= quoted.len()).then_some(header_len)
}

/// 0/8, 127/8, 224/4, 240/4 (RFC 1812 section 5.3.7, RFC 6890).
pub fn is_martian(address: u32) -> bool {
    matches!(address >> 24, 0 | 127 | 224..)
}

/// Checks a fragment by itself.
///
/// # Errors
/// If it holds nothing, ends inside a unit of eight bytes without being the last, reaches
/// beyond the largest datagram, or begins inside a TCP header (RFC 1858, RFC 3128).
pub fn check_fragment(header: &Header) -> Result<(), DropReason> {
    let len = header.total_len - header.header_len;
    if len == 0 || (header.more_fragments && !len.is_multiple_of(8)) {
        return Err(DropReason::FragmentLength);
    }
    if header.header_len + header.offset + len > usize::from(u16::MAX) {
        return Err(DropReason::FragmentBeyond);
    }
    if header.protocol == protocol::TCP && (1..TCP_HEADER).contains(&header.offset) {
        return Err(DropReason::FragmentTiny);
    }
    Ok(())
}

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;

/// Reads the transport header of a `packet` whose `header` was checked and that is no fragment
/// behind the first of its datagram, unless its protocol is one without ports. The first must hold the whole transport header.
///
/// # Errors
/// A protocol that is not translated, a short header, an impossible length, a port 0.
pub fn transport(packet: &[u8], header: &Header) -> Result<Transport, DropReason> {
    let segment = &packet[header.header_len..header.total_len];
    let is_part = header.more_fragments;
    let truncated = if is_part { DropReason::FragmentTiny } else { DropReason::TransportTruncated };
    match header.protocol {
        protocol::TCP => {
            let read = tcp::segment(segment).ok_or(truncated)?;
            let (source, destination) = ports(segment)?;
            Ok(Transport::Tcp { source, destination, segment: read })
        }
        protocol::UDP => {
            if segment.len() < 8 {
                return Err(truncated);
            }
            let length = usize::from(u16_at(segment, 4));
            if length < 8 || (length > segment.len() && !is_part) {
                return Err(DropReason::TransportTruncated);
            }
            let (source, destination) = ports(segment)?;
            Ok(Transport::Udp { source, destination })
        }
        protocol::ICMP => {
            if segment.len() < 8 {
                return Err(truncated);
            }
            if icmp_error::is_translated(segment[0]) && is_part {
                // The quoted packet would be in pieces (RFC 5508 section 4 needs it whole).
                return Err(DropReason::FragmentError);
            }
            if icmp_error::is_translated(segment[0]) {
                return icmp_error::parse(packet, header).map(Transport::Error);
            }
            let Some((query, request)) = query(segment) else {
                return Err(untranslated(segment[0]));
            };
            if query == Query::Timestamp && segment.len() < TIMESTAMP_LEN {
                return Err(truncated);
            }
            Ok(Transport::Query { query, request, identifier: u16_at(segment, 4) })
        }
        _ => portless(segment, header),
    }
}

/// Bytes of the part of UDP-Lite and DCCP headers that ends with the checksum (RFC 3828 section
/// 3.1, RFC 4340 section 5.1).
const CHECKSUMMED: usize = 8;

/// A packet or fragment of a protocol that is translated by its addresses alone.
#[cold]
fn portless(segment: &[u8], header: &Header) -> Result<Transport, DropReason> {
    if !IpProtocol(header.protocol).is_portless() {
        return Err(DropReason::ProtocolUnsupported);
    }
    if header.is_fragment() {
        check_fragment(header)?;
    }
    let covers_addresses = matches!(header.protocol, protocol::UDP_LITE | protocol::DCCP);
    if covers_addresses && header.offset == 0 && segment.len() < CHECKSUMMED {
        return Err(DropReason::TransportTruncated);
    }
    Ok(Transport::Portless)
}

/// Bytes of a timestamp query (RFC 792).
const TIMESTAMP_LEN: usize = 20;

/// Which query an ICMP message is, and whether it asks.
pub(super) fn query(message: &[u8]) -> Option<(Query, bool)> {
    match message[..2] {
        [8, 0] => Some((Query::Echo, true)),
        [0, 0] => Some((Query::Echo, false)),
        [13, 0] => Some((Query::Timestamp, true)),
        [14, 0] => Some((Query::Timestamp, false)),
        _ => None,
    }
}

/// Why an ICMP message of this type is not translated (RFC 5508 REQ-10b, REQ-10c, REQ-11).
fn untranslated(icmp_type: u8) -> DropReason {
    match icmp_type {
        4 => DropReason::IcmpSourceQuench,
        5 => DropReason::IcmpRedirect,
        9 | 10 => DropReason::IcmpRouterDiscovery,
        15 | 16 => DropReason::IcmpInformation,
        17 | 18 => DropReason::IcmpAddressMask,
        _ => DropReason::IcmpUnsupported,
    }
}

/// Source and destination port of TCP or UDP.
fn ports(segment: &[u8]) -> Result<(u16, u16), DropReason> {
    let (source, destination) = (u16_at(segment, 0), u16_at(segment, 2));
    if source == 0 || destination == 0 {
        return Err(DropReason::PortZero);
    }
    Ok((source, destination))
}
