//! The appliance on network cards bound to vfio-pci, in a virtual machine. Needs root.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Devices, EXTERNAL_PORT, INTERNAL_PORT, Outcome, Settings};
use cgnat_tests::lab::{BOX_INTERNAL, Lab, MACS, ROUTER, SERVERS};
use cgnat_tests::live::{everything_goes_through, packets_of_sizes_come_back};
use cgnat_tests::pings::Pings;
use cgnat_tests::process::wait_until;
use cgnat_tests::traffic::{self, Server};
use cgnat_tests::vm::{
    Card, Deployment, EXTERNAL_CARD, Guest, INTERNAL_CARD, Machine, SIBLING, ask_about, bind,
    cards, mount_huge_pages, reserve_huge_pages, settings,
};
use serde_json::Value;

const SUBSCRIBERS: u32 = 8;
/// Bytes of the file that is fetched: emulated CPUs are slow.
const DOWNLOAD: u64 = 20_000_000;
const JUMBO: u16 = 9000;
/// Packets about buffers of 2, 4 and 8 KiB with and without their headroom, and the largest.
const SIZES: [RangeInclusive<u16>; 6] =
    [28..=30, 1902..=1908, 2030..=2036, 4076..=4084, 8172..=8180, 8994..=JUMBO];
const BOTH: [&str; 2] = [INTERNAL_CARD, EXTERNAL_CARD];

/// How a card is expected to bring packets to their owners.
struct Expected {
    method: &'static str,
    /// What `because` has to hold.
    reason: &'static str,
    /// Receive queues of each port.
    queues: u64,
    /// Its driver in DPDK.
    driver: &'static str,
    /// Least and most packets that may come to another worker than their address hashes to, of 1.
    missteered: (f64, f64),
}

/// Prints what took how long.
struct Steps(Instant);

