//! Huge pages for as long as somebody wants them.

use anyhow::{Context as _, Result, ensure};
use std::process::Command;

/// Where the kernel counts huge pages of 2 MiB.
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Where DPDK looks for huge pages.
const HUGE_MOUNT: &str = "/dev/hugepages";

/// Huge pages that are free. What was there is set again when dropped.
#[derive(Debug)]
pub struct HugePages {
    before: String,
}

impl HugePages {
    /// Sees to `mib` in pages of 2 MiB.
    ///
    /// # Errors
    /// Not root, or the kernel has not that much memory in one piece each.
    pub fn take(mib: u64) -> Result<Self> {
        let before = std::fs::read_to_string(HUGE_PAGES)
            .with_context(|| format!("{HUGE_PAGES}: this kernel has no huge pages"))?;
        let pages = mib / 2;
        std::fs::write(HUGE_PAGES, pages.to_string())
            .with_context(|| format!("{HUGE_PAGES}: cannot be written; run this as root"))?;
        let kept = Self { before };
        let got: u64 = std::fs::read_to_string(HUGE_PAGES)?.trim().parse()?;
        ensure!(
            got >= pages,
            "{mib} MiB of huge pages are needed, the kernel gave {} MiB",
            got * 2
        );
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        if !mounts.lines().any(|line| line.split(' ').nth(2) == Some("hugetlbfs")) {
            std::fs::create_dir_all(HUGE_MOUNT)?;
            let status =
                Command::new("mount").args(["-t", "hugetlbfs", "none", HUGE_MOUNT]).status()?;
            ensure!(status.success(), "hugetlbfs cannot be mounted at {HUGE_MOUNT}");
        }
        Ok(kept)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Nothing more can be done about it here.
        let _ = std::fs::write(HUGE_PAGES, &self.before);
    }
}
