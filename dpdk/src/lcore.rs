//! Running closures on lcores.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::eal::{Eal, Instance};
use crate::errno::{EBUSY, Errno};

/// Why work could not be given to a lcore, or did not come back from it.
#[derive(Debug, thiserror::Error)]
pub enum LcoreError {
    /// Not one of [`Eal::workers`].
    #[error("lcore {lcore} is not a worker of this EAL; its workers are {workers:?}")]
    NotAWorker {
        /// The lcore asked for.
        lcore: u16,
        /// Those there are.
        workers: Vec<u16>,
    },
    /// It runs something, or ran something that was not joined.
    #[error("lcore {lcore} is busy; join its handle first")]
    Busy {
        /// The lcore asked for.
        lcore: u16,
    },
    /// `rte_eal_remote_launch` failed.
    #[error("rte_eal_remote_launch on lcore {lcore}: {errno}")]
    Launch {
        /// The lcore asked for.
        lcore: u16,
        /// What DPDK returned.
        errno: Errno,
    },
    /// The closure panicked.
    #[error("the work on lcore {lcore} panicked: {message}")]
    Panicked {
        /// The lcore it ran on.
        lcore: u16,
        /// The panic's message.
        message: String,
    },
}

struct Task<F, T> {
    work: F,
    done: Sender<thread::Result<T>>,
    /// The EAL stays while the work runs.
    instance: Arc<Instance>,
}

impl Eal {
    /// Runs `work` on a worker lcore and returns at once.
    ///
    /// The closure owns what it uses; give it its queues. It must end by itself when asked
    /// (by a flag it watches, say): nothing here can interrupt it.
    pub fn launch<F, T>(&self, lcore: u16, work: F) -> Result<LcoreHandle<T>, LcoreError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let instance = self.instance();
        if !self.workers().contains(&lcore) {
            return Err(LcoreError::NotAWorker { lcore, workers: self.workers().to_vec() });
        }
        if !instance.control().claimed_lcores.insert(lcore) {
            return Err(LcoreError::Busy { lcore });
        }
        let (done, outcome) = channel();
        let handle = LcoreHandle {
            lcore,
            outcome,
            instance: Arc::clone(instance),
            _main_thread: PhantomData,
        };
        let task = Box::into_raw(Box::new(Task { work, done, instance: Arc::clone(instance) }));
        // SAFETY: `lcore` is an enabled worker, and this is the main lcore's thread (`Eal` is
        // not `Send`). `run` gets the pointer it expects, exactly once; F and T are `Send`
        // and `'static`, so they may live on the other thread as long as they like.
        let code = unsafe {
            dpdk_sys::rte_eal_remote_launch(Some(run::<F, T>), task.cast(), u32::from(lcore))
        };
        if code != 0 {
            // SAFETY: the launch failed, so the pointer from `into_raw` is still ours alone.
            drop(unsafe { Box::from_raw(task) });
            // A handle dropped while its work still ran gave up the claim, not the lcore.
            return Err(if code == -EBUSY {
                LcoreError::Busy { lcore }
            } else {
                LcoreError::Launch { lcore, errno: Errno::from_return(code) }
            });
        }
        Ok(handle)
    }
}

extern "C" fn run<F, T>(task: *mut c_void) -> c_int
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // SAFETY: `launch::<F, T>` passed a pointer from `Box::into_raw` of this very type, and
    // gave it away.
    let Task { work, done, instance } = *unsafe { Box::from_raw(task.cast::<Task<F, T>>()) };
    // A panic must not unwind into C. The closure's state is gone afterwards, so nothing
    // half-changed can be seen through it.
    let outcome = catch_unwind(AssertUnwindSafe(work));
    drop(instance);
    // Without a handle nobody wants to know.
    let _ = done.send(outcome);
    0
}

/// Work running on a lcore. Dropping it lets the work go on unobserved.
#[derive(Debug)]
pub struct LcoreHandle<T> {
    lcore: u16,
    outcome: Receiver<thread::Result<T>>,
    instance: Arc<Instance>,
    _main_thread: PhantomData<*const ()>,
}

impl<T> LcoreHandle<T> {
    /// Waits for the work to end, asleep, and returns its result.
    ///
    /// A panic is returned as an error in builds that unwind; it ends the process in builds
    /// that abort on panic.
    pub fn join(self) -> Result<T, LcoreError> {
        let outcome = self.outcome.recv();
        // The result is sent a moment before the EAL's thread is ready for other work.
        while Instance::is_running(self.lcore) {
            thread::yield_now();
        }
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => {
                let message = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "(no message)".to_owned());
                Err(LcoreError::Panicked { lcore: self.lcore, message })
            }
            Err(_) => unreachable!("`run` sends once before its sender goes"),
        }
    }

    /// Whether the work has ended, so that [`LcoreHandle::join`] would not wait.
    pub fn is_finished(&self) -> bool {
        !Instance::is_running(self.lcore)
    }

    /// The lcore it runs on.
    pub fn lcore(&self) -> u16 {
        self.lcore
    }
}

impl<T> Drop for LcoreHandle<T> {
    fn drop(&mut self) {
        self.instance.control().claimed_lcores.remove(&self.lcore);
    }
}
