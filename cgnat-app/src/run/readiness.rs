//! Whether the box carries traffic, by a stated rule (decision 33): what is announced to neighbours
//! depends on it, so that nobody is drawn into a black hole.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::kernel::InterfaceState;

/// What the rule is about, as it is now.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// By worker: whether it stands still.
    pub standstills: Vec<bool>,
    /// Threads beside the workers: name, and whether it has ended.
    pub threads: Vec<(&'static str, bool)>,
    /// Interfaces in the kernel.
    pub interfaces: Vec<(String, InterfaceState)>,
    /// By port: its name, and whether its driver says that the link is up, if it says anything.
    pub links: Vec<(String, Option<bool>)>,
    /// Configured next hops: port, address, and whether its MAC is known.
    pub next_hops: Vec<(String, Ipv4Addr, bool)>,
    /// Where routes are learned: what there must be a way to.
    pub ways: Vec<Condition>,
}

/// One part of the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What it is about, as in `port external0`.
    pub what: String,
    /// It holds.
    pub is_met: bool,
    /// How things stand.
    pub says: String,
}

/// The rule, applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    conditions: Vec<Condition>,
}

impl Readiness {
    /// Judges.
    pub fn of(facts: &Facts) -> Self {
        let Facts { standstills, threads, interfaces, links, next_hops, ways } = facts;
        let mut conditions = vec![workers(standstills), other_threads(threads)];
        conditions.extend(links.iter().map(|(port, is_up)| {
            Condition {
                what: format!("port {port}"),
                is_met: *is_up != Some(false),
                says: match is_up {
                    Some(true) => "link up",
                    Some(false) => "link down",
                    None => "its driver says nothing of the link",
                }
                .to_owned(),
            }
        }));
        conditions.extend(interfaces.iter().map(|(name, state)| {
            Condition {
                what: format!("kernel interface {name}"),
                is_met: *state == InterfaceState::Up,
                says: match state {
                    InterfaceState::Up => "up",
                    InterfaceState::Down => "down; somebody has set it so (ip link set up)",
                    InterfaceState::Gone => "gone; somebody has deleted it, and it is made again",
                }
                .to_owned(),
            }
        }));
        conditions.extend(next_hops.iter().map(|(port, address, is_known)| Condition {
            what: format!("next hop {address}"),
            is_met: *is_known,
            says: match is_known {
                true => format!("has answered on port {port}"),
                false => format!("does not answer ARP on port {port}"),
            },
        }));
        conditions.extend(ways.iter().cloned());
        Self { conditions }
    }

    /// Every condition holds.
    pub fn is_ready(&self) -> bool {
        self.conditions.iter().all(|condition| condition.is_met)
    }

    /// What is missing, in words: `next hop 192.0.2.1 does not answer ARP on port external0`.
    pub fn missing(&self) -> String {
        let unmet = self.conditions.iter().filter(|condition| !condition.is_met);
        let words: Vec<String> =
            unmet.map(|Condition { what, says, .. }| format!("{what}: {says}")).collect();
        words.join("; ")
    }

    /// For `cgnat show readiness`.
    pub fn json(&self) -> Value {
        let one = |Condition { what, is_met, says }: &Condition| json!({ "what": what, "met": is_met, "says": says });
        json!({
            "ready": self.is_ready(),
            "conditions": self.conditions.iter().map(one).collect::<Vec<_>>(),
        })
    }
}

fn workers(standstills: &[bool]) -> Condition {
    let still = |(worker, still): (usize, &bool)| still.then(|| worker.to_string());
    let still: Vec<String> = standstills.iter().enumerate().filter_map(still).collect();
    let says = match still.as_slice() {
        [] => format!("all {} poll", standstills.len()),
        [one] => format!("worker {one} does not poll"),
        some => format!("workers {} do not poll", some.join(", ")),
    };
    Condition { what: "workers".to_owned(), is_met: still.is_empty(), says }
}

fn other_threads(threads: &[(&str, bool)]) -> Condition {
    let ended: Vec<&str> =
        threads.iter().filter(|(_, has_ended)| *has_ended).map(|(name, _)| *name).collect();
    let says = match ended.as_slice() {
        [] => threads.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ") + ": alive",
        some => format!("{} has ended; its message is in the log", some.join(", ")),
    };
    Condition { what: "threads".to_owned(), is_met: ended.is_empty(), says }
}

/// An answer to `show readiness` for people.
pub fn text(answer: &Value) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}", if answer["ready"] == true { "ready" } else { "NOT ready" });
    for condition in answer["conditions"].as_array().into_iter().flatten() {
        let word = |key: &str| condition[key].as_str().unwrap_or("?");
        let mark = if condition["met"] == true { "ok     " } else { "MISSING" };
        let _ = writeln!(out, "  {mark} {}: {}", word("what"), word("says"));
    }
    let announcing = &answer["announcing"];
    let _ = writeln!(out, "{}", announcing["says"].as_str().unwrap_or("?"));
    for prefix in announcing["prefixes"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "  {}", prefix.as_str().unwrap_or("?"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            standstills: vec![false; 2],
            threads: vec![("housekeeping", false), ("kernel", false)],
            interfaces: vec![("k-ext".to_owned(), InterfaceState::Up)],
            links: vec![("in".to_owned(), None), ("out".to_owned(), Some(true))],
            next_hops: vec![("out".to_owned(), Ipv4Addr::new(192, 0, 2, 1), true)],
            ways: vec![Condition {
                what: "way outward".to_owned(),
                is_met: true,
                says: "leads to 192.0.2.1".to_owned(),
            }],
        }
    }

    #[test]
    fn a_box_is_ready_when_nothing_is_missing_and_says_what_is() {
        let readiness = Readiness::of(&good());
        assert!(readiness.is_ready(), "{readiness:?}");
        assert_eq!(readiness.missing(), "");
        type Spoil = fn(&mut Facts);
        let cases: [(Spoil, &str); 8] = [
            (|f| f.standstills[1] = true, "workers: worker 1 does not poll"),
            (|f| f.standstills = vec![true; 2], "workers: workers 0, 1 do not poll"),
            (|f| f.threads[1].1 = true, "threads: kernel has ended"),
            (|f| f.links[1].1 = Some(false), "port out: link down"),
            (|f| f.interfaces[0].1 = InterfaceState::Down, "kernel interface k-ext: down"),
            (|f| f.interfaces[0].1 = InterfaceState::Gone, "kernel interface k-ext: gone"),
            (|f| f.next_hops[0].2 = false, "next hop 192.0.2.1: does not answer ARP on port out"),
            (|f| f.ways[0].is_met = false, "way outward: leads to 192.0.2.1"),
        ];
        for (spoil, says) in cases {
            let mut facts = good();
            spoil(&mut facts);
            let readiness = Readiness::of(&facts);
            assert!(!readiness.is_ready());
            assert!(readiness.missing().starts_with(says), "{}", readiness.missing());
            let mut answer = readiness.json();
            answer["announcing"] = json!({ "says": "nothing", "prefixes": ["10.0.0.0/8"] });
            let shown = text(&answer);
            assert!(shown.starts_with("NOT ready\n"), "{shown}");
            assert!(shown.contains(&format!("  MISSING {says}")), "{shown}");
            assert!(shown.ends_with("nothing\n  10.0.0.0/8\n"), "{shown}");
        }
    }
}
