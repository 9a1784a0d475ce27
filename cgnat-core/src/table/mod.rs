//! The tables of a shard: plain indexed records in memory that the caller provides.
//!
//! Records have a fixed size, hold no pointers and refer to each other by index and
//! generation, so the same layout works on the heap, on huge pages and in a mapped file.
//! No table imports another; `path/` and `shard` put them together. Nothing here allocates
//! after construction. A full table refuses; it never grows, stalls or evicts.

pub mod association;
pub mod control_connection;
pub mod destination;
pub mod due;
pub mod fragment;
pub mod free_blocks;
pub mod hash;
pub mod identification;
pub mod index;
pub mod mapping;
pub mod port_block;
pub mod pptp_connection;
pub mod session;
pub mod slab;
pub mod subscriber;
