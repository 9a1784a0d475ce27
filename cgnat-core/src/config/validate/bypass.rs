//! `nat44.bypass`: what passes untranslated.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::super::problem::Report;
use super::super::read::{Cursor, Located};
use super::super::scalar;
use super::super::{BypassRule, Side};
use super::service::{self, Service};
use super::{common, pools, ports, span, subscribers};
use crate::endpoint::IpProtocol;

/// Each packet that may be bypassed is compared with every rule.
const MAX_RULES: usize = 256;

/// What could be read of one rule.
#[derive(Debug)]
pub(super) struct Draft {
    to: Located<Ipv4Net>,
    from: Option<Located<Ipv4Net>>,
    protocol: Option<u8>,
    ports: Vec<(u16, u16)>,
}

impl Draft {
    pub(super) fn finish(self) -> BypassRule {
        BypassRule {
            to: self.to.value,
            from: self.from.map(|from| from.value),
            protocol: self.protocol,
            ports: self.ports,
        }
    }
}

/// Reads all rules.
pub(super) fn read(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Vec<Draft> {
    let Some(items) = cursor.items(report) else { return Vec::new() };
    if items.len() > MAX_RULES {
        let message = format!("{} rules; expected at most {MAX_RULES}", items.len());
        report.error(&cursor.head(), message);
        return Vec::new();
    }
    items.iter().filter_map(|item| rule(report, item)).collect()
}

fn rule(report: &mut Report<'_>, item: &Cursor<'_>) -> Option<Draft> {
    let fields = item.fields(report)?;
    let expected = "a prefix as in 10.0.0.0/8";
    let to =
        fields.required(report, "to").and_then(|c| c.located(report, expected, scalar::prefix));
    let from = fields.get("from").map(|c| c.located(report, expected, scalar::prefix));
    let Service { protocol, ports } = service::read(report, &fields)?;
    let from = match from {
        None => None,
        Some(Some(from)) => Some(from),
        Some(None) => return None,
    };
    let protocol = protocol.map(|protocol| IpProtocol::from(protocol).0);
    Some(Draft { to: to?, from, protocol, ports })
}

/// Rules that could never match, and such that would let everybody's packets pass.
pub(super) fn check(
    report: &mut Report<'_>,
    rules: &[Draft],
    ports: &[ports::Draft],
    pools: &[pools::Draft],
    groups: &[subscribers::Draft],
) {
    let of = |side| ports.iter().filter(move |port| port.side == Some(side));
    let connected = of(Side::Internal).flat_map(|port| &port.addresses);
    let connected: Vec<Ipv4Net> = connected.map(|address| address.value.trunc()).collect();
    let subscribers = groups.iter().flat_map(|group| &group.ranges);
    let subscribers: Vec<Ipv4Net> = subscribers.map(|range| range.value).collect();
    let never = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);
    let froms = rules.iter().filter_map(|rule| rule.from.as_ref().map(|from| from.value));
    let froms: Vec<Ipv4Net> = froms.collect();
    for rule in rules {
        let to = rule.to.value;
        let holds = |net: &&Ipv4Net| net.contains(&to);
        let always = connected.iter().chain([&never]).find(holds);
        // A prefix that is wider than `to` gives way to it.
        let equal = subscribers.iter().chain(&froms).find(|net| **net == to);
        if let Some(inside) = always.or(equal) {
            let message = format!(
                "{to} lies on the internal side ({inside}), so no packet to it is bypassed; \
                 expected addresses on the external side"
            );
            report.error(&rule.to.at, message);
        }
        let Some(from) = &rule.from else { continue };
        let own = of(Side::External).flat_map(|port| &port.addresses).map(|a| a.value.trunc());
        let own = own.map(span).chain(pools.iter().flat_map(|p| p.ranges.iter().map(|r| r.value)));
        if let Some(shared) = own.filter_map(|own| common(own, span(from.value))).next() {
            let message = format!(
                "{} holds {}, which is on the external side; expected internal addresses",
                from.value,
                super::written(shared)
            );
            report.error(&from.at, message);
        }
    }
}
