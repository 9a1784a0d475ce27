//! The first packet of a flow as nearly all are: a plain one, of a subscriber that has a port block
//! with a free port, and whose limits only count.
//!
//! It does what `outbound` and `first_packet` do with such a packet, or nothing: then the packet
//! goes there. They say why a packet is refused, and ask housekeeping for blocks.

use rand_chacha::rand_core::RngCore;

use crate::endpoint::{ExternalEndpoint, FlowKey, Protocol, Realm, RemoteEndpoint};
use crate::packet::plain::{self, Plain};
use crate::packet::rewrite::End;
use crate::packet::tcp::{self, Segment};
use crate::policy::filtering::Filtering;
use crate::policy::port_choice::PortWish;
use crate::policy::tcp_state::{Connection, State};
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::table::mapping::Behaviour;
use crate::table::session::Peer;
use crate::time::Tick;
use crate::verdict::DropReason;

use super::hit::key_of;

/// What is found before anything is changed.
struct Found {
    subscriber: u32,
    block: u32,
    pool: u16,
    paired: u32,
    filtering: Filtering,
    /// Of TCP.
    segment: Option<Segment>,
}

impl Shard {
    /// Makes the mapping of a plain packet from a subscriber of this shard, which is looked up by
    /// `hash`, and translates it; or changes nothing and says no.
    pub fn begin(&mut self, hash: u64, plain: &Plain, packet: &mut [u8], now: Tick) -> bool {
        let key = key_of(plain);
        let remote = RemoteEndpoint::new(plain.destination, plain.destination_port());
        let Some(found) = self.ready_for(key, hash, plain, packet) else {
            return false;
        };
        let Some(slot) = self.mappings.allocate() else {
            return false;
        };
        let Found { subscriber, block, pool, paired, filtering, segment } = found;
        let random = self.random.next_u32();
        let lease = self.lease_mut(block);
        // Only a block that no mapping used is armed.
        let is_armed = !lease.in_use();
        let taken = lease.take_port(key.protocol, slot, PortWish::Any, random, now);
        let Some(port) = taken else { unreachable!("a port of block {block} was free") };
        let external = ExternalEndpoint { address: self.space.address(pool, paired), port };
        let behaviour = Behaviour::EndpointIndependent(filtering);
        let owners = (block, subscriber);
        self.mappings[slot].establish(self.id, key, external, owners, (behaviour, remote));
        if !self.enter_mapping(slot, hash) {
            self.give_back_port(block, key.protocol, port, now);
            self.mappings.free(slot);
            return false;
        }
        self.count_mapping(subscriber, key.protocol, true);
        if is_armed {
            self.block_due.disarm(block);
        }
        let timeout_s = match segment {
            Some(segment) => {
                let opened = Connection::open(&segment, Sender::Internal);
                let (peer, numbers) = Peer::connected(remote, &opened);
                let record = &mut self.mappings[slot];
                (record.first, record.first_numbers) = (peer, numbers);
                self.gauges.sessions += 1;
                self.timeouts.tcp_s(State::Opening)
            }
            None => self.timeouts.udp_s(remote.port),
        };
        self.subscribers[subscriber].sessions += 1;
        let deadline = now.plus_seconds(timeout_s);
        let record = &mut self.mappings[slot];
        record.deadline = deadline.0;
        self.due.mappings.arm(slot, deadline, now);
        let new = record.outbound_rewrite();
        plain::translate(packet, plain, End::Source, new);
        if plain.is_syn()
            && self.clamps_mss
            && let Some((header, transport)) = plain.read_whole(packet)
        {
            self.clamp_mss(slot, packet, &header, transport);
        }
        true
    }

    /// Why a packet of a pressed worker goes no further: no mapping exists that it belongs to, and none
    /// will be made for it.
    #[cold]
    pub fn shed(&mut self, hash: u64, plain: &Plain) -> Option<DropReason> {
        let key = key_of(plain);
        // The flow may have begun with an earlier packet of the burst.
        if self.mapping_index.find(hash, |slot| self.mappings[slot].is_for(key)).is_some() {
            return None;
        }
        // Neither of these takes a part of what subscribers may begin.
        if self.group_of(plain.source).is_none() {
            return Some(DropReason::SourceNotSubscriber);
        }
        if plain.is_tcp() && !plain.is_syn() {
            return Some(DropReason::TcpNotSyn);
        }
        (!self.lets_in(hash, plain.source)).then_some(DropReason::Overload)
    }

    /// Whether the first packet of a flow from a subscriber, by the flow's hash, is let in.
    #[inline]
    pub(super) fn lets_in(&mut self, hash: u64, subscriber: u32) -> bool {
        let key = self.key;
        !self.flow_guard.is_pressed()
            || self.flow_guard.lets_in(hash, key.hash(u64::from(subscriber)))
    }

    /// What the mapping will be made of, if nothing speaks against it and nobody need be asked.
    #[inline]
    fn ready_for(&self, key: FlowKey, hash: u64, plain: &Plain, packet: &[u8]) -> Option<Found> {
        let p = key.protocol as usize;
        // The flow may have begun with an earlier packet of the burst.
        let exists = self.mapping_index.find(hash, |slot| self.mappings[slot].is_for(key));
        if exists.is_some() || self.mappings.is_full() || self.is_for_alg(plain) {
            return None;
        }
        let segment = match plain.is_tcp() {
            true if !plain.is_syn() => return None,
            true => Some(tcp::segment(&packet[20..plain.total_len()])?),
            false => None,
        };
        let subscriber = self.find_subscriber((key.internal.address.0, Realm::OWN))?;
        let record = &self.subscribers[subscriber];
        let pool = &self.space.pools()[usize::from(record.pool)];
        let filtering = pool.filtering[p];
        // A session of UDP, and a permission of TCP, are records of their own.
        let needs_record = match segment {
            Some(_) => filtering == Filtering::AddressDependent,
            None => !filtering.is_open(),
        };
        let limits = &self.groups[record.group].limits;
        let is_admitted = limits.admit_simply(record.by_protocol, p, record.sessions);
        if record.shard != self.id || needs_record || !pool.gives_any_port() || !is_admitted {
            return None;
        }
        let block = self.block_with_free_port(record.blocks(), key.protocol)?;
        if pool.is_deterministic() && !pool.is_range(record.blocks()[0]) {
            return None;
        }
        let (pool, paired) = (record.pool, record.paired);
        Some(Found { subscriber, block, pool, paired, filtering, segment })
    }

    /// The first of `blocks` with a free port, unless a port before it may have rested enough.
    #[inline]
    pub(super) fn block_with_free_port(&self, blocks: &[u32], protocol: Protocol) -> Option<u32> {
        for block in blocks {
            let lease = self.leases[*block as usize].as_ref()?;
            if lease.shard() != self.id {
                return None;
            }
            if lease.has_free(protocol) {
                return Some(*block);
            }
            if lease.resting(protocol) > 0 {
                return None;
            }
        }
        None
    }
}
