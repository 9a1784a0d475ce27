//! IPv4 options (RFC 791 section 3.1): what does not pass, what a router records, and what
//! was recorded inside and must not be seen outside.
//!
//! Source routes do not pass (RFC 5508 section 7.3). Of the others only two carry addresses:
//! record route and internet timestamp. All else is unknown here and passes as it is (RFC
//! 1812 section 4.2.2.1). Every function takes a header whose length was checked; all but
//! [`check`] one whose options passed it. None is on the way of a packet without options.

use std::ops::Range;

use super::{checksum, put_u16, put_u32};
use crate::verdict::DropReason;

/// Bytes of a header without options.
const FIXED: usize = 20;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// Checks the options of a header.
///
/// # Errors
/// A source route, or an option whose lengths or pointer are impossible.
#[cold]
pub fn check(header: &[u8]) -> Result<(), DropReason> {
    let mut at = FIXED;
    while let Some(option) = next(header, at)? {
        at = option.end;
        let option = &header[option];
        if matches!(option[0], LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE) {
            return Err(DropReason::SourceRoute);
        }
        if matches!(option[0], RECORD_ROUTE | TIMESTAMP) && slots(option).is_none() {
            return Err(DropReason::IpOptions);
        }
    }
    Ok(())
}

/// Takes out of a header every address that was recorded so far, and whatever may stand in
/// room that is not used: the outside sees `address` instead, and no internal one (RFC 5508
/// REQ-5c). Places that a sender named for time stamps count as recorded.
#[cold]
pub fn hide(header: &mut [u8], address: u32) {
    let mut at = FIXED;
    while let Ok(Some(range)) = next(header, at) {
        at = range.end;
        let option = &mut header[range];
        let Some(Slots { first, size, used, addressed, named }) = slots(option) else {
            continue;
        };
        for (n, slot) in option[first..].chunks_exact_mut(size).enumerate() {
            if n >= used && !named {
                slot.fill(0);
            } else if addressed {
                put_u32(slot, 0, address);
            }
        }
    }
    // What follows the end of the list is padding.
    if let Some(end) = header.get(at..).and_then(|rest| rest.iter().position(|b| *b == END)) {
        header[at + end..].fill(0);
    }
    mend(header);
}

/// Records `address`, by which the packet leaves, where there is room for it (RFC 1812
/// section 5.3.13.3). Time stamps are not recorded.
#[cold]
pub fn record(header: &mut [u8], address: u32) {
    let mut at = FIXED;
    while let Ok(Some(range)) = next(header, at) {
        at = range.end;
        let option = &mut header[range];
        if option[0] != RECORD_ROUTE {
            continue;
        }
        let room = slots(option).map(|slots| slots.first + slots.used * slots.size);
        if let Some(place) = room.filter(|place| place + 4 <= option.len()) {
            put_u32(option, place, address);
            option[2] += 4;
        }
    }
    mend(header);
}

/// Where the next option at or behind `at` stands that is no padding.
fn next(header: &[u8], mut at: usize) -> Result<Option<Range<usize>>, DropReason> {
    while header.get(at) == Some(&NO_OPERATION) {
        at += 1;
    }
    match header.get(at) {
        None | Some(&END) => Ok(None),
        Some(_) => {
            let length = usize::from(*header.get(at + 1).ok_or(DropReason::IpOptions)?);
            if length < 2 || at + length > header.len() {
                return Err(DropReason::IpOptions);
            }
            Ok(Some(at..at + length))
        }
    }
}

/// The slots of an option that routers fill.
struct Slots {
    /// Offset of the first.
    first: usize,
    /// Bytes of each.
    size: usize,
    /// How many are filled.
    used: usize,
    /// Each begins with an address.
    addressed: bool,
    /// The sender wrote the addresses; routers add the time.
    named: bool,
}

/// The slots of a record route or timestamp option; `None` if it is another or impossible.
fn slots(option: &[u8]) -> Option<Slots> {
    let (first, size, addressed, named) = match option[0] {
        RECORD_ROUTE => (3, 4, true, false),
        TIMESTAMP => match option.get(3)? & 0x0f {
            0 => (4, 4, false, false),
            1 => (4, 8, true, false),
            3 => (4, 8, true, true),
            _ => return None,
        },
        _ => return None,
    };
    // The pointer counts bytes of the option from 1.
    let filled = usize::from(*option.get(2)?).checked_sub(first + 1)?;
    let room = option.len().checked_sub(first)?;
    (filled.is_multiple_of(size) && room.is_multiple_of(size)).then_some(Slots {
        first,
        size,
        used: filled / size,
        addressed,
        named,
    })
}

