//! Interfaces in the kernel for what is for the box itself (decision 30).
//!
//! Workers put frames into a ring per port, and never wait; one thread writes them to the port's
//! TAP interface and brings what the kernel sends to the worker that owns the port's first
//! transmit queue. All that is bounded: a full ring drops and counts. An interface that somebody
//! deletes is made again.

mod presence;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use arrayvec::ArrayVec;
use cgnat_core::config::{Config, Port};
use cgnat_core::control::counters::Counter;
use cgnat_core::control::links::LinkStates;
use cgnat_core::packet::ethernet::{self, Tags};
use cgnat_core::packet::ipv6;
use cgnat_core::worker::forwarding::{Forwarding, Ipv6Port};
use cgnat_core::worker::io::BURST;
use dpdk::{Mbuf, Mempool, RingConsumer, RingProducer};
use ipnet::{IpNet, Ipv6Net};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::say::complain;
use presence::{Mended, Presence, Recipe};

/// How long a frame for the kernel waits at most before it is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// How often it is looked whether an interface is up.
const STATE_LOOK: Duration = Duration::from_millis(100);

/// Between an interface and its addresses: FRR's zebra hears of both by different threads, and
/// forgets an address of an interface that it does not know yet.
pub const ADDRESS_DELAY: Duration = Duration::from_millis(200);

/// Longest frame of an interface: the largest MTU and a header.
const LONGEST: usize = 10_240;

/// Header of a frame without tags.
const HEADER: usize = 14;

/// Its part before tags: two addresses.
const STATIONS: usize = 12;

/// How an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterfaceState {
    /// It is there and up.
    Up,
    /// It is there and down.
    Down,
    /// It was deleted, and has not all that it had.
    Gone,
}

impl InterfaceState {
    fn word(self) -> &'static str {
        match self {
            InterfaceState::Up => "up",
            InterfaceState::Down => "down",
            InterfaceState::Gone => "gone",
        }
    }
}

/// What went between a port and its interface; the kernel's thread is the only writer.
#[derive(Debug, Default)]
pub struct KernelCounters {
    /// Of the interface, in the kernel; 0 while there is none.
    index: AtomicU32,
    /// [`InterfaceState`] as a number.
    state: AtomicU8,
    /// Frames written to the interface.
    pub written: Counter,
    /// Frames that the interface did not take.
    pub unwritten: Counter,
    /// Frames of the kernel that were passed on to be sent.
    pub sent: Counter,
    /// Frames of the kernel that are neither ARP nor IP of an own address.
    pub refused: Counter,
    /// Frames of the kernel for which there was no buffer, or no room in the ring, or no link.
    pub unsent: Counter,
    /// How often somebody set the interface down or deleted it.
    pub lost: Counter,
}

impl KernelCounters {
    /// The kernel's number of the interface, while there is one; another after it was made again.
    pub fn index(&self) -> Option<u32> {
        Some(self.index.load(Ordering::Relaxed)).filter(|index| *index != 0)
    }

    fn set_index(&self, index: u32) {
        self.index.store(index, Ordering::Relaxed);
    }

    /// How the interface is.
    pub fn state(&self) -> InterfaceState {
        let states = [InterfaceState::Up, InterfaceState::Down, InterfaceState::Gone];
        states[usize::from(self.state.load(Ordering::Relaxed))]
    }

