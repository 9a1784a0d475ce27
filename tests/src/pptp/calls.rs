//! Calls of several subscribers to one server at the same time, all with the same identifier.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::PPP;

const PPTP: u16 = 1723;
const GRE: i32 = 47;
const LIMIT: Duration = Duration::from_secs(10);

/// Between one packet and the next, and for each echo.
const PATIENCE: Duration = Duration::from_millis(600);

/// What is to be done.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// The server.
    pub server: Ipv4Addr,
    /// A call from each.
    pub sources: Vec<Ipv4Addr>,
    /// The call identifier of all.
    pub id: u16,
    /// Packets through each tunnel.
    pub packets: u32,
    /// Bytes of each packet's payload.
    pub bytes: usize,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallReport {
    /// Calls that the server accepted.
    pub calls: usize,
    /// Packets of each call, in the order of the sources, that came back as they were sent.
    pub echoed: Vec<u32>,
    /// Packets that came with another identifier than the call's, or for another subscriber.
    pub strange: u64,
}

/// One call, whose identifiers are those of the two ends.
struct Call {
    _control: TcpStream,
    gre: Socket,
    source: Ipv4Addr,
    id: u16,
    its_id: u16,
    sequence: u32,
    echoed: u32,
}

/// Opens all calls, then sends packets through each in turn.
///
/// # Errors
/// Raw sockets are not permitted, or a server does not answer.
pub fn run_calls(options: &CallOptions) -> io::Result<CallReport> {
    let CallOptions { server, sources, id, packets, bytes } = options;
    let mut calls = Vec::new();
    for source in sources {
        calls.push(Call::open(*source, *server, *id)?);
    }
    let mut report = CallReport { calls: calls.len(), ..CallReport::default() };
    for n in 0..*packets {
        for call in &mut calls {
            report.strange += call.echo(n, *bytes)?;
        }
    }
    report.echoed = calls.iter().map(|call| call.echoed).collect();
    Ok(report)
}

/// A control message of RFC 2637 section 2 with zeros behind its first words.
fn message(length: u16, kind: u16, words: &[u16]) -> Vec<u8> {
    let header = [length, 1, 0x1a2b, 0x3c4d, kind, 0];
    let words = header.iter().chain(words).flat_map(|word| word.to_be_bytes());
    let mut message: Vec<u8> = words.collect();
    message.resize(usize::from(length), 0);
    message
}

fn wrong(text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text.to_owned())
}

impl Call {
    fn open(source: Ipv4Addr, server: Ipv4Addr, id: u16) -> io::Result<Call> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddrV4::new(source, 0).into())?;
        socket.connect_timeout(&SocketAddrV4::new(server, PPTP).into(), LIMIT)?;
        let mut control = TcpStream::from(socket);
        control.set_read_timeout(Some(LIMIT))?;
        // Of this socket before the server may send.
        let gre = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(GRE)))?;
        gre.bind(&SocketAddrV4::new(source, 0).into())?;
        gre.connect(&SocketAddrV4::new(server, 0).into())?;
        gre.set_read_timeout(Some(PATIENCE))?;

        control.write_all(&message(156, 1, &[0x0100, 0, 0, 1, 0, 1, 1, 0]))?;
        let mut started = [0; 156];
        control.read_exact(&mut started)?;
        if started[14] != 1 {
            return Err(wrong("the server does not want to talk"));
        }
        // Speeds from 1200 to 10^9 bit/s, any bearer and framing, a window of 64.
        let words = [id, 1, 0, 1200, 0x3b9a, 0xca00, 0, 3, 0, 3, 64, 0];
        control.write_all(&message(168, 7, &words))?;
        let mut called = [0; 32];
        control.read_exact(&mut called)?;
        let word = |at: usize| u16::from_be_bytes([called[at], called[at + 1]]);
        if called[16] != 1 || word(14) != id {
            return Err(wrong("the server does not take the call, or takes another one"));
        }
        let its_id = word(12);
        Ok(Call { _control: control, gre, source, id, its_id, sequence: 0, echoed: 0 })
    }

    /// Sends a packet and waits a while until it comes back; how many came that should not have.
    fn echo(&mut self, n: u32, bytes: usize) -> io::Result<u64> {
        let mut payload = PPP.to_vec();
        payload.extend(format!("packet {n} of {}", self.source).bytes());
        payload.resize(payload.len().max(bytes), b'.');
        let length = payload.len() as u16;
        let mut packet: Vec<u8> = [0x3001, 0x880b, length, self.its_id]
            .iter()
            .flat_map(|w: &u16| w.to_be_bytes())
            .collect();
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(&payload);
        self.sequence += 1;
        self.gre.send(&packet)?;
        let until = Instant::now() + PATIENCE;
        let mut strange = 0;
        while Instant::now() < until {
            let mut buffer = [0; 4096];
            let count = match (&self.gre).read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            match self.payload_of(&buffer[..count]) {
                None => strange += 1,
                Some(came) if came == payload => {
                    self.echoed += 1;
                    break;
                }
                Some(_) => {}
            }
        }
        Ok(strange)
    }

    /// The payload of a packet to this call, of which the IPv4 header is a part; nothing if it
    /// only acknowledges. `None` if it is to no call of ours.
    fn payload_of<'a>(&self, packet: &'a [u8]) -> Option<&'a [u8]> {
        let gre = packet.get(usize::from(packet.first()? & 15) * 4..)?;
        let [flags, second, 0x88, 0x0b, l0, l1, i0, i1, ..] = gre else { return None };
        if u16::from_be_bytes([*i0, *i1]) != self.id {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let header = 8 + 4 * usize::from(flags & 0x10 != 0) + 4 * usize::from(second & 0x80 != 0);
        gre.get(header..header + length)
    }
}
