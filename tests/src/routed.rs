//! Two appliances side by side between a router inside and a router outside, which speak OSPF, BGP
//! and BFD with the routing daemons beside the appliances.
//!
//! ```text
//!  inside (FRR: OSPF)                                                outside (FRR: BGP, AS 64501)
//!  lo: 100.64.0.10     in0 .1 ==== .2 box 0  203.0.113.0/28  .2 ==== .1 out0    lo: servers
//!                         10.255.0.0/30                192.0.2.0/30
//!                      in1 .5 ==== .6 box 1  203.0.113.16/28 .6 ==== .5 out1
//!                         10.255.0.4/30                192.0.2.4/30
//! ```
//!
//! On the outer link of box 0 there is another next hop, [`HOPS`]`[1]`, to which the router outside
//! can send it by BGP.
//!
//! Box 0 runs on configs/routed.yaml with configs/frr.conf or configs/bird.conf, but for names of
//! devices, sockets and logs; box 1 on the same with other addresses and a larger metric. One server,
//! [`PINNED`], is always reached through box 0, whatever is announced.
//!
//! It does not say what should be: tests do.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::appliance::{Appliance, program};
use crate::lab::{EXTERNAL, INTERNAL, Namespace, SERVERS, apply_rules, begin};
use crate::process::{Process, output_within, read_log, run};
use crate::traffic;

/// The subscriber.
pub const SUBSCRIBER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 10);
/// A server that is reached by what is announced.
pub const SERVER: Ipv4Addr = SERVERS[0];
/// A server that is reached through box 0, and answers through it, whatever is announced.
pub const PINNED: Ipv4Addr = SERVERS[2];
/// The pools of the boxes.
pub const POOLS: [&str; 2] = ["203.0.113.0/28", "203.0.113.16/28"];
/// The kernel interfaces of a box, internal and external.
pub const INTERFACES: [&str; 2] = ["cgn-int", "cgn-ext"];
/// Addresses of the boxes on the outer links.
pub const OUTER: [&str; 2] = ["192.0.2.2", "192.0.2.6"];
/// Next hops on the outer link of box 0: the configured one, and one that only BGP names.
pub const HOPS: [&str; 2] = ["192.0.2.1", "192.0.2.9"];
/// Their MACs.
const HOP_MACS: [&str; 2] = ["02:00:00:00:00:04", "02:00:00:00:09:09"];
/// Addresses of the boxes on the inner links.
pub const INNER: [&str; 2] = ["10.255.0.2", "10.255.0.6"];

const BOX: &str = include_str!("../../configs/routed.yaml");
const FRR: &str = include_str!("../../configs/frr.conf");
const BIRD: &str = include_str!("../../configs/bird.conf");

/// FRR of the router inside. Its own pauses are short, so that what is seen is how soon it is told.
const INSIDE: &str = "
interface in0
 ip ospf area 0
 ip ospf network point-to-point
 ip ospf hello-interval 1
 ip ospf dead-interval 40
 ip ospf retransmit-interval 1
 ip ospf bfd
 ip ospf bfd profile quick
interface in1
 ip ospf area 0
 ip ospf network point-to-point
 ip ospf hello-interval 1
 ip ospf dead-interval 40
 ip ospf retransmit-interval 1
 ip ospf bfd
 ip ospf bfd profile quick
router ospf
 ospf router-id 10.255.255.1
 timers throttle spf 0 50 200
 timers throttle lsa all 100
bfd
 profile quick
  transmit-interval 150
  receive-interval 150
";

/// FRR of the router outside.
const OUTSIDE: &str = "
router bgp 64501
 bgp router-id 198.51.100.10
 no bgp ebgp-requires-policy
 neighbor 192.0.2.2 remote-as 64500
 neighbor 192.0.2.2 bfd profile quick
 neighbor 192.0.2.2 timers connect 1
 neighbor 192.0.2.6 remote-as 64500
 neighbor 192.0.2.6 bfd profile quick
 neighbor 192.0.2.6 timers connect 1
 address-family ipv4 unicast
  neighbor 192.0.2.2 route-map ELSEWHERE out
 exit-address-family
route-map ELSEWHERE permit 10
 set ip next-hop 192.0.2.9
bfd
 profile quick
  transmit-interval 150
  receive-interval 150
";

/// What the boxes' FRR takes of the router outside, instead of nothing.
const FRR_LEARNS: [(&str, &str); 2] = [
    ("route-map NOTHING deny 10\n", "ip prefix-list LEARNED seq 5 permit 198.51.100.0/24 le 32\n"),
    ("neighbor 192.0.2.1 route-map NOTHING in", "neighbor 192.0.2.1 prefix-list LEARNED in"),
];

