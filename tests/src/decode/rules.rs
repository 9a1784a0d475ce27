//! The rules of the NAT, over decoded frames.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Accounted, Endpoint, Frame, Packet, Report, Rules, Side, Transport, Violation};

/// The frames of the four captures.
pub(super) struct Frames {
    pub(super) internal_in: Vec<Frame>,
    pub(super) external_in: Vec<Frame>,
    pub(super) internal_out: Vec<Frame>,
    pub(super) external_out: Vec<Frame>,
}

/// Which endpoints of a packet were translated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Outbound,
    Inbound,
    Hairpinned,
}

/// What a packet and its translation have in common. The endpoint is the one that is not
/// translated; hairpinned packets have none.
#[derive(PartialEq, Eq, Hash)]
struct Key<'a> {
    protocol: u8,
    kept: Option<(Ipv4Addr, u16)>,
    unchanged: &'a [u8],
}

/// Internal and external endpoint of a mapping, as one packet shows it.
type Pair = (Endpoint, Endpoint);

struct Check<'a> {
    rules: &'a Rules,
    report: Report,
    pairs: BTreeSet<Pair>,
    /// Subscriber and external address of packets without ports.
    addresses: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
}

pub(super) fn check(frames: &Frames, rules: &Rules, accounted: Option<Accounted>) -> Report {
    let Frames { internal_in, external_in, internal_out, external_out } = frames;
    let mut check = Check {
        rules,
        report: Report::default(),
        pairs: BTreeSet::new(),
        addresses: BTreeSet::new(),
    };
    check.report.arrived = (internal_in.len() + external_in.len()) as u64;
    check.report.sent = (internal_out.len() + external_out.len()) as u64;
    check.sent_frames(Side::Internal, internal_out);
    check.sent_frames(Side::External, external_out);
    check.outbound_and_inbound(frames);
    let Report { arrived, outbound, inbound, hairpinned, .. } = check.report;
    check.report.not_sent_on = arrived.saturating_sub(outbound + inbound + hairpinned);
    if let Some(Accounted { dropped, consumed }) = accounted {
        let (missing, counted) = (check.report.not_sent_on, dropped + consumed);
        if missing != counted {
            check.report.violations.push(Violation::Unaccounted { missing, counted });
        }
    }
    check.mappings();
    check.report
}

