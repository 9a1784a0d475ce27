//! The clients' side: threads, each with its own poll and a bounded number of open connections.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::{LINE_BYTES, read_available};
use crate::command_line::allow_open_files;

/// What the clients are to do.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The one server endpoint.
    pub server: SocketAddrV4,
    /// Source addresses, used in turn.
    pub sources: Vec<Ipv4Addr>,
    /// Connections in all.
    pub connections: u64,
    /// Open at one time, over all threads.
    pub concurrency: usize,
    /// Threads.
    pub threads: usize,
    /// A connection that takes longer has timed out.
    pub deadline: Duration,
    /// The whole run ends here; what is not done by then has timed out.
    pub limit: Duration,
}

/// What the clients saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientReport {
    /// Connections asked for.
    pub connections: u64,
    /// Answered rightly and closed by both sides.
    pub completed: u64,
    /// All that did not complete, whatever the reason.
    pub failed: u64,
    /// Of the failed: connection refused.
    pub refused: u64,
    /// Of the failed: reset, or closed before the answer was whole.
    pub reset: u64,
    /// Of the failed: timed out.
    pub timed_out: u64,
    /// Of the failed: an answer that belongs to another connection.
    pub wrong_echo: u64,
    /// Of the failed: other errors, with the first of them in `first_error`.
    pub other: u64,
    /// Answers with an external endpoint that another open connection has.
    pub duplicates: u64,
    /// External endpoints used again, after their connection was over, for another internal
    /// endpoint. For the same one that is what a NAT must do: its mapping lives on.
    pub reused: u64,
    /// Distinct external addresses.
    pub addresses: u64,
    /// Distinct external endpoints.
    pub endpoints: u64,
    /// Connections that took 0.9 s or more until established: a SYN was lost.
    pub slow: u64,
    /// SYN segments that this namespace's kernel sent again meanwhile.
    pub syn_sent_again: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// The first error that is neither refusal, reset nor timeout.
    pub first_error: Option<String>,
}

const SLOW: Duration = Duration::from_millis(900);

/// External endpoints, as the server's answers tell them.
#[derive(Default)]
struct Endpoints {
    open: HashSet<SocketAddrV4>,
    /// External endpoint to the internal one it was last seen with.
    seen: HashMap<SocketAddrV4, SocketAddrV4>,
}

struct Shared<'a> {
    options: &'a ClientOptions,
    next: AtomicU64,
    endpoints: Mutex<Endpoints>,
    until: Instant,
}

struct Connection {
    stream: TcpStream,
    id: u64,
    source: SocketAddrV4,
    begun: Instant,
    state: State,
    received: Vec<u8>,
}

enum State {
    Connecting,
    Answering,
    /// The answer was right; waiting for the server's end.
    Closing(SocketAddrV4),
}

enum Failure {
    WrongEcho,
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

/// Makes all connections and returns what came of them.
///
/// # Errors
/// The operating system refuses to poll, or more open files.
///
/// # Panics
/// Without sources.
pub fn run_client(options: &ClientOptions) -> io::Result<ClientReport> {
    assert!(!options.sources.is_empty(), "at least one source address");
    allow_open_files(options.concurrency as u64 + 256)?;
    let begun = Instant::now();
    let resent = syn_retransmissions();
    let shared = Shared {
        options,
        next: AtomicU64::new(0),
        endpoints: Mutex::new(Endpoints::default()),
        until: begun + options.limit,
    };
    let threads = options.threads.max(1);
    let parts: Vec<io::Result<ClientReport>> = std::thread::scope(|scope| {
        let handles: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| Client::new(&shared)?.run())).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, _>| {
            handle.join().unwrap_or_else(|_| Err(io::Error::other("a client thread panicked")))
        };
        handles.into_iter().map(join).collect()
    });
    let mut report = ClientReport { connections: options.connections, ..ClientReport::default() };
    for part in parts {
        report.add(part?);
    }
    report.failed = options.connections - report.completed;
    // Never begun, because the time for the whole run was over.
    let begun_count = shared.next.into_inner().min(options.connections);
    report.timed_out += options.connections - begun_count;
    let endpoints = shared.endpoints.into_inner().unwrap_or_else(PoisonError::into_inner);
    let addresses: HashSet<_> = endpoints.seen.keys().map(|endpoint| endpoint.ip()).collect();
    report.addresses = addresses.len() as u64;
    report.endpoints = endpoints.seen.len() as u64;
    report.syn_sent_again = syn_retransmissions().saturating_sub(resent);
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

