//! docs/performance.md, from the figures of a run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cgnat_tests::callgrind::Kept;
use cgnat_tests::figures::Figure;
use serde::de::DeserializeOwned;

use crate::suite::{Results, TABLES};

/// From where to where.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Figures of `bench all`.
    #[arg(long, default_value = "target/bench/core.json")]
    from: PathBuf,
    /// Figures of `bench-live`.
    #[arg(long, default_value = "target/bench/live.json")]
    live: PathBuf,
    /// Counts of instructions.
    #[arg(long, default_value = "tests/instructions.txt")]
    instructions: PathBuf,
    /// The document.
    #[arg(long, default_value = "docs/performance.md")]
    to: PathBuf,
}

const HEAD: &str = "# Performance

Written by `make performance` from what `make bench` and `make bench-live` measured; not to be edited. A *clk* is a
tick of the CPU's time-stamp counter. Each figure is the median of its samples, with the tenth and the
ninetieth percentile; the JSON has every sample. What ran while the host took more than 2 % of the time was
thrown away.
";

const TABLE_HEAD: &str = "
## By number of mappings

Clk of a packet. Packets are buffers of DPDK between two of its null devices, 60 bytes without check sequence, of
flows in random order, 63 of each subscriber. Their headers are written by the generator on the worker's core; its
time is measured and taken off. `worker` is the worker's loop without the driver's receive and transmit,
all others are with them. `of testpmd` is the rate in mixed directions over that of DPDK's testpmd in its mode
macswap, which ran before each process. `first packet` takes subscriber, block, port and mapping, and is translated.
Bytes are all memory of tables, blocks and heap for each mapping.

| Mappings | Outbound | Inbound | Mixed | of it worker | Mpps | of testpmd | First packet | Bytes |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
";

const REST_HEAD: &str = "
## All figures

- `macswap`: our own loop that exchanges MACs, in the same process as the table beside it.
- `churn`: flows that come and go beside those that stay, a second after their last packet; housekeeping runs
  on the other CPU. `hit-beside-10%-new` is what existing flows take while one packet in ten begins a flow, over what
  they take else. `creation-and-end` is the steady state: each first packet with an end elsewhere. `pause-for-ends`
  is how long a worker is at ends at a time. `lateness` is from the time at which a mapping is due.
- `pair`: one worker, then two at once, each with so many mappings, on the two CPUs; `macswap-scaling` says what
  the machine gives. `all-handed-off` has every packet arrive at the wrong worker.

| Figure | Median | Unit | p10 | p90 | Samples | |
| --- | ---: | --- | ---: | ---: | ---: | --- |
";

const LIVE_HEAD: &str = "
## Through veths, beside the kernel's NAT

The same hosts and clients through nftables and through `cgnat` over packet sockets, in turn.

| Figure | Median | Unit | p10 | p90 | Samples | |
| --- | ---: | --- | ---: | ---: | ---: | --- |
";

const INSTRUCTIONS_HEAD: &str = "
## Instructions

Of the worker's loop for each packet, or each mapping that ends, counted by callgrind without the driver
(tests/instructions.txt, which also says by which functions; a rise fails a test).

| Case | Instructions |
| --- | ---: |
";

/// Writes the document.
pub fn write(options: &Options) -> Result<()> {
    let results: Results = read(&options.from, "make bench")?;
    let live: Vec<Figure> = read(&options.live, "make bench-live")?;
    let counts = std::fs::read_to_string(&options.instructions)
        .with_context(|| options.instructions.display().to_string())?;
    let text = document(&results, &live, &Kept::parse(&counts)?)?;
    std::fs::write(&options.to, text).with_context(|| options.to.display().to_string())
}

fn read<T: DeserializeOwned>(path: &Path, from: &str) -> Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: run `{from}` first", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{}: not the figures of `{from}`", path.display()))
}

fn document(results: &Results, live: &[Figure], counts: &Kept) -> Result<String> {
    let mut text = HEAD.to_owned();
    let ghz = results.ticks_per_second / 1e9;
    writeln!(text, "\n{}, {ghz:.3} GHz ticks.", results.machine)?;
    text += TABLE_HEAD;
    for (_, name) in TABLES {
        let cell = |figure: &str, digits: usize| {
            let name = format!("{name}/{figure}");
            let median = results.figures.iter().find(|f| f.name == name).and_then(|f| f.median);
            median.map_or("-".to_owned(), |median| format!("{median:.digits$}"))
        };
        let cells = [
            cell("outbound/all", 0),
            cell("inbound/all", 0),
            cell("mixed/all", 0),
            cell("mixed/worker", 0),
            cell("mixed/rate", 1),
            cell("mixed/of-testpmd", 2),
            cell("creation", 0),
            cell("memory/all", 1),
        ];
        writeln!(text, "| {name} | {} |", cells.join(" | "))?;
    }
    text += REST_HEAD;
    rows(&mut text, &results.figures)?;
    text += LIVE_HEAD;
    rows(&mut text, live)?;
    text += INSTRUCTIONS_HEAD;
    for (case, (each, _)) in &counts.cases {
        writeln!(text, "| {case} | {each:.1} |")?;
    }
    Ok(text)
}

fn rows(text: &mut String, figures: &[Figure]) -> Result<()> {
    for Figure { name, unit, median, p10, p90, samples, note } in figures {
        let cell = |value: &Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.2}"));
        let (median, p10, p90) = (cell(median), cell(p10), cell(p90));
        let count = samples.len();
        writeln!(text, "| {name} | {median} | {unit} | {p10} | {p90} | {count} | {note} |")?;
    }
    Ok(())
}
