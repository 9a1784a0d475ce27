//! What each worker sheds of what comes from outside, for those that receive it in its stead: they
//! drop it before they hand it over, and tell how much that was (decision 29).
//!
//! Each place has one writer, its owner; readers only add what they shed. Nothing is promised
//! about the order in which places are seen: whoever reads one too late sheds too little, or for
//! the one before, for as long as a poll takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arrayvec::ArrayVec;

/// Destinations of each kind that a worker names at a time.
pub const NAMED: usize = 4;

/// Places of a worker: endpoints, then addresses.
const PLACES: usize = 2 * NAMED;

/// Destinations that one worker sheds for others at a time; of more it sheds none.
const FOR_OTHERS: usize = 16;

/// The bits of an aim's word that are its address, and [`IPV6`].
pub const ADDRESS: u64 = 0xffff_ffff << 32 | IPV6;

/// The bit of an aim's word that is set if it is one of IPv6.
pub const IPV6: u64 = 1 << 31;

#[derive(Debug, Default)]
struct Place {
    word: AtomicU64,
    /// Of 2^32 packets so many pass; 0 for no destination.
    share: AtomicU32,
    /// Packets that others have shed of it and its owner has not counted yet.
    shed: AtomicU32,
}

/// What all workers shed.
#[derive(Debug)]
pub struct FloodNotices {
    /// Grows with each change.
    version: AtomicU32,
    places: Box<[Place]>,
}

impl FloodNotices {
    /// Nothing, of so many workers.
    pub fn new(workers: u16) -> Self {
        let count = usize::from(workers) * PLACES;
        Self { version: AtomicU32::new(0), places: (0..count).map(|_| Place::default()).collect() }
    }

    fn place(&self, worker: u16, is_address: bool, nth: usize) -> &Place {
        &self.places[usize::from(worker) * PLACES + usize::from(is_address) * NAMED + nth]
    }

    /// Names the `nth` destination of a kind, or none. Only `worker` calls this.
    pub fn name(&self, worker: u16, is_address: bool, nth: usize, named: Option<(u64, u32)>) {
        let (word, share) = named.unwrap_or_default();
        let place = self.place(worker, is_address, nth);
        let is_same = place.word.load(Ordering::Relaxed) == word
            && place.share.load(Ordering::Relaxed) == share;
        if !is_same {
            place.word.store(word, Ordering::Relaxed);
            place.share.store(share, Ordering::Relaxed);
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// What others have shed of it since. Only `worker` calls this.
    pub fn collect(&self, worker: u16, is_address: bool, nth: usize) -> u32 {
        self.place(worker, is_address, nth).shed.swap(0, Ordering::Relaxed)
    }
}

/// A destination that another worker names.
struct ForOther {
    word: u64,
    mask: u64,
    share: u32,
    /// Grows by the share; one passes whenever it overflows.
    credit: u32,
    place: usize,
    /// Packets shed that the other has not been told.
    shed: u32,
}

/// What one worker sheds for the others.
pub struct ForOthers {
    notices: Arc<FloodNotices>,
    own: u16,
    version: u32,
    named: ArrayVec<ForOther, FOR_OTHERS>,
}

impl ForOthers {
    /// Nothing yet.
    pub fn new(notices: Arc<FloodNotices>, own: u16) -> Self {
        Self { notices, own, version: 0, named: ArrayVec::new() }
    }

    /// Whether something is to be shed for another worker.
    #[inline]
    pub fn is_active(&mut self) -> bool {
        if self.notices.version.load(Ordering::Acquire) != self.version {
            self.read();
        }
        !self.named.is_empty()
    }

    #[cold]
    fn read(&mut self) {
        self.version = self.notices.version.load(Ordering::Acquire);
        self.named.clear();
        let own = usize::from(self.own) * PLACES;
        let all = self.notices.places.iter().enumerate();
        for (at, place) in all.filter(|(at, _)| !(own..own + PLACES).contains(at)) {
            let (word, share) =
                (place.word.load(Ordering::Relaxed), place.share.load(Ordering::Relaxed));
            let mask = if at % PLACES < NAMED { u64::MAX } else { ADDRESS };
            if share > 0 && !self.named.is_full() {
                self.named.push(ForOther { word, mask, share, credit: 0, place: at, shed: 0 });
            }
        }
    }

    /// Whether a packet with this word is shed here.
    #[inline]
    pub fn sheds(&mut self, word: u64) -> bool {
        let of = |named: &&mut ForOther| named.word == word & named.mask;
        let Some(named) = self.named.iter_mut().find(of) else { return false };
        let (credit, passes) = named.credit.overflowing_add(named.share);
        named.credit = credit;
        named.shed += u32::from(!passes);
        !passes
    }

    /// Tells the others what was shed for them.
    pub fn tell(&mut self) {
        for named in self.named.iter_mut().filter(|named| named.shed > 0) {
            let shed = std::mem::take(&mut named.shed);
            self.notices.places[named.place].shed.fetch_add(shed, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORD: u64 = 0xcb00_7107_0011_01bb;

    #[test]
    fn what_one_names_another_sheds_evenly_and_tells_it() {
        let notices = Arc::new(FloodNotices::new(3));
        let (mut own, mut other) =
            (ForOthers::new(notices.clone(), 1), ForOthers::new(notices.clone(), 2));
        assert!(!own.is_active() && !other.is_active());
        // A quarter of it passes.
        notices.name(1, false, 2, Some((WORD, 1 << 30)));
        assert!(!own.is_active() && other.is_active());
        let shed = (0..400).filter(|_| other.sheds(WORD)).count();
        assert_eq!((shed, other.sheds(WORD ^ 1)), (300, false), "another port is another endpoint");
        assert_eq!(notices.collect(1, false, 2), 0, "not told yet");
        other.tell();
        assert_eq!((notices.collect(1, false, 2), notices.collect(1, false, 2)), (300, 0));
        notices.name(1, false, 2, None);
        assert!(!other.is_active() && !other.sheds(WORD));
    }

    #[test]
    fn an_address_is_shed_at_every_port_and_places_are_bounded() {
        let notices = Arc::new(FloodNotices::new(6));
        let mut other = ForOthers::new(notices.clone(), 5);
        notices.name(0, true, 0, Some((WORD & ADDRESS, 1)));
        assert!(other.is_active() && other.sheds(WORD) && other.sheds(WORD ^ 0xff));
        assert!(!other.sheds(WORD ^ 1 << 32));
        for worker in 0..5 {
            for nth in 0..NAMED {
                notices.name(worker, false, nth, Some((u64::from(worker) << 40 | nth as u64, 9)));
            }
        }
        assert!(other.is_active() && other.named.is_full());
    }
}
