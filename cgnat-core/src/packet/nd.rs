//! Neighbour Discovery: solicitations and advertisements (RFC 4861 sections 4.3, 4.4).
//!
//! A message is read only if it is valid (sections 7.1.1, 7.1.2): its hop limit of 255 says that no
//! router has forwarded it.

use super::ethernet::Mac;
use super::ipv6::{self, HEADER, Header, address_at, next};
use super::{put_u16, u16_at};
use crate::verdict::DropReason;

/// ICMPv6 type of a solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of an advertisement.
pub const ADVERTISEMENT: u8 = 136;

/// The only hop limit of a valid message.
const HOP_LIMIT: u8 = 255;

/// Bytes of either message without options.
const MESSAGE: usize = 24;

/// Bytes of a link-layer address option for Ethernet.
const OPTION: usize = 8;

/// Options of a link-layer address: of the source, of the target.
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Length of the packet that [`write_solicitation`] writes; a probe has no option.
pub const fn solicitation_len(is_probe: bool) -> usize {
    HEADER + MESSAGE + if is_probe { 0 } else { OPTION }
}

/// Length of the packet that [`write_advertisement`] writes.
pub const ADVERTISEMENT_LEN: usize = HEADER + MESSAGE + OPTION;

/// A solicitation or an advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// It asks; else it tells.
    pub is_solicitation: bool,
    /// The address that is asked for, or told of.
    pub target: u128,
    /// MAC of who asks, or of the target.
    pub mac: Option<Mac>,
    /// It answers a solicitation.
    pub is_solicited: bool,
}

/// Reads the ICMPv6 message `segment`, whose type is one of the two.
///
/// # Errors
/// [`DropReason::NdMalformed`] if it is not valid.
pub fn parse(header: &Header, segment: &[u8]) -> Result<Message, DropReason> {
    let malformed = DropReason::NdMalformed;
    let checksum = ipv6::checksum(header.source, header.destination, next::ICMP, segment);
    if header.hop_limit != HOP_LIMIT || segment.len() < MESSAGE || segment[1] != 0 || checksum != 0
    {
        return Err(malformed);
    }
    let is_solicitation = segment[0] == SOLICITATION;
    let target = address_at(segment, 8);
    let mac = link_layer(&segment[MESSAGE..], is_solicitation)?;
    let is_solicited = !is_solicitation && segment[4] & SOLICITED != 0;
    let is_probe = is_solicitation && header.source == 0;
    let is_to_group = ipv6::is_multicast(header.destination);
    if ipv6::is_multicast(target)
        || ipv6::is_multicast(header.source)
        || (header.source == 0 && !is_solicitation)
        || (is_probe && (mac.is_some() || header.destination != ipv6::solicited_node(target)))
        || (is_solicited && is_to_group)
    {
        return Err(malformed);
    }
    Ok(Message { is_solicitation, target, mac, is_solicited })
}

fn link_layer(mut options: &[u8], is_solicitation: bool) -> Result<Option<Mac>, DropReason> {
    let wanted = if is_solicitation { SOURCE_LINK_LAYER } else { TARGET_LINK_LAYER };
    let mut found = None;
    while !options.is_empty() {
        let length = options.get(1).map_or(0, |units| usize::from(*units) * 8);
        if length == 0 || length > options.len() {
            return Err(DropReason::NdMalformed);
        }
        if options[0] == wanted && found.is_none() {
            let mut mac = [0; 6];
            mac.copy_from_slice(&options[2..8]);
            if length != OPTION || mac[0] & 1 != 0 || mac == [0; 6] {
                return Err(DropReason::NdMalformed);
            }
            found = Some(mac);
        }
        options = &options[length..];
    }
    Ok(found)
}

/// Writes a packet that asks for `target` into all of `packet`, of [`solicitation_len`] bytes. From
/// the unspecified address it is a probe for duplicates (RFC 4862 section 5.4.2).
pub fn write_solicitation(packet: &mut [u8], from: u128, mac: Mac, to: u128, target: u128) {
    write(packet, SOLICITATION, 0, (from, to), target);
    if from != 0 {
        write_option(packet, SOURCE_LINK_LAYER, mac);
    }
    finish(packet, from, to);
}

/// Writes a packet that tells where `target`, an address of this router, is into all of `packet`, of
/// [`ADVERTISEMENT_LEN`] bytes.
pub fn write_advertisement(packet: &mut [u8], mac: Mac, to: u128, target: u128) {
    let solicited = if ipv6::is_multicast(to) { 0 } else { SOLICITED };
    write(packet, ADVERTISEMENT, ROUTER | OVERRIDE | solicited, (target, to), target);
    write_option(packet, TARGET_LINK_LAYER, mac);
    finish(packet, target, to);
}

