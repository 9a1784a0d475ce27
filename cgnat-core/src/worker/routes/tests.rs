use super::*;
use crate::config::Config;

const YAML: &str = "version: 1
ports:
  in: { side: internal, device: net_null0, addresses: [10.255.0.2/30], next-hop: 10.255.0.1 }
  out: { side: external, device: net_null1, addresses: [192.0.2.2/29], next-hop: 192.0.2.1 }
routes:
  - { to: 198.51.100.0/24, via: 192.0.2.3, port: out }
pools:
  main: { addresses: [203.0.113.0/28] }
subscribers:
  - { name: everyone, match: [100.64.0.0/10], pool: main }
";

fn forwarding() -> std::sync::Arc<Forwarding> {
    let config = Config::from_yaml("test.yaml", YAML).unwrap_or_else(|e| panic!("{e}"));
    Forwarding::new(&config, &[[2; 6], [4; 6]])
}

fn ip(text: &str) -> u32 {
    text.parse::<std::net::Ipv4Addr>().map_or(0, u32::from)
}

fn hop(via: &str, weight: u16) -> Hop {
    Hop { port: 1, via: Some(ip(via)), weight }
}

fn outside(learned: &[(&str, u8, Action)]) -> Routes {
    let of =
        |(network, length, action): &(&str, u8, Action)| ((ip(network), *length), action.clone());
    Routes::new(1, &forwarding(), &[Learned::new(), learned.iter().map(of).collect()])
}

fn one(via: &str) -> Action {
    Action::Forward(vec![hop(via, 1)])
}

fn find(routes: &Routes, to: &str) -> Result<(u8, u32), DropReason> {
    routes.find(Side::External, ip(to), 7)
}

#[test]
fn the_longest_prefix_decides_and_of_equal_ones_own_then_learned_then_configured() {
    let routes = outside(&[
        ("0.0.0.0", 0, one("192.0.2.4")),
        ("198.51.100.0", 24, one("192.0.2.5")),
        ("198.51.100.128", 25, Action::Refuse),
        ("192.0.2.0", 29, one("192.0.2.5")),
        ("9.9.9.9", 32, Action::Forward(vec![Hop { port: 1, via: None, weight: 1 }])),
    ]);
    assert_eq!(find(&routes, "8.8.8.8"), Ok((1, ip("192.0.2.4"))));
    assert_eq!(find(&routes, "198.51.100.1"), Ok((1, ip("192.0.2.5"))));
    assert_eq!(find(&routes, "198.51.100.200"), Err(DropReason::RouteRefused));
    assert_eq!(find(&routes, "192.0.2.6"), Ok((1, ip("192.0.2.6"))));
    assert_eq!(find(&routes, "9.9.9.9"), Ok((1, ip("9.9.9.9"))));
    // The other side has its own.
    assert_eq!(routes.find(Side::Internal, ip("8.8.8.8"), 7), Ok((0, ip("10.255.0.1"))));
    // Without anything learned the configuration is what is left.
    let routes = outside(&[]);
    assert_eq!(find(&routes, "8.8.8.8"), Ok((1, ip("192.0.2.1"))));
    assert_eq!(find(&routes, "198.51.100.1"), Ok((1, ip("192.0.2.3"))));
    let hops = [(0, ip("10.255.0.1")), (1, ip("192.0.2.1")), (1, ip("192.0.2.3"))];
    assert_eq!(routes.next_hops(), hops);
}

#[test]
fn subscribers_are_spread_by_weight_and_a_next_hop_that_goes_takes_only_its_own_along() {
    let of = |hops: Vec<Hop>| outside(&[("0.0.0.0", 0, Action::Forward(hops))]);
    let [a, b, c] = [hop("192.0.2.3", 1), hop("192.0.2.4", 1), hop("192.0.2.5", 2)];
    let (all, fewer) = (of(vec![a, b, c]), of(vec![a, c]));
    let (mut counts, mut moved) = ([0u32; 3], 0);
    let subscribers = ip("100.64.0.0")..ip("100.64.0.0") + 40_000;
    for subscriber in subscribers {
        let via = |routes: &Routes| routes.find(Side::External, ip("8.8.8.8"), subscriber);
        let (before, after) = (via(&all), via(&fewer));
        let place = [a, b, c].iter().position(|hop| Ok((1, hop.via.unwrap_or(0))) == before);
        counts[place.unwrap_or_else(|| panic!("{before:?}"))] += 1;
        // Whatever the destination.
        assert_eq!(all.find(Side::External, ip("1.1.1.1"), subscriber), before);
        moved += u32::from(before != after && before != Ok((1, ip("192.0.2.4"))));
    }
    assert_eq!(moved, 0);
    let share = |count: u32| f64::from(count) / 40_000.0;
    assert!((0.17..0.33).contains(&share(counts[0])), "{counts:?}");
    assert!((0.17..0.33).contains(&share(counts[1])), "{counts:?}");
    assert!((0.42..0.58).contains(&share(counts[2])), "{counts:?}");
}

#[test]
fn what_is_above_a_bound_is_left_out_counted_and_leaves_the_fallback() {
    // Next hops: three are of the configuration.
    let many: Vec<(u32, Action)> = (0..600)
        .map(|n| (n, Action::Forward(vec![Hop { port: 1, via: Some(0x0b00_0000 + n), weight: 1 }])))
        .collect();
    let learned: Learned =
        many.iter().map(|(n, a)| ((0x2000_0000 + (n << 8), 24), a.clone())).collect();
    let routes = Routes::new(1, &forwarding(), &[Learned::new(), learned]);
    assert_eq!(routes.refused(), 600 - (MOST_NEXT_HOPS - 3));
    assert_eq!(routes.next_hops().len(), MOST_NEXT_HOPS);
    assert_eq!(find(&routes, "32.0.0.1"), Ok((1, 0x0b00_0000)));
    assert_eq!(find(&routes, "32.2.87.1"), Ok((1, ip("192.0.2.1"))));
    // Routes.
    let learned: Learned =
        (0..70_000u32).map(|n| ((0x2000_0000 + (n << 8), 24), one("192.0.2.5"))).collect();
    let routes = Routes::new(1, &forwarding(), &[Learned::new(), learned]);
    assert_eq!(routes.list().count(), MOST_ROUTES);
    // Two prefixes of ports, two next hops and a route are of the configuration.
    assert_eq!(routes.refused(), 70_000 - (MOST_ROUTES - 5));
    assert_eq!(find(&routes, "33.17.111.1"), Ok((1, ip("192.0.2.1"))));
    // Next hops of one route.
    let hops = (0..17).map(|n| Hop { port: 1, via: Some(n), weight: 1 }).collect();
    assert_eq!(outside(&[("8.8.8.0", 24, Action::Forward(hops))]).refused(), 1);
    assert_eq!(outside(&[("8.8.8.0", 24, Action::Forward(vec![]))]).refused(), 1);
}
