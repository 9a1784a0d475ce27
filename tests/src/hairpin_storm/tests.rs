use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use super::judge::{Confirmed, Doubt, Stray};
use super::wire::{BYTES, Message, Speaker, Talk};
use super::*;

const MS: u64 = 1_000_000;
const A: Speaker = Speaker { socket: 1, life: 3 };
const B: Speaker = Speaker { socket: 2, life: 9 };
const C: Speaker = Speaker { socket: 3, life: 1 };

fn timers() -> Timers {
    let ms = Duration::from_millis;
    Timers { idle: ms(1000), hold: ms(1000), margin: ms(400) }
}

fn endpoint(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), port)
}

fn confirmed(who: Speaker, port: u16, asked_ms: u64) -> Confirmed {
    let asked = asked_ms * MS;
    Confirmed { who, endpoint: endpoint(port), asked, answered: asked + 10 * MS }
}

/// A talks to B's port 2000 from its port 1000.
fn doubt(source: u16, receiver: Speaker, sent_ms: u64) -> Doubt {
    let sent = sent_ms * MS;
    let (expected, to) = (endpoint(1000), endpoint(2000));
    let talk = Talk { from: A, expected, meant: B, to, sent, sequence: 1 };
    Doubt { talk, source: endpoint(source), receiver, received: sent + 5 * MS }
}

fn judged(confirmed: &[Confirmed], doubts: &[Doubt]) -> Findings {
    let mut evidence = Evidence::default();
    evidence.confirmed.extend_from_slice(confirmed);
    for doubt in doubts {
        evidence.doubt(*doubt);
    }
    evidence.judge(timers())
}

#[test]
fn a_datagram_reads_as_it_was_written() {
    let doubt = doubt(1, B, 77);
    let messages = [
        Message::Ask { who: A, asked: 5 },
        Message::Answer { who: B, asked: u64::MAX, seen: endpoint(9) },
        Message::Talk(doubt.talk),
    ];
    for message in messages {
        let mut buffer = [0; BYTES];
        let count = wire::write(&message, &mut buffer);
        assert_eq!(wire::read(&buffer[..count]), Some(message));
        assert_eq!(wire::read(&buffer[..count - 1]), None);
        assert_eq!(wire::read(&buffer[..count + 1]), None);
        buffer[0] ^= 1;
        assert_eq!(wire::read(&buffer[..count]), None);
    }
}

#[test]
fn another_source_is_wrong_while_the_mapping_must_live_and_undecided_later() {
    let known = [confirmed(A, 1000, 0), confirmed(B, 2000, 0)];
    let found = judged(&known, &[doubt(1001, B, 100)]);
    assert_eq!((found.wrong_source, found.wrong()), (1, 1), "{found:?}");
    // The mapping may have expired at 600 ms: 1001 may be the next one.
    let found = judged(&known, &[doubt(1001, B, 700)]);
    assert_eq!((found.wrong(), found.undecided), (0, 1), "{found:?}");
    // But not an address that is no external one, nor the endpoint of somebody else.
    let mut untranslated = doubt(1001, B, 700);
    untranslated.source.set_ip(Ipv4Addr::new(100, 64, 0, 10));
    assert_eq!(judged(&known, &[untranslated]).wrong_source, 1);
    let found = judged(&known, &[doubt(2000, B, 700)]);
    assert_eq!(found.wrong_source, 1, "{found:?}");
    let found = judged(&[known[0], known[1], confirmed(A, 1001, 2000)], &[doubt(1001, B, 700)]);
    assert_eq!((found.wrong(), found.right_after_all), (0, 1), "{found:?}");
}

