//! Capture files: Ethernet frames in and out.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, TsResolution};

/// Frames are given this time and later: captures count from 1970, and zero is suspicious.
const BEGIN: Duration = Duration::from_secs(1_700_000_000);

/// Shortest Ethernet frame without its checksum; what is shorter is padded.
const SHORTEST: usize = 60;

/// Writes frames with their times, which count from the beginning of the capture. Short ones are
/// padded, as on a wire.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, frames: &[(Duration, Vec<u8>)]) -> Result<()> {
    let padded = frames.iter().map(|(at, frame)| {
        let mut frame = frame.clone();
        frame.resize(frame.len().max(SHORTEST), 0);
        (*at, frame)
    });
    write_as_they_are(path, padded)
}

/// Writes frames with their times, which count from the beginning of the capture, of any length.
///
/// # Errors
/// The file cannot be written.
pub fn write_as_they_are(
    path: &Path,
    frames: impl Iterator<Item = (Duration, Vec<u8>)>,
) -> Result<()> {
    let problem = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(problem)?;
    let header = PcapHeader {
        datalink: DataLink::ETHERNET,
        ts_resolution: TsResolution::MicroSecond,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(BufWriter::new(file), header).with_context(problem)?;
    for (at, frame) in frames {
        let packet = PcapPacket::new(BEGIN + at, frame.len() as u32, &frame);
        writer.write_packet(&packet).with_context(problem)?;
    }
    writer.into_writer().flush().with_context(problem)
}

/// Reads all frames.
///
/// # Errors
/// The file is missing or no capture.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let problem = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(problem)?;
    let mut reader = PcapReader::new(file).with_context(problem)?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_packet() {
        frames.push(frame.with_context(problem)?.data.into_owned());
    }
    Ok(frames)
}
