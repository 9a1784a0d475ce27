//! What neighbours are told: routes in the kernel for the external addresses, while the box is
//! ready (decision 33). A routing daemon redistributes them.
//!
//! The main thread owns it and looks often. Always true:
//! 1. there is no route while the box is not ready, drains or stops, as far as the kernel obeys;
//! 2. what has gone is announced again only after `delay` without a break;
//! 3. a change is said once.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgnat_core::config::{Announce, Config};
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::kernel::KernelCounters;
use super::readiness::Readiness;
use super::say::say;
use super::start::Running;
use crate::netlink::Kernel;

/// How often readiness is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How often routes are added again that may have been flushed.
const AGAIN: Duration = Duration::from_secs(1);

/// Routes of the box on one interface of the kernel.
pub trait Routes {
    /// Adds one, unless it is there.
    fn add(&mut self, prefix: Ipv4Net) -> io::Result<()>;
    /// Takes one away, if it is there.
    fn remove(&mut self, prefix: Ipv4Net) -> io::Result<()>;
}

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Announce,
    Drain,
    Stop,
}

/// The announcements of a box.
pub struct Announcer<R> {
    rule: Announce,
    interface: String,
    routes: R,
    wish: Wish,
    /// All external addresses.
    prefixes: BTreeSet<Ipv4Net>,
    /// Without a break, if it is.
    ready_since: Option<Duration>,
    is_announced: bool,
    /// Since when that is so.
    since: Duration,
    /// Anything was announced at some time.
    was_announced: bool,
    /// Why nothing is announced.
    because: String,
    /// In the kernel, as far as is known.
    there: BTreeSet<Ipv4Net>,
    /// When routes are added again.
    again: Duration,
    /// What the kernel refuses, once it was said.
    trouble: Option<String>,
}

impl<R: Routes> Announcer<R> {
    /// Nothing announced yet, at time zero of its clock.
    pub fn new(rule: Announce, interface: &str, prefixes: &[Ipv4Net], routes: R) -> Self {
        Self {
            rule,
            interface: interface.to_owned(),
            routes,
            wish: Wish::Announce,
            prefixes: prefixes.iter().copied().collect(),
            ready_since: None,
            is_announced: false,
            since: Duration::ZERO,
            was_announced: false,
            because: "the box has just started".to_owned(),
            there: BTreeSet::new(),
            again: Duration::ZERO,
            trouble: None,
        }
    }

    /// Other external addresses than before.
    pub fn set_prefixes(&mut self, prefixes: &[Ipv4Net]) {
        self.prefixes = prefixes.iter().copied().collect();
        self.again = Duration::ZERO;
    }

    /// Withdraws until it is told otherwise, or takes that back.
    pub fn drain(&mut self, is_wanted: bool) {
        match (self.wish, is_wanted) {
            (Wish::Announce, true) => self.wish = Wish::Drain,
            (Wish::Drain, false) => self.wish = Wish::Announce,
            _ => {}
        }
    }

    /// Withdraws for good; when the box may stop.
    pub fn stop(&mut self, now: Duration, readiness: &Readiness) -> (Duration, Vec<String>) {
        self.wish = Wish::Stop;
        let said = self.look(now, readiness);
        let wait = Duration::from_secs(self.rule.withdraw_delay_s().into());
        (if self.was_announced { (self.since + wait).max(now) } else { now }, said)
    }

    /// Looks at time `now`; what the operator should know.
    pub fn look(&mut self, now: Duration, readiness: &Readiness) -> Vec<String> {
        let mut said = Vec::new();
        self.ready_since = match (readiness.is_ready(), self.ready_since) {
            (true, since) => Some(since.unwrap_or(now)),
            (false, _) => None,
        };
        let delay = Duration::from_secs(self.rule.delay_s().into());
        let is_long_ready = self.ready_since.is_some_and(|since| now - since >= delay);
        let wanted = self.wish == Wish::Announce
            && readiness.is_ready()
            && (self.is_announced || is_long_ready);
        if !wanted {
            self.because = match self.wish {
                Wish::Stop => "the box stops".to_owned(),
                Wish::Drain => "it drains; `cgnat undrain` announces again".to_owned(),
                Wish::Announce if readiness.is_ready() => {
                    format!("it is ready for less than {} s", self.rule.delay_s())
                }
                Wish::Announce => readiness.missing(),
            };
        }
        if wanted != self.is_announced {
            (self.is_announced, self.since) = (wanted, now);
            self.was_announced |= wanted;
            self.obey(now, &mut said);
            said.push(self.change());
        } else if now >= self.again || !self.is_announced && !self.there.is_empty() {
            self.obey(now, &mut said);
        }
        said
    }

    fn change(&self) -> String {
        let (count, interface) = (self.prefixes.len(), &self.interface);
        let what = if count == 1 { "prefix" } else { "prefixes" };
        match self.is_announced {
            true => format!("announced: {count} {what} by {interface}; the box is ready"),
            false => format!("withdrawn: {count} {what} of {interface}: {}", self.because),
        }
    }

