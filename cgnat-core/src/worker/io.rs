//! What a worker needs from the world: packets in and out. The consumer defines the trait;
//! the program implements it over DPDK, the tests in memory.

use arrayvec::ArrayVec;

use crate::time::Instant;

/// Packets that move in one call.
pub const BURST: usize = 32;

/// A burst of packets.
pub type Burst<P> = ArrayVec<P, BURST>;

/// Bytes of room beside a packet for the hand-over note.
pub const NOTE_BYTES: usize = 32;

/// One packet: a frame, owned. Dropping it frees its buffers. A worker joins what arrives in
/// several pieces before it looks at it; everything else has to do with one piece only.
pub trait PacketBuf {
    /// The frame; its first piece if it is not joined yet.
    fn bytes(&self) -> &[u8];

    /// The frame, to be changed.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Whether the whole frame is in [`PacketBuf::bytes`].
    fn is_whole(&self) -> bool;

    /// Bytes of the frame, all pieces together.
    fn frame_len(&self) -> usize;

    /// Makes one piece of the frame. False, and nothing changed, if a buffer does not hold it.
    fn join(&mut self) -> bool;

    /// Cuts `n` bytes off the front; `n` is at most the length.
    fn cut_front(&mut self, n: usize);

    /// Makes room for `n` more bytes at the front, contents undefined; false if there is
    /// none, and then nothing changed.
    fn grow_front(&mut self, n: usize) -> bool;

    /// Makes room for `n` more bytes at the end, contents undefined; false if there is none,
    /// and then nothing changed.
    fn grow_back(&mut self, n: usize) -> bool;

    /// Cuts the frame to `len` bytes; `len` is at most the length.
    fn truncate(&mut self, len: usize);

    /// Sets the length of an empty frame to `len` bytes of zero; false if it does not fit.
    fn fill(&mut self, len: usize) -> bool;

    /// Room beside the packet that travels with it.
    fn note(&mut self) -> &mut [u8; NOTE_BYTES];

    /// When the frame was captured. Asked in a replay only, of what was received there.
    fn captured_at(&self) -> Option<Instant>;

    /// Asks the CPU for the first bytes, which will be read soon. Nothing else comes of it.
    #[inline]
    fn prefetch(&self) {}

    /// Likewise for what describes the packet, and for its note.
    #[inline]
    fn prefetch_note(&self) {}
}

/// Ports and hand-off rings as one worker sees them.
pub trait PacketIo {
    /// What a packet is.
    type Packet: PacketBuf;

    /// Receives into an empty `burst` from a port; whether its queue gave as much as it was asked
    /// for, so that there may be more.
    fn receive(&mut self, port: usize, burst: &mut Burst<Self::Packet>) -> bool;

    /// Sends from the front of `burst`; what the queue did not take stays in it, in order.
    fn transmit(&mut self, port: usize, burst: &mut Burst<Self::Packet>);

    /// Hands to another worker from the front of `burst`; what the ring did not take stays.
    fn hand_off(&mut self, worker: u16, burst: &mut Burst<Self::Packet>);

    /// Takes what other workers handed to this one into an empty `burst`.
    fn take_handed(&mut self, burst: &mut Burst<Self::Packet>);

    /// Drops all of `burst`.
    fn free(&mut self, burst: &mut Burst<Self::Packet>) {
        burst.clear();
    }

    /// Gives a frame that arrived at a port to the kernel.
    ///
    /// # Errors
    /// The frame, if there is no room, or no kernel, as in most tests.
    fn to_kernel(&mut self, _port: usize, packet: Self::Packet) -> Result<(), Self::Packet> {
        Err(packet)
    }

    /// An empty packet; `None` when there is no buffer.
    fn allocate(&mut self) -> Option<Self::Packet>;

    /// Asks the CPU for the cache line of `place`, which will be read soon. Nothing else comes
    /// of it.
    #[inline]
    fn will_read<T>(_place: &T) {}

    /// Likewise, of a line that will be written.
    #[inline]
    fn will_write<T>(_place: &T) {}
}
