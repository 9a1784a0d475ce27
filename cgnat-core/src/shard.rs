//! A shard: the NAT instance that one worker owns alone.
//!
//! It holds every table of its subscribers: mappings, sessions, subscribers, and the leases
//! of the port blocks lent to it. It is a state machine without clock, threads or I/O:
//! (packet, now) -> verdict. The packet's way through it is in `path/`.
//!
//! Always true:
//! 1. one thread owns it (it is `Send` but not `Sync`); others see counters and due words;
//! 2. every record carries the shard's number; it is checked on each use, and a mismatch
//!    refuses the packet or the request, counts it and changes nothing;
//! 3. nothing existing is ever taken to make room (RFC 6888 REQ-11);
//! 4. a port is in at most one of: free, used by one mapping, overloaded, resting;
//! 5. no method allocates.

mod audit;

use std::cell::Cell;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::config::{Algs, Config, Overloading};
use crate::endpoint::{ExternalEndpoint, InternalEndpoint, Protocol, Realm, RemoteEndpoint};
use crate::layout::ShardMemory;
use crate::policy::dice::Dice;
use crate::policy::flow_guard::FlowGuard;
use crate::policy::groups::Groups;
use crate::policy::other_protocols::OtherProtocols;
use crate::policy::port_choice::BlockFit;
use crate::policy::timeouts::Timeouts;
use crate::refusals::Refusals;
use crate::space::{AddressState, ExternalSpace};
use crate::table::association::Association;
use crate::table::control_connection::ControlConnection;
use crate::table::destination::Destination;
use crate::table::due::DueArray;
use crate::table::free_blocks::FreeBlocks;
use crate::table::hash::HashKey;
use crate::table::identification::Identifications;
use crate::table::index::Index;
use crate::table::mapping::Mapping;
use crate::table::port_block::{BlockLease, HOUSEKEEPING, PortCensus, PortWords};
use crate::table::pptp_connection::PptpConnection;
use crate::table::session::Session;
use crate::table::slab::Slab;
use crate::table::subscriber::Subscriber;
use crate::time::{TICKS_PER_SECOND, Tick};

/// Blocks that move between a worker and housekeeping in one message.
pub const SLICE: usize = 8;

/// With fewer free blocks of a pool than this, a shard asks for more before it has none.
const LOW_WATER: usize = 2;

/// How long a refusal by housekeeping is believed before asking again.
const DENIAL_TICKS: u32 = TICKS_PER_SECOND;

/// A wish for port blocks: of one external address, or of any address of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockWish {
    /// Index of the pool.
    pub pool: u16,
    /// Index of the external address in the pool.
    pub address: Option<u32>,
    /// Which of its blocks will do.
    pub fit: BlockFit,
}

/// Deadline words that a shard shares with housekeeping.
#[derive(Clone, Copy)]
pub struct ShardDue {
    /// One per mapping slot.
    pub mappings: DueArray,
    /// One per session slot.
    pub sessions: DueArray,
    /// One per slot of the association table.
    pub associations: DueArray,
}

