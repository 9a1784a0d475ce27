//! SIGHUP: the file is read again, and the running box takes it, whole or not at all.
//!
//! The main thread reads and compares; housekeeping, which owns external space, carries out. Its
//! answer comes when every worker has the new addresses. What is wrong is printed and counted,
//! and the box goes on as it was.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use cgnat_core::config::Source;
use cgnat_core::housekeeping::{Notice, Reloaded};
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
    tally: Tally,
}

impl Reloads {
    /// Watches SIGHUP, for a box that runs on `running`, which was read from `file`.
    pub fn watch(file: &Path, running: Source) -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGHUP, asked.clone()).context("cannot watch signals")?;
        let (awaited, tally) = (None, Tally::default());
        Ok(Self { file: file.to_owned(), running, asked, awaited, tally })
    }

    /// How reloads went so far.
    pub fn tally(&self) -> Tally {
        self.tally.clone()
    }

    /// Looks whether there is something to do or to say. Does not wait.
    pub fn mind(&mut self, front: &Front) {
        for notice in front.notices() {
            say(&self.sentence(notice));
        }
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
        let (awaited, answer) = Awaited::new("reload");
        front.ask(Request::Reload(Box::new(source.config.clone()), answer));
        self.awaited = Some((source, awaited));
    }

    fn hear(&mut self, source: Source, mut awaited: Awaited<ReloadAnswer>) {
        match awaited.hear() {
            Heard::Answer(Ok(done)) => {
                self.running = source;
                self.tally.applied += 1;
                say(&format!("reloaded {}: {}", self.file.display(), summary(done)));
            }
            Heard::Answer(Err(error)) => self.failed(&error.to_string()),
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
