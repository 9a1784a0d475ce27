//! What others keep of their throughput while a flood from outside comes for one destination.
//!
//! Packets arrive at a rate, in the time that the worker itself needs: queues of 1,024 packets
//! fill as a card's do, and what finds them full is lost. So the figures are ratios within one run,
//! of what others sent and got, and of a capacity that was measured in the same process.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use cgnat_core::time::Instant;
use cgnat_tests::figures::Figure;
use clap::ValueEnum;
use dpdk::tsc;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::rig::{Begun, Bench, FIRST_HOST, FLOWS_PER_HOST, Rig, Size, flows, shuffle};
use crate::traffic::{EXTERNAL, FLOOD, Flow, INTERNAL, Line, SMALL, Source, Ticks};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Mappings.
    #[arg(long, default_value_t = 64_000)]
    pub mappings: u32,
    /// Floods, in packets for each that the worker can translate.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 2.0, 3.0, 5.0, 10.0])]
    pub times: Vec<f64>,
    /// Packets of others, for each that the worker can translate: half of them each way.
    #[arg(long, default_value_t = 0.5)]
    pub others: f64,
    /// What the flood is for.
    #[arg(long, value_enum, default_value_t = Kind::Endpoint)]
    pub kind: Kind,
    /// Ordinary pages instead of huge ones.
    #[arg(long)]
    pub small_pages: bool,
    /// The CPU.
    #[arg(long, default_value_t = 1)]
    pub cpu: u16,
    /// Samples of each figure.
    #[arg(long, default_value_t = 3)]
    pub slices: u32,
}

/// What a flood is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A port that somebody uses: what is not shed is translated.
    Endpoint,
    /// All ports of an address, many of them in use.
    Address,
}

/// Ticks of the worker before a flood is looked at, seconds: the guard has found its level.
const WARM_UP_S: f64 = 1.5;
/// And while it is looked at.
const LOOK_S: f64 = 0.7;

/// Packets by which the capacity is measured.
const SLICE: u64 = 1 << 21;

/// Measures in a process of its own: the EAL starts once.
pub fn measure(options: &Options) -> Result<Vec<Figure>> {
    let mut rig = Rig::<true>::build(&Size {
        workers: 1,
        first_cpu: options.cpu,
        mappings: options.mappings,
        hosts: options.mappings.div_ceil(FLOWS_PER_HOST),
        frame: SMALL,
        huge_pages: !options.small_pages,
        flood_guard: true,
    })?;
    let place = rig.places.pop().context("a box has a worker")?;
    let (options, hz) = (options.clone(), rig.eal.tsc_hz() as f64);
    rig.eal.launch(1, move || place.bench().floods(&options, hz))?.join()?
}

impl Bench<true> {
    fn floods(&mut self, options: &Options, hz: f64) -> Result<Vec<Figure>> {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        self.settle();
        let mut outward = flows(FIRST_HOST, options.mappings);
        let Begun { answers, .. } = self.begin(&outward, &mut random)?;
        let target = answers[answers.len() / 2];
        let others = |flow: &&Flow| match options.kind {
            Kind::Endpoint => flow.number != target.number,
            Kind::Address => flow.destination != target.destination,
        };
        let mut inward: Vec<Flow> = answers.iter().filter(others).copied().collect();
        ensure!(!inward.is_empty(), "all mappings have one address: {} is too few", answers.len());
        let flood = flood(options.kind, target);
        shuffle(&mut outward, &mut random);
        shuffle(&mut inward, &mut random);
        self.io().sources = [Source::of(outward), Source::of(inward)];
        let mut capacity = Vec::new();
        for _ in 0..=options.slices {
            self.worker().guard_floods(false);
            capacity.push(self.slice(SLICE / 2, SLICE / 2)?.0);
            self.settle();
        }
        capacity.remove(0);
        let clk = capacity.iter().copied().fold(f64::MAX, f64::min);
        let mut figures = vec![Figure::new("capacity", "clk", capacity, "of a packet of others")];
        for times in &options.times {
            for is_on in [false, true] {
                let mut kept = [Vec::new(), Vec::new()];
                for _ in 0..options.slices {
                    self.worker().guard_floods(is_on);
                    let shares = self.flooded(&flood, times / clk, options.others / 2.0 / clk, hz);
                    kept.iter_mut().zip(shares).for_each(|(kept, share)| kept.push(share));
                }
                let guard = if is_on { "guard" } else { "no-guard" };
                for (way, kept) in ["out", "in"].into_iter().zip(kept) {
                    figures.push(Figure::new(&format!("{times}x/{guard}/{way}"), "%", kept, ""));
                }
            }
        }
        Ok(figures)
    }

    /// A flood of so many packets in a tick, and of others each way: which part of these comes
    /// through, by the port at which they arrive, percent.
    fn flooded(&mut self, flood: &[Flow], rate: f64, others: f64, hz: f64) -> [f64; 2] {
        self.io().ticks = Ticks { reading: self.reading(), ..Ticks::default() };
        let start = self.io().ticks.own(tsc());
        let line = |rate| Some(Line::new(Source::of(flood.to_vec()), (rate, others), start));
        self.io().lines = [line(0.0), line(rate)];
        let begin = self.home.now();
        let mut before = None;
        loop {
            let own = (self.io().ticks.own(tsc()) - start) as f64 / hz;
            let sent = [INTERNAL, EXTERNAL].map(|port| {
                let line = &self.io().lines[port];
                line.as_ref().map_or(0, |line| line.sent)
            });
            match before {
                None if own >= WARM_UP_S => before = Some((own, sent)),
                Some((since, had)) if own >= WARM_UP_S + LOOK_S => {
                    self.io().lines = [None, None];
                    while self.poll() > 0 {}
                    let offered = (own - since) * hz * others;
                    return [0, 1].map(|port| (sent[port] - had[port]) as f64 / offered * 100.0);
                }
                _ => {}
            }
            for _ in 0..32 {
                let own = (self.io().ticks.own(tsc()) - start) as f64 / hz;
                let now = Instant::from_nanos(begin.nanos() + (own * 1e9) as u64);
                self.worker().poll(now);
            }
        }
    }
}

/// Packets of a flood, in turn.
fn flood(kind: Kind, target: Flow) -> Vec<Flow> {
    let packet = |n: u32| Flow {
        source: u32::from(Ipv4Addr::new(8, 8, 0, 0)) + n % 50_021,
        source_port: 53,
        destination_port: match kind {
            Kind::Endpoint => target.destination_port,
            Kind::Address => 1024 + (n.wrapping_mul(40_503) % 64_512) as u16,
        },
        number: FLOOD,
        ..target
    };
    (0..50_021).map(packet).collect()
}
