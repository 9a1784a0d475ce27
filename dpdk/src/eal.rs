//! The EAL, DPDK's environment: started once, and the reason all other objects may exist.
//!
//! [`Eal`] stays on the thread that made it: creating objects and launching lcores happens
//! there. Every object holds the [`Instance`], which ends the EAL when nothing is left.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::{self, ThreadId};

use dpdk_sys::rte_lcore_state_t;
use parking_lot::{Mutex, MutexGuard};

use crate::errno::{EACCES, ENOENT, ENOMEM, Errno};
use crate::log;
use crate::options::{EalOptions, OptionsError};

/// Why the EAL did not start.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// DPDK starts once per process, whatever became of the first start.
    #[error("the EAL was already initialised in this process; DPDK allows that once")]
    AlreadyInitialised,
    /// An option would be refused.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The log could not be taken away from standard output.
    #[error("cannot make a stream for DPDK's log: out of memory")]
    LogStream,
    /// `rte_eal_init` failed.
    #[error("DPDK did not start: rte_eal_init: {}; DPDK said: {said}", cause(*errno, said))]
    Init {
        /// What `rte_errno` was.
        errno: Errno,
        /// What the EAL wrote meanwhile.
        said: String,
    },
}

/// The error number's text, and what to do about it.
fn cause(errno: Errno, said: &str) -> String {
    let advice = if said.contains("Is another primary process running") {
        "another program uses this file prefix, stop it or choose another prefix"
    } else if said.contains("failed to parse device") {
        "no driver of that name is installed, check the device's spelling"
    } else {
        match errno.number() {
            EACCES => "check the permissions of the runtime directory and of /dev/hugepages",
            ENOMEM => "lower the memory option or reserve more huge pages",
            ENOENT => "a file or device is missing",
            _ => return errno.to_string(),
        }
    };
    // Not every failing step of the EAL sets a number.
    if errno.number() == 0 { advice.to_owned() } else { format!("{errno}, {advice}") }
}

/// The EAL is initialised and this is the thread that did it: the main lcore.
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<dpdk::Eal>();
/// ```
///
/// DPDK's memory and its devices are given back when this and every handle made from it are
/// gone. That needs care only where a process goes on afterwards: drop packets before handles
/// and the last handle on this thread. Otherwise the end of the process does it.
#[derive(Debug)]
pub struct Eal {
    instance: Arc<Instance>,
    _main_thread: PhantomData<*const ()>,
}

static INITIALISED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK. Once per process, whatever the outcome.
    ///
    /// Binds the calling thread to the main lcore's CPU; threads started later from it
    /// inherit that, see [`crate::set_current_thread_affinity`].
    ///
    /// A device that an `EalOptions` names but that cannot be opened does not fail this
    /// call; [`crate::Port::by_name`] then does and tells why.
    pub fn init(options: &EalOptions) -> Result<Self, EalError> {
        let argv = options.to_argv()?;
        if INITIALISED.swap(true, Ordering::SeqCst) {
            return Err(EalError::AlreadyInitialised);
        }
        if !log::redirect() {
            return Err(EalError::LogStream);
        }
        let mark = log::mark();
        let count = argv.len() as i32;
        // The EAL permutes the vector and keeps pointers into it, so it is never freed.
        let mut pointers: Vec<*mut c_char> = argv.into_iter().map(CString::into_raw).collect();
        pointers.push(std::ptr::null_mut());
        let pointers = Box::leak(pointers.into_boxed_slice());
        // SAFETY: `pointers` holds `count` NUL-terminated strings and a final null, all
        // writable and leaked. The flag above makes this the process's only call.
        let result = unsafe { dpdk_sys::rte_eal_init(count, pointers.as_mut_ptr()) };
        if result < 0 {
            return Err(EalError::Init { errno: Errno::last(), said: log::since(mark) });
        }
        let workers = options.lcores.iter().map(|lcore| lcore.id);
        Ok(Self {
            instance: Arc::new(Instance {
                main_thread: thread::current().id(),
                workers: workers.filter(|&id| id != options.main_lcore).collect(),
                start_log: log::since(mark),
                control: Mutex::default(),
            }),
            _main_thread: PhantomData,
        })
    }

    /// The lcores that [`Eal::launch`] takes: all but the main one, in the options' order.
    pub fn workers(&self) -> &[u16] {
        &self.instance.workers
    }

    /// Frequency of the counter that [`crate::tsc`] reads, in Hz.
    pub fn tsc_hz(&self) -> u64 {
        // SAFETY: reads a number that rte_eal_init has set.
        unsafe { dpdk_sys::rte_get_tsc_hz() }
    }

    pub(crate) fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }
}

