//! A packet of a mapping that exists, step by step, so that the steps of many packets can be
//! taken together while the CPU fetches what the next step needs.
//!
//! Only for plain packets (see [`plain`]), and only where nothing but the mapping decides. It
//! does what `outbound` and `inbound` do with them, or nothing: then the packet goes there. The
//! specification's tests hold the two against each other.

use std::sync::atomic::{AtomicU16, AtomicU32};

use crate::endpoint::{
    ExternalEndpoint, FlowKey, InternalEndpoint, Protocol, Realm, RemoteEndpoint,
};
use crate::packet::plain::{self, Plain};
use crate::packet::rewrite::End;
use crate::packet::tcp;
use crate::path::session::Place;
use crate::policy::alg::{ftp, pptp, tftp};
use crate::policy::tcp_state::{self, State};
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::table::index::Bucket;
use crate::table::mapping::Mapping;
use crate::table::port_block::{BlockLease, is_unused, mapping_in};
use crate::table::session::Numbers;
use crate::table::subscriber::Subscriber;
use crate::time::Tick;

impl Shard {
    /// Whether a mapping is found by its endpoint alone: ports are not overloaded, and
    /// destinations have no rules.
    pub fn has_plain_hits(&self) -> bool {
        self.overloading.is_none() && !self.groups.by_destination()
    }

    /// What the mapping of an outbound packet is looked up by.
    #[inline]
    pub fn hash_outbound(&self, plain: &Plain) -> u64 {
        self.key.hash(key_of(plain).packed())
    }

    /// The line of the index that is read for a hash.
    #[inline]
    pub fn bucket_of(&self, hash: u64) -> &Bucket {
        self.mapping_index.bucket_of(hash)
    }

    /// The mapping that may be stored under `hash`, if it is in that line.
    #[inline(always)]
    pub fn first_candidate(&self, hash: u64) -> Option<u32> {
        self.mapping_index.first_candidate(hash)
    }

    /// The other line of the index, if a look-up of `hash` reads it.
    #[inline]
    pub fn second_bucket_of(&self, hash: u64) -> Option<&Bucket> {
        self.mapping_index.second_of(hash)
    }

    /// The mapping that may be stored under `hash`, in either line.
    #[inline]
    pub fn candidate(&self, hash: u64) -> Option<u32> {
        self.mapping_index.candidate(hash)
    }

    /// The mapping in a slot, if there is such a slot and it is in use.
    #[inline]
    pub fn used(&self, slot: u32) -> Option<&Mapping> {
        self.mappings.used(slot)
    }

    /// The place of a mapping, in use or not, and its deadline word.
    #[inline]
    pub fn place_of(&self, slot: u32) -> Option<(&Mapping, &AtomicU16)> {
        self.mappings.get(slot).zip(self.due.mappings.entry(slot))
    }

    /// The line of the index that says where a mapping is, mostly.
    #[inline]
    pub fn bucket_with(&self, mapping: &Mapping) -> &Bucket {
        self.mapping_index.bucket_of(self.key.hash(mapping.key().packed()))
    }

    /// The record in a slot.
    #[inline]
    pub fn record(&self, slot: u32) -> &Mapping {
        &self.mappings[slot]
    }

    /// Translates an outbound packet through the mapping in `slot`, or changes nothing and says
    /// no.
    #[inline]
    pub fn outbound_hit(&mut self, slot: u32, plain: &Plain, packet: &mut [u8], now: Tick) -> bool {
        let is_for_alg = self.is_for_alg(plain);
        let record = &mut self.mappings[slot];
        if is_for_alg || !record.is_for(key_of(plain)) || !is_sound(record, self.id) {
            return false;
        }
        let remote = RemoteEndpoint::new(plain.destination, plain.destination_port());
        let new = if plain.is_tcp() {
            if plain.is_syn()
                || !self.connection_hit(slot, remote, plain, packet, Sender::Internal, now)
            {
                return false;
            }
            self.mappings[slot].outbound_rewrite()
        } else {
            if record.has_sessions() || record.is_past_deadline(now) {
                return false;
            }
            record.prolong(now.plus_seconds(self.timeouts.udp_s(remote.port)));
            record.outbound_rewrite()
        };
        plain::translate(packet, plain, End::Source, new);
        true
    }

    /// What the record of a subscriber is looked up by, where no destination has rules.
    #[inline]
    pub fn hash_subscriber(&self, address: u32) -> u64 {
        self.key.hash(Subscriber::packed((address, Realm::OWN)))
    }

    /// The line of the index that is read for a subscriber.
    #[inline]
    pub fn subscriber_bucket_of(&self, hash: u64) -> &Bucket {
        self.subscriber_index.bucket_of(hash)
    }

    /// The subscriber that may be stored under `hash`.
    #[inline]
    pub fn subscriber_candidate(&self, hash: u64) -> Option<u32> {
        self.subscriber_index.candidate(hash)
    }

    /// The record of a subscriber.
    #[inline]
    pub fn subscriber(&self, slot: u32) -> &Subscriber {
        &self.subscribers[slot]
    }

