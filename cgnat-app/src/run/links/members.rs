//! The members of bonds (decision 36): which have a link, which carry packets, how often their links went.
//!
//! Always true: what goes up and down without end is said no more than a few times a minute, and counted.

use std::time::Duration;

use cgnat_core::config::{Config, Device};
use dpdk::MemberState;
use serde_json::{Value, json};

use super::{SAID, WINDOW};

/// How long a member with a link may carry nothing until it is said: LACP agrees within three seconds.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Without a link.
    Down,
    /// With a link, and no packets go by it.
    Waits,
    Carries,
}

impl From<&MemberState> for State {
    fn from(MemberState { link_up, carries }: &MemberState) -> Self {
        match (link_up, carries) {
            (false, _) => State::Down,
            (true, false) => State::Waits,
            (true, true) => State::Carries,
        }
    }
}

struct Member {
    device: String,
    /// `None` before the first look.
    state: Option<State>,
    /// Since when it is in this state.
    since: Duration,
    /// Since when it carries nothing.
    idle_since: Duration,
    /// What the operator was told last.
    told: Option<State>,
    flaps: u64,
    window: Duration,
    /// Times without a link in the window.
    times: u32,
}

/// The members of one port's bond.
pub struct Members {
    port: String,
    members: Vec<Member>,
}

/// What the members of a bond have counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BondCounts {
    /// By member: frames received and sent.
    pub members: Vec<(u64, u64)>,
    /// Frames that workers got.
    pub delivered: u64,
}

impl Members {
    /// Nothing known yet; `None` of a port without a bond, or beside another on it.
    pub fn of(config: &Config, port: usize) -> Option<Self> {
        let of = &config.ports()[port];
        let Device::Bond { members, .. } = of.device() else { return None };
        let member = |device: &Device| Member {
            device: device.name().to_owned(),
            state: None,
            since: Duration::ZERO,
            idle_since: Duration::ZERO,
            told: None,
            flaps: 0,
            window: Duration::ZERO,
            times: 0,
        };
        let members = members.iter().map(member).collect();
        let is_first = config.first_on_device(port) == port;
        is_first.then(|| Self { port: of.name().to_owned(), members })
    }

    /// Looks at time `now`; what the operator should know.
    pub fn look(&mut self, now: Duration, states: &[MemberState]) -> Vec<String> {
        let carriers = states.iter().filter(|state| state.carries).count();
        let mut said = Vec::new();
        for (member, state) in self.members.iter_mut().zip(states) {
            let others = carriers - usize::from(state.carries);
            said.extend(member.judge(&self.port, now, state.into(), others));
        }
        said
    }

    /// How the members are and were.
    pub fn report(&self, counts: &BondCounts) -> BondReport {
        let member = |(n, member): (usize, &Member)| {
            let (received, sent) = counts.members.get(n).copied().unwrap_or_default();
            let Member { device, state, flaps, .. } = member;
            MemberReport {
                device: device.clone(),
                is_up: *state != Some(State::Down),
                carries: *state == Some(State::Carries),
                flaps: *flaps,
                received,
                sent,
            }
        };
        let members: Vec<_> = self.members.iter().enumerate().map(member).collect();
        let received: u64 = members.iter().map(|member| member.received).sum();
        BondReport { members, kept: received.saturating_sub(counts.delivered) }
    }
}

impl Member {
    /// `others`: how many other members carry packets.
    fn judge(&mut self, port: &str, now: Duration, state: State, others: usize) -> Option<String> {
        let was = self.state.replace(state);
        let is_new = was != Some(state);
        if is_new {
            self.since = now;
            if matches!(was, None | Some(State::Carries)) {
                self.idle_since = now;
            }
            if state == State::Down {
                self.flaps += u64::from(was.is_some());
                if now.saturating_sub(self.window) >= WINDOW {
                    (self.window, self.times) = (now, 0);
                }
                self.times += 1;
            }
        }
        let is_news = match state {
            State::Down => is_new,
            State::Carries => is_new && self.told != Some(State::Carries),
            State::Waits => {
                self.told != Some(State::Waits) && now.saturating_sub(self.since) >= PATIENCE
            }
        };
        if !is_news || self.times > SAID + 1 {
            return None;
        }
        let of = format!("port {port}: member {} of its bond", self.device);
        let rest = match others {
            0 => "no other member carries packets",
            _ => "the other members carry the packets",
        };
        if state == State::Down && self.times == SAID + 1 {
            let window = now.saturating_sub(self.window).as_secs();
            return Some(format!(
                "warning: {of} has no link for the {}th time within {window} s; until it holds that is \
                 only counted (`links`)",
                self.times,
            ));
        }
        if self.times > SAID {
            return None;
        }
        self.told = Some(state);
        Some(match state {
            State::Down => format!(
                "warning: {of} has no link: look at the cable, the optics and the partner; {rest}"
            ),
            State::Carries => format!(
                "{of} carries packets, after {} ms",
                now.saturating_sub(self.idle_since).as_millis()
            ),
            State::Waits => format!(
                "warning: {of} has a link and carries nothing: its partner does not agree by LACP. Look \
                 whether LACP is on at the other end of its cable, in one group with the other members; \
                 {rest}"
            ),
        })
    }
}

