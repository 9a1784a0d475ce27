//! What is for the box itself and goes to the kernel.

use cgnat_core::packet::arp::{Arp, Operation};
use cgnat_core::testing::lab::port_mac;
use cgnat_core::verdict::DropReason::*;
use cgnat_core::worker::io::PacketBuf as _;

use crate::desk::*;
use crate::wire::{Body, Link, Packet, Vlan, ip, vlan_keys};

const OWN: [&str; 2] = ["10.255.0.2", "192.0.2.2"];
const NEAR: [&str; 2] = ["10.255.0.1", "192.0.2.1"];

/// The external port has an interface in the kernel, and is in a VLAN if there is one.
fn desk(vlan: Option<Vlan>) -> Desk {
    let tags = vlan_keys(vlan);
    let port = format!("device: net_null1\n{tags}    kernel-interface: k-ext");
    let mut desk = Desk::new(&plain().replace("device: net_null1", &port));
    desk.vlans = [None, vlan];
    desk
}

/// The frames that the kernel was given of a port since the last call.
fn taken(desk: &mut Desk, port: usize) -> Vec<Vec<u8>> {
    let taken = std::mem::take(&mut desk.lab.workers[0].io_mut().to_kernel[port]);
    taken.iter().map(|packet| packet.bytes().to_vec()).collect()
}

fn to_us(port: usize, service: u16) -> Packet {
    tcp((NEAR[port], 179), (ip(OWN[port]), service), SYN)
}

#[test]
fn what_is_for_an_own_address_goes_to_the_kernel_of_a_port_that_has_an_interface() {
    for vlan in [None, Some(Vlan::dot1q(200)), Some(Vlan::qinq(300, 200))] {
        let mut desk = desk(vlan);
        for packet in [
            to_us(EXTERNAL, 179),
            udp((SERVER, 4), (ip(OWN[1]), 161)),
            echo(false, NEAR[1], ip(OWN[1]), 7),
            // Of the other port: it came in here.
            tcp((SERVER, 4), (ip(OWN[0]), 22), SYN),
        ] {
            let frame = desk.arriving(EXTERNAL, &packet);
            assert_eq!(desk.lab.arrive(0, EXTERNAL, &frame), []);
            assert_eq!(taken(&mut desk, EXTERNAL), [frame]);
        }
        let mut large = udp((SERVER, 4), (ip(OWN[1]), 161));
        large.payload = vec![7; 600];
        for piece in large.fragments(&[324, 628]) {
            assert_eq!(desk.offer_bytes(EXTERNAL, &piece), []);
        }
        assert_eq!(taken(&mut desk, EXTERNAL).len(), 2);
        assert_eq!(desk.lab.sum(|c| c.punted.value()), 6);
        // Pings are answered here, and a port without interface has nobody.
        assert_eq!(desk.offer(EXTERNAL, &echo(true, NEAR[1], ip(OWN[1]), 7)).len(), 1);
        desk.refused(INTERNAL, &to_us(INTERNAL, 179), ToUs);
        assert_eq!((taken(&mut desk, EXTERNAL).len(), taken(&mut desk, INTERNAL).len()), (0, 0));
    }
}

#[test]
fn what_is_for_a_link_local_group_goes_to_the_kernel_and_other_groups_do_not() {
    let mut desk = desk(None);
    let mut group = |port: usize, to: &str| {
        let link = Link { to: [1, 0, 0x5e, 0, 0, 5], from: HOPS[port], vlan: None };
        let hello = udp((NEAR[port], 520), (ip(to), 520));
        let frame = link.frame(0x0800, &hello.bytes());
        assert_eq!(desk.lab.arrive(0, port, &frame), []);
        taken(&mut desk, port).len()
    };
    assert_eq!(group(EXTERNAL, "224.0.0.5"), 1);
    assert_eq!(group(EXTERNAL, "224.0.0.255"), 1);
    for other in ["224.0.1.0", "239.1.1.1", "225.0.0.5"] {
        assert_eq!(group(EXTERNAL, other), 0, "{other}");
    }
    assert_eq!(group(INTERNAL, "224.0.0.5"), 0);
    assert_eq!(desk.lab.sum(|c| c.punted.value()), 2);
    assert_eq!(desk.lab.all_drops(), 4);
}

