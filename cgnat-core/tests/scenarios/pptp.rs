//! PPTP control connections through the box: what is followed, what is replaced, and when there
//! is a call (RFC 2637 sections 2 and 3, decision 20).

use cgnat_core::verdict::DropReason::*;

use crate::desk::*;
use crate::pptp_messages::*;
use crate::wire::{Body, FIRST, Packet, ip};

pub const HOST: &str = "100.64.3.9";
pub const PPTP: u16 = 1723;
pub const ALG: &str = "nat44: { alg: { pptp: true } }\n";

/// Behind the SYNs of both sides.
const BEGIN: u32 = FIRST.wrapping_add(1);

/// One address for all.
pub fn shared(more: &str) -> String {
    let pool = "{ addresses: [203.0.113.200], ports: 1024-2047, allocation: { block-size: 64, \
                max-blocks: 2 } }";
    config(pool, more)
}

fn segment(from: (&str, u16), to: (u32, u16), numbers: (u32, u32), payload: &[u8]) -> Packet {
    let mut packet = tcp_at(from, to, ACK, numbers);
    packet.payload = payload.to_vec();
    let Body::Tcp { options, .. } = &mut packet.body else { unreachable!() };
    options.clear();
    packet
}

/// GRE to a call.
pub fn gre(from: &str, to: u32, id: u16) -> Packet {
    let mut packet = udp((from, 1), (to, 1));
    packet.body = Body::Call { id };
    packet
}

/// A control connection: who talks, and how much each has said.
#[derive(Clone)]
pub struct Talk {
    pub client: (String, u16),
    pub server: (String, u16),
    /// The endpoint that the client dials, and its own as the server sees it.
    pub dialled: (u32, u16),
    pub outside: (u32, u16),
    pub said: [u32; 2],
    /// Port that the server is behind.
    pub behind: usize,
}

impl Talk {
    /// Opens; nothing is said yet.
    pub fn open(desk: &mut Desk, client: (&str, u16), server: &str) -> Self {
        let dialled = (ip(server), PPTP);
        let mut syn = tcp(client, dialled, SYN);
        syn.payload.clear();
        let outside = desk.goes_out(&syn);
        let mut answer = tcp_at((server, PPTP), outside, SYN | ACK, (FIRST, BEGIN));
        answer.payload.clear();
        desk.comes_in(&answer, client);
        let client = (client.0.to_owned(), client.1);
        let talk = Self {
            client,
            server: (server.to_owned(), PPTP),
            dialled,
            outside,
            said: [0; 2],
            behind: EXTERNAL,
        };
        desk.goes_out(&talk.segment(0, 0, b""));
        talk
    }

    /// A segment of one side, 0 for the client, from the `at`-th byte of its stream on.
    pub fn segment(&self, side: usize, at: u32, payload: &[u8]) -> Packet {
        let numbers = (BEGIN.wrapping_add(at), BEGIN.wrapping_add(self.said[1 - side]));
        match side {
            0 => segment((&self.client.0, self.client.1), self.dialled, numbers, payload),
            _ => segment((&self.server.0, self.server.1), self.outside, numbers, payload),
        }
    }

    /// One side says something; what arrives at the other.
    pub fn says(&mut self, desk: &mut Desk, side: usize, payload: &[u8]) -> Vec<u8> {
        let at = self.said[side];
        let arrived = self.sends(desk, side, at, payload);
        self.said[side] += payload.len() as u32;
        arrived
    }

