//! Sequence numbers of a TCP connection as the NAT sees them: which segments belong to it
//! (RFC 5382 section 9, RFC 7857 section 2.2, RFC 5961).
//!
//! For each side: `end`, the sequence number behind the last byte seen from it, and `acked`,
//! the highest acknowledgement of its bytes by the other side. An outsider who does not see
//! the packets guesses both in vain: a RST must lie between them, which on an idle
//! connection is one number of 2^32; other segments must lie within the largest window that
//! the receiver can have offered, which leaves room for any reordering, and acknowledge
//! what was sent.

use crate::packet::tcp::Segment;

/// Which side of the NAT a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Sender {
    /// The subscriber.
    Internal = 0,
    /// The remote end.
    External,
}

impl Sender {
    /// The other one.
    #[inline]
    pub fn other(self) -> Sender {
        match self {
            Sender::Internal => Sender::External,
            Sender::External => Sender::Internal,
        }
    }
}

/// The largest shift of a window scale option (RFC 7323 section 2.3).
pub const MAX_SCALE: u8 = 14;

/// `a - b` in sequence space.
fn distance(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

/// Sequence numbers of both sides, indexed by [`Sender`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// Behind the last byte seen from the side.
    pub end: [u32; 2],
    /// Highest acknowledgement of the side's bytes by the other.
    pub acked: [u32; 2],
    /// Window scale that the side announced, at most [`MAX_SCALE`].
    pub scale: [u8; 2],
}

impl Window {
    /// Begins with the SYN of `from`: its first sequence number is not acknowledged yet.
    pub fn synchronise(&mut self, segment: &Segment, from: Sender) {
        let s = from as usize;
        self.end[s] = segment.sequence.wrapping_add(segment.length).wrapping_add(1);
        self.acked[s] = segment.sequence;
        self.scale[s] = segment.scale.min(MAX_SCALE);
    }

    /// Whether the segment of `from` acknowledges something sent and not acknowledged before.
    /// Only who has seen the other side's numbers, or has 2^32 tries, can say this.
    pub fn acknowledges_more(&self, segment: &Segment, from: Sender) -> bool {
        let r = from.other() as usize;
        distance(segment.acknowledgement, self.acked[r]) > 0
            && distance(self.end[r], segment.acknowledgement) >= 0
    }

    /// Whether a RST of `from` is where the receiver expects the next byte, or in what is
    /// under way.
    pub fn admits_reset(&self, segment: &Segment, from: Sender) -> bool {
        let s = from as usize;
        distance(segment.sequence, self.acked[s]) >= 0
            && distance(self.end[s], segment.sequence) >= 0
    }

    /// Whether a segment of `from` with ACK belongs to the connection.
    #[inline]
    pub fn admits(&self, segment: &Segment, from: Sender, ends: u32) -> bool {
        let (s, r) = (from as usize, from.other() as usize);
        let offered_to = |side: usize| 65_535i32 << self.scale[side];
        let last = segment.sequence.wrapping_add(segment.length).wrapping_add(ends);
        distance(last, self.acked[s]) >= -offered_to(r)
            && distance(segment.sequence, self.acked[s]) <= offered_to(r)
            && distance(segment.acknowledgement, self.end[r]) <= 0
            && distance(segment.acknowledgement, self.acked[r]) >= -offered_to(s)
    }

    /// Takes over the numbers of a segment that belongs to the connection; `ends` is 1 with a
    /// FIN, which takes a sequence number.
    #[inline]
    pub fn advance(&mut self, segment: &Segment, from: Sender, ends: u32) {
        let (s, r) = (from as usize, from.other() as usize);
        let last = segment.sequence.wrapping_add(segment.length).wrapping_add(ends);
        if distance(last, self.end[s]) > 0 {
            self.end[s] = last;
        }
        if distance(segment.acknowledgement, self.acked[r]) > 0 {
            self.acked[r] = segment.acknowledgement;
        }
    }

    /// Believes a segment of the subscriber, whom nobody can forge here, over what was noted:
    /// after lost packets or a middlebox that renumbers.
    pub fn resynchronise(&mut self, segment: &Segment, from: Sender, ends: u32) {
        let (s, r) = (from as usize, from.other() as usize);
        self.end[s] = segment.sequence.wrapping_add(segment.length).wrapping_add(ends);
        self.acked[s] = segment.sequence;
        self.end[r] = segment.acknowledgement;
        self.acked[r] = segment.acknowledgement;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tcp::flags;

    fn segment(sequence: u32, acknowledgement: u32, length: u32) -> Segment {
        Segment { flags: flags::ACK, sequence, acknowledgement, length, scale: 0 }
    }

    /// Internal has sent 1000 bytes from 0xffff_ff00 on, half is acknowledged; external has
    /// sent 200 from 500 on, all acknowledged.
    fn window() -> Window {
        let start = 0xffff_ff00u32;
        Window {
            end: [start.wrapping_add(1000), 700],
            acked: [start.wrapping_add(500), 700],
            scale: [0, 2],
        }
    }

    #[test]
    fn a_reset_must_lie_between_what_is_acknowledged_and_what_was_sent() {
        let window = window();
        let at = |n: i32| {
            let sequence = 0xffff_ff00u32.wrapping_add_signed(n);
            window.admits_reset(&segment(sequence, 0, 0), Sender::Internal)
        };
        assert_eq!([499, 500, 1000, 1001].map(at), [false, true, true, false]);
        // Nothing of the external side is under way: one number is right.
        let right: Vec<u32> = (0..5000)
            .filter(|n| window.admits_reset(&segment(*n, 0, 0), Sender::External))
            .collect();
        assert_eq!(right, [700]);
    }

    #[test]
    fn a_segment_must_lie_within_the_largest_window_and_acknowledge_what_was_sent() {
        let window = window();
        let from_internal = |offset: i32, acknowledgement: u32| {
            let sequence = window.acked[0].wrapping_add_signed(offset);
            window.admits(&segment(sequence, acknowledgement, 10), Sender::Internal, 0)
        };
        // External announced a scale of 2.
        let largest = 65_535 << 2;
        assert!(from_internal(0, 700) && from_internal(largest, 700));
        assert!(!from_internal(largest + 1, 700));
        assert!(from_internal(-largest - 10, 700) && !from_internal(-largest - 11, 700));
        assert!(!from_internal(0, 701), "acknowledges what was never sent");
        assert!(from_internal(0, 700u32.wrapping_sub(65_535)));
        assert!(!from_internal(0, 699u32.wrapping_sub(65_535)));
    }

    #[test]
    fn only_new_and_sent_bytes_can_be_acknowledged_as_proof() {
        let window = window();
        let proves = |n: u32| {
            let acknowledgement = 0xffff_ff00u32.wrapping_add(n);
            window.acknowledges_more(&segment(700, acknowledgement, 0), Sender::External)
        };
        assert_eq!([500, 501, 1000, 1001].map(proves), [false, true, true, false]);
    }

    #[test]
    fn numbers_only_grow_and_wrap_around() {
        let mut window = window();
        let before = window;
        window.advance(&segment(0xffff_ff00, 600, 10), Sender::Internal, 0);
        assert_eq!(window, before, "an old segment changes nothing");
        window.advance(&segment(before.end[0], 700, 9), Sender::Internal, 1);
        assert_eq!(window.end[0], before.end[0].wrapping_add(10));
        window.advance(&segment(700, window.end[0], 0), Sender::External, 0);
        assert_eq!(window.acked[0], window.end[0]);
    }
}
