//! The FTP control channel (RFC 959, RFC 2428): what a client's commands ask for.
//!
//! A dialog is FTP, and stays it, as long as the server has greeted with `220` and each line
//! of the client begins with an FTP verb. The first that does not ends it for good: no
//! browser's request can smuggle a command behind it (NAT slipstreaming).
//!
//! A command with an address counts only if all of it is there, to the CR LF. What is not
//! finished is kept in the [`Stream`], so it makes no difference how segments are cut.

use arrayvec::ArrayVec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::stream::{ROOM, Stream};

/// Port of control connections.
pub const CONTROL_PORT: u16 = 21;

/// Bytes of a line that are looked at: verb and argument of `EPSV ALL`.
const HEAD: usize = 8;

/// Telnet commands (RFC 854), which stand before ABOR, are no part of its line.
const TELNET: u8 = 0xf0;

/// Of RFC 959, 775, 1639, 2228, 2389, 2428, 2640, 3659, 7151, and what clients in use send.
const VERBS: &[&[u8]] = &[
    b"ABOR", b"ACCT", b"ADAT", b"ALLO", b"APPE", b"AUTH", b"CCC", b"CDUP", b"CLNT", b"CONF",
    b"CWD", b"DELE", b"ENC", b"EPRT", b"EPSV", b"FEAT", b"HELP", b"HOST", b"LANG", b"LIST",
    b"LPRT", b"LPSV", b"MDTM", b"MFMT", b"MIC", b"MKD", b"MLSD", b"MLST", b"MODE", b"NLST",
    b"NOOP", b"OPTS", b"PASS", b"PASV", b"PBSZ", b"PORT", b"PROT", b"PWD", b"QUIT", b"REIN",
    b"REST", b"RETR", b"RMD", b"RNFR", b"RNTO", b"SITE", b"SIZE", b"SMNT", b"STAT", b"STOR",
    b"STOU", b"STRU", b"SYST", b"TYPE", b"USER", b"XCRC", b"XCUP", b"XCWD", b"XMD5", b"XMKD",
    b"XPWD", b"XRMD", b"XSHA",
];

/// A command that names an endpoint for the server to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `PORT h1,h2,h3,h4,p1,p2` (RFC 959 section 4.1.2).
    Port,
    /// `EPRT |1|address|port|` (RFC 2428 section 2).
    Eprt,
}

/// What the bytes behind the verb and its blank are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// The beginning of one that may become good.
    Partial,
    /// Complete, with its CR LF and nothing behind it: address and port.
    Names(u32, u16),
    /// Nothing that we change.
    Other,
}

/// Reads an argument.
pub fn argument(command: Command, bytes: &[u8]) -> Argument {
    let read = match command {
        Command::Port => port_argument(bytes),
        Command::Eprt => eprt_argument(bytes),
    };
    match read {
        Ok((address, port)) => Argument::Names(address, port),
        Err(Unread::Partial) => Argument::Partial,
        Err(Unread::Other) => Argument::Other,
    }
}

/// The argument that names an endpoint, with its CR LF; at most [`ROOM`] bytes.
pub fn written(command: Command, (address, port): (u32, u16)) -> ArrayVec<u8, ROOM> {
    let mut text = ArrayVec::new();
    let [a, b, c, d] = address.to_be_bytes();
    let [high, low] = port.to_be_bytes();
    match command {
        Command::Port => {
            for (number, end) in
                [(a, b','), (b, b','), (c, b','), (d, b','), (high, b','), (low, b'\r')]
            {
                write(&mut text, number.into(), end);
            }
        }
        Command::Eprt => {
            text.extend(*b"|1|");
            for (number, end) in [(a, b'.'), (b, b'.'), (c, b'.'), (d, b'|')] {
                write(&mut text, number.into(), end);
            }
            write(&mut text, port, b'|');
            text.push(b'\r');
        }
    }
    text.push(b'\n');
    text
}

fn write(text: &mut ArrayVec<u8, ROOM>, number: u16, end: u8) {
    let mut scale = 10_000;
    while scale > 0 {
        if number >= scale || scale == 1 {
            text.push(b'0' + (number / scale % 10) as u8);
        }
        scale /= 10;
    }
    text.push(end);
}

enum Unread {
    Partial,
    Other,
}

