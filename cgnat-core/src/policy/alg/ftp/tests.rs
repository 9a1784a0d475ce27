//! Dialogs byte by byte, cut everywhere, and what must not pass for one.

use super::*;

const HOST: u32 = 0x6440_0305;
const NEW: (u32, u16) = (0xcb00_71c8, 60_000);

/// Puts [`NEW`] in the place of any port of [`HOST`] from 1024 on.
fn replace(address: u32, port: u16) -> Result<Option<(u32, u16)>, ()> {
    Ok((address == HOST && port >= 1024).then_some(NEW))
}

fn greeted(first: u32) -> Dialog {
    let mut dialog = Dialog::new(first, 77);
    dialog.answer(77, b"220 ready\r\n");
    dialog
}

/// Sends `pieces` one after the other, each acknowledged at once, and repeats what was not
/// taken; returns what stands outside.
fn sent(dialog: &mut Dialog, first: u32, pieces: &[&[u8]]) -> Vec<u8> {
    let mut outside: Vec<u8> = Vec::new();
    let mut at = first;
    for piece in pieces {
        let end = at.wrapping_add(piece.len() as u32);
        for _ in 0..9 {
            let news = dialog.stream.next().wrapping_sub(at) as usize;
            dialog.take(&piece[news..], replace).expect("never refused");
            let leaving = dialog.stream.leaving(at, piece.len());
            let mut left = piece[..leaving.head].to_vec();
            if leaving.has_text {
                left.extend(dialog.stream.text());
            }
            left.extend(&piece[leaving.tail.0..leaving.tail.1]);
            // The server takes what it has not got.
            let known = outside.len() - leaving.sequence.wrapping_sub(first) as usize;
            outside.extend(left.iter().skip(known));
            dialog.stream.acknowledge(first.wrapping_add(outside.len() as u32));
            if dialog.stream.next() == end {
                break;
            }
        }
        assert_eq!(dialog.stream.next(), end, "{piece:?} was never taken whole");
        assert_eq!(dialog.stream.outer(end), first.wrapping_add(outside.len() as u32));
        at = end;
    }
    outside
}

const LINES: &[u8] = b"USER x\r\nPASS a b,c\r\nPORT 100,64,3,5,4,1\r\nLIST\r\n\
    eprt |1|100.64.3.5|50000|\r\nRETR PORT 1\r\nPORT 100,64,3,5,255,255\r\nQUIT\r\n";
const REPLACED: &[u8] = b"USER x\r\nPASS a b,c\r\nPORT 203,0,113,200,234,96\r\nLIST\r\n\
    eprt |1|203.0.113.200|60000|\r\nRETR PORT 1\r\nPORT 203,0,113,200,234,96\r\nQUIT\r\n";

#[test]
fn commands_are_replaced_wherever_segments_are_cut() {
    for first in [1, u32::MAX - 60] {
        for cut in 0..=LINES.len() {
            let (one, other) = LINES.split_at(cut);
            assert_eq!(sent(&mut greeted(first), first, &[one, other]), REPLACED, "{cut}");
        }
        let bytes: Vec<&[u8]> = LINES.chunks(1).collect();
        assert_eq!(sent(&mut greeted(first), first, &bytes), REPLACED);
    }
}

#[test]
fn a_second_command_waits_until_the_server_has_the_first() {
    let both = b"PORT 100,64,3,5,4,1\r\nPORT 100,64,3,5,4,2\r\n";
    let mut dialog = greeted(0);
    dialog.take(both, replace).expect("never refused");
    assert_eq!(dialog.stream.next(), 21 + 5, "up to the second argument");
    dialog.take(&both[26..], replace).expect("never refused");
    assert_eq!(dialog.stream.next(), 26);
    dialog.stream.acknowledge(dialog.stream.outer(26));
    dialog.take(&both[26..], replace).expect("never refused");
    assert_eq!(dialog.stream.next(), 42);
}

