//! IPv6 packets as bytes, and a box that takes them. Knows nothing of the crate's own packet code.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use cgnat_core::testing::lab::port_mac;
use cgnat_core::verdict::DropReason;

use crate::desk::{Desk, EXTERNAL, Frames, HOPS, INTERNAL, plain};

pub const UDP: u8 = 17;
pub const ICMP: u8 = 58;

/// Own addresses, by port.
pub const OWN: [&str; 2] = ["2001:db8:a::2", "2001:db8:b::2"];
/// Next hops, by port.
pub const NEAR: [&str; 2] = ["fe80::9:1", "fe80::9:2"];
/// Of a subscriber, and of a server.
pub const HOST: &str = "2001:db8:100:7::5";
pub const SERVER: &str = "2001:db8:ffff::7";

/// Both ports take IPv6, with static neighbours.
pub fn config() -> String {
    let yaml = plain()
        .replace(
            "device: net_null0",
            "device: net_null0\n    ipv6: { addresses: [\"2001:db8:a::2/64\"] }",
        )
        .replace(
            "device: net_null1",
            "device: net_null1\n    ipv6: { addresses: [\"2001:db8:b::2/64\"], next-hop: \"fe80::9:2\" }",
        )
        .replace(
            "neighbours: [{ address: 10",
            "neighbours: [{ address: \"fe80::9:1\", mac: \"02:00:00:00:09:01\" }, { address: 10",
        )
        .replace(
            "neighbours: [{ address: 192",
            "neighbours: [{ address: \"fe80::9:2\", mac: \"02:00:00:00:09:02\" }, { address: 192",
        );
    yaml + "routes: [{ to: \"2001:db8:100::/40\", via: \"fe80::9:1\", port: internal0 }]\n"
}

/// The same without static neighbours of IPv6.
pub fn asking() -> String {
    config()
        .replace("{ address: \"fe80::9:1\", mac: \"02:00:00:00:09:01\" }, ", "")
        .replace("{ address: \"fe80::9:2\", mac: \"02:00:00:00:09:02\" }, ", "")
}

/// A box whose links are up and whose addresses are its own.
pub fn desk(yaml: &str, workers: u16) -> Desk {
    let mut desk = Desk::with(yaml, workers, 1);
    up(&mut desk);
    desk.lab.advance(1_010);
    desk.lab.take_sent();
    desk
}

/// The links of both ports come up.
pub fn up(desk: &mut Desk) {
    [INTERNAL, EXTERNAL].iter().for_each(|port| desk.lab.links.set_up(*port));
    desk.lab.advance(10);
}

pub fn ip(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

/// The checksum over the pseudo-header and a segment whose checksum is zero (RFC 8200 section 8.1).
pub fn sum(from: [u8; 16], to: [u8; 16], protocol: u8, segment: &[u8]) -> u16 {
    let mut all = [from, to].concat();
    all.extend((segment.len() as u32).to_be_bytes());
    all.extend([0, 0, 0, protocol]);
    all.extend(segment);
    all.resize(all.len().next_multiple_of(2), 0);
    let mut sum: u32 = all.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A packet whose payload is as given.
pub fn packet(from: &str, to: &str, hop_limit: u8, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0x0a, 0xbc, 0xde];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend(ip(from));
    packet.extend(ip(to));
    packet.extend(payload);
    packet
}

pub fn udp(from: &str, to: &str, len: usize) -> Vec<u8> {
    let mut segment = vec![0x13, 0x88, 0, 53];
    segment.extend(((8 + len) as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend((0..len).map(|n| n as u8));
    let sum = sum(ip(from), ip(to), UDP, &segment);
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    packet(from, to, 64, UDP, &segment)
}

/// An ICMPv6 message: its type, code and body behind the checksum.
pub fn icmp(from: &str, to: &str, hop_limit: u8, kind: (u8, u8), body: &[u8]) -> Vec<u8> {
    let mut segment = vec![kind.0, kind.1, 0, 0];
    segment.extend(body);
    let sum = sum(ip(from), ip(to), ICMP, &segment);
    segment[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(from, to, hop_limit, ICMP, &segment)
}

/// What the box makes has no flow label.
pub fn plainly(mut packet: Vec<u8>) -> Vec<u8> {
    packet[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    packet
}

pub fn ping(from: &str, to: &str) -> Vec<u8> {
    icmp(from, to, 64, (128, 0), &[0, 7, 0, 1, 1, 2, 3])
}

/// A solicitation for `target`, or with a flag an advertisement of it.
pub fn discovery(
    from: &str,
    to: &str,
    kind: u8,
    flags: u8,
    target: &str,
    mac: Option<[u8; 6]>,
) -> Vec<u8> {
    let mut body = vec![flags, 0, 0, 0];
    body.extend(ip(target));
    if let Some(mac) = mac {
        body.extend([if kind == 135 { 1 } else { 2 }, 1]);
        body.extend(mac);
    }
    icmp(from, to, 255, (kind, 0), &body)
}

/// The solicited-node group of an address, and its MAC.
pub fn group(address: &str) -> (String, [u8; 6]) {
    let [.., a, b, c] = ip(address);
    let group = format!("ff02::1:ff{a:02x}:{b:02x}{c:02x}");
    (group, [0x33, 0x33, 0xff, a, b, c])
}

pub fn frame(to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &[0x86, 0xdd], packet].concat()
}

/// What the box sends because a packet arrived from the next hop of a port.
pub fn offer(desk: &mut Desk, port: usize, packet: &[u8]) -> Frames {
    let frame = frame(port_mac(port), HOPS[port], packet);
    desk.lab.arrive(desk.at, port, &frame)
}

/// The packet leaves the other port as it is, but for its hop limit.
pub fn passes(desk: &mut Desk, port: usize, packet: &[u8]) {
    let mut expected = packet.to_vec();
    expected[7] -= 1;
    let out = 1 - port;
    let sent = offer(desk, port, packet);
    assert_eq!(sent, [(out, frame(HOPS[out], port_mac(out), &expected))], "{:?}", desk.drops());
}

/// The packet is dropped; what its sender is told is returned.
pub fn refused(desk: &mut Desk, port: usize, packet: &[u8], reason: DropReason) -> Frames {
    let frame = frame(port_mac(port), HOPS[port], packet);
    frame_refused(desk, port, &frame, reason)
}

pub fn frame_refused(desk: &mut Desk, port: usize, frame: &[u8], reason: DropReason) -> Frames {
    let mut expected: BTreeMap<_, _> = desk.drops();
    *expected.entry(reason).or_default() += 1;
    let sent = desk.lab.arrive(desk.at, port, frame);
    assert_eq!(desk.drops(), expected, "should be dropped under {}", reason.name());
    sent
}

/// The error that tells a sender of `packet` something, from an own address of its port.
pub fn error(port: usize, kind: (u8, u8), rest: u32, packet: &[u8]) -> (usize, Vec<u8>) {
    let to = Ipv6Addr::from(<[u8; 16]>::try_from(&packet[8..24]).unwrap()).to_string();
    let link_local = format!("fe80::ff:fe00:10{port}");
    let from = if to.starts_with("fe80") { link_local.as_str() } else { OWN[port] };
    let quoted = packet.len().min(1280 - 48);
    let body = [&rest.to_be_bytes(), &packet[..quoted]].concat();
    let told = plainly(icmp(from, &to, 64, kind, &body));
    (port, frame(HOPS[port], port_mac(port), &told))
}
