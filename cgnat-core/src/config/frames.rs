//! Sizes that follow from the MTUs of the ports: packet buffers, and the rings of packet sockets.
//!
//! A `net_af_packet` device copies each frame into a slot of a ring that it shares with the
//! kernel. DPDK wants slots of `framesz` bytes without gaps in blocks of `blocksz` bytes (it
//! counts slots, the kernel counts blocks), and packet buffers that hold what a slot does.

use super::{Config, Device, Port};
use crate::packet::ethernet::{DOT1Q, TAG, Tags};

/// Largest MTU of a port: cards whose longest frame is 9,728 bytes, with CRC and two 802.1Q
/// tags, take no larger one.
pub const MOST_MTU: u16 = 9702;

/// Bytes that a buffer or slot needs beside an IPv4 packet: what the kernel puts before a frame
/// in a slot (66, linux/if_packet.h), Ethernet (14), 802.1Q (4). Of two tags the kernel keeps the
/// outer one beside the frame. That is more than the two tags and the CRC of a card need.
const BESIDE: u32 = 84;

/// Buffers and slots are a multiple of this: some cards count their buffers in KiB, and four
/// such slots are a block of whole pages.
const STEP: u32 = 1024;

/// The slot and the block that DPDK takes by itself, bytes.
const DEFAULT_RING: (u32, u32) = (2048, 4096);

/// Bytes of a slot that hold no frame, as DPDK counts.
const SLOT_HEADER: u32 = 32;

/// Largest slot that a configuration may ask for, bytes; each packet buffer holds as much.
const MOST_SLOT: u32 = 16 * 1024;

impl Config {
    /// Bytes of frame that each packet buffer has to hold.
    pub fn frame_room(&self) -> u16 {
        let of_port = |port: &Port| {
            let (slot, _) = given_ring(&port.device).unwrap_or_default();
            room_for(port.mtu).max(slot.saturating_sub(SLOT_HEADER).next_multiple_of(STEP))
        };
        self.ports.iter().map(of_port).max().unwrap_or(DEFAULT_RING.0) as u16
    }
}

impl Config {
    /// The MTU that DPDK is asked for, of the device of a port: drivers reckon with one tag beside
    /// it, some with two.
    pub fn device_mtu(&self, port: usize) -> u16 {
        let needed = |port: &Port| match port.tags {
            Tags::Two { .. } => port.mtu + 2 * TAG as u16,
            Tags::None | Tags::One(_) => port.mtu,
        };
        self.on_device(port).map(|(_, port)| needed(port)).max().unwrap_or(0)
    }

    /// Slot and block of a packet socket's ring, bytes, where DPDK's own are too small and the
    /// configuration names none.
    pub fn ring(&self, port: usize) -> Option<(u32, u32)> {
        let device = &self.ports[port].device;
        let room = self.on_device(port).map(|(_, port)| room_for(port.mtu)).max()?;
        let is_ours = is_packet_socket(device) && given_ring(device).is_none();
        (is_ours && room > DEFAULT_RING.0).then_some((room, 4 * room))
    }
}

impl Port {
    /// Whether the device is a packet socket on a Linux interface.
    pub fn is_packet_socket(&self) -> bool {
        is_packet_socket(&self.device)
    }

    /// The MTU that a Linux interface needs: the kernel reckons with one 802.1Q tag beside it, and
    /// with none before that.
    pub fn interface_mtu(&self) -> u16 {
        match self.tags {
            Tags::Two { tpid: DOT1Q, .. } => self.mtu + TAG as u16,
            Tags::Two { .. } => self.mtu + 2 * TAG as u16,
            Tags::None | Tags::One(_) => self.mtu,
        }
    }
}

fn room_for(mtu: u16) -> u32 {
    (u32::from(mtu) + BESIDE).next_multiple_of(STEP).max(DEFAULT_RING.0)
}

pub(super) fn is_packet_socket(device: &Device) -> bool {
    matches!(device, Device::Virtual { driver, .. } if driver == "net_af_packet")
}

