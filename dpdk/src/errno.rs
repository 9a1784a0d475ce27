//! DPDK's error numbers: Linux errno values and a few of its own.

use std::ffi::CStr;
use std::fmt;

/// An error number of DPDK, positive. Displays as DPDK's text and the number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// The calling thread's `rte_errno`, set by functions that return a null pointer or -1.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local integer.
        Self(unsafe { dpdk_sys::dpdk_sys_errno() })
    }

    /// For functions that return a negative error number.
    pub(crate) fn from_return(code: i32) -> Self {
        Self(code.saturating_abs())
    }

    /// The number, e.g. 12 for ENOMEM.
    pub fn number(self) -> i32 {
        self.0
    }
}

pub(crate) const ENOENT: i32 = 2;
pub(crate) const ENOMEM: i32 = 12;
pub(crate) const EACCES: i32 = 13;
pub(crate) const ENOTSUP: i32 = 95;
pub(crate) const EBUSY: i32 = 16;
pub(crate) const EEXIST: i32 = 17;

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: rte_strerror returns a pointer, never null, to a NUL-terminated text that
        // stays until this thread calls it again; the text is used up before that.
        let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(self.0)) };
        write!(f, "{} (errno {})", text.to_string_lossy(), self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_shows_its_text_and_number() {
        assert_eq!(Errno::from_return(-12).to_string(), "Cannot allocate memory (errno 12)");
    }

    #[test]
    fn the_lowest_return_code_does_not_overflow() {
        assert_eq!(Errno::from_return(i32::MIN).number(), i32::MAX);
    }
}
