//! No length has a fault of its own: frames of 60 to 9,018 bytes, each of them, with and without
//! VLAN tags, one or two, and IPv4 options, in both directions and hairpinned, whole, in pieces and as fragments,
//! into ports that are as large and into smaller ones. Every byte that leaves is compared.

use cgnat_core::testing::io::MemoryPacket;
use cgnat_core::verdict::DropReason::TooBig;

use crate::desk::*;
use crate::mtu::{reassembled_behind, with_mtu};
use crate::wire::{Body, Packet, Vlan, ip, link_len, vlan_keys};

const HOST: (&str, u16) = ("100.64.3.9", 4000);
const PEER: (&str, u16) = ("100.64.3.10", 5000);

/// The largest packet: with Ethernet a frame of 9,018 bytes.
const LARGEST: usize = 9004;
/// The shortest frame, without its CRC (IEEE 802.3).
const SHORTEST_FRAME: usize = 60;

const INSIDE: Option<Vlan> = Some(Vlan::dot1q(100));
const OUTSIDE: Option<Vlan> = Some(Vlan::dot1q(200));
const STACKED: Option<Vlan> = Some(Vlan::qinq(300, 200));

const VLANS: [[Option<Vlan>; 2]; 5] =
    [[None, None], [INSIDE, None], [None, OUTSIDE], [INSIDE, STACKED], [STACKED, None]];

/// Bytes of IPv4 options.
const OPTIONS: [usize; 3] = [0, 4, 40];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Udp,
    UdpWithoutChecksum,
    Tcp,
    Echo,
}

const KINDS: [Kind; 4] = [Kind::Udp, Kind::UdpWithoutChecksum, Kind::Tcp, Kind::Echo];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Out,
    In,
    /// From one subscriber to the other by its external endpoint.
    Hairpin,
    /// An ICMP error from outside about what went out, all of which it quotes.
    Told,
}

const WAYS: [Way; 4] = [Way::Out, Way::In, Way::Hairpin, Way::Told];

/// A packet as it arrives, and as it must leave.
struct Crossing {
    arriving: Packet,
    leaving: Packet,
    from: usize,
    to: usize,
}

/// A box that two subscribers have flows of each kind through.
struct Road {
    desk: Desk,
    /// External endpoints of host and peer, by kind.
    outside: [Vec<(u32, u16)>; 2],
    /// What payloads and padding are cut from.
    noise: Vec<u8>,
    crossed: u64,
}

fn flow(kind: Kind, from: (&str, u16), to: (u32, u16)) -> Packet {
    let mut packet = match kind {
        Kind::Tcp => tcp(from, to, ACK),
        Kind::Echo => echo(true, from.0, to.0, from.1),
        _ => udp(from, to),
    };
    match &mut packet.body {
        Body::Udp { checksummed, .. } => *checksummed = kind == Kind::Udp,
        Body::Tcp { options, .. } => options.clear(),
        _ => {}
    }
    packet.payload.clear();
    packet
}

impl Road {
    fn new(mtus: [u16; 2], vlans: [Option<Vlan>; 2]) -> Self {
        let mut yaml = with_mtu(mtus[0], mtus[1]);
        for (device, vlan) in ["net_null0", "net_null1"].into_iter().zip(vlans) {
            let line = format!("    device: {device}\n");
            yaml = yaml.replace(&line, &format!("{line}{}", vlan_keys(vlan)));
        }
        yaml += "nat44: { icmp-errors: { per-receiver: 10_000, in-all: 1_000_000 } }\n";
        // With several, packets are handed to the workers that own them.
        let workers = if vlans[0].is_some() && vlans[1].is_some() { 3 } else { 1 };
        let mut desk = Desk::with(&yaml, workers, 1);
        desk.vlans = vlans;
        let outside = [HOST, PEER].map(|subscriber| {
            let open = |kind: &Kind| begin(&mut desk, *kind, subscriber);
            KINDS.iter().map(open).collect()
        });
        let mut state = 1u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        Self { desk, outside, noise: noise.take(3 * LARGEST).collect(), crossed: 0 }
    }

