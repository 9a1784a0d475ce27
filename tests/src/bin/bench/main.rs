//! Measures the packet path: the worker's real loop over packet buffers of DPDK.

mod document;
mod figures;
mod machine;
mod suite;
mod table;
mod traffic;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures how fast the packet path is, beside what the machine can do.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Everything, beside testpmd: a line for each figure, and JSON.
    All(suite::Options),
    /// Writes docs/performance.md from the JSON of a run.
    Document(document::Options),
    /// One table, in this process.
    Table {
        #[command(flatten)]
        options: table::Options,
        /// Lines of JSON instead of text.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().part {
        Part::All(options) => suite::run(&options)?,
        Part::Document(options) => document::write(&options)?,
        Part::Table { options, json } => {
            for sample in table::measure(&options)? {
                match json {
                    true => println!("{}", serde_json::to_string(&sample)?),
                    false => println!("{}", sample.line()),
                }
            }
        }
    }
    Ok(())
}
