//! What workers shed of what comes from outside, for operators (decision 29).
//!
//! The main thread looks every few milliseconds at what workers publish once in a tick. Begin and
//! end of a flood are said once each.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use cgnat_core::control::counters::WorkerCounters;
use cgnat_core::policy::flood_guard::Flood;
use cgnat_core::time::TICKS_PER_SECOND;
use cgnat_core::verdict::DropReason;

/// A flood that has not been seen for so long is over.
const OVER: Duration = Duration::from_secs(2);

/// One that was said to have begun.
struct Begun {
    flood: Flood,
    since: Duration,
    last: Duration,
    /// Drops before.
    before: u64,
}

/// Watches all workers.
pub struct Floods(Vec<Option<Begun>>);

impl Floods {
    /// Nothing seen yet.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| None).collect())
    }

    /// Looks at time `now`; what the operator should know.
    pub fn look(&mut self, now: Duration, counters: &[Arc<WorkerCounters>]) -> Vec<String> {
        let mut sentences = Vec::new();
        // Workers that receive it shed it too.
        let dropped: u64 = counters.iter().map(|c| c.drops_of(DropReason::Flood)).sum();
        for (worker, (begun, counters)) in self.0.iter_mut().zip(counters).enumerate() {
            let flood = counters.flood();
            if let (Some(begun), Some(flood)) = (&mut *begun, flood)
                && begun.flood.is_like(&flood)
            {
                begun.last = now;
                continue;
            }
            if let Some(old) = begun.take_if(|begun| now.saturating_sub(begun.last) >= OVER) {
                sentences.push(format!(
                    "worker {worker} takes all packets for {} again: {} were shed in {} s",
                    destination(&old.flood),
                    dropped - old.before,
                    (now - old.since).as_secs()
                ));
            }
            if let (None, Some(flood)) = (&*begun, flood) {
                sentences.push(format!(
                    "warning: worker {worker} has more packets than it can take and sheds of those for \
                     {}, of which {} come per second, so that the others go on. Have them filtered \
                     upstream, or the address taken out of use (`drain`); they count as `flood`",
                    destination(&flood),
                    per_second(&flood)
                ));
                *begun = Some(Begun { flood, since: now, last: now, before: dropped });
            }
        }
        sentences
    }
}

fn per_second(flood: &Flood) -> u64 {
    u64::from(flood.arrived) * u64::from(TICKS_PER_SECOND)
}

fn destination(flood: &Flood) -> String {
    let address = address(flood);
    match (flood.is_address, flood.aim.protocol, flood.aim.port) {
        (true, ..) => address,
        (_, 6, port) if port > 0 => format!("{address}, TCP port {port}"),
        (_, 17, port) if port > 0 => format!("{address}, UDP port {port}"),
        (_, protocol, _) => format!("{address}, IP protocol {protocol} without ports"),
    }
}

/// An address, or a prefix of IPv6.
fn address(flood: &Flood) -> String {
    match flood.address6 {
        None => Ipv4Addr::from(flood.aim.address).to_string(),
        Some(of) if flood.is_address => format!("{}/64", Ipv6Addr::from(of >> 64 << 64)),
        Some(address) => Ipv6Addr::from(address).to_string(),
    }
}

/// What is shed now.
pub fn json(counters: &[Arc<WorkerCounters>]) -> serde_json::Value {
    let floods = counters.iter().enumerate().filter_map(|(worker, counters)| {
        let flood = counters.flood()?;
        let mut document = serde_json::json!({
            "worker": worker,
            "address": address(&flood),
            "per_second": per_second(&flood),
        });
        if !flood.is_address {
            document["protocol"] = flood.aim.protocol.into();
            document["port"] = flood.aim.port.into();
        }
        Some(document)
    });
    floods.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgnat_core::policy::flood_guard::Aim;

    #[test]
    fn a_flood_is_said_when_it_begins_and_when_it_is_over() {
        let counters = vec![Arc::new(WorkerCounters::new(2)), Arc::new(WorkerCounters::new(2))];
        let mut floods = Floods::new(2);
        let at = Duration::from_millis;
        assert!(floods.look(at(0), &counters).is_empty());
        let address = u32::from_be_bytes([203, 0, 113, 7]);
        let aim = Aim { address, protocol: 17, port: 443 };
        let flood = |arrived| Some(Flood { aim, address6: None, is_address: false, arrived });
        counters[1].set_flood(flood(200_000));
        let said = floods.look(at(100), &counters);
        assert!(said[0].starts_with("warning: worker 1 has more"), "{said:?}");
        assert!(said[0].contains("203.0.113.7, UDP port 443, of which 2000000 come"), "{said:?}");
        assert_eq!(
            json(&counters),
            serde_json::json!([{
                "worker": 1, "address": "203.0.113.7", "protocol": 17, "port": 443,
                "per_second": 2_000_000,
            }])
        );
        counters[1].set_flood(flood(100_000));
        counters[1].drops[DropReason::Flood as usize].add(700);
        assert!(floods.look(at(5_000), &counters).is_empty());
        counters[1].set_flood(None);
        assert!(floods.look(at(6_900), &counters).is_empty(), "it may come back");
        let said = floods.look(at(7_100), &counters);
        assert_eq!(
            said,
            [
                "worker 1 takes all packets for 203.0.113.7, UDP port 443 again: 700 were shed in 7 s"
            ]
        );
        counters[0].set_flood(Some(Flood { aim, address6: None, is_address: true, arrived: 9 }));
        assert!(floods.look(at(8_000), &counters)[0].contains(" for 203.0.113.7, of which 90 "));
    }

    #[test]
    fn a_destination_of_ipv6_is_named_by_address_or_by_its_64() {
        let aim = Aim { address: 0, protocol: 17, port: 53 };
        let address6 = Some(0x2001_0db8_0000_0007_0000_0000_0000_0005);
        let one = Flood { aim, address6, is_address: false, arrived: 9 };
        assert_eq!(destination(&one), "2001:db8:0:7::5, UDP port 53");
        let all = Flood { aim: Aim::default(), is_address: true, ..one };
        assert_eq!(destination(&all), "2001:db8:0:7::/64");
    }
}
