//! What a run of the appliance is configured with, and its configuration file.

use std::fmt::Write as _;
use std::path::Path;

use super::{EXTERNAL_PORT, INTERNAL_PORT};
use crate::lab::{
    BOX_EXTERNAL, BOX_INTERNAL, EXTERNAL, INTERNAL, MACS, ROUTER, SUBSCRIBER_PREFIX, TAPS, WORLD,
};
use crate::switch::Tag;

/// The kernel's interfaces of the internal and of the external port.
pub const KERNEL_INTERFACES: [&str; 2] = ["k-int", "k-ext"];

/// What a run of the appliance is configured with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Workers; each gets a queue pair of both packet sockets.
    pub workers: u16,
    /// Seed of the port choice; the same seed and traffic give the same ports.
    pub seed: Option<u64>,
    /// Prefixes, ranges or single addresses of the pool.
    pub pool: Vec<String>,
    /// Addresses of the pool that are drained.
    pub drain: Vec<String>,
    /// Ports of each address that are lent, as the configuration writes them; the default if
    /// `None`.
    pub ports: Option<String>,
    /// Ports per block.
    pub block_size: u16,
    /// Blocks per subscriber.
    pub max_blocks: u8,
    /// Hold-down of a freed port, as the configuration writes it.
    pub hold: String,
    /// Idle time of a UDP mapping, as the configuration writes it; the default if `None`.
    pub udp_timeout: Option<String>,
    /// Idle times of UDP mappings by destination port, as the configuration writes them.
    pub udp_port_timeouts: Vec<(u16, String)>,
    /// Idle time of an ICMP mapping, as the configuration writes it; the default if `None`.
    pub icmp_timeout: Option<String>,
    /// All idle times of a TCP session, as the configuration writes them; the defaults if `None`.
    pub tcp_timeout: Option<String>,
    /// Allow timers under the minimums of the RFCs.
    pub short_timers: bool,
    /// What a worker does while nothing arrives, as the configuration writes it; the default if
    /// `None`.
    pub idle: Option<String>,
    /// Mappings of all workers together.
    pub max_mappings: u32,
    /// Who may send to a mapping from outside, as the configuration writes it; the default if
    /// `None`.
    pub filtering: Option<String>,
    /// Destination ports towards which external ports are shared, as in `udp/53`; none is none.
    pub port_overloading: Vec<String>,
    /// What is carried besides TCP, UDP and ICMP, as the configuration writes it; nothing if
    /// `None`.
    pub other_protocols: Option<String>,
    /// Application level gateways, as the configuration writes them; none if `None`.
    pub alg: Option<String>,
    /// What one subscriber may take, as the configuration writes it; no limits if `None`.
    pub limits: Option<String>,
    /// Static mappings, as the configuration writes them.
    pub static_mappings: Vec<String>,
    /// Further lines of the section `nat44`.
    pub nat44: Vec<String>,
    /// Whether the ports have the interfaces [`KERNEL_INTERFACES`] in the kernel.
    pub kernel_interfaces: bool,
    /// VLAN tags of the internal and of the external port, outermost first: none, one or two.
    pub tags: [&'static [Tag]; 2],
    /// Both ports are on the internal one's device, told apart by their tags.
    pub one_armed: bool,
    /// Largest IPv4 packet of the internal port; the default if `None`.
    pub internal_mtu: Option<u16>,
    /// Largest IPv4 packet of the external port; the default if `None`.
    pub external_mtu: Option<u16>,
    /// Further arguments of both packet sockets, as in `framecnt=4096`; none is none.
    pub ring: String,
    /// Tap interfaces instead of packet sockets: for them the kernel does not reassemble, so that
    /// the appliance sees fragments as they were sent. One worker only.
    pub taps: bool,
    /// Where it can be asked while it runs; nowhere if `None`.
    pub control_socket: Option<String>,
    /// IPv6 passes, as [`crate::ipv6`] has it.
    pub ipv6: bool,
    /// Packets and tables in huge pages, or it does not start; else none are used.
    pub huge_pages: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            workers: 1,
            seed: None,
            pool: vec!["203.0.113.0/28".to_owned()],
            drain: Vec::new(),
            ports: None,
            block_size: 512,
            max_blocks: 4,
            hold: "2m".to_owned(),
            udp_timeout: None,
            udp_port_timeouts: Vec::new(),
            icmp_timeout: None,
            tcp_timeout: None,
            short_timers: false,
            idle: None,
            max_mappings: 200_000,
            filtering: None,
            port_overloading: Vec::new(),
            other_protocols: None,
            alg: None,
            limits: None,
            static_mappings: Vec::new(),
            nat44: Vec::new(),
            kernel_interfaces: false,
            tags: [&[], &[]],
            one_armed: false,
            internal_mtu: None,
            external_mtu: None,
            ring: String::new(),
            taps: false,
            control_socket: None,
            ipv6: false,
            huge_pages: false,
        }
    }
}

