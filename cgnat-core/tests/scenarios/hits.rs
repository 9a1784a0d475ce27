//! The short way of a packet through the box against the long one: two boxes alike but for that
//! receive the same bursts and must send the same bytes and count the same.

use cgnat_core::testing::io::MemoryPacket;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::desk::*;
use crate::wire::{Body, ip};

type Endpoint = (u32, u16);

struct Pair {
    short: Desk,
    long: Desk,
    random: ChaCha8Rng,
    /// Frames of the last bursts, for packets that come again or broken.
    seen: Vec<(usize, Vec<u8>)>,
    /// External endpoints and who may answer.
    known: Vec<(Endpoint, Endpoint, bool)>,
}

impl Pair {
    fn new(yaml: &str, workers: u16, seed: u64) -> Self {
        let short = Desk::with(yaml, workers, seed);
        let mut long = Desk::with(yaml, workers, seed);
        long.lab.workers.iter_mut().for_each(|worker| worker.take_no_hits());
        let random = ChaCha8Rng::seed_from_u64(seed);
        Self { short, long, random, seen: Vec::new(), known: Vec::new() }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.next_u32() as usize % bound
    }

    fn outbound(&mut self) -> Vec<u8> {
        let host = format!("100.64.{}.{}", self.below(2), 1 + self.below(6));
        let port = match self.below(5) {
            0 => 5000 + self.below(700) as u16,
            which => [4000, 4001, 21, 1723][which - 1],
        };
        let to = [ip(SERVER), ip("8.8.8.8"), ip("203.0.113.3"), ip("10.255.0.1"), ip("203.0.1.1")];
        let server = (to[[0, 0, 0, 1, 1, 2, 3, 4][self.below(8)]], [53, 80, 21, 69][self.below(4)]);
        let flags = [SYN, SYN, ACK, ACK, ACK, ACK, ACK | FIN, RST, SYN | ACK][self.below(9)];
        let mut packet = match self.below(2) {
            0 => udp((&host, port), server),
            _ => tcp((&host, port), server, flags),
        };
        if let Body::Udp { checksummed, .. } = &mut packet.body {
            *checksummed = self.below(4) > 0;
        }
        packet.df = self.below(6) > 0;
        packet.ttl = [64, 64, 64, 2, 1][self.below(5)];
        if self.below(20) == 0 {
            packet.options = vec![1, 1, 1, 0];
        }
        if self.below(20) == 0 {
            packet.payload = vec![7; 1480];
        }
        self.short.arriving(INTERNAL, &packet)
    }

    fn inbound(&mut self) -> Option<Vec<u8>> {
        let of = (!self.known.is_empty()).then(|| self.below(self.known.len()))?;
        let (external, remote, is_tcp) = self.known[of];
        let from = if self.below(8) == 0 { (ip("198.51.100.9"), 9) } else { remote };
        let host = std::net::Ipv4Addr::from(from.0).to_string();
        let flags = [SYN | ACK, ACK, ACK, ACK, ACK | FIN, RST, SYN][self.below(7)];
        let mut packet = match is_tcp {
            true => tcp((&host, from.1), external, flags),
            false => udp((&host, from.1), external),
        };
        packet.df = self.below(2) > 0;
        Some(self.short.arriving(EXTERNAL, &packet))
    }

    fn frame(&mut self) -> (usize, Vec<u8>) {
        match self.below(10) {
            0..=4 => (INTERNAL, self.outbound()),
            5..=8 => match self.inbound() {
                Some(frame) => (EXTERNAL, frame),
                None => (INTERNAL, self.outbound()),
            },
            _ if self.seen.iter().all(|(_, frame)| frame.is_empty()) => (INTERNAL, self.outbound()),
            _ => {
                let again = self.below(self.seen.len());
                let (port, mut frame) = self.seen[again].clone();
                if frame.is_empty() {
                    return (port, frame);
                }
                match self.below(3) {
                    0 => {
                        let at = self.below(frame.len());
                        frame[at] ^= 1 << self.below(8);
                    }
                    1 => frame.truncate(self.random.next_u32() as usize % frame.len()),
                    _ => frame.resize(frame.len() + 6, 0),
                }
                (port, frame)
            }
        }
    }

