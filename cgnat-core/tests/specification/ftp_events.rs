//! Random control connections: clients that cut, repeat and run ahead, servers that answer, and
//! the data connections that commands ask for.

use super::events::{EXTERNAL, Event, Events, INTERNAL};
use super::ftp::{ACK, CONTROL, Control, DATA, FIN, Phase, SYN};
use super::nat::{Key, Nat};
use super::sessions::{Session, State};
use super::wire::{Body, Packet, TCP, ip};

const RST: u8 = 4;

impl Events {
    /// Something of a control connection or of what it has opened.
    pub fn ftp(&mut self, nat: &Nat) -> Event {
        let worker = self.worker();
        let (port, packet) = match self.below(12) {
            0 => (INTERNAL, self.dials()),
            1..3 => match self.is_answered(nat) {
                Some(packet) => (EXTERNAL, packet),
                None => (INTERNAL, self.dials()),
            },
            3..5 => match self.data_connection(nat) {
                Some(packet) => (EXTERNAL, packet),
                None => (INTERNAL, self.dials()),
            },
            n => match self.one_control(nat) {
                None => (INTERNAL, self.dials()),
                Some(((key, server), control)) if n < 9 => {
                    (INTERNAL, self.client(nat, key, server, control))
                }
                Some(((key, server), control)) => {
                    (EXTERNAL, self.server(nat, key, server, control))
                }
            },
        };
        Event::Arrive { worker, port, packet }
    }

    fn ftp_packet(
        &mut self,
        (from, to): ((u32, u16), (u32, u16)),
        flagged: u8,
        numbers: (u32, u32),
        text: &[u8],
    ) -> Packet {
        let mut packet = self.packet(TCP, from, to);
        let Body::Tcp { flags, sequence, acknowledgement, .. } = &mut packet.body else {
            unreachable!("it was asked for")
        };
        (*flags, *sequence, *acknowledgement) = (flagged, numbers.0, numbers.1);
        packet.payload = text.to_vec();
        packet.ttl = packet.ttl.max(2);
        packet
    }

    pub fn ftp_server(&mut self) -> u32 {
        ip("198.51.100.7") + self.below(2)
    }

    fn dials(&mut self) -> Packet {
        let from = (self.host(), 3000 + self.below(4) as u16);
        let (to, first) = ((self.ftp_server(), CONTROL), self.below(u32::MAX));
        self.ftp_packet((from, to), SYN, (first, 0), b"")
    }

    /// A SYN/ACK to somebody who waits for it.
    fn is_answered(&mut self, nat: &Nat) -> Option<Packet> {
        let mut waiting = Vec::new();
        for mapping in nat.mappings.values().filter(|mapping| mapping.external.0 == TCP) {
            let sessions = mapping.first.iter().map(|(with, session)| (with, session));
            for (with, session) in sessions.chain(&mapping.further) {
                if with.1 == CONTROL && session.state == State::Opening && session.opened_inside {
                    waiting.push((*with, mapping.external, session.next_inside()));
                }
            }
        }
        let n = waiting.len() as u32;
        let (with, to, next) = (n > 0).then(|| waiting[self.below(n) as usize])?;
        let first = self.below(u32::MAX);
        Some(self.ftp_packet((with, (to.1, to.2)), SYN | ACK, (first, next), b""))
    }

