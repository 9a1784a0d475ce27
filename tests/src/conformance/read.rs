//! Reading packets back, and the packets that ICMP errors quote.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};

use super::packet::{Body, Packet, Tcp, checksum, u16_at};

/// Reads a packet; also which of its checksums are wrong.
///
/// # Errors
/// Lengths do not fit.
pub fn read(bytes: &[u8]) -> Result<(Packet, Vec<&'static str>)> {
    ensure!(bytes.len() >= 20 && bytes[0] >> 4 == 4, "no IPv4 header");
    let header = usize::from(bytes[0] & 15) * 4;
    ensure!(header >= 20 && bytes.len() >= header, "the header has {header} bytes");
    let total = usize::from(u16_at(bytes, 2));
    ensure!(total == bytes.len(), "total length {total} of {} bytes", bytes.len());
    let mut faults = Vec::new();
    if checksum(&[&bytes[..header]]) != 0 {
        faults.push("IPv4");
    }
    let fragment = u16_at(bytes, 6);
    let (more, offset) = (fragment & 0x2000 != 0, (fragment & 0x1fff) * 8);
    let segment = &bytes[header..];
    let protocol = bytes[9];
    let body = if more || offset > 0 {
        Body::Other { protocol, bytes: segment.to_vec() }
    } else {
        let pseudo = [&bytes[12..20], &[0, protocol][..], &(segment.len() as u16).to_be_bytes()];
        transport(protocol, segment, &pseudo.concat(), &mut faults)?
    };
    let packet = Packet {
        source: address(bytes, 12),
        destination: address(bytes, 16),
        ttl: bytes[8],
        tos: bytes[1],
        id: u16_at(bytes, 4),
        df: fragment & 0x4000 != 0,
        more,
        offset,
        options: bytes[20..header].to_vec(),
        body,
    };
    Ok((packet, faults))
}

fn transport(
    protocol: u8,
    segment: &[u8],
    pseudo: &[u8],
    faults: &mut Vec<&'static str>,
) -> Result<Body> {
    let body = match protocol {
        17 => {
            ensure!(segment.len() >= 8, "a UDP header of {} bytes", segment.len());
            let length = usize::from(u16_at(segment, 4));
            ensure!(length == segment.len(), "UDP length {length} of {} bytes", segment.len());
            let bare = u16_at(segment, 6) == 0;
            if !bare && checksum(&[pseudo, segment]) != 0 {
                faults.push("UDP");
            }
            let (source, destination) = (u16_at(segment, 0), u16_at(segment, 2));
            Body::Udp { source, destination, bare, payload: segment[8..].to_vec() }
        }
        6 => {
            ensure!(segment.len() >= 20, "a TCP header of {} bytes", segment.len());
            let header = usize::from(segment[12] >> 4) * 4;
            ensure!(header >= 20 && segment.len() >= header, "a TCP header of {header} bytes");
            if checksum(&[pseudo, segment]) != 0 {
                faults.push("TCP");
            }
            let word =
                |at| u32::from(u16_at(segment, at)) << 16 | u32::from(u16_at(segment, at + 2));
            Body::Tcp(Tcp {
                source: u16_at(segment, 0),
                destination: u16_at(segment, 2),
                sequence: word(4),
                acknowledgement: word(8),
                flags: segment[13],
                window: u16_at(segment, 14),
                options: segment[20..header].to_vec(),
                payload: segment[header..].to_vec(),
            })
        }
        1 => {
            ensure!(segment.len() >= 8, "an ICMP header of {} bytes", segment.len());
            if checksum(&[segment]) != 0 {
                faults.push("ICMP");
            }
            let rest = [segment[4], segment[5], segment[6], segment[7]];
            let (kind, code) = (segment[0], segment[1]);
            Body::Icmp { kind, code, rest, payload: segment[8..].to_vec() }
        }
        _ => Body::Other { protocol, bytes: segment.to_vec() },
    };
    Ok(body)
}

