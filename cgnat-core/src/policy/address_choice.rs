//! Which external address of a pool a new subscriber is paired with.

pub use crate::config::{AddressSelection, PoolRules};

/// An address that could be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Subscribers that are paired with it.
    pub subscribers: u32,
    /// One of its free blocks is at hand; else it must be asked for.
    pub here: bool,
}

/// The address that `selection` says, of `count`; `None` if none can be had. `start` is a
/// random address, or the one whose turn it is.
///
/// Reads each address once at most; the configuration bounds `count` where this is used.
pub fn choose(
    selection: AddressSelection,
    count: u32,
    start: u32,
    candidate: impl Fn(u32) -> Option<Candidate>,
) -> Option<u32> {
    let first = match selection {
        AddressSelection::Fill => 0,
        _ => start % count.max(1),
    };
    let all = (first..count).chain(0..first);
    let mut usable = all.filter_map(|address| Some((candidate(address)?, address)));
    match selection {
        AddressSelection::Fill | AddressSelection::RoundRobin => usable.next(),
        // Of equal ones the first, and rather one that need not be asked for.
        AddressSelection::LeastUsed => usable.min_by_key(|(c, _)| (c.subscribers, !c.here)),
        AddressSelection::Random | AddressSelection::SubscriberBits(_) => {
            usable.min_by_key(|(c, _)| !c.here)
        }
    }
    .map(|(_, address)| address)
}

/// The bits of `address` that `mask` names, side by side: the number of its external address.
pub fn bits_of(address: u32, mask: u32) -> u32 {
    let mut number = 0;
    let mut left = mask;
    let mut place = 0;
    while left != 0 {
        number |= (address >> left.trailing_zeros() & 1) << place;
        left &= left - 1;
        place += 1;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;
    use AddressSelection::*;

    #[test]
    fn each_selection_takes_what_its_name_says() {
        let uses = [Some((3, true)), None, Some((1, false)), Some((1, true)), Some((9, false))];
        let of =
            |n: u32| uses[n as usize].map(|(subscribers, here)| Candidate { subscribers, here });
        assert_eq!(choose(Fill, 5, 3, of), Some(0));
        assert_eq!(choose(RoundRobin, 5, 1, of), Some(2));
        assert_eq!(choose(RoundRobin, 5, 4, of), Some(4));
        assert_eq!(choose(RoundRobin, 5, 5, of), Some(0));
        for start in 0..5 {
            assert_eq!(choose(LeastUsed, 5, start, of), Some(3), "at hand");
        }
        assert_eq!(choose(Random, 5, 1, of), Some(3));
        assert_eq!(choose(Random, 5, 4, of), Some(0));
        assert_eq!(choose(LeastUsed, 5, 0, |_| None), None);
        assert_eq!(choose(Fill, 0, 0, of), None);
    }

    #[test]
    fn bits_lie_side_by_side_in_their_order() {
        // The 32 addresses of `100.64.0.i:255.192.0.31`.
        for n in 0..32 {
            assert_eq!(bits_of(0x6440_0000 | n | 0xffe0, 31), n);
        }
        assert_eq!(bits_of(0xffff_ffff, 0x0101_8000), 7);
        assert_eq!(bits_of(0x0100_8000, 0x0101_8000), 0b101);
        assert_eq!(bits_of(7, 0), 0);
    }
}
