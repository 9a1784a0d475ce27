//! The segment size that a SYN offers, clamped as the mapping's pool says, either way.

use crate::endpoint::ExternalAddress;
use crate::packet::ipv4::{Header, Transport};
use crate::packet::{mss, tcp};
use crate::shard::Shard;

impl Shard {
    /// Clamps what a packet of the mapping in `slot` offers, if it is a SYN or SYN-ACK and the
    /// mapping's pool has a clamp. A hairpinned one meets both pools.
    #[inline]
    pub(super) fn clamp_mss(
        &self,
        slot: u32,
        packet: &mut [u8],
        header: &Header,
        transport: Transport,
    ) {
        if self.clamps(transport) {
            self.clamp_mss_of_pool(slot, packet, header);
        }
    }

    /// The same through a static mapping of this external address: as the address's pool
    /// says, or the box where it has none.
    pub(super) fn clamp_mss_at(
        &self,
        external: u32,
        packet: &mut [u8],
        header: &Header,
        transport: Transport,
    ) {
        if !self.clamps(transport) {
            return;
        }
        let most = match self.space.pool_of(ExternalAddress(external)) {
            Some(pool) => self.space.pools()[usize::from(pool)].mss_clamp,
            None => self.mss_clamp,
        };
        if let Some(most) = most {
            mss::clamp(packet, header, most);
        }
    }

    /// Whether a packet is a SYN or SYN-ACK, and any pool has a clamp.
    #[inline]
    fn clamps(&self, transport: Transport) -> bool {
        matches!(transport, Transport::Tcp { segment, .. } if segment.has(tcp::flags::SYN))
            && self.clamps_mss
    }

    #[cold]
    fn clamp_mss_of_pool(&self, slot: u32, packet: &mut [u8], header: &Header) {
        let block = self.mappings[slot].block;
        let Some(lease) = &self.leases[block as usize] else {
            return;
        };
        if let Some(most) = self.space.pools()[usize::from(lease.pool())].mss_clamp {
            mss::clamp(packet, header, most);
        }
    }
}
