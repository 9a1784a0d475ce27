//! Overloaded ports of a block: shared by flows of its subscriber that the flow index knows.
//!
//! The slot of such a port holds the number of its flows, and whether one of them has ended
//! other than by FIN from both sides. It is in use until the last has ended.

use super::{BlockLease, OVERLOADED, PortUse, UNCLOSED, words_of_one};
use crate::endpoint::Protocol;

impl BlockLease {
    /// Makes a port that was just taken an overloaded one, with its first flow.
    ///
    /// # Panics
    /// If no mapping uses it, or the block has no overloaded ports.
    pub fn overload(&mut self, protocol: Protocol, port: u16) {
        let used = self.port_use(protocol, port);
        assert!(matches!(used, PortUse::Mapping(_)), "port {port} is {used:?}");
        let slot = self.slot_of(protocol, port);
        self.write(slot, OVERLOADED | 1);
        self.record.overloaded[protocol as usize] += 1;
        let (word, bit) = self.bit_of(protocol, port);
        self.overloaded[word] |= bit;
    }

    /// One more flow of an overloaded port.
    ///
    /// # Panics
    /// If it is none.
    pub fn share(&mut self, protocol: Protocol, port: u16) {
        let used = self.port_use(protocol, port);
        assert!(matches!(used, PortUse::Overloaded(_)), "port {port} is {used:?}");
        let slot = self.slot_of(protocol, port);
        self.write(slot, self.read(slot) + 1);
    }

    /// A flow of an overloaded port has ended, `closed` by both sides or not. After the last
    /// one says whether all were closed; then the caller ends the use of the port.
    ///
    /// # Panics
    /// If it is no overloaded port.
    pub fn end_flow(&mut self, protocol: Protocol, port: u16, closed: bool) -> Option<bool> {
        let PortUse::Overloaded(flows @ 1..) = self.port_use(protocol, port) else {
            panic!("port {port} has no flow to end");
        };
        let slot = self.slot_of(protocol, port);
        if !closed {
            self.write(slot, self.read(slot) | UNCLOSED);
        }
        self.write(slot, self.read(slot) - 1);
        if flows > 1 {
            return None;
        }
        self.record.overloaded[protocol as usize] -= 1;
        let (word, bit) = self.bit_of(protocol, port);
        self.overloaded[word] &= !bit;
        Some(self.read(slot) & UNCLOSED == 0)
    }

    /// Overloaded ports of `protocol`, each once, from a random one on; `random` is 32 random
    /// bits.
    pub fn overloaded(&self, protocol: Protocol, random: u32) -> impl Iterator<Item = u16> {
        let count = u32::from(self.record.overloaded[protocol as usize]);
        let words = match count {
            0 => &[][..],
            _ => {
                let words = words_of_one(self.record.size);
                &self.overloaded[protocol as usize * words..][..words]
            }
        };
        let first = ((u64::from(random) * u64::from(count)) >> 32) as usize;
        let ports = ones(words).map(|offset| self.record.first_port + offset as u16);
        ports.clone().skip(first).chain(ports.take(first))
    }
}

/// Places of the bits that are set.
fn ones(words: &[u64]) -> impl Iterator<Item = usize> + Clone {
    words.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(|(n, word)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros() as usize;
            left &= left.checked_sub(1)?;
            Some(n * 64 + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::port_choice::PortWish;
    use crate::table::port_block::PortCensus;
    use crate::table::port_block::tests::lease;
    use crate::time::Tick;

    #[test]
    fn an_overloaded_port_is_used_until_its_last_flow_ends_and_remembers_how_they_ended() {
        let mut lease = lease(128);
        lease.hold(1);
        let now = Tick(7);
        let take = |lease: &mut BlockLease| {
            let port = lease.take_port(Protocol::Tcp, 9, PortWish::Any, 1 << 30, now);
            lease.overload(Protocol::Tcp, port.expect("free"));
            port.expect("free")
        };
        let ports: Vec<u16> = (0..70).map(|_| take(&mut lease)).collect();
        for random in [0, 1 << 31, u32::MAX] {
            let mut listed: Vec<u16> = lease.overloaded(Protocol::Tcp, random).collect();
            assert_eq!(listed.len(), 70);
            listed.sort_unstable();
            let mut all = ports.clone();
            all.sort_unstable();
            assert_eq!(listed, all);
        }
        assert_eq!(lease.overloaded(Protocol::Udp, 5).count(), 0);
        assert_eq!(lease.census(now).used, 70);
        // One is closed well, one is not; what ends first is not forgotten.
        for (port, closed) in [(ports[0], true), (ports[1], false)] {
            lease.share(Protocol::Tcp, port);
            assert_eq!(lease.port_use(Protocol::Tcp, port), PortUse::Overloaded(2));
            assert_eq!(lease.end_flow(Protocol::Tcp, port, closed), None);
            assert_eq!(lease.port_use(Protocol::Tcp, port), PortUse::Overloaded(1));
            assert_eq!(lease.end_flow(Protocol::Tcp, port, true), Some(closed));
            lease.end_port(Protocol::Tcp, port, Some(Tick(50)));
            assert_eq!(lease.port_use(Protocol::Tcp, port), PortUse::Resting);
        }
        assert_eq!(lease.overloaded(Protocol::Tcp, 9).count(), 68);
        for port in &ports[2..] {
            assert_eq!(lease.end_flow(Protocol::Tcp, *port, true), Some(true));
            lease.end_port(Protocol::Tcp, *port, None);
        }
        assert_eq!(lease.census(now), PortCensus { free: 382, used: 0, resting: 2 });
        assert!(lease.overloaded.iter().all(|word| *word == 0));
    }
}
