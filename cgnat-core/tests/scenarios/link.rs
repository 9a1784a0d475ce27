//! VLANs, ARP answers, ping to the box, routes, link headers.

use std::collections::VecDeque;

use cgnat_core::assembly::{Memory, assemble};
use cgnat_core::config::Config;
use cgnat_core::layout::Layout;
use cgnat_core::packet::arp::{Arp, Operation};
use cgnat_core::testing::io::MemoryPacket;
use cgnat_core::testing::lab::port_mac;
use cgnat_core::testing::memory::zeroed;
use cgnat_core::time::Instant;
use cgnat_core::verdict::DropReason::*;
use cgnat_core::worker::TimeSource;
use cgnat_core::worker::io::{Burst, NOTE_BYTES, PacketBuf, PacketIo};

use crate::desk::*;
use crate::wire::{Body, Link, Vlan, ip, vlan_keys};

const HOST: &str = "100.64.3.9";

fn with_vlans(internal: Option<Vlan>, external: Option<Vlan>) -> Desk {
    let yaml = plain()
        .replace("device: net_null0\n", &format!("device: net_null0\n{}", vlan_keys(internal)))
        .replace("device: net_null1\n", &format!("device: net_null1\n{}", vlan_keys(external)));
    let mut desk = Desk::new(&yaml);
    desk.vlans = [internal, external];
    desk
}

#[test]
fn a_packet_changes_from_the_vlan_of_one_port_to_that_of_the_other() {
    let tag = |id| Some(Vlan::dot1q(id));
    let tags = |outer, id| Some(Vlan::qinq(outer, id));
    let old = Some(Vlan { outer: Some((0x9100, 5)), id: 5 });
    for vlans in [
        (None, tag(200)),
        (tag(100), None),
        (tag(100), tag(200)),
        (tag(5), tag(5)),
        (tags(300, 100), None),
        (None, tags(300, 100)),
        (tag(100), tags(300, 100)),
        (tags(300, 100), tags(300, 101)),
        (old, tags(5, 5)),
    ] {
        let mut desk = with_vlans(vlans.0, vlans.1);
        let outside = desk.goes_out(&udp((HOST, 1), server(80)));
        desk.comes_in(&udp((SERVER, 80), outside), (HOST, 1));
        for vlan in [tag(999), tags(300, 999), tags(999, 100), tags(100, 100), tags(101, 300)] {
            let wrong = Link { to: port_mac(INTERNAL), from: HOPS[0], vlan };
            let frame = wrong.frame(0x0800, &udp((HOST, 1), server(80)).bytes());
            desk.frame_refused(INTERNAL, &frame, VlanMismatch);
        }
    }
}

#[test]
fn a_priority_tag_is_no_vlan() {
    let mut desk = Desk::new(&plain());
    let mut packet = udp((HOST, 1), server(80));
    let outside = desk.goes_out(&packet);
    let tagged = Link { to: port_mac(INTERNAL), from: HOPS[0], vlan: Some(Vlan::dot1q(0)) };
    let sent = desk.lab.arrive(0, INTERNAL, &tagged.frame(0x0800, &packet.bytes()));
    packet.set_source(outside);
    packet.ttl -= 1;
    assert_eq!(sent, [desk.leaving(EXTERNAL, &packet)]);
}

fn request(sender: &str, target: &str, port: usize) -> Arp {
    Arp {
        operation: Operation::Request,
        sender_mac: HOPS[port],
        sender: ip(sender),
        target_mac: [0; 6],
        target: ip(target),
    }
}

fn answer(request: &Arp, port: usize, vlan: Option<Vlan>) -> (usize, Vec<u8>) {
    let link = Link { to: request.sender_mac, from: port_mac(port), vlan };
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 2];
    arp.extend(port_mac(port));
    arp.extend(request.target.to_be_bytes());
    arp.extend(request.sender_mac);
    arp.extend(request.sender.to_be_bytes());
    (port, link.frame(0x0806, &arp))
}

#[test]
fn arp_is_answered_for_own_addresses_and_no_others() {
    for external in [Vlan::dot1q(200), Vlan::qinq(300, 200)] {
        arp_is_answered(Some(external));
    }
}

