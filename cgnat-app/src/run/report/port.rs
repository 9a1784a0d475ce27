//! One port's part of the report.

use std::fmt::Write as _;
use std::sync::Arc;

use cgnat_core::control::counters::{PortCounters, WorkerCounters};
use serde_json::{Value, json};

/// What one port has seen.
pub struct PortReport {
    pub(super) name: String,
    pub(super) rx_packets: u64,
    rx_bytes: u64,
    rx_joined: u64,
    rx_cut: u64,
    rx_completed: u64,
    pub(super) tx_packets: u64,
    tx_bytes: u64,
    tx_refused: u64,
    dropped: u64,
    handed_off: u64,
    missteered: u64,
}

impl PortReport {
    /// Adds up what all workers counted of port `number`.
    pub(super) fn of(name: &str, number: usize, counters: &[Arc<WorkerCounters>]) -> Self {
        let sum = |value: fn(&PortCounters) -> u64| -> u64 {
            counters.iter().map(|counters| value(&counters.ports[number])).sum()
        };
        Self {
            name: name.to_owned(),
            rx_packets: sum(|port| port.rx_packets.value()),
            rx_bytes: sum(|port| port.rx_bytes.value()),
            rx_joined: sum(|port| port.rx_joined.value()),
            rx_cut: sum(|port| port.rx_cut.value()),
            rx_completed: sum(|port| port.rx_completed.value()),
            tx_packets: sum(|port| port.tx_packets.value()),
            tx_bytes: sum(|port| port.tx_bytes.value()),
            tx_refused: sum(|port| port.tx_refused.value()),
            dropped: sum(|port| port.dropped.value()),
            handed_off: sum(|port| port.handed_off.value()),
            missteered: sum(|port| port.missteered.value()),
        }
    }

    pub(super) fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let title = format!(" Forward statistics for port {} ", self.name);
        writeln!(out, "\n  {title:-^80}")?;
        writeln!(
            out,
            "  RX-packets: {:<14} RX-dropped: {:<14} RX-bytes: {}",
            self.rx_packets, self.dropped, self.rx_bytes
        )?;
        writeln!(
            out,
            "  TX-packets: {:<14} TX-refused: {:<14} TX-bytes: {}",
            self.tx_packets, self.tx_refused, self.tx_bytes
        )?;
        if self.rx_joined > 0 {
            writeln!(out, "  Frames received in several buffers: {}", self.rx_joined)?;
        }
        if self.rx_completed > 0 {
            writeln!(out, "  Checksums that senders left out: {}", self.rx_completed)?;
        }
        writeln!(out, "  {:-^80}", "")
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "rx_packets": self.rx_packets,
            "rx_bytes": self.rx_bytes,
            "rx_joined": self.rx_joined,
            "rx_cut": self.rx_cut,
            "rx_completed": self.rx_completed,
            "tx_packets": self.tx_packets,
            "tx_bytes": self.tx_bytes,
            "tx_refused": self.tx_refused,
            "dropped": self.dropped,
            "handed_off": self.handed_off,
            "missteered": self.missteered,
        })
    }
}
