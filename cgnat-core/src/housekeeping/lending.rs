//! Lending port blocks, so that a subscriber's port budget does not depend on how many
//! workers there are.
//!
//! At start every block is lent, to where `homes` says: mostly the worker that its address
//! hashes to. A worker that runs short wishes for more. What
//! housekeeping holds is lent at once; else the other workers are asked in turn to give back
//! free blocks, and what comes is lent on. Only when nobody has any is the wish denied.
//!
//! Blocks of addresses that are not open stay at home; a reload lends them or brings them there.

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::Link;
use super::homes::Homes;
use crate::control::Command;
use crate::shard::{BlockWish, SLICE};
use crate::space::{ExternalSpace, OwnerMap};
use crate::table::port_block::{BlockLease, PortCensus};
use crate::time::{Instant, Tick};
use crate::worker::steering::Steering;

/// How long a worker may take to answer a recall before the next one is asked.
const ANSWER_MS: u64 = 1_000;

/// Wishes that are looked after at a time; one per worker and address would be the most.
const SEARCHES: usize = 4_096;

/// A wish whose blocks are being recalled from other workers.
struct Search {
    ticket: u64,
    requester: u16,
    wish: BlockWish,
    /// Workers not asked yet, next one last.
    left: Vec<u16>,
    asked_at: Instant,
    /// [`Lending::lends_for`] the wish when the first worker was asked.
    lends: u64,
}

pub(super) struct Lending {
    owners: OwnerMap,
    space: Arc<ExternalSpace>,
    steering: Steering,
    /// Blocks at housekeeping that may be lent.
    held: Vec<BlockLease>,
    /// Blocks at housekeeping that may not: nobody's, or of an address that is not open.
    home: Vec<BlockLease>,
    searches: Vec<Search>,
    next_ticket: u64,
    /// Times that blocks were lent, by pool and external address.
    lends: Vec<Vec<u64>>,
}

impl Lending {
    pub(super) fn new(
        links: &mut [Link],
        space: Arc<ExternalSpace>,
        owners: OwnerMap,
        leases: Vec<BlockLease>,
    ) -> Self {
        let lends = space.pools().iter().map(|pool| vec![0; pool.places().len()]).collect();
        let mut lending = Self {
            owners,
            steering: Steering::new(links.len() as u16),
            held: Vec::new(),
            home: Vec::new(),
            searches: Vec::new(),
            next_ticket: 1,
            lends,
            space,
        };
        lending.lend_first(links, leases);
        lending
    }

    /// Lends blocks that no worker has had: each to where it belongs at first.
    fn lend_first(&mut self, links: &mut [Link], leases: Vec<BlockLease>) {
        let space = self.space.clone();
        let mut slices: Vec<ArrayVec<BlockLease, SLICE>> =
            links.iter().map(|_| ArrayVec::new()).collect();
        let homes = space.pools().iter().map(|pool| Homes::new(pool, self.steering));
        let homes: Vec<Homes<'_>> = homes.collect();
        for lease in leases {
            let number = usize::from(lease.pool());
            let pool = &space.pools()[number];
            if !pool.is_lendable(lease.id()) {
                self.home.push(lease);
                continue;
            }
            let worker = homes[number].of(lease.id());
            let slice = &mut slices[usize::from(worker)];
            slice.push(lease);
            if slice.is_full() {
                self.lend(links, worker, std::mem::take(slice));
            }
        }
        for (worker, slice) in slices.into_iter().enumerate() {
            if !slice.is_empty() {
                self.lend(links, worker as u16, slice);
            }
        }
    }

    /// From now on `space` says which blocks may be lent. Those that may no more stay at home;
    /// those that may come there only with [`Lending::open`].
    pub(super) fn set_space(&mut self, space: Arc<ExternalSpace>) {
        let is_lendable = |lease: &BlockLease| is_lendable(&space, lease);
        self.home.extend(self.held.extract_if(.., |lease| !is_lendable(lease)));
        self.space = space;
    }