impl Steps {
    fn done(&mut self, what: &str) {
        println!("{:6.1} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

fn number(of: &Value, path: &str) -> Result<f64> {
    of.pointer(path).and_then(Value::as_f64).with_context(|| format!("no number {path} in {of}"))
}

/// Each port uses the method that its driver allows, and both workers have a good part of the load.
fn steering_is(answer: &Value, expected: &Expected) -> Result<()> {
    for port in [INTERNAL_PORT, EXTERNAL_PORT] {
        let of = answer.pointer(&format!("/ports/{port}")).context("no such port")?;
        ensure!(of["method"] == expected.method, "{port}: {of}");
        let reason = of["reason"].as_str().context("no reason")?;
        ensure!(reason.contains(expected.reason), "{port}: {of}");
        ensure!(of["queues"].as_u64() == Some(expected.queues), "{port}: {of}");
        ensure!(of["driver"]["name"] == expected.driver, "{port}: {of}");
        ensure!(of["driver"]["rx_queues"].as_u64() == Some(expected.queues), "{port}: {of}");
        for given in ["tx_queues", "rx_descriptors", "tx_descriptors", "mtu_most"] {
            ensure!(of["driver"][given].as_u64() > Some(0), "{port}: no {given} in {of}");
        }
        ensure!(number(of, "/received")? > 1000.0, "{port}: {of}");
        let missteered = number(of, "/missteered_share")?;
        let (least, most) = expected.missteered;
        ensure!((least..=most).contains(&missteered), "{port}: {of}");
    }
    for worker in 0..2 {
        let share = number(answer, &format!("/workers/{worker}/load_share"))?;
        ensure!(share > 0.1, "worker {worker} has {share} of the load: {answer}");
    }
    Ok(())
}

fn judge(lab: &Lab, outcome: &Outcome) -> Result<()> {
    outcome.nothing_is_amiss().with_context(|| outcome.printed.clone())?;
    let leaks = lab.leaks()?;
    ensure!(leaks == 0, "{leaks} frames showed the servers an address of the inside");
    Ok(())
}

/// Every subscriber fetches the same file, so that the load of a worker is that of its subscribers.
fn everybody_fetches(lab: &Lab, bytes: u64) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let http = Server::http(&lab.server, SERVERS[0])?;
    let (original, copy) = (http.root().join("file"), directory.path().join("copy"));
    traffic::random_file(&original, bytes)?;
    let sum = traffic::sha256(&original)?;
    for client in lab.addresses() {
        let limit = Duration::from_secs(60);
        traffic::download(&lab.subscribers, *client, SERVERS[0], "file", &copy, limit)?;
        ensure!(traffic::sha256(&copy)? == sum, "SHA-256 differs at {client}");
    }
    Ok(())
}

/// Each cable is pulled for a moment and put back while a subscriber fetches a file: it is said, and the
/// download gets through.
fn cables_are_pulled(lab: &Lab, deployment: &mut Deployment<'_>) -> Result<()> {
    const RATE: u64 = 1_000_000;
    let directory = tempfile::tempdir()?;
    let http = Server::http(&lab.server, SERVERS[0])?;
    let (original, copy) = (http.root().join("file"), directory.path().join("copy"));
    traffic::random_file(&original, 4 * RATE)?;
    let client = lab.addresses()[0];
    let answered = std::thread::scope(|scope| {
        let download = scope.spawn(|| {
            let (from, limit) = ((SERVERS[0], "file"), Duration::from_secs(60));
            traffic::download_slowly(&lab.subscribers, client, from, &copy, RATE, limit)
        });
        let pings = Pings::start(&lab.subscribers, client, SERVERS[0])?;
        for (card, port) in [(1, EXTERNAL_PORT), (0, INTERNAL_PORT)] {
            std::thread::sleep(Duration::from_millis(300));
            for (is_in, words) in [(false, "link down: look at the cable"), (true, "link up again")]
            {
                deployment.cable(card, is_in)?;
                let words = format!("port {port}: {words}");
                let limit = Duration::from_secs(20);
                wait_until(&words, limit, || Ok(deployment.errors().contains(&words)))
                    .with_context(|| deployment.errors())?;
            }
        }
        let answered = pings.stop();
        download.join().ok().context("a thread panicked")??;
        answered
    })?;
    ensure!(traffic::sha256(&copy)? == traffic::sha256(&original)?, "SHA-256 differs");
    ensure!(answered.lost() > 0 && answered.received > 0, "{answered:?}");
    println!("{answered:?}\n{}", deployment.errors());
    Ok(())
}

fn everything_goes_through_cards(card: Card, expected: &Expected) -> Result<()> {
    let lab = Lab::new(SUBSCRIBERS)?;
    let mut steps = Steps(Instant::now());
    let machine = Machine { card, iommu: true, sibling: false };
    let mut guest = Guest::boot(&lab, machine)?;
    steps.done("the guest is up");
    guest.load(&[card.module(), "vfio-pci"])?;
    mount_huge_pages(&mut guest)?;
    reserve_huge_pages(&mut guest)?;
    bind(&mut guest, &BOTH, Some("vfio-pci"))?;
    steps.done("its cards are bound to vfio-pci");

    let deployment = Deployment::start(&lab, &mut guest)?;
    steps.done("cgnat run is ready and answers");
    everything_goes_through(&lab, DOWNLOAD).with_context(|| deployment.errors())?;
    steps.done("curl, dig, ping, traceroute and iperf3 went through");
    judge(&lab, &deployment.stop()?)?;
    steps.done("stopped, every packet accounted for");

    let mut deployment = Deployment::start(&lab, &mut guest)?;
    packets_of_sizes_come_back(&lab, (28..=50).chain(1490..=1500))?;
    steps.done("restarted, and packets of all sizes went through");
    cables_are_pulled(&lab, &mut deployment)?;
    steps.done("its cables were pulled and put back");
    everybody_fetches(&lab, 5_000_000)?;
    let (text, steering) = deployment.steering()?;
    println!("{text}");
    steering_is(&steering, expected)?;
    let outcome = deployment.stop()?;
    judge(&lab, &outcome)?;
    for port in 0..2 {
        let flaps = outcome.number(&format!("/links/{port}/flaps"))?;
        ensure!(flaps == 1, "{}", outcome.stats.document()["links"]);
    }
    let drops = outcome.stats.drops()?;
    ensure!(drops.contains_key("link-down"), "{drops:?}");
    steps.done("used by both workers and stopped");

    bind(&mut guest, &BOTH, None)?;
    guest.run(&format!(
        "cd /sys/bus/pci/devices/{INTERNAL_CARD}; interface=$(ls -d net/* */net/* 2>/dev/null)\n\
         interface=${{interface##*/}}; ip link show dev $interface | grep {}\n\
         ip link set $interface up; ip address add {BOX_INTERNAL}/30 dev $interface",
        MACS[1]
    ))?;
    let by_kernel = guest.ask(&format!("ping -n -q -c 3 -i 0.5 -W 2 -w 20 {ROUTER}"))?;
    ensure!(by_kernel.code == 0, "{by_kernel:?}");
    steps.done("the kernel has its cards back and uses them");

    bind(&mut guest, &BOTH, Some("vfio-pci"))?;
    lab.size_links(JUMBO, JUMBO)?;
    lab.size_taps(JUMBO)?;
    // Larger packet buffers leave less for tables.
    let (internal_mtu, external_mtu, max_mappings) = (Some(JUMBO), Some(JUMBO), 50_000);
    let jumbo = Settings { internal_mtu, external_mtu, max_mappings, ..settings() };
    let deployment = Deployment::start_with(&lab, &mut guest, &jumbo)?;
    packets_of_sizes_come_back(&lab, SIZES.into_iter().flatten())?;
    everybody_fetches(&lab, 100_000)?;
    let outcome = deployment.stop()?;
    judge(&lab, &outcome)?;
    println!("joined: {}", outcome.number("/ports/internal0/rx_joined")?);
    steps.done("bound again, started with jumbo frames, used and stopped");
    Ok(())
}

#[test]
fn root_vm_everything_goes_through_e1000e() -> Result<()> {
    let expected = Expected {
        method: "software",
        reason: "its driver",
        queues: 1,
        driver: "net_e1000_em",
        missteered: (0.3, 0.95),
    };
    everything_goes_through_cards(Card::E1000e, &expected)
}

#[test]
fn root_vm_everything_goes_through_vmxnet3() -> Result<()> {
    let expected = Expected {
        method: "software",
        reason: "its driver",
        queues: 2,
        driver: "net_vmxnet3",
        missteered: (0.3, 0.95),
    };
    everything_goes_through_cards(Card::Vmxnet3, &expected)
}

/// Key and table are taken, and both directions arrive at their owner.
#[test]
fn root_vm_everything_goes_through_virtio_net_that_steers() -> Result<()> {
    let expected = Expected {
        method: "windowed-key",
        reason: "",
        queues: 2,
        driver: "net_virtio",
        missteered: (0.0, 0.001),
    };
    everything_goes_through_cards(Card::Virtio, &expected)
}

/// What is missing is said by `cgnat check`, and `cgnat run` refuses alike: exactly these lines.
fn is_missing(guest: &mut Guest, devices: &Devices, expected: &[&str]) -> Result<()> {
    for subcommand in ["check", "run"] {
        let answer = ask_about(guest, subcommand, devices)?;
        ensure!(answer.code == 1, "{subcommand}: {answer:?}");
        let found: Vec<&str> =
            answer.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        let matches = found.len() == expected.len()
            && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
        ensure!(matches, "{subcommand}: expected {expected:#?}\n{}", answer.stderr);
    }
    Ok(())
}

/// The lines of both ports about their cards.
fn of_both(what: &str) -> [String; 2] {
    let of = |port, card| format!("error: port {port}: {card} {what}");
    [of(INTERNAL_PORT, INTERNAL_CARD), of(EXTERNAL_PORT, EXTERNAL_CARD)]
}

/// From a machine as it is delivered to one that `cgnat check` finds good, by what it says.
#[test]
fn root_vm_what_a_machine_lacks_is_said_until_nothing_is() -> Result<()> {
    let lab = Lab::new(1)?;
    let machine = Machine { card: Card::Vmxnet3, iommu: true, sibling: true };
    let mut guest = Guest::boot(&lab, machine)?;
    guest.load(&["vmxnet3"])?;
    let no_pages = "error: system.huge-pages: 0 MiB of huge pages are free, 512 MiB are needed";
    let no_mount = "error: system.huge-pages: no hugetlbfs is mounted";

    let [internal, external] = of_both(
        "is bound to the kernel driver vmxnet3, expected vfio-pci; load the driver with: modprobe vfio-pci",
    );
    is_missing(&mut guest, &cards(), &[&internal, &external, no_mount, no_pages])?;
    let elsewhere = Devices {
        internal: "0000:00:1e.0".to_owned(),
        external: "0000:00:1f.2".to_owned(),
        silent: false,
    };
    let absent = "error: port internal0: there is no PCI device 0000:00:1e.0";
    let no_card = "error: port external0: 0000:00:1f.2 is no network card (PCI class 0x010601";
    is_missing(&mut guest, &elsewhere, &[absent, no_card, no_mount, no_pages])?;

    reserve_huge_pages(&mut guest)?;
    guest.load(&["vfio-pci"])?;
    let [internal, external] = of_both(
        "is bound to the kernel driver vmxnet3, expected vfio-pci; bind it with: driverctl",
    );
    is_missing(&mut guest, &cards(), &[&internal, &external, no_mount])?;
    mount_huge_pages(&mut guest)?;
    bind(&mut guest, &BOTH, Some("vfio-pci"))?;
    let shared = format!(
        "error: port internal0: {INTERNAL_CARD} shares IOMMU group {} with {SIBLING}, which is \
         bound to vmxnet3",
        guest
            .run(&format!("basename $(readlink /sys/bus/pci/devices/{SIBLING}/iommu_group)"))?
            .trim()
    );
    is_missing(&mut guest, &cards(), &[&shared])?;
    bind(&mut guest, &[SIBLING], Some("vfio-pci"))?;
    let answer = ask_about(&mut guest, "check", &cards())?;
    ensure!(answer.code == 0 && answer.stdout.starts_with("configuration ok"), "{answer:?}");
    // The very machine that was found good.
    let deployment = Deployment::start(&lab, &mut guest)?;
    judge(&lab, &deployment.stop()?)
}

#[test]
fn root_vm_without_an_iommu_it_is_said() -> Result<()> {
    let lab = Lab::new(1)?;
    let machine = Machine { card: Card::E1000e, iommu: false, sibling: false };
    let mut guest = Guest::boot(&lab, machine)?;
    guest.load(&["e1000e", "vfio-pci"])?;
    mount_huge_pages(&mut guest)?;
    reserve_huge_pages(&mut guest)?;
    let [internal, external] =
        of_both("is bound to the kernel driver e1000e and behind no IOMMU, which vfio-pci needs");
    is_missing(&mut guest, &cards(), &[&internal, &external])?;
    ensure!(bind(&mut guest, &BOTH, Some("vfio-pci")).is_err(), "vfio-pci took a card");
    // It stops at the first.
    let [internal, _] = of_both("is bound to no driver and behind no IOMMU");
    is_missing(&mut guest, &cards(), &[&internal, &external])
}