/// Likewise BIRD.
const BIRD_LEARNS: [(&str, &str); 2] = [
    ("    export none;\n", "    export where source = RTS_BGP;\n"),
    (
        "  ipv4 {\n    import none;\n    export where source = RTS_INHERIT;",
        "  ipv4 {\n    import where net ~ [198.51.100.0/24+];\n    export where source = RTS_INHERIT;",
    ),
];

/// Another next hop on the link of box 0, which is larger, and packets follow what the daemon learned.
const BOX_FOLLOWS: [(&str, &str); 2] = [
    ("192.0.2.2/30", "192.0.2.2/28"),
    ("kernel-interface: cgn-ext\n", "kernel-interface: cgn-ext\n    routes-from-kernel: true\n"),
];

const STEP_LIMIT: Duration = Duration::from_secs(30);

/// What announces the pools of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// FRR, by configs/frr.conf.
    Frr,
    /// BIRD, by configs/bird.conf.
    Bird,
}

/// Routing daemons of one namespace; killed when dropped.
#[derive(Debug)]
pub struct Daemons {
    directory: PathBuf,
    processes: Vec<(&'static str, Process)>,
}

/// The laboratory. Dropping it removes it.
#[derive(Debug)]
pub struct Routed {
    // First: ended before the namespaces are gone.
    routers: Vec<Daemons>,
    /// The router inside, which is the subscriber too.
    pub inside: Namespace,
    /// The boxes.
    pub boxes: [Namespace; 2],
    /// The router outside, which is the servers too.
    pub outside: Namespace,
    directory: TempDir,
    // Last: released after the namespaces are gone.
    _lock: UnixListener,
}

impl Routed {
    /// Makes the laboratory, with FRR on both routers.
    ///
    /// # Errors
    /// Not root, or a step failed.
    pub fn new() -> Result<Routed> {
        let (prefix, lock) = begin()?;
        let named = |name: &str| Namespace::create(format!("{prefix}{name}"));
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let mut lab = Routed {
            inside: named("subscribers")?,
            boxes: [named("box")?, named("box2")?],
            outside: named("server")?,
            routers: Vec::new(),
            directory,
            _lock: lock,
        };
        // FRR's programs are of a user of their own.
        run(command("chmod", &["755", path(lab.directory.path())?]), STEP_LIMIT)?;
        lab.join()?;
        lab.pin()?;
        lab.count()?;
        let inside = lab.frr(&lab.inside, "inside", INSIDE, &["zebra", "bfdd", "ospfd"])?;
        let outside = lab.frr(&lab.outside, "outside", OUTSIDE, &["zebra", "bfdd", "bgpd"])?;
        lab.routers = vec![inside, outside];
        Ok(lab)
    }

    fn join(&self) -> Result<()> {
        for namespace in self.boxes.iter().chain([&self.inside, &self.outside]) {
            namespace.sysctl(&[
                "net.ipv6.conf.all.disable_ipv6=1",
                "net.ipv6.conf.default.disable_ipv6=1",
                "net.ipv4.conf.all.rp_filter=0",
                "net.ipv4.conf.default.rp_filter=0",
                // On the boxes too: nothing that the NAT does not translate may leave all the same.
                "net.ipv4.ip_forward=1",
                "net.ipv4.icmp_ratelimit=0",
            ])?;
            namespace.ip_batch("link set lo up\n")?;
        }
        for (n, host) in self.boxes.iter().enumerate() {
            let (inside, outside) = (self.inside.name(), self.outside.name());
            host.ip_batch(&format!(
                "link add {INTERNAL} address 02:00:00:00:{n:02}:02 type veth \
                 peer name in{n} address 02:00:00:00:{n:02}:01 netns {inside}\n\
                 link add {EXTERNAL} address 02:00:00:00:{n:02}:03 type veth \
                 peer name out{n} address 02:00:00:00:{n:02}:04 netns {outside}\n\
                 link set {INTERNAL} up\nlink set {EXTERNAL} up\n"
            ))?;
            let near = 4 * n + 1;
            for (router, interface, address) in [
                (&self.inside, format!("in{n}"), format!("10.255.0.{near}/30")),
                (&self.outside, format!("out{n}"), format!("192.0.2.{near}/30")),
            ] {
                router.ip_batch(&format!(
                    "address add {address} dev {interface}\nlink set {interface} up\n"
                ))?;
                router.compute_checksums(&interface)?;
            }
            let mut quiet = "table netdev quiet {\n".to_owned();
            for device in [INTERNAL, EXTERNAL] {
                host.compute_checksums(device)?;
                // With packet sockets the kernel sees each frame on the veths too.
                quiet += &format!(
                    "chain {device} {{ type filter hook ingress device \"{device}\" priority 0; \
                     policy drop; }}\n"
                );
            }
            apply_rules(host, &(quiet + "}\n"))?;
        }
        // Each interface answers for its own addresses alone.
        self.outside.sysctl(&["net.ipv4.conf.all.arp_ignore=1"])?;
        let ([_, hop], [_, mac]) = (HOPS, HOP_MACS);
        self.outside.ip_batch(&format!(
            "link add hop link out0 address {mac} type macvlan mode bridge\n\
             address add {hop}/32 dev hop\nlink set hop up\n"
        ))?;
        self.inside.ip_batch(&format!("address add {SUBSCRIBER}/32 dev lo\n"))?;
        let servers = SERVERS.map(|server| format!("address add {server}/32 dev lo\n"));
        self.outside.ip_batch(&servers.concat())
    }

