//! `port-overloading`, in `nat44` and in a pool.

use super::super::Overloading;
use super::super::problem::Report;
use super::super::read::{Cursor, Located};
use super::super::scalar::{self, shown};

/// Ports of FTP and TFTP (TCP or not, and the port): their servers open or answer from another
/// port, and the host must be the same there.
const OF_ALGS: [(bool, u16); 3] = [(true, 20), (true, 21), (false, 69)];

/// Entries of one list.
const MOST: usize = 64;
const EXPECTED: &str = "a protocol and destination port as in tcp/443";

/// Reads a list; an empty one overloads nothing.
pub(super) fn read(report: &mut Report<'_>, cursor: Option<&Cursor<'_>>) -> Option<Overloading> {
    let cursor = cursor?;
    let mut overloading = Overloading::default();
    let items = cursor.items(report)?;
    if items.len() > MOST {
        let message = format!("this lists {}; expected at most {MOST}", items.len());
        report.error(&cursor.head(), message);
    }
    for item in &items {
        let Some(Located { value, at }) = item.located(report, EXPECTED, named) else { continue };
        if OF_ALGS.contains(&value) {
            report.error(&at, "FTP and TFTP use further ports, so theirs cannot be overloaded");
        }
        let ports = if value.0 { &mut overloading.tcp } else { &mut overloading.udp };
        match ports.binary_search(&value.1) {
            Ok(_) => report.error(&at, "it is listed twice"),
            Err(place) => ports.insert(place, value.1),
        }
    }
    Some(overloading)
}

/// Whether it is of TCP, and the port.
fn named(text: &str) -> Result<(bool, u16), String> {
    let port = |text: &str| scalar::whole(text).and_then(|n| u16::try_from(n).ok());
    let port = |text: &str| port(text).filter(|port| *port > 0);
    match text.split_once('/') {
        Some(("tcp", number)) => port(number).map(|port| (true, port)),
        Some(("udp", number)) => port(number).map(|port| (false, port)),
        _ => None,
    }
    .ok_or_else(|| format!("{} cannot be overloaded; expected {EXPECTED}", shown(text)))
}
