//! Starting the EAL, its memory and its lcores; and what is said when that fails.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{in_child, options, options_with_lcores, packet, pool};
use dpdk::{
    Clock, Eal, EalError, EalOptions, LcoreError, Mempool, MempoolConfig, MempoolError, Port,
    PortError, Zone, ZoneError,
};

#[test]
fn a_second_init_is_refused_and_harms_nothing() {
    in_child("a_second_init_is_refused_and_harms_nothing", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let error = Eal::init(&options(&[])).unwrap_err();
        assert!(matches!(error, EalError::AlreadyInitialised));
        assert_eq!(
            error.to_string(),
            "the EAL was already initialised in this process; DPDK allows that once"
        );
        assert!(pool(&eal, "p").alloc().is_some());
    });
}

#[test]
fn a_refused_option_does_not_use_up_the_one_init() {
    in_child("a_refused_option_does_not_use_up_the_one_init", || {
        let wrong = EalOptions { lcores: Vec::new(), ..options(&[]) };
        assert!(matches!(Eal::init(&wrong), Err(EalError::Options(_))));
        assert!(Eal::init(&options(&[])).is_ok());
    });
}

#[test]
fn an_unknown_driver_fails_init_with_dpdks_own_reason() {
    let (stdout, _) = in_child("an_unknown_driver_fails_init_with_dpdks_own_reason", || {
        let error = Eal::init(&options(&["net_bogus0".into()])).unwrap_err().to_string();
        eprintln!("MESSAGE {error}");
        assert!(error.starts_with("DPDK did not start: rte_eal_init: "), "{error}");
        assert!(error.contains("no driver of that name is installed"), "{error}");
        assert!(error.contains("failed to parse device \"net_bogus0\""), "{error}");
    })
    .unwrap_or_default();
    assert!(!stdout.contains("EAL"), "DPDK wrote to standard output:\n{stdout}");
}

#[test]
fn a_missing_capture_fails_the_port_look_up_with_dpdks_own_reason() {
    let (stdout, stderr) =
        in_child("a_missing_capture_fails_the_port_look_up_with_dpdks_own_reason", || {
            let vdev = "net_pcap7,rx_pcap=/nonexistent/in.pcap,tx_pcap=/nonexistent/out.pcap";
            let eal = Eal::init(&options(&[vdev.into(), "net_null0".into()])).unwrap();
            let error = Port::by_name(&eal, "net_pcap7").unwrap_err();
            assert!(matches!(error, PortError::NotFound { .. }));
            let error = error.to_string();
            eprintln!("MESSAGE {error}");
            assert!(
                error.starts_with(r#"no DPDK port "net_pcap7"; present are ["net_null0"]."#),
                "{error}"
            );
            assert!(error.contains("/nonexistent/in.pcap: No such file or directory"), "{error}");
        })
        .unwrap_or_default();
    assert!(!stdout.contains("EAL"), "DPDK wrote to standard output:\n{stdout}");
    assert!(stderr.is_empty() || stderr.contains("vdev_probe"), "{stderr}");
}

#[test]
fn a_zone_is_zero_aligned_and_goes_back_when_dropped() {
    in_child("a_zone_is_zero_aligned_and_goes_back_when_dropped", || {
        let eal = Eal::init(&options(&[])).unwrap();
        for _ in 0..10 {
            // Three quarters of all there is: only fits if the last one was freed.
            let mut zone = Zone::reserve(&eal, "table", 48 << 20, None).unwrap();
            assert_eq!(zone.as_slice().len(), 48 << 20);
            assert!(zone.as_slice().as_ptr().addr().is_multiple_of(Zone::ALIGN));
            assert!(zone.as_slice().iter().all(|&byte| byte == 0));
            zone.as_mut_slice().fill(0xaa);
        }
    });
}

#[test]
fn a_static_zone_outlives_the_eal_handle() {
    in_child("a_static_zone_outlives_the_eal_handle", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let memory = Zone::reserve(&eal, "table", 1 << 20, None).unwrap().into_static();
        let error = Zone::reserve(&eal, "table", 64, None).unwrap_err();
        assert_eq!(error.to_string(), "memory zone \"table\" exists already");
        drop(eal);
        memory.fill(0x55);
        assert!(memory.iter().all(|&byte| byte == 0x55));
    });
}

#[test]
fn several_hundred_mib_fit_without_huge_pages() {
    in_child("several_hundred_mib_fit_without_huge_pages", || {
        let eal = Eal::init(&EalOptions { memory_mib: 512, ..options(&[]) }).unwrap();
        let mut zone = Zone::reserve(&eal, "table", 400 << 20, None).unwrap();
        *zone.as_mut_slice().last_mut().unwrap() = 1;
    });
}

#[test]
fn too_little_memory_names_what_is_needed_and_what_is_there() {
    in_child("too_little_memory_names_what_is_needed_and_what_is_there", || {
        let eal = Eal::init(&options(&[])).unwrap();
        let error = Zone::reserve(&eal, "table", 1 << 30, None).unwrap_err();
        let ZoneError::NoMemory { bytes: 1_073_741_824, room, .. } = error else {
            panic!("{error}")
        };
        assert!((1 << 20..=64 << 20).contains(&room.largest), "{room:?}");
        assert!((room.largest..=64 << 20).contains(&room.free), "{room:?}");
        assert_eq!(
            error.to_string(),
            format!(
                "memory zone \"table\" needs 1073741824 bytes; DPDK has {} bytes free, the \
                 largest piece is {}; raise the EAL's memory option",
                room.free, room.largest
            )
        );

        let config = MempoolConfig { count: 1 << 20, ..Default::default() };
        let error = Mempool::create(&eal, "packets", &config).unwrap_err();
        assert!(matches!(error, MempoolError::NoMemory { .. }), "{error}");
        let error = error.to_string();
        assert!(
            error.starts_with("mempool \"packets\" needs about 2483027968 bytes; DPDK has "),
            "{error}"
        );
    });
}

