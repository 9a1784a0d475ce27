//! Emulated network cards of a guest: what qemu and the guest's kernel call them.

use crate::lab::{MACS, TAPS};

/// PCI address of the card towards the subscribers.
pub const INTERNAL_CARD: &str = "0000:00:10.0";
/// PCI address of the card towards the servers.
pub const EXTERNAL_CARD: &str = "0000:00:11.0";
/// What qemu calls them, in this order.
pub(super) const NAMES: [&str; 2] = ["inner", "outer"];
/// PCI address of a device in the internal card's IOMMU group, where there is one.
pub const SIBLING: &str = "0000:00:10.1";

/// A kind of card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Card {
    /// Intel 82574L.
    E1000e,
    /// VMware's paravirtual card.
    Vmxnet3,
    /// virtio-net, with receive-side scaling and behind the IOMMU.
    Virtio,
}

impl Card {
    /// Module of the kernel's driver.
    pub fn module(self) -> &'static str {
        match self {
            Card::E1000e => "e1000e",
            Card::Vmxnet3 => "vmxnet3",
            Card::Virtio => "virtio_net",
        }
    }

    /// Driver that the kernel binds its PCI device to.
    pub fn kernel_driver(self) -> &'static str {
        match self {
            Card::E1000e => "e1000e",
            Card::Vmxnet3 => "vmxnet3",
            Card::Virtio => "virtio-pci",
        }
    }

    /// Receive and transmit queues that qemu gives it.
    fn queues(self) -> u16 {
        match self {
            Card::E1000e | Card::Vmxnet3 => 1,
            Card::Virtio => 2,
        }
    }

    /// Arguments of qemu for both cards, each on a tap that it makes.
    pub(super) fn arguments(self, with_sibling: bool) -> Vec<String> {
        let mut arguments = Vec::new();
        let places = [("10.0", MACS[1]), ("11.0", MACS[2])];
        for (number, ((place, mac), tap)) in places.into_iter().zip(TAPS).enumerate() {
            let mut backend =
                format!("tap,id=net{number},ifname={tap},script=no,downscript=no,vhost=off");
            let queues = self.queues();
            if queues > 1 {
                backend.push_str(&format!(",queues={queues}"));
            }
            let id = NAMES[number];
            let common = format!("netdev=net{number},mac={mac},addr={place},romfile=,id={id}");
            let mut device = match self {
                Card::E1000e => format!("e1000e,{common}"),
                Card::Vmxnet3 => format!("vmxnet3,{common}"),
                // An interrupt of each queue, of changes and of control.
                Card::Virtio => format!(
                    "virtio-net-pci,{common},disable-legacy=on,iommu_platform=on,mq=on,vectors={},\
                     rss=on,hash=on",
                    2 * queues + 2
                ),
            };
            if number == 0 && with_sibling {
                device.push_str(",multifunction=on");
            }
            arguments.extend(["-netdev".to_owned(), backend, "-device".to_owned(), device]);
        }
        if with_sibling {
            // Not an e1000e: of those the kernel knows that their functions are apart.
            arguments.extend(["-device".to_owned(), "vmxnet3,addr=10.1,romfile=".to_owned()]);
        }
        arguments
    }
}
