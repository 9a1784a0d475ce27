//! Outbound: a packet from a subscriber.

use crate::endpoint::{InternalEndpoint, Protocol, RemoteEndpoint};
use crate::packet::ipv4::{Header, Transport};
use crate::packet::options;
use crate::packet::rewrite::{self, End};
use crate::packet::u32_at;
use crate::policy::alg::{ftp, pptp, tftp};
use crate::policy::tcp_window::Sender;
use crate::shard::Shard;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};

impl Shard {
    /// Translates a packet from a subscriber of this shard in place.
    ///
    /// `packet` starts at the IPv4 header that was checked as `header` and `transport`.
    pub fn outbound(
        &mut self,
        packet: &mut [u8],
        header: &Header,
        transport: Transport,
        now: Tick,
    ) -> Verdict {
        if header.ttl <= 1 {
            return Verdict::Drop(DropReason::TtlExpired);
        }
        let hairpin = self.space.contains(header.destination);
        if hairpin && !self.hairpinning {
            return Verdict::Drop(DropReason::HairpinDisabled);
        }
        if let Transport::Error(quote) = transport {
            return self.outbound_error(packet, header, &quote, now);
        }
        let (protocol, source, destination) = match transport {
            Transport::Tcp { source, destination, .. } => (Protocol::Tcp, source, destination),
            Transport::Udp { source, destination } => (Protocol::Udp, source, destination),
            // RFC 5508 REQ-7 asks of Basic NAT only that queries are hairpinned.
            Transport::Query { identifier, .. }
                if hairpin && !self.answers_queries(header.destination, identifier) =>
            {
                return Verdict::Drop(DropReason::IcmpNoQuery);
            }
            Transport::Query { identifier, .. } => (Protocol::Icmp, identifier, identifier),
            Transport::Portless => return self.outbound_portless(header, now),
            Transport::Call { id } => {
                return match self.outbound_call(packet, header, id, None, now) {
                    Ok(()) if hairpin => Verdict::Hairpin,
                    Ok(()) => Verdict::ForwardExternal,
                    Err(reason) => Verdict::Drop(reason),
                };
            }
            Transport::Error(_) => unreachable!("errors have their own way"),
            Transport::Later { .. } => unreachable!("later fragments have their own way"),
        };
        let internal = InternalEndpoint::new(header.source, source);
        let remote = RemoteEndpoint::new(header.destination, destination);
        let key = self.flow_key(internal, protocol, remote);
        let hash = self.key.hash(key.packed());

        let found = self.meet_internal(key, hash, remote, now);
        let slot = match found {
            Some(slot) if self.mappings[slot].shard != self.id => {
                return Verdict::Drop(DropReason::OwnershipViolation);
            }
            Some(slot) if !self.mappings[slot].is_expired(now) => {
                if let Err(reason) = self.note_outbound(slot, transport, remote, now) {
                    return Verdict::Drop(self.refused(reason, key, destination, now));
                }
                slot
            }
            expired => {
                if let Some(slot) = expired {
                    self.end_mapping(slot, now);
                }
                match self.first_packet(key, hash, transport, remote, now) {
                    Ok(slot) => slot,
                    Err(Verdict::Drop(reason)) => {
                        return Verdict::Drop(self.refused(reason, key, destination, now));
                    }
                    Err(verdict) => return verdict,
                }
            }
        };

        if self.algs.any()
            && let Err(verdict) = self.alg_outbound(slot, packet, header, transport, remote, now)
        {
            return verdict;
        }
        let new = self.mappings[slot].outbound_rewrite();
        rewrite::endpoint(packet, header, End::Source, new);
        rewrite::decrement_ttl(packet);
        if !header.is_atomic() {
            self.renumber(packet, header, now);
        }
        if header.has_options() {
            options::hide(&mut packet[..header.header_len], new.address);
        }
        self.clamp_mss(slot, packet, header, transport);
        if hairpin { Verdict::Hairpin } else { Verdict::ForwardExternal }
    }

    /// Whether an ALG may make a packet from a subscriber longer.
    #[inline]
    pub fn may_lengthen(&self, transport: Transport) -> bool {
        self.algs.ftp && matches!(transport, Transport::Tcp { destination: ftp::CONTROL_PORT, .. })
    }

    /// What the ALG of a packet's destination port does with it before it is translated.
    fn alg_outbound(
        &mut self,
        slot: u32,
        packet: &mut [u8],
        header: &Header,
        transport: Transport,
        remote: RemoteEndpoint,
        now: Tick,
    ) -> Result<(), Verdict> {
        match (transport, remote.port) {
            (Transport::Tcp { segment, .. }, ftp::CONTROL_PORT) if self.algs.ftp => {
                self.ftp_outbound(slot, packet, header, &segment, now, remote.address)
            }
            (Transport::Tcp { segment, .. }, pptp::CONTROL_PORT) if self.algs.pptp => self
                .pptp_outbound(slot, packet, header, &segment, remote.address)
                .map_err(Verdict::Drop),
            (Transport::Udp { .. }, tftp::REQUEST_PORT) if self.algs.tftp => {
                self.tftp_outbound(slot, packet, header, remote.address, now);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A translated packet that is, or may be, fragmented gets an identification that is unique
    /// for its new source: those of two subscribers may be the same (RFC 6864 section 5.3.1).
    pub(super) fn renumber(&mut self, packet: &mut [u8], header: &Header, now: Tick) {
        let source = u64::from(u32_at(packet, 12));
        let between = source << 32 | u64::from(header.destination);
        let hash = self.key.hash_pair(between, u64::from(header.protocol));
        let given = self.identifications.next(hash, now);
        self.gauges.identification_repeats += u64::from(given.may_repeat);
        rewrite::identification(packet, given.identification);
    }

    /// An outbound packet of a mapping that exists: timers (RFC 4787 REQ-6) and TCP state.
    fn note_outbound(
        &mut self,
        slot: u32,
        transport: Transport,
        remote: RemoteEndpoint,
        now: Tick,
    ) -> Result<(), DropReason> {
        if let Transport::Tcp { segment, .. } = transport {
            return self.note_tcp(slot, remote, &segment, Sender::Internal, now);
        }
        let timeout_s = self.idle_timeout_s(transport, remote);
        if self.mappings[slot].has_sessions() {
            return self.note_flow(slot, remote, Sender::Internal, timeout_s, now);
        }
        self.mappings[slot].prolong(now.plus_seconds(timeout_s));
        Ok(())
    }
}