    /// One side sends bytes that are the `at`-th of its stream: what arrives, after a look at
    /// everything else of the packet.
    pub fn sends(&self, desk: &mut Desk, side: usize, at: u32, payload: &[u8]) -> Vec<u8> {
        let packet = self.segment(side, at, payload);
        let port = if side == 0 { INTERNAL } else { self.behind };
        let sent = desk.offer(port, &packet);
        assert_eq!(sent.len(), 1, "{:?}", desk.drops());
        let arrived = sent[0].1[54..].to_vec();
        let mut expected = packet;
        expected.payload.clone_from(&arrived);
        expected.ttl -= 1;
        let to = if side == 0 { self.behind } else { INTERNAL };
        match side {
            0 => expected.set_source(self.outside),
            _ => expected.set_destination((ip(&self.client.0), self.client.1)),
        }
        if self.behind == INTERNAL {
            // The other end is translated too, which `pptp_paths` looks at.
            return arrived;
        }
        // With a right checksum, and nothing else changed.
        assert_eq!(sent, [desk.leaving(to, &expected)]);
        arrived
    }

    /// Both agree to talk.
    pub fn starts(&mut self, desk: &mut Desk) {
        for (side, kind) in [(0, START), (1, STARTED)] {
            let said = message(kind, 0x0100, 0x0100);
            assert_eq!(self.says(desk, side, &said), said);
        }
    }

    /// The client calls with one identifier, the server accepts with another.
    pub fn calls(&mut self, desk: &mut Desk, client: u16, server: u16) {
        let arrived = self.says(desk, 0, &message(CALL, client, 3));
        assert_eq!(arrived, message(CALL, self.outside.1, 3));
        let arrived = self.says(desk, 1, &message(CALLED, server, self.outside.1));
        assert_eq!(arrived, message(CALLED, server, client));
    }

    /// A client that has called.
    pub fn called(desk: &mut Desk, client: (&str, u16), server: &str, ids: (u16, u16)) -> Self {
        let mut talk = Self::open(desk, client, server);
        talk.starts(desk);
        talk.calls(desk, ids.0, ids.1);
        talk
    }
}

pub fn count(desk: &Desk, name: &str) -> u64 {
    desk.lab.sum(|c| {
        match name {
            "followed" => &c.pptp_followed,
            "unfollowed" => &c.pptp_unfollowed,
            "ended" => &c.pptp_ended,
            "calls" => &c.pptp_calls,
            _ => &c.pptp_passed,
        }
        .value()
    })
}

impl Desk {
    /// GRE of a subscriber leaves from an address; returns the packet as it left.
    pub fn tunnels_out(&mut self, packet: &Packet, external: u32) -> Packet {
        let sent = self.offer(INTERNAL, packet);
        assert_eq!(sent.len(), 1, "{:?}", self.drops());
        let mut expected = packet.clone();
        expected.set_source((external, 0));
        expected.ttl -= 1;
        expected.identification = u16::from_be_bytes([sent[0].1[18], sent[0].1[19]]);
        assert_eq!(sent, [self.leaving(EXTERNAL, &expected)]);
        expected
    }

    /// GRE of a server reaches a subscriber with its own identifier.
    pub fn tunnels_in(&mut self, packet: &Packet, internal: (&str, u16)) {
        self.comes_in(packet, internal);
    }
}

