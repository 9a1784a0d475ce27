//! FTP control connections through the box: a client that sends as it likes, a server that
//! takes the stream in order and acknowledges it (RFC 959, RFC 2428, RFC 5382 S9a).

use cgnat_core::verdict::DropReason::{self, *};

use crate::desk::*;
use crate::wire::{Body, FIRST, Packet, checksum, ip, put};

const HOST: (&str, u16) = ("100.64.3.5", 4000);
const ALG: &str = "nat44: { alg: { ftp: true } }\n";
const FTP: (&str, u16) = (SERVER, 21);
/// Of the client and of the server, behind their SYNs.
const BEGIN: u32 = FIRST.wrapping_add(1);
const PORT: &[u8] = b"PORT 100,64,3,5,200,10\r\n";
/// The endpoint that it names.
const DATA: (&str, u16) = (HOST.0, 200 * 256 + 10);

fn on(pool: &str, more: &str) -> String {
    config(pool, &format!("nat44: {{ alg: {{ ftp: true }}{more} }}\n"))
}

fn alg() -> String {
    config("{ addresses: [203.0.113.200/29] }", ALG)
}

/// A segment that has left the box.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    sequence: u32,
    flags: u8,
    options: Vec<u8>,
    payload: Vec<u8>,
}

fn read(frame: &[u8]) -> Segment {
    let packet = &frame[14..];
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    assert_eq!(total, packet.len(), "nothing behind the packet");
    assert_eq!(checksum(&packet[..20]), 0);
    let mut covered = packet[12..20].to_vec();
    covered.extend([0, 6]);
    covered.extend((total as u16 - 20).to_be_bytes());
    covered.extend(&packet[20..]);
    assert_eq!(checksum(&covered), 0, "the checksum is right");
    let header = usize::from(packet[32] >> 4) * 4;
    Segment {
        sequence: u32::from_be_bytes(packet[24..28].try_into().unwrap()),
        flags: packet[33],
        options: packet[40..20 + header].to_vec(),
        payload: packet[20 + header..].to_vec(),
    }
}

/// A client, and what its server has got.
struct Dialog {
    desk: Desk,
    outside: (u32, u16),
    heard: Vec<u8>,
    /// Bytes that the server has said.
    said: u32,
    options: Vec<u8>,
}

fn packet(from: (&str, u16), to: (u32, u16), numbers: (u32, u32), payload: &[u8]) -> Packet {
    let mut packet = tcp_at(from, to, ACK, numbers);
    packet.payload = payload.to_vec();
    let Body::Tcp { options, .. } = &mut packet.body else { unreachable!() };
    options.clear();
    packet
}

impl Dialog {
    fn new(yaml: &str) -> Self {
        let mut dialog = Self::silent(yaml);
        dialog.answers(b"220 ready\r\n");
        dialog
    }

    /// Open; the server has not greeted.
    fn silent(yaml: &str) -> Self {
        let mut desk = Desk::new(yaml);
        let mut syn = tcp(HOST, server(21), SYN);
        syn.payload.clear();
        let outside = desk.goes_out(&syn);
        let mut answer = tcp_at(FTP, outside, SYN | ACK, (FIRST, BEGIN));
        answer.payload.clear();
        desk.comes_in(&answer, HOST);
        desk.goes_out(&packet(HOST, server(21), (BEGIN, BEGIN), b""));
        Self { desk, outside, heard: Vec::new(), said: 0, options: Vec::new() }
    }

    /// The client sends bytes that are the `at`-th of its stream.
    fn sends_with(&mut self, at: usize, payload: &[u8], more: u8) -> Vec<Segment> {
        let numbers = (BEGIN.wrapping_add(at as u32), BEGIN.wrapping_add(self.said));
        let mut packet = packet(HOST, server(21), numbers, payload);
        let Body::Tcp { flags, options, .. } = &mut packet.body else { unreachable!() };
        *flags |= more;
        options.clone_from(&self.options);
        let sent = self.desk.offer(INTERNAL, &packet);
        assert!(sent.iter().all(|(port, _)| *port == EXTERNAL));
        let left: Vec<Segment> = sent.iter().map(|(_, frame)| read(frame)).collect();
        for segment in &left {
            let at = segment.sequence.wrapping_sub(BEGIN) as i32;
            let known = self.heard.len() as i32 - at;
            if known >= 0 {
                self.heard.extend(segment.payload.iter().skip(known as usize));
            }
        }
        left
    }

