//! `ports.<name>.ipv6`, and the IPv6 entries of `routes` and `neighbours`.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use super::super::problem::{At, Report};
use super::super::read::{Cursor, Located};
use super::super::scalar::{self, shown};
use super::super::{Ipv6, Ipv6Route, Side, SourceCheck};
use super::{ports, refuse_repeated};

/// The smallest MTU of a link that carries IPv6 (RFC 8200 section 5).
const LEAST_MTU: u16 = 1280;

/// What could be read of a port's IPv6.
#[derive(Debug)]
pub(super) struct Draft {
    at: At,
    addresses: Vec<Located<Ipv6Net>>,
    /// Some address could not be read: what is on-link is not known.
    has_bad_address: bool,
    link_local: Option<Located<Ipv6Addr>>,
    next_hop: Option<Located<Ipv6Addr>>,
    /// A next hop is given, well or badly.
    has_next_hop: bool,
    source_check: SourceCheck,
    neighbours: Vec<Located<(Ipv6Addr, [u8; 6])>>,
}

impl Draft {
    pub(super) fn finish(self) -> Ipv6 {
        Ipv6 {
            addresses: self.addresses.into_iter().map(|a| a.value).collect(),
            link_local: self.link_local.map(|a| a.value),
            next_hop: self.next_hop.map(|a| a.value),
            source_check: self.source_check,
            neighbours: self.neighbours.into_iter().map(|n| n.value).collect(),
        }
    }

    /// Why `address` cannot be a neighbour on this port, if it cannot.
    fn refusal(&self, address: Ipv6Addr) -> Option<String> {
        let own = self.addresses.iter().map(|a| a.value.addr());
        let own = own.chain(self.link_local.iter().map(|a| a.value));
        if own.into_iter().any(|own| own == address) {
            return Some(format!("{address} is this port's own address; expected a neighbour"));
        }
        if address.is_unicast_link_local() {
            return scalar::link_local(&address.to_string()).err();
        }
        let mut nets = self.addresses.iter().map(|a| a.value);
        if self.has_bad_address || nets.any(|net| net.contains(&address)) {
            return None;
        }
        let nets: Vec<String> =
            self.addresses.iter().map(|a| a.value.trunc().to_string()).collect();
        let nets = nets.join(", ");
        Some(format!(
            "{address} is not on-link; expected a link-local address or one inside {nets}"
        ))
    }

    /// Whether `address` can be a neighbour; if not, that is reported.
    fn is_neighbour(&self, report: &mut Report<'_>, address: Ipv6Addr, at: &At) -> bool {
        let refusal = self.refusal(address);
        if let Some(message) = &refusal {
            report.error(at, message.as_str());
        }
        refusal.is_none()
    }

    /// Takes a static neighbour.
    pub(super) fn add_neighbour(
        &mut self,
        report: &mut Report<'_>,
        neighbour: Located<(Ipv6Addr, [u8; 6])>,
    ) {
        let Located { value: (address, _), at } = &neighbour;
        if self.is_neighbour(report, *address, at) {
            let same = self.neighbours.iter().filter(|n| n.value.0 == *address);
            refuse_repeated(report, at, &format!("neighbour {address}"), same.map(|n| &n.at));
            self.neighbours.push(neighbour);
        }
    }
}

/// Reads the section of a port.
pub(super) fn read(
    report: &mut Report<'_>,
    cursor: &Cursor<'_>,
    side: Option<Side>,
    mtu: u16,
) -> Option<Draft> {
    let fields = cursor.fields(report)?;
    if mtu < LEAST_MTU {
        let message = format!(
            "the port has `mtu` {mtu}; expected {LEAST_MTU} or more where IPv6 is (RFC 8200 section 5)"
        );
        report.error(&cursor.head(), message);
    }
    let mut draft = Draft {
        at: cursor.head(),
        addresses: Vec::new(),
        has_bad_address: false,
        link_local: None,
        next_hop: None,
        has_next_hop: fields.get("next-hop").is_some(),
        source_check: SourceCheck::Strict,
        neighbours: Vec::new(),
    };
    let listed = fields.required(report, "addresses");
    let (one, parse) = ("an address as in 2001:db8:1::2/64", scalar::interface_address6);
    (draft.addresses, draft.has_bad_address) =
        ports::addresses(report, listed, one, parse, Ipv6Net::addr);
    draft.link_local = fields
        .get("link-local")
        .and_then(|c| c.located(report, "a link-local address", scalar::link_local));
    if let Some(cursor) = fields.get("next-hop") {
        let read = cursor.located(report, "one IPv6 address", scalar::address6);
        if side == Some(Side::Internal) {
            let message = "an internal port has no next hop of IPv6: any stray packet would go in by it, and \
                           come back; expected `routes` to the prefixes of subscribers";
            report.error(&cursor.head(), message);
        }
        draft.next_hop = read.filter(|hop| draft.is_neighbour(report, hop.value, &hop.at));
    }
    if let Some(cursor) = fields.get("source-check") {
        let word = cursor.choice(report, &["strict", "loose", "off"], &[]);
        draft.source_check = match word {
            Some("loose") => SourceCheck::Loose,
            Some("off") => SourceCheck::Off,
            _ => SourceCheck::Strict,
        };
        if side == Some(Side::External) {
            let message = "sources from outside are always checked, against all that is internal; expected \
                           the key at an internal port";
            report.error(&cursor.head(), message);
        }
    }
    Some(draft)
}

