//! Packets that wait: for a port block from housekeeping, or for a neighbour's MAC.
//!
//! Both queues are bounded and first come, first served; a packet that finds its queue full
//! is refused, one that waits too long is dropped, both counted. The memory is allocated
//! once. What the NAT sends and what passes it by (IPv6) wait in one queue and have parts of it.

use std::collections::VecDeque;

use super::Worker;
use super::io::PacketIo;
use crate::config::Side;
use crate::time::Instant;
use crate::verdict::DropReason;

/// Packets that may wait for blocks, per worker.
const BLOCK_WAITS: usize = 1024;

/// Packets of the NAT that may wait for neighbours, per worker.
const NEIGHBOUR_WAITS: usize = 256;

/// IPv6 packets that may, beside these.
const NEIGHBOUR_WAITS_6: usize = 64;

/// Packets that may wait for one neighbour, per worker: a dead one does not take the places
/// of the others.
const WAITS_PER_NEIGHBOUR: usize = 64;
const WAITS_PER_NEIGHBOUR_6: usize = 16;

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

/// An IPv6 packet that waits for the MAC of its next hop.
pub(super) struct AwaitsNeighbour6<P> {
    pub(super) packet: P,
    /// The port that it came in by; its link header is still there.
    pub(super) arrived: usize,
    pub(super) offset: usize,
    pub(super) since: Instant,
    /// Port and address of the next hop, once it is known.
    pub(super) next_hop: (u8, u128),
}

/// A packet that waits for a neighbour.
pub(super) enum Waiting<P> {
    Translated(AwaitsNeighbour<P>),
    Ipv6(AwaitsNeighbour6<P>),
}

impl<P> Waiting<P> {
    fn since(&self) -> Instant {
        match self {
            Waiting::Translated(waiting) => waiting.since,
            Waiting::Ipv6(waiting) => waiting.since,
        }
    }

    fn into_packet(self) -> P {
        match self {
            Waiting::Translated(waiting) => waiting.packet,
            Waiting::Ipv6(waiting) => waiting.packet,
        }
    }
}

pub(super) struct Parking<P> {
    blocks: VecDeque<AwaitsBlock<P>>,
    neighbours: VecDeque<Waiting<P>>,
    /// Versions of the neighbour tables when the waiting packets were last tried.
    tried: (u64, u64),
    next_try: Instant,
}

impl<P> Parking<P> {
    pub(super) fn new() -> Self {
        Self {
            blocks: VecDeque::with_capacity(BLOCK_WAITS),
            neighbours: VecDeque::with_capacity(NEIGHBOUR_WAITS + NEIGHBOUR_WAITS_6),
            tried: (0, 0),
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

    /// The packet comes back if there is no room.
    pub(super) fn await_neighbour(&mut self, waiting: Waiting<P>) -> Result<(), P> {
        let (mut alike, mut same) = (0, 0);
        for other in &self.neighbours {
            match (other, &waiting) {
                (Waiting::Translated(other), Waiting::Translated(waiting)) => {
                    alike += 1;
                    same += usize::from(other.next_hop == waiting.next_hop);
                }
                (Waiting::Ipv6(other), Waiting::Ipv6(waiting)) => {
                    alike += 1;
                    same += usize::from(other.next_hop == waiting.next_hop);
                }
                _ => {}
            }
        }
        let (most, most_of_one) = match waiting {
            Waiting::Translated(_) => (NEIGHBOUR_WAITS, WAITS_PER_NEIGHBOUR),
            Waiting::Ipv6(_) => (NEIGHBOUR_WAITS_6, WAITS_PER_NEIGHBOUR_6),
        };
        if alike == most || same == most_of_one {
            return Err(waiting.into_packet());
        }
        self.neighbours.push_back(waiting);
        Ok(())
    }

    pub(super) fn take_any(&mut self) -> Option<P> {
        let block = self.blocks.pop_front().map(|waiting| waiting.packet);
        block.or_else(|| self.neighbours.pop_front().map(Waiting::into_packet))
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
        let versions = (version, self.neighbours6.version());
        if versions == parking.tried
            && self.clock < parking.next_try
            && !too_old(first.since(), NEIGHBOUR_WAIT_MS, self.clock)
        {
            return;
        }
        parking.tried = versions;
        parking.next_try = self.clock.plus_millis(RETRY_MS);
        // One round through the queue: those that still wait go to its end again.
        for _ in 0..self.parking.neighbours.len() {
            let Some(waiting) = self.parking.neighbours.pop_front() else {
                return;
            };
            let is_too_old = too_old(waiting.since(), NEIGHBOUR_WAIT_MS, self.clock);
            match waiting {
                Waiting::Ipv6(waiting) if is_too_old => self.give_up_ipv6(waiting),
                Waiting::Ipv6(waiting) => _ = self.egress_waiting_ipv6(waiting),
                Waiting::Translated(waiting) if is_too_old => {
                    self.drop_packet(waiting.packet, DropReason::NeighbourUnresolved);
                }
                Waiting::Translated(waiting) => _ = self.egress_waiting(waiting),
            }
        }
        self.flush();
    }
}
