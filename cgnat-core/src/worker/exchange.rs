//! What goes between workers, and between this worker and housekeeping.

use std::net::IpAddr;

use super::handoff::{Kind, Note};
use super::io::{Burst, PacketBuf, PacketIo};
use super::parking::AwaitsBlock;
use super::{COMMANDS_PER_POLL, TimeSource, Worker};
use crate::control::{Command, Event};
use crate::endpoint::ExternalEndpoint;
use crate::packet::ipv4::{self, Header, Transport};
use crate::space::{Location, Owner};
use crate::verdict::DropReason;

impl<I: PacketIo> Worker<I> {
    /// Puts a packet into the burst for its owner.
    pub(super) fn hand_over(&mut self, mut packet: I::Packet, note: Note) {
        self.count_hand_over(&packet, &note);
        note.write(packet.note());
        let to = usize::from(note.to);
        if self.hand_off[to].is_full() {
            self.flush_hand_off(to);
        }
        self.hand_off[to].push(packet);
    }

    /// By port, those that a better steered card would have spared: not what one subscriber
    /// sends to another, nor what no worker is steered to.
    fn count_hand_over(&self, packet: &I::Packet, note: &Note) {
        let counters = &self.counters.ports[usize::from(note.port)];
        let bytes = packet.bytes().get(usize::from(note.offset)..).unwrap_or_default();
        let outbound = match note.kind {
            Kind::Outbound => true,
            Kind::Inbound | Kind::Keep => false,
            Kind::Hairpin | Kind::Claim | Kind::ClaimRefused => return,
        };
        let addresses = ipv4::addresses(bytes);
        let steered_by = addresses.map(|(from, to)| if outbound { from } else { to });
        counters.handed_off.add(1);
        let is_missteered = steered_by.is_some_and(|by| self.steering.owner_of(by) != self.id);
        counters.missteered.add(u64::from(is_missteered));
    }

    pub(super) fn flush_hand_off(&mut self, to: usize) {
        let mut burst = std::mem::take(&mut self.hand_off[to]);
        let count = burst.len();
        self.io.hand_off(to as u16, &mut burst);
        self.counters.handed_off.add((count - burst.len()) as u64);
        for mut packet in burst.drain(..) {
            let port = Note::read(packet.note()).map_or(0, |note| usize::from(note.port));
            self.refuse(port, packet, DropReason::HandoffFull);
        }
        self.hand_off[to] = burst;
    }

    /// Takes what others handed here; believes nothing that the packet itself does not show.
    pub(super) fn take_handed(&mut self) -> usize {
        let mut burst: Burst<I::Packet> = Burst::new();
        self.io.take_handed(&mut burst);
        let count = burst.len();
        self.was_full |= burst.is_full();
        self.counters.handed_in.add(count as u64);
        self.take_handed_burst(&mut burst);
        count
    }

    /// One of them, the long way.
    pub(super) fn handed(&mut self, mut packet: I::Packet) {
        let Some(note) = Note::read(packet.note()) else {
            return self.drop_packet(packet, DropReason::OwnershipViolation);
        };
        let (port, offset) = (usize::from(note.port), usize::from(note.offset));
        if note.to != self.id
            || port >= self.forwarding.ports().len()
            || offset > packet.bytes().len()
        {
            return self.drop_packet(packet, DropReason::OwnershipViolation);
        }
        if self.time == TimeSource::Packets {
            self.now = self.now.max(note.at);
        }
        match note.kind {
            Kind::Keep | Kind::Outbound => match ipv4::fields(&packet.bytes()[offset..]) {
                Ok(header)
                    if note.kind == Kind::Keep
                        || header.is_fragment() && !self.goes_by_addresses(&header) =>
                {
                    return self.fragment_handed(&note, packet, &header);
                }
                _ => {}
            },
            Kind::Claim | Kind::ClaimRefused => return self.claim_handed(&note, packet),
            Kind::Inbound | Kind::Hairpin => {}
        }
        let inward = note.kind != Kind::Outbound;
        let read = self.reread(inward, &packet.bytes()[offset..], note.ports);
        let (header, transport) = match read {
            Ok(parsed) => parsed,
            Err(reason) => return self.refuse(port, packet, reason),
        };
        match self.is_mine(&note, &header, transport) {
            Ok(()) if note.kind == Kind::Outbound => {
                self.outbound(self.clock, port, packet, offset, &header, transport);
            }
            Ok(()) => self.inbound(note.kind, port, packet, offset, &header, transport),
            Err(reason) => self.refuse(port, packet, reason),
        }
    }

    /// A fragment whose datagram's context is to be kept here.
    fn fragment_handed(&mut self, note: &Note, packet: I::Packet, header: &Header) {
        let (port, offset) = (usize::from(note.port), usize::from(note.offset));
        let inbound = note.kind == Kind::Keep;
        if !header.is_fragment()
            || self.goes_by_addresses(header)
            || self.keeper_of(inbound, header) != self.id
        {
            return self.refuse(port, packet, DropReason::OwnershipViolation);
        }
        if let Err(reason) = ipv4::check_fragment(header) {
            return self.refuse(port, packet, reason);
        }
        self.fragment(inbound, port, packet, offset, header);
    }

