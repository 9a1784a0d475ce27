//! Static mappings and bypass, as the specification understands them: lists that are read from
//! front to back, prefixes compared bit by bit.

use super::events::{EXTERNAL, Events, INTERNAL};
use super::nat::{Endpoint, Nat, Outcome, Pool, Rules};
use super::wire::{Body, ICMP, Packet, Protocol, TCP, UDP, ip};
use cgnat_core::verdict::DropReason::*;

/// Address and length.
pub type Prefix = (u32, u32);

/// One mapping: from these internal endpoints on to these external ones.
#[derive(Debug, Clone)]
pub struct Static {
    pub internal: (u32, u16),
    pub external: (u32, u16),
    /// How many ports; `None` is one to one.
    pub ports: Option<u16>,
    pub protocols: Vec<Protocol>,
}

#[derive(Debug, Clone)]
pub struct Bypass {
    pub to: Prefix,
    pub from: Option<Prefix>,
    pub protocol: Option<Protocol>,
    pub ports: Vec<(u16, u16)>,
}

fn holds((net, length): Prefix, address: u32) -> bool {
    (0..length).all(|bit| (net ^ address) >> (31 - bit) & 1 == 0)
}

impl Static {
    fn across(
        &self,
        from: (u32, u16),
        to: (u32, u16),
        (protocol, address, port): Endpoint,
    ) -> Option<(u32, u16)> {
        let offset = port.checked_sub(from.1)?;
        let inside = self.ports.is_none_or(|ports| offset < ports);
        // One to one is of any protocol.
        let of = self.ports.is_none() || self.protocols.contains(&protocol);
        let same = of && address == from.0;
        (same && inside).then(|| (to.0, to.1 + offset))
    }

    pub fn yaml(&self) -> String {
        let side = |(address, port): (u32, u16)| {
            let address = std::net::Ipv4Addr::from(address);
            match self.ports {
                None => address.to_string(),
                Some(ports) => format!("\"{address}:{port}-{}\"", port + (ports - 1)),
            }
        };
        let protocol = match (self.ports, self.protocols.as_slice()) {
            (None, _) => "",
            (_, [TCP]) => ", protocol: tcp",
            (_, [UDP]) => ", protocol: udp",
            _ => ", protocol: both",
        };
        let (internal, external) = (side(self.internal), side(self.external));
        format!("  - {{ internal: {internal}, external: {external}{protocol} }}\n")
    }
}

impl Bypass {
    pub fn yaml(&self) -> String {
        let net = |(net, length): Prefix| format!("{}/{length}", std::net::Ipv4Addr::from(net));
        let from = self.from.map_or(String::new(), |from| format!(", from: {}", net(from)));
        let protocol = match self.protocol {
            None => "any",
            Some(TCP) => "tcp",
            Some(UDP) => "udp",
            Some(_) => "icmp",
        };
        let ports: Vec<String> = self.ports.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        let ports = match ports.is_empty() {
            true => String::new(),
            false => format!(", ports: [{}]", ports.join(", ")),
        };
        format!("{{ to: {}{from}, protocol: {protocol}{ports} }}", net(self.to))
    }
}

impl Rules {
    /// The section `static`.
    pub fn statics_yaml(&self) -> String {
        if self.statics.is_empty() {
            return String::new();
        }
        let entries: String = self.statics.iter().map(Static::yaml).collect();
        format!("static:\n{entries}")
    }

    /// The key `bypass` behind others of its section.
    pub fn bypass_yaml(&self) -> String {
        if self.bypass.is_empty() {
            return String::new();
        }
        let rules: Vec<String> = self.bypass.iter().map(Bypass::yaml).collect();
        format!(", bypass: [{}]", rules.join(", "))
    }
}

impl Nat {
    /// Ports of pools that are never lent because they are mapped, of each protocol; those that
    /// are excluded are not counted again.
    pub fn reserved_slots(&self) -> u64 {
        let of = |pool: &Pool| {
            let ports = |address: &u32| {
                let all = pool.ports.0..=pool.ports.1;
                let lendable = all.filter(|port| !pool.exclude_ports.contains(port));
                lendable.filter(|port| self.is_reserved(*address, *port)).count() as u64
            };
            pool.addresses.iter().map(ports).sum::<u64>()
        };
        3 * self.rules.pools.iter().map(of).sum::<u64>()
    }

