//! What becomes of a packet, and the named reasons for not forwarding it.
//!
//! Every reason has a counter (its place in [`DropReason::ALL`]), a name for output and a
//! sentence for the operator; docs/counters.md lists them and a test holds the two together.

/// Defines [`DropReason`] so that name and sentence cannot be forgotten.
macro_rules! drop_reasons {
    ($($variant:ident, $name:literal, $sentence:literal;)*) => {
        /// Why a packet was not forwarded.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $sentence] $variant,)*
        }

        impl DropReason {
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// All reasons, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// Name in output and in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// What it means and what to do, for the operator.
            pub const fn sentence(self) -> &'static str {
                match self { $(DropReason::$variant => $sentence,)* }
            }
        }
    };
}

drop_reasons! {
    // What arrives at a port but is no IPv4 packet for us.
    FrameShort, "frame-short", "The frame is shorter than its Ethernet header with its VLAN tags.";
    FrameNotForUs, "frame-not-for-us", "The destination MAC is neither the port's nor broadcast; normal on a hub or a promiscuous port.";
    FrameLong, "frame-long", "The frame came in several packet buffers and does not fit in one, which holds the largest `mtu` of all ports; raise `mtu` if longer frames are meant to come.";
    FrameCut, "frame-cut", "The frame was longer than its port takes, and the driver cut off its end. On a packet socket: offloads are on, so `ethtool -K IFACE gro off lro off`, and at the other end of a veth `ethtool -K IFACE tx off tso off gso off`; or a datagram in fragments was put together by the kernel (docs/configuration.md, jumbo frames).";
    VlanMismatch, "vlan-mismatch", "The VLAN tags are not those of the port, or one is missing or unexpected; check `vlan`, `outer-vlan` and `outer-tpid` of the port.";
    Ipv6, "ipv6", "An IPv6 packet at a port without `ipv6`; IPv6 passes only where it is configured.";
    EtherTypeOther, "ethertype-other", "Neither IPv4, ARP nor IPv6 (for example LLDP or STP).";
    ArpMalformed, "arp-malformed", "An ARP packet that is short or not for Ethernet and IPv4.";
    // IPv4 header checks (RFC 1812 section 5.2.2).
    IpShort, "ip-short", "The frame ends inside the IPv4 header.";
    IpVersion, "ip-version", "The version field of an IPv4 frame is not 4.";
    IpHeaderLength, "ip-header-length", "The IPv4 header length is under 20 bytes or beyond the packet.";
    IpTotalLength, "ip-total-length", "The IPv4 total length is shorter than the header or longer than the frame.";
    IpOptions, "ip-options", "An IPv4 option with an impossible length or pointer.";
    SourceRoute, "source-route", "An IPv4 packet, or one that an ICMP error quotes, with a loose or strict source route; such packets are never forwarded (RFC 5508 section 7.3).";
    IpChecksum, "ip-checksum", "The IPv4 header checksum is wrong; look for a faulty link or card.";
    SourceMartian, "source-martian", "The source can never be valid: 0/8, 127/8, multicast, class E or broadcast, or equal to the destination (LAND).";
    DestinationMartian, "destination-martian", "The destination is never forwarded: 0/8, 127/8, multicast, class E or broadcast.";
    FragmentLength, "fragment-length", "A fragment that holds nothing, or that is not the last and ends inside a unit of eight bytes (RFC 791).";
    FragmentBeyond, "fragment-beyond", "A fragment that reaches beyond 65,535 bytes, the largest datagram (ping of death).";
    FragmentTiny, "fragment-tiny", "A first fragment that does not hold the whole transport header, or one that begins inside the TCP header; an attempt to get past filters (RFC 1858, RFC 3128).";
    FragmentOverlap, "fragment-overlap", "A fragment that overlaps another one of its datagram or contradicts its end; the whole datagram is refused with it.";
    FragmentDuplicate, "fragment-duplicate", "A fragment that came twice; the first one was taken.";
    FragmentTooMany, "fragment-too-many", "The 54th fragment of a datagram; no more than 53 are told apart.";
    FragmentError, "fragment-error", "An ICMP error in fragments; the packet it quotes must be whole (RFC 5508).";
    FragmentRefused, "fragment-refused", "A fragment of a datagram that was refused: its first fragment was, or fragments overlap, or no room was left for them.";
    FragmentTimeout, "fragment-timeout", "A fragment that waited for the first of its datagram longer than `nat44.fragments.timeout`; usual when the first was lost or refused by somebody else.";
    FragmentPendingFull, "fragment-pending-full", "Too many fragments wait for the first of their datagram, in all or of one sender; raise `nat44.fragments.max-pending` unless it is a flood.";
    FragmentShare, "fragment-share", "A subscriber, or a source or an external address of inbound ones, has a sixteenth of all datagrams in fragments; a flood, mostly.";
    FragmentTableFull, "fragment-table-full", "Too many datagrams in fragments are under way; raise `nat44.fragments.max-datagrams` unless it is a flood.";
    ProtocolUnsupported, "protocol-unsupported", "An IP protocol other than TCP, UDP and ICMP that `nat44.other-protocols` does not carry; or AH, which cannot pass a NAT.";
    PptpMalformed, "pptp-malformed", "GRE of version 1 that is not as PPTP makes it (RFC 2637 section 4.1), where `nat44.alg.pptp` is on.";
    TransportTruncated, "transport-truncated", "The packet ends inside the TCP, UDP or ICMP header, or a length field there is impossible.";
    PortZero, "port-zero", "Source or destination port 0, which is reserved (RFC 4787 section 4.2.1 leaves it open).";
    IcmpSourceQuench, "icmp-source-quench", "ICMP source quench (type 4), which is obsolete and never forwarded (RFC 5508 REQ-10c).";
    IcmpRedirect, "icmp-redirect", "An ICMP redirect (type 5); it is about the link that it is seen on and is never forwarded.";
    IcmpRouterDiscovery, "icmp-router-discovery", "An ICMP router advertisement or solicitation (types 9, 10); never forwarded.";
    IcmpInformation, "icmp-information", "An ICMP information request or reply (types 15, 16), which are obsolete and never forwarded (RFC 5508 REQ-10c).";
    IcmpAddressMask, "icmp-address-mask", "An ICMP address mask request or reply (types 17, 18); never forwarded.";
    IcmpUnsupported, "icmp-unsupported", "An ICMP message of a type or code that is neither an echo or timestamp query nor an error of type 3, 11 or 12.";
    IcmpChecksum, "icmp-checksum", "An ICMP error with a wrong checksum (RFC 5508 REQ-3).";
    IcmpQuote, "icmp-quote", "An ICMP error whose quoted packet is cut short, damaged, a later fragment, of a protocol that is not translated, or not from the address that the error is sent to.";
    IcmpNoMapping, "icmp-no-mapping", "An ICMP error about a flow that has no mapping (RFC 5508 REQ-4, REQ-5); usual after a flow has expired.";
    TtlExpired, "ttl-expired", "The time to live ran out here.";
    ToUs, "to-us", "A packet for an own address that the box does not answer; only ARP, Neighbour Discovery and ping are.";
    // IPv6, which passes beside the NAT.
    Ipv6Header, "ipv6-header", "An IPv6 packet that is shorter than it says, or not of version 6.";
    Ipv6SourceMartian, "ipv6-source-martian", "The IPv6 source can never be valid: a group, unspecified, loopback, an IPv4 address, or an own address of the box.";
    Ipv6DestinationMartian, "ipv6-destination-martian", "The IPv6 destination is never forwarded: unspecified, loopback or an IPv4 address.";
    Ipv6LinkLocal, "ipv6-link-local", "An IPv6 packet from or to a link-local address that is not for the box; it stays on its link (RFC 4291 section 2.5.6).";
    Ipv6Group, "ipv6-group", "An IPv6 packet to a group, which is not forwarded (MLD, mDNS and router advertisements; normal).";
    Ipv6SourceSpoofed, "ipv6-source-spoofed", "An IPv6 source that belongs elsewhere: from inside, no route back leads out of the port (`source-check`); from outside, it is an internal one. Somebody spoofs, or an entry in `routes` is missing.";
    Ipv6DestinationInside, "ipv6-destination-inside", "An IPv6 packet from inside to an internal prefix; such packets do not cross the box.";
    Ipv6NoRoute, "ipv6-no-route", "No route and no next hop for the IPv6 destination; from outside, it is no internal prefix. Check `ipv6` of the ports and `routes`.";
    NdMalformed, "nd-malformed", "A neighbour solicitation or advertisement that is not valid: its hop limit (255 shows that a neighbour sent it), checksum, length or options (RFC 4861 section 7.1).";
    // Outbound.
    AlgFtpOrder, "alg-ftp-order", "A segment of an FTP control connection ahead of its turn; its sender sends it again, behind the one that is missing.";
    AlgPptpOrder, "alg-pptp-order", "A segment of a PPTP control connection ahead of its turn; its sender sends it again, behind the one that is missing.";
    SourceNotSubscriber, "source-not-subscriber", "The source on an internal port is in no subscriber range; check `subscribers`, or somebody spoofs.";
    DestinationInside, "destination-inside", "A subscriber sent to an internal address: a subscriber range, an internal port's prefix, 100.64.0.0/10 or 169.254.0.0/16; such packets do not cross the box (RFC 6598 section 4).";
    TcpNotSyn, "tcp-not-syn", "A TCP packet without a mapping that is not a SYN; usual after a restart or an expired session (RFC 5382 section 5).";
    IcmpNoQuery, "icmp-no-query", "An echo or timestamp reply without a mapping, or such a request towards a mapping.";
    NoRoute, "no-route", "No route and no next hop for the destination; check `next-hop` and `routes`.";
    RouteRefused, "route-refused", "The kernel's route to the destination is a blackhole, unreachable or prohibit route (`routes-from-kernel`); `cgnat show routes` says which.";
    HairpinDisabled, "hairpin-disabled", "A subscriber sent to an external endpoint while `hairpinning` is false.";
    // Refusals: nothing existing is ever taken for them (RFC 6888 REQ-11).
    PoolExhausted, "pool-exhausted", "No free port block in the pool for a new subscriber; add addresses or lower `max-blocks`.";
    PoolSubscribers, "pool-subscribers", "Each address of the pool that has a free port block has its `max-subscribers-per-address`; add addresses or raise it.";
    AddressExhausted, "address-exhausted", "The subscriber's paired address has no free port block left (RFC 7857 section 4); add addresses.";
    SubscriberPorts, "subscriber-ports", "The subscriber uses all ports of its `max-blocks` blocks, or of its range and overflow; one host opens very many flows, or ports are resting.";
    LimitPorts, "limit-ports", "The subscriber has as many mappings as `limits.ports` of its group allows.";
    LimitSessions, "limit-sessions", "The subscriber has as many sessions as `limits.sessions` of its group allows: TCP sessions that it opened, UDP and ICMP mappings.";
    LimitInboundSessions, "limit-inbound-sessions", "The other side wanted to open one more TCP session to a subscriber than `limits.inbound-sessions` of its group allows; its own sessions are not touched by that.";
    LimitDestination, "limit-destination", "The subscriber has as many sessions with this remote address as `limits.sessions-per-destination` of its group allows; one host floods it, or many users share the subscriber.";
    LimitMappingSessions, "limit-mapping-sessions", "One mapping of the subscriber has as many sessions as `limits.sessions-per-mapping` of its group allows: one port talks to very many others.";
    LimitMappingInboundSessions, "limit-mapping-inbound-sessions", "The other side wanted to open one more session of a mapping that has as many as `limits.inbound-sessions-per-mapping` of its group allows; a scan or a flood from many sources, mostly.";
    LimitFragments, "limit-fragments", "The subscriber has as many datagrams in fragments under way as `limits.fragments` of its group allows; a flood, or fragments get lost on their way here.";
    LimitSessionRate, "limit-session-rate", "The subscriber opens sessions faster than `limits.new-sessions-per-second` of its group allows; one host scans or is infected, or the burst is too small.";
    LimitBlocks, "limit-blocks", "The subscriber uses all ports of as many blocks as `limits.blocks` of its group allows.";
    ReservedPorts, "reserved-ports", "The subscriber's last free ports are kept for the lifelines in `limits.reserved` of its group; this flow is none.";
    Overload, "overload", "The first packet of a flow, while the worker had more packets than it could take and new flows had had their share of its time (`system.new-flows-under-load`); flows that exist go on. A flood of new flows, or too few workers.";
    MappingTableFull, "mapping-table-full", "The shard's mapping table is full; raise `max-mappings`.";
    SessionTableFull, "session-table-full", "The shard's session table is full; raise `max-sessions`.";
    AddressDraining, "address-draining", "The ports of the subscriber's blocks are used up, and its external address is drained, so it gets no further block; it gets another address when its last mapping has ended.";
    SubscriberTableFull, "subscriber-table-full", "The shard's subscriber table is full; raise `max-mappings` or add addresses.";
    BlockWait, "block-wait", "A packet waited for a port block from housekeeping in vain; housekeeping is stalled or a worker does not answer it.";
    ParkingFull, "parking-full", "Too many packets wait for a port block or a neighbour; the sender will repeat.";
    EspWithoutIke, "esp-without-ike", "ESP of a subscriber that has no IKE session: no live UDP mapping from its port 500; it began without IKE, or IKE uses UDP 4500, where ESP should be in UDP too (RFC 3948).";
    EspConflict, "esp-conflict", "A second subscriber of one external address wants ESP with a gateway that another has an IKE session with; it needs IKE with NAT traversal (UDP 4500, RFC 3948), or another external address.";
    AssociationConflict, "association-conflict", "A second subscriber of one external address wants a protocol without ports with a remote address that another has it with; one of them needs another external address.";
    AssociationTableFull, "association-table-full", "The table of flows without ports is full; raise `max-mappings`.";
    // Inbound.
    NoAssociation, "no-association", "An inbound packet without ports to an external address of ours, from somebody whom no subscriber there has sent this protocol to (normal).";
    NoMapping, "no-mapping", "An inbound packet to an external endpoint without a mapping; scans, mostly (normal).";
    Filtered, "filtered", "An inbound packet to a mapped external endpoint from somebody whom the subscriber has not sent to, where `filtering` depends on that (normal).";
    PortNotLent, "port-not-lent", "An inbound packet to an external address of ours, to a port that is neither lent nor mapped statically (normal).";
    DestinationUnknown, "destination-unknown", "An inbound packet to an address that is neither a pool's, a static mapping's nor our own; more is routed here than the pools.";
    Flood, "flood", "A packet from outside to an endpoint or address that so many come for that the worker cannot take all of its packets (`system.flood-guard`); what is for others goes on. Who it is for is in `floods`.";
    SourceSpoofed, "source-spoofed", "An inbound packet whose source is a subscriber, shared, external or own address of ours; somebody spoofs, or a route loops.";
    PptpNoCall, "pptp-no-call", "GRE of PPTP, either way, without such a call: it has ended, its control connection is not followed, or somebody tries.";
    // Egress.
    LinkDown, "link-down", "The link of the port that the packet would leave by is down; `links` says since when, and the log said it.";
    NeighbourUnresolved, "neighbour-unresolved", "The next hop did not answer ARP or Neighbour Discovery in time; check the link and `next-hop`.";
    LeakPrevented, "leak-prevented", "The last check before an external port found a source that is not ours; please report it, it is a bug of cgnat.";
    TooBig, "too-big", "The packet has DF set, or is IPv6, and is larger than the MTU of the port it would leave by; its sender is told (path MTU discovery).";
    NoBuffer, "no-buffer", "No packet buffer was free for the parts of a packet that had to be fragmented.";
    NoHeadroom, "no-headroom", "The packet buffer has no room for a longer link header; it is a bug of the port's setup.";
    TransmitFull, "transmit-full", "The transmit queue stayed full.";
    PuntLimited, "punt-limited", "For the box itself, and more of its kind came to the port in this second than go to the kernel.";
    PuntFull, "punt-full", "For the box itself; the ring to the kernel's interface is full.";
    // Between workers.
    HandoffFull, "handoff-full", "The hand-off ring of the owning worker is full; that worker is overloaded.";
    HandoffStale, "handoff-stale", "The port block changed its owner while the packet was handed over.";
    OwnershipViolation, "ownership-violation", "A packet or record of another shard turned up; it was refused, nothing was changed; please report it.";
    Shutdown, "shutdown", "The packet was waiting when the program stopped.";
}

