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

use super::flood_notices::{ADDRESS, FloodNotices, NAMED};
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

/// What is being shed, for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flood {
    /// Its destination; of an address neither protocol nor port is meant.
    pub aim: Aim,
    /// Whether it is the whole address.
    pub is_address: bool,
    /// Packets of it that came in the last tick.
    pub arrived: u32,
}

impl Flood {
    /// Its destination in one word, not 0.
    pub fn packed(&self) -> u64 {
        let Aim { address, protocol, port } = self.aim;
        let kind = 2 | u64::from(self.is_address);
        u64::from(address) << 32 | u64::from(protocol) << 24 | u64::from(port) << 8 | kind
    }

    /// The one that was packed so; none from 0.
    pub fn unpacked(word: u64, arrived: u32) -> Option<Self> {
        let (address, protocol, port) =
            ((word >> 32) as u32, (word >> 24) as u8, (word >> 8) as u16);
        let aim = Aim { address, protocol, port };
        (word != 0).then_some(Self { aim, is_address: word & 1 == 1, arrived })
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
            let known = self.known.get(nth).filter(|known| known.before > level);
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
    notices: Arc<FloodNotices>,
    worker: u16,
}

impl FloodGuard {
    /// That of a worker: it counts and sheds nothing yet, and never does unless `is_on`. What it
    /// sheds is in `notices`.
    pub fn new(is_on: bool, notices: Arc<FloodNotices>, worker: u16) -> Self {
        Self {
            is_on,
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
            (None, of_address) => self.takes_unknown(word, hash, of_address),
            (Some(_), None) => self.addresses.takes(hash(word & ADDRESS), word, 1),
            (Some(_), Some(_)) => {
                self.twice += 1;
                true
            }
        }
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
            (None, of_address) => self.takes_unknown(word, hash, of_address.map(|of| (true, of))),
        }
    }

    fn name(&mut self) {
        let Self { notices, worker, endpoints, addresses, .. } = self;
        endpoints.name(|nth, named| notices.name(*worker, false, nth, named));
        addresses.name(|nth, named| notices.name(*worker, true, nth, named));
    }

