//! Which packets from outside a worker sheds while it has more packets than it can take: those to
//! the one endpoint, or the one address, that floods it (decision 29).
//!
//! While the worker is pressed (`pressure`), and as long as something is shed, arrivals are counted
//! by destination, tick by tick. A *level* is how many of one destination pass in a tick. At the end
//! of a tick in which the receive queues stayed full, the level is halved for the kind of destination
//! that has a culprit; in the ticks after that it rises by an eighth, until nothing is above it. A
//! destination that had `n` arrivals in the tick before, more than the level `l`, has every
//! `n / l`-th of its packets taken, evenly: not the first `l` of the tick.
//!
//! The first packet that is shed of a destination makes it *known*, for as long as it is above the
//! level: its further packets are recognised by their destination alone ([`FloodGuard::knows`]), and
//! counted with the others when the tick ends.
//!
//! Always true:
//! 1. nothing is shed of a destination that had no more than [`LEAST`] packets in the tick before,
//!    unless both its places are shared with heavier ones;
//! 2. without a culprit no level falls;
//! 3. the answer depends on the calls alone: it has neither clock nor chance.

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::flood_notices::{ADDRESS, FloodNotices, IPV6, NAMED};
use super::pressure::Pressure;
use crate::time::Tick;

/// Places of each of the two rows in which destinations of a kind are counted.
const PLACES: usize = 4096;

/// Packets per tick of one destination that are never shed: 200,000 per second, which is more than
/// one download has, and a small part of what a worker takes.
pub const LEAST: u32 = 20_000;

/// Destinations of each kind that are known at a time: as many as can have more than a quarter, and
/// one that the attack has just left.
const KNOWN: usize = NAMED;

/// Destinations of IPv6 that are remembered, to name them.
const SEEN6: usize = 8;

/// A culprit has more than one in so many packets that came from outside.
const SHARE: u64 = 4;

/// And leaves the others at least one in so many; else there is nobody to spare.
const REST: u64 = 512;

/// An address that is one has more than so many times what the others have on the average.
const OUTSTANDING: u64 = 4;

/// A destination outside-in: address, protocol and port; what has no port has 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aim {
    /// External address.
    pub address: u32,
    /// Number of the IP protocol.
    pub protocol: u8,
    /// Destination port.
    pub port: u16,
}

impl Aim {
    /// All of it in one word, in which packets are told apart.
    #[inline]
    pub fn word(self) -> u64 {
        u64::from(self.address) << 32 | u64::from(self.protocol) << 16 | u64::from(self.port)
    }

    /// The one with this word.
    pub fn of_word(word: u64) -> Self {
        let (address, protocol, port) = ((word >> 32) as u32, (word >> 16) as u8, word as u16);
        Self { address, protocol, port }
    }
}

/// A destination of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aim6 {
    /// Address.
    pub address: u128,
    /// Next header behind that of IPv6.
    pub protocol: u8,
    /// Destination port.
    pub port: u16,
}

impl Aim6 {
    /// All of it in one word, by a keyed hash of two words. Its address is the /64: one host, or one
    /// subscriber, has all of it.
    #[inline]
    pub fn word(self, hash: impl Fn(u64, u64) -> u64) -> u64 {
        let Self { address, protocol, port } = self;
        let rest = u64::from(protocol) << 16 | u64::from(port);
        let (prefix, whole) = (hash((address >> 64) as u64, 6), hash(address as u64, rest));
        prefix << 32 | IPV6 | whole >> 33
    }
}

/// What is being shed, for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flood {
    /// Its destination; of an address neither protocol nor port is meant.
    pub aim: Aim,
    /// Its address if that is one of IPv6, or one in the /64 that is meant; then `aim` has none.
    pub address6: Option<u128>,
    /// Whether it is the whole address.
    pub is_address: bool,
    /// Packets of it that came in the last tick.
    pub arrived: u32,
}

impl Flood {
    /// Its destination in one word, not 0, without an address of IPv6.
    pub fn packed(&self) -> u64 {
        let Aim { address, protocol, port } = self.aim;
        let kind = 2 | u64::from(self.is_address) | u64::from(self.address6.is_some()) << 2;
        u64::from(address) << 32 | u64::from(protocol) << 24 | u64::from(port) << 8 | kind
    }

    /// The one that was packed so, with its address if that is one of IPv6; none from 0.
    pub fn unpacked(word: u64, address6: u128, arrived: u32) -> Option<Self> {
        let (address, protocol, port) =
            ((word >> 32) as u32, (word >> 24) as u8, (word >> 8) as u16);
        let aim = Aim { address, protocol, port };
        let address6 = (word & 4 != 0).then_some(address6);
        (word != 0).then_some(Self { aim, address6, is_address: word & 1 == 1, arrived })
    }

