//! Sessions as the specification sees them: RFC requirements, section 6.1, with sequence
//! numbers, and who may use a mapping from outside.

use super::nat::{Rules, Ticks, after};
use super::wire::{Body, Packet};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Who may use a mapping from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    Anybody,
    Address,
    AddressAndPort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Opening,
    /// A SYN from both; the outside has acknowledged nothing.
    Answered,
    Established,
    /// FIN from the side that opened, or from the other.
    OneFin {
        opener: bool,
    },
    Closing,
    Reset,
}

/// What a TCP packet says.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub length: u32,
    /// Window scale option.
    pub shift: u32,
}

impl Segment {
    pub fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Behind its last byte; FIN is one.
    fn behind(&self) -> u32 {
        self.sequence.wrapping_add(self.length).wrapping_add(u32::from(self.has(FIN)))
    }
}

impl Packet {
    /// What it says, if it is of TCP.
    pub fn segment(&self) -> Option<Segment> {
        let Body::Tcp { flags, sequence, acknowledgement, ref options, .. } = self.body else {
            return None;
        };
        // The events put the window scale option first, if anywhere.
        let shift = match options[..] {
            [3, 3, shift, ..] if flags & SYN != 0 => shift.into(),
            _ => 0,
        };
        let length = self.payload.len() as u32;
        Some(Segment { flags, sequence, acknowledgement, length, shift })
    }
}

/// What one side has sent.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    until: u32,
    acknowledged: u32,
    shift: u32,
}

impl Sent {
    fn by_syn(segment: &Segment) -> Self {
        let until = segment.sequence.wrapping_add(segment.length).wrapping_add(1);
        Self { until, acknowledged: segment.sequence, shift: segment.shift.min(14) }
    }

    fn window(&self) -> i64 {
        65_535 << self.shift
    }
}

fn ahead(a: u32, of: u32) -> i64 {
    i64::from(a.wrapping_sub(of) as i32)
}

#[derive(Debug, Clone, Copy)]
pub struct Session {
    pub state: State,
    pub opened_inside: bool,
    /// Keeps its mapping alive.
    pub holds: bool,
    /// Lets its remote address open sessions.
    pub permits: bool,
    pub deadline: Ticks,
    inside: Sent,
    outside: Sent,
}

impl Session {
    /// A flow of UDP or ICMP.
    pub fn flow(deadline: Ticks) -> Self {
        let nothing = Sent::default();
        Self {
            state: State::Established,
            opened_inside: true,
            holds: true,
            permits: false,
            deadline,
            inside: nothing,
            outside: nothing,
        }
    }

    /// By a SYN.
    pub fn opened(segment: &Segment, inside: bool, deadline: Ticks) -> Self {
        let mut session = Self::flow(deadline);
        session.state = State::Opening;
        session.opened_inside = inside;
        session.holds = inside;
        *session.of(inside) = Sent::by_syn(segment);
        session
    }

    /// Number behind what the subscriber has sent.
    pub fn next_inside(&self) -> u32 {
        self.inside.until
    }

    /// Number behind what the other side has sent.
    pub fn next_outside(&self) -> u32 {
        self.outside.until
    }

    fn of(&mut self, inside: bool) -> &mut Sent {
        if inside { &mut self.inside } else { &mut self.outside }
    }

