//! Drives the core and the specification with the same events and compares.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

use cgnat_core::config::Config;
use cgnat_core::endpoint::ExternalEndpoint;
use cgnat_core::layout::Layout;
use cgnat_core::space::Location;
use cgnat_core::testing::io::MemoryPacket;
use cgnat_core::testing::lab::{Lab, port_mac};
use cgnat_core::time::Instant;
use cgnat_core::verdict::DropReason::{self, *};
use cgnat_core::worker::steering::Steering;

use super::events::{EXTERNAL, Event, Events, INTERNAL};
use super::nat::{Block, Key, Nat, Outcome, Pool, Rules, Seen, Ticks};
use super::realms::number;
use super::wire::{Body, Link, Packet, Protocol, ip, link_len};
use super::world::{EXTERNAL_OWN, INTERNAL_OWN, World};

const INTERNAL_HOP: [u8; 6] = [2, 0, 0, 0, 9, 1];
const EXTERNAL_HOP: [u8; 6] = [2, 0, 0, 0, 9, 2];

/// Events between two audits.
const AUDIT: u64 = 2_000;

/// Events that a failure shows.
const SHOWN: usize = 25;

/// What is broken on purpose, to prove that a difference is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// One bit of a frame that the core sent, at this event.
    FlippedBit(u64),
    /// The drop of this event is not reported.
    HiddenDrop(u64),
    /// The specification hears of no drain.
    NoDrain,
    /// The specification does not hear that an address has gone.
    NoDeparture,
}

pub struct Driver {
    pub(super) world: World,
    pub lab: Lab,
    pub nat: Nat,
    pub events: Events,
    steering: Steering,
    /// Last moment at which a worker (or housekeeping) had no free block of an address.
    pub(super) bare: BTreeMap<(u16, u32), Ticks>,
    /// When addresses were drained.
    pub(super) drained: BTreeMap<u32, Instant>,
    /// NAT time of housekeeping's last sweep; the same time lends without sweeping.
    pub(super) swept: Instant,
    last: VecDeque<String>,
    pub reasons: BTreeMap<&'static str, u64>,
    pub sent: u64,
    /// Datagrams in fragments that got through.
    pub datagrams: u64,
    pub(super) fault: Fault,
    pub(super) joined: u64,
    /// Sources of datagrams in fragments that were refused, and until when that is known.
    pub(super) refused: Vec<(u32, Instant)>,
    /// When each identification was used last: source, destination, protocol, number.
    pub(super) identifications: BTreeMap<(u32, u32, Protocol, u16), Ticks>,
    /// Everything that arrived, if it is kept.
    pub tape: Option<Vec<Arrival>>,
}

/// A frame that arrived, and what was sent because of it, by port.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub at: Instant,
    pub port: usize,
    pub frame: Vec<u8>,
    pub sent: Vec<(usize, Vec<u8>)>,
}

impl Driver {
    pub fn new(world: &World, seed: u64, fault: Fault) -> Self {
        Self::with_lab(world, seed, fault, Lab::new(&world.yaml(), world.workers, seed))
    }

    /// The core is in a laboratory of this world that somebody else has made.
    pub fn with_lab(world: &World, seed: u64, fault: Fault, mut lab: Lab) -> Self {
        let yaml = world.yaml();
        let config = Config::from_yaml("world.yaml", &yaml).unwrap_or_else(|e| panic!("{e}"));
        let layout = Layout::new(&config, world.workers);
        let mut world = world.clone();
        world.rules.mappings = layout.mappings_per_shard as usize;
        world.rules.further_sessions = layout.sessions_per_shard as usize;
        world.rules.associations = layout.associations_per_shard as usize;
        world.rules.controls = layout.controls_per_shard as usize;
        world.rules.tunnels = layout.pptp_per_shard as usize;
        world.rules.workers = world.workers;
        let link = |port: usize| {
            let from = [INTERNAL_HOP, EXTERNAL_HOP][port];
            Link { to: port_mac(port), from, vlan: world.vlans[port] }
        };
        let own = [ip(INTERNAL_OWN), ip(EXTERNAL_OWN)];
        let workers = usize::from(world.workers);
        let events = Events::new(seed, world.habits, workers, [link(0), link(1)], own);
        // What is bypassed shows internal addresses.
        let translated = world.rules.bypass.is_empty();
        lab.watch = translated.then_some(super::leaks::nothing_of_the_inside);
        lab.now = world.start;
        let mut driver = Self {
            nat: Nat::new(world.rules.clone()),
            steering: Steering::new(world.workers),
            swept: lab.now,
            lab,
            world,
            events,
            bare: BTreeMap::new(),
            drained: BTreeMap::new(),
            last: VecDeque::new(),
            reasons: BTreeMap::new(),
            sent: 0,
            datagrams: 0,
            joined: 0,
            refused: Vec::new(),
            fault,
            identifications: BTreeMap::new(),
            tape: None,
        };
        driver.housekeeping();
        driver
    }

