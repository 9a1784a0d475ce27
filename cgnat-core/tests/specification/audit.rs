//! The core's tables and counters against the specification.

use std::collections::BTreeMap;

use super::drive::Driver;
use super::ftp::Counts;
use super::nat::{Endpoint, Key, Pool};
use super::pptp::{Stage, TunnelCounts};
use super::realms::number;

impl Driver {
    /// Tables against the specification.
    pub fn audit(&mut self) -> Result<(), String> {
        let tick = self.lab.now.tick();
        for worker in &self.lab.workers {
            worker.shard().audit(tick).map_err(|e| format!("audit: {e}"))?;
        }
        let mut mappings = BTreeMap::new();
        let mut blocks = BTreeMap::new();
        for worker in &self.lab.workers {
            for mapping in worker.shard().mapping_list() {
                let (key, external) = (number(&mapping), mapping.external);
                mappings.insert(key, (key.0, external.address.0, external.port));
            }
            for (internal, external, first, _) in worker.shard().block_list() {
                blocks.insert((u32::from(external), first), u32::from(internal));
            }
        }
        let known: BTreeMap<Key, Endpoint> =
            self.nat.mappings.iter().map(|(key, mapping)| (*key, mapping.external)).collect();
        if mappings != known {
            return Err(format!("mappings differ: {mappings:?}\n{known:?}"));
        }
        if blocks != self.nat.blocks {
            return Err(format!("blocks differ: {blocks:?}\n{:?}", self.nat.blocks));
        }
        self.audit_claims()?;
        let now = self.ticks();
        let census = self.lab.port_census();
        let resting = self.nat.resting.values().filter(|due| now < **due).count() as u64;
        let used = self.nat.external.len();
        if (census.used, census.resting) != (used as u64, resting) {
            return Err(format!("{census:?}, {used} used, {resting} resting"));
        }
        let outside = self.lab.sum(|c| c.tcp_out_of_window.value());
        if outside != self.nat.out_of_window {
            return Err(format!("{outside} out of window, not {}", self.nat.out_of_window));
        }
        self.audit_ftp()?;
        self.audit_pptp()?;
        self.account()
    }

    fn audit_ftp(&self) -> Result<(), String> {
        let counts = Counts {
            unfollowed: self.lab.sum(|c| c.ftp_unfollowed.value()),
            ended: self.lab.sum(|c| c.ftp_ended.value()),
            replaced: self.lab.sum(|c| c.ftp_replaced.value()),
            passed: self.lab.sum(|c| c.ftp_passed.value()),
        };
        let followed = self.lab.sum(|c| c.ftp_followed.value());
        if (counts, followed) != (self.nat.ftp, self.nat.controls.len() as u64) {
            let (known, counted) = (self.nat.controls.len(), self.nat.ftp);
            return Err(format!("{followed} followed, not {known}; {counts:?}, not {counted:?}"));
        }
        let requests = self.lab.sum(|c| c.tftp_requests.value());
        match requests == self.nat.requests {
            true => Ok(()),
            false => Err(format!("{requests} requests, not {}", self.nat.requests)),
        }
    }

    fn audit_pptp(&self) -> Result<(), String> {
        let counts = TunnelCounts {
            unfollowed: self.lab.sum(|c| c.pptp_unfollowed.value()),
            ended: self.lab.sum(|c| c.pptp_ended.value()),
            passed: self.lab.sum(|c| c.pptp_passed.value()),
        };
        let tunnels = self.nat.tunnels.values();
        let known = (
            self.nat.tunnels.len() as u64,
            tunnels.filter(|tunnel| tunnel.stage == Stage::Connected).count() as u64,
        );
        let followed = self.lab.sum(|c| c.pptp_followed.value());
        let followed = (followed, self.lab.sum(|c| c.pptp_calls.value()));
        if (counts, followed) != (self.nat.pptp, known) {
            let counted = self.nat.pptp;
            return Err(format!("{followed:?}, not {known:?}; {counts:?}, not {counted:?}"));
        }
        Ok(())
    }

    /// rx + originated = tx + drops + arp_received + echo_answered + parked.
    fn account(&self) -> Result<(), String> {
        let sum =
            |value: fn(&cgnat_core::control::counters::WorkerCounters) -> u64| self.lab.sum(value);
        let received = sum(|c| c.ports.iter().map(|p| p.rx_packets.value()).sum());
        let sent = sum(|c| c.ports.iter().map(|p| p.tx_packets.value()).sum());
        let dropped = self.lab.all_drops();
        let (arp, echo) = (sum(|c| c.arp_received.value()), sum(|c| c.echo_answered.value()));
        let joined: u64 = sum(|c| c.ports.iter().map(|p| p.rx_joined.value()).sum());
        if joined != self.joined {
            return Err(format!("{joined} frames joined, not {}", self.joined));
        }
        let (made, parked) = (sum(|c| c.originated.value()), sum(|c| c.parked.value()));
        let parked = parked + sum(|c| c.fragments_waiting.value());
        if received + made == sent + dropped + arp + echo + parked {
            return Ok(());
        }
        Err(format!("{received} + {made} != {sent} + {dropped} + {arp} + {echo} + {parked}"))
    }

    /// Everything expires: nothing may be left.
    pub fn finish(&mut self) -> Result<(), String> {
        self.audit()?;
        for _ in 0..6 {
            self.lab.advance_silently(8 * 24 * 3600 * 1000);
            self.housekeeping();
            self.take_notices()?;
        }
        self.audit()?;
        self.nobody_drains()?;
        let census = self.lab.port_census();
        let ports = |pool: &Pool| {
            let excluded = pool.exclude_ports.len() * pool.addresses.len();
            let blocks = pool.blocks().len() * usize::from(pool.block_size);
            let of_pool = self.nat.own.values().filter(|own| pool.addresses.contains(&own.0));
            let ranges = of_pool.count() * pool.own.as_ref().map_or(0, |own| usize::from(own.each));
            (blocks * pool.addresses.len() + ranges - excluded) as u64 * 3
        };
        let all = self.nat.rules.pools.iter().map(ports).sum::<u64>() - self.nat.reserved_slots();
        if census.free != all || census.total() != all {
            return Err(format!("{census:?} of {all} ports in the end"));
        }
        let left =
            self.lab.sum(|c| c.blocks_in_use.value() + c.sessions.value() + c.subscribers.value());
        let left = left + self.lab.sum(|c| c.associations.value());
        if left != 0 || !self.nat.mappings.is_empty() {
            return Err(format!("{left} records, {} mappings left", self.nat.mappings.len()));
        }
        let given = self.lab.sum(|c| c.blocks_allocated.value());
        let back = self.lab.sum(|c| c.blocks_released.value());
        if given != back { Err(format!("{given} blocks given, {back} back")) } else { Ok(()) }
    }
}
