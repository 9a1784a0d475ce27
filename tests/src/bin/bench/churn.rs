//! A box whose flows come and go: what first packets and ends cost beside those that stay, and
//! what housekeeping takes.
//!
//! Flows that stay have an hour, flows that go a second; time is the clock's. Housekeeping runs on
//! the first CPU as in the program, the worker on the second; while `hit`, `creation` and `mixed`
//! are measured in turn it rests, so that no end is counted among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::figures::Figure;
use dpdk::tsc;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::rig::{
    Begun, Bench, FIRST_HOST, FLOWS_PER_HOST, Home, Rig, SHORT_LIVED, SHORT_SECONDS, Size, flows,
    shuffle,
};
use crate::traffic::{EXTERNAL, Flow, Fresh, INTERNAL, SMALL, Source};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Mappings that stay.
    #[arg(long)]
    pub mappings: u32,
    /// Samples of each figure.
    #[arg(long, default_value_t = 7)]
    pub slices: u32,
    /// First packets per second while ends are measured one by one.
    #[arg(long, default_value_t = 400_000)]
    pub rate: u32,
}

/// Subscribers whose flows come and go, and room for so many at once: flows live a second and a
/// half, so it is enough for eight million first packets a second.
const HOSTS: u32 = 3 << 16;
const ROOM: u32 = 12 << 20;

/// The first of them.
const FIRST_FRESH: u32 = 0x6460_0001;

/// Packets of a slice, and how many in a thousand of them are new.
const SLICE: u64 = 1 << 20;
const NEW_PERMILLE: u64 = 100;

/// The pause of the program's housekeeping thread when there was nothing to do.
const PAUSE: Duration = Duration::from_micros(500);

/// Measures in a process of its own: the EAL starts once.
pub fn measure(options: &Options) -> Result<Vec<Figure>> {
    let mut rig = Rig::<true>::build(&Size {
        workers: 1,
        first_cpu: 1,
        mappings: options.mappings + ROOM,
        hosts: options.mappings.div_ceil(FLOWS_PER_HOST) + HOSTS,
        frame: SMALL,
        huge_pages: true,
        flood_guard: false,
    })?;
    let place = rig.places.pop().context("a box has a worker")?;
    let home = rig.home.clone();
    let runs = Arc::new(AtomicBool::new(false));
    let options = options.clone();
    let ticks_per_second = rig.eal.tsc_hz() as f64;
    let work = {
        let runs = runs.clone();
        move || {
            let bench = place.bench();
            let fresh = Fresh::new(FIRST_FRESH, HOSTS, SHORT_LIVED);
            Churn { bench, options, runs, fresh, stay: 0, ticks_per_second }.figures()
        }
    };
    let handle = rig.eal.launch(1, work)?;
    while !handle.is_finished() {
        let worked = runs.load(Ordering::Acquire) && home.run();
        if !worked {
            std::thread::sleep(PAUSE);
        }
    }
    handle.join()?
}

struct Churn {
    bench: Bench<true>,
    options: Options,
    /// Whether housekeeping runs.
    runs: Arc<AtomicBool>,
    fresh: Fresh,
    /// Mappings that stay.
    stay: u32,
    ticks_per_second: f64,
}

/// Polls that ended mappings, and others.
#[derive(Default)]
struct Ends {
    /// Ticks of those that took first packets and ended nothing.
    plain: Vec<f64>,
    /// Ticks of those that did nothing else.
    pauses: Vec<f64>,
    /// Ticks for ends in all.
    ticks: f64,
    /// Mappings and subscribers that ended.
    count: u64,
    /// Of the whole.
    elapsed: f64,
}

impl Churn {
    fn figures(mut self) -> Result<Vec<Figure>> {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        self.bench.settle();
        let mut outward = flows(FIRST_HOST, self.options.mappings);
        let Begun { answers: mut inward, .. } = self.bench.begin(&outward, &mut random)?;
        shuffle(&mut outward, &mut random);
        shuffle(&mut inward, &mut random);
        // Whoever begins flows again and again has others that stay.
        let stays = |n: u32| Flow {
            source: FIRST_FRESH + n,
            source_port: 9_000,
            destination: 0x0808_0808,
            destination_port: 443,
            number: n,
        };
        let others: Vec<Flow> = (0..HOSTS).map(stays).collect();
        self.bench.begin(&others, &mut random)?;
        self.stay = self.options.mappings + HOSTS;
        self.bench.io().sources = [Source::of(outward), Source::of(inward)];

        let mut figures = self.new_beside_old()?;
        self.runs.store(true, Ordering::Release);
        figures.extend(self.steady_state()?);
        figures.extend(self.at_rest()?);
        figures.extend(self.ends_at_a_rate()?);
        figures.extend(self.lateness()?);
        self.runs.store(false, Ordering::Release);
        Ok(figures)
    }

