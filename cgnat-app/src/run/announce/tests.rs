use std::cell::RefCell;
use std::rc::Rc;

use super::super::readiness::Facts;
use super::*;
use cgnat_core::config::Config;

/// Routes of a kernel that may refuse.
#[derive(Default)]
struct Kernel {
    routes: BTreeSet<Ipv4Net>,
    refuses: bool,
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Kernel>>);

impl Routes for Shared {
    fn add(&mut self, prefix: Ipv4Net) -> io::Result<()> {
        let mut kernel = self.0.borrow_mut();
        if kernel.refuses {
            return Err(io::Error::other("Network is down"));
        }
        kernel.routes.insert(prefix);
        Ok(())
    }

    fn remove(&mut self, prefix: Ipv4Net) -> io::Result<()> {
        let mut kernel = self.0.borrow_mut();
        if kernel.refuses {
            return Err(io::Error::other("No buffer space"));
        }
        kernel.routes.remove(&prefix);
        Ok(())
    }
}

struct Bench {
    kernel: Shared,
    announcer: Announcer<Shared>,
    said: Vec<String>,
}

const DELAY_MS: u64 = 2000;
const WITHDRAW_DELAY: Duration = Duration::from_secs(5);

impl Bench {
    fn new() -> Self {
        let text = "
version: 1
ports:
  in: { side: internal, device: net_null0, addresses: [10.0.0.2/30], next-hop: 10.0.0.1 }
  out: { side: external, device: net_null1, addresses: [192.0.2.2/30], next-hop: 192.0.2.1, \
kernel-interface: k-out }
pools: { main: { addresses: [203.0.113.0/29, 203.0.113.16] } }
subscribers: [{ name: all, match: [100.64.0.0/10], pool: main }]
announce: { port: out, delay: 2s, withdraw-delay: 5s }
";
        let config = Config::from_yaml("t.yaml", text).unwrap_or_else(|error| panic!("{error}"));
        let rule = config.announce().expect("a section");
        let kernel = Shared::default();
        let prefixes = config.external_prefixes();
        let announcer = Announcer::new(rule, "k-out", &prefixes, kernel.clone());
        Self { kernel, announcer, said: Vec::new() }
    }

    /// Looks every 50 ms.
    fn look(&mut self, ms: std::ops::Range<u64>, readiness: &Readiness) {
        for ms in ms.step_by(50) {
            self.said.extend(self.announcer.look(Duration::from_millis(ms), readiness));
        }
    }

    fn routes(&self) -> Vec<String> {
        self.kernel.0.borrow().routes.iter().map(ToString::to_string).collect()
    }

    fn json(&self, ms: u64) -> Value {
        self.announcer.json(Duration::from_millis(ms))
    }
}

fn ready() -> Readiness {
    Readiness::of(&Facts { standstills: vec![false; 2], ..Facts::default() })
}

fn unready() -> Readiness {
    Readiness::of(&Facts { standstills: vec![false, true], ..Facts::default() })
}

const ALL: [&str; 2] = ["203.0.113.0/29", "203.0.113.16/32"];

#[test]
fn routes_come_when_the_box_was_ready_for_the_delay_and_go_at_once() {
    let mut bench = Bench::new();
    bench.look(0..1000, &unready());
    bench.look(1000..1000 + DELAY_MS, &ready());
    assert_eq!((bench.routes(), &bench.said), (vec![], &vec![]));
    let says = bench.json(2000)["says"].clone();
    assert_eq!(says, "nothing announced for 2 s: it is ready for less than 2 s");
    // A break: the delay begins again.
    bench.look(3000..3050, &unready());
    bench.look(3050..3050 + DELAY_MS, &ready());
    assert_eq!(bench.routes(), [""; 0]);
    bench.look(5050..5100, &ready());
    assert_eq!(bench.routes(), ALL);
    let shown = bench.json(8050);
    assert_eq!(shown["says"], "announced by k-out for 3 s:");
    assert_eq!(shown["prefixes"], json!(ALL));
    bench.look(8100..8150, &unready());
    assert_eq!(bench.routes(), [""; 0]);
    let because = "workers: worker 1 does not poll";
    assert_eq!(
        bench.said,
        [
            "announced: 2 prefixes by k-out; the box is ready",
            &format!("withdrawn: 2 prefixes of k-out: {because}")
        ]
    );
    let says = bench.json(9100)["says"].clone();
    assert_eq!(says, format!("nothing announced for 1 s: {because}"));
}