/// Counts of a shard that others may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardGauges {
    /// Mappings that exist, by [`Protocol`].
    pub mappings: [u64; Protocol::COUNT],
    /// TCP sessions that exist.
    pub sessions: u64,
    /// Flows without ports whose tuples are kept here.
    pub associations: u64,
    /// Subscribers with at least one block.
    pub subscribers: u64,
    /// Blocks that subscribers hold.
    pub blocks_in_use: u64,
    /// Blocks lent to this shard and free; ranges of subscribers without state among them.
    pub blocks_free: u64,
    /// Mappings created since start.
    pub mappings_created: u64,
    /// Blocks given to subscribers since start.
    pub blocks_allocated: u64,
    /// Blocks given back by subscribers since start.
    pub blocks_released: u64,
    /// Ports given that did not keep the parity or range that the pool asks for.
    pub choices_missed: u64,
    /// Ports whose rest was cut short by `max-held`.
    pub holds_cut: u64,
    /// Requests of housekeeping that named no record in use, or one of another shard.
    pub stale_requests: u64,
    /// Identifications given out that may repeat one of the last 120 s (RFC 6864).
    pub identification_repeats: u64,
    /// TCP packets that were translated and changed no session, because their sequence numbers
    /// do not belong to it.
    pub tcp_out_of_window: u64,
    /// Control connections of FTP that are followed now.
    pub ftp_followed: u64,
    /// Control connections that found no room to be followed.
    pub ftp_unfollowed: u64,
    /// Control connections that were followed to where they are no FTP, or encrypted.
    pub ftp_ended: u64,
    /// Commands that were given an external endpoint.
    pub ftp_replaced: u64,
    /// Commands that were left as they are: another host's address, a low port, no mapping.
    pub ftp_passed: u64,
    /// Control connections of PPTP that are followed now.
    pub pptp_followed: u64,
    /// Control connections of PPTP that found no room to be followed.
    pub pptp_unfollowed: u64,
    /// Control connections of PPTP that were followed to their end, or to where they are none.
    pub pptp_ended: u64,
    /// Calls of PPTP that are translated now.
    pub pptp_calls: u64,
    /// Messages of PPTP about calls that are not translated.
    pub pptp_passed: u64,
    /// Requests of TFTP whose answer is let in.
    pub tftp_requests: u64,
}

/// A mapping as reports show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Internal endpoint.
    pub internal: InternalEndpoint,
    /// External endpoint.
    pub external: ExternalEndpoint,
    /// Of a flow whose external port is overloaded, its remote endpoint.
    pub only_with: Option<RemoteEndpoint>,
    /// Realm of the remote ends that it is for.
    pub realm: Realm,
}

/// State of a wish.
#[derive(Clone, Copy, Default)]
struct Wish {
    outstanding: bool,
    denied_until: Option<Tick>,
}

/// Wishes of one pool.
struct PoolWishes {
    any: Wish,
    /// By address and [`BlockFit`].
    at: Vec<[Wish; BlockFit::COUNT]>,
}

/// The NAT instance of one worker.
///
/// ```compile_fail
/// fn is_sync<T: Sync>() {}
/// is_sync::<cgnat_core::shard::Shard>();
/// ```
pub struct Shard {
    pub(crate) id: u16,
    pub(crate) space: Arc<ExternalSpace>,
    pub(crate) groups: Groups,
    /// What was refused lately.
    pub(crate) refusals: Refusals,
    pub(crate) timeouts: Timeouts,
    pub(crate) hairpinning: bool,
    pub(crate) inbound_refresh: bool,
    pub(crate) algs: Algs,
    /// Some pool clamps the segment sizes that SYNs offer.
    pub(crate) clamps_mss: bool,
    /// Of external addresses that are in no pool.
    pub(crate) mss_clamp: Option<u16>,
    /// Destination ports of some pool towards which ports are overloaded, if there are any.
    pub(crate) overloading: Option<Overloading>,
    pub(crate) key: HashKey,
    pub(crate) random: Dice,
    /// Which first packets are let in.
    pub(crate) flow_guard: FlowGuard,
    pub(crate) identifications: Identifications,
    pub(crate) mappings: Slab<Mapping>,
    pub(crate) mapping_index: Index,
    /// Flows with overloaded ports, each under three keys; unused without any.
    pub(crate) flow_index: Index,
    pub(crate) sessions: Slab<Session>,
    pub(crate) session_index: Index,
    /// Control connections of FTP that are followed; no room for any without its ALG.
    pub(crate) controls: Slab<ControlConnection>,
    pub(crate) control_index: Index,
    /// Control connections of PPTP, likewise.
    pub(crate) pptp: Slab<PptpConnection>,
    pub(crate) pptp_index: Index,
    pub(crate) other_protocols: OtherProtocols,
    pub(crate) associations: Slab<Association>,
    pub(crate) association_index: Index,
    pub(crate) subscribers: Slab<Subscriber>,
    pub(crate) subscriber_index: Index,
    /// Remote addresses of subscribers whose sessions with one are limited; without, no room.
    pub(crate) destinations: Slab<Destination>,
    pub(crate) destination_index: Index,
    /// By block number; `None` for blocks that are not lent to this shard.
    pub(crate) leases: Vec<Option<BlockLease>>,
    /// The port slots of all blocks, for a look before the lease is asked.
    pub(crate) words: Arc<PortWords>,
    /// By pool.
    pub(crate) free: Vec<FreeBlocks>,
    pub(crate) due: ShardDue,
    /// One per block of all pools, shared by all shards; written for own blocks only.
    pub(crate) block_due: DueArray,
    pub(crate) gauges: ShardGauges,
    wishes: Vec<PoolWishes>,
    outbox: ArrayVec<BlockWish, 16>,
    /// All blocks are lent to this shard: asking for more is useless.
    sole: bool,
    /// One owner thread: not `Sync`.
    not_sync: PhantomData<Cell<()>>,
}

