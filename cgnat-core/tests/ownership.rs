//! Whose is it? Forged hand-overs and requests are refused and change nothing, and the
//! libalias fault (a record freed under the wrong instance) does not happen.
//!
//! `CGNAT_HAIRPIN_SECONDS` lengthens the run with threads.

#![allow(clippy::unwrap_used)]

#[path = "ownership/forged.rs"]
mod forged;
#[path = "ownership/late.rs"]
mod late;
#[path = "ownership/threads.rs"]
mod threads;
