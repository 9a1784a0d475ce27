//! `filtering`: one word for all protocols, or one for each, in `nat44` and in a pool.

use super::super::Filtering;
use super::super::problem::Report;
use super::super::read::Cursor;

/// What is given, by protocol: TCP, UDP, ICMP.
pub(super) type Given = [Option<Filtering>; 3];

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "icmp"];

const WORDS: [(&str, Filtering); 3] = [
    ("endpoint-independent", Filtering::EndpointIndependent),
    ("address-dependent", Filtering::AddressDependent),
    ("address-and-port-dependent", Filtering::AddressAndPortDependent),
];

/// Reads it; what is absent or wrong is `None`.
pub(super) fn read(report: &mut Report<'_>, cursor: Option<&Cursor<'_>>) -> Given {
    let Some(cursor) = cursor else { return [None; 3] };
    if !cursor.is_map() {
        return [word(report, cursor); 3];
    }
    let Some(fields) = cursor.fields(report) else { return [None; 3] };
    PROTOCOLS.map(|protocol| fields.get(protocol).and_then(|cursor| word(report, cursor)))
}

fn word(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Option<Filtering> {
    let chosen = cursor.choice(report, &WORDS.map(|(word, _)| word), &[])?;
    WORDS.iter().find(|(word, _)| *word == chosen).map(|(_, filtering)| *filtering)
}
