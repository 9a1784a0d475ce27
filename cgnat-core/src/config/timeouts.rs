//! `timeouts`: how long what is not used stays.

/// Idle timeouts, all in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    pub(crate) tcp_established_s: u32,
    pub(crate) tcp_opening_s: u32,
    pub(crate) tcp_closing_s: u32,
    pub(crate) tcp_reset_s: u32,
    pub(crate) udp_s: u32,
    pub(crate) udp_by_port_s: Vec<(u16, u32)>,
    pub(crate) icmp_s: u32,
    pub(crate) other_s: u32,
}

impl Timeouts {
    /// TCP established idle, seconds (RFC 5382 REQ-5).
    pub fn tcp_established_s(&self) -> u32 {
        self.tcp_established_s
    }

    /// TCP partially open, seconds (RFC 7857 section 2.1).
    pub fn tcp_opening_s(&self) -> u32 {
        self.tcp_opening_s
    }

    /// TCP after FIN from both sides, seconds.
    pub fn tcp_closing_s(&self) -> u32 {
        self.tcp_closing_s
    }

    /// TCP after a RST, seconds (RFC 7857 section 2.2).
    pub fn tcp_reset_s(&self) -> u32 {
        self.tcp_reset_s
    }

    /// UDP idle, seconds (RFC 4787 REQ-5).
    pub fn udp_s(&self) -> u32 {
        self.udp_s
    }

    /// UDP idle by destination port (RFC 4787 REQ-5a), sorted by port.
    pub fn udp_by_port_s(&self) -> &[(u16, u32)] {
        &self.udp_by_port_s
    }

    /// ICMP query idle, seconds (RFC 5508 REQ-2).
    pub fn icmp_s(&self) -> u32 {
        self.icmp_s
    }

    /// Of associations, which protocols without ports have.
    pub fn other_s(&self) -> u32 {
        self.other_s
    }
}