    /// Lends the blocks at home that may be lent. They are made ready for their address, which
    /// may be another one than before.
    pub(super) fn open(&mut self, links: &mut [Link]) {
        let space = self.space.clone();
        let mut opened: Vec<BlockLease> =
            self.home.extract_if(.., |lease| is_lendable(&space, lease)).collect();
        let reserved = if opened.is_empty() { Vec::new() } else { space.reserved_ports() };
        for lease in &mut opened {
            lease.wipe();
            space.exclude_ports(lease, &reserved);
        }
        self.lend_first(links, opened);
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn port_census(&self, now: Tick) -> PortCensus {
        let mut census = PortCensus::default();
        let ours =
            |lease: &&BlockLease| self.space.pools()[usize::from(lease.pool())].is_ours(lease.id());
        for lease in self.held.iter().chain(&self.home).filter(ours) {
            census += lease.census(now);
        }
        census
    }

    fn lend(&mut self, links: &mut [Link], worker: u16, slice: ArrayVec<BlockLease, SLICE>) {
        for lease in &slice {
            self.lends[usize::from(lease.pool())][lease.address_index() as usize] += 1;
            self.owners.set(lease.id(), Some(worker));
        }
        links[usize::from(worker)].send(Command::Lend(slice));
    }

    /// Lends what housekeeping holds for `wish`; says whether there was any.
    fn lend_held(&mut self, links: &mut [Link], worker: u16, wish: BlockWish) -> bool {
        let mut slice = ArrayVec::new();
        let mut place = 0;
        while place < self.held.len() && !slice.is_full() {
            let lease = &self.held[place];
            let fits = lease.pool() == wish.pool
                && wish.address.is_none_or(|address| address == lease.address_index())
                && wish.fit.fits(lease.first_port());
            if fits {
                slice.push(self.held.swap_remove(place));
            } else {
                place += 1;
            }
        }
        if slice.is_empty() {
            return false;
        }
        self.lend(links, worker, slice);
        true
    }

    pub(super) fn wish(
        &mut self,
        links: &mut [Link],
        requester: u16,
        wish: BlockWish,
        clock: Instant,
    ) {
        if self.lend_held(links, requester, wish) {
            return;
        }
        if self.searches.len() == SEARCHES {
            return links[usize::from(requester)].send(Command::Denied(wish));
        }
        let left = others(requester, links.len() as u16);
        let lends = self.lends_for(wish);
        self.searches.push(Search { ticket: 0, requester, wish, left, asked_at: clock, lends });
        self.ask_next(links, self.searches.len() - 1, clock);
    }

    /// Times that blocks which would do for `wish` were lent.
    fn lends_for(&self, wish: BlockWish) -> u64 {
        let lends = &self.lends[usize::from(wish.pool)];
        wish.address.map_or_else(|| lends.iter().sum(), |address| lends[address as usize])
    }

    /// Asks the next worker of a search, or ends it with a denial.
    fn ask_next(&mut self, links: &mut [Link], place: usize, clock: Instant) {
        let lends = self.lends_for(self.searches[place].wish);
        let search = &mut self.searches[place];
        if search.left.is_empty() && search.lends != lends {
            // Blocks moved meanwhile: one may have come to a worker that was asked before.
            search.lends = lends;
            search.left = others(search.requester, links.len() as u16);
        }
        let Some(worker) = search.left.pop() else {
            let search = self.searches.swap_remove(place);
            return links[usize::from(search.requester)].send(Command::Denied(search.wish));
        };
        search.ticket = self.next_ticket;
        search.asked_at = clock;
        self.next_ticket += 1;
        let (wish, ticket) = (search.wish, search.ticket);
        links[usize::from(worker)].send(Command::Recall { wish, count: SLICE, ticket });
    }

    pub(super) fn returned(
        &mut self,
        links: &mut [Link],
        ticket: u64,
        leases: ArrayVec<BlockLease, SLICE>,
        clock: Instant,
    ) {
        self.keep(leases);
        // The answer may come after its search has given up; then the blocks stay here.
        let Some(place) = self.searches.iter().position(|search| search.ticket == ticket) else {
            return;
        };
        let (requester, wish) = (self.searches[place].requester, self.searches[place].wish);
        if self.lend_held(links, requester, wish) {
            self.searches.swap_remove(place);
        } else {
            self.ask_next(links, place, clock);
        }
    }

    /// Takes blocks back.
    pub(super) fn keep(&mut self, leases: ArrayVec<BlockLease, SLICE>) {
        for lease in leases {
            self.owners.set(lease.id(), None);
            let is_lendable = is_lendable(&self.space, &lease);
            if is_lendable { &mut self.held } else { &mut self.home }.push(lease);
        }
    }

    /// Goes on with searches whose worker does not answer.
    pub(super) fn mind_searches(&mut self, links: &mut [Link], clock: Instant) {
        let mut place = 0;
        while place < self.searches.len() {
            let count = self.searches.len();
            if clock >= self.searches[place].asked_at.plus_millis(ANSWER_MS) {
                self.ask_next(links, place, clock);
            }
            // A search that ended made room for another one at its place.
            if self.searches.len() == count {
                place += 1;
            }
        }
    }
}

fn is_lendable(space: &ExternalSpace, lease: &BlockLease) -> bool {
    space.pools()[usize::from(lease.pool())].is_lendable(lease.id())
}

/// The other workers, last one first: the next after the requester is asked first, so that
/// not always the same one gives.
fn others(requester: u16, workers: u16) -> Vec<u16> {
    (1..workers).rev().map(|n| (requester + n) % workers).collect()
}