    /// Whether it is for the same destination.
    pub fn is_like(&self, other: &Self) -> bool {
        let prefix = |of: &Self| of.address6.map(|a| if of.is_address { a >> 64 } else { a });
        self.packed() == other.packed() && prefix(self) == prefix(other)
    }
}

/// A destination that is above the level.
struct Known {
    /// [`Aim::word`], as far as it is meant.
    word: u64,
    /// That of a packet for it.
    of_packet: u64,
    /// Its places.
    at: [usize; 2],
    /// Packets in the tick before.
    before: u64,
    /// Packets of this tick that are in no row yet.
    arrived: u32,
    /// Grows by the level with each packet; one passes for each `before`.
    credit: u64,
}

/// Arrivals by destination, in this tick and the one before: an estimate from above (a count-min
/// sketch of two rows with conservative update).
struct Arrivals {
    now: [Box<[u32]>; 2],
    before: [Box<[u32]>; 2],
    /// Places of the first row in use in this tick.
    used: u32,
    heaviest: (u32, u64),
    /// Packets of one destination that pass in a tick; `None`: all.
    level: Option<u32>,
    /// Something was above the level in this tick.
    has_shed: bool,
    /// The bits of [`Aim::word`] by which destinations of this kind differ.
    mask: u64,
    known: ArrayVec<Known, KNOWN>,
    /// Of these, those that others know too.
    named: usize,
}

/// Places of a hash in the two rows.
fn places(hash: u64) -> [usize; 2] {
    [hash as usize % PLACES, (hash >> 32) as usize % PLACES]
}

impl Arrivals {
    fn new(mask: u64) -> Self {
        let row = || vec![0; PLACES].into_boxed_slice();
        Self {
            now: [row(), row()],
            before: [row(), row()],
            used: 0,
            heaviest: (0, 0),
            level: None,
            has_shed: false,
            mask,
            known: ArrayVec::new(),
            named: 0,
        }
    }

    /// Counts packets; how many there are in this tick.
    fn add(&mut self, at: [usize; 2], word: u64, packets: u32) -> u32 {
        let count = self.now[0][at[0]].min(self.now[1][at[1]]) + packets;
        self.used += u32::from(self.now[0][at[0]] == 0);
        for (row, at) in self.now.iter_mut().zip(at) {
            row[at] = row[at].max(count);
        }
        if count > self.heaviest.0 {
            self.heaviest = (count, word);
        }
        count
    }

    /// Counts one packet, or one for so many, and says whether it passes.
    fn takes(&mut self, hash: u64, of_packet: u64, packets: u32) -> bool {
        let at = places(hash);
        let count = self.add(at, of_packet, packets);
        let Some(level) = self.level else { return true };
        let before = self.before[0][at[0]].min(self.before[1][at[1]]);
        let passes = before <= level
            || u64::from(count) * u64::from(level) % u64::from(before) < u64::from(level);
        if !passes {
            self.has_shed = true;
            let (word, before) = (of_packet & self.mask, u64::from(before));
            // What finds no room goes on by the rows.
            let _ =
                self.known.try_push(Known { word, of_packet, at, before, arrived: 0, credit: 0 });
        }
        passes
    }

    /// Counts one packet of a known destination and says whether it passes; one of how many.
    #[inline]
    fn knows(&mut self, word: u64) -> Option<(bool, u32)> {
        let (word, level) = (word & self.mask, u64::from(self.level?));
        let known = self.known.iter_mut().find(|known| known.word == word)?;
        known.arrived += 1;
        known.credit += level;
        let passes = known.credit >= known.before;
        known.credit -= if passes { known.before } else { 0 };
        Some((passes, (known.before / level) as u32))
    }

    /// Counts one packet that another worker has handed over. Those of a known destination are what
    /// it let pass; one of how many.
    fn counts(&mut self, word: u64) -> Option<u32> {
        let (word, level) = (word & self.mask, u64::from(self.level?));
        let known = self.known.iter_mut().find(|known| known.word == word)?;
        known.arrived += 1;
        Some((known.before / level) as u32)
    }

    /// Puts into the rows what came for known destinations, here or where others shed it, of
    /// which `collect` has the number by place; how much that was.
    fn settle(&mut self, collect: impl Fn(usize) -> u32) -> u64 {
        let mut sum = 0;
        let mut known = std::mem::take(&mut self.known);
        for (nth, known) in known.iter_mut().enumerate() {
            let elsewhere = if nth < self.named { collect(nth) } else { 0 };
            let arrived = std::mem::take(&mut known.arrived) + elsewhere;
            sum += u64::from(arrived);
            self.has_shed |= arrived > 0;
            known.before = u64::from(self.add(known.at, known.of_packet, arrived));
        }
        self.known = known;
        sum
    }

