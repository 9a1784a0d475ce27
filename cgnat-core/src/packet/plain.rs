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

/// Bytes of IPv4 and UDP header.
const IP_UDP: usize = IP + 8;

/// Bytes of IPv4 and TCP header without options.
const IP_TCP: usize = IP + 20;

/// Change of the checksum when the time to live, the upper half of its word, goes down by one.
const TTL_DELTA: Delta = Delta::NONE.word(0x0100, 0);

/// Such a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port, and destination port in the lower half. Apart they would be kept on the
    /// stack, by the halves of words.
    ports: u32,
    /// Length, bytes.
    pub total_len: u16,
    /// TCP, neither FIN nor RST; or UDP.
    pub is_tcp: bool,
    /// TCP with SYN and without ACK: it may begin a session, and belongs to none that exists.
    pub is_syn: bool,
    /// Not to be fragmented: its identification is free (RFC 6864 section 4).
    pub is_atomic: bool,
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

    /// What [`super::ipv4`] would say of the same packet; `None` if it would refuse it.
    #[inline]
    pub fn read_whole(&self, packet: &[u8]) -> Option<(Header, Transport)> {
        let (source, destination) = (self.source_port(), self.destination_port());
        let transport = match self.is_tcp {
            true => {
                let segment = tcp::segment(packet.get(IP..usize::from(self.total_len))?)?;
                Transport::Tcp { source, destination, segment }
            }
            false => Transport::Udp { source, destination },
        };
        let header = Header {
            header_len: IP,
            total_len: usize::from(self.total_len),
            ttl: packet[8],
            protocol: packet[9],
            identification: u16_at(packet, 4),
            dont_fragment: self.is_atomic,
            more_fragments: false,
            offset: 0,
            source: self.source,
            destination: self.destination,
        };
        Some((header, transport))
    }
}

/// Reads a plain packet, which `packet` begins with; `None` if it is none. Whether its addresses
/// may be forwarded is left to the caller.
#[inline(always)]
pub fn read(packet: &[u8]) -> Option<Plain> {
    let head = packet.first_chunk::<IP_UDP>()?;
    let total_len = usize::from(u16_at(head, 2));
    let fragment = u16_at(head, 6);
    let is_tcp = head[9] == protocol::TCP;
    let is_known = is_tcp || head[9] == protocol::UDP;
    // Neither MF nor an offset.
    if head[0] != 0x45 || fragment & 0x3fff != 0 || head[8] <= 1 || !is_known {
        return None;
    }
    if total_len > packet.len() || !is_right(head) {
        return None;
    }
    let mut is_syn = false;
    if is_tcp {
        let flags = *packet.get(IP + 13)?;
        is_syn = flags & (flags::SYN | flags::ACK) == flags::SYN;
        let rare = flags::FIN | flags::RST;
        if total_len < IP_TCP || flags & rare != 0 || flags & flags::SYN != 0 && !is_syn {
            return None;
        }
    } else {
        let length = usize::from(u16_at(head, IP + 4));
        if length < 8 || IP + length > total_len {
            return None;
        }
    }
    let ports = u32_at(head, IP);
    if ports >> 16 == 0 || ports as u16 == 0 {
        return None;
    }
    Some(Plain {
        source: u32_at(head, 12),
        destination: u32_at(head, 16),
        ports,
        total_len: total_len as u16,
        is_tcp,
        is_syn,
        is_atomic: fragment & 0x4000 != 0,
    })
}

/// Whether the header checksum is right. The sum of all words is the same in any order of bytes
/// (RFC 1071 section 2).
#[inline]
fn is_right(head: &[u8; IP_UDP]) -> bool {
    let word = |at: usize| {
        u64::from(u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]))
    };
    let sum = word(0) + word(4) + word(8) + word(12) + word(16);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

/// Rewrites `end` of a `packet` that was read as `plain` to `new`, and takes one off its time to
/// live; as [`super::rewrite::endpoint`] and [`super::rewrite::decrement_ttl`] do.
#[inline(always)]
pub fn translate(packet: &mut [u8], plain: &Plain, end: End, new: NewEndpoint) {
    let (address_at, port_at) = match end {
        End::Source => (12, IP),
        End::Destination => (16, IP + 2),
    };
    if plain.is_tcp {
        let Some(head) = packet.first_chunk_mut::<IP_TCP>() else { return };
        let updated = new.address_delta.apply_with(new.port_delta, u16_at(head, IP + 16));
        put_u16(head, IP + 16, updated);
    }
    let Some(head) = packet.first_chunk_mut::<IP_UDP>() else { return };
    if !plain.is_tcp {
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
