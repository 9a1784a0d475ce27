//! Nothing of the inside is seen outside: every frame that leaves the external port of a
//! laboratory, in every test, is looked at here (RFC 5508 REQ-5c, RFC 4787 REQ-9a).
//!
//! Source, destination, options, and the same of a packet that an ICMP error quotes; the
//! checksums of all headers; and no byte behind the packet.

const EXTERNAL: usize = 1;

/// Looks at a frame that leaves `port`.
pub fn nothing_of_the_inside(port: usize, frame: &[u8]) {
    if port != EXTERNAL {
        return;
    }
    let mut at = 12;
    while matches!(word(frame, at), 0x8100 | 0x88a8 | 0x9100) {
        at += 4;
    }
    let (ether_type, payload) = (word(frame, at), &frame[at + 2..]);
    match ether_type {
        0x0800 => packet(payload, frame),
        0x0806 => {
            for at in [14, 24] {
                let address = long(payload, at);
                assert!(!is_inside(address), "ARP of {address:08x} outside: {frame:02x?}");
            }
        }
        0x86dd => beside(payload, frame),
        _ => panic!("neither IPv4, ARP nor IPv6: {frame:02x?}"),
    }
}

fn packet(packet: &[u8], frame: &[u8]) {
    let header_len = header(packet, frame);
    assert_eq!(usize::from(word(packet, 2)), packet.len(), "bytes behind: {frame:02x?}");
    let source = long(packet, 12);
    let ours = source >> 8 == 0x00cb_0071 || source >> 2 == 0xc000_0200 >> 2;
    assert!(ours, "a packet from {source:08x} leaves the external port: {frame:02x?}");
    let segment = &packet[header_len..];
    let (whole, first) = (word(packet, 6) & 0x3fff == 0, word(packet, 6) & 0x1fff == 0);
    if packet[9] == 1 && first && matches!(segment[0], 3 | 11 | 12) {
        assert!(!whole || sum(segment) == 0xffff, "ICMP checksum: {frame:02x?}");
        header(&segment[8..], frame);
    }
}

/// IPv6 that passes, or is of the box: none of one link but what neighbours say to each other.
fn beside(packet: &[u8], frame: &[u8]) {
    assert_eq!(packet[0] >> 4, 6, "not IPv6: {frame:02x?}");
    assert_eq!(40 + usize::from(word(packet, 4)), packet.len(), "bytes behind: {frame:02x?}");
    let (from, to, hop_limit) = (&packet[8..24], &packet[24..40], packet[7]);
    let is_of_link = |address: &[u8]| address[..2] == [0xfe, 0x80] || address == [0; 16];
    let to_link = is_of_link(to) || to[..2] == [0xff, 2];
    // The box answers to the station that asked.
    let is_box = from[8..] == [0, 0, 0, 0xff, 0xfe, 0, 1, EXTERNAL as u8];
    assert!(!is_of_link(from) || to_link || is_box || hop_limit == 255, "off link: {frame:02x?}");
    assert!(to[0] != 0xff || hop_limit == 255, "to a group: {frame:02x?}");
    assert!(hop_limit > 0, "no hop limit: {frame:02x?}");
}

/// Checks a header; answers with its length.
fn header(packet: &[u8], frame: &[u8]) -> usize {
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let header = &packet[..header_len];
    assert_eq!(sum(header), 0xffff, "header checksum: {frame:02x?}");
    for at in [12, 16] {
        assert!(!is_inside(long(header, at)), "an internal address at {at}: {frame:02x?}");
    }
    let mut options = &header[20..];
    while let [kind, rest @ ..] = options {
        let length = match (kind, rest) {
            (0, _) => break,
            (1, _) => 1,
            (_, [length, ..]) => usize::from(*length),
            _ => panic!("an option is cut: {frame:02x?}"),
        };
        // Room that is not used counts as well.
        let (first, step) = match (kind, options.get(3).map(|flags| flags & 15)) {
            (7, _) => (3, 4),
            (68, Some(1 | 3)) => (4, 8),
            _ => (length, 1),
        };
        for slot in options[first..length].chunks_exact(step) {
            assert!(!is_inside(long(slot, 0)), "an internal address in options: {frame:02x?}");
        }
        options = &options[length..];
    }
    assert!(options.iter().all(|byte| *byte == 0), "behind the options: {frame:02x?}");
    header_len
}

/// Private, shared or link-local: all that tests have on the internal side.
fn is_inside(address: u32) -> bool {
    let ranges = [
        (0x0a00_0000, 8),
        (0x6440_0000, 10),
        (0xac10_0000, 12),
        (0xc0a8_0000, 16),
        (0xa9fe_0000, 16),
    ];
    ranges.iter().any(|(net, length)| (address ^ net) >> (32 - length) == 0u32)
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

#[test]
fn an_internal_address_in_any_place_is_found() {
    let good = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x47, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 203, 0,
        113, 1, 198, 51, 100, 7, 1, 7, 7, 4, 0, 0, 0, 0,
    ];
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = good.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        let checksum = !sum(&frame[14..42]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame
    };
    nothing_of_the_inside(EXTERNAL, &with(0, &[]));
    for at in [26, 30, 38] {
        for inside in [[10, 1, 2, 3], [100, 64, 0, 1], [192, 168, 1, 1]] {
            let frame = with(at, &inside);
            let found = std::panic::catch_unwind(|| nothing_of_the_inside(EXTERNAL, &frame));
            assert!(found.is_err(), "{inside:?} at {at}");
        }
    }
    let mut longer = with(0, &[]);
    longer.push(0);
    assert!(std::panic::catch_unwind(|| nothing_of_the_inside(EXTERNAL, &longer)).is_err());
}
