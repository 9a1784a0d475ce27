//! Packets crossing ports and rings: the same bytes come out, and every buffer comes back.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use common::{frames, in_child, options, options_with_lcores, packet, pool, read_pcap, write_pcap};
use dpdk::{
    BondMode, Eal, Mbuf, MbufRing, Mempool, MempoolConfig, Port, PortConfig, PortError, RingError,
    Rss, RssFields, StartedPort,
};

type Burst = ArrayVec<Mbuf, 32>;

fn start(eal: &Eal, name: &str, pool: &Mempool) -> StartedPort {
    let port = Port::by_name(eal, name).unwrap();
    port.start(&PortConfig::default(), std::slice::from_ref(pool)).unwrap()
}

/// Runs a capture through two net_pcap ports; returns what came out.
fn through_pcap(input: &[Vec<u8>], config: &MempoolConfig) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let unused = dir.path().join("unused.pcap");
    write_pcap(&from, input, |n| n as u64);
    write_pcap(&unused, &[], |_| 0);
    let path = |file: &std::path::Path| file.display().to_string();
    let eal = Eal::init(&options(&[
        format!("net_pcap0,rx_pcap={},tx_pcap={}", path(&from), path(&dir.path().join("x.pcap"))),
        format!("net_pcap1,rx_pcap={},tx_pcap={}", path(&unused), path(&to)),
    ]))
    .unwrap();
    let pool = Mempool::create(&eal, "packets", config).unwrap();
    let in_use_before = pool.in_use();
    let mut inside = start(&eal, "net_pcap0", &pool);
    let mut outside = start(&eal, "net_pcap1", &pool);
    assert_eq!(inside.port.driver_name(), "net_pcap");
    assert!(inside.port.link_up().unwrap());
    assert!(inside.port.mac().unwrap() != outside.port.mac().unwrap());

    let mut burst = Burst::new();
    let mut received = 0;
    while inside.rx[0].receive(&mut burst) > 0 {
        received += burst.len();
        assert!(burst.iter().all(|packet| packet.port() == 0));
        let offered = burst.len();
        assert_eq!(outside.tx[0].transmit(&mut burst), offered);
        assert!(burst.is_empty());
    }
    assert_eq!(received, input.len());
    let bytes: usize = input.iter().map(Vec::len).sum();
    let (rx, tx) = (inside.port.stats().unwrap(), outside.port.stats().unwrap());
    assert_eq!((rx.ipackets, rx.ibytes, rx.opackets), (input.len() as u64, bytes as u64, 0));
    assert_eq!((tx.opackets, tx.obytes, tx.oerrors), (input.len() as u64, bytes as u64, 0));
    assert_eq!(pool.in_use(), in_use_before);

    drop((inside, outside));
    assert_eq!(pool.in_use(), 0);
    drop(pool);
    drop(eal);
    read_pcap(&to)
}

#[test]
fn packets_cross_from_capture_to_capture_unchanged() {
    in_child("packets_cross_from_capture_to_capture_unchanged", || {
        let input = frames(1000);
        let config = MempoolConfig { count: 1023, cache: 64, ..Default::default() };
        assert!(through_pcap(&input, &config) == input);
    });
}

#[test]
fn packets_larger_than_a_buffer_cross_in_segments_unchanged() {
    in_child("packets_larger_than_a_buffer_cross_in_segments_unchanged", || {
        let input = frames(100);
        let config =
            MempoolConfig { count: 1023, cache: 64, data_room: 128 + 256, ..Default::default() };
        assert!(through_pcap(&input, &config) == input);
    });
}

