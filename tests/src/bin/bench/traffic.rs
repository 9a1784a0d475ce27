//! The worker's packets in a measurement: real packet buffers and queues of DPDK's null driver,
//! with headers of known flows written into what is received.
//!
//! Writing the headers is the traffic generator's work: its clocks are counted apart and taken
//! off. What the worker itself does is everything between.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use cgnat_app::run::io::DpdkPacket;
use cgnat_core::worker::io::{BURST, Burst, PacketBuf as _, PacketIo};
use dpdk::{Mbuf, Mempool, RingConsumer, RingProducer, RxQueue, TxQueue, tsc};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// Bytes of a frame without its check sequence: 64 on the wire.
pub const SMALL: u16 = 60;

/// MAC of the station that everything comes from and goes to; and of our ports.
pub const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 9, 9];

/// Where the number of the flow stands in a frame: behind Ethernet, IPv4 and UDP.
const NUMBER_AT: usize = 42;

/// Frames of twelve of the simple IMIX, bytes without check sequence: seven small, four of 576
/// bytes of IPv4, one of 1,500.
pub const IMIX: [u16; 12] = [60, 590, 60, 60, 590, 60, 1514, 60, 590, 60, 60, 590];

/// One flow as its packets look on arrival.
#[derive(Clone, Copy, Default)]
pub struct Flow {
    pub source: u32,
    pub destination: u32,
    pub source_port: u16,
    pub destination_port: u16,
    pub number: u32,
}

/// The two ports, inwards and outwards.
pub const INTERNAL: usize = 0;
/// See [`INTERNAL`].
pub const EXTERNAL: usize = 1;

/// What is received at a port: nothing, these flows again and again, new ones, or both in turn.
#[derive(Default)]
pub struct Source {
    flows: Vec<Flow>,
    next: usize,
    fresh: Option<Fresh>,
    /// Packets still to come.
    pub left: u64,
}

impl Source {
    /// Of these flows.
    pub fn of(flows: Vec<Flow>) -> Self {
        Self { flows, ..Self::default() }
    }

    /// And new ones; those before them are forgotten.
    pub fn mix_in(&mut self, fresh: Fresh) {
        self.fresh = Some(fresh);
    }

    /// New ones no more; what they were.
    pub fn take_fresh(&mut self) -> Option<Fresh> {
        self.fresh.take()
    }

    fn take(&mut self) -> Flow {
        if let Some(fresh) = &mut self.fresh
            && fresh.is_due()
        {
            return fresh.take();
        }
        let flow = self.flows[self.next];
        self.next = (self.next + 1) % self.flows.len();
        flow
    }
}

/// First packets of flows that never were, of these subscribers in turn.
#[derive(Clone, Copy)]
pub struct Fresh {
    /// Address of the first subscriber.
    pub first: u32,
    /// Subscribers.
    pub hosts: u32,
    /// Port that the flows go to.
    pub port: u16,
    /// So many in each thousand packets.
    pub permille: u32,
    turn: u32,
    count: u64,
}

impl Fresh {
    /// None has come yet.
    pub fn new(first: u32, hosts: u32, port: u16) -> Self {
        Self { first, hosts, port, permille: 1000, turn: 0, count: 0 }
    }

    fn is_due(&mut self) -> bool {
        self.turn += self.permille;
        let is_due = self.turn >= 1000;
        self.turn -= if is_due { 1000 } else { 0 };
        is_due
    }

    fn take(&mut self) -> Flow {
        let (host, turn) = (self.count % u64::from(self.hosts), self.count / u64::from(self.hosts));
        self.count += 1;
        Flow {
            source: self.first + host as u32,
            // A port comes again when its flow has long ended.
            source_port: 10_000 + (turn % 50_000) as u16,
            destination: 0x0800_0000 | (self.count as u32).wrapping_mul(0x9e37_79b9) >> 8,
            destination_port: self.port,
            number: u32::MAX,
        }
    }
}

/// To the other workers of the box, and from them.
pub struct Rings {
    /// By worker.
    pub producers: Vec<RingProducer>,
    /// This worker, and its ring.
    pub own: usize,
    pub consumer: RingConsumer,
}

