//! `nat44.other-protocols`, validated.

use crate::endpoint::IpProtocol;

/// Protocols other than TCP, UDP and ICMP that are carried by their addresses alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OtherProtocols {
    /// Those that the file names: number, and whether it is carried. Sorted, each once.
    pub(crate) named: Vec<(u8, bool)>,
    /// Whether the others are.
    pub(crate) rest: bool,
}

impl OtherProtocols {
    /// Whether an IP protocol is carried. Those that are translated by port, and AH, which
    /// cannot be translated, are not.
    pub fn carries(&self, protocol: u8) -> bool {
        if !IpProtocol(protocol).is_portless() {
            return false;
        }
        match self.named.binary_search_by_key(&protocol, |(number, _)| *number) {
            Ok(place) => self.named[place].1,
            Err(_) => self.rest,
        }
    }

    /// Whether any is carried.
    pub fn any(&self) -> bool {
        self.rest || self.named.iter().any(|(protocol, _)| self.carries(*protocol))
    }
}
