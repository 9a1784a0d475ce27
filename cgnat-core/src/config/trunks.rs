//! Ports that share a device, told apart by their VLAN tags (decision 34).
//!
//! The first of them in the file opens the device; the others are beside it.

use super::{Config, Device, Port};

impl Config {
    /// The first port on the device of a port: itself, unless it is beside an earlier one.
    pub fn first_on_device(&self, port: usize) -> usize {
        let name = self.ports[port].device.name();
        let first = self.ports.iter().position(|other| other.device.name() == name);
        first.unwrap_or(port)
    }

    /// The ports on the device of a port, by number.
    pub fn on_device(&self, port: usize) -> impl Iterator<Item = (usize, &Port)> {
        let name = self.ports[port].device.name();
        self.ports.iter().enumerate().filter(move |(_, other)| other.device.name() == name)
    }

    /// The ports that open a device, by number.
    pub fn devices(&self) -> impl Iterator<Item = (usize, &Port)> {
        let all = self.ports.iter().enumerate();
        all.filter(|(number, _)| self.first_on_device(*number) == *number)
    }
}

impl Device {
    /// Its name in DPDK.
    pub fn name(&self) -> &str {
        match self {
            Device::Pci(address) => address,
            Device::Virtual { name, .. } | Device::Bond { name, .. } => name,
        }
    }
}