/// What a measurement counts, in ticks of the time-stamp counter.
#[derive(Clone, Copy, Default)]
pub struct Ticks {
    /// Writing headers.
    pub stamp: u64,
    /// In the driver, if that is told apart.
    pub driver: u64,
    /// Readings of the counter itself that were made.
    pub readings: u64,
    /// Ticks of one, if times are told by [`Ticks::own`].
    pub reading: f64,
    /// When something was received last by a line; 0 is never.
    pub last: u64,
}

/// Ticks between two receptions that no worker needs: the machine was at something else.
const GAP: u64 = 150_000;

impl Ticks {
    /// At the reading `now` something is received.
    fn note_gap(&mut self, now: u64) {
        let gap = now - self.last;
        self.stamp += if gap > GAP && self.last > 0 { gap } else { 0 };
    }

    /// Of the reading `now` of the counter those that are not the generator's.
    pub fn own(&self, now: u64) -> u64 {
        now - self.stamp - (self.readings as f64 * self.reading / 2.0) as u64
    }
}

/// The number of a flood's packets.
pub const FLOOD: u32 = u32::MAX - 1;

/// Descriptors of a receive queue.
const QUEUE: usize = 1024;

/// Packets that arrive at a port at a steady rate in the worker's own time, and wait in a queue
/// like a card's: one that finds it full is lost.
pub struct Line {
    /// What is for the flood's destination.
    pub flood: Source,
    /// Packets of the flood, and others, in a tick of the worker.
    pub rates: (f64, f64),
    /// Which of those that wait are the flood's.
    queue: VecDeque<bool>,
    /// Arrived since, in ticks of the worker.
    since: u64,
    /// Parts of a packet that have arrived.
    owed: f64,
    random: ChaCha8Rng,
    /// Packets of others that left the box.
    pub sent: u64,
}

impl Line {
    /// Nothing has arrived yet at the worker's tick `since`.
    pub fn new(flood: Source, rates: (f64, f64), since: u64) -> Self {
        let (queue, random) = (VecDeque::with_capacity(QUEUE), ChaCha8Rng::seed_from_u64(7));
        Self { flood, rates, queue, since, owed: 0.0, random, sent: 0 }
    }

    fn arrive(&mut self, now: u64) {
        let (flood, others) = self.rates;
        self.owed += now.saturating_sub(self.since) as f64 * (flood + others);
        self.since = self.since.max(now);
        let count = self.owed as usize;
        self.owed -= count as f64;
        let limit = (flood / (flood + others) * f64::from(u32::MAX)) as u32;
        for _ in 0..count.min(QUEUE - self.queue.len()) {
            self.queue.push_back(self.random.next_u32() < limit);
        }
    }
}

/// The worker's view of the two ports; whether it passes hints on to the CPU's caches is part of
/// the type, so that it costs nothing to ask.
pub struct Traffic<const HINTS: bool> {
    pub rx: Vec<RxQueue>,
    pub tx: Vec<TxQueue>,
    pub pool: Mempool,
    pub macs: [[u8; 6]; 2],
    pub sources: [Source; 2],
    pub ticks: Ticks,
    /// Whether driver and worker are told apart, at the price of more readings.
    pub tells_driver: bool,
    /// Sizes of frames, in turn; all small if empty.
    pub sizes: &'static [u16],
    turn: usize,
    /// Packets received at most in one call.
    pub burst: usize,
    /// By number of the flow: source after translation. Filled while not empty.
    pub learned: Vec<(u32, u16)>,
    /// Packets that were sent.
    pub sent: u64,
    /// By port: what arrives at its own pace, whether the worker has time for it or not.
    pub lines: [Option<Line>; 2],
    rings: Rings,
}

impl<const HINTS: bool> Traffic<HINTS> {
    pub fn new(
        rx: Vec<RxQueue>,
        tx: Vec<TxQueue>,
        pool: Mempool,
        macs: [[u8; 6]; 2],
        rings: Rings,
    ) -> Self {
        Self {
            rx,
            tx,
            pool,
            macs,
            sources: Default::default(),
            ticks: Ticks::default(),
            tells_driver: false,
            sizes: &[],
            turn: 0,
            burst: BURST,
            learned: Vec::new(),
            sent: 0,
            lines: [None, None],
            rings,
        }
    }

    /// A ring to another worker is more than half full: the generator waits.
    fn is_congested(&self) -> bool {
        let others = self.rings.producers.iter().enumerate().filter(|(n, _)| *n != self.rings.own);
        let mut rings = others.map(|(_, ring)| ring.ring());
        rings.any(|ring| ring.count() > ring.capacity() / 2)
    }

