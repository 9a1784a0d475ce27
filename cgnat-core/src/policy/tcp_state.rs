//! The TCP state of a session and which timer runs in it (RFC 7857 section 2, RFC 6146
//! section 3.5.2.2, RFC 5382 section 5). A segment that does not belong to the connection by
//! its sequence numbers changes nothing (see [`super::tcp_window`]).
//!
//! Readings chosen where the texts leave room:
//! - a RST moves every state but `Opening` to `Reset` (RFC 7857 section 2.2);
//! - a SYN without ACK in `Closing` or `Reset` opens the session anew: the ports were reused
//!   for a new connection, which must not be cut by the old one's timer (RFC 5382 REQ-2);
//! - established is a session only once the external side has acknowledged the subscriber's
//!   SYN (RFC 5382 section 5: both ends have sent an ACK). A forged SYN from outside, alone or
//!   answered by the subscriber, has only the opening timer;
//! - a session that the external side opened keeps its mapping alive from then on and not
//!   before: nobody's SYNs keep somebody's port (RFC 7857 section 7).

use super::tcp_window::{Sender, Window};
use crate::packet::tcp::Segment;
use crate::packet::tcp::flags::{ACK, FIN, RST, SYN};

/// TCP state of a session. The names of RFC 6146 are in parentheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// No session.
    None = 0,
    /// A SYN from one side (INIT).
    Opening,
    /// A SYN from both; the external side has acknowledged nothing yet (INIT).
    Answered,
    /// The external side has acknowledged the subscriber's SYN (ESTABLISHED).
    Established,
    /// The initiator has sent FIN (C FIN RCV).
    InitiatorFin,
    /// The responder has sent FIN (S FIN RCV).
    ResponderFin,
    /// Both have (C+S FIN RCV).
    Closing,
    /// A RST was seen (TRANS).
    Reset,
}

impl State {
    const ALL: [State; 8] = [
        State::None,
        State::Opening,
        State::Answered,
        State::Established,
        State::InitiatorFin,
        State::ResponderFin,
        State::Closing,
        State::Reset,
    ];

    /// The state stored in a record as the low three bits of `value`.
    #[inline]
    pub fn from_record(value: u8) -> State {
        Self::ALL[usize::from(value & 7)]
    }
}

/// A TCP session without its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Where it is.
    pub state: State,
    /// Which side sent the first SYN.
    pub initiator: Sender,
    /// It keeps its mapping alive.
    pub holds: bool,
    /// Sequence numbers.
    pub window: Window,
}

/// What a segment did to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The idle timer of the state that it is in now starts anew.
    Restart,
    /// The timer runs on.
    Stay,
    /// The segment does not belong to the connection; nothing has changed.
    OutOfWindow,
}

/// Whether a packet with `flags` opens a session where there is none.
pub fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// Takes over the numbers of a segment with neither SYN, RST nor FIN that belongs to a session
/// that is established in `state`: all that [`Connection::step`] does with it, which says
/// [`Step::Restart`]. False, and nothing changed, if segment or session are any other.
#[inline]
pub fn goes_on(state: State, window: &mut Window, segment: &Segment, from: Sender) -> bool {
    let is_established =
        matches!(state, State::Established | State::InitiatorFin | State::ResponderFin);
    let goes_on = is_established
        && segment.flags & (ACK | SYN | RST | FIN) == ACK
        && window.admits(segment, from, 0);
    if goes_on {
        window.advance(segment, from, 0);
    }
    goes_on
}

impl Connection {
    /// The session that a bare SYN of `from` opens.
    pub fn open(segment: &Segment, from: Sender) -> Self {
        let mut window = Window::default();
        window.synchronise(segment, from);
        let holds = from == Sender::Internal;
        Self { state: State::Opening, initiator: from, holds, window }
    }

