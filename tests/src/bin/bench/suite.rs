//! All figures, one line each, and as JSON.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::huge_pages::HugePages;
use serde::{Deserialize, Serialize};

use crate::figures::Sample;
use crate::machine::{description, testpmd, undisturbed};

/// MiB of huge pages for the largest table, with packets.
const HUGE_MIB: u64 = 3072;

/// Mappings of the tables, and what they are called.
const TABLES: [(u32, &str); 6] = [
    (1, "1"),
    (1_000, "1k"),
    (64 << 10, "64k"),
    (1 << 20, "1M"),
    (4 << 20, "4M"),
    (16 << 20, "16M"),
];

/// Other ways to run the table of a million: name and arguments.
const VARIANTS: [(&str, &[&str]); 5] = [
    ("1M/imix", &["--imix"]),
    ("1M/no-hints", &["--no-hints"]),
    ("1M/burst-1", &["--burst", "1"]),
    ("1M/burst-8", &["--burst", "8"]),
    ("1M/4KiB-pages", &["--small-pages"]),
];

/// All of it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the JSON goes.
    #[arg(long, default_value = "target/bench/core.json")]
    pub out: PathBuf,
    /// Measures this commit too, side by side: its program is built in a work tree of its own.
    #[arg(long, value_name = "COMMIT")]
    pub compare: Option<String>,
    /// Fewer slices, and no table above a million.
    #[arg(long)]
    pub quick: bool,
}

/// What a run writes.
#[derive(Serialize, Deserialize)]
pub struct Results {
    /// CPUs, kernel, DPDK.
    pub machine: String,
    /// Ticks of the time-stamp counter per second.
    pub ticks_per_second: f64,
    /// The figures.
    pub figures: Vec<Sample>,
}

/// Runs all and writes the JSON.
pub fn run(options: &Options) -> Result<()> {
    let _pages = HugePages::take(HUGE_MIB)?;
    let own = std::env::current_exe()?;
    let other = options.compare.as_deref().map(build_other).transpose()?;
    let ticks_per_second = ticks_per_second();
    let mut figures: Vec<Sample> = Vec::new();
    let mut macswap = Vec::new();
    let note = |figures: &mut Vec<Sample>, sample: Sample| {
        println!("{}", sample.line());
        figures.push(sample);
    };
    let tables = TABLES.iter().filter(|(count, _)| !options.quick || *count <= 1 << 20);
    let slices = if options.quick { "3" } else { "11" };
    for (count, name) in tables {
        macswap.extend(measure_testpmd(ticks_per_second)?);
        for sample in table(&own, *count, name, &["--slices", slices])? {
            note(&mut figures, sample);
        }
        if let Some(other) = &other {
            for sample in table(other, *count, &format!("other/{name}"), &["--slices", slices])? {
                note(&mut figures, sample);
            }
        }
    }
    for (name, arguments) in VARIANTS {
        let arguments = [arguments, &["--slices", slices, "--only-mixed"]].concat();
        for sample in table(&own, 1 << 20, name, &arguments)? {
            note(&mut figures, sample);
        }
    }
    macswap.extend(measure_testpmd(ticks_per_second)?);
    note(&mut figures, Sample::new("testpmd/macswap", "clk", macswap));
    for ratio in ratios(&figures, ticks_per_second) {
        note(&mut figures, ratio);
    }
    let results = Results { machine: description()?, ticks_per_second, figures };
    if let Some(folder) = options.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let json = serde_json::to_string_pretty(&results)? + "\n";
    std::fs::write(&options.out, json).with_context(|| options.out.display().to_string())?;
    println!("written: {}", options.out.display());
    Ok(())
}

fn measure_testpmd(ticks_per_second: f64) -> Result<Vec<f64>> {
    let run = || Ok(vec![Sample::of_all("testpmd", "clk", testpmd(ticks_per_second)?)]);
    let samples = undisturbed("testpmd", run)?;
    Ok(samples.into_iter().flat_map(|sample| sample.values).collect())
}

/// The figures of one table, measured by `program` in a process of its own.
fn table(program: &Path, mappings: u32, name: &str, arguments: &[&str]) -> Result<Vec<Sample>> {
    undisturbed(name, || {
        let output = Command::new(program)
            .args(["table", "--json", "--mappings", &mappings.to_string()])
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| program.display().to_string())?;
        ensure!(output.status.success(), "{name}: the measurement failed; its message is above");
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().filter(|line| line.starts_with('{'));
        let samples: Result<Vec<Sample>, _> = lines.map(serde_json::from_str).collect();
        let named = |sample: Sample| Sample { name: format!("{name}/{}", sample.name), ..sample };
        Ok(samples?.into_iter().map(named).collect())
    })
}

/// The rate beside testpmd's and as packets, and creations, from the medians.
fn ratios(figures: &[Sample], ticks_per_second: f64) -> Vec<Sample> {
    let median = |name: &str| figures.iter().find(|f| f.name == name).map(|f| f.median);
    let mut ratios = Vec::new();
    let Some(testpmd) = median("testpmd/macswap") else { return ratios };
    for (_, name) in TABLES {
        if let Some(ours) = median(&format!("{name}/mixed/all")) {
            let rate = ticks_per_second / ours / 1e6;
            ratios.push(Sample::new(&format!("{name}/mixed/rate"), "Mpps", vec![rate]));
            let name = format!("{name}/mixed/of-testpmd");
            ratios.push(Sample::new(&name, "", vec![testpmd / ours]));
        }
        if let Some(creation) = median(&format!("{name}/creation")) {
            let rate = ticks_per_second / creation / 1e6;
            ratios.push(Sample::new(&format!("{name}/creations"), "M/s", vec![rate]));
        }
    }
    if let (Some(many), Some(few)) = (median("16M/mixed/all"), median("64k/mixed/all")) {
        ratios.push(Sample::new("16M-of-64k/mixed", "", vec![few / many]));
    }
    ratios
}

/// Builds the bench of another commit, in a work tree beside the target directory's figures.
fn build_other(commit: &str) -> Result<PathBuf> {
    let folder = PathBuf::from("target/bench/other");
    let git = |arguments: &[&str]| -> Result<()> {
        let status = Command::new("git").args(arguments).status()?;
        ensure!(status.success(), "git {} failed", arguments.join(" "));
        Ok(())
    };
    // Without a work tree of its own in there, git would take this one.
    if !folder.join(".git").exists() {
        git(&["worktree", "add", "--detach", "target/bench/other", commit])?;
    }
    git(&["-C", "target/bench/other", "checkout", "--detach", commit])?;
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "-p", "cgnat-tests", "--bin", "bench"])
        .current_dir(&folder)
        .env_remove("CARGO_TARGET_DIR")
        .status()?;
    ensure!(status.success(), "{commit} has no bench that builds");
    Ok(folder.join("target/release/bench"))
}

fn ticks_per_second() -> f64 {
    let (start, began) = (dpdk::tsc(), Instant::now());
    std::thread::sleep(Duration::from_millis(500));
    (dpdk::tsc() - start) as f64 / began.elapsed().as_secs_f64()
}
