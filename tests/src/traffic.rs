//! Real clients and servers, as a network operator knows them.
//!
//! | program | package | role |
//! | --- | --- | --- |
//! | `busybox httpd`, `curl` | busybox, curl | downloads, and which endpoint the server sees |
//! | `dnsmasq`, `dig` | dnsmasq-base, bind9-dnsutils | DNS over UDP and TCP |
//! | `ping`, `traceroute` | iputils-ping, traceroute | ICMP |
//! | `iperf3` | iperf3 | TCP and UDP streams in both directions |
//! | `tcpdump` | tcpdump | what crossed a veth |
//!
//! Servers run until their value is dropped; clients run to their end within a bound.

use std::fs::File;
use std::io::{Read as _, copy};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{Lab, Namespace};
use crate::process::{Process, output_within, read_log, run, wait_until};

const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Name that the DNS server answers for.
pub const NAME: &str = "www.laboratory.test";
/// The address it answers.
pub const NAME_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);

/// A server and the directory with its log.
#[derive(Debug)]
pub struct Server {
    _process: Process,
    directory: TempDir,
}

impl Server {
    /// Starts a server whose `command` listens on `port`; `directory` will hold its log.
    ///
    /// # Errors
    /// It ends, or does not listen within 10 s.
    pub(crate) fn start(
        name: &str,
        namespace: &Namespace,
        port: u16,
        directory: TempDir,
        mut command: Command,
    ) -> Result<Server> {
        let log = directory.path().join("log");
        let file = File::create(&log).context("cannot make a log file")?;
        let copy = file.try_clone().context("cannot share a log file")?;
        command.stdout(file).stderr(copy);
        let mut process = Process::start(name, command)?;
        wait_until(&format!("{name} listening on port {port}"), START_LIMIT, || {
            if let Some(status) = process.try_wait()? {
                anyhow::bail!("{name} ended with {status}: {}", read_log(&log).trim());
            }
            let filter = format!("sport = :{port}");
            Ok(!namespace.run("ss", &["-H", "-l", "-t", "-u", "-n", &filter])?.trim().is_empty())
        })?;
        Ok(Server { _process: process, directory })
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        read_log(&self.directory.path().join("log"))
    }

    /// A web server on `address`:80 for the files of [`Server::root`], which starts empty. Its
    /// page `/cgi-bin/whoami` answers the endpoint that the client has in the server's eyes; the
    /// log has it too.
    ///
    /// # Errors
    /// It does not start within 10 s.
    pub fn http(namespace: &Namespace, address: impl Into<IpAddr>) -> Result<Server> {
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let root = directory.path().join("root");
        let script = root.join("cgi-bin/whoami");
        std::fs::create_dir_all(root.join("cgi-bin")).context("cannot make the web directory")?;
        std::fs::write(
            &script,
            "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\n\
             echo \"$REMOTE_ADDR:$REMOTE_PORT\"\n",
        )
        .context("cannot write the page whoami")?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))
            .context("cannot make the page whoami executable")?;
        let mut command = namespace.command("busybox");
        command.args([
            "httpd",
            "-f",
            "-vv",
            "-p",
            &SocketAddr::new(address.into(), 80).to_string(),
            "-h",
        ]);
        command.arg(root);
        Server::start("busybox httpd", namespace, 80, directory, command)
    }

    /// Directory of the files that a web server serves.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// A DNS server on `address`:`port` that knows [`NAME`] and logs who asks.
    ///
    /// # Errors
    /// It does not start within 10 s.
    pub fn dns(namespace: &Namespace, address: Ipv4Addr, port: u16) -> Result<Server> {
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let mut command = namespace.command("dnsmasq");
        command.args([
            // Not --keep-in-foreground: that changes the user, which undoes the parent death signal.
            "--no-daemon",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--log-queries=extra",
            "--log-facility=-",
            &format!("--listen-address={address}"),
            &format!("--port={port}"),
            &format!("--host-record={NAME},{NAME_ADDRESS}"),
        ]);
        Server::start("dnsmasq", namespace, port, directory, command)
    }

    /// An iperf3 server on `address`:5201; it takes one test at a time.
    ///
    /// # Errors
    /// It does not start within 10 s.
    pub fn iperf3(namespace: &Namespace, address: impl Into<IpAddr>) -> Result<Server> {
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let mut command = namespace.command("iperf3");
        command.args(["--server", "--forceflush", "--bind", &address.into().to_string()]);
        Server::start("iperf3 server", namespace, 5201, directory, command)
    }
}

