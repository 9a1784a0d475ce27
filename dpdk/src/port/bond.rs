//! Bonds: several devices that DPDK's net_bonding makes one port of (decision 36).
//!
//! Always true:
//! 1. the members are ours as long as the bond is; nobody else finds them, and they are closed after it;
//! 2. a bond's name begins with `net_bonding`: that is how DPDK finds the driver.
//!
//! It does not receive or send: a bond's queues are those of any port.

use std::ffi::CString;

use super::{Port, PortError, PortStats};
use crate::eal::Eal;
use crate::{Errno, log};

/// Most members of a bond.
pub const MOST_MEMBERS: usize = 8;

/// What DPDK returns for what cannot be.
const EINVAL: i32 = 22;

/// How the members of a bond share its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BondMode {
    /// One at a time; the others wait for its link to go.
    ActiveBackup,
    /// Those that the partner agrees on by LACP (IEEE 802.1AX), a flow on one of them.
    Lacp,
}

/// How a member of a bond is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberState {
    /// Whether its link is up, as far as its driver knows.
    pub link_up: bool,
    /// Whether packets go by it.
    pub carries: bool,
}

/// What makes a port a bond.
#[derive(Debug)]
pub(super) struct Bond {
    mode: BondMode,
    pub(super) members: Vec<Port>,
}

impl Port {
    /// Makes one port of 1 to 8 devices, found as [`Port::by_name`] does. Its name has to
    /// begin with `net_bonding`.
    ///
    /// # Errors
    /// A device is not there or in use, or DPDK refuses it.
    pub fn bond(
        eal: &Eal,
        name: &str,
        mode: BondMode,
        members: &[&str],
    ) -> Result<Self, PortError> {
        let mut members: Vec<Port> =
            members.iter().map(|member| Port::by_name(eal, member)).collect::<Result<_, _>>()?;
        let mark = log::mark();
        let done = |step, code: i32| match code {
            0.. => Ok(code),
            _ => {
                let said = match log::since(mark) {
                    said if said.is_empty() => "nothing".to_owned(),
                    said => said,
                };
                let errno = Errno::from_return(code);
                Err(PortError::Start { step, name: name.to_owned(), errno, said })
            }
        };
        let text = CString::new(name).map_err(|_| PortError::Bond { name: name.to_owned() })?;
        if members.is_empty() || members.len() > MOST_MEMBERS || !name.starts_with("net_bonding") {
            return Err(PortError::Bond { name: name.to_owned() });
        }
        if mode == BondMode::Lacp {
            share_mac(&members)?;
        }
        let node = members[0].socket().unwrap_or(0) as u8;
        let number = match mode {
            BondMode::ActiveBackup => dpdk_sys::DPDK_BOND_ACTIVE_BACKUP,
            BondMode::Lacp => dpdk_sys::DPDK_BOND_LACP,
        };
        let serialised = eal.instance().control();
        // SAFETY: a NUL-terminated name, which DPDK copies.
        let code = unsafe { dpdk_sys::rte_eth_bond_create(text.as_ptr(), number, node) };
        let id = done("rte_eth_bond_create", code)? as u16;
        let built = || {
            // SAFETY: the port that was just made, which nobody uses yet.
            done("rte_eth_bond_xmit_policy_set", unsafe {
                dpdk_sys::rte_eth_bond_xmit_policy_set(id, dpdk_sys::DPDK_BOND_BY_PORTS)
            })?;
            for member in &members {
                // SAFETY: likewise, and a port that is ours and not started.
                done("rte_eth_bond_slave_add", unsafe {
                    dpdk_sys::rte_eth_bond_slave_add(id, member.id)
                })?;
            }
            Ok(())
        };
        let built = built();
        if built.is_err() {
            // SAFETY: nobody has a handle for it.
            unsafe { dpdk_sys::rte_eth_bond_free(text.as_ptr()) };
        }
        drop(serialised);
        built?;
        let mut port = Self::by_name(eal, name)?;
        // Part of another port that may be started: each is closed when it is gone.
        members.iter_mut().for_each(|member| member.touched = true);
        port.bond = Some(Bond { mode, members });
        Ok(port)
    }

