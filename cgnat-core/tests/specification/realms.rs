//! Several pools for one group, in order and by destination, naively: lists that are read from
//! the first to the last.

use std::fmt::Write;
use std::net::Ipv4Addr;

use cgnat_core::shard::ListedMapping;

use super::nat::{Key, Nat, Rules, Seen, Ticks};
use super::wire::{ICMP, Packet, Protocol, TCP, UDP};

/// What a group has besides its pool.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    /// For new subscribers that the pool cannot take, in order.
    pub spare: Vec<usize>,
    pub destinations: Vec<Destination>,
}

/// Flows that use other pools.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Prefixes with their lengths.
    pub to: Vec<(u32, u32)>,
    pub protocol: Option<Protocol>,
    /// Empty is any, and flows without ports.
    pub ports: Vec<(u16, u16)>,
    pub pools: Vec<usize>,
}

impl Destination {
    fn is_for(&self, protocol: Protocol, (address, port): (u32, u16)) -> bool {
        let holds =
            |(net, length): &(u32, u32)| *length == 0 || (net ^ address) >> (32 - length) == 0;
        let has_port = matches!(protocol, TCP | UDP)
            && self.ports.iter().any(|(a, b)| (*a..=*b).contains(&port));
        self.to.iter().any(holds)
            && self.protocol.is_none_or(|of| of == protocol)
            && (self.ports.is_empty() || has_port)
    }
}

fn list(pools: &[usize]) -> String {
    let names: Vec<String> = pools.iter().map(|pool| format!("pool{pool}")).collect();
    format!("[{}]", names.join(", "))
}

/// A key of the core as the specification writes it.
pub fn number(mapping: &ListedMapping) -> Key {
    let ListedMapping { protocol, internal, only_with, realm, .. } = mapping;
    let with = only_with.map(|remote| (remote.address.0, remote.port));
    let protocol = [TCP, UDP, ICMP][*protocol as usize];
    (protocol, internal.address.0, internal.port, with, usize::from(realm.0))
}

impl Rules {
    pub fn ways_of(&self, group: usize) -> Ways {
        self.ways.get(group).cloned().unwrap_or_default()
    }

    /// `pool` and `destinations` of a group.
    pub fn pools_yaml(&self, group: usize) -> String {
        let ways = self.ways_of(group);
        let own = [&[self.groups[group].2], &ways.spare[..]].concat();
        let mut yaml = format!("pool: {}", list(&own));
        if ways.destinations.is_empty() {
            return yaml;
        }
        yaml += ", destinations: [";
        for rule in &ways.destinations {
            let to = |(net, length): &(u32, u32)| format!("{}/{length}", Ipv4Addr::from(*net));
            let to: Vec<String> = rule.to.iter().map(to).collect();
            let _ = write!(yaml, "{{ to: [{}], pool: {}", to.join(", "), list(&rule.pools));
            let protocol = rule.protocol.map(|protocol| match protocol {
                TCP => "tcp",
                UDP => "udp",
                _ => "icmp",
            });
            let _ = write!(yaml, ", protocol: {}", protocol.unwrap_or("any"));
            let ports: Vec<String> = rule.ports.iter().map(|(a, b)| format!("{a}-{b}")).collect();
            if !ports.is_empty() {
                let _ = write!(yaml, ", ports: [{}]", ports.join(", "));
            }
            yaml += " }, ";
        }
        yaml + "]"
    }
}

impl Nat {
    /// The different lists of pools of a group, its own first.
    pub fn realms_of(&self, group: usize) -> Vec<Vec<usize>> {
        let ways = self.rules.ways_of(group);
        let mut realms = vec![[&[self.rules.groups[group].2], &ways.spare[..]].concat()];
        for rule in ways.destinations {
            if !realms.contains(&rule.pools) {
                realms.push(rule.pools);
            }
        }
        realms
    }

    /// The realm of a flow of an internal address.
    pub fn realm(&self, internal: u32, protocol: Protocol, remote: (u32, u16)) -> usize {
        let Some((group, _)) = self.group_of(internal) else { return 0 };
        let ways = self.rules.ways_of(group);
        let found = ways.destinations.iter().find(|rule| rule.is_for(protocol, remote));
        found.map_or(0, |rule| {
            let place = self.realms_of(group).iter().position(|pools| *pools == rule.pools);
            place.unwrap_or(0)
        })
    }

    /// What an outbound packet is looked up by.
    pub fn key_of(&self, packet: &Packet, now: Ticks) -> Key {
        let internal = (packet.protocol(), packet.source, packet.from().1);
        self.key_with(internal, packet.to(), now)
    }

    /// Blocks of a subscriber in other realms than this.
    pub fn blocks_elsewhere(&self, (internal, realm): (u32, usize)) -> usize {
        let all = self.subscribers.range((internal, 0)..=(internal, usize::MAX));
        let others = all.filter(|(id, _)| id.1 != realm);
        others.map(|(_, other)| other.blocks.len()).sum()
    }

    /// The pool of an address that is held or that the core chose, or, where it refused, the
    /// last.
    pub fn pool_for(&self, group: usize, realm: usize, address: Option<u32>) -> usize {
        let pools = &self.realms_of(group)[realm];
        let has = |pool: &&usize| {
            address.is_some_and(|a| self.rules.pools[**pool].addresses.contains(&a))
        };
        *pools.iter().find(has).or(pools.last()).unwrap_or(&0)
    }

    /// Whether each pool before the one that was chosen, or all but the last, had no room for a
    /// new subscriber.
    pub fn passed_over(
        &self,
        group: usize,
        (internal, realm): (u32, usize),
        chosen: Option<usize>,
        seen: &Seen,
    ) -> Result<(), &'static str> {
        let pools = &self.realms_of(group)[realm];
        let chosen = chosen.and_then(|chosen| pools.iter().position(|pool| *pool == chosen));
        for number in &pools[..chosen.unwrap_or(pools.len() - 1)] {
            let pool = &self.rules.pools[*number];
            let is_full = |address: u32| self.free_blocks(pool, address) == 0;
            let refuses = seen.scarce_pools[*number]
                || pool.address_by_bits(internal).is_some_and(is_full)
                || self.is_crowded(pool, internal);
            if !refuses {
                return Err("an earlier pool had room");
            }
        }
        Ok(())
    }
}
