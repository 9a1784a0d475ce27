//! What may cross threads: commands, events, counters and published neighbours.
//!
//! Workers and housekeeping exchange messages over bounded channels; a message that finds a
//! channel full is kept by its sender, never lost. Counters have a single writer each.

pub mod counters;
pub mod links;
pub mod neighbours;
pub mod neighbours6;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::packet::ethernet::Mac;
use crate::refusals::Page;
use crate::shard::{BlockWish, SLICE};
use crate::space::ExternalSpace;
use crate::table::due::Kind;
use crate::table::port_block::BlockLease;
use crate::time::Instant;
use crate::worker::routes::Routes;

/// Proposals in one message.
pub const PROPOSALS: usize = 32;

/// Commands that may wait for one worker.
pub const COMMAND_QUEUE: usize = 64;

/// Events that may wait from one worker.
pub const EVENT_QUEUE: usize = 256;

/// A record that may be due: kind and slot.
pub type Due = (Kind, u32);

/// From housekeeping to a worker.
#[allow(clippy::large_enum_variant)] // The worker that frees a box would be freeing memory.
pub enum Command {
    /// Look at these records and end those that are due.
    Due(ArrayVec<Due, PROPOSALS>),
    /// These blocks are yours.
    Lend(ArrayVec<BlockLease, SLICE>),
    /// There is no block for this wish.
    Denied(BlockWish),
    /// Give back up to `count` free blocks and answer with [`Event::Returned`].
    Recall {
        /// Which blocks.
        wish: BlockWish,
        /// How many at most.
        count: usize,
        /// To be repeated in the answer.
        ticket: u64,
    },
    /// Ask for the MAC of `target`, by ARP or a solicitation.
    AskNeighbour {
        /// Index of the port.
        port: u8,
        /// Address asked for.
        target: IpAddr,
        /// The MAC known so far; else everybody is asked.
        to: Option<Mac>,
    },
    /// Announce an address of ours, to everybody at a port.
    Announce {
        /// Index of the port.
        port: u8,
        /// The address.
        address: IpAddr,
    },
    /// Ask whether somebody else has an address of ours (RFC 4862 section 5.4.2).
    Probe {
        /// Index of the port.
        port: u8,
        /// The address.
        address: Ipv6Addr,
    },
    /// This is external space from now on; to be answered with [`Event::Adopted`].
    Adopt(Arc<ExternalSpace>),
    /// These are the routes from now on; to be answered with [`Event::Routed`].
    Route(Arc<Routes>),
    /// Give back free blocks of addresses that are not open and answer with
    /// [`Event::Withdrawn`].
    Withdraw,
    /// Fill this page with what subscribers were refused and answer with
    /// [`Event::RefusalsTold`].
    TellRefusals(Page),
    /// Time has come to here although no packet says so (a replay).
    Advance(Instant),
    /// To be answered with [`Event::BarrierReached`]: earlier commands have been carried out, and
    /// the packets of earlier polls handled.
    Barrier,
}

/// From a worker to housekeeping.
#[allow(clippy::large_enum_variant)] // A worker must not allocate, so nothing is boxed.
pub enum Event {
    /// The shard needs blocks.
    Wish(BlockWish),
    /// Answer to [`Command::Recall`]; may be empty.
    Returned {
        /// Ticket of the recall.
        ticket: u64,
        /// The blocks.
        leases: ArrayVec<BlockLease, SLICE>,
    },
    /// Answer to [`Command::Adopt`].
    Adopted {
        /// Version of external space that the worker has now.
        version: u64,
        /// The version before, or the one that was refused: not to be dropped by a worker.
        old: Arc<ExternalSpace>,
    },
    /// Answer to [`Command::Route`].
    Routed {
        /// Version of the routes that the worker has now.
        version: u64,
        /// Those before: not to be dropped by a worker.
        old: Option<Arc<Routes>>,
    },
    /// Answer to [`Command::Withdraw`]; if it is full, there may be more.
    Withdrawn {
        /// The blocks.
        leases: ArrayVec<BlockLease, SLICE>,
    },
    /// Answer to [`Command::TellRefusals`].
    RefusalsTold(Page),
    /// Answer to [`Command::Barrier`].
    BarrierReached,
    /// A packet waits for the MAC of this neighbour.
    Resolve {
        /// Index of the port.
        port: u8,
        /// Its address.
        address: IpAddr,
    },
    /// Somebody else uses an address of ours.
    AddressTaken {
        /// Index of the port.
        port: u8,
        /// The address.
        address: IpAddr,
        /// MAC of who uses it.
        mac: Mac,
    },
    /// A neighbour that is looked after showed its MAC.
    NeighbourSeen {
        /// Index of the port.
        port: u8,
        /// Its address.
        address: IpAddr,
        /// Its MAC.
        mac: Mac,
        /// It talked to us, and did not only announce itself.
        to_us: bool,
    },
}
