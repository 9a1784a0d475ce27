//! The segment size that a SYN offers, clamped as the mapping's pool says, either way.

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
        if let Transport::Tcp { segment, .. } = transport
            && segment.flags & tcp::flags::SYN != 0
            && self.clamps_mss
        {
            self.clamp_mss_of_pool(slot, packet, header);
        }
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
