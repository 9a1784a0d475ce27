//! Packets as fields, and their bytes with full checksums. Knows nothing of the crate's own
//! packet code, so that the two can be held against each other.

/// What a packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Udp {
        source: u16,
        destination: u16,
        checksummed: bool,
    },
    Tcp {
        source: u16,
        destination: u16,
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        options: Vec<u8>,
    },
    Echo {
        request: bool,
        identifier: u16,
        sequence: u16,
    },
    /// Its payload has the three times, and whatever follows.
    Timestamp {
        request: bool,
        identifier: u16,
        sequence: u16,
    },
    /// A protocol that is not translated by ports. UDP-Lite and DCCP have a checksum over all of
    /// it and the addresses.
    Bare {
        protocol: Protocol,
    },
    /// GRE of PPTP (RFC 2637 section 4.1), with a sequence number.
    Call {
        id: u16,
    },
    /// An ICMP error: the packet it is about, of which it quotes `kept` bytes behind the
    /// IPv4 header, at least eight. The payload of the error itself, if any, is an extension
    /// (RFC 4884): then the quote is filled up with zeros to 128 bytes and its length is told.
    Error {
        kind: u8,
        code: u8,
        rest: u32,
        about: Box<Packet>,
        kept: usize,
    },
}

/// An IPv4 packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub identification: u16,
    /// Must not be fragmented.
    pub df: bool,
    pub ttl: u8,
    pub options: Vec<u8>,
    pub source: u32,
    pub destination: u32,
    pub body: Body,
    pub payload: Vec<u8>,
}

/// First sequence number of every connection: the numbers soon wrap around.
pub const FIRST: u32 = 0xffff_fff0;

/// Sequence and acknowledgement number of a segment with `flags` of a host that has sent and
/// received a SYN and no more.
pub fn numbers(flags: u8) -> (u32, u32) {
    const SYN: u8 = 2;
    let sequence = if flags & SYN != 0 { FIRST } else { FIRST.wrapping_add(1) };
    (sequence, FIRST.wrapping_add(1))
}

/// Protocol as in the IPv4 header.
pub type Protocol = u8;

pub const ICMP: Protocol = 1;
pub const TCP: Protocol = 6;
pub const UDP: Protocol = 17;
pub const DCCP: Protocol = 33;
pub const GRE: Protocol = 47;
pub const ESP: Protocol = 50;
pub const SCTP: Protocol = 132;
pub const UDP_LITE: Protocol = 136;

impl Packet {
    pub fn protocol(&self) -> Protocol {
        match self.body {
            Body::Udp { .. } => UDP,
            Body::Tcp { .. } => TCP,
            Body::Bare { protocol } => protocol,
            Body::Call { .. } => GRE,
            Body::Echo { .. } | Body::Timestamp { .. } | Body::Error { .. } => ICMP,
        }
    }

    /// Source address and port, or query identifier; a call's is the receiver's.
    pub fn from(&self) -> (u32, u16) {
        match self.body {
            Body::Udp { source, .. } | Body::Tcp { source, .. } => (self.source, source),
            Body::Echo { identifier, .. } | Body::Timestamp { identifier, .. } => {
                (self.source, identifier)
            }
            Body::Error { .. } | Body::Bare { .. } | Body::Call { .. } => (self.source, 0),
        }
    }

    /// Destination address and port, or query identifier.
    pub fn to(&self) -> (u32, u16) {
        match self.body {
            Body::Udp { destination, .. } | Body::Tcp { destination, .. } => {
                (self.destination, destination)
            }
            Body::Echo { identifier, .. } | Body::Timestamp { identifier, .. } => {
                (self.destination, identifier)
            }
            Body::Call { id } => (self.destination, id),
            Body::Error { .. } | Body::Bare { .. } => (self.destination, 0),
        }
    }

    pub fn set_source(&mut self, (address, port): (u32, u16)) {
        self.source = address;
        match &mut self.body {
            Body::Udp { source, .. } | Body::Tcp { source, .. } => *source = port,
            Body::Echo { identifier, .. } | Body::Timestamp { identifier, .. } => {
                *identifier = port;
            }
            Body::Bare { .. } | Body::Call { .. } => {}
            // It comes from where the packet that it is about went to.
            Body::Error { about, .. } => about.set_destination((address, port)),
        }
    }