    /// Of an endpoint that is not known; of its address this one passes, if it is.
    #[inline(never)]
    fn takes_unknown(
        &mut self,
        word: u64,
        hash: impl Fn(u64) -> u64,
        of_address: Option<(bool, u32)>,
    ) -> bool {
        match of_address {
            // It stands for those that did not pass.
            Some((_, of)) => self.endpoints.takes(hash(word), word, of),
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
        let told = |is_address| {
            move |(arrived, word)| {
                let aim = Aim::of_word(word);
                Flood { aim, is_address, arrived }
            }
        };
        self.flood = (self.endpoints.shed().map(told(false)))
            .or_else(|| self.addresses.shed().map(told(true)));
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
mod tests {
    use super::*;

    /// A worker that can take so many packets in a tick, and drops so many for the price of one.
    struct Model {
        guard: FloodGuard,
        capacity: u64,
        drops_for_one: u64,
        pressure: Pressure,
        now: u32,
    }

    fn hash(key: u64) -> u64 {
        let once = (key ^ 0x1234_5678_9abc_def1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (once ^ once >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31)
    }

    /// Of each kind: arrived, and taken.
    type Outcome = Vec<(u64, u64)>;

    impl Model {
        fn new(capacity: u64) -> Self {
            let notices = Arc::new(FloodNotices::new(1));
            let guard = FloodGuard::new(true, notices, 0);
            let pressure = Pressure::default();
            Self { guard, capacity, drops_for_one: 5, pressure, now: 700 }
        }

        /// One tick, in which `mix` arrives evenly: weights, and what they are for.
        fn tick(&mut self, mix: &[(u64, Vec<Aim>)]) -> Outcome {
            let total: u64 = mix.iter().map(|(count, _)| count).sum();
            let mut outcome = vec![(0, 0); mix.len()];
            let mut time = 0;
            self.now += 1;
            self.poll(false);
            for n in 0..total {
                // Which kind is due: the one that is furthest behind its part.
                let due = |kind: &usize| {
                    (mix[*kind].0 * (n + 1)) as i64 - (outcome[*kind].0 * total) as i64
                };
                let kind = (0..mix.len()).max_by_key(due).expect("a kind");
                outcome[kind].0 += 1;
                // A queue that overflows loses one like the other.
                if time >= self.capacity * self.drops_for_one * (n + 1) / total {
                    self.poll(true);
                    continue;
                }
                // A tenth of the polls; in a row only if all are full.
                if n % 300 == 0 {
                    self.poll(false);
                }
                let aims = &mix[kind].1;
                let aim = aims[outcome[kind].0 as usize % aims.len()];
                let is_taken = !self.guard.is_active() || self.guard.takes(aim.word(), hash);
                outcome[kind].1 += u64::from(is_taken);
                time += if is_taken { self.drops_for_one } else { 1 };
            }
            outcome
        }

        fn poll(&mut self, was_full: bool) {
            self.pressure.note_poll(was_full, Tick(self.now));
            self.guard.note_poll(&self.pressure, Tick(self.now));
        }

        fn ticks(&mut self, count: usize, mix: &[(u64, Vec<Aim>)]) -> Outcome {
            let mut sum = vec![(0, 0); mix.len()];
            for _ in 0..count {
                for (sum, tick) in sum.iter_mut().zip(self.tick(mix)) {
                    *sum = (sum.0 + tick.0, sum.1 + tick.1);
                }
            }
            sum
        }
    }

    fn share((arrived, taken): (u64, u64)) -> f64 {
        taken as f64 / arrived as f64
    }

    /// Endpoints of many addresses, none of which stands out.
    fn others() -> Vec<Aim> {
        let aim = |n: u32| Aim { address: 1000 + n % 64, protocol: 6, port: (n * 7) as u16 };
        (0..6400).map(aim).collect()
    }

    fn one_endpoint() -> Vec<Aim> {
        vec![Aim { address: 1003, protocol: 17, port: 443 }]
    }

    fn one_address() -> Vec<Aim> {
        (0..5000).map(|port| Aim { address: 1003, protocol: 17, port }).collect()
    }

    #[test]
    fn a_flood_at_one_endpoint_leaves_the_others_and_its_address_what_they_had() {
        let mut model = Model::new(100_000);
        let neighbours = (0..50).map(|port| Aim { address: 1003, protocol: 6, port }).collect();
        let mix = [(45_000, others()), (1_000, neighbours), (200_000, one_endpoint())];
        let before = model.tick(&mix);
        assert!(share(before[0]) < 0.5, "{before:?}");
        model.ticks(10, &mix);
        let after = model.ticks(50, &mix);
        assert!(share(after[0]) > 0.95 && share(after[1]) > 0.95, "{after:?}");
        let flood = model.guard.flood().expect("a flood");
        assert_eq!((flood.aim, flood.is_address), (one_endpoint()[0], false));
        assert_eq!(Flood::unpacked(flood.packed(), flood.arrived), Some(flood));
        assert!(share(after[2]) > 0.01 && share(after[2]) < 0.4, "{after:?}");
    }

    #[test]
    fn a_flood_at_one_address_leaves_the_others_what_they_had() {
        let mut model = Model::new(100_000);
        let mix = [(45_000, others()), (200_000, one_address())];
        model.ticks(10, &mix);
        let after = model.ticks(50, &mix);
        assert!(share(after[0]) > 0.95, "{after:?}");
        let flood = model.guard.flood().expect("a flood");
        assert_eq!((flood.aim.address, flood.is_address), (1003, true));
        // When it is over nothing is counted any more.
        let calm = [(60_000, others())];
        model.ticks(60, &calm);
        assert!(!model.guard.is_active() && model.guard.flood().is_none());
        assert_eq!(model.tick(&calm), [(60_000, 60_000)]);
    }

    #[test]
    fn an_overload_without_a_culprit_sheds_nothing() {
        let mut model = Model::new(100_000);
        let mix = [(180_000, others())];
        model.ticks(5, &mix);
        let outcome = model.ticks(20, &mix);
        assert!((0.54..0.57).contains(&share(outcome[0])), "what it can take: {outcome:?}");
        // Nor is the only address one, nor the only download.
        for aims in [one_address(), one_endpoint()] {
            let mix = [(180_000, aims), (100, others())];
            model.ticks(5, &mix);
            let outcome = model.ticks(20, &mix);
            assert!((0.54..0.57).contains(&share(outcome[0])), "{outcome:?}");
            assert_eq!(model.guard.flood(), None);
        }
    }

    #[test]
    fn what_passes_of_a_flood_passes_evenly() {
        let mut arrivals = Arrivals::new(u64::MAX);
        let (hash, aim) = (77 << 32 | 5, one_endpoint()[0]);
        (0..100_000).for_each(|_| _ = arrivals.takes(hash, aim.word(), 1));
        assert!(arrivals.lower());
        arrivals.turn();
        let tenths: Vec<usize> = (0..10)
            .map(|_| (0..1000).filter(|_| arrivals.takes(hash, aim.word(), 1)).count())
            .collect();
        assert!(tenths.iter().all(|tenth| (499..=501).contains(tenth)), "{tenths:?}");
        // Others are not touched.
        assert!((0..1000).all(|_| arrivals.takes(78 << 32 | 6, aim.word(), 1)));
    }

    #[test]
    fn a_known_flood_is_shed_without_a_hash_and_counted_whole() {
        let mut model = Model::new(30_000);
        let mix = [(12_000, others()), (400_000, one_endpoint())];
        model.ticks(10, &mix);
        let word = one_endpoint()[0].word();
        let asked = std::cell::Cell::new(0);
        let ask = |word| {
            asked.set(asked.get() + 1);
            hash(word)
        };
        model.poll(true);
        model.guard.note_active(&model.pressure, Tick(model.now + 1));
        let taken = (0..100_000).filter(|_| model.guard.takes(word, ask)).count();
        assert!(taken > 0 && asked.get() <= taken, "{taken} passed, {} hashes", asked.get());
        model.guard.note_active(&model.pressure, Tick(model.now + 2));
        let flood = model.guard.flood().map(|flood| (flood.aim, flood.arrived));
        assert_eq!(flood, Some((one_endpoint()[0], 100_000)));
    }

    #[test]
    fn several_floods_at_a_time_are_shed_and_the_fifth_by_the_rows() {
        // Each has more than the least, and the heaviest moves from one to the next.
        let mut model = Model::new(400_000);
        model.drops_for_one = 20;
        let aim = |n: u32| Aim { address: 2000 + n, protocol: 17, port: 443 };
        let floods = (0..6).map(|n| (if n == 0 { 900_000 } else { 60_000 }, vec![aim(n)]));
        let mix: Vec<_> = std::iter::once((30_000, others())).chain(floods).collect();
        model.ticks(12, &mix);
        let after = model.ticks(20, &mix);
        assert_eq!(model.guard.endpoints.known.len(), KNOWN);
        assert!(share(after[0]) > 0.95, "{after:?}");
        assert!(after[1..].iter().all(|of| share(*of) < 0.8), "{after:?}");
    }

    #[test]
    fn a_flood_of_an_address_that_turns_to_one_endpoint_leaves_the_address_in_peace() {
        let mut model = Model::new(100_000);
        let neighbours = (0..50).map(|port| Aim { address: 1003, protocol: 6, port }).collect();
        let mut mix = [(40_000, others()), (1_000, neighbours), (200_000, one_address())];
        model.ticks(15, &mix);
        assert!(model.guard.flood().is_some_and(|flood| flood.is_address));
        mix[2].1 = one_endpoint();
        model.ticks(30, &mix);
        let after = model.ticks(50, &mix);
        assert!(model.guard.flood().is_some_and(|flood| !flood.is_address));
        assert!(share(after[0]) > 0.95 && share(after[1]) > 0.9, "{after:?}");
    }

    #[test]
    fn the_least_passes_whatever_happens_and_one_that_is_off_sheds_nothing() {
        let mut model = Model::new(25_000);
        let mix = [(8_000, others()), (400_000, one_endpoint())];
        model.ticks(20, &mix);
        assert_eq!(model.guard.endpoints.level, Some(LEAST));
        let mut off = Model::new(5_000);
        off.guard = FloodGuard::new(false, Arc::new(FloodNotices::new(1)), 0);
        off.ticks(5, &mix);
        assert!(!off.guard.is_active());
    }
}