    /// New ones of the subscribers, so many in a thousand packets from inside.
    fn mix_in(&mut self, permille: u32) {
        self.fresh.permille = permille;
        self.bench.io().sources[INTERNAL].mix_in(self.fresh);
    }

    fn leave_out(&mut self) {
        if let Some(fresh) = self.bench.io().sources[INTERNAL].take_fresh() {
            self.fresh = fresh;
        }
    }

    fn home(&self) -> &Home {
        &self.bench.home
    }

    /// Existing flows, new flows, and both together with one new packet in ten.
    fn new_beside_old(&mut self) -> Result<Vec<Figure>> {
        let mut columns: [Vec<f64>; 4] = Default::default();
        let new = SLICE * NEW_PERMILLE / 1000;
        let (out, inward) = (SLICE / 2 + new / 2, SLICE / 2 - new / 2);
        // The first round warms up.
        for round in 0..=self.options.slices {
            let hit = self.bench.slice(SLICE / 2, SLICE / 2)?.0;
            self.mix_in(1000);
            let creation = self.bench.slice(new, 0)?.0;
            self.leave_out();
            self.mix_in((new * 1000 / out) as u32);
            let mixed = self.bench.slice(out, inward)?.0;
            self.leave_out();
            let share = (new * 1000 / out) as f64 / 1000.0 * out as f64 / SLICE as f64;
            let beside = (mixed - share * creation) / (1.0 - share);
            if round > 0 {
                let row = [hit, creation, mixed, beside / hit];
                columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
            }
            self.clear()?;
        }
        let [hit, creation, mixed, beside] = columns;
        Ok(vec![
            Figure::new("churn/hit", "clk", hit, ""),
            Figure::new("churn/creation", "clk", creation, ""),
            Figure::new("churn/10%-new", "clk", mixed, ""),
            Figure::new("churn/hit-beside-10%-new", "times", beside, "what is not creation"),
        ])
    }

    /// Lets all flows end that go.
    fn clear(&mut self) -> Result<()> {
        let all = |bench: &Bench<true>| -> u64 {
            bench.counters.mappings.iter().map(|count| count.value()).sum()
        };
        let until = self.seconds_from_now(f64::from(SHORT_SECONDS) + 5.0);
        while all(&self.bench) > u64::from(self.stay) {
            ensure!(tsc() < until, "flows that should have ended have not");
            if !self.runs.load(Ordering::Relaxed) {
                self.home().run();
            }
            self.bench.poll();
        }
        Ok(())
    }

    fn seconds_from_now(&self, seconds: f64) -> u64 {
        tsc() + (seconds * self.ticks_per_second) as u64
    }

    /// Nothing but new flows, as many as the worker takes, while as many end.
    fn steady_state(&mut self) -> Result<Vec<Figure>> {
        let second = self.ticks_per_second as u64;
        self.mix_in(1000);
        self.bench.work_for(3 * second, &[INTERNAL]);
        let mut values = Vec::new();
        let (ended, busy) = (self.bench.counters.ended.value(), self.busy());
        let start = tsc();
        for _ in 0..self.options.slices {
            values.push(self.bench.work_for(second / 2, &[INTERNAL]).0);
        }
        let elapsed = (tsc() - start) as f64;
        let ended = (self.bench.counters.ended.value() - ended) as f64;
        let busy = (self.busy() - busy) / elapsed * 100.0;
        self.leave_out();
        let drops = self.bench.drops();
        ensure!(drops.is_empty(), "first packets were dropped: {drops:?}");
        self.clear()?;
        let rate = ended / elapsed * self.ticks_per_second / 1e6;
        Ok(vec![
            Figure::new("churn/creation-and-end", "clk", values, "steady state"),
            Figure::new("churn/ends-meanwhile", "M/s", vec![rate], ""),
            Figure::new("churn/housekeeping-meanwhile", "% core", vec![busy], ""),
        ])
    }

    fn busy(&self) -> f64 {
        self.home().busy.load(Ordering::Relaxed) as f64
    }

    /// What housekeeping takes while nothing ends.
    fn at_rest(&mut self) -> Result<Vec<Figure>> {
        let second = self.ticks_per_second as u64;
        let mut values = Vec::new();
        for _ in 0..self.options.slices {
            let (start, busy) = (tsc(), self.busy());
            self.bench.work_for(second / 2, &[INTERNAL, EXTERNAL]);
            values.push((self.busy() - busy) / (tsc() - start) as f64 * 100.0);
        }
        Ok(vec![Figure::new("churn/housekeeping-at-rest", "% core", values, "")])
    }

