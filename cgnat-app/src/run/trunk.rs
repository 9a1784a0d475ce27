//! A receive queue of a device that several ports share (decision 34).
//!
//! It is read when the first of them is asked, once in a poll; frames are sorted by their tags, and those
//! of the other ports wait until they are asked, in the same poll. What has no port's tags is given to
//! the first, which refuses it.
//!
//! Always true: the queue is read only when nothing waits, so no more than a burst does.

use arrayvec::ArrayVec;
use cgnat_core::packet::ethernet::{self, Tags};
use cgnat_core::worker::io::{BURST, Burst};
use dpdk::{Mbuf, RxQueue};

use super::io::DpdkPacket;

/// One port.
struct Lane {
    port: usize,
    tags: Tags,
    waiting: ArrayVec<Mbuf, BURST>,
}

/// The queue, and the ports that its frames are for.
pub struct Trunk {
    queue: RxQueue,
    lanes: Vec<Lane>,
}

impl Trunk {
    /// A queue for ports by number and tags, the one that opens the device first.
    pub fn new(queue: RxQueue, ports: impl Iterator<Item = (usize, Tags)>) -> Self {
        let lane = |(port, tags)| Lane { port, tags, waiting: ArrayVec::new() };
        Self { queue, lanes: ports.map(lane).collect() }
    }

    /// Whether a port receives from here.
    pub fn has(&self, port: usize) -> bool {
        self.lanes.iter().any(|lane| lane.port == port)
    }

    /// What there is for a port; whether the queue gave as much as it was asked for.
    pub fn receive(&mut self, port: usize, burst: &mut Burst<DpdkPacket>) -> bool {
        let is_first = self.lanes.first().is_some_and(|lane| lane.port == port);
        let may_have_more = is_first && self.read();
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.port == port) {
            burst.extend(lane.waiting.drain(..).map(DpdkPacket::from));
        }
        may_have_more
    }

    fn read(&mut self) -> bool {
        if self.lanes.iter().any(|lane| !lane.waiting.is_empty()) {
            return false;
        }
        let mut mbufs = ArrayVec::<Mbuf, BURST>::new();
        self.queue.receive(&mut mbufs);
        mbufs.iter().for_each(Mbuf::prefetch);
        let is_full = mbufs.is_full();
        for mbuf in mbufs {
            let is_its = |lane: &Lane| ethernet::behind(mbuf.data(), lane.tags).is_ok();
            let lane = self.lanes.iter().position(is_its).unwrap_or(0);
            self.lanes[lane].waiting.push(mbuf);
        }
        is_full
    }
}
