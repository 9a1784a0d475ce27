//! What comes from outside and nobody asked for: dropped early, and when there is more of it than the
//! worker can take, shed by destination (decision 29).

use super::Worker;
use super::io::{Burst, PacketBuf, PacketIo};
use crate::endpoint::ExternalEndpoint;
use crate::packet::ipv4::protocol;
use crate::packet::plain::Plain;
use crate::packet::{ethernet, u16_at, u32_at};
use crate::policy::flood_guard::Aim;
use crate::space::Location;
use crate::verdict::DropReason;

impl<I: PacketIo> Worker<I> {
    /// Drops what a flood has too much of, before anything else is done with it.
    #[cold]
    pub(super) fn shed_flood(&mut self, port: usize, burst: &mut Burst<I::Packet>) {
        for packet in std::mem::take(burst) {
            match self.takes_in_flood(port, &packet) {
                true => burst.push(packet),
                false => self.refuse(port, packet, DropReason::Flood),
            }
        }
    }

    fn takes_in_flood(&mut self, port: usize, packet: &I::Packet) -> bool {
        let info = &self.forwarding.ports()[port];
        let frame = ethernet::parse(packet.bytes(), info.mac, info.tags);
        let aim = match frame {
            Ok(frame) if frame.ether_type == ethernet::IPV4 => {
                aim_of(&packet.bytes()[frame.payload..])
            }
            _ => None,
        };
        // What is none is dropped for what it is.
        let Some(aim) = aim else { return true };
        let key = self.shard.key;
        let by_address = key.hash(u64::from(aim.address));
        let rest = u64::from(aim.port) << 8 | u64::from(aim.protocol);
        let by_aim = key.hash(u64::from(aim.address) << 24 | rest);
        self.flood_guard.takes(aim, by_address, by_aim)
    }

    /// A plain packet from outside, other than a SYN, of which no mapping was found: mostly nothing
    /// has its port, and no more need be asked.
    #[inline(never)]
    pub(super) fn unasked(&mut self, port: usize, packet: I::Packet, plain: &Plain) {
        if !self.meets_nothing(plain) {
            return self.ingress(port, packet);
        }
        self.note_capture_time(&packet);
        self.refuse(port, packet, DropReason::NoMapping);
    }

    /// Whether the port of a plain packet from outside is one that this worker may give, and nobody
    /// has it.
    fn meets_nothing(&self, plain: &Plain) -> bool {
        let external = ExternalEndpoint::new(plain.destination, plain.destination_port());
        let Location::Block(block) = self.shard.space.locate(external) else { return false };
        let is_mine = self.owners.owner(block).is_some_and(|owner| owner.worker == self.id);
        is_mine && !self.forwarding.is_own(plain.destination) && self.shard.is_unused(plain)
    }
}

/// What an IPv4 packet is for. A later fragment has no port.
fn aim_of(packet: &[u8]) -> Option<Aim> {
    let head = packet.first_chunk::<20>()?;
    let header_len = usize::from(head[0] & 0xf) * 4;
    if head[0] >> 4 != 4 || header_len < 20 {
        return None;
    }
    let (address, protocol) = (u32_at(head, 16), head[9]);
    let is_first = u16_at(head, 6) & 0x1fff == 0;
    let has_ports = is_first && matches!(protocol, protocol::TCP | protocol::UDP);
    let ports = packet.get(header_len..header_len + 4).filter(|_| has_ports);
    Some(Aim { address, protocol, port: ports.map_or(0, |ports| u16_at(ports, 2)) })
}
