//! The configuration as a whole: defaults, every key, and texts that nobody meant.

use proptest::prelude::*;

use super::raw::{Document, Node, Value};
use super::*;

/// Every key of [`KEYS`] is in here.
const FULL: &str = r#"
version: 1
system:
  name: cgn1.ams
  workers: "2-4,2"
  control-cpus: 0
  memory: 4GiB
  max-mappings: 4_000_000
  max-sessions: 300_000
  new-flows-under-load: off
  flood-guard: false
  huge-pages: off
  idle: busy
  control-socket: /run/cgnat/control.sock
ports:
  internal0:
    side: internal
    device: "0000:3B:00.0"
    vlan: 100
    outer-vlan: 4094
    outer-tpid: 0x9100
    kernel-interface: cgn-int
    addresses: [10.255.0.2/29]
    next-hop: 10.255.0.1
    mtu: 1900
    neighbours:
      - { address: 10.255.0.1, mac: "02:00:00:00:00:01" }
      - { address: "fe80::1", mac: "02:00:00:00:00:01" }
    ipv6:
      addresses: ["2001:db8:a::2/64", "2001:db8:a1::2/127"]
      link-local: "fe80::2"
      source-check: loose
  external0:
    side: external
    device: net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap
    addresses: [192.0.2.2/30]
    next-hop: 192.0.2.1
  external1:
    side: external
    bond: { mode: lacp, members: [net_tap0, net_tap1] }
    kernel-interface: cgn-ext
    routes-from-kernel: true
    addresses: [192.0.2.6/30]
    ipv6: { addresses: ["2001:db8:b::2/64"], next-hop: "2001:db8:b::1" }
routes:
  - { to: 100.96.0.0/11, via: 10.255.0.5, port: internal0 }
  - { to: "2001:db8:100::/40", via: "fe80::1", port: internal0 }
pools:
  a:
    addresses: [203.0.113.8-203.0.113.9, 203.0.113.0/29, 203.0.113.20]
    exclude: [203.0.113.1, 203.0.113.3-203.0.113.4]
    ports: 1024-2047
    exclude-ports: [1900, 1024-1026]
    allocation:
      mode: port-block
      block-size: 256
      max-blocks: 2
      hold: 90s
      max-held: 500
      hold-closed-tcp: false
      port-choice: preserve
      keep-parity: true
      keep-range: false
    address-selection: subscriber-bits
    subscriber-bits: 0.0.0.7
    max-subscribers-per-address: 50
    pooling: paired
    filtering: { tcp: address-dependent, udp: endpoint-independent, icmp: address-dependent }
    port-overloading: [tcp/443, udp/443]
    tcp-mss-clamp: off
  b:
    addresses: [198.51.100.0/30]
    allocation:
      mode: deterministic
      ports-per-subscriber: 2016
      hold: 10s
      overflow: { ports: 4032, block-size: 128, max-blocks: 3, hold: 60s }
  c: { addresses: [198.51.100.64/30], drain: [198.51.100.66], spare-addresses: 9 }
subscribers:
  - name: own
    match: [100.64.1.16/28, 100.64.2.0/26]
    pool: b
  - name: few
    match: [100.64.1.0/24]
    pool: a
    limits:
      ports: { tcp: 400, udp: 300, icmp: 64 }
      sessions: 1_000
      inbound-sessions: 50
      sessions-per-destination: 64
      sessions-per-mapping: 500
      inbound-sessions-per-mapping: 30
      fragments: 700
      new-sessions-per-second: { rate: 100, burst: 300 }
      blocks: 1
      reserved: { ports: 32, for: [udp/53, tcp/443, tcp/53, icmp] }
  - name: many
    match: [100.64.0.0/16]
    pool: a
    destinations:
      - { to: [198.51.101.0/24], protocol: udp, ports: [53, 5000-5010], pool: c }
      - { to: [0.0.0.0/0], protocol: icmp, pool: [a] }
