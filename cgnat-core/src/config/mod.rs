//! The configuration in use: validated, with private fields.
//!
//! Text becomes a [`Config`] only through [`Config::from_yaml`], which reports every problem
//! with its place. Whoever holds a `Config` may rely on these invariants:
//!
//! 1. at least one internal and one external port, each with an address;
//! 2. at least one pool and one subscriber group; a group's pools exist, and a deterministic
//!    pool is alone in its list;
//! 3. pool addresses are sorted, unique, disjoint between pools, and outside every
//!    subscriber range and port address;
//! 4. a pool's block size is a power of two that divides its port range; a deterministic pool
//!    has a range for each of its subscribers;
//! 5. static mappings share no endpoint; an address that is mapped one to one is in no pool;
//! 6. timeouts respect RFC 4787, 5382, 5508 and 7857 minimums; with `lab.allow-short-timers`
//!    they are at least 1 s, and there is a warning.
//!
//! It does not look at devices, files or memory: the program does that when it starts.

mod announce;
mod bonds;
mod difference;
mod frames;
mod groups;
mod ipv6;
mod keys;
mod limits;
mod other_protocols;
mod overloading;
mod pool_rules;
mod problem;
mod ranges;
mod raw;
mod read;
mod route;
mod scalar;
mod statics;
#[cfg(test)]
mod tests;
mod timeouts;
mod trunks;
mod validate;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::packet::ethernet::Tags;

pub use announce::Announce;
pub use difference::Source;
pub use frames::MOST_MTU;
pub use groups::{DestinationRule, SubscriberGroup};
pub use ipv6::{Ipv6, Ipv6Route, SourceCheck};
pub use keys::{KEYS, NOT_YET};
pub use limits::{Limits, NewSessions, Reserved};
pub use other_protocols::OtherProtocols;
pub use overloading::Overloading;
pub use pool_rules::{AddressSelection, PoolRules};
pub use problem::{Problem, Problems, Severity};
pub use route::Route;
pub use statics::{BypassRule, StaticMapping};
pub use timeouts::Timeouts;

/// A whole validated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) system: System,
    pub(crate) ports: Vec<Port>,
    pub(crate) routes: Vec<Route>,
    pub(crate) ipv6_routes: Vec<Ipv6Route>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) groups: Vec<SubscriberGroup>,
    pub(crate) hairpinning: bool,
    pub(crate) inbound_refresh: bool,
    pub(crate) algs: Algs,
    pub(crate) own_errors: OwnErrors,
    pub(crate) fragments: Fragments,
    /// `nat44.tcp-mss-clamp`, for external addresses that are in no pool.
    pub(crate) mss_clamp: Option<u16>,
    pub(crate) statics: Vec<StaticMapping>,
    pub(crate) bypass: Vec<BypassRule>,
    pub(crate) other_protocols: OtherProtocols,
    pub(crate) timeouts: Timeouts,
    pub(crate) announce: Option<Announce>,
    pub(crate) warnings: Vec<Problem>,
}

/// `nat44.fragments`: bounds on datagrams that come in fragments, of the whole box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragments {
    /// Fragments that wait for the first of their datagram.
    pub max_pending: u32,
    /// Datagrams under way.
    pub max_datagrams: u32,
    /// Seconds that a datagram has.
    pub timeout_s: u32,
}

impl Default for Fragments {
    fn default() -> Self {
        Self { max_pending: 4096, max_datagrams: 16_384, timeout_s: 2 }
    }
}

/// `system`: the box as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    pub(crate) name: String,
    pub(crate) workers: Workers,
    pub(crate) control_cpus: Vec<u16>,
    pub(crate) memory_bytes: u64,
    pub(crate) max_mappings: u32,
    pub(crate) max_sessions: Option<u32>,
    pub(crate) new_flows_under_load: Option<u32>,
    pub(crate) flood_guard: bool,
    pub(crate) huge_pages: HugePages,
    pub(crate) idle: Idle,
    pub(crate) control_socket: Option<String>,
}

/// `system.workers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workers {
    /// One per receive queue that the devices offer.
    Auto,
    /// This many, placed round-robin on the CPUs that are not control CPUs.
    Count(u16),
    /// One per listed CPU; a CPU listed twice carries two workers.
    Cpus(Vec<u16>),
}

/// `system.huge-pages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// Use them where there are any, warn where there are none.
    Auto,
    /// Refuse to start without.
    Required,
    /// Never use them.
    Off,
}

/// `system.idle`: what a worker does while nothing arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// It rests, the longer the longer nothing has come.
    Adaptive,
    /// It polls on.
    Busy,
}

