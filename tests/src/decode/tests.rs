//! A right translation passes; each rule fails when the captures are corrupted against it.

use std::fs::File;

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use tempfile::TempDir;

use super::*;

const A: [u8; 4] = [100, 64, 0, 10];
const B: [u8; 4] = [100, 64, 3, 7];
const POOL: [u8; 4] = [203, 0, 113, 1];
const SERVER: [u8; 4] = [198, 51, 100, 10];
const OTHER_SERVER: [u8; 4] = [198, 51, 100, 11];

const INTERNAL_IN: usize = 0;
const EXTERNAL_IN: usize = 1;
const INTERNAL_OUT: usize = 2;
const EXTERNAL_OUT: usize = 3;

/// Frames of the four captures in the order of [`Captures`].
type Scene = [Vec<Vec<u8>>; 4];

/// A hand-made frame; checksums right, TTL as given.
fn frame(source: [u8; 4], destination: [u8; 4], ttl: u8, protocol: u8, inner: &[u8]) -> Vec<u8> {
    let mut bytes = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]].concat();
    bytes.extend([8, 0, 0x45, 0]);
    bytes.extend(((20 + inner.len()) as u16).to_be_bytes());
    bytes.extend([0x12, 0x34, 0x40, 0, ttl, protocol, 0, 0]);
    bytes.extend(source);
    bytes.extend(destination);
    bytes.extend(inner);
    mend(&mut bytes);
    bytes
}

fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), ttl: u8, data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len()) as u16;
    let header = [from.1, to.1, length, 0].map(u16::to_be_bytes).concat();
    frame(from.0, to.0, ttl, 17, &[&header, data].concat())
}

fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), ttl: u8, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut header = [from.1, to.1, 7, 9, 1, 3].map(u16::to_be_bytes).concat();
    header.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    frame(from.0, to.0, ttl, 6, &[&header, data].concat())
}

fn echo(kind: u8, from: [u8; 4], to: [u8; 4], ttl: u8, identifier: u16) -> Vec<u8> {
    let mut header = vec![kind, 0, 0, 0];
    header.extend(identifier.to_be_bytes());
    header.extend([0, 1]);
    frame(from, to, ttl, 1, &[&header[..], b"0123456789abcdef"].concat())
}

fn arp() -> Vec<u8> {
    let mut bytes = [[0xff; 6], [2, 0, 0, 0, 0, 2]].concat();
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2]);
    bytes.extend([10, 255, 0, 1, 0, 0, 0, 0, 0, 0, 10, 255, 0, 2]);
    bytes
}

/// Computes the checksums anew.
fn mend(bytes: &mut [u8]) {
    fn sum(parts: &[&[u8]]) -> [u8; 2] {
        let mut sum = 0u32;
        for pair in parts.iter().flat_map(|part| part.chunks(2)) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }
    bytes[24..26].fill(0);
    let header = sum(&[&bytes[14..34]]);
    bytes[24..26].copy_from_slice(&header);
    let place = match bytes[23] {
        1 => 36,
        6 => 50,
        _ => 40,
    };
    bytes[place..place + 2].fill(0);
    let length = (bytes.len() - 34) as u16;
    let pseudo = [&bytes[26..34], &[0, bytes[23]], &length.to_be_bytes()].concat();
    let pseudo: &[u8] = if bytes[23] == 1 { &[] } else { &pseudo };
    let checksum = sum(&[pseudo, &bytes[34..]]);
    bytes[place..place + 2].copy_from_slice(&checksum);
}

