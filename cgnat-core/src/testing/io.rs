//! Ports and hand-off rings in memory.

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::time::Instant;
use crate::worker::io::{Burst, NOTE_BYTES, PacketBuf, PacketIo};

/// Free bytes before a frame.
const HEADROOM: usize = 64;

/// Packets that a hand-off ring holds.
const RING: usize = 1024;

/// A frame on the heap.
#[derive(Debug, Clone)]
pub struct MemoryPacket {
    buffer: Vec<u8>,
    start: usize,
    note: [u8; NOTE_BYTES],
    captured_at: Option<Instant>,
    /// What is not in `buffer` yet.
    rest: Vec<u8>,
    /// Whether the whole frame fits in one buffer.
    fits: bool,
}

impl MemoryPacket {
    /// A packet that holds `frame`.
    pub fn new(frame: &[u8]) -> Self {
        let mut buffer = vec![0xee; HEADROOM];
        buffer.extend_from_slice(frame);
        let (note, rest) = ([0; NOTE_BYTES], Vec::new());
        Self { buffer, start: HEADROOM, note, captured_at: None, rest, fits: true }
    }

    /// The same packet with a capture time.
    #[must_use]
    pub fn captured(mut self, at: Instant) -> Self {
        self.captured_at = Some(at);
        self
    }

    /// The same packet in pieces, of which the first has `first` bytes, at most all but one.
    #[must_use]
    pub fn in_pieces(mut self, first: usize) -> Self {
        self.rest = self.buffer.split_off(self.start + first);
        self
    }

    /// The frame, in pieces or not.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        [self.bytes(), &self.rest].concat()
    }

    /// The same packet in pieces, too long for one buffer.
    #[must_use]
    pub fn too_long(self) -> Self {
        Self { fits: false, ..self.in_pieces(0) }
    }
}

impl PacketBuf for MemoryPacket {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..]
    }

    fn is_whole(&self) -> bool {
        self.rest.is_empty()
    }

    fn frame_len(&self) -> usize {
        self.bytes().len() + self.rest.len()
    }

    fn join(&mut self) -> bool {
        if self.fits {
            self.buffer.append(&mut self.rest);
        }
        self.fits
    }

    fn cut_front(&mut self, n: usize) {
        self.start += n;
    }

    fn grow_front(&mut self, n: usize) -> bool {
        if n > self.start {
            return false;
        }
        self.start -= n;
        true
    }

    fn grow_back(&mut self, n: usize) -> bool {
        self.buffer.resize(self.buffer.len() + n, 0xee);
        true
    }

    fn truncate(&mut self, len: usize) {
        self.buffer.truncate(self.start + len);
    }

    fn fill(&mut self, len: usize) -> bool {
        self.buffer.truncate(self.start);
        self.buffer.resize(self.start + len, 0);
        true
    }

    fn note(&mut self) -> &mut [u8; NOTE_BYTES] {
        &mut self.note
    }

    fn captured_at(&self) -> Option<Instant> {
        self.captured_at
    }
}

/// One worker's view of ports and rings in memory.
pub struct MemoryIo {
    received: Vec<VecDeque<MemoryPacket>>,
    sent: Vec<VecDeque<MemoryPacket>>,
    /// What the kernel was given, by port.
    pub to_kernel: Vec<Vec<MemoryPacket>>,
    /// Frames that the kernel takes of each port before it is full.
    pub kernel_room: usize,
    rings: Vec<Sender<MemoryPacket>>,
    ring: Receiver<MemoryPacket>,
    /// Frames that each port's transmit queue takes before it is full.
    pub transmit_room: usize,
    /// Packets that can still be allocated.
    pub buffers: usize,
}

impl MemoryIo {
    /// The views of `workers` workers on `ports` ports, connected by rings.
    pub fn connected(workers: usize, ports: usize) -> Vec<MemoryIo> {
        let ends: Vec<_> = (0..workers).map(|_| bounded(RING)).collect();
        let rings: Vec<Sender<MemoryPacket>> = ends.iter().map(|(s, _)| s.clone()).collect();
        ends.into_iter()
            .map(|(_, ring)| MemoryIo {
                received: vec![VecDeque::new(); ports],
                sent: vec![VecDeque::new(); ports],
                to_kernel: vec![Vec::new(); ports],
                kernel_room: usize::MAX,
                rings: rings.clone(),
                ring,
                transmit_room: usize::MAX,
                buffers: usize::MAX,
            })
            .collect()
    }

    /// Lets a packet arrive at a port.
    pub fn arrive(&mut self, port: usize, packet: MemoryPacket) {
        self.received[port].push_back(packet);
    }

    /// Takes a frame that was sent out of a port.
    pub fn take_sent(&mut self, port: usize) -> Option<MemoryPacket> {
        self.sent[port].pop_front()
    }

    /// Puts a packet into the ring of a worker, bypassing all checks.
    ///
    /// # Panics
    /// If the ring is full.
    pub fn forge_handed(&self, worker: usize, packet: MemoryPacket) {
        self.rings[worker].try_send(packet).expect("room in the ring");
    }
}

impl PacketIo for MemoryIo {
    type Packet = MemoryPacket;

    fn receive(&mut self, port: usize, burst: &mut Burst<MemoryPacket>) -> bool {
        while !burst.is_full() {
            let Some(packet) = self.received[port].pop_front() else {
                return false;
            };
            burst.push(packet);
        }
        true
    }

    fn transmit(&mut self, port: usize, burst: &mut Burst<MemoryPacket>) {
        let room = self.transmit_room.saturating_sub(self.sent[port].len());
        let count = burst.len().min(room);
        self.sent[port].extend(burst.drain(..count));
    }

    fn hand_off(&mut self, worker: u16, burst: &mut Burst<MemoryPacket>) {
        while !burst.is_empty() {
            let packet = burst.remove(0);
            if let Err(error) = self.rings[usize::from(worker)].try_send(packet) {
                burst.insert(0, error.into_inner());
                return;
            }
        }
    }

    fn take_handed(&mut self, burst: &mut Burst<MemoryPacket>) {
        while !burst.is_full() {
            let Ok(packet) = self.ring.try_recv() else {
                return;
            };
            burst.push(packet);
        }
    }

    fn to_kernel(&mut self, port: usize, packet: MemoryPacket) -> Result<(), MemoryPacket> {
        let taken = &mut self.to_kernel[port];
        if taken.len() >= self.kernel_room {
            return Err(packet);
        }
        taken.push(packet);
        Ok(())
    }

    fn allocate(&mut self) -> Option<MemoryPacket> {
        self.buffers = self.buffers.checked_sub(1)?;
        Some(MemoryPacket::new(&[]))
    }
}
