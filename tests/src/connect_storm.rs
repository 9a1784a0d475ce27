//! Very many TCP connections from many sources to one server endpoint, each checked for mix-ups.
//!
//! One connection: the client sends `id source\n`; the server answers `id source peer\n`, where
//! `peer` is the endpoint it sees; the client compares, ends its side, reads the server's end and
//! closes. Both sides end by FIN, never by RST.
//!
//! What is counted as wrong:
//!
//! 1. failed: refused, reset, timed out, or another error of the operating system;
//! 2. wrong echo: an answer that belongs to another connection;
//! 3. duplicate: two connections, alive at one time, with one external endpoint, as seen by the
//!    client (answers) or by the server (accepted peers); also a token the server saw before.
//!
//! Counted besides, for information: SYN segments sent again (a SYN lost on the way), slow
//! connections, and external endpoints used more than once one after the other.

mod client;
mod server;

pub use client::{ClientOptions, ClientReport, run_client};
pub use server::{ServerReport, run_server};

use std::io;

/// Longest line of the protocol, bytes: `u64 a.b.c.d:p a.b.c.d:p\n`.
const LINE_BYTES: usize = 80;

/// Reads from a non-blocking stream until it has no more; `true` at its end.
fn read_available(stream: &mut impl io::Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => into.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