    /// Makes the specification believe in other rules than the core has.
    pub fn mislead(&mut self, wrong: impl Fn(&mut Rules)) {
        wrong(&mut self.nat.rules);
        self.nat.assign();
    }

    /// Runs events; the error says how the core and the specification differ.
    pub fn run(&mut self, events: u64) -> Result<(), String> {
        for number in 0..events {
            let event = self.events.next(&self.nat);
            self.remember(format!("{number} at {:?}: {event:?}", self.lab.now));
            self.note_bare();
            let result = self.step(number, event);
            if self.world.settles {
                self.rounds(self.swept);
            }
            self.note_bare();
            let result = result.and_then(|()| self.take_notices());
            let result = result
                .and_then(|()| if number % AUDIT == AUDIT - 1 { self.audit() } else { Ok(()) });
            if let Err(difference) = result {
                let mut text = String::new();
                for event in &self.last {
                    let _ = writeln!(text, "  {event}");
                }
                return Err(format!("event {number}: {difference}\nlast events:\n{text}"));
            }
        }
        self.finish()
    }

    fn remember(&mut self, event: String) {
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(event);
    }

    /// Ticks since the origin, which the specification does not let wrap.
    pub(super) fn ticks(&self) -> Ticks {
        self.lab.now.nanos() / 100_000_000
    }

    /// The core and the specification meet one event.
    pub fn step(&mut self, number: u64, event: Event) -> Result<(), String> {
        match event {
            Event::Pass(ms) => {
                self.lab.advance_silently(ms);
                Ok(())
            }
            Event::Housekeeping => {
                self.housekeeping();
                let output = (self.lab.take_sent(), Vec::new());
                self.expect(number, output, &Outcome::Drop(DropReason::Shutdown), true)?;
                self.audit()
            }
            Event::Broken { worker, port, frame, whole, reason } => {
                let packet = MemoryPacket::new(&frame);
                let packet = if whole { packet } else { packet.too_long() };
                let output = self.offer(worker, port, packet);
                self.expect(number, output, &Outcome::Drop(reason), false)
            }
            Event::Ping { worker, port, frame, answer } => {
                let (sent, dropped) = self.offer(worker, port, MemoryPacket::new(&frame));
                let right = sent == [(port, answer.clone())] && dropped.is_empty();
                if right {
                    Ok(())
                } else {
                    Err(format!("ping: {sent:02x?} {dropped:?}, not {answer:02x?}"))
                }
            }
            Event::Reload(addresses, drain) => self.reload(addresses, drain),
            Event::Fragments(datagram) => self.fragments(datagram),
            Event::Pieces { port, packet, cuts, order } => {
                self.pieces(port, &packet, &cuts, &order)
            }
            Event::Arrive { worker, port, packet } => {
                let (now, link) = (self.ticks(), self.link(port, false));
                let frame = link.frame(0x0800, &packet.bytes());
                let mut arriving = MemoryPacket::new(&frame);
                // However a driver cuts a frame, it is the same packet.
                if number.is_multiple_of(3) {
                    arriving = arriving.in_pieces(number as usize / 3 % frame.len());
                    self.joined += 1;
                }
                let output = self.offer(worker, port, arriving);
                let mut outcome = self.outcome(port, &packet, &output.1, now)?;
                let output = self.without_error(output, port, &packet, &outcome);
                if port == INTERNAL && !self.nat.keeps_identification(&packet) {
                    self.adopt_identification(&output.0, &mut outcome)?;
                }
                self.expect(number, output, &outcome, false)
            }
        }
    }

