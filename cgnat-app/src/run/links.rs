//! The links of the ports (decision 32): which are down, since when, how often they were.
//!
//! The main thread looks every few milliseconds at what the kernel tells of interfaces that ports
//! stand on, and twenty times a second asks the drivers. Always true:
//! 1. a link is up unless its driver or the kernel says that it is not;
//! 2. workers are told of each change before the operator is;
//! 3. what goes up and down without end is said no more than a few times a minute, and counted.

mod members;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cgnat_core::config::{Config, Device};
use cgnat_core::control::links::LinkStates;
use dpdk::MemberState;
use serde_json::{Value, json};

pub use self::members::BondCounts;
use self::members::{BondReport, Members};
use crate::interfaces::{Change, Interfaces};

/// How often drivers are asked.
const ASK: Duration = Duration::from_millis(50);

/// For how long it is counted how often something was said of one link.
const WINDOW: Duration = Duration::from_secs(60);

/// How often in that time it is said that a link is down.
const SAID: u32 = 3;

/// Where the kernel has the link of a port, and how it is there.
struct Interface {
    name: String,
    /// `None` when it was deleted.
    runs: Option<bool>,
}

struct Link {
    port: String,
    is_bond: bool,
    /// Unless the members are those of another port's link too.
    members: Option<Members>,
    interface: Option<Interface>,
    /// What its driver says, if anything.
    driver: Option<bool>,
    /// `None` before the first look.
    is_up: Option<bool>,
    since: Duration,
    flaps: u64,
    /// Down before [`Link::since`].
    down: Duration,
    window: Duration,
    /// Times down in the window.
    times: u32,
}

/// Watches all links.
pub struct Links {
    links: Vec<Link>,
    states: Arc<LinkStates>,
    kernel: Option<Interfaces>,
    asked: Option<Duration>,
}

impl Links {
    /// Nothing known yet, at time zero of its clock. `kernel` is there if a port stands on an
    /// interface of the kernel's.
    pub fn new(config: &Config, states: Arc<LinkStates>, kernel: Option<Interfaces>) -> Self {
        let link = |(number, port): (usize, &cgnat_core::config::Port)| Link {
            port: port.name().to_owned(),
            is_bond: port.device().is_bond(),
            members: Members::of(config, number),
            interface: interface_of(port.device())
                .map(|name| Interface { name: name.to_owned(), runs: Some(true) }),
            driver: None,
            is_up: None,
            since: Duration::ZERO,
            flaps: 0,
            down: Duration::ZERO,
            window: Duration::ZERO,
            times: 0,
        };
        let links = config.ports().iter().enumerate().map(link).collect();
        Self { links, states, kernel, asked: None }
    }

    /// Looks at time `now`; what the operator should know. `driver` says whether the link of a port is
    /// up, as far as its driver knows, and `members` how those of its bond are.
    pub fn look(
        &mut self,
        now: Duration,
        driver: impl Fn(usize) -> Option<bool>,
        members: impl Fn(usize) -> Vec<MemberState>,
    ) -> Vec<String> {
        let mut said = Vec::new();
        let changes = match self.kernel.as_mut().map(Interfaces::look) {
            Some(Ok(changes)) => changes,
            Some(Err(error)) => {
                self.kernel = None;
                said.push(format!(
                    "warning: the kernel tells no more of interfaces ({error}); links of ports on \
                     packet sockets count as up until a restart"
                ));
                self.links.iter_mut().for_each(|link| link.interface = None);
                Vec::new()
            }
            None => Vec::new(),
        };
        let asks = self.asked.is_none_or(|asked| now.saturating_sub(asked) >= ASK);
        if asks {
            self.asked = Some(now);
            for (port, link) in self.links.iter_mut().enumerate() {
                link.driver = driver(port);
                if let Some(of) = &mut link.members {
                    said.extend(of.look(now, &members(port)));
                }
            }
        }
        self.take(&changes, now, &mut said);
        if asks {
            self.judge(now, &mut said);
        }
        said
    }

    fn take(&mut self, changes: &[Change], now: Duration, said: &mut Vec<String>) {
        for Change { name, runs } in changes {
            for (port, link) in self.links.iter_mut().enumerate() {
                if let Some(interface) = &mut link.interface
                    && interface.name == *name
                    // One that was deleted and made again is another, and the port is not on it.
                    && interface.runs.is_some()
                {
                    interface.runs = *runs;
                    said.extend(link.judge(port, now, &self.states));
                }
            }
        }
    }

    fn judge(&mut self, now: Duration, said: &mut Vec<String>) {
        for (port, link) in self.links.iter_mut().enumerate() {
            said.extend(link.judge(port, now, &self.states));
        }
    }

