//! Which list of pools a flow uses, by its destination: rules in order, the first match wins.
//!
//! The rules are cut at the start into intervals of remote addresses, each with the rules that
//! can match there. A packet costs one binary search and the few rules of its interval.

use crate::config::DestinationRule;
use crate::endpoint::{IpProtocol, Realm, RemoteEndpoint};
use crate::policy::service::Service;

/// The rules of one group.
#[derive(Debug, Clone, Default)]
pub struct Destinations {
    rules: Vec<(Service, Realm)>,
    /// First address of each interval, ascending from 0; without rules, none.
    starts: Vec<u32>,
    /// By interval, numbers of the rules that can match there, in order.
    candidates: Vec<Vec<u16>>,
}

impl Destinations {
    /// From validated rules.
    pub fn new(rules: &[DestinationRule]) -> Self {
        if rules.is_empty() {
            return Self::default();
        }
        let spans = |rule: &DestinationRule| -> Vec<(u32, u32)> {
            let span =
                |net: &ipnet::Ipv4Net| (u32::from(net.network()), u32::from(net.broadcast()));
            rule.to().iter().map(span).collect()
        };
        let all: Vec<Vec<(u32, u32)>> = rules.iter().map(spans).collect();
        let bounds = all.iter().flatten();
        let mut starts: Vec<u32> = bounds
            .flat_map(|(first, last)| [Some(*first), last.checked_add(1)])
            .flatten()
            .collect();
        starts.push(0);
        starts.sort_unstable();
        starts.dedup();
        let there = |start: &u32| -> Vec<u16> {
            let holds =
                |spans: &Vec<(u32, u32)>| spans.iter().any(|(a, b)| (a..=b).contains(&start));
            (0u16..).zip(&all).filter(|(_, spans)| holds(spans)).map(|(n, _)| n).collect()
        };
        let rule = |rule: &DestinationRule| {
            (Service::new(rule.protocol().map(IpProtocol::from), rule.ports()), rule.realm())
        };
        Self {
            candidates: starts.iter().map(there).collect(),
            rules: rules.iter().map(rule).collect(),
            starts,
        }
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The realm of a remote end, whose port means nothing but for TCP and UDP.
    #[inline]
    pub fn realm_of(&self, protocol: IpProtocol, remote: RemoteEndpoint) -> Realm {
        let after = self.starts.partition_point(|start| *start <= remote.address.0);
        let Some(candidates) = after.checked_sub(1).map(|place| &self.candidates[place]) else {
            return Realm::OWN;
        };
        let mut rules = candidates.iter().map(|number| &self.rules[usize::from(*number)]);
        let port = protocol.has_ports().then_some(remote.port);
        let found = rules.find(|(service, _)| service.is_for(protocol, port));
        found.map_or(Realm::OWN, |(_, realm)| *realm)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::endpoint::Protocol;

    fn rule(
        to: &[&str],
        protocol: Option<Protocol>,
        ports: &[(u16, u16)],
        realm: u8,
    ) -> DestinationRule {
        let to = to.iter().map(|net| net.parse().expect("a prefix")).collect();
        DestinationRule { to, protocol, ports: ports.to_vec(), realm }
    }

    fn at(rules: &Destinations, protocol: impl Into<IpProtocol>, address: &str, port: u16) -> u8 {
        let address: Ipv4Addr = address.parse().expect("an address");
        rules.realm_of(protocol.into(), RemoteEndpoint::new(address, port)).0
    }

    #[test]
    fn the_first_rule_that_holds_address_protocol_and_port_wins() {
        use Protocol::{Icmp, Tcp, Udp};
        let rules = Destinations::new(&[
            rule(&["198.51.100.0/24"], Some(Udp), &[(53, 53), (5000, 5010)], 1),
            rule(&["198.51.100.7/32", "192.0.2.0/24"], None, &[(443, 443)], 2),
            rule(&["198.51.100.0/25"], None, &[], 3),
            rule(&["0.0.0.0/0"], Some(Icmp), &[], 4),
            rule(&["255.255.255.255/32"], None, &[], 5),
        ]);
        for (protocol, address, port, realm) in [
            (Udp, "198.51.100.7", 53, 1),
            (Udp, "198.51.100.200", 5010, 1),
            (Udp, "198.51.100.200", 5011, 0),
            (Udp, "198.51.101.0", 53, 0),
            (Udp, "198.51.99.255", 53, 0),
            (Udp, "198.51.100.7", 443, 2),
            (Tcp, "198.51.100.7", 53, 3),
            (Tcp, "198.51.100.127", 80, 3),
            (Tcp, "198.51.100.128", 80, 0),
            (Tcp, "192.0.2.255", 443, 2),
            (Tcp, "192.0.3.0", 443, 0),
            // An identifier is no port.
            (Icmp, "192.0.2.1", 443, 4),
            (Icmp, "198.51.100.1", 53, 3),
            (Icmp, "0.0.0.0", 1, 4),
            (Tcp, "255.255.255.255", 1, 5),
            (Tcp, "255.255.255.254", 1, 0),
        ] {
            assert_eq!(at(&rules, protocol, address, port), realm, "{protocol} {address}:{port}");
        }
        // A protocol without ports is nobody's but a rule's for all.
        for (address, realm) in [("198.51.100.7", 3), ("192.0.2.1", 0), ("255.255.255.255", 5)] {
            assert_eq!(at(&rules, IpProtocol::GRE, address, 443), realm, "gre {address}");
        }
        assert!(!rules.is_empty());
    }

    #[test]
    fn without_rules_everything_is_in_the_own_realm() {
        let none = Destinations::new(&[]);
        assert!(none.is_empty());
        assert_eq!(at(&none, Protocol::Udp, "198.51.100.7", 53), 0);
    }

    #[test]
    fn intervals_answer_as_the_list_does() {
        // Overlapping prefixes of every length around a few addresses.
        let rules: Vec<DestinationRule> = (0..120u32)
            .map(|n| {
                let length = (n * 7 % 33) as u8;
                let net = ipnet::Ipv4Net::new(Ipv4Addr::from(n.wrapping_mul(0x9e37_79b9)), length);
                let to = vec![net.expect("a length").trunc()];
                let protocol = [None, Some(Protocol::Tcp), Some(Protocol::Udp)][n as usize % 3];
                let ports = if length < 12 { vec![(n as u16, n as u16 + 3)] } else { vec![] };
                DestinationRule { to, protocol, ports, realm: (n % 16) as u8 }
            })
            .collect();
        let cut = Destinations::new(&rules);
        for n in 0..20_000u32 {
            let address = match n % 2 {
                0 => n.wrapping_mul(0x61c8_8647),
                _ => (n % 120).wrapping_mul(0x9e37_79b9).wrapping_add(n % 5).wrapping_sub(2),
            };
            let (protocol, port) = (Protocol::ALL[n as usize % 3], (n % 130) as u16);
            let listed = rules.iter().find(|rule| {
                let of = rule.protocol.is_none_or(|of| of == protocol);
                let port = rule.ports.is_empty()
                    || protocol != Protocol::Icmp
                        && rule.ports.iter().any(|(a, b)| (*a..=*b).contains(&port));
                of && port && rule.to[0].contains(&Ipv4Addr::from(address))
            });
            let remote = RemoteEndpoint::new(address, port);
            let expected = listed.map_or(Realm::OWN, DestinationRule::realm);
            assert_eq!(cut.realm_of(protocol.into(), remote), expected, "{n}");
        }
    }
}