    pub fn set_destination(&mut self, (address, port): (u32, u16)) {
        self.destination = address;
        match &mut self.body {
            Body::Udp { destination, .. } | Body::Tcp { destination, .. } => *destination = port,
            Body::Echo { identifier, .. } | Body::Timestamp { identifier, .. } => {
                *identifier = port;
            }
            Body::Call { id } => *id = port,
            Body::Bare { .. } => {}
            // It goes to where the packet that it is about came from.
            Body::Error { about, .. } => about.set_source((address, port)),
        }
    }

    /// Bytes of the packet.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// The packet on the wire, in one piece if it is not larger than the MTU; else in fragments
    /// (RFC 791). Options are no-operations here and so in the first fragment alone.
    pub fn pieces(&self, mtu: usize) -> Vec<Vec<u8>> {
        let whole = self.bytes();
        if whole.len() <= mtu {
            return vec![whole];
        }
        let first = 20 + self.options.len() + (mtu - 20 - self.options.len()) / 8 * 8;
        let mut cuts = vec![first];
        // The last one need not be a multiple of eight.
        while whole.len() - cuts[cuts.len() - 1] > mtu - 20 {
            cuts.push(cuts[cuts.len() - 1] + (mtu - 20) / 8 * 8);
        }
        cuts.push(whole.len());
        self.fragments(&cuts)
    }

    /// Fragments of the packet that end at these bytes of it.
    pub fn fragments(&self, cuts: &[usize]) -> Vec<Vec<u8>> {
        let whole = self.bytes();
        let header_len = 20 + self.options.len();
        let mut from = header_len;
        let mut fragments = Vec::new();
        for cut in cuts {
            let mut header = whole[..20].to_vec();
            if from == header_len {
                header = whole[..header_len].to_vec();
            }
            header[0] = 0x40 | (header.len() / 4) as u8;
            let more = u16::from(*cut < whole.len()) << 13;
            let word = u16::from(self.df) << 14 | more | ((from - header_len) / 8) as u16;
            let total = header.len() + cut - from;
            put(&mut header, 2, total as u16);
            put(&mut header, 6, word);
            put(&mut header, 10, 0);
            let sum = checksum(&header);
            put(&mut header, 10, sum);
            header.extend(&whole[from..*cut]);
            fragments.push(header);
            from = *cut;
        }
        fragments
    }

    /// The packet on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        match &self.body {
            Body::Udp { source, destination, .. } => {
                let length = 8 + self.payload.len() as u16;
                push(&mut segment, &[*source, *destination, length, 0]);
            }
            Body::Tcp { source, destination, flags, sequence, acknowledgement, options } => {
                let offset = ((20 + options.len() as u16) / 4) << 12 | u16::from(*flags);
                push(&mut segment, &[*source, *destination]);
                segment.extend([sequence, acknowledgement].map(|n| n.to_be_bytes()).concat());
                push(&mut segment, &[offset, 500, 0, 0]);
                segment.extend(options);
            }
            Body::Echo { request, identifier, sequence } => {
                let kind = if *request { 0x0800 } else { 0 };
                push(&mut segment, &[kind, 0, *identifier, *sequence]);
            }
            Body::Timestamp { request, identifier, sequence } => {
                let kind = if *request { 0x0d00 } else { 0x0e00 };
                push(&mut segment, &[kind, 0, *identifier, *sequence]);
            }
            Body::Bare { protocol: DCCP | UDP_LITE } => push(&mut segment, &[7000, 7001, 0, 0]),
            Body::Bare { .. } => {}
            Body::Call { id } => {
                let length = self.payload.len() as u16;
                push(&mut segment, &[0x3001, 0x880b, length, *id, 0, 9]);
            }
            Body::Error { kind, code, rest, about, kept } => {
                let first = u16::from(*kind) << 8 | u16::from(*code);
                push(&mut segment, &[first, 0, (*rest >> 16) as u16, *rest as u16]);
                let quoted = about.bytes();
                let end = quoted.len().min(20 + about.options.len() + kept);
                segment.extend(&quoted[..end]);
                if !self.payload.is_empty() {
                    segment.resize(8 + 128.max(end.next_multiple_of(4)), 0);
                    segment[5] = ((segment.len() - 8) / 4) as u8;
                }
            }
        }
        segment.extend(&self.payload);
        let (high, low) = (|a: u32| (a >> 16) as u16, |a: u32| a as u16);
        let mut covered = Vec::new();
        if self.protocol() != ICMP {
            let (s, d) = (self.source, self.destination);
            let length = segment.len() as u16;
            push(&mut covered, &[high(s), low(s), high(d), low(d), self.protocol().into(), length]);
        }
        covered.extend(&segment);
        let sum = checksum(&covered);
        match self.body {
            Body::Udp { checksummed: false, .. } => {}
            Body::Udp { .. } => put(&mut segment, 6, if sum == 0 { 0xffff } else { sum }),
            Body::Tcp { .. } => put(&mut segment, 16, sum),
            Body::Bare { protocol: UDP_LITE } => {
                put(&mut segment, 6, if sum == 0 { 0xffff } else { sum });
            }
            Body::Bare { protocol: DCCP } => put(&mut segment, 6, sum),
            Body::Bare { .. } | Body::Call { .. } => {}
            Body::Echo { .. } | Body::Timestamp { .. } | Body::Error { .. } => {
                put(&mut segment, 2, sum);
            }
        }

        let header_len = 20 + self.options.len();
        let total = (header_len + segment.len()) as u16;
        let first = (0x40 | (header_len as u16 / 4)) << 8;
        let ttl = u16::from(self.ttl) << 8 | u16::from(self.protocol());
        let mut packet = Vec::new();
        let word = u16::from(self.df) << 14;
        push(&mut packet, &[first, total, self.identification, word, ttl, 0]);
        let (s, d) = (self.source, self.destination);
        push(&mut packet, &[high(s), low(s), high(d), low(d)]);
        packet.extend(&self.options);
        let sum = checksum(&packet);
        put(&mut packet, 10, sum);
        packet.extend(segment);
        packet
    }
}

