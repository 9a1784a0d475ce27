//! Whether a subscriber may have one more: ports, sessions, sessions per second (RFC 6888
//! REQ-4 and REQ-5).
//!
//! Ports and sessions are counted exactly. The rate is a token bucket: a token is
//! [`Rate::TOKEN`] units, a tick adds as many units as there are tokens per second, so whole
//! numbers are enough and nothing drifts.

use crate::config;

/// No limit.
const NONE: u32 = u32::MAX;

/// Protocols, in the order of their numbers: TCP, UDP, ICMP.
const PROTOCOLS: usize = 3;

/// The limits of a group in the form that the packet path uses.
#[derive(Debug, Clone)]
pub struct Limits {
    ports: u32,
    ports_by_protocol: [u32; PROTOCOLS],
    sessions: u32,
    inbound_sessions: u32,
    per_destination: Option<u32>,
    per_mapping: u32,
    inbound_per_mapping: u32,
    fragments: Option<u32>,
    rate: Option<Rate>,
    blocks: u8,
    reserved: u32,
    /// Destination ports, ascending; for ICMP there is none to tell apart.
    tcp_lifelines: Vec<u16>,
    udp_lifelines: Vec<u16>,
    icmp_lifeline: bool,
}

/// Which limit was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `limits.ports`.
    Ports,
    /// Only ports for lifelines are left of `limits.ports`.
    Reserved,
    /// `limits.sessions`.
    Sessions,
    /// `limits.inbound-sessions`.
    InboundSessions,
    /// `limits.sessions-per-destination`.
    Destination,
    /// `limits.sessions-per-mapping`.
    Mapping,
    /// `limits.inbound-sessions-per-mapping`.
    InboundMapping,
    /// `limits.new-sessions-per-second`.
    Rate,
}

/// Ports that a flow leaves to the lifelines of its subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// Of all protocols together.
    pub in_all: u32,
    /// Of the flow's own protocol, which has ports of its own.
    pub of_protocol: u32,
}

impl Limits {
    /// From a validated configuration.
    pub fn new(config: &config::Limits) -> Self {
        let most = |limit: Option<u32>| limit.unwrap_or(NONE);
        let reserved = config.reserved();
        Self {
            ports: most(config.ports()),
            ports_by_protocol: config.ports_by_protocol().map(most),
            sessions: most(config.sessions()),
            inbound_sessions: most(config.inbound_sessions()),
            per_destination: config.sessions_per_destination(),
            per_mapping: config.sessions_per_mapping(),
            inbound_per_mapping: config.inbound_sessions_per_mapping(),
            fragments: config.fragments(),
            rate: config.new_sessions().map(|new| Rate { rate: new.rate(), burst: new.burst() }),
            blocks: config.blocks().unwrap_or(u8::MAX),
            reserved: u32::from(reserved.ports()),
            tcp_lifelines: reserved.tcp().to_vec(),
            udp_lifelines: reserved.udp().to_vec(),
            icmp_lifeline: reserved.icmp(),
        }
    }

    /// Blocks of one subscriber; the pool may allow fewer.
    pub fn blocks(&self) -> u8 {
        self.blocks
    }

    /// The limit of ports that holds for `protocol`: its own, or that of all together.
    pub fn ports(&self, protocol: usize) -> u32 {
        self.ports.min(self.ports_by_protocol[protocol])
    }

    /// Sessions of one subscriber.
    pub fn sessions(&self) -> u32 {
        self.sessions
    }

    /// Sessions of one subscriber with one remote address.
    pub fn per_destination(&self) -> Option<u32> {
        self.per_destination
    }

    /// Sessions of one mapping.
    pub fn per_mapping(&self) -> u32 {
        self.per_mapping
    }

    /// Datagrams in fragments from one subscriber that are under way.
    pub fn fragments(&self) -> Option<u32> {
        self.fragments
    }

    /// Ports for lifelines.
    pub fn reserved(&self) -> u32 {
        self.reserved
    }

    /// The rate of new sessions.
    pub fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// What a flow of `protocol` to `destination_port` must leave free: nothing if it is a
    /// lifeline itself, and nothing of its protocol if that has none.
    pub fn reserve(&self, protocol: usize, destination_port: u16) -> Reserve {
        let (has_any, is_one) = match protocol {
            0 => among(&self.tcp_lifelines, destination_port),
            1 => among(&self.udp_lifelines, destination_port),
            _ => (self.icmp_lifeline, self.icmp_lifeline),
        };
        let unless = |not: bool| if not { 0 } else { self.reserved };
        Reserve { in_all: unless(is_one), of_protocol: unless(is_one || !has_any) }
    }

