//! `subscribers`: who may use which pool; the first match wins.

use ipnet::Ipv4Net;

use super::super::problem::Report;
use super::super::read::{Cursor, Located};
use super::super::scalar;
use super::super::{Limits, Mode, SubscriberGroup};
use super::{destinations, limits, pools, refuse_repeated, unknown_name};

/// Each new subscriber that finds no room asks all pools of its list.
const MAX_POOLS: usize = 8;

/// What could be read of one group.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: Option<Located<String>>,
    pub(super) ranges: Vec<Located<Ipv4Net>>,
    /// Distinct lists of pools, the group's own first; empty if that could not be read.
    pub(super) realms: Vec<Vec<usize>>,
    pub(super) destinations: Vec<destinations::Draft>,
    limits: Limits,
}

impl Draft {
    /// The validated group; `None` if an error was reported for it.
    pub(super) fn finish(self) -> Option<SubscriberGroup> {
        Some(SubscriberGroup {
            name: self.name?.value,
            ranges: self.ranges.into_iter().map(|range| range.value).collect(),
            realms: self.realms,
            destinations: self.destinations.into_iter().map(destinations::Draft::finish).collect(),
            limits: self.limits,
        })
    }

    /// Whether some of its flows may use a pool.
    pub(super) fn uses(&self, pool: usize) -> bool {
        self.realms.iter().any(|pools| pools.contains(&pool))
    }
}

/// Reads all groups; `pools` are all pools, and there is room for `max_datagrams` in fragments.
pub(super) fn read(
    report: &mut Report<'_>,
    cursor: &Cursor<'_>,
    pools: &[pools::Draft],
    max_datagrams: u32,
) -> Vec<Draft> {
    let Some(items) = cursor.items(report) else { return Vec::new() };
    if items.is_empty() {
        report.error(&cursor.head(), "there is no subscriber group; expected at least one");
    }
    let mut groups: Vec<Draft> = Vec::new();
    for item in items {
        let Some(group) = group(report, &item, pools, max_datagrams) else { continue };
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

fn group(
    report: &mut Report<'_>,
    item: &Cursor<'_>,
    pools: &[pools::Draft],
    max_datagrams: u32,
) -> Option<Draft> {
    let fields = item.fields(report)?;
    let name =
        fields.required(report, "name").and_then(|c| c.located(report, "a name", scalar::name));
    let ranges = fields.required(report, "match").map(|c| ranges(report, c)).unwrap_or_default();
    let own = fields.required(report, "pool").and_then(|c| pool_list(report, c, pools));
    let mut realms: Vec<Vec<usize>> = own.into_iter().collect();
    let destinations = fields.get("destinations");
    let destinations = destinations.map(|c| destinations::read(report, c, pools, &mut realms));
    let limits = limits::read(report, fields.get("limits"), pools, &realms, max_datagrams);
    Some(Draft { name, ranges, realms, destinations: destinations.unwrap_or_default(), limits })
}

/// The name of a pool, or a list of names in the order in which they are tried. `None` if an
/// error was reported.
pub(super) fn pool_list(
    report: &mut Report<'_>,
    cursor: &Cursor<'_>,
    pools: &[pools::Draft],
) -> Option<Vec<usize>> {
    let items = match cursor.is_list() {
        true => cursor.items(report)?,
        false => vec![cursor.clone()],
    };
    if items.is_empty() || items.len() > MAX_POOLS {
        let message = format!("this lists {} pools; expected 1 to {MAX_POOLS}", items.len());
        report.error(&cursor.head(), message);
        return None;
    }
    let mut list: Vec<usize> = Vec::new();
    let mut is_whole = true;
    for item in &items {
        let name = item.located(report, "the name of a pool", |text| Ok(text.to_owned()));
        let Some(Located { value, at }) = name else {
            is_whole = false;
            continue;
        };
        let found = pools.iter().position(|pool| pool.name.value == value);
        match found {
            // Without any pool that is the problem, and it is reported there.
            None if pools.is_empty() => is_whole = false,
            None => {
                let names = pools.iter().map(|pool| pool.name.value.as_str());
                report.error(&at, unknown_name("pool", &value, names));
                is_whole = false;
            }
            Some(pool) if list.contains(&pool) => {
                report.error(&at, format!("pool `{value}` is in this list already"));
                is_whole = false;
            }
            Some(pool) if items.len() > 1 && pools[pool].mode == Mode::Deterministic => {
                let message = format!(
                    "pool `{value}` is deterministic: it has a range for each subscriber, so \
                     nothing spills over from it or to it; expected it alone"
                );
                report.error(&at, message);
                is_whole = false;
            }
            Some(pool) => list.push(pool),
        }
    }
    is_whole.then_some(list)
}

fn ranges(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Vec<Located<Ipv4Net>> {
    let Some(items) = cursor.items(report) else { return Vec::new() };
    if items.is_empty() {
        report.error(&cursor.head(), "the list is empty; expected at least one prefix");
    }
    let expected = "a prefix as in 100.64.0.0/10";
    items.iter().filter_map(|c| c.located(report, expected, scalar::prefix)).collect()
}
