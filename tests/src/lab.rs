//! Three network namespaces in a row, with the appliance's place in the middle.
//!
//! ```text
//!  subscribers                    box                       server
//!  lo: 100.64.0.0/10 (N x /32)    (no addresses: the        lo: 198.51.100.10, .11, .12
//!  router 10.255.0.1/30 ========= cg-int   cg-ext ========= world 192.0.2.1/30
//!  default via 10.255.0.2          appliance is             203.0.113.0/24 via 192.0.2.2
//!                                  10.255.0.2, 192.0.2.2)   no other route
//! ```
//!
//! Invariants:
//!
//! 1. one laboratory at a time on a machine: it holds the abstract socket `cgnat-laboratory`;
//! 2. `server` has no route to 100.64.0.0/10, so an untranslated packet gets no answer;
//! 3. both ends of each veth compute their own checksums: no offloads, so what crosses is what a
//!    wire would carry;
//! 4. nothing is made outside the three namespaces, so removing them removes everything;
//! 5. every frame that reaches the servers is looked at ([`Lab::leaks`]), whatever the test is about.
//!
//! It does not start the appliance ([`crate::appliance`]) or any traffic ([`crate::traffic`]).

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cleanup;
use crate::process::run;

/// The subscribers' router, next hop of the appliance on the internal side.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
/// The appliance on the internal side.
pub const BOX_INTERNAL: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
/// The appliance's next hop on the external side.
pub const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The appliance on the external side.
pub const BOX_EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Addresses of the servers.
pub const SERVERS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(198, 51, 100, 10),
    Ipv4Addr::new(198, 51, 100, 11),
    Ipv4Addr::new(198, 51, 100, 12),
];
/// Prefix that the server routes to the appliance; pools lie in it.
pub const POOL_PREFIX: &str = "203.0.113.0/24";
/// Subscriber space (RFC 6598).
pub const SUBSCRIBER_PREFIX: &str = "100.64.0.0/10";
/// The appliance's interface towards the subscribers.
pub const INTERNAL: &str = "cg-int";
/// The appliance's interface towards the servers.
pub const EXTERNAL: &str = "cg-ext";
/// Interfaces that an appliance on taps makes, internal and external.
pub const TAPS: [&str; 2] = ["tap-int", "tap-ext"];

/// MAC addresses of router, appliance internal, appliance external, world. Those of the appliance
/// are the ones that DPDK's net_pcap gives to its first and second device, so that what is
/// recorded here is for the appliance also when it is replayed.
pub const MACS: [&str; 4] =
    ["02:00:00:00:00:01", "02:70:63:61:70:00", "02:70:63:61:70:01", "02:00:00:00:00:02"];

// An abstract socket is a lock that leaves no file and ends with its process, however that ends.
const LOCK_NAME: &str = "cgnat-laboratory";
const LOCK_LIMIT: Duration = Duration::from_secs(1800);
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// Fails with one sentence unless this process is root.
///
/// # Errors
/// Not root.
pub fn require_root() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "needs root: the laboratory makes network namespaces, veths and packet sockets"
    );
    Ok(())
}

/// The internal address of subscriber number `index`, spread over 100.64.0.0/10.
pub fn subscriber(index: u32) -> Ipv4Addr {
    const FIRST: u32 = u32::from_be_bytes([100, 64, 0, 10]);
    // The step has no common factor with the modulus (2^8 x 16383): no two indices share an address.
    Ipv4Addr::from(FIRST + (index.wrapping_mul(1021) % 0x3f_ff00))
}