    /// A packet of `total` bytes; `None` where there is none of that kind and way.
    fn crossing(
        &mut self,
        (way, kind): (Way, Kind),
        total: usize,
        options: usize,
        df: bool,
    ) -> Option<Crossing> {
        let [shown, peer] = [0, 1].map(|side: usize| self.outside[side][kind as usize]);
        let mut arriving = match way {
            Way::Out | Way::Told => flow(kind, HOST, server(80)),
            Way::Hairpin if kind == Kind::Echo => return None,
            Way::Hairpin => flow(kind, HOST, peer),
            Way::In if kind == Kind::Echo => echo(false, SERVER, shown.0, shown.1),
            Way::In => flow(kind, (SERVER, 80), shown),
        };
        arriving.payload.clear();
        // Told of a packet without options: the error has them.
        arriving.options = vec![1; if way == Way::Told { 0 } else { options }];
        let behind = if way == Way::Told { 28 + options } else { 0 };
        let payload = total.checked_sub(arriving.len() + behind)?;
        let from = (total * 7 + self.crossed as usize * 13) % LARGEST;
        arriving.payload.extend(&self.noise[from..from + payload]);
        arriving.df = df;
        if way == Way::Told {
            arriving.df = true;
            arriving = error_about(arriving, shown, options);
            arriving.df = df;
        }
        let mut leaving = arriving.clone();
        leaving.ttl -= 1;
        let (from, to) = match way {
            Way::Out => (INTERNAL, EXTERNAL),
            Way::In | Way::Told => (EXTERNAL, INTERNAL),
            Way::Hairpin => (INTERNAL, INTERNAL),
        };
        if matches!(way, Way::Out | Way::Hairpin) {
            leaving.set_source(shown);
        }
        match way {
            Way::Out => {}
            Way::In | Way::Told => leaving.set_destination((ip(HOST.0), HOST.1)),
            Way::Hairpin => leaving.set_destination((ip(PEER.0), PEER.1)),
        }
        Some(Crossing { arriving, leaving, from, to })
    }

    /// Lets bytes arrive behind the link header of a port, filled up to the shortest frame and
    /// with `trailer` bytes behind that; in pieces if the first is to have so many bytes.
    fn offer(&mut self, port: usize, packet: &[u8], trailer: usize, cut: Option<usize>) -> Frames {
        let (_, mut frame) = self.desk.leaving_bytes(port, packet);
        frame[..6].copy_from_slice(&cgnat_core::testing::lab::port_mac(port));
        frame[6..12].copy_from_slice(&HOPS[port]);
        let filled = frame.len().max(SHORTEST_FRAME) + trailer;
        let padding = filled - frame.len();
        frame.extend(&self.noise[..padding]);
        let mut arriving = MemoryPacket::new(&frame);
        if let Some(first) = cut {
            arriving = arriving.in_pieces(first % frame.len());
        }
        self.desk.lab.workers[0].io_mut().arrive(port, arriving);
        self.desk.lab.run_workers();
        self.crossed += 1;
        if self.crossed.is_multiple_of(8000) {
            // Errors are limited per second.
            self.desk.lab.advance_silently(1000);
        }
        self.desk.lab.take_sent()
    }

    /// A packet leaves whole as it must.
    fn passes(&mut self, crossing: &Crossing, trailer: usize, cut: Option<usize>) {
        let Crossing { arriving, leaving, from, to } = crossing;
        let sent = self.offer(*from, &arriving.bytes(), trailer, cut);
        let mut leaving = leaving.clone();
        if let (false, [(_, frame)]) = (leaving.df, &sent[..]) {
            // Of what others may fragment the box chooses the identification (RFC 6864).
            leaving.identification = self.half(*to, frame, 4);
        }
        let expected = [self.desk.leaving(*to, &leaving)];
        self.must_be(&sent, &expected, arriving);
    }

