//! Longest-prefix match for IPv4, as workers read it: built whole, never changed.
//!
//! The first 16 bits choose an entry of a direct table; what is longer goes on in nodes of 64 places,
//! six bits each. A node has a bit for each place that goes deeper and one for each place at which the
//! value changes, so it takes 24 bytes, and the next step is found by counting bits (the poptrie of
//! Asai and Ohara, SIGCOMM 2015). So a look-up reads one to four words, and two when the prefixes
//! that matter are not longer than /22.

/// What a prefix leads to; 0 is nothing.
pub(super) type Value = u16;

/// Marks an entry that is the number of a node, not a value.
const NODE: u32 = 1 << 31;

/// Bits of the direct table, and of a node.
const DIRECT: u32 = 16;
const STEP: u32 = 6;

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// Places that go deeper.
    deeper: u64,
    /// Places, of the others, at which a value begins that the last one before has not.
    changes: u64,
    first_node: u32,
    first_value: u32,
}

/// A prefix and what it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix {
    /// First address.
    pub(super) network: u32,
    /// Bits, at most 32.
    pub(super) length: u8,
    /// What it leads to.
    pub(super) value: Value,
}

/// The table.
#[derive(Debug, Clone)]
pub(super) struct PrefixTable {
    direct: Vec<u32>,
    nodes: Vec<Node>,
    values: Vec<Value>,
}

impl PrefixTable {
    /// Of prefixes that are each given once; bits beyond their length are 0.
    pub(super) fn new(mut prefixes: Vec<Prefix>) -> Self {
        // One that holds another comes before it.
        prefixes.sort_unstable();
        let mut table =
            Self { direct: vec![0; 1 << DIRECT], nodes: Vec::new(), values: Vec::new() };
        for prefix in prefixes.iter().filter(|prefix| u32::from(prefix.length) <= DIRECT) {
            let first = (prefix.network >> DIRECT) as usize;
            let count = 1 << (DIRECT - u32::from(prefix.length));
            table.direct[first..first + count].fill(prefix.value.into());
        }
        prefixes.retain(|prefix| u32::from(prefix.length) > DIRECT);
        for inside in prefixes.chunk_by(|a, b| a.network >> DIRECT == b.network >> DIRECT) {
            let place = (inside[0].network >> DIRECT) as usize;
            let outer = table.direct[place] as Value;
            let node = table.nodes.len();
            table.nodes.push(Node::default());
            table.fill(node, inside, DIRECT, outer);
            table.direct[place] = NODE | node as u32;
        }
        table
    }

    /// Makes a node for prefixes that are longer than `depth` and share so many bits.
    fn fill(&mut self, node: usize, prefixes: &[Prefix], depth: u32, outer: Value) {
        let mut values = [outer; 1 << STEP];
        let place = |prefix: &Prefix| (prefix.network << depth >> (32 - STEP)) as usize;
        let is_short = |prefix: &&Prefix| u32::from(prefix.length) <= depth + STEP;
        for prefix in prefixes.iter().filter(is_short) {
            let count = 1 << (depth + STEP - u32::from(prefix.length));
            values[place(prefix)..place(prefix) + count].fill(prefix.value);
        }
        let long: Vec<Prefix> = prefixes.iter().filter(|p| !is_short(p)).copied().collect();
        let deeper: Vec<&[Prefix]> = long.chunk_by(|a, b| place(a) == place(b)).collect();
        let mut made = Node {
            first_node: self.nodes.len() as u32,
            first_value: self.values.len() as u32,
            ..Node::default()
        };
        for inside in &deeper {
            made.deeper |= 1 << place(&inside[0]);
        }
        let mut last = None;
        for (at, value) in values.iter().enumerate().filter(|(at, _)| made.deeper >> at & 1 == 0) {
            if last != Some(*value) {
                made.changes |= 1 << at;
                self.values.push(*value);
                last = Some(*value);
            }
        }
        self.nodes[node] = made;
        let first = self.nodes.len();
        self.nodes.resize(first + deeper.len(), Node::default());
        for (nth, inside) in deeper.into_iter().enumerate() {
            self.fill(first + nth, inside, depth + STEP, values[place(&inside[0])]);
        }
    }

