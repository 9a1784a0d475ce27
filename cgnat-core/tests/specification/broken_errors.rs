//! ICMP errors with one thing wrong.

use cgnat_core::verdict::DropReason::{self, IcmpChecksum, IcmpQuote};

use super::events::Events;
use super::wire::{Body, ICMP, Packet, checksum, put};

impl Events {
    /// An ICMP error with one thing wrong.
    pub fn broken_error(
        &mut self,
        mut about: Packet,
        from: (u32, u16),
        to: (u32, u16),
    ) -> (Vec<u8>, DropReason) {
        about.options.clear();
        about.payload = vec![9; 20];
        let about_source = about.source;
        let mut error = self.packet(ICMP, (from.0, 0), (to.0, 0));
        error.options.clear();
        error.payload.clear();
        error.body = Body::Error { kind: 3, code: 1, rest: 0, about: Box::new(about), kept: 20 };
        assert_eq!(about_source, to.0);
        let mut bytes = error.bytes();
        // The outer header has 20 bytes, the ICMP header 8; the quote begins at 28.
        let mend_quote = |bytes: &mut Vec<u8>| {
            put(bytes, 38, 0);
            let sum = checksum(&bytes[28..48]);
            put(bytes, 38, sum);
        };
        match self.below(7) {
            0 => {
                bytes[22] ^= 0x10;
                return (bytes, IcmpChecksum);
            }
            1 => bytes[28] = 0x65,
            2 => bytes[28] = 0x44,
            3 => bytes[39] ^= 1,
            4 => {
                put(&mut bytes, 34, 1 + self.below(0x1fff) as u16);
                mend_quote(&mut bytes);
            }
            5 => {
                // AH.
                bytes[37] = 51;
                mend_quote(&mut bytes);
            }
            _ => {
                // About a packet of somebody else.
                bytes[43] ^= 0x40;
                mend_quote(&mut bytes);
            }
        }
        put(&mut bytes, 22, 0);
        let sum = checksum(&bytes[20..]);
        put(&mut bytes, 22, sum);
        (bytes, IcmpQuote)
    }
}
