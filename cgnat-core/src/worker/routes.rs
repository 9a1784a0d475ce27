//! Routes that a routing engine learned, with those of the configuration below them: one immutable
//! table for all workers (decision 31).
//!
//! The longest prefix decides. Of equal ones a port's own comes first, then the learned one, then
//! those of the configuration. A side is looked up by itself: no route of the other side is in it.

mod prefixes;

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use super::forwarding::Forwarding;
use crate::config::Side;
use crate::verdict::DropReason;
use prefixes::{Prefix, PrefixTable};

/// Routes of both sides, those of the configuration among them.
pub const MOST_ROUTES: usize = 65_536;

/// Next hops of all routes, learned and configured.
pub const MOST_NEXT_HOPS: usize = 512;

/// Next hops of one route.
pub const MOST_OF_ONE: usize = 16;

/// Different sets of next hops.
const MOST_SETS: usize = 4_096;

/// Buckets over which subscribers of a route with several next hops are spread.
const BUCKETS: usize = 256;

/// One way on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// Index of the port.
    pub port: u8,
    /// The next hop; without one the destination itself is on the link.
    pub via: Option<u32>,
    /// Share among several, 1 or more.
    pub weight: u16,
}

/// What becomes of packets to a prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// They leave by one of these.
    Forward(Vec<Hop>),
    /// They are dropped: blackhole, unreachable, prohibit.
    Refuse,
}

/// First address and bits of a prefix.
pub type Destination = (u32, u8);

/// Learned routes of one side; one of each prefix.
pub type Learned = BTreeMap<Destination, Action>;

/// Who has a route from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The prefix of a port.
    Connected,
    /// The kernel.
    Learned,
    /// `next-hop` and `routes`.
    Configured,
}

/// A route as it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Its side.
    pub side: Side,
    /// Its prefix.
    pub to: Destination,
    /// Where it comes from.
    pub origin: Origin,
    /// What it says.
    pub action: &'a Action,
}

/// A set of next hops, or a refusal.
#[derive(Debug, Clone, Copy)]
struct Set {
    port: u8,
    is_refusal: bool,
    is_on_link: bool,
    via: u32,
    /// Buckets, if there are several next hops.
    spread: Option<u32>,
}

/// By bucket, the place among the set's next hops, which are in `hops` from `first` on.
struct Spread {
    first: u32,
    buckets: [u8; BUCKETS],
}

/// The table.
pub struct Routes {
    version: u64,
    tables: [PrefixTable; 2],
    sets: Vec<Set>,
    spreads: Vec<Spread>,
    hops: Vec<(u8, Option<u32>)>,
    list: Vec<(Side, Destination, Origin, u16)>,
    actions: Vec<Action>,
    next_hops: Vec<(u8, u32)>,
    refused: usize,
}

/// The sets that are made while a table is built.
#[derive(Default)]
struct Making {
    sets: Vec<Set>,
    spreads: Vec<Spread>,
    hops: Vec<(u8, Option<u32>)>,
    actions: Vec<Action>,
    known: HashMap<Action, u16>,
    next_hops: BTreeSet<(u8, u32)>,
}

impl Routes {
    /// Of what was learned on the internal and on the external side, and the configuration. Routes
    /// above the bounds are left out and counted, longer prefixes of higher addresses first.
    pub fn new(version: u64, forwarding: &Forwarding, learned: &[Learned; 2]) -> Self {
        let mut making = Making::default();
        let mut refused = 0;
        let mut list = Vec::new();
        let sides = [Side::Internal, Side::External];
        // What is configured has its place before anything that is learned.
        let own = sides.map(|side| Own::of(forwarding, side));
        for action in
            own.iter().flat_map(|own| own.connected.values().chain(own.configured.values()))
        {
            making.set(action);
        }
        let tables = sides.map(|side| {
            let (Own { connected, configured }, learned) =
                (&own[side as usize], &learned[side as usize]);
            let mut prefixes = Vec::new();
            let mut put = |to: Destination, origin, action: &Action| -> bool {
                if list.len() == MOST_ROUTES {
                    return false;
                }
                let Some(set) = making.set(action) else { return false };
                list.push((side, to, origin, set));
                prefixes.push(Prefix { network: to.0, length: to.1, value: set + 1 });
                true
            };
            for (to, action) in connected {
                put(*to, Origin::Connected, action);
            }
            for (to, action) in configured
                .iter()
                .filter(|(to, _)| !connected.contains_key(*to) && !learned.contains_key(*to))
            {
                put(*to, Origin::Configured, action);
            }
            for (to, action) in learned.iter().filter(|(to, _)| !connected.contains_key(*to)) {
                if !put(*to, Origin::Learned, action) {
                    refused += 1;
                    if let Some(fallback) = configured.get(to) {
                        put(*to, Origin::Configured, fallback);
                    }
                }
            }
            PrefixTable::new(prefixes)
        });
        list.sort_unstable_by_key(|(side, to, _, _)| (*side, *to));
        let Making { sets, spreads, hops, actions, next_hops, .. } = making;
        let next_hops = next_hops.into_iter().collect();
        Self { version, tables, sets, spreads, hops, list, actions, next_hops, refused }
    }

