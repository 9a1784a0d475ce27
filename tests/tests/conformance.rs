//! Every clause of docs/rfc-compliance.md through the real program: one line per case, a table
//! at the end. Needs no root. `make conformance` is this; words choose cases by name.
//!
//! It has a main function of its own, since the cases are data of the library: rows, table and
//! tests cannot drift apart.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use cgnat_tests::conformance::{Case, cases, rows};
use clap::Parser;

/// Runs the cases. The options are those of other test programs that matter here.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run only cases whose name has one of these words.
    words: Vec<String>,
    /// Leave out cases whose name has this word.
    #[arg(long)]
    skip: Vec<String>,
    /// The words are whole names.
    #[arg(long)]
    exact: bool,
    /// List the cases.
    #[arg(long)]
    list: bool,
    /// Cases that run at once.
    #[arg(long)]
    test_threads: Option<NonZero<usize>>,
    /// Always so here.
    #[arg(long)]
    nocapture: bool,
    /// Always so here.
    #[arg(long)]
    show_output: bool,
    /// None is ignored.
    #[arg(long)]
    ignored: bool,
    /// None is ignored.
    #[arg(long)]
    include_ignored: bool,
    /// Only one.
    #[arg(long)]
    format: Option<String>,
    /// Only one.
    #[arg(short, long)]
    quiet: bool,
}

impl Arguments {
    fn wants(&self, case: &Case) -> bool {
        let has = |word: &String| {
            if self.exact { case.name == word } else { case.name.contains(word.as_str()) }
        };
        !self.ignored
            && (self.words.is_empty() || self.words.iter().any(has))
            && !self.skip.iter().any(has)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let all: Vec<&Case> = cases().collect();
    let wanted: Vec<&Case> = all.iter().copied().filter(|case| arguments.wants(case)).collect();
    if arguments.list {
        wanted.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    let begun = Instant::now();
    println!("\nrunning {} tests", wanted.len());
    let most = arguments.test_threads.map_or_else(threads, NonZero::get);
    let failures = run(&wanted, most);
    let mut failed: BTreeSet<&str> = BTreeSet::new();
    for (name, error) in &failures {
        println!("\n---- {name} ----\n{error:?}");
        failed.insert(name);
    }
    let mut good = failures.is_empty();
    if wanted.len() == all.len() {
        match claims(&failed) {
            Ok((table, proven)) => {
                println!("\n{table}");
                good &= proven;
            }
            Err(error) => {
                println!("\n{error:?}");
                good = false;
            }
        }
    }
    println!("{} of {} cases passed", wanted.len() - failed.len(), wanted.len());
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; \
         finished in {:.2}s\n",
        if good { "ok" } else { "FAILED" },
        wanted.len() - failed.len(),
        failed.len(),
        all.len() - wanted.len(),
        begun.elapsed().as_secs_f64(),
    );
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A run of the program mostly waits for itself to start: more than one per CPU pays.
fn threads() -> usize {
    2 * thread::available_parallelism().map_or(1, NonZero::get)
}

/// Runs cases, some at a time; those that failed, in order.
fn run(cases: &[&'static Case], most: usize) -> Vec<(&'static str, anyhow::Error)> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..most.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = catch_unwind(AssertUnwindSafe(case.run));
                    let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("the case panicked")));
                    let word = if outcome.is_ok() { "ok" } else { "FAILED" };
                    println!("test {} ... {word}", case.name);
                    if let Err(error) = outcome {
                        let mut failures = failures.lock().expect("nobody panics with it");
                        failures.push((case.name, error));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("nobody panics with it");
    failures.sort_by_key(|(name, _)| *name);
    failures
}

/// The table by RFC, and whether every row that claims to be met is proven.
fn claims(failed: &BTreeSet<&str>) -> Result<(String, bool)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rfc-compliance.md");
    let document = std::fs::read_to_string(path).context("docs/rfc-compliance.md")?;
    Ok(rows::result(&rows::parse(&document)?, failed))
}
