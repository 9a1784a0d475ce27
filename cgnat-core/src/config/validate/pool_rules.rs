//! The rules of a pool: how its addresses and ports are chosen and how ports rest.

use super::super::pool_rules::{AddressSelection, PoolRules};
use super::super::problem::{At, Report};
use super::super::read::{Cursor, Fields, Located};
use super::super::scalar;

/// First port above the well-known ones.
const FIRST_HIGH: u16 = 1024;

/// Addresses that are looked at for one new subscriber.
const MAX_LOOKED_AT: u64 = 4096;

/// First and last port.
type Ports = (u16, u16);

/// Reads the rules; `fields` are those of the pool.
pub(super) fn read(
    report: &mut Report<'_>,
    fields: &Fields<'_>,
    allocation: Option<&Fields<'_>>,
) -> PoolRules {
    let mut rules = PoolRules::default();
    if let Some(cursor) = fields.get("exclude-ports") {
        rules.exclude_ports = excluded(report, cursor);
    }
    rules.address_selection = address_selection(report, fields);
    if let Some(cursor) = fields.get("max-subscribers-per-address") {
        rules.max_subscribers = cursor.whole(report, 1, 65_535).map(|n| n as u32);
    }
    let Some(allocation) = allocation else { return rules };
    if let Some(cursor) = allocation.get("port-choice") {
        rules.keeps_port = cursor.choice(report, &["random", "preserve"], &[]) == Some("preserve");
    }
    let mut flag = |key: &str, default: bool| {
        allocation.get(key).and_then(|c| c.flag(report)).unwrap_or(default)
    };
    rules.keeps_parity = flag("keep-parity", false);
    rules.keeps_range = flag("keep-range", false);
    rules.holds_closed_tcp = flag("hold-closed-tcp", true);
    if let Some(cursor) = allocation.get("max-held") {
        rules.max_held = cursor.whole(report, 1, 65_535).map(|n| n as u16);
    }
    rules
}

fn address_selection(report: &mut Report<'_>, fields: &Fields<'_>) -> AddressSelection {
    const WORDS: [&str; 5] = ["random", "round-robin", "least-used", "fill", "subscriber-bits"];
    let cursor = fields.get("address-selection");
    let word = cursor.and_then(|c| c.choice(report, &WORDS, &[]));
    let bits = fields.get("subscriber-bits");
    if word != Some("subscriber-bits") {
        if let Some(cursor) = bits {
            report.error(&cursor.head(), "this key needs `address-selection: subscriber-bits`");
        }
        return match word {
            Some("round-robin") => AddressSelection::RoundRobin,
            Some("least-used") => AddressSelection::LeastUsed,
            Some("fill") => AddressSelection::Fill,
            _ => AddressSelection::Random,
        };
    }
    let bits = fields.required(report, "subscriber-bits");
    let mask = bits.and_then(|c| c.parse(report, "a mask as in 0.0.0.31", scalar::address));
    AddressSelection::SubscriberBits(mask.map_or(0, u32::from))
}

/// Checks the selection against the number of addresses.
pub(super) fn check_addresses(
    report: &mut Report<'_>,
    fields: &Fields<'_>,
    rules: &PoolRules,
    addresses: u64,
) {
    if let AddressSelection::SubscriberBits(mask) = rules.address_selection {
        if let Some(cursor) = fields.get("subscriber-bits")
            && addresses > 0
            && 1 << mask.count_ones() != addresses
        {
            let message = format!(
                "{} bits tell {} subscribers apart and the pool has {addresses} addresses; expected \
                 as many",
                mask.count_ones(),
                1u64 << mask.count_ones()
            );
            report.error(cursor.at(), message);
        }
        return;
    }
    let looks_at_all = rules.address_selection != AddressSelection::Random;
    for (key, matters) in [
        ("address-selection", looks_at_all),
        ("max-subscribers-per-address", rules.max_subscribers.is_some()),
    ] {
        if let Some(cursor) = fields.get(key).filter(|_| matters && addresses > MAX_LOOKED_AT) {
            let message = format!(
                "this looks at every address for each new subscriber, and the pool has \
                 {addresses}; expected at most {MAX_LOOKED_AT}"
            );
            report.error(cursor.at(), message);
        }
    }
}