/// Two subscribers behind one address: queries to two servers from one endpoint, TCP, echo, a
/// hairpinned datagram, one packet dropped (a source outside the ranges), ARP on both sides.
fn scene() -> Scene {
    [
        vec![
            arp(),
            udp((A, 5000), (SERVER, 53), 64, b"query one"),
            udp((A, 5000), (OTHER_SERVER, 53), 64, b"query two"),
            tcp((B, 40000), (SERVER, 80), 64, 2, b""),
            echo(8, A, SERVER, 64, 7),
            udp((B, 6000), (POOL, 1030), 64, b"hello neighbour"),
            udp(([10, 9, 9, 9], 1), (SERVER, 53), 64, b"stranger"),
        ],
        vec![
            udp((SERVER, 53), (POOL, 1030), 60, b"answer one"),
            tcp((SERVER, 80), (POOL, 1600), 60, 0x12, b""),
            echo(0, SERVER, POOL, 60, 1100),
        ],
        vec![
            udp((SERVER, 53), (A, 5000), 59, b"answer one"),
            tcp((SERVER, 80), (B, 40000), 59, 0x12, b""),
            echo(0, SERVER, A, 59, 7),
            udp((POOL, 1601), (A, 5000), 63, b"hello neighbour"),
            arp(),
        ],
        vec![
            udp((POOL, 1030), (SERVER, 53), 63, b"query one"),
            udp((POOL, 1030), (OTHER_SERVER, 53), 63, b"query two"),
            tcp((POOL, 1600), (SERVER, 80), 63, 2, b""),
            echo(8, POOL, SERVER, 63, 1100),
        ],
    ]
}