    /// Names what is known, for others to shed: the part that passes, of 2^32.
    fn name(&mut self, mut to: impl FnMut(usize, Option<(u64, u32)>)) {
        let level = u64::from(self.level.unwrap_or(u32::MAX));
        for nth in 0..KNOWN {
            // IPv6 has no owner: each worker sheds what it receives of it.
            let is_named = |known: &&Known| known.before > level && known.word & IPV6 == 0;
            let known = self.known.get(nth).filter(is_named);
            to(nth, known.map(|known| (known.word, ((level << 32) / known.before) as u32)));
        }
        self.named = self.known.len();
    }

    /// Half of what the heaviest had, or may have. False if that would be less than the least.
    fn lower(&mut self) -> bool {
        let had = self.level.unwrap_or(u32::MAX).min(self.heaviest.0);
        self.level = Some((had / 2).max(LEAST));
        had > LEAST
    }

    fn raise(&mut self) {
        let has_shed = self.has_shed;
        self.level = self.level.filter(|_| has_shed).map(|level| level.saturating_add(level / 8));
    }

    /// The heaviest, if it is above the level.
    fn shed(&self) -> Option<(u32, u64)> {
        self.level.filter(|level| self.heaviest.0 > *level).map(|_| self.heaviest)
    }

    /// What is counted from now on is the next tick's.
    fn turn(&mut self) {
        std::mem::swap(&mut self.now, &mut self.before);
        self.now.iter_mut().for_each(|row| row.fill(0));
        let level = self.level.map_or(u64::MAX, u64::from);
        self.known.retain(|known| known.before > level);
        (self.used, self.heaviest, self.has_shed) = (0, (0, 0), false);
    }
}

/// What one worker sheds of what comes from outside.
pub struct FloodGuard {
    is_on: bool,
    is_active: bool,
    /// The tick that is counted.
    tick: Tick,
    /// The queues stayed full in it.
    was_full: bool,
    total: u64,
    /// Packets that came for a known endpoint of a known address.
    twice: u64,
    endpoints: Arrivals,
    addresses: Arrivals,
    flood: Option<Flood>,
    /// Some of IPv6 that was shed lately, by word, which does not tell it.
    seen6: ArrayVec<(u64, Aim6), SEEN6>,
    next6: usize,
    notices: Arc<FloodNotices>,
    worker: u16,
}

impl FloodGuard {
    /// That of a worker: it counts and sheds nothing yet, and never does unless `is_on`. What it
    /// sheds is in `notices`.
    pub fn new(is_on: bool, notices: Arc<FloodNotices>, worker: u16) -> Self {
        Self {
            is_on,
            seen6: ArrayVec::new(),
            next6: 0,
            notices,
            worker,
            is_active: false,
            tick: Tick::default(),
            was_full: false,
            total: 0,
            twice: 0,
            endpoints: Arrivals::new(u64::MAX),
            addresses: Arrivals::new(ADDRESS),
            flood: None,
        }
    }

    /// A poll begins under this pressure. Says whether [`FloodGuard::flood`] may be another.
    #[inline]
    pub fn note_poll(&mut self, pressure: &Pressure, now: Tick) -> bool {
        self.is_on && (pressure.is_pressed() || self.is_active) && self.note_active(pressure, now)
    }

    #[cold]
    fn note_active(&mut self, pressure: &Pressure, now: Tick) -> bool {
        let begins = self.tick != now;
        if begins {
            self.tick = now;
            self.judge();
        }
        // What has become known since, others shed from now on too.
        if self.endpoints.named < self.endpoints.known.len()
            || self.addresses.named < self.addresses.known.len()
        {
            self.name();
        }
        self.was_full |= pressure.is_full();
        let has_level = self.endpoints.level.is_some() || self.addresses.level.is_some();
        self.is_active = pressure.is_pressed() || has_level;
        begins
    }

