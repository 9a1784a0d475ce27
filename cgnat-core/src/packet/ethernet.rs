//! Ethernet II, and up to two VLAN tags: 802.1Q, and that inside a service tag (802.1ad).

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
/// EtherType of a service tag (802.1ad).
pub const SERVICE: u16 = 0x88a8;
/// EtherType that service tags had before 802.1ad, and have where switches are old.
pub const OLD_SERVICE: u16 = 0x9100;

/// Length of the header before its EtherType.
const STATIONS: usize = 12;
/// Length of a header without tags.
const UNTAGGED: usize = STATIONS + 2;
/// Length of a tag.
pub const TAG: usize = 4;
/// The id in a tag; priority and drop eligibility are in the other bits.
const ID: u16 = 0x0fff;

/// The tags of all frames of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tags {
    /// None.
    #[default]
    None,
    /// 802.1Q, with this id.
    One(u16),
    /// A service tag before an 802.1Q tag (QinQ).
    Two {
        /// EtherType of the service tag.
        tpid: u16,
        /// The device shows each outermost tag as 802.1Q, whatever it is on the wire.
        is_tpid_hidden: bool,
        /// Id of the service tag.
        outer: u16,
        /// Id of the 802.1Q tag.
        inner: u16,
    },
}

impl Tags {
    /// Bytes of the tags.
    pub const fn len(self) -> usize {
        match self {
            Tags::None => 0,
            Tags::One(_) => TAG,
            Tags::Two { .. } => 2 * TAG,
        }
    }

    /// Their ids, outermost first, by which frames on one wire are told apart.
    pub fn ids(self) -> (Option<u16>, Option<u16>) {
        match self {
            Tags::None => (None, None),
            Tags::One(id) => (Some(id), None),
            Tags::Two { outer, inner, .. } => (Some(outer), Some(inner)),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        matches!(self, Tags::None)
    }

    /// Writes them into the first [`Tags::len`] bytes.
    pub fn write(self, to: &mut [u8]) {
        match self {
            Tags::None => {}
            Tags::One(id) => put_tag(to, 0, DOT1Q, id),
            Tags::Two { tpid, outer, inner, .. } => {
                put_tag(to, 0, tpid, outer);
                put_tag(to, TAG, DOT1Q, inner);
            }
        }
    }
}

fn put_tag(to: &mut [u8], at: usize, tpid: u16, id: u16) {
    put_u16(to, at, tpid);
    put_u16(to, at + 2, id);
}

/// What a frame on a port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// EtherType of the payload.
    pub ether_type: u16,
    /// Offset of the payload: 14, 18 or 22.
    pub payload: usize,
}

/// Reads the header of a frame that arrived at a port with this `mac` and these `tags`.
///
/// Broadcast and multicast frames pass: what they carry decides.
///
/// # Errors
/// A short frame, a frame for another station, or other tags than the port's.
pub fn parse(frame: &[u8], mac: Mac, tags: Tags) -> Result<Frame, DropReason> {
    if frame.len() < UNTAGGED {
        return Err(DropReason::FrameShort);
    }
    if frame[..6] != mac && frame[0] & 1 == 0 {
        return Err(DropReason::FrameNotForUs);
    }
    behind(frame, tags)
}

/// What is behind the tags of a frame, if these are they.
///
/// # Errors
/// A short frame, or other tags.
pub fn behind(frame: &[u8], tags: Tags) -> Result<Frame, DropReason> {
    if frame.len() < UNTAGGED {
        return Err(DropReason::FrameShort);
    }
    let first = u16_at(frame, STATIONS);
    let payload = match (tags, is_tag(first)) {
        (Tags::None, false) => UNTAGGED,
        (_, true) if frame.len() < UNTAGGED + TAG => return Err(DropReason::FrameShort),
        // Id 0 is a priority tag: the frame belongs to no VLAN (802.1Q).
        (Tags::None, true) if first == DOT1Q && id_at(frame, 14) == 0 => UNTAGGED + TAG,
        (Tags::One(id), true) if first == DOT1Q && id_at(frame, 14) == id => UNTAGGED + TAG,
        (Tags::Two { tpid, is_tpid_hidden, outer, inner }, true)
            if (first == tpid || is_tpid_hidden && first == DOT1Q)
                && id_at(frame, 14) == outer
                && u16_at(frame, 16) == DOT1Q =>
        {
            if frame.len() < UNTAGGED + 2 * TAG {
                return Err(DropReason::FrameShort);
            }
            if id_at(frame, 18) != inner {
                return Err(DropReason::VlanMismatch);
            }
            UNTAGGED + 2 * TAG
        }
        _ => return Err(DropReason::VlanMismatch),
    };
    let ether_type = u16_at(frame, payload - 2);
    if is_tag(ether_type) {
        return Err(DropReason::VlanMismatch);
    }
    Ok(Frame { ether_type, payload })
}

fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, DOT1Q | SERVICE | OLD_SERVICE)
}

fn id_at(frame: &[u8], at: usize) -> u16 {
    u16_at(frame, at) & ID
}