    /// Takes out the ICMP error that the box may have sent about a packet (RFC 5508 sections
    /// 7.1 and 7.2, RFC 6888 REQ-11b); at most one, and it must be right to the byte. Whether it is
    /// sent is a matter of its rate, which scenarios test.
    fn without_error(
        &self,
        (mut sent, dropped): (Vec<(usize, Vec<u8>)>, Vec<DropReason>),
        port: usize,
        packet: &Packet,
        outcome: &Outcome,
    ) -> (Vec<(usize, Vec<u8>)>, Vec<DropReason>) {
        let told = match outcome {
            Outcome::Drop(TtlExpired) | Outcome::DropEither(TtlExpired, _) => Some((11, 0, 0)),
            // The MTU of the other side; of its own for a hairpin.
            Outcome::Drop(TooBig) => {
                let rules = &self.nat.rules;
                let hairpin = self.nat.is_external(packet.destination);
                let outward = port == INTERNAL && !hairpin;
                Some((3, 4, if outward { rules.mtu_external } else { rules.mtu_internal }))
            }
            Outcome::Drop(
                PoolExhausted
                | PoolSubscribers
                | AddressExhausted
                | AddressDraining
                | SubscriberPorts
                | MappingTableFull
                | SessionTableFull
                | LimitPorts
                | LimitSessions
                | LimitDestination
                | LimitMappingSessions
                | LimitSessionRate
                | LimitBlocks
                | ReservedPorts
                | EspWithoutIke
                | EspConflict
                | AssociationConflict
                | AssociationTableFull
                | LimitInboundSessions
                | LimitMappingInboundSessions,
            ) if port == INTERNAL => Some((3, 1, 0)),
            Outcome::Drop(DestinationInside | HairpinDisabled) => Some((3, 13, 0)),
            _ => None,
        };
        let Some((kind, code, rest)) = told.filter(|_| !matches!(packet.body, Body::Error { .. }))
        else {
            return (sent, dropped);
        };
        // Behind a hairpin the box quotes what it made of the packet; its mapping turns that
        // back, but for the identification and for what was recorded (RFC 5508 REQ-7).
        let mut translated = packet.clone();
        let key = self.nat.key_of(packet, self.ticks());
        let flow = (packet.protocol(), packet.source, packet.destination);
        let held = self.nat.holds.get(&flow).map(|held| held.other);
        let internal = (packet.protocol(), packet.source, packet.from().1);
        let fixed = self.nat.static_external(internal).map(|external| external.0);
        let mapped = self.nat.mappings.get(&key).map(|mapping| mapping.external.1);
        let external = fixed.or(mapped).or(held);
        if let (Some(external), Some((_, frame))) = (external, sent.first())
            && matches!(
                outcome,
                Outcome::Drop(
                    SessionTableFull | TooBig | LimitInboundSessions | LimitMappingInboundSessions
                )
            )
        {
            translated.hide_route(external);
            let link = link_len(self.world.vlans[port]);
            let at = frame.len().min(link + 28 + 4);
            if let (false, [high, low, ..]) = (packet.df, &frame[at..]) {
                translated.identification = u16::from_be_bytes([*high, *low]);
            }
        }
        for about in [packet, &translated] {
            let kept = 548 - 20 - packet.options.len();
            let about = Box::new(about.clone());
            let error = Packet {
                identification: 0,
                df: true,
                ttl: 64,
                options: vec![],
                source: self.nat.rules.own[port],
                destination: packet.source,
                body: Body::Error { kind, code, rest: rest as u32, about, kept },
                payload: vec![],
            };
            let link = self.link(port, false);
            let back = Link { to: link.from, from: link.to, ..link };
            let frame = back.frame(0x0800, &error.bytes());
            if sent.first() == Some(&(port, frame)) {
                sent.remove(0);
                break;
            }
        }
        (sent, dropped)
    }

