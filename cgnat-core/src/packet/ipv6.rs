//! IPv6 headers (RFC 8200), read and never rewritten but for the hop limit.

use super::{checksum, u16_at};
use crate::verdict::DropReason;

/// Bytes of the fixed header.
pub const HEADER: usize = 40;

/// The smallest MTU of a link that carries IPv6 (RFC 8200 section 5).
pub const LEAST_MTU: u16 = 1280;

/// Extension headers of one packet that are looked behind.
const MOST_EXTENSIONS: usize = 8;

/// Numbers in "next header".
pub mod next {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6 (RFC 4443).
    pub const ICMP: u8 = 58;
    /// Nothing.
    pub const NONE: u8 = 59;
    /// Destination options.
    pub const DESTINATION: u8 = 60;
}

/// The all-nodes group of a link.
pub const ALL_NODES: u128 = 0xff02 << 112 | 1;

/// The fixed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the packet, this header included.
    pub total_len: usize,
    /// What comes behind it.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: u128,
    /// Destination address.
    pub destination: u128,
}

/// What lies behind the extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper {
    /// Its protocol; [`next::NONE`] if that is not to be found out.
    pub protocol: u8,
    /// Where it begins.
    pub offset: usize,
    /// It is of a fragment, and not of the first.
    pub is_later: bool,
    /// It is of a fragment.
    pub is_fragment: bool,
}

/// An address at `at`.
///
/// # Panics
/// If `bytes` is shorter than `at + 16`.
#[inline]
pub fn address_at(bytes: &[u8], at: usize) -> u128 {
    let mut address = [0; 16];
    address.copy_from_slice(&bytes[at..at + 16]);
    u128::from_be_bytes(address)
}

/// Length of the packet as its header says; 0 if there is none.
pub fn total_len(packet: &[u8]) -> usize {
    if packet.len() < HEADER { 0 } else { HEADER + usize::from(u16_at(packet, 4)) }
}

/// Reads the fixed header of a packet, which may have padding behind it.
///
/// # Errors
/// [`DropReason::Ipv6Header`]: another version, or longer than what is there. A jumbogram (RFC 2675)
/// says that its length is zero, and is none that fits a frame.
#[inline]
pub fn header(packet: &[u8]) -> Result<Header, DropReason> {
    let total_len = total_len(packet);
    if total_len == 0 || packet[0] >> 4 != 6 || total_len > packet.len() {
        return Err(DropReason::Ipv6Header);
    }
    let next_header = packet[6];
    if total_len == HEADER && next_header != next::NONE {
        return Err(DropReason::Ipv6Header);
    }
    Ok(Header {
        total_len,
        next_header,
        hop_limit: packet[7],
        source: address_at(packet, 8),
        destination: address_at(packet, 24),
    })
}

/// Looks behind the extension headers of a packet whose header was read.
pub fn upper(packet: &[u8], header: &Header) -> Upper {
    let mut upper =
        Upper { protocol: header.next_header, offset: HEADER, is_later: false, is_fragment: false };
    let unknown = Upper { protocol: next::NONE, ..upper };
    for _ in 0..MOST_EXTENSIONS {
        let at = upper.offset;
        let is_extension = matches!(
            upper.protocol,
            next::HOP_BY_HOP | next::ROUTING | next::FRAGMENT | next::DESTINATION
        );
        if !is_extension {
            return upper;
        }
        let Some(extension) = packet.get(at..at + 8) else {
            return Upper { is_fragment: upper.is_fragment, ..unknown };
        };
        let mut length = 8 + usize::from(extension[1]) * 8;
        if upper.protocol == next::FRAGMENT {
            length = 8;
            upper.is_fragment = true;
            upper.is_later = u16_at(extension, 2) & 0xfff8 != 0;
        }
        upper.protocol = extension[0];
        upper.offset += length;
        if upper.is_later {
            return upper;
        }
    }
    Upper { is_fragment: upper.is_fragment, ..unknown }
}

/// The checksum of what is above IPv6 (RFC 8200 section 8.1); 0 over one that holds a right checksum.
pub fn checksum(source: u128, destination: u128, protocol: u8, segment: &[u8]) -> u16 {
    checksum::with_start(segment, pseudo_header(source, destination, protocol, segment.len()))
}

/// Sum over the pseudo-header of a segment of `len` bytes.
pub fn pseudo_header(source: u128, destination: u128, protocol: u8, len: usize) -> u16 {
    let mut bytes = [0; 40];
    bytes[..16].copy_from_slice(&source.to_be_bytes());
    bytes[16..32].copy_from_slice(&destination.to_be_bytes());
    bytes[32..36].copy_from_slice(&(len as u32).to_be_bytes());
    bytes[39] = protocol;
    !checksum::full(&bytes)
}

