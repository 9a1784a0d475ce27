//! The published states of the ports' links.
//!
//! Whoever watches the links writes; workers and housekeeping read without locks. Links of which
//! nobody says anything count as up.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[derive(Debug, Default)]
struct State {
    is_down: AtomicBool,
    /// How often the link was found up.
    ups: AtomicU32,
}

/// States by port.
#[derive(Debug)]
pub struct LinkStates(Box<[State]>);

impl LinkStates {
    /// All up, as far as is known.
    pub fn new(ports: usize) -> Self {
        Self((0..ports).map(|_| State::default()).collect())
    }

    /// Whether nothing can be sent by a port.
    #[inline]
    pub fn is_down(&self, port: usize) -> bool {
        self.0[port].is_down.load(Ordering::Relaxed)
    }

    /// Grows each time that a link is found up: at the start, and when it comes back.
    pub fn ups(&self, port: usize) -> u32 {
        self.0[port].ups.load(Ordering::Acquire)
    }

    /// Ports.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no ports.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The link of a port is down. Only who watches the links calls this.
    pub fn set_down(&self, port: usize) {
        self.0[port].is_down.store(true, Ordering::Relaxed);
    }

    /// The link of a port is up, and neighbours are to hear of it and to be asked. Only who watches
    /// the links calls this.
    pub fn set_up(&self, port: usize) {
        let State { is_down, ups } = &self.0[port];
        is_down.store(false, Ordering::Relaxed);
        ups.store(ups.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }
}