/// Which side of the NAT a port is on (RFC 4787 words).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Towards subscribers.
    Internal,
    /// Towards the Internet.
    External,
}

/// Who may use a mapping from outside (RFC 4787 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filtering {
    /// Anybody.
    #[default]
    EndpointIndependent,
    /// Addresses that the subscriber has sent to.
    AddressDependent,
    /// Addresses and ports that the subscriber has sent to.
    AddressAndPortDependent,
}

impl Filtering {
    /// Whether anybody may send to a mapping.
    pub fn is_open(self) -> bool {
        self == Filtering::EndpointIndependent
    }
}

/// One DPDK port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub(crate) name: String,
    pub(crate) side: Side,
    pub(crate) device: Device,
    pub(crate) tags: Tags,
    pub(crate) addresses: Vec<Ipv4Net>,
    pub(crate) next_hop: Option<Ipv4Addr>,
    pub(crate) mtu: u16,
    pub(crate) neighbours: Vec<(Ipv4Addr, [u8; 6])>,
    pub(crate) kernel_interface: Option<String>,
    pub(crate) routes_from_kernel: bool,
    pub(crate) ipv6: Option<Ipv6>,
}

/// `ports.<name>.device`, or `ports.<name>.bond`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// Several devices that are one port, by LACP (IEEE 802.1AX).
    Bond {
        /// What DPDK calls it.
        name: String,
        /// At least two, all cards or all of one virtual driver; no bonds.
        members: Vec<Device>,
    },
    /// A PCI address in full form, `0000:3b:00.0`.
    Pci(String),
    /// A DPDK virtual device.
    Virtual {
        /// Device name with its number: `net_pcap0`.
        name: String,
        /// `net_pcap`, `net_af_packet`, `net_null`, `net_ring`, `net_tap`.
        driver: String,
        /// `key=value` arguments in their order.
        arguments: Vec<(String, String)>,
    },
}

/// A set of external addresses and how their ports are lent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub(crate) name: String,
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) drain: Vec<Ipv4Addr>,
    pub(crate) spare_addresses: u32,
    pub(crate) first_port: u16,
    pub(crate) last_port: u16,
    pub(crate) mode: Mode,
    pub(crate) block_size: u16,
    pub(crate) max_blocks: u8,
    pub(crate) hold_s: u32,
    pub(crate) mss_clamp: Option<u16>,
    pub(crate) overflow: Option<Overflow>,
    pub(crate) filtering: [Filtering; 3],
    pub(crate) overloading: Overloading,
    pub(crate) rules: PoolRules,
}

/// `allocation.mode`: how a pool lends its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Blocks on demand.
    PortBlock,
    /// A range for each subscriber, by arithmetic (RFC 7422).
    Deterministic,
}

/// `allocation.overflow`: blocks for subscribers whose range is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow {
    pub(crate) ports: u16,
    pub(crate) block_size: u16,
    pub(crate) hold_s: u32,
}

/// What the sender of a new flow is told that is refused, for want of something or by
/// administration (RFC 5508 REQ-8, RFC 6888 REQ-11b).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRefusal {
    /// ICMP type 3 code 1; administration is told as code 13.
    HostUnreachable,
    /// ICMP type 3 code 13 for either.
    AdminProhibited,
    /// Nothing.
    Silent,
}

/// ICMP errors that the box itself sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnErrors {
    pub(crate) on_refusal: OnRefusal,
    pub(crate) to_internal: bool,
    pub(crate) to_external: bool,
    pub(crate) per_receiver: u32,
    pub(crate) in_all: u32,
    pub(crate) answers_unsolicited_syns: bool,
}

/// Application level gateways, each on or off by itself (RFC 4787 REQ-10a).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Algs {
    /// FTP's control channel (RFC 959, RFC 2428).
    pub ftp: bool,
    /// PPTP's control channel, and GRE with it (RFC 2637).
    pub pptp: bool,
    /// TFTP (RFC 1350).
    pub tftp: bool,
}

impl Algs {
    /// Whether any is on.
    #[inline]
    pub fn any(self) -> bool {
        self.ftp || self.pptp || self.tftp
    }
}

impl Config {
    /// Reads and validates `text`. `file` is the name that problems are reported under.
    ///
    /// # Errors
    /// Every problem of the file, in order of line and column; never only the first.
    pub fn from_yaml(file: &str, text: &str) -> Result<Config, Problems> {
        let document = raw::Document::parse(file, text)?;
        validate::config(file, text, &document)
    }

