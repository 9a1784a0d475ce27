//! Requests of TFTP: the answer of the server comes from a port of its own choice (RFC 1350
//! section 4), which address and port dependent filtering would refuse.

use crate::endpoint::RemoteAddress;
use crate::packet::ipv4::Header;
use crate::policy::alg::tftp;
use crate::policy::filtering::Filtering;
use crate::shard::Shard;
use crate::time::Tick;

/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;

impl Shard {
    /// Notes a packet of a subscriber to port 69: a request lets that server's answer in, once.
    /// Where there is no room for that, it is as without ALG.
    #[cold]
    pub(super) fn tftp_outbound(
        &mut self,
        mapping: u32,
        packet: &[u8],
        header: &Header,
        server: RemoteAddress,
        now: Tick,
    ) {
        if self.mappings[mapping].filtering() != Filtering::AddressAndPortDependent
            || header.is_fragment()
        {
            return;
        }
        let payload = packet.get(header.header_len + UDP_HEADER..header.total_len);
        if tftp::is_request(payload.unwrap_or_default())
            && self.expect(mapping, server, tftp::ANSWER_S, now).is_ok()
        {
            self.gauges.tftp_requests += 1;
        }
    }
}
