//! Port blocks: which external port belongs to which mapping, and which ports rest.
//!
//! A [`BlockLease`] is the right to use one block. It is a value that cannot be copied and
//! owns the block's memory, but that others may read its port slots ([`PortWords`]), so a block has exactly one owner by type: housekeeping lends a
//! block by sending the lease to a worker and gets it back the same way. Each lease has one
//! port space per protocol (RFC 7857 section 5).
//!
//! A port slot is one 32-bit word: 0 is free; with the top bit clear it is mapping slot + 1;
//! with the top bit set the port rests (RFC 6888 REQ-8) until the tick in the other bits; with
//! `OVERLOADED` set it is shared by as many flows as the lower bits say, which the flow index
//! knows; `EXCLUDED` is a port that is never given.
//! Invariants, per protocol: (1) a bit of `taken` is set exactly if the slot is not 0;
//! (2) `used + resting + excluded` = bits set; (3) no resting port is due before `next_due`;
//! (4) all resting ports are due by `last_due`, and one of some protocol at it; (5) a bit of
//! `overloaded` is set exactly if the port is shared by a flow.

mod overloaded;
mod resting;
mod words;

use std::sync::atomic::{AtomicU32, Ordering};

use resting::rest_is_over;
pub use words::{PoolWords, PortWords, Spot, is_unused, mapping_in};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::endpoint::Protocol;
use crate::policy::port_choice::{PortWish, count_zeros, nth_zero, parity_mask};
use crate::time::{TICKS_PER_SECOND, Tick};

/// Owner of a block that no worker holds.
pub const HOUSEKEEPING: u16 = u16::MAX;

/// No subscriber holds the block.
pub const NO_SUBSCRIBER: u32 = u32::MAX;

const RESTING: u32 = 1 << 31;

/// Slots of mappings end before this.
const OVERLOADED: u32 = 1 << 30;

/// A flow of an overloaded port has ended other than by FIN from both sides.
const UNCLOSED: u32 = 1 << 29;

/// Ports of the largest block of which a port is found twice: to fetch its slot, and to take it.
const FORESEEN: u16 = 512;

/// More flows share no port.
const EXCLUDED: u32 = RESTING - 1;

/// The fixed part of a block, one cache line.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct BlockRecord {
    /// Grows by one each time a subscriber gets or gives back the block; odd while held.
    pub(crate) generation: u32,
    /// Slot of the subscriber in the owner's shard, or [`NO_SUBSCRIBER`].
    pub(crate) subscriber: u32,
    /// Number of the block among all blocks of all pools.
    pub(crate) id: u32,
    /// Index of the external address in the pool.
    pub(crate) address_index: u32,
    /// Shard that holds the lease, or [`HOUSEKEEPING`].
    pub(crate) shard: u16,
    pub(crate) pool: u16,
    pub(crate) first_port: u16,
    pub(crate) size: u16,
    used: [u16; Protocol::COUNT],
    resting: [u16; Protocol::COUNT],
    /// No resting port is due before this tick.
    next_due: [u32; Protocol::COUNT],
    /// The last resting port is due at this tick.
    last_due: u32,
    /// Tick before which due ports are not looked for again.
    next_reclaim: u32,
    /// Ports that are never given, the same of each protocol.
    excluded: u16,
    /// Overloaded ports.
    overloaded: [u16; Protocol::COUNT],
}

const _: () = assert!(size_of::<BlockRecord>() == 64);

/// Ports of a block or of many, by what they are doing. Those that are never given are left
/// out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCensus {
    /// Ports that could be given to a mapping now.
    pub free: u64,
    /// Ports of live mappings.
    pub used: u64,
    /// Ports that rest.
    pub resting: u64,
}

impl PortCensus {
    /// All ports.
    pub fn total(self) -> u64 {
        self.free + self.used + self.resting
    }
}

impl std::ops::AddAssign for PortCensus {
    fn add_assign(&mut self, other: Self) {
        self.free += other.free;
        self.used += other.used;
        self.resting += other.resting;
    }
}

