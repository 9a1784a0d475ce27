//! What got through, by kind: that a run was a mix of everything.

use std::collections::BTreeMap;

use super::met::is_bare;
use super::model::events::{Event, INTERNAL};
use super::model::ftp::CONTROL;
use super::model::nat::Nat;
use super::model::wire::{Body, ICMP, Packet, TCP, UDP};

/// Every kind; a packet may be of several.
const KINDS: [&str; 13] = [
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
    "FTP control",
    "FTP data",
    "TFTP",
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
            Body::Bare { .. } | Body::Call { .. } => "other protocols",
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
            is_control(nat, outbound, packet).then_some("FTP control"),
            (!outbound && is_expected(nat, packet)).then_some("FTP data"),
            (outbound && packet.protocol() == UDP && packet.to().1 == 69).then_some("TFTP"),
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

/// A segment with text of a connection that is followed.
fn is_control(nat: &Nat, outbound: bool, packet: &Packet) -> bool {
    let (inside, server) = match outbound {
        true => (Some(packet.from()), packet.to()),
        false => {
            let external = (TCP, packet.to().0, packet.to().1);
            (nat.one_of(&external, 0).map(|key| (key.1, key.2)), packet.from())
        }
    };
    let is_it = |(address, port)| {
        let mut followed = nat.controls.keys();
        followed.any(|(key, with)| (key.1, key.2, *with) == (address, port, server.0))
    };
    let has_text = packet.protocol() == TCP && !packet.payload.is_empty();
    has_text && server.1 == CONTROL && inside.is_some_and(is_it)
}

/// From a server that a command of FTP has let in, and nobody else.
fn is_expected(nat: &Nat, packet: &Packet) -> bool {
    let key = nat.one_of(&(packet.protocol(), packet.to().0, packet.to().1), 0);
    let mapping = key.and_then(|key| nat.mappings.get(key));
    let expected = |further: &BTreeMap<(u32, u16), _>| further.contains_key(&(packet.source, 0));
    packet.protocol() == TCP && mapping.is_some_and(|mapping| expected(&mapping.further))
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