/// One network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn create(name: String) -> Result<Namespace> {
        cleanup::create_namespace(&name)?;
        Ok(Namespace { name })
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run `program` inside, as the same process id; it is killed should the
    /// thread that starts it end before it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "setpriv", "--pdeathsig", "KILL"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `program` inside and returns its standard output.
    ///
    /// # Errors
    /// It failed, or took more than 30 s.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments);
        run(command, STEP_LIMIT)
    }

    /// Sets kernel variables (`name=value`); those that this kernel lacks are left out.
    pub(crate) fn sysctl(&self, settings: &[&str]) -> Result<()> {
        let mut command = self.command("sysctl");
        command.args(["-q", "-e", "-w"]).args(settings);
        run(command, STEP_LIMIT).map(drop)
    }

    /// Has an end of a veth compute its own checksums: no offloads.
    pub(crate) fn compute_checksums(&self, interface: &str) -> Result<()> {
        let off = ["tx", "rx", "sg", "tso", "gso", "gro"].map(|name| [name, "off"]).concat();
        self.run("ethtool", &[&["-K", interface], off.as_slice()].concat()).map(drop)
    }

    /// Has an end of a veth switch features of `ethtool -k` on.
    ///
    /// # Errors
    /// ethtool refused.
    pub fn switch_on(&self, interface: &str, features: &[&str]) -> Result<()> {
        let on = features.iter().map(|name| [*name, "on"]).collect::<Vec<_>>().concat();
        self.run("ethtool", &[&["-K", interface], on.as_slice()].concat()).map(drop)
    }

    /// Runs `ip -batch` inside.
    pub(crate) fn ip_batch(&self, lines: &str) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
        file.write_all(lines.as_bytes()).context("cannot write the batch for ip")?;
        let mut command = Command::new("ip");
        command.args(["-netns", &self.name, "-batch"]).arg(file.path());
        run(command, STEP_LIMIT).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = cleanup::delete_namespace(&self.name) {
            eprintln!("{error:#}");
        }
    }
}

/// The laboratory. Dropping it removes it.
#[derive(Debug)]
pub struct Lab {
    /// Where the subscribers' programs run.
    pub subscribers: Namespace,
    /// Where the appliance runs, between [`INTERNAL`] and [`EXTERNAL`].
    pub middle: Namespace,
    /// Where the servers run.
    pub server: Namespace,
    addresses: Vec<Ipv4Addr>,
    // Last: released after the namespaces are gone.
    _lock: UnixListener,
}

impl Lab {
    /// Makes a laboratory with `count` subscriber addresses. Waits while another one exists.
    ///
    /// # Errors
    /// Not root, or a step failed; what was made until then is removed.
    pub fn new(count: u32) -> Result<Lab> {
        let (prefix, lock) = begin()?;
        let lab = Lab {
            subscribers: Namespace::create(format!("{prefix}subscribers"))?,
            middle: Namespace::create(format!("{prefix}box"))?,
            server: Namespace::create(format!("{prefix}server"))?,
            addresses: (0..count).map(subscriber).collect(),
            _lock: lock,
        };
        lab.set_kernels()?;
        lab.join()?;
        lab.address()?;
        lab.watch()?;
        Ok(lab)
    }

    /// The subscribers' internal addresses.
    pub fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    fn set_kernels(&self) -> Result<()> {
        for namespace in [&self.subscribers, &self.middle, &self.server] {
            namespace.sysctl(&[
                "net.ipv6.conf.all.disable_ipv6=1",
                "net.ipv6.conf.default.disable_ipv6=1",
                "net.ipv4.conf.all.rp_filter=0",
                "net.ipv4.conf.default.rp_filter=0",
                "net.ipv4.ip_local_port_range=1024 65535",
                "net.ipv4.tcp_max_syn_backlog=16384",
                "net.core.somaxconn=16384",
                "net.ipv4.tcp_max_tw_buckets=400000",
                "net.ipv4.tcp_max_orphans=65536",
                "net.ipv4.tcp_syncookies=0",
                "net.ipv4.icmp_ratelimit=0",
                "net.ipv4.icmp_msgs_per_sec=100000",
                "net.ipv4.neigh.default.gc_stale_time=3600",
            ])?;
        }
        Ok(())
    }

