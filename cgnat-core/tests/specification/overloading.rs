//! Overloaded ports, naively: which mapping a packet uses, and which ports may be shared.

use std::collections::BTreeSet;

use cgnat_core::path::SHARING_TRIES;
use cgnat_core::shard::ListedMapping;

use super::nat::{Block, Endpoint, Key, Nat, Ticks};
use super::wire::{ICMP, Protocol, TCP, UDP};

/// Destination ports that are named.
pub type Named = BTreeSet<(Protocol, u16)>;

/// Ports that are shared already, for a new flow.
pub struct Shared {
    /// Those that it may share.
    pub good: BTreeSet<Endpoint>,
    /// It must share one: so few others are in the way that none can be missed.
    pub must: bool,
}

/// `port-overloading` of a pool, as a line of its section.
pub fn yaml(named: &Named) -> String {
    if named.is_empty() {
        return String::new();
    }
    let name = |protocol: u8| if protocol == TCP { "tcp" } else { "udp" };
    let named: Vec<_> = named.iter().map(|(p, port)| format!("{}/{port}", name(*p))).collect();
    format!("    port-overloading: [{}]\n", named.join(", "))
}

/// What the specification finds a mapping of the core by.
pub fn key_of(mapping: &ListedMapping) -> Key {
    let protocol = [TCP, UDP, ICMP][mapping.protocol as usize];
    let with = mapping.only_with.map(|remote| (remote.address.0, remote.port));
    (protocol, mapping.internal.address.0, mapping.internal.port, with)
}

impl Nat {
    /// One of the mappings of an external endpoint; `n` says which.
    pub fn one_of(&self, external: &Endpoint, n: u32) -> Option<&Key> {
        let keys = self.external.get(external)?;
        keys.iter().nth(n as usize % keys.len())
    }

    fn is_live(&self, key: &Key, now: Ticks) -> bool {
        self.mappings.get(key).is_some_and(|mapping| !mapping.is_expired(now))
    }

    /// The mapping that a packet of an internal endpoint to `remote` uses, or would make.
    pub fn key_of(&self, internal: Endpoint, remote: (u32, u16), now: Ticks) -> Key {
        let (protocol, address, port) = internal;
        let (own, flow) =
            ((protocol, address, port, None), (protocol, address, port, Some(remote)));
        if self.is_live(&flow, now) {
            return flow;
        }
        let named = self.group_of(address).is_some_and(|(group, _)| {
            let pool = &self.rules.pools[self.rules.groups[group].2];
            pool.overloading.contains(&(protocol, remote.1))
        });
        if named && !self.is_live(&own, now) { flow } else { own }
    }

    /// The mapping of an external endpoint that `remote` reaches; the error says whether
    /// others reach somebody there.
    pub fn reached(&self, external: Endpoint, remote: u32) -> Result<Key, bool> {
        let keys = self.external.get(&external).ok_or(false)?;
        let reaches = |key: &&Key| key.3.is_none_or(|with| with.0 == remote);
        keys.iter().find(reaches).copied().ok_or(true)
    }

    /// Which ports a new flow may share.
    pub fn shared(&self, key: Key, blocks: &BTreeSet<Block>) -> Shared {
        let mut shared = Shared { good: BTreeSet::new(), must: false };
        let Some(remote) = key.3 else { return shared };
        for block in blocks {
            let (mut good, mut bad) = (0, 0);
            let ports = (key.0, block.0, block.1)..;
            for (endpoint, keys) in self.external.range(ports) {
                if (endpoint.0, self.block_of(endpoint.1, endpoint.2)) != (key.0, Some(*block)) {
                    break;
                }
                if keys.iter().any(|other| other.3.is_none()) {
                    continue;
                }
                let in_the_way = |other: &Key| {
                    let same_host = other.3.is_some_and(|with| with.0 == remote.0);
                    same_host || (other.0, other.1, other.2) == (key.0, key.1, key.2)
                };
                if keys.iter().any(in_the_way) {
                    bad += 1;
                } else {
                    good += 1;
                    shared.good.insert(*endpoint);
                }
            }
            shared.must |= good > 0 && bad < SHARING_TRIES;
        }
        shared
    }
}
