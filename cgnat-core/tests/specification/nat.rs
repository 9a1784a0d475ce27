//! The executable specification: a naive NAT with ordered maps.
//!
//! It knows no records, hashes, checksum deltas or wrapping clocks. What a NAT may choose
//! (address of a new subscriber, block, port) it adopts from the core after checking that
//! the choice was legal; what the core refuses it checks to be unavailable. Expiry happens
//! at the deadline; a port begins to rest when its owner notices: at the next outbound
//! packet of the same internal endpoint, or when housekeeping runs.
//!
//! One thing of the core's making is repeated here on purpose: a TCP mapping carries its
//! first session inside, and the others are records of their own that keep the mapping until
//! their owner has ended them.

use std::collections::{BTreeMap, BTreeSet};

use cgnat_core::verdict::DropReason::{self, *};

use super::events::{EXTERNAL, INTERNAL};
use super::limits::{Bucket, Limits};
use super::ranges::Own;
use super::sessions::{Filtering, Session, State};
use super::wire::{Body, ICMP, Packet, Protocol, TCP, UDP, ip};

/// Tenths of a second, without wrap-around.
pub type Ticks = u64;
/// X:x or X':x' of a protocol.
pub type Endpoint = (Protocol, u32, u16);
/// External address and first port.
pub type Block = (u32, u16);

#[derive(Debug, Clone)]
pub struct Pool {
    pub addresses: BTreeSet<u32>,
    pub ports: (u16, u16),
    pub block_size: u16,
    pub max_blocks: usize,
    pub hold_s: u64,
    /// Of TCP, UDP and ICMP.
    pub filtering: [Filtering; 3],
    /// Subscribers have ranges of their own; the blocks above are overflow.
    pub own: Option<Own>,
}

/// The configuration as the specification understands it.
#[derive(Debug, Clone)]
pub struct Rules {
    pub pools: Vec<Pool>,
    /// First and last address, pool; the first that matches wins.
    pub groups: Vec<(u32, u32, usize)>,
    /// By group; those that are missing have none.
    pub limits: Vec<Limits>,
    /// The box's own addresses, internal and external, each in a /30.
    pub own: [u32; 2],
    pub hairpinning: bool,
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
    /// Records of one worker.
    pub mappings: usize,
    pub further_sessions: usize,
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
pub struct Mapping {
    pub external: Endpoint,
    pub worker: u16,
    filtering: Filtering,
    deadline: Ticks,
    first: Option<((u32, u16), Session)>,
    further: BTreeMap<(u32, u16), Session>,
}

#[derive(Debug, Clone)]
pub struct Subscriber {
    pub address: u32,
    pub blocks: BTreeSet<Block>,
    bucket: Bucket,
}

/// What the core did, where the specification must know.
pub struct Seen {
    pub reason: Option<DropReason>,
    /// External endpoint that the core chose, if it made a mapping for this packet.
    pub choice: Option<(u32, u16)>,
    /// Worker that owns the subscriber.
    pub worker: u16,
    /// Whether this worker may believe that the others have no block (of this address).
    pub scarce: bool,
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
    pub mappings: BTreeMap<Endpoint, Mapping>,
    pub external: BTreeMap<Endpoint, Endpoint>,
    pub resting: BTreeMap<Endpoint, Ticks>,
    pub subscribers: BTreeMap<u32, Subscriber>,
    pub blocks: BTreeMap<Block, u32>,
    /// Sessions of strangers whose mapping has ended: worker and deadline.
    orphans: Vec<(u16, Ticks)>,
    pub out_of_window: u64,
    /// Ranges of subscribers of deterministic pools.
    pub own: BTreeMap<u32, Block>,
}

pub fn after(now: Ticks, seconds: u64) -> Ticks {
    now + seconds * 10 + 1
}

impl Mapping {
    pub fn is_expired(&self, now: Ticks) -> bool {
        if !self.has_sessions() {
            return now >= self.deadline;
        }
        !self.further.values().any(|session| session.holds)
            && self.first.is_none_or(|(_, session)| now >= session.deadline)
    }

    fn has_sessions(&self) -> bool {
        self.external.0 == TCP || self.filtering != Filtering::Anybody
    }

    /// Records outside the mapping: further sessions, and a permission for each address.
    fn records(&self) -> usize {
        let sessions = self.first.iter().map(|(remote, session)| (remote, session));
        let permitted: BTreeSet<u32> = sessions
            .chain(&self.further)
            .filter(|(_, session)| session.permits)
            .map(|(remote, _)| remote.0)
            .collect();
        self.further.len() + permitted.len()
    }

