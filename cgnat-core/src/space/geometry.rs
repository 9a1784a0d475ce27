//! How one pool's ports are cut into blocks.
//!
//! Every address of a pool is cut alike. A port-block pool has blocks of one size. A
//! deterministic pool (RFC 7422) has one range for each subscriber, of any size, and behind
//! the ranges its overflow: ordinary blocks, lent on demand.
//!
//! ```text
//!   port-block     first_port [ block 0 | block 1 | ...                        ]
//!   deterministic  first_port [ range 0 | range 1 | ... ][ overflow 0 | 1 | ... ] rest
//!                               C ranges of n ports         blocks
//! ```
//!
//! Range `i mod C` of address `i / C` belongs to subscriber number `i`: the sequential
//! algorithm of RFC 7422 section 2. The packet path and `lookup` share this arithmetic.
//!
//! A pool has more places for addresses than addresses: those may be taken while it runs. An
//! address has the same place, and so the same blocks, for as long as it is ours.
//!
//! Always true: blocks do not overlap; a range without a subscriber has a number and nothing else;
//! a block of a vacant place, or one that is mapped statically as a whole, is lent to nobody.

use super::numbering::Numbering;
use crate::config::{AddressSelection, Mode, Overloading, Pool, PoolRules};
use crate::endpoint::{ExternalAddress, Protocol};
use crate::policy::filtering::Filtering;

/// Neighbouring blocks of one size, on every address of a pool.
#[derive(Debug, Clone)]
struct Section {
    /// Offset of the first port from the pool's first port.
    first: u32,
    /// Ports of all its blocks on one address.
    ports: u32,
    /// Ports of a block.
    size: u16,
    /// Blocks on one address.
    count: u32,
    /// `2^32 / size`, rounded up: see [`Section::nth`].
    reciprocal: u64,
    hold_s: u32,
}

impl Section {
    fn new(first: u32, room: u32, size: u16, hold_s: u32) -> Self {
        let count = room / u32::from(size);
        let reciprocal = (1 << 32) / u64::from(size) + 1;
        Self { first, ports: count * u32::from(size), size, count, reciprocal, hold_s }
    }

    /// The block that holds the port at `offset` in this section.
    ///
    /// A multiplication instead of a division: with offset and size below 2^16 the error of
    /// the reciprocal stays below one in the result, so the shift yields the exact quotient.
    #[inline]
    fn nth(&self, offset: u32) -> u32 {
        ((u64::from(offset) * self.reciprocal) >> 32) as u32
    }
}

/// What an address may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressState {
    /// Nothing; no address stands at this place.
    Vacant,
    /// Everything.
    Open,
    /// Mappings that exist, and new ones in blocks that subscribers hold; none is lent.
    Draining,
    /// As [`AddressState::Draining`]; afterwards the address is forgotten.
    Leaving,
}

/// A place for an external address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The address; 0.0.0.0 at a vacant place.
    pub address: ExternalAddress,
    /// What it may be used for.
    pub state: AddressState,
}

impl Place {
    pub(super) const VACANT: Place =
        Place { address: ExternalAddress(0), state: AddressState::Vacant };
}

/// One pool.
#[derive(Debug, Clone)]
pub struct PoolGeometry {
    /// Places of external addresses; at the start the addresses are sorted, vacant ones last.
    pub(super) places: Vec<Place>,
    /// First port that is lent.
    pub first_port: u16,
    /// Blocks and ranges that have a number, per address.
    pub blocks_per_address: u32,
    /// Number of the pool's first block.
    pub first_block: u32,
    /// Blocks per subscriber, its range among them.
    pub max_blocks: u8,
    /// Who may use a mapping from outside, by [`Protocol`].
    pub filtering: [Filtering; Protocol::COUNT],
    /// Destination ports towards which external ports are overloaded.
    pub overloading: Overloading,
    /// Segment size above which SYNs are clamped, if any.
    pub mss_clamp: Option<u16>,
    /// How ports are chosen and rest.
    pub rules: PoolRules,
    /// Port blocks, or the ranges of a deterministic pool.
    main: Section,
    /// Overflow of a deterministic pool; may have no blocks.
    overflow: Section,
    /// Subscribers of a deterministic pool.
    numbering: Option<Numbering>,
    /// Sorted numbers of blocks that have no port to lend.
    left_out: Vec<u32>,
    gives_any_port: bool,
}