fn write(packet: &mut [u8], kind: u8, flags: u8, (from, to): (u128, u128), target: u128) {
    packet.fill(0);
    ipv6::write(packet, next::ICMP, HOP_LIMIT, from, to);
    packet[HEADER] = kind;
    packet[HEADER + 4] = flags;
    packet[HEADER + 8..HEADER + MESSAGE].copy_from_slice(&target.to_be_bytes());
}

fn write_option(packet: &mut [u8], kind: u8, mac: Mac) {
    let option = &mut packet[HEADER + MESSAGE..];
    option[..2].copy_from_slice(&[kind, 1]);
    option[2..8].copy_from_slice(&mac);
}

fn finish(packet: &mut [u8], from: u128, to: u128) {
    debug_assert_eq!(u16_at(packet, HEADER + 2), 0);
    let sum = ipv6::checksum(from, to, next::ICMP, &packet[HEADER..]);
    put_u16(packet, HEADER + 2, sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];
    const US: u128 = 0x2001_0db8 << 96 | 2;
    const THEM: u128 = 0xfe80 << 112 | 9;

    fn read(packet: &[u8]) -> Result<Message, DropReason> {
        let header = ipv6::header(packet).expect("a header");
        parse(&header, &packet[HEADER..header.total_len])
    }

    fn solicitation(from: u128, to: u128) -> Vec<u8> {
        let mut packet = vec![0xee; solicitation_len(from == 0)];
        write_solicitation(&mut packet, from, MAC, to, US);
        packet
    }

    fn advertisement(to: u128) -> Vec<u8> {
        let mut packet = vec![0xee; ADVERTISEMENT_LEN];
        write_advertisement(&mut packet, MAC, to, US);
        packet
    }

    /// The packet with one byte changed and its checksum right again.
    fn changed(mut packet: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
        packet[at] = value;
        put_u16(&mut packet, HEADER + 2, 0);
        let (from, to) = (address_at(&packet, 8), address_at(&packet, 24));
        finish(&mut packet, from, to);
        packet
    }

    #[test]
    fn what_is_written_is_read() {
        let group = ipv6::solicited_node(US);
        let asked =
            Message { is_solicitation: true, target: US, mac: Some(MAC), is_solicited: false };
        assert_eq!(read(&solicitation(THEM, group)), Ok(asked));
        assert_eq!(read(&solicitation(THEM, US)), Ok(asked));
        assert_eq!(read(&solicitation(0, group)), Ok(Message { mac: None, ..asked }));
        let told = Message { is_solicitation: false, is_solicited: true, ..asked };
        assert_eq!(read(&advertisement(THEM)), Ok(told));
        let to_all = Message { is_solicited: false, ..told };
        assert_eq!(read(&advertisement(ipv6::ALL_NODES)), Ok(to_all));
    }

    #[test]
    fn what_is_not_valid_is_refused() {
        let good = solicitation(THEM, ipv6::solicited_node(US));
        let refused = Err(DropReason::NdMalformed);
        for (at, value, what) in [
            (7, 254, "a hop limit"),
            (HEADER + 1, 1, "a code"),
            (HEADER + 8, 0xff, "a group as target"),
            (HEADER + MESSAGE + 1, 0, "an option without length"),
            (HEADER + MESSAGE + 1, 2, "an option that is longer"),
            (HEADER + MESSAGE + 2, 1, "the MAC of a group"),
        ] {
            assert_eq!(read(&changed(good.clone(), at, value)), refused, "{what}");
        }
        let mut wrong = good.clone();
        wrong[HEADER + 3] ^= 1;
        assert_eq!(read(&wrong), refused, "a checksum");
        for len in 0..MESSAGE {
            let header = ipv6::header(&good).expect("a header");
            assert_eq!(parse(&header, &good[HEADER..HEADER + len]), refused, "{len}");
        }
        // A probe has no MAC and goes to its group; nobody answers a group as if it had asked.
        let mut probe = vec![0; solicitation_len(false)];
        write(&mut probe, SOLICITATION, 0, (0, ipv6::solicited_node(US)), US);
        write_option(&mut probe, SOURCE_LINK_LAYER, MAC);
        finish(&mut probe, 0, ipv6::solicited_node(US));
        assert_eq!(read(&probe), refused);
        assert_eq!(read(&solicitation(0, US)), refused);
        let answer = changed(advertisement(ipv6::ALL_NODES), HEADER + 4, SOLICITED);
        assert_eq!(read(&answer), refused);
    }
}
