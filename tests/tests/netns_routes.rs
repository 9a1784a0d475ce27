//! Routes that the appliance takes over from the kernel (decision 31): thousands that change, and
//! packets of real hosts that follow them. Needs root.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use cgnat_tests::appliance::{Appliance, Devices, KERNEL_INTERFACES, Settings, program};
use cgnat_tests::lab::{BOX_INTERNAL, EXTERNAL, INTERNAL, Lab};
use cgnat_tests::process::{output_within, run, wait_until};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(15);

/// Next hops outside; each is an interface `hopN` of the server with 192.0.2.(10 + N).
const HOPS: u32 = 4;

/// Routes of a round.
const ROUTES: usize = 10_000;

/// Destinations of packets of a round.
const SAMPLES: usize = 300;

/// 198.18.0.0/15: all of it answers.
const SPACE: u32 = 0xc612_0000;

type Prefix = (u32, u8);

/// Next hops of a route; none is one that drops.
type Table = BTreeMap<Prefix, BTreeSet<Ipv4Addr>>;

fn hop(n: u32) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 10 + (n % HOPS) as u8)
}

fn shown((network, length): Prefix) -> String {
    format!("{}/{length}", Ipv4Addr::from(network))
}

fn prefix(text: &str) -> Result<Prefix> {
    if text == "default" {
        return Ok((0, 0));
    }
    let (address, length) = text.split_once('/').unwrap_or((text, "32"));
    Ok((u32::from(address.parse::<Ipv4Addr>()?), length.parse()?))
}

/// The world: routes as the test wants them, and who is asked.
struct World<'a> {
    lab: &'a Lab,
    socket: &'a Path,
    random: ChaCha8Rng,
    wanted: BTreeMap<Prefix, String>,
}

