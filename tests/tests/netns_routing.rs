//! Pools announced by FRR and BIRD beside two appliances, and withdrawn first. Needs root.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cgnat_tests::pings::Pings;
use cgnat_tests::process::wait_until;
use cgnat_tests::routed::{Daemon, Daemons, HOPS, PINNED, POOLS, Routed, SERVER, SUBSCRIBER};

/// Shorter than the dead interval of OSPF, 40 s, and the hold time of BGP, 180 s.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until both routers go through a box or do not; prints how long that took.
fn wait_for(lab: &Routed, what: &str, n: usize, is_wanted: bool) -> Result<()> {
    let begun = Instant::now();
    let mut when = [None; 2];
    wait_until(what, LIMIT, || {
        for (place, is_there) in when.iter_mut().zip([lab.draws(n)?, lab.reaches(n)?]) {
            *place = if is_there != is_wanted { None } else { place.or(Some(begun.elapsed())) };
        }
        Ok(when.iter().all(Option::is_some))
    })
    .inspect_err(|_| {
        let ways = [lab.draws(n).ok(), lab.reaches(n).ok()];
        let sessions = lab.router(1, "show bgp summary").unwrap_or_default();
        eprintln!("default route and pool of box {n}: {ways:?}\n{sessions}{}", lab.log(n));
    })?;
    let [inside, outside] = when.map(|when| when.unwrap_or_default().as_millis());
    println!("{what}: inside after {inside} ms, outside after {outside} ms");
    Ok(())
}

/// Pings go through, all from the pool of box `n`.
fn passes(lab: &Routed, n: usize) -> Result<()> {
    let before = lab.seen()?;
    wait_until("pings", LIMIT, || lab.pings(SERVER, 3))?;
    let after = lab.seen()?;
    let new = [0, 1].map(|n| after[n] - before[n]);
    ensure!(new[n] >= 3, "packets from {POOLS:?}: {new:?}, expected those of box {n}");
    Ok(())
}

fn says(lab: &Routed, n: usize, words: &str) -> Result<()> {
    let text = lab.ask(n, &["show", "readiness"])?;
    ensure!(text.contains(words), "expected {words:?} in\n{text}");
    Ok(())
}

/// The router outside sends the box another way to a server, by BGP, and takes it back: packets follow
/// the daemon's route in the kernel, and none is lost.
fn follows_what_its_daemon_learned(lab: &Routed) -> Result<()> {
    let pings = Pings::start(&lab.inside, SUBSCRIBER, SERVER)?;
    // All go by one next hop, and the routes in use are the kernel's.
    let goes_by = |n: usize| -> Result<Duration> {
        let (begun, mut before) = (Instant::now(), lab.taken()?);
        let line = format!("external {SERVER}/32 via {} port external0 (kernel)", HOPS[1]);
        wait_until("packets by the other way", LIMIT, || {
            let after = lab.taken()?;
            let new = [0, 1].map(|n| after[n] - before[n]);
            before = after;
            let routes = lab.ask(0, &["show", "routes"])?;
            let is_used = new[n] >= 2 && new[1 - n] == 0;
            Ok(is_used && routes.contains(&line) == (n == 1))
        })
        .with_context(|| {
            let routes = lab.ask(0, &["show", "routes"]).unwrap_or_default();
            let kernel = lab.boxes[0].run("ip", &["route"]).unwrap_or_default();
            let sessions = lab.router(1, "show bgp summary").unwrap_or_default();
            format!("{before:?}\n{routes}\n{kernel}\n{sessions}{}", lab.log(0))
        })?;
        Ok(begun.elapsed())
    };
    goes_by(0)?;
    lab.sends_elsewhere(true)?;
    let there = goes_by(1)?;
    lab.sends_elsewhere(false)?;
    let back = goes_by(0)?;
    let answered = pings.stop()?.are_all()?;
    println!(
        "learned by BGP: packets by the new next hop after {} ms, back {} ms after it was withdrawn; {} \
         pings, none lost",
        there.as_millis(),
        back.as_millis(),
        answered.received
    );
    Ok(())
}

fn sessions_are_up(lab: &Routed, daemons: &Daemons) -> Result<()> {
    wait_until("BFD both ways", LIMIT, || {
        let peers = daemons.show("show bfd peers brief")?;
        Ok(peers.lines().filter(|line| line.trim_end().ends_with(" up")).count() == 2)
    })?;
    let neighbours = daemons.show("show ip ospf neighbor")?;
    ensure!(neighbours.contains("Full/"), "{neighbours}");
    let sessions = lab.router(1, "show bgp summary established")?;
    ensure!(sessions.contains("192.0.2.2 "), "{sessions}");
    Ok(())
}