#[test]
fn two_clients_of_one_address_with_equal_identifiers_have_a_tunnel_each_to_one_server() {
    for workers in [1, 4] {
        let mut desk = Desk::with(&shared(ALG), workers, 3);
        let hosts = [subscriber_of(0, workers, 0), subscriber_of(workers - 1, workers, 1)];
        let talks: Vec<Talk> = hosts
            .iter()
            .zip([0x80, 0x81])
            .map(|(host, server)| Talk::called(&mut desk, (host, 4000), SERVER, (7, server)))
            .collect();
        assert_eq!(talks[0].outside.0, talks[1].outside.0);
        assert_ne!(talks[0].outside.1, talks[1].outside.1);
        for at in 0..usize::from(workers) {
            desk.at = at;
            for (talk, server) in talks.iter().zip([0x80, 0x81]) {
                let host = &talk.client.0[..];
                let out = gre(host, ip(SERVER), server);
                let left = desk.tunnels_out(&out, talk.outside.0);
                // Of the owner's own numbers, so that an error finds it.
                let owner = if host == hosts[0] { 0 } else { workers - 1 };
                assert_eq!(left.identification % workers, owner);
                desk.tunnels_in(&gre(SERVER, talk.outside.0, talk.outside.1), (host, 7));
            }
        }
        assert_eq!((count(&desk, "followed"), count(&desk, "calls")), (2, 2));
        assert_eq!(desk.drops(), [].into());
        // Nobody else gets in, and nobody gets out to another call.
        let (address, port) = talks[0].outside;
        desk.refused(EXTERNAL, &gre("198.51.100.8", address, port), PptpNoCall);
        desk.refused(EXTERNAL, &gre(SERVER, address, port ^ 1), PptpNoCall);
        desk.refused(EXTERNAL, &gre(SERVER, address, 7), PortNotLent);
        desk.refused(INTERNAL, &gre(&hosts[0], ip(SERVER), 0x81), PptpNoCall);
        desk.refused(INTERNAL, &gre(&hosts[0], ip("198.51.100.8"), 0x80), PptpNoCall);
    }
}

#[test]
fn without_the_alg_the_second_subscriber_is_refused_and_identifiers_stay() {
    for more in ["", "nat44: { other-protocols: { gre: carry } }\n"] {
        let mut desk = Desk::with(&shared(more), 4, 3);
        let hosts = [subscriber_of(0, 4, 0), subscriber_of(3, 4, 1)];
        for host in &hosts {
            let mut talk = Talk::open(&mut desk, (host, 4000), SERVER);
            talk.starts(&mut desk);
            for (side, kind) in [(0, CALL), (1, CALLED)] {
                let said = message(kind, 7, talk.outside.1);
                assert_eq!(talk.says(&mut desk, side, &said), said);
            }
        }
        match more {
            "" => desk.refused(INTERNAL, &gre(&hosts[0], ip(SERVER), 7), ProtocolUnsupported),
            _ => {
                let out = gre(&hosts[0], ip(SERVER), 7);
                assert_eq!(desk.offer(INTERNAL, &out).len(), 1);
                let second = gre(&hosts[1], ip(SERVER), 8);
                desk.refused(INTERNAL, &second, AssociationConflict);
            }
        }
        assert_eq!(count(&desk, "followed") + count(&desk, "calls"), 0);
    }
}

#[test]
fn every_identifier_of_the_client_is_replaced_where_rfc_2637_has_it_and_no_other() {
    let mut desk = Desk::new(&shared(ALG));
    let mut talk = Talk::called(&mut desk, (HOST, 4000), SERVER, (7, 0));
    let id = talk.outside.1;
    // Before and behind are the same bytes but for the client's identifier.
    for (side, sent, arrives) in [
        (0, message(ECHO, 7, 7), message(ECHO, 7, 7)),
        (1, message(ECHOED, id, id), message(ECHOED, id, id)),
        (0, message(LINK, 7, 0), message(LINK, 7, 0)),
        (1, message(LINK, id, 0), message(LINK, 7, 0)),
        (1, message(LINK, 7, 0), message(LINK, 7, 0)),
        (1, message(WAN_ERROR, id, 0), message(WAN_ERROR, 7, 0)),
        (1, message(WAN_ERROR, 9, 0), message(WAN_ERROR, 9, 0)),
        (0, message(CLEAR, 9, 0), message(CLEAR, 9, 0)),
        // About calls that are not translated, which are counted.
        (0, message(CALL, 8, 0), message(CALL, 8, 0)),
        (1, message(CALLED, 1, 8), message(CALLED, 1, 8)),
        (1, message(INCOMING, 5, 0), message(INCOMING, 5, 0)),
        (0, message(INCOMING_ACCEPTED, 7, 5), message(INCOMING_ACCEPTED, 7, 5)),
        (1, message(INCOMING_CONNECTED, 7, 0), message(INCOMING_CONNECTED, 7, 0)),
        (1, message(DISCONNECTED, 9, 0), message(DISCONNECTED, 9, 0)),
    ] {
        assert_eq!(talk.says(&mut desk, side, &sent), arrives, "{:02x?}", &sent[..16]);
        desk.tunnels_in(&gre(SERVER, talk.outside.0, id), (HOST, 7));
    }
    assert_eq!(count(&desk, "passed"), 3);
    // A server that clears with the client's identifier, which is against the text.
    let mut other = Talk::called(&mut desk, (HOST, 4001), "198.51.100.8", (3, 4));
    let id = other.outside.1;
    let arrived = other.says(&mut desk, 1, &message(DISCONNECTED, id, 0));
    assert_eq!(arrived, message(DISCONNECTED, 3, 0));
    assert_eq!(count(&desk, "calls"), 1);
}

