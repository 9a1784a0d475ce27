//! The story of a packet through its shard. Each file is entered once.
//!
//! - `outbound`: from a subscriber; a hit is translated, a miss goes to `first_packet`;
//! - `association`: what has no ports, either way, at the subscriber's owner and at the keeper;
//! - `first_packet`: subscriber, port block, port, mapping;
//! - `beginning`: the same for plain packets of subscribers that have a port; these two create;
//! - `pairing`: which external address a new subscriber gets;
//! - `overloading`: flows that share external ports, where the configuration says so;
//! - `ports`: which port and which block a new mapping gets, and how a port comes to rest;
//! - `hit`: plain packets of mappings that exist, in steps;
//! - `inbound`: from the Internet or, hairpinned, from another subscriber;
//! - `fragments`: those behind the first, which bring no ports of their own;
//! - `static_mapping`: either way through a mapping that the configuration makes; no table;
//! - `icmp_error`: an error about a flow, either way; changes no table;
//! - `mss`: the segment size that a SYN offers;
//! - `realm`: which mapping of a subscriber a destination uses;
//! - `refusal`: remembering what a subscriber was refused;
//! - `session`: finding, opening and ending the sessions of a mapping, and its filtering;
//! - `ftp`, `pptp`, `tftp`: what their ALGs change and let in;
//! - `limits`: what one subscriber may take, asked and counted;
//! - `per_destination`: how many sessions a subscriber has with one remote address;
//! - `tcp`: what a TCP packet does to the session it belongs to;
//! - `ending`: the owner's side of expiry; the only place that frees.

mod association;
mod beginning;
mod ending;
mod first_packet;
mod fragments;
mod ftp;
mod hit;
mod icmp_error;
mod inbound;
mod limits;
mod mss;
mod outbound;
mod overloading;
mod pairing;
mod per_destination;
mod ports;
mod pptp;
mod realm;
mod refusal;
mod session;
mod static_mapping;
mod tcp;
mod tftp;

pub use ending::Proposal;
pub use hit::protocol_of;
pub use overloading::TRIES as SHARING_TRIES;
