//! TCP connections from subscriber to subscriber, by way of external endpoints.
//!
//! Both, caller and called, first connect to the reflector from the local port that they will
//! use: so each has a mapping and knows its endpoint. Then the caller connects, from that same
//! port, to the endpoint of the called, who listens on his. The called must see the caller's
//! external endpoint as source (RFC 4787 REQ-9a), both must hear from whom they expect, all
//! within the NAT's idle time.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Random, StormOptions};

const PORTS_PER_THREAD: u16 = 2_000;
const FIRST_PORT: u16 = 47_000;
const MOST_THREADS: usize = 8;
/// Bound on connecting, accepting and reading, each.
const STEP: Duration = Duration::from_millis(900);

/// What became of the connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// Connections by way of an external endpoint that were tried.
    pub tried: u64,
    /// Of them: made, seen from the expected source, both ends heard each other.
    pub completed: u64,
    /// Of them: timed out, refused or reset; what is lost on the way ends so.
    pub failed: u64,
    /// Of them: something was unexpected, but so late that the mapping may have expired.
    pub undecided: u64,
    /// Of them: another source, or another partner, while the mapping cannot have expired.
    pub wrong: u64,
    /// Endpoints that could not be learned from the reflector; nothing was tried then.
    pub not_learned: u64,
    /// The first that is wrong.
    pub described: Option<String>,
    /// The first error of the operating system.
    pub first_error: Option<String>,
}

impl AddAssign for Connected {
    fn add_assign(&mut self, other: Connected) {
        self.tried += other.tried;
        self.completed += other.completed;
        self.failed += other.failed;
        self.undecided += other.undecided;
        self.wrong += other.wrong;
        self.not_learned += other.not_learned;
        self.described = self.described.take().or(other.described);
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// Time after a refusal until the next try, as long as a lost SYN would take.
const REFUSED: Duration = Duration::from_secs(1);

/// A local port with a mapping; the connection that opened it stays open.
struct Place {
    local: SocketAddrV4,
    external: SocketAddrV4,
    asked: Instant,
    _mapping: TcpStream,
}

/// Makes connections one after the other until `until`.
pub(super) fn run(options: &StormOptions, thread: usize, until: Instant) -> Result<Connected> {
    ensure!(thread < MOST_THREADS, "at most {MOST_THREADS} threads have source ports");
    ensure!(options.tcp_sources.len() > 1, "TCP needs two sources or more");
    let first = FIRST_PORT + thread as u16 * PORTS_PER_THREAD;
    let mut ports = (first..first + PORTS_PER_THREAD).cycle();
    let mut random = Random(options.seed ^ 0x7463_7000 ^ thread as u64);
    let mut done = Connected::default();
    let mut number = 0;
    while Instant::now() < until {
        number += 1;
        let count = options.tcp_sources.len() as u64;
        let caller = random.below(count);
        let called = (caller + 1 + random.below(count - 1)) % count;
        let address = |place: u64| options.tcp_sources[place as usize];
        let [caller, called] = [caller, called]
            .map(|place| SocketAddrV4::new(address(place), ports.next().unwrap_or(first)));
        // Bound now and listening later: once one listens, no other can be bound beside it.
        let listener = shared_port(called).with_context(|| format!("cannot bind {called}"))?;
        let abrupt = random.below(2) == 0;
        let learned = learn(called, options.reflector, abrupt)
            .and_then(|called| Ok((learn(caller, options.reflector, abrupt)?, called)));
        listener.listen(8).context("cannot listen")?;
        listener.set_nonblocking(true).context("no non-blocking socket")?;
        let listener = TcpListener::from(listener);
        let (caller, called) = match learned {
            Ok(places) => places,
            Err(error) => {
                done.not_learned += 1;
                done.first_error.get_or_insert_with(|| format!("learning: {error}"));
                // The box refuses at once. Who asks again at once leaves no block in peace, so
                // that none is ever released.
                std::thread::sleep(REFUSED);
                continue;
            }
        };
        done.tried += 1;
        let tokens = [format!("{thread} {number} caller\n"), format!("{thread} {number} called\n")];
        match connect(&caller, &called, &listener, &tokens, abrupt) {
            Ok(None) => done.completed += 1,
            Ok(Some(text)) => {
                let first_asked = caller.asked.min(called.asked);
                let mapped = options.timers.idle.saturating_sub(options.timers.margin);
                if first_asked.elapsed() < mapped {
                    done.wrong += 1;
                    done.described.get_or_insert(text);
                } else {
                    done.undecided += 1;
                }
            }
            Err(error) => {
                done.failed += 1;
                done.first_error.get_or_insert_with(|| error.to_string());
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(done)
}

/// Connects and lets both ends speak; `Some` says what is not as expected.
fn connect(
    caller: &Place,
    called: &Place,
    listener: &TcpListener,
    [from_caller, from_called]: &[String; 2],
    abrupt: bool,
) -> io::Result<Option<String>> {
    let calling = connected(caller.local, called.external, abrupt)?;
    let (answering, seen) = accept(listener)?;
    if abrupt {
        reset_on_close(&answering)?;
    }
    if seen != SocketAddr::V4(caller.external) {
        return Ok(Some(format!("the called saw {seen}, not {}", caller.external)));
    }
    (&calling).write_all(from_caller.as_bytes())?;
    let heard = line(&answering)?;
    if heard != *from_caller {
        return Ok(Some(format!("the called heard {heard:?}, not {from_caller:?}")));
    }
    (&answering).write_all(from_called.as_bytes())?;
    let heard = line(&calling)?;
    if heard != *from_called {
        return Ok(Some(format!("the caller heard {heard:?}, not {from_called:?}")));
    }
    Ok(None)
}

/// Opens a mapping for `local` and learns its endpoint.
fn learn(local: SocketAddrV4, reflector: SocketAddrV4, abrupt: bool) -> io::Result<Place> {
    let asked = Instant::now();
    let stream = connected(local, reflector, abrupt)?;
    (&stream).write_all(b"?\n")?;
    let told = line(&stream)?;
    let external = told.trim().parse().map_err(|_| io::Error::other(format!("told {told:?}")))?;
    Ok(Place { local, external, asked, _mapping: stream })
}

fn connected(from: SocketAddrV4, to: SocketAddrV4, abrupt: bool) -> io::Result<TcpStream> {
    let socket = shared_port(from)?;
    socket.connect_timeout(&SocketAddr::V4(to).into(), STEP)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STEP))?;
    if abrupt {
        reset_on_close(&stream)?;
    }
    Ok(stream)
}

fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// A socket at `local`, where others may be too, as long as none of them listens yet.
fn shared_port(local: SocketAddrV4) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::V4(local).into())?;
    Ok(socket)
}

fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let until = Instant::now() + STEP;
    loop {
        match listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
            Ok((stream, from)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(STEP))?;
                stream.set_nodelay(true)?;
                return Ok((stream, from));
            }
        }
    }
}

fn line(stream: &TcpStream) -> io::Result<String> {
    let mut text = String::new();
    BufReader::new(stream).read_line(&mut text)?;
    if text.ends_with('\n') { Ok(text) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