#[test]
fn a_call_ends_with_its_clearing_its_connection_or_the_session() {
    let gone = |desk: &mut Desk, talk: &Talk, server: u16| {
        assert_eq!(count(desk, "calls"), 0);
        desk.refused(EXTERNAL, &gre(SERVER, talk.outside.0, talk.outside.1), PptpNoCall);
        desk.refused(INTERNAL, &gre(HOST, ip(SERVER), server), PptpNoCall);
    };
    let ends = [
        (0, message(CLEAR, 7, 0)),
        (1, message(DISCONNECTED, 0x80, 0)),
        (0, message(STOP, 0x0100, 0)),
        (1, message(STOP, 0x0100, 0)),
        (1, message(STOPPED, 0x0100, 0)),
        (1, b"no PPTP at all".to_vec()),
    ];
    for (side, end) in ends {
        let mut desk = Desk::with(&shared(ALG), 4, 3);
        let mut talk = Talk::called(&mut desk, (HOST, 4000), SERVER, (7, 0x80));
        talk.says(&mut desk, side, &end);
        gone(&mut desk, &talk, 0x80);
        if count(&desk, "ended") == 0 {
            // The next call of the same connection, with other identifiers.
            talk.calls(&mut desk, 9, 0x81);
            desk.tunnels_in(&gre(SERVER, talk.outside.0, talk.outside.1), (HOST, 9));
            desk.refused(INTERNAL, &gre(HOST, ip(SERVER), 0x80), PptpNoCall);
            desk.tunnels_out(&gre(HOST, ip(SERVER), 0x81), talk.outside.0);
        }
    }
    // A refused call is none.
    let mut desk = Desk::new(&shared(ALG));
    let mut talk = Talk::open(&mut desk, (HOST, 4000), SERVER);
    talk.starts(&mut desk);
    talk.says(&mut desk, 0, &message(CALL, 7, 0));
    let mut busy = message(CALLED, 0x80, talk.outside.1);
    busy[16] = 4;
    assert_eq!(talk.says(&mut desk, 1, &busy)[14..16], [0, 7]);
    gone(&mut desk, &talk, 0x80);
    talk.calls(&mut desk, 7, 0x81);
    // The session: by its timer, whether housekeeping has been there or not.
    desk.lab.advance(7_000_000);
    desk.tunnels_in(&gre(SERVER, talk.outside.0, talk.outside.1), (HOST, 7));
    desk.tunnels_out(&gre(HOST, ip(SERVER), 0x81), talk.outside.0);
    desk.lab.advance_silently(500_000);
    desk.refused(EXTERNAL, &gre(SERVER, talk.outside.0, talk.outside.1), PptpNoCall);
    desk.refused(INTERNAL, &gre(HOST, ip(SERVER), 0x81), PptpNoCall);
    desk.lab.advance(1_000);
    gone(&mut desk, &talk, 0x81);
    assert_eq!(count(&desk, "followed"), 0);
}

