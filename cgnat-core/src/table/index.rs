//! A bucketised hash index from a 64-bit hash to a record slot.
//!
//! One bucket is one cache line: ten 16-bit tags, ten slots, and the number of entries that
//! found this bucket full and live in their second bucket. A hit reads one line, plus the
//! record that the caller compares; a miss reads one line unless the bucket has spilled.
//! Each hash has two buckets. An entry goes to its first bucket, or to its second when that
//! is full; when both are, one entry of them is moved to its own other bucket. Only when
//! none can move the insert is refused, which at the load a table is sized for does not
//! happen in practice; the work is bounded by the entries of two buckets.
//!
//! Invariants: (1) tag bits are independent of bucket bits; (2) `spilled` of a bucket equals
//! the number of entries of which it is the first bucket and which are stored in the second.

use wide::u16x8;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entries of one bucket.
pub const BUCKET_ENTRIES: usize = 10;

/// Tags in one vector.
const LANES: usize = 8;

/// Share of the entries, in percent, that may be used when a table is sized.
const LOAD_PERCENT: u64 = 75;

/// One cache line of the index.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Bucket {
    tags: [u16; BUCKET_ENTRIES],
    /// Slot + 1; 0 is empty.
    slots: [u32; BUCKET_ENTRIES],
    spilled: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// Both buckets are full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The index.
pub struct Index {
    buckets: &'static mut [Bucket],
}

/// Buckets for a table of `records`.
pub fn buckets_for(records: u32) -> usize {
    let entries = u64::from(records) * 100 / LOAD_PERCENT + 1;
    (entries.div_ceil(BUCKET_ENTRIES as u64)).max(2) as usize
}

impl Index {
    /// An index in zeroed memory.
    ///
    /// # Panics
    /// With fewer than two buckets.
    pub fn new(buckets: &'static mut [Bucket]) -> Self {
        assert!(buckets.len() >= 2, "an index needs two buckets");
        Self { buckets }
    }

    fn places(&self, hash: u64) -> (usize, usize, u16) {
        let count = self.buckets.len() as u64;
        let first = (((hash >> 32) * count) >> 32) as usize;
        // Bits 16..48 through a multiplication: independent of the tag, different from `first`.
        let mixed = (hash >> 16).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mut second = ((mixed * count) >> 32) as usize;
        if second == first {
            second = if first + 1 == self.buckets.len() { 0 } else { first + 1 };
        }
        (first, second, hash as u16)
    }

    /// The first bucket of `hash`: where a hit is, mostly.
    #[inline]
    pub fn bucket_of(&self, hash: u64) -> &Bucket {
        let count = self.buckets.len() as u64;
        &self.buckets[(((hash >> 32) * count) >> 32) as usize]
    }

    /// A slot that may be stored under `hash`, from its tag alone: the first such one. Whether it
    /// is, the record says.
    #[inline]
    pub fn candidate(&self, hash: u64) -> Option<u32> {
        self.look(hash, |_| true)
    }

    /// The candidate in the first bucket, where all but a few in a hundred are.
    #[inline(always)]
    pub fn first_candidate(&self, hash: u64) -> Option<u32> {
        find_in(self.bucket_of(hash), hash as u16, &mut |_| true)
    }

    /// The second bucket of `hash`, if entries of the first are in second ones.
    #[inline]
    pub fn second_of(&self, hash: u64) -> Option<&Bucket> {
        let (first, second, _) = self.places(hash);
        (self.buckets[first].spilled > 0).then(|| &self.buckets[second])
    }

    /// The slot stored under `hash` for which `is_it` says yes.
    #[inline]
    pub fn find(&self, hash: u64, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.look(hash, is_it)
    }

    #[inline(always)]
    fn look(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let (first, second, tag) = self.places(hash);
        if let Some(slot) = find_in(&self.buckets[first], tag, &mut is_it) {
            return Some(slot);
        }
        if self.buckets[first].spilled == 0 {
            return None;
        }
        find_in(&self.buckets[second], tag, &mut is_it)
    }

