//! Receive-side scaling: what a driver lets be set, its table, and what it says it has.

use dpdk_sys::{rte_eth_rss_conf, rte_eth_rss_reta_entry64};

use super::bond::{Bond, of_members};
use super::{Port, PortError, RssFields, device_info, hash_functions};
use crate::Errno;

/// Entries in one of the groups that DPDK passes a table in.
const GROUP: usize = dpdk_sys::DPDK_RETA_GROUP as usize;

/// Longest key that DPDK can pass: its length is a byte.
const LONGEST_KEY: usize = 255;

/// What DPDK returns for what it cannot do.
const EINVAL: i32 = 22;

/// What a driver says it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssAbilities {
    /// Bytes of its key; a driver that does not say takes 40.
    pub key_bytes: usize,
    /// Entries of its table; 0 if it has none that can be set.
    pub table_entries: u16,
    /// It hashes addresses.
    pub hashes_addresses: bool,
}

impl Port {
    /// What the driver says it can do. It may say more once the port is started.
    pub fn rss_abilities(&self) -> Result<RssAbilities, PortError> {
        if let Some(bond) = &self.bond
            && !are_alike(bond)?
        {
            return Ok(RssAbilities { key_bytes: 40, table_entries: 0, hashes_addresses: false });
        }
        let info = device_info(self.id)
            .map_err(|errno| PortError::Info { name: self.name.clone(), errno })?;
        Ok(RssAbilities {
            key_bytes: if info.hash_key_size == 0 { 40 } else { usize::from(info.hash_key_size) },
            table_entries: info.reta_size,
            hashes_addresses: hash_functions(RssFields::Addresses, info.flow_type_rss_offloads)
                .is_some(),
        })
    }

    /// The key as the driver gives it back, as long as it says that it is; of a bond, as its members do.
    pub fn rss_key(&self) -> Result<Vec<u8>, PortError> {
        if let Some(bond) = &self.bond {
            return of_members(bond, Port::rss_key);
        }
        let length = self.rss_abilities()?.key_bytes.min(LONGEST_KEY);
        // Longer than any, whatever a driver believes it has been given.
        let mut key = vec![0u8; LONGEST_KEY];
        let mut conf = rte_eth_rss_conf {
            rss_key: key.as_mut_ptr(),
            rss_key_len: length as u8,
            ..rte_eth_rss_conf::default()
        };
        let _serialised = self.instance.control();
        // SAFETY: `conf` and the key that it points to are valid places to write to and outlive
        // the call; the key has room for every length that the driver can state.
        let code = unsafe { dpdk_sys::rte_eth_dev_rss_hash_conf_get(self.id, &raw mut conf) };
        self.rss_step("rte_eth_dev_rss_hash_conf_get", code)?;
        key.truncate(length);
        Ok(key)
    }

    /// Sets the key of a started port. Some drivers take no other: they ignore the one that a port
    /// is configured with.
    pub fn set_rss_key(&self, fields: RssFields, key: &[u8]) -> Result<(), PortError> {
        const STEP: &str = "rte_eth_dev_rss_hash_update";
        let info = device_info(self.id)
            .map_err(|errno| PortError::Info { name: self.name.clone(), errno })?;
        let hashed = hash_functions(fields, info.flow_type_rss_offloads);
        let (Ok(rss_key_len), Some(rss_hf)) = (u8::try_from(key.len()), hashed) else {
            return self.rss_step(STEP, -EINVAL);
        };
        // The driver reads it through a mutable pointer.
        let mut key = key.to_vec();
        let mut conf = rte_eth_rss_conf { rss_key: key.as_mut_ptr(), rss_key_len, rss_hf };
        let _serialised = self.instance.control();
        // SAFETY: a valid port; `conf` and the key, which has the stated length, outlive the call.
        let code = unsafe { dpdk_sys::rte_eth_dev_rss_hash_update(self.id, &raw mut conf) };
        self.rss_step(STEP, code)
    }

    /// Sets the table: the queue of each entry. The port must be started.
    pub fn set_rss_table(&self, queues: &[u16]) -> Result<(), PortError> {
        let mut groups: Vec<_> = queues
            .chunks(GROUP)
            .map(|chunk| {
                let mut group = rte_eth_rss_reta_entry64 { mask: mask(chunk.len()), reta: [0; _] };
                group.reta[..chunk.len()].copy_from_slice(chunk);
                group
            })
            .collect();
        let Ok(size) = u16::try_from(queues.len()) else {
            return self.rss_step("rte_eth_dev_rss_reta_update", -EINVAL);
        };
        let _serialised = self.instance.control();
        // SAFETY: a valid port; there is a group for every 64 of `size` entries.
        let code =
            unsafe { dpdk_sys::rte_eth_dev_rss_reta_update(self.id, groups.as_mut_ptr(), size) };
        self.rss_step("rte_eth_dev_rss_reta_update", code)
    }

    /// The table as the driver gives it back; of a bond, as its members do.
    pub fn rss_table(&self) -> Result<Vec<u16>, PortError> {
        if let Some(bond) = &self.bond {
            return of_members(bond, Port::rss_table);
        }
        let size = self.rss_abilities()?.table_entries;
        let count = usize::from(size);
        let mut groups: Vec<_> = (0..count)
            .step_by(GROUP)
            .map(|first| rte_eth_rss_reta_entry64 {
                mask: mask((count - first).min(GROUP)),
                reta: [0; _],
            })
            .collect();
        let _serialised = self.instance.control();
        // SAFETY: a valid port; there is a group for every 64 of `size` entries to write to.
        let code =
            unsafe { dpdk_sys::rte_eth_dev_rss_reta_query(self.id, groups.as_mut_ptr(), size) };
        self.rss_step("rte_eth_dev_rss_reta_query", code)?;
        Ok(groups.iter().flat_map(|group| group.reta).take(count).collect())
    }

    fn rss_step(&self, step: &'static str, code: i32) -> Result<(), PortError> {
        match code {
            0 => Ok(()),
            code => Err(PortError::Rss {
                step,
                name: self.name.clone(),
                errno: Errno::from_return(code),
            }),
        }
    }
}

/// Whether all members of a bond say that they can do the same.
fn are_alike(bond: &Bond) -> Result<bool, PortError> {
    let mut abilities = Vec::new();
    for member in &bond.members {
        abilities.push((member.driver_name(), member.rss_abilities()?));
    }
    Ok(abilities.windows(2).all(|pair| pair[0] == pair[1]))
}

fn mask(entries: usize) -> u64 {
    if entries >= GROUP { u64::MAX } else { (1 << entries) - 1 }
}

/// The Toeplitz hash as DPDK computes it, of up to 16 words in host order: what a card yields for
/// a packet whose fields these are.
///
/// # Panics
/// If the key is not longer than the words by four bytes.
pub fn soft_rss(key: &[u8], words: &[u32]) -> u32 {
    assert!(key.len() >= 4 * (words.len() + 1), "a key of {} bytes is too short", key.len());
    // Aligned as the words that DPDK reads.
    let mut aligned: Vec<u32> = Vec::with_capacity(key.len() / 4);
    for bytes in key.chunks_exact(4) {
        aligned.push(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    }
    let mut words = words.to_vec();
    // SAFETY: reads `words.len()` words and one more of the key than these, which it has.
    unsafe {
        dpdk_sys::rte_softrss(words.as_mut_ptr(), words.len() as u32, aligned.as_ptr().cast())
    }
}
