//! Protocols without ports, as the specification understands them: a subscriber *holds* a flow,
//! and a flow *claims* a tuple, which one subscriber has at a time.

use std::collections::{BTreeMap, BTreeSet};

use cgnat_core::testing::io::MemoryPacket;
use cgnat_core::verdict::DropReason::{self, *};

use super::drive::Driver;
use super::events::{EXTERNAL, Event, Events, INTERNAL};
use super::limits::Bucket;
use super::nat::{Block, Filtering, Nat, Outcome, Rules, Seen, Subscriber, Ticks, after};
use super::wire::{Body, ESP, GRE, Packet, Protocol, SCTP, UDP, UDP_LITE, ip};

/// (protocol, internal or external address, remote address).
pub type Flow = (Protocol, u32, u32);

/// The address on the other side, and when it ends.
#[derive(Debug, Clone, Copy)]
pub struct Association {
    pub other: u32,
    deadline: Ticks,
}

impl Nat {
    /// Flows that a subscriber holds; `holds` has them by internal address, `claims` by external.
    pub fn holds_of(&self, internal: u32) -> impl Iterator<Item = &Flow> {
        self.holds.keys().filter(move |flow| flow.1 == internal)
    }

    /// Whether a packet is of a protocol that is dropped.
    pub fn is_unsupported(&self, packet: &Packet) -> bool {
        matches!(packet.body, Body::Bare { protocol } if !self.rules.carried.contains(&protocol))
    }

    /// The external address that the sender of a packet holds its flow under.
    pub fn hold(
        &mut self,
        packet: &Packet,
        now: Ticks,
        seen: &Seen,
    ) -> Result<Result<u32, DropReason>, String> {
        let flow = (packet.protocol(), packet.source, packet.destination);
        if flow.0 == ESP && !self.prolong_ike(packet.source, packet.destination, now) {
            self.holds.remove(&flow);
            return Ok(Err(EspWithoutIke));
        }
        let deadline = after(now, self.rules.other_s);
        if let Some(held) = self.holds.get_mut(&flow).filter(|held| now < held.deadline) {
            held.deadline = deadline;
            return Ok(Ok(held.other));
        }
        self.holds.remove(&flow);
        let Some((group, limits)) = self.group_of(flow.1) else {
            return Ok(Err(SourceNotSubscriber));
        };
        if let Some(AssociationTableFull) = seen.reason {
            // A record for each hold and each claim, wherever they are.
            let full = self.holds.len() + self.claims.len() >= self.rules.associations;
            return if full { Ok(Err(AssociationTableFull)) } else { Err("not full".into()) };
        }
        let realm = self.realm(flow.1, flow.0, (flow.2, 0));
        let id = (flow.1, realm);
        if !self.subscribers.contains_key(&id) {
            let elsewhere = self.blocks_elsewhere(id);
            if elsewhere > 0 {
                if let Err(reason) = self.admit_session(flow.1, flow.2, true, now) {
                    return Ok(Err(reason));
                }
                if limits.blocks.is_some_and(|most| elsewhere >= most) {
                    return Ok(Err(LimitBlocks));
                }
            }
            let pool = self.pool_for(group, realm, seen.block.map(|block| block.0));
            if let Some(justified) = self.refuses_pairing(pool, flow.1, seen) {
                let reason = seen.reason.ok_or("checked")?;
                return match justified && self.passed_over(group, id, None, seen).is_ok() {
                    true => Ok(Err(reason)),
                    false => Err(format!("{reason:?} is not justified")),
                };
            }
            let block = seen.block.ok_or("a pairing was due and there is none")?;
            self.passed_over(group, id, Some(pool), seen)?;
            self.adopt_pairing(pool, flow.1, block)?;
            self.buckets.entry(flow.1).or_insert_with(|| Bucket::full(&limits, now));
            let blocks = BTreeSet::from([block]);
            self.subscribers.insert(id, Subscriber { address: block.0, blocks });
            self.blocks.insert(block, flow.1);
        } else if let Err(reason) = self.admit_session(flow.1, flow.2, true, now) {
            return Ok(Err(reason));
        }
        let other = self.subscribers[&id].address;
        self.holds.insert(flow, Association { other, deadline });
        self.spend(flow.1, now);
        Ok(Ok(other))
    }