/// What a [`Shard`] is made of.
pub struct ShardParts {
    /// Number of the shard.
    pub id: u16,
    /// Number of shards.
    pub shards: u16,
    /// Where external addresses and blocks are.
    pub space: Arc<ExternalSpace>,
    /// Memory for the tables.
    pub memory: ShardMemory,
    /// Deadline words of all blocks, shared by all shards.
    pub block_due: DueArray,
    /// The port slots of all blocks.
    pub words: Arc<PortWords>,
    /// 48 bytes of entropy: hash key and port choice.
    pub entropy: [u8; 48],
}

impl Shard {
    /// A shard without blocks; housekeeping lends them.
    pub fn new(config: &Config, parts: ShardParts) -> Self {
        let ShardParts { id, shards, space, memory, block_due, words, entropy } = parts;
        let mut hash_entropy = [0; 16];
        hash_entropy.copy_from_slice(&entropy[..16]);
        let mut seed = [0; 32];
        seed.copy_from_slice(&entropy[16..]);
        let key = HashKey::new(hash_entropy);
        let free = space.pools().iter().map(|pool| {
            let blocks = pool.dynamic_per_address() as usize;
            let mut free = FreeBlocks::new(pool.places().len(), blocks);
            for (index, place) in (0..).zip(pool.places()) {
                free.set_open(index, place.state == AddressState::Open);
            }
            free
        });
        let wishes = space.pools().iter().map(|pool| PoolWishes {
            any: Wish::default(),
            at: vec![[Wish::default(); BlockFit::COUNT]; pool.places().len()],
        });
        Self {
            id,
            groups: Groups::new(config),
            refusals: Refusals::default(),
            timeouts: Timeouts::new(config.timeouts()),
            hairpinning: config.hairpinning(),
            inbound_refresh: config.inbound_refresh(),
            algs: config.algs(),
            key,
            clamps_mss: config.pools().iter().any(|pool| pool.mss_clamp().is_some())
                || config.mss_clamp().is_some(),
            mss_clamp: config.mss_clamp(),
            overloading: Overloading::of_all(config),
            random: Dice::new(seed),
            flow_guard: FlowGuard::new(config.system().new_flows_under_load()),
            identifications: Identifications::new(id, shards, |place| key.hash(place) as u32),
            due: ShardDue {
                mappings: DueArray::new(memory.mapping_due),
                sessions: DueArray::new(memory.session_due),
                associations: DueArray::new(memory.association_due),
            },
            mappings: Slab::new(memory.mappings),
            mapping_index: Index::new(memory.mapping_index),
            flow_index: Index::new(memory.flow_index),
            sessions: Slab::new(memory.sessions),
            session_index: Index::new(memory.session_index),
            controls: Slab::new(memory.controls),
            control_index: Index::new(memory.control_index),
            pptp: Slab::new(memory.pptp),
            pptp_index: Index::new(memory.pptp_index),
            other_protocols: OtherProtocols::new(config.other_protocols(), config.timeouts()),
            associations: Slab::new(memory.associations),
            association_index: Index::new(memory.association_index),
            subscribers: Slab::new(memory.subscribers),
            subscriber_index: Index::new(memory.subscriber_index),
            destinations: Slab::new(memory.destinations),
            destination_index: Index::new(memory.destination_index),
            leases: (0..space.blocks()).map(|_| None).collect(),
            words,
            free: free.collect(),
            block_due,
            gauges: ShardGauges::default(),
            wishes: wishes.collect(),
            outbox: ArrayVec::new(),
            sole: shards == 1,
            not_sync: PhantomData,
            space,
        }
    }

