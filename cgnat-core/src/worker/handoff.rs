//! The note that goes with a packet from one worker to another.
//!
//! The worker that takes the packet does not trust it: it works out again whose packet it
//! is, and compares shard and generation.

use super::io::NOTE_BYTES;
use crate::time::Instant;

/// What the owner shall do with the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// From a subscriber: translate the source.
    Outbound = 1,
    /// From the Internet: translate the destination.
    Inbound,
    /// From a subscriber, source translated: translate the destination.
    Hairpin,
    /// A fragment from the Internet: keep its datagram's context.
    Keep,
    /// From a subscriber, without ports and untranslated: claim its tuple.
    Claim,
    /// Back to the subscriber's owner, because the claim was refused.
    ClaimRefused,
}

/// A hand-over note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// What to do.
    pub kind: Kind,
    /// Port that the packet arrived at.
    pub port: u8,
    /// Offset of the IPv4 header.
    pub offset: u16,
    /// Worker that it is for.
    pub to: u16,
    /// Generation of the block's owner, for inbound and hairpinned packets.
    pub generation: u16,
    /// Source and destination port of a fragment's datagram, for inbound and hairpinned ones;
    /// the external address of a claim, or the number of the reason why it was refused.
    pub ports: (u16, u16),
    /// NAT time at the worker that handed it over.
    pub at: Instant,
}

impl Note {
    /// Writes the note beside a packet.
    pub fn write(&self, note: &mut [u8; NOTE_BYTES]) {
        let Note { kind, port, offset, to, generation, ports, at } = *self;
        note[0] = kind as u8;
        note[1] = port;
        note[2..4].copy_from_slice(&offset.to_le_bytes());
        note[4..6].copy_from_slice(&to.to_le_bytes());
        note[6..8].copy_from_slice(&generation.to_le_bytes());
        note[8..16].copy_from_slice(&at.nanos().to_le_bytes());
        note[16..18].copy_from_slice(&ports.0.to_le_bytes());
        note[18..20].copy_from_slice(&ports.1.to_le_bytes());
    }

    /// Reads the note beside a packet; `None` if there is none.
    pub fn read(note: &[u8; NOTE_BYTES]) -> Option<Note> {
        let kind = match note[0] {
            1 => Kind::Outbound,
            2 => Kind::Inbound,
            3 => Kind::Hairpin,
            4 => Kind::Keep,
            5 => Kind::Claim,
            6 => Kind::ClaimRefused,
            _ => return None,
        };
        let half = |at: usize| u16::from_le_bytes([note[at], note[at + 1]]);
        let mut nanos = [0; 8];
        nanos.copy_from_slice(&note[8..16]);
        Some(Note {
            kind,
            port: note[1],
            offset: half(2),
            to: half(4),
            generation: half(6),
            ports: (half(16), half(18)),
            at: Instant::from_nanos(u64::from_le_bytes(nanos)),
        })
    }
}