    /// Whether arrivals are to be counted.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.is_active
    }

    /// Counts a packet from outside, for the aim with this word, and says whether it is taken. Hashes
    /// are mostly not asked for once a flood is known.
    #[inline]
    pub fn takes(&mut self, word: u64, hash: impl Fn(u64) -> u64) -> bool {
        let of_endpoint = self.endpoints.knows(word);
        // What goes for its endpoint is no fault of the address.
        if let Some((false, _)) = of_endpoint {
            return false;
        }
        match (of_endpoint, self.addresses.knows(word)) {
            (_, Some((false, _))) => {
                self.twice += u64::from(of_endpoint.is_some());
                false
            }
            (None, of_address) => self.takes_unknown(word, hash, of_address.map(|(_, of)| of)),
            (Some(_), None) => self.addresses.takes(hash(word & ADDRESS), word, 1),
            (Some(_), Some(_)) => {
                self.twice += 1;
                true
            }
        }
    }

    /// The same of a packet of IPv6.
    pub fn takes6(&mut self, aim: Aim6, word: u64, hash: impl Fn(u64) -> u64) -> bool {
        let is_taken = self.takes(word, hash);
        if !is_taken && !self.seen6.iter().any(|(seen, _)| *seen == word) {
            if self.seen6.is_full() {
                self.seen6[self.next6 % SEEN6] = (word, aim);
                self.next6 += 1;
            } else {
                self.seen6.push((word, aim));
            }
        }
        is_taken
    }

    /// For an operator: how many packets came for the destination with this word.
    fn told(&self, is_address: bool, arrived: u32, word: u64) -> Option<Flood> {
        if word & IPV6 == 0 {
            let aim = Aim::of_word(word);
            return Some(Flood { aim, address6: None, is_address, arrived });
        }
        let mask = if is_address { ADDRESS } else { u64::MAX };
        let (_, aim) = self.seen6.iter().find(|(seen, _)| (seen ^ word) & mask == 0)?;
        let (protocol, port) = if is_address { (0, 0) } else { (aim.protocol, aim.port) };
        let (address6, aim) = (Some(aim.address), Aim { address: 0, protocol, port });
        Some(Flood { aim, address6, is_address, arrived })
    }

    /// Counts a packet from outside that another worker has handed over, and says whether it is taken.
    /// Of what is known, the other has shed already.
    pub fn takes_handed(&mut self, word: u64, hash: impl Fn(u64) -> u64) -> bool {
        match (self.endpoints.counts(word), self.addresses.counts(word)) {
            (Some(_), Some(_)) => {
                self.twice += 1;
                true
            }
            (Some(_), None) => self.addresses.takes(hash(word & ADDRESS), word, 1),
            (None, of_address) => self.takes_unknown(word, hash, of_address),
        }
    }

    fn name(&mut self) {
        let Self { notices, worker, endpoints, addresses, .. } = self;
        endpoints.name(|nth, named| notices.name(*worker, false, nth, named));
        addresses.name(|nth, named| notices.name(*worker, true, nth, named));
    }

    /// Of an endpoint that is not known; if its address is, this is one that passes, of how many.
    #[inline(never)]
    fn takes_unknown(
        &mut self,
        word: u64,
        hash: impl Fn(u64) -> u64,
        of_address: Option<u32>,
    ) -> bool {
        match of_address {
            // It stands for those that did not pass.
            Some(of) => self.endpoints.takes(hash(word), word, of),
            None => {
                self.total += 1;
                self.endpoints.takes(hash(word), word, 1)
                    && self.addresses.takes(hash(word & ADDRESS), word, 1)
            }
        }
    }

    /// What was shed in the last tick.
    pub fn flood(&self) -> Option<Flood> {
        self.flood
    }

    /// A tick has ended.
    fn judge(&mut self) {
        let (notices, worker) = (&self.notices, self.worker);
        let by_endpoint = self.endpoints.settle(|nth| notices.collect(worker, false, nth));
        let by_address = self.addresses.settle(|nth| notices.collect(worker, true, nth));
        self.total += by_endpoint + by_address - self.twice;
        let (endpoint, _) = self.endpoints.heaviest;
        let (address, _) = self.addresses.heaviest;
        let others = u64::from(self.addresses.used.saturating_sub(1));
        let is_share = |count: u32| {
            let (is_heavy, count) = (count > LEAST, u64::from(count));
            is_heavy && count * SHARE > self.total && (self.total - count) * REST >= self.total
        };
        let is_outstanding = others > 0
            && u64::from(address) * others > OUTSTANDING * (self.total - u64::from(address));
        self.flood = match (self.endpoints.shed(), self.addresses.shed()) {
            (Some((arrived, word)), _) => self.told(false, arrived, word),
            (None, Some((arrived, word))) => self.told(true, arrived, word),
            (None, None) => None,
        };
        if !self.was_full {
            self.endpoints.raise();
            self.addresses.raise();
        } else if !(is_share(endpoint) && self.endpoints.lower())
            && is_share(address)
            && is_outstanding
        {
            self.addresses.lower();
        }
        self.endpoints.turn();
        self.addresses.turn();
        self.name();
        (self.total, self.twice, self.was_full) = (0, 0, false);
    }
}

#[cfg(test)]
mod tests;
