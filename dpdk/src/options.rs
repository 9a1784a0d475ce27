//! What the EAL is started with, checked before DPDK sees it.
//!
//! The EAL answers a bad argument with pages of usage text on standard output, and some with
//! an abort, so nothing reaches it that is not known to be well formed.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::Path;

use crate::affinity;

/// One EAL thread: a lcore number and the CPU it is bound to. Several lcores may share a CPU
/// (right for tests, slow).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lcore {
    /// The lcore's number, below 128.
    pub id: u16,
    /// The CPU it runs on.
    pub cpu: u16,
}

/// How devices address memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IovaMode {
    /// The EAL asks the buses. Virtual when no PCI device is allowed, because the kernel may
    /// hide physical addresses and nobody needs them then.
    #[default]
    Auto,
    /// Virtual addresses: needs an IOMMU if there are PCI devices.
    Virtual,
    /// Physical addresses: needs root.
    Physical,
}

/// The least important messages of DPDK that are shown, on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what may be wrong.
    #[default]
    Warning,
    /// And notes from drivers and the EAL.
    Notice,
    /// And how the machine looks to the EAL.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// How to start the EAL. [`EalOptions::default`] runs on CPU 0 without huge pages and
/// devices, which works for any user on any machine.
#[derive(Clone, Debug)]
pub struct EalOptions {
    /// The program's name in messages.
    pub program: String,
    /// Separates the runtime files of programs on one machine; letters, digits, `_ - .`.
    ///
    /// With huge pages a second program with the same prefix is refused. Without, no lock is
    /// taken: guard against two instances elsewhere.
    pub file_prefix: String,
    /// The lcores to start. [`crate::Eal::init`] binds the calling thread to the main one.
    pub lcores: Vec<Lcore>,
    /// Which of them is the main lcore: the calling thread.
    pub main_lcore: u16,
    /// Memory taken at start, in MiB, for pools, rings, zones and drivers.
    pub memory_mib: u32,
    /// The same by NUMA node, in MiB, for huge pages; empty to take it where DPDK likes.
    pub node_memory_mib: Vec<u32>,
    /// True: huge pages, unlinked once mapped, so a killed process leaves none behind.
    /// False: ordinary memory, for tests and small installations.
    pub huge_pages: bool,
    /// How devices address memory.
    pub iova_mode: IovaMode,
    /// PCI devices to take, e.g. `0000:3b:00.0`, with optional driver arguments after a
    /// comma. Empty: the PCI bus is not looked at.
    pub allow_pci: Vec<String>,
    /// Virtual devices to make, e.g. `net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap`.
    pub vdevs: Vec<String>,
    /// Whether DPDK's telemetry socket is opened, for `dpdk-telemetry.py`.
    pub telemetry: bool,
    /// What DPDK may write to standard error.
    pub log_level: LogLevel,
}

impl Default for EalOptions {
    fn default() -> Self {
        Self {
            program: "dpdk".to_owned(),
            file_prefix: "dpdk".to_owned(),
            lcores: vec![Lcore { id: 0, cpu: 0 }],
            main_lcore: 0,
            memory_mib: 64,
            node_memory_mib: Vec::new(),
            huge_pages: false,
            iova_mode: IovaMode::Auto,
            allow_pci: Vec::new(),
            vdevs: Vec::new(),
            telemetry: false,
            log_level: LogLevel::Warning,
        }
    }
}