/// Link header of a port.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub to: [u8; 6],
    pub from: [u8; 6],
    pub vlan: Option<Vlan>,
}

/// Tags of a link's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlan {
    /// TPID and id of a tag before the 802.1Q one.
    pub outer: Option<(u16, u16)>,
    pub id: u16,
}

impl Vlan {
    pub const fn dot1q(id: u16) -> Self {
        Self { outer: None, id }
    }

    pub const fn qinq(outer: u16, id: u16) -> Self {
        Self { outer: Some((0x88a8, outer)), id }
    }
}

/// Keys of a port with these tags.
pub fn vlan_keys(vlan: Option<Vlan>) -> String {
    let Some(Vlan { outer, id }) = vlan else { return String::new() };
    let outer = outer.map_or(String::new(), |(tpid, outer)| {
        format!("    outer-vlan: {outer}\n    outer-tpid: {tpid:#x}\n")
    });
    format!("    vlan: {id}\n{outer}")
}

/// Bytes of the link header.
pub fn link_len(vlan: Option<Vlan>) -> usize {
    match vlan {
        None => 14,
        Some(Vlan { outer: None, .. }) => 18,
        Some(Vlan { outer: Some(_), .. }) => 22,
    }
}

impl Link {
    pub fn frame(&self, ether_type: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = [self.to, self.from].concat();
        if let Some(Vlan { outer, id }) = self.vlan {
            outer.inspect(|(tpid, outer)| push(&mut frame, &[*tpid, *outer]));
            push(&mut frame, &[0x8100, id]);
        }
        push(&mut frame, &[ether_type]);
        frame.extend(payload);
        frame
    }
}

/// RFC 1071, by words of 32 bits (its section 2(C)).
pub fn checksum(bytes: &[u8]) -> u16 {
    let word = |four: &[u8]| {
        let byte = |at: usize| four.get(at).copied().map_or(0, u64::from);
        byte(0) << 24 | byte(1) << 16 | byte(2) << 8 | byte(3)
    };
    let mut words = bytes.chunks_exact(4);
    let mut sum: u64 = words.by_ref().map(word).sum();
    sum += word(words.remainder());
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !sum as u16
}

pub fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn push(bytes: &mut Vec<u8>, words: &[u16]) {
    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
}

/// The address in dotted form, as a number.
pub fn ip(text: &str) -> u32 {
    u32::from(text.parse::<std::net::Ipv4Addr>().unwrap())
}
