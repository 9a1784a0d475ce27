//! Packets of a worker over DPDK: the one file that joins `cgnat-core` and `dpdk`.
//!
//! A worker has a receive queue of each port that has enough of them, and a transmit queue
//! likewise. Where a device has fewer transmit queues than workers, those without one send
//! through a bounded relay ring to the worker that has one; a full ring is a full queue.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use cgnat_core::time::Instant;
use cgnat_core::worker::io::{BURST, Burst, NOTE_BYTES, PacketBuf, PacketIo};
use dpdk::{Mbuf, Mempool, RingConsumer, RingProducer, RxQueue, TxQueue};

use super::replay::Replay;
use super::trunk::Trunk;

/// Where the time of a packet's capture stands beside it, behind the note.
const CAPTURE_TIME: Range<usize> = NOTE_BYTES..NOTE_BYTES + 8;

const _: () = assert!(CAPTURE_TIME.end <= super::plan::PRIVATE as usize);

/// A packet buffer of DPDK as the core sees it: no more than the pointer, so that a burst of
/// them is a burst of DPDK's.
#[repr(transparent)]
pub struct DpdkPacket(Mbuf);

impl From<Mbuf> for DpdkPacket {
    #[inline]
    fn from(mbuf: Mbuf) -> Self {
        Self(mbuf)
    }
}

impl From<DpdkPacket> for Mbuf {
    #[inline]
    fn from(packet: DpdkPacket) -> Self {
        packet.0
    }
}

impl DpdkPacket {
    /// A packet of a replay with the time of its capture.
    pub(super) fn captured(mut mbuf: Mbuf, at: Instant) -> Self {
        mbuf.private_mut()[CAPTURE_TIME].copy_from_slice(&at.nanos().to_le_bytes());
        Self(mbuf)
    }
}

impl PacketBuf for DpdkPacket {
    fn bytes(&self) -> &[u8] {
        self.0.data()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.data_mut()
    }

    fn is_whole(&self) -> bool {
        self.0.segments() == 1
    }

    fn frame_len(&self) -> usize {
        self.0.len()
    }

    fn join(&mut self) -> bool {
        self.0.linearize()
    }

    fn cut_front(&mut self, n: usize) {
        let cut = self.0.adj(n as u16);
        debug_assert!(cut, "{n} bytes are cut off a shorter frame");
    }

    fn grow_front(&mut self, n: usize) -> bool {
        self.0.prepend(n as u16)
    }

    fn grow_back(&mut self, n: usize) -> bool {
        self.0.append(n as u16).is_some()
    }

    fn truncate(&mut self, len: usize) {
        let cut = self.0.trim_to(len);
        debug_assert!(cut, "a frame is cut to more than its length");
    }

    fn fill(&mut self, len: usize) -> bool {
        self.0.trim_to(0) && self.0.append(len as u16).is_some()
    }

    fn note(&mut self) -> &mut [u8; NOTE_BYTES] {
        match self.0.private_mut().first_chunk_mut() {
            Some(note) => note,
            None => unreachable!("pools are made with room for a note"),
        }
    }

    fn prefetch(&self) {
        self.0.prefetch();
    }

    fn prefetch_note(&self) {
        self.0.prefetch_header();
    }

    fn captured_at(&self) -> Option<Instant> {
        let nanos = self.0.private()[CAPTURE_TIME].first_chunk()?;
        Some(Instant::from_nanos(u64::from_le_bytes(*nanos)))
    }
}

/// How a worker sends out of one port.
#[allow(clippy::large_enum_variant)] // One per port and worker, never moved in the loop.
pub enum Transmit {
    /// By a queue of its own; others may relay through it.
    Queue(TxQueue, Option<Relay>),
    /// Through the worker that has a queue.
    Relayed(RingProducer),
    /// As this port, which is on the same device.
    Beside(usize),
}

/// What other workers want to have sent.
pub struct Relay {
    ring: RingConsumer,
    /// Taken from the ring, not taken by the queue yet: the ring fills up behind it.
    waiting: ArrayVec<Mbuf, BURST>,
}

impl Relay {
    /// A relay that takes from `ring`.
    pub fn new(ring: RingConsumer) -> Self {
        Self { ring, waiting: ArrayVec::new() }
    }
}

/// One worker's packets.
pub struct DpdkIo {
    /// By port; `None` where another worker receives, or a trunk has the queue.
    pub receive: Vec<Option<RxQueue>>,
    /// Queues of devices that several ports share.
    pub trunks: Vec<Trunk>,
    /// By port.
    pub transmit: Vec<Transmit>,
    /// Rings of the workers, by worker; the own one is not used.
    pub rings: Vec<RingProducer>,
    /// What is for the kernel, by port that has an interface there.
    pub to_kernel: Vec<Option<RingProducer>>,
    /// Own ring.
    pub ring: RingConsumer,
    /// Packet buffers.
    pub pool: Mempool,
    /// Captures being replayed, for the worker that receives them.
    pub replay: Option<Replay>,
    /// Nothing is received before the gate opens: no packet meets a half-built box.
    pub gate: Arc<AtomicBool>,
}

