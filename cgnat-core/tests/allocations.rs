//! Nothing is allocated for a packet: not for a hit, not for the first of a flow, and not for the
//! end of a mapping either. Counted by an allocator that counts.

use cgnat_core::testing::round::{Case, FLOWS, Round};

/// Allocations of this thread, as often as they were asked for.
fn allocations(of: impl FnOnce()) -> u64 {
    allocation_counter::measure(of).count_total
}

#[test]
fn an_allocation_would_be_counted() {
    let mut kept = Vec::new();
    assert_eq!(allocations(|| kept.push(Box::new(1))), 2, "{kept:?}");
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn no_packet_allocates() {
    for case in Case::ALL.into_iter().filter(|case| *case != Case::Expiry) {
        let mut round = Round::new();
        round.prepare(case);
        let allocated = allocations(|| round.polls());
        assert_eq!(round.check(case), FLOWS, "{}", case.name());
        assert_eq!(allocated, 0, "{}: allocations for {FLOWS} packets", case.name());
    }
}

#[test]
fn the_end_of_mappings_allocates_nothing_in_the_worker() {
    let mut round = Round::new();
    round.prepare(Case::Expiry);
    let (before, mut allocated) = (round.mappings(), 0);
    assert!(before >= FLOWS as u64, "{before} mappings");
    while round.keep_house() {
        allocated += allocations(|| round.polls());
    }
    assert_eq!(round.mappings(), 0);
    assert_eq!(allocated, 0, "allocations for {before} mappings");
}