    /// Number of the shard.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Deadline words for housekeeping.
    pub fn due(&self) -> ShardDue {
        self.due
    }

    /// Counts as of now.
    pub fn gauges(&self) -> ShardGauges {
        self.gauges
    }

    /// Number of the first group whose ranges hold a source address.
    pub(crate) fn group_of(&self, address: u32) -> Option<u16> {
        self.groups.of(address)
    }

    /// Whether echo queries to an external address reach somebody: it is mapped one to one.
    pub(crate) fn answers_queries(&self, address: u32, identifier: u16) -> bool {
        let external = ExternalEndpoint::new(address, identifier);
        self.space.statics().internal_of(external, Protocol::Icmp).is_some()
    }

    /// Takes a lease from housekeeping.
    pub fn adopt(&mut self, mut lease: BlockLease) {
        let (block, pool, address) = (lease.id(), lease.pool(), lease.address_index());
        lease.set_shard(self.id);
        self.leases[block as usize] = Some(lease);
        self.make_available(pool, address, block);
        let wishes = &mut self.wishes[usize::from(pool)];
        wishes.any = Wish::default();
        wishes.at[address as usize] = [Wish::default(); BlockFit::COUNT];
    }

    /// Takes another version of external space; the one that is not needed any more is returned,
    /// because whoever drops the last one frees memory.
    ///
    /// # Errors
    /// `space` itself, if it is not the next version of this box's; nothing has changed then.
    pub fn adopt_space(
        &mut self,
        space: Arc<ExternalSpace>,
    ) -> Result<Arc<ExternalSpace>, Arc<ExternalSpace>> {
        if !space.follows(&self.space) {
            self.gauges.stale_requests += 1;
            return Err(space);
        }
        for (pool, address) in space.changes() {
            let is_open = space.pools()[usize::from(*pool)].state(*address) == AddressState::Open;
            self.free[usize::from(*pool)].set_open(*address, is_open);
        }
        Ok(std::mem::replace(&mut self.space, space))
    }

    /// Gives back free blocks of addresses that are not open.
    pub fn give_back_closed(&mut self) -> ArrayVec<BlockLease, SLICE> {
        let mut leases = ArrayVec::new();
        for free in &mut self.free {
            while !leases.is_full()
                && let Some(block) = free.take_closed()
            {
                // What is free is lent here.
                let Some(mut lease) = self.leases[block as usize].take() else { break };
                lease.set_shard(HOUSEKEEPING);
                self.gauges.blocks_free -= 1;
                leases.push(lease);
            }
        }
        leases
    }

    /// A block that no subscriber holds is free for anybody, a range for its subscriber alone.
    pub(crate) fn make_available(&mut self, pool: u16, address: u32, block: u32) {
        if !self.space.pools()[usize::from(pool)].is_range(block) {
            self.free[usize::from(pool)].add(address, block);
        }
        self.gauges.blocks_free += 1;
    }

    /// Gives back up to `count` free blocks, at most half of what is free (rounded up), so
    /// that a shard that is asked keeps some for its own next subscriber.
    pub fn give_back(&mut self, wish: BlockWish, count: usize) -> ArrayVec<BlockLease, SLICE> {
        let free = &mut self.free[usize::from(wish.pool)];
        let pool = &self.space.pools()[usize::from(wish.pool)];
        let fits = |block: u32| wish.fit.fits(pool.first_port_of(block));
        let held = wish.address.map_or(free.count(), |address| free.count_where(address, fits));
        let mut leases = ArrayVec::new();
        for _ in 0..held.div_ceil(2).min(count).min(SLICE) {
            let block = match wish.address {
                Some(address) => free.take_where(address, &mut self.random, fits),
                None => free.take_any(&mut self.random).map(|(_, block)| block),
            };
            let Some(mut lease) = block.and_then(|block| self.leases[block as usize].take()) else {
                break;
            };
            lease.set_shard(HOUSEKEEPING);
            self.gauges.blocks_free -= 1;
            leases.push(lease);
        }
        leases
    }

