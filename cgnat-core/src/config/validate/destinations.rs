//! `subscribers[].destinations`: flows that use other pools than the group's own.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::super::problem::Report;
use super::super::read::{Cursor, Located};
use super::super::{DestinationRule, Side, scalar};
use super::service::{self, Service};
use super::{pools, ports, subscribers};
use crate::endpoint::{Protocol, Realm};

/// Entries of `to` in one group.
const MAX_PREFIXES: usize = 256;

/// What could be read of one rule.
#[derive(Debug)]
pub(super) struct Draft {
    to: Vec<Located<Ipv4Net>>,
    protocol: Option<Protocol>,
    ports: Vec<(u16, u16)>,
    realm: u8,
}

impl Draft {
    pub(super) fn finish(self) -> DestinationRule {
        DestinationRule {
            to: self.to.into_iter().map(|to| to.value).collect(),
            protocol: self.protocol,
            ports: self.ports,
            realm: self.realm,
        }
    }

    /// Whether each flow of `other`, by protocol and port, would match here too.
    fn covers(&self, other: &Draft) -> bool {
        let holds = |(first, last): &(u16, u16)| {
            self.ports.iter().any(|(from, to)| from <= first && last <= to)
        };
        let ports =
            self.ports.is_empty() || !other.ports.is_empty() && other.ports.iter().all(holds);
        ports && (self.protocol.is_none() || self.protocol == other.protocol)
    }
}

/// Reads all rules of a group; a list of pools that is new is added to `realms`, whose first
/// is the group's own.
pub(super) fn read(
    report: &mut Report<'_>,
    cursor: &Cursor<'_>,
    pools: &[pools::Draft],
    realms: &mut Vec<Vec<usize>>,
) -> Vec<Draft> {
    let Some(items) = cursor.items(report) else { return Vec::new() };
    let mut drafts = Vec::new();
    for item in &items {
        drafts.extend(rule(report, item, pools, realms));
    }
    let prefixes: usize = drafts.iter().map(|draft| draft.to.len()).sum();
    if prefixes > MAX_PREFIXES {
        let message = format!("{prefixes} prefixes; expected at most {MAX_PREFIXES} of one group");
        report.error(&cursor.head(), message);
        return Vec::new();
    }
    unreachable(report, &drafts);
    drafts
}

fn rule(
    report: &mut Report<'_>,
    item: &Cursor<'_>,
    pools: &[pools::Draft],
    realms: &mut Vec<Vec<usize>>,
) -> Option<Draft> {
    let fields = item.fields(report)?;
    let to = fields.required(report, "to").and_then(|c| Some((c, c.items(report)?)));
    let to = to.map(|(cursor, items)| {
        if items.is_empty() {
            report.error(&cursor.head(), "the list is empty; expected 0.0.0.0/0 for everything");
        }
        let expected = "a prefix as in 198.51.100.0/24";
        let nets = items.iter().filter_map(|c| c.located(report, expected, scalar::prefix));
        nets.collect::<Vec<_>>()
    });
    let Service { protocol, ports } = service::read(report, &fields)?;
    let pool = fields.required(report, "pool")?;
    let list = subscribers::pool_list(report, pool, pools)?;
    // Without the group's own list that is the problem, and it is reported there.
    realms.first()?;
    let realm = realms.iter().position(|known| *known == list).unwrap_or_else(|| {
        realms.push(list);
        realms.len() - 1
    });
    if realm == Realm::COUNT {
        let message = format!(
            "more than {} different lists of pools in one group; use fewer, or split the group",
            Realm::COUNT
        );
        report.error(&pool.head(), message);
    }
    Some(Draft { to: to?, protocol, ports, realm: realm as u8 })
}

/// What an earlier rule takes as a whole.
fn unreachable(report: &mut Report<'_>, drafts: &[Draft]) {
    for (n, draft) in drafts.iter().enumerate() {
        for to in &draft.to {
            let wider = |earlier: &&Draft| earlier.covers(draft);
            let mut prefixes = drafts[..n].iter().filter(wider).flat_map(|earlier| &earlier.to);
            if let Some(first) = prefixes.find(|first| first.value.contains(&to.value)) {
                let message = format!(
                    "{} never matches: {} in line {} takes it first; put the narrower rule first",
                    to.value, first.value, first.at.place.line
                );
                report.error(&to.at, message);
            }
        }
    }
}

/// Rules for what is never translated.
pub(super) fn check(
    report: &mut Report<'_>,
    ports: &[ports::Draft],
    groups: &[subscribers::Draft],
) {
    let internal = ports.iter().filter(|port| port.side == Some(Side::Internal));
    let connected = internal.flat_map(|port| port.addresses.iter().map(|a| a.value.trunc()));
    let ranges = groups.iter().flat_map(|group| group.ranges.iter().map(|range| range.value));
    let never = [
        Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
        Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    ];
    let inside: Vec<Ipv4Net> = connected.chain(ranges).chain(never).collect();
    let rules = groups.iter().flat_map(|group| &group.destinations);
    for to in rules.flat_map(|rule| &rule.to) {
        if let Some(inside) = inside.iter().find(|net| net.contains(&to.value)) {
            let message = format!(
                "{} lies on the internal side ({inside}), so no packet to it is translated; \
                 expected addresses on the external side",
                to.value
            );
            report.error(&to.at, message);
        }
    }
}
