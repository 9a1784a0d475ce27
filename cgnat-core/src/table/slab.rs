//! Fixed-size records with a free list, index and generation.
//!
//! A record's generation is odd while it is in use and even while it is free; it grows by
//! one at every change, so an index with the generation seen earlier never names a later
//! user of the slot (until 2^31 reuses of one slot).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a record must have to live in a [`Slab`].
pub trait Record: FromBytes + IntoBytes + KnownLayout + Immutable + 'static {
    /// Current generation.
    fn generation(&self) -> u32;
    /// Sets the generation.
    fn set_generation(&mut self, generation: u32);
    /// Link of the free list, valid while the record is free.
    fn next_free(&self) -> u32;
    /// Sets the link.
    fn set_next_free(&mut self, next: u32);
}

/// End of the free list.
const NONE: u32 = u32::MAX;

/// A table of records.
pub struct Slab<R: Record> {
    records: &'static mut [R],
    free_head: u32,
    in_use: u32,
    /// Slots from here on were never used; so construction does not touch the memory.
    untouched: u32,
}

impl<R: Record> Slab<R> {
    /// A table in zeroed memory: every record is free.
    ///
    /// # Panics
    /// If there are 2^31 records or more; the layout never asks for so many.
    pub fn new(records: &'static mut [R]) -> Self {
        assert!(records.len() < 1 << 31, "slots have 31 bits");
        Self { records, free_head: NONE, in_use: 0, untouched: 0 }
    }

    /// Records in use.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    /// Records in all.
    pub fn capacity(&self) -> u32 {
        self.records.len() as u32
    }

    /// Whether [`Slab::allocate`] would refuse.
    pub fn is_full(&self) -> bool {
        self.in_use == self.capacity()
    }

    /// Takes a free record into use and returns its slot; its other fields are as the last
    /// user left them. `None` if the table is full.
    pub fn allocate(&mut self) -> Option<u32> {
        let slot = if self.free_head != NONE {
            let slot = self.free_head;
            self.free_head = self.records[slot as usize].next_free();
            slot
        } else if (self.untouched as usize) < self.records.len() {
            self.untouched += 1;
            self.untouched - 1
        } else {
            return None;
        };
        let record = &mut self.records[slot as usize];
        record.set_generation(record.generation().wrapping_add(1));
        self.in_use += 1;
        Some(slot)
    }

    /// Frees the record in `slot`.
    ///
    /// # Panics
    /// If it is not in use: a double free would lend one slot twice.
    pub fn free(&mut self, slot: u32) {
        let head = self.free_head;
        let record = &mut self.records[slot as usize];
        assert!(record.generation() & 1 == 1, "slot {slot} is freed twice");
        record.set_generation(record.generation().wrapping_add(1));
        record.set_next_free(head);
        self.free_head = slot;
        self.in_use -= 1;
    }

    /// The record in `slot`, if there is such a slot.
    #[inline]
    pub fn get(&self, slot: u32) -> Option<&R> {
        self.records.get(slot as usize)
    }

    /// The record in `slot` if it is in use with this generation.
    pub fn live(&self, slot: u32, generation: u32) -> Option<&R> {
        self.records
            .get(slot as usize)
            .filter(|record| record.generation() == generation && generation & 1 == 1)
    }

    /// The record in `slot` if it is in use.
    pub fn used(&self, slot: u32) -> Option<&R> {
        self.records.get(slot as usize).filter(|record| record.generation() & 1 == 1)
    }

    /// Slots and records in use, in order of slots.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &R)> {
        self.records[..self.untouched as usize]
            .iter()
            .enumerate()
            .filter(|(_, record)| record.generation() & 1 == 1)
            .map(|(slot, record)| (slot as u32, record))
    }
}

impl<R: Record> std::ops::Index<u32> for Slab<R> {
    type Output = R;

    fn index(&self, slot: u32) -> &R {
        &self.records[slot as usize]
    }
}

impl<R: Record> std::ops::IndexMut<u32> for Slab<R> {
    fn index_mut(&mut self, slot: u32) -> &mut R {
        &mut self.records[slot as usize]
    }
}

/// Implements [`Record`] for a type with fields `generation` and the named link field.
macro_rules! impl_record {
    ($type:ty, $link:ident) => {
        impl $crate::table::slab::Record for $type {
            fn generation(&self) -> u32 {
                self.generation
            }
            fn set_generation(&mut self, generation: u32) {
                self.generation = generation;
            }
            fn next_free(&self) -> u32 {
                self.$link
            }
            fn set_next_free(&mut self, next: u32) {
                self.$link = next;
            }
        }
    };
}
pub(crate) use impl_record;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::session::Session;
    use crate::testing::memory::records;

    #[test]
    fn a_full_table_refuses_and_a_freed_slot_has_another_generation() {
        let mut slab: Slab<Session> = Slab::new(records(3));
        let slots: Vec<_> = (0..3).map(|_| slab.allocate().expect("room")).collect();
        assert_eq!(slots, [0, 1, 2]);
        assert!(slab.is_full() && slab.allocate().is_none());
        let seen = slab[1].generation();
        slab.free(1);
        assert!(slab.live(1, seen).is_none());
        assert_eq!(slab.allocate(), Some(1));
        assert!(slab.live(1, seen).is_none());
        assert_eq!(slab.in_use(), 3);
        assert_eq!(slab.iter().count(), 3);
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn a_double_free_is_caught() {
        let mut slab: Slab<Session> = Slab::new(records(1));
        let slot = slab.allocate().expect("room");
        slab.free(slot);
        slab.free(slot);
    }
}
