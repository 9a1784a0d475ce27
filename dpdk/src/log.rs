//! Where DPDK's messages go: always to standard error, never to standard output, and the
//! last few are kept so that an error can quote the reason DPDK gave.

use std::collections::VecDeque;
use std::ffi::{c_char, c_void};
use std::io::Write;

use parking_lot::Mutex;

/// Lines kept for quoting. An EAL that fails to start writes fewer.
const KEPT_LINES: usize = 32;

struct Recent {
    lines: VecDeque<String>,
    /// Number of lines ever seen: the position after the newest.
    seen: usize,
}

static RECENT: Mutex<Recent> = Mutex::new(Recent { lines: VecDeque::new(), seen: 0 });

/// A position in the log; see [`since`].
#[derive(Clone, Copy)]
pub(crate) struct Mark(usize);

/// Directs DPDK's log here. False when the C library cannot make a stream.
pub(crate) fn redirect() -> bool {
    // SAFETY: `take` has the signature that the C library asks of a cookie write function,
    // and may be called from any thread at any time; the stream is never closed.
    unsafe { dpdk_sys::dpdk_sys_log_to(Some(take)) == 0 }
}

pub(crate) fn mark() -> Mark {
    Mark(RECENT.lock().seen)
}

/// What DPDK said since `mark`, as one line; empty when it said nothing.
pub(crate) fn since(mark: Mark) -> String {
    let recent = RECENT.lock();
    let fresh = recent.seen.saturating_sub(mark.0).min(recent.lines.len());
    let lines: Vec<&str> = recent.lines.range(recent.lines.len() - fresh..).map(|l| &**l).collect();
    lines.join("; ")
}

fn keep(text: &str) {
    let mut recent = RECENT.lock();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if recent.lines.len() == KEPT_LINES {
            recent.lines.pop_front();
        }
        recent.lines.push_back(line.to_owned());
        recent.seen += 1;
    }
}

/// Cookie write function. DPDK flushes after each message, so this sees whole lines.
extern "C" fn take(_cookie: *mut c_void, text: *const c_char, len: usize) -> isize {
    if text.is_null() || len == 0 {
        return 0;
    }
    // SAFETY: the C library passes its buffer of `len` initialised bytes, which nobody
    // changes during this call.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    keep(&String::from_utf8_lossy(bytes));
    // A closed standard error must not take the program down.
    let _ = std::io::stderr().write_all(bytes);
    isize::try_from(len).unwrap_or(isize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_after_the_mark_are_quoted_and_memory_is_bounded() {
        keep("old\n");
        let mark = mark();
        assert_eq!(since(mark), "");
        keep("EAL: one\n\n  two  \n");
        assert_eq!(since(mark), "EAL: one; two");
        for number in 0..100 {
            keep(&format!("line {number}\n"));
        }
        assert_eq!(since(mark).split("; ").count(), KEPT_LINES);
        assert!(since(mark).ends_with("line 99"));
    }
}