    /// Whether a subscriber with `mappings` by protocol may have one more of `protocol`.
    ///
    /// # Errors
    /// The limit that was met.
    pub fn admit_port(
        &self,
        mappings: [u32; PROTOCOLS],
        protocol: usize,
        reserve: Reserve,
    ) -> Result<(), Refusal> {
        let bounds = [
            (mappings.iter().sum(), self.ports, reserve.in_all),
            (mappings[protocol], self.ports_by_protocol[protocol], reserve.of_protocol),
        ];
        // What is wholly used up comes before what is kept for others.
        if bounds.iter().any(|(used, most, _)| used >= most) {
            return Err(Refusal::Ports);
        }
        let kept = |(used, most, reserve): &(u32, u32, u32)| {
            *most != NONE && used.saturating_add(*reserve) >= *most
        };
        if bounds.iter().any(kept) { Err(Refusal::Reserved) } else { Ok(()) }
    }

    /// Whether a subscriber with `mappings` by protocol and `sessions` may have one more of both,
    /// if only their numbers are limited; a no may be a yes of the others here.
    #[inline]
    pub fn admit_simply(&self, mappings: [u32; PROTOCOLS], protocol: usize, sessions: u32) -> bool {
        let only_counts = self.rate.is_none() && self.per_destination.is_none();
        let none = Reserve { in_all: 0, of_protocol: 0 };
        only_counts
            && self.reserved == 0
            && self.admit_port(mappings, protocol, none).is_ok()
            && self.admit_session(sessions).is_ok()
            && self.admit_to_mapping(0, false).is_ok()
    }

    /// Whether a subscriber that has opened `sessions` may open one more.
    ///
    /// # Errors
    /// The limit that was met.
    pub fn admit_session(&self, sessions: u32) -> Result<(), Refusal> {
        if sessions >= self.sessions { Err(Refusal::Sessions) } else { Ok(()) }
    }

    /// Whether a subscriber that has opened `sessions` with a remote address may open one more.
    ///
    /// # Errors
    /// The limit that was met.
    pub fn admit_destination(&self, sessions: u32) -> Result<(), Refusal> {
        match self.per_destination {
            Some(most) if sessions >= most => Err(Refusal::Destination),
            _ => Ok(()),
        }
    }

    /// Whether a mapping with `sessions` may have one more, opened from outside or by its
    /// subscriber.
    ///
    /// # Errors
    /// The limit that was met.
    pub fn admit_to_mapping(&self, sessions: u32, from_outside: bool) -> Result<(), Refusal> {
        match from_outside {
            true if sessions >= self.inbound_per_mapping => Err(Refusal::InboundMapping),
            false if sessions >= self.per_mapping => Err(Refusal::Mapping),
            _ => Ok(()),
        }
    }

    /// Whether one more session may be opened from outside.
    ///
    /// # Errors
    /// The limit that was met.
    pub fn admit_inbound_session(&self, sessions: u32) -> Result<(), Refusal> {
        if sessions >= self.inbound_sessions { Err(Refusal::InboundSessions) } else { Ok(()) }
    }
}

/// Whether there are any, and whether `port` is one.
fn among(ports: &[u16], port: u16) -> (bool, bool) {
    (!ports.is_empty(), ports.binary_search(&port).is_ok())
}

/// The rate of a token bucket. `burst` is at least what comes in a tick, a tenth of `rate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens per second.
    rate: u32,
    /// Tokens that a full bucket holds.
    burst: u32,
}

impl Rate {
    /// Units of one token: ticks of a second.
    pub const TOKEN: u32 = 10;

    /// Tokens per second.
    pub fn per_second(self) -> u32 {
        self.rate
    }

    /// Units of a full bucket; a new subscriber has one.
    pub fn full(self) -> u32 {
        self.burst * Self::TOKEN
    }

    /// Units in a bucket that had `level` units `ticks` ago. It holds `burst` whole tokens
    /// and the part of one that has come since.
    pub fn refilled(self, level: u32, ticks: u32) -> u32 {
        let added = u64::from(ticks) * u64::from(self.rate);
        (u64::from(level) + added).min(u64::from(self.full() + Self::TOKEN - 1)) as u32
    }

