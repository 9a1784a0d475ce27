//! Neighbour Discovery: answers for own addresses, and what neighbours show of themselves, by the
//! rules that ARP has here too.

use std::net::{IpAddr, Ipv6Addr};

use super::Worker;
use super::arp::Shown;
use super::forwarding::State;
use super::io::{PacketBuf, PacketIo};
use crate::packet::ethernet::{self, Mac};
use crate::packet::ipv6::{self, ALL_NODES, HEADER, Header};
use crate::packet::nd::{self, Message};

impl<I: PacketIo> Worker<I> {
    /// Takes a solicitation or an advertisement, which is consumed if it is valid.
    pub(super) fn discover(
        &mut self,
        port: usize,
        packet: I::Packet,
        offset: usize,
        header: &Header,
    ) {
        let message = match nd::parse(header, &packet.bytes()[offset + HEADER..]) {
            Ok(message) => message,
            Err(reason) => return self.refuse(port, packet, reason),
        };
        self.counters.nd_received.add(1);
        let mut station = [0; 6];
        station.copy_from_slice(&packet.bytes()[6..12]);
        let ours = self.forwarding.ports()[port].mac;
        if station == ours {
            // A link that gives back what we said.
            return;
        }
        let mac = message.mac.unwrap_or(station);
        if message.is_solicitation {
            return self.solicited(port, header, &message, mac);
        }
        let to_us = self.advertised(port, header, &message, mac);
        if to_us && self.forwarding.ports()[port].punts {
            self.punt_copy(port, &packet);
        }
    }

    /// Somebody asks for an address.
    fn solicited(&mut self, port: usize, header: &Header, message: &Message, mac: Mac) {
        let forwarding = self.forwarding.clone();
        let Some(here) = forwarding.ipv6().port(port) else { return };
        if here.own(header.source).is_some() {
            return self.note_claim(port, ip(header.source), mac);
        }
        let Some(own) = here.own(message.target) else { return };
        let is_in_use = own.state() == State::InUse;
        if header.source == 0 {
            // Somebody would like to have it (RFC 4862 section 5.4.3).
            match is_in_use {
                true => self.advertise(port, message.target, ALL_NODES, group_mac(ALL_NODES)),
                false => self.note_claim(port, ip(message.target), mac),
            }
            return;
        }
        if !is_in_use {
            return;
        }
        let known = self.neighbours6.find(port as u8, header.source);
        let address = ip(header.source);
        self.note_neighbour(known, Shown { port, address, mac, to_us: true, is_answer: false });
        self.advertise(port, message.target, header.source, mac);
    }

    /// Somebody tells where an address is; whether it is an answer to us.
    fn advertised(&mut self, port: usize, header: &Header, message: &Message, mac: Mac) -> bool {
        let forwarding = self.forwarding.clone();
        let Some(here) = forwarding.ipv6().port(port) else { return false };
        if here.own(message.target).is_some() {
            self.note_claim(port, ip(message.target), mac);
            return false;
        }
        let to_us = message.is_solicited && here.own(header.destination).is_some();
        let known = self.neighbours6.find(port as u8, message.target);
        let address = ip(message.target);
        self.note_neighbour(known, Shown { port, address, mac, to_us, is_answer: true });
        to_us
    }

    /// Asks for the MAC of `target`: the station that it was at, or its group.
    pub(super) fn solicit(&mut self, port: usize, target: u128, at: Option<Mac>) {
        let here = self.forwarding.ipv6().port(port);
        let Some(from) = here.and_then(|here| here.asks_with()) else { return };
        let group = ipv6::solicited_node(target);
        let (to, station) = at.map_or((group, group_mac(group)), |mac| (target, mac));
        self.send_discovery(port, station, nd::solicitation_len(false), |packet, mac| {
            nd::write_solicitation(packet, from, mac, to, target);
        });
    }

    /// Asks whether somebody has an own address already.
    pub(super) fn probe(&mut self, port: usize, address: u128) {
        let group = ipv6::solicited_node(address);
        self.send_discovery(port, group_mac(group), nd::solicitation_len(true), |packet, mac| {
            nd::write_solicitation(packet, 0, mac, group, address);
        });
    }

    /// Announces an own address (RFC 4861 section 7.2.6).
    pub(super) fn advertise_to_all(&mut self, port: usize, address: u128) {
        self.advertise(port, address, ALL_NODES, group_mac(ALL_NODES));
    }

    fn advertise(&mut self, port: usize, address: u128, to: u128, station: Mac) {
        self.send_discovery(port, station, nd::ADVERTISEMENT_LEN, |packet, mac| {
            nd::write_advertisement(packet, mac, to, address);
        });
    }

    fn send_discovery(
        &mut self,
        port: usize,
        station: Mac,
        length: usize,
        write: impl FnOnce(&mut [u8], Mac),
    ) {
        let info = &self.forwarding.ports()[port];
        let (mac, tags) = (info.mac, info.tags);
        let offset = ethernet::header_len(tags);
        let Some(mut packet) = self.io.allocate() else { return };
        if !packet.fill(offset + length) {
            return;
        }
        let bytes = packet.bytes_mut();
        ethernet::write(bytes, station, mac, tags, ethernet::IPV6);
        write(&mut bytes[offset..], mac);
        self.originate(port, packet);
    }
}

fn ip(address: u128) -> IpAddr {
    Ipv6Addr::from(address).into()
}

fn group_mac(group: u128) -> Mac {
    ipv6::mac_of_group(group)
}
