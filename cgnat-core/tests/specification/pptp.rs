//! PPTP's ALG, naively: a tunnel keeps all that both sides have said, and every place where an
//! identifier stands as another.

use super::events::{EXTERNAL, INTERNAL};
use super::ftp::{ACK, FIN, SYN};
use super::nat::{Key, Nat, Outcome, Ticks};
use super::pptp_messages::*;
use super::sessions::State;
use super::wire::{Body, GRE, Packet, TCP};
use cgnat_core::verdict::DropReason::{self, *};

pub const PPTP: u16 = 1723;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Silent,
    Asked,
    Talking,
    Requested,
    Connected,
    Over,
}

/// One control connection, and the call that it has. Sides are 0 for the client, 1 for the
/// server; places are counted from a side's first byte.
#[derive(Debug, Clone)]
pub struct Tunnel {
    pub worker: u16,
    pub internal: u32,
    pub outside_address: u32,
    pub begin: [u32; 2],
    /// What was taken of each side, and how much of it the other side has acknowledged.
    pub said: [Vec<u8>; 2],
    pub acknowledged: [i64; 2],
    /// Where identifiers are replaced.
    places: Vec<(usize, i64)>,
    /// What the server gets, and what each side has chosen.
    pub external: u16,
    pub client: Option<u16>,
    pub server: u16,
    pub stage: Stage,
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelCounts {
    pub unfollowed: u64,
    pub ended: u64,
    pub passed: u64,
}

fn place(number: u32, begin: u32) -> i64 {
    i64::from(number.wrapping_sub(begin) as i32)
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

impl Tunnel {
    pub fn taken(&self, side: usize) -> i64 {
        self.said[side].len() as i64
    }

    fn call(&self) -> Option<(u16, u16)> {
        let client = self.client.filter(|_| self.stage == Stage::Connected)?;
        Some((client, self.server))
    }

    fn under_way(&self, side: usize) -> usize {
        let of = |(by, at): &&(usize, i64)| *by == side && self.acknowledged[side] < at + 2;
        self.places.iter().filter(of).count()
    }

    /// No more than four of a side are under way.
    fn replace(&mut self, side: usize, at: i64) {
        match self.under_way(side) {
            4.. => self.stage = Stage::Over,
            _ => self.places.push((side, at)),
        }
    }

    /// The next bytes of a side; how many messages were about calls that are not translated.
    fn take(&mut self, side: usize, mut bytes: &[u8]) -> u64 {
        let mut passed = 0;
        while self.stage != Stage::Over && !bytes.is_empty() {
            let whole = (1..=15)
                .map(|kind| (kind, message(kind, 0, 0).len()))
                .find(|(kind, n)| bytes.len() >= *n && bytes[..10] == message(*kind, 0, 0)[..10]);
            let Some((kind, length)) = whole else {
                self.stage = Stage::Over;
                break;
            };
            let (said, rest) = bytes.split_at(length);
            passed += u64::from(!self.hear(side, kind, said));
            if self.stage != Stage::Over {
                self.said[side].extend(said);
            }
            bytes = rest;
        }
        passed
    }

    fn hear(&mut self, side: usize, kind: u16, said: &[u8]) -> bool {
        let (id, peer) = (word(said, 12), word(said, 14));
        let (id_at, peer_at) = (self.taken(side) + 12, self.taken(side) + 14);
        let is_external = |id: u16| self.client.is_some() && id == self.external;
        self.stage = match (self.stage, side, kind) {
            (Stage::Silent, 0, START) => Stage::Asked,
            (Stage::Asked, 1, STARTED) if said[14] == 1 => Stage::Talking,
            (Stage::Silent | Stage::Asked, ..) | (_, _, STOP | STOPPED) => Stage::Over,
            (stage, 0, CALL) => {
                let again = self.client == Some(id);
                let free = match stage {
                    Stage::Talking => again || self.under_way(1) == 0,
                    _ => stage == Stage::Requested && again,
                };
                if !free {
                    return false;
                }
                self.client = Some(id);
                self.stage = Stage::Requested;
                self.replace(0, id_at);
                return true;
            }
            (stage, 1, CALLED) => {
                if !is_external(peer) {
                    return false;
                }
                self.replace(1, peer_at);
                if stage != Stage::Requested || self.stage == Stage::Over {
                    return true;
                }
                self.server = id;
                if said[16] == 1 { Stage::Connected } else { Stage::Talking }
            }
            (stage, 0, CLEAR) if self.client == Some(id) => {
                self.replace(0, id_at);
                self.hung_up(stage)
            }
            (Stage::Connected, 1, DISCONNECTED) if id == self.server => Stage::Talking,
            (stage, 1, DISCONNECTED) if is_external(id) => {
                self.replace(1, id_at);
                self.hung_up(stage)
            }
            (_, 1, LINK | WAN_ERROR) if is_external(id) => {
                self.replace(1, id_at);
                self.stage
            }
            (_, 0, INCOMING | INCOMING_ACCEPTED) => return false,
            (stage, ..) => stage,
        };
        true
    }

    fn hung_up(&self, stage: Stage) -> Stage {
        match stage {
            _ if self.stage == Stage::Over => Stage::Over,
            Stage::Requested | Stage::Connected => Stage::Talking,
            stage => stage,
        }
    }

    /// A segment as it leaves.
    fn leaving(&self, side: usize, at: i64, payload: &mut [u8]) {
        let id = if side == 0 { self.external } else { self.client.unwrap_or_default() };
        for (_, place) in self.places.iter().filter(|(by, _)| *by == side) {
            for (n, byte) in (place - at..).zip(id.to_be_bytes()) {
                if let Some(place) = usize::try_from(n).ok().and_then(|n| payload.get_mut(n)) {
                    *place = byte;
                }
            }
        }
    }
}

impl Nat {
    /// With its session a control connection ends.
    pub fn mind_tunnels(&mut self) {
        let mut tunnels = std::mem::take(&mut self.tunnels);
        tunnels.retain(|(key, server), _| self.session(*key, (*server, PPTP)).is_some());
        self.tunnels = tunnels;
    }

    /// A segment of a control connection, which its session has seen.
    pub fn tunnel_says(
        &mut self,
        side: usize,
        key: Key,
        packet: &mut Packet,
    ) -> Result<(), DropReason> {
        let (server, port) = if side == 0 { packet.to() } else { packet.from() };
        let Some(segment) = packet.segment() else { return Ok(()) };
        if port != PPTP || segment.flags & SYN != 0 {
            return Ok(());
        }
        let Some(mut tunnel) = self.tunnels.get(&(key, server)).cloned() else { return Ok(()) };
        let (at, length) = (place(segment.sequence, tunnel.begin[side]), packet.payload.len());
        let was_over = tunnel.stage == Stage::Over;
        let before = tunnel.call();
        let has_news = length > 0 || segment.flags & FIN != 0;
        if !was_over && at > tunnel.taken(side) && has_news {
            return Err(AlgPptpOrder);
        }
        if segment.flags & ACK != 0 {
            let other = 1 - side;
            let acknowledged = place(segment.acknowledgement, tunnel.begin[other]);
            if acknowledged > tunnel.acknowledged[other] && acknowledged <= tunnel.taken(other) {
                tunnel.acknowledged[other] = acknowledged;
            }
        }
        let known = usize::try_from(tunnel.taken(side) - at).ok();
        if let (false, Some(news)) = (was_over, known.and_then(|n| packet.payload.get(n..))) {
            self.pptp.passed += tunnel.take(side, news);
        }
        self.pptp.ended += u64::from(tunnel.stage == Stage::Over && !was_over);
        tunnel.leaving(side, at, &mut packet.payload);
        if let Some(call) = tunnel.call().filter(|call| before != Some(*call)) {
            self.supersede(key.1, server, call);
            self.calls += 1;
        }
        self.tunnels.insert((key, server), tunnel);
        Ok(())
    }

    /// An identifier that one host and one server use again is the new call's.
    fn supersede(&mut self, internal: u32, server: u32, (client, other): (u16, u16)) {
        for ((key, with), old) in &mut self.tunnels {
            let is_same = old.call().is_some_and(|old| old.0 == client || old.1 == other);
            if key.1 == internal && *with == server && is_same {
                old.stage = Stage::Over;
                self.pptp.ended += 1;
            }
        }
    }

    /// A SYN/ACK from port 1723, which its session has seen.
    pub fn tunnel_opens(&mut self, key: Key, packet: &Packet, was_opening: bool) {
        let server = packet.source;
        let Some(segment) = packet.segment() else { return };
        let state = self.session(key, (server, PPTP)).map(|session| session.state);
        if !was_opening
            || segment.flags & (SYN | ACK) != SYN | ACK
            || state != Some(State::Established)
        {
            return;
        }
        let worker = self.mappings[&key].worker;
        let own = self.tunnels.keys().filter(|(other, _)| other.1 == key.1).count();
        let all = self.tunnels.values().filter(|tunnel| tunnel.worker == worker).count();
        let known = self.tunnels.contains_key(&(key, server));
        if !known && (own >= self.rules.tunnels / 16 || all >= self.rules.tunnels) {
            self.pptp.unfollowed += 1;
            return;
        }
        let tunnel = Tunnel {
            worker,
            internal: key.1,
            outside_address: self.mappings[&key].external.1,
            begin: [segment.acknowledgement, segment.sequence.wrapping_add(1)],
            said: [vec![], vec![]],
            acknowledged: [0; 2],
            places: vec![],
            external: self.mappings[&key].external.2,
            client: None,
            server: 0,
            stage: Stage::Silent,
        };
        self.tunnels.insert((key, server), tunnel);
    }

    /// Whether the session that a segment from port 1723 is of was only being opened.
    pub fn is_tunnel_opening(&mut self, key: Key, packet: &Packet, now: Ticks) -> bool {
        if !self.rules.pptp || packet.from().1 != PPTP || packet.segment().is_none() {
            return false;
        }
        let remote = (packet.source, PPTP);
        self.meet(key, remote, now);
        let session = self.session(key, remote);
        session.is_some_and(|session| session.opened_inside && session.state == State::Opening)
    }

    /// The live call for which `is_it` says yes, and the key of its control connection.
    pub fn live_call(
        &self,
        now: Ticks,
        is_it: impl Fn(&Key, u32, &Tunnel) -> bool,
    ) -> Option<(Key, &Tunnel)> {
        let found = self.tunnels.iter().find(|((key, server), tunnel)| {
            let session = self.session(*key, (*server, PPTP));
            tunnel.call().is_some()
                && session.is_some_and(|session| now < session.deadline)
                && is_it(key, *server, tunnel)
        });
        found.map(|((key, _), tunnel)| (*key, tunnel))
    }

    /// GRE of a subscriber to call `id`.
    pub fn outbound_call(&mut self, packet: &Packet, id: u16, now: Ticks) -> Outcome {
        let (source, destination) = (packet.source, packet.destination);
        let call = self.live_call(now, |key, server, tunnel| {
            (key.1, server, tunnel.server) == (source, destination, id)
        });
        let Some((key, _)) = call else { return Outcome::Drop(PptpNoCall) };
        let external = self.mappings[&key].external.1;
        self.tunnelled += 1;
        let mut out = Packet { source: external, ttl: packet.ttl - 1, ..packet.clone() };
        out.hide_route(external);
        self.leaves(out, EXTERNAL)
    }

    /// GRE to an external address.
    pub fn inward_call(
        &mut self,
        packet: &Packet,
        id: u16,
        hairpinned: bool,
        now: Ticks,
    ) -> Outcome {
        let external = (TCP, packet.destination, id);
        let Some(block) = self.block_of(external.1, id) else {
            let known = self.is_external(external.1);
            return Outcome::Drop(if known { PortNotLent } else { DestinationUnknown });
        };
        let refused = |nat: &Self, reason| match nat.blocks.contains_key(&block) {
            true => Outcome::Drop(reason),
            false => Outcome::DropEither(reason, NoMapping),
        };
        if packet.ttl <= 1 && !hairpinned {
            return refused(self, TtlExpired);
        }
        let server = packet.source;
        let reached = self.reached(external, server).ok();
        let call = self.live_call(now, |key, with, _| Some(*key) == reached && with == server);
        let Some((key, client)) = call.map(|(key, tunnel)| (key, tunnel.client)) else {
            return refused(self, PptpNoCall);
        };
        if packet.df && packet.len() > self.rules.mtu_internal {
            return Outcome::Drop(TooBig);
        }
        self.tunnelled += 1;
        let mut packet = packet.clone();
        packet.set_destination((key.1, client.unwrap_or_default()));
        packet.ttl -= u8::from(!hairpinned);
        self.leaves(packet, INTERNAL)
    }

    /// What an error from inside, about GRE of a server, comes from.
    pub fn called_from(&self, about: &Packet, id: u16, now: Ticks) -> Option<(u32, u16)> {
        let (server, internal) = (about.source, about.destination);
        let call = self.live_call(now, |key, with, tunnel| {
            (key.1, with, tunnel.client) == (internal, server, Some(id))
        });
        call.map(|(key, _)| (self.mappings[&key].external.1, self.mappings[&key].external.2))
    }

    /// An error from outside about GRE that left: it is for the worker whose numbers have the
    /// identification that it quotes.
    pub fn inward_about_call(
        &mut self,
        packet: &Packet,
        about: &Packet,
        id: u16,
        hairpinned: bool,
        now: Ticks,
    ) -> Outcome {
        if !self.is_external(about.source) {
            return Outcome::Drop(DestinationUnknown);
        }
        if packet.ttl <= 1 && !hairpinned {
            return Outcome::Drop(TtlExpired);
        }
        let worker = about.identification % self.rules.workers;
        let call = self.live_call(now, |key, server, tunnel| {
            self.mappings[key].external.1 == about.source
                && (server, tunnel.server) == (about.destination, id)
                && tunnel.worker == worker
        });
        let Some((key, _)) = call else { return Outcome::Drop(IcmpNoMapping) };
        let mut packet = packet.clone();
        packet.set_destination((key.1, 0));
        packet.ttl -= u8::from(!hairpinned);
        self.leaves(packet, INTERNAL)
    }
}

/// Whether a packet is GRE of PPTP.
pub fn is_tunnelled(packet: &Packet) -> bool {
    packet.protocol() == GRE && matches!(packet.body, Body::Call { .. })
}