#[test]
fn a_segmented_packet_shows_its_chunks_and_can_be_joined_only_if_it_fits() {
    in_child("a_segmented_packet_shows_its_chunks_and_can_be_joined_only_if_it_fits", || {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("in.pcap");
        let input = vec![(0..1000).map(|n| n as u8).collect::<Vec<u8>>()];
        write_pcap(&file, &input, |_| 0);
        let vdev = format!("net_pcap0,rx_pcap={},tx_pcap=/dev/null", file.display());
        let eal = Eal::init(&options(&[vdev])).unwrap();
        let config =
            MempoolConfig { count: 63, cache: 0, data_room: 128 + 400, ..Default::default() };
        let small = Mempool::create(&eal, "small", &config).unwrap();
        let mut port = start(&eal, "net_pcap0", &small);
        let mut burst = Burst::new();
        assert_eq!(port.rx[0].receive(&mut burst), 1);
        let packet = &mut burst[0];
        assert_eq!((packet.len(), packet.segments()), (1000, 3));
        assert_eq!(packet.chunks().collect::<Vec<_>>().concat(), input[0]);
        assert_eq!(packet.data(), &input[0][..packet.data().len()]);
        assert!(!packet.linearize());
        // Only bytes of the last segment can be cut off or added.
        let lens: Vec<usize> = packet.chunks().map(<[u8]>::len).collect();
        assert!(!packet.trim_to(1000 - lens[2] - 1));
        assert!(packet.trim_to(1000 - lens[2] + 5));
        assert_eq!(packet.chunks().last().unwrap().len(), 5);
        packet.append(3).unwrap().copy_from_slice(b"end");
        assert_eq!(packet.len(), 1000 - lens[2] + 8);
        assert!(packet.chunks().last().unwrap().ends_with(b"end"));
        burst.clear();
        assert_eq!(small.in_use(), 0);
    });
}

#[test]
fn capture_times_come_through_in_nanoseconds() {
    in_child("capture_times_come_through_in_nanoseconds", || {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("in.pcap");
        // From 1970 to 2033, with microseconds that would not survive a coarser unit.
        let stamp_us = |n: usize| n as u64 * 500_000_000_123_457;
        write_pcap(&file, &frames(5), stamp_us);
        let vdev = format!("net_pcap0,rx_pcap={},tx_pcap=/dev/null", file.display());
        let eal = Eal::init(&options(&[vdev, "net_null0".into()])).unwrap();
        let pool = pool(&eal, "p");
        let mut port = start(&eal, "net_pcap0", &pool);
        let field = port.port.timestamp_field().unwrap().unwrap();
        let mut burst = Burst::new();
        assert_eq!(port.rx[0].receive(&mut burst), 5);
        for (n, packet) in burst.iter().enumerate() {
            assert_eq!(packet.timestamp_ns(&field), Some(stamp_us(n) * 1000));
        }
        assert_eq!(pool.alloc().unwrap().timestamp_ns(&field), None);
        let null = Port::by_name(&eal, "net_null0").unwrap();
        assert_eq!(null.timestamp_field().unwrap(), None);
    });
}

#[test]
fn a_packet_changes_only_within_its_bounds() {
    in_child("a_packet_changes_only_within_its_bounds", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let pool = pool(&eal, "p");
        let mut packet = packet(&pool, b"0123456789");
        assert_eq!((packet.headroom(), packet.tailroom()), (128, 2176 - 128 - 10));
        assert_eq!((packet.len(), packet.segments(), packet.port()), (10, 1, u16::MAX));
        packet.prefetch();

        assert!(!packet.adj(11));
        assert!(packet.adj(4));
        assert_eq!((packet.data(), packet.headroom()), (&b"456789"[..], 132));
        assert!(!packet.prepend(133));
        assert!(packet.prepend(132));
        assert_eq!((packet.len(), packet.headroom()), (138, 0));
        assert_eq!(&packet.data()[128..], b"0123456789");
        assert!(!packet.prepend(1));

        assert!(!packet.trim_to(139));
        assert!(packet.trim_to(138) && packet.trim_to(130));
        assert_eq!(&packet.data()[128..], b"01");
        // What was cut off must not show again.
        assert_eq!(packet.append(8).unwrap(), [0; 8]);
        let room = packet.tailroom();
        assert!(packet.append(room + 1).is_none());
        assert_eq!(packet.len(), 138);
        assert_eq!(packet.append(room).unwrap().len(), usize::from(room));
        assert_eq!((packet.len(), packet.tailroom()), (2176, 0));
        packet.data_mut()[2175] = 9;
        assert!(packet.append(0).is_some() && packet.append(1).is_none());
        assert!(packet.trim_to(0) && packet.data().is_empty());
        assert!(packet.linearize());

        assert_eq!(packet.private().len(), 64);
        assert!(packet.private().as_ptr().addr().is_multiple_of(64));
        packet.private_mut().fill(0xee);
        assert_eq!(packet.private(), [0xee; 64]);
        assert_eq!(packet.rss_hash(), None);
        assert_eq!(pool.in_use(), 1);
        drop(packet);
        assert_eq!((pool.in_use(), pool.available()), (0, 1023));
    });
}

