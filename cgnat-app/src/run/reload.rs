//! SIGHUP: the file is read again, and the running box takes it, whole or not at all.
//!
//! The main thread reads and compares; housekeeping, which owns external space, carries out. Its
//! answer comes when every worker has the new addresses. What is wrong is printed and counted,
//! and the box goes on as it was.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use cgnat_core::config::{Config, Source};
use cgnat_core::housekeeping::{Notice, Reloaded};
use ipnet::Ipv4Net;
use signal_hook::consts::SIGHUP;

use super::requests::{Awaited, Front, Heard, ReloadAnswer, Request};
use super::say::{complain, say};
use crate::check;

/// How reloads went so far.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Reloads that were carried out, those that changed nothing among them.
    pub applied: u64,
    /// Reloads that were refused.
    pub failed: u64,
    /// Why the last of these was.
    pub last_error: Option<String>,
}

/// The main thread's part.
pub struct Reloads {
    file: PathBuf,
    /// What runs.
    running: Source,
    asked: Arc<AtomicBool>,
    /// What is to run, until housekeeping has answered.
    awaited: Option<(Source, Awaited<ReloadAnswer>)>,
    /// Addresses of pools that are in use and not in the configuration any more.
    leaving: BTreeSet<Ipv4Addr>,
    tally: Tally,
}

impl Reloads {
    /// Watches SIGHUP, for a box that runs on `running`, which was read from `file`.
    pub fn watch(file: &Path, running: Source) -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGHUP, asked.clone()).context("cannot watch signals")?;
        let (awaited, leaving, tally) = (None, BTreeSet::new(), Tally::default());
        Ok(Self { file: file.to_owned(), running, asked, awaited, leaving, tally })
    }

    /// How reloads went so far.
    pub fn tally(&self) -> Tally {
        self.tally.clone()
    }

    /// Looks whether there is something to do or to say; does not wait. All external addresses, if
    /// they are others than before.
    pub fn mind(&mut self, front: &Front) -> Option<Vec<Ipv4Net>> {
        let applied = self.tally.applied;
        let mut has_changed = false;
        for notice in front.notices() {
            say(&self.sentence(notice));
            if let Notice::Forgotten(_, address) = notice {
                has_changed |= self.leaving.remove(&address);
            }
        }
        self.go_on(front);
        (has_changed || self.tally.applied != applied).then(|| self.prefixes())
    }

    /// As few prefixes as hold every external address that is in use or may be.
    fn prefixes(&self) -> Vec<Ipv4Net> {
        let mut prefixes = self.running.config.external_prefixes();
        prefixes.extend(self.leaving.iter().map(|address| Ipv4Net::from(*address)));
        Ipv4Net::aggregate(&prefixes)
    }

    fn go_on(&mut self, front: &Front) {
        match self.awaited.take() {
            Some((source, awaited)) => self.hear(source, awaited),
            None if self.asked.swap(false, Ordering::AcqRel) => self.begin(front),
            None => {}
        }
    }

    fn begin(&mut self, front: &Front) {
        let source = match check::load_source(&self.file) {
            Ok(source) => source,
            Err(refusal) => {
                complain(&refusal.text);
                // The problem itself is above, with its place in the file.
                let first = refusal.text.lines().next().unwrap_or_default();
                return self.failed(first);
            }
        };
        for warning in source.config.warnings() {
            complain(&warning.to_string());
        }
        let restarts = self.running.needs_restart(&source);
        if !restarts.is_empty() {
            return self.failed(&format!("needs a restart: {}", restarts.join("; ")));
        }
        // Before it is asked: one that nobody uses may be gone before the answer is here.
        self.leaving.extend(left_out(&self.running.config, &source.config));
        let (awaited, answer) = Awaited::new("reload");
        front.ask(Request::Reload(Box::new(source.config.clone()), answer));
        self.awaited = Some((source, awaited));
    }

    fn hear(&mut self, source: Source, mut awaited: Awaited<ReloadAnswer>) {
        match awaited.hear() {
            Heard::Answer(Ok(done)) => {
                for address in addresses(&source.config) {
                    self.leaving.remove(&address);
                }
                self.running = source;
                self.tally.applied += 1;
                say(&format!("reloaded {}: {}", self.file.display(), summary(done)));
            }
            Heard::Answer(Err(error)) => {
                // Nothing has left.
                for address in addresses(&self.running.config) {
                    self.leaving.remove(&address);
                }
                self.failed(&error.to_string());
            }
            Heard::Lost => self.failed("housekeeping has ended"),
            Heard::Nothing => self.awaited = Some((source, awaited)),
        }
    }

    fn failed(&mut self, why: &str) {
        complain(&format!("reload failed, nothing was changed: {why}"));
        self.tally.failed += 1;
        self.tally.last_error = Some(why.to_owned());
    }

    fn sentence(&self, notice: Notice) -> String {
        let pools = self.running.config.pools();
        let name = |pool: u16| pools[usize::from(pool)].name();
        match notice {
            Notice::Drained(pool, address) => {
                format!("drained: {address} of pool {}: nobody uses it any more", name(pool))
            }
            Notice::Forgotten(pool, address) => {
                format!("gone: {address} of pool {}: it is not ours any more", name(pool))
            }
        }
    }
}

fn addresses(config: &Config) -> impl Iterator<Item = Ipv4Addr> {
    config.pools().iter().flat_map(|pool| pool.addresses()).copied()
}

/// Addresses of pools that `other` has not.
fn left_out(config: &Config, other: &Config) -> BTreeSet<Ipv4Addr> {
    let kept: BTreeSet<Ipv4Addr> = addresses(other).collect();
    addresses(config).filter(|address| !kept.contains(address)).collect()
}

/// `2 addresses added, 1 to be drained`.
fn summary(done: Reloaded) -> String {
    let Reloaded { added, reopened, draining, leaving } = done;
    let parts = [
        (added, "added"),
        (reopened, "open again"),
        (draining, "to be drained"),
        (leaving, "to be drained and given up"),
    ];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts
        .map(|(count, what)| {
            format!("{count} {} {what}", if count == 1 { "address" } else { "addresses" })
        })
        .collect();
    if parts.is_empty() { "nothing to change".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_happens_and_nothing_else() {
        let done = Reloaded { added: 2, draining: 1, ..Reloaded::default() };
        assert_eq!(summary(done), "2 addresses added, 1 address to be drained");
        assert_eq!(summary(Reloaded::default()), "nothing to change");
    }
}
