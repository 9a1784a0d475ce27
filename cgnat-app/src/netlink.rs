//! The kernel's routes, by rtnetlink (RFC 3549). Each request waits for the kernel's answer, which
//! it gives before the system call for the request returns.

mod features;
pub mod watch;

use std::io;

pub use features::features;
use ipnet::Ipv4Net;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The route protocol of routes of ours: `ip route show proto 201`.
pub const ROUTE_PROTOCOL: u8 = 201;

/// Metric of routes of ours: no other program's route is taken for one, and any other is preferred.
const METRIC: u32 = 201;

/// Bytes of an answer: the request, which an error quotes, and more.
const ANSWER: usize = 8192;

const FILE_EXISTS: i32 = 17;
const NO_SUCH_DEVICE: i32 = 19;
const NO_SUCH_PROCESS: i32 = 3;

/// A way to the kernel.
pub struct Kernel {
    socket: Socket,
    sequence: u32,
}

impl Kernel {
    /// Opens it, in the network namespace of this thread.
    ///
    /// # Errors
    /// The system refuses a socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Adds a route of ours to a prefix behind an interface, unless it is there.
    ///
    /// # Errors
    /// What the kernel says: no interface of this index, it is down, CAP_NET_ADMIN is missing.
    pub fn add_route(&mut self, prefix: Ipv4Net, interface: u32) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewRoute(route(prefix, interface));
        match self.request(message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() == Some(FILE_EXISTS) => Ok(()),
            result => result,
        }
    }

    /// Removes a route of ours, if it is there.
    ///
    /// # Errors
    /// As of [`Kernel::add_route`], but that there is no such interface any more.
    pub fn remove_route(&mut self, prefix: Ipv4Net, interface: u32) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelRoute(route(prefix, interface));
        match self.request(message, 0) {
            Err(error)
                if matches!(error.raw_os_error(), Some(NO_SUCH_PROCESS | NO_SUCH_DEVICE)) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// Asks, and waits until it is done.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answer = Vec::with_capacity(ANSWER);
        loop {
            answer.clear();
            self.socket.recv(&mut answer, 0)?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            // That of an earlier request whose answer was not awaited to the end.
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::Error(said) if said.code.is_some() => Err(said.to_io()),
                _ => Ok(()),
            };
        }
    }
}

/// `prefix dev INTERFACE proto 201 scope link metric 201` of the main table.
fn route(prefix: Ipv4Net, interface: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: prefix.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Other(ROUTE_PROTOCOL),
        scope: RouteScope::Link,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(prefix.network())),
        RouteAttribute::Oif(interface),
        RouteAttribute::Priority(METRIC),
    ];
    message
}
