//! `pools`: external addresses and how their ports are lent.

use std::net::Ipv4Addr;

use super::super::pool_rules::PoolRules;
use super::super::problem::Report;
use super::super::read::{Cursor, Fields, Located};
use super::super::scalar::{self, shown};
use super::super::{Mode, Overflow, Overloading, Pool};
use super::{
    Nat44, Range, change, deterministic, filtering, overloading, own_errors, pool_rules, written,
};

const MAX_ADDRESSES: u64 = 65_536;
const MAX_BLOCKS: u64 = 4_194_304;
pub(super) const BLOCK_SIZES: [u16; 7] = [64, 128, 256, 512, 1024, 2048, 4096];
const MAX_HOLD_S: u32 = 3600;

/// What could be read of one pool.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: Located<String>,
    /// What remains after exclusions, in pieces; each with the place of its entry.
    pub(super) ranges: Vec<Located<Range>>,
    first_port: u16,
    last_port: u16,
    pub(super) mode: Mode,
    pub(super) block_size: u16,
    pub(super) max_blocks: u8,
    pub(super) hold_s: u32,
    pub(super) overflow: Option<Overflow>,
    filtering: filtering::Given,
    /// `None`: as `nat44` says.
    overloading: Option<Overloading>,
    /// `None`: as `nat44` says.
    mss_clamp: Option<Option<u16>>,
    pub(super) rules: PoolRules,
    pub(super) drain: Vec<Located<Range>>,
    pub(super) spare_addresses: u32,
    /// Of a deterministic pool, if it is right.
    pub(super) ports_per_subscriber: Option<Located<u64>>,
}

impl Draft {
    /// The validated pool; `default` is what `nat44` says, `mss_clamp` its clamp.
    pub(super) fn finish(self, default: &Nat44, mss_clamp: Option<u16>) -> Pool {
        let mut addresses: Vec<Ipv4Addr> = Vec::with_capacity(self.addresses() as usize);
        for range in &self.ranges {
            let (first, last) = range.value;
            addresses.extend((u32::from(first)..=u32::from(last)).map(Ipv4Addr::from));
        }
        addresses.sort_unstable();
        let mut drain: Vec<Range> = self.drain.iter().map(|range| range.value).collect();
        drain.sort_unstable();
        // Each reaches as far as any before it, so the last that begins before an address tells.
        let mut reach = Ipv4Addr::UNSPECIFIED;
        for range in &mut drain {
            reach = reach.max(range.1);
            range.1 = reach;
        }
        let drained = |address: &&Ipv4Addr| {
            let after = drain.partition_point(|range| range.0 <= **address);
            drain[..after].last().is_some_and(|range| **address <= range.1)
        };
        Pool {
            name: self.name.value,
            drain: addresses.iter().filter(drained).copied().collect(),
            spare_addresses: self.spare_addresses,
            addresses,
            first_port: self.first_port,
            last_port: self.last_port,
            mode: self.mode,
            block_size: self.block_size,
            max_blocks: self.max_blocks,
            hold_s: self.hold_s,
            overflow: self.overflow,
            filtering: std::array::from_fn(|protocol| {
                self.filtering[protocol].or(default.filtering[protocol]).unwrap_or_default()
            }),
            overloading: self.overloading.unwrap_or_else(|| default.overloading.clone()),
            mss_clamp: self.mss_clamp.unwrap_or(mss_clamp),
            rules: self.rules,
        }
    }

    /// Addresses after exclusions.
    pub(super) fn addresses(&self) -> u64 {
        self.ranges.iter().map(|r| size(r.value)).sum()
    }

    /// Ports of one address that may be lent.
    pub(super) fn ports(&self) -> u64 {
        u64::from(self.last_port) - u64::from(self.first_port) + 1
    }

    /// First and last port that may be lent.
    pub(super) fn port_range(&self) -> (u16, u16) {
        (self.first_port, self.last_port)
    }

    /// Ports of one address that are not kept for overflow.
    pub(super) fn range_ports(&self) -> u64 {
        self.ports() - self.overflow.map_or(0, |overflow| u64::from(overflow.ports))
    }

    fn blocks(&self) -> u64 {
        let of_ranges = self.range_ports() / u64::from(self.block_size);
        let of_overflow = self.overflow.map_or(0, |overflow| {
            let rest = self.ports() - of_ranges * u64::from(self.block_size);
            rest / u64::from(overflow.block_size)
        });
        self.addresses() * (of_ranges + of_overflow)
    }
}

