//! `make demo-live`: real programs through the appliance, in a laboratory of network namespaces.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Appliance, Settings};
use cgnat_tests::lab::{Lab, SERVERS};
use cgnat_tests::traffic::{self, NAME, Server, Stream};
use clap::Parser;

/// Runs curl, dig, ping and iperf3 through the appliance and prints what each side saw (as root).
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "All that it makes is in three network namespaces, which are removed at the end, \
                  also on Ctrl-C. Exit codes: 0 all went through, 1 something did not, 2 usage."
)]
struct Arguments {
    /// Workers of the appliance.
    #[arg(long, default_value_t = 2)]
    workers: u16,
    /// Size of the download, MB.
    #[arg(long, default_value_t = 20)]
    megabytes: u64,
    /// Seconds of each iperf3 test.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Show the kernel's own NAT instead of the appliance, to compare.
    #[arg(long)]
    kernel: bool,
}

fn main() -> ExitCode {
    match demonstrate(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo-live: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the demonstration found: mappings as client and server saw them, and failures.
#[derive(Default)]
struct Findings {
    mappings: Vec<(&'static str, SocketAddrV4, SocketAddrV4, SocketAddrV4)>,
    failed: u32,
}

impl Findings {
    /// Prints what a client saw, or why it failed.
    fn tell(&mut self, client: &str, result: Result<String>) {
        match result {
            Ok(text) => println!("{client:<7} {text}"),
            Err(error) => {
                self.failed += 1;
                println!("{client:<7} FAILED: {error:#}");
            }
        }
    }
}

fn demonstrate(arguments: &Arguments) -> Result<bool> {
    let lab = Lab::new(8)?;
    for (namespace, what) in [
        (&lab.subscribers, "8 subscribers in 100.64.0.0/10"),
        (&lab.middle, "the appliance, between two veths"),
        (&lab.server, "servers 198.51.100.10 to .12; no route to subscribers"),
    ] {
        println!("{:<28} {what}", namespace.name());
    }
    let appliance = if arguments.kernel {
        lab.use_kernel_nat("203.0.113.0-203.0.113.7", "1024-65535")?;
        None
    } else {
        let settings = Settings { workers: arguments.workers, ..Settings::default() };
        Some(Appliance::start(&lab, &settings)?)
    };
    println!();

    let mut findings = Findings::default();
    clients(&lab, arguments, &mut findings)?;
    let leaked = lab.leaks()?;
    if leaked > 0 {
        findings.failed += 1;
    }
    println!("{:<7} {leaked} packets with a subscriber's address reached the servers", "leak");

    println!("\nMappings, as client and server saw them");
    println!("{:<6} {:<22} {:<22} SERVER", "PROTO", "INTERNAL", "EXTERNAL");
    for (protocol, internal, external, server) in &findings.mappings {
        println!("{protocol:<6} {internal:<22} {external:<22} {server}");
    }

    if let Some(appliance) = appliance {
        let outcome = appliance.stop()?;
        println!("\nThe appliance\n{}", outcome.printed.trim_end());
    }
    drop(lab);
    match findings.failed {
        0 => println!("\nall went through; the laboratory is removed"),
        failed => println!("\n{failed} of the above failed; the laboratory is removed"),
    }
    Ok(findings.failed == 0)
}

fn clients(lab: &Lab, arguments: &Arguments, findings: &mut Findings) -> Result<()> {
    let [web, _, streams] = SERVERS;
    let http = Server::http(&lab.server, web)?;
    let dns = Server::dns(&lab.server, web, 53)?;
    let iperf = Server::iperf3(&lab.server, streams)?;
    let namespace = &lab.subscribers;
    let [first, second, third, fourth, ..] = *lab.addresses() else {
        anyhow::bail!("a laboratory without subscribers");
    };

    let result = download(lab, arguments.megabytes, first, web, &http);
    findings.tell("curl", result);
    for client in [first, first, second] {
        let seen = traffic::whoami(namespace, client, web).map(|(internal, external)| {
            let server = SocketAddrV4::new(web, 80);
            findings.mappings.push(("tcp", internal, external, server));
            format!("{internal} is {external} for {web}")
        });
        findings.tell("curl", seen);
    }

    let client = SocketAddrV4::new(third, 20_053);
    let seen = traffic::dig(namespace, (third, client.port()), (web, 53), &[]).and_then(|answer| {
        let external = traffic::dns_clients(&dns.log()).pop().context("no query in the log")?;
        findings.mappings.push(("udp", client, external, SocketAddrV4::new(web, 53)));
        Ok(format!("{client} asked for {NAME}: {answer}; it is {external} for {web}"))
    });
    findings.tell("dig", seen);

    let seen = traffic::ping(namespace, fourth, web, 5, 1400).and_then(|received| {
        ensure!(received == 5, "{received} of 5 replies");
        Ok(format!("{fourth} got {received} of 5 replies of 1400 bytes from {web}"))
    });
    findings.tell("ping", seen);

    for (udp, reverse) in [(false, false), (false, true), (true, false), (true, true)] {
        let bits_per_second = udp.then_some(20_000_000);
        let stream =
            Stream { udp, bits_per_second, reverse, seconds: arguments.seconds, parallel: 1 };
        let seen = traffic::iperf3(namespace, second, streams, stream).and_then(|measured| {
            let lost = measured.lost_percent.unwrap_or(0.0);
            ensure!(lost < 50.0, "{lost:.1} % lost");
            let protocol = if udp { "UDP" } else { "TCP" };
            let way = if reverse { "to" } else { "from" };
            let rate = measured.bits_per_second / 1e6;
            let lost = measured.lost_percent.map(|lost| format!(", {lost:.2} % lost"));
            Ok(format!("{protocol} {way} {second}: {rate:.1} Mbit/s{}", lost.unwrap_or_default()))
        });
        findings.tell("iperf3", seen);
    }
    let log = iperf.log();
    let peers = log.lines().filter_map(|line| line.split_once("connected to ")).count();
    println!("{:<7} the server logged {peers} streams, the last of them:", "iperf3");
    if let Some(line) = log.lines().rfind(|line| line.contains("connected to ")) {
        println!("{:<7} {}", "", line.trim());
    }
    Ok(())
}

/// Downloads a file of random bytes and compares its SHA-256.
fn download(
    lab: &Lab,
    megabytes: u64,
    client: Ipv4Addr,
    server: Ipv4Addr,
    http: &Server,
) -> Result<String> {
    let original = http.root().join("random");
    traffic::random_file(&original, megabytes * 1_000_000)?;
    let copy = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    let begun = Instant::now();
    let limit = Duration::from_secs(60 + megabytes * 2);
    traffic::download(&lab.subscribers, client, server, "random", copy.path(), limit)?;
    let seconds = begun.elapsed().as_secs_f64();
    let (sent, received) = (traffic::sha256(&original)?, traffic::sha256(copy.path())?);
    ensure!(sent == received, "SHA-256 differs: {sent} sent, {received} received");
    Ok(format!(
        "{client} fetched {megabytes} MB in {seconds:.1} s, SHA-256 {}... same",
        &sent[..16]
    ))
}
