//! ARP: answers for own and on-link pool addresses, and what neighbours show of themselves.
//!
//! However much ARP comes, housekeeping hears a bounded number of conflicts.

use std::net::{IpAddr, Ipv4Addr};

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

/// What housekeeping was told in this second, of one family.
#[derive(Default)]
pub(super) struct Told {
    disputes: Spent,
    claims: Spent,
}

/// What a neighbour has shown of itself, in either family.
pub(super) struct Shown {
    pub(super) port: usize,
    pub(super) address: IpAddr,
    pub(super) mac: Mac,
    /// It talks to us, and does not only announce itself.
    pub(super) to_us: bool,
    /// It answers.
    pub(super) is_answer: bool,
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
            let address = Ipv4Addr::from(arp.sender).into();
            return self.note_claim(port, address, arp.sender_mac);
        }
        let is_for_us = ours(arp.target);
        let is_answer = arp.operation == Operation::Reply;
        let known = self.neighbours.find(port as u8, arp.sender);
        let address = Ipv4Addr::from(arp.sender).into();
        let mac = arp.sender_mac;
        self.note_neighbour(known, Shown { port, address, mac, to_us: is_for_us, is_answer });
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

    /// Somebody else uses an address of ours.
    pub(super) fn note_claim(&mut self, port: usize, address: IpAddr, mac: Mac) {
        self.counters.arp_conflicts.add(1);
        let second = self.second();
        if self.told_of(address).claims.take(second, CLAIMS) {
            self.note_event(Event::AddressTaken { port: port as u8, address, mac });
        }
    }

    /// Tells housekeeping of neighbours that it knows or resolves; of others nothing is
    /// learned, so a storm of invented ones fills no table. Who announces an address unasked only
    /// makes the box ask: it neither becomes a neighbour nor stays one by that.
    pub(super) fn note_neighbour(&mut self, known: Neighbour, shown: Shown) {
        let Shown { port, address, mac, to_us, is_answer } = shown;
        let worth_telling = match known {
            Neighbour::Unknown => false,
            Neighbour::Resolving => to_us,
            Neighbour::At(known) if known != mac => {
                // It has moved, or somebody wants its packets: housekeeping asks it.
                self.counters.arp_conflicts.add(1);
                let second = self.second();
                self.told_of(address).disputes.take(second, DISPUTES)
            }
            Neighbour::At(_) => to_us && is_answer,
        };
        if worth_telling {
            // Should there be no room, the neighbour will be asked again.
            self.note_event(Event::NeighbourSeen { port: port as u8, address, mac, to_us });
        }
    }

    fn told_of(&mut self, address: IpAddr) -> &mut Told {
        &mut self.told[usize::from(address.is_ipv6())]
    }

    /// Sends an ARP request for `target`.
    pub(super) fn ask_by_arp(&mut self, port: usize, target: u32, to: Option<Mac>) {
        let sender = self.forwarding.ports()[port].address_towards(target);
        if let Some(sender) = sender {
            self.send_request(port, sender, target, to.unwrap_or(BROADCAST));
        }
    }

    /// Announces an address of ours: who has it in mind learns our MAC (RFC 5227 section 2.3).
    pub(super) fn announce_by_arp(&mut self, port: usize, address: u32) {
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
