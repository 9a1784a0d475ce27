//! Frames of 9,000 bytes between programs: both links as large, or only the subscribers'.
//! Needs root.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use anyhow::{Result, ensure};
use cgnat_tests::appliance::{Settings, with_appliance};
use cgnat_tests::judges::{self, add_page_of_sums};
use cgnat_tests::lab::{BOX_INTERNAL, Lab, SERVERS};
use cgnat_tests::live::packets_of_sizes_come_back;
use cgnat_tests::traffic::{self, Capture, Direction, Server, Stream};

const JUMBO: u16 = 9000;
const ORDINARY: u16 = 1500;
/// Payloads of a UDP datagram.
const DATAGRAMS: [u32; 3] = [1400, 4000, 8900];

/// Packets about the shortest frame, a buffer of 2,048 bytes with and without its headroom and what
/// the kernel puts before a frame, an ordinary MTU, a page, two of them, and the largest.
const SIZES: [RangeInclusive<u16>; 7] =
    [28..=50, 1498..=1502, 1904..=1908, 1964..=1969, 2030..=2050, 4076..=4098, 8990..=JUMBO];

/// Datagrams of each size both ways; a busy receiver may miss a few.
fn datagrams_arrive(lab: &Lab, client: Ipv4Addr, sizes: &[u32]) -> Result<()> {
    let _iperf = Server::iperf3(&lab.server, SERVERS[2])?;
    for (bytes, reverse) in sizes.iter().flat_map(|bytes| [(*bytes, false), (*bytes, true)]) {
        let counted = judges::datagrams(&lab.subscribers, client, SERVERS[2], bytes, reverse)?;
        let what = format!("{bytes} bytes, reverse {reverse}: {counted:?}");
        println!("{what}");
        ensure!(counted.sent >= 50 && counted.arrived * 20 >= counted.sent * 19, "{what}");
    }
    Ok(())
}

/// TCP both ways, and a file that is posted arrives as it was sent.
fn streams_arrive(lab: &Lab, client: Ipv4Addr) -> Result<()> {
    let iperf = Server::iperf3(&lab.server, SERVERS[2])?;
    for reverse in [false, true] {
        let stream = Stream { udp: false, bits_per_second: None, reverse, seconds: 1, parallel: 1 };
        let measured = traffic::iperf3(&lab.subscribers, client, SERVERS[2], stream)?;
        println!("{stream:?}: {measured:?}");
        ensure!(measured.bytes > 1_000_000, "{stream:?}: {measured:?}");
    }
    drop(iperf);
    let http = Server::http(&lab.server, SERVERS[0])?;
    add_page_of_sums(&http)?;
    let file = http.root().join("3MB");
    traffic::random_file(&file, 3_000_000)?;
    let sum = judges::upload(&lab.subscribers, client, SERVERS[0], &file)?;
    ensure!(sum == traffic::sha256(&file)?, "3 MB did not arrive as they were sent");
    Ok(())
}

/// What cgnat says of its packet sockets, seen from outside: with `mtu` alone their slots are
/// large enough, with one worker and with two.
fn through_jumbo_links(workers: u16, sizes: &[u32]) -> Result<()> {
    let lab = Lab::new(1)?;
    lab.size_links(JUMBO, JUMBO)?;
    let (namespace, client) = (&lab.subscribers, lab.addresses()[0]);
    let settings = Settings {
        workers,
        internal_mtu: Some(JUMBO),
        external_mtu: Some(JUMBO),
        ..Settings::default()
    };
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("long.pcap");
    let (long, outcome) = with_appliance(&lab, &settings, |_| {
        let capture = Capture::start(
            &lab.server,
            "world",
            Direction::Both,
            "greater 8900 and not tcp",
            &path,
        )?;
        for discover in ["do", "dont"] {
            let options = ["-M", discover, "-s", "8900", "-c", "3"];
            let text = judges::ping(namespace, client, SERVERS[0], &options)?;
            ensure!(text.contains("3 received"), "-M {discover}: {text}");
        }
        datagrams_arrive(&lab, client, sizes)?;
        if workers == 1 {
            packets_of_sizes_come_back(&lab, SIZES.into_iter().flatten())?;
        }
        streams_arrive(&lab, client)?;
        capture.stop()
    })?;
    println!("{long} frames of 8,900 bytes or more crossed the external link");
    ensure!(long > 200, "only {long} long frames crossed the external link");
    let drops = outcome.stats.drops()?;
    ensure!(drops.is_empty(), "drops: {drops:?}");
    ensure!(outcome.number("/fragments/fragmented")? == 0, "something was fragmented");
    Ok(())
}

#[test]
fn root_netns_frames_of_9000_bytes_pass_whole_1_worker() -> Result<()> {
    through_jumbo_links(1, &DATAGRAMS)
}

#[test]
fn root_netns_frames_of_9000_bytes_pass_whole_2_workers() -> Result<()> {
    through_jumbo_links(2, &[8900])
}

/// Large frames inside, ordinary ones outside: with DF they are told the size, without they leave
/// in fragments; what comes back in fragments the kernel joins for the packet socket, whose
/// slots have room for it as docs/configuration.md says.
#[test]
fn root_netns_frames_of_9000_bytes_meet_an_ordinary_link_791_s3_2() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.size_links(JUMBO, ORDINARY)?;
    let (namespace, client) = (&lab.subscribers, lab.addresses()[0]);
    let settings = Settings {
        internal_mtu: Some(JUMBO),
        ring: "framesz=9216,blocksz=36864".to_owned(),
        ..Settings::default()
    };
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("fragments.pcap");
    let (fragments, outcome) = with_appliance(&lab, &settings, |_| {
        let told =
            judges::ping(namespace, client, SERVERS[1], &["-M", "do", "-s", "8900", "-c", "1"])?;
        let error = format!("From {BOX_INTERNAL} icmp_seq=1 Frag needed and DF set (mtu = 1500)");
        ensure!(told.contains(&error), "no {error:?} in\n{told}");
        let learned = judges::path_mtu(namespace, client, SERVERS[1])?;
        ensure!(learned == Some(ORDINARY), "the kernel learned {learned:?}");

        streams_arrive(&lab, client)?;

        let filter = "ip[6:2] & 0x3fff != 0";
        let capture = Capture::start(&lab.server, "world", Direction::Both, filter, &path)?;
        let text =
            judges::ping(namespace, client, SERVERS[0], &["-M", "dont", "-s", "8900", "-c", "3"])?;
        ensure!(text.contains("3 received"), "{text}");
        // From here on the subscribers' kernel sets no DF; iperf3 gives up when it is told a size.
        namespace.run("sysctl", &["-q", "-w", "net.ipv4.ip_no_pmtu_disc=1"])?;
        datagrams_arrive(&lab, client, &DATAGRAMS)?;
        capture.stop()
    })?;
    let (drops, fragmented) = (outcome.stats.drops()?, outcome.number("/fragments/fragmented")?);
    println!("{fragments} fragments crossed, {fragmented} packets fragmented, drops {drops:?}");
    // 3 pings and at least 100 datagrams that way, of 3 and 7 fragments, and as many back.
    ensure!(fragmented >= 100 && fragments >= 1_000, "{fragmented} packets, {fragments} fragments");
    ensure!(drops.keys().all(|reason| reason == "too-big"), "drops: {drops:?}");
    Ok(())
}