impl ClientReport {
    fn add(&mut self, part: ClientReport) {
        self.completed += part.completed;
        self.refused += part.refused;
        self.reset += part.reset;
        self.timed_out += part.timed_out;
        self.wrong_echo += part.wrong_echo;
        self.other += part.other;
        self.duplicates += part.duplicates;
        self.reused += part.reused;
        self.slow += part.slow;
        if self.first_error.is_none() {
            self.first_error = part.first_error;
        }
    }

    fn count(&mut self, failure: &Failure) {
        let error = match failure {
            Failure::WrongEcho => {
                self.wrong_echo += 1;
                return;
            }
            Failure::Io(error) => error,
        };
        match error.kind() {
            io::ErrorKind::ConnectionRefused => self.refused += 1,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => self.reset += 1,
            io::ErrorKind::TimedOut => self.timed_out += 1,
            _ => {
                self.other += 1;
                if self.first_error.is_none() {
                    self.first_error = Some(error.to_string());
                }
            }
        }
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        format!(
            "{} connections in {:.1} s: {} completed, {} failed ({} refused, {} reset, {} timed \
             out, {} wrong echo, {} other), {} duplicates; {} SYN sent again, {} slow; {} external \
             addresses, {} endpoints, {} used again",
            self.connections,
            self.seconds,
            self.completed,
            self.failed,
            self.refused,
            self.reset,
            self.timed_out,
            self.wrong_echo,
            self.other,
            self.duplicates,
            self.syn_sent_again,
            self.slow,
            self.addresses,
            self.endpoints,
            self.reused,
        )
    }
}

struct Client<'a> {
    shared: &'a Shared<'a>,
    poll: Poll,
    connections: HashMap<Token, Connection>,
    /// In order of their deadlines, which are all equally long; the finished are skipped.
    deadlines: VecDeque<(Instant, Token)>,
    report: ClientReport,
}

impl<'a> Client<'a> {
    fn new(shared: &'a Shared<'a>) -> io::Result<Client<'a>> {
        Ok(Client {
            shared,
            poll: Poll::new()?,
            connections: HashMap::new(),
            deadlines: VecDeque::new(),
            report: ClientReport::default(),
        })
    }

    fn run(mut self) -> io::Result<ClientReport> {
        let options = self.shared.options;
        let share = (options.concurrency / options.threads.max(1)).max(1);
        let mut events = Events::with_capacity(1024);
        let mut more = true;
        loop {
            while more && self.connections.len() < share {
                more = Instant::now() < self.shared.until && self.begin();
            }
            if self.connections.is_empty() {
                if more {
                    continue;
                }
                return Ok(self.report);
            }
            match self.poll.poll(&mut events, Some(Duration::from_millis(100))) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                self.serve(event.token());
            }
            self.expire();
        }
    }

    /// Begins the next connection; `false` when all are begun.
    fn begin(&mut self) -> bool {
        let options = self.shared.options;
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        if id >= options.connections {
            return false;
        }
        let index = usize::try_from(id).unwrap_or(usize::MAX) % options.sources.len();
        let token = Token(usize::try_from(id).unwrap_or(usize::MAX));
        match connect(options.sources[index], options.server) {
            Ok((mut stream, source)) => {
                let interest = Interest::READABLE | Interest::WRITABLE;
                if let Err(error) = self.poll.registry().register(&mut stream, token, interest) {
                    self.report.count(&error.into());
                    return true;
                }
                let begun = Instant::now();
                let (state, received) = (State::Connecting, Vec::new());
                let connection = Connection { stream, id, source, begun, state, received };
                self.connections.insert(token, connection);
                self.deadlines.push_back((begun + options.deadline, token));
            }
            Err(error) => self.report.count(&error.into()),
        }
        true
    }

    fn serve(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let failure = match connection.step(&self.shared.endpoints, &mut self.report) {
            Ok(false) => return,
            Ok(true) => None,
            Err(failure) => Some(failure),
        };
        self.end(token, failure);
    }

    fn end(&mut self, token: Token, failure: Option<Failure>) {
        let Some(connection) = self.connections.remove(&token) else { return };
        // Off the list before the port can be lent again: the close below frees it.
        if let State::Closing(external) = connection.state {
            lock(&self.shared.endpoints).open.remove(&external);
        }
        match failure {
            None => self.report.completed += 1,
            Some(failure) => self.report.count(&failure),
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let over = now >= self.shared.until;
        while let Some(&(deadline, token)) = self.deadlines.front() {
            if deadline > now && !over && self.connections.contains_key(&token) {
                return;
            }
            self.deadlines.pop_front();
            self.end(token, Some(Failure::Io(io::ErrorKind::TimedOut.into())));
        }
    }
}

