//! `allocation` of a deterministic pool: a range for each subscriber, and overflow (RFC 7422).

use super::super::problem::Report;
use super::super::read::{Cursor, Fields, Located};
use super::super::{Mode, Overflow, ranges};
use super::pools::{self, BLOCK_SIZES, Draft};
use super::subscribers;

/// A range of fewer ports than this serves nobody.
const MIN_PORTS: u64 = 16;
const DEFAULT_BLOCK_SIZE: u16 = 64;
const DEFAULT_BLOCKS: u8 = 4;
const DEFAULT_HOLD_S: u32 = 120;
/// A subscriber record has room for eight blocks; the range is one of them.
const MAX_BLOCKS: u64 = 7;

/// Reads what only this mode has; `ports_known` unless the port range itself is wrong.
pub(super) fn read(
    report: &mut Report<'_>,
    fields: &Fields<'_>,
    draft: &mut Draft,
    ports_known: bool,
) {
    for (key, instead) in [
        ("block-size", "use `ports-per-subscriber`"),
        ("max-blocks", "it belongs under `overflow`"),
    ] {
        if let Some(cursor) = fields.get(key) {
            let message = format!("a deterministic pool has no such key; {instead}");
            report.error(&cursor.head(), message);
        }
    }
    draft.mode = Mode::Deterministic;
    draft.max_blocks = 1;
    // A port stays its subscriber's whatever becomes of our state (RFC 6888 REQ-8b).
    draft.hold_s = 0;
    if let Some(hold_s) = fields.get("hold").and_then(|c| pools::hold(report, c)) {
        draft.hold_s = hold_s;
    }
    let each = fields.required(report, "ports-per-subscriber").and_then(|c| {
        let value = c.whole(report, MIN_PORTS, 65_535)?;
        Some(Located { value, at: c.at().clone() })
    });
    let overflow = fields.get("overflow").and_then(|c| overflow(report, c, draft));
    let Some(each) = each.filter(|_| ports_known) else { return };
    let ports = draft.ports();
    let kept = overflow.as_ref().map_or(0, |overflow| u64::from(overflow.value.ports));
    if each.value + kept > ports {
        let (first, last) = draft.port_range();
        let message = match kept {
            0 => format!("{} is more than the {ports} ports of {first}-{last}", each.value),
            _ => format!(
                "{} and {kept} of overflow are more than the {ports} ports of {first}-{last}",
                each.value
            ),
        };
        return report.error(&each.at, message);
    }
    draft.block_size = each.value as u16;
    draft.overflow = overflow.map(|overflow| overflow.value);
    draft.ports_per_subscriber = Some(each);
}

fn overflow(
    report: &mut Report<'_>,
    cursor: &Cursor<'_>,
    draft: &mut Draft,
) -> Option<Located<Overflow>> {
    let fields = cursor.fields(report)?;
    let block_size = match fields.get("block-size") {
        None => Some(DEFAULT_BLOCK_SIZE),
        Some(cursor) => cursor.parse(report, "a block size", |text| {
            let sizes = BLOCK_SIZES.iter().find(|size| size.to_string() == text);
            sizes.copied().ok_or_else(|| {
                let shown = super::shown(text);
                format!("{shown} is no block size; expected 64, 128, 256, 512, 1024, 2048 or 4096")
            })
        }),
    };
    let max_blocks = fields.get("max-blocks").and_then(|c| c.whole(report, 1, MAX_BLOCKS));
    let hold_s = fields.get("hold").and_then(|c| pools::hold(report, c));
    let ports = fields.required(report, "ports")?;
    let at = ports.at().clone();
    let ports = ports.whole(report, u64::from(BLOCK_SIZES[0]), 65_535)? as u16;
    let block_size = block_size?;
    if block_size > ports {
        report.error(&at, format!("{ports} is less than one block of {block_size} ports"));
        return None;
    }
    draft.max_blocks = 1 + max_blocks.map_or(DEFAULT_BLOCKS, |blocks| blocks as u8);
    let hold_s = hold_s.unwrap_or(DEFAULT_HOLD_S);
    Some(Located { value: Overflow { ports, block_size, hold_s }, at })
}

/// Keys that only a deterministic pool has.
pub(super) fn refuse(report: &mut Report<'_>, fields: &Fields<'_>) {
    for key in ["ports-per-subscriber", "overflow"] {
        if let Some(cursor) = fields.get(key) {
            report.error(&cursor.head(), "this key needs `mode: deterministic`");
        }
    }
}

/// Each subscriber of a deterministic pool has a range.
pub(super) fn room(report: &mut Report<'_>, pools: &[Draft], groups: &[subscribers::Draft]) {
    for (i, pool) in pools.iter().enumerate() {
        let Some(each) = &pool.ports_per_subscriber else { continue };
        let of = |(n, g): (usize, &subscribers::Draft)| {
            let ranges: Vec<_> = g.ranges.iter().map(|range| (range.value, n)).collect();
            ranges.into_iter()
        };
        let pieces = ranges::by_group(groups.iter().enumerate().flat_map(of));
        let subscribers = ranges::count(&ranges::of(pieces, |group| groups[group].uses(i)));
        let (addresses, ports) = (pool.addresses(), pool.range_ports());
        let per_address = ports / each.value;
        if addresses == 0 || subscribers <= addresses * per_address {
            continue;
        }
        let needed = subscribers.div_ceil(per_address);
        let message = format!(
            "{subscribers} subscribers with {} ports each need {needed} addresses; the pool has \
             {addresses}, room for {}",
            each.value,
            addresses * per_address
        );
        let more = format!("{} more addresses", needed - addresses);
        let hint = match ports / subscribers.div_ceil(addresses) {
            fewer if fewer >= MIN_PORTS => format!("use {fewer}, or {more}"),
            _ => format!("expected {more}"),
        };
        report.error_with_hint(&each.at, message, hint);
    }
}