#[test]
fn an_empty_pool_gives_nothing_and_recovers() {
    in_child("an_empty_pool_gives_nothing_and_recovers", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let config = MempoolConfig { count: 63, cache: 0, ..Default::default() };
        let pool = Mempool::create(&eal, "p", &config).unwrap();
        let mut burst = Burst::new();
        assert!(pool.alloc_burst(&mut burst));
        let mut second = Burst::new();
        assert!(!pool.alloc_burst(&mut second) && second.is_empty());
        second.push(pool.alloc().unwrap());
        let rest: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!((rest.len(), pool.available()), (30, 0));
        drop((burst, second, rest));
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_burst_that_is_freed_at_once_is_back_in_its_pools_with_all_segments() {
    in_child("a_burst_that_is_freed_at_once_is_back_in_its_pools_with_all_segments", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let config = MempoolConfig { count: 127, cache: 0, ..Default::default() };
        let pools = ["p", "q"].map(|name| Mempool::create(&eal, name, &config).unwrap());
        let mut burst = Burst::new();
        while !burst.is_full() {
            let mut packet = pools[burst.len() % 2].alloc().unwrap();
            packet.chain(pools[0].alloc().unwrap()).unwrap();
            burst.push(packet);
        }
        let used = burst.len() as u32;
        assert_eq!(pools.each_ref().map(Mempool::in_use), [used / 2 * 3, used / 2]);
        Mbuf::free_burst(&mut burst);
        assert_eq!((burst.len(), pools.map(|pool| pool.in_use())), (0, [0, 0]));
        Mbuf::free_burst(&mut burst);
    });
}

#[test]
fn a_pool_outlived_by_a_packet_is_freed_when_the_packet_is_back() {
    in_child("a_pool_outlived_by_a_packet_is_freed_when_the_packet_is_back", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let first = pool(&eal, "p");
        let mut late = packet(&first, b"late");
        drop(first);
        late.data_mut()[0] = b'L';
        let config = MempoolConfig { count: 63, cache: 0, ..Default::default() };
        let error = Mempool::create(&eal, "p", &config).unwrap_err();
        assert_eq!(error.to_string(), "mempool \"p\" exists already");
        assert_eq!(late.data(), b"Late");
        std::thread::spawn(|| drop(late)).join().unwrap();
        assert!(Mempool::create(&eal, "p", &config).is_ok());
    });
}

#[test]
fn a_packet_may_outlive_the_eal() {
    in_child("a_packet_may_outlive_the_eal", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let mut late = packet(&pool(&eal, "p"), b"late");
        drop(eal);
        late.data_mut().fill(b'x');
        assert_eq!(late.data(), b"xxxx");
    });
}

