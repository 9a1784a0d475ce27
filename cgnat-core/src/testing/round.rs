//! One worker on packets that are made once and go round, so that only its own work is left to be
//! counted: instructions, allocations.
//!
//! A [`Round`] brings its worker into a state ([`Round::prepare`]) and then lets it poll
//! ([`Round::polls`]) over full bursts of one kind of packet, each of another flow. Packets are
//! laid out before and looked at afterwards.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::lab::port_mac;
use super::{memory, packets};
use crate::assembly::{Assembly, Memory, assemble};
use crate::config::Config;
use crate::control::counters::WorkerCounters;
use crate::endpoint::Protocol;
use crate::housekeeping::Housekeeping;
use crate::layout::Layout;
use crate::packet::ethernet::Tags;
use crate::packet::{put_u32, u16_at, u32_at};
use crate::time::Instant;
use crate::verdict::DropReason;
use crate::worker::forwarding::Forwarding;
use crate::worker::io::{BURST, Burst, NOTE_BYTES, PacketBuf, PacketIo};
use crate::worker::routes::{Action, Hop, Learned, Routes};
use crate::worker::{TimeSource, Worker};
use std::sync::Arc;

/// Flows of each protocol, and packets of one round.
pub const FLOWS: usize = 64 * BURST;

/// Flows of one subscriber; one block has ports for them all.
const FLOWS_EACH: usize = 32;

const INTERNAL: usize = 0;
const EXTERNAL: usize = 1;
const ROOM: usize = 2048;
const HEADROOM: usize = 64;

const SYN: u8 = 2;
const ACK: u8 = 16;

