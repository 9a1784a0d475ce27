//! A world: a configuration, and what happens in it.

use std::fmt::Write;

use cgnat_core::time::Instant;

use super::create::selection;
use super::events::Habits;
use super::limits::Limits;
use super::nat::{Pool, Rules};
use super::overloading;
use super::sessions::word;
use super::wire::{Vlan, vlan_keys};

pub const INTERNAL_OWN: &str = "10.255.0.2";
pub const EXTERNAL_OWN: &str = "192.0.2.2";

/// One world: the rules, and the core's configuration made from them.
#[derive(Debug, Clone)]
pub struct World {
    pub rules: Rules,
    pub workers: u16,
    pub vlans: [Option<Vlan>; 2],
    pub max_mappings: u32,
    pub start: Instant,
    /// Lending comes to rest after each event; else blocks may be under way meanwhile.
    pub settles: bool,
    pub habits: Habits,
}

impl World {
    pub fn yaml(&self) -> String {
        let mut yaml = String::from("version: 1\nlab: { allow-short-timers: true }\n");
        let rules = &self.rules;
        let (mappings, sessions) = (self.max_mappings, self.max_mappings / 4);
        let _ = write!(
            yaml,
            "system: {{ max-mappings: {mappings}, max-sessions: {sessions} }}\nports:\n"
        );
        for (name, side, device, own, hop, mac, mtu, id) in [
            (
                "i",
                "internal",
                "net_null0",
                INTERNAL_OWN,
                "10.255.0.1",
                "02:00:00:00:09:01",
                rules.mtu_internal,
                self.vlans[0],
            ),
            (
                "e",
                "external",
                "net_null1",
                EXTERNAL_OWN,
                "192.0.2.1",
                "02:00:00:00:09:02",
                rules.mtu_external,
                self.vlans[1],
            ),
        ] {
            let _ = write!(
                yaml,
                "  {name}:\n    side: {side}\n    device: {device}\n    addresses: [{own}/30]\n    \
                 next-hop: {hop}\n    mtu: {mtu}\n    neighbours: [{{ address: {hop}, mac: \
                 \"{mac}\" }}]\n{}",
                vlan_keys(id)
            );
        }
        yaml.push_str("pools:\n");
        for (number, pool) in rules.pools.iter().enumerate() {
            let addresses: Vec<String> =
                pool.addresses.iter().map(|a| std::net::Ipv4Addr::from(*a).to_string()).collect();
            let Pool { block_size, max_blocks, hold_s, .. } = pool;
            let blocks =
                format!("block-size: {block_size}, max-blocks: {max_blocks}, hold: {hold_s}s");
            let allocation = match &pool.own {
                None => blocks,
                Some(own) => {
                    let mut text = format!(
                        "mode: deterministic, ports-per-subscriber: {}, hold: {}s",
                        own.each, own.hold_s
                    );
                    if own.kept > 0 {
                        text += &format!(", overflow: {{ ports: {}, {blocks} }}", own.kept);
                    }
                    text
                }
            };
            let word_of = |preserves: bool| if preserves { "preserve" } else { "random" };
            let mut choice = format!(
                "port-choice: {}, keep-parity: {}, max-held: {}, hold-closed-tcp: {}",
                word_of(pool.choice.port),
                pool.choice.parity,
                pool.max_held,
                pool.hold_closed_tcp
            );
            let mut exclude = String::new();
            if !pool.draining.is_empty() {
                let text = |a: &u32| std::net::Ipv4Addr::from(*a).to_string();
                let drain: Vec<String> = pool.draining.iter().map(text).collect();
                exclude = format!("    drain: [{}]\n", drain.join(", "));
            }
            if pool.own.is_none() {
                choice += &format!(", keep-range: {}", pool.choice.range);
                let ports: Vec<_> = pool.exclude_ports.iter().collect();
                exclude += &format!("    exclude-ports: {ports:?}\n    {}", selection(pool));
            }
            let _ = write!(
                yaml,
                "  pool{number}:\n    addresses: [{}]\n    ports: {}-{}\n    allocation: {{ \
                 {allocation}, {choice} }}\n{exclude}    filtering: {{ tcp: {}, udp: {}, icmp: {} }}\n",
                addresses.join(", "),
                pool.ports.0,
                pool.ports.1,
                word(pool.filtering[0]),
                word(pool.filtering[1]),
                word(pool.filtering[2]),
            );
            yaml += &overloading::yaml(&pool.overloading);
        }
        yaml.push_str("subscribers:\n");
        for (number, (first, last, _)) in rules.groups.iter().enumerate() {
            let length = 32 - (last - first + 1).trailing_zeros();
            let first = std::net::Ipv4Addr::from(*first);
            let limits = rules.limits.get(number).map(Limits::yaml);
            let limits = limits.map_or(String::new(), |map| format!(", limits: {map}"));
            let pools = rules.pools_yaml(number);
            let _ = writeln!(
                yaml,
                "  - {{ name: g{number}, match: [{first}/{length}], {pools}{limits} }}"
            );
        }
        yaml += &rules.statics_yaml();
        let Rules { opening_s, established_s, closing_s, reset_s, udp_s, icmp_s, .. } = rules;
        let by_port: String =
            rules.udp_by_port_s.iter().map(|(port, s)| format!(", \"{port}\": {s}s")).collect();
        let _ = write!(
            yaml,
            "nat44: {{ hairpinning: {}, inbound-refresh: {}{} }}\ntimeouts:\n  tcp: {{ established: {established_s}s, \
             opening: {opening_s}s, closing: {closing_s}s, reset: {reset_s}s }}\n  udp: {{ \
             default: {udp_s}s{by_port} }}\n  icmp: {icmp_s}s\n",
            rules.hairpinning,
            rules.inbound_refresh,
            rules.bypass_yaml()
                + &rules.carried_yaml()
                + &format!(
                    ", alg: {{ ftp: {}, pptp: {}, tftp: {} }}",
                    rules.ftp, rules.pptp, rules.tftp
                )
                + &format!(", fragments: {{ timeout: {}s }}", rules.fragments_s)
        );
        let _ = writeln!(yaml, "  other: {}s", rules.other_s);
        yaml
    }
}