    /// Receives what the queue of a line holds, after what arrived in the meantime.
    fn receive_line(&mut self, port: usize, burst: &mut Burst<DpdkPacket>) -> bool {
        let before = tsc();
        let mut mbufs: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        self.ticks.note_gap(before);
        let (pace, taken) = (self.ticks, &mut self.sources[port]);
        let Some(line) = &mut self.lines[port] else { return false };
        line.arrive(pace.own(before));
        let waiting = line.queue.len().min(BURST);
        if waiting > 0 {
            self.ticks.stamp += tsc() - before;
            self.rx[port].receive(&mut mbufs);
        }
        let received = if waiting > 0 { tsc() } else { before };
        mbufs.truncate(waiting);
        burst.extend(mbufs.drain(..).map(DpdkPacket::from));
        for (packet, is_flood) in burst.iter_mut().zip(line.queue.drain(..waiting)) {
            let flow = if is_flood { line.flood.take() } else { taken.take() };
            let frame = packet.bytes_mut();
            stamp(frame, self.macs[port], flow);
            finish(frame, flow);
        }
        self.ticks.last = tsc();
        self.ticks.stamp += self.ticks.last - received;
        self.ticks.readings += if waiting > 0 { 4 } else { 2 };
        burst.is_full()
    }

    /// Counts what leaves for somebody else than the flood's destination.
    fn count_sent(&mut self, port: usize, burst: &Burst<DpdkPacket>) {
        let before = tsc();
        // What came in by a line goes out by the other port.
        let Some(line) = &mut self.lines[1 - port] else { return };
        let number = |packet: &DpdkPacket| packet.bytes()[NUMBER_AT..].first_chunk().copied();
        let flood = FLOOD.to_be_bytes();
        line.sent += burst.iter().filter(|packet| number(packet) != Some(flood)).count() as u64;
        self.ticks.stamp += tsc() - before;
        self.ticks.readings += 2;
    }

    fn learn(&mut self, burst: &Burst<DpdkPacket>) {
        for packet in burst {
            let bytes = packet.bytes();
            let word = |at: usize| bytes[at..].first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
            if let Some(entry) = self.learned.get_mut(word(NUMBER_AT) as usize) {
                *entry = (word(26), (word(34) >> 16) as u16);
            }
        }
    }

    /// Exchanges the two addresses of each frame and sends it out of the other port, as testpmd
    /// does in its mode macswap, for so many ticks at least. Returns ticks of each packet.
    pub fn macswap(&mut self, ticks: u64) -> f64 {
        let start = tsc();
        let mut packets = 0;
        while tsc() - start < ticks {
            for (from, to) in [(0, 1), (1, 0)] {
                let mut burst: ArrayVec<Mbuf, BURST> = ArrayVec::new();
                self.rx[from].receive(&mut burst);
                for mbuf in &burst {
                    mbuf.prefetch();
                }
                for mbuf in &mut burst {
                    if let Some(header) = mbuf.data_mut().first_chunk_mut::<12>() {
                        let [a, b, c, d, e, f, rest @ ..] = *header;
                        header[..6].copy_from_slice(&rest);
                        header[6..].copy_from_slice(&[a, b, c, d, e, f]);
                    }
                }
                packets += burst.len() as u64;
                self.tx[to].transmit(&mut burst);
            }
        }
        (tsc() - start) as f64 / packets as f64
    }
}

/// Writes the headers of `flow` into a frame.
fn stamp(frame: &mut [u8], mac: [u8; 6], flow: Flow) {
    let Some(head) = frame.first_chunk_mut::<46>() else { return };
    let total_len = (SMALL.max(46) - 14).to_be_bytes();
    head[..6].copy_from_slice(&mac);
    head[6..12].copy_from_slice(&NEIGHBOUR);
    head[12..14].copy_from_slice(&[8, 0]);
    head[14..26].copy_from_slice(&[
        0x45,
        0,
        total_len[0],
        total_len[1],
        0,
        0,
        0x40,
        0,
        64,
        17,
        0,
        0,
    ]);
    head[26..30].copy_from_slice(&flow.source.to_be_bytes());
    head[30..34].copy_from_slice(&flow.destination.to_be_bytes());
    head[34..36].copy_from_slice(&flow.source_port.to_be_bytes());
    head[36..38].copy_from_slice(&flow.destination_port.to_be_bytes());
    head[38..40].copy_from_slice(&(u16::from_be_bytes(total_len) - 20).to_be_bytes());
    head[40..42].copy_from_slice(&[0x5a, 0xa5]);
    head[NUMBER_AT..].copy_from_slice(&flow.number.to_be_bytes());
}