/// What a port slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortUse {
    /// Nothing.
    Free,
    /// The mapping in this slot.
    Mapping(u32),
    /// So many flows to different remote addresses.
    Overloaded(u32),
    /// It rests.
    Resting,
    /// It is never given.
    Excluded,
}

/// The right to use one block, with its memory. On a cache line of its own, because each first
/// packet reads one.
#[repr(align(64))]
pub struct BlockLease {
    record: &'static mut BlockRecord,
    taken: &'static mut [u64],
    /// As `taken`; empty where no port is ever overloaded.
    overloaded: &'static mut [u64],
    slots: &'static [AtomicU32],
}

impl BlockLease {
    /// A lease over zeroed memory of the right sizes, see [`words_for`] and [`slots_for`]. The
    /// bitmap of overloaded ports may be empty.
    ///
    /// # Panics
    /// If the sizes do not belong to `size`.
    pub fn new(
        record: &'static mut BlockRecord,
        (taken, overloaded): (&'static mut [u64], &'static mut [u64]),
        slots: &'static [AtomicU32],
        (id, pool, address_index): (u32, u16, u32),
        (first_port, size): (u16, u16),
    ) -> Self {
        assert_eq!(taken.len(), words_for(size));
        assert!(overloaded.is_empty() || overloaded.len() == words_for(size));
        assert_eq!(slots.len(), slots_for(size));
        record.id = id;
        record.pool = pool;
        record.address_index = address_index;
        record.first_port = first_port;
        record.size = size;
        record.subscriber = NO_SUBSCRIBER;
        record.shard = HOUSEKEEPING;
        Self { record, taken, overloaded, slots }
    }

    /// Never gives `port` of any protocol; for a block that was never held.
    pub fn exclude(&mut self, port: u16) {
        let offset = port.wrapping_sub(self.record.first_port);
        if offset >= self.record.size || self.read(self.slot_of(Protocol::Tcp, port)) != 0 {
            return;
        }
        self.record.excluded += 1;
        for protocol in Protocol::ALL {
            let slot = self.slot_of(protocol, port);
            self.write(slot, EXCLUDED);
            self.set_taken(protocol, port);
        }
    }