#[test]
fn another_receiver_is_wrong_while_the_endpoint_is_reserved_and_right_when_it_has_passed_on() {
    let known = [confirmed(A, 1000, 0), confirmed(B, 2000, 0), confirmed(A, 1000, 400)];
    for sent in [100, 500, 900, 1500] {
        let found = judged(&known, &[doubt(1000, C, sent)]);
        assert_eq!((found.misdelivered, found.wrong()), (1, 1), "{sent}: {found:?}");
    }
    let found = judged(&known, &[doubt(1000, C, 1700)]);
    assert_eq!((found.wrong(), found.undecided), (0, 1), "{found:?}");
    let passed_on = [known[0], known[1], known[2], confirmed(C, 2000, 1800)];
    let found = judged(&passed_on, &[doubt(1000, C, 1850)]);
    assert_eq!((found.wrong(), found.right_after_all, found.passed_on), (0, 1, 1), "{found:?}");
    // Now it is the old owner who must not receive.
    let found = judged(&passed_on, &[doubt(1000, B, 1850)]);
    assert_eq!(found.misdelivered, 1, "{found:?}");
    // C lives elsewhere.
    let elsewhere = [known[0], known[2], confirmed(C, 3000, 100)];
    let found = judged(&elsewhere, &[doubt(1000, C, 200)]);
    assert_eq!(found.misdelivered, 1, "{found:?}");
}

#[test]
fn an_endpoint_of_two_within_hold_down_and_a_mapping_that_changes_are_wrong() {
    let found = judged(&[confirmed(A, 7, 0), confirmed(B, 7, 1500)], &[]);
    assert_eq!((found.shared, found.wrong()), (1, 1), "{found:?}");
    let found = judged(&[confirmed(A, 7, 0), confirmed(B, 7, 1700)], &[]);
    assert_eq!((found.shared, found.passed_on), (0, 1), "{found:?}");
    let found = judged(&[confirmed(A, 7, 0), confirmed(A, 8, 500)], &[]);
    assert_eq!((found.changed, found.wrong()), (1, 1), "{found:?}");
    let found = judged(&[confirmed(A, 7, 0), confirmed(A, 8, 700)], &[]);
    assert_eq!(found.changed, 0, "{found:?}");
    // The first question was overtaken and waited: its answer may tell of the next mapping.
    let late = Confirmed { answered: 1900 * MS, ..confirmed(A, 7, 0) };
    let found = judged(&[late, confirmed(A, 8, 200)], &[]);
    assert_eq!(found.wrong(), 0, "{found:?}");
    // Another one in between does not hide it.
    let found = judged(&[confirmed(A, 7, 0), late, confirmed(A, 8, 200)], &[]);
    assert_eq!(found.changed, 1, "{found:?}");
}

#[test]
fn an_answer_to_somebody_else_is_wrong() {
    let mut evidence = Evidence::default();
    evidence.stray(Stray { answer: confirmed(A, 7, 0), receiver: B });
    assert_eq!(evidence.judge(timers()).misdelivered, 1);
}

/// Without a NAT every endpoint is what it is, and everything is right.
#[test]
fn on_one_host_the_storm_finds_nothing_wrong() {
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, is_ready) = mpsc::channel();
    let reflector = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 47_990);
    let stopped = Arc::clone(&stop);
    let reflecting = thread::spawn(move || {
        run_reflector(reflector, &stopped, move || ready.send(()).expect("somebody waits"))
    });
    is_ready.recv_timeout(Duration::from_secs(5)).expect("the reflector has its sockets");
    let sources: Vec<_> = (1..=20).map(|last| Ipv4Addr::new(127, 0, 3, last)).collect();
    let report = run_storm(&StormOptions {
        reflector,
        tcp_sources: sources.clone(),
        sources,
        threads: 2,
        tcp_threads: 1,
        duration: Duration::from_millis(4500),
        timers: timers(),
        seed: 1,
    })
    .expect("sockets");
    stop.store(true, Ordering::Relaxed);
    let reflected = reflecting.join().expect("no panic").expect("sockets");
    assert!(reflected.answered > 20 && reflected.connections > 4, "{reflected:?}");
    assert!(report.talked.right > 1000 && report.tcp.completed > 2, "{report:?}");
    assert_eq!(report.wrong() + report.talked.foreign, 0, "{report:?}");
}
