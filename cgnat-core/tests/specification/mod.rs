//! The executable specification and what drives it.
//!
//! tests/tests/replay_specification.rs includes it as well, to hold the real program against it.

#![allow(dead_code)] // Each of the two uses a part.

pub mod associations;
pub mod audit;
pub mod broken;
pub mod create;
pub mod drive;
pub mod events;
pub mod exceptions;
pub mod fragments;
pub mod ftp;
pub mod ftp_events;
#[path = "../scenarios/leaks.rs"]
pub mod leaks;
pub mod limits;
pub mod mapping;
pub mod nat;
pub mod options;
pub mod overloading;
pub mod pptp;
pub mod pptp_events;
pub mod pptp_messages;
pub mod ranges;
pub mod realms;
pub mod reload;
pub mod sessions;
pub mod tftp;
pub mod wire;
pub mod world;
pub mod worlds;
