//! `timeouts`: idle times in seconds, never below what the RFCs ask for.
//!
//! `lab.allow-short-timers` lifts these minimums to one second and nothing else.

use super::super::Timeouts;
use super::super::problem::Report;
use super::super::read::Cursor;
use super::super::scalar::{self, shown};

const MAX_S: u32 = 7 * 86_400;
/// RFC 1122 section 3.3.2 lets hosts wait this long for fragments.
const MAX_FRAGMENTS_S: u32 = 120;
/// Destination ports below this may have shorter UDP timers (RFC 4787 REQ-5a).
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// A lower bound and the clause it comes from.
#[derive(Debug, Clone, Copy)]
struct Least {
    seconds: u32,
    clause: &'static str,
}

const ESTABLISHED: Least = Least { seconds: 7440, clause: "RFC 5382 REQ-5" };
// RFC 7857 section 2.1 lets sites set less than four minutes here; 4 s is our own floor.
const OPENING: Least =
    Least { seconds: 4, clause: "RFC 7857 section 2.1 permits less than 4m; 4s is our own floor" };
const CLOSING: Least = Least { seconds: 240, clause: "RFC 5382 REQ-5" };
const RESET: Least = Least { seconds: 240, clause: "RFC 7857 section 2.2" };
const UDP: Least = Least { seconds: 120, clause: "RFC 4787 REQ-5" };
const UDP_KNOWN_PORT: Least = Least { seconds: 1, clause: "RFC 4787 REQ-5a" };
const UDP_OTHER_PORT: Least =
    Least { seconds: 120, clause: "RFC 4787 REQ-5a: only ports below 1024 may have less" };
const LABORATORY: Least = Least { seconds: 1, clause: "in a laboratory too" };
const FRAGMENTS: Least = Least { seconds: 2, clause: "RFC 6146 section 4" };
// No datagram of the last subscriber may be under way when a tuple passes to another.
const OTHER: Least = Least { seconds: 120, clause: "RFC 791, RFC 6864: identifications" };
const ICMP: Least = Least { seconds: 60, clause: "RFC 5508 REQ-2" };

/// Reads the section; what is absent or wrong gets its default.
pub(super) fn read(
    report: &mut Report<'_>,
    cursor: Option<&Cursor<'_>>,
    allows_short: bool,
) -> Timeouts {
    let mut timeouts = Timeouts {
        tcp_established_s: 7440,
        tcp_opening_s: 240,
        tcp_closing_s: 240,
        tcp_reset_s: 240,
        udp_s: 300,
        udp_by_port_s: Vec::new(),
        icmp_s: 60,
        other_s: 600,
    };
    let Some(fields) = cursor.and_then(|c| c.fields(report)) else { return timeouts };
    let time = |report: &mut Report<'_>, cursor: &Cursor<'_>, least: Least| {
        let least = if allows_short { LABORATORY } else { least };
        cursor.parse(report, "a duration as in 4m", |text| bounded(text, least))
    };
    if let Some(tcp) = fields.get("tcp").and_then(|c| c.fields(report)) {
        for (key, least, slot) in [
            ("established", ESTABLISHED, &mut timeouts.tcp_established_s),
            ("opening", OPENING, &mut timeouts.tcp_opening_s),
            ("closing", CLOSING, &mut timeouts.tcp_closing_s),
            ("reset", RESET, &mut timeouts.tcp_reset_s),
        ] {
            *slot = tcp.get(key).and_then(|c| time(report, c, least)).unwrap_or(*slot);
        }
    }
    let udp = fields.get("udp").and_then(|c| c.entries(report, "<port>"));
    for (key, cursor) in udp.unwrap_or_default() {
        if key.text == "default" {
            timeouts.udp_s = time(report, &cursor, UDP).unwrap_or(timeouts.udp_s);
            continue;
        }
        let port = scalar::whole(&key.text).and_then(|n| u16::try_from(n).ok());
        let Some(port) = port.filter(|port| *port > 0) else {
            report.error(&cursor.head(), "unknown key; expected default or a port, 1 to 65535");
            continue;
        };
        let is_known = port < FIRST_UNPRIVILEGED_PORT;
        let least = if is_known { UDP_KNOWN_PORT } else { UDP_OTHER_PORT };
        if let Some(seconds) = time(report, &cursor, least) {
            if timeouts.udp_by_port_s.iter().any(|(other, _)| *other == port) {
                report.error(&cursor.head(), format!("port {port} was already given"));
            }
            timeouts.udp_by_port_s.push((port, seconds));
        }
    }
    timeouts.udp_by_port_s.sort_unstable();
    if let Some(cursor) = fields.get("icmp") {
        timeouts.icmp_s = time(report, cursor, ICMP).unwrap_or(timeouts.icmp_s);
    }
    if let Some(cursor) = fields.get("other") {
        timeouts.other_s = time(report, cursor, OTHER).unwrap_or(timeouts.other_s);
    }
    timeouts
}

/// `nat44.fragments.timeout`.
pub(super) fn fragments(
    report: &mut Report<'_>,
    cursor: &Cursor<'_>,
    allows_short: bool,
) -> Option<u32> {
    let least = if allows_short { LABORATORY } else { FRAGMENTS };
    cursor.parse(report, "a duration as in 2s", |text| match bounded(text, least)? {
        seconds if seconds > MAX_FRAGMENTS_S => {
            Err(format!("{} is too long; expected at most 2m", shown(text)))
        }
        seconds => Ok(seconds),
    })
}

fn bounded(text: &str, least: Least) -> Result<u32, String> {
    let seconds = scalar::duration(text)?;
    if seconds < least.seconds {
        let floor = scalar::written(least.seconds);
        let clause = least.clause;
        return Err(format!("{} is too short; expected at least {floor} ({clause})", shown(text)));
    }
    if seconds > MAX_S {
        return Err(format!("{} is too long; expected at most 7d", shown(text)));
    }
    Ok(seconds)
}
