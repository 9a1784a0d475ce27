//! Random events: what arrives where, and how time goes on. Steered by the specification's
//! state, so that live, expired and resting endpoints are met often.

use std::collections::BTreeSet;

use cgnat_core::verdict::DropReason;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::fragments::Datagram;
use super::mapping::Mapping;
use super::nat::{Endpoint, Nat};
use super::wire::{Body, ICMP, Link, Packet, Protocol, TCP, UDP, ip, numbers};

pub const INTERNAL: usize = 0;
pub const EXTERNAL: usize = 1;

#[derive(Debug, Clone)]
pub enum Event {
    /// A good packet.
    Arrive {
        worker: usize,
        port: usize,
        packet: Packet,
    },
    /// A good packet in fragments.
    Fragments(Datagram),
    /// A good packet without ports in fragments: where they end, in which order they arrive and
    /// at which workers.
    Pieces {
        port: usize,
        packet: Packet,
        cuts: Vec<usize>,
        order: Vec<(usize, usize)>,
    },
    /// A frame that never reaches the NAT.
    Broken {
        worker: usize,
        port: usize,
        frame: Vec<u8>,
        whole: bool,
        reason: DropReason,
    },
    /// An echo request to an own address, and the answer.
    Ping {
        worker: usize,
        port: usize,
        frame: Vec<u8>,
        answer: Vec<u8>,
    },
    /// Milliseconds.
    Pass(u64),
    Housekeeping,
    /// A reload: addresses of the first pool, and those of them that drain.
    Reload(BTreeSet<u32>, BTreeSet<u32>),
}

/// What a world is like.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Subscribers, remote hosts and ports per host that are used.
    pub hosts: u32,
    /// Of them the first so many send every fourth packet.
    pub busy: u32,
    pub remotes: u32,
    pub source_ports: u32,
    /// The first of them.
    pub first_port: u16,
    /// In a thousand: time steps and housekeeping.
    pub steps: u32,
    pub housekeeping: u32,
    /// In a thousand.
    pub reloads: u32,
    /// The usual time step, milliseconds.
    pub step_ms: u64,
    /// One payload in 40 has up to this many bytes; most have none or a few.
    pub payload: u32,
}

pub struct Events {
    random: ChaCha8Rng,
    habits: Habits,
    workers: usize,
    /// By port, as frames arrive.
    pub(super) links: [Link; 2],
    pub(super) own: [u32; 2],
    /// Of the last datagram in fragments.
    identification: u16,
}

