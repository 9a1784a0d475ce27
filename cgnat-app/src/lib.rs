//! The parts of the `cgnat` program that tests can reach.

#![forbid(unsafe_code)]

pub mod check;
pub mod connect_test;
mod interfaces;
pub mod lookup;
pub mod machine;
mod netlink;
pub mod preflight;
pub mod run;
pub mod show;
