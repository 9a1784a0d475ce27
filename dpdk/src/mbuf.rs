//! One packet in a DPDK buffer.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, size_of};
use std::ptr::NonNull;
use std::slice;

use arrayvec::ArrayVec;
use dpdk_sys::rte_mbuf;

use crate::TimestampField;
use crate::queue::forget_first;

/// An owned packet.
///
/// Dropping it returns the buffers to their pool, from any thread. Most packets are one
/// segment; [`Mbuf::data`] is the first one, where the headers are.
///
/// ```text
/// | headroom |  data (len)  | tailroom |        beside it: private()
/// ```
///
/// It moves between threads, but is not shared:
///
/// ```compile_fail,E0277
/// fn share<T: Sync>() {}
/// share::<dpdk::Mbuf>();
/// ```
///
/// ```
/// fn send<T: Send>() {}
/// send::<dpdk::Mbuf>();
/// ```
///
/// and has one owner:
///
/// ```compile_fail,E0599
/// fn twice(packet: dpdk::Mbuf) -> (dpdk::Mbuf, dpdk::Mbuf) { (packet.clone(), packet) }
/// ```
// Invariants: the pointer is to a live buffer, and the chain it heads has no other owner
// (reference count 1 throughout), so reading and writing through it is exclusive.
#[repr(transparent)]
#[derive(Debug)]
pub struct Mbuf(NonNull<rte_mbuf>, PhantomData<Cell<()>>);

// SAFETY: a buffer belongs to no thread, and its pool takes it back from any thread.
unsafe impl Send for Mbuf {}

// Bursts of `Mbuf` are handed to C as arrays of pointers.
const _: () = assert!(size_of::<Mbuf>() == size_of::<*mut rte_mbuf>());
const _: () = assert!(size_of::<Option<Mbuf>>() == size_of::<*mut rte_mbuf>());

impl Mbuf {
    /// Bytes in front of the data of a fresh or received packet.
    pub const HEADROOM: u16 = dpdk_sys::DPDK_MBUF_HEADROOM;

