//! Instructions of the worker's loop, a ratchet: tests/instructions.txt has what it took, and a
//! rise of more than 3 % fails with the names of what grew. Needs valgrind, no root.
//!
//! The counts are of the release build (hot-path, with debug symbols), of `Worker::poll` over
//! packets in memory, and nothing of how they got there. They can be repeated because
//!
//! 1. callgrind counts instructions, which neither clocks nor caches nor other programs change;
//! 2. chance and hash keys come from a seed, and nothing else in the core is random or asks a clock;
//! 3. rust-toolchain.toml, Cargo.lock, the release profile (thin LTO, four units) and .cargo/config.toml
//!    (x86-64-v2, whatever CPU it runs on) fix the compiler and what it builds for;
//! 4. the C library is kept from choosing its memcpy by the CPU.
//!
//! The path of the source may move functions between units: built in another directory, counts
//! differed by a tenth of a percent. Another C library may copy differently.
//!
//! `CGNAT_BLESS=1` writes the file anew: after a change that is worth what it costs, and after
//! one that saves, so that the saving is kept.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use cgnat_core::testing::round::Case;
use cgnat_tests::appliance;
use cgnat_tests::callgrind::{self, Counts, Kept};

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}

/// Counts of one case of the release build, and how many things they are for.
fn count(case: Case) -> Result<(Counts, u64)> {
    let program = appliance::program()?.with_file_name("hot-path");
    ensure!(program.is_file(), "no program {}: build it with `make build`", program.display());
    let (printed, counts) = callgrind::count(&program, &[case.name()], "*Round*polls*")?;
    let things = printed.trim().strip_prefix(case.name()).map(str::trim);
    let things = things.and_then(|count| count.parse().ok()).filter(|count| *count > 0);
    let things = things.with_context(|| format!("hot-path printed {printed:?}"))?;
    Ok((counts, things))
}

#[test]
fn no_packet_takes_three_percent_more_instructions_than_it_did() -> Result<()> {
    let mut new = Kept::default();
    for case in Case::ALL {
        let (counts, things) = count(case)?;
        new.add(case.name(), &counts, things);
    }
    for (case, (each, _)) in &new.cases {
        println!("{case:<20} {each:>8.1}");
    }
    // That the right thing is counted: a first packet does all of a hit's work and more.
    let each = |case: Case| new.cases[case.name()].0;
    ensure!(each(Case::FirstUdp) > each(Case::OutboundUdp), "{new:?}");
    ensure!(each(Case::FirstTcp) > each(Case::FirstUdp), "{new:?}");
    if std::env::var_os("CGNAT_BLESS").is_some() {
        return std::fs::write(file(), new.text()).context("cannot write instruction counts");
    }
    let kept = std::fs::read_to_string(file()).context("no tests/instructions.txt")?;
    let risen = Kept::parse(&kept)?.risen(&new);
    ensure!(
        risen.is_empty(),
        "{}\nIf it is worth that: CGNAT_BLESS=1 cargo test -p cgnat-tests --test instructions",
        risen.join("\n")
    );
    Ok(())
}

#[test]
fn the_same_build_takes_the_same_instructions_each_time() -> Result<()> {
    let (first, second) = (count(Case::OutboundUdp)?, count(Case::OutboundUdp)?);
    ensure!(first == second, "{first:?}\n{second:?}");
    // What arrayvec does is done by closures of the core, which go where the compiler puts it.
    let core = first.0.of("cgnat_core") + first.0.of("arrayvec::");
    let all = first.0.total();
    ensure!(core * 10 > all * 9, "of {all} instructions only {core} are the core's");
    Ok(())
}