    /// Claims the tuple of a held flow; if it is another subscriber's, the hold ends.
    pub fn claim(&mut self, packet: &Packet, external: u32, now: Ticks) -> Result<(), DropReason> {
        let (protocol, internal, remote) = (packet.protocol(), packet.source, packet.destination);
        let tuple = (protocol, external, remote);
        match self.claims.get(&tuple).filter(|claim| now < claim.deadline) {
            Some(claim) if claim.other != internal => {
                self.holds.remove(&(protocol, internal, remote));
                Err(if protocol == ESP { EspConflict } else { AssociationConflict })
            }
            _ => {
                let deadline = after(now, self.rules.other_s);
                self.claims.insert(tuple, Association { other: internal, deadline });
                Ok(())
            }
        }
    }

    /// The external address of the flow that an error from inside is about.
    pub fn held(&self, about: &Packet, now: Ticks) -> Option<u32> {
        let flow = (about.protocol(), about.destination, about.source);
        self.holds.get(&flow).filter(|held| now < held.deadline).map(|held| held.other)
    }

    /// Whose a tuple is.
    pub fn claimant(&self, tuple: Flow, now: Ticks) -> Option<u32> {
        self.claims.get(&tuple).filter(|claim| now < claim.deadline).map(|claim| claim.other)
    }

    /// ESP keeps IKE alive, with this gateway where that is known.
    fn prolong_ike(&mut self, internal: u32, gateway: u32, now: Ticks) -> bool {
        let key = self.key_with((UDP, internal, 500), (gateway, 500), now);
        let deadline = after(now, self.rules.other_s);
        let Some(mapping) = self.mappings.get(&key).filter(|mapping| !mapping.is_expired(now))
        else {
            return false;
        };
        let remote = match mapping.filtering {
            Filtering::Anybody => {
                if let Some(mapping) = self.mappings.get_mut(&key) {
                    mapping.deadline = mapping.deadline.max(deadline);
                }
                return true;
            }
            Filtering::Address => (gateway, 0),
            Filtering::AddressAndPort => (gateway, 500),
        };
        self.meet(key, remote, now);
        let Some(mapping) = self.mappings.get_mut(&key) else { return false };
        let session = match &mut mapping.first {
            Some((with, session)) if *with == remote => Some(session),
            _ => mapping.further.get_mut(&remote),
        };
        session.map(|session| session.deadline = session.deadline.max(deadline)).is_some()
    }

    /// A packet of a tuple, or an error about one.
    pub fn inward_bare(&mut self, packet: &Packet, hairpinned: bool, now: Ticks) -> Outcome {
        let (tuple, reason) = match &packet.body {
            Body::Error { about, .. } => {
                ((about.protocol(), about.source, about.destination), IcmpNoMapping)
            }
            _ => ((packet.protocol(), packet.destination, packet.source), NoAssociation),
        };
        if !self.is_external(tuple.1) {
            return Outcome::Drop(DestinationUnknown);
        }
        if !self.rules.carried.contains(&tuple.0) {
            let is_error = reason == IcmpNoMapping;
            return Outcome::Drop(if is_error { reason } else { ProtocolUnsupported });
        }
        if packet.ttl <= 1 && !hairpinned {
            return Outcome::Drop(TtlExpired);
        }
        let Some(internal) = self.claimant(tuple, now) else { return Outcome::Drop(reason) };
        if packet.df && packet.len() > self.rules.mtu_internal {
            return Outcome::Drop(TooBig);
        }
        let mut packet = packet.clone();
        packet.set_destination((internal, 0));
        packet.ttl -= u8::from(!hairpinned);
        self.leaves(packet, INTERNAL)
    }

