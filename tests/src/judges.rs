//! Programs of others that find out what a NAT does, asked from inside.
//!
//! | program | package | what it judges |
//! | --- | --- | --- |
//! | `turnutils_natdiscovery`, `turnserver` | coturn | mapping, filtering, hairpinning (RFC 5780) |
//! | `tracepath` | iputils-tracepath | hops and path MTU, without privileges |
//! | `traceroute` | traceroute | hops, by UDP, ICMP, TCP, and with falling MTU |
//! | `ping` | iputils-ping | IP options, errors, what the kernel learned of a path |
//! | `iperf3` | iperf3 | datagrams larger than a packet, counted at the receiver |
//!
//! What they print is returned without times, so that two runs can be compared.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::{BOX_INTERNAL, Namespace};
use crate::process::{output_within, run};
use crate::traffic::Server;

const LIMIT: Duration = Duration::from_secs(30);
const STUN_PORT: u16 = 3478;

/// Ports on which [`refuse`] answers a SYN, with what nft calls the answer.
pub const REFUSED: [(u16, &str); 5] = [
    (7001, "icmp type host-unreachable"),
    (7002, "icmp type admin-prohibited"),
    (7003, "icmp type net-unreachable"),
    (7004, "icmp type port-unreachable"),
    (7005, "tcp reset"),
];

/// A STUN server that answers from each of two addresses and two ports, as asked (RFC 5780).
///
/// # Errors
/// It does not start within 10 s.
pub fn stun(namespace: &Namespace, addresses: [Ipv4Addr; 2]) -> Result<Server> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let mut command = namespace.command("turnserver");
    command.args(["-S", "--no-cli", "--no-tls", "--no-dtls", "-c", "/dev/null"]);
    command.args(["--log-file", "stdout", "--listening-port", &STUN_PORT.to_string()]);
    for address in addresses {
        command.args(["--listening-ip", &address.to_string()]);
    }
    command.arg("--pidfile").arg(directory.path().join("pid"));
    command.arg("--userdb").arg(directory.path().join("db"));
    // Its alternative port is the next one, and the one that it opens last.
    Server::start("turnserver", namespace, STUN_PORT + 1, directory, command)
}

/// What natdiscovery asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Does one internal endpoint have one external endpoint, whoever it sends to?
    Mapping,
    /// Who may answer?
    Filtering,
    /// Does another socket of the subscriber reach it by its external endpoint?
    Hairpinning,
}

/// The sentence of natdiscovery about the NAT between `source` and a [`stun`] server; empty if it
/// came to none. With `padded`, its requests are larger than a packet.
///
/// # Errors
/// It failed, or found addresses in the payload changed (RFC 5780 section 4.1 calls that an ALG).
pub fn natdiscovery(
    namespace: &Namespace,
    source: (Ipv4Addr, u16),
    server: Ipv4Addr,
    question: Question,
    padded: bool,
) -> Result<String> {
    let mut command = namespace.command("turnutils_natdiscovery");
    command.arg(match question {
        Question::Mapping => "-m",
        Question::Filtering => "-f",
        Question::Hairpinning => "-H",
    });
    if padded {
        command.arg("-P");
    }
    command.args(["-L", &source.0.to_string(), "-l", &source.1.to_string()]);
    command.args(["-p", &STUN_PORT.to_string(), &server.to_string()]);
    let text = run(command, LIMIT)?;
    ensure!(text.contains("No ALG: Mapped == XOR-Mapped"), "natdiscovery printed {text}");
    let sentence = |line: &&str| line.starts_with("NAT with ") || line.contains("hairpinning)");
    Ok(text.lines().find(sentence).unwrap_or_default().to_owned())
}

/// The hops that tracepath finds, and the path MTU. It takes its source from the route to `to`.
///
/// # Errors
/// tracepath failed.
pub fn tracepath(namespace: &Namespace, to: Ipv4Addr) -> Result<String> {
    let text = without_times(&namespace.run("tracepath", &["-n", "-m", "4", &to.to_string()])?);
    // Its first hop answers twice: to its guess of the number of hops, too.
    let mut lines: Vec<_> = text.lines().collect();
    lines.dedup();
    Ok(lines.join("\n"))
}

