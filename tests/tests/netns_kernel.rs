//! The kernel's interfaces of the appliance: programs that listen on them and talk through them.
//! Needs root.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Appliance, KERNEL_INTERFACES, Settings, with_appliance};
use cgnat_tests::lab::{
    BOX_EXTERNAL, BOX_INTERNAL, EXTERNAL, INTERNAL, Lab, ROUTER, SERVERS, WORLD,
};
use cgnat_tests::pings::Pings;
use cgnat_tests::process::{run, wait_until};
use cgnat_tests::traffic::{self, Server};
use cgnat_tests::{cpu, judges};

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

/// What the box has said, once and no more than once.
fn says(appliance: &Appliance, words: &str) -> Result<()> {
    let said = || appliance.errors().matches(words).count();
    wait_until(words, LIMIT, || Ok(said() > 0)).with_context(|| appliance.errors())?;
    ensure!(said() == 1, "{words:?} was said {} times:\n{}", said(), appliance.errors());
    Ok(())
}

/// The thread of the kernel's interfaces does not turn round and round.
fn is_at_ease(appliance: &Appliance) -> Result<f64> {
    let shares = cpu::shares(appliance.id(), Duration::from_millis(700))?;
    let share = shares.iter().find(|share| share.thread == "kernel").context("no thread")?;
    ensure!(share.running < 0.25, "{share:?}");
    Ok(share.running)
}

/// Packets in use when nothing is under way but pings.
fn buffers(appliance: &Appliance) -> Result<u64> {
    let stats = appliance.statistics()?;
    let pools = stats.document()["buffers"].as_array().context("no buffers")?;
    Ok(pools.iter().filter_map(|pool| pool["in_use"].as_u64()).sum())
}

/// Datagrams for the box itself, which only its kernel could take.
fn bother(lab: &Lab, own: Ipv4Addr, count: u32) -> Result<()> {
    let script = format!("for n in $(seq {count}); do echo x > /dev/udp/{own}/9; done");
    let mut command = lab.server.command("bash");
    command.args(["-c", &script]);
    run(command, LIMIT).map(drop)
}

