//! One round of the worker's loop, to be run under valgrind by tests/instructions.rs.
//!
//! Callgrind counts only below `Round::polls`; everything else here is preparation.

use anyhow::{Context as _, Result};
use cgnat_core::testing::round::{Case, Round};
use clap::Parser;

/// Lets a worker handle packets of one kind and prints how many there were.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// `all` for every case, with one line each, or the name of one.
    case: String,
}

fn main() -> Result<()> {
    let Arguments { case: wanted } = Arguments::parse();
    let cases: Vec<_> =
        Case::ALL.into_iter().filter(|case| wanted == "all" || case.name() == wanted).collect();
    let names = Case::ALL.map(Case::name).join(", ");
    cases.first().with_context(|| format!("no case {wanted:?}; there are all, {names}"))?;
    for case in cases {
        println!("{} {}", case.name(), handle(case));
    }
    Ok(())
}

/// Packets handled, or mappings ended.
fn handle(case: Case) -> u64 {
    let mut round = Round::new();
    round.prepare(case);
    if case != Case::Expiry {
        round.polls();
        return round.check(case) as u64;
    }
    let before = round.mappings();
    while round.keep_house() {
        round.polls();
    }
    round.check(case);
    before - round.mappings()
}
