//! Reading a capture with tshark.
//!
//! tshark tells what each header says, how long it is and whether its checksum is right. The
//! bytes that a NAT must not change are then cut out of the file at those places.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pcap_file::pcap::PcapReader;

use crate::process::run;

const LIMIT: Duration = Duration::from_secs(300);

/// One frame of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// With an IPv4 packet.
    Ipv4(Packet),
    /// ARP.
    Arp,
    /// Anything else, also IPv4 that tshark calls malformed.
    Other,
}

/// One IPv4 packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// IP protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// What is inside.
    pub transport: Transport,
    /// Layers whose checksum tshark does not call good.
    pub bad_checksums: Vec<&'static str>,
    /// What a NAT must not change: of the IPv4 header TOS, fragment fields and, if the packet is
    /// atomic (RFC 6864), identification; of
    /// the transport header all but ports (or ICMP identifier) and checksum; the payload. Of ICMP
    /// errors only type, code and the word after the checksum.
    pub unchanged: Vec<u8>,
}

/// The transport header, as far as it has endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP or UDP.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP echo.
    Echo {
        /// Request, or reply.
        request: bool,
        /// Identifier.
        identifier: u16,
    },
    /// ICMP of another type.
    Icmp,
    /// Another protocol, or a fragment that is not the first.
    Other,
}

/// Fields asked of tshark, in the order of [`Row`].
const FIELDS: [&str; 19] = [
    "frame.number",
    "vlan.id",
    "arp.opcode",
    "ip.src",
    "ip.dst",
    "ip.proto",
    "ip.ttl",
    "ip.hdr_len",
    "ip.len",
    "ip.checksum.status",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.checksum.status",
    "udp.srcport",
    "udp.dstport",
    "udp.checksum.status",
    "icmp.type",
    "icmp.ident",
    "icmp.checksum.status",
];

/// What tshark prints for one frame; of repeated fields the first, which is the outermost.
struct Row<'a> {
    fields: Vec<&'a str>,
}

impl<'a> Row<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        let position = FIELDS.iter().position(|field| *field == name)?;
        self.fields.get(position).copied().filter(|text| !text.is_empty())
    }

    fn number(&self, name: &str) -> Option<u16> {
        let text = self.text(name)?;
        match text.strip_prefix("0x") {
            Some(digits) => u16::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    }
}

/// Reads all frames of a capture.
///
/// # Errors
/// The file is no capture, or tshark fails or sees another number of frames than the file has.
pub fn read(path: &Path) -> Result<Vec<Frame>> {
    let bytes = read_bytes(path)?;
    let mut command = Command::new("tshark");
    command.args(["-n", "-T", "fields", "-E", "occurrence=f"]);
    for preference in [
        "ip.check_checksum:TRUE",
        "tcp.check_checksum:TRUE",
        "udp.check_checksum:TRUE",
        "ip.defragment:FALSE",
        "tcp.desegment_tcp_streams:FALSE",
    ] {
        command.args(["-o", preference]);
    }
    for field in FIELDS {
        command.args(["-e", field]);
    }
    command.arg("-r").arg(path);
    let text = run(command, LIMIT).context("tshark (package tshark) cannot decode")?;
    let rows: Vec<Row<'_>> =
        text.lines().map(|line| Row { fields: line.split('\t').collect() }).collect();
    ensure!(
        rows.len() == bytes.len(),
        "{} has {} frames, tshark sees {}",
        path.display(),
        bytes.len(),
        rows.len()
    );
    Ok(rows.iter().zip(&bytes).map(|(row, bytes)| frame(row, bytes)).collect())
}

fn read_bytes(path: &Path) -> Result<Vec<Vec<u8>>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut reader =
        PcapReader::new(file).with_context(|| format!("{} is no capture", path.display()))?;
    let mut all = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.with_context(|| format!("{} is broken", path.display()))?;
        ensure!(packet.data.len() == packet.orig_len as usize, "{} is cut short", path.display());
        all.push(packet.data.into_owned());
    }
    Ok(all)
}

