//! `static`: fixed mappings, one to one or port by port.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::super::problem::Report;
use super::super::read::{Cursor, Located};
use super::super::scalar::{self, shown};
use super::super::{AddressSelection, Mode, Route, Side, StaticMapping};
use super::{Range, common, cross, pools, ports, span, subscribers, written};

const MAX_ENTRIES: usize = 4096;
const MAX_ADDRESSES: u64 = 65_536;

/// One side of a mapping: `100.64.9.0/28`, `100.64.9.9`, `100.64.9.9:8000-8010`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Whole(Ipv4Net),
    Ports(Ipv4Addr, (u16, u16)),
}

impl Half {
    fn addresses(self) -> Range {
        match self {
            Half::Whole(net) => span(net),
            Half::Ports(address, _) => (address, address),
        }
    }

    fn ports(self) -> (u16, u16) {
        match self {
            Half::Whole(_) => (0, u16::MAX),
            Half::Ports(_, ports) => ports,
        }
    }
}

/// What could be read of one mapping.
#[derive(Debug)]
pub(super) struct Draft {
    internal: Located<Half>,
    external: Located<Half>,
    /// TCP, UDP.
    protocols: (bool, bool),
}

impl Draft {
    pub(super) fn finish(self) -> StaticMapping {
        match (self.internal.value, self.external.value) {
            (Half::Ports(internal, ports), Half::Ports(external, others)) => {
                StaticMapping::Forward {
                    internal: (internal, ports.0),
                    external: (external, others.0),
                    count: ports.1 - ports.0 + 1,
                    tcp: self.protocols.0,
                    udp: self.protocols.1,
                }
            }
            // The two sides were found to be of one kind.
            (internal, external) => {
                let net = |half: Half| match half {
                    Half::Whole(net) => net,
                    Half::Ports(address, _) => Ipv4Net::from(address),
                };
                StaticMapping::OneToOne { internal: net(internal), external: net(external) }
            }
        }
    }

    /// Whether it has an external address of a range.
    pub(super) fn reaches(&self, range: Range) -> bool {
        common(self.external.value.addresses(), range).is_some()
    }

    fn shares_a_protocol(&self, other: &Draft) -> bool {
        self.protocols.0 && other.protocols.0 || self.protocols.1 && other.protocols.1
    }
}

