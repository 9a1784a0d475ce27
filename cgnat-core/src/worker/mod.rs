//! A worker: the poll loop's body around one shard.
//!
//! One [`Worker`] is driven by one thread through [`Worker::poll`], which takes what
//! housekeeping and other workers sent, receives a burst from each port, and sends the
//! results. Files: `ingress` (what arrived?), `exchange` (other workers and housekeeping), `endings`,
//! `egress` (next hop, link header, transmission), `mtu` (what is too big for a port),
//! `fragments` (datagrams in pieces), `associations` (packets without ports), `parking` (packets that wait), `arp`, `errors` (ICMP
//! errors of the box itself), `ipv6` (what passes beside the NAT), `nd` (Neighbour Discovery), `punt` (what is the kernel's), `routes` (what was learned), `held_syns` (those that are answered late), `exceptions` (static
//! mappings and bypass), `floods` (what is shed of what comes from outside).
//!
//! Always true:
//! 1. a poll is bounded: one burst per port and ring, eight of a port where most is shed, a fixed
//!    number of commands;
//! 2. it does not block, allocate, format or log;
//! 3. every packet ends in exactly one counter of [`WorkerCounters`];
//! 4. a packet leaves an external port only with a source that is an external address, or by a
//!    bypass rule; what the box makes itself has the address of the port.

mod arp;
mod associations;
mod calls;
mod egress;
mod endings;
mod errors;
mod exceptions;
mod exchange;
mod floods;
pub mod forwarding;
pub mod fragments;
pub mod handoff;
mod held_syns;
mod hits;
mod ingress;
pub mod io;
mod ipv6;
mod mtu;
mod nd;
mod parking;
mod punt;
pub mod routes;
pub mod steering;

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam_channel::{Receiver, Sender};

use crate::config::{OwnErrors, Side};
use crate::control::counters::WorkerCounters;
use crate::control::links::LinkStates;
use crate::control::neighbours::NeighbourTable;
use crate::control::neighbours6::NeighbourTable6;
use crate::control::{Command, Event};
use crate::policy::flood_guard::FloodGuard;
use crate::policy::flood_notices::{FloodNotices, ForOthers};
use crate::policy::pressure::Pressure;
use crate::shard::Shard;
use crate::space::OwnerMap;
use crate::time::{Instant, Tick};
use crate::verdict::DropReason;

use errors::Telling;
use forwarding::Forwarding;
use fragments::{FragmentLimits, Fragments};
use held_syns::HeldSyns;
use hits::{Headers, Lately};
use io::{Burst, PacketBuf, PacketIo};
use parking::Parking;
use punt::Punts;
use routes::Routes;
use steering::Steering;

/// Commands of housekeeping that one poll carries out at most.
const COMMANDS_PER_POLL: usize = 8;

/// Further bursts of a port in one poll, while most of each is shed.
const MORE_OF_A_FLOOD: u32 = 7;

/// Events that wait here while the channel to housekeeping is full.
const OUTBOX: usize = 32;

/// Where NAT time comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSource {
    /// The argument of [`Worker::poll`].
    Clock,
    /// The time stamps of captured packets: a replay.
    Packets,
}

/// What a [`Worker`] is made of, besides its packets.
pub struct WorkerParts {
    /// Its shard.
    pub shard: Shard,
    /// Ports, addresses, routes.
    pub forwarding: Arc<Forwarding>,
    /// Owner of internal addresses.
    pub steering: Steering,
    /// Owner of port blocks.
    pub owners: OwnerMap,
    /// MACs of neighbours.
    pub neighbours: Arc<NeighbourTable>,
    /// Those of IPv6 neighbours.
    pub neighbours6: Arc<NeighbourTable6>,
    /// Which links are down.
    pub links: Arc<LinkStates>,
    /// Commands of housekeeping.
    pub commands: Receiver<Command>,
    /// Events for housekeeping.
    pub events: Sender<Event>,
    /// Its counters.
    pub counters: Arc<WorkerCounters>,
    /// Bounds on fragments.
    pub fragments: FragmentLimits,
    /// Live or replay.
    pub time: TimeSource,
    /// What it may tell senders.
    pub own_errors: OwnErrors,
    /// Whether floods from outside are shed.
    pub flood_guard: bool,
    /// What each worker sheds of them.
    pub flood_notices: Arc<FloodNotices>,
}

