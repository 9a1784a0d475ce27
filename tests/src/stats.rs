//! The statistics that `cgnat run --stats-file` writes: the one place that knows their keys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::decode::Accounted;

/// Statistics of one run of the appliance.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    root: Value,
}

/// What became of every external port of the pools, counted per protocol as the appliance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortCensus {
    /// Never lent, or rested long enough.
    pub free: u64,
    /// With a mapping.
    pub used: u64,
    /// In hold-down (RFC 6888 REQ-8).
    pub resting: u64,
    /// All of them.
    pub total: u64,
}

/// What subscribers were refused, as the appliance remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remembered {
    /// Subscribers with a list.
    pub subscribers: u64,
    /// Refusals in the lists.
    pub listed: u64,
    /// Refusals that are in no list any more.
    pub forgotten: u64,
    /// The reasons in the lists.
    pub reasons: BTreeSet<String>,
}

impl Stats {
    /// Reads a statistics file.
    ///
    /// # Errors
    /// The file is missing or not JSON.
    pub fn read(path: &Path) -> Result<Stats> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("no statistics in {}", path.display()))?;
        Stats::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Reads statistics from text.
    ///
    /// # Errors
    /// Not JSON.
    pub fn parse(text: &str) -> Result<Stats> {
        Ok(Stats { root: serde_json::from_str(text).context("statistics are not JSON")? })
    }

    /// The whole document, for printing.
    pub fn document(&self) -> &Value {
        &self.root
    }

    /// Packets received on a port of the appliance.
    ///
    /// # Errors
    /// The key is missing.
    pub fn received(&self, port: &str) -> Result<u64> {
        self.number(&["ports", port, "rx_packets"])
    }

    /// Packets sent on a port of the appliance.
    ///
    /// # Errors
    /// The key is missing.
    pub fn sent(&self, port: &str) -> Result<u64> {
        self.number(&["ports", port, "tx_packets"])
    }

    /// Packets dropped, by reason, without the zeros.
    ///
    /// # Errors
    /// The key is missing or holds something else than numbers.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        self.counts("drops")
    }

    /// Packets for the appliance itself, by kind: ARP, echo requests to its own addresses.
    ///
    /// # Errors
    /// The key is missing or holds something else than numbers.
    pub fn consumed(&self) -> Result<BTreeMap<String, u64>> {
        self.counts("consumed")
    }

    /// Dropped and consumed packets, summed up.
    ///
    /// # Errors
    /// As [`Stats::drops`] and [`Stats::consumed`].
    pub fn accounted(&self) -> Result<Accounted> {
        let (dropped, consumed) = (self.drops()?, self.consumed()?);
        Ok(Accounted { dropped: dropped.values().sum(), consumed: consumed.values().sum() })
    }

    /// Mappings that exist.
    ///
    /// # Errors
    /// The key is missing.
    pub fn active_mappings(&self) -> Result<u64> {
        self.number(&["mappings", "active"])
    }

    /// Port blocks that are lent to subscribers.
    ///
    /// # Errors
    /// The key is missing.
    pub fn blocks_in_use(&self) -> Result<u64> {
        self.number(&["blocks", "in_use"])
    }

    /// External ports by state.
    ///
    /// # Errors
    /// A key is missing.
    pub fn port_census(&self) -> Result<PortCensus> {
        let count = |state| self.number(&["ports_census", state]);
        Ok(PortCensus {
            free: count("free")?,
            used: count("used")?,
            resting: count("resting")?,
            total: count("total")?,
        })
    }

    /// What subscribers were refused.
    ///
    /// # Errors
    /// A key is missing or holds something else than it should.
    pub fn remembered_refusals(&self) -> Result<Remembered> {
        let lists = self.at(&["refusals", "subscribers"])?.as_array().context("not a list")?;
        let forgotten = self.number(&["refusals", "refusals_forgotten"])?;
        let subscribers = lists.len() as u64;
        let mut found = Remembered { subscribers, forgotten, ..Remembered::default() };
        for entry in lists.iter().filter_map(|of| of["list"].as_array()).flatten() {
            found.listed += entry["count"].as_u64().context("an entry has no count")?;
            found.reasons.insert(entry["reason"].as_str().context("no reason")?.to_owned());
        }
        Ok(found)
    }

    /// Records, requests or packets that met a shard which does not own them.
    ///
    /// # Errors
    /// The key is missing.
    pub fn ownership_violations(&self) -> Result<u64> {
        self.number(&["ownership", "violations"])
    }

    fn counts(&self, key: &str) -> Result<BTreeMap<String, u64>> {
        let counts = self.at(&[key])?.as_object();
        let mut found = BTreeMap::new();
        for (name, count) in counts.with_context(|| format!("{key} is not an object"))? {
            let count = count.as_u64().with_context(|| format!("{key}.{name} is not a number"))?;
            if count > 0 {
                found.insert(name.clone(), count);
            }
        }
        Ok(found)
    }

    fn number(&self, path: &[&str]) -> Result<u64> {
        self.at(path)?.as_u64().with_context(|| format!("{} is not a number", path.join(".")))
    }

    fn at(&self, path: &[&str]) -> Result<&Value> {
        path.iter()
            .try_fold(&self.root, |value, key| value.get(key))
            .with_context(|| format!("statistics have no {}", path.join(".")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_and_missing_ones_are_named() {
        let stats = Stats::parse(
            r#"{"ports": {"internal0": {"rx_packets": 7, "tx_packets": 5}},
                "drops": {"frame-short": 2, "no-mapping": 0}, "consumed": {"arp": 3, "echo": 1},
                "ports_census": {"free": 60, "used": 3, "resting": 1, "total": 64}}"#,
        )
        .expect("JSON");
        assert_eq!(stats.received("internal0").expect("there"), 7);
        assert_eq!(stats.sent("internal0").expect("there"), 5);
        assert_eq!(stats.drops().expect("there"), BTreeMap::from([("frame-short".into(), 2)]));
        let accounted = Accounted { dropped: 2, consumed: 4 };
        assert_eq!(stats.accounted().expect("there"), accounted);
        let census = PortCensus { free: 60, used: 3, resting: 1, total: 64 };
        assert_eq!(stats.port_census().expect("there"), census);
        let missing = stats.active_mappings().expect_err("absent").to_string();
        assert_eq!(missing, "statistics have no mappings.active");
    }
}
