//! What every frame that the appliance sends must be, whatever the case is about.
//!
//! 1. It is a whole IPv4 packet, with nothing behind it, from the appliance's MAC to the next hop's, with right checksums.
//! 2. To the Internet, its source is of the pool or the appliance's own external address.
//! 3. To the Internet, no internal address is in its header, in IPv4 options or in what an ICMP
//!    error quotes (RFC 6598 section 4, RFC 5508 REQ-5).

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};

use super::packet::Packet;
use super::read::{Quote, read};
use super::settings::Settings;
use super::talk::{Side, bytes_of};
use crate::lab::{BOX_EXTERNAL, MACS};

/// The packet in a frame that was sent to `side`; `checksums` says whether those of transport
/// headers must be right.
///
/// # Errors
/// A rule does not hold.
pub fn frame(side: Side, frame: &[u8], settings: &Settings, checksums: bool) -> Result<Packet> {
    ensure!(frame.len() >= 34 && frame[12..14] == [8, 0], "not an IPv4 frame: {frame:02x?}");
    let [router, internal, external, world] = MACS.map(bytes_of);
    let (to, from) = if side == Side::Internal { (router, internal) } else { (world, external) };
    ensure!(frame[..6] == to && frame[6..12] == from, "MACs {:02x?}", &frame[..12]);
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let bytes = frame.get(14..14 + total).context("the packet is cut")?;
    ensure!(frame.len() == 14 + total, "bytes behind the packet: {frame:02x?}");
    let (packet, faults) = read(bytes)?;
    let wrong = faults.iter().any(|layer| checksums || *layer == "IPv4");
    ensure!(!wrong, "wrong checksums {faults:?}: {packet:?}");
    if side == Side::External {
        leaks_nothing(&packet, settings)?;
    }
    Ok(packet)
}

fn leaks_nothing(packet: &Packet, settings: &Settings) -> Result<()> {
    let allowed =
        |address: Ipv4Addr| settings.untranslated.iter().any(|net| net.contains(&address));
    let source = packet.source;
    ensure!(
        settings.is_pool(source) || source == BOX_EXTERNAL || allowed(source),
        "source {source} is not ours: {packet:?}"
    );
    let inside = |address: Ipv4Addr| settings.is_inside(address) && !allowed(address);
    ensure!(!inside(source) && !inside(packet.destination), "an internal address: {packet:?}");
    let mut options = vec![&packet.options];
    let quote = Quote::of(packet).ok();
    if let Some(quote) = &quote {
        let (from, to) = (*quote.sender.ip(), *quote.receiver.ip());
        ensure!(!inside(from) && !inside(to), "an internal address in a quote: {packet:?}");
        options.push(&quote.options);
    }
    for window in options.iter().flat_map(|options| options.windows(4)) {
        let address = Ipv4Addr::new(window[0], window[1], window[2], window[3]);
        ensure!(!inside(address), "an internal address in options: {packet:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::packet::{error, udp};
    use super::*;
    use std::net::SocketAddrV4;

    fn judged(packet: &Packet) -> Result<Packet> {
        frame(Side::External, &around(packet), &Settings::default(), true)
    }

    fn around(packet: &Packet) -> Vec<u8> {
        let [_, _, external, world] = MACS.map(bytes_of);
        [&world[..], &external, &[8, 0], &packet.bytes()].concat()
    }

    #[test]
    fn a_leak_in_header_options_or_quote_is_found() {
        let pool = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 3), 2000);
        let inside = SocketAddrV4::new(Ipv4Addr::new(100, 64, 0, 1), 2000);
        let remote = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 3), 53);
        let good = udp(pool, remote);
        assert_eq!(judged(&good).expect("no leak"), good);
        let padded = [around(&good), vec![0]].concat();
        assert!(frame(Side::External, &padded, &Settings::default(), true).is_err());
        assert!(judged(&udp(inside, remote)).is_err());
        assert!(judged(&udp(remote, remote)).is_err());
        let routed = Packet { options: vec![7, 7, 8, 100, 64, 0, 1, 0], ..good.clone() };
        assert!(judged(&routed).is_err());
        assert!(judged(&error(*pool.ip(), 3, 3, &udp(remote, pool), 8)).is_ok());
        assert!(judged(&error(*pool.ip(), 3, 3, &udp(remote, inside), 8)).is_err());
    }
}
