//! The published neighbour table: (port, address) -> MAC.
//!
//! Housekeeping writes, workers read without locks. A slot is two words: a key that names
//! port, address and a generation, and the MAC. The writer clears the key before it changes
//! a slot's owner, and a reader looks at the key before and after, so it never takes one
//! neighbour's MAC for another's.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::packet::ethernet::Mac;

/// Slots; a power of two. Housekeeping looks after half as many neighbours.
const SLOTS: usize = 4096;

/// Slots that a look-up visits at most.
const PROBES: usize = 32;

struct Slot {
    /// `generation << 40 | port << 32 | address`, generation never 0; 0 is empty.
    key: AtomicU64,
    /// MAC in the low 48 bits; bit 63 says that it is known.
    mac: AtomicU64,
}

const KNOWN: u64 = 1 << 63;
const NAME: u64 = (1 << 40) - 1;

/// The table.
pub struct NeighbourTable {
    slots: Vec<Slot>,
    /// Grows with every change.
    version: AtomicU64,
}

/// What the table says of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbour {
    /// Not in the table.
    Unknown,
    /// Being resolved.
    Resolving,
    /// Its MAC.
    At(Mac),
}

impl Default for NeighbourTable {
    fn default() -> Self {
        let slot = || Slot { key: AtomicU64::new(0), mac: AtomicU64::new(0) };
        Self { slots: (0..SLOTS).map(|_| slot()).collect(), version: AtomicU64::new(1) }
    }
}

impl NeighbourTable {
    /// Looks up a neighbour.
    #[inline]
    pub fn find(&self, port: u8, address: u32) -> Neighbour {
        let wanted = name(port, address);
        for slot in self.probe(wanted) {
            let key = slot.key.load(Ordering::Acquire);
            if key == 0 {
                continue;
            }
            if key & NAME != wanted {
                continue;
            }
            let mac = slot.mac.load(Ordering::Acquire);
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
    pub fn publish(&self, port: u8, address: u32, mac: Option<Mac>) -> bool {
        let published = self.write(port, address, mac);
        self.version.fetch_add(1, Ordering::Release);
        published
    }

    fn write(&self, port: u8, address: u32, mac: Option<Mac>) -> bool {
        let wanted = name(port, address);
        let value = value_of(mac);
        let mut empty = None;
        for slot in self.probe(wanted) {
            let key = slot.key.load(Ordering::Relaxed);
            if key & NAME == wanted && key != 0 {
                slot.mac.store(value, Ordering::Release);
                return true;
            }
            if key == 0 && empty.is_none() {
                empty = Some(slot);
            }
        }
        let Some(slot) = empty else {
            return false;
        };
        // The generation lives on in the MAC word's spare bits while the slot is empty.
        let generation = (slot.mac.load(Ordering::Relaxed) >> 48 & 0x7fff).wrapping_add(1);
        let generation = generation.max(1) & 0x7fff;
        slot.mac.store(value, Ordering::Release);
        slot.key.store(generation << 40 | wanted, Ordering::Release);
        true
    }

    /// Takes a neighbour out. Only housekeeping calls this.
    pub fn remove(&self, port: u8, address: u32) {
        let wanted = name(port, address);
        for slot in self.probe(wanted) {
            let key = slot.key.load(Ordering::Relaxed);
            if key != 0 && key & NAME == wanted {
                slot.key.store(0, Ordering::Release);
                slot.mac.store((key >> 40) << 48 & !KNOWN, Ordering::Release);
                return;
            }
        }
    }

    fn probe(&self, wanted: u64) -> impl Iterator<Item = &Slot> {
        let start = (wanted.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize;
        (0..PROBES).map(move |n| &self.slots[(start + n) % SLOTS])
    }
}

fn name(port: u8, address: u32) -> u64 {
    u64::from(port) << 32 | u64::from(address)
}

/// A MAC in a word: in the low 48 bits, bit 63 says that it is known.
pub(super) fn value_of(mac: Option<Mac>) -> u64 {
    mac.map_or(0, |mac| KNOWN | pack(mac))
}

/// What a word of [`value_of`] says.
#[inline]
pub(super) fn known(value: u64) -> Neighbour {
    if value & KNOWN == 0 { Neighbour::Resolving } else { Neighbour::At(unpack(value)) }
}

fn pack(mac: Mac) -> u64 {
    mac.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn unpack(value: u64) -> Mac {
    let bytes = value.to_be_bytes();
    [bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_found_by_port_and_address_until_removed() {
        let table = NeighbourTable::default();
        for n in 0..1000u32 {
            assert!(table.publish((n % 3) as u8, n, Some([2, 0, 0, 0, (n >> 8) as u8, n as u8])));
        }
        assert!(table.publish(1, 5000, None));
        for n in 0..1000u32 {
            let mac = [2, 0, 0, 0, (n >> 8) as u8, n as u8];
            assert_eq!(table.find((n % 3) as u8, n), Neighbour::At(mac));
            assert_eq!(table.find((n % 3) as u8 + 1, n), Neighbour::Unknown);
        }
        assert_eq!(table.find(1, 5000), Neighbour::Resolving);
        for n in 0..1000u32 {
            table.remove((n % 3) as u8, n);
            assert_eq!(table.find((n % 3) as u8, n), Neighbour::Unknown);
        }
        assert!(table.publish(0, 0, Some([2; 6])));
        assert_eq!(table.find(0, 0), Neighbour::At([2; 6]));
    }

    #[test]
    fn a_full_stretch_refuses() {
        let table = NeighbourTable::default();
        let mut refused = 0;
        for n in 0..2 * SLOTS as u32 {
            refused += u32::from(!table.publish(0, n, None));
        }
        assert!(refused >= SLOTS as u32);
    }
}
