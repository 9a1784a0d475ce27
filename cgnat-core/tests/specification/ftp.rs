//! FTP's ALG, naively: a dialog keeps all that the client has said, and a line as it stands.
//!
//! Of what was replaced only the newest place is known: another is not begun before the server
//! has all of the one before, so nothing older is sent again by a client that has heard of that.
//! The events keep to it.

use super::nat::{Key, Nat, Outcome, Seen, Ticks};
use super::sessions::{Session, State};
use super::wire::{Body, Packet, TCP};
use cgnat_core::verdict::DropReason::{self, *};

pub const CONTROL: u16 = 21;
pub const DATA: u16 = 20;
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

/// Those that the events use.
const VERBS: [&str; 10] =
    ["USER", "PASS", "PORT", "EPRT", "LIST", "RETR", "NOOP", "AUTH", "EPSV", "QUIT"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Greeting,
    Commands,
    Securing,
    Over,
}

/// One control connection. Places are counted from the client's first byte; `outer` ones are the
/// server's.
#[derive(Debug, Clone)]
pub struct Control {
    worker: u16,
    /// Number of the client's first byte, and of the server's.
    pub begin: u32,
    pub server_begin: u32,
    pub phase: Phase,
    /// What has been taken of the client.
    pub taken: i64,
    /// How far the server has acknowledged, and what it has said.
    pub acknowledged: i64,
    pub said: i64,
    line: String,
    wanted: Option<String>,
    /// The newest place: where it is, what stood there, what stands there now; `None` while the
    /// command is not complete.
    pub start: i64,
    old: String,
    new: Option<String>,
    /// Outer minus inner before the place.
    offset: i64,
}

/// An argument as far as it goes.
enum Argument {
    Partial,
    Names(u32, u16),
    Other,
}

fn number(text: &str, digits: usize, most: u32) -> Option<u32> {
    let good = text.len() <= digits && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = if text.is_empty() { 0 } else { text.parse().ok()? };
    (good && value <= most).then_some(value)
}

/// Numbers, each with its digits, the largest it may be and what ends it; the text may stop
/// anywhere.
fn numbers(text: &str, fields: &[(usize, u32, &str)]) -> Result<Option<Vec<u32>>, ()> {
    let (mut rest, mut values) = (text, Vec::new());
    for (digits, most, end) in fields {
        let at = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (value, behind) = (number(&rest[..at], *digits, *most).ok_or(())?, &rest[at..]);
        if behind.is_empty() {
            return Ok(None);
        }
        if at == 0 || !behind.starts_with(end) && !end.starts_with(behind) {
            return Err(());
        }
        let Some(next) = behind.strip_prefix(end) else { return Ok(None) };
        values.push(value);
        rest = next;
    }
    if rest.is_empty() { Ok(Some(values)) } else { Err(()) }
}

fn argument(verb: &str, text: &str) -> Argument {
    let byte = |end| (3, 255, end);
    let read = match verb {
        "PORT" => {
            let ends = [",", ",", ",", ",", ",", "\r\n"].map(byte);
            numbers(text, &ends).map(|n| n.map(|n| (n[..4].to_vec(), n[4] << 8 | n[5])))
        }
        _ => match text.strip_prefix("|1|") {
            None if "|1|".starts_with(text) => Ok(None),
            None => Err(()),
            Some(rest) => {
                let mut ends = [".", ".", ".", "|"].map(byte).to_vec();
                ends.push((5, 65_535, "|\r\n"));
                numbers(rest, &ends).map(|n| n.map(|n| (n[..4].to_vec(), n[4])))
            }
        },
    };
    match read {
        Err(()) => Argument::Other,
        Ok(None) => Argument::Partial,
        Ok(Some((address, port))) => {
            let address = address.iter().fold(0, |sum, byte| sum << 8 | byte);
            Argument::Names(address, port as u16)
        }
    }
}

fn written(verb: &str, (address, port): (u32, u16)) -> String {
    let address = std::net::Ipv4Addr::from(address);
    match verb {
        "PORT" => {
            let address = address.to_string().replace('.', ",");
            format!("{address},{},{}\r\n", port >> 8, port & 255)
        }
        _ => format!("|1|{address}|{port}|\r\n"),
    }
}

impl Control {
    fn end(&self) -> i64 {
        self.start + self.old.len() as i64
    }

    fn new_text(&self) -> &str {
        self.new.as_deref().unwrap_or_default()
    }

    fn offset_behind(&self) -> i64 {
        self.offset + self.new_text().len() as i64 - self.old.len() as i64
    }

