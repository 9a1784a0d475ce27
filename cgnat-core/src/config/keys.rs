//! Every key of the configuration, in one place.
//!
//! The reader accepts exactly these keys, and `docs/configuration.md` must have a row for
//! each: a test compares the two. `<name>` and `<port>` stand for names the operator chooses,
//! `[]` for each item of a list.

/// Keys that are read.
pub const KEYS: &[&str] = &[
    "version",
    "system",
    "system.name",
    "system.workers",
    "system.control-cpus",
    "system.memory",
    "system.max-mappings",
    "system.max-sessions",
    "system.new-flows-under-load",
    "system.flood-guard",
    "system.huge-pages",
    "system.idle",
    "system.control-socket",
    "ports",
    "ports.<name>",
    "ports.<name>.side",
    "ports.<name>.device",
    "ports.<name>.bond",
    "ports.<name>.bond.mode",
    "ports.<name>.bond.members",
    "ports.<name>.vlan",
    "ports.<name>.outer-vlan",
    "ports.<name>.outer-tpid",
    "ports.<name>.addresses",
    "ports.<name>.next-hop",
    "ports.<name>.mtu",
    "ports.<name>.kernel-interface",
    "ports.<name>.routes-from-kernel",
    "ports.<name>.ipv6",
    "ports.<name>.ipv6.addresses",
    "ports.<name>.ipv6.link-local",
    "ports.<name>.ipv6.next-hop",
    "ports.<name>.ipv6.source-check",
    "ports.<name>.neighbours",
    "ports.<name>.neighbours[].address",
    "ports.<name>.neighbours[].mac",
    "routes",
    "routes[].to",
    "routes[].via",
    "routes[].port",
    "pools",
    "pools.<name>",
    "pools.<name>.addresses",
    "pools.<name>.exclude",
    "pools.<name>.drain",
    "pools.<name>.spare-addresses",
    "pools.<name>.ports",
    "pools.<name>.exclude-ports",
    "pools.<name>.allocation",
    "pools.<name>.allocation.mode",
    "pools.<name>.allocation.block-size",
    "pools.<name>.allocation.max-blocks",
    "pools.<name>.allocation.hold",
    "pools.<name>.allocation.ports-per-subscriber",
    "pools.<name>.allocation.overflow",
    "pools.<name>.allocation.overflow.ports",
    "pools.<name>.allocation.overflow.block-size",
    "pools.<name>.allocation.overflow.max-blocks",
    "pools.<name>.allocation.overflow.hold",
    "pools.<name>.allocation.max-held",
    "pools.<name>.allocation.hold-closed-tcp",
    "pools.<name>.allocation.port-choice",
    "pools.<name>.allocation.keep-parity",
    "pools.<name>.allocation.keep-range",
    "pools.<name>.address-selection",
    "pools.<name>.subscriber-bits",
    "pools.<name>.max-subscribers-per-address",
    "pools.<name>.pooling",
    "pools.<name>.filtering",
    "pools.<name>.filtering.tcp",
    "pools.<name>.filtering.udp",
    "pools.<name>.filtering.icmp",
    "pools.<name>.port-overloading",
    "pools.<name>.tcp-mss-clamp",
    "subscribers",
    "subscribers[].name",
    "subscribers[].match",
    "subscribers[].pool",
    "subscribers[].destinations",
    "subscribers[].destinations[].to",
    "subscribers[].destinations[].protocol",
    "subscribers[].destinations[].ports",
    "subscribers[].destinations[].pool",
    "subscribers[].limits",
    "subscribers[].limits.ports",
    "subscribers[].limits.ports.tcp",
    "subscribers[].limits.ports.udp",
    "subscribers[].limits.ports.icmp",
    "subscribers[].limits.sessions",
    "subscribers[].limits.inbound-sessions",
    "subscribers[].limits.sessions-per-destination",
    "subscribers[].limits.sessions-per-mapping",
    "subscribers[].limits.inbound-sessions-per-mapping",
    "subscribers[].limits.fragments",
    "subscribers[].limits.new-sessions-per-second",
    "subscribers[].limits.new-sessions-per-second.rate",
    "subscribers[].limits.new-sessions-per-second.burst",
    "subscribers[].limits.blocks",
    "subscribers[].limits.reserved",
    "subscribers[].limits.reserved.ports",
    "subscribers[].limits.reserved.for",
    "nat44",
    "nat44.alg",
    "nat44.alg.ftp",
    "nat44.alg.pptp",
    "nat44.alg.tftp",
    "nat44.mapping",
    "nat44.port-overloading",
    "nat44.filtering",
    "nat44.filtering.tcp",
    "nat44.filtering.udp",
    "nat44.filtering.icmp",
    "nat44.inbound-refresh",
    "nat44.hairpinning",
    "nat44.tcp-mss-clamp",
    "nat44.on-refusal",
    "nat44.icmp-errors",
    "nat44.icmp-errors.to-internal",
    "nat44.icmp-errors.to-external",
    "nat44.icmp-errors.refusal",
    "nat44.icmp-errors.per-receiver",
    "nat44.icmp-errors.in-all",
    "nat44.unsolicited-syn",
    "nat44.fragments",
    "nat44.fragments.max-pending",
    "nat44.fragments.max-datagrams",
    "nat44.fragments.timeout",
    "nat44.other-protocols",
    "nat44.other-protocols.<protocol>",
    "nat44.bypass",
    "nat44.bypass[].to",
    "nat44.bypass[].from",
    "nat44.bypass[].protocol",
    "nat44.bypass[].ports",
    "static",
    "static[].internal",
    "static[].external",
    "static[].protocol",
    "timeouts",
    "timeouts.tcp",
    "timeouts.tcp.established",
    "timeouts.tcp.opening",
    "timeouts.tcp.closing",
    "timeouts.tcp.reset",
    "timeouts.udp",
    "timeouts.udp.default",
    "timeouts.udp.<port>",
    "timeouts.icmp",
    "timeouts.other",
    "announce",
    "announce.port",
    "announce.delay",
    "announce.withdraw-delay",
    "lab",
    "lab.allow-short-timers",
];