    fn one_control<'a>(&mut self, nat: &'a Nat) -> Option<((Key, u32), &'a Control)> {
        let n = nat.controls.len() as u32;
        let place = (n > 0).then(|| self.below(n))?;
        nat.controls.iter().nth(place as usize).map(|(key, control)| (*key, control))
    }

    /// The server, or a stranger, connects to what the last command named.
    fn data_connection(&mut self, nat: &Nat) -> Option<Packet> {
        let expected: Vec<_> = nat
            .mappings
            .values()
            .flat_map(|m| m.further.keys().map(|with| (*with, m.external)))
            .filter(|(with, _)| with.1 == 0)
            .collect();
        let n = expected.len() as u32;
        let (with, to) = (n > 0).then(|| expected[self.below(n) as usize])?;
        let from = if self.one_in(6) { self.remote().0 } else { with.0 };
        let port = self.pick(&[DATA, DATA, 40_000, 40_001]);
        let first = self.below(u32::MAX);
        Some(self.ftp_packet(((from, port), (to.1, to.2)), SYN, (first, 0), b""))
    }

    /// The stream of a client, the same whenever it is asked for.
    fn script(control: &Control, host: u32, length: usize) -> Vec<u8> {
        let address = std::net::Ipv4Addr::from(host).to_string();
        let commas = address.replace('.', ",");
        let mut random = control.begin;
        let mut script = Vec::new();
        while script.len() < length {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let port = 1024 + (random >> 8) % 12;
            let (high, low) = (port >> 8, port & 255);
            let line = match random >> 26 {
                0..12 => format!("PORT {commas},{high},{low}\r\n"),
                12..22 => format!("EPRT |1|{address}|{port}|\r\n"),
                22..24 => format!("port {commas},{high},{low}\r\n"),
                24 => format!("PORT {commas},0,{low}\r\n"),
                25 => format!("PORT 10,1,1,1,{high},{low}\r\n"),
                26 => format!("EPRT |1|10.1.1.1|{port}|\r\n"),
                27 => format!("PORT {commas},{high},300\r\n"),
                28 => format!("EPRT |2|::1|{port}|\r\n"),
                29 => format!("PORT {commas},{high},{low} x\r\n"),
                30 => format!("EPRT |1|{address}|{port}\r\n"),
                31 => "AUTH TLS\r\n".to_owned(),
                32 if random & 0x30 == 0 => "EPSV ALL\r\n".to_owned(),
                33 if random & 0x30 == 0 => "GET / HTTP/1.1\r\n".to_owned(),
                n => ["LIST\r\n", "RETR a b\r\n", "noop\r\n", "USER x\r\n"][n as usize % 4].into(),
            };
            script.extend(line.bytes());
        }
        script
    }

    fn client(&mut self, nat: &Nat, key: Key, server: u32, control: &Control) -> Packet {
        let ends = ((key.1, key.2), (server, CONTROL));
        let next = control.server_begin.wrapping_add(control.said as u32);
        let taken = control.taken;
        // Not from before the newest place.
        let least = control.inner(control.acknowledged).max(control.start).min(taken).max(0);
        let at = match self.below(16) {
            0..11 => taken,
            11..15 => least + i64::from(self.below((taken - least + 1) as u32)),
            _ => taken + 1 + i64::from(self.below(40)),
        };
        let length = match self.below(8) {
            0 => 0,
            1..4 => 1 + self.below(9) as i64,
            _ => self.below(70) as i64,
        };
        let script = Self::script(control, key.1, (at + length) as usize);
        let text = script[at as usize..(at + length) as usize].to_vec();
        let more = match self.below(60) {
            0 => FIN,
            1 => RST,
            _ => 0,
        };
        let from_outside = nat.session(key, (server, CONTROL)).map(Session::next_outside);
        let next = if more == RST { from_outside.unwrap_or(next) } else { next };
        let sequence = control.begin.wrapping_add(at as u32);
        self.ftp_packet(ends, ACK | more, (sequence, next), &text)
    }

    fn server(&mut self, nat: &Nat, key: Key, server: u32, control: &Control) -> Packet {
        let external = nat.mappings[&key].external;
        let ends = ((server, CONTROL), (external.1, external.2));
        let sent = control.outer(control.taken);
        let least = control.acknowledged.min(sent);
        let outer = match self.below(6) {
            0 => least,
            1 => least + i64::from(self.below((sent - least + 1) as u32)),
            _ => sent,
        };
        let all: &[u8] = match control.phase {
            Phase::Greeting if control.begin.is_multiple_of(8) => b"530 no\r\n",
            Phase::Greeting => b"220 ready\r\n",
            Phase::Securing if self.one_in(4) => b"234 go\r\n",
            Phase::Securing => b"530 no\r\n",
            _ => b"200 ok\r\n",
        };
        let mut at = control.said;
        let mut text = match control.phase {
            Phase::Greeting => all[(control.said as usize).min(all.len())..].to_vec(),
            _ if self.one_in(3) => vec![],
            _ => all.to_vec(),
        };
        if self.one_in(5) {
            text.truncate(self.below(6) as usize);
        }
        if self.one_in(12) && control.phase != Phase::Greeting {
            at -= i64::from(self.below(9)).min(at);
        }
        let more = match self.below(60) {
            0 => FIN,
            1 => RST,
            _ => 0,
        };
        let numbers = (
            control.server_begin.wrapping_add(at as u32),
            control.begin.wrapping_add(outer as u32),
        );
        self.ftp_packet(ends, ACK | more, numbers, &text)
    }
}
