//! Ports on several devices that are one (decision 36).

use super::Device;

impl Device {
    /// The devices that it consists of: the members of a bond, else itself.
    pub fn parts(&self) -> &[Device] {
        match self {
            Device::Bond { members, .. } => members,
            Device::Pci(_) | Device::Virtual { .. } => std::slice::from_ref(self),
        }
    }

    /// Whether it is a card, or a bond of cards.
    pub fn is_card(&self) -> bool {
        self.parts().iter().all(|part| matches!(part, Device::Pci(_)))
    }

    /// Whether it is a bond.
    pub fn is_bond(&self) -> bool {
        matches!(self, Device::Bond { .. })
    }
}