fn excluded(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Vec<Ports> {
    let items = cursor.items(report).unwrap_or_default();
    let expected = "a port or ports as in 5350-5351";
    let ranges = items.iter().filter_map(|c| c.located(report, expected, scalar::port_or_range));
    let mut ranges: Vec<Located<Ports>> = ranges.collect();
    ranges.sort_by_key(|range| range.value);
    for pair in ranges.windows(2) {
        if pair[1].value.0 <= pair[0].value.1 {
            let line = pair[0].at.place.line;
            let port = pair[1].value.0;
            report.error(&pair[1].at, format!("port {port} is excluded twice (line {line})"));
        }
    }
    ranges.into_iter().map(|range| range.value).collect()
}

/// What would make holes in the ranges of a deterministic pool, or cut across them.
pub(super) fn refuse(report: &mut Report<'_>, fields: &Fields<'_>, allocation: &Fields<'_>) {
    let of_pool = [
        "exclude-ports",
        "drain",
        "spare-addresses",
        "address-selection",
        "subscriber-bits",
        "max-subscribers-per-address",
    ];
    let cursors = of_pool.iter().filter_map(|key| fields.get(key));
    for cursor in cursors.chain(allocation.get("keep-range")) {
        report.error(&cursor.head(), "a deterministic pool has no such key");
    }
}

/// Checks the rules against the ports of the pool and the size of its blocks, which divides
/// them.
pub(super) fn check(
    report: &mut Report<'_>,
    fields: &Fields<'_>,
    allocation: Option<&Fields<'_>>,
    rules: &PoolRules,
    (ports, block_size, max_blocks): (Ports, u16, u8),
) {
    if let Some(cursor) = fields.get("exclude-ports") {
        excluded_inside(report, cursor.at(), rules, ports, block_size);
    }
    if rules.keeps_range
        && let Some(cursor) = allocation.and_then(|fields| fields.get("keep-range"))
    {
        let (first, last) = ports;
        if max_blocks < 2 {
            let message = "a subscriber needs a block on both sides of 1024; expected `max-blocks` \
                           of 2 or more";
            report.error(cursor.at(), message);
        } else if first >= FIRST_HIGH || last < FIRST_HIGH {
            let message = format!(
                "the ports {first}-{last} lie on one side of 1024; expected some on both, as in \
                 512-65535"
            );
            report.error(cursor.at(), message);
        } else if !(FIRST_HIGH - first).is_multiple_of(block_size) {
            let message = format!(
                "a block of {block_size} ports would lie on both sides of 1024; expected ports \
                 that begin a multiple of {block_size} below 1024"
            );
            report.error(cursor.at(), message);
        }
    }
}

/// Each excluded port is a port of the pool, and each block keeps one to give.
fn excluded_inside(
    report: &mut Report<'_>,
    at: &At,
    rules: &PoolRules,
    (first, last): Ports,
    block_size: u16,
) {
    let outside = |ports: &&Ports| ports.0 < first || ports.1 > last;
    if let Some((from, to)) = rules.exclude_ports.iter().find(outside) {
        let message = format!("{from}-{to} is not in {first}-{last}; expected ports of the pool");
        return report.error(at, message);
    }
    let mut block = u32::from(first);
    while block <= u32::from(last) {
        let end = block + u32::from(block_size) - 1;
        let inside = |(from, to): &Ports| {
            let (from, to) = (u32::from(*from).max(block), u32::from(*to).min(end));
            (to + 1).saturating_sub(from)
        };
        if rules.exclude_ports.iter().map(inside).sum::<u32>() >= u32::from(block_size) {
            let message =
                format!("no port of block {block}-{end} is left; exclude fewer, or narrow `ports`");
            return report.error(at, message);
        }
        block = end + 1;
    }
}
