//! Other sequence numbers and another payload for a TCP packet whose lengths were checked.
//!
//! Numbers are changed with their checksum by RFC 1624, so a damaged packet stays damaged; a
//! packet with another payload gets a checksum of its own, for which the caller has checked the
//! old one. Timestamps stay as they are.

use super::checksum::{self, Delta};
use super::ipv4::{Header, protocol};
use super::tcp::flags;
use super::{put_u16, put_u32, u16_at, u32_at};

const SEQUENCE: usize = 4;
const ACKNOWLEDGEMENT: usize = 8;
const FLAGS: usize = 13;
const CHECKSUM: usize = 16;

/// Bytes of a TCP header without options.
const FIXED: usize = 20;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const BLOCKS: u8 = 5;

/// Gives the packet another sequence number.
pub fn sequence(packet: &mut [u8], header: &Header, new: u32) {
    number(&mut packet[header.header_len..], SEQUENCE, new);
}

/// Gives the packet another acknowledgement number.
pub fn acknowledgement(packet: &mut [u8], header: &Header, new: u32) {
    number(&mut packet[header.header_len..], ACKNOWLEDGEMENT, new);
}

/// Changes four bytes of a segment, and its checksum with them.
fn number(segment: &mut [u8], at: usize, new: u32) {
    let old = u32_at(segment, at);
    // At an odd place the bytes belong to other halves of the words of the sum.
    let delta = match at % 2 {
        0 => Delta::NONE.address(old, new),
        _ => Delta::NONE.address(old.rotate_left(8), new.rotate_left(8)),
    };
    put_u32(segment, at, new);
    let updated = delta.apply(u16_at(segment, CHECKSUM));
    put_u16(segment, CHECKSUM, updated);
}

/// Gives the packet other received blocks (RFC 2018): `new` says what stands for (left, right).
/// Where it has nothing to say of one, no-operations stand for the whole option: blocks are
/// advice (RFC 2018 section 8).
pub fn blocks(packet: &mut [u8], header: &Header, new: impl Fn(u32, u32) -> Option<(u32, u32)>) {
    let segment = &mut packet[header.header_len..];
    let end = (usize::from(segment[12] >> 4) * 4).min(segment.len());
    let mut at = FIXED;
    // Each step is at least one byte of at most forty.
    while at < end {
        let length = match segment[at] {
            END => return,
            NO_OPERATION => 1,
            _ => segment[..end].get(at + 1).map_or(0, |length| usize::from(*length)),
        };
        let is_option = segment[at] != NO_OPERATION;
        if (is_option && length < 2) || at + length > end {
            return;
        }
        if segment[at] == BLOCKS && length % 8 == 2 {
            let edges = (at + 2..at + length).step_by(8);
            let known = |at: usize| new(u32_at(segment, at), u32_at(segment, at + 4));
            if edges.clone().all(|at| known(at).is_some()) {
                for at in edges {
                    if let Some((left, right)) = new(u32_at(segment, at), u32_at(segment, at + 4)) {
                        number(segment, at, left);
                        number(segment, at + 4, right);
                    }
                }
            } else {
                blank(segment, at, length);
            }
        }
        at += length;
    }
}

/// No-operations in the place of an option.
fn blank(segment: &mut [u8], at: usize, length: usize) {
    (at..at + length).for_each(|at| byte(segment, at, NO_OPERATION));
}

/// Changes one byte of a segment, and its checksum with it.
fn byte(segment: &mut [u8], at: usize, new: u8) {
    let word = |byte: u8| u16::from(byte) << (8 * (1 - at % 2));
    let delta = Delta::NONE.word(word(segment[at]), word(new));
    segment[at] = new;
    let updated = delta.apply(u16_at(segment, CHECKSUM));
    put_u16(segment, CHECKSUM, updated);
}

/// Gives the packet another byte at `at`, which is in its payload.
pub fn payload_byte(packet: &mut [u8], header: &Header, at: usize, new: u8) {
    byte(&mut packet[header.header_len..], at - header.header_len, new);
}

/// Whether the checksum of the packet is right.
pub fn is_sound(packet: &[u8], header: &Header) -> bool {
    let segment = &packet[header.header_len..header.total_len];
    checksum::transport(header.source, header.destination, protocol::TCP, segment) == 0
}

/// Makes the packet whole again after its payload was changed to `length` bytes; without FIN
/// if what it ended is not all there.
pub fn payload_changed(packet: &mut [u8], header: &Header, length: usize, is_cut: bool) {
    let at = payload_at(packet, header);
    let total = (at + length) as u16;
    let ip_checksum = Delta::NONE.word(u16_at(packet, 2), total).apply(u16_at(packet, 10));
    put_u16(packet, 2, total);
    put_u16(packet, 10, ip_checksum);
    let segment = &mut packet[header.header_len..at + length];
    if is_cut {
        segment[FLAGS] &= !flags::FIN;
    }
    put_u16(segment, CHECKSUM, 0);
    let sum = checksum::transport(header.source, header.destination, protocol::TCP, segment);
    put_u16(segment, CHECKSUM, sum);
}

/// Where the payload begins.
pub fn payload_at(packet: &[u8], header: &Header) -> usize {
    let data = usize::from(packet[header.header_len + 12] >> 4) * 4;
    header.header_len + data
}
