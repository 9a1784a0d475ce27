//! What the box must do, one property per test, byte for byte and with exact counters.
//!
//! Numbers such as 4787-REQ-9 name the requirement that a test shows.

#![allow(clippy::unwrap_used)]

#[path = "scenarios/associations.rs"]
mod associations;
#[path = "scenarios/attacks.rs"]
mod attacks;
#[path = "scenarios/blocks.rs"]
mod blocks;
#[path = "scenarios/bypass.rs"]
mod bypass;
#[path = "scenarios/caps.rs"]
mod caps;
#[path = "scenarios/desk.rs"]
mod desk;
#[path = "scenarios/deterministic.rs"]
mod deterministic;
#[path = "scenarios/dhcp.rs"]
mod dhcp;
#[path = "scenarios/discovery.rs"]
mod discovery;
#[path = "scenarios/errors_of_the_box.rs"]
mod errors_of_the_box;
#[path = "scenarios/filtering.rs"]
mod filtering;
#[path = "scenarios/flow_floods.rs"]
mod flow_floods;
#[path = "scenarios/fragment_floods.rs"]
mod fragment_floods;
#[path = "scenarios/fragments.rs"]
mod fragments;
#[path = "scenarios/ftp.rs"]
mod ftp;
#[path = "scenarios/ftp_paths.rs"]
mod ftp_paths;
#[path = "scenarios/hairpinning.rs"]
mod hairpinning;
#[path = "scenarios/held_syns.rs"]
mod held_syns;
#[path = "scenarios/hits.rs"]
mod hits;
#[path = "scenarios/icmp_errors.rs"]
mod icmp_errors;
#[path = "scenarios/icmp_queries.rs"]
mod icmp_queries;
#[path = "scenarios/identification.rs"]
mod identification;
#[path = "scenarios/inbound_floods.rs"]
mod inbound_floods;
#[path = "scenarios/ipv6.rs"]
mod ipv6;
#[path = "scenarios/jumbo.rs"]
mod jumbo;
#[path = "scenarios/kernel.rs"]
mod kernel;
#[path = "scenarios/leaks.rs"]
mod leaks;
#[path = "scenarios/limits.rs"]
mod limits;
#[path = "scenarios/link.rs"]
mod link;
#[path = "scenarios/link_states.rs"]
mod link_states;
#[path = "scenarios/mapping.rs"]
mod mapping;
#[path = "scenarios/mss.rs"]
mod mss;
#[path = "scenarios/mtu.rs"]
mod mtu;
#[path = "scenarios/neighbours.rs"]
mod neighbours;
#[path = "scenarios/offloads.rs"]
mod offloads;
#[path = "scenarios/options.rs"]
mod options;
#[path = "scenarios/overload.rs"]
mod overload;
#[path = "scenarios/overloading.rs"]
mod overloading;
#[path = "scenarios/pools.rs"]
mod pools;
#[path = "scenarios/ports.rs"]
mod ports;
#[path = "scenarios/pptp.rs"]
mod pptp;
#[path = "specification/pptp_messages.rs"]
mod pptp_messages;
#[path = "scenarios/pptp_paths.rs"]
mod pptp_paths;
#[path = "scenarios/realms.rs"]
mod realms;
#[path = "scenarios/reload.rs"]
mod reload;
#[path = "scenarios/routes.rs"]
mod routes;
#[path = "scenarios/silence.rs"]
mod silence;
#[path = "scenarios/six.rs"]
mod six;
#[path = "scenarios/sizes.rs"]
mod sizes;
#[path = "scenarios/statics.rs"]
mod statics;
#[path = "scenarios/steering.rs"]
mod steering;
#[path = "scenarios/tcp.rs"]
mod tcp;
#[path = "scenarios/tcp_attacks.rs"]
mod tcp_attacks;
#[path = "scenarios/tftp.rs"]
mod tftp;
#[path = "scenarios/timers.rs"]
mod timers;
#[path = "specification/wire.rs"]
mod wire;
