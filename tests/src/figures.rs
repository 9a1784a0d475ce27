//! Figures of a measurement: several samples of one quantity, taken while nobody stole the
//! machine's time.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// Time stolen by the hypervisor beyond which a sample is worth nothing, percent.
pub const MOST_STOLEN: f64 = 2.0;

/// One figure, in the order in which files of figures have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Of what.
    pub unit: String,
    /// The middle one of the samples; nothing if there is none.
    pub median: Option<f64>,
    /// A tenth of the samples is smaller.
    pub p10: Option<f64>,
    /// A tenth is larger.
    pub p90: Option<f64>,
    /// All samples, the smallest first.
    pub samples: Vec<f64>,
    /// What a reader should know.
    pub note: String,
}

impl Figure {
    /// From samples in any order.
    pub fn new(name: &str, unit: &str, mut samples: Vec<f64>, note: &str) -> Figure {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&samples, share);
        Figure {
            name: name.to_owned(),
            unit: unit.to_owned(),
            median: at(0.5),
            p10: at(0.1),
            p90: at(0.9),
            samples,
            note: note.to_owned(),
        }
    }

    /// This one and further samples of the same.
    #[must_use]
    pub fn with(self, more: Figure) -> Figure {
        let note = if self.note.is_empty() { more.note } else { self.note };
        Figure::new(&self.name, &self.unit, [self.samples, more.samples].concat(), &note)
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let Figure { name, unit, median, p10, p90, samples, note } = self;
        let note = if note.is_empty() { String::new() } else { format!("  {note}") };
        let count = samples.len();
        match (median, p10, p90) {
            (Some(median), Some(p10), Some(p90)) => {
                format!("{name:<40} {median:>10.2} {unit:<8} ({p10:.2} to {p90:.2}, {count}){note}")
            }
            _ => format!("{name:<40} {:>10} {unit:<8} (no sample){note}", "-"),
        }
    }
}

/// Between its two neighbours, as far as it lies between them.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = sorted.len().checked_sub(1)? as f64 * share;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(low + (high - low) * place.fract())
}

/// Writes figures as a JSON list, with the directories above.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, figures: &[Figure]) -> Result<()> {
    let directory = path.parent().context("a file has a directory")?;
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(path, serde_json::to_string_pretty(figures)? + "\n"));
    written.with_context(|| format!("cannot write figures to {}", path.display()))
}

/// What the machine's CPUs have done so far, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTime {
    all: u64,
    stolen: u64,
}

impl CpuTime {
    /// Now.
    ///
    /// # Errors
    /// /proc/stat cannot be read.
    pub fn now() -> Result<CpuTime> {
        CpuTime::parse(&std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?)
    }

    fn parse(stat: &str) -> Result<CpuTime> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
        let line = line.context("/proc/stat has no line `cpu`")?;
        let ticks: Result<Vec<u64>, _> = line.split_whitespace().map(str::parse).collect();
        let ticks = ticks.with_context(|| format!("/proc/stat says {line:?}"))?;
        // User, nice, system, idle, iowait, irq, softirq, steal; then guests, who are users too.
        ensure!(ticks.len() >= 8, "/proc/stat tells no stolen time: {line:?}");
        Ok(CpuTime { all: ticks[..8].iter().sum(), stolen: ticks[7] })
    }

    /// Percent that was stolen from `self` until `later`.
    pub fn stolen_until(self, later: CpuTime) -> f64 {
        let all = later.all.saturating_sub(self.all).max(1);
        later.stolen.saturating_sub(self.stolen) as f64 * 100.0 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_samples() {
        let figure = Figure::new("a", "s", vec![3.0, 1.0, 2.0], "");
        assert_eq!((figure.median, &figure.samples[..]), (Some(2.0), &[1.0, 2.0, 3.0][..]));
        assert_eq!((figure.p10, figure.p90), (Some(1.2), Some(2.8)));
        assert_eq!(Figure::new("a", "s", vec![4.0, 2.0], "").median, Some(3.0));
        let more = Figure::new("a", "s", vec![9.0, 8.0], "n").with(figure);
        assert_eq!((more.median, more.samples.len(), &more.note[..]), (Some(3.0), 5, "n"));
        let none = Figure::new("a", "s", Vec::new(), "all thrown away");
        assert_eq!((none.median, none.samples.len()), (None, 0));
        assert!(none.line().contains("(no sample)  all thrown away"), "{}", none.line());
    }

    #[test]
    fn stolen_time_is_its_share_of_all() {
        let before = CpuTime::parse("cpu  10 0 10 70 0 5 5 0 0 0\ncpu0 1").expect("good");
        let after = CpuTime::parse("cpu  20 0 20 145 0 5 5 5 99 0\n").expect("good");
        assert!((before.stolen_until(after) - 5.0).abs() < 1e-9);
        assert!(before.stolen_until(before).abs() < 1e-9);
        assert!(CpuTime::parse("cpu  1 2 3\n").is_err());
        assert!(CpuTime::parse("intr 1\n").is_err());
        CpuTime::now().expect("this machine tells");
    }

    #[test]
    fn figures_are_written_as_a_list() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/figures.json");
        write(&path, &[Figure::new("a", "s", vec![1.0], "n")]).expect("written");
        let text = std::fs::read_to_string(path).expect("there");
        let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let expected = serde_json::json!([{
            "name": "a", "unit": "s", "median": 1.0, "p10": 1.0, "p90": 1.0,
            "samples": [1.0], "note": "n"
        }]);
        assert_eq!(list, expected);
    }
}
