//! The appliance on the cards of a guest: bound, started, asked, stopped.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::cards::{EXTERNAL_CARD, INTERNAL_CARD};
use super::guest::{Answer, Guest, Job};
use crate::appliance::{Devices, Outcome, Settings, program};
use crate::lab::{BOX_EXTERNAL, BOX_INTERNAL, Lab, ROUTER, WORLD};
use crate::process::wait_until;
use crate::stats::Stats;
use crate::traffic;

/// Huge pages of 2 MiB that [`reserve_huge_pages`] sets aside: all that the configuration asks for.
const HUGE_PAGES: u32 = 256;
const SOCKET: &str = "/run/cgnat/control.sock";
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Two workers, packets and tables in huge pages, a socket to ask.
pub fn settings() -> Settings {
    Settings {
        workers: 2,
        huge_pages: true,
        control_socket: Some(SOCKET.to_owned()),
        ..Settings::default()
    }
}

/// The cards as the two devices of a configuration.
pub fn cards() -> Devices {
    let [internal, external] = [INTERNAL_CARD, EXTERNAL_CARD].map(str::to_owned);
    Devices { internal, external, silent: false }
}

/// Takes the guest's cards from whatever driver they have and gives them to `driver`; with `None`
/// to the kernel's own. As driverctl does it.
///
/// # Errors
/// The driver does not take one.
pub fn bind(guest: &mut Guest, cards: &[&str], driver: Option<&str>) -> Result<()> {
    let cards = cards.join(" ");
    let choice = driver.unwrap_or_default();
    let script = format!(
        "set -e; for card in {cards}; do cd /sys/bus/pci/devices/$card\n\
         if [ -e driver ]; then echo $card > driver/unbind; fi\n\
         echo {choice} > driver_override; echo $card > /sys/bus/pci/drivers_probe\n\
         test -e driver || {{ echo no driver took $card >&2; exit 1; }}; done"
    );
    guest.run(&script).map(drop)
}

/// Sets huge pages aside, as a service's machine does at boot.
///
/// # Errors
/// The guest has not the memory.
pub fn reserve_huge_pages(guest: &mut Guest) -> Result<()> {
    let got = guest
        .run(&format!("sysctl -q -w vm.nr_hugepages={HUGE_PAGES}; sysctl -n vm.nr_hugepages"))?;
    ensure!(got.trim() == HUGE_PAGES.to_string(), "{got} huge pages instead of {HUGE_PAGES}");
    Ok(())
}

/// Mounts the file system of huge pages where systemd would.
///
/// # Errors
/// It cannot be.
pub fn mount_huge_pages(guest: &mut Guest) -> Result<()> {
    guest.run("mkdir -p /dev/hugepages && mount -t hugetlbfs none /dev/hugepages").map(drop)
}

/// `cgnat SUBCOMMAND` about a configuration with these devices, to its end.
///
/// # Errors
/// It does not end.
pub fn ask_about(guest: &mut Guest, subcommand: &str, devices: &Devices) -> Result<Answer> {
    let text = settings().yaml("vm", devices);
    fs::write(guest.exchange().join("asked.yaml"), text).context("cannot write a configuration")?;
    let program = program()?;
    guest.ask(&format!("exec {} {subcommand} /run/exchange/asked.yaml", program.display()))
}

/// `cgnat run` in a guest, started as its service would: in the foreground, with a runtime
/// directory of its own, until SIGTERM.
#[derive(Debug)]
pub struct Deployment<'a> {
    guest: &'a mut Guest,
    job: Job,
}

impl<'a> Deployment<'a> {
    /// Starts it on both cards and waits until both sides can reach it.
    ///
    /// # Errors
    /// It ends, or is not ready within two minutes, with what it said.
    pub fn start(lab: &Lab, guest: &'a mut Guest) -> Result<Deployment<'a>> {
        Self::start_with(lab, guest, &settings())
    }

    /// Likewise, with these settings.
    ///
    /// # Errors
    /// As of [`Deployment::start`].
    pub fn start_with(
        lab: &Lab,
        guest: &'a mut Guest,
        settings: &Settings,
    ) -> Result<Deployment<'a>> {
        let configuration = guest.exchange().join("cgnat.yaml");
        fs::write(configuration, settings.yaml("vm", &cards()))
            .context("cannot write the configuration")?;
        let stats = guest.exchange().join("stats.json");
        let _ = fs::remove_file(&stats);
        let program = program()?;
        let begun = Instant::now();
        let job = guest.start(&format!(
            "mkdir -p /run/cgnat; echo $$ > pid; export RUNTIME_DIRECTORY=/run/cgnat\n\
             exec {} run cgnat.yaml --stats-file stats.json",
            program.display()
        ))?;
        let mut deployment = Deployment { guest, job };
        deployment.wait_ready()?;
        let ready = begun.elapsed();
        for (namespace, own, of_box) in
            [(&lab.subscribers, ROUTER, BOX_INTERNAL), (&lab.server, WORLD, BOX_EXTERNAL)]
        {
            wait_until("an answer of the box", START_LIMIT, || {
                Ok(traffic::ping(namespace, own, of_box, 1, 56)? == 1)
            })
            .with_context(|| deployment.errors())?;
        }
        println!("cgnat run: ready after {ready:.1?}, reached after {:.1?}", begun.elapsed());
        Ok(deployment)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let until = Instant::now() + START_LIMIT;
        while !self.printed().lines().any(|line| line.starts_with("ready")) {
            if self.guest.has_ended(self.job)? {
                let Answer { code, stdout, stderr } = self.guest.wait(self.job, STOP_LIMIT)?;
                bail!("cgnat run ended with {code} before it was ready:\n{stdout}{stderr}");
            }
            ensure!(Instant::now() < until, "not ready within {START_LIMIT:?}: {}", self.errors());
        }
        Ok(())
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        self.guest.printed(self.job)
    }

    /// What it wrote to standard error so far.
    pub fn errors(&self) -> String {
        self.guest.complaints(self.job)
    }

    /// Pulls the cable of the internal (0) or the external card (1), or puts it back.
    ///
    /// # Errors
    /// qemu refuses.
    pub fn cable(&mut self, card: usize, is_in: bool) -> Result<()> {
        self.guest.cable(card, is_in)
    }

    /// `cgnat show steering`: its text, and its JSON.
    ///
    /// # Errors
    /// The box does not answer.
    pub fn steering(&mut self) -> Result<(String, Value)> {
        let ask = format!("{} show steering --socket {SOCKET}", program()?.display());
        let text = self.guest.run(&ask)?;
        let json = self.guest.run(&format!("{ask} --json"))?;
        Ok((text, serde_json::from_str(&json).context("not JSON")?))
    }

    /// Stops it with SIGTERM and reads its statistics.
    ///
    /// # Errors
    /// It did not end in time, ended with another code than 0, or left no statistics.
    pub fn stop(self) -> Result<Outcome> {
        self.guest.run("kill -TERM $(cat pid)")?;
        let Answer { code, stdout, stderr } = self.guest.wait(self.job, STOP_LIMIT)?;
        ensure!(code == 0, "cgnat run ended with {code}:\n{stdout}{stderr}");
        let stats = Stats::read(&self.guest.exchange().join("stats.json"))?;
        Ok(Outcome { printed: stdout, stats })
    }
}