    /// The `system` section.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// Ports in the order of the file.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Static routes in the order of the file.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Pools in the order of the file.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// Subscriber groups in the order of the file.
    pub fn groups(&self) -> &[SubscriberGroup] {
        &self.groups
    }

    /// Bounds on fragments.
    pub fn fragments(&self) -> Fragments {
        self.fragments
    }

    /// Whether subscribers may reach each other by external endpoints (RFC 4787 REQ-9).
    pub fn hairpinning(&self) -> bool {
        self.hairpinning
    }

    /// Whether inbound packets restart the timers of UDP and ICMP mappings too (RFC 4787
    /// REQ-6a).
    pub fn inbound_refresh(&self) -> bool {
        self.inbound_refresh
    }

    /// Application level gateways that are on.
    pub fn algs(&self) -> Algs {
        self.algs
    }

    /// ICMP errors of the box.
    pub fn own_errors(&self) -> &OwnErrors {
        &self.own_errors
    }

    /// Largest TCP segment that is offered through external addresses that are in no pool.
    pub fn mss_clamp(&self) -> Option<u16> {
        self.mss_clamp
    }

    /// Static mappings; no two share an endpoint of either side.
    pub fn statics(&self) -> &[StaticMapping] {
        &self.statics
    }

    /// What passes untranslated (RFC 6888 REQ-6).
    pub fn bypass(&self) -> &[BypassRule] {
        &self.bypass
    }

    /// What is carried besides TCP, UDP and ICMP.
    pub fn other_protocols(&self) -> &OtherProtocols {
        &self.other_protocols
    }

    /// Idle timeouts.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// What the operator should know although the configuration is used.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// The group of an internal address: the first that matches.
    pub fn group_of(&self, internal: Ipv4Addr) -> Option<&SubscriberGroup> {
        self.groups.iter().find(|group| group.ranges.iter().any(|r| r.contains(&internal)))
    }

    /// Which internal addresses fall to which group, first match wins: first and last address
    /// of each piece in the order of the file, and the index of the group.
    pub fn pieces_by_group(&self) -> Vec<(u32, u32, usize)> {
        let of = |(number, group): (usize, &SubscriberGroup)| {
            let ranges = group.ranges.clone();
            ranges.into_iter().map(move |range| (range, number))
        };
        ranges::by_group(self.groups.iter().enumerate().flat_map(of))
    }

    /// Internal addresses that may use the pool with this index, piece by piece as
    /// [`Config::pieces_by_group`]. In this order a deterministic pool numbers its subscribers.
    pub fn subscriber_ranges(&self, pool: usize) -> Vec<(u32, u32)> {
        ranges::of(self.pieces_by_group(), |group| self.groups[group].uses(pool))
    }

    /// How many internal addresses may use the pool with this index.
    pub fn possible_subscribers(&self, pool: usize) -> u64 {
        ranges::count(&self.subscriber_ranges(pool))
    }
}

impl System {
    /// Name of the instance; also the DPDK file prefix, so two of one name cannot run.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many workers and where.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// CPUs for housekeeping and control; empty means "any".
    pub fn control_cpus(&self) -> &[u16] {
        &self.control_cpus
    }

    /// Memory for tables and packet buffers, bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Mappings that all shards together hold.
    pub fn max_mappings(&self) -> u32 {
        self.max_mappings
    }

    /// Sessions beside the first of each mapping that all shards together hold, if it is said.
    pub fn max_sessions(&self) -> Option<u32> {
        self.max_sessions
    }

    /// Flows per second that a worker begins while it has more packets than it can take; `None`
    /// is no bound.
    pub fn new_flows_under_load(&self) -> Option<u32> {
        self.new_flows_under_load
    }

    /// Whether a worker that has more packets than it can take sheds floods from outside.
    pub fn flood_guard(&self) -> bool {
        self.flood_guard
    }

    /// Whether huge pages are wanted.
    pub fn huge_pages(&self) -> HugePages {
        self.huge_pages
    }

    /// What a worker does while nothing arrives.
    pub fn idle(&self) -> Idle {
        self.idle
    }

    /// Where a running box is asked.
    pub fn control_socket(&self) -> Option<&str> {
        self.control_socket.as_deref()
    }
}

impl Port {
    /// Name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Side of the NAT.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The DPDK device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// VLAN tags that all frames carry.
    pub fn tags(&self) -> Tags {
        self.tags
    }

    /// Own addresses with their prefix lengths.
    pub fn addresses(&self) -> &[Ipv4Net] {
        &self.addresses
    }

