//! A switch between the appliance and its hosts, which puts the tags of a VLAN on what a host sends and
//! takes them off what is for it, as access switches and those of a provider do. So it needs no VLAN
//! interfaces of the kernel, which not every kernel has.
//!
//! ```text
//!  subscribers                                 box
//!  router (tap) ===== tags ==== trunk ======== cg-int (tap)
//!  world (tap), of the server = tags ====+
//! ```
//!
//! Invariants:
//!
//! 1. what the appliance sends reaches a host only with all tags of its VLAN, the TPIDs among them;
//! 2. every other frame is counted ([`Switch::has_no_strays`]);
//! 3. its threads end with the interfaces, and these with the laboratory.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::lab::{
    BOX_EXTERNAL, BOX_INTERNAL, EXTERNAL, INTERNAL, Lab, MACS, Namespace, POOL_PREFIX, ROUTER,
    WORLD,
};

/// TPID of 802.1Q.
pub const DOT1Q: u16 = 0x8100;
/// TPID of a service tag (802.1ad).
pub const SERVICE: u16 = 0x88a8;

/// Frames that wait in a tap, less than the 512 slots of a packet socket's ring: the kernel gives a slot
/// back when the tap has the frame and not when it was read, and what is then written there would be
/// read in its place.
const QUEUE: u32 = 256;
/// Longest frame.
const LONGEST: usize = 10_240;
/// Both addresses of a frame.
const STATIONS: usize = 12;
/// Bits of a tag that are its id.
const ID: u16 = 0x0fff;

/// A tag as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// What kind it is.
    pub tpid: u16,
    /// The VLAN.
    pub id: u16,
}

/// Hosts behind the switch.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// 0 are the subscribers, 1 the servers.
    pub side: usize,
    /// Their tags on the trunk, outermost first.
    pub tags: &'static [Tag],
}

/// A line to the appliance.
#[derive(Debug, Clone, Copy)]
pub struct Trunk<'a> {
    /// MTU of the appliance's end.
    pub mtu: u16,
    /// Who is behind it.
    pub hosts: &'a [Access],
}

/// The switch. Its threads go on until the interfaces are gone.
#[derive(Debug)]
pub struct Switch {
    strays: Arc<Strays>,
}

#[derive(Debug, Default)]
struct Strays {
    count: AtomicU64,
    /// The beginning of the first.
    first: OnceLock<Vec<u8>>,
}

struct Host {
    device: SyncDevice,
    tags: Vec<u8>,
}

