//! What a card that steers by one address spares: every packet arrives at its owner (decision 22).

use cgnat_core::worker::steering::Steering;

use crate::desk::*;
use crate::wire::{Body, Packet, ip};

/// A desk whose packets arrive where a card with the key and the table would put them.
struct Card {
    desk: Desk,
    steering: Steering,
}

impl Card {
    fn new(yaml: &str, workers: u16) -> Self {
        Self { desk: Desk::with(yaml, workers, 1), steering: Steering::new(workers) }
    }

    fn steer(&mut self, address: u32) {
        self.desk.at = usize::from(self.steering.owner_of(address));
    }

    fn goes_out(&mut self, packet: &Packet) -> (u32, u16) {
        self.steer(packet.source);
        self.desk.goes_out(packet)
    }

    fn comes_in(&mut self, packet: &Packet, internal: (&str, u16)) {
        self.steer(packet.destination);
        self.desk.comes_in(packet, internal);
    }

    /// Handed off in all, by port, and missteered by port.
    fn handed(&self) -> (u64, [u64; 2], [u64; 2]) {
        let sum = |n: usize| self.desk.lab.sum(|c| c.ports[n].handed_off.value());
        let missteered = |n: usize| self.desk.lab.sum(|c| c.ports[n].missteered.value());
        let all = self.desk.lab.sum(|c| c.handed_off.value());
        (all, [sum(0), sum(1)], [missteered(0), missteered(1)])
    }
}

fn host(n: u32) -> String {
    std::net::Ipv4Addr::from(ip("100.64.0.0") + 37 * n).to_string()
}

#[test]
fn steered_flows_errors_and_fragments_are_never_handed_off() {
    for workers in [2, 3, 4, 8] {
        let mut card = Card::new(&plain(), workers);
        for n in 0..64 {
            let name = host(n);
            let inside = (name.as_str(), 4000);
            let packet = udp(inside, server(53));
            let outside = card.goes_out(&packet);
            card.comes_in(&udp((SERVER, 53), outside), inside);
            // An error from a router on the way, about the packet as the world has seen it.
            let mut about = packet.clone();
            about.set_source(outside);
            let mut error = udp(("198.51.100.99", 1), outside);
            error.body = Body::Error { kind: 3, code: 3, rest: 0, about: Box::new(about), kept: 8 };
            error.payload = vec![];
            card.comes_in(&error, inside);
            // A datagram in fragments each way, the later one first.
            for (port, packet) in [(INTERNAL, packet), (EXTERNAL, udp((SERVER, 53), outside))] {
                let (df, payload) = (false, vec![7; 100]);
                let whole = Packet { identification: n as u16, df, payload, ..packet };
                let pieces = whole.fragments(&[20 + 48, whole.len()]);
                card.steer(if port == INTERNAL { whole.source } else { whole.destination });
                assert_eq!(card.desk.offer_bytes(port, &pieces[1]), []);
                assert_eq!(card.desk.offer_bytes(port, &pieces[0]).len(), 2);
            }
        }
        assert_eq!(card.handed(), (0, [0, 0], [0, 0]), "{workers} workers");
        let served = card.desk.lab.workers.iter().filter(|w| w.shard().mapping_list().count() > 0);
        assert_eq!(served.count(), usize::from(workers), "every worker has a part");
    }
}

#[test]
fn a_hairpin_is_handed_on_to_the_other_subscriber_and_no_port_is_blamed() {
    let mut card = Card::new(&plain(), 4);
    let (one, other) = (subscriber_of(0, 4, 0), subscriber_of(1, 4, 0));
    let outside = card.goes_out(&udp((&other, 9), server(53)));
    card.steer(ip(&one));
    assert_eq!(card.desk.offer(INTERNAL, &udp((&one, 8), outside)).len(), 1);
    assert_eq!(card.handed(), (1, [0, 0], [0, 0]));
}

#[test]
fn what_arrives_elsewhere_is_handed_off_and_counted_as_missteered() {
    let mut card = Card::new(&plain(), 4);
    let name = subscriber_of(2, 4, 0);
    card.desk.at = 3;
    let outside = card.desk.goes_out(&udp((&name, 9), server(53)));
    assert_eq!(card.handed(), (1, [1, 0], [1, 0]));
    card.desk.comes_in(&udp((SERVER, 53), outside), (&name, 9));
    assert_eq!(card.handed(), (2, [1, 1], [1, 1]));
}

#[test]
fn with_fewer_addresses_than_workers_a_card_hands_off_but_is_not_blamed() {
    let mut card = Card::new(&one_address(16, 1), 4);
    let owner = card.steering.owner_of(ip("203.0.113.0"));
    for worker in 0..4 {
        let name = subscriber_of(worker, 4, 0);
        let inside = (name.as_str(), 9);
        let before = card.handed().0;
        let outside = card.goes_out(&udp(inside, server(53)));
        card.comes_in(&udp((SERVER, 53), outside), inside);
        assert_eq!(card.handed().0 - before, u64::from(worker != owner));
    }
    assert_eq!(card.handed(), (3, [0, 3], [0, 0]));
}
