//! `subscribers[].limits`: what one subscriber may take.

use super::super::limits::{Limits, NewSessions, Reserved};
use super::super::problem::Report;
use super::super::read::{Cursor, Fields, Located};
use super::super::scalar::{self, shown};
use super::pools;

/// Of ports and sessions.
const MOST: u64 = 1_000_000;
/// Of one protocol: no subscriber has more than one address has ports.
const MOST_OF_PROTOCOL: u64 = 65_535;
/// A mapping counts its sessions in 16 bits.
const MOST_OF_MAPPING: u64 = 60_000;
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "icmp"];
/// Entries of `reserved.for`.
const MOST_LIFELINES: usize = 64;

/// Reads the section of a group that takes its ports from pools by these `realms`; of a box with
/// room for `max_datagrams` in fragments.
pub(super) fn read(
    report: &mut Report<'_>,
    cursor: Option<&Cursor<'_>>,
    pools: &[pools::Draft],
    realms: &[Vec<usize>],
    max_datagrams: u32,
) -> Limits {
    let mut limits = Limits::default();
    let Some(fields) = cursor.and_then(|c| c.fields(report)) else { return limits };
    if let Some(cursor) = fields.get("ports") {
        if cursor.is_map() {
            let protocols = cursor.fields(report);
            for (name, slot) in PROTOCOLS.into_iter().zip(&mut limits.ports_by_protocol) {
                let given = protocols.as_ref().and_then(|fields| fields.get(name));
                let most = given.and_then(|c| c.whole(report, 1, MOST_OF_PROTOCOL));
                *slot = most.map(|n| n as u32);
            }
        } else {
            limits.ports = cursor.whole(report, 1, MOST).map(|n| n as u32);
        }
    }
    let number = |report: &mut Report<'_>, key: &str| {
        fields.get(key).and_then(|c| c.whole(report, 1, MOST)).map(|n| n as u32)
    };
    limits.sessions = number(report, "sessions");
    limits.inbound_sessions = number(report, "inbound-sessions");
    limits.sessions_per_destination = number(report, "sessions-per-destination");
    sessions_of_mapping(report, &fields, &mut limits);
    limits.fragments = fields.get("fragments").and_then(|c| fragments(report, c, max_datagrams));
    limits.new_sessions =
        fields.get("new-sessions-per-second").and_then(|c| new_sessions(report, c));
    let lists = realms.iter().map(|list| list.iter().map(|pool| &pools[*pool]).collect());
    let lists: Vec<Vec<&pools::Draft>> = lists.collect();
    limits.blocks = fields.get("blocks").and_then(|c| blocks(report, c, &lists));
    if let Some(cursor) = fields.get("reserved") {
        limits.reserved = reserved(report, cursor, &lists, &limits);
    }
    limits
}

fn fragments(report: &mut Report<'_>, cursor: &Cursor<'_>, max_datagrams: u32) -> Option<u32> {
    let most = cursor.whole(report, 1, MOST)?;
    if most > u64::from(max_datagrams) {
        let message =
            format!("{most} is more than `nat44.fragments.max-datagrams`, {max_datagrams}");
        report.error(cursor.at(), message);
    }
    Some(most as u32)
}

fn sessions_of_mapping(report: &mut Report<'_>, fields: &Fields<'_>, limits: &mut Limits) {
    if let Some(cursor) = fields.get("sessions-per-mapping") {
        let Some(most) = cursor.whole(report, 1, MOST_OF_MAPPING) else { return };
        limits.sessions_per_mapping = most as u32;
    }
    let most = limits.sessions_per_mapping;
    let Some(cursor) = fields.get("inbound-sessions-per-mapping") else {
        limits.inbound_sessions_per_mapping = limits.inbound_sessions_per_mapping.min(most);
        return;
    };
    let Some(inbound) = cursor.whole(report, 1, MOST_OF_MAPPING) else { return };
    limits.inbound_sessions_per_mapping = inbound as u32;
    if inbound > u64::from(most) {
        let message = format!("{inbound} is more than `sessions-per-mapping`, {most}");
        report.error(cursor.at(), message);
    }
}

