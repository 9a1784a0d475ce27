//! A box with so many mappings, on one lcore, and what it costs to translate their packets.

use anyhow::{Context as _, Result};
use cgnat_tests::figures::Figure;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::rig::{Begun, Bench, FIRST_HOST, FLOWS_PER_HOST, Rig, Size, flows, shuffle};
use crate::traffic::{IMIX, SMALL, Source};

/// Packets of one slice.
const SLICE: u64 = 1 << 20;

/// Ticks of a slice of macswap.
const MACSWAP: u64 = 30_000_000;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Mappings.
    #[arg(long)]
    pub mappings: u32,
    /// Slices of each figure.
    #[arg(long, default_value_t = 11)]
    pub slices: u32,
    /// Frames of the simple IMIX instead of 64 bytes.
    #[arg(long)]
    pub imix: bool,
    /// Ordinary pages instead of huge ones.
    #[arg(long)]
    pub small_pages: bool,
    /// Packets received at most at once.
    #[arg(long, default_value_t = 32)]
    pub burst: usize,
    /// The CPU.
    #[arg(long, default_value_t = 1)]
    pub cpu: u16,
    /// Only the rate in mixed directions.
    #[arg(long)]
    pub only_mixed: bool,
    /// No hints to the CPU's caches.
    #[arg(long)]
    pub no_hints: bool,
}

/// Measures in a process of its own: the EAL starts once.
pub fn measure(options: &Options) -> Result<Vec<Figure>> {
    match options.no_hints {
        true => measure_with::<false>(options),
        false => measure_with::<true>(options),
    }
}

fn measure_with<const HINTS: bool>(options: &Options) -> Result<Vec<Figure>> {
    let mut rig = Rig::<HINTS>::build(&Size {
        workers: 1,
        first_cpu: options.cpu,
        mappings: options.mappings,
        hosts: options.mappings.div_ceil(FLOWS_PER_HOST),
        frame: if options.imix { 1514 } else { SMALL },
        huge_pages: !options.small_pages,
        flood_guard: false,
    })?;
    let place = rig.places.pop().context("a box has a worker")?;
    let (provided, before) = (rig.provided, rig.resident);
    let options = options.clone();
    let work = move || {
        let mut bench = place.bench();
        let begun = bench.rates(&options)?;
        let Rates { mut figures, ticks, resident } = begun;
        if !options.only_mixed && !ticks.is_empty() {
            let each = |bytes: f64| vec![bytes / f64::from(options.mappings)];
            let heap = resident.saturating_sub(before) as f64;
            figures.push(Figure::new("creation", "clk", ticks, ""));
            figures.push(Figure::new("memory/tables", "B", each(provided as f64), ""));
            figures.push(Figure::new("memory/heap", "B", each(heap), ""));
            figures.push(Figure::new("memory/all", "B", each(provided as f64 + heap), ""));
        }
        Ok(figures)
    };
    rig.eal.launch(1, work)?.join()?
}

/// What came of a table.
struct Rates {
    figures: Vec<Figure>,
    /// Of first packets.
    ticks: Vec<f64>,
    /// Bytes of ordinary memory, without the generator's.
    resident: u64,
}

impl<const HINTS: bool> Bench<HINTS> {
    fn rates(&mut self, options: &Options) -> Result<Rates> {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        self.settle();
        let mut outward = flows(FIRST_HOST, options.mappings);
        let Begun { ticks, answers: mut inward, resident } = self.begin(&outward, &mut random)?;
        shuffle(&mut outward, &mut random);
        shuffle(&mut inward, &mut random);
        let io = self.io();
        io.sources = [Source::of(outward), Source::of(inward)];
        io.burst = options.burst;
        io.sizes = if options.imix { &IMIX } else { &[] };

        let all = [("outbound", SLICE, 0), ("inbound", 0, SLICE), ("mixed", SLICE / 2, SLICE / 2)];
        let ways = if options.only_mixed { &all[2..] } else { &all[..] };
        let mut macswap = Vec::new();
        let mut columns = vec![[Vec::new(), Vec::new()]; ways.len()];
        // The first round warms up.
        for round in 0..=options.slices {
            let swapped = self.io().macswap(MACSWAP);
            let mut rows = Vec::new();
            for (_, out, inward) in ways {
                self.io().tells_driver = false;
                let whole = self.slice(*out, *inward)?.0;
                self.io().tells_driver = true;
                rows.push([whole, self.slice(*out, *inward)?.1]);
            }
            self.io().tells_driver = false;
            self.settle();
            if round > 0 {
                macswap.push(swapped);
                for (column, row) in columns.iter_mut().zip(rows) {
                    column.iter_mut().zip(row).for_each(|(values, value)| values.push(value));
                }
            }
        }
        let mut figures = vec![Figure::new("macswap", "clk", macswap, "")];
        for ((way, ..), [whole, worker]) in ways.iter().zip(columns) {
            figures.push(Figure::new(&format!("{way}/all"), "clk", whole, ""));
            figures.push(Figure::new(&format!("{way}/worker"), "clk", worker, ""));
        }
        Ok(Rates { figures, ticks, resident })
    }
}
