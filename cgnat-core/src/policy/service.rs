//! What a rule about flows is for: protocol and ports at the remote end. Rules of `nat44.bypass`
//! and of `subscribers[].destinations` ask this besides addresses.

use crate::endpoint::IpProtocol;

/// The flows of a rule, whatever their addresses.
#[derive(Debug, Clone)]
pub struct Service {
    protocol: Option<IpProtocol>,
    /// First and last. Empty: any, and what shows no port.
    ports: Vec<(u16, u16)>,
}

impl Service {
    /// Of one protocol or of any; of these ports or, if there are none, of any.
    pub fn new(protocol: Option<IpProtocol>, ports: &[(u16, u16)]) -> Self {
        Self { protocol, ports: ports.to_vec() }
    }

    /// Whether a packet of `protocol` is meant. `port` is that of its remote end; none if it
    /// shows none: it is neither TCP nor UDP, or a fragment.
    #[inline]
    pub fn is_for(&self, protocol: IpProtocol, port: Option<u16>) -> bool {
        let holds = |port| self.ports.iter().any(|(first, last)| (*first..=*last).contains(&port));
        self.protocol.is_none_or(|of| of == protocol)
            && (self.ports.is_empty() || port.is_some_and(holds))
    }
}
