//! Whether interfaces of the kernel are up and have a carrier, by rtnetlink (RFC 3549). For ports
//! whose driver stands on an interface and knows nothing of its link.
//!
//! The kernel tells of each change, so that one which is over by the next look is seen too. What it
//! could not tell, because too many came at once, is asked for.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The group of changes of links (RTMGRP_LINK).
const LINKS: u32 = 1;

/// Bytes of several messages, as the kernel sends them at once.
const ROOM: usize = 65_536;

/// Messages are aligned to this.
const ALIGNED: usize = 4;

/// No buffer: changes were lost (ENOBUFS).
const LOST: i32 = 105;

/// Changes that one look takes at most.
const PER_LOOK: usize = 256;

/// How an interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Name of the interface.
    pub name: String,
    /// It is up and has a carrier; `None` when it was deleted.
    pub runs: Option<bool>,
}

/// A way to hear of changes.
pub struct Interfaces {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Interfaces {
    /// Opens it, in the network namespace of this thread, and asks how all interfaces are.
    ///
    /// # Errors
    /// The system refuses a socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, LINKS))?;
        socket.set_non_blocking(true)?;
        let interfaces = Self { socket, buffer: Vec::with_capacity(ROOM) };
        interfaces.ask()?;
        Ok(interfaces)
    }

    /// Has the kernel tell how all of them are.
    fn ask(&self) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(drop)
    }

    /// What has changed since the last look, in order; does not wait.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn look(&mut self) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        while changes.len() < PER_LOOK {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => read(&self.buffer, &mut changes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(LOST) => self.ask()?,
                Err(error) => return Err(error),
            }
        }
        Ok(changes)
    }
}

/// Reads the messages of one answer; those that are not understood are of no interest.
fn read(mut bytes: &[u8], changes: &mut Vec<Change>) {
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
        let len = (message.header.length as usize).next_multiple_of(ALIGNED);
        if let NetlinkPayload::InnerMessage(message) = message.payload {
            changes.extend(change(&message));
        }
        if len == 0 || len >= bytes.len() {
            return;
        }
        bytes = &bytes[len..];
    }
}

fn change(message: &RouteNetlinkMessage) -> Option<Change> {
    let (link, is_there) = match message {
        RouteNetlinkMessage::NewLink(link) => (link, true),
        RouteNetlinkMessage::DelLink(link) => (link, false),
        _ => return None,
    };
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let runs = is_there.then(|| link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp));
    Some(Change { name, runs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found_at_the_first_look() {
        let mut interfaces = Interfaces::open().expect("a socket");
        // The kernel has answered before the request returned.
        let changes = interfaces.look().expect("an answer");
        assert!(changes.iter().any(|change| change.name == "lo"), "{changes:?}");
        assert_eq!(interfaces.look().expect("nothing new"), []);
    }
}