nat44:
  mapping: endpoint-independent
  port-overloading: [udp/53]
  filtering:
    tcp: address-and-port-dependent
    udp: address-and-port-dependent
    icmp: address-and-port-dependent
  hairpinning: false
  inbound-refresh: true
  tcp-mss-clamp: 1452
  alg: { ftp: true, pptp: true, tftp: true }
  on-refusal: icmp
  icmp-errors:
    to-internal: true
    to-external: false
    refusal: admin-prohibited
    per-receiver: 7
    in-all: 70
  unsolicited-syn: port-unreachable
  fragments: { max-pending: 100, max-datagrams: 1_000, timeout: 3s }
  other-protocols: { gre: carry, esp: carry, sctp: drop, 41: carry, default: drop }
  bypass:
    - { to: 10.0.0.0/8 }
    - { to: 198.18.0.0/15, from: 100.64.1.0/24, protocol: udp, ports: [67, 5000-5010] }
static:
  - { internal: 100.64.1.7, external: 203.0.113.30 }
  - { internal: "100.64.1.8:8000-8010", external: "203.0.113.0:9000-9010", protocol: both }
timeouts:
  tcp: { established: 3h, opening: 30s, closing: 5m, reset: 6m }
  udp: { default: 2m, 123: 30s, "53": 10s, "5000": 3m }
  icmp: 90s
  other: 3m
announce: { port: external1, delay: 0s, withdraw-delay: 1m }
lab:
  allow-short-timers: false
"#;

const SMALLEST: &str = "
version: 1
ports:
  in: { side: internal, device: net_null0, addresses: [10.0.0.2/30], next-hop: 10.0.0.1 }
  out: { side: external, device: net_null1, addresses: [192.0.2.2/30], next-hop: 192.0.2.1 }
pools:
  main: { addresses: [203.0.113.7] }
subscribers:
  - { name: all, match: [100.64.0.0/10], pool: main }
";

