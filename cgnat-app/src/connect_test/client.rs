//! The clients' side: threads, each with its own poll and a bounded number of open connections,
//! and one that tells of them every few seconds.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::report::{ClientReport, Summary};
use super::{LINE_BYTES, allow_open_files, more_files, read_available};

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
    pub timeout: Duration,
    /// No connection is begun after this time.
    pub limit: Duration,
    /// Between two summaries.
    pub interval: Duration,
}

/// Open files that are no connections, more than enough.
const FURTHER_FILES: u64 = 256;

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
    stop: &'a AtomicBool,
    /// Tells this run's connections from those of other clients of the server.
    run: u64,
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

/// Makes connections until their number or their time is over or `stop` says so, calls `tell`
/// at each interval, and returns what came of all.
///
/// # Errors
/// The operating system refuses to poll, or more open files, or `tell` fails.
///
/// # Panics
/// Without sources.
pub fn run_client(
    options: &ClientOptions,
    stop: &AtomicBool,
    mut tell: impl FnMut(&Summary) -> io::Result<()>,
) -> io::Result<ClientReport> {
    assert!(!options.sources.is_empty(), "at least one source address");
    let permitted = allow_open_files(options.concurrency as u64 + FURTHER_FILES)?;
    if permitted < options.concurrency as u64 + FURTHER_FILES {
        return Err(more_files(permitted));
    }
    let (begun, resent) = (Instant::now(), syn_retransmissions());
    let shared = Shared {
        options,
        stop,
        run: getrandom::u64().map_err(io::Error::other)?,
        next: AtomicU64::new(0),
        endpoints: Mutex::new(Endpoints::default()),
        until: begun + options.limit,
    };
    let tallies: Vec<_> = (0..options.threads.max(1)).map(|_| Mutex::default()).collect();
    let mut all = ClientReport::default();
    std::thread::scope(|scope| {
        // Nothing is sent: it ends when all threads have.
        let (running, all_ended) = mpsc::channel::<()>();
        let start = |tally| {
            let (shared, running) = (&shared, running.clone());
            scope.spawn(move || {
                let _running = running;
                Client::new(shared, tally)?.run()
            })
        };
        let handles: Vec<_> = tallies.iter().map(start).collect();
        drop(running);
        let mut last = begun;
        let told = loop {
            let ended = all_ended.recv_timeout(options.interval);
            let mut part = ClientReport::default();
            for tally in &tallies {
                part.merge(&std::mem::take(&mut *lock(tally)));
            }
            all.merge(&part);
            if ended == Err(RecvTimeoutError::Disconnected) {
                break Ok(());
            }
            let seconds = last.elapsed().as_secs_f64();
            last = Instant::now();
            let summary = Summary::new(&part, &all, seconds, begun.elapsed().as_secs_f64());
            if let Err(error) = tell(&summary) {
                // Whoever listened has gone; the threads must end too.
                stop.store(true, Ordering::Relaxed);
                break Err(error);
            }
        };
        for handle in handles {
            let joined = handle.join();
            joined.unwrap_or_else(|_| Err(io::Error::other("a client thread panicked")))?;
        }
        told
    })?;
    let endpoints = shared.endpoints.into_inner().unwrap_or_else(PoisonError::into_inner);
    let addresses: HashSet<_> = endpoints.seen.keys().map(|endpoint| endpoint.ip()).collect();
    all.addresses = addresses.len() as u64;
    all.endpoints = endpoints.seen.len() as u64;
    all.syn_sent_again = syn_retransmissions().saturating_sub(resent);
    all.seconds = begun.elapsed().as_secs_f64();
    Ok(all)
}

struct Client<'a> {
    shared: &'a Shared<'a>,
    tally: &'a Mutex<ClientReport>,
    poll: Poll,
    connections: HashMap<Token, Connection>,
    /// In order of their deadlines, which are all equally long; the finished are skipped.
    deadlines: VecDeque<(Instant, Token)>,
}