impl PoolGeometry {
    /// Geometry of `pool`, whose blocks are numbered from `first_block`. `subscribers` are
    /// its first and last addresses, piece by piece in the order of their numbers.
    pub(super) fn new(pool: &Pool, first_block: u32, subscribers: &[(u32, u32)]) -> Self {
        let ports = u32::from(pool.last_port()) - u32::from(pool.first_port()) + 1;
        let kept = pool.overflow().map_or(0, |overflow| u32::from(overflow.ports()));
        let main = Section::new(0, ports - kept, pool.block_size(), pool.hold_s());
        let overflow = match pool.overflow() {
            // What the ranges leave over is overflow too.
            Some(of) => Section::new(main.ports, ports - main.ports, of.block_size(), of.hold_s()),
            None => Section { count: 0, ports: 0, ..main.clone() },
        };
        let deterministic = pool.mode() == Mode::Deterministic;
        let state = |address| match pool.drain().binary_search(address) {
            Ok(_) => AddressState::Draining,
            Err(_) => AddressState::Open,
        };
        let places = pool.addresses().iter().map(|address| Place {
            address: ExternalAddress::from(*address),
            state: state(address),
        });
        let spare = std::iter::repeat_n(Place::VACANT, pool.spare_addresses() as usize);
        Self {
            places: places.chain(spare).collect(),
            first_port: pool.first_port(),
            blocks_per_address: main.count + overflow.count,
            first_block,
            max_blocks: pool.max_blocks(),
            filtering: pool.filtering(),
            overloading: pool.overloading().clone(),
            mss_clamp: pool.mss_clamp(),
            rules: pool.rules().clone(),
            main,
            overflow,
            numbering: deterministic.then(|| Numbering::new(subscribers)),
            left_out: Vec::new(),
            gives_any_port: pool.overloading().is_empty()
                && !(pool.rules().keeps_port()
                    || pool.rules().keeps_parity()
                    || pool.rules().keeps_range()),
        }
    }

    /// Whether each free port will do for each flow, and is its alone.
    #[inline]
    pub fn gives_any_port(&self) -> bool {
        self.gives_any_port
    }

    /// Places of external addresses, by index.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// What the address with this index may be used for.
    pub fn state(&self, address: u32) -> AddressState {
        self.places[address as usize].state
    }

    /// Addresses that subscribers may be paired with.
    pub fn open_addresses(&self) -> u32 {
        self.places.iter().filter(|place| place.state == AddressState::Open).count() as u32
    }

    /// Whether addresses may come and go: the address of a subscriber does not follow from
    /// the subscriber.
    pub fn is_flexible(&self) -> bool {
        let by_bits = self.rules.address_selection();
        !self.is_deterministic() && !matches!(by_bits, AddressSelection::SubscriberBits(_))
    }

    /// Numbers of the pool's blocks, of those too that have no memory.
    pub fn numbers(&self) -> std::ops::Range<u32> {
        let count = self.blocks_per_address * self.places.len() as u32;
        self.first_block..self.first_block + count
    }

    /// Numbers of the blocks of one address.
    pub fn numbers_at(&self, address: u32) -> std::ops::Range<u32> {
        let first = self.first_block + address * self.blocks_per_address;
        first..first + self.blocks_per_address
    }

    /// Blocks and ranges that have memory: all but the ranges that are nobody's.
    pub fn blocks(&self) -> impl Iterator<Item = u32> {
        self.numbers()
            .filter(|block| !self.is_range(*block) || self.subscriber_of(*block).is_some())
    }

    /// Whether a block of this pool is an address's of ours and has something to lend.
    pub fn is_ours(&self, block: u32) -> bool {
        self.state(self.address_of(block)) != AddressState::Vacant
            && self.left_out.binary_search(&block).is_err()
    }

    /// Whether a block of this pool may be lent.
    pub fn is_lendable(&self, block: u32) -> bool {
        self.state(self.address_of(block)) == AddressState::Open && self.is_ours(block)
    }

    /// Leaves out the blocks that have nothing to lend: each port is in `reserved`, which is
    /// sorted, or excluded.
    pub(super) fn leave_out_full(&mut self, reserved: &[(u32, u16)]) {
        let numbers = self.numbers();
        let mut full = Vec::new();
        for own in reserved.chunk_by(|a, b| a.0 == b.0) {
            let block = own[0].0;
            if !numbers.contains(&block) {
                continue;
            }
            let (first, last) = self.ports_of(block);
            let excluded = |port: &u16| {
                self.rules.exclude_ports().iter().any(|(a, b)| (*a..=*b).contains(port))
            };
            let is_reserved = |port: &u16| own.binary_search(&(block, *port)).is_ok();
            if (first..=last).all(|port| is_reserved(&port) || excluded(&port)) {
                full.push(block);
            }
        }
        self.left_out = full;
    }

    /// Blocks of one address that are lent on demand.
    pub fn dynamic_per_address(&self) -> u32 {
        if self.is_deterministic() { self.overflow.count } else { self.main.count }
    }