    /// The way through box 0 that no announcement changes.
    fn pin(&self) -> Result<()> {
        let ([inner, _], [outer, _], [pool, _]) = (INNER, OUTER, POOLS);
        self.inside.ip_batch(&format!(
            "route add {PINNED} via {inner} table 77\nrule add to {PINNED} table 77\n"
        ))?;
        self.outside.ip_batch(&format!(
            "route add {pool} via {outer} table 77\nrule add from {PINNED} table 77\n"
        ))
    }

    /// Counts what comes to [`SERVER`] by the pool that it comes from.
    fn count(&self) -> Result<()> {
        let mut rules = "table ip seen {\n".to_owned();
        for n in 0..POOLS.len() {
            rules += &format!("counter pool{n} {{ }}\n");
        }
        rules += "chain arriving { type filter hook prerouting priority 0;\n";
        for (n, pool) in POOLS.iter().enumerate() {
            rules += &format!("ip saddr {pool} ip daddr {SERVER} counter name pool{n}\n");
        }
        rules += "}\n}\ntable netdev hops {\n";
        for n in 0..HOPS.len() {
            rules += &format!("counter hop{n} {{ }}\n");
        }
        rules += "chain arriving { type filter hook ingress device \"out0\" priority 0;\n";
        for (n, mac) in HOP_MACS.iter().enumerate() {
            rules += &format!("ip daddr {SERVER} ether daddr {mac} counter name hop{n}\n");
        }
        apply_rules(&self.outside, &(rules + "}\n}\n"))
    }

    /// Packets that came to [`SERVER`] from each pool so far.
    ///
    /// # Errors
    /// nft refused.
    pub fn seen(&self) -> Result<[u64; 2]> {
        self.counted(&["ip", "seen"])
    }

    /// Packets to [`SERVER`] that came from box 0 to each of [`HOPS`] so far.
    ///
    /// # Errors
    /// nft refused.
    pub fn taken(&self) -> Result<[u64; 2]> {
        self.counted(&["netdev", "hops"])
    }

    fn counted(&self, table: &[&str]) -> Result<[u64; 2]> {
        let text = self.outside.run("nft", &[&["list", "counters", "table"], table].concat())?;
        let counts: Vec<u64> = text
            .split("packets ")
            .skip(1)
            .filter_map(|rest| rest.split(' ').next()?.parse().ok())
            .collect();
        counts.try_into().map_err(|_| anyhow::anyhow!("nft said {text}"))
    }

    /// Starts a box in its place.
    ///
    /// # Errors
    /// As of [`Appliance::launch`].
    pub fn start(&self, n: usize) -> Result<Appliance> {
        self.start_on(n, &moved(BOX, n))
    }

    /// Starts box 0 in its place, which follows what its routing daemon learned outside.
    ///
    /// # Errors
    /// As of [`Appliance::launch`].
    pub fn start_following(&self) -> Result<Appliance> {
        self.start_on(0, &replaced(BOX, &BOX_FOLLOWS))
    }

