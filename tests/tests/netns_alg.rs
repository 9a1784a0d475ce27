//! FTP and TFTP through the appliance: vsftpd, dnsmasq and curl. Needs root.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Result, ensure};
use cgnat_tests::appliance::{Settings, with_appliance};
use cgnat_tests::file_transfer::{self, Client, INCOMING, Mode};
use cgnat_tests::judges;
use cgnat_tests::lab::{Lab, SERVERS};
use cgnat_tests::traffic::{self, Server};

/// Names and sizes: nothing, less than a packet, many packets.
const FILES: [(&str, u64); 4] = [("empty", 0), ("one", 1), ("page", 700), ("many", 1_000_000)];
const NAMES: [&str; 4] = ["empty", "one", "page", "many"];

fn write_files(directory: &Path) -> Result<()> {
    FILES.iter().try_for_each(|(name, bytes)| traffic::random_file(&directory.join(name), *bytes))
}

fn expect_same(names: &[&str], first: &Path, second: &Path) -> Result<()> {
    for name in names {
        let (first, second) = (first.join(name), second.join(name));
        let same = traffic::sha256(&first)? == traffic::sha256(&second)?;
        ensure!(same, "{} and {} differ", first.display(), second.display());
    }
    Ok(())
}

/// Both ways, all files; what is uploaded has a name of its own per client and mode.
fn moves_files(client: Client<'_>, ftp: &Server) -> Result<()> {
    let copies = tempfile::tempdir()?;
    client.download(&NAMES, copies.path())?;
    expect_same(&NAMES, &ftp.root(), copies.path())?;
    let own = NAMES.map(|name| format!("{name}-{}-{:?}", client.source, client.mode));
    for (name, own) in NAMES.iter().zip(&own) {
        std::fs::rename(copies.path().join(name), copies.path().join(own))?;
    }
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    client.upload(&own, copies.path())?;
    expect_same(&own, &ftp.root().join(INCOMING), copies.path())
}

/// Every client in every mode; the commands that the server got.
fn all_modes(lab: &Lab, threads: usize) -> Result<Vec<String>> {
    let ftp = file_transfer::ftp(&lab.server, SERVERS[0])?;
    write_files(&ftp.root())?;
    let clients: Vec<(Ipv4Addr, Mode)> = Mode::FTP
        .into_iter()
        .flat_map(|mode| lab.addresses().iter().map(move |source| (*source, mode)))
        .collect();
    let errors = traffic::in_parallel(&clients, threads, |(source, mode)| {
        let namespace = &lab.subscribers;
        let client = Client { namespace, source: *source, server: SERVERS[0], mode: *mode };
        moves_files(client, &ftp)
    });
    ensure!(errors.is_empty(), "{}", errors.join("\n"));
    file_transfer::commands(&ftp)
}

fn with_alg(alg: &str) -> Settings {
    Settings { alg: Some(alg.to_owned()), ..Settings::default() }
}

/// Each mode from each of several subscribers, some at once, with one worker and with four, and
/// where filtering must be told of the server.
#[test]
fn root_netns_curl_moves_files_in_each_mode_of_ftp_5382_req_6() -> Result<()> {
    let lab = Lab::new(6)?;
    for (workers, filtering) in [(1, "address-and-port-dependent"), (4, "endpoint-independent")] {
        let filtering = Some(filtering.to_owned());
        let settings = Settings { workers, filtering, ..with_alg("{ ftp: true }") };
        let (commands, outcome) = with_appliance(&lab, &settings, |_| all_modes(&lab, 3))?;
        let count = |mode: Mode| commands.iter().filter(|c| c.starts_with(mode.verb())).count();
        // Eight transfers of each of six clients.
        let counts = Mode::FTP.map(count);
        ensure!(counts == [48; 4], "{workers} workers: the server got {counts:?} of each mode");
        let algs = outcome.stats.document()["alg"]["ftp"].clone();
        println!("{workers} workers: {algs}");
        ensure!(algs["replaced"] == 96 && algs["passed"] == 0, "{workers} workers: {algs}");
        let drops = outcome.stats.drops()?;
        ensure!(drops.is_empty(), "{workers} workers: drops {drops:?}");
    }
    Ok(())
}

