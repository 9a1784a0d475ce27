//! Bodies of the fuzz targets: one per parser, and the whole box.
//!
//! Each takes any bytes and panics if something is not as it must be: a parser that reads
//! beyond what it was given or says what cannot be, a rewriting that cannot be undone, a frame
//! that shows an internal address outside, a table that is not whole, a packet that is not
//! accounted for. Fields that random bytes never get right, checksums above all, are put right
//! first, so that what lies behind them is reached.

use std::cell::RefCell;

use cgnat_core::packet::arp;
use cgnat_core::packet::checksum;
use cgnat_core::packet::ethernet::{self, Tags};
use cgnat_core::packet::icmp_error;
use cgnat_core::packet::ipv4::{self, Transport};
use cgnat_core::packet::rewrite::{self, End, NewEndpoint};
use cgnat_core::packet::tcp;
use cgnat_core::policy::alg::ftp::Dialog;
use cgnat_core::policy::alg::pptp;
use cgnat_core::policy::alg::stream::ROOM;
use cgnat_core::policy::tcp_window::Sender;
use cgnat_core::shard::ListedMapping;
use cgnat_core::testing::lab::{Lab, port_mac};

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name; each has seeds in a folder of its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("ethernet", ethernet),
    ("ipv4", ipv4),
    ("tcp", tcp),
    ("icmp-error", icmp_error),
    ("ftp", ftp),
    ("pptp", pptp),
    ("nat", nat),
];

const MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];

/// Ethernet, VLAN tags and ARP.
fn ethernet(data: &[u8]) {
    let two = Tags::Two { tpid: ethernet::SERVICE, is_tpid_hidden: true, outer: 7, inner: 100 };
    for tags in [Tags::None, Tags::One(100), two] {
        let mut frame = data.to_vec();
        if let Some(to) = frame.get_mut(..6) {
            to.copy_from_slice(&MAC);
        }
        let Ok(parsed) = ethernet::parse(&frame, MAC, tags) else { continue };
        assert!(parsed.payload <= frame.len());
        if let Ok(read) = arp::parse(&frame[parsed.payload..]) {
            let mut written = [0; arp::LEN];
            arp::write(&mut written, &read);
            assert_eq!(arp::parse(&written), Ok(read));
        }
    }
}

/// An IPv4 packet with a right version, header length, total length and checksum.
fn right_header(data: &[u8]) -> Option<Vec<u8>> {
    if data.len() < 20 || data.len() > 9_000 {
        return None;
    }
    let mut packet = data.to_vec();
    let room = (packet.len() / 4).min(15) as u8;
    packet[0] = 0x40 | (packet[0] & 15).clamp(5, room);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    put_right_header_checksum(&mut packet);
    Some(packet)
}