    fn set_state(&self, state: InterfaceState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

/// What went between a port and its interface so far.
#[derive(Debug, Clone)]
pub struct KernelReport {
    port: String,
    interface: String,
    written: u64,
    unwritten: u64,
    sent: u64,
    refused: u64,
    unsent: u64,
    lost: u64,
    state: InterfaceState,
}

impl KernelReport {
    /// As of now.
    pub fn of(config: &Config, counters: &[(usize, Arc<KernelCounters>)]) -> Vec<Self> {
        let report = |(port, counters): &(usize, Arc<KernelCounters>)| {
            let port = &config.ports()[*port];
            Self {
                port: port.name().to_owned(),
                interface: port.kernel_interface().unwrap_or_default().to_owned(),
                written: counters.written.value(),
                unwritten: counters.unwritten.value(),
                sent: counters.sent.value(),
                refused: counters.refused.value(),
                unsent: counters.unsent.value(),
                lost: counters.lost.value(),
                state: counters.state(),
            }
        };
        counters.iter().map(report).collect()
    }

    /// A line for people.
    pub fn sentence(&self) -> String {
        let Self { port, interface, written, unwritten, sent, refused, unsent, lost, state } = self;
        format!(
            "Kernel interface {interface} of port {port}: {}, lost {lost} times; {written} frames to the kernel, \
             {unwritten} not taken; {sent} from it, {refused} that may not leave, {unsent} without \
             room",
            state.word()
        )
    }

    /// For the statistics file.
    pub fn json(&self) -> Value {
        let Self { port, interface, written, unwritten, sent, refused, unsent, lost, state } = self;
        json!({
            "port": port, "interface": interface, "written": written, "unwritten": unwritten,
            "sent": sent, "refused": refused, "unsent": unsent, "lost": lost, "state": state.word(),
        })
    }
}

/// One interface and its way to and from the port.
pub struct Interface {
    port: String,
    recipe: Recipe,
    presence: Presence,
    /// When it was made again, if it ever was.
    remade: Option<Instant>,
    /// It was said that the kernel does not make it again.
    is_refusal_said: bool,
    tags: Tags,
    /// It has own addresses.
    forwarding: Arc<Forwarding>,
    /// What the port's workers have for the kernel.
    to_kernel: RingConsumer,
    /// The worker that sends for the kernel.
    to_wire: RingProducer,
    /// Links, and which of them is the port's.
    link: (Arc<LinkStates>, usize),
    counters: Arc<KernelCounters>,
}

impl Interface {
    /// Makes the interface of `port`, whose MAC is `mac`, without its addresses; `forwarding` has
    /// all own addresses of the box.
    ///
    /// # Errors
    /// The kernel refuses: a name that is taken, or a permission that is missing.
    pub fn make(
        port: &Port,
        name: &str,
        mac: [u8; 6],
        forwarding: Arc<Forwarding>,
        link: (Arc<LinkStates>, usize),
        (to_kernel, to_wire): (RingConsumer, RingProducer),
    ) -> Result<Self> {
        let ipv6 = forwarding.ipv6().port(link.1).into_iter().flat_map(Ipv6Port::own_addresses);
        let ipv6 = ipv6.map(|own| Ipv6Net::new_assert(own.address().into(), own.prefix_len()));
        let ipv4 = port.addresses().iter().copied().map(IpNet::V4);
        let addresses = ipv4.chain(ipv6.map(IpNet::V6)).collect();
        let recipe = Recipe { name: name.to_owned(), mac, mtu: port.mtu(), addresses };
        let (device, index) = recipe.make().with_context(|| {
            format!(
                "port {}: cannot make the interface {} in the kernel; expected a name that is free \
                 (ip link show {}), /dev/net/tun, and CAP_NET_ADMIN",
                port.name(),
                recipe.name,
                recipe.name
            )
        })?;
        let counters = KernelCounters::default();
        counters.set_index(index);
        Ok(Self {
            port: port.name().to_owned(),
            recipe,
            presence: Presence::There(device),
            remade: None,
            is_refusal_said: false,
            tags: port.tags(),
            forwarding,
            to_kernel,
            to_wire,
            link,
            counters: Arc::new(counters),
        })
    }

    /// Gives the interface the addresses of its port.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn give_addresses(&self) -> Result<()> {
        let Some(device) = self.presence.device() else { return Ok(()) };
        self.recipe.give_addresses(device).map_err(|(net, error)| {
            let (port, name) = (&self.port, &self.recipe.name);
            anyhow!("port {port}: the interface {name} does not take {net}: {error}")
        })
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<KernelCounters> {
        self.counters.clone()
    }

    /// Writes a burst of frames to the interface; whether there were any.
    fn write(&mut self) -> bool {
        let mut frames = ArrayVec::<Mbuf, BURST>::new();
        self.to_kernel.pop_burst(&mut frames);
        let had_any = !frames.is_empty();
        for mut frame in frames {
            untag(&mut frame, self.tags);
            match self.presence.device().map(|device| device.send(frame.data())) {
                Some(Ok(_)) => self.counters.written.add(1),
                Some(Err(_)) | None => self.counters.unwritten.add(1),
            }
        }
        had_any
    }

    /// Reads a burst of frames from the interface; whether there were any.
    fn read(&mut self, pool: &Mempool, frame: &mut [u8; LONGEST]) -> bool {
        let mut burst = ArrayVec::<Mbuf, BURST>::new();
        let mut count = 0;
        while count < BURST
            && let Some(device) = self.presence.device()
        {
            match device.recv(frame) {
                Ok(len) => {
                    count += 1;
                    self.take(&frame[..len], pool, &mut burst);
                }
                Err(error) => {
                    self.mind(&error);
                    break;
                }
            }
        }
        let pushed = self.to_wire.push_burst(&mut burst);
        self.counters.sent.add(pushed as u64);
        self.counters.unsent.add(burst.len() as u64);
        count > 0
    }

    /// Puts a frame of the kernel into a buffer, if it may leave.
    fn take(&self, frame: &[u8], pool: &Mempool, burst: &mut ArrayVec<Mbuf, BURST>) {
        if !may_leave(frame, &self.forwarding, self.link.1) {
            return self.counters.refused.add(1);
        }
        if self.link.0.is_down(self.link.1) {
            // Else it leaves when the link is back, and is about what was before.
            return self.counters.unsent.add(1);
        }
        let tagged = frame.len() + self.tags.len();
        let filled = pool.alloc().and_then(|mut buffer| {
            let bytes = buffer.append(u16::try_from(tagged).ok()?)?;
            copy_tagged(frame, self.tags, bytes);
            Some(buffer)
        });
        match filled {
            Some(buffer) => burst.push(buffer),
            None => self.counters.unsent.add(1),
        }
    }

    /// Looks whether somebody has set it down, and after one that was deleted.
    fn look(&mut self) {
        let Presence::There(device) = &self.presence else { return self.mend() };
        // One that is gone says so to who reads.
        let Ok(is_up) = device.is_running() else { return };
        let was_up = self.counters.state() == InterfaceState::Up;
        self.counters.set_state(if is_up { InterfaceState::Up } else { InterfaceState::Down });
        let (port, name) = (&self.port, &self.recipe.name);
        match (was_up, is_up) {
            (true, false) => {
                self.counters.lost.add(1);
                complain(&format!(
                    "warning: port {port}: the interface {name} is down, so the kernel gets nothing of \
                     what is for the box itself and sends nothing. Packets of subscribers go on; \
                     ip link set {name} up mends it"
                ));
            }
            (false, true) => complain(&format!("port {port}: the interface {name} is up again")),
            _ => {}
        }
    }

    /// Takes the next step to have it again.
    fn mend(&mut self) {
        let (port, name) = (&self.port, &self.recipe.name);
        match self.presence.mend(&self.recipe) {
            Mended::Not => {}
            Mended::Made(index) => {
                self.counters.set_index(index);
                self.remade = Some(Instant::now());
            }
            Mended::Whole => {
                self.counters.set_state(InterfaceState::Up);
                self.is_refusal_said = false;
                complain(&format!(
                    "port {port}: the interface {name} was made again, with its addresses. What else was \
                     set on it, routes, rules and sysctls, is for who set it to set again"
                ));
            }
            Mended::Refused(error) => {
                self.counters.set_index(0);
                if !std::mem::replace(&mut self.is_refusal_said, true) {
                    complain(&format!(
                        "error: port {port}: the interface {name} cannot be made again ({error}); \
                         expected a name that is free (ip link show {name}) and CAP_NET_ADMIN. It is \
                         tried again each second"
                    ));
                }
            }
        }
    }

    /// An error of reading: nothing there, for the moment or for good.
    fn mind(&mut self, error: &std::io::Error) {
        use std::io::ErrorKind::{Interrupted, WouldBlock};
        if matches!(error.kind(), WouldBlock | Interrupted) || error.raw_os_error() == Some(DOWN) {
            return;
        }
        let pause = self.presence.lose(self.remade).as_secs();
        self.counters.set_index(0);
        self.counters.set_state(InterfaceState::Gone);
        self.counters.lost.add(1);
        complain(&format!(
            "error: port {}: the interface {} is gone ({error}); somebody has deleted it. The kernel \
             gets nothing of what is for the box itself, and routing daemons have lost it. Packets of \
             subscribers go on; it is made again in {pause} s",
            self.port, self.recipe.name
        ));
    }
}

/// EIO: the interface is there and is down.
const DOWN: i32 = 5;

/// Whether the kernel may send a frame out of a port: ARP or IP of an own address.
fn may_leave(frame: &[u8], forwarding: &Forwarding, port: usize) -> bool {
    let Some(header) = frame.first_chunk::<HEADER>() else { return false };
    let sender = |at: usize| frame[HEADER..].get(at..)?.first_chunk::<4>().copied();
    let sender = match u16::from_be_bytes([header[12], header[13]]) {
        ethernet::ARP => sender(14),
        ethernet::IPV4 => sender(12),
        ethernet::IPV6 => {
            let packet = &frame[HEADER..];
            let is_whole = packet.len() >= ipv6::HEADER;
            return is_whole && forwarding.ipv6().is_in_use(port, ipv6::address_at(packet, 8));
        }
        _ => return false,
    };
    sender.is_some_and(|sender| forwarding.is_own(u32::from_be_bytes(sender)))
}

/// Copies a frame without tags, and puts in those of the port.
fn copy_tagged(frame: &[u8], tags: Tags, to: &mut [u8]) {
    to[..STATIONS].copy_from_slice(&frame[..STATIONS]);
    tags.write(&mut to[STATIONS..]);
    to[STATIONS + tags.len()..].copy_from_slice(&frame[STATIONS..]);
}

/// Takes off the tags, which were compared with the port's when the frame came in. At a port without
/// there may be one all the same, of priority alone.
fn untag(frame: &mut Mbuf, tags: Tags) {
    let bytes = frame.data_mut();
    let has_one = bytes[STATIONS..].starts_with(&ethernet::DOT1Q.to_be_bytes());
    let len = if tags.is_empty() && has_one { ethernet::TAG } else { tags.len() };
    bytes.copy_within(..STATIONS, len);
    let cut = frame.adj(len as u16);
    debug_assert!(cut, "the frame is longer");
}

/// The loop of the thread, until it is told to stop.
pub fn serve(mut interfaces: Vec<Interface>, pool: &Mempool, cpus: &[u16], stop: &AtomicBool) {
    if let Err(error) = dpdk::set_current_thread_affinity(cpus) {
        complain(&format!("warning: the thread of kernel interfaces stays where it is: {error}"));
    }
    let mut frame = [0; LONGEST];
    let mut looked = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let mut worked = false;
        for interface in &mut interfaces {
            worked |= interface.write();
            worked |= interface.read(pool, &mut frame);
        }
        if looked.elapsed() >= STATE_LOOK {
            looked = Instant::now();
            interfaces.iter_mut().for_each(Interface::look);
        }
        if !worked {
            wait(&interfaces);
        }
    }
}

/// Waits until the kernel sends something, and not longer than frames for it may wait.
fn wait(interfaces: &[Interface]) {
    let there = interfaces.iter().filter_map(|interface| interface.presence.device());
    let mut waited: Vec<_> = there.map(|device| PollFd::new(device, PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as i64 };
    // Interrupted or not: it is time to look.
    let answer = poll(&mut waited, Some(&timeout));
    let is_broken = |fd: &PollFd<'_>| fd.revents().intersects(PollFlags::ERR | PollFlags::HUP);
    if answer.is_err() || waited.iter().any(is_broken) {
        // It says so at once each time; the next look is as far away as else.
        std::thread::sleep(LOOK);
    }
}

/// The names of the interfaces by port, for those ports that have one.
pub fn wanted(config: &Config) -> impl Iterator<Item = (usize, &Port, &str)> {
    let named = |(index, port)| Some((index, port, Port::kernel_interface(port)?));
    config.ports().iter().enumerate().filter_map(named)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use cgnat_core::worker::forwarding::State;

    use super::*;

    const OWN: [u32; 2] = [0x0aff_0002, 0xc000_0202];

    fn forwarding() -> Arc<Forwarding> {
        let yaml = "version: 1
ports:
  in:
    side: internal
    device: net_null0
    addresses: [10.255.0.2/30]
    next-hop: 10.255.0.1
    ipv6: { addresses: [\"2001:db8:a::2/64\"] }
  out:
    side: external
    device: net_null1
    addresses: [192.0.2.2/30]
    next-hop: 192.0.2.1
    ipv6: { addresses: [\"2001:db8:b::2/64\"], link-local: \"fe80::2\", next-hop: \"fe80::1\" }
pools: { main: { addresses: [203.0.113.7] } }
subscribers: [{ name: all, match: [100.64.0.0/10], pool: main }]
";
        let config = Config::from_yaml("t.yaml", yaml).unwrap_or_else(|p| panic!("{p}"));
        Forwarding::new(&config, &[[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]])
    }

    fn frame(ether_type: u16, source: u32) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        bytes.extend(ether_type.to_be_bytes());
        bytes.extend([0x45; 12]);
        bytes.extend(source.to_be_bytes());
        bytes.extend([7; 20]);
        bytes
    }

    fn frame6(source: &str) -> Vec<u8> {
        let mut bytes = frame(ethernet::IPV6, OWN[0]);
        let source: Ipv6Addr = source.parse().expect("an address");
        bytes.resize(HEADER + 60, 0);
        bytes[HEADER + 8..HEADER + 24].copy_from_slice(&source.octets());
        bytes
    }

    #[test]
    fn the_kernel_sends_arp_and_ip_of_own_addresses_and_nothing_else() {
        let forwarding = forwarding();
        let may_leave = |frame: &[u8]| may_leave(frame, &forwarding, 1);
        assert!(may_leave(&frame(ethernet::IPV4, OWN[1])));
        for other in [0x6440_0001, 0, u32::MAX] {
            assert!(!may_leave(&frame(ethernet::IPV4, other)));
            assert!(!may_leave(&frame(ethernet::ARP, OWN[0])));
        }
        let mut arp = frame(ethernet::ARP, 0);
        arp[28..32].copy_from_slice(&OWN[0].to_be_bytes());
        assert!(may_leave(&arp));
        assert!(!may_leave(&frame(ethernet::IPV6, OWN[0])));
        assert!(!may_leave(&frame(ethernet::DOT1Q, OWN[0])));
        for len in 0..30 {
            assert!(!may_leave(&frame(ethernet::IPV4, OWN[0])[..len]), "{len}");
        }
    }

    #[test]
    fn the_kernel_sends_ipv6_of_addresses_that_are_used() {
        let forwarding = forwarding();
        let may_leave = |frame: &[u8]| may_leave(frame, &forwarding, 1);
        let ours = ["2001:db8:a::2", "2001:db8:b::2", "fe80::2"].map(frame6);
        // Somebody may still object.
        assert!(!ours.iter().any(|frame| may_leave(frame)));
        let ports = (0..2).filter_map(|port| forwarding.ipv6().port(port));
        ports.flat_map(|port| port.own_addresses()).for_each(|own| own.set(State::InUse));
        assert!(ours.iter().all(|frame| may_leave(frame)));
        // The link-local one of the other port means somebody else here.
        for other in ["fe80::ff:fe00:1", "2001:db8:b::3", "2001:db8:100::1", "::"] {
            assert!(!may_leave(&frame6(other)), "{other}");
        }
        for len in 0..HEADER + 40 {
            assert!(!may_leave(&ours[1][..len]), "{len}");
        }
    }

    #[test]
    fn tags_are_put_in_behind_the_macs() {
        let plain = frame(ethernet::IPV4, OWN[0]);
        let two =
            Tags::Two { tpid: ethernet::SERVICE, is_tpid_hidden: true, outer: 300, inner: 200 };
        for (tags, expected) in [
            (Tags::None, &[][..]),
            (Tags::One(200), &[0x81, 0x00, 0, 200]),
            (two, &[0x88, 0xa8, 1, 44, 0x81, 0x00, 0, 200]),
        ] {
            let mut tagged = vec![0; plain.len() + tags.len()];
            copy_tagged(&plain, tags, &mut tagged);
            assert_eq!(tagged, [&plain[..12], expected, &plain[12..]].concat());
        }
    }
}
