//! Ethernet II and one 802.1Q tag.

use super::{put_u16, u16_at};
use crate::verdict::DropReason;

/// A MAC address.
pub type Mac = [u8; 6];

/// The broadcast address.
pub const BROADCAST: Mac = [0xff; 6];

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const DOT1Q: u16 = 0x8100;

/// What a frame on a port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// EtherType of the payload.
    pub ether_type: u16,
    /// Offset of the payload, 14 or 18.
    pub payload: usize,
}

/// Reads the header of a frame that arrived at a port with this `mac` and `vlan`.
///
/// Broadcast and multicast frames pass: what they carry decides.
///
/// # Errors
/// A short frame, a frame for another station, or a tag other than the port's.
pub fn parse(frame: &[u8], mac: Mac, vlan: Option<u16>) -> Result<Frame, DropReason> {
    if frame.len() < 14 {
        return Err(DropReason::FrameShort);
    }
    if frame[..6] != mac && frame[0] & 1 == 0 {
        return Err(DropReason::FrameNotForUs);
    }
    let outer = u16_at(frame, 12);
    match (vlan, outer == DOT1Q) {
        (None, false) => Ok(Frame { ether_type: outer, payload: 14 }),
        (_, true) if frame.len() < 18 => Err(DropReason::FrameShort),
        // Id 0 is a priority tag: the frame belongs to no VLAN (802.1Q).
        (vlan, true) if u16_at(frame, 14) & 0x0fff == vlan.unwrap_or(0) => {
            Ok(Frame { ether_type: u16_at(frame, 16), payload: 18 })
        }
        _ => Err(DropReason::VlanMismatch),
    }
}

/// Length of the header that [`write`] writes.
pub const fn header_len(vlan: Option<u16>) -> usize {
    if vlan.is_some() { 18 } else { 14 }
}

/// Writes the header into the first [`header_len`] bytes of `frame`.
pub fn write(frame: &mut [u8], to: Mac, from: Mac, vlan: Option<u16>, ether_type: u16) {
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    if let Some(id) = vlan {
        put_u16(frame, 12, DOT1Q);
        put_u16(frame, 14, id);
        put_u16(frame, 16, ether_type);
    } else {
        put_u16(frame, 12, ether_type);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Mac = [2, 0, 0, 0, 0, 1];

    fn frame(vlan: Option<u16>, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len.max(18)];
        write(&mut bytes, ME, [2, 0, 0, 0, 0, 9], vlan, IPV4);
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        for vlan in [None, Some(1), Some(4094)] {
            let read = parse(&frame(vlan, 64), ME, vlan).expect("a good frame");
            assert_eq!(read, Frame { ether_type: IPV4, payload: header_len(vlan) });
        }
    }

    #[test]
    fn short_foreign_and_mistagged_frames_are_refused() {
        for len in 0..14 {
            assert_eq!(parse(&frame(None, len), ME, None), Err(DropReason::FrameShort));
        }
        for len in 14..18 {
            assert_eq!(parse(&frame(Some(7), len), ME, Some(7)), Err(DropReason::FrameShort));
        }
        let other = [2, 0, 0, 0, 0, 2];
        assert_eq!(parse(&frame(None, 64), other, None), Err(DropReason::FrameNotForUs));
        assert_eq!(parse(&frame(Some(7), 64), ME, Some(8)), Err(DropReason::VlanMismatch));
        assert_eq!(parse(&frame(Some(7), 64), ME, None), Err(DropReason::VlanMismatch));
        assert_eq!(parse(&frame(None, 64), ME, Some(7)), Err(DropReason::VlanMismatch));
        assert_eq!(parse(&frame(Some(0), 64), ME, Some(7)), Err(DropReason::VlanMismatch));
        let priority = Frame { ether_type: IPV4, payload: 18 };
        assert_eq!(parse(&frame(Some(0), 64), ME, None), Ok(priority));
    }
}