    /// Stores `slot` under `hash`. The caller has made sure that it is not there yet;
    /// `hash_of` gives the hash that another stored slot was inserted under.
    ///
    /// # Errors
    /// [`Full`] if both buckets are full and nothing in them can move; nothing is changed.
    pub fn insert(
        &mut self,
        hash: u64,
        slot: u32,
        hash_of: impl Fn(u32) -> u64,
    ) -> Result<(), Full> {
        let (first, second, tag) = self.places(hash);
        if put(&mut self.buckets[first], tag, slot) {
            return Ok(());
        }
        if put(&mut self.buckets[second], tag, slot) {
            self.buckets[first].spilled += 1;
            return Ok(());
        }
        for crowded in [first, second] {
            for place in 0..BUCKET_ENTRIES {
                let moved = self.buckets[crowded].slots[place] - 1;
                let (its_first, its_second, its_tag) = self.places(hash_of(moved));
                let goes_to = if its_first == crowded { its_second } else { its_first };
                if !put(&mut self.buckets[goes_to], its_tag, moved) {
                    continue;
                }
                if its_first == crowded {
                    self.buckets[its_first].spilled += 1;
                } else {
                    self.buckets[its_first].spilled -= 1;
                }
                self.buckets[crowded].tags[place] = tag;
                self.buckets[crowded].slots[place] = slot + 1;
                if crowded == second {
                    self.buckets[first].spilled += 1;
                }
                return Ok(());
            }
        }
        Err(Full)
    }

    /// Removes `slot` under `hash`; says whether it was there.
    pub fn remove(&mut self, hash: u64, slot: u32) -> bool {
        let (first, second, tag) = self.places(hash);
        if take(&mut self.buckets[first], tag, slot) {
            return true;
        }
        if self.buckets[first].spilled > 0 && take(&mut self.buckets[second], tag, slot) {
            self.buckets[first].spilled -= 1;
            return true;
        }
        false
    }
}

/// A bit for each place with this tag. Two vectors have them all; those in the middle are in both.
#[inline(always)]
fn places_of(tags: &[u16; BUCKET_ENTRIES], tag: u16) -> u32 {
    let has_tag = |tags: &[u16; LANES]| u16x8::new(*tags).simd_eq(u16x8::splat(tag)).to_bitmask();
    let (Some(first), Some(last)) = (tags.first_chunk(), tags.last_chunk()) else { return 0 };
    has_tag(first) | has_tag(last) << (BUCKET_ENTRIES - LANES)
}

#[inline]
fn find_in(bucket: &Bucket, tag: u16, is_it: &mut impl FnMut(u32) -> bool) -> Option<u32> {
    let mut matches = places_of(&bucket.tags, tag);
    while matches != 0 {
        let place = matches.trailing_zeros() as usize;
        matches &= matches - 1;
        let stored = bucket.slots[place];
        if stored != 0 && is_it(stored - 1) {
            return Some(stored - 1);
        }
    }
    None
}

fn put(bucket: &mut Bucket, tag: u16, slot: u32) -> bool {
    for place in 0..BUCKET_ENTRIES {
        if bucket.slots[place] == 0 {
            bucket.tags[place] = tag;
            bucket.slots[place] = slot + 1;
            return true;
        }
    }
    false
}

