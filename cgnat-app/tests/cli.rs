//! The program as a person meets it: exit codes, messages, signals, a replay.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cgnat_core::packet::ethernet::Tags;
use cgnat_core::testing::packets::{echo, frame, ip, tcp, udp};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use tempfile::TempDir;

/// MACs that net_pcap gives to its first and second device.
const MACS: [[u8; 6]; 2] = [[2, 0x70, 0x63, 0x61, 0x70, 0], [2, 0x70, 0x63, 0x61, 0x70, 1]];

/// MACs of the neighbours.
const PEERS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// A configuration on two devices; `more` goes into `system`.
    fn config(&self, name: &str, devices: [&str; 2], more: &str) -> String {
        let text = format!(
            "version: 1\nsystem: {{ name: {name}, huge-pages: off, max-mappings: 10000{more} }}\n\
             ports:\n\
             \x20 internal0:\n    side: internal\n    device: \"{}\"\n\
             \x20   addresses: [10.255.0.2/30]\n    next-hop: 10.255.0.1\n\
             \x20   neighbours: [{{ address: 10.255.0.1, mac: \"02:00:00:00:00:01\" }}]\n\
             \x20 external0:\n    side: external\n    device: \"{}\"\n\
             \x20   addresses: [192.0.2.2/30]\n    next-hop: 192.0.2.1\n\
             \x20   neighbours: [{{ address: 192.0.2.1, mac: \"02:00:00:00:00:02\" }}]\n\
             pools: {{ main: {{ addresses: [203.0.113.0/30] }} }}\n\
             subscribers: [{{ name: all, match: [100.64.0.0/10], pool: main }}]\n",
            devices[0], devices[1]
        );
        let file = self.path(&format!("{name}.yaml"));
        std::fs::write(&file, text).unwrap();
        file
    }

    fn captures(&self) -> [String; 2] {
        [0, 1].map(|n| {
            let (from, to) =
                (self.path(&format!("in{n}.pcap")), self.path(&format!("out{n}.pcap")));
            format!("net_pcap{n},rx_pcap={from},tx_pcap={to}")
        })
    }

    fn write_capture(&self, name: &str, frames: &[(u64, Vec<u8>)]) {
        let file = std::fs::File::create(self.path(name)).unwrap();
        let mut writer = PcapWriter::new(file).unwrap();
        for (ms, frame) in frames {
            let at = Duration::from_secs(1_700_000_000) + Duration::from_millis(*ms);
            writer.write_packet(&PcapPacket::new(at, frame.len() as u32, frame)).unwrap();
        }
    }

    fn read_capture(&self, name: &str) -> Vec<Vec<u8>> {
        let file = std::fs::File::open(self.path(name)).unwrap();
        let mut reader = PcapReader::new(file).unwrap();
        let mut frames = Vec::new();
        while let Some(packet) = reader.next_packet() {
            frames.push(packet.unwrap().data.into_owned());
        }
        frames
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cgnat"));
        command.args(arguments).env("RUNTIME_DIRECTORY", self.directory.path());
        command
    }

    fn cgnat(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Starts a run and waits for its `ready` line.
fn start(mut command: Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    if !line.starts_with("ready: ") {
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        panic!("no ready line but {line:?}: {errors}");
    }
    (child, lines)
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn wait(mut child: Child) -> i32 {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("it did not end within 20 s");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

const NULLS: [&str; 2] = ["net_null0,size=64", "net_null1,size=64"];

#[test]
fn wrong_usage_is_2_and_a_missing_file_is_78() {
    let bench = Bench::new();
    assert_eq!(bench.cgnat(&[]).status.code(), Some(2));
    assert_eq!(bench.cgnat(&["walk"]).status.code(), Some(2));
    assert_eq!(bench.cgnat(&["run"]).status.code(), Some(2));
    let output = bench.cgnat(&["run", "none.yaml"]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(stderr(&output), "none.yaml: error: there is no such file\n");
}

#[test]
fn run_refuses_what_check_refuses_with_the_same_words() {
    let bench = Bench::new();
    let file = bench.path("broken.yaml");
    std::fs::write(&file, "version: 1\nprots: {}\n").unwrap();
    let (check, run) = (bench.cgnat(&["check", &file]), bench.cgnat(&["run", &file]));
    assert_eq!((check.status.code(), run.status.code()), (Some(78), Some(78)));
    assert_eq!(stderr(&check), stderr(&run));
    assert!(stderr(&check).contains("did you mean `ports`?"), "{}", stderr(&check));
}

#[test]
fn too_little_memory_is_a_wrong_configuration_and_says_how_much_is_needed() {
    let bench = Bench::new();
    let file = bench.config("small", NULLS, ", memory: 64MiB");
    for verb in ["check", "run"] {
        let output = bench.cgnat(&[verb, &file]);
        assert_eq!(output.status.code(), Some(78), "{verb}");
        let text = stderr(&output);
        assert!(text.contains("system.memory: 64 MiB are too little: the tables need"), "{text}");
        assert!(text.contains("raise it to"), "{text}");
    }
}

#[test]
fn check_prints_what_a_good_configuration_takes() {
    let bench = Bench::new();
    let file = bench.config("good", NULLS, "");
    let output = bench.cgnat(&["check", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    for part in ["504 subscribers at once", "504 port blocks", "10,000 mappings", "bytes of tables"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn huge_pages_that_are_required_and_missing_are_named() {
    let free = |size: &str, kib: u64| {
        let path = format!("/sys/kernel/mm/hugepages/{size}/free_hugepages");
        let pages: u64 =
            std::fs::read_to_string(path).map_or(0, |text| text.trim().parse().unwrap());
        pages * kib / 1024
    };
    let free = free("hugepages-2048kB", 2048) + free("hugepages-1048576kB", 1 << 20);
    let needed = free + 1024;
    let bench = Bench::new();
    let file = bench.config("huge", NULLS, &format!(", memory: {needed}MiB"));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("huge-pages: off", "huge-pages: required")).unwrap();
    let output = bench.cgnat(&["run", &file]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "error: system.huge-pages: {free} MiB of huge pages are free, {needed} MiB are needed"
    );
    assert!(stderr(&output).contains(&expected), "not {expected:?}: {}", stderr(&output));
}

#[test]
fn a_device_that_fails_to_probe_is_named_although_dpdk_goes_on() {
    let bench = Bench::new();
    let file = bench.config("probe", ["net_null0,size=0", "net_null1,size=64"], "");
    let output = bench.cgnat(&["run", &file]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let text = stderr(&output);
    assert!(text.contains("error: port internal0: "), "{text}");
    assert!(text.contains("net_null0"), "{text}");
}

#[test]
fn a_second_instance_of_a_name_is_refused_while_the_first_goes_on() {
    let bench = Bench::new();
    let file = bench.config("twice", NULLS, "");
    let (first, _lines) = start(bench.command(&["run", &file]));
    let second = bench.cgnat(&["run", &file]);
    assert_eq!(second.status.code(), Some(1));
    let expected = format!(
        "an instance named `twice` is running already (process {}); stop it, or give this one \
         another `system.name`",
        first.id()
    );
    assert!(stderr(&second).contains(&expected), "{}", stderr(&second));
    signal(&first, "-TERM");
    assert_eq!(wait(first), 0);
}

#[test]
fn sigterm_and_sigint_stop_cleanly_with_statistics_and_every_packet_accounted_for() {
    for (name, workers) in [("-TERM", 1usize), ("-INT", 3)] {
        let bench = Bench::new();
        let file = bench.config("stop", NULLS, &format!(", workers: {workers}"));
        let stats = bench.path("stats.json");
        let (child, mut lines) = start(bench.command(&["run", &file, "--stats-file", &stats]));
        std::thread::sleep(Duration::from_millis(200));
        signal(&child, name);
        let mut text = String::new();
        lines.read_to_string(&mut text).unwrap();
        assert_eq!(wait(child), 0);
        assert!(text.contains("Forward statistics for port internal0"), "{text}");
        assert!(text.contains("every packet is accounted for"), "{text}");
        let stats: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(stats).unwrap()).unwrap();
        assert_eq!(stats["balance"]["came"], stats["balance"]["ended"]);
        assert!(stats["balance"]["came"].as_u64() > Some(1000), "{}", stats["balance"]);
        // This driver takes key and table and gives them back.
        let port = &stats["steering"]["ports"]["external0"];
        let method = if workers == 1 { "one-worker" } else { "windowed-key" };
        assert_eq!((&port["method"], &port["queues"]), (&method.into(), &workers.into()));
        assert_eq!(text.contains("port external0 (external): the card steers"), workers > 1);
        let load = stats["steering"]["workers"].as_array().unwrap();
        let load: Vec<f64> = load.iter().map(|w| w["load_share"].as_f64().unwrap()).collect();
        assert!(load.len() == workers && (0.99..1.01).contains(&load.iter().sum()), "{load:?}");
        let census = &stats["ports_census"];
        assert_eq!(census["free"], 4 * 64512 * 3);
        assert_eq!(census["total"], 4 * 64512 * 3);
    }
}

#[test]
fn show_steering_asks_a_running_box_and_says_why_it_cannot() {
    let bench = Bench::new();
    let socket = bench.path("control.sock");
    let show =
        |more: &[&str]| bench.cgnat(&[&["show", "steering", "--socket", &socket], more].concat());
    let nobody = show(&[]);
    assert_eq!(nobody.status.code(), Some(1));
    let expected = format!("no box listens on {socket}: No such file");
    assert!(stderr(&nobody).contains(&expected), "{}", stderr(&nobody));
    let more = format!(", workers: 2, control-socket: \"{socket}\"");
    // A packet socket or a ring has no table; a card would have.
    let file = bench.config("shown", ["net_null0,size=64", "net_ring0"], &more);
    let (child, mut lines) = start(bench.command(&["run", &file]));
    let text = show(&[]);
    assert_eq!(text.status.code(), Some(0), "{}", stderr(&text));
    let text = stdout(&text);
    assert!(text.contains("port internal0: windowed-key, 2 queues"), "{text}");
    assert!(text.contains("port external0: software,"), "{text}");
    assert!(text.contains("because its driver cannot hash addresses"), "{text}");
    assert!(text.contains("worker 1: "), "{text}");
    let document: serde_json::Value = serde_json::from_str(&stdout(&show(&["--json"]))).unwrap();
    assert_eq!(document["ports"]["internal0"]["method"], "windowed-key");
    assert_eq!(document["workers"].as_array().unwrap().len(), 2);
    signal(&child, "-TERM");
    let mut said = String::new();
    lines.read_to_string(&mut said).unwrap();
    assert_eq!(wait(child), 0);
    assert!(said.contains("port external0 (external): software hand-off, about 50.0 %"), "{said}");
    assert!(!Path::new(&socket).exists());
    assert_eq!(show(&[]).status.code(), Some(1));
}

#[test]
fn sigusr1_gives_the_statistics_of_a_box_that_goes_on() {
    let bench = Bench::new();
    let file = bench.config("asked", NULLS, ", workers: 3");
    let path = bench.path("stats.json");
    let (child, mut lines) = start(bench.command(&["run", &file, "--stats-file", &path]));
    let read = || -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
    };
    let mut counts = Vec::new();
    for _ in 0..2 {
        signal(&child, "-USR1");
        let mut text = String::new();
        while !text.contains(&format!("statistics written to {path}")) {
            assert!(lines.read_line(&mut text).unwrap() > 0, "{text}");
        }
        assert!(text.contains("Drops by reason: "), "{text}");
        let stats = read();
        assert_eq!(stats["refusals"]["subscribers"], serde_json::json!([]));
        assert!(stats["blocks"]["total"].as_u64() > Some(0));
        // What only a stopped box knows is absent, not zero.
        assert_eq!(stats["ports_census"], serde_json::Value::Null);
        counts.push(stats["balance"]["came"].as_u64().unwrap());
    }
    assert!(0 < counts[0] && counts[0] < counts[1], "{counts:?}");
    signal(&child, "-TERM");
    lines.read_to_string(&mut String::new()).unwrap();
    assert_eq!(wait(child), 0);
    let stats = read();
    assert!(stats["balance"]["came"].as_u64() > Some(counts[1]));
    assert_eq!(stats["ports_census"]["free"], 4 * 64512 * 3);
}

#[test]
fn whoever_reads_the_output_may_leave_and_the_nat_goes_on() {
    let bench = Bench::new();
    let file = bench.config("unread", NULLS, "");
    let (mut child, lines) = start(bench.command(&["run", &file]));
    drop(lines);
    drop(child.stderr.take());
    // Progress is printed after a second for the first time.
    std::thread::sleep(Duration::from_millis(1300));
    assert!(child.try_wait().unwrap().is_none(), "it ended with its reader");
    signal(&child, "-TERM");
    assert_eq!(wait(child), 0);
}

#[test]
fn statistics_that_cannot_be_written_are_refused_before_the_start() {
    let bench = Bench::new();
    let file = bench.config("stats", NULLS, "");
    let output = bench.cgnat(&["run", &file, "--stats-file", &bench.path("no/such/dir.json")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("error: cannot write the statistics to "));
    assert!(!stdout(&output).contains("ready"));
}

fn from_subscriber(packet: &[u8]) -> Vec<u8> {
    frame(MACS[0], PEERS[0], Tags::None, packet)
}

/// Each subscriber sends a DNS query, opens a TCP connection and pings; then two hours pass.
#[test]
fn a_replay_ends_by_itself_and_its_clock_is_the_capture() {
    for workers in [1, 2] {
        let bench = Bench::new();
        let server = ip("198.51.100.10");
        let mut frames = Vec::new();
        for n in 0..50u32 {
            let host = ip("100.64.0.1") + n * 257;
            let at = u64::from(n) * 10;
            frames.push((at, from_subscriber(&udp((host, 5353), (server, 53), b"query"))));
            frames.push((at + 1, from_subscriber(&tcp((host, 4000), (server, 80), 2, b""))));
            frames.push((at + 2, from_subscriber(&echo(true, host, server, 7, b"ping"))));
        }
        // Ten minutes later only one of them is still there.
        let last = ip("100.64.0.1");
        frames.push((600_000, from_subscriber(&udp((last, 5353), (server, 53), b"again"))));
        bench.write_capture("in0.pcap", &frames);
        bench.write_capture("in1.pcap", &[]);
        let devices = bench.captures();
        let file = bench.config(
            &format!("replay{workers}"),
            [&devices[0], &devices[1]],
            &format!(", workers: {workers}"),
        );
        let stats = bench.path("stats.json");
        let output = bench.cgnat(&["run", &file, "--seed", "7", "--stats-file", &stats]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(text.contains("every packet is accounted for"), "{text}");
        assert!(text.contains(&format!("Sent by port external0: {}", bench.path("out1.pcap"))));
        assert_eq!(bench.read_capture("out1.pcap").len(), 151, "{text}");
        assert_eq!(bench.read_capture("out0.pcap").len(), 0);
        let stats: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(stats).unwrap()).unwrap();
        assert_eq!(stats["mappings"]["created"], 151, "the UDP one had expired: {stats:#}");
        assert_eq!(stats["mappings"]["active"], 1);
        // Ports rest from the moment they were freed, so the blocks are still held.
        assert_eq!(stats["ports_census"]["resting"], 150, "{stats:#}");
        assert_eq!(stats["blocks"]["in_use"], 50);
        if workers == 2 {
            let handed = stats["workers"][0]["handed_off"].as_u64().unwrap();
            assert!(handed > 0 && stats["workers"][1]["handed_in"] == handed, "{stats:#}");
        }
    }
}

#[test]
fn a_damaged_capture_is_refused_before_anything_starts() {
    let bench = Bench::new();
    let packet = from_subscriber(&udp((ip("100.64.0.1"), 5000), (ip("198.51.100.1"), 53), b"x"));
    bench.write_capture("in0.pcap", &[(0, packet)]);
    bench.write_capture("in1.pcap", &[]);
    let whole = std::fs::read(bench.path("in0.pcap")).unwrap();
    let devices = bench.captures();
    let file = bench.config("damaged", [&devices[0], &devices[1]], "");
    for (bytes, expected) in [
        (&whole[..whole.len() - 3], "truncated"),
        (&b"not a capture at all, only some words"[..], "is not a capture"),
    ] {
        std::fs::write(bench.path("in0.pcap"), bytes).unwrap();
        let output = bench.cgnat(&["run", &file]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert!(!Path::new(&bench.path("out1.pcap")).exists());
    }
    std::fs::remove_file(bench.path("in0.pcap")).unwrap();
    let output = bench.cgnat(&["run", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("in0.pcap"), "{}", stderr(&output));
}
