//! Records the capture of real traffic that `make demo` and the tests replay.
//!
//! What is kept is what *arrives* at the appliance on its two veths, never what it sends. The
//! external side is full of answers to external ports that the appliance chose, so a replay must
//! use the same seed, pool and number of workers.

use std::fs::File;
use std::io::BufWriter;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Appliance, Devices, Settings};
use cgnat_tests::lab::{EXTERNAL, INTERNAL, Lab, SERVERS};
use cgnat_tests::process::run;
use cgnat_tests::traffic::{self, Capture, Direction, Server, Stream};
use clap::Parser;
use pcap_file::pcap::{PcapHeader, PcapReader, PcapWriter};
use pcap_file::{DataLink, TsResolution};

const MOST_BYTES: u64 = 3_000_000;
const PARALLEL: usize = 8;
const HAIRPIN_PORT: u16 = 5353;

/// Records real traffic of a few hundred subscribers as it arrives at the appliance (as root).
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 recorded, 1 failed, 2 usage.")]
struct Arguments {
    /// Use the kernel's own NAT instead of the appliance; such a recording cannot be replayed.
    #[arg(long)]
    kernel: bool,
    /// Directory for internal.pcap, external.pcap and README.md.
    #[arg(long, default_value = "tests/captures")]
    output: PathBuf,
    /// Subscriber addresses.
    #[arg(long, default_value_t = 300)]
    subscribers: u32,
}

