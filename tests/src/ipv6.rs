//! IPv6 in the laboratory, beside its IPv4: a prefix of subscribers behind the router, servers behind
//! the world, and an appliance that lets them talk.
//!
//! ```text
//!  subscribers                         box                              server
//!  lo: 2001:db8:100:N::1        2001:db8:a::2  2001:db8:b::2     lo: 2001:db8:f::10
//!  router fe80::1 ============ fe80::2            fe80::2 ============ world fe80::1
//!         2001:db8:a::1                                                2001:db8:b::1
//! ```

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::{EXTERNAL, INTERNAL, Lab, Namespace};
use crate::process::{output_within, run, wait_until};

/// The router of subscribers.
pub const ROUTER6: &str = "2001:db8:a::1";
/// The appliance towards the router.
pub const BOX6_INTERNAL: &str = "2001:db8:a::2";
/// What is outside.
pub const WORLD6: &str = "2001:db8:b::1";
/// The appliance towards what is outside.
pub const BOX6_EXTERNAL: &str = "2001:db8:b::2";
/// The server.
pub const SERVER6: &str = "2001:db8:f::10";
/// All subscribers.
const PREFIX: &str = "2001:db8:100::/40";

const LIMIT: Duration = Duration::from_secs(60);

/// An address of subscriber number `index`, which has a network of its own.
pub fn subscriber6(index: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x100, index, 0, 0, 0, 1)
}

/// Gives the laboratory IPv6, with this many subscribers.
///
/// # Errors
/// ip or sysctl refused.
pub fn join(lab: &Lab, count: u16) -> Result<()> {
    for (namespace, interface) in [(&lab.subscribers, "router"), (&lab.server, "world")] {
        // Addresses that are used at once, and no others than ours.
        for interface in ["lo", interface] {
            let key = |name: &str, value: u8| format!("net.ipv6.conf.{interface}.{name}={value}");
            let keys = [key("accept_dad", 0), key("addr_gen_mode", 1), key("disable_ipv6", 0)];
            namespace.run("sysctl", &["-qw", &keys[0], &keys[1], &keys[2]])?;
        }
        namespace.run("sysctl", &["-qw", "net.ipv6.icmp.ratelimit=0"])?;
    }
    let ip = |namespace: &Namespace, words: &str| {
        namespace.run("ip", &words.split(' ').collect::<Vec<_>>()).map(drop)
    };
    let inside = &lab.subscribers;
    ip(inside, &format!("-6 address add {ROUTER6}/64 dev router nodad"))?;
    ip(inside, "-6 address add fe80::1/64 dev router nodad")?;
    ip(inside, "-6 route add default via fe80::2 dev router")?;
    for index in 0..count {
        ip(inside, &format!("-6 address add {}/128 dev lo nodad", subscriber6(index)))?;
    }
    let outside = &lab.server;
    ip(outside, &format!("-6 address add {WORLD6}/64 dev world nodad"))?;
    ip(outside, "-6 address add fe80::1/64 dev world nodad")?;
    ip(outside, &format!("-6 address add {SERVER6}/128 dev lo nodad"))?;
    ip(outside, &format!("-6 route add {PREFIX} via fe80::2 dev world"))?;
    ip(outside, "-6 route add 2001:db8:a::/64 via fe80::2 dev world")?;
    for interface in [INTERNAL, EXTERNAL] {
        let off = format!("net.ipv6.conf.{interface}.disable_ipv6=1");
        lab.middle.run("sysctl", &["-qw", &off])?;
    }
    Ok(())
}

/// A configuration of the laboratory with IPv6 at both ports.
pub fn with_ipv6(yaml: &str) -> String {
    let port = |yaml: &str, side: &str, section: &str| {
        let key = format!("    side: {side}\n");
        yaml.replacen(&key, &format!("{key}    ipv6: {{ {section} }}\n"), 1)
    };
    let own = |address: &str| format!("addresses: [\"{address}/64\"], link-local: \"fe80::2\"");
    let yaml = port(yaml, "internal", &own(BOX6_INTERNAL));
    let external = format!("{}, next-hop: \"fe80::1\"", own(BOX6_EXTERNAL));
    let yaml = port(&yaml, "external", &external);
    format!("{yaml}routes:\n  - {{ to: \"{PREFIX}\", via: \"fe80::1\", port: internal0 }}\n")
}

/// Waits until the box answers a ping of its neighbours: its addresses are its own a second after
/// its start.
///
/// # Errors
/// It does not.
pub fn wait_for_box(lab: &Lab) -> Result<()> {
    for (namespace, own) in [(&lab.subscribers, BOX6_INTERNAL), (&lab.server, BOX6_EXTERNAL)] {
        wait_until("the box to answer by IPv6", LIMIT, || {
            Ok(ping(namespace, None, own, &["-c", "1", "-W", "1"])?.contains("1 received"))
        })?;
    }
    Ok(())
}

/// What ping says.
///
/// # Errors
/// It does not end.
pub fn ping(
    namespace: &Namespace,
    source: Option<Ipv6Addr>,
    to: &str,
    options: &[&str],
) -> Result<String> {
    let mut command = namespace.command("ping");
    command.args(["-6", "-n", "-i", "0.1"]).args(options);
    if let Some(source) = source {
        command.args(["-I", &source.to_string()]);
    }
    command.arg(to);
    let output = output_within(command, LIMIT)?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Fetches a file of a web server at `server`, from `source`.
///
/// # Errors
/// curl did not get it.
pub fn download(
    namespace: &Namespace,
    source: Ipv6Addr,
    server: &str,
    name: &str,
    into: &std::path::Path,
) -> Result<()> {
    let mut command = namespace.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--interface"]);
    command
        .arg(source.to_string())
        .arg(format!("http://[{server}]/{name}"))
        .arg("--output")
        .arg(into);
    run(command, LIMIT * 2).map(drop)
}

/// Bytes that iperf3 moved within some seconds from `source`, and the part of datagrams that was lost.
///
/// # Errors
/// iperf3 failed.
pub fn iperf3(namespace: &Namespace, source: Ipv6Addr, options: &[&str]) -> Result<(u64, f64)> {
    let mut command = namespace.command("iperf3");
    command.args(["--json", "--client", SERVER6, "--bind", &source.to_string()]).args(options);
    let output = output_within(command, LIMIT)?;
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 printed no JSON")?;
    ensure!(report.get("error").is_none(), "iperf3 {options:?}: {report}");
    let end = &report["end"];
    let bytes = end["sum_received"]["bytes"].as_u64().or(end["sum"]["bytes"].as_u64());
    let lost = end["sum"]["lost_percent"].as_f64().unwrap_or(0.0);
    Ok((bytes.context("iperf3 reported no bytes")?, lost))
}