    /// A packet from inside that is due to leave.
    pub fn outbound_bare(
        &mut self,
        packet: &Packet,
        now: Ticks,
        seen: &Seen,
    ) -> Result<Outcome, String> {
        let held = self.hold(packet, now, seen)?;
        let claimed =
            held.and_then(|external| self.claim(packet, external, now).map(|()| external));
        let external = match claimed {
            Ok(external) => external,
            Err(reason) => return Ok(Outcome::Drop(reason)),
        };
        let mut out = Packet { source: external, ttl: packet.ttl - 1, ..packet.clone() };
        out.hide_route(external);
        Ok(match self.is_external(packet.destination) {
            true => self.inward(&out, true, now),
            false => self.leaves(out, EXTERNAL),
        })
    }

    /// Forgets what is over. A subscriber that holds a flow keeps one block for its pairing,
    /// which the core chose.
    pub fn end_associations(&mut self, now: Ticks) {
        self.holds.retain(|_, held| now < held.deadline);
        self.claims.retain(|_, claim| now < claim.deadline);
    }

    /// Blocks that keep a pairing alone, of those that the core still has.
    pub fn pairing_blocks(&self, busy: &BTreeSet<Block>, core: &[(u32, Block)]) -> Vec<Block> {
        let mut kept = Vec::new();
        for ((internal, realm), held) in &self.subscribers {
            let is_its = |flow: &Flow| {
                flow.1 == *internal && self.realm(flow.1, flow.0, (flow.2, 0)) == *realm
            };
            let holds = self.holds.keys().any(is_its);
            if holds && held.blocks.iter().all(|block| !busy.contains(block)) {
                let has =
                    |(of, block): &&(u32, Block)| of == internal && held.blocks.contains(block);
                kept.extend(core.iter().find(has).map(|(_, block)| *block));
            }
        }
        kept
    }
}

impl Rules {
    /// The key `other-protocols` behind others of its section.
    pub fn carried_yaml(&self) -> String {
        let carried: Vec<String> =
            self.carried.iter().map(|protocol| format!("{protocol}: carry")).collect();
        format!(", other-protocols: {{ {} }}", carried.join(", "))
    }
}

impl Events {
    fn bare_protocol(&mut self, nat: &Nat) -> Protocol {
        if nat.rules.carried.is_empty() || self.one_in(30) {
            return SCTP;
        }
        self.pick(&[GRE, GRE, ESP, UDP_LITE])
    }

    /// A packet without ports, either way; IKE now and then.
    pub fn bare(&mut self, nat: &Nat) -> Event {
        let worker = self.worker();
        let protocol = self.bare_protocol(nat);
        let (host, remote) = (self.subscriber(), self.remote().0);
        if self.one_in(6) {
            let packet = self.packet(UDP, (host, 500), (remote, 500));
            return Event::Arrive { worker, port: INTERNAL, packet };
        }
        let tuple = self.tuple(nat, protocol);
        let (port, from, to) = match self.below(8) {
            0..3 => (INTERNAL, host, remote),
            // Again, from the same host or from another one.
            3 => (INTERNAL, nat.claims.get(&tuple).map_or(host, |claim| claim.other), tuple.2),
            4 => (INTERNAL, host, tuple.2),
            // To whom it may have, or the other half of a hairpin.
            5 => (INTERNAL, host, tuple.1),
            6 => (EXTERNAL, remote, tuple.1),
            _ => (EXTERNAL, tuple.2, tuple.1),
        };
        let mut packet = self.packet(UDP, (from, 1), (to, 1));
        packet.body = Body::Bare { protocol };
        if self.one_in(8) {
            return self.bare_error(worker, port, packet);
        }
        if packet.options.is_empty() && packet.payload.len() > 8 && self.one_in(6) {
            packet.df = false;
            packet.payload.truncate(400);
            // In units of eight bytes, none of them empty.
            let units = (packet.len() as u32 - 21) / 8;
            let first = 28 + 8 * self.below(units) as usize;
            let cuts = vec![first, packet.len()];
            let order = if self.one_in(2) { [0, 1] } else { [1, 0] };
            let order = order.map(|n| (n, self.worker())).to_vec();
            return Event::Pieces { port, packet, cuts, order };
        }
        Event::Arrive { worker, port, packet }
    }

