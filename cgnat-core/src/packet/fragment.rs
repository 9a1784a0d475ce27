//! Cutting a packet into fragments (RFC 791 section 3.2).

use super::ipv4::Header;
use super::{checksum, put_u16};

/// Largest IPv4 header, bytes.
const LARGEST_HEADER: usize = 60;

/// The fragments of one packet, in the order of their offsets. The packet may be a fragment
/// itself.
pub struct Fragments<'a> {
    packet: &'a [u8],
    header: Header,
    mtu: usize,
    /// Bytes of the payload that are in fragments already.
    done: usize,
    /// Header of all fragments but the first: options without the copied flag are left out.
    later: [u8; LARGEST_HEADER],
    later_len: usize,
}

impl<'a> Fragments<'a> {
    /// Of a packet whose `header` was checked, each of at most `mtu` bytes, which must be 68
    /// or more.
    pub fn new(packet: &'a [u8], header: &Header, mtu: usize) -> Self {
        let mut later = [0; LARGEST_HEADER];
        later[..20].copy_from_slice(&packet[..20]);
        let copied = copy_options(&packet[20..header.header_len], &mut later[20..]);
        let later_len = 20 + copied;
        later[0] = 0x40 | (later_len / 4) as u8;
        Self { packet, header: *header, mtu, done: 0, later, later_len }
    }

    /// Bytes of the next fragment; `None` after the last.
    pub fn next_len(&self) -> Option<usize> {
        let (header_len, data) = self.next_parts();
        (data > 0).then_some(header_len + data)
    }

    /// Header and payload of the next fragment, bytes.
    fn next_parts(&self) -> (usize, usize) {
        let header_len = if self.done == 0 { self.header.header_len } else { self.later_len };
        let left = self.header.total_len - self.header.header_len - self.done;
        let room = self.mtu - header_len;
        // All but the last hold whole units of eight bytes.
        (header_len, if left <= room { left } else { room & !7 })
    }

    /// Writes the next fragment into `into` of [`Fragments::next_len`] bytes.
    pub fn write_next(&mut self, into: &mut [u8]) {
        let (header_len, data) = self.next_parts();
        let header = if self.done == 0 { &self.packet[..header_len] } else { &self.later[..] };
        into[..header_len].copy_from_slice(&header[..header_len]);
        let from = self.header.header_len + self.done;
        into[header_len..].copy_from_slice(&self.packet[from..from + data]);
        let offset = (self.header.offset + self.done) / 8;
        self.done += data;
        let is_end = self.header.header_len + self.done == self.header.total_len;
        let more = !is_end || self.header.more_fragments;
        put_u16(into, 2, (header_len + data) as u16);
        put_u16(into, 6, u16::from(more) << 13 | offset as u16);
        put_u16(into, 10, 0);
        let sum = checksum::full(&into[..header_len]);
        put_u16(into, 10, sum);
    }
}

/// Copies the options with the copied flag and pads them to whole words with end-of-list;
/// returns their bytes. What stands behind an impossible length is not copied.
fn copy_options(options: &[u8], into: &mut [u8]) -> usize {
    let (mut at, mut end) = (0, 0);
    while let Some(kind) = options.get(at) {
        let length = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(options.get(at + 1).copied().unwrap_or(0)),
        };
        let is_possible = *kind == 1 || (length >= 2 && at + length <= options.len());
        if !is_possible {
            break;
        }
        if kind & 0x80 != 0 {
            into[end..end + length].copy_from_slice(&options[at..at + length]);
            end += length;
        }
        at += length;
    }
    end.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ipv4;

    /// A packet with these options, DF clear, and its header.
    fn packet(options: &[u8], payload: usize, word: u16) -> (Vec<u8>, Header) {
        let header_len = 20 + options.len();
        let mut bytes = vec![0; 20];
        bytes[0] = 0x40 | (header_len / 4) as u8;
        put_u16(&mut bytes, 2, (header_len + payload) as u16);
        put_u16(&mut bytes, 4, 0xbeef);
        put_u16(&mut bytes, 6, word);
        bytes[8] = 64;
        bytes[9] = 17;
        bytes[12..20].copy_from_slice(&[198, 51, 100, 7, 203, 0, 113, 5]);
        bytes.extend_from_slice(options);
        let sum = checksum::full(&bytes);
        put_u16(&mut bytes, 10, sum);
        bytes.extend((0..payload).map(|n| (n * 7) as u8));
        let header = ipv4::fields(&bytes).expect("possible lengths");
        (bytes, header)
    }

    fn cut(bytes: &[u8], header: &Header, mtu: usize) -> Vec<Vec<u8>> {
        let mut fragments = Fragments::new(bytes, header, mtu);
        let mut all = Vec::new();
        while let Some(len) = fragments.next_len() {
            let mut fragment = vec![0xee; len];
            fragments.write_next(&mut fragment);
            all.push(fragment);
        }
        all
    }

    #[test]
    fn fragments_of_every_size_make_up_the_packet_again_in_order() {
        for mtu in [68, 69, 75, 76, 576, 1280, 1499, 1500] {
            for payload in [1, 7, 8, 9, 48, 49, 500, 1480, 1481, 4000] {
                for (word, first) in [(0, 0), (0x2000, 0), (0x2005, 40), (0x0005, 40)] {
                    let (bytes, header) = packet(&[], payload, word);
                    let mut whole = Vec::new();
                    let fragments = cut(&bytes, &header, mtu);
                    for (n, fragment) in fragments.iter().enumerate() {
                        let part = ipv4::header(fragment).expect("a good header");
                        assert!(fragment.len() <= mtu && part.total_len == fragment.len());
                        assert_eq!(part.offset, first + whole.len());
                        assert_eq!(part.identification, 0xbeef);
                        let last = n + 1 == fragments.len();
                        assert_eq!(part.more_fragments, !last || word & 0x2000 != 0);
                        assert!(last || (fragment.len() - 20) % 8 == 0);
                        whole.extend_from_slice(&fragment[20..]);
                    }
                    assert_eq!(whole, bytes[20..]);
                }
            }
        }
    }

    #[test]
    fn only_options_with_the_copied_flag_are_in_later_fragments() {
        // Record route (not copied), a no-operation, router alert (copied).
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 0x94, 4, 0, 0];
        let (bytes, header) = packet(&options, 200, 0);
        let fragments = cut(&bytes, &header, 100);
        assert_eq!(fragments[0][20..32], options);
        for later in &fragments[1..] {
            assert_eq!((later[0], &later[20..24]), (0x46, &options[8..]));
        }
        let data = |f: &Vec<u8>| f[usize::from(f[0] & 15) * 4..].to_vec();
        assert_eq!(fragments.iter().flat_map(data).collect::<Vec<_>>(), bytes[32..]);
    }

    #[test]
    fn options_of_impossible_lengths_end_the_list() {
        for options in [[0x94, 0, 0, 0], [0x94, 5, 0, 0], [1, 1, 1, 0x94], [0, 0x94, 2, 0]] {
            let (bytes, header) = packet(&options, 100, 0);
            let fragments = cut(&bytes, &header, 80);
            assert!(fragments[1..].iter().all(|later| later[0] == 0x45), "{options:?}");
        }
    }
}
