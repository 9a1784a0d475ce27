//! The arithmetic of deterministic pools against a list that is made by counting.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use cgnat_core::config::Config;
use cgnat_core::layout::Layout;
use cgnat_core::space::ExternalSpace;
use cgnat_core::space::lookup::{Forward, Reverse};
use proptest::prelude::*;

/// A deterministic pool and one of blocks, and who may use them.
#[derive(Debug, Clone)]
struct Shape {
    addresses: u32,
    ports: (u32, u32),
    each: u32,
    /// Ports, size of a block.
    overflow: Option<(u32, u32)>,
    /// Network, length, whether of the deterministic pool.
    ranges: Vec<(u32, u8, bool)>,
}

const EXTERNAL: u32 = 0xcb00_7100;

fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(n)
}

impl Shape {
    fn yaml(&self) -> String {
        let overflow = self.overflow.map_or(String::new(), |(ports, size)| {
            format!(", overflow: {{ ports: {ports}, block-size: {size} }}")
        });
        let ranges = self.ranges.iter().enumerate().map(|(n, (network, length, ours))| {
            let pool = if *ours { "det" } else { "blocks" };
            format!("  - {{ name: g{n}, match: [{}/{length}], pool: {pool} }}\n", address(*network))
        });
        format!(
            "version: 1
ports:
  in: {{ side: internal, device: net_null0, addresses: [10.255.0.2/30], next-hop: 10.255.0.1 }}
  out: {{ side: external, device: net_null1, addresses: [192.0.2.2/30], next-hop: 192.0.2.1 }}
pools:
  blocks: {{ addresses: [198.51.100.7], ports: 1024-2047, spare-addresses: 0 }}
  det:
    addresses: [{}-{}]
    ports: {}-{}
    allocation: {{ mode: deterministic, ports-per-subscriber: {}{overflow} }}
subscribers:
{}",
            address(EXTERNAL),
            address(EXTERNAL + self.addresses - 1),
            self.ports.0,
            self.ports.1,
            self.each,
            ranges.collect::<String>()
        )
    }

    /// Subscribers of the deterministic pool in the order of their numbers, by looking at
    /// each address of each range and crossing out what was seen before.
    fn subscribers(&self) -> Vec<u32> {
        let mut seen = std::collections::BTreeSet::new();
        let mut list = Vec::new();
        for (network, length, ours) in &self.ranges {
            for n in *network..=*network + ((1 << (32 - length)) - 1) {
                if seen.insert(n) && *ours {
                    list.push(n);
                }
            }
        }
        list
    }

    /// Hands out ports from the first of the first address on.
    fn table(&self) -> BTreeMap<(u32, u16), u32> {
        let kept = self.overflow.map_or(0, |(ports, _)| ports);
        let end = self.ports.1 - kept;
        let (mut external, mut first) = (EXTERNAL, self.ports.0);
        let mut table = BTreeMap::new();
        for subscriber in self.subscribers() {
            if first + self.each - 1 > end {
                (external, first) = (external + 1, self.ports.0);
            }
            for port in first..first + self.each {
                table.insert((external, port as u16), subscriber);
            }
            first += self.each;
        }
        table
    }
}

/// Forward and reverse agree with the table for all subscribers and all ports.
fn check(shape: &Shape) -> Result<(), TestCaseError> {
    let yaml = shape.yaml();
    let config = Config::from_yaml("shape.yaml", &yaml);
    let subscribers = shape.subscribers();
    let per_address = {
        let kept = shape.overflow.map_or(0, |(ports, _)| ports);
        (shape.ports.1 - shape.ports.0 + 1 - kept) / shape.each
    };
    let config = match config {
        Ok(config) => config,
        Err(problems) => {
            let too_many = subscribers.len() as u32 > per_address * shape.addresses;
            let shadowed = problems.to_string().contains("never matches");
            prop_assert!(too_many || shadowed, "{problems}");
            return Ok(());
        }
    };
    let space = ExternalSpace::new(&config);
    let table = shape.table();
    for (number, subscriber) in subscribers.iter().enumerate() {
        let Some(range) = space.forward(&config, address(*subscriber)).only_range() else {
            return Err(TestCaseError::fail(format!("{} has no range", address(*subscriber))));
        };
        prop_assert_eq!(range.number as usize, number);
        prop_assert_eq!(u32::from(range.ports.1 - range.ports.0) + 1, shape.each);
        for port in range.ports.0..=range.ports.1 {
            prop_assert_eq!(table.get(&(range.external.into(), port)), Some(subscriber));
        }
    }
    for (network, length, ours) in &shape.ranges {
        let beyond = network.wrapping_add(1 << (32 - length));
        for n in [*network, beyond, network.wrapping_sub(1)] {
            let found = space.forward(&config, address(n));
            match shape.ranges.iter().find(|(net, len, _)| (net ^ n) >> (32 - len) == 0) {
                None => prop_assert_eq!(found, Forward::NotSubscriber),
                Some((_, _, false)) => {
                    let on_demand = Forward::Pools { ranges: vec![], on_demand: vec![0] };
                    prop_assert_eq!(found, on_demand);
                }
                Some((_, _, true)) => {
                    prop_assert!(found.only_range().is_some(), "{} {ours}", address(n))
                }
            }
        }
    }
    // Every port of every address, and one on either side of what is lent.
    let (mut overflow, mut left) = (0, 0);
    for external in EXTERNAL..EXTERNAL + shape.addresses {
        for port in (shape.ports.0 - 1)..=(shape.ports.1 + 1).min(65_535) {
            let port = port as u16;
            let owner = table.get(&(external, port)).copied();
            match space.reverse(address(external), port) {
                Reverse::Range(range) => {
                    prop_assert_eq!(owner, Some(u32::from(range.internal)));
                    prop_assert!((range.ports.0..=range.ports.1).contains(&port));
                    prop_assert_eq!(u32::from(range.external), external);
                }
                other => {
                    prop_assert_eq!(owner, None, "{:?}", other);
                    overflow += u32::from(matches!(other, Reverse::Dynamic { .. }));
                    left += u32::from(matches!(other, Reverse::NotLent { .. }));
                }
            }
        }
    }
    let ports = shape.ports.1 - shape.ports.0 + 1;
    let spare = ports - per_address * shape.each;
    let whole = shape.overflow.map_or(0, |(_, size)| spare / size * size);
    prop_assert_eq!(overflow, whole * shape.addresses);
    let outside = 1 + u32::from(shape.ports.1 < 65_535);
    prop_assert_eq!(left, (spare - whole + outside) * shape.addresses);
    prop_assert_eq!(space.reverse(address(EXTERNAL - 1), 2000), Reverse::Elsewhere);
    // Memory for ports that somebody may use, and for no other (512-port blocks beside it).
    let used = (table.len() as u32 + overflow + 1024) * 3;
    prop_assert_eq!(Layout::new(&config, 2).port_slots, u64::from(used));
    Ok(())
}

