//! Bypass: what passes untranslated (RFC 6888 REQ-6).
//!
//! A rule names remote addresses, and may name internal ones, a protocol and remote ports. It
//! is needed in no order and keeps no state: the same question is asked of an outbound packet,
//! of an inbound one, of an ICMP error about either, and by the last check before an external
//! port.
//!
//! Which side an address lies on is decided by the longest prefix. With `to: 10.0.0.0/8` and
//! subscribers in 10.64.0.0/10, subscribers are still inside; with subscribers in 10.0.0.0/8,
//! `to: 10.20.0.0/16` lies outside. Shared space (RFC 6598) is passed only by a rule that
//! names a part of it.

use ipnet::Ipv4Net;

use crate::config::BypassRule;
use crate::endpoint::IpProtocol;
use crate::policy::service::Service;

/// Stronger than any prefix: never outside.
const ALWAYS_INSIDE: u8 = 34;

/// 100.64.0.0/10: any rule that lies in it names it.
const SHARED: (u32, u32, u8) = (0x6440_0000, 0x647f_ffff, 10);

/// 169.254.0.0/16 is never forwarded (RFC 3927 section 2.7).
const LINK_LOCAL: (u32, u32, u8) = (0xa9fe_0000, 0xa9fe_ffff, ALWAYS_INSIDE);

/// A packet's two ends, or those of the packet that an ICMP error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Address on the internal side.
    pub internal: u32,
    /// Address on the external side.
    pub remote: u32,
    /// IP protocol.
    pub protocol: IpProtocol,
    /// Port on the external side; none if the packet shows none: it is not TCP or UDP, or a
    /// fragment.
    pub remote_port: Option<u16>,
}

#[derive(Debug, Clone)]
struct Rule {
    to: (u32, u32),
    /// Length of `to` plus one.
    weight: u8,
    from: Option<(u32, u32)>,
    service: Service,
}

impl Rule {
    fn is_for(&self, ends: &Ends) -> bool {
        self.service.is_for(ends.protocol, ends.remote_port)
            && (self.to.0..=self.to.1).contains(&ends.remote)
    }
}

/// All rules.
#[derive(Debug, Clone, Default)]
pub struct Bypass {
    rules: Vec<Rule>,
    /// A bit for each /16 that a rule reaches into; without rules, nothing at all.
    near: Vec<u64>,
    /// Ranges of subscribers.
    subscribers: Vec<(u32, u32)>,
    /// Ranges that lie inside, each with its weight.
    inside: Vec<(u32, u32, u8)>,
}

fn span(net: Ipv4Net) -> (u32, u32) {
    (u32::from(net.network()), u32::from(net.broadcast()))
}

fn weighed(net: Ipv4Net, weight: u8) -> (u32, u32, u8) {
    (u32::from(net.network()), u32::from(net.broadcast()), weight)
}

impl Bypass {
    /// From validated rules; `subscribers` are their ranges, `connected` the prefixes of
    /// internal ports.
    pub fn new(
        rules: &[BypassRule],
        subscribers: impl Iterator<Item = Ipv4Net>,
        connected: impl Iterator<Item = Ipv4Net>,
    ) -> Self {
        if rules.is_empty() {
            return Self::default();
        }
        let mut near = vec![0; 1024];
        for (first, last) in rules.iter().map(|rule| span(rule.to())) {
            (first >> 16..=last >> 16).for_each(|bit| near[bit as usize / 64] |= 1 << (bit % 64));
        }
        let ranges: Vec<Ipv4Net> = subscribers.collect();
        let from = rules.iter().filter_map(BypassRule::from);
        let inside =
            ranges.iter().copied().chain(from).map(|net| weighed(net, net.prefix_len() + 1));
        let connected = connected.map(|net| weighed(net, ALWAYS_INSIDE));
        let rule = |rule: &BypassRule| Rule {
            to: span(rule.to()),
            weight: rule.to().prefix_len() + 1,
            from: rule.from().map(span),
            service: Service::new(rule.protocol().map(IpProtocol), rule.ports()),
        };
        Self {
            rules: rules.iter().map(rule).collect(),
            near,
            inside: inside.chain(connected).chain([SHARED, LINK_LOCAL]).collect(),
            subscribers: ranges.into_iter().map(span).collect(),
        }
    }

    /// Whether there is no rule.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a packet with these ends passes untranslated, in either direction.
    pub fn allows(&self, ends: &Ends) -> bool {
        if !self.is_near(ends.remote) {
            return false;
        }
        let weight = self.weight_inside(ends.remote);
        let mut rules = self.rules.iter().filter(|rule| rule.weight > weight && rule.is_for(ends));
        rules.any(|rule| self.is_from(rule, ends.internal)) && !self.is_outside(ends.internal)
    }

    fn is_from(&self, rule: &Rule, internal: u32) -> bool {
        let holds = |range: &(u32, u32)| (range.0..=range.1).contains(&internal);
        match &rule.from {
            Some(from) => holds(from),
            None => self.subscribers.iter().any(holds),
        }
    }