    /// The link header of frames that arrive at a port, or leave it.
    pub(super) fn link(&self, port: usize, leaves: bool) -> Link {
        let (us, hop) = (port_mac(port), [INTERNAL_HOP, EXTERNAL_HOP][port]);
        let (to, from) = if leaves { (hop, us) } else { (us, hop) };
        Link { to, from, vlan: self.world.vlans[port] }
    }

    fn expect(
        &mut self,
        number: u64,
        (mut sent, mut dropped): (Vec<(usize, Vec<u8>)>, Vec<DropReason>),
        outcome: &Outcome,
        silence: bool,
    ) -> Result<(), String> {
        match self.fault {
            Fault::FlippedBit(at) if number >= at && !sent.is_empty() => {
                let place = number as usize % sent[0].1.len();
                sent[0].1[place] ^= 1 << (number % 8);
            }
            Fault::HiddenDrop(at) if number >= at => dropped.clear(),
            _ => {}
        }
        self.sent += sent.len() as u64;
        for reason in &dropped {
            *self.reasons.entry(reason.name()).or_default() += 1;
        }
        let right = match outcome {
            _ if silence => sent.is_empty() && dropped.is_empty(),
            Outcome::Drop(reason) => sent.is_empty() && dropped == [*reason],
            Outcome::DropEither(one, two) => {
                sent.is_empty() && (dropped == [*one] || dropped == [*two])
            }
            Outcome::External(packet) => {
                dropped.is_empty() && sent == self.frames(EXTERNAL, packet)
            }
            Outcome::Internal(packet) => {
                dropped.is_empty() && sent == self.frames(INTERNAL, packet)
            }
        };
        if right {
            return Ok(());
        }
        let wanted = match outcome {
            Outcome::External(packet) | Outcome::Internal(packet) => {
                format!("{:02x?}", packet.bytes())
            }
            _ => String::new(),
        };
        Err(format!(
            "the core: sent {sent:02x?}, dropped {dropped:?}\nexpected {outcome:?} {wanted}"
        ))
    }

    /// A packet as it leaves a port, fragmented if it is too big.
    fn frames(&self, port: usize, packet: &Packet) -> Vec<(usize, Vec<u8>)> {
        let rules = &self.nat.rules;
        let mtu = if port == EXTERNAL { rules.mtu_external } else { rules.mtu_internal };
        let link = self.link(port, true);
        packet.pieces(mtu).iter().map(|piece| (port, link.frame(0x0800, piece))).collect()
    }

    /// What the specification must learn of the core's choices.
    pub(super) fn seen(&self, key: Key, dropped: &[DropReason], now: Ticks) -> Seen {
        let worker = self.steering.owner_of(key.1);
        let known = self.nat.mappings.get(&key).is_some_and(|mapping| !mapping.is_expired(now));
        let shard = self.lab.workers[usize::from(worker)].shard();
        let choice = (!known).then(|| {
            let mut list = shard.mapping_list();
            let made = list.find(|mapping| number(mapping) == key);
            made.map(|mapping| (mapping.external.address.0, mapping.external.port))
        });
        let held = self.nat.subscribers.get(&(key.1, key.4));
        let address: Vec<u32> = held.iter().map(|held| held.address).collect();
        let pools = self.world.rules.pools.iter();
        let addresses = pools.map(Pool::open);
        let known = &self.nat.blocks;
        let fresh = |(of, block): &(u32, Block)| *of == key.1 && !known.contains_key(block);
        let block = self.core_blocks(worker).find(fresh).map(|(_, block)| block);
        Seen {
            reason: dropped.first().copied(),
            choice: choice.flatten(),
            block,
            worker,
            scarce: self.is_scarce(&address, worker, now),
            scarce_pools: addresses.map(|list| self.is_scarce(&list, worker, now)).collect(),
            sole: self.world.workers == 1,
            named: None,
        }
    }