    fn sends(&mut self, at: usize, payload: &[u8]) -> Vec<Segment> {
        self.sends_with(at, payload, 0)
    }

    /// The server acknowledges what it has got; how much of its stream the client hears of.
    fn acknowledged(&mut self) -> usize {
        self.acknowledges(self.heard.len() as u32, vec![]).0
    }

    /// The server acknowledges so much, with options; the client gets (number, options).
    fn acknowledges(&mut self, outer: u32, with: Vec<u8>) -> (usize, Vec<u8>) {
        let numbers = (BEGIN.wrapping_add(self.said), BEGIN.wrapping_add(outer));
        let mut packet = packet(FTP, self.outside, numbers, b"");
        let Body::Tcp { options, .. } = &mut packet.body else { unreachable!() };
        *options = with;
        let sent = self.desk.offer(EXTERNAL, &packet);
        assert_eq!((sent.len(), sent[0].0), (1, INTERNAL));
        let segment = read(&sent[0].1);
        assert_eq!(segment.sequence, numbers.0, "the server's own numbers stay");
        let inner = u32::from_be_bytes(sent[0].1[42..46].try_into().unwrap());
        (inner.wrapping_sub(BEGIN) as usize, segment.options)
    }

    /// The server says something; it reaches the client byte by byte as it is.
    fn answers(&mut self, payload: &[u8]) {
        let outer = BEGIN.wrapping_add(self.heard.len() as u32);
        let numbers = (BEGIN.wrapping_add(self.said), outer);
        let sent = self.desk.offer(EXTERNAL, &packet(FTP, self.outside, numbers, payload));
        assert_eq!((sent.len(), sent[0].0), (1, INTERNAL));
        assert_eq!(read(&sent[0].1).payload, payload);
        self.said += payload.len() as u32;
    }

    /// Sends the whole stream in pieces and again from what is acknowledged, as TCP does.
    fn sends_all(&mut self, stream: &[u8], pieces: &[usize]) {
        let ends = pieces.iter().copied().chain([stream.len()]);
        let mut at = self.acknowledged();
        for end in ends.filter(|end| *end > 0) {
            self.sends(at, &stream[at..end]);
            for _ in 0..4 {
                let acknowledged = self.acknowledged();
                if acknowledged >= end {
                    break;
                }
                self.sends(acknowledged, &stream[acknowledged..end]);
            }
            at = self.acknowledged();
            assert_eq!(at, end, "the client is told of all that it has sent");
        }
    }

    /// The endpoint that the last PORT the server got names.
    fn named(&self) -> (u32, u16) {
        let text = String::from_utf8_lossy(&self.heard).into_owned();
        let line = text.rsplit("PORT ").next().unwrap().lines().next().unwrap().to_owned();
        let n: Vec<u32> = line.split(',').map(|n| n.parse().unwrap()).collect();
        (n[..4].iter().fold(0, |sum, n| sum << 8 | n), (n[4] << 8 | n[5]) as u16)
    }

    fn count(&self, name: &str) -> u64 {
        self.desk.lab.sum(|c| {
            match name {
                "followed" => &c.ftp_followed,
                "unfollowed" => &c.ftp_unfollowed,
                "ended" => &c.ftp_ended,
                "replaced" => &c.ftp_replaced,
                _ => &c.ftp_passed,
            }
            .value()
        })
    }

    /// A SYN from outside to the endpoint that was named reaches the client, or is refused.
    fn connects(&mut self, from: (&str, u16), refused: Option<DropReason>) {
        let mut syn = tcp(from, self.named(), SYN);
        syn.payload.clear();
        match refused {
            None => self.desk.comes_in(&syn, DATA),
            Some(reason) => self.desk.refused(EXTERNAL, &syn, reason),
        }
    }
}

/// What the server gets of `stream`, if its only command is [`PORT`].
fn replaced(stream: &[u8], named: (u32, u16)) -> Vec<u8> {
    let [a, b, c, d] = named.0.to_be_bytes();
    let new = format!("PORT {a},{b},{c},{d},{},{}\r\n", named.1 >> 8, named.1 & 255);
    let at = stream.windows(PORT.len()).position(|w| w == PORT).unwrap();
    [&stream[..at], new.as_bytes(), &stream[at + PORT.len()..]].concat()
}