    /// Sixteen bits of a packet in a frame that left a port.
    fn half(&self, port: usize, frame: &[u8], at: usize) -> u16 {
        let at = self.link(port) + at;
        u16::from_be_bytes([frame[at], frame[at + 1]])
    }

    fn link(&self, port: usize) -> usize {
        link_len(self.desk.vlans[port])
    }

    fn must_be(&self, sent: &[(usize, Vec<u8>)], expected: &[(usize, Vec<u8>)], of: &Packet) {
        if sent == expected {
            return;
        }
        let (total, drops) = (of.len(), self.desk.drops());
        let first = sent.iter().zip(expected).find(|(sent, expected)| sent != expected);
        let at = first.map(|((_, sent), (_, expected))| {
            let alike = sent.iter().zip(expected).take_while(|(a, b)| a == b).count();
            (alike, sent.len(), expected.len())
        });
        panic!(
            "{:?} of {total} bytes, options {}, VLANs {:?}: {} frames left, {} must; where they \
             differ and their lengths: {at:?}; drops {drops:?}",
            of.body,
            of.options.len(),
            self.desk.vlans,
            sent.len(),
            expected.len()
        );
    }
}

/// Opens a flow to the server and answers with its external endpoint.
fn begin(desk: &mut Desk, kind: Kind, subscriber: (&str, u16)) -> (u32, u16) {
    if kind != Kind::Tcp {
        return desk.goes_out(&flow(kind, subscriber, server(80)));
    }
    let outside = desk.goes_out(&tcp(subscriber, server(80), SYN));
    desk.comes_in(&tcp((SERVER, 80), outside, SYN | ACK), subscriber);
    desk.goes_out(&tcp(subscriber, server(80), ACK))
}

/// The error of a router outside about all of a packet that left with this source.
fn error_about(mut about: Packet, shown: (u32, u16), options: usize) -> Packet {
    about.set_source(shown);
    about.ttl -= 1;
    let kept = about.len() - 20;
    let mut error = udp(("198.51.100.99", 1), (shown.0, 1));
    error.options = vec![1; options];
    error.body = Body::Error { kind: 3, code: 4, rest: 1400, about: Box::new(about), kept };
    error.payload.clear();
    error
}

/// The kinds by the ways, each with a number of its own.
fn crossings() -> impl Iterator<Item = (usize, Kind, Way)> {
    let each = KINDS.into_iter().flat_map(|kind| WAYS.into_iter().map(move |way| (kind, way)));
    each.enumerate().map(|(n, (kind, way))| (n, kind, way))
}
/// Every size and kind and way. Options take turns, so that with the pairs of VLANs each size
/// has met all of them; so do frames in pieces, cut anywhere.
fn every_size_passes(vlans: [Option<Vlan>; 2], turn: usize) {
    let mut road = Road::new([LARGEST as u16; 2], vlans);
    let mut sizes = 0;
    for total in 28..=LARGEST {
        for (n, kind, way) in crossings() {
            let is_small = total < 28 + 28 + 40;
            let one = OPTIONS[(total + turn + n) % OPTIONS.len()];
            let options = if is_small { &OPTIONS[..] } else { &[one] };
            for options in options {
                let Some(crossing) = road.crossing((way, kind), total, *options, true) else {
                    continue;
                };
                let trailer = if (total + n).is_multiple_of(5) { total % 9 } else { 0 };
                road.passes(&crossing, trailer, None);
                if is_small || (total + n).is_multiple_of(8) {
                    road.passes(&crossing, trailer, Some(total * 31 + n * 7));
                }
                sizes += 1;
            }
        }
    }
    assert!(sizes > 15 * (LARGEST - 28 - 100), "only {sizes}");
    assert_eq!(road.desk.drops(), [].into());
    assert!(road.desk.lab.sum(|c| c.ports[INTERNAL].rx_joined.value()) > 5_000);
    let hits = road.desk.lab.sum(|c| c.hits.value());
    assert!(hits > 10_000 || vlans != VLANS[0], "only {hits} in stages");
}

