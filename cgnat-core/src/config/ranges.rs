//! Which group an internal address falls to, when the first range that matches wins.

use ipnet::Ipv4Net;

/// First and last address, and the number of the group.
pub(super) type Piece = (u32, u32, usize);

/// Which internal addresses fall to which group, in the order of the file; what an earlier
/// range holds is left out of a later one.
///
/// `ranges` are those of all groups in the order of the file, each with its group. Two
/// prefixes are either disjoint or one holds the other; nothing else is handled here.
pub(super) fn by_group(ranges: impl Iterator<Item = (Ipv4Net, usize)>) -> Vec<Piece> {
    let mut taken: Vec<(u32, u32)> = Vec::new();
    let mut pieces = Vec::new();
    for (range, group) in ranges {
        let (first, last) = (u32::from(range.network()), u32::from(range.broadcast()));
        if taken.iter().any(|earlier| earlier.0 <= first && last <= earlier.1) {
            continue;
        }
        let is_inside = |earlier: &(u32, u32)| first <= earlier.0 && earlier.1 <= last;
        let mut inside: Vec<_> = taken.iter().copied().filter(is_inside).collect();
        inside.sort_unstable();
        let mut next = Some(first);
        for (hole, end) in inside {
            pieces.extend(next.filter(|next| *next < hole).map(|next| (next, hole - 1, group)));
            next = end.checked_add(1);
        }
        pieces.extend(next.filter(|next| *next <= last).map(|next| (next, last, group)));
        taken.retain(|earlier| !is_inside(earlier));
        taken.push((first, last));
    }
    pieces
}

/// The pieces of chosen groups.
pub(super) fn of(pieces: Vec<Piece>, is_chosen: impl Fn(usize) -> bool) -> Vec<(u32, u32)> {
    let chosen = pieces.into_iter().filter(|(_, _, group)| is_chosen(*group));
    chosen.map(|(first, last, _)| (first, last)).collect()
}

/// Addresses of pieces.
pub(super) fn count(pieces: &[(u32, u32)]) -> u64 {
    pieces.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(ranges: &[(&str, usize)], pool: usize) -> Vec<(u32, u32)> {
        let parsed = ranges.iter().map(|(net, of)| (net.parse().expect("a prefix"), *of));
        of(by_group(parsed), |group| group == pool)
    }

    #[test]
    fn the_first_range_that_holds_an_address_has_it() {
        let ranges = [("0.0.0.8/30", 1), ("0.0.0.14/31", 0), ("0.0.0.0/28", 0), ("0.0.0.0/27", 1)];
        assert_eq!(pieces(&ranges, 0), [(14, 15), (0, 7), (12, 13)]);
        assert_eq!(pieces(&ranges, 1), [(8, 11), (16, 31)]);
        assert_eq!(count(&pieces(&ranges, 0)) + count(&pieces(&ranges, 1)), 32);
    }

    #[test]
    fn a_range_at_the_end_of_all_addresses_is_cut_too() {
        let ranges = [("255.255.255.254/31", 1), ("255.255.255.252/30", 0), ("0.0.0.0/0", 1)];
        assert_eq!(pieces(&ranges, 0), [(u32::MAX - 3, u32::MAX - 2)]);
        assert_eq!(count(&pieces(&ranges, 1)), (1 << 32) - 2);
    }

    #[test]
    fn a_range_twice_counts_once() {
        assert_eq!(
            pieces(&[("10.0.0.0/30", 0), ("10.0.0.0/30", 0), ("10.0.0.1/32", 0)], 0).len(),
            1
        );
    }
}