#[test]
fn what_is_sent_again_is_replaced_again_however_it_is_cut() {
    let mut desk = Desk::new(&shared(ALG));
    let mut talk = Talk::open(&mut desk, (HOST, 4000), SERVER);
    talk.starts(&mut desk);
    let id = talk.outside.1;
    let begin = talk.said;
    talk.calls(&mut desk, 0x0707, 0x80);
    for (side, sent, other) in [
        (0, message(CALL, 0x0707, 3), message(CALL, id, 3)),
        (1, message(CALLED, 0x80, id), message(CALLED, 0x80, 0x0707)),
    ] {
        let all = sent.len();
        for (from, to) in (0..all).flat_map(|f| [f + 1, f + 2, f + 5, all].map(|t| (f, t))) {
            let to = to.min(all);
            let at = begin[side] + from as u32;
            let arrived = talk.sends(&mut desk, side, at, &sent[from..to]);
            assert_eq!(arrived, other[from..to], "{from} to {to} of {side}");
        }
    }
    // Both messages of a client in one segment, and again together with something new.
    let clear = [message(ECHO, 1, 1), message(CLEAR, 0x0707, 0)].concat();
    let cleared = [message(ECHO, 1, 1), message(CLEAR, id, 0)].concat();
    let at = talk.said[0];
    assert_eq!(talk.says(&mut desk, 0, &clear), cleared);
    let more = [clear, message(ECHO, 2, 2)].concat();
    let arrived = talk.sends(&mut desk, 0, at, &more);
    assert_eq!(arrived, [cleared, message(ECHO, 2, 2)].concat());
    assert_eq!((count(&desk, "ended"), count(&desk, "calls")), (0, 0));
}

#[test]
fn what_is_cut_malformed_or_out_of_place_ends_it_for_good_and_passes_as_it_is() {
    let start = message(START, 0x0100, 0);
    let broken = |at: usize, byte: u8| {
        let mut broken = message(ECHO, 1, 1);
        broken[at] = byte;
        broken
    };
    let cases: Vec<(bool, Vec<u8>)> = vec![
        (false, b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        (false, message(CALL, 7, 0)),
        (false, message(STARTED, 0x0100, 0)),
        (false, start[..155].to_vec()),
        (false, [&start[..], &[0][..]].concat()),
        (true, message(ECHO, 1, 1)[..15].to_vec()),
        (true, message(CALL, 7, 0)[..14].to_vec()),
        (true, broken(1, 17)),
        (true, broken(3, 2)),
        (true, broken(4, 0)),
        (true, broken(7, 0)),
        (true, broken(9, 0)),
        (true, broken(9, 16)),
        (true, vec![0]),
    ];
    for (started, bad) in cases {
        let mut desk = Desk::new(&shared(ALG));
        let mut talk = Talk::open(&mut desk, (HOST, 4000), SERVER);
        if started {
            talk.starts(&mut desk);
        }
        assert_eq!(talk.says(&mut desk, 0, &bad), bad);
        assert_eq!(count(&desk, "ended"), 1, "{bad:02x?}");
        // Nothing helps afterwards.
        for (side, kind) in [(0, START), (1, STARTED), (0, CALL), (1, CALLED)] {
            let said = message(kind, 7, talk.outside.1);
            assert_eq!(talk.says(&mut desk, side, &said), said);
        }
        assert_eq!((count(&desk, "calls"), count(&desk, "passed")), (0, 0));
        desk.refused(EXTERNAL, &gre(SERVER, talk.outside.0, talk.outside.1), PptpNoCall);
    }
    // The server speaks first, or refuses to talk.
    for (client_first, bad) in [
        (false, message(STARTED, 0x0100, 0)),
        (true, {
            let mut refusal = message(STARTED, 0x0100, 0);
            refusal[14] = 2;
            refusal
        }),
    ] {
        let mut desk = Desk::new(&shared(ALG));
        let mut talk = Talk::open(&mut desk, (HOST, 4000), SERVER);
        if client_first {
            talk.says(&mut desk, 0, &start);
        }
        assert_eq!(talk.says(&mut desk, 1, &bad), bad);
        assert_eq!(count(&desk, "ended"), 1);
    }
}

/// S5: a page makes a browser talk to a server of its own at port 1723, which plays along.
#[test]
fn a_browser_that_is_made_to_talk_to_port_1723_opens_nothing() {
    let body = [message(START, 0x0100, 0), message(CALL, 7, 0)].concat();
    let post = b"POST / HTTP/1.1\r\nHost: 198.51.100.7:1723\r\nContent-Length: 324\r\n\r\n";
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &body].concat();
    // TURN over TCP begins with an allocation (RFC 8656).
    let turn = [&[0, 3, 0, 8, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12], &body].concat();
    for begin in [&post[..], &hello, &turn] {
        let mut desk = Desk::new(&shared(ALG));
        let mut talk = Talk::open(&mut desk, (HOST, 4000), SERVER);
        assert_eq!(talk.says(&mut desk, 0, begin), begin);
        // The rest at segment boundaries of the page's choice, with the answers it wants.
        for (side, kind) in [(0, START), (1, STARTED), (0, CALL), (1, CALLED)] {
            let said = message(kind, 7, talk.outside.1);
            assert_eq!(talk.says(&mut desk, side, &said), said, "byte by byte as it came");
        }
        desk.refused(EXTERNAL, &gre(SERVER, talk.outside.0, talk.outside.1), PptpNoCall);
        desk.refused(EXTERNAL, &gre(SERVER, talk.outside.0, 7), PortNotLent);
        desk.refused(INTERNAL, &gre(HOST, ip(SERVER), 7), PptpNoCall);
        assert_eq!((count(&desk, "calls"), desk.mappings()), (0, 1));
    }
}