/// Writes a file of `bytes` random bytes.
///
/// # Errors
/// The file cannot be written.
pub fn random_file(path: &Path, bytes: u64) -> Result<()> {
    let mut random = File::open("/dev/urandom").context("no /dev/urandom")?.take(bytes);
    let mut file =
        File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    copy(&mut random, &mut file).with_context(|| format!("cannot fill {}", path.display()))?;
    Ok(())
}

/// SHA-256 of a file in hexadecimal, by `sha256sum`.
///
/// # Errors
/// The file cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let mut command = Command::new("sha256sum");
    command.arg(path);
    let text = run(command, Duration::from_secs(120))?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Fetches `http://server/path` from `source` into a file, by curl.
///
/// # Errors
/// curl failed, or was not done within `limit`.
pub fn download(
    namespace: &Namespace,
    source: Ipv4Addr,
    server: Ipv4Addr,
    path: &str,
    into: &Path,
    limit: Duration,
) -> Result<()> {
    run(download_command(namespace, source, server, path, into), limit).map(drop)
}

/// As [`download`], at most so many bytes per second.
///
/// # Errors
/// As there.
pub fn download_slowly(
    namespace: &Namespace,
    source: Ipv4Addr,
    (server, path): (Ipv4Addr, &str),
    into: &Path,
    bytes_per_second: u64,
    limit: Duration,
) -> Result<()> {
    let mut command = download_command(namespace, source, server, path, into);
    command.args(["--limit-rate", &bytes_per_second.to_string()]);
    run(command, limit).map(drop)
}

fn download_command(
    namespace: &Namespace,
    source: Ipv4Addr,
    server: Ipv4Addr,
    path: &str,
    into: &Path,
) -> Command {
    let mut command = namespace.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--interface", &source.to_string()]);
    command.arg("--output").arg(into).arg(format!("http://{server}/{path}"));
    command
}

/// The two endpoints of a connection from `source`: as curl has it, and as the web server sees it.
///
/// # Errors
/// No answer within 20 s, or one that is no endpoint.
pub fn whoami(
    namespace: &Namespace,
    source: Ipv4Addr,
    server: Ipv4Addr,
) -> Result<(SocketAddrV4, SocketAddrV4)> {
    let mut command = namespace.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--interface", &source.to_string()]);
    command.args(["--write-out", "%{local_ip}:%{local_port}"]);
    command.arg(format!("http://{server}/cgi-bin/whoami"));
    let text = run(command, Duration::from_secs(20))?;
    let (external, internal) = text.split_once('\n').unwrap_or_default();
    let parse = |text: &str| text.trim().parse().with_context(|| format!("whoami got {text:?}"));
    Ok((parse(internal)?, parse(external)?))
}

/// Asks `server`:`port` for the address of [`NAME`], by dig; `source_port` 0 lets dig choose.
///
/// # Errors
/// No answer within three tries of 2 s each.
pub fn dig(
    namespace: &Namespace,
    source: (Ipv4Addr, u16),
    server: (Ipv4Addr, u16),
    options: &[&str],
) -> Result<Ipv4Addr> {
    let mut command = namespace.command("dig");
    command.arg("-b").arg(format!("{}#{}", source.0, source.1));
    command.args(["-p", &server.1.to_string(), "+short", "+time=2", "+tries=3"]).args(options);
    command.arg(format!("@{}", server.0)).arg(NAME);
    let text = run(command, Duration::from_secs(15))?;
    text.trim().parse().with_context(|| format!("dig from {} printed {text:?}", source.0))
}

