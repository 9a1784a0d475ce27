//! From the tree to a [`Config`]: each section alone, then the sections against each other.
//!
//! A draft holds what could be read of a section, with its places. Checks look only at values
//! that were read well, so one mistake is reported once. Drafts become a [`Config`] when no
//! error was reported.

mod announce;
mod bond;
mod bypass;
mod change;
mod cross;
mod destinations;
mod deterministic;
mod device;
mod filtering;
mod ipv6;
mod limits;
mod other_protocols;
mod overloading;
mod own_errors;
mod pool_rules;
mod pools;
mod ports;
mod service;
mod statics;
mod subscribers;
mod system;
mod timeouts;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::problem::{At, Problems, Report};
use super::raw::Document;
use super::read::{Cursor, Fields};
use super::scalar::shown;
use super::{Algs, Config, Fragments, Overloading, keys};

/// Reads the whole document.
///
/// # Errors
/// Every problem, in order of line and column; warnings among them.
pub(super) fn config(file: &str, text: &str, document: &Document) -> Result<Config, Problems> {
    let mut report = Report::new(file, text);
    match read(&mut report, &Cursor::root(&document.root)) {
        Some(config) if !report.has_errors() => {
            Ok(Config { warnings: report.into_warnings(), ..config })
        }
        _ => Err(report.into_problems()),
    }
}

/// Answers `None` only if an error was reported.
fn read(report: &mut Report<'_>, root: &Cursor<'_>) -> Option<Config> {
    let top = root.fields(report)?;
    version(report, &top);
    let allows_short_timers = lab(report, &top);
    let system = system::read(report, top.get("system"));
    let ports = top.required(report, "ports").map(|c| ports::read(report, c)).unwrap_or_default();
    let problems_before = report.len();
    let routes = top.get("routes").map(|c| ports::routes(report, c, &ports)).unwrap_or_default();
    let has_all_routes = report.len() == problems_before;
    let nat44_fields = top.get("nat44").and_then(|c| c.fields(report));
    let nat44_fields = nat44_fields.as_ref();
    let mss_clamp = nat44_fields.and_then(|f| f.get("tcp-mss-clamp"));
    let mss_clamp = own_errors::mss_clamp(report, mss_clamp).flatten();
    let mut pools =
        top.required(report, "pools").map(|c| pools::read(report, c)).unwrap_or_default();
    let nat44 = nat44(report, nat44_fields, allows_short_timers);
    let max_datagrams = nat44.fragments.max_datagrams;
    let groups = top.required(report, "subscribers");
    let groups = groups.map(|c| subscribers::read(report, c, &pools, max_datagrams));
    let groups = groups.unwrap_or_default();
    let own_errors = own_errors::read(report, nat44_fields);
    let other_protocols = other_protocols::read(report, nat44_fields);
    let statics = top.get("static").map(|c| statics::read(report, c)).unwrap_or_default();
    let timeouts = timeouts::read(report, top.get("timeouts"), allows_short_timers);

    let announce = top.get("announce").and_then(|c| announce::read(report, c, &ports));

    cross::ports(report, top.get("ports"), &ports);
    if has_all_routes {
        cross::ways(report, &ports, &routes.ipv4, &groups);
        ipv6::check(report, &ports, &routes.ipv6);
    }
    cross::pools(report, &pools, &ports, &groups);
    cross::subscribers(report, &ports, &groups);
    destinations::check(report, &ports, &groups);
    deterministic::room(report, &pools, &groups);
    statics::check(report, &statics, &ports, &pools, &groups, &routes.ipv4);
    statics::take_addresses(report, &statics, &mut pools);
    bypass::check(report, &nat44.bypass, &ports, &pools, &groups);
    if report.has_errors() {
        return None;
    }
    cross::unused_pools(report, &pools, &groups, &statics);
    let config = Config {
        system,
        ports: ports.into_iter().map(ports::Draft::finish).collect::<Option<_>>()?,
        routes: routes.ipv4.into_iter().map(|route| route.value).collect(),
        ipv6_routes: routes.ipv6.into_iter().map(|route| route.value).collect(),
        pools: pools.into_iter().map(|pool| pool.finish(&nat44, mss_clamp)).collect(),
        groups: groups.into_iter().map(subscribers::Draft::finish).collect::<Option<_>>()?,
        hairpinning: nat44.hairpinning,
        inbound_refresh: nat44.inbound_refresh,
        algs: nat44.algs,
        own_errors,
        fragments: nat44.fragments,
        mss_clamp,
        statics: statics.into_iter().map(statics::Draft::finish).collect(),
        bypass: nat44.bypass.into_iter().map(bypass::Draft::finish).collect(),
        other_protocols,
        timeouts,
        announce,
        warnings: Vec::new(),
    };
    announce::check(report, top.get("announce"), &config);
    Some(config)
}

