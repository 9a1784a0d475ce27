//! What the NAT reads of a TCP header (RFC 9293 section 3.1, RFC 7323 section 2).

use super::u32_at;

/// Flag bits.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Acknowledgement is valid.
    pub const ACK: u8 = 0x10;
}

/// Bytes of a header without options.
const HEADER: usize = 20;

/// Option kinds.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const WINDOW_SCALE: u8 = 3;

/// What a segment says of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Flag bits, see [`flags`].
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number, meaningful with [`flags::ACK`].
    pub acknowledgement: u32,
    /// Bytes of payload.
    pub length: u32,
    /// Window scale option of a SYN, 0 without one.
    pub scale: u8,
}

impl Segment {
    /// Whether all of `flags` are set.
    #[inline]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

/// Reads the header at the start of `bytes`; `None` if it does not fit.
#[inline]
pub fn segment(bytes: &[u8]) -> Option<Segment> {
    let header = bytes.first_chunk::<HEADER>()?;
    let header_len = usize::from(header[12] >> 4) * 4;
    let options = bytes.get(HEADER..header_len)?;
    let flags = header[13];
    let scale = if flags & flags::SYN != 0 { window_scale(options) } else { 0 };
    Some(Segment {
        flags,
        sequence: u32_at(header, 4),
        acknowledgement: u32_at(header, 8),
        length: (bytes.len() - header_len) as u32,
        scale,
    })
}

/// The shift of the window scale option; 0 without one, or behind an option that is broken.
#[inline(never)]
fn window_scale(mut options: &[u8]) -> u8 {
    loop {
        match *options {
            [END, ..] | [] => return 0,
            [NO_OPERATION, ref rest @ ..] => options = rest,
            [WINDOW_SCALE, 3, shift, ..] => return shift,
            [_, length, ..] if length >= 2 => {
                options = options.get(usize::from(length)..).unwrap_or_default();
            }
            _ => return 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_scale_is_found_among_options_and_not_behind_broken_ones() {
        let scale = |options: &[u8]| {
            let mut bytes = vec![0; HEADER];
            bytes[12] = ((HEADER + options.len()) / 4) as u8 * 16;
            bytes[13] = flags::SYN;
            bytes.extend(options);
            segment(&bytes).map(|segment| segment.scale)
        };
        assert_eq!(scale(&[2, 4, 5, 180, 1, 3, 3, 7]), Some(7));
        assert_eq!(scale(&[0, 3, 3, 7]), Some(0));
        assert_eq!(scale(&[1, 1, 3, 3]), Some(0), "cut off");
        assert_eq!(scale(&[8, 0, 3, 3, 7, 0, 0, 0]), Some(0), "an option of length 0");
        assert_eq!(scale(&[8, 200, 3, 3]), Some(0), "an option that is too long");
        assert_eq!(segment(&[0; 19]), None);
    }
}
