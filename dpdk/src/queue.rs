//! The two ends of a running port's queues.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;

use arrayvec::ArrayVec;
use dpdk_sys::rte_mbuf;

use crate::{Mbuf, Port};

/// A receive queue. Unique, used by one thread at a time; keeps its port running.
///
/// ```compile_fail,E0599
/// fn twice(queue: dpdk::RxQueue) { let again = queue.clone(); }
/// ```
///
/// ```compile_fail,E0277
/// fn share<T: Sync>() {}
/// share::<dpdk::RxQueue>();
/// ```
#[derive(Debug)]
pub struct RxQueue {
    port: Arc<Port>,
    queue: u16,
    _not_sync: PhantomData<Cell<()>>,
}

/// A transmit queue. Unique, used by one thread at a time; keeps its port running.
///
/// ```compile_fail,E0599
/// fn twice(queue: dpdk::TxQueue) { let again = queue.clone(); }
/// ```
///
/// ```compile_fail,E0277
/// fn share<T: Sync>() {}
/// share::<dpdk::TxQueue>();
/// ```
#[derive(Debug)]
pub struct TxQueue {
    port: Arc<Port>,
    queue: u16,
    _not_sync: PhantomData<Cell<()>>,
}

impl RxQueue {
    /// `port` must be started with more than `queue` receive queues, and each number given
    /// to one handle.
    pub(crate) fn new(port: Arc<Port>, queue: u16) -> Self {
        Self { port, queue, _not_sync: PhantomData }
    }

    /// Appends waiting packets to `burst` until it is full or none is left, without waiting;
    /// returns how many. Offer room for 32: some drivers give packets only in groups.
    #[inline]
    pub fn receive<const N: usize>(&mut self, burst: &mut ArrayVec<Mbuf, N>) -> usize {
        let held = burst.len();
        let room = (N - held).min(usize::from(u16::MAX)) as u16;
        let free = burst.as_mut_ptr().wrapping_add(held).cast::<*mut rte_mbuf>();
        // SAFETY: the port runs as long as `self.port` is held and has this queue; `&mut`
        // and uniqueness make this the only caller for it. `free` points at `room` unused
        // elements, and `Mbuf` is layout-compatible with a pointer to rte_mbuf.
        let count = unsafe { dpdk_sys::rte_eth_rx_burst(self.port.id(), self.queue, free, room) };
        let count = usize::from(count);
        // SAFETY: the driver wrote `count` <= `room` buffers and gave them to us alone.
        unsafe { burst.set_len(held + count) };
        count
    }

    /// The queue's number in its port.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// The port it belongs to.
    pub fn port(&self) -> &Port {
        &self.port
    }
}

impl TxQueue {
    /// `port` must be started with more than `queue` transmit queues, and each number given
    /// to one handle.
    pub(crate) fn new(port: Arc<Port>, queue: u16) -> Self {
        Self { port, queue, _not_sync: PhantomData }
    }

    /// Hands packets to the driver in order, as many as it takes; returns how many. The rest
    /// stays in `burst`, in order: try again or drop it.
    #[inline]
    pub fn transmit<const N: usize>(&mut self, burst: &mut ArrayVec<Mbuf, N>) -> usize {
        let offered = burst.len().min(usize::from(u16::MAX)) as u16;
        let packets = burst.as_mut_ptr().cast::<*mut rte_mbuf>();
        // SAFETY: the port runs as long as `self.port` is held and has this queue; `&mut`
        // and uniqueness make this the only caller for it. `packets` points at `offered`
        // valid buffers; the driver owns those it counts and they are forgotten below.
        let sent =
            unsafe { dpdk_sys::rte_eth_tx_burst(self.port.id(), self.queue, packets, offered) };
        forget_first(burst, usize::from(sent));
        usize::from(sent)
    }

    /// Lets a bond with LACP send what its partner is to hear; does nothing on any other port. To be
    /// called at least ten times a second, whatever else is sent.
    #[inline]
    pub fn tend(&mut self) {
        if self.port.speaks_lacp() {
            self.transmit(&mut ArrayVec::<Mbuf, 1>::new());
        }
    }

    /// The queue's number in its port.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// The port it belongs to.
    pub fn port(&self) -> &Port {
        &self.port
    }
}

/// Removes packets that C has taken over, without freeing them.
#[inline]
pub(crate) fn forget_first<const N: usize>(burst: &mut ArrayVec<Mbuf, N>, count: usize) {
    burst.drain(..count).for_each(mem::forget);
}
