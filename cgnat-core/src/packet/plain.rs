//! Packets as nearly all are: whole, without IPv4 options, UDP or TCP.
//!
//! What is read here passes every check of [`super::ipv4`]; the other way round is not promised.
//! So a packet that is no plain one is looked at there, which says what is wrong with it, if
//! anything is.

use super::checksum::Delta;
use super::ipv4::{Header, Transport, protocol};
use super::rewrite::{End, NewEndpoint};
use super::tcp::{self, flags};
use super::{put_u16, put_u32, u16_at, u32_at};

/// Bytes of the IPv4 header.
const IP: usize = 20;

/// Bytes of IPv4 and UDP header: no plain packet has less.
pub const IP_UDP: usize = IP + 8;

/// Bytes of IPv4 and TCP header without options.
const IP_TCP: usize = IP + 20;

/// Change of the checksum when the time to live, the upper half of its word, goes down by one.
const TTL_DELTA: Delta = Delta::NONE.word(0x0100, 0);

/// Bits of [`Plain::facts`] above the length.
const IS_TCP: u32 = 1 << 16;
const IS_SYN: u32 = 1 << 17;
const IS_ATOMIC: u32 = 1 << 18;

/// Such a packet.
// What is smaller than a word shares one: apart they would be kept on the stack, and be put
// together and taken apart again on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port, and destination port in the lower half.
    ports: u32,
    /// Length in bytes, and the bits.
    facts: u32,
}

impl Plain {
    /// Source port.
    #[inline]
    pub fn source_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// Destination port.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        self.ports as u16
    }

    /// Length, bytes.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(self.facts as u16)
    }

    /// TCP, neither FIN nor RST; or UDP.
    #[inline]
    pub fn is_tcp(&self) -> bool {
        self.facts & IS_TCP != 0
    }

    /// TCP with SYN and without ACK: it may begin a session, and belongs to none that exists.
    #[inline]
    pub fn is_syn(&self) -> bool {
        self.facts & IS_SYN != 0
    }

    /// Not to be fragmented: its identification is free (RFC 6864 section 4).
    #[inline]
    pub fn is_atomic(&self) -> bool {
        self.facts & IS_ATOMIC != 0
    }

    /// What [`super::ipv4`] would say of the same packet; `None` if it would refuse it.
    #[inline]
    pub fn read_whole(&self, packet: &[u8]) -> Option<(Header, Transport)> {
        let (source, destination) = (self.source_port(), self.destination_port());
        let transport = match self.is_tcp() {
            true => {
                let segment = tcp::segment(packet.get(IP..self.total_len())?)?;
                Transport::Tcp { source, destination, segment }
            }
            false => Transport::Udp { source, destination },
        };
        let header = Header {
            header_len: IP,
            total_len: self.total_len(),
            ttl: packet[8],
            protocol: packet[9],
            identification: u16_at(packet, 4),
            dont_fragment: self.is_atomic(),
            more_fragments: false,
            offset: 0,
            source: self.source,
            destination: self.destination,
        };
        Some((header, transport))
    }
}

/// What the first eight bytes of a plain packet have: version 4, 20 bytes of header, and neither
/// MF nor an offset.
const BEGINNING: u64 = u64::from_le_bytes([0x45, 0, 0, 0, 0, 0, 0, 0]);
const BEGINNING_MASK: u64 = u64::from_le_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);

/// Where `DF` is in them.
const DONT_FRAGMENT_AT: u32 = 6 * 8 + 6;

/// Reads a plain packet, which `packet` begins with; `None` if it is none. Whether its addresses
/// may be forwarded is left to the caller.
#[inline(always)]
pub fn read(packet: &[u8]) -> Option<Plain> {
    let head = packet.first_chunk::<IP_UDP>()?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let beginning = u64::from(word(0)) | u64::from(word(4)) << 32;
    let (total_len, is_tcp) = (u16_at(head, 2), head[9] == protocol::TCP);
    if beginning & BEGINNING_MASK != BEGINNING || head[8] <= 1 {
        return None;
    }
    let (source, destination) = (word(12), word(16));
    if usize::from(total_len) > packet.len()
        || !is_right([word(0), word(4), word(8), source, destination])
    {
        return None;
    }
    let is_atomic = beginning >> DONT_FRAGMENT_AT & 1;
    let mut facts = u32::from(total_len) | (is_atomic as u32) << IS_ATOMIC.trailing_zeros();
    if is_tcp {
        let flags = *packet.get(IP + 13)?;
        let is_syn = flags & (flags::SYN | flags::ACK) == flags::SYN;
        let rare = flags::FIN | flags::RST;
        if usize::from(total_len) < IP_TCP
            || flags & rare != 0
            || flags & flags::SYN != 0 && !is_syn
        {
            return None;
        }
        facts |= if is_syn { IS_TCP | IS_SYN } else { IS_TCP };
    } else {
        let length = usize::from(u16_at(head, IP + 4));
        if head[9] != protocol::UDP || length < 8 || IP + length > usize::from(total_len) {
            return None;
        }
    }
    let ports = u32_at(head, IP);
    if ports >> 16 == 0 || ports as u16 == 0 {
        return None;
    }
    let (source, destination) = (source.swap_bytes(), destination.swap_bytes());
    Some(Plain { source, destination, ports, facts })
}

/// Whether a header of these words, which are not all 0, has the right checksum: the sum of its
/// halves must be 0xffff in one's complement, in any order of bytes (RFC 1071 section 2). That is
/// a multiple of 0xffff, as 2^16 is one more than it.
#[inline(always)]
fn is_right(words: [u32; 5]) -> bool {
    let sum: u64 = words.into_iter().map(u64::from).sum();
    sum.is_multiple_of(0xffff)
}

/// Rewrites `end` of a `packet` that was read as `plain` to `new`, and takes one off its time to
/// live; as [`super::rewrite::endpoint`] and [`super::rewrite::decrement_ttl`] do.
#[inline(always)]
pub fn translate(packet: &mut [u8], plain: &Plain, end: End, new: NewEndpoint) {
    let (address_at, port_at) = match end {
        End::Source => (12, IP),
        End::Destination => (16, IP + 2),
    };
    if plain.is_tcp() {
        let Some(head) = packet.first_chunk_mut::<IP_TCP>() else { return };
        let updated = new.address_delta.apply_with(new.port_delta, u16_at(head, IP + 16));
        put_u16(head, IP + 16, updated);
    }
    let Some(head) = packet.first_chunk_mut::<IP_UDP>() else { return };
    if !plain.is_tcp() {
        let old = u16_at(head, IP + 6);
        if old != 0 {
            let updated = new.address_delta.apply_with(new.port_delta, old);
            put_u16(head, IP + 6, if updated == 0 { 0xffff } else { updated });
        }
    }
    let updated = new.address_delta.apply_with(TTL_DELTA, u16_at(head, 10));
    put_u16(head, 10, updated);
    head[8] -= 1;
    put_u32(head, address_at, new.address);
    put_u16(head, port_at, new.port);
}
