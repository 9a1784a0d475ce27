//! Where drivers put receive times.

use crate::errno::Errno;
use crate::port::{Port, PortError};

/// The place of the receive time in packets of one port; see [`crate::Mbuf::timestamp_ns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampField {
    pub(crate) offset: usize,
    /// Set in a packet's flags if it carries a time.
    pub(crate) flag: u64,
    pub(crate) ns_per_tick: u64,
}

/// Drivers that always stamp packets, and their unit. DPDK leaves the unit to the driver.
const STAMPING: &[(&str, u64)] = &[
    // The capture's own times, microseconds since 1970.
    ("net_pcap", 1000),
];

impl Port {
    /// Where this port's packets carry their receive time, if its driver is known to stamp
    /// them. The only one so far is net_pcap, with the times of the capture file; its
    /// `infinite_rx` mode does not stamp.
    pub fn timestamp_field(&self) -> Result<Option<TimestampField>, PortError> {
        let Some(&(_, ns_per_tick)) = STAMPING.iter().find(|(name, _)| *name == self.driver_name())
        else {
            return Ok(None);
        };
        let (mut offset, mut flag) = (-1, 0);
        let failure = |errno| PortError::Timestamp { name: self.name().to_owned(), errno };
        // SAFETY: both are valid places to write to. Registering again yields the same field.
        let code =
            unsafe { dpdk_sys::rte_mbuf_dyn_rx_timestamp_register(&raw mut offset, &raw mut flag) };
        if code != 0 {
            return Err(failure(Errno::last()));
        }
        let offset = usize::try_from(offset).map_err(|_| failure(Errno::from_return(offset)))?;
        assert!(
            offset.is_multiple_of(8) && offset + 8 <= size_of::<dpdk_sys::rte_mbuf>(),
            "DPDK placed a field at {offset}, outside the packet's descriptor"
        );
        Ok(Some(TimestampField { offset, flag, ns_per_tick }))
    }
}