    /// Forgets everything but the generation: the block will be another address's.
    ///
    /// # Panics
    /// If a subscriber holds the block.
    pub fn wipe(&mut self) {
        assert_eq!(self.record.subscriber, NO_SUBSCRIBER, "block {} is held", self.id());
        self.record.resting = [0; Protocol::COUNT];
        self.record.excluded = 0;
        self.taken.fill(0);
        self.slots.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Number of the block among all blocks.
    pub fn id(&self) -> u32 {
        self.record.id
    }

    /// Its first port.
    pub fn first_port(&self) -> u16 {
        self.record.first_port
    }

    /// Index of its pool.
    pub fn pool(&self) -> u16 {
        self.record.pool
    }

    /// Index of its external address in the pool.
    pub fn address_index(&self) -> u32 {
        self.record.address_index
    }

    /// Shard that holds the lease.
    pub fn shard(&self) -> u16 {
        self.record.shard
    }

    /// Notes who holds the lease.
    pub fn set_shard(&mut self, shard: u16) {
        self.record.shard = shard;
    }

    /// Generation; odd while a subscriber holds the block.
    pub fn generation(&self) -> u32 {
        self.record.generation
    }

    /// Slot of the subscriber that holds the block.
    pub fn subscriber(&self) -> Option<u32> {
        (self.record.subscriber != NO_SUBSCRIBER).then_some(self.record.subscriber)
    }

    /// Gives the block to a subscriber.
    ///
    /// # Panics
    /// If one holds it already: one block with two owners is what must never be.
    pub fn hold(&mut self, subscriber: u32) {
        assert_eq!(self.record.subscriber, NO_SUBSCRIBER, "block {} is held twice", self.id());
        self.record.subscriber = subscriber;
        self.record.generation = self.record.generation.wrapping_add(1);
        self.record.next_reclaim = 0;
    }

    /// Takes the block back from its subscriber; every port is free afterwards.
    ///
    /// # Panics
    /// If a mapping uses one of its ports.
    pub fn release(&mut self) {
        assert!(!self.in_use(), "block {} is released while mappings use it", self.id());
        self.record.subscriber = NO_SUBSCRIBER;
        self.record.generation = self.record.generation.wrapping_add(1);
        // Without resting ports all is zero already; a range may have very many ports.
        if self.record.resting == [0; Protocol::COUNT] {
            return;
        }
        self.record.resting = [0; Protocol::COUNT];
        if self.record.excluded == 0 {
            self.taken.fill(0);
            self.slots.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            return;
        }
        let first = self.record.first_port;
        for protocol in Protocol::ALL {
            for port in (0..self.record.size).map(|offset| first + offset) {
                let slot = self.slot_of(protocol, port);
                if self.read(slot) != EXCLUDED {
                    self.write(slot, 0);
                    self.clear_taken(protocol, port);
                }
            }
        }
    }

    /// Whether any mapping uses one of its ports.
    pub fn in_use(&self) -> bool {
        self.record.used != [0; Protocol::COUNT]
    }

    /// When the last resting port is due; meaningful if one rests.
    pub fn last_due(&self) -> Tick {
        Tick(self.record.last_due)
    }

    /// Whether no port is used and none still rests at `now`.
    pub fn is_idle(&self, now: Tick) -> bool {
        let resting = self.record.resting != [0; Protocol::COUNT];
        !self.in_use() && (!resting || now.reached(self.last_due()))
    }

    /// What is read and written, beside its word, when a port is taken or ends.
    #[inline]
    pub fn of_use(&self, protocol: Protocol) -> (&BlockRecord, &u64) {
        (self.record, &self.taken_of(protocol)[0])
    }

    /// The word of `port`, which lies in the block.
    #[inline]
    pub fn word_of(&self, protocol: Protocol, port: u16) -> Option<&AtomicU32> {
        self.slots.get(self.slot_of(protocol, port))
    }

    /// What the slot of `port` holds; `port` lies in the block.
    #[inline]
    pub fn port_use(&self, protocol: Protocol, port: u16) -> PortUse {
        use_of(self.read(self.slot_of(protocol, port)))
    }

    /// Takes a uniformly random free port that will do for a mapping; `random` is 32 random
    /// bits.
    ///
    /// Ports whose rest is over are returned first, at most once per second, because that
    /// reads the whole slot array; and always when nothing else is free.
    pub fn take_port(
        &mut self,
        protocol: Protocol,
        mapping: u32,
        wish: PortWish,
        random: u32,
        now: Tick,
    ) -> Option<u16> {
        let p = protocol as usize;
        let may_reclaim = self.record.resting[p] > 0 && now.reached(Tick(self.record.next_due[p]));
        // Later than a second from now is left over from another time.
        let wait = self.record.next_reclaim.wrapping_sub(now.0);
        let is_time = wait == 0 || wait > TICKS_PER_SECOND;
        if may_reclaim && (is_time || self.candidates(protocol, wish) == 0) {
            self.reclaim(protocol, now);
            self.record.next_reclaim = now.0.wrapping_add(TICKS_PER_SECOND);
        }
        let free = self.candidates(protocol, wish);
        if free == 0 {
            return None;
        }
        let wanted = among(random, free);
        let port = match wish {
            PortWish::Exactly(port) => port,
            PortWish::Any => self.nth_free(protocol, u64::MAX, wanted)?,
            PortWish::AsOddAs(port) => {
                self.nth_free(protocol, parity_mask(self.record.first_port, port), wanted)?
            }
        };
        self.set_taken(protocol, port);
        self.record.used[p] += 1;
        let slot = self.slot_of(protocol, port);
        self.write(slot, mapping + 1);
        Some(port)
    }

    /// The slot of the port that [`BlockLease::take_port`] would give for any wish; of a large block
    /// finding it would cost more than waiting for it.
    #[inline]
    pub fn foresee(&self, protocol: Protocol, random: u32) -> Option<&AtomicU32> {
        if self.record.size > FORESEEN {
            return None;
        }
        let free = self.candidates(protocol, PortWish::Any);
        let port = self.nth_free(protocol, u64::MAX, among(random, free))?;
        self.word_of(protocol, port)
    }

    /// Ports of `protocol` that could be given at `now`. Reads the slots only if the rest of
    /// one is over since the last time.
    pub fn free_ports(&mut self, protocol: Protocol, now: Tick) -> u16 {
        let p = protocol as usize;
        if self.record.resting[p] > 0 && now.reached(Tick(self.record.next_due[p])) {
            self.reclaim(protocol, now);
        }
        self.candidates(protocol, PortWish::Any) as u16
    }

    /// Whether a port is free that never rested, or whose rest is known to be over.
    #[inline]
    pub fn has_free(&self, protocol: Protocol) -> bool {
        self.candidates(protocol, PortWish::Any) > 0
    }

    /// Free ports that will do.
    fn candidates(&self, protocol: Protocol, wish: PortWish) -> u32 {
        let p = protocol as usize;
        match wish {
            PortWish::Any => {
                let taken = self.record.excluded + self.record.used[p] + self.record.resting[p];
                u32::from(self.record.size - taken)
            }
            PortWish::AsOddAs(port) => {
                let mask = parity_mask(self.record.first_port, port);
                // Bits behind the last port are zeros too.
                let last = u32::from(self.record.size) % 64;
                let behind = if last == 0 { 0 } else { (mask & (u64::MAX << last)).count_ones() };
                count_zeros(self.taken_of(protocol), mask) - behind
            }
            PortWish::Exactly(port) => {
                let inside = port.wrapping_sub(self.record.first_port) < self.record.size;
                u32::from(inside && self.port_use(protocol, port) == PortUse::Free)
            }
        }
    }

    /// Bits behind the last port are never among the candidates, which come before them.
    fn nth_free(&self, protocol: Protocol, mask: u64, n: u32) -> Option<u16> {
        let offset = nth_zero(self.taken_of(protocol), mask, n)?;
        Some(self.record.first_port + offset as u16)
    }

    /// Ends the use of `port`: it rests until `due`, or is free at once if `due` is `None`.
    ///
    /// # Panics
    /// If no mapping uses it.
    pub fn end_port(&mut self, protocol: Protocol, port: u16, due: Option<Tick>) {
        let p = protocol as usize;
        let slot = self.slot_of(protocol, port);
        let word = self.read(slot);
        let in_use = word != 0 && word & RESTING == 0 && word != EXCLUDED;
        assert!(in_use, "port {port} is not in use");
        self.record.used[p] -= 1;
        let Some(due) = due else {
            self.write(slot, 0);
            self.clear_taken(protocol, port);
            return;
        };
        // 31 bits of the tick: compared modulo 2^31, right within 3.4 years.
        self.write(slot, RESTING | due.0 & !RESTING);
        if self.record.resting[p] == 0 {
            self.record.next_due[p] = due.0;
        }
        let none_rested = self.record.resting == [0; Protocol::COUNT];
        if none_rested || self.last_due().before(due) {
            self.record.last_due = due.0;
        }
        self.record.resting[p] += 1;
    }

    /// Ports of the block by use at `now`.
    pub fn census(&self, now: Tick) -> PortCensus {
        let mut census = PortCensus::default();
        for word in self.words().filter(|word| *word != EXCLUDED) {
            if word == 0 || word & RESTING != 0 && rest_is_over(word, now) {
                census.free += 1;
            } else if word & RESTING != 0 {
                census.resting += 1;
            } else {
                census.used += 1;
            }
        }
        census
    }

    fn words(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().map(|word| word.load(Ordering::Relaxed))
    }

    fn words_of(&self, protocol: Protocol) -> impl Iterator<Item = u32> {
        let size = usize::from(self.record.size);
        self.words().skip(protocol as usize * size).take(size)
    }

    #[inline]
    fn read(&self, slot: usize) -> u32 {
        self.slots[slot].load(Ordering::Relaxed)
    }

    #[inline]
    fn write(&mut self, slot: usize, word: u32) {
        self.slots[slot].store(word, Ordering::Relaxed);
    }

    fn taken_of(&self, protocol: Protocol) -> &[u64] {
        let words = words_of_one(self.record.size);
        &self.taken[protocol as usize * words..][..words]
    }

    fn set_taken(&mut self, protocol: Protocol, port: u16) {
        let (word, bit) = self.bit_of(protocol, port);
        self.taken[word] |= bit;
    }

    fn clear_taken(&mut self, protocol: Protocol, port: u16) {
        let (word, bit) = self.bit_of(protocol, port);
        self.taken[word] &= !bit;
    }

    /// Word and bit of a port in a bitmap.
    fn bit_of(&self, protocol: Protocol, port: u16) -> (usize, u64) {
        let offset = usize::from(port - self.record.first_port);
        let words = words_of_one(self.record.size);
        (protocol as usize * words + offset / 64, 1 << (offset % 64))
    }

    fn slot_of(&self, protocol: Protocol, port: u16) -> usize {
        protocol as usize * usize::from(self.record.size)
            + usize::from(port - self.record.first_port)
    }
}

/// A number below `count`, of 32 random bits.
#[inline]
fn among(random: u32, count: u32) -> u32 {
    ((u64::from(random) * u64::from(count)) >> 32) as u32
}

/// What a word says.
#[inline]
fn use_of(word: u32) -> PortUse {
    if word == 0 {
        PortUse::Free
    } else if word & RESTING != 0 {
        PortUse::Resting
    } else if word == EXCLUDED {
        PortUse::Excluded
    } else if word & OVERLOADED != 0 {
        PortUse::Overloaded(word & (UNCLOSED - 1))
    } else {
        PortUse::Mapping(word - 1)
    }
}

/// 64-bit words of the `taken` bitmap of a block of `size` ports; each protocol starts with a
/// word of its own.
pub const fn words_for(size: u16) -> usize {
    Protocol::COUNT * words_of_one(size)
}

const fn words_of_one(size: u16) -> usize {
    (size as usize).div_ceil(64)
}

/// Port slots of a block of `size` ports.
pub const fn slots_for(size: u16) -> usize {
    Protocol::COUNT * size as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory::records;
    use std::collections::BTreeSet;

    fn words(count: usize) -> &'static [AtomicU32] {
        (0..count).map(|_| AtomicU32::new(0)).collect::<Vec<_>>().leak()
    }

