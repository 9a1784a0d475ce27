//! Child processes with a bound on every wait.
//!
//! Each child leads a process group of its own, so that what it forks ends with it.

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use crate::cleanup;

const POLL: Duration = Duration::from_millis(5);

/// A running child; killed with its group when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `command`; `name` is for messages.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(name: &str, mut command: Command) -> Result<Process> {
        Ok(Process { name: name.to_owned(), child: cleanup::spawn(&mut command)? })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The pipe from its standard output, once, if there is one.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// The operating system does not know the child.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits until it ends by itself, at most `limit`.
    ///
    /// # Errors
    /// It is still running after `limit`.
    pub fn wait_within(&mut self, limit: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < until, "{} did not end within {limit:?}", self.name);
            thread::sleep(POLL);
        }
    }

    /// Asks it to end with SIGTERM and waits at most `limit`; after that it is killed.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.end_by(Signal::TERM, limit)
    }

    /// As [`Process::terminate`], with SIGINT: what tcpdump and iperf3 finish their files on.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn interrupt(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.end_by(Signal::INT, limit)
    }

    fn end_by(&mut self, signal: Signal, limit: Duration) -> Result<ExitStatus> {
        if self.try_wait()?.is_none() {
            cleanup::signal_group(self.id(), signal);
        }
        let id = self.id();
        let status = self.wait_within(limit);
        let status = status.with_context(|| format!("its threads are\n{}", threads(id)));
        cleanup::end_group(&mut self.child);
        status
    }
}

/// What each thread of a process does, as the kernel has it: its name, whether it runs or sleeps,
/// the ticks that it has run, and the system call that it is in.
fn threads(id: u32) -> String {
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let entries = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let one = |entry: std::fs::DirEntry| {
        let (stat, syscall) = (entry.path().join("stat"), entry.path().join("syscall"));
        let (stat, syscall) = (text(&stat), text(&syscall));
        let (name, rest) = stat.rsplit_once(')').unwrap_or_default();
        let rest: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| rest.get(number).copied().unwrap_or("?");
        let ticks = (field(11), field(12));
        format!("{name}) {} {ticks:?} in {}", field(0), syscall.trim())
    };
    entries.map(one).collect::<Vec<_>>().join("\n")
}

impl Drop for Process {
    fn drop(&mut self) {
        cleanup::end_group(&mut self.child);
    }
}

/// Runs `command` to its end, at most `limit`, and returns what it wrote.
///
/// # Errors
/// It cannot be started, or does not end in time (it is killed then).
pub fn output_within(mut command: Command, limit: Duration) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = shown(&command);
    let mut process = Process::start(&shown, command)?;
    let stdout = drain(process.child.stdout.take());
    let stderr = drain(process.child.stderr.take());
    let status = match process.wait_within(limit) {
        Ok(status) => status,
        Err(error) => {
            drop(process);
            let _ = (stdout.join(), stderr.join());
            return Err(error);
        }
    };
    // Ends forked children that would keep the pipes open.
    drop(process);
    let joined = |reader: thread::JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
    Ok(Output { status, stdout: joined(stdout), stderr: joined(stderr) })
}

/// Runs `command` to its end, at most `limit`; its standard output as text.
///
/// # Errors
/// As [`output_within`], and any exit code but 0, with what it wrote to standard error.
pub fn run(command: Command, limit: Duration) -> Result<String> {
    let shown = shown(&command);
    let output = output_within(command, limit)?;
    if !output.status.success() {
        bail!(
            "{shown}: {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            tail(&String::from_utf8_lossy(&output.stdout)),
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Polls `ready` every few milliseconds until it says yes, at most `limit`.
///
/// # Errors
/// It never did; `what` names what was waited for. Or an error of `ready`.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let until = Instant::now() + limit;
    while !ready()? {
        ensure!(Instant::now() < until, "{what}: not within {limit:?}");
        thread::sleep(POLL * 4);
    }
    Ok(())
}

/// The text of a file, empty if it is not there yet.
pub fn read_log(path: &Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn shown(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].iter().map(|line| format!("\n  | {line}")).collect()
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A pipe that breaks ends the text; the exit status tells the rest.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_does_not_end_is_killed_in_time() {
        let begun = Instant::now();
        let mut sleep = Command::new("sleep");
        sleep.arg("30");
        let error = run(sleep, Duration::from_millis(200)).expect_err("it sleeps for 30 s");
        assert!(error.to_string().contains("did not end within"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn of_one_that_does_not_end_its_threads_are_told() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' TERM; echo ready; sleep 30"]).stdout(Stdio::piped());
        let mut process = Process::start("a deaf shell", shell).expect("it starts");
        let mut first = [0; 5];
        let mut stdout = process.take_stdout().expect("a pipe");
        stdout.read_exact(&mut first).expect("it is ready");
        let error = process.terminate(Duration::from_millis(200)).expect_err("it does not hear");
        assert!(format!("{error:#}").contains("(sh) S"), "{error:#}");
    }

    #[test]
    fn what_a_command_forked_ends_with_it() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 30 & echo started"]);
        let begun = Instant::now();
        let text = run(shell, Duration::from_secs(5)).expect("the shell ends at once");
        assert_eq!(text.trim(), "started");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_failing_command_names_itself_and_its_complaint() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo broken >&2; exit 3"]);
        let text = run(shell, Duration::from_secs(5)).expect_err("exit 3").to_string();
        assert!(text.contains("broken") && text.contains("exit status: 3"), "{text}");
    }
}