    /// The external endpoint that an internal one has by the configuration.
    pub fn static_external(&self, internal: Endpoint) -> Option<(u32, u16)> {
        self.rules.statics.iter().find_map(|one| one.across(one.internal, one.external, internal))
    }

    /// The internal endpoint that has an external one.
    pub fn static_internal(&self, external: Endpoint) -> Option<(u32, u16)> {
        self.rules.statics.iter().find_map(|one| one.across(one.external, one.internal, external))
    }

    /// Whether an external address is a static mapping's.
    pub fn is_static_address(&self, address: u32) -> bool {
        self.rules.statics.iter().any(|one| one.external.0 == address)
    }

    /// Whether a port of an address is never lent, because some protocol of it is mapped.
    pub fn is_reserved(&self, address: u32, port: u16) -> bool {
        [TCP, UDP, ICMP].iter().any(|of| self.static_internal((*of, address, port)).is_some())
    }

    /// The external address that an internal one has to itself.
    pub fn own_address(&self, internal: u32) -> Option<u32> {
        let alone = |one: &&Static| one.ports.is_none() && one.internal.0 == internal;
        self.rules.statics.iter().find(alone).map(|one| one.external.0)
    }

    /// The internal endpoint that an outbound packet is of.
    fn inner_end(packet: &Packet) -> Endpoint {
        match &packet.body {
            Body::Error { about, .. } => (about.protocol(), about.destination, about.to().1),
            _ => (packet.protocol(), packet.source, packet.from().1),
        }
    }

    /// What becomes of an outbound packet whose source is mapped statically.
    pub fn statically_outbound(&mut self, packet: &Packet, now: u64) -> Option<Outcome> {
        let external = self.static_external(Self::inner_end(packet))?;
        let hairpin = self.is_external(packet.destination);
        if packet.ttl <= 1 {
            return Some(Outcome::Drop(TtlExpired));
        }
        if hairpin && !self.rules.hairpinning {
            return Some(Outcome::Drop(HairpinDisabled));
        }
        let mut out = packet.clone();
        out.set_source(external);
        self.show_sender(packet, &mut out);
        out.hide_route(external.0);
        if let Body::Error { about, .. } = &mut out.body {
            about.hide_route(external.0);
        }
        out.ttl -= 1;
        if hairpin {
            return Some(self.inward(&out, true, now));
        }
        Some(self.leaves(out, EXTERNAL))
    }

    /// An error comes from the address of who sent it, if that is its own.
    pub fn show_sender(&self, packet: &Packet, out: &mut Packet) {
        if let Body::Error { .. } = packet.body {
            out.source = self.own_address(packet.source).unwrap_or(out.source);
        }
    }

    /// What becomes of a packet to an external endpoint that is mapped statically.
    pub fn statically_inward(&self, packet: &Packet, hairpinned: bool) -> Option<Outcome> {
        let external = match &packet.body {
            Body::Error { about, .. } => (about.protocol(), about.source, about.from().1),
            _ => (packet.protocol(), packet.destination, packet.to().1),
        };
        let internal = self.static_internal(external)?;
        if packet.ttl <= 1 && !hairpinned {
            return Some(Outcome::Drop(TtlExpired));
        }
        let mut packet = packet.clone();
        packet.set_destination(internal);
        packet.ttl -= u8::from(!hairpinned);
        Some(self.leaves(packet, INTERNAL))
    }

    /// What becomes of a packet that a rule lets pass.
    pub fn bypass(&self, packet: &Packet, outbound: bool) -> Option<Outcome> {
        if !self.is_bypassed(packet, outbound) {
            return None;
        }
        if packet.ttl <= 1 {
            return Some(Outcome::Drop(TtlExpired));
        }
        let packet = Packet { ttl: packet.ttl - 1, ..packet.clone() };
        Some(self.leaves(packet, if outbound { EXTERNAL } else { INTERNAL }))
    }

