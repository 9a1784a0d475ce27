//! Huge pages on the NUMA node of each worker, and what happens without them. Needs root, because
//! huge pages are reserved.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance;
use cgnat_tests::huge_pages::HugePages;
use cgnat_tests::lab::require_root;
use cgnat_tests::process::{Process, read_log, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// More than the configuration below needs, MiB.
const ENOUGH: u64 = 400;

/// What a run said, and the bytes of huge pages that it had by node.
struct Seen {
    printed: String,
    errors: String,
    huge: BTreeMap<u32, u64>,
}

fn configuration(huge_pages: &str) -> String {
    format!(
        "version: 1
system: {{ name: huge-pages-{}, workers: 2, memory: {ENOUGH}MiB, max-mappings: 100000, huge-pages: {huge_pages} }}
ports:
  internal0: {{ side: internal, device: \"net_null0,no-rx=1\", addresses: [10.255.0.2/30], next-hop: 10.255.0.1 }}
  external0: {{ side: external, device: \"net_null1,no-rx=1\", addresses: [192.0.2.2/30], next-hop: 192.0.2.1 }}
pools:
  main: {{ addresses: [203.0.113.0/28] }}
subscribers:
  - {{ name: everyone, match: [100.64.0.0/10], pool: main }}
",
        std::process::id(),
    )
}

/// `... huge dirty=160 N0=160 kernelpagesize_kB=2048`.
fn huge_bytes(process: u32) -> Result<BTreeMap<u32, u64>> {
    let mut bytes = BTreeMap::new();
    for line in std::fs::read_to_string(format!("/proc/{process}/numa_maps"))?.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().ok();
        let size = words.iter().find_map(|word| word.strip_prefix("kernelpagesize_kB="));
        let size = size.and_then(number).filter(|kib| *kib > 4).unwrap_or(0) << 10;
        for word in &words {
            let place = word.strip_prefix('N').and_then(|word| word.split_once('='));
            if let Some((node, pages)) = place {
                let node: u32 = node.parse()?;
                *bytes.entry(node).or_default() += number(pages).context("pages")? * size;
            }
        }
    }
    bytes.retain(|_, bytes| *bytes > 0);
    Ok(bytes)
}

/// Runs until it is ready, and ends it.
fn look(huge_pages: &str) -> Result<Seen> {
    let directory = tempfile::tempdir()?;
    let path = |name| directory.path().join(name);
    std::fs::write(path("box.yaml"), configuration(huge_pages))?;
    let mut command = Command::new(appliance::program()?);
    command.env("RUNTIME_DIRECTORY", directory.path()).arg("run").arg(path("box.yaml"));
    let log = |name| std::fs::File::create(path(name));
    command.stdin(Stdio::null()).stdout(log("out")?).stderr(log("err")?);
    let mut process = Process::start("cgnat run", command)?;
    let told = || format!("{}{}", read_log(&path("out")), read_log(&path("err")));
    wait_until("cgnat run", LIMIT, || {
        ensure!(process.try_wait()?.is_none(), "it has ended");
        Ok(told().contains("ready: "))
    })
    .with_context(told)?;
    let huge = huge_bytes(process.id())?;
    let status = process.terminate(LIMIT)?;
    ensure!(status.success(), "{status}: {}", told());
    Ok(Seen { printed: read_log(&path("out")), errors: read_log(&path("err")), huge })
}

#[test]
fn root_workers_have_their_memory_on_their_node_and_4_kib_pages_if_there_is_too_little()
-> Result<()> {
    require_root()?;
    let pages = HugePages::take(ENOUGH)?;
    let Seen { printed, errors, huge } = look("required")?;
    ensure!(printed.contains(", huge pages\n"), "{printed}{errors}");
    ensure!(!errors.contains("warning: "), "{errors}");
    let mut workers = 0;
    for line in printed.lines() {
        let Some((node, rest)) = line.strip_prefix("NUMA node ").and_then(|l| l.split_once(": "))
        else {
            continue;
        };
        workers += if rest.starts_with("workers 0-1 (CPUs ") { 2 } else { 1 };
        let mib = rest.split(", ").nth(1).and_then(|part| part.split(' ').next());
        let mib: u64 = mib.context("a number")?.parse()?;
        let had = huge.get(&node.parse()?).copied().unwrap_or(0);
        ensure!(mib > 50 && had >= mib << 20, "{line}: {huge:?}");
    }
    ensure!(workers == 2, "{printed}");

    drop(pages);
    let too_few = HugePages::take(8)?;
    let Seen { printed, errors, huge } = look("auto")?;
    drop(too_few);
    ensure!(printed.contains(", 4 KiB pages\n") && huge.is_empty(), "{printed} {huge:?}");
    ensure!(!printed.contains("NUMA node"), "{printed}");
    let expected = [
        format!(
            "warning: system.huge-pages: 8 MiB of huge pages are free, {ENOUGH} MiB are needed"
        ),
        "warning: no huge pages are used; expect up to a third less throughput".to_owned(),
    ];
    for warning in expected {
        ensure!(errors.contains(&warning), "not {warning:?}: {errors}");
    }
    Ok(())
}
