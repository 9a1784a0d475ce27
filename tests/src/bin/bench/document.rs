//! docs/performance.md, from the figures of a run.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::figures::Sample;
use crate::suite::Results;

/// From where to where.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Figures of `bench all`.
    #[arg(long, default_value = "target/bench/core.json")]
    from: PathBuf,
    /// The document.
    #[arg(long, default_value = "docs/performance.md")]
    to: PathBuf,
}

const HEAD: &str = "# Performance

Written by `make bench` from what it measured; not to be edited. A *clk* is a tick of the CPU's time-stamp
counter. Each figure is the median of its samples, with the tenth and the ninetieth percentile.

- Packets are buffers of DPDK between two of its null devices, 60 bytes without check sequence unless
  it says IMIX, of flows in random order, 63 of each subscriber. Their headers are written by the
  generator on the worker's core; its time is measured and taken off.
- `all` is the worker's whole loop with the driver's receive and transmit calls, `worker` the same without
  the driver. `macswap` is our own loop that exchanges MACs, in the same process; `testpmd/macswap`
  DPDK's program, run before each table.
- `creation` is a first packet: subscriber, block, port and mapping, and the packet translated.
- `memory/tables` is what was reserved for tables and port blocks, `memory/heap` what became resident
  beside, for each mapping.
- A run in which the host took more than 2 % of the time is thrown away and repeated.
";

/// Writes the document.
pub fn write(options: &Options) -> Result<()> {
    let text = std::fs::read_to_string(&options.from)
        .with_context(|| format!("{}: run `make bench` first", options.from.display()))?;
    let results: Results = serde_json::from_str(&text)
        .with_context(|| format!("{}: not the figures of a run", options.from.display()))?;
    let document = document(&results)?;
    std::fs::write(&options.to, document).with_context(|| options.to.display().to_string())
}

fn document(results: &Results) -> Result<String> {
    let mut text = HEAD.to_owned();
    writeln!(text, "\n{}, {:.3} GHz ticks.\n", results.machine, results.ticks_per_second / 1e9)?;
    writeln!(text, "| Figure | Median | Unit | p10 | p90 | Samples |")?;
    writeln!(text, "| --- | ---: | --- | ---: | ---: | ---: |")?;
    for Sample { name, unit, median, p10, p90, samples, note, .. } in &results.figures {
        let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
        writeln!(
            text,
            "| {name}{note} | {median:.2} | {unit} | {p10:.2} | {p90:.2} | {samples} |"
        )?;
    }
    Ok(text)
}
