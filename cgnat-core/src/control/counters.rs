//! Counters of one worker: written by it alone, read by anyone.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::endpoint::Protocol;
use crate::policy::flood_guard::Flood;
use crate::shard::ShardGauges;
use crate::time::Instant;
use crate::verdict::DropReason;

/// A counter with one writer: adding is a load and a store, not a locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owner calls this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets a gauge. Only the owner calls this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets and bytes of one port as one worker sees it.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Frames received.
    pub rx_packets: Counter,
    /// Bytes of them.
    pub rx_bytes: Counter,
    /// Of these, frames that came in several packet buffers and were joined to one piece.
    pub rx_joined: Counter,
    /// Of these, frames whose end the driver had cut off; they were dropped under `frame-cut`.
    pub rx_cut: Counter,
    /// Of these, packets whose TCP or UDP checksum their sender had left to a card; it was
    /// computed here.
    pub rx_completed: Counter,
    /// Frames accepted for transmission.
    pub tx_packets: Counter,
    /// Bytes of them.
    pub tx_bytes: Counter,
    /// Frames that the transmit queue did not take; they were dropped under `transmit-full`.
    pub tx_refused: Counter,
    /// Frames from here that were dropped under a reason.
    pub dropped: Counter,
    /// Packets from here that were handed to the worker whose they are; not those that a
    /// subscriber sent to another, which begin where they belong.
    pub handed_off: Counter,
    /// Of these, packets that arrived at another worker than their address hashes to.
    pub missteered: Counter,
}