impl Connection {
    /// Goes on as far as it can; `true` when the connection is over and was right.
    fn step(
        &mut self,
        endpoints: &Mutex<Endpoints>,
        report: &mut ClientReport,
    ) -> Result<bool, Failure> {
        if matches!(self.state, State::Connecting) {
            if let Some(error) = self.stream.take_error()? {
                return Err(error.into());
            }
            match self.stream.peer_addr() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            report.slow += u64::from(self.begun.elapsed() >= SLOW);
            // A fresh connection's send buffer takes a line at once.
            self.stream.write_all(format!("{} {}\n", self.id, self.source).as_bytes())?;
            self.state = State::Answering;
        }
        let ended = read_available(&mut self.stream, &mut self.received)?;
        if matches!(self.state, State::Answering) && self.received.contains(&b'\n') {
            let external = self.answer().ok_or(Failure::WrongEcho)?;
            let mut endpoints = lock(endpoints);
            if !endpoints.open.insert(external) {
                report.duplicates += 1;
            } else if let Some(earlier) = endpoints.seen.insert(external, self.source)
                && earlier != self.source
            {
                report.reused += 1;
            }
            drop(endpoints);
            self.state = State::Closing(external);
            self.stream.shutdown(Shutdown::Write)?;
        }
        match self.state {
            State::Closing(_) if self.answer().is_none() => Err(Failure::WrongEcho),
            State::Closing(_) => Ok(ended),
            _ if self.received.len() > LINE_BYTES => Err(Failure::WrongEcho),
            _ if ended => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(false),
        }
    }

    /// The endpoint that the server saw, if the answer is whole and for this connection.
    fn answer(&self) -> Option<SocketAddrV4> {
        let line = std::str::from_utf8(&self.received).ok()?.strip_suffix('\n')?;
        let external = line.strip_prefix(&format!("{} {} ", self.id, self.source))?;
        external.parse().ok()
    }
}

fn lock(endpoints: &Mutex<Endpoints>) -> std::sync::MutexGuard<'_, Endpoints> {
    endpoints.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to connect from `source`, with a port of the kernel's choice.
fn connect(source: Ipv4Addr, server: SocketAddrV4) -> io::Result<(TcpStream, SocketAddrV4)> {
    const EINPROGRESS: i32 = 115;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::V4(SocketAddrV4::new(source, 0)).into())?;
    match socket.connect(&SocketAddr::V4(server).into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
        _ => {}
    }
    let own = socket.local_addr()?.as_socket_ipv4();
    let own = own.ok_or_else(|| io::Error::other("an IPv4 socket without an IPv4 address"))?;
    Ok((TcpStream::from_std(socket.into()), own))
}

/// SYN segments that the kernel of this namespace sent again since it began; 0 if it does not say.
fn syn_retransmissions() -> u64 {
    let text = std::fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let position = names.split(' ').position(|name| name == "TCPSynRetrans");
    position.and_then(|at| values.split(' ').nth(at)?.parse().ok()).unwrap_or(0)
}
