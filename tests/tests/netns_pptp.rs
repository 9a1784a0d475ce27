//! PPTP through the appliance: pptpd and pptp as many run them, and calls whose identifiers are
//! equal. Needs root.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Outcome, Settings, with_appliance};
use cgnat_tests::lab::{Lab, SERVERS};
use cgnat_tests::pptp::{self, CallReport, Client};
use cgnat_tests::process::output_within;

const PROGRAM: &str = env!("CARGO_BIN_EXE_load");
const LIMIT: Duration = Duration::from_secs(15);

/// Packets through each tunnel.
const PACKETS: u32 = 10;

/// Everybody behind one address.
fn one_address(workers: u16, alg: &str) -> Settings {
    Settings {
        workers,
        pool: vec!["203.0.113.1".to_owned()],
        block_size: 64,
        alg: Some(alg.to_owned()),
        ..Settings::default()
    }
}

/// What was dropped, but for GRE that came when its call had ended.
fn dropped(outcome: &Outcome) -> Result<Vec<String>> {
    let reasons = outcome.stats.drops()?.into_keys();
    Ok(reasons.filter(|reason| reason != "pptp-no-call").collect())
}

/// Calls of `count` subscribers with one identifier, at the same time.
fn calls(lab: &Lab, count: u32, bytes: u32) -> Result<CallReport> {
    let mut command = lab.subscribers.command(PROGRAM);
    command.args(["calls", &SERVERS[0].to_string(), "--count", &count.to_string()]);
    command.args(["--packets", &PACKETS.to_string(), "--bytes", &bytes.to_string()]);
    let output = output_within(command, Duration::from_secs(40))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the calls: {said}");
    serde_json::from_slice(&output.stdout).context("the calls have no report")
}

#[test]
fn root_netns_pptp_clients_behind_one_address_have_a_tunnel_each_to_one_server() -> Result<()> {
    for workers in [1, 4] {
        // A new one each: what the connections of the last say at their end is for nobody else.
        let lab = Lab::new(4)?;
        let ((), outcome) = with_appliance(&lab, &one_address(workers, "{ pptp: true }"), |_| {
            let _server = pptp::server(&lab.server, SERVERS[0])?;
            let sources = lab.addresses().iter();
            let mut clients: Vec<Client> = sources
                .map(|source| Client::start(&lab.subscribers, *source, SERVERS[0]))
                .collect::<Result<_>>()?;
            for client in &mut clients {
                client.wait_for_tunnel(LIMIT)?;
            }
            for n in 0..PACKETS {
                for (number, client) in clients.iter_mut().enumerate() {
                    let text = format!("packet {n} of client {number}");
                    let came = client.echoes(text.as_bytes(), LIMIT)?;
                    ensure!(came, "{workers} workers: {text} did not come back");
                }
            }
            Ok(())
        })?;
        let algs = outcome.stats.document()["alg"]["pptp"].clone();
        println!("{workers} workers: {algs}");
        ensure!(algs["passed"] == 0 && algs["unfollowed"] == 0, "{workers} workers: {algs}");
        ensure!(dropped(&outcome)?.is_empty(), "drops {:?}", outcome.stats.drops()?);
    }
    Ok(())
}

/// RFC 2637 leaves the identifier to each client, so several may choose the same.
#[test]
fn root_netns_calls_with_equal_identifiers_do_not_meet() -> Result<()> {
    for workers in [1, 4] {
        let lab = Lab::new(6)?;
        let settings = one_address(workers, "{ pptp: true }");
        let (report, outcome) = with_appliance(&lab, &settings, |_| {
            let _server = pptp::server(&lab.server, SERVERS[0])?;
            calls(&lab, 6, 1_000)
        })?;
        println!("{workers} workers: {report:?}");
        let expected = CallReport { calls: 6, echoed: vec![PACKETS; 6], strange: 0 };
        ensure!(report == expected, "{workers} workers: {report:?}");
        ensure!(dropped(&outcome)?.is_empty(), "drops {:?}", outcome.stats.drops()?);
    }
    Ok(())
}

/// Larger than the links, in both directions: over taps the appliance sees the fragments.
#[test]
fn root_netns_tunnels_carry_what_has_to_be_fragmented_4787_req_14() -> Result<()> {
    let lab = Lab::new(3)?;
    for namespace in [&lab.subscribers, &lab.server] {
        // Without DF.
        namespace.run("sysctl", &["-q", "-w", "net.ipv4.ip_no_pmtu_disc=1"])?;
    }
    let settings = Settings { taps: true, ..one_address(1, "{ pptp: true }") };
    let (report, outcome) = with_appliance(&lab, &settings, |_| {
        let _server = pptp::server(&lab.server, SERVERS[0])?;
        calls(&lab, 3, 2_500)
    })?;
    let expected = CallReport { calls: 3, echoed: vec![PACKETS; 3], strange: 0 };
    ensure!(report == expected, "{report:?}");
    ensure!(dropped(&outcome)?.is_empty(), "drops {:?}", outcome.stats.drops()?);
    Ok(())
}

/// The tests above can fail: without the ALG one subscriber has its tunnel, and no other.
#[test]
fn root_netns_without_its_alg_the_second_pptp_client_is_refused() -> Result<()> {
    let lab = Lab::new(2)?;
    let settings = Settings {
        other_protocols: Some("{ gre: carry }".to_owned()),
        ..one_address(4, "{ pptp: false }")
    };
    let (report, outcome) = with_appliance(&lab, &settings, |_| {
        let _server = pptp::server(&lab.server, SERVERS[0])?;
        calls(&lab, 2, 100)
    })?;
    ensure!(report.echoed == [PACKETS, 0], "{report:?}");
    let drops = outcome.stats.drops()?;
    ensure!(drops.contains_key("association-conflict"), "drops {drops:?}");
    Ok(())
}
