//! One worker and two, each with as many mappings: does a second one add what the first does? And
//! what it costs when each packet arrives at the wrong one and is handed to its owner.

use std::sync::{Arc, Barrier};

use anyhow::{Result, bail, ensure};
use cgnat_core::verdict::DropReason;
use cgnat_core::worker::steering::Steering;
use cgnat_tests::figures::Figure;
use parking_lot::Mutex;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::rig::{Begun, Bench, FIRST_HOST, FLOWS_PER_HOST, Place, Rig, Size, flows, shuffle};
use crate::traffic::{EXTERNAL, Flow, INTERNAL, SMALL, Source};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Mappings of each worker.
    #[arg(long)]
    pub mappings: u32,
    /// Slices of each figure.
    #[arg(long, default_value_t = 7)]
    pub slices: u32,
}

const WORKERS: usize = 2;

/// Ticks of a slice.
const SLICE: u64 = 300_000_000;

/// What each worker has: its own packets, and those that arrive at it for the other.
type Traffic = [Vec<Flow>; 2];

/// What is done at one time, and by whom.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Alone(usize),
    Both,
    MacswapAlone(usize),
    MacswapBoth,
    HandedOff,
}

const PHASES: [Phase; 7] = [
    Phase::Alone(0),
    Phase::Alone(1),
    Phase::Both,
    Phase::MacswapAlone(0),
    Phase::MacswapAlone(1),
    Phase::MacswapBoth,
    Phase::HandedOff,
];

/// Ticks of a packet, by phase, of each round.
type Column = Vec<[Option<f64>; PHASES.len()]>;

/// What is common to the workers' threads.
struct Common {
    meeting: Barrier,
    /// By worker: what arrives for it.
    traffic: [Mutex<Traffic>; WORKERS],
    /// Why one of them could not begin.
    failed: Mutex<Option<String>>,
    options: Options,
}

/// Measures in a process of its own: the EAL starts once.
pub fn measure(options: &Options) -> Result<Vec<Figure>> {
    let mappings = options.mappings * WORKERS as u32;
    let rig = Rig::<true>::build(&Size {
        workers: WORKERS as u16,
        first_cpu: 0,
        mappings,
        hosts: mappings.div_ceil(FLOWS_PER_HOST),
        frame: SMALL,
        huge_pages: true,
        flood_guard: false,
    })?;
    let common = Arc::new(Common {
        meeting: Barrier::new(WORKERS),
        traffic: Default::default(),
        failed: Mutex::default(),
        options: options.clone(),
    });
    let mut handles = Vec::new();
    for (n, place) in rig.places.into_iter().enumerate() {
        let common = common.clone();
        handles.push(rig.eal.launch(n as u16 + 1, move || common.work(n, place))?);
    }
    let columns: Result<Vec<_>> = handles.into_iter().map(|handle| handle.join()?).collect();
    figures(&columns?)
}

impl Common {
    fn work(&self, n: usize, place: Place<true>) -> Result<Column> {
        let mut bench = place.bench();
        let begun = self.begin(n, &mut bench);
        // Whoever fails must not leave the other waiting.
        if let Err(error) = begun {
            *self.failed.lock() = Some(format!("worker {n}: {error:#}"));
        }
        self.meeting.wait();
        if let Some(error) = &*self.failed.lock() {
            bail!("{error}");
        }
        let own = self.traffic[n].lock().clone();
        let foreign = self.traffic[1 - n].lock().clone();
        let mut column = Vec::new();
        let before = bench.counters.handed_off.value();
        for round in 0..=self.options.slices {
            let row = PHASES.map(|phase| self.phase(n, phase, &mut bench, &own, &foreign));
            if round > 0 {
                column.push(row);
            }
        }
        ensure!(bench.counters.handed_off.value() > before, "nothing was handed to the other");
        let mut drops = bench.drops();
        drops.retain(|(name, _)| *name != DropReason::HandoffFull.name());
        ensure!(drops.is_empty(), "packets were dropped: {drops:?}");
        Ok(column)
    }

