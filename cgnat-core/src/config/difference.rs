//! What differs between the configuration that runs and another one, by name.
//!
//! Whether a restart is needed is asked of the validated configurations: all of them but the
//! addresses of pools that may change must be equal, so a key that is new in this program is never
//! taken for one that may change. The names come from the texts, where the operator finds them.

use std::collections::BTreeMap;

use super::raw::{Document, Node, Value};
use super::{AddressSelection, Config, Mode, Pool};

/// Keys of a pool that a running box takes.
const LIVE: [&str; 3] = ["addresses", "exclude", "drain"];

/// Differences that are named; of more, how many.
const NAMED: usize = 8;

/// Characters of a value that are shown.
const SHOWN: usize = 40;

/// A configuration and the text that it came from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The configuration.
    pub config: Config,
    /// Its file.
    pub text: String,
}

impl Source {
    /// What a box that runs on `self` cannot take from `other` without a restart: each as
    /// `ports.internal0.mtu 1500 -> 9000`. Empty if it can take all of it.
    pub fn needs_restart(&self, other: &Source) -> Vec<String> {
        if without_live(&self.config) == without_live(&other.config) {
            return Vec::new();
        }
        let (before, after) = (self.written(other), other.written(self));
        let mut names: Vec<String> = Vec::new();
        for path in before.keys().chain(after.keys().filter(|path| !before.contains_key(*path))) {
            let (old, new) = (before.get(path), after.get(path));
            if old != new {
                names.push(format!("{path} {} -> {}", shown(old), shown(new)));
            }
        }
        if names.is_empty() {
            // The same words with another meaning; nothing is known to do this.
            names.push("the file".to_owned());
        }
        if names.len() > NAMED {
            let more = names.len() - NAMED;
            names.truncate(NAMED);
            names.push(format!("and {more} more"));
        }
        names
    }

    /// Every value of the file that needs a restart, by its path.
    fn written(&self, other: &Source) -> BTreeMap<String, String> {
        let mut values = BTreeMap::new();
        if let Ok(document) = Document::parse("", &self.text) {
            let live = |path: &[String]| match path {
                [pools, name, key] if pools == "pools" && LIVE.contains(&key.as_str()) => {
                    [self, other].iter().all(|source| {
                        let mut pools = source.config.pools.iter();
                        pools.any(|pool| pool.name() == name && is_flexible(pool))
                    })
                }
                _ => false,
            };
            flatten(&document.root, &mut Vec::new(), &live, &mut values);
        }
        values
    }
}

/// Whether a running box takes other addresses for a pool.
fn is_flexible(pool: &Pool) -> bool {
    let by_bits = matches!(pool.rules.address_selection, AddressSelection::SubscriberBits(_));
    pool.mode == Mode::PortBlock && !by_bits
}

/// A configuration without what a running box takes.
fn without_live(config: &Config) -> Config {
    let mut config = config.clone();
    config.warnings.clear();
    for pool in config.pools.iter_mut().filter(|pool| is_flexible(pool)) {
        pool.addresses.clear();
        pool.drain.clear();
    }
    config
}

fn flatten(
    node: &Node,
    path: &mut Vec<String>,
    is_live: &impl Fn(&[String]) -> bool,
    values: &mut BTreeMap<String, String>,
) {
    if is_live(path) {
        return;
    }
    match &node.value {
        Value::Map(pairs) => {
            for (key, value) in pairs {
                path.push(key.text.clone());
                flatten(value, path, is_live, values);
                path.pop();
            }
        }
        Value::List(items) if items.iter().any(|item| !is_scalar(item)) => {
            for (place, item) in items.iter().enumerate() {
                path.push(format!("[{place}]"));
                flatten(item, path, is_live, values);
                path.pop();
            }
        }
        Value::List(items) => {
            let words: Vec<&str> = items.iter().map(word).collect();
            values.insert(joined(path), format!("[{}]", words.join(", ")));
        }
        Value::Scalar(_) | Value::Empty => _ = values.insert(joined(path), word(node).to_owned()),
    }
}

