//! What got through, by kind: that a run was a mix of everything.

use std::collections::BTreeMap;

use super::met::is_bare;
use super::model::events::{Event, INTERNAL};
use super::model::nat::Nat;
use super::model::wire::{Body, ICMP, Packet, TCP, UDP};

/// Every kind; a packet may be of several.
const KINDS: [&str; 10] = [
    "TCP",
    "UDP",
    "ICMP queries",
    "ICMP errors",
    "other protocols",
    "errors about other protocols",
    "in fragments",
    "hairpinned",
    "static",
    "bypass",
];

/// Events of which something was sent on, by kind.
#[derive(Debug, Default)]
pub struct Mix(BTreeMap<&'static str, u64>);

impl Mix {
    /// The kinds of an event, as the state is before it.
    pub fn kinds(nat: &Nat, event: &Event) -> Vec<&'static str> {
        let (port, packet, in_fragments) = match event {
            Event::Arrive { port, packet, .. } => (*port, packet, false),
            Event::Fragments(datagram) => (datagram.port, &datagram.packet, true),
            Event::Pieces { port, packet, .. } => (*port, packet, true),
            _ => return Vec::new(),
        };
        let outbound = port == INTERNAL;
        let by_body = match &packet.body {
            Body::Error { .. } if is_bare(packet) => "errors about other protocols",
            Body::Error { .. } => "ICMP errors",
            Body::Bare { .. } => "other protocols",
            _ => match packet.protocol() {
                TCP => "TCP",
                UDP => "UDP",
                ICMP => "ICMP queries",
                other => unreachable!("protocol {other} has no ports"),
            },
        };
        let is_bypassed = nat.bypass(packet, outbound).is_some();
        let kinds = [
            Some(by_body),
            in_fragments.then_some("in fragments"),
            (outbound && nat.is_external(packet.destination)).then_some("hairpinned"),
            (!is_bypassed && is_static(nat, outbound, packet)).then_some("static"),
            is_bypassed.then_some("bypass"),
        ];
        kinds.into_iter().flatten().collect()
    }

    /// Something was sent on because of an event.
    pub fn note(&mut self, kinds: &[&'static str]) {
        for kind in kinds {
            *self.0.entry(kind).or_default() += 1;
        }
    }

    /// A kind of which there were fewer than `least`.
    pub fn lacks(&self, least: u64) -> Option<&'static str> {
        KINDS.into_iter().find(|kind| self.0.get(kind).is_none_or(|count| *count < least))
    }
}

fn is_static(nat: &Nat, outbound: bool, packet: &Packet) -> bool {
    let (from, to) = match &packet.body {
        Body::Error { about, .. } => (about.to(), about.from()),
        _ => (packet.from(), packet.to()),
    };
    let protocol = match &packet.body {
        Body::Error { about, .. } => about.protocol(),
        _ => packet.protocol(),
    };
    nat.static_internal((protocol, to.0, to.1)).is_some()
        || outbound && nat.static_external((protocol, from.0, from.1)).is_some()
}