impl World<'_> {
    fn chance(&mut self, below: u32) -> u32 {
        self.random.next_u32() % below
    }

    /// A route to a random prefix: mostly by one next hop, some by two, some that drop.
    fn invent(&mut self) -> (Prefix, String) {
        let length = 22 + self.chance(11) as u8;
        let network = (SPACE | self.chance(1 << 17)) & u32::MAX << (32 - u32::from(length));
        let (kind, n) = (self.chance(50), self.chance(HOPS));
        let says = match kind {
            0 => "blackhole".to_owned(),
            1 => "unreachable".to_owned(),
            2..6 => format!("two {} {}", hop(n), hop(n + 1)),
            _ => format!("via {} dev k-ext", hop(n)),
        };
        ((network, length), says)
    }

    fn line(action: &str, to: Prefix, says: &str) -> String {
        let to = shown(to);
        match says.split(' ').collect::<Vec<_>>()[..] {
            ["two", a, b] => format!(
                "route {action} {to} proto bgp metric 20 nexthop via {a} dev k-ext nexthop via {b} dev \
                 k-ext\n"
            ),
            [kind] => format!("route {action} {kind} {to} proto bgp metric 20\n"),
            _ => format!("route {action} {to} {says} proto bgp metric 20\n"),
        }
    }

    /// Takes some routes away, replaces others, and adds as many as are missing.
    fn churn(&mut self, away: u32, replaced: u32) -> Result<()> {
        let mut batch = String::new();
        for to in self.wanted.keys().copied().collect::<Vec<_>>() {
            let lot = self.chance(100);
            if lot < away {
                let says = self.wanted.remove(&to).unwrap_or_default();
                batch += &Self::line("delete", to, &says);
            } else if lot < away + replaced {
                let (_, says) = self.invent();
                batch += &Self::line("replace", to, &says);
                self.wanted.insert(to, says);
            }
        }
        while self.wanted.len() < ROUTES {
            let (to, says) = self.invent();
            if let Entry::Vacant(free) = self.wanted.entry(to) {
                batch += &Self::line("add", to, &says);
                free.insert(says);
            }
        }
        self.batch(&batch)
    }

    fn batch(&self, lines: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), lines)?;
        let path = file.path().to_str().context("a path")?;
        self.lab.middle.run("ip", &["-batch", path]).map(drop)
    }

    /// The kernel's main table, by the external interface.
    fn kernel(&self) -> Result<Table> {
        let text = self.lab.middle.run("ip", &["-j", "route", "show", "table", "main"])?;
        let routes: Vec<Value> = serde_json::from_str(&text)?;
        let mut table = Table::new();
        for route in routes {
            let word = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
            let to = prefix(&word(&route, "dst"))?;
            if !word(&route, "type").is_empty() {
                table.entry(to).or_default();
                continue;
            }
            let several = route["nexthops"].as_array().cloned();
            let hops = several.unwrap_or_else(|| vec![route.clone()]);
            let ours =
                hops.iter().filter(|hop| hop["dev"] == "k-ext" && hop.get("gateway").is_some());
            let vias = ours.map(|hop| Ok(word(hop, "gateway").parse()?)).collect::<Result<_>>()?;
            if hops.iter().any(|hop| hop["dev"] == "k-ext" && hop.get("gateway").is_some()) {
                table.insert(to, vias);
            }
        }
        Ok(table)
    }

    fn shown(&self) -> Result<Value> {
        let mut command = std::process::Command::new(program()?);
        command.args(["show", "routes", "--json", "--socket"]).arg(self.socket);
        Ok(serde_json::from_str(&run(command, LIMIT)?)?)
    }

    /// What the appliance has of the kernel for the external side.
    fn appliance(&self) -> Result<Table> {
        let answer = self.shown()?;
        let mut table = Table::new();
        for route in answer["routes"].as_array().context("no routes")? {
            if route["side"] != "external" || route["from"] != "kernel" {
                continue;
            }
            let to = prefix(route["to"].as_str().unwrap_or_default())?;
            let hops = route["hops"].as_array().context("no hops")?;
            let vias = hops.iter().map(|hop| Ok(hop["via"].as_str().context("via")?.parse()?));
            let vias: BTreeSet<Ipv4Addr> = vias.collect::<Result<_>>()?;
            ensure!(vias.is_empty() == (route["drops"] == true), "{route}");
            table.insert(to, vias);
        }
        Ok(table)
    }

    /// Waits until both tables are the same; that one.
    fn agree(&self) -> Result<Table> {
        let kernel = self.kernel()?;
        wait_until("the kernel's routes in the appliance", LIMIT, || {
            Ok(self.appliance()? == kernel)
        })
        .with_context(|| {
            let ours = self.appliance().unwrap_or_default();
            let missing: Vec<_> =
                kernel.iter().filter(|(to, h)| ours.get(to) != Some(h)).take(3).collect();
            let more: Vec<_> =
                ours.iter().filter(|(to, _)| !kernel.contains_key(to)).take(3).collect();
            let mut counts = self.shown().unwrap_or_default();
            counts["routes"].take();
            format!(
                "{} and {} routes; missing {missing:?}, more {more:?}; {counts}",
                kernel.len(),
                ours.len()
            )
        })?;
        ensure!(kernel.len() > self.wanted.len() * 9 / 10, "only {} routes", kernel.len());
        Ok(kernel)
    }

    /// Packets of a subscriber to destinations all over the table leave by the right next hop.
    fn follow(&mut self, table: &Table) -> Result<()> {
        self.lab.server.run("nft", &["flush", "set", "netdev", "seen", "ways"])?;
        let all: Vec<Prefix> = table.keys().copied().filter(|to| to.1 > 15).collect();
        let mut script = String::new();
        let mut expected: BTreeMap<Ipv4Addr, BTreeSet<Ipv4Addr>> = BTreeMap::new();
        while expected.len() < SAMPLES {
            let (network, length) = all[self.chance(all.len() as u32) as usize];
            let address =
                network | self.random.next_u32() & !(u32::MAX << (32 - u32::from(length)));
            let address = if length == 32 { network } else { address };
            let best = (0..=32u8).rev().find_map(|length| {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                table.get(&(address & mask, length))
            });
            expected.insert(address.into(), best.cloned().unwrap_or_default());
        }
        for address in expected.keys() {
            writeln!(script, "echo x > /dev/udp/{address}/9")?;
        }
        self.lab.subscribers.run("bash", &["-c", &script])?;
        let mut seen = BTreeMap::new();
        let wanted = expected.values().filter(|hops| !hops.is_empty()).count();
        wait_until("packets at the next hops", LIMIT, || {
            seen = self.seen()?;
            Ok(seen.len() >= wanted)
        })
        .with_context(|| format!("{} of {wanted} packets came", seen.len()))?;
        let mut used = BTreeSet::new();
        for (address, hops) in &expected {
            match seen.get(address) {
                Some(by) => {
                    ensure!(hops.contains(by), "{address} went to {by}, expected {hops:?}");
                    used.insert(*by);
                }
                None => ensure!(hops.is_empty(), "no packet to {address} came; expected {hops:?}"),
            }
        }
        ensure!(used.len() == HOPS as usize, "only {used:?} were used");
        Ok(())
    }

    /// By destination, the next hop that a packet came to.
    fn seen(&self) -> Result<BTreeMap<Ipv4Addr, Ipv4Addr>> {
        let text = self.lab.server.run("nft", &["-j", "list", "set", "netdev", "seen", "ways"])?;
        let answer: Value = serde_json::from_str(&text)?;
        let listed = answer["nftables"].as_array().into_iter().flatten();
        let elements = listed.filter_map(|item| item["set"]["elem"].as_array()).flatten();
        let mut seen = BTreeMap::new();
        for element in elements {
            let pair = element["concat"].as_array().context("no pair")?;
            let mac = pair[0].as_str().context("no MAC")?;
            let n: u32 = mac.rsplit(':').next().context("no MAC")?.parse()?;
            let to: Ipv4Addr = pair[1].as_str().context("no address")?.parse()?;
            let before = seen.insert(to, hop(n));
            ensure!(before.is_none_or(|before| before == hop(n)), "{to} went two ways");
        }
        Ok(seen)
    }
}

