//! Large zeroed memory from the EAL: huge pages where it has them.

use std::fmt;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use crate::eal::{Eal, Instance};
use crate::errno::{EEXIST, ENOMEM, Errno};
use crate::names::{NameError, c_name};
use crate::{Socket, socket_id};

/// Why there is no zone.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    /// DPDK cannot take the name.
    #[error("memory zone: {0}")]
    Name(#[from] NameError),
    /// Zero or more bytes than an address space has.
    #[error("memory zone {name:?}: {bytes} bytes cannot be reserved")]
    Size {
        /// The zone's name.
        name: String,
        /// The size asked for.
        bytes: usize,
    },
    /// The name is taken.
    #[error("memory zone {name:?} exists already")]
    Exists {
        /// The zone's name.
        name: String,
    },
    /// The EAL has no piece of memory that large.
    #[error("memory zone {name:?} needs {bytes} bytes; {room}; raise the EAL's memory option")]
    NoMemory {
        /// The zone's name.
        name: String,
        /// The size asked for.
        bytes: usize,
        /// What the EAL has left.
        room: Room,
    },
    /// `rte_memzone_reserve_aligned` failed otherwise.
    #[error("rte_memzone_reserve_aligned of {name:?}: {errno}")]
    Reserve {
        /// The zone's name.
        name: String,
        /// What `rte_errno` was.
        errno: Errno,
    },
}

/// What the EAL's memory has left, over the nodes that were allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Free bytes together.
    pub free: usize,
    /// The largest free piece, in bytes.
    pub largest: usize,
}

impl Room {
    pub(crate) fn on(socket: Socket) -> Self {
        // SAFETY: both read tables that rte_eal_init has made; an index beyond the table
        // yields -1.
        let nodes = unsafe { 0..dpdk_sys::rte_socket_count() };
        let mut room = Self { free: 0, largest: 0 };
        for index in nodes {
            // SAFETY: as above.
            let node = unsafe { dpdk_sys::rte_socket_id_by_idx(index) };
            if socket.is_some() && socket_id(socket) != node {
                continue;
            }
            let mut stats = MaybeUninit::<dpdk_sys::rte_malloc_socket_stats>::zeroed();
            // SAFETY: a valid place to write to; a bad node yields an error.
            let code = unsafe { dpdk_sys::rte_malloc_get_socket_stats(node, stats.as_mut_ptr()) };
            if code == 0 {
                // SAFETY: plain integers, zeroed and then written.
                let stats = unsafe { stats.assume_init() };
                room.free += stats.heap_freesz_bytes;
                room.largest = room.largest.max(stats.greatest_free_size);
            }
        }
        room
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DPDK has {} bytes free, the largest piece is {}", self.free, self.largest)
    }
}

/// Memory from the EAL: zero at first, aligned to [`Zone::ALIGN`], freed on drop.
#[derive(Debug)]
pub struct Zone {
    raw: *const dpdk_sys::rte_memzone,
    start: NonNull<u8>,
    bytes: usize,
    /// Keeps DPDK's memory mapped; dropped after the zone was freed.
    _instance: Arc<Instance>,
}

// SAFETY: plain memory, owned; DPDK frees zones from any thread under its own lock.
unsafe impl Send for Zone {}
// SAFETY: shared access only reads.
unsafe impl Sync for Zone {}

impl Zone {
    /// Every zone starts on a cache line.
    pub const ALIGN: usize = 64;

    /// Takes `bytes` contiguous bytes. `name` has at most 31 bytes and is unique in the
    /// process.
    ///
    /// The EAL must have been started with more memory than all zones and pools need: what
    /// one takes has to be free in one piece.
    pub fn reserve(eal: &Eal, name: &str, bytes: usize, socket: Socket) -> Result<Self, ZoneError> {
        let c_name = c_name(name, dpdk_sys::DPDK_MEMZONE_NAME_SIZE)?;
        let name = name.to_owned();
        // To DPDK 0 means "the largest there is".
        if bytes == 0 || isize::try_from(bytes).is_err() {
            return Err(ZoneError::Size { name, bytes });
        }
        // SAFETY: the EAL is up; the name is NUL-terminated and copied; the alignment is a
        // power of two.
        let raw = unsafe {
            dpdk_sys::rte_memzone_reserve_aligned(
                c_name.as_ptr(),
                bytes,
                socket_id(socket),
                0,
                Self::ALIGN as u32,
            )
        };
        if raw.is_null() {
            let errno = Errno::last();
            return Err(match errno.number() {
                EEXIST => ZoneError::Exists { name },
                ENOMEM => ZoneError::NoMemory { name, bytes, room: Room::on(socket) },
                _ => ZoneError::Reserve { name, errno },
            });
        }
        // SAFETY: a valid descriptor of a zone that stays until it is freed; its union holds
        // an address, of which every reading is a pointer or an integer of its size.
        let address = unsafe { (*raw).__bindgen_anon_1.addr }.cast::<u8>();
        let Some(start) = NonNull::new(address) else {
            return Err(ZoneError::Reserve { name, errno: Errno::from_return(ENOMEM) });
        };
        // A zone may be made of memory that was used before.
        // SAFETY: the zone has at least `bytes` bytes and is ours alone.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Self { raw, start, bytes, _instance: Arc::clone(eal.instance()) })
    }

    /// The memory.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `bytes` initialised bytes of a zone that lives as long as `self`; writing
        // needs `&mut self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    /// The memory, to change.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; `&mut self` makes this the only access.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// Gives the memory to the rest of the process' life. The EAL then stays up until the
    /// process ends, whatever else is dropped.
    pub fn into_static(self) -> &'static mut [u8] {
        // Never dropping `self` keeps the zone reserved and, by its `_instance`, mapped.
        let mut forever = ManuallyDrop::new(self);
        let memory = forever.as_mut_slice();
        // SAFETY: the zone is never freed and DPDK's memory never unmapped, and `self` is
        // gone, so nothing else reaches it.
        unsafe { slice::from_raw_parts_mut(memory.as_mut_ptr(), memory.len()) }
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        // SAFETY: reserved by `reserve`, freed once, and the EAL is kept up by `_instance`,
        // which is dropped later.
        unsafe { dpdk_sys::rte_memzone_free(self.raw) };
    }
}