    /// A lease of `size` ports from 1024 on, in memory of its own.
    pub(super) fn lease(size: u16) -> BlockLease {
        BlockLease::new(
            &mut records::<BlockRecord>(1)[0],
            (records(words_for(size)), records(words_for(size))),
            words(slots_for(size)),
            (0, 0, 0),
            (1024, size),
        )
    }

    #[test]
    fn every_port_is_given_once_and_then_none() {
        let mut lease = lease(128);
        lease.hold(1);
        let now = Tick(1000);
        let mut ports = BTreeSet::new();
        for n in 0..128u32 {
            let random = n.wrapping_mul(0x9e37_79b9);
            let port =
                lease.take_port(Protocol::Udp, n, PortWish::Any, random, now).expect("a free port");
            assert!((1024..1152).contains(&port) && ports.insert(port));
            assert_eq!(lease.port_use(Protocol::Udp, port), PortUse::Mapping(n));
            assert_eq!(lease.port_use(Protocol::Tcp, port), PortUse::Free);
        }
        assert_eq!(lease.take_port(Protocol::Udp, 0, PortWish::Any, 5, now), None);
        assert!(lease.take_port(Protocol::Tcp, 0, PortWish::Any, 5, now).is_some());
        assert_eq!(lease.census(now), PortCensus { free: 2 * 128 - 1, used: 129, resting: 0 });
    }

