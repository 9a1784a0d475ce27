//! Measures the packet path: the worker's real loop over packet buffers of DPDK.

mod churn;
mod document;
mod flood;
mod machine;
mod pair;
mod rig;
mod suite;
mod table;
mod traffic;

use anyhow::Result;
use cgnat_tests::figures::Figure;
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
        #[command(flatten)]
        form: Form,
    },
    /// Flows that come and go beside some that stay, in this process.
    Churn {
        #[command(flatten)]
        options: churn::Options,
        #[command(flatten)]
        form: Form,
    },
    /// What others keep beside a flood from outside, in this process.
    Flood {
        #[command(flatten)]
        options: flood::Options,
        #[command(flatten)]
        form: Form,
    },
    /// One worker and two, in this process.
    Pair {
        #[command(flatten)]
        options: pair::Options,
        #[command(flatten)]
        form: Form,
    },
}

/// How figures are told.
#[derive(clap::Args)]
struct Form {
    /// Lines of JSON instead of text.
    #[arg(long)]
    json: bool,
}

impl Form {
    fn print(&self, figures: &[Figure]) -> Result<()> {
        for figure in figures {
            match self.json {
                true => println!("{}", serde_json::to_string(figure)?),
                false => println!("{}", figure.line()),
            }
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    match Arguments::parse().part {
        Part::All(options) => suite::run(&options),
        Part::Document(options) => document::write(&options),
        Part::Table { options, form } => form.print(&table::measure(&options)?),
        Part::Churn { options, form } => form.print(&churn::measure(&options)?),
        Part::Flood { options, form } => form.print(&flood::measure(&options)?),
        Part::Pair { options, form } => form.print(&pair::measure(&options)?),
    }
}