/// The two devices of the appliance, as the configuration names them; in braces what stands behind `bond`.
#[derive(Debug, Clone)]
pub struct Devices {
    /// Towards the subscribers.
    pub internal: String,
    /// Towards the servers.
    pub external: String,
    /// Nobody answers ARP: the next hops' MACs are configured.
    pub silent: bool,
}

impl Devices {
    /// Packet sockets on the laboratory's veths, a queue pair per worker.
    pub fn packet_sockets(settings: &Settings) -> Devices {
        let Settings { workers, ring, one_armed, .. } = settings;
        let device = |number, interface| {
            let mut text = format!("net_af_packet{number},iface={interface}");
            if *workers > 1 {
                text.push_str(&format!(",qpairs={workers}"));
            }
            if !ring.is_empty() {
                text.push_str(&format!(",{ring}"));
            }
            text
        };
        let internal = device(0, INTERNAL);
        let external = if *one_armed { internal.clone() } else { device(1, EXTERNAL) };
        Devices { internal, external, silent: false }
    }

    /// Tap interfaces that [`Lab::bridge_taps`] joins to the laboratory's veths.
    pub fn taps() -> Devices {
        let device =
            |number, interface, mac| format!("net_tap{number},iface={interface},mac={mac}");
        let (internal, external) = (device(0, TAPS[0], MACS[1]), device(1, TAPS[1], MACS[2]));
        Devices { internal, external, silent: false }
    }

    /// Captures to replay, of `from`, and captures to write, in `to`: `internal.pcap` and
    /// `external.pcap`.
    pub fn captures(from: &Path, to: &Path) -> Devices {
        let device = |number, name| {
            let (from, to) = (from.join(name), to.join(name));
            format!("net_pcap{number},rx_pcap={},tx_pcap={}", from.display(), to.display())
        };
        let (internal, external) = (device(0, "internal.pcap"), device(1, "external.pcap"));
        Devices { internal, external, silent: true }
    }
}

impl Settings {
    /// What the kept recording is made with; a replay needs the same pool, blocks and seed.
    pub fn recording() -> Settings {
        Settings { seed: Some(1), ..Settings::default() }
    }

