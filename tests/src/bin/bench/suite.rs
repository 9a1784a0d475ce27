//! All figures, one line each, and as JSON.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::figures::Figure;
use cgnat_tests::huge_pages::HugePages;
use serde::{Deserialize, Serialize};

use crate::machine::{description, testpmd, undisturbed};

/// MiB of huge pages for the largest table, with packets.
const HUGE_MIB: u64 = 3328;

/// Mappings of the tables, and what they are called in figures.
pub const TABLES: [(u32, &str); 6] = [
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

/// Processes of each table, each of which builds it anew, with testpmd before it.
const PROCESSES: usize = 3;

/// All of it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the JSON goes.
    #[arg(long, default_value = "target/bench/core.json")]
    pub out: PathBuf,
    /// Measures the tables of this commit too, in turn with those of this one: its program is built
    /// in a work tree of its own.
    #[arg(long, value_name = "COMMIT")]
    pub compare: Option<String>,
    /// One process of each table, few slices, and nothing above a million.
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
    pub figures: Vec<Figure>,
}

struct Suite {
    own: PathBuf,
    other: Option<PathBuf>,
    ticks_per_second: f64,
    quick: bool,
    /// Ticks of testpmd, of all its runs.
    testpmd: Vec<f64>,
    figures: Vec<Figure>,
}

/// Runs all and writes the JSON.
pub fn run(options: &Options) -> Result<()> {
    let _pages = HugePages::take(HUGE_MIB)?;
    let mut suite = Suite {
        own: std::env::current_exe()?,
        other: options.compare.as_deref().map(build_other).transpose()?,
        ticks_per_second: ticks_per_second(),
        quick: options.quick,
        testpmd: Vec::new(),
        figures: Vec::new(),
    };
    for (count, name) in TABLES {
        if suite.takes(count) {
            suite.table(count, name)?;
        }
    }
    for (name, arguments) in VARIANTS {
        let arguments = [arguments, &["--only-mixed"]].concat();
        suite.add(measured(&suite.own, "table", 1 << 20, &suite.slices(&arguments), name)?);
    }
    for (part, count, name) in [
        ("pair", 64 << 10, "64k"),
        ("pair", 1 << 20, "1M"),
        ("churn", 1 << 20, "1M"),
        ("churn", 16 << 20, "16M"),
    ] {
        if suite.takes(count) {
            suite.add(measured(&suite.own, part, count, &suite.slices(&[]), name)?);
        }
    }
    suite.finish();
    let Suite { ticks_per_second, figures, .. } = suite;
    let results = Results { machine: description()?, ticks_per_second, figures };
    if let Some(folder) = options.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let json = serde_json::to_string_pretty(&results)? + "\n";
    std::fs::write(&options.out, json).with_context(|| options.out.display().to_string())?;
    println!("written: {}", options.out.display());
    Ok(())
}

impl Suite {
    fn takes(&self, count: u32) -> bool {
        !self.quick || count <= 1 << 20
    }

    fn slices(&self, arguments: &[&str]) -> Vec<String> {
        let slices = if self.quick { "2" } else { "5" };
        arguments.iter().chain(&["--slices", slices]).map(|a| (*a).to_owned()).collect()
    }

    fn add(&mut self, figures: Vec<Figure>) {
        for figure in figures {
            println!("{}", figure.line());
            self.figures.push(figure);
        }
    }

    /// One table: testpmd, this program, and perhaps the other one, in turn.
    fn table(&mut self, count: u32, name: &str) -> Result<()> {
        let processes = if self.quick { 1 } else { PROCESSES };
        let slices = self.slices(&[]);
        let (mut own, mut others, mut of_testpmd) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..processes {
            let reference = testpmd_undisturbed(self.ticks_per_second)?;
            let figures = measured(&self.own, "table", count, &slices, name)?;
            let mixed = median(&figures, &format!("{name}/mixed/all"));
            if let (Some(reference), Some(mixed)) = (reference.median, mixed) {
                of_testpmd.push(reference / mixed);
            }
            self.testpmd.extend(reference.samples);
            own = joined(own, figures);
            if let Some(other) = &self.other {
                let name = format!("other/{name}");
                others = joined(others, measured(other, "table", count, &slices, &name)?);
            }
        }
        self.add(own);
        self.add(others);
        let name = format!("{name}/mixed/of-testpmd");
        self.add(vec![Figure::new(&name, "times", of_testpmd, "each beside the run before it")]);
        Ok(())
    }

    /// What follows from the medians.
    fn finish(&mut self) {
        let testpmd = std::mem::take(&mut self.testpmd);
        self.add(vec![Figure::new("testpmd/macswap", "clk", testpmd, "")]);
        let mut more = Vec::new();
        let known = |name: &str| median(&self.figures, name);
        let second = self.ticks_per_second;
        let mut per_second = |name: &str, of: &str, unit: &str| {
            if let Some(ticks) = known(of) {
                more.push(Figure::new(name, unit, vec![second / ticks / 1e6], ""));
            }
        };
        for (_, name) in TABLES {
            per_second(&format!("{name}/mixed/rate"), &format!("{name}/mixed/all"), "Mpps");
            per_second(&format!("{name}/creations"), &format!("{name}/creation"), "M/s");
            let with_ends = format!("{name}/churn/creation-and-end");
            per_second(&format!("{name}/churn/creations"), &with_ends, "M/s");
        }
        if let (Some(many), Some(few)) = (known("16M/mixed/all"), known("64k/mixed/all")) {
            more.push(Figure::new("16M-of-64k/mixed", "times", vec![few / many], ""));
        }
        self.add(more);
    }
}

fn median(figures: &[Figure], name: &str) -> Option<f64> {
    figures.iter().find(|figure| figure.name == name)?.median
}

/// The same figures, measured again.
fn joined(before: Vec<Figure>, more: Vec<Figure>) -> Vec<Figure> {
    let mut all = before;
    for figure in more {
        match all.iter().position(|known| known.name == figure.name) {
            Some(place) => {
                let known = all.remove(place);
                all.insert(place, known.with(figure));
            }
            None => all.push(figure),
        }
    }
    all
}

fn testpmd_undisturbed(ticks_per_second: f64) -> Result<Figure> {
    let run = || Ok(vec![Figure::new("testpmd", "clk", testpmd(ticks_per_second)?, "")]);
    Ok(undisturbed("testpmd", run)?.remove(0))
}

/// The figures of one part, measured by `program` in a process of its own.
fn measured(
    program: &Path,
    part: &str,
    mappings: u32,
    arguments: &[String],
    name: &str,
) -> Result<Vec<Figure>> {
    undisturbed(name, || {
        let output = Command::new(program)
            .args([part, "--json", "--mappings", &mappings.to_string()])
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| program.display().to_string())?;
        let failed = "the measurement failed; its message is above";
        ensure!(output.status.success(), "{part} of {name}: {failed}");
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().filter(|line| line.starts_with('{'));
        let figures: Result<Vec<Figure>, _> = lines.map(serde_json::from_str).collect();
        let named = |figure: Figure| Figure { name: format!("{name}/{}", figure.name), ..figure };
        Ok(figures?.into_iter().map(named).collect())
    })
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
        .args(["--target-dir", "target"])
        .current_dir(&folder)
        .status()?;
    ensure!(status.success(), "{commit} has no bench that builds");
    Ok(folder.join("target/release/bench"))
}

fn ticks_per_second() -> f64 {
    let (start, began) = (dpdk::tsc(), Instant::now());
    std::thread::sleep(Duration::from_millis(500));
    (dpdk::tsc() - start) as f64 / began.elapsed().as_secs_f64()
}
