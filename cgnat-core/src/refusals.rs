//! What subscribers were refused lately: the last [`PER_SUBSCRIBER`] refusals of each, for the
//! operator who asks why something does not work.
//!
//! Each shard has its own, for as many as [`SUBSCRIBERS`] subscribers, with state or without:
//! one that never got a port is remembered too. It is a memory and not a record of events:
//! when there is no room, the subscriber that was refused nothing for the longest time, among
//! the [`WAYS`] that share a place, is forgotten and counted. The same refusal again within a
//! second is counted in the last one. Nothing allocates after the start: who asks a running box
//! brings the room, a [`Page`] at a time.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use crate::endpoint::IpProtocol;
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::verdict::DropReason;

/// Refusals of one subscriber that are remembered.
pub const PER_SUBSCRIBER: usize = 32;

/// Subscribers that one shard remembers.
pub const SUBSCRIBERS: usize = 2048;

/// Subscribers that share a place.
const WAYS: usize = 8;

const _: () = assert!(SUBSCRIBERS.is_multiple_of(WAYS));

/// Refusals that one page holds.
const PAGE: usize = 256;

/// Subscribers, remembered or not, that are looked at for one page.
const LOOKS: usize = 256;

const _: () = assert!(PAGE >= PER_SUBSCRIBER);

/// One refusal, or the same one several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: DropReason,
    /// Of the packet.
    pub protocol: IpProtocol,
    /// Of the packet; for ICMP the query identifier, without ports 0.
    pub destination_port: u16,
    /// The number that stood in the way: a limit of the group, or the size of what was full.
    pub limit: u32,
    /// When it happened first and last.
    pub first: Tick,
    /// See `first`.
    pub last: Tick,
    /// How often.
    pub count: u32,
}

/// Refusals of one subscriber, oldest first.
#[derive(Default)]
struct Log {
    address: u32,
    entries: ArrayVec<Refusal, PER_SUBSCRIBER>,
}

impl Log {
    fn last(&self) -> Option<Tick> {
        self.entries.last().map(|refusal| refusal.last)
    }

    /// Adds one; how many were forgotten for it.
    fn note(&mut self, refusal: Refusal) -> u64 {
        if let Some(last) = self.entries.last_mut() {
            let same = (last.reason, last.protocol, last.destination_port, last.limit)
                == (refusal.reason, refusal.protocol, refusal.destination_port, refusal.limit);
            if same && refusal.first.0.wrapping_sub(last.last.0) <= TICKS_PER_SECOND {
                last.last = refusal.last;
                last.count = last.count.saturating_add(1);
                return 0;
            }
        }
        let oldest = if self.entries.is_full() { self.entries.pop_at(0) } else { None };
        self.entries.push(refusal);
        oldest.map_or(0, |refusal| u64::from(refusal.count))
    }

    fn sum(&self) -> u64 {
        self.entries.iter().map(|refusal| u64::from(refusal.count)).sum()
    }
}

/// The memory of one shard.
pub struct Refusals {
    logs: Vec<Log>,
    forgotten: u64,
    refusals_forgotten: u64,
}

impl Default for Refusals {
    fn default() -> Self {
        let logs = (0..SUBSCRIBERS).map(|_| Log::default()).collect();
        Self { logs, forgotten: 0, refusals_forgotten: 0 }
    }
}

impl Refusals {
    /// Bytes of one.
    pub const BYTES: usize = SUBSCRIBERS * size_of::<Log>();

    /// Remembers that the subscriber with `address`, whose keyed hash is `hash`, was refused a
    /// flow: reason, protocol and destination port; and the number that stood in the way.
    pub fn note(
        &mut self,
        address: u32,
        hash: u64,
        (reason, protocol, destination_port): (DropReason, IpProtocol, u16),
        limit: u32,
        now: Tick,
    ) {
        let count = 1;
        let (first, last) = (now, now);
        self.keep(
            address,
            hash,
            Refusal { reason, protocol, destination_port, limit, first, last, count },
        );
    }

    fn keep(&mut self, address: u32, hash: u64, refusal: Refusal) {
        let place = (hash >> 32) as usize % (SUBSCRIBERS / WAYS) * WAYS;
        let ways = &mut self.logs[place..place + WAYS];
        let known = ways.iter().position(|log| log.address == address && log.last().is_some());
        let way = known.unwrap_or_else(|| {
            let age = |log: &Log| {
                log.last().map_or(u32::MAX, |last| refusal.first.0.wrapping_sub(last.0))
            };
            (0..WAYS).max_by_key(|way| age(&ways[*way])).unwrap_or(0)
        });
        let log = &mut ways[way];
        if known.is_none() {
            self.forgotten += u64::from(log.last().is_some());
            self.refusals_forgotten += log.sum();
            log.entries.clear();
            log.address = address;
        }
        self.refusals_forgotten += log.note(refusal);
    }

    /// Fills `page`, whose [`Page::next`] says where to begin, with the next refusals. Bounded, and
    /// without allocation.
    pub fn fill(&self, page: &mut Page, now: Tick) {
        let from = page.next.unwrap_or(self.logs.len());
        let mut place = from;
        page.entries.clear();
        while place < self.logs.len().min(from + LOOKS) {
            let log = &self.logs[place];
            if page.entries.len() + log.entries.len() > PAGE {
                break;
            }
            page.entries.extend(log.entries.iter().map(|refusal| (log.address, *refusal)));
            place += 1;
        }
        page.next = (place < self.logs.len()).then_some(place);
        page.now = now;
        (page.forgotten, page.refusals_forgotten) = (self.forgotten, self.refusals_forgotten);
    }

