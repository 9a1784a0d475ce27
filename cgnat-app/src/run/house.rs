//! The loop of the housekeeping thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use cgnat_core::control::counters::WorkerCounters;
use cgnat_core::housekeeping::Housekeeping;
use cgnat_core::time::Instant;
use dpdk::Clock;

use super::replay::Pace;
use super::requests::Back;
use super::routes::Board;
use super::say::complain;

/// A pause of housekeeping between two rounds without work.
const HOUSEKEEPING_PAUSE: Duration = Duration::from_micros(500);

/// What the main thread asks of housekeeping.
pub mod phase {
    pub const RUN: u8 = 0;
    pub const SETTLE: u8 = 1;
    pub const SETTLED: u8 = 2;
    pub const STOP: u8 = 3;
}

/// What the thread works with.
pub struct House {
    /// Housekeeping itself.
    pub housekeeping: Housekeeping,
    /// Its end of what the main thread asks.
    pub back: Back,
    /// Of every worker.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Of a replay.
    pub pace: Arc<Pace>,
    /// Where learned routes come from, if any are followed.
    pub routes: Option<Arc<Board>>,
}

/// The loop of the housekeeping thread.
pub fn keep_house(house: House, phase: &AtomicU8, clock: Clock, cpus: &[u16]) -> Housekeeping {
    let House { mut housekeeping, mut back, counters, pace, routes } = house;
    // The main thread is bound to one CPU and this thread has inherited that.
    if let Err(error) = dpdk::set_current_thread_affinity(cpus) {
        complain(&format!("warning: housekeeping stays where it is: {error}"));
    }
    let mut pacing: Option<Pacing> = None;
    loop {
        let latest = counters.iter().map(|counters| counters.now()).max().unwrap_or_default();
        // A sweep that a replay waits for is at a time which no packet has shown yet.
        let latest = pacing.as_ref().map_or(latest, |pacing| latest.max(pacing.at));
        let worked = housekeeping.run(latest, now(clock));
        back.serve(&mut housekeeping);
        if let Some(routes) = &routes {
            routes.pass_on(&mut housekeeping, now(clock));
        }
        if let Some(under_way) = &mut pacing {
            if under_way.has_ended(&mut housekeeping, &counters) {
                let at = under_way.at;
                pacing = None;
                if pace.wanted() == Some(at) {
                    pace.swept(at);
                } else {
                    // Unless the main thread has moved on to stopping meanwhile.
                    let (from, to) = (phase::SETTLE, phase::SETTLED);
                    let _ = phase.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
                }
            }
        } else {
            let is_settling = phase.load(Ordering::Acquire) == phase::SETTLE;
            let at = pace.wanted().or(is_settling.then_some(latest));
            pacing = at.map(|at| Pacing::begin(at, &mut housekeeping, &counters));
        }
        if phase.load(Ordering::Acquire) == phase::STOP {
            return housekeeping;
        }
        if pacing.is_some() {
            std::thread::yield_now();
        } else if !worked {
            std::thread::sleep(HOUSEKEEPING_PAUSE);
        }
    }
}

/// Sweeps that somebody waits for: a replay whose next packet is of their time, or the end.
struct Pacing {
    at: Instant,
    /// How many have begun.
    begun: u8,
    /// Packets handed from worker to worker when the workers were asked whether they rest.
    handed: (u64, u64),
}

impl Pacing {
    fn begin(
        at: Instant,
        housekeeping: &mut Housekeeping,
        counters: &[Arc<WorkerCounters>],
    ) -> Self {
        housekeeping.await_workers();
        Self { at, begun: 0, handed: handed(counters) }
    }

    /// Goes on; whether the workers have carried out all that was proposed.
    fn has_ended(
        &mut self,
        housekeeping: &mut Housekeeping,
        counters: &[Arc<WorkerCounters>],
    ) -> bool {
        if housekeeping.is_busy() {
            return false;
        }
        // What was handed on is handled at its own time, before the sweep: all of it had been
        // taken when the workers were asked, and handling it has handed on nothing more.
        let handed = handed(counters);
        if self.begun == 0 && (handed.0 != handed.1 || handed != self.handed) {
            *self = Self::begin(self.at, housekeeping, counters);
            return false;
        }
        // Twice: the first sweep ends mappings, the second the blocks they freed.
        if self.begun == 2 {
            return true;
        }
        self.begun += 1;
        housekeeping.sweep_now(self.at);
        false
    }
}

/// Packets that workers have handed to each other: off and in.
fn handed(counters: &[Arc<WorkerCounters>]) -> (u64, u64) {
    let off = counters.iter().map(|counters| counters.handed_off.value()).sum();
    (off, counters.iter().map(|counters| counters.handed_in.value()).sum())
}

/// Loop time.
pub fn now(clock: Clock) -> Instant {
    // A second after zero, so that "before" has a meaning.
    Instant::from_nanos(clock.now_ns() + 1_000_000_000)
}
