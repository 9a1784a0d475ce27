//! The published table of IPv6 neighbours: (port, address) -> MAC.
//!
//! Housekeeping writes, workers read without locks, as in [`super::neighbours`]; an address is two
//! words here, so a slot is four. The writer clears the key before it changes a slot's owner, and a
//! reader looks at the key before and after.

use std::sync::atomic::{AtomicU64, Ordering};

use super::neighbours::{Neighbour, known, value_of};
use crate::packet::ethernet::Mac;

/// Slots; a power of two. Housekeeping looks after half as many neighbours.
const SLOTS: usize = 2048;

/// Slots that a look-up visits at most.
const PROBES: usize = 32;

#[derive(Default)]
struct Slot {
    /// `generation << 8 | port`, generation never 0; 0 is empty.
    key: AtomicU64,
    /// The address.
    upper: AtomicU64,
    lower: AtomicU64,
    /// MAC as [`value_of`] has it.
    mac: AtomicU64,
    /// Of the last owner. Only the writer looks.
    generation: AtomicU64,
}

/// The table.
pub struct NeighbourTable6 {
    slots: Vec<Slot>,
    /// Grows with every change.
    version: AtomicU64,
}

impl Default for NeighbourTable6 {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| Slot::default()).collect();
        Self { slots, version: AtomicU64::new(1) }
    }
}

impl NeighbourTable6 {
    /// Looks up a neighbour.
    #[inline]
    pub fn find(&self, port: u8, address: u128) -> Neighbour {
        for slot in self.probe(port, address) {
            let key = slot.key.load(Ordering::Acquire);
            if key == 0 || key as u8 != port {
                continue;
            }
            let upper = slot.upper.load(Ordering::Acquire);
            let lower = slot.lower.load(Ordering::Acquire);
            let mac = slot.mac.load(Ordering::Acquire);
            if (upper, lower) != halves(address) {
                continue;
            }
            if slot.key.load(Ordering::Acquire) != key {
                return Neighbour::Unknown;
            }
            return known(mac);
        }
        Neighbour::Unknown
    }

    /// Grows with every change: whoever waits for a neighbour looks here first.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Publishes a neighbour, known or being resolved. Only housekeeping calls this.
    /// Says whether there was room.
    pub fn publish(&self, port: u8, address: u128, mac: Option<Mac>) -> bool {
        let published = self.write(port, address, value_of(mac));
        self.version.fetch_add(1, Ordering::Release);
        published
    }

    fn write(&self, port: u8, address: u128, value: u64) -> bool {
        if let Some(slot) = self.slot_of(port, address) {
            slot.mac.store(value, Ordering::Release);
            return true;
        }
        let empty = self.probe(port, address).find(|slot| slot.key.load(Ordering::Relaxed) == 0);
        let Some(slot) = empty else {
            return false;
        };
        let generation = slot.generation.load(Ordering::Relaxed) + 1;
        slot.generation.store(generation, Ordering::Relaxed);
        let (upper, lower) = halves(address);
        slot.upper.store(upper, Ordering::Release);
        slot.lower.store(lower, Ordering::Release);
        slot.mac.store(value, Ordering::Release);
        slot.key.store(generation << 8 | u64::from(port), Ordering::Release);
        true
    }

    /// Takes a neighbour out. Only housekeeping calls this.
    pub fn remove(&self, port: u8, address: u128) {
        if let Some(slot) = self.slot_of(port, address) {
            slot.key.store(0, Ordering::Release);
        }
    }

    /// As the writer sees it.
    fn slot_of(&self, port: u8, address: u128) -> Option<&Slot> {
        let (upper, lower) = halves(address);
        self.probe(port, address).find(|slot| {
            let key = slot.key.load(Ordering::Relaxed);
            key != 0
                && key as u8 == port
                && slot.upper.load(Ordering::Relaxed) == upper
                && slot.lower.load(Ordering::Relaxed) == lower
        })
    }

    fn probe(&self, port: u8, address: u128) -> impl Iterator<Item = &Slot> {
        let (upper, lower) = halves(address);
        let mixed = (upper.rotate_left(29) ^ lower ^ u64::from(port) << 56)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = (mixed >> 40) as usize;
        (0..PROBES).map(move |n| &self.slots[(start + n) % SLOTS])
    }
}

fn halves(address: u128) -> (u64, u64) {
    ((address >> 64) as u64, address as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: u128 = 0xfe80 << 112;

    #[test]
    fn neighbours_are_found_by_port_and_address_until_removed() {
        let table = NeighbourTable6::default();
        let mac = |n: u128| [2, 0, 0, 0, (n >> 8) as u8, n as u8];
        for n in 0..600 {
            assert!(table.publish((n % 3) as u8, LINK | n, Some(mac(n))));
        }
        assert!(table.publish(1, LINK << 8, None));
        assert_eq!(table.find(1, LINK << 8), Neighbour::Resolving);
        for n in 0..600 {
            assert_eq!(table.find((n % 3) as u8, LINK | n), Neighbour::At(mac(n)));
            assert_eq!(table.find((n % 3) as u8 + 1, LINK | n), Neighbour::Unknown);
            assert_eq!(table.find((n % 3) as u8, LINK | n | 1 << 64), Neighbour::Unknown);
        }
        for n in 0..600 {
            table.remove((n % 3) as u8, LINK | n);
            assert_eq!(table.find((n % 3) as u8, LINK | n), Neighbour::Unknown);
        }
        assert!(table.publish(0, 0, Some([2; 6])));
        assert_eq!(table.find(0, 0), Neighbour::At([2; 6]));
    }

    #[test]
    fn a_full_stretch_refuses() {
        let table = NeighbourTable6::default();
        let refused = (0..2 * SLOTS as u128).filter(|n| !table.publish(0, LINK | n, None)).count();
        assert!(refused >= SLOTS);
    }

    /// A reader beside a writer that gives one slot from neighbour to neighbour.
    #[test]
    fn a_reader_never_takes_one_neighbours_mac_for_anothers() {
        let table = NeighbourTable6::default();
        let addresses: Vec<u128> = (0..64).map(|n| LINK | n << 70 | n).collect();
        let mac = |n: usize| [2, 0, 0, 0, 0, n as u8];
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    for (n, address) in addresses.iter().enumerate() {
                        table.publish(0, *address, Some(mac(n)));
                    }
                    for address in &addresses {
                        table.remove(0, *address);
                    }
                }
            });
            let mut seen = 0;
            while seen < 10_000 {
                for (n, address) in addresses.iter().enumerate() {
                    if let Neighbour::At(found) = table.find(0, *address) {
                        assert_eq!(found, mac(n));
                        seen += 1;
                    }
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
