//! Who has how many datagrams in fragments under way, and how many fragments that wait.
//!
//! Counted exactly, by a keyed hash of 64 bits for each party's address: no two share a count.
//! A party has a record for as long as it has a datagram; there is room for two per context, so
//! there is always one.

use super::NONE;

/// Who answers for a datagram, as hashes: a subscriber; of the Internet, a source and an external
/// address.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    parties: [Option<u64>; 2],
    /// Datagrams that the first may have, if not the usual share.
    most: Option<u32>,
}

impl Claim {
    /// From a subscriber, which may have its share, or so many.
    pub fn of_subscriber(source: u64, most: Option<u32>) -> Self {
        Self { parties: [Some(source), None], most }
    }

    /// From the Internet: both may have their share.
    pub fn of_stranger(source: u64, destination: u64) -> Self {
        Self { parties: [Some(source), Some(destination)], most: None }
    }
}

/// Records of the parties of one datagram.
pub(super) type Claimed = [u32; 2];

/// What the first and the second party of a datagram may have.
pub(super) type Shares = [u32; 2];

#[derive(Clone)]
struct Party {
    hash: u64,
    datagrams: u32,
    waiting: u32,
    /// Next in the hash chain, or in the list of free ones.
    next: u32,
}

pub(super) struct Parties {
    records: Vec<Party>,
    heads: Vec<u32>,
    free: u32,
}

impl Parties {
    /// For so many contexts.
    pub(super) fn new(contexts: u32) -> Self {
        let count = 2 * contexts;
        let next = |slot: u32| if slot + 1 < count { slot + 1 } else { NONE };
        let party = |slot| Party { hash: 0, datagrams: 0, waiting: 0, next: next(slot) };
        Self {
            records: (0..count).map(party).collect(),
            heads: vec![NONE; (count as usize).next_power_of_two()],
            free: if count > 0 { 0 } else { NONE },
        }
    }

    /// Bytes from the heap for each context.
    pub(super) const BYTES: usize = 2 * size_of::<Party>() + 4 * size_of::<u32>();

    /// One more datagram of each party; `None` if one has as many as it may, its share unless the
    /// claim says otherwise.
    pub(super) fn claim(&mut self, claim: Claim, shares: Shares) -> Option<Claimed> {
        let most = [claim.most.unwrap_or(shares[0]), shares[1]];
        let has_room = |(hash, most): (u64, u32)| match self.find(hash) {
            NONE => most > 0,
            slot => self.records[slot as usize].datagrams < most,
        };
        let mut parties = claim.parties.into_iter().zip(most).filter_map(|(p, n)| Some((p?, n)));
        if !parties.all(has_room) {
            return None;
        }
        Some(claim.parties.map(|party| party.map_or(NONE, |hash| self.enter(hash))))
    }

    /// One datagram less.
    pub(super) fn release(&mut self, claimed: Claimed) {
        for slot in claimed.into_iter().filter(|slot| *slot != NONE) {
            let party = &mut self.records[slot as usize];
            party.datagrams -= 1;
            if party.datagrams == 0 {
                debug_assert_eq!(party.waiting, 0, "fragments of no datagram wait");
                self.leave(slot);
            }
        }
    }

    /// One more fragment that waits, of each party; false if one has its share.
    pub(super) fn wait(&mut self, claimed: Claimed, shares: Shares) -> bool {
        let slots = claimed.into_iter().zip(shares).filter(|(slot, _)| *slot != NONE);
        let mut each = slots.clone();
        let has_room = each.all(|(slot, most)| self.records[slot as usize].waiting < most);
        if has_room {
            slots.for_each(|(slot, _)| self.records[slot as usize].waiting += 1);
        }
        has_room
    }

    /// One less that waits.
    pub(super) fn stop_waiting(&mut self, claimed: Claimed) {
        for slot in claimed.into_iter().filter(|slot| *slot != NONE) {
            self.records[slot as usize].waiting -= 1;
        }
    }

    fn place(&self, hash: u64) -> usize {
        hash as usize & (self.heads.len() - 1)
    }

    fn find(&self, hash: u64) -> u32 {
        let mut slot = self.heads[self.place(hash)];
        // Bounded: a chain holds each record once.
        while slot != NONE && self.records[slot as usize].hash != hash {
            slot = self.records[slot as usize].next;
        }
        slot
    }

    fn enter(&mut self, hash: u64) -> u32 {
        let found = self.find(hash);
        if found != NONE {
            self.records[found as usize].datagrams += 1;
            return found;
        }
        let (slot, place) = (self.free, self.place(hash));
        let party = &mut self.records[slot as usize];
        self.free = party.next;
        *party = Party { hash, datagrams: 1, waiting: 0, next: self.heads[place] };
        self.heads[place] = slot;
        slot
    }

    fn leave(&mut self, slot: u32) {
        let Party { hash, next, .. } = self.records[slot as usize];
        let place = self.place(hash);
        if self.heads[place] == slot {
            self.heads[place] = next;
        } else {
            let mut before = self.heads[place];
            while self.records[before as usize].next != slot {
                before = self.records[before as usize].next;
            }
            self.records[before as usize].next = next;
        }
        self.records[slot as usize].next = self.free;
        self.free = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_party_is_counted_by_itself_and_nothing_leaks() {
        let mut parties = Parties::new(40);
        for round in 0..20u64 {
            let mut held = Vec::new();
            // Hashes that differ in their upper bits alone meet in one chain.
            for n in 0..40u64 {
                let subscriber = Claim::of_subscriber((n % 10) << 40 | round, Some(3));
                held.extend(parties.claim(subscriber, [99; 2]));
            }
            assert_eq!(held.len(), 30);
            let mut order: Vec<usize> = (0..30).collect();
            order.rotate_left(round as usize);
            order.into_iter().for_each(|n| parties.release(held[n]));
            assert!(parties.heads.iter().all(|head| *head == NONE));
        }
        let mut free = 0;
        let mut slot = parties.free;
        while slot != NONE {
            (free, slot) = (free + 1, parties.records[slot as usize].next);
        }
        assert_eq!(free, 80);
    }

    #[test]
    fn of_two_parties_neither_has_more_than_its_share() {
        let mut parties = Parties::new(40);
        let mut claim = |source, destination| {
            parties.claim(Claim::of_stranger(source, destination), [2, 3]).is_some()
        };
        assert_eq!([1, 2, 3, 4].map(|source| claim(source, 9)), [true, true, true, false]);
        assert_eq!([8, 7, 6].map(|destination| claim(5, destination)), [true, true, false]);
    }

    #[test]
    fn what_waits_is_counted_for_each_party() {
        let mut parties = Parties::new(4);
        let claimed = parties.claim(Claim::of_stranger(1, 2), [9; 2]).expect("room");
        let other = parties.claim(Claim::of_stranger(3, 2), [9; 2]).expect("room");
        assert!(parties.wait(claimed, [2; 2]) && parties.wait(other, [2; 2]));
        assert!(!parties.wait(claimed, [3, 2]), "the second party has two");
        parties.stop_waiting(other);
        assert!(parties.wait(claimed, [3, 2]));
    }
}