    /// Begins the mappings of worker `n`.
    fn begin(&self, n: usize, bench: &mut Bench<true>) -> Result<()> {
        let mut random = ChaCha8Rng::seed_from_u64(2 + n as u64);
        bench.settle();
        let steering = Steering::new(WORKERS as u16);
        // More than twice as many, because a hash deals them out; of those the first.
        let mine =
            flows(FIRST_HOST, self.options.mappings * 2 + self.options.mappings / 4 + 20_000)
                .into_iter()
                .filter(|flow| usize::from(steering.owner_of(flow.source)) == n);
        let mut outward: Vec<Flow> = mine.take(self.options.mappings as usize).collect();
        ensure!(outward.len() == self.options.mappings as usize, "too few subscribers");
        for (number, flow) in outward.iter_mut().enumerate() {
            flow.number = number as u32;
        }
        let Begun { answers: mut inward, .. } = bench.begin(&outward, &mut random)?;
        shuffle(&mut outward, &mut random);
        shuffle(&mut inward, &mut random);
        *self.traffic[n].lock() = [outward, inward];
        Ok(())
    }

    fn phase(
        &self,
        n: usize,
        phase: Phase,
        bench: &mut Bench<true>,
        own: &Traffic,
        foreign: &Traffic,
    ) -> Option<f64> {
        let arrives = if phase == Phase::HandedOff { foreign } else { own };
        bench.io().sources = arrives.clone().map(Source::of);
        self.meeting.wait();
        let each = match phase {
            Phase::Alone(of) if of == n => Some(bench.work_for(SLICE, &[INTERNAL, EXTERNAL]).0),
            Phase::Both | Phase::HandedOff => Some(bench.work_for(SLICE, &[INTERNAL, EXTERNAL]).0),
            Phase::MacswapAlone(of) if of == n => Some(bench.io().macswap(SLICE)),
            Phase::MacswapBoth => Some(bench.io().macswap(SLICE)),
            Phase::Alone(_) | Phase::MacswapAlone(_) => None,
        };
        // What is under way arrives.
        self.meeting.wait();
        while bench.poll() > 0 {}
        self.meeting.wait();
        while bench.poll() > 0 {}
        each
    }
}

/// From the columns of both workers.
fn figures(columns: &[Column]) -> Result<Vec<Figure>> {
    let rounds = columns.iter().map(Vec::len).min().unwrap_or(0);
    // The mean of those who worked, of each round: their rates count, not their ticks.
    let mean = |phases: &[usize], round: usize| {
        let of_round = columns.iter().map(|column| column[round]);
        let values: Vec<f64> =
            of_round.flat_map(|row| phases.iter().filter_map(move |p| row[*p])).collect();
        values.len() as f64 / values.iter().map(|ticks| 1.0 / ticks).sum::<f64>()
    };
    let each = |phases: &'static [usize]| (0..rounds).map(move |round| mean(phases, round));
    let (alone, both): (Vec<f64>, Vec<f64>) = (each(&[0, 1]).collect(), each(&[2]).collect());
    let (swap, swaps): (Vec<f64>, Vec<f64>) = (each(&[3, 4]).collect(), each(&[5]).collect());
    let handed: Vec<f64> = each(&[6]).collect();
    let twice = |one: &[f64], two: &[f64]| -> Vec<f64> {
        one.iter().zip(two).map(|(one, two)| 2.0 * one / two).collect()
    };
    let more = handed.iter().zip(&both).map(|(handed, both)| handed - both).collect();
    let (scaling, reference) = (twice(&alone, &both), twice(&swap, &swaps));
    Ok(vec![
        Figure::new("pair/one-worker", "clk", alone, ""),
        Figure::new("pair/two-workers", "clk", both, "of each packet at its worker"),
        Figure::new("pair/scaling", "times", scaling, "the rate of two over that of one"),
        Figure::new("pair/macswap-scaling", "times", reference, "likewise of macswap"),
        Figure::new("pair/all-handed-off", "clk", handed, "each packet by another worker"),
        Figure::new("pair/hand-off", "clk", more, "what a hand-off costs both workers together"),
    ])
}
