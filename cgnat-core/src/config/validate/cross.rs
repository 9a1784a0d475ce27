//! Sections against each other: nothing overlaps, everything that is named exists, and both
//! sides have a way out.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::super::problem::Report;
use super::super::read::{Cursor, Located};
use super::super::scalar::shown;
use super::super::{Device, Route, Side};
use super::{Range, common, pools, ports, span, statics, subscribers, written};

/// Ports among each other: both sides, one next hop per side, no shared device or prefix.
pub(super) fn ports(report: &mut Report<'_>, section: Option<&Cursor<'_>>, all: &[ports::Draft]) {
    for (side, word) in [(Side::Internal, "internal"), (Side::External, "external")] {
        // A port whose side could not be read may be the one.
        if all.iter().all(|port| port.side.is_some_and(|s| s != side))
            && let Some(section) = section
        {
            let message = format!("no port has `side: {word}`; expected at least one");
            report.error(&section.head(), message);
        }
        let mut hops =
            all.iter().filter(|p| p.side == Some(side)).filter_map(|p| p.next_hop.as_ref());
        if let (Some(first), Some(second)) = (hops.next(), hops.next()) {
            let line = first.at.place.line;
            let message = format!("the {word} side has its next hop in line {line}; use a route");
            report.error(&second.at, message);
        }
    }
    for (i, port) in all.iter().enumerate() {
        for earlier in &all[..i] {
            same_device(report, earlier, port);
            same_interface(report, earlier, port);
            for address in &port.addresses {
                let overlaps = |a: &&Located<Ipv4Net>| {
                    a.value.contains(&address.value.trunc())
                        || address.value.contains(&a.value.trunc())
                };
                if let Some(other) = earlier.addresses.iter().find(overlaps) {
                    let message = format!(
                        "{} overlaps {} of port {}; expected a prefix of its own",
                        address.value.trunc(),
                        other.value.trunc(),
                        shown(&earlier.name.value)
                    );
                    report.error(&address.at, message);
                }
            }
        }
    }
}

fn same_interface(report: &mut Report<'_>, earlier: &ports::Draft, port: &ports::Draft) {
    let (Some(a), Some(b)) = (&earlier.kernel_interface, &port.kernel_interface) else { return };
    if a.value == b.value {
        let earlier = shown(&earlier.name.value);
        let name = shown(&b.value);
        let message = format!("{name} is the interface of port {earlier}; expected another name");
        report.error(&b.at, message);
    }
}

fn same_device(report: &mut Report<'_>, earlier: &ports::Draft, port: &ports::Draft) {
    let (Some(a), Some(b)) = (&earlier.device, &port.device) else { return };
    let other = shown(&earlier.name.value);
    if (a.value.is_bond() || b.value.is_bond()) && a.value != b.value {
        let has = |name: &str| a.value.parts().iter().any(|part| part.name() == name);
        if let Some(part) = b.value.parts().iter().find(|part| has(part.name())) {
            let device = part.name();
            let message = format!(
                "`{device}` is of port {other} too; expected it once, or the same `bond` at both with \
                 another `vlan` or `outer-vlan`"
            );
            report.error(&b.at, message);
        }
        return;
    }
    if a.value.name() != b.value.name() {
        return;
    }
    let is_capture = matches!(&b.value, Device::Virtual { driver, .. } if driver == "net_pcap");
    let expected = if is_capture {
        "a capture for each port"
    } else if a.value != b.value {
        "the same arguments at both"
    } else if port.tags.ids() == earlier.tags.ids() {
        "another, or another `vlan` or `outer-vlan`"
    } else {
        return;
    };
    let device = b.value.name();
    let message = format!("`{device}` is the device of port {other} too; expected {expected}");
    report.error(&b.at, message);
}

/// Each side needs a way to where its packets go.
pub(super) fn ways(
    report: &mut Report<'_>,
    all: &[ports::Draft],
    routes: &[Located<Route>],
    groups: &[subscribers::Draft],
) {
    let of = |side| all.iter().filter(move |p| p.side == Some(side));
    let routes_of = |side| routes.iter().filter(move |r| all[r.value.port].side == Some(side));

    let follows = |side| of(side).any(|p| p.routes_from_kernel);
    if of(Side::External).all(|p| !p.has_next_hop)
        && !follows(Side::External)
        && routes_of(Side::External).next().is_none()
        && let Some(port) = of(Side::External).next()
    {
        let message = "the external side has neither a next hop nor a route; expected `next-hop`";
        report.error(&port.name.at, message);
    }
    if of(Side::Internal).next().is_none()
        || of(Side::Internal).any(|p| p.has_next_hop)
        || follows(Side::Internal)
    {
        return;
    }
    let connected = of(Side::Internal).flat_map(|p| p.addresses.iter().map(|a| a.value.trunc()));
    let reached: Vec<Ipv4Net> =
        connected.chain(routes_of(Side::Internal).map(|r| r.value.to)).collect();
    for range in groups.iter().flat_map(|group| &group.ranges) {
        if !reached.iter().any(|net| net.contains(&range.value)) {
            let range_is = range.value;
            let message = format!(
                "no way back to {range_is}: no internal port has a next hop, a route or a prefix \
                 for it; expected `next-hop` or an entry in `routes`"
            );
            report.error(&range.at, message);
        }
    }
}

