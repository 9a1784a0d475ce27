//! Packets that wait: for a port block from housekeeping, or for a neighbour's MAC.
//!
//! Both queues are bounded and first come, first served; a packet that finds its queue full
//! is refused, one that waits too long is dropped, both counted. The memory is allocated
//! once.

use std::collections::VecDeque;

use super::Worker;
use super::io::PacketIo;
use crate::config::Side;
use crate::time::Instant;
use crate::verdict::DropReason;

/// Packets that may wait for blocks, per worker.
const BLOCK_WAITS: usize = 1024;

/// Packets that may wait for neighbours, per worker.
const NEIGHBOUR_WAITS: usize = 256;

/// Packets that may wait for one neighbour, per worker: a dead one does not take the places
/// of the others.
const WAITS_PER_NEIGHBOUR: usize = 64;

/// Time after which waiting packets are tried again although no neighbour has changed.
const RETRY_MS: u64 = 50;

/// How long a packet waits for a block.
const BLOCK_WAIT_MS: u64 = 500;

/// How long a packet waits for a neighbour.
const NEIGHBOUR_WAIT_MS: u64 = 2_000;

/// An outbound packet that waits for a port block.
pub(super) struct AwaitsBlock<P> {
    pub(super) packet: P,
    pub(super) port: usize,
    pub(super) offset: usize,
    pub(super) since: Instant,
}

/// A translated packet that waits for the MAC of its next hop.
pub(super) struct AwaitsNeighbour<P> {
    pub(super) packet: P,
    pub(super) side: Side,
    pub(super) offset: usize,
    pub(super) since: Instant,
    /// A fragment of what was cut here; the last check has seen the whole.
    pub(super) is_part: bool,
    /// Port and address of the next hop, once it is known.
    pub(super) next_hop: (u8, u32),
    /// The internal address that the packet is from or to.
    pub(super) subscriber: u32,
}

pub(super) struct Parking<P> {
    blocks: VecDeque<AwaitsBlock<P>>,
    neighbours: VecDeque<AwaitsNeighbour<P>>,
    /// Version of the neighbour table when the waiting packets were last tried.
    tried: u64,
    next_try: Instant,
}

impl<P> Parking<P> {
    pub(super) fn new() -> Self {
        Self {
            blocks: VecDeque::with_capacity(BLOCK_WAITS),
            neighbours: VecDeque::with_capacity(NEIGHBOUR_WAITS),
            tried: 0,
            next_try: Instant::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len() + self.neighbours.len()
    }

    pub(super) fn block_waits(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn await_block(&mut self, waiting: AwaitsBlock<P>) -> Result<(), AwaitsBlock<P>> {
        if self.blocks.len() == BLOCK_WAITS {
            return Err(waiting);
        }
        self.blocks.push_back(waiting);
        Ok(())
    }

    pub(super) fn next_block_wait(&mut self) -> Option<AwaitsBlock<P>> {
        self.blocks.pop_front()
    }

    pub(super) fn await_neighbour(
        &mut self,
        waiting: AwaitsNeighbour<P>,
    ) -> Result<(), AwaitsNeighbour<P>> {
        let same = self.neighbours.iter().filter(|other| other.next_hop == waiting.next_hop);
        if self.neighbours.len() == NEIGHBOUR_WAITS || same.count() == WAITS_PER_NEIGHBOUR {
            return Err(waiting);
        }
        self.neighbours.push_back(waiting);
        Ok(())
    }

    pub(super) fn take_any(&mut self) -> Option<P> {
        let block = self.blocks.pop_front().map(|waiting| waiting.packet);
        block.or_else(|| self.neighbours.pop_front().map(|waiting| waiting.packet))
    }
}

impl<I: PacketIo> Worker<I> {
    /// Tries again what waits for neighbours and drops what has waited too long.
    pub(super) fn mind_parking(&mut self) {
        let too_old = |since: Instant, ms: u64, clock: Instant| clock >= since.plus_millis(ms);
        while let Some(first) = self.parking.blocks.front() {
            if !too_old(first.since, BLOCK_WAIT_MS, self.clock) {
                break;
            }
            if let Some(waiting) = self.parking.blocks.pop_front() {
                self.refuse(waiting.port, waiting.packet, DropReason::BlockWait);
            }
        }
        let version = self.neighbours.version();
        let parking = &mut self.parking;
        let Some(first) = parking.neighbours.front() else {
            return;
        };
        if version == parking.tried
            && self.clock < parking.next_try
            && !too_old(first.since, NEIGHBOUR_WAIT_MS, self.clock)
        {
            return;
        }
        parking.tried = version;
        parking.next_try = self.clock.plus_millis(RETRY_MS);
        // One round through the queue: those that still wait go to its end again.
        for _ in 0..self.parking.neighbours.len() {
            let Some(waiting) = self.parking.neighbours.pop_front() else {
                return;
            };
            if too_old(waiting.since, NEIGHBOUR_WAIT_MS, self.clock) {
                self.drop_packet(waiting.packet, DropReason::NeighbourUnresolved);
                continue;
            }
            self.egress_waiting(waiting);
        }
        self.flush();
    }
}