impl DropReason {
    /// Whether the keeper of a tuple refuses a claim for this.
    pub const fn is_of_claims(self) -> bool {
        matches!(
            self,
            DropReason::EspConflict
                | DropReason::AssociationConflict
                | DropReason::AssociationTableFull
                | DropReason::OwnershipViolation
        )
    }

    /// Whether a new flow of a subscriber was refused for want of room or by a limit. Its
    /// sender is told (RFC 6888 REQ-11b).
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            DropReason::PoolExhausted
                | DropReason::PoolSubscribers
                | DropReason::AddressExhausted
                | DropReason::AddressDraining
                | DropReason::SubscriberPorts
                | DropReason::LimitPorts
                | DropReason::LimitSessions
                | DropReason::LimitDestination
                | DropReason::LimitMappingSessions
                | DropReason::LimitFragments
                | DropReason::LimitSessionRate
                | DropReason::LimitBlocks
                | DropReason::ReservedPorts
                | DropReason::SubscriberTableFull
                | DropReason::MappingTableFull
                | DropReason::SessionTableFull
                | DropReason::EspWithoutIke
                | DropReason::EspConflict
                | DropReason::AssociationConflict
                | DropReason::AssociationTableFull
        )
    }
}

/// What a shard decided about a packet that it owns. The packet was rewritten in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it: translated, towards the external side.
    ForwardExternal,
    /// Send it: translated, towards the internal side.
    ForwardInternal,
    /// Source translated; the destination is an external endpoint of ours (RFC 4787 REQ-9).
    Hairpin,
    /// Do not forward it.
    Drop(DropReason),
    /// It has no ports; untouched, it goes to the keeper of its tuple under this external
    /// address.
    Associate(u32),
    /// Keep it until housekeeping has answered the request for a port block.
    AwaitBlock,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_name_and_a_sentence() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
            assert!(reason.sentence().ends_with('.'), "{}", reason.name());
        }
    }
}