    /// Makes the two veth pairs inside the namespaces, up, with fixed MACs and no offloads. Of an
    /// interface whose number is that of its other end the kernel looks at the carrier once a second
    /// only, so they are given numbers.
    fn join(&self) -> Result<()> {
        let [router, internal, external, world] = MACS;
        let (subscribers, server) = (&self.subscribers.name, &self.server.name);
        self.middle.ip_batch(&format!(
            "link set lo up\n\
             link add {INTERNAL} index 1001 address {internal} type veth \
             peer name router address {router} netns {subscribers}\n\
             link add {EXTERNAL} index 1002 address {external} type veth \
             peer name world address {world} netns {server}\n\
             link set {INTERNAL} up\n\
             link set {EXTERNAL} up\n"
        ))?;
        for (namespace, interface) in [
            (&self.subscribers, "router"),
            (&self.middle, INTERNAL),
            (&self.middle, EXTERNAL),
            (&self.server, "world"),
        ] {
            namespace.compute_checksums(interface)?;
        }
        Ok(())
    }

    fn address(&self) -> Result<()> {
        let mut batch = format!(
            "link set lo up\nlink set router up\naddress add {ROUTER}/30 dev router\n\
             route add default via {BOX_INTERNAL}\n"
        );
        for address in &self.addresses {
            writeln!(batch, "address add {address}/32 dev lo")
                .context("cannot write to a String")?;
        }
        self.subscribers.ip_batch(&batch)?;
        let mut batch = format!(
            "link set lo up\nlink set world up\naddress add {WORLD}/30 dev world\n\
             route add {POOL_PREFIX} via {BOX_EXTERNAL}\n"
        );
        for address in SERVERS {
            writeln!(batch, "address add {address}/32 dev lo")
                .context("cannot write to a String")?;
        }
        self.server.ip_batch(&batch)
    }

    /// Counts frames that show an internal address where they arrive at the servers: there, because
    /// the appliance's own end does not show what it sends.
    pub(crate) fn watch(&self) -> Result<()> {
        let errors = "icmp type { destination-unreachable, time-exceeded, parameter-problem }";
        let mut rules = String::from(
            "table netdev leaks {
             set inside { type ipv4_addr; flags interval;
             elements = { 100.64.0.0/10, 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 }; }
             set shown { type ipv4_addr; }
             counter found { }
             chain arriving { type filter hook ingress device \"world\" priority 0;
             ip saddr @shown accept
             ip daddr @shown accept
",
        );
        for place in ["ip saddr", "ip daddr", "arp saddr ip", "arp daddr ip"] {
            writeln!(rules, "{place} @inside counter name found").context("to a String")?;
        }
        // Source and destination of the packet that an error quotes.
        for place in [160, 192] {
            let shows = "& 0xffc00000 == 0x64400000 counter name found";
            writeln!(rules, "{errors} @th,{place},32 {shows}").context("to a String")?;
        }
        rules.push_str("}\n}\n");
        apply_rules(&self.server, &rules)
    }

    /// Frames so far that reached the servers and showed an address of the inside: in the IPv4
    /// header, in ARP, or in what an ICMP error quotes.
    ///
    /// # Errors
    /// nft refused.
    pub fn leaks(&self) -> Result<u64> {
        let counters = self.server.run("nft", &["list", "counters", "table", "netdev", "leaks"])?;
        let count = counters.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).with_context(|| format!("nft said {counters}"))
    }

    /// Makes every address of subscriber space one of the subscribers' namespace, so that programs
    /// there may be as many subscribers as they like.
    ///
    /// # Errors
    /// ip refused.
    pub fn house_everybody(&self) -> Result<()> {
        self.subscribers.ip_batch(&format!("route add local {SUBSCRIBER_PREFIX} dev lo\n"))
    }

    /// Tells the servers the way to one subscriber as it is, for what is not translated.
    ///
    /// # Errors
    /// ip refused.
    pub fn route_untranslated(&self, subscriber: Ipv4Addr) -> Result<()> {
        self.server.ip_batch(&format!("route add {subscriber}/32 via {BOX_EXTERNAL}\n"))?;
        let shown = format!("{{ {subscriber} }}");
        let add = ["add", "element", "netdev", "leaks", "shown", shown.as_str()];
        self.server.run("nft", &add).map(drop)
    }

