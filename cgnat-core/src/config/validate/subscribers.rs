//! `subscribers`: who may use which pool; the first match wins.

use ipnet::Ipv4Net;

use super::super::problem::Report;
use super::super::read::{Cursor, Located};
use super::super::scalar;
use super::super::{Limits, SubscriberGroup};
use super::{limits, pools, refuse_repeated, unknown_name};

/// What could be read of one group.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: Option<Located<String>>,
    pub(super) ranges: Vec<Located<Ipv4Net>>,
    pub(super) pool: Option<usize>,
    limits: Limits,
}

impl Draft {
    /// The validated group; `None` if an error was reported for it.
    pub(super) fn finish(self) -> Option<SubscriberGroup> {
        Some(SubscriberGroup {
            name: self.name?.value,
            ranges: self.ranges.into_iter().map(|range| range.value).collect(),
            pool: self.pool?,
            limits: self.limits,
        })
    }
}

/// Reads all groups; `pools` are all pools.
pub(super) fn read(
    report: &mut Report<'_>,
    cursor: &Cursor<'_>,
    pools: &[pools::Draft],
) -> Vec<Draft> {
    let Some(items) = cursor.items(report) else { return Vec::new() };
    if items.is_empty() {
        report.error(&cursor.head(), "there is no subscriber group; expected at least one");
    }
    let mut groups: Vec<Draft> = Vec::new();
    for item in items {
        let Some(group) = group(report, &item, pools) else { continue };
        if let Some(name) = &group.name {
            let earlier = groups.iter().filter_map(|g| g.name.as_ref());
            let same = earlier.filter(|other| other.value == name.value);
            refuse_repeated(
                report,
                &name.at,
                &format!("group `{}`", name.value),
                same.map(|other| &other.at),
            );
        }
        groups.push(group);
    }
    groups
}

fn group(report: &mut Report<'_>, item: &Cursor<'_>, pools: &[pools::Draft]) -> Option<Draft> {
    let fields = item.fields(report)?;
    let name =
        fields.required(report, "name").and_then(|c| c.located(report, "a name", scalar::name));
    let ranges = fields.required(report, "match").map(|c| ranges(report, c)).unwrap_or_default();
    let pool = fields
        .required(report, "pool")
        .and_then(|c| c.located(report, "the name of a pool", |text| Ok(text.to_owned())));
    let pool = pool.and_then(|Located { value, at }| {
        let found = pools.iter().position(|pool| pool.name.value == value);
        // Without any pool that is the problem, and it is reported there.
        if found.is_none() && !pools.is_empty() {
            let names = pools.iter().map(|pool| pool.name.value.as_str());
            report.error(&at, unknown_name("pool", &value, names));
        }
        found
    });
    let limits = limits::read(report, fields.get("limits"), pool.map(|pool| &pools[pool]));
    Some(Draft { name, ranges, pool, limits })
}

fn ranges(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Vec<Located<Ipv4Net>> {
    let Some(items) = cursor.items(report) else { return Vec::new() };
    if items.is_empty() {
        report.error(&cursor.head(), "the list is empty; expected at least one prefix");
    }
    let expected = "a prefix as in 100.64.0.0/10";
    items.iter().filter_map(|c| c.located(report, expected, scalar::prefix)).collect()
}