/// Writes a fixed header into the first [`HEADER`] bytes of `packet`, which is all of the packet.
pub fn write(packet: &mut [u8], next_header: u8, hop_limit: u8, source: u128, destination: u128) {
    packet[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    super::put_u16(packet, 4, (packet.len() - HEADER) as u16);
    packet[6] = next_header;
    packet[7] = hop_limit;
    packet[8..24].copy_from_slice(&source.to_be_bytes());
    packet[24..40].copy_from_slice(&destination.to_be_bytes());
}

/// Whether an address is a group's.
#[inline]
pub const fn is_multicast(address: u128) -> bool {
    address >> 120 == 0xff
}

/// Whether an address is of one link (RFC 4291 section 2.5.6).
#[inline]
pub const fn is_link_local(address: u128) -> bool {
    address >> 118 == 0xfe80 >> 6
}

/// Whether no packet on a link can have this address of a host: unspecified, loopback, or one that
/// stands for an IPv4 address inside a host (RFC 4291 sections 2.5.2, 2.5.3, 2.5.5).
#[inline]
pub const fn is_martian(address: u128) -> bool {
    address >> 32 == 0 || address >> 32 == 0xffff
}

/// The link-local address of a MAC (RFC 2464 section 5).
pub const fn link_local_of(mac: [u8; 6]) -> u128 {
    let [a, b, c, d, e, f] = mac;
    let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    0xfe80 << 112 | interface as u128
}

/// The group that everybody with an address like this listens to (RFC 4291 section 2.7.1).
pub const fn solicited_node(address: u128) -> u128 {
    0xff02 << 112 | 0x1_ff00_0000 | address & 0xff_ffff
}

/// The MAC that a group has (RFC 2464 section 7).
pub const fn mac_of_group(group: u128) -> [u8; 6] {
    let [a, b, c, d] = (group as u32).to_be_bytes();
    [0x33, 0x33, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; HEADER];
        packet.extend_from_slice(payload);
        write(&mut packet, next_header, 64, 1 << 64, 2 << 64);
        packet
    }

    #[test]
    fn a_header_is_read_as_it_was_written_and_no_other() {
        let good = packet(next::UDP, &[7; 20]);
        let read = header(&good).expect("a header");
        assert_eq!((read.total_len, read.next_header, read.hop_limit), (60, 17, 64));
        assert_eq!((read.source, read.destination), (1 << 64, 2 << 64));
        // Padding of the frame is none of it.
        assert_eq!(header(&[good.as_slice(), &[0; 9]].concat()), Ok(read));
        for len in 0..good.len() {
            assert_eq!(header(&good[..len]), Err(DropReason::Ipv6Header), "{len}");
        }
        let mut other = good.clone();
        other[0] = 0x45;
        assert_eq!(header(&other), Err(DropReason::Ipv6Header));
        assert_eq!(header(&packet(next::HOP_BY_HOP, &[])), Err(DropReason::Ipv6Header));
        assert!(header(&packet(next::NONE, &[])).is_ok());
    }

    #[test]
    fn what_is_behind_extension_headers_is_found_or_said_to_be_unknown() {
        let of = |next_header, payload: &[u8]| {
            let packet = packet(next_header, payload);
            upper(&packet, &header(&packet).expect("a header"))
        };
        let plain = Upper { protocol: 58, offset: 40, is_later: false, is_fragment: false };
        assert_eq!(of(58, &[1; 8]), plain);
        let mut chain = vec![60, 1];
        chain.extend([0; 14]);
        chain.extend([58, 0, 0, 0, 0, 0, 0, 0]);
        chain.extend([128; 8]);
        assert_eq!(of(0, &chain), Upper { offset: 64, ..plain });
        let first = [[58, 0, 0, 1, 0, 0, 0, 7], [128; 8]].concat();
        assert_eq!(of(44, &first), Upper { offset: 48, is_fragment: true, ..plain });
        let later = [[58, 0, 0, 8, 0, 0, 0, 7], [128; 8]].concat();
        let later_is = Upper { offset: 48, is_fragment: true, is_later: true, ..plain };
        assert_eq!(of(44, &later), later_is);
        assert_eq!(of(0, &[58, 0, 0]).protocol, next::NONE);
        assert_eq!(of(0, &[0; 200]).protocol, next::NONE);
        // One that says to be longer than all of the packet lies behind it.
        assert!(of(60, &[58, 255, 0, 0, 0, 0, 0, 0]).offset > 48);
    }

    #[test]
    fn addresses_are_told_apart() {
        let of = |text: &str| u128::from(text.parse::<std::net::Ipv6Addr>().expect("a header"));
        for text in ["::", "::1", "::1.2.3.4", "::ffff:1.2.3.4"] {
            assert!(is_martian(of(text)), "{text}");
        }
        assert!(!is_martian(of("2001:db8::")) && !is_martian(of("64:ff9b::1")));
        assert!(is_link_local(of("fe80::1")) && is_link_local(of("febf::1")));
        assert!(!is_link_local(of("fec0::1")) && !is_link_local(of("fe00::1")));
        assert!(is_multicast(of("ff02::1")) && !is_multicast(of("fe80::1")));
        let mac = [2, 0x70, 0x63, 0x61, 0x70, 1];
        assert_eq!(link_local_of(mac), of("fe80::70:63ff:fe61:7001"));
        assert_eq!(solicited_node(of("2001:db8::1:2:abcd")), of("ff02::1:ff02:abcd"));
        assert_eq!(mac_of_group(of("ff02::1:ff02:abcd")), [0x33, 0x33, 0xff, 2, 0xab, 0xcd]);
        assert_eq!(mac_of_group(ALL_NODES), [0x33, 0x33, 0, 0, 0, 1]);
    }
}