    /// Makes the internal and the external link carry IPv4 packets of at most so many bytes, seen
    /// from both ends.
    ///
    /// # Errors
    /// ip refused.
    pub fn size_links(&self, internal: u16, external: u16) -> Result<()> {
        self.subscribers.ip_batch(&format!("link set router mtu {internal}\n"))?;
        self.middle.ip_batch(&format!(
            "link set {INTERNAL} mtu {internal}\nlink set {EXTERNAL} mtu {external}\n"
        ))?;
        self.server.ip_batch(&format!("link set world mtu {external}\n"))
    }

    /// Makes [`TAPS`] and their bridges carry IPv4 packets of so many bytes.
    ///
    /// # Errors
    /// ip refused, for one because [`Lab::bridge_taps`] was not called.
    pub fn size_taps(&self, mtu: u16) -> Result<()> {
        let lines = TAPS.iter().enumerate().map(|(number, tap)| {
            format!("link set {tap} mtu {mtu}\nlink set bridge{number} mtu {mtu}\n")
        });
        self.middle.ip_batch(&lines.collect::<String>())
    }

    /// Joins each of [`TAPS`] to its veth by a bridge.
    ///
    /// # Errors
    /// ip refused, for one because no appliance has made the taps.
    pub fn bridge_taps(&self) -> Result<()> {
        let mut batch = String::new();
        for (number, (tap, veth)) in TAPS.into_iter().zip([INTERNAL, EXTERNAL]).enumerate() {
            let bridge = format!("bridge{number}");
            // A bridge keeps what is for the MAC of one of its own ports, so the appliance's must
            // be that of none. It must not speak itself either: no multicast queries.
            writeln!(
                batch,
                "link add {bridge} type bridge mcast_snooping 0\n                 link set {veth} address 02:00:00:00:{number:02x}:98\n                 link set {tap} address 02:00:00:00:{number:02x}:99\n                 link set {veth} master {bridge}\nlink set {tap} master {bridge}\n                 link set {tap} up\nlink set {bridge} up"
            )
            .context("cannot write to a String")?;
        }
        self.middle.ip_batch(&batch)
    }

    /// Puts plain kernel forwarding in the place of the appliance, without translation: the same
    /// addresses on the box. Subscriber space leaks; that a leak is noticed can so be shown.
    ///
    /// # Errors
    /// ip or sysctl refused.
    pub fn use_kernel_forwarding(&self) -> Result<()> {
        self.middle.ip_batch(&format!(
            "address add {BOX_INTERNAL}/30 dev {INTERNAL}\n\
             address add {BOX_EXTERNAL}/30 dev {EXTERNAL}\n\
             route add {SUBSCRIBER_PREFIX} via {ROUTER}\n\
             route add default via {WORLD}\n"
        ))?;
        self.middle.sysctl(&["net.ipv4.ip_forward=1"])
    }

    /// Puts the kernel's own NAT in the place of the appliance, as a partner to compare with:
    /// source translation to `external` (`first-last` or one address) with ports `ports`
    /// (`first-last`).
    ///
    /// # Errors
    /// ip, sysctl or nft refused.
    pub fn use_kernel_nat(&self, external: &str, ports: &str) -> Result<()> {
        self.use_kernel_rules(&format!(
            "ip saddr {SUBSCRIBER_PREFIX} oifname {EXTERNAL} meta l4proto {{ tcp, udp }} \
             snat to {external}:{ports} persistent\n\
             ip saddr {SUBSCRIBER_PREFIX} oifname {EXTERNAL} snat to {external} persistent\n"
        ))
    }

    /// Puts the kernel's own NAT in the place of the appliance as most people use it: the box's
    /// external address for everybody, and ports as the kernel likes them.
    ///
    /// # Errors
    /// ip, sysctl or nft refused.
    pub fn use_kernel_masquerade(&self) -> Result<()> {
        self.use_kernel_rules(&format!(
            "ip saddr {SUBSCRIBER_PREFIX} oifname {EXTERNAL} masquerade\n"
        ))
    }

