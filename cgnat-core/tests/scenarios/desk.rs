//! A laboratory with two static neighbours, and packets that go through it.
//!
//! Whatever is sent out of the external port is looked at by `leaks`, in every test.

use cgnat_core::testing::lab::{Lab, port_mac};
use cgnat_core::testing::packets;
use cgnat_core::verdict::DropReason;
use cgnat_core::worker::steering::Steering;

use crate::wire::{Body, ICMP, Link, Packet, Vlan, ip, link_len, numbers};

pub const INTERNAL: usize = 0;
pub const EXTERNAL: usize = 1;
pub const HOPS: [[u8; 6]; 2] = [[2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 2]];
pub const SERVER: &str = "198.51.100.7";

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub type Frames = Vec<(usize, Vec<u8>)>;

/// A configuration with one pool (a YAML map in braces) and further sections.
pub fn config(pool: &str, more: &str) -> String {
    let small = "system: { max-mappings: 20_000, max-sessions: 5_000 }\n";
    let system = if more.contains("system:") { "" } else { small };
    format!(
        "version: 1
{system}ports:
  internal0:
    side: internal
    device: net_null0
    addresses: [10.255.0.2/30]
    next-hop: 10.255.0.1
    neighbours: [{{ address: 10.255.0.1, mac: \"02:00:00:00:09:01\" }}]
  external0:
    side: external
    device: net_null1
    addresses: [192.0.2.2/30]
    next-hop: 192.0.2.1
    neighbours: [{{ address: 192.0.2.1, mac: \"02:00:00:00:09:02\" }}]
pools:
  main: {pool}
subscribers:
  - {{ name: everyone, match: [100.64.0.0/10], pool: main }}
{more}"
    )
}

/// Sixteen addresses, everything else by default.
pub fn plain() -> String {
    config("{ addresses: [203.0.113.0/28] }", "")
}

/// One address with `blocks` blocks of 64 ports.
pub fn one_address(blocks: u32, max_blocks: u32) -> String {
    let last = 1023 + 64 * blocks;
    let pool = format!(
        "{{ addresses: [203.0.113.0], ports: 1024-{last}, allocation: {{ block-size: 64, \
         max-blocks: {max_blocks} }} }}"
    );
    config(&pool, "")
}

pub fn udp(from: (&str, u16), to: (u32, u16)) -> Packet {
    let body = Body::Udp { source: from.1, destination: to.1, checksummed: true };
    packet(ip(from.0), to.0, body)
}

pub fn tcp(from: (&str, u16), to: (u32, u16), flags: u8) -> Packet {
    tcp_at(from, to, flags, numbers(flags))
}

/// With these sequence and acknowledgement numbers.
pub fn tcp_at(from: (&str, u16), to: (u32, u16), flags: u8, numbers: (u32, u32)) -> Packet {
    let (source, destination) = (from.1, to.1);
    let (sequence, acknowledgement) = numbers;
    let options = vec![2, 4, 5, 180];
    let body = Body::Tcp { source, destination, flags, sequence, acknowledgement, options };
    packet(ip(from.0), to.0, body)
}

pub fn timestamp(request: bool, from: &str, to: u32, identifier: u16) -> Packet {
    packet(ip(from), to, Body::Timestamp { request, identifier, sequence: 1 })
}

pub fn echo(request: bool, from: &str, to: u32, identifier: u16) -> Packet {
    packet(ip(from), to, Body::Echo { request, identifier, sequence: 1 })
}

fn packet(source: u32, destination: u32, body: Body) -> Packet {
    let payload = b"a payload of odd length".to_vec();
    let (identification, df, options) = (7, true, vec![]);
    Packet { identification, df, ttl: 64, options, source, destination, body, payload }
}

/// The server that most packets go to.
pub fn server(port: u16) -> (u32, u16) {
    (ip(SERVER), port)
}

/// The `n`-th subscriber address of those that `worker` of `workers` owns.
pub fn subscriber_of(worker: u16, workers: u16, n: usize) -> String {
    let steering = Steering::new(workers);
    let mut owned = (ip("100.64.0.1")..).filter(|a| steering.owner_of(*a) == worker);
    std::net::Ipv4Addr::from(owned.nth(n).unwrap()).to_string()
}

pub struct Desk {
    pub lab: Lab,
    pub vlans: [Option<Vlan>; 2],
    /// Worker at which packets arrive.
    pub at: usize,
}

impl Desk {
    pub fn new(yaml: &str) -> Self {
        Self::with(yaml, 1, 1)
    }

    pub fn with(yaml: &str, workers: u16, seed: u64) -> Self {
        let mut lab = Lab::new(yaml, workers, seed);
        lab.watch = Some(crate::leaks::nothing_of_the_inside);
        Self { lab, vlans: [None, None], at: 0 }
    }

    /// The frame around a packet that arrives at a port.
    pub fn arriving(&self, port: usize, packet: &Packet) -> Vec<u8> {
        let link = Link { to: port_mac(port), from: HOPS[port], vlan: self.vlans[port] };
        link.frame(0x0800, &packet.bytes())
    }

    /// The frame around a packet that leaves a port.
    pub fn leaving(&self, port: usize, packet: &Packet) -> (usize, Vec<u8>) {
        let link = Link { to: HOPS[port], from: port_mac(port), vlan: self.vlans[port] };
        (port, link.frame(0x0800, &packet.bytes()))
    }

    pub fn offer(&mut self, port: usize, packet: &Packet) -> Frames {
        let frame = self.arriving(port, packet);
        self.lab.arrive(self.at, port, &frame)
    }

    /// A packet or fragment arrives as bytes from its IPv4 header on.
    pub fn offer_bytes(&mut self, port: usize, bytes: &[u8]) -> Frames {
        let link = Link { to: port_mac(port), from: HOPS[port], vlan: self.vlans[port] };
        self.lab.arrive(self.at, port, &link.frame(0x0800, bytes))
    }

    /// The frame around bytes that leave a port.
    pub fn leaving_bytes(&self, port: usize, bytes: &[u8]) -> (usize, Vec<u8>) {
        let link = Link { to: HOPS[port], from: port_mac(port), vlan: self.vlans[port] };
        (port, link.frame(0x0800, bytes))
    }

    /// Sends from inside; the packet must come out translated. Returns the external endpoint.
    pub fn goes_out(&mut self, packet: &Packet) -> (u32, u16) {
        let sent = self.offer(INTERNAL, packet);
        assert_eq!(sent.len(), 1, "{packet:?}: drops {:?}", self.drops());
        let ip = link_len(self.vlans[EXTERNAL]);
        let half = |at: usize| u16::from_be_bytes([sent[0].1[ip + at], sent[0].1[ip + at + 1]]);
        let address = u32::from(half(12)) << 16 | u32::from(half(14));
        let port = half(if packet.protocol() == ICMP { 24 } else { 20 });
        let mut expected = packet.clone();
        expected.set_source((address, port));
        expected.ttl -= 1;
        assert_eq!(sent, [self.leaving(EXTERNAL, &expected)]);
        (address, port)
    }

    /// Sends from outside; the packet must reach `internal`.
    pub fn comes_in(&mut self, packet: &Packet, internal: (&str, u16)) {
        let sent = self.offer(EXTERNAL, packet);
        let mut expected = packet.clone();
        expected.set_destination((ip(internal.0), internal.1));
        expected.ttl -= 1;
        assert_eq!(sent, [self.leaving(INTERNAL, &expected)], "drops {:?}", self.drops());
    }

    /// Sends; nothing comes out and exactly one drop is counted, under `reason`.
    pub fn refused(&mut self, port: usize, packet: &Packet, reason: DropReason) {
        let frame = self.arriving(port, packet);
        self.frame_refused(port, &frame, reason);
    }

    pub fn frame_refused(&mut self, port: usize, frame: &[u8], reason: DropReason) {
        let mut expected = self.drops();
        *expected.entry(reason).or_default() += 1;
        let mut sent = self.lab.arrive(self.at, port, frame);
        // The sender may be told; what exactly is for `errors_of_the_box` to test.
        let offset = link_len(self.vlans[port]);
        sent.retain(|(by, frame)| !(*by == port && is_told(&frame[offset..], port)));
        assert_eq!(sent, [], "should be dropped under {}", reason.name());
        assert_eq!(self.drops(), expected);
    }

    /// Drops so far, by reason.
    pub fn drops(&self) -> std::collections::BTreeMap<DropReason, u64> {
        let counts = DropReason::ALL.iter().map(|reason| (*reason, self.lab.drops(*reason)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    pub fn mappings(&self) -> u64 {
        self.lab.workers.iter().map(|w| w.shard().mapping_list().count() as u64).sum()
    }

    /// Every frame ended in exactly one counter; tables are whole.
    pub fn done(&mut self) {
        self.lab.audit();
        let received = self.lab.sum(|c| c.ports.iter().map(|p| p.rx_packets.value()).sum());
        let sent = self.lab.sum(|c| c.ports.iter().map(|p| p.tx_packets.value()).sum());
        let made = self.lab.sum(|c| c.originated.value());
        let consumed =
            self.lab.sum(|c| c.arp_received.value() + c.echo_answered.value() + c.parked.value());
        let consumed = consumed + self.lab.sum(|c| c.fragments_waiting.value() + c.punted.value());
        let consumed = consumed + self.lab.sum(|c| c.nd_received.value());
        assert_eq!(received + made, sent + self.lab.all_drops() + consumed);
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.lab.workers.is_empty() {
            self.done();
        }
    }
}

/// Whether this is an ICMP error from the own address of a port.
fn is_told(packet: &[u8], port: usize) -> bool {
    let own = [[10, 255, 0, 2], [192, 0, 2, 2]][port];
    packet.len() > 28 && packet[9] == 1 && matches!(packet[20], 3 | 11) && packet[12..16] == own
}

pub fn arp_frame(port: usize, vlan: Option<Vlan>, arp: &cgnat_core::packet::arp::Arp) -> Vec<u8> {
    let plain = packets::arp_frame([0xff; 6], HOPS[port], arp);
    let link = Link { to: [0xff; 6], from: HOPS[port], vlan };
    link.frame(0x0806, &plain[14..])
}
