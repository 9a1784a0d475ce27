//! The server's side: one thread, one listener, an answer per connection.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write as _};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::{LINE_BYTES, read_available};
use crate::command_line::allow_open_files;

/// What the server saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReport {
    /// Connections accepted.
    pub accepted: u64,
    /// Answered and closed by both sides.
    pub completed: u64,
    /// Ended otherwise: reset, or closed by the client before its line was whole.
    pub broken: u64,
    /// Accepted from an endpoint that another open connection has.
    pub duplicates: u64,
    /// More or other bytes than one line, or an id seen before.
    pub mixed: u64,
    /// Distinct external addresses.
    pub addresses: u64,
    /// Distinct external endpoints.
    pub endpoints: u64,
    /// Most connections open at one time.
    pub most_open: u64,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddrV4,
    received: Vec<u8>,
    answered: bool,
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    connections: HashMap<Token, Connection>,
    next: usize,
    open_peers: HashMap<SocketAddrV4, u32>,
    ids: HashSet<u64>,
    endpoints: HashSet<SocketAddrV4>,
    report: ServerReport,
}

const LISTENER: Token = Token(0);

/// Serves on `address` until `stop`; calls `ready` when it listens.
///
/// # Errors
/// It cannot listen, or polling fails.
pub fn run_server(
    address: SocketAddrV4,
    stop: &AtomicBool,
    ready: impl FnOnce(),
) -> io::Result<ServerReport> {
    allow_open_files(65_536)?;
    let poll = Poll::new()?;
    let mut listener = listen(address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut server = Server {
        poll,
        listener,
        connections: HashMap::new(),
        next: 1,
        open_peers: HashMap::new(),
        ids: HashSet::new(),
        endpoints: HashSet::new(),
        report: ServerReport::default(),
    };
    ready();
    let mut events = Events::with_capacity(1024);
    while !stop.load(Ordering::Relaxed) {
        match server.poll.poll(&mut events, Some(Duration::from_millis(200))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            match event.token() {
                LISTENER => server.accept()?,
                token => server.serve(token),
            }
        }
    }
    Ok(server.finish())
}

/// A listener with a long queue; mio's own has one of 1,024.
fn listen(address: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::V4(address).into())?;
    socket.listen(16_384)?;
    Ok(TcpListener::from_std(socket.into()))
}

impl Server {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let (mut stream, peer) = match self.listener.accept() {
                Ok((stream, SocketAddr::V4(peer))) => (stream, peer),
                Ok((_, SocketAddr::V6(_))) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client was gone before we looked.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.report.accepted += 1;
            let open = self.open_peers.entry(peer).or_default();
            *open += 1;
            self.report.duplicates += u64::from(*open > 1);
            self.endpoints.insert(peer);
            let token = Token(self.next);
            self.next += 1;
            self.poll.registry().register(&mut stream, token, Interest::READABLE)?;
            let connection = Connection { stream, peer, received: Vec::new(), answered: false };
            self.connections.insert(token, connection);
            let open = self.connections.len() as u64;
            self.report.most_open = self.report.most_open.max(open);
            // What arrived before the registration raises no event of its own.
            self.serve(token);
        }
    }

    fn serve(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match step(connection, &mut self.ids, &mut self.report) {
            Ok(false) => return,
            Ok(true) if connection.answered => self.report.completed += 1,
            Ok(true) | Err(_) => self.report.broken += 1,
        }
        if let Some(connection) = self.connections.remove(&token)
            && let Some(open) = self.open_peers.get_mut(&connection.peer)
        {
            *open -= 1;
            if *open == 0 {
                self.open_peers.remove(&connection.peer);
            }
        }
    }

    fn finish(mut self) -> ServerReport {
        let addresses: HashSet<_> = self.endpoints.iter().map(|endpoint| endpoint.ip()).collect();
        self.report.addresses = addresses.len() as u64;
        self.report.endpoints = self.endpoints.len() as u64;
        self.report
    }
}

/// Reads what there is and answers a whole line; `true` when the client closed. A connection with
/// mixed-up bytes is counted once and ends as an error.
fn step(
    connection: &mut Connection,
    ids: &mut HashSet<u64>,
    report: &mut ServerReport,
) -> io::Result<bool> {
    let ended = read_available(&mut connection.stream, &mut connection.received)?;
    let received = &connection.received;
    let line_end = received.iter().position(|byte| *byte == b'\n');
    if line_end.map_or(received.len() > LINE_BYTES, |end| end + 1 != received.len()) {
        report.mixed += 1;
        return Err(io::Error::other("more than one line"));
    }
    let (Some(end), false) = (line_end, connection.answered) else { return Ok(ended) };
    let Some((_, line)) = parse(&received[..end]).filter(|(id, _)| ids.insert(*id)) else {
        report.mixed += 1;
        return Err(io::Error::other("a line that is not well-formed, or an id seen before"));
    };
    let answer = format!("{line} {}\n", connection.peer);
    // A fresh connection's send buffer takes a line at once.
    connection.stream.write_all(answer.as_bytes())?;
    connection.answered = true;
    Ok(ended)
}

fn parse(line: &[u8]) -> Option<(u64, &str)> {
    let line = std::str::from_utf8(line).ok()?;
    let (id, source) = line.split_once(' ')?;
    let _: SocketAddrV4 = source.parse().ok()?;
    Some((id.parse().ok()?, line))
}
