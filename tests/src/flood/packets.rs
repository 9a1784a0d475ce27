//! The packets of a flood, made from their number alone.

use std::net::Ipv4Addr;

use super::Addresses;
use crate::lab;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The first port that flows of a subscriber have.
const FIRST_PORT: u64 = 1024;
/// The discard port: nobody answers.
const DISCARD: u16 = 9;
const MORE_FRAGMENTS: u16 = 0x2000;

/// What a flood consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Flows of subscribers, one after the other and then again from the first: of each
    /// protocol, TCP, UDP and ICMP, as many.
    Flows {
        /// Number of the first subscriber, of those of the laboratory.
        first: u32,
        /// Subscribers.
        subscribers: u32,
        /// Flows of each subscriber, a third of each protocol.
        flows: u32,
        /// Where they all go.
        to: Ipv4Addr,
        /// Time to live.
        ttl: u8,
    },
    /// SYNs and UDP datagrams from anywhere to any port of some addresses.
    Scan {
        /// The sources.
        from: Addresses,
        /// The addresses.
        to: Addresses,
        /// The only port, if there is one.
        port: Option<u16>,
    },
    /// Fragments of which no datagram can be made: first ones alone, later ones alone, pairs that
    /// overlap, and ones too small for the TCP header; each with an identification of its own.
    Fragments {
        /// Number of the first subscriber.
        first: u32,
        /// Subscribers that send them in turn.
        subscribers: u32,
        /// Where they all go.
        to: Ipv4Addr,
    },
}

impl Shape {
    /// Packet `number` and its destination.
    pub(super) fn packet(&self, number: u64) -> (Vec<u8>, Ipv4Addr) {
        match *self {
            Shape::Flows { first, subscribers, flows, to, ttl } => {
                let flow = number % (u64::from(subscribers) * u64::from(flows));
                let source = lab::subscriber(first + (flow % u64::from(subscribers)) as u32);
                let flow = flow / u64::from(subscribers);
                let protocol = [UDP, TCP, ICMP][(flow % 3) as usize];
                let ports = ((FIRST_PORT + flow / 3) as u16, DISCARD);
                let payload = transport(protocol, (source, to), ports, &[0; 18]);
                (ipv4(protocol, (source, to), ttl, (number as u16, 0), &payload), to)
            }
            Shape::Scan { from, to, port } => {
                let mixed = mix(number);
                let (source, to) = (from.at(mixed), to.at(mixed >> 24));
                let (protocol, chosen) = ([UDP, TCP][(number % 2) as usize], (mixed >> 48) as u16);
                let ports = ((mixed >> 32) as u16 | 1, port.unwrap_or(chosen.max(1)));
                let payload = transport(protocol, (source, to), ports, &[0; 18]);
                (ipv4(protocol, (source, to), 64, (number as u16, 0), &payload), to)
            }
            Shape::Fragments { first, subscribers, to } => {
                // Two packets have one identification: only the overlapping kind needs both.
                let pair = number / 2;
                let turn = pair / 4;
                let source = lab::subscriber(first + (turn % u64::from(subscribers)) as u32);
                let second = number % 2 == 1;
                // Never 0, in the place of which the kernel puts another.
                let id = ((turn / u64::from(subscribers)) % 8191 * 8 + 8 + pair % 4 * 2) as u16;
                let unique = id | u16::from(second);
                let ports = (FIRST_PORT as u16 + 7, DISCARD);
                let whole = transport(UDP, (source, to), ports, &[0; 152]);
                let of_tcp = transport(TCP, (source, to), ports, &[]);
                let (id, at, bytes) = match (pair % 4, second) {
                    (0, _) => (unique, 0, &whole[..64]),
                    (1, _) => (unique, 64, &whole[64..128]),
                    // The second begins inside of the first.
                    (2, false) => (id, 0, &whole[..64]),
                    (2, true) => (id, 32, &whole[32..96]),
                    _ => (unique, 0, &of_tcp[..8]),
                };
                let protocol = if pair % 4 == 3 { TCP } else { UDP };
                // None is the last.
                let flags = (at / 8) | MORE_FRAGMENTS;
                (ipv4(protocol, (source, to), 64, (id, flags), bytes), to)
            }
        }
    }
}

/// SplitMix64: spreads numbers evenly.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn ipv4(
    protocol: u8,
    (source, destination): (Ipv4Addr, Ipv4Addr),
    ttl: u8,
    (id, fragment): (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[8..10].copy_from_slice(&[ttl, protocol]);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    // The kernel fills in the header's checksum, and an identification of 0.
    packet.extend_from_slice(payload);
    packet
}

