//! The kernel's main table, as it was told: which routes there are, and what follows for the ports.

use std::collections::BTreeMap;

use cgnat_core::config::Side;
use cgnat_core::worker::routes::{Action, Hop, Learned, MOST_OF_ONE};

use crate::netlink::watch::{Heard, Key, Kind, Place};

/// Routes of the main table that are kept, also those by other interfaces: they are the rule for
/// what is learned from changes. A larger table is refused in part, and counted.
const MOST_KEPT: usize = 262_144;

/// Routes of the same destination and metric.
const MOST_ALIKE: usize = 16;

/// Those of each key in the kernel's order: the first is used.
type Kept = BTreeMap<Key, Vec<Kind>>;

/// A port that follows the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follower {
    /// The kernel's number of its interface, while there is one.
    pub interface: Option<u32>,
    /// Index of the port.
    pub port: u8,
    /// Its side.
    pub side: Side,
}

/// The table.
#[derive(Debug, Default)]
pub struct Mirror {
    followers: Vec<Follower>,
    kept: Kept,
    /// What a dump under way has brought, and what changed meanwhile.
    incoming: Option<Kept>,
    /// A dump was asked for and has brought nothing yet. What is heard before it is older than it,
    /// and must not be taken for a change meanwhile: what undoes it may be lost.
    is_awaited: bool,
    /// Routes that were not kept, since the last dump.
    unkept: u64,
}

impl Mirror {
    /// Empty.
    pub fn new(followers: Vec<Follower>) -> Self {
        Self { followers, ..Self::default() }
    }

    /// A port that follows has its interface by another number, or none; whether that is new.
    pub fn set_interface(&mut self, follower: usize, interface: Option<u32>) -> bool {
        std::mem::replace(&mut self.followers[follower].interface, interface) != interface
    }

    /// A dump begins; one before is forgotten.
    pub fn begin_dump(&mut self) {
        (self.incoming, self.is_awaited) = (None, true);
    }

    /// What a dump has brought so far is forgotten.
    pub fn give_up_dump(&mut self) {
        (self.incoming, self.is_awaited) = (None, false);
    }

    /// A dump is under way.
    pub fn is_dumping(&self) -> bool {
        self.is_awaited || self.incoming.is_some()
    }

    /// Takes a route of a dump, or a change; whether something is other than before.
    pub fn take(&mut self, heard: &Heard) -> bool {
        if matches!(heard, Heard::Dumped(..)) && std::mem::take(&mut self.is_awaited) {
            self.incoming = Some(Kept::new());
        }
        let Self { kept, incoming, .. } = self;
        let (is_kept, has_changed) = match heard {
            Heard::Dumped(key, kind) => {
                let Some(incoming) = incoming else { return false };
                // A change may have brought it already.
                let is_there = incoming.get(key).is_some_and(|alike| alike.contains(kind));
                (is_there || put(incoming, *key, kind, Place::Last), false)
            }
            Heard::New(key, kind, place) => {
                // Both, whether or not the first has room.
                let is_in_kept = put(kept, *key, kind, *place);
                let is_in_incoming =
                    incoming.as_mut().is_none_or(|table| put(table, *key, kind, *place));
                (is_in_kept && is_in_incoming, true)
            }
            Heard::Gone(key, kind) => {
                let all = [Some(kept), incoming.as_mut()].into_iter().flatten();
                all.for_each(|table| remove(table, key, kind));
                (true, true)
            }
            Heard::DumpEnds { .. } | Heard::DumpRefused | Heard::Interface(_) | Heard::Lost => {
                return false;
            }
        };
        self.unkept += u64::from(!is_kept);
        has_changed
    }

    /// The dump is complete; whether it says otherwise than what changes have come to.
    pub fn end_dump(&mut self) -> bool {
        // One of an empty table brings nothing.
        let incoming = self.incoming.take().or(self.is_awaited.then(Kept::new));
        self.is_awaited = false;
        let Some(incoming) = incoming else { return false };
        let differs = incoming != self.kept;
        self.kept = incoming;
        differs
    }

    /// Routes in all, whatever their interface.
    pub fn len(&self) -> usize {
        self.kept.values().map(Vec::len).sum()
    }

    /// Routes that had no room.
    pub fn unkept(&self) -> u64 {
        self.unkept
    }

    /// Whether an interface is that of a port which follows.
    pub fn is_followed(&self, interface: u32) -> bool {
        self.followers.iter().any(|follower| follower.interface == Some(interface))
    }