    fn is_permitted(&self, remote: (u32, u16)) -> bool {
        let sessions = self.first.iter().map(|(remote, session)| (remote, session));
        match self.filtering {
            Filtering::Anybody => true,
            Filtering::Address => {
                sessions.chain(&self.further).any(|(with, s)| s.permits && with.0 == remote.0)
            }
            Filtering::AddressAndPort => false,
        }
    }

    /// Remote endpoints of its sessions.
    pub fn remotes(&self) -> impl Iterator<Item = (u32, u16)> {
        self.first.iter().map(|(remote, _)| *remote).chain(self.further.keys().copied())
    }
}

impl Nat {
    pub fn new(rules: Rules) -> Self {
        let mut nat = Self {
            rules,
            own: BTreeMap::new(),
            mappings: BTreeMap::new(),
            external: BTreeMap::new(),
            resting: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            blocks: BTreeMap::new(),
            orphans: Vec::new(),
            out_of_window: 0,
        };
        nat.assign();
        nat
    }

    fn pool_with(&self, address: u32) -> Option<&Pool> {
        self.rules.pools.iter().find(|pool| pool.addresses.contains(&address))
    }

    /// Belongs to the internal side: a subscriber range, the port's prefix, RFC 6598, RFC 3927.
    fn is_inside(&self, address: u32) -> bool {
        let prefixes = [(self.rules.own[0], 30), (ip("100.64.0.0"), 10), (ip("169.254.0.0"), 16)];
        let ranges = &self.rules.groups;
        ranges.iter().any(|(first, last, _)| (*first..=*last).contains(&address))
            || prefixes.iter().any(|(net, length)| (address ^ net) >> (32 - length) == 0)
    }

    /// The first group with an address, and its limits.
    fn group_of(&self, address: u32) -> Option<(usize, Limits)> {
        let has = |(first, last, _): &(u32, u32, usize)| (*first..=*last).contains(&address);
        let number = self.rules.groups.iter().position(has)?;
        Some((number, self.rules.limits.get(number).cloned().unwrap_or_default()))
    }

    /// Mappings of a subscriber by protocol.
    fn mappings_of(&self, address: u32) -> BTreeMap<Protocol, usize> {
        let mut count = BTreeMap::new();
        for (protocol, _, _) in self.mappings.keys().filter(|key| key.1 == address) {
            *count.entry(*protocol).or_default() += 1;
        }
        count
    }

    /// Sessions of a subscriber, opened inside and outside; a mapping that has none is one.
    fn sessions_of(&self, address: u32) -> (usize, usize) {
        let (mut inside, mut outside) = (0, 0);
        for (_, mapping) in self.mappings.iter().filter(|(key, _)| key.1 == address) {
            inside += usize::from(!mapping.has_sessions());
            let first = mapping.first.iter().map(|(_, session)| session);
            for session in first.chain(mapping.further.values()) {
                *if session.opened_inside { &mut inside } else { &mut outside } += 1;
            }
        }
        (inside, outside)
    }

    /// Whether a subscriber that is known may have one more session.
    fn admit_session(&self, address: u32, inside: bool, now: Ticks) -> Result<(), DropReason> {
        let (Some((_, limits)), Some(held)) =
            (self.group_of(address), self.subscribers.get(&address))
        else {
            return Ok(());
        };
        limits.admit_session(self.sessions_of(address), &held.bucket, inside, now)
    }

    /// A session begins that the subscriber opened.
    fn spend(&mut self, address: u32, now: Ticks) {
        if let Some((_, limits)) = self.group_of(address)
            && let Some(held) = self.subscribers.get_mut(&address)
        {
            held.bucket.spend(&limits, now);
        }
    }