#[test]
fn what_is_no_whole_command_in_its_place_stays_as_it_is() {
    for line in [
        &b"PORT 100,64,3,6,4,1\r\n"[..],
        b"PORT 100,64,3,5,3,255\r\n",
        b"PORT 100,64,3,5,4,1 \r\n",
        b"PORT 100,64,3,5,4,1,1\r\n",
        b"PORT 100,64,3,5,4\r\n",
        b"PORT 100,64,3,5,4,256\r\n",
        b"PORT 100,64,3,5,4,0001\r\n",
        b"PORT 100,64,3,5,4,1\n",
        b"PORT  100,64,3,5,4,1\r\n",
        b"PORT 100.64.3.5,4,1\r\n",
        b"PORT\r\n",
        b"EPRT |2|::1|5000|\r\n",
        b"EPRT |1|100.64.3.5|65536|\r\n",
        b"EPRT |1|100.64.3.5|5000\r\n",
        b"EPRT |1,100.64.3.5|5000|\r\n",
        b"EPRT 111001006403055000\r\n",
        b"STOR PORT 100,64,3,5,4,1\r\n",
        b"SITE x\rPORT 100,64,3,5,4,1\r\n",
        b" PORT 100,64,3,5,4,1\r\n",
    ] {
        for cut in 0..line.len() {
            let mut dialog = greeted(9);
            let (one, other) = line.split_at(cut);
            assert_eq!(sent(&mut dialog, 9, &[one, other]), line, "cut at {cut}");
        }
    }
}

#[test]
fn what_is_not_ftp_ends_it_for_good() {
    let command = b"PORT 100,64,3,5,4,1\r\n";
    for line in [
        &b"POST / HTTP/1.1\r\n"[..],
        b"GET / HTTP/1.1\r\n",
        b"PUT / HTTP/1.1\r\n",
        b"HEAD / HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"Host: a\r\n",
        b"\r\n",
        b"\n",
        b"\x16\x03\x01\x02",
        b"\0\x01\0\x08\x21\x12\xa4\x42",
        b"USERX a\r\n",
        b"EPSV ALL\r\n",
    ] {
        let mut dialog = greeted(0);
        let left = sent(&mut dialog, 0, &[b"USER x\r\n", line, command]);
        assert!(dialog.is_over(), "{line:?}");
        assert_eq!(left, [b"USER x\r\n", line, command].concat());
    }
    // Before the greeting, or behind another one.
    let mut dialog = Dialog::new(0, 77);
    assert_eq!(sent(&mut dialog, 0, &[command]), command);
    dialog.answer(77, b"220 ready\r\n");
    assert_eq!(sent(&mut dialog, 21, &[command]), command);
    for greeting in ["SSH-2.0", "421 no", "HTTP/1.1 220 ", "2200"] {
        let mut dialog = Dialog::new(0, 77);
        dialog.answer(77, greeting.as_bytes());
        assert_eq!(dialog.is_over(), greeting != "2200", "{greeting}");
    }
}

#[test]
fn a_greeting_counts_from_the_first_byte_of_the_server_on() {
    let mut dialog = Dialog::new(0, u32::MAX);
    dialog.answer(1, b"220 later");
    dialog.answer(u32::MAX, b"2");
    dialog.answer(u32::MAX, b"22");
    assert_eq!(dialog.phase, Phase::Greeting as u8);
    dialog.answer(0, b"20-");
    assert_eq!(dialog.phase, Phase::Commands as u8);
}

#[test]
fn behind_auth_nothing_is_looked_at_unless_the_server_refuses_it() {
    let command: &[u8] = b"PORT 100,64,3,5,4,1\r\n";
    for (answer, goes_on) in [("234 go\r\n", false), ("334 more\r\n", false), ("500 no\r\n", true)]
    {
        let mut dialog = greeted(0);
        let auth = b"AUTH TLS\r\n";
        assert_eq!(sent(&mut dialog, 0, &[auth, command]), [auth, command].concat());
        dialog.answer(77, b"220 ready\r\n");
        assert_eq!(dialog.phase, Phase::Securing as u8, "the greeting again is no answer");
        dialog.answer(88, answer.as_bytes());
        assert_eq!(sent(&mut dialog, 31, &[command]) != command, goes_on, "{answer}");
    }
}

#[test]
fn telnet_commands_may_stand_before_a_line() {
    let mut dialog = greeted(0);
    sent(&mut dialog, 0, &[b"\xff\xf4\xff\xf2ABOR\r\n"]);
    assert!(!dialog.is_over());
}

#[test]
fn what_is_written_is_read_back() {
    for address in [0, u32::MAX, 0x0102_030a, 0xcb00_7163] {
        for port in [0, 1, 9, 10, 99, 100, 999, 1000, 9999, 10_000, 65_535] {
            for command in [Command::Port, Command::Eprt] {
                let text = written(command, (address, port));
                assert_eq!(argument(command, &text), Argument::Names(address, port));
                for cut in 0..text.len() {
                    assert_eq!(argument(command, &text[..cut]), Argument::Partial);
                }
            }
        }
    }
}