/// Sets the lengths that belong to a frame of `len` bytes and the header checksum.
fn finish(frame: &mut [u8], flow: Flow) {
    let total_len = frame.len() as u32 - 14;
    frame[16..18].copy_from_slice(&(total_len as u16).to_be_bytes());
    frame[38..40].copy_from_slice(&(total_len as u16 - 20).to_be_bytes());
    let words = [flow.source, flow.destination].map(|word| (word >> 16) + (word & 0xffff));
    let mut sum = 0x4500 + total_len + 0x4000 + 0x4011 + words[0] + words[1];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!sum as u16).to_be_bytes());
}

impl<const HINTS: bool> PacketIo for Traffic<HINTS> {
    type Packet = DpdkPacket;

    fn receive(&mut self, port: usize, burst: &mut Burst<DpdkPacket>) -> bool {
        if self.lines[port].is_some() {
            return self.receive_line(port, burst);
        }
        if self.sources[port].left == 0 || self.rings.producers.len() > 1 && self.is_congested() {
            return false;
        }
        let before = if self.tells_driver { tsc() } else { 0 };
        let mut mbufs: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        self.rx[port].receive(&mut mbufs);
        let source = &mut self.sources[port];
        mbufs.truncate(self.burst.min(source.left.min(BURST as u64) as usize));
        burst.extend(mbufs.drain(..).map(DpdkPacket::from));
        let received = tsc();
        source.left -= burst.len() as u64;
        for packet in burst.iter_mut() {
            if !self.sizes.is_empty() {
                packet.truncate(usize::from(self.sizes[self.turn]));
                self.turn = (self.turn + 1) % self.sizes.len();
            }
            let flow = source.take();
            let frame = packet.bytes_mut();
            stamp(frame, self.macs[port], flow);
            finish(frame, flow);
        }
        self.ticks.stamp += tsc() - received;
        self.ticks.readings += 2;
        if self.tells_driver {
            self.ticks.driver += received - before;
            self.ticks.readings += 1;
        }
        burst.is_full()
    }

    fn transmit(&mut self, port: usize, burst: &mut Burst<DpdkPacket>) {
        if !self.learned.is_empty() {
            self.learn(burst);
        }
        self.count_sent(port, burst);
        let before = if self.tells_driver { tsc() } else { 0 };
        let mut mbufs: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        mbufs.extend(burst.drain(..).map(Mbuf::from));
        self.sent += self.tx[port].transmit(&mut mbufs) as u64;
        burst.extend(mbufs.drain(..).map(DpdkPacket::from));
        if self.tells_driver {
            self.ticks.driver += tsc() - before;
            self.ticks.readings += 2;
        }
    }

    fn hand_off(&mut self, worker: u16, burst: &mut Burst<DpdkPacket>) {
        let mut mbufs: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        mbufs.extend(burst.drain(..).map(Mbuf::from));
        self.rings.producers[usize::from(worker)].push_burst(&mut mbufs);
        burst.extend(mbufs.drain(..).map(DpdkPacket::from));
    }

    fn take_handed(&mut self, burst: &mut Burst<DpdkPacket>) {
        if self.rings.producers.len() > 1 {
            let mut mbufs: ArrayVec<Mbuf, BURST> = ArrayVec::new();
            self.rings.consumer.pop_burst(&mut mbufs);
            burst.extend(mbufs.drain(..).map(DpdkPacket::from));
        }
    }

    fn free(&mut self, burst: &mut Burst<DpdkPacket>) {
        let mut mbufs: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        mbufs.extend(burst.drain(..).map(Mbuf::from));
        Mbuf::free_burst(&mut mbufs);
    }

    fn allocate(&mut self) -> Option<DpdkPacket> {
        self.pool.alloc().map(DpdkPacket::from)
    }

    #[inline]
    fn will_read<T>(place: &T) {
        if HINTS {
            dpdk::will_read(place);
        }
    }

    #[inline]
    fn will_write<T>(place: &T) {
        if HINTS {
            dpdk::will_write(place);
        }
    }
}
