//! Housekeeping: finds what is due, lends port blocks, resolves neighbours.
//!
//! One thread runs it. It never changes a shard: it reads deadline words and proposes; it
//! owns the blocks that no worker holds, and lends and recalls them by message; it alone
//! writes the owner map and the neighbour table, makes versions of external space, and hands
//! learned routes to the workers.
//! Files: `sweep`, `lending`, `homes`, `resolve`, `routing`, `announcing`, `probing`, `conflicts`, `reload`,
//! `asking`.
//!
//! Always true:
//! 1. a round is bounded in entries swept and messages handled, but for a replay's sweeps;
//! 2. a message that finds a worker's channel full waits here and is never lost;
//! 3. each block is held by exactly one: a worker, a message, or housekeeping.

mod announcing;
mod asking;
mod conflicts;
mod homes;
mod lending;
mod probing;
mod reload;
mod resolve;
mod routing;
mod sweep;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::config::Config;
use crate::control::links::LinkStates;
use crate::control::neighbours::NeighbourTable;
use crate::control::neighbours6::NeighbourTable6;
use crate::control::{Command, Event};
use crate::refusals::Remembered;
use crate::shard::ShardDue;
use crate::space::{ExternalSpace, OwnerMap};
use crate::table::due::DueArray;
use crate::table::port_block::{BlockLease, PortCensus};
use crate::time::{Instant, Tick};
use crate::worker::TimeSource;
use crate::worker::forwarding::Forwarding;
use crate::worker::routes::Routes;

use announcing::Announcing;
use asking::Asking;
pub use conflicts::Conflict;
use conflicts::Conflicts;
use lending::Lending;
use probing::Probing;
use reload::Reloading;
pub use reload::{Draining, Notice, ReloadError, Reloaded};
use resolve::Resolver;
use routing::Routing;
use sweep::Sweep;

/// Events of one worker that one round handles at most.
const EVENTS_PER_ROUND: usize = 256;

/// Housekeeping's end of one worker.
pub struct WorkerLink {
    /// Commands to it.
    pub commands: Sender<Command>,
    /// The other end of them: what a stopped worker has not taken is counted from here.
    pub untaken: Receiver<Command>,
    /// Events from it.
    pub events: Receiver<Event>,
    /// Deadlines of its records.
    pub due: ShardDue,
}

/// A worker with the commands that wait for room in its channel.
struct Link {
    commands: Sender<Command>,
    untaken: Receiver<Command>,
    events: Receiver<Event>,
    due: ShardDue,
    backlog: VecDeque<Command>,
    /// A barrier is to be sent after the sweep that is under way.
    owes_barrier: bool,
    /// Barriers sent and not reached.
    barriers: u32,
}