/// Slot and block as the arguments of a packet socket name them, 0 if not a number; `None` if
/// they name neither.
fn given_ring(device: &Device) -> Option<(u32, u32)> {
    let Device::Virtual { arguments, .. } = device else { return None };
    if !is_packet_socket(device) {
        return None;
    }
    let given = |key: &str| {
        let value = arguments.iter().find(|(k, _)| k == key);
        value.map(|(_, value)| value.parse().unwrap_or(0))
    };
    match (given("framesz"), given("blocksz")) {
        (None, None) => None,
        (slot, block) => Some((slot.unwrap_or(DEFAULT_RING.0), block.unwrap_or(DEFAULT_RING.1))),
    }
}

/// Why a packet socket with these arguments does not carry packets of `mtu` bytes, if so.
pub(super) fn ring_refusal(device: &Device, mtu: u16) -> Option<String> {
    let (slot, block) = given_ring(device)?;
    let least = u32::from(mtu) + BESIDE;
    if !(least..=MOST_SLOT).contains(&slot) || !slot.is_multiple_of(16) {
        let (slot_ours, block_ours) = (room_for(mtu), (4 * room_for(mtu)).max(DEFAULT_RING.1));
        return Some(format!(
            "framesz={slot} for `mtu` {mtu}; expected a multiple of 16 from {least} to {MOST_SLOT}, \
             for instance framesz={slot_ours},blocksz={block_ours}, or neither of them"
        ));
    }
    (block == 0 || !block.is_multiple_of(slot)).then(|| {
        format!("blocksz={block} is no multiple of framesz={slot}; expected blocksz={}", 4 * slot)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(arguments: &[(&str, &str)]) -> Device {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Device::Virtual {
            name: "net_af_packet0".into(),
            driver: "net_af_packet".into(),
            arguments: arguments.iter().map(own).collect(),
        }
    }

    #[test]
    fn every_mtu_fits_into_a_slot_and_every_slot_into_a_buffer() {
        for mtu in 576..=MOST_MTU {
            let room = room_for(mtu);
            assert!(room >= u32::from(mtu) + 84 && room.is_multiple_of(1024), "{mtu}");
            assert!(room - u32::from(mtu) < 84 + 1024 || room == 2048, "{mtu}");
        }
        assert_eq!(
            [1500, 1964, 1965, 9000, MOST_MTU].map(room_for),
            [2048, 2048, 3072, 9216, 10240]
        );
    }

    #[test]
    fn rings_that_cannot_work_are_refused() {
        let said = |arguments: &[(&str, &str)], mtu| ring_refusal(&socket(arguments), mtu);
        assert_eq!(said(&[("iface", "a")], MOST_MTU), None);
        assert_eq!(said(&[("framesz", "9216"), ("blocksz", "36864")], 9000), None);
        assert_eq!(said(&[("blocksz", "65536")], 1500), None);
        for (arguments, mtu, expected) in [
            (
                &[("framesz", "2048")][..],
                1965,
                "framesz=2048 for `mtu` 1965; expected a multiple of 16 from 2049",
            ),
            (&[("blocksz", "65536")], 9000, "framesz=2048 for `mtu` 9000"),
            (&[("framesz", "9210")], 9000, "for instance framesz=9216,blocksz=36864, or neither"),
            (&[("framesz", "x")], 1500, "for instance framesz=2048,blocksz=8192"),
            (&[("framesz", "20480")], 1500, "from 1584 to 16384"),
            (
                &[("framesz", "9216"), ("blocksz", "16384")],
                9000,
                "blocksz=16384 is no multiple of framesz=9216; expected blocksz=36864",
            ),
            (&[("framesz", "2048"), ("blocksz", "0")], 1500, "expected blocksz=8192"),
        ] {
            let said = said(arguments, mtu).unwrap_or_default();
            assert!(said.contains(expected), "{arguments:?}: {said}");
        }
    }
}