    /// Makes the kernel's routes what they should be.
    fn obey(&mut self, now: Duration, said: &mut Vec<String>) {
        self.again = now + AGAIN;
        let wanted = if self.is_announced { self.prefixes.clone() } else { BTreeSet::new() };
        let mut result = Ok(());
        // Each is tried, whatever becomes of the others.
        for prefix in self.there.difference(&wanted).copied().collect::<Vec<_>>() {
            match self.routes.remove(prefix) {
                Ok(()) => _ = self.there.remove(&prefix),
                Err(error) => result = Err(error),
            }
        }
        for prefix in wanted {
            match self.routes.add(prefix) {
                Ok(()) => _ = self.there.insert(prefix),
                Err(error) => result = Err(error),
            }
        }
        let trouble = result.err().map(|error| {
            format!(
                "error: the routes of the external addresses on {} cannot be changed: {error}; \
                 expected the interface up and CAP_NET_ADMIN. It is tried again each second",
                self.interface
            )
        });
        if trouble.is_some() && trouble != self.trouble {
            said.extend(trouble.clone());
        }
        self.trouble = trouble;
    }

    /// Whether neighbours are told, and since when or why not.
    pub fn json(&self, now: Duration) -> Value {
        let for_s = now.saturating_sub(self.since).as_secs();
        let interface = &self.interface;
        let says = match (self.is_announced, &self.trouble) {
            (true, None) => format!("announced by {interface} for {for_s} s:"),
            (true, Some(trouble)) => trouble.clone(),
            (false, _) => format!("nothing announced for {for_s} s: {}", self.because),
        };
        let is_announced = self.is_announced && self.trouble.is_none();
        let prefixes: Vec<String> = match is_announced {
            true => self.prefixes.iter().map(ToString::to_string).collect(),
            false => Vec::new(),
        };
        json!({
            "announced": is_announced, "for_s": for_s, "drains": self.wish != Wish::Announce,
            "interface": interface, "prefixes": prefixes, "says": says,
        })
    }
}

/// Readiness of the running box, and what follows from it.
pub struct Announcing {
    started: Instant,
    /// When readiness was looked at.
    looked: Instant,
    readiness: Readiness,
    /// Unless nothing is to be announced.
    announcer: Option<Announcer<KernelRoutes>>,
}

impl Announcing {
    /// For a box that has just started; `kernel` is there if something is to be announced.
    pub fn begin(running: &Running, config: &Config, kernel: Option<Kernel>) -> Self {
        let announced = kernel.zip(config.announce());
        let announcer = announced.and_then(|(kernel, rule)| {
            // Configurations are checked for it.
            let name = config.ports()[rule.port()].kernel_interface()?;
            let interface = running.kernel_interface(rule.port())?;
            let routes = KernelRoutes { kernel, interface };
            Some(Announcer::new(rule, name, &config.external_prefixes(), routes))
        });
        let readiness = running.readiness(config);
        Self { started: Instant::now(), looked: Instant::now(), readiness, announcer }
    }

    /// Looks around, unless it has just done so.
    pub fn mind(&mut self, running: &Running, config: &Config) {
        if self.looked.elapsed() >= LOOK {
            self.look(running, config);
        }
    }

    fn look(&mut self, running: &Running, config: &Config) {
        self.looked = Instant::now();
        self.readiness = running.readiness(config);
        if let Some(announcer) = &mut self.announcer {
            let now = self.started.elapsed();
            announcer.look(now, &self.readiness).iter().for_each(|sentence| say(sentence));
        }
    }

    /// The external addresses are others than before.
    pub fn set_prefixes(&mut self, prefixes: &[Ipv4Net]) {
        if let Some(announcer) = &mut self.announcer {
            announcer.set_prefixes(prefixes);
        }
    }

    /// Withdraws for good; how long packets should go on.
    pub fn stop(&mut self) -> Duration {
        let Some(announcer) = &mut self.announcer else { return Duration::ZERO };
        let now = self.started.elapsed();
        let (until, said) = announcer.stop(now, &self.readiness);
        said.iter().for_each(|sentence| say(sentence));
        until - now
    }

    /// For `cgnat show readiness`.
    pub fn json(&self) -> Value {
        let mut shown = self.readiness.json();
        shown["announcing"] = match &self.announcer {
            Some(announcer) => announcer.json(self.started.elapsed()),
            None => json!({
                "announced": false,
                "says": "nothing is to be announced: the configuration has no `announce`",
            }),
        };
        shown
    }

    /// For `cgnat drain` and `cgnat undrain`.
    ///
    /// # Errors
    /// Nothing is to be announced.
    pub fn drain(
        &mut self,
        is_wanted: bool,
        running: &Running,
        config: &Config,
    ) -> Result<Value, String> {
        let Some(announcer) = &mut self.announcer else {
            return Err("nothing is announced: the configuration has no `announce`".to_owned());
        };
        announcer.drain(is_wanted);
        self.look(running, config);
        Ok(self.json()["announcing"].take())
    }
}

/// Routes in the kernel's main table, on one interface.
struct KernelRoutes {
    kernel: Kernel,
    interface: Arc<KernelCounters>,
}

impl Routes for KernelRoutes {
    fn add(&mut self, prefix: Ipv4Net) -> io::Result<()> {
        match self.interface.index() {
            Some(interface) => self.kernel.add_route(prefix, interface),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "the interface is gone")),
        }
    }

    fn remove(&mut self, prefix: Ipv4Net) -> io::Result<()> {
        match self.interface.index() {
            Some(interface) => self.kernel.remove_route(prefix, interface),
            // They went with it.
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
