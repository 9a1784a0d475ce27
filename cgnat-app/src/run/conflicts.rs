//! Addresses that two hosts of a link use, in words.

use std::net::IpAddr;

use cgnat_core::config::Config;
use cgnat_core::housekeeping::Conflict;

/// What the operator should know of it.
pub fn sentence(config: &Config, conflict: Conflict) -> String {
    let name = |port: u8| config.ports()[usize::from(port)].name();
    let by = |address: IpAddr| if address.is_ipv6() { "Neighbour Discovery" } else { "ARP" };
    match conflict {
        Conflict::Taken { port, address, mac } => format!(
            "warning: port {}: {} uses {address} too, which is an address of this box ({}). It is \
             announced again, ten seconds apart at least; find who that is, or packets go there",
            name(port),
            hex(mac),
            by(address)
        ),
        Conflict::Disputed { port, address, used, mac } => format!(
            "warning: port {}: {} claims {address}, which is at {} ({}). That one is used as long as \
             it answers; if neither is wrong, give one in `neighbours`",
            name(port),
            hex(mac),
            hex(used),
            by(address)
        ),
        Conflict::Duplicate { port, address, mac } => format!(
            "error: port {}: {} has {address}, so the box does not use it (RFC 4862). It asks again \
             every minute; give one of the two another address",
            name(port),
            hex(mac)
        ),
        Conflict::Settled { port, address } => {
            format!("port {}: {address} is nobody else's any more and used now", name(port))
        }
        Conflict::Moved { port, address, from, to } => {
            format!("port {}: {address} is at {} now, it was at {}", name(port), hex(to), hex(from))
        }
    }
}

fn hex(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