fn main() -> ExitCode {
    match record(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("record-capture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a client did, for the note beside the recording.
struct Count {
    what: &'static str,
    number: u64,
}

fn record(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.subscribers >= 40, "at least 40 subscribers, to have some for each client");
    let settings = Settings::recording();
    let lab = Lab::new(arguments.subscribers)?;
    let appliance = if arguments.kernel {
        lab.use_kernel_nat("203.0.113.0-203.0.113.7", "1024-65535")?;
        None
    } else {
        Some(Appliance::start(&lab, &settings)?)
    };
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let raw = |interface: &str| directory.path().join(format!("{interface}.pcap"));
    let capture = |interface| {
        Capture::start(&lab.middle, interface, Direction::Arriving, "", &raw(interface))
    };
    let captures = [capture(INTERNAL)?, capture(EXTERNAL)?];
    let counts = make_traffic(&lab, !arguments.kernel)?;
    for capture in captures {
        capture.stop()?;
    }
    if let Some(appliance) = appliance {
        let outcome = appliance.stop()?;
        println!("{}", outcome.printed.trim_end());
    }

    std::fs::create_dir_all(&arguments.output).context("cannot make the output directory")?;
    let mut frames = Vec::new();
    let mut bytes = 0;
    for (interface, name) in [(INTERNAL, "internal.pcap"), (EXTERNAL, "external.pcap")] {
        let path = arguments.output.join(name);
        let count = sort(&raw(interface), &path)?;
        let size = path.metadata().context("the recording vanished")?.len();
        println!("{name}: {count} frames, {size} bytes");
        frames.push((name, count, size));
        bytes += size;
    }
    ensure!(bytes < MOST_BYTES, "the recording has {bytes} bytes, more than {MOST_BYTES}");
    let note = note(arguments, &settings, &counts, &frames)?;
    std::fs::write(arguments.output.join("README.md"), note).context("cannot write the note")
}

/// All clients, each kind after the other; an error if any client does not get what it asked for.
fn make_traffic(lab: &Lab, hairpin: bool) -> Result<Vec<Count>> {
    let [web, _, streams] = SERVERS;
    let http = Server::http(&lab.server, web)?;
    let _dns = Server::dns(&lab.server, web, 53)?;
    let _iperf = Server::iperf3(&lab.server, streams)?;
    let files = [("1k", 1_000, 300), ("10k", 10_000, 12), ("50k", 50_000, 4), ("200k", 200_000, 1)];
    for (name, bytes, _) in files {
        traffic::random_file(&http.root().join(name), bytes)?;
    }
    let clients = lab.addresses();
    let namespace = &lab.subscribers;
    let mut counts = Vec::new();
    let mut each =
        |what, addresses: &[Ipv4Addr], action: &(dyn Fn(Ipv4Addr) -> Result<()> + Sync)| {
            let errors = traffic::in_parallel(addresses, PARALLEL, |address| action(*address));
            ensure!(errors.is_empty(), "{what}: {} failed, first {}", errors.len(), errors[0]);
            println!("{what}: {}", addresses.len());
            counts.push(Count { what, number: addresses.len() as u64 });
            Ok(())
        };

    each("DNS queries over UDP (dig)", clients, &|client| {
        traffic::dig(namespace, (client, 0), (web, 53), &[]).map(drop)
    })?;
    each("DNS queries over TCP (dig +tcp)", &clients[..20], &|client| {
        traffic::dig(namespace, (client, 0), (web, 53), &["+tcp"]).map(drop)
    })?;
    for (name, _, number) in files {
        let some = &clients[..clients.len().min(number)];
        each("HTTP downloads (curl), 1 to 200 KB", some, &|client| {
            let into = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
            let limit = Duration::from_secs(30);
            traffic::download(namespace, client, web, name, into.path(), limit)?;
            let (want, have) = (http.root().join(name), into.path());
            ensure!(std::fs::read(want).ok() == std::fs::read(have).ok(), "{name} differs");
            Ok(())
        })?;
    }
    each("pings of 3 echo requests (ping)", &clients[..clients.len().min(100)], &|client| {
        let received = traffic::ping(namespace, client, web, 3, 56)?;
        ensure!(received == 3, "{received} of 3 replies");
        Ok(())
    })?;
    each("traceroutes (traceroute over UDP)", &clients[20..28], &|client| {
        traffic::traceroute(namespace, client, web, 3).map(drop)
    })?;
    let tests = [(false, false), (false, true), (true, false), (true, true)];
    for (client, (udp, reverse)) in clients[28..].iter().zip(tests) {
        let stream =
            Stream { udp, bits_per_second: Some(1_000_000), reverse, seconds: 1, parallel: 1 };
        each("iperf3 tests, 1 Mbit/s for 1 s (TCP, UDP, each way)", &[*client], &|client| {
            traffic::iperf3(namespace, client, streams, stream).map(drop)
        })?;
    }
    if hairpin {
        // A subscriber's DNS server, asked by other subscribers at its external endpoint.
        let host = clients[32];
        let external = traffic::open_mapping(lab, (host, HAIRPIN_PORT), web)?;
        let _server = Server::dns(namespace, host, HAIRPIN_PORT)?;
        each("DNS queries between subscribers (hairpinned)", &clients[33..39], &|client| {
            let server = (*external.ip(), external.port());
            traffic::dig(namespace, (client, 0), server, &[]).map(drop)
        })?;
    }
    // One line per kind.
    counts.sort_by_key(|count| count.what);
    counts.dedup_by(|later, first| {
        first.what == later.what && {
            first.number += later.number;
            true
        }
    });
    Ok(counts)
}

/// Copies a capture with its frames in order of time; how many there are.
fn sort(from: &Path, to: &Path) -> Result<usize> {
    let file = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
    let mut reader = PcapReader::new(file).context("tcpdump wrote no capture")?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_packet() {
        let frame = frame.context("tcpdump wrote a broken capture")?.into_owned();
        ensure!(frame.data.len() == frame.orig_len as usize, "a frame is cut short");
        frames.push(frame);
    }
    frames.sort_by_key(|frame| frame.timestamp);
    let file = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
    let header = PcapHeader {
        datalink: DataLink::ETHERNET,
        ts_resolution: TsResolution::MicroSecond,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(BufWriter::new(file), header)
        .with_context(|| format!("cannot write {}", to.display()))?;
    for frame in &frames {
        writer.write_packet(frame).with_context(|| format!("cannot write {}", to.display()))?;
    }
    use std::io::Write as _;
    writer.into_writer().flush().with_context(|| format!("cannot write {}", to.display()))?;
    Ok(frames.len())
}

fn note(
    arguments: &Arguments,
    settings: &Settings,
    counts: &[Count],
    frames: &[(&str, usize, u64)],
) -> Result<String> {
    let mut date = Command::new("date");
    date.args(["--utc", "+%Y-%m-%d"]);
    let date = run(date, Duration::from_secs(5))?;
    let middle = if arguments.kernel {
        "the kernel's own NAT (nftables): a trial, external ports do not match a replay"
    } else {
        "the appliance, `cgnat run` with one worker and `--seed 1`"
    };
    let mut text = format!(
        "# Recorded traffic\n\n\
         What arrived at the appliance from {} subscriber addresses and from three server \
         addresses, whole frames, microseconds, in order of time. Made by `make recording` \
         (tests/src/bin/record-capture.rs) on {} with real programs in network namespaces; in the \
         middle was {middle}.\n\n",
        arguments.subscribers,
        date.trim(),
    );
    text.push_str("| file | frames | bytes |\n| --- | --- | --- |\n");
    for (name, count, size) in frames {
        text.push_str(&format!("| {name} | {count} | {size} |\n"));
    }
    text.push_str("\n| traffic | number |\n| --- | --- |\n");
    for Count { what, number } in counts {
        text.push_str(&format!("| {what} | {number} |\n"));
    }
    text.push_str("\n| program | version |\n| --- | --- |\n");
    for (program, argument) in [
        ("busybox", "--help"),
        ("curl", "--version"),
        ("dig", "-v"),
        ("dnsmasq", "--version"),
        ("iperf3", "--version"),
        ("ping", "-V"),
        ("tcpdump", "--version"),
        ("traceroute", "--version"),
        ("uname", "-r"),
    ] {
        text.push_str(&format!("| {program} | {} |\n", version(program, argument)?));
    }
    text.push_str(&format!(
        "\nThe configuration. External ports follow from it and from the seed, so a replay uses \
         the same pool, blocks, one worker and `--seed 1`; only the devices differ.\n\n\
         ```yaml\n{}```\n",
        settings.yaml("recording", &Devices::packet_sockets(settings))
    ));
    Ok(text)
}

/// The first line that a program prints about itself.
fn version(program: &str, argument: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.arg(argument);
    let output = cgnat_tests::process::output_within(command, Duration::from_secs(5))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown");
    // Of long lines the first words, which name the version.
    let short = match line.get(..48) {
        Some(start) => &line[..start.rfind(' ').unwrap_or(48)],
        None => line,
    };
    Ok(short.replace('|', "/"))
}