/// Somebody sets the interfaces of the kernel down, and deletes them, while subscribers use the box.
#[test]
fn root_netns_a_kernel_interface_that_is_deleted_is_made_again_and_no_packet_is_lost() -> Result<()>
{
    let lab = Lab::new(1)?;
    silence(&lab)?;
    let settings = Settings { workers: 2, kernel_interfaces: true, ..Settings::default() };
    let [inner, outer] = KERNEL_INTERFACES;
    let ip = |words: &str| lab.middle.run("ip", &words.split(' ').collect::<Vec<_>>());
    let index = |name: &str| -> Result<String> {
        let shown = ip(&format!("-o link show dev {name}"))?;
        Ok(shown.split(':').next().unwrap_or_default().to_owned())
    };
    // Without its number and without what is only of the moment.
    let looks = |name: &str| -> Result<[Option<String>; 3]> {
        let shown = ip(&format!("address show dev {name}"))?;
        Ok(["mtu ", "link/ether ", "inet "].map(|what| {
            let rest = shown.split(what).nth(1)?;
            rest.split(' ').next().map(str::to_owned)
        }))
    };
    let kernel_talks = || -> Result<()> {
        for (interface, near) in KERNEL_INTERFACES.into_iter().zip([ROUTER, WORLD]) {
            let near = near.to_string();
            let ping = lab.middle.run("ping", &["-I", interface, "-c", "3", "-i", "0.1", &near])?;
            ensure!(ping.contains("3 received"), "{ping}");
        }
        Ok(())
    };
    let ((), outcome) = with_appliance(&lab, &settings, |appliance| {
        kernel_talks()?;
        let http = Server::http(&lab.middle, BOX_EXTERNAL)?;
        traffic::random_file(&http.root().join("100kB"), 100_000)?;
        let got = tempfile::tempdir()?;
        let reads = |from: Ipv4Addr| {
            let to = got.path().join("got");
            traffic::download(&lab.server, from, BOX_EXTERNAL, "100kB", &to, LIMIT)
        };
        reads(WORLD)?;
        let pings = Pings::start(&lab.subscribers, lab.addresses()[0], SERVERS[0])?;
        bother(&lab, BOX_EXTERNAL, 3)?;
        let before = buffers(appliance)?;

        // Down, and up again.
        ip(&format!("link set {outer} down"))?;
        says(appliance, &format!("port external0: the interface {outer} is down"))?;
        bother(&lab, BOX_EXTERNAL, 200)?;
        let down = is_at_ease(appliance)?;
        ip(&format!("link set {outer} up"))?;
        says(appliance, &format!("port external0: the interface {outer} is up again"))?;
        reads(WORLD)?;

        // Deleted: it comes back with all that the box gave it, and the server on it goes on.
        let (number, was) = (index(outer)?, looks(outer)?);
        ensure!(was.iter().all(Option::is_some), "{was:?}");
        ip(&format!("link delete {outer}"))?;
        bother(&lab, BOX_EXTERNAL, 200)?;
        says(appliance, &format!("port external0: the interface {outer} is gone"))?;
        says(appliance, &format!("port external0: the interface {outer} was made again"))?;
        ensure!(looks(outer)? == was, "{:?}, was {was:?}", looks(outer)?);
        ensure!(index(outer)? != number, "it is the same interface");
        kernel_talks()?;
        reads(WORLD)?;

        // Deleted, and somebody else has its name.
        let was = looks(inner)?;
        let mut batch = tempfile::NamedTempFile::new()?;
        let lines = format!("link delete {inner}\nlink add {inner} type veth peer name another\n");
        std::io::Write::write_all(&mut batch, lines.as_bytes())?;
        ip(&format!("-batch {}", batch.path().display()))?;
        says(appliance, &format!("port internal0: the interface {inner} is gone"))?;
        let refused = format!("port internal0: the interface {inner} cannot be made again");
        says(appliance, &refused)?;
        let gone = is_at_ease(appliance)?;
        std::thread::sleep(Duration::from_millis(700));
        says(appliance, &refused)?;
        ip(&format!("link delete {inner}"))?;
        says(appliance, &format!("port internal0: the interface {inner} was made again"))?;
        ensure!(looks(inner)? == was, "{:?}, was {was:?}", looks(inner)?);
        kernel_talks()?;

        let mut after = 0;
        wait_until("packet buffers that come back", LIMIT, || {
            after = buffers(appliance)?;
            Ok(after <= before)
        })
        .with_context(|| format!("{before} in use before, {after} after"))?;
        let received = pings.stop()?.are_all()?.received;
        println!(
            "{received} pings, none lost; {before} buffers in use before, {after} after; the kernel's \
             thread takes {down:.3} of a CPU while an interface is down, {gone:.3} while one is gone"
        );
        let errors = appliance.errors();
        for never in ["does not poll", "takes nothing", "gone silent"] {
            ensure!(!errors.contains(never), "{errors}");
        }
        Ok(())
    })?;
    let kernel = &outcome.stats.document()["kernel"];
    for (port, lost) in [1, 2].into_iter().enumerate() {
        ensure!(outcome.number(&format!("/kernel/{port}/lost"))? == lost, "{kernel}");
        ensure!(kernel[port]["state"] == "up", "{kernel}");
    }
    let unwritten = outcome.number("/kernel/1/unwritten")?;
    ensure!((390..=450).contains(&unwritten), "{unwritten} of 400 had nobody to take them");
    ensure!(outcome.number("/kernel/1/written")? > 50, "{kernel}");
    let drops = outcome.stats.drops()?;
    ensure!(drops.is_empty(), "{drops:?}");
    Ok(())
}
