//! What programs of others say about the appliance, and where the kernel's NAT says the same.
//! Needs root.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail, ensure};
use cgnat_tests::appliance::{Appliance, Outcome, Settings, with_appliance};
use cgnat_tests::judges::{self, Question, REFUSED};
use cgnat_tests::lab::{BOX_EXTERNAL, BOX_INTERNAL, Lab, POOL_PREFIX, SERVERS};
use cgnat_tests::traffic::{self, Capture, Direction, NAME_ADDRESS, Server};

/// Under the 1,500 bytes of the other links.
const NARROW: u16 = 1400;

const EIM: &str = "NAT with Endpoint Independent Mapping!";
const APDM: &str = "NAT with Address and Port Dependent Mapping!";
const EIF: &str = "NAT with Endpoint Independent Filtering!";
const ADF: &str = "NAT with Address Dependent Filtering!";
const APDF: &str = "NAT with Address and Port Dependent Filtering!";

fn expect_drops(outcome: &Outcome, expected: &[(&str, u64)]) -> Result<()> {
    let expected = expected.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    let drops = outcome.stats.drops()?;
    ensure!(drops == expected, "drops: {drops:?}, not {expected:?}");
    Ok(())
}

/// What natdiscovery says of mapping and filtering.
fn discover(lab: &Lab, port: u16) -> Result<[String; 2]> {
    let [primary, secondary, _] = SERVERS;
    let _stun = judges::stun(&lab.server, [primary, secondary])?;
    let ask = |question, port| {
        let source = (lab.addresses()[0], port);
        judges::natdiscovery(&lab.subscribers, source, primary, question, false)
    };
    Ok([ask(Question::Mapping, port)?, ask(Question::Filtering, port + 1)?])
}

/// RFC 4787 REQ-1 and REQ-8, each kind of filtering. The judge waits 3 s for each answer that
/// does not come, so the counts are those of packets that it asked for.
#[test]
fn root_netns_natdiscovery_says_what_is_configured_4787_req_8() -> Result<()> {
    let lab = Lab::new(1)?;
    let kinds = [
        ("endpoint-independent", EIF, &[][..]),
        ("address-dependent", ADF, &[("filtered", 1)]),
        ("address-and-port-dependent", APDF, &[("filtered", 2)]),
    ];
    for (filtering, verdict, drops) in kinds {
        let settings = Settings { filtering: Some(filtering.to_owned()), ..Settings::default() };
        let (said, outcome) = with_appliance(&lab, &settings, |_| discover(&lab, 20_000))?;
        ensure!(said == [EIM, verdict], "{filtering}: natdiscovery says {said:?}");
        expect_drops(&outcome, drops).context(filtering)?;
    }
    Ok(())
}

/// RFC 7857 section 3: named ports are mapped and filtered by address and port, others not.
#[test]
fn root_netns_natdiscovery_says_that_named_ports_are_overloaded_7857_s3() -> Result<()> {
    let lab = Lab::new(1)?;
    // Two answers of the second run are not let in, or one: the other comes from the very endpoint
    // that a flow of the first run has on the same port.
    for (named, verdicts, filtered) in [
        (["udp/3478", "udp/3479"], [APDM, APDF], 1..=2),
        (["tcp/3478", "udp/53"], [EIM, EIF], 0..=0),
    ] {
        let settings =
            Settings { port_overloading: named.map(str::to_owned).to_vec(), ..Settings::default() };
        let (said, outcome) = with_appliance(&lab, &settings, |_| discover(&lab, 20_000))?;
        ensure!(said == verdicts, "{named:?}: natdiscovery says {said:?}");
        let drops = outcome.stats.drops()?;
        let only = drops.keys().all(|reason| reason == "filtered");
        let count: u64 = drops.values().sum();
        ensure!(only && filtered.contains(&count), "{named:?}: drops {drops:?}");
    }
    Ok(())
}

/// The judge itself: what it says of a NAT that filters otherwise than the default.
#[test]
fn root_netns_natdiscovery_tells_the_kernels_nat_apart() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.use_kernel_nat("203.0.113.0-203.0.113.7", "1024-65535")?;
    let [_, filtering] = discover(&lab, 20_000)?;
    ensure!(filtering == APDF, "natdiscovery says {filtering:?}");
    Ok(())
}

