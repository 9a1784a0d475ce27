//! `cgnat connect-test` as an operator meets it: exit codes, budget, messages. Over loopback.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cgnat"));
    command.arg("connect-test").args(arguments).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn last_object(output: &Output) -> Value {
    let printed = text(&output.stdout);
    let line = printed.lines().last().unwrap_or_else(|| panic!("{}", text(&output.stderr)));
    serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))
}

/// A server that has said that it is ready; it ends with this value.
struct Server {
    child: Child,
    lines: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut command = command(&["server", &address, "--json"]);
        let mut child = command.args(options).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        lines.read_line(&mut ready).unwrap();
        assert_eq!(ready, format!("ready {address}\n"));
        Self { child, lines, address }
    }

    /// Its exit code and report, once it has ended.
    fn report(&mut self) -> (Option<i32>, Value) {
        let mut last = String::new();
        self.lines.read_line(&mut last).unwrap();
        (self.child.wait().unwrap().code(), serde_json::from_str(&last).unwrap())
    }

    fn stop(mut self) -> (Option<i32>, Value) {
        let id = Pid::from_child(&self.child);
        kill_process(id, Signal::TERM).unwrap();
        self.report()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn many_sources_reach_one_server_and_both_sides_tell_the_same() {
    let server = Server::start(&[]);
    let client = ["client", &server.address, "--source", "127.0.1.1-127.0.1.9", "--json"];
    let output = command(&client).args(["--connections", "900"]).output().unwrap();
    let seen = last_object(&output);
    assert_eq!(output.status.code(), Some(0), "{seen}");
    assert_eq!((&seen["completed"], &seen["errors"]), (&Value::from(900), &Value::from(0)));
    assert_eq!((&seen["addresses"], &seen["good"]), (&Value::from(9), &Value::from(true)));
    assert!(seen["latency_us"]["median"].as_u64().unwrap() > 0, "{seen}");

    // The server may not have seen the last of them end.
    let (code, served) = server.stop();
    assert_eq!((&served["accepted"], &served["addresses"]), (&Value::from(900), &Value::from(9)));
    assert_eq!(code, Some(0), "{served}");
}

#[test]
fn a_server_with_a_time_ends_by_itself() {
    let (code, served) = Server::start(&["--seconds", "1"]).report();
    assert_eq!((code, &served["accepted"]), (Some(0), &Value::from(0)), "{served}");
}

#[test]
fn the_budget_decides_and_nothing_answered_is_never_good() {
    let server = Server::start(&[]);
    let address = server.address.clone();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for (to, allowed, code) in [(&closed, "0", 1), (&closed, "1000", 1), (&address, "0", 0)] {
        let client = ["client", to, "--connections", "20", "--max-errors", allowed, "--json"];
        let output = command(&client).output().unwrap();
        let seen = last_object(&output);
        assert_eq!(output.status.code(), Some(code), "{seen}");
        assert_eq!(seen["good"], Value::from(code == 0), "{seen}");
        let refused = if to == &closed { 20 } else { 0 };
        assert_eq!(seen["refused"], Value::from(refused), "{seen}");
    }
    let output = command(&["client", &closed, "--connections", "5"]).output().unwrap();
    let printed = text(&output.stdout);
    assert!(printed.contains("5 failed (5 refused"), "{printed}");
    assert!(printed.ends_with("not good: no connection was answered\n"), "{printed}");
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let cases: [(&[&str], &str); 7] = [
        (&["client", "127.0.0.1"], "socket address"),
        (&["client", "127.0.0.1:9", "--source", "127.0.0.9-127.0.0.1"], "ends before it begins"),
        (&["client", "127.0.0.1:9", "--source", "host"], "is not an IPv4 address"),
        (&["client", "127.0.0.1:9", "--connections", "0"], "0 is not in 1.."),
        (&["client", "127.0.0.1:9", "--seconds", "0"], "0 is not in 1..="),
        (&["client", "127.0.0.1:9", "--max-errors", "-1"], "unexpected argument '-1'"),
        (&["server"], "<ADDRESS:PORT>"),
    ];
    for (arguments, says) in cases {
        let output = command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let errors = text(&output.stderr);
        assert!(errors.contains(says), "{arguments:?}: {errors}");
    }
}

#[test]
fn what_this_host_lacks_ends_with_1_and_says_what_to_do() {
    let cases: [(&[&str], &str); 5] = [
        (
            &["client", "127.0.0.1:9", "--source", "192.0.2.77"],
            "192.0.2.77 cannot be a source: this host must have the address (`ip address add",
        ),
        (
            &["client", "127.0.0.1:9", "--sources-file", "/nonexistent"],
            "from /nonexistent: No such",
        ),
        (&["client", "127.0.0.1:9", "--concurrency", "1"], "--concurrency 1 is less than one"),
        (
            &["client", "127.0.0.1:9", "--concurrency", "1000000", "--connections", "1"],
            "(`ulimit -n`) or lower the client's --concurrency",
        ),
        (&["server", "192.0.2.77:9"], "cannot serve on 192.0.2.77:9 (this host must have"),
    ];
    for (arguments, says) in cases {
        // More files than any limit permits, whatever it is where this runs.
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n 1024; exec \"$0\" connect-test \"$@\""]);
        let output = shell.arg(env!("CARGO_BIN_EXE_cgnat")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let errors = text(&output.stderr);
        assert!(errors.starts_with("connect-test: ") && errors.contains(says), "{errors}");
    }
}