impl Link {
    fn send(&mut self, command: Command) {
        self.backlog.push_back(command);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(command) = self.backlog.pop_front() {
            match self.commands.try_send(command) {
                Ok(()) => {}
                // Housekeeping itself holds the other end, so it is never disconnected.
                Err(TrySendError::Full(command) | TrySendError::Disconnected(command)) => {
                    self.backlog.push_front(command);
                    return;
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.backlog.is_empty() && !self.commands.is_full()
    }
}

/// The housekeeping of one box.
pub struct Housekeeping {
    links: Vec<Link>,
    sweep: Sweep,
    lending: Lending,
    reloading: Reloading,
    resolver: Resolver<u32>,
    resolver6: Resolver<u128>,
    routing: Routing,
    asking: Asking,
    announcing: Announcing,
    probing: Probing,
    conflicts: Conflicts,
    forwarding: Arc<Forwarding>,
    states: Arc<LinkStates>,
    /// By port: what [`LinkStates::ups`] said when neighbours there were last asked for it.
    ups: Vec<u32>,
}

/// What [`Housekeeping`] is made of.
pub struct HousekeepingParts {
    /// Its ends of the workers, in order.
    pub links: Vec<WorkerLink>,
    /// External space.
    pub space: Arc<ExternalSpace>,
    /// Owners of blocks; written by housekeeping alone.
    pub owners: OwnerMap,
    /// Deadlines of blocks.
    pub block_due: DueArray,
    /// All blocks, in order of their numbers.
    pub leases: Vec<BlockLease>,
    /// How long fragments of a datagram may wait for each other, milliseconds.
    pub fragments_ms: u64,
    /// Live or replay, which sweeps only when told to.
    pub time: TimeSource,
    /// Ports and next hops.
    pub forwarding: Arc<Forwarding>,
    /// MACs of neighbours; written by housekeeping alone.
    pub neighbours: Arc<NeighbourTable>,
    /// Those of IPv6.
    pub neighbours6: Arc<NeighbourTable6>,
    /// Which links are down.
    pub states: Arc<LinkStates>,
}

impl Housekeeping {
    /// Housekeeping that has lent all blocks evenly (the messages are under way) and has
    /// begun to resolve the configured next hops.
    ///
    /// # Panics
    /// Without workers.
    pub fn new(parts: HousekeepingParts) -> Self {
        let HousekeepingParts {
            links,
            space,
            owners,
            block_due,
            leases,
            fragments_ms,
            time,
            forwarding,
            neighbours,
            neighbours6,
            states,
        } = parts;
        assert!(!links.is_empty(), "housekeeping needs a worker to keep house for");
        let mut links: Vec<Link> = links
            .into_iter()
            .map(|WorkerLink { commands, untaken, events, due }| Link {
                commands,
                untaken,
                events,
                due,
                backlog: VecDeque::new(),
                owes_barrier: false,
                barriers: 0,
            })
            .collect();
        let sweep = Sweep::new(links.len(), block_due, owners.clone(), time);
        let lending = Lending::new(&mut links, space.clone(), owners.clone(), leases);
        let reloading = Reloading::new(links.len(), space, owners, fragments_ms);
        let resolver = Resolver::new(
            forwarding.static_neighbours(),
            forwarding.next_hops(),
            neighbours,
            states.clone(),
        );
        let ipv6 = forwarding.ipv6();
        let resolver6 =
            Resolver::new(ipv6.static_neighbours(), ipv6.next_hops(), neighbours6, states.clone());
        let routing = Routing::new(links.len());
        Self {
            links,
            sweep,
            lending,
            reloading,
            resolver,
            resolver6,
            routing,
            asking: Asking::default(),
            announcing: Announcing::default(),
            probing: Probing::new(forwarding.clone(), time),
            conflicts: Conflicts::default(),
            forwarding,
            ups: vec![0; states.len()],
            states,
        }
    }

    /// Gives the box the addresses of `config`, which differs from the running configuration in
    /// nothing else. It is done when [`Housekeeping::is_reloading`] says no more.
    ///
    /// # Errors
    /// If that cannot be; nothing has changed then.
    pub fn reload(&mut self, config: &Config) -> Result<Reloaded, ReloadError> {
        let Self { links, lending, reloading, .. } = self;
        reloading.reload(links, lending, config)
    }

    /// Whether some worker has not taken the last version of external space yet.
    pub fn is_reloading(&self) -> bool {
        self.reloading.is_under_way()
    }

    /// Gives every worker other routes, and begins to resolve their next hops.
    ///
    /// # Errors
    /// Some worker has not taken the last ones yet: these come back, to be offered again.
    pub fn route(&mut self, routes: Arc<Routes>, clock: Instant) -> Result<(), Arc<Routes>> {
        let Self { links, routing, resolver, .. } = self;
        routing.route(links, resolver, routes, clock)
    }

    /// The routes that every worker has, if any were ever given.
    pub fn routes(&self) -> Option<&Arc<Routes>> {
        self.routing.in_use()
    }

    /// External space, its last version.
    pub fn space(&self) -> &Arc<ExternalSpace> {
        self.reloading.space()
    }

    /// Asks every worker what subscribers were refused; the answer is for
    /// [`Housekeeping::take_refusals`]. One question at a time.
    pub fn ask_refusals(&mut self) {
        self.asking.begin(&mut self.links);
    }

    /// The answer, when every worker has given its own.
    pub fn take_refusals(&mut self) -> Option<Remembered> {
        self.asking.take()
    }

    /// Addresses that are not lent any more, and what still uses them.
    pub fn draining(&self) -> Vec<Draining> {
        self.reloading.draining()
    }

    /// What has become of such addresses since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.reloading.take_notices()
    }

    /// What neighbours did that is amiss, since the last call.
    pub fn take_conflicts(&mut self) -> Vec<Conflict> {
        self.conflicts.take()
    }

    /// One round. `now` is NAT time, `clock` loop time. Returns whether there was work.
    pub fn run(&mut self, now: Instant, clock: Instant) -> bool {
        let mut worked = false;
        for worker in 0..self.links.len() {
            self.links[worker].flush();
            for _ in 0..EVENTS_PER_ROUND {
                let Ok(event) = self.links[worker].events.try_recv() else {
                    break;
                };
                worked = true;
                self.take(worker as u16, event, clock);
            }
        }
        self.lending.mind_searches(&mut self.links, clock);
        self.reloading.run(&mut self.links, &mut self.lending, clock);
        self.mind_links(clock);
        worked |= self.sweep.run(&mut self.links, now.tick());
        for (worker, link) in self.links.iter_mut().enumerate() {
            if link.owes_barrier && !self.sweep.is_running(worker) {
                link.owes_barrier = false;
                link.barriers += 1;
                link.send(Command::Barrier);
            }
        }
        worked
    }

    /// A whole sweep at once; for a replay, when time does not go on by itself and the workers
    /// rest. What it proposes has been carried out when [`Housekeeping::is_busy`] says no.
    pub fn sweep_now(&mut self, now: Instant) {
        for link in &mut self.links {
            link.send(Command::Advance(now));
        }
        self.sweep.all(&mut self.links, now.tick());
        self.await_workers();
    }

    /// Is busy until every worker has carried out what it was sent so far and has handled the
    /// packets it was at.
    pub fn await_workers(&mut self) {
        for link in &mut self.links {
            link.owes_barrier = true;
        }
    }

    /// Whether a sweep is under way, commands wait to be sent or taken, or a worker is awaited.
    pub fn is_busy(&self) -> bool {
        self.links.iter().enumerate().any(|(worker, link)| {
            let waits = !link.backlog.is_empty() || !link.commands.is_empty();
            waits || link.owes_barrier || link.barriers > 0 || self.sweep.is_running(worker)
        })
    }

    /// Blocks at housekeeping itself.
    pub fn blocks_held(&self) -> usize {
        self.lending.held()
    }

    /// Ports of the blocks at housekeeping.
    pub fn port_census(&self, now: Tick) -> PortCensus {
        self.lending.port_census(now)
    }

    /// Takes back every block that is under way; to be called when the workers have stopped.
    pub fn take_back(&mut self) {
        for link in &mut self.links {
            let untaken = link.untaken.try_iter().chain(link.backlog.drain(..));
            for command in untaken {
                if let Command::Lend(leases) = command {
                    self.lending.keep(leases);
                }
            }
            for event in link.events.try_iter() {
                if let Event::Returned { leases, .. } | Event::Withdrawn { leases } = event {
                    self.lending.keep(leases);
                }
            }
        }
    }

    /// Asks and announces, at once where a link has come up.
    fn mind_links(&mut self, clock: Instant) {
        for (port, seen) in self.ups.iter_mut().enumerate() {
            let ups = self.states.ups(port);
            if ups != std::mem::replace(seen, ups) {
                let port = port as u8;
                self.resolver.ask_all(port, clock);
                self.resolver6.ask_all(port, clock);
                self.probing.begin(port, &mut self.announcing, clock);
                self.announcing.begin(port, &self.forwarding, self.reloading.space(), clock);
            }
        }
        let Self { links, probing, announcing, conflicts, .. } = self;
        probing.run(links, announcing, conflicts, clock);
        self.announcing.run(&mut self.links, clock);
        self.resolver.run(&mut self.links, clock);
        self.resolver6.run(&mut self.links, clock);
    }

    fn take(&mut self, worker: u16, event: Event, clock: Instant) {
        match event {
            Event::Wish(wish) => self.lending.wish(&mut self.links, worker, wish, clock),
            Event::Returned { ticket, leases } => {
                self.lending.returned(&mut self.links, ticket, leases, clock);
            }
            Event::Adopted { version, old } => {
                let Self { links, lending, reloading, .. } = self;
                reloading.adopted(links, lending, worker, version);
                drop(old);
            }
            Event::Routed { version, old } => {
                self.routing.routed(worker, version);
                drop(old);
            }
            Event::Withdrawn { leases } => {
                let more = leases.is_full();
                self.lending.keep(leases);
                if more {
                    self.links[usize::from(worker)].send(Command::Withdraw);
                }
            }
            Event::RefusalsTold(page) => {
                self.asking.told(&mut self.links, usize::from(worker), page);
            }
            Event::BarrierReached => self.links[usize::from(worker)].barriers -= 1,
            Event::Resolve { port, address } => {
                let Self { links, resolver, resolver6, .. } = self;
                match address {
                    IpAddr::V4(a) => resolver.resolve(links, worker, port, a.into(), clock),
                    IpAddr::V6(a) => resolver6.resolve(links, worker, port, a.into(), clock),
                }
            }
            Event::AddressTaken { port, address, mac } => {
                let Self { conflicts, probing, .. } = self;
                let is_to_defend = match address {
                    IpAddr::V4(_) => conflicts.taken(port, address, mac, clock),
                    IpAddr::V6(a) => probing.taken(port, a, mac, conflicts, clock),
                };
                if is_to_defend {
                    self.announcing.defend(port, address, clock);
                }
            }
            Event::NeighbourSeen { port, address, mac, to_us } => {
                let Self { resolver, resolver6, conflicts, .. } = self;
                match address {
                    IpAddr::V4(a) => resolver.seen((port, a.into()), mac, to_us, conflicts, clock),
                    IpAddr::V6(a) => resolver6.seen((port, a.into()), mac, to_us, conflicts, clock),
                }
            }
        }
    }
}
