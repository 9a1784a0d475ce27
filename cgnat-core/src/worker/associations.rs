//! Packets without ports between the subscriber's owner and the keeper of their tuple
//! (decision 15).
//!
//! ```text
//!   outbound   owner: hold ── Claim ──► keeper: claim, translate ──► out, or to the next keeper
//!                    ◄─ ClaimRefused ──  if the tuple is another subscriber's
//!   inbound    any worker ── Inbound, Hairpin ──► keeper: claimant ──► in
//! ```
//!
//! The keeper of a tuple (external address, remote address, protocol) is the worker of the
//! external address, which every worker can compute, and computes again before it believes a note.

use super::Worker;
use super::errors::told_inside;
use super::handoff::{Kind, Note};
use super::io::{PacketBuf, PacketIo};
use crate::config::Side;
use crate::packet::ipv4::{Header, Transport};
use crate::verdict::DropReason;

/// A packet: port that it arrived at, itself, offset of its IPv4 header.
type Arrived<P> = (usize, P, usize);

impl<I: PacketIo> Worker<I> {
    /// The worker that keeps the claim of a tuple (external, remote, protocol): the one that a
    /// card steers its packets to.
    pub(super) fn keeper_of_tuple(&self, (external, _, _): (u32, u32, u8)) -> u16 {
        self.steering.owner_of(external)
    }

    /// A packet of a subscriber that has a hold under this external address goes to the keeper.
    #[cold]
    pub(super) fn associate(
        &mut self,
        (port, packet, offset): Arrived<I::Packet>,
        header: &Header,
        external: u32,
    ) {
        let keeper = self.keeper_of_tuple((external, header.destination, header.protocol));
        if keeper == self.id {
            return self.claim((port, packet, offset), header, external);
        }
        let ports = ((external >> 16) as u16, external as u16);
        let note = Note { ports, ..self.note(Kind::Claim, port, offset, keeper, 0) };
        self.hand_over(packet, note);
    }

    /// At the keeper: translated and sent, or back to the owner with the reason.
    fn claim(
        &mut self,
        (port, mut packet, offset): Arrived<I::Packet>,
        header: &Header,
        external: u32,
    ) {
        let now = self.now.tick();
        let bytes = &mut packet.bytes_mut()[offset..];
        match self.shard.claim(bytes, header, external, now) {
            Ok(()) if self.shard.space.contains(header.destination) => {
                self.counters.hairpinned.add(1);
                self.hairpin(port, packet, offset, (0, 0));
            }
            Ok(()) => self.egress(Side::External, packet, offset, header.source),
            Err(reason) => {
                let owner = self.steering.owner_of(header.source);
                if owner == self.id {
                    return self.claim_refused((port, packet, offset), header, reason);
                }
                let ports = (reason as u16, 0);
                let note = Note { ports, ..self.note(Kind::ClaimRefused, port, offset, owner, 0) };
                self.hand_over(packet, note);
            }
        }
    }

    /// At the owner, once the keeper has refused: the sender is told.
    fn claim_refused(
        &mut self,
        (port, packet, offset): Arrived<I::Packet>,
        header: &Header,
        reason: DropReason,
    ) {
        let now = self.now.tick();
        let reason = self.shard.claim_refused(reason, header, now);
        if let Some(kind) = told_inside(reason) {
            self.tell(kind, port, &packet, offset, (header, Transport::Portless));
        }
        self.refuse(port, packet, reason);
    }

    /// An inbound or hairpinned packet of a tuple, or an error about one, on its way to the
    /// keeper. No block holds its port.
    #[cold]
    pub(super) fn steer_to_keeper(
        &mut self,
        kind: Kind,
        (port, packet, offset): Arrived<I::Packet>,
        header: &Header,
        transport: Transport,
    ) {
        if let Some(worker) = self.worker_behind(transport) {
            return self.steer_to_caller(worker, kind, (port, packet, offset), header, transport);
        }
        let Some(tuple) = transport.tuple(header) else {
            return self.refuse(port, packet, DropReason::PortNotLent);
        };
        if !self.shard.carries(tuple.2) {
            let reason = match transport {
                Transport::Error(_) => DropReason::IcmpNoMapping,
                _ => DropReason::ProtocolUnsupported,
            };
            return self.refuse(port, packet, reason);
        }
        let keeper = self.keeper_of_tuple(tuple);
        if keeper == self.id {
            return self.inbound(kind, port, packet, offset, header, transport);
        }
        let note = self.note(kind, port, offset, keeper, 0);
        self.hand_over(packet, note);
    }

    /// What another worker handed here as an owner or as a keeper, if this is the right one.
    #[cold]
    pub(super) fn claim_handed(&mut self, note: &Note, packet: I::Packet) {
        let (port, offset) = (usize::from(note.port), usize::from(note.offset));
        let header = match self.reread(false, &packet.bytes()[offset..], (0, 0)) {
            Ok((header, Transport::Portless)) => header,
            _ => return self.refuse(port, packet, DropReason::OwnershipViolation),
        };
        let external = u32::from(note.ports.0) << 16 | u32::from(note.ports.1);
        if note.kind == Kind::Claim {
            let tuple = (external, header.destination, header.protocol);
            let is_right = self.keeper_of_tuple(tuple) == self.id
                && self.shard.may_claim(&header, external)
                && self.shard.carries(header.protocol);
            return match is_right {
                true => self.claim((port, packet, offset), &header, external),
                false => self.refuse(port, packet, DropReason::OwnershipViolation),
            };
        }
        let reason = DropReason::ALL.get(usize::from(note.ports.0)).copied();
        match reason.filter(|reason| reason.is_of_claims()) {
            Some(reason) if self.steering.owner_of(header.source) == self.id => {
                self.claim_refused((port, packet, offset), &header, reason);
            }
            _ => self.refuse(port, packet, DropReason::OwnershipViolation),
        }
    }
}