/// The hops that traceroute finds with further `options`, such as `-T`.
///
/// # Errors
/// traceroute failed.
pub fn traceroute(
    namespace: &Namespace,
    source: Ipv4Addr,
    to: Ipv4Addr,
    options: &[&str],
) -> Result<String> {
    let mut command = namespace.command("traceroute");
    command.args(["-n", "-q", "1", "-w", "2", "-m", "4", "-s", &source.to_string()]);
    command.args(options).arg(to.to_string());
    Ok(without_times(&run(command, LIMIT)?))
}

/// What ping prints with `options`, whatever its exit code.
///
/// # Errors
/// It did not end.
pub fn ping(
    namespace: &Namespace,
    source: Ipv4Addr,
    to: Ipv4Addr,
    options: &[&str],
) -> Result<String> {
    let mut command = namespace.command("ping");
    command.args(["-n", "-W", "2", "-i", "0.2", "-I", &source.to_string()]).args(options);
    let output = output_within(command_to(command, to), LIMIT)?;
    Ok(without_times(&String::from_utf8_lossy(&output.stdout)))
}

fn command_to(mut command: Command, to: Ipv4Addr) -> Command {
    command.arg(to.to_string());
    command
}

/// The addresses of the first recorded route in what ping printed.
pub fn recorded_route(ping: &str) -> Vec<Ipv4Addr> {
    ping.lines()
        .skip_while(|line| !line.starts_with("RR:"))
        .map_while(|line| line.trim_start_matches("RR:").trim().parse().ok())
        .collect()
}

/// The MTU that the kernel learned of the path from `source`; `None` if it learned nothing.
///
/// # Errors
/// ip failed.
pub fn path_mtu(namespace: &Namespace, source: Ipv4Addr, to: Ipv4Addr) -> Result<Option<u16>> {
    let (source, to) = (source.to_string(), to.to_string());
    let text = namespace.run("ip", &["route", "get", &to, "from", &source])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "mtu");
    Ok(words.nth(1).and_then(|mtu| mtu.parse().ok()))
}

/// Makes programs without a choice of source use `source` towards `to`.
///
/// # Errors
/// ip refused.
pub fn prefer_source(namespace: &Namespace, source: Ipv4Addr, to: Ipv4Addr) -> Result<()> {
    let (source, to, via) = (source.to_string(), to.to_string(), BOX_INTERNAL.to_string());
    namespace.run("ip", &["route", "replace", &to, "via", &via, "src", &source]).map(drop)
}

/// Lets the kernel of `namespace` lose every `nth` packet to TCP port `port` of its own and every
/// `nth` from there, before anybody but tcpdump sees it.
///
/// # Errors
/// nft refused.
pub fn lose(namespace: &Namespace, port: u16, nth: u32) -> Result<()> {
    let rules = format!(
        "table ip losing {{\n counter lost {{ }}\n\
         chain in {{\n type filter hook prerouting priority raw;\n\
         tcp dport {port} numgen inc mod {nth} == 0 counter name lost drop\n }}\n\
         chain out {{\n type filter hook output priority raw;\n\
         tcp sport {port} numgen inc mod {nth} == 0 counter name lost drop\n }}\n}}\n"
    );
    apply(namespace, &rules)
}

/// Packets that [`lose`] took.
///
/// # Errors
/// nft did not tell.
pub fn lost(namespace: &Namespace) -> Result<u64> {
    let text = namespace.run("nft", &["list", "counter", "ip", "losing", "lost"])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
    let count = words.nth(1).and_then(|count| count.parse().ok());
    count.with_context(|| format!("nft listed no count: {text}"))
}

fn apply(namespace: &Namespace, rules: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    std::fs::write(file.path(), rules).context("cannot write the rules for nft")?;
    let mut command = namespace.command("nft");
    command.arg("-f").arg(file.path());
    run(command, LIMIT).map(drop)
}

/// Lets the kernel of `namespace` answer SYNs to the ports of [`REFUSED`] so.
///
/// # Errors
/// nft refused.
pub fn refuse(namespace: &Namespace) -> Result<()> {
    let rules = REFUSED.map(|(port, answer)| format!("tcp dport {port} reject with {answer}\n"));
    let rules = format!(
        "table ip refusing {{\n chain in {{\n type filter hook input priority 0;\n{}}}\n}}\n",
        rules.concat()
    );
    apply(namespace, &rules)
}