    fn start_on(&self, n: usize, text: &str) -> Result<Appliance> {
        let socket = self.socket(n);
        let yaml = |name: &str| {
            let text = text.replace("name: cgn1", &format!("name: {name}"));
            replaced(
                &text,
                &[
                    ("  workers: 2\n", "  workers: 2\n  huge-pages: off\n"),
                    ("/run/cgnat/control.sock", &socket.display().to_string()),
                    ("0000:3b:00.0", &format!("net_af_packet0,iface={INTERNAL},qpairs=2")),
                    ("0000:3b:00.1", &format!("net_af_packet1,iface={EXTERNAL},qpairs=2")),
                ],
            )
        };
        Appliance::launch(&self.boxes[n], yaml, None)
    }

    fn socket(&self, n: usize) -> PathBuf {
        self.directory.path().join(format!("control{n}.sock"))
    }

    /// What `cgnat show readiness` says of a box.
    ///
    /// # Errors
    /// It does not answer.
    pub fn readiness(&self, n: usize) -> Result<Value> {
        let text = self.ask(n, &["show", "readiness", "--json"])?;
        serde_json::from_str(&text).with_context(|| text)
    }

    /// Runs `cgnat` with the control socket of a box.
    ///
    /// # Errors
    /// It refuses.
    pub fn ask(&self, n: usize, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program()?);
        command.args(arguments).arg("--socket").arg(self.socket(n));
        run(command, STEP_LIMIT)
    }

    /// Starts routing daemons beside a box.
    ///
    /// # Errors
    /// They do not start, or do not take their configuration.
    pub fn announce(&self, n: usize, daemon: Daemon) -> Result<Daemons> {
        let (host, name) = (&self.boxes[n], format!("box{n}"));
        match daemon {
            Daemon::Frr => {
                let text = replaced(&moved(FRR, n), if n == 0 { &FRR_LEARNS } else { &[] });
                self.frr(host, &name, &text, &["zebra", "bfdd", "ospfd", "bgpd"])
            }
            Daemon::Bird => {
                let directory = self.directory.path().join(&name);
                std::fs::create_dir_all(&directory).context("cannot make a directory")?;
                let (file, log) = (directory.join("bird.conf"), directory.join("log"));
                let log = format!("log \"{}\" all;", log.display());
                let text = replaced(&moved(BIRD, n), if n == 0 { &BIRD_LEARNS } else { &[] });
                std::fs::write(&file, text.replace("log syslog all;", &log))
                    .context("cannot write a configuration")?;
                let mut command = host.command("bird");
                command.arg("-f").arg("-c").arg(&file).arg("-s").arg(directory.join("socket"));
                let processes = vec![("bird", Process::start("bird", command)?)];
                Ok(Daemons { directory, processes })
            }
        }
    }

