//! What the tests with an EAL share. DPDK starts once per process, so each test runs its body
//! in a process of its own.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dpdk::{Eal, EalOptions, Lcore, Mbuf, Mempool, MempoolConfig};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, Endianness, TsResolution};

const CHILD: &str = "DPDK_TEST_CHILD";

/// Runs `body` in a child process; `test` is the calling test's name. Returns what the child
/// wrote to standard output and standard error, or nothing in the child itself.
pub fn in_child(test: &str, body: impl FnOnce()) -> Option<(String, String)> {
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        body();
        return None;
    }
    // The EAL makes a directory for each file prefix and leaves it behind.
    let runtime = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .env("RUNTIME_DIRECTORY", runtime.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{test}: {}\n{stdout}\n{stderr}", output.status);
    assert!(stdout.contains("1 passed"), "no test is named {test}:\n{stdout}");
    Some((stdout, stderr))
}

/// 64 MiB without huge pages, one lcore on CPU 0.
pub fn options(vdevs: &[String]) -> EalOptions {
    EalOptions {
        file_prefix: format!("dpdk-test-{}", std::process::id()),
        vdevs: vdevs.to_vec(),
        ..EalOptions::default()
    }
}

/// `options` with `count` lcores that share CPU 0.
pub fn options_with_lcores(vdevs: &[String], count: u16) -> EalOptions {
    EalOptions { lcores: (0..count).map(|id| Lcore { id, cpu: 0 }).collect(), ..options(vdevs) }
}

pub fn pool(eal: &Eal, name: &str) -> Mempool {
    let config = MempoolConfig { count: 1023, cache: 64, private_bytes: 64, ..Default::default() };
    Mempool::create(eal, name, &config).unwrap()
}

/// A packet that holds `bytes`.
pub fn packet(pool: &Mempool, bytes: &[u8]) -> Mbuf {
    let mut packet = pool.alloc().unwrap();
    packet.append(bytes.len() as u16).unwrap().copy_from_slice(bytes);
    packet
}

/// `count` frames with distinct contents and lengths from 60 to 1514.
pub fn frames(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| (0..60 + n * 97 % 1455).map(|at| (at * 31 + n * 7) as u8).collect())
        .collect()
}

/// Writes frames with time stamps in microseconds.
pub fn write_pcap(file: &Path, frames: &[Vec<u8>], stamp_us: impl Fn(usize) -> u64) {
    let header = PcapHeader {
        version_major: 2,
        version_minor: 4,
        ts_correction: 0,
        ts_accuracy: 0,
        snaplen: 65535,
        datalink: DataLink::ETHERNET,
        ts_resolution: TsResolution::MicroSecond,
        endianness: Endianness::native(),
    };
    let mut writer = PcapWriter::with_header(std::fs::File::create(file).unwrap(), header).unwrap();
    for (n, frame) in frames.iter().enumerate() {
        let stamp = Duration::from_micros(stamp_us(n));
        writer.write_packet(&PcapPacket::new(stamp, frame.len() as u32, frame)).unwrap();
    }
}

pub fn read_pcap(file: &Path) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(std::fs::File::open(file).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.unwrap().data.into_owned());
    }
    frames
}