    /// Whether a bucket with `level` units holds a token.
    ///
    /// # Errors
    /// The limit that was met.
    pub fn admit(level: u32) -> Result<(), Refusal> {
        if level < Self::TOKEN { Err(Refusal::Rate) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            ports: 100,
            ports_by_protocol: [60, NONE, 8],
            sessions: NONE,
            inbound_sessions: NONE,
            per_destination: None,
            per_mapping: 3,
            inbound_per_mapping: 2,
            fragments: None,
            rate: None,
            blocks: 1,
            reserved: 10,
            tcp_lifelines: vec![53, 443],
            udp_lifelines: vec![53],
            icmp_lifeline: false,
        }
    }

    #[test]
    fn a_bucket_gives_exactly_its_rate_over_any_time_and_its_burst_at_once() {
        for (rate, burst) in [(1, 1), (3, 1), (7, 20), (95, 10), (100, 100), (1_000_000, 100_000)] {
            let bucket = Rate { rate, burst };
            let mut level = bucket.full();
            let mut given = 0u64;
            for tick in 0..1000u32 {
                level = bucket.refilled(level, u32::from(tick > 0));
                while Rate::admit(level).is_ok() {
                    level -= Rate::TOKEN;
                    given += 1;
                }
            }
            let due = u64::from(burst) + u64::from(rate) * 999 / 10;
            assert_eq!(given, due, "rate {rate}, burst {burst}");
        }
    }

    #[test]
    fn a_long_pause_fills_the_bucket_and_does_not_overflow() {
        let bucket = Rate { rate: 1_000_000, burst: 1_000_000 };
        let most = bucket.full() + Rate::TOKEN - 1;
        assert_eq!(bucket.refilled(0, u32::MAX), most);
        assert_eq!(bucket.refilled(most, u32::MAX), most);
    }

    #[test]
    fn lifelines_leave_nothing_and_others_leave_the_reserve() {
        let limits = limits();
        let none = Reserve { in_all: 0, of_protocol: 0 };
        assert_eq!(limits.reserve(0, 443), none);
        assert_eq!(limits.reserve(1, 53), none);
        assert_eq!(limits.reserve(0, 80), Reserve { in_all: 10, of_protocol: 10 });
        // ICMP has identifiers of its own and no lifeline among them.
        assert_eq!(limits.reserve(2, 53), Reserve { in_all: 10, of_protocol: 0 });
    }

    #[test]
    fn the_last_sessions_of_a_mapping_are_its_subscribers() {
        let admit = |sessions| [false, true].map(|from| limits().admit_to_mapping(sessions, from));
        assert_eq!(admit(1), [Ok(()), Ok(())]);
        assert_eq!(admit(2), [Ok(()), Err(Refusal::InboundMapping)]);
        assert_eq!(admit(3), [Err(Refusal::Mapping), Err(Refusal::InboundMapping)]);
    }

    #[test]
    fn ports_are_limited_in_all_and_by_protocol_and_the_reserve_comes_before_the_end() {
        let limits = limits();
        let admit = |mappings, protocol, port| {
            limits.admit_port(mappings, protocol, limits.reserve(protocol, port))
        };
        assert_eq!(admit([49, 0, 0], 0, 80), Ok(()));
        assert_eq!(admit([50, 0, 0], 0, 80), Err(Refusal::Reserved));
        assert_eq!(admit([59, 0, 0], 0, 443), Ok(()));
        assert_eq!(admit([60, 0, 0], 0, 443), Err(Refusal::Ports));
        assert_eq!(admit([0, 89, 0], 1, 80), Ok(()));
        assert_eq!(admit([0, 90, 0], 1, 80), Err(Refusal::Reserved));
        assert_eq!(admit([0, 99, 0], 1, 53), Ok(()));
        assert_eq!(admit([0, 100, 0], 1, 53), Err(Refusal::Ports));
        assert_eq!(admit([0, 82, 7], 2, 0), Ok(()));
        assert_eq!(admit([0, 83, 7], 2, 0), Err(Refusal::Reserved));
        assert_eq!(admit([0, 0, 8], 2, 0), Err(Refusal::Ports));
    }
}
