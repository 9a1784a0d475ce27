//! What is told of followed routes: for `cgnat show routes`, and for readiness.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use cgnat_core::config::{Config, Side};
use cgnat_core::control::neighbours::{Neighbour, NeighbourTable};
use cgnat_core::worker::routes::{Action, Destination, Hop, Listed, Origin, Routes};
use serde_json::{Value, json};

use super::super::readiness::Condition;
use super::Board;
use crate::netlink::watch::shown;

impl Board {
    /// Where packets must find a way, on sides that follow the kernel.
    pub fn ways(&self, config: &Config, neighbours: &NeighbourTable) -> Vec<Condition> {
        let follows = |side| config.follows_kernel(side);
        let mut wanted: Vec<(String, Side, Destination)> = Vec::new();
        if follows(Side::External) {
            wanted.push(("way outward".to_owned(), Side::External, (0, 0)));
        }
        if follows(Side::Internal) {
            for range in config.groups().iter().flat_map(|group| group.ranges()) {
                let range_is = (u32::from(range.network()), range.prefix_len());
                wanted.push((format!("way to {range}"), Side::Internal, range_is));
            }
        }
        let Some((routes, _)) = self.in_use() else {
            let says = || "the kernel's routes were not read yet".to_owned();
            let unmet = |(what, ..): (String, Side, Destination)| Condition {
                what,
                is_met: false,
                says: says(),
            };
            return wanted.into_iter().map(unmet).collect();
        };
        let condition = |(what, side, to): (String, Side, Destination)| {
            let helps = |route: &Listed<'_>| match side {
                Side::External => route.side == side && route.to == to,
                Side::Internal => route.side == side && overlap(route.to, to),
            };
            let mut hops = BTreeSet::new();
            for route in routes.list().filter(helps) {
                if let Action::Forward(of_route) = route.action {
                    hops.extend(of_route.iter().copied());
                }
            }
            let answers = hops.iter().find(|hop| is_known(hop, neighbours));
            let says = match (answers, hops.first()) {
                (Some(Hop { via: Some(via), .. }), _) => {
                    format!("by {}, which answers", Ipv4Addr::from(*via))
                }
                (Some(_), _) => "on the link".to_owned(),
                (None, Some(_)) => {
                    let all: Vec<String> = hops
                        .iter()
                        .filter_map(|hop| hop.via.map(|via| Ipv4Addr::from(via).to_string()))
                        .collect();
                    format!("no next hop answers ARP: {}", all.join(", "))
                }
                (None, None) => format!("there is no route to {}", shown(to)),
            };
            Condition { what, is_met: answers.is_some(), says }
        };
        wanted.into_iter().map(condition).collect()
    }

    /// Numbers, for the statistics.
    pub fn figures(&self, neighbours: &NeighbourTable) -> Value {
        let count = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
        let counters = &self.counters;
        let (mut counts, mut next_hops, mut silent, mut version, mut for_s) =
            ([0u64; 3], 0, 0, 0, 0);
        if let Some((routes, since)) = self.in_use() {
            routes.list().for_each(|route| counts[route.origin as usize] += 1);
            (version, for_s) = (routes.version(), since.elapsed().as_secs());
            next_hops = routes.next_hops().len();
            silent = silent_hops(&routes, neighbours).count();
        }
        json!({
            "kernel": count(&counters.kernel), "changes": count(&counters.changes),
            "dumps": count(&counters.dumps), "lost": count(&counters.lost),
            "repaired": count(&counters.repaired), "tables": count(&counters.tables),
            "refused": count(&counters.refused), "version": version, "for_s": for_s,
            "from_port": counts[Origin::Connected as usize],
            "from_kernel": counts[Origin::Learned as usize],
            "from_configuration": counts[Origin::Configured as usize],
            "next_hops": next_hops, "silent": silent,
        })
    }

    /// For `cgnat show routes`.
    pub fn json(&self, config: &Config, neighbours: &NeighbourTable) -> Value {
        let mut answer = self.figures(neighbours);
        let (mut list, mut unresolved) = (Vec::new(), Vec::new());
        let name = |port: u8| config.ports()[usize::from(port)].name();
        if let Some((routes, _)) = self.in_use() {
            let hop = |hop: &Hop| {
                json!({
                    "port": name(hop.port), "via": hop.via.map(|via| Ipv4Addr::from(via).to_string()),
                    "weight": hop.weight, "known": is_known(hop, neighbours),
                })
            };
            for Listed { side, to, origin, action } in routes.list() {
                let hops = match action {
                    Action::Forward(hops) => hops.iter().map(hop).collect(),
                    Action::Refuse => Vec::new(),
                };
                list.push(json!({
                    "to": shown(to), "side": if side == Side::Internal { "internal" } else { "external" },
                    "from": match origin {
                        Origin::Connected => "port",
                        Origin::Learned => "kernel",
                        Origin::Configured => "configuration",
                    },
                    "drops": *action == Action::Refuse, "hops": hops,
                }));
            }
            let silent = silent_hops(&routes, neighbours).map(|(port, address)| {
                json!({ "port": name(port), "address": Ipv4Addr::from(address).to_string() })
            });
            unresolved.extend(silent);
        }
        answer["routes"] = list.into();
        answer["unresolved"] = unresolved.into();
        answer
    }
}

