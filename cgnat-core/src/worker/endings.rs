//! The end of what housekeeping found due.
//!
//! A mapping that was silent for minutes lies in no cache, and six lines have to do with its end.
//! So a message is looked at as a whole before it is carried out, as packets are in `hits`.

use arrayvec::ArrayVec;

use super::Worker;
use super::io::PacketIo;
use crate::control::{Due, PROPOSALS};
use crate::endpoint::Protocol;
use crate::path::Proposal;
use crate::table::due::Kind;

impl<I: PacketIo> Worker<I> {
    /// Ends those of `items` that are due.
    pub(super) fn end_due(&mut self, items: &[Due]) {
        self.look_at_ends(items);
        let now = self.now.tick();
        for (kind, slot) in items {
            if self.shard.propose(*kind, *slot, now) == Proposal::Ended {
                self.counters.ended.add(1);
            }
        }
    }

    /// Asks for what the ends of mappings will read and write: the record, its line of the index,
    /// subscriber, block, and port.
    fn look_at_ends(&self, items: &[Due]) {
        let slots =
            || items.iter().filter(|(kind, _)| *kind == Kind::Mapping).map(|(_, slot)| *slot);
        for (record, word) in slots().filter_map(|slot| self.shard.place_of(slot)) {
            I::will_write(record);
            I::will_write(word);
        }
        let now = self.now.tick();
        let mut ports = ArrayVec::<(u32, Protocol, u16), PROPOSALS>::new();
        for mapping in slots().filter_map(|slot| self.shard.used(slot)) {
            // Others were prolonged, and only their word changes.
            if mapping.is_expired(now) && !ports.is_full() {
                I::will_write(self.shard.bucket_with(mapping));
                I::will_write(self.shard.subscriber(mapping.subscriber));
                I::will_read(self.shard.lease_of(mapping.block));
                ports.push((mapping.block, mapping.key().protocol, mapping.external_port));
            }
        }
        for (block, protocol, port) in ports {
            if let Some(lease) = self.shard.lease_of(block) {
                let (record, taken) = lease.of_use(protocol);
                I::will_write(record);
                I::will_write(taken);
                lease.word_of(protocol, port).inspect(|word| I::will_write(*word));
            }
        }
    }
}
