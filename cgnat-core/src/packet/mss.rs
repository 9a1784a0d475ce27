//! The maximum segment size that a SYN offers (RFC 9293 section 3.7.1), clamped so that
//! segments fit a path whose errors do not come back.
//!
//! It is never raised. A SYN without the option stays as it is: the peer then sends at most
//! 536 bytes, which is less than any clamp may be.

use super::checksum::Delta;
use super::ipv4::Header;
use super::{put_u16, u16_at};

/// Bytes of a TCP header without options; behind it they begin.
const FIXED: usize = 20;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Clamps every segment size that a TCP packet, whose lengths were checked, offers.
pub fn clamp(packet: &mut [u8], header: &Header, most: u16) {
    let segment = &mut packet[header.header_len..];
    let end = (usize::from(segment[12] >> 4) * 4).min(segment.len());
    let mut at = FIXED;
    // Each step is at least one byte of at most forty.
    while at < end {
        match segment[at] {
            END => return,
            NO_OPERATION => at += 1,
            kind => {
                let Some(length) = segment[..end].get(at + 1).map(|length| usize::from(*length))
                else {
                    return;
                };
                if length < 2 || at + length > end {
                    return;
                }
                if kind == MAXIMUM_SEGMENT_SIZE && length == 4 {
                    lower(segment, at + 2, most);
                }
                at += length;
            }
        }
    }
}

/// Writes `most` at `at` if what stands there is more.
fn lower(segment: &mut [u8], at: usize, most: u16) {
    let old = u16_at(segment, at);
    if old <= most {
        return;
    }
    put_u16(segment, at, most);
    // At an odd place the two bytes belong to two words of the sum, each in the other half.
    let delta = match at % 2 {
        0 => Delta::NONE.word(old, most),
        _ => Delta::NONE.word(old.swap_bytes(), most.swap_bytes()),
    };
    let updated = delta.apply(u16_at(segment, 16));
    put_u16(segment, 16, updated);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{checksum, ipv4};
    use crate::testing::packets;

    /// A SYN with these options, its length a multiple of four, and a right checksum.
    fn syn(options: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; 20];
        segment[..8].copy_from_slice(&[4, 1, 0, 80, 1, 2, 3, 4]);
        segment[12] = ((20 + options.len()) as u8 / 4) << 4;
        segment[13] = 0x02;
        segment.extend_from_slice(options);
        packets::ipv4(0xcb00_7101, 0xc633_6407, 6, segment, Some(16))
    }

    fn clamped(options: &[u8], most: u16) -> Vec<u8> {
        let mut packet = syn(options);
        let header = ipv4::header(&packet).expect("a good header");
        clamp(&mut packet, &header, most);
        packet
    }

    #[test]
    fn every_value_at_every_place_keeps_the_checksum_right() {
        for value in (0..=u16::MAX).step_by(13).chain([535, 536, 1451, 1452, 1453, u16::MAX]) {
            for shift in 0..4 {
                for most in [536, 1452, 1453, 0xff00] {
                    let mut options = vec![1; shift];
                    options.extend([2, 4]);
                    options.extend(value.to_be_bytes());
                    options.resize(8, 1);
                    let packet = clamped(&options, most);
                    options[shift + 2..shift + 4].copy_from_slice(&value.min(most).to_be_bytes());
                    assert_eq!(packet, syn(&options), "{value} at {shift}");
                    let sum = checksum::transport(0xcb00_7101, 0xc633_6407, 6, &packet[20..]);
                    assert_eq!(sum, 0);
                }
            }
        }
    }

    #[test]
    fn options_that_are_absent_ended_or_impossible_stay_as_they_are() {
        for options in [
            &[][..],
            &[0, 2, 4, 255],
            &[2, 3, 255, 255],
            &[2, 4, 255, 255][..0],
            &[1, 1, 2, 4],
            &[3, 0, 2, 4, 255, 255, 1, 1],
            &[1, 1, 1, 2],
        ] {
            assert_eq!(clamped(options, 536), syn(options), "{options:?}");
        }
    }

    #[test]
    fn each_of_several_is_clamped() {
        let packet = clamped(&[2, 4, 5, 180, 1, 2, 4, 9, 9, 1, 1, 1], 1400);
        assert_eq!(packet, syn(&[2, 4, 5, 120, 1, 2, 4, 5, 120, 1, 1, 1]));
    }
}
