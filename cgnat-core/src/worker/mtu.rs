//! What is larger than the MTU of the port it would leave by (RFC 4787 REQ-13, RFC 5508
//! section 7.1): with DF it is refused and its sender told the MTU, else it is fragmented.
//!
//! With DF the packet is looked at before it is translated: it then changes no table, and
//! the error quotes it as its sender sent it. Only a hairpinned packet is translated
//! halfway when its port is known; the error about it goes back through the sender's own
//! mapping, like any other error.

use super::Worker;
use super::handoff::Kind as Handed;
use super::io::{PacketBuf, PacketIo};
use super::parking::AwaitsNeighbour;
use crate::config::Side;
use crate::packet::fragment::Fragments;
use crate::packet::ipv4::{self, Header, Transport};
use crate::verdict::DropReason;

impl<I: PacketIo> Worker<I> {
    /// The MTU of the external port if an outbound packet is larger and must not be
    /// fragmented. What will be refused anyway, and what is not sent out, is left alone.
    #[inline]
    pub(super) fn too_big_outbound(&self, header: &Header, transport: Transport) -> Option<u16> {
        if self.fits_anywhere(header) {
            return None;
        }
        let is_error = matches!(transport, Transport::Error(_));
        let goes_on = header.ttl > 1 && self.shard.group_of(header.source).is_some();
        if is_error || !goes_on || self.shard.space.contains(header.destination) {
            return None;
        }
        self.too_big_for(Side::External, header, header.destination, transport.subscriber(header))
    }

    /// The MTU of the internal port if a packet to a mapping is larger and must not be
    /// fragmented.
    #[inline]
    pub(super) fn too_big_inbound(
        &self,
        kind: Handed,
        header: &Header,
        transport: Transport,
    ) -> Option<u16> {
        if self.fits_anywhere(header) {
            return None;
        }
        if header.ttl <= 1 && kind != Handed::Hairpin {
            return None;
        }
        let internal = self.shard.internal_address(header, transport, self.now.tick())?;
        self.too_big_for(Side::Internal, header, internal, internal)
    }

    /// The MTU towards `destination` if a packet is larger and must not be fragmented.
    pub(super) fn too_big_for(
        &self,
        side: Side,
        header: &Header,
        destination: u32,
        subscriber: u32,
    ) -> Option<u16> {
        if self.fits_anywhere(header) {
            return None;
        }
        let (port, _) = self.way(side, destination, subscriber).ok()?;
        let mtu = self.forwarding.ports()[usize::from(port)].mtu;
        (header.total_len > usize::from(mtu)).then_some(mtu)
    }

    /// Whether a packet needs no look at an MTU: it is small, or may be fragmented.
    #[inline]
    fn fits_anywhere(&self, header: &Header) -> bool {
        header.total_len <= self.forwarding.smallest_mtu() || !header.dont_fragment
    }

    /// Sends a translated packet in fragments of at most `mtu` bytes, in the order of their
    /// offsets (RFC 4787 REQ-13a). Returns the next hop if it is to be resolved.
    pub(super) fn egress_in_fragments(
        &mut self,
        waiting: AwaitsNeighbour<I::Packet>,
        mtu: usize,
    ) -> Option<(u8, u32)> {
        let AwaitsNeighbour { packet, side, offset, since, next_hop, subscriber, .. } = waiting;
        let bytes = &packet.bytes()[offset..];
        let header = match ipv4::fields(bytes) {
            Ok(header) if !header.dont_fragment => header,
            Ok(_) => {
                self.drop_packet(packet, DropReason::TooBig);
                return None;
            }
            Err(reason) => {
                self.drop_packet(packet, reason);
                return None;
            }
        };
        let mut fragments = Fragments::new(bytes, &header, mtu);
        let mut unresolved = None;
        let mut sent = 0;
        // Each fragment holds eight bytes at least, so this ends.
        while let Some(length) = fragments.next_len() {
            let empty = self.io.allocate();
            let Some(mut part) =
                empty.and_then(|mut part| part.fill(offset + length).then_some(part))
            else {
                // What was sent of it was made here: the packet itself ends as a drop.
                self.counters.originated.add(u64::from(sent > 0));
                self.drop_packet(packet, DropReason::NoBuffer);
                return unresolved;
            };
            fragments.write_next(&mut part.bytes_mut()[offset..]);
            self.counters.originated.add(u64::from(sent > 0));
            sent += 1;
            let packet = part;
            let part = AwaitsNeighbour {
                packet,
                side,
                offset,
                since,
                next_hop,
                subscriber,
                is_part: true,
            };
            unresolved = self.egress_waiting(part).or(unresolved);
        }
        self.counters.fragmented.add(1);
        unresolved
    }
}