#[test]
fn by_default_nothing_is_changed_and_nothing_opened_5382_req_6() {
    let mut dialog = Dialog::new(&plain());
    dialog.sends_all(PORT, &[]);
    assert_eq!(dialog.heard, PORT);
    assert_eq!((dialog.desk.mappings(), dialog.count("followed")), (1, 0));
}

#[test]
fn a_port_command_names_a_mapping_that_the_server_reaches() {
    let mut dialog = Dialog::new(&alg());
    let stream = [&b"USER a\r\n"[..], PORT, b"LIST\r\n"].concat();
    dialog.sends_all(&stream, &[8, 8 + PORT.len()]);
    let named = dialog.named();
    assert_eq!(dialog.heard, replaced(&stream, named));
    assert_eq!(named.0, dialog.outside.0, "paired pooling");
    assert_eq!((dialog.desk.mappings(), dialog.count("replaced")), (2, 1));
    dialog.connects((SERVER, 20), None);
    // It is the mapping of that endpoint for everything (RFC 4787 REQ-1).
    assert_eq!(dialog.desk.goes_out(&tcp(DATA, server(80), SYN)), named);
}

#[test]
fn an_eprt_command_likewise() {
    let mut dialog = Dialog::new(&alg());
    dialog.sends_all(b"EPRT |1|100.64.3.5|51210|\r\n", &[]);
    let text = String::from_utf8(dialog.heard.clone()).unwrap();
    let parts: Vec<&str> = text.split('|').collect();
    assert_eq!((parts[0], parts[1], parts[4]), ("EPRT ", "1", "\r\n"));
    let named = (ip(parts[2]), parts[3].parse().unwrap());
    let mut syn = tcp((SERVER, 40_000), named, SYN);
    syn.payload.clear();
    dialog.desk.comes_in(&syn, DATA);
}

#[test]
fn the_stream_is_right_wherever_segments_are_cut() {
    let stream = [&b"USER a\r\n"[..], PORT, b"LIST\r\n"].concat();
    for cut in 0..=stream.len() {
        let mut dialog = Dialog::new(&alg());
        dialog.sends_all(&stream, &[cut]);
        assert_eq!(dialog.heard, replaced(&stream, dialog.named()), "cut at {cut}");
        dialog.connects((SERVER, 20), None);
    }
    let mut dialog = Dialog::new(&alg());
    dialog.sends_all(&stream, &(1..stream.len()).collect::<Vec<_>>());
    assert_eq!(dialog.heard, replaced(&stream, dialog.named()));
}

#[test]
fn a_client_that_waits_for_acknowledgements_goes_on_in_the_middle_of_a_command() {
    let mut dialog = Dialog::new(&alg());
    let left = dialog.sends(0, b"PORT 100,64");
    assert_eq!(left[0].payload, b"PORT ");
    assert_eq!(dialog.acknowledged(), 11, "of the half that is kept too");
    // Only what is kept: the blank again, which makes the server acknowledge.
    let left = dialog.sends(11, b",3,5");
    assert_eq!((left[0].sequence, &left[0].payload[..]), (BEGIN.wrapping_add(4), &b" "[..]));
    assert_eq!(dialog.acknowledged(), 15);
    dialog.sends(15, b",200,10\r\n");
    assert_eq!(dialog.acknowledged(), PORT.len());
    assert_eq!(dialog.heard, replaced(PORT, dialog.named()));
}

#[test]
fn what_is_repeated_is_treated_as_before() {
    let mut dialog = Dialog::new(&alg());
    let stream = [&b"USER a\r\n"[..], PORT, b"LIST\r\n"].concat();
    let end = 8 + PORT.len();
    dialog.sends(0, &stream[..8]);
    let first = dialog.sends(8, PORT);
    assert_eq!(dialog.sends(8, PORT), first, "lost behind the box");
    // Together with its neighbours, and in other pieces.
    assert_eq!(dialog.sends(0, &stream[..end])[0].sequence, BEGIN);
    for from in 0..end {
        for to in from + 1..=end {
            dialog.sends(from, &stream[from..to]);
        }
    }
    dialog.sends(end, &stream[end..]);
    assert_eq!(dialog.heard, replaced(&stream, dialog.named()));
    assert_eq!((dialog.count("replaced"), dialog.desk.mappings()), (1, 2));
}

