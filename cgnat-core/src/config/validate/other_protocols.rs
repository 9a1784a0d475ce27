//! `nat44.other-protocols`: what is neither TCP, UDP nor ICMP is dropped or carried.

use super::super::OtherProtocols;
use super::super::problem::Report;
use super::super::read::{Cursor, Fields};
use super::super::scalar::{self, shown};
use crate::endpoint::IpProtocol;

/// Reads the key; `nat44` are those of the section, if it is there.
pub(super) fn read(report: &mut Report<'_>, nat44: Option<&Fields<'_>>) -> OtherProtocols {
    let mut protocols = OtherProtocols::default();
    let cursor = nat44.and_then(|fields| fields.get("other-protocols"));
    let entries = cursor.and_then(|c| c.entries(report, "<protocol>"));
    for (key, cursor) in entries.unwrap_or_default() {
        let carries = cursor.choice(report, &["carry", "drop"], &[]).map(|word| word == "carry");
        if key.text == "default" {
            protocols.rest = carries.unwrap_or(false);
            continue;
        }
        match protocol(&key.text) {
            Err(message) => report.error(&cursor.head(), message),
            Ok(number) if protocols.named.iter().any(|(other, _)| *other == number) => {
                let name = IpProtocol(number);
                report.error(&cursor.head(), format!("protocol {name} was already given"));
            }
            Ok(number) => {
                refuse_ah(report, &cursor, number, carries);
                protocols.named.push((number, carries.unwrap_or(false)));
            }
        }
    }
    protocols.named.sort_unstable();
    protocols
}

/// RFC 3715 section 2.1: the addresses are part of what AH authenticates.
fn refuse_ah(report: &mut Report<'_>, cursor: &Cursor<'_>, number: u8, carries: Option<bool>) {
    if IpProtocol(number) == IpProtocol::AH && carries == Some(true) {
        report.error(
            cursor.at(),
            "AH cannot pass a NAT, because it authenticates the addresses; expected drop, or a \
             rule of nat44.bypass",
        );
    }
}

fn protocol(text: &str) -> Result<u8, String> {
    let number = match IpProtocol::named(text) {
        Some(protocol) => Some(protocol.0),
        None => scalar::whole(text).and_then(|n| u8::try_from(n).ok()),
    };
    let Some(number) = number else {
        return Err(format!(
            "{} is no protocol; expected gre, esp, sctp, dccp, udp-lite, a number from 0 to 255, \
             or default",
            shown(text)
        ));
    };
    match IpProtocol(number).has_mappings() {
        true => Err(format!("{} is always translated, by its ports", IpProtocol(number))),
        false => Ok(number),
    }
}