/// A route whose `to`, `via` and port could be read.
pub(super) fn route(
    report: &mut Report<'_>,
    to: Located<Ipv6Net>,
    via: Located<Ipv6Addr>,
    ports: &[ports::Draft],
    port: usize,
) -> Option<Located<Ipv6Route>> {
    let name = shown(&ports[port].name.value);
    let Some(draft) = &ports[port].ipv6 else {
        // One that could not be read was reported.
        if !ports[port].has_ipv6 {
            report.error(&to.at, format!("port {name} has no `ipv6`; expected a port that has it"));
        }
        return None;
    };
    if !draft.is_neighbour(report, via.value, &via.at) {
        return None;
    }
    let is_default = to.value.prefix_len() == 0;
    if !is_default && !scalar::is_global_unicast(to.value.addr()) {
        let message =
            format!("{} is not forwarded; expected a prefix of global addresses", to.value);
        report.error(&to.at, message);
    }
    if is_default && ports[port].side == Some(Side::Internal) {
        let message = "a default route at an internal port: any stray packet would go in by it, and come \
                       back; expected the prefixes of subscribers";
        report.error(&to.at, message);
    } else if is_default && draft.has_next_hop {
        report.error(&to.at, format!("port {name} has a next hop already; expected only one"));
    }
    Some(Located { value: Ipv6Route { to: to.value, via: via.value, port }, at: to.at })
}

/// Ports and routes against each other: both sides, one next hop, no shared prefix, ways in and out.
pub(super) fn check(
    report: &mut Report<'_>,
    ports: &[ports::Draft],
    routes: &[Located<Ipv6Route>],
) {
    let of =
        |side| ports.iter().filter(move |p| p.side == Some(side)).filter_map(|p| p.ipv6.as_ref());
    let Some(first) = ports.iter().find_map(|port| port.ipv6.as_ref()) else { return };
    for (side, word) in [(Side::Internal, "internal"), (Side::External, "external")] {
        // A port whose side or section could not be read may be the one.
        let may_be = |p: &ports::Draft| p.has_ipv6 && p.side.is_none_or(|s| s == side);
        if !ports.iter().any(may_be) {
            let message =
                format!("no {word} port has `ipv6`, so nothing passes; expected both sides");
            report.error(&first.at, message);
        }
    }
    let mut hops = of(Side::External).filter_map(|draft| draft.next_hop.as_ref());
    if let (Some(first), Some(second)) = (hops.next(), hops.next()) {
        let line = first.at.place.line;
        let message = format!("the external side has its next hop in line {line}; use a route");
        report.error(&second.at, message);
    }
    let is_outward = |r: &Located<Ipv6Route>| ports[r.value.port].side == Some(Side::External);
    if let Some(external) = of(Side::External).next()
        && of(Side::External).all(|draft| !draft.has_next_hop)
        && !routes.iter().any(is_outward)
    {
        let message =
            "the external side has neither a next hop nor a route for IPv6; expected `next-hop`";
        report.error(&external.at, message);
    }
    let mut seen: Vec<(usize, &Located<Ipv6Net>)> = Vec::new();
    for (index, draft) in ports.iter().enumerate().filter_map(|(i, p)| Some((i, p.ipv6.as_ref()?)))
    {
        for address in &draft.addresses {
            let overlaps = |(other, a): &&(usize, &Located<Ipv6Net>)| {
                let (a, b) = (a.value.trunc(), address.value.trunc());
                *other != index && (a.contains(&b) || b.contains(&a))
            };
            if let Some((port, other)) = seen.iter().find(overlaps) {
                let message = format!(
                    "{} overlaps {} of port {}; expected a prefix of its own",
                    address.value.trunc(),
                    other.value.trunc(),
                    shown(&ports[*port].name.value)
                );
                report.error(&address.at, message);
            }
        }
        seen.extend(draft.addresses.iter().map(|address| (index, address)));
    }
}
