//! `port-overloading`: towards which destination ports external ports are shared.

use super::Config;

/// Named destination ports of TCP and UDP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overloading {
    /// Ascending.
    pub(super) tcp: Vec<u16>,
    /// Ascending.
    pub(super) udp: Vec<u16>,
}

impl Overloading {
    /// Those of all pools together; `None` if there are none.
    pub fn of_all(config: &Config) -> Option<Self> {
        let mut all = Self::default();
        for pool in config.pools() {
            all.tcp.extend(&pool.overloading.tcp);
            all.udp.extend(&pool.overloading.udp);
        }
        for ports in [&mut all.tcp, &mut all.udp] {
            ports.sort_unstable();
            ports.dedup();
        }
        (!all.is_empty()).then_some(all)
    }

    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty()
    }

    /// Whether a destination port is named; protocols by number: TCP, UDP, ICMP.
    #[inline]
    pub fn has(&self, protocol: usize, destination_port: u16) -> bool {
        let ports = match protocol {
            0 => &self.tcp,
            1 => &self.udp,
            _ => return false,
        };
        ports.binary_search(&destination_port).is_ok()
    }
}
