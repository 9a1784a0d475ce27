//! Random control connections of PPTP, and the GRE, in pieces or not, and the errors that belong
//! to them, or nearly.

use super::events::{EXTERNAL, Event, Events, INTERNAL};
use super::fragments::Datagram;
use super::ftp::{ACK, FIN, SYN};
use super::nat::{Key, Nat};
use super::pptp::{PPTP, Stage, Tunnel};
use super::pptp_messages::*;
use super::sessions::State;
use super::wire::{Body, Packet, TCP, UDP};

const RST: u8 = 4;

impl Events {
    /// Something of a control connection or its tunnel.
    pub fn pptp(&mut self, nat: &Nat) -> Event {
        let worker = self.worker();
        let (port, packet) = match self.below(24) {
            0..2 => (INTERNAL, self.calls_up()),
            2..5 => match self.is_accepted(nat) {
                Some(packet) => (EXTERNAL, packet),
                None => (INTERNAL, self.calls_up()),
            },
            n => match self.one_tunnel(nat, n >= 15) {
                None => (INTERNAL, self.calls_up()),
                Some(((key, server), tunnel)) if n < 15 => {
                    // The side whose turn it is, mostly.
                    let turn = match tunnel.stage {
                        Stage::Silent | Stage::Talking => 0,
                        Stage::Asked | Stage::Requested => 1,
                        _ => self.below(2) as usize,
                    };
                    let side = if self.one_in(6) { 1 - turn } else { turn };
                    (side, self.says(nat, side, key, server, tunnel))
                }
                Some(((key, server), tunnel)) => {
                    let port = self.below(2) as usize;
                    let packet = self.tunnelled(nat, port, key, server, tunnel);
                    if self.one_in(4) {
                        return self.tunnelled_in_pieces(port, packet);
                    }
                    if self.one_in(5) {
                        let workers = nat.rules.workers;
                        let error = self.error_in_tunnel(port, packet, tunnel, workers);
                        return Event::Arrive { worker, port: 1 - port, packet: error };
                    }
                    (port, packet)
                }
            },
        };
        Event::Arrive { worker, port, packet }
    }

    fn pptp_segment(
        &mut self,
        (from, to): ((u32, u16), (u32, u16)),
        flagged: u8,
        numbers: (u32, u32),
        payload: Vec<u8>,
    ) -> Packet {
        let mut packet = self.packet(TCP, from, to);
        let Body::Tcp { flags, sequence, acknowledgement, .. } = &mut packet.body else {
            unreachable!("it was asked for")
        };
        (*flags, *sequence, *acknowledgement) = (flagged, numbers.0, numbers.1);
        packet.payload = payload;
        packet.ttl = packet.ttl.max(2);
        packet
    }

    fn calls_up(&mut self) -> Packet {
        let from = (self.host(), 5000 + self.below(3) as u16);
        let (to, first) = ((self.ftp_server(), PPTP), self.below(u32::MAX));
        self.pptp_segment((from, to), SYN, (first, 0), vec![])
    }

    /// A SYN/ACK to somebody who waits for it.
    fn is_accepted(&mut self, nat: &Nat) -> Option<Packet> {
        let mut waiting = Vec::new();
        for mapping in nat.mappings.values().filter(|mapping| mapping.external.0 == TCP) {
            let sessions = mapping.first.iter().map(|(with, session)| (with, session));
            for (with, session) in sessions.chain(&mapping.further) {
                if with.1 == PPTP && session.state == State::Opening && session.opened_inside {
                    waiting.push((*with, mapping.external, session.next_inside()));
                }
            }
        }
        let n = waiting.len() as u32;
        let (with, to, next) = (n > 0).then(|| waiting[self.below(n) as usize])?;
        let first = self.below(u32::MAX);
        Some(self.pptp_segment((with, (to.1, to.2)), SYN | ACK, (first, next), vec![]))
    }

