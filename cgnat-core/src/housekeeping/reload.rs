//! Versions of external space: publishing them, and draining addresses.
//!
//! The order in which things happen is the safety of it (docs/decisions/0018-reload.md):
//! one version at a time; a block of an opened address is lent when every worker has the version;
//! an address is drained when nobody holds a block of it; one that left is forgotten when also
//! nothing can wait any more that was translated with it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::Link;
use super::lending::Lending;
use crate::config::Config;
use crate::control::Command;
use crate::space::revision::RevisionError;
use crate::space::{AddressState, ExternalSpace, OwnerMap};
use crate::time::Instant;

/// Time between two looks at addresses that drain.
const LOOK_MS: u64 = 500;

/// The longest that a packet or a held SYN, apart from fragments, waits at a worker, and some
/// more.
const WAIT_MS: u64 = 10_000;

/// Notices that wait to be taken; more are not kept.
const NOTICES: usize = 4_096;

/// Pool and index of an address.
type Spot = (u16, u32);

/// Why a reload did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// A worker is late.
    #[error("worker {worker} has not taken the last reload yet; try again")]
    UnderWay {
        /// The first such worker.
        worker: u16,
    },
    /// It cannot be.
    #[error(transparent)]
    Revision(#[from] RevisionError),
}

/// What a reload does, in addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// Added to pools.
    pub added: usize,
    /// Drained or gone so far, open again.
    pub reopened: usize,
    /// To be drained.
    pub draining: usize,
    /// To be drained and forgotten.
    pub leaving: usize,
}

/// An address that is not lent any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draining {
    /// Index of the pool.
    pub pool: u16,
    /// The address.
    pub address: Ipv4Addr,
    /// It left the configuration.
    pub is_leaving: bool,
    /// Subscribers that are paired with it.
    pub subscribers: u32,
    /// Its blocks that workers hold.
    pub blocks: u32,
}

/// What has become of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Nobody uses it any more: pool, address.
    Drained(u16, Ipv4Addr),
    /// It was drained, it left the configuration, and it is not ours any more.
    Forgotten(u16, Ipv4Addr),
}

pub(super) struct Reloading {
    space: Arc<ExternalSpace>,
    owners: OwnerMap,
    /// Version that each worker has.
    versions: Vec<u64>,
    /// Addresses that nobody holds a block of, and since when.
    drained: BTreeMap<Spot, Instant>,
    looked_at: Option<Instant>,
    /// How long what was translated may wait.
    grace_ms: u64,
    notices: Vec<Notice>,
}

impl Reloading {
    pub(super) fn new(
        workers: usize,
        space: Arc<ExternalSpace>,
        owners: OwnerMap,
        fragments_ms: u64,
    ) -> Self {
        Self {
            versions: vec![space.version(); workers],
            space,
            owners,
            drained: BTreeMap::new(),
            looked_at: None,
            grace_ms: WAIT_MS + fragments_ms,
            notices: Vec::new(),
        }
    }

    pub(super) fn space(&self) -> &Arc<ExternalSpace> {
        &self.space
    }

    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// A worker that has not the last version.
    fn late(&self) -> Option<u16> {
        let late = self.versions.iter().position(|version| *version != self.space.version());
        late.map(|worker| worker as u16)
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.late().is_some()
    }

    pub(super) fn reload(
        &mut self,
        links: &mut [Link],
        lending: &mut Lending,
        config: &Config,
    ) -> Result<Reloaded, ReloadError> {
        if let Some(worker) = self.late() {
            return Err(ReloadError::UnderWay { worker });
        }
        let Some(next) = self.space.revised(config)? else {
            return Ok(Reloaded::default());
        };
        let mut done = Reloaded::default();
        for (pool, index) in next.changes() {
            let state = |space: &ExternalSpace| space.pools()[usize::from(*pool)].state(*index);
            let before = state(&self.space);
            match state(&next) {
                AddressState::Open if before == AddressState::Vacant => done.added += 1,
                AddressState::Open => done.reopened += 1,
                AddressState::Leaving => done.leaving += 1,
                AddressState::Draining | AddressState::Vacant => done.draining += 1,
            }
        }
        self.publish(links, lending, next);
        Ok(done)
    }

