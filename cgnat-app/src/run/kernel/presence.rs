//! Making an interface of the kernel, and making it again after somebody has deleted it: a restart
//! of the box would cost every subscriber its sessions.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::ADDRESS_DELAY;

/// Between its end and the first try to make it again, and between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// One that is deleted before it was there for so long is made again after so long: somebody does not
/// want it.
const LASTS: Duration = Duration::from_secs(60);

/// What an interface is made of.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub name: String,
    pub mac: [u8; 6],
    pub mtu: u16,
    pub addresses: Vec<IpNet>,
}

impl Recipe {
    /// Makes it, without its addresses; it and the kernel's number of it.
    pub fn make(&self) -> io::Result<(SyncDevice, u32)> {
        let builder = DeviceBuilder::new().name(&self.name).layer(Layer::L2).mac_addr(self.mac);
        let device = builder.mtu(self.mtu).offload(false).build_sync()?;
        device.set_nonblocking(true)?;
        let index = device.if_index()?;
        Ok((device, index))
    }

    /// Gives it its addresses; the one that the kernel refuses.
    pub fn give_addresses(&self, device: &SyncDevice) -> Result<(), (IpNet, io::Error)> {
        if let Some(first) = self.addresses.iter().find(|net| net.addr().is_ipv6()) {
            quieten(&self.name).map_err(|error| (*first, error))?;
        }
        for net in &self.addresses {
            let given = match net {
                IpNet::V4(net) => device.add_address_v4(net.addr(), net.prefix_len()),
                IpNet::V6(net) => device.add_address_v6(net.addr(), net.prefix_len()),
            };
            given.map_err(|error| (*net, error))?;
        }
        Ok(())
    }
}

/// Leaves IPv6 of an interface to us: the kernel gives it no address of its own accord, follows no router
/// advertisement, and asks nobody whether an address is free, which workers do.
fn quieten(name: &str) -> io::Result<()> {
    let settings = [
        // Takes away what it has been given already.
        ("disable_ipv6", "1"),
        // None of the MAC; it is among ours.
        ("addr_gen_mode", "1"),
        ("accept_ra", "0"),
        ("accept_dad", "0"),
        ("disable_ipv6", "0"),
    ];
    let directory = Path::new("/proc/sys/net/ipv6/conf").join(name);
    settings.iter().try_for_each(|(key, value)| std::fs::write(directory.join(key), value))
}

/// Whether an interface is there, and when something is to be done about it.
pub(super) enum Presence {
    /// It is there.
    There(SyncDevice),
    /// It was made again, and gets its addresses then.
    Bare(SyncDevice, Instant),
    /// It was deleted, and is made again then.
    Gone(Instant),
}

/// What came of looking after one that was deleted.
pub(super) enum Mended {
    /// It is not time yet.
    Not,
    /// It is there, without addresses; the kernel's number of it.
    Made(u32),
    /// It is there as it was.
    Whole,
    /// The kernel refuses.
    Refused(io::Error),
}

impl Presence {
    /// As far as there is one.
    pub fn device(&self) -> Option<&SyncDevice> {
        match self {
            Presence::There(device) | Presence::Bare(device, _) => Some(device),
            Presence::Gone(_) => None,
        }
    }

    /// Somebody has deleted it, who was there since `remade` if it was made again; how long it takes
    /// until it is made.
    pub fn lose(&mut self, remade: Option<Instant>) -> Duration {
        let is_unwanted = remade.is_some_and(|made| made.elapsed() < LASTS);
        let pause = if is_unwanted { LASTS } else { AGAIN };
        *self = Presence::Gone(Instant::now() + pause);
        pause
    }

    /// Takes the next step, if it is time.
    pub fn mend(&mut self, recipe: &Recipe) -> Mended {
        let now = Instant::now();
        match std::mem::replace(self, Presence::Gone(now + AGAIN)) {
            Presence::Gone(due) if now >= due => match recipe.make() {
                Ok((device, index)) => {
                    *self = Presence::Bare(device, now + ADDRESS_DELAY);
                    Mended::Made(index)
                }
                Err(error) => Mended::Refused(error),
            },
            Presence::Bare(device, due) if now >= due => match recipe.give_addresses(&device) {
                Ok(()) => {
                    *self = Presence::There(device);
                    Mended::Whole
                }
                Err((_, error)) => Mended::Refused(error),
            },
            as_before => {
                *self = as_before;
                Mended::Not
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_nobody_wants_is_made_again_later_and_never_before_its_time() {
        let recipe = Recipe { name: "k-int".to_owned(), mac: [2; 6], mtu: 1500, addresses: vec![] };
        let mut presence = Presence::Gone(Instant::now());
        assert_eq!(presence.lose(None), AGAIN);
        assert!(presence.device().is_none());
        assert!(matches!(presence.mend(&recipe), Mended::Not));
        let long_ago = Instant::now().checked_sub(LASTS);
        assert_eq!(presence.lose(long_ago), AGAIN);
        assert_eq!(presence.lose(Some(Instant::now())), LASTS);
        let Presence::Gone(due) = presence else { panic!("it is there") };
        assert!(due > Instant::now() + LASTS / 2);
    }
}
