//! What the laboratory made, so that it can be removed, also on SIGINT, SIGTERM and SIGHUP.
//!
//! One registry per process. Invariants:
//!
//! 1. a namespace or process group is created and noted under one lock, so the signal thread
//!    never misses one that appears while it cleans up;
//! 2. only noted things are removed; a namespace only if its name carries our own process id;
//! 3. the signal thread keeps the lock for ever: nothing new can be made after it started.
//!
//! A process killed by SIGKILL leaves its namespaces; [`crate::lab::sweep_dead`] removes those.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Namespaces and process groups that exist because of this process.
struct Registry {
    namespaces: BTreeSet<String>,
    groups: BTreeSet<u32>,
}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { namespaces: BTreeSet::new(), groups: BTreeSet::new() });
static SIGNALS: Once = Once::new();

/// Prefix of every namespace of the laboratory.
pub const PREFIX: &str = "cgnat-";

/// Prefix of the namespaces that this very process makes.
pub fn own_prefix() -> String {
    format!("{PREFIX}{}-", std::process::id())
}

/// Creates a network namespace and notes it for removal. `name` starts with [`own_prefix`].
///
/// # Errors
/// A foreign name, or what `ip netns add` says.
pub fn create_namespace(name: &str) -> Result<()> {
    ensure!(name.starts_with(&own_prefix()), "refusing to make {name}: not a name of this process");
    catch_signals();
    let mut registry = lock();
    ip_netns("add", name)?;
    registry.namespaces.insert(name.to_owned());
    Ok(())
}

/// Removes a namespace made by [`create_namespace`].
///
/// # Errors
/// A name that was not made here, or what `ip netns delete` says.
pub fn delete_namespace(name: &str) -> Result<()> {
    let mut registry = lock();
    ensure!(registry.namespaces.remove(name), "refusing to remove {name}: not made here");
    ip_netns("delete", name)
}

/// Whether this process made `name` and has not removed it yet.
pub fn is_own_namespace(name: &str) -> bool {
    lock().namespaces.contains(name)
}

/// Starts `command` as the leader of a process group of its own and notes the group.
///
/// # Errors
/// The program cannot be started.
pub fn spawn(command: &mut Command) -> Result<Child> {
    use std::os::unix::process::CommandExt as _;
    catch_signals();
    let mut registry = lock();
    let child = command
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    registry.groups.insert(child.id());
    Ok(child)
}

/// Sends `signal` to the group of a child started by [`spawn`] that was not yet reaped.
pub fn signal_group(leader: u32, signal: Signal) {
    let registry = lock();
    if registry.groups.contains(&leader) {
        send(leader, signal);
    }
}

/// Kills what is left in the group of `child`, waits for the child and forgets the group.
pub fn end_group(child: &mut Child) {
    let mut registry = lock();
    if registry.groups.remove(&child.id()) {
        send(child.id(), Signal::KILL);
        // It was killed by a signal that cannot be ignored: this wait is short.
        let _ = child.wait();
    }
}

fn send(leader: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        // The group may have ended by itself.
        let _ = kill_process_group(pid, signal);
    }
}

fn lock() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `ip netns add|delete NAME`.
pub(crate) fn ip_netns(verb: &str, name: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(["netns", verb, name])
        .stdin(Stdio::null())
        .output()
        .context("cannot start ip (package iproute2)")?;
    ensure!(
        output.status.success(),
        "ip netns {verb} {name}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Starts the signal thread once.
fn catch_signals() {
    SIGNALS.call_once(|| match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(mut signals) => {
            thread::spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    remove_everything();
                    eprintln!("interrupted: the laboratory is removed");
                    std::process::exit(128 + signal);
                }
            });
        }
        Err(error) => eprintln!("signals are not caught, a killed run leaves namespaces: {error}"),
    });
}

fn remove_everything() {
    // Never unlocked: whoever wants to make something new waits until the process is gone.
    let mut registry = std::mem::ManuallyDrop::new(lock());
    for leader in std::mem::take(&mut registry.groups) {
        send(leader, Signal::KILL);
    }
    for name in std::mem::take(&mut registry.namespaces) {
        if let Err(error) = ip_netns("delete", &name) {
            eprintln!("{error:#}");
        }
    }
}