    /// New flows at a rate, and as many ends: how long the worker is at them at a time.
    fn ends_at_a_rate(&mut self) -> Result<Vec<Figure>> {
        self.mix_in(1000);
        self.paced(f64::from(SHORT_SECONDS) + 1.0);
        let (mut costs, mut shares) = (Vec::new(), Vec::new());
        let (mut pauses, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..self.options.slices {
            let ends = self.paced(0.5);
            costs.push(ends.ticks / ends.count.max(1) as f64);
            shares.push(ends.ticks / ends.elapsed * 100.0);
            pauses.extend(ends.pauses);
            plain.extend(ends.plain);
        }
        self.leave_out();
        self.clear()?;
        let note = format!("at {} first packets a second", self.options.rate);
        let mut figures = vec![
            Figure::new("churn/end", "clk", costs, ""),
            Figure::new("churn/ends-of-worker", "%", shares, &note),
        ];
        figures.extend(self.spread("churn/pause-for-ends", pauses));
        figures.extend(self.spread("churn/poll-of-32-first-packets", plain));
        Ok(figures)
    }

    /// Where the longest of some times lie, which are in ticks.
    fn spread(&self, name: &str, mut ticks: Vec<f64>) -> Vec<Figure> {
        ticks.sort_by(f64::total_cmp);
        let last = ticks.len().saturating_sub(1) as f64;
        let at = |share: f64| ticks.get((last * share) as usize).copied();
        let micros = |ticks: f64| ticks * 1e6 / self.ticks_per_second;
        [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("longest", 1.0)]
            .map(|(of, share)| {
                let values = at(share).map(micros).into_iter().collect();
                Figure::new(&format!("{name}/{of}"), "us", values, "")
            })
            .to_vec()
    }

    /// Polls for so long, with first packets at the rate.
    fn paced(&mut self, seconds: f64) -> Ends {
        const AT_ONCE: u64 = 32;
        let interval = self.ticks_per_second * AT_ONCE as f64 / f64::from(self.options.rate);
        let (mut ends, mut all_plain) = (Ends::default(), 0.0);
        let (start, until) = (tsc(), self.seconds_from_now(seconds));
        let mut given = 0u64;
        while tsc() < until {
            let is_time = (tsc() - start) as f64 > given as f64 * interval;
            given += u64::from(is_time);
            let io = self.bench.io();
            io.ticks = Default::default();
            io.sources[INTERNAL].left = if is_time { AT_ONCE } else { 0 };
            let ended = self.bench.counters.ended.value();
            let before = tsc();
            self.bench.poll();
            let total = tsc() - before;
            let ticks = self.bench.own(total, 1).0;
            let ended = self.bench.counters.ended.value() - ended;
            match (ended > 0, is_time) {
                (false, true) => {
                    all_plain += ticks;
                    ends.plain.push(ticks);
                }
                (false, false) => {}
                (true, false) => {
                    ends.pauses.push(ticks);
                    ends.ticks += ticks;
                }
                (true, true) => {
                    let packets = all_plain / ends.plain.len().max(1) as f64;
                    ends.ticks += (ticks - packets).max(0.0);
                }
            }
            ends.count += ended;
        }
        ends.elapsed = (tsc() - start) as f64;
        ends
    }

    /// How long after its time a mapping ends: the first and the last of some that began together.
    fn lateness(&mut self) -> Result<Vec<Figure>> {
        const TOGETHER: u64 = 1 << 14;
        let (mut first, mut last) = (Vec::new(), Vec::new());
        let timeout = f64::from(SHORT_SECONDS) * self.ticks_per_second;
        for _ in 0..self.options.slices {
            self.mix_in(1000);
            let begins = tsc();
            self.bench.slice(TOGETHER, 0)?;
            let begun = tsc();
            self.leave_out();
            let ended = self.bench.counters.ended.value();
            let until = self.seconds_from_now(f64::from(SHORT_SECONDS) + 5.0);
            while self.bench.counters.ended.value() == ended {
                ensure!(tsc() < until, "flows that should have ended have not");
                self.bench.poll();
            }
            first.push(((tsc() - begun) as f64 - timeout) / self.ticks_per_second);
            self.clear()?;
            last.push(((tsc() - begins) as f64 - timeout) / self.ticks_per_second);
        }
        Ok(vec![
            Figure::new("churn/lateness/first-end", "s", first, "after its time"),
            Figure::new("churn/lateness/last-end", "s", last, "after its time"),
        ])
    }
}
