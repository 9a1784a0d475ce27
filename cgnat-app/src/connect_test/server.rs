//! The server's side: one thread, one listener, an answer per connection.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write as _};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::report::ServerReport;
use super::{LINE_BYTES, allow_open_files, more_files, read_available};

struct Connection {
    stream: TcpStream,
    peer: SocketAddrV4,
    received: Vec<u8>,
    /// The line that was answered.
    line: Option<String>,
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    connections: HashMap<Token, Connection>,
    next: usize,
    open_peers: HashMap<SocketAddrV4, u32>,
    /// Lines of the open connections.
    lines: HashSet<String>,
    endpoints: HashSet<SocketAddrV4>,
    report: ServerReport,
}

const LISTENER: Token = Token(0);

const OPEN_FILES: u64 = 65_536;

const EMFILE: i32 = 24;

/// Serves on `address` until `stop`, or for `limit`; calls `ready` when it listens.
///
/// # Errors
/// It cannot listen, polling fails, or `ready` does.
pub fn run_server(
    address: SocketAddrV4,
    limit: Option<Duration>,
    stop: &AtomicBool,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<ServerReport> {
    let permitted = allow_open_files(OPEN_FILES)?;
    let until = limit.map(|limit| Instant::now() + limit);
    let poll = Poll::new()?;
    let mut listener = listen(address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut server = Server {
        poll,
        listener,
        connections: HashMap::new(),
        next: 1,
        open_peers: HashMap::new(),
        lines: HashSet::new(),
        endpoints: HashSet::new(),
        report: ServerReport::default(),
    };
    ready()?;
    let mut events = Events::with_capacity(1024);
    let over = || until.is_some_and(|until| Instant::now() >= until);
    while !stop.load(Ordering::Relaxed) && !over() {
        match server.poll.poll(&mut events, Some(Duration::from_millis(200))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            match event.token() {
                LISTENER => server.accept(permitted)?,
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
    fn accept(&mut self, permitted: u64) -> io::Result<()> {
        loop {
            let (mut stream, peer) = match self.listener.accept() {
                Ok((stream, SocketAddr::V4(peer))) => (stream, peer),
                Ok((_, SocketAddr::V6(_))) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client was gone before we looked.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(EMFILE) => {
                    return Err(more_files(permitted));
                }
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
            let connection = Connection { stream, peer, received: Vec::new(), line: None };
            self.connections.insert(token, connection);
            let open = self.connections.len() as u64;
            self.report.most_open = self.report.most_open.max(open);
            // What arrived before the registration raises no event of its own.
            self.serve(token);
        }
    }

    fn serve(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match step(connection, &mut self.lines, &mut self.report) {
            Ok(false) => return,
            Ok(true) if connection.line.is_some() => self.report.completed += 1,
            Ok(true) | Err(_) => self.report.broken += 1,
        }
        let Some(connection) = self.connections.remove(&token) else { return };
        if let Some(line) = &connection.line {
            self.lines.remove(line);
        }
        if let Some(open) = self.open_peers.get_mut(&connection.peer) {
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
    lines: &mut HashSet<String>,
    report: &mut ServerReport,
) -> io::Result<bool> {
    let ended = read_available(&mut connection.stream, &mut connection.received)?;
    let received = &connection.received;
    let line_end = received.iter().position(|byte| *byte == b'\n');
    if line_end.map_or(received.len() > LINE_BYTES, |end| end + 1 != received.len()) {
        report.mixed += 1;
        return Err(io::Error::other("more than one line"));
    }
    let (Some(end), None) = (line_end, &connection.line) else { return Ok(ended) };
    let line = well_formed(&received[..end]).filter(|line| lines.insert((*line).to_owned()));
    let Some(line) = line else {
        report.mixed += 1;
        return Err(io::Error::other("a line that is not well-formed, or another's"));
    };
    connection.line = Some(line.to_owned());
    let answer = format!("{line} {}\n", connection.peer);
    // A fresh connection's send buffer takes a line at once.
    connection.stream.write_all(answer.as_bytes())?;
    Ok(ended)
}

fn well_formed(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    u64::from_str_radix(words.next()?, 16).ok()?;
    let _: u64 = words.next()?.parse().ok()?;
    let _: SocketAddrV4 = words.next()?.parse().ok()?;
    words.next().is_none().then_some(line)
}