#[test]
fn the_kernel_gets_a_copy_of_arp_replies_to_us() {
    let mut desk = desk(None);
    let reply = |port: usize, operation| Arp {
        operation,
        sender_mac: HOPS[port],
        sender: ip(NEAR[port]),
        target_mac: port_mac(port),
        target: ip(OWN[port]),
    };
    let frame = arp_frame(EXTERNAL, None, &reply(EXTERNAL, Operation::Reply));
    assert_eq!(desk.lab.arrive(0, EXTERNAL, &frame), []);
    assert_eq!(taken(&mut desk, EXTERNAL), std::slice::from_ref(&frame));
    // A request is answered here; what is for others, or comes elsewhere, is nothing for it.
    let asked = arp_frame(EXTERNAL, None, &reply(EXTERNAL, Operation::Request));
    assert_eq!(desk.lab.arrive(0, EXTERNAL, &asked).len(), 1);
    let other = Arp { target: ip("192.0.2.3"), ..reply(EXTERNAL, Operation::Reply) };
    desk.lab.arrive(0, EXTERNAL, &arp_frame(EXTERNAL, None, &other));
    desk.lab.arrive(0, INTERNAL, &arp_frame(INTERNAL, None, &reply(INTERNAL, Operation::Reply)));
    assert_eq!((taken(&mut desk, EXTERNAL).len(), taken(&mut desk, INTERNAL).len()), (0, 0));
    // Without a buffer there is no copy, and the reply counts all the same.
    desk.lab.workers[0].io_mut().buffers = 0;
    desk.lab.arrive(0, EXTERNAL, &frame);
    assert_eq!(taken(&mut desk, EXTERNAL).len(), 0);
    assert_eq!(desk.lab.sum(|c| c.arp_received.value()), 5);
}

#[test]
fn a_flood_of_one_class_leaves_the_others_their_rate_and_a_full_ring_drops() {
    let mut desk = desk(None);
    let far = |n| tcp((SERVER, 5), (ip(OWN[1]), n), SYN);
    let mut came = [0, 0];
    for n in 1..=3_000 {
        came[0] += desk.offer(EXTERNAL, &far(n)).len();
        came[1] += taken(&mut desk, EXTERNAL).len();
    }
    assert_eq!(came, [0, 2_000]);
    assert_eq!(desk.lab.drops(PuntLimited), 1_000);
    let link = Link { to: [1, 0, 0x5e, 0, 0, 5], from: HOPS[EXTERNAL], vlan: None };
    let hello = link.frame(0x0800, &udp((NEAR[1], 520), (ip("224.0.0.5"), 520)).bytes());
    desk.lab.arrive(0, EXTERNAL, &hello);
    assert_eq!(taken(&mut desk, EXTERNAL), [hello]);
    // Neither does it take anything of what neighbours on the link say, who can be told apart: BGP both
    // ways, OSPF between two, BFD, which comes with the TTL that only a neighbour can give it.
    let own = |from: u16, to: u16| udp((NEAR[1], from), (ip(OWN[1]), to));
    let ospf = Packet { body: Body::Bare { protocol: 89 }, ..own(1, 1) };
    let bfd = Packet { ttl: 255, ..own(50_000, 3784) };
    let answer = tcp((NEAR[1], 179), (ip(OWN[1]), 40_000), SYN);
    for packet in [&tcp((NEAR[1], 7), (ip(OWN[1]), 179), SYN), &answer, &ospf, &bfd] {
        assert_eq!(desk.offer(EXTERNAL, packet), []);
        assert_eq!(taken(&mut desk, EXTERNAL).len(), 1, "{packet:?}");
    }
    let routed = Packet { ttl: 254, ..bfd.clone() };
    for packet in [&far(179), &routed, &Packet { ttl: 255, ..own(3784, 50_000) }] {
        assert_eq!(desk.offer(EXTERNAL, packet), []);
        assert_eq!(taken(&mut desk, EXTERNAL).len(), 0, "{packet:?}");
    }
    desk.lab.advance(1_000);
    desk.lab.workers[0].io_mut().kernel_room = 1;
    for n in 1..=3 {
        assert_eq!(desk.offer(EXTERNAL, &to_us(EXTERNAL, n)), []);
    }
    assert_eq!((taken(&mut desk, EXTERNAL).len(), desk.lab.drops(PuntFull)), (1, 2));
    // Packets that are translated do not notice.
    desk.goes_out(&udp(("100.64.3.9", 1), server(80)));
}