    /// What is to be used of it on the internal and on the external side.
    pub fn learned(&self) -> [Learned; 2] {
        let mut learned = [Learned::new(), Learned::new()];
        let is_side = |side: Side| self.followers.iter().any(|follower| follower.side == side);
        let sides = [Side::Internal, Side::External].map(|side| (side, is_side(side)));
        // By destination in order, the lower metric first.
        for (Key { to, .. }, alike) in &self.kept {
            match alike.first() {
                Some(Kind::Forward(hops)) => {
                    for (side, _) in sides {
                        let mut hops: Vec<Hop> = hops
                            .iter()
                            .filter_map(|hop| {
                                let by = |f: &&Follower| {
                                    f.interface == Some(hop.interface) && f.side == side
                                };
                                let port = self.followers.iter().find(by)?.port;
                                Some(Hop { port, via: hop.via, weight: hop.weight })
                            })
                            .collect();
                        hops.sort_unstable();
                        // One more than allowed is enough to be refused.
                        hops.truncate(MOST_OF_ONE + 1);
                        if !hops.is_empty() {
                            learned[side as usize].entry(*to).or_insert(Action::Forward(hops));
                        }
                    }
                }
                // One that a route by a port comes before is not effective in the kernel either.
                Some(Kind::Refuse) if learned.iter().all(|side| !side.contains_key(to)) => {
                    for (side, _) in sides.iter().filter(|(_, is_followed)| *is_followed) {
                        learned[*side as usize].insert(*to, Action::Refuse);
                    }
                }
                _ => {}
            }
        }
        learned
    }
}

/// Puts a route in; false if there is no room.
fn put(table: &mut Kept, key: Key, kind: &Kind, place: Place) -> bool {
    if table.len() >= MOST_KEPT && !table.contains_key(&key) {
        return false;
    }
    let alike = table.entry(key).or_default();
    match place {
        Place::Instead if !alike.is_empty() => alike[0] = kind.clone(),
        _ if alike.len() >= MOST_ALIKE => return false,
        Place::Last => alike.push(kind.clone()),
        Place::First | Place::Instead => alike.insert(0, kind.clone()),
    }
    true
}