    /// Sends a version to every worker.
    fn publish(&mut self, links: &mut [Link], lending: &mut Lending, next: ExternalSpace) {
        let next = Arc::new(next);
        for spot in next.changes() {
            if state_of(&next, *spot) == AddressState::Open {
                self.drained.remove(spot);
            }
        }
        self.space = next.clone();
        lending.set_space(next.clone());
        for link in links {
            link.send(Command::Adopt(next.clone()));
        }
        // Looked at as soon as every worker has it.
        self.looked_at = None;
    }

    /// A worker has answered. With the last answer blocks of opened addresses are lent.
    pub(super) fn adopted(
        &mut self,
        links: &mut [Link],
        lending: &mut Lending,
        worker: u16,
        version: u64,
    ) {
        let was_under_way = self.is_under_way();
        self.versions[usize::from(worker)] = version;
        if was_under_way && !self.is_under_way() {
            lending.open(links);
        }
    }

    /// Minds addresses that drain, and forgets those that have left.
    pub(super) fn run(&mut self, links: &mut [Link], lending: &mut Lending, clock: Instant) {
        let early = self.looked_at.is_some_and(|at| clock < at.plus_millis(LOOK_MS));
        if early || self.is_under_way() {
            return;
        }
        self.looked_at = Some(clock);
        let closing: Vec<Spot> = self.space.closing().collect();
        let mut waits_for = vec![false; links.len()];
        let mut gone = Vec::new();
        for spot in closing {
            let blocks = self.space.pools()[usize::from(spot.0)].numbers_at(spot.1);
            let mut is_drained = true;
            for owner in blocks.filter_map(|block| self.owners.owner(block)) {
                is_drained = false;
                waits_for[usize::from(owner.worker)] = true;
            }
            if !is_drained {
                continue;
            }
            let first_seen = !self.drained.contains_key(&spot);
            let since = *self.drained.entry(spot).or_insert(clock);
            if first_seen {
                self.notice(Notice::Drained(spot.0, self.address(spot)));
            }
            let leaves = state_of(&self.space, spot) == AddressState::Leaving;
            if leaves && clock >= since.plus_millis(self.grace_ms) {
                gone.push(spot);
            }
        }
        for (link, waits) in links.iter_mut().zip(waits_for) {
            // One that does not keep up is asked later.
            if waits && link.has_room() {
                link.send(Command::Withdraw);
            }
        }
        if !gone.is_empty() {
            for spot in &gone {
                self.drained.remove(spot);
                self.notice(Notice::Forgotten(spot.0, self.address(*spot)));
            }
            let next = self.space.without(&gone);
            self.publish(links, lending, next);
        }
    }

    fn notice(&mut self, notice: Notice) {
        if self.notices.len() < NOTICES {
            self.notices.push(notice);
        }
    }

    fn address(&self, spot: Spot) -> Ipv4Addr {
        self.space.address(spot.0, spot.1).into()
    }

    pub(super) fn draining(&self) -> Vec<Draining> {
        let spots = self.space.closing();
        let draining = spots.map(|spot| {
            let mut blocks = self.space.pools()[usize::from(spot.0)].numbers_at(spot.1);
            Draining {
                pool: spot.0,
                address: self.address(spot),
                is_leaving: state_of(&self.space, spot) == AddressState::Leaving,
                subscribers: self.space.occupancy().of(spot.0, spot.1).subscribers,
                blocks: blocks.by_ref().filter(|b| self.owners.owner(*b).is_some()).count() as u32,
            }
        });
        draining.collect()
    }
}

fn state_of(space: &ExternalSpace, spot: Spot) -> AddressState {
    space.pools()[usize::from(spot.0)].state(spot.1)
}
