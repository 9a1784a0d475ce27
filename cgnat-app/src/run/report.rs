//! What a run has done: for a person in the manner of testpmd, for programs as JSON.

mod ipv6;
mod port;

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use cgnat_core::config::Config;
use cgnat_core::control::counters::WorkerCounters;
use cgnat_core::control::neighbours6::NeighbourTable6;
use cgnat_core::endpoint::Protocol;
use cgnat_core::housekeeping::{Draining, Housekeeping};
use cgnat_core::refusals::Remembered;
use cgnat_core::shard::{ListedMapping, Shard};
use cgnat_core::table::port_block::PortCensus;
use cgnat_core::time::Tick;
use cgnat_core::verdict::DropReason;
use cgnat_core::worker::forwarding::Forwarding;
use serde_json::{Map, Value, json};

use super::floods;
use super::kernel::KernelReport;
use super::links::{Buffers, LinkReport};
use super::refused::Refused;
use super::reload::Tally;
use super::steering::SteeringReport;
use ipv6::Ipv6Report;
use port::PortReport;

/// Mappings and blocks that the text lists; JSON has more.
const LISTED: usize = 20;

/// Mappings and blocks that JSON lists.
const LISTED_JSON: usize = 100_000;

/// Everything about a run.
pub struct Report {
    ports: Vec<PortReport>,
    drops: Vec<(DropReason, u64)>,
    arp_received: u64,
    echo_answered: u64,
    punted: u64,
    kernel: Vec<KernelReport>,
    links: Vec<LinkReport>,
    buffers: Vec<Buffers>,
    /// Of the kernel's routes, if they are followed.
    routes: Option<Value>,
    originated: u64,
    errors_sent: u64,
    errors_withheld: u64,
    syns_held: u64,
    syns_answered: u64,
    arp_conflicts: u64,
    parked: u64,
    fragments_waiting: u64,
    fragmented_datagrams: u64,
    mappings: [u64; Protocol::COUNT],
    mappings_created: u64,
    sessions: u64,
    associations: u64,
    subscribers: u64,
    blocks_total: u64,
    blocks_in_use: u64,
    blocks_allocated: u64,
    blocks_released: u64,
    choices_missed: u64,
    holds_cut: u64,
    handed_off: Vec<(u64, u64)>,
    hits: u64,
    begun: u64,
    pressed: u64,
    floods: serde_json::Value,
    hairpinned: u64,
    /// Outbound and inbound.
    statics: [u64; 2],
    bypassed: [u64; 2],
    ipv6: Ipv6Report,
    fragmented: u64,
    identification_repeats: u64,
    stale_requests: u64,
    tcp_out_of_window: u64,
    algs: AlgReport,
    /// Only at the end.
    stopped: Option<Stopped>,
    /// By pool: its name, and the new subscribers that it could not take and another did.
    spilled: Vec<(String, u64)>,
    refused: Refused,
    reloads: Tally,
    steering: Option<SteeringReport>,
    /// With the name of the pool.
    draining: Vec<(String, Draining)>,
    outputs: Vec<String>,
}

/// What only stopped shards can tell.
struct Stopped {
    census: PortCensus,
    mappings: Vec<ListedMapping>,
    /// Subscriber, external address, first and last port.
    blocks: Vec<(Ipv4Addr, Ipv4Addr, u16, u16)>,
}

/// What housekeeping knows of the pools.
pub struct Space {
    blocks: u32,
    /// By pool.
    spilled: Vec<u64>,
    draining: Vec<Draining>,
}

impl Space {
    /// As it is now.
    pub fn of(housekeeping: &Housekeeping) -> Self {
        let space = housekeeping.space();
        let spilled = (0..space.pools().len() as u16).map(|pool| space.occupancy().spilled(pool));
        Self {
            blocks: space.our_blocks(),
            spilled: spilled.collect(),
            draining: housekeeping.draining(),
        }
    }
}

/// What the ALGs have done.
#[derive(Debug)]
struct AlgReport {
    is_on: bool,
    ftp_followed: u64,
    ftp_unfollowed: u64,
    ftp_ended: u64,
    ftp_replaced: u64,
    ftp_passed: u64,
    pptp_followed: u64,
    pptp_unfollowed: u64,
    pptp_ended: u64,
    pptp_calls: u64,
    pptp_passed: u64,
    tftp_requests: u64,
}