fn arp_is_answered(external: Option<Vlan>) {
    let mut desk = with_vlans(None, external);
    for (port, vlan, sender, own) in
        [(0, None, "10.255.0.1", "10.255.0.2"), (1, external, "192.0.2.1", "192.0.2.2")]
    {
        let ask = request(sender, own, port);
        let mut frame = arp_frame(port, vlan, &ask);
        frame.resize(64, 0);
        assert_eq!(desk.lab.arrive(0, port, &frame), [answer(&ask, port, vlan)]);
        // A neighbour's address, another port's, a pool's that is not on-link.
        for other in [sender, "203.0.113.1", "10.255.0.3", "100.64.3.9"] {
            let frame = arp_frame(port, vlan, &request(sender, other, port));
            assert_eq!(desk.lab.arrive(0, port, &frame), []);
        }
    }
    let frame = arp_frame(0, None, &request("10.255.0.1", "192.0.2.2", 0));
    assert_eq!(desk.lab.arrive(0, 0, &frame), []);
    assert_eq!(desk.lab.sum(|c| c.arp_received.value()), 11);
    assert_eq!(desk.lab.sum(|c| c.originated.value()), 2);
    assert_eq!(desk.drops(), [].into());
}

/// The external port's prefix holds the pool.
fn on_link_pool() -> Desk {
    let yaml =
        plain().replace("192.0.2.2/30", "203.0.113.129/25").replace("192.0.2.1", "203.0.113.130");
    Desk::new(&yaml.replace("203.0.113.0/28", "203.0.113.192/28"))
}

#[test]
fn arp_is_answered_for_on_link_pool_addresses_at_the_external_port_only() {
    let mut desk = on_link_pool();
    for target in ["203.0.113.192", "203.0.113.207"] {
        let ask = request("203.0.113.130", target, 1);
        let sent = desk.lab.arrive(0, 1, &arp_frame(1, None, &ask));
        assert_eq!(sent, [answer(&ask, 1, None)]);
    }
    for (port, target) in [(1, "203.0.113.208"), (1, "203.0.113.140"), (0, "203.0.113.192")] {
        let frame = arp_frame(port, None, &request("203.0.113.130", target, port));
        assert_eq!(desk.lab.arrive(0, port, &frame), []);
    }
}

#[test]
fn somebody_with_one_of_our_addresses_is_counted_and_not_believed() {
    let mut desk = on_link_pool();
    for (n, sender) in ["203.0.113.129", "203.0.113.200"].into_iter().enumerate() {
        let frame = arp_frame(1, None, &request(sender, "203.0.113.129", 1));
        assert_eq!(desk.lab.arrive(0, 1, &frame), []);
        assert_eq!(desk.lab.sum(|c| c.arp_conflicts.value()), n as u64 + 1);
    }
}

#[test]
fn malformed_arp_is_dropped_and_counted() {
    let mut desk = Desk::new(&plain());
    let frame = arp_frame(0, None, &request("10.255.0.1", "10.255.0.2", 0));
    for len in [14, 20, 41] {
        desk.frame_refused(0, &frame[..len], ArpMalformed);
    }
    let mut group = frame;
    group[22] = 0xff;
    desk.frame_refused(0, &group, ArpMalformed);
}

#[test]
fn a_ping_to_an_own_address_is_answered_and_nothing_else_is() {
    let mut desk = Desk::new(&plain());
    for (port, from, own) in [(0, "100.64.1.1", "10.255.0.2"), (1, "8.8.8.8", "192.0.2.2")] {
        for zero in [false, true] {
            let mut ping = echo(true, from, ip(own), 77);
            if zero {
                // The answer is all zero.
                ping.body = Body::Echo { request: true, identifier: 0, sequence: 0 };
                ping.payload = vec![0; 9];
            }
            let mut reply = ping.clone();
            if let Body::Echo { request, .. } = &mut reply.body {
                *request = false;
            }
            (reply.source, reply.destination) = (ping.destination, ping.source);
            reply.ttl = 64;
            ping.ttl = 3;
            assert_eq!(desk.offer(port, &ping), [desk.leaving(port, &reply)]);
        }
        desk.refused(port, &echo(false, from, ip(own), 77), ToUs);
        desk.refused(port, &udp((from, 4), (ip(own), 53)), ToUs);
        desk.refused(port, &tcp((from, 4), (ip(own), 22), SYN), ToUs);
    }
    // The other side's address is not answered through this one.
    desk.refused(0, &echo(true, "100.64.1.1", ip("192.0.2.2"), 77), ToUs);
    assert_eq!(desk.lab.sum(|c| c.echo_answered.value()), 4);
    assert_eq!(desk.mappings(), 0);
}