/// How a member is and was.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MemberReport {
    device: String,
    is_up: bool,
    carries: bool,
    flaps: u64,
    received: u64,
    sent: u64,
}

/// How a bond is and was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BondReport {
    members: Vec<MemberReport>,
    /// Frames that members received and no worker got.
    kept: u64,
}

impl BondReport {
    /// For the statistics file: members, and what was kept.
    pub fn json(&self) -> (Value, Value) {
        let member = |member: &MemberReport| {
            let MemberReport { device, is_up, carries, flaps, received, sent } = member;
            json!({
                "device": device,
                "up": is_up,
                "carries": carries,
                "flaps": flaps,
                "received": received,
                "sent": sent,
            })
        };
        (self.members.iter().map(member).collect(), self.kept.into())
    }

    /// Lines for people.
    pub fn sentences(&self, port: &str) -> Vec<String> {
        let line = |member: &MemberReport| {
            let MemberReport { device, is_up, carries, flaps, received, sent } = member;
            let state = match (is_up, carries) {
                (false, _) => "DOWN",
                (true, false) => "up, carries nothing",
                (true, true) => "up",
            };
            format!(
                "Member {device} of the bond of port {port}: {state}; its link went {flaps} times; \
                 {received} frames received, {sent} sent"
            )
        };
        self.members.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "version: 1
ports:
  in: { side: internal, bond: { mode: lacp, members: [\"0000:3b:00.0\", \"0000:3b:00.1\"] }, \
addresses: [10.255.0.2/30], next-hop: 10.255.0.1, vlan: 7 }
  out: { side: external, bond: { mode: lacp, members: [\"0000:3b:00.0\", \"0000:3b:00.1\"] }, \
addresses: [192.0.2.2/30], next-hop: 192.0.2.1, vlan: 8 }
pools: { main: { addresses: [203.0.113.0/28] } }
subscribers: [{ name: all, match: [100.64.0.0/10], pool: main }]
";

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn members() -> Members {
        let config = Config::from_yaml("box.yaml", YAML).unwrap_or_else(|error| panic!("{error}"));
        assert!(Members::of(&config, 1).is_none(), "said once of a bond");
        Members::of(&config, 0).unwrap_or_else(|| panic!("a bond"))
    }

    fn state(link_up: bool, carries: bool) -> MemberState {
        MemberState { link_up, carries }
    }

    #[test]
    fn a_member_that_goes_and_comes_is_said_with_its_device() {
        let mut members = members();
        let (both, none) = ([state(true, true), state(true, true)], [state(true, false); 2]);
        assert_eq!(members.look(at(0), &none), [""; 0], "LACP takes its time");
        let said = members.look(at(1_900), &both);
        assert_eq!(said.len(), 2, "{said:?}");
        let words = "port in: member 0000:3b:00.0 of its bond carries packets, after 1900 ms";
        assert_eq!(said[0], words);
        let said = members.look(at(3_000), &[state(true, true), state(false, false)]);
        let words =
            "warning: port in: member 0000:3b:00.1 of its bond has no link: look at the cable";
        assert!(said.len() == 1 && said[0].starts_with(words), "{said:?}");
        assert!(said[0].ends_with("the other members carry the packets"), "{said:?}");
        assert_eq!(members.look(at(3_500), &[state(true, true), state(true, false)]), [""; 0]);
        let said = members.look(at(5_000), &both);
        let words = "port in: member 0000:3b:00.1 of its bond carries packets, after 2000 ms";
        assert_eq!(said, [words]);
        let counts = BondCounts { members: vec![(10, 4), (5, 6)], delivered: 12 };
        let report = members.report(&counts);
        let (json, kept) = report.json();
        assert_eq!(kept, 3);
        assert_eq!(
            json[1],
            json!({ "device": "0000:3b:00.1", "up": true, "carries": true, "flaps": 1, "received": 5,
                "sent": 6 })
        );
    }

    #[test]
    fn a_partner_without_lacp_is_said_once() {
        let mut members = members();
        let states = [state(true, true), state(true, false)];
        members.look(at(0), &states);
        assert_eq!(members.look(at(4_999), &states), [""; 0]);
        let said = members.look(at(5_000), &states);
        assert!(said.len() == 1 && said[0].contains("does not agree by LACP"), "{said:?}");
        assert_eq!(members.look(at(60_000), &states), [""; 0]);
        assert_eq!(members.look(at(60_050), &[state(true, true); 2]).len(), 1);
    }

    #[test]
    fn a_member_that_flaps_is_not_said_without_end() {
        let mut members = members();
        members.look(at(0), &[state(true, true); 2]);
        let mut said = Vec::new();
        for n in 0..100 {
            said.extend(
                members.look(at(1_000 + n * 100), &[state(true, true), state(false, false)]),
            );
            said.extend(members.look(at(1_050 + n * 100), &[state(true, true); 2]));
        }
        assert_eq!(said.len(), 7, "{said:?}");
        assert!(said[6].contains("for the 4th time within 1 s"), "{said:?}");
        assert_eq!(members.members[1].flaps, 100);
    }
}
