//! Linux interfaces that ports receive from: there, up, large enough, and leaving frames as they are.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cgnat_core::config::{Device, Port};

use super::{Preflight, subject};

/// `IFF_UP`, `IFF_PROMISC` and `IFF_ALLMULTI` of an interface's flags.
const IFF_UP: u32 = 1;
const IFF_PROMISC: u32 = 0x100;
const IFF_ALLMULTI: u32 = 0x200;

/// Features that join frames before a packet socket gets them, and how ethtool switches them off.
const JOINING: [(&str, &str); 4] = [
    ("rx-gro", "gro off"),
    ("rx-lro", "lro off"),
    ("rx-gro-hw", "rx-gro-hw off"),
    ("rx-gro-list", "rx-gro-list off"),
];

/// The interfaces of all ports.
pub struct Interfaces<'a> {
    root: &'a Path,
    features: &'a dyn Fn(&str) -> Vec<String>,
    /// The port of each, and its device.
    taken: BTreeMap<String, (String, Device)>,
}

impl<'a> Interfaces<'a> {
    pub fn new(root: &'a Path, features: &'a dyn Fn(&str) -> Vec<String>) -> Self {
        Self { root, features, taken: BTreeMap::new() }
    }

    /// Looks at an interface that a port uses.
    pub fn look(&mut self, here: &mut Preflight, port: &Port, name: &str) {
        let subject = subject(port);
        if name.contains('/') || name == "." || name == ".." || name.len() > 15 {
            return here.error(&subject, format!("`{name}` cannot be the name of an interface"));
        }
        let device = self.root.join("sys/class/net").join(name);
        if let Some((other, theirs)) = self.taken.get(name) {
            // Receiving and sending on one interface is one use of it, and so are ports that share
            // a device.
            if other == port.name() {
                return;
            }
            if theirs != port.device() {
                let message =
                    format!("interface {name} is in use by port {other}; expected another");
                return here.error(&subject, message);
            }
            return warn_of_mtu(here, port, name, &device);
        }
        self.taken.insert(name.to_owned(), (port.name().to_owned(), port.device().clone()));
        if !device.exists() {
            let message = format!("there is no interface {name}; ip -br link lists them");
            return here.error(&subject, message);
        }
        let flags = fs::read_to_string(device.join("flags")).unwrap_or_default();
        let flags =
            u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(IFF_UP);
        if flags & IFF_UP == 0 {
            here.error(&subject, format!("interface {name} is down; ip link set {name} up"));
        }
        warn_of_mtu(here, port, name, &device);
        // A packet socket takes no part in the groups of its interface; a veth has no filter.
        let is_card = device.join("device").exists();
        if port.ipv6().is_some() && is_card && flags & (IFF_PROMISC | IFF_ALLMULTI) == 0 {
            let message = format!(
                "interface {name} may filter the groups of Neighbour Discovery, so that neighbours \
                 do not find this box by IPv6; ip link set {name} allmulticast on"
            );
            here.warning(&subject, message);
        }
        self.warn_of_joining(here, &subject, name);
    }

    fn warn_of_joining(&self, here: &mut Preflight, subject: &str, name: &str) {
        let on = (self.features)(name);
        let joining = JOINING.iter().filter(|(feature, _)| on.iter().any(|on| on == feature));
        let (features, off): (Vec<&str>, Vec<&str>) = joining.copied().unzip();
        if !features.is_empty() {
            let message = format!(
                "interface {name} joins frames before they are received ({}): what comes out is \
                 longer than its `mtu`, and lost; ethtool -K {name} {}",
                features.join(", "),
                off.join(" ")
            );
            here.warning(subject, message);
        }
    }
}

/// Of an interface, with its files in `device`, that is too small for a port.
fn warn_of_mtu(here: &mut Preflight, port: &Port, name: &str, device: &Path) {
    let mtu: Option<u16> =
        fs::read_to_string(device.join("mtu")).ok().and_then(|mtu| mtu.trim().parse().ok());
    let wanted = port.interface_mtu();
    if let Some(mtu) = mtu.filter(|mtu| *mtu < wanted) {
        let needs = match wanted - port.mtu() {
            0 => format!("the port {wanted}"),
            tags => format!("the port {} and {tags} bytes of tags", port.mtu()),
        };
        let message = format!(
            "interface {name} has MTU {mtu}, {needs}: longer packets are lost; ip link set \
         {name} mtu {wanted}, or lower `mtu`"
        );
        here.warning(&subject(port), message);
    }
}
