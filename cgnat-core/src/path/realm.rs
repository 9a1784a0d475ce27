//! Which realm a remote end is in, for a subscriber: that decides which of its mappings, and so
//! which of its external addresses, a flow uses.
//!
//! A mapping is for the remote ends of its realm alone. A reply to anybody else would leave by
//! another external endpoint, so nobody else is let in by it (RFC 4787 REQ-8 within a realm).

use crate::endpoint::{FlowKey, InternalEndpoint, IpProtocol, Protocol, Realm, RemoteEndpoint};
use crate::shard::Shard;

impl Shard {
    /// What a flow is looked up by.
    #[inline]
    pub(super) fn flow_key(
        &self,
        internal: InternalEndpoint,
        protocol: Protocol,
        remote: RemoteEndpoint,
    ) -> FlowKey {
        let realm = match self.groups.by_destination() {
            false => Realm::OWN,
            true => self.realm_by_rules(internal.address.0, protocol.into(), remote),
        };
        FlowKey { internal, protocol, realm }
    }

    /// The realm of a flow of a protocol without ports.
    pub(super) fn portless_realm(&self, subscriber: u32, protocol: u8, remote: u32) -> Realm {
        self.realm_by_rules(subscriber, IpProtocol(protocol), RemoteEndpoint::new(remote, 0))
    }

    fn realm_by_rules(
        &self,
        subscriber: u32,
        protocol: IpProtocol,
        remote: RemoteEndpoint,
    ) -> Realm {
        let group = self.group_of(subscriber);
        group.map_or(Realm::OWN, |group| self.groups[group].destinations.realm_of(protocol, remote))
    }

    /// Whether an inbound packet from `remote` has no business with a mapping.
    #[inline]
    pub(super) fn is_of_other_realm(
        &self,
        mapping: u32,
        protocol: Protocol,
        remote: RemoteEndpoint,
    ) -> bool {
        self.groups.by_destination() && {
            let mapping = &self.mappings[mapping];
            let group = self.subscribers[mapping.subscriber].group;
            let realm = self.groups[group].destinations.realm_of(protocol.into(), remote);
            realm != mapping.realm()
        }
    }
}