    /// Number of this table, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Port and next hop towards `destination` on a side, for a subscriber.
    ///
    /// # Errors
    /// [`DropReason::NoRoute`], or [`DropReason::RouteRefused`] if a route says so.
    #[inline]
    pub fn find(
        &self,
        side: Side,
        destination: u32,
        subscriber: u32,
    ) -> Result<(u8, u32), DropReason> {
        let value = self.tables[side as usize].find(destination);
        if value == 0 {
            return Err(DropReason::NoRoute);
        }
        let set = &self.sets[usize::from(value) - 1];
        if let Some(spread) = set.spread {
            let Spread { first, buckets } = &self.spreads[spread as usize];
            let place = *first + u32::from(buckets[bucket_of(subscriber)]);
            let (port, via) = self.hops[place as usize];
            return Ok((port, via.unwrap_or(destination)));
        }
        if set.is_refusal {
            return Err(DropReason::RouteRefused);
        }
        Ok((set.port, if set.is_on_link { destination } else { set.via }))
    }

    /// Every route, by side and prefix.
    pub fn list(&self) -> impl Iterator<Item = Listed<'_>> {
        self.list.iter().map(|(side, to, origin, set)| {
            let action = &self.actions[usize::from(*set)];
            Listed { side: *side, to: *to, origin: *origin, action }
        })
    }

    /// Next hops of all routes.
    pub fn next_hops(&self) -> &[(u8, u32)] {
        &self.next_hops
    }

    /// Learned routes that were left out for the bounds.
    pub fn refused(&self) -> usize {
        self.refused
    }
}

impl Making {
    /// The number of a set; `None` if there is no room for it.
    fn set(&mut self, action: &Action) -> Option<u16> {
        if let Some(known) = self.known.get(action) {
            return Some(*known);
        }
        let hops: &[Hop] = match action {
            Action::Forward(hops) => hops,
            Action::Refuse => &[],
        };
        let vias = || hops.iter().filter_map(|hop| Some((hop.port, hop.via?)));
        let new = vias().collect::<BTreeSet<_>>().difference(&self.next_hops).count();
        let is_empty = hops.is_empty() && *action != Action::Refuse;
        if is_empty
            || hops.len() > MOST_OF_ONE
            || self.sets.len() == MOST_SETS
            || self.next_hops.len() + new > MOST_NEXT_HOPS
        {
            return None;
        }
        self.next_hops.extend(vias());
        let first = hops.first();
        let spread = (hops.len() > 1).then_some(self.spreads.len() as u32);
        if spread.is_some() {
            self.spreads.push(Spread { first: self.hops.len() as u32, buckets: spread_over(hops) });
            self.hops.extend(hops.iter().map(|hop| (hop.port, hop.via)));
        }
        let number = self.sets.len() as u16;
        self.sets.push(Set {
            port: first.map_or(0, |hop| hop.port),
            is_refusal: first.is_none(),
            is_on_link: first.is_some_and(|hop| hop.via.is_none()),
            via: first.and_then(|hop| hop.via).unwrap_or(0),
            spread,
        });
        self.actions.push(action.clone());
        self.known.insert(action.clone(), number);
        Some(number)
    }
}

/// Routes of the configuration, of one side.
struct Own {
    connected: Learned,
    configured: Learned,
}

impl Own {
    fn of(forwarding: &Forwarding, side: Side) -> Self {
        let mut own = Self { connected: Learned::new(), configured: Learned::new() };
        for (network, mask, port, via) in forwarding.configured(side) {
            let to = (network, mask.count_ones() as u8);
            let action = Action::Forward(vec![Hop { port, via, weight: 1 }]);
            let routes = if via.is_none() { &mut own.connected } else { &mut own.configured };
            routes.entry(to).or_insert(action);
        }
        own
    }
}

#[inline]
fn bucket_of(subscriber: u32) -> usize {
    // Not as subscribers are spread over workers, or a worker would know one next hop only.
    let mixed = (subscriber ^ subscriber >> 15).wrapping_mul(0x2c1b_3c6d);
    ((mixed ^ mixed >> 12).wrapping_mul(0x297a_2d39) >> 24) as usize
}

/// By bucket the next hop with the highest lot: one that goes leaves the others' buckets alone.
fn spread_over(hops: &[Hop]) -> [u8; BUCKETS] {
    let lot = |bucket: usize, hop: &Hop| {
        let mut mixed =
            (bucket as u64) << 40 | u64::from(hop.port) << 32 | u64::from(hop.via.unwrap_or(0));
        for _ in 0..2 {
            mixed = (mixed ^ mixed >> 31).wrapping_mul(0x9fb2_1c65_1e98_df25);
        }
        // Uniform in (0, 1); its logarithm by weight makes shares that follow the weights.
        let chance = ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        chance.ln() / f64::from(hop.weight.max(1))
    };
    let mut buckets = [0; BUCKETS];
    for (bucket, chosen) in buckets.iter_mut().enumerate() {
        let best = (0..hops.len())
            .max_by(|a, b| lot(bucket, &hops[*a]).total_cmp(&lot(bucket, &hops[*b])));
        *chosen = best.unwrap_or(0) as u8;
    }
    buckets
}

#[cfg(test)]
mod tests;
