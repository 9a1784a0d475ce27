//! TCP and UDP checksums that the sender's kernel left to a card which is not there.
//!
//! Such a packet has the sum over its pseudo-header where the checksum belongs, not complemented.
//! It comes out of packet sockets, when whoever sent it is on the same machine and has transmit
//! checksum offload on; translated by increments it would stay wrong. A checksum that is right is
//! equal to that sum once in 65,536 packets, so then all of the packet is looked at.

use super::checksum;
use super::ipv4::{self, protocol};
use super::ipv6;
use super::{put_u16, u16_at};

/// Computes the checksum of a packet that lacks it, as [`ipv4`] may or may not accept it; false
/// if there is nothing to do.
#[inline]
pub fn complete(packet: &mut [u8]) -> bool {
    let Ok(header) = ipv4::fields(packet) else { return false };
    let place = match header.protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => return false,
    };
    let (source, destination) = (header.source, header.destination);
    let segment = &mut packet[header.header_len..header.total_len];
    // What is cut was checksummed before.
    if header.is_fragment() || segment.len() < place + 2 {
        return false;
    }
    let left = checksum::pseudo_header(source, destination, header.protocol, segment.len());
    if u16_at(segment, place) != left {
        return false;
    }
    compute(left, segment, place)
}

/// The same of an IPv6 packet. A kernel leaves the checksum of ICMPv6 to nobody.
pub fn complete6(packet: &mut [u8]) -> bool {
    let Ok(header) = ipv6::header(packet) else { return false };
    let upper = ipv6::upper(packet, &header);
    let place = match upper.protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => return false,
    };
    let Some(segment) = packet.get_mut(upper.offset..header.total_len) else { return false };
    if upper.is_fragment || segment.len() < place + 2 {
        return false;
    }
    let (source, destination) = (header.source, header.destination);
    let left = ipv6::pseudo_header(source, destination, upper.protocol, segment.len());
    u16_at(segment, place) == left && compute(left, segment, place)
}

/// The checksum of a segment over whose pseudo-header the sum is `left`.
#[cold]
fn compute(left: u16, segment: &mut [u8], place: usize) -> bool {
    if checksum::with_start(segment, left) == 0 {
        return false;
    }
    put_u16(segment, place, 0);
    let sum = checksum::with_start(segment, left);
    // Zero says that UDP has none (RFC 768).
    put_u16(segment, place, if sum == 0 { 0xffff } else { sum });
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{put_u32, u32_at};
    use crate::testing::packets;

    const FROM: (u32, u16) = (0x6440_0305, 4000);
    const TO: (u32, u16) = (0xc633_6407, 443);

    /// The same packet as a kernel with offload gives it to a packet socket.
    fn left(mut packet: Vec<u8>) -> Vec<u8> {
        let place = 20 + if packet[9] == protocol::TCP { 16 } else { 6 };
        let len = packet.len() - 20;
        let sum = checksum::pseudo_header(FROM.0, TO.0, packet[9], len);
        put_u16(&mut packet, place, sum);
        packet
    }

    #[test]
    fn what_was_left_is_computed_and_what_is_right_stays() {
        for len in 0..1400 {
            let payload: Vec<u8> = (0..len).map(|n| (n * 7 + len) as u8).collect();
            for right in [packets::udp(FROM, TO, &payload), packets::tcp(FROM, TO, 16, &payload)] {
                let mut packet = left(right.clone());
                assert!(complete(&mut packet));
                assert_eq!(packet, right);
                assert!(!complete(&mut packet));
                assert_eq!(packet, right);
            }
        }
    }

    #[test]
    fn a_right_checksum_that_looks_as_if_it_were_left_stays() {
        // A last word that makes it so.
        let packet = packets::tcp(FROM, TO, 16, b"payload with room..");
        let mut found = false;
        for word in 0..=u16::MAX {
            let mut packet = packet.clone();
            put_u16(&mut packet, 40, word);
            put_u16(&mut packet, 36, 0);
            let sum = checksum::transport(FROM.0, TO.0, protocol::TCP, &packet[20..]);
            put_u16(&mut packet, 36, sum);
            if left(packet.clone()) == packet {
                let before = packet.clone();
                assert!(!complete(&mut packet));
                assert_eq!(packet, before);
                found = true;
            }
        }
        assert!(found);
    }

    #[test]
    fn nothing_else_is_touched() {
        let tcp = left(packets::tcp(FROM, TO, 16, b"payload"));
        let udp = packets::udp(FROM, TO, b"payload");
        let mut all = Vec::new();
        // Damaged, without a checksum, in fragments, of another protocol.
        for (packet, at, value) in
            [(&tcp, 36, tcp[36] ^ 1), (&tcp, 6, 0x20), (&tcp, 7, 2), (&tcp, 9, 47), (&udp, 26, 1)]
        {
            let mut packet = packet.clone();
            packet[at] = value;
            all.push(packet);
        }
        let mut none = udp.clone();
        put_u16(&mut none, 26, 0);
        all.extend((0..tcp.len()).map(|end| tcp[..end].to_vec()));
        let mut swapped = tcp.clone();
        let other = u32_at(&swapped, 12) ^ 0x100;
        put_u32(&mut swapped, 12, other);
        all.extend([none, swapped]);
        for packet in all {
            let mut same = packet.clone();
            assert!(!complete(&mut same), "{packet:02x?}");
            assert_eq!(same, packet);
        }
    }
}