impl Check<'_> {
    /// Rules that a frame that was sent keeps or breaks by itself.
    fn sent_frames(&mut self, side: Side, frames: &[Frame]) {
        for (number, packet) in packets(frames) {
            for layer in &packet.bad_checksums {
                self.report.violations.push(Violation::Checksum(side, number, layer));
            }
            if side == Side::External {
                let inside = |address| contains(&self.rules.subscribers, address);
                if inside(packet.source) || inside(packet.destination) {
                    self.report.violations.push(Violation::Leak(number));
                } else if !contains(&self.rules.pool, packet.source)
                    && !self.rules.own.contains(&packet.source)
                {
                    self.report.violations.push(Violation::ForeignSource(number));
                }
            }
        }
    }

    fn outbound_and_inbound(&mut self, frames: &Frames) {
        let pool = &self.rules.pool;
        let (hairpinned, outbound): (Vec<_>, Vec<_>) = packets(&frames.internal_in)
            .partition(|(_, packet)| contains(pool, packet.destination));
        let (looped, inbound): (Vec<_>, Vec<_>) =
            packets(&frames.internal_out).partition(|(_, packet)| contains(pool, packet.source));
        let external_in: Vec<_> = packets(&frames.external_in).collect();
        let external_out: Vec<_> = packets(&frames.external_out).collect();

        self.report.outbound =
            self.match_up(Way::Outbound, Side::External, &outbound, &external_out);
        self.report.inbound = self.match_up(Way::Inbound, Side::Internal, &external_in, &inbound);
        self.report.hairpinned =
            self.match_up(Way::Hairpinned, Side::Internal, &hairpinned, &looped);
        let others = frames.internal_out.iter().chain(&frames.external_out);
        self.report.originated +=
            others.filter(|frame| !matches!(frame, Frame::Ipv4(_))).count() as u64;
    }

    /// Finds for each packet sent the one that arrived; the number of those found.
    ///
    /// Where several are alike, first those that show a mapping already known are taken, then the
    /// earliest: packets of one kind are not overtaken by later ones of the same kind.
    fn match_up(
        &mut self,
        way: Way,
        side: Side,
        arrived: &[(u64, &Packet)],
        sent: &[(u64, &Packet)],
    ) -> u64 {
        let mut waiting: HashMap<Key<'_>, Vec<&Packet>> = HashMap::new();
        for (_, packet) in arrived {
            waiting.entry(key(way, packet)).or_default().push(packet);
        }
        let mut found = 0;
        let mut postponed = Vec::new();
        for &(number, packet) in sent {
            match waiting.get_mut(&key(way, packet)) {
                Some(alike) if alike.len() == 1 => {
                    let input = alike.remove(0);
                    self.translated(way, side, number, input, packet);
                    found += 1;
                }
                _ => postponed.push((number, packet)),
            }
        }
        for (number, packet) in postponed {
            let alike = waiting.get_mut(&key(way, packet)).filter(|alike| !alike.is_empty());
            if let Some(alike) = alike {
                let known = alike.iter().position(|input| {
                    let pairs = pairs(way, input, packet);
                    !pairs.is_empty() && pairs.iter().all(|pair| self.pairs.contains(pair))
                });
                let input = alike.remove(known.unwrap_or(0));
                self.translated(way, side, number, input, packet);
                found += 1;
            } else if self.rules.own.contains(&packet.source) {
                self.report.originated += 1;
            } else {
                self.report.violations.push(Violation::Unexplained(side, number));
            }
        }
        found
    }

    fn translated(&mut self, way: Way, side: Side, number: u64, input: &Packet, output: &Packet) {
        if output.ttl.checked_add(1) != Some(input.ttl) {
            self.report.violations.push(Violation::TimeToLive(side, number));
        }
        self.pairs.extend(pairs(way, input, output));
        match way {
            Way::Outbound => self.addresses.insert((input.source, output.source)),
            Way::Inbound => self.addresses.insert((output.destination, input.destination)),
            Way::Hairpinned => {
                self.addresses.insert((input.source, output.source));
                self.addresses.insert((output.destination, input.destination))
            }
        };
    }

    /// Rules over all mappings seen.
    fn mappings(&mut self) {
        let mut externals: BTreeMap<Endpoint, BTreeSet<Endpoint>> = BTreeMap::new();
        let mut internals: BTreeMap<Endpoint, BTreeSet<Endpoint>> = BTreeMap::new();
        let mut blocks: BTreeMap<Ipv4Addr, BTreeSet<SocketAddrV4>> = BTreeMap::new();
        let mut holders: BTreeMap<SocketAddrV4, BTreeSet<Ipv4Addr>> = BTreeMap::new();
        let mut addresses: BTreeMap<Ipv4Addr, BTreeSet<Ipv4Addr>> = BTreeMap::new();
        let violations = &mut self.report.violations;
        for &(internal, external) in &self.pairs {
            externals.entry(internal).or_default().insert(external);
            internals.entry(external).or_default().insert(internal);
            let (first, last) = self.rules.ports;
            let port = external.socket.port();
            if !(first..=last).contains(&port) {
                violations.push(Violation::PortNotLent(external));
                continue;
            }
            let block_start = port - (port - first) % self.rules.block_size;
            let block = SocketAddrV4::new(*external.socket.ip(), block_start);
            blocks.entry(*internal.socket.ip()).or_default().insert(block);
            holders.entry(block).or_default().insert(*internal.socket.ip());
        }
        for &(subscriber, address) in &self.addresses {
            addresses.entry(subscriber).or_default().insert(address);
        }
        self.report.mappings = externals.len() as u64;
        self.report.subscribers = addresses.len() as u64;
        let several = |count: usize| count > 1;
        for (internal, set) in externals.into_iter().filter(|(_, set)| several(set.len())) {
            violations.push(Violation::SeveralMappings(internal, set));
        }
        for (external, set) in internals.into_iter().filter(|(_, set)| several(set.len())) {
            violations.push(Violation::SeveralOwners(external, set));
        }
        for (subscriber, set) in addresses.into_iter().filter(|(_, set)| several(set.len())) {
            violations.push(Violation::SeveralAddresses(subscriber, set));
        }
        for (subscriber, set) in blocks {
            if set.len() > self.rules.max_blocks {
                violations.push(Violation::TooManyBlocks(subscriber, set.len()));
            }
        }
        for (block, set) in holders.into_iter().filter(|(_, set)| several(set.len())) {
            violations.push(Violation::SharedBlock(block, set));
        }
    }
}

fn packets(frames: &[Frame]) -> impl Iterator<Item = (u64, &Packet)> {
    (1..).zip(frames).filter_map(|(number, frame)| match frame {
        Frame::Ipv4(packet) => Some((number, packet)),
        Frame::Arp | Frame::Other => None,
    })
}

fn contains(nets: &[ipnet::Ipv4Net], address: Ipv4Addr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

fn key(way: Way, packet: &Packet) -> Key<'_> {
    let ports = match packet.transport {
        Transport::Ports { source, destination } => (source, destination),
        _ => (0, 0),
    };
    let kept = match way {
        Way::Outbound => Some((packet.destination, ports.1)),
        Way::Inbound => Some((packet.source, ports.0)),
        Way::Hairpinned => None,
    };
    Key { protocol: packet.protocol, kept, unchanged: &packet.unchanged }
}

/// The mappings that a packet and its translation show.
fn pairs(way: Way, input: &Packet, output: &Packet) -> Vec<Pair> {
    let source = || Some((source(input)?, source(output)?));
    let destination = || Some((destination(output)?, destination(input)?));
    let pairs = match way {
        Way::Outbound => [source(), None],
        Way::Inbound => [destination(), None],
        Way::Hairpinned => [source(), destination()],
    };
    pairs.into_iter().flatten().collect()
}

/// The endpoint that sends, where it has one: an echo request has it, its reply has not.
fn source(packet: &Packet) -> Option<Endpoint> {
    let port = match packet.transport {
        Transport::Ports { source, .. } => source,
        Transport::Echo { request: true, identifier } => identifier,
        _ => return None,
    };
    let socket = SocketAddrV4::new(packet.source, port);
    Some(Endpoint { protocol: packet.protocol, socket })
}

/// The endpoint that receives, where it has one.
fn destination(packet: &Packet) -> Option<Endpoint> {
    let port = match packet.transport {
        Transport::Ports { destination, .. } => destination,
        Transport::Echo { request: false, identifier } => identifier,
        _ => return None,
    };
    let socket = SocketAddrV4::new(packet.destination, port);
    Some(Endpoint { protocol: packet.protocol, socket })
}
