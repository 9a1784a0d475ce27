//! Pools of packet buffers.

use std::ptr::NonNull;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::eal::{Eal, Instance};
use crate::errno::{EEXIST, ENOMEM, Errno};
use crate::names::{NameError, c_name};
use crate::zone::Room;
use crate::{Mbuf, Socket, socket_id};

/// The shape of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MempoolConfig {
    /// Number of buffers; 2ⁿ-1 uses memory best.
    pub count: u32,
    /// Buffers each lcore keeps at hand: 0 to 512, and at most two thirds of `count`. A pool
    /// needs as many more buffers as its lcores may keep.
    pub cache: u32,
    /// Bytes beside each buffer for the program, a multiple of 8; see [`Mbuf::private`].
    pub private_bytes: u16,
    /// Bytes for headroom ([`Mbuf::HEADROOM`]) and packet together; 2176 holds a 2048 byte
    /// frame. Longer packets are received in several segments, if the driver can.
    pub data_room: u16,
    /// The node whose memory to use.
    pub socket: Socket,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self { count: 8191, cache: 256, private_bytes: 0, data_room: 2176, socket: None }
    }
}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum MempoolError {
    /// DPDK cannot take the name.
    #[error("mempool: {0}")]
    Name(#[from] NameError),
    /// A number is out of its range.
    #[error("mempool {name:?}: {what}")]
    Config {
        /// The pool's name.
        name: String,
        /// Which number and its range.
        what: String,
    },
    /// The name is taken, perhaps by a dropped pool that still misses packets.
    #[error("mempool {name:?} exists already")]
    Exists {
        /// The pool's name.
        name: String,
    },
    /// The EAL's memory is used up.
    #[error(
        "mempool {name:?} needs about {needed} bytes; {room}; raise the EAL's memory option or \
         ask for fewer buffers"
    )]
    NoMemory {
        /// The pool's name.
        name: String,
        /// An estimate, in bytes.
        needed: u64,
        /// What the EAL has left.
        room: Room,
    },
    /// `rte_pktmbuf_pool_create` failed otherwise.
    #[error("rte_pktmbuf_pool_create of {name:?}: {errno}")]
    Create {
        /// The pool's name.
        name: String,
        /// What `rte_errno` was.
        errno: Errno,
    },
}

/// A pool of packet buffers. Clones stand for the same pool, from any thread.
///
/// When the last clone is dropped, the pool is freed as soon as its packets are back, at the
/// latest with the EAL. Packets may outlive it.
#[derive(Clone, Debug)]
pub struct Mempool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    raw: NonNull<dpdk_sys::rte_mempool>,
    name: String,
    config: MempoolConfig,
    instance: Arc<Instance>,
}

// SAFETY: pools made by rte_pktmbuf_pool_create are multi-producer and multi-consumer; the
// unsynchronised per-lcore caches are chosen by a thread-local lcore number, which only the
// EAL's own threads have.
unsafe impl Send for Inner {}
// SAFETY: as above; no method gives access to the pool's insides.
unsafe impl Sync for Inner {}