    /// Subscribers that were forgotten for others.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Refusals that are not remembered any more, of subscribers who are or are not. With those
    /// that are remembered they are all that there were.
    pub fn refusals_forgotten(&self) -> u64 {
        self.refusals_forgotten
    }
}

/// A part of a shard's memory, on its way to who asked for it.
pub struct Page {
    entries: Vec<(u32, Refusal)>,
    /// Where the next one begins; the first begins at 0.
    next: Option<usize>,
    now: Tick,
    forgotten: u64,
    refusals_forgotten: u64,
}

impl Default for Page {
    /// Room for the first page of a shard.
    fn default() -> Self {
        Self {
            entries: Vec::with_capacity(PAGE),
            next: Some(0),
            now: Tick(0),
            forgotten: 0,
            refusals_forgotten: 0,
        }
    }
}

impl Page {
    /// Whether the memory has more than this.
    pub fn has_more(&self) -> bool {
        self.next.is_some()
    }
}

/// What shards remember, put together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remembered {
    /// The refusals of each subscriber, oldest first.
    pub subscribers: BTreeMap<Ipv4Addr, Vec<Refusal>>,
    /// See [`Refusals::forgotten`].
    pub forgotten: u64,
    /// See [`Refusals::refusals_forgotten`].
    pub refusals_forgotten: u64,
    /// The latest time at which a shard was asked.
    pub now: Tick,
}

impl Remembered {
    /// Adds what a shard remembers at `now`.
    pub fn add(&mut self, shard: &Refusals, now: Tick) {
        let mut page = Page::default();
        while page.has_more() {
            shard.fill(&mut page, now);
            self.add_page(&page);
        }
    }

    /// Adds a page of a shard.
    pub fn add_page(&mut self, page: &Page) {
        for (address, refusal) in &page.entries {
            self.subscribers.entry(Ipv4Addr::from(*address)).or_default().push(*refusal);
        }
        if !page.has_more() {
            self.forgotten += page.forgotten;
            self.refusals_forgotten += page.refusals_forgotten;
        }
        if self.now == Tick::default() || self.now.before(page.now) {
            self.now = page.now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(port: u16, tick: u32) -> Refusal {
        Refusal {
            reason: DropReason::LimitPorts,
            protocol: IpProtocol::UDP,
            destination_port: port,
            limit: 5,
            first: Tick(tick),
            last: Tick(tick),
            count: 1,
        }
    }

    fn of(memory: &Refusals, address: u32) -> Vec<Refusal> {
        let mut remembered = Remembered::default();
        remembered.add(memory, Tick(0));
        remembered.subscribers.remove(&Ipv4Addr::from(address)).unwrap_or_default()
    }

    #[test]
    fn the_last_32_are_kept_and_the_same_within_a_second_is_one() {
        let mut memory = Refusals::default();
        for port in 1..=40 {
            memory.keep(7, 0, refusal(port, u32::MAX - 3));
        }
        let ports: Vec<u16> = of(&memory, 7).iter().map(|r| r.destination_port).collect();
        assert_eq!(ports, (9..=40).collect::<Vec<_>>());
        // Across the wrap of the clock: 6, 10 and 11 ticks later.
        for tick in [2, 12, 23] {
            memory.keep(7, 0, refusal(40, tick));
        }
        let list = of(&memory, 7);
        assert_eq!((list.len(), list[30].count, list[30].last), (32, 3, Tick(12)));
        assert_eq!(list[31], refusal(40, 23));
        let remembered: u32 = list.iter().map(|refusal| refusal.count).sum();
        assert_eq!(u64::from(remembered) + memory.refusals_forgotten(), 40 + 3);
        assert_eq!(memory.forgotten(), 0);
    }

    #[test]
    fn a_ninth_of_one_place_takes_that_of_who_was_refused_least_recently() {
        let mut memory = Refusals::default();
        for address in 0..8 {
            memory.keep(address, 0, refusal(1, 100 + address));
        }
        memory.keep(0, 0, refusal(2, 200));
        assert_eq!(memory.forgotten(), 0);
        memory.keep(8, 0, refusal(3, 201));
        assert_eq!(memory.forgotten(), 1);
        assert_eq!((0..9).filter(|address| !of(&memory, *address).is_empty()).count(), 8);
        assert_eq!(memory.refusals_forgotten(), 1);
        assert!(of(&memory, 1).is_empty());
        assert_eq!((of(&memory, 0).len(), of(&memory, 8).len()), (2, 1));
    }

    #[test]
    fn pages_are_bounded_and_together_they_are_everything() {
        let mut memory = Refusals::default();
        let subscribers = 40;
        for address in 0..subscribers {
            for port in 0..=40 {
                memory.keep(address, u64::from(address) << 32, refusal(port, 100));
            }
        }
        let (mut page, mut remembered, mut pages) = (Page::default(), Remembered::default(), 0);
        let room = page.entries.capacity();
        while page.has_more() {
            memory.fill(&mut page, Tick(101));
            assert!(page.entries.len() <= PAGE && page.entries.capacity() == room);
            remembered.add_page(&page);
            pages += 1;
        }
        // Eight subscribers, one of a place, fill a page; what lies behind two looks is empty.
        assert_eq!(pages, 5 + SUBSCRIBERS / LOOKS - 2);
        assert_eq!(remembered.subscribers.len(), subscribers as usize);
        let ports = |list: &[Refusal]| list.iter().map(|r| r.destination_port).collect::<Vec<_>>();
        let all: Vec<u16> = (9..=40).collect();
        assert!(remembered.subscribers.values().all(|list| ports(list) == all));
        assert_eq!((remembered.refusals_forgotten, remembered.now), (40 * 9, Tick(101)));
    }
}