#[test]
fn a_segment_ahead_of_its_turn_comes_again() {
    let mut dialog = Dialog::new(&alg());
    let ahead =
        packet(HOST, server(21), (BEGIN.wrapping_add(24), BEGIN.wrapping_add(11)), b"LIST\r\n");
    dialog.desk.refused(INTERNAL, &ahead, AlgFtpOrder);
    // An acknowledgement without data is not held up.
    assert_eq!(dialog.sends(24, b"").len(), 1);
    let stream = [PORT, b"LIST\r\n"].concat();
    dialog.sends_all(&stream, &[24]);
    assert_eq!(dialog.heard, replaced(&stream, dialog.named()));
}

#[test]
fn several_commands_one_after_the_other_and_in_one_segment() {
    let mut dialog = Dialog::new(&alg());
    let other = b"PORT 100,64,3,5,200,11\r\n";
    let stream = [PORT, b"LIST\r\n", other, b"NLST\r\n", PORT].concat();
    // All at once: the second waits for the first to be acknowledged.
    dialog.sends_all(&stream, &[]);
    let text = String::from_utf8(dialog.heard.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[1], lines[3]), (5, "LIST", "NLST"));
    assert!(lines[0] == lines[4] && lines[0] != lines[2]);
    assert_eq!((dialog.count("replaced"), dialog.desk.mappings()), (3, 3));
}

#[test]
fn longer_and_shorter_texts_keep_both_directions_in_step_5382_s9a() {
    let short = config(
        "{ addresses: [203.0.113.1], ports: 1024-1087, allocation: { block-size: 64 } }",
        ALG,
    );
    let long = config(
        "{ addresses: [203.0.113.200], ports: 25700-25955, allocation: { block-size: 256 } }",
        ALG,
    );
    for (yaml, port) in [(short, PORT), (long, PORT)] {
        let mut dialog = Dialog::new(&yaml);
        dialog.sends_all(&[port, b"LIST\r\n"].concat(), &[port.len()]);
        dialog.answers(b"200 ok\r\n150 here it comes\r\n");
        let stream = [port, b"LIST\r\n", b"QUIT\r\n"].concat();
        dialog.sends_all(&stream, &[port.len() + 6]);
        assert_eq!(dialog.heard, replaced(&stream, dialog.named()));
        assert_ne!(dialog.heard.len(), stream.len());
        // FIN from both sides is where each expects it: the session closes.
        let left = dialog.sends_with(stream.len(), b"", FIN);
        assert_eq!(left[0].sequence, BEGIN.wrapping_add(dialog.heard.len() as u32));
        let numbers =
            (BEGIN.wrapping_add(dialog.said), BEGIN.wrapping_add(dialog.heard.len() as u32 + 1));
        let mut fin = packet(FTP, dialog.outside, numbers, b"");
        let Body::Tcp { flags, .. } = &mut fin.body else { unreachable!() };
        *flags |= FIN;
        assert_eq!(dialog.desk.offer(EXTERNAL, &fin).len(), 1);
        assert_eq!(dialog.desk.lab.sum(|c| c.tcp_out_of_window.value()), 0);
        dialog.desk.lab.advance(241_000);
        assert_eq!((dialog.desk.mappings(), dialog.count("followed")), (0, 0));
    }
}

#[test]
fn a_reset_is_judged_in_the_numbers_of_its_side_5382_s9a() {
    let mut dialog = Dialog::new(&alg());
    dialog.sends_all(PORT, &[]);
    let heard = dialog.heard.len() as u32;
    let left = dialog.sends_with(PORT.len(), b"", RST);
    assert_eq!(left[0].sequence, BEGIN.wrapping_add(heard));
    assert_eq!(dialog.desk.lab.sum(|c| c.tcp_out_of_window.value()), 0);
    dialog.desk.lab.advance(241_000);
    assert_eq!(dialog.desk.mappings(), 0);
}

