//! A bounded queue of packets between threads: many producers, one consumer, no locks.

use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::eal::{Eal, Instance};
use crate::errno::{EEXIST, ENOMEM, Errno};
use crate::names::{NameError, c_name};
use crate::queue::forget_first;
use crate::zone::Room;
use crate::{Mbuf, Socket, socket_id};

/// Largest ring: DPDK's sizes have 31 bits, and an exact size is rounded up.
const MOST_PACKETS: u32 = 1 << 30;

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// DPDK cannot take the name.
    #[error("ring: {0}")]
    Name(#[from] NameError),
    /// The capacity is out of range.
    #[error("ring {name:?}: capacity {capacity} must be between 1 and {MOST_PACKETS}")]
    Capacity {
        /// The ring's name.
        name: String,
        /// The capacity asked for.
        capacity: u32,
    },
    /// The name is taken.
    #[error("ring {name:?} exists already")]
    Exists {
        /// The ring's name.
        name: String,
    },
    /// The EAL's memory is used up.
    #[error(
        "ring {name:?} of {capacity} packets: {room}; raise the EAL's memory option or make \
         rings smaller"
    )]
    NoMemory {
        /// The ring's name.
        name: String,
        /// The capacity asked for.
        capacity: u32,
        /// What the EAL has left.
        room: Room,
    },
    /// `rte_ring_create` failed otherwise.
    #[error("rte_ring_create of {name:?}: {errno}")]
    Create {
        /// The ring's name.
        name: String,
        /// What `rte_errno` was.
        errno: Errno,
    },
}

/// The ring itself: what its handles share.
///
/// When the last handle is dropped, packets still inside are freed.
#[derive(Debug)]
pub struct MbufRing {
    raw: NonNull<dpdk_sys::rte_ring>,
    name: String,
    capacity: u32,
    /// Keeps DPDK's memory mapped; dropped after `raw` was freed.
    _instance: Arc<Instance>,
}

// SAFETY: a ring belongs to no thread. It is made for many producers; dequeuing happens only
// through the unique consumer, or in `drop` when no handle is left.
unsafe impl Send for MbufRing {}
// SAFETY: as above.
unsafe impl Sync for MbufRing {}

/// Puts packets into a ring. Clone one for each producing thread.
#[derive(Clone, Debug)]
pub struct RingProducer(Arc<MbufRing>);

/// Takes packets out of a ring. Unique, used by one thread at a time.
///
/// ```compile_fail,E0599
/// fn twice(consumer: dpdk::RingConsumer) { let again = consumer.clone(); }
/// ```
///
/// ```compile_fail,E0277
/// fn share<T: Sync>() {}
/// share::<dpdk::RingConsumer>();
/// ```
#[derive(Debug)]
pub struct RingConsumer {
    ring: Arc<MbufRing>,
    _not_sync: PhantomData<Cell<()>>,
}

impl MbufRing {
    /// Makes a ring for exactly `capacity` packets. `name` has at most 28 bytes and is
    /// unique in the process.
    pub fn create(
        eal: &Eal,
        name: &str,
        capacity: u32,
        socket: Socket,
    ) -> Result<(RingProducer, RingConsumer), RingError> {
        let c_name = c_name(name, dpdk_sys::DPDK_RING_NAME_SIZE)?;
        let name = name.to_owned();
        if !(1..=MOST_PACKETS).contains(&capacity) {
            return Err(RingError::Capacity { name, capacity });
        }
        let flags = dpdk_sys::DPDK_RING_F_SC_DEQ | dpdk_sys::DPDK_RING_F_EXACT_SZ;
        // SAFETY: the EAL is up; the name is NUL-terminated and copied.
        let raw = unsafe {
            dpdk_sys::rte_ring_create(c_name.as_ptr(), capacity, socket_id(socket), flags)
        };
        let Some(raw) = NonNull::new(raw) else {
            let errno = Errno::last();
            return Err(match errno.number() {
                EEXIST => RingError::Exists { name },
                ENOMEM => RingError::NoMemory { name, capacity, room: Room::on(socket) },
                _ => RingError::Create { name, errno },
            });
        };
        let instance = Arc::clone(eal.instance());
        let ring = Arc::new(Self { raw, name, capacity, _instance: instance });
        let consumer = RingConsumer { ring: Arc::clone(&ring), _not_sync: PhantomData };
        Ok((RingProducer(ring), consumer))
    }

    /// The ring's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Most packets it holds.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Packets in it now; an estimate while others use it.
    #[inline]
    pub fn count(&self) -> u32 {
        // SAFETY: the ring lives as long as `self`; counting is allowed from any thread.
        unsafe { dpdk_sys::rte_ring_count(self.raw.as_ptr()) }
    }

    /// # Safety
    /// No other thread may dequeue from this ring meanwhile.
    #[inline]
    unsafe fn dequeue<const N: usize>(&self, burst: &mut ArrayVec<Mbuf, N>) -> usize {
        let held = burst.len();
        let room = (N - held) as u32;
        let free = burst.as_mut_ptr().wrapping_add(held).cast::<*mut c_void>();
        // SAFETY: the caller is the single consumer. `free` points at `room` unused elements
        // of pointer size.
        let count = unsafe {
            dpdk_sys::rte_ring_sc_dequeue_burst(self.raw.as_ptr(), free, room, null_mut())
        };
        // SAFETY: the first `count` elements now hold pointers that `push_burst` took out of
        // `Mbuf`s, with their ownership.
        unsafe { burst.set_len(held + count as usize) };
        count as usize
    }
}

impl Drop for MbufRing {
    fn drop(&mut self) {
        let mut left = ArrayVec::<Mbuf, 64>::new();
        // SAFETY: the consumer held an `Arc` to this ring, so it is gone.
        while unsafe { self.dequeue(&mut left) } != 0 {
            left.clear();
        }
        // SAFETY: no handle is left and the ring is empty.
        unsafe { dpdk_sys::rte_ring_free(self.raw.as_ptr()) }
    }
}

impl RingProducer {
    /// Puts packets in, in order, as many as fit; returns how many. The rest stays in
    /// `burst`, in order: count it and drop it, or try later.
    #[inline]
    pub fn push_burst<const N: usize>(&self, burst: &mut ArrayVec<Mbuf, N>) -> usize {
        let packets = burst.as_ptr().cast::<*mut c_void>();
        // SAFETY: the ring lives as long as `self` and takes producers from any thread.
        // `packets` points at `burst.len()` pointers; the ring owns those it counts and they
        // are forgotten below.
        let pushed = unsafe {
            dpdk_sys::rte_ring_mp_enqueue_burst(
                self.0.raw.as_ptr(),
                packets,
                burst.len() as u32,
                null_mut(),
            )
        };
        forget_first(burst, pushed as usize);
        pushed as usize
    }

    /// The ring, for its name and fill.
    pub fn ring(&self) -> &MbufRing {
        &self.0
    }
}

impl RingConsumer {
    /// Appends packets to `burst`, oldest first, until it is full or the ring is empty;
    /// returns how many.
    #[inline]
    pub fn pop_burst<const N: usize>(&mut self, burst: &mut ArrayVec<Mbuf, N>) -> usize {
        // SAFETY: a ring has one consumer, and `&mut self` makes this its only call.
        unsafe { self.ring.dequeue(burst) }
    }

    /// The ring, for its name and fill.
    pub fn ring(&self) -> &MbufRing {
        &self.ring
    }
}
