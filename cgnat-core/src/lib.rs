//! The NAT itself: a state machine without clock, threads, files and devices that turns
//! (packet, now) into a verdict. See ARCHITECTURE.md for the whole picture.
//!
//! - [`shard`]: the NAT instance that one worker owns; [`path`]: a packet's way through it;
//! - [`table`]: records in provided memory; [`policy`]: pure decisions; [`packet`]: bytes;
//! - [`worker`]: ports, steering, hand-off, neighbours around a shard;
//! - [`housekeeping`]: finds what is due, lends port blocks, resolves neighbours;
//! - [`config`], [`layout`], [`space`]: what the operator asked for and what it takes.

#![forbid(unsafe_code)]

pub mod assembly;
pub mod config;
pub mod control;
pub mod endpoint;
pub mod housekeeping;
pub mod layout;
pub mod packet;
pub mod path;
pub mod policy;
pub mod refusals;
pub mod shard;
pub mod space;
pub mod table;
pub mod testing;
pub mod time;
pub mod verdict;
pub mod worker;
