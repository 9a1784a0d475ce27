//! Replaying captures: packets of all ports in the order of their time stamps.
//!
//! A capture port gives its packets as fast as it is asked. Taken port by port, an answer
//! would be seen before its question. So the packets of all ports are merged by time; the
//! NAT's clock is the capture's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use cgnat_core::time::Instant;
use cgnat_core::worker::io::{BURST, Burst};
use dpdk::{Mbuf, RxQueue, TimestampField};

use super::io::DpdkPacket;

/// NAT time of the first packet: not zero, so that "before" has a meaning.
const START_MS: u64 = 1_000;

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
    pub fn new(tracks: Vec<Track>, first_ns: u64, ended: Arc<AtomicBool>) -> Self {
        let ahead = tracks.iter().map(|_| VecDeque::with_capacity(BURST)).collect();
        Self { tracks, ahead, first_ns, latest: Instant::from_millis(START_MS), ended }
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
                .filter_map(|track| Some((self.ahead[track].front()?.time()?, track)))
                .min();
            match earliest {
                Some((_, track)) if track == port => {}
                Some(_) => return,
                None => return self.ended.store(true, Ordering::Release),
            }
            if let Some(packet) = self.ahead[port].pop_front() {
                burst.push(packet);
            }
        }
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
