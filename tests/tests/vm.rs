//! The appliance on network cards bound to vfio-pci, in a virtual machine. Needs root.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{EXTERNAL_PORT, INTERNAL_PORT, Outcome};
use cgnat_tests::lab::{BOX_INTERNAL, Lab, MACS, ROUTER, SERVERS};
use cgnat_tests::live::everything_goes_through;
use cgnat_tests::traffic::{self, Server};
use cgnat_tests::vm::{
    Card, Deployment, EXTERNAL_CARD, Guest, INTERNAL_CARD, Machine, bind, mount_huge_pages,
    reserve_huge_pages,
};
use serde_json::Value;

const SUBSCRIBERS: u32 = 8;
/// Bytes of the file that is fetched: emulated CPUs are slow.
const DOWNLOAD: u64 = 20_000_000;
const BOTH: [&str; 2] = [INTERNAL_CARD, EXTERNAL_CARD];

/// How a card is expected to bring packets to their owners.
struct Expected {
    method: &'static str,
    /// What `because` has to hold.
    reason: &'static str,
    /// Queues of each port.
    queues: u64,
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
    everybody_fetches(&lab, 5_000_000)?;
    let (text, steering) = deployment.steering()?;
    println!("{text}");
    steering_is(&steering, expected)?;
    judge(&lab, &deployment.stop()?)?;
    steps.done("restarted, used by both workers and stopped");

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
    let deployment = Deployment::start(&lab, &mut guest)?;
    everybody_fetches(&lab, 100_000)?;
    judge(&lab, &deployment.stop()?)?;
    steps.done("bound again, started, used and stopped");
    Ok(())
}

#[test]
fn root_vm_everything_goes_through_e1000e() -> Result<()> {
    let expected =
        Expected { method: "software", reason: "its driver", queues: 2, missteered: (0.2, 0.8) };
    everything_goes_through_cards(Card::E1000e, &expected)
}

#[test]
fn root_vm_everything_goes_through_vmxnet3() -> Result<()> {
    let expected =
        Expected { method: "software", reason: "its driver", queues: 2, missteered: (0.2, 0.8) };
    everything_goes_through_cards(Card::Vmxnet3, &expected)
}

/// Key and table are taken, and both directions arrive at their owner.
#[test]
fn root_vm_everything_goes_through_virtio_net_that_steers() -> Result<()> {
    let expected =
        Expected { method: "windowed-key", reason: "", queues: 2, missteered: (0.0, 0.001) };
    everything_goes_through_cards(Card::Virtio, &expected)
}