/// Pool addresses belong to one pool, and to no port and no subscriber.
pub(super) fn pools(
    report: &mut Report<'_>,
    all: &[pools::Draft],
    ports: &[ports::Draft],
    groups: &[subscribers::Draft],
) {
    overlapping_pools(report, all);
    for range in all.iter().flat_map(|pool| &pool.ranges) {
        for (address, what) in ports.iter().flat_map(own_addresses) {
            if (range.value.0..=range.value.1).contains(&address) {
                let message = format!("{address} is {what}; exclude it or take another address");
                report.error(&range.at, message);
            }
        }
        for group in groups {
            let inside = |net: &&Located<Ipv4Net>| common(range.value, span(net.value)).is_some();
            if let Some(net) = group.ranges.iter().find(inside) {
                let shared = common(range.value, span(net.value)).map(written).unwrap_or_default();
                let subscribers = net.value;
                let message = format!(
                    "{shared} is inside the subscriber range {subscribers} (line {}); expected \
                     addresses that no subscriber has",
                    net.at.place.line
                );
                report.error(&range.at, message);
            }
        }
    }
}

/// Pools whose addresses nobody will ever get.
pub(super) fn unused_pools(
    report: &mut Report<'_>,
    all: &[pools::Draft],
    groups: &[subscribers::Draft],
    statics: &[statics::Draft],
) {
    for (number, pool) in all.iter().enumerate() {
        let mapped = |range: &Located<Range>| statics.iter().any(|s| s.reaches(range.value));
        if !groups.iter().any(|group| group.uses(number)) && !pool.ranges.iter().any(mapped) {
            let name = shown(&pool.name.value);
            let message = format!("no subscriber group uses pool {name}, so nobody gets its ports");
            report.warning(&pool.name.at, message);
        }
    }
}

fn overlapping_pools(report: &mut Report<'_>, all: &[pools::Draft]) {
    let mut ranges: Vec<(usize, &Located<Range>)> = Vec::new();
    for (i, pool) in all.iter().enumerate() {
        ranges.extend(pool.ranges.iter().map(|range| (i, range)));
    }
    ranges.sort_by_key(|(_, range)| range.value);
    // The range that reaches furthest so far; what starts inside it overlaps.
    let mut reach: Option<(usize, &Located<Range>)> = None;
    for current in ranges {
        let Some(before) = reach else {
            reach = Some(current);
            continue;
        };
        if let Some(shared) = common(before.1.value, current.1.value) {
            let (first, second) = match before.1.at.place < current.1.at.place {
                true => (before, current),
                false => (current, before),
            };
            let line = first.1.at.place.line;
            let shared = written(shared);
            let message = match first.0 == second.0 {
                true => format!("{shared} is in this pool already (line {line})"),
                false => {
                    let name = shown(&all[first.0].name.value);
                    format!("{shared} is in pool {name} already (line {line})")
                }
            };
            report.error(&second.1.at, message);
        }
        if current.1.value.1 > before.1.value.1 {
            reach = Some(current);
        }
    }
}

/// Own addresses and next hop of a port, with the words for a message.
pub(super) fn own_addresses(port: &ports::Draft) -> Vec<(Ipv4Addr, String)> {
    let name = shown(&port.name.value);
    let own = port.addresses.iter().map(|a| (a.value.addr(), format!("port {name}'s own address")));
    let hop = port.next_hop.iter().map(|h| (h.value, format!("the next hop of port {name}")));
    own.chain(hop).collect()
}

/// What nobody on the Internet has for an address (RFC 1918, RFC 6598).
const INTERNAL_SPACE: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
];

/// Subscriber ranges can all match, and hold nothing of the external side.
pub(super) fn subscribers(
    report: &mut Report<'_>,
    ports: &[ports::Draft],
    groups: &[subscribers::Draft],
) {
    let external = ports.iter().filter(|port| port.side == Some(Side::External));
    let foreign: Vec<(Ipv4Addr, String)> = external.flat_map(own_addresses).collect();
    let mut earlier: Vec<(usize, &Located<Ipv4Net>)> = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        for range in &group.ranges {
            for (address, what) in &foreign {
                if range.value.contains(address) {
                    let net = range.value;
                    let message =
                        format!("{net} holds {address}, {what}; expected no external one");
                    report.error(&range.at, message);
                }
            }
            if !INTERNAL_SPACE.iter().any(|space| space.contains(&range.value)) {
                let message = format!(
                    "{} is not only internal space (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, \
                     100.64.0.0/10); subscribers cannot reach its other holders (RFC 6598 section \
                     3)",
                    range.value
                );
                report.warning(&range.at, message);
            }
            if let Some((owner, wider)) =
                earlier.iter().find(|(_, wider)| wider.value.contains(&range.value))
            {
                let (net, line) = (range.value, wider.at.place.line);
                let wider = wider.value;
                if *owner == i {
                    let message =
                        format!("{net} is inside {wider} of line {line}; it adds nothing");
                    report.warning(&range.at, message);
                } else {
                    let message = format!(
                        "{net} never matches: {wider} in line {line} takes it first; put the \
                         narrower range first"
                    );
                    report.error(&range.at, message);
                }
            }
            earlier.push((i, range));
        }
    }
}
