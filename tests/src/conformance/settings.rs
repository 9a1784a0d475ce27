//! The configuration of a conversation.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv4Net;

use crate::appliance::{self, Devices, EXTERNAL_PORT, INTERNAL_PORT};
use crate::lab::{BOX_EXTERNAL, BOX_INTERNAL, MACS, ROUTER, WORLD};
use crate::process::output_within;

const CHECK_LIMIT: Duration = Duration::from_secs(20);

/// What the appliance is configured with. The default is the smallest file that works: every
/// key of it is required, all else has its default.
#[derive(Debug, Clone)]
pub struct Settings {
    pool: Vec<String>,
    pool_keys: String,
    /// Further pools: name, addresses and keys.
    further: Vec<(String, Vec<String>, String)>,
    /// The pools of the group, as its section writes them.
    uses: String,
    group_keys: String,
    subscribers: Vec<Ipv4Net>,
    sections: String,
    system: String,
    mtu: [u16; 2],
    /// Seed of the choice of ports; from entropy if there is none.
    pub(super) seed: Option<u64>,
    /// Prefixes that may leave untranslated, by a bypass rule.
    pub(super) untranslated: Vec<Ipv4Net>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            pool: vec!["203.0.113.0/28".to_owned()],
            pool_keys: String::new(),
            further: Vec::new(),
            uses: "main".to_owned(),
            group_keys: String::new(),
            subscribers: vec![super::net("100.64.0.0/10")],
            sections: String::new(),
            system: "  workers: 1\n".to_owned(),
            mtu: [1500; 2],
            seed: Some(1),
            untranslated: Vec::new(),
        }
    }
}

impl Settings {
    /// Other external addresses: prefixes, ranges, single addresses.
    #[must_use]
    pub fn pool(self, items: &[&str]) -> Settings {
        Settings { pool: items.iter().map(|item| (*item).to_owned()).collect(), ..self }
    }

    /// Further keys of the pool, as its section writes them.
    #[must_use]
    pub fn pool_keys(mut self, text: &str) -> Settings {
        for line in text.lines() {
            self.pool_keys.push_str(&format!("    {line}\n"));
        }
        self
    }

    /// A further pool, with its keys in one line.
    #[must_use]
    pub fn further_pool(mut self, name: &str, items: &[&str], keys: &str) -> Settings {
        let items = items.iter().map(|item| (*item).to_owned()).collect();
        self.further.push((name.to_owned(), items, keys.to_owned()));
        self
    }

    /// Other pools for the group than `main`.
    #[must_use]
    pub fn uses(self, pools: &str) -> Settings {
        Settings { uses: pools.to_owned(), ..self }
    }

    /// Further keys of the group of subscribers, as its section writes them.
    #[must_use]
    pub fn group_keys(mut self, text: &str) -> Settings {
        for line in text.lines() {
            self.group_keys.push_str(&format!("    {line}\n"));
        }
        self
    }

    /// Other subscriber ranges.
    #[must_use]
    pub fn subscribers(self, prefixes: &[&str]) -> Settings {
        Settings { subscribers: prefixes.iter().map(|prefix| super::net(prefix)).collect(), ..self }
    }

    /// A further section, whole.
    #[must_use]
    pub fn section(mut self, text: &str) -> Settings {
        self.sections.push_str(text);
        self.sections.push('\n');
        self
    }

    /// Further keys of the system's section, one per line, and other workers than one.
    #[must_use]
    pub fn system(self, text: &str) -> Settings {
        let system = text.lines().map(|line| format!("  {line}\n")).collect();
        Settings { system, ..self }
    }

    /// MTU of the internal and the external port.
    #[must_use]
    pub fn mtu(self, internal: u16, external: u16) -> Settings {
        Settings { mtu: [internal, external], ..self }
    }

    /// Another seed of the choice of ports.
    #[must_use]
    pub fn seed(self, seed: u64) -> Settings {
        Settings { seed: Some(seed), ..self }
    }

    /// Without a seed, as in production. A conversation can then look only once.
    #[must_use]
    pub fn unseeded(self) -> Settings {
        Settings { seed: None, ..self }
    }

    /// Prefixes of internal addresses, and of destinations, that may be seen outside.
    #[must_use]
    pub fn untranslated(self, prefixes: &[&str]) -> Settings {
        let untranslated = prefixes.iter().map(|prefix| super::net(prefix)).collect();
        Settings { untranslated, ..self }
    }

