//! Subscriber groups: whose an internal address is, what its subscribers may take, and of which
//! pools.

use crate::config::Config;
use crate::endpoint::Realm;
use crate::policy::admission::Limits;
use crate::policy::destinations::Destinations;

/// One group.
#[derive(Debug)]
pub struct Group {
    /// What each of its subscribers may take, over all realms.
    pub limits: Limits,
    /// Indices of pools in the order in which they are tried, by realm.
    pub pools: Vec<Vec<u16>>,
    /// Which realm a remote end is in.
    pub destinations: Destinations,
}

impl Group {
    /// Realms that its subscribers can have state in.
    pub fn realms(&self) -> impl Iterator<Item = Realm> + use<> {
        (0..self.pools.len() as u8).map(Realm)
    }
}

/// All groups, in the order of the configuration.
#[derive(Debug)]
pub struct Groups {
    groups: Vec<Group>,
    /// First and last address and group; ascending, without overlap.
    ranges: Vec<(u32, u32, u16)>,
    by_destination: bool,
    limits_fragments: bool,
}

impl Groups {
    /// Those of a configuration.
    pub fn new(config: &Config) -> Self {
        let list = |pools: &Vec<usize>| pools.iter().map(|pool| *pool as u16).collect();
        let groups = config.groups().iter().map(|group| Group {
            limits: Limits::new(group.limits()),
            pools: group.realms().iter().map(list).collect(),
            destinations: Destinations::new(group.destinations()),
        });
        let groups: Vec<Group> = groups.collect();
        let pieces = config.pieces_by_group().into_iter();
        let mut ranges: Vec<_> =
            pieces.map(|(first, last, group)| (first, last, group as u16)).collect();
        ranges.sort_unstable();
        let by_destination = groups.iter().any(|group| !group.destinations.is_empty());
        let limits_fragments = groups.iter().any(|group| group.limits.fragments().is_some());
        Self { groups, ranges, by_destination, limits_fragments }
    }

    /// Number of the group of an internal address: the first in the file that holds it.
    pub fn of(&self, address: u32) -> Option<u16> {
        let after = self.ranges.partition_point(|range| range.0 <= address);
        let (_, last, group) = self.ranges[..after].last()?;
        (address <= *last).then_some(*group)
    }

    /// Whether some group limits datagrams in fragments.
    pub fn limits_fragments(&self) -> bool {
        self.limits_fragments
    }

    /// Whether some group chooses pools by destination.
    #[inline]
    pub fn by_destination(&self) -> bool {
        self.by_destination
    }
}

impl std::ops::Index<u16> for Groups {
    type Output = Group;

    fn index(&self, number: u16) -> &Group {
        &self.groups[usize::from(number)]
    }
}
