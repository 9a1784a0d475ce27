//! Requests of TFTP (RFC 1350, options of RFC 2347): the server answers one from a port that
//! nobody has sent to.

/// Port that requests go to.
pub const REQUEST_PORT: u16 = 69;

/// Seconds in which a request may be answered: longer than servers repeat their first packet.
pub const ANSWER_S: u32 = 30;

/// Bytes of a request at most (RFC 2347).
const LONGEST: usize = 512;

/// Transfer modes (RFC 1350 section 1).
const MODES: [&[u8]; 3] = [b"octet", b"netascii", b"mail"];

/// Whether the payload of a packet to [`REQUEST_PORT`] is a read or write request: opcode 1 or
/// 2, file name, mode, and pairs of option and value, each ended by a zero byte.
pub fn is_request(payload: &[u8]) -> bool {
    let [0, 1 | 2, texts @ .., 0] = payload else {
        return false;
    };
    let mut texts = texts.split(|byte| *byte == 0);
    let (name, mode) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
    payload.len() <= LONGEST
        && !name.is_empty()
        && MODES.iter().any(|known| mode.eq_ignore_ascii_case(known))
        && texts.clone().count().is_multiple_of(2)
        && texts.all(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_requests_count() {
        for (good, prefixes) in [
            (&b"\0\x01boot/pxelinux.0\0octet\0"[..], 0),
            (b"\0\x02a\0NETASCII\0", 0),
            // Without the last option, and without both.
            (b"\0\x01a\0octet\0tsize\x000\0blksize\x001468\0", 2),
        ] {
            assert!(is_request(good));
            let good_prefixes = (0..good.len()).filter(|cut| is_request(&good[..*cut]));
            assert_eq!(good_prefixes.count(), prefixes, "{good:?}");
        }
        for bad in [
            &b""[..],
            b"\0\x03\0\x01data\0",
            b"\0\x01\0octet\0",
            b"\0\x01a\0\0",
            b"\0\x01a\0binary\0",
            b"\0\x01a\0octet\0tsize\0",
            b"\0\x01a\0octet\0tsize\0\0",
            b"\x01\x01a\0octet\0",
        ] {
            assert!(!is_request(bad), "{bad:?}");
        }
        let long = [&b"\0\x01"[..], &[b'a'; 600], b"\0octet\0"].concat();
        assert!(!is_request(&long));
    }
}
