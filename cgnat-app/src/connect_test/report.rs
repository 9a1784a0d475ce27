//! What both sides saw, for people and as JSON.

use std::io;

use serde_json::{Value, json};

use super::latency::Latencies;

/// What the clients saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClientReport {
    /// Connections begun.
    pub connections: u64,
    /// Answered rightly and closed by both sides.
    pub completed: u64,
    /// Connection refused.
    pub refused: u64,
    /// Reset, or closed before the answer was whole.
    pub reset: u64,
    /// Timed out.
    pub timed_out: u64,
    /// An answer that belongs to another connection.
    pub wrong_echo: u64,
    /// Other errors, with the first of them in `first_error`.
    pub other: u64,
    /// Answers with an external endpoint that another open connection has.
    pub duplicates: u64,
    /// External endpoints used again, after their connection was over, for another internal
    /// endpoint. For the same one that is what a NAT must do: its mapping lives on.
    pub reused: u64,
    /// Distinct external addresses.
    pub addresses: u64,
    /// Distinct external endpoints.
    pub endpoints: u64,
    /// Connections that took 0.9 s or more until established: a SYN was lost.
    pub slow: u64,
    /// SYN segments that this namespace's kernel sent again meanwhile.
    pub syn_sent_again: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// The first error that is neither refusal, reset nor timeout.
    pub first_error: Option<String>,
    /// From SYN to answer.
    pub latencies: Latencies,
}

impl ClientReport {
    /// Connections that did not complete, whatever the reason.
    pub fn failed(&self) -> u64 {
        self.refused + self.reset + self.timed_out + self.wrong_echo + self.other
    }

    /// All that a budget of errors is about.
    pub fn errors(&self) -> u64 {
        self.failed() + self.duplicates
    }

    /// Adds another part of the same run.
    pub fn merge(&mut self, part: &ClientReport) {
        self.connections += part.connections;
        self.completed += part.completed;
        self.refused += part.refused;
        self.reset += part.reset;
        self.timed_out += part.timed_out;
        self.wrong_echo += part.wrong_echo;
        self.other += part.other;
        self.duplicates += part.duplicates;
        self.reused += part.reused;
        self.slow += part.slow;
        self.latencies.merge(&part.latencies);
        if self.first_error.is_none() {
            self.first_error.clone_from(&part.first_error);
        }
    }

    /// Counts an error of the operating system under its kind.
    pub fn count(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => self.refused += 1,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => self.reset += 1,
            io::ErrorKind::TimedOut => self.timed_out += 1,
            _ => {
                self.other += 1;
                self.first_error.get_or_insert_with(|| error.to_string());
            }
        }
    }

    /// A few lines for people.
    pub fn summary(&self) -> String {
        let first =
            self.first_error.as_ref().map(|error| format!("\nthe first of the other: {error}"));
        format!(
            "{} connections in {:.1} s: {} completed, {} failed ({} refused, {} reset, {} timed \
             out, {} wrong echo, {} other), {} duplicates\n{}\n{} SYN sent again, {} slow; {} \
             external addresses, {} endpoints, {} used again{}",
            self.connections,
            self.seconds,
            self.completed,
            self.failed(),
            self.refused,
            self.reset,
            self.timed_out,
            self.wrong_echo,
            self.other,
            self.duplicates,
            Summary::new(self, self, self.seconds, self.seconds).times(),
            self.syn_sent_again,
            self.slow,
            self.addresses,
            self.endpoints,
            self.reused,
            first.unwrap_or_default(),
        )
    }

    /// All of it; times in microseconds.
    pub fn json(&self) -> Value {
        let mut object = Summary::new(self, self, self.seconds, self.seconds).json();
        object["kind"] = json!("total");
        for (name, count) in [
            ("connections", self.connections),
            ("completed", self.completed),
            ("failed", self.failed()),
            ("refused", self.refused),
            ("reset", self.reset),
            ("timed_out", self.timed_out),
            ("wrong_echo", self.wrong_echo),
            ("other", self.other),
            ("duplicates", self.duplicates),
            ("reused", self.reused),
            ("addresses", self.addresses),
            ("endpoints", self.endpoints),
            ("slow", self.slow),
            ("syn_sent_again", self.syn_sent_again),
        ] {
            object[name] = json!(count);
        }
        object["first_error"] = json!(self.first_error);
        object
    }
}