/// A UDP datagram, a SYN, or an echo request whose identifier is the first of `ports`.
fn transport(
    protocol: u8,
    (source, destination): (Ipv4Addr, Ipv4Addr),
    (from, to): (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + payload.len());
    let place = match protocol {
        ICMP => {
            bytes.extend_from_slice(&[8, 0, 0, 0]);
            bytes.extend_from_slice(&from.to_be_bytes());
            bytes.extend_from_slice(&[0, 1]);
            2
        }
        TCP => {
            bytes.extend_from_slice(&from.to_be_bytes());
            bytes.extend_from_slice(&to.to_be_bytes());
            // Sequence number, no acknowledgement, five words, SYN, a window.
            bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
            16
        }
        _ => {
            bytes.extend_from_slice(&from.to_be_bytes());
            bytes.extend_from_slice(&to.to_be_bytes());
            bytes.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&[0, 0]);
            6
        }
    };
    if protocol != TCP {
        bytes.extend_from_slice(payload);
    }
    let mut sum = 0;
    if protocol != ICMP {
        sum += sum_of(&source.octets()) + sum_of(&destination.octets());
        sum += u32::from(protocol) + bytes.len() as u32;
    }
    sum += sum_of(&bytes);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    bytes[place..place + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes
}

fn sum_of(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u16::from_be_bytes([*high, *low]),
        other => u16::from_be_bytes([other[0], 0]),
    });
    words.map(u32::from).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TO: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

    #[test]
    fn flows_are_distinct_and_come_again_in_order() {
        let shape = Shape::Flows { first: 5, subscribers: 4, flows: 9, to: TO, ttl: 64 };
        let flow = |number| {
            let (packet, to) = shape.packet(number);
            assert_eq!(to, TO);
            (packet[9], packet[12..16].to_vec(), packet[20..28].to_vec())
        };
        let all: HashSet<_> = (0..36).map(flow).collect();
        assert_eq!(all.len(), 36);
        assert!((0..36).all(|number| flow(number) == flow(number + 36)));
        let sources: HashSet<_> = all.iter().map(|(_, source, _)| source.clone()).collect();
        assert_eq!(sources, (5..9).map(|n| lab::subscriber(n).octets().to_vec()).collect());
    }

    #[test]
    fn checksums_are_right() {
        // 45 bytes with an odd payload; a whole sum of all ones.
        let ends = (Ipv4Addr::new(100, 64, 0, 1), TO);
        for protocol in [UDP, TCP] {
            let bytes = transport(protocol, ends, (1024, 9), b"odd");
            let mut sum = sum_of(&bytes) + sum_of(&ends.0.octets()) + sum_of(&ends.1.octets());
            sum += u32::from(protocol) + bytes.len() as u32;
            sum = (sum >> 16) + (sum & 0xffff);
            assert_eq!((sum >> 16) + (sum & 0xffff), 0xffff, "protocol {protocol}");
        }
    }

    #[test]
    fn a_scan_meets_every_address_and_most_ports() {
        let from = Addresses { first: Ipv4Addr::new(198, 18, 0, 0), count: 65_536 };
        let to = Addresses { first: Ipv4Addr::new(203, 0, 113, 0), count: 4 };
        let shape = Shape::Scan { from, to, port: None };
        let packets: Vec<_> = (0..20_000).map(|number| shape.packet(number)).collect();
        let targets: HashSet<_> = packets.iter().map(|(_, to)| *to).collect();
        let ports: HashSet<_> = packets.iter().map(|(bytes, _)| [bytes[22], bytes[23]]).collect();
        assert!(targets.len() == 4 && ports.len() > 15_000, "{} ports", ports.len());
    }

    #[test]
    fn no_datagram_can_be_made_of_the_fragments() {
        let shape = Shape::Fragments { first: 0, subscribers: 2, to: TO };
        let mut alone = HashSet::new();
        for number in 0..8_000 {
            let (packet, _) = shape.packet(number);
            let flags = u16::from_be_bytes([packet[6], packet[7]]);
            assert_ne!(flags, 0, "a whole datagram");
            alone.insert((packet[12..16].to_vec(), packet[4..6].to_vec(), flags & 0x1fff));
        }
        assert_eq!(alone.len(), 8_000, "a fragment that completes or repeats another");
    }
}