/// Every ninth packet of the control connections is lost, on its way to the server and on its way
/// back: what is sent again is changed as it was before (RFC 5382 section 9).
#[test]
fn root_netns_ftp_survives_losses_on_the_control_connection_5382_s9a() -> Result<()> {
    let lab = Lab::new(2)?;
    let (commands, outcome) = with_appliance(&lab, &with_alg("{ ftp: true }"), |_| {
        judges::lose(&lab.server, 21, 9)?;
        all_modes(&lab, 4)
    })?;
    let lost = judges::lost(&lab.server)?;
    ensure!(lost > 20, "only {lost} packets were lost");
    println!("{lost} lost; {}", outcome.stats.document()["alg"]["ftp"]);
    let active = commands.iter().filter(|c| c.starts_with('P') || c.starts_with("EP")).count();
    ensure!(active == 64, "the server got {active} commands for data connections");
    Ok(())
}

/// The tests above can fail: without the ALG active mode does, and passive mode does not.
#[test]
fn root_netns_active_ftp_fails_without_its_alg() -> Result<()> {
    let lab = Lab::new(1)?;
    with_appliance(&lab, &with_alg("{ ftp: false, tftp: true }"), |_| {
        let ftp = file_transfer::ftp(&lab.server, SERVERS[0])?;
        write_files(&ftp.root())?;
        for mode in Mode::FTP {
            let (namespace, source) = (&lab.subscribers, lab.addresses()[0]);
            let client = Client { namespace, source, server: SERVERS[0], mode };
            match (mode.is_active(), moves_files(client, &ftp)) {
                (false, result) => result?,
                // 30: the server did not like the address.
                (true, Err(error)) if error.to_string().contains("curl ended with 30") => {}
                (true, result) => anyhow::bail!("{mode:?} without its ALG: {result:?}"),
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// A TFTP server answers from a port that nobody has sent to: where filtering depends on the port,
/// its ALG is what lets it in.
#[test]
fn root_netns_curl_fetches_files_by_tftp() -> Result<()> {
    let lab = Lab::new(3)?;
    for (workers, filtering, alg, comes) in [
        (1, "address-and-port-dependent", "{ tftp: true }", true),
        (4, "address-and-port-dependent", "{ tftp: true }", true),
        (1, "address-and-port-dependent", "{ ftp: true }", false),
        (1, "address-dependent", "{}", true),
    ] {
        let filtering = Some(filtering.to_owned());
        let settings = Settings { workers, filtering, ..with_alg(alg) };
        let ((), outcome) = with_appliance(&lab, &settings, |_| {
            let tftp = file_transfer::tftp(&lab.server, SERVERS[1])?;
            write_files(&tftp.root())?;
            for source in lab.addresses().iter().take(if comes { 3 } else { 1 }) {
                let namespace = &lab.subscribers;
                let client =
                    Client { namespace, source: *source, server: SERVERS[1], mode: Mode::Tftp };
                let copies = tempfile::tempdir()?;
                // The empty one curl does not write at all.
                let names = if comes { &NAMES[1..] } else { &["page"] };
                match (comes, client.download(names, copies.path())) {
                    (true, result) => result?,
                    (false, Err(error)) if error.to_string().contains("curl ended with 28") => {
                        continue;
                    }
                    (false, result) => anyhow::bail!("{alg}: {result:?}"),
                }
                expect_same(names, &tftp.root(), copies.path())?;
            }
            Ok(())
        })?;
        let filtered = outcome.stats.drops()?.contains_key("filtered");
        ensure!(filtered != comes, "{alg}: drops {:?}", outcome.stats.drops()?);
    }
    Ok(())
}