const YAML: &str = "version: 1
system: { max-mappings: 20_000, new-flows-under-load: off, flood-guard: false }
ports:
  internal0:
    side: internal
    device: net_null0
    addresses: [10.255.0.2/30]
    next-hop: 10.255.0.1
    neighbours: [{ address: 10.255.0.1, mac: \"02:00:00:00:09:01\" }]
  external0:
    side: external
    device: net_null1
    addresses: [192.0.2.2/30]
    next-hop: 192.0.2.1
    neighbours: [{ address: 192.0.2.1, mac: \"02:00:00:00:09:02\" }]
pools:
  main: { addresses: [203.0.113.0/28], allocation: { block-size: 512 } }
subscribers:
  - { name: everyone, match: [100.64.0.0/10], pool: main }
";

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Out of a mapping that exists, with its session.
    OutboundUdp,
    /// The same by ten thousand learned routes.
    RoutedUdp,
    /// Into one.
    InboundUdp,
    /// Out of an open connection.
    OutboundTcp,
    /// Into one.
    InboundTcp,
    /// A new mapping of a subscriber that has a block.
    FirstUdp,
    /// Likewise, by a SYN.
    FirstTcp,
    /// To an external port that nobody has.
    Unasked,
    /// The end of a mapping that was silent.
    Expiry,
}

impl Case {
    /// All, in the order in which they are told.
    pub const ALL: [Case; 9] = [
        Case::OutboundUdp,
        Case::RoutedUdp,
        Case::InboundUdp,
        Case::OutboundTcp,
        Case::InboundTcp,
        Case::FirstUdp,
        Case::FirstTcp,
        Case::Unasked,
        Case::Expiry,
    ];

    /// Its name in tables of figures.
    pub fn name(self) -> &'static str {
        match self {
            Case::OutboundUdp => "outbound-hit-udp",
            Case::RoutedUdp => "outbound-hit-routed",
            Case::InboundUdp => "inbound-hit-udp",
            Case::OutboundTcp => "outbound-hit-tcp",
            Case::InboundTcp => "inbound-hit-tcp",
            Case::FirstUdp => "first-packet-udp",
            Case::FirstTcp => "first-packet-tcp",
            Case::Unasked => "inbound-unasked",
            Case::Expiry => "expiry",
        }
    }
}

/// A packet of a fixed place, as small to move as one of DPDK.
pub struct RoundPacket(Box<Slot>);

struct Slot {
    bytes: [u8; ROOM],
    start: usize,
    end: usize,
    note: [u8; NOTE_BYTES],
}

impl RoundPacket {
    fn new() -> Self {
        let (start, end) = (HEADROOM, HEADROOM);
        Self(Box::new(Slot { bytes: [0; ROOM], start, end, note: [0; NOTE_BYTES] }))
    }

    fn set(&mut self, frame: &[u8]) {
        self.0.start = HEADROOM;
        self.0.end = HEADROOM + frame.len();
        self.0.bytes[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
    }
}

impl PacketBuf for RoundPacket {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.0.bytes[self.0.start..self.0.end]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0.bytes[self.0.start..self.0.end]
    }

    #[inline]
    fn is_whole(&self) -> bool {
        true
    }

    #[inline]
    fn frame_len(&self) -> usize {
        self.0.end - self.0.start
    }

    fn join(&mut self) -> bool {
        true
    }

    #[inline]
    fn cut_front(&mut self, n: usize) {
        self.0.start += n;
    }

    #[inline]
    fn grow_front(&mut self, n: usize) -> bool {
        let fits = n <= self.0.start;
        self.0.start -= if fits { n } else { 0 };
        fits
    }

    #[inline]
    fn grow_back(&mut self, n: usize) -> bool {
        let fits = self.0.end + n <= ROOM;
        self.0.end += if fits { n } else { 0 };
        fits
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        self.0.end = self.0.start + len;
    }

    fn fill(&mut self, len: usize) -> bool {
        self.0.start + len <= ROOM && {
            self.0.end = self.0.start + len;
            self.bytes_mut().fill(0);
            true
        }
    }

    #[inline]
    fn note(&mut self) -> &mut [u8; NOTE_BYTES] {
        &mut self.0.note
    }

    fn captured_at(&self) -> Option<Instant> {
        None
    }
}

/// Two ports. Packets that were sent wait to be laid out again.
pub struct RoundIo {
    /// Of each port, the next one last.
    arriving: [Vec<RoundPacket>; 2],
    /// With the port, in order.
    sent: [Vec<RoundPacket>; 2],
}

impl RoundIo {
    fn new() -> Self {
        let room = || Vec::with_capacity(FLOWS);
        Self { arriving: [room(), room()], sent: [room(), room()] }
    }
}

impl PacketIo for RoundIo {
    type Packet = RoundPacket;

    #[inline]
    fn receive(&mut self, port: usize, burst: &mut Burst<RoundPacket>) -> bool {
        let arriving = &mut self.arriving[port];
        let rest = arriving.len().saturating_sub(BURST);
        burst.extend(arriving.drain(rest..).rev());
        burst.is_full()
    }

    #[inline]
    fn transmit(&mut self, port: usize, burst: &mut Burst<RoundPacket>) {
        self.sent[port].extend(burst.drain(..));
    }

    fn hand_off(&mut self, _worker: u16, _burst: &mut Burst<RoundPacket>) {
        unreachable!("there is one worker");
    }

    #[inline]
    fn take_handed(&mut self, _burst: &mut Burst<RoundPacket>) {}

    fn allocate(&mut self) -> Option<RoundPacket> {
        None
    }
}

/// The worker and what it needs; see the module.
pub struct Round {
    worker: Worker<RoundIo>,
    housekeeping: Housekeeping,
    counters: Arc<WorkerCounters>,
    forwarding: Arc<Forwarding>,
    now: Instant,
    free: Vec<RoundPacket>,
    /// Frames of the next round, the buffers used again.
    frames: Vec<Vec<u8>>,
    /// External endpoints of the flows, UDP and TCP.
    outside: [Vec<(u32, u16)>; 2],
}

/// Side and address of a flow's server: many, as on a real link.
fn server(flow: usize) -> (u32, u16) {
    (u32::from_be_bytes([198, 51, 100, 0]) + (flow % 251) as u32, 443)
}

fn host(flow: usize) -> (u32, u16) {
    let subscriber = (flow / FLOWS_EACH) as u32 + 1;
    (u32::from_be_bytes([100, 64, 0, 0]) + subscriber * 7, 10_000 + (flow % FLOWS_EACH) as u16)
}

impl Default for Round {
    fn default() -> Self {
        Self::new()
    }
}

impl Round {
    /// A worker whose subscribers each have a block and one mapping.
    ///
    /// # Panics
    /// If the box cannot be built: a mistake here.
    pub fn new() -> Self {
        let config = Config::from_yaml("round.yaml", YAML).unwrap_or_else(|e| panic!("{e}"));
        let layout = Layout::new(&config, 1);
        let memory = Memory {
            shards: vec![memory::zeroed(layout.shard_bytes)],
            blocks: memory::zeroed(layout.block_bytes),
        };
        let macs = [port_mac(INTERNAL), port_mac(EXTERNAL)];
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let chance = |bytes: &mut [u8]| random.fill_bytes(bytes);
        let assembly = assemble(&config, &layout, memory, &macs, TimeSource::Clock, chance);
        let Assembly { seats, housekeeping, counters, forwarding, .. } =
            assembly.unwrap_or_else(|error| panic!("{error}"));
        let seat = seats.into_iter().next().unwrap_or_else(|| unreachable!("one worker"));
        let counters = counters.into_iter().next().unwrap_or_else(|| unreachable!("one worker"));
        let mut round = Self {
            worker: seat.worker(RoundIo::new()),
            housekeeping,
            counters,
            forwarding,
            now: Instant::from_millis(1_000),
            free: (0..FLOWS).map(|_| RoundPacket::new()).collect(),
            frames: Vec::with_capacity(FLOWS),
            outside: [Vec::new(), Vec::new()],
        };
        round.settle();
        // The block of each subscriber, taken by a flow that is none of those below.
        let knock = |flow| packets::udp((host(flow).0, 9), (server(flow).0, 9), b"first");
        round.go(INTERNAL, (0..FLOWS).step_by(FLOWS_EACH).map(knock).collect());
        round
    }

    /// Brings about what `case` is about, and lays out its packets.
    ///
    /// # Panics
    /// If a packet on the way is not translated.
    pub fn prepare(&mut self, case: Case) {
        match case {
            Case::FirstUdp => {}
            Case::OutboundUdp | Case::InboundUdp | Case::Unasked | Case::Expiry => self.open_udp(),
            Case::RoutedUdp => {
                self.route();
                self.open_udp();
            }
            Case::FirstTcp => {}
            Case::OutboundTcp | Case::InboundTcp => self.open_tcp(),
        }
        self.lay_out(case);
    }

    /// Lays out the packets of `case` once more. New flows get ports that had none.
    ///
    /// # Panics
    /// If [`Round::prepare`] was not called for the same case.
    pub fn lay_out(&mut self, case: Case) {
        let flows = 0..FLOWS;
        let (port, frames): (usize, Vec<Vec<u8>>) = match case {
            Case::OutboundUdp | Case::RoutedUdp | Case::FirstUdp => {
                (INTERNAL, flows.map(udp_out).collect())
            }
            Case::FirstTcp => (INTERNAL, flows.map(|flow| tcp_out(flow, SYN, 100, 0)).collect()),
            Case::OutboundTcp => {
                (INTERNAL, flows.map(|flow| tcp_out(flow, ACK, 101, 501)).collect())
            }
            Case::InboundUdp => {
                let outside = &self.outside[0];
                let payload = b"answer";
                let answer = |flow: usize| packets::udp(server(flow), outside[flow], payload);
                (EXTERNAL, flows.map(answer).collect())
            }
            Case::InboundTcp => {
                let outside = &self.outside[1];
                let answer = |flow: usize| tcp(server(flow), outside[flow], ACK, 501, 101);
                (EXTERNAL, flows.map(answer).collect())
            }
            Case::Unasked => {
                // Their ports have UDP, and not TCP.
                let outside = &self.outside[0];
                let scan = |flow: usize| tcp(server(flow), outside[flow], ACK, 501, 101);
                (EXTERNAL, flows.map(scan).collect())
            }
            Case::Expiry => {
                // Longer than any UDP mapping may be silent.
                self.now = self.now.plus_millis(1_000_000);
                return;
            }
        };
        self.lay(port, frames);
    }

    /// Lets the worker poll until all that was laid out has gone through; for [`Case::Expiry`]
    /// until one message of housekeeping is worked off. The one thing to be counted.
    #[inline(never)]
    pub fn polls(&mut self) {
        while self.worker.poll(self.now) > 0 {}
    }

    /// How many things of `case` came about in the last polls, and were all right.
    ///
    /// # Panics
    /// If another packet was dropped than was to be.
    pub fn check(&mut self, case: Case) -> usize {
        let dropped: u64 = self.counters.drops.iter().map(|count| count.value()).sum();
        if case == Case::Unasked {
            let unasked = self.counters.drops_of(DropReason::NoMapping);
            assert_eq!((unasked, dropped), (FLOWS as u64, FLOWS as u64));
            return FLOWS;
        }
        assert_eq!(dropped, 0, "{}: packets were dropped", case.name());
        let sent = self.take_sent().into_iter().map(|frames| frames.len()).sum();
        assert_eq!(sent, if case == Case::Expiry { 0 } else { FLOWS }, "{}", case.name());
        sent
    }

    /// One round of housekeeping; false when it has nothing more to do about mappings.
    pub fn keep_house(&mut self) -> bool {
        self.housekeeping.run(self.now, self.now);
        self.mappings() > 0
    }

    /// UDP mappings that there are.
    pub fn mappings(&self) -> u64 {
        self.counters.mappings[Protocol::Udp as usize].value()
    }

    /// Ten thousand routes learned, each server in one of its own.
    fn route(&mut self) {
        let via = Some(u32::from_be_bytes([192, 0, 2, 1]));
        let action = Action::Forward(vec![Hop { port: EXTERNAL as u8, via, weight: 1 }]);
        let first = u32::from_be_bytes([198, 51, 80, 0]);
        let outside: Learned = (0..10_000).map(|n| ((first + n, 32), action.clone())).collect();
        let routes = Routes::new(1, &self.forwarding, &[Learned::new(), outside]);
        let given = self.housekeeping.route(Arc::new(routes), self.now).is_ok();
        assert!(given, "there was none before");
        self.settle();
    }

    fn open_udp(&mut self) {
        let sent = self.go(INTERNAL, (0..FLOWS).map(udp_out).collect());
        self.outside[0] = sent.iter().map(|frame| source(frame)).collect();
    }

    fn open_tcp(&mut self) {
        let syns = (0..FLOWS).map(|flow| tcp_out(flow, SYN, 100, 0)).collect();
        let outside: Vec<_> = self.go(INTERNAL, syns).iter().map(|f| source(f)).collect();
        let answer = |flow: usize| tcp(server(flow), outside[flow], SYN | ACK, 500, 101);
        self.go(EXTERNAL, (0..FLOWS).map(answer).collect());
        self.go(INTERNAL, (0..FLOWS).map(|flow| tcp_out(flow, ACK, 101, 501)).collect());
        self.outside[1] = outside;
    }

    /// Packets arrive, and all of them leave by the other port, as which frames.
    fn go(&mut self, port: usize, frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let count = frames.len();
        self.lay(port, frames);
        self.settle();
        let [inside, outside] = self.take_sent();
        let sent = if port == INTERNAL { outside } else { inside };
        assert_eq!(sent.len(), count, "every packet is translated");
        sent
    }

    fn settle(&mut self) {
        while self.housekeeping.run(self.now, self.now) || self.worker.poll(self.now) > 0 {}
    }

    fn lay(&mut self, port: usize, frames: Vec<Vec<u8>>) {
        self.frames = frames;
        let hop = [2, 0, 0, 0, 9, 1 + port as u8];
        let io = self.worker.io_mut();
        for packet in self.frames.iter().rev() {
            let mut place = self.free.pop().unwrap_or_else(|| unreachable!("as many as flows"));
            place.set(&packets::frame(port_mac(port), hop, Tags::None, packet));
            io.arriving[port].push(place);
        }
    }

    fn take_sent(&mut self) -> [Vec<Vec<u8>>; 2] {
        let io = self.worker.io_mut();
        [INTERNAL, EXTERNAL].map(|port| {
            let sent: Vec<_> = io.sent[port].drain(..).collect();
            let frames = sent.iter().map(|packet| packet.bytes().to_vec()).collect();
            self.free.extend(sent);
            frames
        })
    }
}

fn udp_out(flow: usize) -> Vec<u8> {
    packets::udp(host(flow), server(flow), b"question")
}

fn tcp_out(flow: usize, flags: u8, sequence: u32, acknowledgement: u32) -> Vec<u8> {
    tcp(host(flow), server(flow), flags, sequence, acknowledgement)
}

fn tcp(
    from: (u32, u16),
    to: (u32, u16),
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
) -> Vec<u8> {
    let packet = packets::tcp(from, to, flags, b"");
    let mut segment = packet[20..].to_vec();
    put_u32(&mut segment, 4, sequence);
    put_u32(&mut segment, 8, acknowledgement);
    packets::ipv4(from.0, to.0, 6, segment, Some(16))
}

/// Source endpoint of a frame that was sent.
fn source(frame: &[u8]) -> (u32, u16) {
    (u32_at(frame, 26), u16_at(frame, 34))
}
