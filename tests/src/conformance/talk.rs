//! A conversation through the real program.
//!
//! A case sends packets from both sides at chosen times, looks at what came out, and sends the
//! next ones depending on it. Behind that `cgnat run` replays captures (NAT time is their time
//! stamps, so hours pass in no time): each look runs the program anew over everything that was
//! sent so far. The choice of ports follows from the seed, so what was seen before is seen
//! again, and this is checked. Every frame that comes out is checked by [`super::judge`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::packet::Packet;
use super::settings::Settings;
use super::{capture, judge};
use crate::appliance::{self, Devices};
use crate::lab::MACS;
use crate::process::run;
use crate::stats::Stats;

const RUN_LIMIT: Duration = Duration::from_secs(120);

/// A side of the appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Towards the subscribers.
    Internal,
    /// Towards the Internet.
    External,
}

impl Side {
    fn index(self) -> usize {
        usize::from(self == Side::External)
    }
}

/// What came out since the last look.
pub struct Seen {
    /// To the subscribers.
    pub inside: Vec<Packet>,
    /// To the Internet.
    pub outside: Vec<Packet>,
    /// Drops since the last look, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Statistics at the time of the last packet.
    pub stats: Stats,
}

impl fmt::Debug for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { inside, outside, drops, stats: _ } = self;
        let mut shown = formatter.debug_struct("Seen");
        shown.field("inside", inside).field("outside", outside).field("drops", drops).finish()
    }
}

impl Seen {
    /// The one packet that came out, to the Internet.
    ///
    /// # Errors
    /// Something else came out.
    pub fn one_outside(mut self) -> Result<Packet> {
        ensure!(
            self.outside.len() == 1 && self.inside.is_empty(),
            "not one packet to the Internet: {self:#?}"
        );
        self.outside.pop().context("there is one")
    }

    /// The one packet that came out, to the subscribers.
    ///
    /// # Errors
    /// Something else came out.
    pub fn one_inside(mut self) -> Result<Packet> {
        ensure!(
            self.inside.len() == 1 && self.outside.is_empty(),
            "not one packet to the subscribers: {self:#?}"
        );
        self.inside.pop().context("there is one")
    }

    /// That nothing came out.
    ///
    /// # Errors
    /// Something did.
    pub fn nothing(&self) -> Result<()> {
        ensure!(self.inside.is_empty() && self.outside.is_empty(), "came out: {self:#?}");
        Ok(())
    }

    /// That nothing came out and the drops are `count` of one reason.
    ///
    /// # Errors
    /// It is not so.
    pub fn only_drops(&self, reason: &str, count: u64) -> Result<()> {
        self.nothing()?;
        let want = BTreeMap::from([(reason.to_owned(), count)]);
        ensure!(self.drops == want, "drops {:?}, expected {want:?}", self.drops);
        Ok(())
    }
}

/// A conversation. It lasts as long as its capture.
pub struct Talk {
    settings: Settings,
    sent: [Vec<(Duration, Vec<u8>)>; 2],
    now: Duration,
    seen: [Vec<Vec<u8>>; 2],
    drops: BTreeMap<String, u64>,
    checksums: bool,
}

impl Talk {
    /// A conversation with this configuration.
    pub fn new(settings: Settings) -> Talk {
        Talk {
            settings,
            sent: [Vec::new(), Vec::new()],
            now: Duration::ZERO,
            seen: [Vec::new(), Vec::new()],
            drops: BTreeMap::new(),
            checksums: true,
        }
    }

    /// With the smallest configuration.
    pub fn with_defaults() -> Talk {
        Talk::new(Settings::default())
    }

    /// Lets wrong transport checksums pass: the case sends such, and a NAT passes them on.
    pub fn allow_wrong_checksums(&mut self) {
        self.checksums = false;
    }

    /// Sends a packet at `at` seconds, or just after the one before if that is later.
    pub fn send(&mut self, side: Side, at: f64, packet: &Packet) {
        self.send_bytes(side, at, &packet.bytes());
    }

    /// Sends a packet from a subscriber.
    pub fn inside(&mut self, at: f64, packet: &Packet) {
        self.send(Side::Internal, at, packet);
    }

    /// Sends a packet from the Internet.
    pub fn outside(&mut self, at: f64, packet: &Packet) {
        self.send(Side::External, at, packet);
    }

    /// Sends bytes as an IPv4 packet.
    pub fn send_bytes(&mut self, side: Side, at: f64, bytes: &[u8]) {
        let (to, from) = macs(side);
        self.send_frame(side, at, &[&to[..], &from, &[8, 0], bytes].concat());
    }

    /// Sends a whole frame.
    pub fn send_frame(&mut self, side: Side, at: f64, frame: &[u8]) {
        // Microseconds are what the capture keeps: no two packets have the same time.
        let after = self.now + Duration::from_micros(1);
        self.now = Duration::from_micros((at * 1e6).round() as u64).max(after);
        self.sent[side.index()].push((self.now, frame.to_vec()));
    }

    /// Sends one packet from a subscriber; the one that leaves for the Internet.
    ///
    /// # Errors
    /// Not exactly that came out.
    pub fn outbound(&mut self, at: f64, packet: &Packet) -> Result<Packet> {
        self.inside(at, packet);
        self.look()?.one_outside().with_context(|| format!("outbound at {at} s"))
    }

