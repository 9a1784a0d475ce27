//! What comes from outside and nobody asked for: dropped early, and when there is more of it than the
//! worker can take, shed by destination (decision 29).

use super::Worker;
use super::handoff::{Kind, Note};
use super::io::{BURST, Burst, PacketBuf, PacketIo};
use crate::endpoint::ExternalEndpoint;
use crate::packet::ethernet::{Frame, Mac, Tags};
use crate::packet::ipv4::protocol;
use crate::packet::plain::Plain;
use crate::packet::{ethernet, ipv6, u16_at, u32_at};
use crate::policy::flood_guard::{Aim, Aim6};
use crate::space::Location;
use crate::verdict::DropReason;

impl<I: PacketIo> Worker<I> {
    /// Whether there may be something to shed, here or for another worker.
    #[inline]
    pub(super) fn may_shed(&mut self) -> bool {
        self.flood_guard.is_active() || self.for_others.is_active()
    }

    /// Drops what a flood has too much of, before anything else is done with it.
    #[cold]
    pub(super) fn shed_flood(&mut self, port: usize, burst: &mut Burst<I::Packet>) {
        let info = &self.forwarding.ports()[port];
        let (mac, tags, key) = (info.mac, info.tags, self.shard.key);
        let takes_ipv6 = info.takes_ipv6;
        let (is_active, mut shed) = (self.flood_guard.is_active(), Burst::new());
        for packet in std::mem::take(burst) {
            let aim = plain_aim_of(packet.bytes(), mac, tags.len())
                .or_else(|| aim_of_frame(packet.bytes(), mac, tags));
            let is_taken = match aim.map(Aim::word) {
                Some(word) => {
                    !self.for_others.sheds(word)
                        && (!is_active || self.flood_guard.takes(word, |word| key.hash(word)))
                }
                // What has none is dropped for what it is.
                None => aim6_of(packet.bytes(), mac, tags.len())
                    .filter(|_| is_active && takes_ipv6)
                    .is_none_or(|aim| {
                        let word = aim.word(|a, b| key.hash_pair(a, b));
                        self.flood_guard.takes6(aim, word, |word| key.hash(word))
                    }),
            };
            match is_taken {
                true => burst.push(packet),
                false => shed.push(packet),
            }
        }
        self.has_shed_most = shed.len() > BURST / 2;
        if !shed.is_empty() {
            self.counters.ports[port].dropped.add(shed.len() as u64);
            self.counters.drops[DropReason::Flood as usize].add(shed.len() as u64);
            self.io.free(&mut shed);
            self.for_others.tell();
        }
    }

    /// The same of what other workers have handed here, who shed what they have been told of.
    #[cold]
    pub(super) fn count_handed_flood(&mut self, burst: &mut Burst<I::Packet>) {
        let key = self.shard.key;
        for mut packet in std::mem::take(burst) {
            let note = Note::read(packet.note());
            let note = note.filter(|note| matches!(note.kind, Kind::Inbound | Kind::Keep));
            let bytes = |note: Note| packet.bytes().get(usize::from(note.offset)..);
            let aim = note.and_then(bytes).and_then(aim_of);
            match aim.zip(note) {
                Some((aim, note))
                    if !self.flood_guard.takes_handed(aim.word(), |word| key.hash(word)) =>
                {
                    self.refuse(usize::from(note.port), packet, DropReason::Flood);
                }
                _ => burst.push(packet),
            }
        }
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

/// What a frame for this port is for, if that stands where it mostly does: IPv4 without options,
/// behind as many bytes of tags as the port has.
#[inline(always)]
fn plain_aim_of(frame: &[u8], mac: Mac, tags: usize) -> Option<Aim> {
    let header = frame.get(tags..)?.first_chunk::<38>()?;
    let is_plain = frame[..6] == mac && u16_at(header, 12) == ethernet::IPV4 && header[14] == 0x45;
    let has_ports = matches!(header[23], protocol::TCP | protocol::UDP);
    let is_first = u16_at(header, 20) & 0x1fff == 0;
    let port = if is_first && has_ports { u16_at(header, 36) } else { 0 };
    is_plain.then_some(Aim { address: u32_at(header, 30), protocol: header[23], port })
}

/// What a frame of IPv6 for this port is for, as [`plain_aim_of`]. None of groups and of what only
/// neighbours can send: the link itself must go on.
#[inline]
fn aim6_of(frame: &[u8], mac: Mac, tags: usize) -> Option<Aim6> {
    let header = frame.get(tags..)?.first_chunk::<54>()?;
    let is_ipv6 = frame[..6] == mac && u16_at(header, 12) == ethernet::IPV6 && header[14] >> 4 == 6;
    let (protocol, hops) = (header[20], header[21]);
    let address = ipv6::address_at(header, 38);
    let is_for_link = ipv6::is_multicast(address) || protocol == ipv6::next::ICMP && hops == 255;
    let has_ports = matches!(protocol, protocol::TCP | protocol::UDP);
    let ports = frame[tags..].get(54..58).filter(|_| has_ports);
    let port = ports.map_or(0, |ports| u16_at(ports, 2));
    (is_ipv6 && !is_for_link).then_some(Aim6 { address, protocol, port })
}

/// What a frame is for, wherever it stands.
fn aim_of_frame(frame: &[u8], mac: Mac, tags: Tags) -> Option<Aim> {
    match ethernet::parse(frame, mac, tags) {
        Ok(Frame { ether_type: ethernet::IPV4, payload }) => aim_of(&frame[payload..]),
        _ => None,
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
