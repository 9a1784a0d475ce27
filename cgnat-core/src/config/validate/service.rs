//! `protocol` and `ports` of a rule about flows: those of `nat44.bypass` and of
//! `subscribers[].destinations`.

use super::super::problem::Report;
use super::super::read::Fields;
use super::super::scalar;
use crate::endpoint::Protocol;

/// Which flows, by what they are of.
pub(super) struct Service {
    /// `None` is any.
    pub(super) protocol: Option<Protocol>,
    /// At the remote end, first and last; empty is any.
    pub(super) ports: Vec<(u16, u16)>,
}

/// Reads both keys; `None` if `ports` is no list, which was reported.
pub(super) fn read(report: &mut Report<'_>, fields: &Fields<'_>) -> Option<Service> {
    let protocol = fields.get("protocol");
    let protocol = protocol.map(|c| c.choice(report, &["any", "tcp", "udp", "icmp"], &[]));
    let protocol = match protocol {
        Some(Some("tcp")) => Some(Protocol::Tcp),
        Some(Some("udp")) => Some(Protocol::Udp),
        Some(Some("icmp")) => Some(Protocol::Icmp),
        _ => None,
    };
    let mut ports = Vec::new();
    if let Some(cursor) = fields.get("ports") {
        let items = cursor.items(report)?;
        if items.is_empty() {
            report.error(&cursor.head(), "the list is empty; leave it out for all ports");
        }
        if protocol == Some(Protocol::Icmp) {
            report.error(&cursor.head(), "ICMP has no ports; leave them out");
        }
        let expected = "a port or ports as in 8000-8010";
        ports =
            items.iter().filter_map(|c| c.parse(report, expected, scalar::port_or_range)).collect();
    }
    Some(Service { protocol, ports })
}