/// RFC 4787 REQ-9: another socket of the subscriber reaches the first by its external endpoint.
#[test]
fn root_netns_natdiscovery_finds_hairpinning_4787_req_9() -> Result<()> {
    let lab = Lab::new(1)?;
    let (said, outcome) = with_appliance(&lab, &Settings::default(), |_| {
        let _stun = judges::stun(&lab.server, [SERVERS[0], SERVERS[1]])?;
        let source = (lab.addresses()[0], 20_000);
        judges::natdiscovery(&lab.subscribers, source, SERVERS[0], Question::Hairpinning, false)
    })?;
    ensure!(said.contains("successful hairpinning"), "natdiscovery says {said:?}");
    expect_drops(&outcome, &[])
}

/// The box and the path MTU are found, and the kernel of the subscriber learns it from the box's
/// ICMP errors: by tracepath, by a ping and by an upload over TCP.
#[test]
fn root_netns_hop_and_path_mtu_are_found_through_a_narrow_port_1191_s3() -> Result<()> {
    let lab = Lab::new(1)?;
    let settings = Settings { external_mtu: Some(NARROW), ..Settings::default() };
    let (namespace, client) = (&lab.subscribers, lab.addresses()[0]);
    let [web, other, traced] = SERVERS;
    let (_, outcome) = with_appliance(&lab, &settings, |_| {
        judges::prefer_source(namespace, client, traced)?;
        let path = judges::tracepath(namespace, traced)?;
        for line in [
            format!("1: {BOX_INTERNAL}"),
            format!("2: {BOX_INTERNAL} pmtu {NARROW}"),
            format!("2: {traced} reached"),
            format!("Resume: pmtu {NARROW} hops 2 back 2"),
        ] {
            ensure!(path.lines().any(|has| has == line), "no {line:?} in\n{path}");
        }

        let text = judges::ping(namespace, client, other, &["-M", "do", "-s", "1472", "-c", "1"])?;
        let told =
            format!("From {BOX_INTERNAL} icmp_seq=1 Frag needed and DF set (mtu = {NARROW})");
        ensure!(text.contains(&told), "no {told:?} in\n{text}");

        ensure!(judges::path_mtu(namespace, client, web)?.is_none(), "known before it is used");
        let http = Server::http(&lab.server, web)?;
        judges::add_page_of_sums(&http)?;
        let file = http.root().join("300k");
        traffic::random_file(&file, 300_000)?;
        let sum = judges::upload(namespace, client, web, &file)?;
        ensure!(sum == traffic::sha256(&file)?, "300,000 bytes did not arrive as they were sent");

        for to in SERVERS {
            let learned = judges::path_mtu(namespace, client, to)?;
            ensure!(learned == Some(NARROW), "{to}: the kernel learned {learned:?}");
        }
        Ok(())
    })?;
    let drops = outcome.stats.drops()?;
    let known = drops.keys().all(|reason| ["ttl-expired", "too-big"].contains(&reason.as_str()));
    ensure!(known && drops.get("too-big") >= Some(&3), "drops: {drops:?}");
    Ok(())
}

/// Recorded routes and time stamps with addresses: pings that ask for them are answered, and
/// nothing of the inside is in any packet that crosses the external link.
#[test]
fn root_netns_recorded_routes_show_nothing_of_the_inside() -> Result<()> {
    let lab = Lab::new(1)?;
    let (namespace, client, server) = (&lab.subscribers, lab.addresses()[0], SERVERS[0]);
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("options.pcap");
    let (route, outcome) = with_appliance(&lab, &Settings::default(), |_| {
        let filter = "icmp and ip[0] & 0x0f > 5";
        let capture = Capture::start(&lab.server, "world", Direction::Both, filter, &path)?;
        let mut route = Vec::new();
        for options in [&["-R", "-c", "2"][..], &["-T", "tsandaddr", "-c", "2"]] {
            let text = judges::ping(namespace, client, server, options)?;
            ensure!(text.contains("2 received"), "{options:?}: {text}");
            route.extend(judges::recorded_route(&text));
        }
        let crossed = capture.stop()?;
        ensure!(crossed == 8, "{crossed} packets with options crossed, not 4 pings and answers");
        Ok(route)
    })?;
    let (first, rest) = route.split_first().context("ping printed no recorded route")?;
    let pool: ipnet::Ipv4Net = POOL_PREFIX.parse()?;
    ensure!(pool.contains(first), "the subscriber is recorded as {first}");
    let expected = [BOX_EXTERNAL, server, server, BOX_INTERNAL, client];
    ensure!(rest == expected, "recorded: {route:?}");

    let bytes = std::fs::read(&path)?;
    let shown = |address: Ipv4Addr| bytes.windows(4).any(|four| four == address.octets());
    ensure!(shown(*first) && shown(BOX_EXTERNAL), "the capture has no recorded route");
    ensure!(!shown(client), "the subscriber's address crossed the external link");
    ensure!(!shown(BOX_INTERNAL), "the box's internal address crossed the external link");
    expect_drops(&outcome, &[])
}

