//! The executable specification: a naive NAT with ordered maps.
//!
//! It knows no records, hashes, checksum deltas or wrapping clocks. What a NAT may choose
//! (address of a new subscriber, block, port) it adopts from the core after checking that
//! the choice was legal; what the core refuses it checks to be unavailable. Expiry happens
//! at the deadline; a port begins to rest when its owner notices: at the next outbound
//! packet of the same internal endpoint, or when housekeeping runs.

use std::collections::{BTreeMap, BTreeSet};

use cgnat_core::verdict::DropReason::{self, *};

use super::associations::{Association, Flow};
use super::create::{Choice, Selection};
use super::events::{EXTERNAL, INTERNAL};
use super::exceptions::{Bypass, Static};
use super::ftp::{Control, Counts};
use super::limits::{Bucket, Limits};
use super::mapping::Mapping;
use super::overloading::Named;
use super::pptp::{PPTP, Tunnel, TunnelCounts};
use super::ranges::Own;
use super::realms::Ways;
use super::sessions::State;
use super::wire::{Body, ICMP, Packet, Protocol, TCP, UDP, ip};

pub use super::sessions::Filtering;

/// Tenths of a second, without wrap-around.
pub type Ticks = u64;
/// X:x or X':x' of a protocol.
pub type Endpoint = (Protocol, u32, u16);
/// What a mapping is found by: X:x of a protocol, where a port is shared Y:y too, and the realm
/// in its group.
pub type Key = (Protocol, u32, u16, Option<(u32, u16)>, usize);
/// External address and first port.
pub type Block = (u32, u16);

#[derive(Debug, Clone)]
pub struct Pool {
    /// All that are ours, those below among them.
    pub addresses: BTreeSet<u32>,
    /// Nobody new is paired with them, and no block of them is given.
    pub draining: BTreeSet<u32>,
    /// As those, and they have left the file.
    pub leaving: BTreeSet<u32>,
    pub ports: (u16, u16),
    pub block_size: u16,
    pub max_blocks: usize,
    pub hold_s: u64,
    /// Of TCP, UDP and ICMP.
    pub filtering: [Filtering; 3],
    /// Destination ports towards which ports are shared.
    pub overloading: Named,
    /// Subscribers have ranges of their own; the blocks above are overflow.
    pub own: Option<Own>,
    pub choice: Choice,
    pub exclude_ports: BTreeSet<u16>,
    /// Ports of one subscriber and protocol that rest.
    pub max_held: usize,
    pub hold_closed_tcp: bool,
    pub selection: Selection,
    /// Subscribers of one address.
    pub max_subscribers: usize,
}

/// The configuration as the specification understands it.
#[derive(Debug, Clone)]
pub struct Rules {
    pub pools: Vec<Pool>,
    /// First and last address, pool; the first that matches wins.
    pub groups: Vec<(u32, u32, usize)>,
    /// By group; those that are missing have none.
    pub limits: Vec<Limits>,
    /// By group, as limits: further pools, and pools by destination.
    pub ways: Vec<Ways>,
    /// The box's own addresses, internal and external, each in a /30.
    pub own: [u32; 2],
    pub hairpinning: bool,
    pub statics: Vec<Static>,
    pub bypass: Vec<Bypass>,
    pub inbound_refresh: bool,
    pub mtu_internal: usize,
    pub mtu_external: usize,
    pub opening_s: u64,
    pub established_s: u64,
    pub closing_s: u64,
    pub reset_s: u64,
    pub udp_s: u64,
    pub udp_by_port_s: BTreeMap<u16, u64>,
    pub icmp_s: u64,
    /// Protocols without ports that are carried.
    pub carried: BTreeSet<Protocol>,
    pub other_s: u64,
    /// How long a datagram in fragments has.
    pub fragments_s: u64,
    /// Control connections of FTP are followed.
    pub ftp: bool,
    /// Control connections of PPTP are followed, and GRE goes by its calls.
    pub pptp: bool,
    /// Answers to requests of TFTP are let in.
    pub tftp: bool,
    /// Records of one worker.
    pub mappings: usize,
    pub further_sessions: usize,
    pub associations: usize,
    pub controls: usize,
    pub tunnels: usize,
    /// Identifications are divided among them by their remainder.
    pub workers: u16,
}