    /// How the members of a bond are, in the order that they were given in; none of any other port.
    ///
    /// # Errors
    /// DPDK does not say.
    pub fn members(&self) -> Result<Vec<MemberState>, PortError> {
        let Some(bond) = &self.bond else { return Ok(Vec::new()) };
        let carriers = self.carriers(bond.mode)?;
        let state = |member: &Port| {
            let link_up = member.link_up()?;
            Ok(MemberState { link_up, carries: link_up && carriers.contains(&member.id) })
        };
        bond.members.iter().map(state).collect()
    }

    /// What each member of a bond counted; none of any other port.
    ///
    /// # Errors
    /// DPDK does not say.
    pub fn member_stats(&self) -> Result<Vec<PortStats>, PortError> {
        self.bond.iter().flat_map(|bond| &bond.members).map(|member| member.stats()).collect()
    }

    /// Whether it is to be looked after in every poll (see [`crate::TxQueue::tend`]).
    pub(crate) fn speaks_lacp(&self) -> bool {
        self.bond.as_ref().is_some_and(|bond| bond.mode == BondMode::Lacp)
    }

    /// Whether any member of a bond carries packets.
    pub(super) fn carries(&self, bond: &Bond) -> Result<bool, PortError> {
        Ok(self.carriers(bond.mode)?.iter().any(|id| bond.members.iter().any(|m| m.id == *id)))
    }

    /// Ids of the members that packets go by.
    fn carriers(&self, mode: BondMode) -> Result<Vec<u16>, PortError> {
        let mut active = [0; MOST_MEMBERS];
        let _serialised = self.instance.control();
        // SAFETY: a bond, and as many places as are stated.
        let count = unsafe {
            dpdk_sys::rte_eth_bond_active_slaves_get(
                self.id,
                active.as_mut_ptr(),
                MOST_MEMBERS as u16,
            )
        };
        let step =
            |code| PortError::Link { name: self.name.clone(), errno: Errno::from_return(code) };
        let count = usize::try_from(count).map_err(|_| step(count))?;
        let mut active = active[..count.min(MOST_MEMBERS)].to_vec();
        match mode {
            BondMode::ActiveBackup => {
                // SAFETY: a bond.
                let primary = unsafe { dpdk_sys::rte_eth_bond_primary_get(self.id) };
                active.retain(|id| i32::from(*id) == primary);
            }
            BondMode::Lacp => {
                const BOTH: u8 = dpdk_sys::DPDK_LACP_COLLECTING | dpdk_sys::DPDK_LACP_DISTRIBUTING;
                active.retain(|id| {
                    let mut info = dpdk_sys::rte_eth_bond_8023ad_slave_info::default();
                    // SAFETY: a bond, and a valid place to write to. A member that has ceased to be
                    // active meanwhile is refused.
                    let code = unsafe {
                        dpdk_sys::rte_eth_bond_8023ad_slave_info(self.id, *id, &raw mut info)
                    };
                    code == 0 && info.actor_state & BOTH == BOTH
                });
            }
        }
        Ok(active)
    }
}

/// Gives all members the MAC of the first: net_bonding leaves them theirs in this mode, so they would
/// filter out what is for the bond.
fn share_mac(members: &[Port]) -> Result<(), PortError> {
    let Some((first, others)) = members.split_first() else { return Ok(()) };
    let mut mac = dpdk_sys::rte_ether_addr { addr_bytes: first.mac()? };
    for member in others {
        let _serialised = member.instance.control();
        // SAFETY: a port that is ours and not started; the address is read only.
        let code = unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(member.id, &raw mut mac) };
        if code != 0 {
            let (name, errno) = (member.name.clone(), Errno::from_return(code));
            let refused = PortError::SetMac { name, errno };
            return Err(refused);
        }
    }
    Ok(())
}

/// Reads something of every member of a bond: that of the first, unless another member's differs,
/// which then is the answer. So nobody believes the bond that all of them are alike.
pub(super) fn of_members<T: PartialEq>(
    bond: &Bond,
    read: impl Fn(&Port) -> Result<T, PortError>,
) -> Result<T, PortError> {
    let mut values = bond.members.iter().map(read);
    let invalid = || PortError::Link { name: String::new(), errno: Errno::from_return(-EINVAL) };
    let first = values.next().ok_or_else(invalid)??;
    for value in values {
        let value = value?;
        if value != first {
            return Ok(value);
        }
    }
    Ok(first)
}