/// What users' programs report, each with its question; nothing that two NATs choose freely.
fn reports(lab: &Lab) -> Result<Vec<(String, String)>> {
    let (namespace, client) = (&lab.subscribers, lab.addresses()[0]);
    let [web, other, traced] = SERVERS;
    let mut reports = Vec::new();
    let mut report = |question: &str, answer: String| reports.push((question.to_owned(), answer));

    let http = Server::http(&lab.server, web)?;
    let file = http.root().join("300k");
    // Always the same bytes: both NATs are asked to carry them.
    std::fs::write(&file, (0_u32..75_000).flat_map(u32::to_be_bytes).collect::<Vec<_>>())?;
    judges::add_page_of_sums(&http)?;
    report("curl, upload", judges::upload(namespace, client, web, &file)?);
    let (_, external) = traffic::whoami(namespace, client, web)?;
    let pool: ipnet::Ipv4Net = POOL_PREFIX.parse()?;
    report("curl, from the pool", pool.contains(external.ip()).to_string());
    judges::refuse(&lab.server)?;
    for (port, answer) in REFUSED {
        report(&format!("curl, {answer}"), judges::refusal(namespace, client, other, port)?);
    }
    report("curl, no server", judges::refusal(namespace, client, other, 81)?);

    let dns = Server::dns(&lab.server, web, 53)?;
    for options in [&[][..], &["+tcp"]] {
        let answer = traffic::dig(namespace, (client, 0), (web, 53), options)?;
        report(&format!("dig {options:?}"), answer.to_string());
    }
    drop(dns);
    let error = traffic::dig(namespace, (client, 0), (web, 53), &["+tries=1"]).err();
    let error = error.context("dig got an answer from nobody")?.to_string();
    report("dig, no server", error.contains("connection refused").to_string());

    for options in
        [&["-c", "2"][..], &["-c", "1", "-t", "1"], &["-c", "1", "-M", "do", "-s", "1472"]]
    {
        let answer = judges::ping(namespace, client, other, options)?;
        // Its last lines are about time.
        let lines = answer.lines().filter(|line| line.contains("icmp_seq")).collect::<Vec<_>>();
        report(&format!("ping {options:?}"), lines.join("\n"));
    }
    for options in [&[][..], &["-I"], &["-T"], &["--mtu"]] {
        let answer = judges::traceroute(namespace, client, web, options)?;
        report(&format!("traceroute {options:?}"), answer);
    }
    judges::prefer_source(namespace, client, traced)?;
    report("tracepath", judges::tracepath(namespace, traced)?);
    for to in [web, other, traced] {
        let learned = judges::path_mtu(namespace, client, to)?;
        report(&format!("path MTU to {to}"), format!("{learned:?}"));
    }
    Ok(reports)
}

/// What a user sees is the same through the appliance and through the kernel's NAT, on a path
/// with a narrow link. Mapping and filtering differ, and so do recorded routes, which the kernel
/// does not translate: they are left out.
#[test]
fn root_netns_programs_report_the_same_through_the_kernels_nat() -> Result<()> {
    let of_kernel = {
        let lab = Lab::new(1)?;
        lab.size_links(1500, NARROW)?;
        lab.use_kernel_nat("203.0.113.0-203.0.113.7", "1024-65535")?;
        reports(&lab)?
    };
    let lab = Lab::new(1)?;
    lab.size_links(1500, NARROW)?;
    let settings = Settings { external_mtu: Some(NARROW), ..Settings::default() };
    let (of_appliance, _) = with_appliance(&lab, &settings, |_| reports(&lab))?;

    ensure!(of_kernel.len() == of_appliance.len(), "not the same questions");
    for ((question, kernel), (_, appliance)) in of_kernel.iter().zip(&of_appliance) {
        println!("{question}: {appliance}");
        ensure!(!appliance.is_empty(), "{question}: no answer");
        ensure!(kernel == appliance, "{question}:\nkernel    {kernel}\nappliance {appliance}");
    }
    let answer = |asked: &str| of_appliance.iter().find(|(question, _)| question == asked);
    let told = answer("dig []").map(|(_, answer)| answer.clone());
    ensure!(told == Some(NAME_ADDRESS.to_string()), "dig got {told:?}");
    Ok(())
}

