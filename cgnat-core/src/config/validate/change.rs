//! What lets a pool change while the box runs: `drain` and `spare-addresses`.

use super::super::pool_rules::AddressSelection;
use super::super::problem::Report;
use super::super::read::Fields;
use super::pools::{self, Draft};

/// Addresses that may be added to a pool unless it says otherwise.
const SPARE: u32 = 4;

/// The most of them.
const MAX_SPARE: u64 = 4096;

/// Reads both; the addresses of the pool are known. A deterministic pool has neither.
pub(super) fn read(report: &mut Report<'_>, fields: &Fields<'_>, draft: &mut Draft) {
    if let AddressSelection::SubscriberBits(_) = draft.rules.address_selection() {
        let keys = ["drain", "spare-addresses"];
        for cursor in keys.iter().filter_map(|key| fields.get(key)) {
            let message = "a pool with `subscriber-bits` has no such key; its subscribers can have \
                           no other address";
            report.error(&cursor.head(), message);
        }
        return;
    }
    let spare = fields.get("spare-addresses").and_then(|c| c.whole(report, 0, MAX_SPARE));
    draft.spare_addresses = spare.map_or(SPARE, |n| n as u32);
    let Some(cursor) = fields.get("drain") else { return };
    let drain = pools::ranges(report, cursor);
    pools::check_inside(report, &draft.ranges, &drain);
    let left = pools::subtract(&draft.ranges, &drain);
    if left.is_empty() && !draft.ranges.is_empty() {
        let message = "every address of this pool is drained; new subscribers are refused";
        report.warning(&cursor.head(), message);
    }
    draft.drain = drain;
}
