//! A machine with network cards, made of files: what keeps a card from being used is said in one
//! line with port, address, what was expected and what helps.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use cgnat_app::preflight::preflight;
use cgnat_core::config::Config;
use tempfile::TempDir;

const CARD: &str = "0000:3b:00.0";
const OTHER: &str = "0000:3b:00.1";

/// Makes a card in a group, without a driver.
fn card(root: &TempDir, address: &str, class: &str, group: Option<&str>) {
    let device = root.path().join("sys/bus/pci/devices").join(address);
    fs::create_dir_all(&device).expect("a directory");
    fs::write(device.join("class"), class).expect("writable");
    if let Some(group) = group {
        let group = root.path().join("sys/kernel/iommu_groups").join(group);
        fs::create_dir_all(group.join("devices").join(address)).expect("a directory");
        symlink(group, device.join("iommu_group")).expect("a link");
    }
}

fn bind(root: &TempDir, address: &str, driver: &str) {
    let link = root.path().join("sys/bus/pci/devices").join(address).join("driver");
    let _ = fs::remove_file(&link);
    symlink(Path::new("../../../bus/pci/drivers").join(driver), link).expect("a link");
}

fn load_vfio(root: &TempDir, nodes: &[&str]) {
    let driver = root.path().join("sys/bus/pci/drivers/vfio-pci");
    fs::create_dir_all(driver).expect("a directory");
    fs::create_dir_all(root.path().join("dev/vfio")).expect("a directory");
    for node in nodes {
        fs::write(root.path().join("dev/vfio").join(node), "").expect("writable");
    }
}

/// What is said of port internal0, without the beginning of each line.
fn said(root: &TempDir) -> Vec<String> {
    said_of(root, &format!("device: \"{CARD}\""))
}

/// Likewise, with another device.
fn said_of(root: &TempDir, device: &str) -> Vec<String> {
    let text = format!(
        "version: 1\nsystem: {{ huge-pages: off }}\nports:\n  internal0:\n    side: internal\n    \
         {device}\n    addresses: [10.255.0.2/30]\n    next-hop: 10.255.0.1\n  \
         external0:\n    side: external\n    device: net_null0\n    addresses: [192.0.2.2/30]\n    \
         next-hop: 192.0.2.1\npools: {{ main: {{ addresses: [203.0.113.0/28] }} }}\nsubscribers:\n  \
         - {{ name: all, match: [100.64.0.0/10], pool: main }}\n"
    );
    let config = Config::from_yaml("t.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
    let here = preflight(&config, root.path());
    let line = |text: String| {
        text.strip_prefix("error: port internal0: ").map_or(text.clone(), str::to_owned)
    };
    here.findings.iter().map(|finding| line(finding.to_string())).collect()
}

#[test]
fn a_card_must_be_there_and_be_one() {
    let root = tempfile::tempdir().expect("a directory");
    let expected = "there is no PCI device 0000:3b:00.0; expected a network card; \
                    dpdk-devbind.py -s lists them";
    assert_eq!(said(&root), [expected]);
    card(&root, CARD, "0x010802\n", Some("7"));
    let expected = "0000:3b:00.0 is no network card (PCI class 0x010802, expected 0x02....); \
                    dpdk-devbind.py -s lists them";
    assert_eq!(said(&root), [expected]);
}

#[test]
fn every_member_of_a_bond_must_be_there() {
    let root = tempfile::tempdir().expect("a directory");
    card(&root, CARD, "0x020000\n", Some("7"));
    bind(&root, CARD, "vfio-pci");
    load_vfio(&root, &["vfio", "7"]);
    let bond = format!("bond: {{ mode: lacp, members: [\"{CARD}\", \"{OTHER}\"] }}");
    let expected = "there is no PCI device 0000:3b:00.1; expected a network card; \
                    dpdk-devbind.py -s lists them";
    assert_eq!(said_of(&root, &bond), [expected]);
    card(&root, OTHER, "0x020000\n", Some("8"));
    bind(&root, OTHER, "igb_uio");
    assert_eq!(said_of(&root, &bond), [""; 0]);
}

#[test]
fn a_card_that_dpdk_cannot_have_is_said_with_the_way_there() {
    let root = tempfile::tempdir().expect("a directory");
    card(&root, CARD, "0x020000\n", Some("7"));
    let bind_it = "bind it with: driverctl set-override 0000:3b:00.0 vfio-pci";
    let load = "load the driver with: modprobe vfio-pci; ";
    let is = |what: &str| format!("0000:3b:00.0 is {what}, expected vfio-pci; ");
    assert_eq!(said(&root), [format!("{}{load}{bind_it}", is("bound to no driver"))]);
    bind(&root, CARD, "ice");
    assert_eq!(said(&root), [format!("{}{load}{bind_it}", is("bound to the kernel driver ice"))]);
    load_vfio(&root, &["vfio", "7"]);
    assert_eq!(said(&root), [format!("{}{bind_it}", is("bound to the kernel driver ice"))]);
    for driver in ["vfio-pci", "mlx5_core", "uio_pci_generic"] {
        bind(&root, CARD, driver);
        assert_eq!(said(&root), [""; 0], "{driver}");
    }
}

#[test]
fn without_an_iommu_there_is_no_vfio() {
    let root = tempfile::tempdir().expect("a directory");
    card(&root, CARD, "0x020000\n", None);
    load_vfio(&root, &["vfio"]);
    bind(&root, CARD, "ice");
    let found = said(&root);
    let begins = "0000:3b:00.0 is bound to the kernel driver ice and behind no IOMMU, which vfio-pci \
                  needs: switch VT-d or AMD-Vi on in the firmware";
    assert!(found.len() == 1 && found[0].starts_with(begins), "{found:?}");
    bind(&root, CARD, "vfio-pci");
    let found = said(&root);
    let begins = "0000:3b:00.0 is bound to vfio-pci and behind no IOMMU, which vfio-pci needs";
    assert!(found.len() == 1 && found[0].starts_with(begins), "{found:?}");
}

#[test]
fn a_group_is_shared_with_nobody_who_is_driven_by_others() {
    let root = tempfile::tempdir().expect("a directory");
    for address in [CARD, OTHER] {
        card(&root, address, "0x020000\n", Some("7"));
        bind(&root, address, "vfio-pci");
    }
    load_vfio(&root, &["vfio", "7"]);
    assert_eq!(said(&root), [""; 0]);
    bind(&root, OTHER, "ice");
    let expected = "0000:3b:00.0 shares IOMMU group 7 with 0000:3b:00.1, which is bound to ice; \
                    expected nobody else in the group: driverctl set-override 0000:3b:00.1 vfio-pci, \
                    or put the card into another slot";
    assert_eq!(said(&root), [expected]);
    fs::remove_file(root.path().join("sys/bus/pci/devices").join(OTHER).join("driver"))
        .expect("removable");
    assert_eq!(said(&root), [""; 0]);
}

#[test]
fn the_files_of_vfio_must_be_there() {
    let root = tempfile::tempdir().expect("a directory");
    card(&root, CARD, "0x020000\n", Some("7"));
    bind(&root, CARD, "vfio-pci");
    load_vfio(&root, &["vfio"]);
    let expected = "0000:3b:00.0 needs /dev/vfio/7, which is not there; in a container, pass \
                    /dev/vfio on";
    assert_eq!(said(&root), [expected]);
}
