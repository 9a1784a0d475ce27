//! Messages of a PPTP control connection as bytes (RFC 2637 section 2), from its text alone.

pub const START: u16 = 1;
pub const STARTED: u16 = 2;
pub const STOP: u16 = 3;
pub const STOPPED: u16 = 4;
pub const ECHO: u16 = 5;
pub const ECHOED: u16 = 6;
pub const CALL: u16 = 7;
pub const CALLED: u16 = 8;
pub const INCOMING: u16 = 9;
pub const INCOMING_ACCEPTED: u16 = 10;
pub const INCOMING_CONNECTED: u16 = 11;
pub const CLEAR: u16 = 12;
pub const DISCONNECTED: u16 = 13;
pub const WAN_ERROR: u16 = 14;
pub const LINK: u16 = 15;

const LENGTHS: [u16; 15] = [156, 156, 16, 16, 16, 20, 168, 32, 220, 24, 28, 16, 148, 40, 24];

/// A message of a kind with these two numbers behind its header: call identifiers, mostly. The
/// rest is as in a message that says yes, and filled with something.
pub fn message(kind: u16, first: u16, second: u16) -> Vec<u8> {
    let length = LENGTHS[usize::from(kind) - 1];
    let words = [length, 1, 0x1a2b, 0x3c4d, kind, 0, first, second];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    bytes.extend((bytes.len()..usize::from(length)).map(|at| (at * 7) as u8));
    match kind {
        // Version 1.0, and no error.
        START => bytes[12..14].copy_from_slice(&[1, 0]),
        STARTED => bytes[12..16].copy_from_slice(&[1, 0, 1, 0]),
        CALLED | INCOMING_ACCEPTED => bytes[16..18].copy_from_slice(&[1, 0]),
        _ => {}
    }
    bytes
}
