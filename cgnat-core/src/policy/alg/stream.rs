//! A TCP stream with one replaced place: which byte stands where on the other side.
//!
//! `inner` numbers are the sender's, `outer` ones those that the receiver sees. Before the
//! replaced place they differ by one offset, behind it by another; so any segment, however
//! cut, repeated or acknowledged, is translated by the place alone.
//!
//! While the place is open its bytes are kept and nothing stands for them outside. An
//! acknowledgement of all that is outside then covers them, and the sender goes on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes that a replaced place can have, on either side.
pub const ROOM: usize = 32;

/// `a - b` in sequence space.
fn distance(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

/// The numbers of one direction, 52 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Stream {
    /// Inner number behind the last byte that was taken.
    next: u32,
    /// Outer minus inner number before the place.
    offset: u32,
    /// Inner number where the place begins.
    start: u32,
    /// Highest outer number that the receiver has acknowledged.
    acknowledged: u32,
    /// What stands there outside; while the place is open, what is kept of it.
    text: [u8; ROOM],
    inner_len: u8,
    outer_len: u8,
    is_open: u8,
    reserved: u8,
}

/// How a segment is to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaving {
    /// Outer number of its first byte.
    pub sequence: u32,
    /// Its own bytes that stay in front.
    pub head: usize,
    /// Whether the text of the replaced place follows.
    pub has_text: bool,
    /// First and end of its own bytes that come behind that.
    pub tail: (usize, usize),
}

impl Stream {
    /// A stream whose next byte has this number on either side.
    pub fn new(next: u32) -> Self {
        Self {
            next,
            offset: 0,
            start: next,
            acknowledged: next,
            text: [0; ROOM],
            inner_len: 0,
            outer_len: 0,
            is_open: 0,
            reserved: 0,
        }
    }

    /// Inner number of the byte that comes next.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Takes bytes that leave as they are.
    pub fn pass(&mut self, bytes: u32) {
        self.next = self.next.wrapping_add(bytes);
    }

    /// Takes everything before `end`, seen or not.
    pub fn pass_to(&mut self, end: u32) {
        if distance(end, self.next) > 0 {
            self.next = end;
        }
    }

    fn end(&self) -> u32 {
        self.start.wrapping_add(self.inner_len.into())
    }

    /// Whether the receiver has all of the place, so that there may be another.
    pub fn is_settled(&self) -> bool {
        let end = self.start.wrapping_add(self.offset).wrapping_add(self.outer_len.into());
        !self.is_open() && distance(self.acknowledged, end) >= 0
    }

    /// Whether a place is open.
    pub fn is_open(&self) -> bool {
        self.is_open != 0
    }

    /// What is kept of the open place.
    pub fn kept(&self) -> &[u8] {
        &self.text[..if self.is_open() { usize::from(self.inner_len) } else { 0 }]
    }

    /// What stands outside in the replaced place.
    pub fn text(&self) -> &[u8] {
        &self.text[..usize::from(self.outer_len)]
    }

    /// Opens a place at the next byte; the last one must be settled.
    pub fn open(&mut self) {
        debug_assert!(self.is_settled());
        self.offset = self.offset_behind();
        self.start = self.next;
        (self.inner_len, self.outer_len, self.is_open) = (0, 0, 1);
    }

