//! FTP control connections whose packets cross workers, and those between two subscribers.

use crate::desk::*;
use crate::wire::{Body, FIRST, ICMP, Packet, ip};

const ALG: &str = "nat44: { filtering: address-dependent, alg: { ftp: true } }\n";
const PORT: u16 = 200 * 256 + 10;
const BEGIN: u32 = FIRST.wrapping_add(1);
const GREETING: &[u8] = b"220 ready\r\n";

fn said(from: (&str, u16), to: (u32, u16), at: (u32, u32), payload: &[u8]) -> Packet {
    let numbers = (BEGIN.wrapping_add(at.0), BEGIN.wrapping_add(at.1));
    let mut packet = tcp_at(from, to, ACK, numbers);
    packet.payload = payload.to_vec();
    let Body::Tcp { options, .. } = &mut packet.body else { unreachable!() };
    options.clear();
    packet
}

fn opening(from: (&str, u16), to: (u32, u16), flags: u8) -> Packet {
    let mut packet = tcp_at(from, to, flags, (FIRST, if flags == SYN { 0 } else { BEGIN }));
    packet.payload.clear();
    packet
}

fn command(client: &str) -> Vec<u8> {
    format!("PORT {},200,10\r\n", client.replace('.', ",")).into_bytes()
}

/// The one frame that came out, from its IPv4 header on.
fn only(sent: &Frames, port: usize) -> Vec<u8> {
    assert_eq!((sent.len(), sent[0].0), (1, port));
    assert_ne!(sent[0].1[14 + 9], ICMP);
    sent[0].1[14..].to_vec()
}

fn source(packet: &[u8]) -> (u32, u16) {
    let address = u32::from_be_bytes(packet[12..16].try_into().unwrap());
    (address, u16::from_be_bytes([packet[20], packet[21]]))
}

fn destination(packet: &[u8]) -> (u32, u16) {
    let address = u32::from_be_bytes(packet[16..20].try_into().unwrap());
    (address, u16::from_be_bytes([packet[22], packet[23]]))
}

/// The endpoint that a PORT command names, of a packet without TCP options.
fn named(packet: &[u8]) -> (u32, u16) {
    let text = String::from_utf8(packet[40..].to_vec()).unwrap();
    let argument = text.strip_prefix("PORT ").unwrap().strip_suffix("\r\n").unwrap();
    let n: Vec<u32> = argument.split(',').map(|n| n.parse().unwrap()).collect();
    (n[..4].iter().fold(0, |sum, n| sum << 8 | n), (n[4] << 8 | n[5]) as u16)
}

fn followed_by(desk: &Desk) -> Vec<u64> {
    desk.lab.workers.iter().map(|worker| worker.shard().gauges().ftp_followed).collect()
}

/// One external address for all workers: the endpoint that a command names is of a block of the
/// subscriber's owner, wherever the server's SYN to it arrives.
#[test]
fn a_data_connection_is_expected_at_the_owner_wherever_packets_arrive() {
    for at in 0..4 {
        let pool = "{ addresses: [203.0.113.200], ports: 1024-2047, allocation: { block-size: 64, \
                    max-blocks: 2 } }";
        let mut desk = Desk::with(&config(pool, ALG), 4, 3);
        desk.at = at;
        let host = subscriber_of(2, 4, 0);
        let client = (&host[..], 4000);
        let outside = desk.goes_out(&opening(client, server(21), SYN));
        desk.comes_in(&opening((SERVER, 21), outside, SYN | ACK), client);
        desk.goes_out(&said(client, server(21), (0, 0), b""));
        desk.comes_in(&said((SERVER, 21), outside, (0, 0), GREETING), client);
        assert_eq!(followed_by(&desk), [0, 0, 1, 0]);

        let sent = desk.offer(INTERNAL, &said(client, server(21), (0, 11), &command(&host)));
        let left = only(&sent, EXTERNAL);
        let to = named(&left);
        assert_eq!((to.0, source(&left)), (outside.0, outside));
        desk.comes_in(&opening((SERVER, 20), to, SYN), (&host, PORT));
        let answer = opening((&host, PORT), server(20), SYN | ACK);
        assert_eq!(desk.goes_out(&answer), to);
        // What was pushed out longer is acknowledged in the client's numbers, whoever gets it.
        let length = command(&host).len() as u32;
        let outer = left.len() as u32 - 40;
        assert_ne!(outer, length);
        let mut answer = said((SERVER, 21), outside, (11, outer), b"200 ok\r\n");
        let sent = desk.offer(EXTERNAL, &answer);
        let Body::Tcp { acknowledgement, .. } = &mut answer.body else { unreachable!() };
        *acknowledgement = BEGIN.wrapping_add(length);
        answer.set_destination((ip(&host), 4000));
        answer.ttl -= 1;
        assert_eq!(sent, [desk.leaving(INTERNAL, &answer)]);
        assert_eq!((desk.drops(), desk.mappings()), ([].into(), 2));
    }
}

/// The server is another subscriber, who is reached by a static external address; each sees the
/// other by external endpoints only (RFC 4787 REQ-9a), also in what the command says.
#[test]
fn a_control_connection_that_hairpins_opens_a_hairpin() {
    let statics = "static: [{ internal: 100.64.9.9, external: 203.0.113.210 }]\n";
    let yaml = config("{ addresses: [203.0.113.200] }", &format!("{statics}{ALG}"));
    for (workers, at) in [(1, 0), (4, 0), (4, 3)] {
        let mut desk = Desk::with(&yaml, workers, 4);
        desk.at = at;
        let host = subscriber_of(workers - 1, workers, 0);
        let client = (&host[..], 4000);
        let (site, ftp) = (("100.64.9.9", 21), (ip("203.0.113.210"), 21));

        let there = only(&desk.offer(INTERNAL, &opening(client, ftp, SYN)), INTERNAL);
        assert_eq!(destination(&there), (ip(site.0), 21));
        let outside = source(&there);
        let back = only(&desk.offer(INTERNAL, &opening(site, outside, SYN | ACK)), INTERNAL);
        assert_eq!((source(&back), destination(&back)), (ftp, (ip(&host), 4000)));
        only(&desk.offer(INTERNAL, &said(client, ftp, (0, 0), b"")), INTERNAL);
        only(&desk.offer(INTERNAL, &said(site, outside, (0, 0), GREETING)), INTERNAL);

        let sent = desk.offer(INTERNAL, &said(client, ftp, (0, 11), &command(&host)));
        let to = named(&only(&sent, INTERNAL));
        assert_eq!(to.0, outside.0);
        // From whatever port the server likes; nobody else is let in.
        let from = ("100.64.9.9", 33_333);
        let syn = only(&desk.offer(INTERNAL, &opening(from, to, SYN)), INTERNAL);
        assert_eq!(source(&syn), (ftp.0, 33_333));
        assert_eq!(destination(&syn), (ip(&host), PORT));
        let answer = opening((&host, PORT), (ftp.0, 33_333), SYN | ACK);
        let answer = only(&desk.offer(INTERNAL, &answer), INTERNAL);
        assert_eq!((source(&answer), destination(&answer)), (to, (ip(from.0), 33_333)));
        let stranger = opening((SERVER, 20), to, SYN);
        desk.refused(EXTERNAL, &stranger, cgnat_core::verdict::DropReason::Filtered);
        assert_eq!(desk.lab.sum(|c| c.ftp_replaced.value()), 1);
    }
}