    /// What the longest prefix that holds `address` leads to.
    #[inline]
    pub(super) fn find(&self, address: u32) -> Value {
        let mut entry = self.direct[(address >> DIRECT) as usize];
        let mut rest = address << DIRECT;
        while entry & NODE != 0 {
            let node = &self.nodes[(entry & !NODE) as usize];
            let bit = 1u64 << (rest >> (32 - STEP));
            if node.deeper & bit == 0 {
                let before = (node.changes & (bit | (bit - 1))).count_ones();
                return self.values[(node.first_value + before - 1) as usize];
            }
            entry = NODE | (node.first_node + (node.deeper & (bit - 1)).count_ones());
            rest <<= STEP;
        }
        entry as Value
    }

    /// Bytes that it takes.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        size_of_val(&self.direct[..]) + size_of_val(&self.nodes[..]) + size_of_val(&self.values[..])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

    use super::*;

    fn mask(length: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
    }

    /// The longest of all prefixes, one by one.
    fn naive(prefixes: &[Prefix], address: u32) -> Value {
        let holding = prefixes.iter().filter(|p| address & mask(p.length) == p.network);
        holding.max_by_key(|p| p.length).map_or(0, |p| p.value)
    }

    fn distinct(prefixes: impl Iterator<Item = (u32, u8, Value)>) -> Vec<Prefix> {
        let all: BTreeMap<(u32, u8), Value> = prefixes
            .map(|(network, length, value)| ((network & mask(length), length), value))
            .collect();
        let one = |((network, length), value)| Prefix { network, length, value };
        all.into_iter().map(one).collect()
    }

    fn compare(prefixes: &[Prefix], more: impl Iterator<Item = u32>) {
        let table = PrefixTable::new(prefixes.to_vec());
        // Where anything can change: at both ends of each prefix, and beside them.
        let ends = prefixes.iter().flat_map(|p| {
            let last = p.network | !mask(p.length);
            [p.network, p.network.wrapping_sub(1), last, last.wrapping_add(1)]
        });
        for address in ends.chain(more).chain([0, u32::MAX]) {
            let (found, right) = (table.find(address), naive(prefixes, address));
            assert_eq!(found, right, "{:?}", std::net::Ipv4Addr::from(address));
        }
    }

    #[test]
    fn random_tables_answer_like_a_search_through_all_prefixes() {
        let mut random = ChaCha8Rng::seed_from_u64(31);
        for round in 0..300u32 {
            let count = random.next_u32() % [4, 40, 400][round as usize % 3];
            // Crowded, so that prefixes lie in each other; or all over the place.
            let crowd = [0xffff_ffff, 0x0000_ffff, 0x003f_ffff, 0x0000_03ff][round as usize % 4];
            let prefixes = distinct((0..count).map(|n| {
                let network = 0xc633_6400 ^ random.next_u32() & crowd;
                (network, (random.next_u32() % 33) as u8, (n % 5 + 1) as Value)
            }));
            let more: Vec<u32> =
                (0..200).map(|_| 0xc633_6400 ^ random.next_u32() & crowd).collect();
            compare(&prefixes, more.into_iter());
        }
    }

    #[test]
    fn the_same_prefixes_in_any_order_make_the_same_table() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut prefixes =
            distinct((0..2_000).map(|n| (random.next_u32(), (n % 33) as u8, n as Value)));
        let table = PrefixTable::new(prefixes.clone());
        for n in (1..prefixes.len()).rev() {
            prefixes.swap(n, random.next_u32() as usize % (n + 1));
        }
        let other = PrefixTable::new(prefixes);
        for _ in 0..100_000 {
            let address = random.next_u32();
            assert_eq!(table.find(address), other.find(address));
        }
    }

    #[test]
    fn nothing_and_everything_and_one_address() {
        compare(&[], [5].into_iter());
        let everything = Prefix { network: 0, length: 0, value: 9 };
        compare(&[everything], [5].into_iter());
        let one = Prefix { network: 0x0a00_0001, length: 32, value: 3 };
        compare(&[one], [0x0a00_0000, 0x0a00_0002].into_iter());
        compare(&[everything, one], [0x0a00_0000, 0x0a00_0002].into_iter());
    }

    #[test]
    fn sixty_five_thousand_hosts_far_apart_take_less_than_eight_megabytes() {
        let hosts = (0..65_536u32).map(|n| (n << 16 | n.wrapping_mul(40_503) & 0xffff, 32, 1));
        let table = PrefixTable::new(distinct(hosts));
        assert!(table.bytes() < 8 << 20, "{}", table.bytes());
        assert_eq!(table.find(3 << 16 | 3u32.wrapping_mul(40_503) & 0xffff), 1);
    }
}