fn version(report: &mut Report<'_>, top: &Fields<'_>) {
    if let Some(cursor) = top.required(report, "version") {
        cursor.parse(report, "1", |text| match text {
            "1" => Ok(()),
            _ => Err(format!("version {} is not known; expected 1", shown(text))),
        });
    }
}

/// Whether timers below the RFC minimums are asked for.
fn lab(report: &mut Report<'_>, top: &Fields<'_>) -> bool {
    let Some(fields) = top.get("lab").and_then(|c| c.fields(report)) else { return false };
    let Some(cursor) = fields.get("allow-short-timers") else { return false };
    let allowed = cursor.flag(report) == Some(true);
    if allowed {
        report.warning(
            cursor.at(),
            "timers may be shorter than RFC 4787, 5382 and 5508 allow; for laboratories only",
        );
    }
    allowed
}

/// What `nat44` says.
struct Nat44 {
    filtering: filtering::Given,
    overloading: Overloading,
    hairpinning: bool,
    inbound_refresh: bool,
    algs: Algs,
    fragments: Fragments,
    bypass: Vec<bypass::Draft>,
}

fn nat44(report: &mut Report<'_>, fields: Option<&Fields<'_>>, allows_short: bool) -> Nat44 {
    const PLANNED: [&str; 2] = ["address-dependent", "address-and-port-dependent"];
    let Some(fields) = fields else {
        return Nat44 {
            filtering: [None; 3],
            overloading: Overloading::default(),
            hairpinning: true,
            inbound_refresh: false,
            algs: Algs::default(),
            fragments: Fragments::default(),
            bypass: Vec::new(),
        };
    };
    if let Some(cursor) = fields.get("mapping") {
        cursor.choice(report, &["endpoint-independent"], &PLANNED);
    }
    Nat44 {
        filtering: filtering::read(report, fields.get("filtering")),
        overloading: overloading::read(report, fields.get("port-overloading")).unwrap_or_default(),
        hairpinning: fields.get("hairpinning").and_then(|c| c.flag(report)).unwrap_or(true),
        inbound_refresh: fields
            .get("inbound-refresh")
            .and_then(|c| c.flag(report))
            .unwrap_or(false),
        algs: fields.get("alg").map(|c| algs(report, c)).unwrap_or_default(),
        fragments: fields
            .get("fragments")
            .map(|c| fragments(report, c, allows_short))
            .unwrap_or_default(),
        bypass: fields.get("bypass").map(|c| bypass::read(report, c)).unwrap_or_default(),
    }
}

/// `nat44.alg`.
fn algs(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Algs {
    let Some(fields) = cursor.fields(report) else { return Algs::default() };
    let mut flag = |key| fields.get(key).and_then(|c| c.flag(report)).unwrap_or(false);
    Algs { ftp: flag("ftp"), pptp: flag("pptp"), tftp: flag("tftp") }
}

/// `nat44.fragments`.
fn fragments(report: &mut Report<'_>, cursor: &Cursor<'_>, allows_short: bool) -> Fragments {
    let mut bounds = Fragments::default();
    let Some(fields) = cursor.fields(report) else { return bounds };
    for (key, place) in
        [("max-pending", &mut bounds.max_pending), ("max-datagrams", &mut bounds.max_datagrams)]
    {
        if let Some(number) = fields.get(key).and_then(|c| c.whole(report, 64, 1 << 20)) {
            *place = number as u32;
        }
    }
    if let Some(cursor) = fields.get("timeout") {
        let timeout = timeouts::fragments(report, cursor, allows_short);
        bounds.timeout_s = timeout.unwrap_or(bounds.timeout_s);
    }
    bounds
}

/// Reports a name that was given before, citing its line.
fn refuse_repeated<'a>(
    report: &mut Report<'_>,
    at: &At,
    what: &str,
    earlier: impl IntoIterator<Item = &'a At>,
) {
    if let Some(first) = earlier.into_iter().next() {
        report.error(at, format!("{what} is already given in line {}", first.place.line));
    }
}

/// `no port named x`, with the nearest name or all there are.
fn unknown_name<'a>(
    kind: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> String {
    let shown = shown(name);
    match keys::nearest(name, known.clone()) {
        Some(near) => format!("no {kind} named {shown}; did you mean `{near}`?"),
        None => {
            let names: Vec<&str> = known.take(8).collect();
            match names.is_empty() {
                true => format!("no {kind} named {shown}"),
                false => format!("no {kind} named {shown}; there is {}", names.join(", ")),
            }
        }
    }
}

/// First and last address of something, both included.
type Range = (Ipv4Addr, Ipv4Addr);

fn span(net: Ipv4Net) -> Range {
    (net.network(), net.broadcast())
}

fn common(a: Range, b: Range) -> Option<Range> {
    let shared = (a.0.max(b.0), a.1.min(b.1));
    (shared.0 <= shared.1).then_some(shared)
}

fn written(range: Range) -> String {
    if range.0 == range.1 { range.0.to_string() } else { format!("{}-{}", range.0, range.1) }
}