    /// The word of the port that a subscriber will get, if `nth` others get one before.
    #[inline]
    pub fn foresee_port(&self, slot: u32, protocol: Protocol, nth: usize) -> Option<&AtomicU32> {
        let random = self.random.coming(nth)?;
        let block = self.block_with_free_port(self.subscribers[slot].blocks(), protocol)?;
        self.leases[block as usize].as_ref()?.foresee(protocol, random)
    }

    /// The place where the lease of a block is, if this shard holds it.
    #[inline]
    pub fn lease_of(&self, block: u32) -> &Option<BlockLease> {
        &self.leases[block as usize]
    }

    /// The word that says which mapping has the external port of an inbound packet; if that is
    /// another shard's, it says nothing here.
    #[inline(always)]
    pub fn port_word(&self, plain: &Plain) -> Option<&AtomicU32> {
        let external = ExternalEndpoint::new(plain.destination, plain.destination_port());
        self.word_of(external, protocol_of(plain))
    }

    // By value: what is put into memory by the word and taken out by the line stalls.
    #[inline]
    fn word_of(&self, external: ExternalEndpoint, protocol: Protocol) -> Option<&AtomicU32> {
        self.words.at(self.space.spot(external)?, protocol)
    }

    /// Whether the external port of an inbound packet has neither a mapping nor flows; of this shard.
    pub fn is_unused(&self, plain: &Plain) -> bool {
        self.port_word(plain).is_some_and(is_unused)
    }

    /// The mapping that a word of a port names, and its record.
    #[inline]
    pub fn mapping_at(&self, word: &AtomicU32) -> Option<(u32, &Mapping)> {
        let slot = mapping_in(word)?;
        Some((slot, self.mappings.get(slot)?))
    }

    /// Translates an inbound packet through the mapping in `slot`, or changes nothing and says
    /// no.
    #[inline]
    pub fn inbound_hit(&mut self, slot: u32, plain: &Plain, packet: &mut [u8], now: Tick) -> bool {
        let record = &mut self.mappings[slot];
        let external = ExternalEndpoint::new(plain.destination, plain.destination_port());
        let is_it = record.external() == external && record.is_of(protocol_of(plain));
        if !is_it || !is_sound(record, self.id) {
            return false;
        }
        let remote = RemoteEndpoint::new(plain.source, plain.source_port());
        let new = if plain.is_tcp() {
            if self.reads_segments_of(remote.port)
                || !self.connection_hit(slot, remote, plain, packet, Sender::External, now)
            {
                return false;
            }
            self.mappings[slot].inbound_rewrite()
        } else {
            if record.has_sessions() || record.is_past_deadline(now) {
                return false;
            }
            if self.inbound_refresh {
                record.prolong(now.plus_seconds(self.timeouts.udp_s(remote.port)));
            }
            record.inbound_rewrite()
        };
        plain::translate(packet, plain, End::Destination, new);
        true
    }

    /// Whether an ALG follows TCP connections with this remote port.
    #[inline]
    fn reads_segments_of(&self, port: u16) -> bool {
        self.algs.any()
            && (self.algs.ftp && port == ftp::CONTROL_PORT
                || self.algs.pptp && port == pptp::CONTROL_PORT)
    }

    /// Whether an ALG reads a packet from a subscriber.
    #[inline]
    pub(super) fn is_for_alg(&self, plain: &Plain) -> bool {
        let port = plain.destination_port();
        match plain.is_tcp() {
            true => self.reads_segments_of(port),
            false => self.algs.tftp && port == tftp::REQUEST_PORT,
        }
    }

    /// Moves the TCP session inside a mapping if it is the one with `remote`.
    #[inline(always)]
    fn connection_hit(
        &mut self,
        slot: u32,
        remote: RemoteEndpoint,
        plain: &Plain,
        packet: &[u8],
        from: Sender,
        now: Tick,
    ) -> bool {
        let record = &mut self.mappings[slot];
        if !record.first.is_with(remote) || record.is_past_deadline(now) {
            return false;
        }
        let Some(segment) = packet.get(20..plain.total_len()).and_then(tcp::segment) else {
            return false;
        };
        let mut window = record.first.window(&record.first_numbers);
        if tcp_state::goes_on(record.first.state(), &mut window, &segment, from) {
            record.first_numbers = Numbers::of(&window);
            let timeout_s = self.timeouts.tcp_s(State::Established);
            self.set_deadline(slot, Place::Inside, now.plus_seconds(timeout_s), now);
        } else {
            self.move_session(slot, Place::Inside, &segment, from, now);
        }
        true
    }
}

/// In use, of this shard, and not one of many flows of a port.
#[inline]
fn is_sound(record: &Mapping, shard: u16) -> bool {
    record.generation & 1 == 1 && record.shard == shard && !record.is_overloaded()
}

/// The protocol of a plain packet.
#[inline]
pub fn protocol_of(plain: &Plain) -> Protocol {
    if plain.is_tcp() { Protocol::Tcp } else { Protocol::Udp }
}

#[inline]
pub(super) fn key_of(plain: &Plain) -> FlowKey {
    let internal = InternalEndpoint::new(plain.source, plain.source_port());
    FlowKey { internal, protocol: protocol_of(plain), realm: Realm::OWN }
}