#[test]
fn root_netns_frr_announces_a_pool_when_it_is_ready_and_withdraws_it_first() -> Result<()> {
    let lab = Routed::new()?;
    // The router inside does not answer ARP yet: sessions outside are up, and yet nobody is told.
    let set_arp = |to: &str| {
        lab.inside.run("ip", &["link", "set", "in0", "arp", to])?;
        lab.inside.run("ip", &["neighbour", "flush", "dev", "in0"])
    };
    set_arp("off")?;
    let mut a = lab.start(0)?;
    let daemons = lab.announce(0, Daemon::Frr)?;
    wait_until("BGP", LIMIT, || {
        Ok(lab.router(1, "show bgp summary established")?.contains("192.0.2.2 "))
    })?;
    says(&lab, 0, "MISSING next hop 10.255.0.1: does not answer ARP on port internal0")?;
    says(&lab, 0, "nothing announced for ")?;
    ensure!(!lab.reaches(0)?, "a box that is not ready is announced");
    set_arp("on")?;
    wait_for(&lab, "announced", 0, true)?;
    sessions_are_up(&lab, &daemons)?;
    says(&lab, 0, "announced by cgn-ext for ")?;
    says(&lab, 0, &format!("\n  {}\n", POOLS[0]))?;
    passes(&lab, 0)?;

    // The other box is announced too, less preferred inside.
    let b = lab.start(1)?;
    let other = lab.announce(1, Daemon::Frr)?;
    wait_until("the pool of box 1", LIMIT, || lab.reaches(1))?;
    passes(&lab, 0)?;

    // A drain moves traffic, and the box goes on.
    lab.ask(0, &["drain"])?;
    wait_for(&lab, "drained", 0, false)?;
    ensure!(lab.draws(1)?, "the default route has not moved to box 1");
    says(&lab, 0, "`cgnat undrain` announces again")?;
    passes(&lab, 1)?;
    ensure!(lab.pings(PINNED, 3)?, "a box that drains translates no more");
    lab.ask(0, &["undrain"])?;
    wait_for(&lab, "undrained", 0, true)?;
    passes(&lab, 0)?;

    // SIGTERM: withdrawn, and packets go on before it ends.
    a.ask_to_stop();
    wait_for(&lab, "stopping", 0, false)?;
    ensure!(lab.pings(PINNED, 1)?, "it translates no more although it has time left");
    ensure!(!a.has_ended()?, "it ended before its neighbours could turn away");
    let outcome = a.await_stop()?;
    outcome.nothing_is_amiss()?;
    passes(&lab, 1)?;

    // A restart is announced again; after kill -9 BFD tells, for the timers of BGP and OSPF are
    // 180 s and 40 s.
    let a = lab.start_following()?;
    wait_for(&lab, "started again", 0, true)?;
    sessions_are_up(&lab, &daemons)?;
    passes(&lab, 0)?;
    follows_what_its_daemon_learned(&lab)?;

    // Somebody deletes the interface that the announcements lie on: it is made again, and the daemon
    // takes it for the same.
    lab.boxes[0].run("ip", &["link", "delete", "cgn-ext"])?;
    wait_for(&lab, "interface deleted", 0, false)?;
    wait_for(&lab, "interface made again", 0, true)?;
    sessions_are_up(&lab, &daemons)?;
    passes(&lab, 0)?;
    drop(a);
    wait_for(&lab, "killed", 0, false)?;
    let reset = lab.router(1, "show bgp neighbors 192.0.2.2")?;
    ensure!(reset.contains("BFD Down"), "{reset}");
    passes(&lab, 1)?;
    drop(other);
    b.stop()?.nothing_is_amiss()
}

/// The short round with BIRD; and a daemon that dies, which takes nothing but the announcement with
/// it.
#[test]
fn root_netns_bird_announces_a_pool_and_its_death_takes_no_packets() -> Result<()> {
    let lab = Routed::new()?;
    let a = lab.start(0)?;
    let mut bird = lab.announce(0, Daemon::Bird)?;
    wait_for(&lab, "announced", 0, true)?;
    passes(&lab, 0)?;
    lab.ask(0, &["drain"])?;
    wait_for(&lab, "drained", 0, false)?;
    ensure!(lab.pings(PINNED, 2)?, "a box that drains translates no more");
    lab.ask(0, &["undrain"])?;
    wait_for(&lab, "undrained", 0, true)?;

    // The daemon is killed: the box has nothing to do with it.
    bird.kill("bird")?;
    wait_for(&lab, "daemon killed", 0, false)?;
    says(&lab, 0, "ready\n  ok ")?;
    says(&lab, 0, "announced by cgn-ext for ")?;
    ensure!(lab.pings(PINNED, 2)?, "the box translates no more without its daemon");
    drop(bird);
    let _bird = lab.announce(0, Daemon::Bird)?;
    wait_for(&lab, "daemon started again", 0, true)?;
    passes(&lab, 0)?;

    drop(a);
    wait_for(&lab, "killed", 0, false)?;
    let a = lab.start_following()?;
    wait_for(&lab, "started again", 0, true)?;
    passes(&lab, 0)?;
    follows_what_its_daemon_learned(&lab)?;
    a.stop()?.nothing_is_amiss()
}
