use super::super::watchdog::Standstill;
use super::*;

fn abilities(table_entries: u16) -> RssAbilities {
    RssAbilities { key_bytes: 40, table_entries, hashes_addresses: true }
}

/// The owner by DPDK's own hash, our key and our table.
#[test]
fn dpdk_hash_key_and_table_find_the_owner_for_every_table_and_number_of_workers() {
    let noise = |n: u32| n.wrapping_mul(0x9e37_79b9).rotate_left(n & 31) ^ n;
    let mut looked = 0;
    for workers in 1..=8u16 {
        let steering = Steering::new(workers);
        for entries in [64u16, 128, 512] {
            for queues in 1..=workers {
                for side in [Side::Internal, Side::External] {
                    let key = steering.key(side, 40).expect("40 bytes are enough");
                    let table = steering.queues(entries, queues).expect("64 are enough");
                    for n in 0..60 {
                        let (mine, other, ports) =
                            (noise(3 * n), noise(3 * n + 1), noise(3 * n + 2));
                        let words = match side {
                            Side::Internal => [mine, other, ports],
                            Side::External => [other, mine, ports],
                        };
                        // With ports, and as a fragment without.
                        for words in [&words[..], &words[..2]] {
                            let hash = dpdk::soft_rss(&key, words);
                            let queue = table[(hash & u32::from(entries - 1)) as usize];
                            assert_eq!(queue, steering.owner_of(mine) % queues);
                            looked += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(looked, 36 * 3 * 2 * 60 * 2);
}

#[test]
fn what_a_driver_cannot_do_is_named() {
    let reason = |workers, queues, abilities| match Wish::of(
        Steering::new(workers),
        Side::External,
        queues,
        abilities,
    ) {
        Wish::None(method, reason) => (method, reason),
        Wish::Card { .. } => (Method::WindowedKey, String::new()),
    };
    assert_eq!(reason(1, 1, abilities(128)).0, Method::OneWorker);
    assert_eq!(reason(4, 4, abilities(128)).0, Method::WindowedKey);
    assert_eq!(reason(4, 2, abilities(64)).0, Method::WindowedKey);
    assert!(reason(4, 1, abilities(128)).1.contains("one receive queue"));
    assert!(reason(4, 4, abilities(0)).1.contains("a table of 0 entries; 4 workers"));
    assert!(reason(16, 16, abilities(64)).1.contains("at least 128"));
    let no_hash = RssAbilities { hashes_addresses: false, ..abilities(128) };
    assert!(reason(4, 4, no_hash).1.contains("cannot hash addresses"));
    let short = RssAbilities { key_bytes: 8, ..abilities(128) };
    assert!(reason(4, 4, short).1.contains("keys of 8 bytes"));
}

#[test]
fn a_driver_that_gives_something_else_back_is_found_out() {
    assert_eq!(compare("key", "byte", &[1, 2], &[1, 2]), Ok(()));
    let error = compare("table", "entry", &[0, 1, 2], &[0, 3, 2]).expect_err("they differ");
    assert!(error.ends_with("entry 1 is 3, expected 1"), "{error}");
    let error = compare("key", "byte", &[1], &[]).expect_err("they differ");
    assert!(error.contains("of 1 and gives one of 0 back"), "{error}");
}

fn port(method: Method, queues: u16, workers: u16) -> PortSteering {
    PortSteering {
        name: "up".to_owned(),
        method,
        reason: String::new(),
        queues,
        entries: 128,
        expected_permille: expected_permille(Steering::new(workers), method, queues),
        driver: json!({ "name": "net_old" }),
    }
}

#[test]
fn of_a_device_with_both_sides_the_card_steers_the_external_one() {
    let text = "
version: 1
ports:
  in: { side: internal, device: \"0000:3b:00.0\", vlan: 1, addresses: [10.0.0.2/30], next-hop: 10.0.0.1 }
  near: { side: internal, device: \"0000:3b:00.1\", vlan: 1, addresses: [10.0.1.2/30] }
  far: { side: internal, device: \"0000:3b:00.1\", vlan: 2, addresses: [10.0.2.2/30] }
  out: { side: external, device: \"0000:3b:00.0\", vlan: 2, addresses: [192.0.2.2/30], \
next-hop: 192.0.2.1 }
pools: { main: { addresses: [203.0.113.0/29] } }
subscribers: [{ name: all, match: [100.64.0.0/10], pool: main }]
";
    let config = Config::from_yaml("t.yaml", text).unwrap_or_else(|error| panic!("{error}"));
    let steered: Vec<_> = (0..4).map(|port| steered_side(&config, port)).collect();
    assert_eq!(steered, [Side::External, Side::Internal, Side::Internal, Side::External]);
    let of = |method, number: usize| {
        let steering = Steering::new(4);
        port(method, 4, 4).of(steering, &config.ports()[number], steered[number])
    };
    for (number, name) in [(1, "near"), (2, "far"), (3, "out")] {
        let steers = of(Method::WindowedKey, number);
        let said = (steers.name.as_str(), steers.method, steers.reason.as_str());
        assert_eq!(said, (name, Method::WindowedKey, ""));
        assert_eq!((steers.entries, steers.expected_permille), (128, 0));
    }
    let steers = of(Method::WindowedKey, 0);
    assert_eq!((steers.name.as_str(), steers.method), ("in", Method::Software));
    assert_eq!((steers.entries, steers.expected_permille), (0, 750));
    assert!(steers.reason.contains("one key"), "{}", steers.reason);
    assert_eq!(of(Method::OneWorker, 0).method, Method::OneWorker);
}

fn counted(received: &[u64], missteered: u64) -> Vec<Counted> {
    vec![Counted { received: received.to_vec(), handed_off: missteered, missteered }]
}

#[test]
fn a_card_that_steers_wrongly_is_said_once_with_port_share_and_expectation() {
    let mut watch = Watch::new(vec![port(Method::WindowedKey, 2, 2)]);
    assert_eq!(watch.look(counted(&[0, 0], 0)), [""; 0]);
    assert_eq!(watch.look(counted(&[9_000, 9_000], 180)), [""; 0], "within the tolerance");
    let said = watch.look(counted(&[18_000, 18_000], 180 + 9_000));
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("port up: 50.0 % of its packets"), "{said:?}");
    assert!(said[0].contains("0.0 % expected with windowed-key"), "{said:?}");
    assert_eq!(watch.look(counted(&[27_000, 27_000], 180 + 18_000)), [""; 0], "said already");
    // With two workers and one queue, half of the packets are expected.
    let mut watch = Watch::new(vec![port(Method::WindowedKey, 1, 2)]);
    watch.look(counted(&[0, 0], 0));
    assert_eq!(watch.look(counted(&[20_000, 0], 10_000)), [""; 0]);
    // And software promises nothing.
    let mut watch = Watch::new(vec![port(Method::Software, 2, 2)]);
    watch.look(counted(&[0, 0], 0));
    assert_eq!(watch.look(counted(&[20_000, 20_000], 40_000)), [""; 0]);
}

#[test]
fn a_queue_that_goes_silent_is_said_counted_and_said_again_when_it_works() {
    let mut watch = Watch::new(vec![port(Method::WindowedKey, 2, 2)]);
    watch.look(counted(&[0, 0], 0));
    assert_eq!(watch.look(counted(&[5_000, 5_000], 0)), [""; 0]);
    let said = watch.look(counted(&[10_000, 5_000], 0));
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("port up: receive queue 1 has gone silent"), "{said:?}");
    assert!(said[0].contains("5000 in the same time before"), "{said:?}");
    assert_eq!((watch.silences[0], watch.silent[0].clone()), (1, vec![false, true]));
    assert_eq!(watch.look(counted(&[15_000, 5_000], 0)), [""; 0]);
    let said = watch.look(counted(&[20_000, 5_100], 0));
    assert!(said[0].contains("queue 1 works again: 100 packets"), "{said:?}");
    // When all go silent there is no traffic: nobody is blamed.
    let mut watch = Watch::new(vec![port(Method::WindowedKey, 2, 2)]);
    watch.look(counted(&[0, 0], 0));
    watch.look(counted(&[5_000, 5_000], 0));
    assert_eq!(watch.look(counted(&[5_000, 5_000], 0)), [""; 0]);
    // A queue that never had its part is not missed.
    let mut watch = Watch::new(vec![port(Method::Software, 2, 2)]);
    watch.look(counted(&[0, 0], 0));
    watch.look(counted(&[50_000, 900], 0));
    assert_eq!(watch.look(counted(&[99_000, 900], 0)), [""; 0]);
}

fn still(is_now: bool, times: u64) -> Standstill {
    Standstill { is_now, times }
}

#[test]
fn the_text_has_what_the_json_has() {
    let report = SteeringReport {
        ports: vec![(
            PortSteering { reason: "it is old".to_owned(), ..port(Method::Software, 2, 4) },
            Counted { received: vec![30, 10, 0, 0], handed_off: 30, missteered: 20 },
            vec![1],
            1,
        )],
        handed: vec![(25, 0), (5, 10), (0, 10), (0, 10)],
        standstills: Standstills {
            workers: vec![still(false, 0), still(false, 2), still(true, 1), still(false, 0)],
            queues: vec![vec![still(false, 0), still(true, 3)]],
        },
    };
    let json = report.json();
    assert_eq!(json["ports"]["up"]["handed_off_share"], 0.75);
    assert_eq!(json["ports"]["up"]["missteered_expected"], 0.75);
    assert_eq!(json["workers"][1]["load_share"], 0.375);
    assert_eq!(
        (&json["ports"]["up"]["stops"], &json["workers"][1]["stalls"]),
        (&3.into(), &2.into())
    );
    let text = text(&json);
    for part in [
        "port up: software, 2 queues, 40 packets received",
        "because it is old",
        "handed off 75.00 %; missteered 50.00 %, expected 75.00 %",
        "receive queue 1 is SILENT",
        "transmit queue 1 takes NOTHING",
        "worker 2: 0 received, 0 handed off, 10 taken from others, 25.00 % of the load\n  it has STOPPED polling",
        "driver net_old, no NUMA node; ",
        "worker 1: 10 received, 5 handed off, 10 taken from others, 37.50 % of the load",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}
