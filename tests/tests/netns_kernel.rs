//! The kernel's interfaces of the appliance: programs that listen on them and talk through them.
//! Needs root.

use std::time::Duration;

use anyhow::{Result, ensure};
use cgnat_tests::appliance::{KERNEL_INTERFACES, Settings, with_appliance};
use cgnat_tests::judges;
use cgnat_tests::lab::{
    BOX_EXTERNAL, BOX_INTERNAL, EXTERNAL, INTERNAL, Lab, ROUTER, SERVERS, WORLD,
};
use cgnat_tests::process::wait_until;
use cgnat_tests::traffic::{self, Server};

const LIMIT: Duration = Duration::from_secs(10);

/// With packet sockets the kernel sees each frame on the veths too, and must not answer there.
fn silence(lab: &Lab) -> Result<()> {
    lab.middle.run("nft", &["add", "table", "netdev", "quiet"])?;
    for device in [INTERNAL, EXTERNAL] {
        let hook =
            format!("{{ type filter hook ingress device \"{device}\" priority 0; policy drop; }}");
        lab.middle.run("nft", &["add", "chain", "netdev", "quiet", device, &hook])?;
    }
    Ok(())
}

fn through_the_kernel(workers: u16) -> Result<()> {
    let lab = Lab::new(2)?;
    silence(&lab)?;
    let settings = Settings { workers, kernel_interfaces: true, ..Settings::default() };
    let ((), outcome) = with_appliance(&lab, &settings, |_| {
        for (interface, address) in KERNEL_INTERFACES.into_iter().zip([BOX_INTERNAL, BOX_EXTERNAL])
        {
            let shown = lab.middle.run("ip", &["address", "show", "dev", interface])?;
            ensure!(shown.contains(&format!("inet {address}/30")), "{interface} has:\n{shown}");
            ensure!(shown.contains("UP"), "{interface} is not up:\n{shown}");
        }
        // A server on the box, for hosts of both sides.
        for (namespace, near, own) in
            [(&lab.subscribers, ROUTER, BOX_INTERNAL), (&lab.server, WORLD, BOX_EXTERNAL)]
        {
            let http = Server::http(&lab.middle, own)?;
            let file = http.root().join("1MB");
            traffic::random_file(&file, 1_000_000)?;
            let got = tempfile::tempdir()?;
            let to = got.path().join("got");
            traffic::download(namespace, near, own, "1MB", &to, LIMIT)?;
            ensure!(traffic::sha256(&to)? == traffic::sha256(&file)?, "another file from {own}");
        }
        // The box as a client, after the kernel has asked for its neighbour itself.
        for (interface, near) in KERNEL_INTERFACES.into_iter().zip([ROUTER, WORLD]) {
            let near = near.to_string();
            let ping = lab.middle.run("ping", &["-I", interface, "-c", "5", "-i", "0.2", &near])?;
            ensure!(ping.contains("5 received"), "{ping}");
        }
        // Groups: all routers of the link.
        lab.middle.run("sysctl", &["-qw", "net.ipv4.icmp_echo_ignore_broadcasts=0"])?;
        wait_until("an answer to a ping of all hosts", LIMIT, || {
            let ping = ["-I", "world", "-c", "1", "-W", "1", "-t", "1", "224.0.0.1"];
            let mut command = lab.server.command("ping");
            command.args(ping);
            let output = cgnat_tests::process::output_within(command, LIMIT)?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(text.contains(&format!("from {BOX_EXTERNAL}")))
        })?;
        // What the host routes there in the name of others does not leave.
        let spoofed = "10.9.9.9";
        lab.middle.run("ip", &["address", "add", &format!("{spoofed}/32"), "dev", "lo"])?;
        let output = {
            let mut command = lab.middle.command("ping");
            command.args(["-I", spoofed, "-c", "2", "-W", "1", &WORLD.to_string()]);
            cgnat_tests::process::output_within(command, LIMIT)?
        };
        ensure!(!output.status.success(), "a ping from {spoofed} was answered");
        // Subscribers go on as ever.
        let ping = judges::ping(&lab.subscribers, lab.addresses()[0], SERVERS[0], &["-c", "3"])?;
        ensure!(ping.contains("3 received"), "{ping}");
        Ok(())
    })?;
    ensure!(outcome.number("/consumed/kernel")? > 200, "the kernel got next to nothing");
    ensure!(outcome.number("/kernel/1/sent")? > 100, "the kernel sent next to nothing");
    ensure!(outcome.number("/kernel/1/refused")? >= 2, "spoofed packets were not refused");
    for port in [0, 1] {
        for what in ["unwritten", "unsent"] {
            let count = outcome.number(&format!("/kernel/{port}/{what}"))?;
            ensure!(count == 0, "{count} {what} of port {port}");
        }
    }
    let drops = outcome.stats.drops()?;
    println!("drops: {drops:?}");
    ensure!(drops.keys().all(|reason| reason != "to-us"), "{drops:?}");
    Ok(())
}

#[test]
fn root_netns_programs_talk_through_the_kernels_interfaces_1_worker() -> Result<()> {
    through_the_kernel(1)
}

#[test]
fn root_netns_programs_talk_through_the_kernels_interfaces_3_workers() -> Result<()> {
    through_the_kernel(3)
}