    #[test]
    fn a_block_of_any_size_gives_all_its_ports_and_no_other() {
        for size in [1, 16, 63, 65, 100, 2016, 65_535] {
            let mut lease = BlockLease::new(
                &mut records::<BlockRecord>(1)[0],
                (records(words_for(size)), Default::default()),
                words(slots_for(size)),
                (0, 0, 0),
                (1, size),
            );
            lease.hold(1);
            let mut ports = BTreeSet::new();
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
                ports.clear();
                for n in 0..u32::from(size) {
                    let random = n.wrapping_mul(0x9e37_79b9);
                    ports.extend(lease.take_port(protocol, n, PortWish::Any, random, Tick(5)));
                }
                assert_eq!(ports.len(), usize::from(size));
                assert_eq!((ports.first(), ports.last()), (Some(&1), Some(&size)));
                assert_eq!(lease.take_port(protocol, 0, PortWish::Any, 1, Tick(5)), None, "{size}");
            }
            for port in &ports {
                lease.end_port(Protocol::Udp, *port, Some(Tick(9)));
            }
            assert_eq!(lease.census(Tick(8)).resting, u64::from(size));
            // All rest is over at once; the first reclaim finds every port.
            assert_eq!(
                lease.take_port(Protocol::Udp, 0, PortWish::Any, u32::MAX, Tick(9)),
                Some(size)
            );
            lease.end_port(Protocol::Udp, size, None);
            for port in ports {
                lease.end_port(Protocol::Tcp, port, None);
                lease.end_port(Protocol::Icmp, port, None);
            }
            lease.release();
            let free = u64::from(size) * 3;
            assert_eq!(lease.census(Tick(9)), PortCensus { free, used: 0, resting: 0 });
            assert!(lease.taken.iter().all(|word| *word == 0), "{size}");
        }
    }

    #[test]
    fn a_port_rests_until_its_tick_and_the_block_is_idle_after_the_last() {
        let mut lease = lease(64);
        lease.hold(1);
        let now = Tick(u32::MAX - 300);
        let ports: Vec<_> = (0..64)
            .map(|n| lease.take_port(Protocol::Tcp, n, PortWish::Any, n, now).expect("free"))
            .collect();
        for (n, port) in ports.iter().enumerate() {
            let due = Tick(now.0.wrapping_add(1200 + n as u32));
            lease.end_port(Protocol::Tcp, *port, Some(due));
        }
        assert!(!lease.in_use());
        let at = |ticks: u32| Tick(now.0.wrapping_add(ticks));
        assert_eq!(lease.take_port(Protocol::Tcp, 7, PortWish::Any, 9, at(1199)), None);
        assert_eq!(lease.take_port(Protocol::Tcp, 7, PortWish::Any, 9, at(1200)), Some(ports[0]));
        lease.end_port(Protocol::Tcp, ports[0], None);
        assert!(!lease.is_idle(at(1262)));
        assert!(lease.is_idle(at(1263)));
        assert_eq!(lease.census(at(1210)), PortCensus { free: 139, used: 0, resting: 53 });
        lease.release();
        assert_eq!(lease.census(at(0)), PortCensus { free: 192, used: 0, resting: 0 });
    }

    #[test]
    fn the_choice_is_uniform_over_the_free_ports_of_a_nearly_full_block() {
        let mut lease = lease(64);
        lease.hold(1);
        let mut taken = Vec::new();
        for n in 0..60u32 {
            taken.push(
                lease.take_port(Protocol::Tcp, n, PortWish::Any, n << 20, Tick(0)).expect("free"),
            );
        }
        let mut seen = std::collections::BTreeMap::new();
        for n in 0..4000u32 {
            let random = n.wrapping_mul(0x9e37_79b9).rotate_left(7).wrapping_mul(0x85eb_ca6b);
            let port = lease
                .take_port(Protocol::Tcp, 99, PortWish::Any, random, Tick(0))
                .expect("four free");
            *seen.entry(port).or_insert(0) += 1;
            lease.end_port(Protocol::Tcp, port, None);
        }
        assert_eq!(seen.len(), 4);
        assert!(seen.values().all(|count| (800..1200).contains(count)), "{seen:?}");
    }

    #[test]
    #[should_panic(expected = "held twice")]
    fn a_block_cannot_be_held_by_two_subscribers() {
        let mut lease = lease(64);
        lease.hold(1);
        lease.hold(2);
    }

    #[test]
    #[should_panic(expected = "while mappings use it")]
    fn a_block_in_use_cannot_be_released() {
        let mut lease = lease(64);
        lease.hold(1);
        lease.take_port(Protocol::Tcp, 0, PortWish::Any, 0, Tick(0));
        lease.release();
    }
}
