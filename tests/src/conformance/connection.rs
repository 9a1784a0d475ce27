//! A TCP connection through the appliance, with right sequence numbers on both sides.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};

use super::packet::{ACK, FIN, Packet, SYN, tcp};
use super::same;
use super::talk::{Side, Talk};

/// One connection.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The subscriber's end.
    pub host: SocketAddrV4,
    /// The other end.
    pub peer: SocketAddrV4,
    /// What the other end sees of the subscriber.
    pub external: SocketAddrV4,
    /// Next sequence number of the subscriber and of the other end.
    next: [u32; 2],
}

impl Connection {
    /// Opened by the subscriber, three packets from `time` on.
    ///
    /// # Errors
    /// One of them did not come through.
    pub fn open(
        talk: &mut Talk,
        time: f64,
        host: SocketAddrV4,
        peer: SocketAddrV4,
    ) -> Result<Connection> {
        let mut connection = Connection::begin(talk, time, host, peer)?;
        let answer = connection.packet(Side::External, SYN | ACK, b"");
        let last = connection.packet(Side::Internal, ACK, b"");
        talk.outside(time, &answer);
        talk.inside(time, &last);
        let seen = talk.look()?;
        ensure!(seen.inside.len() == 1 && seen.outside.len() == 1, "{seen:#?}");
        same(&seen.inside[0], &answer.hop().to(host))?;
        same(&seen.outside[0], &last.hop().from(connection.external))?;
        Ok(connection)
    }

    /// Begun by the subscriber: one SYN.
    ///
    /// # Errors
    /// It did not come through.
    pub fn begin(
        talk: &mut Talk,
        time: f64,
        host: SocketAddrV4,
        peer: SocketAddrV4,
    ) -> Result<Connection> {
        let syn = tcp(host, peer, SYN).numbered(1000, 0);
        let external = talk.outbound(time, &syn)?.sender();
        Ok(Connection { host, peer, external, next: [1001, 5000] })
    }

    /// One that the other end will open to a mapping that exists: nothing was sent yet.
    pub fn to_be_opened(
        host: SocketAddrV4,
        peer: SocketAddrV4,
        external: SocketAddrV4,
    ) -> Connection {
        Connection { host, peer, external, next: [1000, 5000] }
    }

    /// The next packet of one side, as it sends it.
    pub fn packet(&mut self, from: Side, flags: u8, data: &[u8]) -> Packet {
        let index = usize::from(from == Side::External);
        let ends = match from {
            Side::Internal => (self.host, self.peer),
            Side::External => (self.peer, self.external),
        };
        let acknowledged = if flags & ACK == 0 { 0 } else { self.next[1 - index] };
        let packet = tcp(ends.0, ends.1, flags).numbered(self.next[index], acknowledged);
        let length = data.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        self.next[index] += length;
        packet.carrying(data)
    }

    /// Sends the next packet of one side, which must come through.
    ///
    /// # Errors
    /// It did not, or changed on the way.
    pub fn pass(&mut self, talk: &mut Talk, time: f64, from: Side, flags: u8) -> Result<()> {
        self.pass_data(talk, time, from, flags, b"")
    }

    /// As [`Connection::pass`], with data.
    ///
    /// # Errors
    /// As [`Connection::pass`].
    pub fn pass_data(
        &mut self,
        talk: &mut Talk,
        time: f64,
        from: Side,
        flags: u8,
        data: &[u8],
    ) -> Result<()> {
        let packet = self.packet(from, flags, data);
        self.pass_packet(talk, time, from, &packet)
    }

    /// Sends a packet of this connection, which must come through.
    ///
    /// # Errors
    /// As [`Connection::pass`].
    pub fn pass_packet(
        &self,
        talk: &mut Talk,
        time: f64,
        from: Side,
        packet: &Packet,
    ) -> Result<()> {
        match from {
            Side::Internal => {
                same(&talk.outbound(time, packet)?, &packet.clone().hop().from(self.external))
            }
            Side::External => {
                same(&talk.inbound(time, packet)?, &packet.clone().hop().to(self.host))
            }
        }
    }

    /// Closed by FIN from both sides, four packets.
    ///
    /// # Errors
    /// One of them did not come through.
    pub fn close(&mut self, talk: &mut Talk, time: f64) -> Result<()> {
        let first = self.packet(Side::Internal, FIN | ACK, b"");
        let second = self.packet(Side::External, FIN | ACK, b"");
        let last = self.packet(Side::Internal, ACK, b"");
        talk.inside(time, &first);
        talk.outside(time, &second);
        talk.inside(time, &last);
        let seen = talk.look()?;
        ensure!(seen.outside.len() == 2 && seen.inside.len() == 1, "{seen:#?}");
        Ok(())
    }
}