    fn burst(&mut self) {
        let count = 1 + self.below(40);
        let workers = self.short.lab.workers.len();
        let at = self.below(workers);
        let frames: Vec<_> = (0..count).map(|_| self.frame()).collect();
        for desk in [&mut self.short, &mut self.long] {
            for (port, frame) in &frames {
                let packet = MemoryPacket::new(frame);
                desk.lab.workers[at].io_mut().arrive(*port, packet);
            }
            desk.lab.run_workers();
        }
        let (sent, expected) = (self.short.lab.take_sent(), self.long.lab.take_sent());
        assert_eq!(sent, expected, "of {frames:02x?}");
        for (_, frame) in sent.iter().filter(|(port, frame)| *port == EXTERNAL && frame.len() > 42)
        {
            let word = |at: usize| u32::from_be_bytes(*frame[at..].first_chunk().unwrap());
            let ports = word(34);
            if frame[14] == 0x45 && [6, 17].contains(&frame[23]) {
                let external = (word(26), (ports >> 16) as u16);
                self.known.push((external, (word(30), ports as u16), frame[23] == 6));
            }
        }
        let from = self.known.len().saturating_sub(200);
        self.known.drain(..from);
        self.seen = frames;
    }

    /// Hits and beginnings that went the short way, and what was sent in all.
    fn run(&mut self, bursts: usize) -> (u64, u64, u64) {
        for n in 0..bursts {
            self.burst();
            if self.below(10) == 0 {
                let ms = [10, 100, 5_000, 61_000, 400_000][self.below(5)];
                self.short.lab.advance(ms);
                self.long.lab.advance(ms);
            }
            if n % 50 == 0 {
                self.short.lab.audit();
            }
        }
        assert_eq!(self.short.drops(), self.long.drops());
        assert_eq!(self.short.mappings(), self.long.mappings());
        let lab = &self.short.lab;
        let sent = lab.sum(|c| c.ports.iter().map(|port| port.tx_packets.value()).sum());
        assert_eq!(self.long.lab.sum(|c| c.hits.value() + c.begun.value()), 0);
        (lab.sum(|c| c.hits.value()), lab.sum(|c| c.begun.value()), sent)
    }
}

#[test]
fn the_short_way_sends_the_same_bytes_and_counts_the_same_as_the_long_one() {
    let pool = "{ addresses: [203.0.113.0/28] }";
    let refreshing = config(pool, "nat44: { inbound-refresh: true }");
    let filtering = config(
        "{ addresses: [203.0.113.0/28], filtering: address-and-port-dependent }",
        "nat44: { alg: { ftp: true, pptp: true, tftp: true } }\n",
    );
    let small = one_address(12, 2);
    let limited = plain().replace("pool: main }", "pool: main, limits: { ports: 40 } }");
    assert_ne!(limited, plain());
    let clamped = config("{ addresses: [203.0.113.0/28] }", "nat44: { tcp-mss-clamp: 1200 }");
    let overflow = "overflow: { ports: 8192, block-size: 64 }";
    let ranges = format!("mode: deterministic, ports-per-subscriber: 64, {overflow}");
    let ranges =
        config(&format!("{{ addresses: [203.0.113.0/28], allocation: {{ {ranges} }} }}"), "");
    let overflowing = ranges.replace("100.64.0.0/10", "100.64.0.0/23");
    for (yaml, workers, least, least_begun) in [
        (plain(), 1, 5_000, 1_000),
        (plain(), 3, 1_500, 300),
        (refreshing, 1, 5_000, 1_000),
        (filtering, 2, 100, 100),
        (small, 1, 1_000, 100),
        (limited, 1, 1_000, 100),
        (clamped, 1, 1_000, 100),
        (overflowing, 1, 1_000, 100),
    ] {
        let mut pair = Pair::new(&yaml, workers, 7);
        let (hits, begun, sent) = pair.run(1_500);
        let enough = hits > least && begun > least_begun;
        println!("{hits} hits, {begun} beginnings of {sent}");
        assert!(enough, "{hits} hits and {begun} beginnings of {sent} went the short way: {yaml}");
    }
}

#[test]
fn a_packet_is_translated_the_short_way_once_its_mapping_exists_and_not_where_rules_decide() {
    let bypass = "nat44: { bypass: [{ to: 198.51.100.0/24 }] }";
    for (yaml, expected) in [(plain(), 3), (config("{ addresses: [203.0.113.0/28] }", bypass), 0)] {
        let mut desk = Desk::new(&yaml);
        let packet = udp(("100.64.0.7", 4000), (ip("8.8.8.8"), 80));
        let outside = desk.goes_out(&packet);
        for _ in 0..2 {
            assert_eq!(desk.goes_out(&packet), outside);
        }
        desk.comes_in(&udp(("8.8.8.8", 80), outside), ("100.64.0.7", 4000));
        assert_eq!(desk.lab.sum(|c| c.hits.value()), expected);
    }
}
