//! ARP: answers for own and on-link pool addresses, and what neighbours show of themselves.
//!
//! However much ARP comes, housekeeping hears a bounded number of conflicts.

use super::Worker;
use super::io::{PacketBuf, PacketIo};
use crate::control::Event;
use crate::control::neighbours::Neighbour;
use crate::packet::arp::{self, Arp, Operation};
use crate::packet::ethernet::{self, BROADCAST, Mac};
use crate::policy::per_second::Spent;

/// Conflicts about neighbours that housekeeping is told of, per worker and second.
const DISPUTES: u32 = 256;

/// Conflicts about own addresses, likewise.
const CLAIMS: u32 = 16;

/// What housekeeping was told in this second.
#[derive(Default)]
pub(super) struct Told {
    disputes: Spent,
    claims: Spent,
}

impl<I: PacketIo> Worker<I> {
    pub(super) fn arp(&mut self, port: usize, mut packet: I::Packet, offset: usize) {
        let arp = match arp::parse(&packet.bytes()[offset..]) {
            Ok(arp) => arp,
            Err(reason) => return self.refuse(port, packet, reason),
        };
        self.counters.arp_received.add(1);
        let forwarding = self.forwarding.clone();
        let info = &forwarding.ports()[port];
        let ours = |address| info.answers_for(address, &self.shard.space);
        if ours(arp.sender) && arp.sender_mac != info.mac {
            // Somebody else uses our address. Learning nothing from it.
            self.counters.arp_conflicts.add(1);
            if self.told.claims.take(self.second(), CLAIMS) {
                let (address, mac) = (arp.sender, arp.sender_mac);
                self.note_event(Event::AddressTaken { port: port as u8, address, mac });
            }
            return;
        }
        let is_for_us = ours(arp.target);
        self.note_neighbour(port, &arp, is_for_us);
        if info.punts && is_for_us && arp.operation == Operation::Reply {
            self.punt_copy(port, &packet);
        }
        if arp.operation != Operation::Request || !is_for_us {
            return;
        }
        let reply = Arp {
            operation: Operation::Reply,
            sender_mac: info.mac,
            sender: arp.target,
            target_mac: arp.sender_mac,
            target: arp.sender,
        };
        packet.truncate(offset + arp::LEN);
        let bytes = packet.bytes_mut();
        ethernet::write(bytes, arp.sender_mac, info.mac, info.tags, ethernet::ARP);
        arp::write(&mut bytes[offset..], &reply);
        self.originate(port, packet);
    }

    /// Tells housekeeping of neighbours that it knows or resolves; of others nothing is
    /// learned, so a storm of invented ones fills no table. Who announces an address unasked only
    /// makes the box ask: it neither becomes a neighbour nor stays one by that.
    fn note_neighbour(&mut self, port: usize, arp: &Arp, is_for_us: bool) {
        let port = port as u8;
        let worth_telling = match self.neighbours.find(port, arp.sender) {
            Neighbour::Unknown => false,
            Neighbour::Resolving => is_for_us,
            Neighbour::At(mac) if mac != arp.sender_mac => {
                // It has moved, or somebody wants its packets: housekeeping asks it.
                self.counters.arp_conflicts.add(1);
                self.told.disputes.take(self.second(), DISPUTES)
            }
            Neighbour::At(_) => is_for_us && arp.operation == Operation::Reply,
        };
        if worth_telling {
            // Should there be no room, the neighbour will be asked again.
            self.note_event(Event::NeighbourSeen {
                port,
                address: arp.sender,
                mac: arp.sender_mac,
                to_us: is_for_us,
            });
        }
    }

    /// Sends an ARP request for `target`.
    pub(super) fn ask_neighbour(&mut self, port: usize, target: u32, to: Mac) {
        let sender = self.forwarding.ports()[port].address_towards(target);
        if let Some(sender) = sender {
            self.send_request(port, sender, target, to);
        }
    }

    /// Announces an address of ours: who has it in mind learns our MAC (RFC 5227 section 2.3).
    pub(super) fn announce_address(&mut self, port: usize, address: u32) {
        self.send_request(port, address, address, BROADCAST);
    }

    fn send_request(&mut self, port: usize, sender: u32, target: u32, to: Mac) {
        let info = &self.forwarding.ports()[port];
        let (mac, tags) = (info.mac, info.tags);
        let Some(mut packet) = self.io.allocate() else {
            return;
        };
        let offset = ethernet::header_len(tags);
        if !packet.fill(offset + arp::LEN) {
            return;
        }
        let operation = Operation::Request;
        let request = Arp { operation, sender_mac: mac, sender, target_mac: [0; 6], target };
        let bytes = packet.bytes_mut();
        ethernet::write(bytes, to, mac, tags, ethernet::ARP);
        arp::write(&mut bytes[offset..], &request);
        self.originate(port, packet);
    }

    fn second(&self) -> u32 {
        (self.clock.nanos() / 1_000_000_000) as u32
    }
}
