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
            let due =
                |kind: &usize| (mix[*kind].0 * (n + 1)) as i64 - (outcome[*kind].0 * total) as i64;
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
    assert_eq!(Flood::unpacked(flood.packed(), 0, flood.arrived), Some(flood));
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
fn floods_of_ipv6_are_told_apart_by_endpoint_and_by_prefix_and_named() {
    let pair = |a: u64, b: u64| hash(a ^ hash(b).rotate_left(23));
    let host = 0x2001_0db8_0000_0007_0000_0000_0000_0001u128;
    let aim = |address, port| Aim6 { address, protocol: 17, port };
    let notices = Arc::new(FloodNotices::new(2));
    for is_address in [false, true] {
        let mut guard = FloodGuard::new(true, notices.clone(), 0);
        let mut pressure = Pressure::default();
        let (mut taken, mut of_others) = (0, 0);
        for tick in 0..8 {
            (0..20).for_each(|_| _ = pressure.note_poll(true, Tick(tick)));
            guard.note_poll(&pressure, Tick(tick));
            (taken, of_others) = (0, 0);
            for n in 0..100_000u128 {
                // All addresses of the prefix, or one port of one.
                let flood = if is_address { aim(host + n, 443) } else { aim(host, 443) };
                taken += u32::from(guard.takes6(flood, flood.word(pair), hash));
                let other = aim(host + ((1 + n % 50) << 64), n as u16);
                of_others += u32::from(n % 4 > 0 || guard.takes6(other, other.word(pair), hash));
            }
        }
        assert!(of_others == 100_000 && taken.abs_diff(LEAST) < 300, "{of_others}, {taken}");
        let flood = guard.flood().expect("a flood");
        // From above: others may share its places.
        assert_eq!((flood.is_address, flood.arrived / 1000), (is_address, 100));
        let address = flood.address6.expect("IPv6");
        assert_eq!((address >> 64, flood.aim.address), (host >> 64, 0));
        if !is_address {
            assert_eq!((address, flood.aim.protocol, flood.aim.port), (host, 17, 443));
        }
        assert_eq!(Flood::unpacked(flood.packed(), address, flood.arrived), Some(flood));
        let elsewhere = Flood { address6: Some(address ^ 1 << 64), ..flood };
        assert!(flood.is_like(&flood) && !flood.is_like(&elsewhere));
    }
    assert!(!super::super::flood_notices::ForOthers::new(notices, 1).is_active());
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