    /// Whether an address belongs to a pool.
    pub fn is_pool(&self, address: Ipv4Addr) -> bool {
        let further = self.further.iter().flat_map(|(_, items, _)| items);
        self.pool.iter().chain(further).any(|item| match item.split_once('-') {
            Some((first, last)) => (super::ip(first)..=super::ip(last)).contains(&address),
            None if item.contains('/') => super::net(item).contains(&address),
            None => super::ip(item) == address,
        })
    }

    /// Whether an address is one of the internal side alone.
    pub fn is_inside(&self, address: Ipv4Addr) -> bool {
        let link = super::net("10.255.0.0/30");
        let shared = super::net("100.64.0.0/10");
        self.subscribers.iter().chain([&link, &shared]).any(|net| net.contains(&address))
    }

    /// The configuration file.
    pub fn yaml(&self, name: &str, devices: &Devices) -> String {
        let Devices { internal, external, .. } = devices;
        let [router, _, _, world] = MACS;
        let list =
            |nets: &[Ipv4Net]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let further = self.further.iter().map(|(name, items, keys)| {
            format!("  {name}: {{ addresses: [{}], {keys} }}\n", items.join(", "))
        });
        let further: Vec<String> = further.collect();
        format!(
            "version: 1\n\
             system:\n  name: {name}\n  memory: 256MiB\n  huge-pages: off\n\
             \x20 max-mappings: 20_000\n{}\
             ports:\n\
             \x20 {INTERNAL_PORT}:\n    side: internal\n    device: \"{internal}\"\n\
             \x20   addresses: [{BOX_INTERNAL}/30]\n    next-hop: {ROUTER}\n    mtu: {}\n\
             \x20   neighbours: [{{ address: {ROUTER}, mac: \"{router}\" }}]\n\
             \x20 {EXTERNAL_PORT}:\n    side: external\n    device: \"{external}\"\n\
             \x20   addresses: [{BOX_EXTERNAL}/30]\n    next-hop: {WORLD}\n    mtu: {}\n\
             \x20   neighbours: [{{ address: {WORLD}, mac: \"{world}\" }}]\n\
             pools:\n  main:\n    addresses: [{}]\n{}{}\
             subscribers:\n  - name: everyone\n    match: [{}]\n    pool: {}\n{}{}",
            self.system,
            self.mtu[0],
            self.mtu[1],
            self.pool.join(", "),
            self.pool_keys,
            further.concat(),
            list(&self.subscribers),
            self.uses,
            self.group_keys,
            self.sections,
        )
    }

    /// What a command of `cgnat` says about this configuration, and its exit code.
    fn asked(&self, command: &str, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        for name in ["internal.pcap", "external.pcap"] {
            super::capture::write(&directory.path().join(name), &[])?;
        }
        let devices = Devices::captures(directory.path(), &directory.path().join("out"));
        std::fs::create_dir(directory.path().join("out")).context("cannot make a directory")?;
        let file = directory.path().join("cgnat.yaml");
        std::fs::write(&file, self.yaml("check", &devices)).context("cannot write")?;
        let mut program = Command::new(appliance::program()?);
        program.arg(command).arg(&file).args(arguments);
        let output = output_within(program, CHECK_LIMIT)?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// What `cgnat lookup` answers from this configuration alone.
    ///
    /// # Errors
    /// It has no answer.
    pub fn looked_up(&self, direction: &str, what: &str) -> Result<String> {
        let (code, text) = self.asked("lookup", &[direction, what])?;
        ensure!(code == Some(0), "no answer for {what} (exit code {code:?}):\n{text}");
        Ok(text)
    }

    /// That the configuration is refused with a message that has all of `words`.
    ///
    /// # Errors
    /// It is not.
    pub fn refused(&self, words: &[&str]) -> Result<()> {
        let (code, text) = self.asked("check", &[])?;
        ensure!(code == Some(78), "not refused (exit code {code:?}):\n{text}");
        words.iter().try_for_each(|word| {
            ensure!(text.contains(word), "refused without {word:?}:\n{text}");
            Ok(())
        })
    }

    /// That the configuration is accepted; what `cgnat check` says.
    ///
    /// # Errors
    /// It is not.
    pub fn accepted(&self) -> Result<String> {
        let (code, text) = self.asked("check", &[])?;
        ensure!(code == Some(0), "not accepted (exit code {code:?}):\n{text}");
        Ok(text)
    }
}
