//! A worker that has packets asks nothing of the kernel. Needs root, because strace attaches to a
//! running thread.
//!
//! `cgnat run` with one worker gets, from a capture in memory that never ends, packets of flows
//! that exist: half of them go out, half go to each other (so that they are translated both ways).
//! Neither driver makes a system call, so any would be the worker's own.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_core::packet::ethernet::Tags;
use cgnat_core::testing::packets::{frame, udp};
use cgnat_tests::appliance;
use cgnat_tests::cpu::thread;
use cgnat_tests::lab::{MACS, require_root};
use cgnat_tests::process::{Process, output_within, read_log, wait_until};
use cgnat_tests::stats::Stats;
use pcap_file::pcap::{PcapPacket, PcapWriter};

const SUBSCRIBERS: u32 = 8;
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const LIMIT: Duration = Duration::from_secs(60);

/// Ports are kept, so that what a flow is from outside is known before.
fn configuration(capture: &Path) -> String {
    format!(
        "version: 1
system: {{ name: system-calls-{}, workers: 1, memory: 256MiB, max-mappings: 10000, huge-pages: off }}
ports:
  internal0:
    side: internal
    device: \"net_pcap0,rx_pcap={},infinite_rx=1\"
    addresses: [10.255.0.2/30]
    next-hop: 10.255.0.1
    neighbours: [{{ address: 10.255.0.1, mac: \"{}\" }}]
  external0:
    side: external
    device: \"net_null1,no-rx=1\"
    addresses: [192.0.2.2/30]
    next-hop: 192.0.2.1
    neighbours: [{{ address: 192.0.2.1, mac: \"{}\" }}]
pools:
  main: {{ addresses: [{EXTERNAL}], allocation: {{ port-choice: preserve }} }}
subscribers:
  - {{ name: everyone, match: [100.64.0.0/10], pool: main }}
",
        std::process::id(),
        capture.display(),
        MACS[0],
        MACS[3],
    )
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let parts: Result<Vec<u8>, _> = text.split(':').map(|p| u8::from_str_radix(p, 16)).collect();
    parts?.try_into().ok().context("six bytes")
}

/// Each subscriber sends to a server, and from the same port to the next subscriber's mapping.
fn capture(path: &Path) -> Result<()> {
    let mut writer = PcapWriter::new(std::fs::File::create(path)?)?;
    let server = u32::from(Ipv4Addr::new(198, 51, 100, 10));
    let host = |number: u32| {
        let number = number % SUBSCRIBERS;
        let port = 10_000 + 2_000 * u16::try_from(number).expect("few");
        (u32::from(Ipv4Addr::new(100, 64, 0, 1)) + number, port)
    };
    let all = (0..SUBSCRIBERS).map(|number| (number, (server, 443)));
    let next = |number| (number, (u32::from(EXTERNAL), host(number + 1).1));
    for (number, to) in all.chain((0..SUBSCRIBERS).map(next)) {
        let packet = udp(host(number), to, b"question");
        let bytes = frame(mac(MACS[1])?, mac(MACS[0])?, Tags::None, &packet);
        let length = u32::try_from(bytes.len())?;
        writer.write_packet(&PcapPacket::new(Duration::ZERO, length, &bytes))?;
    }
    Ok(())
}

/// Every system call that a thread makes in so many seconds.
fn system_calls(thread: &str, seconds: u32) -> Result<Vec<String>> {
    let log = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("timeout");
    command.args(["--signal=INT", &seconds.to_string(), "strace", "-o"]).arg(log.path());
    command.args(["-p", thread]);
    let output = output_within(command, LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("attached") && said.contains("detached"), "strace: {said}");
    Ok(read_log(log.path()).lines().map(str::to_owned).collect())
}

#[test]
fn root_a_worker_with_packets_makes_no_system_call() -> Result<()> {
    require_root()?;
    let directory = tempfile::tempdir()?;
    let path = |name| directory.path().join(name);
    capture(&path("in.pcap"))?;
    std::fs::write(path("box.yaml"), configuration(&path("in.pcap")))?;
    let mut command = Command::new(appliance::program()?);
    command.env("RUNTIME_DIRECTORY", directory.path()).arg("run").arg(path("box.yaml"));
    command.arg("--stats-file").arg(path("stats.json")).stdin(Stdio::null());
    let log = |name| std::fs::File::create(path(name));
    command.stdout(log("out")?).stderr(log("err")?);
    let mut process = Process::start("cgnat run", command)?;
    let told = || format!("{}{}", read_log(&path("out")), read_log(&path("err")));
    let written = || read_log(&path("out")).matches("statistics written to ").count();
    let statistics = |process: &Process, before: usize| -> Result<u64> {
        let id = rustix::process::Pid::from_raw(i32::try_from(process.id())?).context("an id")?;
        rustix::process::kill_process(id, rustix::process::Signal::USR1)?;
        wait_until("an answer to SIGUSR1", LIMIT, || Ok(written() > before))?;
        Stats::read(&path("stats.json"))?.sent("external0")
    };
    wait_until("cgnat run", LIMIT, || Ok(told().contains("ready: "))).with_context(told)?;
    // Flows are open, and it does not rest.
    wait_until("packets", LIMIT, || Ok(statistics(&process, written())? > 100_000))
        .with_context(told)?;

    let before = statistics(&process, written())?;
    let of_worker = system_calls(&thread(process.id(), "rte-worker-1")?, 3)?;
    let after = statistics(&process, written())?;
    // That one would be seen: housekeeping sleeps between its rounds.
    let of_housekeeping = system_calls(&thread(process.id(), "housekeeping")?, 1)?;
    let status = process.terminate(LIMIT)?;
    ensure!(status.success(), "{status}: {}", told());

    let packets = after - before;
    println!("{packets} packets, {} system calls", of_worker.len());
    ensure!(packets > 10_000, "only {packets} packets were translated meanwhile");
    ensure!(of_housekeeping.iter().any(|line| line.contains("nanosleep")), "{of_housekeeping:?}");
    let shown = &of_worker[..of_worker.len().min(20)];
    ensure!(of_worker.is_empty(), "{} system calls: {shown:#?}", of_worker.len());
    let stats = Stats::read(&path("stats.json"))?;
    let drops = stats.drops()?;
    ensure!(drops.is_empty(), "{drops:?}");
    let both_ways = stats.document().pointer("/hairpinned").and_then(serde_json::Value::as_u64);
    ensure!(both_ways > Some(10_000), "{both_ways:?} packets were translated both ways");
    Ok(())
}
