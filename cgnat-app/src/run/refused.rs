//! What subscribers were refused lately, for the report of a run.

use cgnat_core::refusals::{Refusal, Remembered};
use cgnat_core::time::{TICKS_PER_SECOND, Tick};
use serde_json::{Value, json};

/// The last refusals of each subscriber.
#[derive(Default)]
pub struct Refused(pub Remembered);

impl Refused {
    /// The last refusal of the first `most` subscribers, one line each.
    pub fn write_text(&self, out: &mut String, most: usize) -> std::fmt::Result {
        use std::fmt::Write as _;
        let Remembered { subscribers, forgotten, .. } = &self.0;
        if subscribers.is_empty() {
            return Ok(());
        }
        let count = subscribers.len();
        writeln!(out, "\nRefused lately: {count} subscribers, {forgotten} more are forgotten")?;
        for (address, list) in subscribers.iter().take(most) {
            let Some(last) = list.last() else { continue };
            writeln!(
                out,
                "  {:<16} {} at {} to {} port {}, {} times, last {} s ago; {} in all are remembered",
                address.to_string(),
                last.reason.name(),
                last.limit,
                last.protocol,
                last.destination_port,
                last.count,
                self.seconds_ago(last.last),
                list.len(),
            )?;
        }
        if count > most {
            writeln!(out, "  ... and {} more (all with --stats-file)", count - most)?;
        }
        Ok(())
    }

    /// All of them.
    pub fn json(&self) -> Value {
        let one = |refusal: &Refusal| {
            json!({
                "reason": refusal.reason.name(),
                "protocol": refusal.protocol.to_string(),
                "destination_port": refusal.destination_port,
                "limit": refusal.limit,
                "count": refusal.count,
                "first_seconds_ago": self.seconds_ago(refusal.first),
                "last_seconds_ago": self.seconds_ago(refusal.last),
            })
        };
        let subscribers = self.0.subscribers.iter().map(|(address, list)| {
            json!({
                "subscriber": address.to_string(),
                "list": list.iter().map(one).collect::<Vec<_>>(),
            })
        });
        json!({
            "forgotten": self.0.forgotten,
            "refusals_forgotten": self.0.refusals_forgotten,
            "subscribers": subscribers.collect::<Vec<_>>(),
        })
    }

    /// With one digit behind the point.
    fn seconds_ago(&self, then: Tick) -> f64 {
        f64::from(self.0.now.0.wrapping_sub(then.0)) / f64::from(TICKS_PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgnat_core::packet::ethernet::Tags;
    use cgnat_core::testing::lab::{Lab, port_mac};
    use cgnat_core::testing::packets;

    const BOX: &str = "
version: 1
system: { max-mappings: 1000 }
ports:
  in: { side: internal, device: net_null0, addresses: [10.0.0.2/30], next-hop: 10.0.0.1 }
  out: { side: external, device: net_null1, addresses: [192.0.2.2/30], next-hop: 192.0.2.1 }
pools:
  main: { addresses: [203.0.113.7] }
subscribers:
  - { name: all, match: [100.64.0.0/10], pool: main, limits: { ports: 1 } }
";

    #[test]
    fn a_report_says_who_was_refused_what_and_when() {
        let mut lab = Lab::new(BOX, 1, 1);
        let send = |lab: &mut Lab, port: u16| {
            let from = (packets::ip("100.64.0.9"), port);
            let packet = packets::udp(from, (packets::ip("198.51.100.7"), 53), b"x");
            lab.arrive(0, 0, &packets::frame(port_mac(0), [2; 6], Tags::None, &packet));
        };
        for port in 1..=4 {
            send(&mut lab, port);
        }
        lab.advance(2_500);
        let refused = Refused(lab.refusals());
        let expected = json!({ "forgotten": 0, "refusals_forgotten": 0, "subscribers": [{
            "subscriber": "100.64.0.9",
            "list": [{
                "reason": "limit-ports", "protocol": "udp", "destination_port": 53, "limit": 1,
                "count": 3, "first_seconds_ago": 2.5, "last_seconds_ago": 2.5,
            }],
        }]});
        assert_eq!(refused.json(), expected);
        let mut text = String::new();
        refused.write_text(&mut text, 20).expect("a String takes all");
        let line = "100.64.0.9       limit-ports at 1 to udp port 53, 3 times, last 2.5 s ago";
        assert!(text.contains(line), "{text}");
    }
}