fn frame(row: &Row<'_>, bytes: &[u8]) -> Frame {
    if row.text("arp.opcode").is_some() {
        return Frame::Arp;
    }
    packet(row, bytes).map_or(Frame::Other, Frame::Ipv4)
}

fn packet(row: &Row<'_>, bytes: &[u8]) -> Option<Packet> {
    let header = if row.text("vlan.id").is_some() { 18 } else { 14 };
    let header_len = usize::from(row.number("ip.hdr_len")?);
    let total_len = usize::from(row.number("ip.len")?);
    let ip = bytes.get(header..header + total_len)?;
    let (ip_header, inner) = (ip.get(..header_len)?, ip.get(header_len..)?);
    let protocol = u8::try_from(row.number("ip.proto")?).ok()?;

    let first = inner.len() >= 8 && ip_header[6] & 0x1f == 0 && ip_header[7] == 0;
    let whole = first && ip_header[6] & 0x20 == 0;
    let ports = |source, destination| {
        let (source, destination) = (row.number(source)?, row.number(destination)?);
        Some(Transport::Ports { source, destination })
    };
    let (name, status, transport) = match protocol {
        6 if first => ("TCP", "tcp.checksum.status", ports("tcp.srcport", "tcp.dstport")?),
        17 if first => ("UDP", "udp.checksum.status", ports("udp.srcport", "udp.dstport")?),
        1 if first => ("ICMP", "icmp.checksum.status", icmp(row)?),
        _ => ("", "", Transport::Other),
    };

    let mut bad_checksums = Vec::new();
    if row.number("ip.checksum.status") != Some(GOOD) {
        bad_checksums.push("IPv4");
    }
    let absent = protocol == 17 && row.number(status) == Some(NOT_PRESENT);
    // The checksum of a fragmented datagram is over all its fragments.
    if whole && transport != Transport::Other && !absent && row.number(status) != Some(GOOD) {
        bad_checksums.push(name);
    }

    // One that is, or may be, fragmented gets an identification of the NAT's (RFC 6864).
    let is_atomic = ip_header[6] & 0x60 == 0x40 && first;
    let identification = if is_atomic { &ip_header[4..6] } else { &[] };
    let mut unchanged = [&ip_header[1..2], identification, &ip_header[6..8]].concat();
    match transport {
        Transport::Ports { .. } if protocol == 6 => {
            unchanged.extend_from_slice(inner.get(4..16)?);
            unchanged.extend_from_slice(inner.get(18..)?);
        }
        Transport::Ports { .. } => {
            unchanged.extend_from_slice(&inner[4..6]);
            unchanged.extend_from_slice(&inner[8..]);
        }
        Transport::Echo { .. } => {
            unchanged.extend_from_slice(&inner[0..2]);
            unchanged.extend_from_slice(&inner[6..]);
        }
        Transport::Icmp => {
            unchanged.extend_from_slice(&inner[0..2]);
            unchanged.extend_from_slice(&inner[4..8]);
        }
        Transport::Other => unchanged.extend_from_slice(inner),
    }
    Some(Packet {
        source: row.text("ip.src")?.parse().ok()?,
        destination: row.text("ip.dst")?.parse().ok()?,
        protocol,
        ttl: u8::try_from(row.number("ip.ttl")?).ok()?,
        transport,
        bad_checksums,
        unchanged,
    })
}

/// tshark's values of `*.checksum.status`.
const GOOD: u16 = 1;
const NOT_PRESENT: u16 = 3;

fn icmp(row: &Row<'_>) -> Option<Transport> {
    Some(match row.number("icmp.type")? {
        kind @ (0 | 8) => {
            Transport::Echo { request: kind == 8, identifier: row.number("icmp.ident")? }
        }
        _ => Transport::Icmp,
    })
}