fn new_sessions(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Option<NewSessions> {
    if !cursor.is_map() {
        let rate = cursor.whole(report, 1, MOST)? as u32;
        return Some(NewSessions { rate, burst: rate });
    }
    let fields = cursor.fields(report)?;
    let rate = fields.required(report, "rate").and_then(|c| c.whole(report, 1, MOST))? as u32;
    let Some(cursor) = fields.get("burst") else { return Some(NewSessions { rate, burst: rate }) };
    let burst = cursor.whole(report, 1, MOST)? as u32;
    // Tokens come every 100 ms; a smaller bucket would spill some.
    if burst < rate.div_ceil(10) {
        let message =
            format!("{burst} is too few; expected a tenth of the rate, {}", rate.div_ceil(10));
        report.error(cursor.at(), message);
    }
    Some(NewSessions { rate, burst })
}

fn blocks(
    report: &mut Report<'_>,
    cursor: &Cursor<'_>,
    lists: &[Vec<&pools::Draft>],
) -> Option<u8> {
    // Of each list the pool that gives most.
    let most_of =
        |list: &Vec<&pools::Draft>| list.iter().map(|pool| u64::from(pool.max_blocks)).max();
    let most = lists.iter().filter_map(most_of).sum();
    let blocks = cursor.whole(report, 1, u64::from(u8::MAX))?;
    if blocks > most && !lists.is_empty() {
        let pools =
            if lists.len() > 1 { "the pools' `max-blocks`" } else { "the pool's `max-blocks`" };
        let message = format!("{blocks} is more than {pools}, {most}");
        report.error(cursor.at(), message);
        return None;
    }
    if blocks < lists.len() as u64 {
        let message = format!(
            "{blocks} is too few: a subscriber needs a block for each list of pools that its \
             destinations choose; expected at least {}",
            lists.len()
        );
        report.error(cursor.at(), message);
        return None;
    }
    Some(blocks as u8)
}

fn reserved(
    report: &mut Report<'_>,
    cursor: &Cursor<'_>,
    lists: &[Vec<&pools::Draft>],
    limits: &Limits,
) -> Reserved {
    let mut reserved = Reserved::default();
    let Some(fields) = cursor.fields(report) else { return reserved };
    let ports = fields.required(report, "ports");
    if let Some(list) = fields.required(report, "for") {
        lifelines(report, list, &mut reserved);
    }
    let Some(cursor) = ports else { return reserved };
    let Some(ports) = cursor.whole(report, 1, 4095) else { return reserved };
    reserved.ports = ports as u16;
    // As many as there are would leave nothing for other flows.
    let listed = [!reserved.tcp.is_empty(), !reserved.udp.is_empty(), reserved.icmp];
    let by_protocol = limits.ports_by_protocol.into_iter().zip(PROTOCOLS).zip(listed);
    let limited = by_protocol.filter(|(_, listed)| *listed);
    let limited = limited.filter_map(|((most, name), _)| {
        Some((u64::from(most?), format!("of `limits.ports.{name}`")))
    });
    let all = limits.ports.map(|most| (u64::from(most), "of `limits.ports`".to_owned()));
    let smallest = lists.iter().flatten().map(|pool| {
        let overflow = pool.overflow.as_ref().map_or(u16::MAX, |overflow| overflow.block_size);
        u64::from(pool.block_size.min(overflow))
    });
    let block = smallest.min().map(|smallest| (smallest, "of a block".to_owned()));
    if let Some((most, what)) = block.into_iter().chain(all).chain(limited).find(|of| ports >= of.0)
    {
        let message = format!("{ports} of the {most} ports {what} leave none for other flows");
        report.error(cursor.at(), message);
    }
    reserved
}

fn lifelines(report: &mut Report<'_>, list: &Cursor<'_>, reserved: &mut Reserved) {
    let Some(items) = list.items(report) else { return };
    if items.is_empty() || items.len() > MOST_LIFELINES {
        let message = format!("this lists {}; expected 1 to {MOST_LIFELINES}", items.len());
        report.error(&list.head(), message);
    }
    for item in &items {
        let Some(Located { value, at }) = item.located(report, LIFELINE, lifeline) else {
            continue;
        };
        let repeated = match value {
            Lifeline::Tcp(port) => insert(&mut reserved.tcp, port),
            Lifeline::Udp(port) => insert(&mut reserved.udp, port),
            Lifeline::Icmp => std::mem::replace(&mut reserved.icmp, true),
        };
        if repeated {
            report.error(&at, "it is listed twice");
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Lifeline {
    Tcp(u16),
    Udp(u16),
    Icmp,
}

const LIFELINE: &str = "a protocol and port as in tcp/443, or icmp";

fn lifeline(text: &str) -> Result<Lifeline, String> {
    let port = |text: &str| scalar::whole(text).and_then(|n| u16::try_from(n).ok());
    let port = |text: &str| port(text).filter(|port| *port > 0);
    match text.split_once('/') {
        Some(("tcp", number)) => port(number).map(Lifeline::Tcp),
        Some(("udp", number)) => port(number).map(Lifeline::Udp),
        None if text == "icmp" => Some(Lifeline::Icmp),
        _ => None,
    }
    .ok_or_else(|| format!("{} is no lifeline; expected {LIFELINE}", shown(text)))
}

/// Inserts in order; says whether it was there.
fn insert(ports: &mut Vec<u16>, port: u16) -> bool {
    match ports.binary_search(&port) {
        Ok(_) => true,
        Err(place) => {
            ports.insert(place, port);
            false
        }
    }
}