impl Rules {
    pub fn tcp_s(&self, state: State) -> u64 {
        match state {
            State::Opening | State::Answered => self.opening_s,
            State::Established | State::OneFin { .. } => self.established_s,
            State::Closing => self.closing_s,
            State::Reset => self.reset_s,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Subscriber {
    pub address: u32,
    pub blocks: BTreeSet<Block>,
}

/// What the core did, where the specification must know.
#[derive(Clone)]
pub struct Seen {
    pub reason: Option<DropReason>,
    /// External endpoint that the core chose, if it made a mapping for this packet.
    pub choice: Option<(u32, u16)>,
    /// A block that the core gave the subscriber.
    pub block: Option<Block>,
    /// Worker that owns the subscriber.
    pub worker: u16,
    /// Whether this worker may believe that the others have no block (of this address).
    pub scarce: bool,
    /// The same of all addresses of each pool.
    pub scarce_pools: Vec<bool>,
    /// There is one worker, which has every block that nobody holds.
    pub sole: bool,
    /// The same of the endpoint that a command in the packet names.
    pub named: Option<Box<Seen>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    External(Packet),
    Internal(Packet),
    Drop(DropReason),
    /// Several reasons are right.
    DropEither(DropReason, DropReason),
}

pub struct Nat {
    pub rules: Rules,
    pub mappings: BTreeMap<Key, Mapping>,
    pub external: BTreeMap<Endpoint, BTreeSet<Key>>,
    /// Ports that a flow has left other than by FIN from both sides, while others share them.
    unclosed: BTreeSet<Endpoint>,
    pub resting: BTreeMap<Endpoint, Ticks>,
    /// By internal address and realm.
    pub subscribers: BTreeMap<(u32, usize), Subscriber>,
    /// Of each internal address that has state.
    pub buckets: BTreeMap<u32, Bucket>,
    pub blocks: BTreeMap<Block, u32>,
    pub holds: BTreeMap<Flow, Association>,
    pub claims: BTreeMap<Flow, Association>,
    /// By mapping and server.
    pub controls: BTreeMap<(Key, u32), Control>,
    pub ftp: Counts,
    /// Control connections of PPTP, likewise.
    pub tunnels: BTreeMap<(Key, u32), Tunnel>,
    pub pptp: TunnelCounts,
    /// Calls that were made, and GRE of them that passed.
    pub calls: u64,
    pub tunnelled: u64,
    /// Of TFTP.
    pub requests: u64,
    /// Sessions of strangers whose mapping has ended: worker and deadline.
    pub(super) orphans: Vec<(u16, Ticks)>,
    pub out_of_window: u64,
    /// Flows that shared a port.
    pub shared: u64,
    /// Ranges of subscribers of deterministic pools, by pool.
    pub own: BTreeMap<(u32, usize), Block>,
    /// The address of each pool that had the last turn.
    pub turns: BTreeMap<usize, u32>,
}

pub fn after(now: Ticks, seconds: u64) -> Ticks {
    now + seconds * 10 + 1
}

impl Nat {
    pub fn new(rules: Rules) -> Self {
        let mut nat = Self {
            rules,
            own: BTreeMap::new(),
            mappings: BTreeMap::new(),
            external: BTreeMap::new(),
            unclosed: BTreeSet::new(),
            resting: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            buckets: BTreeMap::new(),
            blocks: BTreeMap::new(),
            holds: BTreeMap::new(),
            claims: BTreeMap::new(),
            controls: BTreeMap::new(),
            ftp: Counts::default(),
            tunnels: BTreeMap::new(),
            pptp: TunnelCounts::default(),
            calls: 0,
            tunnelled: 0,
            requests: 0,
            orphans: Vec::new(),
            out_of_window: 0,
            shared: 0,
            turns: BTreeMap::new(),
        };
        nat.assign();
        nat
    }

    pub fn pool_with(&self, address: u32) -> Option<&Pool> {
        self.rules.pools.iter().find(|pool| pool.addresses.contains(&address))
    }

    /// Belongs to the internal side: a subscriber range, the port's prefix, RFC 6598, RFC 3927.
    pub fn is_inside(&self, address: u32) -> bool {
        let prefixes = [(self.rules.own[0], 30), (ip("100.64.0.0"), 10), (ip("169.254.0.0"), 16)];
        let ranges = &self.rules.groups;
        ranges.iter().any(|(first, last, _)| (*first..=*last).contains(&address))
            || prefixes.iter().any(|(net, length)| (address ^ net) >> (32 - length) == 0)
    }

    /// The first group with an address, and its limits.
    pub fn group_of(&self, address: u32) -> Option<(usize, Limits)> {
        let has = |(first, last, _): &(u32, u32, usize)| (*first..=*last).contains(&address);
        let number = self.rules.groups.iter().position(has)?;
        Some((number, self.rules.limits.get(number).cloned().unwrap_or_default()))
    }

    /// Ports of a subscriber by protocol; a shared one counts once.
    pub fn ports_of(&self, address: u32) -> BTreeMap<Protocol, usize> {
        let mut count = BTreeMap::new();
        let mappings = self.mappings_from(address);
        for port in mappings.map(|(_, mapping)| mapping.external).collect::<BTreeSet<_>>() {
            *count.entry(port.0).or_default() += 1;
        }
        count
    }

    fn mappings_from(&self, address: u32) -> impl Iterator<Item = (&Key, &Mapping)> {
        let of = move |protocol| {
            let from = self.mappings.range((protocol, address, 0, None, 0)..);
            from.take_while(move |(key, _)| (key.0, key.1) == (protocol, address))
        };
        [TCP, UDP, ICMP].into_iter().flat_map(of)
    }

    /// Sessions of a subscriber, opened inside, those of them with `remote`, and opened outside; a
    /// mapping that has none is one, with whom its first packet went to.
    fn sessions_of(&self, address: u32, remote: u32) -> (usize, usize, usize) {
        let mut outside = 0;
        let mut inside: Vec<u32> = self.holds_of(address).map(|flow| flow.2).collect();
        for (_, mapping) in self.mappings_from(address) {
            if !mapping.has_sessions() {
                inside.push(mapping.to);
            }
            let first = mapping.first.iter().map(|(with, session)| (with, session));
            for (with, session) in first.chain(&mapping.further) {
                if session.opened_inside {
                    inside.push(with.0);
                } else {
                    outside += 1;
                }
            }
        }
        (inside.len(), inside.iter().filter(|with| **with == remote).count(), outside)
    }

    /// Whether a subscriber that is known may have one more session with `remote`.
    pub fn admit_session(
        &self,
        address: u32,
        remote: u32,
        inside: bool,
        now: Ticks,
    ) -> Result<(), DropReason> {
        let (Some((_, limits)), Some(bucket)) =
            (self.group_of(address), self.buckets.get(&address))
        else {
            return Ok(());
        };
        limits.admit_session(self.sessions_of(address, remote), bucket, inside, now)
    }

    /// A session begins that the subscriber opened.
    pub fn spend(&mut self, address: u32, now: Ticks) {
        if let Some((_, limits)) = self.group_of(address)
            && let Some(bucket) = self.buckets.get_mut(&address)
        {
            bucket.spend(&limits, now);
        }
    }

    /// An address of a pool or of a static mapping.
    pub fn is_external(&self, address: u32) -> bool {
        self.pool_with(address).is_some() || self.is_static_address(address)
    }

    pub fn is_own(&self, address: u32) -> bool {
        self.rules.own.contains(&address)
    }

    /// The block that an external endpoint lies in.
    pub fn block_of(&self, address: u32, port: u16) -> Option<Block> {
        let (first, _) = self.pool_with(address)?.piece(port)?;
        Some((address, first))
    }

    /// A well-formed packet from the internal side.
    pub fn outbound(
        &mut self,
        packet: &Packet,
        now: Ticks,
        seen: &Seen,
    ) -> Result<Outcome, String> {
        if packet.source == packet.destination {
            return Ok(Outcome::Drop(SourceMartian));
        }
        if let Some(outcome) = self.bypass(packet, true) {
            return Ok(outcome);
        }
        let inside = self.is_inside(packet.destination);
        if !inside && let Some(outcome) = self.statically_outbound(packet, now) {
            return Ok(outcome);
        }
        if self.is_unsupported(packet) {
            return Ok(Outcome::Drop(ProtocolUnsupported));
        }
        if inside {
            return Ok(Outcome::Drop(DestinationInside));
        }
        if packet.ttl <= 1 {
            return Ok(Outcome::Drop(TtlExpired));
        }
        let hairpin = self.is_external(packet.destination);
        if hairpin && !self.rules.hairpinning {
            return Ok(Outcome::Drop(HairpinDisabled));
        }
        if let Body::Error { about, .. } = &packet.body {
            let internal = (about.protocol(), about.destination, about.to().1);
            let key = self.key_with(internal, about.from(), now);
            let mapping = self.mappings.get(&key).filter(|mapping| !mapping.is_expired(now));
            let external = match about.body {
                Body::Call { id } => self.called_from(about, id, now),
                Body::Bare { .. } => self.held(about, now).map(|address| (address, 0)),
                _ => mapping.map(|mapping| (mapping.external.1, mapping.external.2)),
            };
            let Some((address, port)) = external else {
                return Ok(Outcome::Drop(IcmpNoMapping));
            };
            let arrived = packet;
            let mut packet = arrived.clone();
            packet.set_source((address, port));
            self.show_sender(arrived, &mut packet);
            packet.hide_route(address);
            if let Body::Error { about, .. } = &mut packet.body {
                about.hide_route(address);
            }
            packet.ttl -= 1;
            if hairpin {
                return Ok(self.inward(&packet, true, now));
            }
            return Ok(self.leaves(packet, EXTERNAL));
        }
        let pinged = (packet.protocol(), packet.destination, packet.to().1);
        if hairpin && packet.protocol() == ICMP && self.static_internal(pinged).is_none() {
            return Ok(Outcome::Drop(IcmpNoQuery));
        }
        let remote = packet.to();
        let key = self.key_of(packet, now);
        let groups = &self.rules.groups;
        let is_subscriber = groups.iter().any(|(first, last, _)| (*first..=*last).contains(&key.1));
        if !hairpin && is_subscriber && packet.df && packet.len() > self.rules.mtu_external {
            return Ok(Outcome::Drop(TooBig));
        }
        if let Body::Call { id } = packet.body {
            return Ok(self.outbound_call(packet, id, now));
        }
        if let Body::Bare { .. } = packet.body {
            return self.outbound_bare(packet, now, seen);
        }
        // What it meets and finds ended, it ends: first the flow, and behind a live one nothing.
        for met in [Some(remote), None].map(|with| (key.0, key.1, key.2, with, key.4)) {
            let is_met = met.3.is_some() || met == key || !self.mappings.contains_key(&key);
            let mapping = self.mappings.get(&met);
            if is_met && mapping.is_some_and(|mapping| mapping.is_expired(now)) {
                self.end(met, now);
            }
        }
        let is_new = !self.mappings.contains_key(&key);
        if is_new && let Err(reason) = self.create(key, packet, now, seen)? {
            return Ok(Outcome::Drop(reason));
        }
        if let Err(reason) = self.note(key, remote, packet, true, now) {
            if is_new {
                self.end(key, now);
            }
            return Ok(Outcome::Drop(reason));
        }
        if is_new && !self.mappings[&key].has_sessions() {
            self.spend(key.1, now);
        }
        let mut packet = packet.clone();
        let ftp = self.ftp_outbound(key, &mut packet, now, seen.named.as_deref())?;
        if let Some(outcome) = ftp {
            return Ok(outcome);
        }
        self.tftp_outbound(key, &packet, now);
        if let Err(reason) = self.tunnel_says(0, key, &mut packet) {
            return Ok(Outcome::Drop(reason));
        }
        let external = self.mappings[&key].external;
        packet.set_source((external.1, external.2));
        packet.hide_route(external.1);
        packet.ttl -= 1;
        if hairpin {
            return Ok(self.inward(&packet, true, now));
        }
        Ok(self.leaves(packet, EXTERNAL))
    }

    /// A well-formed packet from the external side.
    pub fn inbound(&mut self, packet: &Packet, now: Ticks) -> Outcome {
        if packet.source == packet.destination {
            return Outcome::Drop(SourceMartian);
        }
        if let Some(outcome) = self.bypass(packet, false) {
            return outcome;
        }
        let source = packet.source;
        if self.is_external(source) || self.is_inside(source) || self.is_own(source) {
            return Outcome::Drop(SourceSpoofed);
        }
        if self.is_unsupported(packet) && self.statically_inward(packet, false).is_none() {
            return Outcome::Drop(ProtocolUnsupported);
        }
        self.inward(packet, false, now)
    }

    pub fn inward(&mut self, packet: &Packet, hairpinned: bool, now: Ticks) -> Outcome {
        if let Some(outcome) = self.statically_inward(packet, hairpinned) {
            return outcome;
        }
        match &packet.body {
            Body::Call { id } => return self.inward_call(packet, *id, hairpinned, now),
            Body::Error { about, .. } => {
                if let Body::Call { id } = about.body {
                    return self.inward_about_call(packet, about, id, hairpinned, now);
                }
            }
            _ => {}
        }
        let (external, remote, no_mapping, filtered) = match &packet.body {
            Body::Error { about, .. } => {
                let external = (about.protocol(), about.source, about.from().1);
                (external, about.destination, IcmpNoMapping, IcmpNoMapping)
            }
            _ => {
                let external = (packet.protocol(), packet.destination, packet.to().1);
                (external, packet.source, NoMapping, Filtered)
            }
        };
        if !matches!(external.0, TCP | UDP | ICMP) {
            return self.inward_bare(packet, hairpinned, now);
        }
        let Some(block) = self.block_of(external.1, external.2) else {
            let known = self.is_external(external.1);
            return Outcome::Drop(if known { PortNotLent } else { DestinationUnknown });
        };
        let early = match packet.body {
            _ if packet.ttl <= 1 && !hairpinned => Some(TtlExpired),
            _ if packet.is_query(true) => Some(IcmpNoQuery),
            _ => None,
        };
        if let Some(reason) = early {
            // A block that no worker holds is refused before anybody looks at the packet.
            return match self.blocks.contains_key(&block) {
                true => Outcome::Drop(reason),
                false => Outcome::DropEither(reason, NoMapping),
            };
        }
        let key = match self.reached(external, remote) {
            Ok(key) => key,
            Err(true) => return Outcome::Drop(filtered),
            Err(false) if self.blocks.contains_key(&block) => return Outcome::Drop(no_mapping),
            Err(false) => return Outcome::DropEither(no_mapping, NoMapping),
        };
        if self.mappings[&key].is_expired(now) {
            return Outcome::Drop(no_mapping);
        }
        if packet.df && packet.len() > self.rules.mtu_internal {
            return Outcome::Drop(TooBig);
        }
        let is_error = matches!(packet.body, Body::Error { .. });
        if !is_error && self.realm(key.1, key.0, packet.from()) != key.4 {
            return Outcome::Drop(Filtered);
        }
        let mut packet = packet.clone();
        let arriving = self.ftp_inbound(key, &mut packet, now);
        let was_opening = self.is_tunnel_opening(key, &packet, now);
        if !is_error && let Err(reason) = self.note(key, packet.from(), &packet, false, now) {
            return Outcome::Drop(reason);
        }
        self.ftp_answered(key, &packet, arriving);
        if self.rules.pptp && packet.from().1 == PPTP {
            self.tunnel_opens(key, &packet, was_opening);
            if let Err(reason) = self.tunnel_says(1, key, &mut packet) {
                return Outcome::Drop(reason);
            }
        }
        packet.set_destination((key.1, key.2));
        packet.ttl -= u8::from(!hairpinned);
        self.leaves(packet, INTERNAL)
    }

    /// A translated packet leaves a port, which records itself, if it may be fragmented or
    /// need not be.
    pub fn leaves(&self, mut packet: Packet, port: usize) -> Outcome {
        packet.record_route(self.rules.own[port]);
        let mtu = [self.rules.mtu_internal, self.rules.mtu_external][port];
        match port {
            _ if packet.df && packet.len() > mtu => Outcome::Drop(TooBig),
            INTERNAL => Outcome::Internal(packet),
            _ => Outcome::External(packet),
        }
    }

    /// The owner notices that a mapping has ended: its port rests.
    pub fn end(&mut self, key: Key, now: Ticks) {
        let Some(mut mapping) = self.mappings.remove(&key) else { return };
        self.mind_controls();
        self.mind_tunnels();
        let orphans = mapping.further.values().map(|session| (mapping.worker, session.deadline));
        self.orphans.extend(orphans);
        mapping.forget(true, |_, _| true);
        if mapping.unclosed {
            self.unclosed.insert(mapping.external);
        }
        let Some(keys) = self.external.get_mut(&mapping.external) else { return };
        keys.remove(&key);
        if !keys.is_empty() {
            return;
        }
        self.external.remove(&mapping.external);
        let unclosed = self.unclosed.remove(&mapping.external);
        let Some(pool) = self.pool_with(mapping.external.1) else { return };
        let closed = key.0 == TCP && !unclosed && !pool.hold_closed_tcp;
        let hold_s = match &pool.own {
            Some(own) if pool.is_range(mapping.external.2) => own.hold_s,
            _ => pool.hold_s,
        };
        let (due, most) = (after(now, hold_s), pool.max_held);
        if hold_s == 0 || closed {
            return;
        }
        self.resting.insert(mapping.external, due);
        if self.resting.len() <= most {
            return;
        }
        // Of those that rest, the one that is due first is free early.
        let blocks = &self.subscribers[&(key.1, key.4)].blocks;
        let mut held: Vec<(Ticks, Endpoint)> = Vec::new();
        for (endpoint, due) in &self.resting {
            let block = self.block_of(endpoint.1, endpoint.2);
            if endpoint.0 == key.0 && *due > now && block.is_some_and(|b| blocks.contains(&b)) {
                held.push((*due, *endpoint));
            }
        }
        if held.len() > most
            && let Some((_, first)) = held.into_iter().min()
        {
            self.resting.remove(&first);
        }
    }

    /// Housekeeping has run and the owners have acted.
    pub fn housekeeping(&mut self, now: Ticks, core: &[(u32, Block)]) {
        for mapping in self.mappings.values_mut() {
            mapping.forget(true, |_, session| now >= session.deadline);
            mapping.forget(false, |_, session| now >= session.deadline);
        }
        self.orphans.retain(|(_, deadline)| now < *deadline);
        let ended: Vec<Key> =
            self.mappings.iter().filter(|(_, m)| m.is_expired(now)).map(|(key, _)| *key).collect();
        for key in ended {
            self.end(key, now);
        }
        self.mind_controls();
        self.mind_tunnels();
        self.end_associations(now);
        self.resting.retain(|_, due| now < *due);
        let mut busy: BTreeSet<Block> = self
            .external
            .keys()
            .chain(self.resting.keys())
            .filter_map(|(_, address, port)| self.block_of(*address, *port))
            .collect();
        busy.extend(self.pairing_blocks(&busy, core));
        self.blocks.retain(|block, _| busy.contains(block));
        for subscriber in self.subscribers.values_mut() {
            subscriber.blocks.retain(|block| busy.contains(block));
        }
        self.subscribers.retain(|_, subscriber| !subscriber.blocks.is_empty());
        let left: BTreeSet<u32> = self.subscribers.keys().map(|(address, _)| *address).collect();
        self.buckets.retain(|address, _| left.contains(address));
    }
}