#[test]
fn frames_of_every_size_pass_as_they_are() {
    every_size_passes(VLANS[0], 0);
}

#[test]
fn frames_of_every_size_pass_from_a_vlan() {
    every_size_passes(VLANS[1], 1);
}

#[test]
fn frames_of_every_size_pass_into_a_vlan() {
    every_size_passes(VLANS[2], 2);
}

#[test]
fn frames_of_every_size_pass_from_a_vlan_into_two_tags() {
    every_size_passes(VLANS[3], 0);
}

#[test]
fn frames_of_every_size_pass_from_two_tags() {
    every_size_passes(VLANS[4], 1);
}

/// What a sender is told about a packet that it sent.
fn told(desk: &Desk, port: usize, mtu: u16, about: &Packet) -> (usize, Vec<u8>) {
    let kept = 548 - 20 - about.options.len();
    let mut error = udp((["10.255.0.2", "192.0.2.2"][port], 1), (about.source, 1));
    error.identification = 0;
    let about = Box::new(about.clone());
    error.body = Body::Error { kind: 3, code: 4, rest: mtu.into(), about, kept };
    error.payload.clear();
    desk.leaving(port, &error)
}

impl Road {
    /// A packet that is too big for the port that it leaves by is refused with DF, and its sender
    /// told the MTU; without DF it leaves in fragments.
    fn is_too_big(&mut self, crossing: &Crossing, mtu: u16, cut: Option<usize>) {
        let Crossing { arriving, leaving, from, to } = crossing;
        let sent = self.offer(*from, &arriving.bytes(), 0, cut);
        if arriving.df {
            let told = match arriving.body {
                // About an error nobody is told.
                Body::Error { .. } => vec![],
                _ => vec![told(&self.desk, *from, mtu, arriving)],
            };
            return self.must_be(&sent, &told, arriving);
        }
        let mut leaving = leaving.clone();
        leaving.identification = sent.first().map_or(0, |(_, frame)| self.half(*to, frame, 4));
        let pieces = leaving.pieces(mtu.into());
        let pieces = pieces.iter().map(|piece| self.desk.leaving_bytes(*to, piece));
        self.must_be(&sent, &pieces.collect::<Vec<_>>(), arriving);
        let whole = reassembled_behind(self.link(*to), &sent, *to, mtu.into());
        assert_eq!(whole, leaving.bytes());
    }
}

/// Packets of every size meet a port of `mtu` behind one that takes them all, or before it.
fn every_size_meets(mtu: u16, vlans: [Option<Vlan>; 2], ways: &[Way]) {
    let is_narrow_inside = !ways.contains(&Way::Out);
    let mtus = if is_narrow_inside { [mtu, LARGEST as u16] } else { [LARGEST as u16, mtu] };
    let mut road = Road::new(mtus, vlans);
    let (mut refused, mut cut) = (0, 0);
    for total in 28..=LARGEST {
        for (n, kind, way) in crossings().filter(|(_, _, way)| ways.contains(way)) {
            let options = OPTIONS[(total + n) % OPTIONS.len()];
            for df in [true, false] {
                // Of what needs many fragments a half will do.
                if total > 1600 && df == (total / 8 + n).is_multiple_of(2) {
                    continue;
                }
                let Some(crossing) = road.crossing((way, kind), total, options, df) else {
                    continue;
                };
                let pieces = (total + n).is_multiple_of(8).then_some(total * 31 + n * 7);
                if total <= usize::from(mtu) {
                    road.passes(&crossing, total % 3, pieces);
                    continue;
                }
                road.is_too_big(&crossing, mtu, pieces);
                *if df { &mut refused } else { &mut cut } += 1;
            }
        }
    }
    assert!(refused > 10_000 && cut > 10_000, "{refused} refused, {cut} cut");
    assert_eq!(road.desk.drops(), [(TooBig, refused)].into());
    assert_eq!(road.desk.lab.sum(|c| c.fragmented.value()), cut);
    assert_eq!(road.desk.lab.sum(|c| c.errors_withheld.value()), 0);
}

