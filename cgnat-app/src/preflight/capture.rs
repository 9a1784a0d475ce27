//! A capture file is read through before it is replayed: a damaged one must not be found
//! out after half of its packets.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use pcap_file::pcap::PcapReader;
use pcap_file::{DataLink, PcapError, TsResolution};

/// First bytes of a pcapng file.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// What a capture file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CaptureSummary {
    /// Packets.
    pub packets: u64,
    /// Captured bytes of all packets.
    pub bytes: u64,
    /// Time of the first packet, nanoseconds since 1970; 0 without packets.
    pub first_ns: u64,
    /// Latest time of any packet, nanoseconds since 1970; 0 without packets.
    pub last_ns: u64,
    /// Packets of which the capture holds only the beginning.
    pub cut: u64,
}

/// What is wrong with a capture file, in a sentence that goes on after its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CaptureProblem {
    Unreadable(String),
    Damaged(String),
}

/// Reads the whole file.
pub(super) fn scan(path: &Path) -> Result<CaptureSummary, CaptureProblem> {
    let damaged = |words: &str| CaptureProblem::Damaged(words.to_owned());
    let file = open(path)?;
    let mut reader = PcapReader::new(file).map_err(|error| match error {
        PcapError::IoError(error) if error.kind() != ErrorKind::UnexpectedEof => {
            CaptureProblem::Damaged(format!("cannot be read: {error}"))
        }
        _ => damaged("is not a capture; expected a pcap file as tcpdump -w writes it"),
    })?;
    let header = reader.header();
    if header.datalink != DataLink::ETHERNET {
        let kind = u32::from(header.datalink);
        let words = format!("is not a capture of Ethernet frames (link type {kind}); expected 1");
        return Err(CaptureProblem::Damaged(words));
    }
    let unit_ns = match header.ts_resolution {
        TsResolution::MicroSecond => 1000,
        TsResolution::NanoSecond => 1,
    };
    let mut summary = CaptureSummary::default();
    // Raw packets: a frame that is longer than the snapshot length is cut, not damaged.
    while let Some(packet) = reader.next_raw_packet() {
        let packet = packet.map_err(|_| {
            CaptureProblem::Damaged(format!(
                "is truncated: it ends inside packet {}; capture it again, or keep the packets \
                 before it with editcap -r FILE NEW 1-{}",
                summary.packets + 1,
                summary.packets
            ))
        })?;
        let time_ns =
            u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_frac) * unit_ns;
        if summary.packets == 0 {
            summary.first_ns = time_ns;
        }
        summary.packets += 1;
        summary.bytes += u64::from(packet.incl_len);
        summary.last_ns = summary.last_ns.max(time_ns);
        summary.cut += u64::from(packet.incl_len < packet.orig_len);
    }
    Ok(summary)
}

fn open(path: &Path) -> Result<File, CaptureProblem> {
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            CaptureProblem::Damaged("is missing; expected a pcap file".to_owned())
        }
        ErrorKind::PermissionDenied => {
            CaptureProblem::Unreadable("may not be read; allow this user to read it".to_owned())
        }
        _ => CaptureProblem::Damaged(format!("cannot be opened: {error}")),
    })?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(CaptureProblem::Damaged("is a directory; expected a pcap file".to_owned()));
    }
    let mut start = [0u8; 4];
    let is_pcapng =
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut start, 0).is_ok() && start == PCAPNG;
    if is_pcapng {
        let words = "is a pcapng file; convert it with editcap -F pcap FILE NEW";
        return Err(CaptureProblem::Damaged(words.to_owned()));
    }
    Ok(file)
}