    /// Moves by a segment of `from`.
    pub fn step(&mut self, segment: &Segment, from: Sender) -> Step {
        let bare_syn = opens(segment.flags);
        match self.state {
            State::None => Step::Stay,
            State::Closing | State::Reset if bare_syn => self.reopen(segment, from),
            State::Opening => self.opening(segment, from),
            State::Answered => self.answered(segment, from),
            State::Closing => Step::Stay,
            State::Reset if segment.has(RST) || segment.has(SYN) => Step::Stay,
            State::Reset => {
                let belongs = self.belongs(segment, from);
                self.move_if(belongs, State::Established)
            }
            State::Established | State::InitiatorFin | State::ResponderFin => {
                self.established(segment, from)
            }
        }
    }

    fn opening(&mut self, segment: &Segment, from: Sender) -> Step {
        if !segment.has(SYN) || segment.has(RST) {
            return Step::Stay;
        }
        let responds = from != self.initiator;
        match (segment.has(ACK), responds) {
            (false, false) => {
                self.window.synchronise(segment, from);
                self.restart_by(from)
            }
            (false, true) => {
                self.window.synchronise(segment, from);
                self.state = State::Answered;
                Step::Restart
            }
            (true, false) => Step::Stay,
            (true, true) => {
                if !self.window.acknowledges_more(segment, from) {
                    return Step::OutOfWindow;
                }
                self.window.synchronise(segment, from);
                self.window.acked[self.initiator as usize] = segment.acknowledgement;
                self.state =
                    if from == Sender::External { State::Established } else { State::Answered };
                Step::Restart
            }
        }
    }

    fn answered(&mut self, segment: &Segment, from: Sender) -> Step {
        if segment.has(RST) {
            let belongs = self.window.admits_reset(segment, from);
            return self.move_if(belongs, State::Reset);
        }
        if opens(segment.flags) {
            self.window.synchronise(segment, from);
            return if from == Sender::Internal { Step::Restart } else { Step::Stay };
        }
        if !segment.has(ACK) {
            return Step::Stay;
        }
        if from == Sender::Internal {
            if !segment.has(SYN) && self.window.admits(segment, from, 0) {
                self.window.advance(segment, from, 0);
            }
            return Step::Stay;
        }
        if !self.window.acknowledges_more(segment, from) {
            return Step::OutOfWindow;
        }
        if segment.has(SYN) {
            self.window.synchronise(segment, from);
        }
        self.state = State::Established;
        self.holds = true;
        if segment.has(SYN) {
            self.window.acked[Sender::Internal as usize] = segment.acknowledgement;
            return Step::Restart;
        }
        self.established(segment, from);
        Step::Restart
    }

    fn established(&mut self, segment: &Segment, from: Sender) -> Step {
        if segment.has(RST) {
            let belongs = self.window.admits_reset(segment, from);
            return self.move_if(belongs, State::Reset);
        }
        if segment.has(SYN) {
            // Repeated by a peer that missed our side's ACK, or forged (RFC 5961 section 4).
            return if segment.has(ACK) { Step::Stay } else { Step::OutOfWindow };
        }
        let belongs = self.belongs(segment, from);
        let by_initiator = from == self.initiator;
        let next = match self.state {
            state if !segment.has(FIN) => state,
            State::InitiatorFin if !by_initiator => State::Closing,
            State::ResponderFin if by_initiator => State::Closing,
            State::Established if by_initiator => State::InitiatorFin,
            State::Established => State::ResponderFin,
            state => state,
        };
        self.move_if(belongs, next)
    }

    /// Whether a segment with neither SYN nor RST belongs to the connection; if so its
    /// numbers are taken over. The subscriber is always believed.
    fn belongs(&mut self, segment: &Segment, from: Sender) -> bool {
        let ends = u32::from(segment.has(FIN));
        if segment.has(ACK) && self.window.admits(segment, from, ends) {
            self.window.advance(segment, from, ends);
            return true;
        }
        if segment.has(ACK) && from == Sender::Internal {
            self.window.resynchronise(segment, from, ends);
        }
        from == Sender::Internal
    }

    fn move_if(&mut self, belongs: bool, next: State) -> Step {
        if !belongs {
            return Step::OutOfWindow;
        }
        self.state = next;
        Step::Restart
    }

    fn reopen(&mut self, segment: &Segment, from: Sender) -> Step {
        let held = self.holds;
        *self = Self::open(segment, from);
        self.holds |= held;
        self.restart_by(from)
    }