    /// Keeps one byte more of the open place; false if there is no room.
    pub fn keep(&mut self, byte: u8) -> bool {
        let Some(place) = self.text.get_mut(usize::from(self.inner_len)) else {
            return false;
        };
        *place = byte;
        self.inner_len += 1;
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Closes the open place: `text`, of at most [`ROOM`] bytes, stands there from now on, or
    /// what was kept.
    pub fn close(&mut self, text: Option<&[u8]>) {
        self.is_open = 0;
        match text {
            None => self.outer_len = self.inner_len,
            Some(text) => {
                self.text[..text.len()].copy_from_slice(text);
                self.outer_len = text.len() as u8;
            }
        }
    }

    fn offset_behind(&self) -> u32 {
        let grown = u32::from(self.outer_len).wrapping_sub(self.inner_len.into());
        self.offset.wrapping_add(grown)
    }

    /// The outer number for a segment that begins at `sequence`: within the place, where it
    /// begins.
    pub fn outer(&self, sequence: u32) -> u32 {
        if distance(sequence, self.start) <= 0 {
            sequence.wrapping_add(self.offset)
        } else if distance(sequence, self.end()) >= 0 {
            sequence.wrapping_add(self.offset_behind())
        } else {
            self.start.wrapping_add(self.offset)
        }
    }

    /// The inner number that an outer acknowledgement stands for. Within the text nothing of
    /// the place counts; behind it all does.
    pub fn inner(&self, acknowledgement: u32) -> u32 {
        let begin = self.start.wrapping_add(self.offset);
        if distance(acknowledgement, begin.wrapping_add(self.outer_len.into())) >= 0 {
            acknowledgement.wrapping_sub(self.offset_behind())
        } else if distance(acknowledgement, begin) > 0 {
            self.start
        } else {
            acknowledgement.wrapping_sub(self.offset)
        }
    }

    /// A received block (RFC 2018) as the sender knows it; `None` if nothing is left of it, or
    /// if it ends within the text.
    pub fn inner_block(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let begin = self.start.wrapping_add(self.offset);
        let end = begin.wrapping_add(self.outer_len.into());
        let within = |edge: u32| distance(edge, begin) > 0 && distance(edge, end) < 0;
        if within(left) || within(right) {
            return None;
        }
        // The left edge behind the place, the right edge before it: the smaller block.
        let left = match distance(left, begin) {
            ..0 => left.wrapping_sub(self.offset),
            0 if self.outer_len > 0 => self.start,
            _ => left.wrapping_sub(self.offset_behind()),
        };
        let right = match distance(right, begin) {
            ..=0 => right.wrapping_sub(self.offset),
            _ => right.wrapping_sub(self.offset_behind()),
        };
        (distance(right, left) > 0).then_some((left, right))
    }

    /// Notes what the receiver has acknowledged; more than was sent counts for nothing.
    pub fn acknowledge(&mut self, acknowledgement: u32) {
        let sent = self.outer(self.next);
        if distance(acknowledgement, self.acknowledged) > 0 && distance(sent, acknowledgement) >= 0
        {
            self.acknowledged = acknowledgement;
        }
    }

    /// How a segment of `len` bytes from `sequence` on leaves: what was taken of it.
    pub fn leaving(&self, sequence: u32, len: usize) -> Leaving {
        let taken = distance(self.next, sequence).clamp(0, len as i32) as usize;
        // Where the place lies, counted from the segment's first byte.
        let from = distance(self.start, sequence);
        let to = distance(self.end(), sequence);
        let sequence = self.outer(sequence);
        if self.inner_len == 0 || from >= taken as i32 || to <= 0 {
            return Leaving { sequence, head: taken, has_text: false, tail: (taken, taken) };
        }
        let head = from.max(0) as usize;
        Leaving { sequence, head, has_text: true, tail: ((to as usize).min(taken), taken) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "ab" then "wxyz" replaced by `text`, then "cd", from `first` on.
    fn replaced(first: u32, text: &[u8]) -> Stream {
        let mut stream = Stream::new(first);
        stream.pass(2);
        stream.open();
        b"wxyz".iter().for_each(|byte| assert!(stream.keep(*byte)));
        stream.close(Some(text));
        stream.pass(2);
        stream
    }

    #[test]
    fn every_segment_of_a_replaced_stream_leaves_as_a_piece_of_the_other() {
        let inside = b"abwxyzcd";
        for text in [&b""[..], b"1", b"1234", b"123456789"] {
            let outside = [b"ab", text, b"cd"].concat();
            for first in [0, 7, u32::MAX - 7, u32::MAX - 3, u32::MAX] {
                let stream = replaced(first, text);
                for (from, to) in (0..=8).flat_map(|f| (f..=8).map(move |t| (f, t))) {
                    let leaving = stream.leaving(first.wrapping_add(from as u32), to - from);
                    let own = &inside[from..to];
                    let mut left = own[..leaving.head].to_vec();
                    if leaving.has_text {
                        left.extend(stream.text());
                    }
                    left.extend(&own[leaving.tail.0..leaving.tail.1]);
                    let at = leaving.sequence.wrapping_sub(first) as usize;
                    assert_eq!(left, outside[at..at + left.len()], "{from} to {to}");
                    // Nothing of it is missing.
                    let begin = if from < 6 { from.min(2) } else { from + text.len() - 4 };
                    let end = if to <= 2 { to } else { to.max(6) + text.len() - 4 };
                    if from < to {
                        assert_eq!((at, at + left.len()), (begin, end), "{from} to {to}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_acknowledgement_covers_the_place_only_when_all_of_its_text_is_there() {
        for first in [9, u32::MAX - 4] {
            let stream = replaced(first, b"123456");
            let inner = |n: u32| stream.inner(first.wrapping_add(n)).wrapping_sub(first);
            assert_eq!([0, 1, 2, 3, 7, 8, 9, 10].map(inner), [0, 1, 2, 2, 2, 6, 7, 8]);
            let block = |left: u32, right: u32| {
                let found = stream.inner_block(first.wrapping_add(left), first.wrapping_add(right));
                found.map(|(l, r)| (l.wrapping_sub(first), r.wrapping_sub(first)))
            };
            assert_eq!(block(0, 2), Some((0, 2)));
            assert_eq!(block(1, 8), Some((1, 6)));
            assert_eq!(block(2, 10), Some((2, 8)));
            assert_eq!(block(8, 10), Some((6, 8)));
            assert_eq!((block(3, 9), block(1, 5), block(9, 9)), (None, None, None));
        }
    }

    #[test]
    fn what_is_kept_is_acknowledged_with_what_is_outside() {
        let mut stream = Stream::new(100);
        stream.pass(5);
        stream.open();
        b"10,0,".iter().for_each(|byte| assert!(stream.keep(*byte)));
        assert_eq!((stream.outer(110), stream.inner(105)), (105, 110));
        assert!(!stream.is_settled());
        stream.close(Some(b"203,0,113,1,4,1\r\n"));
        assert!(!stream.is_settled());
        stream.acknowledge(500);
        assert!(!stream.is_settled(), "more than was ever sent");
        stream.acknowledge(122);
        assert!(stream.is_settled());
        assert_eq!(stream.outer(110), 122);
    }

    #[test]
    fn the_room_is_bounded() {
        let mut stream = Stream::new(0);
        stream.open();
        assert_eq!((0..40).filter(|_| stream.keep(b'1')).count(), ROOM);
    }
}