impl Events {
    /// One that no datagram under way has.
    pub fn next_identification(&mut self) -> u16 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }

    pub fn worker(&mut self) -> usize {
        self.below(self.workers as u32) as usize
    }

    pub fn new(seed: u64, habits: Habits, workers: usize, links: [Link; 2], own: [u32; 2]) -> Self {
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            habits,
            workers,
            links,
            own,
            identification: 0,
        }
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        self.random.next_u32() % bound
    }

    pub fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    pub fn next(&mut self, nat: &Nat) -> Event {
        let Habits { steps, housekeeping, reloads, .. } = self.habits;
        let worker = self.below(self.workers as u32) as usize;
        match self.below(1000) {
            n if n < steps => Event::Pass(self.step()),
            n if n < steps + housekeeping => Event::Housekeeping,
            n if n < steps + housekeeping + 60 => self.broken(worker),
            n if n < steps + housekeeping + 70 => self.ping(worker),
            n if n >= 1000 - reloads => self.reload(),
            n if n % 4 == 0 && !nat.rules.statics.is_empty() => {
                let port = self.below(2) as usize;
                let packet = match self.one_in(5) {
                    true => self.exceptional_error(nat, port),
                    false => self.exceptional(nat, port),
                };
                Event::Arrive { worker, port, packet }
            }
            n if n % 5 < 2 && nat.rules.ftp => self.ftp(nat),
            n if n % 25 == 2 && nat.rules.ftp => self.tftp(nat),
            n if n % 5 < 3 && nat.rules.pptp => self.pptp(nat),
            n if n % 7 == 0 && !nat.rules.carried.is_empty() => self.bare(nat),
            n if n % 23 == 0 => {
                let port = self.below(2) as usize;
                let packet = self.error(nat, port);
                Event::Arrive { worker, port, packet }
            }
            n if n % 29 == 0 => self.fragments(nat),
            n if n % 3 == 0 => {
                let packet = self.inbound(nat);
                Event::Arrive { worker, port: EXTERNAL, packet }
            }
            n => {
                let packet = match n % 6 {
                    1 => self.hairpin(nat),
                    2 => self.again(nat),
                    _ => self.outbound(),
                };
                Event::Arrive { worker, port: INTERNAL, packet }
            }
        }
    }

    fn step(&mut self) -> u64 {
        let usual = self.habits.step_ms as u32;
        match self.below(2000) {
            0 => u64::from(self.below(3 * 3600 * 1000)),
            1..6 => u64::from(self.below(500_000)),
            6..60 => u64::from(self.below(30 * usual)),
            60..700 => u64::from(self.below(300)),
            _ => u64::from(self.below(usual)),
        }
    }

    pub fn protocol(&mut self) -> Protocol {
        self.pick(&[UDP, UDP, TCP, TCP, TCP, ICMP])
    }

    pub fn subscriber(&mut self) -> u32 {
        if self.one_in(60) {
            // Outside all groups.
            return self.pick(&[ip("10.9.9.9"), ip("100.64.1.0"), ip("192.168.0.1")]);
        }
        self.host()
    }

    pub fn host(&mut self) -> u32 {
        let busy = self.habits.busy;
        let hosts = if busy > 0 && self.one_in(4) { busy } else { self.habits.hosts };
        let host = self.below(hosts);
        self.pick(&[ip("100.64.0.0"), ip("100.64.0.0"), ip("100.65.0.0")]) + host
    }

    pub fn remote(&mut self) -> (u32, u16) {
        if self.one_in(80) {
            // Such addresses exist on the internal side only.
            let inside = ["100.64.0.2", "100.127.0.1", "169.254.1.1", "10.255.0.3"];
            return (ip(self.pick(&inside)), 443);
        }
        let host = ip("198.51.100.7") + self.below(self.habits.remotes);
        (host, self.pick(&[53, 123, 443, 443, 5000, 65535]))
    }

    pub fn packet(&mut self, protocol: Protocol, from: (u32, u16), to: (u32, u16)) -> Packet {
        let body = match protocol {
            UDP => Body::Udp { source: from.1, destination: to.1, checksummed: !self.one_in(8) },
            TCP => {
                let usual = [2, 2, 2, 0x12, 0x10, 0x10, 0x18, 0x11, 0x11, 0x14, 0x04];
                let any = self.random.next_u32() as u8;
                let flags = if self.one_in(10) { any } else { self.pick(&usual) };
                let mut options = vec![1; 4 * self.below(3) as usize];
                if self.one_in(4) {
                    let shift = self.pick(&[0, 2, 7, 14, 200]);
                    options.splice(0..0, [3, 3, shift, 1]);
                }
                let (mut sequence, mut acknowledgement) = numbers(flags);
                if self.one_in(3) {
                    sequence = sequence.wrapping_add_signed(self.stray());
                }
                if self.one_in(6) {
                    acknowledgement = acknowledgement.wrapping_add_signed(self.stray());
                }
                let (source, destination) = (from.1, to.1);
                Body::Tcp { source, destination, flags, sequence, acknowledgement, options }
            }
            _ => {
                let (request, sequence) = (!self.one_in(8), self.below(3) as u16);
                match self.one_in(4) {
                    true => Body::Timestamp { request, identifier: from.1, sequence },
                    false => Body::Echo { request, identifier: from.1, sequence },
                }
            }
        };
        let length = match self.below(40) {
            0..4 => 0,
            4 => self.below(self.habits.payload),
            _ => self.below(24),
        };
        let filler = self.pick(&[0, 0xff, self.random.clone().next_u32() as u8]);
        let mut payload = vec![filler; length as usize];
        if matches!(body, Body::Timestamp { .. }) {
            payload.resize(payload.len().max(12), filler);
        }
        if !self.one_in(3) {
            self.random.fill_bytes(&mut payload);
        }
        let usual_ttl = 2 + self.below(254) as u8;
        Packet {
            identification: self.random.next_u32() as u16,
            df: !self.one_in(6),
            ttl: if self.one_in(25) { self.below(2) as u8 } else { usual_ttl },
            options: if self.one_in(20) { self.options(from.0) } else { vec![] },
            source: from.0,
            destination: to.0,
            body,
            payload,
        }
    }

    /// How far a sequence number lies from the usual: a little, at the edges, far.
    fn stray(&mut self) -> i32 {
        let some = self.below(1400) as i32;
        let any = self.random.next_u32() as i32;
        self.pick(&[-1, 1, 2, 23, some, some, -some, 65_535, -65_535, 70_000, any])
    }

    /// Padding, or the route recorded so far.
    fn options(&mut self, sender: u32) -> Vec<u8> {
        let words = self.below(11) as usize;
        if words < 2 || self.one_in(3) {
            return vec![1; 4 * words];
        }
        let used = self.below(words as u32) as usize;
        let mut options = vec![7, 4 * words as u8 - 1, 4 * used as u8 + 4];
        options.extend(sender.to_be_bytes().repeat(used));
        options.resize(4 * words - 1, 0);
        // What is not used may hold anything. An end of the list follows.
        if self.one_in(2) {
            options.truncate(3 + 4 * used);
            options.extend(sender.to_be_bytes().repeat(words - 1 - used));
        }
        options.push(0);
        options
    }

    fn outbound(&mut self) -> Packet {
        let protocol = self.protocol();
        let host = self.subscriber();
        let first = self.habits.first_port + u16::from(protocol != ICMP);
        let port = first + self.below(self.habits.source_ports) as u16;
        let to = self.remote();
        self.packet(protocol, (host, port), to)
    }

    /// From an internal endpoint that is mapped, to a remote that it knows.
    pub fn again(&mut self, nat: &Nat) -> Packet {
        let protocol = self.protocol();
        let host = self.host();
        let found = nat.mappings.range((protocol, host, 0, None, 0)..).next();
        let Some((key, mapping)) = found else { return self.outbound() };
        let to = self.known_remote(mapping);
        self.packet(key.0, (key.1, key.2), to)
    }

    fn known_remote(&mut self, mapping: &Mapping) -> (u32, u16) {
        let known: Vec<_> = mapping.remotes().collect();
        let any = self.remote();
        if known.is_empty() || self.one_in(8) {
            return any;
        }
        let (address, port) = self.pick(&known);
        // Who is known by address may come from any port; what is said to port 21 is for `ftp`,
        // to port 1723 for `pptp`.
        (address, if matches!(port, 0 | 21 | 1723) { any.1 } else { port })
    }

    /// An endpoint of ours: mapped, resting, or anything.
    pub fn target(&mut self, nat: &Nat) -> Endpoint {
        let protocol = self.protocol();
        let pool = &nat.rules.pools[self.below(nat.rules.pools.len() as u32) as usize];
        let place = self.below(pool.addresses.len() as u32) as usize;
        let address = *pool.addresses.iter().nth(place).unwrap();
        let span = u32::from(pool.ports.1 - pool.ports.0) + 1;
        let any = (protocol, address, pool.ports.0 + self.below(span) as u16);
        match self.below(20) {
            0 => any,
            1 => (protocol, address, self.random.next_u32() as u16 | 1),
            2..4 => nat.resting.range(any..).next().map_or(any, |(endpoint, _)| *endpoint),
            _ => nat.external.range(any..).next().map_or(any, |(endpoint, _)| *endpoint),
        }
    }

    pub fn inbound(&mut self, nat: &Nat) -> Packet {
        let (protocol, address, port) = self.target(nat);
        let owner = nat.one_of(&(protocol, address, port), self.below(1000));
        let mut from = match owner.and_then(|key| nat.mappings.get(key)) {
            Some(mapping) => self.known_remote(mapping),
            None => self.remote(),
        };
        if self.one_in(40) {
            from.0 =
                self.pick(&[ip("100.64.0.1"), ip("203.0.113.0"), ip("100.65.0.3"), self.own[1]]);
        }
        let address = if self.one_in(40) { ip("203.0.113.200") } else { address };
        if protocol == ICMP {
            from.1 = port;
        }
        let mut packet = self.packet(protocol, from, (address, port));
        packet.set_query(self.one_in(12));
        packet
    }

    /// From a subscriber to an external endpoint: somebody's, or its own.
    pub fn hairpin(&mut self, nat: &Nat) -> Packet {
        let mut packet = self.outbound();
        let (protocol, address, port) = self.target(nat);
        if packet.protocol() != protocol && protocol != ICMP {
            let from = (packet.source, packet.from().1.max(1));
            packet = self.packet(protocol, from, (address, port));
        }
        if packet.protocol() == ICMP {
            packet.destination = address;
        } else {
            packet.set_destination((address, port));
        }
        // To itself.
        let own = (protocol, packet.source, packet.from().1);
        let mut mapped = nat.mappings.range((own.0, own.1, own.2, None, 0)..);
        if let Some((key, mapping)) = mapped.next()
            && (key.0, key.1, key.2, key.3) == (own.0, own.1, own.2, None)
            && self.one_in(6)
        {
            packet.set_destination((mapping.external.1, mapping.external.2));
        }
        packet
    }

    /// An ICMP error that arrives at a port, about a packet that left from there.
    fn error(&mut self, nat: &Nat, port: usize) -> Packet {
        let (protocol, from, to) = if port == EXTERNAL {
            let (protocol, address, port) = self.target(nat);
            let with = nat.one_of(&(protocol, address, port), 0).and_then(|key| key.3);
            let to = with.filter(|_| !self.one_in(4)).unwrap_or_else(|| self.remote());
            (protocol, (address, port), to)
        } else {
            let protocol = self.protocol();
            let host = self.host();
            let mapped = nat.mappings.range((protocol, host, 0, None, 0)..).next();
            let (protocol, host, id, with, _) =
                mapped.map_or((protocol, host, 7, None, 0), |(key, _)| *key);
            // The packet came from the Internet, or from another subscriber by a hairpin.
            let other = self.target(nat);
            let from = match with.filter(|_| !self.one_in(4)) {
                Some(with) => with,
                None if self.one_in(4) => (other.1, other.2),
                None => self.remote(),
            };
            (protocol, if protocol == ICMP { (from.0, id) } else { from }, (host, id))
        };
        let about = self.packet(protocol, from, to);
        self.error_about(about, port)
    }

    pub fn error_about(&mut self, mut about: Packet, port: usize) -> Packet {
        let to = about.to();
        about.set_query(port == EXTERNAL);
        if let Body::Echo { sequence, .. } = &mut about.body {
            // Whether a cut message is all zero cannot be seen, and so not whether its
            // checksum is 0 or 0xffff.
            *sequence |= 1;
        }
        let routers = [to.0, ip("198.51.100.99"), ip("100.64.0.250")];
        let sender = self.pick(&routers[if port == EXTERNAL { 1..2 } else { 0..3 }]);
        let mut error = self.packet(ICMP, (sender, 0), (about.source, 0));
        // An extension follows short quotes only: a cut is then certain. Half a checksum (17)
        // cannot be kept right.
        let kept = if self.one_in(2) { 8 } else { 8 + self.below(40) as usize };
        let kept = if kept == 17 { 16 } else { kept };
        if kept > 8 || self.one_in(2) {
            error.payload.clear();
        }
        error.body = Body::Error {
            kind: self.pick(&[3, 3, 11, 12]),
            code: self.below(16) as u8,
            // Next-hop MTU.
            rest: self.below(3) * 1400,
            about: Box::new(about),
            kept,
        };
        error
    }

    fn ping(&mut self, worker: usize) -> Event {
        let port = self.below(2) as usize;
        let from = [ip("100.64.0.1"), ip("198.51.100.7")][port];
        let id = self.below(3);
        let mut packet = self.packet(ICMP, (from, id as u16), (self.own[port], id as u16));
        packet.body =
            Body::Echo { request: true, identifier: id as u16, sequence: self.below(2) as u16 };
        let link = self.links[port];
        let frame = link.frame(0x0800, &packet.bytes());
        (packet.source, packet.destination) = (packet.destination, packet.source);
        packet.ttl = 64;
        packet.set_query(false);
        let back = Link { to: link.from, from: link.to, ..link };
        Event::Ping { worker, port, frame, answer: back.frame(0x0800, &packet.bytes()) }
    }
}