fn is_scalar(node: &Node) -> bool {
    matches!(node.value, Value::Scalar(_) | Value::Empty)
}

fn word(node: &Node) -> &str {
    match &node.value {
        Value::Scalar(scalar) => &scalar.text,
        _ => "",
    }
}

/// `routes[0].to`.
fn joined(path: &[String]) -> String {
    path.join(".").replace(".[", "[")
}

fn shown(value: Option<&String>) -> String {
    match value {
        None => "(not given)".to_owned(),
        Some(text) if text.chars().count() > SHOWN => {
            text.chars().take(SHOWN).chain("...".chars()).collect()
        }
        Some(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "version: 1
ports:
  i: { side: internal, device: net_null0, addresses: [10.255.0.2/30], next-hop: 10.255.0.1 }
  e: { side: external, device: net_null1, addresses: [192.0.2.2/30], next-hop: 192.0.2.1 }
pools:
  a.b: { addresses: [203.0.113.0/28], allocation: { block-size: 512 } }
  own: { addresses: [203.0.113.32/28], allocation: { mode: deterministic, \
ports-per-subscriber: 1000 } }
subscribers:
  - { name: one, match: [100.64.0.0/24], pool: own }
  - { name: all, match: [100.64.0.0/10], pool: a.b }
";

    fn source(text: &str) -> Source {
        match Config::from_yaml("t.yaml", text) {
            Ok(config) => Source { config, text: text.to_owned() },
            Err(problems) => panic!("{problems}"),
        }
    }

    fn restart(changes: &[(&str, &str)]) -> Vec<String> {
        let mut text = YAML.to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        source(YAML).needs_restart(&source(&text))
    }

    #[test]
    fn addresses_of_pools_may_change_and_words_that_mean_the_same() {
        assert_eq!(restart(&[]), [""; 0]);
        assert_eq!(restart(&[("203.0.113.0/28", "203.0.113.3, 203.0.113.64/27")]), [""; 0]);
        assert_eq!(
            restart(&[(
                "203.0.113.0/28]",
                "203.0.113.0/28], exclude: [203.0.113.1], drain: [203.0.113.2]"
            )]),
            [""; 0]
        );
        assert_eq!(
            restart(&[("version: 1", "version: 1 # one\nsystem: { memory: 1024MiB }")]),
            [""; 0]
        );
    }

    #[test]
    fn everything_else_is_named_with_both_values() {
        let cases: [(&str, &str, &str); 6] = [
            ("192.0.2.1 }", "192.0.2.1, mtu: 1400 }", "ports.e.mtu (not given) -> 1400"),
            ("size: 512", "size: 256", "pools.a.b.allocation.block-size 512 -> 256"),
            ("name: one", "name: two", "subscribers[0].name one -> two"),
            (
                "203.0.113.32/28",
                "203.0.113.32/27",
                "pools.own.addresses [203.0.113.32/28] -> [203.0.113.32/27]",
            ),
            (
                "203.0.113.0/28]",
                "203.0.113.0/28], spare-addresses: 5",
                "pools.a.b.spare-addresses (not given) -> 5",
            ),
            (
                "subscribers:",
                "  new: { addresses: [203.0.113.99] }\nsubscribers:",
                "pools.new.addresses (not given) -> [203.0.113.99]",
            ),
        ];
        for (from, to, name) in cases {
            assert_eq!(restart(&[(from, to)]), [name]);
            // An address that could be taken does not make the rest good, and is not named.
            assert_eq!(restart(&[(from, to), ("203.0.113.0/28", "203.0.113.0/27")]), [name]);
        }
    }

    #[test]
    fn of_very_many_differences_eight_are_named() {
        let mut text = YAML.replace("a.b", "c");
        text += "timeouts: { udp: { default: 6m }, icmp: 2m }\n";
        text += "system: { name: n, workers: 2, max-mappings: 5000, memory: 2GiB }\n";
        let names = source(YAML).needs_restart(&source(&text));
        assert_eq!(names.len(), NAMED + 1);
        assert_eq!(names[NAMED], "and 3 more");
    }
}
