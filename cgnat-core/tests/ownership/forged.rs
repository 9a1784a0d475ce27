//! Packets in the wrong ring, with wrong notes; requests for the wrong records.

use std::collections::BTreeMap;

use cgnat_core::endpoint::Protocol;
use cgnat_core::packet::ethernet::Tags;
use cgnat_core::packet::rewrite;
use cgnat_core::path::Proposal;
use cgnat_core::shard::ShardGauges;
use cgnat_core::table::due::Kind as Record;
use cgnat_core::table::port_block::PortCensus;
use cgnat_core::testing::io::MemoryPacket;
use cgnat_core::testing::lab::{Lab, port_mac};
use cgnat_core::testing::packets::{self, frame, ip, ipv4, tcp, udp};
use cgnat_core::time::{Instant, Tick};
use cgnat_core::verdict::DropReason::{self, *};
use cgnat_core::worker::handoff::{Kind, Note};
use cgnat_core::worker::io::PacketBuf;
use cgnat_core::worker::steering::Steering;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const WORKERS: u16 = 3;

const YAML: &str = "version: 1
system: { max-mappings: 1000 }
ports:
  i:
    side: internal
    device: net_null0
    addresses: [10.255.0.2/30]
    next-hop: 10.255.0.1
    neighbours: [{ address: 10.255.0.1, mac: \"02:00:00:00:09:01\" }]
  e:
    side: external
    device: net_null1
    addresses: [192.0.2.2/30]
    next-hop: 192.0.2.1
    neighbours: [{ address: 192.0.2.1, mac: \"02:00:00:00:09:02\" }]
pools:
  main: { addresses: [203.0.113.2-203.0.113.3], ports: 1024-2559, allocation: { block-size: 64 } }
subscribers: [{ name: all, match: [100.64.0.0/10], pool: main }]
nat44: { alg: { pptp: true }, other-protocols: { gre: carry } }
";

const SERVER: (u32, u16) = (0xc633_6407, 80);

/// Everything of a box that a forged packet or request could have changed.
#[derive(Debug, PartialEq)]
struct State {
    mappings: Vec<(Protocol, String, String)>,
    claims: Vec<(u8, u32, u32, u32)>,
    blocks: Vec<String>,
    gauges: Vec<ShardGauges>,
    census: PortCensus,
    owners: Vec<Option<(u16, u16)>>,
}

struct Scene {
    lab: Lab,
    /// One live UDP and TCP mapping of a subscriber of each worker: (internal, external).
    flows: Vec<(u32, (u32, u16))>,
}

impl Scene {
    fn new() -> Self {
        let mut lab = Lab::new(YAML, WORKERS, 5);
        let steering = Steering::new(WORKERS);
        let mut flows = Vec::new();
        for worker in 0..WORKERS {
            let mut hosts = ip("100.64.0.1")..;
            let host = hosts.find(|host| steering.owner_of(*host) == worker).unwrap();
            let packet = frame(port_mac(0), [2; 6], Tags::None, &tcp((host, 9), SERVER, 2, b""));
            assert_eq!(lab.arrive(0, 0, &packet).len(), 1);
            let packet = frame(port_mac(0), [2; 6], Tags::None, &udp((host, 9), SERVER, b"a"));
            let sent = lab.arrive(0, 0, &packet);
            let bytes = &sent[0].1;
            let address = u32::from_be_bytes([bytes[26], bytes[27], bytes[28], bytes[29]]);
            flows.push((host, (address, u16::from_be_bytes([bytes[34], bytes[35]]))));
        }
        Self { lab, flows }
    }

    fn state(&self) -> State {
        self.lab.audit();
        let shards = || self.lab.workers.iter().map(|worker| worker.shard());
        let gauges = shards().map(|s| ShardGauges { stale_requests: 0, ..s.gauges() });
        let mappings = shards().flat_map(|shard| shard.mapping_list());
        let owners = (0..48).map(|b| self.lab.owners.owner(b).map(|o| (o.worker, o.generation)));
        State {
            claims: shards().flat_map(|shard| shard.claim_list()).collect(),
            mappings: mappings
                .map(|m| (m.protocol, m.internal.to_string(), m.external.to_string()))
                .collect(),
            blocks: shards()
                .flat_map(|shard| shard.block_list())
                .map(|b| format!("{b:?}"))
                .collect(),
            gauges: gauges.collect(),
            census: self.lab.port_census(),
            owners: owners.collect(),
        }
    }

    fn drops(&self) -> BTreeMap<DropReason, u64> {
        let counts = DropReason::ALL.iter().map(|reason| (*reason, self.lab.drops(*reason)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// The note that a worker would write for a packet to or from the flow of `worker`.
    fn right(&self, kind: Kind, worker: usize) -> Note {
        let generation = match kind {
            Kind::Outbound => 0,
            _ => self.lab.owners.owner(self.block(worker)).unwrap().generation,
        };
        let at = Instant::from_millis(1);
        Note { kind, port: 0, offset: 14, to: worker as u16, generation, ports: (0, 0), at }
    }

    /// Number of the block of the flow of `worker`.
    fn block(&self, worker: usize) -> u32 {
        let (address, port) = self.flows[worker].1;
        (address - ip("203.0.113.2")) * 24 + (u32::from(port) - 1024) / 64
    }

    fn outbound(&self, worker: usize) -> Vec<u8> {
        frame(port_mac(0), [2; 6], Tags::None, &udp((self.flows[worker].0, 9), SERVER, b"forged"))
    }

    fn inbound(&self, worker: usize) -> Vec<u8> {
        frame(port_mac(1), [2; 6], Tags::None, &udp(SERVER, self.flows[worker].1, b"forged"))
    }

    /// Puts a packet into the ring of `ring`; returns what was sent.
    fn forge(&mut self, ring: usize, frame: &[u8], note: impl FnOnce(&mut [u8; 32])) -> usize {
        let mut packet = MemoryPacket::new(frame);
        note(packet.note());
        self.lab.workers[0].io_mut().forge_handed(ring, packet);
        self.lab.run_workers();
        self.lab.take_sent().len()
    }

    /// The forged packet is dropped under `reason` and nothing else changes.
    fn refused(
        &mut self,
        ring: usize,
        frame: &[u8],
        reason: DropReason,
        note: impl FnOnce(&mut [u8; 32]),
    ) {
        let (state, mut drops) = (self.state(), self.drops());
        *drops.entry(reason).or_default() += 1;
        assert_eq!(self.forge(ring, frame, note), 0, "nothing is sent");
        assert_eq!(self.drops(), drops);
        assert_eq!(self.state(), state);
    }
}

#[test]
fn a_right_note_is_obeyed_so_the_forgeries_below_differ_in_one_thing() {
    let mut scene = Scene::new();
    for worker in 0..3 {
        for (kind, frame) in [
            (Kind::Outbound, scene.outbound(worker)),
            (Kind::Inbound, scene.inbound(worker)),
            (Kind::Hairpin, scene.inbound(worker)),
        ] {
            let note = scene.right(kind, worker);
            assert_eq!(scene.forge(worker, &frame, |n| note.write(n)), 1);
        }
    }
    assert_eq!(scene.drops(), [].into());
}

#[test]
fn a_packet_in_the_ring_of_the_wrong_worker_is_refused_and_counted() {
    let mut scene = Scene::new();
    for (kind, frame) in [
        (Kind::Outbound, scene.outbound(1)),
        (Kind::Inbound, scene.inbound(1)),
        (Kind::Hairpin, scene.inbound(1)),
    ] {
        let note = scene.right(kind, 1);
        // The note says who it is for; and when it lies about that, the packet tells.
        scene.refused(2, &frame, OwnershipViolation, |n| note.write(n));
        let lie = Note { to: 2, ..note };
        scene.refused(2, &frame, OwnershipViolation, |n| lie.write(n));
        scene.refused(1, &frame, OwnershipViolation, |n| lie.write(n));
        let nobody = Note { to: 900, ..note };
        scene.refused(1, &frame, OwnershipViolation, |n| nobody.write(n));
    }
}

#[test]
fn a_packet_without_a_note_or_with_an_impossible_one_is_refused_and_counted() {
    let mut scene = Scene::new();
    for (kind, frame) in [(Kind::Outbound, scene.outbound(1)), (Kind::Inbound, scene.inbound(1))] {
        let note = scene.right(kind, 1);
        scene.refused(1, &frame, OwnershipViolation, |n| n.fill(0));
        scene.refused(1, &frame, OwnershipViolation, |n| n.fill(0xff));
        scene.refused(1, &frame, OwnershipViolation, |n| {
            note.write(n);
            n[0] = 4;
        });
        let len = frame.len() as u16;
        for offset in [len + 1, u16::MAX] {
            let beyond = Note { offset, ..note };
            scene.refused(1, &frame, OwnershipViolation, |n| beyond.write(n));
        }
        for (offset, reason) in [(len, IpShort), (len - 19, IpShort), (2, IpVersion)] {
            let beyond = Note { offset, ..note };
            scene.refused(1, &frame, reason, |n| beyond.write(n));
        }
        for port in [2, 255] {
            let beyond = Note { port, ..note };
            scene.refused(1, &frame, OwnershipViolation, |n| beyond.write(n));
        }
        scene.refused(1, &[], OwnershipViolation, |n| note.write(n));
    }
}

#[test]
fn a_note_of_another_generation_is_stale() {
    let mut scene = Scene::new();
    for kind in [Kind::Inbound, Kind::Hairpin] {
        let (note, frame) = (scene.right(kind, 1), scene.inbound(1));
        for generation in [note.generation.wrapping_sub(1), note.generation + 1, 0] {
            let old = Note { generation, ..note };
            scene.refused(1, &frame, HandoffStale, |n| old.write(n));
        }
    }
    assert_eq!(scene.lab.drops(HandoffStale), 6);
}

#[test]
fn an_inbound_note_for_an_address_that_is_no_pools_is_refused() {
    let mut scene = Scene::new();
    let note = scene.right(Kind::Inbound, 1);
    for to in [(ip("203.0.113.9"), 1024), (ip("203.0.113.2"), 1023), (ip("203.0.113.2"), 2560)] {
        let frame = frame(port_mac(1), [2; 6], Tags::None, &udp(SERVER, to, b""));
        scene.refused(1, &frame, OwnershipViolation, |n| note.write(n));
    }
}

#[test]
fn random_bytes_in_a_ring_neither_panic_nor_change_anything() {
    let mut scene = Scene::new();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let state = scene.state();
    let before = scene.lab.sum(|c| c.handed_in.value());
    for n in 0..30_000u32 {
        let worker = n as usize % 3;
        let right = if n % 2 == 0 { scene.inbound(worker) } else { scene.outbound(worker) };
        let mut bytes = right[..random.next_u32() as usize % (right.len() + 1)].to_vec();
        for byte in &mut bytes {
            if random.next_u32() % 8 == 0 {
                *byte = random.next_u32() as u8;
            }
        }
        let kinds = [Kind::Outbound, Kind::Inbound, Kind::Hairpin, Kind::Claim, Kind::ClaimRefused];
        let mut note = scene.right(kinds[random.next_u32() as usize % 5], worker);
        note.offset = (random.next_u32() % 40) as u16;
        let mut packet = MemoryPacket::new(&bytes);
        note.write(packet.note());
        // A note is random too, most often.
        let place = random.next_u32() as usize % 64;
        if place < 32 {
            packet.note()[place] = random.next_u32() as u8;
        }
        scene.lab.workers[0].io_mut().forge_handed(random.next_u32() as usize % 3, packet);
        scene.lab.run_workers();
        scene.lab.take_sent();
    }
    // Packets that happen to be right may have been translated; no flow was lost.
    let after = scene.state();
    for mapping in &state.mappings {
        assert!(after.mappings.contains(mapping), "{mapping:?} was lost");
    }
    assert_eq!(after.owners, state.owners);
    let taken = scene.lab.sum(|c| c.handed_in.value()) - before;
    assert_eq!(taken, 30_000 + scene.lab.sum(|c| c.handed_off.value()) - before);
}

/// Slots of the live records of a shard, as its deadline words show them.
fn live(scene: &Scene, worker: usize) -> Vec<(Record, u32)> {
    let shard = scene.lab.workers[worker].shard();
    let due = shard.due();
    let slots = |kind: Record, words: &cgnat_core::table::due::DueArray| -> Vec<_> {
        let armed = (0..words.len()).filter(|slot| words.is_armed(*slot));
        armed.map(|slot| (kind, slot as u32)).collect()
    };
    [
        slots(Record::Mapping, &due.mappings),
        slots(Record::Session, &due.sessions),
        slots(Record::Association, &due.associations),
    ]
    .concat()
}

impl Scene {
    fn propose(&mut self, worker: usize, record: (Record, u32), now: Tick) -> Proposal {
        self.lab.workers[worker].shard_mut().propose(record.0, record.1, now)
    }

    fn stale(&self, worker: usize) -> u64 {
        self.lab.workers[worker].shard().gauges().stale_requests
    }
}

#[test]
fn an_expiry_of_another_slot_or_shard_is_refused_counted_and_changes_nothing() {
    let mut scene = Scene::new();
    let now = scene.lab.now.tick();
    // Late enough for every record: only the name is wrong.
    let late = Tick(now.0 + 1_000_000);
    let state = scene.state();
    for worker in 0..3 {
        let records = live(&scene, worker);
        assert_eq!(records.len(), 2);
        let mut expected = scene.stale(worker);
        for kind in [Record::Mapping, Record::Session, Record::Association, Record::Block] {
            let used = |slot: &u32| records.contains(&(kind, *slot));
            let free = (0..20).filter(|slot| kind != Record::Block && !used(slot));
            for slot in free.chain([1200, 1 << 20, 1 << 31, u32::MAX - 1, u32::MAX]) {
                let refused = scene.propose(worker, (kind, slot), late);
                assert_eq!(refused, Proposal::Stale, "{kind:?} {slot}");
                expected += 1;
            }
        }
        // The block of another worker's subscriber.
        let other = scene.block((worker + 1) % 3);
        assert_eq!(scene.propose(worker, (Record::Block, other), late), Proposal::Stale);
        assert_eq!(scene.stale(worker), expected + 1);
    }
    assert_eq!(scene.state(), state);
    assert_eq!(scene.drops(), [].into());
}

#[test]
fn an_expiry_that_is_early_changes_nothing_and_one_that_is_repeated_is_stale() {
    let mut scene = Scene::new();
    let now = scene.lab.now.tick();
    let state = scene.state();
    let records = live(&scene, 1);
    for record in &records {
        assert_eq!(scene.propose(1, *record, now), Proposal::NotDue);
        assert_eq!(scene.propose(1, *record, Tick(now.0 + 2400)), Proposal::NotDue);
    }
    // A block in use is not released, however late it is.
    let block = (Record::Block, scene.block(1));
    assert_eq!(scene.propose(1, block, Tick(now.0 + 1_000_000)), Proposal::NotDue);
    assert_eq!(scene.state(), state);
    scene.lab.advance_silently(301_000);
    let late = scene.lab.now.tick();
    for record in &records {
        assert_eq!(scene.propose(1, *record, late), Proposal::Ended);
    }
    let (state, stale) = (scene.state(), scene.stale(1));
    for record in &records {
        assert_eq!(scene.propose(1, *record, late), Proposal::Stale);
    }
    assert_eq!((scene.state(), scene.stale(1)), (state, stale + 2));
}

/// Sends GRE of the subscriber of a worker to a remote address; yields also the keeper of the
/// tuple, which is another worker: with fewer addresses than workers there is such a subscriber
/// among those that the tests ask for.
fn associated(scene: &mut Scene, worker: usize) -> (Vec<u8>, u32, u32, usize) {
    let (host, (external, _)) = scene.flows[worker];
    let remote = ip("198.51.100.0");
    let bytes =
        frame(port_mac(0), [2; 6], Tags::None, &ipv4(host, remote, 47, vec![0x42; 30], None));
    assert_eq!(scene.lab.arrive(0, 0, &bytes).len(), 1);
    let keeps = |of: &usize| {
        let mut claims = scene.lab.workers[*of].shard().claim_list();
        claims.any(|(_, internal, _, to)| (internal, to) == (host, remote))
    };
    let keeper = (0..3).find(keeps).unwrap();
    assert_ne!(keeper, worker);
    (bytes, external, remote, keeper)
}

#[test]
fn a_claim_in_the_wrong_ring_or_of_an_address_that_is_not_ours_is_refused() {
    let mut scene = Scene::new();
    let (frame, external, _, keeper) = associated(&mut scene, 1);
    let ports = |address: u32| ((address >> 16) as u16, address as u16);
    let at = Instant::from_millis(1);
    let to = keeper as u16;
    let kind = Kind::Claim;
    let right = Note { kind, port: 0, offset: 14, to, generation: 0, ports: ports(external), at };
    // So that the forgeries differ from it in one thing.
    assert_eq!(scene.forge(keeper, &frame, |n| right.write(n)), 1);
    for wrong in (0..3).filter(|worker| *worker != keeper) {
        scene.refused(wrong, &frame, OwnershipViolation, |n| right.write(n));
        let lie = Note { to: wrong as u16, ..right };
        scene.refused(wrong, &frame, OwnershipViolation, |n| lie.write(n));
    }
    // No pool's address, whoever would be its keeper.
    for address in [ip("192.0.2.2"), ip("203.0.113.9"), ip("8.8.8.8"), 0, u32::MAX] {
        for ring in 0..3 {
            let lie = Note { to: ring as u16, ports: ports(address), ..right };
            scene.refused(ring, &frame, OwnershipViolation, |n| lie.write(n));
        }
    }
    // Of another kind of packet, of a stranger, of a protocol that is not carried.
    let stranger = packets::ipv4(ip("172.16.0.1"), ip("198.51.100.7"), 47, vec![0; 30], None);
    let other = packets::ipv4(scene.flows[1].0, ip("198.51.100.7"), 50, vec![0; 30], None);
    for packet in [udp((scene.flows[1].0, 9), SERVER, b"no"), stranger, other] {
        let frame = packets::frame(port_mac(0), [2; 6], Tags::None, &packet);
        for ring in 0..3 {
            let lie = Note { to: ring as u16, ..right };
            scene.refused(ring, &frame, OwnershipViolation, |n| lie.write(n));
        }
    }
}

#[test]
fn a_refused_claim_that_no_keeper_can_have_refused_is_refused() {
    let mut scene = Scene::new();
    let (frame, ..) = associated(&mut scene, 1);
    let conflict = (AssociationConflict as u16, 0);
    let at = Instant::from_millis(1);
    let kind = Kind::ClaimRefused;
    let right = Note { kind, port: 0, offset: 14, to: 1, generation: 0, ports: conflict, at };
    for wrong in [0, 2] {
        scene.refused(wrong, &frame, OwnershipViolation, |n| right.write(n));
        let lie = Note { to: wrong as u16, ..right };
        scene.refused(wrong, &frame, OwnershipViolation, |n| lie.write(n));
    }
    for reason in [NoMapping as u16, LimitSessions as u16, DropReason::COUNT as u16, u16::MAX] {
        let lie = Note { ports: (reason, 0), ..right };
        scene.refused(1, &frame, OwnershipViolation, |n| lie.write(n));
    }
    let udp =
        packets::frame(port_mac(0), [2; 6], Tags::None, &udp((scene.flows[1].0, 9), SERVER, b""));
    scene.refused(1, &udp, OwnershipViolation, |n| right.write(n));
    // The right one ends the hold and nothing else; the tuple goes on.
    let (sessions, claims) = (scene.state().gauges[1], scene.state().claims);
    scene.forge(1, &frame, |n| right.write(n));
    assert_eq!(scene.lab.drops(AssociationConflict), 1);
    assert_eq!((scene.state().gauges[1], scene.state().claims), (sessions, claims));
    assert_eq!(scene.lab.arrive(0, 0, &frame).len(), 1);
}

#[test]
fn inbound_packets_of_a_tuple_are_believed_at_its_keeper_alone() {
    let mut scene = Scene::new();
    let (_, external, remote, keeper) = associated(&mut scene, 1);
    let packet = packets::ipv4(remote, external, 47, vec![0x42; 30], None);
    let frame = packets::frame(port_mac(1), [2; 6], Tags::None, &packet);
    let at = Instant::from_millis(1);
    let to = keeper as u16;
    for kind in [Kind::Inbound, Kind::Hairpin] {
        let right = Note { kind, port: 1, offset: 14, to, generation: 0, ports: (0, 0), at };
        assert_eq!(scene.forge(keeper, &frame, |n| right.write(n)), 1);
        for wrong in (0..3).filter(|worker| *worker != keeper) {
            let lie = Note { to: wrong as u16, ..right };
            scene.refused(wrong, &frame, OwnershipViolation, |n| lie.write(n));
        }
    }
    // As a fragment that a keeper of datagrams should keep: without ports, and not GRE, it has no
    // context there.
    let mut piece = packet.clone();
    (piece[6], piece[9]) = (0x20, 132);
    piece[10..12].fill(0);
    let sum = cgnat_core::packet::checksum::full(&piece[..20]);
    piece[10..12].copy_from_slice(&sum.to_be_bytes());
    let frame = packets::frame(port_mac(1), [2; 6], Tags::None, &piece);
    for ring in 0..3 {
        let (kind, to) = (Kind::Keep, ring as u16);
        let lie = Note { kind, port: 1, offset: 14, to, generation: 0, ports: (0, 0), at };
        scene.refused(ring, &frame, OwnershipViolation, |n| lie.write(n));
    }
}

/// GRE of PPTP goes to whom its identifier belongs to as a port, an error about it to whom the
/// quoted identification belongs to. Nobody has a call here: who is right says so.
#[test]
fn gre_of_a_call_and_errors_about_it_are_believed_at_their_owner_alone() {
    let mut scene = Scene::new();
    let gre = |id: u16| [&[0x20, 1, 0x88, 0x0b, 0, 0][..], &id.to_be_bytes()].concat();
    for worker in 0..3 {
        let (address, port) = scene.flows[worker].1;
        let packet = ipv4(SERVER.0, address, 47, gre(port), None);
        let inbound = frame(port_mac(1), [2; 6], Tags::None, &packet);
        let right = Note { port: 1, ports: (1723, port), ..scene.right(Kind::Inbound, worker) };
        scene.refused(worker, &inbound, PptpNoCall, |n| right.write(n));
        let stale = Note { generation: right.generation + 1, ..right };
        scene.refused(worker, &inbound, HandoffStale, |n| stale.write(n));

        let mut quoted = ipv4(address, SERVER.0, 47, gre(0x80), None);
        rewrite::identification(&mut quoted, 3 * 77 + worker as u16);
        let message = [&[3, 4, 0, 0, 0, 0, 5, 0xdc][..], &quoted].concat();
        let error = ipv4(ip("198.51.100.99"), address, 1, message, Some(2));
        let error = frame(port_mac(1), [2; 6], Tags::None, &error);
        let about = Note { generation: 0, ports: (0, 0), ..right };
        scene.refused(worker, &error, IcmpNoMapping, |n| about.write(n));
        for wrong in (0..3).filter(|wrong| *wrong != worker) {
            for (frame, note) in [(&inbound, right), (&error, about)] {
                scene.refused(wrong, frame, OwnershipViolation, |n| note.write(n));
                let lie = Note { to: wrong as u16, ..note };
                scene.refused(wrong, frame, OwnershipViolation, |n| lie.write(n));
            }
        }
    }
}
