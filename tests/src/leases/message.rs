//! The messages: a renewal and its acknowledgement (RFC 2131 section 2), no more of DHCP.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Bytes of each message here: the fixed part, the cookie and the options.
pub(super) const BYTES: usize = 260;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const FIXED: usize = 236;
const REQUEST: u8 = 3;
const ACKNOWLEDGEMENT: u8 = 5;
/// Seconds of a lease.
const LEASE: u32 = 60;
/// An option for private use: the endpoint that the server saw.
const SEEN: u8 = 224;

/// A renewal by the subscriber with `client`, the `exchange`th of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Renewal {
    pub exchange: u32,
    pub client: Ipv4Addr,
}

impl Renewal {
    /// The request.
    pub fn request(self) -> [u8; BYTES] {
        self.message(1, REQUEST)
    }

    /// The answer to the request that came from `seen`.
    pub fn acknowledgement(self, seen: SocketAddrV4) -> [u8; BYTES] {
        let mut bytes = self.message(2, ACKNOWLEDGEMENT);
        let options = &mut bytes[FIXED + 7..];
        options[..6].copy_from_slice(&[51, 4, 0, 0, 0, LEASE as u8]);
        options[6..8].copy_from_slice(&[SEEN, 6]);
        options[8..12].copy_from_slice(&seen.ip().octets());
        options[12..14].copy_from_slice(&seen.port().to_be_bytes());
        options[14] = 255;
        bytes
    }

    fn message(self, operation: u8, kind: u8) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        // Ethernet, six bytes of hardware address.
        bytes[..3].copy_from_slice(&[operation, 1, 6]);
        bytes[4..8].copy_from_slice(&self.exchange.to_be_bytes());
        // Its address, and the relay's, which is itself.
        for address in [12..16, 24..28] {
            bytes[address].copy_from_slice(&self.client.octets());
        }
        bytes[28..34].copy_from_slice(&self.hardware());
        bytes[FIXED..FIXED + 4].copy_from_slice(&COOKIE);
        bytes[FIXED + 4..FIXED + 8].copy_from_slice(&[53, 1, kind, 255]);
        bytes
    }

    fn hardware(self) -> [u8; 6] {
        let [a, b, c, d] = self.client.octets();
        [2, 0, a, b, c, d]
    }
}

/// The renewal that a request asks for.
pub(super) fn read_request(bytes: &[u8]) -> Option<Renewal> {
    let renewal = read(bytes, 1, REQUEST)?;
    (renewal.request() == bytes).then_some(renewal)
}

/// The renewal that is acknowledged, and the endpoint that the server saw.
pub(super) fn read_acknowledgement(bytes: &[u8]) -> Option<(Renewal, SocketAddrV4)> {
    let renewal = read(bytes, 2, ACKNOWLEDGEMENT)?;
    let seen = &bytes[FIXED + 15..FIXED + 21];
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(&seen[..4]).ok()?);
    let seen = SocketAddrV4::new(address, u16::from_be_bytes([seen[4], seen[5]]));
    (renewal.acknowledgement(seen) == bytes).then_some((renewal, seen))
}

fn read(bytes: &[u8], operation: u8, kind: u8) -> Option<Renewal> {
    if bytes.len() != BYTES || bytes[0] != operation || bytes[FIXED + 6] != kind {
        return None;
    }
    let four = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).ok();
    let exchange = u32::from_be_bytes(four(4)?);
    Some(Renewal { exchange, client: Ipv4Addr::from(four(12)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_written_and_not_with_a_byte_changed() {
        let renewal = Renewal { exchange: 0x0102_0304, client: Ipv4Addr::new(100, 64, 1, 2) };
        let seen = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 9), 4711);
        let (request, answer) = (renewal.request(), renewal.acknowledgement(seen));
        assert_eq!(read_request(&request), Some(renewal));
        assert_eq!(read_acknowledgement(&answer), Some((renewal, seen)));
        assert_eq!((read_request(&answer), read_acknowledgement(&request)), (None, None));
        for place in 0..BYTES {
            let mut changed = request;
            changed[place] ^= 1;
            assert_ne!(read_request(&changed), Some(renewal), "byte {place}");
        }
        assert_eq!(read_request(&request[..BYTES - 1]), None);
    }
}