#[test]
fn packets_of_every_size_are_cut_or_refused_on_the_way_out_4787_req_13_791_s3_2() {
    every_size_meets(1500, VLANS[2], &[Way::Out]);
    every_size_meets(577, VLANS[1], &[Way::Out]);
}

#[test]
fn packets_of_every_size_are_cut_or_refused_on_the_way_in_4787_req_13_791_s3_2() {
    every_size_meets(1501, VLANS[3], &[Way::In, Way::Hairpin, Way::Told]);
}

/// Where a part of a packet, from `at` to `end`, is cut for a port; its header has `header` bytes.
fn cuts_for(mtu: usize, mut header: usize, mut at: usize, end: usize) -> Vec<usize> {
    let mut cuts = Vec::new();
    while end - at > mtu - header {
        at += (mtu - header) / 8 * 8;
        cuts.push(at);
        // No-operations are in the first fragment alone.
        header = 20;
    }
    cuts.push(end);
    cuts
}

impl Road {
    /// A datagram in two fragments crosses, cut further if the port that it leaves by is smaller.
    fn passes_in_two(&mut self, crossing: &Crossing, middle: usize, mtu: usize, in_order: bool) {
        let Crossing { arriving, leaving, from, to } = crossing;
        let mut parts = arriving.fragments(&[middle, arriving.len()]);
        if !in_order {
            parts.reverse();
        }
        let mut sent: Frames = Vec::new();
        for part in &parts {
            sent.extend(self.offer(*from, part, 0, None));
        }
        let mut leaving = leaving.clone();
        leaving.identification = sent.first().map_or(0, |(_, frame)| self.half(*to, frame, 4));
        let header = 20 + leaving.options.len();
        let mut cuts = cuts_for(mtu, header, header, middle);
        cuts.extend(cuts_for(mtu, 20, middle, leaving.len()));
        let expected = leaving.fragments(&cuts);
        let expected = expected.iter().map(|part| self.desk.leaving_bytes(*to, part));
        self.must_be(&sent, &expected.collect::<Vec<_>>(), arriving);
    }
}

#[test]
fn fragments_of_every_size_pass_and_are_cut_further_4787_req_14() {
    let mtus = [[LARGEST, LARGEST], [LARGEST, 1502], [580, LARGEST], [1280, 1280], [1500, LARGEST]];
    let mut roads: Vec<(Road, [usize; 2])> = std::iter::zip(mtus, VLANS)
        .map(|(mtus, vlans)| (Road::new(mtus.map(|mtu| mtu as u16), vlans), mtus))
        .collect();
    let mut count = 0;
    for last in 21..=LARGEST {
        for (n, kind, way) in crossings().filter(|(_, _, way)| *way != Way::Told) {
            let (road, mtus) = &mut roads[(last + n) % VLANS.len()];
            let options = OPTIONS[(last / 4 + n) % OPTIONS.len()];
            // The first holds a TCP header, and all but the last whole units of eight bytes.
            let first = (last.saturating_sub(options + 20) / 8 * 8).max(24);
            let middle = 20 + options + first;
            let total = middle + last - 20;
            let Some(mut crossing) = road.crossing((way, kind), total, options, false) else {
                continue;
            };
            crossing.arriving.identification = (last * 16 + n) as u16;
            let mtu = mtus[crossing.to];
            road.passes_in_two(&crossing, middle, mtu, (last / 8 + n).is_multiple_of(2));
            count += 1;
        }
    }
    assert_eq!(count, 11 * (LARGEST - 20));
    for (road, _) in &roads {
        assert_eq!(road.desk.drops(), [].into());
    }
}
