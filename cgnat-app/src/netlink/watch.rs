//! The kernel's IPv4 routes as they are and as they change, by rtnetlink.
//!
//! One socket brings the notifications and the dumps that are asked for, so both come in the order
//! in which the kernel wrote them. It does not block.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_APPEND, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::ROUTE_PROTOCOL;

/// Groups of notifications: links, IPv4 addresses, IPv4 routes.
const GROUPS: u32 = 0x1 | 0x10 | 0x40;

/// Bytes of notifications that may wait, if the system allows it; some thousand changes.
const WAITING: usize = 4 << 20;

/// Bytes of one datagram; the kernel fills at most 32 KiB.
const DATAGRAM: usize = 64 << 10;

/// Datagrams that one look takes at most.
const DATAGRAMS: usize = 256;

const NO_BUFFER_SPACE: i32 = 105;

/// The destination and the metric of a route: what it is told from others by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// First address and bits.
    pub to: (u32, u8),
    /// The lower is preferred.
    pub metric: u32,
}

/// One next hop of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelHop {
    /// The kernel's number of the interface.
    pub interface: u32,
    /// The next hop; without one the destination itself is on the link.
    pub via: Option<u32>,
    /// Share among several.
    pub weight: u16,
}

/// What a route says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Next hops that can be used.
    Forward(Vec<KernelHop>),
    /// Blackhole, unreachable, prohibit.
    Refuse,
    /// What is not taken over: of ours, of another kind, or without any next hop that can be used.
    Other,
}

/// What the socket brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Of the dump that was asked for.
    Dumped(Key, Kind),
    /// It is complete.
    DumpEnds {
        /// Routes changed meanwhile, which were notified as well.
        was_interrupted: bool,
    },
    /// The kernel gives no dump now.
    DumpRefused,
    /// A new route, and how it stands to those with the same key.
    New(Key, Kind, Place),
    /// A route has gone.
    Gone(Key, Kind),
    /// An interface or its addresses changed: routes may have gone without a word.
    Interface(u32),
    /// Notifications were lost.
    Lost,
}

/// Where a new route stands among those with the same destination and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before them.
    First,
    /// Behind them.
    Last,
    /// Instead of the first.
    Instead,
}

/// The socket.
pub struct Watch {
    socket: Socket,
    /// Whom answers are for: changes that others made bear their numbers.
    port: u32,
    sequence: u32,
    was_interrupted: bool,
    datagram: Vec<u8>,
}

