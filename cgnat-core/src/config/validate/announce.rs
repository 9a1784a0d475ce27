//! `announce`: which port carries the routes, and how long is waited.

use super::super::problem::Report;
use super::super::read::{Cursor, Located};
use super::super::scalar::{self, shown};
use super::super::{Announce, Config, Side};
use super::{ports, unknown_name};

/// Longest wait, seconds.
const LONGEST_S: u32 = 300;

/// Most prefixes: each is a route of the kernel and of every neighbour.
const MOST_PREFIXES: usize = 1024;

const DELAY_S: u32 = 2;
const WITHDRAW_DELAY_S: u32 = 5;

/// Reads the section; `None` if it has no port that can carry the routes, which was reported.
pub(super) fn read(
    report: &mut Report<'_>,
    cursor: &Cursor<'_>,
    ports: &[ports::Draft],
) -> Option<Announce> {
    let fields = cursor.fields(report)?;
    let mut seconds = |key: &str, default| {
        let read = fields.get(key).and_then(|c| c.parse(report, "a duration as in 5s", bounded));
        read.unwrap_or(default)
    };
    let delay_s = seconds("delay", DELAY_S);
    let withdraw_delay_s = seconds("withdraw-delay", WITHDRAW_DELAY_S);
    let port = fields
        .required(report, "port")
        .and_then(|c| c.located(report, "the name of a port", |text| Ok(text.to_owned())))?;
    let port = carrier(report, &port, ports)?;
    Some(Announce { port, delay_s, withdraw_delay_s })
}

fn carrier(
    report: &mut Report<'_>,
    Located { value, at }: &Located<String>,
    ports: &[ports::Draft],
) -> Option<usize> {
    let Some(found) = ports.iter().position(|port| port.name.value == *value) else {
        // Without any port that is the problem, and it is reported there.
        if !ports.is_empty() {
            let names = ports.iter().map(|port| port.name.value.as_str());
            report.error(at, unknown_name("port", value, names));
        }
        return None;
    };
    let port = &ports[found];
    let message = if port.side == Some(Side::Internal) {
        "an internal port; expected one towards the Internet"
    } else if port.kernel_interface.is_none() {
        "a port without `kernel-interface`, where the routes would lie; expected one that has it"
    } else {
        return Some(found);
    };
    report.error(at, format!("{} is {message}", shown(value)));
    None
}

fn bounded(text: &str) -> Result<u32, String> {
    match scalar::duration(text)? {
        seconds if seconds > LONGEST_S => {
            Err(format!("{} is too long; expected at most 5m", shown(text)))
        }
        seconds => Ok(seconds),
    }
}

/// Too many prefixes are refused, not cut.
pub(super) fn check(report: &mut Report<'_>, cursor: Option<&Cursor<'_>>, config: &Config) {
    let Some(cursor) = cursor else { return };
    let count = config.external_prefixes().len();
    if count > MOST_PREFIXES {
        let message = format!(
            "the external addresses of pools and static mappings make {count} prefixes; expected at \
             most {MOST_PREFIXES}: choose ranges that fill prefixes"
        );
        report.error(&cursor.head(), message);
    }
}