    /// Moves by a segment; says whether it belongs to the connection.
    pub fn note(&mut self, segment: &Segment, inside: bool, now: Ticks, rules: &Rules) -> bool {
        let (mine, other) = (*self.of(inside), *self.of(!inside));
        let opener = self.opened_inside == inside;
        let bare = segment.opens();
        let (syn, fin, rst, ack) =
            (segment.has(SYN), segment.has(FIN), segment.has(RST), segment.has(ACK));
        // A RST is where the receiver expects a byte, or what is under way.
        let good_reset = ahead(segment.sequence, mine.acknowledged) >= 0
            && ahead(mine.until, segment.sequence) >= 0;
        // An acknowledgement of something sent and not acknowledged before.
        let proof = ahead(segment.acknowledgement, other.acknowledged) > 0
            && ahead(other.until, segment.acknowledgement) >= 0;
        let fits = ack
            && ahead(segment.behind(), mine.acknowledged) >= -other.window()
            && ahead(segment.sequence, mine.acknowledged) <= other.window()
            && ahead(segment.acknowledgement, other.until) <= 0
            && ahead(segment.acknowledgement, other.acknowledged) >= -mine.window();
        let restart = |session: &mut Self, state| {
            session.state = state;
            session.deadline = after(now, rules.tcp_s(state));
        };
        match self.state {
            State::Closing | State::Reset if bare => {
                let (held, permits, deadline) = (self.holds, self.permits, self.deadline);
                let fresh = after(now, rules.opening_s);
                let deadline = if inside || !held { fresh } else { deadline };
                *self = Self::opened(segment, inside, deadline);
                self.holds |= held;
                self.permits = permits;
            }
            State::Closing => {}
            State::Reset if rst || syn => {}
            State::Opening if !syn || rst => {}
            State::Opening if !ack && opener => {
                *self.of(inside) = Sent::by_syn(segment);
                if inside || !self.holds {
                    restart(self, State::Opening);
                }
            }
            State::Opening if !ack => {
                *self.of(inside) = Sent::by_syn(segment);
                restart(self, State::Answered);
            }
            State::Opening if opener => {}
            State::Opening => {
                if !proof {
                    return false;
                }
                *self.of(inside) = Sent::by_syn(segment);
                self.of(!inside).acknowledged = segment.acknowledgement;
                restart(self, if inside { State::Answered } else { State::Established });
            }
            State::Answered if rst => {
                if !good_reset {
                    return false;
                }
                restart(self, State::Reset);
            }
            State::Answered if bare => {
                *self.of(inside) = Sent::by_syn(segment);
                if inside {
                    restart(self, State::Answered);
                }
            }
            State::Answered if !ack => {}
            State::Answered if inside => {
                if !syn && fits {
                    // Without counting a FIN: nothing has begun that could end.
                    self.advance(&Segment { flags: ACK, ..*segment }, inside);
                }
            }
            State::Answered => {
                if !proof {
                    return false;
                }
                self.holds = true;
                if syn {
                    *self.of(inside) = Sent::by_syn(segment);
                    self.of(!inside).acknowledged = segment.acknowledgement;
                    restart(self, State::Established);
                } else {
                    restart(self, State::Established);
                    if !self.note(segment, inside, now, rules) {
                        restart(self, State::Established);
                    }
                }
            }
            _ if rst => {
                if !good_reset {
                    return false;
                }
                restart(self, State::Reset);
            }
            _ if syn => return ack,
            state => {
                if fits {
                    self.advance(segment, inside);
                } else if inside && ack {
                    // The subscriber is believed.
                    self.inside =
                        Sent { until: segment.behind(), acknowledged: segment.sequence, ..mine };
                    self.outside.until = segment.acknowledgement;
                    self.outside.acknowledged = segment.acknowledgement;
                } else if !inside {
                    return false;
                }
                let next = match state {
                    State::Reset => State::Established,
                    State::Established if fin => State::OneFin { opener },
                    State::OneFin { opener: first } if fin && first != opener => State::Closing,
                    same => same,
                };
                restart(self, next);
            }
        }
        true
    }

    fn advance(&mut self, segment: &Segment, inside: bool) {
        let mine = self.of(inside);
        if ahead(segment.behind(), mine.until) > 0 {
            mine.until = segment.behind();
        }
        let other = self.of(!inside);
        if ahead(segment.acknowledgement, other.acknowledged) > 0 {
            other.acknowledged = segment.acknowledgement;
        }
    }
}

/// As the configuration has it.
pub fn word(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::Anybody => "endpoint-independent",
        Filtering::Address => "address-dependent",
        Filtering::AddressAndPort => "address-and-port-dependent",
    }
}