/// The endpoints that asked, in order, from the log of a DNS server.
pub fn dns_clients(log: &str) -> Vec<SocketAddrV4> {
    // "dnsmasq: 1 203.0.113.5/1061 query[A] www.laboratory.test from 203.0.113.5"
    log.lines()
        .filter(|line| line.contains(" query["))
        .filter_map(|line| {
            line.split_whitespace().find_map(|word| {
                let (address, port) = word.split_once('/')?;
                Some(SocketAddrV4::new(address.parse().ok()?, port.parse().ok()?))
            })
        })
        .collect()
}

/// Opens a UDP mapping for `internal` by a query to a DNS server of its own on `server`, whose log
/// tells the external endpoint.
///
/// # Errors
/// The query was not answered, or the log has no client.
pub fn open_mapping(
    lab: &Lab,
    internal: (Ipv4Addr, u16),
    server: Ipv4Addr,
) -> Result<SocketAddrV4> {
    const PORT: u16 = 5300;
    let dns = Server::dns(&lab.server, server, PORT)?;
    dig(&lab.subscribers, internal, (server, PORT), &[])?;
    let log = dns.log();
    dns_clients(&log).pop().with_context(|| format!("no query in the log of dnsmasq:\n{log}"))
}

/// Sends `count` echo requests of `bytes` bytes five times a second; the number of replies.
///
/// # Errors
/// ping itself failed.
pub fn ping(
    namespace: &Namespace,
    source: Ipv4Addr,
    to: Ipv4Addr,
    count: u32,
    bytes: u32,
) -> Result<u32> {
    let mut command = namespace.command("ping");
    command.args(["-n", "-q", "-i", "0.2", "-W", "2", "-c", &count.to_string()]);
    command.args(["-s", &bytes.to_string(), "-I", &source.to_string(), &to.to_string()]);
    let output = output_within(command, Duration::from_secs(10 + u64::from(count)))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "3 packets transmitted, 3 received, 0% packet loss, time 403ms"
    text.split(',')
        .find_map(|part| part.trim().strip_suffix(" received"))
        .and_then(|number| number.parse().ok())
        .with_context(|| {
            format!("ping from {source}: {text}{}", String::from_utf8_lossy(&output.stderr))
        })
}

/// Runs traceroute with at most `hops` hops; its text.
///
/// # Errors
/// traceroute itself failed.
pub fn traceroute(
    namespace: &Namespace,
    source: Ipv4Addr,
    to: Ipv4Addr,
    hops: u8,
) -> Result<String> {
    let mut command = namespace.command("traceroute");
    command.args(["-n", "-q", "1", "-w", "1", "-m", &hops.to_string()]);
    command.args(["-s", &source.to_string(), &to.to_string()]);
    run(command, Duration::from_secs(30))
}

/// How iperf3 is run. Tests last whole seconds: after `--bytes` iperf3 ends before its receiver
/// has counted all of a short stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// UDP, or TCP.
    pub udp: bool,
    /// Limit of the sender; none for TCP means as fast as it goes.
    pub bits_per_second: Option<u64>,
    /// From server to client.
    pub reverse: bool,
    /// How long.
    pub seconds: u32,
    /// How many at one time; one is one connection.
    pub parallel: u32,
}

/// What iperf3 measured at the receiver.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Payload bytes that arrived.
    pub bytes: u64,
    /// Payload bits per second.
    pub bits_per_second: f64,
    /// Lost datagrams in percent, for UDP.
    pub lost_percent: Option<f64>,
}