    fn use_kernel_rules(&self, rules: &str) -> Result<()> {
        let rules = format!(
            "table ip laboratory {{\n chain out {{\n\
             type nat hook postrouting priority srcnat;\n{rules}}}\n}}\n"
        );
        apply_rules(&self.middle, &rules)?;
        self.use_kernel_forwarding()
    }
}

/// Gives nft some rules in a namespace.
pub(crate) fn apply_rules(namespace: &Namespace, rules: &str) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    file.write_all(rules.as_bytes()).context("cannot write the rules for nft")?;
    let mut command = namespace.command("nft");
    command.arg("-f").arg(file.path());
    run(command, STEP_LIMIT).map(drop)
}

/// Removes namespaces of laboratories whose process no longer exists, and returns their names.
/// A process id that is in use again is left alone.
///
/// # Errors
/// `ip netns` refused.
pub fn sweep_dead() -> Result<Vec<String>> {
    let mut command = Command::new("ip");
    command.args(["netns", "list"]);
    let mut removed = Vec::new();
    for line in run(command, STEP_LIMIT)?.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let Some(pid) = process_id(name) else { continue };
        let dead = if pid == std::process::id() {
            // An id used again, and by us: its namespaces are dead unless we made them.
            !cleanup::is_own_namespace(name)
        } else {
            !Path::new(&format!("/proc/{pid}")).exists()
        };
        if dead {
            cleanup::ip_netns("delete", name)?;
            removed.push(name.to_owned());
        }
    }
    Ok(removed)
}

/// The process id in `cgnat-<pid>-<serial>-<subscribers|box|box2|server>`; `None` for other names.
fn process_id(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(cleanup::PREFIX)?.split('-');
    let pid = parts.next()?.parse().ok()?;
    let _serial: u32 = parts.next()?.parse().ok()?;
    let known = matches!(parts.next()?, "subscribers" | "box" | "box2" | "server");
    (known && parts.next().is_none()).then_some(pid)
}

/// What every laboratory begins with: the lock, no remains of dead ones, and a prefix for names.
pub(crate) fn begin() -> Result<(String, UnixListener)> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    require_root()?;
    let lock = lock_machine()?;
    for name in sweep_dead()? {
        eprintln!("removed {name}, left by a run that was killed");
    }
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    Ok((format!("{}{serial}-", cleanup::own_prefix()), lock))
}

/// Takes the machine-wide lock, waiting a bounded time for another laboratory to end.
fn lock_machine() -> Result<UnixListener> {
    let name = SocketAddr::from_abstract_name(LOCK_NAME).context("no abstract sockets")?;
    let until = Instant::now() + LOCK_LIMIT;
    let mut told = false;
    loop {
        match UnixListener::bind_addr(&name) {
            Ok(lock) => return Ok(lock),
            Err(error) if error.kind() != ErrorKind::AddrInUse => {
                return Err(error).context("cannot take the lock of the laboratory");
            }
            Err(_) if Instant::now() < until => {}
            Err(_) => bail!("another laboratory has been there for {LOCK_LIMIT:?}"),
        }
        if !std::mem::replace(&mut told, true) {
            eprintln!("waiting for another laboratory on this machine to end");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn subscriber_addresses_are_distinct_and_inside_their_prefix() {
        let prefix: ipnet::Ipv4Net = SUBSCRIBER_PREFIX.parse().expect("a prefix");
        let all: BTreeSet<_> = (0..4000).map(subscriber).collect();
        assert_eq!(all.len(), 4000);
        assert!(all.iter().all(|address| prefix.contains(address)));
    }

    #[test]
    fn only_names_of_the_laboratory_have_a_process_id() {
        assert_eq!(process_id("cgnat-17-0-box"), Some(17));
        for other in ["cgnat-17-box", "cgnat-17-0-boxes", "cgnat-x-0-box", "cgnat-17-0-box-2", "b"]
        {
            assert_eq!(process_id(other), None, "{other}");
        }
    }
}
