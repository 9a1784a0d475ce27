//! Translated captures, decoded by tshark and held against the rules of the NAT.
//!
//! The input is four captures: what arrived at the appliance and what it sent, on both sides.
//! tshark decides what the headers say and whether checksums are right; the code under test is
//! not asked. What is checked:
//!
//! 1. every IPv4, TCP, UDP and ICMP checksum of what was sent;
//! 2. every packet sent is one that arrived, with nothing but endpoints, TTL and checksums
//!    changed and the TTL one lower, or one of the appliance's own;
//! 3. every packet that arrived was sent on, or is among the dropped and consumed;
//! 4. nothing on the external side carries subscriber space, or a source that is not of the pool;
//! 5. a subscriber has one external address (RFC 4787 REQ-2) and ports in at most so many blocks;
//!    a block has one subscriber;
//! 6. an internal endpoint has one external endpoint, whatever it talks to (RFC 4787 REQ-1); an
//!    external endpoint has one internal endpoint.
//!
//! Rule 6 holds while no mapping ends: captures must be shorter than the shortest timeout.
//! What ICMP errors quote is not compared.

mod rules;
mod tshark;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use anyhow::Result;
use ipnet::Ipv4Net;

pub use tshark::{Frame, Packet, Transport, read};

/// The four captures of a run.
#[derive(Debug, Clone, Copy)]
pub struct Captures<'a> {
    /// What arrived from the subscribers.
    pub internal_in: &'a Path,
    /// What arrived from the servers.
    pub external_in: &'a Path,
    /// What was sent to the subscribers.
    pub internal_out: &'a Path,
    /// What was sent to the servers.
    pub external_out: &'a Path,
}

/// What the appliance was configured to do.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Subscriber ranges.
    pub subscribers: Vec<Ipv4Net>,
    /// External addresses.
    pub pool: Vec<Ipv4Net>,
    /// The appliance's own addresses on both sides.
    pub own: Vec<Ipv4Addr>,
    /// First and last port that is lent.
    pub ports: (u16, u16),
    /// Ports per block.
    pub block_size: u16,
    /// Blocks per subscriber.
    pub max_blocks: usize,
}

/// Packets that the appliance says it did not send on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accounted {
    /// Dropped, over all reasons.
    pub dropped: u64,
    /// For the appliance itself: ARP, echo requests to its addresses.
    pub consumed: u64,
}

/// Which capture a frame is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Sent to the subscribers.
    Internal,
    /// Sent to the servers.
    External,
}

/// Protocol and endpoint; for ICMP the identifier stands for the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// IP protocol number.
    pub protocol: u8,
    /// Address and port.
    pub socket: SocketAddrV4,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.protocol {
            1 => "icmp",
            6 => "tcp",
            17 => "udp",
            _ => "ip",
        };
        write!(formatter, "{name} {}", self.socket)
    }
}