/// All counters of one worker. On cache lines of their own.
///
/// Every frame received by a worker ends as exactly one of: a frame transmitted, a drop
/// under one reason, a frame answered or consumed (`arp_received`, `nd_received`, `echo_answered`, `punted`), or it
/// still waits (`parked`, `fragments_waiting`). Frames that the box makes itself are in `originated`.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// By port.
    pub ports: Vec<PortCounters>,
    /// By [`DropReason`].
    pub drops: [Counter; DropReason::COUNT],
    /// ARP frames received and consumed (a request that is answered is consumed too).
    pub arp_received: Counter,
    /// Neighbour solicitations and advertisements received and consumed, answered ones too.
    pub nd_received: Counter,
    /// Pings to own addresses, answered.
    pub echo_answered: Counter,
    /// Frames for the box itself that were given to the kernel.
    pub punted: Counter,
    /// Frames made by the box: ARP requests and replies, Neighbour Discovery, echo replies, ICMP errors, copies of ARP
    /// replies for the kernel, and all but the first of the fragments that a packet was cut into.
    pub originated: Counter,
    /// ICMP errors of the box itself that were sent; they are in `originated` too.
    pub errors_sent: Counter,
    /// ICMP errors that were not sent: over their rate, switched off, or for want of a buffer.
    pub errors_withheld: Counter,
    /// Unsolicited SYNs from outside that were held, to be answered later.
    pub syns_held: Counter,
    /// Of these, those that were answered with port unreachable.
    pub syns_answered: Counter,
    /// Somebody claimed one of our addresses, or that of a neighbour with another MAC, by ARP or
    /// Neighbour Discovery.
    pub arp_conflicts: Counter,
    /// Packets handed to other workers.
    pub handed_off: Counter,
    /// Packets taken from other workers.
    pub handed_in: Counter,
    /// Plain packets of mappings that exist: those that were translated the short way.
    pub hits: Counter,
    /// Mappings that were made the short way.
    pub begun: Counter,
    /// Ticks in which the worker had more packets than it could take.
    pub pressed: Counter,
    /// What is shed now of what comes from outside, packed; 0 for nothing.
    flood: Counter,
    /// Packets of that which came in the last tick.
    flood_arrived: Counter,
    /// Its address if that is one of IPv6, upper half first.
    flood_address6: [Counter; 2],
    /// Packets hairpinned.
    pub hairpinned: Counter,
    /// Packets whose source a static mapping translated.
    pub static_outbound: Counter,
    /// Packets whose destination a static mapping translated; one from static host to static
    /// host counts in both.
    pub static_inbound: Counter,
    /// Outbound packets that a bypass rule let pass untranslated.
    pub bypassed_outbound: Counter,
    /// Inbound packets that a bypass rule let pass untranslated.
    pub bypassed_inbound: Counter,
    /// IPv6 packets that passed from inside.
    pub ipv6_outbound: Counter,
    /// IPv6 packets that passed from outside.
    pub ipv6_inbound: Counter,
    /// Packets that were larger than an MTU and left in fragments; all but the first of these
    /// are in `originated`.
    pub fragmented: Counter,
    /// Packets waiting for a block or a neighbour now.
    pub parked: Counter,
    /// Fragments that wait for the first of their datagram now.
    pub fragments_waiting: Counter,
    /// Datagrams of which fragments are under way now.
    pub fragmented_datagrams: Counter,
    /// Proposals of housekeeping that ended something.
    pub ended: Counter,
    /// Mappings by protocol, now.
    pub mappings: [Counter; Protocol::COUNT],
    /// TCP sessions, now.
    pub sessions: Counter,
    /// Flows without ports whose tuples are kept here, now.
    pub associations: Counter,
    /// Subscribers with blocks, now.
    pub subscribers: Counter,
    /// Blocks that subscribers hold, now.
    pub blocks_in_use: Counter,
    /// Blocks lent to the worker and free, now.
    pub blocks_free: Counter,
    /// Mappings created since start.
    pub mappings_created: Counter,
    /// Blocks given to subscribers since start.
    pub blocks_allocated: Counter,
    /// Blocks given back since start.
    pub blocks_released: Counter,
    /// Ports given that did not keep the parity or range that the pool asks for.
    pub choices_missed: Counter,
    /// Ports whose rest was cut short by `max-held`.
    pub holds_cut: Counter,
    /// Requests of housekeeping that named no record in use, or one of another shard.
    pub stale_requests: Counter,
    /// Identifications that may repeat one of the last 120 s.
    pub identification_repeats: Counter,
    /// TCP packets that changed no session because of their sequence numbers.
    pub tcp_out_of_window: Counter,
    /// Control connections of FTP that are followed, now.
    pub ftp_followed: Counter,
    /// Control connections that found no room to be followed.
    pub ftp_unfollowed: Counter,
    /// Control connections that turned out no FTP, or encrypted.
    pub ftp_ended: Counter,
    /// Commands of FTP that were given an external endpoint.
    pub ftp_replaced: Counter,
    /// Commands of FTP with an address that were left as they are.
    pub ftp_passed: Counter,
    /// Control connections of PPTP that are followed, now.
    pub pptp_followed: Counter,
    /// Control connections of PPTP that found no room to be followed.
    pub pptp_unfollowed: Counter,
    /// Control connections of PPTP that were followed to their end, or to where they are none.
    pub pptp_ended: Counter,
    /// Calls of PPTP that are translated, now.
    pub pptp_calls: Counter,
    /// Messages of PPTP about calls that are not translated.
    pub pptp_passed: Counter,
    /// Requests of TFTP whose answer is let in.
    pub tftp_requests: Counter,
    /// The worker's NAT time, nanoseconds; grows as long as it polls.
    pub now_ns: Counter,
    /// Polls so far: a worker that does not poll is stalled.
    pub polls: Counter,
}

impl WorkerCounters {
    /// All zero, for a box with `ports` ports.
    pub fn new(ports: usize) -> Self {
        Self {
            ports: (0..ports).map(|_| PortCounters::default()).collect(),
            drops: std::array::from_fn(|_| Counter::default()),
            arp_received: Counter::default(),
            nd_received: Counter::default(),
            echo_answered: Counter::default(),
            punted: Counter::default(),
            originated: Counter::default(),
            errors_sent: Counter::default(),
            errors_withheld: Counter::default(),
            syns_held: Counter::default(),
            syns_answered: Counter::default(),
            arp_conflicts: Counter::default(),
            handed_off: Counter::default(),
            handed_in: Counter::default(),
            hits: Counter::default(),
            begun: Counter::default(),
            pressed: Counter::default(),
            flood: Counter::default(),
            flood_arrived: Counter::default(),
            flood_address6: Default::default(),
            hairpinned: Counter::default(),
            static_outbound: Counter::default(),
            static_inbound: Counter::default(),
            bypassed_outbound: Counter::default(),
            bypassed_inbound: Counter::default(),
            ipv6_outbound: Counter::default(),
            ipv6_inbound: Counter::default(),
            fragmented: Counter::default(),
            parked: Counter::default(),
            fragments_waiting: Counter::default(),
            fragmented_datagrams: Counter::default(),
            ended: Counter::default(),
            mappings: std::array::from_fn(|_| Counter::default()),
            sessions: Counter::default(),
            associations: Counter::default(),
            subscribers: Counter::default(),
            blocks_in_use: Counter::default(),
            blocks_free: Counter::default(),
            mappings_created: Counter::default(),
            blocks_allocated: Counter::default(),
            blocks_released: Counter::default(),
            choices_missed: Counter::default(),
            holds_cut: Counter::default(),
            stale_requests: Counter::default(),
            identification_repeats: Counter::default(),
            tcp_out_of_window: Counter::default(),
            ftp_followed: Counter::default(),
            ftp_unfollowed: Counter::default(),
            ftp_ended: Counter::default(),
            ftp_replaced: Counter::default(),
            ftp_passed: Counter::default(),
            pptp_followed: Counter::default(),
            pptp_unfollowed: Counter::default(),
            pptp_ended: Counter::default(),
            pptp_calls: Counter::default(),
            pptp_passed: Counter::default(),
            tftp_requests: Counter::default(),
            now_ns: Counter::default(),
            polls: Counter::default(),
        }
    }

