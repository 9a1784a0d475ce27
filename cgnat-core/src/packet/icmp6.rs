//! ICMPv6 (RFC 4443): errors of the box, and pings to it.

use super::checksum::Delta;
use super::ipv6::{self, HEADER, Header, LEAST_MTU, Upper, next};
use super::{put_u16, put_u32, u16_at};

/// Bytes of the header of an error; what is quoted begins behind it.
const ICMP_HEADER: usize = 8;

/// Types below this are errors.
const FIRST_QUERY: u8 = 128;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
const REDIRECT: u8 = 137;

/// Hop limit of what the box says.
const HOP_LIMIT: u8 = 64;

/// Type and code of an error that the box sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    icmp_type: u8,
    code: u8,
    mtu: u32,
}

/// No route to the destination.
pub const NO_ROUTE: Kind = Kind { icmp_type: 1, code: 0, mtu: 0 };
/// Administratively prohibited.
pub const PROHIBITED: Kind = Kind { icmp_type: 1, code: 1, mtu: 0 };
/// Beyond the scope of the source address.
pub const BEYOND_SCOPE: Kind = Kind { icmp_type: 1, code: 2, mtu: 0 };
/// The neighbour does not answer (RFC 4861 section 7.2.2).
pub const ADDRESS_UNREACHABLE: Kind = Kind { icmp_type: 1, code: 3, mtu: 0 };
/// The hop limit ran out.
pub const TIME_EXCEEDED: Kind = Kind { icmp_type: 3, code: 0, mtu: 0 };
/// Larger than the MTU of the way on (RFC 8201).
pub const fn packet_too_big(mtu: u16) -> Kind {
    Kind { icmp_type: 2, code: 0, mtu: mtu as u32 }
}

/// Bytes of the packet that tells of `packet`: as much of it as fits the least MTU.
pub fn length_about(packet: &[u8]) -> usize {
    (HEADER + ICMP_HEADER + packet.len()).min(LEAST_MTU.into())
}

/// Writes an error from our address `from` about `packet`, which is as it was received, into
/// `into` of [`length_about`] bytes.
pub fn write(into: &mut [u8], kind: Kind, from: u128, packet: &[u8]) {
    let to = ipv6::address_at(packet, 8);
    ipv6::write(into, next::ICMP, HOP_LIMIT, from, to);
    let segment = &mut into[HEADER..];
    segment[..4].copy_from_slice(&[kind.icmp_type, kind.code, 0, 0]);
    put_u32(segment, 4, kind.mtu);
    let quoted = segment.len() - ICMP_HEADER;
    segment[ICMP_HEADER..].copy_from_slice(&packet[..quoted]);
    let sum = ipv6::checksum(from, to, next::ICMP, segment);
    put_u16(segment, 2, sum);
}

/// Whether nobody may be told anything about a packet: an error, a redirect, a part that may be
/// of one, or to a group (RFC 4443 section 2.4 e).
pub fn is_silent_about(packet: &[u8], header: &Header) -> bool {
    let upper = ipv6::upper(packet, header);
    let is_error = upper.protocol == next::ICMP
        && (upper.is_later
            || packet
                .get(upper.offset)
                .is_none_or(|kind| *kind < FIRST_QUERY || *kind == REDIRECT));
    is_error || ipv6::is_multicast(header.destination)
}

/// Whether a packet is a ping that the box can answer.
pub fn is_ping(packet: &[u8], header: &Header, upper: Upper) -> bool {
    let is_whole = upper.protocol == next::ICMP && upper.offset == HEADER;
    is_whole && header.total_len >= HEADER + 8 && packet[HEADER..HEADER + 2] == [ECHO_REQUEST, 0]
}

/// Makes the answer of a ping, in its place. A wrong checksum stays wrong.
pub fn answer(packet: &mut [u8], header: &Header) {
    packet[7] = HOP_LIMIT;
    packet[8..24].copy_from_slice(&header.destination.to_be_bytes());
    packet[24..40].copy_from_slice(&header.source.to_be_bytes());
    packet[HEADER] = ECHO_REPLY;
    let change = Delta::NONE.word(u16::from(ECHO_REQUEST) << 8, u16::from(ECHO_REPLY) << 8);
    let sum = change.apply(u16_at(packet, HEADER + 2));
    put_u16(packet, HEADER + 2, sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u128 = 0x2001_0db8 << 96 | 1;
    const B: u128 = 0x2001_0db8 << 96 | 2;

    fn message(kind: u8, len: usize) -> Vec<u8> {
        let mut packet: Vec<u8> = (0..HEADER + len).map(|n| n as u8).collect();
        ipv6::write(&mut packet, next::ICMP, 9, A, B);
        packet[HEADER..HEADER + 4].copy_from_slice(&[kind, 0, 0, 0]);
        let sum = ipv6::checksum(A, B, next::ICMP, &packet[HEADER..]);
        put_u16(&mut packet, HEADER + 2, sum);
        packet
    }

    #[test]
    fn an_error_quotes_what_fits_and_has_a_right_checksum() {
        for len in [8, 100, 1191, 1192, 1193, 1500] {
            let packet = message(ECHO_REQUEST, len);
            let mut error = vec![0xee; length_about(&packet)];
            write(&mut error, packet_too_big(1400), B, &packet);
            assert_eq!(error.len(), (48 + 40 + len).min(1280));
            let header = ipv6::header(&error).expect("a header");
            assert_eq!((header.source, header.destination), (B, A));
            assert_eq!(error[40..42], [2, 0]);
            assert_eq!(error[44..48], 1400u32.to_be_bytes());
            assert_eq!(error[48..], packet[..error.len() - 48]);
            assert_eq!(ipv6::checksum(B, A, next::ICMP, &error[HEADER..]), 0);
        }
    }

    #[test]
    fn a_ping_is_answered_with_a_right_checksum() {
        for len in 8..200 {
            let mut packet = message(ECHO_REQUEST, len);
            let header = ipv6::header(&packet).expect("a header");
            assert!(is_ping(&packet, &header, ipv6::upper(&packet, &header)));
            answer(&mut packet, &header);
            assert_eq!(ipv6::checksum(B, A, next::ICMP, &packet[HEADER..]), 0, "{len}");
            let header = ipv6::header(&packet).expect("a header");
            assert!(!is_ping(&packet, &header, ipv6::upper(&packet, &header)));
        }
    }

    #[test]
    fn about_errors_and_what_may_be_one_nobody_is_told() {
        let is_silent =
            |packet: &[u8]| is_silent_about(packet, &ipv6::header(packet).expect("a header"));
        for kind in 0..=255 {
            let expected = kind < 128 || kind == REDIRECT;
            assert_eq!(is_silent(&message(kind, 8)), expected, "{kind}");
        }
        let with = |next_header, payload: &[u8]| {
            let mut packet = vec![0; HEADER];
            packet.extend_from_slice(payload);
            ipv6::write(&mut packet, next_header, 9, A, B);
            packet
        };
        let later = |protocol| with(next::FRAGMENT, &[protocol, 0, 0, 8, 0, 0, 0, 1, 7, 7, 7, 7]);
        assert!(is_silent(&later(next::ICMP)));
        assert!(!is_silent(&later(next::UDP)));
        // An extension header behind which nothing is.
        assert!(is_silent(&with(next::DESTINATION, &[next::ICMP, 0, 1, 4, 0, 0, 0, 0])));
        assert!(!is_silent(&with(next::NONE, &[])));
    }
}
