//! TFTP's ALG, naively: a request lets one answer of its server in, from any port.

use cgnat_core::verdict::DropReason::{self, *};

use super::events::{EXTERNAL, Event, Events, INTERNAL};
use super::nat::{Key, Nat, Ticks, after};
use super::sessions::{Filtering, Session};
use super::wire::{Packet, UDP};

const REQUESTS: u16 = 69;
const ANSWER_S: u64 = 30;

/// Opcode 1 or 2, a name, a mode, and pairs of an option and its value; a zero ends each.
fn is_request(payload: &[u8]) -> bool {
    let Some(texts) = payload.strip_suffix(&[0]).filter(|_| payload.len() <= 512) else {
        return false;
    };
    let texts: Vec<&[u8]> = match texts {
        [0, 1 | 2, rest @ ..] => rest.split(|byte| *byte == 0).collect(),
        _ => return false,
    };
    let mode = texts.get(1).map(|mode| mode.to_ascii_lowercase()).unwrap_or_default();
    let known = [&b"netascii"[..], b"octet", b"mail"].contains(&&mode[..]);
    known && texts.len().is_multiple_of(2) && texts.iter().all(|text| !text.is_empty())
}

impl Nat {
    /// A packet to port 69, which its mapping has seen.
    pub fn tftp_outbound(&mut self, key: Key, packet: &Packet, now: Ticks) {
        let filtering = self.mappings[&key].filtering;
        if self.rules.tftp
            && (key.0, packet.to().1) == (UDP, REQUESTS)
            && filtering == Filtering::AddressAndPort
            && is_request(&packet.payload)
            && self.expect(key, packet.destination, ANSWER_S, now).is_ok()
        {
            self.requests += 1;
        }
    }

    /// Lets a server open sessions of a mapping for so many seconds: a session without a port.
    pub fn expect(
        &mut self,
        key: Key,
        server: u32,
        seconds: u64,
        now: Ticks,
    ) -> Result<(), DropReason> {
        let expected = (server, 0);
        let Some(mapping) = self.mappings.get_mut(&key) else { unreachable!("the caller's") };
        mapping.forget(false, |with, session| *with == expected && now >= session.deadline);
        let deadline = after(now, seconds);
        if let Some(session) = mapping.further.get_mut(&expected) {
            session.deadline = deadline;
            return Ok(());
        }
        let (sessions, worker) = (mapping.sessions(), mapping.worker);
        self.admit_session(key.1, server, true, now)?;
        self.admit_to_mapping(key.1, sessions, true)?;
        if self.in_use(worker) >= self.rules.further_sessions {
            return Err(SessionTableFull);
        }
        let mapping = self.mappings.get_mut(&key);
        mapping.map(|mapping| mapping.further.insert(expected, Session::flow(deadline)));
        self.spend(key.1, now);
        Ok(())
    }
}

impl Events {
    /// A request, or something that looks like one; or an answer to one.
    pub fn tftp(&mut self, nat: &Nat) -> Event {
        let worker = self.worker();
        let expected: Vec<_> = nat
            .mappings
            .values()
            .filter(|mapping| mapping.external.0 == UDP)
            .flat_map(|m| m.further.keys().map(|with| (with.0, with.1, m.external)))
            .filter(|(_, port, _)| *port == 0)
            .collect();
        if !expected.is_empty() && self.one_in(2) {
            let (server, _, (_, address, port)) = self.pick(&expected);
            let server = if self.one_in(6) { self.remote().0 } else { server };
            let from = (server, self.pick(&[REQUESTS, 30_000, 30_001, 30_002]));
            let packet = self.packet(UDP, from, (address, port));
            return Event::Arrive { worker, port: EXTERNAL, packet };
        }
        let from = (self.host(), 3010 + self.below(6) as u16);
        let to = (self.ftp_server(), if self.one_in(12) { REQUESTS + 1 } else { REQUESTS });
        let mut packet = self.packet(UDP, from, to);
        let texts: [&[u8]; 8] = [
            b"\0\x01boot\0octet\0",
            b"\0\x01boot\0OCTET\0tsize\x000\0",
            b"\0\x02a\0netascii\0blksize\x001428\0tsize\x007\0",
            b"\0\x02a\0mail\0",
            b"\0\x03boot\0octet\0",
            b"\0\x01boot\0octet",
            b"\0\x01\0octet\0",
            b"\0\x01boot\0octet\0tsize\0",
        ];
        packet.payload = self.pick(&texts).to_vec();
        Event::Arrive { worker, port: INTERNAL, packet }
    }
}