/// Why curl could not connect to `server`:`port`, in the words of the kernel.
///
/// # Errors
/// It could connect, or gave no reason within 10 s.
pub fn refusal(
    namespace: &Namespace,
    source: Ipv4Addr,
    server: Ipv4Addr,
    port: u16,
) -> Result<String> {
    let mut command = namespace.command("curl");
    command.args(["--verbose", "--silent", "--max-time", "10", "--interface", &source.to_string()]);
    command.arg(format!("http://{server}:{port}/"));
    let output = output_within(command, LIMIT)?;
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text.lines().find_map(|line| line.split_once(" failed: "));
    Ok(reason.with_context(|| format!("port {port}: curl said {text}"))?.1.to_owned())
}

/// Adds to the pages of a web server one that answers the SHA-256 of what is posted to it.
///
/// # Errors
/// The script cannot be written.
pub fn add_page_of_sums(http: &Server) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let script = http.root().join("cgi-bin/sum");
    std::fs::write(
        &script,
        "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nsha256sum\n",
    )
    .context("cannot write the page of sums")?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))
        .context("cannot make the page of sums executable")
}

/// Posts a file to the page of [`add_page_of_sums`]; the sum that the server answers.
///
/// # Errors
/// curl failed or was not done in time.
pub fn upload(
    namespace: &Namespace,
    source: Ipv4Addr,
    server: Ipv4Addr,
    file: &Path,
) -> Result<String> {
    let mut command = namespace.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--interface", &source.to_string()]);
    command.arg("--data-binary").arg(format!("@{}", file.display()));
    command.arg(format!("http://{server}/cgi-bin/sum"));
    let text = run(command, LIMIT)?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Datagrams of one size, as their receiver counted them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagrams {
    /// That the sender sent.
    pub sent: u64,
    /// That arrived.
    pub arrived: u64,
}

/// Sends datagrams of `bytes` bytes, a hundred in a second, with iperf3; from the server if
/// `reverse`.
///
/// # Errors
/// iperf3 failed, or what it reports is not understood.
pub fn datagrams(
    namespace: &Namespace,
    source: Ipv4Addr,
    server: Ipv4Addr,
    bytes: u32,
    reverse: bool,
) -> Result<Datagrams> {
    let mut command = namespace.command("iperf3");
    command.args(["--json", "--client", &server.to_string(), "--bind", &source.to_string()]);
    command.args(["--udp", "--time", "1", "--length", &bytes.to_string()]);
    command.args(["--bitrate", &(bytes * 8 * 100).to_string()]);
    if reverse {
        command.arg("--reverse");
    }
    let output = output_within(command, LIMIT)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).with_context(|| {
        format!("iperf3 printed {text}{}", String::from_utf8_lossy(&output.stderr))
    })?;
    let payload = |sum: &str| {
        let number = report["end"][sum]["bytes"].as_u64();
        number.with_context(|| format!("iperf3 told no {sum} of {bytes} bytes: {report}"))
    };
    // Not its count of lost datagrams: that is 0 too if nothing arrives.
    let datagrams = |sum| Ok::<_, anyhow::Error>(payload(sum)? / u64::from(bytes));
    Ok(Datagrams { sent: datagrams("sum_sent")?, arrived: datagrams("sum_received")? })
}

/// The text without times, and with one space between words.
fn without_times(text: &str) -> String {
    let is_time = |word: &str| {
        let number = word.strip_suffix("ms").unwrap_or(word);
        let decimal = number.contains('.') && number.parse::<f64>().is_ok();
        word.starts_with("time=") || number.is_empty() || decimal
    };
    text.lines()
        .map(|line| line.split_whitespace().filter(|word| !is_time(word)).collect::<Vec<_>>())
        .map(|words| words.join(" "))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_left_out_and_addresses_are_not() {
        let text = " 1:  10.255.0.2   0.031ms pmtu 1400\n\
                    2  198.51.100.10  0.106 ms\nttl=63 time=0.5 ms";
        assert_eq!(without_times(text), "1: 10.255.0.2 pmtu 1400\n2 198.51.100.10\nttl=63");
    }

    #[test]
    fn a_recorded_route_is_read_to_its_end() {
        let text =
            "64 bytes from 198.51.100.12: icmp_seq=1 ttl=63\nRR: 203.0.113.4\n192.0.2.2\n\n3";
        assert_eq!(
            recorded_route(text),
            [Ipv4Addr::new(203, 0, 113, 4), Ipv4Addr::new(192, 0, 2, 2)]
        );
        assert!(recorded_route("64 bytes from 198.51.100.12").is_empty());
    }
}