    /// Sends one packet from the Internet; the one that a subscriber gets.
    ///
    /// # Errors
    /// Not exactly that came out.
    pub fn inbound(&mut self, at: f64, packet: &Packet) -> Result<Packet> {
        self.outside(at, packet);
        self.look()?.one_inside().with_context(|| format!("inbound at {at} s"))
    }

    /// Sends one packet, which is answered to the side that it came from; the answer.
    ///
    /// # Errors
    /// Not exactly that came out.
    pub fn answered(&mut self, side: Side, at: f64, packet: &Packet) -> Result<Packet> {
        self.send(side, at, packet);
        let seen = self.look()?;
        match side {
            Side::Internal => seen.one_inside(),
            Side::External => seen.one_outside(),
        }
    }

    /// Sends one packet, of which nothing comes out but a drop of `reason`.
    ///
    /// # Errors
    /// It is not so.
    pub fn dropped(&mut self, side: Side, at: f64, packet: &Packet, reason: &str) -> Result<()> {
        self.send(side, at, packet);
        self.look()?.only_drops(reason, 1).with_context(|| format!("{side:?} at {at} s"))
    }

    /// Sends one packet from a subscriber, which is dropped for `reason`; the subscriber gets an
    /// ICMP error of this type and code, and nothing else comes out.
    ///
    /// # Errors
    /// It is not so.
    pub fn refused(
        &mut self,
        at: f64,
        packet: &Packet,
        reason: &str,
        kind: (u8, u8),
    ) -> Result<()> {
        self.inside(at, packet);
        let seen = self.look()?;
        let want = BTreeMap::from([(reason.to_owned(), 1)]);
        ensure!(seen.drops == want, "drops {:?}, expected {want:?}", seen.drops);
        let told = seen.one_inside().with_context(|| format!("refused at {at} s"))?;
        let to = (told.icmp(), told.destination);
        ensure!(to == (Some(kind), packet.source), "told {told:?}");
        Ok(())
    }

    /// Runs the program over all that was sent so far; what came out since the last look.
    ///
    /// # Errors
    /// The program failed, a frame is not as it must be, or what was seen before was not seen
    /// again.
    pub fn look(&mut self) -> Result<Seen> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let (from, to) = (directory.path().join("in"), directory.path().join("out"));
        for directory in [&from, &to] {
            std::fs::create_dir(directory).context("cannot make a directory")?;
        }
        capture::write(&from.join("internal.pcap"), &self.sent[0])?;
        capture::write(&from.join("external.pcap"), &self.sent[1])?;
        let name = format!("talk-{}-{serial}", std::process::id());
        let file = directory.path().join("cgnat.yaml");
        let text = self.settings.yaml(&name, &Devices::captures(&from, &to));
        std::fs::write(&file, text).context("cannot write the configuration")?;
        let stats = replay(&file, self.settings.seed, directory.path())?;

        let mut fresh = [Vec::new(), Vec::new()];
        for (side, name) in [(Side::Internal, "internal.pcap"), (Side::External, "external.pcap")] {
            let frames = capture::read(&to.join(name))?;
            let known = &mut self.seen[side.index()];
            ensure!(
                frames.starts_with(known),
                "{side:?}: the replay gave other frames than before"
            );
            for frame in &frames[known.len()..] {
                let packet = judge::frame(side, frame, &self.settings, self.checksums);
                fresh[side.index()].push(packet.with_context(|| format!("sent to {side:?}"))?);
            }
            *known = frames;
        }
        let balance = |key: &str| stats.document()["balance"][key].as_u64();
        if balance("came").is_none() || balance("came") != balance("ended") {
            bail!("frames are not accounted for: {}", stats.document()["balance"]);
        }
        ensure!(stats.ownership_violations()? == 0, "an ownership violation");
        let drops = stats.drops()?;
        let mut new_drops = drops.clone();
        for (reason, count) in &self.drops {
            let left = new_drops.get(reason).copied().unwrap_or_default().checked_sub(*count);
            new_drops.insert(reason.clone(), left.context("a counter went down")?);
        }
        new_drops.retain(|_, count| *count > 0);
        self.drops = drops;
        let [inside, outside] = fresh;
        Ok(Seen { inside, outside, drops: new_drops, stats })
    }
}

/// Runs the program with a configuration whose devices are captures; its statistics.
///
/// # Errors
/// It failed, or did not end in time.
pub fn replay(file: &Path, seed: Option<u64>, directory: &Path) -> Result<Stats> {
    let stats = directory.join("stats.json");
    let mut command = Command::new(appliance::program()?);
    command.env("RUNTIME_DIRECTORY", directory);
    command.arg("run").arg(file).arg("--stats-file").arg(&stats);
    command.args(seed.map(|seed| format!("--seed={seed}")));
    run(command, RUN_LIMIT)?;
    Stats::read(&stats)
}

/// Destination and source MAC of a frame that arrives on a side.
fn macs(side: Side) -> ([u8; 6], [u8; 6]) {
    let [router, internal, external, world] = MACS.map(bytes_of);
    match side {
        Side::Internal => (internal, router),
        Side::External => (external, world),
    }
}

pub(super) fn bytes_of(mac: &str) -> [u8; 6] {
    let mut bytes = [0; 6];
    for (byte, text) in bytes.iter_mut().zip(mac.split(':')) {
        *byte = u8::from_str_radix(text, 16).expect("MACs of the laboratory are right");
    }
    bytes
}