    /// Whether subscribers have ranges of their own (RFC 7422).
    pub fn is_deterministic(&self) -> bool {
        self.numbering.is_some()
    }

    /// Whether a block of this pool is the range of one subscriber.
    pub fn is_range(&self, block: u32) -> bool {
        self.is_deterministic() && self.place(block).1 < self.main.count
    }

    /// Ports of a block of this pool.
    pub fn size_of(&self, block: u32) -> u16 {
        self.section(block).0.size
    }

    /// Seconds that a freed port of a block rests.
    pub fn hold_s_of(&self, block: u32) -> u32 {
        self.section(block).0.hold_s
    }

    /// First port of a block of this pool.
    pub fn first_port_of(&self, block: u32) -> u16 {
        let (section, nth) = self.section(block);
        self.first_port + (section.first + nth * u32::from(section.size)) as u16
    }

    /// Index of the address of a block of this pool.
    pub fn address_of(&self, block: u32) -> u32 {
        self.place(block).0
    }

    /// Position of a block among the blocks of its address that are lent on demand.
    pub fn dynamic_nth(&self, block: u32) -> Option<u32> {
        let nth = self.place(block).1;
        if self.is_deterministic() { nth.checked_sub(self.main.count) } else { Some(nth) }
    }

    /// The block that a port of the address with this index lies in.
    #[inline]
    pub fn block_at(&self, address: u32, port: u16) -> Option<u32> {
        self.spot_at(address, port).map(|(block, ..)| block)
    }

    /// The block, its size, and which of its ports a port of the address with this index is.
    #[inline]
    pub fn spot_at(&self, address: u32, port: u16) -> Option<(u32, u16, u16)> {
        let offset = u32::from(port.checked_sub(self.first_port)?);
        let (section, offset, before) = match offset.checked_sub(self.main.ports) {
            None => (&self.main, offset, 0),
            Some(behind) if behind < self.overflow.ports => {
                (&self.overflow, behind, self.main.count)
            }
            Some(_) => return None,
        };
        let nth = section.nth(offset);
        let block = self.first_block + address * self.blocks_per_address + before + nth;
        Some((block, section.size, (offset - nth * u32::from(section.size)) as u16))
    }

    /// The range of an internal address (f1 of RFC 7422 section 2): none if the pool is not
    /// deterministic or the address does not use it.
    pub fn range_of(&self, internal: u32) -> Option<u32> {
        let number = self.numbering.as_ref()?.number_of(internal)?;
        let (address, nth) = (number / self.main.count, number % self.main.count);
        Some(self.first_block + address * self.blocks_per_address + nth)
    }

    /// The internal address whose range a block is (f2 of RFC 7422 section 2).
    pub fn subscriber_of(&self, block: u32) -> Option<u32> {
        let numbering = self.numbering.as_ref()?;
        if !self.is_range(block) {
            return None;
        }
        numbering.address_of(self.subscriber_number(block))
    }

    /// Number of the subscriber that a range of a deterministic pool is for.
    pub(super) fn subscriber_number(&self, range: u32) -> u32 {
        let (address, nth) = self.place(range);
        address * self.main.count + nth
    }

    /// First and last port of a block of this pool.
    pub fn ports_of(&self, block: u32) -> (u16, u16) {
        let first = self.first_port_of(block);
        (first, first + (self.size_of(block) - 1))
    }

    /// First and last port of the overflow of each address.
    pub fn overflow_ports(&self) -> Option<(u16, u16)> {
        let first = self.first_port + self.overflow.first as u16;
        (self.overflow.count > 0).then(|| (first, first + (self.overflow.ports - 1) as u16))
    }

    /// Index of the address of a block, and its position on that address.
    fn place(&self, block: u32) -> (u32, u32) {
        let nth = block - self.first_block;
        (nth / self.blocks_per_address, nth % self.blocks_per_address)
    }

    fn section(&self, block: u32) -> (&Section, u32) {
        let nth = self.place(block).1;
        match nth.checked_sub(self.main.count) {
            Some(nth) => (&self.overflow, nth),
            None => (&self.main, nth),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reciprocal_divides_exactly_for_every_size_and_the_offsets_that_matter() {
        for size in 1..=u16::MAX {
            let section = Section::new(0, 65_535, size, 0);
            // Just before and at each multiple; in between the quotient cannot change.
            for nth in 1..=65_535 / u32::from(size) {
                let at = nth * u32::from(size);
                assert_eq!((section.nth(at - 1), section.nth(at)), (nth - 1, nth), "{size}");
            }
            assert_eq!(section.nth(65_535), 65_535 / u32::from(size));
        }
    }
}