#[test]
fn without_a_route_the_packet_is_dropped_and_counted() {
    let yaml = plain().replace("    next-hop: 192.0.2.1\n", "")
        + "routes: [{ to: 198.51.100.0/24, via: 192.0.2.1, port: external0 }]\n";
    let mut desk = Desk::new(&yaml);
    let outside = desk.goes_out(&udp((HOST, 1), server(80)));
    desk.comes_in(&udp((SERVER, 80), outside), (HOST, 1));
    desk.refused(INTERNAL, &udp((HOST, 1), (ip("8.8.8.8"), 80)), NoRoute);
    desk.refused(INTERNAL, &udp((HOST, 2), (ip("8.8.8.8"), 80)), NoRoute);
}

/// A packet without room in front of the frame.
struct Tight(MemoryPacket);

impl PacketBuf for Tight {
    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
    fn is_whole(&self) -> bool {
        self.0.is_whole()
    }
    fn frame_len(&self) -> usize {
        self.0.frame_len()
    }
    fn join(&mut self) -> bool {
        self.0.join()
    }
    fn cut_front(&mut self, n: usize) {
        self.0.cut_front(n);
    }
    fn grow_front(&mut self, _: usize) -> bool {
        false
    }
    fn grow_back(&mut self, _: usize) -> bool {
        false
    }
    fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }
    fn fill(&mut self, len: usize) -> bool {
        self.0.fill(len)
    }
    fn note(&mut self) -> &mut [u8; NOTE_BYTES] {
        self.0.note()
    }
    fn captured_at(&self) -> Option<Instant> {
        None
    }
}

/// Frames that arrive at port 0; what is sent is counted.
struct TightIo {
    arriving: VecDeque<Tight>,
    sent: usize,
}

impl PacketIo for TightIo {
    type Packet = Tight;

    fn receive(&mut self, port: usize, burst: &mut Burst<Tight>) -> bool {
        if port == 0 {
            burst.extend(self.arriving.pop_front());
        }
        false
    }
    fn transmit(&mut self, _: usize, burst: &mut Burst<Tight>) {
        self.sent += burst.drain(..).count();
    }
    fn hand_off(&mut self, _: u16, _: &mut Burst<Tight>) {}
    fn take_handed(&mut self, _: &mut Burst<Tight>) {}
    fn allocate(&mut self) -> Option<Tight> {
        None
    }
}

#[test]
fn a_packet_without_room_for_a_longer_link_header_is_dropped_and_counted() {
    let yaml = plain().replace("device: net_null1", "device: net_null1\n    vlan: 200");
    let config = Config::from_yaml("tight.yaml", &yaml).unwrap_or_else(|e| panic!("{e}"));
    let layout = Layout::new(&config, 1);
    let memory =
        Memory { shards: vec![zeroed(layout.shard_bytes)], blocks: zeroed(layout.block_bytes) };
    let macs = [port_mac(0), port_mac(1)];
    let assembly = assemble(&config, &layout, memory, &macs, TimeSource::Clock, |b| b.fill(3));
    let mut assembly = assembly.unwrap();
    let link = Link { to: port_mac(0), from: HOPS[0], vlan: None };
    let frame = link.frame(0x0800, &udp((HOST, 1), server(80)).bytes());
    let io = TightIo { arriving: [Tight(MemoryPacket::new(&frame))].into(), sent: 0 };
    let mut worker = assembly.seats.remove(0).worker(io);
    let now = Instant::from_millis(1_000);
    for _ in 0..10 {
        assembly.housekeeping.run(now, now);
        worker.poll(now);
    }
    assert_eq!(assembly.counters[0].drops_of(NoHeadroom), 1);
    assert_eq!(worker.io_mut().sent, 0);
}
