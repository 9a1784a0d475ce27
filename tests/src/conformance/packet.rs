//! IPv4 packets as the judge of conformance writes and reads them.
//!
//! Nothing here is shared with the code under test: a packet is written from its fields with
//! right checksums, and read back field by field with every checksum computed anew. Two packets
//! are equal if all fields are; lengths and checksums follow from the fields.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};

/// TCP flags.
pub const FIN: u8 = 0x01;
/// TCP flag.
pub const SYN: u8 = 0x02;
/// TCP flag.
pub const RST: u8 = 0x04;
/// TCP flag.
pub const PSH: u8 = 0x08;
/// TCP flag.
pub const ACK: u8 = 0x10;

/// An IPv4 packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// Type of service: six bits of DSCP, two of ECN.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub df: bool,
    /// More fragments follow.
    pub more: bool,
    /// Bytes before this fragment.
    pub offset: u16,
    /// Options of the IPv4 header, a multiple of four bytes.
    pub options: Vec<u8>,
    /// What is inside.
    pub body: Body,
}

/// What a packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A UDP datagram.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// The sender computed no checksum.
        bare: bool,
        /// Data.
        payload: Vec<u8>,
    },
    /// A TCP segment.
    Tcp(Tcp),
    /// An ICMP message.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes behind the checksum.
        rest: [u8; 4],
        /// What follows; of an error the packet that it quotes.
        payload: Vec<u8>,
    },
    /// Any other protocol, or a piece of a packet.
    Other {
        /// IP protocol number.
        protocol: u8,
        /// All behind the IPv4 header.
        bytes: Vec<u8>,
    },
}

/// A TCP segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Data.
    pub payload: Vec<u8>,
}

/// A UDP datagram with a small payload.
pub fn udp(from: SocketAddrV4, to: SocketAddrV4) -> Packet {
    let payload = b"conformance".to_vec();
    let body = Body::Udp { source: from.port(), destination: to.port(), bare: false, payload };
    Packet::new(*from.ip(), *to.ip(), body)
}

/// A TCP segment without data. Sequence numbers begin at 1000, those of the peer at 5000.
pub fn tcp(from: SocketAddrV4, to: SocketAddrV4, flags: u8) -> Packet {
    let segment = Tcp {
        source: from.port(),
        destination: to.port(),
        sequence: 1000,
        acknowledgement: if flags & ACK == 0 { 0 } else { 5001 },
        flags,
        window: 65_000,
        options: Vec::new(),
        payload: Vec::new(),
    };
    Packet::new(*from.ip(), *to.ip(), Body::Tcp(segment))
}

/// An ICMP query or its answer with an identifier: echo 8 and 0, timestamp 13 and 14.
pub fn query(from: Ipv4Addr, to: Ipv4Addr, kind: u8, identifier: u16) -> Packet {
    let [high, low] = identifier.to_be_bytes();
    let payload = vec![0x42; 12];
    Packet::new(from, to, Body::Icmp { kind, code: 0, rest: [high, low, 0, 1], payload })
}

/// An ICMP error from `from` about `about`, quoting its header and `bytes` of what follows, sent
/// to where `about` came from.
pub fn error(from: Ipv4Addr, kind: u8, code: u8, about: &Packet, bytes: usize) -> Packet {
    let whole = about.bytes();
    let payload = whole[..whole.len().min(20 + about.options.len() + bytes)].to_vec();
    Packet::new(from, about.source, Body::Icmp { kind, code, rest: [0; 4], payload })
}