/// Takes a route out: the one that says the same, or the only one.
fn remove(table: &mut Kept, key: &Key, kind: &Kind) {
    let Some(alike) = table.get_mut(key) else { return };
    match alike.iter().position(|other| other == kind) {
        Some(place) => _ = alike.remove(place),
        // Its next hops may have died since.
        None if alike.len() == 1 => alike.clear(),
        None => {}
    }
    if alike.is_empty() {
        table.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::watch::KernelHop;

    const PORTS: [Follower; 2] = [
        Follower { interface: Some(7), port: 0, side: Side::Internal },
        Follower { interface: Some(8), port: 1, side: Side::External },
    ];

    fn key(network: u32, length: u8, metric: u32) -> Key {
        Key { to: (network, length), metric }
    }

    fn by(interface: u32, via: u32) -> Kind {
        Kind::Forward(vec![KernelHop { interface, via: Some(via), weight: 1 }])
    }

    fn used(mirror: &Mirror, side: Side, to: (u32, u8)) -> Option<Option<u32>> {
        match mirror.learned()[side as usize].get(&to)? {
            Action::Forward(hops) => Some(hops[0].via),
            Action::Refuse => Some(None),
        }
    }

    #[test]
    fn the_lowest_metric_of_a_side_is_used_and_other_interfaces_are_not() {
        let mut mirror = Mirror::new(PORTS.to_vec());
        let default = (0, 0);
        for (metric, kind) in
            [(300, Kind::Refuse), (20, by(8, 2)), (10, by(8, 1)), (5, by(9, 9)), (100, by(7, 3))]
        {
            mirror.take(&Heard::New(key(0, 0, metric), kind, Place::First));
        }
        let default_of = |mirror: &Mirror, side| used(mirror, side, default);
        assert_eq!(default_of(&mirror, Side::External), Some(Some(1)));
        assert_eq!(default_of(&mirror, Side::Internal), Some(Some(3)));
        mirror.take(&Heard::Gone(key(0, 0, 10), by(8, 1)));
        assert_eq!(default_of(&mirror, Side::External), Some(Some(2)));
        mirror.take(&Heard::Gone(key(0, 0, 100), by(7, 3)));
        // A blackhole behind a route of a port is not effective, on no side.
        assert_eq!(default_of(&mirror, Side::Internal), None);
        mirror.take(&Heard::Gone(key(0, 0, 20), by(8, 2)));
        assert_eq!(default_of(&mirror, Side::Internal), Some(None));
        assert_eq!(default_of(&mirror, Side::External), Some(None));
    }

    #[test]
    fn an_interface_that_was_made_again_takes_its_routes_by_its_new_number() {
        let mut mirror = Mirror::new(PORTS.to_vec());
        mirror.take(&Heard::New(key(0, 0, 10), by(8, 1), Place::First));
        assert!(!mirror.set_interface(1, Some(8)));
        let used = |mirror: &Mirror| used(mirror, Side::External, (0, 0));
        assert_eq!(used(&mirror), Some(Some(1)));
        assert!(mirror.set_interface(1, None));
        assert_eq!((used(&mirror), mirror.is_followed(8)), (None, false));
        assert!(mirror.set_interface(1, Some(12)));
        mirror.take(&Heard::New(key(0, 0, 20), by(12, 2), Place::First));
        assert_eq!((used(&mirror), mirror.is_followed(12)), (Some(Some(2)), true));
    }

    #[test]
    fn replaced_appended_and_dead_routes_are_as_in_the_kernel() {
        let mut mirror = Mirror::new(PORTS.to_vec());
        let (at, to) = (key(0x0808_0800, 24, 20), (0x0808_0800, 24));
        let mut now = |heard: Heard| {
            mirror.take(&heard);
            used(&mirror, Side::External, to)
        };
        assert_eq!(now(Heard::New(at, by(8, 1), Place::First)), Some(Some(1)));
        assert_eq!(now(Heard::New(at, by(8, 2), Place::Last)), Some(Some(1)));
        assert_eq!(now(Heard::New(at, by(8, 3), Place::Instead)), Some(Some(3)));
        assert_eq!(now(Heard::New(at, by(8, 4), Place::First)), Some(Some(4)));
        assert_eq!(now(Heard::Gone(at, by(8, 4))), Some(Some(3)));
        assert_eq!(now(Heard::Gone(at, by(8, 3))), Some(Some(2)));
        // The last one, whatever is said of it.
        assert_eq!(now(Heard::Gone(at, Kind::Other)), None);
        assert_eq!(now(Heard::New(at, by(9, 1), Place::First)), None);
        assert_eq!(now(Heard::New(at, by(8, 1), Place::Instead)), Some(Some(1)));
    }

    #[test]
    fn a_dump_brings_what_was_lost_and_changes_meanwhile_count() {
        let mut mirror = Mirror::new(PORTS.to_vec());
        let place = |n: u32| key(n << 8, 24, 20);
        for n in 1..=3 {
            mirror.take(&Heard::New(place(n), by(8, n), Place::First));
        }
        mirror.begin_dump();
        mirror.take(&Heard::Dumped(place(1), by(8, 1)));
        mirror.take(&Heard::Dumped(place(2), by(8, 2)));
        // In the kernel 3 has gone without a word, and 4 has come; now 2 goes, and 5 and 6 come.
        mirror.take(&Heard::Gone(place(2), by(8, 2)));
        mirror.take(&Heard::New(place(5), by(8, 5), Place::First));
        mirror.take(&Heard::New(place(6), by(8, 6), Place::First));
        mirror.take(&Heard::Dumped(place(4), by(8, 4)));
        mirror.take(&Heard::Dumped(place(6), by(8, 6)));
        assert!(mirror.end_dump(), "3 and 4 differ");
        let there: Vec<u32> = mirror.learned()[1].keys().map(|(network, _)| network >> 8).collect();
        assert_eq!((there, mirror.len()), (vec![1, 4, 5, 6], 4));
        mirror.begin_dump();
        for n in [1, 4, 5, 6] {
            mirror.take(&Heard::Dumped(place(n), by(8, n)));
        }
        assert!(!mirror.end_dump());
    }

    #[test]
    fn what_waited_before_a_dump_is_older_than_it() {
        let mut mirror = Mirror::new(PORTS.to_vec());
        let place = |n: u32| key(n << 8, 24, 20);
        mirror.begin_dump();
        // Its end was lost with much else, which is why there is a dump.
        mirror.take(&Heard::New(place(1), by(8, 1), Place::First));
        assert!(mirror.is_dumping());
        mirror.take(&Heard::Dumped(place(2), by(8, 2)));
        mirror.take(&Heard::New(place(3), by(8, 3), Place::First));
        assert!(mirror.end_dump());
        assert!(!mirror.is_dumping());
        let there: Vec<u32> = mirror.learned()[1].keys().map(|(network, _)| network >> 8).collect();
        assert_eq!(there, [2, 3]);
        mirror.begin_dump();
        assert!(mirror.end_dump(), "the kernel has none any more");
        assert_eq!(mirror.len(), 0);
    }

    #[test]
    fn several_next_hops_are_of_the_side_of_their_ports() {
        let mut mirror = Mirror::new(PORTS.to_vec());
        let hop = |interface, via, weight| KernelHop { interface, via: Some(via), weight };
        let hops = vec![hop(8, 5, 2), hop(7, 4, 1), hop(8, 3, 1), hop(9, 2, 1)];
        mirror.take(&Heard::New(key(0, 0, 0), Kind::Forward(hops), Place::First));
        let [inside, outside] = mirror.learned();
        let hop = |port, via, weight| Hop { port, via: Some(via), weight };
        assert_eq!(inside[&(0, 0)], Action::Forward(vec![hop(0, 4, 1)]));
        assert_eq!(outside[&(0, 0)], Action::Forward(vec![hop(1, 3, 1), hop(1, 5, 2)]));
    }
}
