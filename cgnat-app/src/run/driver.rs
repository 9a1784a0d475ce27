//! What each port's driver says that it can do, and what the port was given of it: for programs as
//! JSON, for people as one line.

use dpdk::Answers;
use serde_json::{Value, json};

use super::plan::DESCRIPTORS;

/// Stable keys.
pub fn json(answers: &Answers) -> Value {
    let Answers {
        driver,
        node,
        rx_queues,
        tx_queues,
        descriptors,
        mtu,
        rss,
        rx_offloads,
        tx_offloads,
    } = answers;
    json!({
        "name": driver,
        "numa_node": node,
        "rx_queues": rx_queues.0,
        "rx_queues_most": rx_queues.1,
        "tx_queues": tx_queues.0,
        "tx_queues_most": tx_queues.1,
        "descriptors_asked": DESCRIPTORS,
        "rx_descriptors": descriptors.0,
        "tx_descriptors": descriptors.1,
        "mtu_least": mtu.0,
        "mtu_most": mtu.1,
        "hashes_addresses": rss.hashes_addresses,
        "rss_key_bytes": rss.key_bytes,
        "rss_table_entries": rss.table_entries,
        "rx_offloads_used": rx_offloads.0,
        "rx_offloads_unused": rx_offloads.1,
        "tx_offloads_used": tx_offloads.0,
        "tx_offloads_unused": tx_offloads.1,
    })
}

/// What [`json`] has, as one line.
pub fn sentence(driver: &Value) -> String {
    let number = |key: &str| driver[key].as_u64().unwrap_or(0);
    let list = |key: &str| {
        let names = driver[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        let names: Vec<&str> = names.collect();
        if names.is_empty() { "none".to_owned() } else { names.join(" ") }
    };
    let node = match driver["numa_node"].as_u64() {
        Some(node) => format!("NUMA node {node}"),
        None => "no NUMA node".to_owned(),
    };
    let rss = match driver["hashes_addresses"].as_bool() {
        Some(true) => format!(
            "RSS with a key of {} bytes and a table of {} entries",
            number("rss_key_bytes"),
            number("rss_table_entries")
        ),
        _ => "no RSS by addresses".to_owned(),
    };
    format!(
        "driver {}, {node}; receive queues {} of {}, transmit queues {} of {}; descriptors {} and \
         {}, {} asked for; {rss}; MTU {} to {}; receive offloads used: {}, not used: {}; transmit \
         offloads used: {}, not used: {}",
        driver["name"].as_str().unwrap_or("?"),
        number("rx_queues"),
        number("rx_queues_most"),
        number("tx_queues"),
        number("tx_queues_most"),
        number("rx_descriptors"),
        number("tx_descriptors"),
        number("descriptors_asked"),
        number("mtu_least"),
        number("mtu_most"),
        list("rx_offloads_used"),
        list("rx_offloads_unused"),
        list("tx_offloads_used"),
        list("tx_offloads_unused"),
    )
}

#[cfg(test)]
mod tests {
    use dpdk::RssAbilities;

    use super::*;

    #[test]
    fn the_line_has_what_the_driver_says() {
        let answers = Answers {
            driver: "net_ice".to_owned(),
            node: Some(1),
            rx_queues: (2, 64),
            tx_queues: (3, 65),
            descriptors: (512, 256),
            mtu: (68, 9702),
            rss: RssAbilities { key_bytes: 52, table_entries: 512, hashes_addresses: true },
            rx_offloads: (vec!["SCATTER".to_owned()], vec!["IPV4_CKSUM".to_owned()]),
            tx_offloads: (Vec::new(), vec!["MULTI_SEGS".to_owned(), "UDP_CKSUM".to_owned()]),
        };
        assert_eq!(
            sentence(&json(&answers)),
            "driver net_ice, NUMA node 1; receive queues 2 of 64, transmit queues 3 of 65; \
             descriptors 512 and 256, 1024 asked for; RSS with a key of 52 bytes and a table of 512 \
             entries; MTU 68 to 9702; receive offloads used: SCATTER, not used: IPV4_CKSUM; \
             transmit offloads used: none, not used: MULTI_SEGS UDP_CKSUM"
        );
        let rss = RssAbilities { key_bytes: 40, table_entries: 0, hashes_addresses: false };
        let plain = Answers { node: None, rss, ..answers };
        let line = sentence(&json(&plain));
        assert!(line.contains("net_ice, no NUMA node; "), "{line}");
        assert!(line.contains("; no RSS by addresses; "), "{line}");
    }
}