#[test]
fn received_blocks_are_put_into_the_clients_numbers_5382_s9a() {
    let mut dialog = Dialog::new(&alg());
    dialog.sends(0, PORT);
    let outer = dialog.heard.len() as u32;
    dialog.sends(PORT.len(), b"LIST\r\nNOOP\r\n");
    let blocks = |edges: &[(u32, u32)], lead: &[u8]| {
        let mut options = lead.to_vec();
        options.extend([5, 2 + 8 * edges.len() as u8]);
        for (left, right) in edges {
            options.extend(BEGIN.wrapping_add(*left).to_be_bytes());
            options.extend(BEGIN.wrapping_add(*right).to_be_bytes());
        }
        options.resize(options.len().next_multiple_of(4), 1);
        options
    };
    let end = PORT.len() as u32;
    // The command was lost, what follows has come; at even and odd places.
    for lead in [&[1, 1][..], &[1], &[]] {
        let (acknowledged, options) = dialog.acknowledges(0, blocks(&[(outer, outer + 6)], lead));
        assert_eq!((acknowledged, options), (0, blocks(&[(end, end + 6)], lead)));
        let two = [(outer, outer + 6), (outer + 8, outer + 12)];
        let (_, options) = dialog.acknowledges(5, blocks(&two, lead));
        assert_eq!(options, blocks(&[(end, end + 6), (end + 8, end + 12)], lead));
        // An edge within the text cannot be told: advice that is left out does no harm.
        let (_, options) = dialog.acknowledges(5, blocks(&[(outer - 3, outer + 6)], lead));
        assert_eq!(options, vec![1; options.len()]);
    }
}

#[test]
fn timestamps_stay_as_they_are() {
    let mut dialog = Dialog::new(&alg());
    let stamp = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    dialog.options.clone_from(&stamp);
    assert_eq!(dialog.sends(0, PORT)[0].options, stamp);
    let (_, options) = dialog.acknowledges(dialog.heard.len() as u32, stamp.clone());
    assert_eq!(options, stamp);
}

#[test]
fn what_grows_beyond_the_mtu_is_cut_and_comes_again() {
    let mut dialog = Dialog::new(&alg());
    let mut stream = PORT.to_vec();
    stream.extend(b"SITE ");
    stream.resize(1500 - 40 - 2, b'x');
    stream.extend(b"\r\n");
    let left = dialog.sends(0, &stream);
    assert_eq!(left[0].payload.len(), 1460, "no packet grows beyond the MTU");
    let grown = replaced(&stream, dialog.named());
    assert!(grown.len() > 1460);
    assert_eq!(dialog.heard, grown[..1460]);
    dialog.sends_all(&stream, &[]);
    assert_eq!(dialog.heard, grown);
}

#[test]
fn a_fin_whose_data_is_not_all_there_is_taken_off() {
    let mut dialog = Dialog::new(&alg());
    let both = [PORT, PORT].concat();
    let left = dialog.sends_with(0, &both, FIN);
    assert_eq!((left[0].flags & FIN, dialog.acknowledged()), (0, PORT.len() + 5));
    let left = dialog.sends_with(PORT.len() + 5, &both[PORT.len() + 5..], FIN);
    assert_eq!(left[0].flags & FIN, FIN);
    assert_eq!(dialog.acknowledged(), both.len());
}

/// Only what the sender itself listens on is opened (reliability: S5).
#[test]
fn a_bounce_a_low_port_and_what_is_no_command_pass_byte_by_byte() {
    for line in [
        "PORT 100,64,3,6,200,10\r\n",
        "PORT 10,255,0,1,200,10\r\n",
        "PORT 100,64,3,5,0,22\r\n",
        "EPRT |1|100.64.3.6|51210|\r\n",
        "PORT 100,64,3,5,200,10 x\r\n",
        "PORT 100,64,3,5,200,10\n",
        "STOR PORT 100,64,3,5,200,10\r\n",
    ] {
        let mut dialog = Dialog::new(&alg());
        dialog.sends_all(line.as_bytes(), &[]);
        assert_eq!(dialog.heard, line.as_bytes());
        assert_eq!((dialog.desk.mappings(), dialog.count("replaced")), (1, 0), "{line}");
    }
}

/// NAT slipstreaming: a browser is made to send a PORT command at a packet boundary (S5).
#[test]
fn a_browsers_request_opens_nothing_however_packets_are_cut() {
    let requests: [&[u8]; 5] = [
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT /a HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"\0\x01\0\x50\x21\x12\xa4\x42",
        b"USER x\r\nHost: x\r\n",
    ];
    for request in requests {
        let mut dialog = Dialog::new(&alg());
        let stream = [request, &[b'A'; 400], b"\r\n", PORT].concat();
        // The command begins a packet.
        dialog.sends_all(&stream, &[stream.len() - PORT.len()]);
        assert_eq!(dialog.heard, stream);
        assert_eq!((dialog.desk.mappings(), dialog.count("ended")), (1, 1));
    }
}