/// Reads all mappings.
pub(super) fn read(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Vec<Draft> {
    let Some(items) = cursor.items(report) else { return Vec::new() };
    if items.len() > MAX_ENTRIES {
        let message = format!("{} mappings; expected at most {MAX_ENTRIES}", items.len());
        report.error(&cursor.head(), message);
        return Vec::new();
    }
    let drafts: Vec<Draft> = items.iter().filter_map(|item| mapping(report, item)).collect();
    let addresses = |draft: &Draft| {
        let (first, last) = draft.external.value.addresses();
        u64::from(u32::from(last) - u32::from(first)) + 1
    };
    let sum: u64 = drafts.iter().map(addresses).sum();
    if sum > MAX_ADDRESSES {
        let message = format!("{sum} external addresses; expected at most {MAX_ADDRESSES}");
        report.error(&cursor.head(), message);
        return Vec::new();
    }
    drafts
}

fn mapping(report: &mut Report<'_>, item: &Cursor<'_>) -> Option<Draft> {
    let fields = item.fields(report)?;
    let expected = "an address, a prefix, or an address with ports";
    let mut half = |key| {
        fields.required(report, key).and_then(|c| c.located(report, expected, half_of_mapping))
    };
    let (internal, external) = (half("internal"), half("external"));
    let protocol = fields.get("protocol");
    let protocols = protocol.map(|c| match c.choice(report, &["tcp", "udp", "both"], &[])? {
        "tcp" => Some((true, false)),
        "udp" => Some((false, true)),
        _ => Some((true, true)),
    });
    let (internal, external) = (internal?, external?);
    match (internal.value, external.value) {
        (Half::Whole(a), Half::Whole(b)) => {
            if a.prefix_len() != b.prefix_len() {
                let message =
                    format!("{b} is not as large as {a}; expected prefixes of one length");
                report.error(&external.at, message);
                return None;
            }
            if let Some(cursor) = protocol {
                let message = "a one-to-one mapping is of all protocols; leave this key out";
                report.error(&cursor.head(), message);
            }
            return Some(Draft { internal, external, protocols: (true, true) });
        }
        (Half::Ports(_, a), Half::Ports(_, b)) if a.1 - a.0 == b.1 - b.0 => {}
        (Half::Ports(_, a), Half::Ports(_, b)) => {
            let count = |ports: (u16, u16)| u32::from(ports.1 - ports.0) + 1;
            let message = format!(
                "{} ports for {}; expected as many as on the internal side",
                count(b),
                count(a)
            );
            report.error(&external.at, message);
            return None;
        }
        _ => {
            let message = "one side has ports and the other has none; expected both or neither";
            report.error(&external.at, message);
            return None;
        }
    }
    // A port is opened for what is named, never for more.
    let protocols = match protocols {
        Some(protocols) => protocols?,
        None => {
            report.error(fields.at(), "the key `protocol` is missing: tcp, udp or both");
            return None;
        }
    };
    Some(Draft { internal, external, protocols })
}

fn half_of_mapping(text: &str) -> Result<Half, String> {
    if let Some((address, ports)) = text.split_once(':') {
        return Ok(Half::Ports(host(address)?, scalar::port_or_range(ports)?));
    }
    if text.contains('/') {
        let net = scalar::prefix(text)?;
        if !scalar::is_host(net.network()) || !scalar::is_host(net.broadcast()) {
            return Err(format!("{} has addresses of no host", shown(text)));
        }
        return Ok(Half::Whole(net));
    }
    host(text).map(|address| Half::Whole(Ipv4Net::from(address)))
}

fn host(text: &str) -> Result<Ipv4Addr, String> {
    scalar::address_range(text).and_then(|_| scalar::address(text))
}

/// Checks the mappings against each other and against everything else.
pub(super) fn check(
    report: &mut Report<'_>,
    statics: &[Draft],
    ports: &[ports::Draft],
    pools: &[pools::Draft],
    groups: &[subscribers::Draft],
    routes: &[Located<Route>],
) {
    for (i, draft) in statics.iter().enumerate() {
        internal(report, draft, ports, groups, routes);
        external(report, draft, ports, groups);
        deterministic(report, draft, pools);
        for half in [|draft: &Draft| draft.internal.clone(), |draft: &Draft| draft.external.clone()]
        {
            let (this, mine) = (half(draft), draft);
            let earlier = statics[..i].iter().find(|other| {
                let that = half(other).value;
                let ports = (this.value.ports(), that.ports());
                common(this.value.addresses(), that.addresses()).is_some()
                    && ports.0.0 <= ports.1.1
                    && ports.1.0 <= ports.0.1
                    && mine.shares_a_protocol(other)
            });
            if let Some(other) = earlier {
                let line = half(other).at.place.line;
                let message = format!("mapped in line {line} already; expected another endpoint");
                report.error(&this.at, message);
            }
        }
    }
}

/// The internal side lies inside, and is nobody's own address.
fn internal(
    report: &mut Report<'_>,
    draft: &Draft,
    ports: &[ports::Draft],
    groups: &[subscribers::Draft],
    routes: &[Located<Route>],
) {
    let addresses = draft.internal.value.addresses();
    let all = ports.iter().flat_map(cross::own_addresses);
    for (address, what) in all.filter(|(own, _)| (addresses.0..=addresses.1).contains(own)) {
        let message = format!("{address} is {what}; expected the address of a host");
        report.error(&draft.internal.at, message);
    }
    let of_ports = ports.iter().filter(|port| port.side == Some(Side::Internal));
    let connected = of_ports.flat_map(|port| port.addresses.iter().map(|a| a.value.trunc()));
    let ranges = groups.iter().flat_map(|group| group.ranges.iter().map(|range| range.value));
    let is_internal =
        |route: &&Located<Route>| ports[route.value.port].side == Some(Side::Internal);
    let routed = routes.iter().filter(is_internal).map(|route| route.value.to);
    let mut inside = connected.chain(ranges).chain(routed).map(span);
    if !inside.any(|net| net.0 <= addresses.0 && addresses.1 <= net.1) {
        let message = format!(
            "{} is not on the internal side; expected an address of a subscriber range, of an \
             internal port's prefix or of an internal route",
            written(addresses)
        );
        report.error(&draft.internal.at, message);
    }
}

/// The external side is nobody's on the internal side, and no port's own.
fn external(
    report: &mut Report<'_>,
    draft: &Draft,
    ports: &[ports::Draft],
    groups: &[subscribers::Draft],
) {
    let addresses = draft.external.value.addresses();
    let all = ports.iter().flat_map(cross::own_addresses);
    for (address, what) in all.filter(|(own, _)| (addresses.0..=addresses.1).contains(own)) {
        let message = format!("{address} is {what}; expected another address");
        report.error(&draft.external.at, message);
    }
    let of_ports = ports.iter().filter(|port| port.side == Some(Side::Internal));
    let connected = of_ports.flat_map(|port| port.addresses.iter().map(|a| a.value.trunc()));
    let ranges = groups.iter().flat_map(|group| group.ranges.iter().map(|range| range.value));
    // Neither shared (RFC 6598) nor link-local addresses are anybody's on the Internet.
    let special = [([100, 64, 0, 0], 10), ([169, 254, 0, 0], 16)];
    let special = special.map(|(net, length)| Ipv4Net::new_assert(net.into(), length));
    let inside = connected.chain(ranges).chain(special);
    if let Some(net) = inside.into_iter().find(|net| common(span(*net), addresses).is_some()) {
        let message = format!(
            "{} lies in {net}, on the internal side; expected an external address",
            written(addresses)
        );
        report.error(&draft.external.at, message);
    }
}

/// A hole in a deterministic pool would break its arithmetic.
fn deterministic(report: &mut Report<'_>, draft: &Draft, pools: &[pools::Draft]) {
    let (addresses, ports) = (draft.external.value.addresses(), draft.external.value.ports());
    for pool in pools.iter().filter(|pool| pool.mode == Mode::Deterministic) {
        let lent = pool.port_range();
        let meets = pool.ranges.iter().any(|range| common(range.value, addresses).is_some());
        if meets && ports.0 <= lent.1 && lent.0 <= ports.1 {
            let message = format!(
                "{} belongs to the deterministic pool {}; expected an address outside it, or \
                 ports outside {}-{}",
                written(addresses),
                shown(&pool.name.value),
                lent.0,
                lent.1
            );
            report.error(&draft.external.at, message);
        }
    }
}

/// Addresses that are mapped one to one are lent no more.
pub(super) fn take_addresses(
    report: &mut Report<'_>,
    statics: &[Draft],
    pools: &mut [pools::Draft],
) {
    let whole = statics.iter().filter(|draft| matches!(draft.external.value, Half::Whole(_)));
    let taken: Vec<Located<Range>> = whole
        .map(|draft| Located {
            value: draft.external.value.addresses(),
            at: draft.external.at.clone(),
        })
        .collect();
    for pool in pools {
        let before = pool.addresses();
        pool.ranges = pools::subtract(&pool.ranges, &taken);
        let by_bits = pool.rules.address_selection();
        if pool.addresses() < before && matches!(by_bits, AddressSelection::SubscriberBits(_)) {
            let message = "an address of this pool is mapped one to one, but `subscriber-bits` \
                           number all of them; expected an external address outside it";
            report.error(&pool.name.at, message);
        }
        if before > 0 && pool.addresses() == 0 {
            let message = "every address of this pool is mapped one to one; expected one to remain";
            report.error(&pool.name.at, message);
        }
    }
}