/// An option that DPDK would refuse, found before it was asked.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// There is no lcore to run on.
    #[error("no lcore is listed; the EAL needs at least one")]
    NoLcores,
    /// Two entries have one number.
    #[error("lcore {id} is listed twice")]
    DuplicateLcore {
        /// The number.
        id: u16,
    },
    /// The number is beyond what DPDK was built for.
    #[error("lcore {id} is out of range: this DPDK numbers lcores 0 to {highest}")]
    LcoreOutOfRange {
        /// The number.
        id: u16,
        /// The highest allowed one.
        highest: u32,
    },
    /// The main lcore is none of the listed.
    #[error("the main lcore {id} is not among the listed lcores")]
    MainLcoreNotListed {
        /// The number.
        id: u16,
    },
    /// A CPU does not exist or this process may not use it.
    #[error(
        "lcore {lcore} cannot run on CPU {cpu}: {source}; `lscpu -e` lists CPUs, a container \
         or service may be confined to some of them"
    )]
    ForbiddenCpu {
        /// The lcore.
        lcore: u16,
        /// Its CPU.
        cpu: u16,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A text is not one that DPDK could understand.
    #[error("{option} {value:?} {problem}")]
    Text {
        /// Which option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No memory was asked for.
    #[error("0 MiB of memory is not enough to start DPDK")]
    NoMemory,
    /// The machine has less free memory than asked for. Found first, because the EAL touches
    /// all of it and the kernel would kill a process for that.
    #[error(
        "DPDK was told to take {needed_mib} MiB, but {available_mib} MiB are available; lower \
         the memory option or free memory"
    )]
    NotEnoughMemory {
        /// Asked for, in MiB.
        needed_mib: u64,
        /// `MemAvailable`, or what the control group has left if less, in MiB.
        available_mib: u64,
    },
    /// There are fewer free huge pages than asked for.
    #[error(
        "DPDK was told to take {needed_mib} MiB of huge pages, but {available_mib} MiB are \
         free; reserve more, e.g. `dpdk-hugepages.py --setup {needed_mib}M`, or do without"
    )]
    NotEnoughHugePages {
        /// Asked for, in MiB.
        needed_mib: u64,
        /// Free pages of all sizes together, in MiB.
        available_mib: u64,
    },
}

impl EalOptions {
    /// The argument vector, once every option is known to be good.
    pub(crate) fn to_argv(&self) -> Result<Vec<CString>, OptionsError> {
        self.check_lcores()?;
        self.check_memory()?;
        let prefix_ok = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if self.file_prefix.is_empty() || !self.file_prefix.chars().all(prefix_ok) {
            return Err(OptionsError::Text {
                option: "file prefix",
                value: self.file_prefix.clone(),
                problem: "must be letters, digits, '_', '-' or '.'",
            });
        }
        let lcores: Vec<String> =
            self.lcores.iter().map(|lcore| format!("{}@{}", lcore.id, lcore.cpu)).collect();
        let mut args = vec![
            self.program.clone(),
            format!("--file-prefix={}", self.file_prefix),
            format!("--lcores={}", lcores.join(",")),
            format!("--main-lcore={}", self.main_lcore),
            self.memory_argument(),
            format!("--log-level={}", self.log_level.name()),
        ];
        if matches!(self.log_level, LogLevel::Info | LogLevel::Debug) {
            // Each component has a level of its own below the global one.
            args.push(format!("--log-level=*:{}", self.log_level.name()));
        }
        if self.huge_pages {
            args.push("--huge-unlink=always".to_owned());
        } else {
            args.extend(["--no-huge", "--no-shconf"].map(str::to_owned));
        }
        match (self.iova_mode, self.allow_pci.is_empty()) {
            (IovaMode::Virtual, _) | (IovaMode::Auto, true) => {
                args.push("--iova-mode=va".to_owned());
            }
            (IovaMode::Physical, _) => args.push("--iova-mode=pa".to_owned()),
            (IovaMode::Auto, false) => {}
        }
        if !self.telemetry {
            args.push("--no-telemetry".to_owned());
        }
        if self.allow_pci.is_empty() {
            args.push("--no-pci".to_owned());
        }
        for device in &self.allow_pci {
            args.push(format!("--allow={}", device_text("PCI device", device)?));
        }
        for device in &self.vdevs {
            args.push(format!("--vdev={}", device_text("virtual device", device)?));
        }
        args.into_iter()
            .map(|arg| {
                CString::new(arg).map_err(|error| OptionsError::Text {
                    option: "program name",
                    value: String::from_utf8_lossy(&error.into_vec()).into_owned(),
                    problem: "has a NUL byte",
                })
            })
            .collect()
    }

