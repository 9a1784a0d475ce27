//! `nat44.on-refusal`, `nat44.icmp-errors`, `nat44.unsolicited-syn`: what the box itself tells
//! by ICMP; and the clamp of segment sizes, which spares it telling.

use super::super::problem::Report;
use super::super::read::{Cursor, Fields};
use super::super::scalar::{self, shown};
use super::super::{MOST_MTU, OnRefusal, OwnErrors};

const MAX_PER_RECEIVER: u64 = 10_000;
const MAX_IN_ALL: u64 = 1_000_000;

/// A host that is told nothing sends segments of 536 bytes (RFC 9293 section 3.7.1); a clamp
/// below it would be without effect on one that offers nothing.
const LEAST_SEGMENT: u64 = 536;
/// A segment and its headers of 20 bytes each fill the largest packet.
const MOST_SEGMENT: u64 = MOST_MTU as u64 - 40;

/// Reads the keys; `nat44` are those of the section, if it is there.
pub(super) fn read(report: &mut Report<'_>, nat44: Option<&Fields<'_>>) -> OwnErrors {
    let mut rules = OwnErrors {
        on_refusal: OnRefusal::HostUnreachable,
        to_internal: true,
        to_external: true,
        per_receiver: 20,
        in_all: 1_000,
        answers_unsolicited_syns: false,
    };
    let Some(nat44) = nat44 else { return rules };
    let silent = nat44.get("on-refusal").and_then(|c| c.choice(report, &["icmp", "silent"], &[]));
    if let Some(fields) = nat44.get("icmp-errors").and_then(|c| c.fields(report)) {
        let flag = |report: &mut Report<'_>, key: &str| {
            fields.get(key).and_then(|c| c.flag(report)).unwrap_or(true)
        };
        rules.to_internal = flag(report, "to-internal");
        rules.to_external = flag(report, "to-external");
        for (key, most, slot) in [
            ("per-receiver", MAX_PER_RECEIVER, &mut rules.per_receiver),
            ("in-all", MAX_IN_ALL, &mut rules.in_all),
        ] {
            let given = fields.get(key).and_then(|c| c.whole(report, 1, most));
            *slot = given.map_or(*slot, |n| n as u32);
        }
        let words = ["host-unreachable", "admin-prohibited"];
        if let Some(cursor) = fields.get("refusal")
            && cursor.choice(report, &words, &[]) == Some("admin-prohibited")
        {
            rules.on_refusal = OnRefusal::AdminProhibited;
        }
    }
    if silent == Some("silent") {
        rules.on_refusal = OnRefusal::Silent;
    }
    if let Some(cursor) = nat44.get("unsolicited-syn") {
        let chosen = cursor.choice(report, &["silent", "port-unreachable"], &[]);
        rules.answers_unsolicited_syns = chosen == Some("port-unreachable");
        if rules.answers_unsolicited_syns && !rules.to_external {
            report.warning(cursor.at(), "without effect: `icmp-errors.to-external` is false");
        }
    }
    rules
}

/// Reads `tcp-mss-clamp` among the keys of a section: `None` if it is absent or wrong, else
/// the clamp, or none.
pub(super) fn mss_clamp(
    report: &mut Report<'_>,
    cursor: Option<&Cursor<'_>>,
) -> Option<Option<u16>> {
    cursor?.parse(report, "bytes of a segment, or off", |text| match scalar::whole(text) {
        _ if text == "off" => Ok(None),
        Some(n) if (LEAST_SEGMENT..=MOST_SEGMENT).contains(&n) => Ok(Some(n as u16)),
        _ => Err(format!(
            "{} is no segment size; expected {LEAST_SEGMENT} to {MOST_SEGMENT}, or off",
            shown(text)
        )),
    })
}
