//! The reflector: tells everybody who asks, by UDP or TCP, from which endpoint the question came.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::wire::{self, BYTES, Message};

const POLL: Duration = Duration::from_millis(100);
/// A TCP client that says nothing for so long is left.
const IDLE: Duration = Duration::from_secs(5);
/// Room for questions that wait; the kernel gives as much of it as is permitted.
const RECEIVE_BYTES: usize = 4 << 20;

/// What the reflector has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reflected {
    /// UDP questions answered.
    pub answered: u64,
    /// UDP datagrams that were no question.
    pub odd: u64,
    /// TCP connections accepted.
    pub connections: u64,
}

/// Answers on `address` until `stop`; calls `ready` when it does.
///
/// # Errors
/// It cannot have the sockets.
pub fn run_reflector(
    address: SocketAddrV4,
    stop: &AtomicBool,
    ready: impl FnOnce(),
) -> io::Result<Reflected> {
    let datagrams = UdpSocket::bind(address)?;
    datagrams.set_read_timeout(Some(POLL))?;
    SockRef::from(&datagrams).set_recv_buffer_size(RECEIVE_BYTES)?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    ready();
    thread::scope(|scope| {
        let accepting = scope.spawn(|| accept(&listener, stop));
        let mut reflected = answer_datagrams(&datagrams, stop)?;
        reflected.connections = accepting.join().unwrap_or(Ok(0))?;
        Ok(reflected)
    })
}

fn answer_datagrams(socket: &UdpSocket, stop: &AtomicBool) -> io::Result<Reflected> {
    let mut reflected = Reflected::default();
    let mut buffer = [0; BYTES];
    while !stop.load(Ordering::Relaxed) {
        let (count, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if is_for_now(&error) => continue,
            Err(error) => return Err(error),
        };
        let (Some(Message::Ask { who, asked }), SocketAddr::V4(seen)) =
            (wire::read(&buffer[..count]), from)
        else {
            reflected.odd += 1;
            continue;
        };
        let count = wire::write(&Message::Answer { who, asked, seen }, &mut buffer);
        // An answer that finds no room is lost; the speaker asks again.
        if socket.send_to(&buffer[..count], from).is_ok() {
            reflected.answered += 1;
        }
    }
    Ok(reflected)
}

fn accept(listener: &TcpListener, stop: &AtomicBool) -> io::Result<u64> {
    let mut connections = 0;
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, from)) => {
                connections += 1;
                // Ends with its client, or after some seconds of silence.
                thread::spawn(move || answer_lines(&stream, from));
            }
            Err(error) if is_for_now(&error) => thread::sleep(Duration::from_millis(2)),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(connections)
}

/// Answers each line with the endpoint of the client.
fn answer_lines(stream: &TcpStream, from: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let mut writer = stream;
        writer.write_all(format!("{from}\n").as_bytes())?;
        line.clear();
    }
    Ok(())
}

fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