#[test]
fn without_a_greeting_nothing_is_opened() {
    for greeting in
        [&b""[..], b"HTTP/1.1 200 OK\r\n220 ready\r\n", b"SSH-2.0-x\r\n", b"120 wait\r\n"]
    {
        let mut dialog = Dialog::silent(&alg());
        if !greeting.is_empty() {
            dialog.answers(greeting);
        }
        dialog.sends_all(PORT, &[]);
        dialog.answers(b"220 ready\r\n");
        dialog.sends_all(&[PORT, PORT].concat(), &[PORT.len()]);
        assert_eq!((dialog.heard.len(), dialog.desk.mappings()), (2 * PORT.len(), 1));
    }
}

#[test]
fn behind_auth_and_epsv_all_everything_passes_as_it_is() {
    let mut dialog = Dialog::new(&alg());
    dialog.sends_all(b"AUTH TLS\r\n", &[]);
    dialog.answers(b"530 no\r\n");
    let stream = [&b"AUTH TLS\r\n"[..], PORT].concat();
    dialog.sends_all(&stream, &[10]);
    let before = dialog.heard.len();
    assert_eq!(dialog.count("replaced"), 1, "the server refused, the dialog goes on");
    let stream = [&stream[..], b"AUTH TLS\r\n"].concat();
    dialog.sends_all(&stream, &[34]);
    dialog.answers(b"234 go\r\n");
    let all = [&stream[..], PORT].concat();
    dialog.sends_all(&all, &[44]);
    assert_eq!(dialog.heard[before + 10..], *PORT, "with the offset of the first command");

    let mut dialog = Dialog::new(&alg());
    let stream = [&b"EPSV ALL\r\n"[..], PORT].concat();
    dialog.sends_all(&stream, &[10]);
    assert_eq!((dialog.heard, dialog.desk.mappings()), (stream, 1));
}

#[test]
fn passive_answers_pass_as_they_are() {
    let mut dialog = Dialog::new(&alg());
    dialog.sends_all(b"PASV\r\nEPSV\r\n", &[]);
    dialog.answers(b"227 Entering Passive Mode (198,51,100,9,4,1)\r\n");
    dialog.answers(b"229 Entering Extended Passive Mode (|||1025|)\r\n");
    assert_eq!(dialog.desk.mappings(), 1);
}

#[test]
fn filtering_admits_exactly_the_server_from_any_port_for_the_opening_time() {
    for word in ["address-dependent", "address-and-port-dependent"] {
        let mut dialog =
            Dialog::new(&on("{ addresses: [203.0.113.200/29] }", &format!(", filtering: {word}")));
        dialog.sends_all(PORT, &[]);
        dialog.connects(("9.9.9.9", 20), Some(Filtered));
        dialog.connects((SERVER, 20), None);
        dialog.connects((SERVER, 40_001), None);
        dialog.desk.lab.advance(241_000);
        assert_eq!(dialog.desk.mappings(), 1, "nobody has opened anything");
        dialog.connects((SERVER, 20), Some(NoMapping));
    }
}

#[test]
fn a_data_connection_outlives_the_expectation() {
    let mut dialog = Dialog::new(&on(
        "{ addresses: [203.0.113.200/29] }",
        ", filtering: address-and-port-dependent",
    ));
    dialog.sends_all(PORT, &[]);
    let named = dialog.named();
    dialog.connects((SERVER, 20), None);
    assert_eq!(dialog.desk.goes_out(&tcp(DATA, server(20), SYN | ACK)), named);
    let end = (BEGIN, FIRST.wrapping_add(24));
    dialog.desk.comes_in(&tcp_at((SERVER, 20), named, ACK, end), DATA);
    dialog.desk.lab.advance(600_000);
    assert_eq!(dialog.desk.mappings(), 2);
    dialog.desk.comes_in(&tcp_at((SERVER, 20), named, ACK, end), DATA);
    // The next connection needs another command.
    let mut syn = tcp((SERVER, 33_333), named, SYN);
    syn.payload.clear();
    dialog.desk.refused(EXTERNAL, &syn, Filtered);
}

