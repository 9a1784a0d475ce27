//! Packets for the box itself that a worker does not answer: to the kernel, where the port has an
//! interface there, and not more of one class than the kernel shall be asked to look at.

use super::Worker;
use super::forwarding::{Ipv6Port, PortInfo};
use super::io::{PacketBuf, PacketIo};
use crate::packet::ipv4::protocol;
use crate::packet::ipv6::{self, Header};
use crate::packet::{u16_at, u32_at};
use crate::policy::per_second::Spent;
use crate::verdict::DropReason;

/// What the kernel gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Copies of ARP replies to us.
    Neighbours,
    /// To groups of the link: routing protocols.
    Groups,
    /// BFD of a neighbour, which nobody further away can imitate.
    Bfd,
    /// BGP and OSPF from an address of the link.
    Sessions,
    /// Else to own addresses.
    Own,
}

/// Ports of BFD over a single hop (RFC 5881 section 4).
const BFD: [u16; 2] = [3784, 3785];
/// What BFD over a single hop is received with (RFC 5881 section 5).
const BFD_TTL: u8 = 255;
/// Next header of ICMPv6 and of hop-by-hop options, which MLD has.
const NOT_ROUTING: [u8; 2] = [ipv6::next::ICMP, ipv6::next::HOP_BY_HOP];
/// Port of BGP (RFC 4271).
const BGP: u16 = 179;
/// Protocol of OSPF (RFC 2328 appendix A.1).
const OSPF: u8 = 89;

impl Class {
    const COUNT: usize = 5;

    /// Frames per worker, port and second.
    const fn most(self) -> u32 {
        match self {
            Class::Neighbours => 200,
            Class::Groups | Class::Bfd | Class::Sessions | Class::Own => 2_000,
        }
    }
}

/// What the kernel was given in this second, by port and class.
pub(super) struct Punts {
    spent: Vec<[Spent; Class::COUNT]>,
}

impl Punts {
    /// Nothing yet, for `ports` ports.
    pub(super) fn new(ports: usize) -> Self {
        Self { spent: vec![[Spent::default(); Class::COUNT]; ports] }
    }
}

/// Whether an address is of a group that no router forwards (RFC 5771 section 4).
fn is_local_group(address: u32) -> bool {
    address >> 8 == 0xe0_00_00
}

/// The class of a packet for an own address: a flood from afar takes nothing of what neighbours say.
fn class_of(port: &PortInfo, packet: &[u8]) -> Class {
    let (ttl, protocol, source) = (packet[8], packet[9], u32_at(packet, 12));
    let is_first = u16_at(packet, 6) & 0x1fff == 0;
    let header = usize::from(packet[0] & 0xf) * 4;
    let ports = packet.get(header..header + 4).filter(|_| is_first);
    let ports = ports.map(|ports| [u16_at(ports, 0), u16_at(ports, 2)]);
    class(protocol, ports, ttl, port.is_on_link(source))
}

/// The class of an IPv6 packet for an own address.
fn class_of_ipv6(port: &Ipv6Port, packet: &[u8], header: &Header) -> Class {
    let upper = ipv6::upper(packet, header);
    let ports = packet.get(upper.offset..upper.offset + 4).filter(|_| !upper.is_later);
    let ports = ports.map(|ports| [u16_at(ports, 0), u16_at(ports, 2)]);
    class(upper.protocol, ports, header.hop_limit, port.is_on_link(header.source))
}

fn class(protocol: u8, ports: Option<[u16; 2]>, ttl: u8, is_on_link: bool) -> Class {
    match (protocol, ports) {
        (protocol::UDP, Some([_, to])) if ttl == BFD_TTL && BFD.contains(&to) => Class::Bfd,
        (protocol::TCP, Some(ports)) if ports.contains(&BGP) && is_on_link => Class::Sessions,
        (OSPF, _) if is_on_link => Class::Sessions,
        _ => Class::Own,
    }
}

impl<I: PacketIo> Worker<I> {
    /// Whether the kernel gets a packet because it is for a group.
    pub(super) fn is_for_groups(&self, port: usize, packet: &[u8]) -> bool {
        self.forwarding.ports()[port].punts
            && packet.len() >= 20
            && packet[0] >> 4 == 4
            && is_local_group(u32_at(packet, 16))
    }

    /// A packet for an own address that no worker answers; its header was found good at `offset`.
    pub(super) fn for_us(&mut self, port: usize, packet: I::Packet, offset: usize) {
        let info = &self.forwarding.ports()[port];
        match info.punts {
            true => {
                let class = class_of(info, &packet.bytes()[offset..]);
                self.punt(port, packet, class);
            }
            false => self.refuse(port, packet, DropReason::ToUs),
        }
    }

    /// Whether the kernel gets an IPv6 packet because it is for a group: of the link, and not of those
    /// that the worker minds or that would have the kernel set up addresses and routes by itself.
    pub(super) fn is_for_groups_ipv6(&self, port: usize, header: &Header) -> bool {
        self.forwarding.ports()[port].punts
            && header.destination >> 112 == 0xff02
            && !NOT_ROUTING.contains(&header.next_header)
    }

    /// An IPv6 packet for an own address that no worker answers.
    pub(super) fn for_us_ipv6(
        &mut self,
        port: usize,
        packet: I::Packet,
        offset: usize,
        header: &Header,
    ) {
        let ipv6 = self.forwarding.ipv6();
        let is_taken =
            self.forwarding.ports()[port].punts && ipv6.is_in_use(port, header.destination);
        match ipv6.port(port).filter(|_| is_taken) {
            Some(info) => {
                let class = class_of_ipv6(info, &packet.bytes()[offset..], header);
                self.punt(port, packet, class);
            }
            None => self.refuse(port, packet, DropReason::ToUs),
        }
    }

    /// Gives a frame that arrived at `port` to the kernel.
    #[cold]
    pub(super) fn punt(&mut self, port: usize, packet: I::Packet, class: Class) {
        let second = (self.clock.nanos() / 1_000_000_000) as u32;
        if !self.punts.spent[port][class as usize].take(second, class.most()) {
            return self.refuse(port, packet, DropReason::PuntLimited);
        }
        match self.io.to_kernel(port, packet) {
            Ok(()) => self.counters.punted.add(1),
            Err(packet) => self.refuse(port, packet, DropReason::PuntFull),
        }
    }

    /// Gives the kernel a copy of a neighbour's answer, so that it knows its neighbours too.
    pub(super) fn punt_copy(&mut self, port: usize, packet: &I::Packet) {
        let frame = packet.bytes();
        let copy = self.io.allocate().and_then(|mut copy| {
            copy.fill(frame.len()).then(|| {
                copy.bytes_mut().copy_from_slice(frame);
                copy
            })
        });
        // Without a buffer the kernel asks again.
        if let Some(copy) = copy {
            self.counters.originated.add(1);
            self.punt(port, copy, Class::Neighbours);
        }
    }
}
