//! What happens to the options of a packet, and to its being a query: an option that records
//! a route is known, alone, and nothing else of them.

use super::wire::{Body, Packet};

impl Packet {
    /// Whether it is a query that asks, or the reply to one.
    pub fn is_query(&self, asks: bool) -> bool {
        match self.body {
            Body::Echo { request, .. } | Body::Timestamp { request, .. } => request == asks,
            _ => false,
        }
    }

    /// What a NAT takes out of the options that leave the inside: the addresses recorded so
    /// far, and what stands in room not used. Only a record route that is alone.
    pub fn hide_route(&mut self, address: u32) {
        if let [7, _, pointer, slots @ ..] = &mut self.options[..] {
            let used = usize::from(*pointer) - 4;
            for (n, slot) in slots.chunks_exact_mut(4).enumerate() {
                slot.copy_from_slice(&if 4 * n < used { address.to_be_bytes() } else { [0; 4] });
            }
        }
    }

    /// What a router adds to a record route that is alone.
    pub fn record_route(&mut self, address: u32) {
        if let [7, length, pointer, slots @ ..] = &mut self.options[..]
            && *pointer < *length
        {
            let at = usize::from(*pointer) - 4;
            slots[at..at + 4].copy_from_slice(&address.to_be_bytes());
            *pointer += 4;
        }
    }

    /// Makes a query ask, or reply.
    pub fn set_query(&mut self, asks: bool) {
        if let Body::Echo { request, .. } | Body::Timestamp { request, .. } = &mut self.body {
            *request = asks;
        }
    }
}
