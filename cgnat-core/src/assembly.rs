//! Putting the parts of a box together: one shard and channel pair per worker, one
//! housekeeping, everything they share.
//!
//! The program and the tests assemble the same way; they differ in the memory and in the
//! packets they give.

use std::sync::Arc;

use crossbeam_channel::bounded;

use crate::config::Config;
use crate::control::counters::WorkerCounters;
use crate::control::links::LinkStates;
use crate::control::neighbours::NeighbourTable;
use crate::control::neighbours6::NeighbourTable6;
use crate::control::{COMMAND_QUEUE, EVENT_QUEUE};
use crate::housekeeping::{Housekeeping, HousekeepingParts, WorkerLink};
use crate::layout::{Blocks, Layout, MemoryError};
use crate::packet::ethernet::Mac;
use crate::policy::flood_notices::FloodNotices;
use crate::shard::{Shard, ShardParts};
use crate::space::{ExternalSpace, OwnerMap};
use crate::worker::forwarding::Forwarding;
use crate::worker::io::PacketIo;
use crate::worker::steering::Steering;
use crate::worker::{TimeSource, Worker, WorkerParts};

/// Zeroed memory, aligned to 64, as sizes of [`Layout`].
pub struct Memory {
    /// [`Layout::shard_bytes`] for each worker.
    pub shards: Vec<&'static mut [u8]>,
    /// [`Layout::block_bytes`].
    pub blocks: &'static mut [u8],
}

/// Everything of a worker but its packets. `Send`, so that it can be built on one thread
/// and become a worker on another.
pub struct Seat {
    parts: WorkerParts,
}

impl Seat {
    /// The worker, with its packets.
    pub fn worker<I: PacketIo>(self, io: I) -> Worker<I> {
        Worker::new(self.parts, io)
    }
}

/// A box before its workers have packets.
pub struct Assembly {
    /// One per worker, in order.
    pub seats: Vec<Seat>,
    /// Housekeeping, with all blocks lent.
    pub housekeeping: Housekeeping,
    /// Counters of the workers, in order.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// External space.
    pub space: Arc<ExternalSpace>,
    /// Owners of blocks.
    pub owners: OwnerMap,
    /// Ports and routes.
    pub forwarding: Arc<Forwarding>,
    /// Neighbours that are known.
    pub neighbours: Arc<NeighbourTable>,
    /// Those of IPv6.
    pub neighbours6: Arc<NeighbourTable6>,
    /// Which links are down; to be written by who watches them.
    pub links: Arc<LinkStates>,
}

/// Assembles a box.
///
/// `macs` are those of the ports, in order; `entropy` fills its argument with
/// unpredictable bytes (or, for a replay, with chosen ones).
///
/// # Errors
/// If the memory does not fit `layout`.
pub fn assemble(
    config: &Config,
    layout: &Layout,
    memory: Memory,
    macs: &[Mac],
    time: TimeSource,
    mut entropy: impl FnMut(&mut [u8]),
) -> Result<Assembly, MemoryError> {
    let space = Arc::new(ExternalSpace::new(config));
    let owners = OwnerMap::new(space.blocks());
    let forwarding = Forwarding::new(config, macs);
    let neighbours = Arc::new(NeighbourTable::default());
    let neighbours6 = Arc::new(NeighbourTable6::default());
    let states = Arc::new(LinkStates::new(config.ports().len()));
    let Blocks { leases, words, due: block_due } = layout.blocks(&space, memory.blocks)?;
    let words = Arc::new(words);
    let flood_notices = Arc::new(FloodNotices::new(layout.workers));
    let (mut seats, mut links, mut all_counters) = (Vec::new(), Vec::new(), Vec::new());
    for (id, shard_memory) in memory.shards.into_iter().enumerate() {
        let mut secret = [0; 48];
        entropy(&mut secret);
        let shard = Shard::new(
            config,
            ShardParts {
                id: id as u16,
                shards: layout.workers,
                space: space.clone(),
                memory: layout.shard_memory(shard_memory)?,
                block_due,
                words: words.clone(),
                entropy: secret,
            },
        );
        let (to_worker, commands) = bounded(COMMAND_QUEUE);
        let (events, from_worker) = bounded(EVENT_QUEUE);
        let counters = Arc::new(WorkerCounters::new(config.ports().len()));
        links.push(WorkerLink {
            commands: to_worker,
            untaken: commands.clone(),
            events: from_worker,
            due: shard.due(),
        });
        all_counters.push(counters.clone());
        seats.push(Seat {
            parts: WorkerParts {
                shard,
                forwarding: forwarding.clone(),
                steering: Steering::new(layout.workers),
                owners: owners.clone(),
                neighbours: neighbours.clone(),
                neighbours6: neighbours6.clone(),
                links: states.clone(),
                commands,
                events,
                counters,
                fragments: layout.fragments,
                time,
                own_errors: *config.own_errors(),
                flood_guard: config.system().flood_guard(),
                flood_notices: flood_notices.clone(),
            },
        });
    }
    let housekeeping = Housekeeping::new(HousekeepingParts {
        links,
        space: space.clone(),
        owners: owners.clone(),
        block_due,
        leases,
        fragments_ms: layout.fragments.timeout_ms,
        time,
        forwarding: forwarding.clone(),
        neighbours: neighbours.clone(),
        neighbours6: neighbours6.clone(),
        states: states.clone(),
    });
    let (counters, links) = (all_counters, states);
    Ok(Assembly {
        seats,
        housekeeping,
        counters,
        space,
        owners,
        forwarding,
        neighbours,
        neighbours6,
        links,
    })
}