    /// Takes over a buffer from DPDK.
    ///
    /// # Safety
    /// `raw` heads a valid chain of buffers that nobody else owns.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: NonNull<rte_mbuf>) -> Self {
        Self(raw, PhantomData)
    }

    #[inline]
    fn raw(&self) -> &rte_mbuf {
        // SAFETY: the type's invariant: alive and exclusively ours.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    fn raw_mut(&mut self) -> &mut rte_mbuf {
        // SAFETY: the type's invariant, and `&mut self` makes this the only access.
        unsafe { self.0.as_mut() }
    }

    /// The first segment's bytes: the whole packet if [`Mbuf::segments`] is 1.
    #[inline]
    pub fn data(&self) -> &[u8] {
        segment_bytes(self.raw())
    }

    /// The first segment's bytes, to change.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let raw = self.raw();
        let (start, len) = (segment_start(raw), usize::from(raw.data_len));
        // SAFETY: as in `segment_bytes`; `&mut self` makes this the only access.
        unsafe { slice::from_raw_parts_mut(start, len) }
    }

    /// Bytes of the packet, all segments together.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a packet is no collection")]
    pub fn len(&self) -> usize {
        self.raw().pkt_len as usize
    }

    /// Number of segments, at least 1.
    #[inline]
    pub fn segments(&self) -> u16 {
        self.raw().nb_segs
    }

    /// The bytes of each segment in order.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let mut next = Some(self.raw());
        std::iter::from_fn(move || {
            let segment = next?;
            // SAFETY: `next` is null or a live segment of the chain that `self` owns and
            // that the returned iterator borrows.
            next = unsafe { segment.next.as_ref() };
            Some(segment_bytes(segment))
        })
    }

    /// Puts the segments of `tail` behind those of this packet, as drivers do with a frame that
    /// is larger than a buffer. Gives `tail` back, and nothing changed, if there were too many.
    pub fn chain(&mut self, tail: Self) -> Result<(), Self> {
        let tail = ManuallyDrop::new(tail);
        // SAFETY: two valid chains, both exclusively ours; `&mut self` and the owned `tail` make
        // them different ones.
        let code = unsafe { dpdk_sys::rte_pktmbuf_chain(self.0.as_ptr(), tail.0.as_ptr()) };
        // Now part of this chain, or still a packet of its own.
        if code == 0 { Ok(()) } else { Err(ManuallyDrop::into_inner(tail)) }
    }

    /// Joins the segments to one. False, and nothing changed, if the first segment has too
    /// little tailroom.
    #[must_use]
    pub fn linearize(&mut self) -> bool {
        // SAFETY: a valid chain, exclusively ours.
        unsafe { dpdk_sys::rte_pktmbuf_linearize(self.0.as_ptr()) == 0 }
    }

    /// Returns the buffers of all packets of `burst` to their pools at once.
    #[inline]
    pub fn free_burst<const N: usize>(burst: &mut ArrayVec<Self, N>) {
        let (packets, count) = (burst.as_mut_ptr().cast::<*mut rte_mbuf>(), burst.len() as u32);
        // SAFETY: `count` live chains without another owner, given up here: they are forgotten below.
        unsafe { dpdk_sys::rte_pktmbuf_free_bulk(packets, count) };
        forget_first(burst, count as usize);
    }

    /// Bytes that [`Mbuf::prepend`] can add.
    #[inline]
    pub fn headroom(&self) -> u16 {
        self.raw().data_off
    }

    /// Bytes that [`Mbuf::append`] can add.
    #[inline]
    pub fn tailroom(&self) -> u16 {
        segment_tailroom(self.last())
    }

    /// Grows the packet by `n` bytes at its front. False, and nothing changed, without that
    /// much headroom. The new bytes hold whatever was there: write them.
    #[inline]
    #[must_use]
    pub fn prepend(&mut self, n: u16) -> bool {
        let raw = self.raw_mut();
        let (Some(data_off), Some(data_len), Some(pkt_len)) = (
            raw.data_off.checked_sub(n),
            raw.data_len.checked_add(n),
            raw.pkt_len.checked_add(u32::from(n)),
        ) else {
            return false;
        };
        (raw.data_off, raw.data_len, raw.pkt_len) = (data_off, data_len, pkt_len);
        true
    }

    /// Cuts `n` bytes off the front. False, and nothing changed, if the first segment is
    /// shorter.
    #[inline]
    #[must_use]
    pub fn adj(&mut self, n: u16) -> bool {
        let raw = self.raw_mut();
        let Some(data_len) = raw.data_len.checked_sub(n) else { return false };
        raw.data_len = data_len;
        raw.data_off += n;
        raw.pkt_len -= u32::from(n);
        true
    }

    /// Grows the packet by `n` zero bytes at its end and returns them. Nothing, and nothing
    /// changed, without that much tailroom.
    pub fn append(&mut self, n: u16) -> Option<&mut [u8]> {
        if n > self.tailroom() {
            return None;
        }
        let pkt_len = self.raw().pkt_len.checked_add(u32::from(n))?;
        let mut last = NonNull::from(self.last());
        self.raw_mut().pkt_len = pkt_len;
        // SAFETY: the last segment of our chain, alive and exclusively ours; the borrow of
        // the first one has ended.
        let last = unsafe { last.as_mut() };
        let end = segment_start(last).wrapping_add(usize::from(last.data_len));
        last.data_len += n;
        // SAFETY: the bytes from `end` are the segment's tailroom, of which `n` are known to
        // be there; `&mut self` makes this the only access. DPDK's memory is mapped from
        // zero pages, so it is initialised whatever it holds.
        let added = unsafe { slice::from_raw_parts_mut(end, usize::from(n)) };
        added.fill(0);
        Some(added)
    }

    /// Cuts the end off so that `len` bytes remain. False, and nothing changed, if the packet
    /// is shorter, or if more than the last segment would have to go.
    #[inline]
    #[must_use]
    pub fn trim_to(&mut self, len: usize) -> bool {
        let raw = self.raw_mut();
        let Some(excess) = (raw.pkt_len as usize).checked_sub(len) else { return false };
        if raw.nb_segs == 1 {
            raw.data_len = len as u16;
            raw.pkt_len = len as u32;
            return true;
        }
        let Ok(excess) = u16::try_from(excess) else { return false };
        // SAFETY: a valid chain, exclusively ours.
        unsafe { dpdk_sys::rte_pktmbuf_trim(self.0.as_ptr(), excess) == 0 }
    }

    /// The program's own bytes beside the packet, as many as the pool was made with, aligned
    /// to 64. They hold what the buffer's last user left.
    #[inline]
    pub fn private(&self) -> &[u8] {
        let (start, len) = self.private_area();
        // SAFETY: the pool put `priv_size` bytes directly behind the rte_mbuf; they are
        // mapped memory of this buffer, which is ours.
        unsafe { slice::from_raw_parts(start, len) }
    }

    /// The program's own bytes, to change; see [`Mbuf::private`].
    #[inline]
    pub fn private_mut(&mut self) -> &mut [u8] {
        let (start, len) = self.private_area();
        // SAFETY: as in `private`; `&mut self` makes this the only access.
        unsafe { slice::from_raw_parts_mut(start, len) }
    }

    #[inline]
    fn private_area(&self) -> (*mut u8, usize) {
        let start = self.0.as_ptr().wrapping_add(1).cast::<u8>();
        (start, usize::from(self.raw().priv_size))
    }

    /// The NIC's RSS hash, if it gave one.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        let raw = self.raw();
        (raw.ol_flags & dpdk_sys::DPDK_MBUF_F_RX_RSS_HASH != 0).then(|| raw.rss_hash())
    }

    /// When the packet was received or captured, in nanoseconds of the port's time, if the
    /// driver stamped it.
    #[inline]
    pub fn timestamp_ns(&self, field: &TimestampField) -> Option<u64> {
        if self.raw().ol_flags & field.flag == 0 {
            return None;
        }
        let stamp = self.0.as_ptr().cast::<u8>().wrapping_add(field.offset).cast::<u64>();
        // SAFETY: DPDK gave the offset: 8 aligned bytes reserved for this inside rte_mbuf
        // (`TimestampField` checked it).
        let ticks = unsafe { stamp.read() };
        Some(ticks.wrapping_mul(field.ns_per_tick))
    }

    /// The port that received the packet, in DPDK's numbering; 65535 for a fresh one.
    #[inline]
    pub fn port(&self) -> u16 {
        self.raw().port
    }

    /// Asks the CPU to fetch the first cache line of data. Use it for a whole burst before
    /// reading the first packet.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(segment_start(self.raw()).cast_const());
    }

    /// Asks the CPU to fetch the buffer's own lines and the private ones behind them. Use it for
    /// a whole burst that another core has written.
    #[inline]
    pub fn prefetch_header(&self) {
        let start = std::ptr::from_ref(self.raw()).cast::<u8>();
        for line in 0..=size_of::<rte_mbuf>() / 64 {
            prefetch(start.wrapping_add(64 * line));
        }
    }

    #[inline]
    fn last(&self) -> &rte_mbuf {
        let mut last = self.raw();
        // SAFETY: `next` is null or a live segment of the chain that `self` owns.
        while let Some(next) = unsafe { last.next.as_ref() } {
            last = next;
        }
        last
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the type's invariant: a live chain without another owner, given up here.
        unsafe { dpdk_sys::rte_pktmbuf_free(self.0.as_ptr()) }
    }
}

#[inline]
fn segment_start(segment: &rte_mbuf) -> *mut u8 {
    segment.buf_addr.cast::<u8>().wrapping_add(usize::from(segment.data_off))
}

#[inline]
fn segment_bytes(segment: &rte_mbuf) -> &[u8] {
    // SAFETY: DPDK and the methods above keep data_off + data_len <= buf_len, so these bytes
    // are in the segment's buffer, which lives and is not written as long as the borrow. The
    // memory was mapped from zero pages, so it is initialised.
    unsafe { slice::from_raw_parts(segment_start(segment), usize::from(segment.data_len)) }
}

#[inline]
fn segment_tailroom(segment: &rte_mbuf) -> u16 {
    segment.buf_len.saturating_sub(segment.data_off).saturating_sub(segment.data_len)
}
#[inline]
fn prefetch(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect a program can see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