    /// The configuration file.
    pub fn yaml(&self, name: &str, devices: &Devices) -> String {
        let Settings {
            workers,
            seed: _,
            pool,
            drain,
            ports,
            block_size,
            max_blocks,
            hold,
            udp_timeout,
            udp_port_timeouts,
            icmp_timeout,
            tcp_timeout,
            short_timers,
            idle,
            max_mappings,
            filtering,
            port_overloading,
            other_protocols,
            alg,
            limits,
            static_mappings,
            nat44,
            kernel_interfaces,
            tags,
            one_armed: _,
            internal_mtu,
            external_mtu,
            ring: _,
            taps: _,
            control_socket,
            ipv6,
            huge_pages,
        } = self;
        let Devices { internal, external, silent } = devices;
        let device = |text: &str| match text.starts_with('{') {
            true => format!("bond: {text}"),
            false => format!("device: \"{text}\""),
        };
        let (internal, external) = (device(internal), device(external));
        let pool = pool.join(", ");
        let drain = match drain.is_empty() {
            true => String::new(),
            false => format!("    drain: [{}]\n", drain.join(", ")),
        };
        let lent = ports.as_ref().map(|ports| format!("    ports: {ports}\n")).unwrap_or_default();
        let idle = idle.as_ref().map(|idle| format!("  idle: {idle}\n")).unwrap_or_default();
        let mtu = |mtu: &Option<u16>| mtu.map(|mtu| format!("    mtu: {mtu}\n"));
        let [inner, outer] = [internal_mtu, external_mtu].map(|of| mtu(of).unwrap_or_default());
        let [tags_in, tags_out] = tags.map(|tags| match tags {
            [Tag { tpid, id: outer }, Tag { id, .. }] => {
                format!("    vlan: {id}\n    outer-vlan: {outer}\n    outer-tpid: {tpid:#x}\n")
            }
            tags => tags.iter().map(|tag| format!("    vlan: {}\n", tag.id)).collect(),
        });
        let kernel = |name: &str| match kernel_interfaces {
            true => format!("    kernel-interface: {name}\n"),
            false => String::new(),
        };
        let [kernel_in, kernel_out] = KERNEL_INTERFACES.map(kernel);
        let neighbour = |address, mac: &str| match silent {
            true => format!("    neighbours: [{{ address: {address}, mac: \"{mac}\" }}]\n"),
            false => String::new(),
        };
        let (router, world) = (neighbour(ROUTER, MACS[0]), neighbour(WORLD, MACS[3]));
        let huge_pages = if *huge_pages { "required" } else { "off" };
        let socket = control_socket.iter().map(|path| format!("  control-socket: {path}\n"));
        let socket: String = socket.collect();
        let mut text = format!(
            "version: 1\n\
             system:\n  name: {name}\n  workers: {workers}\n  max-mappings: {max_mappings}\n\
             \x20 memory: 512MiB\n  huge-pages: {huge_pages}\n{socket}{idle}\
             ports:\n\
             \x20 {INTERNAL_PORT}:\n    side: internal\n    {internal}\n\
             \x20   addresses: [{BOX_INTERNAL}/30]\n    next-hop: {ROUTER}\n{router}{inner}{tags_in}{kernel_in}\
             \x20 {EXTERNAL_PORT}:\n    side: external\n    {external}\n\
             \x20   addresses: [{BOX_EXTERNAL}/30]\n    next-hop: {WORLD}\n{world}{outer}{tags_out}{kernel_out}\
             pools:\n  laboratory:\n    addresses: [{pool}]\n{drain}{lent}    allocation:\n\
             \x20     block-size: {block_size}\n      max-blocks: {max_blocks}\n\
             \x20     hold: {hold}\n\
             subscribers:\n  - name: laboratory\n    match: [{SUBSCRIBER_PREFIX}]\n\
             \x20   pool: laboratory\n"
        );
        if let Some(limits) = limits {
            text.push_str(&format!("    limits: {limits}\n"));
        }
        let default = udp_timeout.iter().map(|timeout| format!("default: {timeout}"));
        let by_port = udp_port_timeouts.iter().map(|(port, time)| format!("\"{port}\": {time}"));
        let udp = default.chain(by_port).collect::<Vec<_>>().join(", ");
        let mut timeouts = Vec::new();
        if !udp.is_empty() {
            timeouts.push(format!("udp: {{ {udp} }}"));
        }
        timeouts.extend(icmp_timeout.iter().map(|timeout| format!("icmp: {timeout}")));
        timeouts.extend(tcp_timeout.iter().map(|t| {
            format!("tcp: {{ established: {t}, opening: {t}, closing: {t}, reset: {t} }}")
        }));
        let mut rules = nat44.clone();
        rules.extend(filtering.iter().map(|filtering| format!("filtering: {filtering}")));
        if !port_overloading.is_empty() {
            rules.push(format!("port-overloading: [{}]", port_overloading.join(", ")));
        }
        rules.extend(other_protocols.iter().map(|carried| format!("other-protocols: {carried}")));
        rules.extend(alg.iter().map(|alg| format!("alg: {alg}")));
        let statics = static_mappings.iter().map(|mapping| format!("- {mapping}")).collect();
        for (section, lines) in [("timeouts", timeouts), ("nat44", rules), ("static", statics)] {
            if !lines.is_empty() {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{section}:\n  {}", lines.join("\n  "));
            }
        }
        if *short_timers {
            text.push_str("lab:\n  allow-short-timers: true\n");
        }
        match ipv6 {
            true => crate::ipv6::with_ipv6(&text),
            false => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_written_with_its_structure() {
        let settings = Settings {
            workers: 4,
            udp_timeout: Some("2s".into()),
            short_timers: true,
            filtering: Some("address-dependent".into()),
            external_mtu: Some(1400),
            ..Settings::default()
        };
        let text = settings.yaml("lab-1-0", &Devices::packet_sockets(&settings));
        for line in [
            "  workers: 4",
            "  internal0:",
            "    device: \"net_af_packet0,iface=cg-int,qpairs=4\"",
            "    addresses: [192.0.2.2/30]",
            "    mtu: 1400",
            "      hold: 2m",
            "  filtering: address-dependent",
            "  udp: { default: 2s }",
            "  allow-short-timers: true",
        ] {
            assert!(text.lines().any(|has| has == line), "no line {line:?} in\n{text}");
        }
    }
}
