//! Limits of a subscriber, naively: everything is counted when it is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use cgnat_core::verdict::DropReason::{self, *};

use super::nat::Ticks;
use super::wire::{ICMP, Protocol, TCP, UDP};

/// `subscribers[].limits`; empty is no limit.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    pub ports: Option<usize>,
    pub by_protocol: BTreeMap<Protocol, usize>,
    pub sessions: Option<usize>,
    pub inbound_sessions: Option<usize>,
    pub per_destination: Option<usize>,
    pub per_mapping: Option<usize>,
    pub inbound_per_mapping: Option<usize>,
    /// Datagrams in fragments under way.
    pub fragments: Option<usize>,
    /// Per second, and at once.
    pub rate: Option<(u64, u64)>,
    pub blocks: Option<usize>,
    pub reserved: usize,
    pub lifelines: BTreeSet<(Protocol, u16)>,
}

impl Limits {
    /// As a YAML map.
    pub fn yaml(&self) -> String {
        let mut keys = Vec::new();
        let mut number = |key: &str, value: Option<usize>| {
            keys.extend(value.map(|value| format!("{key}: {value}")));
        };
        number("ports", self.ports);
        number("sessions", self.sessions);
        number("inbound-sessions", self.inbound_sessions);
        number("sessions-per-destination", self.per_destination);
        number("sessions-per-mapping", self.per_mapping);
        number("inbound-sessions-per-mapping", self.inbound_per_mapping);
        number("fragments", self.fragments);
        number("blocks", self.blocks);
        if !self.by_protocol.is_empty() {
            let one =
                |(protocol, most): (&Protocol, &usize)| format!("{}: {most}", name(*protocol));
            let all: Vec<String> = self.by_protocol.iter().map(one).collect();
            keys.push(format!("ports: {{ {} }}", all.join(", ")));
        }
        if let Some((rate, burst)) = self.rate {
            keys.push(format!("new-sessions-per-second: {{ rate: {rate}, burst: {burst} }}"));
        }
        if self.reserved > 0 {
            let mut list = String::new();
            for (protocol, port) in &self.lifelines {
                let _ = match *protocol {
                    ICMP => write!(list, "icmp, "),
                    other => write!(list, "{}/{port}, ", name(other)),
                };
            }
            keys.push(format!("reserved: {{ ports: {}, for: [{list}] }}", self.reserved));
        }
        format!("{{ {} }}", keys.join(", "))
    }

    /// Ports that a flow leaves to lifelines: of all protocols together, and of its own.
    pub fn reserve(&self, protocol: Protocol, port: u16) -> (usize, usize) {
        let port = if protocol == ICMP { 0 } else { port };
        if self.lifelines.contains(&(protocol, port)) {
            return (0, 0);
        }
        let any = self.lifelines.iter().any(|(other, _)| *other == protocol);
        (self.reserved, if any { self.reserved } else { 0 })
    }

    /// One more mapping, with so many by protocol.
    pub fn admit_port(
        &self,
        mappings: &BTreeMap<Protocol, usize>,
        protocol: Protocol,
        port: u16,
    ) -> Result<(), DropReason> {
        let (in_all, of_protocol) = self.reserve(protocol, port);
        let all: usize = mappings.values().sum();
        let own = mappings.get(&protocol).copied().unwrap_or(0);
        let own_limit = self.by_protocol.get(&protocol).copied();
        let limits = [(all, self.ports, in_all), (own, own_limit, of_protocol)];
        for kept in [false, true] {
            for (used, limit, reserve) in limits {
                let left = limit.map(|limit| limit.saturating_sub(used));
                if !kept && left == Some(0) {
                    return Err(LimitPorts);
                }
                if kept && left.is_some_and(|left| left <= reserve) {
                    return Err(ReservedPorts);
                }
            }
        }
        Ok(())
    }

    /// One more session, with so many opened inside, also with its remote address, and outside.
    pub fn admit_session(
        &self,
        (inside, with, outside): (usize, usize, usize),
        bucket: &Bucket,
        from_inside: bool,
        now: Ticks,
    ) -> Result<(), DropReason> {
        if !from_inside {
            let full = self.inbound_sessions.is_some_and(|most| outside >= most);
            return if full { Err(LimitInboundSessions) } else { Ok(()) };
        }
        if self.sessions.is_some_and(|most| inside >= most) {
            return Err(LimitSessions);
        }
        if self.per_destination.is_some_and(|most| with >= most) {
            return Err(LimitDestination);
        }
        match self.rate {
            Some(rate) if bucket.tenths(rate, now) < 10 => Err(LimitSessionRate),
            _ => Ok(()),
        }
    }
}

impl Limits {
    /// One more session of a mapping that has so many.
    pub fn admit_to_mapping(&self, sessions: usize, from_inside: bool) -> Result<(), DropReason> {
        let own = self.per_mapping.unwrap_or(2048);
        let (most, reason) = match from_inside {
            true => (own, LimitMappingSessions),
            false => {
                (self.inbound_per_mapping.unwrap_or(own.min(256)), LimitMappingInboundSessions)
            }
        };
        if sessions >= most { Err(reason) } else { Ok(()) }
    }
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        TCP => "tcp",
        UDP => "udp",
        _ => "icmp",
    }
}

/// Tenths of tokens at a moment.
#[derive(Debug, Clone)]
pub struct Bucket {
    tenths: u64,
    at: Ticks,
}

impl Bucket {
    pub fn full(limits: &Limits, now: Ticks) -> Self {
        Self { tenths: limits.rate.map_or(0, |(_, burst)| burst * 10), at: now }
    }

    /// Tick by tick. It holds `burst` whole tokens.
    fn tenths(&self, (rate, burst): (u64, u64), now: Ticks) -> u64 {
        let most = burst * 10 + 9;
        let mut tenths = self.tenths;
        for _ in self.at..now {
            tenths += rate;
            if tenths >= most {
                return most;
            }
        }
        tenths
    }

    pub fn spend(&mut self, limits: &Limits, now: Ticks) {
        if let Some(rate) = limits.rate {
            self.tenths = self.tenths(rate, now).saturating_sub(10);
            self.at = now;
        }
    }
}