    /// By port: whether the link is up, as far as anybody says.
    pub fn states(&self) -> impl Iterator<Item = Option<bool>> {
        let says_nothing = |link: &Link| link.driver.is_none() && link.interface.is_none();
        self.links.iter().map(move |link| link.is_up.filter(|_| !says_nothing(link)))
    }

    /// How the links are and were. `counts` tells what the members of a port's bond have counted.
    pub fn report(&self, now: Duration, counts: impl Fn(usize) -> BondCounts) -> Vec<LinkReport> {
        let report = |(port, link): (usize, &Link)| {
            let is_up = link.is_up != Some(false);
            let down = if is_up { Duration::ZERO } else { now.saturating_sub(link.since) };
            let bond = link.members.as_ref().map(|members| members.report(&counts(port)));
            let (port, down) = (link.port.clone(), link.down + down);
            LinkReport { port, is_up, flaps: link.flaps, down, bond }
        };
        self.links.iter().enumerate().map(report).collect()
    }
}

impl Link {
    /// Tells workers, and says what the operator should know, if it is another than before.
    fn judge(&mut self, port: usize, now: Duration, states: &LinkStates) -> Option<String> {
        let runs = self.interface.as_ref().map(|interface| interface.runs == Some(true));
        let is_up = runs != Some(false) && self.driver != Some(false);
        if self.is_up == Some(is_up) {
            return None;
        }
        let was = self.is_up.replace(is_up);
        let passed = now.saturating_sub(std::mem::replace(&mut self.since, now));
        if is_up {
            states.set_up(port);
            // The first look.
            was?;
            self.down += passed;
            let again = if self.flaps > 0 { " again" } else { "" };
            return (self.times <= SAID).then(|| {
                format!("port {}: link up{again}, after {} ms", self.port, passed.as_millis())
            });
        }
        states.set_down(port);
        if self.is_bond && was.is_none() {
            // Its members have not agreed with their partner yet, and say so if they do not.
            return None;
        }
        self.flaps += u64::from(was.is_some());
        if now.saturating_sub(self.window) >= WINDOW {
            (self.window, self.times) = (now, 0);
        }
        self.times += 1;
        let port = &self.port;
        let why = match &self.interface {
            Some(Interface { name, runs: None }) => format!(
                "the interface {name} was deleted; make it again and restart. Until then packets"
            ),
            Some(Interface { name, runs: Some(false) }) => format!(
                "the kernel has {name} down or without a carrier (ip link show {name}). Packets"
            ),
            _ if self.is_bond => "no member of its bond carries packets. Those".to_owned(),
            _ => "look at the cable, the optics and the partner. Packets".to_owned(),
        };
        match self.times.cmp(&(SAID + 1)) {
            std::cmp::Ordering::Less => Some(format!(
                "warning: port {port}: link down: {why} that would leave by it are dropped under \
                 `link-down`"
            )),
            std::cmp::Ordering::Equal => Some(format!(
                "warning: port {port}: link down for the {}th time within {} s; until it holds that is \
                 only counted (`links`)",
                self.times,
                now.saturating_sub(self.window).as_secs()
            )),
            std::cmp::Ordering::Greater => None,
        }
    }
}

/// The way to hear of interfaces, if a port stands on one.
///
/// # Errors
/// The system gives none.
pub fn kernel(config: &Config) -> Result<Option<Interfaces>> {
    let stands_on_one = config.ports().iter().any(|port| interface_of(port.device()).is_some());
    let interfaces = stands_on_one.then(Interfaces::open).transpose();
    interfaces.context("no netlink socket for the state of interfaces")
}

/// The interface in the kernel whose link is the port's, and of which its driver says nothing.
fn interface_of(device: &Device) -> Option<&str> {
    let Device::Virtual { driver, arguments, .. } = device else { return None };
    let name = arguments.iter().find(|(key, _)| key == "iface").map(|(_, name)| name.as_str());
    name.filter(|_| driver == "net_af_packet")
}

/// How a link is and was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    port: String,
    is_up: bool,
    flaps: u64,
    down: Duration,
    bond: Option<BondReport>,
}

impl LinkReport {
    /// Lines for people, if there is anything to say.
    pub fn sentences(&self) -> Vec<String> {
        let Self { port, is_up, flaps, down, bond } = self;
        let state = if *is_up { "up" } else { "DOWN" };
        let link = (!is_up || *flaps > 0).then(|| {
            format!(
                "Link of port {port}: {state}; it went down {flaps} times, for {} ms in all",
                down.as_millis()
            )
        });
        link.into_iter().chain(bond.iter().flat_map(|bond| bond.sentences(port))).collect()
    }

    /// For the statistics file.
    pub fn json(&self) -> Value {
        let Self { port, is_up, flaps, down, bond } = self;
        let down_ms = u64::try_from(down.as_millis()).unwrap_or(u64::MAX);
        let mut link = json!({ "port": port, "up": is_up, "flaps": flaps, "down_ms": down_ms });
        if let Some(bond) = bond {
            (link["members"], link["kept"]) = bond.json();
        }
        link
    }
}

