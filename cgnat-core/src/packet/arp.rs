//! ARP for Ethernet and IPv4 (RFC 826).

use super::ethernet::Mac;
use super::{put_u16, put_u32, u16_at, u32_at};
use crate::verdict::DropReason;

/// Bytes of an ARP packet for Ethernet and IPv4.
pub const LEN: usize = 28;

/// Operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
}

/// An ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// MAC of the sender.
    pub sender_mac: Mac,
    /// Address of the sender.
    pub sender: u32,
    /// MAC of the target; zero in a request.
    pub target_mac: Mac,
    /// Address asked for, or answered to.
    pub target: u32,
}

/// Reads an ARP packet from the payload of a frame.
///
/// # Errors
/// [`DropReason::ArpMalformed`] if it is short, of other address families, has an unknown
/// operation or a group MAC as its sender.
pub fn parse(payload: &[u8]) -> Result<Arp, DropReason> {
    if payload.len() < LEN
        || u16_at(payload, 0) != 1
        || u16_at(payload, 2) != super::ethernet::IPV4
        || payload[4] != 6
        || payload[5] != 4
    {
        return Err(DropReason::ArpMalformed);
    }
    let operation = match u16_at(payload, 6) {
        1 => Operation::Request,
        2 => Operation::Reply,
        _ => return Err(DropReason::ArpMalformed),
    };
    let mac = |at: usize| -> Mac {
        let mut mac = [0; 6];
        mac.copy_from_slice(&payload[at..at + 6]);
        mac
    };
    let sender_mac = mac(8);
    if sender_mac[0] & 1 != 0 || sender_mac == [0; 6] {
        return Err(DropReason::ArpMalformed);
    }
    Ok(Arp {
        operation,
        sender_mac,
        sender: u32_at(payload, 14),
        target_mac: mac(18),
        target: u32_at(payload, 24),
    })
}

/// Writes `arp` into the first [`LEN`] bytes of `payload`.
pub fn write(payload: &mut [u8], arp: &Arp) {
    put_u16(payload, 0, 1);
    put_u16(payload, 2, super::ethernet::IPV4);
    payload[4] = 6;
    payload[5] = 4;
    put_u16(payload, 6, if arp.operation == Operation::Request { 1 } else { 2 });
    payload[8..14].copy_from_slice(&arp.sender_mac);
    put_u32(payload, 14, arp.sender);
    payload[18..24].copy_from_slice(&arp.target_mac);
    put_u32(payload, 24, arp.target);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_anything_shorter_or_other_is_refused() {
        let arp = Arp {
            operation: Operation::Reply,
            sender_mac: [2, 0, 0, 0, 0, 7],
            sender: 0x0a00_0001,
            target_mac: [2, 0, 0, 0, 0, 8],
            target: 0x0a00_0002,
        };
        let mut bytes = [0; LEN];
        write(&mut bytes, &arp);
        assert_eq!(parse(&bytes), Ok(arp));
        for len in 0..LEN {
            assert_eq!(parse(&bytes[..len]), Err(DropReason::ArpMalformed));
        }
        for at in 0..8 {
            let mut broken = bytes;
            broken[at] ^= 0x40;
            assert_eq!(parse(&broken), Err(DropReason::ArpMalformed), "byte {at}");
        }
        let mut group = bytes;
        group[8] |= 1;
        assert_eq!(parse(&group), Err(DropReason::ArpMalformed));
    }
}
