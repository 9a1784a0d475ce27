//! Network cards: bound to a driver that gives them to DPDK, behind an IOMMU, with their whole
//! IOMMU group (decision 25). All from /sys and /dev; nothing is opened.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use cgnat_core::config::Port;
use rustix::fs::{Access, access};

use super::{Preflight, subject};

const VFIO: &str = "vfio-pci";
/// Drivers under which DPDK can use a PCI device.
const DPDK_DRIVERS: [&str; 5] = [VFIO, "igb_uio", "uio_pci_generic", "mlx5_core", "mlx4_core"];
/// Drivers of neighbours in an IOMMU group that do no DMA of their own.
const HARMLESS: [&str; 3] = [VFIO, "pci-stub", "pcieport"];
/// First byte of the PCI class of network controllers.
const NETWORK: &str = "0x02";

const IOMMU: &str = "which vfio-pci needs: switch VT-d or AMD-Vi on in the firmware and boot the \
                     kernel with intel_iommu=on iommu=pt (on AMD iommu=pt)";

/// What keeps a port's card from being used.
pub(super) fn pci(here: &mut Preflight, port: &Port, address: &str, root: &Path) {
    let subject = subject(port);
    let device = root.join("sys/bus/pci/devices").join(address);
    if !device.exists() {
        let message = format!(
            "there is no PCI device {address}; expected a network card; dpdk-devbind.py -s lists \
             them"
        );
        return here.error(&subject, message);
    }
    // Without the file nothing can be said.
    let class = fs::read_to_string(device.join("class")).ok();
    if let Some(class) = class.as_deref().map(str::trim).filter(|c| !c.starts_with(NETWORK)) {
        let message = format!(
            "{address} is no network card (PCI class {class}, expected {NETWORK}....); \
             dpdk-devbind.py -s lists them"
        );
        return here.error(&subject, message);
    }
    match driver_of(&device) {
        Some(driver) if driver == VFIO => vfio(here, &subject, address, &device, root),
        Some(driver) if DPDK_DRIVERS.contains(&driver.as_str()) => {}
        bound => here.error(&subject, unbound(address, bound.as_deref(), &device, root)),
    }
}

/// What to do about a card that DPDK cannot have yet.
fn unbound(address: &str, driver: Option<&str>, device: &Path, root: &Path) -> String {
    let bound = match driver {
        Some(driver) => format!("bound to the kernel driver {driver}"),
        None => "bound to no driver".to_owned(),
    };
    let bind = format!("bind it with: driverctl set-override {address} {VFIO}");
    if !device.join("iommu_group").exists() {
        return format!("{address} is {bound} and behind no IOMMU, {IOMMU}; then {bind}");
    }
    let load = match root.join("sys/bus/pci/drivers").join(VFIO).exists() {
        true => "",
        false => "load the driver with: modprobe vfio-pci; ",
    };
    format!("{address} is {bound}, expected {VFIO}; {load}{bind}")
}

/// A card of vfio-pci can be used only together with all that shares its IOMMU group.
fn vfio(here: &mut Preflight, subject: &str, address: &str, device: &Path, root: &Path) {
    let group = fs::read_link(device.join("iommu_group")).ok();
    let group = group.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    let Some(group) = group else {
        let message = format!("{address} is bound to {VFIO} and behind no IOMMU, {IOMMU}");
        return here.error(subject, message);
    };
    let members = fs::read_dir(device.join("iommu_group/devices")).into_iter().flatten().flatten();
    let mut members: Vec<String> =
        members.filter_map(|member| member.file_name().into_string().ok()).collect();
    members.sort();
    for member in members.iter().filter(|member| *member != address) {
        let driver = driver_of(&root.join("sys/bus/pci/devices").join(member));
        let Some(driver) = driver.filter(|driver| !HARMLESS.contains(&driver.as_str())) else {
            continue;
        };
        let message = format!(
            "{address} shares IOMMU group {group} with {member}, which is bound to {driver}; \
             expected nobody else in the group: driverctl set-override {member} {VFIO}, or put the \
             card into another slot"
        );
        here.error(subject, message);
    }
    for node in ["vfio", group] {
        let path = root.join("dev/vfio").join(node);
        match access(&path, Access::READ_OK | Access::WRITE_OK).map_err(|error| error.kind()) {
            Ok(()) => {}
            Err(ErrorKind::PermissionDenied) => {
                let message = format!(
                    "{address} needs /dev/vfio/{node}, which this user may not open; run as root, \
                     or: chown $USER /dev/vfio/{node}"
                );
                here.denied(subject, message);
            }
            Err(_) => {
                let message = format!(
                    "{address} needs /dev/vfio/{node}, which is not there; in a container, pass \
                     /dev/vfio on"
                );
                here.error(subject, message);
            }
        }
    }
}

/// The name of the driver that a device is bound to.
fn driver_of(device: &Path) -> Option<String> {
    let driver = fs::read_link(device.join("driver")).ok()?;
    Some(driver.file_name()?.to_str()?.to_owned())
}
