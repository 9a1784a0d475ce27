//! Frames with one thing wrong: in the link header, in the IP header, behind it, or in what an
//! ICMP error quotes.

use cgnat_core::verdict::DropReason::{self, *};

use super::events::{Event, Events, INTERNAL};
use super::wire::{Body, ICMP, Packet, TCP, UDP, Vlan, checksum, ip, link_len, put};

/// Bytes of the longest frame that any buffer has room for, and some.
const LONGEST: usize = 12_000;

impl Events {
    /// A good outbound or inbound packet, broken in one way.
    pub fn broken(&mut self, worker: usize) -> Event {
        let port = self.below(2) as usize;
        let mut link = self.links[port];
        let (inner, outer) = ((ip("100.64.0.1"), 1000), (ip("198.51.100.7"), 443));
        let (from, to) = if port == INTERNAL { (inner, outer) } else { (outer, inner) };
        let protocol = self.pick(&[UDP, TCP, ICMP]);
        let mut packet = self.packet(protocol, from, to);
        packet.options.clear();
        packet.payload.resize(30, 7);
        let martian = self.pick(&[ip("0.0.0.9"), ip("127.0.0.1"), ip("224.0.0.5"), u32::MAX]);
        let mut ether_type = 0x0800;
        let mut whole = true;
        let mut bytes = packet.bytes();
        let fix = |bytes: &mut Vec<u8>| {
            put(bytes, 10, 0);
            let sum = checksum(&bytes[..20]);
            put(bytes, 10, sum);
        };
        let reason = match self.below(24) {
            0 => {
                bytes[10 + self.below(2) as usize] ^= 1 << self.below(8);
                IpChecksum
            }
            1 => {
                bytes.truncate(self.below(20) as usize);
                IpShort
            }
            2 => {
                bytes.pop();
                IpTotalLength
            }
            3 => {
                bytes[0] = self.pick(&[0x05, 0x55, 0x65, 0xf5]);
                IpVersion
            }
            4 => {
                bytes[0] = 0x40 | self.below(5) as u8;
                IpHeaderLength
            }
            5 => {
                bytes.truncate(40);
                bytes[0] = 0x4b + self.below(5) as u8;
                IpHeaderLength
            }
            6 => {
                let wrong = self.pick(&[19, 0, 5000]);
                put(&mut bytes, 2, wrong);
                IpTotalLength
            }
            7 => {
                packet.source = martian;
                bytes = packet.bytes();
                SourceMartian
            }
            8 => {
                packet.destination = martian;
                bytes = packet.bytes();
                DestinationMartian
            }
            9 => {
                packet.source = packet.destination;
                bytes = packet.bytes();
                SourceMartian
            }
            10 => {
                // Each wrong by itself: 38 or more bytes are no whole units, an end beyond 65,535.
                let word = self.pick(&[0x2000, 0x2004, 0x1fff, 0x3fff]);
                put(&mut bytes, 6, word);
                fix(&mut bytes);
                if word & 0x2000 != 0 { FragmentLength } else { FragmentBeyond }
            }
            11 => {
                bytes[9] = self.pick(&[0, 2, 51, 132, 255]);
                fix(&mut bytes);
                ProtocolUnsupported
            }
            12 => {
                // The transport header is cut off.
                let timestamp = matches!(packet.body, Body::Timestamp { .. });
                let least = if protocol == TCP || timestamp { 20 } else { 8 };
                let total = 20 + self.below(least);
                bytes.truncate(total as usize);
                put(&mut bytes, 2, total as u16);
                fix(&mut bytes);
                TransportTruncated
            }
            13 if protocol == UDP => {
                let wrong = self.pick(&[0, 7, 39, 65535]);
                put(&mut bytes, 24, wrong);
                TransportTruncated
            }
            13 | 14 if protocol == TCP => {
                let beyond = if bytes.len() < 20 + 60 { 0xf0 } else { 0x10 };
                bytes[32] = self.pick(&[0x40, beyond, 0x00]);
                TransportTruncated
            }
            13 | 14 if protocol == ICMP => {
                let (kind, reason) = self.pick(&[
                    (4, IcmpSourceQuench),
                    (5, IcmpRedirect),
                    (9, IcmpRouterDiscovery),
                    (16, IcmpInformation),
                    (17, IcmpAddressMask),
                    (255, IcmpUnsupported),
                ]);
                bytes[20] = kind;
                reason
            }
            14 | 15 if protocol != ICMP => {
                let at = self.pick(&[20, 22]);
                put(&mut bytes, at, 0);
                PortZero
            }
            16 => {
                link.to[5] ^= 0x55;
                FrameNotForUs
            }
            17 => {
                link.to = self.pick(&[[0xff; 6], [1, 0, 0x5e, 0, 0, 1]]);
                FrameNotForUs
            }
            18 => {
                link.vlan = match link.vlan {
                    Some(Vlan { outer: None, id }) => self.pick(&[
                        None,
                        Some(Vlan::dot1q(id + 1)),
                        Some(Vlan::qinq(id, id)),
                        Some(Vlan { outer: Some((0x8100, id)), id }),
                    ]),
                    Some(Vlan { outer: Some((tpid, outer)), id }) => self.pick(&[
                        None,
                        Some(Vlan::dot1q(outer)),
                        Some(Vlan::dot1q(id)),
                        Some(Vlan { outer: Some((tpid, outer + 1)), id }),
                        Some(Vlan { outer: Some((tpid, outer)), id: id + 1 }),
                        Some(Vlan { outer: Some((tpid ^ 0x09a8, outer)), id }),
                    ]),
                    None => Some(Vlan::dot1q(5)),
                };
                VlanMismatch
            }
            15 if protocol == ICMP => {
                let (about, to) = (self.packet(UDP, to, from), to);
                let error = self.broken_error(about, from, to);
                bytes = error.0;
                error.1
            }
            19 => {
                ether_type = 0x86dd;
                Ipv6
            }
            20 => {
                ether_type = self.pick(&[0x88cc, 0x8847, 0x0000]);
                EtherTypeOther
            }
            21 => {
                whole = false;
                FrameLong
            }
            22 => {
                ether_type = 0x0806;
                ArpMalformed
            }
            _ => {
                packet.destination = self.own[self.below(2) as usize];
                packet.set_query(false);
                bytes = packet.bytes();
                ToUs
            }
        };
        let mut frame = link.frame(ether_type, &bytes);
        if !whole {
            frame.resize(LONGEST + 1 + self.below(3_000) as usize, 0);
        }
        if reason == ArpMalformed {
            frame.truncate(link_len(link.vlan) + self.below(28) as usize);
        }
        let reason = if reason == IpShort && self.one_in(4) {
            frame.truncate(self.below(link_len(link.vlan) as u32) as usize);
            FrameShort
        } else {
            reason
        };
        Event::Broken { worker, port, frame, whole, reason }
    }

    /// An ICMP error with one thing wrong.
    fn broken_error(
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
