//! Frames for tests, with right checksums, built independently of `packet::rewrite`.

use crate::packet::arp::{self, Arp};
use crate::packet::ethernet::{self, Mac, Tags};
use crate::packet::{checksum, put_u16, put_u32};

/// An address in dotted form.
///
/// # Panics
/// If it is none.
pub fn ip(text: &str) -> u32 {
    u32::from(text.parse::<std::net::Ipv4Addr>().expect("an address"))
}

/// An IPv4 packet with TTL 64 around a transport segment whose checksum, if any, is filled
/// in at `checksum_at`.
pub fn ipv4(
    source: u32,
    destination: u32,
    protocol: u8,
    mut segment: Vec<u8>,
    checksum_at: Option<usize>,
) -> Vec<u8> {
    if let Some(at) = checksum_at {
        put_u16(&mut segment, at, 0);
        let sum = if protocol == 1 {
            checksum::full(&segment)
        } else {
            checksum::transport(source, destination, protocol, &segment)
        };
        put_u16(&mut segment, at, if sum == 0 && protocol == 17 { 0xffff } else { sum });
    }
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    put_u16(&mut packet, 2, 20 + segment.len() as u16);
    put_u16(&mut packet, 6, 0x4000);
    packet[8] = 64;
    packet[9] = protocol;
    put_u32(&mut packet, 12, source);
    put_u32(&mut packet, 16, destination);
    let sum = checksum::full(&packet);
    put_u16(&mut packet, 10, sum);
    packet.extend(segment);
    packet
}

/// A UDP packet.
pub fn udp(source: (u32, u16), destination: (u32, u16), payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; 8];
    put_u16(&mut segment, 0, source.1);
    put_u16(&mut segment, 2, destination.1);
    put_u16(&mut segment, 4, 8 + payload.len() as u16);
    segment.extend_from_slice(payload);
    ipv4(source.0, destination.0, 17, segment, Some(6))
}

/// A TCP packet.
pub fn tcp(source: (u32, u16), destination: (u32, u16), flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; 20];
    put_u16(&mut segment, 0, source.1);
    put_u16(&mut segment, 2, destination.1);
    put_u32(&mut segment, 4, 0x1234_5678);
    segment[12] = 5 << 4;
    segment[13] = flags;
    put_u16(&mut segment, 14, 65_000);
    segment.extend_from_slice(payload);
    ipv4(source.0, destination.0, 6, segment, Some(16))
}

/// An ICMP echo request or reply.
pub fn echo(
    request: bool,
    source: u32,
    destination: u32,
    identifier: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = vec![0; 8];
    segment[0] = if request { 8 } else { 0 };
    put_u16(&mut segment, 4, identifier);
    put_u16(&mut segment, 6, 1);
    segment.extend_from_slice(payload);
    ipv4(source, destination, 1, segment, Some(2))
}

/// An Ethernet frame around an IPv4 packet.
pub fn frame(to: Mac, from: Mac, tags: Tags, packet: &[u8]) -> Vec<u8> {
    let header = ethernet::header_len(tags);
    let mut frame = vec![0; header];
    ethernet::write(&mut frame, to, from, tags, ethernet::IPV4);
    frame.extend_from_slice(packet);
    frame
}

/// An Ethernet frame around an ARP packet.
pub fn arp_frame(to: Mac, from: Mac, packet: &Arp) -> Vec<u8> {
    let mut frame = vec![0; 14 + arp::LEN];
    ethernet::write(&mut frame, to, from, Tags::None, ethernet::ARP);
    arp::write(&mut frame[14..], packet);
    frame
}