impl Packet {
    /// A packet with TTL 64, DF set, as most hosts send.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, body: Body) -> Packet {
        Packet {
            source,
            destination,
            ttl: 64,
            tos: 0,
            id: 0x1234,
            df: true,
            more: false,
            offset: 0,
            options: Vec::new(),
            body,
        }
    }

    /// With another time to live.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Packet {
        Packet { ttl, ..self }
    }

    /// As it looks when one router has passed it on.
    #[must_use]
    pub fn hop(self) -> Packet {
        Packet { ttl: self.ttl - 1, ..self }
    }

    /// With or without DF.
    #[must_use]
    pub fn df(self, df: bool) -> Packet {
        Packet { df, ..self }
    }

    /// With another source address and port (or query identifier).
    #[must_use]
    pub fn from(mut self, from: SocketAddrV4) -> Packet {
        self.source = *from.ip();
        match &mut self.body {
            Body::Udp { source, .. } | Body::Tcp(Tcp { source, .. }) => *source = from.port(),
            Body::Icmp { rest, .. } => rest[..2].copy_from_slice(&from.port().to_be_bytes()),
            Body::Other { .. } => {}
        }
        self
    }

    /// With another destination address and port (or query identifier).
    #[must_use]
    pub fn to(mut self, to: SocketAddrV4) -> Packet {
        self.destination = *to.ip();
        match &mut self.body {
            Body::Udp { destination, .. } | Body::Tcp(Tcp { destination, .. }) => {
                *destination = to.port();
            }
            Body::Icmp { rest, .. } => rest[..2].copy_from_slice(&to.port().to_be_bytes()),
            Body::Other { .. } => {}
        }
        self
    }

    /// With other data.
    #[must_use]
    pub fn carrying(mut self, data: &[u8]) -> Packet {
        match &mut self.body {
            Body::Udp { payload, .. }
            | Body::Tcp(Tcp { payload, .. })
            | Body::Icmp { payload, .. } => *payload = data.to_vec(),
            Body::Other { bytes, .. } => *bytes = data.to_vec(),
        }
        self
    }

    /// With other TCP sequence and acknowledgement numbers.
    #[must_use]
    pub fn numbered(mut self, seq: u32, ack: u32) -> Packet {
        if let Body::Tcp(Tcp { sequence, acknowledgement, .. }) = &mut self.body {
            (*sequence, *acknowledgement) = (seq, ack);
        }
        self
    }

    /// What the other end answers: ends exchanged, an echo request or timestamp turned into its
    /// reply, TCP numbers exchanged and `flags` set.
    pub fn answer(&self, flags: u8) -> Packet {
        let mut answer = self.clone();
        answer.ttl = 64;
        (answer.source, answer.destination) = (self.destination, self.source);
        match &mut answer.body {
            Body::Udp { source, destination, .. } => std::mem::swap(source, destination),
            Body::Tcp(tcp) => {
                std::mem::swap(&mut tcp.source, &mut tcp.destination);
                let opens = tcp.flags & SYN != 0;
                let theirs = if opens { 5000 } else { tcp.acknowledgement };
                tcp.acknowledgement = tcp.sequence + u32::from(opens);
                (tcp.sequence, tcp.flags) = (theirs, flags);
                tcp.payload.clear();
            }
            Body::Icmp { kind, .. } => *kind = if *kind == 8 { 0 } else { *kind + 1 },
            Body::Other { .. } => {}
        }
        answer
    }

    /// Source address and port; for a query the identifier.
    pub fn sender(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.source, self.ports().0)
    }

    /// Destination address and port; for a query the identifier.
    pub fn receiver(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.destination, self.ports().1)
    }

    fn ports(&self) -> (u16, u16) {
        match &self.body {
            Body::Udp { source, destination, .. } | Body::Tcp(Tcp { source, destination, .. }) => {
                (*source, *destination)
            }
            Body::Icmp { rest, .. } => {
                let identifier = u16::from_be_bytes([rest[0], rest[1]]);
                (identifier, identifier)
            }
            Body::Other { bytes, .. } if self.offset == 0 && bytes.len() >= 4 => {
                (u16_at(bytes, 0), u16_at(bytes, 2))
            }
            Body::Other { .. } => (0, 0),
        }
    }

    /// Type and code, if it is ICMP.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        match &self.body {
            Body::Icmp { kind, code, .. } => Some((*kind, *code)),
            _ => None,
        }
    }

    /// IP protocol number.
    pub fn protocol(&self) -> u8 {
        match &self.body {
            Body::Udp { .. } => 17,
            Body::Tcp(_) => 6,
            Body::Icmp { .. } => 1,
            Body::Other { protocol, .. } => *protocol,
        }
    }

    /// Data of a UDP, TCP or ICMP packet, all of another.
    pub fn payload(&self) -> &[u8] {
        match &self.body {
            Body::Udp { payload, .. }
            | Body::Tcp(Tcp { payload, .. })
            | Body::Icmp { payload, .. } => payload,
            Body::Other { bytes, .. } => bytes,
        }
    }

    /// The packet as it is on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let segment = self.segment();
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header / 4) as u8, self.tos];
        bytes.extend(((header + segment.len()) as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        let flags = u16::from(self.df) << 14 | u16::from(self.more) << 13;
        bytes.extend((flags | (self.offset / 8)).to_be_bytes());
        bytes.extend([self.ttl, self.protocol(), 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        put_checksum(&mut bytes, 10, &[]);
        bytes.extend(segment);
        bytes
    }

    /// All behind the IPv4 header.
    fn segment(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match &self.body {
            Body::Udp { source, destination, bare, payload } => {
                for word in [*source, *destination, 8 + payload.len() as u16, 0] {
                    bytes.extend(word.to_be_bytes());
                }
                bytes.extend(payload);
                if !bare {
                    let pseudo = self.pseudo_header(bytes.len());
                    put_checksum(&mut bytes, 6, &pseudo);
                    if bytes[6..8] == [0, 0] {
                        bytes[6..8].fill(0xff);
                    }
                }
            }
            Body::Tcp(tcp) => {
                bytes.extend(tcp.source.to_be_bytes());
                bytes.extend(tcp.destination.to_be_bytes());
                bytes.extend(tcp.sequence.to_be_bytes());
                bytes.extend(tcp.acknowledgement.to_be_bytes());
                bytes.extend([((20 + tcp.options.len()) * 4) as u8, tcp.flags]);
                bytes.extend(tcp.window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(&tcp.options);
                bytes.extend(&tcp.payload);
                let pseudo = self.pseudo_header(bytes.len());
                put_checksum(&mut bytes, 16, &pseudo);
            }
            Body::Icmp { kind, code, rest, payload } => {
                bytes.extend([*kind, *code, 0, 0]);
                bytes.extend(rest);
                bytes.extend(payload);
                put_checksum(&mut bytes, 2, &[]);
            }
            Body::Other { bytes: all, .. } => bytes.extend(all),
        }
        bytes
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let mut bytes = [self.source.octets(), self.destination.octets()].concat();
        bytes.extend([0, self.protocol()]);
        bytes.extend((length as u16).to_be_bytes());
        bytes
    }

    /// Cut into fragments with at most `most` bytes behind the header, a multiple of eight.
    pub fn fragments(&self, most: usize) -> Vec<Packet> {
        let segment = self.segment();
        let count = segment.len().div_ceil(most);
        let piece = |index: usize| {
            let at = index * most;
            let bytes = segment[at..segment.len().min(at + most)].to_vec();
            Packet {
                df: false,
                more: index + 1 < count,
                offset: at as u16,
                body: Body::Other { protocol: self.protocol(), bytes },
                ..self.clone()
            }
        };
        (0..count).map(piece).collect()
    }

    /// Joined from fragments in any order; header fields are those of the first.
    ///
    /// # Errors
    /// A piece is missing or of another packet, or the whole is not a packet.
    pub fn reassemble(pieces: &[Packet]) -> Result<Packet> {
        let mut sorted: Vec<&Packet> = pieces.iter().collect();
        sorted.sort_by_key(|piece| piece.offset);
        let first = *sorted.first().context("no fragment")?;
        let mut all = Vec::new();
        for (index, piece) in sorted.iter().enumerate() {
            ensure!(usize::from(piece.offset) == all.len(), "a gap before byte {}", piece.offset);
            ensure!(piece.more == (index + 1 < sorted.len()), "MF is wrong in {piece:?}");
            let same = (piece.id, piece.source, piece.destination, piece.protocol());
            let wanted = (first.id, first.source, first.destination, first.protocol());
            ensure!(same == wanted, "a fragment of another packet: {piece:?}");
            all.extend(piece.payload());
        }
        let body = Body::Other { protocol: first.protocol(), bytes: all };
        let whole = Packet { more: false, offset: 0, body, ..first.clone() };
        let (packet, faults) = super::read::read(&whole.bytes())?;
        ensure!(faults.is_empty(), "reassembled packet: {faults:?}");
        Ok(packet)
    }
}

/// Writes the checksum of `bytes` (and of `before`, which is not part of them) at `at`.
fn put_checksum(bytes: &mut [u8], at: usize, before: &[u8]) {
    bytes[at..at + 2].fill(0);
    let sum = checksum(&[before, bytes]);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The Internet checksum (RFC 1071) of parts, of which all but the last have even lengths; 0 if
/// they hold a right one.
pub(super) fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u64 = words
        .map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or_default()))
        .sum();
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