/// Writes the checksum of a header anew. It was right before, so this hides no damage.
fn mend(header: &mut [u8]) {
    put_u16(header, 10, 0);
    let sum = checksum::full(header);
    put_u16(header, 10, sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(options: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 20 + options.len().next_multiple_of(4)];
        header[0] = 0x40 | (header.len() / 4) as u8;
        header[20..20 + options.len()].copy_from_slice(options);
        mend(&mut header);
        header
    }

    #[test]
    fn source_routes_and_impossible_options_are_refused() {
        let refused: [(&[u8], DropReason); 11] = [
            (&[131, 7, 4, 10, 0, 0, 1, 0], DropReason::SourceRoute),
            (&[1, 137, 7, 4, 10, 0, 0, 1], DropReason::SourceRoute),
            (&[7, 7, 4, 0, 0, 0, 0, 137, 3, 4], DropReason::SourceRoute),
            (&[131, 0, 4, 0], DropReason::IpOptions),
            (&[131, 9, 4, 0], DropReason::IpOptions),
            (&[1, 1, 1, 131], DropReason::IpOptions),
            (&[7, 8, 4, 0, 0, 0, 0, 0], DropReason::IpOptions),
            (&[7, 7, 3, 0, 0, 0, 0, 0], DropReason::IpOptions),
            (&[7, 7, 6, 0, 0, 0, 0, 0], DropReason::IpOptions),
            (&[68, 12, 5, 2, 0, 0, 0, 0, 0, 0, 0, 0], DropReason::IpOptions),
            (&[68, 3, 5, 0], DropReason::IpOptions),
        ];
        for (options, reason) in refused {
            assert_eq!(check(&header(options)), Err(reason), "{options:?}");
        }
        for options in [&[1u8, 1, 1, 0][..], &[148, 4, 0, 0], &[7, 3, 4, 0], &[0, 131, 7, 4]] {
            assert_eq!(check(&header(options)), Ok(()), "{options:?}");
        }
    }

    #[test]
    fn recorded_addresses_and_unused_room_are_replaced() {
        let address = 0xcb00_7101;
        let cases: [(&[u8], &[u8]); 5] = [
            (&[1, 7, 11, 8, 10, 0, 0, 1, 9, 9, 9, 9], &[1, 7, 11, 8, 203, 0, 113, 1, 0, 0, 0, 0]),
            (&[7, 7, 255 - 3, 10, 0, 0, 1, 1], &[7, 7, 252, 203, 0, 113, 1, 1]),
            (&[68, 8, 5, 0, 10, 0, 0, 1], &[68, 8, 5, 0, 0, 0, 0, 0]),
            (
                &[68, 12, 13, 1, 10, 0, 0, 1, 1, 2, 3, 4],
                &[68, 12, 13, 1, 203, 0, 113, 1, 1, 2, 3, 4],
            ),
            (&[68, 12, 5, 3, 10, 0, 0, 1, 0, 0, 0, 0], &[68, 12, 5, 3, 203, 0, 113, 1, 0, 0, 0, 0]),
        ];
        for (before, after) in cases {
            let mut hidden = header(before);
            assert_eq!(check(&hidden), Ok(()), "{before:?}");
            hide(&mut hidden, address);
            assert_eq!(hidden, header(after));
        }
        let mut padded = header(&[1, 0, 10, 1]);
        hide(&mut padded, address);
        assert_eq!(padded, header(&[1, 0, 0, 0]));
    }

    #[test]
    fn a_route_is_recorded_until_it_is_full() {
        let mut recorded = header(&[1, 7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
        for _ in 0..3 {
            record(&mut recorded, 0xc000_0202);
        }
        assert_eq!(recorded, header(&[1, 7, 11, 12, 192, 0, 2, 2, 192, 0, 2, 2]));
    }

    #[test]
    fn no_options_make_any_of_it_panic() {
        let mut seed = 1u32;
        for _ in 0..200_000 {
            let mut options = [0u8; 40];
            for byte in &mut options {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let choice = [1, 7, 68, 131, 3, 4, 5, 7, 8, 11, 12];
                let any = (seed >> 24) as u8;
                *byte = if any < 60 { any } else { choice[usize::from(any) % choice.len()] };
            }
            let mut header = header(&options[..4 * (seed as usize % 11)]);
            let checked = check(&header);
            hide(&mut header, 0xcb00_7101);
            record(&mut header, 0xcb00_7101);
            if checked.is_ok() {
                assert_eq!(check(&header), Ok(()));
            }
        }
    }
}
