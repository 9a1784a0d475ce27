//! The datagrams of the storm. All numbers are big-endian; times are nanoseconds since the
//! storm began, by one clock, since all speakers are one process.

use std::net::{Ipv4Addr, SocketAddrV4};

const MAGIC: u32 = 0x6861_6972;
const ASK: u32 = 1;
const ANSWER: u32 = 2;
const TALK: u32 = 3;

/// Longest datagram.
pub(super) const BYTES: usize = 64;

/// One socket in one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Speaker {
    pub(super) socket: u32,
    pub(super) life: u32,
}

/// A datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// To the reflector.
    Ask { who: Speaker, asked: u64 },
    /// From the reflector, with the endpoint that it saw.
    Answer { who: Speaker, asked: u64, seen: SocketAddrV4 },
    /// From speaker to speaker.
    Talk(Talk),
}

/// From speaker to speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Talk {
    pub(super) from: Speaker,
    /// The sender's external endpoint, as far as it knows.
    pub(super) expected: SocketAddrV4,
    /// For whom it is.
    pub(super) meant: Speaker,
    /// The external endpoint that it is sent to.
    pub(super) to: SocketAddrV4,
    pub(super) sent: u64,
    pub(super) sequence: u32,
}

/// Writes a message; returns its length.
pub(super) fn write(message: &Message, buffer: &mut [u8; BYTES]) -> usize {
    let mut out = Writer { buffer, at: 0 };
    out.u32(MAGIC);
    match *message {
        Message::Ask { who, asked } => {
            out.u32(ASK);
            out.speaker(who);
            out.u64(asked);
        }
        Message::Answer { who, asked, seen } => {
            out.u32(ANSWER);
            out.speaker(who);
            out.u64(asked);
            out.endpoint(seen);
        }
        Message::Talk(Talk { from, expected, meant, to, sent, sequence }) => {
            out.u32(TALK);
            out.speaker(from);
            out.endpoint(expected);
            out.speaker(meant);
            out.endpoint(to);
            out.u64(sent);
            out.u32(sequence);
        }
    }
    out.at
}

/// Reads a message; `None` for anything that is not one.
pub(super) fn read(bytes: &[u8]) -> Option<Message> {
    let mut from = Reader(bytes);
    if from.u32()? != MAGIC {
        return None;
    }
    let message = match from.u32()? {
        ASK => Message::Ask { who: from.speaker()?, asked: from.u64()? },
        ANSWER => {
            Message::Answer { who: from.speaker()?, asked: from.u64()?, seen: from.endpoint()? }
        }
        TALK => Message::Talk(Talk {
            from: from.speaker()?,
            expected: from.endpoint()?,
            meant: from.speaker()?,
            to: from.endpoint()?,
            sent: from.u64()?,
            sequence: from.u32()?,
        }),
        _ => return None,
    };
    from.0.is_empty().then_some(message)
}

struct Writer<'a> {
    buffer: &'a mut [u8; BYTES],
    at: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.buffer[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    fn speaker(&mut self, speaker: Speaker) {
        self.u32(speaker.socket);
        self.u32(speaker.life);
    }

    fn endpoint(&mut self, endpoint: SocketAddrV4) {
        self.bytes(&endpoint.ip().octets());
        self.bytes(&endpoint.port().to_be_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn speaker(&mut self) -> Option<Speaker> {
        Some(Speaker { socket: self.u32()?, life: self.u32()? })
    }

    fn endpoint(&mut self) -> Option<SocketAddrV4> {
        let address: [u8; 4] = self.array()?;
        let port = self.array().map(u16::from_be_bytes)?;
        Some(SocketAddrV4::new(Ipv4Addr::from(address), port))
    }
}