impl Mempool {
    /// Makes a pool. `name` has at most 25 bytes and is unique in the process.
    pub fn create(eal: &Eal, name: &str, config: &MempoolConfig) -> Result<Self, MempoolError> {
        let c_name = c_name(name, dpdk_sys::DPDK_MEMPOOL_NAME_SIZE)?;
        check(config).map_err(|what| MempoolError::Config { name: name.to_owned(), what })?;
        // A predecessor of this name may have got its last packet back by now.
        eal.instance().free_retired_pools();
        // SAFETY: the EAL is up, the name is NUL-terminated and copied, the numbers are in
        // range.
        let raw = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(
                c_name.as_ptr(),
                config.count,
                config.cache,
                config.private_bytes,
                config.data_room,
                socket_id(config.socket),
            )
        };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self(Arc::new(Inner {
                raw,
                name: name.to_owned(),
                config: *config,
                instance: Arc::clone(eal.instance()),
            }))),
            None => Err(failure(name, config, Errno::last())),
        }
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The shape it was made with.
    pub fn config(&self) -> &MempoolConfig {
        &self.0.config
    }

    /// Buffers that are not in the pool: held as [`Mbuf`], by drivers or in rings. Exact when
    /// nothing moves, an estimate otherwise. Walks all caches: not for the packet path.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.raw()) }
    }

    /// Buffers in the pool, caches included; see [`Mempool::in_use`].
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.raw()) }
    }

    /// An empty packet, or nothing if the pool is empty.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as `self` and may be used from any thread.
        let raw = unsafe { dpdk_sys::rte_pktmbuf_alloc(self.raw()) };
        // SAFETY: a buffer fresh from the pool has no other owner.
        NonNull::new(raw).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }

    /// Fills `burst` to its capacity with empty packets, or leaves it as it is and returns
    /// false when the pool has too few.
    #[inline]
    pub fn alloc_burst<const N: usize>(&self, burst: &mut ArrayVec<Mbuf, N>) -> bool {
        let held = burst.len();
        let wanted = N - held;
        let free = burst.as_mut_ptr().wrapping_add(held).cast::<*mut dpdk_sys::rte_mbuf>();
        // SAFETY: `free` points at `wanted` unused elements of the array, and `Mbuf` is
        // layout-compatible with a pointer to rte_mbuf.
        let code = unsafe { dpdk_sys::rte_pktmbuf_alloc_bulk(self.raw(), free, wanted as u32) };
        if code == 0 {
            // SAFETY: DPDK wrote `wanted` non-null buffers that have no other owner.
            unsafe { burst.set_len(N) };
        }
        code == 0
    }

    pub(crate) fn raw(&self) -> *mut dpdk_sys::rte_mempool {
        self.0.raw.as_ptr()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.instance.retire_pool(self.raw);
    }
}

fn check(config: &MempoolConfig) -> Result<(), String> {
    let MempoolConfig { count, cache, private_bytes, data_room, socket: _ } = *config;
    let most_cached = dpdk_sys::DPDK_MEMPOOL_CACHE_MAX.min((u64::from(count) * 2 / 3) as u32);
    if count == 0 {
        Err("a pool needs at least one buffer".to_owned())
    } else if cache > most_cached {
        Err(format!("cache {cache} must be at most {most_cached} for {count} buffers"))
    } else if !private_bytes.is_multiple_of(8) {
        Err(format!("private_bytes {private_bytes} is not a multiple of 8"))
    } else if data_room <= Mbuf::HEADROOM {
        Err(format!("data_room {data_room} leaves nothing after {} of headroom", Mbuf::HEADROOM))
    } else if u32::from(private_bytes) + u32::from(data_room) > u32::from(u16::MAX) {
        Err(format!("private_bytes {private_bytes} and data_room {data_room} exceed 65535"))
    } else {
        Ok(())
    }
}

fn failure(name: &str, config: &MempoolConfig, errno: Errno) -> MempoolError {
    let name = name.to_owned();
    match errno.number() {
        EEXIST => MempoolError::Exists { name },
        ENOMEM => {
            // The mbuf itself and the pool's own header before it.
            const BESIDE: u64 = 128 + 64;
            let each = BESIDE + u64::from(config.private_bytes) + u64::from(config.data_room);
            let needed = each.next_multiple_of(64) * u64::from(config.count);
            MempoolError::NoMemory { name, needed, room: Room::on(config.socket) }
        }
        _ => MempoolError::Create { name, errno },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_named() {
        let base = MempoolConfig::default();
        for (config, expected) in [
            (MempoolConfig { count: 0, ..base }, "a pool needs at least one buffer"),
            (
                MempoolConfig { count: 30, cache: 21, ..base },
                "cache 21 must be at most 20 for 30 buffers",
            ),
            (
                MempoolConfig { cache: 513, ..base },
                "cache 513 must be at most 512 for 8191 buffers",
            ),
            (
                MempoolConfig { private_bytes: 12, ..base },
                "private_bytes 12 is not a multiple of 8",
            ),
            (
                MempoolConfig { data_room: 128, ..base },
                "data_room 128 leaves nothing after 128 of headroom",
            ),
            (
                MempoolConfig { data_room: 65528, private_bytes: 64, ..base },
                "private_bytes 64 and data_room 65528 exceed 65535",
            ),
        ] {
            assert_eq!(check(&config), Err(expected.to_owned()));
        }
        assert_eq!(check(&base), Ok(()));
    }
}
