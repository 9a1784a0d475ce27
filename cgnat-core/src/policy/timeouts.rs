//! Which idle timeout applies (RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2, RFC 7857
//! section 2.1).

use crate::config;
use crate::policy::tcp_state::State;

/// Idle timeouts in seconds, in the form that the packet path uses.
#[derive(Debug, Clone)]
pub struct Timeouts {
    established: u32,
    opening: u32,
    closing: u32,
    reset: u32,
    udp: u32,
    /// Sorted by port.
    udp_by_port: Vec<(u16, u32)>,
    icmp: u32,
}

impl Timeouts {
    /// From a validated configuration.
    pub fn new(config: &config::Timeouts) -> Self {
        Self {
            established: config.tcp_established_s(),
            opening: config.tcp_opening_s(),
            closing: config.tcp_closing_s(),
            reset: config.tcp_reset_s(),
            udp: config.udp_s(),
            udp_by_port: config.udp_by_port_s().to_vec(),
            icmp: config.icmp_s(),
        }
    }

    /// Of a TCP session in `state`. One FIN is still established (RFC 5382 section 5).
    #[inline]
    pub fn tcp_s(&self, state: State) -> u32 {
        match state {
            State::None | State::Opening | State::Answered => self.opening,
            State::Established | State::InitiatorFin | State::ResponderFin => self.established,
            State::Closing => self.closing,
            State::Reset => self.reset,
        }
    }

    /// Of a UDP packet to `destination_port`.
    #[inline]
    pub fn udp_s(&self, destination_port: u16) -> u32 {
        if self.udp_by_port.is_empty() { self.udp } else { self.udp_s_by_port(destination_port) }
    }

    fn udp_s_by_port(&self, destination_port: u16) -> u32 {
        match self.udp_by_port.binary_search_by_key(&destination_port, |(port, _)| *port) {
            Ok(place) => self.udp_by_port[place].1,
            Err(_) => self.udp,
        }
    }

    /// Of an ICMP query.
    pub fn icmp_s(&self) -> u32 {
        self.icmp
    }
}