impl<'a> Client<'a> {
    fn new(shared: &'a Shared<'a>, tally: &'a Mutex<ClientReport>) -> io::Result<Client<'a>> {
        Ok(Client {
            shared,
            tally,
            poll: Poll::new()?,
            connections: HashMap::new(),
            deadlines: VecDeque::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        let options = self.shared.options;
        let share = (options.concurrency / options.threads.max(1)).max(1);
        let mut events = Events::with_capacity(1024);
        let mut more = true;
        loop {
            // Failures at once must not keep this from serving the others.
            let mut begun = 0;
            while more && self.connections.len() < share && begun < share {
                more = self.begin();
                begun += 1;
            }
            if self.shared.stop.load(Ordering::Relaxed) {
                // Neither failed nor completed: nobody waited for them.
                return Ok(());
            }
            if self.connections.is_empty() {
                if more {
                    continue;
                }
                return Ok(());
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

    /// Begins the next connection; `false` when all are begun, or their time is over.
    fn begin(&mut self) -> bool {
        let options = self.shared.options;
        if Instant::now() >= self.shared.until {
            return false;
        }
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        if id >= options.connections {
            return false;
        }
        lock(self.tally).connections += 1;
        let index = usize::try_from(id).unwrap_or(usize::MAX) % options.sources.len();
        let token = Token(usize::try_from(id).unwrap_or(usize::MAX));
        let begun = Instant::now();
        match connect(options.sources[index], options.server) {
            Ok((mut stream, source)) => {
                let interest = Interest::READABLE | Interest::WRITABLE;
                if let Err(error) = self.poll.registry().register(&mut stream, token, interest) {
                    self.fail(&error.into());
                    return true;
                }
                let (state, received) = (State::Connecting, Vec::new());
                let connection = Connection { stream, id, source, begun, state, received };
                self.connections.insert(token, connection);
                self.deadlines.push_back((begun + options.timeout, token));
            }
            Err(error) => self.fail(&error.into()),
        }
        true
    }

    fn serve(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.step(self.shared, self.tally) {
            Ok(false) => {}
            Ok(true) => self.end(token, None),
            Err(failure) => self.end(token, Some(failure)),
        }
    }

    fn end(&mut self, token: Token, failure: Option<Failure>) {
        let Some(connection) = self.connections.remove(&token) else { return };
        // Off the list before the port can be lent again: the close below frees it.
        if let State::Closing(external) = connection.state {
            lock(&self.shared.endpoints).open.remove(&external);
        }
        match failure {
            None => lock(self.tally).completed += 1,
            Some(failure) => self.fail(&failure),
        }
    }

    fn fail(&self, failure: &Failure) {
        let mut tally = lock(self.tally);
        match failure {
            Failure::WrongEcho => tally.wrong_echo += 1,
            Failure::Io(error) => tally.count(error),
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(&(deadline, token)) = self.deadlines.front() {
            if deadline > now && self.connections.contains_key(&token) {
                return;
            }
            self.deadlines.pop_front();
            self.end(token, Some(Failure::Io(io::ErrorKind::TimedOut.into())));
        }
    }
}

impl Connection {
    /// Goes on as far as it can; `true` when the connection is over and was right.
    fn step(&mut self, shared: &Shared<'_>, tally: &Mutex<ClientReport>) -> Result<bool, Failure> {
        let run = shared.run;
        if matches!(self.state, State::Connecting) {
            if let Some(error) = self.stream.take_error()? {
                return Err(error.into());
            }
            match self.stream.peer_addr() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            lock(tally).slow += u64::from(self.begun.elapsed() >= SLOW);
            // A fresh connection's send buffer takes a line at once.
            self.stream.write_all(format!("{run:x} {} {}\n", self.id, self.source).as_bytes())?;
            self.state = State::Answering;
        }
        let ended = read_available(&mut self.stream, &mut self.received)?;
        if matches!(self.state, State::Answering) && self.received.contains(&b'\n') {
            let external = self.answer(run).ok_or(Failure::WrongEcho)?;
            let time = self.begun.elapsed();
            let mut endpoints = lock(&shared.endpoints);
            let duplicate = !endpoints.open.insert(external);
            let earlier = endpoints.seen.insert(external, self.source);
            drop(endpoints);
            let mut tally = lock(tally);
            tally.latencies.add(time);
            tally.duplicates += u64::from(duplicate);
            let other = earlier.is_some_and(|earlier| earlier != self.source);
            tally.reused += u64::from(!duplicate && other);
            drop(tally);
            self.state = State::Closing(external);
            self.stream.shutdown(Shutdown::Write)?;
        }
        match self.state {
            State::Closing(_) if self.answer(run).is_none() => Err(Failure::WrongEcho),
            State::Closing(_) => Ok(ended),
            _ if self.received.len() > LINE_BYTES => Err(Failure::WrongEcho),
            _ if ended => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(false),
        }
    }

    /// The endpoint that the server saw, if the answer is whole and for this connection.
    fn answer(&self, run: u64) -> Option<SocketAddrV4> {
        let line = std::str::from_utf8(&self.received).ok()?.strip_suffix('\n')?;
        let external = line.strip_prefix(&format!("{run:x} {} {} ", self.id, self.source))?;
        external.parse().ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to connect from `source`, with a port of the kernel's choice.
fn connect(source: Ipv4Addr, server: SocketAddrV4) -> io::Result<(TcpStream, SocketAddrV4)> {
    const EINPROGRESS: i32 = 115;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    let bound = socket.bind(&SocketAddr::V4(SocketAddrV4::new(source, 0)).into());
    bound.map_err(|error| own_port(source, error))?;
    match socket.connect(&SocketAddr::V4(server).into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => {
            return Err(own_port(source, error));
        }
        _ => {}
    }
    let own = socket.local_addr()?.as_socket_ipv4();
    let own = own.ok_or_else(|| io::Error::other("an IPv4 socket without an IPv4 address"))?;
    Ok((TcpStream::from_std(socket.into()), own))
}

/// An error that is this host's and not the NAT's says so.
fn own_port(source: Ipv4Addr, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => io::Error::other(format!(
            "this host has no free port at {source}, which is not the NAT's fault: give more \
             sources, or widen net.ipv4.ip_local_port_range"
        )),
        _ => error,
    }
}

/// SYN segments that the kernel of this namespace sent again since it began; 0 if it does not say.
fn syn_retransmissions() -> u64 {
    let text = std::fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let position = names.split(' ').position(|name| name == "TCPSynRetrans");
    position.and_then(|at| values.split(' ').nth(at)?.parse().ok()).unwrap_or(0)
}
