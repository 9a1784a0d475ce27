//! Notices what stands still: a worker that does not poll, a transmit queue that takes nothing.
//!
//! The main thread looks every few milliseconds, at counters that the workers write anyway.
//! Receive queues that go silent are seen where it is known what each should get (`steering`).
//! Always true:
//! 1. a look reads counters and nothing else of the workers;
//! 2. a look that comes late, because this thread had no CPU, is not taken for a worker's fault;
//! 3. what has stopped is said once, and once more when it goes on.

use std::sync::Arc;
use std::time::Duration;

use cgnat_core::control::counters::WorkerCounters;

/// A worker that has not polled for so long has stopped. It polls at least 5,000 times a second.
const STALL: Duration = Duration::from_millis(500);

/// Time between two looks that counts at most: whoever looks late has slept itself.
const LONGEST_LOOK: Duration = Duration::from_millis(25);

/// How long a queue takes nothing of what it is given until it is said.
const PERIOD: Duration = Duration::from_secs(1);

/// Whether something stands still, and how often it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standstill {
    /// Now.
    pub is_now: bool,
    /// Since the start.
    pub times: u64,
}

/// What stands still.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standstills {
    /// By worker.
    pub workers: Vec<Standstill>,
    /// By port and transmit queue.
    pub queues: Vec<Vec<Standstill>>,
}

/// A port as the watchdog knows it.
#[derive(Debug, Clone)]
pub struct Outlet {
    /// Name in the configuration.
    pub name: String,
    /// Transmit queues; worker `n` sends through queue `n` modulo these.
    pub queues: u16,
}

#[derive(Default, Clone)]
struct Pulse {
    polls: u64,
    /// Without a poll, as far as this thread was there to see it.
    still: Duration,
}

/// Watches all workers and their transmit queues.
pub struct Watchdog {
    /// Of the workers.
    cpus: Vec<u16>,
    ports: Vec<Outlet>,
    pulses: Vec<Pulse>,
    /// By port and queue: frames sent and refused until the period began.
    before: Vec<Vec<(u64, u64)>>,
    found: Standstills,
    looked: Duration,
    period: Duration,
}

impl Watchdog {
    /// Nothing seen yet, at time zero of its clock.
    pub fn new(cpus: &[u16], ports: Vec<Outlet>) -> Self {
        let queues = |port: &Outlet| usize::from(port.queues);
        Self {
            pulses: vec![Pulse::default(); cpus.len()],
            before: ports.iter().map(|port| vec![(0, 0); queues(port)]).collect(),
            found: Standstills {
                workers: vec![Standstill::default(); cpus.len()],
                queues: ports.iter().map(|p| vec![Standstill::default(); queues(p)]).collect(),
            },
            cpus: cpus.to_vec(),
            ports,
            looked: Duration::ZERO,
            period: Duration::ZERO,
        }
    }

    /// What stands still.
    pub fn found(&self) -> Standstills {
        self.found.clone()
    }

    /// Looks at time `now`; what the operator should know. `link` tells whether the link of a port
    /// is up, as far as its driver knows, and is asked only about a port that has stopped.
    pub fn look(
        &mut self,
        now: Duration,
        counters: &[Arc<WorkerCounters>],
        link: impl Fn(usize) -> Option<bool>,
    ) -> Vec<String> {
        let mut sentences = Vec::new();
        let passed = now.saturating_sub(self.looked).min(LONGEST_LOOK);
        self.looked = now;
        for (worker, counters) in counters.iter().enumerate() {
            self.judge_worker(worker, counters.polls.value(), passed, &mut sentences);
        }
        if now.saturating_sub(self.period) >= PERIOD {
            self.period = now;
            for port in 0..self.ports.len() {
                self.judge_queues(port, counters, &link, &mut sentences);
            }
        }
        sentences
    }