/// Next hops of their own beside the server, all of which take everything; and who came to which.
fn prepare(lab: &Lab) -> Result<()> {
    let mut batch = String::new();
    for n in 0..HOPS {
        let address = hop(n);
        writeln!(
            batch,
            "link add hop{n} link world address 02:00:00:00:07:{n:02} type macvlan mode bridge\n\
             address add {address}/32 dev hop{n}\nlink set hop{n} up"
        )?;
    }
    writeln!(batch, "address add 192.0.2.1/24 dev world\nroute add local 198.18.0.0/15 dev lo")?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), batch)?;
    // Each interface answers for its own address alone.
    for setting in
        ["all.arp_ignore=1", "default.arp_ignore=1", "all.rp_filter=0", "default.rp_filter=0"]
    {
        lab.server.run("sysctl", &["-qw", &format!("net.ipv4.conf.{setting}")])?;
    }
    lab.server.run("ip", &["-batch", file.path().to_str().context("a path")?])?;
    let rules = "table netdev seen {\n\
                 set ways { type ether_addr . ipv4_addr; flags dynamic; size 65536; }\n\
                 chain arriving { type filter hook ingress device \"world\" priority 1;\n\
                 ip daddr 198.18.0.0/15 udp dport 9 update @ways { ether daddr . ip daddr } drop\n}\n}\n";
    std::fs::write(file.path(), rules)?;
    lab.server.run("nft", &["-f", file.path().to_str().context("a path")?])?;
    // With packet sockets the kernel of the box sees each frame too, and must not answer.
    lab.middle.run("nft", &["add", "table", "netdev", "quiet"])?;
    for device in [INTERNAL, EXTERNAL] {
        let hook =
            format!("{{ type filter hook ingress device \"{device}\" priority 0; policy drop; }}");
        lab.middle.run("nft", &["add", "chain", "netdev", "quiet", device, &hook])?;
    }
    // Programs there are the first subscriber.
    let (via, source) = (BOX_INTERNAL.to_string(), lab.addresses()[0].to_string());
    lab.subscribers
        .run("ip", &["route", "replace", "default", "via", &via, "src", &source])
        .map(drop)
}

fn launch(lab: &Lab, workers: u16, socket: &Path) -> Result<Appliance> {
    let settings = Settings {
        workers,
        kernel_interfaces: true,
        control_socket: Some(socket.display().to_string()),
        ..Settings::default()
    };
    let devices = Devices::packet_sockets(&settings);
    let yaml = |name: &str| {
        let interface = format!("kernel-interface: {}\n", KERNEL_INTERFACES[1]);
        let both = format!("{interface}    routes-from-kernel: true\n");
        settings
            .yaml(name, &devices)
            .replace(&interface, &both)
            .replace("192.0.2.2/30", "192.0.2.2/24")
    };
    Appliance::launch(&lab.middle, yaml, None)
}

fn stop_and_go(appliance: &Appliance, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(appliance.id() as i32).context("a process id")?;
    kill_process(pid, signal).context("cannot signal the appliance")
}