impl Watch {
    /// Opens it, in the network namespace of this thread; notifications begin.
    ///
    /// # Errors
    /// The system refuses a socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        // Without the permission the usual number of bytes may wait, and more is lost and dumped again.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, WAITING).is_err() {
            socket.set_rx_buf_sz(WAITING)?;
        }
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        let mut own = SocketAddr::new(0, 0);
        socket.get_address(&mut own)?;
        let port = own.port_number();
        let datagram = Vec::with_capacity(DATAGRAM);
        Ok(Self { socket, port, sequence: 0, was_interrupted: false, datagram })
    }

    /// Asks for all routes. What is left of a dump before is not heard of any more.
    ///
    /// # Errors
    /// What the kernel says; for one that a dump is under way.
    pub fn dump(&mut self) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.was_interrupted = false;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.sequence;
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let message = RouteNetlinkMessage::GetRoute(message);
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(drop)
    }

    /// Takes what has come, up to a bound; whether there may be more.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn hear(&mut self, heard: &mut Vec<Heard>) -> io::Result<bool> {
        for _ in 0..DATAGRAMS {
            self.datagram.clear();
            match self.socket.recv(&mut self.datagram, 0) {
                Ok(0) => return Ok(false),
                Ok(_) => self.read(heard),
                Err(error) if error.raw_os_error() == Some(NO_BUFFER_SPACE) => {
                    heard.push(Heard::Lost);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads the messages of one datagram.
    fn read(&mut self, heard: &mut Vec<Heard>) {
        let mut rest = self.datagram.as_slice();
        while let Ok(buffer) = NetlinkBuffer::new_checked(rest) {
            let length = (buffer.length() as usize).next_multiple_of(4);
            if length == 0 {
                return;
            }
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
            rest = rest.get(length..).unwrap_or_default();
            // What cannot be read may have been a change.
            let Ok(NetlinkMessage { header, payload, .. }) = message else {
                heard.push(Heard::Lost);
                continue;
            };
            let is_dumped = header.port_number == self.port;
            if is_dumped && header.sequence_number != self.sequence {
                // Of a dump that was given up.
                continue;
            }
            match payload {
                NetlinkPayload::Done(_) if is_dumped => {
                    heard.push(Heard::DumpEnds { was_interrupted: self.was_interrupted });
                }
                NetlinkPayload::Error(said) if is_dumped && said.code.is_some() => {
                    heard.push(Heard::DumpRefused);
                }
                NetlinkPayload::Overrun(_) => heard.push(Heard::Lost),
                NetlinkPayload::InnerMessage(message) => {
                    self.was_interrupted |= is_dumped && header.flags & NLM_F_DUMP_INTR != 0;
                    heard.extend(meaning(message, header.flags, is_dumped));
                }
                _ => {}
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a message says, if it is about what is followed.
fn meaning(message: RouteNetlinkMessage, flags: u16, is_dumped: bool) -> Option<Heard> {
    match message {
        RouteNetlinkMessage::NewRoute(route) => {
            let (key, kind) = route_of(&route)?;
            let place = match flags {
                flags if flags & NLM_F_REPLACE != 0 => Place::Instead,
                flags if flags & NLM_F_APPEND != 0 => Place::Last,
                _ => Place::First,
            };
            Some(if is_dumped { Heard::Dumped(key, kind) } else { Heard::New(key, kind, place) })
        }
        RouteNetlinkMessage::DelRoute(route) => {
            let (key, kind) = route_of(&route)?;
            Some(Heard::Gone(key, kind))
        }
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            Some(Heard::Interface(link.header.index))
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            Some(Heard::Interface(address.header.index))
        }
        _ => None,
    }
}

/// A route of the main table for every TOS; `None` for others.
fn route_of(route: &RouteMessage) -> Option<(Key, Kind)> {
    let RouteMessage { header, attributes, .. } = route;
    let mut table = u32::from(header.table);
    let (mut network, mut metric, mut alone) = (0, 0, Alone::default());
    let mut several = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                network = u32::from(*address)
            }
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::MultiPath(hops) => several = Some(hops),
            other => alone.take(other),
        }
    }
    if header.address_family != AddressFamily::Inet
        || table != u32::from(RouteHeader::RT_TABLE_MAIN)
        || header.tos != 0
        || header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    let key = Key { to: (network, header.destination_prefix_length), metric };
    let is_ours = header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL);
    let kind = match header.kind {
        RouteType::Unicast if !is_ours => {
            let hops = match several {
                Some(hops) => hops.iter().filter_map(hop_of).collect(),
                None if header.flags.contains(RouteFlags::Dead) => Vec::new(),
                None => Vec::from_iter(alone.hop(1)),
            };
            if hops.is_empty() { Kind::Other } else { Kind::Forward(hops) }
        }
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Kind::Refuse,
        _ => Kind::Other,
    };
    Some((key, kind))
}

fn hop_of(hop: &RouteNextHop) -> Option<KernelHop> {
    let mut alone = Alone { interface: Some(hop.interface_index), ..Alone::default() };
    hop.attributes.iter().for_each(|attribute| alone.take(attribute));
    let is_dead = hop.flags.contains(RouteNextHopFlags::Dead);
    // The kernel counts from 0.
    if is_dead { None } else { alone.hop(u16::from(hop.hops) + 1) }
}

/// Attributes of one next hop.
#[derive(Default)]
struct Alone {
    interface: Option<u32>,
    via: Option<u32>,
    /// By IPv6, or within a tunnel.
    is_strange: bool,
}

impl Alone {
    fn take(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Oif(interface) => self.interface = Some(*interface),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => {
                self.via = Some(u32::from(*address));
            }
            RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::EncapType(_)
            | RouteAttribute::Encap(_)
            | RouteAttribute::NewDestination(_) => self.is_strange = true,
            _ => {}
        }
    }

    fn hop(&self, weight: u16) -> Option<KernelHop> {
        let interface = self.interface.filter(|_| !self.is_strange)?;
        Some(KernelHop { interface, via: self.via, weight })
    }
}

/// An address as text; for messages about routes.
pub fn shown((network, length): (u32, u8)) -> String {
    format!("{}/{length}", IpAddr::from(network.to_be_bytes()))
}