#[test]
fn a_command_that_finds_no_port_passes_as_it_is_and_is_remembered() {
    let pool = "{ addresses: [203.0.113.0], ports: 1024-1087, allocation: { block-size: 64, max-blocks: 1 } }";
    let mut dialog = Dialog::new(&on(pool, ""));
    for port in 1..64 {
        dialog.desk.goes_out(&tcp((HOST.0, port), server(80), SYN));
    }
    dialog.sends_all(PORT, &[]);
    assert_eq!((dialog.heard.clone(), dialog.count("passed")), (PORT.to_vec(), 1));
    let refusals = dialog.desk.lab.refusals();
    let (_, of_host) = refusals.subscribers.first_key_value().unwrap();
    assert_eq!(of_host[0].reason, SubscriberPorts);
}

#[test]
fn limits_hold_for_what_a_command_opens() {
    let yaml = alg().replace("pool: main }", "pool: main, limits: { sessions: 3 } }");
    let mut dialog = Dialog::new(&yaml);
    let line = |n: u8| format!("PORT 100,64,3,5,200,{n:02}\r\n");
    let stream = (10..14).map(line).collect::<String>();
    dialog.sends_all(stream.as_bytes(), &[24, 48, 72]);
    assert_eq!((dialog.count("replaced"), dialog.count("passed")), (2, 2));
    assert!(dialog.heard.ends_with(line(13).as_bytes()));
}

#[test]
fn a_fragment_of_a_control_connection_passes_and_is_followed_no_more() {
    let mut dialog = Dialog::new(&alg());
    dialog.sends_all(PORT, &[]);
    let heard = dialog.heard.len() as u32;
    let numbers = (BEGIN.wrapping_add(PORT.len() as u32), BEGIN.wrapping_add(dialog.said));
    let mut whole = packet(HOST, server(21), numbers, b"NOOP\r\nNOOP\r\n").bytes();
    whole.truncate(20 + 24);
    put(&mut whole, 2, 44);
    put(&mut whole, 6, 0x2000);
    put(&mut whole, 10, 0);
    let sum = checksum(&whole[..20]);
    put(&mut whole, 10, sum);
    let sent = dialog.desk.offer_bytes(INTERNAL, &whole);
    assert_eq!(sent.len(), 1);
    let sequence = u32::from_be_bytes(sent[0].1[38..42].try_into().unwrap());
    assert_eq!(sequence, BEGIN.wrapping_add(heard), "in step all the same");
    assert_eq!(dialog.count("ended"), 1);
    let left = dialog.sends(PORT.len() + 12, PORT);
    assert_eq!(left[0].payload, PORT);
}

#[test]
fn a_damaged_segment_stays_damaged_and_opens_nothing() {
    let mut dialog = Dialog::new(&alg());
    let numbers = (BEGIN, BEGIN.wrapping_add(dialog.said));
    let mut bytes = packet(HOST, server(21), numbers, PORT).bytes();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    let sent = dialog.desk.offer_bytes(INTERNAL, &bytes);
    assert_eq!(sent[0].1[54..], bytes[40..]);
    assert_eq!(dialog.desk.mappings(), 1);
    dialog.sends_all(PORT, &[]);
    assert_eq!(dialog.count("replaced"), 1);
}

#[test]
fn who_finds_no_room_is_not_followed_and_works_as_without() {
    let small = "system: { max-mappings: 1_000 }\n";
    let mut desk =
        Desk::new(&config("{ addresses: [203.0.113.200/29] }", &format!("{small}{ALG}")));
    for n in 0..6 {
        let to = (ip("198.51.100.20") + n, 21);
        let mut syn = tcp(HOST, to, SYN);
        syn.payload.clear();
        let outside = desk.goes_out(&syn);
        let from = std::net::Ipv4Addr::from(to.0).to_string();
        let mut answer = tcp_at((&from, 21), outside, SYN | ACK, (FIRST, BEGIN));
        answer.payload.clear();
        desk.comes_in(&answer, HOST);
    }
    // A sixteenth of 64 for one subscriber.
    assert_eq!(desk.lab.sum(|c| c.ftp_followed.value()), 4);
    assert_eq!(desk.lab.sum(|c| c.ftp_unfollowed.value()), 2);
}