fn size(range: Range) -> u64 {
    u64::from(u32::from(range.1)) - u64::from(u32::from(range.0)) + 1
}

/// Reads all pools.
pub(super) fn read(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Vec<Draft> {
    let entries = cursor.entries(report, "<name>").unwrap_or_default();
    if entries.is_empty() {
        report.error(&cursor.head(), "there is no pool; expected at least one");
    }
    let mut pools: Vec<Draft> = Vec::new();
    for (key, cursor) in entries {
        if let Err(message) = scalar::name(&key.text) {
            report.error(&cursor.head(), message);
        }
        let name = Located { value: key.text.clone(), at: cursor.head() };
        let Some(fields) = cursor.fields(report) else { continue };
        pools.push(pool(report, name, &fields));
    }
    limit(report, &pools, "addresses", MAX_ADDRESSES, Draft::addresses);
    limit(report, &pools, "port blocks", MAX_BLOCKS, Draft::blocks);
    pools
}

/// Reports the pool with which the sum of all goes over `most`.
fn limit(
    report: &mut Report<'_>,
    pools: &[Draft],
    what: &str,
    most: u64,
    count: fn(&Draft) -> u64,
) {
    let mut sum = 0;
    for pool in pools {
        sum += count(pool);
        if sum > most {
            let message = format!("with this pool there are {sum} {what}; expected at most {most}");
            return report.error(&pool.name.at, message);
        }
    }
}

fn pool(report: &mut Report<'_>, name: Located<String>, fields: &Fields<'_>) -> Draft {
    let listed = fields.required(report, "addresses").map(|c| ranges(report, c));
    let excluded = fields.get("exclude").map(|c| ranges(report, c)).unwrap_or_default();
    let remaining = listed.map(|listed| {
        check_inside(report, &listed, &excluded);
        let remaining = subtract(&listed, &excluded);
        if remaining.is_empty() && !listed.is_empty() {
            report
                .error(&name.at, "every address of this pool is excluded; expected one to remain");
        }
        remaining
    });
    let range = fields.get("ports").map_or(Some((1024, 65535)), |c| {
        c.parse(report, "ports as in 1024-65535", scalar::port_range)
    });
    if let Some(cursor) = fields.get("pooling") {
        cursor.choice(report, &["paired"], &["arbitrary"]);
    }
    let (first_port, last_port) = range.unwrap_or((1024, 65535));
    let mut draft = Draft {
        name,
        ranges: remaining.unwrap_or_default(),
        first_port,
        last_port,
        mode: Mode::PortBlock,
        block_size: 512,
        max_blocks: 4,
        hold_s: 120,
        overflow: None,
        filtering: filtering::read(report, fields.get("filtering")),
        overloading: overloading::read(report, fields.get("port-overloading")),
        mss_clamp: own_errors::mss_clamp(report, fields.get("tcp-mss-clamp")),
        rules: PoolRules::default(),
        drain: Vec::new(),
        spare_addresses: 0,
        ports_per_subscriber: None,
    };
    let allocation = fields.get("allocation").and_then(|c| c.fields(report));
    draft.rules = pool_rules::read(report, fields, allocation.as_ref());
    pool_rules::check_addresses(report, fields, &draft.rules, draft.addresses());
    change::read(report, fields, &mut draft);
    let mode = allocation.as_ref().and_then(|f| f.get("mode"));
    let mode = mode.map(|c| c.choice(report, &["port-block", "deterministic"], &["per-session"]));
    if let (Some(Some("deterministic")), Some(allocation)) = (mode, &allocation) {
        pool_rules::refuse(report, fields, allocation);
        (draft.drain, draft.spare_addresses) = (Vec::new(), 0);
        deterministic::read(report, allocation, &mut draft, range.is_some());
        return draft;
    }
    if let (None | Some(Some(_)), Some(allocation)) = (mode, &allocation) {
        deterministic::refuse(report, allocation);
    }
    let block_size = allocation.as_ref().and_then(|f| f.get("block-size"));
    if let Some(allocation) = &allocation {
        read_allocation(report, allocation, &mut draft);
    }
    let size = block_size.map_or(Some(512), |c| c.whole(report, 1, 65_535).map(|n| n as u16));
    if let (Some(size), Some(range)) = (size, range) {
        let at = block_size.map_or_else(|| fields.at().clone(), |c| c.at().clone());
        match check_block_size(size, range) {
            Ok(()) => {
                draft.block_size = size;
                let geometry = (range, size, draft.max_blocks);
                pool_rules::check(report, fields, allocation.as_ref(), &draft.rules, geometry);
            }
            Err((message, hint)) => report.error_with_hint(&at, message, hint),
        }
    }
    draft
}

fn read_allocation(report: &mut Report<'_>, fields: &Fields<'_>, draft: &mut Draft) {
    if let Some(n) = fields.get("max-blocks").and_then(|c| c.whole(report, 1, 8)) {
        draft.max_blocks = n as u8;
    }
    if let Some(hold_s) = fields.get("hold").and_then(|c| hold(report, c)) {
        draft.hold_s = hold_s;
    }
}

/// A `hold`: seconds that a freed port rests.
pub(super) fn hold(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Option<u32> {
    cursor.parse(report, "a duration as in 2m", |text| {
        let seconds = scalar::duration(text)?;
        if seconds > MAX_HOLD_S {
            return Err(format!("{} is too long; expected 0s to 1h", shown(text)));
        }
        Ok(seconds)
    })
}

/// Whether blocks of `size` fill the range; the message, and what to write instead.
fn check_block_size(size: u16, (first, last): (u16, u16)) -> Result<(), (String, String)> {
    let ports = u32::from(last) - u32::from(first) + 1;
    let fills = |size: u16| ports.is_multiple_of(u32::from(size));
    let known = BLOCK_SIZES.contains(&size);
    if known && fills(size) {
        return Ok(());
    }
    let message = if !size.is_power_of_two() {
        format!("{size} is not a power of two; expected 64, 128, 256, 512, 1024, 2048 or 4096")
    } else if !known {
        format!("{size} is out of range; expected 64 to 4096")
    } else {
        format!(
            "{size} does not divide the {ports} ports of {first}-{last}; expected one that does"
        )
    };
    let below = BLOCK_SIZES.into_iter().rev().find(|&s| s < size && fills(s));
    let above = BLOCK_SIZES.into_iter().find(|&s| s > size && fills(s));
    let hint = match (below, above) {
        (Some(a), Some(b)) => format!("use {a} or {b}"),
        (Some(a), None) | (None, Some(a)) => format!("use {a}"),
        (None, None) => "no block size divides this range; use ports 1024-65535".to_owned(),
    };
    Err((message, hint))
}

pub(super) fn ranges(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Vec<Located<Range>> {
    let Some(items) = cursor.items(report) else { return Vec::new() };
    if items.is_empty() {
        report.error(&cursor.head(), "the list is empty; expected at least one address");
    }
    let expected = "a prefix, a range or an address";
    items.iter().filter_map(|c| c.located(report, expected, scalar::address_range)).collect()
}

pub(super) fn check_inside(
    report: &mut Report<'_>,
    listed: &[Located<Range>],
    excluded: &[Located<Range>],
) {
    if listed.is_empty() {
        return;
    }
    for entry in excluded {
        let outside = subtract(std::slice::from_ref(entry), listed);
        if let Some(piece) = outside.first() {
            let piece = written(piece.value);
            let message = format!("{piece} is not in this pool; expected addresses of the pool");
            report.error(&entry.at, message);
        }
    }
}

/// `from` without `away`, piece by piece.
pub(super) fn subtract(from: &[Located<Range>], away: &[Located<Range>]) -> Vec<Located<Range>> {
    let mut cuts: Vec<(u64, u64)> = away.iter().map(|r| numbers(r.value)).collect();
    cuts.sort_unstable();
    let mut pieces = Vec::new();
    for range in from {
        let (mut first, last) = numbers(range.value);
        for &(cut_first, cut_last) in &cuts {
            if cut_last < first || cut_first > last {
                continue;
            }
            if cut_first > first {
                pieces.push(piece(range, first, cut_first - 1));
            }
            first = cut_last + 1;
        }
        if first <= last {
            pieces.push(piece(range, first, last));
        }
    }
    pieces
}

fn numbers(range: Range) -> (u64, u64) {
    (u64::from(u32::from(range.0)), u64::from(u32::from(range.1)))
}

fn piece(of: &Located<Range>, first: u64, last: u64) -> Located<Range> {
    let address = |n: u64| Ipv4Addr::from(n as u32);
    Located { value: (address(first), address(last)), at: of.at.clone() }
}
