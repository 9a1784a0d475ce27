//! DHCP relays that renew their leases (RFC 2131), as a NAT sees them: very many subscribers,
//! all from one UDP source port to one server endpoint.
//!
//! In each round every subscriber asks once, from a socket bound to its own address, and is
//! answered once. Nothing is sent again, so each request without an answer is one that was
//! refused or lost. An answer is right only if it is the one to this subscriber's last request;
//! it also says which endpoint the server saw.

mod clients;
mod message;
mod server;

pub use clients::{LeaseOptions, LeaseReport, run_clients};
pub use server::{LeaseServerReport, run_server};