fn put_right_header_checksum(packet: &mut [u8]) {
    let header_len = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = checksum::full(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// IPv4 header, options and all transports.
fn ipv4(data: &[u8]) {
    let _ = ipv4::header(data);
    let _ = ipv4::reread(data, (4000, 53));
    let Some(packet) = right_header(data) else { return };
    let Ok(header) = ipv4::header(&packet) else { return };
    assert!(header.header_len >= 20 && header.header_len <= header.total_len);
    assert!(header.total_len <= packet.len());
    let Ok(transport) = ipv4::transport(&packet, &header) else { return };
    if header.is_fragment() || matches!(transport, Transport::Error(_)) {
        return;
    }
    // What is translated out and back is as before.
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let old = match transport {
        Transport::Tcp { source, .. } | Transport::Udp { source, .. } => source,
        Transport::Portless => 0,
        _ => port(header.header_len + 4),
    };
    let new = (0xcb00_7105, if transport == Transport::Portless { 0 } else { 40_000 });
    let mut there = packet.clone();
    rewrite::endpoint(
        &mut there,
        &header,
        End::Source,
        NewEndpoint::between((header.source, old), new),
    );
    // Not all of `header`: two subscribers may share the address that is put in.
    let read = ipv4::fields(&there).expect("a translated header is right");
    assert_eq!(checksum::full(&there[..read.header_len]), 0);
    let back = NewEndpoint::between(new, (header.source, old));
    rewrite::endpoint(&mut there, &read, End::Source, back);
    let differs: Vec<usize> = (0..packet.len()).filter(|at| packet[*at] != there[*at]).collect();
    // 0x0000 and 0xffff are one number in a checksum; all else is equal.
    assert!(
        differs.iter().all(|at| [there[*at], packet[*at]].iter().all(|b| [0, 255].contains(b)))
    );
}

/// TCP header and options.
fn tcp(data: &[u8]) {
    if let Some(segment) = tcp::segment(data) {
        assert!(segment.length as usize + 20 <= data.len());
    }
}

/// What a client of FTP says behind a greeting: it makes no difference how it is cut, nothing
/// is lost, and nothing but an argument changes.
fn ftp(data: &[u8]) {
    let Some((size, bytes)) = data.split_first().filter(|_| data.len() < 1_500) else { return };
    let step = usize::from(size >> 1) % 64 + 1;
    let first = if size & 1 == 0 { 1 } else { u32::MAX - 40 };
    let outside = said(first, bytes, step);
    assert_eq!(outside, said(first, bytes, 1), "cut after {step} and after each byte");
    let untouched = said_to(first, bytes, step, None);
    assert_eq!(untouched, bytes, "changed, and no endpoint was given");
}

fn said(first: u32, bytes: &[u8], step: usize) -> Vec<u8> {
    said_to(first, bytes, step, Some((0xcb00_71c8, 54_321)))
}

/// What a server gets that acknowledges all at once, if `new` stands for every endpoint.
fn said_to(first: u32, bytes: &[u8], step: usize, new: Option<(u32, u16)>) -> Vec<u8> {
    let mut dialog = Dialog::new(first, 7);
    dialog.answer(7, b"220 ready\r\n");
    let mut outside: Vec<u8> = Vec::new();
    let mut at = first;
    for piece in bytes.chunks(step) {
        let end = at.wrapping_add(piece.len() as u32);
        // Each round takes at least up to the next command.
        for _ in 0..=piece.len() {
            let known = dialog.stream.next().wrapping_sub(at) as usize;
            let replaced = |_, _| Ok::<_, ()>(new);
            dialog.take(&piece[known..], replaced).expect("never refused");
            let leaving = dialog.stream.leaving(at, piece.len());
            let mut left = piece[..leaving.head].to_vec();
            if leaving.has_text {
                assert!(dialog.stream.text().len() <= ROOM);
                left.extend(dialog.stream.text());
            }
            left.extend(&piece[leaving.tail.0..leaving.tail.1]);
            let place = leaving.sequence.wrapping_sub(first) as usize;
            outside.extend(left.iter().skip(outside.len() - place));
            let acknowledged = first.wrapping_add(outside.len() as u32);
            dialog.stream.acknowledge(acknowledged);
            assert_eq!(dialog.stream.inner(acknowledged), dialog.stream.next());
            if dialog.stream.next() == end {
                break;
            }
        }
        assert_eq!(dialog.stream.next(), end, "some bytes are never taken");
        at = end;
    }
    // What is not finished is kept, not lost.
    outside.extend(dialog.stream.kept());
    outside
}

/// What the server of PPTP gets for the client's identifier.
const EXTERNAL_ID: u16 = 0x5001;

/// Bytes of the control messages of PPTP (RFC 2637 section 2).
const PPTP_LENGTHS: [u16; 15] = [156, 156, 16, 16, 16, 20, 168, 32, 220, 24, 28, 16, 148, 40, 24];

/// A good control message with two identifiers; bytes that are none for type 0.
fn pptp_message(kind: u8, ids: [u16; 2]) -> Vec<u8> {
    let Some(length) = PPTP_LENGTHS.get(usize::from(kind).wrapping_sub(1)) else {
        return ids[0].to_be_bytes().to_vec();
    };
    let words = [*length, 1, 0x1a2b, 0x3c4d, kind.into(), 0, ids[0], ids[1]];
    let mut message: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    message.resize(usize::from(*length), 1);
    if kind == 2 {
        message[14] = 1;
    }
    message
}

/// Both sides of a control connection of PPTP, in steps of three bytes: which message, and its
/// identifiers, a wrong byte or a cut. There is a call only by the server's reply to the client's
/// request while nothing was wrong; only identifiers change; and what is sent again, whole or in
/// part, is changed as it was.
fn pptp(data: &[u8]) {
    let Some((first, steps)) = data.split_first().filter(|_| data.len() < 400) else { return };
    let begins = if first & 1 == 0 { [1, 77] } else { [u32::MAX - 300, u32::MAX - 2] };
    let mut dialog = pptp::Dialog::new((begins[0], begins[1]), EXTERNAL_ID);
    let (mut inside, mut outside) = ([vec![], vec![]], [vec![], vec![]]);
    let mut acknowledged = [0; 2];
    let (mut requested, mut is_wrong) = (Vec::new(), false);
    for step in steps.chunks_exact(3) {
        let (side, kind) = (usize::from(step[0] >> 7), step[0] & 15);
        let from = [Sender::Internal, Sender::External][side];
        if step[0] & 0x40 != 0 {
            let other = 1 - side;
            let n = usize::from(step[1]) << 8 | usize::from(step[2]);
            let n = n % (inside[other].len() + 1);
            dialog.acknowledge(from, begins[other].wrapping_add(n as u32));
            acknowledged[other] = n.max(acknowledged[other]);
            continue;
        }
        let id = |byte: u8| [0, EXTERNAL_ID, 7, 8, byte.into()][usize::from(byte).min(4)];
        let ids = [id(step[1]), id(step[2])];
        let mut said = pptp_message(kind, ids);
        if step[0] & 0x10 != 0 {
            let at = usize::from(step[1]) % said.len().min(12);
            said[at] ^= step[2];
        }
        if step[0] & 0x20 != 0 {
            said.truncate(1 + usize::from(step[2]) % said.len());
        }
        let before = dialog.call();
        dialog.take(from, &said);
        // A wrong byte may have made another good message of it.
        let kind = said.get(9).copied().unwrap_or_default();
        let good = pptp_message(kind, ids);
        let is_good = said.len() == good.len() && said.len() > 2 && said[..10] == good[..10];
        is_wrong |= !is_good;
        if (side, kind, is_good) == (0, 7, true) {
            requested.push(ids[0]);
        }
        if let Some(call) = dialog.call().filter(|call| before != Some(*call)) {
            assert!((side, kind, is_wrong) == (1, 8, false) && ids == [call.server, EXTERNAL_ID]);
            assert!(requested.contains(&call.client));
        }
        assert!(!is_wrong || dialog.is_over());
        let mut left = said.clone();
        let place = begins[side].wrapping_add(inside[side].len() as u32);
        for (at, byte) in dialog.replaced(from, place, said.len()) {
            left[at] = byte;
        }
        let changed: Vec<usize> = (0..said.len()).filter(|at| left[*at] != said[*at]).collect();
        assert!(changed.iter().all(|at| (12..16).contains(at)) && changed.len() <= 2);
        inside[side].extend(said);
        outside[side].extend(left);
        // Everything that may come again, from an odd place on.
        for side in 0..2 {
            let from = acknowledged[side];
            let place = begins[side].wrapping_add(from as u32);
            let mut again = inside[side][from..].to_vec();
            let sender = [Sender::Internal, Sender::External][side];
            for (at, byte) in dialog.replaced(sender, place, again.len()) {
                again[at] = byte;
            }
            assert_eq!(again, outside[side][from..], "from {from} on of side {side}");
        }
    }
}

/// An ICMP error with right checksums, to the source of what it quotes.
fn right_error(data: &[u8]) -> Option<Vec<u8>> {
    let mut packet = right_header(data)?;
    packet[6..8].fill(0);
    packet[9] = 1;
    let header_len = usize::from(packet[0] & 15) * 4;
    let quote = header_len + 8;
    if packet.len() >= quote + 20 {
        let words = (packet.len() - quote) / 4;
        packet[quote] = 0x40 | (packet[quote] & 15).clamp(5, words.min(15) as u8);
        put_right_header_checksum(&mut packet[quote..]);
        let source: [u8; 4] = packet[quote + 12..quote + 16].try_into().ok()?;
        packet[16..20].copy_from_slice(&source);
    }
    put_right_header_checksum(&mut packet);
    let segment = packet.get_mut(header_len..).filter(|segment| segment.len() >= 8)?;
    segment[0] = [3, 11, 12][usize::from(segment[0] % 3)];
    segment[2..4].fill(0);
    let sum = checksum::full(segment);
    segment[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(packet)
}

/// ICMP errors and what they quote.
fn icmp_error(data: &[u8]) {
    let Some(packet) = right_error(data) else { return };
    let Ok(header) = ipv4::header(&packet) else { return };
    let Ok(quote) = icmp_error::parse(&packet, &header) else { return };
    // Spoofed: a worker refuses such a source before it translates.
    if header.source == 0x6440_0001 {
        return;
    }
    let mut there = packet.clone();
    let new = NewEndpoint::between(quote.source, (0x6440_0001, 1234));
    icmp_error::translate(&mut there, &header, &quote, End::Source, new);
    assert_eq!(there.len(), packet.len());
    let read = ipv4::header(&there).expect("a translated header is right");
    let again = icmp_error::parse(&there, &read).expect("a translated error is right");
    let has_ports = matches!(quote.protocol, 1 | 6 | 17);
    assert_eq!(again.source, (0x6440_0001, if has_ports { 1234 } else { 0 }));
    assert_eq!(again.destination.0, quote.destination.0);
}

const YAML: &str = "
version: 1
system: { max-mappings: 1000 }
ports:
  internal0:
    side: internal
    device: net_null0
    addresses: [10.255.0.2/30]
    next-hop: 10.255.0.1
    neighbours: [{ address: 10.255.0.1, mac: \"02:00:00:00:09:01\" }]
  external0:
    side: external
    device: net_null1
    addresses: [192.0.2.2/30]
    next-hop: 192.0.2.1
    neighbours: [{ address: 192.0.2.1, mac: \"02:00:00:00:09:02\" }]
pools:
  main:
    addresses: [203.0.113.0/31]
    ports: 1024-1279
    allocation: { block-size: 64, max-blocks: 2, hold: 5s, port-choice: preserve, max-held: 8 }
  strict:
    addresses: [203.0.113.8]
    ports: 1024-1151
    filtering: { tcp: address-dependent, udp: address-and-port-dependent }
    allocation: { block-size: 64 }
    tcp-mss-clamp: 1000
    port-overloading: [tcp/443, udp/53, udp/443, tcp/80]
subscribers:
  - { name: strict, match: [100.64.0.0/30], pool: strict }
  - name: main
    match: [100.64.0.0/10]
    pool: main
    limits:
      ports: 60
      sessions: 50
      new-sessions-per-second: 20
      reserved: { ports: 4, for: [udp/53, tcp/443] }
nat44:
  tcp-mss-clamp: 1400
  unsolicited-syn: port-unreachable
  alg: { ftp: true, pptp: true, tftp: true }
  other-protocols: { default: carry }
  fragments: { max-pending: 64, timeout: 2s }
static:
  - { internal: 100.64.0.5, external: 203.0.113.16 }
  - { internal: \"100.64.0.9:8080\", external: \"203.0.113.0:1030\", protocol: tcp }
";

/// Milliseconds after which nothing is left of anything.
const LONG: u64 = 3 * 3600 * 1000;

thread_local! {
    /// Tables live as long as the process, so all inputs use one box, which is empty between
    /// them.
    static LAB: RefCell<Lab> = RefCell::new(Lab::new(YAML, 2, 1));
}

/// The whole box: a sequence of events, each a tag, a length and so many bytes.
///
/// Tag bits: 0 the port; 1 and 2 what is put right (header; transport checksum or the whole
/// ICMP error); 3 and 4 the address (as it is, a subscriber, a mapped endpoint of ours);
/// 5 the worker. Tag 0xff lets the length times a second pass.
fn nat(data: &[u8]) {
    LAB.with_borrow_mut(|lab| {
        let mut rest = data;
        // Bounded, so that one input takes milliseconds.
        for _ in 0..64 {
            let [tag, length, behind @ ..] = rest else { break };
            if *tag == 0xff {
                lab.advance(u64::from(*length) * 1_000);
                rest = behind;
                continue;
            }
            let length = usize::from(*length).min(behind.len());
            arrive(lab, *tag, &behind[..length]);
            rest = &behind[length..];
        }
        lab.audit();
        balance(lab);
        for _ in 0..3 {
            lab.advance(LONG);
        }
        lab.audit();
        let census = lab.port_census();
        assert_eq!((census.used, census.resting), (0, 0), "something never ends");
        let left = lab.sum(|c| c.sessions.value() + c.subscribers.value() + c.associations.value());
        assert_eq!(left, 0);
    });
}

fn arrive(lab: &mut Lab, tag: u8, bytes: &[u8]) {
    let port = usize::from(tag & 1);
    let mut packet = bytes.to_vec();
    if tag & 2 != 0 {
        packet = match tag & 4 {
            0 => right_header(bytes).unwrap_or(packet),
            _ => right_error(bytes).or_else(|| right_header(bytes)).unwrap_or(packet),
        };
    }
    if packet.len() >= 24 {
        aim(lab, tag, port, &mut packet);
        if tag & 2 != 0 && packet[0] >> 4 == 4 && usize::from(packet[0] & 15) * 4 <= packet.len() {
            put_right_header_checksum(&mut packet);
        }
    }
    let mut frame = port_mac(port).to_vec();
    frame.extend([2, 0, 0, 0, 9, port as u8 + 1, 8, 0]);
    frame.extend(packet);
    let worker = usize::from(tag >> 5 & 1);
    for (port, frame) in lab.arrive(worker, port, &frame) {
        if port == 1 && frame[12..14] == [8, 0] {
            let source = &frame[26..30];
            let ours = source[..3] == [203, 0, 113] || source == [192, 0, 2, 2];
            assert!(ours, "a packet from {source:?} leaves the external port");
        }
    }
}

/// Puts an address into a packet that the box has to do with.
fn aim(lab: &Lab, tag: u8, port: usize, packet: &mut [u8]) {
    let header_len = usize::from(packet[0] & 15) * 4;
    let mapped = |which: usize| {
        let all = lab.workers.iter().flat_map(|worker| worker.shard().mapping_list());
        let all: Vec<_> = all.collect();
        (!all.is_empty()).then(|| all[which % all.len()])
    };
    match (tag >> 3 & 3, port) {
        (1, 0) | (3, 0) => packet[12..15].copy_from_slice(&[100, 64, 0]),
        _ => {}
    }
    if tag >> 3 & 2 != 0
        && let Some(ListedMapping { external, .. }) = mapped(usize::from(packet[15]))
    {
        packet[16..20].copy_from_slice(&external.address.0.to_be_bytes());
        if let Some(port) = packet.get_mut(header_len + 2..header_len + 4) {
            port.copy_from_slice(&external.port.to_be_bytes());
        }
    }
}

/// Every frame ended in exactly one counter.
fn balance(lab: &Lab) {
    let received = lab.sum(|c| c.ports.iter().map(|p| p.rx_packets.value()).sum());
    let sent = lab.sum(|c| c.ports.iter().map(|p| p.tx_packets.value()).sum());
    let made = lab.sum(|c| c.originated.value());
    let consumed = lab.sum(|c| c.arp_received.value() + c.echo_answered.value() + c.parked.value());
    let consumed = consumed + lab.sum(|c| c.fragments_waiting.value());
    assert_eq!(received + made, sent + lab.all_drops() + consumed);
}