    /// Housekeeping has no block for `wish`.
    pub fn denied(&mut self, wish: BlockWish, now: Tick) {
        let until = Some(Tick(now.0.wrapping_add(DENIAL_TICKS)));
        *self.wish_mut(wish) = Wish { outstanding: false, denied_until: until };
    }

    /// The next wish that has come up, to be sent to housekeeping.
    pub fn next_wish(&mut self) -> Option<BlockWish> {
        self.outbox.pop()
    }

    /// Asks housekeeping for blocks unless that is useless; says whether an answer is due.
    pub(crate) fn ask_for_blocks(&mut self, wish: BlockWish, now: Tick) -> bool {
        if self.sole {
            return false;
        }
        let outbox_full = self.outbox.is_full();
        let state = self.wish_mut(wish);
        if state.outstanding {
            return true;
        }
        if state.denied_until.is_some_and(|until| now.before(until)) || outbox_full {
            return false;
        }
        *state = Wish { outstanding: true, denied_until: None };
        self.outbox.push(wish);
        true
    }

    /// Whether it is any use to ask for `wish`.
    pub(crate) fn may_ask(&self, wish: BlockWish, now: Tick) -> bool {
        let wishes = &self.wishes[usize::from(wish.pool)];
        let state = match wish.address {
            Some(address) => &wishes.at[address as usize][wish.fit as usize],
            None => &wishes.any,
        };
        !self.sole && state.denied_until.is_none_or(|until| !now.before(until))
    }

    /// Asks early when a pool runs low here.
    pub(crate) fn mind_low_water(&mut self, pool: u16, now: Tick) {
        if self.free[usize::from(pool)].count() < LOW_WATER {
            self.ask_for_blocks(BlockWish { pool, address: None, fit: BlockFit::Any }, now);
        }
    }

    fn wish_mut(&mut self, wish: BlockWish) -> &mut Wish {
        let wishes = &mut self.wishes[usize::from(wish.pool)];
        match wish.address {
            Some(address) => &mut wishes.at[address as usize][wish.fit as usize],
            None => &mut wishes.any,
        }
    }

    /// Ports of all blocks that this shard holds, by use. Reads every port: not for the
    /// packet path.
    pub fn port_census(&self, now: Tick) -> PortCensus {
        let mut census = PortCensus::default();
        for lease in self.leases.iter().flatten() {
            census += lease.census(now);
        }
        census
    }

    /// Every mapping, for reports. Not for the packet path.
    pub fn mapping_list(&self) -> impl Iterator<Item = ListedMapping> {
        self.mappings.iter().map(|(_, mapping)| {
            let key = mapping.key();
            ListedMapping {
                protocol: key.protocol,
                internal: key.internal,
                realm: key.realm,
                external: mapping.external(),
                only_with: mapping.is_overloaded().then(|| mapping.first.remote()),
            }
        })
    }

    /// New subscribers, of any shard, that a pool could not take and a later one has taken.
    pub fn spilled(&self, pool: u16) -> u64 {
        self.space.occupancy().spilled(pool)
    }

    /// What subscribers were refused lately.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Every block in use as (subscriber address, external address, first port, last port).
    pub fn block_list(&self) -> impl Iterator<Item = (Ipv4Addr, Ipv4Addr, u16, u16)> {
        self.subscribers.iter().flat_map(|(_, subscriber)| {
            let pool = &self.space.pools()[usize::from(subscriber.pool)];
            let external = self.space.address(subscriber.pool, subscriber.paired);
            let internal = Ipv4Addr::from(subscriber.address);
            subscriber.blocks().iter().map(move |block| {
                let (first, last) = pool.ports_of(*block);
                (internal, Ipv4Addr::from(external), first, last)
            })
        })
    }
}

const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Shard>();
};