/// Runs one iperf3 test from `source` to `server`.
///
/// # Errors
/// iperf3 failed, or what it reports is not understood.
pub fn iperf3(
    namespace: &Namespace,
    source: Ipv4Addr,
    server: Ipv4Addr,
    stream: Stream,
) -> Result<Throughput> {
    let mut command = namespace.command("iperf3");
    command.args(["--json", "--client", &server.to_string(), "--bind", &source.to_string()]);
    command.args(["--time", &stream.seconds.to_string()]);
    command.args(["--parallel", &stream.parallel.to_string()]);
    if let Some(rate) = stream.bits_per_second {
        // Small writes, so that the limit holds from the beginning.
        command.args(["--length", "1400", "--bitrate", &rate.to_string()]);
    }
    if stream.udp {
        command.arg("--udp");
    }
    if stream.reverse {
        command.arg("--reverse");
    }
    let limit = Duration::from_secs(60 + u64::from(stream.seconds));
    let output = output_within(command, limit)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).with_context(|| {
        format!("iperf3 printed {text}{}", String::from_utf8_lossy(&output.stderr))
    })?;
    if let Some(error) = report.get("error") {
        anyhow::bail!("iperf3 {stream:?} from {source}: {error}");
    }
    let end = report.get("end").context("iperf3 reported no end")?;
    let arrived = end.get("sum_received").filter(|sum| sum["bytes"].as_u64() > Some(0));
    let sum = arrived.with_context(|| format!("iperf3 {stream:?}: nothing arrived: {end}"))?;
    Ok(Throughput {
        bytes: sum["bytes"].as_u64().context("iperf3 reported no bytes")?,
        bits_per_second: sum["bits_per_second"].as_f64().context("iperf3 reported no rate")?,
        lost_percent: end["sum"]["lost_percent"].as_f64().filter(|_| stream.udp),
    })
}

/// Which frames of an interface tcpdump writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Those that arrive. Frames that an appliance sends with the qdisc bypassed are never seen
    /// on its own end of a veth, so look at the far end, where they arrive.
    Arriving,
    /// All that the kernel shows.
    Both,
}

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    path: PathBuf,
    log: PathBuf,
    _directory: TempDir,
}

impl Capture {
    /// Captures whole frames of `interface` that match `filter` into `path` (classic pcap,
    /// microseconds), and returns once it listens.
    ///
    /// # Errors
    /// tcpdump does not start within 10 s.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        direction: Direction,
        filter: &str,
        path: &Path,
    ) -> Result<Capture> {
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let log = directory.path().join("log");
        let mut command = namespace.command("tcpdump");
        command.args(["-i", interface, "-n", "-s", "0", "-Z", "root", "-B", "16384"]);
        command.args(["--time-stamp-precision=micro", "--immediate-mode"]);
        if direction == Direction::Arriving {
            command.args(["-Q", "in"]);
        }
        command.arg("-w").arg(path).arg(filter);
        command.stderr(File::create(&log).context("cannot make a log file")?);
        let mut process = Process::start("tcpdump", command)?;
        wait_until("tcpdump listening", START_LIMIT, || {
            if let Some(status) = process.try_wait()? {
                anyhow::bail!("tcpdump ended with {status}: {}", read_log(&log).trim());
            }
            Ok(read_log(&log).contains("listening on"))
        })?;
        Ok(Capture { process, path: path.to_owned(), log, _directory: directory })
    }

    /// Stops it; the number of frames in the file.
    ///
    /// # Errors
    /// The kernel dropped frames, so the file is not whole.
    pub fn stop(mut self) -> Result<u64> {
        // What was sent a moment ago is still on its way through the kernel's ring.
        std::thread::sleep(Duration::from_millis(300));
        self.process.interrupt(STOP_LIMIT)?;
        let log = read_log(&self.log);
        let count = |what: &str| {
            log.lines().find_map(|line| line.strip_suffix(what)?.trim().parse::<u64>().ok())
        };
        let dropped = count(" packets dropped by kernel").context("tcpdump told no drops")?;
        ensure!(dropped == 0, "tcpdump lost {dropped} frames of {}", self.path.display());
        count(" packets captured")
            .or_else(|| count(" packet captured"))
            .with_context(|| format!("tcpdump told no count: {log}"))
    }
}

/// Calls `action` for each of `items` on `threads` threads; the errors, each with its item.
pub fn in_parallel<T: Sync + std::fmt::Debug>(
    items: &[T],
    threads: usize,
    action: impl Fn(&T) -> Result<()> + Sync,
) -> Vec<String> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let errors = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) =
                    items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    if let Err(error) = action(item)
                        && let Ok(mut errors) = errors.lock()
                    {
                        errors.push(format!("{item:?}: {error:#}"));
                    }
                }
            });
        }
    });
    errors.into_inner().unwrap_or_default()
}