    fn is_mine(&self, note: &Note, header: &Header, by: Transport) -> Result<(), DropReason> {
        if note.kind == Kind::Outbound {
            let mine = self.steering.owner_of(by.subscriber(header)) == self.id;
            return if mine { Ok(()) } else { Err(DropReason::OwnershipViolation) };
        }
        if let Some(worker) = self.worker_behind(by) {
            let mine = worker == self.id;
            return if mine { Ok(()) } else { Err(DropReason::OwnershipViolation) };
        }
        if let Some(tuple) = by.tuple(header) {
            let mine = self.keeper_of_tuple(tuple) == self.id;
            return if mine { Ok(()) } else { Err(DropReason::OwnershipViolation) };
        }
        let endpoint = ExternalEndpoint::new(header.destination, by.destination_port());
        let Location::Block(block) = self.shard.space.locate(endpoint) else {
            return Err(DropReason::OwnershipViolation);
        };
        match self.owners.owner(block) {
            Some(Owner { worker, generation }) if generation == note.generation => {
                if worker == self.id { Ok(()) } else { Err(DropReason::OwnershipViolation) }
            }
            _ => Err(DropReason::HandoffStale),
        }
    }

    /// Carries out what housekeeping asks: at most a few commands, and of those that end something
    /// as many as there are internal ports, which keeps up with what can begin in a poll.
    pub(super) fn take_commands(&mut self) -> usize {
        let (mut count, mut endings) = (0, 0);
        while count < COMMANDS_PER_POLL && endings < self.endings {
            // An answer must find room in the outbox before its question is taken.
            if self.outbox.is_full() {
                self.flush_outbox();
                if self.outbox.is_full() {
                    break;
                }
            }
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            count += 1;
            endings += usize::from(matches!(command, Command::Due(_)));
            self.carry_out(command);
        }
        count
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Due(items) => self.end_due(&items),
            Command::Lend(leases) => {
                for lease in leases {
                    self.shard.adopt(lease);
                }
                self.retry_block_waits();
            }
            Command::Denied(wish) => {
                self.shard.denied(wish, self.now.tick());
                self.retry_block_waits();
            }
            Command::Recall { wish, count, ticket } => {
                let leases = self.shard.give_back(wish, count);
                let sent = self.note_event(Event::Returned { ticket, leases });
                debug_assert!(sent, "take_commands has made room");
            }
            Command::Adopt(space) => {
                let (Ok(old) | Err(old)) = self.shard.adopt_space(space);
                let version = self.shard.space.version();
                let sent = self.note_event(Event::Adopted { version, old });
                debug_assert!(sent, "take_commands has made room");
            }
            Command::Route(routes) => {
                let version = routes.version();
                let old = self.routes.replace(routes);
                self.remember_by_next_hop();
                let sent = self.note_event(Event::Routed { version, old });
                debug_assert!(sent, "take_commands has made room");
            }
            Command::Withdraw => {
                let leases = self.shard.give_back_closed();
                let sent = self.note_event(Event::Withdrawn { leases });
                debug_assert!(sent, "take_commands has made room");
            }
            Command::TellRefusals(mut page) => {
                self.shard.refusals.fill(&mut page, self.now.tick());
                let sent = self.note_event(Event::RefusalsTold(page));
                debug_assert!(sent, "take_commands has made room");
            }
            Command::AskNeighbour { port, target, to } => match target {
                IpAddr::V4(target) => self.ask_by_arp(port.into(), target.into(), to),
                IpAddr::V6(target) => self.solicit(port.into(), target.into(), to),
            },
            Command::Announce { port, address } => match address {
                IpAddr::V4(address) => self.announce_by_arp(port.into(), address.into()),
                IpAddr::V6(address) => self.advertise_to_all(port.into(), address.into()),
            },
            Command::Probe { port, address } => self.probe(port.into(), address.into()),
            Command::Advance(now) => self.now = self.now.max(now),
            Command::Barrier => {
                let sent = self.note_event(Event::BarrierReached);
                debug_assert!(sent, "take_commands has made room");
            }
        }
    }

    /// Tries the packets that wait for a block once more; those that still must wait keep
    /// their place in time.
    fn retry_block_waits(&mut self) {
        for _ in 0..self.parking.block_waits() {
            let Some(waiting) = self.parking.next_block_wait() else {
                return;
            };
            let AwaitsBlock { packet, port, offset, since } = waiting;
            match self.reread(false, &packet.bytes()[offset..], (0, 0)) {
                Ok((header, transport)) => {
                    self.outbound(since, port, packet, offset, &header, transport);
                }
                Err(reason) => self.refuse(port, packet, reason),
            }
        }
    }

    /// Sends events and wishes; what finds the channel full stays for the next poll.
    pub(super) fn send_events(&mut self) {
        self.flush_outbox();
        while !self.outbox.is_full()
            && let Some(wish) = self.shard.next_wish()
        {
            self.outbox.push(Event::Wish(wish));
        }
        self.flush_outbox();
    }

    fn flush_outbox(&mut self) {
        while !self.outbox.is_empty() {
            let event = self.outbox.remove(0);
            if let Err(error) = self.events.try_send(event) {
                self.outbox.insert(0, error.into_inner());
                break;
            }
        }
    }
}
