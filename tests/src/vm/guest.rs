//! A running guest, and how the host asks it to do things.
//!
//! Each script is a file in a directory that both share; its number goes over a serial line, and
//! number and exit code come back. Several can be under way. The machine ends with this value.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use super::cards::{Card, NAMES};
use super::image::Image;
use crate::lab::Lab;
use crate::process::{Process, read_log, wait_until};

/// An emulated machine with other work beside it takes three times as long as alone.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
const SCRIPT_LIMIT: Duration = Duration::from_secs(120);

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Kind of its two cards.
    pub card: Card,
    /// Whether it has an IOMMU.
    pub iommu: bool,
    /// Whether a third card shares the IOMMU group of the internal one.
    pub sibling: bool,
}

/// A script under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Job(u32);

/// What a script came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A guest; killed when dropped.
#[derive(Debug)]
pub struct Guest {
    qemu: Process,
    line: BufReader<UnixStream>,
    /// Where qemu takes commands.
    monitor: UnixStream,
    /// What has come of a line that is not whole.
    begun: Vec<u8>,
    finished: BTreeMap<u32, i32>,
    started: u32,
    image: Image,
    /// Holds the shared directory `exchange`, and what qemu writes.
    directory: TempDir,
}

impl Guest {
    /// Boots a machine whose cards are joined to the box namespace of `lab`.
    ///
    /// # Errors
    /// No kernel, no qemu, or the guest does not come up in time; with what its console has.
    pub fn boot(lab: &Lab, machine: Machine) -> Result<Guest> {
        let image = Image::prepare()?;
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let exchange = directory.path().join("exchange");
        fs::create_dir(&exchange).context("cannot make the shared directory")?;
        fs::write(exchange.join("agent.sh"), include_str!("agent.sh"))
            .context("cannot write the agent")?;
        let initramfs = image.initramfs(directory.path())?;
        let mut command = lab.middle.command("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-M", "q35,accel=tcg,kernel-irqchip=split", "-cpu", "max"]);
        command.args(["-smp", "2", "-m", "2G"]);
        // Mitigations cost time and protect nobody here. On a busy host an emulated timer is late, which
        // the kernel's check takes for broken.
        let mut kernel = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check".to_owned();
        if machine.iommu {
            command.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
            kernel.push_str(" intel_iommu=on iommu=pt");
        }
        command.arg("-kernel").arg(image.kernel()).arg("-initrd").arg(initramfs);
        command.arg("-append").arg(kernel);
        let path = |name: &str| directory.path().join(name).display().to_string();
        command.arg("-serial").arg(format!("file:{}", path("console")));
        let socket = path("line");
        command.arg("-chardev").arg(format!("socket,id=line,path={socket},server=on,wait=off"));
        command.args(["-serial", "chardev:line"]);
        let monitor = path("monitor");
        command.arg("-monitor").arg(format!("unix:{monitor},server=on,wait=off"));
        let shared = "security_model=none,multidevs=remap";
        command.arg("-virtfs").arg(format!("local,path=/,mount_tag=root,readonly=on,{shared}"));
        let exchange = exchange.display();
        command.arg("-virtfs").arg(format!("local,path={exchange},mount_tag=exchange,{shared}"));
        command.args(machine.card.arguments(machine.sibling));
        let errors = directory.path().join("qemu");
        command.stderr(File::create(&errors).context("cannot make a log file")?);
        let mut qemu = Process::start("qemu-system-x86_64", command)?;
        wait_until("qemu's serial line", SCRIPT_LIMIT, || {
            if let Some(status) = qemu.try_wait()? {
                bail!("qemu (package qemu-system-x86) ended with {status}: {}", read_log(&errors));
            }
            Ok(Path::new(&socket).exists() && Path::new(&monitor).exists())
        })?;
        let monitor = UnixStream::connect(&monitor).context("cannot connect to qemu's monitor")?;
        monitor.set_read_timeout(Some(SCRIPT_LIMIT)).context("no time limits")?;
        let line = UnixStream::connect(&socket).context("cannot connect to the serial line")?;
        line.set_read_timeout(Some(Duration::from_millis(200))).context("no time limits")?;
        let (line, begun) = (BufReader::new(line), Vec::new());
        let finished = BTreeMap::new();
        let mut guest =
            Guest { qemu, line, monitor, begun, finished, started: 0, image, directory };
        // Its greeting.
        guest.hear_monitor()?;
        let until = Instant::now() + BOOT_LIMIT;
        while guest.next_line(until)?.as_deref() != Some("ready") {
            ensure!(Instant::now() < until, "no guest within {BOOT_LIMIT:?}: {}", guest.console());
        }
        lab.bridge_taps()?;
        Ok(guest)
    }

    /// The directory that both share, as the host sees it; the guest has it as `/run/exchange`.
    pub fn exchange(&self) -> PathBuf {
        self.directory.path().join("exchange")
    }

    /// What kernel and machine have said.
    pub fn console(&self) -> String {
        let log = |name| read_log(&self.directory.path().join(name));
        format!("{}{}", log("console"), log("qemu"))
    }

    /// Starts a shell script.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn start(&mut self, script: &str) -> Result<Job> {
        self.started += 1;
        let number = self.started;
        fs::write(self.file(Job(number), "sh"), script).context("cannot write a script")?;
        let sent = self.line.get_mut().write_all(format!("{number}\n").as_bytes());
        sent.with_context(|| format!("the guest is gone: {}", self.console()))?;
        Ok(Job(number))
    }

    /// Waits until a script ends, at most `limit`.
    ///
    /// # Errors
    /// It does not, or the guest is gone.
    pub fn wait(&mut self, job: Job, limit: Duration) -> Result<Answer> {
        let until = Instant::now() + limit;
        loop {
            if let Some(code) = self.finished.remove(&job.0) {
                let text = |kind| read_log(&self.file(job, kind));
                return Ok(Answer { code, stdout: text("out"), stderr: text("err") });
            }
            if self.take_answer(until)? {
                continue;
            }
            let [script, stdout, stderr] =
                ["sh", "out", "err"].map(|k| read_log(&self.file(job, k)));
            let console = self.console();
            bail!("the guest did not end within {limit:?}:\n{script}\n{stdout}{stderr}{console}");
        }
    }

    /// Whether a script has ended.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn has_ended(&mut self, job: Job) -> Result<bool> {
        while self.take_answer(Instant::now())? {}
        Ok(self.finished.contains_key(&job.0))
    }

    /// What a script has written to standard output so far.
    pub fn printed(&self, job: Job) -> String {
        read_log(&self.file(job, "out"))
    }

    /// What a script has written to standard error so far.
    pub fn complaints(&self, job: Job) -> String {
        read_log(&self.file(job, "err"))
    }

    /// Runs a script to its end, whatever its exit code.
    ///
    /// # Errors
    /// It does not end within two minutes, or the guest is gone.
    pub fn ask(&mut self, script: &str) -> Result<Answer> {
        let job = self.start(script)?;
        self.wait(job, SCRIPT_LIMIT)
    }

    /// Runs a script that has to end well; its standard output.
    ///
    /// # Errors
    /// As [`Guest::ask`], and any exit code but 0.
    pub fn run(&mut self, script: &str) -> Result<String> {
        let Answer { code, stdout, stderr } = self.ask(script)?;
        ensure!(code == 0, "in the guest: exit code {code} of\n{script}\n{stdout}{stderr}");
        Ok(stdout)
    }

    /// Loads kernel modules, with what they need.
    ///
    /// # Errors
    /// There is no such module.
    pub fn load(&mut self, modules: &[&str]) -> Result<()> {
        let script = self.image.modprobe(modules);
        self.run(&script).map(drop)
    }

    /// Pulls the cable of the internal (0) or the external card (1), or puts it back.
    ///
    /// # Errors
    /// qemu refuses.
    pub fn cable(&mut self, card: usize, is_in: bool) -> Result<()> {
        let command = format!("set_link {} {}\n", NAMES[card], if is_in { "on" } else { "off" });
        self.monitor.write_all(command.as_bytes()).context("qemu's monitor is gone")?;
        let said = self.hear_monitor()?;
        ensure!(!said.contains("Error"), "qemu said {said}");
        Ok(())
    }

    /// What the monitor says until it asks for another command.
    fn hear_monitor(&mut self) -> Result<String> {
        let mut said = Vec::new();
        let mut some = [0; 4096];
        while !said.ends_with(b"(qemu) ") {
            let count = self.monitor.read(&mut some).context("qemu's monitor does not answer")?;
            ensure!(count > 0, "qemu's monitor is gone: {}", self.console());
            said.extend_from_slice(&some[..count]);
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    fn file(&self, job: Job, kind: &str) -> PathBuf {
        self.exchange().join(format!("{}.{kind}", job.0))
    }

    /// Takes one answer off the line, waiting until then for it; whether there was one.
    fn take_answer(&mut self, until: Instant) -> Result<bool> {
        let Some(line) = self.next_line(until)? else { return Ok(false) };
        let (number, code) = line.split_once(' ').unwrap_or_default();
        let answer = number.parse().ok().zip(code.parse().ok());
        let (number, code) = answer.with_context(|| format!("the guest answered {line:?}"))?;
        self.finished.insert(number, code);
        Ok(true)
    }

    /// The next line that the guest sends.
    fn next_line(&mut self, until: Instant) -> Result<Option<String>> {
        loop {
            match self.line.read_until(b'\n', &mut self.begun) {
                Ok(_) if self.begun.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.begun);
                    return Ok(Some(String::from_utf8_lossy(&line).trim().to_owned()));
                }
                Ok(_) => {
                    let status = self.qemu.wait_within(Duration::from_secs(5))?;
                    bail!("the guest is gone, qemu ended with {status}: {}", self.console());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot read the serial line"),
            }
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }
}