/// The packet that an ICMP error quotes, as far as it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// Where the quoted packet came from; for a query the identifier.
    pub sender: SocketAddrV4,
    /// Where it was going; for a query the identifier.
    pub receiver: SocketAddrV4,
    /// IP protocol number.
    pub protocol: u8,
    /// Options of its IPv4 header.
    pub options: Vec<u8>,
    /// The checksum of its IPv4 header is right.
    pub is_sound: bool,
    /// All behind its IPv4 header that is quoted, with what follows the quote.
    pub segment: Vec<u8>,
}

impl Quote {
    /// What `packet` quotes.
    ///
    /// # Errors
    /// It is no ICMP error, or quotes less than a header and eight bytes.
    pub fn of(packet: &Packet) -> Result<Quote> {
        let (kind, _) = packet.icmp().context("not ICMP")?;
        ensure!(matches!(kind, 3 | 4 | 5 | 11 | 12), "ICMP type {kind} quotes nothing");
        let bytes = packet.payload();
        ensure!(bytes.len() >= 28 && bytes[0] >> 4 == 4, "a quote of {} bytes", bytes.len());
        let header = usize::from(bytes[0] & 15) * 4;
        ensure!(header >= 20 && bytes.len() >= header + 8, "a quote of {} bytes", bytes.len());
        let segment = &bytes[header..];
        let ports = match bytes[9] {
            1 => (u16_at(segment, 4), u16_at(segment, 4)),
            _ => (u16_at(segment, 0), u16_at(segment, 2)),
        };
        Ok(Quote {
            sender: SocketAddrV4::new(address(bytes, 12), ports.0),
            receiver: SocketAddrV4::new(address(bytes, 16), ports.1),
            protocol: bytes[9],
            options: bytes[20..header].to_vec(),
            is_sound: checksum(&[&bytes[..header]]) == 0,
            segment: segment.to_vec(),
        })
    }
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

#[cfg(test)]
mod tests {
    use super::super::packet::{ACK, error, query, tcp, udp};
    use super::*;

    fn ends() -> (SocketAddrV4, SocketAddrV4) {
        let from = SocketAddrV4::new(Ipv4Addr::new(100, 64, 0, 1), 4000);
        (from, SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 9), 53))
    }

    #[test]
    fn what_is_written_is_read_back_and_a_flipped_bit_is_found() {
        let (from, to) = ends();
        let mut with_options = tcp(from, to, ACK).carrying(&[1, 2, 3]);
        with_options.options = vec![1; 8];
        for packet in [
            udp(from, to),
            udp(from, to).df(false).ttl(3),
            with_options,
            query(*from.ip(), *to.ip(), 8, 77),
            Packet::new(*from.ip(), *to.ip(), Body::Other { protocol: 47, bytes: vec![9; 30] }),
        ] {
            let bytes = packet.bytes();
            assert_eq!(read(&bytes).expect("whole"), (packet.clone(), vec![]));
            if !matches!(packet.body, Body::Other { .. }) {
                let mut broken = bytes.clone();
                let last = broken.len() - 1;
                broken[last] ^= 4;
                assert_eq!(read(&broken).expect("whole").1.len(), 1, "{packet:?}");
            }
            let mut broken = bytes;
            broken[9 - 1] ^= 1;
            assert_eq!(read(&broken).expect("whole").1, ["IPv4"]);
        }
    }

    #[test]
    fn fragments_are_joined_in_any_order_and_a_gap_is_found() {
        let (from, to) = ends();
        let whole = udp(from, to).df(false).carrying(&[7; 100]);
        let mut pieces = whole.fragments(40);
        assert_eq!(pieces.len(), 3);
        pieces.swap(0, 2);
        assert_eq!(Packet::reassemble(&pieces).expect("all there"), whole);
        assert!(Packet::reassemble(&pieces[..2]).is_err());
    }

    #[test]
    fn an_error_quotes_the_packet_that_it_is_about() {
        let (from, to) = ends();
        let about = udp(from, to);
        let quote = Quote::of(&error(*to.ip(), 3, 3, &about, 8)).expect("a quote");
        assert_eq!((quote.sender, quote.receiver, quote.is_sound), (from, to, true));
        assert_eq!(quote.segment.len(), 8);
        assert!(Quote::of(&about).is_err());
    }
}
