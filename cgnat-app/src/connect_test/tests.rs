use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::client::{ClientOptions, run_client as client};
use super::report::{ClientReport, ServerReport, Summary};
use super::server::run_server;

fn options(server: SocketAddrV4, connections: u64) -> ClientOptions {
    ClientOptions {
        server,
        sources: vec![Ipv4Addr::new(127, 0, 1, 1), Ipv4Addr::new(127, 0, 1, 2)],
        connections,
        concurrency: 64,
        threads: 2,
        timeout: Duration::from_secs(2),
        limit: Duration::from_secs(20),
        interval: Duration::from_secs(5),
    }
}

fn run_client(options: &ClientOptions) -> std::io::Result<ClientReport> {
    client(options, &AtomicBool::new(false), |_| Ok(()))
}

fn serve(
    address: SocketAddrV4,
    stop: &AtomicBool,
    ready: mpsc::Sender<()>,
) -> std::io::Result<ServerReport> {
    run_server(address, None, stop, || {
        ready.send(()).expect("somebody waits");
        Ok(())
    })
}

/// A server that answers each line by `answer` and closes after the client.
fn odd_server(answer: fn(&str, SocketAddr) -> String) -> SocketAddrV4 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let Ok(SocketAddr::V4(address)) = listener.local_addr() else { unreachable!("an IPv4 socket") };
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let peer = stream.peer_addr().expect("connected");
                let mut reader = BufReader::new(&stream);
                let mut line = String::new();
                reader.read_line(&mut line).expect("a line");
                (&stream).write_all(answer(line.trim(), peer).as_bytes()).expect("sent");
                // The client's end.
                let _ = reader.read_line(&mut line);
            });
        }
    });
    address
}

#[test]
fn every_connection_over_loopback_completes_and_keeps_its_identity() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("free").port();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, is_ready) = mpsc::channel();
    let flag = Arc::clone(&stop);
    let server = thread::spawn(move || serve(address, &flag, ready));
    is_ready.recv_timeout(Duration::from_secs(5)).expect("it listens");
    let seen = run_client(&options(address, 2000)).expect("it runs");
    thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Relaxed);
    let served = server.join().expect("no panic").expect("it served");
    assert_eq!(
        (seen.completed, seen.failed(), seen.duplicates),
        (2000, 0, 0),
        "{}",
        seen.summary()
    );
    assert_eq!((served.accepted, served.completed), (2000, 2000), "{served:?}");
    assert_eq!((served.duplicates, served.mixed, served.broken), (0, 0, 0), "{served:?}");
    assert_eq!((seen.addresses, served.addresses), (2, 2));
}

#[test]
fn refused_connections_are_counted_as_refused() {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
    let seen = run_client(&options(address, 20)).expect("it runs");
    assert_eq!((seen.completed, seen.failed(), seen.refused), (0, 20, 20), "{}", seen.summary());
}

#[test]
fn an_answer_for_another_connection_is_a_wrong_echo() {
    let address = odd_server(|_, peer| format!("1 999999 127.0.1.1:1 {peer}\n"));
    let seen = run_client(&options(address, 20)).expect("it runs");
    assert_eq!((seen.failed(), seen.wrong_echo), (20, 20), "{}", seen.summary());
}

#[test]
fn two_open_connections_with_one_endpoint_are_a_duplicate() {
    let address = odd_server(|line, _| {
        // Late enough that the connections overlap.
        thread::sleep(Duration::from_millis(100));
        format!("{line} 203.0.113.1:4000\n")
    });
    let seen = run_client(&options(address, 10)).expect("it runs");
    assert!(seen.duplicates + seen.reused == 9 && seen.duplicates > 0, "{}", seen.summary());
}

#[test]
fn a_silent_server_is_a_timeout_and_an_early_end_is_a_reset() {
    let address = odd_server(|_, _| {
        thread::sleep(Duration::from_secs(4));
        String::new()
    });
    let seen = run_client(&options(address, 10)).expect("it runs");
    assert_eq!((seen.failed(), seen.timed_out), (10, 10), "{}", seen.summary());

    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let Ok(SocketAddr::V4(address)) = listener.local_addr() else { unreachable!("an IPv4 socket") };
    thread::spawn(move || listener.incoming().for_each(drop));
    let seen = run_client(&options(address, 10)).expect("it runs");
    assert_eq!((seen.failed(), seen.reset), (10, 10), "{}", seen.summary());
}

#[test]
fn the_server_notices_another_connections_line_and_bytes_beyond_one_line() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("free").port();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, is_ready) = mpsc::channel();
    let flag = Arc::clone(&stop);
    let server = thread::spawn(move || serve(address, &flag, ready));
    is_ready.recv_timeout(Duration::from_secs(5)).expect("it listens");
    let mut open = Vec::new();
    for line in ["f 7 127.0.0.1:9\n", "f 7 127.0.0.1:9\n", "f 8 127.0.0.1:9\nmore", "nonsense\n"] {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(line.as_bytes()).expect("sent");
        thread::sleep(Duration::from_millis(100));
        open.push(stream);
    }
    // The same line again, when its connection is over, is nobody else's.
    drop(open);
    thread::sleep(Duration::from_millis(300));
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"f 7 127.0.0.1:9\n").expect("sent");
    thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Relaxed);
    let served = server.join().expect("no panic").expect("it served");
    assert_eq!(served.mixed, 3, "{served:?}");
}

#[test]
fn a_run_without_a_count_ends_by_time() {
    let address = odd_server(|line, peer| format!("{line} {peer}\n"));
    let options = ClientOptions { limit: Duration::from_millis(500), ..options(address, u64::MAX) };
    let seen = run_client(&options).expect("it runs");
    assert!(seen.completed > 0 && seen.errors() == 0, "{}", seen.summary());
    assert_eq!((seen.completed, seen.latencies.count()), (seen.connections, seen.connections));
}

#[test]
fn a_run_tells_of_each_interval_and_ends_when_it_is_stopped() {
    let address = odd_server(|line, peer| format!("{line} {peer}\n"));
    let (interval, stop) = (Duration::from_millis(100), AtomicBool::new(false));
    let options = ClientOptions { interval, ..options(address, u64::MAX) };
    let mut told: Vec<Summary> = Vec::new();
    let seen = client(&options, &stop, |summary| {
        told.push(summary.clone());
        stop.store(told.len() >= 3, Ordering::Relaxed);
        Ok(())
    })
    .expect("it runs");
    assert!(told.len() >= 3 && seen.errors() == 0, "{told:?} {}", seen.summary());
    let line = told[0].line();
    for part in ["max ", ", 99 % ", ", 95 % ", ", median ", " requests/s; since start: 0 errors / "]
    {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_client_that_is_stopped_counts_no_error_for_what_it_gave_up() {
    let address = odd_server(|_, _| {
        thread::sleep(Duration::from_secs(4));
        String::new()
    });
    let stop = AtomicBool::new(false);
    let options = ClientOptions { interval: Duration::from_millis(200), ..options(address, 10) };
    let seen = client(&options, &stop, |_| {
        stop.store(true, Ordering::Relaxed);
        Ok(())
    })
    .expect("it runs");
    assert_eq!((seen.connections, seen.completed, seen.errors()), (10, 0, 0));
}
