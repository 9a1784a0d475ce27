//! Another version of external space: what a reload makes of it, and what is left of it when
//! addresses have left.
//!
//! The places of a pool and the numbers of their blocks stay as they were at the start; what
//! changes is which address stands at a place and what it may be used for.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{AddressState, ExternalSpace, Place, PoolGeometry};
use crate::config::{Config, Pool};
use crate::endpoint::ExternalAddress;

/// Why external space cannot become as a configuration says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevisionError {
    /// There are not as many places.
    #[error(
        "pools.{pool}.addresses: {needed} more than there is room for; {vacant} of \
         `spare-addresses` are left, and those that drain give back theirs when they are drained"
    )]
    NoPlace {
        /// Name of the pool.
        pool: String,
        /// Addresses without a place.
        needed: usize,
        /// Places that were vacant.
        vacant: usize,
    },
    /// Another pool has not forgotten it yet.
    #[error("pools.{pool}.addresses: {address} still drains in another pool; reload again later")]
    Elsewhere {
        /// Name of the pool.
        pool: String,
        /// The address.
        address: Ipv4Addr,
    },
    /// The addresses of subscribers follow from the list.
    #[error(
        "needs a restart: pools.{pool}.addresses: the addresses of this pool's subscribers follow \
         from the list"
    )]
    Fixed {
        /// Name of the pool.
        pool: String,
    },
    /// The pools are others.
    #[error("needs a restart: pools: there are others")]
    OtherPools,
}

impl ExternalSpace {
    /// This space with the addresses of `config`; `None` if it has them already.
    ///
    /// # Errors
    /// If it cannot have them; nothing has changed then.
    pub fn revised(&self, config: &Config) -> Result<Option<Self>, RevisionError> {
        if config.pools().len() != self.pools.len() {
            return Err(RevisionError::OtherPools);
        }
        let mut next = self.copy();
        for (number, pool) in config.pools().iter().enumerate() {
            self.revise_pool(&mut next, number as u16, pool)?;
        }
        if next.changes.is_empty() {
            return Ok(None);
        }
        next.index();
        Ok(Some(next))
    }

    fn revise_pool(&self, next: &mut Self, number: u16, pool: &Pool) -> Result<(), RevisionError> {
        let name = || pool.name().to_owned();
        let geometry = &mut next.pools[usize::from(number)];
        let state = |address: &Ipv4Addr| match pool.drain().binary_search(address) {
            Ok(_) => AddressState::Draining,
            Err(_) => AddressState::Open,
        };
        let mut wanted: BTreeMap<u32, AddressState> =
            pool.addresses().iter().map(|a| (u32::from(*a), state(a))).collect();
        let mut changes = Vec::new();
        let mut vacant = Vec::new();
        for (index, place) in geometry.places.iter_mut().enumerate() {
            if place.state == AddressState::Vacant {
                vacant.push(index);
                continue;
            }
            let state = wanted.remove(&place.address.0).unwrap_or(AddressState::Leaving);
            if state != place.state {
                place.state = state;
                changes.push((number, index as u32));
            }
        }
        let (needed, room) = (wanted.len(), vacant.len());
        if !geometry.is_flexible() && (!changes.is_empty() || needed > 0) {
            return Err(RevisionError::Fixed { pool: name() });
        }
        if needed > room {
            let needed = needed - room;
            return Err(RevisionError::NoPlace { pool: name(), needed, vacant: room });
        }
        for ((address, state), index) in wanted.into_iter().zip(vacant) {
            let address = ExternalAddress(address);
            if self.pool_of(address).is_some() {
                return Err(RevisionError::Elsewhere { pool: name(), address: address.into() });
            }
            geometry.places[index] = Place { address, state };
            changes.push((number, index as u32));
        }
        next.changes.append(&mut changes);
        Ok(())
    }

    /// This space without some addresses, as pool and index.
    pub fn without(&self, left: &[(u16, u32)]) -> Self {
        let mut next = self.copy();
        for (pool, index) in left {
            next.pools[usize::from(*pool)].places[*index as usize] = Place::VACANT;
        }
        next.changes = left.to_vec();
        next.index();
        next
    }

    /// Pool and index of the addresses that no block is lent of any more.
    pub fn closing(&self) -> impl Iterator<Item = (u16, u32)> {
        let closing =
            |place: &Place| matches!(place.state, AddressState::Draining | AddressState::Leaving);
        let of_pool = move |(number, pool): (usize, &PoolGeometry)| {
            let places = pool.places.iter().enumerate().filter(move |(_, place)| closing(place));
            places.map(|(index, _)| (number as u16, index as u32)).collect::<Vec<_>>()
        };
        self.pools.iter().enumerate().flat_map(of_pool)
    }

    fn copy(&self) -> Self {
        Self {
            version: self.version + 1,
            changes: Vec::new(),
            pools: self.pools.clone(),
            runs: self.runs.clone(),
            remote: self.remote.clone(),
            blocks: self.blocks,
            occupancy: self.occupancy.clone(),
            statics: self.statics.clone(),
        }
    }
}
