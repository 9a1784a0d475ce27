//! The safe door to DPDK.
//!
//! Everything a packet program needs from DPDK, and nothing that could break memory safety:
//!
//! ```text
//! Eal ──┬── Mempool ──► Mbuf (owned packet) ──┬──► TxQueue ──► PMD
//!       ├── Port ── start ──► RxQueue ──► Mbuf ┘
//!       ├── MbufRing: RingProducer ──► RingConsumer   (packets between threads)
//!       ├── Zone (zeroed memory, huge pages if the EAL has them)
//!       └── launch(lcore, closure) ──► LcoreHandle
//! ```
//!
//! What always holds:
//!
//! 1. DPDK's memory stays mapped as long as a handle or a packet exists. Every handle keeps
//!    the EAL alive; `rte_eal_cleanup` runs only when the last one goes, on the thread that
//!    initialised, with no lcore running and every packet buffer back in its pool. If any of
//!    this does not hold, the memory is left to the end of the process.
//! 2. An [`Mbuf`] has one owner. Dropping it, transmitting it or pushing it to a ring gives
//!    the buffer away exactly once.
//! 3. A queue handle exists once, is used from one thread at a time, and keeps its port
//!    running. A port stops when the last of its handles is dropped.
//! 4. Nothing unwinds into C.
//!
//! What it does not do: parse packets, know of translation, or support DPDK's secondary
//! processes.
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod affinity;
mod cache;
mod clock;
mod eal;
mod errno;
mod lcore;
mod log;
mod mbuf;
mod mempool;
mod names;
mod options;
mod port;
mod queue;
mod ring;
mod timestamp;
mod zone;

pub use affinity::{AffinityError, set_current_thread_affinity};
pub use cache::{will_read, will_write};
pub use clock::{Clock, tsc};
pub use eal::{Eal, EalError, dpdk_version};
pub use errno::Errno;
pub use lcore::{LcoreError, LcoreHandle};
pub use mbuf::Mbuf;
pub use mempool::{Mempool, MempoolConfig, MempoolError};
pub use names::NameError;
pub use options::{EalOptions, IovaMode, Lcore, LogLevel, OptionsError};
pub use port::{
    Answers, BondMode, MOST_MEMBERS, MemberState, Port, PortConfig, PortError, PortStats, Rss,
    RssAbilities, RssFields, RunningPort, StartedPort, soft_rss,
};
pub use queue::{RxQueue, TxQueue};
pub use ring::{MbufRing, RingConsumer, RingError, RingProducer};
pub use timestamp::TimestampField;
pub use zone::{Room, Zone, ZoneError};

/// A NUMA node; `None` lets DPDK choose.
pub type Socket = Option<u32>;

/// DPDK's spelling of a node: -1 is "any".
pub(crate) fn socket_id(socket: Socket) -> i32 {
    socket.map_or(-1, |node| i32::try_from(node).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_need_moves_between_threads_and_what_is_watched_is_shared() {
        fn moves<T: Send + 'static>() {}
        fn shared<T: Send + Sync + 'static>() {}
        moves::<Mbuf>();
        moves::<RxQueue>();
        moves::<TxQueue>();
        moves::<RingConsumer>();
        shared::<RingProducer>();
        shared::<Mempool>();
        shared::<RunningPort>();
        shared::<Zone>();
        shared::<Clock>();
        shared::<TimestampField>();
    }
}