    fn judge_worker(
        &mut self,
        worker: usize,
        polls: u64,
        passed: Duration,
        sentences: &mut Vec<String>,
    ) {
        let (pulse, cpu) = (&mut self.pulses[worker], self.cpus[worker]);
        let found = &mut self.found.workers[worker];
        if polls == pulse.polls {
            pulse.still += passed;
            if pulse.still >= STALL && !found.is_now {
                *found = Standstill { is_now: true, times: found.times + 1 };
                sentences.push(format!(
                    "warning: worker {worker} on CPU {cpu} has stopped: no poll for {} ms. Queue \
                     {worker} of every port fills up and its subscribers wait; the other workers go \
                     on. Look for what else runs on CPU {cpu} (ps -eLo psr,rtprio,pid,comm), for a \
                     debugger, and for a driver that hangs",
                    pulse.still.as_millis()
                ));
            }
            return;
        }
        if found.is_now {
            found.is_now = false;
            sentences.push(format!(
                "worker {worker} on CPU {cpu} polls again, after {} ms",
                pulse.still.as_millis()
            ));
        }
        *pulse = Pulse { polls, still: Duration::ZERO };
    }

    fn judge_queues(
        &mut self,
        port: usize,
        counters: &[Arc<WorkerCounters>],
        link: &impl Fn(usize) -> Option<bool>,
        sentences: &mut Vec<String>,
    ) {
        let Outlet { name, queues } = &self.ports[port];
        let queues = usize::from(*queues);
        for queue in 0..queues {
            let users = counters.iter().enumerate().filter(|(n, _)| n % queues == queue);
            let of = |all: (u64, u64), (_, counters): (usize, &Arc<WorkerCounters>)| {
                let port = &counters.ports[port];
                (all.0 + port.tx_packets.value(), all.1 + port.tx_refused.value())
            };
            let now = users.fold((0, 0), of);
            let before = std::mem::replace(&mut self.before[port][queue], now);
            let (sent, refused) = (now.0 - before.0, now.1 - before.1);
            let found = &mut self.found.queues[port][queue];
            if sent > 0 && found.is_now {
                found.is_now = false;
                sentences.push(format!(
                    "port {name}: transmit queue {queue} works again: {sent} packets"
                ));
            }
            if sent == 0 && refused > 0 && !found.is_now {
                *found = Standstill { is_now: true, times: found.times + 1 };
                let state = match link(port) {
                    Some(false) => "The driver says that the link is down",
                    Some(true) => "The driver says that the link is up",
                    None => "The driver says nothing of the link",
                };
                sentences.push(format!(
                    "warning: port {name}: transmit queue {queue} (worker {queue}) takes nothing: \
                     {refused} packets of the last second were dropped under `transmit-full`. \
                     {state}; look at the link, its partner and the counters of the card, or restart"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watchdog(cpus: &[u16], queues: u16) -> (Watchdog, Vec<Arc<WorkerCounters>>) {
        let port = |name: &str, queues| Outlet { name: name.to_owned(), queues };
        let ports = vec![port("in", 1), port("up", queues)];
        let counters = cpus.iter().map(|_| Arc::new(WorkerCounters::new(2))).collect();
        (Watchdog::new(cpus, ports), counters)
    }

    /// Looks every five milliseconds, after each time doing `step`; with times at which something
    /// was said.
    fn watch(
        watchdog: &mut Watchdog,
        counters: &[Arc<WorkerCounters>],
        from_ms: u64,
        until_ms: u64,
        step: impl Fn(u64),
    ) -> Vec<(u64, String)> {
        let mut said = Vec::new();
        for ms in (from_ms..until_ms).step_by(5) {
            step(ms);
            let now = Duration::from_millis(ms);
            let new = watchdog.look(now, counters, |port| (port == 1).then_some(false));
            said.extend(new.into_iter().map(|sentence| (ms, sentence)));
        }
        said
    }

    #[test]
    fn a_worker_that_does_not_poll_is_named_within_a_second_and_so_is_its_return() {
        let (mut watchdog, counters) = watchdog(&[4, 6], 2);
        let all = |_| counters.iter().for_each(|c| c.polls.add(25));
        assert_eq!(watch(&mut watchdog, &counters, 0, 3000, all), []);
        let said = watch(&mut watchdog, &counters, 3000, 6000, |_| counters[0].polls.add(25));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!((3400..3600).contains(&said[0].0), "{said:?}");
        assert!(said[0].1.contains("worker 1 on CPU 6 has stopped: no poll for 5"), "{said:?}");
        let still = Standstill { is_now: true, times: 1 };
        assert_eq!(watchdog.found().workers, [Standstill::default(), still]);
        let said = watch(&mut watchdog, &counters, 6000, 9000, all);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].1.contains("worker 1 on CPU 6 polls again, after 3"), "{said:?}");
        assert_eq!(watchdog.found().workers[1], Standstill { is_now: false, times: 1 });
    }

    #[test]
    fn a_late_look_blames_nobody() {
        let (mut watchdog, counters) = watchdog(&[0], 1);
        for second in 1..10 {
            let said = watchdog.look(Duration::from_secs(second), &counters, |_| None);
            assert_eq!(said, [""; 0], "nobody polled while the whole machine slept");
        }
        // It has stopped all the same.
        let said = watch(&mut watchdog, &counters, 10_000, 11_000, |_| ());
        assert_eq!(said.len(), 1, "{said:?}");
    }

    #[test]
    fn a_queue_that_takes_nothing_is_named_with_its_port_and_counted() {
        let (mut watchdog, counters) = watchdog(&[0, 1, 2], 2);
        let polls = || counters.iter().for_each(|c| c.polls.add(1));
        let works = |_| {
            polls();
            // Overloaded, but it sends.
            counters.iter().for_each(|c| c.ports[1].tx_packets.add(1));
            counters.iter().for_each(|c| c.ports[1].tx_refused.add(9));
        };
        assert_eq!(watch(&mut watchdog, &counters, 0, 5000, works), []);
        // Nobody sends: nothing is known.
        assert_eq!(watch(&mut watchdog, &counters, 5000, 8000, |_| polls()), []);
        let stops = |_| {
            polls();
            counters[1].ports[1].tx_refused.add(2);
            counters[2].ports[1].tx_packets.add(1);
        };
        let said = watch(&mut watchdog, &counters, 8000, 11_500, stops);
        assert_eq!(said.len(), 1, "{said:?}");
        let expected = "warning: port up: transmit queue 1 (worker 1) takes nothing: ";
        assert!(said[0].1.starts_with(expected), "{said:?}");
        assert!(said[0].1.contains("The driver says that the link is down"), "{said:?}");
        let queues = watchdog.found().queues;
        let still = Standstill { is_now: true, times: 1 };
        assert_eq!(queues, [vec![Standstill::default()], vec![Standstill::default(), still]]);
        // Silence does not mend it, a packet does.
        assert_eq!(watch(&mut watchdog, &counters, 11_500, 15_000, |_| polls()), []);
        let said = watch(&mut watchdog, &counters, 15_000, 17_500, works);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].1.contains("port up: transmit queue 1 works again"), "{said:?}");
        assert_eq!(watchdog.found().queues[1][1], Standstill { is_now: false, times: 1 });
    }

    /// Workers without a queue of their own send through that of another.
    #[test]
    fn a_queue_that_is_shared_has_stopped_only_if_it_takes_nothing_of_anybody() {
        let (mut watchdog, counters) = watchdog(&[0, 1, 2], 2);
        let step = |_| {
            counters.iter().for_each(|c| c.polls.add(1));
            counters[0].ports[1].tx_refused.add(2);
            counters[2].ports[1].tx_packets.add(1);
        };
        assert_eq!(watch(&mut watchdog, &counters, 0, 5000, step), []);
    }
}
