//! How much of a CPU the threads of a process take.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// What a thread did with some time, as parts of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Name of the thread.
    pub thread: String,
    /// It ran.
    pub running: f64,
    /// It would have, but others had its CPU.
    pub waiting: f64,
}

/// Nanoseconds since the thread began: it ran, it waited. Nothing if it has ended.
fn times(task: &Path) -> Result<Option<[u64; 2]>> {
    let text = match std::fs::read_to_string(task.join("schedstat")) {
        Ok(text) => text,
        Err(error) if has_ended(&error) => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}/schedstat", task.display()));
        }
    };
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next().and_then(Result::ok).context("a number");
    Ok(Some([next()?, next()?]))
}

/// A thread that ends takes its files with it, or they cannot be read any more (ESRCH).
fn has_ended(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// What each thread of `process` that was there all the time does in the next `time`.
///
/// # Errors
/// It has ended, or the kernel keeps no such account.
pub fn shares(process: u32, time: Duration) -> Result<Vec<Share>> {
    let directory = format!("/proc/{process}/task");
    let tasks: std::io::Result<Vec<_>> = std::fs::read_dir(directory)?.collect();
    let tasks: Vec<_> = tasks?.into_iter().map(|entry| entry.path()).collect();
    let before: Result<Vec<_>> = tasks.iter().map(|task| times(task)).collect();
    let (before, began) = (before?, Instant::now());
    std::thread::sleep(time);
    let after: Result<Vec<_>> = tasks.iter().map(|task| times(task)).collect();
    let (after, lasted) = (after?, began.elapsed().as_nanos() as f64);
    ensure!(after != before, "the kernel does not count what threads do");
    let mut shares = Vec::new();
    for (task, (before, after)) in tasks.iter().zip(before.into_iter().zip(after)) {
        let (Some(before), Some(after)) = (before, after) else { continue };
        let [running, waiting] = [0, 1].map(|n| (after[n] - before[n]) as f64 / lasted);
        let Ok(thread) = std::fs::read_to_string(task.join("comm")) else { continue };
        shares.push(Share { thread: thread.trim().to_owned(), running, waiting });
    }
    Ok(shares)
}

/// The number of the thread of a process with this name.
///
/// # Errors
/// There is none, or the process has ended.
pub fn thread(process: u32, name: &str) -> Result<String> {
    for entry in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let entry = entry?;
        if std::fs::read_to_string(entry.path().join("comm"))?.trim() == name {
            return entry.file_name().into_string().ok().context("a number");
        }
    }
    anyhow::bail!("process {process} has no thread {name}")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_thread_that_works_is_told_from_one_that_sleeps() {
        let over = &AtomicBool::new(false);
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let shares = std::thread::scope(|scope| {
            let busy =
                named("works").spawn_scoped(scope, || while !over.load(Ordering::Relaxed) {});
            let idle = named("sleeps").spawn_scoped(scope, move || wait.recv().is_err());
            let shares = shares(std::process::id(), Duration::from_millis(200));
            over.store(true, Ordering::Relaxed);
            drop(end);
            assert!(busy.is_ok() && idle.is_ok(), "threads");
            shares.expect("shares")
        });
        let of = |name: &str| {
            let share = shares.iter().find(|share| share.thread == name).expect("its share");
            share.running + share.waiting
        };
        assert!(of("works") > 0.8, "{shares:?}");
        assert!(of("sleeps") < 0.2, "{shares:?}");
    }
}
