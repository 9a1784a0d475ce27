//! `subscribers[].limits`: what one subscriber of a group may take. `None` is no limit.

/// Limits of each subscriber of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub(crate) ports: Option<u32>,
    pub(crate) ports_by_protocol: [Option<u32>; 3],
    pub(crate) sessions: Option<u32>,
    pub(crate) inbound_sessions: Option<u32>,
    pub(crate) sessions_per_destination: Option<u32>,
    pub(crate) sessions_per_mapping: u32,
    pub(crate) inbound_sessions_per_mapping: u32,
    pub(crate) fragments: Option<u32>,
    pub(crate) new_sessions: Option<NewSessions>,
    pub(crate) blocks: Option<u8>,
    pub(crate) reserved: Reserved,
}

/// `limits.new-sessions-per-second`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSessions {
    pub(crate) rate: u32,
    pub(crate) burst: u32,
}

/// `limits.reserved`: the last free ports of a subscriber, kept for its lifelines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reserved {
    pub(crate) ports: u16,
    pub(crate) tcp: Vec<u16>,
    pub(crate) udp: Vec<u16>,
    pub(crate) icmp: bool,
}

/// What holds where a group says nothing.
impl Default for Limits {
    fn default() -> Self {
        Self {
            ports: None,
            ports_by_protocol: [None; 3],
            sessions: None,
            inbound_sessions: None,
            sessions_per_destination: None,
            sessions_per_mapping: 2048,
            inbound_sessions_per_mapping: 256,
            fragments: None,
            new_sessions: None,
            blocks: None,
            reserved: Reserved::default(),
        }
    }
}

impl Limits {
    /// Mappings of all protocols together, each with its external port.
    pub fn ports(&self) -> Option<u32> {
        self.ports
    }

    /// Mappings of TCP, UDP and ICMP.
    pub fn ports_by_protocol(&self) -> [Option<u32>; 3] {
        self.ports_by_protocol
    }

    /// TCP sessions that the subscriber opened, and UDP and ICMP mappings.
    pub fn sessions(&self) -> Option<u32> {
        self.sessions
    }

    /// TCP sessions that the other side opened.
    pub fn inbound_sessions(&self) -> Option<u32> {
        self.inbound_sessions
    }

    /// Of what [`Limits::sessions`] counts, with one remote address.
    pub fn sessions_per_destination(&self) -> Option<u32> {
        self.sessions_per_destination
    }

    /// Sessions of one mapping, whoever opened them.
    pub fn sessions_per_mapping(&self) -> u32 {
        self.sessions_per_mapping
    }

    /// Sessions of one mapping with which the other side opens no more; at most
    /// [`Limits::sessions_per_mapping`].
    pub fn inbound_sessions_per_mapping(&self) -> u32 {
        self.inbound_sessions_per_mapping
    }

    /// Datagrams in fragments from the subscriber that are under way at once.
    pub fn fragments(&self) -> Option<u32> {
        self.fragments
    }

    /// How fast the subscriber may open sessions.
    pub fn new_sessions(&self) -> Option<NewSessions> {
        self.new_sessions
    }

    /// Port blocks, at most the pool's `max-blocks`.
    pub fn blocks(&self) -> Option<u8> {
        self.blocks
    }

    /// Ports for lifelines.
    pub fn reserved(&self) -> &Reserved {
        &self.reserved
    }
}

impl NewSessions {
    /// Sessions per second over a long time.
    pub fn rate(self) -> u32 {
        self.rate
    }

    /// Sessions at once after a pause.
    pub fn burst(self) -> u32 {
        self.burst
    }
}

impl Reserved {
    /// How many ports; 0 is none.
    pub fn ports(&self) -> u16 {
        self.ports
    }

    /// Destination ports of TCP lifelines, ascending.
    pub fn tcp(&self) -> &[u16] {
        &self.tcp
    }

    /// Destination ports of UDP lifelines, ascending.
    pub fn udp(&self) -> &[u16] {
        &self.udp
    }

    /// Whether ping is a lifeline.
    pub fn icmp(&self) -> bool {
        self.icmp
    }
}
