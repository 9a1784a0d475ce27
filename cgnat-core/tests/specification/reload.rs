//! Reloads: which addresses are ours, and which of them may be given.

use std::collections::BTreeSet;

use cgnat_core::config::Config;
use cgnat_core::housekeeping::{Notice, Reloaded};

use super::drive::{Driver, Fault};
use super::events::{Event, Events};
use super::nat::Pool;
use super::wire::ip;

/// The shortest time between the end of the last use of an address and its departure: nothing
/// that was translated waits longer.
const GRACE_MS: u64 = 12_000;

/// Addresses that the first pool may have; four more than at the start.
fn candidates() -> std::ops::Range<u32> {
    ip("203.0.113.0")..ip("203.0.113.6")
}

impl Pool {
    pub fn is_open(&self, address: u32) -> bool {
        let closed = self.draining.contains(&address) || self.leaving.contains(&address);
        self.addresses.contains(&address) && !closed
    }

    /// Addresses that may be given.
    pub fn open(&self) -> Vec<u32> {
        self.addresses.iter().copied().filter(|address| self.is_open(*address)).collect()
    }
}

impl Events {
    pub(super) fn reload(&mut self) -> Event {
        let sure = candidates().start + self.below(6);
        let listed: Vec<u32> = candidates().filter(|a| *a == sure || !self.one_in(3)).collect();
        let drain = listed.iter().copied().filter(|a| *a != sure && self.one_in(3)).collect();
        Event::Reload(listed.into_iter().collect(), drain)
    }
}

impl Driver {
    /// The core gets a file with these addresses; the specification knows what that means.
    pub(super) fn reload(
        &mut self,
        listed: BTreeSet<u32>,
        drain: BTreeSet<u32>,
    ) -> Result<(), String> {
        // Every worker has the version before.
        self.rounds(self.swept);
        let pool = &mut self.world.rules.pools[0];
        (pool.addresses, pool.draining) = (listed.clone(), drain.clone());
        let yaml = self.world.yaml();
        let config = Config::from_yaml("world.yaml", &yaml).map_err(|e| e.to_string())?;
        let done = self.lab.housekeeping.reload(&config).map_err(|e| e.to_string())?;

        let now = self.ticks();
        let pool = &mut self.nat.rules.pools[0];
        let (ours, open): (_, Vec<u32>) = (pool.addresses.clone(), pool.open());
        let count = |all: &BTreeSet<u32>, is: &dyn Fn(&u32) -> bool| {
            all.iter().filter(|address| is(address)).count()
        };
        let opened = |address: &u32| !drain.contains(address);
        let expected = Reloaded {
            added: count(&listed, &|a| !ours.contains(a) && opened(a)),
            reopened: count(&listed, &|a| ours.contains(a) && !open.contains(a) && opened(a)),
            draining: count(&drain, &|a| !pool.draining.contains(a)),
            leaving: count(&ours, &|a| !listed.contains(a) && !pool.leaving.contains(a)),
        };
        let heard = self.fault != Fault::NoDrain;
        if done != expected && heard {
            return Err(format!("{done:?}, not {expected:?}"));
        }
        pool.leaving = ours.difference(&listed).copied().collect();
        pool.addresses.extend(&listed);
        pool.draining = if heard { drain } else { BTreeSet::new() };
        for address in pool.open().into_iter().filter(|address| !open.contains(address)) {
            self.drained.remove(&address);
            // Nobody had a block of it until now.
            for who in (0..self.world.workers).chain([u16::MAX]) {
                self.bare.insert((who, address), now);
            }
        }
        Ok(())
    }

    /// What housekeeping says of addresses must be true.
    pub(super) fn take_notices(&mut self) -> Result<(), String> {
        for notice in self.lab.housekeeping.take_notices() {
            let (Notice::Drained(number, address) | Notice::Forgotten(number, address)) = notice;
            let address = u32::from(address);
            if let Some((block, _)) = self.nat.blocks.iter().find(|(block, _)| block.0 == address) {
                return Err(format!("{notice:?}, and {block:?} is held"));
            }
            let pool = &mut self.nat.rules.pools[usize::from(number)];
            if pool.is_open(address) && self.fault != Fault::NoDrain {
                return Err(format!("{notice:?}, and it is open"));
            }
            if let Notice::Drained(..) = notice {
                self.drained.insert(address, self.lab.now);
                continue;
            }
            let rested = self.drained.remove(&address).map(|at| at.plus_millis(GRACE_MS));
            if rested.is_none_or(|due| self.lab.now < due) || !pool.leaving.contains(&address) {
                return Err(format!("{notice:?} too early"));
            }
            if self.fault != Fault::NoDeparture {
                pool.leaving.remove(&address);
                pool.addresses.remove(&address);
            }
        }
        Ok(())
    }

    /// In the end nothing is left of what drained, and who left has gone.
    pub(super) fn nobody_drains(&self) -> Result<(), String> {
        let draining = self.lab.housekeeping.draining();
        let pools = &self.nat.rules.pools;
        let known: usize = pools.iter().map(|pool| pool.draining.len()).sum();
        let over =
            draining.iter().all(|d| (d.blocks, d.subscribers, d.is_leaving) == (0, 0, false));
        if over && draining.len() == known && pools.iter().all(|pool| pool.leaving.is_empty()) {
            return Ok(());
        }
        Err(format!("{draining:?} in the end"))
    }
}