#[test]
fn a_segment_ahead_of_its_turn_comes_again_and_a_damaged_one_changes_nothing() {
    let mut desk = Desk::new(&shared(ALG));
    let mut talk = Talk::open(&mut desk, (HOST, 4000), SERVER);
    talk.starts(&mut desk);
    let id = talk.outside.1;
    for (side, said) in [(0, message(CALL, 7, 3)), (1, message(CALLED, 0x80, id))] {
        let port = if side == 0 { INTERNAL } else { EXTERNAL };
        let early = talk.segment(side, talk.said[side] + 16, &said);
        desk.refused(port, &early, AlgPptpOrder);
        // An acknowledgement alone passes, wherever it stands.
        let ahead = talk.segment(side, talk.said[side] + 16, b"");
        assert_eq!(desk.offer(port, &ahead).len(), 1);
        let mut damaged = desk.arriving(port, &talk.segment(side, talk.said[side], &said));
        damaged[60] ^= 1;
        assert_eq!(desk.lab.arrive(0, port, &damaged).len(), 1, "for the receiver to find");
        assert_eq!(count(&desk, "calls"), 0);
        talk.says(&mut desk, side, &said);
    }
    assert_eq!((count(&desk, "calls"), count(&desk, "ended")), (1, 0));
}

#[test]
fn a_control_segment_in_fragments_ends_it_and_what_must_be_replaced_does_not_pass_in_pieces() {
    let mut desk = Desk::new(&shared(ALG));
    let mut talk = Talk::open(&mut desk, (HOST, 4000), SERVER);
    talk.starts(&mut desk);
    let at = talk.said[0];
    let request = message(CALL, 7, 3);
    talk.says(&mut desk, 0, &request);
    // Sent again in pieces, before the server has acknowledged it.
    let mut again = talk.segment(0, at, &request);
    again.df = false;
    let sent: Frames = again
        .fragments(&[20 + 48, again.len()])
        .iter()
        .flat_map(|piece| desk.offer_bytes(INTERNAL, piece))
        .collect();
    assert_eq!((sent, desk.lab.drops(FragmentRefused)), (vec![], 2));
    talk.says(&mut desk, 1, &message(CALLED, 0x80, talk.outside.1));
    assert_eq!(count(&desk, "calls"), 1);
    // A call that is there ends with what cannot be read.
    let mut echo = talk.segment(0, talk.said[0], &message(ECHO, 1, 1));
    (echo.df, echo.identification) = (false, 8);
    let pieces = echo.fragments(&[20 + 24, echo.len()]);
    let sent: Frames = pieces.iter().flat_map(|p| desk.offer_bytes(INTERNAL, p)).collect();
    assert_eq!(sent.len(), 2);
    assert_eq!((count(&desk, "calls"), count(&desk, "ended")), (0, 1));
}