    /// A tuple that somebody has, or had, if there is any.
    fn tuple(&mut self, nat: &Nat, protocol: Protocol) -> Flow {
        let from = (protocol, ip("203.0.113.0") + self.below(80), 0);
        let found = nat.claims.range(from..).next().map(|(tuple, _)| *tuple);
        let pool = &nat.rules.pools[0];
        let first = pool.addresses.iter().next().copied().unwrap_or_default();
        found.unwrap_or((protocol, first, self.remote().0))
    }

    /// An error about a packet that went the other way.
    fn bare_error(&mut self, worker: usize, port: usize, packet: Packet) -> Event {
        let mut about = packet.clone();
        (about.source, about.destination) = (packet.destination, packet.source);
        about.options.clear();
        // A quote holds eight bytes at least.
        about.payload.resize(about.payload.len().max(8), 3);
        let packet = self.error_about(about, port);
        Event::Arrive { worker, port, packet }
    }
}

impl Driver {
    /// Claims of all keepers against the specification.
    pub fn audit_claims(&self) -> Result<(), String> {
        let claims: BTreeMap<Flow, u32> = self
            .lab
            .workers
            .iter()
            .flat_map(|worker| worker.shard().claim_list())
            .map(|(protocol, internal, external, remote)| ((protocol, external, remote), internal))
            .collect();
        let claimed: BTreeMap<Flow, u32> =
            self.nat.claims.iter().map(|(tuple, claim)| (*tuple, claim.other)).collect();
        if claims != claimed {
            return Err(format!("claims differ: {claims:?}\n{claimed:?}"));
        }
        Ok(())
    }

    /// What the specification makes of a packet.
    pub(super) fn outcome(
        &mut self,
        port: usize,
        packet: &Packet,
        dropped: &[DropReason],
        now: Ticks,
    ) -> Result<Outcome, String> {
        if port == EXTERNAL {
            return Ok(self.nat.inbound(packet, now));
        }
        let key = self.nat.key_of(packet, now);
        let mut seen = self.seen(key, dropped, now);
        let named = self.nat.named_by(key, packet);
        seen.named = named.map(|named| Box::new(self.seen(named, &[], now)));
        self.nat.outbound(packet, now, &seen)
    }

    /// Blocks in use at a worker, with their subscribers.
    pub fn core_blocks(&self, worker: u16) -> impl Iterator<Item = (u32, Block)> {
        let shard = self.lab.workers[usize::from(worker)].shard();
        shard.block_list().map(|(internal, external, first, _)| {
            (u32::from(internal), (u32::from(external), first))
        })
    }

    /// Each fragment of a packet without ports goes by itself.
    pub fn pieces(
        &mut self,
        port: usize,
        packet: &Packet,
        cuts: &[usize],
        order: &[(usize, usize)],
    ) -> Result<(), String> {
        let pieces = packet.fragments(cuts);
        let now = self.ticks();
        for (n, worker) in order {
            let frame = self.link(port, false).frame(0x0800, &pieces[*n]);
            let (mut sent, dropped) = self.offer(*worker, port, MemoryPacket::new(&frame));
            let outcome = self.outcome(port, packet, &dropped, now)?;
            // About other fragments than the first nobody is told.
            if *n == 0 {
                self.take_out_error(port, &pieces[0], &mut sent);
            }
            self.sent += sent.len() as u64;
            let (expected, reasons) = match &outcome {
                Outcome::External(out) => (vec![(EXTERNAL, out)], vec![]),
                Outcome::Internal(out) => (vec![(INTERNAL, out)], vec![]),
                Outcome::Drop(reason) => (vec![], vec![*reason]),
                Outcome::DropEither(one, _) => (vec![], vec![*one]),
            };
            let expected: Vec<(usize, Vec<u8>)> = expected
                .into_iter()
                .map(|(to, out)| (to, self.link(to, true).frame(0x0800, &out.fragments(cuts)[*n])))
                .collect();
            if (&sent, &dropped) != (&expected, &reasons) {
                return Err(format!("{sent:02x?} {dropped:?}, not {expected:02x?} {outcome:?}"));
            }
        }
        Ok(())
    }
}
