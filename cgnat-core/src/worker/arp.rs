//! ARP: answers for own and on-link pool addresses, and what neighbours show of themselves.

use super::Worker;
use super::io::{PacketBuf, PacketIo};
use crate::control::Event;
use crate::control::neighbours::Neighbour;
use crate::packet::arp::{self, Arp, Operation};
use crate::packet::ethernet::{self, Mac};

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
        ethernet::write(bytes, arp.sender_mac, info.mac, info.vlan, ethernet::ARP);
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
                true
            }
            Neighbour::At(_) => is_for_us && arp.operation == Operation::Reply,
        };
        if worth_telling {
            // Should there be no room, the neighbour will be asked again.
            self.note_event(Event::NeighbourSeen {
                port,
                address: arp.sender,
                mac: arp.sender_mac,
            });
        }
    }

    /// Sends an ARP request for `target`.
    pub(super) fn ask_neighbour(&mut self, port: usize, target: u32, to: Mac) {
        let forwarding = self.forwarding.clone();
        let info = &forwarding.ports()[port];
        let (Some(sender), Some(mut packet)) = (info.address_towards(target), self.io.allocate())
        else {
            return;
        };
        let offset = ethernet::header_len(info.vlan);
        if !packet.fill(offset + arp::LEN) {
            return;
        }
        let request = Arp {
            operation: Operation::Request,
            sender_mac: info.mac,
            sender,
            target_mac: [0; 6],
            target,
        };
        let bytes = packet.bytes_mut();
        ethernet::write(bytes, to, info.mac, info.vlan, ethernet::ARP);
        arp::write(&mut bytes[offset..], &request);
        self.originate(port, packet);
    }
}