    /// Drops under `reason`.
    pub fn drops_of(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].value()
    }

    /// What is shed now of what comes from outside. None, too, if it becomes another while it is
    /// read.
    pub fn flood(&self) -> Option<Flood> {
        let word = self.flood.value();
        let [high, low] = [0, 1].map(|half: usize| u128::from(self.flood_address6[half].value()));
        let flood = Flood::unpacked(word, high << 64 | low, self.flood_arrived.value() as u32);
        flood.filter(|_| self.flood.value() == word)
    }

    /// Publishes what is shed. Only the owner calls this.
    pub fn set_flood(&self, flood: Option<Flood>) {
        let address6 = flood.and_then(|flood| flood.address6).unwrap_or(0);
        self.flood_address6[0].set((address6 >> 64) as u64);
        self.flood_address6[1].set(address6 as u64);
        self.flood_arrived.set(flood.map_or(0, |flood| u64::from(flood.arrived)));
        self.flood.set(flood.map_or(0, |flood| flood.packed()));
    }

    /// Publishes the shard's gauges. Only the owner calls this.
    pub fn publish(&self, gauges: &ShardGauges) {
        // Destructured so that a new gauge is not forgotten here.
        let ShardGauges {
            mappings,
            sessions,
            associations,
            subscribers,
            blocks_in_use,
            blocks_free,
            mappings_created,
            blocks_allocated,
            blocks_released,
            choices_missed,
            holds_cut,
            stale_requests,
            identification_repeats,
            tcp_out_of_window,
            ftp_followed,
            ftp_unfollowed,
            ftp_ended,
            ftp_replaced,
            ftp_passed,
            pptp_followed,
            pptp_unfollowed,
            pptp_ended,
            pptp_calls,
            pptp_passed,
            tftp_requests,
        } = gauges;
        for (counter, value) in self.mappings.iter().zip(mappings) {
            counter.set(*value);
        }
        self.sessions.set(*sessions);
        self.associations.set(*associations);
        self.subscribers.set(*subscribers);
        self.blocks_in_use.set(*blocks_in_use);
        self.blocks_free.set(*blocks_free);
        self.mappings_created.set(*mappings_created);
        self.blocks_allocated.set(*blocks_allocated);
        self.blocks_released.set(*blocks_released);
        self.choices_missed.set(*choices_missed);
        self.holds_cut.set(*holds_cut);
        self.stale_requests.set(*stale_requests);
        self.identification_repeats.set(*identification_repeats);
        self.tcp_out_of_window.set(*tcp_out_of_window);
        self.ftp_followed.set(*ftp_followed);
        self.ftp_unfollowed.set(*ftp_unfollowed);
        self.ftp_ended.set(*ftp_ended);
        self.ftp_replaced.set(*ftp_replaced);
        self.ftp_passed.set(*ftp_passed);
        self.pptp_followed.set(*pptp_followed);
        self.pptp_unfollowed.set(*pptp_unfollowed);
        self.pptp_ended.set(*pptp_ended);
        self.pptp_calls.set(*pptp_calls);
        self.pptp_passed.set(*pptp_passed);
        self.tftp_requests.set(*tftp_requests);
    }

    /// The worker's NAT time.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.now_ns.value())
    }
}