/// A rule that does not hold. Frames are counted from 1, as Wireshark does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// tshark says that a checksum is not right.
    Checksum(Side, u64, &'static str),
    /// A packet that did not arrive and is not of the appliance's own addresses.
    Unexplained(Side, u64),
    /// The TTL is not one lower than it was.
    TimeToLive(Side, u64),
    /// Subscriber space on the external side.
    Leak(u64),
    /// A source on the external side that is neither of the pool nor the appliance's own.
    ForeignSource(u64),
    /// Packets that arrived are neither sent on nor counted, or counted more than once.
    Unaccounted {
        /// Arrived, without an output.
        missing: u64,
        /// What the appliance counts as dropped or consumed.
        counted: u64,
    },
    /// A subscriber with several external addresses.
    SeveralAddresses(Ipv4Addr, BTreeSet<Ipv4Addr>),
    /// A port that the pool does not lend.
    PortNotLent(Endpoint),
    /// A subscriber with more blocks than allowed.
    TooManyBlocks(Ipv4Addr, usize),
    /// A block (external address, first port) with several subscribers.
    SharedBlock(SocketAddrV4, BTreeSet<Ipv4Addr>),
    /// An internal endpoint with several external ones.
    SeveralMappings(Endpoint, BTreeSet<Endpoint>),
    /// An external endpoint with several internal ones.
    SeveralOwners(Endpoint, BTreeSet<Endpoint>),
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |side: &Side, frame: &u64| match side {
            Side::Internal => format!("sent to subscribers, frame {frame}"),
            Side::External => format!("sent to servers, frame {frame}"),
        };
        fn list<T: fmt::Display>(items: &BTreeSet<T>) -> String {
            items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
        match self {
            Violation::Checksum(side, frame, layer) => {
                write!(formatter, "{}: {layer} checksum is wrong", at(side, frame))
            }
            Violation::Unexplained(side, frame) => {
                write!(formatter, "{}: no packet that arrived explains it", at(side, frame))
            }
            Violation::TimeToLive(side, frame) => {
                write!(formatter, "{}: TTL is not one lower", at(side, frame))
            }
            Violation::Leak(frame) => {
                write!(formatter, "{}: subscriber space", at(&Side::External, frame))
            }
            Violation::ForeignSource(frame) => {
                write!(formatter, "{}: source is not of the pool", at(&Side::External, frame))
            }
            Violation::Unaccounted { missing, counted } => write!(
                formatter,
                "{missing} packets arrived and were not sent on, but {counted} are counted as \
                 dropped or consumed"
            ),
            Violation::SeveralAddresses(subscriber, addresses) => {
                write!(formatter, "subscriber {subscriber} has addresses {}", list(addresses))
            }
            Violation::PortNotLent(endpoint) => write!(formatter, "{endpoint} is not lent"),
            Violation::TooManyBlocks(subscriber, count) => {
                write!(formatter, "subscriber {subscriber} has {count} port blocks")
            }
            Violation::SharedBlock(block, subscribers) => {
                write!(formatter, "block {block} has subscribers {}", list(subscribers))
            }
            Violation::SeveralMappings(internal, externals) => {
                write!(formatter, "{internal} is mapped to {}", list(externals))
            }
            Violation::SeveralOwners(external, internals) => {
                write!(formatter, "{external} belongs to {}", list(internals))
            }
        }
    }
}

/// What the captures show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Frames that arrived, both sides.
    pub arrived: u64,
    /// Frames that were sent, both sides.
    pub sent: u64,
    /// Packets translated from internal to external.
    pub outbound: u64,
    /// Packets translated from external to internal.
    pub inbound: u64,
    /// Packets translated from internal to internal.
    pub hairpinned: u64,
    /// Frames of the appliance's own: ARP, answers to pings.
    pub originated: u64,
    /// Frames that arrived without an output: dropped or consumed.
    pub not_sent_on: u64,
    /// Mappings seen.
    pub mappings: u64,
    /// Subscribers seen.
    pub subscribers: u64,
    /// Rules that do not hold.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{} frames arrived = {} outbound + {} inbound + {} hairpinned + {} not sent on",
            self.arrived, self.outbound, self.inbound, self.hairpinned, self.not_sent_on
        )?;
        writeln!(
            formatter,
            "{} frames sent, {} of the appliance's own; {} mappings of {} subscribers; {} \
             violations",
            self.sent,
            self.originated,
            self.mappings,
            self.subscribers,
            self.violations.len()
        )?;
        self.violations
            .iter()
            .take(20)
            .try_for_each(|violation| writeln!(formatter, "  {violation}"))
    }
}

/// Decodes the four captures by tshark and checks all rules. Without `accounted`, rule 3 is not
/// checked.
///
/// # Errors
/// A capture cannot be read, or tshark is missing. Rules that do not hold are in the report.
pub fn verify_translated(
    captures: Captures<'_>,
    rules: &Rules,
    accounted: Option<Accounted>,
) -> Result<Report> {
    let Captures { internal_in, external_in, internal_out, external_out } = captures;
    let frames = rules::Frames {
        internal_in: read(internal_in)?,
        external_in: read(external_in)?,
        internal_out: read(internal_out)?,
        external_out: read(external_out)?,
    };
    Ok(rules::check(&frames, rules, accounted))
}

#[cfg(test)]
mod tests;