/// Takes a number of at most `digits` digits and its `end` off the front.
fn number(rest: &mut &[u8], digits: usize, most: u32, end: u8) -> Result<u32, Unread> {
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count > digits {
        return Err(Unread::Other);
    }
    let value = rest[..count].iter().fold(0, |sum, byte| sum * 10 + u32::from(byte - b'0'));
    match rest.get(count) {
        _ if value > most => Err(Unread::Other),
        None => Err(Unread::Partial),
        Some(byte) if *byte == end && count > 0 => {
            *rest = &rest[count + 1..];
            Ok(value)
        }
        Some(_) => Err(Unread::Other),
    }
}

/// Takes exactly these bytes off the front.
fn exactly(rest: &mut &[u8], bytes: &[u8]) -> Result<(), Unread> {
    match rest.strip_prefix(bytes) {
        Some(behind) => {
            *rest = behind;
            Ok(())
        }
        None if bytes.starts_with(rest) => Err(Unread::Partial),
        None => Err(Unread::Other),
    }
}

fn nothing(rest: &[u8]) -> Result<(), Unread> {
    if rest.is_empty() { Ok(()) } else { Err(Unread::Other) }
}

fn port_argument(mut rest: &[u8]) -> Result<(u32, u16), Unread> {
    let mut address = 0;
    for _ in 0..4 {
        address = address << 8 | number(&mut rest, 3, 255, b',')?;
    }
    let high = number(&mut rest, 3, 255, b',')?;
    let low = number(&mut rest, 3, 255, b'\r')?;
    exactly(&mut rest, b"\n")?;
    nothing(rest)?;
    Ok((address, (high << 8 | low) as u16))
}

fn eprt_argument(mut rest: &[u8]) -> Result<(u32, u16), Unread> {
    // RFC 2428 section 2: any printable character may part the fields.
    let parts = match rest.first() {
        None => return Err(Unread::Partial),
        Some(parts @ 33..=126) if !parts.is_ascii_digit() && *parts != b'.' => *parts,
        Some(_) => return Err(Unread::Other),
    };
    // Protocol 1 is IPv4.
    exactly(&mut rest, &[parts, b'1', parts])?;
    let mut address = 0;
    for end in [b'.', b'.', b'.', parts] {
        address = address << 8 | number(&mut rest, 3, 255, end)?;
    }
    let port = number(&mut rest, 5, 65_535, parts)?;
    exactly(&mut rest, b"\r\n")?;
    nothing(rest)?;
    Ok((address, port as u16))
}

/// The line that the client is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Line {
    /// Its first bytes in capitals.
    head: [u8; HEAD],
    /// Bytes so far, at most 255.
    len: u8,
}

/// What one byte more makes of a line.
enum Step {
    Goes,
    /// The argument of a command begins.
    Argument(Command),
    /// The line was AUTH.
    Secures,
    /// This is not FTP, or there is nothing more to look for.
    Stops,
}

impl Line {
    const BEGIN: Line = Line { head: [0; HEAD], len: 0 };

    fn take(&mut self, byte: u8) -> Step {
        if byte == b'\n' {
            let step = self.end();
            *self = Self::BEGIN;
            return step;
        }
        let at = usize::from(self.len);
        if at == 0 && byte >= TELNET {
            return Step::Goes;
        }
        if at < HEAD {
            self.head[at] = byte.to_ascii_uppercase();
        }
        self.len = self.len.saturating_add(1);
        let before = &self.head[..at.min(HEAD)];
        if before.contains(&b' ') {
            return Step::Goes;
        }
        match byte {
            b' ' if before == b"PORT" => Step::Argument(Command::Port),
            b' ' if before == b"EPRT" => Step::Argument(Command::Eprt),
            b' ' | b'\r' if VERBS.contains(&before) => Step::Goes,
            letter if letter.is_ascii_alphabetic() && at < 4 => Step::Goes,
            _ => Step::Stops,
        }
    }

    fn end(&self) -> Step {
        let head = &self.head[..usize::from(self.len).min(HEAD)];
        let verb = head.split(|byte| [b' ', b'\r'].contains(byte)).next().unwrap_or_default();
        match verb {
            b"AUTH" => Step::Secures,
            // RFC 2428 section 4: no other data connections from here on.
            b"EPSV" if head == b"EPSV ALL" && self.len <= 9 => Step::Stops,
            verb if VERBS.contains(&verb) => Step::Goes,
            _ => Step::Stops,
        }
    }
}

/// How far a dialog is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// The server has said less than `220`.
    Greeting = 0,
    Commands,
    /// The client has sent AUTH and waits for the answer.
    Securing,
    /// Not looked at any more.
    Over,
}

const WANTED: [Option<Command>; 3] = [None, Some(Command::Port), Some(Command::Eprt)];