#[test]
fn a_ring_hands_packets_over_in_order_and_keeps_its_bound() {
    in_child("a_ring_hands_packets_over_in_order_and_keeps_its_bound", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let pool = pool(&eal, "p");
        let (producer, mut consumer) = MbufRing::create(&eal, "handoff", 40, None).unwrap();
        assert_eq!((producer.ring().capacity(), producer.ring().name()), (40, "handoff"));
        let error = MbufRing::create(&eal, "handoff", 40, None).unwrap_err();
        assert_eq!(error.to_string(), "ring \"handoff\" exists already");
        assert!(matches!(MbufRing::create(&eal, "r", 0, None), Err(RingError::Capacity { .. })));

        let numbered = |from: u8, to: u8| -> Burst {
            (from..to).map(|number| packet(&pool, &[number])).collect()
        };
        let mut burst = numbered(0, 32);
        assert_eq!(producer.push_burst(&mut burst), 32);
        let mut burst = numbered(32, 64);
        assert_eq!(producer.clone().push_burst(&mut burst), 8);
        assert_eq!(
            burst.iter().map(|p| p.data()[0]).collect::<Vec<_>>(),
            (40..64).collect::<Vec<_>>()
        );
        assert_eq!(producer.push_burst(&mut burst), 0);
        assert_eq!((burst.len(), producer.ring().count(), pool.in_use()), (24, 40, 64));
        burst.clear();

        let mut out = ArrayVec::<Mbuf, 16>::new();
        out.push(packet(&pool, &[99]));
        assert_eq!(consumer.pop_burst(&mut out), 15);
        assert_eq!(out.iter().map(|p| p.data()[0]).collect::<Vec<_>>()[..3], [99, 0, 1]);
        assert_eq!(consumer.pop_burst(&mut out), 0);
        out.clear();
        assert_eq!((consumer.ring().count(), pool.in_use()), (25, 25));
        // Dropped with packets inside, producer last.
        drop(consumer);
        assert_eq!(pool.in_use(), 25);
        drop(producer);
        assert_eq!(pool.in_use(), 0);
        assert!(MbufRing::create(&eal, "handoff", 40, None).is_ok());
    });
}