#[test]
fn a_zone_of_no_bytes_and_a_name_too_long_are_refused() {
    in_child("a_zone_of_no_bytes_and_a_name_too_long_are_refused", || {
        let eal = Eal::init(&options(&[])).unwrap();
        assert!(matches!(Zone::reserve(&eal, "z", 0, None), Err(ZoneError::Size { .. })));
        let error = Zone::reserve(&eal, &"z".repeat(32), 1, None).unwrap_err();
        assert!(error.to_string().ends_with("has 32 bytes, DPDK takes at most 31"), "{error}");
        assert!(Zone::reserve(&eal, &"z".repeat(31), 1, None).is_ok());
        let config = MempoolConfig { count: 63, cache: 0, ..Default::default() };
        assert!(Mempool::create(&eal, &"p".repeat(25), &config).is_ok());
        assert!(Mempool::create(&eal, &"p".repeat(26), &config).is_err());
    });
}

#[test]
fn lcores_that_share_a_cpu_run_and_are_joined() {
    in_child("lcores_that_share_a_cpu_run_and_are_joined", || {
        let eal = Eal::init(&options_with_lcores(&[], 3)).unwrap();
        assert_eq!(eal.workers(), [1, 2]);
        let stop = Arc::new(AtomicBool::new(false));
        let pool = pool(&eal, "p");
        let start = |lcore: u16| {
            let (stop, pool) = (Arc::clone(&stop), pool.clone());
            eal.launch(lcore, move || {
                let mut rounds = 0_u64;
                while !stop.load(Ordering::Relaxed) || rounds == 0 {
                    drop(pool.alloc());
                    rounds += 1;
                }
                (lcore, rounds)
            })
        };
        let (first, second) = (start(1).unwrap(), start(2).unwrap());
        assert!(!first.is_finished());
        assert!(matches!(start(1), Err(LcoreError::Busy { lcore: 1 })));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(first.lcore(), 1);
        assert_eq!(first.join().unwrap().0, 1);
        assert!(second.join().unwrap().1 > 0);
        // Free for other work; the closure and its captures are gone.
        assert_eq!(start(2).unwrap().join().unwrap().0, 2);
        assert_eq!(Arc::strong_count(&stop), 1);
        assert_eq!(pool.in_use(), 0);

        let error = eal.launch(0, || ()).unwrap_err().to_string();
        assert_eq!(error, "lcore 0 is not a worker of this EAL; its workers are [1, 2]");
        assert!(eal.launch(9, || ()).is_err());
    });
}

#[test]
fn a_panic_on_an_lcore_is_an_error_of_join() {
    in_child("a_panic_on_an_lcore_is_an_error_of_join", || {
        let eal = Eal::init(&options_with_lcores(&[], 2)).unwrap();
        let pool = pool(&eal, "p");
        let held = packet(&pool, b"freed while unwinding");
        let handle = eal
            .launch(1, move || {
                let _held = held;
                panic!("on purpose: {}", 7)
            })
            .unwrap();
        let error = handle.join().map(|(): ()| ()).unwrap_err();
        assert_eq!(error.to_string(), "the work on lcore 1 panicked: on purpose: 7");
        assert_eq!(pool.in_use(), 0);
        assert_eq!(eal.launch(1, || 5).unwrap().join().unwrap(), 5);
    });
}

#[test]
fn a_detached_lcore_keeps_the_eal_and_is_busy() {
    in_child("a_detached_lcore_keeps_the_eal_and_is_busy", || {
        let eal = Eal::init(&options_with_lcores(&[], 2)).unwrap();
        let pool = pool(&eal, "p");
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (report, done) = std::sync::mpsc::channel();
        drop(eal.launch(1, move || {
            let _ = stopped.recv();
            let _ = report.send(packet(&pool, b"late").data().to_vec());
        }));
        assert!(matches!(eal.launch(1, || ()), Err(LcoreError::Busy { lcore: 1 })));
        drop(eal);
        stop.send(()).unwrap();
        assert_eq!(done.recv().unwrap(), b"late");
    });
}

#[test]
fn the_clock_agrees_with_the_systems() {
    in_child("the_clock_agrees_with_the_systems", || {
        let eal = Eal::init(&options(&[])).unwrap();
        assert!(eal.tsc_hz() > 100_000_000, "{}", eal.tsc_hz());
        let (clock, system) = (Clock::start(&eal), std::time::Instant::now());
        let mut last = 0;
        while system.elapsed().as_millis() < 200 {
            let now = clock.now_ns();
            assert!(now >= last);
            last = now;
        }
        let (ours, theirs) = (clock.now_ns() as f64, system.elapsed().as_nanos() as f64);
        assert!((0.98..1.02).contains(&(ours / theirs)), "{ours} {theirs}");
    });
}

#[test]
fn the_version_is_one_we_support() {
    let version = dpdk::dpdk_version();
    let digits = version.strip_prefix("DPDK ").unwrap();
    let year: u32 = digits.split('.').next().unwrap().parse().unwrap();
    assert!(year >= 22, "{version}");
}