#[test]
fn an_identifier_that_is_given_again_is_the_new_calls() {
    let mut desk = Desk::new(&shared(ALG));
    let first = Talk::called(&mut desk, (HOST, 4000), SERVER, (7, 0x80));
    let second = Talk::called(&mut desk, (HOST, 4001), SERVER, (7, 0x81));
    desk.refused(EXTERNAL, &gre(SERVER, first.outside.0, first.outside.1), PptpNoCall);
    desk.tunnels_in(&gre(SERVER, second.outside.0, second.outside.1), (HOST, 7));
    let third = Talk::called(&mut desk, (HOST, 4002), SERVER, (8, 0x81));
    desk.refused(EXTERNAL, &gre(SERVER, second.outside.0, second.outside.1), PptpNoCall);
    desk.tunnels_out(&gre(HOST, ip(SERVER), 0x81), third.outside.0);
    assert_eq!((count(&desk, "calls"), count(&desk, "ended")), (1, 2));
    // Two of one subscriber side by side.
    Talk::called(&mut desk, (HOST, 4003), SERVER, (9, 0x82));
    assert_eq!(count(&desk, "calls"), 2);
    // A server that gives one identifier to two subscribers: both go on.
    let other = Talk::called(&mut desk, ("100.64.3.10", 4000), SERVER, (7, 0x82));
    assert_eq!(count(&desk, "calls"), 3);
    desk.tunnels_in(&gre(SERVER, other.outside.0, other.outside.1), ("100.64.3.10", 7));
    desk.tunnels_out(&gre("100.64.3.10", ip(SERVER), 0x82), other.outside.0);
    // Each ends by itself.
    for ms in [7_441_000, 1_000, 500_000] {
        desk.lab.advance(ms);
    }
    assert_eq!((count(&desk, "calls"), count(&desk, "followed"), desk.mappings()), (0, 0, 0));
}

#[test]
fn a_full_table_follows_no_more_and_one_subscriber_has_a_sixteenth() {
    let pool = "{ addresses: [203.0.113.200/29] }";
    let mut desk = Desk::new(&config(pool, &format!("system: {{ max-mappings: 4096 }}\n{ALG}")));
    for n in 0..6 {
        Talk::open(&mut desk, (HOST, 4000 + n), SERVER);
    }
    assert_eq!((count(&desk, "followed"), count(&desk, "unfollowed")), (4, 2));
    for n in 0..80u32 {
        let host = std::net::Ipv4Addr::from(ip("100.64.4.0") + n).to_string();
        Talk::open(&mut desk, (&host, 4000), SERVER);
    }
    assert_eq!((count(&desk, "followed"), count(&desk, "unfollowed")), (64, 22));
    // What is not followed is passed as it is.
    let mut talk = Talk::open(&mut desk, ("100.64.5.1", 4000), SERVER);
    talk.starts(&mut desk);
    let said = message(CALL, 7, 0);
    assert_eq!(talk.says(&mut desk, 0, &said), said);
    desk.refused(INTERNAL, &gre("100.64.5.1", ip(SERVER), 7), PptpNoCall);
}
