//! SIGUSR1: the statistics of a running box, as a text and to the statistics file, which is
//! written again at the end.

use std::fs::File;
use std::io::{BufWriter, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use cgnat_core::config::Config;
use signal_hook::consts::SIGUSR1;

use super::reload::Tally;
use super::report::Report;
use super::requests::{Awaited, Heard, Request, Told};
use super::say::{complain, say};
use super::start::Running;

/// Gives statistics when asked to.
pub struct Statistics<'a> {
    config: &'a Config,
    file: Option<StatsFile>,
    asked: Arc<AtomicBool>,
    awaited: Option<Awaited<Told>>,
}

impl<'a> Statistics<'a> {
    /// Watches SIGUSR1. The file is opened at once: what is wrong with it shows before the start.
    pub fn watch(config: &'a Config, file: Option<&Path>) -> Result<Self> {
        let file = file.map(StatsFile::create).transpose()?;
        let asked = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGUSR1, asked.clone()).context("cannot watch signals")?;
        Ok(Self { config, file, asked, awaited: None })
    }

    /// Looks whether there is something to ask or to say. Does not wait.
    pub fn mind(&mut self, running: &Running, reloads: Tally) {
        let Some(mut awaited) = self.awaited.take() else {
            if self.asked.swap(false, Ordering::AcqRel) {
                let (awaited, answer) = Awaited::new("statistics");
                running.front().ask(Request::Tell(answer));
                self.awaited = Some(awaited);
            }
            return;
        };
        match awaited.hear() {
            Heard::Answer(told) => {
                let report = running.report(self.config).with_space(self.config, told.space);
                let report = report.with_refusals(told.refusals).with_reloads(reloads);
                say(report.text().trim_end());
                match (self.write(&report), &self.file) {
                    (Err(error), _) => complain(&format!("error: {error:#}")),
                    // So that a reader knows when it is whole.
                    (Ok(()), Some(file)) => {
                        say(&format!("statistics written to {}", file.path.display()));
                    }
                    (Ok(()), None) => {}
                }
            }
            Heard::Lost => complain("no statistics: housekeeping has ended"),
            Heard::Nothing => self.awaited = Some(awaited),
        }
    }

    /// Writes the file, if there is to be one.
    pub fn write(&mut self, report: &Report) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write(report))
    }
}

/// The file for the statistics: open from the start, so that nothing is in the way later.
struct StatsFile {
    path: PathBuf,
    file: File,
}

impl StatsFile {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("cannot write the statistics to {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes the report in place of the one before; to a pipe, after it.
    fn write(&mut self, report: &Report) -> Result<()> {
        let mut place = || -> std::io::Result<()> {
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
                self.file.rewind()?;
            }
            write_document(&self.file, &report.json())
        };
        place().with_context(|| format!("cannot write the statistics to {}", self.path.display()))
    }
}

/// Writes a document, which comes word by word: some million words of a hundred thousand mappings.
fn write_document(to: impl Write, document: &serde_json::Value) -> std::io::Result<()> {
    let mut to = BufWriter::new(to);
    writeln!(to, "{document:#}")?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the writings, each of which is a system call for a file.
    #[derive(Default)]
    struct Counting(usize, Vec<u8>);

    impl Write for &mut Counting {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += 1;
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Found with 100,000 connections: four million system calls kept the end waiting for seconds.
    #[test]
    fn a_long_document_is_written_in_few_pieces() {
        let document: serde_json::Value = (0..10_000).collect();
        let mut written = Counting::default();
        write_document(&mut written, &document).expect("it takes all");
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&written.1).ok(), Some(document));
        assert!(written.0 < 100, "{} writings", written.0);
    }
}
