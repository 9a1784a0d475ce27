//! Figures: several samples of one quantity, and how they are told.

use serde::{Deserialize, Serialize};

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// What was measured.
    pub name: String,
    /// Of what.
    pub unit: String,
    /// The middle one of the values.
    pub median: f64,
    /// A tenth of the values is smaller.
    pub p10: f64,
    /// A tenth is larger.
    pub p90: f64,
    /// How many values.
    pub samples: usize,
    /// What a reader should know.
    #[serde(default)]
    pub note: String,
    /// All values, if somebody wants to put them together with others.
    #[serde(skip)]
    pub values: Vec<f64>,
}

impl Sample {
    /// From values, of which there is at least one.
    pub fn new(name: &str, unit: &str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            median: at(0.5),
            p10: at(0.1),
            p90: at(0.9),
            samples: values.len(),
            note: String::new(),
            values: Vec::new(),
        }
    }

    /// Likewise, and keeps them.
    pub fn of_all(name: &str, unit: &str, values: Vec<f64>) -> Self {
        Self { values: values.clone(), ..Self::new(name, unit, values) }
    }

    /// One line.
    pub fn line(&self) -> String {
        let Sample { name, unit, median, p10, p90, samples, note, .. } = self;
        let note = if note.is_empty() { String::new() } else { format!("  {note}") };
        format!("{name:<44} {median:>10.2} {unit:<8} ({p10:.2} to {p90:.2}, {samples}){note}")
    }
}