/// One control connection, 76 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Dialog {
    /// What the client sends.
    pub stream: Stream,
    /// Number of the server's byte that comes next.
    answers: u32,
    line: Line,
    /// [`Phase`].
    phase: u8,
    /// Bytes of the greeting so far.
    greeted: u8,
    /// The command whose argument is due: place in [`WANTED`].
    wanted: u8,
    /// First number of the client, to know the connection by.
    reserved: [u8; 8],
}

const GREETING: &[u8; 3] = b"220";

impl Dialog {
    /// Of a connection whose first bytes have these numbers.
    pub fn new(client: u32, server: u32) -> Self {
        Self {
            stream: Stream::new(client),
            answers: server,
            line: Line::BEGIN,
            phase: Phase::Greeting as u8,
            greeted: 0,
            wanted: 0,
            reserved: [0; 8],
        }
    }

    /// Whether it is not looked at any more.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over as u8
    }

    /// Stops looking at it. What is kept would be lost: ask [`Stream::is_open`] first.
    pub fn end(&mut self) {
        self.phase = Phase::Over as u8;
    }

    /// Takes what the server says from `sequence` on.
    pub fn answer(&mut self, sequence: u32, bytes: &[u8]) {
        let ahead = sequence.wrapping_sub(self.answers) as i32;
        let first = bytes.first().copied().unwrap_or_default();
        if self.phase == Phase::Greeting as u8 {
            // Strictly in order: nothing may stand before it.
            let Some(news) = (ahead <= 0).then(|| bytes.get(-ahead as usize..)).flatten() else {
                return;
            };
            for byte in news {
                if self.phase != Phase::Greeting as u8 {
                    break;
                }
                if *byte != GREETING[usize::from(self.greeted)] {
                    self.end();
                    break;
                }
                self.greeted += 1;
                if usize::from(self.greeted) == GREETING.len() {
                    self.phase = Phase::Commands as u8;
                }
            }
        } else if ahead < 0 || bytes.is_empty() {
            return;
        } else if self.phase == Phase::Securing as u8 {
            // RFC 2228 section 3: refused with 4yz or 5yz; else what follows is not for us.
            let refused = [b'4', b'5'].contains(&first);
            self.phase = if refused { Phase::Commands as u8 } else { Phase::Over as u8 };
        }
        let end = sequence.wrapping_add(bytes.len() as u32);
        if end.wrapping_sub(self.answers) as i32 > 0 {
            self.answers = end;
        }
    }

    /// Takes the bytes that the client sends next. Not all are taken if a command waits for
    /// the server to have the one before: then they must come again.
    ///
    /// `replace` says which endpoint, if any, is to stand for the one that a command names.
    ///
    /// # Errors
    /// What `replace` says; then nothing of this may be kept.
    pub fn take<E>(
        &mut self,
        bytes: &[u8],
        mut replace: impl FnMut(u32, u16) -> Result<Option<(u32, u16)>, E>,
    ) -> Result<(), E> {
        if self.phase == Phase::Greeting as u8 && !bytes.is_empty() {
            // A client of FTP waits to be greeted.
            self.end();
        }
        for (at, byte) in bytes.iter().enumerate() {
            if self.phase != Phase::Commands as u8 {
                self.stream.pass((bytes.len() - at) as u32);
                break;
            }
            let Some(command) = WANTED[usize::from(self.wanted)] else {
                self.stream.pass(1);
                let step = self.line.take(*byte);
                self.step(step);
                continue;
            };
            if !self.stream.is_open() {
                if !self.stream.is_settled() {
                    break;
                }
                self.stream.open();
            }
            // A partial argument is shorter than the room.
            let kept = self.stream.keep(*byte);
            match argument(command, self.stream.kept()) {
                Argument::Partial if kept => {}
                Argument::Names(address, port) => {
                    let new = replace(address, port)?.map(|new| written(command, new));
                    self.stream.close(new.as_deref());
                    (self.wanted, self.line) = (0, Line::BEGIN);
                }
                _ => {
                    let kept: ArrayVec<u8, ROOM> = self.stream.kept().iter().copied().collect();
                    self.stream.close(None);
                    self.wanted = 0;
                    for byte in kept {
                        let step = self.line.take(byte);
                        self.step(step);
                    }
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Goes => {}
            Step::Argument(Command::Port) => self.wanted = 1,
            Step::Argument(Command::Eprt) => self.wanted = 2,
            Step::Secures => self.phase = Phase::Securing as u8,
            Step::Stops => self.end(),
        }
    }
}

#[cfg(test)]
mod tests;