/// The DPDK this program runs with, e.g. `DPDK 22.11.11`.
pub fn dpdk_version() -> String {
    // SAFETY: rte_version returns a static NUL-terminated string and needs no EAL.
    unsafe { CStr::from_ptr(dpdk_sys::rte_version()) }.to_string_lossy().into_owned()
}

/// The running EAL, shared by everything that needs it to stay.
#[derive(Debug)]
pub(crate) struct Instance {
    main_thread: ThreadId,
    workers: Vec<u16>,
    /// What the EAL said while it started, for errors about devices that are missing.
    pub(crate) start_log: String,
    control: Mutex<Control>,
}

/// Serialises calls that DPDK wants made by one thread at a time.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Ports that a [`crate::Port`] stands for.
    pub(crate) claimed_ports: BTreeSet<u16>,
    /// Lcores that a [`crate::LcoreHandle`] stands for.
    pub(crate) claimed_lcores: BTreeSet<u16>,
    /// Pools without handles, waiting for their last packet.
    retired_pools: Vec<RetiredPool>,
}

#[derive(Debug)]
struct RetiredPool(NonNull<dpdk_sys::rte_mempool>);

// SAFETY: a mempool belongs to no thread; DPDK synchronises access to it.
unsafe impl Send for RetiredPool {}

impl Instance {
    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock()
    }

    pub(crate) fn is_running(lcore: u16) -> bool {
        // SAFETY: reads DPDK's table of lcores; `lcore` was checked against its size.
        let state = unsafe { dpdk_sys::rte_eal_get_lcore_state(u32::from(lcore)) };
        // Pairs with the release store of the state, so what the lcore did is visible.
        fence(Ordering::Acquire);
        state == rte_lcore_state_t::RUNNING
    }

    /// Takes a pool whose last handle is gone, so that nothing can be allocated from it.
    pub(crate) fn retire_pool(&self, pool: NonNull<dpdk_sys::rte_mempool>) {
        self.control().retired_pools.push(RetiredPool(pool));
        self.free_retired_pools();
    }

    /// Frees retired pools that have all their buffers back, if nobody can be touching them.
    /// True when no retired pool is left.
    pub(crate) fn free_retired_pools(&self) -> bool {
        let mut control = self.control();
        if self.is_quiet() {
            control.retired_pools.retain(|pool| {
                // SAFETY: the pool is alive, it is freed only below.
                let in_use = unsafe { dpdk_sys::rte_mempool_in_use_count(pool.0.as_ptr()) };
                fence(Ordering::Acquire);
                if in_use != 0 {
                    return true;
                }
                // SAFETY: no handle is left (only such pools are retired), so no buffer can
                // leave the pool again. The count is exact because `is_quiet`: the caches it
                // sums up belong to lcores, none of which runs, and to this thread; other
                // threads return buffers straight to the pool's ring, and the count shows a
                // buffer only after their last access. So nobody has or touches a buffer.
                unsafe { dpdk_sys::rte_mempool_free(pool.0.as_ptr()) };
                false
            });
        }
        control.retired_pools.is_empty()
    }

    /// No thread but non-lcore ones can be inside a mempool: this is the main lcore's thread
    /// and the other lcores wait. Only this thread could launch one.
    fn is_quiet(&self) -> bool {
        thread::current().id() == self.main_thread
            && !self.workers.iter().any(|&lcore| Self::is_running(lcore))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.is_quiet() && self.free_retired_pools() {
            // SAFETY: no handle exists, since each holds the instance; no packet exists,
            // since all pools ever made were freed; no lcore runs. So nothing refers to
            // DPDK's memory any more.
            unsafe { dpdk_sys::rte_eal_cleanup() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_says_what_to_do() {
        let message = |code, said: &str| {
            EalError::Init { errno: Errno::from_return(code), said: said.to_owned() }.to_string()
        };
        assert_eq!(
            message(0, "EAL: Cannot create lock. Is another primary process running?"),
            "DPDK did not start: rte_eal_init: another program uses this file prefix, stop it or \
             choose another prefix; DPDK said: EAL: Cannot create lock. Is another primary \
             process running?"
        );
        assert_eq!(
            message(-12, "EAL: Cannot init memory"),
            "DPDK did not start: rte_eal_init: Cannot allocate memory (errno 12), lower the \
             memory option or reserve more huge pages; DPDK said: EAL: Cannot init memory"
        );
        assert_eq!(
            message(-95, "x"),
            "DPDK did not start: rte_eal_init: Operation not supported (errno 95); DPDK said: x"
        );
    }
}
