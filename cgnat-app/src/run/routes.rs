//! The kernel's routes, followed (decision 31): one thread reads them and makes tables; housekeeping
//! hands those to the workers.
//!
//! Always true:
//! 1. nothing is offered before the first dump is complete, and at most five tables a second;
//! 2. what was lost, and what the kernel does not tell, is dumped again, and counted;
//! 3. tables are freed by threads that are no workers.

mod mirror;
mod show;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cgnat_core::config::Config;
use cgnat_core::housekeeping::Housekeeping;
use cgnat_core::worker::forwarding::Forwarding;
use cgnat_core::worker::routes::{MOST_NEXT_HOPS, MOST_ROUTES, Routes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::kernel::KernelCounters;
use super::say::complain;
use crate::netlink::watch::{Heard, Watch};
use mirror::{Follower, Mirror};

pub use show::{sentences, text};

/// Between two tables.
const PUBLISH: Duration = Duration::from_millis(200);

/// Between two dumps.
const DUMP_PAUSE: Duration = Duration::from_millis(500);

/// After this all is dumped again without a reason.
const CHECK: Duration = Duration::from_secs(60);

/// A dump that takes longer is begun anew.
const DUMP_LIMIT: Duration = Duration::from_secs(20);

/// The longest wait for the kernel.
const LOOK: Duration = Duration::from_millis(50);

/// What came of the kernel's routes; written by the thread that reads them.
#[derive(Debug, Default)]
pub struct RouteCounters {
    /// Routes of the main table, whatever their interface.
    pub kernel: AtomicU64,
    /// Changes that were notified.
    pub changes: AtomicU64,
    /// Complete dumps.
    pub dumps: AtomicU64,
    /// Notifications were lost, and all is dumped again.
    pub lost: AtomicU64,
    /// Dumps that said otherwise than the notifications before.
    pub repaired: AtomicU64,
    /// Tables that were made.
    pub tables: AtomicU64,
    /// Routes above a bound, as of now.
    pub refused: AtomicU64,
}

/// Where the threads meet; no worker is among them.
pub struct Board {
    offered: Mutex<Option<Arc<Routes>>>,
    /// What every worker has, and since when.
    in_use: Mutex<Option<(Arc<Routes>, Instant)>>,
    /// What it counts.
    pub counters: RouteCounters,
}

impl Board {
    fn new() -> Self {
        let counters = RouteCounters::default();
        Self { offered: Mutex::new(None), in_use: Mutex::new(None), counters }
    }

    /// Housekeeping takes the newest table, unless some worker is late.
    pub fn pass_on(&self, housekeeping: &mut Housekeeping, now: cgnat_core::time::Instant) {
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(routes) = offered.take()
            && let Err(back) = housekeeping.route(routes, now)
        {
            *offered = Some(back);
        }
        drop(offered);
        if let Some(routes) = housekeeping.routes() {
            let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
            if in_use.as_ref().is_none_or(|(before, _)| before.version() != routes.version()) {
                *in_use = Some((routes.clone(), Instant::now()));
            }
        }
    }

    fn in_use(&self) -> Option<(Arc<Routes>, Instant)> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the thread works with.
pub struct Following {
    watch: Watch,
    mirror: Mirror,
    /// The interfaces of the ports that follow, in the order of the mirror's.
    interfaces: Vec<Arc<KernelCounters>>,
    forwarding: Arc<Forwarding>,
    board: Arc<Board>,
    /// Something is other than in the last table.
    has_changed: bool,
    /// When the last table was made, and its version.
    made: Option<Instant>,
    version: u64,
    /// When the last dump began, and whether another is wanted.
    dumped: Option<Instant>,
    wants_dump: bool,
    /// The first dump is complete.
    is_whole: bool,
    /// What was said of refused routes.
    said_refused: bool,
}

/// Prepares to follow the kernel, if some port does; notifications begin.
///
/// # Errors
/// No netlink socket.
pub fn begin(
    config: &Config,
    forwarding: &Arc<Forwarding>,
    interfaces: &[(usize, Arc<KernelCounters>)],
) -> Result<Option<Following>> {
    let follows = |(port, _): &&(usize, _)| config.ports()[*port].follows_kernel();
    let (followers, interfaces): (Vec<Follower>, Vec<_>) = interfaces
        .iter()
        .filter(follows)
        .map(|(port, counters)| {
            let side = config.ports()[*port].side();
            let follower = Follower { interface: counters.index(), port: *port as u8, side };
            (follower, counters.clone())
        })
        .unzip();
    if followers.is_empty() {
        return Ok(None);
    }
    let watch = Watch::open().context("routes-from-kernel: no netlink socket")?;
    Ok(Some(Following {
        watch,
        mirror: Mirror::new(followers),
        interfaces,
        forwarding: forwarding.clone(),
        board: Arc::new(Board::new()),
        has_changed: true,
        made: None,
        version: 0,
        dumped: None,
        wants_dump: true,
        is_whole: false,
        said_refused: false,
    }))
}

impl Following {
    /// Where its tables go.
    pub fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// The loop of the thread, until it is told to stop.
    pub fn follow(mut self, cpus: &[u16], stop: &AtomicBool) {
        if let Err(error) = dpdk::set_current_thread_affinity(cpus) {
            complain(&format!(
                "warning: the thread of the kernel's routes stays where it is: {error}"
            ));
        }
        let mut heard = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let more = match self.watch.hear(&mut heard) {
                Ok(more) => more,
                Err(error) => {
                    complain(&format!(
                        "error: the kernel's routes cannot be read any more ({error}); packets go on \
                         by the last table. Restart it"
                    ));
                    return;
                }
            };
            for heard in heard.drain(..) {
                self.take(&heard);
            }
            self.mind_interfaces();
            // After a loss the kernel drops all further notifications, and says so no more, until
            // the socket is empty: a dump that begins before that would miss changes.
            if !more {
                self.mind_dumps();
            }
            self.publish();
            if !more {
                self.wait();
            }
        }
    }

    fn take(&mut self, heard: &Heard) {
        let counters = &self.board.counters;
        match heard {
            Heard::Lost => {
                counters.lost.fetch_add(1, Ordering::Relaxed);
                self.wants_dump = true;
            }
            Heard::Interface(index) => self.wants_dump |= self.mirror.is_followed(*index),
            Heard::DumpRefused => {
                self.mirror.give_up_dump();
                self.wants_dump = true;
            }
            Heard::DumpEnds { was_interrupted } => {
                self.wants_dump |= was_interrupted;
                let differs = self.mirror.end_dump();
                counters.dumps.fetch_add(1, Ordering::Relaxed);
                counters.repaired.fetch_add(u64::from(differs && self.is_whole), Ordering::Relaxed);
                self.has_changed |= differs;
                self.is_whole = true;
            }
            Heard::New(..) | Heard::Gone(..) => {
                counters.changes.fetch_add(1, Ordering::Relaxed);
                self.has_changed |= self.mirror.take(heard);
            }
            Heard::Dumped(..) => _ = self.mirror.take(heard),
        }
        counters.kernel.store(self.mirror.len() as u64, Ordering::Relaxed);
    }

    /// An interface that was deleted and made again has another number, and what the kernel has of
    /// the one before it does not tell.
    fn mind_interfaces(&mut self) {
        for (n, interface) in self.interfaces.iter().enumerate() {
            let has_changed = self.mirror.set_interface(n, interface.index());
            self.has_changed |= has_changed;
            self.wants_dump |= has_changed;
        }
    }

    /// Begins a dump if one is due.
    fn mind_dumps(&mut self) {
        let since = self.dumped.map(|at| at.elapsed());
        let is_over = |limit: Duration| since.is_none_or(|since| since >= limit);
        let is_due = match self.mirror.is_dumping() {
            true => is_over(DUMP_LIMIT),
            false => self.wants_dump && is_over(DUMP_PAUSE) || is_over(CHECK),
        };
        if !is_due {
            return;
        }
        self.dumped = Some(Instant::now());
        if self.watch.dump().is_ok() {
            self.mirror.begin_dump();
            self.wants_dump = false;
        }
    }

    /// Makes a table of what has changed, not too often.
    fn publish(&mut self) {
        let is_early = self.made.is_some_and(|at| at.elapsed() < PUBLISH);
        if !self.has_changed || !self.is_whole || is_early {
            return;
        }
        self.has_changed = false;
        self.made = Some(Instant::now());
        self.version += 1;
        let routes = Routes::new(self.version, &self.forwarding, &self.mirror.learned());
        let refused = routes.refused() as u64 + self.mirror.unkept();
        let counters = &self.board.counters;
        counters.tables.fetch_add(1, Ordering::Relaxed);
        counters.refused.store(refused, Ordering::Relaxed);
        if refused > 0 && !self.said_refused {
            complain(&format!(
                "warning: {refused} routes of the kernel are not followed: there is room for \
                 {MOST_ROUTES} routes with {MOST_NEXT_HOPS} next hops, 16 of one route; packets take \
                 the next shorter prefix. Have the routing daemon install fewer"
            ));
        }
        self.said_refused = refused > 0;
        let offered = Some(Arc::new(routes));
        *self.board.offered.lock().unwrap_or_else(PoisonError::into_inner) = offered;
    }

    /// Waits until the kernel says something, and not longer than a table may be late.
    fn wait(&self) {
        let mut waited = [PollFd::new(&self.watch, PollFlags::IN)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as i64 };
        // Interrupted or not: it is time to look.
        let _ = poll(&mut waited, Some(&timeout));
    }
}
