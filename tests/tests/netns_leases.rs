//! The load that a NAT of iptables fails at about 500 clients: 20,000 DHCP relays, all from UDP
//! port 67 to one server endpoint, renew leases of 60 s. Needs root.
//!
//! With `CGNAT_SOAK` set they renew every 30 s for some minutes, else every few seconds.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::appliance::{Settings, with_appliance};
use cgnat_tests::lab::{Lab, SERVERS, subscriber};
use cgnat_tests::leases::{LeaseReport, LeaseServerReport};
use cgnat_tests::reports::{self, Serving};
use cgnat_tests::told::Told;

const PROGRAM: &str = env!("CARGO_BIN_EXE_load");
const CLIENTS: u32 = 20_000;
/// Of an address with ports 1024-65535.
const PORTS: u64 = 64_512;
const BLOCK_SIZE: u16 = 64;
const RATE: u64 = 8_000;

/// Rounds, and seconds from one to the next.
fn pace() -> (u32, u64) {
    if std::env::var_os("CGNAT_SOAK").is_some() { (10, 30) } else { (2, 3) }
}

fn server(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(SERVERS[0], port)
}

fn serve(lab: &Lab, port: u16) -> Result<Serving> {
    Serving::start(&lab.server, PROGRAM, &["lease-server", &server(port).to_string()])
}

/// The subscribers `first` and `count` from there on renew at the server's `port`, from the same.
/// They are in processes of ten thousand, as each has a socket.
fn renew(
    lab: &Lab,
    port: u16,
    (first, count): (u32, u32),
    (rounds, period): (u32, u64),
) -> Result<LeaseReport> {
    const MOST: u32 = 10_000;
    let rate = RATE / u64::from(count.div_ceil(MOST));
    let limit = Duration::from_secs(60 + u64::from(rounds) * period.max(4));
    let part = |first, count| {
        let arguments = [
            format!("leases {} --source-port {port}", server(port)),
            format!("--first {first} --count {count}"),
            format!("--rounds {rounds} --period {period} --rate {rate}"),
        ];
        let arguments: Vec<&str> = arguments.iter().flat_map(|part| part.split(' ')).collect();
        reports::report_of::<LeaseReport>(&lab.subscribers, PROGRAM, &arguments, limit)
    };
    let mut all = LeaseReport::default();
    thread::scope(|scope| {
        let starts = (0..count).step_by(MOST as usize);
        let parts: Vec<_> = starts
            .map(|start| scope.spawn(move || part(first + start, MOST.min(count - start))))
            .collect();
        for part in parts {
            all += part.join().ok().context("a thread panicked")??;
        }
        Ok(all)
    })
}

fn settings(workers: u16, pool: &str) -> Settings {
    Settings {
        workers,
        pool: vec![pool.to_owned()],
        block_size: BLOCK_SIZE,
        max_blocks: 1,
        max_mappings: 100_000,
        // A round is a burst, and this machine is busy.
        ring: "framecnt=8192".to_owned(),
        ..Settings::default()
    }
}

/// Everybody is served in every round, and the timers of these two ports are theirs alone.
fn everybody_is_served(workers: u16) -> Result<()> {
    const OTHERS: u32 = 10;
    let (rounds, period) = pace();
    let lab = Lab::new(0)?;
    lab.house_everybody()?;
    let settings = Settings {
        udp_port_timeouts: vec![(67, "1s".to_owned()), (68, "1s".to_owned())],
        ..settings(workers, "203.0.113.0/27")
    };
    let ((storm, served, others), outcome) = with_appliance(&lab, &settings, |_| {
        let servers = [serve(&lab, 67)?, serve(&lab, 68)?, serve(&lab, 1067)?];
        let storm = renew(&lab, 67, (0, CLIENTS), (rounds, period))?;
        let others = [
            renew(&lab, 68, (CLIENTS, OTHERS), (1, 1))?,
            renew(&lab, 1067, (CLIENTS + OTHERS, OTHERS), (1, 1))?,
        ];
        // A timer of one second, and the sweep that finds it over.
        thread::sleep(Duration::from_secs(3));
        let [served, ..] = servers;
        Ok((storm, served.report::<LeaseServerReport>()?, others))
    })?;
    println!("{workers} workers: {storm:?}\n{served:?}");

    let requests = u64::from(CLIENTS) * u64::from(rounds);
    let received = outcome.number("/ports/internal0/rx_packets")?;
    ensure!(storm.requests == requests && storm.unsent == 0, "{storm:?}");
    ensure!(storm.answered == requests, "{storm:?}\n{received} received\n{}", outcome.printed);
    ensure!(storm.wrong == 0, "{storm:?}");
    ensure!(served.requests == requests && served.malformed == 0, "{served:?}");
    ensure!(served.shared == 0, "{served:?}");
    ensure!(served.subscribers == u64::from(CLIENTS), "{served:?}");
    for other in &others {
        ensure!(other.answered == u64::from(OTHERS), "{other:?}");
    }
    let drops = outcome.stats.drops()?;
    ensure!(drops.is_empty(), "drops: {drops:?}");
    // Each renewal found its mapping gone; those of the third port are all that is left.
    let (created, active) =
        (outcome.number("/mappings/created")?, outcome.number("/mappings/udp")?);
    ensure!(created == requests + 2 * u64::from(OTHERS), "{created} mappings created");
    ensure!(active == u64::from(OTHERS), "{active} mappings are left");
    Ok(())
}

#[test]
fn root_netns_20000_relays_renew_from_port_67_1_worker() -> Result<()> {
    everybody_is_served(1)
}