/// Packet buffers of one pool.
pub struct Buffers {
    /// Its name.
    pub pool: String,
    /// Those that somebody holds: a driver, a ring, a packet that waits.
    pub in_use: u32,
    /// All.
    pub count: u32,
}

impl Buffers {
    /// For the statistics file.
    pub fn json(&self) -> Value {
        json!({ "pool": self.pool, "in_use": self.in_use, "count": self.count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "version: 1
ports:
  in: { side: internal, device: \"net_af_packet0,iface=eth1\", addresses: [10.255.0.2/30], next-hop: 10.255.0.1 }
  out: { side: external, device: \"0000:3b:00.1\", addresses: [192.0.2.2/30], next-hop: 192.0.2.1 }
pools: { main: { addresses: [203.0.113.0/28] } }
subscribers: [{ name: all, match: [100.64.0.0/10], pool: main }]
";

    fn links() -> (Links, Arc<LinkStates>) {
        let config = Config::from_yaml("box.yaml", YAML).unwrap_or_else(|error| panic!("{error}"));
        let states = Arc::new(LinkStates::new(2));
        (Links::new(&config, states.clone(), None), states)
    }

    fn no_bond(_port: usize) -> Vec<MemberState> {
        Vec::new()
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn change(runs: Option<bool>) -> Change {
        Change { name: "eth1".to_owned(), runs }
    }

    #[test]
    fn a_link_that_goes_is_told_to_workers_and_said_and_so_is_its_return() {
        let (mut links, states) = links();
        let cable = std::cell::Cell::new(Some(true));
        let driver = |port| if port == 1 { cable.get() } else { Some(true) };
        assert_eq!(links.look(at(0), driver, no_bond), [""; 0]);
        assert_eq!((states.ups(0), states.ups(1)), (1, 1), "neighbours hear of it at the start");
        cable.set(Some(false));
        assert_eq!(links.look(at(49), driver, no_bond), [""; 0], "it is not asked that often");
        let said = links.look(at(50), driver, no_bond);
        assert!(said[0].starts_with("warning: port out: link down: look at the cable"), "{said:?}");
        assert!(states.is_down(1) && !states.is_down(0));
        assert_eq!(links.look(at(500), driver, no_bond), [""; 0]);
        assert_eq!(links.states().collect::<Vec<_>>(), [Some(true), Some(false)]);
        let report = links.report(at(850), |_| BondCounts::default());
        assert_eq!(
            report[1].json(),
            json!({ "port": "out", "up": false, "flaps": 1, "down_ms": 800 })
        );
        cable.set(Some(true));
        assert_eq!(
            links.look(at(1_050), driver, no_bond),
            ["port out: link up again, after 1000 ms"]
        );
        assert!(!states.is_down(1));
        assert_eq!(states.ups(1), 2);
        let report = links.report(at(9_000), |_| BondCounts::default());
        assert_eq!(report[0].sentences(), [""; 0]);
        let line = "Link of port out: up; it went down 1 times, for 1000 ms in all";
        assert_eq!(report[1].sentences(), [line]);
        // A driver that says nothing leaves it up.
        cable.set(None);
        assert_eq!(links.look(at(2_000), driver, no_bond), [""; 0]);
        assert_eq!(links.states().collect::<Vec<_>>(), [Some(true), None]);
    }

    #[test]
    fn changes_between_two_looks_count_and_a_link_that_flaps_is_not_said_without_end() {
        let (mut links, states) = links();
        links.look(at(0), |_| Some(true), no_bond);
        let mut said = Vec::new();
        let flap = [change(Some(false)), change(Some(true)), change(Some(true))];
        for n in 0..100 {
            links.take(&flap, at(1_000 + n * 100), &mut said);
        }
        assert_eq!(links.report(at(20_000), |_| BondCounts::default())[0].flaps, 100);
        assert_eq!(states.ups(0), 101);
        assert_eq!(said.len(), 7, "{said:?}");
        assert!(said[0].contains("the kernel has eth1 down or without a carrier"), "{said:?}");
        assert!(said[6].contains("link down for the 4th time within 1 s; until"), "{said:?}");
        // After a minute it is said anew.
        links.take(&flap, at(70_000), &mut said);
        assert_eq!(said.len(), 9, "{said:?}");
    }

    #[test]
    fn an_interface_that_was_deleted_is_not_believed_to_be_back() {
        let (mut links, states) = links();
        links.look(at(0), |_| Some(true), no_bond);
        let mut said = Vec::new();
        links.take(&[change(None), change(Some(true))], at(10), &mut said);
        links.judge(at(60), &mut said);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("the interface eth1 was deleted; make it again"), "{said:?}");
        assert!(states.is_down(0));
    }
}
