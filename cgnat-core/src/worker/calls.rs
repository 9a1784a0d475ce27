//! GRE of PPTP between workers (decision 20); nothing of it happens unless its ALG is on.
//!
//! ```text
//!   GRE from outside         the owner of the port that the call identifier is
//!   its fragments            as all others: keeper of the datagram, then that owner
//!   an error from outside    the worker whose identification the quoted packet has
//! ```
//!
//! The quoted packet shows the server's identifier, which says nothing of the owner here; but
//! what leaves for a call has an identification of its owner's own numbers.

use super::Worker;
use super::handoff::Kind;
use super::io::PacketIo;
use crate::endpoint::IpProtocol;
use crate::packet::gre;
use crate::packet::ipv4::{self, Header, Transport};
use crate::verdict::DropReason;

impl<I: PacketIo> Worker<I> {
    /// Whether a fragment goes by its addresses alone, without a context of its datagram.
    #[inline]
    pub(super) fn goes_by_addresses(&self, header: &Header) -> bool {
        let protocol = IpProtocol(header.protocol);
        !(protocol.has_mappings() || self.follows_calls && protocol == IpProtocol::GRE)
    }

    /// Whether GRE to an external address is nothing to follow: one host has all of the address.
    pub(super) fn is_for_whole_address(&self, header: &Header) -> bool {
        self.has_exceptions
            && IpProtocol(header.protocol) == IpProtocol::GRE
            && self.shard.static_internal(header, Transport::Portless).is_some()
    }

    /// Whether a fragment may be of a call of the subscriber that it is sent to.
    #[inline]
    pub(super) fn needs_call(&self, header: &Header) -> bool {
        self.follows_calls
            && header.is_fragment()
            && IpProtocol(header.protocol) == IpProtocol::GRE
            && self.shard.space.contains(header.destination)
            && !self.is_for_whole_address(header)
    }

    /// Reads what [`ipv4::transport`] found to be without ports, where calls are followed.
    #[cold]
    fn read_call(
        &self,
        inward: bool,
        packet: &[u8],
        header: &Header,
    ) -> Result<Transport, DropReason> {
        if IpProtocol(header.protocol) != IpProtocol::GRE
            || header.offset > 0
            || inward && self.is_for_whole_address(header)
        {
            return Ok(Transport::Portless);
        }
        let call = gre::call(&packet[header.header_len..header.total_len])?;
        Ok(call.map_or(Transport::Portless, |id| Transport::Call { id }))
    }

    /// As [`ipv4::transport`], of a packet to a mapping (`inward`) or from a subscriber.
    ///
    /// # Errors
    /// Likewise, and [`DropReason::PptpMalformed`].
    #[inline]
    pub(super) fn transport(
        &self,
        inward: bool,
        packet: &[u8],
        header: &Header,
    ) -> Result<Transport, DropReason> {
        match ipv4::transport(packet, header)? {
            Transport::Portless if self.follows_calls => self.read_call(inward, packet, header),
            transport => Ok(transport),
        }
    }

    /// As [`ipv4::reread`], of a packet to a mapping (`inward`) or from a subscriber.
    ///
    /// # Errors
    /// Likewise, and [`DropReason::PptpMalformed`].
    #[inline]
    pub(super) fn reread(
        &self,
        inward: bool,
        packet: &[u8],
        ports: (u16, u16),
    ) -> Result<(Header, Transport), DropReason> {
        match ipv4::reread(packet, ports)? {
            (header, Transport::Portless) if self.follows_calls => {
                Ok((header, self.read_call(inward, packet, &header)?))
            }
            read => Ok(read),
        }
    }

    /// The worker that an error from outside about GRE of PPTP is for.
    pub(super) fn worker_behind(&self, transport: Transport) -> Option<u16> {
        match transport {
            Transport::Error(quote) if self.follows_calls && quote.call.is_some() => {
                Some(self.shard.identifications.shard_of(quote.identification))
            }
            _ => None,
        }
    }

    /// An error from outside, or a hairpinned one, about GRE that left for a call.
    #[cold]
    pub(super) fn steer_to_caller(
        &mut self,
        worker: u16,
        kind: Kind,
        (port, packet, offset): (usize, I::Packet, usize),
        header: &Header,
        transport: Transport,
    ) {
        if worker == self.id {
            return self.inbound(kind, port, packet, offset, header, transport);
        }
        let note = self.note(kind, port, offset, worker, 0);
        self.hand_over(packet, note);
    }
}