    fn frr(
        &self,
        namespace: &Namespace,
        name: &str,
        configuration: &str,
        programs: &[&'static str],
    ) -> Result<Daemons> {
        let directory = self.directory.path().join(name);
        let place = path(&directory)?;
        if !directory.exists() {
            run(command("install", &["-d", "-o", "frr", "-g", "frr", place]), STEP_LIMIT)?;
            let file = directory.join("frr.conf");
            let log = format!("log file {place}/log\n");
            std::fs::write(file, log + configuration).context("cannot write a configuration")?;
        }
        let mut daemons = Daemons { directory: directory.clone(), processes: Vec::new() };
        for name in programs {
            daemons.start(namespace, name)?;
        }
        daemons.configure().with_context(|| format!("{name}:\n{}", daemons.log()))?;
        Ok(daemons)
    }

    /// What the routing daemons beside a box logged.
    pub fn log(&self, n: usize) -> String {
        read_log(&self.directory.path().join(format!("box{n}")).join("log"))
    }

    /// Whether the router inside has a default route through a box, by OSPF.
    ///
    /// # Errors
    /// ip refused.
    pub fn draws(&self, n: usize) -> Result<bool> {
        let routes = self.inside.run("ip", &["route", "show", "default", "proto", "ospf"])?;
        Ok(routes.contains(&format!("via {} dev", INNER[n])))
    }

    /// Whether the router outside has a route to the pool of a box, by BGP.
    ///
    /// # Errors
    /// ip refused.
    pub fn reaches(&self, n: usize) -> Result<bool> {
        let routes = self.outside.run("ip", &["route", "show", POOLS[n], "proto", "bgp"])?;
        Ok(routes.contains(&format!("via {} dev", OUTER[n])))
    }

    /// Whether so many pings of the subscriber are answered by a server, all of them.
    ///
    /// # Errors
    /// ping itself failed.
    pub fn pings(&self, server: Ipv4Addr, count: u32) -> Result<bool> {
        Ok(traffic::ping(&self.inside, SUBSCRIBER, server, count, 56).is_ok_and(|n| n == count))
    }

    /// The router outside tells box 0 a way to [`SERVER`] by the second of [`HOPS`], or no more.
    ///
    /// # Errors
    /// vtysh refused.
    pub fn sends_elsewhere(&self, is_told: bool) -> Result<()> {
        let network = format!("{}network {SERVER}/32", if is_told { "" } else { "no " });
        let lines =
            ["configure terminal", "router bgp 64501", "address-family ipv4 unicast", &network];
        let mut command = command("vtysh", &["--vty_socket", path(&self.routers[1].directory)?]);
        for line in lines {
            command.args(["-c", line]);
        }
        run(command, STEP_LIMIT).map(drop)
    }

    /// What the router inside (0) or outside (1) says to a command.
    ///
    /// # Errors
    /// vtysh refused.
    pub fn router(&self, which: usize, command: &str) -> Result<String> {
        self.routers[which].show(command)
    }
}

impl Daemons {
    /// Starts one of FRR's programs.
    ///
    /// # Errors
    /// It is not there, or opens no socket.
    pub fn start(&mut self, namespace: &Namespace, name: &'static str) -> Result<()> {
        let directory = &self.directory;
        let socket = directory.join(if name == "zebra" { "zserv.api" } else { name });
        let mut command = namespace.command(format!("/usr/lib/frr/{name}"));
        command.arg("--vty_socket").arg(directory).arg("-z").arg(directory.join("zserv.api"));
        command.arg("-i").arg(directory.join(format!("{name}.pid")));
        let empty = directory.join(format!("{name}.conf"));
        std::fs::File::create(&empty).context("cannot make a file")?;
        command.arg("-f").arg(empty);
        if name == "bfdd" {
            command.arg("--bfdctl").arg(directory.join("bfdd.sock"));
        }
        let log = std::fs::File::create(directory.join(format!("{name}.out")))?;
        command.stdout(log.try_clone()?).stderr(log);
        self.processes.push((name, Process::start(name, command)?));
        let vty = directory.join(format!("{name}.vty"));
        let is_there = || Ok(vty.exists() && (name != "zebra" || socket.exists()));
        crate::process::wait_until(name, STEP_LIMIT, is_there).with_context(|| self.log())
    }

    /// Gives FRR's programs their configuration, as FRR's own service does: one file for all.
    ///
    /// # Errors
    /// They do not take all of it.
    pub fn configure(&self) -> Result<()> {
        let place = path(&self.directory)?;
        let command = command("vtysh", &["-b", "--config_dir", place, "--vty_socket", place]);
        let output = output_within(command, STEP_LIMIT)?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let is_taken = output.status.success() && !said.contains("line ");
        ensure!(is_taken, "vtysh: {}: {said}", output.status);
        Ok(())
    }

    /// Kills one of them.
    ///
    /// # Errors
    /// It is not there.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let place = self.processes.iter().position(|(of, _)| *of == name);
        drop(self.processes.remove(place.with_context(|| format!("no {name}"))?));
        let _ = std::fs::remove_file(self.directory.join(format!("{name}.vty")));
        Ok(())
    }

    /// What FRR says to a command.
    ///
    /// # Errors
    /// vtysh refused.
    pub fn show(&self, what: &str) -> Result<String> {
        run(command("vtysh", &["--vty_socket", path(&self.directory)?, "-c", what]), STEP_LIMIT)
    }

    /// What they logged.
    pub fn log(&self) -> String {
        let mut text = read_log(&self.directory.join("log"));
        for (name, _) in &self.processes {
            text += &read_log(&self.directory.join(format!("{name}.out")));
        }
        text
    }
}

/// A text with other words in it, each of which must be there.
fn replaced(text: &str, words: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (from, to) in words {
        assert!(text.contains(from), "no {from:?} in\n{text}");
        text = text.replace(from, to);
    }
    text
}

/// A configuration of box 0 as that of box `n`.
fn moved(text: &str, n: usize) -> String {
    if n == 0 {
        return text.to_owned();
    }
    let mut moved = text.to_owned();
    for (from, to) in [
        ("10.255.0.2", "10.255.0.6"),
        ("10.255.0.1", "10.255.0.5"),
        ("192.0.2.2", "192.0.2.6"),
        ("192.0.2.1", "192.0.2.5"),
        ("203.0.113.0/28", POOLS[1]),
        ("always metric 10", "always metric 20"),
    ] {
        moved = moved.replace(from, to);
    }
    moved
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