    fn is_bypassed(&self, packet: &Packet, outbound: bool) -> bool {
        let ours = |address| self.is_external(address) || self.is_own(address);
        if ours(packet.source) || ours(packet.destination) {
            return false;
        }
        if !outbound && self.is_inside(packet.source) && !self.lies_outside(packet.source) {
            return false;
        }
        // An error goes the other way than the packet that it is about.
        let (about, outbound) = match &packet.body {
            Body::Error { about, .. } => (&**about, !outbound),
            _ => (packet, outbound),
        };
        let (internal, remote) = match outbound {
            true => (about.source, about.to()),
            false => (about.destination, about.from()),
        };
        let protocol = about.protocol();
        let is_from = |from: Option<Prefix>| match from {
            Some(from) => holds(from, internal),
            None => self.rules.groups.iter().any(|(a, b, _)| (*a..=*b).contains(&internal)),
        };
        let port = |ports: &[(u16, u16)]| {
            ports.is_empty()
                || protocol != ICMP && ports.iter().any(|(a, b)| (*a..=*b).contains(&remote.1))
        };
        let mut rules = self.rules.bypass.iter();
        let found = rules.any(|rule| {
            self.wins(rule, remote.0)
                && rule.protocol.is_none_or(|of| of == protocol)
                && port(&rule.ports)
                && is_from(rule.from)
        });
        found && !self.lies_outside(internal)
    }

    fn lies_outside(&self, address: u32) -> bool {
        self.rules.bypass.iter().any(|rule| self.wins(rule, address))
    }

    /// Whether a rule's word on which side an address lies is the longest.
    fn wins(&self, rule: &Bypass, address: u32) -> bool {
        let never = [(self.rules.own[0], 30), (ip("169.254.0.0"), 16)];
        if never.iter().any(|net| holds(*net, address)) || !holds(rule.to, address) {
            return false;
        }
        let groups = self.rules.groups.iter();
        let groups = groups.map(|(first, last, _)| (*first, 32 - (last - first).count_ones()));
        let from = self.rules.bypass.iter().filter_map(|rule| rule.from);
        let mut inside = groups.chain(from).filter(|net| holds(*net, address));
        let in_shared = holds((ip("100.64.0.0"), 10), address);
        !inside.any(|net| net.1 >= rule.to.1) && (!in_shared || rule.to.1 >= 10)
    }

    /// Whether a packet from inside leaves with the identification it came with: nobody
    /// shares its address.
    pub fn keeps_identification(&self, packet: &Packet) -> bool {
        let is_error = matches!(packet.body, Body::Error { .. });
        self.is_bypassed(packet, true)
            || matches!(packet.body, Body::Bare { .. })
            || !is_error && self.own_address(packet.source).is_some()
    }
}

impl Events {
    /// A packet of a static mapping or a bypass rule, or one that nearly is.
    pub fn exceptional(&mut self, nat: &Nat, port: usize) -> Packet {
        let place = self.below(nat.rules.statics.len() as u32) as usize;
        let mapped = nat.rules.statics[place].clone();
        let ports = mapped.ports.map_or(60_000, u32::from) + 1;
        let offset = self.below(ports) as u16;
        let protocol = self.protocol();
        let (inside, outside) = (mapped.internal, mapped.external);
        let (inside, outside) = ((inside.0, inside.1 + offset), (outside.0, outside.1 + offset));
        let place = self.below(nat.rules.bypass.len() as u32) as usize;
        let rule = &nat.rules.bypass[place];
        let (to, from) = (rule.to.0 + self.below(4), rule.from);
        let remote = (to, rule.ports.first().map_or(53, |ports| ports.0) + self.below(2) as u16);
        let host = match from.filter(|_| !self.one_in(4)) {
            Some((net, _)) => net + self.below(4),
            None => self.subscriber(),
        };
        let host = (host, 1 + self.below(5) as u16);
        let (other, elsewhere) = (self.target(nat), self.remote());
        let other = (other.1, other.2);
        let (mut from, mut to) = match (port, self.below(6)) {
            (INTERNAL, 0) => (inside, elsewhere),
            (INTERNAL, 1) => (inside, other),
            (INTERNAL, 2) => (host, outside),
            (INTERNAL, 3) => (inside, remote),
            (INTERNAL, _) => (host, remote),
            (_, 0..3) => (elsewhere, outside),
            (_, 3) => (remote, outside),
            (_, _) => (remote, host),
        };
        if protocol != ICMP {
            (from.1, to.1) = (from.1.max(1), to.1.max(1));
        } else {
            // A query has one identifier; from outside that of whom it is for.
            let identifier = if port == EXTERNAL { to.1 } else { from.1 };
            (from.1, to.1) = (identifier, identifier);
        }
        self.packet(protocol, from, to)
    }

    /// An ICMP error about such a packet that went the other way.
    pub fn exceptional_error(&mut self, nat: &Nat, port: usize) -> Packet {
        let answer = self.exceptional(nat, port);
        let about = self.packet(answer.protocol(), answer.to(), answer.from());
        self.error_about(about, port)
    }
}