/// The poll loop's body and its shard.
pub struct Worker<I: PacketIo> {
    id: u16,
    shard: Shard,
    io: I,
    forwarding: Arc<Forwarding>,
    /// Learned routes with those of `forwarding`; without it those alone.
    routes: Option<Arc<Routes>>,
    steering: Steering,
    owners: OwnerMap,
    neighbours: Arc<NeighbourTable>,
    neighbours6: Arc<NeighbourTable6>,
    links: Arc<LinkStates>,
    commands: Receiver<Command>,
    events: Sender<Event>,
    outbox: ArrayVec<Event, OUTBOX>,
    counters: Arc<WorkerCounters>,
    time: TimeSource,
    /// Loop time: parking.
    clock: Instant,
    /// NAT time: everything a shard does.
    now: Instant,
    published: Tick,
    transmit: Vec<Burst<I::Packet>>,
    hand_off: Vec<Burst<I::Packet>>,
    parking: Parking<I::Packet>,
    fragments: Fragments<I::Packet>,
    telling: Telling,
    held_syns: HeldSyns,
    punts: Punts,
    /// By family: ARP, Neighbour Discovery.
    told: [arp::Told; 2],
    pressure: Pressure,
    flood_guard: FloodGuard,
    /// What others shed, and would else be handed over to be shed there.
    for_others: ForOthers,
    /// Messages about ends that one poll works off at most.
    endings: usize,
    /// There are static mappings or bypass rules; without them nobody asks.
    has_exceptions: bool,
    /// GRE of PPTP goes by its calls.
    follows_calls: bool,
    /// Nothing but its mapping decides about a plain packet.
    takes_hits: bool,
    /// By side.
    lately: [Lately; 2],
    /// Where routes are learned.
    headers: Option<Headers>,
    /// The last poll found a full burst somewhere.
    was_full: bool,
    /// Most of the last burst was shed.
    has_shed_most: bool,
}

impl<I: PacketIo> Worker<I> {
    /// A worker that has not polled yet.
    pub fn new(parts: WorkerParts, io: I) -> Self {
        let WorkerParts {
            shard,
            forwarding,
            steering,
            owners,
            neighbours,
            neighbours6,
            links,
            commands,
            events,
            counters,
            fragments,
            time,
            own_errors,
            flood_guard,
            flood_notices,
        } = parts;
        let id = shard.id();
        let held_syns = HeldSyns::new(own_errors.answers_unsolicited_syns(), shard.key);
        let punts = Punts::new(forwarding.ports().len());
        let endings = forwarding.ports().iter().filter(|port| port.side == Side::Internal).count();
        let bursts = |count: usize| (0..count).map(|_| Burst::new()).collect();
        let has_exceptions = !shard.space.statics().is_empty() || !forwarding.bypass().is_empty();
        let takes_hits = !has_exceptions && shard.has_plain_hits();
        Self {
            id,
            follows_calls: shard.algs.pptp,
            shard,
            io,
            transmit: bursts(forwarding.ports().len()),
            hand_off: bursts(usize::from(steering.workers())),
            forwarding,
            routes: None,
            steering,
            owners,
            neighbours,
            neighbours6,
            links,
            commands,
            events,
            outbox: ArrayVec::new(),
            counters,
            time,
            clock: Instant::default(),
            now: Instant::default(),
            published: Tick(u32::MAX),
            parking: Parking::new(),
            fragments: Fragments::new(fragments, steering.workers()),
            telling: Telling::new(own_errors),
            held_syns,
            punts,
            told: Default::default(),
            pressure: Pressure::default(),
            for_others: ForOthers::new(flood_notices.clone(), id),
            flood_guard: FloodGuard::new(flood_guard, flood_notices, id),
            endings: endings.max(1),
            has_exceptions,
            takes_hits,
            lately: [Lately::default(); 2],
            headers: None,
            was_full: false,
            has_shed_most: false,
        }
    }

