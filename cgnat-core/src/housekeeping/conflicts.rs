//! Addresses that two hosts of a link use (RFC 5227, RFC 4862): what the operator is told of it.
//!
//! Who goes on with it is told of once; after a pause, or of another MAC, again. All is bounded:
//! addresses that are remembered, and sentences that wait.

use std::net::IpAddr;

use hashbrown::HashMap;

use crate::packet::ethernet::Mac;
use crate::time::Instant;

/// After so long without it a conflict is told of anew.
const PAUSE_MS: u64 = 600_000;

/// Time until another MAC in the same conflict is told of.
const OTHER_MS: u64 = 60_000;

/// Between two announcements that defend an address (RFC 5227: DEFEND_INTERVAL).
const DEFEND_MS: u64 = 10_000;

/// Addresses that are remembered; of more nothing is told.
const REMEMBERED: usize = 256;

/// What waits to be told.
const WAITING: usize = 64;

/// What a neighbour did that is amiss. Ports are their index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// Somebody else uses an address of ours.
    Taken {
        /// Where.
        port: u8,
        /// The address.
        address: IpAddr,
        /// Who.
        mac: Mac,
    },
    /// Somebody else had an address of ours first, so it is not used.
    Duplicate {
        /// Where.
        port: u8,
        /// The address.
        address: IpAddr,
        /// Who.
        mac: Mac,
    },
    /// An address that was not used is ours now.
    Settled {
        /// Where.
        port: u8,
        /// The address.
        address: IpAddr,
    },
    /// A second MAC is shown for a neighbour; the first is used as long as it answers.
    Disputed {
        /// Where.
        port: u8,
        /// The neighbour.
        address: IpAddr,
        /// The MAC that is used.
        used: Mac,
        /// The other one.
        mac: Mac,
    },
    /// A neighbour has another MAC than before.
    Moved {
        /// Where.
        port: u8,
        /// The neighbour.
        address: IpAddr,
        /// The MAC that was used.
        from: Mac,
        /// The MAC that is used now.
        to: Mac,
    },
}

struct Known {
    mac: Mac,
    /// When it was told, was seen last, and when the address was defended.
    told: Instant,
    seen: Instant,
    defended: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Conflicts {
    known: HashMap<(u8, IpAddr), Known>,
    waiting: Vec<Conflict>,
}

impl Conflicts {
    /// Somebody else uses an address of ours; whether it is to be defended now.
    pub(super) fn taken(&mut self, port: u8, address: IpAddr, mac: Mac, clock: Instant) -> bool {
        let conflict = Conflict::Taken { port, address, mac };
        let Some(known) = self.note((port, address), mac, clock, conflict) else {
            return false;
        };
        let is_due = known.defended.is_none_or(|last| clock >= last.plus_millis(DEFEND_MS));
        if is_due {
            known.defended = Some(clock);
        }
        is_due
    }

    /// Somebody else has an address that is not used yet.
    pub(super) fn duplicate(&mut self, port: u8, address: IpAddr, mac: Mac, clock: Instant) {
        let conflict = Conflict::Duplicate { port, address, mac };
        self.note((port, address), mac, clock, conflict);
    }

    /// An address that was somebody else's is ours.
    pub(super) fn settled(&mut self, port: u8, address: IpAddr) {
        self.known.remove(&(port, address));
        self.tell(Conflict::Settled { port, address });
    }

    /// A neighbour that is known by `used` shows another MAC.
    pub(super) fn disputed(
        &mut self,
        port: u8,
        address: IpAddr,
        used: Mac,
        mac: Mac,
        clock: Instant,
    ) {
        let conflict = Conflict::Disputed { port, address, used, mac };
        self.note((port, address), mac, clock, conflict);
    }

    /// A neighbour is at another MAC now.
    pub(super) fn moved(&mut self, port: u8, address: IpAddr, from: Mac, to: Mac) {
        self.tell(Conflict::Moved { port, address, from, to });
    }

    pub(super) fn take(&mut self) -> Vec<Conflict> {
        std::mem::take(&mut self.waiting)
    }

    fn note(
        &mut self,
        place: (u8, IpAddr),
        mac: Mac,
        clock: Instant,
        conflict: Conflict,
    ) -> Option<&mut Known> {
        if !self.known.contains_key(&place) && self.known.len() >= REMEMBERED {
            self.known.retain(|_, known| clock < known.seen.plus_millis(PAUSE_MS));
            if self.known.len() >= REMEMBERED {
                return None;
            }
        }
        let is_new = match self.known.get_mut(&place) {
            Some(known) => {
                let is_old = clock < known.seen.plus_millis(PAUSE_MS);
                let is_same = known.mac == mac || clock < known.told.plus_millis(OTHER_MS);
                known.seen = clock;
                !(is_old && is_same)
            }
            None => true,
        };
        if is_new {
            let defended = self.known.get(&place).and_then(|known| known.defended);
            self.known.insert(place, Known { mac, told: clock, seen: clock, defended });
            self.tell(conflict);
        }
        self.known.get_mut(&place)
    }

    fn tell(&mut self, conflict: Conflict) {
        if self.waiting.len() < WAITING {
            self.waiting.push(conflict);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(address: u32) -> IpAddr {
        std::net::Ipv4Addr::from(address).into()
    }

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn a_conflict_is_told_once_and_again_after_a_pause_or_of_another_mac() {
        let mut conflicts = Conflicts::default();
        let at = Instant::from_millis;
        let address = ip(7);
        let taken = |mac| Conflict::Taken { port: 1, address, mac };
        for ms in (1_000..100_000).step_by(500) {
            let defends = conflicts.taken(1, address, A, at(ms));
            assert_eq!(defends, ms % 10_000 == 1_000, "{ms}");
        }
        assert_eq!(conflicts.take(), [taken(A)]);
        conflicts.taken(1, address, B, at(100_000));
        assert_eq!(conflicts.take(), [taken(B)]);
        // Two that take turns are no reason to say more.
        for ms in (100_000..160_000).step_by(100) {
            conflicts.taken(1, address, if ms % 200 == 0 { A } else { B }, at(ms));
        }
        assert_eq!(conflicts.take(), []);
        conflicts.taken(1, address, B, at(800_000));
        assert_eq!(conflicts.take(), [taken(B)]);
    }

    #[test]
    fn what_is_remembered_and_what_waits_is_bounded() {
        let mut conflicts = Conflicts::default();
        for address in 0..10_000 {
            conflicts.disputed(0, ip(address), A, B, Instant::from_millis(1_000));
        }
        assert_eq!(conflicts.known.len(), REMEMBERED);
        assert_eq!(conflicts.take().len(), WAITING);
        conflicts.disputed(0, ip(20_000), A, B, Instant::from_millis(2_000_000));
        assert_eq!(conflicts.take().len(), 1);
    }
}
