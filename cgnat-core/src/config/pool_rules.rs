//! How the addresses and ports of a pool are chosen and how ports rest.

/// `address-selection`: which address a new subscriber is paired with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressSelection {
    /// A random one, rather one with more free blocks.
    #[default]
    Random,
    /// Each in turn.
    RoundRobin,
    /// One with the fewest subscribers.
    LeastUsed,
    /// The first that has room.
    Fill,
    /// The one whose number stands in these bits of the internal address.
    SubscriberBits(u32),
}

/// Rules of one pool; the default is what the RFCs recommend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRules {
    pub(super) keeps_port: bool,
    pub(super) keeps_parity: bool,
    pub(super) keeps_range: bool,
    /// Sorted, disjoint; first and last port.
    pub(super) exclude_ports: Vec<(u16, u16)>,
    pub(super) max_held: Option<u16>,
    pub(super) holds_closed_tcp: bool,
    pub(super) address_selection: AddressSelection,
    pub(super) max_subscribers: Option<u32>,
}

impl Default for PoolRules {
    fn default() -> Self {
        Self {
            keeps_port: false,
            keeps_parity: false,
            keeps_range: false,
            exclude_ports: Vec::new(),
            max_held: None,
            holds_closed_tcp: true,
            address_selection: AddressSelection::Random,
            max_subscribers: None,
        }
    }
}

impl PoolRules {
    /// `port-choice: preserve`: the internal port where it can be had, else a random one
    /// (RFC 7857 section 9).
    pub fn keeps_port(&self) -> bool {
        self.keeps_port
    }

    /// Even ports for even ones, odd for odd (RFC 4787 REQ-4).
    pub fn keeps_parity(&self) -> bool {
        self.keeps_parity
    }

    /// Ports below 1024 for those below, ports above for those above (RFC 4787 REQ-3a).
    pub fn keeps_range(&self) -> bool {
        self.keeps_range
    }

    /// Ports that are never given: first and last of each range.
    pub fn exclude_ports(&self) -> &[(u16, u16)] {
        &self.exclude_ports
    }

    /// Ports of one subscriber and protocol that may rest (RFC 6888 REQ-8); `None` is all.
    pub fn max_held(&self) -> Option<u16> {
        self.max_held
    }

    /// Whether the port of TCP sessions that both ends closed rests too (RFC 6888 REQ-8a).
    pub fn holds_closed_tcp(&self) -> bool {
        self.holds_closed_tcp
    }

    /// Which address a new subscriber is paired with.
    pub fn address_selection(&self) -> AddressSelection {
        self.address_selection
    }

    /// Subscribers that may be paired with one address; `None` is any number.
    pub fn max_subscribers_per_address(&self) -> Option<u32> {
        self.max_subscribers
    }
}