/// One interval of a run, or all of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Seconds of the interval, and since the start.
    seconds: (f64, f64),
    max_us: u64,
    p99_us: u64,
    p95_us: u64,
    median_us: u64,
    /// Answers per second.
    rate: f64,
    /// Since the start.
    errors: u64,
    /// Since the start: connections that were begun.
    connections: u64,
}

impl Summary {
    /// `part` lasted `seconds`, and belongs to `all`, which began `since` seconds ago.
    pub fn new(part: &ClientReport, all: &ClientReport, seconds: f64, since: f64) -> Summary {
        let times = &part.latencies;
        Summary {
            seconds: (seconds, since),
            max_us: times.max_us(),
            p99_us: times.quantile_us(990),
            p95_us: times.quantile_us(950),
            median_us: times.quantile_us(500),
            rate: if seconds > 0.0 { times.count() as f64 / seconds } else { 0.0 },
            errors: all.errors(),
            connections: all.connections,
        }
    }

    fn times(&self) -> String {
        let ms = |us: u64| us as f64 / 1000.0;
        format!(
            "max {:.2} ms, 99 % {:.2} ms, 95 % {:.2} ms, median {:.2} ms, {:.0} requests/s",
            ms(self.max_us),
            ms(self.p99_us),
            ms(self.p95_us),
            ms(self.median_us),
            self.rate,
        )
    }

    /// The line that an operator watches.
    pub fn line(&self) -> String {
        let (last, since) = self.seconds;
        let (times, errors, connections) = (self.times(), self.errors, self.connections);
        format!(
            "{since:.0} s: last {last:.1} s: {times}; since start: {errors} errors / \
             {connections} connections"
        )
    }

    /// The same as JSON; times in microseconds.
    pub fn json(&self) -> Value {
        json!({
            "kind": "interval",
            "interval_seconds": self.seconds.0,
            "seconds": self.seconds.1,
            "latency_us": {
                "max": self.max_us,
                "p99": self.p99_us,
                "p95": self.p95_us,
                "median": self.median_us,
            },
            "requests_per_second": self.rate,
            "errors": self.errors,
            "connections": self.connections,
        })
    }
}

/// What the server saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerReport {
    /// Connections accepted.
    pub accepted: u64,
    /// Answered and closed by both sides.
    pub completed: u64,
    /// Ended otherwise: reset, or closed by the client before its line was whole.
    pub broken: u64,
    /// Accepted from an endpoint that another open connection has.
    pub duplicates: u64,
    /// More or other bytes than one line, or the line of another open connection.
    pub mixed: u64,
    /// Distinct external addresses.
    pub addresses: u64,
    /// Distinct external endpoints.
    pub endpoints: u64,
    /// Most connections open at one time.
    pub most_open: u64,
}

impl ServerReport {
    /// No two connections were taken for one another.
    pub fn is_good(&self) -> bool {
        self.duplicates == 0 && self.mixed == 0
    }

    /// A line for people.
    pub fn summary(&self) -> String {
        let ServerReport {
            accepted,
            completed,
            broken,
            duplicates,
            mixed,
            addresses,
            endpoints,
            most_open,
        } = self;
        format!(
            "{accepted} connections accepted, {completed} completed, {broken} broken, \
             {duplicates} duplicates, {mixed} mixed up; {addresses} external addresses, \
             {endpoints} endpoints, at most {most_open} open at one time"
        )
    }

    /// All of it.
    pub fn json(&self) -> Value {
        json!({
            "accepted": self.accepted,
            "completed": self.completed,
            "broken": self.broken,
            "duplicates": self.duplicates,
            "mixed": self.mixed,
            "addresses": self.addresses,
            "endpoints": self.endpoints,
            "most_open": self.most_open,
        })
    }
}