impl Switch {
    /// Puts a switch into the place of the laboratory's veths: the first trunk ends at [`INTERNAL`], the
    /// second, if there is one, at [`EXTERNAL`]. Packets of `mtu` bytes fit the hosts.
    ///
    /// # Errors
    /// The kernel or ip refused.
    pub fn install(lab: &Lab, mtu: u16, trunks: &[Trunk<'_>]) -> Result<Switch> {
        lab.middle.ip_batch(&format!("link delete {INTERNAL}\nlink delete {EXTERNAL}\n"))?;
        let strays = Arc::new(Strays::default());
        let ends = [(INTERNAL, MACS[1]), (EXTERNAL, MACS[2])];
        for (trunk, (name, mac)) in trunks.iter().zip(ends) {
            let line = Arc::new(tap(&lab.middle, name, mac, trunk.mtu)?);
            let mut hosts = Vec::new();
            for Access { side, tags } in trunk.hosts {
                let (namespace, name, mac) = match side {
                    0 => (&lab.subscribers, "router", MACS[0]),
                    _ => (&lab.server, "world", MACS[3]),
                };
                let bytes = tags.iter().flat_map(|Tag { tpid, id }| [*tpid, *id]);
                let tags = bytes.flat_map(u16::to_be_bytes).collect();
                hosts.push(Host { device: tap(namespace, name, mac, mtu)?, tags });
            }
            let hosts: Arc<[Host]> = hosts.into();
            for host in 0..hosts.len() {
                let (hosts, line) = (hosts.clone(), line.clone());
                thread::spawn(move || put_on(&hosts[host], &line));
            }
            let strays = strays.clone();
            thread::spawn(move || take_off(&line, &hosts, &strays));
        }
        lab.subscribers.ip_batch(&format!(
            "address add {ROUTER}/30 dev router\nroute add default via {BOX_INTERNAL}\n"
        ))?;
        lab.server.ip_batch(&format!(
            "address add {WORLD}/30 dev world\nroute add {POOL_PREFIX} via {BOX_EXTERNAL}\n"
        ))?;
        // The watch went with the interface.
        lab.server.run("nft", &["delete", "table", "netdev", "leaks"])?;
        lab.watch()?;
        Ok(Switch { strays })
    }

    /// Whether all that the appliance sent has had the tags of a host.
    ///
    /// # Errors
    /// Something had not; with the beginning of the first such frame.
    pub fn has_no_strays(&self) -> Result<()> {
        let Strays { count, first } = &*self.strays;
        let count = count.load(Ordering::Relaxed);
        ensure!(count == 0, "{count} frames left with other tags, the first: {:02x?}", first.get());
        Ok(())
    }
}

/// A tap in a namespace, up.
fn tap(namespace: &Namespace, name: &str, mac: &str, mtu: u16) -> Result<SyncDevice> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    // It is made where this process is, under a name of its own, and moved. Not up before: else the
    // kernel there looks for duplicates of an IPv6 address, and the switch takes that for a stray.
    let made = format!("sw{}x{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
    let builder = DeviceBuilder::new().name(&made).layer(Layer::L2).offload(false).enable(false);
    let device = builder.build_sync();
    let device = device.with_context(|| format!("cannot make a tap for {name}"))?;
    let mut command = std::process::Command::new("ip");
    command.args(["link", "set", "dev", &made, "netns", namespace.name(), "name", name]);
    crate::process::run(command, std::time::Duration::from_secs(30))?;
    let set = format!(
        "link set dev {name} address {mac} mtu {mtu} txqueuelen {QUEUE}\nlink set dev {name} up\n"
    );
    namespace.ip_batch(&set)?;
    Ok(device)
}

/// From a host to the trunk.
fn put_on(host: &Host, line: &SyncDevice) {
    let (mut frame, mut tagged) = ([0; LONGEST], Vec::with_capacity(LONGEST));
    while let Ok(len) = host.device.recv(&mut frame) {
        let (stations, rest) = frame[..len].split_at(STATIONS);
        tagged.clear();
        tagged.extend([stations, &host.tags, rest].concat());
        // A line that is down loses frames, as any does.
        let _ = line.send(&tagged);
    }
}

/// From the trunk to the host whose tags a frame has.
fn take_off(line: &SyncDevice, hosts: &[Host], strays: &Strays) {
    let mut frame = [0; LONGEST];
    while let Ok(len) = line.recv(&mut frame) {
        let (stations, rest) = frame[..len].split_at(STATIONS);
        match hosts.iter().find(|host| has(rest, &host.tags)) {
            Some(host) => {
                let _ = host.device.send(&[stations, &rest[host.tags.len()..]].concat());
            }
            None => {
                strays.count.fetch_add(1, Ordering::Relaxed);
                strays.first.get_or_init(|| frame[..len.min(64)].to_vec());
            }
        }
    }
}

/// Whether what follows the addresses begins with these tags, and no further one.
fn has(rest: &[u8], tags: &[u8]) -> bool {
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let is_tag = |tpid: u16| matches!(tpid, DOT1Q | SERVICE | 0x9100);
    rest.len() >= tags.len() + 2
        && (0..tags.len()).step_by(4).all(|at| {
            word(rest, at) == word(tags, at) && word(rest, at + 2) & ID == word(tags, at + 2)
        })
        && !is_tag(word(rest, tags.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_tags_of_a_host_are_its_own() {
        let tags = [0x88, 0xa8, 1, 44, 0x81, 0, 0, 100];
        let frame = |tags: &[u8]| [tags, &[8, 0, 0x45]].concat();
        assert!(has(&frame(&tags), &tags));
        assert!(has(&frame(&[0x88, 0xa8, 0xe1, 44, 0x81, 0, 0x10, 100]), &tags), "priority");
        for other in [
            &[][..],
            &tags[..4],
            &tags[4..],
            &[0x81, 0, 1, 44, 0x81, 0, 0, 100],
            &[0x88, 0xa8, 1, 45, 0x81, 0, 0, 100],
            &[0x88, 0xa8, 1, 44, 0x81, 0, 0, 101],
            &[0x88, 0xa8, 1, 44, 0x81, 0, 0, 100, 0x81, 0, 0, 1],
        ] {
            assert!(!has(&frame(other), &tags), "{other:?}");
        }
        assert!(has(&frame(&[]), &[]));
    }
}