    /// One round at loop time `clock`. Returns how many packets and commands it handled, so
    /// that an idle loop can rest.
    pub fn poll(&mut self, clock: Instant) -> usize {
        self.clock = clock;
        if self.time == TimeSource::Clock {
            self.now = self.now.max(clock);
        }
        self.note_load();
        let mut work = self.take_commands();
        work += self.mind_fragments();
        work += self.take_handed();
        for port in 0..self.transmit.len() {
            work += self.take_port(port);
        }
        self.flush();
        self.mind_parking();
        work += self.answer_held_syns();
        self.send_events();
        self.publish(work > 0);
        work
    }

    /// Receives a burst from a port; of a flood some more, for they hardly take time and fill the queue
    /// in which others wait.
    fn take_port(&mut self, port: usize) -> usize {
        let (mut work, mut more) = (0, MORE_OF_A_FLOOD);
        // Who waits at another port, or in the ring, does not wait longer.
        let others_wait = self.was_full;
        loop {
            let mut burst = Burst::new();
            let is_full = self.io.receive(port, &mut burst);
            self.was_full |= is_full;
            if burst.is_empty() {
                return work;
            }
            work += burst.len();
            self.take_burst(port, &mut burst);
            if !std::mem::take(&mut self.has_shed_most) || !is_full || others_wait || more == 0 {
                return work;
            }
            more -= 1;
        }
    }

    /// The shard, for reports and tests.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The shard, for tests that forge requests.
    pub fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    /// Takes every packet the long way, for tests that hold the two ways against each other.
    pub fn take_no_hits(&mut self) {
        self.takes_hits = false;
    }

    /// Sheds floods from now on, or none, for measurements of both in turn.
    pub fn guard_floods(&mut self, is_on: bool) {
        let notices = Arc::new(FloodNotices::new(self.steering.workers()));
        self.flood_guard = FloodGuard::new(is_on, notices, self.id);
    }

    /// Its packets, for tests.
    pub fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// NAT time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Ends: packets that wait are dropped and counted, the shard is returned.
    ///
    /// Blocks that were recalled and found no room in the channel stay with the shard.
    pub fn stop(mut self) -> Shard {
        self.flush();
        self.send_events();
        for event in std::mem::take(&mut self.outbox) {
            if let Event::Returned { leases, .. } | Event::Withdrawn { leases } = event {
                for lease in leases {
                    self.shard.adopt(lease);
                }
            }
        }
        while let Some(packet) = self.parking.take_any() {
            self.drop_packet(packet, DropReason::Shutdown);
        }
        self.abandon_fragments();
        self.publish(true);
        self.shard
    }

    /// Tells the guards whether receive queues stay full. Captures wait for their reader.
    fn note_load(&mut self) {
        let was_full = std::mem::take(&mut self.was_full) && self.time == TimeSource::Clock;
        let now = self.now.tick();
        let tick_begins = self.pressure.note_poll(was_full, now);
        self.counters.pressed.add(u64::from(tick_begins));
        self.shard.flow_guard.note_poll(self.pressure.is_pressed(), tick_begins);
        if self.flood_guard.note_poll(&self.pressure, now) {
            self.counters.set_flood(self.flood_guard.flood());
        }
    }

    fn publish(&mut self, worked: bool) {
        self.counters.polls.add(1);
        // What waits may leave in a poll without other work, and must not count twice.
        self.counters.parked.set(self.parking.len() as u64);
        self.counters.fragments_waiting.set(self.fragments.waiting());
        self.counters.fragmented_datagrams.set(self.fragments.datagrams());
        let tick = self.now.tick();
        if worked || tick != self.published {
            self.published = tick;
            self.counters.now_ns.set(self.now.nanos());
            self.counters.publish(&self.shard.gauges());
        }
    }

    /// Drops a packet; its buffer goes back to the pool.
    fn drop_packet(&mut self, packet: I::Packet, reason: DropReason) {
        self.counters.drops[reason as usize].add(1);
        drop(packet);
    }

    fn note_event(&mut self, event: Event) -> bool {
        self.outbox.try_push(event).is_ok()
    }

    fn note_capture_time(&mut self, packet: &I::Packet) {
        if self.time == TimeSource::Packets
            && let Some(at) = packet.captured_at()
        {
            self.now = self.now.max(at);
        }
    }
}
