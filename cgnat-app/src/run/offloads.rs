//! Says when what arrives at a packet socket shows that offloads of Linux interfaces are on.
//!
//! The kernel hands frames to packet sockets as its own stack has them: joined to longer ones by
//! receive offloads, not yet cut up or without checksums by those of a sender on this machine. At
//! the start only the interface itself can be asked (`preflight`), not the other end of a veth in
//! another network namespace; that is seen here, from counters of the ports. Each port is named once
//! for each of the two.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cgnat_core::config::{Config, Device};
use cgnat_core::control::counters::{PortCounters, WorkerCounters};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);

/// A port with a packet socket.
struct Socket {
    /// Among all ports.
    port: usize,
    name: String,
    interface: String,
    told_cut: bool,
    told_completed: bool,
}

/// Watches ports with packet sockets.
pub struct Offloads {
    sockets: Vec<Socket>,
    looked: Instant,
}

impl Offloads {
    /// Nothing seen yet.
    pub fn new(config: &Config) -> Self {
        let ports = config.ports().iter().enumerate().filter(|(_, port)| port.is_packet_socket());
        let sockets = ports.map(|(number, port)| Socket {
            port: number,
            name: port.name().to_owned(),
            interface: interface(port.device()).unwrap_or("IFACE").to_owned(),
            told_cut: false,
            told_completed: false,
        });
        Self { sockets: sockets.collect(), looked: Instant::now() }
    }

    /// Looks, unless it has just done so; what the operator should know.
    pub fn mind(&mut self, counters: &[Arc<WorkerCounters>]) -> Vec<String> {
        if self.looked.elapsed() < LOOK {
            return Vec::new();
        }
        self.looked = Instant::now();
        self.look(counters)
    }

    fn look(&mut self, counters: &[Arc<WorkerCounters>]) -> Vec<String> {
        let mut sentences = Vec::new();
        for Socket { port, name, interface, told_cut, told_completed } in &mut self.sockets {
            let sum = |value: fn(&PortCounters) -> u64| -> u64 {
                counters.iter().map(|counters| value(&counters.ports[*port])).sum()
            };
            let (cut, completed) = (sum(|c| c.rx_cut.value()), sum(|c| c.rx_completed.value()));
            if cut > 0 && !*told_cut {
                *told_cut = true;
                sentences.push(format!(
                    "warning: port {name}: {cut} frames were longer than a slot of {interface}'s \
                     ring, were cut and so dropped (`frame-cut`); TCP crawls. Offloads are on that \
                     join packets: `ethtool -K {interface} gro off lro off` here and, if \
                     {interface} is a veth, `ethtool -K IFACE tx off gso off tso off` at its other \
                     end, in its network namespace. If they are datagrams in fragments, which the \
                     kernel puts together, give the port larger slots (`framesz`, `blocksz`)"
                ));
            }
            if completed > 0 && !*told_completed {
                *told_completed = true;
                sentences.push(format!(
                    "warning: port {name}: packets arrive without TCP or UDP checksums, which their \
                     sender on this machine left to a card that is not there. They are computed \
                     here. The sender may join packets too, of which datagrams cannot be told \
                     apart any more: `ethtool -K IFACE tx off gso off tso off` at the other end of \
                     {interface}"
                ));
            }
        }
        sentences
    }
}

/// The Linux interface of a packet socket.
fn interface(device: &Device) -> Option<&str> {
    let Device::Virtual { arguments, .. } = device else { return None };
    arguments.iter().find(|(key, _)| key == "iface").map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_named_once_for_each_of_the_two() {
        let text = "
version: 1
ports:
  tap: { side: internal, device: net_tap0, addresses: [10.0.0.2/30], next-hop: 10.0.0.1 }
  in: { side: internal, device: \"net_af_packet0,iface=eth1\", addresses: [10.0.1.2/30] }
  out: { side: external, device: \"net_af_packet1,iface=eth2\", addresses: [192.0.2.2/30], \
next-hop: 192.0.2.1 }
pools: { main: { addresses: [203.0.113.0/29] } }
subscribers: [{ name: all, match: [100.64.0.0/10], pool: main }]
";
        let config = Config::from_yaml("t.yaml", text).unwrap_or_else(|error| panic!("{error}"));
        let counters: Vec<_> = (0..2).map(|_| Arc::new(WorkerCounters::new(3))).collect();
        let mut offloads = Offloads::new(&config);
        assert_eq!(offloads.look(&counters), [""; 0]);
        counters[1].ports[1].rx_completed.add(3);
        counters[0].ports[2].rx_cut.add(2);
        counters[1].ports[2].rx_cut.add(5);
        // Nothing is known of what a tap has to do with offloads.
        counters[0].ports[0].rx_cut.add(1);
        let said = offloads.look(&counters);
        assert_eq!(said.len(), 2, "{said:?}");
        let of_in = "warning: port in: packets arrive without TCP or UDP checksums";
        assert!(said[0].starts_with(of_in) && said[0].ends_with("other end of eth1"), "{said:?}");
        let of_out = "warning: port out: 7 frames were longer than a slot of eth2's ring";
        assert!(said[1].starts_with(of_out), "{said:?}");
        assert!(said[1].contains("`ethtool -K eth2 gro off lro off`"), "{said:?}");
        counters[1].ports[2].rx_cut.add(5);
        assert_eq!(offloads.look(&counters), [""; 0]);
        assert_eq!(offloads.mind(&counters), [""; 0]);
    }
}