impl Report {
    /// Adds up the counters of all workers.
    pub fn of(config: &Config, counters: &[Arc<WorkerCounters>]) -> Self {
        let sum = |value: &dyn Fn(&WorkerCounters) -> u64| -> u64 {
            counters.iter().map(|counters| value(counters)).sum()
        };
        let ports = config.ports().iter().enumerate();
        let ports = ports.map(|(n, port)| PortReport::of(port.name(), n, counters));
        let drops = DropReason::ALL.iter().map(|reason| (*reason, sum(&|c| c.drops_of(*reason))));
        Self {
            ports: ports.collect(),
            drops: drops.collect(),
            ipv6: Ipv6Report::counted(counters),
            arp_received: sum(&|c| c.arp_received.value()),
            echo_answered: sum(&|c| c.echo_answered.value()),
            punted: sum(&|c| c.punted.value()),
            kernel: Vec::new(),
            links: Vec::new(),
            buffers: Vec::new(),
            routes: None,
            originated: sum(&|c| c.originated.value()),
            errors_sent: sum(&|c| c.errors_sent.value()),
            errors_withheld: sum(&|c| c.errors_withheld.value()),
            syns_held: sum(&|c| c.syns_held.value()),
            syns_answered: sum(&|c| c.syns_answered.value()),
            arp_conflicts: sum(&|c| c.arp_conflicts.value()),
            parked: sum(&|c| c.parked.value()),
            fragments_waiting: sum(&|c| c.fragments_waiting.value()),
            fragmented_datagrams: sum(&|c| c.fragmented_datagrams.value()),
            mappings: std::array::from_fn(|p| sum(&|c| c.mappings[p].value())),
            mappings_created: sum(&|c| c.mappings_created.value()),
            sessions: sum(&|c| c.sessions.value()),
            associations: sum(&|c| c.associations.value()),
            subscribers: sum(&|c| c.subscribers.value()),
            blocks_total: 0,
            blocks_in_use: sum(&|c| c.blocks_in_use.value()),
            blocks_allocated: sum(&|c| c.blocks_allocated.value()),
            blocks_released: sum(&|c| c.blocks_released.value()),
            choices_missed: sum(&|c| c.choices_missed.value()),
            holds_cut: sum(&|c| c.holds_cut.value()),
            handed_off: counters
                .iter()
                .map(|c| (c.handed_off.value(), c.handed_in.value()))
                .collect(),
            hits: sum(&|c| c.hits.value()),
            begun: sum(&|c| c.begun.value()),
            pressed: sum(&|c| c.pressed.value()),
            floods: floods::json(counters),
            hairpinned: sum(&|c| c.hairpinned.value()),
            statics: [sum(&|c| c.static_outbound.value()), sum(&|c| c.static_inbound.value())],
            bypassed: [sum(&|c| c.bypassed_outbound.value()), sum(&|c| c.bypassed_inbound.value())],
            fragmented: sum(&|c| c.fragmented.value()),
            identification_repeats: sum(&|c| c.identification_repeats.value()),
            stale_requests: sum(&|c| c.stale_requests.value()),
            tcp_out_of_window: sum(&|c| c.tcp_out_of_window.value()),
            algs: AlgReport {
                is_on: config.algs().any(),
                ftp_followed: sum(&|c| c.ftp_followed.value()),
                ftp_unfollowed: sum(&|c| c.ftp_unfollowed.value()),
                ftp_ended: sum(&|c| c.ftp_ended.value()),
                ftp_replaced: sum(&|c| c.ftp_replaced.value()),
                ftp_passed: sum(&|c| c.ftp_passed.value()),
                pptp_followed: sum(&|c| c.pptp_followed.value()),
                pptp_unfollowed: sum(&|c| c.pptp_unfollowed.value()),
                pptp_ended: sum(&|c| c.pptp_ended.value()),
                pptp_calls: sum(&|c| c.pptp_calls.value()),
                pptp_passed: sum(&|c| c.pptp_passed.value()),
                tftp_requests: sum(&|c| c.tftp_requests.value()),
            },
            stopped: None,
            spilled: Vec::new(),
            refused: Refused::default(),
            reloads: Tally::default(),
            steering: None,
            draining: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Adds what only stopped shards can tell; `elsewhere` are ports of the blocks that none has.
    pub fn with_shards(mut self, shards: &[Shard], elsewhere: PortCensus, now: Tick) -> Self {
        let mut stopped = Stopped { census: elsewhere, mappings: Vec::new(), blocks: Vec::new() };
        let mut refusals = Remembered::default();
        for shard in shards {
            stopped.census += shard.port_census(now);
            stopped.mappings.extend(shard.mapping_list().take(LISTED_JSON));
            stopped.blocks.extend(shard.block_list().take(LISTED_JSON));
            refusals.add(shard.refusals(), now);
        }
        stopped.mappings.sort_unstable_by_key(|m| (m.internal, m.protocol, m.realm, m.only_with));
        stopped.blocks.sort_unstable();
        self.stopped = Some(stopped);
        self.with_refusals(refusals)
    }

    /// Adds what subscribers were refused.
    pub fn with_refusals(mut self, refusals: Remembered) -> Self {
        self.refused = Refused(refusals);
        self
    }

    /// Adds what housekeeping knows of the pools of `config`.
    pub fn with_space(mut self, config: &Config, space: Space) -> Self {
        let name = |pool: usize| config.pools()[pool].name().to_owned();
        self.blocks_total = u64::from(space.blocks);
        let spilled = space.spilled.into_iter().enumerate();
        self.spilled = spilled.map(|(pool, count)| (name(pool), count)).collect();
        let draining = space.draining.into_iter();
        self.draining = draining.map(|d| (name(usize::from(d.pool)), d)).collect();
        self
    }

    /// Adds how the ports steer.
    pub fn with_steering(mut self, steering: SteeringReport) -> Self {
        self.steering = Some(steering);
        self
    }

    /// Adds what went to and from interfaces in the kernel.
    pub fn with_kernel(mut self, kernel: Vec<KernelReport>) -> Self {
        self.kernel = kernel;
        self
    }

    /// Adds how the links are and were.
    pub fn with_links(mut self, links: Vec<LinkReport>) -> Self {
        self.links = links;
        self
    }

    /// Adds how own addresses and next hops of IPv6 stand.
    pub fn with_ipv6(
        mut self,
        config: &Config,
        forwarding: &Forwarding,
        neighbours: &NeighbourTable6,
    ) -> Self {
        self.ipv6.look(config, forwarding, neighbours);
        self
    }

    /// Adds packet buffers.
    pub fn with_buffers(mut self, buffers: Vec<Buffers>) -> Self {
        self.buffers = buffers;
        self
    }

    /// Adds what came of the kernel's routes.
    pub fn with_routes(mut self, routes: Option<Value>) -> Self {
        self.routes = routes;
        self
    }

    /// Adds how reloads went.
    pub fn with_reloads(mut self, reloads: Tally) -> Self {
        self.reloads = reloads;
        self
    }

    /// Adds the captures that were written.
    pub fn with_outputs(mut self, outputs: Vec<String>) -> Self {
        self.outputs = outputs;
        self
    }

    fn dropped(&self) -> u64 {
        self.drops.iter().map(|(_, count)| count).sum()
    }

    /// Frames that came in or were made here, and what became of them; the two are equal.
    fn balance(&self) -> (u64, u64) {
        let received: u64 = self.ports.iter().map(|port| port.rx_packets).sum();
        let sent: u64 = self.ports.iter().map(|port| port.tx_packets).sum();
        let waiting = self.parked + self.fragments_waiting;
        let consumed = self.arp_received + self.ipv6.discovered + self.echo_answered + self.punted;
        let ended = sent + self.dropped() + consumed + waiting;
        (received + self.originated, ended)
    }

    /// One line of progress.
    pub fn progress(&self) -> String {
        let received: u64 = self.ports.iter().map(|port| port.rx_packets).sum();
        let sent: u64 = self.ports.iter().map(|port| port.tx_packets).sum();
        format!(
            "{received} received, {sent} sent, {} dropped, {} mappings, {} subscribers",
            self.dropped(),
            self.mappings.iter().sum::<u64>(),
            self.subscribers
        )
    }

    /// The report for a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        for port in &self.ports {
            port.write_text(out)?;
        }
        let [tcp, udp, icmp] = self.mappings;
        writeln!(
            out,
            "\nMappings: {} (tcp {tcp}, udp {udp}, icmp {icmp}), {} created; TCP sessions: {}; flows without ports: {}",
            tcp + udp + icmp,
            self.mappings_created,
            self.sessions,
            self.associations
        )?;
        if let Some(Stopped { mappings, .. }) = &self.stopped {
            for mapping in mappings.iter().take(LISTED) {
                let ListedMapping { protocol, internal, external, only_with, realm: _ } = mapping;
                write!(out, "  {protocol:<5} {:<22} -> {external}", internal.to_string())?;
                match only_with {
                    Some(remote) => writeln!(out, " with {remote} only")?,
                    None => writeln!(out)?,
                }
            }
            more(out, mappings.len())?;
        }
        writeln!(
            out,
            "\nPort blocks in use: {} of {}, by {} subscribers; {} allocated, {} released",
            self.blocks_in_use,
            self.blocks_total,
            self.subscribers,
            self.blocks_allocated,
            self.blocks_released
        )?;
        if let Some(Stopped { blocks, .. }) = &self.stopped {
            for (internal, external, first, last) in blocks.iter().take(LISTED) {
                writeln!(out, "  {:<16} {external}:{first}-{last}", internal.to_string())?;
            }
            more(out, blocks.len())?;
        }
        for (pool, draining) in &self.draining {
            writeln!(
                out,
                "  {} of pool {pool} is drained: {} blocks are left, of {} subscribers",
                draining.address, draining.blocks, draining.subscribers
            )?;
        }
        if let Some(Stopped { census, .. }) = &self.stopped {
            writeln!(
                out,
                "External ports (each protocol): {} free, {} used, {} resting, {} in all",
                census.free,
                census.used,
                census.resting,
                census.total()
            )?;
        }
        for (pool, spilled) in self.spilled.iter().filter(|(_, spilled)| *spilled > 0) {
            writeln!(
                out,
                "Pool {pool} had no room for {spilled} new subscribers; others took them"
            )?;
        }
        if self.choices_missed + self.holds_cut > 0 {
            writeln!(
                out,
                "Ports without the parity or range asked for: {}; rests cut short: {}",
                self.choices_missed, self.holds_cut
            )?;
        }
        if self.handed_off.len() > 1 {
            writeln!(out, "\nWorkers:")?;
            for (worker, (off, taken)) in self.handed_off.iter().enumerate() {
                writeln!(out, "  worker {worker}: {off} packets handed off, {taken} taken")?;
            }
        }
        if self.pressed > 0 {
            writeln!(
                out,
                "Workers had more packets than they could take: for {}.{} s, all together",
                self.pressed / 10,
                self.pressed % 10
            )?;
        }
        if self.reloads.applied + self.reloads.failed > 0 {
            writeln!(out, "Reloads: {}, failed: {}", self.reloads.applied, self.reloads.failed)?;
        }
        if let Some(error) = &self.reloads.last_error {
            writeln!(out, "  the last that failed: {error}")?;
        }
        writeln!(
            out,
            "\nFor the box itself: {} ARP received, {} pings answered, {} given to the kernel, {} frames \
             made; {} hairpinned",
            self.arp_received, self.echo_answered, self.punted, self.originated, self.hairpinned
        )?;
        for interface in &self.kernel {
            writeln!(out, "{}", interface.sentence())?;
        }
        for sentence in self.links.iter().flat_map(LinkReport::sentences) {
            writeln!(out, "{sentence}")?;
        }
        if let Some(routes) = &self.routes {
            write!(out, "{}", super::routes::sentences(routes))?;
        }
        if self.errors_sent + self.errors_withheld > 0 {
            writeln!(
                out,
                "ICMP errors of the box: {} sent, {} withheld",
                self.errors_sent, self.errors_withheld
            )?;
        }
        for (what, [outbound, inbound]) in
            [("By static mappings", self.statics), ("Bypassed", self.bypassed)]
        {
            if outbound + inbound > 0 {
                writeln!(out, "{what}: {outbound} outbound, {inbound} inbound")?;
            }
        }
        self.ipv6.write_text(out)?;
        if self.fragmented + self.identification_repeats > 0 {
            writeln!(
                out,
                "Packets that left in fragments: {}; identifications that may repeat: {}",
                self.fragmented, self.identification_repeats
            )?;
        }
        if self.arp_conflicts > 0 {
            writeln!(
                out,
                "Conflicts of ARP and Neighbour Discovery: {}; somebody else uses an address of ours or of a neighbour",
                self.arp_conflicts
            )?;
        }
        writeln!(out, "\nDrops by reason: {} in all", self.dropped())?;
        for (reason, count) in self.drops.iter().filter(|(_, count)| *count > 0) {
            writeln!(out, "  {:<24} {count:>12}  {}", reason.name(), reason.sentence())?;
        }
        self.refused.write_text(out, LISTED)?;
        if self.stale_requests > 0 {
            writeln!(out, "Requests of housekeeping refused as stale: {}", self.stale_requests)?;
        }
        if self.tcp_out_of_window > 0 {
            writeln!(
                out,
                "TCP packets out of sequence, translated but not believed: {}",
                self.tcp_out_of_window
            )?;
        }
        if self.algs.is_on {
            let AlgReport { ftp_followed, ftp_replaced, ftp_passed, .. } = self.algs;
            let AlgReport { pptp_followed, pptp_calls, tftp_requests, .. } = self.algs;
            writeln!(
                out,
                "ALGs: {ftp_followed} FTP connections followed, {ftp_replaced} commands replaced, \
                 {ftp_passed} left; {pptp_followed} PPTP connections, {pptp_calls} calls; \
                 {tftp_requests} TFTP requests"
            )?;
        }
        let (came, ended) = self.balance();
        let verdict = if came == ended { "every packet is accounted for" } else { "THEY DIFFER" };
        writeln!(
            out,
            "Balance: {came} received or made, {ended} sent, dropped or consumed: {verdict}"
        )?;
        for output in &self.outputs {
            writeln!(out, "{output}")?;
        }
        Ok(())
    }