fn write(directory: &TempDir, name: &str, frames: &[Vec<u8>]) -> std::path::PathBuf {
    let path = directory.path().join(name);
    let file = File::create(&path).expect("a file");
    let header = PcapHeader { datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(file, header).expect("a header");
    for (index, data) in (0u64..).zip(frames) {
        let time = std::time::Duration::from_micros(1_000_000 + index);
        let packet = PcapPacket::new(time, data.len() as u32, data);
        writer.write_packet(&packet).expect("written");
    }
    path
}

fn verify(scene: &Scene, max_blocks: usize) -> Report {
    let directory = tempfile::tempdir().expect("a directory");
    let paths = ["internal-in", "external-in", "internal-out", "external-out"];
    let paths: Vec<_> =
        paths.iter().zip(scene).map(|(name, frames)| write(&directory, name, frames)).collect();
    let captures = Captures {
        internal_in: &paths[INTERNAL_IN],
        external_in: &paths[EXTERNAL_IN],
        internal_out: &paths[INTERNAL_OUT],
        external_out: &paths[EXTERNAL_OUT],
    };
    let rules = Rules {
        subscribers: vec!["100.64.0.0/10".parse().expect("a prefix")],
        pool: vec!["203.0.113.0/24".parse().expect("a prefix")],
        own: vec![Ipv4Addr::new(10, 255, 0, 2), Ipv4Addr::new(192, 0, 2, 2)],
        ports: (1024, 65535),
        block_size: 512,
        max_blocks,
    };
    // The stranger was dropped, the ARP request consumed.
    let accounted = Accounted { dropped: 1, consumed: 1 };
    verify_translated(captures, &rules, Some(accounted)).expect("captures that can be read")
}

/// The violations after `corrupt` changed the right translation.
fn violations(corrupt: impl FnOnce(&mut Scene)) -> Vec<Violation> {
    let mut scene = scene();
    corrupt(&mut scene);
    verify(&scene, 2).violations
}

/// Writes `value` at `place` of a frame and computes its checksums anew.
fn set(frame: &mut [u8], place: usize, value: &[u8]) {
    frame[place..place + value.len()].copy_from_slice(value);
    mend(frame);
}

const SOURCE: usize = 26;
const SOURCE_PORT: usize = 34;
const TTL: usize = 22;

fn endpoint(protocol: u8, address: [u8; 4], port: u16) -> Endpoint {
    Endpoint { protocol, socket: SocketAddrV4::new(address.into(), port) }
}

#[test]
fn a_right_translation_has_no_violations_and_all_packets_are_counted() {
    let report = verify(&scene(), 2);
    let expected = Report {
        arrived: 10,
        sent: 9,
        outbound: 4,
        inbound: 3,
        hairpinned: 1,
        originated: 1,
        not_sent_on: 2,
        mappings: 4,
        subscribers: 2,
        violations: vec![],
    };
    assert_eq!(report, expected, "{report}");
}

#[test]
fn a_wrong_checksum_of_each_layer_is_found() {
    for (number, place, layer) in [(0, 24, "IPv4"), (0, 40, "UDP"), (2, 50, "TCP"), (3, 36, "ICMP")]
    {
        let found = violations(|scene| scene[EXTERNAL_OUT][number][place] ^= 0x55);
        let expected = Violation::Checksum(Side::External, number as u64 + 1, layer);
        assert_eq!(found, [expected], "{layer}");
    }
    let found = violations(|scene| scene[INTERNAL_OUT][0][24] ^= 1);
    assert_eq!(found, [Violation::Checksum(Side::Internal, 1, "IPv4")]);
}

#[test]
fn a_udp_checksum_of_zero_is_no_checksum() {
    let found = violations(|scene| scene[EXTERNAL_OUT][0][40..42].fill(0));
    assert_eq!(found, []);
}

#[test]
fn a_packet_that_vanished_or_was_counted_twice_is_unaccounted() {
    let found = violations(|scene| drop(scene[EXTERNAL_OUT].pop()));
    assert_eq!(found, [Violation::Unaccounted { missing: 3, counted: 2 }]);
    let found = violations(|scene| drop(scene[INTERNAL_IN].pop()));
    assert_eq!(found, [Violation::Unaccounted { missing: 1, counted: 2 }]);
}

#[test]
fn a_packet_sent_twice_or_with_other_bytes_is_unexplained() {
    let found = violations(|scene| {
        let again = scene[EXTERNAL_OUT][0].clone();
        scene[EXTERNAL_OUT].push(again);
    });
    assert_eq!(found, [Violation::Unexplained(Side::External, 5)]);
    let found = violations(|scene| set(&mut scene[INTERNAL_OUT][0], 42, b"B"));
    let missing = Violation::Unaccounted { missing: 3, counted: 2 };
    assert_eq!(found, [Violation::Unexplained(Side::Internal, 1), missing]);
    // The hairpinned one, and a TCP flag.
    let found = violations(|scene| set(&mut scene[INTERNAL_OUT][3], 42, b"H"));
    assert!(found.contains(&Violation::Unexplained(Side::Internal, 4)), "{found:?}");
    let found = violations(|scene| set(&mut scene[EXTERNAL_OUT][2], 47, &[0x10]));
    assert!(found.contains(&Violation::Unexplained(Side::External, 3)), "{found:?}");
}

#[test]
fn a_ttl_that_is_not_one_lower_is_found() {
    let found = violations(|scene| set(&mut scene[EXTERNAL_OUT][0], TTL, &[64]));
    assert_eq!(found, [Violation::TimeToLive(Side::External, 1)]);
}

#[test]
fn subscriber_space_or_a_foreign_source_on_the_external_side_is_found() {
    let found = violations(|scene| scene[EXTERNAL_OUT].push(echo(8, A, SERVER, 63, 7)));
    assert!(found.contains(&Violation::Leak(5)), "{found:?}");
    let found = violations(|scene| scene[EXTERNAL_OUT].push(echo(8, SERVER, A, 63, 7)));
    assert!(found.contains(&Violation::Leak(5)), "{found:?}");
    let found = violations(|scene| set(&mut scene[EXTERNAL_OUT][3], SOURCE, &[8, 8, 8, 8]));
    assert!(found.contains(&Violation::ForeignSource(4)), "{found:?}");
}

#[test]
fn a_subscriber_with_two_external_addresses_is_found() {
    let other = [203, 0, 113, 2];
    let found = violations(|scene| {
        set(&mut scene[EXTERNAL_OUT][3], SOURCE, &other);
        set(&mut scene[EXTERNAL_IN][2], 30, &other);
    });
    let both = BTreeSet::from([POOL.into(), other.into()]);
    assert_eq!(found, [Violation::SeveralAddresses(A.into(), both)]);
}

#[test]
fn one_internal_endpoint_with_two_external_ones_is_found() {
    let port = 1031u16.to_be_bytes();
    let found = violations(|scene| set(&mut scene[EXTERNAL_OUT][1], SOURCE_PORT, &port));
    let both = BTreeSet::from([endpoint(17, POOL, 1030), endpoint(17, POOL, 1031)]);
    assert_eq!(found, [Violation::SeveralMappings(endpoint(17, A, 5000), both)]);
}

#[test]
fn one_external_endpoint_with_two_owners_is_found() {
    let port = 1030u16.to_be_bytes();
    let found = violations(|scene| set(&mut scene[INTERNAL_OUT][3], SOURCE_PORT, &port));
    let both = BTreeSet::from([endpoint(17, A, 5000), endpoint(17, B, 6000)]);
    let expected = Violation::SeveralOwners(endpoint(17, POOL, 1030), both);
    assert!(found.contains(&expected), "{found:?}");
}

#[test]
fn an_answer_delivered_to_another_subscriber_is_found() {
    let found = violations(|scene| set(&mut scene[INTERNAL_OUT][0], 30, &B));
    let both = BTreeSet::from([endpoint(17, A, 5000), endpoint(17, B, 5000)]);
    let expected = Violation::SeveralOwners(endpoint(17, POOL, 1030), both);
    assert!(found.contains(&expected), "{found:?}");
}

#[test]
fn two_subscribers_in_one_block_are_found() {
    let port = 1031u16.to_be_bytes();
    let found = violations(|scene| set(&mut scene[INTERNAL_OUT][3], SOURCE_PORT, &port));
    let both = BTreeSet::from([A.into(), B.into()]);
    let block = SocketAddrV4::new(POOL.into(), 1024);
    assert_eq!(found, [Violation::SharedBlock(block, both)]);
}

#[test]
fn more_blocks_than_allowed_and_ports_not_lent_are_found() {
    let far = 9000u16.to_be_bytes();
    let far_away = |scene: &mut Scene| set(&mut scene[INTERNAL_OUT][3], SOURCE_PORT, &far);
    let mut corrupted = scene();
    far_away(&mut corrupted);
    assert_eq!(verify(&corrupted, 2).violations, []);
    let found = verify(&corrupted, 1).violations;
    assert_eq!(found, [Violation::TooManyBlocks(B.into(), 2)]);

    let low = 1023u16.to_be_bytes();
    let found = violations(|scene| set(&mut scene[INTERNAL_OUT][3], SOURCE_PORT, &low));
    assert_eq!(found, [Violation::PortNotLent(endpoint(17, POOL, 1023))]);
}

#[test]
fn alike_packets_are_matched_by_their_mappings() {
    // Both subscribers send the same bytes to the same server; sent in the other order.
    let found = violations(|scene| {
        for subscriber in [A, B] {
            scene[INTERNAL_IN].push(udp((subscriber, 9000), (SERVER, 53), 64, b"alike"));
            scene[INTERNAL_IN].push(udp((subscriber, 9000), (SERVER, 54), 64, &subscriber));
        }
        for (subscriber, port) in [(B, 1700), (A, 1200)] {
            scene[EXTERNAL_OUT].push(udp((POOL, port), (SERVER, 53), 63, b"alike"));
            scene[EXTERNAL_OUT].push(udp((POOL, port), (SERVER, 54), 63, &subscriber));
        }
    });
    assert_eq!(found, []);
}

#[test]
fn a_file_that_is_no_capture_is_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("text");
    std::fs::write(&path, "no capture at all, only text").expect("written");
    let error = read(&path).expect_err("text").to_string();
    assert!(error.contains("is no capture"), "{error}");
}