    /// Whether an address lies outside by the word of some rule.
    pub fn is_outside(&self, address: u32) -> bool {
        if !self.is_near(address) {
            return false;
        }
        let weight = self.weight_inside(address);
        let holds = |rule: &Rule| (rule.to.0..=rule.to.1).contains(&address);
        self.rules.iter().any(|rule| rule.weight > weight && holds(rule))
    }

    #[inline]
    fn is_near(&self, address: u32) -> bool {
        let bit = address >> 16;
        self.near.get(bit as usize / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    fn weight_inside(&self, address: u32) -> u8 {
        let holding = self.inside.iter().filter(|(a, b, _)| (*a..=*b).contains(&address));
        holding.map(|(_, _, weight)| *weight).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> u32 {
        u32::from(text.parse::<std::net::Ipv4Addr>().expect("an address"))
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    fn rule(
        to: &str,
        from: Option<&str>,
        protocol: Option<u8>,
        ports: &[(u16, u16)],
    ) -> BypassRule {
        BypassRule { to: net(to), from: from.map(net), protocol, ports: ports.to_vec() }
    }

    fn bypass(rules: &[BypassRule], subscribers: &str) -> Bypass {
        let connected = [net("10.255.0.0/30")].into_iter();
        Bypass::new(rules, [net(subscribers)].into_iter(), connected)
    }

    fn ends(internal: &str, remote: &str, protocol: u8, remote_port: Option<u16>) -> Ends {
        let protocol = IpProtocol(protocol);
        Ends { internal: ip(internal), remote: ip(remote), protocol, remote_port }
    }

    fn passes(bypass: &Bypass, internal: &str, remote: &str) -> bool {
        bypass.allows(&ends(internal, remote, 6, Some(443)))
    }

    #[test]
    fn the_longest_prefix_says_on_which_side_an_address_lies() {
        let wide = bypass(&[rule("10.0.0.0/8", None, None, &[])], "10.64.0.0/10");
        assert!(passes(&wide, "10.64.0.1", "10.1.2.3"));
        assert!(!passes(&wide, "10.64.0.1", "10.65.0.1"), "a subscriber");
        assert!(!passes(&wide, "10.64.0.1", "10.255.0.1"), "the port's prefix");
        assert!(!passes(&wide, "10.1.2.3", "10.1.2.4"), "not a subscriber");
        let narrow = bypass(&[rule("10.20.0.0/16", None, None, &[])], "10.0.0.0/8");
        assert!(passes(&narrow, "10.64.0.1", "10.20.2.3"));
        assert!(!passes(&narrow, "10.20.0.1", "10.20.2.3"), "it lies outside itself");
        assert!(!passes(&narrow, "10.64.0.1", "10.21.2.3"));
    }

    #[test]
    fn shared_and_link_local_space_is_passed_only_by_name_6598_s4b() {
        let wide = bypass(&[rule("0.0.0.0/0", None, None, &[])], "100.64.0.0/16");
        assert!(passes(&wide, "100.64.0.1", "198.51.100.7"));
        assert!(!passes(&wide, "100.64.0.1", "100.100.0.1"));
        assert!(!passes(&wide, "100.64.0.1", "169.254.0.1"));
        for named in ["100.64.0.0/10", "100.100.0.0/16", "100.100.0.1/32"] {
            let named = bypass(&[rule(named, None, None, &[])], "100.64.0.0/16");
            assert!(passes(&named, "100.64.0.1", "100.100.0.1"));
            assert!(!passes(&named, "100.64.0.1", "100.64.0.2"));
        }
        let local = bypass(&[rule("169.254.1.1/32", None, None, &[])], "100.64.0.0/16");
        assert!(!passes(&local, "100.64.0.1", "169.254.1.1"));
    }

    #[test]
    fn source_protocol_and_ports_narrow_a_rule() {
        let from = Some("172.16.0.0/12");
        let of =
            bypass(&[rule("0.0.0.0/0", from, Some(17), &[(67, 67), (5000, 5010)])], "10.0.0.0/8");
        let allows =
            |internal, protocol, port| of.allows(&ends(internal, "198.51.100.7", protocol, port));
        for port in [67, 5000, 5005, 5010] {
            assert!(allows("172.16.0.1", 17, Some(port)), "{port}");
        }
        for port in [66, 68, 4999, 5011] {
            assert!(!allows("172.16.0.1", 17, Some(port)), "{port}");
        }
        assert!(!allows("172.16.0.1", 6, Some(67)));
        assert!(!allows("10.0.0.1", 17, Some(67)), "a subscriber, but not of `from`");
        assert!(!allows("172.16.0.1", 17, None));
        let any = bypass(&[rule("198.51.100.7/32", None, None, &[])], "10.0.0.0/8");
        assert!(any.allows(&ends("10.0.0.1", "198.51.100.7", 47, None)));
        assert!(!any.allows(&ends("10.0.0.1", "198.51.100.8", 47, None)));
        assert!(!Bypass::default().allows(&ends("10.0.0.1", "198.51.100.7", 6, Some(1))));
    }
}
