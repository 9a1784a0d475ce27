//! IPv6 in the report.

use std::fmt::Write as _;
use std::net::Ipv6Addr;
use std::sync::Arc;

use cgnat_core::config::Config;
use cgnat_core::control::counters::WorkerCounters;
use cgnat_core::control::neighbours::Neighbour;
use cgnat_core::control::neighbours6::NeighbourTable6;
use cgnat_core::worker::forwarding::{Forwarding, State};
use serde_json::{Value, json};

/// What passed beside the NAT, and how addresses and next hops stand.
#[derive(Default)]
pub struct Ipv6Report {
    is_on: bool,
    outbound: u64,
    inbound: u64,
    pub(super) discovered: u64,
    /// Port, address, state.
    addresses: Vec<(String, Ipv6Addr, &'static str)>,
    /// Port, address, whether it has answered.
    next_hops: Vec<(String, Ipv6Addr, bool)>,
}

impl Ipv6Report {
    /// What all workers counted.
    pub(super) fn counted(counters: &[Arc<WorkerCounters>]) -> Self {
        let sum = |value: fn(&WorkerCounters) -> u64| counters.iter().map(|c| value(c)).sum();
        Self {
            outbound: sum(|c| c.ipv6_outbound.value()),
            inbound: sum(|c| c.ipv6_inbound.value()),
            discovered: sum(|c| c.nd_received.value()),
            ..Self::default()
        }
    }

    /// Adds how own addresses and next hops stand.
    pub(super) fn look(
        &mut self,
        config: &Config,
        forwarding: &Forwarding,
        neighbours: &NeighbourTable6,
    ) {
        let forwarding = forwarding.ipv6();
        self.is_on = forwarding.is_on();
        for (index, port) in config.ports().iter().enumerate() {
            for own in forwarding.port(index).into_iter().flat_map(|port| port.own_addresses()) {
                let state = match own.state() {
                    State::Tentative => "tentative",
                    State::InUse => "in use",
                    State::Duplicate => "duplicate",
                };
                self.addresses.push((port.name().to_owned(), own.address().into(), state));
            }
        }
        for (port, address) in forwarding.next_hops() {
            let is_known = matches!(neighbours.find(*port, *address), Neighbour::At(_));
            let name = config.ports()[usize::from(*port)].name();
            self.next_hops.push((name.to_owned(), (*address).into(), is_known));
        }
    }

    pub(super) fn write_text(&self, out: &mut String) -> std::fmt::Result {
        if !self.is_on {
            return Ok(());
        }
        writeln!(
            out,
            "IPv6 beside the NAT: {} outbound, {} inbound; {} of Neighbour Discovery received",
            self.outbound, self.inbound, self.discovered
        )?;
        for (port, address, _) in
            self.addresses.iter().filter(|(_, _, state)| *state == "duplicate")
        {
            writeln!(out, "  port {port}: {address} is somebody else's and not used")?;
        }
        for (port, address, _) in self.next_hops.iter().filter(|(_, _, is_known)| !is_known) {
            writeln!(out, "  port {port}: next hop {address} does not answer")?;
        }
        Ok(())
    }

    pub(super) fn json(&self) -> Value {
        let address = |(port, address, state): &(String, Ipv6Addr, &str)| json!({ "port": port, "address": address.to_string(), "state": state });
        let next_hop = |(port, address, known): &(String, Ipv6Addr, bool)| json!({ "port": port, "address": address.to_string(), "known": known });
        json!({
            "outbound": self.outbound,
            "inbound": self.inbound,
            "addresses": self.addresses.iter().map(address).collect::<Vec<_>>(),
            "next_hops": self.next_hops.iter().map(next_hop).collect::<Vec<_>>(),
        })
    }
}