    /// Where the server has what the client has at `at`.
    pub fn outer(&self, at: i64) -> i64 {
        match at {
            at if at <= self.start => at + self.offset,
            at if at >= self.end() => at + self.offset_behind(),
            _ => self.start + self.offset,
        }
    }

    /// What the client has sent if the server has everything before `at`.
    pub fn inner(&self, at: i64) -> i64 {
        let begin = self.start + self.offset;
        match at {
            at if at >= begin + self.new_text().len() as i64 => at - self.offset_behind(),
            at if at > begin => self.start,
            at => at - self.offset,
        }
    }

    fn is_settled(&self) -> bool {
        let end = self.start + self.offset + self.new_text().len() as i64;
        self.new.is_some() && self.acknowledged >= end
    }

    /// The next bytes of the client. `replace` says what is named instead.
    fn take(
        &mut self,
        bytes: &[u8],
        mut replace: impl FnMut(u32, u16) -> Result<Option<(u32, u16)>, String>,
    ) -> Result<(), String> {
        if self.phase == Phase::Greeting && !bytes.is_empty() {
            self.phase = Phase::Over;
        }
        for (at, byte) in bytes.iter().enumerate() {
            if self.phase != Phase::Commands {
                self.taken += (bytes.len() - at) as i64;
                break;
            }
            let Some(verb) = self.wanted.clone() else {
                self.taken += 1;
                self.read(char::from(*byte));
                continue;
            };
            if self.new.is_some() {
                if !self.is_settled() {
                    break;
                }
                self.offset = self.offset_behind();
                (self.start, self.old, self.new) = (self.taken, String::new(), None);
            }
            self.taken += 1;
            self.old.push(char::from(*byte));
            match argument(&verb, &self.old) {
                Argument::Partial => {}
                Argument::Names(address, port) => {
                    let new = replace(address, port)?;
                    let new = new.map_or(self.old.clone(), |new| written(&verb, new));
                    (self.new, self.wanted, self.line) = (Some(new), None, String::new());
                }
                Argument::Other => {
                    (self.new, self.wanted) = (Some(self.old.clone()), None);
                    self.old.clone().chars().for_each(|letter| self.read(letter));
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, letter: char) {
        let verb = |line: &str| line.split([' ', '\r']).next().unwrap_or_default().to_owned();
        if letter == '\n' {
            let line = std::mem::take(&mut self.line);
            self.phase = match verb(&line).as_str() {
                "AUTH" => Phase::Securing,
                "EPSV" if line.trim_end_matches('\r') == "EPSV ALL" => Phase::Over,
                known if VERBS.contains(&known) => self.phase,
                _ => Phase::Over,
            };
            return;
        }
        let before = self.line.clone();
        self.line.push(letter.to_ascii_uppercase());
        if before.contains(' ') {
            return;
        }
        match letter {
            ' ' if before == "PORT" || before == "EPRT" => self.wanted = Some(before),
            ' ' | '\r' if VERBS.contains(&before.as_str()) => {}
            letter if letter.is_ascii_alphabetic() && before.len() < 4 => {}
            _ => self.phase = Phase::Over,
        }
    }

    /// What the server says at a place of its stream.
    fn answer(&mut self, at: i64, bytes: &[u8]) {
        match self.phase {
            Phase::Greeting => {
                let Some(news) = usize::try_from(self.said - at).ok().and_then(|n| bytes.get(n..))
                else {
                    return;
                };
                let greeting = "220".as_bytes();
                for (n, byte) in (self.said as usize..).zip(news) {
                    if n < 3 && greeting[n] != *byte {
                        self.phase = Phase::Over;
                        break;
                    }
                }
                if self.phase == Phase::Greeting && self.said as usize + news.len() >= 3 {
                    self.phase = Phase::Commands;
                }
            }
            _ if at < self.said || bytes.is_empty() => return,
            Phase::Securing => {
                let refused = matches!(bytes[0], b'4' | b'5');
                self.phase = if refused { Phase::Commands } else { Phase::Over };
            }
            Phase::Commands | Phase::Over => {}
        }
        self.said = self.said.max(at + bytes.len() as i64);
    }

    /// A segment of the client as it leaves; what is to be taken of it was taken.
    fn leaving(&self, at: i64, packet: &mut Packet) {
        let Body::Tcp { sequence, flags, .. } = &mut packet.body else { return };
        *sequence = self.begin.wrapping_add(self.outer(at) as u32);
        let length = packet.payload.len();
        let taken = (self.taken - at).clamp(0, length as i64);
        let (from, to) = (self.start - at, self.end() - at);
        let touched = !self.old.is_empty() && from < taken && to > 0;
        if length == 0 || !touched && taken as usize == length {
            return;
        }
        let own = packet.payload.clone();
        packet.payload.truncate(if touched { from.max(0) } else { taken } as usize);
        if touched {
            packet.payload.extend(self.new_text().bytes());
            packet.payload.extend(&own[to.min(taken) as usize..taken as usize]);
        }
        if packet.payload.is_empty() {
            // All of it is kept: the blank before it, again.
            packet.payload.push(b' ');
            *sequence = self.begin.wrapping_add((self.outer(self.taken) - 1) as u32);
            *flags &= !FIN;
        }
        if (taken as usize) < length {
            *flags &= !FIN;
        }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub unfollowed: u64,
    pub ended: u64,
    pub replaced: u64,
    pub passed: u64,
}

fn place(number: u32, begin: u32) -> i64 {
    i64::from(number.wrapping_sub(begin) as i32)
}

impl Nat {
    pub fn session(&self, key: Key, remote: (u32, u16)) -> Option<&Session> {
        let mapping = self.mappings.get(&key)?;
        match &mapping.first {
            Some((with, session)) if *with == remote => Some(session),
            _ => mapping.further.get(&remote),
        }
    }

    /// With its session a control connection ends.
    pub fn mind_controls(&mut self) {
        let mut controls = std::mem::take(&mut self.controls);
        controls.retain(|(key, server), _| self.session(*key, (*server, CONTROL)).is_some());
        self.controls = controls;
    }

    /// The endpoint for whose mapping the core's choice must be known.
    pub fn named_by(&self, key: Key, packet: &Packet) -> Option<Key> {
        let segment = packet.segment().filter(|_| packet.to().1 == CONTROL)?;
        let mut control = self.controls.get(&(key, packet.destination))?.clone();
        let at = place(segment.sequence, control.begin);
        let news = packet.payload.get(usize::try_from(control.taken - at).ok()?..)?;
        let mut named = None;
        let noted = control.take(news, |address, port| {
            let realm = self.realm(address, TCP, (packet.destination, DATA));
            named = Some((TCP, address, port, None, realm));
            Ok(None)
        });
        named.filter(|_| noted.is_ok())
    }

    /// A segment to port 21, which its session has seen.
    pub fn ftp_outbound(
        &mut self,
        key: Key,
        packet: &mut Packet,
        now: Ticks,
        seen: Option<&Seen>,
    ) -> Result<Option<Outcome>, String> {
        let server = packet.destination;
        let Some(segment) = packet.segment() else { return Ok(None) };
        if packet.to().1 != CONTROL || segment.flags & SYN != 0 {
            return Ok(None);
        }
        let Some(mut control) = self.controls.get(&(key, server)).cloned() else { return Ok(None) };
        let (at, length) = (place(segment.sequence, control.begin), packet.payload.len() as i64);
        let was_over = control.phase == Phase::Over;
        if was_over {
            control.taken = control.taken.max(at + length);
        } else if at > control.taken && (length > 0 || segment.flags & FIN != 0) {
            return Ok(Some(Outcome::Drop(AlgFtpOrder)));
        } else if let Some(known) = usize::try_from(control.taken - at).ok()
            && let Some(news) = packet.payload.get(known..)
        {
            control.take(news, |address, port| {
                let named = (address, port);
                self.stand_in(key, named, server, now, seen)
            })?;
        }
        self.ftp.ended += u64::from(control.phase == Phase::Over && !was_over);
        control.leaving(at, packet);
        self.controls.insert((key, server), control);
        Ok(None)
    }

    fn stand_in(
        &mut self,
        key: Key,
        (address, port): (u32, u16),
        server: u32,
        now: Ticks,
        seen: Option<&Seen>,
    ) -> Result<Option<(u32, u16)>, String> {
        let own = address == key.1 && port >= 1024;
        let realm = self.realm(address, TCP, (server, DATA));
        let data = (TCP, address, port, None, realm);
        if own && self.expose(data, server, now, seen.ok_or("nobody looked")?)?.is_ok() {
            self.ftp.replaced += 1;
            let (_, address, port) = self.mappings[&data].external;
            return Ok(Some((address, port)));
        }
        self.ftp.passed += 1;
        Ok(None)
    }

    /// Lets `server` connect to an internal endpoint.
    fn expose(
        &mut self,
        data: Key,
        server: u32,
        now: Ticks,
        seen: &Seen,
    ) -> Result<Result<(), DropReason>, String> {
        if self.mappings.get(&data).is_some_and(|mapping| mapping.is_expired(now)) {
            self.end(data, now);
        }
        let is_new = !self.mappings.contains_key(&data);
        if is_new && self.in_use(seen.worker) >= self.rules.further_sessions {
            return Ok(Err(SessionTableFull));
        }
        if is_new && let Err(reason) = self.create_for(data, server, now, seen)? {
            return Ok(Err(reason));
        }
        let expected = self.expect(data, server, self.rules.opening_s, now);
        if is_new && expected.is_err() {
            self.end(data, now);
        }
        Ok(expected)
    }

    /// A mapping as for a first packet to the server's data port. Why the core refused one it
    /// does not say; it must have had some reason.
    fn create_for(
        &mut self,
        data: Key,
        server: u32,
        now: Ticks,
        seen: &Seen,
    ) -> Result<Result<(), DropReason>, String> {
        let (source, destination) = (data.2, DATA);
        let (flags, sequence, acknowledgement, options) = (SYN, 0, 0, vec![]);
        let body = Body::Tcp { source, destination, flags, sequence, acknowledgement, options };
        let (identification, df, ttl) = (0, true, 64);
        let (options, payload) = (vec![], vec![]);
        let (source, destination) = (data.1, server);
        let first = Packet { identification, df, ttl, options, source, destination, body, payload };
        let made =
            self.create(data, &first, now, &Seen { reason: None, named: None, ..seen.clone() });
        if seen.choice.is_some() || made.is_ok() {
            return made;
        }
        for reason in DropReason::ALL {
            let seen = Seen { reason: Some(*reason), named: None, ..seen.clone() };
            if let Ok(Err(reason)) = self.create(data, &first, now, &seen) {
                return Ok(Err(reason));
            }
        }
        made
    }

    /// A segment from port 21 in the subscriber's numbers.
    pub fn ftp_inbound(&mut self, key: Key, packet: &mut Packet, now: Ticks) -> Arriving {
        let server = packet.source;
        let remote = (server, CONTROL);
        let mut arriving = Arriving { was_opening: false, segment: None };
        if !self.rules.ftp || packet.from().1 != CONTROL {
            return arriving;
        }
        let Some(segment) = packet.segment() else { return arriving };
        self.meet(key, remote, now);
        let session = self.session(key, remote);
        arriving.was_opening =
            session.is_some_and(|s| s.opened_inside && s.state == State::Opening);
        arriving.segment = Some((segment.flags, segment.sequence, segment.acknowledgement));
        if let Some(control) = self.controls.get_mut(&(key, server))
            && segment.flags & (ACK | SYN) == ACK
        {
            let at = place(segment.acknowledgement, control.begin);
            if at > control.acknowledged && at <= control.outer(control.taken) {
                control.acknowledged = at;
            }
            let Body::Tcp { acknowledgement, .. } = &mut packet.body else { return arriving };
            *acknowledgement = control.begin.wrapping_add(control.inner(at) as u32);
        }
        arriving
    }

    /// The session has seen it.
    pub fn ftp_answered(&mut self, key: Key, packet: &Packet, arriving: Arriving) {
        let Some((flags, sequence, acknowledgement)) = arriving.segment else { return };
        let server = packet.source;
        if flags & (SYN | ACK) == SYN | ACK && arriving.was_opening {
            let state = self.session(key, (server, CONTROL)).map(|session| session.state);
            if state == Some(State::Established) {
                self.follow(key, server, acknowledgement, sequence.wrapping_add(1));
            }
        } else if let Some(control) = self.controls.get_mut(&(key, server))
            && flags & SYN == 0
        {
            let was_over = control.phase == Phase::Over;
            control.answer(place(sequence, control.server_begin), &packet.payload);
            self.ftp.ended += u64::from(control.phase == Phase::Over && !was_over);
        }
    }

    fn follow(&mut self, key: Key, server: u32, begin: u32, server_begin: u32) {
        let worker = self.mappings[&key].worker;
        let followed = |is: &dyn Fn(&Key, &Control) -> bool| {
            self.controls.iter().filter(|((key, _), control)| is(key, control)).count()
        };
        let own = followed(&|other, _| other.1 == key.1);
        let all = followed(&|_, control| control.worker == worker);
        let (most, known) = (self.rules.controls, self.controls.contains_key(&(key, server)));
        if !known && (own >= most / 16 || all >= most) {
            self.ftp.unfollowed += 1;
            return;
        }
        let control = Control {
            worker,
            begin,
            server_begin,
            phase: Phase::Greeting,
            taken: 0,
            acknowledged: 0,
            said: 0,
            line: String::new(),
            wanted: None,
            start: 0,
            old: String::new(),
            new: Some(String::new()),
            offset: 0,
        };
        self.controls.insert((key, server), control);
    }
}

/// A segment from a server before its session has seen it.
#[derive(Debug, Clone, Copy)]
pub struct Arriving {
    was_opening: bool,
    /// Flags and numbers as they arrived.
    segment: Option<(u8, u32, u32)>,
}