fn shape() -> impl Strategy<Value = Shape> {
    let range = (0u32..4, 24u32..=32, any::<bool>()).prop_map(|(n, length, ours)| {
        let host = 0x6440_0000 + n * 77;
        (host & (u32::MAX << (32 - length)), length as u8, ours)
    });
    let size = proptest::sample::select(vec![64u32, 128, 256]);
    (
        1u32..6,
        1u32..64_000,
        16u32..6_000,
        16u32..3_000,
        proptest::option::of((64u32..700, size)),
        proptest::collection::vec(range, 1..5),
    )
        .prop_map(|(addresses, first, span, each, overflow, ranges)| {
            let overflow = overflow.map(|(ports, size): (u32, u32)| (ports.max(size), size));
            let least = each + overflow.map_or(0, |(ports, _)| ports);
            let last = (first + least.max(span) - 1).min(65_535);
            let first = first.min(last + 1 - least);
            let mut shape = Shape { addresses, ports: (first, last), each, overflow, ranges };
            let kept = overflow.map_or(0, |(ports, _)| ports);
            let needed = shape.subscribers().len() as u32;
            // Mostly enough addresses, if that does not take too many.
            let needed = needed.div_ceil((last + 1 - first - kept) / each);
            if addresses > 1 && needed <= 100 {
                shape.addresses = addresses.max(needed);
            }
            shape
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn reverse_undoes_forward_and_both_agree_with_counting_7422_s2a(shape in shape()) {
        check(&shape)?;
    }
}

#[test]
fn shapes_of_real_pools_agree_with_counting_7422_s2a() {
    let net = 0x6460_0000;
    let shapes = [
        // 32 subscribers of 2016 ports on an address: nothing is left over.
        (16, (1024, 65_535), 2016, None, vec![(net, 23, true)]),
        // Half a word more or less than whole words of the port bitmap.
        (3, (1024, 65_535), 2017, Some((1024, 64)), vec![(net, 26, true)]),
        (2, (1024, 65_535), 1000, Some((500, 256)), vec![(net, 26, true), (net, 24, false)]),
        // One subscriber has a whole address, from the first port to the last.
        (4, (1, 65_535), 65_535, None, vec![(net, 31, true), (net + 9, 32, true)]),
        (1, (1024, 1039), 16, None, vec![(net, 32, true)]),
    ];
    for (addresses, ports, each, overflow, ranges) in shapes {
        let shape = Shape { addresses, ports, each, overflow, ranges };
        assert!(Config::from_yaml("shape.yaml", &shape.yaml()).is_ok(), "{shape:?}");
        check(&shape).unwrap_or_else(|error| panic!("{shape:?}: {error}"));
    }
}

#[test]
fn no_range_holds_a_reserved_port_7422_s2_step1() {
    let shape = Shape {
        addresses: 2,
        ports: (1024, 65_535),
        each: 900,
        overflow: Some((128, 64)),
        ranges: vec![(0x6440_0000, 25, true)],
    };
    let config = Config::from_yaml("shape.yaml", &shape.yaml()).unwrap_or_else(|e| panic!("{e}"));
    let space = ExternalSpace::new(&config);
    for port in 0..1024 {
        let found = space.reverse(address(EXTERNAL), port);
        assert_eq!(found, Reverse::NotLent { pool: 1 }, "{port}");
    }
}

#[test]
fn ports_that_the_ranges_leave_over_are_overflow_6888_req_13() {
    // 32 ranges of 2000 ports take 64,000 of 64,512; 64 are kept, and 512 are lent.
    let mut shape = Shape {
        addresses: 1,
        ports: (1024, 65_535),
        each: 2000,
        overflow: Some((64, 64)),
        ranges: vec![(0x6440_0000, 27, true)],
    };
    let slots = |shape: &Shape| {
        let yaml = shape.yaml();
        let config = Config::from_yaml("s.yaml", &yaml).unwrap_or_else(|e| panic!("{e}"));
        Layout::new(&config, 1).port_slots / 3 - 1024
    };
    assert_eq!(slots(&shape), 64_512);
    shape.overflow = None;
    assert_eq!(slots(&shape), 64_000);
}