#[test]
fn a_drain_withdraws_until_it_is_taken_back_and_a_stop_for_good() {
    let mut bench = Bench::new();
    bench.look(0..3000, &ready());
    assert_eq!(bench.routes(), ALL);
    bench.announcer.drain(true);
    bench.look(3000..3050, &ready());
    assert_eq!((bench.routes().len(), bench.json(3000)["drains"].clone()), (0, json!(true)));
    bench.look(3050..9000, &ready());
    assert_eq!(bench.routes(), [""; 0]);
    bench.announcer.drain(false);
    bench.look(9000..9050, &ready());
    assert_eq!(bench.routes(), ALL, "it was ready all the time");
    let at = Duration::from_secs(10);
    let (until, said) = bench.announcer.stop(at, &ready());
    assert_eq!((bench.routes().len(), until), (0, at + WITHDRAW_DELAY));
    assert_eq!(said, ["withdrawn: 2 prefixes of k-out: the box stops"]);
    bench.announcer.drain(false);
    bench.look(10_000..16_000, &ready());
    assert_eq!(bench.routes(), [""; 0]);
}

#[test]
fn a_stop_waits_for_nobody_who_was_told_nothing_or_long_ago() {
    let mut bench = Bench::new();
    bench.look(0..1000, &ready());
    let at = Duration::from_secs(1);
    assert_eq!(bench.announcer.stop(at, &ready()), (at, vec![]), "nothing was announced");
    let mut bench = Bench::new();
    bench.look(0..3000, &ready());
    bench.announcer.drain(true);
    bench.look(3000..3050, &ready());
    // Three of the five seconds have passed, then all.
    for (at_s, until_s) in [(6, 8), (60, 60)] {
        let (until, _) = bench.announcer.stop(Duration::from_secs(at_s), &ready());
        assert_eq!(until, Duration::from_secs(until_s));
    }
}

#[test]
fn what_somebody_flushed_comes_back_and_what_the_kernel_refuses_is_said_once() {
    let mut bench = Bench::new();
    bench.look(0..3000, &ready());
    bench.kernel.0.borrow_mut().routes.clear();
    bench.look(3000..4100, &ready());
    assert_eq!(bench.routes(), ALL);
    bench.said.clear();
    bench.kernel.0.borrow_mut().refuses = true;
    bench.kernel.0.borrow_mut().routes.clear();
    bench.look(4100..9000, &ready());
    assert_eq!(bench.said.len(), 1, "{:?}", bench.said);
    assert!(bench.said[0].contains("on k-out cannot be changed: Network is down"));
    let shown = bench.json(9000);
    assert_eq!((shown["announced"].clone(), shown["prefixes"].clone()), (json!(false), json!([])));
    bench.kernel.0.borrow_mut().refuses = false;
    bench.look(9000..10_100, &ready());
    assert_eq!(bench.routes(), ALL);
    // A route that the kernel does not let go is tried again at each look.
    bench.kernel.0.borrow_mut().refuses = true;
    bench.look(10_100..10_300, &unready());
    assert_eq!(bench.routes(), ALL);
    bench.kernel.0.borrow_mut().refuses = false;
    bench.look(10_300..10_350, &unready());
    assert_eq!(bench.routes(), [""; 0]);
}

#[test]
fn other_addresses_are_announced_at_the_next_look() {
    let mut bench = Bench::new();
    bench.look(0..3000, &ready());
    let prefix = |text: &str| text.parse::<Ipv4Net>().expect("a prefix");
    bench.announcer.set_prefixes(&[prefix("203.0.113.16/32"), prefix("203.0.113.32/28")]);
    bench.look(3000..3050, &ready());
    assert_eq!(bench.routes(), ["203.0.113.16/32", "203.0.113.32/28"]);
}