    fn is_own(&self, address: u32) -> bool {
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
        if self.is_inside(packet.destination) {
            return Ok(Outcome::Drop(DestinationInside));
        }
        if packet.ttl <= 1 {
            return Ok(Outcome::Drop(TtlExpired));
        }
        let hairpin = self.pool_with(packet.destination).is_some();
        if hairpin && !self.rules.hairpinning {
            return Ok(Outcome::Drop(HairpinDisabled));
        }
        if let Body::Error { about, .. } = &packet.body {
            let key = (about.protocol(), about.destination, about.to().1);
            let mapping = self.mappings.get(&key).filter(|mapping| !mapping.is_expired(now));
            let Some((_, address, port)) = mapping.map(|mapping| mapping.external) else {
                return Ok(Outcome::Drop(IcmpNoMapping));
            };
            let mut packet = packet.clone();
            packet.set_source((address, port));
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
        if hairpin && packet.protocol() == ICMP {
            return Ok(Outcome::Drop(IcmpNoQuery));
        }
        let key = (packet.protocol(), packet.source, packet.from().1);
        let remote = packet.to();
        let groups = &self.rules.groups;
        let is_subscriber = groups.iter().any(|(first, last, _)| (*first..=*last).contains(&key.1));
        if !hairpin && is_subscriber && packet.df && packet.len() > self.rules.mtu_external {
            return Ok(Outcome::Drop(TooBig));
        }
        if self.mappings.get(&key).is_some_and(|mapping| mapping.is_expired(now)) {
            self.end(key, now);
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
        let source = packet.source;
        if self.pool_with(source).is_some() || self.is_inside(source) || self.is_own(source) {
            return Outcome::Drop(SourceSpoofed);
        }
        self.inward(packet, false, now)
    }

    fn inward(&mut self, packet: &Packet, hairpinned: bool, now: Ticks) -> Outcome {
        let (external, no_mapping) = match &packet.body {
            Body::Error { about, .. } => {
                ((about.protocol(), about.source, about.from().1), IcmpNoMapping)
            }
            _ => ((packet.protocol(), packet.destination, packet.to().1), NoMapping),
        };
        let Some(block) = self.block_of(external.1, external.2) else {
            let known = self.pool_with(external.1).is_some();
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
        let Some(key) = self.external.get(&external).copied() else {
            return match self.blocks.contains_key(&block) {
                true => Outcome::Drop(no_mapping),
                false => Outcome::DropEither(no_mapping, NoMapping),
            };
        };
        if self.mappings[&key].is_expired(now) {
            return Outcome::Drop(no_mapping);
        }
        if packet.df && packet.len() > self.rules.mtu_internal {
            return Outcome::Drop(TooBig);
        }
        let is_error = matches!(packet.body, Body::Error { .. });
        if !is_error && let Err(reason) = self.note(key, packet.from(), packet, false, now) {
            return Outcome::Drop(reason);
        }
        let mut packet = packet.clone();
        packet.set_destination((key.1, key.2));
        packet.ttl -= u8::from(!hairpinned);
        self.leaves(packet, INTERNAL)
    }

    /// A translated packet leaves a port, which records itself, if it may be fragmented or
    /// need not be.
    fn leaves(&self, mut packet: Packet, port: usize) -> Outcome {
        packet.record_route(self.rules.own[port]);
        let mtu = [self.rules.mtu_internal, self.rules.mtu_external][port];
        match port {
            _ if packet.df && packet.len() > mtu => Outcome::Drop(TooBig),
            INTERNAL => Outcome::Internal(packet),
            _ => Outcome::External(packet),
        }
    }

    /// What a packet does to its mapping and to the session that it belongs to.
    fn note(
        &mut self,
        key: Endpoint,
        remote: (u32, u16),
        packet: &Packet,
        inside: bool,
        now: Ticks,
    ) -> Result<(), DropReason> {
        let rules = &self.rules;
        let mapping = &self.mappings[&key];
        let segment = packet.segment();
        let timeout_s = match key.0 {
            UDP => rules.udp_by_port_s.get(&remote.1).copied().unwrap_or(rules.udp_s),
            _ => rules.icmp_s,
        };
        let refreshes = inside || rules.inbound_refresh;
        if !mapping.has_sessions() {
            if refreshes && let Some(mapping) = self.mappings.get_mut(&key) {
                mapping.deadline = mapping.deadline.max(after(now, timeout_s));
            }
            return Ok(());
        }
        let by_address = mapping.filtering == Filtering::Address || key.0 == ICMP;
        let remote = if by_address && segment.is_none() { (remote.0, 0) } else { remote };
        self.meet(key, remote, now);
        let worker = self.mappings[&key].worker;
        let full = self.refuses_session(key, worker, inside);
        let admitted = self.admit_session(key.1, inside, now);
        let Some(mapping) = self.mappings.get_mut(&key) else {
            unreachable!("the caller found it")
        };
        let permitted = mapping.is_permitted(remote);
        let session = match &mut mapping.first {
            Some((with, session)) if *with == remote => Some(session),
            _ => mapping.further.get_mut(&remote),
        };
        if let Some(session) = session {
            match segment {
                None if refreshes => {
                    session.deadline = session.deadline.max(after(now, timeout_s));
                }
                None => {}
                Some(segment) => {
                    let belongs = session.note(&segment, inside, now, &self.rules);
                    self.out_of_window += u64::from(!belongs);
                }
            }
            return Ok(());
        }
        if !inside && (segment.is_none() || !permitted) {
            return Err(Filtered);
        }
        let mut session = match segment {
            None => Session::flow(after(now, timeout_s)),
            Some(segment) if !segment.opens() => return Ok(()),
            Some(segment) => Session::opened(&segment, inside, after(now, self.rules.opening_s)),
        };
        admitted?;
        // A permission takes a record of its own.
        session.permits = inside && key.0 == TCP && mapping.filtering == Filtering::Address;
        if mapping.first.is_none() && inside {
            mapping.first = Some((remote, session));
            if session.permits && !permitted && full.1 {
                mapping.first = None;
                return Err(SessionTableFull);
            }
        } else {
            if full.0 {
                return Err(SessionTableFull);
            }
            mapping.further.insert(remote, session);
            if session.permits && self.in_use(worker) > self.rules.further_sessions {
                let mapping = self.mappings.get_mut(&key);
                mapping.map(|mapping| mapping.further.remove(&remote));
                return Err(SessionTableFull);
            }
        }
        if inside {
            self.spend(key.1, now);
        }
        Ok(())
    }

    /// The owner ends what it meets and finds over: the first session, and that with `remote`.
    fn meet(&mut self, key: Endpoint, remote: (u32, u16), now: Ticks) {
        let Some(mapping) = self.mappings.get_mut(&key) else { return };
        mapping.first = mapping.first.filter(|(_, session)| now < session.deadline);
        if mapping.further.get(&remote).is_some_and(|s| now >= s.deadline) {
            mapping.further.remove(&remote);
        }
    }

    /// Records of a worker's session table in use.
    fn in_use(&self, worker: u16) -> usize {
        let own = self.mappings.values().filter(|mapping| mapping.worker == worker);
        own.map(Mapping::records).sum::<usize>()
            + self.orphans.iter().filter(|(owner, _)| *owner == worker).count()
    }

    /// Whether one more session outside the mapping's record is refused, and whether there is
    /// no record at all.
    fn refuses_session(&self, key: Endpoint, worker: u16, inside: bool) -> (bool, bool) {
        let records = self.rules.further_sessions;
        let in_use = self.in_use(worker);
        // Strangers open a few, and never in the last quarter of the records.
        let (most, room) = if inside { (2048, records) } else { (256, records - records / 4) };
        (self.mappings[&key].further.len() >= most || in_use >= room, in_use >= records)
    }

    /// A new mapping, as the core chose it; or the core's refusal, if it is justified.
    fn create(
        &mut self,
        key: Endpoint,
        packet: &Packet,
        now: Ticks,
        seen: &Seen,
    ) -> Result<Result<(), DropReason>, String> {
        let Some((group, limits)) = self.group_of(key.1) else {
            return Ok(Err(SourceNotSubscriber));
        };
        let pool_number = self.rules.groups[group].2;
        let port = packet.to().1;
        match packet.body {
            Body::Tcp { .. } if !packet.segment().is_some_and(|segment| segment.opens()) => {
                return Ok(Err(TcpNotSyn));
            }
            _ if packet.is_query(false) => return Ok(Err(IcmpNoQuery)),
            _ => {}
        }
        if self.mappings.values().filter(|m| m.worker == seen.worker).count() >= self.rules.mappings
        {
            return Ok(Err(MappingTableFull));
        }
        let pool = &self.rules.pools[pool_number];
        let held = self.subscribers.get(&key.1);
        if held.is_some() {
            let mappings = self.mappings_of(key.1);
            let port = limits.admit_port(&mappings, key.0, port);
            if let Err(reason) = port.and_then(|()| self.admit_session(key.1, true, now)) {
                return Ok(Err(reason));
            }
        }
        let blocks = held.map(|held| held.blocks.clone()).unwrap_or_default();
        let free_in = |block: &Block| {
            let size = pool.piece(block.1).map_or(0, |(_, size)| size);
            (0..size).filter(|n| self.is_free((key.0, block.0, block.1 + n), now)).count()
        };
        // Its own range comes first, held or not; it is a block in `limits.blocks`.
        let own = pool.own.is_some().then(|| self.own[&key.1]);
        let mut all = blocks.clone();
        all.extend(own);
        let free: usize = all.iter().map(free_in).sum();
        let lent = blocks.iter().filter(|block| Some(**block) != own).count();
        // The last free ports are for lifelines.
        let kept = free > 0 && free <= limits.reserve(key.0, port).1;
        let room = free > 0 && !kept;
        let allowed = limits.blocks.map(|most| most - usize::from(own.is_some()));
        let most_blocks = allowed.map_or(pool.max_blocks, |most| most.min(pool.max_blocks));
        let limited = most_blocks < pool.max_blocks;
        // Refusals.
        let refusal = match seen.reason {
            Some(SubscriberPorts) => Some(free == 0 && lent == most_blocks && !limited),
            Some(LimitBlocks) => Some(free == 0 && lent == most_blocks && limited),
            Some(ReservedPorts) => Some(kept && (lent == most_blocks || seen.scarce)),
            Some(AddressExhausted) => {
                Some(held.is_some() && free == 0 && lent < most_blocks && seen.scarce)
            }
            Some(PoolExhausted) => Some(held.is_none() && own.is_none() && seen.scarce),
            _ => None,
        };
        if let Some(justified) = refusal {
            let reason = seen.reason.ok_or("checked")?;
            return if justified {
                Ok(Err(reason))
            } else {
                Err(format!("{reason:?} is not justified"))
            };
        }
        // The choice.
        let (address, port) = seen.choice.ok_or("a mapping was due and none was made")?;
        let external = (key.0, address, port);
        let illegal = |why: &str| Err(format!("{key:?} -> {external:?}: {why}"));
        let Some(block) = self.block_of(address, port) else {
            return illegal("not in a pool");
        };
        if !pool.addresses.contains(&address) {
            return illegal("of another pool");
        }
        if held.is_some_and(|held| held.address != address) {
            return illegal("not the paired address");
        }
        if !self.is_free(external, now) {
            return illegal("used or resting");
        }
        if pool.is_range(port) && Some(block) != own {
            return illegal("in the range of another subscriber");
        }
        if own.is_some_and(|own| own.0 != address) {
            return illegal("not the address of its range");
        }
        if own.is_some_and(|own| block != own && !kept && free_in(&own) > 0) {
            return illegal("overflow, and its own range has free ports");
        }
        if !blocks.contains(&block) && Some(block) != own {
            if self.blocks.contains_key(&block) {
                return illegal("in a block of another subscriber");
            }
            if room || lent == most_blocks {
                return illegal("a further block was not called for");
            }
        } else if kept {
            return illegal("a port that is kept for lifelines");
        }
        let bucket = Bucket::full(&limits, now);
        let fresh = Subscriber { address, blocks: BTreeSet::new(), bucket };
        self.subscribers.entry(key.1).or_insert(fresh).blocks.insert(block);
        self.blocks.insert(block, key.1);
        self.resting.remove(&external);
        self.external.insert(external, key);
        let mapping = Mapping {
            external,
            worker: seen.worker,
            filtering: pool.filtering[match key.0 {
                TCP => 0,
                UDP => 1,
                _ => 2,
            }],
            deadline: 0,
            first: None,
            further: BTreeMap::new(),
        };
        self.mappings.insert(key, mapping);
        Ok(Ok(()))
    }

    fn is_free(&self, external: Endpoint, now: Ticks) -> bool {
        !self.external.contains_key(&external)
            && self.resting.get(&external).is_none_or(|due| now >= *due)
    }

    /// The owner notices that a mapping has ended: its port rests.
    fn end(&mut self, key: Endpoint, now: Ticks) {
        let Some(mapping) = self.mappings.remove(&key) else { return };
        let orphans = mapping.further.values().map(|session| (mapping.worker, session.deadline));
        self.orphans.extend(orphans);
        self.external.remove(&mapping.external);
        let hold = |pool: &Pool| match &pool.own {
            Some(own) if pool.is_range(mapping.external.2) => own.hold_s,
            _ => pool.hold_s,
        };
        let hold_s = self.pool_with(mapping.external.1).map_or(0, hold);
        if hold_s > 0 {
            self.resting.insert(mapping.external, after(now, hold_s));
        }
    }

    /// Housekeeping has run and the owners have acted.
    pub fn housekeeping(&mut self, now: Ticks) {
        for mapping in self.mappings.values_mut() {
            mapping.first = mapping.first.filter(|(_, session)| now < session.deadline);
            mapping.further.retain(|_, session| now < session.deadline);
        }
        self.orphans.retain(|(_, deadline)| now < *deadline);
        let ended: Vec<Endpoint> =
            self.mappings.iter().filter(|(_, m)| m.is_expired(now)).map(|(key, _)| *key).collect();
        for key in ended {
            self.end(key, now);
        }
        self.resting.retain(|_, due| now < *due);
        let busy: BTreeSet<Block> = self
            .external
            .keys()
            .chain(self.resting.keys())
            .filter_map(|(_, address, port)| self.block_of(*address, *port))
            .collect();
        self.blocks.retain(|block, _| busy.contains(block));
        for subscriber in self.subscribers.values_mut() {
            subscriber.blocks.retain(|block| busy.contains(block));
        }
        self.subscribers.retain(|_, subscriber| !subscriber.blocks.is_empty());
    }
}
