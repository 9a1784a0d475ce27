//! Packets for the box itself that a worker does not answer: to the kernel, where the port has an
//! interface there, and not more of one class than the kernel shall be asked to look at.

use super::Worker;
use super::io::{PacketBuf, PacketIo};
use crate::packet::u32_at;
use crate::policy::per_second::Spent;
use crate::verdict::DropReason;

/// What the kernel gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Copies of ARP replies to us.
    Neighbours,
    /// IPv4 to link-local groups: routing protocols.
    Groups,
    /// IPv4 to own addresses.
    Own,
}

impl Class {
    const COUNT: usize = 3;

    /// Frames per worker, port and second.
    const fn most(self) -> u32 {
        match self {
            Class::Neighbours => 200,
            Class::Groups | Class::Own => 2_000,
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

impl<I: PacketIo> Worker<I> {
    /// Whether the kernel gets a packet because it is for a group.
    pub(super) fn is_for_groups(&self, port: usize, packet: &[u8]) -> bool {
        self.forwarding.ports()[port].punts
            && packet.len() >= 20
            && packet[0] >> 4 == 4
            && is_local_group(u32_at(packet, 16))
    }

    /// A packet for an own address that no worker answers.
    pub(super) fn for_us(&mut self, port: usize, packet: I::Packet) {
        match self.forwarding.ports()[port].punts {
            true => self.punt(port, packet, Class::Own),
            false => self.refuse(port, packet, DropReason::ToUs),
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

    /// Gives the kernel a copy of an ARP reply, so that it knows its neighbours too.
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