    fn memory_argument(&self) -> String {
        // Ordinary memory has no nodes.
        if self.node_memory_mib.is_empty() || !self.huge_pages {
            return format!("-m{}", self.memory_mib);
        }
        let nodes: Vec<String> = self.node_memory_mib.iter().map(u32::to_string).collect();
        format!("--socket-mem={}", nodes.join(","))
    }

    fn check_lcores(&self) -> Result<(), OptionsError> {
        if self.lcores.is_empty() {
            return Err(OptionsError::NoLcores);
        }
        let mut ids = BTreeSet::new();
        for &Lcore { id, .. } in &self.lcores {
            if u32::from(id) >= dpdk_sys::DPDK_MAX_LCORE {
                return Err(OptionsError::LcoreOutOfRange {
                    id,
                    highest: dpdk_sys::DPDK_MAX_LCORE - 1,
                });
            }
            if !ids.insert(id) {
                return Err(OptionsError::DuplicateLcore { id });
            }
        }
        if !ids.contains(&self.main_lcore) {
            return Err(OptionsError::MainLcoreNotListed { id: self.main_lcore });
        }
        match affinity::first_forbidden(self.lcores.iter().map(|lcore| lcore.cpu)) {
            None => Ok(()),
            Some((cpu, source)) => {
                let lcore = self.lcores.iter().find(|l| l.cpu == cpu).map_or(0, |l| l.id);
                Err(OptionsError::ForbiddenCpu { lcore, cpu, source })
            }
        }
    }

    fn check_memory(&self) -> Result<(), OptionsError> {
        let needed_mib = u64::from(self.memory_mib);
        if needed_mib == 0 {
            return Err(OptionsError::NoMemory);
        }
        // Where the kernel does not say, the EAL's own error has to do.
        if self.huge_pages {
            match free_huge_pages_mib() {
                Some(available_mib) if available_mib < needed_mib => {
                    Err(OptionsError::NotEnoughHugePages { needed_mib, available_mib })
                }
                _ => Ok(()),
            }
        } else {
            match available_memory_mib() {
                Some(available_mib) if available_mib < needed_mib => {
                    Err(OptionsError::NotEnoughMemory { needed_mib, available_mib })
                }
                _ => Ok(()),
            }
        }
    }
}

fn device_text<'a>(option: &'static str, value: &'a str) -> Result<&'a str, OptionsError> {
    let problem = if value.is_empty() {
        "is empty"
    } else if value.chars().any(char::is_control) {
        "has a control character"
    } else if !value.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        "does not start with a device name"
    } else {
        return Ok(value);
    };
    Err(OptionsError::Text { option, value: value.to_owned(), problem })
}

fn available_memory_mib() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let machine_mib = mem_available_kib(&meminfo)? / 1024;
    let group = Path::new("/sys/fs/cgroup");
    let group_mib =
        match (number_in(&group.join("memory.max")), number_in(&group.join("memory.current"))) {
            (Some(limit), Some(used)) => limit.saturating_sub(used) >> 20,
            _ => u64::MAX,
        };
    Some(machine_mib.min(group_mib))
}

fn mem_available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

fn free_huge_pages_mib() -> Option<u64> {
    let mut total_kib = 0;
    for entry in std::fs::read_dir("/sys/kernel/mm/hugepages").ok()? {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        let size_kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        total_kib += size_kib * number_in(&entry.path().join("free_hugepages"))?;
    }
    Some(total_kib / 1024)
}