    /// Whether a worker may refuse a block: it has none itself, and each of the others had
    /// none at some moment of the last second (a denial is believed that long). While blocks
    /// are under way between workers nobody can tell.
    fn is_scarce(&self, addresses: &[u32], worker: u16, now: Ticks) -> bool {
        if !self.world.settles {
            return true;
        }
        let workers = (0..self.world.workers).chain([u16::MAX]);
        let age = |who: u16, address: &u32| {
            self.bare.get(&(who, *address)).map_or(u64::MAX, |at| now - at)
        };
        workers.into_iter().all(|who| {
            let believed = if who == worker { 0 } else { 10 };
            addresses.iter().all(|address| age(who, address) <= believed)
        })
    }

    fn note_bare(&mut self) {
        if !self.world.settles {
            return;
        }
        let mut free: BTreeMap<(u16, u32), usize> = BTreeMap::new();
        // The core's own, whatever the specification is made to believe.
        let space = self.lab.space().clone();
        for pool in &self.world.rules.pools {
            for address in &pool.addresses {
                for who in (0..self.world.workers).chain([u16::MAX]) {
                    free.insert((who, *address), 0);
                }
                for first in pool.blocks() {
                    let block: Block = (*address, first);
                    let located = space.locate(ExternalEndpoint::new(*address, first));
                    if let (Location::Block(number), false) =
                        (located, self.nat.blocks.contains_key(&block))
                    {
                        let owner = self.lab.owners.owner(number);
                        let who = owner.map_or(u16::MAX, |owner| owner.worker);
                        *free.entry((who, *address)).or_default() += 1;
                    }
                }
            }
        }
        let now = self.ticks();
        for (place, count) in free {
            if count == 0 {
                self.bare.insert(place, now);
            }
        }
    }

    fn drops(&self) -> [u64; DropReason::COUNT] {
        std::array::from_fn(|n| self.lab.counters.iter().map(|c| c.drops[n].value()).sum())
    }

    /// A frame arrives; what was sent and dropped because of it.
    pub(super) fn offer(
        &mut self,
        worker: usize,
        port: usize,
        packet: MemoryPacket,
    ) -> (Vec<(usize, Vec<u8>)>, Vec<DropReason>) {
        let before = self.drops();
        let (at, frame) = (self.lab.now, self.tape.as_ref().map(|_| packet.frame()));
        self.lab.workers[worker].io_mut().arrive(port, packet);
        for _ in 0..1000 {
            let mut work = 0;
            for worker in &mut self.lab.workers {
                work += worker.poll(self.lab.now);
            }
            if work > 0 {
                continue;
            }
            if self.lab.sum(|counters| counters.parked.value()) == 0 {
                break;
            }
            // Lends, but does not sweep: no time has gone by since the last sweep.
            self.lab.housekeeping.run(self.swept, self.lab.now);
        }
        let after = self.drops();
        let mut dropped = Vec::new();
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            dropped.extend((before[place]..after[place]).map(|_| *reason));
        }
        let sent = self.lab.take_sent();
        if let (Some(tape), Some(frame)) = (&mut self.tape, frame) {
            tape.push(Arrival { at, port, frame, sent: sent.clone() });
            // No two frames of a capture have the same time, which is in microseconds.
            self.lab.now = Instant::from_nanos(at.nanos() + 1_000);
        }
        (sent, dropped)
    }

    /// Housekeeping until nothing is left to do: lending first, then two sweeps, because a
    /// block may become idle in the first.
    pub fn housekeeping(&mut self) {
        self.rounds(self.swept);
        for _ in 0..2 {
            self.swept = self.lab.now;
            self.lab.housekeeping.sweep_now(self.swept);
            self.rounds(self.swept);
        }
        let now = self.ticks();
        let blocks: Vec<_> = (0..self.world.workers).flat_map(|w| self.core_blocks(w)).collect();
        self.nat.housekeeping(now, &blocks);
    }

    pub(super) fn rounds(&mut self, sweep: Instant) {
        for _ in 0..1000 {
            // Workers first: who has been asked answers before it counts as silent.
            let mut busy = false;
            for worker in &mut self.lab.workers {
                busy |= worker.poll(self.lab.now) > 0;
            }
            busy |= self.lab.housekeeping.run(sweep, self.lab.now);
            busy |= self.lab.housekeeping.is_busy();
            if !busy {
                return;
            }
        }
        panic!("housekeeping does not come to rest");
    }
}