    /// A SYN of the external side does not prolong what keeps a mapping alive.
    fn restart_by(&self, from: Sender) -> Step {
        if from == Sender::External && self.holds { Step::Stay } else { Step::Restart }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Sender::{External, Internal};

    /// First sequence numbers, near the wrap.
    const FIRST: [u32; 2] = [0xffff_fff0, 0x7fff_fffe];

    /// A segment as a host that has seen everything would send it: SYN at the first number,
    /// everything else right behind it, all of the other's SYN acknowledged.
    fn segment(flags: u8, from: Sender) -> Segment {
        let syn = flags & SYN != 0;
        Segment {
            flags,
            sequence: FIRST[from as usize].wrapping_add(u32::from(!syn)),
            acknowledgement: FIRST[from.other() as usize].wrapping_add(1),
            length: 0,
            scale: 0,
        }
    }

    fn opened(by: Sender) -> Connection {
        Connection::open(&segment(SYN, by), by)
    }

    /// A packet sequence: (flags, from) with the states after.
    fn walk(connection: &mut Connection, packets: &[(u8, Sender, State)]) {
        for (flags, from, expected) in packets {
            connection.step(&segment(*flags, *from), *from);
            assert_eq!(connection.state, *expected, "after {flags:#x} in {packets:?}");
        }
    }

    #[test]
    fn what_goes_on_is_moved_as_by_a_step_and_nothing_else_is_touched() {
        let mut went = 0;
        for (state, flags) in State::ALL.into_iter().flat_map(|s| (0..64u8).map(move |f| (s, f))) {
            for (from, by) in [(Internal, 0), (Internal, 70_000), (External, 0), (External, 70_000)]
            {
                let before = Connection { state, ..established() };
                let mut segment = segment(flags, from);
                segment.sequence = segment.sequence.wrapping_add(by);
                segment.length = 100;
                let (mut window, mut stepped) = (before.window, before);
                let step = stepped.step(&segment, from);
                if goes_on(state, &mut window, &segment, from) {
                    assert_eq!((stepped, step), (Connection { window, ..before }, Step::Restart));
                    went += 1;
                } else {
                    assert_eq!(window, before.window);
                }
            }
        }
        // Three states, with ACK and any of URG, PSH; within the window from either side.
        assert_eq!(went, 3 * 4 * 2);
    }

    fn established() -> Connection {
        let mut connection = opened(Internal);
        walk(&mut connection, &[(SYN | ACK, External, State::Established)]);
        connection
    }

    #[test]
    fn an_ordinary_connection_opens_and_closes() {
        walk(
            &mut opened(Internal),
            &[
                (SYN, Internal, State::Opening),
                (SYN | ACK, External, State::Established),
                (ACK, Internal, State::Established),
                (FIN | ACK, Internal, State::InitiatorFin),
                (ACK, External, State::InitiatorFin),
                (FIN | ACK, External, State::Closing),
                (ACK, Internal, State::Closing),
                (SYN, Internal, State::Opening),
            ],
        );
    }

    #[test]
    fn a_simultaneous_open_is_established_when_the_outside_acknowledges() {
        walk(
            &mut opened(Internal),
            &[
                (SYN, External, State::Answered),
                (SYN | ACK, Internal, State::Answered),
                (SYN | ACK, External, State::Established),
                (FIN | ACK, External, State::ResponderFin),
                (FIN | ACK, External, State::ResponderFin),
                (FIN | ACK, Internal, State::Closing),
            ],
        );
    }

    #[test]
    fn a_connection_from_outside_holds_its_mapping_from_the_third_segment_on() {
        let mut connection = opened(External);
        walk(&mut connection, &[(SYN | ACK, Internal, State::Answered)]);
        assert!(!connection.holds);
        let mut forged = segment(ACK, External);
        forged.acknowledgement = forged.acknowledgement.wrapping_add(1);
        assert_eq!(connection.step(&forged, External), Step::OutOfWindow);
        assert!(!connection.holds);
        walk(&mut connection, &[(ACK, External, State::Established)]);
        assert!(connection.holds);
    }

    #[test]
    fn a_forged_answer_does_not_establish() {
        for off in [-1i32, 1, 1_000_000] {
            let mut connection = opened(Internal);
            let mut forged = segment(SYN | ACK, External);
            forged.acknowledgement = forged.acknowledgement.wrapping_add_signed(off);
            assert_eq!(connection.step(&forged, External), Step::OutOfWindow);
            assert_eq!(connection, opened(Internal));
        }
    }

    #[test]
    fn of_all_resets_only_the_one_in_sequence_counts() {
        let right = segment(RST, External).sequence;
        for sequence in (0..1_000_000u32).map(|n| right.wrapping_add(n * 4294)) {
            let mut connection = established();
            let reset = Segment { sequence, ..segment(RST, External) };
            let step = connection.step(&reset, External);
            let expected = if sequence == right { Step::Restart } else { Step::OutOfWindow };
            assert_eq!(step, expected, "{sequence:#x}");
            assert_eq!(connection.state == State::Reset, sequence == right);
        }
    }

    #[test]
    fn a_reset_session_revives_on_traffic_and_not_on_another_reset() {
        let mut connection = opened(Internal);
        assert_eq!(connection.step(&segment(RST | ACK, External), External), Step::Stay);
        let mut connection = established();
        assert_eq!(connection.step(&segment(RST, Internal), Internal), Step::Restart);
        assert_eq!(connection.state, State::Reset);
        assert_eq!(connection.step(&segment(RST, Internal), Internal), Step::Stay);
        walk(&mut connection, &[(ACK, External, State::Established)]);
    }

    #[test]
    fn a_syn_changes_nothing_in_an_established_session() {
        for from in [Internal, External] {
            let mut connection = established();
            let before = connection;
            assert_eq!(connection.step(&segment(SYN, from), from), Step::OutOfWindow);
            assert_eq!(connection.step(&segment(SYN | ACK, from), from), Step::Stay);
            assert_eq!(connection, before);
        }
    }

    #[test]
    fn segments_out_of_window_count_from_inside_and_not_from_outside() {
        let far = |from| Segment { sequence: 0x4000_0000, ..segment(ACK, from) };
        let mut connection = established();
        assert_eq!(connection.step(&far(External), External), Step::OutOfWindow);
        assert_eq!(connection.step(&far(Internal), Internal), Step::Restart);
        assert_eq!(connection.window.end[0], 0x4000_0000);
        let far_fin = Segment { flags: FIN | ACK, ..far(External) };
        assert_eq!(connection.step(&far_fin, External), Step::OutOfWindow);
        assert_eq!(connection.state, State::Established);
    }

    #[test]
    fn the_closing_timer_is_not_restarted_and_the_established_one_is() {
        let mut connection = established();
        assert_eq!(connection.step(&segment(ACK, Internal), Internal), Step::Restart);
        walk(&mut connection, &[(FIN | ACK, Internal, State::InitiatorFin)]);
        assert_eq!(connection.step(&segment(ACK, External), External), Step::Restart);
        walk(&mut connection, &[(FIN | ACK, External, State::Closing)]);
        assert_eq!(connection.step(&segment(ACK, Internal), Internal), Step::Stay);
        assert_eq!(opened(Internal).step(&segment(ACK, Internal), Internal), Step::Stay);
    }

    #[test]
    fn the_outside_reopens_a_closing_session_without_prolonging_it() {
        let mut connection = established();
        walk(
            &mut connection,
            &[(FIN | ACK, Internal, State::InitiatorFin), (FIN | ACK, External, State::Closing)],
        );
        assert_eq!(connection.step(&segment(SYN, External), External), Step::Stay);
        assert_eq!((connection.state, connection.holds), (State::Opening, true));
        assert_eq!(connection.step(&segment(SYN, External), External), Step::Stay);
        assert_eq!(opened(External).step(&segment(SYN, External), External), Step::Restart);
    }

    #[test]
    fn only_a_bare_syn_opens() {
        for flags in 0..=255u8 {
            let bare = flags & (SYN | ACK | RST | FIN) == SYN;
            assert_eq!(opens(flags), bare);
        }
    }
}