    /// Default next hop of this side.
    pub fn next_hop(&self) -> Option<Ipv4Addr> {
        self.next_hop
    }

    /// Largest packet, bytes; at most [`MOST_MTU`].
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Static neighbours: address and MAC. They are never asked for nor overwritten.
    pub fn neighbours(&self) -> &[(Ipv4Addr, [u8; 6])] {
        &self.neighbours
    }

    /// The kernel's interface for what is for the box itself.
    pub fn kernel_interface(&self) -> Option<&str> {
        self.kernel_interface.as_deref()
    }
}

impl Pool {
    /// Name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// External addresses after exclusions, sorted and unique.
    pub fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    /// Those of them that no subscriber is paired with and no block is lent of, sorted.
    pub fn drain(&self) -> &[Ipv4Addr] {
        &self.drain
    }

    /// Addresses that may be added while the box runs.
    pub fn spare_addresses(&self) -> u32 {
        self.spare_addresses
    }

    /// First port that is lent.
    pub fn first_port(&self) -> u16 {
        self.first_port
    }

    /// Last port that is lent.
    pub fn last_port(&self) -> u16 {
        self.last_port
    }

    /// How ports are lent.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Ports per block, a power of two from 64 to 4096; of a deterministic pool, ports of a
    /// subscriber's range, any number from 16.
    pub fn block_size(&self) -> u16 {
        self.block_size
    }

    /// Blocks, or ranges of a deterministic pool, of one external address.
    pub fn blocks_per_address(&self) -> u32 {
        let kept = self.overflow.map_or(0, |overflow| u32::from(overflow.ports));
        let ports = u32::from(self.last_port) - u32::from(self.first_port) + 1 - kept;
        ports / u32::from(self.block_size)
    }

    /// Overflow blocks of one external address.
    pub fn overflow_blocks_per_address(&self) -> u32 {
        let ranges = self.blocks_per_address() * u32::from(self.block_size);
        let ports = u32::from(self.last_port) - u32::from(self.first_port) + 1;
        // What the ranges leave over is overflow too.
        self.overflow.map_or(0, |overflow| (ports - ranges) / u32::from(overflow.block_size))
    }

    /// Blocks that one subscriber may hold, 1 to 8; the range of a deterministic pool is one.
    pub fn max_blocks(&self) -> u8 {
        self.max_blocks
    }

    /// Seconds that a freed port rests (RFC 6888 REQ-8).
    pub fn hold_s(&self) -> u32 {
        self.hold_s
    }

    /// Segment size above which SYNs are clamped, if any.
    pub fn mss_clamp(&self) -> Option<u16> {
        self.mss_clamp
    }

    /// How its ports are chosen and rest.
    pub fn rules(&self) -> &PoolRules {
        &self.rules
    }

    /// Overflow of a deterministic pool.
    pub fn overflow(&self) -> Option<Overflow> {
        self.overflow
    }

    /// Destination ports towards which its external ports are overloaded (RFC 7857 section 3).
    pub fn overloading(&self) -> &Overloading {
        &self.overloading
    }

    /// Who may use a mapping from outside: of TCP, UDP, ICMP (RFC 4787 REQ-8).
    pub fn filtering(&self) -> [Filtering; 3] {
        self.filtering
    }
}

impl Overflow {
    /// Ports of each address that are kept for it; what the ranges leave over is added.
    pub fn ports(self) -> u16 {
        self.ports
    }

    /// Ports per block; a power of two, 64 to 4096.
    pub fn block_size(self) -> u16 {
        self.block_size
    }

    /// Seconds that a freed port of it rests.
    pub fn hold_s(self) -> u32 {
        self.hold_s
    }
}

impl OwnErrors {
    /// What the sender of a refused flow is told.
    pub fn on_refusal(&self) -> OnRefusal {
        self.on_refusal
    }

    /// Whether errors go out of ports of a side (RFC 5508 REQ-9).
    pub fn allowed_to(&self, side: Side) -> bool {
        match side {
            Side::Internal => self.to_internal,
            Side::External => self.to_external,
        }
    }

    /// Errors to one receiver per second.
    pub fn per_receiver(&self) -> u32 {
        self.per_receiver
    }

    /// Errors per second, worker and side.
    pub fn in_all(&self) -> u32 {
        self.in_all
    }

    /// Whether unsolicited SYNs from outside are answered after a while (RFC 5382 REQ-4).
    pub fn answers_unsolicited_syns(&self) -> bool {
        self.answers_unsolicited_syns
    }
}
