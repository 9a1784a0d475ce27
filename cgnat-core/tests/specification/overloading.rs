//! Overloaded ports, naively: which mapping a packet uses, and which ports may be shared.

use std::collections::BTreeSet;

use cgnat_core::path::SHARING_TRIES;

use super::nat::{Block, Endpoint, Key, Nat, Ticks};
use super::wire::{Protocol, TCP};

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
    pub fn key_with(&self, internal: Endpoint, remote: (u32, u16), now: Ticks) -> Key {
        let (protocol, address, port) = internal;
        let realm = self.realm(address, protocol, remote);
        let key = |with| (protocol, address, port, with, realm);
        let (own, flow) = (key(None), key(Some(remote)));
        if self.is_live(&flow, now) {
            return flow;
        }
        let named = self.group_of(address).is_some_and(|(group, _)| {
            let held = self.subscribers.get(&(address, realm)).map(|held| held.address);
            let first = self.realms_of(group)[realm][0];
            let pool = held.and_then(|held| self.pool_with(held));
            pool.unwrap_or(&self.rules.pools[first]).overloading.contains(&(protocol, remote.1))
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
                    same_host
                        || (other.0, other.1, other.2, other.4) == (key.0, key.1, key.2, key.4)
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