    /// One that goes on, mostly; with a call, mostly, if that is wanted.
    fn one_tunnel<'a>(
        &mut self,
        nat: &'a Nat,
        with_call: bool,
    ) -> Option<((Key, u32), &'a Tunnel)> {
        let (any, any_stage) = (self.one_in(8), !with_call || self.one_in(6));
        let tunnels: Vec<_> = nat
            .tunnels
            .iter()
            .filter(|(_, tunnel)| any || tunnel.stage != Stage::Over)
            .filter(|(_, tunnel)| any_stage || tunnel.stage == Stage::Connected)
            .collect();
        let n = tunnels.len() as u32;
        let place = (n > 0).then(|| self.below(n))?;
        tunnels.get(place as usize).map(|(key, tunnel)| (**key, *tunnel))
    }

    /// What a side may say now; now and then something else, or nothing good.
    fn words(&mut self, side: usize, host: u32, tunnel: &Tunnel) -> Vec<u8> {
        let client = tunnel.client.unwrap_or(7);
        let mine = self.pick(&[client, client, client, 7, 8, 0]);
        let its = self.pick(&[tunnel.external, tunnel.external, tunnel.external, client, 9]);
        // No server gives one identifier to two hosts.
        let server = (host & 0x3f) as u16 * 16 + (host >> 12 & 0x10) as u16 * 64;
        let server = server + self.below(3) as u16;
        if self.one_in(80) {
            let length = 1 + self.below(40);
            return (0..length).map(|n| (n * 3) as u8).collect();
        }
        if self.one_in(80) {
            let mut cut = message(ECHO, 1, 1);
            cut.truncate(self.below(16) as usize);
            return cut;
        }
        match (tunnel.stage, side) {
            (Stage::Silent, 0) => message(START, 0, 0),
            (Stage::Asked, 1) => {
                let mut said = message(STARTED, 0, 0);
                said[14] = if self.one_in(12) { 2 } else { 1 };
                said
            }
            (Stage::Talking, 0) if !self.one_in(4) => message(CALL, self.pick(&[7, 7, 8, 0]), 1),
            (Stage::Requested, 1) if !self.one_in(4) => {
                let mut said = message(CALLED, server, its);
                said[16] = if self.one_in(6) { 4 } else { 1 };
                said
            }
            (_, 0) => match self.below(24) {
                0..8 => message(ECHO, mine, its),
                8..13 => message(CLEAR, mine, 0),
                13..16 => message(CALL, mine, 1),
                16..19 => message(LINK, its, 0),
                19 => message(STOP, 0x0100, 0),
                20 => message(INCOMING_ACCEPTED, mine, its),
                21 => message(INCOMING, mine, 0),
                _ => [message(ECHO, 1, 1), message(CLEAR, mine, 0)].concat(),
            },
            _ => match self.below(24) {
                0..8 => message(ECHOED, its, its),
                8..11 => message(LINK, its, 0),
                11..14 => message(WAN_ERROR, its, 0),
                14..17 => message(DISCONNECTED, self.pick(&[tunnel.server, its]), 0),
                17..20 => message(CALLED, server, its),
                20 => message(self.pick(&[STOPPED, STOP]), 0, 0),
                21 => message(INCOMING, its, 0),
                _ => [message(LINK, its, 0), message(ECHO, 1, 1)].concat(),
            },
        }
    }

    fn says(&mut self, nat: &Nat, side: usize, key: Key, server: u32, tunnel: &Tunnel) -> Packet {
        let outside = nat.mappings[&key].external;
        let ends = match side {
            0 => ((key.1, key.2), (server, PPTP)),
            _ => ((server, PPTP), (outside.1, outside.2)),
        };
        let (taken, heard) = (tunnel.taken(side), tunnel.taken(1 - side));
        // Nothing that was acknowledged comes again.
        let least = tunnel.acknowledged[side].clamp(0, taken);
        let mut at = taken;
        let mut payload = if self.one_in(5) { vec![] } else { self.words(side, key.1, tunnel) };
        match self.below(12) {
            0..3 => {
                at = least + i64::from(self.below((taken - least + 1) as u32));
                let mut again = tunnel.said[side][at as usize..].to_vec();
                match self.one_in(2) {
                    true => again.extend(&payload),
                    false => again.truncate(1 + self.below(60) as usize),
                }
                payload = again;
            }
            3 => at = taken + 1 + i64::from(self.below(30)),
            _ => {}
        }
        let known = tunnel.acknowledged[1 - side].clamp(0, heard);
        let heard = match self.below(5) {
            0 => known,
            1 => known + i64::from(self.below((heard - known + 1) as u32)),
            _ => heard,
        };
        let more = match self.below(300) {
            0 => FIN,
            1 => RST,
            _ => 0,
        };
        let numbers = (
            tunnel.begin[side].wrapping_add(at as u32),
            tunnel.begin[1 - side].wrapping_add(heard as u32),
        );
        self.pptp_segment(ends, ACK | more, numbers, payload)
    }

    /// GRE of either side, to the call or beside it.
    fn tunnelled(
        &mut self,
        nat: &Nat,
        port: usize,
        key: Key,
        server: u32,
        tunnel: &Tunnel,
    ) -> Packet {
        let outside = nat.mappings[&key].external;
        let other = self.ftp_server();
        let (from, to, id) = match port {
            INTERNAL => (key.1, server, tunnel.server),
            _ => (server, outside.1, tunnel.external),
        };
        let (from, to, id) = match self.below(20) {
            0 if port == INTERNAL => (self.subscriber(), to, id),
            0 => (other, to, id),
            1 if port == INTERNAL => (from, other, id),
            1 => (from, self.target(nat).1, id),
            2 => (from, to, id ^ 1),
            3 => (from, to, self.below(65_536) as u16),
            4 if port == INTERNAL => (from, self.target(nat).1, id),
            _ => (from, to, id),
        };
        let mut packet = self.packet(UDP, (from, 1), (to, 1));
        packet.body = Body::Call { id };
        packet
    }

    fn tunnelled_in_pieces(&mut self, port: usize, mut packet: Packet) -> Event {
        packet.df = false;
        packet.options.clear();
        packet.identification = self.next_identification();
        packet.payload = (0..60 + self.below(200)).map(|n| (n * 37) as u8).collect();
        let middle = 36 + 8 * self.below(5) as usize;
        let cuts = vec![middle, middle + 16, packet.len()];
        let mut order: Vec<(usize, usize)> = Vec::new();
        for n in 0..cuts.len() {
            let place = self.below(n as u32 + 1) as usize;
            order.insert(place, (n, self.worker()));
        }
        let overlap_after = self.one_in(6).then(|| 1 + self.below(2) as usize);
        Event::Fragments(Datagram { port, packet, cuts, order, overlap_after })
    }

    /// An error from the other side about a packet of the tunnel as it was seen there.
    fn error_in_tunnel(
        &mut self,
        port: usize,
        mut about: Packet,
        tunnel: &Tunnel,
        workers: u16,
    ) -> Packet {
        about.options.clear();
        about.payload.resize(about.payload.len().max(8), 3);
        if port == INTERNAL {
            about.source = tunnel.outside_address;
            // Of the owner's numbers, mostly.
            let worker = if self.one_in(6) { self.below(9) as u16 } else { tunnel.worker };
            about.identification -= about.identification % workers;
            about.identification = about.identification.wrapping_add(worker % workers);
        } else {
            let client = tunnel.client.unwrap_or_default();
            about.set_destination((tunnel.internal, self.pick(&[client, client, client, 7, 9])));
        }
        self.error_about(about, 1 - port)
    }
}