/// Keys that are planned; each is refused by name, never ignored.
pub const NOT_YET: &[&str] = &["system.state", "pools.<name>.alarm", "logging", "metrics"];

/// The keys that stand directly below `pattern`, without it; `""` is the top of the file.
pub(super) fn below(pattern: &str) -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(move |key| child(pattern, key))
}

/// Whether `name` below `pattern` is planned.
pub(super) fn is_planned(pattern: &str, name: &str) -> bool {
    NOT_YET.iter().any(|key| child(pattern, key) == Some(name))
}

fn child(pattern: &str, key: &'static str) -> Option<&'static str> {
    let rest = match pattern {
        "" => key,
        _ => key.strip_prefix(pattern)?.strip_prefix('.')?,
    };
    (!rest.contains(['.', '['])).then_some(rest)
}

/// The candidate that is most like `name`, if any is close enough to be meant.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word: Vec<char> = name.to_lowercase().chars().take(64).collect();
    let allowed = (word.len() / 3).max(1);
    // A name cut short is meant too.
    let is_start = |of: &str| word.len() >= 3 && of.starts_with(name);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed || is_start(candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = row[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            next[j] = replaced.min(row[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                next[j] = next[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_a_slip_and_leaves_another_word_alone() {
        let names = ["residential", "business", "block-size"];
        assert_eq!(nearest("resident", names), Some("residential"));
        assert_eq!(nearest("residental", names), Some("residential"));
        assert_eq!(nearest("busniess", names), Some("business"));
        assert_eq!(nearest("block_size", names), Some("block-size"));
        assert_eq!(nearest("frobnicate", names), None);
    }

    #[test]
    fn no_key_is_both_read_and_planned() {
        assert!(NOT_YET.iter().all(|key| !KEYS.contains(key)));
    }
}
