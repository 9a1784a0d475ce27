//! Own IPv6 addresses: whether somebody else has them (RFC 4862 section 5.4).
//!
//! Each is probed when the link of its port is found up for the first time, and used after a second
//! without objection. One that somebody else has is probed again every minute. What is in use stays so
//! while a link comes and goes, as with IPv4.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::Link;
use super::announcing::Announcing;
use super::conflicts::Conflicts;
use crate::control::Command;
use crate::packet::ethernet::Mac;
use crate::time::Instant;
use crate::worker::TimeSource;
use crate::worker::forwarding::{Forwarding, Ipv6Port, Own, State};

/// How long others may object (RFC 4861: RETRANS_TIMER).
const WAIT_MS: u64 = 1_000;

/// Until an address that somebody else has is probed again.
const AGAIN_MS: u64 = 60_000;

/// An own address that is not in use.
struct Probe {
    port: u8,
    address: u128,
    due: Instant,
    /// Others are asked; else the time to ask has not come.
    is_asked: bool,
    /// Somebody had it.
    was_duplicate: bool,
}

pub(super) struct Probing {
    forwarding: Arc<Forwarding>,
    waiting: Vec<Probe>,
}

impl Probing {
    /// In a replay there is nobody who could object.
    pub(super) fn new(forwarding: Arc<Forwarding>, time: TimeSource) -> Self {
        if time == TimeSource::Packets {
            let ports = 0..forwarding.ports().len();
            let ports = ports.filter_map(|port| forwarding.ipv6().port(port));
            ports.flat_map(Ipv6Port::own_addresses).for_each(|own| own.set(State::InUse));
        }
        Self { forwarding, waiting: Vec::new() }
    }

    /// The link of a port is up.
    pub(super) fn begin(&mut self, port: u8, announcing: &mut Announcing, clock: Instant) {
        let Some(own) = self.forwarding.ipv6().port(port.into()) else { return };
        self.waiting.retain(|probe| probe.port != port);
        for own in own.own_addresses() {
            let address = own.address();
            if own.state() == State::InUse {
                announcing.begin_with(port, ip(address), clock);
                continue;
            }
            let was_duplicate = own.state() == State::Duplicate;
            own.set(State::Tentative);
            self.waiting.push(Probe { port, address, due: clock, is_asked: false, was_duplicate });
        }
    }

    /// Somebody else shows an address of ours; whether it is in use and to be defended now.
    pub(super) fn taken(
        &mut self,
        port: u8,
        address: Ipv6Addr,
        mac: Mac,
        conflicts: &mut Conflicts,
        clock: Instant,
    ) -> bool {
        let of = (port, u128::from(address));
        let Some(own) = self.own(of) else { return false };
        if own.state() == State::InUse {
            return conflicts.taken(port, address.into(), mac, clock);
        }
        own.set(State::Duplicate);
        conflicts.duplicate(port, address.into(), mac, clock);
        let probes = self.waiting.iter_mut();
        for probe in probes.filter(|probe| (probe.port, probe.address) == of && probe.is_asked) {
            probe.is_asked = false;
            probe.was_duplicate = true;
            probe.due = clock.plus_millis(AGAIN_MS);
        }
        false
    }

    /// Asks, and takes into use what nobody has objected to.
    pub(super) fn run(
        &mut self,
        links: &mut [Link],
        announcing: &mut Announcing,
        conflicts: &mut Conflicts,
        clock: Instant,
    ) {
        let forwarding = self.forwarding.clone();
        self.waiting.retain_mut(|probe| {
            let Probe { port, address, due, is_asked, was_duplicate } = probe;
            let Some(own) = own_of(&forwarding, (*port, *address)) else { return false };
            if clock < *due || !links[0].has_room() {
                return true;
            }
            if *is_asked {
                own.set(State::InUse);
                announcing.begin_with(*port, ip(*address), clock);
                if *was_duplicate {
                    conflicts.settled(*port, ip(*address));
                }
                return false;
            }
            own.set(State::Tentative);
            links[0].send(Command::Probe { port: *port, address: (*address).into() });
            *is_asked = true;
            *due = clock.plus_millis(WAIT_MS);
            true
        });
    }

    fn own(&self, of: (u8, u128)) -> Option<&Own> {
        own_of(&self.forwarding, of)
    }
}

fn own_of(forwarding: &Forwarding, (port, address): (u8, u128)) -> Option<&Own> {
    forwarding.ipv6().port(port.into())?.own(address)
}

fn ip(address: u128) -> IpAddr {
    Ipv6Addr::from(address).into()
}