fn number_in(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(options: &EalOptions) -> String {
        let args = options.to_argv().unwrap();
        args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    fn refusal(change: impl FnOnce(&mut EalOptions)) -> String {
        let mut options = EalOptions::default();
        change(&mut options);
        options.to_argv().unwrap_err().to_string()
    }

    #[test]
    fn the_default_needs_no_privilege_and_no_device() {
        assert_eq!(
            argv(&EalOptions::default()),
            "dpdk --file-prefix=dpdk --lcores=0@0 --main-lcore=0 -m64 --log-level=warning \
             --no-huge --no-shconf --iova-mode=va --no-telemetry --no-pci"
        );
    }

    #[test]
    fn memory_of_nodes_is_asked_for_where_there_are_huge_pages() {
        let mut options = EalOptions { node_memory_mib: vec![0, 300], ..EalOptions::default() };
        assert!(argv(&options).contains(" -m64 "));
        // What the machine has is not looked at here.
        options.huge_pages = true;
        assert_eq!(options.memory_argument(), "--socket-mem=0,300");
        options.node_memory_mib.clear();
        assert_eq!(options.memory_argument(), "-m64");
    }

    #[test]
    fn each_device_is_one_argument_that_cannot_be_taken_for_an_option() {
        let options = EalOptions {
            vdevs: vec!["net_pcap0,rx_pcap=a b.pcap".into()],
            allow_pci: vec!["0000:3b:00.0".into()],
            ..EalOptions::default()
        };
        let args = options.to_argv().unwrap();
        assert!(args.contains(&c"--vdev=net_pcap0,rx_pcap=a b.pcap".into()));
        assert!(args.contains(&c"--allow=0000:3b:00.0".into()));
        assert!(!args.contains(&c"--no-pci".into()));
        assert!(!args.contains(&c"--iova-mode=va".into()));
    }

    #[test]
    fn a_refused_option_is_named_with_its_value() {
        let lcore = |id, cpu| Lcore { id, cpu };
        for (message, expected) in [
            (refusal(|o| o.lcores.clear()), "no lcore is listed; the EAL needs at least one"),
            (refusal(|o| o.lcores.push(lcore(0, 0))), "lcore 0 is listed twice"),
            (
                refusal(|o| o.lcores.push(lcore(128, 0))),
                "lcore 128 is out of range: this DPDK numbers lcores 0 to 127",
            ),
            (refusal(|o| o.main_lcore = 7), "the main lcore 7 is not among the listed lcores"),
            (
                refusal(|o| o.file_prefix = "../x".into()),
                "file prefix \"../x\" must be letters, digits, '_', '-' or '.'",
            ),
            (
                refusal(|o| o.vdevs.push("--help".into())),
                "virtual device \"--help\" does not start with a device name",
            ),
            (
                refusal(|o| o.allow_pci.push("a\nb".into())),
                "PCI device \"a\\nb\" has a control character",
            ),
            (refusal(|o| o.vdevs.push(String::new())), "virtual device \"\" is empty"),
            (refusal(|o| o.program = "a\0b".into()), "program name \"a\\0b\" has a NUL byte"),
            (refusal(|o| o.memory_mib = 0), "0 MiB of memory is not enough to start DPDK"),
        ] {
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn a_cpu_that_is_not_there_is_found_before_the_eal_aborts() {
        let message = refusal(|o| o.lcores.push(Lcore { id: 3, cpu: 1000 }));
        assert!(
            message.starts_with("lcore 3 cannot run on CPU 1000: Invalid argument"),
            "{message}"
        );
    }

    #[test]
    fn more_memory_than_the_machine_has_is_refused_before_it_is_touched() {
        let message = refusal(|o| o.memory_mib = 1 << 30);
        assert!(message.starts_with("DPDK was told to take 1073741824 MiB, but "), "{message}");
        let message = refusal(|o| {
            o.memory_mib = 1 << 30;
            o.huge_pages = true;
        });
        assert!(message.contains("MiB of huge pages, but "), "{message}");
    }

    #[test]
    fn available_memory_is_read_from_the_kernels_table() {
        let table = "MemTotal:  100 kB\nMemAvailable:   2048 kB\nBuffers: 1 kB\n";
        assert_eq!(mem_available_kib(table), Some(2048));
        assert_eq!(mem_available_kib("MemTotal: 1 kB\n"), None);
    }
}