impl DpdkIo {
    /// Whether a ring between workers is more than half full. A capture can wait; a wire
    /// could not.
    fn is_congested(&self) -> bool {
        let half = |ring: &dpdk::MbufRing| ring.count() > ring.capacity() / 2;
        self.rings.iter().any(|ring| half(ring.ring()))
            || self.transmit.iter().any(|transmit| match transmit {
                Transmit::Queue(_, Some(relay)) => half(relay.ring.ring()),
                Transmit::Queue(_, None) | Transmit::Beside(_) => false,
                Transmit::Relayed(ring) => half(ring.ring()),
            })
    }

    /// Sends what other workers have put into the relay of a port, and what a bond has to say.
    fn pump(&mut self, port: usize) {
        let Transmit::Queue(queue, relay) = &mut self.transmit[port] else { return };
        queue.tend();
        if let Some(relay) = relay {
            if relay.waiting.is_empty() {
                relay.ring.pop_burst(&mut relay.waiting);
            }
            if !relay.waiting.is_empty() {
                queue.transmit(&mut relay.waiting);
            }
        }
    }
}

impl PacketIo for DpdkIo {
    type Packet = DpdkPacket;

    fn receive(&mut self, port: usize, burst: &mut Burst<DpdkPacket>) -> bool {
        self.pump(port);
        if !self.gate.load(Ordering::Acquire) {
            return false;
        }
        if self.replay.is_some() && self.is_congested() {
            return false;
        }
        if let Some(replay) = &mut self.replay {
            replay.receive(port, &mut self.receive, burst);
        } else if let Some(queue) = &mut self.receive[port] {
            let mut mbufs: ArrayVec<Mbuf, BURST> = ArrayVec::new();
            queue.receive(&mut mbufs);
            burst.extend(mbufs.drain(..).map(DpdkPacket));
        } else if let Some(trunk) = self.trunks.iter_mut().find(|trunk| trunk.has(port)) {
            return trunk.receive(port, burst);
        }
        burst.is_full()
    }

    fn transmit(&mut self, port: usize, burst: &mut Burst<DpdkPacket>) {
        let port = match &self.transmit[port] {
            Transmit::Beside(first) => *first,
            Transmit::Queue(..) | Transmit::Relayed(_) => port,
        };
        let sender = &mut self.transmit[port];
        through(burst, |mbufs| match sender {
            Transmit::Queue(queue, _) => queue.transmit(mbufs),
            Transmit::Relayed(ring) => ring.push_burst(mbufs),
            Transmit::Beside(_) => unreachable!("ports are beside one that opens the device"),
        });
    }

    fn hand_off(&mut self, worker: u16, burst: &mut Burst<DpdkPacket>) {
        let ring = &self.rings[usize::from(worker)];
        through(burst, |mbufs| ring.push_burst(mbufs));
    }

    fn take_handed(&mut self, burst: &mut Burst<DpdkPacket>) {
        let mut mbufs: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        self.ring.pop_burst(&mut mbufs);
        burst.extend(mbufs.drain(..).map(DpdkPacket));
    }

    fn free(&mut self, burst: &mut Burst<DpdkPacket>) {
        through(burst, |mbufs| {
            Mbuf::free_burst(mbufs);
            0
        });
    }

    fn to_kernel(&mut self, port: usize, packet: DpdkPacket) -> Result<(), DpdkPacket> {
        let Some(ring) = &self.to_kernel[port] else { return Err(packet) };
        let mut one = ArrayVec::<Mbuf, 1>::new();
        one.push(packet.0);
        ring.push_burst(&mut one);
        one.pop().map_or(Ok(()), |left| Err(DpdkPacket(left)))
    }

    fn allocate(&mut self) -> Option<DpdkPacket> {
        self.pool.alloc().map(DpdkPacket)
    }

    #[inline]
    fn will_read<T>(place: &T) {
        dpdk::will_read(place);
    }

    #[inline]
    fn will_write<T>(place: &T) {
        dpdk::will_write(place);
    }
}

/// Passes the packet buffers of `burst` to `send`; what it does not take stays in `burst`.
fn through(burst: &mut Burst<DpdkPacket>, send: impl FnOnce(&mut ArrayVec<Mbuf, BURST>) -> usize) {
    let mut mbufs: ArrayVec<Mbuf, BURST> = ArrayVec::new();
    mbufs.extend(burst.drain(..).map(Mbuf::from));
    send(&mut mbufs);
    burst.extend(mbufs.drain(..).map(DpdkPacket));
}