/// Next hops whose MAC is not known: port and address.
fn silent_hops(routes: &Routes, neighbours: &NeighbourTable) -> impl Iterator<Item = (u8, u32)> {
    let is_silent = move |(port, address): &(u8, u32)| {
        !is_known(&Hop { port: *port, via: Some(*address), weight: 1 }, neighbours)
    };
    routes.next_hops().iter().copied().filter(is_silent)
}

fn is_known(hop: &Hop, neighbours: &NeighbourTable) -> bool {
    // What is on the link is asked for when a packet needs it.
    hop.via.is_none_or(|via| matches!(neighbours.find(hop.port, via), Neighbour::At(_)))
}

fn overlap(a: Destination, b: Destination) -> bool {
    let bits = 32 - u32::from(a.1.min(b.1));
    (u64::from(a.0) >> bits) == (u64::from(b.0) >> bits)
}

/// The numbers of an answer, for people: two lines.
pub fn sentences(answer: &Value) -> String {
    let number = |key: &str| answer[key].as_u64().unwrap_or(0);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{} routes of the kernel, {} of ports, {} of the configuration; {} next hops, {} of which do not \
         answer. Version {}, for {} s.",
        number("from_kernel"),
        number("from_port"),
        number("from_configuration"),
        number("next_hops"),
        number("silent"),
        number("version"),
        number("for_s"),
    );
    let _ = writeln!(
        out,
        "The kernel's main table has {} routes; {} changes, {} dumps, notifications lost {} times, {} \
         dumps repaired something, {} routes have no room.",
        number("kernel"),
        number("changes"),
        number("dumps"),
        number("lost"),
        number("repaired"),
        number("refused"),
    );
    out
}

/// An answer to `show routes` for people.
pub fn text(answer: &Value) -> String {
    let mut out = sentences(answer);
    // Writing to a String cannot fail.
    for unresolved in answer["unresolved"].as_array().into_iter().flatten() {
        let word = |key: &str| unresolved[key].as_str().unwrap_or("?");
        let _ =
            writeln!(out, "  NO ANSWER from next hop {} on port {}", word("address"), word("port"));
    }
    for route in answer["routes"].as_array().into_iter().flatten() {
        let word = |key: &str| route[key].as_str().unwrap_or("?");
        let _ = write!(out, "  {} {}", word("side"), word("to"));
        if route["drops"] == true {
            out.push_str(" dropped");
        }
        for hop in route["hops"].as_array().into_iter().flatten() {
            let via = hop["via"].as_str().map(|via| format!(" via {via}")).unwrap_or_default();
            let _ = write!(out, "{via} port {}", hop["port"].as_str().unwrap_or("?"));
            if hop["weight"].as_u64().unwrap_or(1) != 1 {
                let _ = write!(out, " weight {}", hop["weight"]);
            }
        }
        let _ = writeln!(out, " ({})", word("from"));
    }
    out
}