/// Raw packets of protocols without ports, which the server's kernel does not know and says so:
/// each answer quotes the packet as the server saw it, and traceroute finds its own in it. Of
/// UDP-Lite the kernel checks the checksum first.
#[test]
fn root_netns_traceroute_by_protocols_without_ports_reaches_the_server() -> Result<()> {
    let lab = Lab::new(2)?;
    let [web, ..] = SERVERS;
    let [first, second] = lab.addresses()[..] else { bail!("two subscribers") };
    let settings = Settings {
        workers: 2,
        pool: vec!["203.0.113.9".to_owned()],
        other_protocols: Some("{ default: carry, sctp: drop }".to_owned()),
        ..Settings::default()
    };
    let ask = |_: &Appliance| -> Result<()> {
        let trace = |from, options: &[&str]| {
            let answer = judges::traceroute(&lab.subscribers, from, web, options)?;
            println!("{from} {options:?}:\n{answer}");
            Ok::<_, anyhow::Error>(answer)
        };
        for options in [&["-P", "47"][..], &["-P", "89"], &["-P", "253"], &["-UL"]] {
            let answer = trace(first, options)?;
            let last = answer.lines().last().unwrap_or_default();
            let reached = last.contains(&web.to_string());
            ensure!(reached, "{options:?} does not reach the server:\n{answer}");
        }
        // The second subscriber shares the address, and is told at the box.
        let answer = trace(second, &["-P", "47"])?;
        let told = answer.contains(&BOX_INTERNAL.to_string()) && answer.contains("!H");
        ensure!(told && !answer.contains(&format!("{web}\n")), "not refused:\n{answer}");
        trace(second, &["-P", "132"])?;
        Ok(())
    };
    let ((), outcome) = with_appliance(&lab, &settings, ask)?;
    let drops = outcome.stats.drops()?;
    for reason in ["association-conflict", "protocol-unsupported"] {
        ensure!(drops.get(reason).is_some_and(|count| *count > 0), "drops: {drops:?}");
    }
    Ok(())
}

/// Datagrams larger than a packet, both ways and in fragments, over taps: for a packet socket the
/// kernel would reassemble them. A busy receiver may miss a few; the appliance drops none.
#[test]
fn root_netns_datagrams_of_1400_to_9000_bytes_arrive_4787_req_14() -> Result<()> {
    let lab = Lab::new(1)?;
    let (namespace, client) = (&lab.subscribers, lab.addresses()[0]);
    let [primary, secondary, streams] = SERVERS;
    let settings = Settings { taps: true, ..Settings::default() };
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("fragments.pcap");
    let (_, outcome) = with_appliance(&lab, &settings, |_| {
        let filter = "ip[6:2] & 0x3fff != 0";
        let capture = Capture::start(&lab.server, "world", Direction::Both, filter, &path)?;
        let _iperf = Server::iperf3(&lab.server, streams)?;
        let kinds =
            [1400, 4000, 9000].into_iter().flat_map(|bytes| [(bytes, false), (bytes, true)]);
        for (bytes, reverse) in kinds {
            let counted = judges::datagrams(namespace, client, streams, bytes, reverse)?;
            let what = format!("{bytes} bytes, reverse {reverse}: {counted:?}");
            println!("{what}");
            ensure!(counted.sent >= 50 && counted.arrived * 20 >= counted.sent * 19, "{what}");
        }
        let _stun = judges::stun(&lab.server, [primary, secondary])?;
        for (question, verdict, port) in
            [(Question::Mapping, EIM, 20_000), (Question::Filtering, EIF, 20_001)]
        {
            let source = (client, port);
            let said = judges::natdiscovery(namespace, source, primary, question, true)?;
            ensure!(said == verdict, "{question:?}, padded: natdiscovery says {said:?}");
        }
        let text = judges::ping(namespace, client, primary, &["-s", "8000", "-c", "2"])?;
        ensure!(text.contains("2 received"), "{text}");
        // Of at least 50 datagrams each way, 3 and 7 fragments.
        let crossed = capture.stop()?;
        ensure!(crossed >= 1000, "only {crossed} fragments crossed the external link");
        Ok(())
    })?;
    expect_drops(&outcome, &[])
}
