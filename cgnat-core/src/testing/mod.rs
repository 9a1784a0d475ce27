//! In-memory devices, packet builders and a laboratory of workers in one thread.
//!
//! Nothing here is used by the program; it is public so that tests of other crates can use
//! it too.

pub mod io;
pub mod lab;
pub mod memory;
pub mod packets;
pub mod round;