/// Length of the header that [`write`] writes.
pub const fn header_len(tags: Tags) -> usize {
    UNTAGGED + tags.len()
}

/// Writes the header into the first [`header_len`] bytes of `frame`.
pub fn write(frame: &mut [u8], to: Mac, from: Mac, tags: Tags, ether_type: u16) {
    frame[..6].copy_from_slice(&to);
    frame[6..STATIONS].copy_from_slice(&from);
    tags.write(&mut frame[STATIONS..]);
    put_u16(frame, STATIONS + tags.len(), ether_type);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Mac = [2, 0, 0, 0, 0, 1];

    fn two(tpid: u16, outer: u16, inner: u16) -> Tags {
        Tags::Two { tpid, is_tpid_hidden: false, outer, inner }
    }

    fn frame(tags: Tags, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len.max(22)];
        write(&mut bytes, ME, [2, 0, 0, 0, 0, 9], tags, IPV4);
        bytes.truncate(len);
        bytes
    }

    /// Different tags of ports, none of which takes frames of another.
    const ALL: [Tags; 9] = [
        Tags::None,
        Tags::One(1),
        Tags::One(4094),
        Tags::Two { tpid: SERVICE, is_tpid_hidden: false, outer: 1, inner: 4094 },
        Tags::Two { tpid: SERVICE, is_tpid_hidden: false, outer: 4094, inner: 1 },
        Tags::Two { tpid: SERVICE, is_tpid_hidden: false, outer: 1, inner: 1 },
        Tags::Two { tpid: DOT1Q, is_tpid_hidden: false, outer: 1, inner: 4094 },
        Tags::Two { tpid: DOT1Q, is_tpid_hidden: false, outer: 1, inner: 1 },
        Tags::Two { tpid: OLD_SERVICE, is_tpid_hidden: false, outer: 1, inner: 1 },
    ];

    #[test]
    fn what_is_written_is_read_and_nothing_of_other_tags() {
        for (at, tags) in ALL.into_iter().enumerate() {
            for (other, theirs) in ALL.into_iter().enumerate() {
                let read = parse(&frame(theirs, 64), ME, tags);
                let expected = match at == other {
                    true => Ok(Frame { ether_type: IPV4, payload: header_len(tags) }),
                    false => Err(DropReason::VlanMismatch),
                };
                assert_eq!(read, expected, "{theirs:?} at a port with {tags:?}");
            }
        }
    }

    #[test]
    fn short_and_foreign_frames_are_refused() {
        for tags in ALL {
            for len in 0..header_len(tags) {
                assert_eq!(parse(&frame(tags, len), ME, tags), Err(DropReason::FrameShort));
            }
            let other = [2, 0, 0, 0, 0, 2];
            assert_eq!(parse(&frame(tags, 64), other, tags), Err(DropReason::FrameNotForUs));
        }
    }

    #[test]
    fn priority_and_drop_eligibility_are_not_looked_at() {
        for (tags, at) in [(Tags::One(7), &[14][..]), (two(SERVICE, 7, 8), &[14, 18])] {
            for bits in [0x10, 0x20, 0xe0, 0xf0] {
                let mut marked = frame(tags, 64);
                at.iter().for_each(|at| marked[*at] |= bits);
                assert_eq!(parse(&marked, ME, tags), parse(&frame(tags, 64), ME, tags));
            }
        }
    }

    #[test]
    fn a_priority_tag_is_no_vlan() {
        let priority = Frame { ether_type: IPV4, payload: 18 };
        assert_eq!(parse(&frame(Tags::One(0), 64), ME, Tags::None), Ok(priority));
        let mismatch = Err(DropReason::VlanMismatch);
        assert_eq!(parse(&frame(Tags::One(0), 64), ME, Tags::One(7)), mismatch);
        assert_eq!(parse(&frame(two(SERVICE, 7, 0), 64), ME, two(SERVICE, 7, 8)), mismatch);
        assert_eq!(parse(&frame(two(SERVICE, 0, 8), 64), ME, Tags::None), mismatch);
        // Nor does it hide a tag.
        assert_eq!(parse(&frame(two(DOT1Q, 0, 8), 64), ME, Tags::None), mismatch);
    }

    #[test]
    fn where_the_outer_tpid_is_hidden_it_may_come_as_802_1q() {
        let hidden = Tags::Two { tpid: SERVICE, is_tpid_hidden: true, outer: 7, inner: 8 };
        let read = Ok(Frame { ether_type: IPV4, payload: 22 });
        assert_eq!(parse(&frame(hidden, 64), ME, hidden), read);
        assert_eq!(parse(&frame(two(DOT1Q, 7, 8), 64), ME, hidden), read);
        for other in [two(OLD_SERVICE, 7, 8), two(DOT1Q, 8, 8), two(DOT1Q, 7, 7), Tags::One(7)] {
            assert_eq!(parse(&frame(other, 64), ME, hidden), Err(DropReason::VlanMismatch));
        }
        assert_eq!(u16_at(&frame(hidden, 64), 12), SERVICE);
    }
}
