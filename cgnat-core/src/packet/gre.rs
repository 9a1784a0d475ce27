//! GRE as PPTP uses it: version 1 (RFC 2637 section 4.1), whose call identifier says which of
//! the receiver's calls a packet belongs to. It has no checksum.

use super::{put_u16, u16_at};
use crate::verdict::DropReason;

/// Where the call identifier is.
const CALL: usize = 6;

/// Bytes up to its end.
const HEADER: usize = 8;

/// What version 1 carries: PPP.
const PPP: u16 = 0x880b;

/// K, which version 1 must have, and S, which it may have; all else in that byte is zero.
const KEY: u8 = 0x20;
const SEQUENCE: u8 = 0x10;

/// A, and the version.
const ACKNOWLEDGES: u8 = 0x80;
const VERSION: u8 = 0x07;

/// The call identifier of a GRE packet, or of its first fragment; `None` if it is not of version
/// 1, so that it goes by its addresses alone.
///
/// # Errors
/// [`DropReason::PptpMalformed`] for version 1 with anything else than RFC 2637 says.
pub fn call(gre: &[u8]) -> Result<Option<u16>, DropReason> {
    match gre {
        [_, second, ..] if second & VERSION == 1 => {}
        _ => return Ok(None),
    }
    let is_sound = gre.len() >= HEADER
        && gre[0] & !SEQUENCE == KEY
        && gre[1] & !ACKNOWLEDGES == 1
        && u16_at(gre, 2) == PPP;
    if is_sound { Ok(Some(u16_at(gre, CALL))) } else { Err(DropReason::PptpMalformed) }
}

/// Gives a packet that [`call`] has read another call identifier.
pub fn set_call(gre: &mut [u8], id: u16) {
    put_u16(gre, CALL, id);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_rfc_2637_says_has_a_call_and_no_other_version_is_read() {
        for (gre, expected) in [
            (&[0x20, 1, 0x88, 0x0b, 0, 4, 0x12, 0x34][..], Ok(Some(0x1234))),
            (&[0x30, 1, 0x88, 0x0b, 0, 4, 0, 0, 9, 9, 9, 9], Ok(Some(0))),
            (&[0x20, 0x81, 0x88, 0x0b, 0, 0, 0xff, 0xff, 1, 1, 1, 1], Ok(Some(0xffff))),
            (&[0, 0, 8, 0], Ok(None)),
            (&[0x20, 2, 0x88, 0x0b, 0, 4, 0x12, 0x34], Ok(None)),
            (&[0x20], Ok(None)),
            (&[], Ok(None)),
            // Cut short; without key; with checksum, routing, source route, recursion, a flag;
            // of another protocol.
            (&[0x20, 1, 0x88, 0x0b, 0, 4, 0x12], Err(DropReason::PptpMalformed)),
            (&[0x00, 1, 0x88, 0x0b, 0, 4, 0x12, 0x34], Err(DropReason::PptpMalformed)),
            (&[0xa0, 1, 0x88, 0x0b, 0, 4, 0x12, 0x34], Err(DropReason::PptpMalformed)),
            (&[0x60, 1, 0x88, 0x0b, 0, 4, 0x12, 0x34], Err(DropReason::PptpMalformed)),
            (&[0x28, 1, 0x88, 0x0b, 0, 4, 0x12, 0x34], Err(DropReason::PptpMalformed)),
            (&[0x21, 1, 0x88, 0x0b, 0, 4, 0x12, 0x34], Err(DropReason::PptpMalformed)),
            (&[0x20, 9, 0x88, 0x0b, 0, 4, 0x12, 0x34], Err(DropReason::PptpMalformed)),
            (&[0x20, 1, 0x08, 0x00, 0, 4, 0x12, 0x34], Err(DropReason::PptpMalformed)),
        ] {
            assert_eq!(call(gre), expected, "{gre:02x?}");
        }
        let mut gre = [0x20, 1, 0x88, 0x0b, 0, 0, 1, 2];
        set_call(&mut gre, 0xfffe);
        assert_eq!(gre, [0x20, 1, 0x88, 0x0b, 0, 0, 0xff, 0xfe]);
    }
}
