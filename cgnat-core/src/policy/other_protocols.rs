//! Which protocols without ports are carried by their addresses alone (decision 15).

use crate::config;

/// What `nat44.other-protocols` says, in the form that the packet path uses.
#[derive(Debug, Clone)]
pub struct OtherProtocols {
    /// A bit for each protocol number.
    carried: [u64; 4],
    timeout_s: u32,
}

impl OtherProtocols {
    /// From a validated configuration.
    pub fn new(config: &config::OtherProtocols, timeouts: &config::Timeouts) -> Self {
        let mut carried = [0; 4];
        for protocol in (0..=u8::MAX).filter(|protocol| config.carries(*protocol)) {
            carried[usize::from(protocol / 64)] |= 1 << (protocol % 64);
        }
        Self { carried, timeout_s: timeouts.other_s() }
    }

    /// Whether packets of an IP protocol other than TCP, UDP and ICMP are translated.
    pub fn carries(&self, protocol: u8) -> bool {
        self.carried[usize::from(protocol / 64)] >> (protocol % 64) & 1 == 1
    }

    /// Idle timeout of an association, seconds.
    pub fn timeout_s(&self) -> u32 {
        self.timeout_s
    }
}