fn config(text: &str) -> Config {
    Config::from_yaml("t.yaml", text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(text: &str) -> String {
    match Config::from_yaml("t.yaml", text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn the_smallest_file_gets_the_defaults_that_are_documented() {
    let config = config(SMALLEST);
    let system = config.system();
    assert_eq!((system.name(), system.workers()), ("cgnat", &Workers::Auto));
    assert_eq!((system.memory_bytes(), system.max_mappings()), (1 << 30, 1_000_000));
    assert_eq!((system.huge_pages(), system.idle()), (HugePages::Auto, Idle::Adaptive));
    assert_eq!((system.new_flows_under_load(), system.max_sessions()), (Some(500_000), None));
    assert!(system.flood_guard());
    let pool = &config.pools()[0];
    assert_eq!((pool.first_port(), pool.last_port()), (1024, 65535));
    assert_eq!((pool.block_size(), pool.max_blocks(), pool.hold_s()), (512, 4, 120));
    assert_eq!(pool.blocks_per_address(), 126);
    assert!(config.hairpinning() && !config.inbound_refresh());
    assert_eq!(config.algs(), Algs { ftp: false, pptp: false, tftp: false });
    assert_eq!(config.fragments(), Fragments::default());
    assert_eq!(pool.filtering(), [Filtering::EndpointIndependent; 3]);
    assert_eq!(pool.mss_clamp(), None);
    let errors = config.own_errors();
    assert_eq!(errors.on_refusal(), OnRefusal::HostUnreachable);
    assert!(errors.allowed_to(Side::Internal) && errors.allowed_to(Side::External));
    assert_eq!((errors.per_receiver(), errors.in_all()), (20, 1_000));
    assert_eq!(pool.rules(), &PoolRules::default());
    assert_eq!((pool.rules().max_held(), pool.rules().holds_closed_tcp()), (None, true));
    assert!(!errors.answers_unsolicited_syns());
    let t = config.timeouts();
    assert_eq!((t.tcp_established_s(), t.tcp_opening_s()), (7440, 240));
    assert_eq!((t.tcp_closing_s(), t.tcp_reset_s(), t.udp_s(), t.icmp_s()), (240, 240, 300, 60));
    assert_eq!((config.ports()[0].mtu(), config.ports()[0].tags()), (1500, Tags::None));
    assert!(config.warnings().is_empty());
}

#[test]
fn every_value_of_a_full_file_arrives() {
    let config = config(FULL);
    assert_eq!(config.system().workers(), &Workers::Cpus(vec![2, 3, 4, 2]));
    assert_eq!(config.system().control_cpus(), [0]);
    assert_eq!(config.system().new_flows_under_load(), None);
    assert!(!config.system().flood_guard());
    assert_eq!(config.system().max_sessions(), Some(300_000));
    assert_eq!(config.system().huge_pages(), HugePages::Off);
    assert_eq!(config.system().idle(), Idle::Busy);
    assert_eq!(config.system().control_socket(), Some("/run/cgnat/control.sock"));
    let port = &config.ports()[0];
    assert_eq!(port.device(), &Device::Pci("0000:3b:00.0".into()));
    assert_eq!(port.neighbours(), [(Ipv4Addr::new(10, 255, 0, 1), [2, 0, 0, 0, 0, 1])]);
    let tags = Tags::Two { tpid: 0x9100, is_tpid_hidden: false, outer: 4094, inner: 100 };
    assert_eq!((port.tags(), port.mtu()), (tags, 1900));
    assert_eq!(port.kernel_interface(), Some("cgn-int"));
    assert_eq!((config.routes()[0].port(), config.routes()[0].to().prefix_len()), (0, 11));
    assert_eq!((config.routes().len(), config.ipv6_routes().len()), (1, 1));
    assert_eq!(
        (config.ipv6_routes()[0].port(), config.ipv6_routes()[0].to().prefix_len()),
        (0, 40)
    );
    let ipv6 = port.ipv6().expect("IPv6");
    assert_eq!(ipv6.addresses().len(), 2);
    assert_eq!(ipv6.link_local(), "fe80::2".parse().ok());
    assert_eq!((ipv6.next_hop(), ipv6.source_check()), (None, SourceCheck::Loose));
    assert_eq!(ipv6.neighbours(), [("fe80::1".parse().expect("an address"), [2, 0, 0, 0, 0, 1])]);
    let outside = config.ports()[2].ipv6().expect("IPv6");
    assert_eq!(outside.next_hop(), "2001:db8:b::1".parse().ok());
    assert_eq!((outside.link_local(), outside.source_check()), (None, SourceCheck::Strict));
    assert!(config.ports()[1].ipv6().is_none());
    let last: Vec<u8> = config.pools()[0].addresses().iter().map(|a| a.octets()[3]).collect();
    assert_eq!(last, [0, 2, 5, 6, 7, 8, 9, 20]);
    assert_eq!(config.pools()[0].hold_s(), 90);
    let rules = config.pools()[0].rules();
    assert_eq!(rules.exclude_ports(), [(1024, 1026), (1900, 1900)]);
    assert!(rules.keeps_port() && rules.keeps_parity() && !rules.keeps_range());
    assert_eq!((rules.max_held(), rules.holds_closed_tcp()), (Some(500), false));
    assert_eq!(rules.address_selection(), AddressSelection::SubscriberBits(7));
    assert_eq!(rules.max_subscribers_per_address(), Some(50));
    assert_eq!(config.timeouts().udp_by_port_s(), [(53, 10), (123, 30), (5000, 180)]);
    assert!(!config.hairpinning() && config.inbound_refresh());
    assert_eq!(config.algs(), Algs { ftp: true, pptp: true, tftp: true });
    let fragments = Fragments { max_pending: 100, max_datagrams: 1000, timeout_s: 3 };
    assert_eq!(config.fragments(), fragments);
    use Filtering::{AddressDependent, EndpointIndependent};
    let filtering = [AddressDependent, EndpointIndependent, AddressDependent];
    assert_eq!(config.pools()[0].filtering(), filtering);
    let [whole, forward] = config.statics() else { panic!("two mappings") };
    let net = |text: &str| text.parse::<Ipv4Net>().expect("a prefix");
    let (internal, external) = (net("100.64.1.7/32"), net("203.0.113.30/32"));
    assert_eq!(*whole, StaticMapping::OneToOne { internal, external });
    let (internal, external) = (Ipv4Addr::new(100, 64, 1, 8), Ipv4Addr::new(203, 0, 113, 0));
    let (internal, external) = ((internal, 8000), (external, 9000));
    let ports = StaticMapping::Forward { internal, external, count: 11, tcp: true, udp: true };
    assert_eq!(*forward, ports);
    let [all, some] = config.bypass() else { panic!("two rules") };
    assert_eq!((all.to(), all.from(), all.protocol()), (net("10.0.0.0/8"), None, None));
    assert_eq!((some.from(), some.protocol()), (Some(net("100.64.1.0/24")), Some(17)));
    assert_eq!((all.ports().len(), some.ports()), (0, &[(67, 67), (5000, 5010)][..]));
    let limits = config.groups()[1].limits();
    let by_protocol = limits.ports_by_protocol().map(Option::unwrap_or_default);
    assert_eq!((limits.ports(), by_protocol), (None, [400, 300, 64]));
    assert_eq!((limits.sessions(), limits.inbound_sessions()), (Some(1000), Some(50)));
    assert_eq!(limits.sessions_per_destination(), Some(64));
    let of_mapping = (limits.sessions_per_mapping(), limits.inbound_sessions_per_mapping());
    assert_eq!(of_mapping, (500, 30));
    assert_eq!(limits.fragments(), Some(700));
    assert_eq!(limits.new_sessions(), Some(NewSessions { rate: 100, burst: 300 }));
    assert_eq!(limits.blocks(), Some(1));
    let reserved = limits.reserved();
    assert_eq!((reserved.ports(), reserved.icmp()), (32, true));
    assert_eq!((reserved.tcp(), reserved.udp()), (&[53, 443][..], &[53][..]));
    assert_eq!(*config.groups()[2].limits(), Limits::default());
    assert_eq!(config.pools()[0].mss_clamp(), None);
    let errors = config.own_errors();
    assert_eq!(errors.on_refusal(), OnRefusal::AdminProhibited);
    assert!(errors.allowed_to(Side::Internal) && !errors.allowed_to(Side::External));
    assert_eq!((errors.per_receiver(), errors.in_all()), (7, 70));
    assert!(errors.answers_unsolicited_syns());
    assert_eq!(config.warnings().len(), 1);
    assert_eq!(config.possible_subscribers(0), 65_536 - 16 - 64);
    let own = &config.pools()[1];
    assert_eq!((own.mode(), own.block_size(), own.hold_s()), (Mode::Deterministic, 2016, 10));
    assert_eq!((own.blocks_per_address(), own.max_blocks()), (30, 4));
    let overflow = own.overflow().expect("an overflow");
    assert_eq!((overflow.ports(), overflow.block_size(), overflow.hold_s()), (4032, 128, 60));
    assert_eq!(config.possible_subscribers(1), 80);
    let announce = config.announce().expect("a section");
    assert_eq!((announce.port(), announce.delay_s(), announce.withdraw_delay_s()), (2, 0, 60));
    // Pools without what they exclude, and what is mapped one to one.
    let prefixes = config.external_prefixes().iter().map(ToString::to_string).collect::<Vec<_>>();
    let a = ["203.0.113.0/32", "203.0.113.2/32", "203.0.113.5/32", "203.0.113.6/31"];
    let (b, more) = ("198.51.100.0/30", ["203.0.113.8/31", "203.0.113.20/32", "203.0.113.30/32"]);
    assert_eq!(prefixes, [&[b, "198.51.100.64/30"][..], &a, &more].concat());
}

#[test]
fn what_is_announced_has_its_defaults_and_a_bound() {
    let with = |addresses: &str| {
        let text = SMALLEST.replace("net_null1, ", "net_null1, kernel-interface: k, ");
        text.replace("[203.0.113.7]", addresses) + "announce: { port: out }\n"
    };
    let announce = config(&with("[203.0.113.7]")).announce().expect("a section");
    assert_eq!((announce.delay_s(), announce.withdraw_delay_s()), (2, 5));
    assert_eq!(config(SMALLEST).announce(), None);
    let every_other = |count: u32| {
        let addresses = (0..count).map(|n| Ipv4Addr::from(0xcb00_0000 + 2 * n).to_string());
        with(&format!("[{}]", addresses.collect::<Vec<_>>().join(", ")))
    };
    assert_eq!(config(&every_other(1024)).external_prefixes().len(), 1024);
    let said = problems(&every_other(1025));
    assert!(said.contains("announce: the external addresses"), "{said}");
    assert!(said.contains("make 1025 prefixes; expected at most 1024"), "{said}");
}

#[test]
fn a_deterministic_pool_has_its_own_defaults_by_6888_req_8b() {
    let with = |allocation: &str| {
        let pool = format!("[203.0.113.7], allocation: {{ mode: deterministic, {allocation} }}");
        let text = SMALLEST.replace("[203.0.113.7]", &pool).replace("100.64.0.0/10", "10.1.1.0/28");
        config(&text).pools()[0].clone()
    };
    let plain = with("ports-per-subscriber: 4032");
    assert_eq!((plain.blocks_per_address(), plain.max_blocks(), plain.hold_s()), (16, 1, 0));
    assert_eq!(plain.overflow(), None);
    let more = with("ports-per-subscriber: 4000, overflow: { ports: 512 }");
    assert_eq!((more.blocks_per_address(), more.max_blocks(), more.hold_s()), (16, 5, 0));
    let overflow = more.overflow().expect("an overflow");
    assert_eq!((overflow.block_size(), overflow.hold_s()), (64, 120));
}

#[test]
fn few_sessions_of_a_mapping_are_fewer_from_outside_too() {
    for (keys, of_mapping) in [
        ("sessions: 1", (2048, 256)),
        ("sessions-per-mapping: 300", (300, 256)),
        ("sessions-per-mapping: 9", (9, 9)),
        ("inbound-sessions-per-mapping: 2048", (2048, 2048)),
    ] {
        let text =
            SMALLEST.replace("pool: main }", &format!("pool: main, limits: {{ {keys} }} }}"));
        let limits = config(&text).groups()[0].limits().clone();
        let found = (limits.sessions_per_mapping(), limits.inbound_sessions_per_mapping());
        assert_eq!(found, of_mapping, "{keys}");
    }
}

#[test]
fn ports_and_the_rate_may_be_one_number() {
    let limits = "limits: { ports: 700, new-sessions-per-second: 50 }";
    let text = SMALLEST.replace("pool: main }", &format!("pool: main, {limits} }}"));
    let limits = config(&text).groups()[0].limits().clone();
    assert_eq!((limits.ports(), limits.ports_by_protocol()), (Some(700), [None; 3]));
    assert_eq!(limits.new_sessions(), Some(NewSessions { rate: 50, burst: 50 }));
}

#[test]
fn a_number_of_workers_is_not_a_list_of_cpus() {
    let workers =
        |value: &str| config(&format!("{SMALLEST}system: {{ workers: {value} }}\n")).system.workers;
    assert_eq!(workers("4"), Workers::Count(4));
    assert_eq!(workers("\"4\""), Workers::Cpus(vec![4]));
    assert_eq!(workers("1-2"), Workers::Cpus(vec![1, 2]));
    assert_eq!(workers("auto"), Workers::Auto);
}

#[test]
fn the_clamp_of_a_pool_goes_before_that_of_nat44() {
    let clamp = |pool: &str, nat44: &str| {
        let text = SMALLEST.replace("[203.0.113.7]", &format!("[203.0.113.7]{pool}"));
        config(&format!("{text}nat44: {{ hairpinning: true{nat44} }}\n")).pools[0].mss_clamp()
    };
    let (here, there) = (", tcp-mss-clamp: 1400", ", tcp-mss-clamp: 1452");
    assert_eq!((clamp("", there), clamp(here, there)), (Some(1452), Some(1400)));
    assert_eq!((clamp(here, ""), clamp("", "")), (Some(1400), None));
    assert_eq!(clamp(", tcp-mss-clamp: off", there), None);
}

#[test]
fn anchors_and_aliases_keep_the_place_where_they_are_used() {
    let text = SMALLEST.replace("[10.0.0.2/30]", "&net [10.0.0.2/30]");
    let said = problems(&text.replace("[192.0.2.2/30]", "*net"));
    assert!(said.contains("t.yaml:5:"), "{said}");
}

#[test]
fn laboratories_may_have_short_timers_and_are_warned() {
    let text = format!(
        "{SMALLEST}lab: {{ allow-short-timers: true }}\ntimeouts:\n  tcp: {{ established: 2s, \
         closing: 1s, reset: 1s, opening: 1s }}\n  udp: {{ default: 1s, 5000: 1s }}\n  icmp: 1s\n"
    );
    let config = config(&text);
    assert_eq!(config.timeouts().tcp_established_s(), 2);
    assert_eq!(config.warnings().len(), 1);
    assert!(config.warnings()[0].to_string().contains("lab.allow-short-timers"));
}

#[test]
fn public_space_for_subscribers_is_warned_of_6598_s3() {
    let with = |range: &str| config(&SMALLEST.replace("100.64.0.0/10", range)).warnings().len();
    for internal in ["100.64.0.0/10", "10.1.0.0/16", "172.31.0.0/16", "192.168.7.0/24"] {
        assert_eq!(with(internal), 0, "{internal}");
    }
    for public in ["11.0.0.0/8", "100.0.0.0/9", "172.32.0.0/16", "192.169.0.0/16"] {
        assert_eq!(with(public), 1, "{public}");
    }
}

#[test]
fn integer_keys_given_twice_are_found() {
    let said = problems(&format!("{SMALLEST}timeouts: {{ udp: {{ 53: 10s, 53: 8s }} }}"));
    assert!(said.contains("timeouts.udp.53: this key was already given"), "{said}");
    // The same number in other words.
    let said = problems(&format!("{SMALLEST}timeouts: {{ udp: {{ 53: 10s, 0x35: 9s }} }}"));
    assert!(said.contains("timeouts.udp.0x35: unknown key"), "{said}");
}

#[test]
fn a_large_file_is_refused_before_it_is_parsed() {
    let said = problems(&format!("{SMALLEST}# {}", "x".repeat(1 << 20)));
    assert!(said.contains("expected at most 1048576"), "{said}");
    let said = problems(&format!("{SMALLEST}a: [{}]", "1,".repeat(30_000)));
    assert!(said.contains("too much for one file"), "{said}");
}

#[test]
fn a_long_list_of_ranges_is_checked_in_reasonable_time() {
    use std::fmt::Write;
    let mut ranges = String::new();
    for i in 0..9000u32 {
        let _ = write!(ranges, "10.{}.{}.0/24, ", i / 256 % 256, i % 256);
    }
    let text = SMALLEST.replace("10.0.0.", "172.16.0.");
    let text = text.replace("[100.64.0.0/10]", &format!("[{ranges}]"));
    assert_eq!(config(&text).possible_subscribers(0), 9000 * 256);
}

/// Calls `visit` with the pattern of each key and its value.
fn walk(node: &mut Node, pattern: &str, visit: &mut dyn FnMut(&str, &mut Node)) {
    match &mut node.value {
        Value::Map(pairs) => {
            for (key, value) in pairs {
                let chosen = match pattern {
                    "ports" | "pools" => "<name>",
                    "nat44.other-protocols" => "<protocol>",
                    "timeouts.udp" if key.text != "default" => "<port>",
                    _ => key.text.as_str(),
                };
                let child = match pattern {
                    "" => chosen.to_owned(),
                    _ => format!("{pattern}.{chosen}"),
                };
                walk(value, &child, visit);
                visit(&child, value);
            }
        }
        Value::List(list) => {
            for item in list {
                walk(item, &format!("{pattern}[]"), visit);
            }
        }
        Value::Empty | Value::Scalar(_) => {}
    }
}

#[test]
fn equal_lists_of_pools_are_one_realm_and_the_own_list_is_the_first() {
    let text =
        FULL.replace("pool: [a] }", "pool: [a] }\n      - { to: [198.51.102.0/24], pool: b }");
    let config = config(&text.replace("match: [100.64.0.0/16]", "match: [100.64.0.0/27]"));
    let many = &config.groups()[2];
    assert_eq!(many.realms(), [vec![0], vec![2], vec![1]]);
    let rules: Vec<_> = many.destinations().iter().map(|rule| rule.realm().0).collect();
    assert_eq!(rules, [1, 0, 2]);
    let rule = &many.destinations()[0];
    assert_eq!(rule.protocol(), Some(crate::endpoint::Protocol::Udp));
    assert_eq!(rule.ports(), [(53, 53), (5000, 5010)]);
    assert_eq!(rule.to()[0].to_string(), "198.51.101.0/24");
    // Whoever may use a deterministic pool by a rule has a number in it.
    assert_eq!(config.possible_subscribers(1), 80 + 32);
    assert!(config.groups()[1].uses(0) && !config.groups()[1].uses(1));
}

#[test]
fn a_pool_that_nobody_uses_is_warned_of() {
    let more =
        "pools:\n  idle: { addresses: [192.0.2.128/28] }\n  held: { addresses: [192.0.2.160/28] }";
    let fixed =
        "static:\n  - { internal: \"100.64.1.9:80\", external: \"192.0.2.161:80\", protocol: tcp }";
    let text = FULL.replace("pools:", more).replace("static:", fixed);
    let warnings = config(&text);
    let texts: Vec<String> = warnings.warnings().iter().map(ToString::to_string).collect();
    let unused: Vec<&String> =
        texts.iter().filter(|text| text.contains("no subscriber group")).collect();
    assert_eq!(unused.len(), 1, "{texts:?}");
    assert!(unused[0].contains("pools.idle"), "{unused:?}");
}

#[test]
fn every_key_is_read_and_a_wrong_value_is_reported_under_its_path() {
    let document = Document::parse("t.yaml", FULL).expect("YAML");
    let mut seen: Vec<String> = Vec::new();
    walk(&mut document.root.clone(), "", &mut |pattern, _| seen.push(pattern.to_owned()));
    for key in KEYS {
        assert!(seen.iter().any(|pattern| pattern == key), "{key} is not in the full file");
        let mut broken = document.clone();
        walk(&mut broken.root, "", &mut |pattern, node| {
            if pattern == *key {
                node.value = Value::List(vec![Node { place: node.place, value: Value::Empty }]);
            }
        });
        let Err(problems) = validate::config("t.yaml", FULL, &broken) else {
            panic!("{key}: a list of nothing is accepted");
        };
        let last = key.rsplit(['.', ']']).next().unwrap_or_default().replace('<', "");
        let last = if key.ends_with('>') { String::new() } else { last };
        let found = problems.iter().any(|problem| problem.path().contains(&last));
        assert!(found, "{key}: {problems}");
    }
}

#[test]
fn every_planned_key_is_refused_by_name() {
    let document = Document::parse("t.yaml", FULL).expect("YAML");
    for key in NOT_YET {
        let (parent, name) = key.rsplit_once('.').unwrap_or(("", key));
        let mut with = document.clone();
        let mut add = |pattern: &str, node: &mut Node| {
            let wanted = parent.trim_end_matches("[]");
            let target = match &mut node.value {
                Value::List(items) if parent.ends_with("[]") => items.first_mut(),
                _ => Some(&mut *node),
            };
            if pattern != wanted {
                return;
            }
            if let Some(Node { place, value: Value::Map(pairs) }) = target {
                let key = raw::Key { text: name.to_owned(), place: *place };
                pairs.push((key, Node { place: *place, value: Value::Empty }));
            }
        };
        walk(&mut with.root, "", &mut add);
        add("", &mut with.root);
        let Err(problems) = validate::config("t.yaml", FULL, &with) else {
            panic!("{key} is accepted");
        };
        let said = problems.to_string();
        assert!(said.contains(&format!("{name}: this key is not supported in this")), "{said}");
    }
}

/// Characters that mean something to YAML or to us.
fn token() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[-:#\\[\\]{},&*!|>'\"%@`?\t\n .~<0-9a-z/]{1,3}",
        1 => "\\PC{0,4}",
        1 => proptest::sample::select(vec![
            "\n  ", "null", "true", "off", "<<: *a", "&a ", "*a", "---\n", "...\n", "!!binary ",
            "!x ", "? ", "| \n", "\r", "\u{feff}", "\u{0}", "0.0.0.0/0", "255.255.255.255",
            "0-65535", "1d", "99999999999999999999", "4294967296", ".nan", "1e999", "0x1f", "é",
            "0000:00:00.0", "net_pcap0,", "128.0.0.0/1", "1.0.0.0-223.255.255.255", "65535",
        ]).prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(
        full in any::<bool>(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), 0usize..8, token()), 1..4),
    ) {
        let mut text: Vec<char> = if full { FULL } else { SMALLEST }.chars().collect();
        for (at, removed, token) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, token.chars());
        }
        let text: String = text.into_iter().collect();
        match Config::from_yaml("t.yaml", &text) {
            Ok(config) => for (i, pool) in config.pools().iter().enumerate() {
                prop_assert!(!pool.addresses().is_empty());
                prop_assert!(pool.addresses().is_sorted_by(|a, b| a < b));
                prop_assert!(pool.first_port() > 0 && pool.blocks_per_address() > 0);
                if pool.mode() == Mode::Deterministic {
                    let room = pool.addresses().len() as u64 * u64::from(pool.blocks_per_address());
                    prop_assert!(config.possible_subscribers(i) <= room);
                }
                let _ = config.possible_subscribers(i);
            },
            Err(problems) => {
                prop_assert!(problems.errors() > 0);
                prop_assert!(!problems.to_string().is_empty());
            }
        }
    }
}
