//! Replaying captures: packets of all ports in the order of their time stamps.
//!
//! A capture port gives its packets as fast as it is asked. Taken port by port, an answer
//! would be seen before its question. So the packets of all ports are merged by time; the
//! NAT's clock is the capture's.
//!
//! Housekeeping keeps up with that clock: every half second of it, and before time leaps, the
//! next packet waits until a sweep at its time has ended. So a record ends in a replay when it
//! would end live, and the same capture gives the same result whatever else the machine does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use cgnat_core::time::Instant;
use cgnat_core::worker::io::{BURST, Burst, PacketBuf as _};
use dpdk::{Mbuf, RxQueue, TimestampField};

use super::io::DpdkPacket;

/// NAT time of the first packet: not zero, so that "before" has a meaning.
const START_MS: u64 = 1_000;

/// NAT time between two sweeps that packets wait for, as between two sweeps live.
const STEP_MS: u64 = 500;

/// Where replay and housekeeping meet. Both are nanoseconds of NAT time; each has one writer.
#[derive(Default)]
pub struct Pace {
    /// Time of the packet that waits; written by the replay.
    wanted: AtomicU64,
    /// Time that housekeeping has swept at; written by housekeeping.
    swept: AtomicU64,
}

impl Pace {
    /// The time of the packet that waits for a sweep, if one does.
    pub fn wanted(&self) -> Option<Instant> {
        let wanted = self.wanted.load(Ordering::Acquire);
        (wanted > self.swept.load(Ordering::Relaxed)).then_some(Instant::from_nanos(wanted))
    }

    /// A sweep at `at` has ended, and what it proposed has been carried out.
    pub fn swept(&self, at: Instant) {
        self.swept.store(at.nanos(), Ordering::Release);
    }

    /// Asks for a sweep at `at`; whether it has ended.
    fn await_sweep(&self, at: Instant) -> bool {
        self.wanted.store(at.nanos(), Ordering::Release);
        self.swept.load(Ordering::Acquire) >= at.nanos()
    }
}

/// One capture.
pub struct Track {
    /// Where the time stamp is.
    pub stamps: TimestampField,
    /// Packets that the capture still holds.
    pub left: u64,
    /// Empty answers in a row.
    pub empty: u32,
}

/// All captures, merged.
pub struct Replay {
    tracks: Vec<Track>,
    ahead: Vec<VecDeque<DpdkPacket>>,
    /// Time stamp of the earliest packet, nanoseconds.
    first_ns: u64,
    latest: Instant,
    pace: Arc<Pace>,
    /// Packets before this time need no further sweep.
    paced_until: Instant,
    /// A packet waits since an earlier poll: what came before it has left this worker.
    is_waiting: bool,
    /// Set when the last packet has been given.
    ended: Arc<AtomicBool>,
}

/// Empty answers of a driver in a row after which a capture that should hold more is given
/// up: the driver has lost packets for want of buffers.
const GIVE_UP: u32 = 1 << 22;

impl Replay {
    /// A replay of one capture per port; the earliest packet is at `first_ns`.
    ///
    /// `ended` is set when all packets have been given.
    pub fn new(tracks: Vec<Track>, first_ns: u64, pace: Arc<Pace>, ended: Arc<AtomicBool>) -> Self {
        let ahead = tracks.iter().map(|_| VecDeque::with_capacity(BURST)).collect();
        let latest = Instant::from_millis(START_MS);
        let paced_until = latest.plus_millis(STEP_MS);
        Self { tracks, ahead, first_ns, latest, pace, paced_until, is_waiting: false, ended }
    }

    /// The next packets of `port`, as many as come before those of other ports.
    pub fn receive(
        &mut self,
        port: usize,
        queues: &mut [Option<RxQueue>],
        burst: &mut Burst<DpdkPacket>,
    ) {
        while !burst.is_full() {
            for track in 0..self.tracks.len() {
                if !self.look_ahead(track, queues) {
                    // It holds packets, but the driver has no buffer for them just now.
                    return;
                }
            }
            let earliest = (0..self.ahead.len())
                .filter_map(|track| Some((self.ahead[track].front()?.captured_at()?, track)))
                .min();
            match earliest {
                Some((at, track)) if track == port => {
                    if at >= self.paced_until && !self.has_caught_up(at) {
                        return;
                    }
                }
                Some(_) => return,
                None => return self.ended.store(true, Ordering::Release),
            }
            if let Some(packet) = self.ahead[port].pop_front() {
                burst.push(packet);
            }
        }
    }

    /// Whether housekeeping has swept at `at`. Asked for in the poll after the one that gave the
    /// last packet before, so that it has been handled or handed on.
    fn has_caught_up(&mut self, at: Instant) -> bool {
        if !self.is_waiting {
            self.is_waiting = true;
            return false;
        }
        if !self.pace.await_sweep(at) {
            return false;
        }
        self.is_waiting = false;
        self.paced_until = at.plus_millis(STEP_MS);
        true
    }

    /// Makes sure that the next packet of a track is known; false if it should be and is not.
    fn look_ahead(&mut self, track: usize, queues: &mut [Option<RxQueue>]) -> bool {
        if !self.ahead[track].is_empty() || self.tracks[track].left == 0 {
            return true;
        }
        let Some(queue) = &mut queues[track] else {
            return true;
        };
        let mut mbufs: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        queue.receive(&mut mbufs);
        self.tracks[track].left = self.tracks[track].left.saturating_sub(mbufs.len() as u64);
        if mbufs.is_empty() {
            self.tracks[track].empty += 1;
            if self.tracks[track].empty >= GIVE_UP {
                self.tracks[track].left = 0;
            }
        } else {
            self.tracks[track].empty = 0;
        }
        for mbuf in mbufs {
            let at = mbuf.timestamp_ns(&self.tracks[track].stamps).map_or(self.latest, |ns| {
                Instant::from_nanos(ns.saturating_sub(self.first_ns)).plus_millis(START_MS)
            });
            self.latest = self.latest.max(at);
            self.ahead[track].push_back(DpdkPacket::captured(mbuf, at));
        }
        !self.ahead[track].is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_waits_until_housekeeping_has_swept_at_its_time() {
        let pace = Pace::default();
        let (first, second) = (Instant::from_millis(2_000), Instant::from_millis(3_000));
        assert_eq!(pace.wanted(), None);
        assert!(!pace.await_sweep(first));
        assert_eq!(pace.wanted(), Some(first));
        pace.swept(first);
        assert_eq!(pace.wanted(), None);
        assert!(pace.await_sweep(first));
        assert!(!pace.await_sweep(second));
        assert_eq!(pace.wanted(), Some(second));
    }
}