#[test]
fn lcores_and_plain_threads_hand_over_a_million_packets_without_loss() {
    in_child("lcores_and_plain_threads_hand_over_a_million_packets_without_loss", || {
        const EACH: u32 = 500_000;
        let eal = Eal::init(&options_with_lcores(&[], 2)).unwrap();
        let pool = pool(&eal, "p");
        let (producer, mut consumer) = MbufRing::create(&eal, "handoff", 256, None).unwrap();
        let produce = |id: u8| {
            let (pool, producer) = (pool.clone(), producer.clone());
            move || {
                let mut sent = 0_u32;
                while sent < EACH {
                    let mut burst = Burst::new();
                    while burst.len() < burst.capacity() && sent + (burst.len() as u32) < EACH {
                        let Some(mut packet) = pool.alloc() else { break };
                        let number = sent + burst.len() as u32;
                        let bytes = packet.append(5).unwrap();
                        bytes[0] = id;
                        bytes[1..].copy_from_slice(&number.to_be_bytes());
                        burst.push(packet);
                    }
                    sent += producer.push_burst(&mut burst) as u32;
                    if !burst.is_empty() {
                        std::thread::yield_now();
                    }
                }
            }
        };
        let lcore = eal.launch(1, produce(0)).unwrap();
        let thread = std::thread::spawn(produce(1));
        let mut next = [0_u32; 2];
        let mut burst = Burst::new();
        while next != [EACH; 2] {
            if consumer.pop_burst(&mut burst) == 0 {
                std::thread::yield_now();
            }
            for packet in burst.drain(..) {
                let id = usize::from(packet.data()[0]);
                let number = u32::from_be_bytes(packet.data()[1..5].try_into().unwrap());
                assert_eq!(number, next[id], "order of producer {id}");
                next[id] += 1;
            }
        }
        lcore.join().unwrap();
        thread.join().unwrap();
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn ten_million_packets_leak_nothing() {
    in_child("ten_million_packets_leak_nothing", || {
        let eal = Eal::init(&options(&["net_null0".into(), "net_null1".into()])).unwrap();
        let pool = pool(&eal, "p");
        let mut a = start(&eal, "net_null0", &pool);
        let mut b = start(&eal, "net_null1", &pool);
        let mut burst = Burst::new();
        let (mut forwarded, began) = (0_u64, Instant::now());
        while forwarded < 10_000_000 {
            a.rx[0].receive(&mut burst);
            // Every other burst is dropped by us, not by the driver.
            if forwarded % 64 == 0 {
                b.tx[0].transmit(&mut burst);
                assert!(burst.is_empty());
            }
            burst.clear();
            forwarded += 32;
        }
        let rate = forwarded as f64 / began.elapsed().as_secs_f64() / 1e6;
        eprintln!("MESSAGE {rate:.1} Mpps");
        assert_eq!(pool.in_use(), 0);
        assert!(began.elapsed() < Duration::from_secs(60));
        drop((a, b));
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn packets_come_back_through_a_net_ring_port_unchanged() {
    in_child("packets_come_back_through_a_net_ring_port_unchanged", || {
        let eal = Eal::init(&options(&["net_ring0".into()])).unwrap();
        let pool = pool(&eal, "p");
        let mut port = start(&eal, "net_ring0", &pool);
        let sent = frames(32);
        let mut burst: Burst = sent.iter().map(|frame| packet(&pool, frame)).collect();
        assert_eq!(port.tx[0].transmit(&mut burst), 32);
        assert_eq!(pool.in_use(), 32);
        assert_eq!(port.rx[0].receive(&mut burst), 32);
        assert!(burst.iter().zip(&sent).all(|(packet, frame)| packet.data() == frame));
        burst.clear();
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_full_driver_leaves_the_unsent_packets_in_order() {
    in_child("a_full_driver_leaves_the_unsent_packets_in_order", || {
        let eal = Eal::init(&options(&["net_ring0".into()])).unwrap();
        let config = MempoolConfig { count: 2047, cache: 0, ..Default::default() };
        let pool = Mempool::create(&eal, "p", &config).unwrap();
        let mut port = start(&eal, "net_ring0", &pool);
        let (mut sent, mut number) = (0, 0_u32);
        let mut burst = Burst::new();
        while burst.is_empty() {
            assert!(sent < 2000, "the driver's ring never fills");
            for _ in 0..32 {
                burst.push(packet(&pool, &number.to_be_bytes()));
                number += 1;
            }
            sent += port.tx[0].transmit(&mut burst);
        }
        eprintln!("MESSAGE ring port took {sent}");
        for (at, packet) in burst.iter().enumerate() {
            assert_eq!(packet.data(), (sent as u32 + at as u32).to_be_bytes());
        }
        assert_eq!(pool.in_use() as usize, sent + burst.len());
        burst.clear();
        while port.rx[0].receive(&mut burst) > 0 {
            burst.clear();
        }
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_port_runs_until_its_last_handle_is_dropped() {
    in_child("a_port_runs_until_its_last_handle_is_dropped", || {
        let eal = Eal::init(&options(&["net_null0".into()])).unwrap();
        let pool = pool(&eal, "p");
        let StartedPort { port, mut rx, tx, key_refused: _ } = start(&eal, "net_null0", &pool);
        let error = Port::by_name(&eal, "net_null0").unwrap_err();
        assert_eq!(error.to_string(), "port \"net_null0\" is in use: it was already looked up");
        drop((eal, pool, port, tx));
        let mut burst = Burst::new();
        assert_eq!(rx[0].receive(&mut burst), 32);
        assert_eq!((rx[0].queue(), rx[0].port().name()), (0, "net_null0"));
    });
}

#[test]
fn a_config_that_does_not_suit_the_port_is_explained_and_leaves_it_usable() {
    in_child("a_config_that_does_not_suit_the_port_is_explained_and_leaves_it_usable", || {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("in.pcap");
        write_pcap(&file, &frames(1), |_| 0);
        let vdev = format!("net_pcap0,rx_pcap={},tx_pcap=/dev/null", file.display());
        let eal = Eal::init(&options(&[vdev, "net_null0".into()])).unwrap();
        let pool = pool(&eal, "p");
        let rss = |fields, key| Some(Rss { fields, key });
        let refusal = |name: &str, config: PortConfig, pools: &[Mempool]| {
            Port::by_name(&eal, name).unwrap().start(&config, pools).unwrap_err().to_string()
        };
        let base = PortConfig::default();
        let pools = std::slice::from_ref(&pool);
        for (name, config, pools, expected) in [
            (
                "net_pcap0",
                PortConfig { rx_queues: 2, ..base.clone() },
                pools,
                "port \"net_pcap0\": 2 receive queues asked for, its driver has 1 to 1",
            ),
            (
                "net_pcap0",
                PortConfig { tx_queues: 0, ..base.clone() },
                pools,
                "port \"net_pcap0\": 0 transmit queues asked for, its driver has 1 to 1",
            ),
            (
                "net_pcap0",
                base.clone(),
                &[],
                "port \"net_pcap0\": no mempool was given for received packets",
            ),
            (
                "net_pcap0",
                PortConfig { mtu: Some(45), ..base.clone() },
                pools,
                "port \"net_pcap0\": MTU 45 asked for, its driver takes 46 to 65535",
            ),
            (
                "net_pcap0",
                PortConfig { rss: rss(RssFields::Addresses, None), ..base.clone() },
                pools,
                "port \"net_pcap0\": its driver net_pcap cannot hash Addresses; leave `rss` out",
            ),
            (
                "net_null0",
                PortConfig { rss: rss(RssFields::Addresses, Some(vec![0; 39])), ..base.clone() },
                pools,
                "port \"net_null0\": the RSS key has 39 bytes, its driver takes 40",
            ),
        ] {
            assert_eq!(refusal(name, config, pools), expected);
        }
        let mut port = start(&eal, "net_pcap0", &pool);
        let mut burst = Burst::new();
        assert_eq!(port.rx[0].receive(&mut burst), 1);
    });
}

#[test]
fn queues_take_their_buffers_from_their_own_pools_and_run_on_two_lcores() {
    in_child("queues_take_their_buffers_from_their_own_pools_and_run_on_two_lcores", || {
        let eal = Eal::init(&options_with_lcores(&["net_null0".into()], 3)).unwrap();
        let pools = [pool(&eal, "p0"), pool(&eal, "p1")];
        let port = Port::by_name(&eal, "net_null0").unwrap();
        assert!(port.max_rx_queues() >= 2 && port.max_tx_queues() >= 2);
        let config = PortConfig {
            rx_queues: 2,
            tx_queues: 2,
            mtu: Some(9000),
            rss: Some(Rss { fields: RssFields::Addresses, key: Some(vec![0x6d; 40]) }),
            ..PortConfig::default()
        };
        let StartedPort { port, rx, tx, key_refused: _ } = port.start(&config, &pools).unwrap();
        assert_eq!((rx.len(), tx.len()), (2, 2));
        let mut handles = Vec::new();
        for ((mut rx, mut tx), &lcore) in rx.into_iter().zip(tx).zip(eal.workers()) {
            let work = move || {
                let mut burst = Burst::new();
                for _ in 0..1000 {
                    rx.receive(&mut burst);
                    tx.transmit(&mut burst);
                }
                rx.receive(&mut burst);
                burst
            };
            handles.push(eal.launch(lcore, work).unwrap());
        }
        let bursts: Vec<Burst> = handles.into_iter().map(|handle| handle.join().unwrap()).collect();
        assert_eq!(pools.each_ref().map(Mempool::in_use), [32, 32]);
        assert_eq!(port.stats().unwrap().opackets, 64_000);
        // The queues went with the closures; this handle keeps the port.
        assert!(port.stats().is_ok());
        drop((bursts, port));
        assert_eq!(pools.each_ref().map(Mempool::in_use), [0, 0]);
        assert!(matches!(Port::by_name(&eal, "net_null0"), Err(PortError::NotFound { .. })));
    });
}

/// A chain that holds `frame`, cut behind each of `cuts` bytes, all in buffers of one pool.
fn chained(pool: &Mempool, frame: &[u8], cuts: &[usize]) -> Mbuf {
    let mut head = packet(pool, &frame[..cuts[0]]);
    let end = frame.len();
    let ends = cuts[1..].iter().chain([&end]);
    for (from, to) in cuts.iter().zip(ends) {
        assert!(head.chain(packet(pool, &frame[*from..*to])).is_ok());
    }
    head
}

#[test]
fn a_frame_cut_at_every_byte_of_its_headers_is_joined_to_one_piece() {
    in_child("a_frame_cut_at_every_byte_of_its_headers_is_joined_to_one_piece", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let config = MempoolConfig {
            count: 255,
            cache: 0,
            private_bytes: 64,
            data_room: 128 + 9216,
            socket: None,
        };
        let pool = Mempool::create(&eal, "p", &config).unwrap();
        for length in [64, 9014] {
            let frame: Vec<u8> = (0..length).map(|n: usize| ((n * 31) >> 2) as u8).collect();
            for first in 14..=60 {
                for cuts in [&[first][..], &[first, first + 1], &[first, first + 1, first + 3]] {
                    let mut joined = chained(&pool, &frame, cuts);
                    joined.private_mut().fill(first as u8);
                    assert_eq!((joined.len(), joined.data()), (length, &frame[..first]));
                    assert_eq!(usize::from(joined.segments()), cuts.len() + 1);
                    assert!(joined.linearize());
                    assert_eq!((joined.segments(), joined.data()), (1, &frame[..]));
                    assert_eq!((joined.len(), joined.headroom()), (length, Mbuf::HEADROOM));
                    assert_eq!(joined.private(), [first as u8; 64]);
                    // The other buffers are free, and it is a packet like any.
                    assert_eq!(pool.in_use(), 1);
                    assert!(joined.adj(14) && joined.prepend(18) && joined.trim_to(60));
                    drop(joined);
                    assert_eq!(pool.in_use(), 0);
                }
            }
        }
    });
}

/// As of a driver that fills 2 KiB of a buffer, with and without the headroom.
#[test]
fn a_frame_of_any_length_in_pieces_of_2_kib_is_joined_to_one() {
    in_child("a_frame_of_any_length_in_pieces_of_2_kib_is_joined_to_one", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let data_room = 128 + 9216;
        let config = MempoolConfig { count: 31, cache: 0, data_room, ..MempoolConfig::default() };
        let pool = Mempool::create(&eal, "p", &config).unwrap();
        let noise: Vec<u8> = (0..9018).map(|n: usize| ((n * 31) >> 2) as u8).collect();
        for length in 60..=noise.len() {
            let frame = &noise[noise.len() - length..];
            for piece in [2048 - usize::from(Mbuf::HEADROOM), 2048] {
                let cuts: Vec<usize> = (piece..length).step_by(piece).collect();
                let mut joined = match cuts.is_empty() {
                    true => packet(&pool, frame),
                    false => chained(&pool, frame, &cuts),
                };
                assert_eq!(joined.len(), length);
                assert!(joined.linearize());
                assert_eq!((joined.segments(), joined.data()), (1, frame));
                assert_eq!(usize::from(joined.tailroom()), 9216 - length);
            }
        }
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_frame_longer_than_a_buffer_stays_as_it_is() {
    in_child("a_frame_longer_than_a_buffer_stays_as_it_is", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let pool = pool(&eal, "p");
        for (length, fits) in [(2048, true), (2049, false), (9014, false)] {
            let frame: Vec<u8> = (0..length).map(|n: usize| n as u8).collect();
            let cuts: Vec<usize> = (20..length).step_by(2000).collect();
            let mut packet = chained(&pool, &frame, &cuts);
            assert_eq!(packet.linearize(), fits);
            assert_eq!(packet.chunks().collect::<Vec<_>>().concat(), frame);
            assert_eq!(usize::from(packet.segments()), if fits { 1 } else { cuts.len() + 1 });
            drop(packet);
            assert_eq!(pool.in_use(), 0);
        }
    });
}

#[test]
fn chains_grow_to_what_dpdk_can_count_and_no_further() {
    in_child("chains_grow_to_what_dpdk_can_count_and_no_further", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let config =
            MempoolConfig { count: 65_600, cache: 0, data_room: 128 + 64, ..Default::default() };
        let pool = Mempool::create(&eal, "p", &config).unwrap();
        let mut head = packet(&pool, b"a");
        // Two chains at a time: each call walks to the end of the first.
        for _ in 0..256 {
            let mut next = packet(&pool, b"b");
            for _ in 0..254 {
                assert!(next.chain(packet(&pool, b"c")).is_ok());
            }
            assert!(head.chain(next).is_ok());
        }
        let most = 1 + 256 * 255;
        assert_eq!((usize::from(head.segments()), head.len()), (most, most));
        let mut rest = packet(&pool, b"d");
        for _ in most + 1..65_536 {
            assert!(rest.chain(packet(&pool, b"e")).is_ok());
        }
        let refused = head.chain(rest).unwrap_err();
        assert_eq!((head.len(), refused.len()), (most, 65_536 - most));
        assert_eq!(pool.in_use(), 65_536);
        drop((head, refused));
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn packets_cross_a_bond_and_its_members_are_closed_after_it() {
    in_child("packets_cross_a_bond_and_its_members_are_closed_after_it", || {
        let members = ["net_null0", "net_null1"];
        let eal = Eal::init(&options(&members.map(str::to_owned))).unwrap();
        let pool = pool(&eal, "packets");
        let bond =
            |name: &str, members: &[&str]| Port::bond(&eal, name, BondMode::ActiveBackup, members);
        assert!(matches!(bond("bond0", &members), Err(PortError::Bond { .. })));
        let missing = bond("net_bonding0", &["net_null0", "net_null7"]);
        assert!(matches!(missing, Err(PortError::NotFound { name, .. }) if name == "net_null7"));
        let port = bond("net_bonding0", &members).unwrap();
        let again = Port::by_name(&eal, "net_null1");
        assert!(matches!(again, Err(PortError::Claimed { .. })), "a member is the bond's");
        let mut port = port.start(&PortConfig::default(), std::slice::from_ref(&pool)).unwrap();
        assert_eq!(port.port.driver_name(), "net_bonding");
        // DPDK asks for their links every ten milliseconds.
        let until = Instant::now() + Duration::from_secs(10);
        while !port.port.link_up().unwrap() {
            assert!(Instant::now() < until, "no member carries packets");
        }
        let states = port.port.members().unwrap();
        assert_eq!(states.iter().filter(|member| member.carries).count(), 1, "{states:?}");
        let mut burst = Burst::new();
        port.tx[0].tend();
        assert_eq!(port.rx[0].receive(&mut burst), 32);
        assert_eq!(port.tx[0].transmit(&mut burst), 32);
        let sent: u64 = port.port.member_stats().unwrap().iter().map(|of| of.opackets).sum();
        assert_eq!(sent, 32);
        drop(port);
        assert_eq!(pool.in_use(), 0);
        assert!(matches!(Port::by_name(&eal, "net_null0"), Err(PortError::NotFound { .. })));
    });
}