#[test]
fn root_netns_20000_relays_renew_from_port_67_4_workers() -> Result<()> {
    everybody_is_served(4)
}

/// One address has room for 1,008 subscribers. The others are refused, each time, and what the
/// appliance says of that adds up to the requests without an answer. A one-to-one mapping, a port
/// forward and a bypass to the very same server need none of it.
#[test]
fn root_netns_relays_that_find_no_room_are_all_counted_and_exceptions_are_served() -> Result<()> {
    const EXEMPT: u32 = 30_000;
    const ASKS: u32 = 8;
    const ONE_TO_ONE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 200);
    const FORWARDED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 201);
    let (rounds, period) = pace();
    let [fixed, forwarded, bypassed] = [0, 1, 2].map(|n| subscriber(EXEMPT + n));
    let lab = Lab::new(0)?;
    lab.house_everybody()?;
    lab.route_untranslated(bypassed)?;
    let settings = Settings {
        static_mappings: vec![
            format!("{{ internal: {fixed}, external: {ONE_TO_ONE} }}"),
            format!("{{ internal: '{forwarded}:67', external: '{FORWARDED}:67', protocol: udp }}"),
        ],
        nat44: vec![format!(
            "bypass: [{{ to: {}/32, from: {bypassed}/32, protocol: udp, ports: [67] }}]",
            SERVERS[0]
        )],
        ..settings(4, "203.0.113.0")
    };
    let ((storm, exempt, served, told), outcome) = with_appliance(&lab, &settings, |_| {
        let served = serve(&lab, 67)?;
        let listener = Serving::start(&lab.subscribers, PROGRAM, &["listen"])?;
        let (storm, exempt) = thread::scope(|scope| {
            let storm = scope.spawn(|| renew(&lab, 67, (0, CLIENTS), (rounds, period)));
            thread::sleep(Duration::from_secs(1));
            (storm.join(), renew(&lab, 67, (EXEMPT, 3), (ASKS, 1)))
        });
        let storm = storm.ok().context("a thread panicked")??;
        Ok((storm, exempt?, served.report::<LeaseServerReport>()?, listener.report::<Told>()?))
    })?;
    let mut drops = outcome.stats.drops()?;
    println!("{storm:?}\n{served:?}\ndrops {drops:?}");

    // Who is served stays served; nobody else is.
    let room = PORTS / u64::from(BLOCK_SIZE);
    ensure!(storm.by_round == vec![room; rounds as usize], "{:?}", storm.by_round);
    ensure!(storm.wrong == 0 && storm.unsent == 0 && served.shared == 0, "{storm:?} {served:?}");
    // On a slow machine the places where a first packet waits for the answer of housekeeping may be
    // full for a moment.
    let unasked = drops.remove("parking-full").unwrap_or_default();
    let unanswered = storm.requests - storm.answered;
    let refused = drops.remove("pool-exhausted").unwrap_or_default();
    ensure!(refused + unasked == unanswered, "{unanswered} unanswered, {refused} refused");
    ensure!(drops.is_empty() && unasked * 100 <= unanswered, "{unasked}, drops {drops:?}");

    let remembered = outcome.stats.remembered_refusals()?;
    println!("{remembered:?}");
    let (listed, forgotten) = (remembered.listed, remembered.forgotten);
    ensure!(listed + forgotten == refused, "{listed} listed, {forgotten} forgotten of {refused}");
    let reasons: Vec<_> = remembered.reasons.iter().map(String::as_str).collect();
    ensure!(reasons == ["pool-exhausted"] && listed > 2_000, "{reasons:?}, {listed} listed");

    let (sent, withheld) =
        (outcome.number("/icmp_errors/sent")?, outcome.number("/icmp_errors/withheld")?);
    println!("{sent} of {refused} were told, {withheld} errors withheld");
    ensure!(sent + withheld == refused, "{sent} told, {withheld} withheld, {refused} refused");
    ensure!(told.icmp == [("3/1".to_owned(), sent)].into(), "{told:?} came, {sent} were sent");

    ensure!(exempt.answered == u64::from(3 * ASKS) && exempt.wrong == 0, "{exempt:?}");
    let expected = [(fixed, ONE_TO_ONE), (forwarded, FORWARDED), (bypassed, bypassed)];
    for (internal, external) in expected {
        let seen = &exempt.endpoints[&internal];
        let alone = seen.len() == 1 && seen.contains(&SocketAddrV4::new(external, 67));
        ensure!(alone, "{internal} was seen as {seen:?}, not as {external}:67");
    }
    for (path, per_ask) in [("static", 2), ("bypassed", 1)] {
        for direction in ["outbound", "inbound"] {
            let count = outcome.number(&format!("/{path}/{direction}"))?;
            ensure!(count == u64::from(per_ask * ASKS), "{count} {path} {direction}");
        }
    }
    let created = outcome.number("/mappings/created")?;
    ensure!(created == room, "{created} mappings were made for {room} who are served");
    Ok(())
}

/// The kernel's NAT as most people use it, beside it: what it does is printed, not judged.
#[test]
fn root_netns_the_kernels_nat_under_the_same_20000_relays() -> Result<()> {
    let lab = Lab::new(0)?;
    lab.house_everybody()?;
    lab.use_kernel_masquerade()?;
    let served = serve(&lab, 67)?;
    let storm = renew(&lab, 67, (0, CLIENTS), (1, 1))?;
    println!("kernel, masquerade: {storm:?}\n{:?}", served.report::<LeaseServerReport>()?);
    ensure!(storm.requests == u64::from(CLIENTS) && storm.answered > 0, "{storm:?}");
    Ok(())
}
