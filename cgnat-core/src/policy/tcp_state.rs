//! The TCP state of a session and which timer runs in it (RFC 7857 section 2, RFC 6146
//! section 3.5.2.2, RFC 5382 section 5).
//!
//! This version follows flags only; sequence numbers are not checked.
//!
//! Readings chosen where the texts leave room:
//! - a RST moves every state but `Opening` to `Reset` (RFC 7857 section 2.2);
//! - a SYN without ACK in `Closing` opens the session anew: the ports were reused for a new
//!   connection, which must not be cut by the old one's timer (RFC 5382 REQ-2).

use crate::packet::ipv4::tcp_flags::{ACK, FIN, RST, SYN};

/// TCP state of a session. The names of RFC 6146 are in parentheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// No session.
    None = 0,
    /// A SYN from one side (INIT).
    Opening,
    /// A SYN from both (ESTABLISHED).
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
    /// The state stored in a record as `value`; an unknown value is no session.
    pub fn from_record(value: u8) -> State {
        match value {
            1 => State::Opening,
            2 => State::Established,
            3 => State::InitiatorFin,
            4 => State::ResponderFin,
            5 => State::Closing,
            6 => State::Reset,
            _ => State::None,
        }
    }
}

/// Which side of the NAT sent the first SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Initiator {
    /// The subscriber.
    Internal = 0,
    /// The remote end.
    External,
}

impl Initiator {
    /// The initiator stored in a record as `value`.
    pub fn from_record(value: u8) -> Initiator {
        if value == 0 { Initiator::Internal } else { Initiator::External }
    }
}

/// What a packet does to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The state afterwards.
    pub state: State,
    /// Whether the idle timer of that state starts anew.
    pub restart_timer: bool,
}

/// Whether a packet with `flags` opens a session where there is none.
pub fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// The step for a packet with `flags`; `from_initiator` says which side sent it.
pub fn step(state: State, flags: u8, from_initiator: bool) -> Step {
    let to = |state| Step { state, restart_timer: true };
    let stay = Step { state, restart_timer: false };
    match state {
        State::None => stay,
        State::Opening => {
            if flags & RST != 0 {
                stay
            } else if flags & SYN != 0 && !from_initiator {
                to(State::Established)
            } else if flags & SYN != 0 {
                to(State::Opening)
            } else {
                stay
            }
        }
        State::Reset => {
            if flags & RST != 0 {
                stay
            } else {
                to(State::Established)
            }
        }
        _ if flags & RST != 0 => to(State::Reset),
        State::Established if flags & FIN != 0 => {
            to(if from_initiator { State::InitiatorFin } else { State::ResponderFin })
        }
        State::InitiatorFin if flags & FIN != 0 && !from_initiator => to(State::Closing),
        State::ResponderFin if flags & FIN != 0 && from_initiator => to(State::Closing),
        State::Established | State::InitiatorFin | State::ResponderFin => to(state),
        State::Closing if opens(flags) => to(State::Opening),
        State::Closing => stay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet sequence from `Opening`: (flags, from the initiator?) with the states after.
    fn walk(packets: &[(u8, bool, State)]) {
        let mut state = State::Opening;
        for (flags, from_initiator, expected) in packets {
            state = step(state, *flags, *from_initiator).state;
            assert_eq!(state, *expected, "after {flags:#x} in {packets:?}");
        }
    }

    #[test]
    fn an_ordinary_connection_opens_and_closes() {
        walk(&[
            (SYN, true, State::Opening),
            (SYN | ACK, false, State::Established),
            (ACK, true, State::Established),
            (FIN | ACK, true, State::InitiatorFin),
            (ACK, false, State::InitiatorFin),
            (FIN | ACK, false, State::Closing),
            (ACK, true, State::Closing),
        ]);
    }

    #[test]
    fn simultaneous_open_is_established_and_the_server_may_close_first() {
        walk(&[
            (SYN, false, State::Established),
            (SYN | ACK, true, State::Established),
            (FIN | ACK, false, State::ResponderFin),
            (FIN | ACK, false, State::ResponderFin),
            (FIN | ACK, true, State::Closing),
            (SYN, true, State::Opening),
        ]);
    }

    #[test]
    fn a_reset_session_revives_on_traffic_and_not_on_another_reset() {
        assert_eq!(step(State::Opening, RST | ACK, false).state, State::Opening);
        let reset = step(State::Established, RST, true);
        assert_eq!(reset, Step { state: State::Reset, restart_timer: true });
        assert_eq!(
            step(State::Reset, RST, true),
            Step { state: State::Reset, restart_timer: false }
        );
        assert_eq!(step(State::Reset, ACK, false).state, State::Established);
    }

    #[test]
    fn the_closing_timer_is_not_restarted_and_the_established_one_is() {
        assert!(!step(State::Closing, ACK, true).restart_timer);
        assert!(step(State::Established, ACK, true).restart_timer);
        assert!(step(State::InitiatorFin, ACK, true).restart_timer);
        assert!(!step(State::Opening, ACK, true).restart_timer);
    }

    #[test]
    fn only_a_bare_syn_opens() {
        for flags in 0..=255u8 {
            let bare = flags & (SYN | ACK | RST | FIN) == SYN;
            assert_eq!(opens(flags), bare);
        }
    }
}