    /// The report for programs: stable keys.
    pub fn json(&self) -> Value {
        let ports: Map<String, Value> =
            self.ports.iter().map(|port| (port.name.clone(), port.json())).collect();
        let drops: Map<String, Value> =
            self.drops.iter().map(|(reason, n)| (reason.name().to_owned(), json!(n))).collect();
        let draining: Vec<Value> = self
            .draining
            .iter()
            .map(|(pool, draining)| {
                json!({
                    "pool": pool,
                    "address": draining.address.to_string(),
                    "leaving": draining.is_leaving,
                    "subscribers": draining.subscribers,
                    "blocks": draining.blocks,
                })
            })
            .collect();
        let violations = self
            .drops
            .iter()
            .find(|(reason, _)| *reason == DropReason::OwnershipViolation)
            .map_or(0, |(_, count)| *count);
        let workers: Vec<Value> = self
            .handed_off
            .iter()
            .map(|(off, taken)| json!({ "handed_off": off, "handed_in": taken }))
            .collect();
        let (came, ended) = self.balance();
        let mut document = json!({
            "ports": ports,
            "drops": drops,
            "consumed": {
                "arp": self.arp_received, "nd": self.ipv6.discovered, "echo": self.echo_answered, "kernel": self.punted,
            },
            "kernel": self.kernel.iter().map(KernelReport::json).collect::<Vec<_>>(),
            "links": self.links.iter().map(LinkReport::json).collect::<Vec<_>>(),
            "buffers": self.buffers.iter().map(Buffers::json).collect::<Vec<_>>(),
            "routes": self.routes,
            "arp_conflicts": self.arp_conflicts,
            "originated": self.originated,
            "icmp_errors": {
                "sent": self.errors_sent,
                "withheld": self.errors_withheld,
                "syns_held": self.syns_held,
                "syns_answered": self.syns_answered,
            },
            "hits": self.hits,
            "begun": self.begun,
            "pressed": self.pressed,
            "floods": self.floods,
            "hairpinned": self.hairpinned,
            "static": { "outbound": self.statics[0], "inbound": self.statics[1] },
            "bypassed": { "outbound": self.bypassed[0], "inbound": self.bypassed[1] },
            "ipv6": self.ipv6.json(),
            "fragments": {
                "fragmented": self.fragmented,
                "datagrams": self.fragmented_datagrams,
                "waiting": self.fragments_waiting,
                "identification_repeats": self.identification_repeats,
            },
            "parked": self.parked,
            "balance": { "came": came, "ended": ended },
            "mappings": {
                "active": self.mappings.iter().sum::<u64>(),
                "tcp": self.mappings[0],
                "udp": self.mappings[1],
                "icmp": self.mappings[2],
                "created": self.mappings_created,
            },
            "sessions": {
                "active": self.sessions,
                "tcp_out_of_window": self.tcp_out_of_window,
            },
            "associations": { "active": self.associations },
            "subscribers": { "active": self.subscribers },
            "blocks": {
                "total": self.blocks_total,
                "in_use": self.blocks_in_use,
                "allocated": self.blocks_allocated,
                "released": self.blocks_released,
            },
            "alg": {
                "ftp": {
                    "followed": self.algs.ftp_followed,
                    "unfollowed": self.algs.ftp_unfollowed,
                    "ended": self.algs.ftp_ended,
                    "replaced": self.algs.ftp_replaced,
                    "passed": self.algs.ftp_passed,
                },
                "pptp": {
                    "followed": self.algs.pptp_followed,
                    "unfollowed": self.algs.pptp_unfollowed,
                    "ended": self.algs.pptp_ended,
                    "calls": self.algs.pptp_calls,
                    "passed": self.algs.pptp_passed,
                },
                "tftp": { "requests": self.algs.tftp_requests },
            },
            "spilled": self.spilled.iter().map(|(pool, n)| (pool.clone(), json!(n))).collect::<Map<_, _>>(),
            "port_choice": { "missed": self.choices_missed, "holds_cut": self.holds_cut },
            "ownership": { "violations": violations, "stale_requests": self.stale_requests },
            "refusals": self.refused.json(),
            "draining": draining,
            "reloads": {
                "applied": self.reloads.applied,
                "failed": self.reloads.failed,
                "last_error": self.reloads.last_error,
            },
            "workers": workers,
        });
        if let Some(steering) = &self.steering {
            document["steering"] = steering.json();
        }
        if let Some(stopped) = &self.stopped {
            document["mappings"]["list"] = stopped.mappings_json();
            document["blocks"]["list"] = stopped.blocks_json();
            document["ports_census"] = stopped.census_json();
        }
        document
    }
}

impl Stopped {
    fn mappings_json(&self) -> Value {
        let one = |mapping: &ListedMapping| {
            let mut value = json!({
                "protocol": mapping.protocol.to_string(),
                "internal": mapping.internal.to_string(),
                "external": mapping.external.to_string(),
            });
            if let Some(remote) = mapping.only_with {
                value["only_with"] = json!(remote.to_string());
            }
            value
        };
        self.mappings.iter().take(LISTED_JSON).map(one).collect()
    }

    fn blocks_json(&self) -> Value {
        let one = |(internal, external, first, last): &(Ipv4Addr, Ipv4Addr, u16, u16)| {
            json!({
                "subscriber": internal.to_string(),
                "external": external.to_string(),
                "first_port": first,
                "last_port": last,
            })
        };
        self.blocks.iter().take(LISTED_JSON).map(one).collect()
    }

    fn census_json(&self) -> Value {
        json!({
            "free": self.census.free,
            "used": self.census.used,
            "resting": self.census.resting,
            "total": self.census.total(),
        })
    }
}

fn more(out: &mut String, all: usize) -> std::fmt::Result {
    if all > LISTED {
        writeln!(out, "  ... and {} more (all with --stats-file)", all - LISTED)?;
    }
    Ok(())
}