fn take(bucket: &mut Bucket, tag: u16, slot: u32) -> bool {
    for place in 0..BUCKET_ENTRIES {
        if bucket.tags[place] == tag && bucket.slots[place] == slot + 1 {
            bucket.slots[place] = 0;
            bucket.tags[place] = 0;
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::hash::HashKey;
    use crate::testing::memory::records;

    fn index_for(count: u32) -> (Index, HashKey) {
        (Index::new(records(buckets_for(count))), HashKey::new([7; 16]))
    }

    #[test]
    fn a_table_sized_for_n_takes_n_and_gives_them_back() {
        let count = 100_000;
        let (mut index, key) = index_for(count);
        for slot in 0..count {
            let hash_of = |slot| key.hash(u64::from(slot) << 24);
            assert_eq!(index.insert(hash_of(slot), slot, hash_of), Ok(()));
        }
        for slot in 0..count {
            let hash = key.hash(u64::from(slot) << 24);
            assert_eq!(index.find(hash, |found| found == slot), Some(slot));
        }
        for slot in 0..count {
            let hash = key.hash(u64::from(slot) << 24);
            assert!(index.remove(hash, slot));
            assert!(!index.remove(hash, slot));
            assert_eq!(index.find(hash, |found| found == slot), None);
        }
        assert!(index.buckets.iter().all(|b| b.spilled == 0 && b.slots == [0; BUCKET_ENTRIES]));
    }

    #[test]
    fn false_tag_matches_are_rare() {
        let count = 100_000;
        let (mut index, key) = index_for(count);
        for slot in 0..count {
            let hash_of = |slot| key.hash(u64::from(slot));
            index.insert(hash_of(slot), slot, hash_of).expect("room");
        }
        let mut compared = 0u32;
        for slot in 0..count {
            index.find(key.hash(u64::from(slot)), |found| {
                compared += 1;
                found == slot
            });
        }
        let false_matches = compared - count;
        assert!(false_matches < count / 1000, "{false_matches} false of {count}");
    }

    /// Flows that whoever knows `key` has chosen for the first sixty buckets.
    fn chosen(index: &Index, key: HashKey, count: usize) -> Vec<u64> {
        let flow = |n: u64| 0x6440_0309 << 16 | (n & 0xffff) | (n >> 16) << 48;
        let wanted = |flow: &u64| {
            let (first, second, _) = index.places(key.hash(*flow));
            first < 60 && second < 60
        };
        (0..).map(flow).filter(wanted).take(count).collect()
    }

    #[test]
    fn flows_chosen_for_few_buckets_spread_over_a_table_with_another_key() {
        let (mut index, known) = index_for(20_000);
        let flows = chosen(&index, known, 1_500);
        // Such a choice would ruin a table whose key is known: hence the key.
        let mut refused = 0;
        for slot in 0..flows.len() as u32 {
            let hash_of = |slot| known.hash(flows[slot as usize]);
            refused += u32::from(index.insert(hash_of(slot), slot, hash_of).is_err());
        }
        assert!(refused > 800, "{refused} of 1,500 refused");
        for seed in 100..120 {
            let (mut index, key) = (index_for(20_000).0, HashKey::new([seed; 16]));
            for slot in 0..flows.len() as u32 {
                let hash_of = |slot| key.hash(flows[slot as usize]);
                assert_eq!(index.insert(hash_of(slot), slot, hash_of), Ok(()));
            }
            // Records that a look-up compares, whether it finds its own or nothing.
            let mut longest = 0;
            for (slot, flow) in (0u32..).zip(&flows) {
                for (flow, wanted) in [(*flow, Some(slot)), (*flow ^ 1 << 40, None)] {
                    let mut compared = 0;
                    let found = index.find(key.hash(flow), |found| {
                        compared += 1;
                        Some(found) == wanted
                    });
                    assert_eq!(found, wanted);
                    longest = longest.max(compared);
                }
            }
            assert!(longest <= 3, "{longest} records were compared");
        }
    }

    #[test]
    fn a_full_pair_of_buckets_refuses_and_changes_nothing() {
        let mut index = Index::new(records(2));
        let hash = 0x1234_5678_9abc_def0;
        for slot in 0..2 * BUCKET_ENTRIES as u32 {
            assert_eq!(index.insert(hash, slot, |_| hash), Ok(()));
        }
        assert_eq!(index.insert(hash, 99, |_| hash), Err(Full));
        assert_eq!(index.find(hash, |found| found == 99), None);
        assert!(index.remove(hash, 3));
        assert_eq!(index.insert(hash, 99, |_| hash), Ok(()));
        assert_eq!(index.find(hash, |found| found == 99), Some(99));
    }
}