/// A routing daemon gone wild: the same routes over and over, while a subscriber must not notice.
fn flood(world: &mut World<'_>) -> Result<()> {
    let subscribers = &world.lab.subscribers;
    let mut command = subscribers.command("ping");
    command.args(["-n", "-q", "-i", "0.02", "-c", "150", "-W", "2", "198.51.100.10"]);
    let before = world.shown()?["tables"].as_u64().context("tables")?;
    let (began, mut rounds) = (Instant::now(), 0);
    let answered = std::thread::scope(|scope| {
        let ping = scope.spawn(|| output_within(command, LIMIT));
        while !ping.is_finished() {
            world.churn(0, 20)?;
            rounds += 1;
        }
        ping.join().map_err(|_| anyhow!("ping panicked"))?
    })?;
    let text = String::from_utf8_lossy(&answered.stdout).into_owned();
    let received = text.split(", ").find_map(|part| part.strip_suffix(" received"));
    let received: u32 = received.and_then(|n| n.parse().ok()).with_context(|| text.clone())?;
    ensure!(received >= 145, "the subscriber noticed the flood: {text}");
    let took = began.elapsed().as_secs_f64();
    let tables = world.shown()?["tables"].as_u64().context("tables")? - before;
    println!("{rounds} floods of 2,000 changes in {took:.1} s made {tables} tables");
    ensure!(rounds >= 2 && tables as f64 <= took * 5.0 + 3.0, "{tables} tables in {took} s");
    Ok(())
}

fn routes(workers: u16) -> Result<()> {
    let lab = Lab::new(2)?;
    prepare(&lab)?;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("control.sock");
    let before = lab.leaks()?;
    let appliance = launch(&lab, workers, &socket)?;
    let random = ChaCha8Rng::seed_from_u64(31);
    let mut world = World { lab: &lab, socket: &socket, random, wanted: BTreeMap::new() };
    let said = || appliance.errors();
    for (away, replaced) in [(0, 0), (30, 30), (5, 50)] {
        world.churn(away, replaced)?;
        let table = world.agree().with_context(said)?;
        world.follow(&table).with_context(said)?;
    }
    // It sleeps through more changes than can wait for it.
    stop_and_go(&appliance, Signal::STOP)?;
    let changed = world.churn(50, 50).and_then(|()| world.churn(50, 50));
    stop_and_go(&appliance, Signal::CONT)?;
    changed?;
    let table = world.agree().with_context(said)?;
    let answer = world.shown()?;
    ensure!(answer["lost"].as_u64().unwrap_or(0) >= 1, "nothing was lost: {}", answer["lost"]);
    ensure!(answer["repaired"].as_u64().unwrap_or(0) >= 1, "no dump repaired anything");
    world.follow(&table).with_context(said)?;
    flood(&mut world).with_context(said)?;
    let table = world.agree().with_context(said)?;
    world.follow(&table).with_context(said)?;
    // Routes that go with their interface, of which the kernel says nothing.
    world.lab.middle.run("ip", &["link", "set", "k-ext", "down"])?;
    wait_until("an empty table", LIMIT, || {
        Ok(world.appliance()?.values().all(BTreeSet::is_empty))
    })?;
    // And for good; the next one by that name has another number.
    let ip = |words: &str| world.lab.middle.run("ip", &words.split(' ').collect::<Vec<_>>());
    ip("link set k-ext up")?;
    ip("link delete k-ext")?;
    wait_until("the interface again", LIMIT, || Ok(said().contains("k-ext was made again")))
        .with_context(said)?;
    // Those that drop have no interface, and stay.
    world.wanted.retain(|_, says| !says.contains(' '));
    world.churn(0, 0)?;
    let table = world.agree().with_context(said)?;
    world.follow(&table).with_context(said)?;
    let outcome = appliance.stop()?;
    outcome.nothing_is_amiss()?;
    ensure!(outcome.stats.drops()?.contains_key("route-refused"), "nothing was refused by a route");
    let figures = &outcome.stats.document()["routes"];
    let number = |key: &str| outcome.number(&format!("/routes/{key}"));
    ensure!(number("from_kernel")? == table.len() as u64, "{} routes: {figures}", table.len());
    ensure!(number("next_hops")? > u64::from(HOPS) && number("silent")? <= 1, "{figures}");
    ensure!(number("lost")? >= 1 && number("repaired")? >= 1, "{figures}");
    ensure!(number("version")? == number("tables")?, "{figures}");
    ensure!(lab.leaks()? == before, "something of the inside was shown");
    Ok(())
}

#[test]
fn root_netns_ten_thousand_routes_of_the_kernel_are_followed_through_churn_and_loss() -> Result<()>
{
    routes(2)
}
