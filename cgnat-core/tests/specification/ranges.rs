//! Deterministic pools: a range of ports for each subscriber, handed out one after the other
//! (RFC 7422), and the blocks behind the ranges.

use std::collections::{BTreeMap, BTreeSet};

use super::nat::{Nat, Pool};

/// A deterministic pool.
#[derive(Debug, Clone)]
pub struct Own {
    /// Ports of a range.
    pub each: u16,
    /// Upper ports of each address that are no ranges.
    pub kept: u16,
    pub hold_s: u64,
}

impl Pool {
    /// Ranges of one address.
    pub fn ranges(&self) -> u16 {
        let ports = self.ports.1 - self.ports.0 + 1;
        self.own.as_ref().map_or(0, |own| (ports - own.kept) / own.each)
    }

    /// First ports of the blocks of one address that are lent on demand.
    pub fn blocks(&self) -> Vec<u16> {
        let mut first = self.ports.0 + self.own.as_ref().map_or(0, |o| o.each * self.ranges());
        let mut list = Vec::new();
        while u32::from(first) + u32::from(self.block_size) <= u32::from(self.ports.1) + 1 {
            list.push(first);
            first = first.saturating_add(self.block_size);
        }
        if self.own.as_ref().is_some_and(|own| own.kept == 0) { vec![] } else { list }
    }

    /// First port and size of the block or range that a port lies in.
    pub fn piece(&self, port: u16) -> Option<(u16, u16)> {
        if !(self.ports.0..=self.ports.1).contains(&port) {
            return None;
        }
        let (mut start, mut size) = (self.ports.0, self.block_size);
        if let Some(own) = &self.own {
            if self.is_range(port) {
                size = own.each;
            } else if own.kept == 0 {
                return None;
            } else {
                start += own.each * self.ranges();
            }
        }
        let first = port - (port - start) % size;
        // What is left over at the end is no block.
        (u32::from(first) + u32::from(size) <= u32::from(self.ports.1) + 1).then_some((first, size))
    }

    pub fn is_range(&self, port: u16) -> bool {
        self.own.as_ref().is_some_and(|own| port < self.ports.0 + own.each * self.ranges())
    }
}

impl Nat {
    /// Hands out ranges: subscribers in the order of the groups, ports from the first of the
    /// first address on (RFC 7422 section 2, algorithm 0).
    pub fn assign(&mut self) {
        self.own.clear();
        let mut seen = BTreeSet::new();
        let mut next: BTreeMap<usize, usize> = BTreeMap::new();
        for (group, (first, last, _)) in self.rules.groups.iter().enumerate() {
            let used: BTreeSet<usize> = self.realms_of(group).into_iter().flatten().collect();
            for internal in *first..=*last {
                let is_new = seen.insert(internal);
                for number in used.iter().filter(|_| is_new) {
                    let pool = &self.rules.pools[*number];
                    let Some(own) = &pool.own else { continue };
                    let place = next.entry(*number).or_default();
                    let ranges = usize::from(pool.ranges());
                    let address = pool.addresses.iter().nth(*place / ranges);
                    let Some(address) = address else { continue };
                    let first = pool.ports.0 + (*place % ranges) as u16 * own.each;
                    self.own.insert((internal, *number), (*address, first));
                    *place += 1;
                }
            }
        }
    }
}
